"""A watcher publishes what it confirmed: nothing of a doubtful read, everything of a sure one, the same over restarts."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from copier.clock import LoopClock, run_virtual
from copier.database import MEMORY, Database
from copier.errors import StoreError
from copier.gateways.paper import PaperGateway
from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_faults import Operation, disconnected, empty_list, failed_read
from copier.gateways.paper_server import PaperServer
from copier.ledger import Ledger
from copier.model import Closed, DealReason, Event, MarginMode, Modified, Opened, Reduced, ScaledIn, Snapshot
from copier.settings import MasterSettings
from copier.stream import EntryId, Stream, open_stream
from copier.watcher import OUTBOX_MAX, Watcher
from tests.world import EPOCH_MS, D


class Watch:
    """One master, its watcher, and what came out of it."""

    def __init__(self, *, mode: MarginMode = MarginMode.HEDGING, without: frozenset[str] = frozenset(), **settings: Any) -> None:
        self.clock = LoopClock(EPOCH_MS)
        self.server = PaperServer("M-Server", clock=self.clock)
        self.account = self.server.add_account(PaperAccount(1, margin_mode=mode, balance=D("100000")))
        for symbol, bid, ask in (("EURUSD", "1.10000", "1.10010"), ("XAUUSD", "2650.00", "2650.30")):
            self.server.set_quote(symbol, bid, ask)
        self.gateway = PaperGateway(self.server, 1, clock=self.clock, without=without)
        self.settings = MasterSettings.model_validate({"account": "m", **settings})
        self.database = Database(MEMORY)
        self.stream: Stream = open_stream("memory://")
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self.database.open()
        await self.gateway.open()
        self.restart()
        await asyncio.sleep(1)

    def restart(self) -> None:
        for task in self.tasks:
            task.cancel()
        ledger = Ledger(self.database, self.clock, f"watcher {len(self.tasks)}")
        self.watcher = Watcher("m", self.gateway, self.stream, ledger, self.clock, self.settings)
        self.tasks.append(asyncio.create_task(self.watcher.run()))

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.stream.close()
        await self.database.close()

    async def events(self, *kinds: type[Event]) -> list[Any]:
        entries = await self.stream.read({"m": EntryId()}, block_ms=1, count=100_000)
        assert [entry.id for entry in entries] == sorted(entry.id for entry in entries)
        return [entry.event for entry in entries if isinstance(entry.event, kinds)]


def watch(tell: Callable[[Watch], Coroutine[Any, Any, None]], make: Callable[[], Watch] = Watch) -> None:
    async def run() -> None:
        w = make()
        await w.start()
        try:
            await tell(w)
        finally:
            await w.stop()

    run_virtual(run())


CHANGES = (Opened, Reduced, Modified, Closed)
POLLED = frozenset({"wakes"})


@pytest.mark.parametrize("without", [frozenset[str](), POLLED])
def test_every_change_is_published_once_and_in_order(without: frozenset[str]) -> None:
    async def tell(w: Watch) -> None:
        ticket = w.server.buy(1, "EURUSD", "1.00").position
        await asyncio.sleep(0.5)
        w.server.close(1, ticket, "0.40")
        await asyncio.sleep(0.5)
        w.server.set_levels(1, ticket, D("1.09"), D(0))
        await asyncio.sleep(0.5)
        w.server.close(1, ticket)
        await asyncio.sleep(0.5)
        assert [type(event) for event in await w.events(*CHANGES)] == [Opened, Reduced, Modified, Closed]

    watch(tell, lambda: Watch(without=without))


def test_an_open_carries_what_sizing_needs_and_since_when_it_can_be_there() -> None:
    async def tell(w: Watch) -> None:
        await asyncio.sleep(0.1)
        w.server.buy(1, "EURUSD", "1.00")
        await asyncio.sleep(0.5)
        (event,) = await w.events(Opened)
        assert event.spec.symbol == "EURUSD"
        assert (event.facts.balance, event.facts.currency) == (D("100000"), "USD")
        assert 0 < event.absent_ms <= EPOCH_MS + 1_100
        assert event.absent_ms <= event.read_ms <= event.published_ms

    watch(tell)


def test_a_close_carries_the_price_and_reason_of_its_deal() -> None:
    async def tell(w: Watch) -> None:
        w.server.buy(1, "EURUSD", "1.00", stop_loss=D("1.09000"))
        await asyncio.sleep(0.5)
        w.server.set_quote("EURUSD", "1.08950", "1.08960")
        await asyncio.sleep(0.5)
        (event,) = await w.events(Closed)
        assert event.reason is DealReason.STOP_LOSS
        assert event.price in (D("1.09000"), D("1.08950"))

    watch(tell)


def test_what_was_open_before_the_first_look_is_in_the_snapshot_and_no_news() -> None:
    async def tell(w: Watch) -> None:
        assert await w.events(*CHANGES) == []
        (first, *_) = await w.events(Snapshot)
        assert [position.symbol for position in first.positions] == ["EURUSD"]
        assert set(first.specs) == {"EURUSD"}

    def make() -> Watch:
        w = Watch()
        w.server.buy(1, "EURUSD", "1.00")
        return w

    watch(tell, make)


def test_snapshots_keep_coming_at_their_pace_and_never_show_a_doubtful_read() -> None:
    async def tell(w: Watch) -> None:
        w.server.buy(1, "EURUSD", "1.00")
        w.server.buy(1, "XAUUSD", "1.00")
        await asyncio.sleep(3)
        w.gateway.faults.always(Operation.POSITIONS, empty_list())
        before = len(await w.events(Snapshot))
        await asyncio.sleep(10)
        w.gateway.faults.clear()
        snapshots = await w.events(Snapshot)
        assert 4 <= len(snapshots) - before <= 6
        assert {len(snapshot.positions) for snapshot in snapshots[before:]} == {2}
        assert await w.events(Closed) == []

    watch(tell, lambda: Watch(without=frozenset({"deals"}), breaker={"count_min": 2, "share_max": 50}))


@pytest.mark.parametrize("fault", [failed_read(), disconnected()])
def test_a_read_that_fails_or_comes_from_memory_says_nothing(fault: Any) -> None:
    async def tell(w: Watch) -> None:
        ticket = w.server.buy(1, "EURUSD", "1.00").position
        await asyncio.sleep(1)
        w.gateway.faults.always(Operation.POSITIONS, fault)
        w.server.close(1, ticket)
        await asyncio.sleep(10)
        assert await w.events(Closed) == []
        assert w.watcher.error
        w.gateway.faults.clear()
        await asyncio.sleep(6)
        assert len(await w.events(Closed)) == 1
        assert w.watcher.error == ""

    watch(tell)


@pytest.mark.parametrize("reads", [2, 5])
def test_without_deals_a_position_is_gone_after_so_many_reads_and_not_before(reads: int) -> None:
    async def tell(w: Watch) -> None:
        w.server.buy(1, "EURUSD", "1.00")
        await asyncio.sleep(1)
        w.gateway.faults.next(Operation.POSITIONS, empty_list(), times=reads - 1)
        await asyncio.sleep(5)
        assert await w.events(Closed) == []
        w.gateway.faults.next(Operation.POSITIONS, empty_list(), times=reads)
        await asyncio.sleep(5)
        assert len(await w.events(Closed)) == 1

    watch(tell, lambda: Watch(without=frozenset({"deals", "wakes"}), confirm_reads=reads))


def test_what_was_wrongly_believed_gone_comes_back_as_the_next_generation() -> None:
    async def tell(w: Watch) -> None:
        ticket = w.server.buy(1, "EURUSD", "1.00").position
        await asyncio.sleep(1)
        w.gateway.faults.next(Operation.POSITIONS, empty_list(), times=2)
        await asyncio.sleep(5)
        assert [event.position.key for event in await w.events(Opened, Closed)] == [f"{ticket}.1", f"{ticket}.1", f"{ticket}.2"]

    watch(tell, lambda: Watch(without=frozenset({"deals", "wakes"})))


def test_a_view_survives_a_restart_and_the_next_epoch_begins_with_it() -> None:
    async def tell(w: Watch) -> None:
        first = w.server.buy(1, "EURUSD", "1.00").position
        second = w.server.buy(1, "XAUUSD", "1.00").position
        await asyncio.sleep(1)
        w.server.close(1, first, "0.30")
        await asyncio.sleep(1)
        w.tasks[-1].cancel()
        w.server.close(1, first, "0.20")
        w.server.close(1, second)
        w.restart()
        await asyncio.sleep(1)
        entries = await w.stream.read({"m": EntryId(1, 10**6)}, block_ms=1)
        assert entries[0].id == EntryId(2, 1)
        assert [type(entry.event) for entry in entries[:3]] == [Closed, Reduced, Snapshot]  # What changed meanwhile, then all.
        reduced, snapshot = entries[1].event, entries[2].event
        assert isinstance(snapshot, Snapshot)
        assert [p.lots for p in snapshot.positions] == [D("0.50")]
        assert isinstance(reduced, Reduced)
        assert (reduced.position.lots, reduced.position.lots_opened) == (D("0.50"), D("1.00"))

    watch(tell)


def test_what_was_told_and_not_kept_when_a_watcher_died_is_known_to_the_next() -> None:
    async def tell(w: Watch) -> None:
        ticket = w.server.buy(1, "EURUSD", "1.00").position
        await asyncio.sleep(1)

        async def dies(*_: object) -> None:
            await asyncio.Event().wait()

        w.watcher._ledger.save_view = dies  # type: ignore[method-assign]
        w.server.close(1, ticket, "0.40")
        await asyncio.sleep(1)
        w.server.buy(1, "EURUSD", "0.40")
        w.restart()
        await asyncio.sleep(1)
        grown = (await w.events(ScaledIn))[-1]
        assert (grown.position.lots, grown.position.lots_opened) == (D("1.00"), D("1.40"))

    watch(tell, lambda: Watch(mode=MarginMode.NETTING))


def test_what_could_not_be_kept_is_kept_with_the_next_read() -> None:
    async def tell(w: Watch) -> None:
        ledger = w.watcher._ledger
        save = ledger.save_view

        async def full(*_: object) -> None:
            ledger.save_view = save  # type: ignore[method-assign]
            raise StoreError("disk full")

        ledger.save_view = full  # type: ignore[method-assign]
        w.server.buy(1, "EURUSD", "1.00")
        await asyncio.sleep(3)
        kept = await ledger.load_view("m")
        assert kept is not None
        assert len(kept.open) == 1

    watch(tell)


def test_what_cannot_be_published_is_published_later_and_too_much_gives_way_to_a_snapshot() -> None:
    async def tell(w: Watch) -> None:
        client: Any = w.stream._client
        server = client.connection_pool.connection_kwargs["server"]
        ticket = w.server.buy(1, "EURUSD", "1.00").position
        await asyncio.sleep(1)
        server.connected = False
        w.server.close(1, ticket, "0.40")
        await asyncio.sleep(8)
        assert w.watcher.error
        server.connected = True
        await asyncio.sleep(6)
        assert w.watcher.error == ""
        assert [event.position.lots for event in await w.events(Reduced)] == [D("0.60")]
        put: Any = w.watcher._put
        for _ in range(OUTBOX_MAX + 1):
            put(w.watcher._snapshot())
        assert len(w.watcher._outbox) <= 2
        entry, event = w.watcher._outbox[0]
        assert isinstance(event, Snapshot)
        assert entry > EntryId(1, 1)

    watch(tell)


def test_a_symbol_without_a_price_does_not_hold_up_the_news() -> None:
    async def tell(w: Watch) -> None:
        w.gateway.faults.always(Operation.QUOTE, failed_read())
        w.server.buy(1, "EURUSD", "1.00")
        await asyncio.sleep(1)
        (event,) = await w.events(Opened)
        assert event.spec is None
        w.gateway.faults.clear()
        await asyncio.sleep(3)
        (*_, last) = await w.events(Snapshot)
        assert set(last.specs) == {"EURUSD"}

    watch(tell)


def test_the_closing_of_a_part_of_a_ticket_is_not_taken_for_the_closing_of_all_while_its_rest_is_not_listed_yet() -> None:
    async def tell(w: Watch) -> None:
        ticket = w.server.buy(1, "EURUSD", "1.00").position
        await asyncio.sleep(1)
        w.gateway.faults.next(Operation.POSITIONS, empty_list())
        w.server.close(1, ticket, "0.40")
        await asyncio.sleep(2)
        assert [type(event) for event in await w.events(*CHANGES)] == [Opened, Reduced]

    watch(tell, lambda: Watch(mode=MarginMode.MT4, without=frozenset({"wakes"})))
