"""What the master has, the follower has and the ledger says -> what must be believed, and what must be done.

Two pure steps, used after every order, every gap and every restart alike. `fold` brings a link's belief in line with a fresh read
of the follower; `repairs` names what is still missing for the follower to follow. On a consistent world both are empty.

A read may lag behind an answer by the gateway's settle time, so what contradicts an order on its way counts only once that order
can no longer land. Netting accounts show one position per symbol: there our part is the sum of our legs, the rest is foreign.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

import msgspec

from copier.link import Cut, Leg, LegState, Link, LinkState
from copier.model import ZERO, Deal, DealEntry, DealReason, DealType, MarginMode, Position, Record, Side, SymbolSpec
from copier.sizing import lots_to_close, reduce_target

replace = msgspec.structs.replace

_CLOCK_TOLERANCE_MS = 2_000
"""Server times are whole seconds, and the offset between the clocks is an estimate."""
LATE_MS = 60_000
"""A broker may sit on an order it took: what was opened so long after the order's end may still be that order."""

GAP_MAX_MS = 2_000
"""Two reads say nothing of more than so long between them: each list may have been wrong for reasons of its own."""


class Book(msgspec.Struct, kw_only=True):
    """A follower's account as one fresh read showed it."""

    mode: MarginMode
    positions: tuple[Position, ...]
    began_ms: int
    """When the read was asked for: what was answered before then it should show."""
    settle_ms: int
    late_ms: int = 0
    """How long after its not-after an order may still be executed."""

    def ticket(self, ticket: int) -> Position | None:
        """Return the position with this ticket."""
        return self._tickets.get(ticket)

    @property
    def _tickets(self) -> dict[int, Position]:
        return {position.ticket: position for position in self.positions}

    def net(self, symbol: str) -> Decimal:
        """Return a symbol's signed volume: on a netting account that of its one position."""
        return sum((p.lots * p.type.sign for p in self.positions if p.symbol == symbol), ZERO)

    def position_of(self, symbol: str) -> Position | None:
        """Return a netting account's position in a symbol."""
        return next((position for position in self.positions if position.symbol == symbol), None)

    def settled(self, landed_ms: int) -> bool:
        """Return whether this read surely shows what landed at that time at the latest."""
        return self.began_ms >= landed_ms + self.settle_ms

    def is_over(self, cut: Cut) -> bool:
        """Return whether a cut that this read does not show was surely not executed and is not executed later.

        One that closes all there is may be asked for again sooner: what lands late finds nothing to close.
        """
        late_ms = 0 if cut.answered or cut.whole else self.late_ms
        return self.settled(cut.landed_ms + late_ms)


class Unseen(NamedTuple):
    """In how many reads something was missed, and for how long that was watched."""

    last_ms: int
    watched_ms: int = 0
    reads: int = 1

    def again(self, now_ms: int) -> "Unseen":
        """Return what it is after one more read without it: what lies far between two reads nobody has watched."""
        return Unseen(now_ms, self.watched_ms + min(now_ms - self.last_ms, GAP_MAX_MS), self.reads + 1)


# Believing ---------------------------------------------------------------------------------------------------------------


class Missing(Record, frozen=True, kw_only=True):
    """A leg that is believed open is not in the read: to be confirmed before it is believed gone."""

    link: Link
    leg: Leg


class Absent(Record, frozen=True, kw_only=True):
    """An order of unknown outcome left no sign in a read that would show it by now."""

    link: Link
    leg: Leg


Finding = Missing | Absent


def fold(link: Link, book: Book, owned: dict[int, str]) -> tuple[Link, list[Finding]]:
    """Return the link as the read shows it, for accounts where every position has its own ticket.

    `owned` says which ticket belongs to which leg's tag, for all links of the follower: only what nobody owns is adopted.
    """
    findings: list[Finding] = []
    legs = list(link.legs)
    cut = link.cut
    for index, leg in enumerate(legs):
        position = _position_of(link, leg, cut, book, owned)
        if position is not None:
            owned[position.ticket] = leg.tag
            legs[index], cut = _seen(leg, position, cut, book)
        elif leg.state is LegState.OPEN:
            mine = cut if cut is not None and cut.tag == leg.tag else None
            if mine is not None and mine.lots_after == 0 and mine.answered and book.began_ms >= mine.landed_ms:
                legs[index], cut = replace(leg, state=LegState.CLOSED, lots=ZERO), None
            else:
                findings.append(Missing(link=link, leg=leg))
        elif leg.state is LegState.UNKNOWN and book.settled(leg.not_after_ms):
            findings.append(Absent(link=link, leg=leg))
    if tuple(legs) != link.legs or cut != link.cut:
        link = replace(link, legs=tuple(legs), cut=cut)
    return link, findings


def _position_of(link: Link, leg: Leg, cut: Cut | None, book: Book, owned: dict[int, str]) -> Position | None:
    def free(position: Position) -> bool:
        return owned.get(position.ticket, leg.tag) == leg.tag

    if leg.ticket:
        for position in book.positions:
            if position.ticket == leg.ticket or (position.identifier == (leg.identifier or leg.ticket) and free(position)):
                return position
        for position in book.positions:
            if position.parent == leg.ticket and free(position):
                return position
    for position in book.positions:
        if position.tag == leg.tag and free(position):
            return position
    if book.mode is MarginMode.MT4 and leg.ticket and cut is not None and cut.tag == leg.tag and cut.lots_after:
        rest = [p for p in book.positions if p.ticket not in owned and p.symbol == link.symbol and _is_rest(p, leg, cut)]
        if len(rest) == 1:
            return rest[0]
    return None


def _is_rest(position: Position, leg: Leg, cut: Cut) -> bool:
    return position.type is leg.side and position.lots == cut.lots_after and position.open_price == leg.price


def _seen(leg: Leg, position: Position, cut: Cut | None, book: Book) -> tuple[Leg, Cut | None]:
    """Return what to believe of a leg whose position is there, and what is left to wait for."""
    believed = replace(
        leg,
        state=LegState.OPEN,
        ticket=position.ticket,
        identifier=position.identifier or leg.identifier,
        price=leg.price or position.open_price,
        stop_loss=position.stop_loss,
        take_profit=position.take_profit,
    )
    if cut is not None and cut.tag == leg.tag:
        if position.lots == cut.lots_before and not book.is_over(cut):
            return replace(believed, lots=leg.lots), cut  # The list may simply be late.
        return replace(believed, lots=position.lots), None
    filled = max(leg.filled, position.lots)
    return replace(believed, filled=filled, lots=position.lots), cut


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
    leg, _ = _seen(lost.leg, found, None, book)
    return with_leg(lost.link, leg)


def _in_time(opened: datetime, leg: Leg, offset_s: int) -> bool:
    opened_ms = (opened.timestamp() - offset_s) * 1000
    return leg.sent_ms - _CLOCK_TOLERANCE_MS <= opened_ms <= leg.not_after_ms + LATE_MS


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
    leg, _ = _seen(fitting[0].leg, position, None, Book(mode=MarginMode.MT4, positions=(), began_ms=0, settle_ms=0))
    return with_leg(replace(fitting[0].link, cut=None), leg)


def untagged_deals(lost: Lost, orders: Sequence[Lost], deals: Iterable[Deal], magic: int, offset_s: int | None) -> list[Deal]:
    """Return the deal that opened a lost order, for brokers that strip tags: as many as there are orders that asked for just that.

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


def with_leg(link: Link, leg: Leg) -> Link:
    """Return the link with one leg replaced by its newer self."""
    return replace(link, legs=tuple(leg if old.tag == leg.tag else old for old in link.legs))


# Netting: one position per symbol -----------------------------------------------------------------------------------------


def ours(links: Iterable[Link], symbol: str) -> Decimal:
    """Return the signed volume that our legs hold in a symbol, by belief."""
    return sum(
        (leg.lots * leg.side.sign for link in links if link.symbol == symbol for leg in link.legs if leg.state is LegState.OPEN),
        ZERO,
    )


def fold_net(link: Link, book: Book) -> tuple[Link, list[Finding]]:
    """Return the link with its order or cut on its way settled by how the symbol's volume moved since it was sent.

    On a netting account a follower has one order on its way at a time, so the difference is that order's: in a read that surely
    shows all that was done before it. One that lags behind the order before would tell of that.
    """
    net = book.net(link.symbol)
    findings: list[Finding] = []
    for leg in link.legs:
        if leg.state not in (LegState.UNKNOWN, LegState.SENDING) or leg.net_before is None or not book.settled(leg.sent_ms):
            continue
        moved = (net - leg.net_before) * leg.side.sign
        if 0 < moved <= leg.asked:
            position = book.position_of(link.symbol)
            price = position.open_price if position is not None else leg.price
            ticket = position.ticket if position is not None else leg.ticket
            link = with_leg(link, replace(leg, state=LegState.OPEN, filled=moved, lots=moved, price=price, ticket=ticket))
        elif leg.state is LegState.UNKNOWN and book.settled(leg.not_after_ms):
            findings.append(Absent(link=link, leg=leg))
    cut = link.cut
    if cut is not None and cut.net_before is not None and book.settled(cut.sent_ms):
        leg = next(leg for leg in link.legs if leg.tag == cut.tag)
        moved = (cut.net_before - net) * leg.side.sign
        if moved > 0 and (moved <= cut.lots_before - cut.lots_after or book.is_over(cut)):
            # More than was asked for is another hand's beside ours: ours was at most what was asked for.
            left = max(cut.lots_before - moved, cut.lots_after)
            state = LegState.OPEN if left else LegState.CLOSED
            link = with_leg(replace(link, cut=None), replace(leg, lots=left, state=state))
        elif book.is_over(cut):
            link = replace(link, cut=None)
    return link, findings


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


def shrink_legs(links: Sequence[Link], symbol: str, theirs: Decimal) -> list[Link]:
    """Return the links whose legs must be believed smaller, oldest first, because another hand traded so much against them."""
    changed = []
    taken = abs(theirs)
    for link in links:
        before = link
        for leg in link.legs:
            against = leg.side.sign * theirs < 0
            if link.symbol != symbol or leg.state is not LegState.OPEN or not against or taken <= 0:
                continue
            gone = min(leg.lots, taken)
            taken -= gone
            left = leg.lots - gone
            link = with_leg(link, replace(leg, lots=left, state=LegState.OPEN if left else LegState.CLOSED))
        if link is not before:
            changed.append(link)
    return changed


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


# Doing ------------------------------------------------------------------------------------------------------------------


class CloseLeg(Record, frozen=True, kw_only=True):
    """Close all of a leg: the master has closed it."""

    leg: Leg


class ReduceLeg(Record, frozen=True, kw_only=True):
    """Bring a leg down to an absolute volume."""

    leg: Leg
    lots_after: Decimal


class SetLevels(Record, frozen=True, kw_only=True):
    """Set stop and target of a leg's position to the wanted values."""

    leg: Leg
    stop_loss: Decimal
    take_profit: Decimal


class OpenMore(Record, frozen=True, kw_only=True):
    """Plan an open: the position is new, or grew beyond what our legs answer for."""

    master_lots: Decimal
    """The master's volume to answer for."""


class LetGo(Record, frozen=True, kw_only=True):
    """Ask for nothing: the master has closed again what it added before it could be answered for."""


Repair = CloseLeg | ReduceLeg | SetLevels | OpenMore | LetGo


def repairs(link: Link, spec: SymbolSpec | None, mode: MarginMode) -> list[Repair]:
    """Return what is missing for this link to follow its master, by what is believed; empty where nothing is.

    While an order of this link is on its way only what cannot collide with it is named. Levels of a netting position belong to
    all its legs together: see `net_levels`.
    """
    open_legs = [leg for leg in link.legs if leg.state is LegState.OPEN]
    if not link.wanted_open:
        if link.cut is not None and link.cut.net_before is not None:
            return []  # How the symbol's volume moves must tell what became of the cut alone.
        return [CloseLeg(leg=leg) for leg in open_legs if not _is_being_closed(leg, link.cut)]
    found: list[Repair] = []
    if any(leg.state in (LegState.SENDING, LegState.UNKNOWN) for leg in link.legs):
        return found
    if link.cut is None and open_legs and spec is not None and spec.divides_lots:
        found += _reductions(link, open_legs, spec)
    if not found and mode is not MarginMode.NETTING:
        found += [
            SetLevels(leg=leg, stop_loss=link.stop_loss, take_profit=link.take_profit)
            for leg in open_legs
            if (leg.stop_loss, leg.take_profit) != (link.stop_loss, link.take_profit)
        ]
    if mode is MarginMode.NETTING and link.cut is not None:
        return found  # How the symbol's volume moves must tell what became of the cut alone.
    if link.state in (LinkState.PENDING, LinkState.COPIED) and link.growth > 0:
        wanted = link.position.lots - link.answered_for if link.anchor else link.position.lots
        found.append(OpenMore(master_lots=wanted) if wanted > 0 else LetGo())
    return found


def _is_being_closed(leg: Leg, cut: Cut | None) -> bool:
    """Return whether a leg must wait for a cut on its way; where it has a ticket of its own a part need not be waited for."""
    return cut is not None and cut.tag == leg.tag and cut.lots_after == 0


def target_lots(link: Link, spec: SymbolSpec) -> Decimal:
    """Return the volume our legs should hold together: absolute, and never more than was filled."""
    if not link.wanted_open or not link.anchor:
        return ZERO
    return reduce_target(link.filled, link.answered_for, link.master_opened, spec)


def _reductions(link: Link, open_legs: Sequence[Leg], spec: SymbolSpec) -> list[Repair]:
    excess = lots_to_close(link.lots, target_lots(link, spec), spec)
    if excess <= 0:
        return []
    for leg in open_legs:  # Oldest first, one at a time: the next is named once this one is seen to be done.
        if leg.lots <= excess:
            return [CloseLeg(leg=leg)]
        left = leg.lots - excess
        if left < spec.volume_min:
            excess, left = leg.lots - spec.volume_min, spec.volume_min
        if excess >= spec.volume_min:
            return [ReduceLeg(leg=leg, lots_after=left)]
    return []


def net_levels(links: Iterable[Link], symbol: str, side: Side) -> tuple[Decimal, Decimal]:
    """Return the one stop and target for a netting position that carries several legs: the farthest of each.

    The master's own levels close each leg through its event; the position's levels are the net below all of them, and
    must never close one leg at another's level. A leg without a level leaves the position without it.
    """
    wanted = [
        (link.stop_loss, link.take_profit)
        for link in links
        if link.symbol == symbol
        and link.wanted_open
        and any(leg.state is LegState.OPEN and leg.side is side for leg in link.legs)
    ]
    if not wanted:
        return ZERO, ZERO
    stops, targets = [stop for stop, _ in wanted], [target for _, target in wanted]
    farthest = (min, max) if side is Side.BUY else (max, min)
    return (farthest[0](stops) if all(stops) else ZERO), (farthest[1](targets) if all(targets) else ZERO)
