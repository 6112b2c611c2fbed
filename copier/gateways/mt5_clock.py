"""How old a terminal's prices are, and what its server's clock differs from UTC: learnt from ticks, as nothing else tells it."""

from typing import NamedTuple

QUARTER_MS = 900_000
HOUR_MS = 3_600_000
OFFSET_MAX_MS = 14 * HOUR_MS
SLACK_MS = 60_000
"""How far a server's or this machine's clock may be wrong."""
GAP_MAX_MS = 120_000
"""Two looks at one symbol further apart than this say nothing about when its price moved."""


class Tick(NamedTuple):
    """A price as the terminal shows it; the time is the server's clock, written as if it were UTC."""

    time_ms: int
    bid: float
    ask: float


class _Seen(NamedTuple):
    tick: Tick
    looked_ms: int
    """When it was last looked at, UTC."""
    moved_ms: int | None
    """When it was first seen, UTC; None where it was there at the first look, however long."""


class ServerClock:
    """The estimated offset of one trade server, and the age of each symbol's price.

    Tick times stand still while a market is closed, so only a tick that came between two looks counts; offsets are whole
    quarters of an hour.
    """

    def __init__(self) -> None:
        self.offset_ms: int | None = None
        self.learnt_ms = 0
        """When the offset was last seen to hold, UTC."""
        self._seen: dict[str, _Seen] = {}

    @property
    def offset_s(self) -> int | None:
        """The server's wall clock minus UTC, or None while unknown."""
        return None if self.offset_ms is None else self.offset_ms // 1000

    def look(self, symbol: str, tick: Tick, now_ms: int) -> int:
        """Take a look at a symbol's tick; return how old the price is, in milliseconds."""
        before = self._seen.get(symbol)
        if before is None:
            self._seen[symbol] = _Seen(tick, now_ms, None)
        elif tick == before.tick:
            self._seen[symbol] = before._replace(looked_ms=now_ms)
        else:
            gap_ms = now_ms - before.looked_ms
            if 0 <= gap_ms <= GAP_MAX_MS and tick.time_ms >= before.tick.time_ms:
                self._learn(tick.time_ms - now_ms, gap_ms, now_ms)
            self._seen[symbol] = _Seen(tick, now_ms, now_ms)
        return self._age_ms(self._seen[symbol], now_ms)

    def _learn(self, behind_ms: int, gap_ms: int, now_ms: int) -> None:
        """Take a tick that came within the last `gap_ms` as a sight of the server's clock."""
        middle_ms = behind_ms + gap_ms // 2
        offset_ms = round(middle_ms / QUARTER_MS) * QUARTER_MS
        if abs(middle_ms - offset_ms) <= gap_ms // 2 + SLACK_MS and abs(offset_ms) <= OFFSET_MAX_MS:
            self.offset_ms, self.learnt_ms = offset_ms, now_ms

    def _age_ms(self, seen: _Seen, now_ms: int) -> int:
        if seen.moved_ms is not None:
            return max(0, now_ms - seen.moved_ms)
        # Never seen to move: by the server's clock where it is known, otherwise at least what no time zone explains.
        offset_ms = -OFFSET_MAX_MS if self.offset_ms is None else self.offset_ms
        age_ms = now_ms + offset_ms - seen.tick.time_ms
        return age_ms if age_ms > SLACK_MS else 0
