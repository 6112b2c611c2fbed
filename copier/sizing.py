"""A master's volume -> the follower's lots, on the follower's step, in exact decimals.

Each size mode says the exact volume as one fraction, so that nothing is rounded before the step is. Then, in this order:
cap and floor, the carried residue, the broker's minimum, the step, the broker's maximum. Whatever raises a volume does it
within `inflation_max` or not at all: a minimum lot can be ten times the risk that was asked for.
"""

from decimal import Decimal
from typing import assert_never

from copier.gateway import LOTS_MAX
from copier.model import ZERO, Account, MasterFacts, Quote, Record, Refused, Side, SymbolSpec
from copier.policy import (
    AboveMax,
    AlignedSize,
    BalanceSize,
    BelowMin,
    Capital,
    EquitySize,
    FixedSize,
    FreeMarginSize,
    MultiplierSize,
    NotionalSize,
    PriceRatio,
    RiskCashSize,
    RiskPercentSize,
    Rounding,
    SignalsSize,
    SizePolicy,
    VirtualCapitalSize,
)
from copier.steps import ceil_to, floor_to, nearest_to, plain

_HUNDRED = Decimal(100)
_RelativePolicy = BalanceSize | EquitySize | FreeMarginSize | VirtualCapitalSize


ASKED_MAX = Decimal(10) ** 12
"""More lots than this are asked for only by a broker's number that is wrong; what is done above a maximum is done just so."""


class SizeFacts(Record, frozen=True, kw_only=True):
    """What the size of one open is computed from."""

    master_lots: Decimal
    master: MasterFacts | None = None
    """The master's account when the open was read; None if the event did not say."""
    master_spec: SymbolSpec | None = None
    master_price: Decimal = ZERO
    side: Side
    """The follower's side."""
    account: Account
    account_age_ms: int | None = None
    """How long ago the follower's account was read; None if nobody knows."""
    quote: Quote
    """The follower's price and symbol."""
    stop: Decimal = ZERO
    """The stop level the follower's order will have; 0 is none."""
    rate: Decimal | None = None
    """What one unit of the follower's currency is worth in the master's; not needed where they are the same."""
    commission_per_lot: Decimal = ZERO
    """Money for opening and closing one lot."""
    residue: Decimal = ZERO
    """What rounding has cut off earlier opens of this relation and symbol, with `carry`."""


class Sized(Record, frozen=True, kw_only=True):
    """How many lots to order, and how that came about."""

    lots: tuple[Decimal, ...]
    """One volume per order; several where a volume over the broker's maximum is split."""
    asked: Decimal
    """What the size mode asked for, exactly."""
    residue: Decimal = ZERO
    """What to carry to the next open, once this one is filled; a skipped open leaves the old residue."""
    notes: tuple[str, ...] = ()
    """Every change of the exact volume but plain rounding, in a trader's words."""
    numbers: dict[str, str] = {}

    @property
    def total(self) -> Decimal:
        """All orders together."""
        return sum(self.lots, ZERO)


class _Asked(Record, frozen=True, kw_only=True):
    """An exact volume: one fraction, and the numbers it is made of."""

    over: Decimal
    under: Decimal
    numbers: dict[str, str] = {}


def size(policy: SizePolicy, facts: SizeFacts) -> Sized | Refused:
    """Return the follower's lots for one open of the master, or why there are none."""
    spec = facts.quote.spec
    if min(spec.volume_step, spec.volume_min, spec.point, spec.tick_size, spec.contract_size) <= 0:
        return _no("symbol_spec_unusable", "symbols", f"{spec.symbol}: the broker's volume, tick or contract rules are not known")
    asked = _asked(policy, facts)
    if isinstance(asked, Refused):
        return asked
    over, under = asked.over, asked.under
    if isinstance(policy, AlignedSize) and policy.align_contracts:
        if facts.master_spec is None or facts.master_spec.contract_size <= 0:
            return _no("master_spec_missing", "size.align_contracts", "the master's contract size is not known")
        over, under = over * facts.master_spec.contract_size, under * spec.contract_size
    return _to_orders(policy, facts, min(over / under, ASKED_MAX), asked.numbers)


def reduce_target(filled: Decimal, master_lots: Decimal, master_opened: Decimal, spec: SymbolSpec) -> Decimal:
    """Return the volume that should be left of what was `filled`, now that the master holds `master_lots` of `master_opened`.

    An absolute target: filled x now / opened, rounded up to the step, at least the broker's minimum until the master is
    flat, never above `filled`. Reaching it twice changes nothing.
    """
    if master_lots <= 0:
        return ZERO
    if master_lots >= master_opened:
        return filled
    target = ceil_to(filled * master_lots / master_opened, spec.volume_step)
    return min(filled, max(target, _lots_min(spec)))


def lots_to_close(held: Decimal, target: Decimal, spec: SymbolSpec) -> Decimal:
    """Return how much of `held` to close now to come down to `target`; 0 while that is less than a broker closes."""
    if target <= 0:
        return max(held, ZERO)
    part = floor_to(held - target, spec.volume_step) if held > target else ZERO
    return part if part >= spec.volume_min else ZERO


def split(lots: Decimal, policy: SizePolicy, spec: SymbolSpec) -> tuple[Decimal, ...]:
    """Return the orders for a volume on the step: one, or several as equal as the step allows; what does not fit is cut."""
    if lots <= LOTS_MAX and lots <= spec.volume_max:
        return (lots,)
    step, most = spec.volume_step, _order_max(spec)
    if lots <= most:
        return (lots,)
    if policy.above_max is AboveMax.CLAMP:
        return (most,)
    steps = int(min(lots, most * policy.split_orders_max) / step)
    orders = -(-steps // int(most / step))
    each, more = divmod(steps, orders)
    if each * step < spec.volume_min:
        return (most,) * (orders - 1)
    return (*((each + 1) * step for _ in range(more)), *(each * step for _ in range(orders - more)))


def shrink(sized: Sized, lots: Decimal, policy: SizePolicy, spec: SymbolSpec, reason: str) -> Sized:
    """Return the same trade with fewer `lots` (on the step), because a limit allows no more; it leaves no residue."""
    return Sized(
        lots=split(lots, policy, spec), asked=sized.asked, notes=(*sized.notes, reason), numbers=sized.numbers, residue=ZERO
    )


# The exact volume of each mode -----------------------------------------------------------------------------------------


def _asked(policy: SizePolicy, facts: SizeFacts) -> _Asked | Refused:
    match policy:
        case FixedSize():
            return _Asked(over=policy.per_symbol.get(facts.quote.symbol, policy.lots), under=Decimal(1))
        case MultiplierSize():
            return _Asked(over=facts.master_lots * policy.multiplier, under=Decimal(1))
        case NotionalSize():
            return _notional(policy, facts)
        case BalanceSize() | EquitySize() | FreeMarginSize() | VirtualCapitalSize():
            return _relative(policy, facts)
        case RiskPercentSize():
            stale = _stale(policy.account_age_max_s, facts)
            capital = facts.account.balance if policy.of is Capital.BALANCE else facts.account.equity
            return stale or _by_risk(policy, facts, capital * policy.percent / _HUNDRED)
        case RiskCashSize():
            return _by_risk(policy, facts, policy.cash)
        case SignalsSize():
            return _signals(policy, facts)
        case _:
            assert_never(policy)


def _notional(policy: NotionalSize, facts: SizeFacts) -> _Asked | Refused:
    master, spec = facts.master_spec, facts.quote.spec
    if master is None or master.contract_size <= 0:
        return _no("master_spec_missing", "size.mode", "the master's contract size is not known")
    over, under = facts.master_lots * master.contract_size * policy.multiplier, spec.contract_size
    if policy.price_ratio is PriceRatio.IGNORE:
        return _Asked(over=over, under=under)
    price = facts.quote.price_to_open(facts.side)
    if facts.master_price <= 0 or price <= 0:
        return _no(
            "price_unknown", "size.price_ratio", "the price ratio needs the master's price and a quote, and one is missing"
        )
    if master.currency_profit != spec.currency_profit:
        text = f"prices in {master.currency_profit or '?'} and in {spec.currency_profit or '?'} make no price ratio"
        return _no("currency_mismatch", "size.price_ratio", text)
    numbers = {"master_price": plain(facts.master_price), "price": plain(price)}
    return _Asked(over=over * facts.master_price, under=under * price, numbers=numbers)


def _relative(policy: _RelativePolicy, facts: SizeFacts) -> _Asked | Refused:
    stale = _stale(policy.account_age_max_s, facts)
    if stale:
        return stale
    if facts.master is None:
        return _no("master_facts_missing", "size.mode", "the master's account was not read together with this trade")
    match policy:
        case BalanceSize():
            ours, theirs = facts.account.balance, facts.master.balance
        case EquitySize():
            ours, theirs = facts.account.equity, facts.master.equity
        case FreeMarginSize():
            ours, theirs = facts.account.free_margin, facts.master.free_margin
        case VirtualCapitalSize():
            ours = policy.follower_capital or facts.account.balance
            theirs = policy.master_capital or facts.master.balance
        case _:
            assert_never(policy)
    rate = _rate(facts.account, facts.master, facts.rate)
    if isinstance(rate, Refused):
        return rate
    if ours <= 0 or theirs <= 0:
        return _no_capital(ours, theirs, facts, facts.master)
    numbers = {"follower": plain(ours), "master": plain(theirs), "rate": plain(rate)}
    return _Asked(over=facts.master_lots * ours * rate * policy.multiplier, under=theirs, numbers=numbers)


def _by_risk(policy: RiskPercentSize | RiskCashSize, facts: SizeFacts, money: Decimal) -> _Asked | Refused:
    spec, price = facts.quote.spec, facts.quote.price_to_open(facts.side)
    if spec.tick_value_loss <= 0:
        return _no("symbol_spec_unusable", "size.mode", f"{spec.symbol}: what a tick costs is not known")
    if money <= 0:
        return _no("no_capital", "size.mode", f"the follower has no money to risk ({plain(money)} {facts.account.currency})")
    if facts.stop:
        distance = (price - facts.stop) * facts.side.sign
        if distance <= 0:
            text = f"{spec.symbol} at {plain(price)} is already beyond the stop {plain(facts.stop)}"
            return _no("stop_passed", "size.mode", text, price=plain(price), stop=plain(facts.stop))
    elif policy.no_stop_lots is not None:
        return _Asked(over=policy.no_stop_lots, under=Decimal(1), numbers={"stop": "none"})
    elif policy.no_stop_points is not None:
        distance = policy.no_stop_points * spec.point
    else:
        return _no("no_stop", "size.no_stop_points", "sizing by risk needs a stop, and the trade has none")
    under = distance * spec.tick_value_loss + facts.commission_per_lot * spec.tick_size
    numbers = {"money": plain(money), "distance": plain(distance), "loss_per_lot": plain(under / spec.tick_size)}
    return _Asked(over=money * spec.tick_size, under=under, numbers=numbers)


def _signals(policy: SignalsSize, facts: SizeFacts) -> _Asked | Refused:
    stale = _stale(policy.account_age_max_s, facts)
    if stale:
        return stale
    if facts.master is None:
        return _no("master_facts_missing", "size.mode", "the master's account was not read together with this trade")
    percent = signals_percent(policy, facts.account, facts.master, facts.rate)
    if isinstance(percent, Refused):
        return percent
    return _Asked(over=facts.master_lots * percent, under=_HUNDRED, numbers={"signals_percent": plain(percent)})


def signals_percent(policy: SignalsSize, account: Account, master: MasterFacts, rate: Decimal | None) -> Decimal | Refused:
    """Return the percentage of the master's lots by the MQL5 Signals rule.

    MetaQuotes documents it: the deposit used over the master's, less where the follower's leverage is lower, then
    down to 1% up to 10, to 5% up to 100, to 10% above, and never under 1%.
    """
    worth = _rate(account, master, rate)
    if isinstance(worth, Refused):
        return worth
    if account.balance <= 0 or master.balance <= 0 or account.leverage <= 0 or master.leverage <= 0:
        text = "the MQL5 Signals rule needs balances and leverages above 0 on both sides"
        return _no("no_capital", "size.mode", text, follower=plain(account.balance), master=plain(master.balance))
    over, under = account.balance * policy.deposit_percent * worth, master.balance
    if account.leverage < master.leverage:
        over, under = over * account.leverage, under * master.leverage
    percent = over / under
    if percent <= 10:
        return max(floor_to(percent, Decimal(1)), Decimal(1))
    return floor_to(percent, Decimal(5) if percent <= _HUNDRED else Decimal(10))


# From the exact volume to orders ---------------------------------------------------------------------------------------


def _to_orders(policy: SizePolicy, facts: SizeFacts, asked: Decimal, numbers: dict[str, str]) -> Sized | Refused:
    spec = facts.quote.spec
    step, notes = spec.volume_step, []
    cap = policy.lots_max
    wanted = asked
    if cap is not None and wanted > cap:
        notes.append(f"cut from {plain(asked)} to size.lots_max {plain(cap)}")
        wanted = cap
    if policy.lots_min is not None and wanted < policy.lots_min:
        wanted = policy.lots_min
        if wanted > asked * policy.inflation_max:
            return _inflated(policy, asked, wanted, "size.lots_min")
        notes.append(f"raised from {plain(asked)} to size.lots_min {plain(wanted)}")
    if policy.rounding is Rounding.CARRY:
        wanted += facts.residue
        wanted = wanted if cap is None else min(wanted, cap)
    least = _lots_min(spec)
    if wanted >= least:
        lots = nearest_to(wanted, step) if policy.rounding is Rounding.NEAREST else floor_to(wanted, step)
        if cap is not None and lots > cap:
            lots = floor_to(cap, step)
    elif policy.below_min is BelowMin.SKIP:
        text = f"{plain(wanted)} lots is under the minimum of {plain(least)} for {spec.symbol}"
        return _no("below_min", "size.below_min", text, asked=plain(asked), volume_min=plain(least))
    elif cap is not None and least > cap:
        text = f"the minimum of {plain(least)} lots for {spec.symbol} is above size.lots_max {plain(cap)}"
        return _no("below_min", "size.lots_max", text, asked=plain(asked), volume_min=plain(least))
    elif least > asked * policy.inflation_max:
        return _inflated(policy, asked, least, "size.below_min")
    else:
        lots = least
        notes.append(f"raised from {plain(asked)} to the broker's minimum {plain(least)}")
    orders = split(lots, policy, spec)
    placed = sum(orders, ZERO)
    if placed < lots:
        notes.append(f"cut from {plain(lots)} to {plain(placed)}: {plain(_order_max(spec))} lots is the most of one order")
    elif len(orders) > 1:
        notes.append(f"split into {len(orders)} orders of at most {plain(_order_max(spec))} lots")
    residue = ZERO
    if policy.rounding is Rounding.CARRY and placed == lots:
        residue = max(-step, min(wanted - lots, step))
    numbers = {"master_lots": plain(facts.master_lots), "asked": plain(asked), "lots": plain(placed), **numbers}
    return Sized(lots=orders, asked=asked, residue=residue, notes=tuple(notes), numbers=numbers)


def _lots_min(spec: SymbolSpec) -> Decimal:
    least, step = spec.volume_min, spec.volume_step
    return least if least == step else ceil_to(least, step)


def _order_max(spec: SymbolSpec) -> Decimal:
    most = min(spec.volume_max, LOTS_MAX) if spec.volume_max > 0 else LOTS_MAX
    return max(floor_to(most, spec.volume_step), _lots_min(spec))


# Refusals --------------------------------------------------------------------------------------------------------------


def _stale(age_max_s: Decimal, facts: SizeFacts) -> Refused | None:
    age_ms = facts.account_age_ms
    if age_ms is not None and age_ms <= age_max_s * 1000:
        return None
    age = "at an unknown time" if age_ms is None else f"{plain(Decimal(age_ms) / 1000)} s ago"
    text = f"the follower's account was read {age}, {plain(age_max_s)} s is the most for sizing by it"
    return _no("account_stale", "size.account_age_max_s", text, account_age_ms=str(age_ms))


def _rate(account: Account, master: MasterFacts, rate: Decimal | None) -> Decimal | Refused:
    if account.currency == master.currency and account.currency:
        return Decimal(1)
    if rate is not None and rate > 0:
        return rate
    text = f"no quote to convert {account.currency or '?'} into the master's {master.currency or '?'}"
    return _no("rate_missing", "size.mode", text, follower=account.currency, master=master.currency)


def _no_capital(ours: Decimal, theirs: Decimal, facts: SizeFacts, master: MasterFacts) -> Refused:
    text = f"sizes cannot be compared: the follower has {plain(ours)} {facts.account.currency}, the master "
    return _no("no_capital", "size.mode", f"{text}{plain(theirs)} {master.currency}", follower=plain(ours), master=plain(theirs))


def _inflated(policy: SizePolicy, asked: Decimal, lots: Decimal, rule: str) -> Refused:
    text = (
        f"{plain(asked)} lots asked, {plain(lots)} is the least possible: more than {plain(policy.inflation_max)} times the risk"
    )
    return _no("inflation_above_max", rule, text, asked=plain(asked), lots=plain(lots))


def _no(code: str, rule: str, message: str, **numbers: str) -> Refused:
    return Refused(code=code, rule=rule, message=message, numbers=numbers)
