"""Numbers of a run: what they sum up to, how they are shown and kept, and on which machine they came about."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

HERE = Path(__file__).parent
RESULTS = HERE / "results"


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Times in milliseconds."""

    count: int
    p50: float
    p95: float
    p99: float
    max: float

    def __str__(self) -> str:
        return f"{shown(self.p50)} / {shown(self.p99)} / {shown(self.max)}"


def summary(samples_ms: Iterable[float]) -> Summary | None:
    """Return median, 95th, 99th and largest of some milliseconds; None of none."""
    ordered = sorted(samples_ms)
    if not ordered:
        return None

    def share(part: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * part))], 4)

    return Summary(count=len(ordered), p50=share(0.5), p95=share(0.95), p99=share(0.99), max=round(ordered[-1], 4))


def shown(number: float) -> str:
    """Return a number with three significant digits."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}" if number >= 1 else f"{number:.3f}"


def three(found: Summary | None) -> str:
    """Return median, 99th percentile and maximum for a table."""
    return "-" if found is None else str(found)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Return what the numbers depend on besides the code."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {
            name: found for name in ("redis", "hiredis", "uvloop", "sqlalchemy", "msgspec") if (found := _version(name))
        },
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    if not hasattr(os, "sysconf"):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def keep(name: str, result: object) -> Path:
    """Write a result beside the benchmarks as JSON; return where."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(msgspec.to_builtins(result), indent=1) + "\n", encoding="utf-8")
    return path


def say(text: str) -> None:
    """Print to the screen what is for the reader of the numbers."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


Step = Callable[[str], None]
"""Tells what is being measured now; the bar moves on by one."""


class Bar:
    """A progress bar on standard error, so that a table can be sent into a file."""

    def __init__(self, title: str, steps: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            refresh_per_second=1,
        )
        self._task = self._progress.add_task(title, total=steps)
        self._begun = False

    def __enter__(self) -> Step:
        self._progress.start()
        return self.step

    def __exit__(self, *_: object) -> None:
        self._progress.advance(self._task)
        self._progress.stop()

    def step(self, what: str) -> None:
        """Show what is measured now."""
        if self._begun:
            self._progress.advance(self._task)
        self._begun = True
        self._progress.update(self._task, description=what)


def counts(parser: argparse.ArgumentParser) -> None:
    """Add the option that makes a run tiny: to see that it runs, not to learn anything."""
    parser.add_argument("--tiny", action="store_true", help="the smallest run there is, to see that it works")
