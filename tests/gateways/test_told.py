"""What a far end says by itself is a read like any other: whole or none, of the right account, and never older than an answer."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from copier.clock import LoopClock, run_virtual
from copier.database import MEMORY, Database
from copier.gateway import GatewayFacts
from copier.gateways.paper import PaperGateway
from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_server import PaperServer
from copier.gateways.remote import RemoteGateway
from copier.gateways.serving import FarEnd
from copier.gateways.told import AGE_MAX_MS
from copier.ledger import Ledger, Remembered
from copier.model import Closed, Event, Opened, Permit, Side, TradeRequest
from copier.settings import FollowerSettings, MasterSettings
from copier.standing import Standing
from copier.stream import EntryId, open_stream
from copier.watcher import Watcher
from copier.wire import (
    CHANGED,
    QUOTE,
    Op,
    Opening,
    Params,
    PositionsParams,
    Push,
    QuoteParams,
    decode_answer,
    encode,
    encode_push,
    encode_request,
)
from tests.fakes.links import DirectCarrier

ACCOUNT = "7@Broker-Demo"


class Scene:
    """A gateway over a link, and a far end that says what it reads when a test has it do so."""

    def __init__(self) -> None:
        self.clock = LoopClock(1_704_715_200_000)
        self.server = PaperServer("Broker-Demo", clock=self.clock)
        self.server.add_account(PaperAccount(7))
        self.server.set_quote("EURUSD", "1.10000", "1.10010")
        self.behind = PaperGateway(self.server, 7, clock=self.clock)
        self.carrier = DirectCarrier(FarEnd(self.behind, ACCOUNT, clock=self.clock))
        """It says nothing by itself but what a test has it say."""
        facts = GatewayFacts(kind="test", settle_s=1.0, call_timeout_s=5.0)
        self.gateway = RemoteGateway(self.carrier, facts, Opening(account=ACCOUNT), clock=self.clock)

    async def tell(self, *, age_ms: int = 0, **changes: Any) -> None:
        """Let the far end say its positions as they are now, with these changes to the data."""
        await self._tell(Push(push=CHANGED, utc_ms=self.clock.now_ms() - age_ms), Op.GET_POSITIONS, PositionsParams(), changes)

    async def tell_quote(self, symbol: str = "EURUSD", **changes: Any) -> None:
        push = Push(push=QUOTE, utc_ms=self.clock.now_ms(), symbol=symbol)
        await self._tell(push, Op.GET_QUOTE, QuoteParams(symbol="EURUSD"), changes)

    async def _tell(self, push: Push, op: Op, params: Params, changes: dict[str, Any]) -> None:
        answer = decode_answer(await self.carrier.far_end.answer_async(encode_request(99, op, params)))
        data = msgspec.json.encode({**msgspec.json.decode(answer.data), **changes})
        self.carrier.link.say(encode(msgspec.structs.replace(push, data=msgspec.Raw(data))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def asked(self, op: Op) -> int:
        return sum(f'"{op}"'.encode() in frame for frame in self.carrier.link.sent)


def play(act: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        scene = Scene()
        await scene.behind.open()
        await scene.gateway.open()
        try:
            await act(scene)
        finally:
            await scene.gateway.close()

    run_virtual(run())


def test_positions_that_are_told_are_a_read_of_their_own() -> None:
    async def act(scene: Scene) -> None:
        before = await scene.gateway.get_positions()
        assert scene.gateway.positions_told() is None
        scene.server.buy(7, "EURUSD", "0.10")
        await scene.tell(age_ms=40)
        told = scene.gateway.positions_told()
        assert told is not None
        assert [position.lots for position in told[0].positions] == [Decimal("0.10")]
        assert (told[0].account, told[0].connected, told[0].read > before.read) == (ACCOUNT, True, True)
        assert told[1] == scene.clock.now_ms() - 40
        assert scene.asked(Op.GET_POSITIONS) == 1

    play(act)


@pytest.mark.parametrize("later", ["read", "trade", "word"])
def test_positions_that_were_told_are_gone_once_something_newer_is_known(later: str) -> None:
    async def act(scene: Scene) -> None:
        await scene.tell()
        assert scene.gateway.positions_told() is not None
        match later:
            case "read":
                await scene.gateway.get_positions("EURUSD")
            case "trade":
                permit = Permit(token=1, not_after_ms=scene.clock.now_ms() + 5_000)
                order = TradeRequest(symbol="EURUSD", action=Side.BUY, lots=Decimal("0.1"))
                await scene.gateway.execute_trade(order, permit)
            case _:
                scene.carrier.link.say(encode_push(CHANGED))
                await asyncio.sleep(0.1)
        assert scene.gateway.positions_told() is None

    play(act)


def test_an_account_that_is_read_meanwhile_does_not_age_what_was_told() -> None:
    async def act(scene: Scene) -> None:
        await scene.tell()
        await scene.gateway.get_account()
        assert scene.gateway.positions_told() is not None

    play(act)


@pytest.mark.parametrize("changes", [{"count": 1}, {"account": "8@Broker-Demo"}, {"positions": [{"ticket": 1}], "count": 1}])
def test_what_is_no_whole_list_of_this_account_is_not_told(changes: dict[str, Any]) -> None:
    async def act(scene: Scene) -> None:
        await scene.tell(**changes)
        assert scene.gateway.positions_told() is None
        assert (await scene.gateway.get_positions()).positions == ()

    play(act)


def test_positions_that_were_read_too_long_ago_are_not_told() -> None:
    async def act(scene: Scene) -> None:
        await scene.tell(age_ms=AGE_MAX_MS + 1)
        assert scene.gateway.positions_told() is None
        await scene.tell()
        await asyncio.sleep(AGE_MAX_MS / 1000 + 0.001)
        assert scene.gateway.positions_told() is None

    play(act)


def test_nothing_told_over_a_lost_link_is_given_back() -> None:
    async def act(scene: Scene) -> None:
        await scene.gateway.get_quote("EURUSD")
        await scene.tell()
        await scene.tell_quote()
        assert None not in (scene.gateway.positions_told(), scene.gateway.quote_told("EURUSD"))
        scene.carrier.link.cut()
        await asyncio.sleep(0.1)
        assert (scene.gateway.positions_told(), scene.gateway.quote_told("EURUSD")) == (None, None)
        await asyncio.sleep(0.8)
        assert scene.gateway.connected
        assert (scene.gateway.positions_told(), scene.gateway.quote_told("EURUSD")) == (None, None)

    play(act)


def test_a_price_is_told_of_what_was_asked_for_alone_and_until_it_is_asked_for_again() -> None:
    async def act(scene: Scene) -> None:
        await scene.tell_quote()
        assert scene.gateway.quote_told("EURUSD") is None
        await scene.gateway.get_quote("EURUSD")
        scene.server.set_quote("EURUSD", "1.20000", "1.20010")
        await scene.tell_quote()
        told = scene.gateway.quote_told("EURUSD")
        assert told is not None
        assert (told[0].bid, told[0].spec.digits, told[1]) == (Decimal("1.2"), 5, scene.clock.now_ms())
        await scene.gateway.get_quote("EURUSD")
        assert scene.gateway.quote_told("EURUSD") is None

    play(act)


@pytest.mark.parametrize("changes", [{"symbol": "XAUUSD"}, {"account": "8@Broker-Demo"}, {"bid": "a lot"}])
def test_what_is_no_price_of_that_symbol_and_account_is_not_told(changes: dict[str, Any]) -> None:
    async def act(scene: Scene) -> None:
        await scene.gateway.get_quote("EURUSD")
        await scene.tell_quote(**changes)
        assert scene.gateway.quote_told("EURUSD") is None

    play(act)


# who uses it


async def watched(scene: Scene, act: Callable[[Watcher], Awaitable[None]]) -> list[Event]:
    """Watch the account, and return what was published."""
    database, stream = Database(MEMORY), open_stream("memory://")
    await database.open()
    watcher = Watcher(
        "m",
        scene.gateway,
        stream,
        Ledger(database, scene.clock, "watcher"),
        scene.clock,
        MasterSettings.model_validate({"account": "m", "snapshot_s": 30}),
    )
    task = asyncio.create_task(watcher.run())
    try:
        await asyncio.sleep(1)
        await act(watcher)
        return [entry.event for entry in await stream.read({"m": EntryId()}, block_ms=1) if entry.event is not None]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await stream.close()
        await database.close()


def test_a_watcher_publishes_what_it_is_told_and_asks_for_no_positions() -> None:
    async def act(scene: Scene) -> None:
        async def change(watcher: Watcher) -> None:
            asked = scene.asked(Op.GET_POSITIONS)
            ticket = scene.server.buy(7, "EURUSD", "0.10").position
            await scene.tell(age_ms=7)
            told_ms = scene.clock.now_ms()
            await asyncio.sleep(0.1)
            assert watcher.read_ms == told_ms - 7
            scene.server.close(7, ticket)
            await scene.tell()
            await asyncio.sleep(0.1)
            assert scene.asked(Op.GET_POSITIONS) == asked

        events = await watched(scene, change)
        assert [type(event) for event in events if isinstance(event, Opened | Closed)] == [Opened, Closed]

    play(act)


@pytest.mark.parametrize("changes", [{"connected": False}, {"count": 3}, {"account": "8@Broker-Demo"}])
def test_a_watcher_that_is_told_what_counts_for_nothing_asks_and_publishes_no_close(changes: dict[str, Any]) -> None:
    async def act(scene: Scene) -> None:
        scene.server.buy(7, "EURUSD", "0.10")

        async def change(watcher: Watcher) -> None:
            asked = scene.asked(Op.GET_POSITIONS)
            await scene.tell(**{"positions": [], "count": 0, **changes})
            await asyncio.sleep(0.1)
            assert scene.asked(Op.GET_POSITIONS) == asked + 1
            assert len(watcher.view.open) == 1
            assert not watcher.error

        events = await watched(scene, change)
        assert not [event for event in events if isinstance(event, Closed)]

    play(act)


def test_a_follower_that_is_told_a_price_needs_not_ask_for_it_before_it_opens() -> None:
    async def act(scene: Scene) -> None:
        settings = FollowerSettings.model_validate({"account": "a", "copies": [{"master": "m"}]})
        standing = Standing("a", settings, scene.gateway, scene.clock, Remembered())
        await standing.begin()
        await standing.quote("EURUSD")
        await asyncio.sleep(10)
        assert standing.quote_read("EURUSD", 1_000) is None
        scene.server.set_quote("EURUSD", "1.20000", "1.20010")
        await scene.tell_quote()
        asked = scene.asked(Op.GET_QUOTE)
        await standing.read_ahead(None, 500)
        read = standing.quote_read("EURUSD", 1_000)
        assert read is not None
        assert (read[0].bid, read[1]) == (Decimal("1.2"), scene.clock.now_ms())
        assert scene.asked(Op.GET_QUOTE) == asked
        await asyncio.sleep(2)
        await standing.read_ahead(None, 500)
        assert scene.asked(Op.GET_QUOTE) == asked + 1

    play(act)
