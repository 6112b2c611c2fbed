"""The six operations on one login behind a manager connection, as plain functions: reading here, trading in `manager_desk`.

Whatever a decision rests on is asked of the server: the package's caches may lag behind an answer.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from copier.errors import Reason, Rejected, Unavailable
from copier.gateway import TRADE_FAILED, no_quote
from copier.gateways.manager_connection import Connection
from copier.gateways.manager_desk import Market, Orders
from copier.gateways.manager_values import (
    ERR_NOT_FOUND,
    VOLUME,
    blockers_of,
    deal_of,
    position_of,
    spec_of,
    tick_size_of,
)
from copier.gateways.mt5_values import MARGIN_MODES, number, server_time
from copier.model import (
    ZERO,
    Account,
    CloseRequest,
    CloseResult,
    Deal,
    MarginMode,
    ModifyRequest,
    ModifyResult,
    Permit,
    Position,
    Positions,
    Quote,
    SymbolSpec,
    TradeRequest,
    TradeResult,
)

FIRST_TICK_S = 1.0
TICKS_VALUED = 10_000
"""A tick's value is that of a move by so many, divided: the server rounds money to cents."""
FIRST_DAY = datetime(1970, 1, 2, tzinfo=UTC)


class ManagerLogin:
    """What the child serves for one login; its attributes `deals`, `symbols` and `wakes` say what it offers."""

    def __init__(self, connection: Connection, account: str) -> None:
        """`account` is login@server."""
        self.account = account
        self.deals = self.symbols = self.wakes = self
        self._connection = connection
        self._login = int(account.partition("@")[0])
        self._server = account.partition("@")[2]
        self._orders = Orders(connection, self, account, self._login)
        self._reads = 0

    # reading

    def user(self) -> Any:
        """Return the login's record as the server has it now; raise `Unavailable` where the manager does not see it."""
        user, code, words = self._connection.try_to("UserRequest", self._login)
        if user is None:
            hint = "; the manager must be allowed to see its group" if code == ERR_NOT_FOUND else ""
            raise Unavailable(f"login {self._login} cannot be read: {words}{hint}", account=self.account)
        if user.Login != self._login:
            raise Unavailable(f"asked for login {self._login}, was told of {user.Login}", account=self.account)
        return user

    def get_account(self) -> Account:
        """Return the account's state now; raise `Unavailable`."""
        self._connection.check(self.account)
        user = self.user()
        group = self._ask("GroupGet", user.Group)
        raw = self._ask("UserAccountRequest", self._login)
        blockers = blockers_of(user)
        self._connection.check(self.account)
        return Account(
            account=self.account,
            read=self._next_read(),
            login=str(self._login),
            balance=number(raw.Balance),
            equity=number(raw.Equity),
            margin=number(raw.Margin),
            free_margin=number(raw.MarginFree),
            margin_level=number(raw.MarginLevel),
            profit=number(raw.Floating),
            currency=group.Currency,
            leverage=user.Leverage,
            name=user.Name,
            server=self._server,
            company=group.Company,
            credit=number(raw.Credit),
            margin_mode=MARGIN_MODES.get(int(group.MarginMode), MarginMode.HEDGING),
            trade_allowed=not blockers,
            trade_blocker="; ".join(blockers),
            # MetaQuotes documents the first part of a group's path as its kind: demo, real, contest, ...
            demo=user.Group.lower().startswith("demo"),
            server_offset_s=self._connection.offset_s(),
        )

    def get_positions(self, symbol: str | None = None) -> Positions:
        """Return every open position, or those of one symbol; raise `Unavailable`, never return less than there is."""
        self._connection.check(self.account)
        positions = self.positions(symbol)
        self._connection.check(self.account)
        return Positions(account=self.account, read=self._next_read(), positions=positions)

    def get_quote(self, symbol: str) -> Quote:
        """Return bid, ask and the symbol's rules; raise `Rejected` for an unknown symbol, `Unavailable` without a price."""
        self._connection.check(self.account)
        group = self.user().Group
        raw, tick = self._priced(symbol, group)
        gain, loss = self._tick_values(raw, tick, group)
        if not gain:
            raise Unavailable(f"the value of a tick of {symbol} cannot be computed", account=self.account)
        self._connection.check(self.account)
        return Quote(
            account=self.account,
            read=self._next_read(),
            symbol=symbol,
            bid=number(tick.bid),
            ask=number(tick.ask),
            timestamp=server_time(tick.datetime_msc),
            age_ms=self._age_ms(symbol, tick),
            spec=spec_of(raw, gain, loss),
        )

    def get_deals(self, since: datetime, position_id: int | None = None) -> tuple[Deal, ...]:
        """Return deals from `since` (server clock) on, oldest first, or all of one position; raise `Unavailable`."""
        self._connection.check(self.account)
        # The package takes moments as MetaQuotes' examples give them, and asks each for its seconds since 1970.
        beginning = max(since, FIRST_DAY) if position_id is None else FIRST_DAY
        # A day beyond the server's clock, whatever its time zone.
        end = server_time(self._connection.pace.now_ms()) + timedelta(days=2)
        raws = self._ask("DealRequest", self._login, beginning, end)
        self._connection.check(self.account)
        deals = (deal_of(raw) for raw in sorted(raws, key=lambda raw: (raw.TimeMsc, raw.Deal)))
        if position_id is not None:
            return tuple(deal for deal in deals if deal.position_id == position_id)
        return tuple(deal for deal in deals if deal.time >= since.astimezone(UTC))

    def get_symbols(self) -> tuple[SymbolSpec, ...]:
        """Return the rules of every symbol, without the values of a tick, which take a price; raise `Unavailable`."""
        self._connection.check(self.account)
        return tuple(spec_of(raw) for raw in self._ask("SymbolGetArray"))

    # trading

    def execute_trade(self, request: TradeRequest, permit: Permit) -> TradeResult:
        """Open at market; raise `InvalidRequest`, `Rejected`, `Unavailable` (not sent) or `OutcomeUnknown`."""
        return self._orders.open(request, permit)

    def close_position(self, request: CloseRequest, permit: Permit) -> CloseResult:
        """Close by ticket, wholly or in part; the same errors."""
        return self._orders.close(request, permit)

    def modify_position(self, request: ModifyRequest, permit: Permit) -> ModifyResult:
        """Set stop and target to values; unchanged values are a success; the same errors."""
        return self._orders.modify(request, permit)

    # what trading builds on

    def group_to_trade(self) -> Any:
        """Return the login's group; raise `Unavailable` without a connection, `Rejected` where the account may not trade."""
        self._connection.check(self.account)
        user = self.user()
        blockers = blockers_of(user)
        if blockers:
            message = f"{TRADE_FAILED}: {'; '.join(blockers)}"
            raise Rejected(message, reason=Reason.TRADE_DISABLED, code=10017, account=self.account)
        return self._ask("GroupGet", user.Group)

    def market(self, symbol: str, group: str) -> Market:
        """Return a symbol's rules and prices for a group; raise `Rejected` or `Unavailable`."""
        raw, tick = self._priced(symbol, group)
        return Market(spec_of(raw), number(tick.bid), number(tick.ask))

    def positions(self, symbol: str | None = None) -> tuple[Position, ...]:
        """Return the server's own list; raise `Unavailable`."""
        raws, code, words = self._connection.try_to("PositionRequest", self._login)
        if raws is None:
            if code != ERR_NOT_FOUND or not self._surely_flat():
                raise Unavailable(f"PositionRequest failed: {words}", account=self.account)
            raws = []
        foreign = [raw.Login for raw in raws if raw.Login != self._login]
        if foreign:
            raise Unavailable(f"asked for login {self._login}, was told of {foreign[0]}", account=self.account)
        listed = (position_of(raw) for raw in raws if symbol is None or raw.Symbol == symbol)
        return tuple(sorted(listed, key=lambda position: position.ticket))

    def _surely_flat(self) -> bool:
        """Say whether "not found" may mean that nothing is open: the cache has nothing, and no margin or result floats."""
        cached, _, _ = self._connection.try_to("PositionGet", self._login)
        account, _, _ = self._connection.try_to("UserAccountRequest", self._login)
        return cached == [] and account is not None and not (account.Margin or account.Floating)

    def _priced(self, symbol: str, group: str) -> tuple[Any, Any]:
        """Return a symbol with its group's rules and its last tick; raise `Rejected` or `Unavailable`."""
        raw, code, words = self._connection.try_to("SymbolGet", symbol, group)
        if raw is None:
            if code == ERR_NOT_FOUND:
                raise Rejected(no_quote(symbol), reason=Reason.REFUSED, account=self.account)
            raise Unavailable(f"{no_quote(symbol)}: {words}", account=self.account)
        self._connection.select(self.account, symbol)
        end_s = self._connection.pace.seconds() + FIRST_TICK_S
        tick = self._connection.until(lambda: self._tick(symbol, group), end_s)
        if tick is None:
            raise Unavailable(no_quote(symbol), account=self.account)
        return raw, tick

    def _tick(self, symbol: str, group: str) -> Any:
        tick, _, _ = self._connection.try_to("TickLast", symbol, group)
        return tick if tick is not None and tick.bid > 0 and tick.ask > 0 else None

    def _tick_values(self, raw: Any, tick: Any, group: str) -> tuple[Decimal, Decimal]:
        """Return what one lot wins and loses by a tick in the account's money, 0 where nobody can tell."""
        move = float(tick_size_of(raw) * TICKS_VALUED)
        values = []
        for price in (tick.ask + move, tick.ask - move):
            money, _, _ = self._connection.try_to("TradeProfit", group, raw.Symbol, 0, int(VOLUME), tick.ask, price)
            if isinstance(money, tuple | list):
                money = money[0]
            values.append(ZERO if money is None else abs(number(money)) / TICKS_VALUED)
        return values[0], values[1]

    def _age_ms(self, symbol: str, tick: Any) -> int:
        now_ms = self._connection.pace.now_ms()
        seen_ms = self._connection.events.ticked.get(symbol)
        if seen_ms is not None:
            return max(0, now_ms - seen_ms)
        offset_s = self._connection.offset_s()
        return 0 if offset_s is None else max(0, now_ms + offset_s * 1000 - tick.datetime_msc)

    def _ask(self, name: str, *args: Any) -> Any:
        return self._connection.ask(self.account, name, *args)

    def _next_read(self) -> int:
        self._reads += 1
        return self._reads
