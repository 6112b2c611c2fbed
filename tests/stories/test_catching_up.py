"""What a master did while its follower could not trade: grown, reduced, levelled, all of it before the follower's next step."""

from collections.abc import Callable

import pytest

from copier.gateways.paper_faults import Operation, answer_lost, delay
from copier.model import MarginMode
from tests.world import D, World, one, story

followers = pytest.mark.parametrize("mode", list(MarginMode))
STEPS: dict[str, tuple[tuple[str, str], ...]] = {
    "grows and shrinks below what was copied": (("buy", "0.40"), ("sell", "0.40"), ("sell", "0.20")),
    "grows and shrinks by a part of the growth": (("buy", "0.40"), ("sell", "0.20")),
    "shrinks and grows": (("sell", "0.20"), ("buy", "0.40")),
    "shrinks, grows and shrinks": (("sell", "0.20"), ("buy", "0.40"), ("sell", "0.30")),
    "grows twice and shrinks": (("buy", "0.40"), ("buy", "0.20"), ("sell", "0.80")),
}


def grown(mode: MarginMode) -> Callable[[], World]:
    return lambda: World(MarginMode.NETTING, one(mode))


@followers
@pytest.mark.parametrize("what", STEPS)
def test_a_follower_that_could_not_trade_holds_what_the_master_holds_by_then(mode: MarginMode, what: str) -> None:
    async def tell(world: World) -> None:
        world.buy("EURUSD", "0.40")
        await world.settle()
        world.accounts["f"].gateway.faults.offline = True
        for side, lots in STEPS[what]:
            (world.buy if side == "buy" else world.sell)("EURUSD", lots)
            await world.settle(1)
        world.accounts["f"].gateway.faults.offline = False
        await world.settle(20)
        (master,) = world.master.positions
        assert world.accounts["f"].net("EURUSD") == master.lots
        half = master.lots / 2
        world.sell("EURUSD", str(half))
        await world.settle()
        assert world.accounts["f"].net("EURUSD") == half
        world.buy("EURUSD", "1.00")
        await world.settle()
        assert world.accounts["f"].net("EURUSD") == half + 1
        (master,) = world.master.positions
        world.close(master.ticket)
        await world.settle()
        assert world.accounts["f"].positions == ()

    story(grown(mode), tell)


@followers
def test_a_growth_that_was_closed_again_before_it_could_be_copied_leaves_a_receipt(mode: MarginMode) -> None:
    async def tell(world: World) -> None:
        world.buy("EURUSD", "0.40")
        await world.settle()
        world.accounts["f"].gateway.faults.offline = True
        world.buy("EURUSD", "0.20")
        await world.settle(1)
        world.sell("EURUSD", "0.20")
        await world.settle(1)
        world.accounts["f"].gateway.faults.offline = False
        await world.settle(20)
        events = [(receipt.event, receipt.code) for receipt in await world.receipts()]
        assert ("scale_in", "nothing_to_do") in events
        assert world.net_is("EURUSD", "0.40")

    story(grown(mode), tell)


@followers
def test_levels_that_changed_just_before_the_worker_died_are_set_by_the_next(mode: MarginMode) -> None:
    async def tell(world: World) -> None:
        ticket = world.buy("EURUSD", "1.00")
        other = world.buy("XAUUSD", "1.00")
        await world.settle()
        world.accounts["f"].gateway.faults.next(Operation.CLOSE, delay(answer_s=5.0))
        world.close(other)
        world.master.server.set_levels(1, ticket, D("1.09000"), D("1.12000"))
        await world.settle(2)
        world.worker_task.cancel()  # While it still waits for the answer to the close.
        world.start_worker()
        await world.settle(20)
        (copy,) = world.accounts["f"].positions
        assert (copy.stop_loss, copy.take_profit) == (D("1.09000"), D("1.12000"))

    story(lambda: World(MarginMode.HEDGING, one(mode, {"copy": {"stops": "copy", "targets": "copy"}})), tell)


@followers
def test_levels_of_a_copy_whose_answer_was_lost_keep_their_distance(mode: MarginMode) -> None:
    async def tell(world: World) -> None:
        world.accounts["f"].gateway.faults.next(Operation.EXECUTE, answer_lost())
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        world.master.server.set_levels(1, ticket, D("1.09010"), D("1.12010"))
        await world.settle(20)
        (copy,) = world.accounts["f"].positions
        assert (copy.stop_loss, copy.take_profit) == (D("1.09010"), D("1.12010"))

    story(lambda: World(MarginMode.HEDGING, one(mode, {"copy": {"stops": "distance", "targets": "distance"}})), tell)


def test_an_mt4_master_that_closed_positions_part_by_part_unseen_is_believed_by_its_history() -> None:
    async def tell(world: World) -> None:
        tickets = [world.buy("EURUSD", lots) for lots in ("0.40", "0.60", "0.80")]
        await world.settle()
        assert world.net_is("EURUSD", "1.80")
        world.master.faults.offline = True
        for ticket in tickets:
            world.close(ticket, "0.20")
        await world.settle(1)
        for position in world.master.positions:
            world.close(position.ticket)
        world.master.faults.offline = False
        await world.settle(10)
        assert world.accounts["f"].positions == ()

    story(lambda: World(MarginMode.MT4, one(MarginMode.HEDGING)), tell)


@pytest.mark.parametrize("history", ["with", "without"])
def test_a_netting_list_that_is_empty_after_connecting_settles_no_close_and_no_open(history: str) -> None:
    """A broker is slow to close, the worker is started anew, and its terminal lists nothing yet."""

    async def tell(world: World) -> None:
        account = world.accounts["f"]
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        account.faults.next(Operation.CLOSE, delay(send_s=3.0))
        world.close(ticket)
        await world.settle(1)
        account.faults.empty_after_open_s = 2.0
        world.worker_task.cancel()
        await account.gateway.close()
        world.start_worker()
        await world.settle(1)
        assert [leg.lots for leg in world.link().legs] == [D("1.00")]
        await world.settle(40)
        assert account.positions == ()
        assert not world.follower().memory.living

    def world() -> World:
        made = World(MarginMode.HEDGING, one(MarginMode.NETTING))
        if history == "without":
            made.accounts["f"].gateway.deals = None
        return made

    story(world, tell)
