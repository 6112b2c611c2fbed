"""Whose a position, a deal or a move of a symbol's volume is, where no tag says so.

Told by what was asked for and when, and only where it can be nothing else: an order whose outcome nobody told, what another hand
has left of a copy, what it has closed.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from copier.link import Leg, LegState, Link
from copier.model import ZERO, Deal, DealEntry, DealReason, DealType, MarginMode, Position, Record, Side
from copier.reconcile import Book, seen, with_leg

replace = msgspec.structs.replace

_CLOCK_TOLERANCE_MS = 2_000
"""Server times are whole seconds, and the offset between the clocks is an estimate."""
LATE_MS = 60_000
"""A broker may sit on an order it took: what was opened so long after the order's end may still be that order."""


class Lost(Record, frozen=True, kw_only=True):
    """An order whose outcome nobody told, and of which no sign was found in time."""

    link: Link
    leg: Leg


def adopt(lost: Lost, rivals: Sequence[Lost], book: Book, owned: dict[int, str], magic: int, offset_s: int | None) -> Link | None:
    """Return the link with a lost order's position adopted, where it can be only this one.

    For brokers that strip tags: a position that no link owns and that fits by symbol, side, volume, time and our magic (or,
    while the broker may have dropped that too, by the exact volume). Of several lost orders each gets the one that is its turn,
    if there are as many; where none of them is wanted any more it does not matter whose it is. `rivals` are all lost orders
    of this magic, `offset_s` is the server's clock less UTC.
    """
    free = [position for position in book.positions if position.ticket not in owned and not position.tag]

    def fits(position: Position, each: Lost) -> bool:
        return position.symbol == each.link.symbol and _could_be(position, each.leg, magic, offset_s)

    group = sorted((p for p in free if any(fits(p, each) for each in rivals)), key=lambda p: p.ticket)
    group = [p for p in group if p.symbol == lost.link.symbol and p.type is lost.leg.side]
    others = sorted((each for each in rivals if any(fits(p, each) for p in group)), key=lambda each: each.leg.sent_ms)
    group, others = _of_one_volume(lost.leg, group, others)
    mine = next((index for index, each in enumerate(others) if each.leg.tag == lost.leg.tag), None)
    if mine is None:
        return None
    if len(group) == len(others) and all(fits(p, each) for p, each in zip(group, others, strict=True)):
        found = group[mine]
    elif not any(each.link.wanted_open for each in others):
        mine_only = [
            p
            for p in group
            if fits(p, lost) and (p.lots == lost.leg.asked or not any(p.lots == e.leg.asked and fits(p, e) for e in others))
        ]
        if not mine_only:
            return None  # Another order asked for just this volume.
        found = mine_only[0]
    else:
        return None
    owned[found.ticket] = lost.leg.tag
    leg, _ = seen(lost.leg, found, None, book)
    return with_leg(lost.link, leg)


def _of_one_volume(leg: Leg, group: list[Position], rivals: list[Lost]) -> tuple[list[Position], list[Lost]]:
    """Return the positions and orders a leg is to be told apart among: a volume that was asked for just so names its orders."""
    if any(position.lots == leg.asked for position in group):
        return [p for p in group if p.lots == leg.asked], [each for each in rivals if each.leg.asked == leg.asked]
    exact = {position.lots for position in group} & {each.leg.asked for each in rivals}
    return [p for p in group if p.lots not in exact], [each for each in rivals if each.leg.asked not in exact]


def _could_be(position: Position, leg: Leg, magic: int, offset_s: int | None) -> bool:
    if position.type is not leg.side or position.lots > leg.asked:
        return False
    fresh = leg.state is not LegState.FAILED
    if offset_s is None:
        return fresh and position.magic == magic
    if not _in_time(position.open_time, leg, offset_s):
        return False
    return position.magic == magic or (fresh and position.magic == 0 and position.lots == leg.asked)


def _in_time(opened: datetime, leg: Leg, offset_s: int) -> bool:
    opened_ms = (opened.timestamp() - offset_s) * 1000
    return leg.sent_ms - _CLOCK_TOLERANCE_MS <= opened_ms <= leg.not_after_ms + LATE_MS


def split_from(position: Position, legs: Iterable[Lost], magic: int, offset_s: int | None) -> Link | None:
    """Return the link whose leg an MT4 position nobody owns is the rest of, where it can be only one; it has that leg again.

    For one that was closed in part more than once between two reads: its comment names a ticket that was never seen. It is
    told by what a split keeps: symbol, side, price, time and magic. `legs` are those whose ticket is not in the list.
    """
    if not position.parent or position.magic != magic or offset_s is None:
        return None
    fitting = [
        each
        for each in legs
        if each.link.symbol == position.symbol
        and each.leg.price == position.open_price
        and each.leg.ticket < position.parent
        and position.lots < each.leg.filled
        and _could_be(position, each.leg, magic, offset_s)
    ]
    fitting = [each for each in fitting if each.leg.state is LegState.OPEN] or fitting
    if len(fitting) != 1:
        return None
    leg, _ = seen(fitting[0].leg, position, None, Book(mode=MarginMode.MT4, positions=(), began_ms=0, settle_ms=0))
    return with_leg(replace(fitting[0].link, cut=None), leg)


def untagged_deals(lost: Lost, orders: Sequence[Lost], deals: Iterable[Deal], magic: int, offset_s: int | None) -> list[Deal]:
    """Return the deal that opened a lost order, where brokers strip tags: as many as there are orders that asked for just that.

    `orders` are all our opening orders of this magic, whatever became of them.
    """
    if offset_s is None:
        return []
    opens = DealType.BUY if lost.leg.side is Side.BUY else DealType.SELL
    kind = [each for each in orders if (each.link.symbol, each.leg.side, each.leg.asked) == _kind(lost)]
    kind.sort(key=lambda each: each.leg.sent_ms)
    alike = [
        deal
        for deal in sorted(deals, key=lambda deal: deal.ticket)
        if (deal.symbol, deal.type, deal.lots) == (lost.link.symbol, opens, lost.leg.asked)
        and deal.magic == magic
        and not deal.tag
        and deal.entry in (DealEntry.IN, DealEntry.INOUT)
        and any(_in_time(deal.time, each.leg, offset_s) for each in kind)
    ]
    could = [each for each in kind if any(_in_time(deal.time, each.leg, offset_s) for deal in alike)]
    if len(alike) != len(could) or not all(_in_time(d.time, e.leg, offset_s) for d, e in zip(alike, could, strict=True)):
        return []
    return [deal for deal, each in zip(alike, could, strict=True) if each.leg.tag == lost.leg.tag]


def _kind(order: Lost) -> tuple[str, Side, Decimal]:
    return order.link.symbol, order.leg.side, order.leg.asked


def taken_by_deals(leg: Leg, deals: Iterable[Deal], lots: Decimal, offset_s: int | None) -> Deal | None:
    """Return the last deal by which another hand, or a stop, has closed just so much of what a leg was filled into."""
    closes = DealType.SELL if leg.side is Side.BUY else DealType.BUY
    since_ms = leg.sent_ms + (offset_s or 0) * 1000 - _CLOCK_TOLERANCE_MS
    theirs = [
        deal
        for deal in deals
        if deal.type is closes
        and deal.entry is not DealEntry.IN
        and deal.reason is not DealReason.EXPERT
        and deal.time.timestamp() * 1000 >= since_ms
    ]
    return theirs[-1] if theirs and lots in (theirs[-1].lots, sum((deal.lots for deal in theirs), ZERO)) else None


# Netting: one position per symbol ---------------------------------------------------------------------------------------


def could_have_moved(lost: Sequence[tuple[Link, Leg]], moved: Decimal, began_ms: int) -> list[tuple[Link, Leg]]:
    """Return which of the orders that were given up a netting symbol's move can be, where no deal tells: by the exact volume.

    It is one of them, one that is not wanted any more before others, or all of them together.
    """
    late = [each for each in lost if began_ms <= each[1].not_after_ms + LATE_MS]
    late.sort(key=lambda each: (each[0].wanted_open, each[1].sent_ms))
    for group in (*([each] for each in late), late):
        if group and sum((leg.asked * leg.side.sign for _, leg in group), ZERO) == moved:
            return group
    return []


def late_beside(link: Link, lost: Sequence[tuple[Link, Leg]], book: Book) -> tuple[list[tuple[Link, Leg]], Link]:
    """Return which given-up orders moved a netting symbol beside this link's order on its way, and the link without that.

    A move that is not what the order on its way asked for, and is just what was given up, is theirs.
    """
    legs = [leg for leg in link.legs if leg.state is LegState.UNKNOWN and leg.net_before is not None]
    cut = link.cut if link.cut is not None and link.cut.net_before is not None else None
    if len(legs) + (cut is not None) != 1:
        return [], link
    leg = legs[0] if legs else next(each for each in link.legs if cut is not None and each.tag == cut.tag)
    asked = leg.asked if cut is None else cut.lots_after - cut.lots_before
    before = (leg if cut is None else cut).net_before or ZERO
    sent_ms = leg.sent_ms if cut is None else cut.sent_ms
    moved = book.net(link.symbol) - before
    if not moved or moved == asked * leg.side.sign or not book.settled(sent_ms):
        return [], link
    came = could_have_moved(lost, moved, book.began_ms)
    if not came:
        return [], link
    if cut is not None:
        return came, replace(link, cut=replace(cut, net_before=before + moved))
    return came, with_leg(link, replace(leg, net_before=before + moved))
