"""A call that hangs holds up what comes after it on its own account, until its deadline and no longer."""

import asyncio

import pytest

from copier.gateways.paper_faults import Operation, never_answered
from copier.model import MarginMode
from tests.world import World, story

DEADLINE_S = 10.0
"""`call_timeout_s` of an account, unless set."""
SOON_S = 1.0
"""The master is asked ten times a second, and a follower whose read failed pauses for 0.2 s."""


def two_followers() -> World:
    return World(MarginMode.HEDGING, {"f": (MarginMode.HEDGING, {}), "g": (MarginMode.HEDGING, {})})


async def until_closed(world: World, name: str) -> float:
    """Return when this follower holds no gold any more, on the loop's clock."""
    for _ in range(1_000):
        if not any(position.symbol == "XAUUSD" for position in world.accounts[name].positions):
            break
        await asyncio.sleep(0.05)
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize(
    ("operation", "hung"), [(Operation.EXECUTE, 1), (Operation.EXECUTE, 2), (Operation.EXECUTE, 3), (Operation.QUOTE, 1)]
)
def test_a_close_behind_calls_that_hang_waits_for_their_deadlines_and_no_longer(operation: Operation, hung: int) -> None:
    async def tell(world: World) -> None:
        loop = asyncio.get_running_loop()
        kept = world.buy("XAUUSD", "0.10")
        await world.settle()
        world.accounts["f"].faults.next(operation, never_answered(executed=False), times=hung)
        begun_s = loop.time()
        for _ in range(hung):
            world.buy("EURUSD", "0.10")
        await asyncio.sleep(0.5)
        world.close(kept)
        assert await until_closed(world, "g") < begun_s + 0.5 + SOON_S
        assert DEADLINE_S <= await until_closed(world, "f") - begun_s < hung * DEADLINE_S + SOON_S

    story(two_followers, tell)


def test_a_comparison_that_hangs_holds_up_a_close_until_its_deadline_and_no_longer() -> None:
    async def tell(world: World) -> None:
        loop = asyncio.get_running_loop()
        kept = world.buy("XAUUSD", "0.10")
        await world.settle()
        world.accounts["f"].faults.next(Operation.POSITIONS, never_answered(executed=False))
        begun_s = loop.time()
        world.follower().compare_now()
        await asyncio.sleep(0.5)
        world.close(kept)
        assert await until_closed(world, "g") < begun_s + 0.5 + SOON_S
        assert DEADLINE_S <= await until_closed(world, "f") - begun_s < DEADLINE_S + SOON_S

    story(two_followers, tell)
