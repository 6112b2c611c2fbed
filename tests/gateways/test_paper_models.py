"""The paper broker's three account models: what an order does to positions, tickets, comments and deals."""

from decimal import Decimal

import pytest

from copier.errors import Reason, Rejected
from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_faults import comment_cut, comment_extended, comment_replaced, comment_stripped, ticket_changed
from copier.gateways.paper_orders import BrokerHabits, MarketOrder
from copier.model import DealEntry, DealReason, DealType, MarginMode, Side

D = Decimal
TAG = "mc0a1b2c3d4e5f"


def entries(bench):
    return [(deal.entry, deal.type, deal.lots) for deal in bench.account.deals if deal.position_id]


def buy(bench, fault, lots="0.30", **more):
    order = MarketOrder(symbol="EURUSD", side=Side.BUY, lots=D(lots), **more)
    return bench.server.deal(bench.login, order, fault)


# hedging


def test_a_hedging_position_has_the_ticket_of_its_order_for_ticket_and_identifier(bench):
    fill = bench.server.buy(bench.login, "EURUSD", "0.30")
    assert fill.order == fill.position == fill.identifier == bench.position.ticket == bench.position.identifier


def test_orders_deals_and_positions_are_three_ledgers_with_tickets_of_their_own(bench):
    fill = bench.server.buy(bench.login, "EURUSD", "0.30")
    assert [order.ticket for order in bench.account.orders] == [fill.order]
    assert [deal.ticket for deal in bench.account.deals[1:]] == [fill.deal]
    assert (bench.account.deals[1].order, bench.account.deals[1].position_id) == (fill.order, fill.position)


def test_a_partial_close_keeps_ticket_comment_and_magic_and_writes_an_out_deal(bench):
    fill = bench.server.buy(bench.login, "EURUSD", "0.30", magic=7, comment=TAG)
    bench.server.close(bench.login, fill.position, "0.10")
    assert (bench.position.ticket, bench.position.lots, bench.position.magic, bench.position.tag) == (
        fill.position,
        D("0.20"),
        7,
        TAG,
    )
    assert entries(bench)[1] == (DealEntry.OUT, DealType.SELL, D("0.10"))


def test_a_close_with_an_order_of_the_positions_own_side_is_an_invalid_request(bench):
    fill = bench.server.buy(bench.login, "EURUSD", "0.30")
    with pytest.raises(Rejected) as caught:
        buy(bench, ticket_changed(), position=fill.position)
    assert caught.value.code == 10013


def test_more_than_the_position_holds_cannot_be_closed(bench):
    fill = bench.server.buy(bench.login, "EURUSD", "0.30")
    with pytest.raises(Rejected) as caught:
        bench.server.close(bench.login, fill.position, "0.31")
    assert caught.value.code == 10038


def test_a_ticket_replaced_by_the_server_keeps_the_identifier(bench):
    fill = bench.server.buy(bench.login, "EURUSD", "0.30")
    new = bench.server.replace_ticket(bench.login, fill.position)
    assert (bench.position.ticket, bench.position.identifier) == (new, fill.identifier)
    assert new != fill.position
    bench.server.close(bench.login, new)
    assert [deal.position_id for deal in bench.account.deals[1:]] == [fill.identifier] * 2


def test_a_ticket_replaced_right_after_the_open_is_the_one_that_is_answered(bench):
    fill = buy(bench, ticket_changed())
    assert fill.position == bench.position.ticket != fill.order
    assert bench.position.identifier == fill.order


def test_opposite_positions_may_be_prohibited(bench):
    bench.serve(hedging_prohibited=True)
    bench.server.buy(bench.login, "EURUSD", "0.10")
    with pytest.raises(Rejected) as caught:
        bench.server.sell(bench.login, "EURUSD", "0.10")
    assert (caught.value.reason, caught.value.code) == (Reason.HEDGE_PROHIBITED, 10046)


def test_two_opposite_positions_close_by_each_other_with_the_difference_of_their_prices(bench):
    first = bench.server.buy(bench.login, "EURUSD", "0.30")
    bench.server.set_quote("EURUSD", "1.10500", "1.10510")
    second = bench.server.sell(bench.login, "EURUSD", "0.20")
    bench.server.set_quote("EURUSD", "1.20000", "1.20010")
    bench.server.close_by(bench.login, first.position, second.position)
    assert (bench.position.ticket, bench.position.lots) == (first.position, D("0.10"))
    out = [deal for deal in bench.account.deals if deal.entry is DealEntry.OUT_BY]
    assert [deal.position_id for deal in out] == [first.identifier, second.identifier]
    assert sum(deal.profit for deal in out) == D("98.00")


def test_positions_of_one_side_do_not_close_by_each_other(bench):
    first, second = (bench.server.buy(bench.login, "EURUSD", "0.10") for _ in range(2))
    with pytest.raises(Rejected):
        bench.server.close_by(bench.login, first.position, second.position)


# netting


def test_netting_adds_at_the_volume_weighted_price(bench):
    bench.serve(MarginMode.NETTING)
    bench.server.buy(bench.login, "EURUSD", "0.10")
    bench.server.set_quote("EURUSD", "1.10300", "1.10310")
    bench.server.buy(bench.login, "EURUSD", "0.20")
    assert (bench.position.lots, bench.position.open_price) == (D("0.30"), D("1.10210"))
    assert [entry for entry, _, _ in entries(bench)] == [DealEntry.IN, DealEntry.IN]


def test_netting_takes_magic_and_comment_of_the_last_deal(bench):
    bench.serve(MarginMode.NETTING)
    bench.server.buy(bench.login, "EURUSD", "0.10", magic=1, comment="first")
    bench.server.buy(bench.login, "EURUSD", "0.10", magic=2, comment="second")
    assert (bench.position.magic, bench.position.comment) == (2, "second")


@pytest.mark.parametrize(("renames", "magic"), [(True, 2), (False, 1)])
def test_a_netting_reduction_renames_the_position_or_not_as_the_broker_has_it(bench, renames, magic):
    bench.serve(MarginMode.NETTING, BrokerHabits(netting_reduce_renames=renames))
    bench.server.buy(bench.login, "EURUSD", "0.30", magic=1)
    bench.server.sell(bench.login, "EURUSD", "0.10", magic=2)
    assert bench.position.magic == magic


@pytest.mark.parametrize(("clears", "stop"), [(True, 0), (False, D("1.09"))])
def test_adding_without_levels_clears_a_netting_positions_stops_or_not_as_the_broker_has_it(bench, clears, stop):
    bench.serve(MarginMode.NETTING, BrokerHabits(netting_add_clears_stops=clears))
    bench.server.buy(bench.login, "EURUSD", "0.30", stop_loss=D("1.09"))
    bench.server.buy(bench.login, "EURUSD", "0.10")
    assert bench.position.stop_loss == stop


def test_a_netting_reduction_leaves_the_stops_alone(bench):
    bench.serve(MarginMode.NETTING)
    bench.server.buy(bench.login, "EURUSD", "0.30", stop_loss=D("1.09"))
    bench.server.sell(bench.login, "EURUSD", "0.10")
    assert bench.position.stop_loss == D("1.09")


def test_a_netting_reversal_is_one_inout_deal_that_keeps_the_identifier_and_takes_the_orders_ticket(bench):
    bench.serve(MarginMode.NETTING)
    first = bench.server.buy(bench.login, "EURUSD", "0.30", stop_loss=D("1.09"))
    fill = bench.server.sell(bench.login, "EURUSD", "0.50", magic=9, comment="turned")
    position = bench.position
    assert entries(bench)[1:] == [(DealEntry.INOUT, DealType.SELL, D("0.50"))]
    assert (position.ticket, position.identifier) == (fill.order, first.identifier)
    assert (position.type, position.lots, position.open_price) == (Side.SELL, D("0.20"), D("1.10000"))
    assert (position.magic, position.comment, position.stop_loss) == (9, "turned", 0)
    assert bench.account.deals[-1].profit == D("-3.00")


def test_a_netting_close_by_ticket_of_more_than_there_is_never_opens_the_opposite(bench):
    bench.serve(MarginMode.NETTING)
    fill = bench.server.buy(bench.login, "EURUSD", "0.30")
    with pytest.raises(Rejected) as caught:
        bench.server.close(bench.login, fill.position, "0.50")
    assert caught.value.code == 10038
    assert (bench.position.type, bench.position.lots) == (Side.BUY, D("0.30"))


def test_a_netting_position_inside_the_freeze_level_is_neither_reduced_nor_reversed(bench):
    bench.serve(MarginMode.NETTING)
    bench.server.buy(bench.login, "EURUSD", "0.30", stop_loss=D("1.09950"))
    bench.server.change_symbol("EURUSD", freeze_level=100)
    for lots in ("0.10", "0.50"):
        with pytest.raises(Rejected) as caught:
            bench.server.sell(bench.login, "EURUSD", lots)
        assert caught.value.reason is Reason.FROZEN


def test_the_volume_limit_holds_for_netting_adds_and_for_what_a_reversal_leaves(bench):
    bench.serve(MarginMode.NETTING)
    bench.server.change_symbol("EURUSD", volume_limit="0.50")
    bench.server.buy(bench.login, "EURUSD", "0.40")
    for order in (bench.server.buy, bench.server.sell):
        with pytest.raises(Rejected) as caught:
            order(bench.login, "EURUSD", "0.95")
        assert caught.value.code == 10034
    bench.server.sell(bench.login, "EURUSD", "0.90")
    assert (bench.position.type, bench.position.lots) == (Side.SELL, D("0.50"))


def test_a_reversal_books_the_costs_of_the_old_side_once(bench):
    bench.serve(MarginMode.NETTING)
    fill = bench.server.buy(bench.login, "EURUSD", "0.30")
    bench.server.set_costs(bench.login, fill.position, swap=D("-1.00"), commission=D("-0.50"))
    turned = bench.server.sell(bench.login, "EURUSD", "0.50")
    bench.server.close(bench.login, turned.position)
    assert [(deal.swap, deal.commission) for deal in bench.account.deals[2:]] == [(D("-1.00"), D("-0.50")), (0, 0)]


def test_netting_positions_of_two_symbols_do_not_meet(bench):
    bench.serve(MarginMode.NETTING)
    bench.server.buy(bench.login, "EURUSD", "0.30")
    bench.server.sell(bench.login, "XAUUSD", "0.10")
    assert [(each.symbol, each.type) for each in bench.server.positions(bench.login)] == [
        ("EURUSD", Side.BUY),
        ("XAUUSD", Side.SELL),
    ]


def test_a_long_only_symbol_lets_a_netting_position_be_reduced_but_not_reversed(bench):
    bench.serve(MarginMode.NETTING)
    bench.server.buy(bench.login, "EURUSD", "0.30")
    bench.server.change_symbol("EURUSD", trade_mode="long_only")
    bench.server.sell(bench.login, "EURUSD", "0.10")
    with pytest.raises(Rejected) as caught:
        bench.server.sell(bench.login, "EURUSD", "0.30")
    assert caught.value.reason is Reason.LONG_ONLY


# MT4


def test_an_mt4_partial_close_archives_the_old_ticket_and_opens_a_new_one_for_the_rest(bench):
    bench.serve(MarginMode.MT4)
    first = bench.server.buy(bench.login, "EURUSD", "0.30", magic=7, comment=TAG, stop_loss=D("1.09"))
    before = bench.position
    bench.clock.advance(hours=1)
    fill = bench.server.close(bench.login, first.position, "0.10")
    rest = bench.position
    assert fill.rest == rest.ticket != first.position
    assert (rest.lots, rest.magic, rest.stop_loss, rest.open_time, rest.open_price) == (
        D("0.20"),
        7,
        D("1.09"),
        before.open_time,
        before.open_price,
    )
    assert (rest.comment, rest.tag, rest.parent) == (f"from #{first.position}", "", first.position)
    (closed,) = bench.account.closed_tickets
    assert (closed.position.ticket, closed.position.lots, closed.position.comment) == (
        first.position,
        D("0.10"),
        f"to #{rest.ticket}",
    )


def test_an_mt4_broker_may_not_name_the_old_ticket(bench):
    bench.serve(MarginMode.MT4, BrokerHabits(split_comments=False))
    first = bench.server.buy(bench.login, "EURUSD", "0.30")
    bench.server.close(bench.login, first.position, "0.10")
    assert (bench.position.comment, bench.position.parent) == ("partial close", None)


def test_an_mt4_terminal_shows_no_identifier_but_the_ticket(bench):
    bench.serve(MarginMode.MT4)
    first = bench.server.buy(bench.login, "EURUSD", "0.30")
    fill = bench.server.close(bench.login, first.position, "0.10")
    assert bench.position.identifier == fill.rest
    assert {deal.position_id for deal in bench.account.deals[1:]} == {first.identifier}


def test_an_mt4_history_shows_tickets_and_not_the_true_deals(bench):
    bench.serve(MarginMode.MT4)
    first = bench.server.buy(bench.login, "EURUSD", "0.30", comment=TAG)
    fill = bench.server.close(bench.login, first.position, "0.10")
    deals = bench.server.deals(bench.login, bench.account.deals[0].time)
    trades = [(deal.position_id, deal.entry, deal.lots, deal.tag) for deal in deals if deal.position_id]
    assert trades == [
        (first.position, DealEntry.IN, D("0.10"), ""),
        (first.position, DealEntry.OUT, D("0.10"), ""),
        (fill.rest, DealEntry.IN, D("0.20"), ""),
    ]


def test_a_stop_leaves_its_mark_in_an_mt4_comment_and_the_tag_is_still_read(bench):
    bench.serve(MarginMode.MT4)
    bench.server.buy(bench.login, "EURUSD", "0.30", comment=TAG, stop_loss=D("1.09"))
    bench.server.set_quote("EURUSD", "1.08990", "1.09000")
    (closed,) = bench.account.closed_tickets
    assert closed.position.comment == f"{TAG}[sl]"
    assert {deal.tag for deal in bench.server.deals(bench.login, bench.account.deals[0].time) if deal.position_id} == {TAG}


def test_mt4_refuses_with_its_own_error_numbers(bench):
    bench.serve(MarginMode.MT4)
    with pytest.raises(Rejected) as caught:
        bench.server.buy(bench.login, "EURUSD", "50")
    assert (caught.value.reason, caught.value.code) == (Reason.NO_MONEY, 134)


def test_an_mt4_close_by_of_equal_lots_leaves_nothing_and_the_second_ticket_with_no_lots(bench):
    bench.serve(MarginMode.MT4)
    first = bench.server.buy(bench.login, "EURUSD", "0.20")
    second = bench.server.sell(bench.login, "EURUSD", "0.20")
    bench.server.close_by(bench.login, first.position, second.position)
    assert bench.server.positions(bench.login) == ()
    last = bench.account.closed_tickets[-1].position
    assert (last.ticket, last.lots, last.comment) == (second.position, 0, f"close hedge by #{first.position}")


@pytest.mark.parametrize("larger_first", [True, False])
def test_an_mt4_close_by_of_unequal_lots_leaves_the_rest_under_a_new_ticket(bench, larger_first):
    bench.serve(MarginMode.MT4)
    large = bench.server.buy(bench.login, "EURUSD", "0.30")
    small = bench.server.sell(bench.login, "EURUSD", "0.20")
    pair = (large, small) if larger_first else (small, large)
    bench.server.close_by(bench.login, pair[0].position, pair[1].position)
    assert (bench.position.lots, bench.position.type) == (D("0.10"), Side.BUY)
    assert bench.position.ticket not in (large.position, small.position)
    assert bench.position.comment == ("partial close" if larger_first else f"from #{large.position}")


def test_an_mt4_partial_close_leaves_no_rest_below_the_minimum(bench):
    bench.serve(MarginMode.MT4)
    bench.server.change_symbol("EURUSD", volume_min=D("0.10"))
    first = bench.server.buy(bench.login, "EURUSD", "0.30")
    with pytest.raises(Rejected) as caught:
        bench.server.close(bench.login, first.position, "0.25")
    assert caught.value.reason is Reason.INVALID_VOLUME


@pytest.mark.parametrize("refused", [True, False])
def test_an_mt5_partial_close_may_leave_a_rest_below_the_minimum_or_not_as_the_broker_has_it(bench, refused):
    bench.serve(habits=BrokerHabits(small_rest_refused=refused))
    bench.server.change_symbol("EURUSD", volume_min=D("0.10"))
    first = bench.server.buy(bench.login, "EURUSD", "0.30")
    if refused:
        with pytest.raises(Rejected):
            bench.server.close(bench.login, first.position, "0.25")
    else:
        bench.server.close(bench.login, first.position, "0.25")
        bench.server.close(bench.login, first.position)
        assert bench.server.positions(bench.login) == ()


# comments


@pytest.mark.parametrize(
    ("fault", "comment", "tag"),
    [
        (comment_stripped(), "", ""),
        (comment_cut(9), TAG[:9], TAG[:9]),
        (comment_cut(5), TAG[:5], ""),
        (comment_replaced("broker's own"), "broker's own", ""),
        (comment_extended(" #x"), f"{TAG} hello #x", TAG),
        (comment_extended("x"), f"{TAG} hellox", TAG),
    ],
)
def test_the_tag_is_what_can_still_be_read_in_a_mangled_comment(bench, fault, comment, tag):
    buy(bench, fault, comment=f"{TAG} hello")
    assert (bench.position.comment, bench.position.tag) == (comment, tag)
    assert (bench.account.deals[-1].comment, bench.account.deals[-1].tag) == (comment, tag)


def test_a_comment_may_change_while_the_position_is_open(bench):
    fill = bench.server.buy(bench.login, "EURUSD", "0.30", comment=TAG)
    assert bench.position.tag == TAG
    bench.server.set_comment(bench.login, fill.position, "moved")
    assert (bench.position.comment, bench.position.tag) == ("moved", "")


@pytest.mark.parametrize(("mode", "length"), [(MarginMode.HEDGING, 31), (MarginMode.NETTING, 31), (MarginMode.MT4, 27)])
def test_comments_are_cut_to_what_the_platform_holds(bench, mode, length):
    bench.serve(mode)
    bench.server.buy(bench.login, "EURUSD", "0.10", comment="x" * 40)
    assert bench.position.comment == "x" * length


def test_accounts_of_one_server_share_nothing_but_the_sequence_of_tickets(bench):
    other = bench.server.add_account(PaperAccount(7, margin_mode=MarginMode.NETTING))
    first = bench.server.buy(bench.login, "EURUSD", "0.10")
    second = bench.server.sell(7, "EURUSD", "0.10")
    assert first.position != second.position
    assert [each.ticket for each in bench.server.positions(bench.login)] == [first.position]
    assert list(other.positions) == [second.position]


def test_a_deal_by_hand_and_one_by_a_robot_are_told_apart(bench):
    bench.server.buy(bench.login, "EURUSD", "0.10")
    bench.server.buy(bench.login, "EURUSD", "0.10", reason=DealReason.EXPERT)
    assert [deal.reason for deal in bench.account.deals[1:]] == [DealReason.CLIENT, DealReason.EXPERT]


def test_an_account_may_forget_old_deals_and_still_knows_its_balance(bench):
    bench.serve(history_max=10)
    for _ in range(30):
        bench.server.close(bench.login, bench.server.buy(bench.login, "EURUSD", "0.10").position)
    assert 10 <= len(bench.account.deals) <= 20
    assert len(bench.account.orders) <= 20
    assert bench.account.balance == 10_000 - 30
    last = bench.account.deals[-1]
    assert bench.server.deals(bench.login, last.time, last.position_id)[-1] == last
