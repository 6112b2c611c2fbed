"""An account that only watches: money and prices are the real account's, every order is simulated on them and none is sent."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from datetime import datetime

import msgspec

from copier.clock import Clock
from copier.errors import GatewayError, Rejected, Unavailable
from copier.gateway import DealHistory, Gateway, GatewayFacts, SymbolCatalogue, Wakes
from copier.gateways.comments import comment_with_tag
from copier.gateways.paper import PaperGateway
from copier.gateways.paper_account import MarginRule, PaperAccount, PaperPosition
from copier.gateways.paper_server import PaperServer
from copier.gateways.paper_symbols import PaperSymbol, TickMoney
from copier.link import Leg, Link
from copier.model import (
    ZERO,
    Account,
    CloseRequest,
    CloseResult,
    Deal,
    MarginMode,
    ModifyRequest,
    ModifyResult,
    Permit,
    Positions,
    Quote,
    Side,
    TradeRequest,
    TradeResult,
)

PRICES_S = 1.0
"""How often the prices of what is open are asked for, so that simulated stops and targets are reached."""
FIRST_TICKET = 9_000_000_001
"""Simulated tickets are far from any broker's."""


class ShadowGateway:
    """A `Gateway` over another that is only read."""

    def __init__(self, real: Gateway, clock: Clock) -> None:
        self.facts = GatewayFacts(kind="shadow", settle_s=0.5, call_timeout_s=real.facts.call_timeout_s, tags_survive=True)
        self.deals: DealHistory | None = self
        self.symbols: SymbolCatalogue | None = real.symbols
        self.wakes: Wakes | None = self
        self._real = real
        self._clock = clock
        self._links: tuple[Link, ...] = ()
        self._paper: PaperGateway | None = None
        self._wakes: list[Callable[[], None]] = []
        self._prices: asyncio.Task[None] | None = None

    def restore(self, links: Iterable[Link]) -> None:
        """Begin with these links' open legs; call it before `open`."""
        self._links = tuple(links)

    async def open(self) -> None:
        """Read the real account and hold the simulated one ready; raise `Unavailable`."""
        await self._real.open()
        if self._paper is None:
            self._paper = await self._simulate()
        await self._paper.open()
        if self._prices is None:
            self._prices = asyncio.create_task(self._follow_prices(), name="shadow prices")

    async def close(self) -> None:
        """Let the simulation go; the real account stays as it is."""
        if self._prices is not None:
            self._prices.cancel()
            await asyncio.gather(self._prices, return_exceptions=True)
            self._prices = None
        if self._paper is not None:
            await self._paper.close()

    async def get_account(self) -> Account:
        """Return the real account, as one that may trade: an investor login is enough here."""
        account = await self._real.get_account()
        return msgspec.structs.replace(account, trade_allowed=True, trade_blocker="")

    async def get_positions(self, symbol: str | None = None) -> Positions:
        """Return what is open in the simulation; raise `Unavailable`."""
        return await self._simulated.get_positions(symbol)

    async def get_quote(self, symbol: str) -> Quote:
        """Return the real account's price, which becomes the simulation's."""
        quote = await self._real.get_quote(symbol)
        self._take(quote)
        return quote

    async def execute_trade(self, request: TradeRequest, permit: Permit) -> TradeResult:
        """Open at the price of now, in the simulation alone."""
        await self.get_quote(request.symbol)
        return await self._simulated.execute_trade(request, permit)

    async def close_position(self, request: CloseRequest, permit: Permit) -> CloseResult:
        """Close at the price of now, in the simulation alone."""
        await self._refresh(request.ticket)
        return await self._simulated.close_position(request, permit)

    async def modify_position(self, request: ModifyRequest, permit: Permit) -> ModifyResult:
        """Set stop and target in the simulation alone."""
        await self._refresh(request.ticket)
        return await self._simulated.modify_position(request, permit)

    async def get_deals(self, since: datetime, position_id: int | None = None) -> tuple[Deal, ...]:
        """Return the simulation's deals; raise `Unavailable`."""
        return await self._simulated.get_deals(since, position_id)

    def on_change(self, wake: Callable[[], None]) -> None:
        """Call `wake` after the simulation changed."""
        self._wakes.append(wake)

    @property
    def _simulated(self) -> PaperGateway:
        if self._paper is None:
            raise Unavailable("the shadow account is not open yet")
        return self._paper

    async def _simulate(self) -> PaperGateway:
        account = await self._real.get_account()
        server = PaperServer(account.account.partition("@")[2], clock=self._clock, symbols=(), first_ticket=FIRST_TICKET)
        server.server_offset_s = account.server_offset_s or 0
        login = int(account.login)
        ours = PaperAccount(
            login,
            currency=account.currency,
            leverage=account.leverage,
            margin_mode=account.margin_mode,
            balance=account.balance,
            margin_rule=MarginRule.OFF,
        )
        ours.stop_out_level = ZERO
        server.add_account(ours)
        paper = PaperGateway(server, login, clock=self._clock)
        paper.on_change(self._wake)
        for symbol in sorted({link.symbol for link in self._links if link.lots and link.symbol}):
            _take(server, await self._real.get_quote(symbol))
        for link in self._links:
            _restore(ours, link, server.now_ms())
        return paper

    async def _follow_prices(self) -> None:
        while True:
            await asyncio.sleep(PRICES_S)
            with contextlib.suppress(GatewayError):
                held = await self._simulated.get_positions()
                for symbol in sorted({position.symbol for position in held.positions}):
                    await self.get_quote(symbol)

    async def _refresh(self, ticket: int) -> None:
        for position in (await self._simulated.get_positions()).positions:
            if position.ticket == ticket:
                await self.get_quote(position.symbol)
                return

    def _take(self, quote: Quote) -> None:
        if self._paper is not None:
            _take(self._paper.server, quote)

    def _wake(self) -> None:
        for wake in tuple(self._wakes):
            wake()


def _take(server: PaperServer, quote: Quote) -> None:
    known = server.symbols.get(quote.symbol)
    if known is None or known.spec != quote.spec:
        server.add_symbol(PaperSymbol(spec=quote.spec, tick_money=TickMoney.SPEC))
    if not ZERO < quote.bid <= quote.ask:
        raise Rejected(f"no price of {quote.symbol}: {quote.bid} to {quote.ask}", account=quote.account)
    server.set_quote(quote.symbol, quote.bid, quote.ask)


def _restore(account: PaperAccount, link: Link, now_ms: int) -> None:
    """Put a link's open legs back; on a netting account into the symbol's one position."""
    for leg in link.legs:
        if not (leg.living and leg.lots and leg.ticket):
            continue
        held = next(iter(account.on(link.symbol)), None) if account.margin_mode is MarginMode.NETTING else None
        if held is not None:
            _net(account, held, leg)
            continue
        account.add(
            PaperPosition(
                ticket=leg.ticket,
                identifier=leg.identifier or leg.ticket,
                symbol=link.symbol,
                side=leg.side,
                lots=leg.lots,
                open_price=leg.price,
                stop_loss=leg.stop_loss,
                take_profit=leg.take_profit,
                open_ms=now_ms,
                update_ms=now_ms,
                comment=comment_with_tag(leg.tag, "", account.comment_max),
            )
        )


def _net(account: PaperAccount, held: PaperPosition, leg: Leg) -> None:
    """Add a leg to a netting position, which may turn or end it."""
    account.remove(held)
    net = held.lots * held.side.sign + leg.lots * leg.side.sign
    if net:
        held.lots, held.side = abs(net), Side.BUY if net > 0 else Side.SELL
        account.add(held)
