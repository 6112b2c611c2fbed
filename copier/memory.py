"""What one follower knows and has decided, in memory and, one commit later, in the ledger.

Two hands write a link: the reader, who folds the master's changes into what is wanted of it, and the follower's own task, which
keeps what is believed of our orders. Each owns its fields, so that neither can undo what the other learnt in between.
"""

import asyncio
import itertools
import logging
from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

import msgspec

from copier.clock import Clock
from copier.errors import CopierError
from copier.ledger import TOMBSTONES_MS, FactKept, JournalEntry, Ledger, LinkKept, ReadingKept, ReceiptKept, Remembered
from copier.link import Leg, LegState, Link, LinkName
from copier.model import ZERO, MasterFacts, Receipt, SymbolSpec, Verdict
from copier.plan import Planned, side_of
from copier.settings import CopySettings, FollowerSettings
from copier.stream import EntryId

log = logging.getLogger(__name__)
replace = msgspec.structs.replace

GIVEN_UP_MS = 48 * 3600 * 1000
"""Orders that were given up as lost are remembered for so long: a deal may tell of one after all."""
FORGOTTEN_AT_ONCE = 10
READINGS_MS = 10_000
"""How far a quiet master was read is journaled so often: reading the same snapshots again changes nothing."""


class Relation:
    """What a follower knows of one master: the policy, how far it has read, and the master's newest facts."""

    def __init__(self, policy: CopySettings, seen: EntryId | None) -> None:
        self.policy = policy
        self.seen = seen or EntryId()
        self.started = seen is not None
        """False until the first snapshot: what stands in it was there before the relation."""
        self.handed_over = seen is not None
        """Another watcher has begun, or may have before we did, and its first snapshot has not come yet."""
        self.gap = False
        """Something was not read: opens wait for the next snapshot, closes go on."""
        self.heard_ms = 0
        """When anything of this master was last read here; 0 is never."""
        self.lag_ms = 0
        """How old that was then, since the master's account had been read for it."""
        self.facts: MasterFacts | None = None
        self.specs: dict[str, SymbolSpec] = {}

    def learn(self, specs: Mapping[str, SymbolSpec]) -> None:
        """Take over the master's rules of these symbols; those that say the same stay the same object."""
        for symbol, spec in specs.items():
            if self.specs.get(symbol) != spec:
                self.specs[symbol] = spec


class Unsaved(NamedTuple):
    """What of a follower's memory is on its way into the journal."""

    entries: list[JournalEntry]
    touched: dict[LinkName, None]
    notes: list[JournalEntry]
    read: dict[str, None]


_NOTHING = Unsaved([], {}, [], {})


class Memory:
    """Links, relations and receipts of one follower, and what of them is not journaled yet."""

    def __init__(self, name: str, settings: FollowerSettings, ledger: Ledger, clock: Clock, remembered: Remembered) -> None:
        self.name = name
        self.clock = clock
        self.links: dict[LinkName, Link] = dict(remembered.links.get(name, {}))
        seen = {master: EntryId.parse(entry) for (who, master), entry in remembered.readings.items() if who == name}
        self.relations = {copy.master: Relation(copy, seen.get(copy.master)) for copy in settings.copies}
        self.living = {name: link for name, link in self.links.items() if link.living}
        """Those of the links that the master has, or that may be open: what is looked at again and again."""
        self.dirty: dict[LinkName, None] = {}
        """Links that may want something, in the order in which they came to want it."""
        self.asked: dict[LinkName, str] = {}
        """Changes of copied positions that have no receipt yet, by the event's name."""
        self.uncertain: dict[LinkName, None] = {}
        """Links with an order or a cut on its way, or of unknown outcome."""
        self.unweighed: dict[LinkName, None] = dict.fromkeys(self.living)
        """Links of which limits have not seen the newest state yet."""
        self._ledger = ledger
        self._touched: dict[LinkName, None] = {}
        self._notes: list[JournalEntry] = []
        self._read: dict[str, None] = {}
        self._read_ms = 0
        """When the oldest reading position that is not durable was noted."""
        self._begun = {master for master, relation in self.relations.items() if relation.started}
        """Masters of which a reading position is durable."""
        now = clock.now_ms()
        self._ended = {name: now for name, link in self.links.items() if not link.living}
        """Links that ended, and when that was last said; the first is the first to be forgotten."""
        for link in self.links.values():
            self._judge(link)

    def want(self, link: Link) -> None:
        """Take over what the reader, a person or a limit wants of a link; nothing may be awaited since it was looked up."""
        self._put(link)
        self.dirty[link.name] = None

    def believe(self, link: Link) -> Link:
        """Take over what the follower's task believes of a link; what is wanted of it stays as it is by now. Return both."""
        now = self.links.get(link.name)
        if now is not None and now is not link:
            link = replace(
                link,
                position=now.position,
                wanted_open=now.wanted_open,
                existing=now.existing,
                least=now.least,
                absent_ms=now.absent_ms,
                master_price=now.master_price,
                reason=link.reason if now.wanted_open else now.reason,
            )
        self._put(link)
        return link

    def take_back(self, before: Link) -> None:
        """Believe what was believed before an order that was surely not executed; what the master closed meanwhile counts on."""
        least = self.links[before.name].least
        self._put(replace(self.believe(before), least=min(before.least, least)))

    def _put(self, link: Link) -> None:
        if self.links.get(link.name) is not link:
            self.links[link.name] = link
            self._touched[link.name] = None
            self.unweighed[link.name] = None
            self._ended.pop(link.name, None)
            if link.living:
                self.living[link.name] = link
            else:
                self.living.pop(link.name, None)
                self._ended[link.name] = self.clock.now_ms()
                self._forget()
            self._judge(link)

    def _forget(self) -> None:
        """Drop what ended long ago, is durable, and can turn up no more: months of trading must not fill the memory."""
        now = self.clock.now_ms()
        for name, at_ms in list(itertools.islice(self._ended.items(), FORGOTTEN_AT_ONCE)):
            if now - at_ms < TOMBSTONES_MS:
                return
            given_up = any(leg.state is LegState.FAILED and now - leg.not_after_ms < GIVEN_UP_MS for leg in self.links[name].legs)
            del self._ended[name]
            if given_up or name in self._touched or name in self.dirty:
                self._ended[name] = now  # It is asked about again.
                continue
            del self.links[name]
            self.asked.pop(name, None)
            self.uncertain.pop(name, None)

    def _judge(self, link: Link) -> None:
        for leg in link.legs:
            if leg.state is LegState.UNKNOWN or leg.state is LegState.SENDING:
                self.uncertain[link.name] = None
                return
        if link.cut is not None and not link.cut.answered:
            self.uncertain[link.name] = None
        else:
            self.uncertain.pop(link.name, None)

    def have_read(self, master: str) -> None:
        """Journal how far a master was read, with the next commit."""
        if not self._read:
            self._read_ms = self.clock.now_ms()
        self._read[master] = None

    @property
    def pressing(self) -> bool:
        """Whether something should become durable, or be done, soon: more than how far quiet masters were read."""
        if self.dirty or self._touched or self._notes or self._read.keys() - self._begun:
            return True
        return bool(self._read) and self.clock.now_ms() - self._read_ms >= READINGS_MS

    async def save(self, link: Link) -> None:
        """Believe a link and make it durable, with all else that is not yet. Raise `StoreError` or `Fenced`."""
        self.believe(link)
        await self.commit()

    async def commit(self) -> None:
        """Make everything that changed durable, in one record. Raise `StoreError` or `Fenced`."""
        unsaved = self.take()
        if not unsaved.entries:
            return
        try:
            await self._ledger.append(unsaved.entries)
        except (CopierError, asyncio.CancelledError):
            self.give_back(unsaved)
            raise
        self.durable(unsaved)

    def take(self) -> "Unsaved":
        """Hand out all that is not durable, to whoever appends it; `durable` or `give_back` says how that went."""
        if not (self._touched or self._notes or self._read):
            return _NOTHING
        touched, self._touched = self._touched, {}
        notes, self._notes = self._notes, []
        read, self._read = self._read, {}
        entries: list[JournalEntry] = [LinkKept(link=self.links[name]) for name in touched]
        entries += notes
        entries += [ReadingKept(follower=self.name, master=m, entry=str(self.relations[m].seen)) for m in read]
        return Unsaved(entries, touched, notes, read)

    def durable(self, unsaved: "Unsaved") -> None:
        """What was handed out is durable."""
        self._begun |= unsaved.read.keys()

    def give_back(self, unsaved: "Unsaved") -> None:
        """What was handed out is not durable, or nobody knows: append it again."""
        self._touched = {**unsaved.touched, **self._touched}
        self._notes = unsaved.notes + self._notes
        self._read = {**unsaved.read, **self._read}

    def keep(self, entry: JournalEntry) -> None:
        """Journal an entry with the next commit."""
        self._notes.append(entry)

    def keep_fact(self, name: str, body: bytes) -> None:
        """Journal a small state with the next commit."""
        self._notes.append(FactKept(follower=self.name, name=name, body=msgspec.Raw(body)))

    def note_copied(
        self,
        link: Link,
        planned: Planned,
        lots: Decimal,
        price: Decimal,
        ticket: int,
        tag: str,
        master_lots: Decimal,
        spec: SymbolSpec | None,
    ) -> None:
        """Record that an open was copied, and how far from the master's price."""
        points = None
        if spec is not None and price and link.master_price:
            points = (price - link.master_price) * link.side.sign / spec.point
        changed = bool(planned.notes) or lots != sum(planned.lots, ZERO)
        self.note(
            link,
            "open",
            Verdict.COPIED,
            "copied_resized" if changed else "copied",
            lots=lots,
            price=price,
            ticket=ticket,
            tag=tag,
            slippage_points=points,
            message="; ".join(planned.notes),
            numbers={**planned.numbers, "asked": str(planned.asked), "masterLots": str(master_lots)},
        )

    def note_cut(self, link: Link, leg: Leg, lots_left: Decimal) -> None:
        """Record that a leg was closed or reduced as the master wanted."""
        verdict, code = (Verdict.CHANGED, "reduced") if lots_left else (Verdict.CLOSED, link.reason or "closed")
        event = "reduce" if lots_left else "close"
        self.note(link, event, verdict, code, lots=leg.lots - lots_left, ticket=leg.ticket, tag=leg.tag)

    def note(self, link: Link, event: str, verdict: Verdict, code: str, **more: object) -> None:
        """Leave a receipt about a link."""
        receipt = Receipt(
            at_ms=self.clock.now_ms(),
            follower=self.name,
            master=link.master,
            key=link.key,
            event=event,
            verdict=verdict,
            code=code,
            symbol=link.symbol or link.position.symbol,
            side=link.side if link.legs else side_of(self.relations[link.master].policy, link.position),
            master_lots=link.position.lots,
            stamps=link.stamps,
            **more,  # type: ignore[arg-type]
        )
        self._notes.append(ReceiptKept(receipt=receipt))
