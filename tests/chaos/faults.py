"""What is done to a running engine. Each fault returns once it is over; from then on the time counts until all is on target."""

import asyncio
import random
import shutil
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis as client

from tests.chaos.engine import LEASE_S, Engine
from tests.chaos.proxy import Proxy, Weather
from tests.conftest import PostgresServer, RedisServer

WORKERS = ("w1", "w2")
PROCESSES = ("watch", *WORKERS)
STREAM = "copier:events:m"
FILLER = "filler"


class Stage:
    """All that a fault may lay its hands on."""

    def __init__(
        self,
        rng: random.Random,
        engine: Engine,
        redis: RedisServer,
        proxy: Proxy,
        folder: Path,
        postgres: PostgresServer | None,
        disk: Path | None,
    ) -> None:
        self.rng = rng
        self.engine = engine
        self.redis = redis
        self.proxy = proxy
        self.folder = folder
        self.postgres = postgres
        self.disk = disk
        """A small file system of its own that the ledger lies on."""

    @property
    def dump(self) -> Path:
        return self.folder / "redis" / "dump.rdb"

    def ask(self) -> client.Redis:
        return client.Redis(port=self.redis.port)

    def kill_redis(self) -> None:
        self.redis.kill()
        self.engine.kills += 1

    async def pause(self, least_s: float, most_s: float) -> None:
        await asyncio.sleep(self.rng.uniform(least_s, most_s))


async def kill_watcher(stage: Stage) -> None:
    stage.engine.kill("watch")
    await stage.pause(0, 0.5)
    stage.engine.start("watch")


async def kill_worker(stage: Stage) -> None:
    name = stage.rng.choice(WORKERS)
    stage.engine.kill(name)
    await stage.pause(0, 0.5)
    stage.engine.start(name)


async def lose_worker(stage: Stage) -> None:
    """Kill a worker for good: the other one takes over by itself."""
    stage.engine.lost.add("w1")
    stage.engine.kill("w1")


async def kill_all(stage: Stage) -> None:
    for name in PROCESSES:
        stage.engine.kill(name)
    stage.kill_redis()
    await stage.pause(0, 1)
    stage.redis.start()
    for name in PROCESSES:
        stage.engine.start(name)


async def storm(stage: Stage) -> None:
    """Kill whoever comes to hand, six times, some before they are up again."""
    for _ in range(6):
        victim = stage.rng.choice((*PROCESSES, "redis"))
        if victim == "redis":
            stage.kill_redis()
            stage.redis.start()
        else:
            stage.engine.kill(victim)
            stage.engine.start(victim)
        await stage.pause(0.2, 2)


async def freeze_worker(stage: Stage) -> None:
    """Stop a worker past its lease, so that the other takes over, and let it go on: it is a zombie then."""
    name = stage.rng.choice(WORKERS)
    stage.engine.freeze(name)
    await asyncio.sleep(LEASE_S * 1.2 + stage.rng.uniform(0.2, 4))
    stage.engine.thaw(name)


async def freeze_worker_briefly(stage: Stage) -> None:
    name = stage.rng.choice(WORKERS)
    stage.engine.freeze(name)
    await stage.pause(0.5, LEASE_S * 0.8)
    stage.engine.thaw(name)


async def freeze_watcher(stage: Stage) -> None:
    stage.engine.freeze("watch")
    await stage.pause(1, 6)
    stage.engine.thaw("watch")


async def restart_worker(stage: Stage) -> None:
    """End a worker as an upgrade does."""
    name = stage.rng.choice(WORKERS)
    code = await stage.engine.end(name)
    if code not in (0, -signal.SIGTERM):  # One that was only just started may not have learnt to end well yet.
        raise AssertionError(f"{name} ended with {code} when asked to: {stage.engine.said(name)}")
    await stage.pause(0, 2)
    stage.engine.start(name)


async def kill_redis(stage: Stage) -> None:
    stage.kill_redis()
    await stage.pause(0, 2)
    stage.redis.start()


async def flush_redis(stage: Stage) -> None:
    stage.ask().flushall()


async def trim_stream(stage: Stage) -> None:
    stage.ask().xtrim(STREAM, maxlen=stage.rng.choice((0, 1, 3)), approximate=False)


async def restore_redis(stage: Stage) -> None:
    """Put back what Redis held some seconds ago."""
    stage.ask().save()
    kept = stage.folder / "old.rdb"
    shutil.copy(stage.dump, kept)
    await stage.pause(1, 3)
    stage.kill_redis()
    shutil.copy(kept, stage.dump)
    stage.redis.start()
    stage.dump.unlink(missing_ok=True)


def weather(what: Weather, least_s: float, most_s: float) -> "Fault":
    async def fault(stage: Stage) -> None:
        stage.proxy.set(what)
        await stage.pause(least_s, most_s)
        stage.proxy.set(Weather.FAIR)

    return fault


async def kill_database(stage: Stage) -> None:
    assert stage.postgres is not None
    stage.postgres.kill()
    stage.engine.kills += 1
    await stage.pause(0, 3)
    stage.postgres.start()


async def lock_ledger(stage: Stage) -> None:
    """Hold the ledger's file so that nobody can write, past a lease."""
    held = sqlite3.connect(stage.folder / "disk" / "ledger.db", timeout=20, isolation_level=None)
    try:
        held.execute("BEGIN IMMEDIATE")
        await stage.pause(1, LEASE_S * 1.5)
        held.execute("ROLLBACK")
    finally:
        held.close()


async def fill_disk(stage: Stage) -> None:
    assert stage.disk is not None
    filler = stage.disk / FILLER
    try:
        with filler.open("wb") as file:
            while True:
                file.write(b"0" * 4096)
                file.flush()
    except OSError:
        pass
    await stage.pause(1, LEASE_S * 1.5)
    filler.unlink()


async def move_clock(stage: Stage) -> None:
    """Move one process's clock by some seconds, for a while."""
    name = stage.rng.choice(PROCESSES)
    stage.engine.move_clock(name, stage.rng.choice((-2_000, 2_000)))
    await stage.pause(2, 4)
    stage.engine.move_clock(name, 0)


Fault = Callable[[Stage], Awaitable[None]]

FAULTS: dict[str, Fault] = {
    "SIGKILL of the watcher": kill_watcher,
    "SIGKILL of a worker, started again": kill_worker,
    "SIGKILL of a worker, taken over by the other": lose_worker,
    "SIGKILL of watcher, both workers and Redis": kill_all,
    "six SIGKILLs in a row, of anybody": storm,
    "SIGKILL of Redis": kill_redis,
    "worker frozen past its lease (SIGSTOP, SIGCONT)": freeze_worker,
    "worker frozen within its lease": freeze_worker_briefly,
    "watcher frozen": freeze_watcher,
    "worker ended and started again (SIGTERM)": restart_worker,
    "Redis FLUSHALL": flush_redis,
    "stream trimmed before it was read": trim_stream,
    "Redis restored from an old dump": restore_redis,
    "network to Redis cut": weather(Weather.CUT, 0.5, 4),
    "network to Redis half-open": weather(Weather.HALF_OPEN, 2, 8),
    "network to Redis slow": weather(Weather.SLOW, 3, 5),
    "network to Redis in crumbs": weather(Weather.SLICED, 3, 5),
    "a process's clock moved by 2 s and back": move_clock,
}
OF_SQLITE: dict[str, Fault] = {"ledger's file locked by another": lock_ledger}
OF_DISK: dict[str, Fault] = {"disk full under the ledger": fill_disk}
OF_POSTGRES: dict[str, Fault] = {"SIGKILL of PostgreSQL": kill_database}
ALWAYS = (
    "SIGKILL of a worker, taken over by the other",
    "six SIGKILLs in a row, of anybody",
    "SIGKILL of watcher, both workers and Redis",
    "worker frozen past its lease (SIGSTOP, SIGCONT)",
)
"""Part of every run, however short."""
