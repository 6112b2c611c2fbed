"""An hour of steady trading: memory, open files, the stream's length and the ledger's size must not creep."""

import argparse
import asyncio
import threading
import time
from pathlib import Path

import msgspec
import redis.asyncio as aioredis

from benchmarks.field import Field, Setup
from benchmarks.measures import Bar, counts, keep, say, shown, table
from benchmarks.servers import NO_REDIS, redis_server
from copier.stream import KEY

FOLLOWERS = 50
PER_S = 5.0
CREEP_MAX = 1.15
"""The last fifth of the samples may be so much above the second: what a process needs is there by then."""


class Sample(msgspec.Struct, kw_only=True):
    """One look at the running engine."""

    at_s: float
    memory_mib: float
    """Both processes together."""
    files: int
    threads: int
    entries: int
    """In the master's stream."""
    ledger_mib: float
    wal_mib: float


class Soak(msgspec.Struct, kw_only=True):
    """The whole run."""

    minutes: float
    followers: int
    per_s: float
    events: int
    orders: int
    samples: list[Sample]

    @property
    def creeping(self) -> list[str]:
        """What of memory, files, threads and write-ahead log is larger at the end than it should be."""
        if len(self.samples) < 10:
            return []
        fifth = len(self.samples) // 5
        found = []
        for name, free in (("memory_mib", 8.0), ("files", 3), ("threads", 2), ("wal_mib", 8.0)):
            early = sorted(getattr(each, name) for each in self.samples[fifth : 2 * fifth])[fifth // 2]
            late = sorted(getattr(each, name) for each in self.samples[-fifth:])[fifth // 2]
            if late > early * CREEP_MAX + free:
                found.append(f"{name} from {early} to {late}")
        return found


def look(field: Field, url: str, began: float) -> Sample:
    """Look at processes, stream and files."""
    memory = files = threads = 0
    for pid in field.pids:
        status = (Path("/proc") / str(pid) / "status").read_text(encoding="ascii").splitlines()
        values = {line.partition(":")[0]: line.split()[1] for line in status if len(line.split()) > 1}
        memory += int(values["VmRSS"])
        threads += int(values["Threads"])
        files += len(list((Path("/proc") / str(pid) / "fd").iterdir()))
    ledger = field.folder / "ledger.db"
    wal = ledger.with_name("ledger.db-wal")
    return Sample(
        at_s=round(time.monotonic() - began, 1),
        memory_mib=round(memory / 1024, 1),
        files=files,
        threads=threads,
        entries=asyncio.run(_length(url)),
        ledger_mib=round(ledger.stat().st_size / 2**20, 2),
        wal_mib=round(wal.stat().st_size / 2**20, 2) if wal.exists() else 0.0,
    )


async def _length(url: str) -> int:
    client = aioredis.from_url(url)
    length: int = await client.xlen(KEY.format("m"))
    await client.aclose()
    return length


def soak(minutes: float, *, followers: int = FOLLOWERS, per_s: float = PER_S) -> Soak | None:
    """Trade for so many minutes and look every few seconds; None where no Redis can be started."""
    events = max(10, int(minutes * 60 * per_s))
    every_s = max(0.5, minutes * 60 / 120)
    with redis_server() as url:
        if not url:
            return None
        setup = Setup(followers=followers, redis=url, events=events, per_s=per_s, pacing="steady", warm_up=10, stamps=False)
        samples: list[Sample] = []
        with Field(setup) as field, Bar(f"soak, {minutes:g} minutes", 1) as step:
            step(f"soak, {minutes:g} minutes")
            trading = threading.Thread(target=field.drive)
            began = time.monotonic()
            trading.start()
            while trading.is_alive():
                samples.append(look(field, url, began))
                trading.join(every_s)
            time.sleep(1.5)
            field.stop()
            orders = sum(seen.ordered for seen in field.followed())
    return Soak(minutes=minutes, followers=followers, per_s=per_s, events=events, orders=orders, samples=samples)


def tables(found: Soak | None) -> str:
    """Return the result in Markdown."""
    if found is None:
        return f"Not measured: {NO_REDIS}.\n"
    step = max(1, len(found.samples) // 8)
    names = ("at_s", "memory_mib", "files", "threads", "entries", "ledger_mib", "wal_mib")
    head = ["after, s", "memory, MiB", "open files", "threads", "stream entries", "ledger, MiB", "its write-ahead log, MiB"]
    rows = [[f"{getattr(sample, name):,}" for name in names] for sample in found.samples[::step]]
    creeping = ", ".join(found.creeping) or "nothing"
    grown = found.samples[-1].ledger_mib - found.samples[0].ledger_mib
    per_copy = shown(grown * 2**10 / max(1, found.orders)) if found.samples else "-"
    return (
        f"{found.minutes:g} minutes, {found.followers} followers, {found.per_s:g} events a second, {found.orders:,} orders. "
        f"Creeping: {creeping}. The ledger grew by {per_copy} kB per order.\n\n" + table(head, rows) + "\n"
    )


def main() -> None:
    """Soak alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--followers", type=int, default=FOLLOWERS)
    parser.add_argument("--per-s", type=float, default=PER_S)
    counts(parser)
    options = parser.parse_args()
    found = soak(0.1, followers=3) if options.tiny else soak(options.minutes, followers=options.followers, per_s=options.per_s)
    keep("soak", found or {"note": NO_REDIS})
    say(tables(found))


if __name__ == "__main__":
    main()
