"""Learns a symbol's rules from an account's past: an export says what was paid, not what the broker's rules were.

The terminal computes a profit as price move x lots x money per lot and price unit and rounds it to the account's smallest coin,
halves away from zero. So every closed position pins that money to an interval, and where they overlap it is known.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal
from enum import StrEnum
from functools import reduce
from math import gcd
from statistics import median
from typing import Any

import msgspec

from copier.errors import SettingsError
from copier.exports import Export, ExportPosition
from copier.model import ZERO, CalcMode, Record, Side, SymbolSpec

LOTS_MAX_ASSUMED = Decimal(100)
_EXPLAINED_MIN = Decimal("0.98")
"""A model of the profits is believed when it gives this share of them to the coin."""
_TIGHT = Decimal("0.005")
_TICK_PRICES_MIN = 20
_CURRENCIES = {"AUD", "CAD", "CHF", "CNH", "CZK", "DKK", "EUR", "GBP", "HKD", "HUF", "JPY"}
_CURRENCIES |= {"MXN", "NOK", "NZD", "PLN", "SEK", "SGD", "TRY", "USD", "ZAR"}


class Confidence(StrEnum):
    """How well the money per price unit is known."""

    MEASURED = "measured"
    """Every believed profit is reproduced to the coin and the value is pinned to half a percent or better."""
    LIKELY = "likely"
    """Most profits are reproduced, or few positions leave room."""
    GUESSED = "guessed"
    """The profits follow no value that holds for all of them; theirs is a median, or nothing moved at all."""
    GIVEN = "given"
    """The settings say it."""


class Valuation(StrEnum):
    """How a price move becomes money."""

    CONSTANT = "constant"
    """The symbol is quoted in the account's currency."""
    INVERSE = "inverse"
    """The symbol's base is the account's currency (USDJPY in USD): divided by the price at close."""
    UNKNOWN = "unknown"


class InferredSpec(Record, frozen=True, kw_only=True):
    """A symbol's rules as far as its past shows them; `spec` is usable as it is."""

    symbol: str
    spec: SymbolSpec
    valuation: Valuation
    value: Decimal
    """Money per lot when the price moves by 1; of `inverse`, times the price."""
    value_low: Decimal
    value_high: Decimal
    """The interval that every believed profit allows."""
    positions: int
    reproduced: int
    """Of the positions, how many profits this value gives to the coin."""
    confidence: Confidence
    notes: tuple[str, ...]
    """What could not be learnt and what is assumed instead, in plain words."""

    def __str__(self) -> str:
        spec = self.spec
        head = (
            f"{self.symbol}: {_plain(self.value)} per lot and price unit "
            f"({self.confidence}, {self.reproduced} of {self.positions} profits to the coin), "
            f"{spec.digits} digits, tick {_plain(spec.tick_size)} worth {_plain(spec.tick_value)}, "
            f"lots from {_plain(spec.volume_min)} to {_plain(spec.volume_max)} in steps of {_plain(spec.volume_step)}"
        )
        return "\n".join([head, *(f"  - {note}" for note in self.notes)])


class Money(Record, frozen=True, kw_only=True):
    """How a symbol's price move becomes money, and how many of the profits it was learnt from it explains."""

    valuation: Valuation
    value: Decimal
    """Per lot when the price moves by 1; of `inverse`, times the price at close."""
    low: Decimal
    high: Decimal
    reproduced: int

    def per_unit(self, close_price: Decimal) -> Decimal:
        """Return the money per lot and price unit of a position closed at `close_price`."""
        if self.valuation is not Valuation.INVERSE:
            return self.value
        return self.value / close_price if close_price else ZERO

    def profit(self, side: Side, lots: Decimal, open_price: Decimal, close_price: Decimal, coin: Decimal) -> Decimal:
        """Return the profit as the terminal shows it: in whole coins, halves away from zero."""
        raw = (close_price - open_price) * side.sign * lots * self.per_unit(close_price)
        return (raw / coin).to_integral_value(rounding=ROUND_HALF_UP) * coin


def infer_specs(export: Export, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, InferredSpec]:
    """Return the rules of every symbol with a closed position, by symbol.

    `overrides` gives fields of `SymbolSpec` (snake_case) by symbol; they win, and a symbol without positions may be given
    whole. Raise `SettingsError` for a field that is none or a value that does not fit.
    """
    by_symbol: dict[str, list[ExportPosition]] = defaultdict(list)
    for position in export.positions:
        by_symbol[position.symbol].append(position)
    coin = smallest_coin(position.profit for position in export.positions)
    currency = export.account.currency if export.account else ""
    lots = _lots_filled(export)
    specs = {symbol: _infer(symbol, rows, lots[symbol], coin, currency) for symbol, rows in sorted(by_symbol.items())}
    for symbol, fields in sorted((overrides or {}).items()):
        specs[symbol] = _override(symbol, specs.get(symbol), fields)
    return specs


def _infer(symbol: str, rows: Sequence[ExportPosition], lots: set[Decimal], coin: Decimal, currency: str) -> InferredSpec:
    notes: list[str] = []
    money, confidence = _money(rows, coin, notes)
    prices = {price for row in rows for price in (row.open_price, row.close_price)}
    point = Decimal(1).scaleb(-max(_decimals(price) for price in prices))
    tick_size = _tick_size(prices, point, notes)
    last = max(rows, key=lambda row: (row.close_time, row.row)).close_price
    if money.valuation is Valuation.INVERSE:
        notes.append(f"the tick's value moves with the price; given for {_plain(last)}, the last close")
    tick_value = _trim(Decimal(f"{money.per_unit(last) * tick_size:.12g}"))
    step = _step(lots)
    notes.append(
        f"volumes from {_plain(min(lots))} in steps of {_plain(step)} are what was traded ({len(lots)} different); the broker "
        "may allow finer ones; the largest is assumed"
    )
    notes.append("not in an export, so assumed: no stops and freeze level, market execution, FOK or IOC, margin unknown")
    forex = symbol[:3] in _CURRENCIES and symbol[3:6] in _CURRENCIES
    spec = SymbolSpec(
        symbol=symbol,
        digits=_decimals(point),
        point=point,
        tick_size=tick_size,
        tick_value=tick_value,
        tick_value_loss=tick_value,
        contract_size=money.value,
        volume_min=min(lots),
        volume_step=step,
        volume_max=max(LOTS_MAX_ASSUMED, max(lots)),
        calc_mode=CalcMode.FOREX if forex else CalcMode.CFD,
        currency_base=symbol[:3] if forex else "",
        currency_profit=symbol[3:6] if forex else currency if money.valuation is Valuation.CONSTANT else "",
        currency_margin=symbol[:3] if forex else currency,
    )
    return InferredSpec(
        symbol=symbol,
        spec=spec,
        valuation=money.valuation,
        value=money.value,
        value_low=money.low,
        value_high=money.high,
        positions=len(rows),
        reproduced=money.reproduced,
        confidence=confidence,
        notes=tuple(notes),
    )


def _money(rows: Sequence[ExportPosition], coin: Decimal, notes: list[str]) -> tuple[Money, Confidence]:
    """Return the money per price unit and how sure it is; say in `notes` why it is not surer."""
    money = learn_money(rows, coin)
    moved = sum(1 for row in rows if row.close_price != row.open_price)
    if not moved:
        notes.append("no position closed at another price than it opened at: 1 per lot and price unit is assumed")
        return money, Confidence.GUESSED
    if money.reproduced < _EXPLAINED_MIN * len(rows):
        notes.append(
            f"profits follow no single money per price unit (the best explains {money.reproduced} of {len(rows)}), as where a "
            "symbol is quoted in a third currency; the median is used, and stands in for the contract size"
        )
        return _unexplained(rows, coin), Confidence.GUESSED
    loose = money.high - money.low > _TIGHT * money.value
    if loose:
        notes.append(
            f"{moved} positions leave room: money per price unit is between {_plain(money.low)} and {_plain(money.high)}"
        )
    if money.reproduced < len(rows):
        notes.append(f"{len(rows) - money.reproduced} profits differ from what this value gives")
    return money, Confidence.LIKELY if loose or money.reproduced < len(rows) else Confidence.MEASURED


def value_overlap(samples: Iterable[tuple[Decimal, Decimal]], coin: Decimal) -> tuple[Decimal, Decimal] | None:
    """Return the interval of values that most of `samples` (price move x lots, profit) allow; None where none says anything."""
    half = coin / 2
    ends: list[tuple[Decimal, int]] = []
    for size, profit in samples:
        if size == 0:
            continue
        low, high = sorted(((profit - half) / size, (profit + half) / size))
        if high > 0:
            ends += [(max(low, ZERO), -1), (high, 1)]
    ends.sort()
    open_now, best, interval = 0, 0, None
    for index, (end, kind) in enumerate(ends):
        open_now -= kind
        if open_now > best:
            best, interval = open_now, (end, ends[index + 1][0])
    return interval


def simplest_between(low: Decimal, high: Decimal) -> Decimal:
    """Return the number with fewest digits from `low` to `high`: brokers' contracts are round."""
    for digits in range(1, 29):
        exponent = high.adjusted() - digits + 1
        candidate = low.scaleb(-exponent).to_integral_value(rounding=ROUND_CEILING).scaleb(exponent)
        if 0 < candidate <= high:
            return _trim(candidate)
    return high


def learn_money(positions: Sequence[ExportPosition], coin: Decimal) -> Money:
    """Return the model of profits that explains most of `positions`, all of one symbol; of equals the constant one."""
    models = (_fit(Valuation.CONSTANT, positions, coin), _fit(Valuation.INVERSE, positions, coin))
    return max(models, key=lambda model: (model.reproduced, model.valuation is Valuation.CONSTANT))


def _fit(valuation: Valuation, rows: Sequence[ExportPosition], coin: Decimal) -> Money:
    unit = Money(valuation=valuation, value=Decimal(1), low=ZERO, high=ZERO, reproduced=0)
    samples = [
        ((row.close_price - row.open_price) * row.side.sign * row.lots * unit.per_unit(row.close_price), row.profit)
        for row in rows
    ]
    interval = value_overlap(samples, coin)
    if interval is None:
        return msgspec.structs.replace(unit, reproduced=_count_reproduced(unit, rows, coin))
    low, high = interval
    inward = (high - low) / 1000  # a half rounds away from zero, so an end of the interval may itself not be allowed
    values = (simplest_between(low, high), simplest_between(low + inward, high - inward))
    models = [Money(valuation=valuation, value=value, low=low, high=high, reproduced=0) for value in values]
    counted = [msgspec.structs.replace(model, reproduced=_count_reproduced(model, rows, coin)) for model in models]
    return max(counted, key=lambda model: model.reproduced)


def _count_reproduced(money: Money, rows: Sequence[ExportPosition], coin: Decimal) -> int:
    return sum(1 for row in rows if money.profit(row.side, row.lots, row.open_price, row.close_price, coin) == row.profit)


def _unexplained(rows: Sequence[ExportPosition], coin: Decimal) -> Money:
    ratios = sorted(
        row.profit / ((row.close_price - row.open_price) * row.side.sign * row.lots)
        for row in rows
        if row.close_price != row.open_price and row.profit
    )
    positive = [ratio for ratio in ratios if ratio > 0] or [Decimal(1)]
    value = Decimal(f"{median(positive):.6g}")
    money = Money(valuation=Valuation.UNKNOWN, value=value, low=positive[0], high=positive[-1], reproduced=0)
    return msgspec.structs.replace(money, reproduced=_count_reproduced(money, rows, coin))


def _override(symbol: str, inferred: InferredSpec | None, fields: Mapping[str, Any]) -> InferredSpec:
    known = SymbolSpec.__struct_fields__
    if wrong := sorted(set(fields) - set(known)):
        raise SettingsError(
            [f"{symbol}.{field}: no field of a symbol's rules; there are {', '.join(known)}" for field in wrong], "specs"
        )
    given = {"symbol": symbol} if inferred is None else {name: getattr(inferred.spec, name) for name in known}
    try:
        # 0.01 and "0.01" alike must become the decimal that was written.
        plain = {name: str(value) if isinstance(value, float) else value for name, value in fields.items()}
        renamed = {_camel(name): value for name, value in (given | plain).items()}
        spec = msgspec.convert(msgspec.to_builtins(renamed), SymbolSpec, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError([f"{symbol}: {error}"], "specs") from error
    told = f"the settings give {', '.join(sorted(fields))}"
    value_given = bool({"tick_value", "contract_size"} & set(fields))
    if inferred is None:
        return InferredSpec(
            symbol=symbol,
            spec=spec,
            valuation=Valuation.UNKNOWN,
            value=spec.contract_size,
            value_low=spec.contract_size,
            value_high=spec.contract_size,
            positions=0,
            reproduced=0,
            confidence=Confidence.GIVEN,
            notes=(told,),
        )
    confidence = Confidence.GIVEN if value_given else inferred.confidence
    return msgspec.structs.replace(inferred, spec=spec, confidence=confidence, notes=(told, *inferred.notes))


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)


def _lots_filled(export: Export) -> dict[str, set[Decimal]]:
    lots: dict[str, set[Decimal]] = defaultdict(set)
    for position in export.positions:
        lots[position.symbol].add(position.lots)
    for deal in export.deals:
        lots[deal.symbol].add(deal.lots)
    return lots


def smallest_coin(profits: Iterable[Decimal]) -> Decimal:
    """Return the smallest unit the profits are rounded to: whole, hundredths or finer; no currency has tenths."""
    decimals = max((_decimals(profit) for profit in profits), default=2)
    return Decimal(1).scaleb(-2 if decimals == 1 else -decimals)


def _tick_size(different: set[Decimal], point: Decimal, notes: list[str]) -> Decimal:
    step = reduce(gcd, (int(price / point) for price in different))
    if step > 1 and len(different) >= _TICK_PRICES_MIN:
        return point * step
    if len(different) < _TICK_PRICES_MIN:
        notes.append(f"only {len(different)} different prices were seen: digits may be more, the tick is assumed to be the point")
    return point


def _step(lots: set[Decimal]) -> Decimal:
    """Return the power of ten that all volumes are multiples of, at most 1."""
    return min(Decimal(1), Decimal(1).scaleb(-max(_decimals(volume) for volume in lots)))


def _decimals(number: Decimal) -> int:
    exponent = number.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _trim(number: Decimal) -> Decimal:
    """Drop trailing zeros without falling into 1E+5."""
    return Decimal(f"{number.normalize():f}")


def _plain(number: Decimal) -> str:
    return f"{_trim(number):f}"
