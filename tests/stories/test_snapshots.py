"""What a snapshot brings later than the event: opens wait for it as long as they are young."""

import pytest

from copier.gateways.paper_faults import Operation, empty_list, failed_read
from copier.model import MarginMode, Permit, TradeRequest, TradeResult, Verdict
from tests.world import World, one, story


def test_an_open_whose_rules_at_the_master_are_not_known_yet_is_copied_once_they_are() -> None:
    async def tell(world: World) -> None:
        world.master.gateway.faults.next(Operation.QUOTE, failed_read())
        world.buy("XAUUSD", "1.00")
        await world.settle(0.5)
        assert world.accounts["f"].positions == ()
        await world.settle(5)
        assert world.net_is("XAUUSD", "1.00")
        assert [receipt.verdict for receipt in await world.receipts()] == [Verdict.COPIED]

    story(lambda: World(MarginMode.HEDGING, one(MarginMode.HEDGING)), tell)


def test_an_open_whose_rules_never_come_is_refused_as_too_old() -> None:
    async def tell(world: World) -> None:
        world.master.gateway.faults.always(Operation.QUOTE, failed_read())
        world.buy("XAUUSD", "1.00")
        await world.settle(70)
        assert world.accounts["f"].positions == ()
        assert [receipt.code for receipt in await world.receipts()] == ["open_too_old"]

    story(lambda: World(MarginMode.HEDGING, one(MarginMode.HEDGING)), tell)


def test_a_watcher_that_begins_again_tells_the_rules_with_its_first_snapshot() -> None:
    async def tell(world: World) -> None:
        world.buy("XAUUSD", "1.00")
        await world.settle()
        world.watcher_task.cancel()
        world.start_watcher()
        await world.settle()
        snapshot = await world.stream.last_snapshot("m")
        assert snapshot is not None
        assert snapshot.event is not None
        assert set(getattr(snapshot.event, "specs", ())) == {"XAUUSD"}

    story(lambda: World(MarginMode.HEDGING, one(MarginMode.HEDGING)), tell)


def test_an_unexpected_error_of_one_gateway_stops_neither_its_follower_nor_the_others() -> None:
    async def tell(world: World) -> None:
        gateway = world.accounts["f"].gateway
        execute = gateway.execute_trade

        async def breaks(request: TradeRequest, permit: Permit) -> TradeResult:
            gateway.execute_trade = execute  # type: ignore[method-assign]
            await execute(request, permit)
            raise ZeroDivisionError("a mistake of a gateway's")

        gateway.execute_trade = breaks  # type: ignore[method-assign]
        ticket = world.buy("EURUSD", "1.00")
        await world.settle(12)
        assert world.net_is("EURUSD", "1.00")
        assert world.net_is("EURUSD", "1.00", "g")
        world.close(ticket)
        await world.settle(12)
        assert world.accounts["f"].positions == ()

    followers = {**one(MarginMode.HEDGING), "g": (MarginMode.HEDGING, {})}
    story(lambda: World(MarginMode.HEDGING, followers), tell)


def test_a_loss_limit_is_known_before_the_first_open() -> None:
    async def tell(world: World) -> None:
        world.buy("EURUSD", "1.00")
        await world.settle()
        assert world.net_is("EURUSD", "1.00")

    risk = {
        "losses": [{"name": "overall", "percent": 8, "period": "lifetime", "rearm": "by_hand"}],
        "worst_case": {"enabled": False},
    }
    story(lambda: World(MarginMode.HEDGING, one(MarginMode.HEDGING), follower_risk=risk), tell)


@pytest.mark.parametrize("mode", list(MarginMode))
def test_a_connected_list_that_is_empty_for_a_while_closes_nothing_while_history_tells_of_no_close(mode: MarginMode) -> None:
    async def tell(world: World) -> None:
        world.buy("EURUSD", "1.00")
        await world.settle()
        world.master.gateway.faults.next(Operation.POSITIONS, empty_list(), times=20)
        await world.settle(12)
        assert world.net_is("EURUSD", "1.00")
        assert len(world.accounts["f"].server.accounts[1].deals) == 2  # The deposit and the one opening.

    story(lambda: World(mode, one(MarginMode.HEDGING)), tell)
