"""A loss limit fires once, when it should, whatever the clocks, deposits and restarts do."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copier.limits import NEVER_MS, LimitState, Money, Observation, active, observe, period_of, rearm, room
from copier.policy import LossAction, LossLimit, Metric

D = Decimal
HOUR = 3_600_000
DAY = 24 * HOUR


def at(text: str, zone: str = "UTC", fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp() * 1000)


START = at("2025-03-03 00:00")


def limit(**changes: Any) -> LossLimit:
    values: dict[str, Any] = {"name": "daily", "money": 500}
    if "percent" in changes:
        del values["money"]
    return LossLimit.model_validate(values | changes)


def money(equity: str, balance: str = "10000", now_ms: int = START, **more: Any) -> Money:
    return Money(balance=D(balance), equity=D(equity), now_ms=now_ms, **more)


def run(policy: LossLimit, *reads: Money, state: LimitState | None = None) -> Observation:
    observation = None
    for read in reads:
        observation = observe(policy, state, read)
        state = observation.state
    assert observation is not None
    return observation


# References and metrics


@pytest.mark.parametrize(("reference", "expected"), [("balance", "10000"), ("equity", "9800"), ("higher", "10000")])
def test_the_reference_is_taken_at_the_start_of_the_period(reference: str, expected: str) -> None:
    first = run(limit(reference=reference), money("9800"))
    assert first.state.reference == D(expected)
    assert first.code == "limit_started"


def test_the_higher_reference_is_the_equity_where_that_is_higher() -> None:
    assert run(limit(reference="higher"), money("10300")).state.reference == 10_300


@pytest.mark.parametrize(
    ("metric", "equity", "balance", "fires"),
    [
        ("equity", "9500.01", "10000", False),
        ("equity", "9500", "10000", True),
        ("balance", "9000", "10000", False),
        ("balance", "9600", "9500", True),
        ("balance_minus_equity", "9501", "10000", False),
        ("balance_minus_equity", "9500", "10000", True),
        ("balance_minus_equity", "9000", "9000", False),
    ],
)
def test_a_limit_fires_when_its_metric_has_lost_the_amount(metric: str, equity: str, balance: str, *, fires: bool) -> None:
    last = run(limit(metric=metric), money("10000"), money(equity, balance, START + 1000))
    assert (last.action is not None) is fires
    assert (last.code == "limit_fired") is fires


def test_a_percentage_is_of_the_reference() -> None:
    policy = limit(percent=5, reference="equity")
    assert run(policy, money("8000"), money("7601")).action is None
    assert run(policy, money("8000"), money("7600")).action is LossAction.STOP_OPENS


@pytest.mark.parametrize("action", list(LossAction))
def test_it_fires_with_its_action_once_and_stays_fired(action: LossAction) -> None:
    policy = limit(action=action.value)
    first = run(policy, money("10000"), money("9400"))
    assert (first.action, active(policy, first.state)) == (action, action)
    again = run(policy, money("9300", now_ms=START + 1), money("10000", now_ms=START + 2), state=first.state)
    assert again.action is None
    assert again.room.fired
    assert active(policy, again.state) is action


def test_the_room_is_what_may_still_be_lost() -> None:
    last = run(limit(), money("10000"), money("9700"))
    assert (last.room.left, last.room.fired, last.room.metric) == (200, False, Metric.EQUITY)
    assert room(limit(), last.state) == last.room


def test_two_stages_are_two_limits() -> None:
    soft, hard = limit(name="soft", money=300), limit(name="hard", money=500, action="close_all")
    reads = (money("10000"), money("9650"))
    assert (run(soft, *reads).action, run(hard, *reads).action) == (LossAction.STOP_OPENS, None)


def test_an_empty_account_has_lost_nothing() -> None:
    assert run(limit(percent=5), money("0", "0")).action is None


# Persisting


def test_a_loss_shorter_than_it_must_last_does_not_fire() -> None:
    policy = limit(persist_s=10)
    breached = run(policy, money("10000"), money("9000", now_ms=START + 1_000))
    assert (breached.code, breached.action) == ("limit_breached", None)
    back = run(policy, money("9900", now_ms=START + 9_000), state=breached.state)
    assert (back.code, back.state.breach_since_ms) == ("limit_recovered", None)
    anew = run(policy, money("9000", now_ms=START + 10_000), money("9000", now_ms=START + 19_999), state=back.state)
    assert anew.action is None
    assert run(policy, money("9000", now_ms=START + 20_000), state=anew.state).action is LossAction.STOP_OPENS


def test_a_clock_put_back_does_not_shorten_what_must_last() -> None:
    policy = limit(persist_s=10)
    breached = run(policy, money("10000", now_ms=START + HOUR), money("9000", now_ms=START + HOUR))
    put_back = run(policy, money("9000", now_ms=START + HOUR - 60_000), state=breached.state)
    assert put_back.action is None
    assert run(policy, money("9000", now_ms=START + HOUR - 50_000), state=put_back.state).action is not None


def test_a_clock_put_back_over_the_reset_keeps_the_period() -> None:
    first = run(limit(), money("10000", now_ms=START))
    assert run(limit(), money("9900", now_ms=START - HOUR), state=first.state).state.start_ms == START


# Periods


def test_a_new_day_takes_a_new_reference_and_arms_again() -> None:
    fired = run(limit(), money("10000"), money("9400", "9400", START + HOUR))
    assert fired.action is not None
    late = run(limit(), money("9400", "9400", START + DAY - 1), state=fired.state)
    assert late.room.fired
    next_day = run(limit(), money("9400", "9400", START + DAY), state=late.state)
    assert (next_day.code, next_day.room.fired, next_day.state.reference) == ("limit_started", False, 9_400)


def test_a_limit_rearmed_by_hand_only_stays_fired_over_the_night() -> None:
    policy = limit(rearm="by_hand")
    fired = run(policy, money("10000"), money("9400", "9400", START + HOUR))
    next_day = run(policy, money("9400", "9400", START + DAY), state=fired.state)
    assert next_day.room.fired
    armed = rearm(policy, next_day.state, money("9400", "9400", START + DAY + 1))
    assert not room(policy, armed).fired


def test_arming_by_hand_takes_the_loss_as_it_is() -> None:
    fired = run(limit(), money("10000"), money("9400", "9400", START + HOUR))
    armed = rearm(limit(), fired.state, money("9400", "9400", START + HOUR))
    assert run(limit(), money("9000", "9000", START + HOUR + 1), state=armed).action is None
    assert run(limit(), money("8900", "8900", START + HOUR + 1), state=armed).action is not None


def test_the_reference_survives_a_restart() -> None:
    before = run(limit(persist_s=60), money("10000"), money("9400", now_ms=START + HOUR))
    stored = msgspec.json.encode(before.state)
    state = msgspec.json.decode(stored, type=LimitState)
    after = run(limit(persist_s=60), money("9400", now_ms=START + HOUR + 60_000), state=state)
    assert after.state.reference == 10_000
    assert after.action is not None


def test_a_reset_slept_through_takes_the_higher_of_the_reads_around_it() -> None:
    evening = run(limit(), money("10000"), money("9900", "9900", START + 20 * HOUR))
    morning = run(limit(), money("9500", "9500", START + DAY + 8 * HOUR), state=evening.state)
    assert morning.state.reference == 9_900
    assert "28800 s after" in morning.message
    assert morning.room.left == 100
    richer = run(limit(), money("9950", "9950", START + DAY + 8 * HOUR), state=evening.state)
    assert richer.state.reference == 9_950


def test_money_paid_in_while_a_reset_was_slept_through_is_no_profit() -> None:
    evening = run(limit(), money("10000", deposits=D(5_000)), money("9900", "9900", START + 20 * HOUR, deposits=D(5_000)))
    later = money("10500", "10500", START + DAY + 8 * HOUR, deposits=D(6_000))
    assert run(limit(), later, state=evening.state).state.reference == 10_900


def test_a_reset_read_in_time_takes_that_read() -> None:
    evening = run(limit(), money("10000"))
    assert run(limit(), money("9500", "9500", START + DAY + 60_000), state=evening.state).state.reference == 9_500


def test_an_armed_or_unknown_limit_asks_for_nothing() -> None:
    assert active(limit(), None) is None
    assert active(limit(), run(limit(), money("10000")).state) is None


def test_changed_terms_start_anew_but_disarm_nothing() -> None:
    fired = run(limit(), money("10000"), money("9400", "9400", START + HOUR))
    moved = run(limit(zone="America/New_York"), money("9400", "9400", START + 2 * HOUR), state=fired.state)
    assert (moved.code, moved.state.reference, moved.room.fired) == ("limit_started", 9_400, True)


def test_a_changed_amount_keeps_the_reference() -> None:
    first = run(limit(), money("10000"), money("9700", now_ms=START + 1))
    assert run(limit(money=300), money("9700", now_ms=START + 2), state=first.state).action is not None


def test_an_unchanged_read_changes_nothing() -> None:
    first = run(limit(), money("10000"))
    again = observe(limit(), first.state, money("10000", now_ms=START + 5))
    assert again.state is first.state
    assert (again.code, again.message, again.numbers) == ("", "", {})


# Money in and out


def test_a_deposit_is_no_profit_and_a_withdrawal_no_loss() -> None:
    first = run(limit(), money("10000", deposits=D(7_000)))
    paid_out = run(limit(), money("9000", "9000", START + 1, deposits=D(6_000)), state=first.state)
    assert (paid_out.action, paid_out.room.left) == (None, 500)
    paid_in = run(limit(), money("13000", "13000", START + 2, deposits=D(10_000)), state=paid_out.state)
    assert paid_in.room.left == 500
    assert run(limit(), money("12500", "12500", START + 3, deposits=D(10_000)), state=paid_in.state).action is not None


def test_credit_is_not_the_traders_money() -> None:
    first = run(limit(reference="equity"), money("12000", credit=D(2_000)))
    assert first.state.reference == 10_000
    taken_back = run(limit(reference="equity"), money("10000", now_ms=START + 1), state=first.state)
    assert taken_back.room.left == 500


@given(st.lists(st.integers(-2_000, 5_000), max_size=20), st.integers(-499, 5_000))
def test_no_deposit_or_withdrawal_changes_what_is_left(payments: list[int], profit: int) -> None:
    state = observe(limit(), None, money("50000", "50000")).state
    paid = 0
    for payment in payments:
        paid += payment
        total = str(50_000 + paid + profit)
        seen = observe(limit(), state, money(total, total, START + 1, deposits=D(paid)))
        assert seen.room.left == 500 + profit
        state = seen.state


# Zones and daylight saving


def test_a_day_starts_at_the_reset_time_of_the_zone() -> None:
    prague = limit(zone="Europe/Prague", reset_at="00:00")
    assert period_of(prague, at("2025-07-01 12:00")) == (at("2025-06-30 22:00"), at("2025-07-01 22:00"))
    new_york = limit(zone="America/New_York", reset_at="17:00")
    assert period_of(new_york, at("2025-01-15 21:59")) == (at("2025-01-14 22:00"), at("2025-01-15 22:00"))
    assert period_of(new_york, at("2025-01-15 22:00"))[0] == at("2025-01-15 22:00")


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Prague", "2025-03-30", 23),
        ("Europe/Prague", "2025-10-26", 25),
        ("America/New_York", "2025-03-09", 23),
        ("America/New_York", "2025-11-02", 25),
        ("America/New_York", "2025-03-30", 24),
    ],
)
def test_the_day_of_a_change_is_as_long_as_it_is(zone: str, day: str, hours: int) -> None:
    start, end = period_of(limit(zone=zone), at(f"{day} 12:00", zone))
    assert start == at(f"{day} 00:00", zone)
    assert end - start == hours * HOUR


@pytest.mark.parametrize(
    ("zone", "day", "after_gap"),
    [("Europe/Prague", "2025-03-30", "2025-03-30 01:00"), ("America/New_York", "2025-03-09", "2025-03-09 07:00")],
)
@pytest.mark.parametrize("reset", ["02:00", "02:30", "02:59"])
def test_a_reset_that_is_skipped_comes_at_the_first_moment_after_the_gap(zone: str, day: str, after_gap: str, reset: str) -> None:
    start, end = period_of(limit(zone=zone, reset_at=reset), at(f"{day} 12:00", zone))
    assert start == at(after_gap)
    next_day = date.fromisoformat(day) + timedelta(days=1)
    assert end == at(f"{next_day} {reset}", zone)


@pytest.mark.parametrize(
    ("zone", "day", "reset", "first"),
    [
        ("Europe/Prague", "2025-10-26", "02:30", "2025-10-26 00:30"),
        ("America/New_York", "2025-11-02", "01:30", "2025-11-02 05:30"),
    ],
)
def test_a_reset_that_comes_twice_counts_the_first_time_only(zone: str, day: str, reset: str, first: str) -> None:
    policy = limit(zone=zone, reset_at=reset)
    starts = {period_of(policy, at(first) + minute * 60_000)[0] for minute in range(0, 20 * 60, 7)}
    assert starts == {at(first)}
    assert period_of(policy, at(first) - 1)[1] == at(first)


def test_a_limit_fired_in_the_first_doubled_hour_is_not_armed_by_the_second() -> None:
    policy = limit(zone="Europe/Prague", reset_at="02:30")
    first = at("2025-10-26 02:30", "Europe/Prague", fold=0)
    fired = run(policy, money("10000", now_ms=first), money("9000", now_ms=first + 60_000))
    second = at("2025-10-26 02:30", "Europe/Prague", fold=1)
    assert run(policy, money("9000", now_ms=second), state=fired.state).room.fired


def test_a_whole_day_that_a_zone_skips_has_no_period_of_its_own() -> None:
    samoa = limit(zone="Pacific/Apia")
    start, end = period_of(samoa, at("2011-12-29 12:00", "Pacific/Apia"))
    assert (end - start, end) == (DAY, at("2011-12-31 00:00", "Pacific/Apia"))
    assert period_of(samoa, end)[0] == end


def test_weeks_start_on_monday_and_months_on_the_first() -> None:
    now = at("2025-03-05 12:00")
    assert period_of(limit(period="week"), now) == (at("2025-03-03"), at("2025-03-10"))
    assert period_of(limit(period="month"), now) == (at("2025-03-01"), at("2025-04-01"))
    before = period_of(limit(period="week", reset_at="22:00"), at("2025-03-03 21:59"))
    assert before == (at("2025-02-24 22:00"), at("2025-03-03 22:00"))
    december = period_of(limit(period="month", reset_at="22:00"), at("2025-01-01 12:00"))
    assert december == (at("2024-12-01 22:00"), at("2025-01-01 22:00"))


def test_a_lifetime_never_ends() -> None:
    policy = limit(period="lifetime", rearm="by_hand")
    assert period_of(policy, START) == (START, NEVER_MS)
    assert run(policy, money("10000"), money("9500", now_ms=START + 1000 * DAY)).action is not None


ZONES = st.sampled_from(["UTC", "Europe/Prague", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia"])


@given(ZONES, st.integers(0, 1439), st.sampled_from(["day", "week", "month"]), st.integers(at("2010-01-01"), at("2030-01-01")))
def test_periods_follow_each_other_without_gap_or_overlap(zone: str, minutes: int, period: str, now_ms: int) -> None:
    policy = limit(zone=zone, period=period, reset_at=f"{minutes // 60:02d}:{minutes % 60:02d}")
    start, end = period_of(policy, now_ms)
    assert start <= now_ms < end
    assert period_of(policy, start) == (start, end) == period_of(policy, end - 1)
    assert period_of(policy, end)[0] == end
    assert period_of(policy, start - 1)[1] == start


@given(st.lists(st.tuples(st.integers(9_000, 10_500), st.integers(1, 3 * HOUR)), min_size=1, max_size=60), st.integers(0, 7_200))
def test_a_limit_fires_at_most_once_a_period(reads: list[tuple[int, int]], persist_s: int) -> None:
    policy, state, now, fired = limit(persist_s=persist_s), None, START, []
    for equity, passed in reads:
        now += passed
        seen = observe(policy, state, money(str(equity), "10000", now))
        if seen.action:
            fired.append(seen.state.start_ms)
            assert seen.room.left <= 0
        state = seen.state
    assert len(fired) == len(set(fired))
