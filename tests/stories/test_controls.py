"""What a person, a loss limit or the clock takes away: opens first, closes never unless everything is frozen."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from copier.errors import Reason
from copier.gateways.paper_faults import Operation, failed_read, never_answered, refuse
from copier.model import MarginMode, Receipt, Verdict
from tests.world import EPOCH_MS, D, World, one, story

MODES = list(MarginMode)
each_follower = pytest.mark.parametrize("mode", MODES)
SCOPES = ["*", "f", "f/m"]


async def control(world: World, scope: str, to: str) -> None:
    await world.ledger.set_control(scope, to, "a person")
    await world.worker.look_at_controls()


def world_of(mode: MarginMode, policy: dict[str, Any] | None = None, **more: Any) -> World:
    return World(MarginMode.HEDGING, one(mode, policy), **more)


# Pause ---------------------------------------------------------------------------------------------------------------------


@each_follower
@pytest.mark.parametrize("scope", SCOPES)
def test_a_paused_relation_opens_nothing_and_closes_everything(mode: MarginMode, scope: str) -> None:
    async def tell(world: World) -> None:
        first, second = world.buy("EURUSD", "1.00", stop_loss=D("1.09")), world.buy("XAUUSD", "1.00")
        await world.settle()
        await control(world, scope, "close_only")
        third = world.buy("EURUSD", "0.50")
        world.close(first, "0.40")
        world.master.server.set_levels(1, first, D("1.08"), D(0))
        world.close(second)
        await world.settle()
        (copy,) = world.accounts["f"].positions
        assert (copy.lots, copy.stop_loss < D("1.085")) == (D("0.60"), True)
        refusal = next(r for r in await world.receipts() if r.verdict is Verdict.REFUSED)
        assert (refusal.code, refusal.rule) == ("close_only", "mode")
        assert scope in refusal.message
        await control(world, scope, "live")
        await world.settle(40)
        assert world.net_is("EURUSD", "0.60")
        world.close(third)
        world.close(first)
        world.buy("XAUUSD", "0.20")
        await world.settle()
        assert (world.net_is("EURUSD", "0"), world.net_is("XAUUSD", "0.20")) == (True, True)

    story(lambda: world_of(mode), tell)


def test_a_pause_of_another_follower_or_master_changes_nothing() -> None:
    async def tell(world: World) -> None:
        for scope in ("g", "f/other", "g/m", "group:x"):
            await control(world, scope, "frozen")
        world.buy("EURUSD", "1.00")
        await world.settle()
        assert world.net_is("EURUSD", "1.00")

    story(lambda: world_of(MarginMode.HEDGING), tell)


def test_a_pause_survives_a_restart_of_the_worker() -> None:
    async def tell(world: World) -> None:
        await control(world, "f", "close_only")
        world.worker_task.cancel()
        await world.settle(1)
        world.start_worker()
        await world.settle(2)
        world.buy("EURUSD", "1.00")
        await world.settle()
        assert world.net_is("EURUSD", "0")

    story(lambda: world_of(MarginMode.HEDGING), tell)


# Frozen --------------------------------------------------------------------------------------------------------------------


@each_follower
@pytest.mark.parametrize("scope", SCOPES)
def test_a_frozen_follower_does_nothing_and_levels_up_when_it_goes_on(mode: MarginMode, scope: str) -> None:
    async def tell(world: World) -> None:
        first, second = world.buy("EURUSD", "1.00"), world.buy("XAUUSD", "1.00")
        await world.settle()
        before = world.accounts["f"].positions
        await control(world, scope, "frozen")
        world.close(first, "0.40")
        world.close(second)
        world.buy("EURUSD", "0.30")
        world.master.server.set_levels(1, first, D("1.08"), D(0))
        await world.settle(15)
        assert [(p.ticket, p.lots, p.stop_loss) for p in world.accounts["f"].positions] == [
            (p.ticket, p.lots, p.stop_loss) for p in before
        ]
        await control(world, scope, "live")
        await world.settle(5)
        assert (world.net_is("EURUSD", "0.90"), world.net_is("XAUUSD", "0")) == (True, True)

    story(lambda: world_of(mode), tell)


def test_an_open_that_waited_out_a_freeze_is_too_old() -> None:
    async def tell(world: World) -> None:
        await control(world, "f", "frozen")
        world.buy("EURUSD", "1.00")
        await world.settle(70)
        await control(world, "f", "live")
        await world.settle(5)
        assert world.net_is("EURUSD", "0")
        assert [r.code for r in await world.receipts()] == ["open_too_old"]

    story(lambda: world_of(MarginMode.HEDGING), tell)


def test_what_a_person_closed_by_hand_during_a_freeze_is_noticed_afterwards() -> None:
    async def tell(world: World) -> None:
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        await control(world, "f", "frozen")
        await world.settle(1)
        world.accounts["f"].server.close(1, world.accounts["f"].positions[0].ticket)
        world.close(ticket)
        await world.settle(5)
        await control(world, "f", "live")
        await world.settle(5)
        assert world.accounts["f"].positions == ()
        assert not [link for link in world.follower().links.values() if link.living]

    story(lambda: world_of(MarginMode.HEDGING), tell)


# Flatten -------------------------------------------------------------------------------------------------------------------


@each_follower
@pytest.mark.parametrize("scope", SCOPES)
def test_flatten_closes_what_is_ours_and_nothing_is_ever_opened_again(mode: MarginMode, scope: str) -> None:
    async def tell(world: World) -> None:
        first = world.buy("EURUSD", "1.00")
        world.buy("XAUUSD", "1.00")
        theirs = world.accounts["f"].server.buy(1, "GBPUSD", "0.20").position
        await world.settle()
        await control(world, scope, "flatten")
        second = world.buy("EURUSD", "0.30")
        await world.settle()
        assert [p.ticket for p in world.accounts["f"].positions] == [theirs]
        await control(world, scope, "live")
        world.close(first, "0.50")
        await world.settle(40)
        assert [p.ticket for p in world.accounts["f"].positions] == [theirs]
        world.close(second)
        new = world.buy("XAUUSD", "0.10")
        await world.settle()
        assert world.net_is("XAUUSD", "0.10")
        world.close(new)
        await world.settle()
        assert [p.ticket for p in world.accounts["f"].positions] == [theirs]

    def make() -> World:
        world = world_of(mode, {"copy": {"manual_close": "reopen"}})
        world.quote("GBPUSD", "1.30000", "1.30010")
        return world

    story(make, tell)


@each_follower
def test_flatten_insists_where_the_broker_refuses(mode: MarginMode) -> None:
    async def tell(world: World) -> None:
        world.buy("EURUSD", "1.00")
        await world.settle()
        world.accounts["f"].gateway.faults.next(Operation.CLOSE, refuse(Reason.MARKET_CLOSED), times=4)
        await control(world, "*", "flatten")
        await world.settle(10)
        assert world.accounts["f"].positions == ()

    story(lambda: world_of(mode), tell)


def test_an_order_found_after_a_flatten_is_closed_too() -> None:
    async def tell(world: World) -> None:
        world.accounts["f"].gateway.faults.next(Operation.EXECUTE, never_answered(executed=True, execute_s=12))
        world.buy("EURUSD", "1.00")
        await world.settle(1)
        await control(world, "*", "flatten")
        await world.settle(60)
        assert world.accounts["f"].positions == ()

    story(lambda: world_of(MarginMode.HEDGING), tell)


# Loss limits and hours -----------------------------------------------------------------------------------------------------


def losses(action: str, **more: Any) -> dict[str, Any]:
    return {"losses": [{"name": "day", "money": 500, "action": action, **more}], "worst_case": {"enabled": False}}


async def lose(world: World) -> None:
    """Move the market so far that a long euro lot loses 1,000."""
    world.quote("EURUSD", "1.09000", "1.09010")
    await world.follower().sample()
    await world.settle()


@each_follower
def test_a_daily_loss_limit_closes_all_and_opens_nothing_until_the_next_day(mode: MarginMode) -> None:
    async def tell(world: World) -> None:
        await world.follower().sample()
        world.buy("EURUSD", "1.00")
        await world.settle()
        await lose(world)
        assert world.accounts["f"].positions == ()
        world.buy("EURUSD", "0.10")
        await world.settle()
        assert world.accounts["f"].positions == ()
        limit = next(r for r in await world.receipts() if r.event == "limit" and r.verdict is Verdict.ALERT)
        assert limit.rule == "risk.losses.day"
        await world.settle(60)
        await world.follower().sample()
        world.buy("EURUSD", "0.20")
        await world.settle()
        assert world.net_is("EURUSD", "0.20")

    story(lambda: world_of(mode, follower_risk=losses("close_all", reset_at="08:01")), tell)


def test_a_limit_that_fired_is_still_in_force_after_a_restart() -> None:
    async def tell(world: World) -> None:
        await world.follower().sample()
        world.buy("EURUSD", "1.00")
        await world.settle()
        await lose(world)
        world.worker_task.cancel()
        await world.settle(1)
        world.start_worker()
        await world.settle(2)
        world.buy("EURUSD", "0.10")
        await world.settle()
        assert world.accounts["f"].positions == ()

    story(lambda: world_of(MarginMode.HEDGING, follower_risk=losses("close_all")), tell)


@pytest.mark.parametrize("action", ["stop_opens", "close_only"])
def test_a_milder_limit_keeps_what_is_open_and_lets_it_close(action: str) -> None:
    async def tell(world: World) -> None:
        await world.follower().sample()
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        await lose(world)
        world.buy("XAUUSD", "0.10")
        await world.settle()
        assert (world.net_is("EURUSD", "1.00"), world.net_is("XAUUSD", "0")) == (True, True)
        world.close(ticket)
        await world.settle()
        assert world.accounts["f"].positions == ()

    story(lambda: world_of(MarginMode.HEDGING, follower_risk=losses(action)), tell)


def until(minutes: int, at_end: str) -> dict[str, Any]:
    """A policy whose only trading window ends so many minutes after the story begins."""
    start = datetime.fromtimestamp(EPOCH_MS / 1000, UTC)
    end = start + timedelta(minutes=minutes)
    window = {"days": ["mon"], "start": f"{start - timedelta(hours=1):%H:%M}", "end": f"{end:%H:%M}"}
    return {"filters": {"hours": {"zone": "UTC", "windows": [window], "at_end": at_end}}}


@each_follower
@pytest.mark.parametrize(("at_end", "held"), [("close", "0"), ("leave", "1.00")])
def test_the_end_of_the_trading_window_closes_only_where_that_is_asked_for(mode: MarginMode, at_end: str, held: str) -> None:
    async def tell(world: World) -> None:
        ticket = world.buy("EURUSD", "1.00")
        await world.settle(20)
        assert world.net_is("EURUSD", "1.00")
        await world.settle(80)
        assert world.net_is("EURUSD", held)
        world.buy("XAUUSD", "1.00")
        world.close(ticket)
        await world.settle()
        assert world.accounts["f"].positions == ()
        assert "outside_hours" in [r.code for r in await world.receipts()]

    story(lambda: world_of(mode, until(1, at_end)), tell)


# Receipts ------------------------------------------------------------------------------------------------------------------


def about(receipts: list[Receipt], ticket: int) -> list[tuple[str, str]]:
    return [(r.event, r.verdict.value) for r in receipts if r.key == f"{ticket}.1"]


@each_follower
def test_every_change_leaves_a_receipt_at_every_follower(mode: MarginMode) -> None:
    async def tell(world: World) -> None:
        copied = world.buy("EURUSD", "1.00")
        refused = world.sell("XAUUSD", "1.00")
        await world.settle()
        for ticket in (copied, refused):
            world.close(ticket, "0.40")
        await world.settle()
        for ticket, stop in ((copied, "1.09"), (refused, "2700")):
            world.master.server.set_levels(1, ticket, D(stop), D(0))
        await world.settle()
        for ticket in (copied, refused):
            world.close(ticket)
        await world.settle()
        receipts = await world.receipts()
        assert about(receipts, copied) == [
            ("open", "copied"),
            ("reduce", "changed"),
            ("modify", "changed"),
            ("close", "closed"),
        ]
        assert about(receipts, refused) == [
            ("open", "refused"),
            ("reduce", "skipped"),
            ("modify", "skipped"),
            ("close", "skipped"),
        ]
        assert all(r.code and r.symbol and r.at_ms for r in receipts)

    story(lambda: world_of(mode, {"copy": {"sides": "buy"}}), tell)


@each_follower
def test_changes_of_a_copy_that_was_flattened_leave_receipts_too(mode: MarginMode) -> None:
    async def tell(world: World) -> None:
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        await control(world, "f", "flatten")
        await world.settle()
        world.close(ticket, "0.40")
        await world.settle()
        world.master.server.set_levels(1, ticket, D("1.09"), D(0))
        await world.settle()
        world.close(ticket)
        await world.settle(10)
        receipts = await world.receipts()
        assert about(receipts, ticket) == [
            ("open", "copied"),
            ("close", "closed"),
            ("reduce", "skipped"),
            ("modify", "skipped"),
            ("close", "skipped"),
        ]
        assert {r.code for r in receipts[2:]} == {"not_copied"}

    story(lambda: world_of(mode), tell)


def test_a_change_with_nothing_to_do_here_leaves_a_receipt() -> None:
    async def tell(world: World) -> None:
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        world.master.server.set_levels(1, ticket, D("1.09"), D(0))
        await world.settle()
        world.close(ticket, "0.10")
        await world.settle()
        receipts = about(await world.receipts(), ticket)
        assert [event for event, _ in receipts] == ["open", "modify", "reduce"]

    policy = {"copy": {"stops": "none", "targets": "none"}, "size": {"mode": "fixed", "lots": "0.01"}}
    story(lambda: world_of(MarginMode.HEDGING, policy), tell)


def test_a_refusal_of_a_close_is_told_once_and_its_end_too() -> None:
    async def tell(world: World) -> None:
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        world.accounts["f"].gateway.faults.next(Operation.CLOSE, refuse(Reason.MARKET_CLOSED), times=5)
        world.accounts["f"].gateway.faults.next(Operation.POSITIONS, failed_read())
        world.close(ticket)
        await world.settle(20)
        assert about(await world.receipts(), ticket) == [("open", "copied"), ("close", "failed"), ("close", "closed")]

    story(lambda: world_of(MarginMode.HEDGING), tell)
