"""Who is let in by the listener for Expert Advisors, and by the folder of files: played here line by line."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from copier.clock import SystemClock
from copier.gateways.bridge_files import GOODBYE, FilesCarrier
from copier.gateways.bridge_greeting import NONCE_MIN, proof_of
from copier.gateways.bridge_hub import BridgeHub, HubCarrier
from copier.gateways.bridge_port import PortListener
from copier.gateways.carriers import LinkLost
from copier.model import CloseRequest, Permit
from copier.wire import NoParams, Op, encode_request

ACCOUNT = "5001@Broker-Demo"
SECRET = "a secret of the tests"
NONCE = "0123456789abcdef" * 2


class Dialler:
    """What an Expert Advisor does on its socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, **frame: Any) -> None:
        self.writer.write(json.dumps(frame).encode() + b"\n")

    async def hear(self) -> dict[str, Any]:
        line = await asyncio.wait_for(self.reader.readline(), 5)
        heard: dict[str, Any] = json.loads(line) if line else {}
        return heard

    def hello(self, **more: Any) -> None:
        said = {"hello": "bridge", "protocol": 1, "account": ACCOUNT, "platform": "mt5", "build": 5200, "program": "Test 1.0"}
        self.say(**{**said, "utcMs": SystemClock().now_ms(), "nonce": NONCE, **more})

    async def answer(self, secret: str = SECRET) -> dict[str, Any]:
        challenge = (await self.hear())["challenge"]
        self.say(proof=proof_of(secret, f"terminal|{ACCOUNT}|{NONCE}|{challenge}"))
        return await self.hear()


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[BridgeHub, HubCarrier]]:
    hub = BridgeHub(PortListener(port=0), clock=SystemClock())
    carrier = hub.carrier(ACCOUNT, SECRET)
    await hub.take_seat(carrier.seat)
    try:
        yield hub, carrier
    finally:
        await carrier.close()


@asynccontextmanager
async def dialling(hub: BridgeHub) -> AsyncIterator[Dialler]:
    assert isinstance(hub.listener, PortListener)
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.listener.port)
    try:
        yield Dialler(reader, writer)
    finally:
        writer.close()


async def test_an_expert_advisor_that_knows_the_secret_becomes_the_link() -> None:
    async with listening() as (hub, carrier), dialling(hub) as caller:
        caller.hello()
        assert await caller.answer() == {"welcome": True}
        link = await asyncio.wait_for(carrier.connect(), 5)
        await link.send(encode_request(1, Op.GET_ACCOUNT, NoParams()))
        assert (await caller.hear())["op"] == "get_account"
        caller.say(id=1, success=False)
        assert json.loads(await link.receive())["id"] == 1
        await link.close()


async def test_the_engine_proves_that_it_knows_the_secret_too() -> None:
    async with listening() as (hub, _), dialling(hub) as caller:
        caller.hello()
        heard = await caller.hear()
        assert heard["nonce"] == NONCE
        assert heard["proof"] == proof_of(SECRET, f"engine|{ACCOUNT}|{NONCE}|{heard['challenge']}")


async def test_another_secret_is_refused_with_what_to_mend() -> None:
    async with listening() as (hub, carrier), dialling(hub) as caller:
        caller.hello()
        assert "secrets differ" in (await caller.answer("another secret of the tests"))["refused"]
        assert await caller.hear() == {}
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(carrier.connect(), 0.05)


async def test_the_engines_own_proof_sent_back_lets_nobody_in() -> None:
    async with listening() as (hub, _), dialling(hub) as caller:
        caller.hello()
        caller.say(proof=(await caller.hear())["proof"])
        assert "secrets differ" in (await caller.hear())["refused"]


async def test_a_proof_of_an_earlier_greeting_lets_nobody_in() -> None:
    async with listening() as (hub, _):
        async with dialling(hub) as caller:
            caller.hello()
            old = proof_of(SECRET, f"terminal|{ACCOUNT}|{NONCE}|{(await caller.hear())['challenge']}")
        async with dialling(hub) as caller:
            caller.hello()
            await caller.hear()
            caller.say(proof=old)
            assert "secrets differ" in (await caller.hear())["refused"]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"account": "5002@Broker-Demo"}, "nobody here waits for 5002@Broker-Demo"),
        ({"protocol": 2}, "update the older one"),
        ({"utcMs": 0}, "clocks differ"),
    ],
)
async def test_a_stranger_is_refused_with_the_reason(said: dict[str, Any], why: str) -> None:
    async with listening() as (hub, _), dialling(hub) as caller:
        caller.hello(**said)
        assert why in (await caller.hear())["refused"]
        assert await caller.hear() == {}


@pytest.mark.parametrize("said", [{"hello": "browser"}, {"nonce": "0" * (NONCE_MIN - 1)}, {"program": "x" * 5000}])
async def test_what_is_no_greeting_is_hung_up_on(said: dict[str, Any]) -> None:
    async with listening() as (hub, _), dialling(hub) as caller:
        caller.hello(**said)
        assert await caller.hear() == {}


async def test_what_is_no_json_is_hung_up_on_and_the_next_one_is_let_in() -> None:
    async with listening() as (hub, carrier):
        async with dialling(hub) as caller:
            caller.writer.write(b"nonsense\n")
            assert await caller.hear() == {}
        async with dialling(hub) as caller:
            caller.hello()
            await caller.answer()
            await (await asyncio.wait_for(carrier.connect(), 5)).close()


async def test_a_second_expert_advisor_of_the_same_account_is_refused_while_the_first_one_lives() -> None:
    async with listening() as (hub, carrier), dialling(hub) as first:
        first.hello()
        await first.answer()
        link = await asyncio.wait_for(carrier.connect(), 5)
        async with dialling(hub) as second:
            second.hello()
            assert "one terminal per account" in (await second.hear())["refused"]
        await link.close()
        async with dialling(hub) as third:
            third.hello()
            assert await third.answer() == {"welcome": True}


async def test_two_gateways_of_one_account_do_not_share_a_listener() -> None:
    async with listening() as (hub, _):
        with pytest.raises(LinkLost, match="another gateway"):
            await hub.carrier(ACCOUNT, SECRET).connect()


async def test_two_accounts_share_a_listener_each_with_its_own_secret() -> None:
    async with listening() as (hub, _):
        other = hub.carrier("5002@Broker-Demo", "the other account's secret")
        await hub.take_seat(other.seat)
        async with dialling(hub) as caller:
            caller.hello(account="5002@Broker-Demo")
            challenge = (await caller.hear())["challenge"]
            caller.say(proof=proof_of(SECRET, f"terminal|5002@Broker-Demo|{NONCE}|{challenge}"))
            assert "secrets differ" in (await caller.hear())["refused"]
        await other.close()


async def test_silence_breaks_a_link() -> None:
    hub = BridgeHub(PortListener(port=0), clock=SystemClock())
    carrier = hub.carrier(ACCOUNT, SECRET, silence_s=0.2)
    await hub.take_seat(carrier.seat)
    async with dialling(hub) as caller:
        caller.hello()
        await caller.answer()
        link = await asyncio.wait_for(carrier.connect(), 5)
        with pytest.raises(LinkLost, match="nothing was heard"):
            await asyncio.wait_for(link.receive(), 5)
        await link.close()
    await carrier.close()


async def test_every_trading_frame_gets_a_name_of_its_own_and_no_other_frame_does() -> None:
    names = []
    async with listening() as (hub, carrier):
        for _ in range(2):
            async with dialling(hub) as caller:
                caller.hello()
                await caller.answer()
                link = await asyncio.wait_for(carrier.connect(), 5)
                close = encode_request(1, Op.CLOSE_POSITION, CloseRequest(ticket=1), Permit(token=1, not_after_ms=2))
                await link.send(close)
                frame = await caller.hear()
                names.append(frame.pop("command"))
                assert frame == json.loads(close)
                await link.send(encode_request(2, Op.GET_ACCOUNT, NoParams()))
                assert "command" not in await caller.hear()
                await link.close()
    assert len(set(names)) == 2


# files


def leave(folder: Path, life: str, number: int, **frame: Any) -> None:
    (folder / "to-engine" / f"{life}-{number:012d}.json").write_text(json.dumps(frame))


async def heard(folder: Path, life: str, number: int) -> dict[str, Any]:
    path = folder / "to-terminal" / f"{life}-{number:012d}.json"
    for _ in range(500):
        if path.exists():
            frame: dict[str, Any] = json.loads(path.read_bytes())
            path.unlink()
            return frame
        await asyncio.sleep(0.005)
    raise AssertionError(f"{path} never came")


async def greeted(carrier: FilesCarrier, folder: Path, life: str = NONCE) -> Any:
    (folder / "to-engine").mkdir(parents=True, exist_ok=True)
    hello = {"hello": "bridge", "protocol": 1, "account": ACCOUNT, "platform": "mt4", "build": 1420, "program": "Test 1.0"}
    leave(folder, life, 1, **hello, utcMs=SystemClock().now_ms(), nonce=life)
    connecting = asyncio.ensure_future(carrier.connect())
    challenge = (await heard(folder, life, 1))["challenge"]
    leave(folder, life, 2, proof=proof_of(SECRET, f"terminal|{ACCOUNT}|{life}|{challenge}"))
    assert await heard(folder, life, 2) == {"welcome": True}
    return await connecting


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "MtCopier" / ACCOUNT


async def test_files_carry_frames_in_their_order_and_are_deleted_once_read(tmp_path: Path, folder: Path) -> None:
    link = await greeted(FilesCarrier(tmp_path, ACCOUNT, SECRET, clock=SystemClock(), poll_s=0.002), folder)
    leave(folder, NONCE, 4, id=2)
    leave(folder, NONCE, 3, id=1)
    assert [json.loads(await link.receive())["id"] for _ in range(2)] == [1, 2]
    assert list((folder / "to-engine").iterdir()) == []
    await link.close()


async def test_what_another_life_left_behind_is_never_read(tmp_path: Path, folder: Path) -> None:
    (folder / "to-engine").mkdir(parents=True)
    leave(folder, "f" * 32, 3, id=7)
    link = await greeted(FilesCarrier(tmp_path, ACCOUNT, SECRET, clock=SystemClock(), poll_s=0.002), folder)
    leave(folder, NONCE, 3, id=1)
    assert json.loads(await link.receive())["id"] == 1
    await link.close()


async def test_a_new_greeting_ends_the_link_before_it(tmp_path: Path, folder: Path) -> None:
    link = await greeted(FilesCarrier(tmp_path, ACCOUNT, SECRET, clock=SystemClock(), poll_s=0.002), folder)
    leave(folder, "e" * 32, 1, hello="bridge")
    with pytest.raises(LinkLost, match="started anew"):
        await asyncio.wait_for(link.receive(), 5)
    await link.close()


async def test_a_closed_link_takes_back_what_was_not_read_and_says_goodbye(tmp_path: Path, folder: Path) -> None:
    link = await greeted(FilesCarrier(tmp_path, ACCOUNT, SECRET, clock=SystemClock(), poll_s=0.002), folder)
    close = encode_request(1, Op.CLOSE_POSITION, CloseRequest(ticket=1), Permit(token=1, not_after_ms=2))
    await link.send(close)
    await link.send(close)
    await link.close()
    left = sorted((folder / "to-terminal").iterdir())
    assert [path.read_bytes() for path in left] == [GOODBYE]
    assert left[0].name.endswith("-000000000003.json")
