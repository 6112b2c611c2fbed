"""Our Expert Advisors as running programs: what they remember when killed, what they refuse, how they come back."""

import asyncio
import csv
import hashlib
import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copier.errors import InvalidRequest, OutcomeUnknown, Reason, Rejected, Unavailable
from copier.gateways import bridge_link
from copier.gateways import told as told_module
from copier.gateways.bridge_greeting import proof_of, read_hello
from copier.gateways.bridge_port import tls_of
from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_faults import Faults
from copier.gateways.paper_server import PaperServer
from copier.gateways.remote import RemoteGateway
from copier.model import (
    CloseRequest,
    DealType,
    MarginMode,
    PendingType,
    Permit,
    Position,
    Side,
    Timeframe,
    TradeRequest,
    TradeResult,
)
from copier.wire import DEALS_PER_FRAME, PROTOCOL_VERSION, Op, encode_request
from tests.conftest import absent
from tests.mql.build import MQL, has_openssl
from tests.mql.stage import (
    INPUTS,
    LOGIN,
    MONDAY_NOON_MS,
    SECRET,
    Expert,
    ShiftedClock,
    bridges,
    expert,
    mt5_terminal,
    need_gxx,
)
from tests.mql.terminal import Terminal4, Terminal5

pytestmark = pytest.mark.server
WAYS = {"mt5": ("tcp", "files", "pipe", "http", "websocket"), "mt4": ("files", "pipe", "http")}
KINDS = [(platform, way) for platform, ways in WAYS.items() for way in ways]


LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def on_kinds(kinds: list[tuple[str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("platform", "carrier"), [pytest.param(*kind, id="-".join(kind)) for kind in kinds])


on_every_kind = on_kinds(KINDS)
on_every_port = on_kinds([kind for kind in KINDS if kind[1] in ("tcp", "http", "websocket")])


@dataclass(kw_only=True)
class Scene:
    clock: ShiftedClock
    server: PaperServer
    faults: Faults
    folder: Path
    gateway: RemoteGateway
    expert: Expert

    @property
    def account(self) -> PaperAccount:
        return self.server.accounts[LOGIN]

    def permit(self, token: int = 1, within_s: float = 60) -> Permit:
        return Permit(token=token, not_after_ms=self.clock.now_ms() + round(within_s * 1000))

    async def open(self, lots: str = "0.30", symbol: str = "EURUSD", token: int = 1, **more: Any) -> TradeResult:
        request = TradeRequest(symbol=symbol, action=Side.BUY, lots=Decimal(lots), **more)
        return await self.gateway.execute_trade(request, self.permit(token))


def broker(clock: ShiftedClock, mode: MarginMode = MarginMode.HEDGING) -> PaperServer:
    server = PaperServer("Broker-Demo", clock=clock, server_offset_s=7200)
    server.add_account(PaperAccount(LOGIN, margin_mode=mode))
    server.set_quote("EURUSD", "1.10000", "1.10010")
    server.set_quote("XAUUSD", "2650.50", "2650.80")
    return server


@asynccontextmanager
async def scene(platform: str, carrier: str, mode: MarginMode | None = None, **inputs: Any) -> AsyncIterator[Scene]:
    need_gxx()
    clock = ShiftedClock(MONDAY_NOON_MS)
    server, faults = broker(clock, mode or (MarginMode.MT4 if platform == "mt4" else MarginMode.HEDGING)), Faults()
    with tempfile.TemporaryDirectory() as name:
        async with bridges(platform, carrier)(server, clock, faults, Path(name), **inputs) as (gateway, running):
            await gateway.open()
            yield Scene(clock=clock, server=server, faults=faults, folder=Path(name), gateway=gateway, expert=running)


# what the trader's inputs allow


@on_every_kind
async def test_the_inputs_cap_lots_whatever_the_frames_say(platform: str, carrier: str) -> None:
    async with scene(platform, carrier, LotsMax="0.20") as world:
        with pytest.raises(Rejected, match=r"LotsMax allows 0\.2 lots, not 0\.3") as caught:
            await world.open("0.30")
        assert caught.value.reason is Reason.LIMIT
        assert (await world.open("0.20")).lots == Decimal("0.20")


@on_every_kind
async def test_the_inputs_cap_symbols_for_opens_and_never_for_closes(platform: str, carrier: str) -> None:
    async with scene(platform, carrier, Symbols="XAUUSD,EURUSDX") as world:
        with pytest.raises(Rejected, match="Symbols does not list EURUSD"):
            await world.open()
        world.server.buy(LOGIN, "EURUSD", "0.10")
        (position,) = (await world.gateway.get_positions()).positions
        await world.gateway.close_position(CloseRequest(ticket=position.ticket), world.permit())
        assert not world.account.positions


async def test_a_short_secret_does_not_start() -> None:
    need_gxx()
    clock = ShiftedClock(MONDAY_NOON_MS)
    with tempfile.TemporaryDirectory() as name:
        async with expert("mt5", None, Path(name), clock=clock, **{**INPUTS, "Secret": "too short"}) as running:
            assert await asyncio.wait_for(running.process.wait(), 5) == 3


async def test_an_engine_that_does_not_know_the_secret_gets_no_frame_answered() -> None:
    async with listening() as (world, meet):
        line = await meet(secret="another secret of the tests")
        await line.gone()
        assert any("does not know this account's secret" in said for said in world.expert.said)


# who is let in: a line in the log at both ends


@on_every_kind
async def test_an_expert_advisor_with_another_secret_says_so_and_so_does_the_engine(
    platform: str, carrier: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with refused(platform, carrier, "does not know this account's secret", Secret="another secret of the tests"):
        await until(lambda: "the Expert Advisor refused: the other end does not know" in caplog.text)


@on_kinds([kind for kind in KINDS if kind[1] != "files"])
async def test_a_terminal_logged_in_elsewhere_is_told_which_account_nobody_waits_for(
    platform: str, carrier: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with refused(
        platform, carrier, f"refused: nobody here waits for {LOGIN}@Broker-Demo", account=f"{LOGIN + 1}@Broker-Demo"
    ):
        await until(lambda: f"not let in: nobody here waits for {LOGIN}@Broker-Demo" in caplog.text)


@pytest.fixture(scope="session")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our sources as they may be some day: of the next protocol."""
    folder = tmp_path_factory.mktemp("newer") / "mql"
    shutil.copytree(MQL, folder)
    source = folder / "shared" / "Dispatch.mqh"
    text = source.read_text(encoding="ascii")
    now, then = f"#define PROTOCOL_VERSION {PROTOCOL_VERSION}\n", f"#define PROTOCOL_VERSION {PROTOCOL_VERSION + 1}\n"
    assert text.count(now) == 1
    source.write_text(text.replace(now, then), encoding="ascii")
    return folder


@on_kinds([*KINDS, ("mt5", "dll"), ("mt5", "dll-pipe"), ("mt4", "dll")])
async def test_a_newer_expert_advisor_is_refused_and_both_ends_say_which_to_update(
    platform: str, carrier: str, newer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = f"speaks protocol {PROTOCOL_VERSION + 1}, the engine {PROTOCOL_VERSION}: update the older one"
    async with refused(platform, carrier, f"link ended: refused: CopierBridge 1.0 {words}", sources=newer):
        await until(lambda: f"not let in: CopierBridge 1.0 {words}" in caplog.text)


@on_every_kind
async def test_a_frame_above_the_bound_ends_the_link_at_the_expert_advisor(platform: str, carrier: str) -> None:
    async with scene(platform, carrier) as world:
        link = world.gateway._session.link  # type: ignore[union-attr]
        sending = asyncio.ensure_future(link._link._link.send(b'{"ping":"' + b"x" * 4_200_000 + b'"}'))  # type: ignore[attr-defined]
        await until(lambda: any("too long" in said for said in world.expert.said))
        await until(lambda: world.gateway._session is not None and world.gateway._session.link is not link)
        await asyncio.gather(sending, return_exceptions=True)
        assert not (await world.gateway.get_positions()).positions


async def test_an_engine_that_reads_nothing_holds_the_expert_advisor_up_for_a_moment_only() -> None:
    async with listening() as (world, meet):
        line = await meet()
        line.writer.write(b'{"id":1,"op":"get_account","params":{}}\n' * 20_000)
        await until(lambda: any("does not read" in said for said in world.expert.said))
        await meet()


async def test_an_engine_that_reads_by_the_crumb_is_given_up_as_one_that_does_not_read() -> None:
    async with listening(receive_bytes=65_536) as (world, meet):
        world.server.accounts[LOGIN].balance = Decimal(100_000_000)
        for _ in range(6_000):
            world.server.buy(LOGIN, "EURUSD", "0.01")
        line = await meet()
        line.writer.write(b'{"id":1,"op":"get_positions","params":{}}\n')

        async def nibble() -> None:
            for _ in range(10_000):
                await line.reader.read(8_000)
                await asyncio.sleep(0.02)

        nibbling = asyncio.create_task(nibble())
        await until(lambda: any("does not read" in said for said in world.expert.said))
        nibbling.cancel()
        await meet()


@on_every_port
async def test_an_address_the_terminal_does_not_allow_is_alerted_with_where_to_allow_it(platform: str, carrier: str) -> None:
    async with refused(
        platform, carrier, "alert: CopierBridge: allow ", to_the_end=True, MQL_ALLOWED="https://example.org"
    ) as said:
        address = r"(http://)?127\.0\.0\.1(:\d+)? in Tools, Options, Expert Advisors"
        assert any(re.search(f"alert: CopierBridge: allow {address}", line) for line in said)
    # It has tried again and again meanwhile.
    assert sum("alert" in line for line in said) == 1


async def until(came: Callable[[], bool]) -> None:
    """Look again and again, as nothing tells when a line of a log comes."""
    for _ in range(4000):
        if came():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came")


@asynccontextmanager
async def refused(
    platform: str, carrier: str, words: str, *, account: str = f"{LOGIN}@Broker-Demo", to_the_end: bool = False, **more: Any
) -> AsyncIterator[list[str]]:
    """Run an Expert Advisor that is not let in, until it says why, or until the engine has waited long enough."""
    need_gxx()
    clock = ShiftedClock(MONDAY_NOON_MS)
    with tempfile.TemporaryDirectory() as name:
        server = broker(clock, MarginMode.MT4 if platform == "mt4" else MarginMode.HEDGING)
        made = bridges(platform, carrier)(server, clock, Faults(), Path(name), account=account, **more)
        async with made as (gateway, running):
            opening = asyncio.ensure_future(gateway.open())
            await until(lambda: any(words in said for said in running.said))
            yield running.said
            if to_the_end:
                with pytest.raises(Unavailable):
                    await opening
            assert not opening.done() or opening.exception() is not None
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)


# TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for this machine's loopback with its key, signed by itself."""
    need_gxx()
    if shutil.which("openssl") is None or not has_openssl():
        absent("OpenSSL with its headers is not installed (Debian, Ubuntu: apt install openssl libssl-dev)")
    path = tmp_path_factory.mktemp("tls") / "engine.pem"
    asked = [
        "-subj",
        "/CN=engine",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-days",
        "2",
        "-keyout",
        str(path),
        "-out",
        f"{path}.crt",
    ]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *asked], check=True, capture_output=True, timeout=60
    )
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


def thumbprint(certificate: Path) -> str:
    text = certificate.read_text()
    der = ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE") :])
    digits = hashlib.sha1(der, usedforsecurity=False).hexdigest()
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))


@on_every_port
async def test_an_encrypted_link_trades_as_any_other(platform: str, carrier: str, certificate: Path) -> None:
    tls = tls_of(certificate, None, "a")
    pinned = thumbprint(certificate)
    async with scene(platform, carrier, tls=tls, Tls=1, MQL_TRUST=f"{certificate}.crt", Thumbprint=pinned) as world:
        world.account.balance = Decimal(10_000_000)
        for _ in range(200):
            world.server.buy(LOGIN, "EURUSD", "0.01")
        await world.open(comment="\u20ac")
        assert len((await world.gateway.get_positions()).positions) == 201


@on_every_port
async def test_a_certificate_the_terminal_does_not_trust_ends_the_attempt(platform: str, carrier: str, certificate: Path) -> None:
    words = "error 5201" if carrier == "http" else "no TLS with 127.0.0.1, error 5274"
    async with refused(platform, carrier, words, tls=tls_of(certificate, None, "a"), Tls=1):
        pass


@pytest.mark.parametrize("carrier", ["tcp", "websocket"])
async def test_another_certificate_than_the_pinned_one_is_refused_though_it_is_trusted(carrier: str, certificate: Path) -> None:
    tls, trust = tls_of(certificate, None, "a"), f"{certificate}.crt"
    async with refused("mt5", carrier, "has the fingerprint", tls=tls, Tls=1, MQL_TRUST=trust, Thumbprint="00" * 20):
        pass


# orders


async def test_an_addition_to_a_netting_position_keeps_the_levels_it_names_none_for() -> None:
    async with scene("mt5", "tcp", MarginMode.NETTING) as world:
        await world.open("0.10", stop_loss=Decimal("1.09000"), take_profit=Decimal("1.12000"))
        assert (await world.open("0.10", stop_loss=Decimal("1.09500"))).stops_set
        (position,) = (await world.gateway.get_positions()).positions
        assert (position.stop_loss, position.take_profit) == (Decimal("1.09500"), Decimal("1.12000"))


async def test_a_partial_close_on_mt4_tells_the_ticket_of_the_rest() -> None:
    async with scene("mt4", "files") as world:
        opened = await world.open("0.30")
        closed = await world.gateway.close_position(CloseRequest(ticket=opened.ticket, lots=Decimal("0.10")), world.permit())
        (rest,) = (await world.gateway.get_positions()).positions
        assert (closed.rest_ticket, closed.lots, rest.identifier) == (rest.ticket, Decimal("0.10"), opened.ticket)


@on_every_kind
async def test_one_close_of_more_than_the_largest_order_takes_as_many_orders_as_it_needs(platform: str, carrier: str) -> None:
    async with scene(platform, carrier) as world:
        opened = await world.open("1.10")
        world.server.change_symbol("EURUSD", volume_max=Decimal("0.50"))
        closed = await world.gateway.close_position(CloseRequest(ticket=opened.ticket), world.permit())
        assert (closed.lots, closed.price, closed.message) == (Decimal("1.10"), Decimal("1.10000"), "Position closed")
        assert not world.account.positions


@pytest.mark.parametrize("magic", [2**31, -(2**31) - 1, 2**32 + 7])
async def test_a_magic_number_mt4_would_cut_is_an_invalid_request_and_nothing_is_sent(magic: int) -> None:
    async with scene("mt4", "files") as world:
        with pytest.raises(InvalidRequest, match="32 bits"):
            await world.open(magic=magic)
        assert not world.expert.host.calls
        await world.open(magic=2**31 - 1)
        assert (await world.gateway.get_positions()).positions[0].magic == 2**31 - 1


async def test_an_order_waits_a_moment_for_another_program_of_the_mt4_terminal_that_trades() -> None:
    async with scene("mt4", "files") as world:
        assert isinstance(world.expert.host, Terminal4)
        world.expert.host.busy_looks = 3
        opened = await world.open()
        world.expert.host.busy_looks = 100_000
        with pytest.raises(Rejected, match="Trade context is busy") as caught:
            await world.gateway.close_position(CloseRequest(ticket=opened.ticket), world.permit())
        assert caught.value.reason is Reason.BUSY
        assert len(world.account.positions) == 1


# what is offered beside the six operations


on_both_platforms = on_kinds([("mt5", "tcp"), ("mt4", "files")])


@on_both_platforms
async def test_orders_that_wait_are_listed_apart_from_positions(platform: str, carrier: str) -> None:
    async with scene(platform, carrier) as world:
        assert await world.gateway.get_pending_orders() == ()
        more: dict[str, Any] = {"stop_loss": Decimal("1.08"), "comment": "by hand"}
        ticket = world.server.place(LOGIN, "EURUSD", PendingType.BUY_LIMIT, "0.20", "1.09000", **more)
        (order,) = await world.gateway.get_pending_orders("EURUSD")
        assert (order.ticket, order.type, order.lots, order.price) == (
            ticket,
            PendingType.BUY_LIMIT,
            Decimal("0.2"),
            Decimal("1.09"),
        )
        assert (order.stop_loss, order.comment, order.expiration) == (Decimal("1.08"), "by hand", None)
        assert await world.gateway.get_pending_orders("XAUUSD") == ()
        assert not (await world.gateway.get_positions()).positions


@on_both_platforms
async def test_orders_of_a_terminal_without_its_server_are_unavailable(platform: str, carrier: str) -> None:
    async with scene(platform, carrier) as world:
        world.server.place(LOGIN, "EURUSD", PendingType.BUY_LIMIT, "0.20", "1.09000")
        world.server.online = False
        with pytest.raises(Unavailable):
            await world.gateway.get_pending_orders()


@on_both_platforms
async def test_bars_come_oldest_first_with_the_forming_one_last(platform: str, carrier: str) -> None:
    async with scene(platform, carrier) as world:
        bars = await world.gateway.get_bars("XAUUSD", Timeframe.H1, 3)
        assert [bar.time.hour for bar in bars] == [12, 13, 14]
        assert bars[-1].close == Decimal("2650.5")
        with pytest.raises(InvalidRequest, match="a count of 1 to"):
            await world.gateway.get_bars("XAUUSD", Timeframe.H1, 0)


@on_both_platforms
async def test_a_history_of_more_than_one_frame_comes_whole(platform: str, carrier: str) -> None:
    async with scene(platform, carrier) as world:
        world.account.balance = Decimal(100_000_000)
        for _ in range(DEALS_PER_FRAME + 5):
            world.server.buy(LOGIN, "EURUSD", "0.01")
        deals = await world.gateway.get_deals(LONG_AGO)
        opened = [deal.ticket for deal in deals if deal.type is DealType.BUY]
        assert len(opened) == len(set(opened)) == DEALS_PER_FRAME + 5


# what a person sees


@pytest.mark.parametrize(("platform", "carrier", "kind"), [("mt5", "tcp", 1), ("mt4", "files", 2), ("mt5", "files", 1)])
async def test_every_trade_stands_in_the_log_with_how_it_ended(platform: str, carrier: str, kind: int) -> None:
    async with scene(platform, carrier, TradeLogFormat=kind, Symbols="EURUSD") as world:
        opened = await world.open("0.30")
        with pytest.raises(Rejected):
            await world.open("0.10", symbol="XAUUSD")
        await world.gateway.close_position(CloseRequest(ticket=opened.ticket), world.permit())
        folder = world.folder / "MtCopier" / f"{LOGIN}@Broker-Demo"
        if kind == 1:
            with (folder / "trades.csv").open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        else:
            rows = [json.loads(line) for line in (folder / "trades.jsonl").read_text(encoding="utf-8").splitlines()]
        assert [(row["op"], row["symbol"], str(row["lots"]), row["outcome"]) for row in rows] == [
            ("execute_trade", "EURUSD", "0.3", "done"),
            ("execute_trade", "XAUUSD", "0.1", "rejected"),
            ("close_position", "", "0", "done"),
        ]
        assert "does not list XAUUSD" in rows[1]["message"]
        assert str(rows[2]["ticket"]) == str(opened.ticket)


async def test_no_trade_is_logged_where_nobody_asked_for_it() -> None:
    async with scene("mt5", "tcp") as world:
        await world.open()
        assert not list(world.folder.rglob("trades.*"))


@on_both_platforms
async def test_the_chart_shows_the_link_the_account_the_last_command_and_the_last_error(platform: str, carrier: str) -> None:
    async with scene(platform, carrier, LotsMax="0.20") as world:
        await until(lambda: any(f"connected over {carrier}" in said for said in world.expert.said))
        assert any(f"account: {LOGIN}@Broker-Demo" in said for said in world.expert.said if said.startswith("chart: "))
        with pytest.raises(Rejected):
            await world.open("0.30")
        await until(lambda: any("last error: execute_trade EURUSD buy 0.3: rejected" in said for said in world.expert.said))
        await world.open("0.10")
        await until(lambda: any("last command: execute_trade EURUSD buy 0.1: done" in said for said in world.expert.said))


@on_both_platforms
async def test_a_switch_that_stops_trading_is_alerted_once_with_its_name(platform: str, carrier: str) -> None:
    async with scene(platform, carrier) as world:
        world.expert.host.terminal.algo_trading = False
        words = "trading is off: the terminal's AutoTrading button is off"
        await until(lambda: any("alert" in said and words in said for said in world.expert.said))
        await until(lambda: any("TRADING IS OFF" in said for said in world.expert.said))
        assert sum("alert" in said for said in world.expert.said) == 1


# comments and texts


@on_every_kind
async def test_a_text_beyond_ascii_comes_back_as_it_was(platform: str, carrier: str) -> None:
    async with scene(platform, carrier) as world:
        await world.open(comment='Gr\u00f6\u00dfe "\u20ac" \\')
        (position,) = (await world.gateway.get_positions()).positions
        assert position.comment == 'Gr\u00f6\u00dfe "\u20ac" \\'


@on_every_kind
async def test_hundreds_of_positions_arrive_whole(platform: str, carrier: str) -> None:
    async with scene(platform, carrier) as world:
        world.account.balance = Decimal(10_000_000)
        tickets = {world.server.buy(LOGIN, "EURUSD", "0.01").position for _ in range(300)}
        listed = (await world.gateway.get_positions()).positions
        assert {each.ticket for each in listed} == tickets


async def test_frames_cut_into_single_bytes_are_read_all_the_same() -> None:
    async with scene("mt5", "tcp", MQL_SOCKET_CHUNK=1) as world:
        await world.open(comment="\u20ac")
        (position,) = (await world.gateway.get_positions()).positions
        assert position.comment == "\u20ac"


# what is told unasked


@on_every_kind
async def test_positions_are_told_when_they_change_and_nobody_has_to_ask(platform: str, carrier: str, patient: None) -> None:
    async with scene(platform, carrier) as world:
        assert world.gateway.positions_told() is None
        opened = world.server.buy(LOGIN, "EURUSD", "0.30").position
        await until(lambda: [each.lots for each in told(world)] == [Decimal("0.30")])
        world.server.set_levels(LOGIN, opened, Decimal("1.09000"), Decimal(0))
        await until(lambda: [each.stop_loss for each in told(world)] == [Decimal("1.09000")])
        world.server.close(LOGIN, opened, Decimal("0.10"))
        await until(lambda: [each.lots for each in told(world)] == [Decimal("0.20")])
        listed = told(world)
        answered = (await world.gateway.get_positions()).positions
        assert listed == answered
        assert world.gateway.positions_told() is None
        world.server.close(LOGIN, answered[0].ticket)
        await until(lambda: world.gateway.positions_told() is not None)
        assert told(world) == ()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what was told live long enough for a busy machine to look at it."""
    monkeypatch.setattr(told_module, "AGE_MAX_MS", 60_000)


def told(world: Scene) -> tuple[Position, ...]:
    """Return the positions that were told last; empty also where none were."""
    heard = world.gateway.positions_told()
    return heard[0].positions if heard is not None else ()


@on_both_platforms
async def test_a_list_that_is_too_long_to_be_told_is_only_said_to_have_changed(
    platform: str, carrier: str, patient: None
) -> None:
    async with scene(platform, carrier) as world:
        world.account.balance = Decimal(10_000_000)
        woken: list[int] = []
        world.gateway.on_change(lambda: woken.append(1))
        for _ in range(500):
            world.server.buy(LOGIN, "EURUSD", "0.01")
        await world.gateway.get_positions()
        woken.clear()
        world.server.buy(LOGIN, "EURUSD", "0.01")
        await until(lambda: bool(woken))
        assert world.gateway.positions_told() is None
        assert len((await world.gateway.get_positions()).positions) == 501


@on_both_platforms
async def test_a_list_that_cannot_be_read_whole_is_never_told(platform: str, carrier: str, patient: None) -> None:
    async with scene(platform, carrier) as world:
        world.server.buy(LOGIN, "EURUSD", "0.30")
        await until(lambda: world.gateway.positions_told() is not None)
        await world.gateway.get_positions()
        world.expert.host.terminal.fails["positions_get"] = -10003
        world.server.buy(LOGIN, "EURUSD", "0.30")
        await asyncio.sleep(0.3)
        assert world.gateway.positions_told() is None
        del world.expert.host.terminal.fails["positions_get"]
        world.server.online = False
        await asyncio.sleep(0.3)
        heard = world.gateway.positions_told()
        assert heard is None or not heard[0].connected


@on_every_kind
async def test_prices_that_were_asked_for_are_told_when_they_move_and_no_others(platform: str, carrier: str) -> None:
    async with scene(platform, carrier) as world:
        await world.gateway.get_quote("EURUSD")
        bid = lambda: (heard := world.gateway.quote_told("EURUSD")) and heard[0].bid  # noqa: E731
        assert bid() is None
        world.server.set_quote("XAUUSD", "2651.50", "2651.80")
        for price in ("1.10100", "1.10200"):
            world.server.set_quote("EURUSD", price, "1.10300")
            await until(lambda price=price: bid() == Decimal(price))  # type: ignore[misc]
        heard = world.gateway.quote_told("EURUSD")
        assert heard is not None
        assert world.gateway.quote_told("XAUUSD") is None
        answered = await world.gateway.get_quote("EURUSD")
        assert (heard[0].ask, heard[0].spec, heard[0].account) == (answered.ask, answered.spec, answered.account)
        assert abs(world.clock.now_ms() - heard[1]) < 60_000
        assert bid() is None


# coming back


@on_every_kind
async def test_a_restarted_expert_advisor_is_taken_back_and_knows_the_owners_token(
    platform: str, carrier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_link, "STALE_S", 0.5)
    async with scene(platform, carrier) as world:
        await world.open(token=5)
        await world.expert.restart()
        await connected(world.gateway)
        with pytest.raises(Rejected) as caught:
            await world.open(token=4)
        assert caught.value.reason is Reason.STALE_TOKEN
        assert len(world.account.positions) == 1
        await world.open(token=5)


@on_kinds([("mt5", "tcp"), ("mt5", "pipe"), ("mt5", "websocket"), ("mt5", "http"), ("mt4", "files")])
async def test_a_killed_expert_advisor_makes_reads_unavailable_and_an_order_under_way_unknown(
    platform: str, carrier: str
) -> None:
    async with scene(platform, carrier) as world:
        world.expert.process.send_signal(signal.SIGSTOP)
        order = asyncio.ensure_future(world.open())
        await asyncio.sleep(0.2)
        await world.expert.kill()
        with pytest.raises(OutcomeUnknown):
            await order
        with pytest.raises(Unavailable):
            await world.gateway.get_positions()


@on_every_kind
async def test_a_link_the_engine_ends_is_made_anew_and_trades_on(platform: str, carrier: str) -> None:
    async with scene(platform, carrier) as world:
        await world.open()
        link = world.gateway._session.link  # type: ignore[union-attr]
        await link._link.close()  # type: ignore[attr-defined]
        await connected(world.gateway)
        await world.open()
        assert len((await world.gateway.get_positions()).positions) == 2


@on_kinds([kind for kind in KINDS if kind[1] != "files"])
async def test_an_expert_advisor_that_is_removed_is_missed_at_once(platform: str, carrier: str) -> None:
    async with scene(platform, carrier) as world:
        world.expert.process.terminate()
        await until(lambda: not world.gateway.connected)
        with pytest.raises(Unavailable, match=r"said goodbye|closed"):
            await world.gateway.get_positions()


async def connected(gateway: RemoteGateway) -> None:
    """Wait until the old link is given up and a new one is there."""
    lost = False
    for _ in range(3000):
        lost = lost or not gateway.connected
        if lost and gateway.connected:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the Expert Advisor did not come back")


# commands


class Line:
    """The engine's end of one socket, by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def hear(self) -> dict[str, Any]:
        while True:
            line = await asyncio.wait_for(self.reader.readline(), 5)
            if not line:
                raise ConnectionError
            frame: dict[str, Any] = json.loads(line)
            if "push" not in frame:
                return frame

    def say(self, frame: dict[str, Any]) -> None:
        self.writer.write(json.dumps(frame).encode() + b"\n")

    async def gone(self) -> None:
        with pytest.raises(ConnectionError):
            while True:
                await self.hear()

    async def ask(self, command: str, op: Op, params: Any, permit: Permit) -> dict[str, Any]:
        self.say({**json.loads(encode_request(7, op, params, permit)), "command": command})
        return await self.hear()


@dataclass(kw_only=True)
class Bare:
    clock: ShiftedClock
    server: PaperServer
    host: Terminal5
    expert: Expert


@asynccontextmanager
async def listening(receive_bytes: int = 0, **inputs: Any) -> AsyncIterator[Any]:
    """Play the engine by hand: `meet` takes the next connection and greets it. `receive_bytes` bounds what waits unread."""
    need_gxx()
    clock = ShiftedClock(MONDAY_NOON_MS)
    server = broker(clock)
    lines: asyncio.Queue[Line] = asyncio.Queue()

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.put_nowait(Line(reader, writer))

    taken = []

    async def meet(secret: str = SECRET, within_s: float = 5) -> Line:
        line = await asyncio.wait_for(lines.get(), within_s)
        taken.append(line)
        hello = read_hello((await line.reader.readline()).strip())
        both = f"{hello.account}|{hello.nonce}|{'0f' * 16}"
        line.say({"challenge": "0f" * 16, "nonce": hello.nonce, "proof": proof_of(secret, f"engine|{both}")})
        if secret == SECRET:
            assert (await line.hear())["proof"] == proof_of(SECRET, f"terminal|{both}")
            line.say({"welcome": True})
        return line

    place = socket.create_server(("127.0.0.1", 0))
    if receive_bytes:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    engine = await asyncio.start_server(attend, sock=place, limit=receive_bytes or 65_536)
    port = place.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        host = Terminal5(mt5_terminal(server, Faults()))
        more = {**INPUTS, "Port": port, **inputs}
        async with host, expert("mt5", host, Path(folder), clock=clock, **more) as running:
            yield Bare(clock=clock, server=server, host=host, expert=running), meet
    engine.close()
    while not lines.empty():
        taken.append(lines.get_nowait())
    for line in taken:
        line.writer.close()


BUY = TradeRequest(symbol="EURUSD", action=Side.BUY, lots=Decimal("0.30"))


@on_every_kind
async def test_a_command_that_comes_twice_over_any_carrier_is_executed_once(platform: str, carrier: str) -> None:
    async with scene(platform, carrier) as world:
        bare = world.gateway._session.link._link._link  # type: ignore[union-attr,attr-defined]
        request = encode_request(99, Op.EXECUTE_TRADE, BUY, world.permit())
        for command in ("a.1", "a.1", "a.2", "a.1"):
            await bare.send(b'{"command":"%s",' % command.encode() + request[1:])
        await until(lambda: len(world.account.positions) >= 2)
        assert len((await world.gateway.get_positions()).positions) == 2


async def test_a_command_said_twice_is_executed_once_and_answered_twice_the_same() -> None:
    async with listening() as (world, meet):
        line = await meet()
        permit = Permit(token=1, not_after_ms=world.clock.now_ms() + 60_000)
        first = await line.ask("life.1", Op.EXECUTE_TRADE, BUY, permit)
        assert first["success"]
        assert await line.ask("life.1", Op.EXECUTE_TRADE, BUY, permit) == first
        assert len(world.server.accounts[LOGIN].positions) == 1
        await line.ask("life.2", Op.EXECUTE_TRADE, BUY, permit)
        assert len(world.server.accounts[LOGIN].positions) == 2


async def test_a_command_is_remembered_by_an_expert_advisor_that_was_killed_and_started_again() -> None:
    async with listening() as (world, meet):
        line = await meet()
        permit = Permit(token=1, not_after_ms=world.clock.now_ms() + 60_000)
        first = await line.ask("life.1", Op.EXECUTE_TRADE, BUY, permit)
        await world.expert.restart()
        line = await meet()
        assert await line.ask("life.1", Op.EXECUTE_TRADE, BUY, permit) == first
        assert len(world.server.accounts[LOGIN].positions) == 1


async def test_a_command_whose_execution_was_cut_off_is_unknown_and_never_executed_again() -> None:
    async with listening() as (world, meet):
        line = await meet()
        permit = Permit(token=1, not_after_ms=world.clock.now_ms() + 60_000)
        world.host.answers_orders = False
        line.say({**json.loads(encode_request(7, Op.EXECUTE_TRADE, BUY, permit)), "command": "life.1"})
        for _ in range(500):
            if world.server.accounts[LOGIN].positions:
                break
            await asyncio.sleep(0.01)
        await world.expert.restart()
        world.host.answers_orders = True
        answer = await (await meet()).ask("life.1", Op.EXECUTE_TRADE, BUY, permit)
        assert (answer["success"], answer["outcome"]) == (False, "unknown")
        assert len(world.server.accounts[LOGIN].positions) == 1


@pytest.mark.parametrize("missing", ["command", "permit"])
async def test_a_trading_frame_without_name_or_permit_does_nothing(missing: str) -> None:
    async with listening() as (world, meet):
        line = await meet()
        permit = Permit(token=1, not_after_ms=world.clock.now_ms() + 60_000)
        frame = {**json.loads(encode_request(7, Op.EXECUTE_TRADE, BUY, permit)), "command": "life.1"}
        del frame[missing]
        line.say(frame)
        answer = await line.hear()
        assert (answer["success"], answer["outcome"]) == (False, "invalid")
        assert not world.server.accounts[LOGIN].positions


async def test_a_line_that_is_no_frame_is_answered_and_the_next_one_works() -> None:
    async with listening() as (world, meet):
        line = await meet()
        line.writer.write(b"\xff{nonsense\n")
        assert (await line.hear())["outcome"] == "invalid"
        permit = Permit(token=1, not_after_ms=world.clock.now_ms() + 60_000)
        assert (await line.ask("life.1", Op.EXECUTE_TRADE, BUY, permit))["success"]


async def test_a_terminal_without_its_server_never_says_that_it_lists_nothing() -> None:
    async with listening() as (world, meet):
        line = await meet()
        world.host.terminal.connected = False
        line.say({"id": 3, "op": "get_positions", "params": {}})
        answer = await line.hear()
        assert (answer["success"], answer["outcome"]) == (False, "unavailable")


async def test_an_unknown_operation_is_invalid() -> None:
    async with listening() as (_, meet):
        line = await meet()
        line.say({"id": 3, "op": "withdraw", "params": {}})
        answer = await line.hear()
        assert (answer["id"], answer["outcome"]) == (3, "invalid")


async def test_the_expert_advisor_gives_signs_of_life_and_hears_pings_without_a_word() -> None:
    async with listening() as (_, meet):
        line = await meet()
        line.say({"ping": 1})
        heard = json.loads(await asyncio.wait_for(line.reader.readline(), 5))
        assert heard == {"push": "alive"}


async def test_a_connection_that_ends_is_made_again() -> None:
    async with listening() as (_, meet):
        for _ in range(3):
            line = await meet()
            line.writer.close()


async def test_an_engine_that_falls_silent_is_given_up_and_dialled_again() -> None:
    async with listening() as (world, meet):
        await meet()
        await meet(within_s=20)
        assert any("nothing was heard for too long" in said for said in world.expert.said)


async def test_an_expert_advisor_without_an_engine_tries_on_and_finds_it_later() -> None:
    need_gxx()
    clock = ShiftedClock(MONDAY_NOON_MS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with bridges("mt5", "files")(broker(clock), clock, Faults(), folder) as (gateway, running):
            await asyncio.sleep(0.5)
            await running.restart()
            await gateway.open()
            assert (await gateway.get_account()).account == f"{LOGIN}@Broker-Demo"
