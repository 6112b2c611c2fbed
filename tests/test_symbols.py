"""A symbol is found by map, by name, by what it is; or refused with the reason."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copier.model import CalcMode, Refused, SymbolSpec, TradeMode
from copier.policy import SymbolPolicy, matches
from copier.symbols import commission_per_lot, contract_warning, different_instrument, follower_symbol


def spec(symbol: str, base: str = "EUR", profit: str = "USD", **changes: Any) -> SymbolSpec:
    values: dict[str, Any] = {
        "symbol": symbol,
        "digits": 5,
        "point": Decimal("0.00001"),
        "tick_size": Decimal("0.00001"),
        "tick_value": Decimal(1),
        "tick_value_loss": Decimal(1),
        "contract_size": Decimal(100_000),
        "volume_min": Decimal("0.01"),
        "volume_step": Decimal("0.01"),
        "volume_max": Decimal(100),
        "currency_base": base,
        "currency_profit": profit,
    }
    return SymbolSpec(**(values | changes))


def catalogue(*specs: SymbolSpec) -> Mapping[str, SymbolSpec]:
    return {one.symbol: one for one in specs}


EURUSD = spec("EURUSD")
GOLD_METAL = spec("GOLD", "XAU", "USD", calc_mode=CalcMode.CFD)
GOLD_SHARE = spec("GOLD", "USD", "USD", calc_mode=CalcMode.STOCKS)


def find(symbol: str, master: SymbolSpec | None, offered: Mapping[str, SymbolSpec] | None, **policy: Any) -> str | Refused:
    return follower_symbol(symbol, SymbolPolicy(**policy), master, offered)


def refusal(answer: str | Refused) -> Refused:
    assert isinstance(answer, Refused), answer
    return answer


def test_the_map_goes_before_everything() -> None:
    offered = catalogue(EURUSD, spec("EURUSD.r"))
    assert find("EURUSD", EURUSD, offered, map={"EURUSD": "EURUSD.r"}) == "EURUSD.r"


def test_a_map_to_a_symbol_nobody_offers_is_refused_and_not_replaced() -> None:
    answer = refusal(find("EURUSD", EURUSD, catalogue(EURUSD), map={"EURUSD": "EURUSDx"}))
    assert (answer.code, answer.rule) == ("symbol_unmapped", "symbols.map")
    assert "EURUSDx" in answer.message


def test_prefix_and_suffix_are_taken_off_and_put_on() -> None:
    offered = catalogue(spec("m.EURUSD.pro"))
    policy = {"master_prefix": "#", "master_suffix": "_i", "prefix": "m.", "suffix": ".pro"}
    assert find("#EURUSD_i", spec("#EURUSD_i"), offered, **policy) == "m.EURUSD.pro"


def test_what_the_masters_broker_adds_is_taken_off_even_where_nothing_can_be_looked_up() -> None:
    assert find("#EURUSD_i", None, None, master_prefix="#", master_suffix="_i", suffix=".r") == "EURUSD.r"
    assert find("EURUSD", None, None, master_prefix="#", suffix=".r") == "EURUSD.r"
    assert find("#", None, None, master_prefix="#") == "#"


def test_without_a_catalogue_the_name_is_taken_as_it_is() -> None:
    assert find("EURUSD", EURUSD, None, suffix=".r") == "EURUSD.r"


def test_the_same_name_is_believed() -> None:
    assert find("EURUSD", EURUSD, catalogue(EURUSD, spec("EURUSD.r"))) == "EURUSD"


def test_the_only_tradable_symbol_of_the_same_kind_is_matched() -> None:
    offered = catalogue(spec("EURUSD", trade_mode=TradeMode.DISABLED), spec("EURUSD.r"), spec("EURGBP.r", "EUR", "GBP"))
    assert find("EURUSD", EURUSD, offered) == "EURUSD.r"


def test_automatic_matching_can_be_off() -> None:
    answer = refusal(find("EURUSD", EURUSD, catalogue(spec("EURUSD.r")), automatic=False))
    assert answer.code == "symbol_unmapped"


def test_two_that_fit_are_refused_by_name() -> None:
    answer = refusal(find("EURUSD", EURUSD, catalogue(spec("EURUSD.r"), spec("EURUSD.m"))))
    assert answer.code == "symbol_ambiguous"
    assert answer.numbers["candidates"] == "EURUSD.m, EURUSD.r"


def test_trap_19_a_name_that_looks_alike_is_not_a_match() -> None:
    offered = catalogue(spec("EURUSDZ", "EUR", "ZAR"), spec("EURUS"), spec("EUR"))
    offered = {name: one for name, one in offered.items() if one.currency_profit == "ZAR"}
    assert refusal(find("EURUSD", EURUSD, offered)).code == "symbol_unmapped"


def test_trap_19_gold_the_metal_is_not_gold_the_share() -> None:
    answer = refusal(find("GOLD", GOLD_METAL, catalogue(GOLD_SHARE)))
    assert answer.code == "symbol_unmapped"
    assert "another instrument" in answer.message


def test_without_the_masters_specification_nothing_is_matched() -> None:
    assert "nothing is known" in refusal(find("EURUSD", None, catalogue(spec("EURUSD.r")))).message


def test_gold_is_found_under_its_other_name() -> None:
    offered = catalogue(GOLD_SHARE, spec("XAUUSD", "XAU", "USD", calc_mode=CalcMode.CFD))
    assert find("GOLD", GOLD_METAL, offered) == "XAUUSD"


def test_an_index_is_never_matched_by_its_currencies() -> None:
    us500 = spec("US500", "USD", "USD", calc_mode=CalcMode.CFD_INDEX)
    us30 = spec("US30", "USD", "USD", calc_mode=CalcMode.CFD_INDEX)
    answer = refusal(find("US500", us500, catalogue(us30)))
    assert answer.code == "symbol_unmapped"
    assert "map it" in answer.message


def test_a_future_is_never_matched_by_its_currencies() -> None:
    march, june = spec("6EH5", calc_mode=CalcMode.FUTURES), spec("6EM5", calc_mode=CalcMode.FUTURES)
    assert refusal(find("6EH5", march, catalogue(june))).code == "symbol_unmapped"


def test_kinds_of_cfd_are_one_family_for_a_name() -> None:
    assert different_instrument(GOLD_METAL, spec("GOLD", "XAU", "USD", calc_mode=CalcMode.CFD_LEVERAGE)) == ""
    assert "computed as" in different_instrument(GOLD_METAL, spec("GOLD", "XAU", "USD", calc_mode=CalcMode.FUTURES))


def test_a_metal_is_the_same_whether_a_broker_computes_it_as_a_currency_or_as_a_cfd() -> None:
    forex, leveraged = (spec("XAUUSD", "XAU", "USD", calc_mode=mode) for mode in (CalcMode.FOREX, CalcMode.CFD_LEVERAGE))
    assert find("XAUUSD", forex, catalogue(leveraged)) == "XAUUSD"
    assert find("XAUUSD", leveraged, catalogue(forex)) == "XAUUSD"
    us500 = spec("US500", "USD", "USD", calc_mode=CalcMode.CFD_INDEX)
    assert "computed as" in different_instrument(us500, spec("US500", "USD", "USD", calc_mode=CalcMode.FOREX))


def test_unknown_currencies_speak_neither_for_nor_against_a_name() -> None:
    assert find("EURUSD", EURUSD, catalogue(spec("EURUSD", "", ""))) == "EURUSD"


@pytest.mark.parametrize("deny", ["EURUSD", "EUR*", "*.r", "EURUS?"])
def test_a_denied_symbol_is_refused_by_either_name(deny: str) -> None:
    answer = refusal(find("EURUSD", EURUSD, None, suffix=".r", deny=(deny,)))
    assert (answer.code, answer.rule) == ("symbol_denied", "symbols.deny")


def test_deny_goes_before_allow() -> None:
    assert refusal(find("EURUSD", EURUSD, None, allow=("*",), deny=("EUR*",))).rule == "symbols.deny"


@pytest.mark.parametrize(("allow", "copied"), [((), True), (("EURUSD",), True), (("*.r",), True), (("GBP*", "XAU*"), False)])
def test_only_allowed_symbols_are_copied(allow: tuple[str, ...], *, copied: bool) -> None:
    answer = find("EURUSD", EURUSD, None, suffix=".r", allow=allow)
    assert isinstance(answer, str) is copied


def test_brackets_in_a_pattern_are_letters() -> None:
    assert matches("[SP500]", "[SP500]")
    assert not matches("S", "[SP500]")


def test_a_different_contract_size_is_told() -> None:
    ten = spec("XAUUSD", contract_size=Decimal(10))
    hundred = spec("GOLD", contract_size=Decimal(100))
    assert "0.1 times" in str(contract_warning(hundred, ten))
    assert contract_warning(ten, ten) is None


def test_the_first_commission_that_fits_counts() -> None:
    policy = SymbolPolicy(commission={"XAU*": Decimal(10), "*": Decimal(7)})
    assert commission_per_lot("XAUUSD", policy) == 10
    assert commission_per_lot("EURUSD", policy) == 7
    assert commission_per_lot("EURUSD", SymbolPolicy()) == 0


CURRENCIES = st.sampled_from(["EUR", "USD", "XAU", "JPY", ""])
SPECS = st.builds(
    spec,
    st.sampled_from(["EURUSD", "EURUSD.r", "GOLD", "XAUUSD", "US30"]),
    CURRENCIES,
    CURRENCIES,
    calc_mode=st.sampled_from(CalcMode),
    trade_mode=st.sampled_from(TradeMode),
)


@given(SPECS, st.lists(SPECS, max_size=6), st.sampled_from(["", ".r"]))
def test_what_is_found_is_offered_and_nothing_speaks_against_it(master: SymbolSpec, specs: list[SymbolSpec], suffix: str) -> None:
    offered = catalogue(*specs)
    answer = find(master.symbol, master, offered, suffix=suffix)
    if isinstance(answer, str):
        assert different_instrument(master, offered[answer]) == ""
        assert offered[answer].trade_mode not in (TradeMode.DISABLED, TradeMode.CLOSE_ONLY)
