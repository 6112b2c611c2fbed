"""The product's command line as a process whose clock can be moved: its first argument is a file with milliseconds to add."""

import sys
import time
from pathlib import Path

from copier import cli, clock

LOOK_S = 0.1


class MovedClock(clock.SystemClock):
    """The machine's clock and what the file says."""

    looked_s = -1.0
    moved_ms = 0

    def now_ms(self) -> int:
        now = time.monotonic()
        if now - MovedClock.looked_s > LOOK_S:
            MovedClock.looked_s = now
            text = OFFSET.read_text() if OFFSET.exists() else ""
            MovedClock.moved_ms = int(text or 0)
        return super().now_ms() + MovedClock.moved_ms


OFFSET = Path(sys.argv.pop(1))
clock.SystemClock = MovedClock  # type: ignore[misc]

if __name__ == "__main__":
    cli.main()
