"""The nouns of copy trading: accounts, quotes, positions, orders, and the events made of them.

All frozen. Lots, prices and money are `Decimal`: 0.29 lots on a step of 0.01 are 29 steps. A level of 0 is "none", as in
MetaTrader. Names are snake_case here and camelCase on the wire.
"""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated

import msgspec

ZERO = Decimal(0)
ServerTime = Annotated[datetime, msgspec.Meta(tz=True)]
"""The trade server's wall clock, written as if it were UTC; on the wire never without its zone."""


STEP_DIGITS_MAX = 10
"""No broker's step, point or contract is larger than 10 to this power, or smaller than its inverse."""


class Record(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """What every noun is: frozen, keyword-only, camelCase on the wire; without cycles, so no garbage collector follows it."""


class Side(StrEnum):
    """Buy or sell."""

    BUY = "buy"
    SELL = "sell"

    def __init__(self, value: str) -> None:
        self.sign = 1 if value == "buy" else -1
        """+1 for buy, -1 for sell."""

    @property
    def opposite(self) -> "Side":
        """The other side."""
        return Side.SELL if self is Side.BUY else Side.BUY


class MarginMode(StrEnum):
    """How an account keeps positions: many per symbol, one per symbol, or MT4's tickets."""

    HEDGING = "hedging"
    NETTING = "netting"
    MT4 = "mt4"


class TradeMode(StrEnum):
    """What a symbol may be traded for just now."""

    FULL = "full"
    LONG_ONLY = "long_only"
    SHORT_ONLY = "short_only"
    CLOSE_ONLY = "close_only"
    DISABLED = "disabled"


class Execution(StrEnum):
    """How the server executes market orders; only request and instant know requotes and honour slippage."""

    REQUEST = "request"
    INSTANT = "instant"
    MARKET = "market"
    EXCHANGE = "exchange"


class Filling(StrEnum):
    """What may happen to the part of an order that finds no liquidity."""

    FOK = "fok"
    IOC = "ioc"
    RETURN = "return"


class CalcMode(StrEnum):
    """How margin and profit of a symbol are computed; symbols of different modes are never the same instrument."""

    FOREX = "forex"
    FUTURES = "futures"
    CFD = "cfd"
    CFD_INDEX = "cfd_index"
    CFD_LEVERAGE = "cfd_leverage"
    STOCKS = "stocks"
    OTHER = "other"


class SymbolSpec(Record, frozen=True, kw_only=True):
    """A broker's rules for one symbol. Levels in points, volumes in lots, values in the account's currency."""

    symbol: str
    digits: int
    point: Decimal
    tick_size: Decimal
    tick_value: Decimal
    """Money per lot when the price moves one tick in favour."""
    tick_value_loss: Decimal
    """Money per lot when the price moves one tick against."""
    contract_size: Decimal
    volume_min: Decimal
    volume_step: Decimal
    volume_max: Decimal
    volume_limit: Decimal = ZERO
    """Most lots in one direction, positions and pending orders together; 0 is no limit."""
    stops_level: int = 0
    freeze_level: int = 0
    trade_mode: TradeMode = TradeMode.FULL
    execution: Execution = Execution.MARKET
    fillings: tuple[Filling, ...] = (Filling.FOK, Filling.IOC)
    calc_mode: CalcMode = CalcMode.FOREX
    currency_base: str = ""
    currency_profit: str = ""
    currency_margin: str = ""
    margin_per_lot: Decimal | None = None
    """Margin for one lot at the current price; None where the far end cannot tell."""

    @property
    def divides_lots(self) -> bool:
        """Whether volumes can be laid on its step."""
        return _is_step(self.volume_step) and _is_step(self.volume_min)

    @property
    def usable(self) -> bool:
        """Whether volumes and prices can be laid on its steps at all; what a tick is worth is another question."""
        steps = _is_step(self.point) and _is_step(self.tick_size) and _is_step(self.contract_size)
        known_max = self.volume_max.is_finite() and self.volume_max >= 0
        return steps and self.divides_lots and known_max and 0 <= self.stops_level < 10**STEP_DIGITS_MAX


def _is_step(step: Decimal) -> bool:
    return step.is_finite() and step > ZERO and -STEP_DIGITS_MAX <= step.adjusted() <= STEP_DIGITS_MAX


class Source(Record, frozen=True, kw_only=True):
    """Where and when an answer was read: every read carries this."""

    account: str
    """login@server, as the terminal says it."""
    connected: bool = True
    """The terminal is connected to its trade server."""
    read: int = 0
    """Grows with every fresh read of this account in one process: the logical "as of"."""


class Account(Source, frozen=True, kw_only=True):
    """`get_account`: the specification's fields, and what copying needs besides."""

    login: str
    balance: Decimal
    equity: Decimal
    margin: Decimal
    free_margin: Decimal
    margin_level: Decimal
    """Percent; 0 where no margin is used."""
    profit: Decimal
    currency: str
    leverage: int
    name: str
    server: str
    company: str
    credit: Decimal = ZERO
    margin_mode: MarginMode = MarginMode.HEDGING
    trade_allowed: bool = True
    """False for an investor login, a disabled account, or auto-trading switched off; `trade_blocker` says which."""
    trade_blocker: str = ""
    """In a trader's words, which switch or permission stops trading; empty if none does."""
    demo: bool = False
    server_offset_s: int | None = None
    """The trade server's wall clock minus UTC, estimated; None while unknown."""


class Position(Record, frozen=True, kw_only=True):
    """One open position (or MT4 market order)."""

    ticket: int
    """What to trade by; a server may replace it."""
    identifier: int
    """Constant for life; on MT4 the first ticket known of the chain."""
    symbol: str
    type: Side
    lots: Decimal
    open_price: Decimal
    current_price: Decimal
    stop_loss: Decimal = ZERO
    take_profit: Decimal = ZERO
    profit: Decimal = ZERO
    """Floating, without swap and commission."""
    swap: Decimal = ZERO
    commission: Decimal = ZERO
    open_time: ServerTime
    """The trade server's wall clock, written as if it were UTC."""
    magic: int = 0
    comment: str = ""
    tag: str = ""
    """The client tag given to `execute_trade`, where the broker gave it back; a proof when present, nothing when absent."""
    parent: int | None = None
    """MT4: the ticket this one was split from, where the comment still says so."""


class Positions(Source, frozen=True, kw_only=True):
    """`get_positions`: all of them, or those of one symbol."""

    positions: tuple[Position, ...]


class Quote(Source, frozen=True, kw_only=True):
    """`get_quote`: the price now, and the symbol's rules."""

    symbol: str
    bid: Decimal
    ask: Decimal
    timestamp: ServerTime
    """The trade server's wall clock of the last tick, written as if it were UTC."""
    age_ms: int = 0
    """How long ago the far end saw this price change or confirmed, on its own clock."""
    spec: SymbolSpec

    @property
    def spread(self) -> Decimal:
        """Ask minus bid, in price units."""
        return self.ask - self.bid

    def price_to_open(self, side: Side) -> Decimal:
        """What a market order of `side` pays now."""
        return self.ask if side is Side.BUY else self.bid

    def price_to_close(self, side: Side) -> Decimal:
        """What closing a position of `side` gets now."""
        return self.bid if side is Side.BUY else self.ask


class TradeRequest(Record, frozen=True, kw_only=True):
    """`execute_trade`: a market order. Slippage in points; a tag of at most 16 ASCII characters comes back with the position."""

    symbol: str
    action: Side
    lots: Decimal
    stop_loss: Decimal = ZERO
    take_profit: Decimal = ZERO
    slippage: int = 3
    magic: int = 12345
    comment: str = ""
    tag: str = ""


class CloseRequest(Record, frozen=True, kw_only=True):
    """`close_position`: all of it, or `lots` of it. On a netting account it never opens the opposite."""

    ticket: int
    lots: Decimal | None = None
    slippage: int = 3


class ModifyRequest(Record, frozen=True, kw_only=True):
    """`modify_position`: an absent level is left alone, 0 removes it."""

    ticket: int
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None


class Permit(Record, frozen=True, kw_only=True):
    """What every trading frame carries: who may trade, and until when."""

    token: int
    """Grows with every owner of the account; the far end refuses a lower one than it has seen."""
    not_after_ms: int
    """UTC milliseconds; the far end refuses a frame it sees later than this."""


class TradeResult(Source, frozen=True, kw_only=True):
    """A market order was executed, wholly or in part."""

    ticket: int
    """The position's ticket; on a netting account that of the symbol's position."""
    symbol: str
    action: Side
    lots: Decimal
    """What was filled, which may be less than asked."""
    price: Decimal = ZERO
    """The average fill; 0 where the far end cannot tell."""
    stops_set: bool = True
    """False where the server took the order but not its stop or target: set them with a modify."""
    message: str = "Order placed successfully"


class CloseResult(Source, frozen=True, kw_only=True):
    """A position was closed, wholly or in part; only a fresh read proves it gone."""

    ticket: int
    lots: Decimal = ZERO
    """What was closed."""
    price: Decimal = ZERO
    rest_ticket: int | None = None
    """MT4: the new ticket of what is left, where the far end found it."""
    message: str = "Position closed"


class ModifyResult(Source, frozen=True, kw_only=True):
    """Stop and target are as asked."""

    ticket: int
    message: str = "Position modified successfully"


class DealType(StrEnum):
    """What a deal did to the account; everything that is neither trade nor money in or out is `other`."""

    BUY = "buy"
    SELL = "sell"
    BALANCE = "balance"
    CREDIT = "credit"
    OTHER = "other"


class DealEntry(StrEnum):
    """Whether a deal opened, closed, reversed or closed by an opposite position."""

    IN = "in"
    OUT = "out"
    INOUT = "inout"
    OUT_BY = "out_by"


class DealReason(StrEnum):
    """Who or what caused a deal."""

    CLIENT = "client"
    EXPERT = "expert"
    STOP_LOSS = "sl"
    TAKE_PROFIT = "tp"
    STOP_OUT = "so"
    OTHER = "other"


class Deal(Record, frozen=True, kw_only=True):
    """One line of an account's history."""

    ticket: int
    order: int = 0
    position_id: int = 0
    """The position's identifier; 0 for money in and out."""
    symbol: str = ""
    type: DealType
    entry: DealEntry = DealEntry.IN
    lots: Decimal = ZERO
    price: Decimal = ZERO
    commission: Decimal = ZERO
    fee: Decimal = ZERO
    swap: Decimal = ZERO
    profit: Decimal = ZERO
    time: ServerTime
    """The trade server's wall clock, written as if it were UTC."""
    magic: int = 0
    comment: str = ""
    tag: str = ""
    reason: DealReason = DealReason.CLIENT


class PendingType(StrEnum):
    """At which side of the price an order waits, and for which trade."""

    BUY_LIMIT = "buy_limit"
    SELL_LIMIT = "sell_limit"
    BUY_STOP = "buy_stop"
    SELL_STOP = "sell_stop"
    BUY_STOP_LIMIT = "buy_stop_limit"
    SELL_STOP_LIMIT = "sell_stop_limit"


class PendingOrder(Record, frozen=True, kw_only=True):
    """An order that waits for its price."""

    ticket: int
    symbol: str
    type: PendingType
    lots: Decimal
    """What is still to be filled."""
    price: Decimal
    limit_price: Decimal = ZERO
    """Of a stop-limit order: the limit placed once `price` is reached."""
    stop_loss: Decimal = ZERO
    take_profit: Decimal = ZERO
    open_time: ServerTime
    """The trade server's wall clock, written as if it were UTC."""
    expiration: ServerTime | None = None
    """The same clock; None waits until cancelled."""
    magic: int = 0
    comment: str = ""
    tag: str = ""


class Timeframe(StrEnum):
    """The length of a bar."""

    M1 = "M1"
    M5 = "M5"
    M15 = "M15"
    M30 = "M30"
    H1 = "H1"
    H4 = "H4"
    D1 = "D1"
    W1 = "W1"
    MN1 = "MN1"


class Bar(Record, frozen=True, kw_only=True):
    """What bid prices did in one stretch of time."""

    time: ServerTime
    """Its beginning, by the trade server's wall clock written as if it were UTC."""
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    ticks: int = 0
    spread: int = 0
    """In points."""


class MasterPosition(Record, frozen=True, kw_only=True):
    """A master's position as the watcher has confirmed it: the unit of everything that is published.

    `identifier` and `generation` name it for ever: a netting reversal, or a position that comes back after it was gone,
    is the next generation.
    """

    identifier: int
    generation: int = 1
    ticket: int
    symbol: str
    side: Side
    lots: Decimal
    lots_opened: Decimal
    """All that was ever opened in it: the anchor for partial closes."""
    open_price: Decimal
    stop_loss: Decimal = ZERO
    take_profit: Decimal = ZERO
    open_time: ServerTime
    magic: int = 0
    comment: str = ""

    @property
    def key(self) -> str:
        """`identifier.generation`."""
        return f"{self.identifier}.{self.generation}"


class MasterFacts(Record, frozen=True, kw_only=True):
    """The master's account when the event was read: what relative sizing needs."""

    currency: str
    balance: Decimal
    equity: Decimal
    free_margin: Decimal
    leverage: int
    server_offset_s: int | None = None


class Change(Record, frozen=True, kw_only=True):
    """What all events carry: whose, as of which read, and when each hop was passed (UTC milliseconds)."""

    master: str
    read: int
    read_ms: int
    published_ms: int = 0
    facts: MasterFacts | None = None


class Opened(Change, frozen=True, kw_only=True, tag="open", tag_field="kind"):
    """A position appeared. `absent_ms` is when it was last seen not to be there, 0 where nobody looked: it bounds its age."""

    position: MasterPosition
    spec: SymbolSpec | None = None
    absent_ms: int = 0


class ScaledIn(Change, frozen=True, kw_only=True, tag="scale_in", tag_field="kind"):
    """A position grew; `added` is by how much, `price` the estimated price of that part."""

    position: MasterPosition
    added: Decimal
    price: Decimal = ZERO
    spec: SymbolSpec | None = None
    absent_ms: int = 0


class Reduced(Change, frozen=True, kw_only=True, tag="reduce", tag_field="kind"):
    """A position shrank; its new volume is absolute."""

    position: MasterPosition


class Modified(Change, frozen=True, kw_only=True, tag="modify", tag_field="kind"):
    """Stop or target changed; both new levels are in the position."""

    position: MasterPosition


class Closed(Change, frozen=True, kw_only=True, tag="close", tag_field="kind"):
    """A position is gone; `position` is its last confirmed state. Price and reason where a deal told them."""

    position: MasterPosition
    price: Decimal = ZERO
    reason: DealReason = DealReason.OTHER


class Reversed(Change, frozen=True, kw_only=True, tag="reverse", tag_field="kind"):
    """A netting position flipped its side: the old generation is gone, the new one is open."""

    closed: MasterPosition
    position: MasterPosition
    spec: SymbolSpec | None = None
    absent_ms: int = 0


class Snapshot(Change, frozen=True, kw_only=True, tag="snapshot", tag_field="kind"):
    """All that the watcher has confirmed as open; heals any loss before it."""

    positions: tuple[MasterPosition, ...]
    specs: dict[str, SymbolSpec]
    """By symbol, for the symbols of the open positions."""


Event = Opened | ScaledIn | Reduced | Modified | Closed | Reversed | Snapshot


class Refused(Record, frozen=True, kw_only=True):
    """A rule's no to an open: the code for machines, the sentence for people, the numbers it was decided on."""

    code: str
    """snake_case and stable, such as `spread_above_max`."""
    rule: str
    """The setting that decided, as a path inside the relation, such as `protection.spread_max`."""
    message: str
    numbers: dict[str, str] = {}


class Stamps(Record, frozen=True, kw_only=True):
    """When a copy passed each hop, UTC milliseconds; 0 where it did not."""

    master_ms: int = 0
    """The master's fill, by its server's clock less the estimated offset."""
    read_ms: int = 0
    published_ms: int = 0
    received_ms: int = 0
    decided_ms: int = 0
    sent_ms: int = 0
    answered_ms: int = 0


class Verdict(StrEnum):
    """What became of a change at one follower."""

    COPIED = "copied"
    CHANGED = "changed"
    REFUSED = "refused"
    SKIPPED = "skipped"
    FAILED = "failed"
    UNKNOWN = "unknown"
    ADOPTED = "adopted"
    CLOSED = "closed"
    ALERT = "alert"


class Receipt(Record, frozen=True, kw_only=True):
    """Why a change was or was not copied: one for every event x follower, and for every repair."""

    at_ms: int
    follower: str
    master: str
    key: str
    """The master position's `identifier.generation`."""
    event: str
    verdict: Verdict
    code: str
    rule: str = ""
    message: str = ""
    symbol: str = ""
    side: Side | None = None
    master_lots: Decimal = ZERO
    lots: Decimal = ZERO
    price: Decimal = ZERO
    slippage_points: Decimal | None = None
    """How much worse than the master's fill, in the follower's points."""
    ticket: int = 0
    tag: str = ""
    numbers: dict[str, str] = {}
    stamps: Stamps | None = None
