"""The manager's real child process: many logins, one process, threads that do not wait for each other."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from copier.clock import SystemClock
from copier.errors import OutcomeUnknown, Reason, Rejected, Unavailable
from copier.gateways.carriers import ChildLink
from copier.gateways.mt5_manager import Managers
from copier.gateways.remote import RemoteGateway
from copier.model import Permit, Side, TradeRequest, TradeResult
from copier.settings import Mt5ManagerSettings
from tests.fakes.mt5manager_stage import COMMAND

CLOCK = SystemClock()


@asynccontextmanager
async def office(folder: Path, plan: str = "", call_timeout_s: int = 10) -> AsyncIterator[tuple[RemoteGateway, RemoteGateway]]:
    """Open two logins of one manager."""
    managers = Managers((*COMMAND, plan))
    one, two = (
        managers.gateway(
            Mt5ManagerSettings(
                kind="mt5-manager",
                login=login,
                server="Broker-Demo",
                address="mt5.broker.example:443",
                manager="1000",
                password="secret",
                folder=folder,
                call_timeout_s=Decimal(call_timeout_s),
            ),
            CLOCK,
        )
        for login in ("5001", "5002")
    )
    try:
        await asyncio.gather(one.open(), two.open())
        yield one, two
    finally:
        await asyncio.gather(one.close(), two.close())


def permit(token: int = 1) -> Permit:
    return Permit(token=token, not_after_ms=CLOCK.now_ms() + 60_000)


async def opened(gateway: RemoteGateway, **more: int) -> TradeResult:
    order = TradeRequest(symbol="EURUSD", action=Side.BUY, lots=Decimal("0.10"), tag="mc0a1b2c3d")
    return await gateway.execute_trade(order, permit(**more))


async def test_two_logins_share_one_process_and_trade_each_its_own_account(tmp_path: Path) -> None:
    async with office(tmp_path) as (one, two):
        assert one._carrier._child is two._carrier._child  # type: ignore[attr-defined]
        ticket = (await opened(one)).ticket
        assert [each.ticket for each in (await one.get_positions()).positions] == [ticket]
        assert (await two.get_positions()).positions == ()
        assert (await one.get_positions()).positions[0].tag == "mc0a1b2c3d"


async def test_a_slow_answer_for_one_login_delays_no_other(tmp_path: Path) -> None:
    async with office(tmp_path, "slow-5002") as (one, two):
        slow = asyncio.create_task(opened(two))
        await asyncio.sleep(0.05)
        await opened(one)
        assert not slow.done()
        assert (await slow).lots == Decimal("0.10")


async def test_an_order_without_an_answer_is_unknown_and_neither_the_login_nor_its_neighbour_is_lost(tmp_path: Path) -> None:
    async with office(tmp_path, "hang-5002", call_timeout_s=3) as (one, two):
        with pytest.raises(OutcomeUnknown):
            await opened(two)
        assert one.connected
        assert two.connected
        await opened(one)
        assert (await two.get_account()).login == "5002"


async def test_an_order_is_unknown_when_the_process_dies_and_the_next_process_takes_over(tmp_path: Path) -> None:
    async with office(tmp_path, "die", call_timeout_s=5) as (one, two):
        with pytest.raises(OutcomeUnknown):
            await opened(one)
        for gateway in (one, two):
            for _ in range(100):
                if gateway.connected:
                    break
                await asyncio.sleep(0.1)
            assert (await gateway.get_account()).login == gateway.account.partition("@")[0]


@pytest.mark.skipif(sys.platform == "win32", reason="a process can only be stopped by a signal elsewhere")
async def test_a_process_that_says_nothing_any_more_is_killed_and_started_again(tmp_path: Path) -> None:
    async with office(tmp_path, call_timeout_s=3) as (one, two):
        link = one._carrier._child._link  # type: ignore[attr-defined]
        assert isinstance(link, ChildLink)
        os.kill(link.process.pid, signal.SIGSTOP)
        with pytest.raises(Unavailable):
            await one.get_account()
        await asyncio.wait_for(link.process.wait(), 5)
        for gateway in (one, two):
            for _ in range(100):
                if gateway.connected:
                    break
                await asyncio.sleep(0.1)
            assert (await gateway.get_account()).login == gateway.account.partition("@")[0]


async def test_a_change_is_told_to_its_own_login_only(tmp_path: Path) -> None:
    async with office(tmp_path) as (one, two):
        woken: list[str] = []
        assert one.wakes is not None
        assert two.wakes is not None
        one.wakes.on_change(lambda: woken.append("one"))
        two.wakes.on_change(lambda: woken.append("two"))
        await opened(one)
        for _ in range(100):
            if woken:
                break
            await asyncio.sleep(0.02)
        assert set(woken) == {"one"}


async def test_an_older_token_is_refused_for_this_login_and_not_for_its_neighbour(tmp_path: Path) -> None:
    async with office(tmp_path) as (one, two):
        await opened(one, token=7)
        await opened(two, token=3)
        with pytest.raises(Rejected) as caught:
            await opened(one, token=6)
        assert caught.value.reason is Reason.STALE_TOKEN


async def test_without_the_package_opening_says_what_is_missing(tmp_path: Path) -> None:
    settings = Mt5ManagerSettings(
        kind="mt5-manager",
        login="5001",
        server="Broker-Demo",
        address="a:443",
        manager="1000",
        password="secret",
        folder=tmp_path,
    )
    gateway = Managers().gateway(settings, CLOCK)
    with pytest.raises(Unavailable, match="MT5Manager package cannot be imported"):
        await gateway.open()
    await gateway.close()
