"""Signal folders: what a strategy drops is executed once, whatever is lost, repeated, torn or too old."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copier.app import App
from copier.clock import LoopClock, run_virtual
from copier.database import MEMORY, Database
from copier.errors import InvalidRequest, Reason, SettingsError
from copier.gateways.opening import PaperWorld
from copier.gateways.paper import PaperGateway
from copier.gateways.paper_faults import Operation, answer_lost, never_answered, not_sent, refuse
from copier.ledger import Ledger
from copier.model import Position
from copier.settings import PaperSettings, Settings, parse
from copier.signal_files import Dropped, read_signal
from copier.signals import SignalFolder

D = Decimal
EPOCH_MS = 1_767_600_000_000
BUY = '{"id": "one", "direction": "BUY", "symbol": "EURUSD", "lots": 0.29, "comment": "breakout"}'

SET = """
ledger: "sqlite://"
accounts:
  strategy: {kind: paper, login: 1, server: A, balance: 50000}
  f: {kind: paper, login: 2, server: B, balance: 50000}
masters:
  strategy: {account: strategy}
followers:
  f: {account: f, copies: [{master: strategy}]}
signals:
  breakout: {account: strategy, folder: FOLDER, symbols: [EURUSD, XAUUSD], lots_max: 0.5, orders_per_minute: 3}
"""


def settings(folder: Path) -> Settings:
    return parse(SET.replace("FOLDER", str(folder)))


class Desk:
    """A strategy's side: drops files, looks at what came back and at the accounts."""

    def __init__(self, app: App, folder: Path) -> None:
        self.app = app
        self.folder = folder

    @property
    def gateway(self) -> PaperGateway:
        gateway = self.app.gateways["strategy"]
        assert isinstance(gateway, PaperGateway)
        return gateway

    def drop(self, name: str, text: str | bytes, *, age_s: float = 0.0) -> None:
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        at_s = self.app.clock.now_ms() / 1000 - age_s
        os.utime(path, (at_s, at_s))

    def positions(self, server: str = "A", login: int = 1) -> tuple[Position, ...]:
        return self.app.paper.servers[server].positions(login)

    def outcome(self, stem: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "archive" / f"{stem}.outcome.json").read_text())
        return found

    def reason(self, stem: str) -> str:
        return (self.folder / "rejected" / f"{stem}.reason.txt").read_text()

    def waiting(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.is_file())


def play(folder: Path, story: Callable[[Desk], Awaitable[None]]) -> None:
    async def main() -> None:
        async with App(settings(folder), LoopClock(EPOCH_MS)) as app:
            task = asyncio.create_task(app.run())
            await asyncio.sleep(3)
            await story(Desk(app, folder))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run_virtual(main())


def test_a_dropped_signal_is_traded_archived_with_its_outcome_and_copied(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.drop("go.json", BUY)
        await asyncio.sleep(2)
        (position,) = desk.positions()
        assert (position.symbol, position.lots) == ("EURUSD", D("0.29"))
        assert position.comment == f"{position.tag} breakout"
        outcome = desk.outcome("go")
        assert (outcome["id"], outcome["state"], outcome["ticket"]) == ("one", "done", position.ticket)
        assert (tmp_path / "archive" / "go.json").read_text() == BUY
        assert desk.waiting() == []
        assert [each.lots for each in desk.positions("B", 2)] == [D("0.29")]

    play(tmp_path, story)


def test_a_signal_dropped_again_is_answered_the_same_and_not_traded_again(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        for name in ("go.json", "again.json"):
            desk.drop(name, BUY)
            await asyncio.sleep(1)
        assert len(desk.positions()) == 1
        assert desk.outcome("go") == desk.outcome("again")
        desk.drop("other.json", BUY.replace("0.29", "0.30"))
        await asyncio.sleep(1)
        assert len(desk.positions()) == 1
        assert "one was that of another signal already, which is done" in desk.reason("other")

    play(tmp_path, story)


def test_an_order_whose_answer_is_lost_is_found_by_its_tag_and_not_sent_again(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.gateway.faults.next(Operation.EXECUTE, answer_lost(execute_s=1))
        desk.drop("go.json", BUY)
        await asyncio.sleep(20)
        assert len(desk.positions()) == 1
        assert desk.outcome("go")["state"] == "done"

    play(tmp_path, story)


def test_an_order_that_vanished_is_told_and_never_sent_again(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.gateway.faults.next(Operation.EXECUTE, never_answered(executed=False))
        desk.drop("go.json", BUY)
        await asyncio.sleep(60)
        assert desk.positions() == ()
        assert desk.outcome("go")["state"] in ("unknown", "refused")
        desk.drop("go.json", BUY)
        await asyncio.sleep(2)
        assert desk.positions() == ()

    play(tmp_path, story)


def test_what_was_surely_not_sent_is_sent_a_moment_later(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.gateway.faults.next(Operation.EXECUTE, not_sent(), times=2)
        desk.drop("go.json", BUY)
        await asyncio.sleep(5)
        assert len(desk.positions()) == 1
        assert desk.outcome("go")["state"] == "done"

    play(tmp_path, story)


def test_a_refused_order_is_archived_with_the_brokers_reason(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.gateway.faults.next(Operation.EXECUTE, refuse(Reason.MARKET_CLOSED))
        desk.drop("go.json", BUY)
        await asyncio.sleep(2)
        assert desk.positions() == ()
        assert desk.outcome("go")["state"] == "refused"

    play(tmp_path, story)


def test_a_signal_under_way_when_the_process_dies_is_settled_by_the_next_one(tmp_path: Path) -> None:
    async def main() -> None:
        clock = LoopClock(EPOCH_MS)
        world = PaperWorld(clock)
        prices = asyncio.create_task(world.run())
        database = Database(MEMORY)
        await database.open()
        breakout = settings(tmp_path).signals["breakout"]
        account = settings(tmp_path).accounts["strategy"]
        assert isinstance(account, PaperSettings)
        gateway = world.gateway(account)
        (tmp_path / "go.json").write_text(BUY)
        os.utime(tmp_path / "go.json", (EPOCH_MS / 1000 + 3, EPOCH_MS / 1000 + 3))
        gateway.faults.next(Operation.EXECUTE, never_answered(executed=True, execute_s=0.1))
        await asyncio.sleep(3)
        for life, life_s in enumerate((0.15, 5.0)):
            folder = SignalFolder("breakout", breakout, gateway, Ledger(database, clock, f"life {life}"), clock)
            task = asyncio.create_task(folder.run())
            await asyncio.sleep(life_s)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert len(world.servers["A"].positions(1)) == 1
            assert (tmp_path / "go.json").exists() == (life == 0)
        prices.cancel()
        assert json.loads((tmp_path / "archive" / "go.outcome.json").read_text())["state"] == "done"

    run_virtual(main())


def test_a_close_and_a_modify_name_the_signal_that_opened(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.drop("a.json", BUY)
        await asyncio.sleep(1)
        (position,) = desk.positions()
        stop = position.open_price - D("0.01")
        desk.drop("b.json", f'{{"direction": "modify", "of": "one", "stopLoss": {stop}}}')
        await asyncio.sleep(1)
        assert desk.positions()[0].stop_loss == stop
        desk.drop("c.csv", "direction;of;lots\nCLOSE;one;0.09\n")
        await asyncio.sleep(1)
        assert [each.lots for each in desk.positions()] == [D("0.20")]
        desk.gateway.faults.next(Operation.CLOSE, never_answered(executed=False))
        desk.drop("d.json", '{"direction": "close", "of": "one"}')
        await asyncio.sleep(60)
        assert desk.positions() == ()
        assert [desk.outcome(stem)["state"] for stem in "abcd"] == ["done"] * 4

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("x.json", '{"direction": "buy", "symbol": "GBPUSD", "lots": 0.1}', "expected one of EURUSD, XAUUSD"),
        ("x.json", '{"direction": "buy", "symbol": "EURUSD", "lots": 0.6}', "expected at most 0.5 (lots_max)"),
        ("x.json", '{"direction": "buy", "symbol": "EURUSD", "lots": -1}', "positive number"),
        ("x.json", '{"direction": "buy", "symbol": "EURUSD", "lots": 0}', "positive"),
        ("x.json", '{"direction": "buy", "symbol": "EURUSD", "lots": "NaN"}', "positive number"),
        ("x.json", '{"direction": "buy", "symbol": "EURUSD"}', "lots: missing"),
        ("x.json", '{"direction": "hold", "symbol": "EURUSD", "lots": 0.1}', "direction"),
        ("x.json", '{"direction": "buy", "symbol": "EURUSD", "lots": 0.1, "stopLos": 1}', "stopLos"),
        ("x.json", '{"direction": "buy", "symbol": "EURUSD", "lots": 0.1, "stopLoss": 1.2, "takeProfit": 1.1}', "below take"),
        ("x.json", '{"direction": "buy", "symbol": "EURUSD", "lots": 0.1', "JSON object"),
        ("x.json", b"\xff\xfe{", "UTF-8"),
        ("x.json", b"[" * 60_000, "JSON object"),
        ("x.json", b" " * 70_000, "at most 65536 bytes"),
        ("x.csv", "direction,symbol,lots\nbuy,EURUSD,0.1", "newline at the end"),
        ("x.csv", "direction,symbol,lots\nbuy,EURUSD,0.1\nbuy,EURUSD,0.1\n", "one signal per file"),
        ("x.csv", "direction,symbol,lots\nbuy,EURUSD\n", "a value under each"),
        ("x.json", '{"direction": "close", "of": "nobody"}', "no signal nobody"),
        ("x.json", '{"direction": "close"}', "the opening signal's id"),
    ],
)
def test_a_bad_file_is_rejected_with_the_reason_and_trades_nothing(tmp_path: Path, name: str, text: str, reason: str) -> None:
    async def story(desk: Desk) -> None:
        desk.drop(name, text)
        await asyncio.sleep(3)
        assert reason in desk.reason("x")
        assert desk.positions() == ()
        assert desk.waiting() == []

    play(tmp_path, story)


def test_a_file_still_being_written_waits_for_its_end(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        for end in range(10, len(BUY), 20):
            desk.drop("slow.json", BUY[:end])
            await asyncio.sleep(0.9)
        desk.drop("slow.json", BUY)
        await asyncio.sleep(1)
        assert desk.outcome("slow")["state"] == "done"

    play(tmp_path, story)


def test_a_file_that_lay_too_long_opens_nothing_but_a_late_close_still_closes(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.drop("old.json", BUY.replace("one", "old"), age_s=31)
        desk.drop("young.json", BUY, age_s=29)
        await asyncio.sleep(0.9)
        assert "at most 30 s old" in desk.reason("old")
        assert len(desk.positions()) == 1
        desk.drop("close.json", '{"direction": "close", "of": "one"}', age_s=3_600)
        await asyncio.sleep(1)
        assert desk.positions() == ()

    play(tmp_path, story)


def test_no_more_opens_than_allowed_leave_within_a_minute(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        for number in range(5):
            desk.drop(f"s{number}.json", BUY.replace("one", f"s{number}"))
        await asyncio.sleep(2)
        assert len(desk.positions()) == 3
        assert "at most 3 opens a minute" in desk.reason("s4")

    play(tmp_path, story)


def test_hidden_temporary_and_foreign_files_are_left_alone(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        for name in (".go.json", "go.json.tmp", "~go.json", "readme.txt"):
            desk.drop(name, BUY)
        (tmp_path / "folder.json").mkdir()
        (tmp_path / "link.json").symlink_to("/etc/hostname")
        await asyncio.sleep(3)
        assert desk.positions() == ()
        assert desk.waiting() == [".go.json", "go.json.tmp", "link.json", "readme.txt", "~go.json"]

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        (("account: strategy, folder", "account: nobody, folder"), "there is no account 'nobody'"),
        (("account: strategy, folder", "account: f, folder"), "follower f, which the engine alone trades"),
    ],
)
def test_a_folder_needs_an_account_that_nobody_else_trades(change: tuple[str, str], mistake: str) -> None:
    with pytest.raises(SettingsError, match=mistake):
        parse(SET.replace(*change).replace("FOLDER", "in"))


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode), st.sampled_from(["x.json", "x.csv"]))
def test_any_bytes_are_a_signal_or_the_one_error(body: bytes, name: str) -> None:
    try:
        read_signal(Dropped(path=Path(name), body=body, at_ms=0))
    except InvalidRequest as error:
        assert str(error)


def test_a_signal_without_an_id_is_named_after_its_file_and_moment() -> None:
    body = b'{"direction": "buy", "symbol": "EURUSD", "lots": "0.1"}'
    first, second = (read_signal(Dropped(path=Path("my signal.json"), body=body, at_ms=at)).id for at in (5, 6))
    assert (first, second) == ("my_signal@5", "my_signal@6")
