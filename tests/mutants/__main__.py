"""Measure how soon each mutant is caught, and write the table: `python -m tests.mutants --starts 15`."""

import argparse
import os
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.mutants.hunt import Hunt, hunt_by_name
from tests.mutants.mutants import MUTANTS, Mutant

DOCS = Path(__file__).resolve().parents[2] / "docs" / "reliability-mutants.md"
APART = 1_000
"""Between the first seeds of two starts."""
HEAD = """# Mutants of the protocol

What the protocol rests on is taken out rule by rule, and the simulated histories must notice. A mutant is put over the
shipped code by a test (`tests/mutants/mutants.py`); nothing in the product can be switched off. A history counts only if
the judge calls it wrong with the mutant, by an invariant that the mutant is meant to break, and right without it. Where
random histories meet the fault too rarely, they are given more of it: the column says which.

The table is written by `python -m tests.mutants --starts {starts}` (or `make mutants`): each mutant is looked for from {starts}
different first seeds, at most {bound} histories long. `make test-slow` tries each once.

| rule taken out | the mutant | histories | caught by | median histories | caught within {bound} |
|---|---|---|---|---|---|
"""


def measure(mutants: list[Mutant], starts: int, jobs: int, console: Console) -> dict[str, list[Hunt]]:
    """Look for each mutant from each start; return what came of it, by mutant."""
    found: dict[str, list[Hunt]] = {mutant.name: [] for mutant in mutants}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, ProcessPoolExecutor(jobs) as pool:
        bar = progress.add_task("hunts", total=len(mutants) * starts)
        asked = [pool.submit(hunt_by_name, mutant.name, start * APART) for start in range(starts) for mutant in mutants]
        for done in as_completed(asked):
            result = done.result()
            found[result.mutant].append(result)
            caught = f"caught after {result.histories}" if result.invariant else "got away"
            progress.update(bar, advance=1, description=f"{result.mutant}: {caught}")
    return found


def row(mutant: Mutant, hunts: list[Hunt]) -> str:
    """Return a mutant's line of the table."""
    caught = [hunt for hunt in hunts if hunt.invariant]
    median = statistics.median_high(hunt.histories if hunt.invariant else mutant.bound + 1 for hunt in hunts)
    told = median if median <= mutant.bound else f"more than {mutant.bound}"
    by = "; ".join(meant for meant in mutant.breaks if any(hunt.invariant == meant for hunt in caught))
    cells = (mutant.name, mutant.without, mutant.flavour.name, by or "nothing", told, f"{100 * len(caught) // len(hunts)} %")
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def table(mutants: list[Mutant], found: dict[str, list[Hunt]], starts: int) -> str:
    """Return the whole document."""
    bound = max(mutant.bound for mutant in mutants)
    return HEAD.format(starts=starts, bound=bound) + "\n".join(row(mutant, found[mutant.name]) for mutant in mutants) + "\n"


def main() -> int:
    """Measure, show, and write the document if all mutants were asked for; 1 where one always got away."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--starts", type=int, default=15, help="from how many different seeds each is looked for")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", metavar="NAME", action="append", help="this mutant; may be said several times")
    asked = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if not asked.only or mutant.name in asked.only]
    if not mutants:
        parser.error(f"no such mutant; there are: {', '.join(mutant.name for mutant in MUTANTS)}")
    console = Console(stderr=True)
    found = measure(mutants, asked.starts, asked.jobs, console)
    told = table(mutants, found, asked.starts)
    if asked.only:
        sys.stdout.write(told.partition("|---")[2].partition("\n")[2])
    else:
        DOCS.write_text(told, encoding="utf-8")
        console.print(f"written to {DOCS}")
    missed = [mutant.name for mutant in mutants if not any(hunt.invariant for hunt in found[mutant.name])]
    if missed:
        console.print(f"never caught: {', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
