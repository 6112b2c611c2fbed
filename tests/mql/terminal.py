"""Plays the terminal for a compiled Expert Advisor: what it asks by MQL's functions is answered by the simulated broker."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from typing import Any

from copier.errors import Rejected
from copier.gateways.paper_account import ClosedTicket
from copier.gateways.paper_faults import Fault
from copier.gateways.paper_orders import MarketOrder
from copier.model import CalcMode, Deal, DealReason, DealType, Side
from tests.fakes.fake_metatrader5 import FakeMetaTrader5, FakeTerminal, Hung
from tests.fakes.mt5_fake_terminal import SIDES

ACCOUNT = (
    "login", "trade_mode", "leverage", "margin_mode", "trade_allowed", "trade_expert", "balance", "credit", "profit", "equity",
    "margin", "margin_free", "margin_level", "name", "server", "currency", "company",
)  # fmt: skip
SYMBOL = (
    "select", "digits", "trade_stops_level", "trade_freeze_level", "trade_mode", "trade_exemode", "filling_mode",
    "trade_calc_mode", "bid", "ask", "point", "trade_tick_size", "trade_tick_value", "trade_tick_value_loss",
    "trade_contract_size", "volume_min", "volume_step", "volume_max", "volume_limit", "trade_tick_value_profit",
    "currency_base", "currency_profit", "currency_margin",
)  # fmt: skip
POSITION = (
    "ticket", "identifier", "type", "time_msc", "magic", "volume", "price_open", "price_current", "sl", "tp", "profit", "swap",
    "symbol", "comment",
)  # fmt: skip
DEAL = (
    "ticket", "order", "position_id", "type", "entry", "time_msc", "magic", "reason", "volume", "price", "commission", "fee",
    "swap", "profit", "symbol", "comment",
)  # fmt: skip
ORDER = (
    "state", "volume_initial", "volume_current", "type", "time_setup", "time_expiration", "magic", "price_open",
    "price_stoplimit", "sl", "tp", "symbol", "comment", "ticket",
)  # fmt: skip
RATE = ("time", "open", "high", "low", "close", "tick_volume", "spread")
RESULT = ("retcode", "deal", "order", "volume", "price", "bid", "ask", "comment", "request_id")
FLOATS = ("volume", "price", "sl", "tp")
TEXTS = ("symbol", "comment")
Rows = list[list[str]]


def row(raw: Any, names: tuple[str, ...]) -> list[str]:
    return [_text(getattr(raw, name)) for name in names]


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)


class Host:
    """A listener on the loopback that answers lines of JSON, one after the other."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._busy: set[asyncio.Task[None]] = set()
        self.calls: list[list[str]] = []
        self.asked = 0
        """How often it was asked for anything."""

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> "Host":
        self._server = await asyncio.start_server(self._attend, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._busy:
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._busy.add(task)
        try:
            while line := await reader.readline():
                name, *args = json.loads(line)
                self.asked += 1
                try:
                    rows = self.answer(name, args)
                except Hung:
                    await asyncio.Event().wait()
                writer.write(json.dumps(rows).encode() + b"\n")
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._busy.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def answer(self, name: str, args: list[str]) -> Rows:
        raise NotImplementedError


class Terminal5(Host):
    """A MetaTrader 5 terminal, over the same fake that stands behind the MetaTrader5 package."""

    def __init__(self, terminal: FakeTerminal, chart: str = "EURUSD") -> None:
        super().__init__()
        self.terminal = terminal
        self.answers_orders = True
        """False: an order is executed and its call never returns."""
        self._chart = chart
        self._api: Any = FakeMetaTrader5(terminal)
        self._api.initialize()

    def answer(self, name: str, args: list[str]) -> Rows:
        self.terminal.pass_time()
        answer: Callable[..., Rows] = getattr(self, f"_{name}")
        return answer(*args)

    def _account(self, _: str) -> Rows:
        if not self.terminal.server.online or self.terminal.login not in self.terminal.server.accounts:
            return []
        raw = self._api.account_info()
        return [row(raw, ACCOUNT)] if raw else []

    def _terminal(self, _: str) -> Rows:
        terminal = self.terminal
        connected = terminal.connected and terminal.server.online
        return [[_text(connected), _text(terminal.algo_trading), "5200", "1"]]

    def _time(self, _: str) -> Rows:
        server = self.terminal.server
        last_ms = max((quote.time_ms for quote in server.quotes.values()), default=0) + server.server_offset_s * 1000
        return [[str(last_ms // 1000), str(server.now_ms() // 1000), self._chart]]

    def _symbol(self, symbol: str) -> Rows:
        raw = self._api.symbol_info(symbol)
        return [row(raw, SYMBOL)] if raw else []

    def _select(self, symbol: str) -> Rows:
        return [[_text(self._api.symbol_select(symbol))]]

    def _symbols(self) -> Rows:
        return [sorted(self.terminal.server.symbols)]

    def _tick(self, symbol: str) -> Rows:
        raw = self._api.symbol_info_tick(symbol)
        return [row(raw, ("time_msc", "bid", "ask"))] if raw else []

    def _margin(self, side: str, symbol: str, lots: str, price: str) -> Rows:
        margin = self._api.order_calc_margin(int(side), symbol, float(lots), float(price))
        return [] if margin is None else [[_text(margin)]]

    def _positions(self) -> Rows:
        rows = self._api.positions_get()
        return [[]] if rows is None else [row(raw, POSITION) for raw in rows]

    def _orders(self) -> Rows:
        rows = self._api.orders_get()
        return [[]] if rows is None else [[_text(getattr(raw, name, "0")) for name in ORDER] for raw in rows]

    def _rates(self, symbol: str, period: str, start: str, count: str) -> Rows:
        bars = self._api.copy_rates_from_pos(symbol, int(period), int(start), int(count))
        return [[_text(bar[name]) for name in RATE] for bar in bars or ()]

    def _orders_total(self, _: str) -> Rows:
        return [[str(self._api.orders_total())]]

    def _history(self, start: str, end: str) -> Rows:
        return self._deals(self._api.history_deals_get(int(start), int(end)))

    def _history_of(self, position: str) -> Rows:
        return self._deals(self._api.history_deals_get(position=int(position)))

    def _deals(self, raws: Any) -> Rows:
        return [["0"]] if raws is None else [["1"], *(row(raw, DEAL) for raw in raws)]

    def _past_order(self, ticket: str) -> Rows:
        raws = self._api.history_orders_get(ticket=int(ticket))
        return [row(raws[0], ("state", "volume_initial", "volume_current"))] if raws else []

    def _order_send(self, *pairs: str) -> Rows:
        given = dict(zip(pairs[::2], pairs[1::2], strict=True))
        whole = {name: int(value) for name, value in given.items() if name not in (*FLOATS, *TEXTS)}
        request = whole | {name: float(given[name]) for name in FLOATS} | {name: given[name] for name in TEXTS}
        self.calls.append(["order_send", *pairs])
        error, result = self.terminal.take_order(request)
        if not self.answers_orders:
            raise Hung
        return [] if error is not None else [row(result, RESULT)]


MARKET = {
    11: "point", 12: "digits", 14: "trade_stops_level", 15: "trade_contract_size", 16: "trade_tick_value", 17: "trade_tick_size",
    23: "volume_min", 24: "volume_step", 25: "volume_max", 33: "trade_freeze_level",
}  # fmt: skip
CALC_MODE, MARGIN_REQUIRED = 27, 32
MT4_CALC_MODES = {CalcMode.FOREX: 0, CalcMode.CFD: 1, CalcMode.FUTURES: 2}
BALANCE, CREDIT = 6, 7


class Terminal4(Terminal5):
    """A MetaTrader 4 terminal: orders instead of positions, errors instead of return codes."""

    busy_looks = 0
    """So many more times another program will be found trading."""

    @property
    def _login(self) -> int:
        return self.terminal.login

    def _market(self, symbol: str, mode: str) -> Rows:
        server = self.terminal.server
        raw = self._api.symbol_info(symbol)
        if raw is None:
            return []
        spec = server.spec(self._login, symbol)
        if int(mode) == CALC_MODE:
            return [[str(MT4_CALC_MODES.get(spec.calc_mode, 0))]]
        if int(mode) == MARGIN_REQUIRED:
            return [[_text(float(spec.margin_per_lot or 0))]]
        return [[_text(getattr(raw, MARKET[int(mode)]))]]

    def _trades(self) -> Rows:
        rows = self._api.positions_get()
        waiting = self._api.orders_get()
        if rows is None or waiting is None:
            return [[]]
        return [self._open_row(raw) for raw in rows] + [_waiting_row(raw) for raw in waiting]

    def _context_busy(self) -> Rows:
        self.busy_looks -= 1
        return [["1" if self.busy_looks >= 0 else "0"]]

    def _open_row(self, raw: Any) -> list[str]:
        opened = str(raw.time)
        values = (raw.ticket, raw.type, raw.symbol, raw.volume, raw.price_open, raw.price_current, raw.sl, raw.tp, raw.profit)
        return [_text(value) for value in (*values, raw.swap, 0.0, raw.comment, raw.magic)] + [opened, "0"]

    def _past(self) -> Rows:
        if "history_deals_get" in self.terminal.fails:
            return [[]]
        moves = [_money_row(deal) for deal in self.terminal.account.deals if not deal.position_id]
        return moves + [_closed_row(each) for each in self.terminal.account.closed_tickets]

    def _ticket(self, ticket: str) -> Rows:
        return [each for each in self._trades() + self._past() if each and each[0] == ticket][:1]

    def _send(self, *args: str) -> Rows:
        symbol, command, lots, price, slippage, stop, target, comment, magic = args
        order = MarketOrder(
            symbol=symbol,
            side=SIDES[int(command)],
            lots=_decimal(lots),
            price=_decimal(price),
            deviation=int(slippage),
            stop_loss=_decimal(stop),
            take_profit=_decimal(target),
            magic=int(magic),
            comment=comment,
            reason=DealReason.EXPERT,
        )
        return self._traded(lambda fault: self.terminal.server.deal(self._login, order, fault).position)

    def _close(self, ticket: str, lots: str, price: str, slippage: str) -> Rows:
        more: dict[str, Any] = {"price": _decimal(price), "deviation": int(slippage), "reason": DealReason.EXPERT}

        def close(fault: Fault) -> int:
            return self.terminal.server.close(self._login, int(ticket), _decimal(lots), fault, **more).position

        return self._traded(close)

    def _modify(self, ticket: str, _: str, stop: str, target: str) -> Rows:
        def modify(fault: Fault) -> int:
            reason = DealReason.EXPERT
            code = self.terminal.server.set_levels(
                self._login, int(ticket), _decimal(stop), _decimal(target), reason=reason, fault=fault
            )
            return -code

        return self._traded(modify)

    def _traded(self, act: Callable[[Fault], int]) -> Rows:
        """Return the error number and the ticket, or what a call is negative of, as MT4's error 1 of an unchanged order."""
        self.calls.append(["traded"])
        if not self.terminal.connected:
            return [["6", "0"]]
        try:
            ticket = act(self.terminal.broker_fault)
        except Rejected as refusal:
            return [[str(refusal.code), "0"]]
        return [["0", str(ticket)]] if ticket >= 0 else [[str(-ticket), "0"]]


def _waiting_row(raw: Any) -> list[str]:
    values = (
        raw.ticket,
        raw.type,
        raw.symbol,
        raw.volume_current,
        raw.price_open,
        raw.price_current,
        raw.sl,
        raw.tp,
        0.0,
        0.0,
        0.0,
    )
    return [_text(value) for value in (*values, raw.comment, raw.magic, raw.time_setup, 0, getattr(raw, "time_expiration", 0))]


def _decimal(text: str) -> Decimal:
    value = float(text)
    return Decimal(repr(value)).normalize() if value else Decimal(0)


def _seconds(moment: datetime) -> str:
    return str(int(moment.timestamp()))


def _money_row(deal: Deal) -> list[str]:
    kind = CREDIT if deal.type is DealType.CREDIT else BALANCE
    moment = _seconds(deal.time)
    values = (deal.ticket, kind, "", 0.0, 0.0, 0.0, 0.0, 0.0, float(deal.profit), 0.0, 0.0, deal.comment, 0)
    return [_text(value) for value in values] + [moment, moment]


def _closed_row(closed: ClosedTicket) -> list[str]:
    each = closed.position
    numbers = (each.lots, each.open_price, closed.close_price, each.stop_loss, each.take_profit)
    money = (closed.profit, each.swap, each.commission)
    values = (each.ticket, 0 if each.side is Side.BUY else 1, each.symbol, *map(float, numbers), *map(float, money))
    times = [str(each.open_ms // 1000), str(closed.close_ms // 1000)]
    return [_text(value) for value in (*values, each.comment, each.magic)] + times
