"""A link to an Expert Advisor that was greeted: names commands so that none is executed twice, and notices silence."""

import asyncio
import contextlib

from copier.gateways.carriers import Link, LinkLost
from copier.wire import TRADING, decode_request

PING = b'{"ping":1}'
PING_S = 2.0
SEND_S = 5.0
"""A frame that cannot be handed over for so long has nobody who reads it."""
STALE_S = 6.0
"""An Expert Advisor that has nothing to do says something every 2 s: after so long another one may take its place."""
_UNASKED = b'{"push"'


class BridgeLink:
    """Frames to and from an Expert Advisor over another link, until that breaks or nothing is heard for too long."""

    def __init__(self, link: Link, life: str, *, silence_s: float) -> None:
        """`life` is unique to this link; an Expert Advisor that trades is silent, so allow for a whole call and more."""
        self._link = link
        self._life = life
        self._silence_s = silence_s
        self._pinger = asyncio.create_task(self._ping(), name=f"ping {life}")
        self._heard = asyncio.get_running_loop().time()
        self._asked = False
        self.over = False

    @property
    def stale(self) -> bool:
        """Whether the Expert Advisor owes no answer and yet says nothing."""
        return not self._asked and asyncio.get_running_loop().time() - self._heard > STALE_S

    async def send(self, frame: bytes) -> None:
        """Send one frame; a trading one gets a name that the Expert Advisor remembers across restarts."""
        self._asked = True
        await self._send(self._named(frame))

    async def _send(self, frame: bytes) -> None:
        try:
            async with asyncio.timeout(SEND_S):
                await self._link.send(frame)
        except TimeoutError:
            self.over = True
            await self._link.close()
            raise LinkLost(f"the Expert Advisor has read nothing for {SEND_S:g} s") from None

    def _named(self, frame: bytes) -> bytes:
        request = decode_request(frame)
        if request.op not in TRADING:
            return frame
        return b'{"command":"%s.%d",' % (self._life.encode(), request.id) + frame[1:]

    async def receive(self) -> bytes:
        """Return the next frame; raise `LinkLost` when no more will come, or none has for too long."""
        try:
            async with asyncio.timeout(self._silence_s):
                frame = await self._link.receive()
        except TimeoutError:
            self.over = True
            raise LinkLost(f"nothing was heard from the Expert Advisor for {self._silence_s:g} s") from None
        except LinkLost:
            self.over = True
            raise
        self._heard = asyncio.get_running_loop().time()
        self._asked = self._asked and frame.startswith(_UNASKED)
        return frame

    def overdue(self) -> None:
        """Keep the connection: the terminal may only be slow."""
        self._link.overdue()

    async def close(self) -> None:
        """Break the link."""
        self.over = True
        self._pinger.cancel()
        await asyncio.gather(self._pinger, return_exceptions=True)
        await self._link.close()

    async def _ping(self) -> None:
        with contextlib.suppress(LinkLost):
            while True:
                await asyncio.sleep(PING_S)
                await self._send(PING)
