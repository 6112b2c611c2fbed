"""Processor time per follower from an entry in the reader's hands to the last order call: it stays the same on a busy machine."""

import argparse
import asyncio
import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.brokers import Order
from benchmarks.field import BenchApp, Orders, Setup, settings_text
from benchmarks.measures import Bar, Step, Summary, counts, keep, say, summary, table, three
from copier.app import Everything
from copier.clock import run
from copier.lane import Lane
from copier.settings import parse

FOLLOWERS = (10, 100)
EVENTS = 30
WARM_UP = 14
PAUSE_S = 0.2


class Stamped(Orders):
    """Every order call, with the processor time its thread had used by then."""

    def __init__(self) -> None:
        super().__init__()
        self.used_ns = 0

    def append(self, order: Order) -> None:
        """Note one."""
        self.used_ns = time.thread_time_ns()
        super().append(order)


async def cost(followers: int, events: int) -> dict[str, Any]:
    """Return microseconds per follower for opens and closes, and how many orders went the short way."""
    setup = Setup(followers=followers, ledger="sqlite://")
    with tempfile.TemporaryDirectory() as folder:
        app = BenchApp(parse(settings_text(setup, Path(folder)), {}), Everything("w"), setup)
    orders = Stamped()
    for gateway in app.gateways.values():
        if hasattr(gateway, "_orders"):
            gateway._orders = orders
    received = [0]
    stream: Any = app.stream
    read, flown = stream.read, [0]

    async def listen(*args: Any, **more: Any) -> Any:
        entries = await read(*args, **more)
        if any(hasattr(entry.event, "position") for entry in entries):
            received[0] = time.thread_time_ns()
        return entries

    async def fly(self: Lane, *args: Any) -> None:
        flown[0] += 1
        await before(self, *args)

    stream.read, before = listen, Lane._fly
    samples: dict[str, list[float]] = {"open": [], "close": []}
    sent = 0
    setattr(Lane, "_fly", fly)  # noqa: B010
    try:
        async with app:
            running = asyncio.create_task(app.run())
            await asyncio.sleep(2)
            for number in range(WARM_UP + events):
                assert app.master is not None
                orders.clear()
                if number == WARM_UP:
                    flown[0] = 0
                kind, _ = app.master.trade()
                end = time.monotonic() + 10
                while len(orders) < followers and time.monotonic() < end:  # noqa: ASYNC110 - brokers tell nobody
                    await asyncio.sleep(0.005)
                if number >= WARM_UP and len(orders) == followers:
                    samples[kind].append((orders.used_ns - received[0]) / 1e6 / followers)
                    sent += followers
                await asyncio.sleep(PAUSE_S)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
    finally:
        setattr(Lane, "_fly", before)  # noqa: B010
    return {"open": summary(samples["open"]), "close": summary(samples["close"]), "short": flown[0] / max(1, sent)}


def measure(step: Step, *, tiny: bool = False) -> dict[str, Any]:
    """Measure opens and closes at each number of followers."""
    rows = {}
    for followers in (2,) if tiny else FOLLOWERS:
        step(f"cost: the processor's time at {followers} followers")
        rows[followers] = run(cost(followers, 4 if tiny else EVENTS))
    return {"rows": rows}


def tables(result: dict[str, Any]) -> str:
    """Return the result in Markdown."""

    def micros(found: Summary | None) -> str:
        if found is None:
            return "-"
        return three(Summary(count=0, p50=found.p50 * 1e3, p95=0, p99=found.p99 * 1e3, max=found.max * 1e3))

    rows = [[n, micros(row["open"]), micros(row["close"]), f"{row['short']:.0%}"] for n, row in result["rows"].items()]
    head = [
        "followers",
        "an open, microseconds per follower",
        "a close, microseconds per follower",
        "orders that went the short way",
    ]
    return table(head, rows) + "\n"


def main() -> None:
    """Measure alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    counts(parser)
    options = parser.parse_args()
    with Bar("cost", len(FOLLOWERS)) as step:
        result = measure(step, tiny=options.tiny)
    keep("cost", result)
    say(tables(result))


if __name__ == "__main__":
    main()
