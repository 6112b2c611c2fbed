"""Frames of the six operations and of events <-> bytes: the only serialiser of the product.

A frame is one line of UTF-8 JSON. A request is `{"id", "op", "params", "permit"}`; its answer carries the same id and is either
`{"success": true, "data": {...}}` or `{"success": false, "error": "..."}`, with `details` for mistakes in the request, and with
`outcome`, `reason` and `code` besides, so that "surely not executed" and "unknown" stay apart on the way. The first request on
a connection is `open`, answered by what the far end offers; `{"push": "changed"}` comes unasked.
"""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeVar, assert_never

import msgspec

from copier.errors import (
    CopierError,
    Detail,
    GatewayError,
    InvalidRequest,
    OutcomeUnknown,
    ProtocolError,
    Reason,
    Rejected,
    Unavailable,
)
from copier.model import (
    ZERO,
    Account,
    Bar,
    CloseRequest,
    CloseResult,
    Deal,
    Event,
    ModifyRequest,
    ModifyResult,
    PendingOrder,
    Permit,
    Position,
    Positions,
    Quote,
    Record,
    ServerTime,
    Source,
    SymbolSpec,
    Timeframe,
    TradeRequest,
    TradeResult,
)

T = TypeVar("T")
R = TypeVar("R", bound=Record)

PROTOCOL_VERSION = 1
FRAME_BYTES_MAX = 4_000_000
"""The largest frame anyone may send; a snapshot of 2,000 positions is about 600 kB."""

MAGNITUDE_MAX = 15
"""A number of this many digits before the point is none of an account: no price, volume or sum has more."""
SMALLNESS_MAX = 30
"""Zeros after the point: computers leave such dust, and beyond this no arithmetic of ours holds."""
DIGITS_MAX = 60
"""Most digits of a number altogether."""
INTEGER_MAX = 2**64
"""Tickets are unsigned in MetaTrader 5."""


class Op(StrEnum):
    """The six operations, and the optional capabilities behind `get_deals` and below."""

    GET_ACCOUNT = "get_account"
    GET_POSITIONS = "get_positions"
    GET_QUOTE = "get_quote"
    EXECUTE_TRADE = "execute_trade"
    CLOSE_POSITION = "close_position"
    MODIFY_POSITION = "modify_position"
    GET_DEALS = "get_deals"
    GET_SYMBOLS = "get_symbols"
    GET_PENDING_ORDERS = "get_pending_orders"
    GET_BARS = "get_bars"


TRADING = frozenset({Op.EXECUTE_TRADE, Op.CLOSE_POSITION, Op.MODIFY_POSITION})


OPEN = "open"
"""The operation before all others: greets the far end, and gives it what it must know."""
CHANGED = "changed"
"""The push that says positions or orders may have changed; it may bring the positions as they are now."""
QUOTE = "quote"
"""The push of a price that moved."""
SYMBOLS_PER_FRAME = 2_000
"""A far end lists at most so many symbols in one answer; after a full answer the rest is asked for."""
DEALS_PER_FRAME = 2_000
"""The same for deals."""


class NoParams(Record, frozen=True, kw_only=True):
    """`get_account` asks for nothing."""


class SymbolsParams(Record, frozen=True, kw_only=True):
    """`get_symbols`: from the symbol at this place of the list on."""

    start: int = 0


class PositionsParams(Record, frozen=True, kw_only=True):
    """`get_positions`: all, or one symbol's."""

    symbol: str | None = None


class QuoteParams(Record, frozen=True, kw_only=True):
    """`get_quote`: of one symbol."""

    symbol: str


class DealsParams(Record, frozen=True, kw_only=True):
    """`get_deals`: since a moment of the server's clock, or of one position; from this place of the list on."""

    since: ServerTime
    position_id: int | None = None
    start: int = 0


class BarsParams(Record, frozen=True, kw_only=True):
    """`get_bars`: the last so many of a symbol."""

    symbol: str
    timeframe: Timeframe
    count: int


Params = (
    NoParams
    | PositionsParams
    | QuoteParams
    | DealsParams
    | SymbolsParams
    | BarsParams
    | TradeRequest
    | CloseRequest
    | ModifyRequest
)
_PARAMS: dict[Op, type[Any]] = {
    Op.GET_ACCOUNT: NoParams,
    Op.GET_POSITIONS: PositionsParams,
    Op.GET_QUOTE: QuoteParams,
    Op.EXECUTE_TRADE: TradeRequest,
    Op.CLOSE_POSITION: CloseRequest,
    Op.MODIFY_POSITION: ModifyRequest,
    Op.GET_DEALS: DealsParams,
    Op.GET_SYMBOLS: SymbolsParams,
    Op.GET_PENDING_ORDERS: PositionsParams,
    Op.GET_BARS: BarsParams,
}


class Request(Record, frozen=True, kw_only=True):
    """A call on its way to a far end."""

    id: int
    op: str
    params: msgspec.Raw = msgspec.Raw(b"{}")
    permit: Permit | None = None


class Answer(Record, frozen=True, kw_only=True, omit_defaults=True):
    """What came back: `data` where it succeeded, the rest where it did not."""

    success: bool
    id: int = 0
    data: msgspec.Raw = msgspec.Raw()
    error: str = ""
    details: tuple[Detail, ...] = ()
    outcome: str = ""
    """Of a failure: `invalid`, `rejected`, `unavailable` or `unknown`; absent counts as unknown for a trading call."""
    reason: str = ""
    code: int = 0
    account: str = ""


class Opening(Record, frozen=True, kw_only=True):
    """`open`: whom the caller wants to reach. Kinds of far ends that must know more extend it."""

    account: str
    """login@server"""
    protocol: int = PROTOCOL_VERSION
    token: int = 0
    """The highest owner's token the caller has used; a far end that has forgotten takes it up again."""


class Hello(Record, frozen=True, kw_only=True):
    """The answer to `open`: who is there, and which operations it offers."""

    account: str
    """login@server"""
    offers: tuple[str, ...]
    protocol: int = PROTOCOL_VERSION
    program: str = ""
    """Name and version of the far end, for the log."""


class Push(Record, frozen=True, kw_only=True, omit_defaults=True):
    """What a far end says unasked."""

    push: str
    utc_ms: int = 0
    """When it was read, by the far end's machine."""
    symbol: str = ""
    """Of a price."""
    data: msgspec.Raw = msgspec.Raw()
    """What `get_positions` or `get_quote` would have been answered at that moment."""


class PositionsData(Source, frozen=True, kw_only=True):
    """`get_positions` on the wire: the list with its sum and count."""

    positions: tuple[Position, ...]
    total_profit: Decimal
    count: int


class QuoteData(Source, frozen=True, kw_only=True):
    """`get_quote` on the wire: with the spread in price units. `spec` may be missing in a plain quote."""

    symbol: str
    bid: Decimal
    ask: Decimal
    spread: Decimal
    timestamp: ServerTime
    age_ms: int = 0
    spec: SymbolSpec


class TradeData(TradeResult, frozen=True, kw_only=True):
    """`execute_trade` on the wire."""

    success: bool = True


class CloseData(CloseResult, frozen=True, kw_only=True):
    """`close_position` on the wire."""

    success: bool = True


class ModifyData(ModifyResult, frozen=True, kw_only=True):
    """`modify_position` on the wire."""

    success: bool = True


Result = (
    Account
    | Positions
    | Quote
    | TradeResult
    | CloseResult
    | ModifyResult
    | tuple[Deal, ...]
    | tuple[SymbolSpec, ...]
    | tuple[PendingOrder, ...]
    | tuple[Bar, ...]
    | Hello
)

_encoder = msgspec.json.Encoder(decimal_format="number")
_event_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_request_decoder = msgspec.json.Decoder(Request)
_answer_decoder = msgspec.json.Decoder(Answer)
_push_decoder = msgspec.json.Decoder(Push)
_UNASKED = b'{"push"'


def encode(record: Any) -> bytes:
    """Return any record of the model as one line of JSON."""
    return _encoder.encode(record)


def decode(data: bytes, kind: type[T]) -> T:
    """Return the record in `data`; raise `ProtocolError` saying what is wrong and where."""
    return _decoded(msgspec.json.Decoder(kind), data, kind.__name__)


def decode_kept(data: bytes, kind: type[T]) -> T:
    """Return what we encoded and kept ourselves, however large: a record of a thousand followers is no frame. As `decode`."""
    return _decoded(msgspec.json.Decoder(kind), data, kind.__name__, len(data))


def encode_event(event: Event) -> bytes:
    """Return an event as one line of JSON."""
    return _encoder.encode(event)


def decode_event(data: bytes) -> Event:
    """Return the event in `data`; raise `ProtocolError`."""
    return _decoded(_event_decoder, data, "event")


def encode_open(call: int, opening: Any) -> bytes:
    """Return the frame that greets a far end with a record of what it must know."""
    return _encoder.encode(Request(id=call, op=OPEN, params=msgspec.Raw(_encoder.encode(opening))))


def encode_push(push: str) -> bytes:
    """Return the frame of something said unasked."""
    return _encoder.encode(Push(push=push))


def encode_request(call: int, op: Op, params: Params, permit: Permit | None = None) -> bytes:
    """Return the frame of one call; trading calls need a permit."""
    return _encoder.encode(Request(id=call, op=op, params=msgspec.Raw(_encoder.encode(params)), permit=permit))


def decode_request(frame: bytes) -> Request:
    """Return a call's envelope; raise `ProtocolError`. Its parameters are still to be read by `decode_params`."""
    return _decoded(_request_decoder, frame, "request")


def decode_params(op: Op, raw: bytes) -> Params:
    """Return an operation's parameters; raise `InvalidRequest` with every mistake and its path."""
    try:
        given = msgspec.json.decode(raw or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"parameters of {op}: {error}") from None
    if not isinstance(given, dict):
        raise InvalidRequest("Validation error", details=(Detail((), "Expected an object"),))
    return _params_of(_PARAMS[op], given, raw)


def _params_of(kind: type[Any], given: dict[str, Any], raw: bytes) -> Params:
    details: list[Detail] = []
    for field in msgspec.structs.fields(kind):
        name = field.encode_name
        if name not in given:
            if field.required:
                details.append(Detail((name,), "Required"))
            continue
        try:
            msgspec.convert(given[name], field.type)
        except msgspec.ValidationError as error:
            details.append(Detail((name,), str(error)))
    if details:
        raise InvalidRequest("Validation error", details=tuple(details))
    try:
        # From the text again, so that numbers become decimals without having been binary floats.
        params: Params = msgspec.json.decode(raw or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest("Validation error", details=(Detail((), str(error)),)) from None
    return params


def encode_result(call: int, result: Result) -> bytes:
    """Return the frame of a success."""
    return _encoder.encode(Answer(id=call, success=True, data=msgspec.Raw(_encoder.encode(_on_wire(result)))))


def _on_wire(result: Result) -> Any:
    match result:
        case Positions():
            total = sum((position.profit for position in result.positions), ZERO)
            return _extended(result, PositionsData, total_profit=total, count=len(result.positions))
        case Quote():
            return _extended(result, QuoteData, spread=result.spread)
        case TradeResult():
            return _extended(result, TradeData)
        case CloseResult():
            return _extended(result, CloseData)
        case ModifyResult():
            return _extended(result, ModifyData)
        case Account() | Hello() | tuple():
            return result
        case _:
            assert_never(result)


def _extended(result: Record, kind: type[T], **more: Any) -> T:
    return kind(**{name: getattr(result, name) for name in result.__struct_fields__}, **more)


def encode_error(call: int, error: CopierError) -> bytes:
    """Return the frame of a failure, in the specification's shapes."""
    match error:
        case InvalidRequest():
            answer = Answer(id=call, success=False, error=error.message, details=error.details, outcome="invalid")
        case Rejected():
            answer = Answer(id=call, success=False, error=error.message, outcome="rejected", reason=error.reason, code=error.code)
        case Unavailable():
            answer = Answer(id=call, success=False, error=error.message, outcome="unavailable")
        case GatewayError():
            answer = Answer(id=call, success=False, error=error.message, outcome="unknown")
        case _:
            answer = Answer(id=call, success=False, error=str(error), outcome="invalid")
    if isinstance(error, GatewayError) and error.account:
        answer = msgspec.structs.replace(answer, account=error.account)
    return _encoder.encode(answer)


def decode_answer(frame: bytes) -> Answer:
    """Return an answer's envelope; raise `ProtocolError`."""
    return _decoded(_answer_decoder, frame, "answer")


def decode_incoming(frame: bytes) -> Answer | Push:
    """Return what a far end said: an answer's envelope, or something unasked; raise `ProtocolError`."""
    if frame.startswith(_UNASKED):
        return _decoded(_push_decoder, frame, "push")
    try:
        return decode_answer(frame)
    except ProtocolError as error:
        try:
            return _decoded(_push_decoder, frame, "push")
        except ProtocolError:
            raise error from None


def result_of(answer: Answer, op: Op, account: str) -> Any:
    """Return what an answer holds, as the model's record; raise the error it stands for.

    An answer to a trading call that cannot be read is `OutcomeUnknown`; to a reading call, `Unavailable`.
    """
    if not answer.success:
        raise error_of(answer, op, answer.account or account)
    try:
        return _read_result(op, bytes(answer.data))
    except ProtocolError as error:
        lost = OutcomeUnknown if op in TRADING else Unavailable
        raise lost(f"the answer to {op} cannot be read: {error}", account=account) from error


def told_of(push: Push, op: Op) -> Any:
    """Return what a far end said unasked, as if it had been asked for; raise `ProtocolError`."""
    return _read_result(op, bytes(push.data))


def _read_result(op: Op, data: bytes) -> Any:
    match op:
        case Op.GET_ACCOUNT:
            return decode(data, Account)
        case Op.GET_POSITIONS:
            wired = decode(data, PositionsData)
            if wired.count != len(wired.positions):
                raise ProtocolError(f"get_positions says {wired.count} positions and lists {len(wired.positions)}")
            return _narrowed(wired, Positions)
        case Op.GET_QUOTE:
            return _narrowed(decode(data, QuoteData), Quote)
        case Op.EXECUTE_TRADE:
            return _narrowed(_succeeded(decode(data, TradeData)), TradeResult)
        case Op.CLOSE_POSITION:
            return _narrowed(_succeeded(decode(data, CloseData)), CloseResult)
        case Op.MODIFY_POSITION:
            return _narrowed(_succeeded(decode(data, ModifyData)), ModifyResult)
        case Op.GET_DEALS:
            return decode(data, tuple[Deal, ...])
        case Op.GET_SYMBOLS:
            return decode(data, tuple[SymbolSpec, ...])
        case Op.GET_PENDING_ORDERS:
            return decode(data, tuple[PendingOrder, ...])
        case Op.GET_BARS:
            return decode(data, tuple[Bar, ...])
        case _:
            assert_never(op)


def _succeeded(data: T) -> T:
    if not getattr(data, "success", False):
        raise ProtocolError("a success whose data says it is none")
    return data


def _narrowed(data: Record, kind: type[R]) -> R:
    return kind(**{name: getattr(data, name) for name in kind.__struct_fields__})


def error_of(answer: Answer, op: str, account: str) -> GatewayError:
    """Return the error a failed answer stands for; without an outcome that of a trading call is unknown."""
    match answer.outcome:
        case "invalid":
            return InvalidRequest(answer.error, account=account, details=answer.details)
        case "rejected":
            reason = Reason(answer.reason) if answer.reason in set(Reason) else Reason.REFUSED
            return Rejected(answer.error, reason=reason, code=answer.code, account=account)
        case "unavailable":
            return Unavailable(answer.error, account=account)
        case _ if op in TRADING:
            return OutcomeUnknown(answer.error, account=account)
        case _:
            return Unavailable(answer.error, account=account)


def _decoded(decoder: msgspec.json.Decoder[T], data: bytes, what: str, bytes_max: int = FRAME_BYTES_MAX) -> T:
    if len(data) > bytes_max:
        raise ProtocolError(f"{what} of {len(data)} bytes; at most {bytes_max} are read")
    try:
        found = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, ArithmeticError) as error:
        raise ProtocolError(f"not a {what}: {error}") from None
    if _may_hold_oddities(data):
        _check_values(found, what)
    return found


_PLAIN = bytes.maketrans(b"123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"000000000abcdefghijklmnopqrstuvwxyz")
_LONG = b"0" * 18
_DATE = b'"0000-00-00t'
_CENTURY = b"20"


def _may_hold_oddities(data: bytes) -> bool:
    """Look quickly whether a frame may hold a number without a value, a monstrous one, or a time no server has."""
    if not data.isascii() or b"\\" in data:
        return True
    plain = data.translate(_PLAIN)
    if b"nan" in plain or b"inf" in plain or b"0e" in plain or b".e" in plain or _LONG in plain:
        return True
    at = plain.find(_DATE)
    while at >= 0:
        if data[at + 1 : at + 3] != _CENTURY:
            return True
        at = plain.find(_DATE, at + len(_DATE))
    return False


def _is_reckonable(number: Decimal) -> bool:
    if not number:
        return number.is_finite() and len(number.as_tuple().digits) <= DIGITS_MAX
    return (
        number.is_finite() and -SMALLNESS_MAX <= number.adjusted() < MAGNITUDE_MAX and len(number.as_tuple().digits) <= DIGITS_MAX
    )


def _check_values(value: object, what: str) -> None:
    """Raise `ProtocolError` for what no arithmetic survives, anywhere in a record."""
    match value:
        case Decimal() if not _is_reckonable(value):
            raise ProtocolError(f"not a {what}: a number that no account has")
        case int() if abs(value) >= INTEGER_MAX:
            raise ProtocolError(f"not a {what}: a whole number of more than 64 bits")
        case datetime() if not 1970 <= value.year < 2200:
            raise ProtocolError(f"not a {what}: a time in the year {value.year}")
        case msgspec.Struct():
            for name in value.__struct_fields__:
                _check_values(getattr(value, name), what)
        case tuple() | list():
            for each in value:
                _check_values(each, what)
        case dict():
            for each in value.values():
                _check_values(each, what)
