"""Orders on a MetaTrader 5 terminal: sent once, exactly typed, followed until done, surely not executed, or unknown."""

import contextlib
import logging
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

from copier.errors import GatewayError, InvalidRequest, OutcomeUnknown, Reason, Rejected, Unavailable
from copier.gateway import LOTS_EXCEED, TRADE_FAILED, check_modify_of, not_found
from copier.gateways.mt5_codes import INVALID_FILL, INVALID_STOPS, RETCODES, Outcome, order_error, retcode_error
from copier.gateways.mt5_session import Session
from copier.gateways.mt5_values import (
    ACTION_DEAL,
    ACTION_SLTP,
    FILLING_NUMBERS,
    MARGIN_MODES,
    ORDER_TYPES,
    TEXT_UNITS_MAX,
    OrderRequest,
    average_price,
    comment_to_send,
    cut,
    filling_candidates,
    levels_are_allowed,
    number,
    pieces,
    position_of,
    spec_of,
    units,
)
from copier.gateways.serving import check_in_time
from copier.model import (
    ZERO,
    CloseRequest,
    CloseResult,
    Filling,
    MarginMode,
    ModifyRequest,
    ModifyResult,
    Permit,
    Position,
    Side,
    SymbolSpec,
    TradeRequest,
    TradeResult,
)

log = logging.getLogger(__name__)

LISTED_SHARE = 0.2
"""The part of a call's time that may go by until the deal of a done order is listed, and again until its position is."""
PLACED_SHARE = 0.5
"""The part of a call's time that may go by until an accepted order is filled."""
_ENTRY_OUT = 1
_DEAD_STATES = {2, 5, 6}
"""Cancelled, rejected, expired."""


class Prices(Protocol):
    """Where symbols and their prices come from."""

    def price(self, symbol: str) -> tuple[Any, Any]:
        """Return a symbol's SymbolInfo and a Tick with both prices; raise `Rejected` or `Unavailable`."""
        ...


class Filled(NamedTuple):
    """What became of one order that was executed."""

    order: int
    lots: Decimal
    price: Decimal
    position_id: int = 0
    """0 where no deal told it."""
    entry: int = 0
    """Of the deal: it opened, closed or reversed."""


class Market(NamedTuple):
    """A symbol as an order needs it."""

    spec: SymbolSpec
    bid: float
    ask: float

    def to_open(self, side: Side) -> float:
        """Return what an order of `side` pays."""
        return self.ask if side is Side.BUY else self.bid


class Orders:
    """Sends orders and says what became of them; nothing is sent twice that is not surely unexecuted."""

    def __init__(self, session: Session, prices: Prices) -> None:
        self._session = session
        self._prices = prices
        self._fillings: dict[str, Filling] = {}
        self._bare: set[str] = set()
        """Symbols that take stop and target only after the opening."""

    # the three operations

    def open(self, request: TradeRequest, permit: Permit) -> TradeResult:
        """Open at market, with stop and target in a second request where the server wants them there."""
        seen = self._session.check_to_trade()
        if units(request.symbol) > TEXT_UNITS_MAX:
            message = f"the package takes symbols of at most {TEXT_UNITS_MAX} characters, not {request.symbol}"
            raise InvalidRequest(message, account=self._session.account)
        market = self._market(request.symbol)
        held = self._positions(request.symbol)
        stop, target = request.stop_loss, request.take_profit
        if MARGIN_MODES.get(seen.account.margin_mode) is MarginMode.NETTING:
            stop, target = _kept_levels(held, request, stop, target)
        order: OrderRequest = {
            "action": ACTION_DEAL,
            "symbol": request.symbol,
            "volume": float(request.lots),
            "type": ORDER_TYPES[request.action],
            "price": float(market.to_open(request.action)),
            "sl": float(stop),
            "tp": float(target),
            "deviation": int(request.slippage),
            "magic": int(request.magic),
            "comment": comment_to_send(request.tag, request.comment),
            "type_time": 0,
        }
        filled = self._open(order, market, request.action, stop, target, permit)
        with self._executed():
            position = self._opened_position(filled, request, held)
            ticket = position.ticket if position else filled.position_id or filled.order
            return TradeResult(
                account=self._session.account,
                ticket=ticket,
                symbol=request.symbol,
                action=request.action,
                lots=filled.lots,
                price=filled.price,
                stops_set=self._stops_set(position, request, ticket, stop, target, permit),
            )

    def close(self, request: CloseRequest, permit: Permit) -> CloseResult:
        """Close by ticket, in as many orders as the symbol's maximum demands; tell what was closed if a later one fails."""
        seen = self._session.check_to_trade()
        position = self._position(request.ticket)
        lots = position.lots if request.lots is None else request.lots
        if lots > position.lots:
            raise InvalidRequest(LOTS_EXCEED, account=self._session.account)
        market = self._market(position.symbol)
        netting = MARGIN_MODES.get(seen.account.margin_mode) is MarginMode.NETTING
        side = position.type.opposite
        fills: list[Filled] = []
        message = "Position closed"
        for piece in pieces(lots, market.spec.volume_max, market.spec.volume_min):
            order: OrderRequest = {
                "action": ACTION_DEAL,
                "position": int(position.ticket),
                "symbol": position.symbol,
                "volume": float(piece),
                "type": ORDER_TYPES[side],
                "price": float(market.to_open(side)),
                "deviation": int(request.slippage),
                "magic": int(position.magic),
                # A netting position takes over magic and comment of the last deal.
                "comment": cut(position.comment) if netting else "",
                "type_time": 0,
            }
            try:
                fills.append(self._filled(order, market.spec, permit))
            except OutcomeUnknown:
                raise
            except GatewayError as error:
                if not fills:
                    raise
                message = f"Position closed in part: {error.message}"
                break
            if fills[-1].lots < piece:
                break
        return CloseResult(
            account=self._session.account,
            ticket=request.ticket,
            lots=sum((filled.lots for filled in fills), ZERO),
            price=average_price((filled.lots, filled.price) for filled in fills),
            message=message,
        )

    def modify(self, request: ModifyRequest, permit: Permit) -> ModifyResult:
        """Set stop and target; both are always sent, as the server takes a missing one for 0."""
        self._session.check_to_trade()
        position = self._position(request.ticket)
        stop, target = check_modify_of(position, request, self._session.account)
        self._set_levels(position.ticket, position.symbol, stop, target, permit)
        return ModifyResult(account=self._session.account, ticket=request.ticket)

    # opening

    def _open(self, order: OrderRequest, market: Market, side: Side, stop: Decimal, target: Decimal, permit: Permit) -> Filled:
        """Send an opening order; where the server refuses levels that keep its own rules, send it again without them."""
        leveled = bool(stop or target)
        if leveled and market.spec.symbol in self._bare:
            return self._filled(_bare(order), market.spec, permit)
        try:
            return self._filled(order, market.spec, permit)
        except Rejected as error:
            closing = number(market.to_open(side.opposite))
            refused = error.code == INVALID_STOPS and leveled
            if not refused or not levels_are_allowed(market.spec, side, closing, stop, target):
                raise
        log.info("%s: levels refused at the opening, opened without and set afterwards", market.spec.symbol)
        filled = self._filled(_bare(order), market.spec, permit)
        self._bare.add(market.spec.symbol)
        return filled

    def _opened_position(self, filled: Filled, request: TradeRequest, held: tuple[Position, ...]) -> Position | None:
        """Find the position of a filled order: by the deal's position, by the order's ticket, or as the one that is new."""
        before = {position.identifier: position for position in held}
        reduced = filled.entry == _ENTRY_OUT

        def find() -> Position | None:
            raws = self._session.api.positions_get(symbol=request.symbol)
            listed = [position_of(raw) for raw in raws or ()]
            wanted = filled.position_id or filled.order
            for position in listed:
                if wanted and wanted in (position.identifier, position.ticket):
                    # A list that lags still shows a netting position as it was before.
                    same = _shape(position) == _shape(before.get(position.identifier))
                    return position if reduced or not same else None
            new = [
                position
                for position in listed
                if position.identifier not in before and position.type is request.action and position.magic == request.magic
            ]
            return new[0] if len(new) == 1 and not filled.position_id else None

        if reduced:
            return find() or next((each for each in held if each.identifier == filled.position_id), None)
        found: Position | None = self._session.until(find, self._share_s(LISTED_SHARE))
        return found

    def _stops_set(
        self, position: Position | None, request: TradeRequest, ticket: int, stop: Decimal, target: Decimal, permit: Permit
    ) -> bool:
        """Set levels that the opening did not set; return whether they stand."""
        if not stop and not target:
            return True
        if position is not None and (position.stop_loss, position.take_profit) == (stop, target):
            return True
        if position is None and request.symbol not in self._bare:
            return True
        if position is not None and position.type is not request.action:
            return False
        try:
            self._set_levels(ticket, request.symbol, stop, target, permit)
        except GatewayError as error:
            log.warning("stop and target of %d were not set after the opening: %s", ticket, error)
            return False
        return True

    # sending

    def _set_levels(self, ticket: int, symbol: str, stop: Decimal, target: Decimal, permit: Permit) -> None:
        order: OrderRequest = {
            "action": ACTION_SLTP,
            "position": int(ticket),
            "symbol": symbol,
            "sl": float(stop),
            "tp": float(target),
        }
        result = self._send(order, permit)
        known = RETCODES.get(result.retcode)
        if known is None or known.outcome is not Outcome.DONE:
            if known is not None and known.reason is Reason.INVALID_TICKET:
                raise self._gone(ticket, result.retcode)
            raise retcode_error(result.retcode, result.comment, self._session.account)

    def _filled(self, order: OrderRequest, spec: SymbolSpec, permit: Permit) -> Filled:
        """Send a market order with the filling mode the symbol takes, once with another if that was wrong; return its fill."""
        candidates = filling_candidates(spec)
        proven = self._fillings.get(spec.symbol)
        if proven is not None:
            candidates = (proven, *(mode for mode in candidates if mode is not proven))[:2]
        for last, filling in zip((False, True), candidates, strict=False):
            order["type_filling"] = FILLING_NUMBERS[filling]
            result = self._send(order, permit)
            if result.retcode != INVALID_FILL:
                self._fillings[spec.symbol] = filling
                break
            if last:
                break
        known = RETCODES.get(result.retcode)
        match known.outcome if known else None:
            case Outcome.DONE:
                with self._executed():
                    return self._done(result, order)
            case Outcome.PLACED:
                with self._executed():
                    return self._placed(result, order)
            case _ if known is not None and known.reason is Reason.INVALID_TICKET and "position" in order:
                raise self._gone(order["position"], result.retcode)
            case _:
                raise retcode_error(result.retcode, result.comment, self._session.account)

    @contextlib.contextmanager
    def _executed(self) -> Iterator[None]:
        """Follow up an order the server took: whatever cannot be read now, the order must not pass for unsent."""
        try:
            yield
        except (Unavailable, InvalidRequest) as error:
            message = f"the server took the order, and then: {error.message}"
            raise OutcomeUnknown(message, account=self._session.account) from error

    def _send(self, order: OrderRequest, permit: Permit) -> Any:
        """Send one request, after a last look at the account and the clock; raise what a missing result means."""
        session = self._session
        session.check()
        check_in_time(permit, session.pace)
        result = session.api.order_send(dict(order))
        if result is None:
            raise order_error(*session.trouble(), session.account)
        return result

    def _done(self, result: Any, order: OrderRequest) -> Filled:
        """Return the fill of an order that is done; its deal, where it shows up in time, knows the position and the price."""
        lots, price = number(result.volume), number(result.price)
        if "position" in order and lots and price:
            return Filled(result.order, lots, price)
        within_s = self._share_s(LISTED_SHARE)
        deals = self._session.until(lambda: self._deals_of(result, lots), within_s) if result.order else None
        if not deals:
            return Filled(result.order, lots or number(order["volume"]), price)
        sums = [(number(deal.volume), number(deal.price)) for deal in deals]
        lots = lots or sum((each for each, _ in sums), ZERO)
        return Filled(result.order, lots, average_price(sums) or price, deals[0].position_id, deals[0].entry)

    def _placed(self, result: Any, order: OrderRequest) -> Filled:
        """Follow an order that was accepted until it is filled or dead; where time runs out it is unknown."""
        wanted = number(order["volume"])
        within_s = self._share_s(PLACED_SHARE)
        deals = self._session.until(lambda: self._decided(result, wanted), within_s) if result.order else None
        if deals is None:
            message = f"order {result.order} was accepted and not filled within {within_s:g} s"
            raise OutcomeUnknown(message, account=self._session.account)
        if not deals:
            message = f"{TRADE_FAILED}: order {result.order} was accepted and then dropped by the server"
            raise Rejected(message, reason=Reason.REFUSED, code=result.retcode, account=self._session.account)
        sums = [(number(deal.volume), number(deal.price)) for deal in deals]
        lots = sum((each for each, _ in sums), ZERO)
        return Filled(result.order, lots, average_price(sums), deals[0].position_id, deals[0].entry)

    def _deals_of(self, result: Any, lots: Decimal) -> list[Any] | None:
        """Return the deals of an order once they are all there."""
        deals = self._deals(result.order)
        total = sum((number(deal.volume) for deal in deals), ZERO)
        return deals if deals and total >= lots else None

    def _decided(self, result: Any, wanted: Decimal) -> list[Any] | None:
        """Return the deals of a placed order once it is over, an empty list if it died without one, None while it is open."""
        deals = self._deals(result.order)
        if sum((number(deal.volume) for deal in deals), ZERO) >= wanted:
            return deals
        past = self._session.api.history_orders_get(ticket=result.order)
        if not past or past[0].state not in _DEAD_STATES:
            return None
        # What was filled before it died has deals, which may be listed later than the order's end.
        filled = number(past[0].volume_initial) - number(past[0].volume_current)
        return deals if sum((number(deal.volume) for deal in deals), ZERO) >= filled else None

    def _deals(self, order: int) -> list[Any]:
        return list(self._session.api.history_deals_get(ticket=order) or ())

    # reading

    def _market(self, symbol: str) -> Market:
        info, tick = self._prices.price(symbol)
        return Market(spec_of(info), tick.bid, tick.ask)

    def _positions(self, symbol: str) -> tuple[Position, ...]:
        return tuple(position_of(raw) for raw in self._session.ask("positions_get", symbol=symbol))

    def _position(self, ticket: int) -> Position:
        """Return one open position; raise `Rejected` where the terminal knows none of that ticket."""
        raws = self._session.ask("positions_get", ticket=ticket)
        for raw in raws:
            if raw.ticket == ticket:
                return position_of(raw)
        if self._session.unsettled_s:
            message = f"{not_found(ticket)} yet: the terminal has only just connected"
            raise Unavailable(message, account=self._session.account)
        raise self._gone(ticket, 10036)

    def _share_s(self, share: float) -> float:
        return self._session.opening.call_timeout_s * share

    def _gone(self, ticket: int, code: int) -> Rejected:
        return Rejected(not_found(ticket), reason=Reason.INVALID_TICKET, code=code, account=self._session.account)


def _shape(position: Position | None) -> Any:
    return position and (position.ticket, position.type, position.lots, position.open_price)


def _bare(order: OrderRequest) -> OrderRequest:
    return {**order, "sl": 0.0, "tp": 0.0}


def _kept_levels(held: tuple[Position, ...], request: TradeRequest, stop: Decimal, target: Decimal) -> tuple[Decimal, Decimal]:
    """Return the levels of an order that adds to a netting position: those it has, where the order names none.

    Whether servers keep them by themselves is not documented; sending them does no harm where they do.
    """
    for position in held:
        if position.type is request.action:
            return stop or position.stop_loss, target or position.take_profit
    return stop, target
