"""From a master's open to a follower's orders: every rule is asked, in order, and what comes out is within all of them."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copier.facts import Exposure, Held
from copier.link import Link
from copier.model import Account, MasterFacts, MasterPosition, Quote, Refused, Side, SymbolSpec
from copier.plan import OpenFacts, Planned, age_of, check_before_quote, plan_open, side_of, symbol_of
from copier.policy import FollowerRisk, Mode, RelationPolicy
from copier.steps import is_on
from tests.test_diff import START
from tests.test_risk import account, spec

D = Decimal
NOW = round(START.timestamp() * 1000) + 2_000
replace = msgspec.structs.replace


def master_position(lots: str = "1.00", **more: Any) -> MasterPosition:
    fields: dict[str, Any] = {
        "identifier": 9,
        "ticket": 9,
        "symbol": "EURUSD",
        "side": Side.BUY,
        "lots": D(lots),
        "lots_opened": D(lots),
        "open_price": D("1.1"),
        "open_time": START,
    }
    return MasterPosition(**(fields | more))


def wish(lots: str = "1.00", position: dict[str, Any] | None = None, **more: Any) -> Link:
    fields: dict[str, Any] = {"follower": "f", "master": "m", "key": "9.1", "absent_ms": NOW - 1_000}
    return Link(**(fields | {"position": master_position(lots, **(position or {}))} | more))


def quote(bid: str = "1.09990", ask: str = "1.10000", rules: SymbolSpec | None = None) -> Quote:
    return Quote(account="2@broker", symbol="EURUSD", bid=D(bid), ask=D(ask), timestamp=START, spec=rules or spec())


def facts(**more: Any) -> OpenFacts:
    fields: dict[str, Any] = {
        "now_ms": NOW,
        "mode": Mode.LIVE,
        "account": account(balance=D(1_000_000), equity=D(1_000_000), free_margin=D(1_000_000)),
        "account_ms": NOW,
        "quote": quote(),
        "quote_ms": NOW,
        "master": MasterFacts(
            currency="USD", balance=D(10_000), equity=D(10_000), free_margin=D(10_000), leverage=100, server_offset_s=0
        ),
        "master_spec": spec(),
    }
    return OpenFacts(**(fields | more))


def policy(**settings: Any) -> RelationPolicy:
    return RelationPolicy.model_validate(settings)


def plan(link: Link, rules: RelationPolicy, lots: str | None = None, *, risk: Any = None, **more: Any) -> Planned | Refused:
    follower = FollowerRisk.model_validate(risk or {})
    return plan_open(rules, follower, link, link.position.lots if lots is None else D(lots), facts(**more))


def planned(*args: Any, **more: Any) -> Planned:
    found = plan(*args, **more)
    assert isinstance(found, Planned), found
    return found


def code(*args: Any, **more: Any) -> str:
    found = plan(*args, **more)
    assert isinstance(found, Refused), found
    return found.code


def test_a_plain_copy_is_the_masters_volume_at_the_followers_symbol() -> None:
    found = planned(wish(), policy())
    assert (found.symbol, found.side, found.lots, found.stop_loss, found.take_profit) == ("EURUSD", Side.BUY, (D(1),), 0, 0)


def test_levels_come_along_and_reversed_ones_change_places() -> None:
    link = wish(position={"stop_loss": D("1.09"), "take_profit": D("1.13")})
    straight = planned(link, policy())
    assert (straight.stop_loss, straight.take_profit) == (D("1.09"), D("1.13"))
    turned = planned(link, policy(copy={"reverse": True}))
    assert turned.side is Side.SELL is side_of(policy(copy={"reverse": True}), link.position)
    assert turned.take_profit < D("1.1") < turned.stop_loss


@pytest.mark.parametrize(
    ("expected", "link", "rules", "more"),
    [
        ("open_too_old", wish(absent_ms=NOW - 61_000, position={"open_time": START.replace(hour=7)}), {}, {}),
        ("open_too_old", wish(absent_ms=0), {}, {"master": None}),
        ("slippage_above_max", wish(position={"open_price": D("1.09")}), {"protection": {"slippage_points_max": 50}}, {}),
        ("spread_above_max", wish(), {"protection": {"spread_points_max": 5}}, {}),
        ("quote_too_old", wish(), {"protection": {"quote_age_max_ms": 100}}, {"quote_ms": NOW - 200}),
        ("below_min", wish("0.01"), {"size": {"mode": "multiplier", "multiplier": "0.1"}}, {}),
        ("margin_insufficient", wish(), {}, {"account": account(free_margin=D(10))}),
        ("trading_not_allowed", wish(), {}, {"account": account(trade_allowed=False)}),
        ("existing_skipped", wish(existing=True), {}, {}),
    ],
)
def test_each_rule_that_says_no_is_named(expected: str, link: Link, rules: dict[str, Any], more: dict[str, Any]) -> None:
    assert code(link, policy(**rules), **more) == expected


def test_the_followers_own_limits_are_asked_after_the_relations() -> None:
    rules = policy(risk={"trade": {"lots_max": "0.50"}, "above": "shrink"})
    assert sum(planned(wish(), rules).lots) == D("0.50")
    risk = {"trade": {"lots_max": "0.20"}}
    refused = plan(wish(), rules, risk=risk)
    assert isinstance(refused, Refused)
    assert refused.rule.startswith("follower.risk")
    assert sum(planned(wish(), rules, risk=risk | {"above": "shrink"}).lots) == D("0.20")


def test_orders_on_their_way_count_against_the_limits() -> None:
    held = Exposure(
        symbol="EURUSD",
        side=Side.BUY,
        lots=D("0.80"),
        price=D("1.1"),
        current=D("1.1"),
        spec=spec(),
        relation="m",
        sending=True,
    )
    rules = policy(risk={"open": {"lots_max": 1}, "above": "shrink"})
    assert sum(planned(wish(), rules, exposures=Held((held,))).lots) == D("0.20")


def test_a_scale_in_is_dated_by_when_it_was_seen_and_an_old_position_may_grow() -> None:
    old = wish(position={"open_time": START.replace(hour=1)})
    grown = replace(old, anchor=D("0.50"))
    assert age_of(grown, facts().master, NOW) == 1_000
    assert age_of(replace(grown, absent_ms=0), facts().master, NOW) is None
    assert sum(planned(grown, policy(), "0.50").lots) == D("0.50")


def test_what_was_seen_bounds_what_a_wrong_clock_says() -> None:
    link = wish(position={"open_time": START.replace(hour=1)})
    assert age_of(link, facts().master, NOW) == 1_000
    assert age_of(replace(link, absent_ms=0), facts().master, NOW) == NOW - round(START.replace(hour=1).timestamp() * 1000)
    assert age_of(wish(), None, NOW) == 1_000


@pytest.mark.parametrize("mode", [Mode.CLOSE_ONLY, Mode.FROZEN])
def test_a_paused_relation_says_no_before_anything_is_asked_of_the_broker(mode: Mode) -> None:
    refused = check_before_quote(policy(), master_position(), mode, "set by a person", NOW)
    assert refused is not None
    assert (refused.code, refused.message) == (mode.value, "set by a person")
    assert check_before_quote(policy(), master_position(), Mode.LIVE, "", NOW) is None


def test_an_unmapped_symbol_is_a_refusal() -> None:
    assert symbol_of(policy(symbols={"map": {"EURUSD": "EURUSD.r"}}), "EURUSD", spec(), None) == "EURUSD.r"
    found = symbol_of(policy(), "EURUSD", spec(), {"GBPUSD": spec("GBPUSD", "GBP")})
    assert isinstance(found, Refused)


@given(
    st.integers(1, 5_000),
    st.sampled_from(["0.5", "1", "3"]),
    st.sampled_from([None, "0.30", "2"]),
    st.sampled_from([("0.01", "0.01"), ("0.10", "0.01"), ("1", "1")]),
    st.sampled_from(["down", "nearest", "carry"]),
    st.sampled_from([None, "0.77"]),
)
@settings(max_examples=150)
def test_whatever_is_planned_is_on_the_step_and_within_every_limit(
    hundredths: int, multiplier: str, cap: str | None, sizes: tuple[str, str], rounding: str, risk: str | None
) -> None:
    rules = spec(volume_min=D(sizes[0]), volume_step=D(sizes[1]))
    size = {"mode": "multiplier", "multiplier": multiplier, "rounding": rounding, "above_max": "split", "lots_max": cap}
    limits = {"trade": {"lots_max": risk}, "above": "shrink"} if risk else {}
    found = plan(
        wish(str(D(hundredths) / 100)),
        policy(size=size, risk=limits),
        quote=quote(rules=rules),
        account=rich(),
    )
    if isinstance(found, Refused):
        assert found.code
        assert found.rule
        return
    total = sum(found.lots)
    assert all(is_on(each, rules.volume_step) and rules.volume_min <= each <= rules.volume_max for each in found.lots)
    assert total <= D(hundredths) / 100 * D(multiplier) + (rules.volume_step if rounding != "down" else 0)
    assert cap is None or total <= D(cap)
    assert risk is None or total <= D(risk)


def rich() -> Account:
    return account(balance=D(10**9), equity=D(10**9), free_margin=D(10**9))
