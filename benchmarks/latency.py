"""How long a master's change takes until the order leaves for the last follower, hop by hop, beside what cannot be undercut."""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from benchmarks.field import Field, Setup, measured
from benchmarks.floors import journal_floor
from benchmarks.measures import Bar, Step, Summary, counts, keep, say, summary, table, three
from benchmarks.servers import NO_REDIS, redis_server

FOLLOWERS = (1, 10, 100, 1000)
PACE = {1: (500, 40.0), 10: (500, 40.0), 100: (500, 25.0), 1000: (80, 2.0)}
"""By followers: events, and how many of them a second."""
SLOW_PACE = {1: (100, 10.0), 10: (100, 10.0), 100: (100, 5.0)}

HOPS = (
    "change to read",
    "read and diff",
    "publish",
    "publish to received",
    "received to plan",
    "journal",
    "journal to call",
    "call to recorded",
    "published to first order",
    "published to last order",
    "change to last order",
)


class Latency(msgspec.Struct, kw_only=True):
    """One row of the table."""

    followers: int
    broker: str
    carrier: str
    events: int
    orders: int
    missing: int
    """Events of which a follower got no order."""
    cpu_ms_per_copy: float
    hops: dict[str, Summary | None]
    opens: Summary | None
    closes: Summary | None
    last_ms: list[float]
    """Published to the last follower's order, per event."""


def latency(setup: Setup) -> Latency:
    """Run a setup and return its hops."""
    with measured(setup) as field:
        return hops_of(field, setup)


def hops_of(field: Field, setup: Setup) -> Latency:
    """Put the stamps of every process together, event by event."""
    watched = field.watched()
    followed = field.followed()
    changed = {(change.kind, change.identifier): change.at_ns for change in watched.changes}
    kinds = {"Opened": "open", "Closed": "close"}
    events = {
        (kinds[each.kind], each.key): each
        for each in watched.published
        if each.kind in kinds and (kinds[each.kind], int(each.key.partition(".")[0])) in changed
    }
    tags = {(f, tag): key for seen in followed for append in seen.appends for f, key, tag in append.sending}
    calls: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    orders = 0
    for seen in followed:
        for order in seen.orders:
            key = tags.get((order.account, order.tag))
            if key is not None and (order.kind, key) in events:
                calls[order.kind, key].append((order.at_ns, order.account))
                orders += 1
    durable, recorded = _durable(followed)
    received = {(kinds[kind], key): at for seen in followed for at, kind, key in seen.received if kind in kinds}
    samples: dict[str, list[float]] = {name: [] for name in HOPS}
    by_kind: dict[str, list[float]] = {"open": [], "close": []}
    missing = 0
    for event, published in events.items():
        kind, key = event
        done = sorted(calls[event])
        if len({follower for _, follower in done}) < setup.followers:
            missing += 1
            continue
        at = changed[kind, int(key.partition(".")[0])]
        last_ns, last = done[-1]
        _add(samples, "change to read", at, published.read_ns)
        _add(samples, "read and diff", published.read_ns, published.asked_ns)
        _add(samples, "publish", published.asked_ns, published.done_ns)
        _add(samples, "publish to received", published.asked_ns, received.get(event, 0))
        _add(samples, "published to first order", published.asked_ns, done[0][0])
        _add(samples, "published to last order", published.asked_ns, last_ns)
        _add(samples, "change to last order", at, last_ns)
        by_kind[kind].append((last_ns - published.asked_ns) / 1e6)
        if (last, key) in durable and kind == "open":
            asked_ns, durable_ns = durable[last, key]
            _add(samples, "received to plan", received.get(event, 0), asked_ns)
            _add(samples, "journal", asked_ns, durable_ns)
            _add(samples, "journal to call", durable_ns, last_ns)
        if (last, key, kind) in recorded:
            _add(samples, "call to recorded", last_ns, recorded[last, key, kind])
    everything = sum(seen.cpu_s for seen in followed)
    per_copy = everything * 1000 / max(1, setup.followers * (setup.events + (setup.warm_up if setup.redis else 0)))
    return Latency(
        followers=setup.followers,
        broker=setup.broker,
        carrier=setup.redis.partition(":")[0],
        events=len(events),
        orders=orders,
        missing=missing,
        cpu_ms_per_copy=round(per_copy, 4),
        hops={name: summary(found) for name, found in samples.items()},
        opens=summary(by_kind["open"]),
        closes=summary(by_kind["close"]),
        last_ms=[round(each, 3) for each in by_kind["open"] + by_kind["close"]],
    )


def _durable(followed: Iterable[Any]) -> tuple[dict[tuple[str, str], tuple[int, int]], dict[tuple[str, str, str], int]]:
    """Return when each open's intent was asked for and durable, and when each answer was recorded."""
    intents: dict[tuple[str, str], tuple[int, int]] = {}
    recorded: dict[tuple[str, str, str], int] = {}
    for seen in followed:
        for append in seen.appends:
            for follower, key, _ in append.sending:
                intents.setdefault((follower, key), (append.asked_ns, append.done_ns))
            for follower, key, event, _ in append.receipts:
                recorded.setdefault((follower, key, event), append.done_ns)
    return intents, recorded


def _add(samples: dict[str, list[float]], name: str, began_ns: int, ended_ns: int) -> None:
    if began_ns and ended_ns:
        samples[name].append((ended_ns - began_ns) / 1e6)


# The whole run -----------------------------------------------------------------------------------------------------------


def measure(step: Step, followers: Sequence[int] = (), *, tiny: bool = False) -> dict[str, Any]:
    """Measure every number of followers, each floor right before its row, then other brokers and carriers."""
    rows: list[Latency] = []
    floors: dict[int, Summary | None] = {}
    followers = (1, 10) if tiny else followers or FOLLOWERS
    with redis_server() as redis:
        if not redis:
            return {"note": NO_REDIS, "rows": [], "floors": {}}
        for count in followers:
            events, per_s = (10, 50.0) if tiny else PACE[count]
            step(f"the floor of {count} followers")
            floors[count] = journal_floor(redis, count, events=min(events, 300), per_s=max(per_s, 8.0))
            step(f"{count} followers, brokers that answer at once")
            rows.append(latency(Setup(followers=count, redis=redis, events=events, per_s=per_s, warm_up=5 if tiny else 10)))
        for broker in ("50ms", "paper", "paper50ms"):
            for count in [each for each in followers if each in ((10, 100) if broker == "50ms" else (10,))]:
                events, per_s = (5, 10.0) if tiny else SLOW_PACE[count]
                step(f"{count} followers, broker {broker}")
                setup = Setup(followers=count, broker=broker, redis=redis, events=events, per_s=per_s, warm_up=5 if tiny else 10)
                rows.append(latency(setup))
    for count in [each for each in followers if each in (10, 100)]:
        events = 10 if tiny else 100
        step(f"{count} followers, memory://, one process")
        rows.append(latency(Setup(followers=count, events=events, per_s=20.0, warm_up=5 if tiny else 10)))
    return {"rows": rows, "floors": floors}


def tables(result: dict[str, Any]) -> str:
    """Return the result in Markdown."""
    if result.get("note"):
        return f"Not measured: {result['note']}.\n"
    head = ["followers", "brokers", "carried by", "events", "opens: last order", "closes: last order", "change to last order",
            "floor", "ratio of medians", "CPU ms per copy"]  # fmt: skip
    rows = []
    for row in result["rows"]:
        last = row.hops["published to last order"]
        floor = result["floors"].get(row.followers) if row.broker == "instant" and row.carrier == "redis" else None
        ratio = f"{last.p50 / floor.p50:.1f}" if floor and last else "-"
        found = row.events if not row.missing else f"{row.events} ({row.missing} incomplete)"
        rows.append([row.followers, row.broker, row.carrier, found, three(row.opens), three(row.closes),
                     three(row.hops["change to last order"]), three(floor), ratio, f"{row.cpu_ms_per_copy:.3f}"])  # fmt: skip
    first = [row for row in result["rows"] if row.broker == "instant" and row.carrier == "redis"]
    hops = [[name, *(three(row.hops[name]) for row in first)] for name in HOPS]
    return "\n".join(
        [
            "Milliseconds, median / 99 of 100 / longest. An event counts until its order leaves for the last follower.",
            "",
            table(head, rows),
            "",
            "The same by hop, at brokers that answer at once (for the last follower of each event):",
            "",
            table(["hop", *(f"{row.followers} followers" for row in first)], hops),
            "",
        ]
    )


def main() -> None:
    """Measure alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--followers", type=int, nargs="*", default=list(FOLLOWERS))
    counts(parser)
    options = parser.parse_args()
    with Bar("latency", 2 * len(options.followers) + 6) as step:
        result = measure(step, options.followers, tiny=options.tiny)
    keep("latency", result)
    say(tables(result))


if __name__ == "__main__":
    main()
