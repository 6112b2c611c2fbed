"""MetaTrader 5's structures <-> the model, without any call: numbers, positions, orders, deals, symbols, requests."""

import functools
import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypedDict

from copier.errors import Unavailable
from copier.gateways.comments import comment_with_tag, tag_in
from copier.model import (
    ZERO,
    Bar,
    CalcMode,
    Deal,
    DealEntry,
    DealReason,
    DealType,
    Execution,
    Filling,
    MarginMode,
    PendingOrder,
    PendingType,
    Position,
    Side,
    SymbolSpec,
    Timeframe,
    TradeMode,
)

TEXT_UNITS_MAX = 29
"""The package refuses a comment or symbol of more UTF-16 units, and the whole order with it (read from its 5.0.6231 wheel)."""
SECONDS_MAX = 2**31 - 1
"""The package cuts times to 32 bits."""
ACTION_DEAL = 1
ACTION_SLTP = 6

_1970 = datetime(1970, 1, 1, tzinfo=UTC)
_SIDES = {0: Side.BUY, 1: Side.SELL}
ORDER_TYPES = {Side.BUY: 0, Side.SELL: 1}
FILLING_NUMBERS = {Filling.FOK: 0, Filling.IOC: 1, Filling.RETURN: 2}
_FILLING_FOK_BIT, _FILLING_IOC_BIT = 1, 2
MARGIN_MODES = {0: MarginMode.NETTING, 1: MarginMode.NETTING, 2: MarginMode.HEDGING}
_TRADE_MODES = {
    0: TradeMode.DISABLED,
    1: TradeMode.LONG_ONLY,
    2: TradeMode.SHORT_ONLY,
    3: TradeMode.CLOSE_ONLY,
    4: TradeMode.FULL,
}
_EXECUTIONS = {0: Execution.REQUEST, 1: Execution.INSTANT, 2: Execution.MARKET, 3: Execution.EXCHANGE}
_CALC_MODES = {
    0: CalcMode.FOREX,
    5: CalcMode.FOREX,
    1: CalcMode.FUTURES,
    33: CalcMode.FUTURES,
    39: CalcMode.OTHER,
    2: CalcMode.CFD,
    3: CalcMode.CFD_INDEX,
    4: CalcMode.CFD_LEVERAGE,
    32: CalcMode.STOCKS,
    38: CalcMode.STOCKS,
}
_PENDING_TYPES = {
    2: PendingType.BUY_LIMIT,
    3: PendingType.SELL_LIMIT,
    4: PendingType.BUY_STOP,
    5: PendingType.SELL_STOP,
    6: PendingType.BUY_STOP_LIMIT,
    7: PendingType.SELL_STOP_LIMIT,
}
_DEAL_TYPES = {0: DealType.BUY, 1: DealType.SELL, 2: DealType.BALANCE, 3: DealType.CREDIT}
_DEAL_ENTRIES = {0: DealEntry.IN, 1: DealEntry.OUT, 2: DealEntry.INOUT, 3: DealEntry.OUT_BY}
_DEAL_REASONS = {
    0: DealReason.CLIENT,
    1: DealReason.CLIENT,
    2: DealReason.CLIENT,
    3: DealReason.EXPERT,
    4: DealReason.STOP_LOSS,
    5: DealReason.TAKE_PROFIT,
    6: DealReason.STOP_OUT,
}
TIMEFRAMES = {
    Timeframe.M1: 1,
    Timeframe.M5: 5,
    Timeframe.M15: 15,
    Timeframe.M30: 30,
    Timeframe.H1: 1 | 0x4000,
    Timeframe.H4: 4 | 0x4000,
    Timeframe.D1: 24 | 0x4000,
    Timeframe.W1: 1 | 0x8000,
    Timeframe.MN1: 1 | 0xC000,
}


@functools.lru_cache(maxsize=65_536)
def number(value: float) -> Decimal:
    """Return a terminal's float as the decimal it stands for: 15 digits, which is all that a double keeps."""
    if not math.isfinite(value):
        raise Unavailable(f"the terminal shows {value!r} where a number is expected")
    return Decimal(f"{value:.15g}") if value else ZERO


@functools.lru_cache(maxsize=65_536)
def server_time(milliseconds: int) -> datetime:
    """Return a moment of the server's clock, written as if it were UTC."""
    return _1970 + timedelta(milliseconds=milliseconds)


def server_seconds(moment: datetime) -> int:
    """Return a moment of the server's clock as the whole number of seconds the package takes."""
    return min(max(0, int((moment - _1970).total_seconds())), SECONDS_MAX)


def position_of(raw: Any) -> Position:
    """Return a TradePosition; raise `Unavailable` for a type nobody knows."""
    return Position(
        ticket=raw.ticket,
        identifier=raw.identifier,
        symbol=raw.symbol,
        type=_known(_SIDES, raw.type, "type of position"),
        lots=number(raw.volume),
        open_price=number(raw.price_open),
        current_price=number(raw.price_current),
        stop_loss=number(raw.sl),
        take_profit=number(raw.tp),
        profit=number(raw.profit),
        swap=number(raw.swap),
        open_time=server_time(raw.time_msc),
        magic=raw.magic,
        comment=raw.comment,
        tag=tag_in(raw.comment),
    )


def pending_order_of(raw: Any) -> PendingOrder | None:
    """Return a TradeOrder that waits for its price; None for a market order on its way."""
    kind = _PENDING_TYPES.get(raw.type)
    if kind is None:
        return None
    return PendingOrder(
        ticket=raw.ticket,
        symbol=raw.symbol,
        type=kind,
        lots=number(raw.volume_current),
        price=number(raw.price_open),
        limit_price=number(raw.price_stoplimit),
        stop_loss=number(raw.sl),
        take_profit=number(raw.tp),
        open_time=server_time(raw.time_setup_msc),
        expiration=server_time(raw.time_expiration * 1000) if raw.time_expiration else None,
        magic=raw.magic,
        comment=raw.comment,
        tag=tag_in(raw.comment),
    )


def deal_of(raw: Any) -> Deal:
    """Return a TradeDeal; what is neither a trade nor money in or out is `other`."""
    return Deal(
        ticket=raw.ticket,
        order=raw.order,
        position_id=raw.position_id,
        symbol=raw.symbol,
        type=_DEAL_TYPES.get(raw.type, DealType.OTHER),
        entry=_DEAL_ENTRIES.get(raw.entry, DealEntry.IN),
        lots=number(raw.volume),
        price=number(raw.price),
        commission=number(raw.commission),
        fee=number(raw.fee),
        swap=number(raw.swap),
        profit=number(raw.profit),
        time=server_time(raw.time_msc),
        magic=raw.magic,
        comment=raw.comment,
        tag=tag_in(raw.comment),
        reason=_DEAL_REASONS.get(raw.reason, DealReason.OTHER),
    )


def bar_of(raw: Any) -> Bar:
    """Return one row of `copy_rates_*`."""
    return Bar(
        time=server_time(int(raw["time"]) * 1000),
        open=number(float(raw["open"])),
        high=number(float(raw["high"])),
        low=number(float(raw["low"])),
        close=number(float(raw["close"])),
        ticks=int(raw["tick_volume"]),
        spread=int(raw["spread"]),
    )


def spec_of(raw: Any, margin_per_lot: float | None = None) -> SymbolSpec:
    """Return a SymbolInfo's rules; `margin_per_lot` comes from a call of its own."""
    point = number(raw.point) or Decimal(1).scaleb(-raw.digits)
    execution = _known(_EXECUTIONS, raw.trade_exemode, "execution mode")
    return SymbolSpec(
        symbol=raw.name,
        digits=raw.digits,
        point=point,
        tick_size=number(raw.trade_tick_size) or point,
        tick_value=number(raw.trade_tick_value_profit or raw.trade_tick_value),
        tick_value_loss=number(raw.trade_tick_value_loss or raw.trade_tick_value),
        contract_size=number(raw.trade_contract_size),
        volume_min=number(raw.volume_min),
        volume_step=number(raw.volume_step),
        volume_max=number(raw.volume_max),
        volume_limit=number(raw.volume_limit),
        stops_level=raw.trade_stops_level,
        freeze_level=raw.trade_freeze_level,
        trade_mode=_known(_TRADE_MODES, raw.trade_mode, "trade mode"),
        execution=execution,
        fillings=fillings_of(execution, raw.filling_mode),
        calc_mode=_CALC_MODES.get(raw.trade_calc_mode, CalcMode.OTHER),
        currency_base=raw.currency_base,
        currency_profit=raw.currency_profit,
        currency_margin=raw.currency_margin,
        margin_per_lot=None if margin_per_lot is None else number(margin_per_lot),
    )


def fillings_of(execution: Execution, mask: int) -> tuple[Filling, ...]:
    """Return the filling modes a symbol takes, the best for a copier first: all or nothing, then what can be had.

    MetaQuotes documents the mask for market and exchange execution only: with request and instant execution every mode goes,
    with exchange execution "return" always does, with market execution never.
    """
    masked = [mode for mode, bit in ((Filling.FOK, _FILLING_FOK_BIT), (Filling.IOC, _FILLING_IOC_BIT)) if mask & bit]
    match execution:
        case Execution.REQUEST | Execution.INSTANT:
            return (Filling.FOK, Filling.IOC, Filling.RETURN)
        case Execution.MARKET:
            return tuple(masked)
        case Execution.EXCHANGE:
            return (*masked, Filling.RETURN)


def filling_candidates(spec: SymbolSpec) -> tuple[Filling, ...]:
    """Return two filling modes to try, the second for when the server refuses the first."""
    others = [mode for mode in (Filling.FOK, Filling.IOC, Filling.RETURN) if mode not in spec.fillings]
    return (*spec.fillings, *others)[:2]


class OrderRequest(TypedDict, total=False):
    """A request as the package takes it; it ignores keys it does not know, so that a slip here would be another trade."""

    action: int
    symbol: str
    volume: float
    type: int
    position: int
    price: float
    sl: float
    tp: float
    deviation: int
    magic: int
    comment: str
    type_filling: int
    type_time: int


def comment_to_send(tag: str, comment: str) -> str:
    """Return the tag and as much of the comment as the package takes."""
    return cut(comment_with_tag(tag, comment, TEXT_UNITS_MAX))


def cut(text: str) -> str:
    """Return as many characters as have room in the package's 29 UTF-16 units."""
    while units(text) > TEXT_UNITS_MAX:
        text = text[:-1]
    return text


def units(text: str) -> int:
    """Return the length of a text in UTF-16 units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def pieces(lots: Decimal, volume_max: Decimal, volume_min: Decimal) -> list[Decimal]:
    """Return the volumes of the orders that together close `lots`, none above the maximum and none below the minimum."""
    if volume_max <= ZERO or lots <= volume_max:
        return [lots]
    parts = []
    while lots > volume_max:
        rest = lots - volume_max
        part = volume_max if rest >= volume_min else lots - volume_min
        parts.append(part)
        lots -= part
    return [*parts, lots]


def average_price(fills: Iterable[tuple[Decimal, Decimal]]) -> Decimal:
    """Return the average price of (lots, price) pairs, 0 where a price is missing."""
    pairs = list(fills)
    lots = sum((each for each, _ in pairs), ZERO)
    if not lots or any(not price for _, price in pairs):
        return ZERO
    if len({price for _, price in pairs}) == 1:
        return pairs[0][1]
    return (sum((each * price for each, price in pairs), ZERO) / lots).quantize(Decimal("1e-10")).normalize()


def levels_are_allowed(spec: SymbolSpec, side: Side, closing_price: Decimal, stop: Decimal, target: Decimal) -> bool:
    """Say whether stop and target (0 is none) keep the symbol's published rules at this closing price."""
    gap = spec.stops_level * spec.point
    for level, distance in ((stop, closing_price - stop), (target, target - closing_price)):
        if level and (distance * side.sign <= 0 or distance * side.sign < gap or level % spec.tick_size):
            return False
    return True


def _known(table: dict[int, Any], value: int, what: str) -> Any:
    if value not in table:
        raise Unavailable(f"the terminal shows {value} as {what}, expected one of {', '.join(map(str, sorted(table)))}")
    return table[value]
