"""Short fixed lives of positions, to be killed at every step that a role takes in them."""

from decimal import Decimal
from typing import NamedTuple

from copier.gateways.paper_faults import (
    Fault,
    Operation,
    answer_lost,
    comment_stripped,
    delay,
    partial_fill,
    requote,
    stops_refused,
    ticket_changed,
)
from copier.model import MarginMode
from tests.simulation.history import History
from tests.simulation.judge import judge
from tests.simulation.plan import AccountPlan, Plan, Step
from tests.simulation.play import Outcome, play_plan

QUIET_S = 4.0


class Death(NamedTuple):
    """One place to die in a life: a role, and the step before which it does."""

    life: str
    role: str
    step: int


def life(
    follower: MarginMode,
    master: MarginMode = MarginMode.HEDGING,
    faults: tuple[Step, ...] = (),
    masters: int = 1,
    **habits: object,
) -> Plan:
    """Return a life in which a position is opened, levelled, joined, cut in part, grown, and closed, while another stays."""
    names = tuple(f"m{number}" for number in range(1, masters + 1))
    accounts = tuple(AccountPlan(name, master, 7_200, 0.01) for name in names)
    copy = AccountPlan("f1", follower, 10_800, 0.01, levels=masters == 1, masters=names)._replace(**habits)  # type: ignore[arg-type]
    steps = [
        Step(0.1, "open", "m1", 0.10, 0.4),
        Step(0.3, "levels", "m1", 0.10),
        Step(0.5, "open", names[-1], 0.12, 0.4),
        Step(0.7, "partly", "m1", 0.10),
        Step(0.9, "open", "m1", 0.50, 0.2),
        Step(1.0, "scale in", "m1", 0.10, 0.4),
        Step(1.1, "close", "m1", 0.10),
        Step(1.3, "reverse", "m1", 0.10, 0.2),
    ]
    steps += faults
    return Plan(7, accounts, (copy,), 30.0, tuple(sorted(steps, key=lambda step: step.at_s)), 2.0, QUIET_S)


def _at_the_follower(at_s: float, operation: Operation, fault: Fault) -> tuple[Step, ...]:
    return (Step(at_s, "fault", "f1", 0, 1.0, fault, operation),)


def _lives() -> dict[str, Plan]:
    modes = list(MarginMode)
    lives = {f"{master} to {follower}": life(follower, master) for master in modes for follower in modes}
    lives |= {
        "an open's answer is lost": life(modes[0], faults=_at_the_follower(0.0, Operation.EXECUTE, answer_lost())),
        "a netting open's answer is lost": life(modes[1], modes[1], _at_the_follower(0.0, Operation.EXECUTE, answer_lost())),
        "a reduction's answer is lost": life(modes[2], modes[2], _at_the_follower(0.0, Operation.CLOSE, answer_lost())),
        "a netting reduction is slow": life(modes[1], modes[1], _at_the_follower(0.0, Operation.CLOSE, delay(send_s=0.5))),
        "an open is filled in part": life(modes[0], modes[1], _at_the_follower(0.0, Operation.EXECUTE, partial_fill("0.5"))),
        "a requote": life(modes[2], faults=_at_the_follower(0.0, Operation.EXECUTE, requote())),
        "levels are refused at the open": life(modes[0], faults=_at_the_follower(0.4, Operation.EXECUTE, stops_refused())),
        "a ticket is replaced": life(modes[0], faults=_at_the_follower(0.0, Operation.EXECUTE, ticket_changed())),
        "comments are stripped": life(modes[0], comment=comment_stripped()),
        "lists lag and there is no history": life(modes[2], modes[2], lag_ms=400, deals=False),
        "two masters": life(modes[0], modes[2], masters=2, ratio=Decimal("0.5")),
    }
    return lives


LIVES = _lives()
"""Twenty of them, the nine pairs of account models among them."""


def deaths(name: str, every: int = 1) -> list[Death]:
    """Return every n-th place to die in a life, which must itself end well."""
    whole = History(LIVES[name])
    wrong = whole.run(judge)
    assert not wrong, f"{name}: {wrong}"
    return [Death(name, role, step) for role in sorted(whole.steps_of) for step in range(1, whole.steps_of[role], every)]


def die(death: Death) -> Outcome:
    """Play a life with this death in it."""
    outcome = play_plan(LIVES[death.life], (death.role, death.step))
    wrong = [f"{death.life}, {death.role} killed before step {death.step}: {words}" for words in outcome.wrong]
    if not outcome.kills:
        wrong.append(f"{death.life}: {death.role} was not killed before step {death.step}")
    return outcome._replace(wrong=wrong)
