"""Signal folders: a strategy drops a file, it is executed once through the six operations, and its outcome lies beside it.

What was sent stands in the ledger before it leaves, under the signal's id and with a tag made of it. A file met again, after
a crash or because somebody dropped it twice, is answered from there and never sent a second time.
"""

import asyncio
import base64
import hashlib
import logging
from collections import deque
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import msgspec

from copier import wire
from copier.clock import Clock
from copier.errors import CopierError, Fenced, GatewayError, InvalidRequest, OutcomeUnknown, Rejected, Unavailable
from copier.gateway import Gateway, check_trade
from copier.ledger import FactKept, Ledger
from copier.link import TAG_PREFIX
from copier.model import ZERO, CloseRequest, ModifyRequest, Permit, Position, Record, Side, TradeRequest
from copier.settings import SignalSettings
from copier.signal_files import Direction, Dropped, Signal, archive, look, read_signal, reject, take_up

log = logging.getLogger(__name__)
replace = msgspec.structs.replace

ORDER_LIFE_MS = 5_000
HALF_WRITTEN_S = 1.0
"""A file that makes no sense may still be written to: it is rejected once it has not changed for so long."""
PAUSE_S = 1.0
MINUTE_S = 60.0
HISTORY = timedelta(days=1)
"""How far before a signal its deal is looked for: trade servers keep clocks of their own."""


class Fate(Record, frozen=True, kw_only=True):
    """What became of one signal; the outcome file holds the same fields."""

    id: str
    state: str
    """`sending`, `done`, `refused` (surely not executed), `not_sent`, or `unknown` (look at the account)."""
    digest: str
    direction: Direction
    tag: str = ""
    at_ms: int
    not_after_ms: int = 0
    symbol: str = ""
    ticket: int = 0
    lots: Decimal = ZERO
    """What was filled or closed."""
    price: Decimal = ZERO
    lots_before: Decimal = ZERO
    """A partial close: what was open before it."""
    message: str = ""


class SignalFolder:
    """Executes what is dropped into one folder on one account, in the order of its files."""

    def __init__(self, name: str, settings: SignalSettings, gateway: Gateway, ledger: Ledger, clock: Clock) -> None:
        self.name = name
        self.error = ""
        """Why the folder cannot be served just now; empty while all is well."""
        self._settings = settings
        self._gateway = gateway
        self._ledger = ledger
        self._clock = clock
        self._folder = Path(settings.folder)
        self._fates: dict[str, Fate] = {}
        self._token = 0
        self._unsure: dict[Path, tuple[bytes, float]] = {}
        """Files that make no sense yet, what they held, and since when."""
        self._sent_s: deque[float] = deque(maxlen=settings.orders_per_minute)

    async def run(self) -> None:
        """Serve the folder until cancelled; end by `Fenced` when another process serves this account."""
        role = f"follower:signals:{self.name}"  # Whoever holds it alone may write what is known of these signals.
        while True:
            try:
                if not self._token:
                    await self._begin(role)
                await self._serve()
                if self.error:
                    log.info("signals %s: served again", self.name)
                self.error, pause_s = "", self._settings.poll_ms / 1000
            except Fenced:
                raise
            except (CopierError, OSError) as error:
                if str(error) != self.error:
                    log.warning("signals %s: %s", self.name, error)
                self.error, pause_s = str(error), PAUSE_S
            except Exception as error:
                log.exception("signals %s: stopped in the middle of a file; what was sent is looked up", self.name)
                self.error, pause_s = f"{type(error).__name__}: {error}", PAUSE_S
            await asyncio.sleep(pause_s)

    async def _begin(self, role: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        await self._gateway.open()
        scope = f"signals:{self.name}"
        remembered = await self._ledger.load([scope])
        self._fates = {name: wire.decode(body, Fate) for (_, name), body in remembered.facts.items()}
        self._token = (await self._ledger.take([role]))[role]

    async def _serve(self) -> None:
        files = look(self._folder)
        self._unsure = {path: value for path, value in self._unsure.items() if path in files}
        for path in files:
            dropped = take_up(path)
            if dropped is not None:
                await self._take(dropped)

    async def _take(self, dropped: Dropped) -> None:
        """Execute one file, or say why not, and put it away once that is certain."""
        try:
            signal = read_signal(dropped)
        except InvalidRequest as error:
            now_s = asyncio.get_running_loop().time()
            body, since_s = self._unsure.get(dropped.path, (b"", 0.0))
            if body != dropped.body:
                self._unsure[dropped.path] = (dropped.body, now_s)
            elif now_s - since_s >= HALF_WRITTEN_S:
                self._reject(dropped, str(error))
            return
        known = self._fates.get(signal.id)
        if known is not None and known.digest != dropped.digest:
            self._reject(dropped, f"id: {signal.id} was that of another signal already, which is {known.state}")
            return
        try:
            if known is None or known.state == "not_sent":
                self._allow(signal, dropped)
                fate = await self._execute(signal, dropped)
            else:
                fate = await self._settle(signal, dropped, known) if known.state == "sending" else known
        except InvalidRequest as error:
            mistakes = [f"{'.'.join(detail.path)}: {detail.message}" for detail in error.details]
            self._reject(dropped, "; ".join(mistakes) or error.message)
            return
        if fate.state != "sending":
            archive(dropped, wire.encode(fate))

    def _reject(self, dropped: Dropped, reason: str) -> None:
        log.warning("signals %s: %s is rejected: %s", self.name, dropped.path.name, reason)
        reject(dropped, reason)

    def _allow(self, signal: Signal, dropped: Dropped) -> None:
        """Raise `InvalidRequest` where the settings do not allow a signal. Only opens are ever held up."""
        settings = self._settings
        if signal.direction in (Direction.CLOSE, Direction.MODIFY):
            return
        age_s = Decimal(self._clock.now_ms() - dropped.at_ms) / 1000
        if age_s > settings.age_s_max:
            raise InvalidRequest(f"expected a file at most {settings.age_s_max} s old, found one {age_s} s old")
        if settings.symbols and signal.symbol not in settings.symbols:
            raise InvalidRequest(f"symbol: expected one of {', '.join(settings.symbols)}, found {signal.symbol!r}")
        if signal.lots is not None and signal.lots > settings.lots_max:
            raise InvalidRequest(f"lots: expected at most {settings.lots_max} (lots_max), found {signal.lots}")
        check_trade(self._request(signal), self._settings.account)
        now_s = asyncio.get_running_loop().time()
        if len(self._sent_s) == self._sent_s.maxlen and now_s - self._sent_s[0] < MINUTE_S:
            raise InvalidRequest(f"expected at most {settings.orders_per_minute} opens a minute (orders_per_minute)")

    def _request(self, signal: Signal) -> TradeRequest:
        return TradeRequest(
            symbol=signal.symbol,
            action=Side(signal.direction.value),
            lots=signal.lots or ZERO,
            stop_loss=signal.stop_loss or ZERO,
            take_profit=signal.take_profit or ZERO,
            slippage=signal.slippage,
            magic=self._settings.magic,
            comment=signal.comment,
            tag=self._tag(signal),
        )

    def _tag(self, signal: Signal) -> str:
        """Return what the order is known by at the broker: the same for the same signal, whoever sends it, and short."""
        digest = hashlib.sha256(f"{self.name}:{signal.id}".encode()).digest()
        return TAG_PREFIX + base64.b32hexencode(digest)[:10].decode().lower()

    # Executing ------------------------------------------------------------------------------------------------------------

    async def _execute(self, signal: Signal, dropped: Dropped) -> Fate:
        """Journal, send, and return what became of it; `sending` where that is to be found out yet."""
        fate = Fate(
            id=signal.id,
            state="sending",
            digest=dropped.digest,
            direction=signal.direction,
            at_ms=self._clock.now_ms(),
            symbol=signal.symbol,
        )
        try:
            match signal.direction:
                case Direction.BUY | Direction.SELL:
                    return await self._open(signal, fate)
                case _:
                    return await self._change(signal, fate)
        except InvalidRequest:
            raise
        except Rejected as error:
            return await self._keep(replace(self._fates.get(fate.id, fate), state="refused", message=str(error)))
        except Unavailable as error:
            # Surely not sent: it is tried again as long as it is young enough.
            log.warning("signals %s: %s waits: %s", self.name, signal.id, error)
            return replace(await self._keep(replace(fate, state="not_sent", message=str(error))), state="sending")
        except OutcomeUnknown as error:
            log.warning("signals %s: %s may or may not have been executed: %s", self.name, signal.id, error)
            return self._fates[fate.id]

    async def _open(self, signal: Signal, fate: Fate) -> Fate:
        request = self._request(signal)
        permit = self._permit()
        await self._keep(replace(fate, tag=request.tag, not_after_ms=permit.not_after_ms))
        self._sent_s.append(asyncio.get_running_loop().time())
        result = await self._gateway.execute_trade(request, permit)
        message = result.message
        if not result.stops_set and (request.stop_loss or request.take_profit):
            message = await self._add_levels(result.ticket, request)
        done = replace(fate, state="done", tag=request.tag, ticket=result.ticket, lots=result.lots, price=result.price)
        return await self._keep(replace(done, message=message))

    async def _add_levels(self, ticket: int, request: TradeRequest) -> str:
        wish = ModifyRequest(ticket=ticket, stop_loss=request.stop_loss, take_profit=request.take_profit)
        try:
            await self._gateway.modify_position(wish, self._permit())
        except GatewayError as error:
            log.warning("signals %s: position %d stands without its levels: %s", self.name, ticket, error)
            return f"filled, but WITHOUT stop and target: {error}"
        return "filled; stop and target were set after it"

    async def _change(self, signal: Signal, fate: Fate) -> Fate:
        """Close or modify the position a signal names."""
        position = await self._named(signal)
        if position is None:
            return await self._keep(replace(fate, state="refused", message="no such position is open"))
        permit = self._permit()
        fate = replace(fate, ticket=position.ticket, symbol=position.symbol, not_after_ms=permit.not_after_ms)
        await self._keep(replace(fate, lots_before=position.lots))
        if signal.direction is Direction.MODIFY:
            wish = ModifyRequest(ticket=position.ticket, stop_loss=signal.stop_loss, take_profit=signal.take_profit)
            changed = await self._gateway.modify_position(wish, permit)
            return await self._keep(replace(fate, state="done", lots=position.lots, message=changed.message))
        request = CloseRequest(ticket=position.ticket, lots=signal.lots, slippage=signal.slippage)
        closed = await self._gateway.close_position(request, permit)
        done = replace(fate, state="done", lots=closed.lots, price=closed.price, message=closed.message)
        return await self._keep(done)

    async def _named(self, signal: Signal) -> Position | None:
        """Return the open position a close or modify means; raise `InvalidRequest` where it names no signal of this folder."""
        opened = self._fates.get(signal.of)
        if signal.of and opened is None:
            raise InvalidRequest(f"of: no signal {signal.of} was executed in this folder")
        positions = await self._positions()
        if opened is None:
            return _by_ticket(positions, signal.ticket)
        tagged = (each for each in positions if each.tag == opened.tag)
        return next(tagged, None) or _by_ticket(positions, opened.ticket)

    async def _positions(self) -> tuple[Position, ...]:
        """Return what is open; raise `Unavailable` where the terminal cannot know."""
        read = await self._gateway.get_positions()
        if not read.connected:
            raise Unavailable("the terminal is not connected to its trade server", account=self._settings.account)
        return read.positions

    def _permit(self) -> Permit:
        return Permit(token=self._token, not_after_ms=self._clock.now_ms() + ORDER_LIFE_MS)

    async def _keep(self, fate: Fate) -> Fate:
        """Make a fate durable; raise `StoreError`."""
        body = msgspec.Raw(wire.encode(fate))
        await self._ledger.append([FactKept(follower=f"signals:{self.name}", name=fate.id, body=body)])
        self._fates[fate.id] = fate
        if fate.state != "sending":
            log.info("signals %s: %s is %s: %s", self.name, fate.id, fate.state, fate.message)
        return fate

    # Finding out ----------------------------------------------------------------------------------------------------------

    async def _settle(self, signal: Signal, dropped: Dropped, fate: Fate) -> Fate:
        """Ask the broker what became of a signal that was being sent; the same fate where it cannot tell yet."""
        positions = await self._positions()
        if signal.direction in (Direction.BUY, Direction.SELL):
            return await self._settle_open(fate, positions)
        position = _by_ticket(positions, fate.ticket)
        if position is None and signal.direction is Direction.CLOSE and signal.lots is None:
            return await self._keep(replace(fate, state="done", message="the position has gone"))
        if position is None and self._over(fate):
            return await self._keep(
                replace(fate, state="unknown", message="the position has gone: look at the account's history")
            )
        if position is not None and _as_wished(signal, fate, position):
            return await self._keep(replace(fate, state="done", message="the account shows it done"))
        # It cannot land any more, and what it asks for is absolute: asking again is safe.
        return await self._execute(signal, dropped) if self._over(fate) else fate

    def _over(self, fate: Fate) -> bool:
        """Return whether what was sent can no longer be executed unseen."""
        return self._clock.now_ms() > fate.not_after_ms + int(self._gateway.facts.settle_s * 1000)

    async def _settle_open(self, fate: Fate, positions: tuple[Position, ...]) -> Fate:
        for position in positions:
            if position.tag == fate.tag:
                found = replace(fate, ticket=position.ticket, lots=position.lots, price=position.open_price)
                return await self._keep(replace(found, state="done", message="found at the broker by its tag"))
        deals = self._gateway.deals
        if deals is not None:
            offset_s = (await self._gateway.get_account()).server_offset_s or 0
            since = datetime.fromtimestamp(fate.at_ms / 1000 + offset_s, UTC) - HISTORY
            for deal in await deals.get_deals(since):
                if deal.tag == fate.tag:
                    found = replace(fate, ticket=deal.position_id, lots=deal.lots, price=deal.price)
                    return await self._keep(replace(found, state="done", message="found in the account's history by its tag"))
        if not self._over(fate):
            return fate
        if deals is not None and self._gateway.facts.tags_survive:
            return await self._keep(replace(fate, state="refused", message="no answer came; the broker knows nothing of it"))
        message = (
            f"no answer came and no tag {fate.tag} is seen, which proves nothing here: look at the account; never sent again"
        )
        return await self._keep(replace(fate, state="unknown", message=message))


def _by_ticket(positions: tuple[Position, ...], ticket: int) -> Position | None:
    return next((each for each in positions if ticket in (each.ticket, each.identifier, each.parent)), None)


def _as_wished(signal: Signal, fate: Fate, position: Position) -> bool:
    """Return whether a position looks as a close in part or a modify wants it."""
    if signal.direction is Direction.MODIFY:
        stop_holds = signal.stop_loss is None or signal.stop_loss == position.stop_loss
        return stop_holds and (signal.take_profit is None or signal.take_profit == position.take_profit)
    return signal.lots is not None and position.lots <= fate.lots_before - signal.lots
