"""Where master, follower and ledger agree there is nothing to do; where not, doing what is named brings them together."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copier.link import Cut, Leg, LegState, Link, LinkState, is_ours, make_tag
from copier.model import ZERO, MarginMode, MasterPosition, Position, Side, SymbolSpec
from copier.reconcile import (
    GAP_MAX_MS,
    Absent,
    Book,
    CloseLeg,
    Missing,
    OpenMore,
    ReduceLeg,
    SetLevels,
    Unseen,
    fold,
    fold_net,
    net_levels,
    ours,
    repairs,
    shrink_legs,
    target_lots,
    with_leg,
)

D = Decimal
replace = msgspec.structs.replace
NOW = 1_767_600_000_000
OPENED = datetime.fromtimestamp(NOW / 1000, UTC)
SETTLE = 500
MAGIC = 7


def spec(step: str = "0.01", least: str = "0.01") -> SymbolSpec:
    return SymbolSpec(
        symbol="EURUSD",
        digits=5,
        point=D("0.00001"),
        tick_size=D("0.00001"),
        tick_value=D(1),
        tick_value_loss=D(1),
        contract_size=D(100_000),
        volume_min=D(least),
        volume_step=D(step),
        volume_max=D(100),
    )


def leg(number: int, lots: str = "1.00", **more: Any) -> Leg:
    fields: dict[str, Any] = {
        "tag": make_tag(1, number),
        "side": Side.BUY,
        "asked": D(lots),
        "state": LegState.OPEN,
        "filled": D(lots),
        "lots": D(lots),
        "ticket": number,
        "identifier": number,
        "price": D("1.1"),
        "sent_ms": NOW,
        "not_after_ms": NOW + 5_000,
    }
    return Leg(**{**fields, **more})


def link(*legs: Leg, now: str = "1.00", opened: str = "1.00", **more: Any) -> Link:
    master = MasterPosition(
        identifier=9,
        ticket=9,
        symbol="EURUSD",
        side=Side.BUY,
        lots=D(now),
        lots_opened=D(opened),
        open_price=D("1.1"),
        open_time=OPENED,
    )
    fields: dict[str, Any] = {
        "follower": "f",
        "master": "m",
        "key": "9.1",
        "position": master,
        "state": LinkState.COPIED,
        "symbol": "EURUSD",
        "side": Side.BUY,
        "legs": legs,
        "anchor": D(opened),
    }
    return Link(**{**fields, **more})


def position(ticket: int, lots: str = "1.00", **more: Any) -> Position:
    fields: dict[str, Any] = {
        "ticket": ticket,
        "identifier": ticket,
        "symbol": "EURUSD",
        "type": Side.BUY,
        "lots": D(lots),
        "open_price": D("1.1"),
        "current_price": D("1.1"),
        "open_time": OPENED,
        "magic": MAGIC,
    }
    return Position(**{**fields, **more})


def book(*positions: Position, mode: MarginMode = MarginMode.HEDGING, began_ms: int = NOW + 60_000) -> Book:
    return Book(mode=mode, positions=positions, began_ms=began_ms, settle_ms=SETTLE)


def shown(leg: Leg) -> Position:
    return position(leg.ticket, str(leg.lots), tag=leg.tag, stop_loss=leg.stop_loss, take_profit=leg.take_profit, type=leg.side)


# Laws ----------------------------------------------------------------------------------------------------------------------

lots = st.integers(1, 300).map(lambda n: D(n) / 100)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Link, SymbolSpec]:
    """A link of some legs whose master has closed a part, all or nothing of what it opened."""
    least, step = draw(st.sampled_from([("0.01", "0.01"), ("0.10", "0.01"), ("0.10", "0.10"), ("1", "1")]))
    rules = spec(step, least)
    opened = draw(lots)
    now = min(opened, draw(lots))
    steps = st.integers(int(D(least) / D(step)), 200).map(lambda n: str(n * D(step)))
    legs = tuple(leg(number, draw(steps)) for number in range(1, draw(st.integers(1, 3)) + 1))
    return link(*legs, now=str(now), opened=str(opened), wanted_open=draw(st.booleans())), rules


def settle(world: Link, rules: SymbolSpec) -> Link:
    """Do what is named until nothing is, each as a broker would."""
    for _ in range(20):
        steps = repairs(world, rules, MarginMode.HEDGING)
        if not steps:
            return world
        match steps[0]:
            case CloseLeg(leg=old):
                world = with_leg(world, replace(old, lots=ZERO, state=LegState.CLOSED))
            case ReduceLeg(leg=old, lots_after=left):
                assert rules.volume_min <= left < old.lots
                assert (old.lots - left) % rules.volume_step == 0
                assert old.lots - left >= rules.volume_min
                world = with_leg(world, replace(old, lots=left))
            case other:
                raise AssertionError(f"nothing asks for {other}")
    raise AssertionError(f"never satisfied: {world}")


@given(worlds())
@settings(max_examples=200)
def test_doing_what_is_named_ends_on_target_and_doing_it_again_changes_nothing(world: tuple[Link, SymbolSpec]) -> None:
    before, rules = world
    after = settle(before, rules)
    target = target_lots(before, rules)
    assert target <= before.filled
    if not before.wanted_open:
        assert after.lots == 0
    else:
        # What cannot be traded off in the broker's sizes stays open rather than closing more than the master did.
        assert target <= after.lots <= before.lots
        assert after.lots - target < len(before.legs) * max(rules.volume_min, rules.volume_step)
    assert repairs(after, rules, MarginMode.HEDGING) == []


@given(worlds(), lots)
@settings(max_examples=100)
def test_targets_only_fall(world: tuple[Link, SymbolSpec], less: Decimal) -> None:
    before, rules = world
    lower = replace(before, position=replace(before.position, lots=min(less, before.position.lots)))
    assert target_lots(lower, rules) <= target_lots(before, rules)
    assert settle(lower, rules).lots <= before.lots


@given(worlds(), st.sampled_from([MarginMode.HEDGING, MarginMode.MT4]))
@settings(max_examples=100)
def test_a_read_that_shows_what_is_believed_changes_nothing(world: tuple[Link, SymbolSpec], mode: MarginMode) -> None:
    after = settle(*world)
    living = [each for each in after.legs if each.living]
    read = book(*(shown(each) for each in living), position(99, "5", magic=0), mode=mode)
    owned = {each.ticket: each.tag for each in living}
    assert fold(after, read, owned) == (after, [])
    assert set(owned) == {each.ticket for each in living}


@given(worlds())
@settings(max_examples=100)
def test_a_netting_read_that_shows_what_is_believed_changes_nothing(world: tuple[Link, SymbolSpec]) -> None:
    after = settle(*world)
    read = book(position(1, str(after.lots)), mode=MarginMode.NETTING) if after.lots else book(mode=MarginMode.NETTING)
    assert fold_net(after, read) == (after, [])
    assert ours([after], "EURUSD") == read.net("EURUSD")
    assert shrink_legs([after], "EURUSD", ZERO) == []


@given(st.lists(lots, min_size=1, max_size=5), lots)
@settings(max_examples=100)
def test_another_hand_takes_from_the_oldest_leg_first_and_exactly_what_it_took(volumes: list[Decimal], held: Decimal) -> None:
    links = [link(leg(n, str(volume)), key=f"{n}.1") for n, volume in enumerate(volumes, 1)]
    held = min(held, sum(volumes, ZERO))
    changed = {each.key: each for each in shrink_legs(links, "EURUSD", held - sum(volumes, ZERO))}
    after = [changed.get(each.key, each) for each in links]
    assert ours(after, "EURUSD") == held
    touched = [each.key in changed for each in links]
    assert touched == sorted(touched, reverse=True)
    assert all(leg.state is (LegState.OPEN if leg.lots else LegState.CLOSED) for each in after for leg in each.legs)


def test_what_another_hand_traded_against_one_side_takes_nothing_of_our_legs_on_the_other() -> None:
    bought, sold = link(leg(1, "0.50"), key="1.1"), link(replace(leg(2, "0.10"), side=Side.SELL), key="2.1")
    (changed,) = shrink_legs([sold, bought], "EURUSD", Decimal("-0.50"))
    assert (changed.key, changed.lots) == ("1.1", ZERO)


# What is named ---------------------------------------------------------------------------------------------------------------


def test_nothing_is_named_while_an_order_of_the_link_is_on_its_way() -> None:
    for state in (LegState.SENDING, LegState.UNKNOWN):
        on_its_way = leg(2, state=state)
        assert repairs(link(leg(1), on_its_way, now="0.50"), spec(), MarginMode.HEDGING) == []
        closing = link(leg(1), on_its_way, wanted_open=False)
        assert repairs(closing, spec(), MarginMode.HEDGING) == [CloseLeg(leg=leg(1))]


def test_a_cut_on_its_way_is_not_named_again() -> None:
    cut = Cut(tag=leg(1).tag, ticket=1, lots_before=D(1), lots_after=D("0.5"), sent_ms=NOW, not_after_ms=NOW + 5_000)
    assert repairs(link(leg(1), now="0.50", cut=cut), spec(), MarginMode.HEDGING) == []
    whole = replace(cut, lots_after=ZERO)
    assert repairs(link(leg(1), leg(2), wanted_open=False, cut=whole), spec(), MarginMode.HEDGING) == [CloseLeg(leg=leg(2))]


def test_a_close_waits_for_no_reduction_but_on_a_netting_account() -> None:
    cut = Cut(tag=leg(1).tag, ticket=1, lots_before=D(1), lots_after=D("0.5"), sent_ms=NOW, not_after_ms=NOW + 5_000)
    assert repairs(link(leg(1), wanted_open=False, cut=cut), spec(), MarginMode.HEDGING) == [CloseLeg(leg=leg(1))]
    netting = replace(cut, net_before=D(2))
    assert repairs(link(leg(1), wanted_open=False, cut=netting), spec(), MarginMode.NETTING) == []


@pytest.mark.parametrize(("left", "net", "late"), [("0.5", None, True), ("0", None, False), ("0", "2", True), ("0", "1", False)])
def test_what_may_still_land_and_would_take_more_is_waited_for(left: str, net: str | None, late: bool) -> None:  # noqa: FBT001
    before = None if net is None else D(net)
    cut = Cut(
        tag="t", ticket=1, lots_before=D(1), lots_after=D(left), net_before=before, sent_ms=NOW, not_after_ms=NOW + 5_000
    )  # fmt: skip
    after = NOW + 5_000 + SETTLE
    book = Book(mode=MarginMode.HEDGING, positions=(), began_ms=after, settle_ms=SETTLE, late_ms=30_000)
    assert book.is_over(cut) is not late
    assert replace_book(book, after + 30_000).is_over(cut)
    assert book.is_over(replace(cut, answered=True))


def replace_book(book: Book, began_ms: int) -> Book:
    return msgspec.structs.replace(book, began_ms=began_ms)


def test_levels_are_named_where_they_differ_but_not_on_netting_accounts() -> None:
    world = link(leg(1), stop_loss=D("1.05"))
    assert repairs(world, spec(), MarginMode.MT4) == [SetLevels(leg=leg(1), stop_loss=D("1.05"), take_profit=ZERO)]
    assert repairs(world, spec(), MarginMode.NETTING) == []


def test_growth_asks_for_what_was_added_and_no_more_than_is_still_there() -> None:
    grown = link(leg(1), now="1.50", opened="1.50", anchor=D(1))
    assert repairs(grown, spec(), MarginMode.HEDGING) == [OpenMore(master_lots=D("0.50"))]
    shrunk = link(leg(1, "0", state=LegState.CLOSED), now="0.20", opened="1.50", anchor=D(1))
    assert repairs(shrunk, spec(), MarginMode.HEDGING) == [OpenMore(master_lots=D("0.20"))]
    refused = replace(grown, legs=(), state=LinkState.REFUSED, anchor=D(1))
    assert repairs(refused, spec(), MarginMode.HEDGING) == []


def test_one_position_of_several_copies_has_the_farthest_levels_or_none() -> None:
    near = link(leg(1), key="1.1", stop_loss=D("1.09"), take_profit=D("1.12"))
    far = link(leg(2), key="2.1", stop_loss=D("1.05"), take_profit=D("1.20"))
    bare = link(leg(3), key="3.1", take_profit=D("1.11"))
    assert net_levels([near, far], "EURUSD", Side.BUY) == (D("1.05"), D("1.20"))
    assert net_levels([near, far, bare], "EURUSD", Side.BUY) == (ZERO, D("1.20"))
    assert net_levels([replace(far, wanted_open=False), near], "EURUSD", Side.BUY) == (D("1.09"), D("1.12"))
    assert net_levels([near], "EURUSD", Side.SELL) == (ZERO, ZERO)


# What is believed ------------------------------------------------------------------------------------------------------------


def unknown(number: int = 1, **more: Any) -> Leg:
    fields = {"state": LegState.UNKNOWN, "filled": ZERO, "lots": ZERO, "ticket": 0, "identifier": 0, "price": ZERO}
    return replace(leg(number), **{**fields, **more})


def test_a_tag_is_proof_at_any_time() -> None:
    found, findings = fold(link(unknown()), book(position(50, "0.40", tag=leg(1).tag), began_ms=NOW), {})
    (now,) = found.legs
    assert (now.state, now.ticket, now.filled, now.lots, findings) == (LegState.OPEN, 50, D("0.40"), D("0.40"), [])


def test_absence_counts_only_once_the_order_can_no_longer_land() -> None:
    world = link(unknown())
    assert fold(world, book(began_ms=NOW + 5_000 + SETTLE - 1), {}) == (world, [])
    assert fold(world, book(began_ms=NOW + 5_000 + SETTLE), {}) == (world, [Absent(link=world, leg=world.legs[0])])


def test_a_position_that_is_not_in_the_read_is_missing_and_still_believed() -> None:
    world = link(leg(1))
    assert fold(world, book(), {1: leg(1).tag}) == (world, [Missing(link=world, leg=leg(1))])


def cut_of(one: Leg, left: str, *, answered: bool) -> Cut:
    return Cut(
        tag=one.tag,
        ticket=one.ticket,
        lots_before=D(1),
        lots_after=D(left),
        sent_ms=NOW,
        not_after_ms=NOW + 5_000,
        answered=answered,
    )


@pytest.mark.parametrize(("answered", "until_ms"), [(True, SETTLE), (False, 5_000 + SETTLE)])
def test_a_list_that_does_not_show_a_cut_yet_is_late_until_it_could_no_longer_land(answered: bool, until_ms: int) -> None:  # noqa: FBT001
    one = leg(1, "0.60" if answered else "1.00", filled=D(1), asked=D(1))
    world = link(one, cut=cut_of(one, "0.60", answered=answered))
    late = position(1, "1.00", tag=one.tag)
    assert fold(world, book(late, began_ms=NOW + until_ms - 1), {1: one.tag})[0].cut is not None
    after, _ = fold(world, book(late, began_ms=NOW + until_ms), {1: one.tag})
    assert (after.cut, after.legs[0].lots) == (None, D(1))
    done, _ = fold(world, book(position(1, "0.60", tag=one.tag), began_ms=NOW), {1: one.tag})
    assert (done.cut, done.legs[0].lots) == (None, D("0.60"))


def test_a_close_is_believed_once_it_is_answered_and_a_read_taken_after_it_shows_it_gone() -> None:
    one = leg(1)
    answered = link(one, cut=cut_of(one, "0", answered=True), wanted_open=False)
    after, findings = fold(answered, book(began_ms=NOW), {1: one.tag})
    assert (after.legs[0].state, after.cut, findings) == (LegState.CLOSED, None, [])
    before = fold(answered, book(began_ms=NOW - 1), {1: one.tag})
    assert isinstance(before[1][0], Missing)
    silent = link(one, cut=cut_of(one, "0", answered=False), wanted_open=False)
    assert isinstance(fold(silent, book(began_ms=NOW), {1: one.tag})[1][0], Missing)


def test_an_mt4_rest_without_tag_or_parent_is_known_by_the_cut_that_made_it() -> None:
    one = leg(1)
    world = link(one, cut=cut_of(one, "0.60", answered=False))
    rest = position(2, "0.60", identifier=2)
    after, _ = fold(world, book(rest, mode=MarginMode.MT4), {1: one.tag})
    assert (after.legs[0].ticket, after.legs[0].lots, after.cut) == (2, D("0.60"), None)
    for other in ({"symbol": "GBPUSD"}, {"type": Side.SELL}, {"open_price": D("1.2")}, {"lots": D("0.61")}):
        assert fold(world, book(replace(rest, **other), mode=MarginMode.MT4), {1: one.tag})[1] != []
    twins = book(rest, position(3, "0.60"), mode=MarginMode.MT4)
    assert fold(world, twins, {1: one.tag})[1] != []


def test_a_netting_order_is_told_by_how_the_volume_moved() -> None:
    world = link(unknown(net_before=D("0.50")))
    moved = book(position(1, "0.90"), mode=MarginMode.NETTING, began_ms=NOW + SETTLE)
    (now,) = fold_net(world, moved)[0].legs
    assert (now.state, now.filled, now.lots) == (LegState.OPEN, D("0.40"), D("0.40"))
    same = book(position(1, "0.50"), mode=MarginMode.NETTING)
    assert fold_net(world, same)[1] == [Absent(link=world, leg=world.legs[0])]
    too_much = book(position(1, "2.00"), mode=MarginMode.NETTING, began_ms=NOW + SETTLE)
    assert fold_net(world, too_much) == (world, [])


def test_a_list_that_may_lag_behind_the_order_before_tells_nothing_of_a_netting_order() -> None:
    cut = Cut(
        tag=leg(1).tag, ticket=1, lots_before=D(1), lots_after=D("0.40"), net_before=D(1), sent_ms=NOW, not_after_ms=NOW + 5_000
    )
    moved = position(1, "0.70")
    for world in (link(unknown(net_before=D("0.50"))), link(leg(1), cut=cut)):
        early = book(moved, mode=MarginMode.NETTING, began_ms=NOW + SETTLE - 1)
        assert fold_net(world, early) == (world, [])
        assert fold_net(world, replace(early, began_ms=NOW + SETTLE))[0] != world


def test_what_lies_between_two_reads_far_apart_counts_as_little_watched() -> None:
    apart = Unseen(NOW).again(NOW + 10_000)
    assert (apart.reads, apart.watched_ms) == (2, GAP_MAX_MS)
    assert Unseen(NOW).again(NOW + 300).again(NOW + 700).watched_ms == 700


# Tags --------------------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 36**6), st.integers(0, 36**5 - 1))
def test_a_tag_is_known_by_its_maker_and_those_after_it_and_by_no_owner_before(token: int, number: int) -> None:
    tag = make_tag(token, number)
    assert len(tag) <= 16
    assert is_ours(tag, token)
    assert is_ours(tag, token + 1)
    assert not is_ours(tag, token - 1)


@pytest.mark.parametrize("comment", ["", "mc", "mcstrategy1", "mc0000", "mc000000001", "mcABCD00001", "mc-00100001", "manual"])
def test_what_others_write_is_no_tag_of_ours(comment: str) -> None:
    assert not is_ours(comment, 1_000)
