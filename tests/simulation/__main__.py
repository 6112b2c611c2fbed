"""Play many histories from the command line: `python -m tests.simulation --histories 1000 --seed 1`."""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tests.simulation.figures import page
from tests.simulation.lives import LIVES, deaths, die
from tests.simulation.plan import make_plan
from tests.simulation.play import Outcome as Outcome
from tests.simulation.play import play as play
from tests.simulation.play import tell as tell
from tests.simulation.play import tell_plan
from tests.simulation.shrink import shrink

T = TypeVar("T")


def _be_quiet() -> None:
    logging.getLogger("copier").propagate = False
    logging.getLogger("copier").addHandler(logging.NullHandler())


def run(what: Callable[[T], Outcome], each: Iterable[T], *, jobs: int, title: str) -> list[Outcome]:
    """Return the outcomes in order, the same whatever the jobs, with one bar for all of them."""
    every, outcomes, wrong = list(each), list[Outcome](), 0
    bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with (
        Progress(*bar, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress,
        ProcessPoolExecutor(jobs, initializer=_be_quiet) as pool,
    ):
        task = progress.add_task(title, total=len(every))
        for outcome in pool.map(what, every, chunksize=4):
            outcomes.append(outcome)
            wrong += bool(outcome.wrong)
            progress.update(task, advance=1, description=f"{title}, {wrong} wrong")
    return outcomes


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, show how far it is, and tell the first history that went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--histories", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="the first seed; the others follow")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes; the results are the same with any")
    parser.add_argument(
        "--every-await", action="store_true", help="kill every role of twenty fixed lives before each of its steps"
    )
    parser.add_argument("--sample", type=int, default=1, metavar="N", help="with --every-await: every N-th step only")
    parser.add_argument("--tell", action="store_true", help="print the one history of --seed, right or wrong")
    parser.add_argument("--shrink", action="store_true", help="look for a shorter history that fails like that of --seed")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the numbers of the run as a page")
    asked = parser.parse_args(arguments)
    _be_quiet()
    if asked.tell or asked.shrink:
        plan = make_plan(asked.seed)
        sys.stdout.write(tell_plan(shrink(plan) if asked.shrink else plan) + "\n")
        return 0
    swept: list[Outcome] = []
    outcomes: list[Outcome] = []
    if asked.every_await:
        places = [death for name in LIVES for death in deaths(name, asked.sample)]
        swept = run(die, places, jobs=asked.jobs, title="deaths")
    if asked.histories:
        seeds = range(asked.seed, asked.seed + asked.histories)
        outcomes = run(play, seeds, jobs=asked.jobs, title="histories")
    failed = [outcome for outcome in (*swept, *outcomes) if outcome.wrong]
    copied, kills = sum(each.copied for each in outcomes), sum(each.kills for each in outcomes)
    freezes, faults = sum(each.freezes for each in outcomes), sum(each.faults for each in outcomes)
    sys.stdout.write(
        f"{len(outcomes)} histories from seed {asked.seed}, {len(swept)} deaths of fixed lives: {copied} copies, {kills} kills "
        f"and {freezes} freezes, {faults} other faults, {len(failed)} wrong\n"
    )
    for outcome in failed:
        sys.stdout.write(f"seed {outcome.seed}: {'; '.join(outcome.wrong[:3])}\n")
    if asked.write is not None:
        options = list(arguments if arguments is not None else sys.argv[1:])
        asked.write.write_text(page(shlex.join(["python", "-m", "tests.simulation", *options]), outcomes, swept))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
