"""Frames as the lines of short HTTP requests: each brings what was said and takes what is to be heard."""

import asyncio
import logging
import secrets
from dataclasses import dataclass

import h11

from copier.gateways.bridge_greeting import HELLO_BYTES_MAX
from copier.gateways.bridge_hub import GREETING_S, STRANGERS_MAX, Attend
from copier.gateways.carriers import LinkLost, NotSent
from copier.wire import FRAME_BYTES_MAX

log = logging.getLogger(__name__)

PATH = "/bridge"
SESSION, NUMBER, WAIT_MS = "bridge-session", "bridge-number", "bridge-wait-ms"
HEAD_BYTES_MAX = 8192
WAIT_MS_MAX = 1_000
LINGER_S = 5.0
"""What was said last can be fetched for so long after a link was closed."""
REQUEST_S = 5.0
"""A request must be whole within this time, and the next one on the same connection begin."""
UNREAD_MAX = 256
"""So many frames may wait on either side; an Expert Advisor that fetches nothing is gone."""
SESSIONS_MAX = 4 * STRANGERS_MAX
GOODBYE = b'{"bye":1}'
_LAST_WORD = b'{"refused"'
_CHUNK = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a request is answered with."""

    status: int
    body: bytes = b""
    session: str = ""


class HttpLink:
    """One session: requests that belong together by a name only its two ends know, and by their numbers."""

    def __init__(self) -> None:
        self.name = secrets.token_hex(16)
        self.frame_bytes_max = HELLO_BYTES_MAX
        self._number = 0
        self._inbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._outbox: list[bytes] = []
        self._said = asyncio.Event()
        self._over = ""

    @property
    def over(self) -> bool:
        """Whether nothing is left to be fetched and nothing more will come."""
        return bool(self._over) and not self._outbox

    async def send(self, frame: bytes) -> None:
        """Keep one frame for the next request."""
        if self._over:
            raise NotSent(self._over)
        if len(self._outbox) >= UNREAD_MAX:
            self._break("the Expert Advisor fetches nothing")
            raise LinkLost(self._over)
        self._outbox.append(frame)
        self._said.set()

    async def receive(self) -> bytes:
        """Return the next line a request brought."""
        if self._over and self._inbox.empty():
            raise LinkLost(self._over)
        frame = await self._inbox.get()
        if not frame:
            raise LinkLost(self._over)
        if len(frame) > self.frame_bytes_max:
            self._break(f"the far end sent a frame of more than {self.frame_bytes_max} bytes")
            raise LinkLost(self._over)
        return frame

    def overdue(self) -> None:
        """Keep the session: the terminal may only be slow."""

    async def close(self) -> None:
        """End the session; a last word may still be fetched, a call that nobody has fetched is taken back."""
        if not self._over:
            self._outbox = [*(frame for frame in self._outbox if frame.startswith(_LAST_WORD)), GOODBYE]
        self._break("the link is closed")

    def drop(self) -> None:
        """Forget what nobody has fetched."""
        self._break("the Expert Advisor was gone for too long")
        self._outbox.clear()

    def _break(self, why: str) -> None:
        self._over = self._over or why
        self._inbox.put_nowait(b"")
        self._said.set()

    async def exchange(self, number: int, body: bytes, wait_s: float) -> Reply:
        """Take what a request brings and return what waits, after at most so long."""
        if number != self._number + 1:
            self._break(f"request {number} came after request {self._number}: one was lost, or said twice")
            return Reply(status=409)
        self._number = number
        for line in filter(None, map(bytes.strip, body.split(b"\n"))):
            if line == GOODBYE:
                self._break("the Expert Advisor said goodbye")
            elif self._inbox.qsize() >= UNREAD_MAX:
                self._break("the Expert Advisor says more than anybody can read")
            else:
                self._inbox.put_nowait(line)
        if self.over:
            return Reply(status=410)
        if not self._outbox and wait_s > 0:
            self._said.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._said.wait()
            except TimeoutError:
                pass
        frames, self._outbox = self._outbox, []
        return Reply(status=200, body=b"".join(frame + b"\n" for frame in frames), session=self.name)


class HttpSessions:
    """Answers the requests of Expert Advisors, each in its own session."""

    def __init__(self) -> None:
        self._sessions: dict[str, HttpLink] = {}
        self._attending: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End every session."""
        for session in self._sessions.values():
            session.drop()
        self._sessions.clear()
        for task in self._attending:
            task.cancel()
        await asyncio.gather(*self._attending, return_exceptions=True)

    async def converse(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, attend: Attend, who: str
    ) -> None:
        """Answer the requests of one connection until it ends; `head` is the first one's, up to its empty line."""
        while head:
            connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
            connection.receive_data(head)
            try:
                async with asyncio.timeout(REQUEST_S):
                    request, body = await self._read(connection, reader, writer)
                reply = await self._answer(request, body, attend, who)
            except _Refused as refusal:
                log.warning("%s: a request was refused with %d: %s", who, refusal.status, refusal)
                _write(connection, writer, Reply(status=refusal.status), last=True)
                return await _flush(writer)
            except (h11.RemoteProtocolError, TimeoutError) as error:
                log.warning("%s: not a request: %s", who, str(error) or f"it was not whole after {REQUEST_S:g} s")
                if connection.our_state is h11.IDLE or connection.our_state is h11.SEND_RESPONSE:
                    _write(connection, writer, Reply(status=400), last=True)
                return await _flush(writer)
            keep = reply.status == 200 and connection.their_state is h11.DONE
            _write(connection, writer, reply, last=not keep)
            await _flush(writer)
            if not keep:
                return
            head = await read_head(reader)

    async def _read(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[h11.Request, bytes]:
        request = connection.next_event()
        if not isinstance(request, h11.Request):
            raise _Refused(400, "no request")
        session = self._sessions.get(_header(request, SESSION))
        most = FRAME_BYTES_MAX if session is not None and session.frame_bytes_max > HELLO_BYTES_MAX else HELLO_BYTES_MAX
        if connection.they_are_waiting_for_100_continue:
            writer.write(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        body = bytearray()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(_CHUNK))
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > most + 1:
                    raise _Refused(413, f"more than {most} bytes")
            elif isinstance(event, h11.EndOfMessage):
                return request, bytes(body)
            else:
                raise _Refused(400, "the request broke off")

    async def _answer(self, request: h11.Request, body: bytes, attend: Attend, who: str) -> Reply:
        if request.target.decode("ascii", "replace") != PATH or request.method != b"POST":
            raise _Refused(404, f"expected POST {PATH}")
        number, wait_ms = _header(request, NUMBER), _header(request, WAIT_MS) or "0"
        if not (number.isdecimal() and wait_ms.isdecimal() and len(number) < 16 and len(wait_ms) < 8):
            raise _Refused(400, f"expected numbers in {NUMBER} and {WAIT_MS}")
        name = _header(request, SESSION)
        session = self._sessions.get(name) if name else self._new(attend, who)
        if session is None:
            raise _Refused(410, "there is no such session any more")
        return await session.exchange(int(number), body, min(int(wait_ms), WAIT_MS_MAX) / 1000)

    def _new(self, attend: Attend, who: str) -> HttpLink:
        if len(self._sessions) >= SESSIONS_MAX:
            raise _Refused(503, f"{SESSIONS_MAX} sessions are open")
        session = HttpLink()
        self._sessions[session.name] = session
        task = asyncio.create_task(self._attend(session, attend, who), name=f"session of {who}")
        self._attending.add(task)
        task.add_done_callback(self._attending.discard)
        return session

    async def _attend(self, session: HttpLink, attend: Attend, who: str) -> None:
        """Let a session be greeted, and forget it some time after its end."""
        try:
            await attend(session, who)
            while not session._over:
                session._said.clear()
                await session._said.wait()
            if session.name in self._sessions:  # or everything is being closed
                await asyncio.sleep(LINGER_S)
        finally:
            session.drop()
            self._sessions.pop(session.name, None)


class _Refused(Exception):
    """A request that is answered with a status alone."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


async def read_head(reader: asyncio.StreamReader) -> bytes:
    """Return a request's head with its empty line; nothing where none comes in time, or one is too long."""
    try:
        async with asyncio.timeout(GREETING_S):
            head = await reader.readuntil(b"\r\n\r\n")
    except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
        return b""
    return head if len(head) <= HEAD_BYTES_MAX else b""


def _header(request: h11.Request, name: str) -> str:
    for key, value in request.headers:
        if key == name.encode():
            return value.decode("ascii", "replace").strip()
    return ""


def _write(connection: h11.Connection, writer: asyncio.StreamWriter, reply: Reply, *, last: bool) -> None:
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(reply.body)))]
    if reply.session:
        headers.append((SESSION, reply.session))
    if last:
        headers.append(("Connection", "close"))
    for event in (h11.Response(status_code=reply.status, headers=headers), h11.Data(data=reply.body), h11.EndOfMessage()):
        writer.write(connection.send(event) or b"")


async def _flush(writer: asyncio.StreamWriter) -> None:
    try:
        async with asyncio.timeout(REQUEST_S):
            await writer.drain()
    except (OSError, TimeoutError):
        writer.transport.abort()
