"""Where Expert Advisors dial in: one listener for all accounts, each let in by its own secret."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from copier.clock import Clock
from copier.errors import ProtocolError
from copier.gateways.bridge_greeting import HELLO_BYTES_MAX, greet, read_hello, refuse
from copier.gateways.bridge_link import BridgeLink
from copier.gateways.carriers import Link, LinkLost
from copier.wire import FRAME_BYTES_MAX

log = logging.getLogger(__name__)

GREETING_S = 5.0
STRANGERS_MAX = 64
"""So many may be dialling in at the same moment; more are hung up on."""


class Call(Link, Protocol):
    """A connection somebody made to here."""

    frame_bytes_max: int
    """A longer frame breaks the link."""


Attend = Callable[[Call, str], Awaitable[None]]
"""What to do with a new connection, and what to call who is there in the log."""


class Listener(Protocol):
    """A place on which connections arrive."""

    @property
    def place(self) -> str:
        """The place in words, for messages."""
        ...

    async def open(self, attend: Attend) -> None:
        """Listen, and let each connection be attended; raise `OSError` where the place is taken."""
        ...

    async def close(self) -> None:
        """Listen no more; connections live on with whoever has them."""
        ...


class BridgeHub:
    """Listens while anybody waits for an Expert Advisor: they can only dial, never listen."""

    def __init__(self, listener: Listener, *, clock: Clock) -> None:
        self.listener = listener
        self._clock = clock
        self._seats: dict[str, Seat] = {}
        self._listening = False
        self._turn = asyncio.Lock()
        self._strangers: set[asyncio.Task[None]] = set()

    def carrier(self, account: str, secret: str, *, silence_s: float = 20.0) -> "HubCarrier":
        """Return the way to one account's Expert Advisor; `silence_s` without a word from it breaks a link."""
        return HubCarrier(self, Seat(account, secret, silence_s))

    async def take_seat(self, seat: "Seat") -> None:
        """Let an account's Expert Advisor in from now on; raise `LinkLost` where the place is taken."""
        held = self._seats.setdefault(seat.account, seat)
        if held is not seat:
            raise LinkLost(f"another gateway waits for {seat.account} already")
        async with self._turn:
            if self._listening:
                return
            try:
                await self.listener.open(self._attend)
            except OSError as error:
                raise LinkLost(f"cannot listen on {self.listener.place}: {error}") from error
            self._listening = True

    async def leave_seat(self, seat: "Seat") -> None:
        """Let it in no more; the last one to leave ends the listening."""
        if self._seats.get(seat.account) is seat:
            del self._seats[seat.account]
        await seat.clear()
        async with self._turn:
            if self._seats or not self._listening:
                return
            self._listening = False
            await self.listener.close()
            for task in tuple(self._strangers):
                task.cancel()
            await asyncio.gather(*self._strangers, return_exceptions=True)

    async def _attend(self, link: Call, who: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._strangers) >= STRANGERS_MAX:
            log.warning("%s was not let in: %d others are greeting just now", who, STRANGERS_MAX)
            await link.close()
            return
        self._strangers.add(task)
        link.frame_bytes_max = HELLO_BYTES_MAX
        try:
            async with asyncio.timeout(GREETING_S):
                await self._welcome(link)
        except (LinkLost, ProtocolError, TimeoutError) as error:
            log.warning("%s was not let in: %s", who, str(error) or "the greeting took too long")
            await link.close()
        except asyncio.CancelledError:
            await link.close()
        finally:
            self._strangers.discard(task)

    async def _welcome(self, link: Call) -> None:
        hello = read_hello(await link.receive())
        seat = self._seats.get(hello.account)
        if seat is None:
            either = "another worker has it just now, or login and server in the engine's settings are others"
            raise await refuse(link, f"nobody here waits for {hello.account}: {either}")
        if seat.is_taken:
            raise await refuse(link, f"another Expert Advisor is connected for {hello.account}: one terminal per account")
        life = await greet(link, hello, seat.account, seat.secret, self._clock)
        if self._seats.get(seat.account) is not seat:
            raise LinkLost(f"nobody waits for {seat.account} any more")
        link.frame_bytes_max = FRAME_BYTES_MAX
        log.info("%s: %s on %s build %d dialled in", seat.account, hello.program, hello.platform, hello.build)
        await seat.offer(BridgeLink(link, life, silence_s=seat.silence_s))


class Seat:
    """One account's place at the hub: the link that came and nobody has taken yet, and the one in use."""

    def __init__(self, account: str, secret: str, silence_s: float) -> None:
        self.account = account
        self.secret = secret
        self.silence_s = silence_s
        self._came = asyncio.Event()
        self._waiting: BridgeLink | None = None
        self._used: BridgeLink | None = None

    @property
    def is_taken(self) -> bool:
        """Whether the account's link is in use, by an Expert Advisor that shows itself or has an answer to give."""
        return self._used is not None and not self._used.over and not self._used.stale

    async def offer(self, link: BridgeLink) -> None:
        """Keep a link until it is taken; of two, the newer. A link in use that nobody speaks on is broken for it."""
        older, self._waiting = self._waiting, link
        self._came.set()
        for each in (older, self._used):
            if each is not None and not each.over:
                await each.close()

    async def take(self) -> BridgeLink:
        """Wait for a link."""
        while self._waiting is None:
            self._came.clear()
            await self._came.wait()
        self._used, self._waiting = self._waiting, None
        return self._used

    async def clear(self) -> None:
        """Break what nobody has taken."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            await waiting.close()


class HubCarrier:
    """Makes links out of the connections one account's Expert Advisor makes."""

    def __init__(self, hub: BridgeHub, seat: Seat) -> None:
        self.seat = seat
        self._hub = hub

    async def open(self) -> None:
        """Let the Expert Advisor in from now on; raise `LinkLost` where the place is taken."""
        await self._hub.take_seat(self.seat)

    async def connect(self) -> BridgeLink:
        """Wait until the Expert Advisor dials in."""
        await self.open()
        return await self.seat.take()

    async def close(self) -> None:
        """Let nobody in any more."""
        with contextlib.suppress(OSError):
            await self._hub.leave_seat(self.seat)
