"""The wire gives and takes the six operations' JSON, and nothing else gets through."""

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copier import wire
from copier.errors import CopierError, InvalidRequest, OutcomeUnknown, ProtocolError, Reason, Rejected, Unavailable
from copier.gateway import check_close, check_modify, check_trade
from copier.model import (
    Account,
    Closed,
    CloseRequest,
    CloseResult,
    Event,
    MasterPosition,
    ModifyRequest,
    Opened,
    Permit,
    Position,
    Positions,
    Quote,
    Side,
    Snapshot,
    SymbolSpec,
    TradeRequest,
    TradeResult,
)
from copier.wire import Op

D = Decimal
NOON = datetime(2026, 1, 4, 12, tzinfo=UTC)

SPEC = SymbolSpec(
    symbol="XAUUSD",
    digits=2,
    point=D("0.01"),
    tick_size=D("0.01"),
    tick_value=D(1),
    tick_value_loss=D(1),
    contract_size=D(100),
    volume_min=D("0.01"),
    volume_step=D("0.01"),
    volume_max=D(50),
)

GOLD = Position(
    ticket=123456,
    identifier=123456,
    symbol="XAUUSD",
    type=Side.BUY,
    lots=D("0.10"),
    open_price=D("2650.50"),
    current_price=D("2655.00"),
    stop_loss=D("2640.00"),
    take_profit=D("2680.00"),
    profit=D("45.00"),
    swap=D("-1.20"),
    open_time=datetime(2026, 1, 4, 10, 30, tzinfo=UTC),
    magic=12345,
    comment="AI Signal",
)


def data_of(frame: bytes) -> dict[str, object]:
    answer = json.loads(frame)
    assert answer["success"] is True
    data = answer["data"]
    assert isinstance(data, dict)
    return data


def test_an_account_has_the_specified_fields() -> None:
    account = Account(
        account="77@ICMarkets-Demo",
        login="77",
        balance=D("10000.00"),
        equity=D("10250.50"),
        margin=D("500.00"),
        free_margin=D("9750.50"),
        margin_level=D("2050.10"),
        profit=D("250.50"),
        currency="USD",
        leverage=100,
        name="Demo Account",
        server="ICMarkets-Demo",
        company="IC Markets",
    )
    frame = wire.encode_result(1, account)
    expected = {
        "balance": 10000.00,
        "equity": 10250.50,
        "margin": 500.00,
        "freeMargin": 9750.50,
        "marginLevel": 2050.10,
        "profit": 250.50,
        "currency": "USD",
        "leverage": 100,
        "name": "Demo Account",
        "server": "ICMarkets-Demo",
        "company": "IC Markets",
    }
    assert expected.items() <= data_of(frame).items()
    assert wire.result_of(wire.decode_answer(frame), Op.GET_ACCOUNT, "a") == account


def test_positions_come_with_total_and_count() -> None:
    read = Positions(account="77@X", positions=(GOLD,))
    frame = wire.encode_result(2, read)
    data = data_of(frame)
    assert data["totalProfit"] == 45.0
    assert data["count"] == 1
    expected = {
        "ticket": 123456,
        "symbol": "XAUUSD",
        "type": "buy",
        "lots": 0.10,
        "openPrice": 2650.50,
        "currentPrice": 2655.00,
        "stopLoss": 2640.00,
        "takeProfit": 2680.00,
        "profit": 45.00,
        "swap": -1.20,
        "openTime": "2026-01-04T10:30:00Z",
        "magic": 12345,
        "comment": "AI Signal",
    }
    positions = data["positions"]
    assert isinstance(positions, list)
    assert expected.items() <= positions[0].items()
    assert wire.result_of(wire.decode_answer(frame), Op.GET_POSITIONS, "a") == read


def test_a_positions_answer_that_lists_fewer_than_it_counts_is_a_failed_read() -> None:
    frame = wire.encode_result(2, Positions(account="77@X", positions=(GOLD,))).replace(b'"count":1', b'"count":2')
    with pytest.raises(Unavailable, match="2 positions and lists 1"):
        wire.result_of(wire.decode_answer(frame), Op.GET_POSITIONS, "a")


def test_a_quote_has_its_spread_in_price_units() -> None:
    quote = Quote(account="77@X", symbol="XAUUSD", bid=D("2650.50"), ask=D("2650.80"), timestamp=NOON, spec=SPEC)
    frame = wire.encode_result(3, quote)
    data = data_of(frame)
    assert (data["symbol"], data["bid"], data["ask"], data["spread"]) == ("XAUUSD", 2650.5, 2650.8, 0.3)
    assert data["timestamp"] == "2026-01-04T12:00:00Z"
    assert wire.result_of(wire.decode_answer(frame), Op.GET_QUOTE, "a") == quote


def test_the_plain_trade_request_takes_the_specified_defaults() -> None:
    request = wire.decode_params(Op.EXECUTE_TRADE, b'{"symbol": "XAUUSD", "action": "buy", "lots": 0.1}')
    assert request == TradeRequest(symbol="XAUUSD", action=Side.BUY, lots=D("0.1"), slippage=3, magic=12345)


def test_the_full_trade_request_is_understood() -> None:
    raw = b"""{"symbol": "XAUUSD", "action": "buy", "lots": 0.1, "stopLoss": 2640.00, "takeProfit": 2680.00,
               "comment": "AI Signal - Gold Long"}"""
    request = wire.decode_params(Op.EXECUTE_TRADE, raw)
    assert isinstance(request, TradeRequest)
    assert (request.stop_loss, request.take_profit, request.comment) == (D("2640.00"), D("2680.00"), "AI Signal - Gold Long")


def test_a_done_trade_says_success_twice() -> None:
    result = TradeResult(account="77@X", ticket=123456, symbol="XAUUSD", action=Side.BUY, lots=D("0.1"))
    frame = wire.encode_result(4, result)
    expected = {
        "success": True,
        "ticket": 123456,
        "message": "Order placed successfully",
        "symbol": "XAUUSD",
        "action": "buy",
        "lots": 0.1,
    }
    assert expected.items() <= data_of(frame).items()
    assert wire.result_of(wire.decode_answer(frame), Op.EXECUTE_TRADE, "a") == result


def test_close_and_modify_requests_are_understood() -> None:
    assert wire.decode_params(Op.CLOSE_POSITION, b'{"ticket": 123456}') == CloseRequest(ticket=123456)
    partial = wire.decode_params(Op.CLOSE_POSITION, b'{"ticket": 123456, "lots": 0.5}')
    assert partial == CloseRequest(ticket=123456, lots=D("0.5"))
    both = wire.decode_params(Op.MODIFY_POSITION, b'{"ticket": 1, "stopLoss": 2640.00, "takeProfit": 2680.00}')
    assert both == ModifyRequest(ticket=1, stop_loss=D("2640.00"), take_profit=D("2680.00"))
    trailing = wire.decode_params(Op.MODIFY_POSITION, b'{"ticket": 1, "takeProfit": 2700.00}')
    assert trailing == ModifyRequest(ticket=1, take_profit=D("2700.00"))


def test_an_absent_level_and_a_removed_one_stay_apart_on_the_wire() -> None:
    removed = ModifyRequest(ticket=1, stop_loss=D(0))
    frame = wire.decode_request(wire.encode_request(9, Op.MODIFY_POSITION, removed, Permit(token=1, not_after_ms=2)))
    assert wire.decode_params(Op.MODIFY_POSITION, bytes(frame.params)) == removed
    assert frame.permit == Permit(token=1, not_after_ms=2)


def test_the_closing_message_is_the_specified_one() -> None:
    data = data_of(wire.encode_result(5, CloseResult(account="77@X", ticket=123456)))
    assert (data["success"], data["ticket"], data["message"]) == (True, 123456, "Position closed")


def test_a_missing_field_is_named_with_its_path() -> None:
    with pytest.raises(InvalidRequest) as caught:
        wire.decode_params(Op.GET_QUOTE, b"{}")
    assert json.loads(wire.encode_error(0, caught.value))["details"] == [{"path": ["symbol"], "message": "Required"}]
    assert json.loads(wire.encode_error(0, caught.value))["error"] == "Validation error"


def test_every_mistake_of_a_request_is_named_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        wire.decode_params(Op.EXECUTE_TRADE, b'{"action": "hold", "lots": "many", "magic": 1.5}')
    assert [detail.path for detail in caught.value.details] == [("symbol",), ("action",), ("lots",), ("magic",)]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (
            b'{"symbol":"X","action":"buy","lots":1,"stopLoss":3,"takeProfit":2}',
            "For BUY orders, stop loss must be below take profit",
        ),
        (
            b'{"symbol":"X","action":"sell","lots":1,"stopLoss":1,"takeProfit":2}',
            "For SELL orders, stop loss must be above take profit",
        ),
        (b'{"symbol":"X","action":"buy","lots":0}', "Validation error"),
        (b'{"symbol":"X","action":"buy","lots":100.01}', "Validation error"),
        (b'{"symbol":"X","action":"buy","lots":1,"comment":"12345678901234567890123456789012"}', "Validation error"),
        (b'{"symbol":"X","action":"buy","lots":1,"stopLoss":-1}', "Validation error"),
    ],
)
def test_a_trade_against_the_rules_is_refused_with_the_specified_text(raw: bytes, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        request = wire.decode_params(Op.EXECUTE_TRADE, raw)
        assert isinstance(request, TradeRequest)
        check_trade(request)


def test_a_number_no_machine_can_hold_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="out of range"):
        wire.decode_params(Op.EXECUTE_TRADE, b'{"symbol":"X","action":"buy","lots":1e999999999}')


def test_a_modify_without_a_level_is_refused_with_the_specified_text() -> None:
    with pytest.raises(InvalidRequest, match="At least one of stopLoss or takeProfit must be provided"):
        check_modify(ModifyRequest(ticket=1))


def test_closing_nothing_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        check_close(CloseRequest(ticket=1, lots=D(0)))


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("MT4 terminal is not connected", account="a"),
        Rejected("Trade execution failed: Insufficient margin", reason=Reason.NO_MONEY, code=10019, account="a"),
        OutcomeUnknown("no answer within 10 s", account="a"),
        InvalidRequest("Position with ticket 5 not found", account="a"),
    ],
)
def test_an_error_arrives_as_what_it_was(error: CopierError) -> None:
    answer = wire.decode_answer(wire.encode_error(7, error))
    assert answer.id == 7
    with pytest.raises(type(error)) as caught:
        wire.result_of(answer, Op.EXECUTE_TRADE, "a")
    assert str(caught.value) == str(error)
    assert getattr(caught.value, "code", 0) == getattr(error, "code", 0)


def test_an_unreadable_answer_to_an_order_is_unknown_and_to_a_read_is_unavailable() -> None:
    answer = wire.decode_answer(b'{"id":1,"success":true,"data":{"ticket":"?"}}')
    with pytest.raises(OutcomeUnknown):
        wire.result_of(answer, Op.EXECUTE_TRADE, "a")
    with pytest.raises(Unavailable):
        wire.result_of(answer, Op.GET_POSITIONS, "a")


def test_a_failure_that_does_not_say_how_it_ended_is_unknown() -> None:
    answer = wire.decode_answer(b'{"id":1,"success":false,"error":"?"}')
    with pytest.raises(OutcomeUnknown):
        wire.result_of(answer, Op.CLOSE_POSITION, "a")


prices = st.decimals(min_value=0, max_value=10**6, places=5)
lots = st.decimals(min_value=D("0.01"), max_value=100, places=2)
master_positions = st.builds(
    MasterPosition,
    identifier=st.integers(1, 2**63),
    generation=st.integers(1, 9),
    ticket=st.integers(1, 2**63),
    symbol=st.text(max_size=31),
    side=st.sampled_from(Side),
    lots=lots,
    lots_opened=lots,
    open_price=prices,
    stop_loss=prices,
    take_profit=prices,
    open_time=st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001
    magic=st.integers(0, 2**63),
    comment=st.text(max_size=31),
)
hops = {"master": st.text(max_size=20), "read": st.integers(0, 2**53), "read_ms": st.integers(0, 2**53)}
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(Opened, position=master_positions, spec=st.sampled_from([None, SPEC]), **hops),
    st.builds(Closed, position=master_positions, price=prices, **hops),
    st.builds(Snapshot, positions=st.lists(master_positions, max_size=3).map(tuple), specs=st.just({"XAUUSD": SPEC}), **hops),
)


@given(events)
def test_decoding_an_encoded_event_gives_it_back(event: Event) -> None:
    assert wire.decode_event(wire.encode_event(event)) == event


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_decode_or_raise_the_one_protocol_error(data: bytes) -> None:
    for read in (wire.decode_event, wire.decode_request, wire.decode_answer):
        try:
            read(data)
        except ProtocolError:
            continue


@given(events, st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_a_damaged_event_decodes_or_raises_the_one_protocol_error(event: Event, at: int, damage: bytes) -> None:
    data = wire.encode_event(event)
    torn = data[:at] + damage + data[at + len(damage) :]
    try:
        wire.decode_event(torn)
    except ProtocolError:
        return


def test_a_frame_beyond_the_bound_is_refused_before_it_is_read() -> None:
    with pytest.raises(ProtocolError, match="at most"):
        wire.decode_request(b" " * (wire.FRAME_BYTES_MAX + 1))


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5), st.lists, max_leaves=8
    )
)
def test_any_json_as_parameters_is_understood_or_refused_with_paths(value: object) -> None:
    for op in (Op.EXECUTE_TRADE, Op.CLOSE_POSITION, Op.GET_QUOTE):
        try:
            wire.decode_params(op, json.dumps(value).encode())
        except InvalidRequest as error:
            assert error.details
