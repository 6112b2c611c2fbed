"""A virtual loop that shuffles what is ready by a seed, and processes on it that die or freeze between any two steps.

A task belongs to the process it was started in. A dead process takes no step any more: no except, no finally runs, as with
kill -9. What has already left for a broker goes on at the far end.
"""

import asyncio
import contextvars
import heapq
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from copier.clock import VirtualLoop
from copier.gateways.paper_link import Call

T = TypeVar("T")
_Missed = tuple[Callable[..., object], tuple[Any, ...], contextvars.Context]


ROUNDS_MAX = 20_000
"""More turns of the loop without time going on are a loop without a pause."""


class Livelock(AssertionError):
    """Something runs for ever without waiting."""


class Process:
    """What `run` starts and everything that starts; `kill_at` is the step before which it dies, counted from 1."""

    def __init__(self, name: str, *, kill_at: int = 0, on_death: Callable[[], None] | None = None) -> None:
        self.name = name
        self.steps = 0
        self.alive = True
        self.kill_at = kill_at
        self.on_death = on_death
        self._missed: list[_Missed] = []

    def run(self, start: Callable[[], T]) -> T:
        """Call `start`; the tasks it creates are part of this process."""
        context = contextvars.copy_context()
        context.run(_process.set, self)
        loop = asyncio.get_running_loop()
        if isinstance(loop, ShufflingLoop):
            loop.processes.append(self)
        return context.run(start)

    def stop(self) -> None:
        """Take no further step: killed, or frozen until `resume`."""
        self.alive = False

    def resume(self) -> None:
        """Take every step that was missed."""
        self.alive, self.kill_at = True, 0
        missed, self._missed = self._missed, []
        loop = asyncio.get_running_loop()
        for callback, args, context in missed:
            loop.call_soon(callback, *args, context=context)

    def step(self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context) -> None:
        """Take one step, or miss it."""
        if self.alive:
            self.steps += 1
            if self.steps == self.kill_at:
                self.alive = False
                if self.on_death is not None:
                    contextvars.Context().run(self.on_death)
        if self.alive:
            callback(*args)
        else:
            self._missed.append((callback, args, context))


_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class ShufflingLoop(VirtualLoop):
    """A virtual loop in which everything that is ready at one moment runs in an order of the seed's choosing."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._rounds = 0
        self.processes: list[Process] = []

    def revive(self) -> None:
        """Let every process take its steps again, so that what ends the loop reaches its tasks."""
        for process in self.processes:
            process.resume()

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        callback, args = _guarded(callback, args, context)
        return super().call_soon(callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        callback, args = _guarded(callback, args, context)
        return super().call_at(when, callback, *args, context=context)

    def _run_once(self) -> None:
        ready: Any = getattr(self, "_ready")  # noqa: B009 - private to asyncio, so unknown to its stubs
        timers: Any = getattr(self, "_scheduled")  # noqa: B009
        while timers and (timers[0].cancelled() or timers[0].when() <= self._now + self._resolution or not ready):
            handle = heapq.heappop(timers)
            handle._scheduled = False
            if handle.cancelled():
                self._timer_cancelled_count -= 1
                continue
            if handle.when() > self._now:
                self._now, self._rounds = handle.when(), 0
            ready.append(handle)
        self._rounds += 1
        if self._rounds > ROUNDS_MAX:
            self._rounds = 0
            busy = [str(handle) for handle in list(ready)[:3]]
            self.revive()
            raise Livelock(f"nothing waits for anything at {self._now:.3f} s: {busy}")
        if len(ready) > 1:
            shuffled = list(ready)
            self._random.shuffle(shuffled)
            ready.clear()
            ready.extend(shuffled)
        super()._run_once()


def _guarded(callback: Any, args: tuple[Any, ...], context: contextvars.Context | None) -> tuple[Any, tuple[Any, ...]]:
    context = context or contextvars.copy_context()
    process = context.get(_process)
    left_for_broker = isinstance(getattr(callback, "__self__", None), Call)
    if process is None or left_for_broker or getattr(callback, "__func__", None) is Process.step:
        return callback, args
    return process.step, (callback, args, context)


def run_shuffled(seed: int, main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end in virtual time, everything simultaneous in the order of a seed."""

    def loop() -> ShufflingLoop:
        made = ShufflingLoop(seed)
        made.set_exception_handler(lambda _loop, _context: None)  # What dead tasks leave behind is nobody's mistake.
        return made

    async def to_its_end() -> T:
        try:
            return await main
        except BaseException:
            running = asyncio.get_running_loop()
            if isinstance(running, ShufflingLoop):
                running.revive()
            raise

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(to_its_end())
