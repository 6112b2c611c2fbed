"""What no engine of this shape can undercut: the stream alone, the disk alone, a call alone, and the three in a row."""

import argparse
import asyncio
import multiprocessing
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import redis.asyncio as aioredis

from benchmarks.measures import Bar, Step, Summary, counts, keep, say, summary, table, three
from benchmarks.servers import NO_REDIS, redis_server
from copier.clock import run

KEY = "bench:floor"
now_ns = time.monotonic_ns


def _publish(url: str, events: int, per_s: float) -> None:
    """Publish as the watcher does, from a process of its own."""

    async def go() -> None:
        client = aioredis.from_url(url)
        chance = random.Random(7)
        due = time.monotonic()
        for number in range(events):
            due += chance.expovariate(per_s)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await client.xadd(
                KEY, {b"e": str(now_ns()).encode().ljust(600)}, id=f"1-{number + 1}", maxlen=10_000, approximate=True
            )
        await client.aclose()

    asyncio.run(go())


async def _read(url: str, events: int, took: Callable[[list[int]], Any]) -> None:
    client: Any = aioredis.from_url(url)
    last: Any = "0-0"
    seen = 0
    while seen < events:
        answer = await client.xread({KEY: last}, count=500, block=2000)
        for _, entries in answer or []:
            last = entries[-1][0]
            seen += len(entries)
            done = took([int(fields[b"e"]) for _, fields in entries])
            if done is not None:
                await done
    await client.aclose()


def _with_publisher(url: str, events: int, per_s: float, took: Callable[[list[int]], Any]) -> None:
    publisher = multiprocessing.get_context("spawn").Process(target=_publish, args=(url, events, per_s))
    publisher.start()
    try:
        run(asyncio.wait_for(_forget_and_read(url, events, took), 60 + 2 * events / per_s))
    finally:
        publisher.join(10)


async def _forget_and_read(url: str, events: int, took: Callable[[list[int]], Any]) -> None:
    client = aioredis.from_url(url)
    await client.delete(KEY)
    await client.aclose()
    await _read(url, events, took)


def stream_floor(url: str, *, events: int = 500, per_s: float = 100.0) -> Summary | None:
    """XADD in one process until XREAD has returned in another."""
    samples: list[float] = []

    def took(stamps: list[int]) -> None:
        samples.extend((now_ns() - stamp) / 1e6 for stamp in stamps)

    _with_publisher(url, events, per_s, took)
    return summary(samples[10:])


class Disk:
    """A SQLite file with one table, as bare as it gets, behind one thread."""

    def __init__(self, folder: Path, synchronous: str) -> None:
        self.thread = ThreadPoolExecutor(1)
        self._connection = sqlite3.connect(folder / "floor.db", check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute(f"PRAGMA synchronous={synchronous}")
        self._connection.execute("CREATE TABLE journal (seq INTEGER PRIMARY KEY, body BLOB)")

    def write(self, body: bytes) -> None:
        """Commit one row."""
        self._connection.execute("INSERT INTO journal (body) VALUES (?)", (body,))

    def close(self) -> None:
        """Let the file go."""
        self.thread.shutdown()
        self._connection.close()


def disk_floor(synchronous: str, *, commits: int = 300, kilobytes: int = 1) -> Summary | None:
    """One durable row, written by the thread that asks."""
    with tempfile.TemporaryDirectory() as folder:
        disk = Disk(Path(folder), synchronous)
        body, samples = b"x" * 1024 * kilobytes, []
        for _ in range(commits + 10):
            began = now_ns()
            disk.write(body)
            samples.append((now_ns() - began) / 1e6)
        disk.close()
    return summary(samples[10:])


def call_floor(*, calls: int = 20_000) -> Summary | None:
    """An awaited call of a coroutine that does nothing."""

    async def nothing(_request: object) -> None:
        return None

    async def go() -> list[float]:
        samples = []
        for _ in range(calls // 100):
            began = now_ns()
            for _ in range(100):
                await nothing(None)
            samples.append((now_ns() - began) / 1e8)
        return samples

    return summary(asyncio.run(go()))


def journal_floor(url: str, followers: int, *, events: int = 300, per_s: float = 20.0) -> Summary | None:
    """One reader, one durable record per batch, then a call per follower: until the last one's, without any planning."""
    samples: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        disk = Disk(Path(folder), "FULL")

        async def call(_request: object) -> int:
            return now_ns()

        async def took(stamps: list[int]) -> None:
            intents = [(f"f{place}", "mc0001" + str(place), "EURUSD", "0.10", stamps[0]) for place in range(followers)]
            body = msgspec.json.encode(intents)
            await asyncio.get_running_loop().run_in_executor(disk.thread, disk.write, body)
            last = 0
            for intent in intents:
                last = await call(intent)
            samples.extend((last - stamp) / 1e6 for stamp in stamps)

        _with_publisher(url, events + 10, per_s, took)
        disk.close()
    return summary(samples[10:])


def measure(step: Step, *, tiny: bool = False) -> dict[str, Any]:
    """Measure every floor."""
    few = 20 if tiny else 300
    with redis_server() as url:
        step("floors: the stream")
        stream = stream_floor(url, events=few) if url else None
        step("floors: the disk")
        result = {
            "XADD to XREAD": stream,
            "commit, SQLite FULL, 1 kB": disk_floor("FULL", commits=few),
            "commit, SQLite FULL, 100 kB": disk_floor("FULL", commits=few // 2, kilobytes=100),
            "commit, SQLite NORMAL, 1 kB": disk_floor("NORMAL", commits=few),
        }
    step("floors: a call")
    return {"floors": {**result, "call": call_floor()}, "note": "" if url else NO_REDIS}


def tables(result: dict[str, Any]) -> str:
    """Return the result in Markdown."""
    rows = [[name, three(found)] for name, found in result["floors"].items()]
    return table(["floor", "median / 99 of 100 / longest, ms"], rows) + "\n"


def main() -> None:
    """Measure alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    counts(parser)
    options = parser.parse_args()
    with Bar("floors", 3) as step:
        result = measure(step, tiny=options.tiny)
    keep("floors", result)
    say(tables(result))


if __name__ == "__main__":
    main()
