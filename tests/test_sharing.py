"""Several workers share the followers by leases: who holds what, how long a takeover takes, and what a zombie can do."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copier.clock import Clock
from copier.database import MEMORY, Database
from copier.errors import Fenced, Reason, Rejected, StoreError
from copier.gateways.paper import PaperGateway
from copier.leases import Leases, Term
from copier.ledger import Ledger
from copier.model import DealEntry, MarginMode, Permit, Side, TradeRequest
from copier.orders import ORDER_LIFE_MS
from copier.sharing import STRANGER_S, Sharing, shares
from copier.worker import Worker
from tests.killing import Process, run_mortal
from tests.world import D, World

LEASE_S = 10.0

# Shares ----------------------------------------------------------------------------------------------------------------

names = st.sets(st.text("abcdefgh", min_size=1, max_size=4), max_size=30)
crews = st.dictionaries(st.text("wxyz", min_size=1, max_size=3), st.sets(st.text("abcdefgh", min_size=1, max_size=4), max_size=3))


@given(names, crews)
def test_everyone_has_a_worker_that_may_have_it_and_nobody_has_more_than_a_fair_part(
    followers: set[str], workers: dict[str, set[str]]
) -> None:
    found = shares(followers, workers)
    unpinned = [name for name, only in workers.items() if not only]
    pinned = {follower for follower in followers if any(follower in only for only in workers.values())}
    assert found.keys() == (followers if unpinned else pinned)
    for follower, worker in found.items():
        assert (follower in workers[worker]) if follower in pinned else not workers[worker]
    counts = Counter(worker for follower, worker in found.items() if follower not in pinned)
    assert all(count <= -(-len(followers - pinned) // len(unpinned)) for count in counts.values())
    assert shares(sorted(followers, reverse=True), dict(reversed(workers.items()))) == found


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_worker_that_leaves_moves_few_followers_of_the_others_and_gets_the_same_ones_back(count: int) -> None:
    followers = [f"f{number}" for number in range(300)]
    workers = {f"w{number}": () for number in range(count)}
    before = shares(followers, workers)
    gone = {name: only for name, only in workers.items() if name != "w0"}
    after = shares(followers, gone)
    moved = [f for f in followers if before[f] not in ("w0", after[f])]
    assert len(moved) <= 0.15 * len(followers)
    assert shares(followers, workers) == before


# Workers ---------------------------------------------------------------------------------------------------------------


class Crew:
    """A world whose followers are shared by processes that can be killed and frozen."""

    def __init__(self, followers: int, *, mode: MarginMode = MarginMode.HEDGING) -> None:
        self.names = [f"f{number}" for number in range(followers)]
        self.world = World(MarginMode.HEDGING, {name: (mode, {"copy": {"stops": "copy"}}) for name in self.names})
        self.world.database = Database(MEMORY)
        self.workers: dict[str, Worker] = {}
        self.sharings: dict[str, Sharing] = {}
        self.gateways: dict[str, dict[str, PaperGateway]] = {}
        self.processes: dict[str, Process] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._all: list[Process] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self.world.database.open()
        self.world.start_watcher()
        await self.world.settle(1)

    def hire(self, name: str, *, only: tuple[str, ...] = (), clock: Clock | None = None) -> None:
        """Start a worker as a process of its own."""
        world = self.world
        process = self.processes[name] = Process()
        self._all.append(process)
        clock = clock or world.clock

        def begin() -> None:
            gateways = {f: PaperGateway(each.server, 1, clock=world.clock) for f, each in world.accounts.items()}
            ledger, term = Ledger(world.database, clock, f"worker:{name}@host:{len(self._all)}"), Term()
            worker = Worker(name, world.settings, gateways, world.stream, ledger, clock, term=term)
            together = {follower: follower for follower in self.names}
            sharing = Sharing(name, worker, ledger.leases, clock, together, term, lease_s=LEASE_S, only=only)
            self.workers[name], self.sharings[name], self.gateways[name] = worker, sharing, gateways

            async def work() -> None:
                async with worker.working():
                    await sharing.run()

            self.tasks[name] = asyncio.create_task(work(), name=f"process {name}")
            self._tasks.append(self.tasks[name])

        process.run(begin)

    def kill(self, name: str) -> None:
        """Take no further step in it, and let nothing of it reach a broker either."""
        self.processes[name].stop()

    async def leave(self, name: str) -> None:
        """Ask it to end, as SIGTERM does."""
        self.tasks[name].cancel()
        await asyncio.gather(self.tasks[name], return_exceptions=True)

    async def holders(self) -> dict[str, str]:
        sight = await Leases(self.world.database, "nobody").look()
        return {name: seat.name for name in self.names if (seat := sight.holder(name)) is not None}

    def serving(self, name: str) -> set[str]:
        return set(self.workers[name].followers)

    def held(self, name: str) -> list[Any]:
        return sorted((p.symbol, p.type, p.lots) for p in self.world.accounts[name].positions)

    def wrong(self) -> list[str]:
        """Judge by the brokers alone: every follower holds what the master holds, opened once each."""
        wanted = sorted((p.symbol, p.type, p.lots) for p in self.world.master.positions)
        found = [f"{name} holds {self.held(name)}" for name in self.names if self.held(name) != wanted]
        opened = sum(deal.entry is DealEntry.IN and bool(deal.symbol) for deal in self.world.master.account.deals)
        for name in self.names:
            tags = Counter(d.tag for d in self.world.accounts[name].account.deals if d.entry is DealEntry.IN and d.symbol)
            if sum(tags.values()) > opened or max(tags.values(), default=0) > 1:
                found.append(f"{name} opened {sum(tags.values())} times, the master {opened}")
        return found

    async def burst(self, seconds: float) -> None:
        """Trade the master: twenty opens a second, of which every third closes another."""
        tickets: list[int] = []
        for number in range(round(seconds * 20)):
            tickets.append(self.world.buy("EURUSD" if number % 2 else "XAUUSD", f"0.{number % 80 + 10}"))
            if number % 3 == 2:
                self.world.close(tickets.pop(number % len(tickets)))
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        for process in self._all:
            process.resume()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.world.stop()


def crew(followers: int, tell: Callable[[Crew], Coroutine[Any, Any, None]], **more: Any) -> None:
    async def run() -> None:
        c = Crew(followers, **more)
        await c.start()
        try:
            await tell(c)
        finally:
            await c.stop()

    run_mortal(run())


def test_one_worker_has_all_and_a_second_one_gets_half_of_them_in_a_burst_with_nothing_doubled_or_lost() -> None:
    async def tell(c: Crew) -> None:
        c.hire("a")
        await c.world.settle(2)
        assert c.serving("a") == set(c.names)
        trading = asyncio.create_task(c.burst(6))
        await asyncio.sleep(1)
        c.hire("b")
        await trading
        await c.world.settle(15)
        assert [len(c.serving(name)) for name in "ab"] == [6, 6]
        assert c.serving("a").isdisjoint(c.serving("b"))
        assert c.wrong() == []

    crew(12, tell)


def test_what_could_not_be_given_up_at_the_first_try_is_given_up_at_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async def tell(c: Crew) -> None:
        c.hire("a")
        await c.world.settle(2)
        leases = c.sharings["a"]._leases
        release, failures = leases.release, [3]

        async def fails_first(names: Any) -> None:
            if failures[0]:
                failures[0] -= 1
                raise StoreError("the server closed the connection")
            await release(names)

        monkeypatch.setattr(leases, "release", fails_first)
        c.hire("b")
        await c.world.settle(15)
        assert failures == [0]
        assert [len(c.serving(name)) for name in "ab"] == [3, 3]
        c.world.buy("EURUSD", "0.20")
        await c.world.settle(2)
        assert c.wrong() == []

    crew(6, tell)


def test_a_worker_that_leaves_hands_its_followers_over_at_once() -> None:
    async def tell(c: Crew) -> None:
        c.hire("a")
        c.hire("b")
        await c.world.settle(10)
        c.world.buy("EURUSD", "0.10")
        await c.world.settle(1)
        await c.leave("a")
        await c.world.settle(LEASE_S / 3 + 2)
        assert c.serving("b") == set(c.names)
        c.world.buy("EURUSD", "0.20")
        await c.world.settle(2)
        assert c.wrong() == []

    crew(6, tell)


def test_what_a_dead_worker_had_is_taken_over_within_a_lease_and_a_fifth_and_brought_to_target() -> None:
    async def tell(c: Crew) -> None:
        c.hire("a")
        c.hire("b")
        await c.world.settle(10)
        trading = asyncio.create_task(c.burst(6))
        await asyncio.sleep(2)
        c.kill("a")
        died = asyncio.get_running_loop().time()
        while c.serving("b") != set(c.names):
            await c.world.settle(0.5)
        took = asyncio.get_running_loop().time() - died
        assert took <= LEASE_S * 1.2 + 0.5
        await trading
        await c.world.settle(ORDER_LIFE_MS / 1000 + 40)
        assert c.wrong() == []

    crew(8, tell)


def test_a_worker_that_comes_back_under_its_name_has_its_own_followers_again_at_once() -> None:
    async def tell(c: Crew) -> None:
        c.hire("a")
        c.hire("b")
        await c.world.settle(10)
        own = c.serving("a")
        c.kill("a")
        await c.world.settle(2)
        c.hire("a")
        await c.world.settle(2)
        assert c.serving("a") == own
        c.kill("a")
        await c.world.settle(30)
        assert c.serving("b") == set(c.names)
        c.hire("a")
        await c.world.settle(15)
        assert c.serving("a") == own
        assert c.serving("b") == set(c.names) - own

    crew(9, tell)


@pytest.mark.parametrize("trading", ["quiet", "in a burst"])
def test_a_worker_frozen_past_its_lease_trades_nothing_when_it_wakes_drops_all_and_shares_anew(trading: str) -> None:
    async def tell(c: Crew) -> None:
        c.hire("a")
        c.hire("b")
        await c.world.settle(10)
        burst = asyncio.create_task(c.burst(4 if trading == "in a burst" else 0))
        await asyncio.sleep(1)
        c.processes["a"].stop()
        await c.world.settle(30)
        assert c.serving("b") == set(c.names)
        await burst
        tokens = {name: c.world.accounts[name].account.token_seen for name in c.names}
        c.world.buy("EURUSD", "0.33")
        c.processes["a"].resume()
        await c.world.settle(LEASE_S + 20)
        assert c.wrong() == []
        assert c.serving("a") | c.serving("b") == set(c.names)
        assert c.serving("a").isdisjoint(c.serving("b"))
        assert len(c.serving("a")) == 3
        assert all(c.world.accounts[name].account.token_seen >= token for name, token in tokens.items())

    crew(6, tell)


def test_an_order_of_a_zombie_is_refused_at_the_far_end_and_its_journal_writes_are_refused_too() -> None:
    async def tell(c: Crew) -> None:
        c.hire("a")
        await c.world.settle(3)
        ticket = c.world.buy("EURUSD", "0.10")
        await c.world.settle(2)
        zombie = c.workers["a"].followers["f0"]
        c.processes["a"].stop()
        c.hire("b")
        await c.world.settle(LEASE_S + 5)
        assert c.serving("b") == {"f0"}
        c.world.close(ticket)
        c.world.buy("EURUSD", "0.20")
        await c.world.settle(3)
        zombie.memory.keep_fact("limit:x", b"1")
        with pytest.raises(Fenced, match="another owner has taken over"):
            await zombie.memory.commit()
        with pytest.raises(StoreError, match="lease was not renewed"):
            await zombie.orders.set_levels(ticket, D("1.0"), D(0))
        late = Permit(token=zombie.token, not_after_ms=c.world.clock.now_ms() + 60_000)
        with pytest.raises(Rejected) as refused:
            await c.gateways["a"]["f0"].execute_trade(TradeRequest(symbol="EURUSD", action=Side.BUY, lots=D("0.10")), late)
        assert refused.value.reason is Reason.STALE_TOKEN
        assert c.wrong() == []

    crew(1, tell)


def test_a_worker_that_cannot_reach_the_ledger_sends_nothing_after_its_lease_and_goes_on_when_it_can() -> None:
    async def tell(c: Crew) -> None:
        c.hire("a")
        await c.world.settle(3)
        term = c.sharings["a"]._term
        assert 0.5 * LEASE_S < term.left_s <= 0.9 * LEASE_S
        connect = c.world.database.run

        async def down(work: Any) -> Any:
            raise StoreError("the ledger is away")

        c.world.database.run = down  # type: ignore[method-assign]
        await c.world.settle(LEASE_S)
        assert term.left_s < 0
        assert "away" in c.sharings["a"].error
        c.world.database.run = connect  # type: ignore[method-assign]
        c.world.buy("EURUSD", "0.10")
        await c.world.settle(LEASE_S)
        assert term.left_s > 0
        assert c.wrong() == []
        assert c.serving("a") == set(c.names)

    crew(2, tell)


def test_a_pinned_follower_stays_with_its_worker_and_the_others_take_it_only_when_that_dies() -> None:
    async def tell(c: Crew) -> None:
        c.hire("a")
        await c.world.settle(3)
        c.hire("b", only=("f1",))
        await c.world.settle(6)
        assert (c.serving("a"), c.serving("b")) == ({"f0", "f2"}, {"f1"})
        c.kill("b")
        await c.world.settle(LEASE_S + 5)
        assert c.serving("a") == {"f0", "f1", "f2"}

    crew(3, tell)


def test_what_a_person_took_over_is_left_alone_for_a_while_and_then_followed_again() -> None:
    async def tell(c: Crew) -> None:
        c.hire("a")
        await c.world.settle(3)
        await Ledger(c.world.database, c.world.clock, "doctor").take(["follower:f0"])
        c.world.buy("EURUSD", "0.10")
        await c.world.settle(LEASE_S)
        assert c.serving("a") == {"f1"}
        assert c.held("f0") == []
        await c.world.settle(STRANGER_S)
        assert c.serving("a") == {"f0", "f1"}

    crew(2, tell)


def test_a_second_worker_of_the_same_name_ends_the_first() -> None:
    async def tell(c: Crew) -> None:
        c.hire("a")
        await c.world.settle(3)
        first = c.tasks["a"]
        c.hire("a")
        await c.world.settle(LEASE_S)
        assert c.serving("a") == set(c.names)
        with pytest.raises(BaseExceptionGroup) as caught:
            await first
        assert caught.group_contains(Fenced)

    crew(2, tell)


def test_of_two_workers_of_one_name_the_newer_stays_whatever_the_older_notices_first() -> None:
    async def tell(c: Crew) -> None:
        c.hire("a")
        await c.world.settle(LEASE_S / 3 + LEASE_S / 20)  # It has just renewed, so the next thing it does is look at its share.
        first = c.tasks["a"]
        c.hire("a")
        await c.world.settle(3 * LEASE_S)
        assert first.done()
        assert not c.tasks["a"].done()
        assert c.serving("a") == set(c.names)
        assert set((await c.holders()).values()) == {"a"}

    crew(2, tell)


@pytest.mark.slow
def test_a_hundred_followers_lose_their_worker_in_a_burst_and_all_end_on_target() -> None:
    async def tell(c: Crew) -> None:
        c.hire("a")
        c.hire("b")
        await c.world.settle(60)
        assert [len(c.serving(name)) for name in "ab"] == [50, 50]
        trading = asyncio.create_task(c.burst(5))
        await asyncio.sleep(2)
        c.kill("b")
        await trading
        await c.world.settle(90)
        assert c.serving("a") == set(c.names)
        assert c.wrong() == []

    crew(100, tell)
