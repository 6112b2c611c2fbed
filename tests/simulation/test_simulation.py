"""Whole histories by seed: kills, freezes, faults of brokers, Redis and disk, judged by the brokers' own logs."""

import pytest

from copier.model import MarginMode
from tests.simulation.__main__ import play, tell
from tests.simulation.history import History
from tests.simulation.judge import judge
from tests.simulation.plan import AccountPlan, Plan, Step, make_plan

SHORT = range(20)
LONG = range(20, 1_020)


@pytest.mark.parametrize("seed", SHORT)
def test_a_history_ends_with_nothing_doubled_and_nothing_lost(seed: int) -> None:
    assert not play(seed).wrong, tell(seed)


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", LONG)
def test_a_thousand_histories_end_with_nothing_doubled_and_nothing_lost(seed: int) -> None:
    assert not play(seed).wrong, tell(seed)


@pytest.mark.parametrize("seed", [2, 3, 10])
def test_a_seed_gives_the_same_history_to_the_byte(seed: int) -> None:
    first, second = History(make_plan(seed)), History(make_plan(seed))
    first.run()
    second.run()
    assert "\n".join(first.trace).encode() == "\n".join(second.trace).encode()
    assert first.trace


def life(follower: MarginMode) -> Plan:
    """A position that is opened, levelled, grown or joined, cut in part, and closed, while another stays."""
    master = AccountPlan("m1", MarginMode.NETTING if follower is MarginMode.NETTING else MarginMode.HEDGING, 7_200, 0.01)
    copy = AccountPlan("f1", follower, 10_800, 0.01, levels=True, masters=("m1",))
    steps = [
        Step(0.1, "open", "m1", 0.10, 0.4),
        Step(0.3, "levels", "m1", 0.10),
        Step(0.5, "open", "m1", 0.12, 0.4),
        Step(0.7, "partly", "m1", 0.10),
        Step(0.9, "open", "m1", 0.50, 0.2),
        Step(1.1, "close", "m1", 0.10),
    ]
    return Plan(7, (master,), (copy,), 30.0, tuple(steps), 2.0)


def sweep(follower: MarginMode, role: str, every: int) -> list[str]:
    """Run a fixed life once for every n-th step that a role takes in it, killed before that step."""
    plan = life(follower)
    whole = History(plan)
    whole.run()
    assert not judge(whole)
    assert whole.steps_of[role] > 50
    wrong: list[str] = []
    for step in range(1, whole.steps_of[role], every):
        history = History(plan, kill=(role, step))
        history.run()
        wrong += [f"{role} killed before step {step}: {words}" for words in judge(history)]
    return wrong


@pytest.mark.parametrize("follower", list(MarginMode))
@pytest.mark.parametrize("role", ["worker", "watcher m1"])
def test_a_kill_at_some_awaits_of_a_life_doubles_and_loses_nothing(follower: MarginMode, role: str) -> None:
    assert not sweep(follower, role, every=97)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("follower", list(MarginMode))
@pytest.mark.parametrize("role", ["worker", "watcher m1"])
def test_a_kill_at_every_await_of_a_life_doubles_and_loses_nothing(follower: MarginMode, role: str) -> None:
    assert not sweep(follower, role, every=1)
