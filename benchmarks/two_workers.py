"""Two workers that share 1,000 followers over Redis and PostgreSQL: what both carry, what sharing costs, and who takes over."""

import argparse
import datetime
import time
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from benchmarks.field import Field, Followed, Setup
from benchmarks.measures import HERE, Bar, Step, counts, keep, machine, say, table
from benchmarks.servers import NO_POSTGRES, NO_REDIS, postgres_server, redis_server

DOC = HERE.parent / "docs" / "performance.md"
BEGIN, END = "<!-- two workers: begin -->", "<!-- two workers: end -->"
FOLLOWERS = 1000
EVENTS = 40
SLOWEST_PER_S = 200
"""So many copies a second are waited for at least."""
LOOK_S = 0.5
MOVED_S = 90.0
BROKERS = {"instant": "at once", "50ms": "after 50 ms"}
BURST_PER_S = 1000.0
"""The master trades faster than anyone can follow, so that what is measured is how much is carried."""


class Carried(msgspec.Struct, kw_only=True):
    """What some workers carried of a burst."""

    workers: int
    broker: str
    copies: int
    asked: int
    per_s: float
    """Copies recorded a second, from the first event published to the last record."""
    cpu_us: float
    """Processor time of all workers for each copy, from the first change until all stands in the tables, in microseconds."""


class Moved(msgspec.Struct, kw_only=True):
    """What became of the followers of a worker that was killed."""

    followers: int
    had: int
    """How many the killed one had."""
    moved_s: float
    """From its death until the other owned them all."""
    copied: int
    """How many followers have copied what the master opened afterwards."""


def carried(redis: str, ledger: str, *, workers: int, broker: str, followers: int, events: int) -> Carried:
    """Let the master trade in a burst, and see how fast it is recorded at all followers."""
    setup = Setup(
        followers=followers,
        broker=broker,
        redis=redis,
        ledger=ledger,
        events=events,
        per_s=BURST_PER_S,
        pacing="steady",
        workers=workers,
        shared=True,
        warm_up=2,
        held=1000,
    )
    with Field(setup) as field:
        before_s = field.worker_cpu_s()
        field.drive()
        wait_until_recorded(ledger, (events + setup.warm_up) * followers)
        cpu_s = field.worker_cpu_s() - before_s
        field.stop()
        watched, followed = field.watched(), field.followed()
    published = {event.key: event.asked_ns for event in watched.published if event.kind == "Opened"}
    done = [
        append.done_ns
        for seen in followed
        for append in seen.appends
        for _, key, _, verdict in append.receipts
        if verdict == "copied" and key in published
    ]
    if not done:
        raise RuntimeError("no copy was recorded at all")
    first = min(published[change_key] for change_key in published)
    return Carried(
        workers=workers,
        broker=broker,
        copies=len(done),
        asked=(events + setup.warm_up) * followers,
        per_s=round(len(done) / ((max(done) - first) / 1e9), 1),
        cpu_us=round(cpu_s / sum(seen.ordered for seen in followed) * 1e6, 1),
    )


def wait_until_recorded(ledger: str, copies: int) -> None:
    """Return as soon as so many copies stand in the ledger's tables, or it has taken too long."""
    ends = time.monotonic() + 10 + copies / SLOWEST_PER_S
    engine = sa.create_engine(ledger)
    try:
        while time.monotonic() < ends:
            with engine.connect() as connection:
                newest = sa.text(
                    "SELECT coalesce(max(id), 0) FROM receipts"
                )  # Counting all of them takes its part of the machine.
                query = sa.text("SELECT count(*) FROM receipts WHERE verdict = 'copied'")
                if connection.execute(newest).scalar_one() >= copies <= connection.execute(query).scalar_one():
                    return
            time.sleep(LOOK_S)
    finally:
        engine.dispose()


def moved(redis: str, ledger: str, *, followers: int) -> Moved:
    """Kill one of two workers, and see when the other has its followers and whether they copy."""
    setup = Setup(
        followers=followers,
        redis=redis,
        ledger=ledger,
        events=2,
        per_s=2.0,
        pacing="steady",
        workers=2,
        shared=True,
        warm_up=1,
        held=1000,
    )
    with Field(setup) as field:
        had = held_by(ledger, "worker:w0")
        field.kill("follow:0")
        began = time.monotonic()
        while held_by(ledger, "worker:w1") < followers:
            if time.monotonic() - began > MOVED_S:
                raise RuntimeError(f"after {MOVED_S:.0f} s the other worker has {held_by(ledger, 'worker:w1')} followers")
            time.sleep(0.1)
        moved_s = time.monotonic() - began
        field.run()
        followed: list[Followed] = field.followed()
    copied = {
        follower
        for seen in followed
        for append in seen.appends
        for follower, _, _, verdict in append.receipts
        if verdict == "copied"
    }
    return Moved(followers=followers, had=had, moved_s=round(moved_s, 1), copied=len(copied))


def held_by(ledger: str, worker: str) -> int:
    """Return how many followers a worker owns, as the ledger has it."""
    engine = sa.create_engine(ledger)
    try:
        with engine.connect() as connection:
            query = sa.text("SELECT count(*) FROM roles WHERE role LIKE 'follower:%' AND owner LIKE :owner")
            return int(connection.execute(query, {"owner": f"{worker}@%"}).scalar_one())
    finally:
        engine.dispose()


def new_database(server: str, number: int) -> str:
    """Return the URL of another empty database of a server."""
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE run{number}"))
    engine.dispose()
    return server.rpartition("/")[0] + f"/run{number}"


def measure(
    step: Step, *, followers: int = FOLLOWERS, events: int = EVENTS, rounds: int = 1, tiny: bool = False
) -> dict[str, Any]:
    """Measure one worker and two in turn, with brokers at once and slow, then kill one of two."""
    followers, events = (6, 2) if tiny else (followers, events)
    rows: list[Carried] = []
    with redis_server("--appendonly", "yes") as redis, postgres_server() as postgres:
        if not redis or not postgres:
            return {"note": NO_REDIS if not redis else NO_POSTGRES, "rows": []}
        number = 0
        for _ in range(rounds):
            for broker in BROKERS:
                for workers in (1, 2):
                    step(f"two workers: {workers} with brokers that answer {BROKERS[broker]}")
                    number += 1
                    ledger = new_database(postgres, number)
                    rows.append(carried(redis, ledger, workers=workers, broker=broker, followers=followers, events=events))
        step("two workers: one is killed")
        taken = moved(redis, new_database(postgres, 0), followers=followers)
    return {"followers": followers, "rows": rows, "moved": taken}


def tables(result: dict[str, Any]) -> str:
    """Return the result in Markdown."""
    if result.get("note"):
        return f"Not measured: {result['note']}.\n"
    rows: list[Carried] = result["rows"]
    lines = []
    for place, row in enumerate(rows):
        more = row.workers > 1
        one = rows[place - 1] if more else row  # Measured right before it.
        lines.append(
            [
                BROKERS[row.broker],
                row.workers,
                f"{row.copies:,} of {row.asked:,}",
                f"{row.per_s:,.0f}",
                f"{row.per_s / one.per_s:.2f} times" if more else "",
                f"{row.cpu_us:,.0f} us",
                f"{(row.cpu_us / one.cpu_us - 1) * 100:+.0f} %" if more else "",
            ]
        )
    head = ["brokers answer", "workers", "copies recorded", "a second", "to one worker", "processor per copy", "to one worker"]
    together = "; ".join(_together(rows, broker, words) for broker, words in BROKERS.items())
    taken: Moved = result["moved"]
    after = (
        f"One of two workers was killed (SIGKILL) with {taken.had:,} of {taken.followers:,} followers: after {taken.moved_s:g} s "
        f"the other owned all of them, and {taken.copied:,} copied what the master opened then."
    )
    return (
        f"{result['followers']:,} followers over Redis and PostgreSQL.\n\n{table(head, lines)}\n\n"
        f"All rounds together, two workers beside one: {together}.\n\n{after}\n"
    )


def _together(rows: list[Carried], broker: str, words: str) -> str:
    """Return what two workers carry beside one over all rounds: copies by the time they took, and processor by copies."""
    seconds, cpu = {}, {}
    for workers in (1, 2):
        of_these = [row for row in rows if row.broker == broker and row.workers == workers]
        copies = sum(row.copies for row in of_these)
        seconds[workers] = sum(row.copies / row.per_s for row in of_these) / copies
        cpu[workers] = sum(row.cpu_us * row.copies for row in of_these) / copies
    times, more = seconds[1] / seconds[2], (cpu[2] / cpu[1] - 1) * 100
    return f"brokers that answer {words}, {times:.2f} times the copies at {more:+.0f} % processor each"


def write(doc: Path, text: str) -> None:
    """Put what was measured into the page, between its marks."""
    before, _, rest = doc.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    doc.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")


def main() -> None:
    """Measure alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--followers", type=int, default=FOLLOWERS)
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--rounds", type=int, default=1, help="how often to measure one and two workers in turn")
    parser.add_argument("--doc", type=Path, default=DOC, help="the page whose part on two workers is written anew")
    counts(parser)
    options = parser.parse_args()
    with Bar("two workers", 4 * options.rounds + 1) as step:
        result = measure(step, followers=options.followers, events=options.events, rounds=options.rounds, tiny=options.tiny)
    text = tables(result)
    say(text)
    if not options.tiny:
        about = machine()
        keep("two_workers", {**result, "machine": about})
        day = datetime.datetime.now(datetime.UTC).date()
        write(options.doc, f"Measured on {day}: {about['cores']} cores, load {about['load']} at the end.\n\n{text}")


if __name__ == "__main__":
    main()
