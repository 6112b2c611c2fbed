"""Opens are gated by what the master did, by how late it is, and by what holds at the order; each refusal says why."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copier.facts import Exposure, Held, OrderFacts, margin_used_after
from copier.filters import (
    check_existing,
    check_filters,
    check_late,
    check_order,
    check_side,
    hours_open,
    hours_over,
    open_age_ms,
)
from copier.model import Account, MasterPosition, Quote, Refused, Side, SymbolSpec, TradeMode
from copier.policy import CopyPolicy, ExistingPolicy, FilterPolicy, ProtectionPolicy, TradingHours

D = Decimal
NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def at(text: str, zone: str = "UTC", fold: int = 0) -> int:
    return ms(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold))


def position(**changes: Any) -> MasterPosition:
    values: dict[str, Any] = {
        "identifier": 7,
        "ticket": 7,
        "symbol": "EURUSD",
        "side": Side.BUY,
        "lots": D(1),
        "lots_opened": D(1),
        "open_price": D("1.1"),
        "open_time": NOON,
    }
    return MasterPosition(**(values | changes))


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
        "margin_per_lot": D(1_000),
    }
    return SymbolSpec(**(values | changes))


def account(**changes: Any) -> Account:
    values: dict[str, Any] = {
        "account": "2@broker",
        "login": "2",
        "balance": D(10_000),
        "equity": D(10_000),
        "margin": D(1_000),
        "free_margin": D(9_000),
        "margin_level": D(1_000),
        "profit": D(0),
        "currency": "USD",
        "leverage": 100,
        "name": "",
        "server": "broker",
        "company": "",
    }
    return Account(**(values | changes))


def order(symbol: SymbolSpec | None = None, **changes: Any) -> OrderFacts:
    bid, ask = changes.pop("bid", D("1.09990")), changes.pop("ask", D("1.10000"))
    quote = Quote(account="2@broker", symbol="EURUSD", bid=bid, ask=ask, timestamp=NOON, spec=symbol or spec())
    values: dict[str, Any] = {
        "side": Side.BUY,
        "lots": D(1),
        "quote": quote,
        "quote_age_ms": 50,
        "master_price": D("1.10000"),
        "age_ms": 500,
        "account": account(),
    }
    values |= changes
    return OrderFacts(**(values | {"exposures": Held(values.get("exposures", ()))}))


def filtered(now_ms: int = 0, *, master: MasterPosition | None = None, **policy: Any) -> Refused | None:
    return check_filters(FilterPolicy.model_validate(policy), master or position(), now_ms)


def code(refused: Refused | None) -> str:
    if refused is None:
        return ""
    assert refused.message
    assert refused.rule
    return refused.code


# What the master did


def test_without_filters_everything_passes() -> None:
    assert filtered() is None


@pytest.mark.parametrize(
    ("magic", "expected"), [(0, ""), (7, "magic_not_copied"), (100, ""), (150, ""), (200, "magic_not_copied")]
)
def test_only_the_named_magic_numbers_are_copied(magic: int, expected: str) -> None:
    assert code(filtered(master=position(magic=magic), magics=[0, "100-199"])) == expected


@pytest.mark.parametrize(
    ("comment", "expected"), [("scalp 1", ""), ("Scalp 1", "comment_not_copied"), ("", "comment_not_copied")]
)
def test_only_comments_of_the_pattern_are_copied(comment: str, expected: str) -> None:
    assert code(filtered(master=position(comment=comment), comment="scalp*")) == expected


@pytest.mark.parametrize(
    ("lots", "expected"),
    [("0.09", "master_lots_below_min"), ("0.10", ""), ("2", ""), ("2.01", "master_lots_above_max")],
)
def test_only_master_lots_in_the_range_are_copied(lots: str, expected: str) -> None:
    assert code(filtered(master=position(lots=D(lots)), master_lots_min="0.1", master_lots_max=2)) == expected


def test_a_master_without_a_stop_may_be_refused() -> None:
    assert code(filtered(must_have_stop=True)) == "master_without_stop"
    assert filtered(master=position(stop_loss=D(1)), must_have_stop=True) is None


def test_a_side_that_is_not_copied_is_refused_by_the_masters_side() -> None:
    assert code(check_side(CopyPolicy.model_validate({"sides": "sell", "reverse": True}), position())) == "side_not_copied"
    assert check_side(CopyPolicy.model_validate({"sides": "buy"}), position()) is None


# Trading hours


def hours(*windows: dict[str, Any], zone: str = "Europe/Prague", **settings: Any) -> TradingHours:
    return TradingHours.model_validate({"zone": zone, "windows": windows, **settings})


@pytest.mark.parametrize(
    ("local", "inside"),
    [
        ("2025-03-03 07:59", False),
        ("2025-03-03 08:00", True),
        ("2025-03-03 16:59:59.999", True),
        ("2025-03-03 17:00", False),
        ("2025-03-08 12:00", False),
    ],
)
def test_a_window_is_open_from_its_start_up_to_its_end_on_its_days(local: str, *, inside: bool) -> None:
    assert hours_open(hours({"start": "08:00", "end": "17:00"}), at(local, "Europe/Prague")) is inside


@pytest.mark.parametrize(
    ("local", "inside"),
    [
        ("2025-03-07 21:59", False),
        ("2025-03-07 22:00", True),
        ("2025-03-08 01:59", True),
        ("2025-03-08 02:00", False),
        ("2025-03-08 22:30", False),
        ("2025-03-03 01:00", False),
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_it_starts_on(local: str, *, inside: bool) -> None:
    friday = hours({"days": ["fri"], "start": "22:00", "end": "02:00"})
    assert hours_open(friday, at(local, "Europe/Prague")) is inside


def test_a_window_may_end_at_midnight() -> None:
    evening = hours({"days": ["mon"], "start": "20:00", "end": "24:00"})
    assert hours_open(evening, at("2025-03-03 23:59", "Europe/Prague"))
    assert not hours_open(evening, at("2025-03-04 00:00", "Europe/Prague"))


def test_equal_start_and_end_are_a_whole_day() -> None:
    monday = hours({"days": ["mon"], "start": "17:00", "end": "17:00"})
    assert hours_open(monday, at("2025-03-04 16:59", "Europe/Prague"))
    assert not hours_open(monday, at("2025-03-04 17:00", "Europe/Prague"))


@pytest.mark.parametrize("zone", ["Europe/Prague", "America/New_York"])
@pytest.mark.parametrize("day", ["2025-03-07", "2025-03-31", "2025-07-01", "2025-11-03"])
def test_a_window_keeps_its_wall_clock_through_daylight_saving(zone: str, day: str) -> None:
    work = hours({"start": "09:30", "end": "16:00"}, zone=zone)
    assert hours_open(work, at(f"{day} 09:30", zone))
    assert not hours_open(work, at(f"{day} 09:29", zone))


def test_a_doubled_hour_is_inside_both_times_and_a_skipped_one_never() -> None:
    night = hours({"days": ["sun"], "start": "02:00", "end": "03:00"})
    assert hours_open(night, at("2025-10-26 02:30", "Europe/Prague", fold=0))
    assert hours_open(night, at("2025-10-26 02:30", "Europe/Prague", fold=1))
    spring = at("2025-03-30 00:00", "Europe/Prague")
    assert not any(hours_open(night, spring + minute * 60_000) for minute in range(24 * 60))


def test_an_open_outside_the_hours_is_refused_with_the_local_time() -> None:
    windows = {"zone": "Europe/Prague", "windows": [{"start": "08:00", "end": "17:00"}]}
    refused = filtered(at("2025-03-08 12:00", "Europe/Prague"), hours=windows)
    assert refused is not None
    assert (refused.code, refused.numbers["local"]) == ("outside_hours", "Sat 12:00")


@pytest.mark.parametrize(("at_end", "over"), [("leave", False), ("close", True)])
def test_copies_are_closed_at_the_end_only_if_asked(at_end: str, *, over: bool) -> None:
    windows = {"windows": [{"start": "08:00", "end": "17:00"}], "at_end": at_end}
    assert hours_over(FilterPolicy.model_validate({"hours": windows}), at("2025-03-03 18:00")) is over
    assert not hours_over(FilterPolicy.model_validate({"hours": windows}), at("2025-03-03 12:00"))
    assert not hours_over(FilterPolicy(), 0)


# How late it is


def test_age_is_told_by_the_masters_server_clock() -> None:
    athens = NOON + timedelta(hours=2)
    assert open_age_ms(athens, 7200, ms(NOON) + 1_500) == 1_500
    assert open_age_ms(athens.replace(tzinfo=None), 7200, ms(NOON) + 1_500) == 1_500


def test_an_unknown_offset_is_an_unknown_age_unless_the_open_was_observed() -> None:
    assert open_age_ms(NOON, None, ms(NOON)) is None
    assert open_age_ms(NOON, None, ms(NOON), observed_ms=300) == 300


def test_the_longer_of_two_known_ages_counts() -> None:
    assert open_age_ms(NOON, 0, ms(NOON) + 1_000, observed_ms=4_000) == 4_000
    assert open_age_ms(NOON, 0, ms(NOON) + 9_000, observed_ms=4_000) == 9_000


def test_an_open_from_the_future_has_a_wrong_offset_and_not_a_young_age() -> None:
    assert open_age_ms(NOON, -3600, ms(NOON)) is None
    assert open_age_ms(NOON, 0, ms(NOON) - 500) == 0


def test_trap_20_an_old_open_is_dropped() -> None:
    assert code(check_late(ProtectionPolicy(), order(age_ms=60_001))) == "open_too_old"
    assert check_late(ProtectionPolicy(), order(age_ms=60_000)) is None


def test_trap_20_an_open_of_unknown_age_counts_as_old() -> None:
    assert code(check_late(ProtectionPolicy(), order(age_ms=None))) == "open_too_old"


@pytest.mark.parametrize(
    ("side", "master_price", "expected"),
    [
        (Side.BUY, "1.09900", ""),
        (Side.BUY, "1.09899", "slippage_above_max"),
        (Side.BUY, "1.20000", ""),
        (Side.SELL, "1.10090", ""),
        (Side.SELL, "1.10091", "slippage_above_max"),
        (Side.BUY, "0", "slippage_above_max"),
        (Side.SELL, "0", "slippage_above_max"),
    ],
)
def test_only_a_price_that_moved_against_us_is_refused(side: Side, master_price: str, expected: str) -> None:
    policy = ProtectionPolicy(slippage_points_max=D(100))
    assert code(check_late(policy, order(side=side, master_price=D(master_price)))) == expected


def test_slippage_is_counted_in_the_followers_points() -> None:
    three_digits = spec(point=D("0.001"), digits=3)
    assert check_late(ProtectionPolicy(slippage_points_max=D(1)), order(three_digits, master_price=D("1.09900"))) is None


@pytest.mark.parametrize(
    ("policy", "facts", "expected"),
    [
        ({}, {}, "existing_skipped"),
        ({"mode": "copy_all"}, {"age_ms": None, "master_price": D(2)}, ""),
        ({"mode": "copy", "price_points": 50, "age_s": 60}, {}, ""),
        ({"mode": "copy", "price_points": 50, "age_s": 60}, {"age_ms": 60_000, "master_price": D("1.10050")}, ""),
        ({"mode": "copy", "price_points": 50, "age_s": 60}, {"age_ms": 60_001}, "existing_too_old"),
        ({"mode": "copy", "price_points": 50, "age_s": 60}, {"master_price": D(0)}, "existing_too_far"),
        ({"mode": "copy", "price_points": 50, "age_s": 60}, {"age_ms": None}, "existing_too_old"),
        ({"mode": "copy", "price_points": 50, "age_s": 60}, {"master_price": D("1.10051")}, "existing_too_far"),
        ({"mode": "copy", "price_points": 50, "age_s": 60}, {"master_price": D("1.09949")}, "existing_too_far"),
    ],
)
def test_positions_from_before_the_start_are_copied_as_said(policy: dict[str, Any], facts: dict[str, Any], expected: str) -> None:
    assert code(check_existing(ExistingPolicy.model_validate(policy), order(**facts))) == expected


# What holds at the order


def protected(facts: OrderFacts, **policy: Any) -> str:
    return code(check_order(ProtectionPolicy.model_validate(policy), facts))


def test_a_wide_spread_is_refused() -> None:
    assert protected(order(), spread_points_max=9) == "spread_above_max"
    assert protected(order(), spread_points_max=10) == ""


def test_without_a_point_a_spread_or_slippage_that_is_limited_is_refused() -> None:
    assert protected(order(spec(point=D(0))), spread_points_max=10) == "spread_above_max"
    assert code(check_late(ProtectionPolicy(slippage_points_max=D(5)), order(spec(point=D(0))))) == "slippage_above_max"


def test_a_refusal_says_the_numbers_it_was_decided_on() -> None:
    refused = check_order(ProtectionPolicy(margin_level_min=D(500)), order(lots=D(4)))
    assert refused is not None
    assert refused.message == "the margin level would be 200%, 500% is the least"
    wide = check_order(ProtectionPolicy(spread_points_max=D(9)), order())
    assert wide is not None
    assert wide.message == "the spread of EURUSD is 10 points, 9 is the most"
    late = check_late(ProtectionPolicy(), order(age_ms=61_500))
    assert late is not None
    assert late.message == "the master opened 61.5 s ago, 60 s is the most"


def test_an_old_quote_is_refused() -> None:
    assert protected(order(quote_age_ms=10_001)) == "quote_too_old"
    assert protected(order(quote_age_ms=10_000)) == ""
    assert protected(order(quote_age_ms=10_001), quote_age_max_ms=20_000) == ""


@pytest.mark.parametrize(
    ("mode", "buy", "sell"),
    [
        (TradeMode.FULL, "", ""),
        (TradeMode.LONG_ONLY, "", "symbol_trade_mode"),
        (TradeMode.SHORT_ONLY, "symbol_trade_mode", ""),
        (TradeMode.CLOSE_ONLY, "symbol_trade_mode", "symbol_trade_mode"),
        (TradeMode.DISABLED, "symbol_trade_mode", "symbol_trade_mode"),
    ],
)
def test_a_symbol_is_opened_only_as_the_broker_trades_it(mode: TradeMode, buy: str, sell: str) -> None:
    assert protected(order(spec(trade_mode=mode))) == buy
    assert protected(order(spec(trade_mode=mode), side=Side.SELL)) == sell


def test_an_account_that_may_not_trade_is_told_with_the_switch() -> None:
    refused = check_order(ProtectionPolicy(), order(account=account(trade_allowed=False, trade_blocker="investor login")))
    assert refused is not None
    assert "investor login" in refused.message


def test_margin_is_checked_before_the_order_leaves() -> None:
    assert protected(order(lots=D(9))) == ""
    assert protected(order(lots=D("9.01"))) == "margin_insufficient"


def test_the_margin_level_after_the_trade_is_kept() -> None:
    assert protected(order(lots=D(1)), margin_level_min=500) == ""
    assert protected(order(lots=D("1.01")), margin_level_min=500) == "margin_level_below_min"


def test_a_margin_nobody_knows_is_refused_where_a_level_is_to_be_kept() -> None:
    assert protected(order(spec(margin_per_lot=None))) == ""
    assert protected(order(spec(margin_per_lot=None)), margin_level_min=100) == "margin_unknown"


def sending(lots: str, symbol: SymbolSpec | None = None) -> Exposure:
    return Exposure(
        symbol="EURUSD", side=Side.BUY, lots=D(lots), price=D("1.1"), current=D("1.1"), spec=symbol or spec(), sending=True
    )


def test_orders_on_their_way_use_margin() -> None:
    assert protected(order(lots=D(4), exposures=(sending("5"),))) == ""
    assert protected(order(lots=D(4), exposures=(sending("5.01"),))) == "margin_insufficient"


def test_open_positions_are_not_counted_twice_in_the_margin() -> None:
    held = Exposure(symbol="EURUSD", side=Side.BUY, lots=D(9), price=D("1.1"), current=D("1.1"), spec=spec())
    assert margin_used_after(order(exposures=(held,)), D(1)) == 2_000


@given(st.lists(st.decimals("0.01", "2", places=2), min_size=1, max_size=20))
def test_a_burst_never_uses_more_margin_than_is_free(burst: list[Decimal]) -> None:
    passed: tuple[Exposure, ...] = ()
    for lots in burst:
        if check_order(ProtectionPolicy(), order(lots=lots, exposures=passed)) is None:
            passed = (*passed, sending(str(lots)))
    assert sum(one.lots for one in passed) * 1_000 <= 9_000


@given(st.integers(0, 7 * 24 * 60 - 1), st.integers(0, 1439), st.integers(0, 1440), st.sampled_from(["UTC", "Asia/Tokyo"]))
def test_two_windows_that_meet_leave_no_minute_out(minute: int, start: int, end: int, zone: str) -> None:
    every = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

    def clock(minutes: int) -> str:
        return f"{minutes // 60:02d}:{minutes % 60:02d}"

    one = {"days": every, "start": clock(start), "end": clock(end)}
    other = {"days": every, "start": clock(end % 1440), "end": clock(start)}
    assert hours_open(hours(one, other, zone=zone), at("2025-03-03") + minute * 60_000)
