"""MT5Manager's records <-> the model, without any call: volumes, positions, deals, symbols, rights, return codes.

Most numbers are those of the client terminal; the reasons of deals and positions are not.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from copier.errors import GatewayError, OutcomeUnknown, Reason, Rejected, Unavailable
from copier.gateway import NOT_CONNECTED, TRADE_FAILED
from copier.gateways.comments import tag_in
from copier.gateways.mt5_codes import RETCODES, retcode_error
from copier.gateways.mt5_values import fillings_of, number, server_time
from copier.model import (
    ZERO,
    CalcMode,
    Deal,
    DealEntry,
    DealReason,
    DealType,
    Execution,
    Position,
    Side,
    SymbolSpec,
    TradeMode,
)

VOLUME = Decimal(10_000)
"""One lot in `Volume`."""
VOLUME_EXT = Decimal(100_000_000)
"""One lot in `VolumeExt`."""
COMMENT_MAX = 31
"""A comment has room for 32 characters with the end (MetaQuotes' reference)."""

POS_EXECUTE, POS_MODIFY = 200, 202
"""The dealer's actions to deal at market and to set a position's levels; a trader's own actions are refused here."""
FLAG_CLOSE, FLAG_CHANGED_SL, FLAG_CHANGED_TP = 1, 16, 32
RIGHT_ENABLED, RIGHT_TRADE_DISABLED, RIGHT_READONLY = 1, 4, 512
PUMPS = ("USERS", "ORDERS", "POSITIONS", "GROUPS", "SYMBOLS", "TIME")

_SIDES = {0: Side.BUY, 1: Side.SELL}
TRADE_MODES = {
    0: TradeMode.DISABLED,
    1: TradeMode.LONG_ONLY,
    2: TradeMode.SHORT_ONLY,
    3: TradeMode.CLOSE_ONLY,
    4: TradeMode.FULL,
}
EXECUTIONS = {0: Execution.REQUEST, 1: Execution.INSTANT, 2: Execution.MARKET, 3: Execution.EXCHANGE}
CALC_MODES = {
    0: CalcMode.FOREX,
    5: CalcMode.FOREX,
    1: CalcMode.FUTURES,
    33: CalcMode.FUTURES,
    34: CalcMode.FUTURES,
    2: CalcMode.CFD,
    3: CalcMode.CFD_INDEX,
    4: CalcMode.CFD_LEVERAGE,
    32: CalcMode.STOCKS,
    38: CalcMode.STOCKS,
}
_DEAL_TYPES = {0: DealType.BUY, 1: DealType.SELL, 2: DealType.BALANCE, 3: DealType.CREDIT}
_DEAL_ENTRIES = {0: DealEntry.IN, 1: DealEntry.OUT, 2: DealEntry.INOUT, 3: DealEntry.OUT_BY}
DEAL_REASONS = {
    0: DealReason.CLIENT,
    1: DealReason.EXPERT,
    3: DealReason.STOP_LOSS,
    4: DealReason.TAKE_PROFIT,
    5: DealReason.STOP_OUT,
    16: DealReason.CLIENT,
    17: DealReason.CLIENT,
}
"""By the Manager's number, which is not the terminal's: there 3 is an expert and 4 a stop."""

REQUOTE_RETURN = 11002
_RETURNED = {11000: Reason.REFUSED, REQUOTE_RETURN: Reason.REQUOTE}
"""The request came back without having been executed."""
UNDER_WAY = frozenset({10001, 10002, 10003})
"""In the queue, accepted, being processed: another answer follows."""

ERR_NOT_FOUND = 13
ERRORS = {
    2: "error",
    3: "invalid parameters",
    7: "network error",
    8: "the manager account has not the right to do this: grant it in MetaTrader 5 Administrator",
    9: "no answer in time",
    10: "no connection to the server",
    11: "the server is not available",
    12: "too many requests",
    13: "not found",
    1000: "the client is not valid",
    1001: "wrong manager login or password",
    1002: "the manager account is disabled",
    1011: "this login is no manager: it needs a manager configuration in MetaTrader 5 Administrator",
    1012: "this machine's IP address is not allowed for this manager account",
}
"""By the package's number, for people."""
_NOT_SENT = {10, 11}


def lots_of(volume: int, volume_ext: int = 0) -> Decimal:
    """Return lots of a pair of whole numbers; the finer one counts where it is there."""
    lots = Decimal(volume_ext) / VOLUME_EXT if volume_ext else Decimal(volume) / VOLUME
    return lots.normalize() if lots else ZERO


def volumes_of(lots: Decimal) -> dict[str, int]:
    """Return the field of a request that says these lots exactly; raise `Rejected` where none can."""
    for name, unit in (("Volume", VOLUME), ("VolumeExt", VOLUME_EXT)):
        scaled = lots * unit
        if scaled == scaled.to_integral_value():
            return {name: int(scaled)}
    raise Rejected(f"{TRADE_FAILED}: {lots} lots are finer than the server counts", reason=Reason.INVALID_VOLUME, code=10014)


def position_of(raw: Any) -> Position:
    """Return a MTPosition; raise `Unavailable` for an action nobody knows.

    MetaQuotes documents `ExpertPositionID` as the identifier that survives a reversal, `Position` as what a reversal replaces.
    """
    return Position(
        ticket=raw.Position,
        identifier=raw.ExpertPositionID or raw.Position,
        symbol=raw.Symbol,
        type=_known(_SIDES, raw.Action, "action of a position"),
        lots=lots_of(raw.Volume, raw.VolumeExt),
        open_price=number(raw.PriceOpen),
        current_price=number(raw.PriceCurrent),
        stop_loss=number(raw.PriceSL),
        take_profit=number(raw.PriceTP),
        profit=number(raw.Profit),
        swap=number(raw.Storage),
        open_time=server_time(raw.TimeCreateMsc or raw.TimeCreate * 1000),
        magic=raw.ExpertID,
        comment=raw.Comment,
        tag=tag_in(raw.Comment),
    )


def deal_of(raw: Any) -> Deal:
    """Return a MTDeal; what is neither a trade nor money in or out is `other`."""
    return Deal(
        ticket=raw.Deal,
        order=raw.Order,
        position_id=raw.PositionID,
        symbol=raw.Symbol,
        type=_DEAL_TYPES.get(raw.Action, DealType.OTHER),
        entry=_DEAL_ENTRIES.get(raw.Entry, DealEntry.IN),
        lots=lots_of(raw.Volume, raw.VolumeExt),
        price=number(raw.Price),
        commission=number(raw.Commission),
        fee=number(raw.Fee),
        swap=number(raw.Storage),
        profit=number(raw.Profit),
        time=server_time(raw.TimeMsc or raw.Time * 1000),
        magic=raw.ExpertID,
        comment=raw.Comment,
        tag=tag_in(raw.Comment),
        reason=DEAL_REASONS.get(raw.Reason, DealReason.OTHER),
    )


def spec_of(raw: Any, tick_value: Decimal = ZERO, tick_value_loss: Decimal = ZERO) -> SymbolSpec:
    """Return a MTConSymbol's rules; the values of a tick come from a calculation of their own, 0 where nobody made it."""
    execution = _known(EXECUTIONS, raw.ExecMode, "execution mode")
    return SymbolSpec(
        symbol=raw.Symbol,
        digits=raw.Digits,
        point=point_of(raw),
        tick_size=tick_size_of(raw),
        tick_value=tick_value,
        tick_value_loss=tick_value_loss,
        contract_size=number(raw.ContractSize),
        volume_min=lots_of(raw.VolumeMin, raw.VolumeMinExt),
        volume_step=lots_of(raw.VolumeStep, raw.VolumeStepExt),
        volume_max=lots_of(raw.VolumeMax, raw.VolumeMaxExt),
        volume_limit=lots_of(raw.VolumeLimit, raw.VolumeLimitExt),
        stops_level=raw.StopsLevel,
        freeze_level=raw.FreezeLevel,
        trade_mode=_known(TRADE_MODES, raw.TradeMode, "trade mode"),
        execution=execution,
        fillings=fillings_of(execution, raw.FillFlags),
        calc_mode=CALC_MODES.get(raw.CalcMode, CalcMode.OTHER),
        currency_base=raw.CurrencyBase,
        currency_profit=raw.CurrencyProfit,
        currency_margin=raw.CurrencyMargin,
    )


def point_of(raw: Any) -> Decimal:
    """Return the last digit of a MTConSymbol's price."""
    return number(raw.Point) or Decimal(1).scaleb(-raw.Digits)


def tick_size_of(raw: Any) -> Decimal:
    """Return the least move of a MTConSymbol's price; currencies have none of their own."""
    return number(raw.TickSize) or point_of(raw)


def blockers_of(user: Any) -> tuple[str, ...]:
    """Return what in a MTUser's rights stops trading; a dealer's order may ignore them, ours do not."""
    rights = int(user.Rights)
    return (
        *(() if rights & RIGHT_ENABLED else ("the account is disabled at the broker",)),
        *(("the broker has disabled trading on this account",) if rights & RIGHT_TRADE_DISABLED else ()),
        *(("the account is read-only at the broker",) if rights & RIGHT_READONLY else ()),
    )


def check_volume(spec: SymbolSpec, lots: Decimal, account: str) -> None:
    """Raise `Rejected` for a volume off the step: some servers take it as an order that never fills and blocks every close."""
    off_step = spec.volume_step and lots % spec.volume_step
    if off_step or lots < spec.volume_min or (spec.volume_max and lots > spec.volume_max):
        rule = f"expected {spec.volume_min} to {spec.volume_max} in steps of {spec.volume_step}"
        message = f"{TRADE_FAILED}: {lots} lots of {spec.symbol}: {rule}; nothing was sent"
        raise Rejected(message, reason=Reason.INVALID_VOLUME, code=10014, account=account)


_MODE_CODES = {TradeMode.DISABLED: 10017, TradeMode.CLOSE_ONLY: 10044}


def check_side(spec: SymbolSpec, side: Side, account: str) -> None:
    """Raise `Rejected` where a symbol may not be opened on this side: a dealer's order might pass where a trader's would not."""
    code = _MODE_CODES.get(spec.trade_mode)
    if spec.trade_mode is TradeMode.LONG_ONLY and side is Side.SELL:
        code = 10042
    if spec.trade_mode is TradeMode.SHORT_ONLY and side is Side.BUY:
        code = 10043
    if code is not None:
        raise retcode_error(code, spec.symbol, account)


def answer_error(retcode: int, comment: str, account: str) -> GatewayError:
    """Return the error of an answer that is neither done nor placed; one nobody knows is unknown."""
    if retcode in _RETURNED:
        message = f"{TRADE_FAILED}: the request was returned ({retcode}: {comment})"
        return Rejected(message, reason=_RETURNED[retcode], code=retcode, account=account)
    return retcode_error(retcode, comment, account)


def send_error(code: int, text: str, account: str) -> GatewayError:
    """Return what it means that `DealerSend` returned False: True only means sent, False mostly means not."""
    message = f"{ERRORS.get(code, 'error')} ({code}: {text})"
    if code in _NOT_SENT:
        return Unavailable(f"{NOT_CONNECTED}: {message}", account=account)
    if code in RETCODES:
        return retcode_error(code, text, account)
    reasons = {3: Reason.REFUSED, 8: Reason.TRADE_DISABLED, 12: Reason.TOO_MANY_REQUESTS, 13: Reason.REFUSED}
    if code in reasons:
        return Rejected(f"{TRADE_FAILED}: {message}", reason=reasons[code], code=code, account=account)
    return OutcomeUnknown(message, account=account)


def names(found: Iterable[Any]) -> str:
    """Return a list for people."""
    return ", ".join(str(each) for each in found)


def _known(table: dict[int, Any], value: int, what: str) -> Any:
    if value not in table:
        raise Unavailable(f"the server shows {value} as {what}, expected one of {names(sorted(table))}")
    return table[value]
