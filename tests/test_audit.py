"""The audit: what was loaded and set stays told, and whoever rewrites it is found out as far as a chain can tell."""

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from copier import cli
from copier import database as db
from copier.app import App, Everything
from copier.audit import Audit, append, person
from copier.clock import LoopClock, run_virtual
from copier.database import Database
from copier.errors import StoreError
from copier.ledger import Ledger
from copier.settings import parse

KEY = b"a key of some length"


class Chain:
    """A ledger's audit with six entries, and someone who can do anything to its database."""

    def __init__(self, url: str, key: bytes = b"") -> None:
        self.key = key
        self.database = Database(url)
        self.ledger = Ledger(self.database, LoopClock(), "hand", audit_key=key)
        self.audit = Audit(self.database, key)

    async def fill(self) -> None:
        await self.database.open()
        await self.audit.loaded({"redis": "memory://"}, role="everything", at_ms=1)
        for number, control in enumerate(("close_only", "live", "frozen", "flatten")):
            await self.ledger.set_control(f"follower{number}", control, "alice@desk")
        await self.audit.loaded({"redis": "memory://"}, role="everything", at_ms=9)

    async def attack(self, *statements: str) -> None:
        def work(connection: sa.Connection) -> None:
            table = " ON audit" if connection.dialect.name == "postgresql" else ""
            for trigger in ("audit_no_update", "audit_no_delete"):
                connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {trigger}{table}")
            for statement in statements:
                connection.exec_driver_sql(statement)

        await self.database.run(work)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture(params=[b"", KEY], ids=["plain", "keyed"])
async def chain(request: pytest.FixtureRequest, url: str) -> Any:
    chain = Chain(url, request.param)
    await chain.fill()
    yield chain
    await chain.database.close()


async def test_what_was_set_is_told_with_who_and_when_and_the_chain_holds(chain: Chain) -> None:
    entries = await chain.audit.entries()
    assert [(e.seq, e.what) for e in entries] == [(1, "settings"), *((n, "control") for n in (2, 3, 4, 5)), (6, "settings")]
    assert (entries[1].who, entries[1].detail) == ("alice@desk", {"scope": "follower0", "control": "close_only"})
    assert entries[0].detail["settings"] == {"redis": "memory://"}
    assert "settings" not in entries[5].detail, "told in full though nothing had changed"
    assert entries[0].who == person()
    assert await chain.audit.breaks() == []
    assert await chain.audit.breaks(f"3:{entries[2].hash}") == []


async def test_settings_that_changed_are_told_in_full_again(chain: Chain) -> None:
    await chain.audit.loaded({"redis": "redis://other"}, role="watch", at_ms=10)
    assert (await chain.audit.entries())[-1].detail["settings"] == {"redis": "redis://other"}


@pytest.mark.parametrize("statement", ["UPDATE audit SET who = 'bob'", "DELETE FROM audit WHERE seq = 6"])
async def test_the_database_itself_refuses_to_change_an_entry(chain: Chain, statement: str) -> None:
    with pytest.raises(StoreError, match="only appended to"):
        await chain.database.run(lambda connection: connection.exec_driver_sql(statement))
    assert await chain.audit.breaks() == []


TAMPERINGS = {
    "who": ("UPDATE audit SET who = 'bob' WHERE seq = 3", "entry 3 was changed"),
    "what": ("UPDATE audit SET what = 'x' WHERE seq = 1", "entry 1 was changed"),
    "when": ("UPDATE audit SET at_ms = at_ms + 1 WHERE seq = 6", "entry 6 was changed"),
    "detail": ("UPDATE audit SET detail = '{}' WHERE seq = 5", "entry 5 was changed"),
    "hash": ("UPDATE audit SET hash = (SELECT hash FROM audit WHERE seq = 2) WHERE seq = 4", "entry 4 was changed"),
    "first deleted": ("DELETE FROM audit WHERE seq = 1", "entry 1 is missing"),
    "middle deleted": ("DELETE FROM audit WHERE seq = 3", "entry 3 is missing"),
    "middle deleted and closed up": (
        "DELETE FROM audit WHERE seq = 3; UPDATE audit SET seq = seq - 1 WHERE seq > 3",
        "entry 3 was changed",
    ),
    "unreadable": ("UPDATE audit SET detail = 'not JSON', what = 'control' WHERE seq = 4", "entry 4 was changed"),
    "swapped": (
        "UPDATE audit SET seq = 9 WHERE seq = 2; UPDATE audit SET seq = 2 WHERE seq = 3; UPDATE audit SET seq = 3 WHERE seq = 9",
        "entry 2 was changed",
    ),
    "a control's end cut off": ("DELETE FROM audit WHERE seq > 4", "follower3 is set to flatten and no entry tells of it"),
    "control set past the engine": ("UPDATE controls SET control = 'live' WHERE scope = 'follower2'", "follower2 is set to live"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
async def test_tampering_is_found(chain: Chain, name: str) -> None:
    statements, expected = TAMPERINGS[name]
    await chain.attack(*statements.split("; "))
    breaks = await chain.audit.breaks()
    assert any(expected in each for each in breaks), breaks


async def test_a_tail_without_controls_cut_off_is_found_only_by_a_head_noted_elsewhere(chain: Chain) -> None:
    head = (await chain.audit.entries())[-1]
    await chain.attack("DELETE FROM audit WHERE seq = 6")
    assert await chain.audit.breaks() == []
    (found,) = await chain.audit.breaks(f"{head.seq}:{head.hash}")
    assert "cut off or rewritten" in found


async def rewritten(chain: Chain, key: bytes) -> list[str]:
    """Let someone rewrite the whole chain from an entry on, hashes included, and return what is found."""
    entries = await chain.audit.entries()
    await chain.attack("DELETE FROM audit")

    def work(connection: sa.Connection) -> None:
        for entry in entries:
            who = "mallory" if entry.seq == 3 else entry.who
            append(connection, key, at_ms=entry.at_ms, who=who, what=entry.what, detail=entry.detail)

    await chain.database.run(work)
    return await chain.audit.breaks()


async def test_a_chain_that_is_rewritten_as_a_whole_is_not_found_without_a_key_and_shows_as_unkeyed_with_one(
    chain: Chain,
) -> None:
    assert await chain.audit.unkeyed() == 0
    assert await rewritten(chain, b"") == []
    assert await chain.audit.unkeyed() == (6 if chain.key else 0)


async def test_another_key_does_not_make_the_chain(chain: Chain) -> None:
    if chain.key:
        assert await rewritten(chain, b"another key of that length") == ["entry 1 was changed, or the one before it was"]


async def test_a_chain_may_begin_without_a_key_and_get_one_and_never_lose_it_again(url: str) -> None:
    plain, keyed = Chain(url), Chain(url, KEY)
    await plain.fill()
    await keyed.ledger.set_control("*", "frozen", "alice")
    assert await keyed.audit.breaks() == []
    assert await plain.audit.breaks() == ["entry 7 was made with a key: set audit.key to verify it"]
    await plain.ledger.set_control("*", "live", "alice")
    assert await keyed.audit.breaks() == ["entry 8 is not made with the key, and those before it are"]
    for each in (plain, keyed):
        await each.database.close()


async def test_a_control_that_cannot_be_audited_is_not_set(chain: Chain) -> None:
    await chain.attack("ALTER TABLE audit RENAME TO gone")
    with pytest.raises(StoreError):
        await chain.ledger.set_control("*", "frozen", "alice")
    assert "*" not in await chain.ledger.controls()


async def test_on_postgresql_the_chain_is_kept_and_verified_just_so(needs_postgres: str) -> None:
    chain = Chain(needs_postgres, KEY)
    await chain.fill()
    assert await chain.audit.breaks() == []
    with pytest.raises(StoreError, match="only appended to"):
        await chain.database.run(lambda connection: connection.execute(sa.delete(db.audit)))
    await chain.attack("UPDATE audit SET who = 'bob' WHERE seq = 3")
    assert await chain.audit.breaks() == ["entry 3 was changed, or the one before it was"]
    await chain.database.close()


# The whole -------------------------------------------------------------------------------------------------------------

CONFIG = """
ledger: "sqlite:///LEDGER"
accounts:
  m: {kind: paper, login: 1}
  f: {kind: paper, login: 2}
masters: {m: {account: m}}
followers: {f: {account: f, copies: [{master: m}]}}
audit: {key: "the audit's own key"}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "copier.yaml"
    path.write_text(CONFIG.replace("LEDGER", str(tmp_path / "copier.db")), encoding="utf-8")
    path.chmod(0o600)
    return path


def ran(*words: str) -> Any:
    return CliRunner().invoke(cli.app, list(words))


def test_a_start_and_a_pause_are_told_by_the_command_which_then_finds_what_was_changed(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = parse(config.read_text(encoding="utf-8"))

    async def once() -> None:
        async with App(settings, LoopClock(), role=Everything()):
            pass

    asyncio.run(once())
    assert ran("pause", str(config), "f").exit_code == 0
    shown = ran("audit", str(config))
    assert shown.exit_code == 0, shown.output
    assert "f: close_only" in shown.output
    words = " ".join(shown.output.replace("│", " ").split())
    assert "everything, new or changed" in words
    assert "The chain holds. Head: 2:" in words
    assert "own key" not in shown.output
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'copier.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER audit_no_update")
        connection.exec_driver_sql("UPDATE audit SET at_ms = 5 WHERE seq = 1")
    engine.dispose()
    broken = ran("audit", str(config), "--json")
    assert broken.exit_code == 1
    assert "entry 1 was changed" in broken.output


@pytest.mark.skipif(not hasattr(stat, "S_IRWXG"), reason="modes are a matter of POSIX")
def test_a_new_ledger_can_be_read_by_its_owner_alone_and_one_that_others_can_read_is_complained_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def look(check: Callable[[], None]) -> None:
        database = Database(f"sqlite:///{tmp_path / 'new.db'}")
        await database.open()
        await database.run(lambda connection: connection.execute(sa.select(db.controls)).all())
        check()
        await database.close()

    def private() -> None:
        files = sorted(tmp_path.glob("new.db*"))
        assert {path.name for path in files} >= {"new.db", "new.db-wal"}
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}

    before = os.umask(0)
    try:
        asyncio.run(look(private))
    finally:
        os.umask(before)
    assert caplog.messages == []
    (tmp_path / "new.db").chmod(0o644)
    asyncio.run(look(lambda: None))
    assert "can be read by others on this machine; chmod 600 it" in caplog.text


def test_a_run_in_memory_is_audited_too() -> None:
    async def main() -> None:
        text = 'ledger: "sqlite://"\naccounts: {a: {kind: paper, login: 1}}\nmasters: {gold: {account: a}}'
        async with App(parse(text), LoopClock()) as app:
            assert [entry.what for entry in await Audit(app.database).entries()] == ["settings"]

    run_virtual(main())
