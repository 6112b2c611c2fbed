"""No open, alone or in a burst, takes an account over a limit; what is shrunk or refused says why."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copier.facts import Exposure, Held, LossRoom, OrderFacts, Scope
from copier.model import Account, Quote, Refused, Side, SymbolSpec
from copier.policy import Limit, Metric, OpenRisk, RiskPolicy, TradeRisk
from copier.risk import RULES, Allowed, check_risk
from copier.steps import is_on

D = Decimal
NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
FOLLOWER = Scope()


def spec(symbol: str = "EURUSD", base: str = "EUR", profit: str = "USD", **changes: Any) -> SymbolSpec:
    values: dict[str, Any] = {
        "symbol": symbol,
        "digits": 5,
        "point": D("0.00001"),
        "tick_size": D("0.00001"),
        "tick_value": D(1),
        "tick_value_loss": D(1),
        "contract_size": D(100_000),
        "volume_min": D("0.01"),
        "volume_step": D("0.01"),
        "volume_max": D(50),
        "margin_per_lot": D(1_000),
        "currency_base": base,
        "currency_profit": profit,
    }
    return SymbolSpec(**(values | changes))


def account(**changes: Any) -> Account:
    values: dict[str, Any] = {
        "account": "2@broker",
        "login": "2",
        "balance": D(10_000),
        "equity": D(10_000),
        "margin": D(0),
        "free_margin": D(10_000),
        "margin_level": D(0),
        "profit": D(0),
        "currency": "USD",
        "leverage": 100,
        "name": "",
        "server": "broker",
        "company": "",
    }
    return Account(**(values | changes))


def order(lots: str = "1", symbol: SymbolSpec | None = None, **changes: Any) -> OrderFacts:
    """A buy of EURUSD at 1.10000; a stop at 1.09900 loses 100 a lot."""
    used = symbol or spec()
    quote = Quote(account="2@broker", symbol=used.symbol, bid=D("1.09990"), ask=D("1.10000"), timestamp=NOON, spec=used)
    values: dict[str, Any] = {
        "side": Side.BUY,
        "lots": D(lots),
        "quote": quote,
        "quote_age_ms": 0,
        "master_price": D("1.1"),
        "account": account(),
        "stop": D("1.09900"),
    }
    values |= changes
    return OrderFacts(**(values | {"exposures": Held(values.get("exposures", ()))}))


def held(lots: str = "1", side: Side = Side.BUY, symbol: SymbolSpec | None = None, **changes: Any) -> Exposure:
    values: dict[str, Any] = {
        "symbol": symbol.symbol if symbol else "EURUSD",
        "side": side,
        "lots": D(lots),
        "price": D("1.10000"),
        "current": D("1.10000"),
        "stop": D("1.09900"),
        "spec": symbol or spec(),
        "relation": "a",
    }
    return Exposure(**(values | changes))


def check(facts: OrderFacts, scope: Scope = FOLLOWER, **policy: Any) -> Allowed | Refused:
    return check_risk(RiskPolicy.model_validate(policy), scope, facts)


def code(answer: Allowed | Refused) -> str:
    if isinstance(answer, Allowed):
        return ""
    assert answer.message
    assert answer.rule.startswith("risk.")
    assert answer.numbers["symbol"]
    return answer.code


def shrunk(facts: OrderFacts, scope: Scope = FOLLOWER, **policy: Any) -> Decimal:
    answer = check(facts, scope, above="shrink", **policy)
    assert isinstance(answer, Allowed), answer
    assert bool(answer.notes) == (answer.lots < facts.lots)
    return answer.lots


def losses(left: str, metric: Metric = Metric.EQUITY, *, fired: bool = False) -> Scope:
    return Scope(losses=(LossRoom(name="daily", metric=metric, left=D(left), fired=fired),))


DAILY = [{"name": "daily", "money": 500}]


def test_without_limits_everything_is_allowed() -> None:
    assert check(order("50", stop=D(0))) == Allowed(lots=D(50))


# One trade


def test_lots_of_one_trade_are_refused_or_shrunk() -> None:
    assert code(check(order("2"), trade={"lots_max": 1})) == "trade_lots_above_max"
    assert shrunk(order("2"), trade={"lots_max": "0.555"}) == D("0.55")


def test_a_trade_is_not_shrunk_below_the_brokers_minimum() -> None:
    answer = check(order("2"), above="shrink", trade={"lots_max": "0.009"})
    assert code(answer) == "trade_lots_above_max"


def test_the_risk_of_one_trade_counts_its_commission() -> None:
    assert code(check(order("1"), trade={"money_max": 100})) == ""
    assert code(check(order("1", commission_per_lot=D(1)), trade={"money_max": 100})) == "trade_risk_above_max"
    assert shrunk(order("1", commission_per_lot=D(25)), trade={"money_max": 100}) == D("0.8")


def test_a_percentage_is_of_the_equity_without_the_brokers_credit() -> None:
    assert code(check(order("1"), trade={"percent_max": 1})) == ""
    lent = account(equity=D(10_000), credit=D(5_000))
    assert code(check(order("1", account=lent), trade={"percent_max": 1})) == "trade_risk_above_max"


def test_the_smaller_of_money_and_percent_counts() -> None:
    answer = check(order("1"), trade={"percent_max": "0.5", "money_max": 100})
    assert isinstance(answer, Refused)
    assert answer.rule == "risk.trade.percent_max"


def test_a_limited_trade_without_a_stop_is_refused_unless_one_is_assumed() -> None:
    assert code(check(order("1", stop=D(0)), trade={"money_max": 100})) == "no_stop"
    assumed = {"assumed_stop_points": 200}
    assert shrunk(order("1", stop=D(0)), trade={"money_max": 100}, worst_case=assumed) == D("0.5")
    percent = {"assumed_stop_percent": 1}
    assert shrunk(order("1", stop=D(0)), trade={"money_max": 110}, worst_case=percent) == D("0.1")


def test_a_stop_already_passed_is_refused() -> None:
    assert code(check(order("1", stop=D("1.2")), trade={"money_max": 100})) == "stop_passed"


@pytest.mark.parametrize(
    ("stop", "expected"),
    [("1.09901", "stop_too_near"), ("1.09900", ""), ("1.09500", ""), ("1.09499", "stop_too_far"), ("0", "no_stop")],
)
def test_the_stop_keeps_its_distance(stop: str, expected: str) -> None:
    assert code(check(order("1", stop=D(stop)), trade={"stop_points_min": 100, "stop_points_max": 500})) == expected


def test_leverage_counts_all_that_is_open_in_the_accounts_currency() -> None:
    # One lot at 1.1 is worth 110,000; ten times the equity is 100,000.
    assert code(check(order("1"), trade={"leverage_max": 10})) == "leverage_above_max"
    assert shrunk(order("1"), trade={"leverage_max": 10}) == D("0.90")
    assert shrunk(order("1", exposures=(held("0.5", relation=""),)), trade={"leverage_max": 10}) == D("0.40")


# All that is open


def test_positions_on_their_way_count() -> None:
    exposures = (held(), held(sending=True))
    assert code(check(order(exposures=exposures), open={"positions_max": 3})) == ""
    assert code(check(order(exposures=exposures), open={"positions_max": 2})) == "positions_above_max"
    assert code(check(order(exposures=exposures, orders=2), open={"positions_max": 3})) == "positions_above_max"


def test_a_relation_counts_its_own_and_a_follower_counts_everything() -> None:
    exposures = (held("1", relation="a"), held("2", relation="b"), held("3", relation=""))
    limits = {"lots_max": 2}
    assert code(check(order("1", exposures=exposures), Scope(relation="a"), open=limits)) == ""
    assert code(check(order("1", exposures=exposures), Scope(relation="b"), open=limits)) == "open_lots_above_max"
    assert shrunk(order("1", exposures=exposures), FOLLOWER, open={"lots_max": "6.5"}) == D("0.5")


def test_lots_per_symbol_may_differ_by_pattern() -> None:
    limits = {"symbol_lots_max": 1, "symbol_lots": {"EUR*": 2}}
    assert shrunk(order("5"), open=limits) == 2
    assert shrunk(order("5", spec("GBPUSD", "GBP")), open=limits) == 1
    assert shrunk(order("5", exposures=(held("1.5", Side.SELL),)), open=limits) == D("0.5")


def test_the_brokers_volume_limit_counts_one_direction_only() -> None:
    limited = spec(volume_limit=D(3))
    exposures = (held("2", Side.BUY), held("9", Side.SELL))
    assert code(check(order("1", limited, exposures=exposures))) == ""
    assert code(check(order("1.01", limited, exposures=exposures))) == "volume_limit"


def test_a_currency_is_netted_over_symbols() -> None:
    # A buy of EURUSD is long EUR and short USD; so is a sell of USDCHF short USD: two trades against the dollar.
    usdchf = spec("USDCHF", "USD", "CHF")
    limits = {"currency_money_max": 150_000}
    assert code(check(order("1"), open=limits)) == ""
    same_way = (held("1", Side.SELL, usdchf, stop=D("1.2")),)
    refused = check(order("1", exposures=same_way), open=limits)
    assert code(refused) == "currency_above_max"
    assert isinstance(refused, Refused)
    assert refused.numbers["currency"] == "USD"
    other_way = (held("1", Side.BUY, usdchf),)
    assert code(check(order("1", exposures=other_way), open=limits)) == ""


def test_a_trade_that_lessens_an_exposure_is_allowed_above_the_limit() -> None:
    long = (held("9"),)
    short = order("1", side=Side.SELL, stop=D("1.2"), exposures=long)
    assert code(check(short, open={"currency_money_max": 1_000})) == ""


def test_an_instrument_inside_one_currency_is_no_currency_exposure() -> None:
    assert code(check(order("9", spec("US500", "USD", "USD")), open={"currency_money_max": 1})) == ""


def test_the_margin_level_counts_orders_on_their_way() -> None:
    assert code(check(order("5"), open={"margin_level_min": 200})) == ""
    exposures = (held("1", sending=True),)
    assert shrunk(order("5", exposures=exposures), open={"margin_level_min": 200}) == 4
    unknown = spec(margin_per_lot=None)
    assert code(check(order("5", unknown), open={"margin_level_min": 200})) == "margin_unknown"


@pytest.mark.parametrize(
    "policy",
    [{"trade": {"leverage_max": 10}}, {"open": {"currency_money_max": 10}}, {"worst_case": {"money_max": 10}}],
)
def test_a_position_that_cannot_be_valued_is_never_taken_for_nothing(policy: dict[str, Any]) -> None:
    unknown = Exposure(symbol="X", side=Side.BUY, lots=D(1), price=D(1), current=D(1), stop=D("0.9"), spec=None)
    assert code(check(order("0.01", exposures=(unknown,)), **policy)) == "exposure_unknown"


# Losses


def test_a_fired_reached_or_unobserved_limit_allows_no_open() -> None:
    assert code(check(order("0.01"), losses("500", fired=True), losses=DAILY)) == "loss_limit_fired"
    assert code(check(order("0.01"), losses("0"), losses=DAILY)) == "loss_limit_reached"
    assert code(check(order("0.01"), FOLLOWER, losses=DAILY)) == "loss_limit_unobserved"


def test_the_worst_case_must_stay_inside_what_a_limit_leaves() -> None:
    assert code(check(order("1"), losses("101"), losses=DAILY)) == ""
    assert code(check(order("1"), losses("100"), losses=DAILY)) == "worst_case_above_limit"
    assert shrunk(order("1"), losses("100"), losses=DAILY) == D("0.99")
    exposures = (held("1"), held("0.5", relation="", sending=True))
    assert shrunk(order("5", exposures=exposures), losses("250"), losses=DAILY) == D("0.99")


def test_the_worst_case_counts_commission_and_swap() -> None:
    exposures = (held("1", commission=D(7), swap=D(-3)),)
    by_equity = check(order("1", exposures=exposures), losses("207.5"), losses=DAILY)
    assert code(by_equity) == ""
    # Swap is in the equity already, and not yet in the balance.
    by_balance = check(order("1", exposures=exposures), losses("210", Metric.BALANCE), losses=DAILY)
    assert code(by_balance) == "worst_case_above_limit"


def test_a_foreign_position_without_a_stop_makes_the_worst_case_unbounded() -> None:
    exposures = (held("1", stop=D(0), relation=""),)
    assert code(check(order("0.1", exposures=exposures), losses("500"), losses=DAILY)) == "position_without_stop"
    assumed = {"assumed_stop_points": 300}
    assert shrunk(order("5", exposures=exposures), losses("500"), losses=DAILY, worst_case=assumed) == D("1.99")


def test_a_locked_in_gain_does_not_pay_for_another_trade() -> None:
    winner = held("1", current=D("1.12000"), stop=D("1.11900"))
    assert shrunk(order("5", exposures=(winner,)), losses("200", Metric.BALANCE), losses=DAILY) == D("1.99")
    # What the equity shows above the stop can still be lost.
    assert shrunk(order("5", exposures=(winner,)), losses("200"), losses=DAILY) == D("0.99")


def test_a_price_beyond_the_stop_is_already_lost_in_the_equity() -> None:
    gapped = held("1", current=D("1.09000"))
    assert shrunk(order("5", exposures=(gapped,)), losses("200"), losses=DAILY) == D("1.99")


def test_an_explicit_bound_on_the_worst_case_may_be_reached() -> None:
    assert shrunk(order("5"), worst_case={"money_max": 200}) == 2
    assert shrunk(order("5"), worst_case={"percent_max": 1}) == 1


def test_the_worst_case_can_be_switched_off() -> None:
    off = {"enabled": False}
    assert code(check(order("5", stop=D(0)), losses("1"), losses=DAILY, worst_case=off)) == ""


def test_a_refusal_names_the_setting_where_it_stands() -> None:
    answer = check_risk(RiskPolicy.model_validate({"trade": {"lots_max": 1}}), Scope(relation="a", path="risk"), order("2"))
    assert isinstance(answer, Refused)
    assert answer.rule == "risk.trade.lots_max"


# Which rules are asked


SETTINGS = [
    *((part, name) for part, model in (("trade", TradeRisk), ("open", OpenRisk)) for name in model.model_fields),
    ("worst_case", "money_max"),
    ("worst_case", "percent_max"),
]


def test_every_limit_has_a_rule_that_asks_about_it() -> None:
    assert list(RULES) == list(Limit)


@pytest.mark.parametrize(("part", "name"), SETTINGS)
def test_a_limit_that_is_set_is_asked_about(part: str, name: str) -> None:
    none = RiskPolicy()
    policy = RiskPolicy.model_validate({part: {name: {"*": 1} if name == "symbol_lots" else 1}})
    assert none.limits == (Limit.BROKERS_VOLUME,)
    assert len(policy.limits) == 2
    assert none.model_copy(update={part: getattr(policy, part)}).limits == policy.limits


# Laws

LOTS = st.decimals("0.01", "20", places=2)
LIMITS = st.fixed_dictionaries(
    {
        "above": st.sampled_from(["shrink", "refuse"]),
        "trade": st.fixed_dictionaries(
            {}, optional={"lots_max": st.decimals("0.1", "5", places=3), "money_max": st.integers(10, 900)}
        ),
        "open": st.fixed_dictionaries(
            {},
            optional={
                "lots_max": st.decimals("0.1", "9", places=3),
                "positions_max": st.integers(1, 6),
                "symbol_lots_max": st.decimals("0.1", "9", places=2),
                "currency_money_max": st.integers(50_000, 900_000),
            },
        ),
        "worst_case": st.fixed_dictionaries({}, optional={"money_max": st.integers(10, 3_000)}),
    }
)


@given(LIMITS, st.lists(st.tuples(LOTS, st.sampled_from(Side)), min_size=1, max_size=15))
def test_a_burst_never_takes_the_account_over_a_limit(limits: dict[str, Any], burst: list[tuple[Decimal, Side]]) -> None:
    policy = RiskPolicy.model_validate(limits)
    passed: tuple[Exposure, ...] = ()
    for lots, side in burst:
        stop = D("1.099") if side is Side.BUY else D("1.1009")
        facts = order(str(lots), side=side, stop=stop, exposures=passed)
        answer = check_risk(policy, FOLLOWER, facts)
        if isinstance(answer, Refused):
            continue
        assert D("0.01") <= answer.lots <= lots
        assert is_on(answer.lots, D("0.01"))
        assert policy.trade.lots_max is None or answer.lots <= policy.trade.lots_max
        assert policy.trade.money_max is None or answer.lots * 100 <= policy.trade.money_max
        passed = (*passed, held(str(answer.lots), side, price=facts.price, current=facts.price, stop=stop, sending=True))
    total = sum((each.lots for each in passed), D(0))
    assert policy.open.lots_max is None or total <= policy.open.lots_max
    assert policy.open.symbol_lots_max is None or total <= policy.open.symbol_lots_max
    assert policy.open.positions_max is None or len(passed) <= policy.open.positions_max
    assert policy.worst_case.money_max is None or total * 100 <= policy.worst_case.money_max
    net = sum((each.lots * each.side.sign * each.current * 100_000 for each in passed), D(0))
    assert policy.open.currency_money_max is None or abs(net) <= policy.open.currency_money_max


@given(LIMITS, LOTS, st.sampled_from([D(0), D("1.09")]))
def test_a_rule_that_is_not_asked_has_nothing_to_say(limits: dict[str, Any], lots: Decimal, stop: Decimal) -> None:
    policy = RiskPolicy.model_validate(limits)
    facts = order(str(lots), stop=stop, exposures=(held("3", stop=stop),))
    for limit in set(Limit) - set(policy.limits):
        assert RULES[limit](policy, FOLLOWER, facts) is None


@given(LIMITS, LOTS)
def test_what_is_allowed_once_is_allowed_again_unchanged(limits: dict[str, Any], lots: Decimal) -> None:
    first = check(order(str(lots)), **limits)
    if isinstance(first, Allowed):
        assert check(order(str(first.lots)), **limits) == Allowed(lots=first.lots)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"trade": {"money_max": 100}}, "symbol_spec_unusable"),
        ({"trade": {"leverage_max": 10}}, "symbol_spec_unusable"),
        ({"worst_case": {"money_max": 100}}, "symbol_spec_unusable"),
    ],
)
def test_a_symbol_whose_ticks_are_worth_nothing_known_is_refused(policy: dict[str, Any], expected: str) -> None:
    assert code(check(order("1", spec(tick_value=D(0), tick_value_loss=D(0))), **policy)) == expected


def test_a_worst_case_without_a_stop_on_the_trade_itself_is_refused() -> None:
    assert code(check(order("1", stop=D(0)), losses("500"), losses=DAILY)) == "no_stop"


def test_a_trade_that_needs_no_margin_cannot_be_shrunk_into_a_margin_level() -> None:
    free = spec(margin_per_lot=D(0))
    used = account(margin=D(9_000), free_margin=D(1_000))
    assert code(check(order("1", free, account=used), above="shrink", open={"margin_level_min": 200})) == "margin_level_below_min"


def test_an_order_on_its_way_with_unknown_margin_makes_the_level_unknown() -> None:
    exposures = (held("1", symbol=spec(margin_per_lot=None), sending=True),)
    assert code(check(order("1", exposures=exposures), open={"margin_level_min": 200})) == "margin_unknown"


DEAR = {"tick_value": D(2), "tick_value_loss": D(4), "tick_size": D("0.00002")}
"""Twice as much for a price that falls, and two points a tick: a stop 100 points away loses 200 a lot."""


def test_money_is_reckoned_with_the_loss_side_of_a_tick_and_its_size() -> None:
    assert shrunk(order("5", spec(**DEAR)), trade={"money_max": 200}) == 1
    assert shrunk(order("5", spec(**DEAR)), losses("400"), losses=DAILY) == D("1.99")
    # One lot is worth 110,000 by the tick's value in favour.
    assert shrunk(order("5", spec(**DEAR)), trade={"leverage_max": 11}) == 1
    exposures = (held("1", symbol=spec(**DEAR)),)
    assert shrunk(order("5", exposures=exposures), losses("400"), losses=DAILY) == D("1.99")


def test_a_sell_loses_upwards() -> None:
    short = order("5", side=Side.SELL, stop=D("1.10090"))
    assert shrunk(short, trade={"money_max": 100}) == 1
    assert code(check(short, trade={"stop_points_min": 100, "stop_points_max": 100})) == ""
    assert code(check(order("5", stop=D("1.10000")), trade={"money_max": 100})) == "stop_passed"


def test_what_is_held_leaves_less_for_the_broker_and_the_equity() -> None:
    exposures = (held("1", commission=D(7)),)
    assert shrunk(order("5", spec(volume_limit=D(3)), exposures=exposures)) == 2
    assert shrunk(order("5", exposures=exposures), losses("207"), losses=DAILY) == D("0.99")


def test_bounds_may_be_reached() -> None:
    assert code(check(order("1"), trade={"leverage_max": 11})) == ""
    assert shrunk(order("1"), trade={"lots_max": "0.01"}) == D("0.01")
    assert code(check(order("1"), trade={"stop_points_min": 50})) == ""
    assert code(check(order("1"), trade={"stop_points_max": 50})) == "stop_too_far"


def test_a_currency_leaves_room_for_what_is_held_in_it() -> None:
    # Long 110,000 dollars of USDCHF against francs; selling EURUSD adds dollars, so 90,000 of 200,000 are left.
    long_usd = (held("1", Side.BUY, spec("USDCHF", "USD", "CHF")),)
    sell = order("5", side=Side.SELL, stop=D("1.2"), exposures=long_usd)
    assert shrunk(sell, open={"currency_money_max": 200_000}) == D("0.81")
    # Buying it takes dollars away first: 310,000 fit, but only 200,000 of the euro.
    buy = order("5", exposures=long_usd)
    assert shrunk(buy, open={"currency_money_max": 200_000}) == D("1.81")


def test_lots_of_another_symbol_do_not_count_for_this_one() -> None:
    exposures = (held("9", symbol=spec("GBPUSD", "GBP")), held("1"))
    assert shrunk(order("5", exposures=exposures), open={"symbol_lots_max": 2}) == 1


def test_an_assumed_percentage_is_of_the_price() -> None:
    assert shrunk(order("5", stop=D(0)), trade={"money_max": 2_200}, worst_case={"assumed_stop_percent": 2}) == 1


@pytest.mark.parametrize(
    ("facts", "policy", "message"),
    [
        (order("2"), {"trade": {"money_max": 100}}, "200 USD would be lost at the stop, 100 USD is the most of one trade"),
        (order("2"), {"trade": {"leverage_max": 10}}, "220000 USD would be open in all, 10 times the equity is 100000 USD"),
        (order("8"), {"open": {"margin_level_min": 200}}, "the margin level would be 125%, 200% is the least"),
        (
            order("2", exposures=(held("1"),)),
            {"worst_case": {"money_max": 250}},
            "if every stop is hit, 300 USD are lost, this trade included; 250 USD is left",
        ),
    ],
)
def test_a_refusal_tells_a_trader_the_numbers(facts: OrderFacts, policy: dict[str, Any], message: str) -> None:
    answer = check(facts, **policy)
    assert isinstance(answer, Refused)
    assert answer.message == message
