"""One run: engine, broker and servers are started, faults strike under load, and the checker judges after each and at the end."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from tests.chaos.engine import LEASE_S, Broker, Engine
from tests.chaos.faults import ALWAYS, FAULTS, OF_DISK, OF_POSTGRES, OF_SQLITE, PROCESSES, Stage
from tests.chaos.judge import judge, wrong_for_ever
from tests.chaos.proxy import Proxy
from tests.conftest import PostgresServer, RedisServer

ON_TARGET_S = 90.0
"""So long after a fault all must be on target at the latest."""
MANY = 200
DISK_MB = 96


class Recovery(msgspec.Struct, frozen=True):
    """How long it took after one fault until every follower was on target."""

    fault: str
    seconds: float
    troubles: tuple[str, ...]


class Outcome(msgspec.Struct):
    """What came out of one run."""

    number: int
    ledger: str
    followers: int
    recoveries: list[Recovery] = []
    ending: list[str] = []
    kills: int = 0
    opened: int = 0

    @property
    def troubles(self) -> list[str]:
        return [f"{r.fault}: {trouble}" for r in self.recoveries for trouble in r.troubles] + self.ending

    @property
    def line(self) -> str:
        worst = max((recovery.seconds for recovery in self.recoveries), default=0.0)
        verdict = f"{len(self.troubles)} wrong" if self.troubles else "right"
        load = f"{self.ledger}, {self.followers} followers, {self.opened} opens"
        about = f"{load}, {len(self.recoveries)} times on target, {self.kills} kills"
        return f"run {self.number}: {about}, slowest {worst:.1f} s: {verdict}"


def one(seed: int, number: int, faults: int) -> Outcome:
    """Play one run in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="mt-copier-chaos-") as folder:
        return asyncio.run(play(seed, number, Path(folder), faults))


async def play(seed: int, number: int, folder: Path, faults: int) -> Outcome:
    """Play one run in a folder of its own."""
    rng = random.Random(f"{seed}-{number}")
    ledger = "PostgreSQL" if number % 2 else "SQLite"
    followers = MANY if number % 10 == 4 else rng.choice((6, 9, 12))
    outcome = Outcome(number=number, ledger=ledger, followers=followers, recoveries=[], ending=[])
    async with _stage(rng, folder, ledger, followers) as (stage, broker):
        await _run(stage, broker, outcome, faults)
    return outcome


@contextlib.asynccontextmanager
async def _stage(rng: random.Random, folder: Path, ledger: str, followers: int) -> AsyncIterator[tuple[Stage, Broker]]:
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("redis-server is not installed")
    (folder / "redis").mkdir()
    (folder / "disk").mkdir()
    postgres = _postgres() if ledger == "PostgreSQL" else None
    disk = None if postgres else _small_disk(folder / "disk")
    redis, broker, proxy = RedisServer(program, folder / "redis"), Broker(followers), None
    engine = None
    try:
        redis.start()
        if postgres is not None:
            postgres.start()
        await broker.start()
        proxy = Proxy(redis.port)
        await proxy.start()
        url = f"sqlite:///{folder / 'disk' / 'ledger.db'}" if postgres is None else postgres.new_database()
        engine = Engine(folder, broker, f"redis://127.0.0.1:{proxy.port}/0", url)
        for name in PROCESSES:
            engine.start(name)
        yield Stage(rng, engine, redis, proxy, folder, postgres, disk), broker
    finally:
        if engine is not None:
            engine.stop()
        if proxy is not None:
            await proxy.stop()
        broker.stop()
        redis.kill()
        if postgres is not None:
            postgres.remove()
        if disk is not None:
            await asyncio.to_thread(subprocess.run, ["umount", "-l", disk], check=False)


def _postgres() -> PostgresServer:
    places = postgres_programs()
    if not places:
        raise SystemExit("PostgreSQL is not installed")
    return PostgresServer(places[-1])


def postgres_programs() -> list[Path]:
    """Return the folders with PostgreSQL's programs, the newest last."""
    found = shutil.which("initdb")
    return [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def _small_disk(folder: Path) -> Path | None:
    """Return the folder with a small file system on it, where we may make one."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return None
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", folder]
    return folder if subprocess.run(command, capture_output=True).returncode == 0 else None


async def _run(stage: Stage, broker: Broker, outcome: Outcome, faults: int) -> None:
    rng = stage.rng
    per_s = 1.0 if broker.followers == MANY else 12.0
    possible = {**FAULTS, **(OF_POSTGRES if stage.postgres else OF_SQLITE), **(OF_DISK if stage.disk else {})}
    # Every run takes others of the rest, so that some runs try all of them.
    rest = sorted(possible.keys() - set(ALWAYS))
    first = outcome.number * faults % len(rest)
    chosen = [*ALWAYS, *(rest + rest)[first : first + faults]]
    rng.shuffle(chosen)
    await broker.ask(_trade(rng, 1.0, per_s, "wait"))
    begun = await _on_target(stage, broker)
    outcome.recoveries.append(Recovery("(start of all processes)", *begun))
    for fault in chosen:
        if not outcome.troubles:
            broker.tell(f"trade {rng.randrange(1 << 30)} {rng.uniform(1.5, 3):.2f} {per_s}")
            await stage.pause(0.3, 1.2)
            await possible[fault](stage)
            await broker.ask("wait")
            outcome.recoveries.append(Recovery(fault, *await _on_target(stage, broker)))
            sys.stderr.write(f"  run {outcome.number}: {outcome.recoveries[-1].seconds:6.1f} s  {fault}\n")
            stage.engine.lost.clear()
            stage.engine.supervise()
    if not outcome.troubles:
        await broker.ask("flat")
        outcome.recoveries.append(Recovery("(everything closed)", *await _on_target(stage, broker)))
        for name in PROCESSES:
            code = await stage.engine.end(name)
            if code not in (0, -signal.SIGTERM):  # One that was only just started may not have learnt to end well yet.
                outcome.ending.append(f"{name} ended with {code}: {stage.engine.said(name)}")
    report = await broker.ask("report")
    outcome.ending += wrong_for_ever(report)
    outcome.kills, outcome.opened = stage.engine.kills, report["opened"]


def _trade(rng: random.Random, seconds: float, per_s: float, then: str) -> str:
    return f"trade {rng.randrange(1 << 30)} {seconds} {per_s}\n{then}"


async def _on_target(stage: Stage, broker: Broker) -> tuple[float, tuple[str, ...]]:
    """Wait until every follower holds what it must; return how long that took, and what is wrong if it never did."""
    began = time.monotonic()
    while True:
        stage.engine.supervise()
        report = await broker.ask("report")
        found = wrong_for_ever(report) or judge(report)
        took = time.monotonic() - began
        if not found:
            return took, ()
        if took > ON_TARGET_S or wrong_for_ever(report):
            said = [f"{name} said: {stage.engine.said(name)}" for name in stage.engine.processes]
            return took, (*found[:10], *said)
        await asyncio.sleep(0.2)


def table(outcomes: list[Outcome], command: str) -> str:
    """Return the page."""
    times: dict[str, list[float]] = defaultdict(list)
    wrong: dict[str, int] = defaultdict(int)
    for outcome in outcomes:
        for recovery in outcome.recoveries:
            times[recovery.fault].append(recovery.seconds)
            wrong[recovery.fault] += len(recovery.troubles) > 0
    right = sum(not outcome.troubles for outcome in outcomes)
    kills, opened = sum(outcome.kills for outcome in outcomes), sum(outcome.opened for outcome in outcomes)
    copies = sum(outcome.opened * outcome.followers for outcome in outcomes)
    rows = [
        f"| {fault} | {len(seconds)} | {statistics.median(seconds):.1f} | {max(seconds):.1f} | {wrong[fault]} |"
        for fault, seconds in sorted(times.items())
    ]
    lines = [
        "# Faults on real processes",
        "",
        f"Written by `{command}`.",
        "",
        f"{len(outcomes)} runs, {right} of them without a violation; {kills} SIGKILLs; {opened} opens of the master, {copies}",
        "copies of them to make, besides all closes, parts of closes and levels.",
        "",
        f"A run is `mt-copier watch` and two `mt-copier follow` with a lease of {LEASE_S} s, a Redis behind a proxy, a SQLite",
        "ledger (even runs) or PostgreSQL (odd runs), and a process with the brokers of 6 to 12 followers, in every tenth run",
        "200, a third each hedging, netting and MT4, with `unknown: resend`. Every fault strikes while the master trades.",
        "Recovery is the time from the end of the fault and of the trading until every follower holds exactly what the master",
        "holds, by the brokers; a worker that is taken over is not started again before that. A violation is a copy lost or too",
        "much after 90 s, an order executed twice, or a position of another hand that was touched.",
        "",
        "The longest waits are for orders that were on their way when their sender died: such an order is believed never to",
        "have been executed once its 5 s are over and the broker's history is silent for another 30 s, and only then sent again.",
        "",
        "| fault | times | recovery, median (s) | longest (s) | violations |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]
    return "\n".join(lines)
