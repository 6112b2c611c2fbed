"""What a follower makes of its masters' entries: whatever is lost, doubled or damaged, wanted is what the master has."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copier.clock import LoopClock
from copier.database import MEMORY, Database
from copier.diff import View, diff
from copier.errors import StoreError
from copier.intake import Intake
from copier.ledger import FactKept, JournalEntry, Ledger, ReceiptKept, Remembered
from copier.memory import Memory
from copier.model import Change, Event, MarginMode, MasterPosition, Opened, Receipt, Side, Snapshot, Verdict
from copier.policy import Mode
from copier.settings import FollowerSettings
from copier.standing import Standing
from copier.stream import Entry, EntryId
from tests.test_diff import D, Master, lives, position, replay

replace = msgspec.structs.replace


class At:
    """A clock that stands still."""

    def now_ms(self) -> int:
        return 1_000


def remember(entries: dict[str, str] | None = None) -> Memory:
    remembered = Remembered(links={}, readings={("f", m): e for m, e in (entries or {"m": "0-0"}).items()}, facts={})
    settings = FollowerSettings.model_validate({"account": "f", "copies": [{"master": "m"}]})
    return Memory("f", settings, Ledger(Database(MEMORY), At(), "test"), At(), remembered)


def snapshot_of(view: View) -> Snapshot:
    return Snapshot(master="m", read=1, read_ms=1, positions=tuple(view.open.values()), specs={})


def published(history: list[list[tuple[str, int, int, Side]]], mode: MarginMode) -> tuple[list[Entry], View]:
    """Return what a watcher would publish of a master's life, a snapshot at its start and after every third read."""
    master, view = Master(mode, parents_named=True), View()
    events: list[Event] = [snapshot_of(view)]
    for number, steps in enumerate(history):
        for step in steps:
            master.do(*step)
        changes = diff(view, master.positions, mode, Change(master="m", read=number, read_ms=number))
        view = replay(view, changes)
        events += changes
        if number % 3 == 2:
            events.append(snapshot_of(view))
    return [Entry("m", EntryId(1, sequence), event) for sequence, event in enumerate(events, 1)], view


def wanted(memory: Memory) -> dict[str, MasterPosition]:
    return {link.key: link.position for link in memory.links.values() if link.wanted_open}


def in_view(view: View) -> dict[str, MasterPosition]:
    return {each.key: each for each in view.open.values()}


def receipts(memory: Memory) -> list[Receipt]:
    notes: list[JournalEntry] = memory._notes
    return [note.receipt for note in notes if isinstance(note, ReceiptKept)]


# Laws ----------------------------------------------------------------------------------------------------------------------


@given(lives, st.sampled_from(list(MarginMode)))
@settings(max_examples=60)
def test_what_is_wanted_is_what_the_master_has(history: Any, mode: MarginMode) -> None:
    entries, view = published(history, mode)
    memory = remember()
    intake = Intake(memory)
    for entry in entries:
        intake.accept(entry)
    assert wanted(memory) == in_view(view)
    assert memory.relations["m"].seen == entries[-1].id
    assert not memory.relations["m"].gap


@given(lives, st.sampled_from(list(MarginMode)), st.integers(0, 2**32), st.floats(0, 0.9))
@settings(max_examples=100)
def test_whatever_is_lost_doubled_or_damaged_the_next_snapshot_heals_and_nothing_closed_is_wanted_again(
    history: Any, mode: MarginMode, seed: int, lost: float
) -> None:
    entries, view = published(history, mode)
    chance, memory = random.Random(seed), remember()
    intake, closed, delivered = Intake(memory), set[str](), list[Entry]()
    for entry in entries:
        fate = chance.random()
        if fate < lost / 2:
            continue
        arrivals = [Entry(entry.master, entry.id, None) if fate < lost else entry]
        arrivals += chance.sample(delivered, min(len(delivered), chance.randrange(3)))
        for each in arrivals:
            intake.accept(each)
            delivered.append(each)
        closed |= {link.key for link in memory.links.values() if not link.wanted_open}
        assert not closed & set(wanted(memory))
    intake.accept(Entry("m", entries[-1].id.next, snapshot_of(view)))
    assert wanted(memory) == in_view(view)


@given(lives, st.integers(1, 30))
@settings(max_examples=60)
def test_reading_again_from_any_earlier_place_changes_nothing(history: Any, back: int) -> None:
    entries, _ = published(history, MarginMode.HEDGING)
    memory = remember()
    intake = Intake(memory)
    for entry in entries:
        intake.accept(entry)
    links, notes = dict(memory.links), len(receipts(memory))
    for entry in entries[-back:]:
        intake.accept(entry)
    assert memory.links == links
    assert len(receipts(memory)) == notes


# One thing at a time -----------------------------------------------------------------------------------------------------


def opened(number: int, epoch: int = 1, sequence: int = 2, **more: Any) -> Entry:
    (event,) = diff(View(), [position(number)], MarginMode.HEDGING, Change(master="m", read=1, read_ms=1), absent_ms=500)
    assert isinstance(event, Opened)
    return Entry("m", EntryId(epoch, sequence), replace(event, **more))


def take(memory: Memory, *entries: Entry) -> Memory:
    for entry in entries:
        Intake(memory).accept(entry)
    return memory


def first_snapshot(*positions: Any, epoch: int = 1, sequence: int = 1) -> Entry:
    view = replay(View(), diff(View(), positions, MarginMode.HEDGING, Change(master="m", read=1, read_ms=1)))
    return Entry("m", EntryId(epoch, sequence), snapshot_of(view))


def test_after_a_gap_opens_wait_for_the_snapshot_and_closes_do_not() -> None:
    memory = take(remember(), first_snapshot(position(1)), opened(2, sequence=4))
    assert (set(wanted(memory)), memory.relations["m"].gap) == ({"1.1"}, True)
    gone = diff(
        replay(View(), diff(View(), [position(1)], MarginMode.HEDGING, Change(master="m", read=1, read_ms=1))),
        [],
        MarginMode.HEDGING,
        Change(master="m", read=2, read_ms=2),
    )
    take(memory, Entry("m", EntryId(1, 5), gone[0]))
    assert wanted(memory) == {}
    take(memory, first_snapshot(position(2), sequence=6))
    assert (set(wanted(memory)), memory.relations["m"].gap) == ({"2.1"}, False)


def test_an_entry_that_cannot_be_read_is_a_gap() -> None:
    memory = take(remember(), first_snapshot(), Entry("m", EntryId(1, 2), None), opened(2, sequence=3))
    assert wanted(memory) == {}


def test_a_new_epoch_that_begins_with_its_first_entry_is_no_gap() -> None:
    memory = take(remember(), first_snapshot(), first_snapshot(epoch=3), opened(2, epoch=3))
    assert set(wanted(memory)) == {"2.1"}
    assert take(remember(), first_snapshot(), first_snapshot(epoch=3, sequence=2)).relations["m"].gap is False
    assert take(remember(), first_snapshot(), opened(2, epoch=3, sequence=2)).relations["m"].gap is True


def test_an_older_epoch_says_nothing_any_more() -> None:
    memory = take(remember(), first_snapshot(epoch=3), opened(2, epoch=2, sequence=9))
    assert wanted(memory) == {}
    assert memory.relations["m"].seen == EntryId(3, 1)


def test_only_the_first_snapshot_of_a_relation_shows_what_was_there_before() -> None:
    fresh = remember({"other": "1-1"})
    assert not fresh.relations["m"].started
    take(fresh, opened(9, sequence=1), first_snapshot(position(1), sequence=2))
    take(fresh, first_snapshot(position(1), position(2), sequence=3))
    assert {link.key: link.existing for link in fresh.links.values()} == {"1.1": True, "2.1": False}
    again = take(remember(), first_snapshot(position(1)))
    assert [link.existing for link in again.links.values()] == [False]


def test_an_open_is_dated_by_when_it_was_not_there_yet() -> None:
    memory = take(remember(), first_snapshot(), opened(2))
    (link,) = memory.links.values()
    assert (link.absent_ms, link.stamps.received_ms) == (500, 1_000)


def test_a_change_of_what_was_never_seen_here_leaves_a_receipt_and_wants_nothing() -> None:
    view = replay(View(), diff(View(), [position(1)], MarginMode.HEDGING, Change(master="m", read=1, read_ms=1)))
    change = Change(master="m", read=2, read_ms=2)
    (reduced,) = diff(view, [position(1, "0.50")], MarginMode.HEDGING, change)
    (closed,) = diff(view, [], MarginMode.HEDGING, change)
    memory = take(remember(), first_snapshot(), Entry("m", EntryId(1, 2), reduced), Entry("m", EntryId(1, 3), closed))
    assert memory.links == {}
    assert [(r.event, r.verdict, r.code) for r in receipts(memory)] == [
        ("reduce", Verdict.SKIPPED, "not_copied"),
        ("close", Verdict.SKIPPED, "not_copied"),
    ]


def test_what_the_reader_learns_while_an_order_is_away_is_not_undone_by_its_answer() -> None:
    memory = take(remember(), first_snapshot(), opened(2))
    (before,) = memory.links.values()
    gone = diff(
        replay(View(), diff(View(), [position(2)], MarginMode.HEDGING, Change(master="m", read=1, read_ms=1))),
        [],
        MarginMode.HEDGING,
        Change(master="m", read=2, read_ms=2),
    )
    take(memory, Entry("m", EntryId(1, 3), gone[0]))
    after = memory.believe(replace(before, symbol="EURUSD", anchor=D(1)))
    assert (after.wanted_open, after.reason, after.position.lots) == (False, "master_closed", 0)
    assert (after.symbol, after.anchor) == ("EURUSD", D(1))


async def test_what_could_not_be_journaled_is_journaled_with_the_next_commit() -> None:
    memory = take(remember(), first_snapshot(), opened(2))
    memory.keep_fact("x", b"1")
    rows: list[list[JournalEntry]] = []

    class Full:
        """A ledger whose disk is full at first."""

        async def append(self, entries: list[JournalEntry]) -> None:
            rows.append(entries)
            if len(rows) == 1:
                raise StoreError("disk full")

    memory._ledger = Full()  # type: ignore[assignment]
    try:
        await memory.commit()
    except StoreError:
        await memory.commit()
    assert rows[0] == rows[1]
    assert any(isinstance(entry, FactKept) for entry in rows[1])
    await memory.commit()
    assert len(rows) == 2


@pytest.mark.parametrize("scope", ["bob", "bob/m", "*"])
def test_what_is_set_for_a_follower_holds_for_its_shadow_too(scope: str) -> None:
    settings = FollowerSettings.model_validate({"account": "a", "copies": [{"master": "m", "mode": "shadow"}]})
    gateway: Any = None
    twin = Standing("bob~shadow", settings, gateway, LoopClock(), Remembered())
    assert twin.set_controls({scope: "close_only", "bo": "frozen", "bobby/m": "frozen"})
    assert (twin.mode_of("m")[0], twin.frozen) == (Mode.CLOSE_ONLY, False)
    assert not twin.set_controls({scope: "close_only"})


def test_a_new_watchers_first_snapshot_takes_back_nothing_that_its_predecessor_told() -> None:
    """It may have been taken before, and have waited for Redis since; the second was taken after the first was published."""
    settings = FollowerSettings.model_validate({"account": "a", "copies": [{"master": "m"}]})
    ledger = Ledger(Database(MEMORY), LoopClock(), "test")
    memory = Memory("f", settings, ledger, FixedClock(), Remembered())
    intake = Intake(memory)
    (opened,) = diff(View(), [position(1)], MarginMode.HEDGING, Change(master="m", read=1, read_ms=1), absent_ms=500)
    (later,) = diff(View(), [position(2)], MarginMode.HEDGING, Change(master="m", read=1, read_ms=1), absent_ms=500)
    empty = Snapshot(master="m", read=1, read_ms=1, positions=(), specs={})
    assert isinstance(later, Opened)
    for epoch, sequence, event in ((1, 1, empty), (1, 2, opened), (2, 1, empty)):
        intake.accept(Entry("m", EntryId(epoch, sequence), event))
    assert memory.links["m", "1.1"].wanted_open
    intake.accept(Entry("m", EntryId(2, 2), later))
    intake.accept(Entry("m", EntryId(2, 3), replace(empty, positions=(later.position,))))
    assert not memory.links["m", "1.1"].wanted_open
    assert memory.links["m", "2.1"].wanted_open


def test_a_worker_that_restarts_before_a_new_watchers_first_snapshot_lets_it_take_back_nothing_either() -> None:
    before = take(remember(), first_snapshot(), opened(1), opened(2, epoch=2, sequence=1))
    reading = str(before.relations["m"].seen)
    settings = FollowerSettings.model_validate({"account": "a", "copies": [{"master": "m"}]})
    known = Remembered(links={"f": dict(before.links)}, readings={("f", "m"): reading})
    after = Memory("f", settings, Ledger(Database(MEMORY), LoopClock(), "test"), FixedClock(), known)
    take(after, first_snapshot(position(2), epoch=2, sequence=2))
    assert set(wanted(after)) == {"1.1", "2.1"}
    take(after, first_snapshot(position(2), epoch=2, sequence=3))
    assert set(wanted(after)) == {"2.1"}


class FixedClock:
    def now_ms(self) -> int:
        return 1_000
