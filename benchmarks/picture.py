"""Draws how latency is distributed by the number of followers, as an SVG that is the same for the same numbers."""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from benchmarks.latency import Latency

STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "latency", "font.family": "DejaVu Sans", "font.size": 11}


def draw(rows: Sequence[Latency], path: Path) -> bool:
    """Write the picture; return whether there was anything to draw it with."""
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        return False
    rows = [row for row in rows if row.broker == "instant" and row.carrier == "redis" and row.last_ms]
    if not rows:
        return False
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for row in rows:
            ordered = sorted(row.last_ms)
            shares = [100 * (place + 1) / len(ordered) for place in range(len(ordered))]
            axes.plot(ordered, shares, linewidth=1.8, label=f"{row.followers:,} follower{'s' * (row.followers > 1)}")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
        axes.set_xlabel("milliseconds from the event published to the order leaving for the last follower")
        axes.set_ylabel("percent of the events")
        axes.set_ylim(0, 100)
        axes.grid(visible=True, which="both", linewidth=0.4)
        axes.legend(frameon=False, loc="lower right")
        text = StringIO()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(text, metadata={"Date": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n", encoding="utf-8")
    return True
