"""Where a paper server's prices come from: a seeded random walk, or recorded ticks."""

import asyncio
import csv
import random
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NamedTuple

from copier.gateways.paper_server import PaperServer

HEADER = ["time_utc", "bid", "ask"]
_1970 = datetime(1970, 1, 1, tzinfo=UTC)


class Tick(NamedTuple):
    """A recorded price; milliseconds of UTC."""

    utc_ms: int
    bid: Decimal
    ask: Decimal


class RandomWalk:
    """Moves one symbol by whole ticks, up or down with equal chance; the same seed walks the same way."""

    def __init__(
        self,
        server: PaperServer,
        symbol: str,
        bid: Decimal | str,
        *,
        seed: int,
        spread_ticks: int = 10,
        step_ticks: int = 5,
        pause_s: float = 0.5,
    ) -> None:
        """`step_ticks` bounds one move, `pause_s` is the mean time between two."""
        self._server = server
        self._symbol = symbol
        self._tick = server.symbols[symbol].spec.tick_size
        self._bid = int(Decimal(bid) / self._tick)
        self._spread = spread_ticks
        self._step = step_ticks
        self._pause_s = pause_s
        self._random = random.Random(seed)

    def step(self) -> None:
        """Set the next price."""
        moved = self._bid + self._random.randint(-self._step, self._step)
        self._bid = max(moved, self._step + 1)
        self._server.set_quote(self._symbol, self._bid * self._tick, (self._bid + self._spread) * self._tick)

    async def run(self) -> None:
        """Walk for ever, on the running loop's time."""
        while True:
            self.step()
            await asyncio.sleep(self._random.expovariate(1 / self._pause_s))


def read_ticks(path: Path) -> Iterator[Tick]:
    """Yield the ticks of a CSV file with the columns time_utc (ISO 8601), bid and ask; raise `ValueError` naming a bad line."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        if header != HEADER:
            raise ValueError(f"{path}: expected the header {','.join(HEADER)}, not {','.join(header)}")
        for row in rows:
            try:
                time, bid, ask = row
                elapsed = datetime.fromisoformat(time).astimezone(UTC) - _1970
                yield Tick(round(elapsed.total_seconds() * 1000), Decimal(bid), Decimal(ask))
            except (ValueError, InvalidOperation) as error:
                raise ValueError(f"{path}, line {rows.line_num}: expected a time and two prices, not {','.join(row)}") from error


async def play_ticks(server: PaperServer, symbol: str, ticks: Iterable[Tick], *, speed: float = 1.0) -> int:
    """Set recorded prices with their recorded pauses, `speed` times as fast, and return how many there were.

    The first price is set at once. A clock that is the running loop's own then shows recorded distances in time.
    """
    loop = asyncio.get_running_loop()
    began_s, first_ms, count = loop.time(), None, 0
    for tick in ticks:
        first_ms = tick.utc_ms if first_ms is None else first_ms
        pause_s = began_s + (tick.utc_ms - first_ms) / 1000 / speed - loop.time()
        if pause_s > 0:
            await asyncio.sleep(pause_s)
        server.set_quote(symbol, tick.bid, tick.ask)
        count += 1
    return count
