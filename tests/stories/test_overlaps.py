"""What overlaps: an order that fails while its master moves on, a hand between two reads, a restart before the list is full."""

import asyncio
from typing import Any

import pytest

from copier.gateways.paper_faults import Operation, comment_stripped, delay, empty_list, never_answered, partial_fill
from copier.model import MarginMode, Side
from tests.simulation.loop import run_shuffled
from tests.stories.test_faults import codes, flat_when_closed, to
from tests.world import D, World, story


def in_any_order(main: Any) -> None:
    """Play on a loop that shuffles what is ready, and ends what turns in a circle while no time passes."""
    run_shuffled(1, main)


def test_a_copy_to_be_closed_whose_open_has_no_answer_yet_is_waited_for_in_peace() -> None:
    async def tell(world: World) -> None:
        kept = world.buy("EURUSD", "1.00")
        await world.settle()
        world.accounts["f"].faults.next(Operation.EXECUTE, never_answered(executed=False))
        ticket = world.buy("EURUSD", "0.40")
        await world.settle()
        world.close(ticket)
        await world.settle(30)
        assert world.net_is("EURUSD", "1.00")
        await flat_when_closed(world, kept)

    story(to(MarginMode.NETTING), tell, in_any_order)


def test_a_scale_in_that_came_too_late_is_asked_for_again_though_the_master_moved_its_levels_meanwhile() -> None:
    async def tell(world: World) -> None:
        ticket = world.buy("EURUSD", "0.20")
        await world.settle()
        world.accounts["f"].faults.next(Operation.EXECUTE, delay(send_s=7))
        world.buy("EURUSD", "0.20")
        await world.settle()
        world.master.server.set_levels(1, ticket, 1, 2)
        await world.settle(10)
        assert world.net_is("EURUSD", "0.40")
        await flat_when_closed(world, ticket)

    story(lambda: World(MarginMode.NETTING, {"f": (MarginMode.HEDGING, {})}), tell)


def test_what_a_hand_left_of_an_mt4_copy_by_two_closes_between_two_reads_closes_with_its_master() -> None:
    async def tell(world: World) -> None:
        account = world.accounts["f"]
        account.faults.always(Operation.EXECUTE, comment_stripped())
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        for lots in ("0.50", "0.25"):
            (position,) = account.positions
            account.server.close(1, position.ticket, lots)
        await flat_when_closed(world, ticket)

    story(to(MarginMode.MT4), tell)


def test_a_netting_copy_is_not_taken_for_closed_because_an_order_of_ours_once_closed_the_symbol() -> None:
    async def tell(world: World) -> None:
        sold = world.sell("EURUSD", "0.50")
        await world.settle()
        bought = world.buy("EURUSD", "0.50")
        await world.settle()
        world.close(sold)
        await world.settle()
        account = world.accounts["f"]
        assert [(p.type, str(p.lots)) for p in account.positions] == [(Side.BUY, "0.50")]
        world.worker_task.cancel()
        await world.settle(1)
        account.faults.next(Operation.POSITIONS, empty_list(), times=6)
        world.start_worker()
        await world.settle(20)
        assert world.link().lots == world.accounts["f"].net("EURUSD")
        await flat_when_closed(world, bought)

    story(to(MarginMode.NETTING), tell)


def test_a_hand_that_closes_a_netting_copy_just_before_a_larger_one_of_the_other_side_is_told_by_its_deal() -> None:
    async def tell(world: World) -> None:
        account = world.accounts["f"]
        bought = world.buy("EURUSD", "0.40")
        await world.settle()
        account.faults.visibility_lag_ms = 400
        account.server.close(1, account.positions[0].ticket)
        sold = world.sell("EURUSD", "1.00")
        await world.settle()
        assert world.net_is("EURUSD", "-1.00")
        assert "closed_by_client" in await codes(world)
        world.close(bought)
        await world.settle()
        assert world.net_is("EURUSD", "-1.00")
        await flat_when_closed(world, sold)

    story(to(MarginMode.NETTING), tell)


@pytest.mark.parametrize("mode", [MarginMode.HEDGING, MarginMode.NETTING])
def test_an_order_without_tag_and_answer_that_a_hand_closes_before_it_is_seen_is_told_by_its_deals(mode: MarginMode) -> None:
    async def tell(world: World) -> None:
        account = world.accounts["f"]
        account.faults.next(Operation.EXECUTE, never_answered(executed=True) | comment_stripped())
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        account.server.close(1, account.positions[0].ticket)
        await world.settle(30)
        told = await codes(world)
        assert "order_lost" not in told
        assert "closed_by_client" in told
        await flat_when_closed(world, ticket)

    story(to(mode), tell)


def test_a_copy_told_by_its_deal_alone_is_closed_once_the_list_shows_it() -> None:
    async def tell(world: World) -> None:
        account = world.accounts["f"]
        account.faults.next(Operation.EXECUTE, never_answered(executed=True) | comment_stripped())
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        account.faults.next(Operation.POSITIONS, empty_list(), times=40)
        await world.settle(9)
        assert world.link().lots == D("1.00")
        await flat_when_closed(world, ticket, 20)

    story(to(MarginMode.MT4), tell)


@pytest.mark.parametrize("mode", [MarginMode.HEDGING, MarginMode.MT4])
def test_what_a_close_that_was_filled_in_part_has_left_still_counts_in_a_limit(mode: MarginMode) -> None:
    async def tell(world: World) -> None:
        account = world.accounts["f"]
        account.faults.visibility_lag_ms = 450
        first = world.buy("EURUSD", "1.00")
        await world.settle()
        account.faults.next(Operation.CLOSE, partial_fill("0.5"))
        world.close(first)
        second = world.buy("XAUUSD", "1.20")
        most = D(0)
        for _ in range(300):
            await asyncio.sleep(0.01)
            most = max(most, sum((position.lots for position in account.positions), D(0)))
        assert most <= D("1.50")
        await flat_when_closed(world, second)

    story(to(mode, follower_risk={"open": {"lots_max": "1.5"}}), tell)


def test_an_mt4_ticket_that_the_broker_does_not_know_is_not_gone_by_one_list_without_it() -> None:
    async def tell(world: World) -> None:
        account = world.accounts["f"]
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        account.server.close(1, account.positions[0].ticket, "0.40")
        account.faults.next(Operation.POSITIONS, empty_list(), times=2)
        world.close(ticket)
        await world.settle(0.5)
        assert world.link().lots
        await world.settle(10)
        assert account.positions == ()

    story(to(MarginMode.MT4), tell)
