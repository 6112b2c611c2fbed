"""What the rules look at when one open is about to be sent: the order, the account, and all that is open or on its way."""

from collections.abc import Callable, Hashable, Iterable
from decimal import Decimal
from operator import add, sub
from typing import NamedTuple

import msgspec

from copier.model import ZERO, Account, Quote, Record, Side, SymbolSpec
from copier.policy import Metric

Combine = Callable[[Decimal, Decimal], Decimal]
"""Adds or subtracts."""


class Exposure(Record, frozen=True, kw_only=True):
    """One position of the follower's account, or one order on its way: for limits and margin both are open."""

    symbol: str
    side: Side
    lots: Decimal
    price: Decimal
    """What it was opened at, or is expected to be."""
    current: Decimal
    """What closing it would get now."""
    stop: Decimal = ZERO
    swap: Decimal = ZERO
    commission: Decimal = ZERO
    """Money that opening or closing it will still cost, positive."""
    spec: SymbolSpec | None = None
    """None where the symbol's rules are not known: then nothing that needs its value is allowed."""
    relation: str = ""
    """Which relation it belongs to; empty for a position of another hand."""
    sending: bool = False
    """Sent, or about to be, and not yet in the account's figures."""

    def lost_at(self, end: Decimal) -> tuple[Decimal, Decimal]:
        """Return what balance and equity lose when it ends at this price; a locked-in gain is no gain here."""
        if self.spec is None:
            return ZERO, ZERO
        sign = self.side.sign
        value = self.lots / self.spec.tick_size * self.spec.tick_value_loss
        of_equity = (self.current - end) * sign * value + self.commission
        of_balance = max(ZERO, (self.price - end) * sign * value - self.swap) + self.commission
        return of_balance, of_equity


class Worth(NamedTuple):
    """What one exposure comes to, in the account's currency."""

    notional: Decimal
    """Its whole value."""
    currencies: tuple[tuple[str, Decimal], ...]
    """The currencies it is long (positive) and short."""
    of_balance: Decimal
    """What the balance loses when its stop is hit; 0 where it has none."""
    of_equity: Decimal


class Sums:
    """What some exposures come to; money is in the account's currency."""

    __slots__ = (
        "_worth", "count", "currencies", "lost_of_balance", "lost_of_equity", "lots", "notional", "of_symbol", "one_way",
        "sending", "unvalued", "without_stop",
    )  # fmt: skip

    def __init__(self) -> None:
        self.count = 0
        self.lots = ZERO
        self.of_symbol: dict[str, Decimal] = {}
        """Lots by symbol, both directions together."""
        self.one_way: dict[tuple[str, Side], Decimal] = {}
        self.sending: dict[int, Exposure] = {}
        """Those that are not in the account's figures yet."""
        self.without_stop: dict[int, Exposure] = {}
        self.unvalued: dict[int, Exposure] = {}
        """Those whose symbol's rules do not say what they are worth; while there are any, no sum of money can be trusted."""
        self.notional = ZERO
        self.currencies: dict[str, Decimal] = {}
        """What they are long (positive) and short."""
        self.lost_of_balance = ZERO
        """What the balance loses when the stops of those that have one are hit."""
        self.lost_of_equity = ZERO
        self._worth: dict[int, Worth] = {}

    def add(self, each: Exposure) -> None:
        """Count one more."""
        self.count += 1
        self._count(each, add)
        if each.sending:
            self.sending[id(each)] = each
        if not each.stop:
            self.without_stop[id(each)] = each
        if valued(each.spec):
            worth = self._worth[id(each)] = worth_of(each)
            self._value(worth, add)
        else:
            self.unvalued[id(each)] = each

    def remove(self, each: Exposure) -> None:
        """Count one no more, which was added before."""
        self.count -= 1
        self._count(each, sub)
        for apart in (self.sending, self.without_stop, self.unvalued):
            apart.pop(id(each), None)
        worth = self._worth.pop(id(each), None)
        if worth is not None:
            self._value(worth, sub)

    def _count(self, each: Exposure, combine: Combine) -> None:
        lots, symbol = each.lots, each.symbol
        way = (symbol, each.side)
        self.lots = combine(self.lots, lots)
        self.of_symbol[symbol] = combine(self.of_symbol.get(symbol, ZERO), lots)
        self.one_way[way] = combine(self.one_way.get(way, ZERO), lots)

    def _value(self, worth: Worth, combine: Combine) -> None:
        self.notional = combine(self.notional, worth.notional)
        for currency, money in worth.currencies:
            self.currencies[currency] = combine(self.currencies.get(currency, ZERO), money)
        self.lost_of_balance = combine(self.lost_of_balance, worth.of_balance)
        self.lost_of_equity = combine(self.lost_of_equity, worth.of_equity)


class Held:
    """All that is open at an account or on its way, and what it comes to."""

    __slots__ = ("_counts", "_of", "_of_relation", "sums")

    def __init__(self, exposures: Iterable[Exposure] = ()) -> None:
        self._of: dict[Hashable, tuple[Exposure, ...]] = {}
        self.sums = Sums()
        """What all of it comes to."""
        self._counts: dict[str, int] = {}
        """How many there are of each relation."""
        self._of_relation: dict[str, Sums] = {}
        """Of those relations that were asked for apart from the rest."""
        for number, each in enumerate(exposures):
            self.put(number, (each,))

    def put(self, name: Hashable, exposures: tuple[Exposure, ...]) -> None:
        """Have these exposures under a name, in place of those before."""
        before = self._of.get(name, ())
        if before == exposures:
            return
        for each in before:
            self.sums.remove(each)
            self._counts[each.relation] -= 1
            if each.relation in self._of_relation:
                self._of_relation[each.relation].remove(each)
        for each in exposures:
            self.sums.add(each)
            self._counts[each.relation] = self._counts.get(each.relation, 0) + 1
            if each.relation in self._of_relation:
                self._of_relation[each.relation].add(each)
        if exposures:
            self._of[name] = exposures
        else:
            del self._of[name]

    def sums_of(self, relation: str) -> Sums:
        """Return what comes of one relation; "" is all of the account."""
        if not relation or self._counts.get(relation, 0) == self.sums.count:
            return self.sums
        found = self._of_relation.get(relation)
        if found is None:
            found = self._of_relation[relation] = Sums()
            for exposures in self._of.values():
                for each in exposures:
                    if each.relation == relation:
                        found.add(each)
        return found


def worth_of(each: Exposure) -> Worth:
    """Return what an exposure comes to whose symbol's rules say what it is worth."""
    of_balance = of_equity = ZERO
    if each.stop:
        at_worst = min(each.stop, each.current) if each.side is Side.BUY else max(each.stop, each.current)
        of_balance, of_equity = each.lost_at(at_worst)
    of_one = currencies(each.spec, each.side.sign, each.current)
    return Worth(
        notional=each.lots * notional(each.spec, each.current),
        currencies=tuple((name, each.lots * money) for name, money in of_one),
        of_balance=of_balance,
        of_equity=of_equity,
    )


def valued(spec: SymbolSpec | None) -> bool:
    """Return whether a symbol's rules say what a position in it is worth."""
    if spec is None:
        return False
    return spec.tick_size > ZERO and spec.tick_value > ZERO and spec.tick_value_loss > ZERO and spec.point > ZERO


def notional(spec: SymbolSpec | None, price: Decimal) -> Decimal:
    """Return the value of one lot in the account's currency: what it would lose if the price fell to nothing."""
    return price / spec.tick_size * spec.tick_value if spec else ZERO


def currencies(spec: SymbolSpec | None, sign: int, price: Decimal) -> tuple[tuple[str, Decimal], ...]:
    """Return the currencies one lot is long (positive) and short; an instrument within one currency has no such exposure."""
    if spec is None or spec.currency_base == spec.currency_profit:
        return ()
    worth = sign * notional(spec, price)
    return (spec.currency_base, worth), (spec.currency_profit, -worth)


class OrderFacts(Record, frozen=True, kw_only=True):
    """One open that is about to be sent, and the account it goes to."""

    side: Side
    """The follower's side."""
    lots: Decimal
    """All its orders together."""
    orders: int = 1
    """How many orders, and so positions, it is split into."""
    quote: Quote
    quote_age_ms: int
    """How long ago this price was confirmed, by now."""
    master_price: Decimal
    """What the master paid; 0 if nobody knows."""
    age_ms: int | None = None
    """How long ago the master opened; None if nobody can tell, which counts as old."""
    stop: Decimal = ZERO
    """The stop level the order will have; 0 is none."""
    commission_per_lot: Decimal = ZERO
    """Money for opening and closing one lot."""
    account: Account
    exposures: Held = msgspec.field(default_factory=Held)
    """All of the account: ours, other hands', on their way, and earlier orders of the same burst."""

    @property
    def price(self) -> Decimal:
        """The expected fill."""
        return self.quote.ask if self.side is Side.BUY else self.quote.bid

    @property
    def symbol(self) -> str:
        """The follower's symbol."""
        return self.quote.symbol


class LossRoom(Record, frozen=True, kw_only=True):
    """What one loss limit leaves."""

    name: str
    metric: Metric
    left: Decimal
    """Money that may still be lost before the limit fires; 0 or less when it is reached."""
    fired: bool = False
    """The limit has fired and is not armed again."""


class Scope(Record, frozen=True, kw_only=True):
    """Whose limits are asked: one relation's, or the whole follower's."""

    relation: str = ""
    """Count only this relation's exposures; empty counts all of the account."""
    path: str = "risk"
    """Where these settings stand, for refusals."""
    losses: tuple[LossRoom, ...] = ()
    """One for every loss limit of these settings that has been observed."""


def margin_used_after(facts: OrderFacts, lots: Decimal) -> Decimal | None:
    """Return the account's margin once `lots` more and all orders on their way are open; None if nobody can tell.

    Conservative: that a hedge may need less margin is not counted.
    """
    needed = facts.quote.spec.margin_per_lot
    if needed is None:
        return None
    used = facts.account.margin + lots * needed
    for each in facts.exposures.sums.sending.values():
        if each.spec is None or each.spec.margin_per_lot is None:
            return None
        used += each.lots * each.spec.margin_per_lot
    return used
