"""The paper broker's dealing desk: what an admitted order does to positions, deals and money in each account model."""

from collections.abc import Mapping
from decimal import Decimal

from msgspec.structs import replace

from copier.errors import Reason
from copier.gateways.comments import tag_in
from copier.gateways.paper_account import (
    Book,
    ClosedTicket,
    MarginRule,
    PaperAccount,
    PaperOrder,
    PaperPosition,
    server_time,
)
from copier.gateways.paper_codes import DONE, DONE_PARTIAL, MT4_DONE
from copier.gateways.paper_faults import Stops
from copier.gateways.paper_orders import Admitted, BrokerHabits, Fill, MarketOrder
from copier.gateways.paper_rates import NoRate, PaperQuote, Rates, money_of
from copier.gateways.paper_rules import (
    check_closing,
    check_frozen,
    check_levels,
    check_opening_side,
    check_room,
    check_volume,
    check_volume_limit,
    filled,
)
from copier.gateways.paper_symbols import PaperSymbol
from copier.model import ZERO, Deal, DealEntry, DealReason, DealType, MarginMode, Side

_AVERAGE = Decimal("1e-10")
_MARKS = {DealReason.STOP_LOSS: "[sl]", DealReason.TAKE_PROFIT: "[tp]", DealReason.STOP_OUT: "so"}


class Desk:
    """Executes admitted orders and keeps the books; raises `Rejected` where a rule of the account or symbol says no."""

    def __init__(
        self,
        symbols: Mapping[str, PaperSymbol],
        quotes: Mapping[str, PaperQuote],
        rates: Rates,
        habits: BrokerHabits,
        first_ticket: int,
    ) -> None:
        self.holders: dict[str, dict[int, Book]] = {}
        """By symbol and login, the books that are not empty: all that a quote has to look at."""
        self._symbols = symbols
        self._quotes = quotes
        self._rates = rates
        self._habits = habits
        self._ticket = first_ticket - 1
        self._deal = first_ticket + 5_000_000 - 1

    def next_ticket(self) -> int:
        """Return a new order ticket."""
        self._ticket += 1
        return self._ticket

    def next_deal(self) -> int:
        """Return a new deal ticket."""
        self._deal += 1
        return self._deal

    def open(self, job: Admitted) -> Fill:
        """Open a new position."""
        account, order, spec = job.account, job.order, job.offered.spec
        check_opening_side(account, spec, order.side)
        check_volume(account, spec, order.lots)
        stop, target = self._levels_at_open(job)
        check_room(account, spec, order.side, order.lots)
        lots = filled(spec, order.lots, job.fault.fraction)
        margin = self._affordable(job, order.side, lots)
        ticket = self._ticket_of(order)
        commission = self._commission(account, job.offered, lots)
        position = PaperPosition(
            ticket=ticket,
            identifier=ticket,
            symbol=order.symbol,
            side=order.side,
            lots=lots,
            open_price=job.price,
            stop_loss=stop,
            take_profit=target,
            commission=commission if account.mt4 else ZERO,
            margin=margin,
            open_ms=job.now_ms,
            update_ms=job.now_ms,
            magic=order.magic,
            comment=self._comment(job),
            reason=order.reason,
        )
        self.hold(account, position)
        booked = ZERO if account.mt4 else commission
        deal = self._book(job, position, ticket, DealEntry.IN, lots, comment=position.comment, commission=booked)
        return self._fill(job, ticket, deal, position, lots, stops_set=stop == order.stop_loss and target == order.take_profit)

    def net(self, job: Admitted, held: PaperPosition) -> Fill:
        """Add to, reduce, close or reverse a netting account's one position of the symbol."""
        order, spec = job.order, job.offered.spec
        check_volume(job.account, spec, order.lots)
        lots = filled(spec, order.lots, job.fault.fraction)
        if order.side is held.side:
            return self._add(job, held, lots)
        if lots <= held.lots:
            check_frozen(job.account, spec, held, job.quote)
            return self.take(job, held, self._ticket_of(order), lots, self._comment(job))
        return self._reverse(job, held, lots)

    def close(self, job: Admitted) -> Fill:
        """Close the position the order names, or part of it."""
        account, order, spec = job.account, job.order, job.offered.spec
        position = account.positions.get(order.position)
        if position is None or position.symbol != order.symbol:
            raise account.refuse(Reason.INVALID_TICKET)
        refused = account.mt4 or self._habits.small_rest_refused
        check_closing(account, spec, position, order.side, order.lots, small_rest_refused=refused)
        check_frozen(account, spec, position, job.quote)
        lots = min(filled(spec, order.lots, job.fault.fraction), position.lots)
        ticket = position.ticket if account.mt4 else self.next_ticket()
        return self.take(job, position, ticket, lots, self._comment(job))

    def close_by(self, job: Admitted, first: PaperPosition, second: PaperPosition) -> Fill:
        """Close two opposite positions by each other: the first at the second's opening price, the second at its own."""
        account, order = job.account, job.order
        lots = min(first.lots, second.lots)
        old, larger = second.ticket, first if first.lots > second.lots else second
        whole = first.lots == second.lots
        ticket = first.ticket if account.mt4 else self.next_ticket()
        comment = f"close hedge by #{first.ticket}" if account.mt4 else ""
        fill = self.take(replace(job, price=second.open_price), first, ticket, lots, "", DealEntry.OUT_BY)
        against = replace(job, price=second.open_price, order=replace(order, side=order.side.opposite))
        self.take(against, second, old if account.mt4 else ticket, lots, comment, DealEntry.OUT_BY)
        if account.mt4:
            closed = account.closed_tickets[-1]
            closed.position.lots, closed.position.comment = ZERO, comment
            if not whole and larger is first:
                first.comment, first.view = "partial close", None
        return fill

    def hold(self, account: PaperAccount, position: PaperPosition) -> None:
        """Put a position on the books."""
        self.holders.setdefault(position.symbol, {})[account.login] = account.add(position)

    def release(self, account: PaperAccount, position: PaperPosition) -> None:
        """Take a position off the books."""
        book = account.remove(position)
        if not book.positions:
            del self.holders[position.symbol][account.login]
            del account.books[position.symbol]

    def check_levels(
        self, account: PaperAccount, offered: PaperSymbol, side: Side, quote: PaperQuote, stop: Decimal, target: Decimal
    ) -> None:
        """Refuse levels the server would not take."""
        check_levels(account, offered, side, quote, stop, target, off_tick_refused=self._habits.off_tick_levels_refused)

    def _ticket_of(self, order: MarketOrder) -> int:
        return order.ticket or self.next_ticket()

    def _add(self, job: Admitted, held: PaperPosition, lots: Decimal) -> Fill:
        account, order = job.account, job.order
        check_opening_side(account, job.offered.spec, order.side)
        check_volume_limit(account, job.offered.spec, order.side, order.lots)
        stop, target = self._levels_at_open(job)
        margin = self._affordable(job, order.side, lots)
        ticket = self._ticket_of(order)
        total = held.lots + lots
        held.open_price = ((held.open_price * held.lots + job.price * lots) / total).quantize(_AVERAGE).normalize()
        held.lots = total
        self._margin_moves(account, held, margin)
        if stop or self._habits.netting_add_clears_stops:
            held.stop_loss = stop
        if target or self._habits.netting_add_clears_stops:
            held.take_profit = target
        held.magic, held.comment = order.magic, self._comment(job)
        self._touched(job, held)
        commission = self._commission(account, job.offered, lots)
        deal = self._book(job, held, ticket, DealEntry.IN, lots, comment=held.comment, commission=commission)
        return self._fill(job, ticket, deal, held, lots, stops_set=stop == order.stop_loss and target == order.take_profit)

    def _reverse(self, job: Admitted, held: PaperPosition, lots: Decimal) -> Fill:
        account, order, spec = job.account, job.order, job.offered.spec
        check_opening_side(account, spec, order.side)
        check_frozen(account, spec, held, job.quote)
        rest = lots - held.lots
        check_volume_limit(account, spec, order.side, rest)
        stop, target = self._levels_at_open(job)
        margin = self._affordable(job, order.side, rest, freed=held)
        profit = self.profit(account, held, job.price, held.lots)
        ticket = self._ticket_of(order)
        commission = held.commission + (ZERO if held.costs_fixed else self._commission(account, job.offered, lots))
        swap = held.swap
        self.release(account, held)
        held.ticket, held.side, held.lots, held.open_price = ticket, order.side, rest, job.price
        held.stop_loss, held.take_profit, held.margin = stop, target, margin
        held.swap = held.commission = ZERO
        held.costs_fixed = False
        held.open_ms = job.now_ms
        held.magic, held.comment, held.reason = order.magic, self._comment(job), order.reason
        self.hold(account, held)
        self._touched(job, held)
        deal = self._book(
            job, held, ticket, DealEntry.INOUT, lots, comment=held.comment, profit=profit, swap=swap, commission=commission
        )
        return self._fill(job, ticket, deal, held, lots, stops_set=stop == order.stop_loss and target == order.take_profit)

    def take(
        self,
        job: Admitted,
        position: PaperPosition,
        ticket: int,
        lots: Decimal,
        comment: str,
        entry: DealEntry = DealEntry.OUT,
    ) -> Fill:
        """Close `lots` of a position: money first, in proportion, then what is left."""
        account, whole = job.account, lots == position.lots
        profit = self.profit(account, position, job.price, lots)
        swap, commission = position.swap, position.commission
        if not whole:
            swap = account.round(swap * lots / position.lots)
            commission = account.round(commission * lots / position.lots)
        exit_commission = ZERO if position.costs_fixed else self._commission(account, job.offered, lots)
        deal = self._book(
            job,
            position,
            ticket,
            entry,
            lots,
            comment=comment,
            profit=profit,
            swap=swap,
            commission=commission + exit_commission,
        )
        closing = account.mt4 and replace(position, lots=lots, swap=swap, commission=commission + exit_commission)
        old = position.ticket
        rest = None
        if whole:
            self.release(account, position)
            position.lots = ZERO
        else:
            self._margin_moves(account, position, account.round(position.margin * lots / position.lots) * -1)
            position.lots -= lots
            position.swap -= swap
            position.commission -= commission
            if account.mt4:
                rest = self._split(job, position)
            elif account.margin_mode is MarginMode.NETTING and self._habits.netting_reduce_renames:
                position.magic, position.comment = job.order.magic, comment
            self._touched(job, position)
        if closing:
            self._archive(job, closing, profit, rest)
        return self._fill(job, ticket, deal, position, lots, rest=rest, ticket_of=old)

    def _split(self, job: Admitted, position: PaperPosition) -> int:
        """MT4: what is left of a partial close lives on under a new ticket, and its comment names the old one."""
        old, new = position.ticket, self.next_ticket()
        job.account.remove(position)
        position.ticket = new
        position.comment = self._mangled(job, f"from #{old}" if self._habits.split_comments else "partial close")
        job.account.add(position)
        return new

    def _archive(self, job: Admitted, closed: PaperPosition, profit: Decimal, rest: int | None) -> None:
        if rest is not None:
            closed.comment = f"to #{rest}" if self._habits.split_comments else "partial close"
        elif job.order.reason in _MARKS:
            closed.comment = f"{closed.comment}{_MARKS[job.order.reason]}"
        job.account.closed_tickets.append(
            ClosedTicket(position=closed, close_price=job.price, close_ms=job.now_ms, profit=profit, reason=job.order.reason)
        )

    def _touched(self, job: Admitted, position: PaperPosition) -> None:
        position.update_ms, position.view = job.now_ms, None
        job.account.books[position.symbol].changed()

    def _margin_moves(self, account: PaperAccount, position: PaperPosition, by: Decimal) -> None:
        position.margin += by
        book = account.books[position.symbol]
        book.margin[position.side] += by
        book.changed()

    def _levels_at_open(self, job: Admitted) -> tuple[Decimal, Decimal]:
        order = job.order
        stop, target = order.stop_loss, order.take_profit
        if stop or target:
            if job.fault.stops is Stops.IGNORED:
                return ZERO, ZERO
            if job.fault.stops is Stops.REFUSED:
                raise job.account.refuse(Reason.INVALID_STOPS)
            self.check_levels(job.account, job.offered, order.side, job.quote, stop, target)
        return stop, target

    def _affordable(self, job: Admitted, side: Side, lots: Decimal, freed: PaperPosition | None = None) -> Decimal:
        """Return the margin of the new lots; refuse where the account's free money does not cover it."""
        account = job.account
        try:
            self._rates.units(account, job.offered)
            if account.margin_rule is MarginRule.OFF:
                return ZERO
            margin = account.round(self._rates.margin_per_lot(account, job.offered, side, job.price) * lots)
        except NoRate as error:
            raise account.refuse(Reason.PRICE_OFF, f"No prices: {error}") from error
        book = account.books.get(job.order.symbol)
        legs = dict(book.margin) if book is not None else {Side.BUY: ZERO, Side.SELL: ZERO}
        used = account.margin() - account.margin_of(legs)
        if freed is not None:
            legs[freed.side] -= freed.margin
        legs[side] += margin
        needed = used + account.margin_of(legs)
        if self.equity(account) < needed:
            raise account.refuse(Reason.NO_MONEY, f"Insufficient margin: {needed} {account.currency} needed in all")
        return margin

    def equity(self, account: PaperAccount) -> Decimal:
        """Return balance, credit and the floating result."""
        return account.balance + account.credit + self.floating(account)

    def floating(self, account: PaperAccount) -> Decimal:
        """Return the floating result of all positions, swap and unbooked commission included."""
        total = ZERO
        for symbol, book in account.books.items():
            quote = self._quotes[symbol]
            total += book.floating(quote.bid, quote.ask, self._rates.units(account, self._symbols[symbol]))
        return total

    def profit(self, account: PaperAccount, position: PaperPosition, price: Decimal, lots: Decimal) -> Decimal:
        """Return what closing `lots` of a position at a price brings, in the account's money."""
        units = self._rates.units(account, self._symbols[position.symbol])
        return account.round(money_of((price - position.open_price) * position.side.sign, lots, units))

    def _commission(self, account: PaperAccount, offered: PaperSymbol, lots: Decimal) -> Decimal:
        return -account.round(offered.commission_per_lot * lots) if offered.commission_per_lot else ZERO

    def _comment(self, job: Admitted) -> str:
        return self._mangled(job, job.order.comment)

    def _mangled(self, job: Admitted, comment: str) -> str:
        fault = job.fault
        if fault.comment is not None:
            comment = fault.comment
        if fault.comment_suffix:
            comment += fault.comment_suffix
        length = job.account.comment_max
        return comment[: length if fault.comment_max is None else min(length, fault.comment_max)]

    def _book(
        self,
        job: Admitted,
        position: PaperPosition,
        ticket: int,
        entry: DealEntry,
        lots: Decimal,
        *,
        comment: str,
        profit: Decimal = ZERO,
        swap: Decimal = ZERO,
        commission: Decimal = ZERO,
    ) -> int:
        """Write the order and its deal; return the deal's ticket."""
        account, order, now = job.account, job.order, job.now_ms
        deal = Deal(
            ticket=self.next_deal(),
            order=ticket,
            position_id=position.identifier,
            symbol=order.symbol,
            type=DealType.BUY if order.side is Side.BUY else DealType.SELL,
            entry=entry,
            lots=lots,
            price=job.price,
            commission=commission,
            swap=swap,
            profit=profit,
            time=server_time(now),
            magic=order.magic,
            comment=comment,
            tag=tag_in(comment),
            reason=order.reason,
        )
        account.book_deal(deal)
        if account.mt4 and entry is not DealEntry.IN:
            return deal.ticket
        account.orders.append(
            PaperOrder(
                ticket=ticket,
                symbol=order.symbol,
                side=order.side,
                lots=order.lots,
                lots_left=order.lots - lots,
                price=job.price,
                stop_loss=order.stop_loss,
                take_profit=order.take_profit,
                setup_ms=now,
                done_ms=now,
                magic=order.magic,
                comment=comment,
                position_id=position.identifier,
                reason=order.reason,
            )
        )
        return deal.ticket

    def _fill(
        self,
        job: Admitted,
        ticket: int,
        deal: int,
        position: PaperPosition,
        lots: Decimal,
        *,
        stops_set: bool = True,
        rest: int | None = None,
        ticket_of: int = 0,
    ) -> Fill:
        whole = lots == job.order.lots
        return Fill(
            code=MT4_DONE if job.account.mt4 else DONE if whole else DONE_PARTIAL,
            order=ticket,
            deal=deal,
            position=ticket_of or position.ticket,
            identifier=position.identifier,
            lots=lots,
            price=job.price,
            bid=job.quote.bid,
            ask=job.quote.ask,
            stops_set=stops_set,
            rest=rest,
        )
