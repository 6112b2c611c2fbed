"""The process beside one MetaTrader 5 terminal: reads frames on its standard input, answers on its standard output.

The package keeps Python's lock during every call, knows no timeout and one terminal per process: hence a process each, which its
parent may kill at any moment. The first frame brings the settings, with the password; the log leaves as JSON lines on the
standard error. The process ends when its input does, and when the connection to the terminal breaks: a new one starts clean.
"""

import logging
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from copier.errors import CopierError, ProtocolError, Unavailable
from copier.gateways.fence import FileFence
from copier.gateways.mt5_session import MT5Api, Mt5Opening, Pace, Session, SystemPace
from copier.gateways.mt5_terminal import Mt5Terminal
from copier.gateways.serving import FarEnd, check_opening
from copier.wire import CHANGED, FRAME_BYTES_MAX, decode_request, encode_error, encode_push, encode_result

log = logging.getLogger("copier.gateways.mt5_child")

DONE = 0
NOT_OPENED = 3
TERMINAL_LOST = 4


class JsonLines(logging.Formatter):
    """One JSON object per record, for the parent to log."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        return msgspec.json.encode({"level": record.levelname.lower(), "message": message}).decode()


def main() -> int:
    """Serve one terminal until the input ends; return the process's exit code."""
    source, sink = _own_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lines: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_read_lines, args=(source, lines), daemon=True).start()
    frame = lines.get()
    if not frame:
        return DONE
    try:
        far_end, terminal, session, opened = _open(frame, _package(), SystemPace())
    except CopierError as error:
        _write(sink, encode_error(0, error))
        return NOT_OPENED
    _write(sink, opened)
    try:
        return _serve(lines, sink, far_end, terminal, session)
    finally:
        session.api.shutdown()


def _package() -> MT5Api:
    try:
        import MetaTrader5
    except ImportError as error:
        message = (
            f"the MetaTrader5 package cannot be imported by {sys.executable}: {error}; it needs Python for Windows and numpy"
        )
        raise Unavailable(message) from error
    return MetaTrader5


def _open(frame: bytes, api: MT5Api, pace: Pace) -> tuple[FarEnd, Mt5Terminal, Session, bytes]:
    """Connect as the first frame says; return what serves all others, and the answer."""
    request = decode_request(frame)
    opening = check_opening(request, Mt5Opening)
    session = Session(api, opening, pace)
    seen = session.start()
    terminal = Mt5Terminal(session)
    terminal.probe()
    login = opening.account.partition("@")[0]
    fence = FileFence(Path(seen.terminal.data_path) / f"mt-copier-{login}.token", wait_s=opening.call_timeout_s / 4)
    program = f"MetaTrader5 {getattr(api, '__version__', '?')}, terminal build {seen.terminal.build}"
    far_end = FarEnd(terminal, opening.account, clock=pace, fence=fence, program=program)
    return far_end, terminal, session, encode_result(request.id, far_end.hello())


def _serve(lines: "queue.Queue[bytes]", sink: BinaryIO, far_end: FarEnd, terminal: Mt5Terminal, session: Session) -> int:
    poll_s = session.opening.poll_ms / 1000
    before: Any = terminal.fingerprint() if poll_s else None
    due = session.pace.seconds() + poll_s
    while not session.broken:
        try:
            frame = lines.get(timeout=max(0.001, due - session.pace.seconds()) if poll_s else None)
        except queue.Empty:
            now = terminal.fingerprint()
            if now is not None and now != before:
                before = now
                _write(sink, encode_push(CHANGED))
            due = session.pace.seconds() + poll_s
            continue
        if not frame:
            return DONE
        _write(sink, far_end.answer(frame))
    log.error("the connection to the terminal is lost")
    return TERMINAL_LOST


def _own_streams() -> tuple[BinaryIO, BinaryIO]:
    """Take the standard streams for frames, so that nothing else can write among them."""
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    return source, sink


def _read_lines(source: BinaryIO, lines: "queue.Queue[bytes]") -> None:
    """Hand over line after line, and an empty one at the end."""
    while True:
        line = source.readline(FRAME_BYTES_MAX + 2)
        if not line.endswith(b"\n"):
            lines.put(b"")
            return
        if line.strip():
            lines.put(line)


def _write(sink: BinaryIO, frame: bytes) -> None:
    rest = memoryview(frame + b"\n")
    while rest:
        rest = rest[sink.write(rest) :]


if __name__ == "__main__":
    try:
        code = main()
    except (BrokenPipeError, ProtocolError) as trouble:
        log.error("%s", trouble)
        code = DONE
    # Not sys.exit: the thread that reads the input may still hold it.
    sys.stderr.flush()
    os._exit(code)
