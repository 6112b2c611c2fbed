"""A follower's levels keep the master's meaning on the follower's own fill, ticks and stops level."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from copier.model import Quote, Refused, Side, SymbolSpec
from copier.policy import CopyPolicy
from copier.steps import is_on
from copier.stops import LevelFacts, Levels, levels_to_open, levels_to_set

D = Decimal
NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)


def quote(bid: str = "1.09990", ask: str = "1.10000", **changes: Any) -> Quote:
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
    }
    spec = SymbolSpec(**(values | changes))
    return Quote(account="2@broker", symbol="EURUSD", bid=D(bid), ask=D(ask), timestamp=NOON, spec=spec)


def facts(
    side: Side = Side.BUY,
    *,
    fill: str | None = None,
    master: str = "1.10020",
    stop: str = "1.09020",
    target: str = "1.12020",
    at: Quote | None = None,
) -> LevelFacts:
    at = at or quote()
    return LevelFacts(
        side=side,
        fill=at.price_to_open(side) if fill is None else D(fill),
        master_fill=D(master),
        master_stop=D(stop),
        master_target=D(target),
        quote=at,
    )


def opened(given: LevelFacts, **policy: Any) -> tuple[Decimal, Decimal]:
    answer = levels_to_open(CopyPolicy.model_validate(policy), given)
    assert isinstance(answer, Levels), answer
    return answer.stop, answer.target


def refused(given: LevelFacts, **policy: Any) -> Refused:
    answer = levels_to_open(CopyPolicy.model_validate(policy), given)
    assert isinstance(answer, Refused), answer
    return answer


def test_the_masters_distance_is_laid_on_the_own_fill() -> None:
    assert opened(facts()) == (D("1.09000"), D("1.12000"))


def test_a_level_may_be_copied_as_it_is() -> None:
    assert opened(facts(), stops="copy", targets="copy") == (D("1.09020"), D("1.12020"))


def test_fixed_points_need_no_level_of_the_master() -> None:
    fixed = {"stops": {"mode": "fixed", "points": 100}, "targets": {"mode": "fixed", "points": 300}}
    assert opened(facts(stop="0", target="0"), **fixed) == (D("1.09900"), D("1.10300"))
    short = facts(Side.SELL, master="1.09970", stop="0", target="0")
    assert opened(short, **fixed) == (D("1.10090"), D("1.09690"))


def test_none_is_none() -> None:
    assert opened(facts(), stops="none", targets="none") == (0, 0)


def test_a_level_the_master_has_not_or_removed_is_none() -> None:
    assert opened(facts(stop="0"), targets="copy") == (0, D("1.12020"))
    assert levels_to_set(CopyPolicy(), facts(stop="0", target="0")) == Levels()


@pytest.mark.parametrize(("offset", "stop", "target"), [(50, "1.08950", "1.12050"), (-50, "1.09050", "1.11950")])
def test_an_offset_moves_a_level_away_from_the_price_or_towards_it(offset: int, stop: str, target: str) -> None:
    moved = {"mode": "distance", "offset_points": offset}
    assert opened(facts(), stops=moved, targets=moved) == (D(stop), D(target))


def test_trap_24_a_reversed_copy_swaps_stop_and_target() -> None:
    # The master buys; the follower sells at the bid, its levels trigger on the ask, one spread above.
    assert opened(facts(Side.SELL, master="1.10000", stop="1.09000", target="1.12000"), reverse=True) == (
        D("1.12000"),
        D("1.09000"),
    )


def test_a_reversed_copied_level_triggers_at_the_same_moment_as_the_masters() -> None:
    given = facts(Side.SELL, stop="1.09000", target="1.12000")
    copied = {"stops": "copy", "targets": "copy", "reverse": True}
    # The master's levels trigger when the bid is there; the ask is then one spread higher.
    assert opened(given, **copied) == (D("1.12010"), D("1.09010"))
    # The master sells, the follower buys: when the ask is at the master's level, the bid is one spread lower.
    given = facts(Side.BUY, stop="1.12000", target="1.09000")
    assert opened(given, **copied) == (D("1.08990"), D("1.11990"))


def test_a_masters_stop_in_profit_becomes_a_target_in_loss() -> None:
    # The master bought at 1.10, the price is 1.11, its stop stands at 1.105; the follower sold at 1.0999.
    now = quote("1.11000", "1.11010")
    given = facts(Side.SELL, fill="1.09990", master="1.10000", stop="1.10500", target="1.12000", at=now)
    levels = levels_to_set(CopyPolicy(reverse=True), given)
    assert levels == Levels(stop=D("1.12000"), target=D("1.10500"))
    assert levels.target > given.fill


def test_levels_are_rounded_onto_the_followers_ticks_towards_the_price() -> None:
    coarse = quote("1.0999", "1.1000", tick_size=D("0.0005"), digits=4)
    given = facts(master="1.10000", stop="1.09012", target="1.12012", at=coarse)
    assert opened(given) == (D("1.0905"), D("1.1200"))
    short = facts(Side.SELL, fill="1.0999", master="1.0999", stop="1.1102", target="1.0902", at=coarse)
    assert opened(short) == (D("1.1100"), D("1.0905"))


def test_a_level_too_near_is_lifted_to_the_stops_level_with_a_note() -> None:
    at = quote(stops_level=50)
    levels = levels_to_open(CopyPolicy(), facts(master="1.10000", stop="1.09980", target="1.10010", at=at))
    assert isinstance(levels, Levels)
    # A buy is closed at the bid, so the broker measures from there.
    assert (levels.stop, levels.target) == (D("1.09940"), D("1.10040"))
    assert ["stop moved" in levels.notes[0], "target moved" in levels.notes[1]] == [True, True]


def test_no_level_is_put_on_the_price_itself() -> None:
    levels = levels_to_set(CopyPolicy(), facts(fill="1.10000", master="1.10000", stop="1.09990", target="0"))
    assert levels.stop == D("1.09989")


@pytest.mark.parametrize(
    ("side", "stop", "target", "code"),
    [
        (Side.BUY, "1.10020", "0", "stop_passed"),
        (Side.BUY, "1.10500", "0", "stop_passed"),
        (Side.BUY, "0", "1.10000", "target_passed"),
        (Side.SELL, "1.0", "0", "stop_passed"),
        (Side.SELL, "0", "1.2", "target_passed"),
    ],
)
def test_an_open_beyond_its_own_level_is_refused(side: Side, stop: str, target: str, code: str) -> None:
    answer = refused(facts(side, stop=stop, target=target))
    assert answer.code == code
    assert answer.rule == ("copy.stops" if code.startswith("stop") else "copy.targets")


def test_a_level_the_price_has_passed_is_set_as_near_as_the_broker_takes_it() -> None:
    fallen = quote("1.08000", "1.08010", stops_level=10)
    levels = levels_to_set(CopyPolicy(), facts(fill="1.10000", master="1.10000", stop="1.09000", target="0", at=fallen))
    assert levels.stop == D("1.07990")


def test_a_level_below_nothing_is_the_lowest_price_there_is() -> None:
    levels = levels_to_set(CopyPolicy(), facts(fill="1.10000", master="3.0", stop="1.0", target="0"))
    assert levels.stop == D("0.00001")


PIPS = st.integers(-3_000, 3_000).filter(bool)
PRICES = st.integers(100_000, 120_000).map(lambda points: points * D("0.00001"))


def reversed_copy(side: Side, master_fill: Decimal, fill: Decimal, stop: Decimal, target: Decimal) -> Levels:
    """Copy in reverse without a spread, the price midway between the levels so that the broker moves neither."""
    middle = (stop + target) / 2 + fill - master_fill
    at = quote(str(middle), str(middle), tick_size=D("0.000005"))
    return levels_to_set(
        CopyPolicy(reverse=True),
        LevelFacts(side=side, fill=fill, master_fill=master_fill, master_stop=stop, master_target=target, quote=at),
    )


@given(st.sampled_from(Side), PRICES, PRICES, PIPS, PIPS)
def test_reversing_twice_without_a_spread_gives_the_masters_own_distances(
    side: Side, master_fill: Decimal, fill: Decimal, one: int, other: int
) -> None:
    assume(abs(one - other) > 1)
    low, high = sorted((master_fill + one * D("0.00001"), master_fill + other * D("0.00001")))
    stop, target = (low, high) if side is Side.BUY else (high, low)
    once = reversed_copy(side.opposite, master_fill, fill, stop, target)
    assert (once.stop, once.target) == (target + fill - master_fill, stop + fill - master_fill)
    twice = reversed_copy(side, fill, master_fill, once.stop, once.target)
    assert (twice.stop, twice.target, twice.notes) == (stop, target, ())


@given(
    st.sampled_from(Side),
    PRICES,
    PRICES,
    st.integers(0, 200),
    st.integers(0, 60),
    st.sampled_from(["0.00001", "0.0001", "0.0025"]),
)
def test_what_is_set_is_always_on_the_tick_and_where_the_broker_takes_it(
    side: Side, stop: Decimal, target: Decimal, level: int, spread: int, tick: str
) -> None:
    bid = D("1.10")
    at = quote(str(bid), str(bid + spread * D("0.00001")), tick_size=D(tick), stops_level=level)
    levels = levels_to_set(
        CopyPolicy.model_validate({"stops": "copy", "targets": "copy"}),
        LevelFacts(side=side, fill=bid, master_fill=bid, master_stop=stop, master_target=target, quote=at),
    )
    price = at.price_to_close(side)
    assert is_on(levels.stop, D(tick))
    assert is_on(levels.target, D(tick))
    least = max(level * D("0.00001"), D(tick))
    assert (price - levels.stop) * side.sign >= least
    assert (levels.target - price) * side.sign >= least


def test_a_target_at_the_fill_itself_is_passed() -> None:
    assert refused(facts(master="1.10020", stop="0", target="1.10020")).code == "target_passed"


def test_without_a_tick_size_the_point_is_the_tick() -> None:
    assert opened(facts(at=quote(tick_size=D(0)))) == (D("1.09000"), D("1.12000"))
