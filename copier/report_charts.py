"""The charts of a report: SVG by matplotlib, the same bytes for the same numbers, in the colours of the page they stand in."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from io import StringIO
from itertools import pairwise
from typing import Any

import matplotlib
import matplotlib.dates
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LinearLocator, Locator, MaxNLocator

_dates: Any = matplotlib.dates  # untyped in matplotlib's own stubs
_INK, _GRID, _SERIES = "#0a0a01", "#0a0a02", "#0a0b{:02x}"
"""Colours that stand for the page's own, which change with its light."""
SERIES_MAX = 8
"""So many lines have a colour of their own; the ones after share the last."""
_POINTS_MAX = 600
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "timezone": "UTC",
    "text.parse_math": False,
    "path.simplify": False,
}

Line = list[tuple[datetime, float]]


def results(lines: Sequence[Line]) -> str:
    """Draw every account's growth in percent."""

    def draw(axes: Axes) -> None:
        for place, line in enumerate(lines):
            _line(axes, line, place)
        axes.axhline(0, color=_INK, linewidth=0.8)
        _percent_axis(axes)

    return _svg("equity", draw, "Growth of the master and every follower since the start in percent")


def drawdowns(lines: Sequence[Line]) -> str:
    """Draw how far every account is below its highest growth so far, in percent."""

    def draw(axes: Axes) -> None:
        for place, line in enumerate(lines):
            _line(axes, line, place)
        axes.set_ylim(bottom=min(axes.get_ylim()[0], -1.0), top=0)
        _percent_axis(axes)

    return _svg("drawdown", draw, "Drawdown of the master and every follower in percent below their highest so far")


def reasons(labels: Sequence[str], columns: Sequence[Sequence[int]]) -> str:
    """Draw how often each reason kept a trade from being copied, follower upon follower; nothing where there is none."""
    if not labels:
        return ""
    totals = [sum(counts[index] for counts in columns) for index in range(len(labels))]

    def draw(axes: Axes) -> None:
        left = [0] * len(labels)
        for place, counts in enumerate(columns, start=1):
            axes.barh(range(len(labels)), counts, left=left, color=_colour(place), height=0.62, linewidth=0)
            left = [sum(pair) for pair in zip(left, counts, strict=True)]
        for index, total in enumerate(totals):
            axes.annotate(f"{total:,}", (total, index), xytext=(4, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(labels)), [_wrapped(label) for label in labels])
        axes.invert_yaxis()
        axes.set_xlim(right=max(totals) * 1.12)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(visible=False, axis="y")

    return _svg("reasons", draw, "How often each reason kept a trade from being copied", height=0.7 + 0.42 * len(labels))


def spark(account: str, equity: Line, balance: Line, place: int) -> str:
    """Draw one account's equity over its balance in money; nothing without points."""
    if not equity:
        return ""

    def draw(axes: Axes) -> None:
        axes.plot(*zip(*_thin(balance), strict=True), color=_GRID, linewidth=1.2, drawstyle="steps-post")
        _line(axes, equity, place)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        _date_axis(axes, LinearLocator(3))

    return _svg(f"spark{place}", draw, f"Equity and balance of {account}", width=4.4, height=1.7)


def _line(axes: Axes, line: Line, place: int) -> None:
    if not line:
        return
    master = place == 0
    axes.plot(
        *zip(*_thin(line), strict=True),
        color=_colour(place),
        linewidth=2.2 if master else 1.5,
        zorder=4 if master else 3,
    )


def _colour(place: int) -> str:
    return _SERIES.format(min(place, SERIES_MAX))


def _thin(line: Line) -> Line:
    """Keep the first, last, lowest and highest of every stretch: what an eye can see, and every extreme."""
    if len(line) <= _POINTS_MAX:
        return line
    stretches = _POINTS_MAX // 4
    edges = [round(index * len(line) / stretches) for index in range(stretches + 1)]
    kept: list[int] = []
    for start, end in pairwise(edges):
        part = range(start, end)
        lowest, highest = min(part, key=lambda index: line[index][1]), max(part, key=lambda index: line[index][1])
        kept += sorted({start, lowest, highest, end - 1})
    return [line[index] for index in kept]


def _percent_axis(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:+,.4g}\u202f%".replace("-", "\u2212") if value else "0")
    )
    _date_axis(axes, _dates.AutoDateLocator(minticks=2, maxticks=5))


def _date_axis(axes: Axes, locator: Locator) -> None:
    first, last = axes.get_xlim()
    layout = "%H:%M" if last - first < 1 else "%d %b" if last - first < 400 else "%b %Y"
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(_dates.DateFormatter(layout))
    axes.grid(visible=False, axis="x")
    axes.margins(x=0)


def _wrapped(label: str, width: int = 20) -> str:
    lines = [""]
    for word in label.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


@contextmanager
def _style(name: str) -> Iterator[None]:
    """Set what is drawn apart from whatever the machine's own matplotlib settings say."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE | {"svg.hashsalt": f"mt-copier {name}"})
        yield


def _svg(name: str, draw: Callable[[Axes], None], alt: str, *, width: float = 5.2, height: float = 2.9) -> str:
    with _style(name):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        text = StringIO()
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(text, format="svg", transparent=True, metadata=metadata)
    return _for_page(text.getvalue(), alt)


def _for_page(svg: str, alt: str) -> str:
    """Make a file's SVG part of a page: its colours, its fonts, no fixed size, no ids that other charts have too."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="(?:[a-z0-9.]+_\d+|[a-zA-Z]+)"', "", svg)
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    label = alt.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    svg = svg.replace(_INK, "var(--ink)").replace(_GRID, "var(--grid)")
    return re.sub(r"#0a0b([0-9a-f]{2})", lambda match: f"var(--s{int(match[1], 16)})", svg).strip()
