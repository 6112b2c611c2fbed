"""One account at the paper broker: its money, its positions, and the three ledgers orders, deals and positions."""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Any

import msgspec

from copier.errors import Reason, Rejected
from copier.gateways.comments import parent_in, tag_in
from copier.gateways.paper_codes import refused
from copier.model import ZERO, Deal, DealEntry, DealReason, DealType, MarginMode, PendingType, Position, Side

_NEVER = Decimal("Infinity")
_1970 = datetime(1970, 1, 1, tzinfo=UTC)


def server_time(server_ms: int) -> datetime:
    """Return a moment of the server's clock, written as if it were UTC."""
    return _1970 + timedelta(milliseconds=server_ms)


class MarginRule(StrEnum):
    """How opposite positions of one symbol share margin, or that nothing is asked for."""

    LARGER_LEG = "larger_leg"
    BOTH_LEGS = "both_legs"
    OFF = "off"


class OrderState(StrEnum):
    """Where an order stands."""

    PLACED = "placed"
    PARTIAL = "partial"
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"
    REJECTED = "rejected"


class PaperOrder(msgspec.Struct, kw_only=True):
    """One order, active or in history; times are milliseconds of the server's clock."""

    ticket: int
    symbol: str
    side: Side
    type: PendingType | None = None
    """None is an order at market."""
    state: OrderState = OrderState.FILLED
    lots: Decimal
    lots_left: Decimal = ZERO
    price: Decimal = ZERO
    limit_price: Decimal = ZERO
    stop_loss: Decimal = ZERO
    take_profit: Decimal = ZERO
    setup_ms: int
    done_ms: int = 0
    expires_ms: int = 0
    magic: int = 0
    comment: str = ""
    position_id: int = 0
    position_by: int = 0
    """The opposite position's ticket, of an order that closes one by the other."""
    reason: DealReason = DealReason.CLIENT


class PaperPosition(msgspec.Struct, kw_only=True, eq=False):
    """One open position as the server keeps it; swap and commission are what is not yet in the balance."""

    ticket: int
    identifier: int
    """For life; on MT4 the first ticket of the chain, which no terminal shows."""
    symbol: str
    side: Side
    lots: Decimal
    open_price: Decimal
    stop_loss: Decimal = ZERO
    take_profit: Decimal = ZERO
    swap: Decimal = ZERO
    commission: Decimal = ZERO
    costs_fixed: bool = False
    margin: Decimal = ZERO
    open_ms: int
    update_ms: int
    magic: int = 0
    comment: str = ""
    reason: DealReason = DealReason.CLIENT
    view: Position | None = None


class ClosedTicket(msgspec.Struct, kw_only=True):
    """A closed MT4 order: all that an MT4 history shows of a trade."""

    position: PaperPosition
    close_price: Decimal
    close_ms: int
    profit: Decimal
    reason: DealReason
    shown: tuple[Deal, Deal] | None = None

    def as_deals(self) -> tuple[Deal, Deal]:
        """Return its opening and its closing."""
        if self.shown is None:
            self.shown = _ticket_deal(self.position), _ticket_deal(self.position, self)
        return self.shown


class Book:
    """An account's positions of one symbol, with the prices at which something happens to one of them."""

    __slots__ = (
        "_bounds",
        "_floating",
        "_safe_ask",
        "_safe_bid",
        "_safe_for",
        "_worth",
        "account",
        "ask_high",
        "ask_low",
        "bid_high",
        "bid_low",
        "margin",
        "positions",
    )

    def __init__(self, account: "PaperAccount") -> None:
        self.account = account
        self.positions: dict[int, PaperPosition] = {}
        self.margin: dict[Side, Decimal] = {Side.BUY: ZERO, Side.SELL: ZERO}
        self._bounds = False
        self._safe_for: tuple[int, Decimal] | None = None
        self._safe_bid = self._safe_ask = ZERO
        self._worth: tuple[Decimal, Decimal, tuple[Decimal, Decimal]] | None = None
        self._floating = ZERO
        self.bid_low = self.bid_high = self.ask_low = self.ask_high = ZERO

    def changed(self) -> None:
        """Forget trigger prices and worth; they are found again when asked for."""
        self._bounds = False
        self._worth = None

    def floating(self, bid: Decimal, ask: Decimal, units: tuple[Decimal, Decimal]) -> Decimal:
        """Return what closing all of it at these prices would bring, swap and unbooked commission included."""
        key = (bid, ask, units)
        if key != self._worth:
            self._worth = key
            self._floating = sum((self._value(each) for each in self.positions.values()), ZERO)
        return self._floating

    def put(self, position: PaperPosition) -> None:
        """Take in a position; what is known of the others' worth stays known."""
        self.positions[position.ticket] = position
        self.margin[position.side] += position.margin
        self._bounds = False
        if self._worth is not None:
            self._floating += self._value(position)

    def take(self, position: PaperPosition) -> None:
        """Let a position go, unchanged since it was last valued."""
        del self.positions[position.ticket]
        self.margin[position.side] -= position.margin
        self._bounds = False
        if self._worth is not None:
            self._floating -= self._value(position)

    def _value(self, each: PaperPosition) -> Decimal:
        assert self._worth is not None
        bid, ask, units = self._worth
        move = bid - each.open_price if each.side is Side.BUY else each.open_price - ask
        return self.account.round(move * each.lots * units[move < ZERO]) + each.swap + each.commission

    def is_safe(self, bid: Decimal, ask: Decimal) -> bool:
        """Say whether these prices surely cause no stop-out, as found when the account was last looked at."""
        return bid >= self._safe_bid and ask <= self._safe_ask and self._safe_for == self.account.safe_for

    def note_safety(self, bid: Decimal, ask: Decimal, lots_points: Decimal) -> None:
        """Take the lots times price that each side may lose from these prices on."""
        buys = sum((each.lots for each in self.positions.values() if each.side is Side.BUY), ZERO)
        sells = sum((each.lots for each in self.positions.values() if each.side is Side.SELL), ZERO)
        self._safe_bid = bid - lots_points / buys if buys else ZERO
        self._safe_ask = ask + lots_points / sells if sells else _NEVER
        self._safe_for = self.account.safe_for

    def triggers(self, bid: Decimal, ask: Decimal) -> bool:
        """Say whether these prices reach any stop or target."""
        if not self._bounds:
            self._find_bounds()
        return (
            bid <= self.bid_low
            or (self.bid_high != 0 and bid >= self.bid_high)
            or ask <= self.ask_low
            or (self.ask_high != 0 and ask >= self.ask_high)
        )

    def _find_bounds(self) -> None:
        bid_low = bid_high = ask_low = ask_high = ZERO
        for each in self.positions.values():
            stop, target = each.stop_loss, each.take_profit
            if each.side is Side.BUY:
                bid_low = max(bid_low, stop)
                if target:
                    bid_high = min(bid_high, target) if bid_high else target
            else:
                ask_low = max(ask_low, target)
                if stop:
                    ask_high = min(ask_high, stop) if ask_high else stop
        self.bid_low, self.bid_high, self.ask_low, self.ask_high = bid_low, bid_high, ask_low, ask_high
        self._bounds = True


class PaperAccount:
    """An account: settings that a test may change at any time, money, and the ledgers."""

    def __init__(
        self,
        login: int,
        *,
        currency: str = "USD",
        leverage: int = 100,
        margin_mode: MarginMode = MarginMode.HEDGING,
        balance: Decimal = Decimal(10_000),
        credit: Decimal = ZERO,
        name: str = "",
        demo: bool = True,
        investor: bool = False,
        expert_allowed: bool = True,
        fifo: bool = False,
        hedging_prohibited: bool = False,
        positions_max: int = 0,
        orders_max: int = 0,
        stop_out_level: Decimal = Decimal(50),
        margin_rule: MarginRule = MarginRule.LARGER_LEG,
        comment_max: int | None = None,
        money_digits: int = 2,
        history_max: int = 0,
    ) -> None:
        self.login = login
        self.label = str(login)
        """login@server, once the account is on a server."""
        self.currency = currency
        self.leverage = leverage
        self.margin_mode = margin_mode
        self.balance = balance
        self.credit = credit
        self.name = name or f"Paper {login}"
        self.demo = demo
        self.investor = investor
        """The read-only password: everything is seen, nothing is traded."""
        self.expert_allowed = expert_allowed
        self.fifo = fifo
        self.hedging_prohibited = hedging_prohibited
        self.positions_max = positions_max
        self.orders_max = orders_max
        self.stop_out_level = stop_out_level
        """Percent of margin level below which positions are closed; 0 never closes any."""
        self.margin_rule = margin_rule
        self.comment_max = comment_max or (27 if margin_mode is MarginMode.MT4 else 31)
        self.cent = Decimal(1).scaleb(-money_digits)
        self.history_max = history_max
        """About how many deals are remembered; 0 forgets none."""
        self.token_seen = 0
        """The highest owner's token any trading request carried: what the far end fences with."""
        self.reads = 0
        self.revision = 0
        """Grows with every change of positions, orders, deals or money."""
        self.positions: dict[int, PaperPosition] = {}
        self.books: dict[str, Book] = {}
        self.pending: dict[int, PaperOrder] = {}
        self.orders: list[PaperOrder] = []
        """Orders that are done, oldest first."""
        self.deals: list[Deal] = []
        """Every deal, oldest first; on MT4 what really happened, not what a terminal shows."""
        self.closed_tickets: list[ClosedTicket] = []
        self.listeners: list[Callable[[], None]] = []
        self.listed: tuple[int, int, tuple[Position, ...]] | None = None
        """The last list of positions with the revision and the server's tick it was made for."""
        self._deals_of: dict[int, list[Deal]] = {}

    @property
    def mt4(self) -> bool:
        """Whether this account lives on MetaTrader 4."""
        return self.margin_mode is MarginMode.MT4

    @property
    def safe_for(self) -> tuple[int, Decimal]:
        """What must not change for a noted safety from stop-out to hold."""
        return self.revision, self.stop_out_level

    def refuse(self, reason: Reason, words: str = "", *, mt5: int | None = None, mt4: int | None = None) -> Rejected:
        """Return the refusal to raise, with the number of this account's platform."""
        return refused(reason, self.margin_mode, self.label, words=words, mt5=mt5, mt4=mt4)

    def round(self, money: Decimal) -> Decimal:
        """Round half away from zero to the currency's digits, as MetaTrader does per deal."""
        return money.quantize(self.cent, ROUND_HALF_UP)

    def changed(self) -> None:
        """Note a finished change and wake whoever watches this account."""
        self.revision += 1
        for wake in tuple(self.listeners):
            wake()

    def add(self, position: PaperPosition) -> Book:
        """Put a new position on the books."""
        book = self.books.get(position.symbol)
        if book is None:
            book = self.books[position.symbol] = Book(self)
        self.positions[position.ticket] = position
        book.put(position)
        return book

    def remove(self, position: PaperPosition) -> Book:
        """Take a position off the books; an empty book stays until the server drops it."""
        book = self.books[position.symbol]
        del self.positions[position.ticket]
        book.take(position)
        return book

    def on(self, symbol: str) -> Iterator[PaperPosition]:
        """Yield the open positions of one symbol, oldest first."""
        book = self.books.get(symbol)
        return iter(book.positions.values() if book is not None else ())

    def book_deal(self, deal: Deal) -> None:
        """Write a deal and its money."""
        self.balance += deal.profit + deal.swap + deal.commission + deal.fee
        if self.history_max and len(self.deals) >= 2 * self.history_max:
            self._forget()
        self.deals.append(deal)
        if deal.position_id:
            self._deals_of.setdefault(deal.position_id, []).append(deal)

    def _forget(self) -> None:
        for deal in self.deals[: self.history_max]:
            self._deals_of.pop(deal.position_id, None)
        for ledger in (self.deals, self.orders, self.closed_tickets):
            del ledger[: -self.history_max]

    def deals_since(self, since: datetime, position_id: int | None = None) -> tuple[Deal, ...]:
        """Return deals from `since` (server clock) on, or all of one position, oldest first."""
        if position_id is not None:
            return tuple(self._deals_of.get(position_id, ()))
        return tuple(self.deals[bisect_left(self.deals, since, key=_time_of) :])

    def margin(self) -> Decimal:
        """Return the margin in use."""
        if self.margin_rule is MarginRule.OFF:
            return ZERO
        return sum((self.margin_of(book.margin) for book in self.books.values()), ZERO)

    def margin_of(self, legs: dict[Side, Decimal]) -> Decimal:
        """Return what both sides of one symbol need together."""
        buy, sell = legs[Side.BUY], legs[Side.SELL]
        if self.margin_rule is MarginRule.OFF:
            return ZERO
        return max(buy, sell) if self.margin_rule is MarginRule.LARGER_LEG else buy + sell


def _time_of(deal: Deal) -> Any:
    return deal.time


def view_of(position: PaperPosition, price: Decimal, profit: Decimal, *, chained: bool = False) -> Position:
    """Return a position as a terminal shows it; on MT4 (`chained`) the identifier is only the ticket."""
    view = position.view
    if view is not None and view.current_price is price and view.profit == profit:
        return view
    view = position.view = Position(
        ticket=position.ticket,
        identifier=position.ticket if chained else position.identifier,
        symbol=position.symbol,
        type=position.side,
        lots=position.lots,
        open_price=position.open_price,
        current_price=price,
        stop_loss=position.stop_loss,
        take_profit=position.take_profit,
        profit=profit,
        swap=position.swap,
        commission=position.commission,
        open_time=server_time(position.open_ms),
        magic=position.magic,
        comment=position.comment,
        tag=tag_in(position.comment),
        parent=parent_in(position.comment) if chained else None,
    )
    return view


def mt4_deals(account: PaperAccount, since: datetime, position_id: int | None = None) -> tuple[Deal, ...]:
    """Return an MT4 account's history as deals: one in for each ticket, one out for each closed one, and money moves.

    MT4 has no deals; its tickets show an open and a close. A ticket that was closed in part shows only the closed lots,
    under the comment the server wrote over the original one.
    """
    deals = [deal for deal in account.deals if not deal.position_id]
    for ticket in account.closed_tickets:
        deals += ticket.as_deals()
    deals += [_ticket_deal(position) for position in account.positions.values()]
    if position_id is not None:
        return tuple(deal for deal in deals if deal.position_id == position_id)
    return tuple(sorted((deal for deal in deals if deal.time >= since), key=lambda deal: (deal.time, deal.ticket)))


def _ticket_deal(position: PaperPosition, closed: ClosedTicket | None = None) -> Deal:
    side = position.side if closed is None else position.side.opposite
    return Deal(
        ticket=position.ticket,
        order=position.ticket,
        position_id=position.ticket,
        symbol=position.symbol,
        type=DealType.BUY if side is Side.BUY else DealType.SELL,
        entry=DealEntry.IN if closed is None else DealEntry.OUT,
        lots=position.lots,
        price=position.open_price if closed is None else closed.close_price,
        commission=ZERO if closed is None else position.commission,
        swap=ZERO if closed is None else position.swap,
        profit=ZERO if closed is None else closed.profit,
        time=server_time(position.open_ms if closed is None else closed.close_ms),
        magic=position.magic,
        comment=position.comment,
        tag=tag_in(position.comment),
        reason=position.reason if closed is None else closed.reason,
    )
