"""What a paper broker offers: each symbol's rules, trading hours, swap and commission, and ready-made examples."""

from collections.abc import Callable, Iterable
from decimal import Decimal
from enum import StrEnum
from typing import Any

import msgspec

from copier.model import ZERO, CalcMode, Execution, Record, Side, SymbolSpec, TradeMode

DAY_S = 86_400
Week = tuple[tuple[tuple[int, int], ...], ...]
"""For each day from Monday on, the sessions as (from, to) in seconds of the server's day."""

ALWAYS: Week = (((0, DAY_S),),) * 7
FOREX_WEEK: Week = (((0, DAY_S),),) * 5 + ((), ())
"""Monday to Friday on a server clock of UTC+2 or +3, as most brokers keep it."""

ROLLOVER_FOREX = (1, 1, 3, 1, 1, 0, 0)
ROLLOVER_DAILY = (1, 1, 1, 1, 1, 1, 1)


class SwapMode(StrEnum):
    """What a symbol's swap numbers are."""

    OFF = "off"
    POINTS = "points"
    MONEY = "money"
    """Account currency per lot and night."""


class TickMoney(StrEnum):
    """Where the money of a price move comes from."""

    RATES = "rates"
    """Contract size, converted at the server's own quotes."""
    SPEC = "spec"
    """The specification's tick values as they stand, already in the account's currency."""


class PaperSymbol(Record, frozen=True, kw_only=True):
    """One symbol as a paper broker trades it: the public rules, and what a terminal shows elsewhere or not at all."""

    spec: SymbolSpec
    sessions: Week = ALWAYS
    swap_mode: SwapMode = SwapMode.OFF
    swap_long: Decimal = ZERO
    swap_short: Decimal = ZERO
    rollover: tuple[int, ...] = ROLLOVER_FOREX
    """How many nights are booked at the end of each day, from Monday on."""
    commission_per_lot: Decimal = ZERO
    """Charged per lot and side, in the account's currency; a positive number is a cost."""
    margin_rate: Decimal = Decimal(1)
    tick_money: TickMoney = TickMoney.RATES
    stops_level_hidden: int = 0
    """Points the server demands between price and stops although the specification says less, as some brokers do."""

    def swap(self, side: Side) -> Decimal:
        """Return the swap of one side, in the units of `swap_mode`."""
        return self.swap_long if side is Side.BUY else self.swap_short

    def trades_at(self, server_ms: int) -> bool:
        """Say whether a session is open at this moment of the server's clock."""
        if self.sessions is ALWAYS:
            return True
        second = server_ms // 1000
        weekday = (second // DAY_S + 3) % 7
        second %= DAY_S
        return any(start <= second < end for start, end in self.sessions[weekday])


def paper_symbols(symbols: Iterable["PaperSymbol | SymbolSpec"]) -> dict[str, PaperSymbol]:
    """Return symbols by name; a bare specification trades at all hours and costs nothing."""
    offered = (each if isinstance(each, PaperSymbol) else PaperSymbol(spec=each) for each in symbols)
    return {each.spec.symbol: each for each in offered}


def symbol_spec(symbol: str, *, digits: int, tick_size: Decimal | str | None = None, **rules: Any) -> SymbolSpec:
    """Return a specification from a few rules: point and tick from the digits, tick value from the contract, forex by name."""
    point = Decimal(1).scaleb(-digits)
    tick = point if tick_size is None else Decimal(tick_size)
    rules = as_rules(rules)
    contract = rules.pop("contract_size", Decimal(100_000))
    forex = rules.get("calc_mode", CalcMode.FOREX) is CalcMode.FOREX
    rules.setdefault("currency_base", symbol[:3] if forex else "")
    rules.setdefault("currency_profit", symbol[3:6] if forex else "USD")
    rules.setdefault("currency_margin", rules["currency_base"] or rules["currency_profit"])
    rules.setdefault("tick_value", contract * tick)
    rules.setdefault("tick_value_loss", rules["tick_value"])
    rules.setdefault("volume_min", Decimal("0.01"))
    rules.setdefault("volume_step", Decimal("0.01"))
    rules.setdefault("volume_max", Decimal(100))
    return SymbolSpec(symbol=symbol, digits=digits, point=point, tick_size=tick, contract_size=contract, **rules)


def as_rules(rules: dict[str, Any]) -> dict[str, Any]:
    """Return rules with what was written as text turned into decimals and modes."""
    return {name: _KINDS.get(name, _same)(value) if isinstance(value, str) else value for name, value in rules.items()}


def _same(text: str) -> str:
    return text


_KINDS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("point", "tick_size", "tick_value", "tick_value_loss", "contract_size", "margin_per_lot"), Decimal),
    **dict.fromkeys(("volume_min", "volume_step", "volume_max", "volume_limit"), Decimal),
    **dict.fromkeys(("swap_long", "swap_short", "commission_per_lot", "margin_rate"), Decimal),
    "trade_mode": TradeMode,
    "execution": Execution,
    "calc_mode": CalcMode,
    "swap_mode": SwapMode,
    "tick_money": TickMoney,
}


def default_symbols() -> dict[str, PaperSymbol]:
    """Return a small realistic broker: three currency pairs, gold, an index with a coarse tick, bitcoin."""
    index = symbol_spec(
        "US30",
        digits=2,
        tick_size="0.5",
        contract_size="1",
        calc_mode=CalcMode.CFD_LEVERAGE,
        volume_min="0.1",
        volume_step="0.1",
        volume_max="50",
    )
    gold = symbol_spec("XAUUSD", digits=2, contract_size="100", calc_mode=CalcMode.CFD_LEVERAGE, currency_base="XAU")
    bitcoin = symbol_spec(
        "BTCUSD", digits=2, contract_size="1", calc_mode=CalcMode.CFD_LEVERAGE, currency_base="BTC", volume_max="10"
    )
    return paper_symbols(
        [
            _rolled(symbol_spec("EURUSD", digits=5), "-7.2", "2.1"),
            _rolled(symbol_spec("GBPUSD", digits=5), "-3.4", "-1.2"),
            _rolled(symbol_spec("USDJPY", digits=3), "8.1", "-18.6"),
            _rolled(gold, "-38.5", "14.2"),
            PaperSymbol(spec=index, swap_long=Decimal("-2.5"), swap_short=Decimal("-0.5"), swap_mode=SwapMode.MONEY),
            PaperSymbol(spec=bitcoin, margin_rate=Decimal(10), rollover=ROLLOVER_DAILY),
        ]
    )


def _rolled(spec: SymbolSpec, swap_long: str, swap_short: str) -> PaperSymbol:
    return PaperSymbol(spec=spec, swap_mode=SwapMode.POINTS, swap_long=Decimal(swap_long), swap_short=Decimal(swap_short))


def variant(
    symbol: PaperSymbol, /, *, prefix: str = "", suffix: str = "", digits: int | None = None, **rules: Any
) -> PaperSymbol:
    """Return the same instrument as another broker offers it.

    `rules` replace fields of the specification or, where it has none of that name, of the symbol. Other digits bring
    their point and tick size; tick values follow contract and tick size unless given.
    """
    spec, rules = symbol.spec, as_rules(rules)
    changes = {name: rules.pop(name) for name in list(rules) if name in SymbolSpec.__struct_fields__}
    changes.setdefault("symbol", f"{prefix}{spec.symbol}{suffix}")
    if digits is not None:
        point = Decimal(1).scaleb(-digits)
        changes = {
            "digits": digits,
            "point": point,
            "tick_size": max(point, spec.tick_size if _coarse(spec) else point),
            **changes,
        }
    contract, tick = changes.get("contract_size", spec.contract_size), changes.get("tick_size", spec.tick_size)
    changes.setdefault("tick_value", spec.tick_value * contract * tick / (spec.contract_size * spec.tick_size))
    changes.setdefault("tick_value_loss", changes["tick_value"])
    return msgspec.structs.replace(symbol, spec=msgspec.structs.replace(spec, **changes), **rules)


def _coarse(spec: SymbolSpec) -> bool:
    return spec.tick_size > spec.point


def honours_slippage(spec: SymbolSpec) -> bool:
    """Say whether the server looks at the asked price at all."""
    return spec.execution in (Execution.REQUEST, Execution.INSTANT)
