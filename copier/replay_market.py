"""The brokers of a replay: one paper server for the master and one for each follower, all at the recorded prices."""

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from copier.clock import Clock
from copier.export_specs import InferredSpec, Valuation
from copier.gateways.paper import PaperGateway
from copier.gateways.paper_account import MarginRule, PaperAccount
from copier.gateways.paper_orders import MarketOrder
from copier.gateways.paper_server import PaperServer
from copier.gateways.paper_symbols import PaperSymbol, TickMoney, variant
from copier.model import ZERO, MarginMode, Record
from copier.replay_history import Closing, History, Opening, Payment
from copier.settings import PaperMargin, PaperSettings


class Money(Record, frozen=True, kw_only=True):
    """An account's money just now."""

    balance: Decimal
    equity: Decimal


class Desk:
    """One account at a broker of its own, its symbols as the export shows them and the settings change them."""

    def __init__(self, name: str, settings: PaperSettings, history: History, clock: Clock, balance: Decimal) -> None:
        self.name = name
        self.settings = settings
        self.login = int(settings.login)
        self.server = PaperServer(settings.server, clock=clock, symbols=_symbols(settings, history.specs))
        self.account = self.server.add_account(
            PaperAccount(
                self.login,
                currency=settings.currency,
                leverage=settings.leverage,
                margin_mode=settings.margin_mode,
                balance=balance,
                margin_rule=MarginRule(settings.margin.value),
                money_digits=history.money_digits,
            )
        )
        self.gateway = PaperGateway(self.server, self.login, clock=clock)
        self._units: dict[str, Decimal] = {}

    def symbol(self, plain: str) -> str:
        """Return what this broker calls a symbol of the export."""
        return f"{self.settings.symbols.prefix}{plain}{self.settings.symbols.suffix}"

    def quote(self, plain: str, price: Decimal) -> None:
        """Take the recorded price as the bid, the ask above it by this broker's spread."""
        name = self.symbol(plain)
        spec = self.server.symbols[name].spec
        own = self.settings.symbols.overrides.get(plain)
        if own is not None and own.digits is not None:
            price = max(round(price, own.digits), spec.tick_size)
        points = own.spread_points if own is not None and own.spread_points else 0
        self.server.set_quote(name, price, price + points * spec.point)

    def value(self, plain: str, per_unit: Decimal, contract: Decimal) -> None:
        """Let a lot of the master's be worth `per_unit` for a price move of 1; this broker's own contract scales it."""
        name = self.symbol(plain)
        spec = self.server.symbols[name].spec
        worth = per_unit * spec.contract_size / contract
        if self._units.get(plain) != worth:
            self._units[plain] = worth
            self.server.change_symbol(name, tick_value=worth * spec.tick_size, tick_value_loss=worth * spec.tick_size)

    def carry(self, plain: str, ticket: int, closing: Closing, part: Decimal, share: Decimal) -> None:
        """Let closing `part` of a position book `share` of the recorded costs, or the broker's own commission if it has one."""
        position = self.account.positions.get(ticket)
        if position is None or not part:
            return
        commission = closing.commission * share
        own = self.settings.symbols.overrides.get(plain)
        if own is not None and own.commission_per_lot is not None:
            commission = -own.commission_per_lot * part
        whole = position.lots / part
        self.server.set_costs(self.login, ticket, swap=closing.swap * share * whole, commission=commission * whole)

    def open(self, opening: Opening) -> None:
        """Open a position under the recorded ticket."""
        order = MarketOrder(symbol=opening.symbol, side=opening.side, lots=opening.lots, ticket=opening.ticket)
        self.server.deal(self.login, order)

    def pay(self, payment: Payment) -> None:
        """Book money in or out."""
        self.server.move_money(self.login, payment.amount, comment=payment.comment, type=payment.type)

    def money(self) -> Money:
        """Return balance and equity at the last prices."""
        return Money(balance=self.account.balance, equity=self.server.equity(self.login))


class Market:
    """The master's broker and the followers', moved together."""

    def __init__(self, history: History, master: Desk, followers: Mapping[str, Desk]) -> None:
        self.master = master
        self.followers = dict(followers)
        self._history = history
        self._cent = Decimal(1).scaleb(-history.money_digits)

    @property
    def desks(self) -> tuple[Desk, ...]:
        """Every account, the master's first."""
        return (self.master, *self.followers.values())

    def price(self, symbol: str, price: Decimal) -> None:
        """Let a symbol have this price everywhere."""
        learnt = self._history.specs[symbol]
        if learnt.valuation is Valuation.INVERSE:
            self._value(symbol, learnt.value / price)
        for desk in self.desks:
            desk.quote(symbol, price)

    def settle(self, closing: Closing) -> bool:
        """Let the master's closing bring what was recorded, to the coin; return whether it can."""
        offered = self.master.server.symbols[closing.symbol]
        gain, _ = self.master.server.rates.units(self.master.account, offered)
        if self._rounded(closing.move * closing.lots * gain) == closing.profit:
            return True
        if not closing.move or closing.profit / closing.move <= 0:
            return False
        self._value(closing.symbol, closing.profit / (closing.move * closing.lots))
        return True

    def _value(self, symbol: str, per_unit: Decimal) -> None:
        contract = self._history.specs[symbol].spec.contract_size
        for desk in self.desks:
            desk.value(symbol, per_unit, contract)

    def _rounded(self, money: Decimal) -> Decimal:
        return money.quantize(self._cent, ROUND_HALF_UP)


def master_desk(name: str, settings: PaperSettings, history: History, clock: Clock) -> Desk:
    """Return the account that repeats the past: tickets and volumes as recorded, no rule of a broker in the way."""
    plain = settings.model_copy(
        update={
            "margin": PaperMargin.OFF,
            "margin_mode": MarginMode.HEDGING,
            "symbols": type(settings.symbols)(),
            "currency": history.currency or settings.currency,
        }
    )
    balance = settings.balance if history.balance is None else history.balance
    return Desk(name, plain, history, clock, balance)


def _symbols(settings: PaperSettings, specs: Mapping[str, InferredSpec]) -> list[PaperSymbol]:
    return [_symbol(settings, learnt) for _, learnt in sorted(specs.items())]


def _symbol(settings: PaperSettings, learnt: InferredSpec) -> PaperSymbol:
    rules: dict[str, Any] = {}
    own = settings.symbols.overrides.get(learnt.symbol)
    if own is not None:
        rules = own.model_dump(exclude_none=True, exclude={"spread_points"})
    digits = rules.pop("digits", None)
    if settings.margin is PaperMargin.OFF:
        rules["margin_per_lot"] = ZERO
    elif learnt.valuation is Valuation.INVERSE:
        scale = rules.get("contract_size", learnt.spec.contract_size) / learnt.spec.contract_size
        rules["margin_per_lot"] = learnt.value * scale / settings.leverage
    plain = PaperSymbol(spec=learnt.spec, tick_money=TickMoney.SPEC)
    return variant(plain, prefix=settings.symbols.prefix, suffix=settings.symbols.suffix, digits=digits, **rules)
