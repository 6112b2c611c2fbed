"""Who owns what: roles with a token that grows with every owner, the journal's check that they are still held, and leases.

A worker's lease is one row whose beat grows. No clocks of machines are compared: whoever wants to take over must have seen one
beat stand still for the whole lease, by its own clock; the holder stops before, by its own.
"""

import asyncio
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec
import sqlalchemy as sa

from copier import database as db
from copier.database import Database, upsert
from copier.errors import Fenced
from copier.model import Record

WORKER = "worker:"
FOLLOWER = "follower:"
"""What the role of one follower begins with; a process may lose one of these and go on with the others."""
_FENCE_LOCK = 0x6D74636F70696573


class RolesLost(Fenced):
    """Some roles of this owner are another's now; `roles` are those."""

    def __init__(self, message: str, roles: Collection[str]) -> None:
        self.roles = frozenset(roles)
        super().__init__(message)


class LeaseLost(Fenced):
    """Others have taken this worker for dead and may hold its followers: drop them all, then join anew."""


class Seat(Record, frozen=True, kw_only=True):
    """A worker as it stands in the ledger."""

    owner: str
    name: str
    beat: int
    lease_ms: int
    only: tuple[str, ...]
    """The followers it was pinned to; none is any."""
    at_ms: int
    """Its last beat, by its own clock: for people."""


class Holder(Record, frozen=True, kw_only=True):
    """Who holds a follower; nobody where the owner is empty."""

    owner: str
    token: int


class Sight(Record, frozen=True, kw_only=True):
    """All workers and who holds which follower, at one moment."""

    seats: dict[str, Seat]
    """By owner."""
    holders: dict[str, Holder]
    """By follower."""

    def holder(self, follower: str) -> Seat | None:
        """Return the worker that holds a follower, if it is one."""
        found = self.holders.get(follower)
        return None if found is None else self.seats.get(found.owner)


class Term:
    """How long this process may still trade, on its own clock that only goes forward; for ever where it has no lease."""

    def __init__(self) -> None:
        self._ends_s = math.inf

    @property
    def left_s(self) -> float:
        """Seconds until it must not trade any more; 0 and less is over."""
        return self._ends_s - asyncio.get_running_loop().time() if math.isfinite(self._ends_s) else math.inf

    def end_at(self, loop_s: float) -> None:
        """Last until this moment of the running loop's clock."""
        self._ends_s = loop_s


class Leases:
    """The roles of one owner (a watcher or worker process).

    What is held is changed where the database is written, in its one thread, so that a record and the look at who may write
    it never disagree.
    """

    def __init__(self, database: Database, owner: str) -> None:
        self.owner = owner
        self._database = database
        self._held: dict[str, int] = {}
        self._replaced = False
        """The role of the whole process is another's now: nothing may be written any more."""
        self._named = False
        """This process has been the worker of its name before: it does not take the name from whoever has it now."""

    @property
    def held(self) -> Mapping[str, int]:
        """The token of every role held."""
        return dict(self._held)

    async def take(self, names: Sequence[str]) -> dict[str, int]:
        """Become the owner of these roles; return each one's new token, higher than any before, durable already."""

        def work(connection: sa.Connection) -> dict[str, int]:
            lock(connection, "pg_advisory_xact_lock", _FENCE_LOCK)
            if not self._held:  # Whoever had this name before, such as the process that we replace, holds nothing any more.
                connection.execute(sa.update(db.roles).where(db.roles.c.owner == self.owner).values(owner=""))
            known: dict[str, int] = {}
            for chunk in chunks(names):
                rows = connection.execute(sa.select(db.roles.c.role, db.roles.c.token).where(db.roles.c.role.in_(chunk)))
                known |= {role: token for role, token in rows}
            tokens = {name: known.get(name, 0) + 1 for name in names}
            upsert(connection, db.roles, [{"role": n, "token": t, "owner": self.owner} for n, t in tokens.items()])
            self._held |= tokens
            return tokens

        return await self._database.run(work)

    async def release(self, names: Sequence[str]) -> None:
        """Give these roles up: whoever wants them may take them at once. Raise `StoreError`."""

        def work(connection: sa.Connection) -> None:
            mine = (db.roles.c.role == sa.bindparam("name")) & (db.roles.c.token == sa.bindparam("held"))
            given = [{"name": name, "held": self._held[name]} for name in names if name in self._held]
            if given:
                connection.execute(sa.update(db.roles).where(mine, db.roles.c.owner == self.owner).values(owner=""), given)

        await self._database.run(work)
        for name in names:  # Only now: what may not have been given up must be given up again.
            self._held.pop(name, None)

    async def join(self, name: str, *, lease_ms: int, only: Sequence[str], at_ms: int) -> None:
        """Begin as the worker of this name, holding no follower yet; whoever had the name before holds nothing any more.

        A process that begins takes the name from an older one; one that begins anew does not take it back. Raise `Fenced` then.
        """

        def work(connection: sa.Connection) -> None:
            lock(connection, "pg_advisory_xact_lock", _FENCE_LOCK)
            role = f"{WORKER}{name}"
            before = connection.execute(sa.select(db.roles).where(db.roles.c.role == role)).one_or_none()
            if self._named and before is not None and before.owner not in ("", self.owner):
                raise _named_alike(name)
            for owner in {self.owner} if before is None else {self.owner, before.owner}:
                connection.execute(sa.update(db.roles).where(db.roles.c.owner == owner).values(owner=""))
            connection.execute(sa.delete(db.workers).where((db.workers.c.name == name) | (db.workers.c.owner == self.owner)))
            token = 1 if before is None else before.token + 1
            upsert(connection, db.roles, [{"role": role, "token": token, "owner": self.owner}])
            pins = msgspec.json.encode(sorted(only)).decode()
            row = {"owner": self.owner, "name": name, "beat": 1, "lease_ms": lease_ms, "only": pins, "at_ms": at_ms}
            connection.execute(sa.insert(db.workers).values(row))
            self._held, self._replaced, self._named = {role: token}, False, True

        await self._database.run(work)

    async def renew(self, name: str, at_ms: int) -> None:
        """Let the worker's beat grow. Raise `LeaseLost` where others took it for dead, `Fenced` where its name is another's."""

        def work(connection: sa.Connection) -> None:
            mine = db.workers.c.owner == self.owner
            grown = connection.execute(sa.update(db.workers).where(mine).values(beat=db.workers.c.beat + 1, at_ms=at_ms))
            owner = connection.scalar(sa.select(db.roles.c.owner).where(db.roles.c.role == f"{WORKER}{name}"))
            if owner != self.owner:
                raise _named_alike(name)
            if not grown.rowcount:
                raise LeaseLost(f"worker {name}: it was silent for its whole lease, and others have taken its followers")

        await self._database.run(work)

    async def look(self) -> Sight:
        """Return who is there and who holds what. Raise `StoreError`."""

        def work(connection: sa.Connection) -> Sight:
            roles = connection.execute(sa.select(db.roles).where(db.roles.c.role.startswith(FOLLOWER, autoescape=True)))
            holders = {row.role.removeprefix(FOLLOWER): Holder(owner=row.owner, token=row.token) for row in roles}
            rows = connection.execute(sa.select(db.workers).order_by(db.workers.c.name)).mappings()
            return Sight(seats={row["owner"]: _seat(row) for row in rows}, holders=holders)

        return await self._database.run(work)

    async def claim(self, wanted: Mapping[str, Holder | None], silent: Collection[Seat]) -> dict[str, int]:
        """Take those of these followers that nobody holds, or whoever was seen holding them; return their new tokens.

        `silent` are workers whose beat has stood still for their whole lease: unless it has grown meanwhile, they hold nothing
        any more, and learn it when they wake. Raise `StoreError`.
        """

        def work(connection: sa.Connection) -> dict[str, int]:
            lock(connection, "pg_advisory_xact_lock", _FENCE_LOCK)
            if connection.scalar(sa.select(db.workers.c.beat).where(db.workers.c.owner == self.owner)) is None:
                raise LeaseLost(f"{self.owner} was silent for its whole lease, and others have taken its followers")
            for seat in silent:
                same = (db.workers.c.owner == seat.owner) & (db.workers.c.beat == seat.beat)
                if connection.execute(sa.delete(db.workers).where(same)).rowcount:
                    theirs = (db.roles.c.owner == seat.owner) & db.roles.c.role.startswith(FOLLOWER, autoescape=True)
                    connection.execute(sa.update(db.roles).where(theirs).values(owner=""))
            known: dict[str, Holder] = {}
            for chunk in chunks([f"{FOLLOWER}{name}" for name in wanted]):
                for row in connection.execute(sa.select(db.roles).where(db.roles.c.role.in_(chunk))):
                    known[row.role.removeprefix(FOLLOWER)] = Holder(owner=row.owner, token=row.token)
            free = [name for name, seen in wanted.items() if name not in known or not known[name].owner or known[name] == seen]
            tokens = {name: known[name].token + 1 if name in known else 1 for name in free}
            rows = [{"role": f"{FOLLOWER}{name}", "token": token, "owner": self.owner} for name, token in tokens.items()]
            upsert(connection, db.roles, rows)
            self._held |= {f"{FOLLOWER}{name}": token for name, token in tokens.items()}
            return tokens

        return await self._database.run(work)

    async def leave(self) -> None:
        """Give everything up and be no worker any more. Raise `StoreError`."""
        await self.release(list(self._held))
        await self._database.run(lambda on: on.execute(sa.delete(db.workers).where(db.workers.c.owner == self.owner)))

    def expect(self, connection: sa.Connection, needed: Iterable[str]) -> None:
        """Raise `RolesLost` where one of these roles is not held any more, `Fenced` where the whole process was replaced.

        No owner can begin until the transaction ends.
        """
        lock(connection, "pg_advisory_xact_lock_shared", _FENCE_LOCK)
        mine = db.roles.c.owner == self.owner
        held, tokens = connection.execute(sa.select(sa.func.count(), sa.func.sum(db.roles.c.token)).where(mine)).one()
        if (held, int(tokens or 0)) != (len(self._held), sum(self._held.values())):
            still = {role: token for role, token in connection.execute(sa.select(db.roles.c.role, db.roles.c.token).where(mine))}
            for role in [role for role, token in self._held.items() if still.get(role) != token]:
                self._replaced |= not role.startswith(FOLLOWER)
                del self._held[role]
        if self._replaced:
            raise Fenced(f"{self.owner} was replaced by another of its name")
        lost = sorted(set(needed) - self._held.keys())
        if lost:
            raise RolesLost(f"{self.owner} no longer holds {', '.join(lost[:3])}: another owner has taken over", lost)


def _named_alike(name: str) -> Fenced:
    return Fenced(f"worker {name}: another owner has taken over its name: every worker needs one of its own")


def _seat(row: sa.RowMapping) -> Seat:
    only = msgspec.json.decode(row["only"], type=tuple[str, ...])
    return Seat(**{**row, "only": only})


def lock(connection: sa.Connection, how: str, what: int) -> None:
    """Take a lock until the transaction ends, where many may write at once; SQLite lets in one writer at a time anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"SELECT {how}({what})"))


def chunks(names: Sequence[str], size: int = 500) -> Iterable[Sequence[str]]:
    """Return the names in parts that fit into one statement."""
    return (names[start : start + size] for start in range(0, len(names), size))
