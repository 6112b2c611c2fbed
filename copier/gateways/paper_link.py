"""The way between a client and a paper server: requests that are late, lost or never answered, and lists that lag."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar, assert_never

from copier.errors import GatewayError, OutcomeUnknown, Rejected
from copier.gateways.paper_faults import Answer, Fault, Faults
from copier.gateways.paper_server import PaperServer
from copier.model import Permit, Position

T = TypeVar("T")


class FarEnd(NamedTuple):
    """What a request meets at the other end."""

    admit: Callable[[Permit], None]
    """Raises `Rejected` for an old token, a late frame, and whatever else stops a request before the broker."""
    is_up: Callable[[], bool]
    label: str


class Call(Generic[T]):
    """One trading request on its way: to the far end, to the broker, and back, or not."""

    def __init__(
        self, far_end: FarEnd, permit: Permit, act: Callable[[Fault], T], fault: Fault, *, latency_s: float = 0.0
    ) -> None:
        """`act` lets the broker execute; `latency_s` is the ordinary time there and back."""
        self._far_end = far_end
        self._permit = permit
        self._act = act
        self._fault = fault
        self._half_s = latency_s / 2
        self._loop = asyncio.get_running_loop()
        self._reply: asyncio.Future[T] = self._loop.create_future()

    async def answer(self, timeout_s: float) -> T:
        """Send, and wait for the answer or the deadline. What has left goes on even if the caller does not wait."""
        deadline = self._loop.call_later(timeout_s, self.fail, f"no answer within {timeout_s:g} s")
        try:
            self._after(self._fault.send_delay_s + self._half_s, self._arrive)
            return await self._reply
        finally:
            deadline.cancel()

    def fail(self, why: str) -> None:
        """End the wait: nobody knows what becomes of the request."""
        self._give(OutcomeUnknown(why, account=self._far_end.label))

    def _after(self, delay_s: float, step: Callable[..., None], *args: object) -> None:
        if delay_s:
            self._loop.call_later(delay_s, step, *args)
        else:
            step(*args)

    def _arrive(self) -> None:
        try:
            self._far_end.admit(self._permit)
        except Rejected as error:
            self._answer(error)
        else:
            self._after(self._fault.execute_delay_s, self._execute)

    def _execute(self) -> None:
        if not self._fault.executed or not self._far_end.is_up():
            return
        outcome = self._once()
        if self._fault.twice:
            self._once()
        self._answer(outcome)

    def _once(self) -> T | GatewayError:
        try:
            return self._act(self._fault)
        except GatewayError as error:
            return error

    def _answer(self, outcome: T | GatewayError) -> None:
        match self._fault.answer:
            case Answer.GIVEN:
                self._after(self._fault.answer_delay_s + self._half_s, self._give, outcome)
            case Answer.LOST:
                self.fail("the connection broke after the request had left")
            case Answer.NEVER:
                pass
            case _ as never:
                assert_never(never)

    def _give(self, outcome: T | GatewayError) -> None:
        if self._reply.done():
            return
        if isinstance(outcome, GatewayError):
            self._reply.set_exception(outcome)
            self._reply.exception()  # A caller that was killed never asks, and that is nobody's mistake.
        else:
            self._reply.set_result(outcome)


class LaggingList:
    """An account's positions as a terminal lists them: as they are, or as they were `visibility_lag_ms` ago."""

    def __init__(self, server: PaperServer, login: int, faults: Faults) -> None:
        self._server = server
        self._login = login
        self._faults = faults
        self._past: deque[tuple[int, tuple[Position, ...]]] = deque()

    def start(self) -> None:
        """Follow the knob."""
        self._faults.lag_listeners.append(self._lag_set)
        self._lag_set()

    def stop(self) -> None:
        """Forget what was."""
        self._faults.lag_listeners.remove(self._lag_set)
        self._past.clear()

    def changed(self) -> int:
        """Note a change of the account and return the milliseconds until it is listed."""
        lag_ms = self._faults.visibility_lag_ms
        if lag_ms:
            self._past.append((self._server.clock.now_ms(), self._server.positions(self._login)))
        return lag_ms

    def positions(self) -> tuple[Position, ...]:
        """Return what the terminal lists."""
        lag_ms = self._faults.visibility_lag_ms
        if not lag_ms or not self._past:
            return self._server.positions(self._login)
        now_ms = self._server.clock.now_ms()
        while len(self._past) > 1 and self._past[1][0] + lag_ms <= now_ms:
            self._past.popleft()
        return self._past[0][1]

    def _lag_set(self) -> None:
        self._past.clear()
        if self._faults.visibility_lag_ms:
            self._past.append((0, self._server.positions(self._login)))
