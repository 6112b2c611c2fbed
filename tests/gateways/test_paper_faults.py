"""The paper gateway's knobs: what goes wrong, for how long, and that nothing else does."""

import asyncio
from decimal import Decimal

import pytest

from copier.clock import LoopClock, run_virtual
from copier.errors import OutcomeUnknown, Reason, Rejected, Unavailable
from copier.gateways import paper_faults as fault
from copier.gateways.paper import PaperGateway
from copier.gateways.paper_account import PaperAccount, server_time
from copier.gateways.paper_faults import NO_FAULT, Fault, Faults, Operation
from copier.gateways.paper_server import PaperServer
from copier.model import CloseRequest, MarginMode, ModifyRequest, Permit, Side, TradeRequest

D = Decimal
TAG = "mc0a1b2c3d4e5f"
START_MS = 1_704_715_200_000


class World:
    def __init__(self, mode=MarginMode.HEDGING, **gateway):
        self.clock = LoopClock(START_MS)
        self.server = PaperServer(clock=self.clock)
        self.account = self.server.add_account(PaperAccount(1, margin_mode=mode))
        self.faults = Faults()
        self.gateway = PaperGateway(self.server, 1, faults=self.faults, **gateway)

    def now_s(self):
        return asyncio.get_running_loop().time()

    def permit(self, token=1, within_s=60):
        return Permit(token=token, not_after_ms=self.clock.now_ms() + within_s * 1000)

    async def open(self, lots="0.30", **more):
        permit = more.pop("permit", None) or self.permit()
        return await self.gateway.execute_trade(TradeRequest(symbol="EURUSD", action=Side.BUY, lots=D(lots), **more), permit)

    async def close(self, ticket, lots=None):
        return await self.gateway.close_position(CloseRequest(ticket=ticket, lots=lots and D(lots)), self.permit())

    async def positions(self):
        return (await self.gateway.get_positions()).positions


def play(scene, mode=MarginMode.HEDGING, **gateway):
    async def main():
        world = World(mode, **gateway)
        world.server.set_quote("EURUSD", "1.10000", "1.10010")
        await world.gateway.open()
        await scene(world)
        await world.gateway.close()

    run_virtual(main())


# the knobs themselves


def test_a_fault_laid_for_some_calls_is_gone_after_them():
    faults = Faults()
    faults.next(Operation.EXECUTE, fault.requote(), times=2)
    taken = [faults.take(Operation.EXECUTE).reason for _ in range(3)]
    assert taken == [Reason.REQUOTE, Reason.REQUOTE, None]


def test_faults_are_taken_in_the_order_they_were_laid():
    faults = Faults()
    faults.next(Operation.CLOSE, fault.requote(), fault.rate_limited())
    faults.next(Operation.CLOSE, fault.refuse(Reason.BUSY))
    taken = [faults.take(Operation.CLOSE).reason for _ in range(3)]
    assert taken == [Reason.REQUOTE, Reason.TOO_MANY_REQUESTS, Reason.BUSY]


def test_a_fault_on_one_operation_leaves_the_others_alone():
    faults = Faults()
    faults.always(Operation.EXECUTE, fault.not_sent())
    assert faults.take(Operation.CLOSE) == NO_FAULT


def test_a_lasting_fault_lasts_until_it_is_cleared_and_joins_the_next_ones():
    faults = Faults()
    faults.always(Operation.EXECUTE, fault.comment_stripped())
    faults.next(Operation.EXECUTE, fault.partial_fill("0.5"))
    assert faults.take(Operation.EXECUTE) == Fault(comment="", fraction=D("0.5"))
    assert faults.take(Operation.EXECUTE) == Fault(comment="")
    faults.clear(Operation.EXECUTE)
    assert faults.take(Operation.EXECUTE) == NO_FAULT


def test_clearing_everything_clears_everything():
    faults = Faults()
    faults.always(Operation.EXECUTE, fault.requote())
    faults.next(Operation.CLOSE, fault.requote())
    faults.clear()
    assert [faults.take(operation) for operation in Operation] == [NO_FAULT] * len(Operation)


def test_two_faults_joined_do_both():
    both = fault.answer_lost() | fault.comment_cut(4) | fault.delay(send_s=1)
    assert (both.answer, both.comment_max, both.send_delay_s) == (fault.Answer.LOST, 4, 1)


def test_a_call_without_faults_and_latency_takes_no_time():
    async def scene(world):
        opened = await world.open()
        await world.positions()
        await world.close(opened.ticket)
        assert world.now_s() == 0

    play(scene)


# time


def test_latency_is_the_way_there_and_back():
    async def scene(world):
        order = asyncio.ensure_future(world.open())
        await asyncio.sleep(0.04)
        assert not world.account.positions
        await asyncio.sleep(0.02)
        assert len(world.account.positions) == 1
        assert not order.done()
        await order
        assert world.now_s() == pytest.approx(0.1)
        await world.positions()
        assert world.now_s() == pytest.approx(0.2)

    play(scene, latency_s=0.1)


def test_a_request_is_judged_by_its_permit_when_it_arrives_and_not_when_it_is_executed():
    async def scene(world):
        world.faults.next(Operation.EXECUTE, fault.delay(execute_s=3))
        assert (await world.open(permit=world.permit(within_s=1))).lots == D("0.30")
        world.faults.next(Operation.EXECUTE, fault.delay(send_s=3))
        with pytest.raises(Rejected) as caught:
            await world.open(permit=world.permit(within_s=1))
        assert caught.value.reason is Reason.TOO_LATE

    play(scene)


def test_the_far_end_judges_lateness_by_its_own_clock():
    async def scene(world):
        with pytest.raises(Rejected) as caught:
            await world.open(permit=world.permit(within_s=60))
        assert caught.value.reason is Reason.TOO_LATE

    play(scene, clock=LoopClock(START_MS + 90_000))


def test_two_gateways_of_one_account_share_the_token_they_have_seen():
    async def scene(world):
        other = PaperGateway(world.server, 1)
        await other.open()
        await world.open(permit=world.permit(token=7))
        with pytest.raises(Rejected) as caught:
            await other.execute_trade(TradeRequest(symbol="EURUSD", action=Side.BUY, lots=D(1)), world.permit(token=6))
        assert caught.value.reason is Reason.STALE_TOKEN

    play(scene)


@pytest.mark.parametrize("execute_s", [0, 5, 10.5, 31.5])
def test_an_order_never_answered_is_executed_when_the_knob_says_even_long_after(execute_s):
    async def scene(world):
        world.faults.next(Operation.EXECUTE, fault.never_answered(executed=True, execute_s=execute_s))
        with pytest.raises(OutcomeUnknown):
            await world.open()
        assert world.now_s() == 10
        assert len(await world.positions()) == (execute_s < 10)
        await asyncio.sleep(execute_s)
        assert len(await world.positions()) == 1

    play(scene)


def test_an_answer_slower_than_the_deadline_is_unknown_at_the_deadline():
    async def scene(world):
        world.faults.next(Operation.EXECUTE, fault.delay(answer_s=11))
        with pytest.raises(OutcomeUnknown):
            await world.open()
        assert world.now_s() == 10
        await asyncio.sleep(5)
        assert len(await world.positions()) == 1

    play(scene)


def test_a_lost_answer_is_unknown_as_soon_as_the_broker_has_acted():
    async def scene(world):
        world.faults.next(Operation.EXECUTE, fault.answer_lost(execute_s=2))
        with pytest.raises(OutcomeUnknown):
            await world.open()
        assert world.now_s() == 2

    play(scene)


def test_an_order_whose_caller_is_cancelled_goes_on_at_the_broker():
    async def scene(world):
        world.faults.next(Operation.EXECUTE, fault.delay(send_s=1))
        order = asyncio.ensure_future(world.open())
        await asyncio.sleep(0.5)
        order.cancel()
        await asyncio.sleep(1)
        assert order.cancelled()
        assert len(await world.positions()) == 1

    play(scene)


def test_a_server_that_goes_down_under_way_swallows_the_order():
    async def scene(world):
        world.faults.next(Operation.EXECUTE, fault.delay(send_s=1))
        order = asyncio.ensure_future(world.open())
        await asyncio.sleep(0.5)
        world.server.online = False
        with pytest.raises(OutcomeUnknown):
            await order
        assert not world.account.positions

    play(scene)


def test_a_slow_read_that_outlives_the_connection_is_unavailable():
    async def scene(world):
        world.faults.next(Operation.POSITIONS, fault.delay(answer_s=2))
        read = asyncio.ensure_future(world.positions())
        await asyncio.sleep(1)
        world.faults.offline = True
        with pytest.raises(Unavailable):
            await read
        world.faults.offline = False

    play(scene)


# lists


def test_lists_lag_behind_the_answer_by_the_set_time_and_show_the_state_of_then():
    async def scene(world):
        first = await world.open(lots="0.10")
        world.faults.visibility_lag_ms = 500
        second = await world.open(lots="0.20")
        await asyncio.sleep(0.3)
        await world.gateway.modify_position(ModifyRequest(ticket=first.ticket, stop_loss=D("1.09")), world.permit())
        assert [each.ticket for each in await world.positions()] == [first.ticket]
        await asyncio.sleep(0.2)
        listed = await world.positions()
        assert [each.ticket for each in listed] == [first.ticket, second.ticket]
        assert listed[0].stop_loss == 0
        await asyncio.sleep(0.3)
        assert (await world.positions())[0].stop_loss == D("1.09")

    play(scene)


def test_a_closed_position_stays_listed_for_the_lag_and_cannot_be_closed_again():
    async def scene(world):
        opened = await world.open()
        world.faults.visibility_lag_ms = 500
        await world.close(opened.ticket)
        assert len(await world.positions()) == 1
        with pytest.raises(Rejected, match=f"Position with ticket {opened.ticket} not found") as caught:
            await world.close(opened.ticket)
        assert caught.value.reason is Reason.INVALID_TICKET
        await asyncio.sleep(0.5)
        assert await world.positions() == ()

    play(scene)


def test_deals_lag_like_positions():
    async def scene(world):
        world.faults.visibility_lag_ms = 500
        await asyncio.sleep(1)
        await world.open()
        since = world.account.deals[-1].time
        assert await world.gateway.get_deals(since) == ()
        await asyncio.sleep(0.5)
        assert len(await world.gateway.get_deals(since)) == 1

    play(scene)


def test_without_the_lag_lists_are_fresh_again():
    async def scene(world):
        world.faults.visibility_lag_ms = 500
        await world.open()
        world.faults.visibility_lag_ms = 0
        assert len(await world.positions()) == 1

    play(scene)


def test_lists_are_empty_for_a_while_after_a_reconnect():
    async def scene(world):
        await world.open()
        world.faults.empty_after_open_s = 2
        await world.gateway.close()
        await world.gateway.open()
        assert await world.positions() == ()
        assert await world.gateway.get_deals(world.account.deals[0].time) == ()
        await asyncio.sleep(2)
        assert len(await world.positions()) == 1

    play(scene)


def test_one_list_may_be_wrongly_empty():
    async def scene(world):
        await world.open()
        world.faults.next(Operation.POSITIONS, fault.empty_list())
        assert [len(await world.positions()) for _ in range(2)] == [0, 1]

    play(scene)


def test_another_account_shows_its_own_positions_under_its_own_name():
    async def scene(world):
        world.server.add_account(PaperAccount(2))
        world.server.buy(2, "EURUSD", "0.70")
        await world.open()
        world.faults.next(Operation.POSITIONS, fault.wrong_account(2))
        answer = await world.gateway.get_positions()
        assert answer.account == "2@Paper-Demo"
        assert [each.lots for each in answer.positions] == [D("0.70")]

    play(scene)


# the broker


def test_requests_beyond_the_rate_are_refused_until_the_second_is_over():
    async def scene(world):
        world.faults.requests_per_s = 2
        await world.open()
        await world.open()
        with pytest.raises(Rejected) as caught:
            await world.open()
        assert (caught.value.reason, caught.value.code) == (Reason.TOO_MANY_REQUESTS, 10024)
        assert caught.value.wants_pause
        await asyncio.sleep(1)
        await world.open()

    play(scene)


def test_autotrading_switched_off_refuses_every_trade_and_says_so_in_the_account():
    async def scene(world):
        opened = await world.open()
        world.gateway.autotrading = False
        for call in (world.open(), world.close(opened.ticket)):
            with pytest.raises(Rejected) as caught:
                await call
            assert (caught.value.reason, caught.value.code) == (Reason.AUTOTRADING_OFF, 10027)
        account = await world.gateway.get_account()
        assert not account.trade_allowed
        assert "AutoTrading" in account.trade_blocker

    play(scene)


def test_a_partial_fill_whose_answer_is_lost_is_found_in_the_list():
    async def scene(world):
        world.faults.next(Operation.EXECUTE, fault.partial_fill("0.5") | fault.answer_lost())
        with pytest.raises(OutcomeUnknown):
            await world.open(tag=TAG)
        (position,) = await world.positions()
        assert (position.lots, position.tag) == (D("0.15"), TAG)

    play(scene)


def test_a_request_delivered_twice_is_executed_twice_and_answered_once():
    async def scene(world):
        world.faults.next(Operation.EXECUTE, fault.delivered_twice())
        opened = await world.open(tag=TAG)
        listed = await world.positions()
        assert [each.tag for each in listed] == [TAG, TAG]
        assert opened.ticket == listed[0].ticket
        world.faults.next(Operation.CLOSE, fault.delivered_twice())
        await world.close(opened.ticket)
        assert len(await world.positions()) == 1

    play(scene)


def test_a_refusal_whose_answer_is_lost_is_unknown_too():
    async def scene(world):
        world.faults.next(Operation.EXECUTE, fault.refuse(Reason.NO_MONEY) | fault.answer_lost())
        with pytest.raises(OutcomeUnknown):
            await world.open()
        assert await world.positions() == ()

    play(scene)


def test_a_ticket_changed_on_modify_is_found_by_its_identifier():
    async def scene(world):
        opened = await world.open()
        world.faults.next(Operation.MODIFY, fault.ticket_changed())
        await world.gateway.modify_position(ModifyRequest(ticket=opened.ticket, stop_loss=D("1.09")), world.permit())
        (position,) = await world.positions()
        assert position.ticket != opened.ticket
        assert position.identifier == opened.ticket

    play(scene)


def test_an_mt4_rest_whose_comment_was_stripped_is_still_known_to_the_gateway_that_closed():
    async def scene(world):
        opened = await world.open()
        world.faults.next(Operation.CLOSE, fault.comment_stripped())
        result = await world.close(opened.ticket, "0.10")
        (rest,) = await world.positions()
        assert (rest.ticket, rest.parent, rest.identifier) == (result.rest_ticket, None, opened.ticket)
        stranger = PaperGateway(world.server, 1)
        await stranger.open()
        (seen,) = (await stranger.get_positions()).positions
        assert seen.identifier == seen.ticket

    play(scene, MarginMode.MT4)


def test_a_netting_close_keeps_tag_and_magic_of_what_is_left():
    async def scene(world):
        opened = await world.open(tag=TAG, magic=9)
        await world.close(opened.ticket, "0.10")
        (rest,) = await world.positions()
        assert (rest.tag, rest.magic, rest.lots) == (TAG, 9, D("0.20"))

    play(scene, MarginMode.NETTING)


def test_capabilities_may_be_left_out():
    async def scene(world):
        assert world.gateway.deals is None
        assert world.gateway.wakes is None
        assert world.gateway.symbols is not None

    play(scene, without=frozenset({"deals", "wakes"}))


def test_a_closed_gateway_wakes_nobody():
    async def scene(world):
        woken = []
        world.gateway.on_change(lambda: woken.append(1))
        await world.gateway.close()
        world.server.buy(1, "EURUSD", "0.10")
        assert not woken
        await world.gateway.open()
        world.server.buy(1, "EURUSD", "0.10")
        assert woken

    play(scene)


def test_a_quote_tells_its_age_on_the_far_ends_clock():
    async def scene(world):
        await asyncio.sleep(3)
        assert (await world.gateway.get_quote("EURUSD")).age_ms == 3000

    play(scene)


def test_a_fresh_mt4_gateway_learns_a_chain_from_the_comments_of_its_history():
    async def scene(world):
        opened = await world.open()
        rest = await world.close(opened.ticket, "0.10")
        last = await world.close(rest.rest_ticket, "0.10")
        fresh = PaperGateway(world.server, 1)
        await fresh.open()
        since = world.account.deals[0].time
        assert {deal.position_id for deal in await fresh.get_deals(since) if deal.position_id} == {opened.ticket}
        (seen,) = (await fresh.get_positions()).positions
        assert (seen.ticket, seen.identifier) == (last.rest_ticket, opened.ticket)

    play(scene, MarginMode.MT4)


def test_the_end_of_an_mt4_chain_is_named_by_its_parent_where_the_history_asked_for_is_short():
    async def scene(world):
        opened = await world.open()
        rest = await world.close(opened.ticket, "0.10")
        await asyncio.sleep(60)
        since = server_time(world.server.now_ms())
        world.server.close(1, rest.rest_ticket)
        fresh = PaperGateway(world.server, 1)
        await fresh.open()
        (last,) = await fresh.get_deals(since)
        assert (last.order, last.position_id) == (rest.rest_ticket, opened.ticket)

    play(scene, MarginMode.MT4)


def test_waiting_orders_are_listed_beside_the_six_operations():
    async def scene(world):
        ticket = world.server.place(1, "EURUSD", "buy_limit", "0.10", "1.09000")
        assert [order.ticket for order in await world.gateway.get_pending_orders()] == [ticket]
        assert await world.gateway.get_pending_orders("XAUUSD") == ()

    play(scene)
