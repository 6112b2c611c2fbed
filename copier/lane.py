"""One follower's short way: what is simple and certain leaves at once, planned on what was read beforehand.

It does nothing that the follower's own turn would not do, and only while that turn rests or lets it go first: a new position on
an account that keeps tickets, or the whole close of one, with nothing of unknown outcome anywhere. The rest is the turn's.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from copier.errors import CopierError, Fenced, StoreError
from copier.link import LegState, Link, LinkName, LinkState
from copier.model import ZERO, MarginMode
from copier.opens import NOTHING_READ, JustRead, Opens
from copier.orders import NotDone
from copier.policy import Mode
from copier.reconcile import repairs

if TYPE_CHECKING:
    from copier.follower import Follower

log = logging.getLogger(__name__)


class Flight(msgspec.Struct, kw_only=True):
    """One order that may leave as soon as it is durable."""

    name: LinkName
    fly: Callable[[], Awaitable[None]]
    withdraw: Callable[[], None]
    """Wants it again, where it could not be made durable."""


class Lane:
    """Prepares and flies one follower's simple orders."""

    def __init__(self, follower: "Follower", opens: Opens) -> None:
        self._follower = follower
        self._opens = opens
        self._flying: dict[LinkName, asyncio.Task[None] | None] = {}
        self._landed = asyncio.Event()

    async def landed(self) -> None:
        """Return once nothing is in the air; whoever waits here keeps what is new on the ground."""
        while self._flying:
            self._landed.clear()
            await self._landed.wait()

    def abandon(self) -> None:
        """Wait for no answer any more: to whoever is next these orders are unknown."""
        for task in self._flying.values():
            if task is not None:
                task.cancel()

    def prepare(self, just_read: JustRead = NOTHING_READ) -> list[Flight]:
        """Return what is ready to be journaled and to leave, each already part of what is believed. Never waits."""
        follower = self._follower
        memory = follower.memory
        if not memory.dirty or not self._certain():
            return []
        flights = []
        for name in list(memory.dirty):
            if name in self._flying or follower.put_off_until(name):
                continue
            link = memory.links[name]
            flight = self._open(link, just_read) if link.wanted_open else self._close(link)
            if flight is not None:
                memory.dirty.pop(name, None)
                memory.asked.pop(name, None)
                self._flying[name] = None
                flights.append(flight)
        if flights and not follower.step_ms:
            follower.step_ms = follower.clock.now_ms()
        return flights

    async def freshen(self) -> JustRead:
        """Read again what is too old for `prepare` to open on; return the prices that were read, for it alone."""
        memory = self._follower.memory
        if not self._certain():
            return NOTHING_READ
        return await self._opens.freshen([link for link in map(memory.links.__getitem__, memory.dirty) if self._is_new(link)])

    def _certain(self) -> bool:
        follower = self._follower
        if follower.standing.mode is MarginMode.NETTING or follower.standing.steered or not follower.orders.may_leave:
            return False
        return all(name in self._flying for name in follower.memory.uncertain)

    def _is_new(self, link: Link) -> bool:
        """Whether it is to be opened, and nothing of it ever was."""
        if not link.wanted_open or link.state is not LinkState.PENDING or link.legs or link.anchor or link.existing:
            return False
        return link.position.lots > 0 and self._follower.memory.relations[link.master].policy.mode is not Mode.FROZEN

    def _open(self, link: Link, just_read: JustRead) -> Flight | None:
        memory = self._follower.memory
        if not self._is_new(link):
            return None
        prepared = self._opens.prepare(link, just_read)
        if prepared is None:
            return None
        order = self._opens.begin(prepared)
        memory.believe(order.link)
        return Flight(
            name=link.name,
            fly=lambda: self._fly(link.name, self._opens.deliver(order)),
            withdraw=lambda: self._withdraw(link.name, lambda: self._opens.withdraw(order)),
        )

    def _close(self, link: Link) -> Flight | None:
        follower = self._follower
        legs = [leg for leg in link.legs if leg.living]
        if link.cut is not None or len(legs) != 1 or legs[0].state is not LegState.OPEN or follower.just_closed(legs[0]):
            return None
        leg = legs[0]
        cutting, cut, permit = follower.orders.begin_cut(link, leg, ZERO, None, None)
        follower.memory.believe(cutting)

        def undo() -> None:
            follower.memory.believe(link)
            follower.memory.dirty[link.name] = None

        async def send() -> bool:
            try:
                answered = await follower.orders.finish_cut(cutting, leg, cut, permit, None)
            except NotDone as refusal:
                follower.refused(link.name, refusal)
                return False
            except StoreError:
                undo()
                raise
            finally:
                follower.leveller.traded(link.symbol)
            follower.closed(answered, leg)
            return True

        return Flight(
            name=link.name,
            fly=lambda: self._fly(link.name, send()),
            withdraw=lambda: self._withdraw(link.name, undo),
        )

    async def _fly(self, name: LinkName, order: Awaitable[bool]) -> None:
        """See one order to its end, whatever that is."""
        follower = self._follower
        self._flying[name] = asyncio.current_task()
        try:
            if await order:
                follower.granted(name)
                self._look_after(name)
        except (Fenced, StoreError):
            pass  # It was wanted again; the turn meets the same trouble, and says so.
        except CopierError as error:
            log.warning("%s: %s", follower.name, error)
            follower.memory.dirty[name] = None
        except Exception:
            log.exception("%s: stopped in the middle; levelling anew", follower.name)
            follower.doubt()
        finally:
            self._land(name)

    def _look_after(self, name: LinkName) -> None:
        """Leave to the turn what else the link wants by now."""
        memory = self._follower.memory
        link = memory.links[name]
        relaid = link.laid_for is None and link.wanted_open and any(leg.state is LegState.OPEN for leg in link.legs)
        if relaid or repairs(link, self._follower.standing.spec(link.symbol), self._follower.standing.mode):
            memory.dirty[name] = None

    def _withdraw(self, name: LinkName, undo: Callable[[], None]) -> None:
        undo()
        self._land(name)

    def _land(self, name: LinkName) -> None:
        self._flying.pop(name, None)
        if not self._flying:
            self._landed.set()
            self._follower.touch_down()
