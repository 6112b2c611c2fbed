"""Brokers that answer at once, or after a given time, so that what is measured is the engine."""

import asyncio
import itertools
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import msgspec

from copier.clock import Clock
from copier.errors import Reason, Rejected
from copier.gateway import GatewayFacts, not_found
from copier.gateways.paper import PaperGateway
from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_server import PaperServer
from copier.gateways.paper_symbols import symbol_spec
from copier.link import make_tag
from copier.model import (
    ZERO,
    Account,
    CloseRequest,
    CloseResult,
    ModifyRequest,
    ModifyResult,
    Permit,
    Position,
    Positions,
    Quote,
    Side,
    SymbolSpec,
    TradeRequest,
    TradeResult,
)

D = Decimal
SPEC = msgspec.structs.replace(symbol_spec("EURUSD", digits=5), margin_per_lot=D("1100"))
OPENED = datetime(2026, 1, 5, 10, tzinfo=UTC)
now_ns = time.monotonic_ns
"""One clock for all processes of a machine."""


class Order(msgspec.Struct, frozen=True):
    """An order call as it left the engine: when, whose, what about, and when it was answered."""

    at_ns: int
    account: str
    kind: str
    tag: str


class BenchBroker:
    """A hedging account in memory whose answers take no time, or a given time; it notes when each order call came."""

    def __init__(self, name: str, orders: list[Order], *, trade_s: float = 0.0, read_s: float = 0.0) -> None:
        self.facts = GatewayFacts(kind="paper", settle_s=0.5, call_timeout_s=10.0, tags_survive=True)
        self.deals = None
        self.symbols = self
        self.wakes = None
        self._label = f"{name}@Bench"
        self._name = name
        self._orders = orders
        self._trade_s = trade_s
        self._read_s = read_s
        self._reads = 0
        self._open: dict[int, Position] = {}
        self._tickets = itertools.count(1_000_001)

    def hold(self, positions: int) -> None:
        """Have so many copies already, of the master's first positions."""
        for place in range(positions):
            self._buy(copied_tag(place), Side.BUY, D("0.10"))

    async def open(self) -> None:
        """Be there."""

    async def close(self) -> None:
        """Go."""

    async def get_symbols(self) -> tuple[SymbolSpec, ...]:
        return (SPEC,)

    async def get_account(self) -> Account:
        await self._read()
        return Account(
            account=self._label,
            read=self._reads,
            login=self._name,
            balance=D(100_000),
            equity=D(100_000),
            margin=D(0),
            free_margin=D(100_000),
            margin_level=D(0),
            profit=D(0),
            currency="USD",
            leverage=100,
            name=self._name,
            server="Bench",
            company="Bench",
            server_offset_s=0,
        )

    async def get_positions(self, symbol: str | None = None) -> Positions:
        await self._read()
        return Positions(account=self._label, read=self._reads, positions=tuple(self._open.values()))

    async def get_quote(self, symbol: str) -> Quote:
        await self._read()
        return Quote(
            account=self._label,
            read=self._reads,
            symbol=symbol,
            bid=D("1.10000"),
            ask=D("1.10010"),
            timestamp=datetime.now(UTC),
            spec=SPEC,
        )

    async def execute_trade(self, request: TradeRequest, permit: Permit) -> TradeResult:
        self._orders.append(Order(now_ns(), self._name, "open", request.tag))
        if self._trade_s:
            await asyncio.sleep(self._trade_s)
        held = self._buy(request.tag, request.action, request.lots, request.stop_loss, request.take_profit, request.magic)
        return TradeResult(
            account=self._label,
            ticket=held.ticket,
            symbol=request.symbol,
            action=request.action,
            lots=request.lots,
            price=held.open_price,
        )

    def _buy(
        self, tag: str, side: Side, lots: Decimal, stop: Decimal = ZERO, target: Decimal = ZERO, magic: int = 12345
    ) -> Position:
        ticket = next(self._tickets)
        price = D("1.10010") if side is Side.BUY else D("1.10000")
        self._open[ticket] = Position(
            ticket=ticket,
            identifier=ticket,
            symbol="EURUSD",
            type=side,
            lots=lots,
            open_price=price,
            current_price=price,
            stop_loss=stop,
            take_profit=target,
            open_time=OPENED,
            magic=magic,
            comment=tag,
            tag=tag,
        )
        return self._open[ticket]

    async def close_position(self, request: CloseRequest, permit: Permit) -> CloseResult:
        position = self._open.get(request.ticket)
        self._orders.append(Order(now_ns(), self._name, "close", position.tag if position is not None else ""))
        if self._trade_s:
            await asyncio.sleep(self._trade_s)
        if self._open.pop(request.ticket, None) is None or position is None:
            raise Rejected(not_found(request.ticket), reason=Reason.INVALID_TICKET, account=self._label)
        return CloseResult(account=self._label, ticket=request.ticket, lots=position.lots, price=position.open_price)

    async def modify_position(self, request: ModifyRequest, permit: Permit) -> ModifyResult:
        if self._trade_s:
            await asyncio.sleep(self._trade_s)
        position = self._open[request.ticket]
        stop = position.stop_loss if request.stop_loss is None else request.stop_loss
        target = position.take_profit if request.take_profit is None else request.take_profit
        self._open[request.ticket] = msgspec.structs.replace(position, stop_loss=stop, take_profit=target)
        return ModifyResult(account=self._label, ticket=request.ticket)

    async def _read(self) -> None:
        self._reads += 1
        if self._read_s:
            await asyncio.sleep(self._read_s)


class PaperBroker(PaperGateway):
    """The simulated broker of the product, with order calls noted."""

    def __init__(self, name: str, orders: list[Order], clock: Clock, *, latency_s: float = 0.0) -> None:
        server = paper_server(clock)
        server.add_account(PaperAccount(1, balance=D(100_000)))
        super().__init__(server, 1, clock=clock, latency_s=latency_s)
        self._name = name
        self._orders = orders
        self._tags: dict[int, str] = {}

    async def get_quote(self, symbol: str) -> Quote:
        self.server.set_quote(symbol, "1.10000", "1.10010")  # Without a tick for 10 s opens are refused.
        return await super().get_quote(symbol)

    async def execute_trade(self, request: TradeRequest, permit: Permit) -> TradeResult:
        self._orders.append(Order(now_ns(), self._name, "open", request.tag))
        result = await super().execute_trade(request, permit)
        self._tags[result.ticket] = request.tag
        return result

    async def close_position(self, request: CloseRequest, permit: Permit) -> CloseResult:
        self._orders.append(Order(now_ns(), self._name, "close", self._tags.get(request.ticket, "")))
        return await super().close_position(request, permit)


def paper_server(clock: Clock) -> PaperServer:
    """Return a trade server with one symbol that trades at all hours."""
    server = PaperServer("Bench", clock=clock, symbols=[symbol_spec("EURUSD", digits=5)])
    server.set_quote("EURUSD", "1.10000", "1.10010")
    return server


class Master:
    """A master account whose owner opens and closes positions."""

    def __init__(self, clock: Clock, *, held: int = 10, holds: int = 0) -> None:
        self.server = paper_server(clock)
        self.server.add_account(PaperAccount(1, balance=D(10_000_000), history_max=1_000))
        self.gateway = PaperGateway(self.server, 1, clock=clock)
        self._held = max(held, holds)
        for _ in range(holds):
            self._buy()
        self._closes = itertools.cycle((False, True))

    def trade(self) -> tuple[str, int]:
        """Open a position with stop and target, or close the oldest; return which, and the position's identifier."""
        positions = self.server.positions(1)
        self.server.set_quote("EURUSD", "1.10000", "1.10010")
        if len(positions) > self._held and next(self._closes):
            self.server.close(1, positions[0].ticket)
            return "close", positions[0].identifier
        return "open", self._buy()

    def _buy(self) -> int:
        return self.server.buy(1, "EURUSD", "1.00", stop_loss=D("1.09000"), take_profit=D("1.12000")).position


def copied_tag(place: int) -> str:
    """Return the tag of the copy of the master's n-th position."""
    return make_tag(1, place + 1)


Broker = Callable[[str, list[Order], Clock], BenchBroker | PaperBroker]

BROKERS: dict[str, Broker] = {
    "instant": lambda name, orders, clock: BenchBroker(name, orders),
    "50ms": lambda name, orders, clock: BenchBroker(name, orders, trade_s=0.05, read_s=0.001),
    "paper": PaperBroker,
    "paper50ms": lambda name, orders, clock: PaperBroker(name, orders, clock, latency_s=0.05),
}
"""By name: at once; orders after 50 ms and reads of a terminal beside us after 1 ms; the product's simulated broker."""
