"""Every measurement, one after the other: tables on the screen, numbers as JSON, a picture, and docs/performance.md anew."""

import argparse
import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import carriers, cost, floors, gateways, hops, latency, start, stores, sustained
from benchmarks.budgets import budgets
from benchmarks.measures import HERE, RESULTS, Bar, Step, counts, keep, machine, say, table
from benchmarks.picture import draw

DOC = HERE.parent / "docs" / "performance.md"
PICTURE = Path("pictures") / "latency.svg"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

Part = tuple[str, str, Callable[..., dict[str, Any]], Callable[[dict[str, Any]], str]]
PARTS: tuple[Part, ...] = (
    ("floors", "What cannot be undercut", floors.measure, floors.tables),
    ("latency", "From the master's change to the last follower's order", latency.measure, latency.tables),
    ("cost", "The processor's part of it", cost.measure, cost.tables),
    ("hops", "The pure steps, one by one", hops.measure, hops.tables),
    ("stores", "The ledger's databases", stores.measure, stores.tables),
    ("sustained", "Copies a second", sustained.measure, sustained.tables),
    ("start", "Start and memory", start.measure, start.tables),
    ("gateways", "What a gateway adds", gateways.measure, gateways.tables),
    ("carriers", "What a carrier of the Expert Advisors adds", carriers.measure, carriers.tables),
)
STEPS = 32 + sum(map(len, carriers.WAYS.values()))


def measure(step: Step, *, tiny: bool = False, only: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Run every part, or some of them, and keep each result at once."""
    found: dict[str, dict[str, Any]] = {}
    for name, _, run, _ in PARTS:
        if only and name not in only:
            continue
        try:
            found[name] = run(step, tiny=tiny)
        except RuntimeError as error:
            say(f"{name} was not measured: {error}")
            continue
        if not tiny:
            keep(name, found[name])
    return found


def document(found: dict[str, dict[str, Any]], about: dict[str, Any]) -> str:
    """Return what was measured, in Markdown."""
    day = datetime.datetime.now(datetime.UTC).date()
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    lines = [
        f"Measured on {day}: {about['cores']} cores ({about['processor']}), {about['memory_gib']} GiB, {about['system']}, "
        f"Python {about['python']}, {packages}; load {about['load']} when it began.",
        "",
        "### Budgets",
        "",
        table(("budget", "at most", "measured", "verdict"), budgets(found)),
        "",
        f"![How long until the order leaves for the last follower]({PICTURE.as_posix()})",
    ]
    for name, title, _, tables in PARTS:
        if name in found:
            lines += ["", f"### {title}", "", tables(found[name]).rstrip()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    counts(parser)
    parser.add_argument("--doc", type=Path, default=DOC, help="the document whose measured part is written anew")
    parser.add_argument("--only", nargs="*", default=[], choices=[name for name, *_ in PARTS], help="some parts only")
    parser.add_argument(
        "--followers", type=int, nargs="*", default=list(latency.FOLLOWERS), help="for how many latency is measured"
    )
    options = parser.parse_args()
    latency.FOLLOWERS = tuple(options.followers)
    about = machine()
    with Bar("bench", STEPS) as step:
        found = measure(step, tiny=options.tiny, only=options.only)
    text = document(found, about)
    say(text)
    if options.tiny:
        return
    if "latency" in found:
        draw(found["latency"]["rows"], options.doc.parent / PICTURE)
    (RESULTS / "latest.md").write_text(text, encoding="utf-8")
    before, _, rest = options.doc.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    options.doc.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
