"""How many copies a second are recorded (intent, answer and receipt durable) while the lag does not grow."""

import argparse
from typing import Any

import msgspec

from benchmarks.field import Setup, measured
from benchmarks.measures import Bar, Step, counts, keep, say, shown, summary, table
from benchmarks.servers import NO_REDIS, redis_server

FOLLOWERS = 100
WORKERS = 2
RATES = (20.0, 50.0, 200.0)
SECONDS = 10.0


class Sustained(msgspec.Struct, kw_only=True):
    """One rate, kept up for a while."""

    asked_per_s: float
    """Copies a second that the master's events ask for."""
    recorded_per_s: float
    copies: int
    asked: int
    lag_begin_ms: float
    """Published to recorded, median of the first fifth of the events."""
    lag_end_ms: float
    """The same of the last fifth."""
    workers: int
    own_ledgers: bool

    @property
    def grows(self) -> bool:
        """Whether the followers fell behind."""
        return self.lag_end_ms > 2 * self.lag_begin_ms + 100


def sustained(redis: str, per_s: float, *, seconds: float, followers: int, workers: int, own: bool) -> Sustained:
    """Let the master trade so many times a second, and see how far behind the records are."""
    events = max(5, int(per_s * seconds))
    setup = Setup(
        followers=followers,
        redis=redis,
        events=events,
        per_s=per_s,
        pacing="steady",
        workers=workers,
        own_ledgers=own,
        warm_up=10,
        held=100,
    )
    with measured(setup) as field:
        watched, followed = field.watched(), field.followed()
    kinds = {"Opened": "open", "Closed": "close"}
    published = {(kinds[e.kind], e.key): e.asked_ns for e in watched.published if e.kind in kinds}
    lags: list[tuple[int, float]] = []
    for seen in followed:
        for append in seen.appends:
            for _, key, event, verdict in append.receipts:
                if verdict in ("copied", "closed") and (event, key) in published:
                    asked = published[event, key]
                    lags.append((asked, (append.done_ns - asked) / 1e6))
    if not lags:
        raise RuntimeError("no copy was recorded at all")
    lags.sort()
    fifth = max(1, len(lags) // 5)
    first, last = lags[0][0], max(asked + lag * 1e6 for asked, lag in lags)
    begin, end = summary(lag for _, lag in lags[:fifth]), summary(lag for _, lag in lags[-fifth:])
    assert begin is not None
    assert end is not None
    return Sustained(
        asked_per_s=per_s * followers,
        recorded_per_s=round(len(lags) / ((last - first) / 1e9), 1),
        copies=len(lags),
        asked=len(published) * followers,
        lag_begin_ms=begin.p50,
        lag_end_ms=end.p50,
        workers=workers,
        own_ledgers=own,
    )


def measure(step: Step, *, seconds: float = SECONDS, rates: tuple[float, ...] = RATES, tiny: bool = False) -> dict[str, Any]:
    """Measure every rate."""
    rows = []
    with redis_server() as redis:
        if not redis:
            return {"note": NO_REDIS, "rows": []}
        for rate in rates:
            step(f"sustained: {rate:g} events a second at {FOLLOWERS} followers")
            followers, seconds = (4, 1.0) if tiny else (FOLLOWERS, seconds)
            rows.append(sustained(redis, rate, seconds=seconds, followers=followers, workers=WORKERS, own=True))
    return {"rows": rows}


def tables(result: dict[str, Any]) -> str:
    """Return the result in Markdown."""
    if result.get("note"):
        return f"Not measured: {result['note']}.\n"
    head = [
        "copies asked for a second",
        "recorded a second",
        "copies recorded",
        "lag at the beginning",
        "lag at the end",
        "keeps up",
    ]
    rows = [
        [
            f"{row.asked_per_s:,.0f}",
            f"{row.recorded_per_s:,.0f}",
            f"{row.copies:,} of {row.asked:,}",
            f"{shown(row.lag_begin_ms)} ms",
            f"{shown(row.lag_end_ms)} ms",
            "no" if row.grows else "yes",
        ]
        for row in result["rows"]
    ]
    return table(head, rows) + "\n"


def main() -> None:
    """Measure alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--rates", type=float, nargs="*", default=list(RATES))
    counts(parser)
    options = parser.parse_args()
    with Bar("sustained", len(options.rates)) as step:
        result = measure(step, seconds=options.seconds, rates=tuple(options.rates), tiny=options.tiny)
    keep("sustained", result)
    say(tables(result))


if __name__ == "__main__":
    main()
