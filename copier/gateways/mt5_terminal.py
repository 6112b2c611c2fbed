"""The six operations on a MetaTrader 5 terminal, as plain functions over the package: reading here, trading in `mt5_orders`."""

import logging
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from copier.errors import Reason, Rejected, Unavailable
from copier.gateway import no_quote
from copier.gateways.mt5_clock import ServerClock, Tick
from copier.gateways.mt5_codes import NOT_FOUND
from copier.gateways.mt5_orders import Orders
from copier.gateways.mt5_session import Seen, Session
from copier.gateways.mt5_values import (
    MARGIN_MODES,
    SECONDS_MAX,
    TIMEFRAMES,
    bar_of,
    deal_of,
    number,
    pending_order_of,
    position_of,
    server_seconds,
    server_time,
    spec_of,
)
from copier.model import (
    Account,
    Bar,
    CloseRequest,
    CloseResult,
    Deal,
    MarginMode,
    ModifyRequest,
    ModifyResult,
    PendingOrder,
    Permit,
    Positions,
    Quote,
    SymbolSpec,
    Timeframe,
    TradeRequest,
    TradeResult,
)

log = logging.getLogger(__name__)

RECHECK_S = 0.1
"""Before an empty list is believed it is read again after this pause."""
ODD_S = 120.0
"""An empty list beside a floating result or used margin is believed after so long, if that result stood still all the time."""
FIRST_TICK_S = 1.0
PROBES_MAX = 5
PROBE_MS = 30_000
"""The server's clock is looked at again after so long, as it changes with summer time."""


class Mt5Terminal:
    """What a child serves; its attributes `deals`, `symbols`, `pending_orders`, `bars` and `wakes` say what it offers."""

    def __init__(self, session: Session) -> None:
        self.deals = self.symbols = self.pending_orders = self.bars = self
        self.wakes = self if session.opening.poll_ms else None
        self._session = session
        self._clock = ServerClock()
        self._orders = Orders(session, self)
        self._known: frozenset[int] = frozenset()
        self._odd: tuple[float, float] | None = None
        """Since when an empty list is contradicted, and the floating result since then."""
        self._probes: tuple[str, ...] = ()
        self._reads = 0

    # reading

    def get_account(self) -> Account:
        """Return the account's state now; raise `Unavailable`."""
        self.probe()
        seen = self._session.check()
        raw = seen.account
        return Account(
            account=self._session.account,
            connected=seen.connected,
            read=self._next_read(),
            login=str(raw.login),
            balance=number(raw.balance),
            equity=number(raw.equity),
            margin=number(raw.margin),
            free_margin=number(raw.margin_free),
            margin_level=number(raw.margin_level),
            profit=number(raw.profit),
            currency=raw.currency,
            leverage=raw.leverage,
            name=raw.name,
            server=raw.server,
            company=raw.company,
            credit=number(raw.credit),
            margin_mode=MARGIN_MODES.get(raw.margin_mode, MarginMode.HEDGING),
            trade_allowed=not seen.blockers,
            trade_blocker="; ".join(seen.blockers),
            demo=raw.trade_mode != 2,
            server_offset_s=self._clock.offset_s,
        )

    def get_positions(self, symbol: str | None = None) -> Positions:
        """Return every open position, or those of one symbol; raise `Unavailable`, never return less than there is."""
        before = self._session.check()
        listed = self._believable(before)
        after = self._session.check()
        connected = before.connected and after.connected
        if listed:
            self._odd = None
        else:
            self._accept_empty(after, connected=connected)
        self._known = _identifiers(listed)
        positions = tuple(position_of(raw) for raw in listed if symbol is None or raw.symbol == symbol)
        return Positions(account=self._session.account, connected=connected, read=self._next_read(), positions=positions)

    def get_quote(self, symbol: str) -> Quote:
        """Return bid, ask and the symbol's rules; raise `Rejected` for an unknown symbol, `Unavailable` without a price."""
        before = self._session.check()
        info, tick = self.price(symbol)
        margin = self._session.api.order_calc_margin(0, symbol, 1.0, tick.ask)
        age_ms = self._look(symbol, tick)
        after = self._session.check()
        return Quote(
            account=self._session.account,
            connected=before.connected and after.connected,
            read=self._next_read(),
            symbol=symbol,
            bid=number(tick.bid),
            ask=number(tick.ask),
            timestamp=server_time(tick.time_msc),
            age_ms=age_ms,
            spec=spec_of(info, margin),
        )

    def get_deals(self, since: datetime, position_id: int | None = None) -> tuple[Deal, ...]:
        """Return deals from `since` (server clock) on, oldest first, or all of one position; raise `Unavailable`."""
        self._wait_settled()
        before = self._session.check()
        if position_id is None:
            raws = self._session.ask("history_deals_get", server_seconds(since), SECONDS_MAX)
        else:
            raws = self._session.ask("history_deals_get", position=position_id)
        after = self._session.check()
        if not (before.connected and after.connected):
            raise Unavailable("the history of a terminal without its server may be incomplete", account=self._session.account)
        deals = (deal_of(raw) for raw in sorted(raws, key=lambda raw: (raw.time_msc, raw.ticket)))
        return tuple(deal for deal in deals if position_id is not None or deal.time >= since)

    def get_symbols(self) -> tuple[SymbolSpec, ...]:
        """Return the rules of every symbol; raise `Unavailable`."""
        self._session.check()
        raws = self._session.ask("symbols_get")
        self._session.check()
        return tuple(spec_of(raw) for raw in raws)

    def get_pending_orders(self, symbol: str | None = None) -> tuple[PendingOrder, ...]:
        """Return every waiting order, or those of one symbol, oldest first; raise `Unavailable`."""
        self._wait_settled()
        before = self._session.check()
        raws = self._session.ask("orders_get")
        total = self._session.ask("orders_total")
        after = self._session.check()
        if len(raws) != total or not (raws or (before.connected and after.connected)):
            raise Unavailable(f"{len(raws)} orders are listed, {total} counted", account=self._session.account)
        raws = sorted((raw for raw in raws if symbol is None or raw.symbol == symbol), key=lambda raw: raw.ticket)
        return tuple(order for raw in raws if (order := pending_order_of(raw)) is not None)

    def get_bars(self, symbol: str, timeframe: Timeframe, count: int) -> tuple[Bar, ...]:
        """Return the last `count` bars, the one still forming last; raise `Rejected` for an unknown symbol, `Unavailable`."""
        self._session.check()
        self._selected(symbol)
        rows = self._session.ask("copy_rates_from_pos", symbol, TIMEFRAMES[timeframe], 0, count)
        self._session.check()
        return tuple(bar_of(row) for row in rows)

    # trading

    def execute_trade(self, request: TradeRequest, permit: Permit) -> TradeResult:
        """Open at market; raise `InvalidRequest`, `Rejected`, `Unavailable` (not sent) or `OutcomeUnknown`."""
        return self._orders.open(request, permit)

    def close_position(self, request: CloseRequest, permit: Permit) -> CloseResult:
        """Close by ticket, wholly or in part; the same errors."""
        return self._orders.close(request, permit)

    def modify_position(self, request: ModifyRequest, permit: Permit) -> ModifyResult:
        """Set stop and target to values; unchanged values are a success; the same errors."""
        return self._orders.modify(request, permit)

    # what the others build on

    def price(self, symbol: str) -> tuple[Any, Any]:
        """Return a symbol's SymbolInfo and a Tick with both prices; raise `Rejected` or `Unavailable`."""
        info = self._selected(symbol)
        tick = self._session.until(lambda: self._live_tick(symbol), 0.0 if info.select else FIRST_TICK_S)
        if tick is None:
            raise Unavailable(no_quote(symbol), account=self._session.account)
        return (info if info.select else self._session.ask("symbol_info", symbol)), tick

    def fingerprint(self) -> Any:
        """Return what changes whenever positions or orders do, and not with the price; None where it cannot be read."""
        api = self._session.api
        positions, orders = api.positions_get(), api.orders_total()
        if positions is None or orders is None:
            self._session.trouble()
            return None
        rows = [(raw.identifier, raw.ticket, raw.type, raw.volume, raw.sl, raw.tp, raw.comment) for raw in positions]
        return orders, tuple(sorted(rows))

    def probe(self) -> None:
        """Look at a few ticks, so that the server's clock becomes known before anything is traded."""
        if self._clock.offset_ms is not None and self._session.pace.now_ms() - self._clock.learnt_ms < PROBE_MS:
            return
        api = self._session.api
        if not self._probes:
            shown = sorted((raw for raw in api.symbols_get() or () if raw.select and raw.time), key=lambda raw: -raw.time)
            self._probes = tuple(raw.name for raw in shown[:PROBES_MAX])
        for symbol in self._probes:
            tick = self._live_tick(symbol)
            if tick is not None:
                self._look(symbol, tick)

    def _selected(self, symbol: str) -> Any:
        """Return a symbol's SymbolInfo after putting it into Market Watch, without which its prices stand still."""
        info = self._session.api.symbol_info(symbol)
        if info is None:
            code, text = self._session.trouble()
            if code == NOT_FOUND:
                raise Rejected(no_quote(symbol), reason=Reason.REFUSED, account=self._session.account)
            raise Unavailable(f"{no_quote(symbol)}: {text} ({code})", account=self._session.account)
        if not info.select and not self._session.api.symbol_select(symbol):
            code, text = self._session.trouble()
            message = f"{no_quote(symbol)}: it cannot be shown in Market Watch: {text} ({code})"
            raise Unavailable(message, account=self._session.account)
        return info

    def _live_tick(self, symbol: str) -> Any:
        tick = self._session.api.symbol_info_tick(symbol)
        return tick if tick is not None and tick.bid > 0 and tick.ask > 0 else None

    def _believable(self, seen: Seen) -> Any:
        """Return the list of positions, read until it stays the same where something is missing from it."""
        session = self._session
        listed = session.ask("positions_get")
        if listed and self._known <= _identifiers(listed):
            return listed
        doubt_s = 0.0 if listed else RECHECK_S if self._known else 0.0
        settled_at = session.pace.seconds() + max(doubt_s, session.unsettled_s)
        give_up = settled_at + session.opening.call_timeout_s / 3
        while True:
            waiting_s = settled_at - session.pace.seconds()
            if waiting_s > 0:
                session.pace.pause(min(waiting_s, RECHECK_S))
            again = session.ask("positions_get")
            agreed = _identifiers(again) == _identifiers(listed) and session.ask("positions_total") == len(again)
            listed = again
            now = session.pace.seconds()
            if agreed and (now >= settled_at or (listed and self._known <= _identifiers(listed))):
                return listed
            if now > give_up:
                raise Unavailable("the terminal's list of positions does not come to rest", account=session.account)

    def _accept_empty(self, seen: Seen, *, connected: bool) -> None:
        """Believe that nothing is open; raise `Unavailable` where the terminal itself contradicts."""
        if not connected:
            raise Unavailable(
                "the terminal lists nothing and has no connection to its trade server", account=self._session.account
            )
        profit, margin = seen.account.profit, seen.account.margin
        # Pending orders may need margin at some brokers.
        if abs(profit) < 0.005 and (margin < 0.005 or self._session.ask("orders_total")):
            self._odd = None
            return
        now = self._session.pace.seconds()
        # A result that moves belongs to positions, however long they are not listed.
        if self._odd is None or self._odd[1] != profit:
            self._odd = now, profit
        if now - self._odd[0] < ODD_S:
            message = (
                f"no position is listed, yet the account shows a floating result of {profit:.2f} and a margin of {margin:.2f}"
            )
            raise Unavailable(message, account=self._session.account)
        log.warning("no position is listed beside a floating result of %.2f and a margin of %.2f", profit, margin)

    def _wait_settled(self) -> None:
        """Wait until a terminal that has just connected has had time to fill its lists."""
        waiting_s = self._session.unsettled_s
        if waiting_s:
            self._session.pace.pause(waiting_s)

    def _look(self, symbol: str, tick: Any) -> int:
        return self._clock.look(symbol, Tick(tick.time_msc, tick.bid, tick.ask), self._session.pace.now_ms())

    def _next_read(self) -> int:
        self._reads += 1
        return self._reads


def _identifiers(listed: Iterable[Any]) -> frozenset[int]:
    return frozenset(raw.identifier for raw in listed)
