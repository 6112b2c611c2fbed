"""Plays runs of the engine under faults, and writes how it went: `python -m tests.chaos --runs 20 --seed 1`."""

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

from tests.chaos.runs import Outcome, one, table
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "reliability-chaos.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="how many runs")
    parser.add_argument("--seed", type=int, default=1, help="decides faults, their moments, and the master's trades")
    parser.add_argument("--faults", type=int, default=3, help="how many faults beside those of every run")
    parser.add_argument("--jobs", type=int, default=1, help="how many runs at the same time")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    outcomes: list[Outcome] = []
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        played = [pool.submit(one, arguments.seed, number, arguments.faults) for number in range(arguments.runs)]
        for run in played:
            outcomes.append(run.result())
            sys.stdout.write(outcomes[-1].line + "\n")
            for trouble in outcomes[-1].troubles:
                sys.stdout.write(f"  {trouble}\n")
            sys.stdout.flush()
    page = table(
        outcomes, f"python -m tests.chaos --runs {arguments.runs} --seed {arguments.seed} --jobs {arguments.jobs} --write"
    )
    sys.stdout.write("\n" + page)
    if arguments.write:
        PAGE.write_text(page)
    return 1 if any(outcome.troubles for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
