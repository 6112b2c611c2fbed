"""Processes on one virtual loop that can be killed, or frozen and thawed, between any two steps.

A task belongs to the process whose context it was started in. A dead process takes no step any more: no except, no finally
runs, as with kill -9. What has already left for a broker goes on at the far end.
"""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from copier.clock import VirtualLoop
from copier.gateways.paper_link import Call

T = TypeVar("T")


class Process:
    """Everything started by `run` and what that starts; `kill_at` is the step before which it dies."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.steps = 0
        self.alive = True
        self._kill_at = kill_at
        self._missed: list[Step] = []

    def run(self, start: Callable[[], T]) -> T:
        """Call `start`; the tasks it creates are part of this process."""
        context = contextvars.copy_context()
        context.run(_process.set, self)
        return context.run(start)

    def stop(self) -> None:
        """Take no further step: killed, or frozen until `resume`."""
        self.alive = False

    def stop_in(self, steps: int) -> None:
        """Stop before the step after so many more."""
        self._kill_at = self.steps + steps

    def resume(self) -> None:
        """Take every step that was missed, in order."""
        self.alive, self._kill_at = True, None
        missed, self._missed = self._missed, []
        for step in missed:
            asyncio.get_running_loop().call_soon(step, context=step.context)

    def takes(self, step: "Step") -> bool:
        """Count a step; return whether it is to be taken now."""
        self.steps += 1
        if self.steps == self._kill_at:
            self.alive = False
        if not self.alive:
            self._missed.append(step)
        return self.alive


class Step:
    """One callback of a process."""

    def __init__(self, process: Process, callback: Any, args: tuple[Any, ...], context: contextvars.Context) -> None:
        self.context = context
        self.handle: asyncio.Handle | None = None
        self._process = process
        self._callback = callback
        self._args = args

    def __call__(self) -> None:
        if self._process.takes(self) and self.handle is not None and not self.handle.cancelled():
            self._callback(*self._args)


_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class MortalLoop(VirtualLoop):
    """A virtual loop whose processes can be stopped one by one."""

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:
        step = _step(callback, args, context)
        if step is None:
            return super().call_soon(callback, *args, context=context)
        step.handle = super().call_soon(step, context=step.context)
        return step.handle

    def call_at(self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.TimerHandle:
        step = _step(callback, args, context)
        if step is None:
            return super().call_at(when, callback, *args, context=context)
        handle = super().call_at(when, step, context=step.context)
        step.handle = handle
        return handle


def _step(callback: Any, args: tuple[Any, ...], context: contextvars.Context | None) -> Step | None:
    context = context or contextvars.copy_context()
    process = context.get(_process)
    left_for_broker = isinstance(getattr(callback, "__self__", None), Call)
    if process is None or left_for_broker or isinstance(callback, Step):
        return None
    return Step(process, callback, args, context)


def run_mortal(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end in virtual time, on a loop whose processes can be killed."""
    with asyncio.Runner(loop_factory=MortalLoop) as runner:
        return runner.run(main)
