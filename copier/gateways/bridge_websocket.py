"""Frames as the messages of a WebSocket, on the same port as everything else."""

import asyncio
import contextlib

from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from copier.gateways.bridge_greeting import HELLO_BYTES_MAX
from copier.gateways.carriers import LinkLost, NotSent, close_stream
from copier.wire import FRAME_BYTES_MAX

_CHUNK = 65_536
_LAST_WORD_S = 1.0
_GREETING_BYTES_MAX = 4 * HELLO_BYTES_MAX


class WebSocketLink:
    """One WebSocket; pings are answered here, a message is a frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.frame_bytes_max = HELLO_BYTES_MAX
        # A browser says where its page came from, an Expert Advisor nothing: pages have no business here.
        self._protocol = ServerProtocol(origins=[None], max_size=FRAME_BYTES_MAX)
        self._reader = reader
        self._writer = writer
        self._part = bytearray()
        self._come: list[bytes] = []
        self._taken = 0

    async def upgrade(self, head: bytes) -> bool:
        """Answer the request for a WebSocket; false where it was none, or not for here."""
        self._protocol.receive_data(head)
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                response = self._protocol.accept(event) if event.path == "/bridge" else self._protocol.reject(404, "Not here\n")
                self._protocol.send_response(response)
        await self._flush()
        return self._protocol.state is State.OPEN

    async def send(self, frame: bytes) -> None:
        """Send one frame as a message."""
        if self._protocol.state is not State.OPEN or self._writer.is_closing():
            raise NotSent("the WebSocket is closed")
        self._protocol.send_text(frame)
        await self._flush()

    async def receive(self) -> bytes:
        """Return the next message."""
        while not self._come:
            try:
                more = await self._reader.read(_CHUNK)
            except OSError as error:
                raise LinkLost(f"the connection broke: {error}") from error
            if not more:
                raise LinkLost("the far end closed the connection")
            self._taken += len(more)
            if self.frame_bytes_max <= HELLO_BYTES_MAX and self._taken > _GREETING_BYTES_MAX:
                raise LinkLost(f"the far end sent more than {_GREETING_BYTES_MAX} bytes before it was let in")
            self._protocol.receive_data(more)
            for event in self._protocol.events_received():
                if isinstance(event, Frame):
                    self._hear(event)
            await self._flush()
            if self._protocol.state is not State.OPEN and not self._come:
                raise LinkLost(f"the WebSocket was closed: {self._why()}")
        frame = self._come.pop(0)
        if len(frame) > self.frame_bytes_max:
            raise LinkLost(f"the far end sent a frame of more than {self.frame_bytes_max} bytes")
        return frame

    def _hear(self, frame: Frame) -> None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return
        self._part += frame.data
        if frame.fin:
            message = bytes(self._part).strip()
            self._part.clear()
            if message:
                self._come.append(message)

    def _why(self) -> str:
        reason = self._protocol.close_reason or str(self._protocol.parser_exc or "")
        return f"{self._protocol.close_code} {reason}".strip()

    async def _flush(self) -> None:
        try:
            for data in self._protocol.data_to_send():
                if data:
                    self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise LinkLost(f"the connection broke while a frame was sent: {error}") from error

    def overdue(self) -> None:
        """Keep the connection: the terminal may only be slow."""

    async def close(self) -> None:
        """Say goodbye and close both directions."""
        with contextlib.suppress(LinkLost, InvalidState, TimeoutError):
            async with asyncio.timeout(_LAST_WORD_S):
                if self._protocol.state is State.OPEN:
                    self._protocol.send_close(1000)
                    await self._flush()
        await close_stream(self._writer)
