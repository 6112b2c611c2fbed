"""Orders that wait for their price on a paper server: placed, changed, cancelled, expired, activated."""

from decimal import Decimal

from copier.errors import Reason, Rejected
from copier.gateways.comments import tag_in
from copier.gateways.paper_account import OrderState, PaperAccount, PaperOrder, server_time
from copier.gateways.paper_desk import Desk
from copier.gateways.paper_faults import NO_FAULT
from copier.gateways.paper_orders import Admitted, MarketOrder
from copier.gateways.paper_rates import PaperQuote
from copier.gateways.paper_rules import check_opening_side, check_volume, check_volume_limit
from copier.gateways.paper_symbols import PaperSymbol
from copier.model import ZERO, MarginMode, PendingOrder, PendingType, Side

_BUYS = {PendingType.BUY_LIMIT, PendingType.BUY_STOP, PendingType.BUY_STOP_LIMIT}
_LIMITS = {PendingType.BUY_LIMIT, PendingType.SELL_LIMIT}
_LIMIT_OF = {PendingType.BUY_STOP_LIMIT: PendingType.BUY_LIMIT, PendingType.SELL_STOP_LIMIT: PendingType.SELL_LIMIT}
LIMIT_ORDERS = 10033


def side_of(type: PendingType) -> Side:
    """Return what a waiting order will do."""
    return Side.BUY if type in _BUYS else Side.SELL


class Waiting:
    """The waiting orders of all accounts of a server, by symbol."""

    def __init__(self, desk: Desk) -> None:
        self.by_symbol: dict[str, dict[int, tuple[PaperAccount, PaperOrder]]] = {}
        self._desk = desk

    def place(self, account: PaperAccount, offered: PaperSymbol, quote: PaperQuote, order: PaperOrder) -> None:
        """Let an order wait; raise `Rejected` for a price on the wrong side, too near, or beyond a limit of the account."""
        check_opening_side(account, offered.spec, order.side)
        check_volume(account, offered.spec, order.lots)
        if account.orders_max and len(account.pending) >= account.orders_max:
            raise account.refuse(Reason.LIMIT, "Limit of pending orders reached", mt5=LIMIT_ORDERS)
        check_volume_limit(account, offered.spec, order.side, order.lots)
        self._check_prices(account, offered, quote, order)
        account.pending[order.ticket] = order
        self.by_symbol.setdefault(order.symbol, {})[order.ticket] = (account, order)

    def change(self, account: PaperAccount, offered: PaperSymbol, quote: PaperQuote, order: PaperOrder) -> None:
        """Put a changed order in the place of the one with its ticket; raise `Rejected`."""
        self._check_prices(account, offered, quote, order)
        account.pending[order.ticket] = order
        self.by_symbol[order.symbol][order.ticket] = (account, order)

    def finish(self, account: PaperAccount, order: PaperOrder, state: OrderState, now_ms: int) -> None:
        """Take an order off the list of those that wait and into history."""
        del account.pending[order.ticket]
        waiting = self.by_symbol[order.symbol]
        del waiting[order.ticket]
        if not waiting:
            del self.by_symbol[order.symbol]
        order.state, order.done_ms = state, now_ms
        if state is not OrderState.FILLED:
            account.orders.append(order)

    def look(self, symbol: str, offered: PaperSymbol, quote: PaperQuote, now_ms: int) -> None:
        """Activate what a new price has reached, oldest first, and drop what has expired."""
        for account, order in tuple(self.by_symbol[symbol].values()):
            if order.expires_ms and now_ms >= order.expires_ms:
                self.finish(account, order, OrderState.EXPIRED, now_ms)
                account.changed()
            elif _reached(order, quote):
                self._activate(account, order, offered, quote, now_ms)
                account.changed()

    def _activate(self, account: PaperAccount, order: PaperOrder, offered: PaperSymbol, quote: PaperQuote, now_ms: int) -> None:
        if order.type in _LIMIT_OF:
            order.type, order.price, order.limit_price = _LIMIT_OF[order.type], order.limit_price, ZERO
            return
        self.finish(account, order, OrderState.FILLED, now_ms)
        market = MarketOrder(
            symbol=order.symbol,
            side=order.side,
            lots=order.lots,
            stop_loss=order.stop_loss,
            take_profit=order.take_profit,
            magic=order.magic,
            comment=order.comment,
            reason=order.reason,
            ticket=order.ticket,
        )
        job = Admitted(account, offered, quote, market, quote.to_open(order.side), now_ms, NO_FAULT)
        held = next(account.on(order.symbol), None) if account.margin_mode is MarginMode.NETTING else None
        try:
            if held is not None:
                self._desk.net(job, held)
            else:
                self._desk.open(job)
        except Rejected as refusal:
            order.state, order.comment = OrderState.REJECTED, refusal.message
            account.orders.append(order)

    def _check_prices(self, account: PaperAccount, offered: PaperSymbol, quote: PaperQuote, order: PaperOrder) -> None:
        assert order.type is not None
        spec = offered.spec
        market = quote.to_open(order.side)
        gap = max(spec.stops_level, offered.stops_level_hidden) * spec.point
        # A buy limit and a sell stop wait below the price, a sell limit and a buy stop above it.
        below = (order.type in _LIMITS) == (order.side is Side.BUY)
        distance = market - order.price if below else order.price - market
        if order.price <= ZERO or distance <= ZERO or distance < gap or order.price % spec.tick_size:
            raise account.refuse(Reason.INVALID_PRICE, f"Invalid price: {order.price} for a {order.type} at {market}")
        at = order.limit_price or order.price
        spread = quote.ask - quote.bid
        filled = PaperQuote(at - spread, at, 0) if order.side is Side.BUY else PaperQuote(at, at + spread, 0)
        self._desk.check_levels(account, offered, order.side, filled, order.stop_loss, order.take_profit)


def pending_view(order: PaperOrder) -> PendingOrder:
    """Return a waiting order as a terminal shows it."""
    assert order.type is not None
    return PendingOrder(
        ticket=order.ticket,
        symbol=order.symbol,
        type=order.type,
        lots=order.lots_left,
        price=order.price,
        limit_price=order.limit_price,
        stop_loss=order.stop_loss,
        take_profit=order.take_profit,
        open_time=server_time(order.setup_ms),
        expiration=server_time(order.expires_ms) if order.expires_ms else None,
        magic=order.magic,
        comment=order.comment,
        tag=tag_in(order.comment),
    )


def _reached(order: PaperOrder, quote: PaperQuote) -> bool:
    price: Decimal = quote.to_open(order.side)
    below = (order.type in _LIMITS) == (order.side is Side.BUY)
    return price <= order.price if below else price >= order.price
