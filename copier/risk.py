"""How much may be at risk: one small function per rule, each asked about one open before it is sent.

A rule answers nothing (it is content), `Room` (so many lots would do), or `Refused` (no volume would). Orders on their way
and positions of other hands count as open. Nothing here is ever asked about a close or a reduction.
"""

from collections.abc import Callable
from decimal import Decimal

import msgspec

from copier.facts import LossRoom, OrderFacts, Scope, Sums, currencies, margin_used_after, notional, valued
from copier.model import ZERO, Record, Refused, SymbolSpec
from copier.policy import AboveLimit, Limit, Metric, RiskPolicy, WorstCasePolicy, matches
from copier.steps import ceil_to, floor_to, plain

_HUNDRED = Decimal(100)


class Room(Record, frozen=True, kw_only=True):
    """A limit would be exceeded: the lots that still fit, and the refusal where they must not be shrunk to."""

    lots: Decimal
    refused: Refused


class Allowed(Record, frozen=True, kw_only=True):
    """No rule speaks against these lots."""

    lots: Decimal
    notes: tuple[str, ...] = ()
    """Why they are fewer than were asked for."""


Answer = Room | Refused | None


def check_risk(policy: RiskPolicy, scope: Scope, facts: OrderFacts) -> Allowed | Refused:
    """Return the lots every rule allows, on the step, or the first refusal."""
    notes: tuple[str, ...] = ()
    for limit in policy.limits:
        answer = RULES[limit](policy, scope, facts)
        if answer is None:
            continue
        if isinstance(answer, Refused):
            return answer
        spec = facts.quote.spec
        lots = floor_to(answer.lots, spec.volume_step) if answer.lots > 0 else ZERO
        if policy.above is AboveLimit.REFUSE or lots < spec.volume_min:
            return answer.refused
        notes = (*notes, f"shrunk from {plain(facts.lots)} to {plain(lots)} lots: {answer.refused.message}")
        facts = msgspec.structs.replace(facts, lots=lots)
    return Allowed(lots=facts.lots, notes=notes)


# One trade -------------------------------------------------------------------------------------------------------------


def _trade_lots(policy: RiskPolicy, scope: Scope, facts: OrderFacts) -> Answer:
    most = policy.trade.lots_max
    if most is None or facts.lots <= most:
        return None
    text = f"{plain(facts.lots)} lots, {plain(most)} is the most of one trade"
    return _room(most, "trade_lots_above_max", scope, "trade.lots_max", text, facts)


def _trade_money(policy: RiskPolicy, scope: Scope, facts: OrderFacts) -> Answer:
    most, setting = policy.trade.money_max, "trade.money_max"
    if policy.trade.percent_max is not None:
        share = _share(facts, policy.trade.percent_max)
        if most is None or share < most:
            most, setting = share, "trade.percent_max"
    if most is None:
        return None
    each = _loss_per_lot(policy.worst_case, scope, facts)
    if isinstance(each, Refused):
        return each
    if facts.lots * each <= most:
        return None
    text = f"{_money(facts.lots * each, facts)} would be lost at the stop, {_money(most, facts)} is the most of one trade"
    return _room(most / each, "trade_risk_above_max", scope, setting, text, facts)


def _stop_distance(policy: RiskPolicy, scope: Scope, facts: OrderFacts) -> Answer:
    least, most = policy.trade.stop_points_min, policy.trade.stop_points_max
    if least is None and most is None:
        return None
    if not facts.stop:
        setting = "trade.stop_points_min" if most is None else "trade.stop_points_max"
        return _no("no_stop", scope, setting, "the trade has no stop, and its distance is limited", facts)
    points = (facts.price - facts.stop) * facts.side.sign / facts.quote.spec.point
    if least is not None and points < least:
        text = f"the stop is {plain(points)} points away, {plain(least)} is the least"
        return _no("stop_too_near", scope, "trade.stop_points_min", text, facts, points=plain(points))
    if most is not None and points > most:
        text = f"the stop is {plain(points)} points away, {plain(most)} is the most"
        return _no("stop_too_far", scope, "trade.stop_points_max", text, facts, points=plain(points))
    return None


def _leverage(policy: RiskPolicy, scope: Scope, facts: OrderFacts) -> Answer:
    most = policy.trade.leverage_max
    if most is None:
        return None
    setting = "trade.leverage_max"
    unvalued = _unvalued(facts.exposures.sums, scope, setting, facts)
    if unvalued:
        return unvalued
    held = facts.exposures.sums.notional
    each = notional(facts.quote.spec, facts.price)
    may = _equity(facts) * most
    if held + facts.lots * each <= may:
        return None
    text = (
        f"{_money(held + facts.lots * each, facts)} would be open in all, {plain(most)} times the equity is {_money(may, facts)}"
    )
    return _room((may - held) / each, "leverage_above_max", scope, setting, text, facts)


# All that is open ------------------------------------------------------------------------------------------------------


def _positions(policy: RiskPolicy, scope: Scope, facts: OrderFacts) -> Answer:
    most = policy.open.positions_max
    if most is None:
        return None
    count = facts.exposures.sums_of(scope.relation).count
    if count + facts.orders <= most:
        return None
    text = f"{count} positions are open or on their way, {most} is the most with this one"
    return _no("positions_above_max", scope, "open.positions_max", text, facts, positions=str(count))


def _open_lots(policy: RiskPolicy, scope: Scope, facts: OrderFacts) -> Answer:
    most = policy.open.lots_max
    if most is None:
        return None
    held = facts.exposures.sums_of(scope.relation).lots
    if held + facts.lots <= most:
        return None
    text = f"{plain(held)} lots are open or on their way, {plain(most)} is the most with this trade"
    return _room(most - held, "open_lots_above_max", scope, "open.lots_max", text, facts)


def _symbol_lots(policy: RiskPolicy, scope: Scope, facts: OrderFacts) -> Answer:
    most, setting = policy.open.symbol_lots_max, "open.symbol_lots_max"
    for pattern, lots in policy.open.symbol_lots.items():
        if matches(facts.symbol, pattern):
            most, setting = lots, f"open.symbol_lots.{pattern}"
            break
    if most is None:
        return None
    held = facts.exposures.sums_of(scope.relation).of_symbol.get(facts.symbol, ZERO)
    if held + facts.lots <= most:
        return None
    text = f"{plain(held)} lots of {facts.symbol} are open or on their way, {plain(most)} is the most with this trade"
    return _room(most - held, "symbol_lots_above_max", scope, setting, text, facts)


def _volume_limit(_policy: RiskPolicy, scope: Scope, facts: OrderFacts) -> Answer:
    most = facts.quote.spec.volume_limit
    if most <= 0:
        return None
    held = facts.exposures.sums.one_way.get((facts.symbol, facts.side), ZERO)
    if held + facts.lots <= most:
        return None
    text = f"the broker allows {plain(most)} lots of {facts.symbol} in one direction, {plain(held)} are open or on their way"
    return _room(most - held, "volume_limit", scope, "volume_limit", text, facts)


def _currency(policy: RiskPolicy, scope: Scope, facts: OrderFacts) -> Answer:
    most = policy.open.currency_money_max
    if most is None:
        return None
    counted = facts.exposures.sums_of(scope.relation)
    unvalued = _unvalued(counted, scope, "open.currency_money_max", facts)
    if unvalued:
        return unvalued
    held = counted.currencies
    worst: Room | None = None
    for currency, per_lot in currencies(facts.quote.spec, facts.side.sign, facts.price):
        before = held.get(currency, ZERO)
        after = before + facts.lots * per_lot
        if abs(after) <= most or abs(after) <= abs(before):
            continue
        text = f"the exposure to {currency} would be {_money(after, facts)}, {_money(most, facts)} is the most either way"
        fits = (most - before * (1 if per_lot > 0 else -1)) / abs(per_lot)
        room = _room(fits, "currency_above_max", scope, "open.currency_money_max", text, facts, currency=currency)
        worst = room if worst is None or room.lots < worst.lots else worst
    return worst


def _margin_level(policy: RiskPolicy, scope: Scope, facts: OrderFacts) -> Answer:
    least = policy.open.margin_level_min
    if least is None:
        return None
    setting = "open.margin_level_min"
    used = margin_used_after(facts, facts.lots)
    if used is None:
        text = f"the broker does not say what margin {facts.symbol} needs, so the margin level cannot be kept"
        return _no("margin_unknown", scope, setting, text, facts)
    if facts.account.equity * _HUNDRED >= least * used:
        return None
    per_lot = facts.quote.spec.margin_per_lot or ZERO
    level = plain(round(facts.account.equity * _HUNDRED / used, 1))
    text = f"the margin level would be {level}%, {plain(least)}% is the least"
    if per_lot <= 0:
        return _no("margin_level_below_min", scope, setting, text, facts, level=level)
    fits = (facts.account.equity * _HUNDRED / least - (used - facts.lots * per_lot)) / per_lot
    return _room(fits, "margin_level_below_min", scope, setting, text, facts, level=level)


# Losses ----------------------------------------------------------------------------------------------------------------


def _loss_limits(policy: RiskPolicy, scope: Scope, facts: OrderFacts) -> Answer:
    for limit in policy.losses:
        setting = f"losses.{limit.name}"
        room = _room_of(limit.name, scope.losses)
        if room is None:
            text = f"loss limit {limit.name} has no reference yet: the account was not read since it was set"
            return _no("loss_limit_unobserved", scope, setting, text, facts)
        if room.fired:
            text = f"loss limit {limit.name} has fired: no opens until it is armed again"
            return _no("loss_limit_fired", scope, setting, text, facts, left=plain(room.left))
        if room.left <= 0:
            text = f"loss limit {limit.name} is reached"
            return _no("loss_limit_reached", scope, setting, text, facts, left=plain(room.left))
    return None


def _worst_case(policy: RiskPolicy, scope: Scope, facts: OrderFacts) -> Answer:
    worst = policy.worst_case
    if not worst.enabled or not (policy.losses or worst.money_max is not None or worst.percent_max is not None):
        return None
    each = _loss_per_lot(worst, scope, facts)
    if isinstance(each, Refused):
        return each
    held = _losses_at_stops(worst, scope, facts)
    if isinstance(held, Refused):
        return held
    of_balance, of_equity = held
    bounds = [
        # A limit fires when it is reached, so the last step that reaches it does not fit.
        (f"losses.{room.name}", room.left, of_balance if room.metric is Metric.BALANCE else of_equity, _below)
        for room in scope.losses
    ]
    if worst.money_max is not None:
        bounds.append(("worst_case.money_max", worst.money_max, of_equity, _up_to))
    if worst.percent_max is not None:
        bounds.append(("worst_case.percent_max", _share(facts, worst.percent_max), of_equity, _up_to))
    tightest: Room | None = None
    for setting, most, lost, fitting in bounds:
        fits = fitting((most - lost) / each, facts.quote.spec.volume_step)
        if facts.lots > fits and (tightest is None or fits < tightest.lots):
            total = lost + facts.lots * each
            text = f"if every stop is hit, {_money(total, facts)} are lost, this trade included; {_money(most, facts)} is left"
            tightest = _room(fits, "worst_case_above_limit", scope, setting, text, facts, worst=plain(total), left=plain(most))
    return tightest


RULES: dict[Limit, Callable[[RiskPolicy, Scope, OrderFacts], Answer]] = {
    Limit.LOSSES: _loss_limits,
    Limit.STOP_DISTANCE: _stop_distance,
    Limit.POSITIONS: _positions,
    Limit.TRADE_LOTS: _trade_lots,
    Limit.TRADE_MONEY: _trade_money,
    Limit.OPEN_LOTS: _open_lots,
    Limit.SYMBOL_LOTS: _symbol_lots,
    Limit.BROKERS_VOLUME: _volume_limit,
    Limit.LEVERAGE: _leverage,
    Limit.CURRENCY: _currency,
    Limit.MARGIN_LEVEL: _margin_level,
    Limit.WORST_CASE: _worst_case,
}
"""What asks about each limit that a policy sets."""


# What things are worth -------------------------------------------------------------------------------------------------


def _loss_per_lot(worst: WorstCasePolicy, scope: Scope, facts: OrderFacts) -> Decimal | Refused:
    """Return the money one lot of this trade loses at its stop, or at the assumed one, commission included."""
    spec = facts.quote.spec
    if not valued(spec):
        return _no("symbol_spec_unusable", scope, "worst_case", f"{spec.symbol}: what a tick costs is not known", facts)
    distance = (facts.price - facts.stop) * facts.side.sign if facts.stop else _assumed(worst, facts.price, spec)
    if distance is None or distance <= 0:
        text = "the trade has no stop and none is assumed" if distance is None else "the price is already beyond the stop"
        code = "no_stop" if distance is None else "stop_passed"
        return _no(code, scope, "worst_case.assumed_stop_points", text, facts)
    return distance / spec.tick_size * spec.tick_value_loss + facts.commission_per_lot


def _losses_at_stops(worst: WorstCasePolicy, scope: Scope, facts: OrderFacts) -> tuple[Decimal, Decimal] | Refused:
    """Return what the balance and the equity lose when every open stop is hit; a locked-in gain is no gain here."""
    sums = facts.exposures.sums
    unvalued = _unvalued(sums, scope, "worst_case", facts)
    if unvalued:
        return unvalued
    of_balance, of_equity = sums.lost_of_balance, sums.lost_of_equity
    for each in sums.without_stop.values():
        if each.spec is None:
            continue
        assumed = _assumed(worst, each.current, each.spec)
        if assumed is None:
            text = f"a position in {each.symbol} has no stop and none is assumed, so the worst case has no bound"
            return _no("position_without_stop", scope, "worst_case.assumed_stop_points", text, facts, symbol=each.symbol)
        lost = each.lost_at(each.current - each.side.sign * assumed)
        of_balance += lost[0]
        of_equity += lost[1]
    return of_balance, of_equity


def _assumed(worst: WorstCasePolicy, price: Decimal, spec: SymbolSpec) -> Decimal | None:
    if worst.assumed_stop_points is not None:
        return worst.assumed_stop_points * spec.point
    if worst.assumed_stop_percent is not None:
        return price * worst.assumed_stop_percent / _HUNDRED
    return None


def _unvalued(sums: Sums, scope: Scope, setting: str, facts: OrderFacts) -> Refused | None:
    for unknown in sums.unvalued.values():
        symbol = unknown.symbol
        text = f"a position in {symbol} cannot be valued: its symbol's rules are not known"
        return _no("exposure_unknown", scope, setting, text, facts, symbol=symbol)
    if not valued(facts.quote.spec):
        text = f"{facts.symbol} cannot be valued: its tick value is not known"
        return _no("symbol_spec_unusable", scope, setting, text, facts)
    return None


def _equity(facts: OrderFacts) -> Decimal:
    """Return the account's own equity: a broker's credit is not the trader's money."""
    return facts.account.equity - facts.account.credit


def _share(facts: OrderFacts, percent: Decimal) -> Decimal:
    return _equity(facts) * percent / _HUNDRED


def _room_of(name: str, losses: tuple[LossRoom, ...]) -> LossRoom | None:
    return next((room for room in losses if room.name == name), None)


def _up_to(lots: Decimal, step: Decimal) -> Decimal:
    return floor_to(lots, step)


def _below(lots: Decimal, step: Decimal) -> Decimal:
    return ceil_to(lots, step) - step


def _money(amount: Decimal, facts: OrderFacts) -> str:
    return f"{plain(round(amount, 2))} {facts.account.currency}"


def _room(lots: Decimal, code: str, scope: Scope, setting: str, text: str, facts: OrderFacts, **numbers: str) -> Room:
    return Room(lots=lots, refused=_no(code, scope, setting, text, facts, **numbers))


def _no(code: str, scope: Scope, setting: str, message: str, facts: OrderFacts, **numbers: str) -> Refused:
    known = {"symbol": facts.symbol, "lots": plain(facts.lots), **numbers}
    return Refused(code=code, rule=f"{scope.path}.{setting}", message=message, numbers=known)
