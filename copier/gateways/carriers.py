"""How frames travel to a far end: a carrier makes links, a link carries frames until it breaks.

To add a way (a socket, a pipe, files, a WebSocket), write a `Carrier` whose `connect` returns a `Link`; where it ends in two
asyncio streams, `StreamLink` is the link. Calls, deadlines, reconnecting and outcomes are `RemoteGateway`'s affair.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from copier.errors import CopierError
from copier.wire import FRAME_BYTES_MAX

_SECRET_WORDS = ("PASSWORD", "SECRET", "TOKEN", "CREDENTIAL", "PRIVATE_KEY", "API_KEY")
_LINE_MAX = 2_000
_CHUNK = 65_536
_LAST_WORD_S = 1.0
"""How long a connection may take to carry what was said last."""
_LAST_BREATH_S = 0.5
"""How long a child may live after its end of the connection has closed. A signal to one just dying would take its exit code."""


class LinkLost(CopierError):
    """No frame will come any more, and one that was being sent may or may not have arrived."""


class NotSent(LinkLost):
    """The link is lost, and surely nothing of the frame left."""


class Link(Protocol):
    """One life of a connection."""

    async def send(self, frame: bytes) -> None:
        """Send one frame, given without its line end; raise `NotSent`, or `LinkLost` once part of it may have left."""
        ...

    async def receive(self) -> bytes:
        """Return the next frame; raise `LinkLost` when no more will come."""
        ...

    def overdue(self) -> None:
        """Hear that a call got no answer by its deadline: a process is killed, a connection may live on."""
        ...

    async def close(self) -> None:
        """Break the link, if it is not broken yet."""
        ...


class Carrier(Protocol):
    """A way to one account's far end."""

    async def connect(self) -> Link:
        """Return a new link, waiting for a far end that dials in by itself; raise `LinkLost` with what to mend."""
        ...

    async def close(self) -> None:
        """Stop listening, delete what lies about; links are closed by whoever has them."""
        ...


class StreamLink:
    """Frames as lines over a pair of asyncio streams; `frame_bytes_max` may be lowered: a stranger has little to say."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        come: bytes = b"",
    ) -> None:
        """`come` is what was read already."""
        self.frame_bytes_max = FRAME_BYTES_MAX
        self._reader = reader
        self._writer = writer
        self._come = bytearray(come)
        self._looked = 0

    async def send(self, frame: bytes) -> None:
        """Send one frame as a line."""
        if self._writer.is_closing():
            raise NotSent("the connection is closed")
        try:
            self._writer.write(frame + b"\n")
            await self._writer.drain()
        except OSError as error:
            raise LinkLost(f"the connection broke while a frame was sent: {error}") from error

    async def receive(self) -> bytes:
        """Return the next line that is not empty."""
        while True:
            end = self._come.find(b"\n", self._looked)
            if (end if end >= 0 else len(self._come)) > self.frame_bytes_max:
                raise LinkLost(f"the far end sent a frame of more than {self.frame_bytes_max} bytes")
            if end >= 0:
                frame = bytes(self._come[:end]).strip()
                del self._come[: end + 1]
                self._looked = 0
                if frame:
                    return frame
                continue
            self._looked = len(self._come)
            try:
                more = await self._reader.read(_CHUNK)
                if not more:
                    raise LinkLost("the far end closed the connection")
                self._come += await self._heard(more)
            except OSError as error:
                raise LinkLost(f"the connection broke: {error}") from error

    async def _heard(self, more: bytes) -> bytes:
        """Return what of the bytes that came belongs to frames."""
        return more

    def overdue(self) -> None:
        """Keep the connection: the far end may only be slow, and a late answer is worth a line in the log."""

    async def close(self) -> None:
        """Close both directions."""
        await close_stream(self._writer)


async def close_stream(writer: asyncio.StreamWriter) -> None:
    """Close a stream; a far end that does not read what was said last keeps nobody waiting for long."""
    writer.close()
    closed = asyncio.ensure_future(writer.wait_closed())
    try:
        await asyncio.wait({closed}, timeout=_LAST_WORD_S)
    finally:
        writer.transport.abort()
        await asyncio.gather(closed, return_exceptions=True)


class ChildCarrier:
    """A far end in a process of its own, over its standard streams; what it says on the third is logged."""

    def __init__(self, command: Sequence[str], *, report: Callable[[str], None], stop_s: float = 3.0) -> None:
        """`report` hears each line of the child's standard error; `stop_s` is how long it may take to leave."""
        self._command = tuple(command)
        self._report = report
        self._stop_s = stop_s

    async def connect(self) -> "ChildLink":
        """Start the process."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=FRAME_BYTES_MAX + 2,
                env=environment_without_secrets(os.environ),
                start_new_session=sys.platform != "win32",
                creationflags=_creation_flags(),
            )
        except OSError as error:
            raise LinkLost(f"{self._command[0]} cannot be started: {error}") from error
        return ChildLink(process, self._report, self._stop_s)

    async def close(self) -> None:
        """Nothing lies about."""


class ChildLink:
    """One life of a child process."""

    def __init__(self, process: asyncio.subprocess.Process, report: Callable[[str], None], stop_s: float) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self._stream = StreamLink(process.stdout, process.stdin)
        self._listener = asyncio.create_task(_report_lines(process.stderr, report))
        self._stop_s = stop_s
        self._killed = False

    async def send(self, frame: bytes) -> None:
        """Send one frame to the child's standard input."""
        if self._killed or self.process.returncode is not None:
            raise NotSent(self._obituary())
        await self._stream.send(frame)

    async def receive(self) -> bytes:
        """Return the next frame from the child's standard output."""
        try:
            return await self._stream.receive()
        except LinkLost as error:
            await self._end_within(_LAST_BREATH_S)
            raise LinkLost(f"{error}: {self._obituary()}") from error

    def overdue(self) -> None:
        """Kill the child: nothing else ends a call that never returns."""
        self._killed = True
        self._kill()

    async def close(self) -> None:
        """Let the child leave by itself, then kill it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            await self._end_within(self._stop_s)
        finally:
            self._kill()
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)

    async def _end_within(self, seconds: float) -> None:
        """Wait for the child's end, and kill it after so long."""
        try:
            async with asyncio.timeout(seconds):
                await self.process.wait()
        except TimeoutError:
            self._kill()
            await self.process.wait()

    def _kill(self) -> None:
        # Only the process itself: a terminal it started is not ours to end.
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()

    def _obituary(self) -> str:
        cause = "was killed, as a call had no answer by its deadline" if self._killed else f"ended with {self.process.returncode}"
        return f"process {self.process.pid} {cause}"


def environment_without_secrets(environment: "os._Environ[str]") -> dict[str, str]:
    """Return what a child may inherit: not other accounts' passwords, which may stand in the environment."""
    return {name: value for name, value in environment.items() if not any(word in name.upper() for word in _SECRET_WORDS)}


async def _report_lines(reader: asyncio.StreamReader, report: Callable[[str], None]) -> None:
    while True:
        try:
            line = await reader.readline()
        except ValueError:
            continue
        if not line:
            return
        text = line.decode(errors="replace").strip()
        if text:
            report(text[:_LINE_MAX])


def _creation_flags() -> int:
    if sys.platform != "win32":
        return 0
    import subprocess

    return subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
