"""Between two reads of a master everything may have happened; the events say exactly what, in an order that is safe to follow."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copier.diff import GONE_KEPT, Matching, View, apply, diff, match
from copier.model import (
    Change,
    Closed,
    Event,
    MarginMode,
    MasterPosition,
    Modified,
    Opened,
    Position,
    Reduced,
    Reversed,
    ScaledIn,
    Side,
    Snapshot,
)

D = Decimal
START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
CHANGE = Change(master="m", read=7, read_ms=1_000)
MODES = list(MarginMode)
replace = msgspec.structs.replace


def position(ticket: int, lots: str = "1.00", side: Side = Side.BUY, **more: object) -> Position:
    fields: dict[str, object] = {
        "ticket": ticket,
        "identifier": ticket,
        "symbol": "EURUSD",
        "type": side,
        "lots": D(lots),
        "open_price": D("1.1"),
        "current_price": D("1.1"),
        "open_time": START + timedelta(seconds=ticket),
    }
    return Position(**{**fields, **more})  # type: ignore[arg-type]


def replay(view: View, events: Sequence[Event]) -> View:
    for event in events:
        view = apply(view, event)
    return view


def view_of(*positions: Position, mode: MarginMode = MarginMode.HEDGING) -> View:
    return replay(View(), diff(View(), positions, mode, CHANGE))


def shown(view: View) -> list[tuple[object, ...]]:
    return sorted(
        (p.ticket, p.symbol, p.side, p.lots, p.open_price, p.stop_loss, p.take_profit, p.open_time, p.magic, p.comment)
        for p in view.open.values()
    )


def listed(positions: Sequence[Position]) -> list[tuple[object, ...]]:
    return sorted(
        (p.ticket, p.symbol, p.type, p.lots, p.open_price, p.stop_loss, p.take_profit, p.open_time, p.magic, p.comment)
        for p in positions
    )


# A master that does anything between two reads ---------------------------------------------------------------------------


class Master:
    """What a trade server does to its list of positions; knows which position each one really is."""

    def __init__(self, mode: MarginMode, *, parents_named: bool) -> None:
        self.mode = mode
        self.positions: list[Position] = []
        self.origin: dict[int, int] = {}
        """Ticket -> first ticket: the truth that MT4 does not tell."""
        self._parents_named = parents_named
        self._ticket = 100

    def do(self, what: str, which: int, lots: int, side: Side) -> None:
        if what == "open" or not self.positions:
            self._open(lots, side)
            return
        old = self.positions[which % len(self.positions)]
        part = D(lots) / 100
        if what == "modify":
            self._swap(old, replace(old, stop_loss=part, take_profit=part * 2))
        elif what == "renumber" and self.mode is not MarginMode.MT4:
            self._swap(old, replace(old, ticket=self._next(old)))
        elif what == "close" or part >= old.lots:
            self.positions.remove(old)
        elif self.mode is not MarginMode.MT4:
            self._swap(old, replace(old, lots=old.lots - part))
        else:
            comment = f"from #{old.ticket}" if self._parents_named else ""
            parent = old.ticket if self._parents_named else None
            self._swap(old, replace(old, ticket=self._next(old), lots=old.lots - part, parent=parent, comment=comment))

    def _open(self, lots: int, side: Side) -> None:
        symbol = "EURUSD" if lots % 2 else "XAUUSD"
        held = next((p for p in self.positions if p.symbol == symbol), None)
        new = D(lots) / 100
        if self.mode is not MarginMode.NETTING or held is None:
            ticket = self._next()
            # A price of its own: whether two alike can be told apart is another question.
            self.positions.append(position(ticket, str(new), side, symbol=symbol, open_price=D(ticket) / 100))
        elif held.type is side:
            self._swap(held, replace(held, lots=held.lots + new, open_price=held.open_price + D("0.01")))
        elif new == held.lots:
            self.positions.remove(held)
        else:
            left = held.lots - new
            self._swap(held, replace(held, lots=abs(left), type=held.type if left > 0 else side))

    def _next(self, old: Position | None = None) -> int:
        self._ticket += 1
        self.origin[self._ticket] = self._ticket if old is None else self.origin[old.ticket]
        return self._ticket

    def _swap(self, old: Position, new: Position) -> None:
        self.positions[self.positions.index(old)] = new


step = st.tuples(
    st.sampled_from(["open", "open", "part", "part", "part", "close", "modify", "renumber"]),
    st.integers(0, 5),
    st.integers(1, 60),
    st.sampled_from(list(Side)),
)
lives = st.lists(st.lists(step, max_size=6), min_size=1, max_size=8)


@pytest.mark.parametrize("mode", MODES)
@given(lives=lives, parents_named=st.booleans())
@settings(max_examples=100)
def test_replaying_the_difference_gives_what_the_second_read_shows(
    mode: MarginMode, *, lives: list[list[tuple[str, int, int, Side]]], parents_named: bool
) -> None:
    master, view, keys = Master(mode, parents_named=parents_named), View(), set[str]()
    for steps in lives:
        for each in steps:
            master.do(*each)
        events = diff(view, master.positions, mode, CHANGE)
        before, view = view, replay(view, events)
        assert shown(view) == listed(master.positions)
        assert diff(view, master.positions, mode, CHANGE) == []
        for event in events:
            assert (event.master, event.read, event.read_ms) == ("m", 7, 1_000)
            if isinstance(event, Opened | Reversed):
                assert event.position.key not in keys
                keys.add(event.position.key)
            elif isinstance(event, Closed):
                assert event.position == before.open[event.position.identifier]
        if mode is MarginMode.MT4:
            assert {p.identifier: p.ticket for p in view.open.values()} == first_seen(before, view, master)


def first_seen(before: View, view: View, master: Master) -> dict[int, int]:
    """Return what the identifiers must be: that of before for the same origin, the ticket for what is new."""
    known = {master.origin[p.ticket]: p.identifier for p in before.open.values()}
    return {known.get(master.origin[p.ticket], p.ticket): p.ticket for p in master.positions}


@pytest.mark.parametrize("mode", MODES)
@given(lives=lives, held=st.integers(0, 3))
@settings(max_examples=40)
def test_what_is_not_surely_gone_still_stands(mode: MarginMode, lives: list[list[tuple[str, int, int, Side]]], held: int) -> None:
    master, view = Master(mode, parents_named=True), View()
    for steps in lives:
        for each in steps:
            master.do(*each)
        missing = match(view, master.positions, mode).missing
        gone = {known.identifier for known in missing if known.identifier % 4 != held}
        after = replay(view, diff(view, master.positions, mode, CHANGE, gone=gone))
        for known in missing:
            assert (known.identifier in after.open) == (known.identifier not in gone)
        view = after


# One thing at a time -----------------------------------------------------------------------------------------------------


def test_closes_come_first_then_changes_then_opens() -> None:
    view = view_of(position(1), position(2), position(3))
    events = diff(view, [position(2, "0.50"), position(3, stop_loss=D("1.0")), position(4)], MarginMode.HEDGING, CHANGE)
    assert [type(event) for event in events] == [Closed, Reduced, Modified, Opened]


def test_growth_names_what_was_added_and_what_that_part_cost() -> None:
    view = view_of(position(1, "1.00", open_price=D("1.10")))
    grown = position(1, "1.50", open_price=D("1.12"))
    (event,) = diff(view, [grown], MarginMode.NETTING, CHANGE, absent_ms=900)
    assert isinstance(event, ScaledIn)
    assert (event.added, event.price, event.absent_ms) == (D("0.50"), D("1.16"), 900)
    assert event.position.lots_opened == D("1.50")


def test_growth_after_a_partial_close_counts_all_that_was_ever_opened() -> None:
    view = view_of(position(1, "1.00"))
    view = replay(view, diff(view, [position(1, "0.40")], MarginMode.NETTING, CHANGE))
    view = replay(view, diff(view, [position(1, "0.70")], MarginMode.NETTING, CHANGE))
    assert (view.open[1].lots, view.open[1].lots_opened) == (D("0.70"), D("1.30"))


def test_a_change_of_volume_and_levels_is_told_as_both() -> None:
    view = view_of(position(1))
    events = diff(view, [position(1, "0.50", stop_loss=D("1.05"))], MarginMode.HEDGING, CHANGE)
    assert [type(event) for event in events] == [Reduced, Modified]
    assert isinstance(events[0], Reduced)
    assert events[0].position.stop_loss == 0


def test_a_netting_reversal_ends_one_generation_and_opens_the_next() -> None:
    view = view_of(position(1, "1.00"), mode=MarginMode.NETTING)
    (event,) = diff(view, [position(1, "0.60", Side.SELL)], MarginMode.NETTING, CHANGE, absent_ms=5)
    assert isinstance(event, Reversed)
    assert (event.closed.key, event.position.key) == ("1.1", "1.2")
    assert (event.position.lots, event.position.lots_opened, event.position.side) == (D("0.60"), D("0.60"), Side.SELL)
    assert event.absent_ms == 5


def test_a_reversal_of_the_same_volume_is_seen() -> None:
    view = view_of(position(1, "1.00"), mode=MarginMode.NETTING)
    (event,) = diff(view, [position(1, "1.00", Side.SELL)], MarginMode.NETTING, CHANGE)
    assert isinstance(event, Reversed)


@pytest.mark.parametrize("mode", MODES)
def test_a_position_that_comes_back_is_the_next_generation(mode: MarginMode) -> None:
    view = view_of(position(1), mode=mode)
    view = replay(view, diff(view, [], mode, CHANGE))
    for generation in (3, 5) if mode is MarginMode.NETTING else (2, 3):
        (event,) = diff(view, [position(1)], mode, CHANGE)
        assert isinstance(event, Opened)
        assert event.position.key == f"1.{generation}"
        view = apply(view, event)
        view = replay(view, diff(view, [], mode, CHANGE))


def test_a_netting_position_that_turned_unseen_is_never_the_generation_it_was() -> None:
    """A watcher dies between telling of an open and remembering it; the next finds the position turned, under its identifier."""
    (bought,) = diff(View(), [position(1)], MarginMode.NETTING, CHANGE)
    (sold,) = diff(View(), [position(1, side=Side.SELL)], MarginMode.NETTING, CHANGE)
    (again,) = diff(View(), [position(1, "0.40")], MarginMode.NETTING, CHANGE)
    assert isinstance(bought, Opened)
    assert isinstance(sold, Opened)
    assert isinstance(again, Opened)
    assert bought.position.key == again.position.key != sold.position.key


def test_generations_are_remembered_for_the_newest_that_are_gone() -> None:
    view = View()
    for ticket in range(1, GONE_KEPT + 3):
        view = replay(view, diff(view, [position(ticket)], MarginMode.HEDGING, CHANGE))
    view = replay(view, diff(view, [], MarginMode.HEDGING, CHANGE))
    assert len(view.gone) == GONE_KEPT
    assert 1 not in view.gone
    assert GONE_KEPT + 2 in view.gone


def test_a_snapshot_replaces_what_stands() -> None:
    view = view_of(position(1), position(2))
    left = view.open[2]
    after = apply(view, Snapshot(master="m", read=8, read_ms=2, positions=(left,), specs={}))
    assert after.open == {2: left}


# MT4: what is one position ------------------------------------------------------------------------------------------------


def mt4(view: View, *positions: Position) -> list[Event]:
    return diff(view, positions, MarginMode.MT4, CHANGE)


def test_a_split_whose_comment_names_the_parent_is_a_reduction() -> None:
    view = view_of(position(1), mode=MarginMode.MT4)
    (event,) = mt4(view, position(2, "0.40", parent=1))
    assert isinstance(event, Reduced)
    assert (event.position.key, event.position.ticket, event.position.lots) == ("1.1", 2, D("0.40"))


def test_a_split_without_a_word_is_known_by_what_a_split_keeps() -> None:
    view = view_of(position(1, magic=5), mode=MarginMode.MT4)
    (event,) = mt4(view, position(2, "0.40", magic=5, open_time=START + timedelta(seconds=1)))
    assert isinstance(event, Reduced)
    assert event.position.key == "1.1"


@pytest.mark.parametrize(
    "other",
    [{"symbol": "XAUUSD"}, {"side": Side.SELL}, {"magic": 6}, {"open_price": D("1.2")}, {"open_time": START}, {"lots": "1.00"}],
)
def test_what_a_split_would_have_kept_tells_a_new_position_from_it(other: dict[str, object]) -> None:
    view = view_of(position(1, magic=5), mode=MarginMode.MT4)
    new = position(2, **{"lots": "0.40", "magic": 5, "open_time": START + timedelta(seconds=1), **other})  # type: ignore[arg-type]
    assert [type(event) for event in mt4(view, new)] == [Closed, Opened]


def test_two_splits_between_reads_are_one_reduction() -> None:
    view = view_of(position(1), mode=MarginMode.MT4)
    (event,) = mt4(view, position(3, "0.20", parent=2, open_time=START + timedelta(seconds=1)))
    assert isinstance(event, Reduced)
    assert (event.position.key, event.position.ticket) == ("1.1", 3)


def test_both_halves_of_a_split_shown_at_once_are_no_new_position() -> None:
    view = view_of(position(1), mode=MarginMode.MT4)
    assert mt4(view, position(1), position(2, "0.40", parent=1)) == []
    assert [type(event) for event in mt4(View(), position(1), position(2, "0.40", parent=1))] == [Opened]


def test_of_two_alike_each_rest_goes_to_the_parent_its_comment_names() -> None:
    alike = {"open_time": START, "open_price": D("1.1")}
    view = view_of(position(1, **alike), position(2, "2.00", **alike), mode=MarginMode.MT4)
    rests = position(3, "0.50", **alike), position(4, "0.60", parent=1, **alike)
    events = {event.position.key: event.position.ticket for event in mt4(view, *rests) if isinstance(event, Reduced)}
    assert events == {"1.1": 4, "2.1": 3}


def test_of_two_alike_the_one_that_is_still_there_keeps_its_ticket() -> None:
    alike = {"open_time": START, "open_price": D("1.1")}
    view = view_of(position(1, **alike), position(2, **alike), mode=MarginMode.MT4)
    (event,) = mt4(view, position(2, **alike), position(3, "0.50", **alike))
    assert isinstance(event, Reduced)
    assert event.position.key == "1.1"


def test_a_read_matches_into_known_new_and_missing() -> None:
    view = view_of(position(1), position(2))
    found = match(view, [position(2), position(3)], MarginMode.HEDGING)
    assert found == Matching(pairs=((known(view, 2), position(2)),), fresh=(position(3),), missing=(known(view, 1),))


def known(view: View, identifier: int) -> MasterPosition:
    return view.open[identifier]
