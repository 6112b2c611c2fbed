"""Watcher and worker killed, frozen, doubled and restarted anywhere: all is on target afterwards, and nothing was done twice."""

import asyncio
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from copier.errors import Fenced
from copier.gateways.paper import PaperGateway
from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_faults import Operation, answer_lost, delay, never_answered, wrong_account
from copier.ledger import Ledger
from copier.link import LegState
from copier.model import Account, DealEntry, MarginMode, Side, Verdict
from tests.killing import Process, run_mortal
from tests.world import D, World, one, story

MODES = list(MarginMode)
each_follower = pytest.mark.parametrize("mode", MODES)
RESEND = {"copy": {"unknown": "resend"}}


class MortalWorld(World):
    """A world whose watcher and worker are processes of their own, each with its own way to its accounts."""

    def __init__(self, *args: Any, latency_s: float = 0.02, **more: Any) -> None:
        super().__init__(*args, **more)
        self.latency_s = latency_s
        self.processes: list[Process] = []
        self.watching = self.working = Process()
        self.kill_worker_at: int | None = None
        self.kill_watcher_at: int | None = None

    def start_watcher(self) -> None:
        self.master.gateway = self._way(self.master.gateway)
        self.watching, self.kill_watcher_at = self._process(self.kill_watcher_at), None
        self.watching.run(super().start_watcher)

    def start_worker(self) -> None:
        for account in self.accounts.values():
            account.gateway = self._way(account.gateway)
        self.working, self.kill_worker_at = self._process(self.kill_worker_at), None
        self.working.run(super().start_worker)

    def restart_worker(self) -> None:
        self.working.stop()
        self.start_worker()

    def restart_watcher(self) -> None:
        self.watching.stop()
        self.start_watcher()

    async def stop(self) -> None:
        for process in self.processes:
            process.resume()
        await super().stop()

    def _way(self, old: PaperGateway) -> PaperGateway:
        return PaperGateway(old.server, old.login, clock=self.clock, faults=old.faults, latency_s=self.latency_s)

    def _process(self, kill_at: int | None) -> Process:
        self.processes.append(Process(kill_at))
        return self.processes[-1]

    async def settle(self, seconds: float = 3.0) -> None:
        for _ in range(round(seconds * 2)):
            await asyncio.sleep(0.5)
            for symbol, (bid, ask) in self._quotes.items():
                self.quote(symbol, bid, ask)

    def bought(self, name: str = "f") -> dict[str, Decimal]:
        """Return the lots that were ever opened at a follower by our tag, as its server booked them."""
        account = self.accounts[name]
        lots: dict[str, Decimal] = {}
        if account.account.mt4:
            for position in (*account.account.positions.values(), *(c.position for c in account.account.closed_tickets)):
                origin = str(position.identifier)
                lots[origin] = lots.get(origin, D(0)) + position.lots
            return lots
        for deal in account.account.deals:
            if deal.entry is DealEntry.IN and deal.tag:
                lots[deal.tag] = lots.get(deal.tag, D(0)) + deal.lots
        return lots


def mortal(world: Callable[[], MortalWorld], tell: Callable[[MortalWorld], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        w = world()
        await w.start()
        try:
            await tell(w)
        finally:
            await w.stop()

    run_mortal(run())


def to(mode: MarginMode, policy: dict[str, Any] | None = None, **more: Any) -> Callable[[], MortalWorld]:
    return lambda: MortalWorld(MarginMode.HEDGING, one(mode, policy), **more)


# Killed between any two steps -------------------------------------------------------------------------------------------------


async def trading_day(world: MortalWorld) -> None:
    """A master's life in which everything happens once, with a restart two seconds after whoever was killed."""

    async def pass_time() -> None:
        await world.settle(1)
        if not world.working.alive:
            await world.settle(1)
            world.start_worker()
        if not world.watching.alive:
            await world.settle(1)
            world.start_watcher()
            await world.settle(1)

    await pass_time()
    long = world.buy("EURUSD", "1.00", stop_loss=D("1.09"))
    await pass_time()
    short = world.sell("EURUSD", "0.40")
    gold = world.buy("XAUUSD", "0.50")
    await pass_time()
    world.close(long, "0.30")
    world.master.server.set_levels(1, gold, D("2600"), D("2700"))
    await pass_time()
    world.close(short)
    world.close(gold, "0.20")
    await pass_time()
    world.close(long, "0.20")
    world.sell("XAUUSD", "0.10")
    await pass_time()


def held(world: MortalWorld) -> tuple[Decimal, Decimal]:
    return world.accounts["f"].net("EURUSD"), world.accounts["f"].net("XAUUSD")


async def a_killed_day(world: MortalWorld) -> None:
    await trading_day(world)
    await world.settle(40)
    assert held(world) == (D("0.50"), D("0.20")) == (world.master.net("EURUSD"), world.master.net("XAUUSD"))
    assert sum(world.bought().values()) <= D("2.00")
    assert world.follower().error == ""
    assert world.watcher.error == ""
    for link in world.follower().links.values():
        assert link.cut is None
        assert not [leg for leg in link.legs if leg.state in (LegState.SENDING, LegState.UNKNOWN)]
    for position in world.master.positions:
        world.close(position.ticket)
    await world.settle(5)
    assert world.accounts["f"].positions == ()


def steps_of(mode: MarginMode, role: str) -> int:
    """Return how many steps a role takes on that day if nobody kills it."""
    taken = []

    async def tell(world: MortalWorld) -> None:
        await trading_day(world)
        taken.append((world.working if role == "worker" else world.watching).steps)

    mortal(to(mode, RESEND), tell)
    return taken[0]


def killed(mode: MarginMode, role: str, kill_at: int) -> Callable[[], MortalWorld]:
    def make() -> MortalWorld:
        world = to(mode, RESEND)()
        if role == "worker":
            world.kill_worker_at = kill_at
        else:
            world.kill_watcher_at = kill_at
        return world

    return make


# The default run takes every third: one of each role, of different models.
KILLS = [("worker", 1), ("worker", 0), ("worker", 2), ("watcher", 2), ("watcher", 0), ("watcher", 1)]


@pytest.mark.parametrize(("role", "mode"), [(role, MODES[index]) for role, index in KILLS])
def test_a_role_killed_anywhere_leaves_everything_on_target(mode: MarginMode, role: str) -> None:
    last = steps_of(mode, role)
    assert last > 40
    for kill_at in range(5, last, last // 9):
        mortal(killed(mode, role, kill_at), a_killed_day)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@each_follower
@pytest.mark.parametrize("role", ["worker", "watcher"])
def test_a_role_killed_at_every_step_leaves_everything_on_target(mode: MarginMode, role: str) -> None:
    for kill_at in range(1, steps_of(mode, role)):
        try:
            mortal(killed(mode, role, kill_at), a_killed_day)
        except BaseException as error:
            error.add_note(f"{role} killed at step {kill_at}")
            raise


# An order on its way while its worker dies ----------------------------------------------------------------------------------


@each_follower
@pytest.mark.parametrize("late_s", [0.0, 2.5, 7.0])
def test_an_open_on_its_way_when_the_worker_dies_is_found_by_the_next_and_not_sent_again(mode: MarginMode, late_s: float) -> None:
    async def tell(world: MortalWorld) -> None:
        world.accounts["f"].gateway.faults.next(Operation.EXECUTE, delay(execute_s=late_s, answer_s=2))
        ticket = world.buy("EURUSD", "1.00")
        await world.settle(1)
        world.restart_worker()
        await world.settle(45)
        assert world.net_is("EURUSD", "1.00")
        assert list(world.bought().values()) == [D("1.00")]
        assert Verdict.ADOPTED in [r.verdict for r in await world.receipts()]
        world.close(ticket)
        await world.settle(5)
        assert world.accounts["f"].positions == ()

    mortal(to(mode), tell)


def test_a_netting_copy_that_another_hand_closed_while_the_worker_was_away_is_known_to_be_closed_by_its_deals() -> None:
    async def tell(world: MortalWorld) -> None:
        world.buy("EURUSD", "1.00")
        await world.settle(5)
        world.accounts["f"].server.sell(1, "EURUSD", "1.00")
        world.restart_worker()
        await world.settle(5)
        assert "closed_by_client" in [r.code for r in await world.receipts()]

    mortal(to(MarginMode.NETTING), tell)


@each_follower
@pytest.mark.parametrize("what", ["reduce", "close"])
@pytest.mark.parametrize("late_s", [0.0, 2.5])
def test_a_cut_on_its_way_when_the_worker_dies_is_done_once(mode: MarginMode, what: str, late_s: float) -> None:
    async def tell(world: MortalWorld) -> None:
        ticket, other = world.buy("EURUSD", "1.00"), world.buy("EURUSD", "0.30")
        await world.settle()
        world.accounts["f"].gateway.faults.next(Operation.CLOSE, delay(execute_s=late_s, answer_s=2))
        world.close(ticket, "0.40" if what == "reduce" else None)
        await world.settle(1)
        world.restart_worker()
        await world.settle(45)
        assert world.net_is("EURUSD", "0.90" if what == "reduce" else "0.30")
        for position in world.master.positions:
            world.close(position.ticket)
        await world.settle(5)
        assert world.accounts["f"].positions == ()
        del other

    mortal(to(mode), tell)


@each_follower
def test_an_open_that_never_left_is_not_sent_by_the_next_worker_either(mode: MarginMode) -> None:
    async def tell(world: MortalWorld) -> None:
        world.accounts["f"].gateway.faults.next(Operation.EXECUTE, never_answered(executed=False))
        world.buy("EURUSD", "1.00")
        await world.settle(1)
        for _ in range(3):
            world.restart_worker()
            await world.settle(20)
        assert world.bought() == {}
        alerts = [r.code for r in await world.receipts() if r.verdict is Verdict.ALERT]
        assert alerts == ["order_lost"]

    mortal(to(mode), tell)


@each_follower
def test_a_worker_that_dies_again_and_again_ends_on_target(mode: MarginMode) -> None:
    async def tell(world: MortalWorld) -> None:
        faults = world.accounts["f"].gateway.faults
        faults.next(Operation.EXECUTE, answer_lost(execute_s=0.3), delay(answer_s=3))
        tickets = [world.buy("EURUSD", "0.50"), world.sell("XAUUSD", "0.20")]
        for pause in (0.5, 1.0, 0.5, 2.0, 0.5):
            await world.settle(pause)
            world.restart_worker()
        await world.settle(45)
        assert (world.net_is("EURUSD", "0.50"), world.net_is("XAUUSD", "-0.20")) == (True, True)
        assert sum(world.bought().values()) == D("0.70")
        for ticket in tickets:
            world.close(ticket)
        for pause in (0.5, 0.5, 1.0):
            await world.settle(pause)
            world.restart_worker()
        await world.settle(45)
        assert world.accounts["f"].positions == ()

    mortal(to(mode), tell)


# Two of a kind ---------------------------------------------------------------------------------------------------------------


async def ended(task: "asyncio.Task[None]") -> BaseException | None:
    await asyncio.wait([task], timeout=10)
    assert task.done()
    error = task.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@each_follower
@pytest.mark.parametrize("step", [1, 3, 6, 9, 14])
def test_a_frozen_worker_that_wakes_after_its_successor_began_does_nothing_and_leaves(mode: MarginMode, step: int) -> None:
    async def tell(world: MortalWorld) -> None:
        first = world.buy("EURUSD", "1.00")
        await world.settle()
        zombie, old = world.working, world.worker_task
        world.close(first, "0.40")
        second = world.buy("XAUUSD", "0.50")
        zombie.stop_in(step)
        await world.settle(2)
        assert not zombie.alive
        world.start_worker()
        await world.settle(2)
        zombie.resume()
        third = world.buy("EURUSD", "0.10")
        await world.settle(45)
        assert isinstance(await ended(old), Fenced)
        assert (world.accounts["f"].net("EURUSD"), world.accounts["f"].net("XAUUSD")) == (D("0.70"), D("0.50"))
        assert sum(world.bought().values()) == D("1.60")
        for ticket in (first, second, third):
            world.close(ticket)
        await world.settle(10)
        assert world.accounts["f"].positions == ()

    mortal(to(mode, RESEND), tell)


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_a_frozen_watcher_that_wakes_after_its_successor_began_publishes_nothing_and_leaves(steps: int) -> None:
    async def tell(world: MortalWorld) -> None:
        first, second = world.buy("EURUSD", "1.00"), world.buy("XAUUSD", "1.00")
        await world.settle()
        zombie, old = world.watching, world.watcher_task
        world.close(first)
        zombie.stop_in(steps)
        await world.settle(2)
        world.start_watcher()
        await world.settle(2)
        world.buy("EURUSD", "0.30")
        await world.settle(2)
        zombie.resume()
        await world.settle(5)
        assert isinstance(await ended(old), Fenced)
        world.close(second)
        await world.settle(5)
        assert [p.lots for p in world.accounts["f"].positions] == [D("0.30")]

    mortal(to(MarginMode.HEDGING), tell)


def test_a_second_watcher_of_a_master_ends_the_first() -> None:
    async def tell(world: MortalWorld) -> None:
        old = world.watcher_task
        world.start_watcher()
        await world.settle(5)
        assert isinstance(await ended(old), Fenced)
        world.buy("EURUSD", "1.00")
        await world.settle()
        assert sum(world.bought().values()) == D("1.00")

    mortal(to(MarginMode.HEDGING), tell)


def test_a_second_worker_of_a_follower_ends_the_first() -> None:
    async def tell(world: MortalWorld) -> None:
        old = world.worker_task
        world.start_worker()
        await world.settle(1)
        world.buy("EURUSD", "1.00")
        await world.settle(5)
        assert isinstance(await ended(old), Fenced)
        assert sum(world.bought().values()) == D("1.00")

    mortal(to(MarginMode.HEDGING), tell)


# Redis loses what it carried -------------------------------------------------------------------------------------------------


def redis(world: World) -> Any:
    """Return the client behind the stream: what an operator at the console has."""
    return world.stream._client


@each_follower
def test_a_wiped_redis_loses_no_trade_and_doubles_none(mode: MarginMode) -> None:
    async def tell(world: MortalWorld) -> None:
        first = world.buy("EURUSD", "1.00")
        await world.settle()
        for lots in ("0.10", "0.20"):
            world.close(first, "0.20")
            world.buy("XAUUSD", lots)
            await asyncio.sleep(0.03)
            await redis(world).flushall()
            await world.settle(4)
        assert world.accounts["f"].net("EURUSD") == D("0.60")
        assert world.accounts["f"].net("XAUUSD") == D("0.30")
        await redis(world).flushall()
        for position in world.master.positions:
            world.close(position.ticket)
        await world.settle(5)
        assert world.accounts["f"].positions == ()
        assert sum(world.bought().values()) == D("1.30")

    mortal(to(mode), tell)


@each_follower
def test_a_redis_wiped_while_the_worker_is_down_loses_nothing(mode: MarginMode) -> None:
    async def tell(world: MortalWorld) -> None:
        first, second = world.buy("EURUSD", "1.00"), world.buy("XAUUSD", "1.00")
        await world.settle()
        world.working.stop()
        world.close(first, "0.50")
        world.close(second)
        world.buy("XAUUSD", "0.30")
        await world.settle(2)
        await redis(world).flushall()
        await world.settle(1)
        world.start_worker()
        await world.settle(10)
        assert (world.accounts["f"].net("EURUSD"), world.accounts["f"].net("XAUUSD")) == (D("0.50"), D("0.30"))

    mortal(to(mode), tell)


def test_everything_restarted_over_a_wiped_redis_goes_on_where_it_was() -> None:
    async def tell(world: MortalWorld) -> None:
        first = world.buy("EURUSD", "1.00")
        await world.settle()
        world.working.stop()
        world.watching.stop()
        await redis(world).flushall()
        world.close(first, "0.50")
        world.buy("XAUUSD", "0.30")
        world.start_worker()
        await world.settle(2)
        world.start_watcher()
        await world.settle(5)
        assert (world.accounts["f"].net("EURUSD"), world.accounts["f"].net("XAUUSD")) == (D("0.50"), D("0.30"))

    mortal(to(MarginMode.HEDGING), tell)


@pytest.mark.parametrize("restart", [False, True])
def test_a_close_and_an_open_trimmed_from_the_stream_are_caught_up_by_the_next_snapshot(restart: bool) -> None:  # noqa: FBT001
    async def tell(world: MortalWorld) -> None:
        first = world.buy("EURUSD", "1.00")
        await world.settle()
        world.working.stop()
        world.close(first)
        world.buy("XAUUSD", "0.30")
        await world.settle(1)
        await redis(world).xtrim("copier:events:m", maxlen=0)
        if restart:
            world.start_worker()
        else:
            world.working.resume()
        await world.settle(5)
        assert (world.accounts["f"].net("EURUSD"), world.accounts["f"].net("XAUUSD")) == (D(0), D("0.30"))
        assert "master_closed_unseen" in [r.code for r in await world.receipts()]

    mortal(to(MarginMode.HEDGING), tell)


def test_while_redis_is_down_nothing_is_guessed_and_afterwards_all_is_caught_up() -> None:
    async def tell(world: MortalWorld) -> None:
        first, _ = world.buy("EURUSD", "1.00"), world.buy("XAUUSD", "1.00")
        await world.settle()
        server = redis(world).connection_pool.connection_kwargs["server"]
        server.connected = False
        world.close(first)
        world.sell("XAUUSD", "0.30")
        await world.settle(10)
        assert len(world.accounts["f"].positions) == 2
        assert world.watcher.error
        assert world.worker.error
        server.connected = True
        await world.settle(10)
        assert (world.accounts["f"].net("EURUSD"), world.accounts["f"].net("XAUUSD")) == (D(0), D("0.70"))
        assert (world.watcher.error, world.worker.error) == ("", "")

    mortal(to(MarginMode.HEDGING), tell)


# What happens while nobody watches --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("master", MODES)
def test_what_the_master_did_while_nobody_watched_is_followed(master: MarginMode) -> None:
    async def tell(world: MortalWorld) -> None:
        first, second = world.buy("EURUSD", "1.00"), world.buy("XAUUSD", "1.00")
        await world.settle()
        world.watching.stop()
        world.close(first, "0.40")
        world.close(second)
        world.sell("XAUUSD", "0.30")
        await world.settle(20)
        assert len(world.accounts["f"].positions) == 2
        world.start_watcher()
        await world.settle(5)
        assert (world.accounts["f"].net("EURUSD"), world.accounts["f"].net("XAUUSD")) == (D("0.60"), D("-0.30"))

    mortal(lambda: MortalWorld(master, one(MarginMode.HEDGING)), tell)


def test_a_netting_master_that_reversed_while_nobody_watched_is_followed() -> None:
    async def tell(world: MortalWorld) -> None:
        world.buy("EURUSD", "1.00")
        await world.settle()
        world.watching.stop()
        world.sell("EURUSD", "1.60")
        await world.settle(5)
        world.start_watcher()
        await world.settle(5)
        (copy,) = world.accounts["f"].positions
        assert (copy.type, copy.lots) == (Side.SELL, D("0.60"))

    mortal(lambda: MortalWorld(MarginMode.NETTING, one(MarginMode.HEDGING)), tell)


def test_an_open_found_long_after_it_was_made_is_too_old_to_copy() -> None:
    async def tell(world: MortalWorld) -> None:
        world.watching.stop()
        world.buy("EURUSD", "1.00")
        await world.settle(100)
        world.start_watcher()
        await world.settle(5)
        assert world.accounts["f"].positions == ()
        assert [r.code for r in await world.receipts()] == ["open_too_old"]

    mortal(to(MarginMode.HEDGING), tell)


def test_an_open_taken_over_by_a_new_worker_waits_until_the_masters_clock_is_known() -> None:
    async def tell(world: MortalWorld) -> None:
        await world.ledger.set_control("f", "frozen", "a person")
        await world.worker.look_at_controls()
        world.watching.stop()
        world.buy("EURUSD", "1.00")
        world.start_watcher()
        await world.settle(2)
        world.watching.stop()
        await world.settle(1)
        world.restart_worker()
        await world.settle(1)
        await world.ledger.set_control("f", "live", "a person")
        await world.worker.look_at_controls()
        await world.settle(5)
        assert world.bought() == {}
        assert await world.receipts() == []
        world.start_watcher()
        await world.settle(5)
        assert list(world.bought().values()) == [D("1.00")]

    mortal(to(MarginMode.HEDGING), tell)


@pytest.mark.parametrize(("policy", "lots"), [("skip", D(0)), ("copy_all", D("1.00"))])
def test_a_position_from_before_the_relation_is_handled_by_policy_and_stays_so_over_restarts(policy: str, lots: Decimal) -> None:
    async def run() -> None:
        world = MortalWorld(MarginMode.HEDGING, one(MarginMode.HEDGING, {"copy": {"existing": policy}}))
        old = world.buy("EURUSD", "1.00")
        await world.start()
        try:
            for _ in range(3):
                await world.settle(5)
                assert world.accounts["f"].net("EURUSD") == lots
                world.restart_worker()
                world.restart_watcher()
            world.buy("XAUUSD", "0.20")
            await world.settle(5)
            assert world.accounts["f"].net("XAUUSD") == D("0.20")
            assert sum(world.bought().values()) == lots + D("0.20")
            world.close(old)
            await world.settle(5)
            assert world.accounts["f"].net("EURUSD") == 0
            assert len([r for r in await world.receipts() if r.code == "existing_skipped"]) == (0 if lots else 1)
        finally:
            await world.stop()

    run_mortal(run())


def test_a_new_position_is_not_taken_for_an_old_one_when_the_worker_restarts_before_its_account_could_be_reached() -> None:
    async def run() -> None:
        world = to(MarginMode.HEDGING)()
        world.accounts["f"].gateway.faults.offline = True
        await world.start()
        try:
            world.buy("EURUSD", "1.00")
            await world.settle(2)
            world.restart_worker()
            await world.settle(2)
            world.accounts["f"].gateway.faults.offline = False
            await world.settle(20)
            assert world.accounts["f"].net("EURUSD") == D("1.00")
        finally:
            await world.stop()

    run_mortal(run())


def test_a_follower_that_moves_to_another_worker_takes_its_links_along() -> None:
    async def tell(world: MortalWorld) -> None:
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        world.working.stop()
        world.close(ticket, "0.40")
        await world.settle(1)
        world.start_worker()
        world.ledger.owner = "another worker"
        await world.settle(5)
        assert world.net_is("EURUSD", "0.60")
        rest = Ledger(world.database, world.clock, "reader")
        assert [link.lots for link in await rest.links()] == [D("0.60")]

    mortal(to(MarginMode.HEDGING), tell)


# A server's clock that is not known yet -------------------------------------------------------------------------------------


class Undated(PaperGateway):
    """A terminal that cannot tell its server's clock from UTC before a price has moved."""

    known = True

    async def get_account(self) -> Account:
        account = await super().get_account()
        return account if self.known else msgspec.structs.replace(account, server_offset_s=None)


class UndatedWorld(World):
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.master.gateway = Undated(self.master.server, 1, clock=self.clock)


@pytest.mark.parametrize(("known_after_s", "lots"), [(5, "0.10"), (90, "0"), (None, "0")])
def test_an_open_found_at_a_start_waits_for_the_masters_clock_as_long_as_it_may_be_young(
    known_after_s: int | None, lots: str
) -> None:
    async def tell(w: World) -> None:
        await w.settle()
        w.watcher_task.cancel()
        await asyncio.gather(w.watcher_task, return_exceptions=True)
        w._tasks.remove(w.watcher_task)
        Undated.known = False
        w.buy("EURUSD", "0.10")
        w.start_watcher()
        await w.settle(known_after_s or 90)
        assert w.net_is("EURUSD", "0")
        Undated.known = known_after_s is not None
        await w.settle(65)
        assert w.net_is("EURUSD", lots)
        if lots == "0":
            assert [receipt.code for receipt in await w.receipts()] == ["open_too_old"]

    try:
        story(lambda: UndatedWorld(MarginMode.HEDGING, one(MarginMode.HEDGING)), tell)
    finally:
        Undated.known = True


def test_accounts_are_known_again_after_a_restart_and_others_are_not_taken_for_them() -> None:
    """Someone logs both terminals in to other accounts while the engine is down."""

    async def tell(world: World) -> None:
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        for task in (world.watcher_task, world.worker_task):
            task.cancel()
        await world.settle(1)
        for account in (world.master, world.accounts["f"]):
            account.server.add_account(PaperAccount(2, balance=D(100_000)))
            for operation in Operation:
                account.faults.always(operation, wrong_account(2))
        world.start_watcher()
        world.start_worker()
        await world.settle(20)
        assert "when last watched" in world.watcher.error
        assert "when last followed" in world.follower().error
        assert world.link().lots == D("1.00")
        for account in (world.master, world.accounts["f"]):
            account.faults.clear()
        await world.settle(10)
        assert (world.watcher.error, world.follower().error) == ("", "")
        world.close(ticket)
        await world.settle()
        assert world.accounts["f"].positions == ()

    story(lambda: World(MarginMode.HEDGING, one(MarginMode.HEDGING)), tell)
