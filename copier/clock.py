"""Where time comes from: the machine's clock, or an event loop whose time is virtual."""

import asyncio
import heapq
import time
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """Wall time. Durations and pauses come from the running event loop, which may be virtual."""

    def now_ms(self) -> int:
        """Return UTC as milliseconds since 1970."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_ms(self) -> int:
        """Return UTC as milliseconds since 1970."""
        return time.time_ns() // 1_000_000


class LoopClock:
    """Wall time derived from the running loop's time: on a virtual loop nothing ever waits."""

    def __init__(self, epoch_ms: int = 0) -> None:
        self._epoch_ms = epoch_ms

    def now_ms(self) -> int:
        """Return the start of the virtual day plus the loop's time, in milliseconds since 1970."""
        return self._epoch_ms + round(asyncio.get_running_loop().time() * 1000)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer as soon as nothing is ready to run.

    Everything that is due at one moment is finished before time moves: a whole copy, from the master's change to the
    follower's answer, takes no time unless something in it waits. Threads and real sockets have no place on it.
    """

    _timer_cancelled_count: int

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._resolution: float = getattr(self, "_clock_resolution")  # noqa: B009 - private to asyncio

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._now

    def _run_once(self) -> None:
        ready: Any = getattr(self, "_ready")  # noqa: B009 - private to asyncio, so unknown to its stubs
        timers: Any = getattr(self, "_scheduled")  # noqa: B009
        # Timers that were cancelled stay on the heap: time must neither jump to them nor wait behind them.
        while timers and timers[0].cancelled():
            heapq.heappop(timers)._scheduled = False
            self._timer_cancelled_count -= 1
        # What is due within the loop's resolution runs now, so it must be that time by then, or it would wait for it for ever.
        if timers and timers[0].when() > self._now and (not ready or timers[0].when() < self._now + self._resolution):
            self._now = timers[0].when()
        super()._run_once()  # type: ignore[misc]


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end in real time, on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)
