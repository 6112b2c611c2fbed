"""A MetaTrader 5 terminal without MetaTrader: logged in to an account of a paper server, with everything terminals do wrong.

It outlives whoever is attached to it, as a terminal outlives a killed process. What it shows is the server's, later.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import msgspec

from copier.errors import Rejected
from copier.gateways.paper_account import OrderState, PaperAccount, PaperOrder
from copier.gateways.paper_faults import NO_FAULT, Fault
from copier.gateways.paper_orders import Fill, MarketOrder
from copier.gateways.paper_server import PaperServer
from copier.model import Deal, DealEntry, DealReason, DealType, Filling, PendingType, Side
from tests.fakes.mt5_structs import struct

FILLINGS = {0: Filling.FOK, 1: Filling.IOC, 2: Filling.RETURN}
SIDES = {0: Side.BUY, 1: Side.SELL}
REASONS = {
    DealReason.CLIENT: 0,
    DealReason.EXPERT: 3,
    DealReason.STOP_LOSS: 4,
    DealReason.TAKE_PROFIT: 5,
    DealReason.STOP_OUT: 6,
    DealReason.OTHER: 7,
}
DEAL_TYPES = {DealType.BUY: 0, DealType.SELL: 1, DealType.BALANCE: 2, DealType.CREDIT: 3, DealType.OTHER: 5}
ENTRIES = {DealEntry.IN: 0, DealEntry.OUT: 1, DealEntry.INOUT: 2, DealEntry.OUT_BY: 3}
STATES = {
    OrderState.PLACED: 1,
    OrderState.CANCELED: 2,
    OrderState.PARTIAL: 3,
    OrderState.FILLED: 4,
    OrderState.REJECTED: 5,
    OrderState.EXPIRED: 6,
}
PENDING_TYPES = {
    PendingType.BUY_LIMIT: 2,
    PendingType.SELL_LIMIT: 3,
    PendingType.BUY_STOP: 4,
    PendingType.SELL_STOP: 5,
    PendingType.BUY_STOP_LIMIT: 6,
    PendingType.SELL_STOP_LIMIT: 7,
}


class Hung(BaseException):
    """The call never returns."""


@dataclass(kw_only=True)
class OrderFault:
    """What goes wrong with one `order_send`."""

    broker: Fault = NO_FAULT
    """What the server does differently."""
    executes: bool = True
    error: int | None = None
    """The call returns None and `last_error` is this."""
    retcode: int | None = None
    """The answer's code, whatever the server did."""
    hangs: bool = False
    placed_s: float | None = None
    """The answer is 10008 and the order is filled so much later."""
    dropped: bool = False
    """The answer is 10008 and the order dies unfilled, or filled as far as `broker` says."""
    price_hidden: bool = False
    """The answer names no price, as with market execution at some brokers."""


@dataclass(kw_only=True)
class FakeTerminal:
    """One installed terminal."""

    server: PaperServer
    login: int
    path: str = "C:\\Terminals\\one\\terminal64.exe"
    data_path: str = ""
    passwords: dict[int, str] = field(default_factory=dict)
    algo_trading: bool = True
    """The Algo Trading button."""
    api_disabled: bool = False
    """The option "Disable automatic trading via external Python API"."""
    connected: bool = True
    startable: bool = True
    unselected_tick: str = "zero"
    """What `symbol_info_tick` gives for a symbol outside Market Watch: `zero` or `none`."""
    lag_s: float = 0.0
    """Lists show what happened so much later than the answer."""
    synchronise_s: float = 0.0
    """Lists stay empty for so long after someone attaches."""
    orders_margin: float = 0.0
    """What the account shows as margin besides that of its positions."""
    hangs: set[str] = field(default_factory=set)
    """Functions that never return."""
    fails: dict[str, int] = field(default_factory=dict)
    """Functions that return None or False with this error."""
    broker_fault: Fault = NO_FAULT
    """What the server does differently with every order, besides."""
    next_orders: deque[OrderFault] = field(default_factory=deque)
    selected: set[str] = field(default_factory=set)
    sent: list[dict[str, Any]] = field(default_factory=list)
    """Every request that reached the terminal."""
    life: int = 0
    """Grows when the terminal ends: whoever was attached has lost it."""

    def __post_init__(self) -> None:
        self._synchronised_ms = 0
        self._past: deque[tuple[int, tuple[Any, ...]]] = deque()
        self._later: list[tuple[int, Callable[[], None]]] = []
        self._waiting: dict[int, tuple[dict[str, Any], OrderState, float]] = {}
        self.account.listeners.append(self._changed)
        self._request_id = 0

    # life

    @property
    def account(self) -> PaperAccount:
        return self.server.accounts[self.login]

    @property
    def now_ms(self) -> int:
        """UTC."""
        return self.server.clock.now_ms()

    def crash(self) -> None:
        """End the terminal; it can be started again."""
        self.life += 1

    def attached(self) -> None:
        """Someone connects: lists may need time to fill."""
        self._synchronised_ms = self.now_ms + round(self.synchronise_s * 1000)

    def switch(self, login: int) -> None:
        """Log in to another account of the server, as a human may at any time."""
        self.account.listeners.remove(self._changed)
        self.login = login
        self.account.listeners.append(self._changed)
        self._past.clear()

    def pass_time(self) -> None:
        """Do what was to happen by now."""
        due = [each for each in self._later if each[0] <= self.now_ms]
        self._later = [each for each in self._later if each[0] > self.now_ms]
        for _, act in due:
            act()

    @property
    def synchronising(self) -> bool:
        return self.now_ms < self._synchronised_ms

    # lists

    def positions(self) -> tuple[Any, ...]:
        if self.synchronising:
            return ()
        if not self.lag_s or not self._past:
            return self._positions_now()
        horizon = self.now_ms - round(self.lag_s * 1000)
        while len(self._past) > 1 and self._past[1][0] <= horizon:
            self._past.popleft()
        return self._past[0][1]

    def start_lag(self, lag_s: float) -> None:
        """From now on lists lag."""
        self.lag_s = lag_s
        self._past.clear()
        self._past.append((0, self._positions_now()))

    def _changed(self) -> None:
        if self.lag_s:
            self._past.append((self.now_ms, self._positions_now()))

    def _positions_now(self) -> tuple[Any, ...]:
        rows = []
        for view in self.server.positions(self.login):
            kept = self.account.positions[view.ticket]
            opened_ms = kept.open_ms
            rows.append(
                struct(
                    "TradePosition",
                    ticket=view.ticket,
                    time=opened_ms // 1000,
                    time_msc=opened_ms,
                    time_update=kept.update_ms // 1000,
                    time_update_msc=kept.update_ms,
                    type=0 if view.type is Side.BUY else 1,
                    magic=view.magic,
                    identifier=view.identifier,
                    reason=REASONS.get(kept.reason, 0),
                    volume=float(view.lots),
                    price_open=float(view.open_price),
                    sl=float(view.stop_loss),
                    tp=float(view.take_profit),
                    price_current=float(view.current_price),
                    swap=float(view.swap),
                    profit=float(view.profit),
                    symbol=view.symbol,
                    comment=view.comment,
                )
            )
        return tuple(rows)

    def deals(self) -> tuple[Any, ...]:
        if self.synchronising:
            return ()
        horizon = self.server.now_ms() - round(self.lag_s * 1000)
        return tuple(_deal(deal) for deal in self.account.deals if not self.lag_s or deal.time.timestamp() * 1000 <= horizon)

    def past_orders(self) -> tuple[Any, ...]:
        if self.synchronising:
            return ()
        dead = tuple(
            self._placed_row(ticket, request, state, filled)
            for ticket, (request, state, filled) in self._waiting.items()
            if state is not OrderState.PLACED
        )
        return (*(_order(order) for order in self.account.orders), *dead)

    def active_orders(self) -> tuple[Any, ...]:
        if self.synchronising:
            return ()
        placed = tuple(
            self._placed_row(ticket, request, state, filled)
            for ticket, (request, state, filled) in self._waiting.items()
            if state is OrderState.PLACED
        )
        return (*(_order(order) for order in self.account.pending.values()), *placed)

    def _placed_row(self, ticket: int, request: dict[str, Any], state: OrderState, filled: float) -> Any:
        return struct(
            "TradeOrder",
            ticket=ticket,
            type=request["type"],
            state=STATES[state],
            volume_initial=request["volume"],
            volume_current=round(request["volume"] - filled, 8),
            symbol=request["symbol"],
        )

    # orders

    def take_order(self, request: dict[str, Any]) -> tuple[int | None, Any]:
        """Do what a request asks; return the package's error, or the server's answer."""
        self.sent.append(dict(request))
        fault = self.next_orders.popleft() if self.next_orders else OrderFault()
        fault = replace(fault, broker=self.broker_fault | fault.broker)
        if fault.error is not None and not fault.executes:
            return fault.error, None
        if fault.hangs and not fault.executes:
            raise Hung
        if not self.algo_trading:
            return None, self._answer(10027, request, "AutoTrading disabled by client")
        if not self.connected:
            return None, self._answer(10031, request, "No connection")
        if fault.dropped or fault.placed_s is not None:
            return None, self._place(request, fault)
        if not fault.executes:
            return None, self._answer(fault.retcode or 10011, request, "")
        answer = self._execute(request, fault)
        if fault.hangs:
            raise Hung
        if fault.error is not None:
            return fault.error, None
        return None, answer

    def _place(self, request: dict[str, Any], fault: OrderFault) -> Any:
        ticket = self.server._desk.next_ticket()
        self._waiting[ticket] = (request, OrderState.PLACED, 0.0)
        account = self.account

        def settle() -> None:
            del self._waiting[ticket]
            if fault.dropped and fault.broker.fraction is None:
                self._waiting[ticket] = (request, OrderState.REJECTED, 0.0)
                return
            done = len(account.deals)
            self._execute(request, fault)
            # The order's own ticket stands on its deals, whatever the paper server numbered.
            for index in range(done, len(account.deals)):
                deal = account.deals[index]
                renamed = msgspec.structs.replace(deal, order=ticket)
                account.deals[index] = renamed
                if fault.dropped:
                    self._waiting[ticket] = (request, OrderState.CANCELED, float(deal.lots))

        self._later.append((self.now_ms + round((fault.placed_s or 0.3) * 1000), settle))
        return self._answer(10008, request, "Request placed", order=ticket)

    def _execute(self, request: dict[str, Any], fault: OrderFault) -> Any:
        try:
            match request["action"]:
                case 1:
                    return self._deal(request, fault)
                case 6:
                    return self._set_levels(request, fault)
                case _:
                    return self._answer(10013, request, "Invalid request")
        except Rejected as refusal:
            return self._answer(refusal.code, request, refusal.message)

    def _deal(self, request: dict[str, Any], fault: OrderFault) -> Any:
        if request["symbol"] in self.server.symbols and request["symbol"] not in self.selected:
            return self._answer(10021, request, "No prices")
        order = MarketOrder(
            symbol=request["symbol"],
            side=SIDES[request["type"]],
            lots=_decimal(request["volume"]),
            position=request["position"],
            price=_decimal(request["price"]),
            deviation=request["deviation"],
            filling=FILLINGS.get(request["type_filling"]),
            stop_loss=_decimal(request["sl"]),
            take_profit=_decimal(request["tp"]),
            magic=request["magic"],
            comment=request["comment"],
            reason=DealReason.EXPERT,
        )
        fill: Fill = self.server.deal(self.login, order, fault.broker)
        return self._answer(
            fault.retcode or fill.code,
            request,
            "Request executed",
            order=fill.order,
            deal=fill.deal,
            volume=float(fill.lots),
            price=0.0 if fault.price_hidden else float(fill.price),
            bid=float(fill.bid),
            ask=float(fill.ask),
        )

    def _set_levels(self, request: dict[str, Any], fault: OrderFault) -> Any:
        ticket = request["position"]
        if not ticket:
            ticket = next((each.ticket for each in self.account.on(request["symbol"])), 0)
        stop, target = _decimal(request["sl"]), _decimal(request["tp"])
        code = self.server.set_levels(self.login, ticket, stop, target, reason=DealReason.EXPERT, fault=fault.broker)
        return self._answer(fault.retcode or code, request, "Request executed")

    def _answer(self, retcode: int, request: dict[str, Any], comment: str, **more: Any) -> Any:
        self._request_id += 1
        return struct(
            "OrderSendResult",
            retcode=retcode,
            comment=comment[:31],
            request_id=self._request_id,
            request=struct("TradeRequest", **request),
            **more,
        )


def _decimal(value: float) -> Decimal:
    return Decimal(repr(value)).normalize() if value else Decimal(0)


def _deal(deal: Deal) -> Any:
    time_ms = round(deal.time.timestamp() * 1000)
    return struct(
        "TradeDeal",
        ticket=deal.ticket,
        order=deal.order,
        time=time_ms // 1000,
        time_msc=time_ms,
        type=DEAL_TYPES[deal.type],
        entry=ENTRIES[deal.entry],
        magic=deal.magic,
        position_id=deal.position_id,
        reason=REASONS[deal.reason],
        volume=float(deal.lots),
        price=float(deal.price),
        commission=float(deal.commission),
        swap=float(deal.swap),
        profit=float(deal.profit),
        fee=float(deal.fee),
        symbol=deal.symbol,
        comment=deal.comment,
    )


def _order(order: PaperOrder) -> Any:
    return struct(
        "TradeOrder",
        ticket=order.ticket,
        time_setup=order.setup_ms // 1000,
        time_setup_msc=order.setup_ms,
        time_done=order.done_ms // 1000,
        time_done_msc=order.done_ms,
        type=PENDING_TYPES[order.type] if order.type else 0 if order.side is Side.BUY else 1,
        state=STATES[order.state],
        magic=order.magic,
        position_id=order.position_id,
        reason=REASONS.get(order.reason, 0),
        volume_initial=float(order.lots),
        volume_current=float(order.lots_left),
        price_open=float(order.price),
        sl=float(order.stop_loss),
        tp=float(order.take_profit),
        price_stoplimit=float(order.limit_price),
        symbol=order.symbol,
        comment=order.comment,
    )
