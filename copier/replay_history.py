"""What a replay plays: an export's past as one sequence of openings, closings and payments, and the rules of its symbols."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from itertools import count

import msgspec

from copier.export_pairs import rebuild_positions
from copier.export_specs import InferredSpec, Valuation, infer_specs, smallest_coin
from copier.exports import BalanceOperation, Export, ExportDeal, ExportPosition, Problem
from copier.model import ZERO, DealEntry, DealType, Record, Side

_WHOLE_MONEY = {"JPY", "KRW", "CLP", "VND"}
"""Currencies without cents."""


class Opening(Record, frozen=True, kw_only=True):
    """The master opened a position."""

    time: datetime
    ticket: int
    symbol: str
    side: Side
    lots: Decimal
    price: Decimal


class Closing(Record, frozen=True, kw_only=True):
    """The master closed a position, or a part of it; the money is what was booked with it."""

    time: datetime
    ticket: int
    symbol: str
    side: Side
    """The position's."""
    lots: Decimal
    price: Decimal
    move: Decimal
    """How far the price went in the position's favour."""
    commission: Decimal
    swap: Decimal
    profit: Decimal


class Payment(Record, frozen=True, kw_only=True):
    """Money came or went that no trade made."""

    time: datetime
    type: DealType
    amount: Decimal
    comment: str


Action = Opening | Closing | Payment


class History(Record, frozen=True, kw_only=True):
    """An account's past, ready to be played."""

    actions: tuple[Action, ...]
    """In the order they happened."""
    positions: tuple[ExportPosition, ...]
    """What was closed, one row for each part: what a copy is compared with."""
    specs: dict[str, InferredSpec]
    balance: Decimal | None
    """Before the first action; None where the export holds no deals to tell."""
    currency: str
    """Empty where the export does not say."""
    money_digits: int
    problems: tuple[Problem, ...]
    caveats: tuple[str, ...]


def history_of(export: Export) -> History:
    """Put an export in order of time: positions as listed, or rebuilt from deals where only those are there.

    Raise `ValueError` where it holds no position at all.
    """
    caveats: list[str] = []
    rebuilt = rebuild_positions(export.deals) if export.deals else None
    positions = export.positions
    if not positions and rebuilt is not None:
        positions = rebuilt.positions
        caveats += rebuilt.notes
        if rebuilt.ambiguous or rebuilt.guessed:
            caveats.append(
                f"positions were rebuilt from deals: {rebuilt.decided} pairings are certain, {len(rebuilt.ambiguous)} closings "
                f"may belong to another opening with the same profit, {len(rebuilt.guessed)} are guessed"
            )
        if rebuilt.unmatched:
            caveats.append(f"{len(rebuilt.unmatched)} closings have no opening in the export and are left out")
    positions, unplayable = _playable(positions, export.file)
    if not positions:
        raise ValueError("expected closed positions or deals in the export, found none")
    still_open = _still_open(export.deals, positions, rebuilt.still_open if rebuilt else ())
    if still_open:
        caveats.append(f"{len(still_open)} positions are not closed in the export; they are opened and stay open")
    if stopped := sum(1 for position in positions if position.stop_loss or position.take_profit):
        caveats.append(
            f"{stopped} of {len(positions)} positions end with a stop or a target; an export tells only the last levels, so "
            "they are neither set nor copied, and closes happen as recorded"
        )
    specs = infer_specs(msgspec.structs.replace(export, positions=positions))
    caveats += [
        f"{symbol}: what a price move is worth is not the same for all its profits, so each close is valued as it was recorded"
        for symbol, spec in specs.items()
        if spec.valuation is Valuation.UNKNOWN
    ]
    openings = [*_openings(positions), *(deal for deal in still_open if deal.symbol in specs)]
    return History(
        actions=_in_order(export, openings, positions),
        positions=positions,
        specs=specs,
        balance=_balance_before(export.deals, export.balances),
        currency=export.account.currency if export.account else "",
        money_digits=_money_digits(export, positions),
        problems=(*export.problems, *unplayable),
        caveats=tuple(caveats),
    )


def _playable(positions: Iterable[ExportPosition], file: str) -> tuple[tuple[ExportPosition, ...], list[Problem]]:
    """Part the rows that can be played from those that contradict themselves or another."""
    good: list[ExportPosition] = []
    problems = []
    first: dict[int, ExportPosition] = {}
    for row in positions:
        same = first.get(row.position, row)
        if min(row.open_price, row.close_price) <= 0:
            reason = f"a price of {min(row.open_price, row.close_price)} cannot be played"
        elif (row.symbol, row.side, row.open_time, row.open_price) != (same.symbol, same.side, same.open_time, same.open_price):
            reason = "its ticket is that of another position"
        else:
            first[row.position] = same
            good.append(row)
            continue
        problems.append(Problem(file=file, line=row.row, reason=reason, raw=f"position {row.position}"))
    return tuple(good), problems


def _openings(positions: Iterable[ExportPosition]) -> list[Opening]:
    """Return one opening for every ticket: a position that was closed in parts was opened once."""
    parts: dict[int, list[ExportPosition]] = defaultdict(list)
    for position in positions:
        parts[position.position].append(position)
    return [
        Opening(
            time=rows[0].open_time,
            ticket=ticket,
            symbol=rows[0].symbol,
            side=rows[0].side,
            lots=sum((row.lots for row in rows), ZERO),
            price=rows[0].open_price,
        )
        for ticket, rows in parts.items()
    ]


def _still_open(deals: Iterable[ExportDeal], positions: Iterable[ExportPosition], tickets: Iterable[int]) -> list[Opening]:
    wanted = set(tickets) - {position.position for position in positions}
    return [
        Opening(time=d.time, ticket=d.order or d.deal, symbol=d.symbol, side=d.side, lots=d.lots, price=d.price)
        for d in deals
        if (d.order or d.deal) in wanted and d.entry is DealEntry.IN
    ]


def _closing(row: ExportPosition) -> Closing:
    return Closing(
        time=row.close_time,
        ticket=row.position,
        symbol=row.symbol,
        side=row.side,
        lots=row.lots,
        price=row.close_price,
        move=(row.close_price - row.open_price) * row.side.sign,
        commission=row.commission,
        swap=row.swap,
        profit=row.profit,
    )


def _payment(operation: BalanceOperation) -> Payment:
    match operation.kind:
        case "credit":
            type = DealType.CREDIT
        case "balance" | "so compensation":
            type = DealType.BALANCE
        case _:
            type = DealType.OTHER
    comment = operation.comment or operation.kind
    return Payment(time=operation.time, type=type, amount=operation.amount, comment=comment)


def _in_order(export: Export, openings: list[Opening], positions: Iterable[ExportPosition]) -> tuple[Action, ...]:
    """Order by time; within a second by deals where there are any, else closings before openings."""
    rows: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for deal in sorted(export.deals, key=lambda deal: -deal.row):
        rows[deal.time, deal.symbol, deal.side, deal.lots, deal.price].append(deal.row)
    opened = {opening.ticket: opening.time for opening in openings}
    number = count()
    keyed: list[tuple[tuple[object, ...], Action]] = []

    def put(action: Action, side: Side | None, rank: int, row: int | None) -> None:
        place = row
        if not isinstance(action, Payment):
            found = rows.get((action.time, action.symbol, side, action.lots, action.price))
            place = found.pop() if found else None
        keyed.append(((action.time, 0 if place is not None else 1, place or 0, rank, next(number)), action))

    for operation in export.balances:
        put(_payment(operation), None, 0, operation.row)
    for opening in openings:
        put(opening, opening.side, 2, None)
    for closing in (_closing(row) for row in positions):
        put(closing, closing.side.opposite, 3 if opened[closing.ticket] == closing.time else 1, None)
    keyed.sort(key=lambda each: each[0])
    return tuple(_opened_first([action for _, action in keyed]))


def _opened_first(actions: list[Action]) -> list[Action]:
    """Put off a closing that stands before its opening in the same second."""
    ordered: list[Action] = []
    seen: set[int] = set()
    early: list[Closing] = []
    for action in actions:
        if isinstance(action, Closing) and action.ticket not in seen:
            early.append(action)
            continue
        ordered.append(action)
        if isinstance(action, Opening):
            seen.add(action.ticket)
            ordered += [closing for closing in early if closing.ticket == action.ticket]
            early = [closing for closing in early if closing.ticket != action.ticket]
    return ordered


def _balance_before(deals: Iterable[ExportDeal], balances: Iterable[BalanceOperation]) -> Decimal | None:
    """Return the balance before the first deal that tells the balance after it; None where no deal does."""
    told: list[tuple[tuple[datetime, int], Decimal]] = [
        ((deal.time, deal.row), deal.balance - deal.profit - deal.swap - deal.commission - deal.fee)
        for deal in deals
        if deal.balance is not None
    ]
    told += [((one.time, one.row), one.balance - one.amount) for one in balances if one.balance is not None]
    return min(told)[1] if told else None


def _money_digits(export: Export, positions: Iterable[ExportPosition]) -> int:
    """Return how finely the account keeps its money: cents unless its profits are finer or its currency has none."""
    amounts = [row.profit for row in positions] + [one.amount for one in export.balances]
    exponent = smallest_coin(amounts).as_tuple().exponent
    digits = -exponent if isinstance(exponent, int) else 2
    return digits if export.account and export.account.currency in _WHOLE_MONEY else max(2, digits)
