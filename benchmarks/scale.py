"""What 10,000 masters and 1,000,000 followers need, by arithmetic and a small simulation from measured unit costs.

Writes `docs/scale.md` and `results/scale.json`; `--again` writes the page from the kept costs without measuring anew.
"""

import argparse
import asyncio
import math
import random
import time
from bisect import bisect_left
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.field import Field, Setup
from benchmarks.measures import HERE, Bar, Step, counts, keep, machine, say, table
from benchmarks.servers import postgres_server, redis_server
from benchmarks.stores import commits, entries
from copier import wire
from copier.gateways.paper_symbols import symbol_spec
from copier.model import MasterFacts, MasterPosition, Opened, Side, Snapshot
from copier.stream import EntryId, open_stream

DOC = HERE.parent / "docs" / "scale.md"
KEPT = "<!-- costs: "
D = Decimal
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
BATCH = 100


class Costs(msgspec.Struct, kw_only=True):
    """What one of each costs, measured on one machine."""

    event_bytes: int
    snapshot_bytes: int
    """With three open positions in two symbols."""
    journal_bytes: float
    """Of one copy: intent, answer, receipt and reading."""
    publish_us: float
    """Of Redis and the way there and back, one after the other on one connection."""
    read_us: float
    """One entry of a read that brings many."""
    copy_us: float
    """Processor time of a worker for one copy: taking in, planning, journal, order, answer, receipt."""
    commit_ms: float
    """A record of a hundred followers, durable on PostgreSQL, median."""
    follower_kib: float
    """Memory that one more follower keeps, with twenty open positions and its simulated broker."""
    process_mib: float
    """Memory of a worker without followers."""
    machine: dict[str, Any] = {}


class World(msgspec.Struct, kw_only=True):
    """What is asked for. Whoever has other numbers puts them in."""

    masters: int = 10_000
    followers: int = 1_000_000
    snapshot_s: float = 2.0
    events_per_day: int = 40
    """Of a master, opens, closes and changes together."""
    popular: float = 0.9
    """How unevenly followers choose: the n-th most popular master has n to the power of minus this."""
    news_share: float = 0.3
    """So many of the masters trade on a piece of news."""
    news_events: int = 2
    news_s: float = 10.0
    """Within so many seconds, most in the first."""
    per_worker: int = 1000
    """Followers of one worker process."""
    done_within_s: float = 5.0
    """When the last order of a burst should have left."""


# Unit costs --------------------------------------------------------------------------------------------------------------


def event_and_snapshot() -> tuple[Opened, Snapshot]:
    """Return an open as it travels, and a snapshot of three positions."""
    facts = MasterFacts(
        currency="USD", balance=D("10000.00"), equity=D("10012.34"), free_margin=D("9000.00"), leverage=100, server_offset_s=7200
    )

    def position(number: int, symbol: str) -> MasterPosition:
        return MasterPosition(
            identifier=50_000_000 + number,
            ticket=50_000_000 + number,
            symbol=symbol,
            side=Side.BUY,
            lots=D("0.50"),
            lots_opened=D("0.50"),
            open_price=D("1.10010"),
            stop_loss=D("1.09500"),
            take_profit=D("1.11000"),
            open_time=NOON,
        )

    spec = symbol_spec("EURUSD", digits=5)
    now = 1_767_614_400_000
    opened = Opened(master="m", read=12345, read_ms=now, published_ms=now, facts=facts, position=position(1, "EURUSD"), spec=spec)
    held = (position(1, "EURUSD"), position(2, "EURUSD"), position(3, "XAUUSD"))
    specs = {"EURUSD": spec, "XAUUSD": symbol_spec("XAUUSD", digits=2)}
    return opened, Snapshot(master="m", read=12345, read_ms=now, published_ms=now, facts=facts, positions=held, specs=specs)


async def carrying(url: str, times: int) -> tuple[float, float]:
    """Return microseconds to publish an event and to read one of many."""
    opened, _ = event_and_snapshot()
    stream = open_stream(url, entries_max=times * 2)
    began = time.perf_counter()
    for number in range(1, times + 1):
        await stream.publish("m", EntryId(1, number), opened)
    published = time.perf_counter() - began
    began, after = time.perf_counter(), EntryId()
    while after.sequence < times:
        for entry in await stream.read({"m": after}, block_ms=100):
            after = entry.id
    read = time.perf_counter() - began
    await stream.close()
    return published / times * 1e6, read / times * 1e6


def copying(redis: str, ledger: str, *, followers: int, events: int) -> tuple[float, float]:
    """Return processor microseconds of a copy, and a worker's memory in MiB."""
    setup = Setup(
        followers=followers, redis=redis, ledger=ledger, events=events, per_s=2.0, pacing="steady", warm_up=2, held=1000
    )
    with Field(setup) as field:
        field.run(quiet_s=3)
        (seen,) = field.followed()
    return seen.cpu_s / max(1, seen.ordered) * 1e6, seen.memory_mib


def measure_costs(step: Step, *, tiny: bool = False) -> Costs:
    """Measure every unit cost; raise `RuntimeError` without a Redis and a PostgreSQL."""
    opened, snapshot = event_and_snapshot()
    few, many, times = (4, 8, 20) if tiny else (100, 400, 2000)
    with redis_server("--appendonly", "yes") as redis, postgres_server() as postgres:
        if not redis or not postgres:
            raise RuntimeError("redis-server and PostgreSQL are needed to measure")
        step("scale: the stream")
        publish_us, read_us = asyncio.run(carrying(redis, times))
        step("scale: the ledger")
        found = asyncio.run(commits(postgres, BATCH, 5 if tiny else 100))
        assert found is not None
        step("scale: a copy")
        # SQLite for these: the worker's own part is what counts, and its memory.
        _, small_mib = copying(redis, "", followers=few, events=2)
        copy_us, large_mib = copying(redis, "", followers=many, events=3 if tiny else 20)
    follower_kib = max(1.0, (large_mib - small_mib) * 1024 / (many - few))
    return Costs(
        event_bytes=len(wire.encode_event(opened)),
        snapshot_bytes=len(wire.encode_event(snapshot)),
        journal_bytes=round(3 * len(wire.encode(entries(BATCH))) / BATCH, 1),
        publish_us=round(publish_us, 1),
        read_us=round(read_us, 1),
        copy_us=round(copy_us, 1),
        commit_ms=round(found.p50, 3),
        follower_kib=round(follower_kib, 1),
        process_mib=round(small_mib - few * follower_kib / 1024, 1),
        machine=machine(),
    )


# Arithmetic --------------------------------------------------------------------------------------------------------------


def popularity(world: World) -> list[int]:
    """Return how many followers each master has, the most popular first; together all of them."""
    weights = [(place + 1) ** -world.popular for place in range(world.masters)]
    whole = sum(weights)
    return [max(1, round(world.followers * weight / whole)) for weight in weights]


def readers(followers: int, workers: int) -> float:
    """Return how many workers have at least one of a master's followers, when those are spread by chance."""
    return workers * (1 - (1 - 1 / workers) ** followers)


class Needs(msgspec.Struct, kw_only=True):
    """What a world asks of the stores and machines."""

    workers: int
    worker_gib: float
    watching_gib: float
    """With a process for each master."""
    workers_per_core: float
    snapshots_per_s: float
    carried_mb_per_s: float
    """Into Redis."""
    delivered_per_s: float
    """Entries out of Redis, by snapshots alone, followers spread by chance."""
    delivered_mb_per_s: float
    gathered_mb_per_s: float
    """The same when followers of one master share workers as far as they fit."""
    redis_masters: int
    redis_connections: int
    events_per_s: float
    copies_per_s: float
    copies_per_day: float
    burst_events: int
    burst_copies: float
    burst_cores: float
    """Cores that copy a burst within the time asked."""
    records_per_s: float
    """Asked for in a burst: two for each event and worker, before those that come together share one."""
    commit_wait_s: float
    """How long a record waits when every worker of one PostgreSQL commits again and again."""
    journal_mb_per_s: float
    journal_gb_per_day: float
    postgres: int
    postgres_connections: int


REDIS_MB_PER_S = 100.0
"""What one Redis sends for long without its network being what everybody waits for: a gigabit."""
REDIS_OPS_PER_S = 50_000.0
POSTGRES_COMMITS_PER_S = 2_000.0
"""What one PostgreSQL makes durable for many writers on a disk that confirms in about a millisecond."""
POSTGRES_MB_PER_S = 50.0
WAIT_MAX_S = 0.1
"""How long a record may wait in a burst."""


def needs(costs: Costs, world: World) -> Needs:
    """Return what the world asks for, by multiplication."""
    workers = math.ceil(world.followers / world.per_worker)
    fans = popularity(world)
    snapshots = world.masters / world.snapshot_s
    read_by = sum(readers(each, workers) for each in fans)
    gathered_by = sum(math.ceil(each / world.per_worker) for each in fans) + workers
    events = world.masters * world.events_per_day / 86_400
    mean = sum(fans) / len(fans)
    burst_events = int(world.masters * world.news_share * world.news_events)
    burst_copies = burst_events * mean
    journal = burst_copies * costs.journal_bytes / world.done_within_s / 1e6
    delivered = read_by / world.snapshot_s * costs.snapshot_bytes / 1e6
    return Needs(
        workers=workers,
        worker_gib=workers * (costs.process_mib + world.per_worker * costs.follower_kib / 1024) / 1024,
        watching_gib=world.masters * costs.process_mib / 1024,
        workers_per_core=round(1e6 / costs.copy_us / world.per_worker, 1),
        snapshots_per_s=snapshots,
        carried_mb_per_s=snapshots * costs.snapshot_bytes / 1e6,
        delivered_per_s=read_by / world.snapshot_s,
        delivered_mb_per_s=delivered,
        gathered_mb_per_s=gathered_by / world.snapshot_s * costs.snapshot_bytes / 1e6,
        redis_masters=math.ceil(max(delivered / REDIS_MB_PER_S, read_by / world.snapshot_s / REDIS_OPS_PER_S)),
        redis_connections=world.masters + workers * 2,
        events_per_s=events,
        copies_per_s=events * mean,
        copies_per_day=events * mean * 86_400,
        burst_events=burst_events,
        burst_copies=burst_copies,
        burst_cores=burst_copies * costs.copy_us / 1e6 / world.done_within_s,
        records_per_s=2 * burst_events * read_by / world.masters / world.news_s,
        commit_wait_s=workers / POSTGRES_COMMITS_PER_S,
        journal_mb_per_s=journal,
        journal_gb_per_day=events * mean * 86_400 * costs.journal_bytes / 1e9,
        postgres=math.ceil(max(workers / POSTGRES_COMMITS_PER_S / WAIT_MAX_S, journal / POSTGRES_MB_PER_S)),
        postgres_connections=workers + world.masters,
    )


# Simulation --------------------------------------------------------------------------------------------------------------


class Burst(msgspec.Struct, kw_only=True):
    """What a burst does to the copies, in seconds from the master's change to the order leaving."""

    cores: int
    copies: int
    p50_s: float
    p99_s: float
    last_s: float


def simulate(costs: Costs, world: World, cores: int, *, seed: int = 7) -> Burst:
    """Play one burst: every core takes the copies of its followers in the order in which their events arrive."""
    chance = random.Random(seed)
    fans = popularity(world)
    chosen = chance.sample(range(world.masters), int(world.masters * world.news_share))
    changes = sorted(
        (min(chance.expovariate(3 / world.news_s), world.news_s), master) for master in chosen for _ in range(world.news_events)
    )
    way_s = (costs.publish_us + costs.read_us) / 1e6 + costs.commit_ms / 1000
    free = [0.0] * cores
    waits: list[tuple[float, int]] = []
    for at, master in changes:
        for core, copies in spread(fans[master], cores, chance):
            begin = max(at + way_s, free[core])
            free[core] = begin + copies * costs.copy_us / 1e6
            waits.append(((begin + free[core]) / 2 - at, copies))
    return Burst(cores=cores, copies=sum(copies for _, copies in waits), **quantiles(waits))


def spread(followers: int, cores: int, chance: random.Random) -> Iterable[tuple[int, int]]:
    """Return how many of a master's followers each core has."""
    if followers < cores:
        for core in {chance.randrange(cores): None for _ in range(followers)}:
            yield core, 1
        return
    each, more = divmod(followers, cores)
    for core in range(cores):
        yield core, each + (core < more)


def quantiles(waits: list[tuple[float, int]]) -> dict[str, float]:
    """Return median, 99th percentile and the last, weighted by copies."""
    ordered = sorted(waits)
    seen: list[int] = []
    total = 0
    for _, copies in ordered:
        total += copies
        seen.append(total)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, bisect_left(seen, total * share))][0]

    return {"p50_s": at(0.5), "p99_s": at(0.99), "last_s": ordered[-1][0]}


# The page ----------------------------------------------------------------------------------------------------------------


def page(costs: Costs, world: World) -> str:
    """Return docs/scale.md."""
    found = needs(costs, world)
    cores = math.ceil(found.burst_cores)
    bursts = [simulate(costs, world, max(1, round(cores * part))) for part in (0.5, 1, 2, 4)]
    about = costs.machine
    where = f"{about['cores']} cores ({about['processor']}), Python {about['python']}, load {about['load']}"
    written = msgspec.json.encode(costs).decode()
    return PAGE.format(
        kept=f"{KEPT}{written} -->",
        w=world,
        c=costs,
        where=where,
        units=table(("what", "cost"), unit_rows(costs)),
        arithmetic=table(("what", "how much", "how it is reckoned"), need_rows(costs, world, found)),
        bursts=table(
            ("cores for workers", "copies", "half have left after", "99 of 100 after", "the last after"),
            [(b.cores, f"{b.copies:,}", f"{b.p50_s:.2f} s", f"{b.p99_s:.2f} s", f"{b.last_s:.2f} s") for b in bursts],
        ),
        breaks=table(("in this order", "at", "what then"), break_rows(costs, world, found)),
    )


def unit_rows(costs: Costs) -> list[tuple[str, str]]:
    """Return the measured costs in words."""
    return [
        ("an event on the wire", f"{costs.event_bytes:,} bytes"),
        ("a snapshot of three positions", f"{costs.snapshot_bytes:,} bytes"),
        ("publishing, there and back, AOF on", f"{costs.publish_us:,.0f} us"),
        ("reading one of many entries", f"{costs.read_us:,.0f} us"),
        ("a copy: taking in, planning, journal, order, answer, receipt", f"{costs.copy_us:,.0f} us of processor"),
        ("a copy's records in the journal", f"{costs.journal_bytes:,.0f} bytes"),
        (f"a record of {BATCH} followers durable on PostgreSQL, median", f"{costs.commit_ms:.2f} ms"),
        ("one more follower with twenty open positions", f"{costs.follower_kib:,.0f} KiB of memory"),
        ("a worker without followers", f"{costs.process_mib:,.0f} MiB of memory"),
    ]


def need_rows(costs: Costs, world: World, n: Needs) -> list[tuple[str, str, str]]:
    """Return the arithmetic in words."""
    ordinary_cores = n.copies_per_s * costs.copy_us / 1e6
    redis_each = f"{REDIS_MB_PER_S:,.0f} MB/s or {REDIS_OPS_PER_S:,.0f} entries a second each: assumed"
    postgres_each = f"records wait {WAIT_MAX_S:g} s at most, {POSTGRES_MB_PER_S:,.0f} MB/s each: assumed"
    news = f"{world.news_share:.0%} of the masters, {world.news_events} each, in {world.news_s:g} s"
    of_one = f"{n.workers:,} workers, {POSTGRES_COMMITS_PER_S:,.0f} commits a second: assumed"
    spread_out = "to each worker with a follower of the master, followers spread by chance"
    return [
        ("worker processes", f"{n.workers:,}", f"{world.per_worker:,} followers each"),
        ("their memory", f"{n.worker_gib:,.0f} GiB", "processes and followers"),
        ("watching processes", f"{world.masters:,}", "one for each master; a process may take several"),
        ("their memory", f"{n.watching_gib:,.0f} GiB", "each as a worker without followers"),
        ("changes on an ordinary day", f"{n.events_per_s:,.1f} a second", f"{world.events_per_day} a day and master"),
        ("copies of those", f"{n.copies_per_s:,.0f} a second, {n.copies_per_day / 1e6:,.0f} million a day", "by all followers"),
        ("cores for those", f"{ordinary_cores:,.1f}", "processor of a copy"),
        (
            "snapshots into Redis",
            f"{n.snapshots_per_s:,.0f} a second, {n.carried_mb_per_s:,.1f} MB/s",
            f"one in {world.snapshot_s:g} s of each master",
        ),
        ("snapshots out of Redis", f"{n.delivered_per_s:,.0f} a second, {n.delivered_mb_per_s:,.0f} MB/s", spread_out),
        ("cores that read those", f"{n.delivered_per_s * costs.read_us / 1e6:,.1f}", "processor of a read entry"),
        ("followers of one master together: out of Redis", f"{n.gathered_mb_per_s:,.0f} MB/s", "workers pinned by master"),
        ("Redis masters (cluster)", f"{n.redis_masters:,}", redis_each),
        ("connections to Redis", f"{n.redis_connections:,}", "a watcher per master, two per worker; more in a cluster"),
        ("a burst", f"{n.burst_events:,} changes, {n.burst_copies:,.0f} copies", news),
        ("cores for the burst", f"{n.burst_cores:,.0f}", f"if it came at once, the last order within {world.done_within_s:g} s"),
        (
            "records asked for in it",
            f"{n.records_per_s:,.0f} a second",
            "two for each event and worker; those that wait share one",
        ),
        ("a record's wait on one PostgreSQL", f"{n.commit_wait_s:,.1f} s", of_one),
        ("journal in it", f"{n.journal_mb_per_s:,.0f} MB/s", f"within {world.done_within_s:g} s"),
        ("journal", f"{n.journal_gb_per_day:,.0f} GB a day", "until it is trimmed"),
        ("PostgreSQL ledgers", f"{n.postgres:,}", postgres_each),
        ("connections to PostgreSQL", f"{n.postgres_connections:,}", "one of each process"),
    ]


def break_rows(costs: Costs, world: World, found: Needs) -> list[tuple[str, str, str]]:
    """Return what gives way first, and what helps."""
    masters = REDIS_MB_PER_S / (found.delivered_mb_per_s / world.masters)
    return [
        (
            "1. terminals",
            "a terminal per account (`mt5`, `bridge`): as many as your Windows machines carry",
            "`mt5-manager`: many logins behind one connection, where the broker gives that",
        ),
        (
            "2. snapshots out of one Redis",
            f"{masters:,.0f} masters, when their followers are spread by chance over {found.workers:,} workers",
            f"pin the followers of a master to as few workers as hold them ({found.gathered_mb_per_s:,.0f} instead of "
            f"{found.delivered_mb_per_s:,.0f} MB/s); `snapshot_s: 10` divides by five and makes a gap heal later; a cluster "
            "shards by master",
        ),
        (
            "3. processor in a burst",
            f"{world.done_within_s / (costs.copy_us / 1e6):,.0f} copies per core within {world.done_within_s:g} s",
            "more workers with fewer followers each; a worker uses one core",
        ),
        (
            "4. one PostgreSQL",
            f"{POSTGRES_COMMITS_PER_S * WAIT_MAX_S:,.0f} workers that commit again and again: beyond, orders wait longer than "
            f"{WAIT_MAX_S:g} s for their record, and more of them share one",
            "followers divided among several ledgers, each with its own workers: nothing is shared between them",
        ),
        (
            "5. connections of a PostgreSQL",
            "some hundreds of processes",
            "a pool in transaction mode, or several ledgers; several masters per watching process",
        ),
        (
            "6. memory",
            f"{64 * 1024 * 1024 / costs.follower_kib:,.0f} followers, or {64 * 1024 / costs.process_mib:,.0f} processes that "
            "watch, in 64 GiB",
            "more machines; `mt-copier watch` with several masters",
        ),
    ]


PAGE = """# Scale

What {w.masters:,} masters and {w.followers:,} followers would need, and what gives way first. **This is arithmetic and a
simulation from unit costs measured on one small machine; nothing of this size was run.** What was run:
[performance.md](performance.md).

```
python -m benchmarks.scale                                # measures the costs and writes this page anew, about a minute
python -m benchmarks.scale --again --followers 50000      # other numbers, with the costs as they were measured
```

## What one of each costs

Measured on {where}.
A core of another machine has other numbers; ratios between the rows last longer than the rows.

{units}

## What the whole needs

Followers choose unevenly: the n-th most popular master has followers in proportion to n to the power of -{w.popular}.

{arithmetic}

The processor time of a copy was measured with simulated brokers in the worker's own process, so a gateway's own work is not in it
([performance.md](performance.md) has what gateways add).

## A burst, simulated

{w.news_share:.0%} of the masters trade {w.news_events} times within {w.news_s:g} s, most of them in the first. Each core takes
the copies of its followers in the order in which the events arrive; from the master's change to the order leaving, brokers and a
crowded PostgreSQL left out:

{bursts}

The arithmetic above reckons as if all came at one moment; spread over {w.news_s:g} s the same cores have room.

## What gives way first, and what then

{breaks}

What does not grow with the number of followers: the stream has one entry per change of a master, whoever follows; a worker
reads it once for all its followers; and followers of one worker that want something at the same moment share one durable record.

{kept}
"""


# Command -----------------------------------------------------------------------------------------------------------------


def kept() -> Costs:
    """Return the costs as they were last measured, which the page keeps at its end."""
    text = DOC.read_text(encoding="utf-8").partition(KEPT)[2].partition(" -->")[0]
    return msgspec.json.decode(text, type=Costs)


def measure(step: Step, *, tiny: bool = False) -> dict[str, Any]:
    """Measure the costs."""
    return {"costs": measure_costs(step, tiny=tiny), "world": World()}


def tables(result: dict[str, Any]) -> str:
    """Return the page."""
    return page(result["costs"], result["world"])


def main() -> None:
    """Measure, reckon, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--masters", type=int, default=World().masters)
    parser.add_argument("--followers", type=int, default=World().followers)
    parser.add_argument("--again", action="store_true", help="reckon with the kept costs")
    parser.add_argument("--write", action="store_true", help="with --again: write the page too")
    parser.add_argument("--doc", type=Path, default=DOC)
    counts(parser)
    options = parser.parse_args()
    world = World(masters=options.masters, followers=options.followers)
    if options.again:
        say(page(kept(), world))
        if options.write:
            options.doc.write_text(page(kept(), world), encoding="utf-8")
        return
    with Bar("scale", 3) as step:
        costs = measure_costs(step, tiny=options.tiny)
    say(page(costs, world))
    if not options.tiny:
        keep("scale", costs)
        options.doc.write_text(page(costs, world), encoding="utf-8")


if __name__ == "__main__":
    main()
