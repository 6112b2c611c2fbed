"""An engine that stops reading: the terminal's thread goes on, whatever the carrier, and both ends say what happened."""

import asyncio
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copier.gateways.paper_faults import Faults
from copier.model import MarginMode
from tests.conftest import ROOT
from tests.gateways.test_bridge_experts import broker
from tests.mql.stage import BY_DLL, CARRIERS, INPUTS, LOGIN, MONDAY_NOON_MS, ShiftedClock, expert, mt5_terminal, need_gxx
from tests.mql.terminal import Terminal4, Terminal5

pytestmark = pytest.mark.server
ACCOUNT = f"{LOGIN}@Broker-Demo"
POSITIONS = {"files": 1}
BY_DEFAULT = 250
"""Enough for a list that fills a connection's buffers after a few changes; of files the number counts."""

QUEUE = "link ended: .*(too much waits to be sent|nothing was heard)"
WORDS = {
    "tcp": "link ended: .*the engine does not read",
    "websocket": "link ended: .*the engine does not read",
    "pipe": "link ended: .*the engine does not read",
    "http": "link ended: .*no answer from",
    "files": "link ended: .*the engine has left 256 files unread",
    "dll": QUEUE,
    "dll-pipe": QUEUE,
}
"""The library keeps 8 MB: too much of it or too long a silence, whichever comes first."""
KINDS = [(platform, way) for platform, ways in {"mt5": tuple(WORDS), "mt4": ("files", "pipe", "http")}.items() for way in ways]


class Engine:
    """The engine's process, which can be frozen, and what it has logged."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[str] = []

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def count(self, words: str) -> int:
        return sum(words in line for line in self.said)

    async def listen(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.said.append(line.decode().strip())


@asynccontextmanager
async def engine(way: str, folder: Path, shift_ms: int) -> AsyncIterator[tuple[Engine, int]]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.mql.engine",
        way,
        str(folder),
        ACCOUNT,
        str(shift_ms),
        cwd=ROOT,
        stdout=pipe,
        stderr=pipe,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    running = Engine(process)
    listening = asyncio.create_task(running.listen())
    try:
        yield running, int(await process.stdout.readline())
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await listening


async def until(came: Callable[[], bool], what: str) -> None:
    """Look again and again, as nothing tells when a line of a log comes."""
    for _ in range(8000):
        if came():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"it never came: {what}")


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system cannot freeze a process")
@pytest.mark.timeout(200)
@pytest.mark.parametrize(("platform", "way"), [pytest.param(*kind, id="-".join(kind)) for kind in KINDS])
async def test_an_engine_that_hangs_does_not_hang_the_terminal_and_both_say_so(platform: str, way: str) -> None:
    need_gxx()
    clock = ShiftedClock(MONDAY_NOON_MS)
    server = broker(clock, MarginMode.MT4 if platform == "mt4" else MarginMode.HEDGING)
    server.accounts[LOGIN].balance = Decimal(100_000_000)
    tickets = [server.buy(LOGIN, "EURUSD", "0.01").position for _ in range(POSITIONS.get(way, BY_DEFAULT))]
    plays = Terminal4 if platform == "mt4" else Terminal5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with engine(way, folder, clock.shift_ms) as (far, port), plays(mt5_terminal(server, Faults())) as host:
            inputs: dict[str, Any] = {**INPUTS, "Carrier": CARRIERS[way], "Port": port}
            if way.endswith("pipe"):
                inputs |= {"Pipe": "test", "MQL_PIPES": folder, "COPIER_PIPES": folder}
            source = BY_DLL[platform] if way.startswith("dll") else None
            async with expert(platform, host, folder, clock=clock, source=source, **inputs) as running:
                await until(lambda: far.count("connected to") == 1, "the first link")
                changing = asyncio.create_task(_change(server, tickets))
                far.freeze()
                await until(lambda: any(re.search(WORDS[way], line) for line in running.said), WORDS[way])
                # The engine is frozen still, and the terminal is asked for positions as before.
                looked = host.asked
                await until(lambda: host.asked > looked + 20, "another look at the positions")
                far.thaw()
                await until(lambda: far.count("link lost") > 0, "the engine's word")
                await until(lambda: far.count("connected to") > 1, "another link")
                changing.cancel()
                await asyncio.gather(changing, return_exceptions=True)


async def _change(server: Any, tickets: list[int]) -> None:
    """Move a stop again and again, so that there is always something to tell."""
    number = 0
    while True:
        number += 1
        server.set_levels(LOGIN, tickets[0], Decimal("1.09000") - Decimal(number % 100) / 100_000, Decimal(0))
        await asyncio.sleep(0.005)
