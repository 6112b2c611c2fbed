"""What one seed means: the accounts, and everything that is done and goes wrong, with its moment."""

import random
from decimal import Decimal
from typing import NamedTuple

from copier.errors import Reason
from copier.gateways.paper_faults import (
    Fault,
    Operation,
    answer_lost,
    comment_cut,
    delay,
    disconnected,
    empty_list,
    failed_read,
    never_answered,
    not_sent,
    partial_fill,
    rate_limited,
    refuse,
    requote,
    slipped,
    stops_ignored,
    ticket_changed,
    wrong_account,
)
from copier.model import MarginMode

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

    def __str__(self) -> str:
        fault = ""
        if self.fault is not None:
            changed = {name: getattr(self.fault, name) for name in Fault.__struct_fields__}
            fault = " ".join(f"{name}={value}" for name, value in changed.items() if value != getattr(Fault(), name))
        words = [self.what, self.who, str(self.operation or ""), fault, f"{self.amount:g}" if self.amount else ""]
        return " ".join(word for word in words if word)


class AccountPlan(NamedTuple):
    """One account: its model, its server's clock, and the habits of its broker."""

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
    lots_max: Decimal | None = None
    """The most that may be open in the account when we open."""


class Plan(NamedTuple):
    """A whole history."""

    seed: int
    masters: tuple[AccountPlan, ...]
    followers: tuple[AccountPlan, ...]
    reconcile_s: float
    steps: tuple[Step, ...]
    end_s: float


def make_plan(seed: int) -> Plan:
    """Return the history of a seed."""
    dice = random.Random(seed)
    end_s = dice.choice((20.0, 40.0, 60.0))
    masters = tuple(_account(dice, f"m{n}") for n in range(1, dice.choice((2, 2, 3))))
    names = tuple(master.name for master in masters)
    followers = tuple(_follower(dice, f"f{n}", names) for n in range(1, dice.choice((3, 4))))
    steps = [_master_step(dice, dice.choice(names), end_s) for _ in range(dice.randint(4, 25))]
    steps += [Step(dice.uniform(0, end_s), "hand", f.name, dice.random()) for f in followers for _ in range(dice.randint(0, 3))]
    roughness = dice.choice((0, 3, 8, 20))
    for _ in range(roughness):
        steps.append(_fault_step(dice, dice.choice(followers), end_s))
    for _ in range(dice.choice((0, 0, 2, 5))):
        steps.append(_master_fault(dice, dice.choice(names), end_s))
    for _ in range(dice.choice((0, 0, 1, 3))):
        steps.append(_redis_step(dice, dice.choice(names), end_s))
    for _ in range(dice.choice((0, 0, 1, 2))):
        steps.append(Step(dice.uniform(0, end_s), dice.choice(("ledger refuses", "ledger is late")), "", 0, dice.randint(1, 3)))
    for _ in range(dice.choice((0, 1, 2, 4))):
        steps.append(_kill_step(dice, ("worker", *(f"watcher {name}" for name in names)), end_s))
    return Plan(seed, masters, followers, dice.choice((5.0, 30.0)), tuple(sorted(steps, key=lambda step: step.at_s)), end_s)


def _account(dice: random.Random, name: str) -> AccountPlan:
    return AccountPlan(
        name=name,
        mode=dice.choice(list(MarginMode)),
        offset_s=dice.choice(OFFSETS_S),
        latency_s=dice.choice((0.0, 0.01, 0.05)),
        lag_ms=dice.choice((0, 0, 0, 200)),
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
    )


def _master_step(dice: random.Random, master: str, end_s: float) -> Step:
    what = dice.choice(
        ("open",) * 5 + ("close",) * 3 + ("partly",) * 2 + ("scale in", "reverse", "levels", "levels", "burst", "close all")
    )
    at_s = dice.uniform(0, end_s)
    if dice.random() < 0.3:
        at_s = float(round(at_s))  # Several things at once.
    return Step(at_s, what, master, dice.random(), dice.choice((0.2, 0.4, 1.0)))


def _fault_step(dice: random.Random, follower: AccountPlan, end_s: float) -> Step:
    late_s = dice.choice((0.3, 4.0, 9.0, 11.0, 14.0, 30.0))
    trades = [
        refuse(dice.choice((Reason.REFUSED, Reason.NO_MONEY, Reason.MARKET_CLOSED, Reason.TRADE_DISABLED, Reason.BUSY))),
        requote(),
        rate_limited(),
        not_sent(),
        answer_lost(),
        answer_lost(execute_s=late_s),
        never_answered(executed=False),
        never_answered(executed=True),
        never_answered(executed=True, execute_s=late_s),
        delay(send_s=dice.choice((0.5, 3.0, 7.0))),
        delay(answer_s=dice.choice((0.5, 3.0, 12.0))),
        slipped(7),
        ticket_changed(),
    ]
    reads = [failed_read(), empty_list(), wrong_account(2), disconnected(), delay(answer_s=2.0), never_answered(executed=True)]
    at_s, times = dice.uniform(0, end_s), float(dice.choice((1, 1, 2, 4)))
    match dice.randrange(10):
        case 0 | 1 | 2:
            fault = dice.choice([*trades, partial_fill("0.5"), partial_fill("0.3"), stops_ignored()])
            return Step(at_s, "fault", follower.name, 0, times, fault, Operation.EXECUTE)
        case 3 | 4 | 5:
            # A reduction that lands long after its end takes what is wanted: no rule of ours can tell it from a hand's close.
            trades[5] = trades[8] = answer_lost(execute_s=min(late_s, 4.0))
            fault = dice.choice([*trades, partial_fill("0.5")])
            return Step(at_s, "fault", follower.name, 0, times, fault, Operation.CLOSE)
        case 6:
            return Step(at_s, "fault", follower.name, 0, times, dice.choice(trades[:9]), Operation.MODIFY)
        case 7:
            return Step(at_s, "fault", follower.name, 0, times, dice.choice(reads), Operation.POSITIONS)
        case 8:
            operation = dice.choice((Operation.DEALS, Operation.ACCOUNT, Operation.QUOTE))
            return Step(at_s, "fault", follower.name, 0, times, failed_read(), operation)
        case _:
            return Step(at_s, dice.choice(("offline", "server down")), follower.name, 0, dice.choice((0.5, 3.0, 8.0)))


def _master_fault(dice: random.Random, master: str, end_s: float) -> Step:
    at_s, times = dice.uniform(0, end_s), float(dice.choice((1, 2, 5)))
    if dice.random() < 0.2:
        return Step(at_s, "offline", master, 0, dice.choice((0.5, 3.0, 8.0)))
    operation = dice.choice((Operation.POSITIONS, Operation.POSITIONS, Operation.DEALS, Operation.ACCOUNT))
    fault = failed_read()
    if operation is Operation.POSITIONS:
        fault = dice.choice((failed_read(), empty_list(), wrong_account(2), disconnected(), delay(answer_s=2.0)))
    return Step(at_s, "fault", master, 0, times, fault, operation)


def _redis_step(dice: random.Random, master: str, end_s: float) -> Step:
    what = dice.choice(("redis down", "redis reply lost", "redis flushed", "redis trimmed", "redis dumped", "redis restored"))
    amount = {"redis down": dice.choice((0.5, 3.0, 10.0)), "redis reply lost": float(dice.randint(1, 4))}.get(what, 0.0)
    return Step(dice.uniform(0, end_s), what, master, 0, amount)


def _kill_step(dice: random.Random, roles: tuple[str, ...], end_s: float) -> Step:
    what = "freeze" if dice.random() < 0.2 else "kill"
    return Step(dice.uniform(0, end_s), what, dice.choice(roles), dice.random(), dice.choice((0.05, 0.5, 3.0, 12.0)))
