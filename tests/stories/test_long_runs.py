"""What ended long ago is forgotten, and stays ended."""

import asyncio
import gc
from collections import Counter, deque

import pytest

from copier.errors import Reason
from copier.gateways.paper_faults import Operation, never_answered, refuse
from copier.ledger import TOMBSTONES_MS
from copier.link import LegState
from copier.model import MarginMode
from tests.world import D, World, one, story

LONG_S = TOMBSTONES_MS / 1000 + 60
BOUNDED = {"View.gone"}
"""What fills up to a number of its own and no further."""


def world() -> World:
    return World(MarginMode.HEDGING, one(MarginMode.HEDGING))


async def trades(w: World, times: int) -> None:
    for _ in range(times):
        ticket = w.buy("EURUSD", "0.10")
        await w.settle(1)
        w.close(ticket)
        await w.settle(1)


def test_copies_that_ended_long_ago_are_forgotten_and_those_that_are_open_are_not() -> None:
    async def tell(w: World) -> None:
        kept = w.buy("XAUUSD", "0.10")
        await trades(w, 12)
        assert len(w.follower().links) == 13
        await asyncio.sleep(LONG_S)
        await trades(w, 3)
        assert len(w.follower().links) == 4
        w.close(kept)
        await w.settle()
        assert w.accounts["f"].positions == ()

    story(world, tell)


def test_a_worker_that_begins_anew_long_after_opens_nothing_that_had_ended() -> None:
    async def tell(w: World) -> None:
        await trades(w, 3)
        kept = w.buy("XAUUSD", "0.10")
        await w.settle()
        await w.ledger.project()
        await asyncio.sleep(LONG_S)
        w.worker_task.cancel()
        await asyncio.gather(w.worker_task, return_exceptions=True)
        w.start_worker()
        await w.settle()
        assert len(w.follower().links) == 1
        assert [position.symbol for position in w.accounts["f"].positions] == ["XAUUSD"]
        w.close(kept)
        await w.settle()
        assert w.accounts["f"].positions == ()

    story(world, tell)


def test_an_order_that_was_given_up_is_remembered_longer() -> None:
    async def tell(w: World) -> None:
        w.accounts["f"].faults.next(Operation.EXECUTE, never_answered(executed=False))
        lost = w.buy("EURUSD", "0.10")
        await w.settle(90)
        w.close(lost)
        await w.settle()
        await asyncio.sleep(LONG_S)
        await trades(w, 2)
        states = [leg.state for link in w.follower().links.values() for leg in link.legs]
        assert LegState.FAILED in states

    story(world, tell)


@pytest.mark.parametrize("mode", [MarginMode.HEDGING, MarginMode.NETTING, MarginMode.MT4])
def test_nothing_the_engine_holds_grows_with_what_has_ended(mode: MarginMode) -> None:
    async def tell(w: World) -> None:
        kept = w.buy("XAUUSD", "0.10")
        await lives(w, 4)
        few = held(w)
        await lives(w, 12)
        many = held(w)
        assert {name: (few[name], number) for name, number in many.items() if number > few[name]} == {}
        w.close(kept)

    story(lambda: World(MarginMode.HEDGING, one(mode)), tell)


async def lives(w: World, number: int) -> None:
    """Let positions come, change and go in every way, then be forgotten."""
    for count in range(number):
        if count % 4 == 3:
            w.accounts["f"].faults.next(Operation.EXECUTE, refuse(Reason.NO_MONEY))
        ticket = w.buy("EURUSD", "0.20")
        await w.settle(1)
        w.master.server.set_levels(1, ticket, D("1.09000"), D("1.12000"))
        await w.settle(1)
        w.close(ticket, "0.10")
        await w.settle(1)
        w.close(ticket)
        await w.settle(2)
    for times in (number, 4):
        await trades(w, times)
        await w.ledger.project()
        await asyncio.sleep(LONG_S)
    await trades(w, 4)
    await w.ledger.project()


def held(w: World) -> Counter[str]:
    """Return how much every container holds that the engine's own objects keep, by owner and name."""
    found: Counter[str] = Counter()
    seen: set[int] = set()
    waiting: list[object] = [w.worker, w.watcher, w.ledger]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, type):
            continue
        seen.add(id(each))
        kind = type(each)
        if kind.__module__.startswith("copier.") and not kind.__module__.startswith(("copier.gateways", "copier.stream")):
            names = {name for base in kind.__mro__ for name in getattr(base, "__slots__", ())} | vars_of(each).keys()
            for name in names:
                value = getattr(each, name, None)
                if isinstance(value, dict | list | set | deque) and f"{kind.__name__}.{name}" not in BOUNDED:
                    found[f"{kind.__name__}.{name}"] += len(value)
                waiting.append(value)
        elif isinstance(each, dict | list | set | tuple | deque):
            waiting += gc.get_referents(each)
    return found


def vars_of(each: object) -> dict[str, object]:
    return getattr(each, "__dict__", {})
