"""The database: one transaction per call, durable or undone, and every failure is one error without a password in it."""

import asyncio
import itertools
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from copier import database as db
from copier.clock import run_virtual
from copier.database import MEMORY, Database, upsert
from copier.errors import SettingsError, StoreError
from tests.conftest import PostgresServer


def file(path: Path) -> str:
    return f"sqlite:///{path / 'ledger.db'}"


def row(scope: str, control: str = "live") -> dict[str, Any]:
    return {"scope": scope, "control": control, "at_ms": 1, "by": "test"}


def everything(connection: sa.Connection) -> dict[str, str]:
    return {scope: control for scope, control in connection.execute(sa.select(db.controls.c.scope, db.controls.c.control))}


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return MEMORY if request.param == "memory" else file(tmp_path)


async def test_opening_twice_makes_the_tables_once(url: str) -> None:
    database = Database(url)
    await database.open()
    await database.run(lambda connection: upsert(connection, db.controls, [row("f")]))
    await database.open()
    assert await database.run(everything) == {"f": "live"}
    await database.close()


async def test_an_upsert_replaces_by_primary_key_and_of_nothing_does_nothing(url: str) -> None:
    database = Database(url)
    await database.open()
    await database.run(lambda connection: upsert(connection, db.controls, [row("f"), row("g")]))
    await database.run(lambda connection: upsert(connection, db.controls, [row("f", "frozen")]))
    await database.run(lambda connection: upsert(connection, db.controls, []))
    assert await database.run(everything) == {"f": "frozen", "g": "live"}
    await database.close()


async def test_work_that_fails_leaves_nothing_behind(url: str) -> None:
    database = Database(url)
    await database.open()

    def half(connection: sa.Connection) -> None:
        upsert(connection, db.controls, [row("f")])
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        await database.run(half)
    assert await database.run(everything) == {}

    def refused(connection: sa.Connection) -> None:
        upsert(connection, db.controls, [row("f")])
        connection.execute(sa.text("insert into no_such_table values (1)"))

    with pytest.raises(StoreError, match="no_such_table"):
        await database.run(refused)
    assert await database.run(everything) == {}
    await database.close()


async def test_what_was_run_is_there_after_a_restart(tmp_path: Path) -> None:
    first = Database(file(tmp_path))
    await first.open()
    await first.run(lambda connection: upsert(connection, db.controls, [row("f")]))
    second = Database(file(tmp_path))
    await second.open()
    assert await second.run(everything) == {"f": "live"}
    await first.close()
    await second.close()


async def test_a_file_is_written_ahead_and_synchronised_at_every_commit(tmp_path: Path) -> None:
    database = Database(file(tmp_path))
    await database.open()
    names = ("journal_mode", "synchronous")
    mode, full = await database.run(
        lambda connection: tuple(connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names)
    )
    assert (mode, full) == ("wal", 2)
    await database.close()


async def test_who_finds_a_file_busy_has_his_turn_once_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(file(tmp_path))
    await database.open()
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    tries = itertools.count(1)

    def let_go(_pause_s: float) -> None:
        if next(tries) == 5:
            other.execute("ROLLBACK")

    monkeypatch.setattr("copier.database.time.sleep", let_go)
    await database.run(lambda connection: upsert(connection, db.controls, [row("f")]))
    assert next(tries) == 6
    assert await database.run(everything) == {"f": "live"}
    other.close()
    await database.close()


async def test_a_file_is_waited_for_in_a_thread_and_memory_is_not(tmp_path: Path) -> None:
    def thread(_: sa.Connection) -> str:
        return threading.current_thread().name

    onto_disk, in_memory = Database(file(tmp_path)), Database(MEMORY)
    assert (await onto_disk.run(thread)).startswith("ledger")
    assert await in_memory.run(thread) == threading.current_thread().name
    await onto_disk.close()
    await in_memory.close()


def test_memory_needs_no_real_time() -> None:
    async def tell() -> dict[str, str]:
        database = Database(MEMORY)
        await database.open()
        found = await database.run(everything)
        await database.close()
        return found

    assert run_virtual(tell()) == {}


async def test_two_databases_in_memory_share_nothing() -> None:
    one, other = Database(MEMORY), Database(MEMORY)
    await one.open()
    await other.open()
    await one.run(lambda connection: upsert(connection, db.controls, [row("f")]))
    assert await other.run(everything) == {}
    await one.close()
    await other.close()


async def test_a_file_that_another_keeps_locked_is_a_store_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(file(tmp_path))
    await database.open()
    monkeypatch.setattr(db, "CALL_TIMEOUT_S", 0.04)
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match=r"locked|no answer"):
        await database.run(lambda connection: upsert(connection, db.controls, [row("f")]))
    other.execute("ROLLBACK")
    other.close()
    monkeypatch.setattr(db, "CALL_TIMEOUT_S", 5.0)
    assert await database.run(everything) == {}
    await database.close()


async def test_a_folder_that_is_not_there_is_a_store_error(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'nowhere' / 'ledger.db'}")
    with pytest.raises(StoreError, match="unable to open"):
        await database.open()
    await database.close()


async def test_a_file_that_is_no_database_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"this is no database at all, but long enough to be looked at" * 20)
    database = Database(file(tmp_path))
    with pytest.raises(StoreError, match="not a database"):
        await database.open()
    await database.close()


@pytest.mark.parametrize("url", ["", "nonsense", "oracle+nothing://here/db"])
def test_a_url_that_is_no_database_is_a_settings_error(url: str) -> None:
    with pytest.raises(SettingsError, match="expected sqlite"):
        Database(url)


def test_a_name_shows_no_password() -> None:
    pytest.importorskip("psycopg")
    database = Database("postgresql+psycopg://copier:hunter2@host/db")
    assert "hunter2" not in database.name
    assert database.name.startswith("postgresql+psycopg://copier:")


async def test_processes_that_begin_together_on_an_empty_server_make_its_tables_once(needs_postgres: str) -> None:
    databases = [Database(needs_postgres) for _ in range(6)]
    await asyncio.gather(*(database.open() for database in databases))
    for database in databases:
        await database.close()


async def test_what_runs_beside_on_a_server_holds_up_no_record(needs_postgres: str) -> None:
    database = Database(needs_postgres)
    await database.open()
    go_on = threading.Event()
    beside = asyncio.create_task(database.run_beside(lambda _: go_on.wait(30)))
    await database.run(lambda connection: connection.execute(sa.select(1)).all())
    assert not beside.done()
    go_on.set()
    assert await beside
    await database.close()


async def test_a_server_that_was_away_is_used_again_once_it_is_back(needs_postgres: str, postgres_server: PostgresServer) -> None:
    database = Database(needs_postgres)
    await database.open()
    await asyncio.gather(database.ping(), database.run_beside(lambda connection: connection.execute(sa.select(1)).all()))
    await asyncio.to_thread(postgres_server.kill)
    for ask in (database.run, database.run_beside):
        with pytest.raises(StoreError):
            await ask(lambda connection: connection.execute(sa.select(1)).all())
    await asyncio.to_thread(postgres_server.start)
    for ask in (database.run, database.run_beside):
        assert await ask(lambda connection: connection.execute(sa.select(db.roles)).all()) == []
    await database.close()


async def test_on_a_server_the_journal_is_packed_the_fast_way_where_it_can_be(needs_postgres: str) -> None:
    database = Database(needs_postgres)
    await database.open()
    able = sa.text("SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'")
    packed = sa.text("SELECT attcompression = 'l' FROM pg_attribute WHERE attrelid = 'journal'::regclass AND attname = 'body'")
    assert await database.run(lambda connection: connection.scalar(packed)) is await database.run(
        lambda connection: connection.scalar(able)
    )
    await database.close()
