"""The far end of the frames, in Python: a request's bytes -> an operation on a gateway beside us -> the answer's bytes."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar, assert_never

from copier.clock import Clock
from copier.errors import GatewayError, InvalidRequest, OutcomeUnknown, ProtocolError, Reason, Rejected, Unavailable
from copier.gateway import check_close, check_modify, check_trade
from copier.model import CloseRequest, ModifyRequest, Permit, TradeRequest
from copier.wire import (
    CHANGED,
    DEALS_PER_FRAME,
    FRAME_BYTES_MAX,
    OPEN,
    PROTOCOL_VERSION,
    SYMBOLS_PER_FRAME,
    TRADING,
    BarsParams,
    DealsParams,
    Hello,
    NoParams,
    Op,
    Opening,
    Params,
    PositionsParams,
    QuoteParams,
    Request,
    SymbolsParams,
    decode,
    decode_params,
    decode_request,
    encode_error,
    encode_result,
)

Greeting = TypeVar("Greeting", bound=Opening)

log = logging.getLogger(__name__)

_OPTIONAL = {
    Op.GET_DEALS: "deals",
    Op.GET_SYMBOLS: "symbols",
    Op.GET_PENDING_ORDERS: "pending_orders",
    Op.GET_BARS: "bars",
}


class Fence(Protocol):
    """Remembers the highest owner's token an account has seen."""

    def admit(self, token: int) -> contextlib.AbstractContextManager[None]:
        """Enter with a token to trade; raise `Rejected` for a lower one than seen, `Unavailable` where others are inside."""
        ...


class MemoryFence:
    """A fence for a far end that alone reaches its account."""

    def __init__(self) -> None:
        self.token = 0

    @contextlib.contextmanager
    def admit(self, token: int) -> Iterator[None]:
        """Enter with a token; raise `Rejected` for a lower one than seen."""
        check_token(token, self.token)
        self.token = token
        yield


def check_token(token: int, seen: int) -> None:
    """Raise `Rejected` where an owner comes whose account has passed to another."""
    if token < seen:
        raise Rejected(f"Token {token} is older than {seen}: another owner has taken over", reason=Reason.STALE_TOKEN)


def check_in_time(permit: Permit, clock: Clock) -> None:
    """Raise `Rejected` where a trading frame comes later than its not-after."""
    late_ms = clock.now_ms() - permit.not_after_ms
    if late_ms > 0:
        raise Rejected(f"The request came {late_ms} ms after its not-after", reason=Reason.TOO_LATE)


def check_opening(request: Request, kind: type[Greeting]) -> Greeting:
    """Return the record a far end is greeted with; raise `ProtocolError`, or `Unavailable` for another version of it."""
    if request.op != OPEN:
        raise ProtocolError(f"expected {OPEN} first, not {request.op!r}")
    opening = decode(bytes(request.params), kind)
    if opening.protocol != PROTOCOL_VERSION:
        message = f"the caller speaks protocol {opening.protocol}, this far end {PROTOCOL_VERSION}: update the older one"
        raise Unavailable(message, account=opening.account)
    return opening


class FarEnd:
    """Answers frames with one gateway-like object, whose operations are plain functions or coroutines.

    An optional capability is offered where the object's attribute of that name (`deals`, `symbols`, `pending_orders`, `bars`)
    is there and not None; pushes where `wakes` is. Frames are answered one after the other.
    """

    def __init__(self, gateway: Any, account: str, *, clock: Clock, fence: Fence | None = None, program: str = "") -> None:
        """`account` is login@server; `program` names this far end in the caller's log."""
        self.account = account
        self._gateway = gateway
        self._clock = clock
        self._fence = fence or MemoryFence()
        self._program = program
        self._offered: dict[Op, Any] = {op: getattr(gateway, name, None) for op, name in _OPTIONAL.items()}

    def hello(self) -> Hello:
        """Return who is here and what is offered."""
        offers = [op for op in Op if self._offered.get(op) is not None or op not in _OPTIONAL]
        if getattr(self._gateway, "wakes", None) is not None:
            return Hello(account=self.account, offers=(*offers, CHANGED), program=self._program)
        return Hello(account=self.account, offers=tuple(offers), program=self._program)

    def answer(self, frame: bytes) -> bytes:
        """Return the answer to a frame, of a gateway whose operations are plain functions."""
        request = _request(frame)
        if isinstance(request, bytes):
            return request
        try:
            op, params, permit = self._understood(request)
            if op is None:
                return self._opened(request)
            with self._admitted(op, permit):
                result = self._operation(op, params, permit)()
            return self._success(request.id, op, params, result)
        except Exception as error:
            return self._failure(request, error)

    async def answer_async(self, frame: bytes) -> bytes:
        """Return the answer to a frame, of a gateway whose operations are coroutines."""
        request = _request(frame)
        if isinstance(request, bytes):
            return request
        try:
            op, params, permit = self._understood(request)
            if op is None:
                return self._opened(request)
            with self._admitted(op, permit):
                result = await self._operation(op, params, permit)()
            return self._success(request.id, op, params, result)
        except Exception as error:
            return self._failure(request, error)

    def _understood(self, request: Request) -> tuple[Op | None, Params, Permit | None]:
        if request.op == OPEN:
            return None, NoParams(), None
        if request.op not in set(Op):
            raise InvalidRequest(f"There is no operation {request.op!r}")
        op = Op(request.op)
        if op in _OPTIONAL and self._offered[op] is None:
            raise InvalidRequest(f"{op} is not offered here")
        params = decode_params(op, bytes(request.params))
        match params:
            case TradeRequest():
                check_trade(params)
            case CloseRequest():
                check_close(params)
            case ModifyRequest():
                check_modify(params)
        return op, params, request.permit

    def _opened(self, request: Request) -> bytes:
        opening = check_opening(request, Opening)
        if opening.account != self.account:
            raise Unavailable(f"expected {opening.account}, here is {self.account}")
        if opening.token:
            with self._fence.admit(opening.token):
                pass
        return encode_result(request.id, self.hello())

    @contextlib.contextmanager
    def _admitted(self, op: Op, permit: Permit | None) -> Iterator[None]:
        if op not in TRADING:
            yield
        elif permit is None:
            raise InvalidRequest(f"{op} needs a permit")
        else:
            with self._fence.admit(permit.token):
                check_in_time(permit, self._clock)
                yield

    def _operation(self, op: Op, params: Params, permit: Permit | None) -> Callable[[], Any]:
        gateway = self._gateway
        match params:
            case TradeRequest():
                return lambda: gateway.execute_trade(params, permit)
            case CloseRequest():
                return lambda: gateway.close_position(params, permit)
            case ModifyRequest():
                return lambda: gateway.modify_position(params, permit)
            case QuoteParams(symbol=symbol):
                return lambda: gateway.get_quote(symbol)
            case PositionsParams(symbol=symbol) if op is Op.GET_POSITIONS:
                return lambda: gateway.get_positions(symbol)
            case PositionsParams(symbol=symbol):
                return lambda: self._offered[op].get_pending_orders(symbol)
            case DealsParams(since=since, position_id=position_id):
                return lambda: self._offered[op].get_deals(since, position_id)
            case BarsParams(symbol=symbol, timeframe=timeframe, count=count):
                return lambda: self._offered[op].get_bars(symbol, timeframe, count)
            case SymbolsParams():
                return lambda: self._offered[op].get_symbols()
            case NoParams():
                return lambda: gateway.get_account()
            case _:
                assert_never(params)

    def _success(self, call: int, op: Op, params: Params, result: Any) -> bytes:
        if isinstance(params, SymbolsParams):
            result = result[params.start : params.start + SYMBOLS_PER_FRAME]
        elif isinstance(params, DealsParams):
            result = result[params.start : params.start + DEALS_PER_FRAME]
        frame = encode_result(call, result)
        if len(frame) <= FRAME_BYTES_MAX:
            return frame
        message = f"the answer to {op} has {len(frame)} bytes, at most {FRAME_BYTES_MAX} can be sent: ask for less"
        return encode_error(call, OutcomeUnknown(message) if op in TRADING else Unavailable(message))

    def _failure(self, request: Request, error: Exception) -> bytes:
        if isinstance(error, GatewayError | ProtocolError):
            return encode_error(request.id, error)
        log.error("%s: %s failed", self.account, request.op, exc_info=error)
        message = f"{request.op} failed at the far end: {type(error).__name__}: {error}"
        return encode_error(request.id, OutcomeUnknown(message) if request.op in TRADING else Unavailable(message))


def _request(frame: bytes) -> Request | bytes:
    try:
        return decode_request(frame)
    except ProtocolError as error:
        return encode_error(0, error)
