"""A gateway whose far end speaks frames over a carrier: a child process, an Expert Advisor behind a socket, a pipe or files."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from copier.clock import Clock
from copier.errors import GatewayError, OutcomeUnknown, ProtocolError, Reason, Rejected, Unavailable
from copier.gateway import NOT_CONNECTED, GatewayFacts, check_close, check_modify, check_trade
from copier.gateways.carriers import Carrier, Link, LinkLost, NotSent
from copier.gateways.told import Told
from copier.model import (
    Account,
    Bar,
    CloseRequest,
    CloseResult,
    Deal,
    ModifyRequest,
    ModifyResult,
    PendingOrder,
    Permit,
    Positions,
    Quote,
    Source,
    SymbolSpec,
    Timeframe,
    TradeRequest,
    TradeResult,
)
from copier.wire import (
    CHANGED,
    DEALS_PER_FRAME,
    OPEN,
    PROTOCOL_VERSION,
    SYMBOLS_PER_FRAME,
    TRADING,
    Answer,
    BarsParams,
    DealsParams,
    Hello,
    NoParams,
    Op,
    Opening,
    Params,
    PositionsParams,
    Push,
    QuoteParams,
    SymbolsParams,
    decode,
    decode_incoming,
    encode_open,
    encode_request,
    error_of,
    result_of,
)

log = logging.getLogger(__name__)

S = TypeVar("S", bound=Source)

PAUSE_MIN_S = 0.5
PAUSE_MAX_S = 60.0
LIFE_GOOD_S = 60.0
"""A link that lived this long was a good one: the next pause is short again."""
LATE_KEPT = 100
SYMBOLS_MAX = 200_000
DEALS_MAX = 1_000_000


class RemoteGateway:
    """A `Gateway` to the account at the far end of a carrier; the link is made anew, with growing pauses, whenever it breaks."""

    def __init__(
        self,
        carrier: Carrier,
        facts: GatewayFacts,
        opening: Opening,
        *,
        clock: Clock,
        in_flight_max: int = 16,
        open_timeout_s: float = 30.0,
        pause_max_s: float = PAUSE_MAX_S,
    ) -> None:
        """`opening.account` (login@server) is who must be there; `in_flight_max` is 1 where calls are served one by one.

        `pause_max_s` bounds the pause between attempts at a new link: short where an attempt is only waiting.
        """
        self.account = opening.account
        self.facts = facts
        self._carrier = carrier
        self._opening = opening
        self._clock = clock
        self._open_timeout_s = open_timeout_s
        self._pause_max_s = pause_max_s
        self._slots = asyncio.Semaphore(in_flight_max)
        self._session: _Session | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._trouble = "it was not opened"
        self._offers: frozenset[str] = frozenset()
        self._wakes: list[Callable[[], None]] = []
        self._told = Told(self.account, clock)
        self._reads = 0
        self._token = opening.token

    @property
    def deals(self) -> "RemoteGateway | None":
        """The account's history, if the far end has it."""
        return self if Op.GET_DEALS in self._offers else None

    @property
    def symbols(self) -> "RemoteGateway | None":
        """The broker's symbols, if the far end can list them."""
        return self if Op.GET_SYMBOLS in self._offers else None

    @property
    def pending_orders(self) -> "RemoteGateway | None":
        """The orders that wait for their price, if the far end can list them."""
        return self if Op.GET_PENDING_ORDERS in self._offers else None

    @property
    def bars(self) -> "RemoteGateway | None":
        """Past prices, if the far end has them."""
        return self if Op.GET_BARS in self._offers else None

    @property
    def wakes(self) -> "RemoteGateway | None":
        """A wake-up on changes, if the far end says when something changed."""
        return self if CHANGED in self._offers else None

    @property
    def tells(self) -> "RemoteGateway | None":
        """What the far end says by itself, if it says when something changed."""
        return self if CHANGED in self._offers else None

    @property
    def connected(self) -> bool:
        """Whether there is a link to the far end just now."""
        return self._session is not None

    async def open(self) -> None:
        """Connect and verify that it is the right account; raise `Unavailable` with what to mend."""
        if self._keeper is not None:
            self._live()
            return
        session = await self._start()
        self._keeper = asyncio.create_task(self._keep(session), name=f"link of {self.account}")

    async def close(self) -> None:
        """Let go of everything; trading calls under way end as `OutcomeUnknown`."""
        self._trouble = "it was closed"
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        session, self._session = self._session, None
        if session is not None:
            await session.end(self._trouble)
        await self._carrier.close()

    async def get_account(self) -> Account:
        """Return the account's state now; raise `Unavailable`."""
        return await self._read(Op.GET_ACCOUNT, NoParams(), Account)

    async def get_positions(self, symbol: str | None = None) -> Positions:
        """Return every open position, or those of one symbol; raise `Unavailable`."""
        return await self._read(Op.GET_POSITIONS, PositionsParams(symbol=symbol), Positions)

    async def get_quote(self, symbol: str) -> Quote:
        """Return bid, ask and the symbol's rules; raise `Rejected` for an unknown symbol, `Unavailable` without a price."""
        return await self._read(Op.GET_QUOTE, QuoteParams(symbol=symbol), Quote)

    async def execute_trade(self, request: TradeRequest, permit: Permit) -> TradeResult:
        """Open at market; raise `InvalidRequest`, `Rejected`, `Unavailable` (not sent) or `OutcomeUnknown`."""
        check_trade(request, self.account)
        return await self._trade(Op.EXECUTE_TRADE, request, permit, TradeResult)

    async def close_position(self, request: CloseRequest, permit: Permit) -> CloseResult:
        """Close by ticket, wholly or in part; the same errors."""
        check_close(request, self.account)
        return await self._trade(Op.CLOSE_POSITION, request, permit, CloseResult)

    async def modify_position(self, request: ModifyRequest, permit: Permit) -> ModifyResult:
        """Set stop and target to values; unchanged values are a success; the same errors."""
        check_modify(request, self.account)
        return await self._trade(Op.MODIFY_POSITION, request, permit, ModifyResult)

    async def get_deals(self, since: datetime, position_id: int | None = None) -> tuple[Deal, ...]:
        """Return deals from `since` (server clock) on, oldest first, or all of one position; raise `Unavailable`."""
        deals: list[Deal] = []
        while len(deals) < DEALS_MAX:
            part = await self._call(Op.GET_DEALS, DealsParams(since=since, position_id=position_id, start=len(deals)))
            deals += part
            if len(part) < DEALS_PER_FRAME:
                return tuple(deals)
        raise Unavailable(f"the far end lists more than {DEALS_MAX} deals since {since}", account=self.account)

    async def get_symbols(self) -> tuple[SymbolSpec, ...]:
        """Return the rules of every symbol; raise `Unavailable`."""
        specs: list[SymbolSpec] = []
        while len(specs) < SYMBOLS_MAX:
            part = await self._call(Op.GET_SYMBOLS, SymbolsParams(start=len(specs)))
            specs += part
            if len(part) < SYMBOLS_PER_FRAME:
                return tuple(specs)
        raise Unavailable(f"the far end lists more than {SYMBOLS_MAX} symbols", account=self.account)

    async def get_pending_orders(self, symbol: str | None = None) -> tuple[PendingOrder, ...]:
        """Return every waiting order, or those of one symbol, oldest first; raise `Unavailable`."""
        orders: tuple[PendingOrder, ...] = await self._call(Op.GET_PENDING_ORDERS, PositionsParams(symbol=symbol))
        return orders

    async def get_bars(self, symbol: str, timeframe: Timeframe, count: int) -> tuple[Bar, ...]:
        """Return the last `count` bars, the one still forming last; raise `Rejected` for an unknown symbol, `Unavailable`."""
        params = BarsParams(symbol=symbol, timeframe=timeframe, count=count)
        bars: tuple[Bar, ...] = await self._call(Op.GET_BARS, params)
        return bars

    def on_change(self, wake: Callable[[], None]) -> None:
        """Call `wake` after anything about positions or orders may have changed, and after every new link."""
        self._wakes.append(wake)

    def positions_told(self) -> tuple[Positions, int] | None:
        """Return all positions as the far end told them by itself, and when they were read; None where asking tells more."""
        return self._told.positions() if self._session is not None else None

    def quote_told(self, symbol: str) -> tuple[Quote, int] | None:
        """Return the price the far end told since it was last asked for it, and when it was read; None where there is none."""
        return self._told.quote(symbol) if self._session is not None else None

    # one call

    async def _read(self, op: Op, params: Params, kind: type[S]) -> S:
        result: S = await self._call(op, params)
        if result.account != self.account:
            raise Unavailable(f"the answer to {op} is of {result.account}, not of {self.account}", account=self.account)
        return result

    async def _trade(self, op: Op, params: Params, permit: Permit, kind: type[S]) -> S:
        self._token = max(self._token, permit.token)
        result: S = await self._call(op, params, permit)
        if result.account != self.account:
            raise OutcomeUnknown(f"{op} was answered by {result.account}, not by {self.account}", account=self.account)
        return result

    async def _call(self, op: Op, params: Params, permit: Permit | None = None) -> Any:
        """Ask and wait until the deadline; what is not surely unsent and gets no answer is unknown, or for a read unavailable."""
        call: _Call | None = None
        session = self._live()
        timeout_s = self.facts.call_timeout_s
        try:
            async with asyncio.timeout(timeout_s), self._slots:
                session = self._live()
                if permit is not None and self._clock.now_ms() > permit.not_after_ms:
                    raise Rejected(f"{op} is too late to be sent", reason=Reason.TOO_LATE, account=self.account)
                self._reads += 1
                read = self._reads
                call = session.expect(op, params)
                await session.link.send(encode_request(call.id, op, params, permit))
                answer = await call.answer
        except TimeoutError:
            if call is None:
                raise Unavailable(
                    f"{op} was not sent: {timeout_s:g} s went by behind other calls", account=self.account
                ) from None
            session.overdue(call)
            raise self._lost(op, f"no answer to {op} within {timeout_s:g} s") from None
        except NotSent as error:
            raise Unavailable(f"{op} was not sent: {error}", account=self.account) from error
        except LinkLost as error:
            raise self._lost(op, f"no answer to {op}: {error}") from error
        finally:
            if call is not None:
                session.calls.pop(call.id, None)
        result = result_of(answer, op, self.account)
        return msgspec.structs.replace(result, read=read) if isinstance(result, Source) else result

    def _lost(self, op: Op, message: str) -> GatewayError:
        return OutcomeUnknown(message, account=self.account) if op in TRADING else Unavailable(message, account=self.account)

    def _live(self) -> "_Session":
        if self._session is None:
            raise Unavailable(f"{NOT_CONNECTED}: {self._trouble}", account=self.account)
        return self._session

    # the link

    async def _start(self) -> "_Session":
        """Make a link and greet the far end; raise `Unavailable` with what to mend."""
        try:
            async with asyncio.timeout(self._open_timeout_s):
                link = await self._carrier.connect()
                try:
                    self._told.forget()
                    session = _Session(self.account, link, self._told)
                    self._greeted(await self._greet(session))
                except BaseException:
                    await asyncio.shield(link.close())
                    raise
        except TimeoutError:
            message = f"the far end did not answer within {self._open_timeout_s:g} s"
            raise Unavailable(message, account=self.account) from None
        except (LinkLost, ProtocolError) as error:
            raise Unavailable(str(error), account=self.account) from error
        self._session = session
        self._wake()
        return session

    def _hear(self, push: Push) -> None:
        self._reads += 1
        self._told.hear(push, self._reads)
        if push.push == CHANGED:
            self._wake()

    def _wake(self) -> None:
        for wake in tuple(self._wakes):
            wake()

    async def _greet(self, session: "_Session") -> Hello:
        await session.link.send(encode_open(0, msgspec.structs.replace(self._opening, token=self._token)))
        while True:
            incoming = decode_incoming(await session.link.receive())
            if isinstance(incoming, Answer) and incoming.id == 0:
                break
        if not incoming.success:
            raise Unavailable(error_of(incoming, OPEN, self.account).message, account=self.account)
        return decode(bytes(incoming.data), Hello)

    def _greeted(self, hello: Hello) -> None:
        if hello.protocol != PROTOCOL_VERSION:
            message = f"the far end {hello.program} speaks protocol {hello.protocol}, expected {PROTOCOL_VERSION}: update it"
            raise Unavailable(message, account=self.account)
        if hello.account != self.account:
            raise Unavailable(f"expected {self.account}, the far end is logged in to {hello.account}", account=self.account)
        self._offers = frozenset(hello.offers)
        log.info("%s: connected to %s", self.account, hello.program or "its far end")

    async def _keep(self, session: "_Session") -> None:
        """Carry frames while the link lives; when it breaks make another, for ever, at most once a minute in the long run."""
        loop = asyncio.get_running_loop()
        pause_s = PAUSE_MIN_S
        while True:
            born = loop.time()
            self._trouble = await session.carry(self._hear)
            self._session = None
            await session.end(self._trouble)
            log.warning("%s: link lost: %s", self.account, self._trouble)
            if loop.time() - born > LIFE_GOOD_S:
                pause_s = PAUSE_MIN_S
            while self._session is None:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, self._pause_max_s)
                try:
                    session = await self._start()
                except Unavailable as error:
                    self._trouble = error.message
                    log.warning("%s: no link: %s; next attempt in %g s", self.account, error.message, pause_s)


class _Call:
    """A question on its way."""

    __slots__ = ("answer", "id", "op", "params")

    def __init__(self, id: int, op: Op, params: Params) -> None:
        self.id = id
        self.op = op
        self.params = params
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()


class _Session:
    """One life of a link, and the calls that wait on it."""

    def __init__(self, account: str, link: Link, told: Told) -> None:
        self.account = account
        self.link = link
        self._told = told
        self.calls: dict[int, _Call] = {}
        self._late: deque[_Call] = deque(maxlen=LATE_KEPT)
        self._next = 0

    def expect(self, op: Op, params: Params) -> _Call:
        """Return a new call that waits for its answer."""
        self._next += 1
        call = self.calls[self._next] = _Call(self._next, op, params)
        return call

    def overdue(self, call: _Call) -> None:
        """Note that nobody waits for this answer any more."""
        self._late.append(call)
        self.link.overdue()

    async def carry(self, hear: Callable[[Push], None]) -> str:
        """Hand out frames until the link breaks, what comes unasked to `hear`; return why it did."""
        while True:
            try:
                incoming = decode_incoming(await self.link.receive())
            except (LinkLost, ProtocolError) as error:
                return str(error)
            match incoming:
                case Push():
                    hear(incoming)
                case Answer():
                    self._hand_out(incoming)

    def _hand_out(self, answer: Answer) -> None:
        call = self.calls.get(answer.id)
        if call is not None and not call.answer.done():
            if answer.success:
                self._told.answered(call.op, call.params)
            call.answer.set_result(answer)
            return
        for late in self._late:
            if late.id == answer.id:
                outcome = "done" if answer.success else answer.outcome or answer.error
                log.warning("%s: answer to %s came after its deadline: %s", self.account, late.op, outcome)

    async def end(self, why: str) -> None:
        """Break the link and tell every waiting call."""
        for call in tuple(self.calls.values()):
            if not call.answer.done():
                call.answer.set_exception(LinkLost(why))
                call.answer.exception()  # or asyncio complains where the caller has already left
        with contextlib.suppress(OSError):
            await self.link.close()
