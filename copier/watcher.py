"""One watcher per master: reads its positions, tells what changed, publishes it; levels are the truth, edges are hints.

Only a read that is connected, of the right account and newer than the last one counts. A position is gone when a closing deal
says so, or when enough fresh reads do; when much of the account is gone at once only deals or a person are believed. Until then
it stands as open in everything that is published.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec

from copier.clock import Clock
from copier.diff import View, apply, diff, match
from copier.errors import GatewayError, StoreError
from copier.gateway import Gateway, Tells
from copier.ledger import Ledger
from copier.model import (
    ZERO,
    Account,
    Change,
    Closed,
    Deal,
    DealEntry,
    DealReason,
    DealType,
    Event,
    MarginMode,
    MasterFacts,
    MasterPosition,
    Opened,
    Positions,
    Reversed,
    ScaledIn,
    Snapshot,
    SymbolSpec,
)
from copier.settings import MasterSettings
from copier.stream import EntryId, Stream

log = logging.getLogger(__name__)

OUTBOX_MAX = 1_000
"""Beyond so many unpublished entries they give way to one snapshot, which says the same."""
FACTS_AGE_MAX_MS = 2_000
SPEC_AGE_MAX_MS = 60_000
BACK_OFF_MAX_S = 5.0
SILENCE_MS = 30_000
"""A history that can be read and tells of no close speaks against one: reads alone must then agree for so long."""
DEAL_LOOK_BACK = timedelta(days=1)


class Watcher:
    """Watches one master account and publishes what it confirmed."""

    def __init__(
        self, name: str, gateway: Gateway, stream: Stream, ledger: Ledger, clock: Clock, settings: MasterSettings
    ) -> None:
        self.name = name
        self.view = View()
        self.error = ""
        """Why the master cannot be read or published just now; empty while all is well."""
        self.held_back: tuple[MasterPosition, ...] = ()
        """Positions that are missing and not yet believed gone."""
        self.published_ms = 0
        """When something was last published; 0 before the first time."""
        self._holds_much = False
        """So much is missing at once that only deals or a person are believed."""
        self._gateway = gateway
        self._stream = stream
        self._ledger = ledger
        self._clock = clock
        self.settings = settings
        self._account: Account | None = None
        self._account_ms = 0
        self._same_account = False
        """Facts and positions have agreed on whose they are: until then the facts may be those of another account."""
        self._specs: dict[str, tuple[int, SymbolSpec]] = {}
        self._role = f"watcher:{name}"
        self._last = EntryId()
        self._outbox: deque[tuple[EntryId, Event]] = deque()
        self._read = 0
        self._read_ms = 0
        self._snapshot_due = 0.0
        self._unkept = False
        """Keeping what was told last has failed: it is tried again with the next read."""
        self._missing: dict[int, tuple[int, int]] = {}
        """By identifier: in how many reads it was missed, and since when."""
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Watch until cancelled; end by `Fenced` when another watcher of this master has begun."""
        tokens = await self._ledger.take([self._role])
        self._last = EntryId(tokens[self._role], 0)
        kept = await self._ledger.load_view(self.name)
        if self._gateway.wakes is not None:
            self._gateway.wakes.on_change(self._wake.set)
        if kept is None:
            await self._begin()
            self._put(self._snapshot())
        else:
            # The first read brings it up to date, and the first snapshot follows that.
            self.view = await self._with_last_words(kept)
        pause = 0.0
        while True:
            self._wake.clear()
            try:
                await self._publish()
                await self._look()
                await self._publish()
                if self.error:
                    log.info("%s: watching again", self.name)
                self.error, pause = "", 0.0
            except (GatewayError, StoreError) as error:
                if str(error) != self.error:
                    log.warning("%s: nothing can be seen: %s", self.name, error)
                self.error = str(error)
                pause = min(pause * 2 or self._poll_s, BACK_OFF_MAX_S)
            await self._wait(pause)

    async def _keep(self) -> None:
        self._unkept = True
        self.view = msgspec.structs.replace(self.view, told=str(self._last))
        await self._ledger.save_view(self.name, self._last.epoch, self.view)
        self._unkept = False

    async def _with_last_words(self, kept: View) -> View:
        """Return a kept view with what its watcher told afterwards: it may have died, or failed, before it kept that."""
        told = EntryId.parse(kept.told) if kept.told else self._last
        try:
            snapshot = await self._stream.last_snapshot(self.name)
            if snapshot is not None and snapshot.id > told and isinstance(snapshot.event, Snapshot):
                there = {position.identifier for position in snapshot.event.positions}
                for known in [known for key, known in kept.open.items() if key not in there]:
                    kept = apply(kept, Closed(master=self.name, read=0, read_ms=0, position=known))
                kept, told = apply(kept, snapshot.event), snapshot.id
            entries = await self._stream.read({self.name: told}, block_ms=1)
        except StoreError as error:
            log.warning("%s: what was told last cannot be read: %s", self.name, error)
            return kept
        for entry in entries:
            if entry.id != told.next or entry.event is None:
                break
            kept, told = apply(kept, entry.event), entry.id
        return kept

    @property
    def read_ms(self) -> int:
        """When the newest read that counts began; 0 before the first."""
        return self._read_ms

    @property
    def unpublished(self) -> int:
        """How many events wait to be published."""
        return len(self._outbox)

    @property
    def _poll_s(self) -> float:
        return self.settings.poll_ms / 1000

    async def _wait(self, pause: float) -> None:
        loop = asyncio.get_running_loop()
        quiet = self._gateway.wakes is not None and not self._missing and not self._outbox
        until_snapshot = max(0.0, self._snapshot_due - loop.time())
        delay = pause or (until_snapshot if quiet else min(self._poll_s, until_snapshot))
        try:
            async with asyncio.timeout(delay):
                await self._wake.wait()
                if pause:
                    await asyncio.sleep(pause)  # A source that calls and fails must not be asked in a tight loop.
        except TimeoutError:
            pass

    async def _begin(self) -> None:
        """Take a master never watched before as it is: what is open now is not news."""
        delay = self._poll_s
        while True:
            try:
                account = await self._facts()
                positions = await self._positions()
                break
            except GatewayError as error:
                if str(error) != self.error:
                    log.warning("%s: cannot be read yet: %s", self.name, error)
                self.error, self._account = str(error), None
                await asyncio.sleep(delay)
                delay = min(delay * 2, BACK_OFF_MAX_S)
        for event in diff(self.view, positions.positions, account.margin_mode, self._change(positions)):
            self.view = apply(self.view, event)
        self._read, self._read_ms = positions.read, self._clock.now_ms()
        await self._learn_specs(self.view.open.values())
        await self._keep()

    async def _look(self) -> None:
        """Read once, and put what changed into the outbox."""
        account = await self._facts()
        positions, began_ms = await self._newest()
        if positions.read <= self._read:
            return
        change = self._change(positions)
        closings = await self._gone(positions, account)
        events = diff(
            self.view,
            positions.positions,
            account.margin_mode,
            change,
            gone=closings.keys(),
            absent_ms=self._read_ms,
        )
        self._read, self._read_ms = positions.read, began_ms
        if events:
            await self._learn_specs([event.position for event in events if isinstance(event, Opened | ScaledIn | Reversed)])
            for event in events:
                self.view = apply(self.view, event)
                self._put(self._complete(event, closings))
        if asyncio.get_running_loop().time() >= self._snapshot_due:
            await self._learn_specs(self.view.open.values())
            self._put(self._snapshot())
        if events or self._unkept:
            await self._publish()
            await self._keep()

    async def _newest(self) -> tuple[Positions, int]:
        """Return what the source told by itself, where that is news, or what it answers now; and when it was read."""
        tells: Tells | None = getattr(self._gateway, "tells", None)
        told = tells.positions_told() if tells is not None else None
        if told is not None and told[0].connected and told[0].read > self._read:
            return self._checked(told[0]), max(told[1], self._read_ms)  # It came after the last read, whatever clocks say.
        began_ms = self._clock.now_ms()
        return await self._positions(), began_ms

    async def _positions(self) -> Positions:
        return self._checked(await self._gateway.get_positions())

    def _checked(self, positions: Positions) -> Positions:
        if not positions.connected:
            raise GatewayError("the terminal is not connected to its trade server", account=positions.account)
        if self._account is not None and positions.account != self._account.account:
            expected = self._account.account
            if not self._same_account:
                self._account = None
            raise GatewayError(f"expected positions of {expected}, the terminal shows another account", account=positions.account)
        self._same_account = self._account is not None
        if self._same_account and not self.view.account:
            self.view = msgspec.structs.replace(self.view, account=positions.account)
        return positions

    async def _facts(self) -> Account:
        """Return the account, read again once it is old; its identity must stay the same."""
        now = self._clock.now_ms()
        if self._account is None or now - self._account_ms > FACTS_AGE_MAX_MS:
            account = await self._gateway.get_account()
            if self._account is not None and account.account != self._account.account:
                raise GatewayError(
                    f"expected {self._account.account}, the terminal shows another account", account=account.account
                )
            if self.view.account and account.account != self.view.account:
                raise GatewayError(
                    f"expected {self.view.account}, which {self.name} was when last watched; another account needs another name",
                    account=account.account,
                )
            self._account, self._account_ms = account, now
        return self._account

    async def _learn_specs(self, positions: Any) -> None:
        now = self._clock.now_ms()
        for symbol in sorted({position.symbol for position in positions}):
            if symbol in self._specs and now - self._specs[symbol][0] < SPEC_AGE_MAX_MS:
                continue
            try:
                quote = await self._gateway.get_quote(symbol)
            except GatewayError as error:
                # The event goes out without; followers whose rules need it say so and level by the next snapshot.
                log.warning("%s: no rules of %s: %s", self.name, symbol, error)
            else:
                self._specs[symbol] = (now, quote.spec)

    async def _gone(self, positions: Positions, account: Account) -> dict[int, tuple[Decimal, DealReason]]:
        """Return the identifiers that are surely gone, with closing price and reason where a deal told them."""
        missing = match(self.view, positions.positions, account.margin_mode).missing
        now = self._clock.now_ms()
        before = {known.identifier: self._missing.get(known.identifier, (0, now)) for known in missing}
        self._missing = {identifier: (reads + 1, since_ms) for identifier, (reads, since_ms) in before.items()}
        if not missing:
            self.held_back, self._holds_much = (), False
            return {}
        gone = await self._closing_deals(missing)
        rest = [known for known in missing if known.identifier not in gone]
        if rest and not self._breaks(len(rest)):
            gone |= {known.identifier: (ZERO, DealReason.OTHER) for known in rest if self._enough(known.identifier, now)}
        elif rest and (await self._ledger.controls()).get(f"master:{self.name}") == "release":
            if self._holds_much:
                gone |= {known.identifier: (ZERO, DealReason.OTHER) for known in rest}
            else:
                log.warning("%s: a release that was given before these positions were missing is not for them", self.name)
            await self._ledger.set_control(f"master:{self.name}", "live", "watcher")
        held = tuple(known for known in missing if known.identifier not in gone)
        if held and not self._holds_much and self._breaks(len(held)):
            log.warning(
                "%s: %d of %d positions are missing at once and no deal says they were closed; holding them as open until a "
                "deal or `mt-copier release %s` confirms it",
                self.name,
                len(held),
                len(self.view.open),
                self.name,
            )
        self.held_back, self._holds_much = held, bool(held) and self._breaks(len(held))
        for identifier in gone:
            self._missing.pop(identifier, None)
        return gone

    def _enough(self, identifier: int, now_ms: int) -> bool:
        """Return whether fresh reads alone have missed a position often enough, and long enough where history is silent."""
        reads, since_ms = self._missing[identifier]
        if reads < self.settings.confirm_reads:
            return False
        return self._gateway.deals is None or now_ms - since_ms >= SILENCE_MS

    def _breaks(self, missing: int) -> bool:
        breaker = self.settings.breaker
        return missing >= breaker.count_min and Decimal(missing * 100) > breaker.share_max * len(self.view.open)

    async def _closing_deals(self, missing: Sequence[MasterPosition]) -> dict[int, tuple[Decimal, DealReason]]:
        history = self._gateway.deals
        closings: dict[int, tuple[Decimal, DealReason]] = {}
        if history is None:
            return closings
        tickets = self._account is not None and self._account.margin_mode is MarginMode.MT4
        if tickets:
            since = min(known.open_time for known in missing) - DEAL_LOOK_BACK
            every = [deal for deal in await history.get_deals(since) if deal.entry in (DealEntry.OUT, DealEntry.OUT_BY)]
        for known in missing:
            if tickets:  # A ticket closed in part lives on as a later one: together they must have closed all that it held.
                mine = [deal for deal in every if deal.order == known.ticket or deal.position_id == known.identifier]
                closed = [deal for deal in mine if deal.order >= known.ticket]
                flat = sum((deal.lots for deal in closed), ZERO) >= known.lots
            else:
                deals = await history.get_deals(known.open_time - DEAL_LOOK_BACK, known.identifier)
                closed = [deal for deal in deals if deal.entry in (DealEntry.OUT, DealEntry.OUT_BY)]
                flat = sum((_signed(deal) for deal in deals), ZERO) == 0
            if closed and flat:
                closings[known.identifier] = (closed[-1].price, closed[-1].reason)
        return closings

    def _change(self, positions: Positions) -> Change:
        return Change(master=self.name, read=positions.read, read_ms=self._clock.now_ms())

    def _complete(self, event: Event, closings: dict[int, tuple[Decimal, DealReason]]) -> Event:
        match event:
            case Opened() | ScaledIn() | Reversed():
                _, spec = self._specs.get(event.position.symbol, (0, None))
                return msgspec.structs.replace(event, spec=spec, facts=self._master_facts())
            case Closed():
                price, reason = closings.get(event.position.identifier, (ZERO, DealReason.OTHER))
                return msgspec.structs.replace(event, price=price, reason=reason)
            case _:
                return event

    def _master_facts(self) -> MasterFacts | None:
        account = self._account
        if account is None:
            return None
        return MasterFacts(
            currency=account.currency,
            balance=account.balance,
            equity=account.equity,
            free_margin=account.free_margin,
            leverage=account.leverage,
            server_offset_s=account.server_offset_s,
        )

    def _snapshot(self) -> Snapshot:
        self._snapshot_due = asyncio.get_running_loop().time() + float(self.settings.snapshot_s)
        symbols = sorted({position.symbol for position in self.view.open.values()})
        return Snapshot(
            master=self.name,
            read=self._read,
            read_ms=self._read_ms,
            facts=self._master_facts(),
            positions=tuple(position for _, position in sorted(self.view.open.items())),
            specs={symbol: self._specs[symbol][1] for symbol in symbols if symbol in self._specs},
        )

    def _put(self, event: Event) -> None:
        if len(self._outbox) >= OUTBOX_MAX:
            self._outbox.clear()
            self._last = self._last.next  # A gap on purpose: readers level by the snapshot that follows.
            event = self._snapshot()
        self._last = self._last.next
        self._outbox.append((self._last, msgspec.structs.replace(event, published_ms=self._clock.now_ms())))

    async def _publish(self) -> None:
        """Say everything in the outbox, oldest first; what fails is said again under the same id."""
        while self._outbox:
            entry, event = self._outbox[0]
            await self._stream.publish(self.name, entry, event)
            self._outbox.popleft()
            self.published_ms = self._clock.now_ms()


def _signed(deal: Deal) -> Decimal:
    """Return what a deal did to its position's volume: those of a position that is no more add up to nothing."""
    match deal.type:
        case DealType.BUY:
            return deal.lots
        case DealType.SELL:
            return -deal.lots
        case _:
            return ZERO
