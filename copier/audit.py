"""The audit: which settings were loaded and which controls given, by whom and when, each entry chained to the one before it.

An entry's hash covers its content and the hash before it, so that a change, an insertion or a deletion in the middle breaks the
chain. With a key the hash is an HMAC: who can write to the database and does not know the key cannot mend the chain either.
Entries cut off at the end leave no break; only a head that was noted elsewhere, or a control without its entry, shows them.
"""

import getpass
import hashlib
import hmac
import logging
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from copier import database as db
from copier import wire
from copier.database import Database
from copier.errors import ProtocolError
from copier.leases import lock
from copier.model import Record

log = logging.getLogger(__name__)

CONTROL = "control"
SETTINGS = "settings"
_START = "0" * 64
_AUDIT_LOCK = 0x6D74636F70696574


class AuditEntry(Record, frozen=True, kw_only=True):
    """One thing that was set, for ever."""

    seq: int
    """From 1, without gaps."""
    at_ms: int
    who: str
    what: str
    """`settings` or `control`."""
    detail: dict[str, Any]
    keyed: bool
    """The hash is made with the key."""
    hash: str


def person() -> str:
    """Return who runs this process, as user@machine."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def append(connection: sa.Connection, key: bytes, *, at_ms: int, who: str, what: str, detail: Mapping[str, Any]) -> None:
    """Append an entry within a transaction: it is there exactly if what it tells of is."""
    lock(connection, "pg_advisory_xact_lock", _AUDIT_LOCK)
    last = connection.execute(sa.select(db.audit.c.seq, db.audit.c.hash).order_by(db.audit.c.seq.desc()).limit(1)).first()
    seq, before = (int(last.seq) + 1, str(last.hash)) if last else (1, _START)
    body = wire.encode(dict(detail))
    found = _hash(key, before, seq, at_ms, who, what, body)
    row = {"seq": seq, "at_ms": at_ms, "who": who, "what": what, "detail": body, "keyed": bool(key), "hash": found}
    connection.execute(sa.insert(db.audit).values(row))
    log.info("audit: entry %d:%s", seq, found)


def _hash(key: bytes, before: str, seq: int, at_ms: int, who: str, what: str, body: bytes) -> str:
    # Fields are JSON, so that none can be moved over into its neighbour.
    content = wire.encode([before, seq, at_ms, who, what, body.hex(), bool(key)])
    return (hmac.new(key, content, hashlib.sha256) if key else hashlib.sha256(content)).hexdigest()


class Audit:
    """The chain in the ledger's database."""

    def __init__(self, database: Database, key: bytes = b"") -> None:
        self._database = database
        self._key = key

    async def loaded(self, settings: Mapping[str, Any], *, role: str, at_ms: int) -> None:
        """Note that settings (to show: without secrets) were loaded, in full where they are not those of last time."""
        digest = hashlib.sha256(msgspec.json.encode(settings, order="sorted")).hexdigest()
        who = person()

        def work(connection: sa.Connection) -> None:
            query = sa.select(db.audit.c.detail).where(db.audit.c.what == SETTINGS).order_by(db.audit.c.seq.desc()).limit(1)
            last = connection.scalar(query)
            detail: dict[str, Any] = {"role": role, "digest": digest}
            if last is None or wire.decode(last, dict[str, Any]).get("digest") != digest:
                detail["settings"] = dict(settings)
            append(connection, self._key, at_ms=at_ms, who=who, what=SETTINGS, detail=detail)

        await self._database.run(work)

    async def entries(self) -> list[AuditEntry]:
        """Return every entry, oldest first. Raise `StoreError`."""
        rows = await self._database.run(lambda connection: connection.execute(sa.select(db.audit).order_by(db.audit.c.seq)).all())
        return [
            AuditEntry(
                seq=row.seq,
                at_ms=row.at_ms,
                who=row.who,
                what=row.what,
                detail=_detail(row.detail),
                keyed=row.keyed,
                hash=row.hash,
            )
            for row in rows
        ]

    async def breaks(self, expected: str = "") -> list[str]:
        """Return every sign that the chain is not what was written; `expected` is a head noted elsewhere, as `seq:hash`."""

        def work(connection: sa.Connection) -> tuple[Sequence[Any], Sequence[Any]]:
            rows = connection.execute(sa.select(db.audit).order_by(db.audit.c.seq)).all()
            return rows, connection.execute(sa.select(db.controls)).all()

        rows, controls = await self._database.run(work)
        return [*self._broken(rows), *_untold(rows, controls), *_without(rows, expected)]

    async def unkeyed(self) -> int:
        """Return how many entries are not made with the key, though there is one: what they tell can have been rewritten."""
        count = sa.select(sa.func.count()).where(~db.audit.c.keyed)
        rows = await self._database.run(lambda connection: connection.execute(count).all()) if self._key else []
        return int(rows[0][0]) if rows else 0

    def _broken(self, rows: Sequence[Any]) -> list[str]:
        found, before, keyed = [], _START, False
        for place, row in enumerate(rows, start=1):
            if row.seq != place:
                found.append(f"entry {place} is missing: the next one there is {row.seq}")
                break
            if row.keyed and not self._key:
                found.append(f"entry {row.seq} was made with a key: set audit.key to verify it")
                break
            if keyed and not row.keyed:
                found.append(f"entry {row.seq} is not made with the key, and those before it are")
                break
            key = self._key if row.keyed else b""
            if not hmac.compare_digest(row.hash, _hash(key, before, row.seq, row.at_ms, row.who, row.what, _raw(row.detail))):
                found.append(f"entry {row.seq} was changed, or the one before it was")
                break
            before, keyed = row.hash, row.keyed
        return found


def _untold(rows: Sequence[Any], controls: Sequence[Any]) -> list[str]:
    """Find controls that nothing tells of: their entries were cut off, or they were written past the engine."""
    told = set()
    for row in rows:
        if row.what == CONTROL:
            detail = _detail(row.detail)
            told.add((detail.get("scope"), detail.get("control"), row.at_ms))
    return [
        f"{row.scope} is set to {row.control} and no entry tells of it"
        for row in controls
        if (row.scope, row.control, row.at_ms) not in told
    ]


def _raw(value: object) -> bytes:
    """Return what stands in a column as bytes, whatever somebody has put there."""
    return bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()


def _detail(value: object) -> dict[str, Any]:
    try:
        return wire.decode(_raw(value), dict[str, Any])
    except ProtocolError:
        return {"unreadable": True}


def _without(rows: Sequence[Any], expected: str) -> list[str]:
    if not expected or expected in {f"{row.seq}:{row.hash}" for row in rows}:
        return []
    return [f"the chain has {len(rows)} entries, and {expected} is not among them: entries were cut off or rewritten"]
