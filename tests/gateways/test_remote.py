"""Calls over a link: answered by their number, ended by their deadline, and never called unsent when they may have left."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copier.clock import LoopClock, run_virtual
from copier.errors import InvalidRequest, OutcomeUnknown, Reason, Rejected, Unavailable
from copier.gateway import GatewayFacts
from copier.gateways import paper_faults as fault
from copier.gateways import remote
from copier.gateways.paper import PaperGateway
from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_faults import Faults, Operation
from copier.gateways.paper_server import PaperServer
from copier.gateways.remote import RemoteGateway
from copier.gateways.serving import FarEnd
from copier.model import CloseRequest, Deal, DealType, ModifyRequest, Permit, Positions, Side, SymbolSpec, TradeRequest
from copier.wire import (
    DEALS_PER_FRAME,
    OPEN,
    SYMBOLS_PER_FRAME,
    Answer,
    Op,
    Opening,
    Request,
    decode,
    decode_answer,
    decode_request,
    encode,
    encode_error,
    encode_request,
    encode_result,
)
from tests.fakes.links import DirectCarrier

ACCOUNT = "7@Broker-Demo"
ORDER = TradeRequest(symbol="EURUSD", action=Side.BUY, lots=Decimal("0.1"))


@dataclass(kw_only=True)
class Scene:
    clock: LoopClock
    server: PaperServer
    faults: Faults
    carrier: DirectCarrier
    gateway: RemoteGateway

    def permit(self, token: int = 1, within_s: float = 60.0) -> Permit:
        return Permit(token=token, not_after_ms=self.clock.now_ms() + round(within_s * 1000))

    async def open(self, **permit: Any) -> Any:
        return await self.gateway.execute_trade(ORDER, self.permit(**permit))

    @property
    def executed(self) -> int:
        return len(self.server.accounts[7].positions)


def play(act: Callable[[Scene], Awaitable[None]], *, opened: bool = True, **gateway: Any) -> None:
    """Run a scene: a gateway over a link to a far end that serves a paper gateway, in virtual time."""

    async def run() -> None:
        clock = LoopClock(1_704_715_200_000)
        server = PaperServer("Broker-Demo", clock=clock)
        server.add_account(PaperAccount(7))
        server.set_quote("EURUSD", "1.10000", "1.10010")
        faults = Faults()
        behind = PaperGateway(server, 7, clock=clock, faults=faults, call_timeout_s=100.0)
        await behind.open()
        carrier = DirectCarrier(FarEnd(behind, ACCOUNT, clock=clock, program="tests 1"), behind)
        facts = GatewayFacts(kind="test", settle_s=1.0, call_timeout_s=5.0)
        made = RemoteGateway(carrier, facts, Opening(account=ACCOUNT), clock=clock, **gateway)
        try:
            if opened:
                await made.open()
            await act(Scene(clock=clock, server=server, faults=faults, carrier=carrier, gateway=made))
        finally:
            await made.close()

    run_virtual(run())


# answers and deadlines


def test_answers_find_their_calls_whatever_their_order() -> None:
    async def act(scene: Scene) -> None:
        scene.faults.next(Operation.POSITIONS, fault.delay(answer_s=2))
        slow = asyncio.create_task(scene.gateway.get_positions())
        await asyncio.sleep(0.1)
        assert (await scene.gateway.get_quote("EURUSD")).symbol == "EURUSD"
        assert not slow.done()
        assert (await slow).positions == ()

    play(act)


def test_a_read_asked_later_has_the_higher_number_though_it_is_answered_first() -> None:
    async def act(scene: Scene) -> None:
        scene.faults.next(Operation.POSITIONS, fault.delay(answer_s=2))
        first = asyncio.create_task(scene.gateway.get_positions())
        await asyncio.sleep(0.1)
        second = await scene.gateway.get_positions()
        assert second.read > (await first).read

    play(act)


@pytest.mark.parametrize("arrives", [True, False], ids=["arrives", "is lost"])
def test_an_order_without_an_answer_is_unknown_at_its_deadline(arrives: bool) -> None:  # noqa: FBT001
    async def act(scene: Scene) -> None:
        if arrives:
            scene.faults.next(Operation.EXECUTE, fault.delay(answer_s=50))
        else:
            scene.carrier.link.loses = lambda frame: b"execute_trade" in frame
        began = scene.clock.now_ms()
        with pytest.raises(OutcomeUnknown, match="within 5 s"):
            await scene.open()
        assert scene.clock.now_ms() - began == 5000
        assert scene.executed == (1 if arrives else 0)
        assert scene.carrier.link.overdue_calls == 1

    play(act)


def test_a_read_without_an_answer_is_unavailable_at_its_deadline() -> None:
    async def act(scene: Scene) -> None:
        scene.carrier.link.loses = lambda frame: True
        for read in (scene.gateway.get_account(), scene.gateway.get_positions(), scene.gateway.get_quote("EURUSD")):
            with pytest.raises(Unavailable, match="within 5 s"):
                await read

    play(act)


def test_a_late_answer_is_told_in_the_log_and_given_to_no_other_call(caplog: pytest.LogCaptureFixture) -> None:
    async def act(scene: Scene) -> None:
        scene.faults.next(Operation.EXECUTE, fault.delay(answer_s=7))
        with pytest.raises(OutcomeUnknown):
            await scene.open()
        quote = scene.gateway.get_quote("EURUSD")
        assert (await quote).symbol == "EURUSD"
        await asyncio.sleep(5)

    with caplog.at_level(logging.WARNING, "copier.gateways.remote"):
        play(act)
    assert "answer to execute_trade came after its deadline: done" in caplog.text


def test_an_order_that_waited_its_whole_time_behind_others_is_surely_not_sent() -> None:
    async def act(scene: Scene) -> None:
        scene.faults.next(Operation.EXECUTE, fault.delay(answer_s=50))
        answers = await asyncio.gather(scene.open(), scene.open(), return_exceptions=True)
        assert [type(answer) for answer in answers] == [OutcomeUnknown, Unavailable]
        assert scene.executed == 1

    play(act, in_flight_max=1)


def test_an_order_whose_not_after_passed_while_it_waited_is_not_sent() -> None:
    async def act(scene: Scene) -> None:
        scene.faults.next(Operation.POSITIONS, fault.delay(answer_s=2))
        read = asyncio.create_task(scene.gateway.get_positions())
        await asyncio.sleep(0)
        with pytest.raises(Rejected) as caught:
            await scene.open(within_s=1)
        assert caught.value.reason is Reason.TOO_LATE
        await read
        assert not [frame for frame in scene.carrier.link.sent if b"execute_trade" in frame]

    play(act, in_flight_max=1)


def test_a_cancelled_call_gives_its_place_free() -> None:
    async def act(scene: Scene) -> None:
        scene.faults.next(Operation.POSITIONS, fault.delay(answer_s=3))
        read = asyncio.create_task(scene.gateway.get_positions())
        await asyncio.sleep(0.1)
        read.cancel()
        assert (await scene.gateway.get_account()).login == "7"

    play(act, in_flight_max=1)


# links that break


def test_a_link_that_breaks_ends_reads_as_unavailable_and_orders_as_unknown() -> None:
    async def act(scene: Scene) -> None:
        scene.carrier.link.loses = lambda frame: True
        calls = [asyncio.ensure_future(call) for call in (scene.open(), scene.gateway.get_positions())]
        await asyncio.sleep(0.1)
        scene.carrier.link.cut()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [OutcomeUnknown, Unavailable]

    play(act)


def test_without_a_link_nothing_is_sent_and_the_reason_is_told() -> None:
    async def act(scene: Scene) -> None:
        scene.carrier.link.cut()
        await asyncio.sleep(0)
        for call in (scene.open(), scene.gateway.get_positions()):
            with pytest.raises(Unavailable):
                await call
        assert scene.executed == 0

    play(act)


def test_a_broken_link_is_made_anew_and_works() -> None:
    async def act(scene: Scene) -> None:
        woken: list[int] = []
        assert scene.gateway.wakes is not None
        scene.gateway.wakes.on_change(lambda: woken.append(1))
        scene.carrier.link.cut()
        await asyncio.sleep(1)
        assert (await scene.open()).lots == Decimal("0.1")
        assert woken

    play(act)


def test_attempts_to_reconnect_come_ever_slower_and_at_most_once_a_minute() -> None:
    async def act(scene: Scene) -> None:
        scene.carrier.refuses = 20
        scene.carrier.attempts.clear()
        scene.carrier.link.cut()
        await asyncio.sleep(600)
        times = scene.carrier.attempts
        pauses = [after - before for before, after in pairwise(times)]
        assert pauses == sorted(pauses)
        assert pauses[0] == pytest.approx(2 * remote.PAUSE_MIN_S)
        assert max(pauses) == pytest.approx(remote.PAUSE_MAX_S)
        with pytest.raises(Unavailable, match="nobody is there"):
            await scene.gateway.get_account()

    play(act)


def test_a_link_that_breaks_again_at_once_is_not_remade_in_a_hurry() -> None:
    async def act(scene: Scene) -> None:
        for _ in range(200):
            await asyncio.sleep(0.25)
            scene.carrier.link.cut()
        assert len(scene.carrier.attempts) < 10

    play(act)


def test_bytes_that_are_no_frame_break_the_link_and_no_call_hangs() -> None:
    async def act(scene: Scene) -> None:
        scene.carrier.link.loses = lambda frame: True
        order = asyncio.ensure_future(scene.open())
        await asyncio.sleep(0)
        scene.carrier.link.say(b"<html>")
        with pytest.raises(OutcomeUnknown):
            await order

    play(act)


def test_closing_the_gateway_ends_reads_as_unavailable_and_orders_as_unknown() -> None:
    async def act(scene: Scene) -> None:
        scene.carrier.link.loses = lambda frame: True
        calls = [asyncio.ensure_future(call) for call in (scene.open(), scene.gateway.get_positions())]
        await asyncio.sleep(0.1)
        await scene.gateway.close()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [OutcomeUnknown, Unavailable]
        assert scene.carrier.link.over

    play(act)


# the right account and the right protocol


def test_another_account_at_the_far_end_is_not_opened() -> None:
    async def act(scene: Scene) -> None:
        scene.carrier.far_end.account = "8@Broker-Demo"
        with pytest.raises(Unavailable, match=r"expected 7@Broker-Demo, here is 8@Broker-Demo"):
            await scene.gateway.open()
        assert not scene.gateway.connected

    play(act, opened=False)


def test_an_answer_of_another_account_fails_a_read_and_leaves_an_order_unknown() -> None:
    async def act(scene: Scene) -> None:
        server = scene.server
        server.add_account(PaperAccount(8))
        for operation in (Operation.ACCOUNT, Operation.POSITIONS, Operation.QUOTE):
            scene.faults.next(operation, fault.wrong_account(8))
        for read in (scene.gateway.get_account(), scene.gateway.get_positions(), scene.gateway.get_quote("EURUSD")):
            with pytest.raises(Unavailable, match="is of 8@Broker-Demo, not of 7@Broker-Demo"):
                await read
        server.accounts[7].label = "9@Broker-Demo"
        with pytest.raises(OutcomeUnknown, match="9@Broker-Demo"):
            await scene.open()

    play(act)


def test_another_version_of_the_protocol_is_refused_by_either_side() -> None:
    async def act(scene: Scene) -> None:
        frame = encode(Request(id=0, op=OPEN, params=msgspec.Raw(encode(Opening(account=ACCOUNT, protocol=99)))))
        answer = decode_answer(await scene.carrier.far_end.answer_async(frame))
        assert not answer.success
        assert "protocol 99" in answer.error
        hello = scene.carrier.far_end.hello()
        scene.carrier.far_end.hello = lambda: msgspec.structs.replace(hello, protocol=99)  # type: ignore[method-assign]
        with pytest.raises(Unavailable, match="speaks protocol 99, expected 1"):
            await scene.gateway.open()

    play(act, opened=False)


def test_a_far_end_that_never_greets_is_given_up() -> None:
    async def act(scene: Scene) -> None:
        async def never(frame: bytes) -> bytes:
            return await asyncio.Event().wait()  # type: ignore[return-value]

        scene.carrier.far_end.answer_async = never  # type: ignore[method-assign]
        with pytest.raises(Unavailable, match="did not answer within 30 s"):
            await scene.gateway.open()
        assert scene.carrier.link.over

    play(act, opened=False)


def test_a_far_end_that_forgot_the_token_is_given_it_again() -> None:
    async def act(scene: Scene) -> None:
        await scene.open(token=5)
        fresh = FarEnd(scene.carrier.far_end._gateway, ACCOUNT, clock=scene.clock)
        scene.server.accounts[7].token_seen = 0
        scene.carrier.far_end = fresh
        scene.carrier.link.cut()
        await asyncio.sleep(1)
        with pytest.raises(Rejected) as caught:
            await scene.open(token=4)
        assert caught.value.reason is Reason.STALE_TOKEN

    play(act)


def test_mistakes_in_a_request_are_told_before_anything_is_sent() -> None:
    async def act(scene: Scene) -> None:
        before = len(scene.carrier.link.sent)
        bad = msgspec.structs.replace(ORDER, lots=Decimal(-1))
        calls = [
            scene.gateway.execute_trade(bad, scene.permit()),
            scene.gateway.close_position(CloseRequest(ticket=1, lots=Decimal(0)), scene.permit()),
            scene.gateway.modify_position(ModifyRequest(ticket=1), scene.permit()),
        ]
        for call in calls:
            with pytest.raises(InvalidRequest):
                await call  # type: ignore[misc]
        assert len(scene.carrier.link.sent) == before

    play(act)


# what is offered


def test_a_push_wakes_and_an_unknown_one_does_nothing() -> None:
    async def act(scene: Scene) -> None:
        woken: list[int] = []
        scene.gateway.on_change(lambda: woken.append(1))
        scene.carrier.link.say(b'{"push":"weather"}')
        await asyncio.sleep(0.1)
        assert not woken
        scene.server.buy(7, "EURUSD", "0.10")
        await asyncio.sleep(0.1)
        assert woken

    play(act)


def test_what_the_far_end_does_not_offer_is_not_offered_here() -> None:
    async def act(scene: Scene) -> None:
        assert None not in (scene.gateway.deals, scene.gateway.symbols, scene.gateway.wakes)
        await scene.gateway.close()
        behind = PaperGateway(scene.server, 7, without=frozenset({"deals", "symbols", "wakes"}))
        await behind.open()
        scene.carrier.far_end = FarEnd(behind, ACCOUNT, clock=scene.clock)
        await scene.gateway.open()
        assert (scene.gateway.deals, scene.gateway.symbols, scene.gateway.wakes) == (None, None, None)
        with pytest.raises(InvalidRequest, match="get_deals is not offered here"):
            await scene.gateway.get_deals((await scene.gateway.get_quote("EURUSD")).timestamp)

    play(act)


def test_a_catalogue_larger_than_a_frame_comes_in_parts() -> None:
    async def act(scene: Scene) -> None:
        (spec,) = [each for each in await scene.gateway.get_symbols() if each.symbol == "EURUSD"]
        many = tuple(msgspec.structs.replace(spec, symbol=f"S{index}") for index in range(2 * SYMBOLS_PER_FRAME + 3))

        async def get_symbols() -> tuple[SymbolSpec, ...]:
            return many

        scene.carrier.far_end._gateway.get_symbols = get_symbols
        assert await scene.gateway.get_symbols() == many

    play(act)


def test_a_history_larger_than_a_frame_comes_in_parts_and_none_of_it_twice() -> None:
    async def act(scene: Scene) -> None:
        moment = datetime(2024, 1, 8, tzinfo=UTC)
        many = tuple(Deal(ticket=ticket, type=DealType.BALANCE, time=moment) for ticket in range(2 * DEALS_PER_FRAME))

        async def get_deals(since: datetime, position_id: int | None) -> tuple[Deal, ...]:
            return many

        scene.carrier.far_end._gateway.get_deals = get_deals
        assert await scene.gateway.get_deals(moment) == many

    play(act)


# the far end by itself


class Plain:
    """A gateway whose operations are plain functions, as a far end beside a terminal has."""

    deals = symbols = pending_orders = bars = wakes = None

    def __init__(self) -> None:
        self.traded = 0
        self.fails: Exception | None = None

    def get_positions(self, symbol: str | None) -> Positions:
        if self.fails:
            raise self.fails
        return Positions(account=ACCOUNT, positions=())

    def execute_trade(self, request: TradeRequest, permit: Permit) -> Any:
        self.traded += 1
        if self.fails:
            raise self.fails
        raise Rejected("no", reason=Reason.NO_MONEY, code=10019)


def order_frame(token: int = 1, not_after_ms: int = 10**15) -> bytes:
    return encode_request(3, Op.EXECUTE_TRADE, ORDER, Permit(token=token, not_after_ms=not_after_ms))


def far_end(plain: Plain) -> FarEnd:
    return FarEnd(plain, ACCOUNT, clock=_Still())


class _Still:
    def now_ms(self) -> int:
        return 1000


def told(frame: bytes) -> tuple[str, str]:
    answer: Answer = decode_answer(frame)
    return answer.outcome, answer.reason


def test_an_order_without_a_permit_is_not_executed() -> None:
    plain = Plain()
    assert told(far_end(plain).answer(encode_request(3, Op.EXECUTE_TRADE, ORDER))) == ("invalid", "")
    assert plain.traded == 0


def test_a_lower_token_and_a_late_frame_are_not_executed() -> None:
    plain = Plain()
    served = far_end(plain)
    assert told(served.answer(order_frame(token=5))) == ("rejected", "no_money")
    assert told(served.answer(order_frame(token=4))) == ("rejected", "stale_token")
    assert told(served.answer(order_frame(token=5, not_after_ms=999))) == ("rejected", "too_late")
    assert plain.traded == 1


@pytest.mark.parametrize("error", [ValueError("nonsense"), KeyError("x"), OSError("gone"), OutcomeUnknown("lost")])
def test_a_failure_nobody_expected_leaves_an_order_unknown_and_a_read_unavailable(error: Exception) -> None:
    plain = Plain()
    plain.fails = error
    served = far_end(plain)
    assert told(served.answer(order_frame()))[0] == "unknown"
    read = decode_answer(served.answer(encode_request(4, Op.GET_POSITIONS, _positions())))
    assert read.id == 4
    assert read.outcome == ("unknown" if isinstance(error, OutcomeUnknown) else "unavailable")


def _positions() -> Any:
    from copier.wire import PositionsParams

    return PositionsParams()


def test_an_unknown_operation_and_mistaken_parameters_are_invalid() -> None:
    served = far_end(Plain())
    assert told(served.answer(b'{"id":1,"op":"rob_bank"}'))[0] == "invalid"
    assert told(served.answer(b'{"id":1,"op":"get_quote","params":{}}'))[0] == "invalid"
    assert told(served.answer(b'{"id":1,"op":"get_deals","params":{}}'))[0] == "invalid"


@given(st.binary(max_size=200))
def test_any_bytes_get_an_answer_and_trade_nothing(noise: bytes) -> None:
    plain = Plain()
    answer = decode_answer(far_end(plain).answer(noise))
    assert not answer.success
    assert plain.traded == 0


def test_an_answer_is_of_the_request_with_its_number() -> None:
    frame = encode_request(41, Op.GET_POSITIONS, _positions())
    assert decode_request(frame).id == decode_answer(far_end(Plain()).answer(frame)).id == 41
    assert decode(encode_error(7, Unavailable("x")), Answer).id == 7
    assert decode_answer(encode_result(8, Positions(account=ACCOUNT, positions=()))).id == 8
