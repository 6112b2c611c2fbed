"""Every promise of the six operations, tried on every kind of gateway in every account model."""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from copier.errors import InvalidRequest, OutcomeUnknown, Reason, Rejected, Unavailable
from copier.gateways import paper_faults as fault
from copier.gateways.paper_codes import REFUSALS
from copier.gateways.paper_faults import Operation
from copier.model import (
    DealEntry,
    DealReason,
    DealType,
    Execution,
    MarginMode,
    ModifyRequest,
    Side,
    TradeMode,
)

TAG = "mc0a1b2c3d4e5f"
BOTH_SIDES = (MarginMode.HEDGING, MarginMode.MT4)
NETTING = (MarginMode.NETTING,)


def promise(
    *needs: str,
    modes: tuple[MarginMode, ...] = tuple(MarginMode),
    symbols: dict[str, dict[str, Any]] | None = None,
    opened: bool = True,
    **account: Any,
) -> Callable[[Callable[[Any], Awaitable[None]]], Callable[[Any], None]]:
    """Turn a scene into a test on every stage that can play it; `symbols` and `account` are what the broker does differently."""

    def decorate(act: Callable[[Any], Awaitable[None]]) -> Callable[[Any], None]:
        def test(stage: Any) -> None:
            stage.symbols, stage.account, stage.opened = symbols or {}, account, opened
            stage.play(act)

        functools.update_wrapper(test, act)
        del test.__wrapped__  # type: ignore[attr-defined] # pytest would look at the scene's parameters
        test.needs, test.modes = frozenset(needs), modes  # type: ignore[attr-defined]
        return test

    return decorate


async def reads(world: Any) -> list[Any]:
    return [
        await world.gateway.get_account(),
        await world.gateway.get_positions(),
        await world.gateway.get_quote("EURUSD"),
    ]


def untouched(world: Any) -> bool:
    """Say that nothing but the deposit has ever happened to the account."""
    return not world.account.positions and [deal.type for deal in world.account.deals] == [DealType.BALANCE]


# connecting


@promise(opened=False)
async def test_opening_without_the_login_at_the_broker_is_unavailable(world):
    del world.server.accounts[world.login]
    with pytest.raises(Unavailable, match=str(world.login)):
        await world.gateway.open()


@promise(opened=False)
async def test_opening_while_the_server_is_down_is_unavailable(world):
    world.server.online = False
    with pytest.raises(Unavailable):
        await world.gateway.open()


@promise(opened=False)
async def test_nothing_can_be_read_before_open(world):
    for read in (world.gateway.get_account(), world.gateway.get_positions(), world.gateway.get_quote("EURUSD")):
        with pytest.raises(Unavailable):
            await read


@promise(opened=False)
async def test_nothing_can_be_sent_before_open(world):
    with pytest.raises(Unavailable):
        await world.open()
    assert untouched(world)


@promise()
async def test_nothing_can_be_read_after_close(world):
    await world.gateway.close()
    with pytest.raises(Unavailable):
        await world.gateway.get_positions()


@promise()
async def test_closing_twice_is_no_mistake(world):
    await world.gateway.close()
    await world.gateway.close()


@promise()
async def test_a_gateway_can_be_opened_again_after_close(world):
    opened = await world.open()
    await world.gateway.close()
    await world.gateway.open()
    assert (await world.position()).ticket == opened.ticket


@promise()
async def test_the_facts_are_positive_numbers_and_name_the_kind(world):
    facts = world.gateway.facts
    assert facts.kind
    assert facts.settle_s > 0
    assert facts.call_timeout_s > 0


# reading


@promise()
async def test_every_answer_says_which_login_at_which_server_it_comes_from(world):
    answers = await reads(world)
    answers.append(opened := await world.open())
    answers.append(await world.modify(opened.ticket, stop="1.05000"))
    answers.append(await world.close(opened.ticket))
    assert {answer.account for answer in answers} == {world.label}


@promise()
async def test_every_fresh_read_has_a_higher_number(world):
    numbers = [answer.read for answer in await reads(world) + await reads(world)]
    assert numbers == sorted(set(numbers))


@promise()
async def test_a_connected_terminal_says_so(world):
    assert all(answer.connected for answer in await reads(world))


@promise("read faults")
async def test_a_terminal_without_its_server_does_not_pass_for_connected(world):
    for operation in (Operation.ACCOUNT, Operation.POSITIONS, Operation.QUOTE):
        world.faults.always(operation, fault.disconnected())
    for read in (world.gateway.get_account, world.gateway.get_positions, lambda: world.gateway.get_quote("EURUSD")):
        with contextlib.suppress(Unavailable):
            assert not (await read()).connected


@promise("read faults")
async def test_a_failed_read_of_positions_is_unavailable_and_never_an_empty_list(world):
    await world.open()
    world.faults.next(Operation.POSITIONS, fault.failed_read())
    with pytest.raises(Unavailable):
        await world.gateway.get_positions()
    assert len(await world.positions()) == 1


@promise("read faults")
async def test_a_failed_read_of_account_or_quote_is_unavailable(world):
    world.faults.next(Operation.ACCOUNT, fault.failed_read())
    world.faults.next(Operation.QUOTE, fault.failed_read())
    with pytest.raises(Unavailable):
        await world.gateway.get_account()
    with pytest.raises(Unavailable):
        await world.gateway.get_quote("EURUSD")


@promise("read faults", "deals")
async def test_a_failed_read_of_deals_is_unavailable(world):
    world.faults.next(Operation.DEALS, fault.failed_read())
    with pytest.raises(Unavailable):
        await world.gateway.deals.get_deals(world.long_ago)


@promise("link faults")
async def test_a_lost_connection_makes_every_operation_unavailable_and_sends_nothing(world):
    world.faults.offline = True
    for call in (world.gateway.get_account(), world.gateway.get_positions(), world.gateway.get_quote("EURUSD"), world.open()):
        with pytest.raises(Unavailable, match="not connected"):
            await call
    assert untouched(world)


@promise("link faults")
async def test_a_read_that_is_never_answered_is_unavailable_by_the_deadline(world):
    world.faults.next(Operation.POSITIONS, fault.never_answered(executed=False))
    with pytest.raises(Unavailable):
        await asyncio.wait_for(world.gateway.get_positions(), world.gateway.facts.call_timeout_s + 1)


@promise("switched account")
async def test_a_read_from_another_account_never_passes_for_ours(world):
    await world.open()
    for operation in (Operation.ACCOUNT, Operation.POSITIONS, Operation.QUOTE):
        world.faults.always(operation, fault.wrong_account(world.login + 1))
    for read in (world.gateway.get_account, world.gateway.get_positions, lambda: world.gateway.get_quote("EURUSD")):
        with contextlib.suppress(Unavailable):
            assert (await read()).account != world.label


@promise("switched account")
async def test_an_order_is_not_sent_while_the_terminal_is_logged_in_elsewhere(world):
    world.faults.next(Operation.EXECUTE, fault.wrong_account(world.login + 1))
    with pytest.raises(Unavailable):
        await world.open()
    assert untouched(world)
    assert not world.server.accounts[world.login + 1].positions


@promise()
async def test_an_account_without_positions_has_an_empty_list(world):
    assert await world.positions() == ()


@promise()
async def test_positions_of_one_symbol_are_only_that_symbols(world):
    await world.open()
    gold = await world.open(symbol="XAUUSD", lots="0.10")
    answer = await world.gateway.get_positions("XAUUSD")
    assert [each.ticket for each in answer.positions] == [gold.ticket]


@promise()
async def test_positions_of_a_symbol_nobody_holds_are_none(world):
    await world.open()
    assert (await world.gateway.get_positions("USDJPY")).positions == ()


@promise()
async def test_a_position_opened_by_hand_is_listed_too(world):
    fill = world.server.sell(world.login, "EURUSD", "0.20", magic=0)
    position = await world.position()
    assert (position.ticket, position.type, position.lots, position.magic) == (fill.position, Side.SELL, Decimal("0.20"), 0)


@promise()
async def test_the_account_shows_name_currency_leverage_and_company(world):
    account = await world.gateway.get_account()
    assert (account.login, account.server) == (str(world.login), world.server.name)
    assert (account.currency, account.leverage, account.company) == ("USD", 100, world.server.company)


@promise()
async def test_the_account_tells_its_margin_mode(world):
    assert (await world.gateway.get_account()).margin_mode is world.mode


@promise()
async def test_equity_and_free_margin_follow_from_balance_profit_and_margin(world):
    await world.open()
    world.server.set_quote("EURUSD", "1.10500", "1.10510")
    account = await world.gateway.get_account()
    assert account.profit == Decimal("147.00")
    assert account.equity == account.balance + account.credit + account.profit
    assert account.free_margin == account.equity - account.margin
    assert account.margin > 0
    assert abs(account.margin_level - account.equity / account.margin * 100) < Decimal("0.01")


@promise()
async def test_an_account_without_positions_has_no_margin_level(world):
    account = await world.gateway.get_account()
    assert (account.margin, account.margin_level) == (0, 0)


@promise(investor=True)
async def test_an_investor_login_says_that_it_may_not_trade(world):
    account = await world.gateway.get_account()
    assert not account.trade_allowed
    assert account.trade_blocker


@promise()
async def test_an_account_that_may_trade_names_no_blocker(world):
    account = await world.gateway.get_account()
    assert account.trade_allowed
    assert account.trade_blocker == ""


@promise()
async def test_the_servers_clock_offset_is_told(world):
    world.server.set_quote("EURUSD", "1.10001", "1.10011")
    await world.gateway.get_quote("EURUSD")
    assert (await world.gateway.get_account()).server_offset_s == world.server.server_offset_s


@promise()
async def test_a_quote_has_both_prices_and_the_servers_time(world):
    quote = await world.gateway.get_quote("EURUSD")
    assert (quote.symbol, quote.bid, quote.ask) == ("EURUSD", Decimal("1.10000"), Decimal("1.10010"))
    behind = world.server.now_ms() - round(quote.timestamp.timestamp() * 1000)
    assert 0 <= behind < 5000


@promise()
async def test_a_quote_carries_the_symbols_rules(world):
    spec = (await world.gateway.get_quote("XAUUSD")).spec
    assert (spec.symbol, spec.digits, spec.point, spec.tick_size) == ("XAUUSD", 2, Decimal("0.01"), Decimal("0.01"))
    assert (spec.contract_size, spec.volume_min, spec.volume_step) == (100, Decimal("0.01"), Decimal("0.01"))
    assert spec.trade_mode is TradeMode.FULL


@promise()
async def test_tick_values_are_in_the_accounts_currency(world):
    spec = (await world.gateway.get_quote("USDJPY")).spec
    assert abs(spec.tick_value - Decimal(100) / Decimal("150.020")) < Decimal("0.0001")
    assert abs(spec.tick_value_loss - Decimal(100) / Decimal("150.000")) < Decimal("0.0001")


@promise()
async def test_a_quote_of_an_unknown_symbol_is_rejected_in_the_specified_words(world):
    with pytest.raises(Rejected, match="No quote data available for NOSUCH"):
        await world.gateway.get_quote("NOSUCH")


@promise()
async def test_a_quote_without_a_price_is_unavailable(world):
    with pytest.raises(Unavailable, match="No quote data available for GBPUSD"):
        await world.gateway.get_quote("GBPUSD")


@promise("symbols")
async def test_the_catalogue_lists_every_symbol_with_its_rules(world):
    specs = await world.gateway.symbols.get_symbols()
    assert {spec.symbol for spec in specs} == set(world.server.symbols)
    assert all(spec.volume_min > 0 and spec.tick_size > 0 for spec in specs)


# opening


@promise()
async def test_a_buy_is_filled_at_the_ask_and_listed(world):
    result = await world.open()
    position = await world.position()
    assert (result.lots, result.price, result.symbol, result.action) == (
        Decimal("0.30"),
        Decimal("1.10010"),
        "EURUSD",
        Side.BUY,
    )
    assert (position.ticket, position.type, position.lots) == (result.ticket, Side.BUY, Decimal("0.30"))
    assert (position.open_price, position.current_price) == (Decimal("1.10010"), Decimal("1.10000"))
    assert position.profit == Decimal("-3.00")


@promise()
async def test_a_sell_is_filled_at_the_bid_and_valued_at_the_ask(world):
    await world.open(Side.SELL)
    position = await world.position()
    assert (position.type, position.open_price, position.current_price) == (Side.SELL, Decimal("1.10000"), Decimal("1.10010"))


@promise()
async def test_an_opening_time_is_the_servers_wall_clock(world):
    await world.open()
    opened_ms = round((await world.position()).open_time.timestamp() * 1000)
    assert 0 <= world.server.now_ms() - opened_ms < 5000


@promise()
async def test_stop_and_target_of_an_open_are_set(world):
    result = await world.open(stop_loss=Decimal("1.09000"), take_profit=Decimal("1.12000"))
    position = await world.position()
    assert result.stops_set
    assert (position.stop_loss, position.take_profit) == (Decimal("1.09000"), Decimal("1.12000"))


@promise("magic")
async def test_the_magic_number_comes_back(world):
    await world.open(magic=777)
    assert (await world.position()).magic == 777


@promise("tags")
async def test_the_client_tag_comes_back_with_the_position(world):
    await world.open(tag=TAG)
    assert (await world.position()).tag == TAG


@promise("tags", "deals")
async def test_the_client_tag_comes_back_with_the_opening_deal(world):
    await world.open(tag=TAG)
    deals = await world.gateway.deals.get_deals(world.long_ago)
    assert TAG in {deal.tag for deal in deals if deal.entry is DealEntry.IN}


@promise("tags")
async def test_a_comment_of_31_characters_beside_a_tag_is_cut_and_the_tag_survives(world):
    await world.open(tag=TAG, comment="x" * 31)
    position = await world.position()
    assert position.tag == TAG
    assert len(position.comment) <= 31


@promise("broker faults")
async def test_a_tag_the_broker_dropped_is_not_made_up(world):
    world.faults.next(Operation.EXECUTE, fault.comment_stripped())
    await world.open(tag=TAG)
    assert (await world.position()).tag == ""


@promise("broker faults")
async def test_a_tag_the_broker_cut_is_not_taken_for_the_whole(world):
    world.faults.next(Operation.EXECUTE, fault.comment_cut(9))
    await world.open(tag=TAG)
    assert (await world.position()).tag != TAG


@promise()
async def test_lots_that_are_not_positive_are_an_invalid_request(world):
    for lots in ("0", "-0.10"):
        with pytest.raises(InvalidRequest) as caught:
            await world.open(lots=lots)
        assert [detail.path for detail in caught.value.details] == [("lots",)]
    assert untouched(world)


@promise()
async def test_more_than_a_hundred_lots_are_an_invalid_request(world):
    with pytest.raises(InvalidRequest):
        await world.open(lots="100.01")
    assert untouched(world)


@promise()
async def test_every_mistake_of_a_request_is_told_at_once(world):
    with pytest.raises(InvalidRequest) as caught:
        await world.open(symbol="", lots="0", slippage=-1, comment="x" * 32)
    assert {detail.path[0] for detail in caught.value.details} == {"symbol", "lots", "slippage", "comment"}


@promise()
async def test_a_buy_with_its_stop_above_its_target_is_an_invalid_request_in_the_specified_words(world):
    with pytest.raises(InvalidRequest, match="For BUY orders, stop loss must be below take profit"):
        await world.open(stop_loss=Decimal("1.12"), take_profit=Decimal("1.09"))
    assert untouched(world)


@promise()
async def test_a_sell_with_its_stop_below_its_target_is_an_invalid_request_in_the_specified_words(world):
    with pytest.raises(InvalidRequest, match="For SELL orders, stop loss must be above take profit"):
        await world.open(Side.SELL, stop_loss=Decimal("1.09"), take_profit=Decimal("1.12"))
    assert untouched(world)


@promise()
async def test_an_order_for_an_unknown_symbol_is_rejected(world):
    with pytest.raises(Rejected):
        await world.open(symbol="NOSUCH")
    assert untouched(world)


@promise()
async def test_a_refusal_says_that_the_execution_failed_and_why(world):
    with pytest.raises(Rejected, match=r"Trade execution failed: .+") as caught:
        await world.open(lots="50")
    assert caught.value.reason is Reason.NO_MONEY
    assert caught.value.account == world.label
    assert untouched(world)


@promise(symbols={"EURUSD": {"sessions": ((),) * 7}})
async def test_an_order_while_the_market_is_closed_is_rejected(world):
    with pytest.raises(Rejected) as caught:
        await world.open()
    assert caught.value.reason is Reason.MARKET_CLOSED
    assert untouched(world)


@promise(symbols={"EURUSD": {"trade_mode": TradeMode.DISABLED}})
async def test_an_order_for_a_disabled_symbol_is_rejected(world):
    with pytest.raises(Rejected) as caught:
        await world.open()
    assert caught.value.reason is Reason.TRADE_DISABLED
    assert untouched(world)


@promise(symbols={"EURUSD": {"trade_mode": TradeMode.LONG_ONLY}, "XAUUSD": {"trade_mode": TradeMode.SHORT_ONLY}})
async def test_a_one_sided_symbol_takes_only_its_side(world):
    with pytest.raises(Rejected) as caught:
        await world.open(Side.SELL)
    assert caught.value.reason is Reason.LONG_ONLY
    with pytest.raises(Rejected) as caught:
        await world.open(Side.BUY, symbol="XAUUSD")
    assert caught.value.reason is Reason.SHORT_ONLY
    await world.open(Side.BUY)


@promise()
async def test_a_close_only_symbol_refuses_opens_and_takes_closes(world):
    opened = await world.open()
    world.server.change_symbol("EURUSD", trade_mode=TradeMode.CLOSE_ONLY)
    with pytest.raises(Rejected) as caught:
        await world.open()
    assert caught.value.reason in (Reason.CLOSE_ONLY, Reason.TRADE_DISABLED)
    await world.close(opened.ticket)
    assert await world.positions() == ()


@promise()
async def test_lots_off_the_step_or_below_the_minimum_are_rejected(world):
    for lots in ("0.015", "0.005"):
        with pytest.raises(Rejected) as caught:
            await world.open(lots=lots)
        assert caught.value.reason is Reason.INVALID_VOLUME
    assert untouched(world)


@promise(symbols={"EURUSD": {"stops_level": 100}})
async def test_stops_nearer_than_the_stops_level_are_rejected_and_nothing_is_opened(world):
    with pytest.raises(Rejected) as caught:
        await world.open(stop_loss=Decimal("1.09950"))
    assert caught.value.reason is Reason.INVALID_STOPS
    assert untouched(world)


@promise(investor=True)
async def test_an_order_of_an_investor_login_is_rejected(world):
    with pytest.raises(Rejected) as caught:
        await world.open()
    assert caught.value.reason in (Reason.TRADE_DISABLED, Reason.AUTOTRADING_OFF)
    assert untouched(world)


@promise(modes=BOTH_SIDES, positions_max=1)
async def test_an_order_beyond_the_accounts_limit_of_positions_is_rejected(world):
    await world.open()
    with pytest.raises(Rejected) as caught:
        await world.open()
    assert caught.value.reason is Reason.LIMIT
    assert len(await world.positions()) == 1


@promise("broker faults")
async def test_every_refusal_of_a_broker_keeps_its_reason_and_executes_nothing(world):
    for reason in sorted(set(REFUSALS) - {Reason.STALE_TOKEN, Reason.TOO_LATE}):
        world.faults.next(Operation.EXECUTE, fault.refuse(reason))
        with pytest.raises(Rejected) as caught:
            await world.open()
        number = REFUSALS[reason].mt4 if world.mode is MarginMode.MT4 else REFUSALS[reason].mt5
        same_number = {
            other for other, each in REFUSALS.items() if number in (each.mt4 if world.mode is MarginMode.MT4 else each.mt5,)
        }
        assert caught.value.reason in same_number
        assert caught.value.code == number
    assert untouched(world)


@promise("delays", "caller's price", symbols={"EURUSD": {"execution": Execution.INSTANT}})
async def test_a_price_that_ran_beyond_the_slippage_is_a_requote(world):
    world.faults.next(Operation.EXECUTE, fault.delay(send_s=0.5))
    order = asyncio.ensure_future(world.open(slippage=3))
    await asyncio.sleep(0.2)
    world.server.set_quote("EURUSD", "1.10010", "1.10020")
    with pytest.raises(Rejected) as caught:
        await order
    assert caught.value.reason is Reason.REQUOTE
    assert caught.value.wants_fresh_price
    assert untouched(world)


@promise("delays", symbols={"EURUSD": {"execution": Execution.INSTANT}})
async def test_a_price_that_ran_inside_the_slippage_is_filled_as_it_is_now(world):
    world.faults.next(Operation.EXECUTE, fault.delay(send_s=0.5))
    order = asyncio.ensure_future(world.open(slippage=3))
    await asyncio.sleep(0.2)
    world.server.set_quote("EURUSD", "1.10002", "1.10012")
    assert (await order).price == Decimal("1.10012")


@promise("broker faults")
async def test_a_partial_fill_tells_the_lots_that_were_filled(world):
    world.faults.next(Operation.EXECUTE, fault.partial_fill("0.5"))
    result = await world.open(lots="0.30")
    assert result.lots == Decimal("0.15")
    assert (await world.position()).lots == Decimal("0.15")


@promise("broker faults")
async def test_a_server_that_drops_the_stops_of_an_open_is_told_apart(world):
    world.faults.next(Operation.EXECUTE, fault.stops_ignored())
    result = await world.open(stop_loss=Decimal("1.09000"))
    assert result.stops_set == ((await world.position()).stop_loss == Decimal("1.09000"))


@promise("broker faults")
async def test_a_server_that_refuses_stops_at_open_rejects_or_opens_and_says_whether_they_stand(world):
    world.faults.next(Operation.EXECUTE, fault.stops_refused())
    try:
        result = await world.open(stop_loss=Decimal("1.09000"))
    except Rejected as error:
        assert error.reason is Reason.INVALID_STOPS
        assert untouched(world)
    else:
        assert result.stops_set == ((await world.position()).stop_loss == Decimal("1.09000"))


# orders of unknown outcome


@promise("link faults")
async def test_an_executed_order_whose_answer_is_lost_is_unknown(world):
    world.faults.next(Operation.EXECUTE, fault.answer_lost())
    with pytest.raises(OutcomeUnknown):
        await world.open(tag=TAG)
    assert (await world.position()).lots == Decimal("0.30")


@promise("link faults")
async def test_an_order_that_is_never_answered_is_unknown_by_the_deadline_whether_executed_or_not(world):
    for executed in (True, False):
        world.faults.next(Operation.EXECUTE, fault.never_answered(executed=executed))
        with pytest.raises(OutcomeUnknown):
            await asyncio.wait_for(world.open(), world.gateway.facts.call_timeout_s + 1)
    assert len(world.account.positions) == 1


@promise("link faults")
async def test_an_order_executed_after_the_deadline_was_unknown_and_is_found_later(world):
    timeout_s = world.gateway.facts.call_timeout_s
    world.faults.next(Operation.EXECUTE, fault.never_answered(executed=True, execute_s=timeout_s + 0.5))
    with pytest.raises(OutcomeUnknown):
        await world.open()
    assert await world.positions() == ()
    await asyncio.sleep(1.5)
    assert len(await world.positions()) == 1


@promise("link faults")
async def test_an_order_that_did_not_leave_is_unavailable_and_not_unknown(world):
    world.faults.next(Operation.EXECUTE, fault.not_sent())
    with pytest.raises(Unavailable):
        await world.open()
    assert untouched(world)


@promise("link faults")
async def test_a_close_whose_answer_is_lost_is_unknown_and_done(world):
    opened = await world.open()
    world.faults.next(Operation.CLOSE, fault.answer_lost())
    with pytest.raises(OutcomeUnknown):
        await world.close(opened.ticket)
    assert await world.positions() == ()


@promise("link faults")
async def test_a_modify_whose_answer_is_lost_is_unknown_and_may_be_said_again(world):
    opened = await world.open()
    world.faults.next(Operation.MODIFY, fault.answer_lost())
    with pytest.raises(OutcomeUnknown):
        await world.modify(opened.ticket, stop="1.09000")
    await world.modify(opened.ticket, stop="1.09000")
    assert (await world.position()).stop_loss == Decimal("1.09000")


@promise("link faults")
async def test_an_unknown_order_is_never_sent_again_behind_the_callers_back(world):
    world.faults.next(Operation.EXECUTE, fault.answer_lost())
    with pytest.raises(OutcomeUnknown):
        await world.open()
    await asyncio.sleep(1)
    assert len([deal for deal in world.account.deals if deal.entry is DealEntry.IN and deal.lots]) == 1


@promise("delays")
async def test_closing_the_gateway_ends_an_order_under_way_as_unknown(world):
    world.faults.next(Operation.EXECUTE, fault.delay(answer_s=5))
    order = asyncio.ensure_future(world.open())
    await asyncio.sleep(0.5)
    await world.gateway.close()
    with pytest.raises(OutcomeUnknown):
        await order


@promise("delays")
async def test_a_slow_answer_within_the_deadline_is_still_a_result(world):
    world.faults.next(Operation.EXECUTE, fault.delay(send_s=0.2, execute_s=0.2, answer_s=0.2))
    assert (await world.open()).lots == Decimal("0.30")


@promise("lag")
async def test_after_an_answer_every_list_shows_the_effect_within_the_settle_time(world):
    world.faults.visibility_lag_ms = round(world.gateway.facts.settle_s * 900)
    await world.open()
    await asyncio.sleep(world.gateway.facts.settle_s)
    assert len(await world.positions()) == 1


# permits


@promise("permits")
async def test_an_order_with_an_older_token_is_rejected_and_does_nothing(world):
    opened = await world.open(permit=world.permit(token=5))
    with pytest.raises(Rejected) as caught:
        await world.open(permit=world.permit(token=4))
    assert caught.value.reason is Reason.STALE_TOKEN
    assert [each.ticket for each in await world.positions()] == [opened.ticket]


@promise("permits")
async def test_close_and_modify_with_an_older_token_are_rejected_and_do_nothing(world):
    opened = await world.open(permit=world.permit(token=5))
    for call in (
        world.close(opened.ticket, permit=world.permit(token=4)),
        world.modify(opened.ticket, stop="1.09000", permit=world.permit(token=4)),
    ):
        with pytest.raises(Rejected) as caught:
            await call
        assert caught.value.reason is Reason.STALE_TOKEN
    assert (await world.position()).stop_loss == 0


@promise("permits")
async def test_the_same_token_and_a_newer_one_may_trade(world):
    opened = await world.open(permit=world.permit(token=5))
    await world.modify(opened.ticket, stop="1.09000", permit=world.permit(token=5))
    await world.close(opened.ticket, permit=world.permit(token=6))
    assert await world.positions() == ()


@promise("permits")
async def test_the_far_end_remembers_the_token_when_the_gateway_is_opened_again(world):
    await world.open(permit=world.permit(token=5))
    await world.gateway.close()
    await world.gateway.open()
    with pytest.raises(Rejected) as caught:
        await world.open(permit=world.permit(token=4))
    assert caught.value.reason is Reason.STALE_TOKEN


@promise("permits")
async def test_an_order_after_its_not_after_is_rejected_and_does_nothing(world):
    with pytest.raises(Rejected) as caught:
        await world.open(permit=world.permit(within_s=-1))
    assert caught.value.reason is Reason.TOO_LATE
    assert untouched(world)


@promise("permits", "delays")
async def test_an_order_that_reaches_the_far_end_after_its_not_after_is_rejected(world):
    world.faults.next(Operation.EXECUTE, fault.delay(send_s=2))
    with pytest.raises(Rejected) as caught:
        await world.open(permit=world.permit(within_s=1))
    assert caught.value.reason is Reason.TOO_LATE
    assert untouched(world)


@promise("permits")
async def test_close_and_modify_after_their_not_after_are_rejected(world):
    opened = await world.open()
    for call in (
        world.close(opened.ticket, permit=world.permit(within_s=-1)),
        world.modify(opened.ticket, stop="1.09000", permit=world.permit(within_s=-1)),
    ):
        with pytest.raises(Rejected) as caught:
            await call
        assert caught.value.reason is Reason.TOO_LATE
    assert (await world.position()).stop_loss == 0


# closing


@promise()
async def test_a_close_takes_the_whole_position_at_the_closing_price(world):
    opened = await world.open()
    world.server.set_quote("EURUSD", "1.10200", "1.10210")
    result = await world.close(opened.ticket)
    assert (result.ticket, result.lots, result.price) == (opened.ticket, Decimal("0.30"), Decimal("1.10200"))
    assert await world.positions() == ()
    assert (await world.gateway.get_account()).balance == Decimal("10057.00")


@promise()
async def test_a_partial_close_leaves_the_rest(world):
    opened = await world.open()
    result = await world.close(opened.ticket, "0.10")
    rest = await world.position()
    assert result.lots == Decimal("0.10")
    assert (rest.lots, rest.type, rest.open_price) == (Decimal("0.20"), Side.BUY, Decimal("1.10010"))


@promise(modes=(MarginMode.HEDGING, MarginMode.NETTING))
async def test_a_partial_close_keeps_ticket_and_identifier_on_mt5(world):
    opened = await world.open()
    before = await world.position()
    await world.close(opened.ticket, "0.10")
    after = await world.position()
    assert (after.ticket, after.identifier) == (before.ticket, before.identifier)


@promise(modes=(MarginMode.MT4,))
async def test_a_partial_close_gives_the_rest_a_new_ticket_on_mt4_that_names_its_parent(world):
    opened = await world.open(magic=77)
    before = await world.position()
    result = await world.close(opened.ticket, "0.10")
    rest = await world.position()
    assert rest.ticket != opened.ticket
    assert result.rest_ticket in (rest.ticket, None)
    assert rest.parent == opened.ticket
    assert (rest.open_time, rest.open_price, rest.magic) == (before.open_time, before.open_price, 77)


@promise(modes=(MarginMode.MT4,))
async def test_a_chain_of_partial_closes_keeps_its_first_ticket_as_identifier_on_mt4(world):
    opened = await world.open()
    for _ in range(2):
        await world.close((await world.position()).ticket, "0.10")
    rest = await world.position()
    assert (rest.identifier, rest.lots) == (opened.ticket, Decimal("0.10"))


@promise()
async def test_partial_closes_down_to_nothing_leave_nothing(world):
    await world.open()
    for _ in range(3):
        await world.close((await world.position()).ticket, "0.10")
    assert await world.positions() == ()


@promise()
async def test_a_close_of_more_lots_than_there_are_is_an_invalid_request_and_closes_nothing(world):
    opened = await world.open()
    with pytest.raises(InvalidRequest, match="Requested lots exceeds position size"):
        await world.close(opened.ticket, "0.31")
    assert (await world.position()).lots == Decimal("0.30")


@promise()
async def test_a_close_of_no_lots_is_an_invalid_request(world):
    opened = await world.open()
    for lots in ("0", "-0.10"):
        with pytest.raises(InvalidRequest):
            await world.close(opened.ticket, lots)


@promise()
async def test_a_close_of_an_unknown_ticket_is_rejected_in_the_specified_words(world):
    await world.open()
    with pytest.raises(Rejected, match="Position with ticket 42 not found") as caught:
        await world.close(42)
    assert caught.value.reason is Reason.INVALID_TICKET
    assert len(await world.positions()) == 1


@promise()
async def test_a_second_close_of_the_same_ticket_is_rejected_and_opens_nothing(world):
    opened = await world.open()
    await world.close(opened.ticket)
    with pytest.raises(Rejected) as caught:
        await world.close(opened.ticket)
    assert caught.value.reason is Reason.INVALID_TICKET
    assert await world.positions() == ()


@promise("delays")
async def test_two_closes_on_their_way_at_once_never_open_the_opposite(world):
    opened = await world.open()
    world.faults.next(Operation.CLOSE, fault.delay(send_s=0.5), times=2)
    answers = await asyncio.gather(world.close(opened.ticket), world.close(opened.ticket), return_exceptions=True)
    assert sum(isinstance(answer, Rejected) for answer in answers) == 1
    assert await world.positions() == ()


@promise("delays")
async def test_a_close_overtaken_by_a_reduction_by_hand_never_opens_the_opposite(world):
    opened = await world.open()
    world.faults.next(Operation.CLOSE, fault.delay(send_s=0.5))
    closing = asyncio.ensure_future(world.close(opened.ticket, "0.30"))
    await asyncio.sleep(0.2)
    world.server.close(world.login, opened.ticket, "0.20")
    with pytest.raises((Rejected, InvalidRequest)):
        await closing
    assert [(each.type, each.lots) for each in await world.positions()] == [(Side.BUY, Decimal("0.10"))]


@promise(symbols={"XAUUSD": {"volume_max": Decimal(1)}}, balance=Decimal(1_000_000))
async def test_a_position_larger_than_the_largest_order_is_closed_by_as_many_closes_as_it_takes(world):
    opened = await world.open(symbol="XAUUSD", lots="1.00")
    world.account.positions[opened.ticket].lots = Decimal("2.50")
    world.account.positions[opened.ticket].view = None
    world.account.changed()
    closed = Decimal(0)
    for _ in range(3):
        for position in await world.positions():
            closed += (await world.close(position.ticket)).lots
    assert closed == Decimal("2.50")
    assert await world.positions() == ()


@promise("broker faults")
async def test_a_close_that_is_filled_in_part_tells_how_much(world):
    opened = await world.open()
    world.faults.next(Operation.CLOSE, fault.partial_fill("0.5"))
    assert (await world.close(opened.ticket)).lots == Decimal("0.15")
    assert (await world.position()).lots == Decimal("0.15")


@promise()
async def test_a_close_leaves_every_other_position_alone(world):
    first = await world.open()
    gold = await world.open(symbol="XAUUSD", lots="0.10")
    await world.close(first.ticket)
    assert [each.ticket for each in await world.positions()] == [gold.ticket]


@promise(symbols={"EURUSD": {"freeze_level": 200}})
async def test_a_position_inside_the_freeze_level_is_not_closed_and_wants_a_pause(world):
    opened = await world.open(stop_loss=Decimal("1.09900"))
    with pytest.raises(Rejected) as caught:
        await world.close(opened.ticket)
    assert caught.value.reason is Reason.FROZEN
    assert caught.value.wants_pause
    assert len(await world.positions()) == 1


@promise(modes=(MarginMode.HEDGING, MarginMode.MT4), fifo=True)
async def test_a_fifo_account_closes_the_oldest_first(world):
    first, second = await world.open(), await world.open()
    with pytest.raises(Rejected) as caught:
        await world.close(second.ticket)
    assert caught.value.reason is Reason.FIFO
    await world.close(first.ticket)
    await world.close(second.ticket)


# modifying


@promise()
async def test_an_absent_level_is_left_alone(world):
    opened = await world.open(stop_loss=Decimal("1.09000"), take_profit=Decimal("1.12000"))
    await world.modify(opened.ticket, stop="1.09500")
    position = await world.position()
    assert (position.stop_loss, position.take_profit) == (Decimal("1.09500"), Decimal("1.12000"))
    await world.modify(opened.ticket, target="1.13000")
    position = await world.position()
    assert (position.stop_loss, position.take_profit) == (Decimal("1.09500"), Decimal("1.13000"))


@promise()
async def test_a_level_of_zero_removes_it(world):
    opened = await world.open(stop_loss=Decimal("1.09000"), take_profit=Decimal("1.12000"))
    await world.modify(opened.ticket, stop="0")
    position = await world.position()
    assert (position.stop_loss, position.take_profit) == (0, Decimal("1.12000"))


@promise()
async def test_unchanged_levels_are_a_success(world):
    opened = await world.open(stop_loss=Decimal("1.09000"))
    assert (await world.modify(opened.ticket, stop="1.09000")).ticket == opened.ticket


@promise()
async def test_a_modify_without_a_level_is_an_invalid_request_in_the_specified_words(world):
    opened = await world.open()
    with pytest.raises(InvalidRequest, match="At least one of stopLoss or takeProfit must be provided"):
        await world.gateway.modify_position(ModifyRequest(ticket=opened.ticket), world.permit())


@promise()
async def test_levels_that_would_cross_are_an_invalid_request_even_if_only_one_is_given(world):
    opened = await world.open(take_profit=Decimal("1.12000"))
    with pytest.raises(InvalidRequest, match="For BUY positions, stop loss must be below take profit"):
        await world.modify(opened.ticket, stop="1.13000")
    assert (await world.position()).stop_loss == 0


@promise()
async def test_a_modify_of_an_unknown_ticket_is_rejected_in_the_specified_words(world):
    with pytest.raises(Rejected, match="Position with ticket 42 not found") as caught:
        await world.modify(42, stop="1.09000")
    assert caught.value.reason is Reason.INVALID_TICKET


@promise(symbols={"EURUSD": {"stops_level": 100}})
async def test_a_level_too_near_the_price_is_rejected_and_the_old_ones_stay(world):
    opened = await world.open(stop_loss=Decimal("1.09000"))
    with pytest.raises(Rejected) as caught:
        await world.modify(opened.ticket, stop="1.09950")
    assert caught.value.reason is Reason.INVALID_STOPS
    assert (await world.position()).stop_loss == Decimal("1.09000")


# account models


@promise(modes=BOTH_SIDES)
async def test_opposite_orders_stand_side_by_side_where_the_account_hedges(world):
    buy, sell = await world.open(Side.BUY), await world.open(Side.SELL)
    listed = await world.positions()
    assert {(each.ticket, each.type) for each in listed} == {(buy.ticket, Side.BUY), (sell.ticket, Side.SELL)}


@promise(modes=NETTING)
async def test_a_second_order_adds_to_a_netting_position_at_the_weighted_price(world):
    first = await world.open(lots="0.10")
    identifier = (await world.position()).identifier
    world.server.set_quote("EURUSD", "1.10300", "1.10310")
    second = await world.open(lots="0.20")
    position = await world.position()
    assert second.ticket == position.ticket == first.ticket
    assert (position.identifier, position.lots, position.open_price) == (identifier, Decimal("0.30"), Decimal("1.10210"))


@promise(modes=NETTING)
async def test_an_opposite_order_reduces_a_netting_position(world):
    await world.open(lots="0.30")
    await world.open(Side.SELL, lots="0.10")
    position = await world.position()
    assert (position.type, position.lots) == (Side.BUY, Decimal("0.20"))


@promise(modes=NETTING)
async def test_a_larger_opposite_order_reverses_a_netting_position_and_keeps_its_identifier(world):
    await world.open(lots="0.30")
    before = await world.position()
    result = await world.open(Side.SELL, lots="0.50")
    after = await world.position()
    assert (after.identifier, after.type, after.lots) == (before.identifier, Side.SELL, Decimal("0.20"))
    assert after.ticket == result.ticket != before.ticket


@promise(modes=NETTING)
async def test_an_equal_opposite_order_flattens_a_netting_position(world):
    await world.open(lots="0.30")
    await world.open(Side.SELL, lots="0.30")
    assert await world.positions() == ()


# deals


@promise("deals")
async def test_deals_tell_how_a_position_began_and_ended(world):
    opened = await world.open()
    identifier = (await world.position()).identifier
    await world.close(opened.ticket)
    deals = await world.gateway.deals.get_deals(world.long_ago, identifier)
    assert [(deal.entry, deal.type, deal.lots) for deal in deals] == [
        (DealEntry.IN, DealType.BUY, Decimal("0.30")),
        (DealEntry.OUT, DealType.SELL, Decimal("0.30")),
    ]
    assert {deal.position_id for deal in deals} == {identifier}
    assert deals[1].profit == Decimal("-3.00")


@promise("deals")
async def test_the_last_deal_of_a_position_closed_part_by_part_is_found_under_its_identifier(world):
    await world.open(stop_loss=Decimal("1.09000"))
    identifier = (await world.position()).identifier
    for _ in range(2):
        await world.close((await world.position()).ticket, "0.10")
    assert (await world.position()).identifier == identifier
    world.server.set_quote("EURUSD", "1.08990", "1.09000")
    assert await world.positions() == ()
    deals = await world.gateway.deals.get_deals(world.long_ago, identifier)
    out = [deal for deal in deals if deal.entry is DealEntry.OUT]
    assert [deal.lots for deal in out] == [Decimal("0.10")] * 3
    assert out[-1].reason is DealReason.STOP_LOSS


@promise("deals")
async def test_deals_before_the_asked_moment_are_left_out(world):
    await world.open()
    after = (await world.position()).open_time + timedelta(hours=1)
    assert await world.gateway.deals.get_deals(after) == ()


@promise("deals")
async def test_deals_come_oldest_first(world):
    for _ in range(3):
        await world.open(lots="0.10")
        await asyncio.sleep(0.01)
    times = [deal.time for deal in await world.gateway.deals.get_deals(world.long_ago)]
    assert times == sorted(times)
    assert len(times) >= 4


@promise("deals")
async def test_a_deposit_is_told_apart_from_a_trade(world):
    world.server.move_money(world.login, Decimal(500), comment="Deposit")
    deals = await world.gateway.deals.get_deals(world.long_ago)
    assert [deal.profit for deal in deals if deal.type is DealType.BALANCE] == [10_000, 500]


@promise("deals")
async def test_a_stop_and_a_target_are_told_as_reasons_of_a_close(world):
    for level, quote, reason in (
        ({"stop_loss": Decimal("1.09000")}, ("1.08990", "1.09000"), DealReason.STOP_LOSS),
        ({"take_profit": Decimal("1.12000")}, ("1.12000", "1.12010"), DealReason.TAKE_PROFIT),
    ):
        world.server.set_quote("EURUSD", "1.10000", "1.10010")
        await world.open(**level)
        identifier = (await world.position()).identifier
        world.server.set_quote("EURUSD", *quote)
        assert await world.positions() == ()
        last = (await world.gateway.deals.get_deals(world.long_ago, identifier))[-1]
        assert (last.entry, last.reason, last.price) == (DealEntry.OUT, reason, Decimal(quote[0]))


@promise("deals", leverage=500, balance=Decimal(1000))
async def test_a_stop_out_is_told_as_the_reason_of_a_close(world):
    await world.open(lots="2.00")
    identifier = (await world.position()).identifier
    world.server.set_quote("EURUSD", "1.09600", "1.09610")
    assert await world.positions() == ()
    last = (await world.gateway.deals.get_deals(world.long_ago, identifier))[-1]
    assert last.reason is DealReason.STOP_OUT


# wakes


@promise("wakes")
async def test_the_gateway_wakes_on_whatever_changes_positions(world):
    woken = []
    world.gateway.wakes.on_change(lambda: woken.append(len(world.account.positions)))

    async def wakes(change):
        woken.clear()
        done = change()
        if asyncio.iscoroutine(done):
            done = await done
        for _ in range(100):
            if woken:
                return done
            await asyncio.sleep(0.02)
        raise AssertionError("nobody was woken")

    opened = await wakes(lambda: world.open(stop_loss=Decimal("1.09000")))
    await wakes(lambda: world.modify(opened.ticket, stop="1.09500"))
    await wakes(lambda: world.close(opened.ticket, "0.10"))
    await wakes(lambda: world.server.buy(world.login, "XAUUSD", "0.10"))
    await wakes(lambda: world.server.set_quote("EURUSD", "1.09000", "1.09010"))


@promise("wakes", "lag")
async def test_a_wake_comes_again_when_a_lagging_list_catches_up(world):
    seen = []
    world.faults.visibility_lag_ms = 200

    async def look():
        seen.append(len(await world.positions()))

    looks = []
    world.gateway.wakes.on_change(lambda: looks.append(asyncio.ensure_future(look())))
    await world.open()
    await asyncio.sleep(0.5)
    assert looks
    assert seen[-1] == 1
