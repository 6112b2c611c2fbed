"""Looks for a shorter history that still goes wrong."""

from collections.abc import Callable, Iterator

from tests.simulation.plan import AccountPlan, Plan
from tests.simulation.play import play_plan

RUNS_MAX = 500


def shrink(plan: Plan, fails: Callable[[Plan], bool] | None = None) -> Plan:
    """Return a plan with as few steps, accounts and habits as go wrong too; the same plan where it goes well."""
    fails = fails or (lambda shorter: bool(play_plan(shorter).wrong))
    if not fails(plan):
        return plan
    runs, smaller = 0, True
    while smaller and runs < RUNS_MAX:
        smaller = False
        for shorter in _shorter(plan):
            runs += 1
            if fails(shorter):
                plan, smaller = shorter, True
                break
            if runs >= RUNS_MAX:
                break
    return plan


def _shorter(plan: Plan) -> Iterator[Plan]:
    """Yield plans that lack something, the most first."""
    for account in plan.followers:
        if len(plan.followers) > 1:
            yield _without(plan, account)
    for account in plan.masters:
        if len(plan.masters) > 1:
            yield _without(plan, account)
    size = len(plan.steps) // 2
    while size:
        for start in range(0, len(plan.steps), size):
            yield plan._replace(steps=plan.steps[:start] + plan.steps[start + size :])
        size //= 2
    for account in (*plan.masters, *plan.followers):
        for habit in ("latency_s", "lag_ms", "comment", "empty_s", "lots_max", "offset_s", "levels"):
            plain = account._replace(**{habit: PLAIN[habit]})  # type: ignore[arg-type]
            if plain != account:
                yield _with(plan, account, plain)


PLAIN: dict[str, object] = {
    "latency_s": 0.0,
    "lag_ms": 0,
    "comment": None,
    "empty_s": 0.0,
    "lots_max": None,
    "offset_s": 0,
    "levels": False,
}


def _without(plan: Plan, account: AccountPlan) -> Plan:
    name = account.name
    return plan._replace(
        masters=tuple(master for master in plan.masters if master is not account),
        followers=tuple(
            follower._replace(masters=tuple(master for master in follower.masters if master != name))
            for follower in plan.followers
            if follower is not account and follower.masters != (name,)
        ),
        steps=tuple(step for step in plan.steps if step.who not in (name, f"watcher {name}")),
    )


def _with(plan: Plan, old: AccountPlan, new: AccountPlan) -> Plan:
    return plan._replace(
        masters=tuple(new if account is old else account for account in plan.masters),
        followers=tuple(new if account is old else account for account in plan.followers),
    )
