"""Plays and judges the history of one seed, or tells it."""

from collections import Counter
from typing import NamedTuple

from tests.simulation.history import History
from tests.simulation.judge import judge
from tests.simulation.plan import Plan, make_plan


class Outcome(NamedTuple):
    """What came of one history."""

    seed: int
    wrong: list[str]
    kills: int = 0
    freezes: int = 0
    faults: int = 0
    copied: int = 0
    points: int = 0
    """Steps of watchers and workers, each a place to die."""
    hurts: Counter[str] = Counter()
    """What went wrong, by kind."""
    pairs: Counter[str] = Counter()
    """Relations by account models, master to follower."""


def play(seed: int) -> Outcome:
    """Run and judge the history of a seed; whatever ends it early is wrong too."""
    return play_plan(make_plan(seed))


def play_plan(plan: Plan, kill: tuple[str, int] | None = None) -> Outcome:
    """Run and judge one history, with one more death in it if asked for: a role, and the step before which it dies."""
    history = History(plan, kill=kill)
    try:
        wrong = history.run(judge)
    except (Exception, AssertionError) as error:
        return Outcome(plan.seed, [f"ended by {error!r}"])
    copied = sum(receipt.verdict == "copied" for receipt in history.receipts)
    modes = {account.name: account.mode for account in (*plan.masters, *plan.followers)}
    pairs = Counter(f"{modes[master]} to {follower.mode}" for follower in plan.followers for master in follower.masters)
    return Outcome(plan.seed, wrong, history.kills, history.freezes, history.faults, copied, history.points, history.hurts, pairs)


def tell(seed: int) -> str:
    """Return the history of a seed as a person reads it, with the engine's own log in it."""
    return tell_plan(make_plan(seed))


def tell_plan(plan: Plan, kill: tuple[str, int] | None = None) -> str:
    """Return one history as a person reads it."""
    history = History(plan, kill=kill, keep_log=True)
    try:
        wrong = history.run(judge)
    except (Exception, AssertionError) as error:
        wrong = [f"ended by {error!r}"]
    accounts = [f"{account.name}: {account}" for account in (*plan.masters, *plan.followers)]
    return "\n".join([f"history of seed {plan.seed}", *accounts, *history.trace, *(f"WRONG: {words}" for words in wrong)])
