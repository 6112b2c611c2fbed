"""What is held, added up change by change, is what it comes to when added up from nothing."""

from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from copier.facts import Exposure, Held, Sums
from copier.model import Side, SymbolSpec

D = Decimal
SYMBOLS = {name: (name[:3], name[3:]) for name in ("EURUSD", "USDJPY", "XAUUSD")}


def spec(symbol: str) -> SymbolSpec:
    base, profit = SYMBOLS[symbol]
    return SymbolSpec(
        symbol=symbol,
        digits=2,
        point=D("0.01"),
        tick_size=D("0.01"),
        tick_value=D("1"),
        tick_value_loss=D("1.25"),
        contract_size=D(100),
        volume_min=D("0.01"),
        volume_step=D("0.01"),
        volume_max=D(100),
        currency_base=base,
        currency_profit=profit,
    )


SPECS = {symbol: spec(symbol) for symbol in SYMBOLS}
prices = st.integers(9_000, 11_000).map(lambda cents: D(cents) / 100)


@st.composite
def exposures(draw: st.DrawFn) -> Exposure:
    symbol = draw(st.sampled_from(sorted(SYMBOLS)))
    return Exposure(
        symbol=symbol,
        side=draw(st.sampled_from(Side)),
        lots=draw(st.integers(1, 500).map(lambda hundredths: D(hundredths) / 100)),
        price=draw(prices),
        current=draw(prices),
        stop=draw(st.one_of(st.just(D(0)), prices)),
        spec=SPECS[symbol] if draw(st.booleans()) else None,
        relation=draw(st.sampled_from(["", "a", "b"])),
        sending=draw(st.booleans()),
    )


changes = st.lists(st.tuples(st.integers(0, 5), st.lists(exposures(), max_size=3).map(tuple)), max_size=25)


def seen(sums: Sums) -> dict[str, Any]:
    """Return all that a rule can see of it, in no order."""
    return {
        "count": sums.count,
        "lots": sums.lots,
        "of_symbol": {symbol: lots for symbol, lots in sums.of_symbol.items() if lots},
        "one_way": {way: lots for way, lots in sums.one_way.items() if lots},
        "sending": sorted(map(repr, sums.sending.values())),
        "without_stop": sorted(map(repr, sums.without_stop.values())),
        "unvalued": sorted(map(repr, sums.unvalued.values())),
        "notional": sums.notional,
        "currencies": {currency: worth for currency, worth in sums.currencies.items() if worth},
        "lost": (sums.lost_of_balance, sums.lost_of_equity),
    }


@given(changes, st.sampled_from(["", "a"]))
def test_what_is_held_is_the_same_however_it_came_about(steps: list[tuple[int, tuple[Exposure, ...]]], asked: str) -> None:
    held, kept = Held(), dict[int, tuple[Exposure, ...]]()
    for name, new in steps:
        held.put(name, new)
        kept[name] = new
        held.sums_of(asked)
    fresh = Held([each for several in kept.values() for each in several])
    for relation in ("", "a", "b", "nobody"):
        assert seen(held.sums_of(relation)) == seen(fresh.sums_of(relation))


@given(st.lists(exposures(), max_size=8))
def test_a_relation_counts_its_own_and_nobody_elses(every: list[Exposure]) -> None:
    of_a = Held(every).sums_of("a")
    assert seen(of_a) == seen(Held([each for each in every if each.relation == "a"]).sums)
