"""The child of a MetaTrader 5 terminal, as a real process: killed when it hangs, started again, told nothing in the open."""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copier.clock import SystemClock
from copier.errors import OutcomeUnknown, Reason, Rejected, Unavailable
from copier.gateways import remote
from copier.gateways.carriers import environment_without_secrets
from copier.gateways.mt5 import mt5_gateway
from copier.gateways.mt5_session import Mt5Opening
from copier.gateways.remote import RemoteGateway
from copier.model import Permit, Side, TradeRequest
from copier.settings import Mt5Settings
from tests.fakes.fake_metatrader5 import FakeTerminal
from tests.fakes.mt5_fake_terminal import OrderFault
from tests.fakes.mt5_stage import Mt5Scene, TerminalHost, paper_terminal

PASSWORD = "planted-9f3c1e-secret"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE_MIN_S", 0.05)


def settings_of(terminal: FakeTerminal, **more: Any) -> Mt5Settings:
    fields = {
        "kind": "mt5",
        "login": terminal.login,
        "server": terminal.server.name,
        "path": terminal.path,
        "password": PASSWORD,
        "sync_s": 0,
        "call_timeout_s": 5,
    }
    return Mt5Settings.model_validate(fields | more)


@asynccontextmanager
async def child(
    tmp_path: Path, terminal: FakeTerminal | None = None, **settings: Any
) -> AsyncIterator[tuple[Mt5Scene, TerminalHost]]:
    """Start a child beside a fake terminal; the terminal survives it."""
    clock = SystemClock()
    terminal = terminal or paper_terminal(clock)
    terminal.data_path = terminal.data_path or str(tmp_path)
    terminal.passwords = {5001: PASSWORD}
    async with TerminalHost(terminal) as host:
        gateway = mt5_gateway(settings_of(terminal, **settings), clock, host.command)
        await gateway.open()
        try:
            yield Mt5Scene(clock=clock, server=terminal.server, terminal=terminal, gateway=gateway), host
        finally:
            await gateway.close()


async def eventually(read: Callable[[], Awaitable[Any]]) -> Any:
    """Return what a read gives once it is no longer unavailable."""
    while True:
        try:
            return await read()
        except Unavailable:
            await asyncio.sleep(0.05)


def process_of(gateway: RemoteGateway) -> Any:
    return gateway._session.link.process  # type: ignore[union-attr]


async def test_a_trade_goes_through_a_real_process_and_back(tmp_path: Path) -> None:
    async with child(tmp_path) as (scene, _):
        opened = await scene.open("0.30", stop_loss=Decimal("1.09"), tag="mc0a1b2c3d4e5f")
        ((position,),) = [await scene.positions()]
        assert (position.ticket, position.lots, position.tag) == (opened.ticket, Decimal("0.3"), "mc0a1b2c3d4e5f")
        assert (await scene.modify(opened.ticket, target="1.12")).ticket == opened.ticket
        assert (await scene.close(opened.ticket)).lots == Decimal("0.3")
        assert await scene.positions() == ()
        assert process_of(scene.gateway).pid != os.getpid()


async def test_a_hung_order_is_killed_at_its_deadline_as_unknown_and_the_position_is_there_once(tmp_path: Path) -> None:
    async with child(tmp_path, call_timeout_s=1) as (scene, _):
        first = process_of(scene.gateway)
        scene.terminal.next_orders.append(OrderFault(hangs=True))
        began = time.monotonic()
        with pytest.raises(OutcomeUnknown, match="no answer to execute_trade within 1 s"):
            await scene.open()
        assert time.monotonic() - began < 3
        assert await eventually(scene.positions)
        assert len(scene.account.positions) == 1
        assert len(scene.terminal.sent) == 1
        assert first.returncode == (1 if sys.platform == "win32" else -signal.SIGKILL)
        assert process_of(scene.gateway).pid != first.pid


async def test_a_hung_read_is_unavailable_and_the_next_life_reads_again(tmp_path: Path) -> None:
    async with child(tmp_path, call_timeout_s=1) as (scene, _):
        await scene.open()
        scene.terminal.hangs.add("positions_get")
        with pytest.raises(Unavailable, match="no answer"):
            await scene.positions()
        scene.terminal.hangs.clear()
        assert len(await eventually(scene.positions)) == 1


async def test_a_child_that_is_killed_from_outside_is_started_again(tmp_path: Path) -> None:
    async with child(tmp_path) as (scene, _):
        await scene.open()
        process_of(scene.gateway).kill()
        await process_of(scene.gateway).wait()
        assert len(await eventually(scene.positions)) == 1


async def test_an_order_under_way_in_a_child_that_dies_is_unknown(tmp_path: Path) -> None:
    async with child(tmp_path) as (scene, _):
        scene.terminal.next_orders.append(OrderFault(hangs=True))
        order = asyncio.create_task(scene.open())
        while not scene.terminal.sent:  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.01)
        process_of(scene.gateway).kill()
        with pytest.raises(OutcomeUnknown):
            await order
        assert len(await eventually(scene.positions)) == 1


async def test_a_terminal_that_dies_comes_back_empty_and_then_full_never_yields_an_empty_read(tmp_path: Path) -> None:
    async with child(tmp_path, sync_s=2) as (scene, _):
        await scene.open()
        await scene.positions()
        scene.terminal.synchronise_s = 1.0
        scene.terminal.crash()
        seen, failed = [], 0
        end = time.monotonic() + 4
        while time.monotonic() < end:
            try:
                seen.append(len(await scene.positions()))
            except Unavailable:
                failed += 1
            await asyncio.sleep(0.02)
        assert set(seen) == {1}
        assert failed


@pytest.mark.timeout(90)
async def test_a_hang_of_one_of_twenty_children_delays_no_other(tmp_path: Path) -> None:
    clock = SystemClock()
    terminals = [paper_terminal(clock, 6000 + 10 * index) for index in range(20)]
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(TerminalHost(*terminals))
        gateways = []
        for terminal in terminals:
            terminal.data_path = str(tmp_path)
            gateway = mt5_gateway(settings_of(terminal, call_timeout_s=20), clock, host.command)
            stack.push_async_callback(gateway.close)
            gateways.append(gateway)
        await asyncio.gather(*(gateway.open() for gateway in gateways))
        terminals[7].hangs.add("positions_get")
        hung = asyncio.create_task(gateways[7].get_positions())
        await asyncio.sleep(0.1)
        began = time.monotonic()
        others = [gateway for index, gateway in enumerate(gateways) if index != 7]
        answers = await asyncio.gather(*(gateway.get_positions() for gateway in others))
        assert len(answers) == 19
        assert {answer.account for answer in answers} == {gateway.account for gateway in others}
        assert time.monotonic() - began < 10
        assert not hung.done()
        gateways[7]._session.link.overdue()  # type: ignore[union-attr]
        with pytest.raises(Unavailable):
            await hung


async def test_the_child_calls_when_something_changed(tmp_path: Path) -> None:
    async with child(tmp_path, poll_ms=20) as (scene, _):
        woken = asyncio.Event()
        assert scene.gateway.wakes is not None
        await scene.positions()  # what changes before the first read is in the first read
        scene.gateway.wakes.on_change(woken.set)
        scene.server.buy(5001, "EURUSD", "0.10")
        await asyncio.wait_for(woken.wait(), 5)


async def test_two_children_on_one_terminal_share_the_owners_token(tmp_path: Path) -> None:
    async with child(tmp_path) as (scene, host):
        successor = mt5_gateway(settings_of(scene.terminal), scene.clock, host.command)
        await successor.open()
        try:
            request = TradeRequest(symbol="EURUSD", action=Side.BUY, lots=Decimal("0.1"))
            await successor.execute_trade(request, scene.permit(token=8))
            with pytest.raises(Rejected) as caught:
                await scene.gateway.execute_trade(request, scene.permit(token=7))
            assert caught.value.reason is Reason.STALE_TOKEN
            assert len(scene.terminal.sent) == 1
        finally:
            await successor.close()


async def test_a_token_survives_the_child_that_saw_it(tmp_path: Path) -> None:
    async with child(tmp_path) as (scene, _):
        request = TradeRequest(symbol="EURUSD", action=Side.BUY, lots=Decimal("0.1"))
        await scene.gateway.execute_trade(request, scene.permit(token=9))
        terminal = scene.terminal
    async with child(tmp_path, terminal) as (scene, _):
        with pytest.raises(Rejected) as caught:
            await scene.gateway.execute_trade(request, scene.permit(token=8))
        assert caught.value.reason is Reason.STALE_TOKEN


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"password": "wrong-" + PASSWORD}, "Login refused: mend login, password or server"),
        ({"path": "C:\\nowhere\\terminal64.exe"}, "could not be started or reached"),
        ({"login": 5002, "password": None}, "logged in to 5001@Broker-Demo, expected 5002@Broker-Demo"),
    ],
)
async def test_a_child_that_cannot_open_its_terminal_says_what_to_mend(tmp_path: Path, wrong: dict[str, Any], words: str) -> None:
    terminal = paper_terminal(SystemClock())
    terminal.data_path, terminal.passwords = str(tmp_path), {5001: PASSWORD}
    async with TerminalHost(terminal) as host:
        gateway = mt5_gateway(settings_of(terminal, **wrong), SystemClock(), host.command)
        with pytest.raises(Unavailable, match=words):
            await gateway.open()
        await gateway.close()


@pytest.mark.skipif(sys.platform == "win32", reason="on Windows the package may be installed")
async def test_without_the_package_the_child_says_what_is_missing() -> None:
    gateway = mt5_gateway(settings_of(paper_terminal(SystemClock())), SystemClock())
    with pytest.raises(Unavailable, match="MetaTrader5 package cannot be imported"):
        await gateway.open()
    await gateway.close()


async def test_a_command_that_does_not_exist_is_told() -> None:
    settings = settings_of(paper_terminal(SystemClock()), python=["no-such-python"])
    with pytest.raises(Unavailable, match="no-such-python cannot be started"):
        await mt5_gateway(settings, SystemClock()).open()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to look into another process")
async def test_the_password_is_in_no_argument_environment_log_or_repr(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_ACCOUNT_PASSWORD", PASSWORD)
    caplog.set_level(logging.DEBUG)
    async with child(tmp_path) as (scene, _):
        await scene.open()
        process = Path(f"/proc/{process_of(scene.gateway).pid}")
        assert PASSWORD.encode() not in (process / "cmdline").read_bytes()
        assert PASSWORD.encode() not in (process / "environ").read_bytes()
        process_of(scene.gateway).kill()
        await eventually(scene.positions)
    assert PASSWORD not in caplog.text
    assert PASSWORD not in repr(Mt5Opening(account="1@a", password=PASSWORD))
    assert PASSWORD not in repr(settings_of(scene.terminal))
    assert "child: connected to terminal build 5200" in caplog.text


def test_a_child_inherits_no_variable_that_sounds_like_a_secret() -> None:
    given: Any = {"PATH": "/bin", "MASTER_PASSWORD": "x", "REDIS_SECRET": "y", "api_key": "z", "APPDATA": "a"}
    assert environment_without_secrets(given) == {"PATH": "/bin", "APPDATA": "a"}


async def test_a_child_leaves_when_its_input_ends(tmp_path: Path) -> None:
    async with child(tmp_path) as (scene, host):
        process = process_of(scene.gateway)
    assert process.returncode == 0
    assert host.calls[-1] == "shutdown"


async def test_an_order_too_late_for_its_permit_is_refused_by_the_child_too(tmp_path: Path) -> None:
    async with child(tmp_path) as (scene, _):
        scene.gateway._clock = _Behind()
        request = TradeRequest(symbol="EURUSD", action=Side.BUY, lots=Decimal("0.1"))
        with pytest.raises(Rejected) as caught:
            await scene.gateway.execute_trade(request, Permit(token=1, not_after_ms=scene.clock.now_ms() - 1000))
        assert caught.value.reason is Reason.TOO_LATE
        assert scene.terminal.sent == []


class _Behind:
    """A clock so slow that nothing ever seems too late."""

    def now_ms(self) -> int:
        return 0
