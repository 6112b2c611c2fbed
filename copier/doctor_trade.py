"""The trade test: opens, modifies and closes the smallest volume on a demo account, and takes the time of each."""

import asyncio
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import TypeVar

from copier.clock import Clock
from copier.errors import GatewayError, OutcomeUnknown, Unavailable
from copier.gateway import Gateway
from copier.model import CloseRequest, ModifyRequest, Permit, Position, Quote, Record, Side, TradeRequest
from copier.steps import floor_to, plain

Found = TypeVar("Found")

NOT_AFTER_MS = 30_000
STOP_SHARE = Decimal("0.02")
"""How far below the price the test's stop is set, of the price."""
CLOSE_TRIES = 3


class TradeTest(Record, frozen=True, kw_only=True):
    """How a trade of the smallest volume went."""

    account: str
    symbol: str
    lots: Decimal = Decimal(0)
    open_ms: int | None = None
    visible_ms: int | None = None
    """From the answer to the open until the list of positions showed it."""
    modify_ms: int | None = None
    close_ms: int | None = None
    gone_ms: int | None = None
    """From the answer to the close until the list of positions was without it."""
    slippage_points: Decimal | None = None
    """How much worse than the quote the open was filled."""
    tag_survived: bool | None = None
    """The position came back with our tag; None where there was no position to look at."""
    tag_in_deals: bool | None = None
    """So did the opening deal; None where deals cannot be read."""
    left_open: int | None = None
    """The ticket of a position that could not be closed: close it by hand."""
    error: str = ""

    @property
    def good(self) -> bool:
        """True where everything worked; a lost tag is worth knowing, not wrong."""
        return not self.error and self.left_open is None and self.gone_ms is not None

    def told(self) -> Iterator[str]:
        """Yield the test in lines for people."""
        yield f"trade test on {self.account}: {plain(self.lots)} lots of {self.symbol}"
        times = {
            "opened in": self.open_ms,
            "listed after": self.visible_ms,
            "modified in": self.modify_ms,
            "closed in": self.close_ms,
            "gone after": self.gone_ms,
        }
        done = ", ".join(f"{what} {ms} ms" for what, ms in times.items() if ms is not None)
        if done:
            yield f"         {done}"
        if self.slippage_points is not None:
            yield f"         filled {plain(self.slippage_points)} points worse than the quote"
        if self.tag_survived is not None:
            where = {True: " and with the deal", False: ", not with the deal", None: ""}[self.tag_in_deals]
            came = "came back with the position" + where if self.tag_survived else "was lost: the broker changes comments"
            yield f"  {'note ' if self.tag_survived else 'wrong'}  our tag {came}"
            if self.tag_survived and self.tag_in_deals:
                yield "         -> `tags_survive: true` may be set for accounts at this broker"
        if self.left_open is not None:
            yield f"  wrong  position {self.left_open} is still open: close it by hand"
        if self.error:
            yield f"  wrong  {self.error}"


async def trade_test(name: str, gateway: Gateway, symbol: str, clock: Clock, token: int) -> TradeTest:
    """Buy the minimum, set a stop, and close it; whatever happens, what was opened is closed if it can be."""
    return await _Trial(name, gateway, symbol, clock, token).run()


class _Trial:
    """One trade test under way."""

    def __init__(self, name: str, gateway: Gateway, symbol: str, clock: Clock, token: int) -> None:
        self._gateway = gateway
        self._symbol = symbol
        self._clock = clock
        self._token = token
        self._tag = f"mcd{clock.now_ms():x}"[:16]
        self._seconds: Callable[[], float] = asyncio.get_running_loop().time
        self._found: dict[str, object] = {"account": name, "symbol": symbol}

    async def run(self) -> TradeTest:
        """Go through it step by step."""
        position: Position | None = None
        try:
            quote = await self._gateway.get_quote(self._symbol)
            if await self._positions():
                raise Unavailable(f"something is open in {self._symbol} already: choose a symbol in which nothing is")
            position = await self._open(quote)
            await self._modify(position, quote)
        except GatewayError as error:
            self._found["error"] = error.message
            if position is None and isinstance(error, OutcomeUnknown):
                position = await self._left_behind()
        if position is not None:
            await self._close(position)
        return TradeTest(**self._found)  # type: ignore[arg-type]

    async def _open(self, quote: Quote) -> Position:
        spec = quote.spec
        begun = self._seconds()
        request = TradeRequest(symbol=self._symbol, action=Side.BUY, lots=spec.volume_min, slippage=50, tag=self._tag)
        result = await self._gateway.execute_trade(request, self._permit())
        answered = self._seconds()
        self._found |= {"lots": result.lots, "open_ms": _ms(begun, answered)}
        if result.price:
            self._found["slippage_points"] = (result.price - quote.ask) / spec.point
        position = await self._until(lambda listed: next((each for each in listed if each.ticket == result.ticket), None))
        if position is None:
            self._found["left_open"] = result.ticket
            raise OutcomeUnknown(f"the position {result.ticket} was not listed within {self._gateway.facts.settle_s:g} s")
        self._found |= {"visible_ms": _ms(answered, self._seconds()), "tag_survived": position.tag == self._tag}
        if self._gateway.deals is not None:
            deals = await self._gateway.deals.get_deals(position.open_time, position.identifier)
            self._found["tag_in_deals"] = any(deal.tag == self._tag for deal in deals)
        return position

    async def _modify(self, position: Position, quote: Quote) -> None:
        spec = quote.spec
        distance = max(quote.bid * STOP_SHARE, 3 * spec.stops_level * spec.point)
        stop = floor_to(quote.bid - distance, spec.tick_size)
        begun = self._seconds()
        await self._gateway.modify_position(ModifyRequest(ticket=position.ticket, stop_loss=stop), self._permit())
        self._found["modify_ms"] = _ms(begun, self._seconds())

    async def _close(self, position: Position) -> None:
        """Close it, looking before every further try whether it is still there."""
        begun = self._seconds()
        for _ in range(CLOSE_TRIES):
            try:
                await self._gateway.close_position(CloseRequest(ticket=position.ticket, slippage=50), self._permit())
                self._found["close_ms"] = _ms(begun, self._seconds())
            except GatewayError as error:
                self._found["error"] = self._found.get("error") or error.message
            closed = self._seconds()
            if await self._gone(position):
                self._found["gone_ms"] = _ms(closed, self._seconds())
                self._found.pop("left_open", None)
                return
        self._found["left_open"] = position.ticket

    async def _gone(self, position: Position) -> bool:
        def gone(listed: tuple[Position, ...]) -> bool | None:
            return None if any(each.identifier == position.identifier for each in listed) else True

        try:
            return bool(await self._until(gone))
        except GatewayError as error:
            self._found["error"] = self._found.get("error") or error.message
            return False

    async def _left_behind(self) -> Position | None:
        """Find what an order of unknown outcome may have opened: by our tag only, as anything else may be another hand's."""
        try:
            return await self._until(lambda listed: next((each for each in listed if each.tag == self._tag), None))
        except GatewayError:
            return None

    async def _until(self, found: Callable[[tuple[Position, ...]], Found | None]) -> Found | None:
        end = self._seconds() + self._gateway.facts.settle_s
        while True:
            answer = found(await self._positions())
            if answer is not None or self._seconds() >= end:
                return answer
            await asyncio.sleep(0.05)

    async def _positions(self) -> tuple[Position, ...]:
        return (await self._gateway.get_positions(self._symbol)).positions

    def _permit(self) -> Permit:
        return Permit(token=self._token, not_after_ms=self._clock.now_ms() + NOT_AFTER_MS)


def _ms(begun: float, ended: float) -> int:
    return round((ended - begun) * 1000)
