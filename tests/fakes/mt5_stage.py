"""How tests reach a fake terminal: in this very process on virtual time, or through a real child process on real time."""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from copier.clock import Clock, LoopClock, VirtualLoop, run_virtual
from copier.errors import CopierError
from copier.gateway import GatewayFacts
from copier.gateways import mt5_child
from copier.gateways.carriers import Link, LinkLost, NotSent
from copier.gateways.mt5_session import Mt5Opening, Pace
from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_faults import NO_FAULT, Fault, Faults, Operation
from copier.gateways.paper_server import PaperServer
from copier.gateways.remote import RemoteGateway
from copier.model import (
    CloseRequest,
    CloseResult,
    ModifyRequest,
    ModifyResult,
    Permit,
    Position,
    Side,
    TradeRequest,
    TradeResult,
)
from copier.wire import CHANGED, Op, decode_request, encode_error, encode_push
from tests.fakes.fake_metatrader5 import FakeMetaTrader5, FakeTerminal, Hung
from tests.fakes.mt5_structs import to_plain

ENTRY = Path(__file__).with_name("mt5_child_entry.py")


class VirtualPace:
    """Pauses that let virtual time pass at once, as `time.sleep` in a process of its own would."""

    def __init__(self, clock: Clock, passed: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._passed = passed

    def now_ms(self) -> int:
        return self._clock.now_ms()

    def seconds(self) -> float:
        return asyncio.get_running_loop().time()

    def pause(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop._now += seconds
        self._passed()


OPERATIONS = {
    Op.GET_ACCOUNT: Operation.ACCOUNT,
    Op.GET_POSITIONS: Operation.POSITIONS,
    Op.GET_QUOTE: Operation.QUOTE,
    Op.EXECUTE_TRADE: Operation.EXECUTE,
    Op.CLOSE_POSITION: Operation.CLOSE,
    Op.MODIFY_POSITION: Operation.MODIFY,
    Op.GET_DEALS: Operation.DEALS,
    Op.GET_SYMBOLS: Operation.SYMBOLS,
}
READS = {
    Operation.ACCOUNT: "account_info",
    Operation.POSITIONS: "positions_get",
    Operation.QUOTE: "symbol_info_tick",
    Operation.DEALS: "history_deals_get",
    Operation.SYMBOLS: "symbols_get",
}


@contextmanager
def misbehaving(terminal: FakeTerminal, operation: Operation | None, fault: Fault) -> Iterator[None]:
    """Let a terminal do wrong during one operation what a paper gateway's fault says."""
    before = terminal.login, terminal.connected, dict(terminal.fails)
    terminal.broker_fault = fault
    if fault.fails and operation in READS:
        terminal.fails[READS[operation]] = -1
    terminal.connected = terminal.connected and fault.connected
    if fault.login is not None:
        terminal.switch(fault.login)
    try:
        yield
    finally:
        terminal.broker_fault = NO_FAULT
        login, terminal.connected, terminal.fails = before
        if terminal.login != login:
            terminal.switch(login)


class InProcessLink:
    """What a child process is, without the process: opened by the first frame, gone when the terminal is."""

    def __init__(self, api: FakeMetaTrader5, pace: Pace, terminal: FakeTerminal, faults: Faults) -> None:
        self._api = api
        self._pace = pace
        self._terminal = terminal
        self._faults = faults
        self._answers: set[asyncio.Task[None]] = set()
        self._frames: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._served: Any = None
        self._over = False
        self._poller: asyncio.Task[None] | None = None

    async def send(self, frame: bytes) -> None:
        if self._over:
            raise NotSent("the child has ended")
        operation = OPERATIONS.get(decode_request(frame).op)
        fault = self._faults.take(operation) if operation else NO_FAULT
        await asyncio.sleep(fault.send_delay_s + fault.execute_delay_s)
        if self._over:
            raise LinkLost("the child has ended")
        waiting = self._frames.qsize()
        with suppress(Hung), misbehaving(self._terminal, operation, fault):
            self._serve(frame)
        if fault.answer_delay_s and self._frames.qsize() > waiting:
            task = asyncio.create_task(self._answer_later(self._frames.get_nowait(), fault.answer_delay_s))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)

    async def _answer_later(self, frame: bytes | None, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        self._frames.put_nowait(frame)

    def _serve(self, frame: bytes) -> None:
        if self._served is None:
            try:
                far_end, terminal, session, opened = mt5_child._open(frame, self._api, self._pace)
            except CopierError as error:
                self._frames.put_nowait(encode_error(0, error))
                self._end()
                return
            self._served = (far_end, session)
            self._frames.put_nowait(opened)
            if session.opening.poll_ms:
                self._poller = asyncio.create_task(self._poll(terminal, session.opening.poll_ms / 1000))
            return
        far_end, session = self._served
        self._frames.put_nowait(far_end.answer(frame))
        if session.broken:
            self._end()

    async def _poll(self, terminal: Any, poll_s: float) -> None:
        before = terminal.fingerprint()
        while True:
            await asyncio.sleep(poll_s)
            now = terminal.fingerprint()
            if now is not None and now != before:
                before = now
                self._frames.put_nowait(encode_push(CHANGED))

    async def receive(self) -> bytes:
        frame = await self._frames.get()
        if frame is None:
            raise LinkLost("the child has ended")
        return frame

    def overdue(self) -> None:
        self._end()

    async def close(self) -> None:
        self._end()
        tasks = [*self._answers, *([self._poller] if self._poller else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._frames.put_nowait(None)


class InProcessCarrier:
    """Starts what stands for a child: a package of its own over terminals that stay."""

    def __init__(self, clock: Clock, terminal: FakeTerminal, faults: Faults | None = None) -> None:
        self._clock = clock
        self._terminal = terminal
        self._faults = faults or Faults()

    async def connect(self) -> Link:
        pace = VirtualPace(self._clock, self._terminal.pass_time)
        return InProcessLink(FakeMetaTrader5(self._terminal), pace, self._terminal, self._faults)

    async def close(self) -> None:
        pass


def opening_of(terminal: FakeTerminal, **more: Any) -> Mt5Opening:
    """Return the settings of a child for this terminal's present account."""
    return Mt5Opening(account=f"{terminal.login}@{terminal.server.name}", path=terminal.path, **{"sync_s": 0.0, **more})


@asynccontextmanager
async def in_process(
    terminal: FakeTerminal, clock: Clock, faults: Faults | None = None, **more: Any
) -> AsyncIterator[RemoteGateway]:
    """Make a gateway to a fake terminal that needs no process; `more` are fields of the opening."""
    with tempfile.TemporaryDirectory() as folder:
        terminal.data_path = terminal.data_path or folder
        opening = opening_of(terminal, **more)
        facts = GatewayFacts(kind="mt5", settle_s=5.0, call_timeout_s=opening.call_timeout_s)
        gateway = RemoteGateway(InProcessCarrier(clock, terminal, faults), facts, opening, clock=clock, in_flight_max=1)
        try:
            yield gateway
        finally:
            await gateway.close()


MONDAY_NOON_MS = 1_704_715_200_000


@dataclass(kw_only=True)
class Mt5Scene:
    """A gateway to a fake terminal at a paper server, and short ways to trade."""

    clock: Clock
    server: PaperServer
    terminal: FakeTerminal
    gateway: RemoteGateway

    @property
    def account(self) -> PaperAccount:
        return self.terminal.account

    def permit(self, token: int = 1, within_s: float = 60.0) -> Permit:
        return Permit(token=token, not_after_ms=self.clock.now_ms() + round(within_s * 1000))

    async def open(self, lots: str = "0.30", *, side: Side = Side.BUY, symbol: str = "EURUSD", **more: Any) -> TradeResult:
        request = TradeRequest(symbol=symbol, action=side, lots=Decimal(lots), **more)
        return await self.gateway.execute_trade(request, self.permit())

    async def close(self, ticket: int, lots: str | None = None) -> CloseResult:
        request = CloseRequest(ticket=ticket, lots=None if lots is None else Decimal(lots))
        return await self.gateway.close_position(request, self.permit())

    async def modify(self, ticket: int, *, stop: str | None = None, target: str | None = None) -> ModifyResult:
        levels = [None if level is None else Decimal(level) for level in (stop, target)]
        request = ModifyRequest(ticket=ticket, stop_loss=levels[0], take_profit=levels[1])
        return await self.gateway.modify_position(request, self.permit())

    async def positions(self) -> tuple[Position, ...]:
        return (await self.gateway.get_positions()).positions


def paper_terminal(
    clock: Clock, login: int = 5001, *, symbols: dict[str, dict[str, Any]] | None = None, **account: Any
) -> FakeTerminal:
    """Return a terminal logged in to the first of two accounts at a server of its own; `symbols` changes rules."""
    server = PaperServer("Broker-Demo", clock=clock, server_offset_s=7200)
    server.add_account(PaperAccount(login, **account))
    server.add_account(PaperAccount(login + 1, **account))
    for symbol, changes in (symbols or {}).items():
        server.change_symbol(symbol, **changes)
    server.set_quote("EURUSD", "1.10000", "1.10010")
    server.set_quote("XAUUSD", "2650.50", "2650.80")
    return FakeTerminal(server=server, login=login, selected={"EURUSD"}, path=f"C:\\Terminals\\{login}\\terminal64.exe")


def play(act: Callable[[Mt5Scene], Awaitable[None]], opening: dict[str, Any] | None = None, **more: Any) -> None:
    """Run a scene in virtual time; `opening` are fields of the child's settings, `more` is for `paper_terminal`."""

    async def run() -> None:
        clock = LoopClock(MONDAY_NOON_MS)
        terminal = paper_terminal(clock, **more)
        async with in_process(terminal, clock, **(opening or {})) as gateway:
            await gateway.open()
            await act(Mt5Scene(clock=clock, server=terminal.server, terminal=terminal, gateway=gateway))

    run_virtual(run())


class TerminalHost:
    """Lets child processes call a fake MetaTrader5 package that lives here, where it survives them."""

    def __init__(self, *terminals: FakeTerminal) -> None:
        self.terminals = terminals
        self.calls: list[str] = []
        self._server: asyncio.Server | None = None
        self._busy: set[asyncio.Task[None]] = set()

    @property
    def command(self) -> tuple[str, ...]:
        """How to start a child whose MetaTrader5 package is here."""
        assert self._server is not None
        return sys.executable, str(ENTRY), str(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> "TerminalHost":
        self._server = await asyncio.start_server(self._attend, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._busy:
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)
        await self._server.wait_closed()

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._busy.add(task)
        api = FakeMetaTrader5(*self.terminals)
        try:
            while line := await reader.readline():
                call = json.loads(line)
                self.calls.append(call["name"])
                try:
                    answer = {"value": to_plain(getattr(api, call["name"])(*call["args"], **call["keywords"]))}
                except Hung:
                    await asyncio.Event().wait()
                except (TypeError, AttributeError) as error:
                    answer = {"error": type(error).__name__, "text": str(error)}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._busy.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
