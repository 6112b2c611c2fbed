"""A stand-in for the MT5Manager package over a `PaperServer`, as stubborn as the original.

False where a call fails, with `LastError`'s triple; volumes in 1/10,000 lots; caches that lag behind the server; orders that are
sent first and answered later on another thread; a reconnect that forgets dealing mode; prices only after `SelectedAdd`.
"""

import copy
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import IntEnum, IntFlag
from typing import Any

import msgspec

from copier.errors import Rejected
from copier.gateways.paper_account import OrderState, PaperAccount
from copier.gateways.paper_faults import NO_FAULT, Answer, Fault
from copier.gateways.paper_orders import MarketOrder
from copier.gateways.paper_rates import NoRate
from copier.gateways.paper_server import PaperServer
from copier.model import (
    CalcMode,
    Deal,
    DealEntry,
    DealReason,
    DealType,
    Execution,
    Filling,
    MarginMode,
    Position,
    Side,
    TradeMode,
)
from tests.fakes.mt5manager_records import Record, records

REASONS = {
    DealReason.CLIENT: 0,
    DealReason.EXPERT: 1,
    DealReason.OTHER: 2,
    DealReason.STOP_LOSS: 3,
    DealReason.TAKE_PROFIT: 4,
    DealReason.STOP_OUT: 5,
}
"""The Manager's own numbers; a dealer's trade is 2."""
DEAL_TYPES = {DealType.BUY: 0, DealType.SELL: 1, DealType.BALANCE: 2, DealType.CREDIT: 3, DealType.OTHER: 5}
ENTRIES = {DealEntry.IN: 0, DealEntry.OUT: 1, DealEntry.INOUT: 2, DealEntry.OUT_BY: 3}
SIDES = {0: Side.BUY, 1: Side.SELL}
FILLINGS = {0: Filling.FOK, 1: Filling.IOC, 2: Filling.RETURN}
FILL_BITS = {Filling.FOK: 1, Filling.IOC: 2}
TRADE_MODES = {mode: number for number, mode in enumerate(("disabled", "long_only", "short_only", "close_only", "full"))}
EXECUTIONS = {Execution.REQUEST: 0, Execution.INSTANT: 1, Execution.MARKET: 2, Execution.EXCHANGE: 3}
CALC_MODES = {
    CalcMode.FOREX: 0,
    CalcMode.FUTURES: 1,
    CalcMode.CFD: 2,
    CalcMode.CFD_INDEX: 3,
    CalcMode.CFD_LEVERAGE: 4,
    CalcMode.STOCKS: 32,
    CalcMode.OTHER: 64,
}
OUTSTANDING_MAX = 128
ERRORS = {
    0: "Done",
    3: "Invalid parameters",
    7: "Network error",
    8: "Not enough permissions",
    10: "No connection",
    13: "Not found",
    17: "Duplicate",
    1001: "Invalid account",
    10024: "Too many requests",
}


class EnMTAPIRetcode(IntEnum):
    """Those that the fake says."""

    MT_RET_OK = 0
    MT_RET_ERR_PARAMS = 3
    MT_RET_ERR_NETWORK = 7
    MT_RET_ERR_PERMISSIONS = 8
    MT_RET_ERR_CONNECTION = 10
    MT_RET_ERR_NOTFOUND = 13
    MT_RET_ERR_DUPLICATE = 17
    MT_RET_AUTH_ACCOUNT_INVALID = 1001
    MT_RET_REQUEST_TOO_MANY = 10024


class EnPumpModes(IntFlag):
    """Caches that are kept up to date."""

    PUMP_MODE_USERS = 1
    PUMP_MODE_ACTIVITY = 2
    PUMP_MODE_ORDERS = 8
    PUMP_MODE_POSITIONS = 128
    PUMP_MODE_GROUPS = 256
    PUMP_MODE_SYMBOLS = 512
    PUMP_MODE_TIME = 4096
    PUMP_MODE_REQUESTS = 16384


@dataclass(kw_only=True)
class RequestFault:
    """What goes wrong with one `DealerSend`."""

    broker: Fault = NO_FAULT
    error: int | None = None
    """`DealerSend` returns False with this error, and nothing is sent."""
    executes: bool = True
    retcode: int | None = None
    """The answer's code, whatever the server did."""
    answered: bool = True
    placed_s: float | None = None
    """The answer is 10008, the order is filled so much later and told only as a deal."""
    dropped: bool = False
    """The answer is 10008 and the order dies unfilled."""
    under_way: bool = False
    """10002 is answered first."""
    deal_hidden_s: float = 0.0
    """The deal cannot be read for so long after the answer."""


@dataclass(kw_only=True)
class FakeManagerServer:
    """A trade server as its managers see it."""

    server: PaperServer
    manager: int = 1000
    password: str = "secret"
    address: str = "mt5.broker.example:443"
    later: Callable[[float, Callable[[], None]], None] | None = None
    """Runs something after so many seconds; without it `pass_time` does, on the caller's thread."""
    latency_s: float = 0.0
    """Between a request and its answer."""
    request_s: float = 0.0
    """What a `...Request...` call takes: the caller's thread waits so long, through `sleep`."""
    sleep: Callable[[float], None] = lambda seconds: None
    cache_lag_s: float = 0.0
    """The caches show what happened so much later."""
    online: bool = True
    dealing_needed: bool = False
    not_found_when_flat: bool = False
    """`PositionRequest` of a login without positions is False and "not found", where others return an empty list."""
    rights: int = 1 | 2 | 16 | 64
    broker_fault: Fault = NO_FAULT
    fails: dict[str, int] = field(default_factory=dict)
    """Methods that return False with this error."""
    slow: dict[int, float] = field(default_factory=dict)
    """Logins whose requests are answered so much later."""
    next_requests: deque[RequestFault] = field(default_factory=deque)
    sent: list[dict[str, Any]] = field(default_factory=list)
    """Every request that reached the server, as it was then."""
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.managers: list[FakeManagerAPI] = []
        self.stuck: set[int] = set()
        """Positions that an order which never fills keeps from being closed."""
        self.past_orders: list[Record] = []
        self._due: list[tuple[int, Callable[[], None]]] = []
        self._hidden: dict[int, int] = {}
        self._told: dict[int, int] = {}
        self._positions: dict[int, tuple[Position, ...]] = {}
        for account in self.server.accounts.values():
            self.watch(account)

    @property
    def now_ms(self) -> int:
        """UTC."""
        return self.server.clock.now_ms()

    def watch(self, account: PaperAccount) -> None:
        """Tell the managers what happens on an account."""
        login = account.login
        self._told[login] = len(account.deals)
        self._positions[login] = ()
        account.listeners.append(lambda: self._changed(login))

    def soon(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something after so many seconds."""
        if self.later is not None:
            self.later(seconds, act)
        elif seconds <= 0:
            act()
        else:
            self._due.append((self.now_ms + round(seconds * 1000), act))

    def pass_time(self) -> None:
        """Do what was to happen by now."""
        while due := sorted((each for each in self._due if each[0] <= self.now_ms), key=lambda each: each[0]):
            self._due.remove(due[0])
            due[0][1]()

    def hide(self, deal: int, seconds: float) -> None:
        """Keep a deal from being read for a while."""
        self._hidden[deal] = self.now_ms + round(seconds * 1000)

    def hidden(self, deal: int) -> bool:
        """Say whether a deal cannot be read yet."""
        return self._hidden.get(deal, 0) > self.now_ms

    def lose_connection(self) -> None:
        """Cut every manager off."""
        for manager in self.managers:
            manager.disconnected()

    def reconnect(self) -> None:
        """Let every manager's own reconnecting succeed."""
        for manager in self.managers:
            manager.reconnected()

    def cached(self, login: int) -> tuple[Position, ...]:
        """Return the positions as the pump has brought them."""
        if not self.cache_lag_s:
            return self.server.positions(login)
        return self._positions.get(login, ())

    def start_lag(self, seconds: float) -> None:
        """From now on caches lag."""
        self._positions = {login: self.server.positions(login) for login in self.server.accounts}
        self.cache_lag_s = seconds

    def _changed(self, login: int) -> None:
        listed = self.server.positions(login)
        account = self.server.accounts[login]
        deals = account.deals[self._told[login] :]
        self._told[login] = len(account.deals)
        self.soon(self.cache_lag_s, lambda: self._pump(login, listed, deals))

    def _pump(self, login: int, listed: tuple[Position, ...], deals: list[Deal]) -> None:
        before = {each.identifier: each for each in self._positions.get(login, ())}
        after = {each.identifier: each for each in listed}
        self._positions[login] = listed
        for manager in self.managers:
            for key in sorted(before.keys() | after.keys()):
                name = "Add" if key not in before else "Delete" if key not in after else "Update"
                if before.get(key) != after.get(key):
                    manager.tell("PositionSubscribe", f"OnPosition{name}", manager.position(login, after.get(key) or before[key]))
            for deal in deals:
                if not self.hidden(deal.ticket):
                    manager.tell("DealSubscribe", "OnDealAdd", manager.deal(login, deal))


class FakeMT5Manager:
    """The package as one process sees it."""

    __version__ = "5.0.6231"
    EnMTAPIRetcode = EnMTAPIRetcode

    def __init__(self, server: FakeManagerServer) -> None:
        self.fake = server
        self.error = (0, EnMTAPIRetcode.MT_RET_OK, "Done")
        for name, kind in records().items():
            setattr(self, name, kind)
        package = self

        class ManagerAPI(FakeManagerAPI):
            def __init__(self) -> None:
                super().__init__(package)

        self.ManagerAPI = ManagerAPI

    def LastError(self) -> tuple[int, int, str]:
        """The result of the last call."""
        return self.error


def _networked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method that asks the server: slower than a cache, and False without a connection."""
    name = function.__name__

    def called(self: "FakeManagerAPI", *args: Any) -> Any:
        self.fake.calls.append(name)
        self.fake.sleep(self.fake.request_s)
        self.fake.pass_time()
        if not self.connected:
            return self.failed(10)
        if name in self.fake.fails:
            return self.failed(self.fake.fails[name])
        return function(self, *args)

    called.__name__ = name
    return called


def _cached(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method that looks into a cache, which is there without a connection too."""
    name = function.__name__

    def called(self: "FakeManagerAPI", *args: Any) -> Any:
        self.fake.calls.append(name)
        self.fake.pass_time()
        if name in self.fake.fails:
            return self.failed(self.fake.fails[name])
        return function(self, *args)

    called.__name__ = name
    return called


class FakeManagerAPI:
    """One manager's connection. Sinks are looked up by method name, and a missing method is no mistake."""

    EnPumpModes = EnPumpModes

    def __init__(self, package: FakeMT5Manager) -> None:
        self.package = package
        self.fake = package.fake
        self.connected = False
        self.dealing = False
        self.pumps = 0
        self._sinks: dict[str, list[Any]] = {}
        self._selected: set[str] = set()
        self._outstanding: set[int] = set()
        self._next = 0
        self._telling = threading.local()
        self._groups: dict[str, int] = {}

    def failed(self, code: int) -> bool:
        """Return False and keep the error."""
        self.package.error = (code, code, ERRORS.get(code, "Unknown error"))  # type: ignore[assignment]
        return False

    def tell(self, subscription: str, method: str, *args: Any) -> None:
        """Call a method of every sink; what it raises vanishes, as in the package."""
        for sink in tuple(self._sinks.get(subscription, ())):
            act = getattr(sink, method, None)
            if act is None:
                continue
            self._telling.now = True
            try:
                act(*args)
            finally:
                self._telling.now = False

    # connection

    def Subscribe(self, sink: Any) -> bool:
        """Connects and disconnects."""
        return self._subscribe("Subscribe", sink)

    def PositionSubscribe(self, sink: Any) -> bool:
        """Positions."""
        return self._subscribe("PositionSubscribe", sink)

    def DealSubscribe(self, sink: Any) -> bool:
        """Deals."""
        return self._subscribe("DealSubscribe", sink)

    def TickSubscribe(self, sink: Any) -> bool:
        """Prices."""
        return self._subscribe("TickSubscribe", sink)

    def _subscribe(self, name: str, sink: Any) -> bool:
        sinks = self._sinks.setdefault(name, [])
        if any(each is sink for each in sinks):
            return self.failed(17)
        sinks.append(sink)
        return True

    def Connect(self, server: str, login: int, password: str, pump_mode: int, timeout: int) -> bool:
        """Returns once the caches are filled."""
        if server != self.fake.address or not self.fake.online or not self.fake.server.online:
            return self.failed(7)
        if login != self.fake.manager or password != self.fake.password:
            return self.failed(1001)
        self.connected = True
        self.pumps = int(pump_mode)
        if self not in self.fake.managers:
            self.fake.managers.append(self)
        self.tell("Subscribe", "OnConnect")
        return True

    def Disconnect(self) -> bool:
        """Ends the connection for good."""
        self.connected = False
        if self in self.fake.managers:
            self.fake.managers.remove(self)
        return True

    def disconnected(self) -> None:
        """The network fails."""
        self.connected = self.dealing = False
        self.tell("Subscribe", "OnDisconnect")

    def reconnected(self) -> None:
        """The package connects again by itself; dealing mode is gone."""
        self.connected = True
        self.tell("Subscribe", "OnConnect")

    def DealerStart(self) -> bool:
        """From inside a callback it dead-locks (MetaQuotes' reference)."""
        assert not getattr(self._telling, "now", False), "DealerStart inside a callback never returns"
        if not self.connected:
            return self.failed(10)
        self.dealing = True
        return True

    def TimeServer(self) -> int:
        """The server's clock in seconds."""
        return self.fake.server.now_ms() // 1000

    # users, groups, symbols, prices

    def _account(self, login: int) -> PaperAccount | None:
        return self.fake.server.accounts.get(login)

    @_networked
    def UserRequest(self, login: int) -> Any:
        """False for a login that does not exist or is not seen."""
        account = self._account(login)
        if account is None:
            return self.failed(13)
        rights = self.fake.rights | (512 if account.investor else 0)
        group = "demo\\hedging" if account.demo else "real\\hedging"
        if account.margin_mode is MarginMode.NETTING:
            group = group.replace("hedging", "netting")
        return self._record("MTUser", Login=login, Name=account.name, Group=group, Leverage=account.leverage, Rights=rights)

    @_networked
    def UserAccountRequest(self, login: int) -> Any:
        """Money as the server has it now."""
        account = self._account(login)
        if account is None:
            return self.failed(13)
        equity, margin = self.fake.server.equity(login), account.margin()
        return self._record(
            "MTAccount",
            Login=login,
            Balance=float(account.balance),
            Credit=float(account.credit),
            Equity=float(equity),
            Margin=float(margin),
            MarginFree=float(equity - margin),
            MarginLevel=float(equity / margin * 100) if margin else 0.0,
            Floating=float(equity - account.balance - account.credit),
        )

    @_cached
    def GroupGet(self, name: str) -> Any:
        """From the cache."""
        mode = 0 if name.endswith("netting") else 2
        company = self.fake.server.company
        return self._record("MTConGroup", Group=name, Currency="USD", Company=company, MarginMode=mode)

    @_cached
    def SymbolGet(self, name: str, group: str = "") -> Any:
        """From the cache; with a group its own settings."""
        offered = self.fake.server.symbols.get(name)
        if offered is None:
            return self.failed(13)
        spec = offered.spec
        return self._record(
            "MTConSymbol",
            Symbol=name,
            Digits=spec.digits,
            Point=float(spec.point),
            TickSize=0.0 if spec.tick_size == spec.point else float(spec.tick_size),
            ContractSize=float(spec.contract_size),
            StopsLevel=spec.stops_level,
            FreezeLevel=spec.freeze_level,
            TradeMode=TRADE_MODES[spec.trade_mode],
            ExecMode=EXECUTIONS[spec.execution],
            FillFlags=sum(FILL_BITS.get(mode, 0) for mode in spec.fillings),
            CalcMode=CALC_MODES[spec.calc_mode],
            CurrencyBase=spec.currency_base,
            CurrencyProfit=spec.currency_profit,
            CurrencyMargin=spec.currency_margin,
            **_volumes("VolumeMin", spec.volume_min),
            **_volumes("VolumeStep", spec.volume_step),
            **_volumes("VolumeMax", spec.volume_max),
            **_volumes("VolumeLimit", spec.volume_limit),
        )

    @_cached
    def SymbolGetArray(self) -> Any:
        """All symbols of the cache."""
        return [self.SymbolGet(name) for name in sorted(self.fake.server.symbols)]

    @_cached
    def SelectedAdd(self, symbol: str) -> bool:
        """Asks for a symbol's prices."""
        if symbol not in self.fake.server.symbols:
            return self.failed(13)
        self._selected.add(symbol)
        return True

    @_cached
    def TickLast(self, symbol: str, group: str = "") -> Any:
        """False until the symbol is selected."""
        quote = self.fake.server.quotes.get(symbol)
        if quote is None or symbol not in self._selected:
            return self.failed(13)
        time_ms = quote.time_ms + self.fake.server.server_offset_s * 1000
        bid, ask = float(quote.bid), float(quote.ask)
        return self._record("MTTickShort", bid=bid, ask=ask, datetime=time_ms // 1000, datetime_msc=time_ms)

    @_cached
    def TradeProfit(self, group: str, symbol: str, type: int, volume: int, price_open: float, price_close: float) -> Any:
        """In the group's currency, rounded to cents, at today's rates."""
        server = self.fake.server
        account = next(iter(server.accounts.values()))
        move = _decimal(price_close) - _decimal(price_open)
        try:
            gain, loss = server.rates.units(account, server.symbols[symbol])
        except NoRate:
            return self.failed(13)
        unit = gain if move >= 0 else loss
        return float(round(move * unit * Decimal(volume) / 10_000, 2))

    # positions, deals, orders

    @_cached
    def PositionGet(self, login: int, symbol: str | None = None) -> Any:
        """From the cache, which may lag."""
        if self._account(login) is None:
            return self.failed(13)
        return [self.position(login, each) for each in self.fake.cached(login) if symbol in (None, each.symbol)]

    @_networked
    def PositionRequest(self, login: int) -> Any:
        """From the server."""
        if self._account(login) is None:
            return self.failed(13)
        listed = self.fake.server.positions(login)
        if not listed and self.fake.not_found_when_flat:
            return self.failed(13)
        return [self.position(login, each) for each in listed]

    @_networked
    def DealRequest(self, *args: Any) -> Any:
        """One deal by its ticket, or a login's between two moments of the server's clock."""
        server = self.fake.server
        if len(args) == 1:
            for login, account in server.accounts.items():
                for deal in account.deals:
                    if deal.ticket == args[0] and not self.fake.hidden(deal.ticket):
                        return self.deal(login, deal)
            return self.failed(13)
        login, start, end = args
        account = self._account(login)
        if account is None:
            return self.failed(13)
        return [self.deal(login, deal) for deal in account.deals if _seconds(start) <= deal.time.timestamp() <= _seconds(end)]

    @_networked
    def HistoryRequest(self, login: int, start: Any, end: Any) -> Any:
        """Orders that are over."""
        return [order for order in self.fake.past_orders if order.Login == login]

    def position(self, login: int, view: Position) -> Any:
        """Return a position's record."""
        time_ms = round(view.open_time.timestamp() * 1000)
        return self._record(
            "MTPosition",
            Position=view.ticket,
            ExpertPositionID=view.identifier,
            Login=login,
            Symbol=view.symbol,
            Action=0 if view.type is Side.BUY else 1,
            PriceOpen=float(view.open_price),
            PriceCurrent=float(view.current_price),
            PriceSL=float(view.stop_loss),
            PriceTP=float(view.take_profit),
            Profit=float(view.profit),
            Storage=float(view.swap),
            TimeCreate=time_ms // 1000,
            TimeCreateMsc=time_ms,
            ExpertID=view.magic,
            Comment=view.comment,
            **_volumes("Volume", view.lots),
        )

    def deal(self, login: int, deal: Deal) -> Any:
        """Return a deal's record."""
        time_ms = round(deal.time.timestamp() * 1000)
        return self._record(
            "MTDeal",
            Deal=deal.ticket,
            Order=deal.order,
            Login=login,
            Symbol=deal.symbol,
            Action=DEAL_TYPES[deal.type],
            Entry=ENTRIES[deal.entry],
            PositionID=deal.position_id,
            Price=float(deal.price),
            Commission=float(deal.commission),
            Fee=float(deal.fee),
            Storage=float(deal.swap),
            Profit=float(deal.profit),
            Time=time_ms // 1000,
            TimeMsc=time_ms,
            ExpertID=deal.magic,
            Comment=deal.comment,
            Reason=REASONS[deal.reason],
            **_volumes("Volume", deal.lots),
        )

    def _record(self, kind: str, **fields: Any) -> Any:
        record = records()[kind](self)
        for name, value in fields.items():
            setattr(record, name, value)
        return record

    # dealing

    def DealerSend(self, request: Any, sink: Any) -> Any:
        """Returns the request's number at once; the answer comes to the sink, on another thread."""
        fake = self.fake
        fake.pass_time()
        fault = fake.next_requests.popleft() if fake.next_requests else RequestFault(broker=fake.broker_fault)
        if not self.connected:
            return self.failed(10)
        if fault.error is not None or fault.broker.not_sent:
            return self.failed(10 if fault.error is None else fault.error)
        if len(self._outstanding) >= OUTSTANDING_MAX:
            return self.failed(10024)
        if not 200 <= request.Action <= 255:
            return self.failed(3)
        if fake.dealing_needed and not self.dealing:
            return self.failed(8)
        self._next += 1
        number = self._next
        self._outstanding.add(number)
        asked = copy.copy(request)
        asked.IDClient = number
        fake.sent.append(asked.told())
        wait_s = fake.latency_s + fake.slow.get(asked.Login, 0.0) + fault.broker.execute_delay_s
        fake.soon(wait_s, lambda: self._act(number, asked, sink, fault))
        return number

    def _act(self, number: int, asked: Any, sink: Any, fault: RequestFault) -> None:
        def answer(**results: Any) -> None:
            self._outstanding.discard(number)
            told = copy.copy(asked)
            for name, value in results.items():
                setattr(told, name, value)
            act = getattr(sink, "OnDealerAnswer", None)
            if act is not None and fault.answered and fault.broker.answer is Answer.GIVEN:
                act(told)

        if not (fault.executes and fault.broker.executed):
            if fault.retcode is not None:
                answer(ResultRetcode=fault.retcode, ResultComment="")
            return
        if fault.under_way:
            answer(ResultRetcode=10002, ResultComment="Accepted")
        if self._off_step(asked):
            self.fake.stuck.add(asked.Position)
            answer(ResultRetcode=10008, ResultOrder=self.fake.server._desk.next_ticket(), ResultComment="Placed")
        elif fault.placed_s is not None or fault.dropped:
            order = self.fake.server._desk.next_ticket()
            answer(ResultRetcode=10008, ResultOrder=order, ResultComment="Placed")
            self.fake.soon(fault.placed_s or 0.3, lambda: self._settle(order, asked, fault))
        else:
            results = self._executed(asked, fault)
            if fault.broker.twice:
                self._executed(asked, fault)
            if fault.retcode is not None:
                results["ResultRetcode"] = fault.retcode
            answer(**results)

    def _off_step(self, asked: Any) -> bool:
        offered = self.fake.server.symbols.get(asked.Symbol)
        return asked.Action == 200 and offered is not None and bool(_lots(asked) % offered.spec.volume_step)

    def _settle(self, order: int, asked: Any, fault: RequestFault) -> None:
        account = self.fake.server.accounts[asked.Login]
        if fault.dropped:
            volumes = {
                f"{name}{ext}": getattr(asked, f"Volume{ext}")
                for name in ("VolumeInitial", "VolumeCurrent")
                for ext in ("", "Ext")
            }
            self.fake.past_orders.append(self._record("MTOrder", Order=order, Login=asked.Login, State=5, **volumes))
            return
        done = len(account.deals)
        listeners, account.listeners[:] = list(account.listeners), []
        self._executed(asked, fault)
        # The order's own ticket stands on its deals, whatever the paper server numbered.
        for index in range(done, len(account.deals)):
            account.deals[index] = msgspec.structs.replace(account.deals[index], order=order)
        account.listeners[:] = listeners
        account.changed()

    def _executed(self, asked: Any, fault: RequestFault) -> dict[str, Any]:
        server = self.fake.server
        try:
            if asked.Action == 202:
                code = server.set_levels(
                    asked.Login, asked.Position, _decimal(asked.PriceSL), _decimal(asked.PriceTP), fault=fault.broker
                )
                return {"ResultRetcode": code, "ResultComment": "Done"}
            closing = bool(asked.Flags & 1)
            if closing and asked.Position in self.fake.stuck:
                return {"ResultRetcode": 10039, "ResultComment": "Close order exists"}
            order = MarketOrder(
                symbol=asked.Symbol,
                side=SIDES[asked.Type],
                lots=_lots(asked),
                position=asked.Position if closing else 0,
                price=_decimal(asked.PriceOrder),
                deviation=asked.PriceDeviation,
                filling=FILLINGS[asked.TypeFill],
                stop_loss=_decimal(asked.PriceSL),
                take_profit=_decimal(asked.PriceTP),
                comment=asked.Comment[:31],
                reason=DealReason.OTHER,
            )
            fill = server.deal(asked.Login, order, fault.broker)
        except Rejected as refusal:
            return {"ResultRetcode": refusal.code, "ResultComment": refusal.message}
        if fault.deal_hidden_s:
            self.fake.hide(fill.deal, fault.deal_hidden_s)
        return {
            "ResultRetcode": fill.code,
            "ResultOrder": fill.order,
            "ResultDeal": fill.deal,
            "ResultPrice": float(fill.price),
            "ResultComment": "Request executed",
            **_volumes("ResultVolume", fill.lots),
        }


def _volumes(name: str, lots: Decimal) -> dict[str, int]:
    return {name: int(lots * 10_000), f"{name}Ext": int(lots * 100_000_000)}


def _lots(asked: Any) -> Decimal:
    return Decimal(asked.VolumeExt) / 100_000_000 if asked.VolumeExt else Decimal(asked.Volume) / 10_000


def _decimal(value: float) -> Decimal:
    return Decimal(f"{value:.15g}").normalize() if value else Decimal(0)


def _seconds(moment: datetime) -> float:
    return moment.timestamp()


__all__ = ["FakeMT5Manager", "FakeManagerServer", "OrderState", "RequestFault", "TradeMode"]
