"""How long a start takes and how much memory followers keep: the command line, and a worker with everything it remembers."""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from decimal import Decimal
from typing import Any

from benchmarks.brokers import Master, copied_tag
from benchmarks.field import Field, Setup, follower_names
from benchmarks.measures import Bar, Step, counts, keep, say, shown, table
from benchmarks.servers import NO_REDIS, redis_server
from copier.clock import SystemClock
from copier.database import Database
from copier.diff import View, apply, diff
from copier.ledger import Ledger, LinkKept, ReadingKept
from copier.link import Leg, LegState, Link, LinkState
from copier.model import Change, MarginMode, Side

FOLLOWERS, LINKS = 1000, 10
D = Decimal


def help_s(times: int = 5) -> float:
    """Return the median seconds of `mt-copier --help`."""
    samples = []
    for _ in range(times):
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "copier.cli", "--help"], check=True, capture_output=True, env=dict(os.environ))
        samples.append(time.monotonic() - began)
    return sorted(samples)[len(samples) // 2]


def worker_start(redis: str, followers: int, links: int) -> dict[str, float]:
    """Return how long a worker takes from nothing to ready with so many open links each, and what it keeps in memory."""
    setup = Setup(followers=followers, redis=redis, links=links)
    with Field(setup, start=False) as field:
        asyncio.run(_remember(setup, f"sqlite:///{field.folder / 'ledger.db'}"))
        field.start("watch")
        field.start("follow:0")
        field.stop()
        (seen,) = field.followed()
        return {"ready_s": round(field.started_s["follow:0"], 2), "memory_mib": seen.memory_mib}


async def _remember(setup: Setup, url: str) -> None:
    """Write the ledger of followers that have copied all that the master holds."""
    clock = SystemClock()
    database = Database(url)
    await database.open()
    ledger = Ledger(database, clock, "before")
    await ledger.take([f"follower:{name}" for name in follower_names(setup)])
    positions = Master(clock, holds=setup.links).server.positions(1)
    view = View()
    for event in diff(view, positions, MarginMode.HEDGING, Change(master="m", read=1, read_ms=0)):
        view = apply(view, event)
    for name in follower_names(setup):
        entries: list[Any] = [ReadingKept(follower=name, master="m", entry="0-1")]
        for place, position in enumerate(sorted(view.open.values(), key=lambda each: each.identifier)):
            leg = Leg(
                tag=copied_tag(place),
                side=Side.BUY,
                asked=D("0.10"),
                filled=D("0.10"),
                lots=D("0.10"),
                state=LegState.OPEN,
                ticket=1_000_001 + place,
                identifier=1_000_001 + place,
                price=D("1.10010"),
            )
            link = Link(
                follower=name,
                master="m",
                key=position.key,
                position=position,
                state=LinkState.COPIED,
                symbol="EURUSD",
                legs=(leg,),
                anchor=position.lots_opened,
            )
            entries.append(LinkKept(link=link))
        await ledger.append(entries)
    await ledger.project()
    await ledger.save_view("m", 0, view)
    await ledger.leases.leave()  # Else the worker leaves them to their strange holder for a while.
    await database.close()


def measure(step: Step, *, tiny: bool = False) -> dict[str, Any]:
    """Measure starts and memory."""
    followers, links = (3, 2) if tiny else (FOLLOWERS, LINKS)
    step("start: mt-copier --help")
    result: dict[str, Any] = {"help_s": round(help_s(1 if tiny else 5), 3), "followers": followers, "links": followers * links}
    with redis_server() as redis:
        if not redis:
            return {**result, "note": NO_REDIS}
        step(f"start: a worker with {followers} followers")
        result["bare"] = worker_start(redis, followers, 0)
        step(f"start: the same with {followers * links} open links")
        result["full"] = worker_start(redis, followers, links)
    return result


def tables(result: dict[str, Any]) -> str:
    """Return the result in Markdown."""
    rows = [["`mt-copier --help`", f"{shown(result['help_s'])} s", "-"]]
    for name, words in (("bare", "nothing open"), ("full", f"{result['links']:,} open links")):
        if name in result:
            found = result[name]
            what = f"a worker with {result['followers']:,} followers and {words}"
            rows.append([what, f"{shown(found['ready_s'])} s", f"{found['memory_mib']:.0f} MiB"])
    return table(["start", "until ready", "memory"], rows) + "\n"


def main() -> None:
    """Measure alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    counts(parser)
    options = parser.parse_args()
    with Bar("start", 3) as step:
        result = measure(step, tiny=options.tiny)
    keep("start", result)
    say(tables(result))


if __name__ == "__main__":
    main()
