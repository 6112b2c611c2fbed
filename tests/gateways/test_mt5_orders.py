"""Orders on a MetaTrader 5 terminal: what is sent, what each answer means, and that nothing is ever sent twice in doubt."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from copier.errors import InvalidRequest, OutcomeUnknown, Reason, Rejected, Unavailable
from copier.gateways.mt5_codes import PACKAGE_ERRORS, RETCODES, Outcome
from copier.gateways.mt5_values import OrderRequest
from copier.gateways.paper_faults import partial_fill, stops_ignored, stops_refused
from copier.model import Execution, Filling, MarginMode, Permit, Side, TradeRequest
from tests.fakes.mt5_fake_terminal import OrderFault
from tests.fakes.mt5_stage import Mt5Scene, play

D = Decimal
TAG = "mc0a1b2c3d4e5f"


def sent(scene: Mt5Scene) -> list[dict[str, Any]]:
    """Return what reached the terminal, without what was left at nothing."""
    return [{name: value for name, value in request.items() if value} for request in scene.terminal.sent]


# what is sent


def test_an_opening_order_has_every_field_in_its_type_and_nothing_else() -> None:
    async def act(scene: Mt5Scene) -> None:
        await scene.open("0.30", stop_loss=D("1.09"), take_profit=D("1.12"), tag=TAG, comment="breakout", magic=77, slippage=5)
        assert sent(scene) == [
            {
                "action": 1,
                "symbol": "EURUSD",
                "volume": 0.3,
                "price": 1.1001,
                "sl": 1.09,
                "tp": 1.12,
                "deviation": 5,
                "magic": 77,
                "comment": f"{TAG} breakout",
            }
        ]

    play(act)


def test_whole_lots_and_missing_levels_are_still_floats() -> None:
    async def act(scene: Mt5Scene) -> None:
        await scene.open("1")
        (request,) = scene.terminal.sent
        assert {type(request[name]) for name in ("volume", "price", "sl", "tp")} == {float}
        assert {type(request[name]) for name in ("action", "type", "deviation", "magic", "type_filling", "position")} == {int}

    play(act)


def test_every_key_of_a_request_is_one_the_package_knows() -> None:
    from tests.fakes.mt5_structs import FIELDS

    assert set(OrderRequest.__annotations__) <= set(FIELDS["TradeRequest"].split())


def test_a_comment_too_long_for_the_package_is_cut_and_the_order_goes_through() -> None:
    async def act(scene: Mt5Scene) -> None:
        await scene.open(tag=TAG, comment="x" * 31)
        ((position,),) = [await scene.positions()]
        assert position.tag == TAG
        assert len(position.comment) == 29

    play(act)


def test_a_symbol_too_long_for_the_package_is_refused_before_anything_is_sent() -> None:
    async def act(scene: Mt5Scene) -> None:
        with pytest.raises(InvalidRequest, match="at most 29"):
            await scene.open(symbol="X" * 30)
        assert scene.terminal.sent == []

    play(act)


def test_a_symbol_outside_market_watch_is_put_there_before_it_is_traded() -> None:
    async def act(scene: Mt5Scene) -> None:
        assert (await scene.open("0.10", symbol="XAUUSD")).lots == D("0.1")

    play(act)


# account and switches before an order


def test_a_switched_account_causes_no_order_and_a_clear_error() -> None:
    async def act(scene: Mt5Scene) -> None:
        opened = await scene.open()
        scene.terminal.switch(5002)
        before = len(scene.terminal.sent)
        for call in (scene.open(), scene.close(opened.ticket), scene.modify(opened.ticket, stop="1.09")):
            with pytest.raises(Unavailable, match="logged in to 5002@Broker-Demo, expected 5001@Broker-Demo"):
                await call
        assert len(scene.terminal.sent) == before
        assert not scene.server.accounts[5002].positions

    play(act)


def test_an_account_switched_while_the_order_was_being_prepared_causes_no_order() -> None:
    async def act(scene: Mt5Scene) -> None:
        terminal = scene.terminal
        listed = terminal.positions

        def positions_and_switch() -> tuple[Any, ...]:
            rows = listed()
            if terminal.login == 5001:
                terminal.switch(5002)
            return rows

        terminal.positions = positions_and_switch  # type: ignore[method-assign]
        with pytest.raises(Unavailable, match="5002"):
            await scene.open()
        assert terminal.sent == []

    play(act)


@pytest.mark.parametrize(
    ("switch", "reason"),
    [({"algo_trading": False}, Reason.AUTOTRADING_OFF), ({"api_disabled": True}, Reason.AUTOTRADING_OFF)],
)
def test_a_switch_that_is_off_refuses_the_order_in_a_traders_words_and_sends_nothing(switch: Any, reason: Reason) -> None:
    async def act(scene: Mt5Scene) -> None:
        for name, value in switch.items():
            setattr(scene.terminal, name, value)
        with pytest.raises(Rejected, match=r"button|option") as caught:
            await scene.open()
        assert caught.value.reason is reason
        assert scene.terminal.sent == []

    play(act)


@pytest.mark.parametrize(
    ("account", "reason", "words"),
    [
        ({"investor": True}, Reason.TRADE_DISABLED, "investor login"),
        ({"expert_allowed": False}, Reason.AUTOTRADING_OFF, "forbids automated trading"),
    ],
)
def test_a_missing_permission_refuses_the_order_and_is_told(account: dict[str, bool], reason: Reason, words: str) -> None:
    async def act(scene: Mt5Scene) -> None:
        with pytest.raises(Rejected, match=words) as caught:
            await scene.open()
        assert caught.value.reason is reason

    play(act, **account)


def test_without_a_trade_server_nothing_is_sent_and_nothing_is_unknown() -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.connected = False
        with pytest.raises(Unavailable, match="not connected"):
            await scene.open()
        assert scene.terminal.sent == []

    play(act)


# what an answer means


@pytest.mark.parametrize("code", sorted(RETCODES))
def test_every_return_code_is_done_refused_or_unknown_as_the_table_says(code: int) -> None:
    async def act(scene: Mt5Scene) -> None:
        known = RETCODES[code]
        done = known.outcome is Outcome.DONE
        scene.terminal.next_orders.append(OrderFault(executes=done, retcode=code))
        if code == 10030:
            scene.terminal.next_orders.append(OrderFault(executes=False, retcode=code))
        if done:
            assert (await scene.open()).lots == D("0.3")
            return
        expected = Rejected if known.outcome is Outcome.REJECTED else OutcomeUnknown
        with pytest.raises(expected) as caught:
            await scene.open()
        if isinstance(caught.value, Rejected):
            assert (caught.value.reason, caught.value.code) == (known.reason, code)
        assert len(scene.terminal.sent) == (2 if code == 10030 else 1)

    play(act)


@pytest.mark.parametrize("code", [1, 9999, 10001, 10047, 11000])
def test_a_return_code_nobody_knows_is_unknown(code: int) -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.next_orders.append(OrderFault(retcode=code))
        with pytest.raises(OutcomeUnknown):
            await scene.open()

    play(act)


@pytest.mark.parametrize("code", sorted(set(PACKAGE_ERRORS) | {-9, -10006}))
@pytest.mark.parametrize("lots", ["0.3", ""], ids=["executed", "not executed"])
def test_no_answer_is_unsent_only_for_errors_that_come_before_the_sending(code: int, lots: str) -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.next_orders.append(OrderFault(error=code, executes=bool(lots)))
        expected = {-2: InvalidRequest, -8: Rejected, -10004: Unavailable}.get(code, OutcomeUnknown)
        with pytest.raises(expected):
            await scene.open()
        assert len(scene.terminal.sent) == 1

    play(act)


def test_an_order_whose_answer_broke_off_is_unknown_and_executed_once() -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.next_orders.append(OrderFault(error=-10002))
        with pytest.raises(OutcomeUnknown, match="broke while receiving"):
            await scene.open(tag=TAG)
        await asyncio.sleep(5)
        ((position,),) = [await scene.positions()]
        assert position.tag == TAG
        assert len(scene.terminal.sent) == 1

    play(act)


def test_an_order_of_a_broken_connection_is_followed_by_a_new_one() -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.crash()
        with pytest.raises(Unavailable):
            await scene.open()
        with pytest.raises(Unavailable, match="not connected"):
            await scene.open()
        await asyncio.sleep(5)
        assert (await scene.open()).lots == D("0.3")
        assert len(scene.terminal.sent) == 1

    play(act)


def test_an_order_that_hangs_is_given_up_at_its_deadline_as_unknown_and_is_there_once() -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.next_orders.append(OrderFault(hangs=True))
        began_ms = scene.clock.now_ms()
        with pytest.raises(OutcomeUnknown, match="no answer"):
            await scene.open()
        assert scene.clock.now_ms() - began_ms == pytest.approx(10_000, abs=50)
        await asyncio.sleep(5)
        assert len(await scene.positions()) == 1

    play(act)


def test_a_call_behind_a_hung_one_is_surely_not_sent() -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.next_orders.append(OrderFault(hangs=True))
        answers = await asyncio.gather(scene.open(), scene.open(), return_exceptions=True)
        assert [type(answer) for answer in answers] == [OutcomeUnknown, Unavailable]
        assert len(scene.terminal.sent) == 1

    play(act)


def test_an_order_that_comes_after_its_not_after_is_not_sent() -> None:
    async def act(scene: Mt5Scene) -> None:
        request = TradeRequest(symbol="EURUSD", action=Side.BUY, lots=D("0.1"))
        with pytest.raises(Rejected) as caught:
            await scene.gateway.execute_trade(request, Permit(token=1, not_after_ms=scene.clock.now_ms() - 1))
        assert caught.value.reason is Reason.TOO_LATE
        assert scene.terminal.sent == []

    play(act)


def test_a_second_filling_is_not_tried_after_the_not_after() -> None:
    async def act(scene: Mt5Scene) -> None:
        take = scene.terminal.take_order

        def slow(request: dict[str, Any]) -> tuple[int | None, Any]:
            asyncio.get_running_loop()._now += 2  # type: ignore[attr-defined]
            return take(request)

        scene.terminal.take_order = slow  # type: ignore[method-assign]
        scene.terminal.next_orders.append(OrderFault(executes=False, retcode=10030))
        request = TradeRequest(symbol="EURUSD", action=Side.BUY, lots=D("0.1"))
        with pytest.raises(Rejected) as caught:
            await scene.gateway.execute_trade(request, scene.permit(within_s=1))
        assert caught.value.reason is Reason.TOO_LATE
        assert len(scene.terminal.sent) == 1

    play(act)


# filling modes


@pytest.mark.parametrize(
    ("symbol", "fillings"),
    [
        ({"execution": Execution.MARKET, "fillings": (Filling.IOC,)}, [1]),
        ({"execution": Execution.MARKET, "fillings": (Filling.FOK,)}, [0]),
        ({"execution": Execution.MARKET, "fillings": (Filling.FOK, Filling.IOC)}, [0]),
        ({"execution": Execution.INSTANT, "fillings": ()}, [0]),
        ({"execution": Execution.EXCHANGE, "fillings": (Filling.IOC,)}, [1]),
        ({"execution": Execution.EXCHANGE, "fillings": ()}, [2]),
    ],
)
def test_the_filling_mode_follows_from_execution_and_mask(symbol: dict[str, Any], fillings: list[int]) -> None:
    async def act(scene: Mt5Scene) -> None:
        await scene.open()
        assert [request["type_filling"] for request in scene.terminal.sent] == fillings

    play(act, symbols={"EURUSD": symbol})


def test_a_filling_the_server_refuses_is_replaced_once_and_the_right_one_remembered() -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.next_orders.append(OrderFault(executes=False, retcode=10030))
        await scene.open()
        await scene.open()
        assert [request["type_filling"] for request in scene.terminal.sent] == [0, 1, 1]

    play(act)


def test_a_third_filling_is_not_tried() -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.next_orders.extend([OrderFault(executes=False, retcode=10030)] * 3)
        with pytest.raises(Rejected) as caught:
            await scene.open()
        assert caught.value.reason is Reason.INVALID_FILLING
        assert len(scene.terminal.sent) == 2

    play(act)


# ticket, lots and price of what was filled


def test_the_ticket_is_that_of_the_deals_position_though_lists_lag() -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.start_lag(1.0)
        result = await scene.open()
        assert result.ticket in scene.account.positions
        assert (result.lots, result.price) == (D("0.3"), D("1.1001"))

    play(act)


def test_where_no_list_ever_shows_it_the_orders_own_ticket_is_taken() -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.start_lag(60.0)
        result = await scene.open()
        assert result.ticket in scene.account.positions

    play(act)


def test_the_ticket_on_a_netting_account_is_that_of_the_symbols_position() -> None:
    async def act(scene: Mt5Scene) -> None:
        first = await scene.open("0.30")
        second = await scene.open("0.20")
        assert second.ticket == first.ticket
        reversed_ = await scene.open("0.80", side=Side.SELL)
        ((position,),) = [await scene.positions()]
        assert position.ticket == reversed_.ticket != first.ticket
        assert (position.type, position.lots) == (Side.SELL, D("0.3"))

    play(act, margin_mode=MarginMode.NETTING)


def test_flattening_a_netting_account_by_an_opposite_order_waits_for_nothing() -> None:
    async def act(scene: Mt5Scene) -> None:
        first = await scene.open("0.30")
        began_ms = scene.clock.now_ms()
        result = await scene.open("0.30", side=Side.SELL)
        assert result.ticket == first.ticket
        assert scene.clock.now_ms() - began_ms < 100
        assert await scene.positions() == ()

    play(act, margin_mode=MarginMode.NETTING)


def test_adding_to_a_netting_position_keeps_its_levels_whatever_the_server_does_by_itself() -> None:
    async def act(scene: Mt5Scene) -> None:
        await scene.open("0.30", stop_loss=D("1.09"), take_profit=D("1.12"))
        await scene.open("0.10", take_profit=D("1.13"))
        ((position,),) = [await scene.positions()]
        assert (position.stop_loss, position.take_profit) == (D("1.09"), D("1.13"))
        assert (scene.terminal.sent[-1]["sl"], scene.terminal.sent[-1]["tp"]) == (1.09, 1.13)

    play(act, margin_mode=MarginMode.NETTING)


def test_a_fill_in_part_counts_what_was_filled() -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.next_orders.append(OrderFault(broker=partial_fill("0.5")))
        assert (await scene.open("0.30")).lots == D("0.15")

    play(act)


def test_a_price_the_answer_hides_is_learnt_from_the_deal() -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.next_orders.append(OrderFault(price_hidden=True))
        opened = await scene.open()
        assert opened.price == D("1.1001")
        scene.terminal.next_orders.append(OrderFault(price_hidden=True))
        assert (await scene.close(opened.ticket)).price == D("1.1")

    play(act)


def test_an_order_that_was_only_placed_is_followed_to_its_fill() -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.next_orders.append(OrderFault(placed_s=2.0))
        result = await scene.open()
        assert result.lots == D("0.3")
        assert result.ticket in scene.account.positions

    play(act)


def test_an_order_that_was_placed_and_dropped_is_rejected() -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.next_orders.append(OrderFault(dropped=True))
        with pytest.raises(Rejected, match="dropped by the server"):
            await scene.open()
        assert await scene.positions() == ()

    play(act)


@pytest.mark.parametrize("lag_s", [0.0, 1.0])
def test_a_placed_order_that_dies_half_filled_counts_what_was_filled_though_deals_are_listed_late(lag_s: float) -> None:
    async def act(scene: Mt5Scene) -> None:
        if lag_s:
            scene.terminal.start_lag(lag_s)
        scene.terminal.next_orders.append(OrderFault(dropped=True, broker=partial_fill("0.5")))
        assert (await scene.open("0.30")).lots == D("0.15")

    play(act)


def test_an_order_that_stays_placed_is_unknown_before_the_deadline() -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.next_orders.append(OrderFault(placed_s=30.0))
        began_ms = scene.clock.now_ms()
        with pytest.raises(OutcomeUnknown, match="accepted and not filled"):
            await scene.open()
        assert scene.clock.now_ms() - began_ms < 10_000
        assert scene.gateway.connected

    play(act)


def test_a_terminal_that_fails_right_after_an_order_was_done_does_not_make_it_unsent() -> None:
    async def act(scene: Mt5Scene) -> None:
        take = scene.terminal.take_order

        def take_and_end(request: dict[str, Any]) -> tuple[int | None, Any]:
            answer = take(request)
            scene.terminal.crash()
            return answer

        scene.terminal.take_order = take_and_end  # type: ignore[method-assign]
        assert (await scene.open()).ticket in scene.account.positions

    play(act)


def test_nonsense_in_a_list_after_an_order_was_done_makes_it_unknown_and_never_unsent() -> None:
    async def act(scene: Mt5Scene) -> None:
        listed = scene.terminal.positions

        def nonsense() -> tuple[Any, ...]:
            return tuple(type(row)([7 if name == "type" else value for name, value in row._asdict().items()]) for row in listed())

        scene.terminal.positions = nonsense  # type: ignore[method-assign]
        with pytest.raises(OutcomeUnknown, match="the server took the order"):
            await scene.open()

    play(act)


# stops


def test_a_server_that_refuses_stops_at_the_opening_gets_them_afterwards_and_is_remembered() -> None:
    async def act(scene: Mt5Scene) -> None:
        for _ in range(2):
            scene.terminal.next_orders.append(OrderFault(broker=stops_refused()))
            result = await scene.open(stop_loss=D("1.09"), take_profit=D("1.12"))
            assert result.stops_set
            scene.terminal.next_orders.clear()
        assert {(each.stop_loss, each.take_profit) for each in await scene.positions()} == {(D("1.09"), D("1.12"))}
        assert [(request["action"], request["sl"]) for request in scene.terminal.sent] == [
            (1, 1.09),
            (1, 0.0),
            (6, 1.09),
            (1, 0.0),
            (6, 1.09),
        ]

    play(act)


def test_levels_that_break_the_symbols_own_rules_are_refused_and_never_opened_without() -> None:
    async def act(scene: Mt5Scene) -> None:
        with pytest.raises(Rejected) as caught:
            await scene.open(stop_loss=D("1.09950"))
        assert caught.value.reason is Reason.INVALID_STOPS
        assert await scene.positions() == ()

    play(act, symbols={"EURUSD": {"stops_level": 100}})


def test_a_server_that_drops_stops_silently_gets_them_afterwards() -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.next_orders.append(OrderFault(broker=stops_ignored()))
        assert (await scene.open(stop_loss=D("1.09"))).stops_set
        ((position,),) = [await scene.positions()]
        assert position.stop_loss == D("1.09")

    play(act)


@pytest.mark.parametrize(
    "second", [OrderFault(executes=False, retcode=10016), OrderFault(error=-10005), OrderFault(retcode=10012)]
)
def test_stops_that_cannot_be_set_afterwards_are_told_with_the_open_position(second: OrderFault) -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.next_orders.extend([OrderFault(broker=stops_ignored()), second])
        result = await scene.open(stop_loss=D("1.09"))
        assert not result.stops_set
        assert result.ticket in scene.account.positions

    play(act)


def test_a_modify_always_sends_the_other_level_too() -> None:
    async def act(scene: Mt5Scene) -> None:
        opened = await scene.open(stop_loss=D("1.09"), take_profit=D("1.12"))
        await scene.modify(opened.ticket, target="1.13")
        assert sent(scene)[-1] == {"action": 6, "position": opened.ticket, "symbol": "EURUSD", "sl": 1.09, "tp": 1.13}
        await scene.modify(opened.ticket, stop="0")
        assert sent(scene)[-1] == {"action": 6, "position": opened.ticket, "symbol": "EURUSD", "tp": 1.13}

    play(act)


def test_unchanged_levels_are_a_success() -> None:
    async def act(scene: Mt5Scene) -> None:
        opened = await scene.open(stop_loss=D("1.09"))
        assert (await scene.modify(opened.ticket, stop="1.09")).ticket == opened.ticket
        scene.terminal.next_orders.append(OrderFault(executes=False, retcode=10025))
        assert (await scene.modify(opened.ticket, stop="1.08")).ticket == opened.ticket

    play(act)


# closing


def test_a_close_names_the_position_and_its_magic() -> None:
    async def act(scene: Mt5Scene) -> None:
        opened = await scene.open("0.30", magic=77)
        await scene.close(opened.ticket, "0.10")
        request = {
            "action": 1,
            "position": opened.ticket,
            "symbol": "EURUSD",
            "volume": 0.1,
            "type": 1,
            "price": 1.1,
            "deviation": 3,
        }
        assert sent(scene)[-1] == request | {"magic": 77}

    play(act)


def test_a_reduction_on_a_netting_account_keeps_magic_and_tag_of_the_position() -> None:
    async def act(scene: Mt5Scene) -> None:
        opened = await scene.open("0.30", magic=77, tag=TAG)
        await scene.close(opened.ticket, "0.10")
        ((position,),) = [await scene.positions()]
        assert (position.lots, position.magic, position.tag) == (D("0.2"), 77, TAG)

    play(act, margin_mode=MarginMode.NETTING)


def large(scene: Mt5Scene, ticket: int, lots: str) -> None:
    scene.account.positions[ticket].lots = D(lots)
    scene.account.positions[ticket].view = None
    scene.account.changed()


def test_a_position_above_the_largest_order_is_closed_in_pieces_by_one_call() -> None:
    async def act(scene: Mt5Scene) -> None:
        opened = await scene.open("1.00")
        large(scene, opened.ticket, "2.50")
        assert (await scene.close(opened.ticket)).lots == D("2.5")
        assert [request["volume"] for request in scene.terminal.sent[1:]] == [1.0, 1.0, 0.5]
        assert await scene.positions() == ()

    play(act, symbols={"EURUSD": {"volume_max": D(1)}}, balance=D(100_000))


def test_pieces_that_were_closed_before_a_refusal_are_told() -> None:
    async def act(scene: Mt5Scene) -> None:
        opened = await scene.open("1.00")
        large(scene, opened.ticket, "2.50")
        scene.terminal.next_orders.extend([OrderFault(), OrderFault(executes=False, retcode=10024)])
        result = await scene.close(opened.ticket)
        assert result.lots == 1
        assert "in part" in result.message
        assert "Too many requests" in result.message

    play(act, symbols={"EURUSD": {"volume_max": D(1)}}, balance=D(100_000))


def test_an_unknown_piece_makes_the_close_unknown() -> None:
    async def act(scene: Mt5Scene) -> None:
        opened = await scene.open("1.00")
        large(scene, opened.ticket, "2.50")
        scene.terminal.next_orders.extend([OrderFault(), OrderFault(retcode=10012)])
        with pytest.raises(OutcomeUnknown):
            await scene.close(opened.ticket)
        assert len(scene.terminal.sent) == 3

    play(act, symbols={"EURUSD": {"volume_max": D(1)}}, balance=D(100_000))


def test_a_ticket_nobody_knows_is_rejected_and_nothing_is_sent() -> None:
    async def act(scene: Mt5Scene) -> None:
        for call in (scene.close(42), scene.modify(42, stop="1.09")):
            with pytest.raises(Rejected, match="Position with ticket 42 not found") as caught:
                await call
            assert caught.value.reason is Reason.INVALID_TICKET
        assert scene.terminal.sent == []

    play(act)


def test_a_position_that_is_gone_when_the_close_arrives_is_told_as_not_found() -> None:
    async def act(scene: Mt5Scene) -> None:
        opened = await scene.open()
        scene.terminal.next_orders.append(OrderFault(executes=False, retcode=10036))
        with pytest.raises(Rejected, match="not found") as caught:
            await scene.close(opened.ticket)
        assert (caught.value.reason, caught.value.code) == (Reason.INVALID_TICKET, 10036)

    play(act)


def test_a_ticket_missing_while_the_terminal_fills_its_lists_is_not_called_gone() -> None:
    async def act(scene: Mt5Scene) -> None:
        opened = await scene.open()
        scene.terminal.synchronise_s = 1.0
        scene.terminal.crash()
        with pytest.raises(Unavailable):
            await scene.positions()
        await asyncio.sleep(0.6)
        with pytest.raises(Unavailable, match="only just connected"):
            await scene.close(opened.ticket)

    play(act, opening={"sync_s": 3.0})
