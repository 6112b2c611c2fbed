"""Redis users: each role can do what it must and really nothing else, over TLS too, and the whole engine works under them."""

import asyncio
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
from typer.testing import CliRunner

from copier import cli
from copier.app import App, Follow, Watch
from copier.clock import SystemClock
from copier.errors import CopierError, SettingsError, StoreError
from copier.gateways.opening import PaperWorld
from copier.model import Snapshot
from copier.redis_access import redis_users, write
from copier.settings import Settings, parse
from copier.stream import KEY, EntryId, open_stream
from tests.conftest import absent

SETTINGS = """
ledger: "sqlite:///LEDGER"
redis: "REDIS"
stream: {secret: "signs every entry"}
accounts:
  a: {kind: paper, login: 1, server: A}
  b: {kind: paper, login: 2, server: B}
  c: {kind: paper, login: 3, server: C}
  d: {kind: paper, login: 4, server: D}
masters: {gold: {account: a}, silver: {account: b}}
followers:
  bob: {account: c, copies: [{master: gold}]}
  carol: {account: d, copies: [{master: gold}, {master: silver}]}
"""


def settings_of(redis_url: str = "redis://127.0.0.1:6379/0", ledger: Path = Path("copier.db")) -> Settings:
    return parse(SETTINGS.replace("REDIS", redis_url).replace("LEDGER", str(ledger)))


# The file --------------------------------------------------------------------------------------------------------------


def test_every_role_gets_a_user_for_its_streams_alone() -> None:
    users = {user.name: user.rules for user in redis_users(settings_of(), {"one": ["bob"], "two": []})}
    assert set(users) == {"watcher-gold", "watcher-silver", "worker-one", "worker-two", "everything", "reader"}
    assert "%RW~copier:events:gold" in users["watcher-gold"]
    assert "silver" not in users["watcher-gold"] + users["worker-one"]
    assert "%R~copier:events:silver" in users["worker-two"]
    assert "xadd" not in users["worker-one"] + users["reader"]


def test_a_worker_of_nobody_is_a_mistake() -> None:
    with pytest.raises(SettingsError, match="follower dave: expected one of bob, carol"):
        redis_users(settings_of(), {"one": ["dave"]})


def test_the_command_writes_hashes_for_redis_and_addresses_for_their_owner_and_overwrites_nothing(tmp_path: Path) -> None:
    config = tmp_path / "copier.yaml"
    config.write_text(SETTINGS, encoding="utf-8")
    config.chmod(0o600)
    words = ["redis-acl", str(config), "--out", str(tmp_path / "users"), "--at", "rediss://old:one@redis.example:6380/0?a=b"]
    os.environ["MT_COPIER__REDIS"] = "memory://"
    try:
        done = CliRunner().invoke(cli.app, [*words, "--worker", "one:bob"])
        assert done.exit_code == 0, done.output
        again = CliRunner().invoke(cli.app, words)
    finally:
        del os.environ["MT_COPIER__REDIS"]
    assert isinstance(again.exception, CopierError)
    assert "passwords are not overwritten" in str(again.exception)
    acl = (tmp_path / "users" / "users.acl").read_text(encoding="utf-8")
    for path in (tmp_path / "users").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        if path.suffix == ".url":
            url = path.read_text(encoding="utf-8").strip()
            assert url.startswith(f"rediss://{path.stem}:")
            assert url.endswith("@redis.example:6380/0?a=b")
            assert url.split(":")[2].split("@")[0] not in acl


# A real Redis ----------------------------------------------------------------------------------------------------------


class Guarded:
    """A real Redis with the users of an ACL file."""

    def __init__(self, server: Any, folder: Path, workers: dict[str, list[str]]) -> None:
        server.kill()
        write(redis_users(settings_of(), workers), f"redis://127.0.0.1:{server.port}/0", folder)
        server.start("--aclfile", str(folder / "users.acl"))
        self._folder = folder

    def url(self, user: str) -> str:
        return (self._folder / f"{user}.url").read_text(encoding="utf-8").strip()

    def client(self, user: str) -> "redis.Redis[bytes]":
        return redis.Redis.from_url(self.url(user))


@pytest.fixture
def guarded(needs_redis: Any, tmp_path: Path) -> Guarded:
    return Guarded(needs_redis, tmp_path / "users", {"one": ["bob"], "two": ["carol"]})


GOLD, SILVER = KEY.format("gold"), KEY.format("silver")
NOBODY = [
    "FLUSHALL", "FLUSHDB", "CONFIG GET *", "CONFIG SET maxmemory 1", "KEYS *", "SCAN 0", "DBSIZE", "INFO", "ACL LIST",
    "ACL WHOAMI", "ACL SETUSER default on nopass", "SHUTDOWN", "SAVE", "SCRIPT LOAD x", "EVAL x 0", "MONITOR",
    "CLIENT LIST",
    "CLIENT KILL TYPE normal", "SUBSCRIBE x", "PUBLISH x y", "SET copier:events:gold x", "GET copier:events:gold",
    "DEL copier:events:gold", "UNLINK copier:events:gold", "EXPIRE copier:events:gold 1", "RENAME copier:events:gold x",
    "XTRIM copier:events:gold MAXLEN 0", "XDEL copier:events:gold 1-1", "XGROUP CREATE copier:events:gold g 0",
    "XSETID copier:events:gold 9-9", "COPY copier:events:gold x", "DUMP copier:events:gold", "TYPE copier:events:gold",
    "MULTI", "REPLICAOF no one", "MODULE LIST", "SWAPDB 0 1", "SELECT 1", "SLOWLOG GET", "LATENCY DOCTOR", "MEMORY STATS",
]  # fmt: skip
ADD, ADD_SILVER = f"XADD {GOLD} 1-9 e x", f"XADD {SILVER} 1-9 e x"
READ, READ_SILVER = f"XREAD STREAMS {GOLD} 0-0", f"XREAD STREAMS {SILVER} 0-0"
LAST, LAST_SILVER = f"XREVRANGE {GOLD} + - COUNT 1", f"XREVRANGE {SILVER} + - COUNT 1"
RANGE, RANGE_SILVER = f"XRANGE {GOLD} - +", f"XRANGE {SILVER} - +"
OTHER = ["XADD other 1-1 e x", "XREAD STREAMS other 0-0", "XREVRANGE other + -", "XRANGE other - +"]
MAY = {
    "watcher-gold": {"PING", "TIME", ADD, RANGE, READ, LAST},
    "worker-one": {"PING", "TIME", READ, LAST},
    "worker-two": {"PING", "TIME", READ, READ_SILVER, LAST, LAST_SILVER},
    "everything": {"PING", "TIME", ADD, ADD_SILVER, RANGE, RANGE_SILVER, READ, READ_SILVER, LAST, LAST_SILVER},
    "reader": {"PING", "TIME", LAST, LAST_SILVER, f"XLEN {GOLD}", f"XINFO STREAM {GOLD}"},
}
TRIED = [
    *NOBODY, *OTHER, ADD, ADD_SILVER, READ, READ_SILVER, LAST, LAST_SILVER, RANGE, RANGE_SILVER, "PING", "TIME", f"XLEN {GOLD}",
    f"XINFO STREAM {GOLD}", f"XREAD STREAMS {GOLD} {SILVER} 0-0 0-0", f"XREADGROUP GROUP g c STREAMS {GOLD} >",
]  # fmt: skip


@pytest.mark.parametrize("user", MAY)
def test_a_user_can_do_what_its_role_needs_and_nothing_else(guarded: Guarded, user: str) -> None:
    with guarded.client("everything") as everything:
        for stream in (GOLD, SILVER):
            everything.xadd(stream, {"e": "x"}, id="1-1")
    could = set()
    with guarded.client(user) as client:
        for command in TRIED:
            try:
                client.execute_command(*command.split(" "))
            except redis.exceptions.NoPermissionError:
                continue
            could.add(command)
    both = {f"XREAD STREAMS {GOLD} {SILVER} 0-0 0-0"} if {READ, READ_SILVER} <= MAY[user] else set()
    assert could == MAY[user] | both


def test_without_a_user_nothing_can_be_done(guarded: Guarded, needs_redis: Any) -> None:
    with redis.Redis.from_url(needs_redis.url) as client, pytest.raises(redis.exceptions.AuthenticationError):
        client.ping()


async def test_a_wrong_password_is_a_store_error_without_it(guarded: Guarded, needs_redis: Any) -> None:
    stream = open_stream(f"redis://reader:planted-wrong@127.0.0.1:{needs_redis.port}/0")
    with pytest.raises(StoreError) as caught:
        await stream.ping()
    assert "planted" not in str(caught.value) + repr(caught.value.__cause__)
    await stream.close()


async def copy_once(watch_url: str, follow_url: str, folder: Path) -> None:
    """Let a watcher and a worker, each over its own Redis address, copy a trade and its close."""
    paper = PaperWorld(SystemClock())
    ledger = folder / "copier.db"

    async def until(*, there: bool) -> None:
        async with asyncio.timeout(60):
            while bool(paper.servers["C"].positions(3)) is not there:
                for server in paper.servers.values():
                    server.set_quote("EURUSD", "1.10000", "1.10010")
                await asyncio.sleep(0.1)

    async with (
        App(settings_of(watch_url, ledger), SystemClock(), role=Watch(("gold",)), paper=paper) as watch,
        App(settings_of(follow_url, ledger), SystemClock(), role=Follow("one", ("bob",)), paper=paper) as follow,
    ):
        for name in ("A", "C"):
            paper.servers[name].set_quote("EURUSD", "1.10000", "1.10010")
        tasks = [asyncio.create_task(watch.run()), asyncio.create_task(follow.run())]
        async with asyncio.timeout(60):
            assert follow.worker is not None
            while not (follow.worker.followers and follow.worker.followers["bob"].relations["gold"].started):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        ticket = paper.servers["A"].buy(1, "EURUSD", "0.10").position
        await until(there=True)
        paper.servers["A"].close(1, ticket)
        await until(there=False)
        assert watch.watchers["gold"].error == ""
        assert follow.worker.error == ""
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.timeout(120)
async def test_the_whole_engine_works_with_a_user_per_role(guarded: Guarded, tmp_path: Path) -> None:
    await copy_once(guarded.url("watcher-gold"), guarded.url("worker-one"), tmp_path)


async def test_a_watcher_with_anothers_address_is_told_so_and_writes_nothing(guarded: Guarded) -> None:
    stream = open_stream(guarded.url("watcher-gold"))
    event = Snapshot(master="silver", read=1, read_ms=1, positions=(), specs={})
    with pytest.raises(StoreError, match="silver"):
        await stream.publish("silver", EntryId(1, 1), event)
    await stream.publish("gold", EntryId(1, 1), event)
    await stream.publish("gold", EntryId(1, 1), event)
    await stream.close()
    with guarded.client("reader") as client:
        assert (client.xlen(GOLD), client.xlen(SILVER)) == (1, 0)


# TLS -------------------------------------------------------------------------------------------------------------------


class Sealed:
    """A real Redis that speaks TLS only, with certificates made here."""

    def __init__(self, server: Any, folder: Path, host: str = "127.0.0.1") -> None:
        folder.mkdir()
        authority = trustme.CA()
        certificate = authority.issue_cert(host)
        self.ca, self.other = folder / "ca.pem", folder / "other.pem"
        authority.cert_pem.write_to_path(self.ca)
        trustme.CA().cert_pem.write_to_path(self.other)
        certificate.private_key_pem.write_to_path(folder / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
        server.kill()
        port, server.port = server.port, 0
        self.port = port
        options = ["--tls-port", str(port), "--tls-auth-clients", "no", "--tls-ca-cert-file", str(self.ca)]
        server.start(*options, "--tls-cert-file", str(folder / "cert.pem"), "--tls-key-file", str(folder / "key.pem"))

    def url(self, ca: Path | None = None, scheme: str = "rediss") -> str:
        return f"{scheme}://127.0.0.1:{self.port}/0" + (f"?ssl_ca_certs={ca}" if ca else "")


@pytest.fixture
def speaks_tls(needs_redis: Any) -> None:
    program = shutil.which("ldd")
    linked = subprocess.run([program, shutil.which("redis-server") or ""], capture_output=True, text=True) if program else None
    if linked is not None and "libssl" not in linked.stdout:
        absent("this redis-server was built without TLS")


@pytest.mark.timeout(120)
async def test_the_engine_copies_over_tls_with_an_authority_of_its_own(
    needs_redis: Any, speaks_tls: None, tmp_path: Path
) -> None:
    sealed = Sealed(needs_redis, tmp_path / "tls")
    await copy_once(sealed.url(sealed.ca), sealed.url(sealed.ca), tmp_path)


async def refusal(url: str) -> str:
    stream = open_stream(url)
    with pytest.raises(StoreError) as caught:
        await stream.ping()
    await stream.close()
    return str(caught.value)


async def test_a_certificate_that_cannot_be_trusted_is_refused(needs_redis: Any, speaks_tls: None, tmp_path: Path) -> None:
    sealed = Sealed(needs_redis, tmp_path / "tls")
    assert "CERTIFICATE_VERIFY_FAILED" in await refusal(sealed.url())
    assert "CERTIFICATE_VERIFY_FAILED" in await refusal(sealed.url(sealed.other))
    await refusal(sealed.url(scheme="redis"))


async def test_another_hosts_certificate_is_refused(needs_redis: Any, speaks_tls: None, tmp_path: Path) -> None:
    sealed = Sealed(needs_redis, tmp_path / "tls", host="redis.example")
    assert "CERTIFICATE_VERIFY_FAILED" in await refusal(sealed.url(sealed.ca))
