"""Followers come to a worker and leave it while the others go on."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest

from copier.clock import run_virtual
from copier.errors import Fenced, StoreError
from copier.gateways.paper import PaperGateway
from copier.ledger import Ledger
from copier.model import MarginMode, Receipt, Verdict
from copier.worker import Worker
from tests.world import D, World

NAMES = tuple(f"f{number}" for number in range(6))


class Crew:
    """A world whose followers are shared out by hand."""

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        self.world = World(MarginMode.HEDGING, {name: (MarginMode.HEDGING, {}) for name in names})
        self.workers: dict[str, Worker] = {}
        self._ledgers: dict[str, Ledger] = {}
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        await self.world.database.open()
        self.world.start_watcher()
        await self.world.settle(1)

    async def hire(self, name: str) -> Worker:
        """Start a worker that follows with nobody yet."""
        gateways = {f: PaperGateway(each.server, 1, clock=self.world.clock) for f, each in self.world.accounts.items()}
        ledger = self._ledgers[name] = Ledger(self.world.database, self.world.clock, name)
        worker = self.workers[name] = Worker(name, self.world.settings, gateways, self.world.stream, ledger, self.world.clock)
        await ledger.take([f"worker:{name}"])
        await self._stack.enter_async_context(worker.working())
        return worker

    async def give(self, worker: str, *names: str) -> None:
        tokens = await self._ledgers[worker].take([f"follower:{name}" for name in names])
        await self.workers[worker].add({role.partition(":")[2]: token for role, token in tokens.items()})

    async def part(self, worker: str, *names: str) -> None:
        await self.workers[worker].drop(names)
        await self._ledgers[worker].leases.release([f"follower:{name}" for name in names])

    def held(self, name: str) -> list[Any]:
        return sorted((p.symbol, p.type, p.lots) for p in self.world.accounts[name].positions)

    def mirrors(self, name: str) -> bool:
        return self.held(name) == sorted((p.symbol, p.type, p.lots) for p in self.world.master.positions)

    def openings(self, name: str) -> int:
        return sum(deal.entry.value == "in" and bool(deal.symbol) for deal in self.world.accounts[name].account.deals)

    async def receipts(self, name: str) -> list[Receipt]:
        return await Ledger(self.world.database, self.world.clock, "face").receipts(follower=name)

    async def stop(self) -> None:
        await self._stack.aclose()
        await self.world.stop()


def crew(tell: Callable[[Crew], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        c = Crew()
        await c.start()
        try:
            await tell(c)
        finally:
            await c.stop()

    run_virtual(run())


def test_a_follower_that_comes_later_copies_from_then_on_and_the_others_notice_nothing() -> None:
    async def tell(c: Crew) -> None:
        await c.hire("a")
        await c.give("a", "f0")
        await c.world.settle(2)
        c.world.buy("EURUSD", "0.10")
        await c.world.settle(2)
        await c.give("a", "f1")
        await c.world.settle(3)
        c.world.buy("EURUSD", "0.20")
        await c.world.settle(3)
        assert [lots for *_, lots in c.held("f0")] == [D("0.10"), D("0.20")]
        assert [lots for *_, lots in c.held("f1")] == [D("0.20")], "what was open before it came is not news"

    crew(tell)


def test_a_follower_given_up_trades_no_more_and_its_next_worker_reads_on_where_it_stopped() -> None:
    async def tell(c: Crew) -> None:
        await c.hire("a")
        await c.hire("b")
        await c.give("a", "f0", "f1")
        await c.world.settle(2)
        first = c.world.buy("EURUSD", "0.10")
        await c.world.settle(2)
        await c.part("a", "f1")
        assert set(c.workers["a"].followers) == {"f0"}
        c.world.buy("XAUUSD", "0.30")
        c.world.close(first)
        await c.world.settle(2)
        assert c.mirrors("f0")
        assert c.held("f1") == [("EURUSD", "buy", D("0.10"))]
        await c.give("b", "f1")
        await c.world.settle(3)
        assert c.held("f1") == c.held("f0")
        assert c.openings("f1") == 2

    crew(tell)


def test_followers_that_move_between_workers_in_a_burst_double_nothing_and_lose_nothing() -> None:
    async def tell(c: Crew) -> None:
        await c.hire("a")
        await c.give("a", *NAMES)
        await c.world.settle(2)
        tickets = []
        for number in range(40):
            tickets.append(c.world.buy("EURUSD", f"0.{number + 10}"))
            if number % 3 == 2:
                c.world.close(tickets.pop(0))
            if number == 10:
                await c.hire("b")
            if 10 <= number < 10 + len(NAMES):
                name = NAMES[number - 10]
                await c.part("a", name)
                await c.give("b", name)
            if number == 30:
                await c.part("b", *NAMES[:3])
                await c.give("a", *NAMES[:3])
            await asyncio.sleep(0.03)
        await c.world.settle(10)
        for name in NAMES:
            assert c.mirrors(name), name
            assert c.openings(name) == 40, name

    crew(tell)


def test_a_worker_without_followers_waits_for_some_and_may_lose_all_again() -> None:
    async def tell(c: Crew) -> None:
        await c.hire("a")
        await c.world.settle(3)
        await c.give("a", "f0")
        await c.part("a", "f0")
        await c.world.settle(3)
        await c.give("a", "f0")
        await c.world.settle(3)
        c.world.buy("EURUSD", "0.10")
        await c.world.settle(3)
        assert c.mirrors("f0")

    crew(tell)


def test_a_worker_knows_since_when_each_of_its_masters_is_silent_and_of_no_other() -> None:
    async def tell(c: Crew) -> None:
        worker = await c.hire("a")
        c.world.watcher_task.cancel()
        await c.give("a", "f0")
        await c.world.settle(5)
        assert worker.reading
        assert c.world.clock.now_ms() - worker.heard_ms["m"] >= 4_000
        await c.part("a", "f0")
        await c.world.settle(1)
        assert not worker.reading
        assert worker.heard_ms == {}

    crew(tell)


def test_a_follower_given_up_while_the_ledger_is_away_takes_nobody_along_and_is_whole_at_its_next_worker() -> None:
    async def tell(c: Crew) -> None:
        await c.hire("a")
        await c.give("a", "f0", "f1")
        await c.world.settle(2)
        first = c.world.buy("EURUSD", "0.10")
        await c.world.settle(2)
        run = c.world.database.run

        async def away(work: Any) -> Any:
            raise StoreError("the ledger is away")

        c.world.database.run = away  # type: ignore[method-assign]
        c.workers["a"].followers["f1"].memory.keep_fact("limit:x", b"1")
        await c.workers["a"].drop(["f1"])
        await c.world.settle(1)
        c.world.database.run = run  # type: ignore[method-assign]
        c.world.close(first)
        c.world.buy("XAUUSD", "0.20")
        await c.hire("b")
        await c.give("b", "f1")
        await c.world.settle(5)
        for name in ("f0", "f1"):
            assert c.mirrors(name), name
            assert c.openings(name) == 2

    crew(tell)


def test_an_order_whose_record_took_longer_than_the_order_may_live_is_not_sent_but_made_anew() -> None:
    async def tell(c: Crew) -> None:
        await c.hire("a")
        await c.give("a", "f0")
        await c.world.settle(2)
        ticket = c.world.buy("XAUUSD", "0.30")
        await c.world.settle(2)
        run = c.world.database.run

        async def slow(work: Any) -> Any:
            answer = await run(work)
            await asyncio.sleep(6)
            return answer

        c.world.database.run = slow  # type: ignore[method-assign]
        c.world.buy("EURUSD", "0.10")
        c.world.close(ticket)
        await c.world.settle(5)
        c.world.database.run = run  # type: ignore[method-assign]
        await c.world.settle(10)
        assert c.mirrors("f0")
        assert c.openings("f0") == 2
        refused = [r.code for r in await c.receipts("f0") if r.verdict in (Verdict.FAILED, Verdict.REFUSED)]
        assert refused == []

    crew(tell)


def test_a_follower_taken_by_another_owner_leaves_and_the_others_stay() -> None:
    async def tell(c: Crew) -> None:
        await c.hire("a")
        await c.hire("b")
        await c.give("a", "f0", "f1")
        await c.world.settle(2)
        await c.give("b", "f1")
        c.world.buy("EURUSD", "0.10")
        await c.world.settle(3)
        assert set(c.workers["a"].followers) == {"f0"}
        for name in ("f0", "f1"):
            assert c.mirrors(name)
            assert c.openings(name) == 1

    crew(tell)


def test_a_worker_that_runs_by_itself_ends_when_the_last_of_its_followers_is_taken() -> None:
    async def run() -> None:
        world = World(MarginMode.HEDGING, {"f": (MarginMode.HEDGING, {}), "g": (MarginMode.HEDGING, {})})
        await world.start()
        other = Ledger(world.database, world.clock, "other")
        await other.take(["follower:f"])
        world.buy("EURUSD", "0.10")
        await world.settle(2)
        assert set(world.worker.followers) == {"g"}
        await other.take(["follower:g"])
        world.buy("EURUSD", "0.10")
        with pytest.raises(ExceptionGroup) as caught:
            await world.settle(2)
        assert caught.group_contains(Fenced)
        await world.stop()

    run_virtual(run())
