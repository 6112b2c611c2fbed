"""What prices and midnights do on a paper server without anybody's order: stops, targets, stop-outs, swap."""

from collections.abc import Mapping
from decimal import Decimal

from copier.gateways.paper_account import Book, PaperAccount, PaperPosition
from copier.gateways.paper_desk import Desk
from copier.gateways.paper_faults import NO_FAULT
from copier.gateways.paper_orders import Admitted, MarketOrder
from copier.gateways.paper_pending import Waiting
from copier.gateways.paper_rates import PaperQuote, Rates, money_of
from copier.gateways.paper_symbols import PaperSymbol, SwapMode, TickMoney
from copier.model import ZERO, DealReason


class Triggers:
    """Watches the books of a desk."""

    def __init__(
        self,
        desk: Desk,
        waiting: Waiting,
        symbols: Mapping[str, PaperSymbol],
        quotes: Mapping[str, PaperQuote],
        rates: Rates,
    ) -> None:
        self._desk = desk
        self._waiting = waiting
        self._symbols = symbols
        self._quotes = quotes
        self._rates = rates

    def look(self, symbol: str, quote: PaperQuote, now_ms: int) -> None:
        """Do everything a new price of a symbol causes, account by account."""
        offered = self._symbols[symbol]
        if not offered.trades_at(now_ms):
            return
        holders = self._desk.holders.get(symbol, {})
        for book in tuple(holders.values()):
            if book.triggers(quote.bid, quote.ask):
                self.trigger(book, offered, quote, now_ms)
        if symbol in self._waiting.by_symbol:
            self._waiting.look(symbol, offered, quote, now_ms)
        for book in tuple(holders.values()):
            if book.account.stop_out_level and not book.is_safe(quote.bid, quote.ask):
                self.stop_out(book.account, now_ms)

    def trigger(self, book: Book, offered: PaperSymbol, quote: PaperQuote, now_ms: int) -> None:
        """Close what has reached its stop or target, oldest first; a stop before a target."""
        for position in tuple(book.positions.values()):
            price, sign = quote.to_close(position.side), position.side.sign
            stop, target = position.stop_loss, position.take_profit
            if stop and (price - stop) * sign <= ZERO:
                reason, comment = DealReason.STOP_LOSS, f"[sl {stop}]"
            elif target and (price - target) * sign >= ZERO:
                reason, comment = DealReason.TAKE_PROFIT, f"[tp {target}]"
            else:
                continue
            self.close_out(book.account, position, offered, quote, now_ms, reason, comment)
            book.account.changed()

    def stop_out(self, account: PaperAccount, now_ms: int) -> None:
        """Close the worst loser, again and again, while the margin level is at or below the account's stop-out level."""
        while account.positions and (margin := account.margin()):
            equity = self._desk.equity(account)
            limit = margin * account.stop_out_level / 100
            if equity > limit:
                self._note_safety(account, equity - limit)
                return
            worst = min(account.positions.values(), key=lambda each: (self._worth(account, each), each.ticket))
            offered, quote = self._symbols[worst.symbol], self._quotes[worst.symbol]
            marks = f"{equity / margin * 100:.1f}%/{equity}/{margin}"
            comment = f"so: {marks}" if account.mt4 else f"[so {marks}]"
            self.close_out(account, worst, offered, quote, now_ms, DealReason.STOP_OUT, comment)
            account.changed()

    def _note_safety(self, account: PaperAccount, slack: Decimal) -> None:
        """Note how far each symbol may move until the account has to be looked at again.

        The slack is shared out evenly, to books and to their two sides. Where money is converted, the rate moves too: such
        accounts are looked at with every price.
        """
        share = slack / (2 * len(account.books))
        for symbol in account.books:
            spec, tick_money = self._symbols[symbol].spec, self._symbols[symbol].tick_money
            if tick_money is TickMoney.RATES and spec.currency_profit != account.currency:
                return
        for symbol, book in account.books.items():
            unit = max(self._rates.units(account, self._symbols[symbol]))
            quote = self._quotes[symbol]
            book.note_safety(quote.bid, quote.ask, share / unit)

    def close_out(
        self,
        account: PaperAccount,
        position: PaperPosition,
        offered: PaperSymbol,
        quote: PaperQuote,
        now_ms: int,
        reason: DealReason,
        comment: str,
    ) -> None:
        """Close a whole position at the present price for the server's own reasons."""
        order = MarketOrder(
            symbol=position.symbol, side=position.side.opposite, lots=position.lots, magic=position.magic, reason=reason
        )
        job = Admitted(account, offered, quote, order, quote.to_close(position.side), now_ms, NO_FAULT)
        ticket = position.ticket if account.mt4 else self._desk.next_ticket()
        self._desk.take(job, position, ticket, position.lots, comment)

    def roll_over(self, accounts: Mapping[int, PaperAccount], weekday: int) -> None:
        """Book a night's swap on every open position, at the end of the server's `weekday` (0 is Monday)."""
        for account in accounts.values():
            for position in account.positions.values():
                offered = self._symbols[position.symbol]
                nights = offered.rollover[weekday]
                if offered.swap_mode is SwapMode.OFF or not nights or position.costs_fixed:
                    continue
                swap = offered.swap(position.side) * nights * position.lots
                if offered.swap_mode is SwapMode.POINTS:
                    swap = money_of(swap * offered.spec.point, Decimal(1), self._rates.units(account, offered))
                position.swap += account.round(swap)
                position.view = None
                account.books[position.symbol].changed()
            if account.positions:
                account.changed()

    def _worth(self, account: PaperAccount, position: PaperPosition) -> Decimal:
        price = self._quotes[position.symbol].to_close(position.side)
        return self._desk.profit(account, position, price, position.lots) + position.swap + position.commission
