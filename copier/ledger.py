"""The ledger: a journal of what was intended and done, durable before any order leaves, and the tables folded from it.

One append is one durable row, however many followers it speaks of. Every entry is absolute (the newest of a link, a reading
position, a fact replaces all before it), so that folding the journal again changes nothing. The tables of links, readings and
receipts are projections for people and for a fast start; they are brought up to date beside the path.
"""

import asyncio
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import msgspec
import sqlalchemy as sa

from copier import audit, wire
from copier import database as db
from copier.clock import Clock
from copier.database import Database, insert_many, list_owner, may_write, upsert
from copier.diff import View
from copier.durations import Durations
from copier.errors import Fenced
from copier.leases import FOLLOWER, Leases, RolesLost, chunks, lock
from copier.link import Link
from copier.model import Receipt, Record

TOMBSTONES_MS = 15 * 60 * 1000
"""Links that ended are known for so long, so that a late duplicate finds them closed; what is older is too old to be copied."""
PROJECTED_AT_ONCE = 400
"""Entries brought into the tables in one transaction, about 10 ms of work: whoever has a record to write waits no longer."""
TRIMMED_AT_ONCE = 200
"""Rows dropped in one transaction."""
ROWS_AT_ONCE = 50
"""Journal rows looked at for that."""
BEHIND_MAX = 20_000
"""While more entries than this are not in the tables, nobody rests: they are kept in memory until then."""
ROW_BYTES_MAX = 1_000_000
"""What many append at the same moment is written in rows of at most so much: a reader takes four times that and no more."""
ROW_ENTRIES_MAX = 1_000
"""Mostly a row of so many entries is within that, and nothing has to be encoded twice."""
_PROJECTION_LOCK = 0x6D74636F70696572


class LinkKept(Record, frozen=True, kw_only=True, tag="link", tag_field="t"):
    """The newest state of one link."""

    link: Link


class ReadingKept(Record, frozen=True, kw_only=True, tag="reading", tag_field="t"):
    """A follower has taken in everything of a master up to here (`epoch-sequence`)."""

    follower: str
    master: str
    entry: str


class FactKept(Record, frozen=True, kw_only=True, tag="fact", tag_field="t"):
    """A small state that must survive: a limit's period and reference, a rounding residue."""

    follower: str
    name: str
    body: msgspec.Raw


class ReceiptKept(Record, frozen=True, kw_only=True, tag="receipt", tag_field="t"):
    """Why something was done or not."""

    receipt: Receipt


JournalEntry = LinkKept | ReadingKept | FactKept | ReceiptKept


class Remembered(msgspec.Struct, kw_only=True):
    """What a worker reads back at its start, folded."""

    links: dict[str, dict[tuple[str, str], Link]] = {}
    """By follower, then by master and key."""
    readings: dict[tuple[str, str], str] = {}
    """Follower and master -> entry id."""
    facts: dict[tuple[str, str], bytes] = {}
    """Follower and name -> body."""


class Ledger:
    """The journal and its tables, for one owner (a watcher or worker process)."""

    def __init__(self, database: Database, clock: Clock, owner: str, *, audit_key: bytes = b"") -> None:
        self._database = database
        self._clock = clock
        self.owner = owner
        self._audit_key = audit_key
        self.leases = Leases(database, owner)
        self._waiting: list[tuple[Sequence[JournalEntry], asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._unprojected: list[tuple[int, list[JournalEntry]]] = []
        self._listed = False
        """The tables know of this owner, so that its rows are looked for."""
        self._newest: dict[tuple[str, str, str], int] = {}
        """In which of those rows the newest of each link stands."""
        self.commits = Durations()
        """How long it took until entries were durable."""
        self.failures = 0
        """How many records could not be written."""

    async def take(self, names: Sequence[str]) -> dict[str, int]:
        """Become the owner of these roles; return each one's new token, higher than any before, durable already."""
        return await self.leases.take(names)

    async def load(self, followers: Collection[str]) -> Remembered:
        """Return all that is remembered of these followers: the tables, and the journal after them."""

        def work(connection: sa.Connection) -> Remembered:
            self._project(connection, self._journal_after(connection))
            return self._remembered(connection, sorted(followers))

        return await self._database.run(work)

    def _remembered(self, connection: sa.Connection, followers: list[str]) -> Remembered:
        remembered = Remembered(links={follower: {} for follower in followers}, readings={}, facts={})
        recent = self._clock.now_ms() - TOMBSTONES_MS
        for chunk in chunks(followers):
            wanted = db.links.c.follower.in_(chunk) & (db.links.c.living | (db.links.c.at_ms >= recent))
            for (body,) in connection.execute(sa.select(db.links.c.body).where(wanted)):
                link = wire.decode(body, Link)
                remembered.links[link.follower][link.name] = link
            for row in connection.execute(sa.select(db.readings).where(db.readings.c.follower.in_(chunk))):
                remembered.readings[row.follower, row.master] = row.entry
            for row in connection.execute(sa.select(db.facts).where(db.facts.c.follower.in_(chunk))):
                remembered.facts[row.follower, row.name] = row.body
        return remembered

    async def append(self, entries: Sequence[JournalEntry]) -> None:
        """Return once the entries are durable; those of all who call meanwhile share one row.

        Raise `StoreError`, after which nothing may be sent on their strength, or `Fenced`, after which nothing at all.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((entries, done))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush(), name="ledger flush")
        await done

    async def _flush(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                began_s = asyncio.get_running_loop().time()
                try:
                    await self._write([entry for entries, _ in batch for entry in entries])
                except RolesLost as lost:
                    # Those whose role is another's now leave; nobody else is held up by them.
                    again = [each for each in batch if not lost.roles & _roles_of(each[0])]
                    for entries, done in batch:
                        if lost.roles & _roles_of(entries) and not done.done():
                            done.set_exception(lost)
                    self._waiting = again + self._waiting
                except Exception as error:
                    self.failures += 1
                    for _, done in batch:
                        if not done.done():
                            done.set_exception(error)
                else:
                    self.commits.add(asyncio.get_running_loop().time() - began_s)
                    for _, done in batch:
                        if not done.done():
                            done.set_result(None)
        finally:
            self._flushing = None

    async def _write(self, entries: list[JournalEntry]) -> None:
        parts = list(_rows_of(entries))
        now = self._clock.now_ms()
        needed = _roles_of(entries)

        def work(connection: sa.Connection) -> list[int]:
            self.leases.expect(connection, needed)
            if not self._listed:
                list_owner(connection, self.owner)
            written = []
            for _, body in parts:
                row = connection.execute(sa.insert(db.journal).values(owner=self.owner, at_ms=now, body=body))
                (seq,) = row.inserted_primary_key or (0,)
                written.append(int(seq))
            return written

        written = await self._database.run(work)
        self._listed = True
        for seq, (part, _) in zip(written, parts, strict=True):
            self._unprojected.append((seq, part))
            self._newest |= {_id_of(entry.link): seq for entry in part if isinstance(entry, LinkKept)}

    @property
    def behind(self) -> int:
        """How many entries are journaled but not in the tables yet."""
        return sum(len(entries) for _, entries in self._unprojected)

    async def project(self, rest: float = 0.0) -> None:
        """Bring the tables up to date with what this owner has journaled.

        The others do that with theirs. Nobody's rows come too late: who takes a follower over brings everything up to date first.
        `rest` is how many times as long as each step took the database is then left to those with records to write.
        """
        if self._unprojected:
            await self._bring(self.owner, self._unprojected[-1][0], rest)

    async def catch_up(self) -> None:
        """Bring the tables up to date with every owner's journal: what faces do before they read."""
        await self._bring(None)

    async def _bring(self, owner: str | None, newest: int | None = None, rest: float = 0.0) -> None:
        """Bring the tables up to date with an owner's rows up to this one; with everyone's, and all of them, where not said."""
        seen = self._unprojected[-1][0] if self._unprojected else 0

        def work(connection: sa.Connection) -> int | None:
            if not may_write(connection, db.links):  # Who may only read sees what the engine has brought up to date.
                return None
            rows = self._journal_after(connection, PROJECTED_AT_ONCE, owner, newest)
            self._project(connection, rows, {} if newest is None else self._newest)
            return max((seq for seq, writer, _ in rows if writer == self.owner), default=0) if rows else None

        loop = asyncio.get_running_loop()
        began_s = loop.time()
        # Between two steps whoever has something to make durable has his turn.
        while (done := await self._database.run_beside(work)) is not None:
            self._have_projected(done)
            if self.behind < BEHIND_MAX:
                await asyncio.sleep(rest * (loop.time() - began_s))
            began_s = loop.time()
        self._have_projected(seen)

    def _have_projected(self, newest: int) -> None:
        done = [each for each in self._unprojected if each[0] <= newest]
        self._unprojected = self._unprojected[len(done) :]
        for seq, entries in done:
            for entry in entries:
                if isinstance(entry, LinkKept) and self._newest.get(_id_of(entry.link)) == seq:
                    del self._newest[_id_of(entry.link)]

    def _journal_after(
        self, connection: sa.Connection, entries_max: float = math.inf, owner: str | None = None, newest: int | None = None
    ) -> list[tuple[int, str, list[JournalEntry]]]:
        """Return what is journaled and not in the tables, oldest first, up to the row with which it is so many entries."""
        lock(connection, "pg_advisory_xact_lock", _PROJECTION_LOCK)
        rows: list[tuple[int, str]] = []
        reached: float = math.inf
        for writer, done in _behind(connection, owner):
            query = sa.select(db.journal.c.seq).where(db.journal.c.owner == writer, db.journal.c.seq > done)
            if newest is not None:
                query = query.where(db.journal.c.seq <= newest)
            if entries_max < math.inf:
                query = query.limit(ROWS_AT_ONCE)
            seqs = connection.scalars(query.order_by(db.journal.c.seq)).all()
            if entries_max < math.inf and len(seqs) == ROWS_AT_ONCE:
                reached = min(reached, seqs[-1])  # Later rows of another may only follow those of this one that come next.
            rows += [(seq, writer) for seq in seqs]
        own = dict(self._unprojected)
        found: list[tuple[int, str, list[JournalEntry]]] = []
        entries = 0
        for seq, writer in sorted(rows):
            if seq > reached or entries >= entries_max:
                break
            found.append((seq, writer, own.get(seq) or _read(connection, seq)))
            entries += len(found[-1][2])
        return found

    def _project(
        self,
        connection: sa.Connection,
        rows: list[tuple[int, str, list[JournalEntry]]],
        newest_of: Mapping[tuple[str, str, str], int] = MappingProxyType({}),
    ) -> None:
        """Bring rows into the tables; a link of which a later row tells by `newest_of` is left to that row."""
        if not rows:
            return
        last = rows[-1][0]
        entries = [entry for _, _, batch in rows for entry in batch]
        now = self._clock.now_ms()
        links = {_id_of(kept.link): kept.link for kept in entries if isinstance(kept, LinkKept)}
        links = {name: link for name, link in links.items() if newest_of.get(name, 0) <= last}
        readings = {(kept.follower, kept.master): kept.entry for kept in entries if isinstance(kept, ReadingKept)}
        facts = {(kept.follower, kept.name): bytes(kept.body) for kept in entries if isinstance(kept, FactKept)}
        receipts = [kept.receipt for kept in entries if isinstance(kept, ReceiptKept)]
        upsert(connection, db.links, [_link_row(link, now) for link in links.values()])
        upsert(connection, db.readings, [{"follower": f, "master": m, "entry": e} for (f, m), e in readings.items()])
        upsert(connection, db.facts, [{"follower": f, "name": n, "body": b} for (f, n), b in facts.items()])
        insert_many(connection, db.receipts, [_receipt_row(receipt) for receipt in receipts])
        newest = {owner: seq for seq, owner, _ in rows}
        upsert(connection, db.projected, [{"owner": owner, "seq": seq} for owner, seq in newest.items()])

    async def save_view(self, master: str, epoch: int, view: View) -> None:
        """Keep a watcher's confirmed view. Raise `Fenced` where a later epoch has begun, whether or not it has kept one yet."""

        def work(connection: sa.Connection) -> None:
            begun = connection.scalar(sa.select(db.roles.c.token).where(db.roles.c.role == f"watcher:{master}"))
            if begun is not None and begun > epoch:
                raise Fenced(f"watcher of {master}: epoch {epoch} is over, {begun} has begun")
            upsert(connection, db.views, [{"master": master, "epoch": epoch, "body": wire.encode(view)}])

        await self._database.run(work)

    async def load_view(self, master: str) -> View | None:
        """Return what the last watcher of this master had confirmed, None for a master never watched."""
        body = await self._database.run(
            lambda connection: connection.scalar(sa.select(db.views.c.body).where(db.views.c.master == master))
        )
        return None if body is None else wire.decode_kept(body, View)

    async def set_control(self, scope: str, control: str, by: str) -> None:
        """Set what a person wants of `*`, a follower, or `follower/master`: live, close_only, frozen or flatten."""
        now = self._clock.now_ms()

        def work(connection: sa.Connection) -> None:
            upsert(connection, db.controls, [{"scope": scope, "control": control, "at_ms": now, "by": by}])
            told = {"scope": scope, "control": control}
            audit.append(connection, self._audit_key, at_ms=now, who=by, what=audit.CONTROL, detail=told)

        await self._database.run(work)

    async def controls(self) -> dict[str, str]:
        """Return every control that is set, by scope."""
        rows = await self._database.run(
            lambda connection: connection.execute(sa.select(db.controls.c.scope, db.controls.c.control)).all()
        )
        return {scope: control for scope, control in rows}

    async def links(self, *, living: bool = True) -> list[Link]:
        """Return the links in the tables, living ones or all."""
        await self.catch_up()
        query = sa.select(db.links.c.body).order_by(db.links.c.follower, db.links.c.master, db.links.c.key)
        if living:
            query = query.where(db.links.c.living)
        rows = await self._database.run(lambda connection: connection.execute(query).all())
        return [wire.decode(body, Link) for (body,) in rows]

    async def receipts(self, *, follower: str | None = None, after_id: int = 0, newest: int | None = None) -> list[Receipt]:
        """Return receipts, oldest first: those after an id, or the newest few."""
        await self.catch_up()
        query = sa.select(db.receipts.c.body).where(db.receipts.c.id > after_id)
        if follower is not None:
            query = query.where(db.receipts.c.follower == follower)
        query = query.order_by(db.receipts.c.id) if newest is None else query.order_by(db.receipts.c.id.desc()).limit(newest)
        rows = await self._database.run(lambda connection: connection.execute(query).all())
        found = [wire.decode(body, Receipt) for (body,) in rows]
        return found if newest is None else found[::-1]

    async def trim(self, before_ms: int) -> int:
        """Forget journal rows, receipts and ended links older than this, once they stand in the tables; return how many."""
        await self.catch_up()
        ended = ~db.links.c.living & (db.links.c.at_ms < before_ms)
        dropped = await self._database.run_beside(
            lambda connection: connection.execute(sa.delete(db.links).where(ended)).rowcount
        )
        in_tables = sa.exists().where(db.projected.c.owner == db.journal.c.owner, db.projected.c.seq >= db.journal.c.seq)
        dropped += await self._drop_oldest(db.journal.c.seq, (db.journal.c.at_ms < before_ms) & in_tables)
        return dropped + await self._drop_oldest(db.receipts.c.id, db.receipts.c.at_ms < before_ms)

    async def _drop_oldest(self, number: sa.Column[int], old: sa.ColumnElement[bool]) -> int:
        """Drop old rows of a table, the first first and a few at a time: who has a record to write waits no longer than that."""
        rows = number.table

        def work(connection: sa.Connection) -> int:
            first = connection.scalars(sa.select(number).order_by(number).limit(TRIMMED_AT_ONCE)).all()
            return connection.execute(sa.delete(rows).where(number <= first[-1], old)).rowcount if first else 0

        dropped = count = await self._database.run_beside(work)
        while count == TRIMMED_AT_ONCE:
            count = await self._database.run_beside(work)
            dropped += count
        return dropped


def _roles_of(entries: Iterable[JournalEntry]) -> set[str]:
    return {f"{FOLLOWER}{name}" for name in {_follower_of(entry) for entry in entries}}


def _follower_of(entry: JournalEntry) -> str:
    match entry:
        case LinkKept():
            return entry.link.follower
        case ReceiptKept():
            return entry.receipt.follower
        case ReadingKept() | FactKept():
            return entry.follower


def _behind(connection: sa.Connection, owner: str | None) -> list[tuple[str, int]]:
    """Return whose rows are not all in the tables, and up to where they are; one owner's where it is asked for.

    Per owner, as on a server with many writers a lower number may become visible after a higher one; and never by looking
    through the journal, which holds a year.
    """
    if owner is not None:
        return [(owner, connection.scalar(sa.select(db.projected.c.seq).where(db.projected.c.owner == owner)) or 0)]
    later = sa.exists().where(db.journal.c.owner == db.projected.c.owner, db.journal.c.seq > db.projected.c.seq)
    return [(each, done) for each, done in connection.execute(sa.select(db.projected.c.owner, db.projected.c.seq).where(later))]


def _read(connection: sa.Connection, seq: int) -> list[JournalEntry]:
    """Return what a row of the journal holds; rows of our own are still in memory and need not be fetched."""
    body = connection.scalar(sa.select(db.journal.c.body).where(db.journal.c.seq == seq))
    return wire.decode_kept(body or b"[]", list[JournalEntry])


def _rows_of(entries: list[JournalEntry]) -> Iterator[tuple[list[JournalEntry], bytes]]:
    """Yield entries in as many rows as it takes that each can be read back; all of them become durable together."""
    for first in range(0, len(entries), ROW_ENTRIES_MAX):
        yield from _halved(entries[first : first + ROW_ENTRIES_MAX])


def _halved(entries: list[JournalEntry]) -> Iterator[tuple[list[JournalEntry], bytes]]:
    body = wire.encode(entries)
    if len(body) <= ROW_BYTES_MAX or len(entries) == 1:
        yield entries, body
        return
    half = len(entries) // 2
    yield from _halved(entries[:half])
    yield from _halved(entries[half:])


def _id_of(link: Link) -> tuple[str, str, str]:
    return (link.follower, link.master, link.key)


def _link_row(link: Link, now: int) -> dict[str, object]:
    return {
        "follower": link.follower,
        "master": link.master,
        "key": link.key,
        "living": link.living,
        "at_ms": now,
        "body": wire.encode(link),
    }


def _receipt_row(receipt: Receipt) -> dict[str, object]:
    return {
        "at_ms": receipt.at_ms,
        "follower": receipt.follower,
        "master": receipt.master,
        "key": receipt.key,
        "verdict": receipt.verdict.value,
        "code": receipt.code,
        "symbol": receipt.symbol,
        "body": wire.encode(receipt),
    }
