"""What a replay leaves: every follower's positions, receipts and money, the report, and a summary to look at."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import msgspec
from rich.markup import escape
from rich.table import Table

from copier.exports import ExportPosition, Problem
from copier.gateways.paper_account import PaperAccount
from copier.link import Link
from copier.model import ZERO, Deal, DealEntry, DealType, Receipt, Record, Side, Verdict
from copier.replay_history import History
from copier.report import (
    AccountReport,
    EquitySeries,
    LimitFired,
    PositionRow,
    Report,
    Tally,
    tally,
    worst_drawdown,
    write_equity_csv,
    write_positions_csv,
    write_receipts_jsonl,
    write_report,
)

REASONS_SHOWN = 3
TROUBLES_SHOWN = 5
MARKED_AT_TRADES = (
    "an export holds no prices between trades: equity, drawdown, floating losses and the limits on them are marked at the "
    "prices of the master's own opens and closes only, so a fall between two trades is not seen"
)
RULES_ASSUMED = (
    "a broker's rules are not in an export: the least volume and its step are those of the master's trades, margin is reckoned "
    "from contract, price and leverage, and fills are at the master's prices, unless an account's symbols.overrides say other"
)
SERVER_CLOCK = (
    "times are the trade server's wall clock taken as UTC, as an export names no zone: trading hours and daily resets in other "
    "zones are off by the server's distance from UTC"
)
COSTS_CARRIED = (
    "swap and commission of a copy are the master's by share of the volume, also for a reversed copy; a copy that did not "
    "close with the master has none"
)
_NOT_PLAIN = {Verdict.FAILED, Verdict.UNKNOWN, Verdict.ALERT, Verdict.ADOPTED}


class FollowerResult(Record, frozen=True, kw_only=True):
    """All that became of one follower."""

    name: str
    rows: tuple[PositionRow, ...]
    receipts: tuple[Receipt, ...]
    series: EquitySeries
    exact: int | None
    """How many of the master's positions it repeated: side, lots, times to the second and profit to the coin.

    None where the follower's rules are not to repeat them.
    """


class FollowerSummary(Record, frozen=True, kw_only=True):
    """One line of the summary."""

    name: str
    currency: str
    positions: int
    exact: int | None
    profit: Decimal
    drawdown: Decimal
    """The worst, in percent."""
    tally: Tally
    limits_fired: int
    unusual: int
    """Receipts of what a plain copy never needs: failures, unknown outcomes, repairs, alerts."""


class ReplaySummary(Record, frozen=True, kw_only=True):
    """What a replay came to."""

    positions: int
    profit: Decimal
    """The master's."""
    currency: str
    begin: datetime
    end: datetime
    followers: tuple[FollowerSummary, ...]
    problems: tuple[Problem, ...]
    """Lines of the export that were not read."""
    troubles: tuple[str, ...]
    files: tuple[Path, ...]


def follower_result(
    name: str,
    account: PaperAccount,
    links: Iterable[Link],
    receipts: Sequence[Receipt],
    series: EquitySeries,
    recorded: Sequence[ExportPosition] | None,
) -> FollowerResult:
    """Put together what the broker booked; `recorded` are the master's positions it was to repeat, if it was."""
    masters = {leg.tag: link.position.identifier for link in links for leg in link.legs}
    rows = tuple(_rows(account.deals, masters))
    exact = None if recorded is None else sum(_matches(rows, recorded).values())
    return FollowerResult(name=name, rows=rows, receipts=tuple(receipts), series=series, exact=exact)


def _matches(
    rows: Iterable[PositionRow], recorded: Iterable[ExportPosition]
) -> Counter[tuple[int, Side, Decimal, datetime, datetime, Decimal]]:
    ours = Counter(
        (row.master_ticket, row.side, row.lots, _second(row.open_time), _second(row.close_time), row.profit)
        for row in rows
        if row.close_time is not None
    )
    theirs = Counter(
        (row.position, row.side, row.lots, _second(row.open_time), _second(row.close_time), row.profit) for row in recorded
    )
    return ours & theirs


def _second(time: datetime) -> datetime:
    return time.replace(microsecond=0)


class _Held(msgspec.Struct, kw_only=True):
    """A position as its deals have made it so far."""

    master: int
    symbol: str
    side: Side
    lots: Decimal
    price: Decimal
    time: datetime
    commission: Decimal


def _rows(deals: Iterable[Deal], masters: Mapping[str, int]) -> list[PositionRow]:
    """Return one row for every closing deal, and one for what is still open; a position closed in parts has several."""
    held: dict[int, _Held] = {}
    rows = []
    for deal in deals:
        if deal.type not in (DealType.BUY, DealType.SELL):
            continue
        known = held.get(deal.position_id)
        side = Side.BUY if deal.type is DealType.BUY else Side.SELL
        if known is None:
            held[deal.position_id] = _opened(deal, side, deal.lots, masters)
        elif deal.entry is DealEntry.IN:
            total = known.lots + deal.lots
            known.price = (known.price * known.lots + deal.price * deal.lots) / total
            known.lots, known.commission = total, known.commission + deal.commission + deal.fee
        else:
            lots = min(deal.lots, known.lots)
            rows.append(_row(deal.position_id, known, lots, deal))
            known.lots -= lots
            if deal.entry is DealEntry.INOUT and deal.lots > lots:
                held[deal.position_id] = _opened(deal, side, deal.lots - lots, masters)
            elif not known.lots:
                del held[deal.position_id]
    return rows + [_row(ticket, known, known.lots, None) for ticket, known in held.items()]


def _opened(deal: Deal, side: Side, lots: Decimal, masters: Mapping[str, int]) -> _Held:
    whole = deal.entry is DealEntry.IN
    return _Held(
        master=masters.get(deal.tag, 0),
        symbol=deal.symbol,
        side=side,
        lots=lots,
        price=deal.price,
        time=deal.time,
        commission=deal.commission + deal.fee if whole else ZERO,
    )


def _row(ticket: int, held: _Held, lots: Decimal, closing: Deal | None) -> PositionRow:
    """Return a row for `lots` of what is held, with their share of what opening it cost."""
    share = held.commission * lots / held.lots
    held.commission -= share
    row = PositionRow(
        master_ticket=held.master,
        ticket=ticket,
        symbol=held.symbol,
        side=held.side,
        lots=lots,
        open_time=held.time,
        open_price=held.price,
        commission=share,
    )
    if closing is None:
        return row
    return msgspec.structs.replace(
        row,
        close_time=closing.time,
        close_price=closing.price,
        commission=share + closing.commission + closing.fee,
        swap=closing.swap,
        profit=closing.profit,
    )


def write_result(
    out: Path,
    title: str,
    history: History,
    master: EquitySeries,
    results: Sequence[FollowerResult],
    troubles: Sequence[str],
) -> ReplaySummary:
    """Write every follower's files and the report into `out`; raise `ReportError` where the page cannot be made."""
    files = []
    for result in results:
        folder = out / result.name
        folder.mkdir(parents=True, exist_ok=True)
        write_positions_csv(folder / "positions.csv", result.rows)
        write_receipts_jsonl(folder / "receipts.jsonl", result.receipts)
        write_equity_csv(folder / "equity.csv", [result.series])
        files += [folder / name for name in ("positions.csv", "receipts.jsonl", "equity.csv")]
    accounts = [AccountReport(series=result.series, tally=tally(result.receipts)) for result in results]
    points = master.points
    begin, end = points[0].time, points[-1].time
    report = Report(
        title=title,
        subtitle=f"{begin:%Y-%m-%d} to {end:%Y-%m-%d}",
        master=AccountReport(series=master),
        followers=tuple(accounts),
        limits=tuple(fired for result in results for fired in _fired(result)),
        clock="the recorded trade server, taken as UTC",
        caveats=(
            MARKED_AT_TRADES,
            RULES_ASSUMED,
            COSTS_CARRIED,
            SERVER_CLOCK,
            *history.caveats,
            *troubles,
            *(f"not read: {problem}" for problem in history.problems),
        ),
    )
    write_report(out / "report.html", report)
    return ReplaySummary(
        positions=len(history.positions),
        profit=report.master.profit,
        currency=master.currency,
        begin=begin,
        end=end,
        followers=tuple(_summary(result, account) for result, account in zip(results, accounts, strict=True)),
        problems=history.problems,
        troubles=tuple(troubles),
        files=(*files, out / "report.html"),
    )


def _summary(result: FollowerResult, account: AccountReport) -> FollowerSummary:
    return FollowerSummary(
        name=result.name,
        currency=result.series.currency,
        positions=len(result.rows),
        exact=result.exact,
        profit=account.profit,
        drawdown=worst_drawdown(result.series.points).percent,
        tally=account.tally,
        limits_fired=sum(1 for _ in _fired(result)),
        unusual=sum(1 for receipt in result.receipts if receipt.verdict in _NOT_PLAIN and receipt.event != "limit"),
    )


def _fired(result: FollowerResult) -> Iterable[LimitFired]:
    for receipt in result.receipts:
        if receipt.event == "limit" and receipt.code == "limit_fired":
            yield LimitFired(
                time=datetime.fromtimestamp(receipt.at_ms // 1000, UTC),
                account=result.name,
                limit=receipt.rule,
                happened=receipt.message,
                value=receipt.numbers.get("loss", ""),
                threshold=receipt.numbers.get("amount", ""),
            )


def summary_table(summary: ReplaySummary) -> Table:
    """Return the summary as a table for the terminal, what else is to be known below it."""
    master = f"{summary.positions:,} positions, {summary.profit:+,.2f} {summary.currency}".strip()
    table = Table(
        title=f"The master, {summary.begin:%Y-%m-%d} to {summary.end:%Y-%m-%d}: {master}",
        caption=escape("\n".join(_caption(summary))),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("Follower")
    for heading in ("Trades", "Profit", "Deepest fall", "Resized", "Not copied", "Limits fired"):
        table.add_column(heading, justify="right")
    for each in summary.followers:
        counts = each.tally
        table.add_row(
            each.name,
            f"{each.positions:,}",
            f"{each.profit:+,.2f}",
            f"{each.drawdown:,.1f}%",
            f"{counts.resized:,}",
            f"{counts.skipped + counts.failed:,}",
            f"{each.limits_fired:,}",
        )
    return table


def _caption(summary: ReplaySummary) -> Iterable[str]:
    for each in summary.followers:
        if each.exact is not None:
            yield (f"{each.name}: {each.exact:,} of {summary.positions:,} are the master's to the lot, the second and the cent")
        if each.tally.reasons:
            reasons = ", ".join(f"{reason.code} {reason.count:,}" for reason in each.tally.reasons[:REASONS_SHOWN])
            yield f"{each.name}, not copied: {reasons}"
        if each.unusual:
            yield f"{each.name}: {each.unusual:,} receipts tell of failures, repairs or alerts"
    if summary.problems:
        yield f"{len(summary.problems):,} lines of the export were not read; the first: {summary.problems[0]}"
    yield from summary.troubles[:TROUBLES_SHOWN]
    yield f"Report: {summary.files[-1]}"
