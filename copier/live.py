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
from copier.errors import CopierError
from copier.model import Receipt, Stamps
from copier.tables import accounts_table, hops_line, links_table, receipt_line
from copier.words import copied_stamps, hops, sentence

FRAMES_PER_S = 5
ACCOUNTS_S = 1.0
RECEIPTS_MAX = 12
STORY_SHOWN = 4
FIXED_LINES = 20
"""What headings, frames and the latency take of the screen's height."""


class View(Protocol):
    """Where to tell what happens."""

    def tell(self, line: str) -> None:
        """Tell a line of the story."""
        ...

    def show(self, receipt: Receipt) -> None:
        """Tell what became of a change."""
        ...


class PlainView:
    """One line per happening."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def tell(self, line: str) -> None:
        """Print a line of the story."""
        self._console.print(Text(line, style="bold"), soft_wrap=True)

    def show(self, receipt: Receipt) -> None:
        """Print a receipt in words."""
        self._console.print(Text("  ").append(receipt_line(receipt)), soft_wrap=True)


class JsonView:
    """One JSON object per line."""

    def tell(self, line: str) -> None:
        """Write a line of the story."""
        _write({"story": line})

    def show(self, receipt: Receipt) -> None:
        """Write a receipt, with its words."""
        _write({"receipt": receipt, "words": sentence(receipt)})


class LiveView:
    """The moving picture: accounts, copies, what happened last, and how fast."""

    def __init__(self, app: App, title: str) -> None:
        self._app = app
        self._title = title
        self._story: deque[str] = deque(maxlen=STORY_SHOWN)
        self._receipts: deque[Receipt] = deque(maxlen=RECEIPTS_MAX)
        self._stamps: deque[Stamps] = deque(maxlen=1_000)
        self._height = 50

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
        self._height = console.height
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
            self._height = live.console.height
            live.update(self.picture(), refresh=True)
            await asyncio.sleep(1 / FRAMES_PER_S)

    async def _read_accounts(self) -> None:
        while True:
            with contextlib.suppress(CopierError):
                await self._app.read_accounts()
            await asyncio.sleep(ACCOUNTS_S)

    def picture(self) -> RenderableType:
        """Return everything as it stands."""
        parts: list[RenderableType] = []
        if self._story:
            lines = list(self._story)
            story = Text("\n").join([*(Text(line, style="dim") for line in lines[:-1]), Text(lines[-1], style="bold yellow")])
            parts.append(Panel(story, title=self._title, title_align="left", border_style="yellow"))
        standings = self._app.standings()
        worker = self._app.worker
        links = [link for f in worker.followers.values() for link in f.links.values() if link.living] if worker else []
        links.sort(key=lambda link: (link.position.open_time, link.key, link.follower))
        room = max(4, self._height - FIXED_LINES)
        accounts_shown = min(len(standings), max(2, room // 3))
        links_shown = min(len(links), max(1, (room - accounts_shown) // 2))
        parts.append(accounts_table(standings[:accounts_shown]))
        parts.append(links_table(links, rows_max=links_shown))
        receipts = list(self._receipts)[-max(2, room - accounts_shown - links_shown) :]
        happened = Text("\n").join(map(receipt_line, receipts)) if receipts else Text("nothing yet")
        happened.no_wrap, happened.overflow = True, "ellipsis"
        parts.append(Panel(happened, title="What happened last", title_align="left"))
        if self._stamps:
            parts.append(hops_line(hops(self._stamps)))
        return Group(*parts)


def _write(value: object) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()
