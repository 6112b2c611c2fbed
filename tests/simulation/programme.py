"""The programme of faults: everything that is made to go wrong, by whom it hurts. Each function returns fields of steps."""

import random
from typing import Any

from copier.errors import Reason
from copier.gateways.paper_faults import (
    Fault,
    Operation,
    answer_lost,
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
    stops_refused,
    ticket_changed,
    wrong_account,
)

LATE_S = (0.3, 1.5, 4.0, 9.0, 14.0, 30.0)
"""How long a broker may sit on an order; its lists are promised to be right after half a second."""
REFUSALS = (Reason.REFUSED, Reason.NO_MONEY, Reason.MARKET_CLOSED, Reason.TRADE_DISABLED, Reason.BUSY)
Harm = dict[str, Any]


def _of_trades(dice: random.Random, late_s: float) -> dict[str, Fault]:
    return {
        "refused": refuse(dice.choice(REFUSALS)),
        "requote": requote(),
        "too many requests": rate_limited(),
        "timeout before it left": not_sent(),
        "answer lost": answer_lost(),
        "answer lost, executed late": answer_lost(execute_s=late_s),
        "timeout, never executed": never_answered(executed=False),
        "timeout after it was executed": never_answered(executed=True),
        "timeout, executed late": never_answered(executed=True, execute_s=late_s),
        "slow there": delay(send_s=dice.choice((0.5, 3.0, 7.0))),
        "slow back": delay(answer_s=dice.choice((0.5, 3.0, 12.0))),
        "slipped": slipped(7),
        "ticket replaced": ticket_changed(),
    }


def _of_reads() -> dict[str, Fault]:
    return {
        "failed": failed_read(),
        "empty": empty_list(),
        "wrong login": wrong_account(2),
        "not connected": disconnected(),
        "slow": delay(answer_s=2.0),
        "never answered": never_answered(executed=True),
    }


def hurt_follower(dice: random.Random) -> list[Harm]:
    """Return something that goes wrong at a follower's broker or terminal."""
    late_s = dice.choice(LATE_S)
    faults = _of_trades(dice, late_s)
    match dice.randrange(11):
        case 0 | 1 | 2:
            more = {"filled in part": partial_fill(dice.choice(("0.5", "0.3"))), "levels ignored": stops_ignored()}
            return _laid(dice, Operation.EXECUTE, faults | more | {"levels refused": stops_refused()})
        case 3 | 4 | 5:
            return _laid(dice, Operation.CLOSE, faults | {"filled in part": partial_fill("0.5")})
        case 6:
            return _laid(dice, Operation.MODIFY, {name: faults[name] for name in list(faults)[:9]})
        case 7:
            return _laid(dice, Operation.POSITIONS, _of_reads())
        case 8:
            operation = dice.choice((Operation.DEALS, Operation.ACCOUNT, Operation.QUOTE))
            return _laid(dice, operation, {"failed": failed_read()})
        case 9:
            what = dice.choice(("stale lists", "list lags"))
            return [{"what": what, "amount": dice.choice((1.0, 3.0)), "name": what}]
        case _:
            return _away(dice, ("offline", "server down"))


def hurt_master(dice: random.Random) -> list[Harm]:
    """Return something that goes wrong at a master's broker or terminal."""
    match dice.randrange(10):
        case 0 | 1:
            return _away(dice, ("offline",))
        case 2:
            what = dice.choice(("stale lists", "list lags"))
            return [{"what": what, "amount": dice.choice((1.0, 3.0)), "name": what}]
        case 3 | 4 | 5 | 6:
            return _laid(dice, Operation.POSITIONS, {n: f for n, f in _of_reads().items() if n != "never answered"}, (1, 2, 5))
        case _:
            return _laid(dice, dice.choice((Operation.DEALS, Operation.ACCOUNT)), {"failed": failed_read()}, (1, 2, 5))


def hurt_redis(dice: random.Random) -> list[Harm]:
    """Return something that goes wrong with Redis; `who` is the master whose stream is meant, where one is."""
    amounts: dict[str, float] = {
        "redis down": dice.choice((0.5, 3.0, 10.0)),
        "redis reply lost": float(dice.randint(1, 4)),
        "redis flushed": 0.0,
        "redis tail lost": float(dice.randint(1, 5)),
        "redis trimmed": 0.0,
        "redis redelivers": float(dice.randint(1, 4)),
        "redis holds a stream back": dice.choice((0.5, 3.0)),
        "redis restored from an old dump": 0.0,
    }
    what = dice.choice(list(amounts))
    harm = {"what": what, "amount": amounts[what], "name": what}
    return [{"what": "redis dumped"}, harm] if what.endswith("dump") else [harm]


def hurt_ledger(dice: random.Random) -> list[Harm]:
    """Return something that goes wrong with the ledger's disk."""
    amounts: dict[str, float] = {
        "ledger refuses": float(dice.randint(1, 3)),
        "ledger's fsync fails": float(dice.randint(1, 3)),
        "ledger's disk full": dice.choice((0.5, 3.0, 8.0)),
        "ledger locked": dice.choice((0.5, 3.0)),
    }
    what = dice.choice(list(amounts))
    return [{"what": what, "amount": amounts[what], "name": what}]


def hurt_engine(dice: random.Random) -> list[Harm]:
    """Return a death, a freeze, a twin or a wrong clock of one role."""
    pause_s, pick = dice.choice((0.05, 0.5, 3.0, 12.0)), dice.random()
    what = dice.choice(("kill",) * 8 + ("freeze", "freeze", "freeze twice", "twin", "clock jumps"))
    amount = dice.choice((1.0, -1.0, 20.0, -20.0)) if what == "clock jumps" else pause_s
    return [{"what": what, "pick": pick, "amount": amount, "name": "clock jump" if what == "clock jumps" else ""}]


def _laid(
    dice: random.Random, operation: Operation, faults: dict[str, Fault], times: tuple[int, ...] = (1, 1, 2, 4)
) -> list[Harm]:
    name = dice.choice(list(faults))
    amount = float(dice.choice(times))
    return [{"what": "fault", "operation": operation, "fault": faults[name], "amount": amount, "name": name}]


def _away(dice: random.Random, whats: tuple[str, ...]) -> list[Harm]:
    what = dice.choice(whats)
    return [{"what": what, "amount": dice.choice((0.5, 3.0, 8.0)), "name": what}]
