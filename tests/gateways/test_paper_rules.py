"""What the paper broker refuses, with which reason and number, and what it must not refuse."""

from decimal import Decimal

import pytest

from copier.errors import Reason, Rejected
from copier.gateways.paper_codes import DONE, DONE_PARTIAL, NO_CHANGES, REFUSALS
from copier.gateways.paper_faults import Fault, partial_fill, slipped
from copier.gateways.paper_orders import BrokerHabits, MarketOrder
from copier.gateways.paper_symbols import FOREX_WEEK
from copier.model import DealReason, Execution, Filling, MarginMode, Side, TradeMode

D = Decimal
NONE = Fault()


def send(bench, side=Side.BUY, lots="0.30", fault=NONE, **more):
    return bench.server.deal(bench.login, MarketOrder(symbol="EURUSD", side=side, lots=D(lots), **more), fault)


def refusal(bench, side=Side.BUY, lots="0.30", fault=NONE, **more):
    before = bench.server.positions(bench.login), len(bench.account.deals), bench.account.balance
    with pytest.raises(Rejected) as caught:
        send(bench, side, lots, fault, **more)
    assert (bench.server.positions(bench.login), len(bench.account.deals), bench.account.balance) == before
    return caught.value.reason, caught.value.code


def test_every_reason_has_words_and_a_number_on_both_platforms():
    assert set(REFUSALS) == set(Reason)
    assert all(each.words for each in REFUSALS.values())


def test_a_fill_tells_done_or_done_in_part(bench):
    assert send(bench).code == DONE
    assert send(bench, fault=partial_fill("0.34")).code == DONE_PARTIAL


def test_a_partial_fill_is_on_the_step_and_never_nothing(bench):
    assert send(bench, lots="0.29", fault=partial_fill("0.5")).lots == D("0.14")
    assert send(bench, lots="0.29", fault=partial_fill("0.001")).lots == D("0.01")


def test_the_part_that_is_not_filled_stays_on_the_order(bench):
    send(bench, fault=partial_fill("0.5"))
    assert bench.account.orders[-1].lots_left == D("0.15")


@pytest.mark.parametrize("lots", ["0.005", "0.015", "100.01", "0"])
def test_lots_off_the_rules_are_an_invalid_volume(bench, lots):
    assert refusal(bench, lots=lots) == (Reason.INVALID_VOLUME, 10014)


def test_twenty_nine_steps_of_a_hundredth_are_on_the_step(bench):
    assert send(bench, lots="0.29").lots == D("0.29")


# filling


@pytest.mark.parametrize(
    ("execution", "mask", "asked", "taken"),
    [
        (Execution.MARKET, (Filling.FOK,), Filling.FOK, True),
        (Execution.MARKET, (Filling.FOK,), Filling.IOC, False),
        (Execution.MARKET, (Filling.FOK, Filling.IOC), Filling.RETURN, False),
        (Execution.EXCHANGE, (Filling.IOC,), Filling.FOK, False),
        (Execution.EXCHANGE, (), Filling.RETURN, True),
        (Execution.INSTANT, (), Filling.FOK, True),
        (Execution.REQUEST, (), Filling.RETURN, True),
        (Execution.MARKET, (), None, True),
    ],
)
def test_a_filling_mode_is_taken_as_execution_mode_and_mask_say(bench, execution, mask, asked, taken):
    bench.server.change_symbol("EURUSD", execution=execution, fillings=mask)
    if taken:
        assert send(bench, filling=asked).lots == D("0.30")
    else:
        assert refusal(bench, filling=asked) == (Reason.INVALID_FILLING, 10030)


# prices


@pytest.mark.parametrize("execution", [Execution.INSTANT, Execution.REQUEST])
def test_a_price_off_by_more_than_the_deviation_is_a_requote_in_both_directions(bench, execution):
    bench.server.change_symbol("EURUSD", execution=execution)
    for price in ("1.10006", "1.10014"):
        assert refusal(bench, price=D(price), deviation=3) == (Reason.REQUOTE, 10004)
        assert send(bench, price=D(price), deviation=4).price == D("1.10010")


def test_an_instant_order_without_a_price_is_an_invalid_price(bench):
    bench.server.change_symbol("EURUSD", execution=Execution.INSTANT)
    assert refusal(bench, price=D(0)) == (Reason.INVALID_PRICE, 10015)


@pytest.mark.parametrize("execution", [Execution.MARKET, Execution.EXCHANGE])
def test_market_execution_ignores_price_and_deviation(bench, execution):
    bench.server.change_symbol("EURUSD", execution=execution)
    assert send(bench, price=D("1.2"), deviation=0).price == D("1.10010")


def test_a_slipped_fill_is_worse_for_either_side(bench):
    assert send(bench, fault=slipped(7)).price == D("1.10017")
    assert send(bench, Side.SELL, fault=slipped(7)).price == D("1.09993")


def test_a_symbol_without_a_price_yet_cannot_be_traded(bench):
    with pytest.raises(Rejected) as caught:
        bench.server.buy(bench.login, "GBPUSD", "0.10")
    assert (caught.value.reason, caught.value.code) == (Reason.PRICE_OFF, 10021)


def test_a_quote_of_an_unknown_symbol_or_crossed_prices_is_a_mistake_of_the_feed(bench):
    with pytest.raises(KeyError, match="NOSUCH"):
        bench.server.set_quote("NOSUCH", "1", "1")
    for prices in (("1.2", "1.1"), ("0", "1.1"), ("-1", "1.1")):
        with pytest.raises(ValueError, match="bid"):
            bench.server.set_quote("EURUSD", *prices)
    assert bench.server.quotes["EURUSD"].bid == D("1.10000")


# stops


@pytest.mark.parametrize(
    ("side", "stop", "target", "taken"),
    [
        (Side.BUY, "1.09900", "0", True),
        (Side.BUY, "1.09901", "0", False),
        (Side.BUY, "0", "1.10100", True),
        (Side.BUY, "0", "1.10099", False),
        (Side.SELL, "1.10110", "0", True),
        (Side.SELL, "1.10109", "0", False),
        (Side.SELL, "0", "1.09910", True),
        (Side.SELL, "0", "1.09911", False),
    ],
)
def test_the_stops_level_is_counted_from_the_closing_side_price(bench, side, stop, target, taken):
    bench.server.change_symbol("EURUSD", stops_level=100)
    if taken:
        send(bench, side, stop_loss=D(stop), take_profit=D(target))
    else:
        assert refusal(bench, side, stop_loss=D(stop), take_profit=D(target)) == (Reason.INVALID_STOPS, 10016)


@pytest.mark.parametrize(("side", "stop"), [(Side.BUY, "1.10000"), (Side.BUY, "1.10005"), (Side.SELL, "1.10010")])
def test_a_stop_that_would_trigger_at_once_is_invalid_without_any_stops_level(bench, side, stop):
    assert refusal(bench, side, stop_loss=D(stop)) == (Reason.INVALID_STOPS, 10016)


def test_a_broker_may_demand_more_distance_than_its_specification_says(bench):
    bench.server.change_symbol("EURUSD", stops_level_hidden=100)
    assert bench.server.spec(bench.login, "EURUSD").stops_level == 0
    assert refusal(bench, stop_loss=D("1.09950")) == (Reason.INVALID_STOPS, 10016)


@pytest.mark.parametrize("refused", [True, False])
def test_levels_off_the_tick_are_refused_or_not_as_the_broker_has_it(bench, refused):
    bench.serve(habits=BrokerHabits(off_tick_levels_refused=refused))
    if refused:
        assert refusal(bench, stop_loss=D("1.099005")) == (Reason.INVALID_STOPS, 10016)
    else:
        send(bench, stop_loss=D("1.099005"))


def test_changing_one_level_does_not_judge_the_other_that_stays(bench):
    bench.server.change_symbol("EURUSD", stops_level=100)
    fill = send(bench, stop_loss=D("1.09000"))
    bench.server.set_quote("EURUSD", "1.09050", "1.09060")
    assert bench.server.set_levels(bench.login, fill.position, D("1.09000"), D("1.20000")) == DONE
    with pytest.raises(Rejected):
        bench.server.set_levels(bench.login, fill.position, D("1.09001"), D("1.20000"))


def test_unchanged_levels_are_told_as_no_changes(bench):
    fill = send(bench, stop_loss=D("1.09000"))
    assert bench.server.set_levels(bench.login, fill.position, D("1.09"), D(0)) == NO_CHANGES


def test_the_freeze_level_stops_closing_and_modifying_near_stop_or_target(bench):
    fill = send(bench, stop_loss=D("1.09900"))
    bench.server.change_symbol("EURUSD", freeze_level=100)
    for call in (
        lambda: bench.server.close(bench.login, fill.position),
        lambda: bench.server.set_levels(bench.login, fill.position, D("1.09"), D(0)),
    ):
        with pytest.raises(Rejected) as caught:
            call()
        assert (caught.value.reason, caught.value.code) == (Reason.FROZEN, 10029)
    bench.server.set_quote("EURUSD", "1.10100", "1.10110")
    bench.server.close(bench.login, fill.position)


@pytest.mark.parametrize(
    ("side", "levels", "just_before", "reached", "reason"),
    [
        (Side.BUY, {"stop_loss": D("1.09000")}, "1.09001", "1.09000", DealReason.STOP_LOSS),
        (Side.BUY, {"take_profit": D("1.12000")}, "1.11999", "1.12000", DealReason.TAKE_PROFIT),
        (Side.SELL, {"stop_loss": D("1.12010")}, "1.11999", "1.12000", DealReason.STOP_LOSS),
        (Side.SELL, {"take_profit": D("1.09010")}, "1.09001", "1.09000", DealReason.TAKE_PROFIT),
    ],
)
def test_stops_and_targets_are_triggered_by_the_closing_side_price(bench, side, levels, just_before, reached, reason):
    send(bench, side, **levels)
    bench.server.set_quote("EURUSD", just_before, D(just_before) + D("0.00010"))
    assert len(bench.server.positions(bench.login)) == 1
    bench.server.set_quote("EURUSD", reached, D(reached) + D("0.00010"))
    assert bench.server.positions(bench.login) == ()
    assert bench.account.deals[-1].reason is reason


def test_a_gap_through_a_stop_is_filled_where_the_price_is(bench):
    send(bench, stop_loss=D("1.09000"))
    bench.server.set_quote("EURUSD", "1.08000", "1.08010")
    assert bench.account.deals[-1].price == D("1.08000")
    assert bench.account.deals[-1].comment == "[sl 1.09000]"


def test_only_the_positions_whose_level_is_reached_are_closed(bench):
    near, far = send(bench, stop_loss=D("1.09500")), send(bench, stop_loss=D("1.09000"))
    bench.server.set_quote("EURUSD", "1.09400", "1.09410")
    assert [each.ticket for each in bench.server.positions(bench.login)] == [far.position]
    assert near.position not in bench.account.positions


@pytest.mark.parametrize("nearest_first", [True, False])
@pytest.mark.parametrize(
    ("side", "level", "near", "far", "between"),
    [
        (Side.BUY, "stop_loss", "1.09500", "1.09000", "1.09400"),
        (Side.BUY, "take_profit", "1.10500", "1.11000", "1.10600"),
        (Side.SELL, "stop_loss", "1.10500", "1.11000", "1.10600"),
        (Side.SELL, "take_profit", "1.09500", "1.09000", "1.09400"),
    ],
)
def test_of_two_levels_the_nearer_is_triggered_alone_whichever_came_first(bench, side, level, near, far, between, nearest_first):
    order = (near, far) if nearest_first else (far, near)
    fills = {price: send(bench, side, **{level: D(price)}) for price in order}
    bench.server.set_quote("EURUSD", between, D(between) + D("0.00010"))
    assert list(bench.account.positions) == [fills[far].position]


def test_a_stop_set_later_is_triggered_too(bench):
    fill = send(bench)
    bench.server.set_quote("EURUSD", "1.09990", "1.10000")
    bench.server.set_levels(bench.login, fill.position, D("1.09900"), D(0))
    bench.server.set_quote("EURUSD", "1.09900", "1.09910")
    assert bench.server.positions(bench.login) == ()


def test_nothing_is_triggered_outside_the_sessions(bench):
    send(bench, stop_loss=D("1.09000"))
    bench.server.change_symbol("EURUSD", sessions=((),) * 7)
    bench.server.set_quote("EURUSD", "1.08000", "1.08010")
    assert len(bench.server.positions(bench.login)) == 1


# sessions and permissions


def test_the_week_ends_on_the_servers_clock(bench):
    bench.server.change_symbol("EURUSD", sessions=FOREX_WEEK, swap_mode="off")
    send(bench)
    bench.clock.advance(hours=4 * 24 + 9.9)
    send(bench)
    bench.clock.advance(hours=0.2)
    assert refusal(bench) == (Reason.MARKET_CLOSED, 10018)
    bench.clock.advance(hours=47.9)
    send(bench)


def test_a_position_cannot_be_closed_or_modified_while_the_market_is_closed(bench):
    fill = send(bench)
    bench.server.change_symbol("EURUSD", sessions=((),) * 7)
    with pytest.raises(Rejected) as caught:
        bench.server.close(bench.login, fill.position)
    assert caught.value.reason is Reason.MARKET_CLOSED
    with pytest.raises(Rejected) as caught:
        bench.server.set_levels(bench.login, fill.position, D("1.09"), D(0))
    assert caught.value.reason is Reason.MARKET_CLOSED


@pytest.mark.parametrize(
    ("mode", "side", "numbers"),
    [
        (TradeMode.DISABLED, Side.BUY, (Reason.TRADE_DISABLED, 10017)),
        (TradeMode.LONG_ONLY, Side.SELL, (Reason.LONG_ONLY, 10042)),
        (TradeMode.SHORT_ONLY, Side.BUY, (Reason.SHORT_ONLY, 10043)),
        (TradeMode.CLOSE_ONLY, Side.BUY, (Reason.CLOSE_ONLY, 10044)),
        (TradeMode.CLOSE_ONLY, Side.SELL, (Reason.CLOSE_ONLY, 10044)),
    ],
)
def test_trade_modes_refuse_opens_with_their_own_numbers(bench, mode, side, numbers):
    bench.server.change_symbol("EURUSD", trade_mode=mode)
    assert refusal(bench, side) == numbers


def test_a_broker_that_forbids_robots_still_lets_a_hand_trade(bench):
    bench.serve(expert_allowed=False)
    assert refusal(bench, reason=DealReason.EXPERT) == (Reason.AUTOTRADING_OFF, 10026)
    send(bench)


def test_an_investor_login_can_do_nothing(bench):
    fill = send(bench)
    bench.account.investor = True
    assert refusal(bench) == (Reason.TRADE_DISABLED, 10017)
    for call in (
        lambda: bench.server.close(bench.login, fill.position),
        lambda: bench.server.set_levels(bench.login, fill.position, D("1.09"), D(0)),
    ):
        with pytest.raises(Rejected):
            call()


# limits


def test_the_volume_limit_counts_one_direction_and_waiting_orders(bench):
    bench.server.change_symbol("EURUSD", volume_limit="1.00")
    send(bench, lots="0.60")
    send(bench, Side.SELL, lots="1.00")
    bench.server.place(bench.login, "EURUSD", "buy_limit", "0.30", "1.09000")
    assert refusal(bench, lots="0.20") == (Reason.LIMIT, 10034)
    send(bench, lots="0.10")


def test_the_limit_of_positions_has_its_own_number(bench):
    bench.serve(positions_max=1)
    send(bench)
    assert refusal(bench) == (Reason.LIMIT, 10040)


def test_netting_adds_are_within_the_limit_of_positions(bench):
    bench.serve(MarginMode.NETTING, positions_max=1)
    send(bench)
    assert send(bench).lots == D("0.30")


def test_fifo_is_judged_symbol_by_symbol(bench):
    bench.serve(fifo=True)
    first = send(bench)
    gold = bench.server.buy(bench.login, "XAUUSD", "0.10")
    second = send(bench)
    with pytest.raises(Rejected) as caught:
        bench.server.close(bench.login, second.position)
    assert (caught.value.reason, caught.value.code) == (Reason.FIFO, 10045)
    bench.server.close(bench.login, gold.position)
    bench.server.close(bench.login, first.position)
    bench.server.close(bench.login, second.position)


@pytest.mark.parametrize("reason", sorted(set(Reason) - {Reason.STALE_TOKEN, Reason.TOO_LATE}))
def test_a_refusal_laid_on_an_order_has_the_reasons_number(bench, reason):
    assert refusal(bench, fault=Fault(reason=reason)) == (reason, REFUSALS[reason].mt5)


def test_a_refusal_laid_on_an_order_may_have_another_number(bench):
    assert refusal(bench, fault=Fault(reason=Reason.BUSY, code=10012)) == (Reason.BUSY, 10012)
