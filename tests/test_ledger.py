"""The ledger: what was appended is remembered, newest first and once, by whoever owns the role now and nobody else."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from copier import database as db
from copier.clock import Clock, LoopClock, SystemClock, run_virtual
from copier.database import MEMORY, Database
from copier.diff import View
from copier.errors import Fenced, StoreError
from copier.leases import _FENCE_LOCK, RolesLost
from copier.ledger import (
    TOMBSTONES_MS,
    FactKept,
    JournalEntry,
    Ledger,
    LinkKept,
    ReadingKept,
    ReceiptKept,
    Remembered,
)
from copier.link import Leg, LegState, Link
from copier.model import Receipt, Side, Verdict
from copier.wire import FRAME_BYTES_MAX
from tests.test_diff import D, position, view_of
from tests.test_reconcile import leg, link

EPOCH_MS = 1_767_600_000_000


def kept(follower: str = "f", key: str = "9.1", *, ended: bool = False, lots: str = "1.00", **more: Any) -> LinkKept:
    one = leg(1, "0", state=LegState.CLOSED) if ended else leg(1, lots)
    return LinkKept(link=link(one, follower=follower, key=key, wanted_open=not ended, **more))


def reading(entry: str, follower: str = "f", master: str = "m") -> ReadingKept:
    return ReadingKept(follower=follower, master=master, entry=entry)


def fact(name: str, body: bytes, follower: str = "f") -> FactKept:
    return FactKept(follower=follower, name=name, body=msgspec.Raw(body))


def receipt(number: int, follower: str = "f") -> ReceiptKept:
    one = Receipt(at_ms=number, follower=follower, master="m", key="9.1", event="open", verdict=Verdict.COPIED, code="copied")
    return ReceiptKept(receipt=one)


def on(tell: Callable[[Database, LoopClock], Coroutine[Any, Any, None]], url: str = MEMORY) -> None:
    async def run() -> None:
        database = Database(url)
        await database.open()
        try:
            await tell(database, LoopClock(EPOCH_MS))
        finally:
            await database.close()

    run_virtual(run())


async def owner(database: Database, clock: Clock, name: str = "w", *roles: str) -> Ledger:
    ledger = Ledger(database, clock, name)
    await ledger.take(roles or ("follower:f", "follower:g"))
    return ledger


async def journal_rows(database: Database) -> int:
    count = await database.run(lambda connection: connection.scalar(sa.select(sa.func.count()).select_from(db.journal)))
    return int(count or 0)


# Remembering -----------------------------------------------------------------------------------------------------------------

entries = st.one_of(
    st.builds(
        lambda follower, key, lots, ended: kept(follower, f"{key}.1", lots=str(lots), ended=ended),
        st.sampled_from("fg"),
        st.integers(1, 4),
        st.integers(1, 9),
        st.booleans(),
    ),
    st.builds(
        lambda n, who, whose: reading(f"1-{n}", who, whose), st.integers(1, 99), st.sampled_from("fg"), st.sampled_from("mn")
    ),
    st.builds(lambda name, n: fact(name, str(n).encode()), st.sampled_from(["limit:x", "residue:y"]), st.integers(0, 99)),
    st.builds(receipt, st.integers(1, 99)),
)
steps = st.lists(st.one_of(st.lists(entries, min_size=1, max_size=4), st.sampled_from(["catch_up", "restart"])), max_size=12)


def model_of(written: list[JournalEntry]) -> Remembered:
    model = Remembered(links={"f": {}, "g": {}}, readings={}, facts={})
    for entry in written:
        match entry:
            case LinkKept(link=one):
                model.links[one.follower][one.name] = one
            case ReadingKept():
                model.readings[entry.follower, entry.master] = entry.entry
            case FactKept():
                model.facts[entry.follower, entry.name] = bytes(entry.body)
            case ReceiptKept():
                pass
    return model


@given(steps)
@settings(max_examples=40)
def test_whatever_is_projected_when_the_newest_of_everything_is_remembered_and_every_receipt_once(
    steps: list[list[JournalEntry] | str],
) -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        ledger, written, restarts = await owner(database, clock, "w0"), list[JournalEntry](), 0
        for step in steps:
            if step == "catch_up":
                await ledger.catch_up()
                await ledger.catch_up()
            elif step == "restart":
                restarts += 1
                ledger = await owner(database, clock, f"w{restarts % 2}")
            else:
                assert isinstance(step, list)
                await ledger.append(step)
                written += step
        model = model_of(written)
        for reader in (ledger, Ledger(database, clock, "reader")):
            assert await reader.load(["f", "g"]) == model
        assert await ledger.receipts() == [entry.receipt for entry in written if isinstance(entry, ReceiptKept)]
        living = [one for links in model.links.values() for one in links.values() if one.living]
        assert sorted(await ledger.links(), key=lambda one: (one.follower, one.key)) == sorted(
            living, key=lambda one: (one.follower, one.key)
        )

    on(tell)


def test_a_crash_after_the_append_and_before_the_projection_loses_nothing() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        first = await owner(database, clock)
        await first.append([kept(), reading("1-7"), fact("limit:x", b"5"), receipt(1)])
        assert first.behind == 4
        second = Ledger(database, clock, "another")
        found = await second.load(["f"])
        assert found.links["f"] == {("m", "9.1"): kept().link}
        assert found.readings == {("f", "m"): "1-7"}
        assert found.facts == {("f", "limit:x"): b"5"}
        assert await second.receipts() == [receipt(1).receipt]
        await first.project()
        assert first.behind == 0
        assert await second.receipts() == [receipt(1).receipt]

    on(tell)


def test_a_record_larger_than_any_frame_is_read_back() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        first = await owner(database, clock)
        long = "x" * (FRAME_BYTES_MAX // 100)
        await first.append([kept(key=f"{number}.1", reason=long) for number in range(1, 120)])
        next_owner = await owner(database, clock, "v")
        assert len((await next_owner.load(["f"])).links["f"]) == 119

    on(tell)


def test_what_was_appended_is_on_the_disk_when_append_returns(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"

    async def tell() -> None:
        database = Database(url)
        await database.open()
        ledger = await owner(database, LoopClock())
        await ledger.append([kept()])
        other = Database(url)
        assert await journal_rows(other) == 1
        await other.close()
        await database.close()

    asyncio.run(tell())


def test_only_what_was_asked_for_is_loaded() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        ledger = await owner(database, clock)
        await ledger.append([kept("f"), kept("g"), reading("1-1", "g"), fact("x", b"1", "g")])
        assert await ledger.load(["f"]) == Remembered(links={"f": {("m", "9.1"): kept("f").link}}, readings={}, facts={})
        assert await ledger.load([]) == Remembered(links={}, readings={}, facts={})

    on(tell)


def test_thousands_of_followers_are_taken_and_loaded() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        names = [f"f{number}" for number in range(1_203)]
        ledger = Ledger(database, clock, "w")
        assert set((await ledger.take([f"follower:{name}" for name in names])).values()) == {1}
        await ledger.append([reading("1-1", name) for name in names])
        assert len((await ledger.load(names)).readings) == 1_203

    on(tell)


def test_an_ended_link_is_remembered_for_a_while_and_a_living_one_for_ever() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        ledger = await owner(database, clock)
        await ledger.append([kept(key="1.1", ended=True), kept(key="2.1")])
        assert set((await ledger.load(["f"])).links["f"]) == {("m", "1.1"), ("m", "2.1")}
        await asyncio.sleep(TOMBSTONES_MS / 1000 + 1)
        assert set((await ledger.load(["f"])).links["f"]) == {("m", "2.1")}

    on(tell)


def test_every_field_of_a_link_comes_back() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        sending = Leg(tag="mc000100002", side=Side.SELL, asked=D("0.29"), net_before=D("-1.10"), sent_ms=5, not_after_ms=9)
        one = link(leg(1), sending, before=D("0.10"), stop_loss=D("1.05"), reason="why", existing=True, absent_ms=4)
        ledger = await owner(database, clock)
        await ledger.append([LinkKept(link=one)])
        (found,) = (await Ledger(database, clock, "reader").load(["f"])).links["f"].values()
        assert found == one

    on(tell)


# Grouping --------------------------------------------------------------------------------------------------------------------


def test_those_who_append_at_the_same_moment_share_a_row() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        ledger = await owner(database, clock, "w", *(f"follower:f{n}" for n in range(50)))
        await asyncio.gather(*(ledger.append([reading(f"1-{number}", f"f{number}")]) for number in range(50)))
        assert await journal_rows(database) == 1
        found = await ledger.load([f"f{number}" for number in range(50)])
        assert len(found.readings) == 50

    on(tell)


class FailingOnce(Database):
    """A database whose disk is full for one transaction."""

    failures = 0

    async def run(self, work: Callable[[sa.Connection], Any]) -> Any:
        if self.failures:
            self.failures -= 1
            raise StoreError("disk full")
        return await super().run(work)


def test_a_row_that_cannot_be_written_fails_everyone_in_it_and_nobody_after_it() -> None:
    async def run() -> None:
        database = FailingOnce(MEMORY)
        await database.open()
        ledger = await owner(database, LoopClock())
        database.failures = 1
        outcomes = await asyncio.gather(*(ledger.append([reading("1-1")]) for _ in range(3)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StoreError] * 3
        assert await journal_rows(database) == 0
        await ledger.append([reading("1-2")])
        assert (await ledger.load(["f"])).readings == {("f", "m"): "1-2"}
        await database.close()

    run_virtual(run())


def test_one_who_stops_waiting_takes_nobody_along() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        ledger = await owner(database, clock)
        impatient = asyncio.create_task(ledger.append([reading("1-1", "f")]))
        patient = asyncio.create_task(ledger.append([reading("1-1", "g")]))
        await asyncio.sleep(0)
        impatient.cancel()
        await patient
        assert len((await ledger.load(["f", "g"])).readings) == 2
        await ledger.append([reading("1-2")])

    on(tell)


# Owning ----------------------------------------------------------------------------------------------------------------------


def test_every_owner_has_a_higher_token_than_all_before() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        for expected in (1, 2, 3):
            ledger = Ledger(database, clock, f"w{expected % 2}")
            assert await ledger.take(["follower:f", "worker:w"]) == {"follower:f": expected, "worker:w": expected}

    on(tell)


@pytest.mark.parametrize("name", ["another", "w"])
def test_an_owner_whose_role_was_taken_writes_nothing_any_more(name: str) -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        first = await owner(database, clock, "w", "follower:f", "follower:g")
        await first.append([reading("1-1")])
        second = await owner(database, clock, name, "follower:g")
        with pytest.raises(Fenced, match="another owner has taken over"):
            await first.append([reading("1-2", "g")])
        await second.append([reading("1-3", "g")])
        assert (await second.load(["f", "g"])).readings == {("f", "m"): "1-1", ("g", "m"): "1-3"}

    on(tell)


def test_an_owner_that_lost_one_follower_goes_on_with_the_others_even_in_one_record() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        first = await owner(database, clock, "w", "follower:f", "follower:g")
        await owner(database, clock, "another", "follower:g")
        appends = (first.append([reading("1-1")]), first.append([reading("1-1", "g")]), first.append([reading("1-1", "f", "n")]))
        answers = await asyncio.gather(*appends, return_exceptions=True)
        assert [type(answer) for answer in answers] == [type(None), RolesLost, type(None)]
        assert (await first.load(["f", "g"])).readings == {("f", "m"): "1-1", ("f", "n"): "1-1"}

    on(tell)


def test_an_owner_whose_own_role_was_taken_writes_nothing_for_any_follower() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        first = await owner(database, clock, "w on one machine", "worker:w", "follower:f")
        await owner(database, clock, "w on another", "worker:w")
        for _ in range(2):
            with pytest.raises(Fenced, match="replaced by another of its name"):
                await first.append([reading("1-1")])

    on(tell)


def test_a_role_that_was_given_up_is_taken_and_written_by_another_and_by_the_first_no_more() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        first = await owner(database, clock, "w", "follower:f", "follower:g")
        await first.leases.release(["follower:g"])
        assert first.leases.held == {"follower:f": 1}
        second = await owner(database, clock, "another", "follower:g")
        await second.append([reading("1-1", "g")])
        await first.append([reading("1-1")])
        with pytest.raises(RolesLost):
            await first.append([reading("1-2", "g")])

    on(tell)


def test_giving_up_what_another_has_taken_meanwhile_takes_nothing_from_it() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        first = await owner(database, clock, "w", "follower:f")
        second = await owner(database, clock, "w", "follower:f")
        await first.leases.release(["follower:f"])
        await second.append([reading("1-1")])

    on(tell)


def test_a_role_given_up_by_its_settings_does_not_fence_a_restart_under_the_same_name() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        await owner(database, clock, "w", "follower:f", "follower:g")
        again = await owner(database, clock, "w", "follower:f")
        await again.append([reading("1-1")])

    on(tell)


def test_roles_taken_one_after_the_other_are_all_held() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        ledger = await owner(database, clock, "w", "follower:f")
        await ledger.take(["follower:g"])
        await ledger.take(["follower:f"])
        await ledger.append([reading("1-1")])

    on(tell)


def test_a_reader_that_owns_nothing_fences_nobody() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        ledger = await owner(database, clock)
        face = Ledger(database, clock, "face")
        await face.links()
        await face.set_control("*", "frozen", "a person")
        await ledger.append([reading("1-1")])
        assert await ledger.controls() == {"*": "frozen"}

    on(tell)


# Views, controls, receipts ---------------------------------------------------------------------------------------------------


def test_a_view_is_kept_until_a_later_epoch_has_begun() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        ledger, later = Ledger(database, clock, "w"), Ledger(database, clock, "v")
        assert await ledger.load_view("m") is None
        first = (await ledger.take(["watcher:m"]))["watcher:m"]
        await ledger.save_view("m", first, View())
        assert await ledger.load_view("m") == View()
        second = (await later.take(["watcher:m"]))["watcher:m"]
        newer = view_of(position(1), position(2, side=Side.SELL))
        with pytest.raises(Fenced, match=f"epoch {first} is over"):
            await ledger.save_view("m", first, newer)
        assert await ledger.load_view("m") == View()
        await later.save_view("m", second, newer)
        assert await ledger.load_view("m") == newer
        assert await ledger.load_view("another") is None

    on(tell)


def test_receipts_come_oldest_first_and_by_follower_number_or_newest() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        ledger = await owner(database, clock)
        await ledger.append([receipt(1), receipt(2, "g"), receipt(3)])
        await ledger.append([receipt(4)])
        assert [r.at_ms for r in await ledger.receipts()] == [1, 2, 3, 4]
        assert [r.at_ms for r in await ledger.receipts(follower="f")] == [1, 3, 4]
        assert [r.at_ms for r in await ledger.receipts(newest=2)] == [3, 4]
        assert [r.at_ms for r in await ledger.receipts(after_id=2)] == [3, 4]

    on(tell)


# Forgetting ------------------------------------------------------------------------------------------------------------------


def test_trimming_forgets_what_is_old_and_ended_and_keeps_what_lives() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        ledger = await owner(database, clock)
        await ledger.append([kept(key="1.1", ended=True), kept(key="2.1"), reading("1-9"), fact("x", b"1"), receipt(EPOCH_MS)])
        await ledger.project()
        await asyncio.sleep(10)
        await ledger.append([kept(key="3.1", ended=True), receipt(EPOCH_MS + 10_000)])
        assert await ledger.trim(EPOCH_MS + 5_000) == 3
        found = await ledger.load(["f"])
        assert set(found.links["f"]) == {("m", "2.1"), ("m", "3.1")}
        assert (found.readings, found.facts) == ({("f", "m"): "1-9"}, {("f", "x"): b"1"})
        assert [r.at_ms for r in await ledger.receipts()] == [EPOCH_MS + 10_000]

    on(tell)


def test_trimming_drops_nothing_that_is_not_in_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("copier.ledger.TRIMMED_AT_ONCE", 2)

    async def tell(database: Database, clock: LoopClock) -> None:
        ledger = await owner(database, clock)
        for number in range(7):
            await ledger.append([reading(f"1-{number}"), receipt(EPOCH_MS + number)])
        catch_up = ledger.catch_up

        async def and_then_more() -> None:
            await catch_up()
            await ledger.append([kept()])

        monkeypatch.setattr(ledger, "catch_up", and_then_more)
        assert await ledger.trim(EPOCH_MS + 1_000_000) == 14
        assert await journal_rows(database) == 1
        found = await Ledger(database, clock, "reader").load(["f"])
        assert set(found.links["f"]) == {("m", "9.1")}
        assert found.readings == {("f", "m"): "1-6"}

    on(tell)


def test_what_is_appended_after_everything_was_trimmed_is_remembered() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        ledger = await owner(database, clock)
        for number in range(5):
            await ledger.append([reading(f"1-{number}")])
        await ledger.trim(EPOCH_MS + 1_000_000)
        await ledger.append([kept(), reading("1-50")])
        found = await Ledger(database, clock, "reader").load(["f"])
        assert found.readings == {("f", "m"): "1-50"}
        assert set(found.links["f"]) == {("m", "9.1")}

    on(tell)


def test_an_owner_brings_its_own_rows_into_the_tables_and_a_successor_everyones() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        first = await owner(database, clock, "first", "follower:f")
        second = await owner(database, clock, "second", "follower:g")
        await first.append([kept(), reading("1-5")])
        await second.append([kept("g"), reading("1-6", "g")])
        await second.project()
        rows = await database.run(lambda connection: connection.execute(sa.select(db.readings.c.follower)).all())
        assert [follower for (follower,) in rows] == ["g"]
        third = await owner(database, clock, "third", "follower:f")
        found = await third.load(["f"])
        assert found.readings == {("f", "m"): "1-5"}
        await third.append([reading("1-9")])
        await third.project()
        await first.project()
        found = await Ledger(database, clock, "reader").load(["f", "g"])
        assert found.readings == {("f", "m"): "1-9", ("g", "m"): "1-6"}

    on(tell)


def test_rows_of_several_owners_come_into_the_tables_in_the_order_in_which_they_were_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("copier.ledger.ROWS_AT_ONCE", 2)
    monkeypatch.setattr("copier.ledger.PROJECTED_AT_ONCE", 3)

    async def tell(database: Database, clock: LoopClock) -> None:
        first = await owner(database, clock, "z-first", "follower:f")
        for number in range(5):
            await first.append([receipt(number)])
        second = await owner(database, clock, "a-second", "follower:f")
        for number in range(5, 10):
            await second.append([receipt(number)])
        third = await owner(database, clock, "m-third", "follower:g")
        await third.append([receipt(10, "g")])
        assert [r.at_ms for r in await Ledger(database, clock, "reader").receipts()] == list(range(11))

    on(tell)


async def test_nothing_that_is_done_while_trading_goes_through_the_whole_journal(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    await database.open()
    ledger = await owner(database, SystemClock())
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        asked.append((statement, parameters))

    sa.event.listen(database._engine, "before_cursor_execute", note)
    await ledger.append([kept(), reading("1-1"), receipt(1)])
    await ledger.project()
    await ledger.append([kept(), receipt(2)])
    await ledger.catch_up()
    await ledger.load(["f"])
    sa.event.remove(database._engine, "before_cursor_execute", note)
    plans = []
    for statement, parameters in asked:
        if statement.startswith("SELECT"):
            explain = f"EXPLAIN QUERY PLAN {statement}"
            rows = await database.run(lambda on, explain=explain, given=parameters: on.exec_driver_sql(explain, given).all())  # type: ignore[misc]
            plans += [(row[3], statement) for row in rows]
    assert any("journal" in plan for plan, _ in plans)
    assert [(plan, statement) for plan, statement in plans if "SCAN journal" in plan] == []
    await database.close()


def test_a_state_that_a_later_row_replaces_is_left_to_it_and_a_crash_in_between_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("copier.ledger.PROJECTED_AT_ONCE", 1)

    async def in_tables(database: Database) -> list[str]:
        rows = await database.run(lambda connection: connection.execute(sa.select(db.links.c.key).order_by(db.links.c.key)).all())
        return [key for (key,) in rows]

    async def tell(database: Database, clock: LoopClock) -> None:
        ledger = await owner(database, clock)
        await ledger.append([kept(key="1.1"), receipt(1)])
        await ledger.append([kept(key="2.1"), receipt(2)])
        await ledger.append([kept(key="1.1", lots="0.40"), receipt(3)])
        steps, beside = [1, 2], database.run_beside

        async def break_down(work: Any) -> Any:
            if not steps:
                raise StoreError("gone")
            steps.pop()
            return await beside(work)

        monkeypatch.setattr(database, "run_beside", break_down)
        with pytest.raises(StoreError):
            await ledger.project(rest=4.0)
        assert await in_tables(database) == ["2.1"]
        assert ledger.behind == 2
        monkeypatch.undo()
        found = await Ledger(database, clock, "reader").load(["f"])
        assert {key: held.lots for (_, key), held in found.links["f"].items()} == {"1.1": D("0.40"), "2.1": D("1.00")}
        assert [r.at_ms for r in await ledger.receipts()] == [1, 2, 3]
        assert ledger.behind == 0

    on(tell)


def test_more_than_one_row_can_hold_is_remembered_whole_after_a_crash() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        ledger = await owner(database, clock)
        long = [msgspec.structs.replace(receipt(number), receipt=long_receipt(number)) for number in range(9)]
        await ledger.append([*long, kept(), reading("1-50")])
        reader = Ledger(database, clock, "reader")
        found = await reader.load(["f"])
        assert found.readings == {("f", "m"): "1-50"}
        assert set(found.links["f"]) == {("m", "9.1")}
        assert len(await reader.receipts()) == 9

    on(tell)


def long_receipt(number: int) -> Receipt:
    return msgspec.structs.replace(receipt(number).receipt, message="x" * 900_000)


def test_a_link_and_its_newest_state_are_one_row() -> None:
    async def tell(database: Database, clock: LoopClock) -> None:
        ledger = await owner(database, clock)
        await ledger.append([kept(lots="1.00")])
        await ledger.append([kept(lots="0.50")])
        await ledger.append([kept(ended=True)])
        assert await ledger.links() == []
        (one,) = await ledger.links(living=False)
        assert isinstance(one, Link)
        assert one.legs[0].state is LegState.CLOSED

    on(tell)


async def test_a_server_keeps_the_same_promises(needs_postgres: str) -> None:
    database, clock = Database(needs_postgres), SystemClock()
    await database.open()
    first = await owner(database, clock, "first", "follower:f", "follower:g")
    await asyncio.gather(*(first.append([reading(f"1-{number}"), receipt(number)]) for number in range(20)))
    second = await owner(database, clock, "second", "follower:g")
    with pytest.raises(Fenced):
        await first.append([reading("1-99", "g")])
    await second.append([kept("g"), reading("1-7", "g")])
    found = await second.load(["f", "g"])
    assert found.readings == {("f", "m"): "1-19", ("g", "m"): "1-7"}
    assert await second.trim(2**62) > 0
    await second.append([reading("1-8", "g")])
    assert (await Ledger(database, clock, "reader").load(["g"])).readings == {("g", "m"): "1-8"}
    await database.close()


async def test_on_a_server_no_owner_begins_while_another_writes(needs_postgres: str) -> None:
    database, clock = Database(needs_postgres), SystemClock()
    await database.open()
    first = await owner(database, clock, "first")
    engine = sa.create_engine(needs_postgres)
    with engine.begin() as writing:
        writing.execute(sa.text(f"SELECT pg_advisory_xact_lock_shared({_FENCE_LOCK})"))
        await first.append([reading("1-1")])
        taking = asyncio.create_task(owner(database, clock, "second"))
        done, _ = await asyncio.wait([taking], timeout=0.3)
        assert not done
    second = await taking
    assert (await second.load(["f"])).readings == {("f", "m"): "1-1"}
    engine.dispose()
    await database.close()
