"""The simulated trade server: symbols, quotes, accounts, and what orders and prices do to them.

Synchronous and deterministic: time comes from the clock it is given, and nothing happens but inside a call. Real gateways'
far ends are faked on top of it, so a refusal carries the return code (MT5) or error number (MT4) a terminal would show.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from copier.clock import Clock
from copier.errors import Reason
from copier.gateway import no_quote
from copier.gateways.paper_account import OrderState, PaperAccount, PaperOrder, mt4_deals, server_time, view_of
from copier.gateways.paper_codes import DONE, MT4_DONE, MT4_NO_CHANGES, NO_CHANGES
from copier.gateways.paper_desk import Desk
from copier.gateways.paper_faults import NO_FAULT, Fault
from copier.gateways.paper_orders import Admitted, BrokerHabits, Fill, MarketOrder
from copier.gateways.paper_pending import Waiting, pending_view, side_of
from copier.gateways.paper_rates import NoRate, PaperQuote, Rates, money_of
from copier.gateways.paper_rules import (
    INVALID,
    INVALID_ORDER,
    MT4_INVALID,
    MT4_UNKNOWN_SYMBOL,
    check_filling,
    check_frozen,
    check_permission,
    price_of,
)
from copier.gateways.paper_symbols import DAY_S, PaperSymbol, as_rules, default_symbols, paper_symbols
from copier.gateways.paper_triggers import Triggers
from copier.model import (
    ZERO,
    Deal,
    DealReason,
    DealType,
    MarginMode,
    PendingOrder,
    PendingType,
    Position,
    Side,
    SymbolSpec,
    TradeMode,
)

_DAY_MS = DAY_S * 1000


class PaperServer:
    """A trade server. Quotes come in by `set_quote`, orders by `deal`, `close` and `set_levels`."""

    def __init__(
        self,
        name: str = "Paper-Demo",
        *,
        clock: Clock,
        symbols: Mapping[str, PaperSymbol] | Iterable[PaperSymbol | SymbolSpec] | None = None,
        server_offset_s: int = 0,
        company: str = "Paper Broker",
        habits: BrokerHabits | None = None,
        first_ticket: int = 1_000_001,
    ) -> None:
        self.name = name
        self.company = company
        self.clock = clock
        self.server_offset_s = server_offset_s
        self.habits = habits or BrokerHabits()
        if symbols is None:
            symbols = default_symbols()
        self.symbols = dict(symbols) if isinstance(symbols, Mapping) else paper_symbols(symbols)
        self.quotes: dict[str, PaperQuote] = {}
        self.rates = Rates(self.symbols, self.quotes)
        self.accounts: dict[int, PaperAccount] = {}
        self.online = True
        self.ticks = 0
        """Grows with every quote of any symbol."""
        self._desk = Desk(self.symbols, self.quotes, self.rates, self.habits, first_ticket)
        self._waiting = Waiting(self._desk)
        self._triggers = Triggers(self._desk, self._waiting, self.symbols, self.quotes, self.rates)
        self._midnight_ms = 0

    def add_account(self, account: PaperAccount) -> PaperAccount:
        """Register an account; its balance becomes the first deposit."""
        deposit, account.balance = account.balance, ZERO
        account.label = f"{account.login}@{self.name}"
        self.accounts[account.login] = account
        if deposit:
            self.move_money(account.login, deposit, comment="Deposit")
        return account

    def move_money(self, login: int, amount: Decimal | str, *, comment: str = "", type: DealType = DealType.BALANCE) -> Deal:
        """Book a deposit, or with a negative amount a withdrawal; of type credit it is credit."""
        account = self.accounts[login]
        now = self._pass_time()
        amount = Decimal(amount)
        deal = Deal(ticket=self._desk.next_deal(), type=type, profit=amount, time=server_time(now), comment=comment)
        account.book_deal(deal)
        if type is DealType.CREDIT:
            account.balance -= amount
            account.credit += amount
        account.changed()
        return deal

    def add_symbol(self, symbol: PaperSymbol) -> None:
        """Offer one more symbol, or another in place of the one of that name."""
        self.symbols[symbol.spec.symbol] = symbol
        self.rates.forget_paths()
        self._reprice()

    def change_symbol(self, symbol: str, **changes: Any) -> None:
        """Change rules of a symbol from now on: fields of its specification, or of its `PaperSymbol`."""
        offered, changes = self.symbols[symbol], as_rules(changes)
        of_spec = {name: changes.pop(name) for name in list(changes) if name in SymbolSpec.__struct_fields__}
        spec = msgspec.structs.replace(offered.spec, **of_spec)
        self.symbols[symbol] = msgspec.structs.replace(offered, spec=spec, **changes)
        self.rates.forget_paths()
        self._reprice()

    def set_rate(self, source: str, target: str, rate: Decimal | str) -> None:
        """Fix a conversion rate for which no symbol is quoted."""
        self.rates.fix(source, target, Decimal(rate))
        self._reprice()

    # quotes

    def set_quote(self, symbol: str, bid: Decimal | str, ask: Decimal | str) -> None:
        """Take a new price; stops, targets and stop-outs it triggers are done when this returns."""
        if type(bid) is not Decimal:
            bid = Decimal(bid)
        if type(ask) is not Decimal:
            ask = Decimal(ask)
        quote = self.quotes.get(symbol)
        if quote is None:
            if symbol not in self.symbols:
                raise KeyError(f"{self.name} offers no {symbol}, only {', '.join(sorted(self.symbols))}")
            quote = self.quotes[symbol] = PaperQuote(bid, ask, 0)
            self.rates.forget_paths()
        if not ZERO < bid <= ask:
            raise ValueError(f"{symbol}: expected 0 < bid <= ask, not {bid} and {ask}")
        now = self._pass_time()
        quote.bid, quote.ask, quote.time_ms = bid, ask, now - self.server_offset_s * 1000
        self.ticks += 1
        if self._desk.holders.get(symbol) or symbol in self._waiting.by_symbol:
            self._triggers.look(symbol, quote, now)

    def now_ms(self) -> int:
        """Return the server's own clock in milliseconds, written as if it were UTC."""
        return self.clock.now_ms() + self.server_offset_s * 1000

    # reading

    def positions(self, login: int) -> tuple[Position, ...]:
        """Return an account's open positions as its terminal shows them, oldest first."""
        account = self.accounts[login]
        listed = account.listed
        if listed is not None and listed[0] == account.revision and listed[1] == self.ticks:
            return listed[2]
        chained = account.mt4
        views = []
        for symbol, book in account.books.items():
            quote, units = self.quotes[symbol], self.rates.units(account, self.symbols[symbol])
            for each in book.positions.values():
                price = quote.to_close(each.side)
                profit = account.round(money_of((price - each.open_price) * each.side.sign, each.lots, units))
                views.append(view_of(each, price, profit, chained=chained))
        if len(account.books) > 1:
            views.sort(key=_by_ticket)
        account.listed = (account.revision, self.ticks, tuple(views))
        return account.listed[2]

    def position(self, login: int, ticket: int) -> Position | None:
        """Return one open position as its terminal shows it."""
        account = self.accounts[login]
        position = account.positions.get(ticket)
        if position is None:
            return None
        quote = self.quotes[position.symbol]
        price, units = quote.to_close(position.side), self.rates.units(account, self.symbols[position.symbol])
        profit = account.round(money_of((price - position.open_price) * position.side.sign, position.lots, units))
        return view_of(position, price, profit, chained=account.mt4)

    def deals(self, login: int, since: datetime, position_id: int | None = None) -> tuple[Deal, ...]:
        """Return the deals from `since` (server clock) on, or all of one position, as its terminal shows them."""
        account = self.accounts[login]
        if account.mt4:
            return mt4_deals(account, since, position_id)
        return account.deals_since(since, position_id)

    def equity(self, login: int) -> Decimal:
        """Return balance, credit and the floating result, swap and unbooked commission included."""
        return self._desk.equity(self.accounts[login])

    def spec(self, login: int, symbol: str) -> SymbolSpec:
        """Return a symbol's rules with tick values and margin in the account's money at the present rates."""
        account, offered = self.accounts[login], self.symbols[symbol]
        spec = offered.spec
        quote = self.quotes.get(symbol)
        try:
            gain, loss = self.rates.units(account, offered)
            margin = quote and self.rates.margin_per_lot(account, offered, Side.BUY, quote.ask)
        except NoRate:
            return spec
        return msgspec.structs.replace(
            spec,
            tick_value=_shown(gain * spec.tick_size),
            tick_value_loss=_shown(loss * spec.tick_size),
            margin_per_lot=margin and _shown(margin),
        )

    # trading

    def buy(self, login: int, symbol: str, lots: Decimal | str, **more: Any) -> Fill:
        """Buy at market by hand; `more` are fields of `MarketOrder`."""
        return self.deal(login, MarketOrder(symbol=symbol, side=Side.BUY, lots=Decimal(lots), **more))

    def sell(self, login: int, symbol: str, lots: Decimal | str, **more: Any) -> Fill:
        """Sell at market by hand; `more` are fields of `MarketOrder`."""
        return self.deal(login, MarketOrder(symbol=symbol, side=Side.SELL, lots=Decimal(lots), **more))

    def close(self, login: int, ticket: int, lots: Decimal | str | None = None, fault: Fault = NO_FAULT, **more: Any) -> Fill:
        """Close a position or `lots` of it; `more` are fields of `MarketOrder`."""
        account = self.accounts[login]
        position = account.positions.get(ticket)
        if position is None:
            raise account.refuse(Reason.INVALID_TICKET)
        order = MarketOrder(
            symbol=position.symbol,
            side=position.side.opposite,
            lots=position.lots if lots is None else Decimal(lots),
            position=ticket,
            **more,
        )
        return self.deal(login, order, fault)

    def deal(self, login: int, order: MarketOrder, fault: Fault = NO_FAULT) -> Fill:
        """Execute a market order; raise `Rejected` with the platform's number where it is refused."""
        account = self.accounts[login]
        now = self._pass_time()
        check_permission(account, order.reason)
        if fault.reason is not None:
            raise account.refuse(fault.reason, mt5=fault.code, mt4=fault.code)
        offered, quote = self._tradable(account, order.symbol, now)
        spec = offered.spec
        check_filling(account, spec, order.filling)
        price = price_of(account, spec, quote, order.side, order.price, order.deviation)
        if fault.slip_points:
            price += order.side.sign * fault.slip_points * spec.point
        job = Admitted(account, offered, quote, order, price, now, fault)
        if order.position:
            fill = self._desk.close(job)
        elif account.margin_mode is MarginMode.NETTING and (held := next(account.on(order.symbol), None)) is not None:
            fill = self._desk.net(job, held)
        else:
            fill = self._desk.open(job)
        if fault.new_ticket and fill.position in account.positions:
            fill = msgspec.structs.replace(fill, position=self.replace_ticket(login, fill.position))
        account.changed()
        return fill

    def set_levels(
        self,
        login: int,
        ticket: int,
        stop_loss: Decimal,
        take_profit: Decimal,
        *,
        reason: DealReason = DealReason.CLIENT,
        fault: Fault = NO_FAULT,
    ) -> int:
        """Set both levels (0 is none) and return the platform's code: done, or that nothing changed."""
        account = self.accounts[login]
        now = self._pass_time()
        check_permission(account, reason)
        if fault.reason is not None:
            raise account.refuse(fault.reason, mt5=fault.code, mt4=fault.code)
        position = account.positions.get(ticket)
        if position is None:
            raise account.refuse(Reason.INVALID_TICKET)
        offered, quote = self._tradable(account, position.symbol, now)
        if stop_loss == position.stop_loss and take_profit == position.take_profit:
            return MT4_NO_CHANGES if account.mt4 else NO_CHANGES
        check_frozen(account, offered.spec, position, quote)
        new_stop = ZERO if stop_loss == position.stop_loss else stop_loss
        new_target = ZERO if take_profit == position.take_profit else take_profit
        self._desk.check_levels(account, offered, position.side, quote, new_stop, new_target)
        position.stop_loss, position.take_profit, position.view = stop_loss, take_profit, None
        account.books[position.symbol].changed()
        if fault.new_ticket:
            self.replace_ticket(login, ticket)
        account.changed()
        return MT4_DONE if account.mt4 else DONE

    def close_by(self, login: int, ticket: int, by: int, *, reason: DealReason = DealReason.CLIENT) -> Fill:
        """Close a position by an opposite one of the same symbol; what is left of the larger stays open."""
        account = self.accounts[login]
        now = self._pass_time()
        check_permission(account, reason)
        first, second = account.positions.get(ticket), account.positions.get(by)
        if first is None or second is None:
            raise account.refuse(Reason.INVALID_TICKET)
        offered, quote = self._tradable(account, first.symbol, now)
        if account.margin_mode is MarginMode.NETTING or first.symbol != second.symbol or first.side is second.side:
            raise account.refuse(Reason.REFUSED, "Invalid request: no opposite positions", mt5=INVALID, mt4=MT4_INVALID)
        lots = min(first.lots, second.lots)
        order = MarketOrder(symbol=first.symbol, side=first.side.opposite, lots=lots, position=ticket, reason=reason)
        fill = self._desk.close_by(Admitted(account, offered, quote, order, quote.bid, now, NO_FAULT), first, second)
        account.changed()
        return fill

    # orders that wait

    def place(
        self,
        login: int,
        symbol: str,
        type: PendingType,
        lots: Decimal | str,
        price: Decimal | str,
        *,
        expires_ms: int = 0,
        fault: Fault = NO_FAULT,
        **more: Any,
    ) -> int:
        """Place a pending order and return its ticket; `more` are fields of `PaperOrder`. Raise `Rejected`."""
        account, lots = self.accounts[login], Decimal(lots)
        now = self._pass_time()
        order = PaperOrder(
            ticket=0,
            symbol=symbol,
            side=side_of(type),
            type=type,
            state=OrderState.PLACED,
            lots=lots,
            lots_left=lots,
            price=Decimal(price),
            setup_ms=now,
            expires_ms=expires_ms,
            **more,
        )
        check_permission(account, order.reason)
        if fault.reason is not None:
            raise account.refuse(fault.reason, mt5=fault.code, mt4=fault.code)
        offered, quote = self._tradable(account, symbol, now)
        order.ticket = self._desk.next_ticket()
        self._waiting.place(account, offered, quote, order)
        account.changed()
        return order.ticket

    def change_pending(self, login: int, ticket: int, **changes: Any) -> None:
        """Change price, levels or expiration of a waiting order; raise `Rejected`."""
        account, order, now = self._pending(login, ticket)
        offered, quote = self._tradable(account, order.symbol, now)
        self._waiting.change(account, offered, quote, msgspec.structs.replace(order, **changes))
        account.changed()

    def cancel_pending(self, login: int, ticket: int) -> None:
        """Cancel a waiting order; raise `Rejected`."""
        account, order, now = self._pending(login, ticket)
        self._waiting.finish(account, order, OrderState.CANCELED, now)
        account.changed()

    def pending_orders(self, login: int) -> tuple[PendingOrder, ...]:
        """Return an account's waiting orders, oldest first."""
        return tuple(pending_view(order) for order in self.accounts[login].pending.values())

    def replace_ticket(self, login: int, ticket: int) -> int:
        """Give a position a new ticket, as servers do when they book swap by re-opening; return it."""
        account = self.accounts[login]
        position = account.positions[ticket]
        account.remove(position)
        position.ticket, position.view = self._desk.next_ticket(), None
        account.add(position)
        account.changed()
        return position.ticket

    def set_comment(self, login: int, ticket: int, comment: str) -> None:
        """Change an open position's comment, as brokers do at any time."""
        account = self.accounts[login]
        position = account.positions[ticket]
        position.comment, position.view = comment, None
        account.changed()

    def set_costs(self, login: int, ticket: int, *, swap: Decimal, commission: Decimal) -> None:
        """Set what a position's closing will book (negative is a cost); nothing else is charged on it from now on."""
        account = self.accounts[login]
        position = account.positions[ticket]
        position.swap, position.commission = account.round(swap), account.round(commission)
        position.costs_fixed, position.view = True, None
        account.books[position.symbol].changed()
        account.changed()

    # inside

    def _pending(self, login: int, ticket: int) -> tuple[PaperAccount, PaperOrder, int]:
        account = self.accounts[login]
        now = self._pass_time()
        check_permission(account, DealReason.CLIENT)
        order = account.pending.get(ticket)
        if order is None:
            raise account.refuse(Reason.INVALID_TICKET, "Pending order does not exist", mt5=INVALID_ORDER)
        return account, order, now

    def _tradable(self, account: PaperAccount, symbol: str, now: int) -> tuple[PaperSymbol, PaperQuote]:
        offered = self.symbols.get(symbol)
        if offered is None:
            raise account.refuse(Reason.REFUSED, no_quote(symbol), mt5=INVALID, mt4=MT4_UNKNOWN_SYMBOL)
        if offered.spec.trade_mode is TradeMode.DISABLED:
            raise account.refuse(Reason.TRADE_DISABLED)
        if not offered.trades_at(now):
            raise account.refuse(Reason.MARKET_CLOSED)
        quote = self.quotes.get(symbol)
        if quote is None:
            raise account.refuse(Reason.PRICE_OFF, no_quote(symbol))
        return offered, quote

    def _reprice(self) -> None:
        self.ticks += 1
        for account in self.accounts.values():
            account.revision += 1

    def _pass_time(self) -> int:
        """Return the server's clock, after booking the swap of every midnight since the last look at it."""
        now = self.clock.now_ms() + self.server_offset_s * 1000
        if now >= self._midnight_ms:
            midnight = (now // _DAY_MS + 1) * _DAY_MS
            while self._midnight_ms and self._midnight_ms < midnight:
                self._triggers.roll_over(self.accounts, (self._midnight_ms // _DAY_MS + 2) % 7)
                self._midnight_ms += _DAY_MS
            self._midnight_ms = midnight
        return now


def _by_ticket(position: Position) -> int:
    return position.ticket


def _shown(value: Decimal) -> Decimal:
    return round(value, 10).normalize()
