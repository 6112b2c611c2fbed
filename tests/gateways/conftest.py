"""The kinds of gateway every promise is tried on, each in front of the same simulated broker.

A new kind of gateway joins by one entry in `KINDS`: how to open it on a `PaperServer` that plays its broker, what it can
do, and how its event loop runs. On a loop of real time give it a short call timeout and settle time: some scenes wait them out.
"""

import asyncio
import functools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copier.clock import Clock, LoopClock, SystemClock, run_virtual
from copier.gateway import Gateway, GatewayFacts
from copier.gateways.mt5 import mt5_gateway
from copier.gateways.paper import PaperGateway
from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_faults import Faults
from copier.gateways.paper_orders import BrokerHabits
from copier.gateways.paper_server import PaperServer
from copier.gateways.paper_symbols import PaperSymbol, default_symbols
from copier.gateways.remote import RemoteGateway
from copier.gateways.serving import FarEnd
from copier.model import (
    CloseRequest,
    CloseResult,
    MarginMode,
    ModifyRequest,
    ModifyResult,
    Permit,
    Position,
    Side,
    TradeRequest,
    TradeResult,
)
from copier.settings import Mt5Settings
from copier.wire import Opening
from tests.fakes.fake_metatrader5 import FakeTerminal
from tests.fakes.fake_mt5manager import FakeManagerServer
from tests.fakes.links import PaperCarrier
from tests.fakes.mt5_stage import TerminalHost, in_process
from tests.fakes.mt5manager_stage import in_process as managers_in_process
from tests.mql.stage import ShiftedClock, bridges, need_gxx

LOGIN = 5001
OFFSET_S = 7200
MONDAY_NOON_MS = 1_704_715_200_000
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
FAULTS = (
    "broker faults",
    "read faults",
    "link faults",
    "delays",
    "lag",
    "switched account",
)
ALL = frozenset({"deals", "symbols", "wakes", "permits", "tags", "magic", "caller's price", *FAULTS})
"""What a kind may be able to do. A manager's orders have no room for a magic number. Some see the price when the call is made,
others only where the order is sent. The faults are
those of its `Faults` its far end obeys: what the broker does to an order; reads that fail; requests that do not leave, answers
that are lost, a connection that is down; slowness on the way; lists that lag behind; a terminal that is logged in elsewhere."""


@dataclass(kw_only=True)
class Scene:
    """A gateway, the broker behind it, and short ways to trade."""

    mode: MarginMode
    clock: Clock
    server: PaperServer
    faults: Faults
    gateway: Gateway
    login: int = LOGIN
    long_ago: datetime = LONG_AGO

    @property
    def account(self) -> PaperAccount:
        return self.server.accounts[self.login]

    @property
    def label(self) -> str:
        return f"{self.login}@{self.server.name}"

    def permit(self, token: int = 1, within_s: float = 60.0) -> Permit:
        return Permit(token=token, not_after_ms=self.clock.now_ms() + round(within_s * 1000))

    async def open(self, side: Side = Side.BUY, lots: str = "0.30", symbol: str = "EURUSD", **more: Any) -> TradeResult:
        permit = more.pop("permit", None) or self.permit()
        request = TradeRequest(symbol=symbol, action=side, lots=Decimal(lots), **more)
        return await self.gateway.execute_trade(request, permit)

    async def close(self, ticket: int, lots: str | None = None, permit: Permit | None = None) -> CloseResult:
        request = CloseRequest(ticket=ticket, lots=None if lots is None else Decimal(lots))
        return await self.gateway.close_position(request, permit or self.permit())

    async def modify(
        self, ticket: int, *, stop: str | None = None, target: str | None = None, permit: Permit | None = None
    ) -> ModifyResult:
        levels = [None if level is None else Decimal(level) for level in (stop, target)]
        request = ModifyRequest(ticket=ticket, stop_loss=levels[0], take_profit=levels[1])
        return await self.gateway.modify_position(request, permit or self.permit())

    async def positions(self) -> tuple[Position, ...]:
        return (await self.gateway.get_positions()).positions

    async def position(self) -> Position:
        (only,) = await self.positions()
        return only


@dataclass(kw_only=True)
class Stage:
    """One kind of gateway in one account model, with what a test wants different about the broker."""

    kind: "Kind"
    mode: MarginMode
    opened: bool = True
    account: dict[str, Any] = field(default_factory=dict)
    symbols: dict[str, dict[str, Any]] = field(default_factory=dict)
    offered: dict[str, PaperSymbol] = field(default_factory=default_symbols)

    def play(self, act: Callable[[Scene], Awaitable[None]]) -> None:
        """Run a scene to its end, on the loop this kind of gateway needs."""
        self.kind.run(self._run(act))

    async def _run(self, act: Callable[[Scene], Awaitable[None]]) -> None:
        clock = self.kind.clock()
        server = PaperServer("Broker-Demo", clock=clock, symbols=self.offered, server_offset_s=OFFSET_S)
        server.add_account(PaperAccount(LOGIN, margin_mode=self.mode, **self.account))
        server.add_account(PaperAccount(LOGIN + 1, margin_mode=self.mode))
        for symbol, changes in self.symbols.items():
            server.change_symbol(symbol, **changes)
        server.set_quote("EURUSD", "1.10000", "1.10010")
        server.set_quote("XAUUSD", "2650.50", "2650.80")
        server.set_quote("USDJPY", "150.000", "150.020")
        faults = Faults()
        async with self.kind.connect(server, clock, faults) as gateway:
            if self.opened:
                await gateway.open()
            try:
                await act(Scene(mode=self.mode, clock=clock, server=server, faults=faults, gateway=gateway))
            finally:
                await gateway.close()


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How one kind of gateway is put in front of a simulated broker."""

    connect: Callable[[PaperServer, Clock, Faults], AbstractAsyncContextManager[Gateway]]
    """Make a gateway to `LOGIN`, not yet open, and clear away its far end afterwards."""
    modes: tuple[MarginMode, ...] = tuple(MarginMode)
    can: frozenset[str] = ALL
    run: Callable[[Any], None] = run_virtual
    clock: Callable[[], Clock] = lambda: LoopClock(MONDAY_NOON_MS)
    marks: tuple[pytest.MarkDecorator, ...] = ()


@asynccontextmanager
async def _paper(server: PaperServer, clock: Clock, faults: Faults) -> AsyncIterator[Gateway]:
    yield PaperGateway(server, LOGIN, clock=clock, faults=faults)


@asynccontextmanager
async def _mt5(server: PaperServer, clock: Clock, faults: Faults) -> AsyncIterator[Gateway]:
    """MetaTrader 5's own package and a child process are both played here; test_mt5_child.py has the real process."""
    terminal = FakeTerminal(server=server, login=LOGIN, selected={"EURUSD"})
    faults.lag_listeners.append(lambda: terminal.start_lag(faults.visibility_lag_ms / 1000))
    async with in_process(terminal, clock, faults, password="secret", poll_ms=20) as gateway:
        yield gateway


@asynccontextmanager
async def _mt5_manager(server: PaperServer, clock: Clock, faults: Faults) -> AsyncIterator[Gateway]:
    """The MT5Manager package and its child process are both played here; test_mt5_manager_child.py has the real process."""
    fake = FakeManagerServer(server=server, latency_s=0.05, dealing_needed=True)
    faults.lag_listeners.append(lambda: fake.start_lag(faults.visibility_lag_ms / 1000))
    async with managers_in_process(fake, clock, LOGIN, faults=faults, dealing=True) as (gateway,):
        yield gateway


@asynccontextmanager
async def _frames(server: PaperServer, clock: Clock, faults: Faults) -> AsyncIterator[Gateway]:
    """A paper gateway behind the frames every far end speaks, so that whoever speaks them is held to the same promises."""
    behind = PaperGateway(server, LOGIN, clock=clock, faults=faults, call_timeout_s=60.0)
    account = f"{LOGIN}@{server.name}"
    carrier = PaperCarrier(behind, FarEnd(behind, account, clock=clock))
    facts = GatewayFacts(kind="frames", settle_s=0.5)
    yield RemoteGateway(carrier, facts, Opening(account=account), clock=clock)
    await behind.close()


@asynccontextmanager
async def _mt5_process(server: PaperServer, clock: Clock, faults: Faults) -> AsyncIterator[Gateway]:
    """MetaTrader 5's own package alone is played; the child is a process of its own."""
    terminal = FakeTerminal(server=server, login=LOGIN, selected={"EURUSD"})
    with tempfile.TemporaryDirectory() as folder:
        terminal.data_path = folder
        async with TerminalHost(terminal) as host:
            fields = {"kind": "mt5", "login": LOGIN, "server": server.name, "path": terminal.path, "password": "secret"}
            settings = Mt5Settings.model_validate(fields | {"sync_s": 0, "settle_s": 0.5, "call_timeout_s": 5, "poll_ms": 20})
            yield mt5_gateway(settings, clock, host.command)


@asynccontextmanager
async def _bridge(platform: str, carrier: str, server: PaperServer, clock: Clock, faults: Faults) -> AsyncIterator[Gateway]:
    """Our own Expert Advisor, compiled and in a process of its own; the terminal around it is played."""
    need_gxx()
    with tempfile.TemporaryDirectory() as folder:
        async with bridges(platform, carrier)(server, clock, faults, Path(folder)) as (gateway, _):
            yield gateway


def _bridge_kind(platform: str, carrier: str, modes: tuple[MarginMode, ...]) -> Kind:
    return Kind(
        connect=functools.partial(_bridge, platform, carrier),
        modes=modes,
        can=ALL - {"link faults", "caller's price"},
        run=asyncio.run,
        clock=lambda: ShiftedClock(MONDAY_NOON_MS),
        marks=(pytest.mark.server,),
    )


_MT5_MODES = (MarginMode.HEDGING, MarginMode.NETTING)

KINDS: dict[str, Kind] = {
    "paper": Kind(connect=_paper),
    "frames": Kind(connect=_frames),
    "mt5": Kind(connect=_mt5, modes=(MarginMode.HEDGING, MarginMode.NETTING), can=ALL - {"link faults", "caller's price"}),
    "mt5-process": Kind(
        connect=_mt5_process,
        modes=(MarginMode.HEDGING, MarginMode.NETTING),
        can=ALL - {*FAULTS, "caller's price"},
        run=asyncio.run,
        clock=SystemClock,
        marks=(pytest.mark.slow,),
    ),
    "mt5-manager": Kind(
        connect=_mt5_manager,
        modes=(MarginMode.HEDGING, MarginMode.NETTING),
        can=ALL - {"switched account", "magic", "caller's price"},
    ),
    "bridge-mt5-tcp": _bridge_kind("mt5", "tcp", _MT5_MODES),
    "bridge-mt5-files": _bridge_kind("mt5", "files", _MT5_MODES),
    # A carrier knows nothing of account models: one model each is enough for the others.
    "bridge-mt5-pipe": _bridge_kind("mt5", "pipe", (MarginMode.HEDGING,)),
    "bridge-mt5-http": _bridge_kind("mt5", "http", (MarginMode.HEDGING,)),
    "bridge-mt5-websocket": _bridge_kind("mt5", "websocket", (MarginMode.NETTING,)),
    "bridge-mt5-dll": _bridge_kind("mt5", "dll", (MarginMode.HEDGING,)),
    **{f"bridge-mt4-{way}": _bridge_kind("mt4", way, (MarginMode.MT4,)) for way in ("files", "pipe", "http", "dll")},
}
SANITIZED = (
    "bridge-mt5-tcp-hedging",
    "bridge-mt5-websocket-netting",
    "bridge-mt5-dll-hedging",
    "bridge-mt4-files-mt4",
    "bridge-mt4-pipe-mt4",
    "bridge-mt4-http-mt4",
)
"""What is tried on sanitized programs too: every carrier once."""


class HandClock:
    """A clock that moves when a test says so."""

    def __init__(self, ms: int = MONDAY_NOON_MS) -> None:
        self.ms = ms

    def now_ms(self) -> int:
        return self.ms

    def advance(self, *, hours: float = 0, seconds: float = 0) -> None:
        self.ms += round((hours * 3600 + seconds) * 1000)


@dataclass
class Bench:
    """A simulated broker without any gateway: what a synchronous test works on."""

    clock: HandClock = field(default_factory=HandClock)
    login: int = LOGIN

    def __post_init__(self) -> None:
        self.serve()

    def serve(self, mode: MarginMode = MarginMode.HEDGING, habits: BrokerHabits | None = None, **account: Any) -> PaperServer:
        """Start afresh with one account and three quoted symbols."""
        self.server = PaperServer("Broker-Demo", clock=self.clock, server_offset_s=OFFSET_S, habits=habits)
        self.account = self.server.add_account(PaperAccount(LOGIN, margin_mode=mode, **account))
        self.server.set_quote("EURUSD", "1.10000", "1.10010")
        self.server.set_quote("XAUUSD", "2650.50", "2650.80")
        self.server.set_quote("USDJPY", "150.000", "150.020")
        return self.server

    @property
    def position(self) -> Position:
        (only,) = self.server.positions(LOGIN)
        return only


@pytest.fixture
def bench() -> Bench:
    return Bench()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "stage" not in metafunc.fixturenames:
        return
    needs = getattr(metafunc.function, "needs", frozenset())
    modes = getattr(metafunc.function, "modes", tuple(MarginMode))
    stages = [
        pytest.param(Stage(kind=kind, mode=mode), id=f"{name}-{mode}", marks=(*kind.marks, *_sanitized(f"{name}-{mode}")))
        for name, kind in KINDS.items()
        if needs <= kind.can
        for mode in kind.modes
        if mode in modes
    ]
    metafunc.parametrize("stage", stages)


def _sanitized(name: str) -> tuple[pytest.MarkDecorator, ...]:
    return (pytest.mark.sanitized,) if name in SANITIZED else ()
