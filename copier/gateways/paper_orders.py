"""What goes into a paper server's dealing desk and what comes out: orders, fills, and the broker's habits."""

from decimal import Decimal

import msgspec

from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_faults import Fault
from copier.gateways.paper_rates import PaperQuote
from copier.gateways.paper_symbols import PaperSymbol
from copier.model import ZERO, DealReason, Filling, Record, Side


class BrokerHabits(Record, frozen=True, kw_only=True):
    """What brokers do differently, or nobody has documented; each is to be survived both ways."""

    off_tick_levels_refused: bool = True
    """Stops that are no multiple of the tick size are invalid."""
    small_rest_refused: bool = False
    """A partial close may not leave less than the minimum volume."""
    netting_add_clears_stops: bool = True
    """Adding to a netting position replaces its levels by the order's, and removes them where the order has none.

    MetaQuotes documents it so for the terminal; one-click orders and some servers leave them alone.
    """
    netting_reduce_renames: bool = True
    """Reducing a netting position gives it the reducing deal's magic and comment."""
    split_comments: bool = True
    """MT4 names the old ticket in a split order's comment; otherwise only "partial close"."""


class MarketOrder(Record, frozen=True, kw_only=True):
    """An order to deal at market: opens, or with `position` closes (part of) that ticket."""

    symbol: str
    side: Side
    lots: Decimal
    position: int = 0
    price: Decimal | None = None
    """What the client saw; matters only where the execution mode knows requotes."""
    deviation: int | None = None
    filling: Filling | None = None
    stop_loss: Decimal = ZERO
    take_profit: Decimal = ZERO
    magic: int = 0
    comment: str = ""
    reason: DealReason = DealReason.CLIENT
    ticket: int = 0
    """That of the waiting order which became this one; otherwise the server gives a new one."""


class Fill(Record, frozen=True, kw_only=True):
    """An executed order; `code` is the platform's return code."""

    code: int
    order: int
    deal: int
    position: int
    """The position's ticket after the deal."""
    identifier: int
    lots: Decimal
    price: Decimal
    bid: Decimal
    ask: Decimal
    stops_set: bool = True
    rest: int | None = None
    """MT4: the new ticket of what is left after a partial close."""


class Admitted(msgspec.Struct, frozen=True):
    """An order the server let through, with all that executing it needs."""

    account: PaperAccount
    offered: PaperSymbol
    quote: PaperQuote
    order: MarketOrder
    price: Decimal
    now_ms: int
    """The server's clock."""
    fault: Fault
