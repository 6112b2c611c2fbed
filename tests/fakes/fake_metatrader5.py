"""A stand-in for the MetaTrader5 package over a `FakeTerminal`, as stubborn as the original.

Each function's docstring names the behaviour it copies, and whether it was read from the 5.0.6231 wheel or stands in MetaQuotes'
reference. What nobody has confirmed on a real terminal stands in docs/gateways/mt5.md, under "first things to try".
"""

import fnmatch
import functools
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

from copier.gateways.paper_rates import NoRate
from copier.model import CalcMode, Execution, Filling, MarginMode, Side, TradeMode
from tests.fakes.mt5_fake_terminal import FakeTerminal, Hung
from tests.fakes.mt5_structs import CONSTANTS, struct

__all__ = ["FakeMetaTrader5", "FakeTerminal", "Hung"]

ERRORS = {
    1: "Success",
    -1: "Terminal: Call failed",
    -2: "Terminal: Invalid params",
    -4: "Terminal: Not found",
    -6: "Terminal: Authorization failed",
    -8: "Auto-Trading using Python API disabled in Terminal",
    -10001: "IPC send failed",
    -10002: "IPC recv failed",
    -10003: "IPC initialize failed",
    -10004: "No IPC connection",
    -10005: "IPC timeout",
}
FLOATS = ("volume", "price", "stoplimit", "sl", "tp")
WHOLES = ("action", "order", "deviation", "type", "type_filling", "type_time", "expiration", "position", "position_by", "magic")
UNSIGNED = ("order", "deviation", "position", "position_by", "magic")
TEXTS = ("symbol", "comment")
TEXT_UNITS_MAX = 29
CALC_MODES = {
    CalcMode.FOREX: 0,
    CalcMode.FUTURES: 1,
    CalcMode.CFD: 2,
    CalcMode.CFD_INDEX: 3,
    CalcMode.CFD_LEVERAGE: 4,
    CalcMode.STOCKS: 32,
    CalcMode.OTHER: 64,
}
TRADE_MODES = {
    TradeMode.DISABLED: 0,
    TradeMode.LONG_ONLY: 1,
    TradeMode.SHORT_ONLY: 2,
    TradeMode.CLOSE_ONLY: 3,
    TradeMode.FULL: 4,
}
EXECUTIONS = {Execution.REQUEST: 0, Execution.INSTANT: 1, Execution.MARKET: 2, Execution.EXCHANGE: 3}


def _call(failure: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Wrap a function of the package: reset the error, need a connection, obey the terminal's faults."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__

        @functools.wraps(function)
        def called(self: "FakeMetaTrader5", *args: Any, **keywords: Any) -> Any:
            self._error = (1, ERRORS[1])
            if self._terminal is None or self._life != self._terminal.life:
                self._terminal = None
                return self._failed(-10004, failure)
            self._terminal.pass_time()
            if name in self._terminal.hangs:
                raise Hung
            if name in self._terminal.fails:
                code = self._terminal.fails[name]
                if code <= -10000:
                    self._terminal = None
                return self._failed(code, failure)
            return function(self, *args, **keywords)

        return called

    return decorate


class FakeMetaTrader5:
    """The package as one process sees it: at most one terminal, one last error."""

    __version__ = "5.0.6231"
    __author__ = "a fake"

    def __init__(self, *installed: FakeTerminal) -> None:
        self._installed = installed
        self._terminal: FakeTerminal | None = None
        self._life = 0
        self._error = (1, ERRORS[1])

    def __getattr__(self, name: str) -> Any:
        try:
            return CONSTANTS[name]
        except KeyError:
            raise AttributeError(f"module 'MetaTrader5' has no attribute {name!r}") from None

    def _failed(self, code: int, failure: Any, text: str = "") -> Any:
        self._error = (code, text or ERRORS.get(code, "Unknown error"))
        return failure

    def _refused(self, code: int) -> bool:
        self._failed(code, None)
        return False

    # connection

    def initialize(self, *place: str, **keywords: Any) -> bool:
        """Closes any former connection first, takes only the path by position, ignores keywords it does not know (wheel)."""
        self._error = (1, ERRORS[1])
        self._terminal = None
        path = place[0] if place else keywords.get("path", "")
        found = next((each for each in self._installed if not path or each.path.lower() == path.lower()), None)
        if found is None or not found.startable:
            return self._refused(-10003)
        if "initialize" in found.hangs:
            raise Hung
        if "initialize" in found.fails:
            return self._refused(found.fails["initialize"])
        self._terminal, self._life = found, found.life
        found.attached()
        if "login" in keywords:
            return self.login(keywords["login"], keywords.get("password", ""), keywords.get("server", ""))
        return True

    def login(self, login: int, password: str = "", server: str = "", timeout: int = 60000) -> bool:
        """Switch the whole terminal to another account; a failure of `initialize` on the way closes the connection (wheel)."""
        terminal = self._terminal
        if terminal is None:
            return self._refused(-10004)
        known = login in terminal.server.accounts and server in ("", terminal.server.name)
        if not terminal.server.online:
            self._terminal = None
            return self._refused(-10005)
        if not known or password != terminal.passwords.get(login, password):
            self._terminal = None
            return self._refused(-6)
        if terminal.login != login:
            terminal.switch(login)
        return True

    def shutdown(self) -> bool:
        """Always True (wheel)."""
        self._error = (1, ERRORS[1])
        self._terminal = None
        return True

    def version(self) -> tuple[int, int, str] | None:
        """A plain tuple (wheel)."""
        self._error = (1, ERRORS[1])
        return (500, 5200, "1 Jan 2025") if self._terminal else self._failed(-10004, None)

    def last_error(self) -> tuple[int, str]:
        """What the last call left behind; the call itself does not change it (wheel)."""
        return self._error

    @_call(None)
    def terminal_info(self) -> Any:
        """`trade_allowed` is the Algo Trading button, `tradeapi_disabled` the option, `ping_last` microseconds (wheel)."""
        terminal = self._here
        return struct(
            "TerminalInfo",
            community_account=False,
            community_connection=False,
            connected=terminal.connected and terminal.server.online,
            dlls_allowed=False,
            trade_allowed=terminal.algo_trading,
            tradeapi_disabled=terminal.api_disabled,
            email_enabled=False,
            ftp_enabled=False,
            notifications_enabled=False,
            mqid=False,
            build=5200,
            maxbars=100000,
            codepage=0,
            ping_last=23_000,
            company=terminal.server.company,
            name="MetaTrader 5",
            language="English",
            path=terminal.path.rpartition("\\")[0],
            data_path=terminal.data_path,
            commondata_path=terminal.data_path,
        )

    @_call(None)
    def account_info(self) -> Any:
        """An investor's login has `trade_allowed` false, a broker that forbids experts `trade_expert` (reference)."""
        account, server = self._here.account, self._here.server
        equity, margin = server.equity(account.login), float(account.margin()) + self._here.orders_margin
        return struct(
            "AccountInfo",
            login=account.login,
            trade_mode=0 if account.demo else 2,
            leverage=account.leverage,
            limit_orders=account.orders_max,
            margin_so_mode=0,
            trade_allowed=not account.investor,
            trade_expert=account.expert_allowed,
            margin_mode=0 if account.margin_mode is MarginMode.NETTING else 2,
            currency_digits=2,
            fifo_close=account.fifo,
            balance=float(account.balance),
            credit=float(account.credit),
            profit=float(equity - account.balance - account.credit),
            equity=float(equity),
            margin=margin,
            margin_free=float(equity) - margin,
            margin_level=float(equity) / margin * 100 if margin else 0.0,
            name=account.name,
            server=server.name,
            currency=account.currency,
            company=server.company,
        )

    # symbols

    @_call(None)
    def symbols_total(self) -> int:
        """All symbols, shown or not."""
        return len(self._here.server.symbols)

    def symbols_get(self, *args: Any, **keywords: Any) -> Any:
        """With more than one positional argument it returns False (a quirk of the wheel)."""
        if len(args) > 1:
            return False
        return self._symbols_get(args[0] if args else keywords.get("group", "*"))

    @_call(None)
    def _symbols_get(self, group: str) -> Any:
        return tuple(self._symbol(name) for name in sorted(self._here.server.symbols) if _in_group(name, group))

    @_call(None)
    def symbol_info(self, symbol: str, /) -> Any:
        """By position only; None and -4 for a symbol the server does not offer."""
        if symbol not in self._here.server.symbols:
            return self._failed(-4, None)
        return self._symbol(symbol)

    @_call(None)
    def symbol_info_tick(self, symbol: str, /) -> Any:
        """Live only while the symbol stands in Market Watch; otherwise None or zero prices: the reference does not say which."""
        terminal = self._here
        if symbol not in terminal.server.symbols:
            return self._failed(-4, None)
        if symbol not in terminal.selected and terminal.unselected_tick == "none":
            return self._failed(-4, None)
        quote = terminal.server.quotes.get(symbol)
        if quote is None or symbol not in terminal.selected:
            return struct("Tick")
        time_ms = quote.time_ms + terminal.server.server_offset_s * 1000
        return struct("Tick", time=time_ms // 1000, bid=float(quote.bid), ask=float(quote.ask), time_msc=time_ms, flags=6)

    @_call(failure=False)
    def symbol_select(self, symbol: str, enable: Any = 1, /) -> bool:
        """Puts a symbol into Market Watch, or takes it out."""
        if symbol not in self._here.server.symbols:
            return self._refused(-4)
        if enable:
            self._here.selected.add(symbol)
        else:
            self._here.selected.discard(symbol)
        return True

    @_call(None)
    def order_calc_margin(self, action: int, symbol: str, volume: float, price: float, /) -> Any:
        """By position only."""
        terminal = self._here
        offered = terminal.server.symbols.get(symbol)
        if offered is None:
            return self._failed(-4, None)
        side = Side.BUY if action == 0 else Side.SELL
        try:
            per_lot = terminal.server.rates.margin_per_lot(terminal.account, offered, side, Decimal(repr(price)))
        except NoRate:
            return self._failed(-1, None)
        return float(per_lot) * volume

    @_call(None)
    def copy_rates_from_pos(self, symbol: str, timeframe: int, start: int, count: int, /) -> Any:
        """A structured array in the wheel; here rows that answer by name all the same, made from the present price."""
        quote = self._here.server.quotes.get(symbol)
        if quote is None:
            return self._failed(-1, None)
        seconds = (timeframe & 0xFFF) * (3600 if timeframe & 0x4000 else 60)
        last = self._here.server.now_ms() // 1000 // seconds * seconds
        bid = float(quote.bid)
        row = {"open": bid, "high": bid, "low": bid, "close": bid, "tick_volume": 1, "spread": 10, "real_volume": 0}
        return [{"time": last - (start + age) * seconds, **row} for age in reversed(range(count))]

    # positions, orders, history

    @_call(None)
    def positions_total(self) -> int:
        """As many as are listed."""
        return len(self._here.positions())

    @_call(None)
    def positions_get(self, *args: Any, **keywords: Any) -> Any:
        """Keywords only, ticket before symbol before group; an unknown keyword is ignored and all are returned (wheel)."""
        return self._filtered(self._here.positions(), args, keywords)

    @_call(None)
    def orders_total(self) -> int:
        """As many as are listed."""
        return len(self._here.active_orders())

    @_call(None)
    def orders_get(self, *args: Any, **keywords: Any) -> Any:
        """As `positions_get`."""
        return self._filtered(self._here.active_orders(), args, keywords)

    @_call(None)
    def history_deals_get(self, *args: Any, **keywords: Any) -> Any:
        """By dates of the server's clock, by the ticket of an order (not of a deal), or by a position's identifier (wheel)."""
        return self._history(self._here.deals(), "order", "time", args, keywords)

    @_call(None)
    def history_orders_get(self, *args: Any, **keywords: Any) -> Any:
        """As `history_deals_get`."""
        return self._history(self._here.past_orders(), "ticket", "time_done", args, keywords)

    def _filtered(self, rows: tuple[Any, ...], args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        if args:
            return self._failed(-2, None, "Unnamed arguments not allowed")
        if "ticket" in keywords:
            return tuple(row for row in rows if row.ticket == keywords["ticket"])
        if "symbol" in keywords:
            return tuple(row for row in rows if row.symbol == keywords["symbol"])
        if "group" in keywords:
            return tuple(row for row in rows if _in_group(row.symbol, keywords["group"]))
        return rows

    def _history(
        self, rows: tuple[Any, ...], order_field: str, time_field: str, args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> Any:
        if "ticket" in keywords:
            return tuple(row for row in rows if getattr(row, order_field) == keywords["ticket"])
        if "position" in keywords:
            return tuple(row for row in rows if row.position_id == keywords["position"])
        if len(args) != 2:
            return self._failed(-2, None, "Invalid number of arguments")
        start, end = (_seconds(each) for each in args)
        return tuple(row for row in rows if start <= getattr(row, time_field) <= end)

    # orders

    @_call(None)
    def order_check(self, *args: Any, **keywords: Any) -> Any:
        """Retcode 0 is fine here, where `order_send` says 10009 (reference)."""
        request = self._request(args, keywords)
        return (
            None
            if request is None
            else struct("OrderCheckResult", retcode=0, comment="Done", request=struct("TradeRequest", **request))
        )

    @_call(None)
    def order_send(self, *args: Any, **keywords: Any) -> Any:
        """Strict about types, silent about unknown keys; -8 where the option forbids it, 10027 where the button does (wheel)."""
        request = self._request(args, keywords)
        if request is None:
            return None
        terminal = self._here
        if terminal.api_disabled:
            return self._failed(-8, None)
        error, answer = terminal.take_order(request)
        if error is not None:
            if error <= -10000:
                self._terminal = None
            return self._failed(error, None)
        return answer

    def _request(self, args: tuple[Any, ...], keywords: dict[str, Any]) -> dict[str, Any] | None:
        """Absent keys count as 0 or "": an absent filling is fill-or-kill, an absent type a buy (wheel)."""
        given = args[0] if args else keywords
        if len(args) > 1 or not isinstance(given, dict):
            return self._failed(-2, None)  # type: ignore[no-any-return]
        request: dict[str, Any] = {name: 0.0 for name in FLOATS} | {name: 0 for name in WHOLES} | {name: "" for name in TEXTS}
        for name, value in given.items():
            if name not in request:
                continue
            if not _acceptable(name, value):
                return self._failed(-2, None, f'Invalid "{name}" argument')  # type: ignore[no-any-return]
            request[name] = value
        return request

    # inside

    @property
    def _here(self) -> FakeTerminal:
        assert self._terminal is not None
        return self._terminal

    def _symbol(self, name: str) -> Any:
        """The filling mask counts 1 for fill-or-kill and 2 for immediate-or-cancel, unlike the modes themselves (reference)."""
        terminal = self._here
        server = terminal.server
        spec, quote = server.spec(terminal.login, name), server.quotes.get(name)
        selected = name in terminal.selected
        live = quote if selected else None
        return struct(
            "SymbolInfo",
            custom=False,
            select=selected,
            visible=selected,
            time=(live.time_ms // 1000 + server.server_offset_s) if live else 0,
            digits=spec.digits,
            spread=int((live.ask - live.bid) / spec.point) if live else 0,
            spread_float=True,
            trade_calc_mode=CALC_MODES[spec.calc_mode],
            trade_mode=TRADE_MODES[spec.trade_mode],
            trade_stops_level=spec.stops_level,
            trade_freeze_level=spec.freeze_level,
            trade_exemode=EXECUTIONS[spec.execution],
            filling_mode=(1 if Filling.FOK in spec.fillings else 0) | (2 if Filling.IOC in spec.fillings else 0),
            order_mode=127,
            bid=float(live.bid) if live else 0.0,
            ask=float(live.ask) if live else 0.0,
            point=float(spec.point),
            trade_tick_value=float(spec.tick_value),
            trade_tick_value_profit=float(spec.tick_value),
            trade_tick_value_loss=float(spec.tick_value_loss),
            trade_tick_size=float(spec.tick_size),
            trade_contract_size=float(spec.contract_size),
            volume_min=float(spec.volume_min),
            volume_max=float(spec.volume_max),
            volume_step=float(spec.volume_step),
            volume_limit=float(spec.volume_limit),
            currency_base=spec.currency_base,
            currency_profit=spec.currency_profit,
            currency_margin=spec.currency_margin,
            name=name,
            path=f"Forex\\{name}",
        )


def _acceptable(name: str, value: Any) -> bool:
    """Floats must be floats (an int 0 is refused), whole numbers ints, texts at most 29 UTF-16 units (wheel)."""
    if name in FLOATS:
        return isinstance(value, float)
    if name in TEXTS:
        return isinstance(value, str) and len(value.encode("utf-16-le")) // 2 <= TEXT_UNITS_MAX
    return isinstance(value, int) and not (name in UNSIGNED and value < 0)


def _in_group(name: str, group: str) -> bool:
    masks = [mask.strip() for mask in group.split(",")]
    wanted = any(fnmatch.fnmatchcase(name, mask) for mask in masks if not mask.startswith("!"))
    return wanted and not any(fnmatch.fnmatchcase(name, mask[1:]) for mask in masks if mask.startswith("!"))


def _seconds(moment: Any) -> int:
    """A naive datetime is taken in this machine's own zone, then cut to seconds (wheel)."""
    return int(moment.timestamp()) if isinstance(moment, datetime) else int(moment)
