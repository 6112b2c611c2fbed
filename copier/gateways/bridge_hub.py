"""Where Expert Advisors dial in over TCP: one listener for all accounts, each let in by its own secret."""

import asyncio
import contextlib
import logging

from copier.clock import Clock
from copier.errors import ProtocolError
from copier.gateways.bridge_greeting import greet, read_hello, refuse
from copier.gateways.bridge_link import BridgeLink
from copier.gateways.carriers import LinkLost, StreamLink
from copier.wire import FRAME_BYTES_MAX

log = logging.getLogger(__name__)

GREETING_S = 5.0
STRANGERS_MAX = 64
"""So many may be dialling in at the same moment; more are hung up on."""


class BridgeHub:
    """Listens while anybody waits for an Expert Advisor; MQL's sockets can only dial, never listen."""

    def __init__(self, host: str = "127.0.0.1", port: int = 17500, *, clock: Clock) -> None:
        """With port 0 the system chooses one; `port` tells it once the hub listens."""
        self.host = host
        self.port = port
        self._clock = clock
        self._seats: dict[str, Seat] = {}
        self._server: asyncio.Server | None = None
        self._strangers: set[asyncio.Task[None]] = set()

    def carrier(self, account: str, secret: str, *, silence_s: float = 20.0) -> "TcpCarrier":
        """Return the way to one account's Expert Advisor; `silence_s` without a word from it breaks a link."""
        return TcpCarrier(self, Seat(account, secret, silence_s))

    async def take_seat(self, seat: "Seat") -> None:
        """Let an account's Expert Advisor in from now on; raise `LinkLost` where the port is taken."""
        held = self._seats.setdefault(seat.account, seat)
        if held is not seat:
            raise LinkLost(f"another gateway waits for {seat.account} already")
        if self._server is None:
            try:
                self._server = await asyncio.start_server(self._attend, self.host, self.port, limit=FRAME_BYTES_MAX + 2)
            except OSError as error:
                raise LinkLost(f"cannot listen on {self.host}:{self.port}: {error}") from error
            self.port = self._server.sockets[0].getsockname()[1]

    async def leave_seat(self, seat: "Seat") -> None:
        """Let it in no more; the last one to leave ends the listening."""
        if self._seats.get(seat.account) is seat:
            del self._seats[seat.account]
        await seat.clear()
        if not self._seats and self._server is not None:
            server, self._server = self._server, None
            server.close()
            for task in tuple(self._strangers):
                task.cancel()
            await asyncio.gather(*self._strangers, return_exceptions=True)

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        link = StreamLink(reader, writer)
        if len(self._strangers) >= STRANGERS_MAX:
            await link.close()
            return
        self._strangers.add(task)
        try:
            async with asyncio.timeout(GREETING_S):
                await self._welcome(link)
        except (LinkLost, ProtocolError, TimeoutError) as error:
            log.warning("%s was not let in: %s", writer.get_extra_info("peername"), error or "the greeting took too long")
            await link.close()
        except asyncio.CancelledError:
            await link.close()
        finally:
            self._strangers.discard(task)

    async def _welcome(self, link: StreamLink) -> None:
        hello = read_hello(await link.receive())
        seat = self._seats.get(hello.account)
        if seat is None:
            raise await refuse(link, f"nobody here waits for {hello.account}: check login and server in the engine's settings")
        if seat.is_taken:
            raise await refuse(link, f"another Expert Advisor is connected for {hello.account}: one terminal per account")
        life = await greet(link, hello, seat.account, seat.secret, self._clock)
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
        """Whether the account's link is in use."""
        return self._used is not None and not self._used.over

    async def offer(self, link: BridgeLink) -> None:
        """Keep a link until it is taken; of two, the newer."""
        older, self._waiting = self._waiting, link
        self._came.set()
        if older is not None:
            await older.close()

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


class TcpCarrier:
    """Makes links out of the connections one account's Expert Advisor makes."""

    def __init__(self, hub: BridgeHub, seat: Seat) -> None:
        self.seat = seat
        self._hub = hub

    async def connect(self) -> BridgeLink:
        """Wait until the Expert Advisor dials in."""
        await self._hub.take_seat(self.seat)
        return await self.seat.take()

    async def close(self) -> None:
        """Let nobody in any more."""
        with contextlib.suppress(OSError):
            await self._hub.leave_seat(self.seat)
