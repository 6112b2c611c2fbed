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


def two_followers(mode: MarginMode = MarginMode.HEDGING) -> World:
    return World(MarginMode.HEDGING, {"f": (mode, {}), "g": (mode, {})})


async def until_closed(world: World, name: str) -> float:
    """Return when this follower holds no gold any more, on the loop's clock."""
    for _ in range(1_000):
        if not any(position.symbol == "XAUUSD" for position in world.accounts[name].positions):
            break
        await asyncio.sleep(0.05)
    return asyncio.get_running_loop().time()


async def waited_behind(world: World, operation: Operation, hung: int) -> float:
    """Return how long a close waits that comes half a second after so many opens whose calls hang."""
    loop = asyncio.get_running_loop()
    kept = world.buy("XAUUSD", "0.10")
    await world.settle()
    world.accounts["f"].faults.next(operation, never_answered(executed=False), times=hung)
    for _ in range(hung):
        world.buy("EURUSD", "0.10")
    await asyncio.sleep(0.5)
    world.close(kept)
    begun_s = loop.time()
    assert await until_closed(world, "g") < begun_s + SOON_S
    return await until_closed(world, "f") - begun_s


@pytest.mark.parametrize("hung", [1, 2, 3])
def test_a_close_does_not_wait_for_opens_that_hang_where_every_position_has_its_ticket(hung: int) -> None:
    async def tell(world: World) -> None:
        assert await waited_behind(world, Operation.EXECUTE, hung) < SOON_S

    story(two_followers, tell)


@pytest.mark.parametrize(("operation", "hung"), [(Operation.EXECUTE, 1), (Operation.EXECUTE, 3), (Operation.QUOTE, 1)])
def test_a_close_on_a_netting_account_waits_for_the_deadlines_of_what_hangs_and_no_longer(
    operation: Operation, hung: int
) -> None:
    async def tell(world: World) -> None:
        assert DEADLINE_S - 0.6 <= await waited_behind(world, operation, hung) < hung * DEADLINE_S + SOON_S

    story(lambda: two_followers(MarginMode.NETTING), tell)


def test_a_close_behind_a_price_that_hangs_waits_for_its_deadline_and_no_longer() -> None:
    async def tell(world: World) -> None:
        assert DEADLINE_S - 0.6 <= await waited_behind(world, Operation.QUOTE, 1) < DEADLINE_S + SOON_S

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
