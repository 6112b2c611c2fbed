"""Frames as files in the folder that all terminals of a Windows user share: the way to MetaTrader 4, which has no sockets."""

import asyncio
import contextlib
import logging
import os
import re
from pathlib import Path

from copier.clock import Clock
from copier.errors import ProtocolError
from copier.gateways.bridge_greeting import HELLO_BYTES_MAX, greet, read_hello
from copier.gateways.bridge_link import BridgeLink
from copier.gateways.carriers import LinkLost, NotSent
from copier.wire import FRAME_BYTES_MAX

log = logging.getLogger(__name__)

GREETING_S = 5.0
UNREAD_MAX = 256
"""So many files may wait to be read; who reads none of them is gone."""
GOODBYE = b'{"bye":1}'
"""Files outlive whoever wrote them: without a word the other end would wait until the silence is too long."""
_LOOK_AROUND_S = 0.5
_HELLO = re.compile(r"([0-9a-f]{16,64})-0{11}1\.json\Z")


def file_name_of(account: str) -> str:
    """Return an account as the name of a folder: whatever might not be allowed in one becomes an underscore."""
    return re.sub(r"[^A-Za-z0-9.@-]", "_", account)


class FilesLink:
    """One life of a link through files: each frame one file, numbered, moved into place whole, deleted by whoever read it."""

    def __init__(self, folder: Path, life: str, poll_s: float) -> None:
        self.frame_bytes_max = HELLO_BYTES_MAX
        self._outbox = folder / "to-terminal"
        self._inbox = folder / "to-engine"
        self._life = life
        self._poll_s = poll_s
        self._sent = 0
        self._taken = 0
        self._over = False

    async def send(self, frame: bytes) -> None:
        """Send one frame as a file."""
        if self._over:
            raise NotSent("the link is closed")
        if self._sent >= UNREAD_MAX and (self._outbox / self._name(self._sent - UNREAD_MAX + 1)).exists():
            raise LinkLost(f"the Expert Advisor has left {UNREAD_MAX} files unread")
        self._sent += 1
        try:
            _write(self._outbox / self._name(self._sent), frame)
        except OSError as error:
            raise NotSent(f"no file can be written to {self._outbox}: {error}") from error

    async def receive(self) -> bytes:
        """Return the next file's frame; raise `LinkLost` once the Expert Advisor has begun another life."""
        looked = asyncio.get_running_loop().time()
        while not self._over:
            frame = _take(self._inbox / self._name(self._taken + 1), self.frame_bytes_max)
            if frame is not None:
                self._taken += 1
                return frame
            await asyncio.sleep(self._poll_s)
            now = asyncio.get_running_loop().time()
            if now - looked >= _LOOK_AROUND_S:
                looked = now
                if any(life != self._life for life in _lives(self._inbox)):
                    raise LinkLost("the Expert Advisor was started anew")
        raise LinkLost("the link is closed")

    def overdue(self) -> None:
        """Keep the link: the terminal may only be slow."""

    async def close(self) -> None:
        """Take back what was not read and say goodbye in its place."""
        if self._over:
            return
        self._over = True
        while self._sent and _delete(self._outbox / self._name(self._sent)):
            self._sent -= 1
        with contextlib.suppress(OSError):
            _write(self._outbox / self._name(self._sent + 1), GOODBYE)

    def _name(self, number: int) -> str:
        return f"{self._life}-{number:012d}.json"


class FilesCarrier:
    """Makes links out of the greetings one account's Expert Advisor leaves in its folder."""

    def __init__(
        self, root: Path, account: str, secret: str, *, clock: Clock, poll_s: float = 0.01, silence_s: float = 20.0
    ) -> None:
        """`root` is the folder all terminals share, Terminal/Common/Files of MetaQuotes' application data."""
        self._folder = root / "MtCopier" / file_name_of(account)
        self._account = account
        self._secret = secret
        self._clock = clock
        self._poll_s = poll_s
        self._silence_s = silence_s

    async def connect(self) -> BridgeLink:
        """Wait until the Expert Advisor says hello."""
        try:
            _prepare(self._folder)
        except OSError as error:
            raise LinkLost(f"the folder {self._folder} cannot be made: {error}") from error
        while True:
            for life in _lives(self._folder / "to-engine"):
                link = await self._greeted(life)
                if link is not None:
                    return link
            await asyncio.sleep(self._poll_s)

    async def _greeted(self, life: str) -> BridgeLink | None:
        link = FilesLink(self._folder, life, self._poll_s)
        try:
            async with asyncio.timeout(GREETING_S):
                hello = read_hello(await link.receive())
                if hello.nonce != life:
                    raise ProtocolError("a greeting under another name")
                name = await greet(link, hello, self._account, self._secret, self._clock)
                link.frame_bytes_max = FRAME_BYTES_MAX
        except (LinkLost, ProtocolError, TimeoutError) as error:
            log.warning("%s: not let in: %s", self._account, str(error) or "the greeting was not answered in time")
            return None
        return BridgeLink(link, name, silence_s=self._silence_s)

    async def close(self) -> None:
        """Nothing lies about."""


def _prepare(folder: Path) -> None:
    for way in ("to-engine", "to-terminal"):
        (folder / way).mkdir(parents=True, exist_ok=True)


def _lives(inbox: Path) -> list[str]:
    """Return the lives that begin in a folder, the newest first."""
    found = []
    try:
        for entry in os.scandir(inbox):
            hello = _HELLO.match(entry.name)
            if hello:
                found.append((entry.stat().st_mtime_ns, hello[1]))
    except OSError:
        return []
    return [life for _, life in sorted(found, reverse=True)]


def _write(path: Path, frame: bytes) -> None:
    working = path.with_suffix(".tmp")
    working.write_bytes(frame)
    working.replace(path)


def _take(path: Path, most: int) -> bytes | None:
    """Return what is in a file and delete it; None where it is not there, or the terminal still holds it."""
    try:
        with path.open("rb") as file:
            frame = file.read(most + 1)
        path.unlink()
    except OSError:
        return None
    if len(frame) > most:
        raise LinkLost(f"the far end left a file of more than {most} bytes")
    return frame.strip()


def _delete(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True
