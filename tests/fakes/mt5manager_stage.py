"""How tests reach a fake MT5Manager: in this very process on virtual time, or through a real child process on real time."""

import asyncio
import queue
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from copier.clock import Clock
from copier.gateway import GatewayFacts
from copier.gateways.carriers import Link, LinkLost, NotSent
from copier.gateways.manager_connection import ManagerOpening
from copier.gateways.mt5_manager import LoginCarrier, ManagerChild
from copier.gateways.mt5_manager_child import Office
from copier.gateways.paper_faults import NO_FAULT, Answer, Fault, Faults, Operation
from copier.gateways.remote import RemoteGateway
from copier.wire import CHANGED, TRADING, decode_request, encode_push
from tests.fakes.fake_mt5manager import FakeManagerServer, FakeMT5Manager
from tests.fakes.mt5_stage import OPERATIONS, VirtualPace

ENTRY = Path(__file__).with_name("mt5manager_child_entry.py")
COMMAND = (sys.executable, str(ENTRY))
PUMP_S = 0.01

T = TypeVar("T")

READS = {
    Operation.ACCOUNT: "UserAccountRequest",
    Operation.POSITIONS: "PositionRequest",
    Operation.QUOTE: "TickLast",
    Operation.DEALS: "DealRequest",
    Operation.SYMBOLS: "SymbolGetArray",
}


class VirtualWaits(VirtualPace):
    """Waiting for another thread's word, where that thread is time itself."""

    def take(self, source: "queue.SimpleQueue[T]", within_s: float) -> T | None:
        end_s = self.seconds() + within_s
        while source.empty() and (rest_s := end_s - self.seconds()) > 1e-9:
            self.pause(min(rest_s, PUMP_S))
        return None if source.empty() else source.get()


@contextmanager
def misbehaving(fake: FakeManagerServer, operation: Operation | None, fault: Fault) -> Iterator[None]:
    """Let a server do wrong during one operation what a paper gateway's fault says."""
    fails = dict(fake.fails)
    fake.broker_fault = fault
    if fault.fails and operation in READS:
        fake.fails[READS[operation]] = 7
    if not fault.connected:
        fake.lose_connection()
    try:
        yield
    finally:
        fake.broker_fault = NO_FAULT
        fake.fails = fails
        if not fault.connected:
            fake.reconnect()


class OfficeLink:
    """What a manager's child process is, without process or threads: one login's frame after the other's."""

    def __init__(self, fake: FakeManagerServer, clock: Clock, faults: Faults) -> None:
        self.office = Office(lambda opening: FakeMT5Manager(fake), VirtualWaits(clock, fake.pass_time), self._heard)
        self.killed = False
        self._fake = fake
        self._faults = faults
        self._lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = False
        self._run(self._pump())

    def _run(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pump(self) -> None:
        while True:
            await asyncio.sleep(PUMP_S)
            self._fake.pass_time()

    def _heard(self, login: str) -> None:
        with suppress(RuntimeError):
            asyncio.get_running_loop().call_soon(self._tell, login)

    def _tell(self, login: str) -> None:
        for each in [login] if login else self.office.restore():
            self._lines.put_nowait(each.encode() + b" " + encode_push(CHANGED))

    async def send(self, line: bytes) -> None:
        if self._over:
            raise NotSent("the child has ended")
        login, _, frame = line.partition(b" ")
        name = decode_request(frame).op
        operation = OPERATIONS.get(name)  # type: ignore[call-overload]
        fault = self._faults.take(operation) if operation else NO_FAULT
        if self._faults.offline:
            self._fake.lose_connection()
        await asyncio.sleep(fault.send_delay_s)
        if name not in TRADING and fault.answer is not Answer.GIVEN:
            return
        with misbehaving(self._fake, operation, fault):
            answer = self.office.answer(login.decode(), frame)
        if fault.answer_delay_s:
            self._run(self._later(login + b" " + answer, fault.answer_delay_s))
        else:
            self._lines.put_nowait(login + b" " + answer)

    async def _later(self, line: bytes, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        self._lines.put_nowait(line)

    async def receive(self) -> bytes:
        line = await self._lines.get()
        if line is None:
            raise LinkLost("the child has ended")
        return line

    def overdue(self) -> None:
        self.killed = True
        self._end()

    async def close(self) -> None:
        self._end()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self.office.close()
            self._lines.put_nowait(None)


class OfficeCarrier:
    """Starts what stands for a child."""

    def __init__(self, make: Callable[[], OfficeLink]) -> None:
        self.links: list[OfficeLink] = []
        self._make = make

    async def connect(self) -> Link:
        self.links.append(self._make())
        return self.links[-1]

    async def close(self) -> None:
        pass


def opening_of(fake: FakeManagerServer, login: int, folder: str, **more: Any) -> ManagerOpening:
    """Return the settings of a login at a fake server."""
    known = {"address": fake.address, "manager": fake.manager, "password": fake.password, "folder": folder}
    return ManagerOpening(account=f"{login}@{fake.server.name}", **{**known, **more})


@asynccontextmanager
async def in_process(
    fake: FakeManagerServer, clock: Clock, *logins: int, faults: Faults | None = None, **more: Any
) -> AsyncIterator[tuple[RemoteGateway, ...]]:
    """Make gateways to logins behind one manager, without any process; `more` are fields of the opening."""
    carrier = OfficeCarrier(lambda: OfficeLink(fake, clock, faults or Faults()))
    child = ManagerChild(carrier)
    with tempfile.TemporaryDirectory() as folder:
        gateways = []
        for login in logins:
            opening = opening_of(fake, login, folder, **more)
            facts = GatewayFacts(kind="mt5-manager", settle_s=5.0, call_timeout_s=opening.call_timeout_s)
            way = LoginCarrier(child, str(login), opening.call_timeout_s)
            gateways.append(RemoteGateway(way, facts, opening, clock=clock, in_flight_max=1))
        try:
            yield tuple(gateways)
        finally:
            for gateway in gateways:
                await gateway.close()
