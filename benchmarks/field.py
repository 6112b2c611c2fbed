"""The engine as a user runs it (settings, app, Redis, ledger), each role in a process of its own, with a stamp at every hop.

As a program it is one role: `python -m benchmarks.field FOLDER ROLE`, started by `Field`.
"""

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import msgspec
import redis

from benchmarks.brokers import BROKERS, BenchBroker, Master, Order, now_ns
from copier.app import App, Everything, Follow, Role, Watch
from copier.clock import SystemClock, run
from copier.gateway import Gateway
from copier.running import settle_memory
from copier.settings import Settings, load

WARM_UP = 30
"""Events before those that count: connections, caches and pages are touched by then."""
READY_S = 120.0

POLICY: dict[str, Any] = {
    "master": "m",
    "size": {"mode": "equity", "multiplier": 10, "lots_max": 5},
    "copy": {"existing": "skip"},
    "filters": {"must_have_stop": True},
    "protection": {"orders_per_s": 100_000, "spread_points_max": 50, "slippage_points_max": 100, "margin_level_min": 50},
    "risk": {
        "trade": {"lots_max": 10, "percent_max": 50, "stop_points_min": 10, "stop_points_max": 5000, "leverage_max": 400},
        "open": {
            "positions_max": 200,
            "lots_max": 1000,
            "symbol_lots_max": 500,
            "currency_money_max": 1_000_000_000,
            "margin_level_min": 20,
        },
        "worst_case": {"percent_max": 95},
    },
}
"""A relation in which every rule that limits an open has to be asked."""


class Setup(msgspec.Struct, kw_only=True):
    """What one run is made of."""

    followers: int
    broker: str = "instant"
    redis: str = "memory://"
    ledger: str = ""
    """A URL, or empty for a SQLite file in the run's folder."""
    events: int = 500
    per_s: float = 20.0
    held: int = 10
    """Positions the master holds before it begins to close some."""
    pacing: str = "poisson"
    workers: int = 1
    shared: bool = False
    """The workers share the followers by leases, instead of each having its own."""
    own_ledgers: bool = False
    """A SQLite file for each process instead of one for all."""
    links: int = 0
    """Positions the master has, and every follower has copied, before the run."""
    warm_up: int = WARM_UP
    stamps: bool = True
    """Without, nothing is noted that would grow."""
    seed: int = 7


class Change(msgspec.Struct):
    """What the master did, and when."""

    kind: str
    identifier: int
    at_ns: int


class Published(msgspec.Struct):
    """An event on its way into the stream."""

    kind: str
    key: str
    read_ns: int
    """When the read that showed it began."""
    asked_ns: int
    done_ns: int


class Append(msgspec.Struct):
    """One wish to have something durable: the tags on their way, and the receipts in it."""

    asked_ns: int
    done_ns: int
    sending: list[tuple[str, str, str]]
    """Follower, the master position's key, tag."""
    receipts: list[tuple[str, str, str, str]]
    """Follower, key, event, verdict."""


class Watched(msgspec.Struct):
    """What the watching process saw."""

    changes: list[Change]
    published: list[Published]


class Followed(msgspec.Struct):
    """What a following process saw."""

    received: list[tuple[int, str, str]]
    """When, kind, key."""
    appends: list[Append]
    orders: list[Order]
    ordered: int
    """How many order calls there were."""
    ready_s: float
    memory_mib: float
    cpu_s: float
    """Processor time from ready to the end."""


class Orders(list[Order]):
    """Every order call."""

    @property
    def number(self) -> int:
        """How many there were."""
        return len(self)


class Tally(Orders):
    """How many order calls there were, and no more."""

    total = 0

    def append(self, order: Order) -> None:
        """Count one."""
        self.total += 1

    @property
    def number(self) -> int:
        """How many there were."""
        return self.total


class BenchApp(App):
    """The product's app with brokers of our own."""

    def __init__(self, settings: Settings, role: Role, setup: Setup) -> None:
        self.orders: Orders = Orders() if setup.stamps else Tally()
        self.master: Master | None = None
        self._setup = setup
        super().__init__(settings, SystemClock(), role=role)

    def _gateway(self, account: str) -> Gateway:
        if account not in self.gateways:
            if account == "master":
                self.master = Master(self.clock, held=self._setup.held, holds=self._setup.links)
                self.gateways[account] = self.master.gateway
            else:
                broker = BROKERS[self._setup.broker](account, self.orders, self.clock)
                if isinstance(broker, BenchBroker):
                    broker.hold(self._setup.links)
                self.gateways[account] = broker
        return self.gateways[account]


def settings_text(setup: Setup, folder: Path, role: str = "") -> str:
    """Return the settings of a run, as YAML that is JSON."""
    names = follower_names(setup)
    file = f"ledger-{role.replace(':', '')}.db" if setup.own_ledgers else "ledger.db"
    return json.dumps(
        {
            "redis": setup.redis,
            "ledger": setup.ledger or f"sqlite:///{folder / file}",
            "accounts": {name: {"kind": "paper", "login": place + 1} for place, name in enumerate(["master", *names])},
            "masters": {"m": {"account": "master"}},
            "followers": {name: {"account": name, "copies": [POLICY]} for name in names},
            "schedule": {"equity_s": 60},
        }
    )


def follower_names(setup: Setup) -> list[str]:
    """Return the followers' names."""
    return [f"f{place}" for place in range(setup.followers)]


# The stamps --------------------------------------------------------------------------------------------------------------


def note_published(app: BenchApp, published: list[Published]) -> None:
    """Stamp what goes into the stream, and the read it came from."""
    assert app.master is not None
    gateway: Any = app.master.gateway
    stream: Any = app.stream
    read_positions, publish = gateway.get_positions, stream.publish
    began = [0]

    async def get_positions(symbol: str | None = None) -> Any:
        began[0] = now_ns()
        return await read_positions(symbol)

    async def say(master: str, entry: Any, event: Any) -> None:
        asked = now_ns()
        await publish(master, entry, event)
        if hasattr(event, "position"):
            published.append(Published(type(event).__name__, event.position.key, began[0], asked, now_ns()))

    gateway.get_positions, stream.publish = get_positions, say


def note_received(app: BenchApp, received: list[tuple[int, Any]]) -> None:
    """Stamp what comes out of the stream."""
    stream: Any = app.stream
    read = stream.read

    async def listen(*args: Any, **more: Any) -> Any:
        entries = await read(*args, **more)
        at = now_ns()
        received.extend((at, entry) for entry in entries)
        return entries

    stream.read = listen


def note_appends(app: BenchApp, appends: list[tuple[int, int, Sequence[Any]]]) -> None:
    """Stamp what is made durable."""
    for ledger in app.ledgers:
        if not ledger.owner.startswith("worker"):
            continue
        append = ledger.append

        async def note(entries: Any, append: Any = append) -> None:
            asked = now_ns()
            await append(entries)
            appends.append((asked, now_ns(), entries))

        setattr(ledger, "append", note)  # noqa: B010


def appended(raw: list[tuple[int, int, Sequence[Any]]]) -> list[Append]:
    """Return the appends by what was in them."""
    found = []
    for asked, done, entries in raw:
        sending, receipts = [], []
        for entry in entries:
            link, receipt = getattr(entry, "link", None), getattr(entry, "receipt", None)
            if link is not None:
                sending += [(link.follower, link.key, leg.tag) for leg in link.legs if leg.state.value == "sending"]
            if receipt is not None:
                receipts.append((receipt.follower, receipt.key, receipt.event, receipt.verdict.value))
        if sending or receipts:
            found.append(Append(asked, done, sending, receipts))
    return found


# The roles ---------------------------------------------------------------------------------------------------------------


async def drive(app: BenchApp, setup: Setup, changes: list[Change]) -> None:
    """Trade as the master: a warm-up, then the events that count."""
    assert app.master is not None
    chance = random.Random(setup.seed)
    rate = setup.per_s
    due = time.monotonic()
    for number in range(setup.warm_up + setup.events):
        due += chance.expovariate(rate) if setup.pacing == "poisson" else 1 / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        at = now_ns()
        kind, identifier = app.master.trade()
        if number >= setup.warm_up and setup.stamps:
            changes.append(Change(kind, identifier, at))
        if number == setup.warm_up - 1:
            await asyncio.sleep(min(1.0, setup.warm_up / 10))
            due = time.monotonic()


async def live(folder: Path, role: str, setup: Setup) -> None:
    """Be one role until standard input ends, then write down what was seen."""
    began = time.monotonic()
    settings = load(folder / f"settings-{role.replace(':', '')}.yaml", {})
    names = follower_names(setup)
    kind, _, part = role.partition(":")
    share = names[int(part or 0) :: setup.workers]
    chosen: dict[str, Role] = {
        "watch": Watch(("m",)),
        "follow": Follow(f"w{part}", () if setup.shared else tuple(share)),
        "everything": Everything("w"),
    }
    app = BenchApp(settings, chosen[kind], setup)
    changes: list[Change] = []
    published: list[Published] = []
    received: list[tuple[int, Any]] = []
    appends: list[tuple[int, int, Sequence[Any]]] = []
    if kind != "follow" and setup.stamps:
        note_published(app, published)
    if kind != "watch" and setup.stamps:
        note_received(app, received)
        note_appends(app, appends)
    async with app:
        running = asyncio.create_task(app.run())
        if kind != "watch":
            await _ready(app, len(names if kind == "everything" else share))
        else:
            await asyncio.sleep(0.5)
        ready_s = time.monotonic() - began
        settle_memory()
        cpu = time.process_time()
        _tell("ready")
        orders_from_parent = _lines()
        while (order := await asyncio.to_thread(orders_from_parent.readline)).strip():
            if order.strip() == "drive":
                received.clear()
                appends.clear()
                app.orders.clear()
                await drive(app, setup, changes)
                _tell("driven")
        cpu = time.process_time() - cpu
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    if kind != "follow":
        (folder / "watched.json").write_bytes(msgspec.json.encode(Watched(changes, published)))
    if kind != "watch":
        heard = [
            (at, type(entry.event).__name__, entry.event.position.key)
            for at, entry in received
            if hasattr(entry.event, "position")
        ]
        seen = Followed(heard, appended(appends), app.orders, app.orders.number, ready_s, memory_mib(), cpu)
        (folder / f"followed{part}.json").write_bytes(msgspec.json.encode(seen))


async def _ready(app: BenchApp, followers: int) -> None:
    """Wait until every follower has compared itself with its broker and knows its master."""
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        if app.worker is not None and len(app.worker.followers) >= followers:
            all_of_them = app.worker.followers.values()
            if all(f.leveller.book.began_ms and all(r.started for r in f.relations.values()) for f in all_of_them):
                return
        await asyncio.sleep(0.05)
    raise RuntimeError(f"the followers were not ready within {READY_S:.0f} s")


def memory_mib() -> float:
    """Return what this process keeps in memory."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS"):
                return round(int(line.split()[1]) / 1024, 1)
    return 0.0


def _tell(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def _lines() -> TextIO:
    return sys.stdin


# From outside ------------------------------------------------------------------------------------------------------------


class Field:
    """One run: the processes of a setup, in a folder that is removed afterwards."""

    def __init__(self, setup: Setup, *, start: bool = True) -> None:
        """Without `start` the roles are started one by one."""
        self.setup = setup
        self._start = start
        self.started_s: dict[str, float] = {}
        """How long each role took from nothing to ready."""
        self._folder = tempfile.TemporaryDirectory(prefix="mt-copier-bench-")
        self.folder = Path(self._folder.name)
        self._roles: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> "Field":
        (self.folder / "setup.json").write_bytes(msgspec.json.encode(self.setup))
        memory = self.setup.redis.startswith("memory://")
        if not memory:
            with redis.Redis.from_url(self.setup.redis) as client:
                client.flushall()  # A run has a ledger of its own, whose epochs begin anew.
        roles = ["everything"] if memory else ["watch", *(f"follow:{part}" for part in range(self.setup.workers))]
        for role in roles if self._start else []:
            self.start(role)
        return self

    def start(self, role: str) -> None:
        """Start a role and wait until it is ready."""
        settings = self.folder / f"settings-{role.replace(':', '')}.yaml"
        settings.write_text(settings_text(self.setup, self.folder, role), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.field", str(self.folder), role]
        began = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._roles[role] = process
        self._expect(process, "ready")
        self.started_s[role] = time.monotonic() - began

    def run(self, quiet_s: float = 1.5) -> None:
        """Let the master trade, and the followers come to rest."""
        self.drive()
        time.sleep(quiet_s)
        self.stop()

    def drive(self) -> None:
        """Let the master trade to the end."""
        master = self._roles.get("watch") or self._roles["everything"]
        self._say(master, "drive")
        self._expect(master, "driven")

    @property
    def pids(self) -> list[int]:
        """The processes of the run."""
        return [process.pid for process in self._roles.values()]

    def worker_cpu_s(self) -> float:
        """Return the processor time the workers have taken so far."""
        ticks = 0
        for role, process in self._roles.items():
            if role.startswith("follow"):
                after_name = (Path("/proc") / str(process.pid) / "stat").read_text(encoding="ascii").rpartition(")")[2].split()
                ticks += int(after_name[11]) + int(after_name[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def kill(self, role: str) -> None:
        """End a role at once, as SIGKILL does; nothing of what it saw is left."""
        process = self._roles.pop(role)
        process.kill()
        process.communicate()

    def stop(self) -> None:
        """End every role in order."""
        for process in self._roles.values():
            self._say(process, "")
        for process in self._roles.values():
            if process.wait(60):
                raise RuntimeError("a role of the run has failed: see above")

    def watched(self) -> Watched:
        """Return what the watching process saw."""
        return msgspec.json.decode((self.folder / "watched.json").read_bytes(), type=Watched)

    def followed(self) -> list[Followed]:
        """Return what each following process saw."""
        paths = sorted(self.folder.glob("followed*.json"))
        return [msgspec.json.decode(path.read_bytes(), type=Followed) for path in paths]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for process in self._roles.values():
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        self._folder.cleanup()

    def _say(self, process: "subprocess.Popen[str]", word: str) -> None:
        assert process.stdin is not None
        process.stdin.write(word + "\n")
        process.stdin.flush()

    def _expect(self, process: "subprocess.Popen[str]", word: str) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == word:
                return
        raise RuntimeError(f"expected {word}, and the process ended")


@contextlib.contextmanager
def measured(setup: Setup) -> Iterator[Field]:
    """Run a setup to its end."""
    with Field(setup) as field:
        field.run()
        yield field


def run_role(folder: Path, role: str) -> None:
    """Run one role as the command line runs it."""
    setup = msgspec.json.decode((folder / "setup.json").read_bytes(), type=Setup)
    run(live(folder, role, setup))


if __name__ == "__main__":
    run_role(Path(sys.argv[1]), sys.argv[2])
