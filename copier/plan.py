"""A master's open and a follower's facts -> the orders to send, or why there are none: symbol, levels, size, risk, protection.

Pure: everything it looks at comes in. Closes, reductions and levels do not pass here, so nothing here can hold one up.
"""

from decimal import Decimal

import msgspec

from copier.facts import Held, LossRoom, OrderFacts, Scope
from copier.filters import check_existing, check_filters, check_late, check_order, check_side, open_age_ms
from copier.link import Link
from copier.model import ZERO, Account, MasterFacts, MasterPosition, Quote, Record, Refused, Side, SymbolSpec
from copier.policy import FollowerRisk, Mode, RelationPolicy
from copier.risk import check_risk
from copier.sizing import SizeFacts, shrink, size
from copier.stops import LevelFacts, levels_to_open
from copier.symbols import commission_per_lot, contract_warning, follower_symbol

replace = msgspec.structs.replace


NOT_KNOWN_YET = frozenset({"master_spec_missing", "master_facts_missing"})
"""Refusals for want of what the master's next snapshot may bring: asked again while the open is not too old."""


class OpenFacts(Record, frozen=True, kw_only=True):
    """What one open is decided on, beside the policy and the master's position."""

    now_ms: int
    mode: Mode
    """What the relation may do just now: its own setting, or less by a person's or a limit's word."""
    mode_reason: str = ""
    """Who or what took the rest away, for people."""
    account: Account
    account_ms: int
    """When the account was read."""
    quote: Quote
    quote_ms: int
    """When the quote was read."""
    master: MasterFacts | None = None
    master_spec: SymbolSpec | None = None
    rate: Decimal | None = None
    residue: Decimal = ZERO
    exposures: Held = msgspec.field(default_factory=Held)
    relation_losses: tuple[LossRoom, ...] = ()
    follower_losses: tuple[LossRoom, ...] = ()


class Planned(Record, frozen=True, kw_only=True):
    """The orders of one open, and how they came about."""

    symbol: str
    side: Side
    lots: tuple[Decimal, ...]
    """One volume per order."""
    price: Decimal
    """The fill that the levels were laid on."""
    stop_loss: Decimal
    take_profit: Decimal
    asked: Decimal
    residue: Decimal
    notes: tuple[str, ...] = ()
    numbers: dict[str, str] = {}


def side_of(policy: RelationPolicy, position: MasterPosition) -> Side:
    """Return the follower's side for a master's position."""
    return position.side.opposite if policy.copying.reverse else position.side


def check_before_quote(policy: RelationPolicy, position: MasterPosition, mode: Mode, reason: str, now_ms: int) -> Refused | None:
    """Return what already speaks against an open before anything is asked of the follower's broker."""
    if mode in (Mode.CLOSE_ONLY, Mode.FROZEN):
        return Refused(code=mode.value, rule="mode", message=reason or f"the relation is {mode.value}: no opens")
    return check_side(policy.copying, position) or check_filters(policy.filters, position, now_ms)


def symbol_of(
    policy: RelationPolicy, symbol: str, master: SymbolSpec | None, catalogue: dict[str, SymbolSpec] | None
) -> str | Refused:
    """Return the follower's symbol for a master's."""
    return follower_symbol(symbol, policy.symbols, master, catalogue)


def age_of(link: Link, master: MasterFacts | None, now_ms: int) -> int | None:
    """Return how old the wish to open is, in milliseconds: what the watcher saw bounds what the server's clock says.

    A scale-in is dated by what was seen alone, as the position's open time is that of its first part.
    """
    observed = now_ms - link.absent_ms if link.absent_ms else None
    if link.anchor:
        return observed
    by_clock = open_age_ms(link.position.open_time, master.server_offset_s if master else None, now_ms, None)
    known = [age for age in (observed, by_clock) if age is not None]
    return min(known) if known else None


def plan_open(
    policy: RelationPolicy, follower_risk: FollowerRisk, link: Link, master_lots: Decimal, facts: OpenFacts
) -> Planned | Refused:
    """Return the orders that copy `master_lots` of a master's position, or the first rule that says no."""
    position = link.position
    side = side_of(policy, position)
    quote = facts.quote
    if not quote.spec.usable or min(quote.bid, quote.ask) <= 0:
        text = f"{quote.symbol}: the broker's prices, or its volume, tick or contract rules, cannot be reckoned with"
        return Refused(code="symbol_spec_unusable", rule="symbols", message=text)
    commission = commission_per_lot(quote.symbol, policy.symbols)
    order = OrderFacts(
        side=side,
        lots=ZERO,
        quote=quote,
        quote_age_ms=facts.now_ms - facts.quote_ms + quote.age_ms,
        master_price=link.master_price or position.open_price,
        age_ms=age_of(link, facts.master, facts.now_ms),
        commission_per_lot=commission,
        account=facts.account,
        exposures=facts.exposures,
    )
    before_start = link.existing and not link.anchor
    late = check_existing(policy.copying.existing, order) if before_start else check_late(policy.protection, order)
    if late:
        return late
    levels = levels_to_open(
        policy.copying,
        LevelFacts(
            side=side,
            fill=quote.price_to_open(side),
            master_fill=position.open_price,
            master_stop=position.stop_loss,
            master_target=position.take_profit,
            quote=quote,
        ),
    )
    if isinstance(levels, Refused):
        return levels
    sized = size(
        policy.size,
        SizeFacts(
            master_lots=master_lots,
            master=facts.master,
            master_spec=facts.master_spec,
            master_price=position.open_price,
            side=side,
            account=facts.account,
            account_age_ms=facts.now_ms - facts.account_ms,
            quote=quote,
            stop=levels.stop,
            rate=facts.rate,
            commission_per_lot=commission,
            residue=facts.residue,
        ),
    )
    if isinstance(sized, Refused):
        return sized
    order = replace(order, lots=sized.total, orders=len(sized.lots), stop=levels.stop)
    refused = check_order(policy.protection, order)
    if refused:
        return refused
    scopes = (
        (policy.risk, Scope(relation=link.master, path="risk", losses=facts.relation_losses)),
        (follower_risk, Scope(path="follower.risk", losses=facts.follower_losses)),
    )
    for risk, scope in scopes:
        allowed = check_risk(risk, scope, order)
        if isinstance(allowed, Refused):
            return allowed
        if allowed.lots < sized.total:
            sized = shrink(sized, allowed.lots, policy.size, quote.spec, allowed.notes[-1])
            order = replace(order, lots=sized.total, orders=len(sized.lots))
    warning = contract_warning(facts.master_spec, quote.spec) if facts.master_spec else None
    return Planned(
        symbol=quote.symbol,
        side=side,
        lots=sized.lots,
        price=quote.price_to_open(side),
        stop_loss=levels.stop,
        take_profit=levels.target,
        asked=sized.asked,
        residue=sized.residue,
        notes=(*sized.notes, *levels.notes, *([warning] if warning else [])),
        numbers=sized.numbers,
    )
