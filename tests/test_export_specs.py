"""A symbol's rules are inferred as far as profits, prices and volumes show them."""

import os
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copier.errors import SettingsError
from copier.export_specs import Confidence, InferredSpec, Valuation, infer_specs, simplest_between, value_overlap
from copier.exports import Export, ExportAccount, ExportPosition, read_export
from copier.model import CalcMode, Side

DATA = Path(__file__).parents[2] / "shared" / "data" / "mt5-export"
START = datetime(2025, 1, 2, tzinfo=UTC)
CENT = Decimal("0.01")


def closed(
    number: int, symbol: str, move: tuple[str, str], profit: Decimal, *, lots: str = "1", side: Side = Side.BUY
) -> ExportPosition:
    return ExportPosition(
        position=number,
        symbol=symbol,
        side=side,
        lots=Decimal(lots),
        open_time=START,
        open_price=Decimal(move[0]),
        close_time=START + timedelta(minutes=number),
        close_price=Decimal(move[1]),
        profit=profit,
        row=number + 1,
    )


def infer_one(*positions: ExportPosition) -> InferredSpec:
    return infer_specs(Export(positions=positions))[positions[0].symbol]


def rounded(money: Decimal) -> Decimal:
    return money.quantize(CENT, rounding=ROUND_HALF_UP)


def test_every_profit_of_the_real_export_is_reproduced_to_the_cent() -> None:
    if not DATA.exists():
        if os.environ.get("CI") == "true":
            pytest.fail("the real export is absent, and here it must not be")
        pytest.skip("the real export (../shared/data/mt5-export) is absent")
    specs = infer_specs(read_export(DATA / "positions.csv", DATA / "deals.csv"))
    assert sum(spec.reproduced for spec in specs.values()) == 2648
    assert {symbol: spec.value for symbol, spec in specs.items() if spec.value != 1} == {"Step Index": 10}
    assert {spec.confidence for spec in specs.values()} == {Confidence.MEASURED}
    step = specs["Step Index"].spec
    assert (step.digits, step.tick_size, step.tick_value, step.contract_size) == (1, Decimal("0.1"), 1, 10)
    assert specs["Volatility 50 (1s) Index"].spec.volume_step == Decimal("0.001")
    assert specs["Volatility 50 Index"].spec.volume_min == 4


def test_a_currency_pair_quoted_in_the_accounts_currency_has_its_contract() -> None:
    inferred = infer_one(
        closed(1, "EURUSD", ("1.10000", "1.10123"), Decimal("12.30"), lots="0.1"),
        closed(2, "EURUSD", ("1.10000", "1.09001"), Decimal("999.00"), side=Side.SELL),
        closed(3, "EURUSD", ("1.10000", "1.10000"), Decimal(0)),
    )
    assert (inferred.value, inferred.valuation, inferred.reproduced) == (100000, Valuation.CONSTANT, 3)
    assert (inferred.spec.digits, inferred.spec.tick_value, inferred.spec.contract_size) == (5, 1, 100000)
    assert (inferred.spec.calc_mode, inferred.spec.currency_base, inferred.spec.currency_profit) == (CalcMode.FOREX, "EUR", "USD")


def test_a_pair_based_in_the_accounts_currency_pays_by_the_closing_price() -> None:
    prices = [("150.000", "151.250"), ("151.000", "149.321"), ("140.000", "146.789"), ("155.100", "155.900")]
    positions = [
        closed(n, "USDJPY", (a, b), rounded((Decimal(b) - Decimal(a)) * 100000 / Decimal(b)))
        for n, (a, b) in enumerate(prices, 1)
    ]
    inferred = infer_one(*positions)
    assert (inferred.valuation, inferred.value, inferred.reproduced) == (Valuation.INVERSE, 100000, 4)
    assert inferred.spec.contract_size == 100000
    assert abs(inferred.spec.tick_value - Decimal(100) / Decimal("155.9")) < Decimal("1e-9")
    assert any("the last close" in note for note in inferred.notes)


def test_a_symbol_in_a_third_currency_gets_the_median_and_says_so() -> None:
    rates = ["1.31", "1.25", "1.29", "1.27", "1.22"]
    positions = [closed(n, "EURGBP", ("0.85000", "0.86000"), rounded(1000 * Decimal(rate))) for n, rate in enumerate(rates, 1)]
    inferred = infer_one(*positions)
    assert (inferred.valuation, inferred.confidence) == (Valuation.UNKNOWN, Confidence.GUESSED)
    assert inferred.value == 127000
    assert any("no single money per price unit" in note for note in inferred.notes)
    assert "EURGBP: 127000 per lot and price unit (guessed, 1 of 5" in str(inferred)


def test_a_few_profits_that_do_not_fit_neither_bend_the_value_nor_stay_unsaid() -> None:
    positions = [closed(n, "X", ("10.0", f"{10 + n}.0"), Decimal(n * 5)) for n in range(1, 100)]
    inferred = infer_one(*positions, closed(100, "X", ("10.0", "12.0"), Decimal("10.01")))
    assert (inferred.value, inferred.reproduced, inferred.confidence) == (5, 99, Confidence.LIKELY)


def test_one_position_with_a_small_profit_leaves_room_and_says_how_much() -> None:
    inferred = infer_one(closed(1, "X", ("10.0", "10.3"), Decimal("0.03")))
    assert inferred.confidence is Confidence.LIKELY
    assert inferred.value_low < Decimal("0.1") < inferred.value_high
    assert any("leave room" in note for note in inferred.notes)


def test_a_symbol_that_never_moved_is_guessed() -> None:
    inferred = infer_one(closed(1, "X", ("10.0", "10.0"), Decimal(0)))
    assert inferred.confidence is Confidence.GUESSED
    assert inferred.spec.tick_value > 0
    assert any("1 per lot and price unit is assumed" in note for note in inferred.notes)


def test_ticks_coarser_than_the_point_are_seen_in_enough_prices() -> None:
    many = [closed(n, "ES", ("5000.00", f"{5000 + n * Decimal('0.25')}"), Decimal("12.5") * n) for n in range(1, 40)]
    inferred = infer_one(*many)
    assert (inferred.spec.point, inferred.spec.tick_size, inferred.spec.tick_value) == (CENT, Decimal("0.25"), Decimal("12.5"))
    assert infer_one(*many[:3]).spec.tick_size == CENT


def test_settings_win_over_what_was_inferred_and_may_add_a_symbol() -> None:
    export = Export(positions=(closed(1, "X", ("10.0", "11.0"), Decimal(1), lots="0.3"),))
    whole = {
        "digits": 2,
        "point": "0.01",
        "tick_size": 0.01,
        "tick_value": 1,
        "tick_value_loss": 1,
        "contract_size": 100,
        "volume_min": 0.01,
        "volume_step": 0.01,
        "volume_max": 50,
    }
    specs = infer_specs(export, {"X": {"volume_step": 0.01, "tick_value": "0.2"}, "XAUUSD": whole})
    assert (specs["X"].spec.volume_step, specs["X"].spec.tick_value, specs["X"].spec.volume_min) == (
        CENT,
        Decimal("0.2"),
        Decimal("0.3"),
    )
    assert specs["X"].confidence is Confidence.GIVEN
    assert specs["X"].notes[0] == "the settings give tick_value, volume_step"
    assert (specs["XAUUSD"].spec.tick_size, specs["XAUUSD"].confidence) == (CENT, Confidence.GIVEN)


@pytest.mark.parametrize("fields", [{"ticksize": 1}, {"digits": "many"}, {"digits": 2}])
def test_settings_that_make_no_rules_are_refused_naming_the_symbol(fields: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="NEW"):
        infer_specs(Export(), {"NEW": fields})


def test_the_accounts_currency_is_taken_from_a_statement() -> None:
    account = ExportAccount(login="1", currency="USD", server="S")
    export = Export(positions=(closed(1, "Gold", ("10.0", "11.0"), Decimal(100)),), account=account)
    assert infer_specs(export)["Gold"].spec.currency_profit == "USD"


@given(
    st.sampled_from(["1", "10", "100", "0.1", "100000", "12.5", "37.21"]),
    st.lists(st.tuples(st.integers(-5000, 5000), st.integers(1, 40), st.sampled_from(list(Side))), min_size=1, max_size=30),
)
def test_the_value_found_reproduces_every_profit_a_constant_value_made(value: str, moves: list[tuple[int, int, Side]]) -> None:
    positions = []
    for number, (move, lots, side) in enumerate(moves, 1):
        shift, volume = Decimal(move) / 100, Decimal(lots) / 10
        profit = rounded(shift * side.sign * volume * Decimal(value))
        positions.append(closed(number, "X", ("100", str(100 + shift)), profit, lots=str(volume), side=side))
    inferred = infer_one(*positions)
    assert inferred.reproduced == len(positions)
    if any(move for move, _, _ in moves):
        assert inferred.value_low <= Decimal(value) <= inferred.value_high or inferred.valuation is not Valuation.CONSTANT


@given(st.decimals("0.0001", "100000", places=6), st.decimals("0", "10", places=6))
def test_the_simplest_number_lies_in_its_interval(low: Decimal, width: Decimal) -> None:
    simplest = simplest_between(low, low + width)
    assert low <= simplest <= low + width
    assert len(simplest.normalize().as_tuple().digits) <= len(low.normalize().as_tuple().digits)


EXTREME = st.sampled_from(["0.000000000001", "0.01", "1", "-3", "0", "99999999999999999999999999", "12345.678901234"]).map(
    Decimal
)


@given(st.lists(st.tuples(EXTREME, EXTREME, EXTREME, EXTREME.map(abs).filter(bool)), min_size=1, max_size=6))
def test_whatever_numbers_a_file_holds_rules_or_guesses_come_out(rows: list[tuple[Decimal, Decimal, Decimal, Decimal]]) -> None:
    positions = [closed(n, "X", (str(a), str(b)), profit, lots=str(lots)) for n, (a, b, profit, lots) in enumerate(rows, 1)]
    inferred = infer_one(*positions)
    assert inferred.spec.volume_min > 0
    assert inferred.spec.tick_size > 0
    assert inferred.value > 0
    assert inferred.reproduced <= inferred.positions
    assert str(inferred)


def test_a_value_at_the_end_of_its_interval_is_not_taken_where_it_would_round_away() -> None:
    inferred = infer_one(closed(1, "X", ("10.0000", "10.0025"), Decimal("0.02")))
    assert (inferred.value_low, inferred.value_high, inferred.reproduced) == (6, 10, 1)


def test_samples_without_a_move_say_nothing() -> None:
    assert value_overlap([(Decimal(0), Decimal(0))], CENT) is None
