"""A master's events -> what is wanted of each link, the moment they arrive.

Nothing here waits or trades: the reader hands in entries in order, and the follower's own task does the rest.
"""

import logging
from decimal import Decimal

import msgspec

from copier.link import Link, LinkState
from copier.memory import Memory, Relation
from copier.model import (
    ZERO,
    Closed,
    MasterPosition,
    Modified,
    Opened,
    Reduced,
    Reversed,
    ScaledIn,
    Snapshot,
    Stamps,
    Verdict,
)
from copier.stream import Entry

log = logging.getLogger(__name__)
replace = msgspec.structs.replace


class Intake:
    """Folds the entries of a follower's masters."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def accept(self, entry: Entry) -> None:
        """Fold one entry of a master into what is wanted; ids already read are dropped. Never blocks, never trades."""
        relation = self._memory.relations[entry.master]
        if entry.id <= relation.seen:
            return
        follows = entry.id == relation.seen.next or (entry.id.epoch > relation.seen.epoch and entry.id.sequence == 1)
        if not follows or entry.event is None:
            relation.gap = True
        if entry.id.epoch > relation.seen.epoch > 0:
            relation.handed_over = True
        relation.seen = entry.id
        self._memory.have_read(entry.master)
        event = entry.event
        if event is None:
            log.warning(
                "%s: entry %s of %s cannot be read or is not signed; waiting for a snapshot",
                self._memory.name,
                entry.id,
                entry.master,
            )
            return
        relation.heard_ms = self._memory.clock.now_ms()
        relation.lag_ms = relation.heard_ms - event.read_ms
        relation.facts = event.facts or relation.facts
        match event:
            case Snapshot():
                self._accept_snapshot(relation, event)
            case Closed():
                self._unwant(event.master, event.position, "master_closed", event)
            case Reversed():
                self._unwant(event.master, event.closed, "master_reversed", event)
                self._accept_open(relation, event, event.position.open_price)
            case Opened():
                self._accept_open(relation, event, event.position.open_price)
            case ScaledIn():
                self._accept_open(relation, event, event.price)
            case Reduced() | Modified():
                self._want(event.master, event.position, event)

    def _accept_open(self, relation: Relation, event: Opened | ScaledIn | Reversed, price: Decimal) -> None:
        if event.spec is not None:
            relation.learn({event.position.symbol: event.spec})
        if relation.gap or not relation.started:
            return  # What is missing may be its close: the next snapshot says what is really open.
        self._want(event.master, event.position, event, absent_ms=event.absent_ms, price=price)

    def _accept_snapshot(self, relation: Relation, event: Snapshot) -> None:
        relation.learn(event.specs)
        there = {position.key for position in event.positions}
        # A watcher's first snapshot may have been taken before the last that its predecessor told, and waited since: of what is
        # known already only the next one tells, which is taken after the first was published.
        first, relation.handed_over = relation.handed_over, False
        for position in event.positions:
            known = self._memory.links.get((event.master, position.key))
            if known is None or (known.position != position and not first):
                self._want(event.master, position, event, existing=not relation.started)
        if first:
            relation.started, relation.gap = True, False
            return
        for (master, key), link in list(self._memory.living.items()):
            if master == event.master and link.wanted_open and key not in there:
                self._unwant(master, link.position, "master_closed_unseen", event)
        relation.started, relation.gap = True, False

    def _want(
        self,
        master: str,
        position: MasterPosition,
        event: Opened | ScaledIn | Reversed | Reduced | Modified | Snapshot,
        *,
        existing: bool = False,
        absent_ms: int = 0,
        price: Decimal = ZERO,
    ) -> None:
        name = (master, position.key)
        link = self._memory.links.get(name)
        if link is None:
            if isinstance(event, Reduced | Modified):
                self._not_copied(self._unseen(master, position), event, "its open was never seen here")
                return
            link = Link(
                follower=self._memory.name,
                master=master,
                key=position.key,
                position=position,
                existing=existing,
                least=position.lots,
            )
        elif not link.wanted_open:
            if not isinstance(event, Snapshot):
                self._not_copied(link, event, f"its copy has ended: {link.reason}")
            return
        grew = position.lots_opened > link.position.lots_opened or name not in self._memory.links
        if grew:
            stamps = Stamps(read_ms=event.read_ms, published_ms=event.published_ms, received_ms=self._memory.clock.now_ms())
            link = replace(link, absent_ms=absent_ms, master_price=price or position.open_price, stamps=stamps)
        if isinstance(event, Reduced | Modified | ScaledIn):
            if link.state in (LinkState.REFUSED, LinkState.SKIPPED):
                self._not_copied(link, event, f"its open was not copied: {link.reason}")
            elif not isinstance(event, ScaledIn):
                self._memory.asked[name] = event_name(event)
        least = link.least if link.growth > 0 else link.position.lots
        self._memory.want(replace(link, position=position, least=min(least, position.lots)))

    def _unwant(self, master: str, position: MasterPosition, reason: str, event: Closed | Reversed | Snapshot) -> None:
        link = self._memory.links.get((master, position.key))
        if link is None:
            self._not_copied(self._unseen(master, position), event, "its open was never seen here")
            return
        if not link.wanted_open:
            self._not_copied(link, event, f"its copy has ended: {link.reason}")
            return
        if not any(leg.living for leg in link.legs):
            self._not_copied(link, event, f"nothing of it is open here: {link.reason}")
        self._memory.asked.pop(link.name, None)
        stamps = Stamps(read_ms=event.read_ms, published_ms=event.published_ms, received_ms=self._memory.clock.now_ms())
        flat = replace(link.position, lots=ZERO)
        self._memory.want(replace(link, wanted_open=False, position=flat, reason=reason, stamps=stamps))

    def _unseen(self, master: str, position: MasterPosition) -> Link:
        return Link(follower=self._memory.name, master=master, key=position.key, position=position)

    def _not_copied(self, link: Link, event: object, why: str) -> None:
        self._memory.note(link, event_name(event), Verdict.SKIPPED, "not_copied", message=why)


def event_name(event: object) -> str:
    """Return an event's name as it stands in receipts."""
    match event:
        case Opened():
            return "open"
        case ScaledIn():
            return "scale_in"
        case Reversed():
            return "reverse"
        case Reduced():
            return "reduce"
        case Modified():
            return "modify"
        case Closed():
            return "close"
        case _:
            return "snapshot"
