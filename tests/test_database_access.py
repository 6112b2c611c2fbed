"""PostgreSQL roles: the statements in the documents are run as they stand there, and each role can do its task and no more."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from copier.app import App, Everything
from copier.audit import Audit
from copier.clock import SystemClock
from copier.database import Database
from copier.errors import StoreError
from copier.history import History
from copier.ledger import Ledger, ReceiptKept
from copier.model import Receipt, Verdict
from copier.settings import parse

PAGE = Path(__file__).resolve().parent.parent / "docs" / "security.md"
PASSWORDS = {"engine": "change me 1", "operator": "change me 2", "reader": "change me 3"}


def statements() -> list[str]:
    (block,) = re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [statement.strip() for statement in block.split(";") if statement.strip()]


@pytest.fixture
async def owned(needs_postgres: str) -> AsyncIterator[str]:
    """An empty database set up by its owner as the documents say; roles are the cluster's, so they go again."""
    owner = Database(needs_postgres)
    await owner.open()
    for statement in statements():
        await owner.run(lambda connection, text=statement: connection.exec_driver_sql(text))  # type: ignore[misc]
    yield needs_postgres
    for role in PASSWORDS:
        for statement in (f"DROP OWNED BY copier_{role}", f"DROP ROLE copier_{role}"):
            await owner.run(lambda connection, text=statement: connection.exec_driver_sql(text))  # type: ignore[misc]
    await owner.close()


@asynccontextmanager
async def as_role(url: str, role: str) -> AsyncIterator[Database]:
    whole = sa.make_url(url).set(username=f"copier_{role}", password=PASSWORDS[role])
    database = Database(whole.render_as_string(hide_password=False))
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def refused(database: Database, statement: str) -> None:
    with pytest.raises(StoreError, match=r"permission denied|must be owner"):
        await database.run(lambda connection: connection.exec_driver_sql(statement))


def receipt() -> ReceiptKept:
    return ReceiptKept(
        receipt=Receipt(at_ms=1, follower="f", master="m", key="1.1", event="open", verdict=Verdict.COPIED, code="copied")
    )


NOT_THE_ENGINES = [
    "UPDATE audit SET who = 'x'",
    "DELETE FROM audit",
    "TRUNCATE audit",
    "DROP TABLE audit",
    "ALTER TABLE audit DISABLE TRIGGER ALL",
    "DROP TRIGGER audit_no_update ON audit",
    "CREATE TABLE x (n int)",
    "TRUNCATE journal",
    "CREATE ROLE x",
]


async def test_the_engine_works_as_its_role_and_cannot_touch_what_was_audited(owned: str) -> None:
    whole = sa.make_url(owned).set(username="copier_engine", password=PASSWORDS["engine"])
    settings = parse(
        f"""
        ledger: "{whole.render_as_string(hide_password=False)}"
        accounts: {{a: {{kind: paper, login: 1}}}}
        masters: {{m: {{account: a}}}}
        """
    )
    async with App(settings, SystemClock(), role=Everything()) as app:
        ledger = Ledger(app.database, SystemClock(), "worker")
        await ledger.take(["worker:w", "follower:f"])
        await ledger.append([receipt()])
        await ledger.project()
        await ledger.set_control("f", "frozen", "alice")
        assert [each.code for each in await ledger.receipts()] == ["copied"]
        assert await Audit(app.database).breaks() == []
        await ledger.trim(SystemClock().now_ms() + 1000)
        for statement in NOT_THE_ENGINES:
            await refused(app.database, statement)


Look = Callable[[Ledger, History], Awaitable[object]]


async def test_the_reader_sees_what_the_engine_brought_up_to_date_and_changes_nothing(owned: str) -> None:
    async with as_role(owned, "engine") as engine, as_role(owned, "reader") as reader:
        ledger = Ledger(engine, SystemClock(), "worker")
        await ledger.take(["worker:w", "follower:f"])
        await ledger.append([receipt()])
        face = Ledger(reader, SystemClock(), "face")
        assert await face.receipts() == []
        await ledger.project()
        assert [each.code for each in await face.receipts()] == ["copied"]
        assert await face.links() == []
        assert await face.controls() == {}
        assert await History(reader).alerts() == []
        with pytest.raises(StoreError, match="permission denied"):
            await face.set_control("*", "flatten", "mallory")
        for table in ("journal", "roles", "controls", "audit", "links", "views", "receipts"):
            await refused(reader, f"DELETE FROM {table}")


async def test_the_operator_sets_controls_with_their_entry_and_nothing_else(owned: str) -> None:
    async with as_role(owned, "operator") as operator:
        face = Ledger(operator, SystemClock(), "face")
        await face.set_control("f", "flatten", "alice")
        assert await face.controls() == {"f": "flatten"}
        assert [entry.who for entry in await Audit(operator).entries()] == ["alice"]
        with pytest.raises(StoreError, match="permission denied"):
            await face.take(["worker:w"])
        for statement in ("DELETE FROM audit", "DELETE FROM controls", "UPDATE links SET living = false", "DELETE FROM journal"):
            await refused(operator, statement)
