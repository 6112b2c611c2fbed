"""Puts a compiled Expert Advisor, in a process of its own, between a simulated broker and a bridge's gateway."""

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from copier.clock import Clock
from copier.gateway import GatewayFacts
from copier.gateways.bridge import bridge_gateway
from copier.gateways.bridge_files import FilesCarrier
from copier.gateways.bridge_hub import BridgeHub
from copier.gateways.bridge_pipe import PipeListener
from copier.gateways.bridge_port import PortListener
from copier.gateways.carriers import Carrier, Link, LinkLost, NotSent
from copier.gateways.paper_faults import NO_FAULT, Answer, Fault, Faults
from copier.gateways.paper_server import PaperServer
from copier.gateways.remote import RemoteGateway
from copier.wire import Answer as Answered
from copier.wire import decode_incoming, decode_request
from tests.conftest import absent
from tests.fakes.mt5_fake_terminal import FakeTerminal
from tests.fakes.mt5_stage import OPERATIONS, misbehaving
from tests.mql.build import MQL, build, gxx
from tests.mql.terminal import Terminal4, Terminal5

SECRET = "a secret of the tests"
BY_DLL = {"mt5": MQL / "mt5" / "CopierBridgeDll.mq5", "mt4": MQL / "mt4" / "CopierBridgeDll.mq4"}
EXPERTS = {"mt5": MQL / "mt5" / "CopierBridge.mq5", "mt4": MQL / "mt4" / "CopierBridge.mq4"}


class ShiftedClock:
    """Real time, moved so that the test begins at a moment of our choice."""

    def __init__(self, start_ms: int) -> None:
        self.shift_ms = start_ms - time.time_ns() // 1_000_000

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.shift_ms


class Expert:
    """A running Expert Advisor."""

    process: asyncio.subprocess.Process
    host: Terminal5

    def __init__(self, program: Path, environment: dict[str, str]) -> None:
        self.said: list[str] = []
        self._program = program
        self._environment = environment
        self._listener: asyncio.Task[None] | None = None

    async def start(self) -> None:
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(str(self._program), env=self._environment, stderr=pipe)
        self._listener = asyncio.create_task(self._listen())

    async def restart(self) -> None:
        """Kill it and start it again, as after a power failure."""
        await self.kill()
        await self.start()

    async def _listen(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.said.append(line.decode().strip())

    async def kill(self) -> None:
        """End it at once."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        if self._listener is not None:
            await self._listener
        found = [line for line in self.said if "Sanitizer" in line or "runtime error" in line]
        assert not found, "\n".join(self.said[-60:])


@asynccontextmanager
async def expert(
    platform: str, host: Terminal5 | None, folder: Path, *, clock: Clock, source: Path | None = None, **inputs: Any
) -> AsyncIterator[Expert]:
    """Run an Expert Advisor on what plays its terminal; `inputs` are what a trader would enter."""
    program = build(source or EXPERTS[platform])
    environment = {
        "MQL_TERMINAL_PORT": str(host.port if host else 0),
        "MQL_COMMON": str(folder),
        "MQL_FILES": str(folder / "own"),
        "MQL_CLOCK_SHIFT_MS": str(getattr(clock, "shift_ms", 0)),
        **{_named(name): str(value) for name, value in inputs.items()},
    }
    running = Expert(program, {"PATH": os.environ["PATH"], **environment})
    if host is not None:
        running.host = host
    await running.start()
    try:
        yield running
    finally:
        await running.kill()


def _named(name: str) -> str:
    return name if name.startswith(("MQL_", "COPIER_", "SSL_")) else f"MQL_INPUT_{name}"


class FaultyLink:
    """A link on which happens what a paper gateway's faults say, while the terminal behind it misbehaves."""

    def __init__(self, link: Link, terminal: Any, faults: Faults) -> None:
        self._link = link
        self._terminal = terminal
        self._faults = faults
        self._calls: dict[int, tuple[Fault, ExitStack]] = {}
        self._late: set[asyncio.Task[None]] = set()
        self._held: asyncio.Queue[bytes] = asyncio.Queue()
        self._reader: asyncio.Task[bytes] | None = None

    async def send(self, frame: bytes) -> None:
        request = decode_request(frame)
        operation = OPERATIONS.get(request.op)
        fault = self._faults.take(operation) if operation else NO_FAULT
        if fault.not_sent or self._faults.offline:
            raise NotSent("the terminal is not connected")
        await asyncio.sleep(fault.send_delay_s + fault.execute_delay_s)
        if fault.answer is Answer.NEVER and not fault.executed:
            return
        stack = ExitStack()
        stack.enter_context(misbehaving(self._terminal, operation, fault))
        self._calls[request.id] = fault, stack
        await self._link.send(frame)

    async def receive(self) -> bytes:
        while True:
            held = asyncio.ensure_future(self._held.get())
            self._reader = self._reader or asyncio.ensure_future(self._link.receive())
            try:
                await asyncio.wait({held, self._reader}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not held.done():
                    held.cancel()
            if held.done() and not held.cancelled():
                return held.result()
            reader, self._reader = self._reader, None
            frame = await reader
            incoming = decode_incoming(frame)
            if not isinstance(incoming, Answered) or incoming.id not in self._calls:
                return frame
            fault, stack = self._calls.pop(incoming.id)
            stack.close()
            if fault.answer is Answer.LOST:
                raise LinkLost("the connection broke after the request had left")
            if fault.answer is Answer.NEVER:
                continue
            if not fault.answer_delay_s:
                return frame
            task = asyncio.create_task(self._later(frame, fault.answer_delay_s))
            self._late.add(task)
            task.add_done_callback(self._late.discard)

    async def _later(self, frame: bytes, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        self._held.put_nowait(frame)

    def overdue(self) -> None:
        self._link.overdue()

    async def close(self) -> None:
        for _, stack in self._calls.values():
            stack.close()
        self._calls.clear()
        tasks = [*self._late, *([self._reader] if self._reader else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._link.close()


class FaultyCarrier:
    """Makes such links out of another carrier's."""

    def __init__(self, carrier: Carrier, terminal: Any, faults: Faults) -> None:
        self._carrier = carrier
        self._terminal = terminal
        self._faults = faults

    async def connect(self) -> Link:
        return FaultyLink(await self._carrier.connect(), self._terminal, self._faults)

    async def close(self) -> None:
        await self._carrier.close()


NO_GXX = "g++ is not installed: the Expert Advisors cannot be compiled (Debian, Ubuntu: apt install g++)"
LOGIN = 5001
MONDAY_NOON_MS = 1_704_715_200_000
FACTS = GatewayFacts(kind="bridge", settle_s=1.0, call_timeout_s=4.0)
INPUTS = {"Secret": SECRET, "TimerMs": 2, "WatchMs": 20, "RetryMs": 20}
CARRIERS = {"tcp": 0, "files": 1, "pipe": 2, "http": 3, "websocket": 4, "dll": 0, "dll-pipe": 2}
"""The values of the input `Carrier`."""


@asynccontextmanager
async def bridge(
    platform: str,
    way: str,
    server: PaperServer,
    clock: Clock,
    faults: Faults,
    folder: Path,
    *,
    tls: ssl.SSLContext | None = None,
    account: str = "",
    sources: Path = MQL,
    **inputs: Any,
) -> AsyncIterator[tuple[RemoteGateway, Expert]]:
    """Make a gateway to a terminal whose Expert Advisor, made from `sources`, comes by one of its ways."""
    terminal = mt5_terminal(server, faults)
    account = account or f"{LOGIN}@{server.name}"
    more: dict[str, Any] = {**INPUTS, "Carrier": CARRIERS[way]}
    carrier: Carrier
    if way == "files":
        carrier = FilesCarrier(folder, account, SECRET, clock=clock, poll_s=0.002)
    else:
        listener = PipeListener("test", folder) if way.endswith("pipe") else PortListener(port=0, tls=tls)
        waiting = BridgeHub(listener, clock=clock).carrier(account, SECRET)
        # The port must be known before the Expert Advisor starts.
        await waiting.open()
        pipes = {"Pipe": "test", "MQL_PIPES": folder, "COPIER_PIPES": folder}
        more |= pipes if isinstance(listener, PipeListener) else {"Port": listener.port}
        carrier = waiting
    gateway = bridge_gateway(FaultyCarrier(carrier, terminal, faults), FACTS, account, clock=clock, open_timeout_s=2.0)
    plays = Terminal4 if platform == "mt4" else Terminal5
    more |= inputs
    source = sources / (BY_DLL if way.startswith("dll") else EXPERTS)[platform].relative_to(MQL)
    async with plays(terminal) as host, expert(platform, host, folder, clock=clock, source=source, **more) as running:
        try:
            yield gateway, running
        finally:
            await gateway.close()


def mt5_terminal(server: PaperServer, faults: Faults) -> FakeTerminal:
    """Return a terminal whose lists lag as the faults say."""
    terminal = FakeTerminal(server=server, login=LOGIN, selected={"EURUSD"})
    faults.lag_listeners.append(lambda: terminal.start_lag(faults.visibility_lag_ms / 1000))
    return terminal


Bridges = Callable[..., AbstractAsyncContextManager[tuple[RemoteGateway, Expert]]]


def bridges(platform: str, carrier: str) -> Bridges:
    """Return what puts a bridge of one kind in front of a broker."""
    return partial(bridge, platform, carrier)


def need_gxx() -> None:
    """Skip a test that compiles where nothing can; where everything must be there, fail it."""
    if gxx() is None:
        absent(NO_GXX)
