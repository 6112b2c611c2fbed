"""Histories with more of the fault that matters: a plan by seed, and conditions that hold with a mutant and without."""

import asyncio
import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from copier.clock import Clock
from copier.errors import Reason
from copier.gateways.paper_faults import Fault, Operation, answer_lost, empty_list, never_answered, not_sent, refuse
from copier.model import MarginMode
from copier.watcher import Watcher
from tests.simulation.plan import AccountPlan, Plan, Step, make_plan
from tests.traps.springs import Removal, edges_only, instead


class Flavour(msgspec.Struct, frozen=True):
    """One kind of history."""

    name: str
    plan: Callable[[int], Plan]
    conditions: tuple[Removal, ...] = ()


def _with(plan: Plan, steps: list[Step]) -> Plan:
    return plan._replace(steps=tuple(sorted((*plan.steps, *steps), key=lambda step: step.at_s)))


def _trades(plan: Plan, *what: str) -> list[Step]:
    masters = {master.name for master in plan.masters}
    return [step for step in plan.steps if step.who in masters and (step.what in what or not what)]


def _without(plan: Plan, *begins: str) -> Plan:
    return plan._replace(steps=tuple(step for step in plan.steps if not step.what.startswith(begins)))


def _followers(plan: Plan, **changes: Any) -> Plan:
    changed: list[AccountPlan] = [follower._replace(**changes) for follower in plan.followers]
    return plan._replace(followers=tuple(changed))


def _laid(plan: Plan, dice: random.Random, operation: Operation, *faults: Fault, times: int = 3) -> list[Step]:
    """Return faults on so many of every follower's calls, at any moment."""
    return [
        Step(dice.uniform(0, plan.end_s), "fault", follower.name, 0, 1, dice.choice(faults), operation)
        for follower in plan.followers
        for _ in range(times)
    ]


def _unanswered(seed: int) -> Plan:
    dice = random.Random(f"unanswered {seed}")
    plan = make_plan(seed)
    lost = (answer_lost(), never_answered(executed=True))
    laid = [*_laid(plan, dice, Operation.EXECUTE, *lost), *_laid(plan, dice, Operation.CLOSE, *lost)]
    halves = [Step(dice.uniform(0, plan.end_s), "partly", m.name, dice.random()) for m in plan.masters for _ in range(4)]
    return _with(plan, [*laid, *halves])


def _refused(seed: int) -> Plan:
    dice = random.Random(f"refused {seed}")
    plan = make_plan(seed)
    noes = (refuse(Reason.MARKET_CLOSED), not_sent(), never_answered(executed=False))
    closes = [Step(dice.uniform(0, plan.end_s), "close", m.name, dice.random()) for m in plan.masters for _ in range(4)]
    return _with(plan, [*closes, *_laid(plan, dice, Operation.CLOSE, *noes, times=5)])


def _stripped(seed: int) -> Plan:
    return _followers(_unanswered(seed), comment=Fault(comment=""), mode=MarginMode.HEDGING)


def _tickets(seed: int) -> Plan:
    return _followers(_unanswered(seed), mode=MarginMode.MT4)


def _lagging(seed: int) -> Plan:
    return _followers(_unanswered(seed), lag_ms=400)


def _empty(seed: int) -> Plan:
    dice = random.Random(f"empty {seed}")
    plan = make_plan(seed)
    masters = [master.name for master in plan.masters for _ in range(3)]
    lists = [Step(dice.uniform(0, plan.end_s), "fault", m, 0, 2, empty_list(), Operation.POSITIONS) for m in masters]
    return _with(plan, lists)


def _killed(seed: int) -> Plan:
    dice = random.Random(f"killed {seed}")
    plan = make_plan(seed)
    return _with(plan, [Step(step.at_s, "kill", "worker", dice.random(), 0.5) for step in _trades(plan)])


def _edges(seed: int) -> Plan:
    dice = random.Random(f"edges {seed}")
    plan = _without(make_plan(seed), "redis")
    roles = ("worker", *(f"watcher {master.name}" for master in plan.masters))
    kills = [Step(step.at_s, "kill", dice.choice(roles), dice.random(), 0.5) for step in _trades(plan)]
    again = [
        Step(dice.uniform(0, plan.end_s), "redis redelivers", master.name, 0, 2.0) for master in plan.masters for _ in range(3)
    ]
    return _with(plan, [*kills, *again])


def _frozen(seed: int) -> Plan:
    dice = random.Random(f"frozen {seed}")
    plan = make_plan(seed)
    freezes = []
    for step in _trades(plan):
        at_s = step.at_s + dice.choice((0.001, 0.01, 0.02, 0.03))
        freezes.append(Step(at_s, "freeze", "worker", dice.random(), dice.choice((0.3, 1.0, 3.0))))
    return _with(plan, freezes)._replace(followers=tuple(f._replace(latency_s=0.05) for f in plan.followers))


def _forgetful(seed: int) -> Plan:
    dice = random.Random(f"forgetful {seed}")
    plan = make_plan(seed)
    masters = [master.name for master in plan.masters for _ in range(2)]
    flushes = [Step(dice.uniform(0, plan.end_s), "redis flushed", master) for master in masters]
    kills = [Step(flush.at_s - 0.1, "kill", "worker", 0.0, 3.0) for flush in flushes]
    return _with(plan, [*flushes, *kills])


def _replies(seed: int) -> Plan:
    dice = random.Random(f"replies {seed}")
    plan = make_plan(seed)
    masters = [master.name for master in plan.masters for _ in range(2)]
    return _with(plan, [Step(dice.uniform(0, plan.end_s), "redis reply lost", master, 0, 3.0) for master in masters])


def _limited(seed: int) -> Plan:
    dice = random.Random(f"limited {seed}")
    plan = _without(make_plan(seed), "fault", "hand")
    plan = _followers(plan, mode=MarginMode.HEDGING, comment=None, lots_max=Decimal("1.5"), ratio=Decimal(1))
    bursts = [Step(dice.uniform(0, plan.end_s), "burst", m.name, 0.3, 0.4) for m in plan.masters for _ in range(2)]
    return _with(plan, [*bursts, *_laid(plan, dice, Operation.EXECUTE, answer_lost(), times=4)])


class _Behind:
    """A clock that is wrong."""

    def __init__(self, clock: Clock, behind_ms: int) -> None:
        self._clock = clock
        self._behind_ms = behind_ms

    def now_ms(self) -> int:
        return self._clock.now_ms() - self._behind_ms


def _late_clock(
    start: Any, watcher: Watcher, name: str, gateway: Any, stream: Any, ledger: Any, clock: Clock, settings: Any
) -> None:
    """A watcher that starts again does so on another machine, whose clock is minutes behind the first one's."""
    behind_s = 600 if asyncio.get_running_loop().time() > 1 else 0
    start(watcher, name, gateway, stream, ledger, _Behind(clock, behind_s * 1000), settings)


def _moved(seed: int) -> Plan:
    dice = random.Random(f"moved {seed}")
    plan = make_plan(seed)
    watchers = [f"watcher {master.name}" for master in plan.masters]
    return _with(plan, [Step(dice.uniform(0, plan.end_s / 2), "kill", watcher, dice.random(), 0.5) for watcher in watchers])


PLAIN = Flavour("as they come", make_plan)
UNANSWERED = Flavour("orders and partial closes without an answer", _unanswered)
REFUSED = Flavour("closes that are refused or vanish", _refused)
STRIPPED = Flavour("orders without an answer, and comments dropped", _stripped)
TICKETS = Flavour("MT4, partial closes without an answer", _tickets)
LAGGING = Flavour("lists that are late, partial closes without an answer", _lagging)
EMPTY = Flavour("a master's lists wrongly empty", _empty)
KILLED = Flavour("the worker killed at every trade", _killed)
EDGES = Flavour("snapshots off, entries delivered again, someone killed at every trade", _edges, (edges_only,))
FROZEN = Flavour("the worker frozen at every trade", _frozen)
FORGETFUL = Flavour("Redis wiped while the worker is down", _forgetful)
REPLIES = Flavour("answers of Redis lost", _replies)
LIMITED = Flavour("a limit of lots, and bursts without an answer", _limited)
MOVED = Flavour("watchers that move to a machine whose clock is behind", _moved, (instead(Watcher, "__init__", _late_clock),))
