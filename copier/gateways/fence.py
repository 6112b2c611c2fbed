"""The highest owner's token of a terminal, in a file beside it, so that every process attached to that terminal knows it."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from copier.errors import Unavailable
from copier.gateways.serving import check_token

_DIGITS = 20
_PAUSE_S = 0.02


class FileFence:
    """Admits one process at a time, and keeps out whoever comes with a lower token than the file has seen.

    The lock is held while an order is on its way: an owner that was overtaken between the look at the token and the order
    cannot exist. The operating system drops the lock of a process that dies.
    """

    def __init__(self, path: Path, *, wait_s: float = 2.0) -> None:
        """`wait_s` is how long to wait for another process that is trading just now."""
        self._path = path
        self._wait_s = wait_s

    @contextlib.contextmanager
    def admit(self, token: int) -> Iterator[None]:
        """Enter with a token; raise `Rejected` for a lower one than seen, `Unavailable` where another process stays inside."""
        try:
            file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600), "r+b", buffering=0)
        except OSError as error:
            raise Unavailable(f"the owners' token cannot be read from {self._path}: {error}") from error
        with file:
            self._lock(file)
            try:
                seen = self._read(file)
                check_token(token, seen)
                if token > seen:
                    _write(file, token)
                yield
            finally:
                _unlock(file)

    def _lock(self, file: BinaryIO) -> None:
        give_up = time.monotonic() + self._wait_s
        while not _try_lock(file):
            if time.monotonic() > give_up:
                raise Unavailable(f"another process has been trading on this terminal for {self._wait_s:g} s; nothing was sent")
            time.sleep(_PAUSE_S)

    def _read(self, file: BinaryIO) -> int:
        file.seek(1)
        text = file.read(_DIGITS).strip()
        if not text:
            return 0
        if not text.isdigit():
            raise Unavailable(f"{self._path} holds no owner's token but {text!r}: delete it while nothing trades")
        return int(text)


def _write(file: BinaryIO, token: int) -> None:
    # The first byte is only there to be locked: Windows lets nobody read what is locked.
    file.seek(0)
    file.write(b" " + str(token).rjust(_DIGITS).encode())
    os.fsync(file.fileno())


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: BinaryIO) -> bool:
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(file: BinaryIO) -> None:
        file.seek(0)
        with contextlib.suppress(OSError):
            msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _try_lock(file: BinaryIO) -> bool:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _unlock(file: BinaryIO) -> None:
        fcntl.flock(file.fileno(), fcntl.LOCK_UN)
