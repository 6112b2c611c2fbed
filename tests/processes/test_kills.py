"""Watcher, worker and Redis as real processes, killed under load: the end is the same as without."""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, RedisServer

HERE = Path(__file__).parent
FOLLOWERS = ("hedging", "netting", "mt4")


class Broker:
    """The process that holds every account."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "broker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.ports: dict[str, int] = self.hear()["ports"]

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def report(self) -> dict[str, Any]:
        self.say("report")
        return self.hear()

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


class Engine:
    """The roles, each a process that can be killed and started again."""

    def __init__(self, redis: RedisServer, broker: Broker, folder: Path) -> None:
        self._redis = redis
        self._broker = broker
        self._folder = folder
        self._ledger = f"sqlite:///{folder / 'ledger.db'}"
        self.roles: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, role: str) -> None:
        with (self._folder / f"{role}.log").open("ab") as log:
            self.roles[role] = subprocess.Popen(
                [sys.executable, str(HERE / "role.py"), role, self._redis.url, self._ledger, json.dumps(self._broker.ports)],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )

    def kill(self, role: str) -> None:
        self.roles[role].send_signal(signal.SIGKILL)
        self.roles[role].wait()

    def wait_until_following(self) -> None:
        """Return once every follower has taken in its master's first snapshot."""
        ends = time.monotonic() + 30
        while time.monotonic() < ends:
            with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(self._folder / "ledger.db")) as ledger:
                (read,) = ledger.execute("SELECT count(*) FROM readings").fetchone()
                if read == len(FOLLOWERS):
                    return
            time.sleep(0.1)
        pytest.fail("not following after 30 s\n" + self.log("follow") + self.log("watch"))

    def stop(self) -> None:
        for process in self.roles.values():
            process.kill()
            process.wait()

    def log(self, role: str) -> str:
        return (self._folder / f"{role}.log").read_text()[-3000:]


def differences(report: dict[str, Any]) -> list[str]:
    """Judge by the brokers alone: what each follower holds against the master, and whether anything was opened twice."""
    found = []
    master = report["master"]["positions"]
    wanted = counted(master)
    for name in ("hedging", "mt4"):
        held = counted(report[name]["positions"])
        found += [f"{name} lacks {n} x {what}" for what, n in sorted((wanted - held).items())]
        found += [f"{name} holds {n} x {what} too much" for what, n in sorted((held - wanted).items())]
    if net(report["netting"]["positions"]) != net(master):
        found.append(f"netting holds {net(report['netting']['positions'])}, expected {net(master)}")
    for name in FOLLOWERS:
        twice = [tag for tag, n in Counter(report[name]["openings"]).items() if tag and n > 1]
        found += [f"{name} opened {tag} twice" for tag in twice if name != "netting"]
        if name != "netting" and len(report[name]["openings"]) > report["opened"]:
            found.append(f"{name} opened {len(report[name]['openings'])}, the master {report['opened']}")
    return found


def counted(positions: list[list[str]]) -> "Counter[tuple[str, str, Decimal, Decimal]]":
    return Counter((symbol, side, Decimal(lots), Decimal(stop)) for symbol, side, lots, stop, _ in positions)


def net(positions: list[list[str]]) -> dict[str, Decimal]:
    sums: dict[str, Decimal] = {}
    for symbol, side, lots, *_ in positions:
        sums[symbol] = sums.get(symbol, Decimal(0)) + Decimal(lots) * (1 if side == "buy" else -1)
    return {symbol: lots for symbol, lots in sums.items() if lots}


def settled(broker: Broker, within_s: float) -> list[str]:
    """Return what still differs after at most so long."""
    ends = time.monotonic() + within_s
    while True:
        found = differences(broker.report())
        if not found or time.monotonic() > ends:
            return found
        time.sleep(0.25)  # Real processes need real time.


@pytest.fixture
def broker() -> Iterator[Broker]:
    process = Broker()
    yield process
    process.stop()


@pytest.fixture
def engine(needs_redis: RedisServer, broker: Broker, tmp_path: Path) -> Iterator[Engine]:
    processes = Engine(needs_redis, broker, tmp_path)
    processes.start("watch")
    processes.start("follow")
    processes.wait_until_following()
    yield processes
    processes.stop()


@pytest.mark.timeout(90)
def test_separate_processes_copy_like_one(engine: Engine, broker: Broker) -> None:
    broker.say("trade 1 6")
    assert broker.hear()["traded"] > 20
    assert settled(broker, 20) == [], engine.log("follow")


@pytest.mark.timeout(150)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_kill_of_each_process_at_three_random_points_changes_nothing(
    engine: Engine, broker: Broker, needs_redis: RedisServer, seed: int
) -> None:
    rng = random.Random(seed)
    broker.say(f"trade {seed} 20")
    kills = [*["watch"] * 3, *["follow"] * 3, *["redis"] * 3]
    rng.shuffle(kills)
    for victim in kills:
        time.sleep(rng.uniform(0.5, 1.6))
        if victim == "redis":
            needs_redis.kill()
            time.sleep(rng.uniform(0.0, 0.5))
            needs_redis.start()
        else:
            engine.kill(victim)
            time.sleep(rng.uniform(0.0, 0.5))
            engine.start(victim)
    assert broker.hear()["traded"] > 50
    found = settled(broker, 30)
    assert not found, "\n".join(found)
