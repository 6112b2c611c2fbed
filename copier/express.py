"""All followers' short ways together: what one batch of entries asks for becomes one durable record, then leaves side by side.

Answers are journaled in groups as they come. Followers whose turn is needed are woken, and nothing here decides anything.
"""

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

from copier.errors import CopierError, Fenced, StoreError
from copier.follower import Follower
from copier.lane import Flight
from copier.ledger import Ledger
from copier.memory import Unsaved
from copier.opens import JustRead

log = logging.getLogger(__name__)

AHEAD_AT_ONCE = 20
"""After so many followers whatever else is ready has its turn."""


class Express:
    """Sends what followers have ready, for one worker."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._answered: dict[str, Follower] = {}
        self._recorder: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Wait for nothing that is under way."""
        for task in tuple(self._tasks):
            task.cancel()

    def send(self, followers: Iterable[Follower]) -> None:
        """Let every follower that can send what it has just been asked for; wake those that need their turn. Never waits."""
        ready: list[tuple[Follower, Flight]] = []
        for follower in followers:
            ready += [(follower, flight) for flight in follower.lane.prepare()] if follower.resting else []
            if not ready or ready[-1][0] is not follower or follower.memory.dirty:
                follower.look_if_pressing()
        if ready:
            # Taken in the same step: nobody else may hold what must be durable before these orders leave.
            found = {follower.name: follower for follower, _ in ready}
            self._start(self._depart_unless_refused(ready, [(follower, follower.memory.take()) for follower in found.values()]))

    async def send_first(self, follower: Follower, just_read: JustRead) -> bool:
        """Let a follower whose turn has come send all that is simple together, before it drives the rest one by one.

        Return, once it is durable and on its way, whether there was anything. Raise `StoreError` or `Fenced`: nothing was sent.
        """
        ready = [(follower, flight) for flight in follower.lane.prepare(just_read)]
        if ready:
            await self._depart(ready, [(follower, follower.memory.take())])
        return bool(ready)

    async def _depart_unless_refused(self, ready: list[tuple[Follower, Flight]], unsaved: list[tuple[Follower, Unsaved]]) -> None:
        try:
            await self._depart(ready, unsaved)
        except (StoreError, Fenced) as error:
            log.info("nothing of %d orders was sent: %s", len(ready), error)
            for follower, _ in ready:
                follower.look()  # Its turn meets the same trouble, and tells of it.

    async def _depart(self, ready: list[tuple[Follower, Flight]], unsaved: list[tuple[Follower, Unsaved]]) -> None:
        """Make all of it durable in one record, then let every order leave by itself."""
        try:
            await self._ledger.append([entry for _, each in unsaved for entry in each.entries])
        except (CopierError, asyncio.CancelledError):
            for follower, each in unsaved:
                follower.memory.give_back(each)
            for _, flight in ready:
                flight.withdraw()
            raise
        for follower, each in unsaved:
            follower.memory.durable(each)
        for follower, flight in ready:
            self._start(self._fly(follower, flight))

    async def _fly(self, follower: Follower, flight: Flight) -> None:
        await flight.fly()
        self._answered[follower.name] = follower
        if self._recorder is None:
            self._recorder = self._start(self._record())

    async def _record(self) -> None:
        """Journal answers, those of one moment together."""
        try:
            while self._answered:
                await asyncio.sleep(0)
                followers, self._answered = self._answered, {}
                unsaved = [(follower, follower.memory.take()) for follower in followers.values()]
                entries = [entry for _, each in unsaved for entry in each.entries]
                if not entries:
                    continue
                try:
                    await self._ledger.append(entries)
                except (CopierError, asyncio.CancelledError) as error:
                    for follower, each in unsaved:
                        follower.memory.give_back(each)
                        follower.look()  # Its turn appends again, and tells of the trouble.
                    if not isinstance(error, StoreError | Fenced):
                        raise
                    return
                for follower, each in unsaved:
                    follower.memory.durable(each)
        finally:
            self._recorder = None

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("an order's way ended in the middle", exc_info=task.exception())


class Ahead:
    """Keeps prices and accounts fresh for the next open of every resting follower."""

    def __init__(self, followers: Mapping[str, Follower], every_s: float) -> None:
        self._followers = followers
        self._every_s = every_s
        self._reading: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Read ahead for ever; an account that does not answer holds up no other."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                due = loop.time() + self._every_s
                for count, (name, follower) in enumerate(list(self._followers.items())):
                    if follower.resting and (name not in self._reading or self._reading[name].done()):
                        self._reading[name] = loop.create_task(self._read(follower))
                    if count % AHEAD_AT_ONCE == AHEAD_AT_ONCE - 1:
                        await asyncio.sleep(0)
                await asyncio.sleep(max(0.0, due - loop.time()))
        finally:
            for task in self._reading.values():
                task.cancel()

    async def _read(self, follower: Follower) -> None:
        await follower.read_ahead(round(self._every_s * 500))
