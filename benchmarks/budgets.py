"""What was promised, and by how much a run kept it."""

from collections.abc import Iterator
from typing import Any

from benchmarks.measures import Summary, shown

LATENCY: dict[int, tuple[float, float | None]] = {10: (3.0, None), 100: (4.0, 12.0), 1000: (25.0, 60.0)}
"""By followers: median and 99 of 100, in milliseconds from the event published to the last follower's order."""
RATIO = {100: 2.0, 1000: 4.0}
"""By followers: the median over the floor's of the same run."""
COPIES_PER_S = 20_000
MEMORY_MIB = 150
HELP_S = 0.5
READY_S = 5.0

Row = tuple[str, str, str, str]


def budgets(found: dict[str, dict[str, Any]]) -> list[Row]:
    """Return every budget with what was measured."""
    parts = (("latency", _latency), ("sustained", _sustained), ("start", _start))
    return [row for name, rows in parts if name in found for row in rows(found[name])]


def _latency(result: dict[str, Any]) -> Iterator[Row]:
    rows = {row.followers: row for row in result["rows"] if row.broker == "instant" and row.carrier == "redis"}
    for followers, (p50, p99) in LATENCY.items():
        if followers not in rows:
            continue
        last: Summary = rows[followers].hops["published to last order"]
        yield _row(f"published to last order, {followers:,} followers, median", p50, last.p50, "ms")
        if p99 is not None:
            yield _row(f"the same, 99 of 100 of {last.count} events", p99, last.p99, "ms")
        floor = result["floors"].get(followers)
        if floor and followers in RATIO:
            yield _row("the same, median over the floor's median", RATIO[followers], last.p50 / floor.p50, "x")


def _sustained(result: dict[str, Any]) -> Iterator[Row]:
    best = max((row.recorded_per_s for row in result["rows"]), default=0.0)
    if best:
        verdict = "met" if best >= COPIES_PER_S else f"not met: {best / COPIES_PER_S:.0%} of it"
        yield ("copies recorded a second, 100 followers, two workers", f"at least {COPIES_PER_S:,}", f"{best:,.0f}", verdict)


def _start(result: dict[str, Any]) -> Iterator[Row]:
    yield _row("`mt-copier --help`", HELP_S, result["help_s"], "s")
    if "full" in result:
        yield _row("a worker with 1,000 followers and 10,000 open links, ready", READY_S, result["full"]["ready_s"], "s")
        yield _row("memory of a worker with 1,000 followers", MEMORY_MIB, result["bare"]["memory_mib"], "MiB")


def _row(name: str, most: float, got: float, unit: str) -> Row:
    verdict = "met" if got <= most else f"not met: {got / most:.1f} times"
    return (name, f"{most:g} {unit}", f"{shown(got)} {unit}", verdict)
