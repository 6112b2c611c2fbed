"""Two reads of a master -> events: what changed between what was confirmed and what is there now.

A position is known by its identifier. On MT4, where a partial close gives the rest a new ticket, a ticket that is gone
and a new one split from it are one position: by the parent that the comment names, else by symbol, side, magic, open time and
open price, which a split keeps.
"""

from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from typing import Any, assert_never

import msgspec

from copier.model import (
    ZERO,
    Change,
    Closed,
    Event,
    MarginMode,
    MasterPosition,
    Modified,
    Opened,
    Position,
    Record,
    Reduced,
    Reversed,
    ScaledIn,
    Side,
    Snapshot,
)

GONE_KEPT = 1_000
"""Generations of so many positions that are gone are remembered; an account's tickets are not reused, so few are needed."""


class View(Record, frozen=True, kw_only=True):
    """What a watcher has confirmed about its master: everything it publishes comes from here."""

    open: dict[int, MasterPosition] = {}
    """By identifier."""
    gone: dict[int, int] = {}
    """Identifier -> last generation, of positions that are no more, oldest first."""
    account: str = ""
    """Whose positions these are, as login@server; empty until that is known."""
    told: str = ""
    """The id of the last entry that had been put into the stream when this was kept."""


class Matching(Record, frozen=True, kw_only=True):
    """How a read fits a view."""

    pairs: tuple[tuple[MasterPosition, Position], ...]
    fresh: tuple[Position, ...]
    missing: tuple[MasterPosition, ...]


def match(view: View, positions: Iterable[Position], mode: MarginMode) -> Matching:
    """Tell which positions of a read are known, which are new, and which known ones are not in it."""
    if mode is not MarginMode.MT4:
        found = {position.identifier: position for position in positions}
        return Matching(
            pairs=tuple((known, found[key]) for key, known in sorted(view.open.items()) if key in found),
            fresh=tuple(position for key, position in sorted(found.items()) if key not in view.open),
            missing=tuple(known for key, known in sorted(view.open.items()) if key not in found),
        )
    return _match_tickets(view, list(positions))


def _match_tickets(view: View, positions: list[Position]) -> Matching:
    by_ticket = {known.ticket: known for known in view.open.values()}
    found = {position.ticket: position for position in positions}
    pairs = [(known, found[ticket]) for ticket, known in by_ticket.items() if ticket in found]
    missing = sorted((known for ticket, known in by_ticket.items() if ticket not in found), key=lambda known: known.ticket)
    # The list shows both halves of a split for a moment: the second is no news until the first is gone.
    news = sorted((p for p in positions if p.ticket not in by_ticket and p.parent not in found), key=lambda p: p.ticket)
    fresh = []
    for position in sorted(news, key=lambda p: p.parent not in by_ticket):  # Those whose comment names a parent choose first.
        known = _split_from(position, missing)
        if known is None:
            fresh.append(position)
        else:
            missing.remove(known)
            pairs.append((known, position))
    fresh.sort(key=lambda position: position.ticket)
    return Matching(pairs=tuple(sorted(pairs, key=lambda pair: pair[0].identifier)), fresh=tuple(fresh), missing=tuple(missing))


def _split_from(position: Position, missing: Sequence[MasterPosition]) -> MasterPosition | None:
    for known in missing:
        if known.ticket == position.parent:
            return known
    for known in missing:
        if position.lots < known.lots and _same_origin(known, position):
            return known
    return None


def _same_origin(known: MasterPosition, position: Position) -> bool:
    return (
        known.symbol == position.symbol
        and known.side is position.type
        and known.magic == position.magic
        and known.open_time == position.open_time
        and known.open_price == position.open_price
    )


def diff(
    view: View,
    positions: Iterable[Position],
    mode: MarginMode,
    change: Change,
    *,
    gone: Collection[int] | None = None,
    absent_ms: int = 0,
) -> list[Event]:
    """Return what happened since `view`, as events that carry `change`'s master, read and time.

    Of the positions that are not in the read only those whose identifier is in `gone` are closed (None: all of them); the others
    still stand. `absent_ms` is when the read that `view` was confirmed by was taken.
    """
    matching = match(view, positions, mode)
    stamp: dict[str, Any] = {"master": change.master, "read": change.read, "read_ms": change.read_ms}
    events: list[Event] = []
    for known in matching.missing:
        if gone is None or known.identifier in gone:
            events.append(Closed(position=known, **stamp))
    for known, position in matching.pairs:
        events += _changes(known, position, stamp, absent_ms)
    for position in matching.fresh:
        identifier = position.ticket if mode is MarginMode.MT4 else position.identifier
        generation = view.gone.get(identifier, 0) + 1
        if mode is MarginMode.NETTING and generation % 2 != (position.type is Side.BUY):
            generation += 1  # Odd is long: a position that turned while nobody watched never passes for what it was before.
        opened = _confirmed(position, identifier, generation, position.lots)
        events.append(Opened(position=opened, absent_ms=absent_ms, **stamp))
    return events


def _confirmed(position: Position, identifier: int, generation: int, lots_opened: Decimal) -> MasterPosition:
    return MasterPosition(
        identifier=identifier,
        generation=generation,
        ticket=position.ticket,
        symbol=position.symbol,
        side=position.type,
        lots=position.lots,
        lots_opened=lots_opened,
        open_price=position.open_price,
        stop_loss=position.stop_loss,
        take_profit=position.take_profit,
        open_time=position.open_time,
        magic=position.magic,
        comment=position.comment,
    )


def _changes(known: MasterPosition, position: Position, stamp: dict[str, Any], absent_ms: int) -> list[Event]:
    if position.type is not known.side:
        flipped = _confirmed(position, known.identifier, known.generation + 1, position.lots)
        return [Reversed(closed=known, position=flipped, absent_ms=absent_ms, **stamp)]
    events: list[Event] = []
    added = position.lots - known.lots
    now = _confirmed(position, known.identifier, known.generation, known.lots_opened + max(added, ZERO))
    same_levels = msgspec.structs.replace(now, stop_loss=known.stop_loss, take_profit=known.take_profit)
    if added > 0:
        price = (position.open_price * position.lots - known.open_price * known.lots) / added
        events.append(ScaledIn(position=same_levels, added=added, price=price, absent_ms=absent_ms, **stamp))
    elif added < 0:
        events.append(Reduced(position=same_levels, **stamp))
    if (same_levels if events else known) != now:
        events.append(Modified(position=now, **stamp))
    return events


def apply(view: View, event: Event) -> View:
    """Return the view after an event; applying all of `diff(a, b)` to a view of `a` gives a view of `b`."""
    match event:
        case Opened() | ScaledIn() | Reduced() | Modified() | Reversed():
            position = event.position
            gone = {key: value for key, value in view.gone.items() if key != position.identifier}
            return msgspec.structs.replace(view, open={**view.open, position.identifier: position}, gone=gone)
        case Closed():
            identifier = event.position.identifier
            still = {key: value for key, value in view.open.items() if key != identifier}
            gone = {**view.gone, identifier: event.position.generation}
            return msgspec.structs.replace(view, open=still, gone=dict(list(gone.items())[-GONE_KEPT:]))
        case Snapshot():
            return msgspec.structs.replace(view, open={position.identifier: position for position in event.positions})
        case _:
            assert_never(event)
