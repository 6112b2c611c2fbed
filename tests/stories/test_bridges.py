"""Two masters and five followers behind our Expert Advisors, over every carrier at once: cut, killed, and right at the end.

The engine is `mt-copier run` as a process of its own, the Expert Advisors are the real ones, compiled; the terminals around
them and their brokers are played here, and judge.
"""

import asyncio
import contextlib
import itertools
import json
import os
import random
import shutil
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from copier.clock import SystemClock
from copier.errors import Rejected
from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_faults import Faults
from copier.gateways.paper_server import PaperServer
from copier.model import DealEntry, MarginMode, Position
from tests.conftest import ROOT
from tests.fakes.mt5_fake_terminal import FakeTerminal
from tests.mql.stage import BY_DLL, CARRIERS, LOGIN, SECRET, Expert, expert, mt5_terminal, need_gxx
from tests.mql.terminal import Rows, Terminal4, Terminal5

pytestmark = [pytest.mark.server, pytest.mark.slow]

D = Decimal
PRICES = {"EURUSD": ("1.10000", "1.10010"), "XAUUSD": ("2650.00", "2650.30")}
POSITIONS_MAX = 12
CALM_S = 60.0


@dataclass(frozen=True)
class Part:
    """One terminal of the story: who it is, which platform, and how its Expert Advisor reaches the engine."""

    name: str
    platform: str
    carrier: str


MASTERS = (Part("gold", "mt4", "files"), Part("fast", "mt5", "websocket"))
FOLLOWERS = (
    Part("ann", "mt5", "tcp"),
    Part("ben", "mt5", "dll"),
    Part("cid", "mt4", "pipe"),
    Part("dot", "mt4", "http"),
    Part("eve", "mt5", "websocket"),
)
PIPE = "story"


class Wire:
    """A proxy on the loopback, whose links can be cut, and which says a command twice now and then."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self._to = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.cuts = 0
        self.repeats = 0
        self.refuses = False

    async def __aenter__(self) -> "Wire":
        self._server = await asyncio.start_server(self._attend, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        self.cuts += len(self._writers) // 2
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if self.refuses:
                return
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to)
            pair = {writer, there_writer}
            self._writers |= pair
            there, back = _pump(reader, there_writer, bytes), _pump(there_reader, writer, self._stutter)
            pumps = [asyncio.create_task(there), asyncio.create_task(back)]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                self._writers -= pair
                there_writer.transport.abort()
        except OSError:
            pass
        finally:
            writer.transport.abort()

    def _stutter(self, data: bytes) -> bytes:
        """Return what is passed on: of lines that are commands every third is said again."""
        if not (data.startswith(b'{"command"') and data.endswith(b"\n")):
            return data
        self.repeats += 1
        return data * 2 if self.repeats % 3 == 0 else data


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Callable[[bytes], bytes]) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(change(data))
            await writer.drain()


@dataclass
class Journal:
    """What the broker did for whom: every deal and every change of levels, with the command that asked for it.

    An Expert Advisor writes a command's name down before it executes it, so that the last line of its file is the one.
    """

    commands: Path
    done: list[tuple[str, str, int]] = field(default_factory=list)
    """Command, what was done, and the deal's or the position's number."""

    def note(self, server: PaperServer, order: Callable[[], Any]) -> Any:
        """Let an order be executed, and note what came of it."""
        account = server.accounts[LOGIN]
        deals, levels = len(account.deals), self._levels(server)
        answer = order()
        command = self._under_way()
        for deal in account.deals[deals:]:
            self.done.append((command, "opened" if deal.entry is DealEntry.IN else "closed", deal.ticket))
        after = self._levels(server)
        self.done += [(command, "levels", ticket) for ticket in levels.keys() & after if levels[ticket] != after[ticket]]
        return answer

    def _levels(self, server: PaperServer) -> dict[int, tuple[Decimal, Decimal]]:
        return {each.ticket: (each.stop_loss, each.take_profit) for each in server.positions(LOGIN)}

    def _under_way(self) -> str:
        said = json.loads(self.commands.read_text(encoding="utf-8").splitlines()[-1])
        assert not said["answer"], f"an order left for {said['command']}, which was answered already"
        return str(said["command"])


class Noting5(Terminal5):
    """A MetaTrader 5 terminal whose broker's doings are noted."""

    def __init__(self, terminal: FakeTerminal, journal: Journal) -> None:
        super().__init__(terminal)
        self._journal = journal

    def answer(self, name: str, args: list[str]) -> Rows:
        if name not in ("order_send", "send", "close", "modify"):
            return super().answer(name, args)
        rows: Rows = self._journal.note(self.terminal.server, partial(super().answer, name, args))
        return rows


class Noting4(Noting5, Terminal4):
    """The same of MetaTrader 4."""


@dataclass
class Terminal:
    """A part of the story while it plays."""

    part: Part
    server: PaperServer
    expert: Expert
    wire: Wire | None
    journal: Journal

    @property
    def positions(self) -> tuple[Position, ...]:
        return self.server.positions(LOGIN)

    def book(self) -> Counter[tuple[str, str, Decimal]]:
        return Counter((p.symbol, p.type.value, p.lots) for p in self.positions)


class Engine:
    """`mt-copier run` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.process: asyncio.subprocess.Process | None = None
        self.kills = 0

    async def start(self) -> None:
        log = (self._folder / "engine.log").open("ab")
        with log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                "from copier.cli import main; main()",
                "run",
                str(self._folder / "copier.yaml"),
                cwd=self._folder,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT), "BRIDGE_SECRET": SECRET, "TMPDIR": str(self._folder)},
            )

    async def kill(self) -> None:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def restart(self) -> None:
        await self.kill()
        self.kills += 1
        await self.start()


@dataclass
class Story:
    engine: Engine
    folder: Path
    terminals: dict[str, Terminal]
    rng: random.Random
    changes: int = 0
    enough: bool = False
    """Nothing is to be cut or killed any more."""

    def trade(self, master: Terminal) -> None:
        """Change one thing at a master: an open, a part of one closed, all of it, or its stop."""
        server, rng, positions = master.server, self.rng, master.positions
        choice = rng.random()
        try:
            if not positions or (choice < 0.45 and len(positions) < POSITIONS_MAX):
                trade = rng.choice([server.buy, server.sell])
                trade(LOGIN, rng.choice(sorted(PRICES)), D(rng.randrange(2, 30)) / 100)
            else:
                position = rng.choice(positions)
                if choice < 0.7:
                    server.close(LOGIN, position.ticket)
                elif choice < 0.85 and position.lots > D("0.02"):
                    server.close(LOGIN, position.ticket, (position.lots / 2).quantize(D("0.01")))
                else:
                    stop = (position.open_price * (1 - position.type.sign * D("0.1"))).quantize(D("0.01"))
                    server.set_levels(LOGIN, position.ticket, stop, D(0))
        except Rejected:
            return
        self.changes += 1

    async def disturb(self) -> None:
        """Cut a link, or kill an Expert Advisor or the engine, at random until it is enough; what is killed is started again."""
        while not self.enough:
            await asyncio.sleep(self.rng.uniform(0.3, 1.2))
            choice = self.rng.random()
            terminal = self.rng.choice(list(self.terminals.values()))
            if choice < 0.5 and terminal.wire is not None:
                terminal.wire.cut()
                terminal.wire.refuses = True
                await asyncio.sleep(self.rng.uniform(0, 0.4))
                terminal.wire.refuses = False
            elif choice < 0.85:
                await terminal.expert.restart()
            else:
                await self.engine.restart()

    async def all_connected(self) -> None:
        """Wait until every account is reached and the relations have begun: what is open before is not theirs."""
        log = self.folder / "engine.log"
        async with asyncio.timeout(CALM_S):
            while any(f"{LOGIN}@{name}: connected to" not in log.read_text() for name in self.terminals):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await asyncio.sleep(3)

    def wanted(self) -> Counter[tuple[str, str, Decimal]]:
        return sum((self.terminals[part.name].book() for part in MASTERS), Counter())

    async def calm(self) -> None:
        """Wait until every follower holds what the masters hold, and stays so."""
        loop = asyncio.get_running_loop()
        ends, since = loop.time() + CALM_S, loop.time()
        while loop.time() < ends:
            await asyncio.sleep(0.1)
            if any(self.terminals[part.name].book() != self.wanted() for part in FOLLOWERS):
                since = loop.time()
            elif loop.time() - since > 3:
                return
        log = (self.folder / "engine.log").read_text().splitlines()[-40:]
        held = {part.name: self.terminals[part.name].book() - self.wanted() for part in FOLLOWERS}
        lack = {part.name: self.wanted() - self.terminals[part.name].book() for part in FOLLOWERS}
        pytest.fail("\n".join([f"too much: {held}", f"too little: {lack}", *log]))


def free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        port: int = each.getsockname()[1]
        return port


SURE = {"settle_s": 1, "tags_survive": True}


def account(part: Part, folder: Path, port: int) -> dict[str, Any]:
    """Return the settings of a terminal's account."""
    common = {"kind": "bridge", "login": LOGIN, "server": part.name, "secret": {"env": "BRIDGE_SECRET"}, **SURE}
    match part.carrier:
        case "files":
            return {**common, "carrier": "files", "folder": str(folder)}
        case "pipe":
            return {**common, "carrier": "pipe", "pipe": PIPE}
        case "dll":
            return {**common, "carrier": "tcp", "port": port}
        case _:
            return {**common, "carrier": part.carrier, "port": port}


COPY = {"copy": {"unknown": "resend"}, "protection": {"open_age_max_s": 600, "orders_per_s": 100}}
"""Nothing is given up here: late opens count, and one that is proven absent is sent again."""


def settings(folder: Path, port: int) -> dict[str, Any]:
    return {
        "ledger": f"sqlite:///{folder / 'copier.db'}",
        "accounts": {part.name: account(part, folder, port) for part in MASTERS + FOLLOWERS},
        "masters": {part.name: {"account": part.name, "poll_ms": 50, "snapshot_s": 1} for part in MASTERS},
        "followers": {
            part.name: {"account": part.name, "copies": [{"master": master.name, **COPY} for master in MASTERS]}
            for part in FOLLOWERS
        },
        "schedule": {"reconcile_s": 2},
    }


@asynccontextmanager
async def playing(part: Part, folder: Path, port: int) -> AsyncIterator[Terminal]:
    clock = SystemClock()
    server = PaperServer(part.name, clock=clock, server_offset_s=7200)
    for offered in server.symbols.values():
        fields = {name: getattr(offered, name) for name in offered.__struct_fields__ if name != "sessions"}
        server.symbols[offered.spec.symbol] = type(offered)(**fields)
    mode = MarginMode.MT4 if part.platform == "mt4" else MarginMode.HEDGING
    server.add_account(PaperAccount(LOGIN, margin_mode=mode, balance=D(1_000_000), leverage=500))
    quote(server)
    journal = Journal(folder / "MtCopier" / f"{LOGIN}@{part.name}" / "commands.log")
    host = (Noting4 if part.platform == "mt4" else Noting5)(mt5_terminal(server, Faults()), journal)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(host)
        wire = await stack.enter_async_context(Wire(_host(part), port)) if part.carrier not in ("files", "pipe") else None
        inputs: dict[str, Any] = {"Secret": SECRET, "TimerMs": 5, "WatchMs": 50, "RetryMs": 50, "Carrier": CARRIERS[part.carrier]}
        inputs |= {"Host": wire.host, "Port": wire.port} if wire is not None else {"Pipe": PIPE, "MQL_PIPES": str(folder)}
        source = BY_DLL[part.platform] if part.carrier == "dll" else None
        own = folder / f"own-{part.name}"
        running = await stack.enter_async_context(
            expert(part.platform, host, folder, clock=clock, source=source, MQL_FILES=str(own), **inputs)
        )
        yield Terminal(part, server, running, wire, journal)


def _host(part: Part) -> str:
    """Return the machine a terminal dials: one of three addresses where the loopback has more than one."""
    number = (MASTERS + FOLLOWERS).index(part) % 3 if sys.platform == "linux" else 0
    return f"127.0.0.{1 + number}"


def quote(server: PaperServer, number: int = 0) -> None:
    """Quote every symbol, a little to and fro: a terminal learns its server's clock from a price that moves."""
    for symbol, (bid, ask) in PRICES.items():
        step = D(number % 2) * (D(bid) / 100_000).quantize(D(bid))
        server.set_quote(symbol, D(bid) + step, D(ask) + step)


@asynccontextmanager
async def story(seed: int) -> AsyncIterator[Story]:
    need_gxx()
    folder = Path(tempfile.mkdtemp(prefix="mt-copier-story-"))
    port = free_port()
    (folder / "copier.yaml").write_text(json.dumps(settings(folder, port)))
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        terminals = {part.name: await stack.enter_async_context(playing(part, folder, port)) for part in MASTERS + FOLLOWERS}
        engine = Engine(folder)
        await engine.start()
        stack.push_async_callback(engine.kill)
        yield Story(engine, folder, terminals, random.Random(seed))


async def quoting(terminals: dict[str, Terminal]) -> None:
    for number in itertools.count():
        await asyncio.sleep(0.3)
        for terminal in terminals.values():
            quote(terminal.server, number)


@pytest.mark.timeout(300)
async def test_five_hundred_changes_over_every_carrier_end_on_target_whatever_is_cut_and_killed() -> None:
    async with story(seed=1) as told:
        quotes = asyncio.create_task(quoting(told.terminals))
        await told.all_connected()
        disturbing = asyncio.create_task(told.disturb())
        while told.changes < 500:
            told.trade(told.terminals[told.rng.choice(MASTERS).name])
            await asyncio.sleep(told.rng.uniform(0.02, 0.12))
        told.enough = True  # Not cancelled: between a death and its revival that would leave somebody dead.
        await disturbing
        if told.engine.process is None or told.engine.process.returncode is not None:
            await told.engine.start()
        for terminal in told.terminals.values():
            if terminal.wire is not None:
                terminal.wire.refuses = False
            if terminal.expert.process.returncode is not None:
                await terminal.expert.start()
        await told.calm()
        quotes.cancel()
        for part in FOLLOWERS:
            deals = told.terminals[part.name].server.accounts[LOGIN].deals
            done = told.terminals[part.name].journal.done
            times = Counter((command, what) for command, what, _ in done)
            twice = {command: count for command, count in times.items() if count > 1}
            assert not twice, f"{part.name}: executed more than once: {twice}"
            traded = {deal.ticket for deal in deals if deal.symbol}
            assert traded == {ticket for _, what, ticket in done if what != "levels"}, f"{part.name}: a deal without a command"
            assert traded, f"{part.name}: nothing was copied at all"
            tags = Counter(deal.tag for deal in deals if deal.entry is DealEntry.IN and deal.symbol and deal.tag)
            assert [tag for tag, times in tags.items() if times > 1] == [], f"{part.name}: an open was executed twice"
        assert told.engine.kills > 0
        assert any(terminal.wire is not None and terminal.wire.repeats > 3 for terminal in told.terminals.values())
