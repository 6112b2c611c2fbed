"""The protocol with one of its rules taken out, rule by rule: each must end in a history that the judge calls wrong.

Nothing in the shipped code can be switched off: a mutant is put over it from here, by patching a method or a function.
"""

from decimal import Decimal
from typing import Any

import msgspec

from copier.diff import match
from copier.errors import StoreError, Unavailable
from copier.express import Express
from copier.gateways.paper import PaperGateway
from copier.holdings import Holdings
from copier.intake import Intake
from copier.leases import Leases
from copier.ledger import JournalEntry, Ledger, LinkKept
from copier.link import Cut, Leg, LegState, Link, LinkState
from copier.memory import Memory
from copier.model import ZERO, DealReason, Opened, Permit, Position, Positions, Reversed, Snapshot
from copier.orders import NotDone, Orders
from copier.reconcile import Book
from copier.stream import Entry
from copier.watcher import Watcher
from tests.mutants import flavours
from tests.mutants.flavours import Flavour
from tests.traps.springs import Removal, both, edges_only, instead, replaced

replace = msgspec.structs.replace

DOUBLED = "one order per position and growth"
VOLUME = "the copy has the master's volume, or a receipt says why not"
CLOSED = "nothing stays open that the master closed"
JOURNALED = "nothing is sent that is not journaled"
OWNER = "only the owner journals and trades"
ONCE = "an event is published once"
LIMIT = "a limit is never exceeded by a burst"
LEVELS = "the copy has the master's stop and target"
ENDED = "what was closed is not opened again"
TRUE = "what the ledger calls open is open"
TOLD = "whatever happens has a receipt"
HANDS = "other hands' positions are not touched"
SECRETS = "no secret shows"
REST = "everything comes to rest"

INVARIANTS = {
    JOURNALED: r"no journal knew it",
    OWNER: r"of a former owner",
    ONCE: r"one event was published",
    LIMIT: r"is the limit",
    HANDS: r"another hand's",
    DOUBLED: r"was executed \d+ times|lots were opened for",
    ENDED: r"was opened after it had been closed",
    CLOSED: r"which the master closed|ticket \d+ is (buy|sell) ",
    VOLUME: r"lots are open for|lots, expected",
    LEVELS: r"has levels",
    TRUE: r"is believed to be",
    TOLD: r"has no receipt",
    SECRETS: r"secret",
    REST: r"still says|still on its way|still unknown|still traded on|ended by",
}
"""What the judge's words say was broken, the most telling first."""


class Mutant(msgspec.Struct, frozen=True):
    """One rule taken out."""

    name: str
    without: str
    """What the mutant does, or does not do."""
    apply: Removal
    breaks: tuple[str, ...]
    """The invariants by which it may be caught, the first being the one meant."""
    flavour: Flavour = flavours.PLAIN
    """The histories it is looked for in."""
    bound: int = 60
    """Within so many histories it must be caught."""


# Sending --------------------------------------------------------------------------------------------------------------------


async def _believe_only(_: Any, memory: Memory, link: Link) -> None:
    memory.believe(link)


async def _fly_first(_: Any, express: Express, ready: Any, unsaved: Any) -> None:
    for follower, flight in ready:
        express._start(express._fly(follower, flight))
    for follower, each in unsaved:
        follower.memory.give_back(each)


async def _retry_blindly(send: Any, orders: Orders, *order: Any) -> Any:
    link, result = await send(orders, *order)
    if result is None:
        raise NotDone(Unavailable("timed out"))
    return link, result


def _as_it_was(link: Link, *_: Any) -> Link:
    return link


async def _take_off_again(cut: Any, orders: Orders, link: Link, leg: Leg, lots_after: Decimal, *more: Any) -> Link:
    after: Link = await cut(orders, link, leg, lots_after, *more)
    if lots_after and after.cut is not None and not after.cut.answered:
        after = await cut(orders, link, leg, lots_after, *more)
    return after


async def _close_once(send: Any, orders: Orders, link: Link, leg: Leg, cut: Cut, *more: Any) -> Link:
    tried: set[str] = orders.__dict__.setdefault("tried", set())
    if not cut.lots_after:
        if leg.tag in tried:
            raise NotDone(Unavailable("it was sent before"))
        tried.add(leg.tag)
    after: Link = await send(orders, link, leg, cut, *more)
    return after


def _open_only(of_link: Any, holdings: Holdings, link: Any) -> Any:
    return of_link(holdings, replace(link, legs=tuple(leg for leg in link.legs if leg.state is LegState.OPEN)))


# Remembering ----------------------------------------------------------------------------------------------------------------


def _every_delivery_counts(accept: Any, intake: Intake, entry: Entry) -> None:
    memory = intake._memory
    relation = memory.relations[entry.master]
    if entry.id <= relation.seen:
        relation.seen = entry.id._replace(sequence=entry.id.sequence - 1)
    event = entry.event
    accept(intake, entry)
    if isinstance(event, Opened | Reversed):
        link = memory.links.get((entry.master, event.position.key))
        if link is not None and link.legs:
            memory.want(replace(link, anchor=ZERO, state=LinkState.PENDING, wanted_open=True))


async def _read_before_done(append: Any, ledger: Ledger, entries: list[JournalEntry]) -> None:
    def undone(link: Link) -> bool:
        pending = not link.legs and link.state is LinkState.PENDING
        return pending or (not link.wanted_open and any(leg.living for leg in link.legs))

    await append(ledger, [each for each in entries if not (isinstance(each, LinkKept) and undone(each.link))])


def _nobody_is_fenced(*_: Any) -> None:
    pass


def _any_token(admit: Any, gateway: PaperGateway, permit: Permit) -> None:
    admit(gateway, replace(permit, token=max(permit.token, gateway._account.token_seen)))


# Seeing ---------------------------------------------------------------------------------------------------------------------


async def _empty_is_flat(_: Any, watcher: Watcher, positions: Positions, account: Any) -> dict[int, tuple[Decimal, DealReason]]:
    missing = match(watcher.view, positions.positions, account.margin_mode).missing
    return {known.identifier: (ZERO, DealReason.OTHER) for known in missing}


async def _keep_raw(read: Any, watcher: Watcher) -> Positions:
    raw: Positions = await read(watcher)
    watcher.__dict__["raw"] = raw
    return raw


def _raw_snapshot(snapshot: Any, watcher: Watcher) -> Snapshot:
    confirmed: Snapshot = snapshot(watcher)
    raw: Positions | None = watcher.__dict__.get("raw")
    there = None if raw is None else {key for each in raw.positions for key in (each.ticket, each.identifier)}
    seen = [p for p in confirmed.positions if there is None or {p.ticket, p.identifier} & there]
    return replace(confirmed, positions=tuple(seen))


def _shows_all(*_: Any) -> bool:
    return True


def _newest_by_the_clock(accept: Any, intake: Intake, entry: Entry) -> None:
    newest: dict[str, int] = intake.__dict__.setdefault("newest", {})
    if entry.event is not None:
        if entry.event.read_ms < newest.get(entry.master, 0):
            return
        newest[entry.master] = entry.event.read_ms
    accept(intake, entry)


async def _publish_anew(_: Any, watcher: Watcher) -> None:
    while watcher._outbox:
        entry, event = watcher._outbox[0]
        try:
            await watcher._stream.publish(watcher.name, entry, event)
        except StoreError:
            later = [(each.next, event) for each, event in watcher._outbox]
            watcher._outbox.clear()
            watcher._outbox.extend(later)
            watcher._last = watcher._last.next
            raise
        watcher._outbox.popleft()


def _nobodys(*_: Any, **__: Any) -> None:
    pass


def _by_ticket_or_tag(link: Link, leg: Leg, cut: Cut | None, book: Book, owned: dict[int, str]) -> Position | None:
    del link, cut
    mine = [p for p in book.positions if owned.get(p.ticket, leg.tag) == leg.tag]
    return next((p for p in mine if (leg.ticket and p.ticket == leg.ticket) or p.tag == leg.tag), None)


MUTANTS = (
    Mutant(
        "no intent",
        "an order leaves before it is journaled",
        both(instead(Memory, "save", _believe_only), instead(Express, "_depart", _fly_first)),
        (JOURNALED,),
        flavours.KILLED,
    ),
    Mutant(
        "blind retry",
        "an order without an answer is sent again",
        instead(Orders, "_open", _retry_blindly),
        (DOUBLED,),
        flavours.UNANSWERED,
    ),
    Mutant(
        "no dedupe",
        "an open that is delivered again is opened again (snapshots off)",
        instead(Intake, "accept", _every_delivery_counts),
        (DOUBLED,),
        flavours.EDGES,
    ),
    Mutant(
        "acknowledge first",
        "a change counts as read before what it asks for is kept (snapshots off)",
        instead(Ledger, "append", _read_before_done),
        (CLOSED, VOLUME),
        flavours.EDGES,
    ),
    Mutant(
        "no fence",
        "the journal takes what a former owner writes",
        instead(Leases, "expect", _nobody_is_fenced),
        (OWNER,),
        flavours.FROZEN,
    ),
    Mutant(
        "lower token accepted",
        "a far end trades for a former owner",
        instead(PaperGateway, "_admit", _any_token),
        (OWNER,),
        flavours.FROZEN,
    ),
    Mutant("close once", "a close is sent once", instead(Orders, "finish_cut", _close_once), (CLOSED,), flavours.REFUSED),
    Mutant(
        "relative reduction",
        "a reduction without an answer takes its lots off again",
        instead(Orders, "cut_leg", _take_off_again),
        (VOLUME,),
        flavours.UNANSWERED,
    ),
    Mutant(
        "no empty guard",
        "what one read misses is gone",
        instead(Watcher, "_gone", _empty_is_flat),
        (DOUBLED, VOLUME),
        flavours.EMPTY,
    ),
    Mutant(
        "raw read as snapshot",
        "a snapshot says what the last read showed",
        both(instead(Watcher, "_positions", _keep_raw), instead(Watcher, "_snapshot", _raw_snapshot)),
        (VOLUME, CLOSED),
        flavours.EMPTY,
    ),
    Mutant(
        "stale view accepted",
        "a list is believed although it may be late",
        instead(Book, "settled", _shows_all),
        (VOLUME, CLOSED),
        flavours.LAGGING,
    ),
    Mutant(
        "as-of by wall clock",
        "an entry counts as older by the time its read was taken at",
        instead(Intake, "accept", _newest_by_the_clock),
        (CLOSED, VOLUME),
        flavours.MOVED,
    ),
    Mutant("no snapshot", "only changes are published", edges_only, (CLOSED, VOLUME), flavours.FORGETFUL),
    Mutant(
        "no recovery of sending",
        "a new owner takes orders on their way for what they were",
        replaced("copier.follower._taken_over", _as_it_was),
        (REST, VOLUME),
        flavours.KILLED,
    ),
    Mutant(
        "new id on retry",
        "a lost reply is answered by saying the event under the next id",
        instead(Watcher, "_publish", _publish_anew),
        (ONCE,),
        flavours.REPLIES,
    ),
    Mutant(
        "absence by tag only",
        "an order whose tag is nowhere was not executed",
        replaced("copier.leveller.adopt", _nobodys),
        (CLOSED, VOLUME),
        flavours.STRIPPED,
    ),
    Mutant(
        "no MT4 ticket fold",
        "what a partial close leaves is not known again by its chain",
        replaced("copier.reconcile._position_of", _by_ticket_or_tag),
        (CLOSED, VOLUME),
        flavours.TICKETS,
    ),
    Mutant(
        "limits without in-flight",
        "orders without an answer count in no limit",
        instead(Holdings, "_of_link", _open_only),
        (LIMIT,),
        flavours.LIMITED,
    ),
)
