"""Where no tag says whose something is, it is told only where it can be nothing else."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from copier.link import Cut, Leg, LegState, Link
from copier.model import ZERO, Deal, DealEntry, DealReason, DealType, MarginMode, Position, Side
from copier.reconcile import fold_net
from copier.whose import Lost, adopt, late_beside, split_from, taken_by_deals, untagged_deals
from tests.test_reconcile import MAGIC, NOW, OPENED, book, leg, link, position, unknown

D = Decimal
replace = msgspec.structs.replace


# Adopting ----------------------------------------------------------------------------------------------------------------------


def adopted(one: Leg, *positions: Position, rivals: tuple[Link, ...] = (), offset_s: int | None = 0) -> Link | None:
    mine = link(one)
    lost = [Lost(link=other, leg=each) for other in (mine, *rivals) for each in other.legs]
    return adopt(lost[0], lost, book(*positions), {}, MAGIC, offset_s)


def test_the_only_position_that_can_be_a_lost_order_is_adopted() -> None:
    found = adopted(unknown(), position(50, "0.70"))
    assert found is not None
    assert (found.legs[0].ticket, found.legs[0].filled) == (50, D("0.70"))
    manual = adopted(unknown(), position(50, "1.00", magic=0))
    assert manual is not None


@pytest.mark.parametrize(
    "other",
    [
        {"symbol": "GBPUSD"},
        {"type": Side.SELL},
        {"lots": D("1.01")},
        {"magic": 8},
        {"tag": "mc000100009"},
        {"magic": 0, "lots": D("0.99")},
        {"open_time": datetime.fromtimestamp(NOW / 1000 - 10, UTC)},
        {"open_time": datetime.fromtimestamp(NOW / 1000 + 90, UTC)},
    ],
)
def test_what_differs_from_the_order_is_not_adopted(other: dict[str, Any]) -> None:
    assert adopted(unknown(), replace(position(50), **other)) is None


def test_two_that_could_be_one_order_are_not_guessed() -> None:
    assert adopted(unknown(), position(50), position(51)) is None


def test_as_many_positions_as_lost_orders_are_taken_in_their_turn() -> None:
    rival = link(unknown(2, sent_ms=NOW + 1), key="8.1")
    found = adopted(unknown(), position(50), position(51), rivals=(rival,))
    assert found is not None
    assert found.legs[0].ticket == 50


def test_one_position_for_two_lost_orders_is_taken_only_if_neither_is_wanted() -> None:
    rival = link(unknown(2, sent_ms=NOW + 1), key="8.1")
    assert adopted(unknown(), position(50), rivals=(rival,)) is None
    lost = [Lost(link=replace(each, wanted_open=False), leg=each.legs[0]) for each in (link(unknown()), rival)]
    assert adopt(lost[0], lost, book(position(50)), {}, MAGIC, 0) is not None


def test_a_volume_that_only_one_lost_order_asked_for_is_its_own() -> None:
    rival = link(unknown(2, asked=D(2)), key="8.1")
    found = adopted(unknown(), position(50), rivals=(rival,))
    assert found is not None
    assert found.legs[0].ticket == 50
    assert adopted(unknown(2, asked=D(2)), position(50), rivals=(link(unknown(), key="8.1"),)) is None


# Splits that nobody saw --------------------------------------------------------------------------------------------------------


def unlisted(*legs: Leg) -> list[Lost]:
    return [Lost(link=link(each), leg=each) for each in legs]


def test_what_is_left_of_a_ticket_that_was_split_twice_is_known_by_what_a_split_keeps() -> None:
    rest = position(3, "0.25", parent=2)
    for state, lots in ((LegState.OPEN, D(1)), (LegState.CLOSED, ZERO)):
        found = split_from(rest, unlisted(replace(leg(1), state=state, lots=lots)), MAGIC, 0)
        assert found is not None
        (now,) = found.legs
        assert (now.state, now.ticket, now.lots, now.filled) == (LegState.OPEN, 3, D("0.25"), D(1))


@pytest.mark.parametrize(
    "other",
    [
        {"symbol": "GBPUSD"},
        {"type": Side.SELL},
        {"lots": D(1)},
        {"magic": 8},
        {"open_price": D("1.2")},
        {"parent": 0},
        {"open_time": datetime.fromtimestamp(NOW / 1000 - 10, UTC)},
    ],
)
def test_what_differs_from_what_a_split_keeps_is_not_ours(other: dict[str, Any]) -> None:
    assert split_from(replace(position(3, "0.25", parent=2), **other), unlisted(leg(1)), MAGIC, 0) is None


def test_the_rest_of_one_of_two_copies_that_were_filled_alike_is_not_guessed() -> None:
    rest = position(4, "0.25", parent=3)
    assert split_from(rest, unlisted(leg(1), leg(2)), MAGIC, 0) is None
    assert split_from(rest, unlisted(leg(1), leg(2, state=LegState.CLOSED)), MAGIC, 0) is not None


def test_without_the_servers_clock_only_our_magic_and_only_at_first_is_believed() -> None:
    assert adopted(unknown(), position(50), offset_s=None) is not None
    assert adopted(unknown(), position(50, magic=0), offset_s=None) is None
    assert adopted(unknown(state=LegState.FAILED), position(50), offset_s=None) is None
    assert adopted(unknown(state=LegState.FAILED), position(50, magic=0)) is None


# Deals -------------------------------------------------------------------------------------------------------------------------


def deal(ticket: int, lots: str = "1.00", **more: Any) -> Deal:
    fields: dict[str, Any] = {"symbol": "EURUSD", "type": DealType.BUY, "lots": D(lots), "time": OPENED, "magic": MAGIC}
    return Deal(ticket=ticket, position_id=ticket, **{**fields, **more})


def orders(*legs: Leg) -> list[Lost]:
    return [Lost(link=link(each, key=f"{each.tag}.1"), leg=each) for each in legs]


def test_as_many_untagged_deals_as_orders_that_asked_for_just_that_are_theirs_in_their_turn() -> None:
    every = orders(leg(1), unknown(2, sent_ms=NOW + 2_000), unknown(3, asked=D("0.40")))
    later = datetime.fromtimestamp(NOW / 1000 + 2, UTC)
    deals = [deal(60), deal(61, time=later), deal(62, "0.40")]
    assert [untagged_deals(each, every, deals, MAGIC, 0) for each in every] == [[each] for each in deals]


def test_one_untagged_deal_for_two_orders_of_one_kind_is_not_guessed() -> None:
    every = orders(unknown(1), unknown(2))
    assert [untagged_deals(each, every, [deal(60)], MAGIC, 0) for each in every] == [[], []]


@pytest.mark.parametrize(
    "other",
    [
        {"symbol": "GBPUSD"},
        {"type": DealType.SELL},
        {"lots": D("0.99")},
        {"magic": 8},
        {"tag": "mc000100009"},
        {"entry": DealEntry.OUT},
        {"time": datetime.fromtimestamp(NOW / 1000 - 10, UTC)},
        {"time": datetime.fromtimestamp(NOW / 1000 + 90, UTC)},
    ],
)
def test_a_deal_that_differs_from_what_was_asked_for_is_not_the_orders(other: dict[str, Any]) -> None:
    (lost,) = orders(unknown())
    assert untagged_deals(lost, [lost], [deal(60)], MAGIC, 0) == [deal(60)]
    assert untagged_deals(lost, [lost], [replace(deal(60), **other)], MAGIC, 0) == []
    assert untagged_deals(lost, [lost], [deal(60)], MAGIC, None) == []


def test_what_another_hand_closed_of_a_leg_is_told_by_just_that_volume() -> None:
    out: dict[str, Any] = {"type": DealType.SELL, "entry": DealEntry.OUT, "reason": DealReason.CLIENT}
    parts = [deal(60), deal(61, "0.30", **out), deal(62, "0.20", **out)]
    assert taken_by_deals(leg(1), parts, D("0.20"), 0) == parts[2]
    assert taken_by_deals(leg(1), parts, D("0.50"), 0) == parts[2]
    assert taken_by_deals(leg(1), parts, D("0.40"), 0) is None
    ours = [replace(each, reason=DealReason.EXPERT) for each in parts]
    assert taken_by_deals(leg(1), ours, D("0.50"), 0) is None
    before = [replace(each, time=datetime.fromtimestamp(NOW / 1000 - 10, UTC)) for each in parts]
    assert taken_by_deals(leg(1), before, D("0.50"), 0) is None


# Netting -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lots", ["0.60", "-0.60", "1.60"])
def test_a_move_that_is_just_what_was_given_up_is_not_taken_for_a_part_of_the_order_on_its_way(lots: str) -> None:
    on_its_way = link(unknown(net_before=D(0)))
    side = Side.BUY if D(lots) > 0 else Side.SELL
    given_up = link(unknown(2, asked=abs(D(lots)), state=LegState.FAILED, side=side), key="8.1")
    read = book(position(1, str(abs(D(lots))), type=side), mode=MarginMode.NETTING)
    came, rest = late_beside(on_its_way, [(given_up, given_up.legs[0])], read)
    assert came == [(given_up, given_up.legs[0])]
    assert rest.legs[0].net_before == D(lots)
    assert late_beside(on_its_way, [], read) == ([], on_its_way)


def test_a_move_that_is_all_the_order_on_its_way_asked_for_is_its_own() -> None:
    on_its_way = link(unknown(net_before=D(0)))
    given_up = link(unknown(2, state=LegState.FAILED), key="8.1")
    read = book(position(1), mode=MarginMode.NETTING)
    assert late_beside(on_its_way, [(given_up, given_up.legs[0])], read) == ([], on_its_way)


def test_what_late_orders_moved_while_a_cut_was_on_its_way_is_not_the_cuts() -> None:
    cut = Cut(tag=leg(1).tag, ticket=1, lots_before=D(1), lots_after=D(0), net_before=D(1), sent_ms=NOW, not_after_ms=NOW + 5_000)
    given_up = link(unknown(2, asked=D("0.40"), state=LegState.FAILED, side=Side.SELL), key="8.1")
    read = book(position(1, "0.60"), mode=MarginMode.NETTING)
    came, rest = late_beside(link(leg(1), cut=cut), [(given_up, given_up.legs[0])], read)
    assert len(came) == 1
    assert rest.cut is not None
    assert rest.cut.net_before == D("0.60")
    assert fold_net(rest, read)[0].lots == D(1)
