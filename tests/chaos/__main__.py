"""Plays runs of the engine under faults, and writes how it went: `python -m tests.chaos --runs 20 --seed 1`."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.chaos.runs import Outcome, play, table
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "reliability-chaos.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="how many runs, one after the other")
    parser.add_argument("--seed", type=int, default=1, help="decides faults, their moments, and the master's trades")
    parser.add_argument("--faults", type=int, default=6, help="how many faults beside those of every run")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    outcomes: list[Outcome] = []
    for number in range(arguments.runs):
        with tempfile.TemporaryDirectory(prefix="mt-copier-chaos-") as folder:
            outcome = asyncio.run(play(arguments.seed, number, Path(folder), arguments.faults))
        outcomes.append(outcome)
        sys.stdout.write(outcome.line + "\n")
        for trouble in outcome.troubles:
            sys.stdout.write(f"  {trouble}\n")
        sys.stdout.flush()
    page = table(outcomes, f"python -m tests.chaos --runs {arguments.runs} --seed {arguments.seed} --write")
    sys.stdout.write("\n" + page)
    if arguments.write:
        PAGE.write_text(page)
    return 1 if any(outcome.troubles for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
