"""The Expert Advisors that speak by the library: over a pipe and TLS too, and from one connection to the next."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copier.errors import Rejected, Unavailable
from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_faults import Faults
from copier.gateways.paper_server import PaperServer
from copier.gateways.remote import RemoteGateway
from copier.model import CloseRequest, MarginMode, Permit, Side, TradeRequest
from tests.dll.build import need
from tests.dll.servers import authority
from tests.mql.stage import LOGIN, MONDAY_NOON_MS, Expert, ShiftedClock, bridges, need_gxx

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]
on_both = pytest.mark.parametrize("platform", ["mt5", "mt4"])


def broker(clock: ShiftedClock, platform: str) -> PaperServer:
    server = PaperServer("Broker-Demo", clock=clock, server_offset_s=7200)
    server.add_account(PaperAccount(LOGIN, margin_mode=MarginMode.MT4 if platform == "mt4" else MarginMode.HEDGING))
    server.set_quote("EURUSD", "1.10000", "1.10010")
    return server


@asynccontextmanager
async def bridged(platform: str, way: str, **inputs: Any) -> AsyncIterator[tuple[RemoteGateway, PaperServer, Expert, Permit]]:
    need_gxx()
    clock = ShiftedClock(MONDAY_NOON_MS)
    server = broker(clock, platform)
    with tempfile.TemporaryDirectory() as name:
        async with bridges(platform, way)(server, clock, Faults(), Path(name), **inputs) as (gateway, running):
            await gateway.open()
            yield gateway, server, running, Permit(token=1, not_after_ms=clock.now_ms() + 60_000)


BUY = TradeRequest(symbol="EURUSD", action=Side.BUY, lots=Decimal("0.30"), comment="\u20ac")


@on_both
@pytest.mark.parametrize("way", ["dll", "dll-pipe"])
async def test_a_trade_is_opened_and_closed_by_the_library(platform: str, way: str) -> None:
    async with bridged(platform, way) as (gateway, server, _, permit):
        opened = await gateway.execute_trade(BUY, permit)
        (position,) = (await gateway.get_positions()).positions
        assert (position.ticket, position.comment) == (opened.ticket, "\u20ac")
        await gateway.close_position(CloseRequest(ticket=opened.ticket), permit)
        assert not server.accounts[LOGIN].positions


@on_both
@pytest.mark.parametrize("way", ["dll", "dll-pipe"])
async def test_an_expert_advisor_that_was_restarted_dials_again_and_still_knows_the_owner(platform: str, way: str) -> None:
    async with bridged(platform, way) as (gateway, server, running, permit):
        await gateway.execute_trade(BUY, Permit(token=5, not_after_ms=permit.not_after_ms))
        await running.restart()
        for _ in range(1000):
            try:
                assert (await gateway.get_positions()).positions
                break
            except Unavailable:
                await asyncio.sleep(0.01)
        with pytest.raises(Rejected):
            await gateway.execute_trade(BUY, permit)
        assert len(server.accounts[LOGIN].positions) == 1


@on_both
async def test_by_tls_an_engine_is_trusted_that_has_a_certificate_for_the_host(platform: str) -> None:
    need_gxx()
    with tempfile.TemporaryDirectory() as name:
        secure, trusted, _ = authority(Path(name), need("openssl", "openssl"))
        inputs = {"Host": "localhost", "Tls": 1, "SSL_CERT_FILE": trusted}
        async with bridged(platform, "dll", tls=secure, **inputs) as (gateway, server, _, permit):
            await gateway.execute_trade(BUY, permit)
            assert len(server.accounts[LOGIN].positions) == 1


@pytest.mark.parametrize(
    ("host", "authorities"), [("127.0.0.1", "ca.pem"), ("localhost", "none")], ids=["another name", "an authority nobody trusts"]
)
async def test_by_tls_an_engine_that_cannot_prove_who_it_is_hears_no_greeting(host: str, authorities: str) -> None:
    need_gxx()
    clock = ShiftedClock(MONDAY_NOON_MS)
    server = broker(clock, "mt5")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        secure, *_ = authority(folder, need("openssl", "openssl"))
        inputs = {"Host": host, "Tls": 1, "SSL_CERT_FILE": folder / authorities}
        async with bridges("mt5", "dll")(server, clock, Faults(), folder, tls=secure, **inputs) as (gateway, running):
            with pytest.raises(Unavailable):
                await gateway.open()
            for _ in range(2000):
                if any("link ended" in said for said in running.said):
                    break
                await asyncio.sleep(0.01)
            assert any(f"no secure connection could be made: {host}" in said for said in running.said), running.said
