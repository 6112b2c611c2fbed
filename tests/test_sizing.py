"""Sizes are exact, on the step, within the limits, and never silently more than asked."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from copier.model import Account, MasterFacts, Quote, Refused, Side, SymbolSpec
from copier.policy import SignalsSize, SizePolicy
from copier.sizing import Sized, SizeFacts, lots_to_close, reduce_target, shrink, signals_percent, size, split
from copier.steps import ceil_to, floor_to, is_on, nearest_to, plain

D = Decimal
SIZE: TypeAdapter[Any] = TypeAdapter(SizePolicy)
NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)


def spec(**changes: Any) -> SymbolSpec:
    values: dict[str, Any] = {
        "symbol": "EURUSD",
        "digits": 5,
        "point": D("0.00001"),
        "tick_size": D("0.00001"),
        "tick_value": D(1),
        "tick_value_loss": D(1),
        "contract_size": D(100_000),
        "volume_min": D("0.01"),
        "volume_step": D("0.01"),
        "volume_max": D(50),
        "currency_base": "EUR",
        "currency_profit": "USD",
    }
    return SymbolSpec(**(values | changes))


def account(**changes: Any) -> Account:
    values: dict[str, Any] = {
        "account": "2@broker",
        "login": "2",
        "balance": D(10_000),
        "equity": D(9_000),
        "margin": D(1_000),
        "free_margin": D(8_000),
        "margin_level": D(900),
        "profit": D(-1_000),
        "currency": "USD",
        "leverage": 100,
        "name": "",
        "server": "broker",
        "company": "",
    }
    return Account(**(values | changes))


def master(**changes: Any) -> MasterFacts:
    values: dict[str, Any] = {
        "currency": "USD",
        "balance": D(20_000),
        "equity": D(30_000),
        "free_margin": D(40_000),
        "leverage": 100,
    }
    return MasterFacts(**(values | changes))


def facts(**changes: Any) -> SizeFacts:
    symbol = changes.pop("spec", spec())
    values: dict[str, Any] = {
        "master_lots": D(1),
        "master": master(),
        "master_spec": spec(),
        "master_price": D("1.1"),
        "side": Side.BUY,
        "account": account(),
        "account_age_ms": 100,
        "quote": Quote(account="2@broker", symbol="EURUSD", bid=D("1.09990"), ask=D("1.10000"), timestamp=NOON, spec=symbol),
    }
    return SizeFacts(**(values | changes))


def policy(mode: str, **settings: Any) -> Any:
    return SIZE.validate_python({"mode": mode, **settings})


def sized(answer: Sized | Refused) -> Sized:
    assert isinstance(answer, Sized), answer
    return answer


def lots(mode: str, given: SizeFacts | None = None, **settings: Any) -> Decimal:
    return sized(size(policy(mode, **settings), given or facts())).total


def refused(mode: str, given: SizeFacts | None = None, **settings: Any) -> Refused:
    answer = size(policy(mode, **settings), given or facts())
    assert isinstance(answer, Refused), answer
    assert answer.rule.startswith(("size", "symbols"))
    assert answer.message
    return answer


# Modes


def test_fixed_lots_do_not_depend_on_the_master() -> None:
    assert lots("fixed", facts(master_lots=D(7), master=None, master_spec=None), lots="0.3") == D("0.3")


def test_fixed_lots_may_differ_by_symbol() -> None:
    assert lots("fixed", lots=1, per_symbol={"EURUSD": "0.05"}) == D("0.05")


def test_a_multiplier_is_exact() -> None:
    assert lots("multiplier", facts(master_lots=D("0.29")), multiplier=1) == D("0.29")
    assert lots("multiplier", facts(master_lots=D("0.1")), multiplier=3) == D("0.3")


def test_trap_14_029_lots_on_a_step_of_001_are_29_steps() -> None:
    assert floor_to(D("0.29"), D("0.01")) / D("0.01") == 29
    assert lots("multiplier", facts(master_lots=D("0.29"))) == D("0.29")


def test_lots_of_another_contract_size_are_aligned_unless_switched_off() -> None:
    ten_ounces = facts(master_spec=spec(contract_size=D(100)), spec=spec(contract_size=D(10)))
    assert lots("multiplier", ten_ounces) == 10
    assert lots("multiplier", ten_ounces, align_contracts=False) == 1


def test_without_the_masters_contract_size_nothing_is_aligned_silently() -> None:
    assert refused("multiplier", facts(master_spec=None)).code == "master_spec_missing"
    assert lots("multiplier", facts(master_spec=None), align_contracts=False) == 1


def test_notional_keeps_the_value_of_the_contract() -> None:
    assert lots("notional", facts(master_spec=spec(contract_size=D(1)), spec=spec(contract_size=D(10)))) == D("0.1")


def test_notional_can_take_the_price_ratio_into_account() -> None:
    quoted_in_tenths = facts(master_price=D("11.0"))
    assert lots("notional", quoted_in_tenths, price_ratio="apply") == 10
    assert lots("notional", quoted_in_tenths) == 1


def test_a_price_ratio_of_different_currencies_is_refused() -> None:
    answer = refused("notional", facts(master_spec=spec(currency_profit="EUR")), price_ratio="apply")
    assert answer.code == "currency_mismatch"


@pytest.mark.parametrize(("mode", "expected"), [("balance", "0.5"), ("equity", "0.3"), ("free_margin", "0.2")])
def test_relative_modes_take_the_ratio_of_the_accounts(mode: str, expected: str) -> None:
    assert lots(mode) == D(expected)
    assert lots(mode, multiplier=2) == 2 * D(expected)


def test_a_third_of_a_third_is_not_lost_to_rounding() -> None:
    thirds = facts(master_lots=D("0.3"), account=account(balance=D(100)), master=master(balance=D(300)))
    assert lots("balance", thirds) == D("0.1")


def test_virtual_capital_replaces_a_balance() -> None:
    assert lots("virtual_capital", master_capital=5_000) == 2
    assert lots("virtual_capital", follower_capital=5_000) == D("0.25")
    assert lots("virtual_capital", follower_capital=5_000, master_capital=5_000) == 1


def test_currencies_are_converted_with_the_rate_given() -> None:
    euros = facts(account=account(currency="EUR"), rate=D("1.2"))
    assert lots("balance", euros) == D("0.6")


@pytest.mark.parametrize("mode", ["balance", "equity", "free_margin", "signals"])
@pytest.mark.parametrize("rate", [None, D(0)])
def test_without_a_rate_a_relative_size_is_refused_never_taken_as_one(mode: str, rate: Decimal | None) -> None:
    assert refused(mode, facts(account=account(currency="EUR"), rate=rate)).code == "rate_missing"


def test_two_unknown_currencies_are_not_the_same_currency() -> None:
    unknown = facts(account=account(currency=""), master=master(currency=""))
    assert refused("balance", unknown).code == "rate_missing"


@pytest.mark.parametrize("mode", ["balance", "equity", "free_margin", "signals"])
@pytest.mark.parametrize("age_ms", [None, 30_001])
def test_a_stale_account_is_not_sized_by(mode: str, age_ms: int | None) -> None:
    assert refused(mode, facts(account_age_ms=age_ms)).code == "account_stale"


@pytest.mark.parametrize("mode", ["balance", "equity", "free_margin", "signals"])
def test_without_the_masters_account_a_relative_size_is_refused(mode: str) -> None:
    assert refused(mode, facts(master=None)).code == "master_facts_missing"


def test_an_account_without_money_is_not_compared() -> None:
    assert refused("balance", facts(account=account(balance=D(0)))).code == "no_capital"
    assert refused("equity", facts(master=master(equity=D(-5)))).code == "no_capital"


def test_risk_is_reckoned_from_the_expected_fill() -> None:
    # A buy fills at the ask 1.10000: 100 points to the stop, 100 money a lot.
    assert lots("risk_percent", facts(stop=D("1.09900")), percent=1) == 1
    # A sell fills at the bid 1.09990: 200 points.
    assert lots("risk_percent", facts(side=Side.SELL, stop=D("1.10190")), percent=1) == D("0.5")
    assert lots("risk_percent", facts(stop=D("1.09900")), percent=1, of="equity") == D("0.9")


def test_risk_counts_the_loss_side_of_a_tick_and_the_commission() -> None:
    dear = facts(stop=D("1.09900"), spec=spec(tick_value=D(1), tick_value_loss=D(2)))
    assert lots("risk_cash", dear, cash=100) == D("0.5")
    assert lots("risk_cash", facts(stop=D("1.09900"), commission_per_lot=D(25)), cash=100) == D("0.8")


def test_risk_counts_ticks_and_not_points() -> None:
    index = facts(stop=D("1.09900"), spec=spec(tick_size=D("0.00010"), tick_value_loss=D(10)))
    assert lots("risk_cash", index, cash=100) == 1


def test_sizing_by_risk_without_a_stop_is_refused_unless_a_fallback_is_stated() -> None:
    assert refused("risk_cash", cash=100).code == "no_stop"
    assert lots("risk_cash", cash=100, no_stop_points=50) == 2
    assert lots("risk_cash", cash=100, no_stop_lots="0.07") == D("0.07")


def test_a_stop_that_the_price_has_passed_is_refused() -> None:
    assert refused("risk_cash", facts(stop=D("1.10000")), cash=100).code == "stop_passed"
    assert refused("risk_cash", facts(stop=D("1.2")), cash=100).code == "stop_passed"


@pytest.mark.parametrize(
    ("balance", "leverage", "load", "expected"),
    [
        # The two worked examples that MQL5 publishes, the master being 15,000 USD at 1:100 and EURUSD at 1.27.
        (40_000, 200, 50, 160),
        (5_000, 50, 35, 7),
        (100, 100, 10, 1),
        (11_811, 100, 10, 9),
        (11_812, 100, 10, 10),
        (20_000, 100, 10, 15),
        (11_812, 100, 100, 100),
    ],
)
def test_the_mql5_signals_rule_gives_its_published_percentages(balance: int, leverage: int, load: int, expected: int) -> None:
    percent = signals_percent(
        SignalsSize(mode="signals", deposit_percent=D(load)),
        account(balance=D(balance), currency="EUR", leverage=leverage),
        master(balance=D(15_000), leverage=100),
        D("1.27"),
    )
    assert percent == expected


def test_the_signals_percentage_scales_the_masters_lots() -> None:
    assert lots("signals", facts(master_lots=D(2)), deposit_percent=50) == D("0.5")


# From the exact volume to orders


def test_a_cap_cuts_and_a_floor_raises_with_a_note() -> None:
    cut = sized(size(policy("multiplier", lots_max="0.5"), facts()))
    assert (cut.total, cut.asked) == (D("0.5"), D(1))
    assert "lots_max" in cut.notes[0]
    raised = sized(size(policy("multiplier", lots_min="1.2"), facts()))
    assert raised.total == D("1.2")
    assert "lots_min" in raised.notes[0]


def test_a_floor_raises_no_further_than_the_inflation_allows() -> None:
    assert refused("multiplier", lots_min="1.6").code == "inflation_above_max"
    assert lots("multiplier", lots_min="1.6", inflation_max=2) == D("1.6")


@pytest.mark.parametrize(("rounding", "expected"), [("down", "0.12"), ("nearest", "0.13"), ("carry", "0.12")])
def test_rounding_is_as_said(rounding: str, expected: str) -> None:
    assert lots("multiplier", facts(master_lots=D("0.128")), rounding=rounding) == D(expected)


def test_the_smaller_of_two_equally_near_volumes_is_taken() -> None:
    assert nearest_to(D("0.125"), D("0.01")) == D("0.12")
    assert lots("multiplier", facts(master_lots=D("0.125")), rounding="nearest") == D("0.12")


def test_trap_15_a_tenth_of_the_minimum_is_skipped_and_not_made_ten_times_the_risk() -> None:
    tiny = facts(master_lots=D("0.001"))
    assert refused("multiplier", tiny).code == "below_min"
    assert refused("multiplier", tiny, rounding="nearest").code == "below_min"
    assert refused("multiplier", tiny, below_min="minimum").code == "inflation_above_max"


def test_a_little_under_the_minimum_may_be_raised_to_it() -> None:
    assert lots("multiplier", facts(master_lots=D("0.008")), below_min="minimum") == D("0.01")


def test_a_minimum_off_the_step_is_the_next_step() -> None:
    assert lots("multiplier", facts(master_lots=D("0.05"), spec=spec(volume_min=D("0.03"), volume_step=D("0.02")))) == D("0.04")
    odd = facts(master_lots=D("0.035"), spec=spec(volume_min=D("0.03"), volume_step=D("0.02")))
    assert refused("multiplier", odd).code == "below_min"


def test_over_the_maximum_is_clamped_or_split() -> None:
    big = facts(master_lots=D(120))
    clamped = sized(size(policy("multiplier"), big))
    assert clamped.lots == (D(50),)
    assert "the most of one order" in clamped.notes[0]
    assert sized(size(policy("multiplier", above_max="split"), big)).lots == (D(40), D(40), D(40))


def test_no_order_is_above_what_six_operations_take() -> None:
    huge = facts(master_lots=D(150), spec=spec(volume_max=D(1000)))
    assert sized(size(policy("multiplier"), huge)).lots == (D(100),)


def test_a_split_stops_at_its_most_orders_and_says_so() -> None:
    answer = sized(size(policy("multiplier", above_max="split", split_orders_max=2), facts(master_lots=D(120))))
    assert answer.lots == (D(50), D(50))
    assert "cut from 120 to 100" in answer.notes[0]


def test_carry_pays_back_what_rounding_cut_off() -> None:
    first = sized(size(policy("multiplier", rounding="carry"), facts(master_lots=D("0.126"))))
    assert (first.total, first.residue) == (D("0.12"), D("0.006"))
    second = sized(size(policy("multiplier", rounding="carry"), facts(master_lots=D("0.126"), residue=first.residue)))
    assert (second.total, second.residue) == (D("0.13"), D("0.002"))


def test_carry_never_exceeds_the_cap() -> None:
    capped = facts(master_lots=D("0.55"), residue=D("0.09"), spec=spec(volume_step=D("0.1"), volume_min=D("0.1")))
    assert lots("multiplier", capped, rounding="carry", lots_max="0.55") == D("0.5")


def test_a_shrunk_trade_leaves_no_residue_and_says_why() -> None:
    carry = policy("multiplier", rounding="carry")
    whole = sized(size(carry, facts(master_lots=D("1.006"))))
    less = shrink(whole, D("0.4"), carry, spec(), "cut to risk.trade.lots_max 0.4")
    assert (less.lots, less.residue) == ((D("0.4"),), D(0))
    assert less.notes[-1].startswith("cut to risk")


@pytest.mark.parametrize("broken", [{"volume_step": D(0)}, {"volume_min": D(0)}, {"tick_size": D(0)}, {"contract_size": D(0)}])
def test_a_symbol_without_rules_is_refused(broken: dict[str, Decimal]) -> None:
    assert refused("fixed", facts(spec=spec(**broken)), lots=1).code == "symbol_spec_unusable"


# Laws

STEPS = st.sampled_from([D("0.001"), D("0.01"), D("0.03"), D("0.1"), D("0.25"), D(1)])
LOTS = st.decimals("0.0001", "300", places=4)
SETTINGS = st.fixed_dictionaries(
    {
        "rounding": st.sampled_from(["down", "nearest", "carry"]),
        "below_min": st.sampled_from(["skip", "minimum"]),
        "above_max": st.sampled_from(["clamp", "split"]),
        "inflation_max": st.sampled_from(["1", "1.5", "3"]),
        "lots_max": st.one_of(st.none(), st.decimals("0.5", "200", places=3)),
        "split_orders_max": st.integers(1, 12),
    }
)


@st.composite
def symbols(draw: st.DrawFn) -> SymbolSpec:
    step = draw(STEPS)
    least = draw(st.sampled_from([1, 2, 5])) * step
    return spec(volume_step=step, volume_min=least, volume_max=least + draw(st.integers(0, 3_000)) * step)


@given(symbols(), LOTS, SETTINGS, st.sampled_from(["0.1", "1", "3.7"]))
def test_every_order_is_on_the_step_within_the_brokers_limits_and_the_cap(
    symbol: SymbolSpec, asked: Decimal, settings: dict[str, Any], multiplier: str
) -> None:
    answer = size(policy("multiplier", multiplier=multiplier, **settings), facts(master_lots=asked, spec=symbol))
    if isinstance(answer, Refused):
        return
    assert len(answer.lots) <= settings["split_orders_max"]
    for order in answer.lots:
        assert is_on(order, symbol.volume_step)
        assert symbol.volume_min <= order <= min(symbol.volume_max, D(100))
    if settings["lots_max"] is not None:
        assert answer.total <= settings["lots_max"]
    grown = answer.asked * D(settings["inflation_max"])
    half = symbol.volume_step / 2 if settings["rounding"] == "nearest" else D(0)
    assert answer.total <= max(grown, answer.asked + half)


@given(symbols(), st.lists(st.decimals("0.01", "20", places=3), min_size=1, max_size=40))
def test_carried_lots_converge_to_the_lots_asked_for(symbol: SymbolSpec, trades: list[Decimal]) -> None:
    carry = policy("multiplier", rounding="carry", above_max="split", split_orders_max=100)
    asked = placed = residue = D(0)
    for trade in trades:
        answer = size(carry, facts(master_lots=trade, residue=residue, spec=symbol))
        if isinstance(answer, Refused):
            continue
        assume(answer.notes == () or "split" in answer.notes[0])
        asked, placed, residue = asked + trade, placed + answer.total, answer.residue
        assert abs(asked - placed) <= symbol.volume_step
        assert abs(residue) <= symbol.volume_step


@given(symbols(), st.decimals("0.01", "500", places=2), st.integers(1, 12))
def test_a_split_loses_nothing_unless_it_runs_out_of_orders(symbol: SymbolSpec, volume: Decimal, most: int) -> None:
    whole = floor_to(volume, symbol.volume_step)
    assume(whole >= symbol.volume_min)
    orders = split(whole, policy("multiplier", above_max="split", split_orders_max=most), symbol)
    assert len(orders) <= most
    assert sum(orders) <= whole
    assert all(symbol.volume_min <= order <= min(symbol.volume_max, D(100)) for order in orders)
    if symbol.volume_max >= 2 * symbol.volume_min and whole <= most * floor_to(
        min(symbol.volume_max, D(100)), symbol.volume_step
    ):
        assert sum(orders) == whole


@given(symbols(), st.integers(1, 500), st.integers(1, 100), st.integers(0, 100), st.integers(0, 100))
def test_reduce_targets_fall_with_the_master_and_reaching_them_twice_changes_nothing(
    symbol: SymbolSpec, steps: int, opened: int, one: int, other: int
) -> None:
    filled = symbol.volume_min + steps * symbol.volume_step
    less, more = sorted((min(one, opened), min(other, opened)))
    low = reduce_target(filled, D(less), D(opened), symbol)
    high = reduce_target(filled, D(more), D(opened), symbol)
    assert low <= high <= filled
    assert (low == 0) == (less == 0)
    assert low == 0 or (low >= symbol.volume_min and is_on(low - filled, symbol.volume_step))
    assert low >= filled * less / opened
    assert reduce_target(filled, D(less), D(opened), symbol) == low
    assert lots_to_close(low, low, symbol) == 0


def test_trap_16_a_partial_close_of_a_fixed_lot_copy_closes_its_part_and_not_all() -> None:
    assert reduce_target(D("0.10"), D("1.5"), D(2), spec()) == D("0.08")
    assert reduce_target(D("0.01"), D("0.1"), D(2), spec()) == D("0.01")
    assert reduce_target(D("0.01"), D(0), D(2), spec()) == 0


def test_a_master_that_holds_all_it_opened_reduces_nothing() -> None:
    assert reduce_target(D("0.37"), D(2), D(2), spec()) == D("0.37")


def test_a_part_smaller_than_a_broker_closes_waits() -> None:
    coarse = spec(volume_min=D("0.1"))
    assert lots_to_close(D("0.30"), D("0.25"), coarse) == 0
    assert lots_to_close(D("0.30"), D("0.20"), coarse) == D("0.10")
    assert lots_to_close(D("0.05"), D(0), coarse) == D("0.05")
    assert lots_to_close(D("0.10"), D("0.20"), coarse) == 0


@given(st.decimals("-1000", "1000", places=4), STEPS)
def test_rounding_down_and_up_enclose_the_value(value: Decimal, step: Decimal) -> None:
    low, high = floor_to(value, step), ceil_to(value, step)
    assert low <= value <= high
    assert high - low in (0, step)
    assert is_on(low, step)


@pytest.mark.parametrize(
    ("value", "text"), [("100", "100"), ("1E+3", "1000"), ("0.10", "0.1"), ("-0.00", "0"), ("0.333333333333", "0.33333333")]
)
def test_numbers_are_written_as_people_write_them(value: str, text: str) -> None:
    assert plain(D(value)) == text


def test_a_maximum_that_nobody_told_is_that_of_the_six_operations() -> None:
    assert lots("multiplier", facts(master_lots=D(70), spec=spec(volume_max=D(0)))) == 70
    assert lots("multiplier", facts(master_lots=D(170), spec=spec(volume_max=D(0)))) == 100


def test_rounding_to_the_nearest_step_never_exceeds_the_cap() -> None:
    assert lots("multiplier", facts(master_lots=D(1)), rounding="nearest", lots_max="0.017") == D("0.01")


def test_a_split_never_leaves_an_order_under_the_brokers_minimum() -> None:
    narrow = facts(master_lots=D(16), spec=spec(volume_min=D(8), volume_step=D(1), volume_max=D(9)))
    assert sized(size(policy("multiplier", above_max="split"), narrow)).lots == (D(8), D(8))
    narrower = facts(master_lots=D(10), spec=spec(volume_min=D(8), volume_step=D(1), volume_max=D(9)))
    answer = sized(size(policy("multiplier", above_max="split"), narrower))
    assert answer.lots == (D(9),)
    assert "cut from 10 to 9" in answer.notes[0]


@pytest.mark.parametrize(
    ("mode", "settings", "changes", "code"),
    [
        ("notional", {}, {"master_spec": None}, "master_spec_missing"),
        ("notional", {"price_ratio": "apply"}, {"master_price": D(0)}, "price_unknown"),
        ("risk_cash", {"cash": 1}, {"spec": spec(tick_value_loss=D(0)), "stop": D("1.09")}, "symbol_spec_unusable"),
        ("risk_percent", {"percent": 1}, {"account": account(balance=D(0)), "stop": D("1.09")}, "no_capital"),
        ("risk_percent", {"percent": 1}, {"account_age_ms": None, "stop": D("1.09")}, "account_stale"),
        ("signals", {}, {"account": account(leverage=0)}, "no_capital"),
        ("multiplier", {"lots_max": "0.005", "below_min": "minimum"}, {}, "below_min"),
    ],
)
def test_what_a_mode_needs_and_does_not_have_is_a_refusal(
    mode: str, settings: dict[str, Any], changes: dict[str, Any], code: str
) -> None:
    assert refused(mode, facts(**changes), **settings).code == code


def test_exactly_the_minimum_is_enough() -> None:
    answer = sized(size(policy("multiplier"), facts(master_lots=D("0.01"))))
    assert (answer.total, answer.notes, answer.residue) == (D("0.01"), (), D(0))


def test_a_plain_trade_has_nothing_to_note_and_nothing_to_carry() -> None:
    answer = sized(size(policy("multiplier"), facts(master_lots=D("0.126"))))
    assert (answer.notes, answer.residue) == ((), D(0))
    clamped = sized(size(policy("multiplier", rounding="carry"), facts(master_lots=D("60.006"))))
    assert (clamped.total, clamped.residue) == (D(50), D(0))


def test_bounds_may_be_reached() -> None:
    assert lots("multiplier", facts(master_lots=D("0.005")), below_min="minimum", inflation_max=2) == D("0.01")
    assert lots("multiplier", lots_min=2, inflation_max=2) == 2
    assert lots("balance", facts(account_age_ms=30_000)) == D("0.5")
    one_lot_least = facts(master_lots=D("0.8"), spec=spec(volume_min=D(1)))
    assert lots("multiplier", one_lot_least, below_min="minimum", lots_max=1) == 1


def test_every_mode_takes_its_own_factor() -> None:
    assert lots("notional", multiplier="0.2") == D("0.2")
    assert lots("risk_percent", facts(stop=D("1.09900")), percent=2) == 2


def test_a_stop_of_a_sell_lies_above_it() -> None:
    assert refused("risk_cash", facts(side=Side.SELL, stop=D("1.09")), cash=100).code == "stop_passed"


@pytest.mark.parametrize(
    ("mode", "changes", "code"),
    [
        ("balance", {"master": master(balance=D(0))}, "no_capital"),
        ("signals", {"master": master(balance=D(0))}, "no_capital"),
        ("signals", {"master": master(leverage=0)}, "no_capital"),
        ("signals", {"account": account(balance=D(0))}, "no_capital"),
        ("multiplier", {"master_spec": spec(contract_size=D(0))}, "master_spec_missing"),
        ("notional", {"master_spec": spec(contract_size=D(0))}, "master_spec_missing"),
    ],
)
def test_nothing_is_divided_by_or_multiplied_with_zero(mode: str, changes: dict[str, Any], code: str) -> None:
    assert refused(mode, facts(**changes)).code == code
