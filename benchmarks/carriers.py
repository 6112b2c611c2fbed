"""What each carrier of the Expert Advisors costs: a quote there and back, and a change at a master until the engine has read it.

The Expert Advisors are the real ones, compiled, with the inputs they have by default; the terminal around them is played. A real
terminal adds its timer's 10 to 16 ms, and whatever its server takes.
"""

import argparse
import asyncio
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from benchmarks.measures import Bar, Step, Summary, counts, keep, say, summary, table, three
from copier.clock import SystemClock
from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_faults import Faults
from copier.gateways.paper_server import PaperServer
from copier.gateways.remote import RemoteGateway
from copier.model import MarginMode
from tests.mql.build import gxx
from tests.mql.stage import LOGIN, bridges

WAYS = {"mt5": ("files", "pipe", "tcp", "websocket", "http", "dll"), "mt4": ("files", "pipe", "http", "dll")}
INPUTS = {"TimerMs": 20, "WatchMs": 50}
"""What the Expert Advisors have by default."""
QUOTES, CHANGES = 200, 40
PATIENCE_S = 20.0


def measure(step: Step, *, tiny: bool = False) -> dict[str, Any]:
    """Measure every carrier of both platforms, where a compiler is at hand."""
    if gxx() is None:
        step("carriers: no g++")
        return {"rows": [], "absent": "g++ is not installed, so the Expert Advisors cannot be compiled"}
    rows = []
    for platform, ways in WAYS.items():
        for way in ways:
            step(f"carriers: {platform} {way}")
            quotes, changes = asyncio.run(_measure(platform, way, *((5, 2) if tiny else (QUOTES, CHANGES))))
            rows.append({"platform": platform, "carrier": way, "quote": quotes, "change": changes})
    return {"rows": rows, "inputs": INPUTS}


async def _measure(platform: str, way: str, quotes: int, changes: int) -> tuple[Summary | None, Summary | None]:
    clock = SystemClock()
    server = PaperServer("Broker-Demo", clock=clock)
    for offered in server.symbols.values():
        fields = {name: getattr(offered, name) for name in offered.__struct_fields__ if name != "sessions"}
        server.symbols[offered.spec.symbol] = type(offered)(**fields)
    mode = MarginMode.MT4 if platform == "mt4" else MarginMode.HEDGING
    server.add_account(PaperAccount(LOGIN, margin_mode=mode, balance=Decimal(1_000_000), leverage=500))
    server.set_quote("EURUSD", "1.10000", "1.10010")
    with tempfile.TemporaryDirectory() as folder:
        async with bridges(platform, way)(server, clock, Faults(), Path(folder), **INPUTS) as (gateway, _):
            await gateway.open()
            await gateway.get_quote("EURUSD")
            return summary(await _quotes(gateway, quotes)), summary(await _changes(gateway, server, changes))


async def _quotes(gateway: RemoteGateway, count: int) -> list[float]:
    """Return milliseconds of a quote there and back."""
    samples = []
    for _ in range(count):
        began = time.perf_counter()
        await gateway.get_quote("EURUSD")
        samples.append((time.perf_counter() - began) * 1000)
    return samples


async def _changes(gateway: RemoteGateway, server: PaperServer, count: int) -> list[float]:
    """Return milliseconds from a trade at the master until a read that the Expert Advisor has called for shows it."""
    woken = asyncio.Event()
    assert gateway.wakes is not None
    gateway.wakes.on_change(woken.set)
    samples = []
    for _ in range(count):
        woken.clear()
        began = time.perf_counter()
        ticket = server.buy(LOGIN, "EURUSD", "0.01").position
        async with asyncio.timeout(PATIENCE_S):
            while ticket not in {each.ticket for each in (await _woken(gateway, woken))}:
                pass
        samples.append((time.perf_counter() - began) * 1000)
        server.close(LOGIN, ticket)
        await asyncio.sleep(0.2)
    return samples


async def _woken(gateway: RemoteGateway, woken: asyncio.Event) -> Any:
    await woken.wait()
    woken.clear()
    return (await gateway.get_positions()).positions


def tables(result: dict[str, Any]) -> str:
    """Return the result in Markdown."""
    if not result["rows"]:
        return f"Not measured: {result['absent']}.\n"
    names = {"mt5": "MetaTrader 5", "mt4": "MetaTrader 4"}
    rows = [[names[row["platform"]], row["carrier"], three(row["quote"]), three(row["change"])] for row in result["rows"]]
    head = ["terminal", "carrier", "`get_quote`, ms", "master's change until it is read, ms"]
    return table(head, rows) + "\n\nMedian / 99 of 100 / longest.\n"


def main() -> None:
    """Measure alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    counts(parser)
    options = parser.parse_args()
    with Bar("carriers", sum(map(len, WAYS.values()))) as step:
        result = measure(step, tiny=options.tiny)
    keep("carriers", result)
    say(tables(result))


if __name__ == "__main__":
    main()
