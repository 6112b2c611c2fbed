"""What is written for people leaves by a thread of its own: a screen, pipe or disk that stands still holds up no order."""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator

WAITING_MAX = 20_000
"""So many lines wait for a screen that stands still; what comes after is left out, and counted."""
END_S = 2.0
"""At its end a process waits so long for what is not written yet."""

log = logging.getLogger(__name__)


class Aside:
    """Does small pieces of writing in order, beside the engine."""

    def __init__(self, *, waiting_max: int = WAITING_MAX) -> None:
        self.left_out = 0
        """How much was not written because too much was waiting."""
        self._waiting: queue.Queue[Callable[[], object] | None] = queue.Queue(waiting_max)
        self._thread = threading.Thread(target=self._write, name="aside", daemon=True)
        self._thread.start()

    def put(self, write: Callable[[], object]) -> None:
        """Write later, soon. Never waits and never raises."""
        try:
            self._waiting.put_nowait(write)
        except queue.Full:
            self.left_out += 1

    def close(self) -> None:
        """Finish what is waiting, unless the other side stands still."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=END_S)
            self._thread.join(END_S)

    def _write(self) -> None:
        while (write := self._waiting.get()) is not None:
            try:
                write()
            except Exception:
                self.left_out += 1


class AsideHandler(logging.Handler):
    """Hands log records to the handler that writes them, beside the engine."""

    def __init__(self, aside: Aside, written_by: logging.Handler) -> None:
        super().__init__()
        self._aside = aside
        self._written_by = written_by

    def emit(self, record: logging.LogRecord) -> None:
        """Have a record written later, soon."""
        self._aside.put(lambda: self._written_by.handle(record))


@contextlib.contextmanager
def writing() -> Iterator[Aside]:
    """Write aside while the block lasts."""
    aside = Aside()
    try:
        yield aside
    finally:
        aside.close()
        if aside.left_out:
            log.warning("%d lines were not written: the screen, pipe or file did not take them", aside.left_out)
