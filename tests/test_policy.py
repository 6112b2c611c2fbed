"""Policies say what is wrong in a trader's words, survive a round trip, and describe every field."""

import inspect
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from copier import policy
from copier.model import Side
from copier.policy import (
    BalanceSize,
    CopyPolicy,
    FilterPolicy,
    FixedSize,
    LevelMode,
    LossLimit,
    Mode,
    MultiplierSize,
    RelationPolicy,
    RiskPolicy,
    Sides,
    SizePolicy,
    TradingWindow,
)

POLICIES = [
    cls
    for _, cls in inspect.getmembers(policy, inspect.isclass)
    if issubclass(cls, BaseModel) and cls.__module__ == policy.__name__
]


def mistakes(cls: Any, value: object) -> str:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(cls).validate_python(value)
    return "\n".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in caught.value.errors())


@pytest.mark.parametrize("cls", POLICIES, ids=lambda cls: cls.__name__)
def test_every_setting_has_a_description(cls: type[BaseModel]) -> None:
    assert [name for name, field in cls.model_fields.items() if not field.description] == []


def test_a_relation_without_settings_copies_one_to_one() -> None:
    relation = RelationPolicy.model_validate({})
    assert relation.mode is Mode.LIVE
    assert relation.size == MultiplierSize(mode="multiplier", multiplier=Decimal(1))
    assert relation.protection.open_age_max_s == 60


def test_a_number_keeps_the_digits_it_was_written_with() -> None:
    assert FixedSize.model_validate({"mode": "fixed", "lots": 0.29}).lots == Decimal("0.29")


@pytest.mark.parametrize(
    ("size", "cls"), [({"mode": "fixed", "lots": 1}, FixedSize), ({"mode": "balance", "multiplier": "2"}, BalanceSize)]
)
def test_the_mode_picks_the_size_policy(size: dict[str, object], cls: type) -> None:
    assert type(RelationPolicy.model_validate({"size": size}).size) is cls


@pytest.mark.parametrize(
    ("cls", "value", "expected"),
    [
        (SizePolicy, {"mode": "fixed"}, "lots: Field required"),
        (SizePolicy, {"mode": "martingale"}, "'fixed', 'multiplier'"),
        (SizePolicy, {"mode": "fixed", "lots": True}, "lots: expected a number, not True"),
        (SizePolicy, {"mode": "fixed", "lots": "much"}, "lots: expected a number, not 'much'"),
        (SizePolicy, {"mode": "fixed", "lots": float("nan")}, "lots: expected a finite number"),
        (SizePolicy, {"mode": "fixed", "lots": 0}, "lots: Input should be greater than 0"),
        (SizePolicy, {"mode": "fixed", "lots": 1, "align_contracts": True}, "align_contracts: Extra inputs"),
        (SizePolicy, {"mode": "multiplier", "lots_min": 2, "lots_max": 1}, "lots_min 2 is above lots_max 1"),
        (SizePolicy, {"mode": "multiplier", "inflation_max": "0.5"}, "inflation_max"),
        (SizePolicy, {"mode": "virtual_capital"}, "expected master_capital, follower_capital or both"),
        (SizePolicy, {"mode": "risk_percent", "percent": 101}, "less than or equal to 100"),
        (SizePolicy, {"mode": "risk_cash", "cash": 1, "no_stop_lots": 1, "no_stop_points": 1}, "not both"),
        (CopyPolicy, {"stops": "fixed"}, "expected points with mode fixed"),
        (CopyPolicy, {"stops": {"mode": "copy", "points": 3}}, "expected points with mode fixed"),
        (CopyPolicy, {"existing": "copy"}, "expected price_points and age_s"),
        (CopyPolicy, {"existing": {"mode": "skip", "age_s": 3}}, "no meaning with mode skip"),
        (CopyPolicy, {"shared_symbols": "allow"}, "needs stops: none and targets: none"),
        (CopyPolicy, {"comment": "копия"}, "expected plain ASCII"),
        (CopyPolicy, {"comment": "c" * 28}, "at most 27 characters"),
        (CopyPolicy, {"magic": 2**31}, "magic"),
        (CopyPolicy, {"slippage": 3}, "slippage: Extra inputs are not permitted"),
        (CopyPolicy, {"slippage_points": 2.5}, "expected a whole number, not 2.5"),
        (FilterPolicy, {"master_lots_min": 2, "master_lots_max": 1}, "master_lots_min 2 is above master_lots_max 1"),
        (FilterPolicy, {"magics": ["9-3"]}, "expected a range from low to high, not 9-3"),
        (FilterPolicy, {"magics": ["x"]}, 'such as "100-199"'),
        (FilterPolicy, {"hours": {"windows": []}}, "at least 1 item"),
        (FilterPolicy, {"hours": {"zone": "Prague", "windows": [{"start": "8:00", "end": "9:00"}]}}, "such as Europe/Prague"),
        (TradingWindow, {"start": 1320, "end": "23:00"}, "write it in quotes"),
        (TradingWindow, {"start": "24:01", "end": "23:00"}, "expected a time of day"),
        (TradingWindow, {"start": "08:60", "end": "23:00"}, "expected a time of day"),
        (LossLimit, {"name": "daily"}, "limit daily: expected money or percent"),
        (LossLimit, {"name": "daily", "money": 1, "percent": 1}, "and not both"),
        (LossLimit, {"name": "all", "money": 1, "period": "lifetime"}, "has no next period"),
        (LossLimit, {"name": "d", "money": 1, "reset_at": "24:00"}, "00:00"),
        (RiskPolicy, {"losses": [{"name": "a", "money": 1}, {"name": "a", "money": 2}]}, "needs its own name"),
        (RiskPolicy, {"worst_case": {"assumed_stop_points": 1, "assumed_stop_percent": 1}}, "not both"),
    ],
)
def test_a_mistake_is_told_where_it_is_and_what_was_expected(cls: Any, value: object, expected: str) -> None:
    assert expected in mistakes(cls, value)


def test_a_written_policy_reads_back_as_itself() -> None:
    relation = RelationPolicy.model_validate(
        {
            "size": {"mode": "risk_percent", "percent": "0.5", "no_stop_points": 300},
            "symbols": {"map": {"GOLD": "XAUUSD"}, "commission": {"*": 7}},
            "copy": {"stops": "none", "existing": {"mode": "copy", "price_points": 20, "age_s": 300}},
            "filters": {"magics": [0, "100-199"], "hours": {"windows": [{"start": "22:00", "end": "24:00"}]}},
            "risk": {"losses": [{"name": "daily", "percent": 5, "reset_at": "17:00", "zone": "America/New_York"}]},
        }
    )
    assert RelationPolicy.model_validate(relation.model_dump(mode="json")) == relation
    assert RelationPolicy.model_validate(relation.model_dump()) == relation
    assert relation.model_dump(mode="json")["filters"]["magics"] == [0, "100-199"]
    assert relation.model_dump(mode="json")["filters"]["hours"]["windows"][0]["start"] == "22:00"


def test_a_lone_word_is_the_mode_of_a_level() -> None:
    assert CopyPolicy.model_validate({"stops": "copy"}).stops.mode is LevelMode.COPY


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        RelationPolicy().mode = Mode.FROZEN


@pytest.mark.parametrize(
    ("sides", "buy", "sell"), [(Sides.BOTH, True, True), (Sides.BUY, True, False), (Sides.SELL, False, True)]
)
def test_sides_have_what_they_say(sides: Sides, *, buy: bool, sell: bool) -> None:
    assert (sides.has(Side.BUY), sides.has(Side.SELL)) == (buy, sell)


def test_the_settings_of_a_relation_make_a_json_schema() -> None:
    schema = RelationPolicy.model_json_schema()
    assert set(schema["properties"]) == {"mode", "size", "symbols", "copy", "filters", "protection", "risk"}
