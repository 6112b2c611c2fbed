"""The one contract between the engine and every kind of account: six operations, and what they promise.

Promises that the conformance suite holds every gateway to:

* A read that fails raises `Unavailable`; it never returns less than there is. Every answer says which login@server it
  comes from and whether the terminal was connected.
* A trading call ends in a result (done), `Rejected` (surely not executed), `InvalidRequest` or `Unavailable` (not sent), or
  `OutcomeUnknown`, which is the default for everything that is not surely one of the others.
* No call hangs: each ends at the gateway's own deadline at the latest.
* A trading call with a lower token than one already seen, or seen after its not-after, is `Rejected` and does nothing.
* Nothing is retried behind the caller's back, unless it is surely not executed and the price is inside the slippage.
"""

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Protocol

import msgspec

from copier.errors import Detail, InvalidRequest
from copier.model import (
    ZERO,
    Account,
    Bar,
    CloseRequest,
    CloseResult,
    Deal,
    ModifyRequest,
    ModifyResult,
    PendingOrder,
    Permit,
    Position,
    Positions,
    Quote,
    Side,
    SymbolSpec,
    Timeframe,
    TradeRequest,
    TradeResult,
)

LOTS_MAX = Decimal(100)
"""The most lots one order may ask for; a rule of the six operations, whatever the broker allows."""
LEVEL_MAX = Decimal(10) ** 12
"""No instrument trades above this; a level beyond it is a slip or an attack."""
COMMENT_MAX = 31
TAG_MAX = 16
"""Client tags are short because brokers cut comments: MT5's package takes 29 characters, MT4 27, some brokers fewer."""


class DealHistory(Protocol):
    """Optional: the account's deals. Without it an order of unknown outcome is never sent again."""

    async def get_deals(self, since: datetime, position_id: int | None = None) -> tuple[Deal, ...]:
        """Return deals from `since` (server clock) on, oldest first, or all of one position; raise `Unavailable`."""
        ...


class SymbolCatalogue(Protocol):
    """Optional: every symbol the broker offers. Without it a symbol is matched by map, prefix and suffix only."""

    async def get_symbols(self) -> tuple[SymbolSpec, ...]:
        """Return the rules of every symbol; raise `Unavailable`."""
        ...


class PendingOrders(Protocol):
    """Optional, beside the contract: the orders that wait for their price. `getattr(gateway, "pending_orders", None)` has it."""

    async def get_pending_orders(self, symbol: str | None = None) -> tuple[PendingOrder, ...]:
        """Return every waiting order, or those of one symbol, oldest first; raise `Unavailable`, never an empty list instead."""
        ...


class Bars(Protocol):
    """Optional, beside the contract: past prices. `getattr(gateway, "bars", None)` has it."""

    async def get_bars(self, symbol: str, timeframe: Timeframe, count: int) -> tuple[Bar, ...]:
        """Return the last `count` bars, the one still forming last; raise `Rejected` for an unknown symbol, `Unavailable`."""
        ...


class Wakes(Protocol):
    """Optional: the source calls when something changed. Without it the watcher polls."""

    def on_change(self, wake: Callable[[], None]) -> None:
        """Call `wake` (cheap, on the event loop) after anything about positions or orders may have changed."""
        ...


class Tells(Protocol):
    """Optional, beside the contract: the source says by itself what there is. `getattr(gateway, "tells", None)` has it.

    What it says is a read like any other: as whole, of the account it names, numbered among the reads, and given back no longer
    once something newer was answered.
    """

    def positions_told(self) -> tuple[Positions, int] | None:
        """Return all positions as the source told them last, and when they were read (UTC, ms); None where asking tells more."""
        ...

    def quote_told(self, symbol: str) -> tuple[Quote, int] | None:
        """Return the price the source told since it was last asked for it, and when it was read; None where there is none."""
        ...


class GatewayFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine must know about a gateway kind before it trusts it."""

    kind: str
    settle_s: float
    """After an accepted request, or an order's not-after, at most this long until every read shows its effect."""
    late_s: float = 30.0
    """A broker may sit on a request it took for so long after its not-after: a reduction whose outcome is not known is not
    asked for again before, as doing it twice would close too much."""
    call_timeout_s: float = 10.0
    """No operation takes longer than this."""
    tags_survive: bool = False
    """Tags are proven to come back with positions and deals; only then may `unknown: resend` be chosen."""
    checks_permits: bool = True
    """The far end refuses old tokens and late frames."""


class Gateway(Protocol):
    """The six operations on one account, and the optional capabilities beside them."""

    @property
    def facts(self) -> GatewayFacts:
        """What this kind of gateway promises in numbers."""
        ...

    @property
    def deals(self) -> DealHistory | None:
        """The account's history, if this gateway has it."""
        ...

    @property
    def symbols(self) -> SymbolCatalogue | None:
        """The broker's symbols, if this gateway can list them."""
        ...

    @property
    def wakes(self) -> Wakes | None:
        """A wake-up on changes, if this gateway has one."""
        ...

    async def open(self) -> None:
        """Connect and verify that it is the right account; raise `Unavailable` with what to mend."""
        ...

    async def close(self) -> None:
        """Let go of everything; trading calls under way end as `OutcomeUnknown`."""
        ...

    async def get_account(self) -> Account:
        """Return the account's state now; raise `Unavailable`."""
        ...

    async def get_positions(self, symbol: str | None = None) -> Positions:
        """Return every open position, or those of one symbol; raise `Unavailable`, never return an empty read instead."""
        ...

    async def get_quote(self, symbol: str) -> Quote:
        """Return bid, ask and the symbol's rules; raise `Rejected` for an unknown symbol, `Unavailable` without a price."""
        ...

    async def execute_trade(self, request: TradeRequest, permit: Permit) -> TradeResult:
        """Open at market; raise `InvalidRequest`, `Rejected`, `Unavailable` (not sent) or `OutcomeUnknown`."""
        ...

    async def close_position(self, request: CloseRequest, permit: Permit) -> CloseResult:
        """Close by ticket, wholly or in part; the same errors."""
        ...

    async def modify_position(self, request: ModifyRequest, permit: Permit) -> ModifyResult:
        """Set stop and target to values; unchanged values are a success; the same errors."""
        ...


def check_trade(request: TradeRequest, account: str = "") -> None:
    """Raise `InvalidRequest` where an order breaks a rule that holds at every broker."""
    details = []
    if not request.symbol:
        details.append(Detail(("symbol",), "Required"))
    if not request.lots.is_finite() or request.lots <= 0:
        details.append(Detail(("lots",), f"Lots must be positive, not {request.lots}"))
    elif request.lots > LOTS_MAX:
        details.append(Detail(("lots",), f"Lots must be at most {LOTS_MAX}, not {request.lots}"))
    details += _level_details(request.stop_loss, request.take_profit)
    if request.slippage < 0:
        details.append(Detail(("slippage",), f"Slippage must be 0 points or more, not {request.slippage}"))
    if len(request.comment) > COMMENT_MAX:
        details.append(Detail(("comment",), f"Comment must be at most {COMMENT_MAX} characters, not {len(request.comment)}"))
    if len(request.tag) > TAG_MAX or not request.tag.isascii():
        details.append(Detail(("tag",), f"Tag must be at most {TAG_MAX} ASCII characters, not {request.tag!r}"))
    if details:
        raise InvalidRequest("Validation error", account=account, details=tuple(details))
    _check_sides(request.action, request.stop_loss, request.take_profit, "orders", account)


def check_modify(request: ModifyRequest, account: str = "") -> None:
    """Raise `InvalidRequest` where a modify names no level or an impossible one."""
    if request.stop_loss is None and request.take_profit is None:
        raise InvalidRequest("At least one of stopLoss or takeProfit must be provided", account=account)
    details = _level_details(request.stop_loss or ZERO, request.take_profit or ZERO)
    if details:
        raise InvalidRequest("Validation error", account=account, details=tuple(details))


def check_modify_of(position: Position, request: ModifyRequest, account: str = "") -> tuple[Decimal, Decimal]:
    """Return the (stop, target) a modify leads to on this position; raise `InvalidRequest` where they cross."""
    stop = position.stop_loss if request.stop_loss is None else request.stop_loss
    target = position.take_profit if request.take_profit is None else request.take_profit
    _check_sides(position.type, stop, target, "positions", account)
    return stop, target


def check_close(request: CloseRequest, account: str = "") -> None:
    """Raise `InvalidRequest` where the part to close is not a positive volume."""
    if request.lots is not None and (not request.lots.is_finite() or request.lots <= 0):
        detail = Detail(("lots",), f"Lots must be positive, not {request.lots}")
        raise InvalidRequest("Validation error", account=account, details=(detail,))


def not_found(ticket: int) -> str:
    """The one text for a ticket nobody knows."""
    return f"Position with ticket {ticket} not found"


LOTS_EXCEED = "Requested lots exceeds position size"
NOT_CONNECTED = "MT4 terminal is not connected"
TRADE_FAILED = "Trade execution failed"


def no_quote(symbol: str) -> str:
    """The one text for a symbol without a price."""
    return f"No quote data available for {symbol}"


def _level_details(stop: Decimal, target: Decimal) -> list[Detail]:
    return [
        Detail((name,), f"A price level must be 0 (none) or positive, not {level}")
        for name, level in (("stopLoss", stop), ("takeProfit", target))
        if not level.is_finite() or not 0 <= level < LEVEL_MAX
    ]


def _check_sides(side: Side, stop: Decimal, target: Decimal, noun: str, account: str) -> None:
    if not stop or not target:
        return
    if side is Side.BUY and stop >= target:
        raise InvalidRequest(f"For BUY {noun}, stop loss must be below take profit", account=account)
    if side is Side.SELL and stop <= target:
        raise InvalidRequest(f"For SELL {noun}, stop loss must be above take profit", account=account)
