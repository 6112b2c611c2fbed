"""What one seed means: the accounts, and everything that is done and goes wrong, with its moment."""

import random
from decimal import Decimal
from typing import NamedTuple

from copier.gateways.paper_faults import Fault, Operation, comment_cut
from copier.model import MarginMode
from tests.simulation.programme import hurt_engine, hurt_follower, hurt_ledger, hurt_master, hurt_redis

SYMBOLS = ("EURUSD", "GBPUSD", "XAUUSD")
HANDS_SYMBOL = "USDJPY"
"""What another hand trades beside us on netting accounts."""
OFFSETS_S = (0, 7_200, 10_800, -18_000)


class Step(NamedTuple):
    """One thing that happens at one moment; `pick` in [0, 1) chooses among what is there by then."""

    at_s: float
    what: str
    who: str = ""
    pick: float = 0.0
    amount: float = 0.0
    fault: Fault | None = None
    operation: Operation | None = None
    name: str = ""
    """What kind of fault this is; empty for what is none."""

    def __str__(self) -> str:
        words = [self.what, self.who, str(self.operation or ""), self.name, f"{self.amount:g}" if self.amount else ""]
        return " ".join(word for word in words if word)


class AccountPlan(NamedTuple):
    """One account: its model, its server's clock, the habits of its broker, and how a follower copies to it."""

    name: str
    mode: MarginMode
    offset_s: int
    latency_s: float
    lag_ms: int = 0
    comment: Fault | None = None
    deals: bool = True
    ratio: Decimal = Decimal(1)
    levels: bool = False
    masters: tuple[str, ...] = ()
    empty_s: float = 0.0
    """Its list is empty for so long after every connecting."""
    lots_max: Decimal | None = None
    """Most lots open at once, as a risk rule."""


class Plan(NamedTuple):
    """A whole history."""

    seed: int
    masters: tuple[AccountPlan, ...]
    followers: tuple[AccountPlan, ...]
    reconcile_s: float
    steps: tuple[Step, ...]
    end_s: float
    quiet_s: float = 12.0
    """How long nothing goes wrong any more at the end, at least."""


def make_plan(seed: int) -> Plan:
    """Return the history of a seed."""
    dice = random.Random(seed)
    end_s = dice.choice((20.0, 40.0, 60.0))
    masters = tuple(_account(dice, f"m{n}") for n in range(1, dice.choice((2, 2, 3))))
    names = tuple(master.name for master in masters)
    followers = tuple(_follower(dice, f"f{n}", names) for n in range(1, dice.choice((3, 4))))
    steps = [_master_step(dice, dice.choice(names), end_s) for _ in range(dice.randint(4, 25))]
    for follower in followers:
        steps += [_hands_step(dice, follower.name, end_s) for _ in range(dice.randint(0, 3))]
    roles = ("worker", *(f"watcher {name}" for name in names))
    for count, hurt, victims in (
        (dice.choice((0, 3, 8, 20)), hurt_follower, tuple(follower.name for follower in followers)),
        (dice.choice((0, 0, 2, 5)), hurt_master, names),
        (dice.choice((0, 0, 1, 3)), hurt_redis, names),
        (dice.choice((0, 0, 1, 2)), hurt_ledger, ("",)),
        (dice.choice((0, 1, 2, 4)), hurt_engine, roles),
    ):
        for _ in range(count):
            who = dice.choice(victims)
            steps += [Step(dice.uniform(0, end_s), who=who, **harm) for harm in hurt(dice)]
    return Plan(seed, masters, followers, dice.choice((5.0, 30.0)), tuple(sorted(steps, key=lambda step: step.at_s)), end_s)


def _account(dice: random.Random, name: str) -> AccountPlan:
    return AccountPlan(
        name=name,
        mode=dice.choice(list(MarginMode)),
        offset_s=dice.choice(OFFSETS_S),
        latency_s=dice.choice((0.0, 0.01, 0.05)),
        lag_ms=dice.choice((0, 0, 0, 200)),
        empty_s=dice.choice((0.0, 0.0, 0.0, 1.0)),
    )


def _follower(dice: random.Random, name: str, masters: tuple[str, ...]) -> AccountPlan:
    comment = dice.choice((None, None, None, Fault(comment=""), comment_cut(6), Fault(comment="broker")))
    return _account(dice, name)._replace(
        lag_ms=dice.choice((0, 0, 0, 400)),
        comment=comment,
        deals=dice.random() < 0.85,
        ratio=dice.choice((Decimal(1), Decimal("0.5"), Decimal(2))),
        levels=dice.random() < 0.5,
        masters=masters if dice.random() < 0.7 else (dice.choice(masters),),
        lots_max=dice.choice((None, None, None, Decimal("1.5"))),
    )


def _master_step(dice: random.Random, master: str, end_s: float) -> Step:
    what = dice.choice(
        ("open",) * 5
        + ("close",) * 3
        + ("partly",) * 2
        + ("scale in", "reverse", "levels", "levels", "burst", "close all", "stop hit")
    )
    at_s = dice.uniform(0, end_s)
    if dice.random() < 0.3:
        at_s = float(round(at_s))  # Several things at once.
    return Step(at_s, what, master, dice.random(), dice.choice((0.2, 0.4, 1.0)))


def _hands_step(dice: random.Random, follower: str, end_s: float) -> Step:
    what = dice.choice(("hand", "hand", "hand", "hand", "hand closes ours", "stop hit"))
    return Step(dice.uniform(0, end_s), what, follower, dice.random(), dice.choice((0.5, 1.0)))
