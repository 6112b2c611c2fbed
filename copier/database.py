"""The SQL database behind ledger and history: engine, tables, and one thread that does all the waiting for disks."""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from copier.errors import SettingsError, StoreError

log = logging.getLogger(__name__)
T = TypeVar("T")

MEMORY = "sqlite://"
"""A database in this process alone, run without a thread: for replay, shadow runs and tests in virtual time."""
BUSY_PAUSE_S = 0.002
"""SQLite's own steps go up to 100 ms: whoever slept through the other's pause waits for the next, while orders wait for him."""
CALL_TIMEOUT_S = 15.0
_TABLES_LOCK = 0x6D74636F70696570

metadata = sa.MetaData()

roles = sa.Table(
    "roles",
    metadata,
    sa.Column("role", sa.String(200), primary_key=True, comment="watcher:<master>, worker:<name> or follower:<name>"),
    sa.Column("token", sa.BigInteger, nullable=False, comment="grows with every owner; a watcher's is its epoch"),
    sa.Column("owner", sa.String(200), nullable=False, index=True),
)
workers = sa.Table(
    "workers",
    metadata,
    sa.Column("owner", sa.String(200), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("beat", sa.BigInteger, nullable=False, comment="grows as long as it lives; nobody compares clocks"),
    sa.Column("lease_ms", sa.BigInteger, nullable=False, comment="how long its followers are its own after a beat"),
    sa.Column("only", sa.Text, nullable=False, comment="the followers it was pinned to, as JSON; an empty list is any"),
    sa.Column("at_ms", sa.BigInteger, nullable=False, comment="by its own clock, for people"),
)
journal = sa.Table(
    "journal",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("owner", sa.String(200), nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False, comment="the entries of one batch, as JSON"),
    sa.Index("journal_owner", "owner", "seq"),
    sqlite_autoincrement=True,  # A number must never come again, though all rows may be trimmed: `projected` goes by it.
)
projected = sa.Table(
    "projected",
    metadata,
    sa.Column("owner", sa.String(200), primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False, comment="this owner's journal rows up to here stand in the tables below"),
    comment="every owner that has a row in the journal",
)
views = sa.Table(
    "views",
    metadata,
    sa.Column("master", sa.String(200), primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False, comment="the confirmed view, as JSON"),
)
links = sa.Table(
    "links",
    metadata,
    sa.Column("follower", sa.String(200), primary_key=True),
    sa.Column("master", sa.String(200), primary_key=True),
    sa.Column("key", sa.String(60), primary_key=True),
    sa.Column("living", sa.Boolean, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Index("links_living", "follower", "living"),
)
readings = sa.Table(
    "readings",
    metadata,
    sa.Column("follower", sa.String(200), primary_key=True),
    sa.Column("master", sa.String(200), primary_key=True),
    sa.Column("entry", sa.String(60), nullable=False),
)
facts = sa.Table(
    "facts",
    metadata,
    sa.Column("follower", sa.String(200), primary_key=True),
    sa.Column("name", sa.String(200), primary_key=True, comment="a limit's state, a rounding residue"),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
receipts = sa.Table(
    "receipts",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("at_ms", sa.BigInteger, nullable=False, index=True),
    sa.Column("follower", sa.String(200), nullable=False, index=True),
    sa.Column("master", sa.String(200), nullable=False),
    sa.Column("key", sa.String(60), nullable=False),
    sa.Column("verdict", sa.String(20), nullable=False),
    sa.Column("code", sa.String(60), nullable=False),
    sa.Column("symbol", sa.String(60), nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)
controls = sa.Table(
    "controls",
    metadata,
    sa.Column("scope", sa.String(200), primary_key=True, comment="* or a follower, or follower/master"),
    sa.Column("control", sa.String(20), nullable=False, comment="live, close_only, frozen or flatten"),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("by", sa.String(200), nullable=False),
)
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("who", sa.String(200), nullable=False),
    sa.Column("what", sa.String(20), nullable=False),
    sa.Column("detail", sa.LargeBinary, nullable=False, comment="as JSON, without secrets"),
    sa.Column("keyed", sa.Boolean, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False, comment="of this entry and the hash before it"),
)
alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("watchdog", sa.String(20), primary_key=True),
    sa.Column("subject", sa.String(200), primary_key=True),
    sa.Column("raised_ms", sa.BigInteger, primary_key=True),
    sa.Column("ended_ms", sa.BigInteger, nullable=False, index=True, comment="0 while it stands"),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
equity = sa.Table(
    "equity",
    metadata,
    sa.Column("account", sa.String(200), primary_key=True),
    sa.Column("at_ms", sa.BigInteger, primary_key=True),
    sa.Column("balance", sa.String(40), nullable=False),
    sa.Column("equity", sa.String(40), nullable=False),
    sa.Column("margin", sa.String(40), nullable=False),
    sa.Column("currency", sa.String(10), nullable=False),
)

_AUDIT_IS_KEPT = """CREATE OR REPLACE FUNCTION audit_is_kept() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the audit is only appended to'; END $$"""


@event.listens_for(audit, "after_create")
def _keep_audit(_table: sa.Table, connection: sa.Connection, **_more: Any) -> None:
    """Refuse changes of what was audited: a slip cannot rewrite it, and who can drop the trigger still breaks the chain."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_AUDIT_IS_KEPT)
    for deed in ("UPDATE", "DELETE"):
        refusal = "FOR EACH STATEMENT EXECUTE FUNCTION audit_is_kept()"
        if connection.dialect.name == "sqlite":
            refusal = "BEGIN SELECT RAISE(ABORT, 'the audit is only appended to'); END"
        connection.exec_driver_sql(f"CREATE TRIGGER audit_no_{deed.lower()} BEFORE {deed} ON audit {refusal}")


_PACKED_FAST = """DO $$ BEGIN ALTER TABLE journal ALTER COLUMN body SET COMPRESSION lz4;
EXCEPTION WHEN OTHERS THEN NULL; END $$"""


@event.listens_for(journal, "after_create")
def _pack_journal_fast(_table: sa.Table, connection: sa.Connection, **_more: Any) -> None:
    """Have rows of many followers packed the fast way, where the server was built with it."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_PACKED_FAST)


class Database:
    """One database, reached through one thread so that no disk ever blocks the event loop."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            inline = url == MEMORY
            self._engine = sa.create_engine(url, poolclass=sa.pool.StaticPool if inline else None)
        except (SQLAlchemyError, ImportError) as error:
            expected = "sqlite:///path/to/file.db or postgresql+psycopg://user@host/name"
            raise SettingsError([f"ledger: expected {expected}: {error}"]) from None
        self._thread = None if inline else ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._second_thread = self._thread
        if self._engine.dialect.name == "postgresql":
            self._second_thread = ThreadPoolExecutor(1, thread_name_prefix="tables")
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _set_up_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)

    async def open(self) -> None:
        """Make the tables that are not there yet, in a file that only its owner may read. Raise `StoreError`."""
        self._keep_private()
        await self.run(_make_tables)

    async def ping(self) -> None:
        """Raise `StoreError` where the database does not answer."""
        await self.run(lambda connection: connection.execute(sa.select(1)).all())

    def _keep_private(self) -> None:
        """Begin a database file unreadable to others; SQLite gives its side files the same mode."""
        name = self._engine.url.database
        if self._engine.dialect.name != "sqlite" or not name or name.startswith((":", "file:")) or os.name != "posix":
            return
        try:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            if Path(name).stat().st_mode & 0o077:
                log.warning("%s can be read by others on this machine; chmod 600 it", name)
        except OSError:
            pass  # SQLite will say what is wrong.

    async def run(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in one transaction and return its answer once it is durable.

        Raise `StoreError` where the database refuses or does not answer in time; the transaction may then still have been
        committed, so nothing that must not happen twice may rest on the error.
        """
        return await self._run(work, self._thread)

    async def run_beside(self, work: Callable[[sa.Connection], T]) -> T:
        """Do the same without holding up what `run` is asked for meanwhile: records and leases go first.

        On SQLite, where one may write at a time anyway, it waits its turn like everything else.
        """
        return await self._run(work, self._second_thread)

    async def _run(self, work: Callable[[sa.Connection], T], thread: ThreadPoolExecutor | None) -> T:
        if thread is None:
            return self._transact(work)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await loop.run_in_executor(thread, self._transact, work)
        except TimeoutError:
            raise StoreError(f"{self.name}: no answer within {CALL_TIMEOUT_S:.0f} s") from None

    def _transact(self, work: Callable[[sa.Connection], T]) -> T:
        give_up = time.monotonic() + CALL_TIMEOUT_S / 2
        try:
            while True:
                try:
                    with self._engine.begin() as connection:
                        return work(connection)
                except OperationalError as error:
                    if "locked" not in str(error.orig) or time.monotonic() > give_up:
                        raise
                    time.sleep(BUSY_PAUSE_S)
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise StoreError(f"{self.name}: {cause}") from error

    async def time_ms(self) -> int | None:
        """Return the database server's clock, None where there is no server. Raise `StoreError`."""
        if self._engine.dialect.name != "postgresql":
            return None
        now = sa.text("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)")
        return int(await self.run(lambda connection: connection.scalar(now)))

    @property
    def name(self) -> str:
        """The database's URL without its password."""
        return self._engine.url.render_as_string(hide_password=True)

    async def close(self) -> None:
        """Finish what is under way and let go."""
        for thread in (self._thread, self._second_thread):
            if thread is not None:
                await asyncio.get_running_loop().run_in_executor(None, thread.shutdown)
        self._engine.dispose()


def upsert(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows, replacing those with the same primary key; values are what the driver takes: numbers, texts, bytes."""
    if rows:
        _execute_many(connection, _upserting(connection.dialect, table.name, tuple(rows[0])), rows)


def insert_many(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows; values are what the driver takes: numbers, texts, bytes."""
    if rows:
        _execute_many(connection, _inserting(connection.dialect, table.name, tuple(rows[0])), rows)


def list_owner(connection: sa.Connection, owner: str) -> None:
    """Let an owner's rows in the journal be looked for; nothing changes where they are already."""
    if connection.scalar(sa.select(projected.c.seq).where(projected.c.owner == owner)) is None:
        connection.execute(sa.insert(projected).values(owner=owner, seq=0))


class _Statement(NamedTuple):
    text: str
    """As the driver takes it."""
    order: list[str] | None
    """Of the values; None where the driver takes them by name."""


def _execute_many(connection: sa.Connection, statement: _Statement, rows: list[dict[str, Any]]) -> None:
    """Execute past the toolkit's handling of every value, which takes longer than the database does."""
    order = statement.order
    values: Any = rows if order is None else [tuple([row[name] for name in order]) for row in rows]
    connection.exec_driver_sql(statement.text, values)


@lru_cache(maxsize=64)
def _inserting(dialect: sa.Dialect, name: str, columns: tuple[str, ...]) -> _Statement:
    compiled = sa.insert(metadata.tables[name]).compile(dialect=dialect, column_keys=list(columns))
    return _Statement(str(compiled), compiled.positiontup)


@lru_cache(maxsize=64)
def _upserting(dialect: sa.Dialect, name: str, columns: tuple[str, ...]) -> _Statement:
    if dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    table = metadata.tables[name]
    statement = insert(table)
    keys = [column.name for column in table.primary_key]
    others = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys}
    statement = statement.on_conflict_do_update(index_elements=keys, set_=others)
    compiled = statement.compile(dialect=dialect, column_keys=list(columns))
    return _Statement(str(compiled), compiled.positiontup)


def may_write(connection: sa.Connection, table: sa.Table) -> bool:
    """Return whether this user may write a table: on a server some may only read."""
    if connection.dialect.name != "postgresql":
        return True
    asked = sa.func.has_table_privilege(table.name, "INSERT") & sa.func.has_table_privilege(table.name, "UPDATE")
    return bool(connection.scalar(sa.select(asked)))


def _make_tables(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":  # Of several processes that begin together the others find them made.
        connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_TABLES_LOCK})"))
    metadata.create_all(connection)


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own transactions begin too late and commit DDL behind our back: we begin them ourselves.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=0")  # A busy file is tried again by whoever runs the transaction.
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
