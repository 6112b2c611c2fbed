"""Gates on opens: by what the master did and when, by how late it is, and by what holds at the moment of the order.

Every gate is one function of its settings and the facts, answering a refusal or nothing; a list of them is a check. Closes
and reductions are never asked.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from copier.facts import OrderFacts, margin_used_after
from copier.model import MasterPosition, Refused, Side, TradeMode
from copier.policy import (
    WEEKDAYS,
    CopyPolicy,
    ExistingMode,
    ExistingPolicy,
    FilterPolicy,
    ProtectionPolicy,
    TradingHours,
    WindowEnd,
    matches,
)
from copier.steps import plain

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_OPEN_SIDE = {TradeMode.LONG_ONLY: Side.BUY, TradeMode.SHORT_ONLY: Side.SELL}
_CLOCKS_DIFFER_MS = 60_000
"""Two clocks may differ by this; an open from further in the future has a wrong offset, not a young age."""

# What the master did ---------------------------------------------------------------------------------------------------


def check_side(policy: CopyPolicy, position: MasterPosition) -> Refused | None:
    """Refuse a side of the master that is not copied."""
    if policy.sides.has(position.side):
        return None
    text = f"the master's {position.side.value} is not copied, only {policy.sides.value}"
    return _no("side_not_copied", "copy.sides", text, side=position.side.value)


def check_filters(policy: FilterPolicy, position: MasterPosition, now_ms: int) -> Refused | None:
    """Return the first filter that keeps this open from being copied."""
    for gate in FILTERS:
        refused = gate(policy, position, now_ms)
        if refused:
            return refused
    return None


def hours_open(hours: TradingHours, now_ms: int) -> bool:
    """Return whether a window is open; by the zone's wall clock, so a doubled hour is inside or outside both times."""
    local = (_EPOCH + timedelta(milliseconds=now_ms)).astimezone(ZoneInfo(hours.zone))
    minute = local.hour * 60 + local.minute
    today, yesterday = WEEKDAYS[local.weekday()], WEEKDAYS[local.weekday() - 1]
    for window in hours.windows:
        if window.start < window.end:
            if today in window.days and window.start <= minute < window.end:
                return True
        elif (today in window.days and minute >= window.start) or (yesterday in window.days and minute < window.end):
            return True
    return False


def closes_at_end(policy: FilterPolicy) -> bool:
    """Return whether open copies are closed when a trading window ends."""
    return policy.hours is not None and policy.hours.at_end is WindowEnd.CLOSE


def hours_over(policy: FilterPolicy, now_ms: int) -> bool:
    """Return whether open copies should be closed because no trading window is open."""
    hours = policy.hours
    return hours is not None and hours.at_end is WindowEnd.CLOSE and not hours_open(hours, now_ms)


def _magic(policy: FilterPolicy, position: MasterPosition, _now_ms: int) -> Refused | None:
    if not policy.magics or any(each.first <= position.magic <= each.last for each in policy.magics):
        return None
    text = f"the master's magic number {position.magic} is not among those copied"
    return _no("magic_not_copied", "filters.magics", text, magic=str(position.magic))


def _comment(policy: FilterPolicy, position: MasterPosition, _now_ms: int) -> Refused | None:
    if policy.comment is None or matches(position.comment, policy.comment):
        return None
    text = f"the master's comment {position.comment!r} does not look like {policy.comment!r}"
    return _no("comment_not_copied", "filters.comment", text, comment=position.comment)


def _master_lots(policy: FilterPolicy, position: MasterPosition, _now_ms: int) -> Refused | None:
    lots, least, most = position.lots, policy.master_lots_min, policy.master_lots_max
    if least is not None and lots < least:
        text = f"the master's {plain(lots)} lots are under {plain(least)}"
        return _no("master_lots_below_min", "filters.master_lots_min", text, lots=plain(lots))
    if most is not None and lots > most:
        text = f"the master's {plain(lots)} lots are above {plain(most)}"
        return _no("master_lots_above_max", "filters.master_lots_max", text, lots=plain(lots))
    return None


def _must_have_stop(policy: FilterPolicy, position: MasterPosition, _now_ms: int) -> Refused | None:
    if not policy.must_have_stop or position.stop_loss:
        return None
    return _no("master_without_stop", "filters.must_have_stop", "the master's position has no stop")


def _hours(policy: FilterPolicy, _position: MasterPosition, now_ms: int) -> Refused | None:
    if policy.hours is None or hours_open(policy.hours, now_ms):
        return None
    local = (_EPOCH + timedelta(milliseconds=now_ms)).astimezone(ZoneInfo(policy.hours.zone))
    text = f"no trading window is open on {local:%A at %H:%M} in {policy.hours.zone}"
    return _no("outside_hours", "filters.hours", text, local=f"{local:%a %H:%M}")


FILTERS: tuple[Callable[[FilterPolicy, MasterPosition, int], Refused | None], ...] = (
    _magic,
    _comment,
    _master_lots,
    _must_have_stop,
    _hours,
)

# How late it is --------------------------------------------------------------------------------------------------------


def open_age_ms(open_time: datetime, server_offset_s: int | None, now_ms: int, observed_ms: int | None = None) -> int | None:
    """Return how long ago a position was opened, in milliseconds; None if nobody can tell.

    `open_time` is the master server's wall clock, `server_offset_s` that clock less UTC. `observed_ms` is how long ago the
    watcher saw the position appear between two good reads; where both are known the longer counts.
    """
    if server_offset_s is None:
        return observed_ms
    wall = open_time.replace(tzinfo=UTC) if open_time.tzinfo is None else open_time
    age = now_ms - (wall - _EPOCH) // _MS + server_offset_s * 1000
    if age < -_CLOCKS_DIFFER_MS:
        return observed_ms
    return max(age, observed_ms or 0, 0)


def check_late(policy: ProtectionPolicy, facts: OrderFacts) -> Refused | None:
    """Refuse an open that comes too late: by its age, or by how far the price has run."""
    return _age(policy, facts) or _slippage(policy, facts)


def check_existing(policy: ExistingPolicy, facts: OrderFacts) -> Refused | None:
    """Refuse a position from before the relation's start; asked in place of `check_late` for those."""
    if policy.mode is ExistingMode.COPY_ALL:
        return None
    if policy.mode is ExistingMode.SKIP or policy.age_s is None or policy.price_points is None:
        return _no("existing_skipped", "copy.existing", "the master had this position before the relation started")
    if facts.age_ms is None or facts.age_ms > policy.age_s * 1000:
        text = f"opened {_ago(facts.age_ms)}, before the relation started; {plain(policy.age_s)} s is the most"
        return _no("existing_too_old", "copy.existing.age_s", text, age_ms=str(facts.age_ms))
    away = _points_against(facts)
    if away is None or abs(away) > policy.price_points:
        text = f"the price is {_points(away)} from the master's, {plain(policy.price_points)} is the most"
        return _no("existing_too_far", "copy.existing.price_points", text, points=_points(away))
    return None


def _age(policy: ProtectionPolicy, facts: OrderFacts) -> Refused | None:
    if facts.age_ms is not None and facts.age_ms <= policy.open_age_max_s * 1000:
        return None
    text = f"the master opened {_ago(facts.age_ms)}, {plain(policy.open_age_max_s)} s is the most"
    return _no("open_too_old", "protection.open_age_max_s", text, age_ms=str(facts.age_ms))


def _slippage(policy: ProtectionPolicy, facts: OrderFacts) -> Refused | None:
    most = policy.slippage_points_max
    if most is None:
        return None
    against = _points_against(facts)
    if against is not None and against <= most:
        return None
    text = (
        f"{facts.symbol} at {plain(facts.price)} is {_points(against)} worse than the master's {plain(facts.master_price)}, "
        f"{plain(most)} is the most"
    )
    numbers = {"price": plain(facts.price), "master_price": plain(facts.master_price), "points": _points(against)}
    return _no("slippage_above_max", "protection.slippage_points_max", text, **numbers)


def _points_against(facts: OrderFacts) -> Decimal | None:
    point = facts.quote.spec.point
    if facts.master_price <= 0 or point <= 0:
        return None
    return (facts.price - facts.master_price) * facts.side.sign / point


# What holds at the order -----------------------------------------------------------------------------------------------


def check_order(policy: ProtectionPolicy, facts: OrderFacts) -> Refused | None:
    """Return the first thing at the moment of the order that speaks against sending it."""
    for gate in PROTECTIONS:
        refused = gate(policy, facts)
        if refused:
            return refused
    return None


def _trading_allowed(_policy: ProtectionPolicy, facts: OrderFacts) -> Refused | None:
    if facts.account.trade_allowed:
        return None
    why = facts.account.trade_blocker or "the login or the terminal does not permit it"
    return _no("trading_not_allowed", "account", f"trading is off at {facts.account.account}: {why}")


def _trade_mode(_policy: ProtectionPolicy, facts: OrderFacts) -> Refused | None:
    mode = facts.quote.spec.trade_mode
    if mode is TradeMode.FULL or _OPEN_SIDE.get(mode) is facts.side:
        return None
    text = f"{facts.symbol} cannot be opened as {facts.side.value} just now: it is {mode.value} at the broker"
    return _no("symbol_trade_mode", "symbols", text, trade_mode=mode.value)


def _quote_age(policy: ProtectionPolicy, facts: OrderFacts) -> Refused | None:
    if facts.quote_age_ms <= policy.quote_age_max_ms:
        return None
    text = f"the price of {facts.symbol} is {facts.quote_age_ms} ms old, {policy.quote_age_max_ms} ms is the most"
    return _no("quote_too_old", "protection.quote_age_max_ms", text, quote_age_ms=str(facts.quote_age_ms))


def _spread(policy: ProtectionPolicy, facts: OrderFacts) -> Refused | None:
    most, point = policy.spread_points_max, facts.quote.spec.point
    if most is None or (point > 0 and facts.quote.spread <= most * point):
        return None
    points = facts.quote.spread / point if point > 0 else None
    text = f"the spread of {facts.symbol} is {_points(points)}, {plain(most)} is the most"
    return _no("spread_above_max", "protection.spread_points_max", text, points=_points(points))


def _margin(policy: ProtectionPolicy, facts: OrderFacts) -> Refused | None:
    used = margin_used_after(facts, facts.lots)
    least = policy.margin_level_min
    if used is None:
        if least is None:
            return None
        text = f"the broker does not say what margin {facts.symbol} needs, so the margin level cannot be kept"
        return _no("margin_unknown", "protection.margin_level_min", text)
    account = facts.account
    needed, free = used - account.margin, account.free_margin
    if needed > free:
        asked = f"{plain(facts.lots)} lots of {facts.symbol} and orders on their way"
        text = f"{asked} need {plain(needed)} {account.currency} of margin, {plain(free)} is free"
        return _no("margin_insufficient", "protection", text, needed=plain(needed), free=plain(free))
    if least is None or account.equity * 100 >= least * used:
        return None
    level = plain(round(account.equity * 100 / used, 1))
    text = f"the margin level would be {level}%, {plain(least)}% is the least"
    return _no("margin_level_below_min", "protection.margin_level_min", text, level=level)


PROTECTIONS: tuple[Callable[[ProtectionPolicy, OrderFacts], Refused | None], ...] = (
    _trading_allowed,
    _trade_mode,
    _quote_age,
    _spread,
    _margin,
)


def _ago(age_ms: int | None) -> str:
    return "at a time nobody can tell" if age_ms is None else f"{plain(Decimal(age_ms) / 1000)} s ago"


def _points(points: Decimal | None) -> str:
    return "an unknown distance" if points is None else f"{plain(points)} points"


def _no(code: str, rule: str, message: str, **numbers: str) -> Refused:
    return Refused(code=code, rule=rule, message=message, numbers=numbers)
