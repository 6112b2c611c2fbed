"""Orders that wait for their price at the paper broker."""

from decimal import Decimal

import pytest

from copier.errors import Reason, Rejected
from copier.gateways.paper_account import OrderState
from copier.model import MarginMode, PendingType, Side

D = Decimal


def place(bench, type, price, lots="0.30", **more):
    return bench.server.place(bench.login, "EURUSD", type, lots, price, **more)


def quote(bench, bid):
    bench.server.set_quote("EURUSD", bid, D(bid) + D("0.00010"))


@pytest.mark.parametrize(
    ("type", "price", "just_before", "reached", "fill"),
    [
        (PendingType.BUY_LIMIT, "1.09000", "1.08991", "1.08990", "1.09000"),
        (PendingType.SELL_LIMIT, "1.11000", "1.10999", "1.11000", "1.11000"),
        (PendingType.BUY_STOP, "1.11000", "1.10989", "1.10990", "1.11000"),
        (PendingType.SELL_STOP, "1.09000", "1.09001", "1.09000", "1.09000"),
    ],
)
def test_a_waiting_order_opens_when_the_opening_side_price_reaches_it(bench, type, price, just_before, reached, fill):
    ticket = place(bench, type, price, comment="mcabcdef", magic=5)
    quote(bench, just_before)
    assert bench.server.positions(bench.login) == ()
    quote(bench, reached)
    position = bench.position
    assert (position.ticket, position.identifier) == (ticket, ticket)
    assert (position.open_price, position.lots, position.magic, position.tag) == (D(fill), D("0.30"), 5, "mcabcdef")
    assert position.type is (Side.BUY if "buy" in type else Side.SELL)
    assert bench.server.pending_orders(bench.login) == ()


@pytest.mark.parametrize(
    ("type", "price"),
    [
        (PendingType.BUY_LIMIT, "1.10020"),
        (PendingType.SELL_LIMIT, "1.09990"),
        (PendingType.BUY_STOP, "1.10000"),
        (PendingType.SELL_STOP, "1.10010"),
        (PendingType.BUY_LIMIT, "1.099995"),
    ],
)
def test_a_price_on_the_wrong_side_or_off_the_tick_is_invalid(bench, type, price):
    with pytest.raises(Rejected) as caught:
        place(bench, type, price)
    assert caught.value.reason is Reason.INVALID_PRICE
    assert bench.server.pending_orders(bench.login) == ()


def test_a_stop_limit_order_becomes_a_limit_order_first(bench):
    place(bench, PendingType.BUY_STOP_LIMIT, "1.11000", limit_price=D("1.10500"))
    quote(bench, "1.11000")
    (order,) = bench.server.pending_orders(bench.login)
    assert (order.type, order.price) == (PendingType.BUY_LIMIT, D("1.10500"))
    quote(bench, "1.10490")
    assert bench.position.open_price == D("1.10500")


def test_stop_and_target_of_a_waiting_order_come_with_the_position(bench):
    place(bench, PendingType.BUY_LIMIT, "1.09000", stop_loss=D("1.08000"), take_profit=D("1.12000"))
    quote(bench, "1.08950")
    assert (bench.position.stop_loss, bench.position.take_profit) == (D("1.08000"), D("1.12000"))


def test_a_waiting_order_can_be_changed_and_cancelled(bench):
    ticket = place(bench, PendingType.BUY_LIMIT, "1.09000")
    bench.server.change_pending(bench.login, ticket, price=D("1.08000"))
    quote(bench, "1.08500")
    assert bench.server.positions(bench.login) == ()
    bench.server.cancel_pending(bench.login, ticket)
    quote(bench, "1.07000")
    assert bench.server.positions(bench.login) == ()
    assert [(order.ticket, order.state) for order in bench.account.orders] == [(ticket, OrderState.CANCELED)]
    with pytest.raises(Rejected) as caught:
        bench.server.cancel_pending(bench.login, ticket)
    assert caught.value.code == 10035


def test_an_expired_order_does_not_open(bench):
    place(bench, PendingType.BUY_LIMIT, "1.09000", expires_ms=bench.server.now_ms() + 60_000)
    bench.clock.advance(seconds=60)
    quote(bench, "1.08000")
    assert bench.server.positions(bench.login) == ()
    assert bench.account.orders[-1].state is OrderState.EXPIRED


def test_an_order_that_finds_no_money_when_its_price_comes_is_rejected_and_gone(bench):
    place(bench, PendingType.BUY_LIMIT, "1.09000", lots="50")
    quote(bench, "1.08000")
    assert bench.server.positions(bench.login) == ()
    assert bench.server.pending_orders(bench.login) == ()
    assert bench.account.orders[-1].state is OrderState.REJECTED


def test_a_waiting_order_nets_with_the_position_of_a_netting_account(bench):
    bench.serve(MarginMode.NETTING)
    first = bench.server.buy(bench.login, "EURUSD", "0.30")
    ticket = place(bench, PendingType.SELL_LIMIT, "1.11000", lots="0.50")
    quote(bench, "1.11000")
    assert (bench.position.type, bench.position.lots) == (Side.SELL, D("0.20"))
    assert (bench.position.ticket, bench.position.identifier) == (ticket, first.identifier)


def test_the_account_may_limit_waiting_orders(bench):
    bench.serve(orders_max=1)
    place(bench, PendingType.BUY_LIMIT, "1.09000")
    with pytest.raises(Rejected) as caught:
        place(bench, PendingType.BUY_LIMIT, "1.08000")
    assert (caught.value.reason, caught.value.code) == (Reason.LIMIT, 10033)


def test_the_stops_level_holds_for_the_price_and_the_levels_of_a_waiting_order(bench):
    bench.server.change_symbol("EURUSD", stops_level=100)
    for price, levels, reason in (
        ("1.09920", {}, Reason.INVALID_PRICE),
        ("1.09000", {"stop_loss": D("1.08950")}, Reason.INVALID_STOPS),
        ("1.09000", {"take_profit": D("1.08000")}, Reason.INVALID_STOPS),
    ):
        with pytest.raises(Rejected) as caught:
            place(bench, PendingType.BUY_LIMIT, price, **levels)
        assert caught.value.reason is reason
    place(bench, PendingType.BUY_LIMIT, "1.09000", stop_loss=D("1.08800"), take_profit=D("1.09200"))
