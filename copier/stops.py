"""A master's stop and target -> the follower's levels, on the follower's ticks and outside the broker's stops level.

Levels are rounded towards the price: rounding alone never makes a stop cost more, nor a target harder to reach. Only the
broker's stops level moves a level away, and that leaves a note.

Reversed, the master's stop becomes the follower's target and its target the stop, by signed distance from the fill. A buy's
levels trigger on the bid and a sell's on the ask, so the level of the reversed side is shifted by one spread: up for a
sell, down for a buy. Without a spread, reversing twice gives the master's own levels.
"""

from decimal import Decimal
from typing import assert_never

from copier.model import ZERO, Quote, Record, Refused, Side
from copier.policy import CopyPolicy, LevelMode, LevelPolicy
from copier.steps import ceil_to, floor_to, plain


class LevelFacts(Record, frozen=True, kw_only=True):
    """What a follower's levels are computed from."""

    side: Side
    """The follower's side."""
    fill: Decimal
    """The follower's own fill, or the one expected before the order is sent."""
    master_fill: Decimal
    """The master's open price."""
    master_stop: Decimal = ZERO
    master_target: Decimal = ZERO
    quote: Quote
    """The follower's price now, with the symbol's rules."""


class Levels(Record, frozen=True, kw_only=True):
    """A follower's stop and target; 0 is none."""

    stop: Decimal = ZERO
    target: Decimal = ZERO
    notes: tuple[str, ...] = ()
    """Where the broker's stops level moved a level, in a trader's words."""


def levels_to_open(policy: CopyPolicy, facts: LevelFacts) -> Levels | Refused:
    """Return the levels of an open at the expected fill, or a refusal where the price is already beyond one of them."""
    stop, target = _wanted(policy, facts)
    if stop and (facts.fill - stop) * facts.side.sign <= 0:
        return _passed("stop", stop, facts)
    if target and (target - facts.fill) * facts.side.sign <= 0:
        return _passed("target", target, facts)
    return _placed(stop, target, facts)


def levels_to_set(policy: CopyPolicy, facts: LevelFacts) -> Levels:
    """Return the levels an open position should have; one the price has passed is put as near to it as the broker takes it."""
    stop, target = _wanted(policy, facts)
    return _placed(stop, target, facts)


def _wanted(policy: CopyPolicy, facts: LevelFacts) -> tuple[Decimal, Decimal]:
    stop, target = facts.master_stop, facts.master_target
    shift = ZERO
    if policy.reverse:
        stop, target = target, stop
        shift = -facts.side.sign * facts.quote.spread
    away = facts.side.sign
    return _level(policy.stops, stop, shift, -away, facts), _level(policy.targets, target, shift, away, facts)


def _level(policy: LevelPolicy, master: Decimal, shift: Decimal, away: int, facts: LevelFacts) -> Decimal:
    """Return the exact level; `away` is +1 where this level lies above the price, -1 where it lies below."""
    point = facts.quote.spec.point
    match policy.mode:
        case LevelMode.DISTANCE if master:
            level = facts.fill + (master - facts.master_fill) + shift
        case LevelMode.COPY if master:
            level = master + shift
        case LevelMode.FIXED:
            level = facts.fill + away * (policy.points or ZERO) * point
        case LevelMode.DISTANCE | LevelMode.COPY | LevelMode.NONE:
            return ZERO
        case _:
            assert_never(policy.mode)
    return level + away * policy.offset_points * point


def _placed(stop: Decimal, target: Decimal, facts: LevelFacts) -> Levels:
    notes: list[str] = []
    away = facts.side.sign
    stop = _onto_broker("stop", stop, -away, facts, notes)
    target = _onto_broker("target", target, away, facts, notes)
    return Levels(stop=stop, target=target, notes=tuple(notes))


def _onto_broker(what: str, level: Decimal, away: int, facts: LevelFacts, notes: list[str]) -> Decimal:
    if not level:
        return ZERO
    spec = facts.quote.spec
    tick = spec.tick_size if spec.tick_size > ZERO else spec.point
    # The broker measures from the side that closes the position, and takes no level at the price itself.
    price, room = facts.quote.price_to_close(facts.side), max(spec.stops_level * spec.point, tick)
    if away > 0:
        rounded, nearest = floor_to(level, tick), ceil_to(price + room, tick)
        too_near = rounded < nearest
    else:
        rounded, nearest = ceil_to(level, tick), floor_to(price - room, tick)
        too_near = rounded > nearest
    if too_near:
        notes.append(
            f"{what} moved from {plain(rounded)} to {plain(nearest)}: the broker takes none nearer to {plain(price)} "
            f"(stops level {spec.stops_level} points)"
        )
        rounded = nearest
    return max(rounded, tick)


def _passed(what: str, level: Decimal, facts: LevelFacts) -> Refused:
    return Refused(
        code=f"{what}_passed",
        rule="copy.stops" if what == "stop" else "copy.targets",
        message=f"{facts.quote.symbol} at {plain(facts.fill)} is already beyond the {what} {plain(level)}",
        numbers={"price": plain(facts.fill), what: plain(level)},
    )
