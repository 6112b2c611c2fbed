"""The six operations on an account of a simulated trade server, with everything that can go wrong on the way."""

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

import msgspec

from copier.clock import Clock
from copier.errors import InvalidRequest, Reason, Rejected, Unavailable
from copier.gateway import (
    LOTS_EXCEED,
    NOT_CONNECTED,
    GatewayFacts,
    check_close,
    check_modify,
    check_modify_of,
    check_trade,
    no_quote,
    not_found,
)
from copier.gateways.comments import child_in, comment_with_tag, parent_in
from copier.gateways.paper_account import PaperAccount, server_time
from copier.gateways.paper_faults import NO_FAULT, Answer, Fault, Faults, Operation
from copier.gateways.paper_link import Call, FarEnd, LaggingList
from copier.gateways.paper_orders import MarketOrder
from copier.gateways.paper_server import PaperServer
from copier.model import (
    Account,
    CloseRequest,
    CloseResult,
    Deal,
    DealReason,
    Execution,
    Filling,
    MarginMode,
    ModifyRequest,
    ModifyResult,
    PendingOrder,
    Permit,
    Position,
    Positions,
    Quote,
    SymbolSpec,
    TradeRequest,
    TradeResult,
)

T = TypeVar("T")


class PaperGateway:
    """A `Gateway` to one login of a `PaperServer`; several may be open on the same account."""

    def __init__(
        self,
        server: PaperServer,
        login: int,
        *,
        clock: Clock | None = None,
        faults: Faults | None = None,
        settle_s: float = 0.5,
        call_timeout_s: float = 10.0,
        latency_s: float = 0.0,
        tags_survive: bool = True,
        without: frozenset[str] = frozenset(),
    ) -> None:
        """`clock` is the far end's own, against which a not-after is judged; `without` names capabilities to leave out."""
        self.server = server
        self.login = login
        self.faults = faults or Faults()
        self.autotrading = True
        """The terminal's own switch."""
        self.facts = GatewayFacts(kind="paper", settle_s=settle_s, call_timeout_s=call_timeout_s, tags_survive=tags_survive)
        self.deals = None if "deals" in without else self
        self.symbols = None if "symbols" in without else self
        self.wakes = None if "wakes" in without else self
        self.pending_orders = None if "pending_orders" in without else self
        self._clock = clock or server.clock
        self._latency_s = latency_s
        self._wakes: list[Callable[[], None]] = []
        self._calls: set[Call[Any]] = set()
        self._far_end = FarEnd(self._admit, lambda: server.online, self.label)
        self._opened_s: float | None = None
        self._listed = LaggingList(server, login, self.faults)
        self._roots: dict[int, int] = {}
        self._sent_ms: deque[int] = deque()

    @property
    def label(self) -> str:
        """login@server."""
        return f"{self.login}@{self.server.name}"

    async def open(self) -> None:
        """Connect; raise `Unavailable` where the server is down or does not know the login."""
        if not self.server.online or self.faults.offline:
            raise Unavailable(NOT_CONNECTED, account=self.label)
        account = self.server.accounts.get(self.login)
        if account is None:
            raise Unavailable(f"{self.server.name} knows no login {self.login}: mend login or server", account=self.label)
        if self._opened_s is None:
            account.listeners.append(self._changed)
            self._listed.start()
        self._opened_s = asyncio.get_running_loop().time()

    async def close(self) -> None:
        """Let go; trading calls under way end as `OutcomeUnknown`."""
        if self._opened_s is not None:
            self._account.listeners.remove(self._changed)
            self._listed.stop()
        self._opened_s = None
        for call in tuple(self._calls):
            call.fail("the gateway was closed before the answer came")

    async def get_account(self) -> Account:
        """Return the account's state now; raise `Unavailable`."""
        fault = await self._read(Operation.ACCOUNT)
        account = self._seen_account(fault)
        server = self.server
        equity, margin = server.equity(account.login), account.margin()
        blocker = self._blocker(account)
        return Account(
            account=account.label,
            connected=fault.connected,
            read=self._next_read(account),
            login=str(account.login),
            balance=account.balance,
            equity=equity,
            margin=margin,
            free_margin=equity - margin,
            margin_level=round(equity / margin * 100, 2) if margin else margin,
            profit=equity - account.balance - account.credit,
            currency=account.currency,
            leverage=account.leverage,
            name=account.name,
            server=server.name,
            company=server.company,
            credit=account.credit,
            margin_mode=account.margin_mode,
            trade_allowed=not blocker,
            trade_blocker=blocker,
            demo=account.demo,
            server_offset_s=server.server_offset_s,
        )

    async def get_positions(self, symbol: str | None = None) -> Positions:
        """Return every open position, or those of one symbol; raise `Unavailable`."""
        fault = await self._read(Operation.POSITIONS)
        account = self._seen_account(fault)
        positions: tuple[Position, ...] = ()
        if not (fault.empty or self._synchronising()):
            positions = self._listed.positions() if account.login == self.login else self.server.positions(account.login)
        if account.mt4:
            positions = tuple(self._chained(each) for each in positions)
        if symbol is not None:
            positions = tuple(each for each in positions if each.symbol == symbol)
        return Positions(account=account.label, connected=fault.connected, read=self._next_read(account), positions=positions)

    async def get_quote(self, symbol: str) -> Quote:
        """Return bid, ask and the symbol's rules; raise `Rejected` for an unknown symbol, `Unavailable` without a price."""
        fault = await self._read(Operation.QUOTE)
        account = self._seen_account(fault)
        if symbol not in self.server.symbols:
            raise Rejected(no_quote(symbol), reason=Reason.REFUSED, account=self.label)
        quote = self.server.quotes.get(symbol)
        if quote is None:
            raise Unavailable(no_quote(symbol), account=self.label)
        return Quote(
            account=account.label,
            connected=fault.connected,
            read=self._next_read(account),
            symbol=symbol,
            bid=quote.bid,
            ask=quote.ask,
            timestamp=server_time(quote.time_ms + self.server.server_offset_s * 1000),
            age_ms=max(0, self._clock.now_ms() - quote.time_ms),
            spec=self.server.spec(account.login, symbol),
        )

    async def execute_trade(self, request: TradeRequest, permit: Permit) -> TradeResult:
        """Open at market; raise `InvalidRequest`, `Rejected`, `Unavailable` (not sent) or `OutcomeUnknown`."""
        check_trade(request, self.label)
        account = self._sendable()
        offered, quote = self.server.symbols.get(request.symbol), self.server.quotes.get(request.symbol)
        order = MarketOrder(
            symbol=request.symbol,
            side=request.action,
            lots=request.lots,
            price=None if quote is None else quote.to_open(request.action),
            deviation=request.slippage,
            filling=None if offered is None else _filling(offered.spec),
            stop_loss=request.stop_loss,
            take_profit=request.take_profit,
            magic=request.magic,
            comment=comment_with_tag(request.tag, request.comment, account.comment_max),
            reason=DealReason.EXPERT,
        )

        def act(fault: Fault) -> TradeResult:
            fill = self.server.deal(self.login, order, fault)
            return TradeResult(
                account=account.label,
                read=account.reads,
                ticket=fill.position,
                symbol=request.symbol,
                action=request.action,
                lots=fill.lots,
                price=fill.price,
                stops_set=fill.stops_set,
            )

        return await self._trade(Operation.EXECUTE, permit, act)

    async def close_position(self, request: CloseRequest, permit: Permit) -> CloseResult:
        """Close by ticket, wholly or in part; the same errors. At most the symbol's largest order is closed in one call."""
        check_close(request, self.label)
        account = self._sendable()
        position = self._position(request.ticket)
        if request.lots is not None and request.lots > position.lots:
            raise InvalidRequest(LOTS_EXCEED, account=self.label)
        offered, quote = self.server.symbols[position.symbol], self.server.quotes[position.symbol]
        side = position.type.opposite
        netting = account.margin_mode is MarginMode.NETTING
        order = MarketOrder(
            symbol=position.symbol,
            side=side,
            lots=min(position.lots, offered.spec.volume_max) if request.lots is None else request.lots,
            position=position.ticket,
            price=quote.to_open(side),
            deviation=request.slippage,
            filling=_filling(offered.spec),
            magic=position.magic,
            comment=position.comment if netting else "",
            reason=DealReason.EXPERT,
        )

        def act(fault: Fault) -> CloseResult:
            fill = self.server.deal(self.login, order, fault)
            if fill.rest is not None:
                self._roots[fill.rest] = self._roots.get(request.ticket, request.ticket)
            return CloseResult(
                account=account.label,
                read=account.reads,
                ticket=request.ticket,
                lots=fill.lots,
                price=fill.price,
                rest_ticket=fill.rest,
            )

        return await self._trade(Operation.CLOSE, permit, act)

    async def modify_position(self, request: ModifyRequest, permit: Permit) -> ModifyResult:
        """Set stop and target to values; unchanged values are a success; the same errors."""
        check_modify(request, self.label)
        account = self._sendable()
        stop, target = check_modify_of(self._position(request.ticket), request, self.label)

        def act(fault: Fault) -> ModifyResult:
            self.server.set_levels(self.login, request.ticket, stop, target, reason=DealReason.EXPERT, fault=fault)
            return ModifyResult(account=account.label, read=account.reads, ticket=request.ticket)

        return await self._trade(Operation.MODIFY, permit, act)

    async def get_deals(self, since: datetime, position_id: int | None = None) -> tuple[Deal, ...]:
        """Return deals from `since` (server clock) on, oldest first, or all of one position; raise `Unavailable`."""
        fault = await self._read(Operation.DEALS)
        account = self._seen_account(fault)
        if fault.empty or self._synchronising():
            return ()
        if account.mt4:
            deals = self._chained_deals(account, since, position_id)
        else:
            deals = self.server.deals(account.login, since, position_id)
        if self.faults.visibility_lag_ms:
            visible = server_time(self.server.now_ms()) - timedelta(milliseconds=self.faults.visibility_lag_ms)
            deals = tuple(deal for deal in deals if deal.time <= visible)
        return deals

    async def get_symbols(self) -> tuple[SymbolSpec, ...]:
        """Return the rules of every symbol; raise `Unavailable`."""
        account = self._seen_account(await self._read(Operation.SYMBOLS))
        return tuple(self.server.spec(account.login, symbol) for symbol in sorted(self.server.symbols))

    async def get_pending_orders(self, symbol: str | None = None) -> tuple[PendingOrder, ...]:
        """Return every waiting order, or those of one symbol, oldest first; raise `Unavailable`."""
        account = self._seen_account(await self._read(Operation.POSITIONS))
        orders = self.server.pending_orders(account.login)
        return tuple(order for order in orders if symbol in (None, order.symbol))

    def on_change(self, wake: Callable[[], None]) -> None:
        """Call `wake` after anything about positions or orders may have changed."""
        self._wakes.append(wake)

    # the way there and back

    async def _read(self, operation: Operation) -> Fault:
        fault = self.faults.take(operation)
        self._connected()
        delay_s = self._latency_s + fault.send_delay_s + fault.execute_delay_s + fault.answer_delay_s
        if fault.answer is Answer.NEVER or delay_s > self.facts.call_timeout_s:
            await asyncio.sleep(self.facts.call_timeout_s)
            raise Unavailable(f"no answer within {self.facts.call_timeout_s:g} s", account=self.label)
        if delay_s:
            await asyncio.sleep(delay_s)
            self._connected()
        if fault.fails or fault.not_sent or fault.answer is Answer.LOST:
            raise Unavailable(f"the {operation} could not be read", account=self.label)
        return fault

    async def _trade(self, operation: Operation, permit: Permit, act: Callable[[Fault], T]) -> T:
        fault = self.faults.take(operation)
        if fault is NO_FAULT and not self._latency_s:
            self._admit(permit)
            return act(fault)
        if fault.not_sent:
            raise Unavailable("the terminal took no request in time; nothing was sent", account=self.label)
        if fault.login is not None and fault.login != self.login:
            other = self._seen_account(fault).label
            raise Unavailable(f"the terminal is logged in to {other}; nothing was sent", account=self.label)
        call = Call(self._far_end, permit, act, fault, latency_s=self._latency_s)
        self._calls.add(call)
        try:
            return await call.answer(self.facts.call_timeout_s)
        finally:
            self._calls.discard(call)

    def _admit(self, permit: Permit) -> None:
        """Do what the far end does before anything reaches the broker: fence, deadline, switch, flood."""
        account, now_ms = self._account, self._clock.now_ms()
        if permit.token < account.token_seen:
            words = f"Token {permit.token} is older than {account.token_seen}, another owner has taken over"
            raise account.refuse(Reason.STALE_TOKEN, words)
        account.token_seen = permit.token
        if now_ms > permit.not_after_ms:
            raise account.refuse(Reason.TOO_LATE, f"The request came {now_ms - permit.not_after_ms} ms after its not-after")
        if not self.autotrading:
            raise account.refuse(Reason.AUTOTRADING_OFF)
        if self.faults.requests_per_s:
            while self._sent_ms and self._sent_ms[0] <= now_ms - 1000:
                self._sent_ms.popleft()
            if len(self._sent_ms) >= self.faults.requests_per_s:
                raise account.refuse(Reason.TOO_MANY_REQUESTS)
            self._sent_ms.append(now_ms)

    def _connected(self) -> None:
        if self._opened_s is None or self.faults.offline or not self.server.online:
            raise Unavailable(NOT_CONNECTED, account=self.label)

    def _sendable(self) -> PaperAccount:
        self._connected()
        return self._account

    @property
    def _account(self) -> PaperAccount:
        return self.server.accounts[self.login]

    def _seen_account(self, fault: Fault) -> PaperAccount:
        return self._account if fault.login is None else self.server.accounts[fault.login]

    def _next_read(self, account: PaperAccount) -> int:
        account.reads += 1
        return account.reads

    def _blocker(self, account: PaperAccount) -> str:
        if account.investor:
            return "investor login: the read-only password cannot trade"
        if not account.expert_allowed:
            return "the broker forbids automated trading on this account"
        return "" if self.autotrading else "AutoTrading is switched off in the terminal"

    def _position(self, ticket: int) -> Position:
        """Return a position as this terminal lists it just now."""
        if self.faults.visibility_lag_ms:
            found = next((each for each in self._listed.positions() if each.ticket == ticket), None)
        else:
            found = self.server.position(self.login, ticket)
        if found is None or found.ticket not in self._account.positions:
            raise Rejected(not_found(ticket), reason=Reason.INVALID_TICKET, code=self._gone_code(), account=self.label)
        return found

    def _gone_code(self) -> int:
        return self._account.refuse(Reason.INVALID_TICKET).code

    def _chained(self, position: Position) -> Position:
        """MT4: name a position by the first ticket of its chain, as far as this terminal knows it."""
        root = self._roots.get(position.ticket)
        if root is None:
            if position.parent is None:
                return position
            root = self._roots[position.ticket] = self._roots.get(position.parent, position.parent)
        return msgspec.structs.replace(position, identifier=root)

    def _chained_deals(self, account: PaperAccount, since: datetime, position_id: int | None) -> tuple[Deal, ...]:
        """MT4: give every ticket's deals the identifier of its chain, as far as comments and this terminal know it."""
        roots = self._roots
        deals = self.server.deals(account.login, since if position_id is None else server_time(0))
        for deal in sorted(deals, key=lambda deal: deal.order):
            parent, child = parent_in(deal.comment), child_in(deal.comment)
            if parent is not None:
                roots.setdefault(deal.order, roots.get(parent, parent))
            if child is not None:
                roots.setdefault(child, roots.get(deal.order, deal.order))
        named = (msgspec.structs.replace(deal, position_id=roots.get(deal.order, deal.position_id)) for deal in deals)
        return tuple(deal for deal in named if position_id in (None, deal.position_id))

    def _changed(self) -> None:
        lag_ms = self._listed.changed()
        if lag_ms:
            asyncio.get_running_loop().call_later(lag_ms / 1000, self._wake)
        self._wake()

    def _wake(self) -> None:
        for wake in tuple(self._wakes):
            wake()

    def _synchronising(self) -> bool:
        if not self.faults.empty_after_open_s or self._opened_s is None:
            return False
        return asyncio.get_running_loop().time() - self._opened_s < self.faults.empty_after_open_s


def _filling(spec: SymbolSpec) -> Filling | None:
    """Return the filling mode to ask for: all or nothing where the symbol knows it, then what is there."""
    if spec.execution in (Execution.REQUEST, Execution.INSTANT):
        return None
    for filling in (Filling.FOK, Filling.IOC):
        if filling in spec.fillings:
            return filling
    return Filling.RETURN
