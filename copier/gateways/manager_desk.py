"""Dealer's orders for one login: sent once, followed until done, surely not executed, or unknown."""

import contextlib
import logging
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

from copier.errors import GatewayError, InvalidRequest, OutcomeUnknown, Reason, Rejected, Unavailable
from copier.gateway import LOTS_EXCEED, check_modify_of, not_found
from copier.gateways.comments import comment_with_tag
from copier.gateways.manager_connection import Answer, Connection, DealSeen, Reply
from copier.gateways.manager_values import (
    COMMENT_MAX,
    FLAG_CHANGED_SL,
    FLAG_CHANGED_TP,
    FLAG_CLOSE,
    POS_EXECUTE,
    POS_MODIFY,
    UNDER_WAY,
    answer_error,
    check_side,
    check_volume,
    lots_of,
    volumes_of,
)
from copier.gateways.mt5_codes import INVALID_FILL, INVALID_STOPS, RETCODES, Outcome
from copier.gateways.mt5_values import (
    FILLING_NUMBERS,
    MARGIN_MODES,
    ORDER_TYPES,
    average_price,
    filling_candidates,
    levels_are_allowed,
    pieces,
    server_time,
)
from copier.gateways.serving import check_in_time
from copier.model import (
    ZERO,
    CloseRequest,
    CloseResult,
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

ANSWER_MARGIN_S = 0.5
"""So long before a call's deadline the child itself says that the outcome is unknown, and lives on."""
LISTED_SHARE = 0.2
"""The part of a call's time that may go by until a deal of a done order can be read, and again until its position can."""
_ENTRY_OUT = 1
_DEAD_STATES = {2, 5, 6}
"""Cancelled, rejected, expired."""


class Market(NamedTuple):
    """A symbol as an order needs it."""

    spec: SymbolSpec
    bid: Decimal
    ask: Decimal

    def to_open(self, side: Side) -> Decimal:
        """Return what an order of `side` pays."""
        return self.ask if side is Side.BUY else self.bid


class Book(Protocol):
    """Where groups, symbols and positions are read."""

    def group_to_trade(self) -> Any:
        """Return the login's group; raise `Unavailable` or `Rejected`."""
        ...

    def market(self, symbol: str, group: str) -> Market:
        """Return a symbol's rules and prices; raise `Rejected` or `Unavailable`."""
        ...

    def positions(self, symbol: str | None = None) -> tuple[Position, ...]:
        """Return the server's own list; raise `Unavailable`."""
        ...


class Filled(NamedTuple):
    """What became of one order that was executed."""

    order: int
    lots: Decimal
    price: Decimal
    position_id: int = 0
    """0 where no deal told it."""
    entry: int = 0


class Orders:
    """Sends a login's orders one after the other; nothing is sent twice that is not surely unexecuted."""

    def __init__(self, connection: Connection, book: Book, account: str, login: int) -> None:
        self._connection = connection
        self._book = book
        self._account = account
        self._login = login
        self._bare: set[str] = set()
        """Symbols that take stop and target only after the opening."""
        self._end_s = 0.0

    def open(self, request: TradeRequest, permit: Permit) -> TradeResult:
        """Open at market, with stop and target in a second request where the server wants them there."""
        group = self._begin()
        market = self._book.market(request.symbol, group.Group)
        check_volume(market.spec, request.lots, self._account)
        check_side(market.spec, request.action, self._account)
        held = self._book.positions(request.symbol)
        stop, target = request.stop_loss, request.take_profit
        if MARGIN_MODES.get(int(group.MarginMode)) is MarginMode.NETTING:
            for there in held:
                if there.type is request.action:
                    stop, target = stop or there.stop_loss, target or there.take_profit
        fields = {
            "Action": POS_EXECUTE,
            "Symbol": request.symbol,
            "Type": ORDER_TYPES[request.action],
            "PriceOrder": float(market.to_open(request.action)),
            "PriceDeviation": int(request.slippage),
            # A request has no room for the magic number: the comment is all that is ours on the position.
            "Comment": comment_with_tag(request.tag, request.comment, COMMENT_MAX),
            **volumes_of(request.lots),
        }
        filled = self._open(fields, market, request.action, stop, target, permit)
        with self._executed():
            position = self._opened_position(filled, request, held)
            ticket = position.ticket if position else filled.position_id or filled.order
            return TradeResult(
                account=self._account,
                ticket=ticket,
                symbol=request.symbol,
                action=request.action,
                lots=filled.lots,
                price=filled.price,
                stops_set=self._stops_set(position, request, stop, target, permit),
            )

    def close(self, request: CloseRequest, permit: Permit) -> CloseResult:
        """Close by ticket, in as many orders as the symbol's maximum demands; tell what was closed if a later one fails."""
        group = self._begin()
        position = self._position(request.ticket)
        lots = position.lots if request.lots is None else request.lots
        if lots > position.lots:
            raise InvalidRequest(LOTS_EXCEED, account=self._account)
        market = self._book.market(position.symbol, group.Group)
        step = market.spec.volume_step
        if lots != position.lots and step and lots % step:
            check_volume(market.spec, lots, self._account)
        netting = MARGIN_MODES.get(int(group.MarginMode)) is MarginMode.NETTING
        side = position.type.opposite
        fills: list[Filled] = []
        message = "Position closed"
        for piece in pieces(lots, market.spec.volume_max, market.spec.volume_min):
            fields = {
                "Action": POS_EXECUTE,
                "Flags": FLAG_CLOSE,
                "Position": position.ticket,
                "Symbol": position.symbol,
                "Type": ORDER_TYPES[side],
                "PriceOrder": float(market.to_open(side)),
                "PriceDeviation": int(request.slippage),
                # A netting position takes over the comment of the last deal.
                "Comment": position.comment[:COMMENT_MAX] if netting else "",
                **volumes_of(piece),
            }
            try:
                fills.append(self._filled(fields, market.spec, permit))
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
            account=self._account,
            ticket=request.ticket,
            lots=sum((filled.lots for filled in fills), ZERO),
            price=average_price((filled.lots, filled.price) for filled in fills),
            message=message,
        )

    def modify(self, request: ModifyRequest, permit: Permit) -> ModifyResult:
        """Set stop and target; both are always sent."""
        self._begin()
        position = self._position(request.ticket)
        stop, target = check_modify_of(position, request, self._account)
        self._set_levels(position.ticket, position.symbol, stop, target, permit)
        return ModifyResult(account=self._account, ticket=request.ticket)

    # opening

    def _open(self, fields: dict[str, Any], market: Market, side: Side, stop: Decimal, target: Decimal, permit: Permit) -> Filled:
        """Send an opening order; where the server refuses levels that keep its own rules, send it again without them."""
        if not (stop or target) or market.spec.symbol in self._bare:
            return self._filled(fields, market.spec, permit)
        levels = {"PriceSL": float(stop), "PriceTP": float(target), "Flags": FLAG_CHANGED_SL | FLAG_CHANGED_TP}
        try:
            return self._filled({**fields, **levels}, market.spec, permit)
        except Rejected as error:
            closing = market.to_open(side.opposite)
            if error.code != INVALID_STOPS or not levels_are_allowed(market.spec, side, closing, stop, target):
                raise
        log.info("%s: levels refused at the opening, opened without and set afterwards", market.spec.symbol)
        filled = self._filled(fields, market.spec, permit)
        self._bare.add(market.spec.symbol)
        return filled

    def _opened_position(self, filled: Filled, request: TradeRequest, held: tuple[Position, ...]) -> Position | None:
        """Find the position of a filled order: by the deal's position, by the order's ticket, or as the one that is new."""
        before = {position.identifier: position for position in held}

        def find() -> Position | None:
            listed = self._book.positions(request.symbol)
            wanted = filled.position_id or filled.order
            for position in listed:
                if wanted and wanted in (position.identifier, position.ticket):
                    return position if position != before.get(position.identifier) else None
            new = [each for each in listed if each.identifier not in before and each.type is request.action]
            return new[0] if len(new) == 1 and not filled.position_id else None

        if filled.entry == _ENTRY_OUT:
            return find() or before.get(filled.position_id)
        found: Position | None = self._connection.until(find, self._share_end_s())
        return found

    def _stops_set(
        self, position: Position | None, request: TradeRequest, stop: Decimal, target: Decimal, permit: Permit
    ) -> bool:
        """Set levels that the opening did not set; return whether they stand."""
        if not stop and not target:
            return True
        if position is None or position.type is not request.action:
            return position is None and request.symbol not in self._bare
        if (position.stop_loss, position.take_profit) == (stop, target):
            return True
        try:
            self._set_levels(position.ticket, request.symbol, stop, target, permit)
        except GatewayError as error:
            log.warning("stop and target of %d were not set after the opening: %s", position.ticket, error)
            return False
        return True

    # sending

    def _set_levels(self, ticket: int, symbol: str, stop: Decimal, target: Decimal, permit: Permit) -> None:
        fields = {
            "Action": POS_MODIFY,
            "Position": ticket,
            "Symbol": symbol,
            "PriceSL": float(stop),
            "PriceTP": float(target),
            "Flags": FLAG_CHANGED_SL | FLAG_CHANGED_TP,
        }
        answer, _ = self._answer(fields, permit)
        known = RETCODES.get(answer.retcode)
        if known is None or known.outcome is not Outcome.DONE:
            if known is not None and known.reason is Reason.INVALID_TICKET:
                raise self._gone(ticket, answer.retcode)
            raise answer_error(answer.retcode, answer.comment, self._account)

    def _filled(self, fields: dict[str, Any], spec: SymbolSpec, permit: Permit) -> Filled:
        """Send a market order, once more with another filling mode if that was wrong; return its fill."""
        for filling in filling_candidates(spec):
            answer, reply = self._answer({**fields, "TypeFill": FILLING_NUMBERS[filling]}, permit)
            if answer.retcode != INVALID_FILL:
                break
        known = RETCODES.get(answer.retcode)
        match known.outcome if known else None:
            case Outcome.DONE:
                with self._executed():
                    return self._done(answer, fields)
            case Outcome.PLACED:
                with self._executed():
                    return self._placed(answer, reply, fields)
            case _ if known is not None and known.reason is Reason.INVALID_TICKET and "Position" in fields:
                raise self._gone(fields["Position"], answer.retcode)
            case _:
                raise answer_error(answer.retcode, answer.comment, self._account)

    def _answer(self, fields: dict[str, Any], permit: Permit) -> tuple[Answer, Reply]:
        """Send a request and wait for the server's word; raise what it means that none came."""
        pace = self._connection.pace
        reply = self._connection.send(self._account, {"Login": self._login, **fields}, lambda: check_in_time(permit, pace))
        while True:
            answer = pace.take(reply.answers, self._end_s - pace.seconds())
            if answer is None:
                reply.abandoned = True
                raise OutcomeUnknown("the request was sent and no answer came in time", account=self._account)
            if answer.retcode not in UNDER_WAY:
                return answer, reply

    def _done(self, answer: Answer, fields: dict[str, Any]) -> Filled:
        """Return the fill of an order that is done; its deal knows the position."""
        if "Position" in fields and answer.lots and answer.price:
            return Filled(answer.order, answer.lots, Decimal(f"{answer.price:.15g}"))
        deal = self._connection.until(lambda: self._deal(answer.deal), self._share_end_s()) if answer.deal else None
        if deal is None:
            lots = answer.lots or _asked(fields)
            return Filled(answer.order, lots, Decimal(f"{answer.price:.15g}"))
        price = Decimal(f"{deal.price or answer.price:.15g}")
        return Filled(answer.order or deal.order, answer.lots or deal.lots, price, deal.position_id, deal.entry)

    def _placed(self, answer: Answer, reply: Reply, fields: dict[str, Any]) -> Filled:
        """Follow an order that was accepted until it is filled or dead; where time runs out it is unknown."""
        wanted = _asked(fields)
        final: list[Answer] = []

        def decided() -> list[DealSeen] | None:
            later = None if reply.answers.empty() else reply.answers.get()
            if later is not None and later.retcode not in (*UNDER_WAY, answer.retcode):
                final.append(later)
                return []
            deals = [deal for deal in tuple(self._connection.events.deals) if deal.order == answer.order]
            filled = sum((deal.lots for deal in deals), ZERO)
            if filled >= wanted:
                return deals
            past = self._past_order(answer.order)
            if past is None:
                return None
            done = lots_of(past.VolumeInitial, past.VolumeInitialExt) - lots_of(past.VolumeCurrent, past.VolumeCurrentExt)
            return deals if filled >= done else None

        deals = self._connection.until(decided, self._end_s) if answer.order else None
        if deals is None:
            reply.abandoned = True
            raise OutcomeUnknown(f"order {answer.order} was accepted and not filled in time", account=self._account)
        if final:
            known = RETCODES.get(final[0].retcode)
            if known is not None and known.outcome is Outcome.DONE:
                return self._done(final[0], fields)
            raise answer_error(final[0].retcode, final[0].comment, self._account)
        if not deals:
            message = f"order {answer.order} was accepted and then dropped by the server"
            raise Rejected(message, reason=Reason.REFUSED, code=answer.retcode, account=self._account)
        sums = [(deal.lots, Decimal(f"{deal.price:.15g}")) for deal in deals]
        lots = sum((each for each, _ in sums), ZERO)
        return Filled(answer.order, lots, average_price(sums), deals[0].position_id, deals[0].entry)

    @contextlib.contextmanager
    def _executed(self) -> Iterator[None]:
        """Follow up an order the server took: whatever cannot be read now, the order must not pass for unsent."""
        try:
            yield
        except (Unavailable, InvalidRequest) as error:
            message = f"the server took the order, and then: {error.message}"
            raise OutcomeUnknown(message, account=self._account) from error

    # reading

    def _begin(self) -> Any:
        """Return the group of a login that may trade, and begin to count the call's time."""
        pace = self._connection.pace
        self._end_s = pace.seconds() + self._connection.opening.call_timeout_s - ANSWER_MARGIN_S
        return self._book.group_to_trade()

    def _deal(self, ticket: int) -> DealSeen | None:
        for deal in tuple(self._connection.events.deals):
            if deal.deal == ticket:
                return deal
        raw, _, _ = self._connection.try_to("DealRequest", ticket)
        if raw is None:
            return None
        return DealSeen(raw.Deal, raw.Order, raw.PositionID, int(raw.Entry), lots_of(raw.Volume, raw.VolumeExt), raw.Price)

    def _past_order(self, ticket: int) -> Any:
        """Return an order that is over without having been filled whole, None while it may still be."""
        now, around = server_time(self._connection.pace.now_ms()), timedelta(days=2)
        past, _, _ = self._connection.try_to("HistoryRequest", self._login, now - around, now + around)
        for raw in past or ():
            if raw.Order == ticket and int(raw.State) in _DEAD_STATES:
                return raw
        return None

    def _position(self, ticket: int) -> Position:
        """Return one open position; raise `Rejected` where the server knows none of that ticket."""
        for position in self._book.positions():
            if position.ticket == ticket:
                return position
        raise self._gone(ticket, 10036)

    def _share_end_s(self) -> float:
        now_s = self._connection.pace.seconds()
        return min(self._end_s, now_s + self._connection.opening.call_timeout_s * LISTED_SHARE)

    def _gone(self, ticket: int, code: int) -> Rejected:
        return Rejected(not_found(ticket), reason=Reason.INVALID_TICKET, code=code, account=self._account)


def _asked(fields: dict[str, Any]) -> Decimal:
    return lots_of(fields.get("Volume", 0), fields.get("VolumeExt", 0))
