"""Every pair of account models, master and follower: after each step the follower holds what it should."""

import itertools
from decimal import Decimal

import pytest

from copier.errors import Reason
from copier.gateways.paper_faults import Operation, partial_fill, refuse
from copier.model import MarginMode, Verdict
from tests.world import D, World, one, story

MODES = list(MarginMode)
PAIRS = list(itertools.product(MODES, MODES))
pairs = pytest.mark.parametrize(("master", "follower"), PAIRS)


def levels(world: World) -> set[tuple[Decimal, Decimal]]:
    return {(p.stop_loss, p.take_profit) for p in world.accounts["f"].positions}


async def follows(world: World, net: str, stop: str, target: str) -> None:
    """Let the engine settle; the follower then holds this net volume with these levels, and nothing is left to do."""
    await world.settle()
    assert world.accounts["f"].net("EURUSD") == D(net)
    assert world.master.net("EURUSD") == D(net)
    if D(net):
        assert levels(world) == {(D(stop), D(target))}
    for link in world.follower().links.values():
        assert link.cut is None
        held = sum((leg.lots for leg in link.legs if leg.living), D(0))
        assert held == (link.position.lots if link.wanted_open else 0)


async def a_whole_life(world: World) -> None:
    first = world.buy("EURUSD", "1.00", stop_loss=D("1.09000"), take_profit=D("1.12000"))
    await follows(world, "1.00", "1.09000", "1.12000")
    second = world.buy("EURUSD", "0.50", stop_loss=D("1.09000"), take_profit=D("1.12000"))
    netting = world.master.account.margin_mode is MarginMode.NETTING
    await follows(world, "1.50", "1.09000", "1.12000")

    world.close(first, "0.30")
    await follows(world, "1.20", "1.09000", "1.12000")
    first = rest(world, first)
    world.close(first, "0.30")
    await follows(world, "0.90", "1.09000", "1.12000")
    first = rest(world, first)

    for ticket in {first} if netting else {first, second}:
        world.master.server.set_levels(1, ticket, D("1.09500"), D("1.12500"))
    await follows(world, "0.90", "1.09500", "1.12500")
    for ticket in {first} if netting else {first, second}:
        world.master.server.set_levels(1, ticket, D(0), D("1.12500"))
    await follows(world, "0.90", "0", "1.12500")

    if netting:
        world.sell("EURUSD", "1.60", stop_loss=D("1.11000"))
    else:
        world.close(first)
        world.close(second)
        world.sell("EURUSD", "0.70", stop_loss=D("1.11000"))
    await follows(world, "-0.70", "1.11000", "0")
    (last,) = world.master.positions
    world.close(last.ticket)
    await follows(world, "0", "0", "0")
    assert world.accounts["f"].positions == ()
    receipts = await world.receipts()
    assert {r.verdict for r in receipts} <= {Verdict.COPIED, Verdict.CHANGED, Verdict.CLOSED}


def rest(world: World, ticket: int) -> int:
    """Return the ticket of what is left of a position, which on MT4 is a new one."""
    left = [p.ticket for p in world.master.positions if ticket in (p.ticket, p.parent)]
    return left[0]


async def a_partly_filled_open(world: World) -> None:
    world.accounts["f"].faults.next(Operation.EXECUTE, partial_fill("0.4"))
    ticket = world.buy("EURUSD", "1.00")
    await world.settle()
    assert world.net_is("EURUSD", "0.40")
    world.close(ticket, "0.50")
    await world.settle()
    assert world.net_is("EURUSD", "0.20")
    (left,) = world.master.positions
    world.close(left.ticket)
    await world.settle()
    assert world.accounts["f"].positions == ()


@pairs
def test_the_follower_holds_what_the_master_holds_after_every_step(master: MarginMode, follower: MarginMode) -> None:
    story(lambda: World(master, one(follower, {"copy": {"stops": "copy", "targets": "copy"}})), a_whole_life)


@pairs
def test_a_partly_filled_open_is_reduced_in_proportion_and_never_topped_up(master: MarginMode, follower: MarginMode) -> None:
    story(lambda: World(master, one(follower)), a_partly_filled_open)


@pairs
def test_a_scale_in_after_a_partial_close_adds_only_what_was_added(master: MarginMode, follower: MarginMode) -> None:
    async def tell(world: World) -> None:
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        world.close(ticket, "0.50")
        await world.settle()
        world.buy("EURUSD", "0.50")
        await world.settle()
        assert world.net_is("EURUSD", "1.00")

    story(lambda: World(master, one(follower)), tell)


@pytest.mark.parametrize("follower", MODES)
def test_a_reversed_follower_is_short_where_the_master_is_long(follower: MarginMode) -> None:
    async def tell(world: World) -> None:
        world.buy("EURUSD", "1.00", stop_loss=D("1.09000"))
        await world.settle()
        (copy,) = world.accounts["f"].positions
        assert copy.type.sign == -1
        assert copy.stop_loss == 0
        assert copy.take_profit < copy.open_price

    story(lambda: World(MarginMode.HEDGING, one(follower, {"copy": {"reverse": True}})), tell)


@pytest.mark.parametrize("follower", MODES)
def test_a_close_that_is_refused_is_tried_until_it_is_done(follower: MarginMode) -> None:
    async def tell(world: World) -> None:
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        for _ in range(3):
            world.accounts["f"].gateway.faults.next(Operation.CLOSE, refuse(Reason.MARKET_CLOSED))
        world.close(ticket)
        await world.settle(10)
        assert world.accounts["f"].positions == ()

    story(lambda: World(MarginMode.HEDGING, one(follower)), tell)


def test_opposite_positions_of_a_hedging_master_become_their_difference_on_a_netting_follower() -> None:
    async def tell(world: World) -> None:
        long = world.buy("EURUSD", "1.00")
        await world.settle()
        short = world.sell("EURUSD", "0.40")
        await world.settle()
        assert world.net_is("EURUSD", "0.60")
        world.close(long)
        await world.settle()
        assert world.net_is("EURUSD", "-0.40")
        world.close(short)
        await world.settle()
        assert world.net_is("EURUSD", "0")

    story(lambda: World(MarginMode.HEDGING, one(MarginMode.NETTING)), tell)
