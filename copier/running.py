"""Runs the engine or the demonstration to its end, with a view on it, until it is asked to stop."""

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator, Iterator

import msgspec
from rich.console import Console
from rich.logging import RichHandler

from copier.app import App, Role
from copier.aside import Aside, AsideHandler, writing
from copier.clock import SystemClock
from copier.demo import Demo, DemoEnd
from copier.errors import SettingsError
from copier.live import JsonView, LiveView, PlainView, View
from copier.settings import LogFormat, LogSettings, Settings
from copier.tables import end_table, hops_line

SETTLED_S = 10.0
"""What a process keeps to its end is there by then."""


LOOK_SELDOM = (50_000, 20, 100)
"""The collector looks for cycles after so many new objects, and at older ones so many times more seldom: at the
interpreter's own pace it takes a good part of the processor's time under load, and stops everything now and then."""


def settle_memory() -> None:
    """Let the garbage collector leave alone what is there now, and look seldom: nearly nothing here is a cycle."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*LOOK_SELDOM)


async def run_app(settings: Settings, role: Role, kind: str) -> None:
    """Run a role until Ctrl+C or SIGTERM. `kind` of view: live, plain or json."""
    console = Console()
    with writing() as aside, _logging(settings.log, console if kind == "live" else None, aside):
        app = App(settings, SystemClock(), role=role)
        view = _view(kind, app, console, aside, "mt-copier")
        app.listeners.append(view.show)
        async with app, _answering(app), _shown(view, console):
            view.tell(_started(app))
            asyncio.get_running_loop().call_later(SETTLED_S, settle_memory)
            await _until_stopped(app)
    if kind == "plain":
        console.print("Stopped.")


async def run_demo(kind: str) -> DemoEnd:
    """Run the demonstration and show how it ended."""
    console = Console()
    story: list[View] = []
    demo = Demo(SystemClock(), lambda line: story[0].tell(line))
    log = logging.getLogger("copier")
    before = log.level
    with writing() as aside:
        story.append(_view(kind, demo.app, console, aside, "mt-copier demo: real engine, simulated brokers"))
        demo.app.listeners.append(story[0].show)
        log.setLevel(logging.CRITICAL)  # Its troubles are part of the story, and told there.
        try:
            async with demo.live(), _shown(story[0], console):
                end = await demo.play()
        finally:
            log.setLevel(before)
    if kind != "json":
        _show_end(end, console)
    return end


def _show_end(end: DemoEnd, console: Console) -> None:
    console.print(end_table(end))
    for follower in end.followers:
        for sentence in follower.refused:
            console.print(f"  [yellow]refused[/]  [bold]{follower.follower}[/] {sentence}", highlight=False)
    for trouble in (*end.doubled, *end.lost):
        console.print(f"  [bold red]wrong[/]  {trouble}", highlight=False)
    console.print(hops_line(end.hops))
    console.print(f"[bold {'green' if end.good else 'red'}]{end.verdict}[/]", highlight=False)


def _view(kind: str, app: App, console: Console, aside: Aside, title: str) -> "View":
    match kind:
        case "live":
            return LiveView(app, title)
        case "json":
            return JsonView(aside)
        case _:
            return PlainView(console, aside)


@contextlib.asynccontextmanager
async def _shown(view: View, console: Console) -> AsyncIterator[None]:
    if isinstance(view, LiveView):
        async with view.on(console):
            yield
    else:
        yield


@contextlib.asynccontextmanager
async def _answering(app: App) -> AsyncIterator[None]:
    """Let monitoring ask, where the settings say so; nothing of it is imported otherwise."""
    settings = app.settings.metrics
    if settings is None:
        yield
        return
    try:
        from copier.endpoint import answering
    except ImportError as error:
        raise SettingsError([f"metrics: {error.name} is not installed; expected `pip install mt-copier[metrics]`"]) from None
    async with answering(app, settings):
        yield


def _started(app: App) -> str:
    followers = app.following
    watching = f"watching {', '.join(app.watchers)}" if app.watchers else ""
    following = f"following with {', '.join(followers)}" if followers else ""
    return "; ".join(filter(None, (watching, following))).capitalize() + ". Ctrl+C stops; what is open stays open."


async def _until_stopped(app: App) -> None:
    """Run until the engine ends by itself or someone asks it to stop."""
    task = asyncio.create_task(app.run(), name="engine")
    loop = asyncio.get_running_loop()
    asked = False

    def stop() -> None:
        nonlocal asked
        asked = True
        task.cancel()

    signals = (signal.SIGINT, signal.SIGTERM)
    with contextlib.suppress(NotImplementedError):  # Windows has no signals on its loop; there Ctrl+C cancels the main task.
        for number in signals:
            loop.add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        if not asked:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
    finally:
        with contextlib.suppress(NotImplementedError):
            for number in signals:
                loop.remove_signal_handler(number)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"at": record.created, "level": record.levelname.lower(), "from": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


@contextlib.contextmanager
def _logging(settings: LogSettings, console: Console | None, aside: Aside) -> Iterator[None]:
    """Log as the settings say: above the moving picture, to stderr, or into a file."""
    handler: logging.Handler
    if settings.file is not None:
        handler = logging.FileHandler(settings.file, encoding="utf-8")
    elif console is not None:
        handler = RichHandler(console=console, show_path=False, markup=False)
    else:
        handler = logging.StreamHandler(sys.stderr)
    if settings.format is LogFormat.JSON:
        handler.setFormatter(_JsonLines())
    elif not isinstance(handler, RichHandler):
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("copier")
    before = root.level
    root.setLevel(settings.level.value.upper())
    written = AsideHandler(aside, handler)
    root.addHandler(written)
    try:
        yield
    finally:
        root.removeHandler(written)
        root.setLevel(before)
        aside.put(handler.close)
