"""A link without any medium: frames handed to a far end in this very process, which serves any gateway."""

import asyncio
from collections.abc import Callable
from typing import Any

from copier.errors import GatewayError
from copier.gateways.carriers import LinkLost, NotSent
from copier.gateways.paper import PaperGateway
from copier.gateways.serving import FarEnd
from copier.wire import CHANGED, encode_push


class DirectLink:
    """One life of a connection to a `FarEnd` whose gateway's operations are coroutines."""

    def __init__(self, far_end: FarEnd) -> None:
        self.far_end = far_end
        self.sent: list[bytes] = []
        self.overdue_calls = 0
        self.loses: Callable[[bytes], bool] = lambda frame: False
        """Frames that never arrive."""
        self.over = False
        self._frames: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._answers: set[asyncio.Task[None]] = set()

    async def send(self, frame: bytes) -> None:
        if self.over:
            raise NotSent("the link is cut")
        self.sent.append(frame)
        if not self.loses(frame):
            task = asyncio.create_task(self._answer(frame))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)

    async def _answer(self, frame: bytes) -> None:
        self._frames.put_nowait(await self.far_end.answer_async(frame))

    def say(self, frame: bytes) -> None:
        """Let the far end say something unasked."""
        self._frames.put_nowait(frame)

    def push(self) -> None:
        """Let the far end say that something changed."""
        self.say(encode_push(CHANGED))

    async def receive(self) -> bytes:
        frame = await self._frames.get()
        if frame is None:
            raise LinkLost("the link was cut")
        return frame

    def overdue(self) -> None:
        self.overdue_calls += 1

    def cut(self) -> None:
        """Break the link."""
        if not self.over:
            self.over = True
            self._frames.put_nowait(None)

    async def close(self) -> None:
        self.cut()
        for task in tuple(self._answers):
            task.cancel()
        await asyncio.gather(*self._answers, return_exceptions=True)


class DirectCarrier:
    """Makes links to one far end; `refuses` is how many attempts fail first."""

    def __init__(self, far_end: FarEnd, gateway: Any = None) -> None:
        self.far_end = far_end
        self.links: list[DirectLink] = []
        self.attempts: list[float] = []
        self.refuses = 0
        if gateway is not None and gateway.wakes is not None:
            gateway.wakes.on_change(self._changed)

    @property
    def link(self) -> DirectLink:
        return self.links[-1]

    async def connect(self) -> DirectLink:
        self.attempts.append(asyncio.get_running_loop().time())
        if self.refuses:
            self.refuses -= 1
            raise LinkLost("nobody is there")
        self.links.append(DirectLink(self.far_end))
        return self.link

    async def close(self) -> None:
        pass

    def _changed(self) -> None:
        if self.links and not self.link.over:
            self.link.push()


class PaperCarrier(DirectCarrier):
    """Links to a paper gateway, which is opened and closed with them."""

    def __init__(self, behind: PaperGateway, far_end: FarEnd) -> None:
        super().__init__(far_end, behind)
        self._behind = behind

    async def connect(self) -> DirectLink:
        try:
            await self._behind.open()
        except GatewayError as error:
            raise LinkLost(str(error)) from error
        return await super().connect()
