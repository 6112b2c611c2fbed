"""The process beside one manager connection: frames of many logins on its standard input, their answers on its output.

A line is a login, a space and a frame. Each login has a thread of its own, so that a slow answer for one delays no other; the
package lets go of Python's lock during its calls. It uses the current directory for its files and loads its library when it is
imported: hence a process, and the directory is set first.
"""

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from copier.errors import CopierError, ProtocolError, Unavailable
from copier.gateways.fence import FileFence
from copier.gateways.manager_connection import Connection, ManagerOpening, Package, SystemWaits, Waits
from copier.gateways.manager_login import ManagerLogin
from copier.gateways.mt5_child import DONE, _own_streams, _read_lines, _write
from copier.gateways.serving import FarEnd, check_opening
from copier.wire import CHANGED, FRAME_BYTES_MAX, OPEN, decode_request, encode_error, encode_push, encode_result

log = logging.getLogger("copier.gateways.mt5_manager_child")

LOGIN_DIGITS_MAX = 20


class Office:
    """All logins of one manager connection, which is made for the first of them."""

    def __init__(self, load: Callable[[ManagerOpening], Package], pace: Waits, heard: Callable[[str], None]) -> None:
        """`load` returns the package; `heard` is told whose positions may have changed, "" for a new connection."""
        self._load = load
        self._pace = pace
        self._heard = heard
        self._connecting = threading.Lock()
        self._connection: Connection | None = None
        self._far_ends: dict[str, FarEnd] = {}

    def answer(self, login: str, frame: bytes) -> bytes:
        """Return the answer to a frame of a login; the first one of each opens it."""
        try:
            request = decode_request(frame)
        except ProtocolError as error:
            return encode_error(0, error)
        try:
            if request.op == OPEN:
                opening = check_opening(request, ManagerOpening)
                return encode_result(request.id, self._open(login, opening).hello())
            far_end = self._far_ends.get(login)
            if far_end is None:
                raise Unavailable(f"login {login} is not open here")
        except CopierError as error:
            return encode_error(request.id, error)
        answer = far_end.answer(frame)
        if len(answer) > FRAME_BYTES_MAX - LOGIN_DIGITS_MAX - 1:
            return encode_error(request.id, Unavailable(f"the answer has {len(answer)} bytes: ask for less"))
        return answer

    def restore(self) -> list[str]:
        """Do what a new connection needs, outside the package's own threads; return the logins it is news for."""
        connection = self._connection
        if connection is not None:
            connection.restore()
        return list(self._far_ends)

    def close(self) -> None:
        """Disconnect."""
        connection, self._connection = self._connection, None
        self._far_ends.clear()
        if connection is not None:
            connection.stop()

    def _open(self, login: str, opening: ManagerOpening) -> FarEnd:
        connection = self._connected(opening)
        if opening.account.partition("@")[0] != login:
            raise Unavailable(f"expected login {login}, not {opening.account}", account=opening.account)
        served = ManagerLogin(connection, opening.account)
        connection.check(opening.account)
        served.get_account()
        fence = FileFence(Path(opening.folder) / f"mt-copier-{login}.token", wait_s=opening.call_timeout_s / 4)
        if opening.token:
            with fence.admit(opening.token):
                pass
        far_end = FarEnd(served, opening.account, clock=self._pace, fence=fence, program="MT5Manager")
        self._far_ends[login] = far_end
        return far_end

    def _connected(self, opening: ManagerOpening) -> Connection:
        with self._connecting:
            if self._connection is None:
                package = self._load(opening)
                connection = Connection(package, opening, self._pace, self._heard)
                connection.start()
                self._connection = connection
            first = self._connection.opening
            if (first.address, first.manager) != (opening.address, opening.manager):
                message = f"this process belongs to manager {first.manager} at {first.address}"
                raise Unavailable(message, account=opening.account)
            return self._connection


class Desks:
    """A thread for every login, another for what the package tells unasked, and one output for all."""

    def __init__(self, sink: BinaryIO, load: Callable[[ManagerOpening], Package], pace: Waits) -> None:
        self._sink = sink
        self._writing = threading.Lock()
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._lines: dict[str, queue.SimpleQueue[bytes]] = {}
        self.office = Office(load, pace, self._news.put)
        threading.Thread(target=self._tell, daemon=True, name="news").start()

    def take(self, line: bytes) -> None:
        """Hand a line to the thread of its login."""
        head, _, frame = line.strip().partition(b" ")
        login = head.decode("ascii", "replace")
        if not frame or not login.isdigit() or len(login) > LOGIN_DIGITS_MAX:
            log.error("a line without a login was dropped")
            return
        lines = self._lines.get(login)
        if lines is None or _opens(frame):
            # A login that is opened again may have a thread that is stuck in a call: it gets a new one, the old one ends.
            former, lines = lines, queue.SimpleQueue()
            self._lines[login] = lines
            if former is not None:
                former.put(b"")
            threading.Thread(target=self._serve, args=(login, lines), daemon=True, name=f"login {login}").start()
        lines.put(frame)

    def _serve(self, login: str, lines: "queue.SimpleQueue[bytes]") -> None:
        while (frame := lines.get()) and self._lines.get(login) is lines:
            answer = self.office.answer(login, frame)
            if self._lines.get(login) is lines:
                self._say(login, answer)

    def _tell(self) -> None:
        while True:
            login = self._news.get()
            for each in [login] if login else self.office.restore():
                if each in self._lines:
                    self._say(each, encode_push(CHANGED))

    def _say(self, login: str, frame: bytes) -> None:
        with self._writing, contextlib.suppress(BrokenPipeError):
            _write(self._sink, login.encode() + b" " + frame)


def main(load: Callable[[ManagerOpening], Package] | None = None) -> int:
    """Serve one manager connection until the input ends; return the process's exit code."""
    source, sink = _own_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lines: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_read_lines, args=(source, lines), daemon=True).start()
    desks = Desks(sink, load or _package, SystemWaits())
    while line := lines.get():
        desks.take(line)
    desks.office.close()
    return DONE


def _package(opening: ManagerOpening) -> Package:
    try:
        Path(opening.folder).mkdir(parents=True, exist_ok=True)
        os.chdir(opening.folder)
    except OSError as error:
        raise Unavailable(f"the folder {opening.folder} cannot be used: {error}", account=opening.account) from error
    try:
        import MT5Manager
    except ImportError as error:
        message = f"the MT5Manager package cannot be imported by {sys.executable}: {error}; it needs 64-bit Python for Windows"
        raise Unavailable(message, account=opening.account) from error
    return MT5Manager


def _opens(frame: bytes) -> bool:
    try:
        return decode_request(frame).op == OPEN
    except ProtocolError:
        return False


if __name__ == "__main__":
    code = main()
    # Not sys.exit: threads may still wait for an answer.
    sys.stderr.flush()
    os._exit(code)
