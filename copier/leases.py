"""Who owns what: roles with a token that grows with every owner, and the journal's check that they are still held."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import sqlalchemy as sa

from copier import database as db
from copier.database import Database, upsert
from copier.errors import Fenced

FOLLOWER = "follower:"
"""What the role of one follower begins with; a process may lose one of these and go on with the others."""
_FENCE_LOCK = 0x6D74636F70696573


class RolesLost(Fenced):
    """Some roles of this owner are another's now; `roles` are those."""

    def __init__(self, message: str, roles: Collection[str]) -> None:
        self.roles = frozenset(roles)
        super().__init__(message)


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
            for name in names:
                self._held.pop(name, None)

        await self._database.run(work)

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


def lock(connection: sa.Connection, how: str, what: int) -> None:
    """Take a lock until the transaction ends, where many may write at once; SQLite lets in one writer at a time anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"SELECT {how}({what})"))


def chunks(names: Sequence[str], size: int = 500) -> Iterable[Sequence[str]]:
    """Return the names in parts that fit into one statement."""
    return (names[start : start + size] for start in range(0, len(names), size))
