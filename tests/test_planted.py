"""A secret is planted in every place of the settings that takes one, errors are provoked, and all that comes out is searched."""

import asyncio
import contextlib
import logging
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from copier import cli
from copier.app import App, Everything
from copier.clock import SystemClock
from copier.errors import CopierError
from copier.settings import Settings, json_schema, load, redacted
from copier.settings_check import Schema, is_secret
from copier.stream import KEY

MARK = "5ecretPl4nted"
"""Part of every secret. What is searched for is this, plain and as it stands in an address."""


def secret(place: str) -> str:
    """Return the secret of a place: no two are alike, and each has what addresses must escape."""
    return f"{MARK}/{place}@{MARK}"


ECHO = "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"
GARBAGE = 'import sys; sys.stdin.readline(); print(\'{"id": 1, "success": tru\'); sys.stdout.flush(); sys.stdin.read()'
CHOKES = "import json, sys; f = json.loads(sys.stdin.readline()); raise SystemExit('cannot start with ' + str(sorted(f)))"
CONFIG = """
redis: {env: P_REDIS}
ledger: {env: P_LEDGER}
stream: {secret: {env: P_STREAM}}
audit: {key: {env: P_AUDIT}}
metrics: {port: PORT1, token: {env: P_METRICS}}
notify: {targets: [{url: {env: P_NOTIFY}}]}
log: {level: debug, file: LOGFILE}
accounts:
  m: {kind: paper, login: 1, server: A}
  f: {kind: paper, login: 2, server: B}
  echo: {kind: mt5, login: 3, server: C, password: {env: P_TERMINAL}, call_timeout_s: 1, login_timeout_s: 1,
    python: [PYTHON, -c, "ECHO"]}
  garbage: {kind: mt5, login: 4, server: C, password: {env: P_TERMINAL}, call_timeout_s: 1, login_timeout_s: 1,
    path: x, python: [PYTHON, -c, "GARBAGE"]}
  chokes: {kind: mt5-manager, login: 5, server: C, address: "h:1", manager: 6, password: {env: P_MANAGER}, call_timeout_s: 1,
    connect_timeout_s: 1, python: [PYTHON, -c, "CHOKES"]}
  bridge: {kind: bridge, login: 7, server: C, secret: {env: P_BRIDGE}, port: PORT2, connect_timeout_s: 2}
masters: {gold: {account: m}}
followers:
  bob: {account: f, copies: [{master: gold}]}
  b1: {account: echo, copies: [{master: gold}]}
  b2: {account: garbage, copies: [{master: gold}]}
  b3: {account: chokes, copies: [{master: gold}]}
  b4: {account: bridge, copies: [{master: gold}]}
"""
PLANTED = {
    ("redis",), ("ledger",), ("accounts", "*", "password"), ("accounts", "*", "secret"), ("stream", "secret"),
    ("notify", "targets", "*", "url"), ("audit", "key"), ("metrics", "token"),
}  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Plantation:
    """Settings with a secret in every place, and everything that ever came out."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, redis: str, ledger: str) -> None:
        self.folder = folder
        self.out: dict[str, str] = {}
        self.bridge_port, notify_port = free_port(), free_port()
        text = CONFIG.replace("PYTHON", sys.executable).replace("LOGFILE", str(folder / "engine.log"))
        for name, code in (("ECHO", ECHO), ("GARBAGE", GARBAGE), ("CHOKES", CHOKES)):
            text = text.replace(f'"{name}"', "'" + code.replace("'", "''") + "'")
        text = text.replace("PORT1", str(free_port())).replace("PORT2", str(self.bridge_port))
        self.config = folder / "copier.yaml"
        self.config.write_text(text, encoding="utf-8")
        secrets = {
            "REDIS": redis,
            "LEDGER": ledger,
            "NOTIFY": f"json://user:{quote(secret('notify'), safe='')}@127.0.0.1:{notify_port}/{MARK}",
            **{name: secret(name.lower()) for name in ("STREAM", "AUDIT", "METRICS", "TERMINAL", "MANAGER", "BRIDGE")},
        }
        for name, value in secrets.items():
            monkeypatch.setenv(f"P_{name}", value)

    @property
    def settings(self) -> Settings:
        return load(self.config)

    def keep(self, name: str, value: object) -> None:
        self.out[name] = self.out.get(name, "") + str(value)

    def keep_error(self, name: str, error: BaseException) -> None:
        self.keep(name, f"{error} {error!r}\n" + "".join(traceback.format_exception(error)))

    def searched(self) -> list[str]:
        """Return where a secret was found: in what was said, and in every file that was left."""
        found = [name for name, text in self.out.items() if shows(text.encode())]
        return found + [str(path) for path in sorted(self.folder.rglob("*")) if path.is_file() and shows(path.read_bytes())]


def shows(data: bytes) -> bool:
    return any(form.encode() in data for form in (MARK, quote(MARK), MARK.lower()))


class Ears(logging.Handler):
    """Hears every logger of the process, at DEBUG, with tracebacks."""

    def __init__(self, plantation: Plantation) -> None:
        super().__init__(logging.DEBUG)
        self.plantation = plantation
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.plantation.keep("log", self.format(record) + "\n")


@contextlib.contextmanager
def listening(plantation: Plantation) -> Iterator[None]:
    root, handler = logging.getLogger(), Ears(plantation)
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


async def knock(plantation: Plantation) -> None:
    """Dial in at the bridge with garbage, as a stranger, and with a wrong proof; keep what is answered."""
    now = SystemClock().now_ms()
    who = '{"hello":"bridge","protocol":1,"account":"%s","platform":"mt5","build":1,"program":"x",'
    hello = who + '"utcMs":%d,"nonce":"0123456789abcdef"}\n'
    for lines in (
        (b"GET / HTTP/1.1\r\n\r\n",),
        (b"\xff\xfe\x00garbage\n",),
        ((hello % ("99@C", now)).encode(),),
        ((hello % ("7@C", now)).encode(), b'{"proof": 5}\n'),
        ((hello % ("7@C", now)).encode(), b'{"proof": "00"}\n'),
    ):
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(3):
                reader, writer = await asyncio.open_connection("127.0.0.1", plantation.bridge_port)
                for line in lines:
                    writer.write(line)
                    await asyncio.sleep(0.05)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.3):
                            plantation.keep("what the bridge answers", (await reader.read(10_000)).decode(errors="replace"))
                writer.close()


async def run(plantation: Plantation, seconds: float) -> None:
    """Run the whole engine with trades, broken far ends and strangers at the door, and keep what it shows of itself."""
    settings = plantation.settings
    plantation.keep(
        "settings", f"{settings} {settings!r} {redacted(settings)} {settings.model_dump()} {settings.model_dump_json()}"
    )
    app = App(settings, SystemClock(), role=Everything())
    app.listeners.append(lambda receipt: plantation.keep("receipts", receipt))
    async with app:
        task = asyncio.create_task(app.run())
        await asyncio.sleep(seconds / 3)
        ticket = app.paper.servers["A"].buy(1, "EURUSD", "0.10").position
        await knock(plantation)
        await asyncio.sleep(seconds / 3)
        app.paper.servers["A"].close(1, ticket)
        await asyncio.sleep(seconds / 3)
        plantation.keep("objects", f"{app.standings()} {app.worker.followers if app.worker else ''} {vars(app)}")
        plantation.keep("alerts", app.watchdogs.standing)
        for follower in app.worker.followers.values() if app.worker else ():
            plantation.keep("errors", f"{follower.name}: {follower.error}\n")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


COMMANDS = ["check", "status", "accounts", "positions", "receipts", "alerts", "audit", "shadow"]


PAST = """Time,Position,Symbol,Type,Volume,Price,S / L,T / P,Time,Price,Commission,Swap,Profit
2025.01.02 03:04:05,12,EURUSD,buy,0.10,1.10000,0,0,2025.01.03 03:04:05,1.10100,0,0,10.00
2025.01.02 04:04:05,13,EURUSD,sell,0.10,1.10000,0,0,2025.01.03 04:04:05,1.10200,0,0,-20.00
2025.01.02 05:04:05,14,EURUSD,buy,0.20,1.10000,0,0,2025.01.03 05:04:05,1.10300,0,0,60.00
"""


def replay(plantation: Plantation) -> None:
    """Play a past with these settings, which leaves a report, files and receipts."""
    past = plantation.folder / "past.csv"
    past.write_text(PAST, encoding="utf-8")
    out = plantation.folder / "replayed"
    text = plantation.config.read_text(encoding="utf-8")
    start, end = text.index("  echo:"), text.index("masters:")
    text = text[:start] + text[end : text.index("  b1:")]
    config = plantation.folder / "replay.yaml"
    config.write_text(text, encoding="utf-8")
    done = CliRunner().invoke(cli.app, ["replay", str(past), "--config", str(config), "--out", str(out)])
    plantation.keep("replay", done.output)
    if done.exception is not None:
        plantation.keep_error("replay", done.exception)
    assert list(out.rglob("*")), plantation.out["replay"]


def look(plantation: Plantation) -> None:
    """Run every command that shows something, and keep what it says and how it fails."""
    for words in (*([command, str(plantation.config), *more] for command in COMMANDS for more in ([], ["--json"])),
                  ["pause", str(plantation.config), "bob"], ["rearm", str(plantation.config), "bob", "x"]):  # fmt: skip
        done = CliRunner().invoke(cli.app, words)
        plantation.keep(" ".join(words), done.output)
        if done.exception is not None:
            plantation.keep_error(" ".join(words), done.exception)


def test_every_place_that_takes_a_secret_is_planted() -> None:
    places = {place for place, node in Schema(json_schema()).places.items() if is_secret(node)}
    assert places == PLANTED, "plant the new place, too"


def test_a_secret_that_is_said_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plantation = Plantation(tmp_path, monkeypatch, redis="memory://", ledger=f"sqlite:///{tmp_path}/copier.db")
    with listening(plantation):
        logging.getLogger("anything").debug("the password is %s", secret("terminal"))
    (tmp_path / "some.csv").write_text(secret("stream"), encoding="utf-8")
    assert plantation.searched() == ["log", str(tmp_path / "some.csv")]


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Of what Apprise itself imports.
def test_a_whole_run_with_broken_terminals_and_strangers_at_the_door_shows_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plantation = Plantation(tmp_path, monkeypatch, redis="memory://", ledger=f"sqlite:///{tmp_path}/copier.db")
    with listening(plantation):
        asyncio.run(run(plantation, 12.0))
        look(plantation)
        replay(plantation)
    plantation.keep("standard streams", "".join(capfd.readouterr()))
    assert "COPIED" in plantation.out["receipts"] or "copied" in plantation.out["receipts"]
    for account in ("b2", "b3", "b4"):
        assert f"{account}: " in plantation.out["errors"], plantation.out["errors"]
        assert f"{account}: \n" not in plantation.out["errors"], "it was meant to fail"
    assert "the secrets differ" in plantation.out["what the bridge answers"]
    assert plantation.searched() == []


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("where", ["redis", "ledger"])
def test_a_store_that_refuses_the_connection_is_told_without_its_password(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    password, port = quote(secret(where), safe=""), free_port()
    redis = f"redis://{MARK}x:{password}@127.0.0.1:{port}/0" if where == "redis" else "memory://"
    redis = redis.replace(f"{MARK}x", "worker")
    file = f"sqlite:///{tmp_path}/copier.db"
    ledger = f"postgresql+psycopg://copier:{password}@127.0.0.1:{port}/copier" if where == "ledger" else file
    plantation = Plantation(tmp_path, monkeypatch, redis=redis, ledger=ledger)
    with listening(plantation):
        try:
            asyncio.run(run(plantation, 1.0))
            pytest.fail("expected that it cannot start")
        except CopierError as error:
            plantation.keep_error("start", error)
        look(plantation)
    assert "refused" in plantation.out["start"] or "Connect call failed" in plantation.out["start"]
    assert plantation.searched() == []


@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_real_stores_carry_no_secret_and_a_wrong_password_is_not_repeated(
    needs_redis: Any, needs_postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import redis

    password = quote(secret("redis"), safe="")
    with redis.Redis.from_url(needs_redis.url) as client:
        client.config_set("requirepass", secret("redis"))
    right = f"redis://:{password}@127.0.0.1:{needs_redis.port}/0"
    plantation = Plantation(tmp_path, monkeypatch, redis=right, ledger=needs_postgres)
    with listening(plantation):
        asyncio.run(run(plantation, 9.0))
        look(plantation)
        with redis.Redis.from_url(right) as client:
            plantation.keep("stream", client.xrange(KEY.format("gold")))
            assert client.xlen(KEY.format("gold")) > 1
        monkeypatch.setenv("P_REDIS", right.replace("redis%40", "wrong%40"))
        try:
            asyncio.run(run(plantation, 1.0))
            pytest.fail("expected that the password is refused")
        except CopierError as error:
            plantation.keep_error("start", error)
    assert plantation.searched() == []
