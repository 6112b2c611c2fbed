"""What happens, while it happens: a picture that moves on a terminal, plain lines or JSON everywhere else."""

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from copier.app import App
from copier.aside import Aside
from copier.errors import CopierError
from copier.link import Link
from copier.model import Receipt, Stamps
from copier.tables import accounts_table, hops_line, links_table, receipt_line, receipt_words
from copier.words import copied_stamps, hops, sentence

FRAMES_PER_S = 5
ACCOUNTS_S = 1.0
ACCOUNTS_MAX = 20
"""Of more accounts than this the picture shows what was recorded last, and asks no terminal for its own sake."""
RECEIPTS_MAX = 20
STORY_SHOWN = 4
LOW = 36
"""On a screen with fewer lines than this accounts and happenings matter more than the table of copies."""


class View(Protocol):
    """Where to tell what happens."""

    def tell(self, line: str) -> None:
        """Tell a line of the story."""
        ...

    def show(self, receipt: Receipt) -> None:
        """Tell what became of a change."""
        ...


class PlainView:
    """One line per happening; in colour on a terminal."""

    def __init__(self, console: Console, aside: Aside) -> None:
        self._console = console
        self._aside = aside

    def tell(self, line: str) -> None:
        """Print a line of the story."""
        self._aside.put(lambda: self._console.print(Text(line, style="bold"), soft_wrap=True))

    def show(self, receipt: Receipt) -> None:
        """Print a receipt in words."""
        self._aside.put(lambda: self._print(receipt))

    def _print(self, receipt: Receipt) -> None:
        if self._console.is_terminal:
            self._console.print(Text("  ").append(receipt_line(receipt)), soft_wrap=True)
        else:  # A service's log: laying out colours nobody sees takes longer than the copy did.
            self._console.file.write(f"  {receipt_words(receipt)}\n")
            self._console.file.flush()


class JsonView:
    """One JSON object per line."""

    def __init__(self, aside: Aside) -> None:
        self._aside = aside

    def tell(self, line: str) -> None:
        """Write a line of the story."""
        self._aside.put(lambda: _write({"story": line}))

    def show(self, receipt: Receipt) -> None:
        """Write a receipt, with its words."""
        self._aside.put(lambda: _write({"receipt": receipt, "words": sentence(receipt)}))


class LiveView:
    """The moving picture: accounts, copies, what happened last, and how fast."""

    def __init__(self, app: App, title: str) -> None:
        self._app = app
        self._title = title
        self._story: deque[str] = deque(maxlen=STORY_SHOWN)
        self._receipts: deque[Receipt] = deque(maxlen=RECEIPTS_MAX)
        self._stamps: deque[Stamps] = deque(maxlen=1_000)
        self._screen = (100, 50)

    def tell(self, line: str) -> None:
        """Take a line of the story in."""
        self._story.append(line)

    def show(self, receipt: Receipt) -> None:
        """Take a receipt in."""
        self._receipts.append(receipt)
        self._stamps.extend(copied_stamps([receipt]))

    @contextlib.asynccontextmanager
    async def on(self, console: Console) -> AsyncIterator[None]:
        """Draw while the block lasts; the last picture stays."""
        self._screen = console.size
        live = Live(self.picture(), console=console, auto_refresh=False, transient=False, vertical_overflow="crop")
        with live:
            tasks = [asyncio.create_task(self._draw(live)), asyncio.create_task(self._read_accounts())]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                live.update(self.picture(), refresh=True)

    async def _draw(self, live: Live) -> None:
        while True:
            self._screen = live.console.size
            await asyncio.to_thread(live.update, self.picture(), refresh=True)  # Laying it out takes as long as many copies.
            await asyncio.sleep(1 / FRAMES_PER_S)

    async def _read_accounts(self) -> None:
        while len(self._app.gateways) <= ACCOUNTS_MAX:
            with contextlib.suppress(CopierError):
                await self._app.read_accounts()
            await asyncio.sleep(ACCOUNTS_S)

    def picture(self) -> RenderableType:
        """Return everything as it stands, as far as the screen has room for it."""
        width, height = self._screen
        low = height < LOW
        parts: list[RenderableType] = []
        story = list(self._story)[-2 if low else -STORY_SHOWN :]
        taken = 0
        if story:
            lines = Text("\n").join([*(Text(line, style="dim") for line in story[:-1]), Text(story[-1], style="bold yellow")])
            parts.append(Panel(lines, title=self._title, title_align="left", border_style="yellow"))
            taken = 2 + sum(1 + len(line) // max(1, width - 5) for line in story)
        standings = self._app.standings()
        if low:
            standings = standings[: max(1, height - taken - 9)]
            parts.append(accounts_table(standings))
            return Group(*parts, self._happened(height - taken - len(standings) - 8))
        links = self._links()
        room = height - taken - 15
        standings = standings[: max(2, room // 3)]
        shown = min(len(links), max(1, (room - len(standings)) // 2))
        parts += [accounts_table(standings), links_table(links, rows_max=shown, width=width)]
        parts.append(self._happened(room - len(standings) - shown))
        if self._stamps:
            parts.append(hops_line(hops(self._stamps)))
        return Group(*parts)

    def _links(self) -> list[Link]:
        worker = self._app.worker
        links = [link for f in worker.followers.values() for link in f.memory.living.values()] if worker else []
        return sorted(links, key=lambda link: (link.position.open_time, link.key, link.follower))

    def _happened(self, rows: int) -> Panel:
        receipts = list(self._receipts)[-max(1, rows) :]
        lines = Text("\n").join(map(receipt_line, receipts)) if receipts else Text("nothing yet")
        lines.no_wrap, lines.overflow = True, "ellipsis"
        return Panel(lines, title="What happened last", title_align="left")


def _write(value: object) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()
