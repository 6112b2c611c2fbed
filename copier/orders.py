"""One follower's orders: each is journaled before it leaves, and ends as done, surely not executed, or unknown.

Nothing here decides what to trade. What is asked for is absolute (a leg to open, a volume to come down to, levels to set),
so that asking twice is harmless wherever the broker can tell.
"""

import logging
from collections.abc import Awaitable, Callable
from decimal import Decimal

import msgspec

from copier.clock import Clock
from copier.errors import InvalidRequest, OutcomeUnknown, Reason, Rejected, StoreError, Unavailable
from copier.gateway import Gateway
from copier.leases import Term
from copier.link import Cut, Leg, LegState, Link
from copier.model import ZERO, CloseRequest, ModifyRequest, Permit, Position, TradeRequest, TradeResult
from copier.reconcile import with_leg

log = logging.getLogger(__name__)
replace = msgspec.structs.replace

ORDER_LIFE_MS = 5_000
"""How long after leaving an order may still be executed: the far end refuses it later."""

Save = Callable[[Link], Awaitable[None]]
"""Journals a link, durable when it returns."""


class NotDone(Exception):
    """Surely not executed; `cause` says why, `again` whether trying again can make sense."""

    def __init__(self, cause: Rejected | Unavailable | InvalidRequest) -> None:
        self.cause = cause
        super().__init__(str(cause))

    @property
    def code(self) -> str:
        """A stable word for the receipt."""
        match self.cause:
            case Rejected():
                return str(self.cause.reason)
            case Unavailable():
                return "unavailable"
            case InvalidRequest():
                return "invalid_request"

    @property
    def again(self) -> bool:
        """True where the same wish may be granted a moment later."""
        match self.cause:
            case Rejected():
                return self.cause.wants_fresh_price or self.cause.wants_pause
            case Unavailable():
                return True
            case InvalidRequest():
                return False


class Orders:
    """Sends one follower's orders, one at a time."""

    def __init__(self, name: str, gateway: Gateway, clock: Clock, token: int, save: Save, term: Term | None = None) -> None:
        """`term` is how long we may trade at all: no order leaves after it, and none is executed later than it."""
        self._name = name
        self._gateway = gateway
        self._clock = clock
        self._token = token
        self._save = save
        self._term = term or Term()

    def _permit(self) -> Permit:
        self._expect_term()
        life_ms = min(ORDER_LIFE_MS, self._term.left_s * 1000)
        return Permit(token=self._token, not_after_ms=self._clock.now_ms() + round(life_ms))

    @property
    def may_leave(self) -> bool:
        """Whether this process may trade at all just now."""
        return self._term.left_s > 0

    def _expect_term(self) -> None:
        """Raise `StoreError` where the lease is over: then nothing leaves, whatever is journaled."""
        if self._term.left_s <= 0:
            raise StoreError(f"{self._name}: the worker's lease was not renewed in time, so nothing is sent")

    def _expect_good(self, permit: Permit) -> None:
        """Raise `StoreError` where an order that is durable by now would be refused as late: nothing is sent, it is made anew."""
        self._expect_term()
        late_ms = self._clock.now_ms() - permit.not_after_ms
        if late_ms >= 0:
            raise StoreError(f"{self._name}: durable {late_ms} ms after the order's time was over: nothing is sent")

    def _not_before_now(self, sent: Leg | Cut) -> int:
        """Return by when an order of unknown outcome has landed, if ever: it may have been executed until we heard of it."""
        return max(sent.not_after_ms, self._clock.now_ms())

    async def open_leg(self, link: Link, leg: Leg, request: TradeRequest) -> tuple[Link, TradeResult | None]:
        """Send an opening order; return the link with what became of it, None as result where that is unknown.

        A server that takes no levels at an open gets the order without them; the leg then says that it has none. Raise
        `NotDone` where it was surely not executed; the leg is then no longer part of what may be open.
        """
        link, leg, permit = self.begin_open(link, leg)
        await self._save(link)
        return await self.finish_open(link, leg, request, permit)

    def begin_open(self, link: Link, leg: Leg) -> tuple[Link, Leg, Permit]:
        """Return the link to be made durable before its order may leave, the leg in it, and until when the order is good."""
        permit = self._permit()
        leg = replace(leg, sent_ms=self._clock.now_ms(), not_after_ms=permit.not_after_ms, attempts=leg.attempts + 1)
        return with_leg(link, leg), leg, permit

    async def finish_open(self, link: Link, leg: Leg, request: TradeRequest, permit: Permit) -> tuple[Link, TradeResult | None]:
        """Send what `begin_open` returned, now that it is durable; as `open_leg`."""
        try:
            return await self._open(link, leg, request, permit)
        except NotDone as refusal:
            if refusal.code != Reason.INVALID_STOPS or not await self._levels_hold(request):
                raise
        log.info("%s: %s takes no levels at the open; they are set once it is filled", self._name, request.symbol)
        link, leg, permit = self.begin_open(link, leg)
        await self._save(link)
        return await self._open(link, leg, replace(request, stop_loss=ZERO, take_profit=ZERO), permit)

    async def _levels_hold(self, request: TradeRequest) -> bool:
        """Return whether the levels of an order are right by the price now, so that it is not they which were refused."""
        if not request.stop_loss and not request.take_profit:
            return False
        try:
            quote = await self._gateway.get_quote(request.symbol)
        except (Rejected, Unavailable):
            return False
        price, sign = quote.price_to_close(request.action), request.action.sign
        least = quote.spec.stops_level * quote.spec.point
        stop_holds = not request.stop_loss or (price - request.stop_loss) * sign >= least
        return stop_holds and (not request.take_profit or (request.take_profit - price) * sign >= least)

    async def _open(self, link: Link, leg: Leg, request: TradeRequest, permit: Permit) -> tuple[Link, TradeResult | None]:
        self._expect_good(permit)
        log.debug("%s: %s %s %s lots as %s", self._name, request.action, request.symbol, request.lots, leg.tag)
        try:
            result = await self._gateway.execute_trade(request, permit)
        except (Rejected, Unavailable, InvalidRequest) as error:
            log.info("%s: %s not executed: %s", self._name, leg.tag, error)
            raise NotDone(error) from error
        except OutcomeUnknown as error:
            log.warning("%s: %s may or may not have been executed: %s", self._name, leg.tag, error)
            return with_leg(link, replace(leg, state=LegState.UNKNOWN, not_after_ms=self._not_before_now(leg))), None
        done = replace(
            leg,
            state=LegState.OPEN,
            filled=result.lots,
            lots=result.lots,
            ticket=result.ticket,
            price=result.price or leg.price,
            stop_loss=request.stop_loss if result.stops_set else ZERO,
            take_profit=request.take_profit if result.stops_set else ZERO,
        )
        log.debug("%s: %s is ticket %s, %s lots at %s", self._name, leg.tag, done.ticket, done.filled, done.price)
        return with_leg(link, done), result

    async def cut_leg(
        self, link: Link, leg: Leg, lots_after: Decimal, book_net: Decimal | None, position: Position | None
    ) -> Link:
        """Bring a leg down to a volume, 0 to close it; return the link with the cut that a fresh read must confirm.

        On a netting account `position` is the symbol's position as just read and `book_net` its signed volume: the leg is cut
        out of it, or, where the position stands on the other side or not at all, taken back by the opposite order. There the
        answer alone is believed: the one position says nothing of a single leg. Raise `NotDone`.
        """
        link, cut, permit = self.begin_cut(link, leg, lots_after, book_net, position)
        await self._save(link)
        return await self.finish_cut(link, leg, cut, permit, position)

    def begin_cut(
        self, link: Link, leg: Leg, lots_after: Decimal, book_net: Decimal | None, position: Position | None
    ) -> tuple[Link, Cut, Permit]:
        """Return the link to be made durable before the cut may leave, the cut in it, and until when it is good."""
        permit = self._permit()
        part = leg.lots - lots_after
        against = book_net is not None and (position is None or position.type is not leg.side)
        if book_net is not None and position is not None and not against:
            part = min(part, position.lots)
        cut = Cut(
            tag=leg.tag,
            ticket=position.ticket if book_net is not None and position is not None else leg.ticket,
            lots_before=leg.lots,
            lots_after=leg.lots - part,
            net_before=book_net,
            sent_ms=self._clock.now_ms(),
            not_after_ms=permit.not_after_ms,
        )
        return replace(link, cut=cut), cut, permit

    async def finish_cut(self, link: Link, leg: Leg, cut: Cut, permit: Permit, position: Position | None) -> Link:
        """Send what `begin_cut` returned, now that it is durable; as `cut_leg`."""
        book_net, part = cut.net_before, cut.lots_before - cut.lots_after
        against = book_net is not None and (position is None or position.type is not leg.side)
        self._expect_good(permit)
        log.debug("%s: ticket %s down to %s lots", self._name, cut.ticket, cut.lots_after)
        try:
            if against:
                back = TradeRequest(symbol=link.symbol, action=leg.side.opposite, lots=part, tag=leg.tag)
                back_done = await self._gateway.execute_trade(back, permit)
                part, rest = back_done.lots, back_done.ticket or None
            else:
                whole = book_net is None and cut.lots_after == 0
                done = await self._gateway.close_position(CloseRequest(ticket=cut.ticket, lots=None if whole else part), permit)
                part, rest = done.lots or part, done.rest_ticket
        except Rejected as error:
            if error.reason is Reason.INVALID_TICKET and (leg.identifier or book_net is not None):
                # It is gone already; a read must say so too. One that no read has shown may just not be listed yet.
                return replace(link, cut=replace(cut, answered=True, answered_ms=self._clock.now_ms(), unfound=True))
            raise NotDone(error) from error
        except (Unavailable, InvalidRequest) as error:
            raise NotDone(error) from error
        except OutcomeUnknown as error:
            log.warning("%s: cut of ticket %s may or may not have been executed: %s", self._name, cut.ticket, error)
            return replace(link, cut=replace(cut, not_after_ms=self._not_before_now(cut)))
        if book_net is not None:
            left = leg.lots - part
            state = LegState.OPEN if left else LegState.CLOSED
            # The position it was taken back from may be gone, and what holds the symbol now has another ticket.
            return with_leg(replace(link, cut=None), replace(leg, lots=left, state=state, ticket=rest or leg.ticket))
        left = max(cut.lots_after, leg.lots - part)  # Less may be filled than was asked for.
        cut = replace(cut, answered=True, answered_ms=self._clock.now_ms(), lots_after=left)
        if cut.lots_after:  # What was filled may be less than asked; until a read shows it, the rest counts as open.
            link = with_leg(link, replace(leg, lots=left, ticket=rest or leg.ticket))
        return replace(link, cut=cut)

    async def set_levels(self, ticket: int, stop_loss: Decimal, take_profit: Decimal) -> bool:
        """Set both levels of a position; return whether that is certain. Raise `NotDone`."""
        request = ModifyRequest(ticket=ticket, stop_loss=stop_loss, take_profit=take_profit)
        try:
            await self._gateway.modify_position(request, self._permit())
        except OutcomeUnknown as error:
            log.warning("%s: levels of ticket %s may or may not have been set: %s", self._name, ticket, error)
            return False
        except (Rejected, Unavailable, InvalidRequest) as error:
            raise NotDone(error) from error
        return True
