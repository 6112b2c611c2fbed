"""What the master has, the follower has and the ledger says -> what must be believed, and what must be done.

Two pure steps, used after every order, every gap and every restart alike. `fold` brings a link's belief in line with a fresh read
of the follower; `repairs` names what is still missing for the follower to follow. On a consistent world both are empty.

A read may lag behind an answer by the gateway's settle time, so what contradicts an order on its way counts only once that order
can no longer land. Netting accounts show one position per symbol: there our part is the sum of our legs, the rest is foreign.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import cached_property
from typing import NamedTuple

import msgspec

from copier.link import Cut, Leg, LegState, Link, LinkState
from copier.model import ZERO, MarginMode, Position, Record, Side, SymbolSpec
from copier.sizing import lots_to_close, reduce_target

replace = msgspec.structs.replace

GAP_MAX_MS = 2_000
"""Two reads say nothing of more than so long between them: each list may have been wrong for reasons of its own."""


class Book(msgspec.Struct, kw_only=True, dict=True):
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

    @cached_property
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
            legs[index], cut = seen(leg, position, cut, book)
        elif leg.state is LegState.OPEN:
            mine = cut if cut is not None and cut.tag == leg.tag else None
            split = mine is not None and mine.unfound and book.mode is MarginMode.MT4
            if mine is not None and not split and mine.lots_after == 0 and mine.answered and book.began_ms >= mine.landed_ms:
                legs[index], cut = replace(leg, state=LegState.CLOSED, lots=ZERO), None
            else:
                findings.append(Missing(link=link, leg=leg))
        elif leg.state is LegState.UNKNOWN and book.settled(leg.not_after_ms):
            findings.append(Absent(link=link, leg=leg))
    if tuple(legs) != link.legs or cut != link.cut:
        link = replace(link, legs=tuple(legs), cut=cut)
    return link, findings


def shown_as_believed(link: Link, book: Book) -> bool:
    """Return whether a read shows just what is believed of all that was ever sent for a link: then there is nothing to fold."""
    for leg in link.legs:
        position = book.ticket(leg.ticket)
        if position is None or not _as_believed(leg, position):
            return False
    return True


def _position_of(link: Link, leg: Leg, cut: Cut | None, book: Book, owned: dict[int, str]) -> Position | None:
    def free(position: Position) -> bool:
        return owned.get(position.ticket, leg.tag) == leg.tag

    if leg.ticket:
        listed = book.ticket(leg.ticket)
        if listed is not None:
            return listed
        for position in book.positions:
            if position.identifier == (leg.identifier or leg.ticket) and free(position):
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


def seen(leg: Leg, position: Position, cut: Cut | None, book: Book) -> tuple[Leg, Cut | None]:
    """Return what to believe of a leg whose position is there, and what is left to wait for."""
    if (cut is None or cut.tag != leg.tag) and _as_believed(leg, position):
        return leg, cut
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


def _as_believed(leg: Leg, position: Position) -> bool:
    """Return whether a position is just what is believed of its leg, as most are in most reads."""
    same = leg.state is LegState.OPEN and leg.ticket == position.ticket and leg.identifier == position.identifier
    levels = leg.stop_loss == position.stop_loss and leg.take_profit == position.take_profit
    return same and levels and leg.lots == position.lots <= leg.filled and leg.price != 0


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
