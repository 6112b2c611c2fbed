r"""A named pipe for Expert Advisors of this machine: `\\.\pipe\NAME` on Windows, a Unix socket in its place elsewhere."""

import asyncio
import contextlib
import logging
import sys
import tempfile
from pathlib import Path

from copier.gateways.bridge_hub import Attend
from copier.gateways.carriers import StreamLink

log = logging.getLogger(__name__)

CHUNK = 65_536
WAITING = 2
"""So many instances listen at once: with one alone, a second terminal that opens the pipe in the same moment finds it busy."""

_HAVE_YOU_READ = b"\x05"
_I_HAVE_READ = b"\x06"


class PipeLink(StreamLink):
    """Frames as lines, and an answer to whoever asks whether what it wrote was read.

    A write of MQL to a pipe that is full waits without end. So an Expert Advisor asks, by a byte no JSON has, and writes on
    when it hears that the engine reads.
    """

    async def _heard(self, more: bytes) -> bytes:
        if _HAVE_YOU_READ not in more:
            return more
        self._writer.write(_I_HAVE_READ)
        await self._writer.drain()
        return more.replace(_HAVE_YOU_READ, b"")


if sys.platform == "win32":
    import _winapi
    import ctypes
    from asyncio import windows_utils
    from ctypes import wintypes
    from typing import Any

    class PipeListener:
        """Frames as lines over a named pipe that only this Windows user, at this machine, may open."""

        def __init__(self, name: str) -> None:
            r"""`name` is what follows `\\.\pipe\`."""
            self._path = rf"\\.\pipe\{name}"
            self._tasks: set[asyncio.Task[None]] = set()
            self._waiting: set[windows_utils.PipeHandle] = set()
            self._security = _Security()

        @property
        def place(self) -> str:
            """The place in words."""
            return self._path

        async def open(self, attend: Attend) -> None:
            """Listen; raise `OSError` where another program has made a pipe of this name."""
            for number in range(WAITING):
                pipe = self._instance(first=number == 0)
                self._tasks.add(asyncio.create_task(self._accept(pipe, attend), name=f"{self._path} {number}"))

        async def close(self) -> None:
            """Listen no more."""
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._tasks.clear()
            for pipe in self._waiting:
                pipe.close()
            self._waiting.clear()

        def _instance(self, *, first: bool) -> windows_utils.PipeHandle:
            mode = _winapi.PIPE_ACCESS_DUPLEX | _winapi.FILE_FLAG_OVERLAPPED
            if first:
                mode |= _winapi.FILE_FLAG_FIRST_PIPE_INSTANCE
            kind = _winapi.PIPE_WAIT | _PIPE_REJECT_REMOTE_CLIENTS  # as bytes, not messages: those flags are 0
            count = _winapi.PIPE_UNLIMITED_INSTANCES
            handle = _winapi.CreateNamedPipe(self._path, mode, kind, count, CHUNK, CHUNK, 0, self._security.address)
            pipe = windows_utils.PipeHandle(handle)
            self._waiting.add(pipe)
            return pipe

        async def _accept(self, pipe: windows_utils.PipeHandle, attend: Attend) -> None:
            loop: Any = asyncio.get_running_loop()
            attending: set[asyncio.Task[None]] = set()
            while True:
                try:
                    await loop._proactor.accept_pipe(pipe)
                except OSError as error:
                    log.warning("%s: a connection broke while it was made: %s", self._path, error)
                    pipe.close()
                    await asyncio.sleep(0.1)
                else:
                    reader = asyncio.StreamReader()
                    protocol = asyncio.StreamReaderProtocol(reader)
                    transport = loop._make_duplex_pipe_transport(pipe, protocol)
                    link = PipeLink(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
                    task = asyncio.ensure_future(attend(link, self._path))
                    attending.add(task)
                    task.add_done_callback(attending.discard)
                self._waiting.discard(pipe)
                pipe = self._instance(first=False)

    _PIPE_REJECT_REMOTE_CLIENTS = 8

    class _Security:
        """Security attributes that let in the user this program runs as, and nobody else."""

        def __init__(self) -> None:
            class Attributes(ctypes.Structure):
                _fields_ = [
                    ("length", wintypes.DWORD),
                    ("descriptor", wintypes.LPVOID),
                    ("inherit", wintypes.BOOL),
                ]

            descriptor = wintypes.LPVOID()
            text = f"D:P(A;;GA;;;{_own_sid()})"
            advapi = ctypes.WinDLL("advapi32", use_last_error=True)
            done = advapi.ConvertStringSecurityDescriptorToSecurityDescriptorW(text, 1, ctypes.byref(descriptor), None)
            if not done:
                raise ctypes.WinError(ctypes.get_last_error())
            self._attributes = Attributes(ctypes.sizeof(Attributes), descriptor, 0)
            self.address = ctypes.addressof(self._attributes)

    def _own_sid() -> str:
        """Return the Windows user of this program as `S-1-...`."""
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        advapi = ctypes.WinDLL("advapi32", use_last_error=True)
        token = wintypes.HANDLE()
        kernel.GetCurrentProcess.restype = wintypes.HANDLE
        advapi.OpenProcessToken.argtypes = [wintypes.HANDLE, wintypes.DWORD, wintypes.LPVOID]
        token_query, token_user = 8, 1
        if not advapi.OpenProcessToken(kernel.GetCurrentProcess(), token_query, ctypes.byref(token)):
            raise ctypes.WinError(ctypes.get_last_error())
        try:
            buffer = ctypes.create_string_buffer(256)
            size = wintypes.DWORD()
            if not advapi.GetTokenInformation(token, token_user, buffer, 256, ctypes.byref(size)):
                raise ctypes.WinError(ctypes.get_last_error())
            sid = ctypes.cast(buffer, ctypes.POINTER(wintypes.LPVOID))[0]
            text = wintypes.LPWSTR()
            advapi.ConvertSidToStringSidW.argtypes = [wintypes.LPVOID, wintypes.LPVOID]
            if not advapi.ConvertSidToStringSidW(sid, ctypes.byref(text)):
                raise ctypes.WinError(ctypes.get_last_error())
            return str(text.value)
        finally:
            kernel.CloseHandle(token)
else:

    class PipeListener:
        """Frames as lines over a Unix socket that only this user may open: what a named pipe is on Windows."""

        def __init__(self, name: str, folder: Path | None = None) -> None:
            """`folder` is where the socket stands, by default the one for temporary files."""
            self.path = (folder or Path(tempfile.gettempdir())) / f"{name}.pipe"
            self._server: asyncio.Server | None = None

        @property
        def place(self) -> str:
            """The place in words."""
            return str(self.path)

        async def open(self, attend: Attend) -> None:
            """Listen; raise `OSError`."""
            log.warning("this is no Windows: no terminal can open %s, only a program that plays one", self.path)

            async def attended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await attend(PipeLink(reader, writer), self.path.name)

            self._server = await asyncio.start_unix_server(attended, self.path, start_serving=False)
            self.path.chmod(0o600)
            await self._server.start_serving()

        async def close(self) -> None:
            """Listen no more."""
            server, self._server = self._server, None
            if server is not None:
                server.close()
                with contextlib.suppress(OSError):
                    self.path.unlink()
