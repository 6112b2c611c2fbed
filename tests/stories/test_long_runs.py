"""What ended long ago is forgotten, and stays ended."""

import asyncio

from copier.gateways.paper_faults import Operation, never_answered
from copier.ledger import TOMBSTONES_MS
from copier.link import LegState
from copier.model import MarginMode
from tests.world import World, one, story

LONG_S = TOMBSTONES_MS / 1000 + 60


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
