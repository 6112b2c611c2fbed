"""What every way to an Expert Advisor refuses or bounds, with a line in the log: greetings played here, carrier by carrier."""

import asyncio
import json
import logging
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import h11
import pytest
from pydantic import ValidationError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from copier.clock import SystemClock
from copier.gateways import bridge_files, bridge_http, bridge_hub, bridge_link, bridge_port, bridge_websocket, carriers
from copier.gateways.bridge_files import FilesCarrier
from copier.gateways.bridge_greeting import HELLO_BYTES_MAX, NONCE_MIN, proof_of
from copier.gateways.bridge_hub import BridgeHub
from copier.gateways.bridge_pipe import PipeListener
from copier.gateways.bridge_port import PortListener
from copier.gateways.carriers import Carrier, Link, LinkLost
from copier.settings import BridgeSettings
from copier.wire import FRAME_BYTES_MAX, NoParams, Op, encode_request
from tests.mql.build import MQL

ACCOUNT = "5001@Broker-Demo"
SECRET = "a secret of the tests"
NONCE = "0123456789abcdef" * 2
PORT_WAYS = ("tcp", "http", "websocket")
WAYS = (*PORT_WAYS, "pipe", "files")
on_every_way = pytest.mark.parametrize("way", WAYS)


async def until(came: Callable[[], bool]) -> None:
    """Look again and again, as nothing tells when a file or a line of the log comes."""
    for _ in range(4000):
        if came():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came")


class Caller(Protocol):
    """An Expert Advisor's end of one connection."""

    async def say(self, frame: bytes) -> None: ...
    async def hear(self) -> bytes:
        """Return the next frame, nothing once there will be none."""
        ...


class Lines:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def say(self, frame: bytes) -> None:
        self._writer.write(frame + b"\n")
        await self._writer.drain()

    async def hear(self) -> bytes:
        try:
            return await self._reader.readline()
        except OSError:
            return b""


class Requests:
    """Short requests on one connection, which the server may close at any time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._session = ""
        self._number = 0
        self._heard: list[bytes] = []
        self.over = 0

    async def post(self, body: bytes, wait_ms: int = 0, **more: str) -> tuple[int, dict[str, str], bytes]:
        self._number += 1
        headers = {"Host": "127.0.0.1", "Content-Length": str(len(body)), "Bridge-Number": str(self._number)}
        headers |= {"Bridge-Wait-Ms": str(wait_ms)} | ({"Bridge-Session": self._session} if self._session else {}) | more
        connection = h11.Connection(h11.CLIENT)
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        request = h11.Request(method="POST", target="/bridge", headers=list(headers.items()))
        for event in (request, h11.Data(data=body), h11.EndOfMessage()):
            writer.write(connection.send(event) or b"")
        got, status, answered = b"", 0, {}
        while True:
            event = connection.next_event()
            match event:
                case h11.NEED_DATA:
                    connection.receive_data(await reader.read(65536))
                case h11.Response(status_code=status, headers=heard):
                    answered = {name.decode(): value.decode() for name, value in heard}
                case h11.Data(data=data):
                    got += data
                case _:
                    break
        writer.close()
        return status, answered, got

    async def say(self, frame: bytes) -> None:
        await self._exchange(frame + b"\n", 0)

    async def _exchange(self, body: bytes, wait_ms: int) -> None:
        if self.over:
            return
        status, headers, got = await self.post(body, wait_ms)
        self.over = 0 if status == 200 else status
        self._session = self._session or headers.get("bridge-session", "")
        self._heard += [line for line in got.split(b"\n") if line]

    async def hear(self) -> bytes:
        while not self._heard and not self.over:
            await self._exchange(b"", 1000)
        frame = self._heard.pop(0) if self._heard else b""
        return b"" if frame == bridge_http.GOODBYE else frame


class Messages:
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def say(self, frame: bytes) -> None:
        await self._connection.send(frame.decode())

    async def hear(self) -> bytes:
        try:
            heard = await self._connection.recv()
        except ConnectionClosed:
            return b""
        return heard.encode() if isinstance(heard, str) else heard


class Files:
    def __init__(self, folder: Path, life: str = NONCE) -> None:
        self._folder = folder
        self._life = life
        self._said = 0
        self._heard = 0

    async def say(self, frame: bytes) -> None:
        self._said += 1
        path = self._folder / "to-engine" / f"{self._life}-{self._said:012d}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".tmp").write_bytes(frame)
        path.with_suffix(".tmp").replace(path)

    async def hear(self) -> bytes:
        self._heard += 1
        path = self._folder / "to-terminal" / f"{self._life}-{self._heard:012d}.json"
        await until(path.exists)
        frame = path.read_bytes()
        path.unlink()
        return b"" if frame == bridge_files.GOODBYE else frame


class Door:
    """The engine's end, waiting for one account, and a way to knock."""

    def __init__(self, carrier: Carrier, knock: Callable[[], AbstractAsyncContextManager[Caller]], way: str) -> None:
        self.carrier = carrier
        self.knock = knock
        self.way = way

    async def say(self, caller: Caller, **frame: Any) -> None:
        await caller.say(json.dumps(frame).encode())

    async def hello(self, caller: Caller, **more: Any) -> None:
        said = {"hello": "bridge", "protocol": 1, "account": ACCOUNT, "platform": "mt5", "build": 5200, "program": "Test 1.0"}
        await self.say(caller, **{**said, "utcMs": SystemClock().now_ms(), "nonce": NONCE, **more})

    async def hear(self, caller: Caller) -> dict[str, Any]:
        heard = await asyncio.wait_for(caller.hear(), 10)
        frame: dict[str, Any] = json.loads(heard) if heard else {}
        return frame

    async def greet(self, caller: Caller, secret: str = SECRET) -> dict[str, Any]:
        await self.hello(caller)
        challenge = (await self.hear(caller))["challenge"]
        await self.say(caller, proof=proof_of(secret, f"terminal|{ACCOUNT}|{NONCE}|{challenge}"))
        return await self.hear(caller)

    async def meet(self, caller: Caller) -> Link:
        connecting = asyncio.ensure_future(self.carrier.connect())
        assert await self.greet(caller) == {"welcome": True}
        return await asyncio.wait_for(connecting, 10)


@asynccontextmanager
async def lines(**to: Any) -> AsyncIterator[Caller]:
    opened = asyncio.open_unix_connection(to["path"]) if "path" in to else asyncio.open_connection("127.0.0.1", to["port"])
    reader, writer = await opened
    try:
        yield Lines(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def requests(port: int) -> AsyncIterator[Caller]:
    yield Requests(port)


@asynccontextmanager
async def messages(port: int) -> AsyncIterator[Caller]:
    async with connect(f"ws://127.0.0.1:{port}/bridge", compression=None, proxy=None, close_timeout=0.1) as connection:
        yield Messages(connection)


@asynccontextmanager
async def files(folder: Path) -> AsyncIterator[Caller]:
    yield Files(folder)


@asynccontextmanager
async def door(way: str, folder: Path, silence_s: float = 20.0) -> AsyncIterator[Door]:
    async with AsyncExitStack() as stack:
        if way == "files":
            carrier: Carrier = FilesCarrier(folder, ACCOUNT, SECRET, clock=SystemClock(), poll_s=0.002, silence_s=silence_s)
            watching = asyncio.ensure_future(carrier.connect())
            stack.callback(watching.cancel)
            yield Door(_Taken(carrier, watching), partial(files, folder / "MtCopier" / ACCOUNT), way)
            return
        listener = PipeListener("test", folder) if way == "pipe" else PortListener(port=0)
        carrier = BridgeHub(listener, clock=SystemClock()).carrier(ACCOUNT, SECRET, silence_s=silence_s)
        await carrier.open()
        stack.push_async_callback(carrier.close)
        if isinstance(listener, PortListener):
            kinds = {"tcp": lines, "http": requests, "websocket": messages}
            yield Door(carrier, partial(kinds[way], port=listener.port), way)
        else:
            yield Door(carrier, partial(lines, path=listener.path), way)


class _Taken:
    """A carrier whose first connection is being waited for already."""

    def __init__(self, carrier: Carrier, waiting: "asyncio.Future[Link]") -> None:
        self._carrier = carrier
        self._waiting = waiting

    async def connect(self) -> Link:
        return await self._waiting

    async def close(self) -> None:
        await self._carrier.close()


@on_every_way
async def test_whoever_knows_the_secret_is_let_in_and_frames_go_both_ways(way: str, tmp_path: Path) -> None:
    async with door(way, tmp_path) as entry, entry.knock() as caller:
        link = await entry.meet(caller)
        await link.send(encode_request(1, Op.GET_ACCOUNT, NoParams()))
        assert (await entry.hear(caller))["op"] == "get_account"
        await entry.say(caller, id=1, success=False)
        assert json.loads(await asyncio.wait_for(link.receive(), 10))["id"] == 1
        await link.close()


@on_every_way
async def test_another_secret_is_refused_at_every_door(way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with door(way, tmp_path) as entry, entry.knock() as caller:
        assert "secrets differ" in (await entry.greet(caller, "another secret of the tests"))["refused"]
    assert "secrets differ" in caplog.text


@on_every_way
async def test_a_greeting_that_was_overheard_lets_nobody_in(way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with door(way, tmp_path) as entry:
        async with entry.knock() as first:
            await entry.hello(first)
            challenge = (await entry.hear(first))["challenge"]
            proof = proof_of(SECRET, f"terminal|{ACCOUNT}|{NONCE}|{challenge}")
            await entry.say(first, proof=proof)
            assert await entry.hear(first) == {"welcome": True}
        link = await asyncio.wait_for(entry.carrier.connect(), 10)
        await link.close()
    folder = tmp_path / "again"
    folder.mkdir()
    async with door(way, folder) as entry, entry.knock() as second:
        await entry.hello(second)
        assert (await entry.hear(second))["challenge"] != challenge
        await entry.say(second, proof=proof)
        assert "secrets differ" in (await entry.hear(second))["refused"]
    assert "secrets differ" in caplog.text


@on_every_way
async def test_an_account_nobody_waits_for_is_refused(way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with door(way, tmp_path) as entry, entry.knock() as caller:
        await entry.hello(caller, account="6006@Broker-Demo")
        assert "6006@Broker-Demo" in (await entry.hear(caller))["refused"]
    assert "not let in" in caplog.text
    assert "6006@Broker-Demo" in caplog.text


@on_every_way
async def test_a_newer_protocol_is_refused_with_what_to_update(
    way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with door(way, tmp_path) as entry, entry.knock() as caller:
        await entry.hello(caller, protocol=2, capabilities=["unheard of"])
        assert "speaks protocol 2, the engine 1: update" in (await entry.hear(caller))["refused"]
    assert "speaks protocol 2" in caplog.text


@on_every_way
async def test_a_stranger_may_not_say_much(way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with door(way, tmp_path) as entry, entry.knock() as caller:
        await entry.hello(caller, program="x" * 5 * HELLO_BYTES_MAX)
        if way == "files":
            await until(lambda: "not let in" in caplog.text)
        else:
            assert await entry.hear(caller) == {}
    assert any(str(bound) in caplog.text for bound in (HELLO_BYTES_MAX, 4 * HELLO_BYTES_MAX))


@on_every_way
@pytest.mark.parametrize("said", [{"hello": "browser"}, {"nonce": "0" * (NONCE_MIN - 1)}])
async def test_what_is_no_greeting_is_not_answered(
    way: str, said: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with door(way, tmp_path) as entry, entry.knock() as caller:
        await entry.hello(caller, **said)
        if way == "files":
            await until(lambda: "not let in" in caplog.text)
        else:
            assert await entry.hear(caller) == {}
    assert "not let in" in caplog.text


@pytest.mark.parametrize("way", [way for way in WAYS if way != "files"])
async def test_whoever_is_greeted_while_the_engine_leaves_is_hung_up_on(way: str, tmp_path: Path) -> None:
    async with door(way, tmp_path) as entry, entry.knock() as caller:
        await entry.hello(caller)
        challenge = (await entry.hear(caller))["challenge"]
        proof = json.dumps({"proof": proof_of(SECRET, f"terminal|{ACCOUNT}|{NONCE}|{challenge}")}).encode()
        leaving = asyncio.ensure_future(entry.carrier.close())
        with suppress(OSError, ConnectionClosed):
            await caller.say(proof)
        await leaving
        tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith("ping")]
        assert not tasks


@on_every_way
async def test_a_frame_above_the_bound_breaks_the_link_and_says_so(way: str, tmp_path: Path) -> None:
    async with door(way, tmp_path) as entry, entry.knock() as caller:
        link = await entry.meet(caller)
        talking = asyncio.ensure_future(caller.say(b"x" * (FRAME_BYTES_MAX + 2)))
        if way == "http":
            await talking
            assert isinstance(caller, Requests)
            assert caller.over == 413
            await link.close()
            return
        with pytest.raises(LinkLost, match=r"more than 4000000 bytes|limit of 4000000"):
            await asyncio.wait_for(link.receive(), 20)
        await link.close()
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "files"])
async def test_a_stranger_who_says_nothing_is_hung_up_on(
    way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (bridge_hub, bridge_port, bridge_http):
        monkeypatch.setattr(module, "GREETING_S", 0.05)
    async with door(way, tmp_path) as entry:
        knock = partial(lines, **entry.knock.keywords) if way == "http" else entry.knock  # type: ignore[attr-defined]
        async with knock() as caller:
            assert await entry.hear(caller) == {}
    assert "not let in" in caplog.text


@on_every_way
async def test_who_reads_nothing_is_given_up_and_holds_nobody_up(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bridge_link, "SEND_S", 0.05)
    for module in (carriers, bridge_websocket):
        monkeypatch.setattr(module, "_LAST_WORD_S", 0.05)
    caplog.set_level(logging.INFO)
    async with door(way, tmp_path) as entry, entry.knock() as caller:
        link = await entry.meet(caller)
        frame = encode_request(1, Op.GET_QUOTE, NoParams())
        frame = frame[:-1] + b',"more":"' + b"x" * 100_000 + b'"}'
        with pytest.raises(LinkLost, match=r"read nothing|fetches nothing|unread"):
            for _ in range(1000):
                await link.send(frame)
        await asyncio.wait_for(link.close(), 10)


# the port: what each kind of connection may not do


@asynccontextmanager
async def port(tmp_path: Path) -> AsyncIterator[int]:
    async with door("tcp", tmp_path) as entry:
        yield entry.knock.keywords["port"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"POST /elsewhere HTTP/1.1", b"404"), (b"PUT /bridge HTTP/1.1", b"404"), (b"POST /bridge", b"400"),
        (b"GET /bridge HTTP/1.1", b"426"), (b"GET / HTTP/1.1", b"404"),
    ],
)  # fmt: skip
async def test_a_request_that_is_not_the_bridges_gets_a_status_and_no_more(
    request_line: bytes, status: bytes, tmp_path: Path
) -> None:
    async with port(tmp_path) as number:
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(request_line + b"\r\nHost: x\r\nBridge-Number: 1\r\nContent-Length: 0\r\n\r\n")
        got = await asyncio.wait_for(reader.read(), 10)
        assert got.split(b" ")[1] == status, got
        writer.close()


async def test_a_page_in_a_browser_cannot_open_a_websocket(tmp_path: Path) -> None:
    async with port(tmp_path) as number:
        with pytest.raises(Exception, match="403"):
            async with connect(f"ws://127.0.0.1:{number}/bridge", origin="https://example.org", proxy=None):  # type: ignore[arg-type]
                pass


@pytest.mark.parametrize("number", ["1", "3", "0", "-1", "x", ""])
async def test_a_request_out_of_its_turn_ends_the_session(number: str, tmp_path: Path) -> None:
    async with door("http", tmp_path) as entry, entry.knock() as caller:
        link = await entry.meet(caller)
        assert isinstance(caller, Requests)
        status, _, _ = await caller.post(b"", **{"Bridge-Number": number})
        assert status in (400, 409)
        if status == 409:
            with pytest.raises(LinkLost, match="one was lost, or said twice"):
                await link.receive()
        await link.close()


async def test_a_session_that_is_over_answers_gone_and_takes_back_the_call_nobody_fetched(tmp_path: Path) -> None:
    async with door("http", tmp_path) as entry, entry.knock() as caller:
        link = await entry.meet(caller)
        await link.send(encode_request(1, Op.GET_ACCOUNT, NoParams()))
        await link.close()
        assert await caller.hear() == b""
        assert isinstance(caller, Requests)
        assert (await caller.post(b""))[0] == 410


async def test_a_session_nobody_knows_is_gone(tmp_path: Path) -> None:
    async with door("http", tmp_path) as entry, entry.knock() as caller:
        assert isinstance(caller, Requests)
        assert (await caller.post(b"", **{"Bridge-Session": "f" * 32}))[0] == 410


async def test_a_request_whose_body_never_comes_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bridge_http, "REQUEST_S", 0.05)
    async with port(tmp_path) as number:
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(b"POST /bridge HTTP/1.1\r\nHost: x\r\nBridge-Number: 1\r\nContent-Length: 100\r\n\r\n{")
        await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert "not whole" in caplog.text


async def test_more_connections_than_anyone_needs_are_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bridge_port, "CONNECTIONS_MAX", 2)
    async with port(tmp_path) as number:
        open_ones = [await asyncio.open_connection("127.0.0.1", number) for _ in range(2)]
        await until(lambda: len(asyncio.all_tasks()) >= 3)
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        with suppress(OSError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        for _, each in [*open_ones, (reader, writer)]:
            each.close()
    assert "2 connections are open" in caplog.text


# beyond this machine


@pytest.mark.parametrize("way", PORT_WAYS)
async def test_wherever_it_listens_nobody_gets_a_frame_without_a_proof_and_the_log_says_to_encrypt(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    listener = PortListener("0.0.0.0", 0)
    carrier = BridgeHub(listener, clock=SystemClock()).carrier(ACCOUNT, SECRET)
    connecting = asyncio.ensure_future(carrier.connect())
    await until(lambda: listener.port != 0)
    knock = {"tcp": lines, "http": requests, "websocket": messages}[way]
    entry = Door(carrier, partial(knock, port=listener.port), way)
    async with entry.knock() as caller:
        await entry.hello(caller)
        assert "challenge" in await entry.hear(caller)
        await entry.say(caller, id=1, success=True)
        assert "no proof" in (await entry.hear(caller))["refused"]
    assert not connecting.done()
    connecting.cancel()
    await carrier.close()
    assert "beyond this machine" in caplog.text
    assert "tls_certificate" in caplog.text


async def test_the_loopback_and_an_encrypted_port_need_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    for listener in (
        PortListener("127.0.0.1", 0),
        PortListener("0.0.0.0", 0, tls=ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)),
    ):
        carrier = BridgeHub(listener, clock=SystemClock()).carrier(ACCOUNT, SECRET)
        await carrier.open()
        await carrier.close()
    assert not caplog.text


def test_a_bridge_without_a_secret_is_no_setting() -> None:
    for host in ("127.0.0.1", "0.0.0.0"):
        with pytest.raises(ValidationError, match="secret"):
            BridgeSettings.model_validate({"kind": "bridge", "login": 1, "server": "S", "host": host})


def test_no_expert_advisor_listens_and_only_the_dlls_own_one_imports_anything() -> None:
    for path in MQL.rglob("*.mq?"):
        text = path.read_text(encoding="ascii")
        assert not re.search(r"SocketListen|SocketAccept|CreateNamedPipe|WSAStartup|kernel32|ws2_32", text), path
    imports = {path.name for path in MQL.rglob("*.mq*") if "#import" in path.read_text(encoding="ascii")}
    assert imports <= {"CopierLink.mqh"}


async def test_whoever_asks_over_a_pipe_whether_it_is_read_hears_so_and_its_frames_are_whole(tmp_path: Path) -> None:
    async with door("pipe", tmp_path) as entry, entry.knock() as caller:
        link = await entry.meet(caller)
        assert isinstance(caller, Lines)
        frame = json.dumps({"id": 1, "success": False, "error": "x" * 50}).encode()
        await caller.say(frame[:20] + b"\x05" + frame[20:])
        assert await asyncio.wait_for(link.receive(), 10) == frame
        await link.send(encode_request(1, Op.GET_ACCOUNT, NoParams()))
        assert (await asyncio.wait_for(caller.hear(), 10)).startswith(b'\x06{"id":1')
        await link.close()
