"""One process per role on one machine: a lock that the operating system lets go when the process ends, however it ends."""

import sys
from pathlib import Path
from typing import IO

from copier.errors import Fenced


class RoleLock:
    """Holds the file of one role, next to the ledger's own."""

    def __init__(self, ledger: Path, role: str) -> None:
        self.role = role
        self.path = ledger.with_name(f"{ledger.name}.{role.replace(':', '-')}.lock")
        self._file: IO[bytes] | None = None

    def take(self) -> None:
        """Hold the lock from now on; raise `Fenced` at once where another process holds it."""
        file = self.path.open("ab")
        try:
            _lock(file)
        except OSError:
            file.close()
            raise Fenced(
                f"{self.role}: another process on this machine already does this with the same ledger; "
                f"stop that one first (it holds {self.path})"
            ) from None
        self._file = file

    def release(self) -> None:
        """Let go."""
        if self._file is not None:
            self._file.close()
            self._file = None


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
