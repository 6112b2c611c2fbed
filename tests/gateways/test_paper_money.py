"""The paper broker's money: profit, conversion, margin, stop-out, commission, swap, deposits."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from copier.errors import Reason, Rejected
from copier.gateways.paper_account import MarginRule, PaperAccount
from copier.gateways.paper_symbols import PaperSymbol, SwapMode, TickMoney, default_symbols, symbol_spec, variant
from copier.model import CalcMode, DealReason, DealType, MarginMode

D = Decimal


def at(day: str) -> int:
    return round(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


def test_a_buy_is_valued_at_the_bid_and_a_sell_at_the_ask(bench):
    bench.server.buy(bench.login, "EURUSD", "1.00")
    bench.server.sell(bench.login, "EURUSD", "1.00")
    assert [each.profit for each in bench.server.positions(bench.login)] == [D("-10.00"), D("-10.00")]
    bench.server.set_quote("EURUSD", "1.10100", "1.10130")
    assert [each.profit for each in bench.server.positions(bench.login)] == [D("90.00"), D("-130.00")]


def test_gold_counts_a_hundred_ounces_a_lot(bench):
    bench.server.buy(bench.login, "XAUUSD", "0.10")
    bench.server.set_quote("XAUUSD", "2660.80", "2661.10")
    assert bench.position.profit == D("100.00")


def test_yen_gains_are_converted_at_the_ask_and_losses_at_the_bid_of_the_dollar_pair(bench):
    bench.server.buy(bench.login, "USDJPY", "1.00")
    bench.server.set_quote("USDJPY", "151.020", "151.040")
    assert bench.position.profit == D("662.08")
    bench.server.set_quote("USDJPY", "149.020", "149.040")
    assert bench.position.profit == D("-671.05")


def test_money_is_rounded_half_away_from_zero_deal_by_deal(bench):
    bench.server.change_symbol("EURUSD", contract_size=D(50))
    bench.server.buy(bench.login, "EURUSD", "0.10")
    fill = bench.server.buy(bench.login, "EURUSD", "0.10")
    bench.server.set_quote("EURUSD", "1.10110", "1.10120")
    bench.server.close(bench.login, fill.position)
    assert bench.account.deals[-1].profit == D("0.01")
    bench.server.set_quote("EURUSD", "1.09910", "1.09920")
    bench.server.close(bench.login, bench.position.ticket)
    assert bench.account.deals[-1].profit == D("-0.01")


def test_a_currency_without_cents_is_rounded_to_whole_units(bench):
    bench.server.add_account(PaperAccount(8, currency="JPY", balance=D(1_000_000), money_digits=0))
    fill = bench.server.buy(8, "USDJPY", "0.01")
    bench.server.set_quote("USDJPY", "150.123", "150.143")
    bench.server.close(8, fill.position)
    assert bench.server.accounts[8].deals[-1].profit == D(103)


def test_an_account_in_another_currency_is_converted_by_the_servers_own_pair(bench):
    bench.server.add_account(PaperAccount(8, currency="EUR"))
    bench.server.buy(8, "XAUUSD", "1.00")
    bench.server.set_quote("XAUUSD", "2661.80", "2662.10")
    assert bench.server.positions(8)[0].profit == round(D(1100) / D("1.10010"), 2)


def test_a_currency_is_converted_across_a_third_one(bench):
    bench.server.add_account(PaperAccount(8, currency="EUR"))
    bench.server.buy(8, "USDJPY", "1.00")
    bench.server.set_quote("USDJPY", "151.020", "151.040")
    assert bench.server.positions(8)[0].profit == round(D(100_000) / D("151.040") / D("1.10010"), 2)


def test_a_currency_nobody_quotes_makes_orders_fail_for_want_of_a_price(bench):
    bench.server.add_account(PaperAccount(8, currency="CHF"))
    with pytest.raises(Rejected) as caught:
        bench.server.buy(8, "EURUSD", "0.10")
    assert caught.value.reason is Reason.PRICE_OFF
    bench.server.set_rate("USD", "CHF", "0.90")
    bench.server.set_rate("EUR", "CHF", "0.95")
    bench.server.buy(8, "EURUSD", "0.10")
    assert bench.server.positions(8)[0].profit == D("-0.90")


def test_tick_values_as_given_need_no_rates_and_keep_both_sides(bench):
    spec = symbol_spec(
        "BOOM",
        digits=3,
        contract_size="1",
        calc_mode=CalcMode.OTHER,
        currency_profit="",
        tick_value="0.002",
        tick_value_loss="0.003",
    )
    bench.server.add_symbol(PaperSymbol(spec=spec, tick_money=TickMoney.SPEC))
    bench.server.set_quote("BOOM", "1000.000", "1000.000")
    bench.server.buy(bench.login, "BOOM", "1.00")
    bench.server.set_quote("BOOM", "1001.000", "1001.000")
    assert bench.position.profit == D("2.00")
    bench.server.set_quote("BOOM", "999.000", "999.000")
    assert bench.position.profit == D("-3.00")


def test_a_future_is_worth_its_tick_value(bench):
    spec = symbol_spec(
        "ES", digits=2, tick_size="0.25", tick_value="12.5", contract_size="50", calc_mode=CalcMode.FUTURES, margin_per_lot=D(500)
    )
    bench.server.add_symbol(PaperSymbol(spec=spec))
    bench.server.set_quote("ES", "5000.00", "5000.25")
    bench.server.buy(bench.login, "ES", "1.00")
    bench.server.set_quote("ES", "5001.25", "5001.50")
    assert bench.position.profit == D("50.00")
    assert bench.account.margin() == D(500)


def test_a_changed_contract_is_worth_something_else_at_once(bench):
    bench.server.buy(bench.login, "XAUUSD", "0.10")
    bench.server.buy(bench.login, "XAUUSD", "0.10")
    assert bench.server.equity(bench.login) == D("9994.00")
    bench.server.change_symbol("XAUUSD", contract_size="10")
    assert bench.server.equity(bench.login) == D("9999.40")
    assert {each.profit for each in bench.server.positions(bench.login)} == {D("-0.30")}


# margin


def test_forex_margin_is_contract_by_leverage_in_the_margin_currency(bench):
    bench.server.buy(bench.login, "EURUSD", "1.00")
    assert bench.account.margin() == D("1100.10")
    bench.server.sell(bench.login, "USDJPY", "1.00")
    assert bench.account.margin() == D("2100.10")


def test_margin_stays_what_it_was_at_the_opening(bench):
    bench.server.buy(bench.login, "EURUSD", "1.00")
    bench.server.set_quote("EURUSD", "1.20000", "1.20010")
    assert bench.account.margin() == D("1100.10")


def test_a_partial_close_frees_its_part_of_the_margin(bench):
    fill = bench.server.buy(bench.login, "EURUSD", "1.00")
    bench.server.close(bench.login, fill.position, "0.25")
    assert bench.account.margin() == D("825.07")
    bench.server.close(bench.login, fill.position)
    assert bench.account.margin() == 0


@pytest.mark.parametrize(
    ("rule", "margin"),
    [(MarginRule.LARGER_LEG, D("2200.20")), (MarginRule.BOTH_LEGS, D("3300.20")), (MarginRule.OFF, D(0))],
)
def test_opposite_positions_share_margin_as_the_account_has_it(bench, rule, margin):
    bench.serve(margin_rule=rule)
    bench.server.buy(bench.login, "EURUSD", "2.00")
    bench.server.sell(bench.login, "EURUSD", "1.00")
    assert bench.account.margin() == margin


def test_an_order_that_only_hedges_needs_no_money_where_the_larger_leg_counts(bench):
    bench.serve(balance=D(1200))
    bench.server.buy(bench.login, "EURUSD", "1.00")
    with pytest.raises(Rejected):
        bench.server.buy(bench.login, "EURUSD", "1.00")
    bench.server.sell(bench.login, "EURUSD", "1.00")


def test_with_margin_off_any_volume_may_be_opened_and_nothing_is_stopped_out(bench):
    bench.serve(balance=D(1), margin_rule=MarginRule.OFF)
    bench.server.buy(bench.login, "EURUSD", "10.00")
    bench.server.set_quote("EURUSD", "1.00000", "1.00010")
    assert bench.position.profit == D("-100100.00")


def test_a_reversal_needs_money_only_for_what_is_left_of_it(bench):
    bench.serve(MarginMode.NETTING, balance=D(1200), margin_rule=MarginRule.BOTH_LEGS)
    bench.server.buy(bench.login, "EURUSD", "1.00")
    bench.server.sell(bench.login, "EURUSD", "2.00")
    assert (bench.position.type, bench.account.margin()) == ("sell", D("1100.00"))


def test_a_reversal_without_money_for_its_rest_leaves_the_position_as_it_was(bench):
    bench.serve(MarginMode.NETTING, balance=D(1200))
    bench.server.buy(bench.login, "EURUSD", "1.00")
    with pytest.raises(Rejected) as caught:
        bench.server.sell(bench.login, "EURUSD", "3.00")
    assert caught.value.reason is Reason.NO_MONEY
    assert (bench.position.type, bench.position.lots, bench.account.margin()) == ("buy", D("1.00"), D("1100.10"))


def test_the_margin_of_other_symbols_counts_too(bench):
    bench.serve(balance=D(1900))
    bench.server.buy(bench.login, "EURUSD", "1.00")
    with pytest.raises(Rejected):
        bench.server.buy(bench.login, "USDJPY", "1.00")
    bench.server.buy(bench.login, "USDJPY", "0.50")


def test_the_floating_loss_counts_against_the_money_for_the_next_order(bench):
    bench.serve(balance=D(2300))
    bench.server.buy(bench.login, "EURUSD", "1.00")
    bench.server.set_quote("EURUSD", "1.09500", "1.09510")
    with pytest.raises(Rejected) as caught:
        bench.server.buy(bench.login, "EURUSD", "1.00")
    assert caught.value.reason is Reason.NO_MONEY


def test_credit_counts_as_money_to_trade_with(bench):
    bench.serve(balance=D(100))
    with pytest.raises(Rejected):
        bench.server.buy(bench.login, "EURUSD", "1.00")
    bench.server.move_money(bench.login, D(2000), type=DealType.CREDIT)
    bench.server.buy(bench.login, "EURUSD", "1.00")
    assert (bench.account.balance, bench.account.credit) == (100, 2000)


def test_a_stop_out_closes_the_worst_loser_first_and_no_more_than_needed(bench):
    bench.serve(balance=D(3500), leverage=100)
    gold = bench.server.buy(bench.login, "XAUUSD", "0.10")
    euro = bench.server.buy(bench.login, "EURUSD", "2.00")
    bench.server.set_quote("XAUUSD", "2640.00", "2640.30")
    bench.server.set_quote("EURUSD", "1.08920", "1.08930")
    assert [each.ticket for each in bench.server.positions(bench.login)] == [gold.position]
    last = bench.account.deals[-1]
    assert (last.position_id, last.reason) == (euro.identifier, DealReason.STOP_OUT)
    assert last.comment.startswith("[so 49")


def test_a_margin_level_exactly_at_the_stop_out_level_is_stopped_out(bench):
    bench.serve(balance=D("1000.00"), leverage=100, stop_out_level=D(50))
    bench.server.set_quote("EURUSD", "1.00000", "1.00000")
    bench.server.buy(bench.login, "EURUSD", "1.00")
    bench.server.set_quote("EURUSD", "0.99501", "0.99501")
    assert len(bench.server.positions(bench.login)) == 1
    bench.server.set_quote("EURUSD", "0.99500", "0.99500")
    assert bench.server.positions(bench.login) == ()


def test_a_loss_that_only_the_conversion_made_larger_is_stopped_out_too(bench):
    bench.serve(currency="EUR", balance=D(3000))
    bench.server.buy(bench.login, "XAUUSD", "1.00")
    bench.server.set_quote("XAUUSD", "2632.00", "2632.30")
    bench.server.set_quote("EURUSD", "0.80000", "0.80010")
    assert len(bench.server.positions(bench.login)) == 1
    bench.server.set_quote("XAUUSD", "2631.90", "2632.20")
    assert bench.server.positions(bench.login) == ()


def test_a_position_that_a_changed_contract_made_larger_is_stopped_out_with_the_next_price(bench):
    bench.serve(balance=D(3000))
    bench.server.buy(bench.login, "XAUUSD", "0.10")
    bench.server.set_quote("XAUUSD", "2640.00", "2640.30")
    bench.server.change_symbol("XAUUSD", contract_size="5000")
    bench.server.set_quote("XAUUSD", "2640.00", "2640.30")
    assert bench.server.positions(bench.login) == ()


def test_a_stop_out_level_of_zero_stops_nothing_out(bench):
    bench.serve(balance=D(1200), stop_out_level=D(0))
    bench.server.buy(bench.login, "EURUSD", "1.00")
    bench.server.set_quote("EURUSD", "1.00000", "1.00010")
    assert bench.server.equity(bench.login) < 0
    assert len(bench.server.positions(bench.login)) == 1


# commission


def test_commission_is_charged_per_lot_and_side_on_the_deals_of_mt5(bench):
    bench.server.change_symbol("EURUSD", commission_per_lot=D("3.5"))
    fill = bench.server.buy(bench.login, "EURUSD", "0.30")
    assert (bench.account.balance, bench.position.commission) == (D("9998.95"), 0)
    bench.server.close(bench.login, fill.position)
    assert [deal.commission for deal in bench.account.deals[1:]] == [D("-1.05"), D("-1.05")]


def test_commission_waits_on_the_ticket_until_the_close_on_mt4(bench):
    bench.serve(MarginMode.MT4)
    bench.server.change_symbol("EURUSD", commission_per_lot=D("3.5"))
    fill = bench.server.buy(bench.login, "EURUSD", "0.30")
    assert (bench.account.balance, bench.position.commission) == (10_000, D("-1.05"))
    assert bench.server.equity(bench.login) == D("9995.95")
    bench.server.close(bench.login, fill.position)
    assert bench.account.balance == D("9994.90")


# swap


def swapping(bench, **symbol):
    terms = {"swap_mode": SwapMode.MONEY, "swap_long": D("-2"), "swap_short": D("0.5")} | symbol
    bench.server.change_symbol("EURUSD", **terms)


def test_swap_is_booked_on_the_position_at_the_servers_midnight_and_not_at_utc(bench):
    bench.clock.ms = at("2024-01-08 21:59:00")
    swapping(bench)
    bench.server.buy(bench.login, "EURUSD", "1.00")
    bench.clock.ms = at("2024-01-08 22:00:00")
    bench.server.set_quote("EURUSD", "1.10000", "1.10010")
    assert bench.position.swap == D("-2.00")
    bench.clock.ms = at("2024-01-09 00:00:01")
    bench.server.set_quote("EURUSD", "1.10000", "1.10010")
    assert bench.position.swap == D("-2.00")


def test_three_nights_are_booked_on_wednesday_and_none_at_the_weekend(bench):
    swapping(bench)
    bench.server.buy(bench.login, "EURUSD", "1.00")
    booked = []
    for day in range(7):
        before = bench.position.swap
        bench.clock.ms = at("2024-01-08 22:00:00") + day * 86_400_000
        bench.server.set_quote("EURUSD", "1.10000", "1.10010")
        booked.append((before - bench.position.swap) / 2)
    assert booked == [1, 1, 3, 1, 1, 0, 0]


def test_a_week_without_a_look_at_the_clock_books_every_night_of_it(bench):
    swapping(bench)
    bench.server.sell(bench.login, "EURUSD", "2.00")
    bench.clock.advance(hours=7 * 24)
    bench.server.set_quote("EURUSD", "1.10000", "1.10010")
    assert bench.position.swap == D("7.00")


def test_swap_in_points_is_money_of_that_move(bench):
    bench.server.change_symbol("EURUSD", swap_mode=SwapMode.POINTS, swap_long=D("-7.2"))
    bench.server.buy(bench.login, "EURUSD", "0.50")
    bench.clock.advance(hours=12)
    bench.server.set_quote("EURUSD", "1.10000", "1.10010")
    assert bench.position.swap == D("-3.60")


def test_swap_counts_in_equity_but_not_in_profit_and_is_booked_with_the_close(bench):
    swapping(bench)
    fill = bench.server.buy(bench.login, "EURUSD", "1.00")
    bench.clock.advance(hours=12)
    bench.server.set_quote("EURUSD", "1.10000", "1.10010")
    assert (bench.position.profit, bench.server.equity(bench.login)) == (D("-10.00"), D("9988.00"))
    bench.server.close(bench.login, fill.position)
    assert (bench.account.deals[-1].swap, bench.account.balance) == (D("-2.00"), D("9988.00"))


def test_costs_set_by_hand_are_what_the_close_books_and_nothing_else(bench):
    swapping(bench, commission_per_lot=D("3.5"))
    fill = bench.server.buy(bench.login, "EURUSD", "0.30")
    bench.server.set_costs(bench.login, fill.position, swap=D("-1.00"), commission=D("-0.50"))
    bench.clock.advance(hours=48)
    for lots in ("0.10", "0.10", None):
        bench.server.close(bench.login, fill.position, lots)
    out = bench.account.deals[2:]
    assert [deal.swap for deal in out] == [D("-0.33"), D("-0.34"), D("-0.33")]
    assert [deal.commission for deal in out] == [D("-0.17"), D("-0.17"), D("-0.16")]


def test_costs_set_on_one_mt4_ticket_follow_the_chain(bench):
    bench.serve(MarginMode.MT4)
    fill = bench.server.buy(bench.login, "EURUSD", "0.30")
    bench.server.set_costs(bench.login, fill.position, swap=D("-1.00"), commission=D("-0.50"))
    rest = bench.server.close(bench.login, fill.position, "0.10").rest
    bench.server.close(bench.login, rest)
    assert sum(deal.swap for deal in bench.account.deals) == D("-1.00")
    assert sum(deal.commission for deal in bench.account.deals) == D("-0.50")


# deposits


def test_deposits_and_withdrawals_are_deals_without_a_position(bench):
    bench.server.move_money(bench.login, "500", comment="more")
    bench.server.move_money(bench.login, "-200")
    assert bench.account.balance == 10_300
    assert [(deal.type, deal.profit, deal.position_id) for deal in bench.account.deals] == [
        (DealType.BALANCE, 10_000, 0),
        (DealType.BALANCE, 500, 0),
        (DealType.BALANCE, -200, 0),
    ]


# specifications


def test_the_ready_made_broker_offers_pairs_metal_index_and_coin():
    symbols = default_symbols()
    assert {"EURUSD", "GBPUSD", "USDJPY", "XAUUSD", "US30", "BTCUSD"} <= set(symbols)
    assert symbols["XAUUSD"].spec.contract_size == 100
    assert symbols["US30"].spec.tick_size > symbols["US30"].spec.point


def test_a_variant_is_the_same_instrument_under_another_brokers_rules():
    gold = default_symbols()["XAUUSD"]
    other = variant(gold, suffix=".r", contract_size=D(10), volume_step=D("0.1"), volume_min=D("0.1"), digits=3).spec
    assert (other.symbol, other.digits, other.point, other.tick_size) == ("XAUUSD.r", 3, D("0.001"), D("0.001"))
    assert (other.contract_size, other.volume_step, other.tick_value) == (10, D("0.1"), D("0.01"))
    assert (other.currency_base, other.currency_profit, other.calc_mode) == ("XAU", "USD", gold.spec.calc_mode)


def test_a_variant_with_fewer_digits_has_a_coarser_point():
    spec = variant(default_symbols()["EURUSD"], prefix="m", digits=4, commission_per_lot=D(5)).spec
    assert (spec.symbol, spec.point, spec.tick_size, spec.tick_value) == ("mEURUSD", D("0.0001"), D("0.0001"), D(10))


def test_a_variant_of_a_coarse_index_keeps_its_tick():
    spec = variant(default_symbols()["US30"], suffix=".cash", digits=1).spec
    assert (spec.point, spec.tick_size) == (D("0.1"), D("0.5"))


def test_a_specification_tells_values_in_each_accounts_money(bench):
    bench.server.add_account(PaperAccount(8, currency="EUR", leverage=30))
    dollars, euros = bench.server.spec(bench.login, "XAUUSD"), bench.server.spec(8, "XAUUSD")
    assert dollars.tick_value == 1
    assert dollars.margin_per_lot == D("2650.80")
    assert abs(euros.tick_value - 1 / D("1.10010")) < D("1e-9")
    assert abs(euros.tick_value_loss - 1 / D("1.10000")) < D("1e-9")
    assert abs(euros.margin_per_lot - D("265080") / 30 / D("1.10000")) < D("1e-6")
