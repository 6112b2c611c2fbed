"""What the ledger's databases cost: a record of the engine's own, on SQLite (waiting for the disk or not) and PostgreSQL."""

import argparse
import asyncio
import tempfile
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import event

from benchmarks.measures import Bar, Step, Summary, counts, keep, say, summary, table, three
from benchmarks.servers import NO_POSTGRES, postgres_server
from copier.clock import SystemClock
from copier.database import Database
from copier.ledger import JournalEntry, Ledger, LinkKept, ReadingKept
from copier.link import Leg, Link, LinkState
from copier.model import MasterPosition, Side

SIZES = (1, 100, 1000)
D = Decimal
_NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def entries(followers: int) -> list[JournalEntry]:
    """Return what one event leads to: an intent and a reading position for each follower."""
    found: list[JournalEntry] = []
    for place in range(followers):
        position = MasterPosition(
            identifier=1,
            ticket=1,
            symbol="EURUSD",
            side=Side.BUY,
            lots=D(1),
            lots_opened=D(1),
            open_price=D("1.1"),
            open_time=_NOON,
        )
        leg = Leg(tag=f"mc0001{place:05d}", side=Side.BUY, asked=D("0.10"), price=D("1.1001"), sent_ms=1, not_after_ms=5001)
        link = Link(
            follower=f"f{place}", master="m", key="1.1", position=position, symbol="EURUSD", state=LinkState.COPIED, legs=(leg,)
        )
        found += [LinkKept(link=link), ReadingKept(follower=f"f{place}", master="m", entry="1-2")]
    return found


async def commits(url: str, followers: int, times: int, *, synchronous: str = "FULL") -> Summary | None:
    """Return how long the ledger takes until such a record is durable."""
    database = Database(url)
    if synchronous != "FULL":

        def relax(connection: Any, _record: Any) -> None:
            connection.execute(f"PRAGMA synchronous={synchronous}")

        event.listen(database._engine, "connect", relax)
    await database.open()
    ledger = Ledger(database, SystemClock(), f"bench {time.monotonic_ns()}")
    await ledger.take([f"follower:f{place}" for place in range(followers)])
    samples = []
    batch = entries(followers)
    for _ in range(times + 5):
        began = time.perf_counter()
        await ledger.append(batch)
        samples.append((time.perf_counter() - began) * 1000)
        ledger._unprojected.clear()
    await database.close()
    return summary(samples[5:])


def measure(step: Step, *, tiny: bool = False) -> dict[str, Any]:
    """Measure every database at every size of a record."""
    times = {1: 200, 100: 100, 1000: 30}
    rows: dict[str, list[Summary | None]] = {}
    with tempfile.TemporaryDirectory() as folder, postgres_server() as postgres:
        for name, url, synchronous in (
            ("SQLite, `synchronous=FULL`", f"sqlite:///{Path(folder) / 'full.db'}", "FULL"),
            (
                "SQLite, `synchronous=NORMAL` (not durable at power loss; to compare)",
                f"sqlite:///{Path(folder) / 'n.db'}",
                "NORMAL",
            ),
            ("PostgreSQL", postgres, "FULL"),
        ):
            step(f"stores: {name}")
            if url:
                rows[name] = [
                    asyncio.run(commits(url, size, 3 if tiny else times[size], synchronous=synchronous)) for size in SIZES
                ]
    return {"rows": rows, "note": "" if postgres else NO_POSTGRES}


def tables(result: dict[str, Any]) -> str:
    """Return the result in Markdown."""
    head = ["one record of the ledger, ms", *(f"{size} follower{'s' * (size > 1)}" for size in SIZES)]
    text = table(head, [[name, *(three(found) for found in row)] for name, row in result["rows"].items()]) + "\n"
    return text + (f"\nNot measured: {result['note']}.\n" if result["note"] else "")


def main() -> None:
    """Measure alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    counts(parser)
    options = parser.parse_args()
    with Bar("stores", 3) as step:
        result = measure(step, tiny=options.tiny)
    keep("stores", result)
    say(tables(result))


if __name__ == "__main__":
    main()
