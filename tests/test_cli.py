"""The command line, on real settings and a ledger that an engine has written."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

import copier
from copier import cli, flattening
from copier.app import App
from copier.clock import LoopClock, SystemClock, run_virtual
from copier.errors import CopierError, SettingsError
from copier.flattening import Flattened
from copier.gateways.opening import PaperWorld
from copier.ledger import Ledger
from copier.model import Position
from copier.settings import Settings, load

D = Decimal
CONFIG = Path(__file__).resolve().parent.parent / "config"
IN_MEMORY = {"MT_COPIER__LEDGER": "sqlite://"}
EPOCH_MS = 1_767_600_000_000

SETTINGS = """
ledger: "LEDGER"
accounts:
  m: {kind: paper, login: 1, server: A, balance: 50000}
  f: {kind: paper, login: 2, server: B, balance: 50000}
  n: {kind: paper, login: 3, server: C, balance: 50000, margin_mode: netting}
masters:
  m: {account: m}
followers:
  f:
    account: f
    groups: [funded]
    copies: [{master: m, symbols: {deny: [GBPUSD], automatic: false, map: {US30: DJ30}}}]
  n:
    account: n
    copies: [{master: m}]
    risk: {worst_case: {enabled: false}, losses: [{name: overall, percent: 8, period: lifetime, rearm: by_hand}]}
"""


def write_config(folder: Path) -> Path:
    path = folder / "copier.yaml"
    path.write_text(SETTINGS.replace("LEDGER", f"sqlite:///{(folder / 'l.db').as_posix()}"), encoding="utf-8")
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path)


@pytest.fixture
def traded(config: Path, once_traded: Path) -> Path:
    """Give a test its own copy of what an engine has written."""
    shutil.copy(once_traded.with_name("l.db"), config.with_name("l.db"))
    return config


@pytest.fixture(scope="module")
def once_traded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run an engine that copied one trade, refused two and goes on holding one, and ended."""
    config = write_config(tmp_path_factory.mktemp("traded"))

    async def main() -> None:
        paper = PaperWorld(SystemClock())
        async with App(load(config, {}), SystemClock(), paper=paper) as app:
            for server in paper.servers.values():
                quotes = {"EURUSD": ("1.1", "1.1001"), "GBPUSD": ("1.27", "1.2701"), "US30": ("42000", "42002")}
                for symbol, (bid, ask) in quotes.items():
                    server.set_quote(symbol, bid, ask)
            codes: list[str] = []
            app.listeners.append(lambda receipt: codes.append(receipt.code))
            task = asyncio.create_task(app.run())
            await until(lambda: "limit_started" in codes)
            await until(lambda: app.worker is not None and len(app.worker.followers) == 2)
            followers = list(app.worker.followers.values()) if app.worker else []
            await until(lambda: all(relation.started for f in followers for relation in f.relations.values()))
            for symbol, lots in (("EURUSD", "0.30"), ("GBPUSD", "0.10"), ("US30", "0.50")):
                paper.servers["A"].buy(1, symbol, lots)
            await until(lambda: len(paper.servers["C"].positions(3)) == 3 and len(paper.servers["B"].positions(2)) == 1)
            await until(lambda: all(len(f.links) == 3 for f in followers))
            await until(lambda: all(link.lots or link.reason for f in followers for link in f.links.values()))
            await app.sample_equity()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    return config


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not done():  # noqa: ASYNC110 - the engine under test runs in real time, its threads with it
            await asyncio.sleep(0.01)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def data(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def main_of(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["mt-copier", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


# The door --------------------------------------------------------------------------------------------------------------


def test_help_names_every_command() -> None:
    environment = {**os.environ, "COLUMNS": "120"}
    done = subprocess.run([sys.executable, "-m", "copier.cli", "--help"], capture_output=True, text=True, env=environment)
    names = {"demo", "run", "watch", "follow", "check", "status", "accounts", "positions", "receipts", "symbols", "pause"}
    names |= {"resume", "freeze", "release", "rearm", "flatten", "shadow", "replay"}
    assert names <= set(done.stdout.replace("│", " ").split()), done.stdout + done.stderr


def test_help_loads_neither_the_engine_nor_a_store() -> None:
    code = (
        "import sys, copier.cli; print(sorted({'sqlalchemy', 'redis', 'pydantic', 'rich.live', 'copier.app'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_one_process_watches_several_masters_and_each_of_them_must_be_there(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MT_COPIER__REDIS", "redis://127.0.0.1:1/0")
    assert main_of(["watch", str(config), "lead", "silver"], monkeypatch) == 2
    told = capsys.readouterr().err
    assert "master lead: expected one of" in told
    assert "master silver: expected one of" in told


def test_the_version_is_the_packages() -> None:
    assert run("--version").stdout.strip() == copier.__version__


# Settings --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_good(path: Path) -> None:
    assert ": good. " in run("check", path).stdout
    assert data("check", path)["good"] is True


def test_every_mistake_is_told_at_once_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("masters: {m: {account: nobody}}\nfollowers: {f: {account: x, copies: []}}\nspeed: 3\n", encoding="utf-8")
    assert main_of(["check", str(bad)], monkeypatch) == 2
    said = capsys.readouterr().err
    assert all(place in said for place in ("masters.m.account", "followers.f", "speed"))
    assert "Traceback" not in said
    answer = run("check", bad, "--json")
    assert answer.exit_code == 2
    assert len(json.loads(answer.stdout)["problems"]) >= 3


def test_the_schema_is_that_of_the_settings() -> None:
    assert {"accounts", "masters", "followers"} <= set(json.loads(run("check", "--schema").stdout)["properties"])


@pytest.mark.parametrize("command", ["status", "accounts", "positions", "receipts", "shadow"])
def test_without_a_ledger_one_sentence_says_so_and_none_is_made(
    command: str, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_of([command, str(config)], monkeypatch) == 1
    assert "no ledger there yet" in capsys.readouterr().err
    assert [path.name for path in config.parent.iterdir()] == ["copier.yaml"]


def test_a_file_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_of(["status", "nowhere.yaml"], monkeypatch) in (1, 2)
    said = capsys.readouterr().err
    assert "nowhere.yaml" in said
    assert "Traceback" not in said


# Looking ---------------------------------------------------------------------------------------------------------------


def test_what_happened_is_told_in_tables_and_in_json(traded: Path) -> None:
    followers = {row["follower"]: row for row in data("status", traded)["followers"]}
    assert (followers["f"]["open"], followers["f"]["refused"]) == (1, 2)
    assert (followers["n"]["open"], followers["n"]["refused"]) == (3, 0)
    assert (followers["n"]["worker"], followers["n"]["lease_age_s"]) == ("-", None), "the engine ended and gave everything up"
    assert data("accounts", traded)["f"]["balance"] == "50000"
    assert {(link["follower"], link["symbol"]) for link in data("positions", traded) if link["legs"]} == {
        ("f", "EURUSD"),
        ("n", "EURUSD"),
        ("n", "GBPUSD"),
        ("n", "US30"),
    }
    for command in ("status", "accounts", "positions", "receipts"):
        shown = run(command, traded)
        assert shown.exit_code == 0, shown.exception
        assert "f" in shown.stdout


def test_the_status_of_everybody_can_be_read_in_eighty_columns(traded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = run("status", traded).stdout
    row = data("status", traded)["followers"][0]
    assert "…" not in shown
    assert row["equity"] in shown
    assert "refused" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_in_a_pipe_nothing_of_a_position_is_cut_off(traded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert "…" not in run("positions", traded).stdout


def test_receipts_of_a_follower_that_nobody_knows_are_a_mistake_and_not_none(
    traded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_of(["receipts", str(traded), "--follower", "nobody"], monkeypatch) == 2
    assert "follower nobody: expected one of f, n" in capsys.readouterr().err


def test_receipts_can_be_chosen(traded: Path) -> None:
    assert {receipt["follower"] for receipt in data("receipts", traded, "--follower", "n")} == {"n"}
    assert [r["code"] for r in data("receipts", traded, "--follower", "f", "--code", "copied")] == ["copied"]
    assert {receipt["symbol"] for receipt in data("receipts", traded, "--symbol", "GBPUSD")} == {"GBPUSD"}
    assert len(data("receipts", traded, "--last", 2)) == 2


def test_a_symbol_without_a_place_is_named_with_what_was_said(traded: Path) -> None:
    (row,) = data("symbols", "missing", traded)
    assert (row["follower"], row["code"], row["times"]) == ("f", "symbol_unmapped", 1)
    assert "DJ30" in row["message"]


def test_shadow_says_when_there_is_none(traded: Path) -> None:
    assert "No relation is in mode shadow" in run("shadow", traded).stdout


# Steering --------------------------------------------------------------------------------------------------------------


def controls(config: Path) -> dict[str, str]:
    answer: dict[str, str] = data("status", config)["controls"]
    return answer


def test_of_several_that_apply_status_shows_the_strictest(traded: Path) -> None:
    def set_to() -> dict[str, str]:
        return {row["follower"]: row["control"] for row in data("status", traded)["followers"]}

    run("pause", traded, "*")
    run("freeze", traded, "f")
    run("flatten", traded, "n")
    assert set_to() == {"f": "frozen", "n": "flatten"}
    run("resume", traded, "f")
    run("resume", traded, "n")
    assert set_to() == {"f": "close_only", "n": "close_only"}


def test_what_a_person_sets_stands_in_the_ledger(traded: Path) -> None:
    assert run("pause", traded, "f").exit_code == 0
    assert run("freeze", traded, "n/m").exit_code == 0
    assert run("flatten", traded, "group:funded").exit_code == 0
    assert run("release", traded, "m").exit_code == 0
    assert controls(traded) == {"f": "close_only", "n/m": "frozen", "group:funded": "flatten", "master:m": "release"}
    assert run("resume", traded, "f").exit_code == 0
    assert controls(traded)["f"] == "live"


def test_freeze_says_what_stays_open(traded: Path) -> None:
    warned = run("freeze", traded, "n").output
    assert all(f"n: buy {lots}" in warned for lots in ("0.3 EURUSD", "0.1 GBPUSD", "0.5 US30"))
    assert "f: buy" not in warned


@pytest.mark.parametrize("scope", ["nobody", "f/nobody", "group:nobody", "master:nobody", ""])
def test_a_scope_that_names_nobody_is_refused(traded: Path, scope: str) -> None:
    result = run("pause", traded, scope)
    assert isinstance(result.exception, SettingsError)
    assert "expected *, one of f, n" in str(result.exception)


def test_a_master_that_is_not_set_cannot_be_released(traded: Path) -> None:
    assert isinstance(run("release", traded, "nobody").exception, SettingsError)


def test_a_limit_is_armed_again_by_its_name(traded: Path) -> None:
    assert run("rearm", traded, "n", "overall").exit_code == 0
    assert controls(traded) == {"n:overall": "rearm"}
    for arguments in (("n", "daily"), ("f", "overall"), ("nobody", "overall")):
        assert isinstance(run("rearm", traded, *arguments).exception, SettingsError)


# Flatten, with nothing else alive --------------------------------------------------------------------------------------


def flatten(settings: Settings, story: Callable[[PaperWorld], None]) -> tuple[Flattened, PaperWorld]:
    """Let an engine copy a trade in virtual time, end it, and flatten directly."""

    async def main() -> tuple[Flattened, PaperWorld]:
        clock = LoopClock(EPOCH_MS)
        paper = PaperWorld(clock)
        memory = settings.model_copy(update={"ledger": load(CONFIG / "cross-broker.yaml", IN_MEMORY).ledger})
        async with App(memory, clock, paper=paper) as app:
            for server in paper.servers.values():
                server.set_quote("EURUSD", "1.1", "1.1001")
            task = asyncio.create_task(app.run())
            await asyncio.sleep(1)
            paper.servers["A"].buy(1, "EURUSD", "0.30")
            await asyncio.sleep(1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        story(paper)
        return await flattening.flatten(memory, "*", lambda _: None, clock=clock, paper=paper), paper

    return run_virtual(main())


def test_without_a_ledger_what_carries_our_tag_is_closed_and_nothing_else(config: Path) -> None:
    def story(paper: PaperWorld) -> None:
        paper.servers["B"].buy(2, "EURUSD", "0.07", comment="by hand")

    done, paper = flatten(load(config, {}), story)
    assert len(done.closed) == 2
    assert done.failed == ()
    assert [position.lots for position in paper.servers["B"].positions(2)] == [D("0.07")]
    assert paper.servers["C"].positions(3) == ()


def test_what_cannot_be_closed_is_told_and_the_rest_is_closed(config: Path) -> None:
    def story(paper: PaperWorld) -> None:
        paper.servers["B"].online = False

    done, paper = flatten(load(config, {}), story)
    assert [line.partition(":")[0] for line in done.closed] == ["n"]
    assert [line.partition(":")[0] for line in done.failed] == ["f"]
    assert "cannot be reached" in done.failed[0]
    assert paper.servers["C"].positions(3) == ()


def test_a_ledger_that_knows_nothing_of_an_account_is_no_reason_to_leave_it_open(config: Path) -> None:
    async def main() -> tuple[PaperWorld, Flattened]:
        settings, paper = load(config, {}), PaperWorld(SystemClock())
        async with App(settings, SystemClock(), paper=paper):
            pass
        for name, login in (("B", 2), ("C", 3)):
            paper.servers[name].set_quote("EURUSD", "1.1", "1.1001")
            paper.servers[name].buy(login, "EURUSD", "0.10", comment="mc000100001")
        return paper, await flattening.flatten(settings, "*", lambda _: None, paper=paper)

    paper, done = asyncio.run(main())
    assert (len(done.closed), done.failed) == (2, ())
    assert paper.servers["C"].positions(3) == ()


def test_on_a_netting_account_another_hands_volume_is_left_alone(traded: Path) -> None:
    async def main() -> tuple[Position, ...]:
        settings, paper = load(traded, {}), PaperWorld(SystemClock())
        async with App(
            settings.model_copy(update={"ledger": load(CONFIG / "cross-broker.yaml", IN_MEMORY).ledger}),
            SystemClock(),
            paper=paper,
        ):
            pass
        paper.servers["C"].set_quote("EURUSD", "1.1", "1.1001")
        paper.servers["C"].buy(3, "EURUSD", "0.50", comment="mc000100001")  # 0.30 of it are ours, says the ledger.
        await flattening.flatten(settings, "n", lambda _: None, paper=paper)
        return paper.servers["C"].positions(3)

    assert [position.lots for position in asyncio.run(main())] == [D("0.20")]


def test_an_engine_that_comes_back_is_not_locked_out(config: Path) -> None:
    _, paper = flatten(load(config, {}), lambda _: None)
    assert [account.token_seen for name in "BC" for account in paper.servers[name].accounts.values()] == [1, 1]


def test_flatten_direct_by_the_ledger_takes_the_account_over(traded: Path) -> None:
    settings = load(traded, {})

    async def main() -> tuple[Flattened, int]:
        paper = PaperWorld(SystemClock())
        done = await flattening.flatten(settings, "f", lambda _: None, paper=paper)
        async with flattening.stores(settings) as (ledger, _):
            tokens = await Ledger(ledger._database, SystemClock(), "next").take(["follower:f"])
        return done, tokens["follower:f"]

    done, token = asyncio.run(main())
    assert done == Flattened()  # Another process's simulated account knows nothing of the position.
    assert token == 3


def test_flatten_direct_ends_in_words(traded: Path) -> None:
    assert "f: nothing of ours is open" in run("flatten", traded, "f", "--direct").stdout
    assert data("flatten", traded, "f", "--direct") == {"closed": [], "failed": []}


# Running ---------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to end it by")
def test_run_tells_what_it_does_and_ends_well_when_asked_to(config: Path) -> None:
    command = [sys.executable, "-m", "copier.cli", "run", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Watching m; following with f, n.")
        second = subprocess.run(command, capture_output=True, text=True, timeout=20)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    assert second.returncode == 1
    assert "another process on this machine already does this" in second.stderr
    assert "Traceback" not in second.stderr + err
    assert (process.returncode, out.splitlines()[-1]) == (0, "Stopped.")


def test_a_part_of_the_engine_is_refused_in_memory(config: Path) -> None:
    for arguments in (("watch", config, "m"), ("follow", config, "--name", "w")):
        result = run(*arguments)
        assert isinstance(result.exception, SettingsError)
        assert "lives inside one process" in str(result.exception)


def test_errors_end_with_one_message_and_their_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def failing(error: Exception) -> Callable[[], None]:
        def app() -> None:
            raise error

        return app

    for error, code in ((SettingsError(["a: wrong"]), 2), (CopierError("no"), 1), (KeyboardInterrupt(), 130)):
        monkeypatch.setattr(cli, "app", failing(error))  # type: ignore[arg-type]
        assert main_of([], monkeypatch) == code
    assert "Traceback" not in capsys.readouterr().err
