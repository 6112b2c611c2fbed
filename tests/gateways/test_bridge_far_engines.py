"""Our Expert Advisors against engines, proxies and strangers that break the rules of WebSockets and HTTP."""

import asyncio
import base64
import hashlib
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from copier.gateways.bridge_greeting import proof_of
from copier.gateways.paper_faults import Faults
from copier.wire import NoParams, Op, encode_request
from tests.gateways.test_bridge_experts import broker, until
from tests.mql.stage import CARRIERS, INPUTS, MONDAY_NOON_MS, SECRET, Expert, ShiftedClock, expert, mt5_terminal, need_gxx
from tests.mql.terminal import Terminal4, Terminal5

pytestmark = pytest.mark.server
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
FOUR_MILLION = 4_000_000


@asynccontextmanager
async def dialling(way: str, port: int, platform: str = "mt5", **inputs: Any) -> AsyncIterator[Expert]:
    """Run an Expert Advisor that dials a port of ours."""
    need_gxx()
    clock = ShiftedClock(MONDAY_NOON_MS)
    with tempfile.TemporaryDirectory() as folder:
        terminal = mt5_terminal(broker(clock), Faults())
        more = {**INPUTS, "Carrier": CARRIERS[way], "Port": port, "RetryMs": 5000, **inputs}
        plays = Terminal4 if platform == "mt4" else Terminal5
        async with plays(terminal) as host, expert(platform, host, Path(folder), clock=clock, **more) as running:
            yield running


async def greet(connection: ServerConnection) -> None:
    hello = json.loads(await connection.recv())
    both = f"{hello['account']}|{hello['nonce']}|{'0f' * 16}"
    challenge = {"challenge": "0f" * 16, "nonce": hello["nonce"], "proof": proof_of(SECRET, f"engine|{both}")}
    text = json.dumps(challenge)
    # In three parts, as a proxy may cut it.
    await connection.send([text[:1], text[1:50], text[50:]])
    assert json.loads(await connection.recv())["proof"] == proof_of(SECRET, f"terminal|{both}")
    await connection.send('{"welcome":true}')


async def hear(connection: ServerConnection) -> dict[str, Any]:
    while True:
        frame: dict[str, Any] = json.loads(await connection.recv())
        if "push" not in frame:
            return frame


async def meeting(act: Callable[[ServerConnection, Expert], Awaitable[None]], **inputs: Any) -> None:
    """Let an Expert Advisor in by another WebSocket server than ours, and act."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    came: asyncio.Queue[ServerConnection] = asyncio.Queue()

    async def attend(connection: ServerConnection) -> None:
        await greet(connection)
        came.put_nowait(connection)
        await done

    async with serve(attend, "127.0.0.1", 0, compression=None, max_size=None, close_timeout=0.1) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with dialling("websocket", port, **inputs) as running:
            try:
                await act(await asyncio.wait_for(came.get(), 10), running)
            finally:
                done.set_result(None)


async def test_messages_in_parts_with_pings_between_them_are_heard_whole() -> None:
    async def act(connection: ServerConnection, running: Expert) -> None:
        text = encode_request(7, Op.GET_ACCOUNT, NoParams()).decode()
        parts: asyncio.Queue[str] = asyncio.Queue()

        async def slowly() -> AsyncIterator[str]:
            for at in range(0, len(text), 5):
                await (await connection.ping(b"still there?"))
                yield text[at : at + 5]

        assert parts.empty()
        await connection.send(slowly())
        assert (await asyncio.wait_for(hear(connection), 10))["id"] == 7

    await meeting(act)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
async def test_frames_cut_anywhere_on_their_way_are_heard_whole(chunk: int) -> None:
    async def act(connection: ServerConnection, running: Expert) -> None:
        await connection.send(encode_request(7, Op.GET_ACCOUNT, NoParams()).decode())
        assert (await asyncio.wait_for(hear(connection), 10))["id"] == 7

    await meeting(act, MQL_SOCKET_CHUNK=chunk)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
async def test_a_message_of_any_length_is_heard_and_so_is_the_next_one(size: int) -> None:
    async def act(connection: ServerConnection, running: Expert) -> None:
        empty = '{"ping":""}'
        await connection.send('{"ping":"%s"}' % ("x" * max(0, size - len(empty))) if size >= len(empty) else " " * size)
        await connection.send(encode_request(7, Op.GET_ACCOUNT, NoParams()).decode())
        while (answer := await asyncio.wait_for(hear(connection), 10))["id"] != 7:
            assert answer["outcome"] == "invalid"

    await meeting(act)


async def test_a_close_is_answered_and_told() -> None:
    async def act(connection: ServerConnection, running: Expert) -> None:
        await connection.close(1001, "going away")
        assert connection.close_code == 1001
        await until(lambda: any("the engine closed the WebSocket" in said for said in running.said))

    await meeting(act)


async def test_an_expert_advisor_that_is_removed_closes_its_websocket() -> None:
    async def act(connection: ServerConnection, running: Expert) -> None:
        running.process.terminate()
        await asyncio.wait_for(connection.wait_closed(), 10)
        assert connection.close_code == 1005

    await meeting(act)


def frame(first: int, payload: bytes = b"", *, length: bytes | None = None) -> bytes:
    return bytes([first]) + (bytes([len(payload)]) if length is None else length) + payload


@asynccontextmanager
async def answering(answer: Callable[[str], bytes]) -> AsyncIterator[int]:
    """Listen, answer each request's head with bytes, and say no more."""

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            writer.write(answer(head))
            await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(attend, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def upgraded(head: str) -> bytes:
    (key,) = (line.split(": ")[1] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key"))
    accept = base64.b64encode(hashlib.sha1((key + GUID).encode(), usedforsecurity=False).digest()).decode()
    lines = ("HTTP/1.1 101 Switching Protocols", "upgrade: websocket", "Connection: Upgrade", f"SEC-WEBSOCKET-ACCEPT:{accept}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@pytest.mark.parametrize(
    ("said", "trouble"),
    [
        (frame(0xC1, b"x"), "breaks RFC 6455"), (frame(0x81, b"x", length=b"\x81\0\0\0\0"), "breaks RFC 6455"),
        (frame(0x80, b"x"), "breaks RFC 6455"), (frame(0x01, b"x") + frame(0x81, b"x"), "breaks RFC 6455"),
        (frame(0x83, b"x"), "breaks RFC 6455"), (frame(0x8B, b"x"), "unknown kind"), (frame(0x09, b"x"), "breaks RFC 6455"),
        (frame(0x89, length=b"\x7e\0\x7e" + b"x" * 126), "breaks RFC 6455"),
        (frame(0x81, length=b"\x7f" + (FOUR_MILLION + 1).to_bytes(8)), "frame was too long"),
        (frame(0x81, length=b"\x7f" + b"\xff" * 8), "frame was too long"),
        ((frame(0x01, length=b"\x7f" + (2_500_000).to_bytes(8)) + b"x" * 2_500_000)
         + frame(0x80, length=b"\x7f" + (2_500_000).to_bytes(8)) + b"x" * 2_500_000, "message was too long"),
    ],
)  # fmt: skip
async def test_a_server_that_breaks_the_rules_is_hung_up_on_with_the_reason(said: bytes, trouble: str) -> None:
    async with answering(lambda head: upgraded(head) + said) as port, dialling("websocket", port) as running:
        await until(lambda: any(trouble in line for line in running.said))


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (lambda _: b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "this is no WebSocket: HTTP/1.1 404"),
        (lambda head: upgraded(head).replace(b"ACCEPT:", b"ACCEPT:x"), "this is no WebSocket"),
        (lambda _: b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "this is no WebSocket"),
        (lambda _: b"x" * 10_000, "this is no WebSocket"),
        (lambda _: b"HTTP/1.1 101", "no answer to the request for a WebSocket"),
    ],
)
async def test_a_port_that_is_no_websocket_is_told_apart(answer: Callable[[str], bytes], trouble: str) -> None:
    async with answering(answer) as port, dialling("websocket", port) as running:
        await until(lambda: any(trouble in line for line in running.said))


@pytest.mark.parametrize("platform", ["mt5", "mt4"])
@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "answers 500"),
        (b"HTTP/1.1 302 Elsewhere\r\nLocation: http://example.org/\r\nContent-Length: 0\r\n\r\n", "answers 302"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "is not the engine"),
        (b"HTTP/1.1 200 OK\r\nbridge-session: 1\r\nContent-Length: 9\r\n\r\nnonsense\n", "the greeting cannot be read"),
        (b"", "error 5202"),
    ],
    ids=["500", "302", "no session", "nonsense", "silence"],
)
async def test_a_server_that_is_not_the_engine_holds_an_http_bridge_up_for_a_moment_only(
    platform: str, answer: bytes, trouble: str
) -> None:
    async with answering(lambda _: answer) as port, dialling("http", port, platform) as running:
        await until(lambda: any(trouble in line for line in running.said))
