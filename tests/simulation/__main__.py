"""Play many histories from the command line: `python -m tests.simulation --histories 1000 --seed 1`."""

import argparse
import logging
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from tests.simulation.history import History
from tests.simulation.judge import judge
from tests.simulation.plan import make_plan


class Outcome(NamedTuple):
    """What came of one history."""

    seed: int
    wrong: list[str]
    kills: int = 0
    freezes: int = 0
    faults: int = 0
    copied: int = 0


def play(seed: int) -> Outcome:
    """Run and judge the history of a seed; whatever ends it early is wrong too."""
    history = History(make_plan(seed))
    try:
        history.run()
        wrong = judge(history)
    except (Exception, AssertionError) as error:
        return Outcome(seed, [f"ended by {error!r}"])
    copied = sum(receipt.verdict == "copied" for receipt in history.receipts)
    return Outcome(seed, wrong, history.kills, history.freezes, history.faults, copied)


def tell(seed: int) -> str:
    """Return the history of a seed as a person reads it, with the engine's own log in it."""
    plan = make_plan(seed)
    history = History(plan, keep_log=True)
    try:
        history.run()
        wrong = judge(history)
    except (Exception, AssertionError) as error:
        wrong = [f"ended by {error!r}"]
    accounts = [f"{account.name}: {account}" for account in (*plan.masters, *plan.followers)]
    return "\n".join([f"history of seed {seed}", *accounts, *history.trace, *(f"WRONG: {words}" for words in wrong)])


def _be_quiet() -> None:
    logging.getLogger("copier").propagate = False
    logging.getLogger("copier").addHandler(logging.NullHandler())


def main() -> int:
    """Play, show how far it is, and tell the first history that went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--histories", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="the first seed; the others follow")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--tell", action="store_true", help="print the one history of --seed, right or wrong")
    asked = parser.parse_args()
    _be_quiet()
    if asked.tell:
        sys.stdout.write(tell(asked.seed) + "\n")
        return 0
    began = time.monotonic()
    outcomes: list[Outcome] = []
    with ProcessPoolExecutor(asked.jobs, initializer=_be_quiet) as pool:
        for outcome in pool.map(play, range(asked.seed, asked.seed + asked.histories), chunksize=4):
            outcomes.append(outcome)
            done = 40 * len(outcomes) // asked.histories
            bad = sum(bool(each.wrong) for each in outcomes)
            if sys.stderr.isatty():
                sys.stderr.write(f"\r[{'#' * done}{'.' * (40 - done)}] {len(outcomes)}/{asked.histories}, {bad} wrong ")
    failed = [outcome for outcome in outcomes if outcome.wrong]
    kills, freezes, faults, copied = (sum(each[index] for each in outcomes) for index in (2, 3, 4, 5))
    sys.stdout.write(
        f"\n{len(outcomes)} histories from seed {asked.seed} in {time.monotonic() - began:.0f} s: {copied} copies, {kills} kills "
        f"and {freezes} freezes, {faults} faults, {len(failed)} wrong\n"
    )
    for outcome in failed:
        sys.stdout.write(f"seed {outcome.seed}: {'; '.join(outcome.wrong[:3])}\n")
    if failed:
        sys.stdout.write(tell(failed[0].seed) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
