"""The journal of closed trades: a row for each, and a word to Redis and the web for each new row."""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis_client

from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_faults import Faults
from copier.gateways.paper_server import PaperServer
from copier.model import MarginMode
from tests.conftest import RedisServer
from tests.mql.build import MQL
from tests.mql.stage import LOGIN, MONDAY_NOON_MS, Expert, ShiftedClock, expert, mt5_terminal, need_gxx
from tests.mql.terminal import Terminal5

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]
JOURNAL = MQL / "mt5" / "TradeJournalDll.mq5"


def rows(path: Path) -> list[tuple[Any, ...]]:
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as database:
        names = "account, symbol, side, lots, open_price, close_price, profit, comment"
        try:
            return database.execute(f"SELECT {names} FROM closed_trades ORDER BY ticket").fetchall()
        except sqlite3.OperationalError:
            return []


async def until(path: Path, count: int) -> list[tuple[Any, ...]]:
    for _ in range(3000):
        if len(rows(path)) >= count:
            break
        await asyncio.sleep(0.01)
    return rows(path)


@asynccontextmanager
async def journal(folder: Path, **inputs: Any) -> AsyncIterator[tuple[PaperServer, Expert]]:
    need_gxx()
    clock = ShiftedClock(MONDAY_NOON_MS)
    server = PaperServer("Broker-Demo", clock=clock, server_offset_s=7200)
    server.add_account(PaperAccount(LOGIN, margin_mode=MarginMode.HEDGING))
    server.set_quote("EURUSD", "1.10000", "1.10010")
    host = Terminal5(mt5_terminal(server, Faults()))
    async with host:
        more = {"TimerMs": 5, "Database": folder / "trades.db", **inputs}
        async with expert("mt5", host, folder, clock=clock, source=JOURNAL, **more) as running:
            yield server, running


def trade(server: PaperServer, comment: str) -> None:
    server.buy(LOGIN, "EURUSD", "0.30", comment=comment)
    server.set_quote("EURUSD", "1.10110", "1.10120")
    server.close(LOGIN, next(iter(server.accounts[LOGIN].positions)))
    server.set_quote("EURUSD", "1.10000", "1.10010")


async def test_every_closed_trade_becomes_a_row_once_also_after_a_restart(tmp_path: Path) -> None:
    async with journal(tmp_path) as (server, running):
        trade(server, "\u20ac")
        wanted = (f"{LOGIN}@Broker-Demo", "EURUSD", "buy", "0.3", "1.10010", "1.10110", "30.00")
        assert [row[:7] for row in await until(tmp_path / "trades.db", 1)] == [wanted]
        await running.restart()
        trade(server, "again")
        assert [row[:7] for row in await until(tmp_path / "trades.db", 2)] == [wanted, wanted]


async def came(called: list[bytes], count: int) -> None:
    for _ in range(2000):
        if len(called) == count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{len(called)} calls, expected {count}")


async def test_redis_and_the_web_hear_of_each_new_trade_once(tmp_path: Path, needs_redis: RedisServer) -> None:
    called: list[bytes] = []

    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        called.append(await reader.readexactly(length))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    hook = await asyncio.start_server(web, "127.0.0.1", 0)
    inputs = {
        "RedisHost": "127.0.0.1",
        "RedisPort": needs_redis.port,
        "Hook": f"http://127.0.0.1:{hook.sockets[0].getsockname()[1]}/trades",
    }
    async with redis_client.Redis(port=needs_redis.port) as client, client.pubsub() as heard:
        await heard.subscribe("mt-copier-trades")
        assert await heard.get_message(timeout=5)
        async with journal(tmp_path, **inputs) as (server, running):
            for number in range(3):
                trade(server, f"trade {number}")
            told = [await heard.get_message(timeout=20) for _ in range(3)]
            await came(called, 3)
            await running.restart()
            trade(server, "after")
            told.append(await heard.get_message(timeout=20))
            await came(called, 4)
    messages = [json.loads(each["data"]) for each in told if each]
    assert [json.loads(each) for each in called] == messages
    assert len({each["deal"]["ticket"] for each in messages}) == 4
    assert {(each["account"], each["deal"]["entry"], each["deal"]["lots"]) for each in messages} == {
        (f"{LOGIN}@Broker-Demo", "out", 0.3)
    }
    hook.close()


async def test_a_database_that_cannot_be_opened_is_told_and_tried_again(tmp_path: Path) -> None:
    (tmp_path / "trades.db").mkdir()
    async with journal(tmp_path) as (server, running):
        trade(server, "x")
        for _ in range(2000):
            if any("the database" in said for said in running.said):
                break
            await asyncio.sleep(0.01)
        assert "TradeJournal: the database: the database refused" in running.said
        (tmp_path / "trades.db").rmdir()
        assert len(await until(tmp_path / "trades.db", 1)) == 1
