"""A manager's orders against a server that answers late, twice, never, in another order, or only by a deal."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from copier.clock import Clock, LoopClock, run_virtual
from copier.errors import OutcomeUnknown, Reason, Rejected, Unavailable
from copier.gateways.manager_connection import OUTSTANDING_MAX
from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_faults import Fault, Stops
from copier.gateways.paper_server import PaperServer
from copier.gateways.remote import RemoteGateway
from copier.model import (
    CloseRequest,
    CloseResult,
    DealEntry,
    DealReason,
    MarginMode,
    ModifyRequest,
    Permit,
    Position,
    Side,
    TradeMode,
    TradeRequest,
    TradeResult,
)
from tests.fakes.fake_mt5manager import FakeManagerServer, RequestFault
from tests.fakes.mt5manager_stage import in_process

MONDAY_NOON_MS = 1_704_715_200_000
LOGIN = 5001
TAG = "mc0a1b2c3d4e"


@dataclass(kw_only=True)
class Scene:
    clock: Clock
    server: PaperServer
    fake: FakeManagerServer
    gateway: RemoteGateway
    neighbour: RemoteGateway

    @property
    def account(self) -> PaperAccount:
        return self.server.accounts[LOGIN]

    @property
    def permit(self) -> Permit:
        return Permit(token=1, not_after_ms=self.clock.now_ms() + 60_000)

    async def open(self, lots: str = "0.30", *, side: Side = Side.BUY, symbol: str = "EURUSD", **more: Any) -> TradeResult:
        request = TradeRequest(symbol=symbol, action=side, lots=Decimal(lots), **more)
        return await self.gateway.execute_trade(request, self.permit)

    async def close(self, ticket: int, lots: str | None = None) -> CloseResult:
        request = CloseRequest(ticket=ticket, lots=None if lots is None else Decimal(lots))
        return await self.gateway.close_position(request, self.permit)

    async def positions(self) -> tuple[Position, ...]:
        return (await self.gateway.get_positions()).positions


def play(
    act: Callable[[Scene], Awaitable[None]],
    *,
    mode: MarginMode = MarginMode.HEDGING,
    symbols: dict[str, dict[str, Any]] | None = None,
    dealing: bool = False,
    **server_does: Any,
) -> None:
    """Run a scene in virtual time; `server_does` are fields of `FakeManagerServer`."""

    async def run() -> None:
        clock = LoopClock(MONDAY_NOON_MS)
        server = PaperServer("Broker-Demo", clock=clock, server_offset_s=7200)
        for login in (LOGIN, LOGIN + 1):
            server.add_account(PaperAccount(login, margin_mode=mode))
        for symbol, changes in (symbols or {}).items():
            server.change_symbol(symbol, **changes)
        server.set_quote("EURUSD", "1.10000", "1.10010")
        fake = FakeManagerServer(server=server, latency_s=0.05, **server_does)
        async with in_process(fake, clock, LOGIN, LOGIN + 1, dealing=dealing) as (gateway, neighbour):
            await gateway.open()
            await neighbour.open()
            await act(Scene(clock=clock, server=server, fake=fake, gateway=gateway, neighbour=neighbour))

    run_virtual(run())


def test_an_order_that_is_placed_and_filled_later_is_a_result_with_its_position() -> None:
    async def act(scene: Scene) -> None:
        scene.fake.next_requests.append(RequestFault(placed_s=1.5))
        result = await scene.open(tag=TAG)
        (position,) = await scene.positions()
        assert (result.ticket, result.lots, result.price) == (position.ticket, Decimal("0.30"), Decimal("1.10010"))
        assert position.tag == TAG

    play(act)


def test_an_order_that_is_placed_and_dropped_is_rejected() -> None:
    async def act(scene: Scene) -> None:
        scene.fake.next_requests.append(RequestFault(dropped=True))
        with pytest.raises(Rejected, match="dropped by the server"):
            await scene.open()
        assert await scene.positions() == ()

    play(act)


def test_an_order_that_is_placed_and_not_filled_in_time_is_unknown_and_found_later() -> None:
    async def act(scene: Scene) -> None:
        scene.fake.next_requests.append(RequestFault(placed_s=30))
        with pytest.raises(OutcomeUnknown, match="accepted and not filled"):
            await scene.open(tag=TAG)
        assert await scene.positions() == ()
        await wait(25)
        assert [each.tag for each in await scene.positions()] == [TAG]

    play(act)


def test_a_close_that_is_placed_and_filled_later_is_done_once() -> None:
    async def act(scene: Scene) -> None:
        opened = await scene.open()
        scene.fake.next_requests.append(RequestFault(placed_s=1))
        assert (await scene.close(opened.ticket)).lots == Decimal("0.30")
        assert await scene.positions() == ()

    play(act)


def test_an_answer_that_the_request_is_under_way_is_not_taken_for_the_last() -> None:
    async def act(scene: Scene) -> None:
        scene.fake.next_requests.append(RequestFault(under_way=True))
        assert (await scene.open()).lots == Decimal("0.30")
        assert len(await scene.positions()) == 1

    play(act)


def test_a_deal_that_can_be_read_only_later_still_tells_the_position() -> None:
    async def act(scene: Scene) -> None:
        scene.fake.next_requests.append(RequestFault(deal_hidden_s=0.2))
        result = await scene.open()
        assert [each.ticket for each in await scene.positions()] == [result.ticket]

    play(act)


def test_a_position_is_found_although_its_deal_can_never_be_read() -> None:
    async def act(scene: Scene) -> None:
        await scene.open(side=Side.SELL, lots="0.10")
        scene.fake.next_requests.append(RequestFault(deal_hidden_s=3600))
        result = await scene.open()
        assert result.ticket in {each.ticket for each in await scene.positions() if each.type is Side.BUY}

    play(act)


def test_on_a_netting_account_a_hidden_deal_does_not_pass_for_another_position() -> None:
    async def act(scene: Scene) -> None:
        first = await scene.open(lots="0.10")
        scene.fake.next_requests.append(RequestFault(deal_hidden_s=3600))
        await scene.open(lots="0.20")
        (position,) = await scene.positions()
        assert (position.ticket, position.lots) == (first.ticket, Decimal("0.30"))

    play(act, mode=MarginMode.NETTING)


def test_an_order_without_an_answer_is_unknown_at_the_deadline_and_the_way_lives_on() -> None:
    async def act(scene: Scene) -> None:
        scene.fake.next_requests.append(RequestFault(answered=False))
        began = scene.clock.now_ms()
        with pytest.raises(OutcomeUnknown):
            await scene.open()
        assert 9_000 <= scene.clock.now_ms() - began <= 10_000
        assert scene.gateway.connected
        assert len(await scene.positions()) == 1

    play(act)


@pytest.mark.parametrize("code", [10006, 10019, 11000, 11002])
def test_a_refusal_by_the_server_or_the_dealer_executes_nothing(code: int) -> None:
    async def act(scene: Scene) -> None:
        scene.fake.next_requests.append(RequestFault(executes=False, retcode=code))
        with pytest.raises(Rejected) as caught:
            await scene.open()
        assert caught.value.code == code
        assert await scene.positions() == ()

    play(act)


@pytest.mark.parametrize("code", [0, 9, 10011, 10012, 10031, 10037, 11001, 12345])
def test_a_code_that_says_nothing_certain_is_unknown(code: int) -> None:
    async def act(scene: Scene) -> None:
        scene.fake.next_requests.append(RequestFault(retcode=code))
        with pytest.raises(OutcomeUnknown):
            await scene.open()

    play(act)


@pytest.mark.parametrize(
    ("error", "expected"),
    [(10, Unavailable), (11, Unavailable), (3, Rejected), (8, Rejected), (10024, Rejected), (7, OutcomeUnknown)],
)
def test_what_is_not_sent_is_told_apart_from_what_may_have_been(error: int, expected: type[Exception]) -> None:
    async def act(scene: Scene) -> None:
        scene.fake.next_requests.append(RequestFault(error=error))
        with pytest.raises(expected):
            await scene.open()
        assert scene.fake.sent == []

    play(act)


def test_lots_off_the_step_are_never_sent() -> None:
    async def act(scene: Scene) -> None:
        opened = await scene.open()
        scene.fake.sent.clear()
        for call in (scene.open("0.015"), scene.close(opened.ticket, "0.015")):
            with pytest.raises(Rejected) as caught:
                await call
            assert caught.value.reason is Reason.INVALID_VOLUME
        assert scene.fake.sent == []

    play(act)


def test_an_order_says_volume_in_ten_thousandths_of_a_lot_and_carries_the_tag_in_its_comment() -> None:
    async def act(scene: Scene) -> None:
        await scene.open(tag=TAG, comment="from a master", stop_loss=Decimal("1.09"))
        (sent,) = scene.fake.sent
        assert sent == {
            "Action": 200,
            "Login": LOGIN,
            "Symbol": "EURUSD",
            "Volume": 3000,
            "PriceOrder": 1.1001,
            "PriceDeviation": 3,
            "PriceSL": 1.09,
            "Flags": 16 | 32,
            "Comment": f"{TAG} from a master",
            "IDClient": 1,
        }

    play(act)


def test_volumes_finer_than_a_ten_thousandth_of_a_lot_are_said_exactly() -> None:
    async def act(scene: Scene) -> None:
        await scene.open("0.00015")
        assert scene.fake.sent[0]["VolumeExt"] == 15_000
        assert [each.lots for each in await scene.positions()] == [Decimal("0.00015")]

    play(act, symbols={"EURUSD": {"volume_step": Decimal("0.00001"), "volume_min": Decimal("0.00001")}})


def test_a_close_names_the_position_the_other_side_and_that_it_closes() -> None:
    async def act(scene: Scene) -> None:
        opened = await scene.open()
        await scene.close(opened.ticket, "0.10")
        sent = scene.fake.sent[-1]
        assert (sent["Position"], sent["Type"], sent["Flags"], sent["Volume"]) == (opened.ticket, 1, 1, 1000)

    play(act)


def test_a_modify_sends_both_levels_with_their_flags() -> None:
    async def act(scene: Scene) -> None:
        opened = await scene.open(stop_loss=Decimal("1.09"), take_profit=Decimal("1.12"))
        await scene.gateway.modify_position(ModifyRequest(ticket=opened.ticket, stop_loss=Decimal("1.095")), scene.permit)
        sent = scene.fake.sent[-1]
        assert (sent["Action"], sent["PriceSL"], sent["PriceTP"], sent["Flags"]) == (202, 1.095, 1.12, 48)

    play(act)


def test_where_the_server_refuses_levels_at_the_opening_they_are_set_afterwards() -> None:
    async def act(scene: Scene) -> None:
        scene.fake.next_requests.append(RequestFault(broker=Fault(stops=Stops.REFUSED)))
        result = await scene.open(stop_loss=Decimal("1.09"))
        assert result.stops_set
        assert [each.stop_loss for each in await scene.positions()] == [Decimal("1.09")]
        assert [sent["Action"] for sent in scene.fake.sent] == [200, 200, 202]

    play(act)


def test_a_position_whose_close_is_still_under_way_wants_a_pause() -> None:
    async def act(scene: Scene) -> None:
        opened = await scene.open()
        scene.fake.stuck.add(opened.ticket)
        with pytest.raises(Rejected) as caught:
            await scene.close(opened.ticket)
        assert caught.value.wants_pause

    play(act)


def test_at_most_128_requests_of_a_manager_wait_for_an_answer() -> None:
    async def act(scene: Scene) -> None:
        connection = scene.gateway._carrier._child._link.office._connection  # type: ignore[attr-defined]
        scene.fake.next_requests.extend(RequestFault(answered=False, executes=False) for _ in range(OUTSTANDING_MAX))
        for _ in range(OUTSTANDING_MAX):
            connection.send("", {"Action": 200, "Login": LOGIN}, lambda: None)
        with pytest.raises(Rejected) as caught:
            await scene.open()
        assert caught.value.reason is Reason.TOO_MANY_REQUESTS
        await wait(130)
        scene.fake.managers[0]._outstanding.clear()
        await scene.open()

    play(act)


def test_a_side_that_the_symbol_forbids_is_never_sent_as_a_dealer_might_be_let_through() -> None:
    async def act(scene: Scene) -> None:
        with pytest.raises(Rejected) as caught:
            await scene.open(side=Side.SELL)
        assert caught.value.reason is Reason.LONG_ONLY
        assert scene.fake.sent == []

    play(act, symbols={"EURUSD": {"trade_mode": TradeMode.LONG_ONLY}})


def test_a_list_that_cannot_be_read_after_the_fill_makes_the_order_unknown_and_not_unsent() -> None:
    async def act(scene: Scene) -> None:
        def filled_then_blind(seconds: float, act: Callable[[], None]) -> None:
            act()
            scene.fake.fails["PositionRequest"] = 7

        scene.fake.later = filled_then_blind
        with pytest.raises(OutcomeUnknown, match="the server took the order"):
            await scene.open()
        assert len(scene.account.positions) == 1

    play(act)


def test_a_wrong_filling_mode_is_tried_once_more_with_another() -> None:
    async def act(scene: Scene) -> None:
        scene.fake.next_requests.append(RequestFault(executes=False, retcode=10030))
        await scene.open()
        assert [sent.get("TypeFill", 0) for sent in scene.fake.sent] == [0, 1]
        assert len(await scene.positions()) == 1

    play(act)


def test_a_close_in_pieces_ends_with_the_first_that_is_filled_in_part() -> None:
    async def act(scene: Scene) -> None:
        opened = await scene.open("1.00")
        scene.account.positions[opened.ticket].lots = Decimal("2.50")
        scene.account.positions[opened.ticket].view = None
        scene.account.changed()
        scene.fake.sent.clear()
        scene.fake.next_requests.append(RequestFault(broker=Fault(fraction=Decimal("0.5"))))
        assert (await scene.close(opened.ticket)).lots == Decimal("0.50")
        assert len(scene.fake.sent) == 1

    play(act, symbols={"EURUSD": {"volume_max": Decimal(1)}})


def test_adding_to_a_netting_position_keeps_its_levels_and_reducing_it_its_tag() -> None:
    async def act(scene: Scene) -> None:
        opened = await scene.open(tag=TAG, stop_loss=Decimal("1.09"))
        await scene.open(tag=TAG)
        await scene.close(opened.ticket, "0.10")
        (position,) = await scene.positions()
        assert (position.stop_loss, position.tag, position.lots) == (Decimal("1.09"), TAG, Decimal("0.50"))

    play(act, mode=MarginMode.NETTING)


def test_an_order_that_became_late_while_the_child_was_reading_is_not_sent() -> None:
    async def act(scene: Scene) -> None:
        loop: Any = asyncio.get_running_loop()

        def sleep(seconds: float) -> None:
            loop._now += seconds

        scene.fake.sleep, scene.fake.request_s = sleep, 1.0
        order = TradeRequest(symbol="EURUSD", action=Side.BUY, lots=Decimal("0.10"))
        with pytest.raises(Rejected) as caught:
            await scene.gateway.execute_trade(order, Permit(token=1, not_after_ms=scene.clock.now_ms() + 1_500))
        assert caught.value.reason is Reason.TOO_LATE
        assert scene.fake.sent == []

    play(act)


def test_requests_that_were_answered_do_not_count_as_outstanding() -> None:
    async def act(scene: Scene) -> None:
        for _ in range(OUTSTANDING_MAX + 2):
            await scene.open("0.01")

    play(act)


# connection


def test_nothing_is_read_or_sent_without_a_connection_and_all_goes_on_after_it() -> None:
    async def act(scene: Scene) -> None:
        opened = await scene.open()
        scene.fake.lose_connection()
        for call in (
            scene.positions(),
            scene.gateway.get_account(),
            scene.gateway.get_quote("EURUSD"),
            scene.close(opened.ticket),
        ):
            with pytest.raises(Unavailable, match="not connected"):
                await call
        scene.fake.reconnect()
        assert len(await scene.positions()) == 1

    play(act)


def test_a_reconnect_brings_dealing_mode_back_and_wakes_every_login() -> None:
    async def act(scene: Scene) -> None:
        woken: list[str] = []
        for name, gateway in (("one", scene.gateway), ("two", scene.neighbour)):
            assert gateway.wakes is not None
            gateway.wakes.on_change(lambda name=name: woken.append(name))
        scene.fake.lose_connection()
        scene.fake.reconnect()
        assert not scene.fake.managers[0].dealing
        await wait(0.1)
        assert scene.fake.managers[0].dealing
        assert set(woken) == {"one", "two"}
        await scene.open()

    play(act, dealing=True, dealing_needed=True)


def test_without_being_asked_for_no_dealing_mode_is_started() -> None:
    async def act(scene: Scene) -> None:
        await scene.open()
        assert not scene.fake.managers[0].dealing

    play(act)


def test_an_order_whose_connection_breaks_after_it_was_sent_is_unknown() -> None:
    async def act(scene: Scene) -> None:
        scene.fake.next_requests.append(RequestFault(answered=False))

        def breaking(seconds: float, act: Callable[[], None]) -> None:
            act()
            scene.fake.lose_connection()

        scene.fake.later = breaking
        with pytest.raises(OutcomeUnknown):
            await scene.open()
        scene.fake.later = None
        scene.fake.reconnect()
        assert len(await scene.positions()) == 1

    play(act)


# reading


def test_a_cache_that_lags_never_passes_for_the_truth() -> None:
    async def act(scene: Scene) -> None:
        scene.fake.start_lag(5)
        opened = await scene.open()
        assert [each.ticket for each in await scene.positions()] == [opened.ticket]
        await scene.close(opened.ticket)
        assert await scene.positions() == ()

    play(act)


def test_not_found_is_an_empty_list_only_where_nothing_floats() -> None:
    async def act(scene: Scene) -> None:
        assert await scene.positions() == ()
        await scene.open()
        scene.fake.fails["PositionRequest"] = 13
        with pytest.raises(Unavailable):
            await scene.positions()

    play(act, not_found_when_flat=True)


def test_not_found_beside_an_empty_cache_is_not_believed_while_money_floats() -> None:
    async def act(scene: Scene) -> None:
        scene.fake.start_lag(3600)
        await scene.open()
        scene.fake.fails["PositionRequest"] = 13
        with pytest.raises(Unavailable):
            await scene.positions()

    play(act)


def test_the_record_of_another_login_never_passes_for_ours() -> None:
    async def act(scene: Scene) -> None:
        manager: Any = scene.fake.managers[0]
        users, lists = manager.UserRequest, manager.PositionRequest
        scene.server.buy(LOGIN + 1, "EURUSD", "0.10")
        manager.UserRequest = lambda login: users(LOGIN + 1)
        with pytest.raises(Unavailable, match="was told of 5002"):
            await scene.gateway.get_account()
        manager.PositionRequest = lambda login: lists(LOGIN + 1)
        with pytest.raises(Unavailable, match="was told of 5002"):
            await scene.positions()
        with pytest.raises(Unavailable):
            await scene.open()
        assert scene.fake.sent == []

    play(act)


def test_an_unknown_manager_is_told_what_to_mend() -> None:
    async def run() -> None:
        clock = LoopClock(MONDAY_NOON_MS)
        server = PaperServer("Broker-Demo", clock=clock)
        server.add_account(PaperAccount(LOGIN))
        async with in_process(FakeManagerServer(server=server), clock, LOGIN, manager=7) as (gateway,):
            with pytest.raises(Unavailable, match="wrong manager login or password"):
                await gateway.open()

    run_virtual(run())


def test_the_reasons_of_deals_are_the_managers_own_numbers() -> None:
    async def act(scene: Scene) -> None:
        await scene.open(stop_loss=Decimal("1.09"))
        scene.server.set_quote("EURUSD", "1.08990", "1.09000")
        assert scene.gateway.deals is not None
        deals = await scene.gateway.deals.get_deals((await scene.gateway.get_quote("EURUSD")).timestamp.replace(year=2000))
        assert [deal.reason for deal in deals if deal.entry is DealEntry.OUT] == [DealReason.STOP_LOSS]

    play(act)


async def wait(seconds: float) -> None:
    """Let virtual time pass."""
    await asyncio.sleep(seconds)
