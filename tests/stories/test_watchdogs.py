"""Watchdogs: each barks once, says the right cause, does what its setting says, and is quiet when nothing is wrong."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from copier.alert import Alert, Watchdog
from copier.app import App
from copier.clock import Clock, LoopClock, run_virtual
from copier.conditions import Condition, Inspection, drifted, naked, unanswered, unprotected
from copier.errors import Reason, SettingsError, StoreError
from copier.follower import Follower
from copier.gateways.paper_faults import Operation, failed_read, never_answered, refuse, stops_ignored
from copier.history import History
from copier.link import Link
from copier.model import MarginMode, Verdict
from copier.notify import Notifier
from copier.settings import NotifySettings, parse
from copier.settings_watchdogs import WatchdogSettings
from copier.stream import Stream
from copier.watchdog import AT_ONCE, Watchdogs
from tests.world import EPOCH_MS, D, World, one, story

each_model = pytest.mark.parametrize("mode", list(MarginMode))
STOP = D("1.09000")


class Kennel:
    """The watchdogs over a world, looking as the application lets them look, and all they ever said."""

    def __init__(self, world: World, settings: dict[str, Any] | None = None, watchers: tuple[str, ...] = ("m",)) -> None:
        self.world = world
        self.heard: list[Alert] = []
        self.inspections: dict[Follower, Inspection] = {}
        self.settings = WatchdogSettings.model_validate(settings or {})
        self.history = History(world.database)
        self.watchers = watchers
        self.begin()

    def begin(self) -> None:
        """Begin as a process that has just started does."""
        self.dogs = Watchdogs(
            self.settings,
            self.world.clock,
            self.history,
            watchers={"m": self.world.watcher} if self.watchers else {},
            watched={"m": "m"},
            worker=self.world.worker,
            tell=self.heard.append,
        )

    async def watch(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            await self.world.settle(1)
            await self.dogs.look()
            for follower in self.world.worker.followers.values():
                if hasattr(follower.standing, "account"):
                    doubtful = self.inspections.setdefault(follower, Inspection(follower)).doubtful()
                    assert wrong(follower, doubtful) == wrong(follower, list(follower.memory.living.values()))

    @property
    def raised(self) -> list[tuple[str, str]]:
        return [(alert.watchdog, alert.subject) for alert in self.heard if not alert.ended_ms]

    @property
    def ended(self) -> list[tuple[str, str]]:
        return [(alert.watchdog, alert.subject) for alert in self.heard if alert.ended_ms]

    @property
    def standing(self) -> list[Watchdog]:
        return [watchdog for watchdog, _ in self.dogs.standing]

    async def kept(self) -> list[Alert]:
        return await self.history.alerts(newest=100)


def wrong(follower: Follower, links: list[Link]) -> list[Condition]:
    """Return all that is wrong with these copies."""
    bare = [naked(each) for each in unprotected(follower, links)]
    return [*bare, *drifted(follower, links), *unanswered(follower, links)]


Tell = Callable[[World], Coroutine[Any, Any, None]]


def tell_of(mode: MarginMode, tell: Tell, policy: dict[str, Any] | None = None, **more: Any) -> None:
    story(lambda: World(MarginMode.HEDGING, one(mode, policy), **more), tell)


@each_model
def test_a_quiet_run_raises_nothing(mode: MarginMode) -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world)
        await kennel.watch(5)
        for round_ in range(6):
            ticket = world.buy("EURUSD", "1.00", stop_loss=STOP)
            other = world.sell("XAUUSD", "0.50")
            await kennel.watch(20)
            world.close(ticket, "0.40")
            world.master.server.set_levels(1, other, D(2700 + round_), D(0))
            await kennel.watch(20)
            world.close(ticket)
            world.close(other)
            await kennel.watch(20)
        await kennel.dogs.compare_clocks(world.database, world.stream)
        await kennel.watch(60)
        assert kennel.heard == []
        assert await kennel.kept() == []

    tell_of(mode, tell)


def test_between_the_followers_of_one_look_others_have_their_turn() -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world)
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        follower = world.worker.followers["f"]
        world.worker.followers |= {f"f{place}": follower for place in range(3 * AT_ONCE)}
        async with asyncio.TaskGroup() as tasks:
            busy = tasks.create_task(others())
            await kennel.dogs.look()
            before = turns
            await kennel.dogs.look()
            assert turns - before >= 3
            busy.cancel()

    tell_of(MarginMode.HEDGING, tell)


# Naked -----------------------------------------------------------------------------------------------------------------


@each_model
def test_a_stop_the_broker_refuses_is_an_alert_until_it_is_set(mode: MarginMode) -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world, {"naked": {"answer": "alert"}})
        world.accounts["f"].faults.always(Operation.EXECUTE, stops_ignored())
        world.accounts["f"].faults.always(Operation.MODIFY, refuse(Reason.INVALID_STOPS))
        world.buy("EURUSD", "1.00", stop_loss=STOP)
        await kennel.watch(4)
        assert kennel.raised == []
        await kennel.watch(20)
        (alert,) = kennel.heard
        assert (alert.watchdog, alert.account) == (Watchdog.NAKED, "f")
        assert "buy 1 EURUSD" in alert.cause
        assert "has no stop at the broker" in alert.cause
        assert alert.raised_ms - alert.since_ms >= 5_000
        world.accounts["f"].faults.clear()
        await kennel.watch(40)
        assert kennel.ended == kennel.raised
        (kept,) = await kennel.kept()
        assert kept.ended_ms > kept.raised_ms
        (position,) = world.accounts["f"].positions
        assert position.stop_loss

    tell_of(mode, tell)


@each_model
def test_the_answer_set_asks_for_the_stop_again_without_waiting_out_the_pauses(mode: MarginMode) -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world, {"naked": {"answer": "set", "after_ms": 2_000}})
        world.accounts["f"].faults.always(Operation.EXECUTE, stops_ignored())
        world.accounts["f"].faults.always(Operation.MODIFY, refuse(Reason.INVALID_STOPS))
        world.buy("EURUSD", "1.00", stop_loss=STOP)
        await kennel.watch(60)
        assert kennel.dogs.standing[kennel.heard[0].name].done == "the stop was asked for again"
        world.accounts["f"].faults.clear()
        await kennel.watch(6)
        (position,) = world.accounts["f"].positions
        assert position.stop_loss
        assert kennel.standing == []

    tell_of(mode, tell)


@each_model
def test_the_answer_close_closes_a_copy_without_any_stop_and_leaves_the_others(mode: MarginMode) -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world, {"naked": {"answer": "close"}})
        world.buy("XAUUSD", "0.30", stop_loss=D("2600"))
        await kennel.watch(10)
        world.accounts["f"].faults.always(Operation.EXECUTE, stops_ignored())
        world.accounts["f"].faults.always(Operation.MODIFY, refuse(Reason.INVALID_STOPS))
        world.buy("EURUSD", "1.00", stop_loss=STOP)
        await kennel.watch(3)
        assert world.net_is("EURUSD", "1.00")
        await kennel.watch(20)
        assert world.net_is("EURUSD", "0")
        assert world.net_is("XAUUSD", "0.30")
        assert [r.code for r in await world.receipts() if r.verdict is Verdict.CLOSED] == ["unprotected"]
        assert "its copy is being closed" in [alert.done for alert in await kennel.kept()]
        await kennel.watch(60)
        assert world.net_is("EURUSD", "0"), "it was opened again"
        assert kennel.standing == []

    tell_of(mode, tell)


def test_a_stop_that_another_hand_moved_is_never_answered_by_a_close() -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world, {"naked": {"answer": "close"}})
        world.buy("EURUSD", "1.00", stop_loss=STOP)
        await kennel.watch(10)
        world.accounts["f"].faults.always(Operation.MODIFY, refuse(Reason.FROZEN))
        (position,) = world.accounts["f"].positions
        world.accounts["f"].server.set_levels(1, position.ticket, D("1.05000"), D(0))
        await kennel.watch(60)
        assert kennel.standing == [Watchdog.NAKED]
        assert "has its stop at 1.05" in kennel.heard[0].cause
        assert world.net_is("EURUSD", "1.00")

    tell_of(MarginMode.HEDGING, tell)


# Masters ---------------------------------------------------------------------------------------------------------------


def test_a_master_that_cannot_be_read_is_one_alert_with_the_reason_and_ends_when_it_is_back() -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world)
        world.buy("EURUSD", "1.00")
        await kennel.watch(5)
        world.master.faults.always(Operation.POSITIONS, failed_read())
        await kennel.watch(25)
        assert kennel.raised == []
        await kennel.watch(60)
        assert kennel.raised == [(Watchdog.MASTER, "m")]
        assert "cannot be read" in kennel.heard[0].cause
        assert world.watcher.error in kennel.heard[0].cause
        assert world.net_is("EURUSD", "1.00")
        world.master.faults.clear()
        await kennel.watch(15)
        assert kennel.ended == [(Watchdog.MASTER, "m")]

    tell_of(MarginMode.HEDGING, tell)


def test_a_watcher_elsewhere_that_fell_silent_is_noticed_by_those_who_listen() -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world, watchers=())
        await kennel.watch(5)
        world.watcher_task.cancel()
        await kennel.watch(45)
        (alert,) = kennel.heard
        assert (alert.watchdog, alert.subject, alert.account) == (Watchdog.MASTER, "m at worker:w", "m")
        assert "nothing is heard of m at f" in alert.cause
        world.start_watcher()
        await kennel.watch(10)
        assert kennel.ended == [(Watchdog.MASTER, "m at worker:w")]

    tell_of(MarginMode.HEDGING, tell)


def test_by_default_a_silent_master_changes_nothing_at_its_followers() -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world)
        world.buy("EURUSD", "1.00")
        await kennel.watch(5)
        world.master.faults.always(Operation.POSITIONS, failed_read())
        await kennel.watch(1200)
        assert world.net_is("EURUSD", "1.00")
        assert world.follower().standing.silent == {}

    tell_of(MarginMode.HEDGING, tell)


def test_stop_opens_refuses_what_still_waits_to_be_opened_until_the_master_is_back() -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world, {"master": {"answer": "stop_opens"}}, watchers=())
        await kennel.watch(5)
        world.watcher_task.cancel()
        await kennel.watch(40)
        assert world.follower().standing.mode_of("m")[0] == "close_only"
        assert "nothing has been heard of m" in world.follower().standing.mode_of("m")[1]
        assert [a.done for a in kennel.dogs.standing.values()] == ["nothing is opened for it until it is heard again"]
        world.start_watcher()
        await kennel.watch(10)
        assert world.follower().standing.mode_of("m")[0] == "live"
        world.buy("EURUSD", "1.00")
        await kennel.watch(5)
        assert world.net_is("EURUSD", "1.00")

    tell_of(MarginMode.HEDGING, tell)


@each_model
def test_flatten_closes_the_copies_of_a_master_that_stays_silent_and_never_opens_them_again(mode: MarginMode) -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world, {"master": {"answer": "flatten", "flatten_after_s": 120}})
        world.buy("EURUSD", "1.00")
        world.sell("XAUUSD", "0.20")
        await kennel.watch(5)
        world.master.faults.always(Operation.POSITIONS, failed_read())
        await kennel.watch(100)
        assert world.net_is("EURUSD", "1.00")
        await kennel.watch(40)
        assert world.accounts["f"].positions == ()
        assert {r.code for r in await world.receipts() if r.verdict is Verdict.CLOSED} == {"master_silent"}
        world.master.faults.clear()
        await kennel.watch(60)
        assert world.accounts["f"].positions == ()
        world.buy("XAUUSD", "0.10")
        await kennel.watch(5)
        assert world.net_is("XAUUSD", "0.10")

    tell_of(mode, tell)


def test_a_machine_that_slept_does_not_flatten_what_it_could_not_hear() -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world, {"master": {"answer": "flatten", "flatten_after_s": 120}})
        world.buy("EURUSD", "1.00")
        await kennel.watch(5)
        world.master.faults.always(Operation.POSITIONS, failed_read())
        await world.settle(3600)  # Nobody looks, and nobody hears.
        await kennel.watch(20)
        world.master.faults.clear()
        await kennel.watch(30)
        assert world.net_is("EURUSD", "1.00")
        assert kennel.heard == []

    tell_of(MarginMode.HEDGING, tell)


# Followers -------------------------------------------------------------------------------------------------------------


def test_a_follower_that_cannot_be_reached_is_one_alert_with_the_reason() -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world)
        await kennel.watch(5)
        world.accounts["f"].faults.offline = True
        await kennel.watch(200)
        assert kennel.raised == [(Watchdog.FOLLOWER, "f")]
        assert world.follower().error in kennel.heard[0].cause
        world.accounts["f"].faults.offline = False
        await kennel.watch(10)
        assert kennel.ended == kennel.raised

    tell_of(MarginMode.HEDGING, tell)


@each_model
def test_a_close_that_is_refused_for_long_is_drift(mode: MarginMode) -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world)
        ticket = world.buy("EURUSD", "1.00")
        await kennel.watch(5)
        world.accounts["f"].faults.always(Operation.CLOSE, refuse(Reason.MARKET_CLOSED))
        world.close(ticket, "0.40")
        await kennel.watch(90)
        drift = [alert for alert in kennel.heard if alert.watchdog is Watchdog.DRIFT]
        assert len(drift) == 1
        assert "buy 1 EURUSD of m is open, 0.6 should be" in drift[0].cause
        world.close(ticket)
        await kennel.watch(60)
        world.accounts["f"].faults.clear()
        await kennel.watch(60)
        assert world.net_is("EURUSD", "0")
        assert kennel.standing == []
        assert kennel.ended == kennel.raised

    tell_of(mode, tell)


def test_a_copy_reduced_by_its_owner_is_no_drift() -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world)
        world.buy("EURUSD", "1.00")
        await kennel.watch(5)
        (position,) = world.accounts["f"].positions
        world.accounts["f"].server.close(1, position.ticket, "0.50")
        await kennel.watch(200)
        assert kennel.heard == []

    tell_of(MarginMode.HEDGING, tell)


@each_model
def test_an_order_without_an_answer_is_an_alert_until_it_is_settled(mode: MarginMode) -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world, {"unknown": {"after_s": 20}, "follower": {"enabled": False}, "master": {"enabled": False}})
        await kennel.watch(5)
        world.accounts["f"].faults.next(Operation.EXECUTE, never_answered(executed=True))
        world.buy("EURUSD", "1.00")
        await kennel.watch(2)
        world.accounts["f"].faults.always(Operation.POSITIONS, failed_read())
        await kennel.watch(60)
        (alert,) = kennel.heard
        assert alert.watchdog is Watchdog.UNKNOWN
        assert "buy 1 EURUSD with tag mc" in alert.cause
        world.accounts["f"].faults.clear()
        await kennel.watch(40)
        assert kennel.ended == kennel.raised
        assert world.net_is("EURUSD", "1.00")

    tell_of(mode, tell)


def test_nothing_is_said_of_what_a_person_has_frozen() -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world, {"master": {"answer": "flatten", "flatten_after_s": 60}, "naked": {"answer": "close"}})
        ticket = world.buy("EURUSD", "1.00", stop_loss=STOP)
        await kennel.watch(10)
        await world.ledger.set_control("f", "frozen", "a person")
        await world.worker.look_at_controls()
        world.close(ticket)
        await kennel.watch(30)
        world.master.faults.always(Operation.POSITIONS, failed_read())
        await kennel.watch(200)
        assert set(kennel.raised) == {(Watchdog.MASTER, "m")}
        assert world.net_is("EURUSD", "1.00")

    tell_of(MarginMode.HEDGING, tell)


def test_what_a_person_has_frozen_is_not_flattened_for_a_silent_masters_sake() -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world, {"master": {"answer": "flatten", "flatten_after_s": 60}})
        world.buy("EURUSD", "1.00")
        await kennel.watch(5)
        await world.ledger.set_control("f", "frozen", "a person")
        await world.worker.look_at_controls()
        world.master.faults.always(Operation.POSITIONS, failed_read())
        await kennel.watch(120)
        world.master.faults.clear()
        await kennel.watch(20)
        await world.ledger.set_control("f", "live", "a person")
        await world.worker.look_at_controls()
        await kennel.watch(20)
        assert world.net_is("EURUSD", "1.00")

    tell_of(MarginMode.HEDGING, tell)


# Lag and clocks --------------------------------------------------------------------------------------------------------


class Slow(Stream):
    """Hands out what was written only some time later."""

    late_s = 0.0

    async def read(self, *args: Any, **more: Any) -> Any:
        entries = await super().read(*args, **more)
        await asyncio.sleep(self.late_s)
        return entries


def test_what_is_heard_too_late_for_long_is_lag() -> None:
    async def tell(world: World) -> None:
        world.stream.__class__ = Slow
        kennel = Kennel(world, {"lag": {"above_ms": 2000, "after_s": 10}})
        await kennel.watch(10)
        Slow.late_s = 4.0
        await kennel.watch(40)
        Slow.late_s = 0.0
        assert kennel.raised == [(Watchdog.LAG, "m at worker:w")]
        await kennel.watch(10)
        assert kennel.ended == kennel.raised

    tell_of(MarginMode.HEDGING, tell)


class Ahead:
    """A clock that is wrong."""

    def __init__(self, clock: Clock, ahead_ms: int) -> None:
        self._clock = clock
        self.ahead_ms = ahead_ms

    def now_ms(self) -> int:
        return self._clock.now_ms() + self.ahead_ms


class FarClock:
    """A ledger's server, or a Redis, whose clock may be wrong or out of reach."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.ahead_ms: int | None = 0

    async def time_ms(self) -> int | None:
        if self.ahead_ms is None:
            raise StoreError("out of reach")
        return self.clock.now_ms() + self.ahead_ms


@pytest.mark.parametrize(("whose", "ahead"), [("database", 9_000), ("redis", -9_000)])
def test_a_server_whose_clock_is_wrong_is_named_with_how_much(whose: str, ahead: int) -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world)
        clocks: dict[str, Any] = {"database": FarClock(world.clock), "redis": FarClock(world.clock)}

        async def compare(times: int) -> None:
            for _ in range(times):
                await kennel.dogs.compare_clocks(clocks["database"], clocks["redis"])
                await kennel.watch(30)

        await compare(2)
        assert kennel.heard == []
        clocks[whose].ahead_ms = ahead
        await compare(3)
        (alert,) = kennel.heard
        assert alert.watchdog is Watchdog.CLOCK
        assert f"9000 ms {'ahead of' if ahead > 0 else 'behind'} this machine's" in alert.cause
        clocks[whose].ahead_ms = None
        await compare(1)
        assert kennel.ended == kennel.raised

    tell_of(MarginMode.HEDGING, tell)


def test_a_broker_that_was_not_reached_yet_tells_no_time_and_hinders_nobody() -> None:
    async def tell(world: World) -> None:
        world.buy("EURUSD", "1.00")
        await world.settle(5)
        world.worker_task.cancel()

        async def waits() -> None:
            await asyncio.Event().wait()

        world.accounts["f"].gateway.open = waits  # type: ignore[method-assign]  # As for a terminal that did not dial in yet.
        world.start_worker()
        await world.settle(3)
        assert world.follower().memory.living
        assert not world.follower().error
        kennel = Kennel(world)
        await kennel.dogs.compare_clocks(world.database, world.stream)

    tell_of(MarginMode.HEDGING, tell)


def test_a_brokers_clock_is_told_by_a_price_that_has_just_moved() -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world, {"lag": {"enabled": False}})
        world.buy("EURUSD", "1.00")
        await kennel.watch(5)
        gateway = world.accounts["f"].gateway
        honest = gateway.get_quote

        async def ahead(symbol: str) -> Any:
            quote = await honest(symbol)
            return msgspec.structs.replace(quote, timestamp=quote.timestamp + timedelta(seconds=8))

        gateway.get_quote = ahead  # type: ignore[method-assign]
        for _ in range(3):
            await kennel.dogs.compare_clocks(world.database, world.stream)
            await kennel.watch(30)
        (alert,) = kennel.heard
        assert (alert.watchdog, alert.account) == (Watchdog.CLOCK, "f")
        assert "f's broker is 8000 ms ahead" in alert.cause

    tell_of(MarginMode.HEDGING, tell)


# Off, kept, told -------------------------------------------------------------------------------------------------------

OFF = {name.value: {"enabled": False} for name in Watchdog}


def test_every_watchdog_can_be_switched_off() -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world, OFF)
        ticket = world.buy("EURUSD", "1.00", stop_loss=STOP)
        world.accounts["f"].faults.always(Operation.EXECUTE, stops_ignored())
        world.accounts["f"].faults.always(Operation.MODIFY, refuse(Reason.INVALID_STOPS))
        await kennel.watch(30)
        world.accounts["f"].faults.always(Operation.CLOSE, refuse(Reason.MARKET_CLOSED))
        world.close(ticket)
        await kennel.watch(90)
        world.accounts["f"].faults.offline = True
        world.master.faults.offline = True
        await kennel.watch(200)
        assert kennel.heard == []

    tell_of(MarginMode.HEDGING, tell)


def test_an_alert_that_stands_is_taken_over_by_the_next_process_and_ended_there() -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world)
        await kennel.watch(5)
        world.accounts["f"].faults.offline = True
        await kennel.watch(100)
        assert kennel.raised == [(Watchdog.FOLLOWER, "f")]
        kennel.begin()
        await kennel.watch(100)
        assert kennel.raised == [(Watchdog.FOLLOWER, "f")], "raised a second time"
        assert kennel.ended == []
        world.accounts["f"].faults.offline = False
        await kennel.watch(100)
        assert kennel.ended == [(Watchdog.FOLLOWER, "f")]
        (kept,) = await kennel.kept()
        assert kept.ended_ms

    tell_of(MarginMode.HEDGING, tell)


def test_the_alert_of_a_silent_master_is_neither_ended_nor_raised_anew_by_a_process_that_has_just_begun() -> None:
    async def tell(world: World) -> None:
        kennel = Kennel(world)
        await kennel.watch(5)
        world.master.faults.always(Operation.POSITIONS, failed_read())
        await kennel.watch(60)
        kennel.begin()
        await kennel.watch(60)
        assert (kennel.raised, kennel.ended) == ([(Watchdog.MASTER, "m")], [])

    tell_of(MarginMode.HEDGING, tell)


class Service:
    """Takes messages, or does not."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.takes = True

    async def send(self, title: str, body: str) -> bool:
        if self.takes:
            self.sent.append((title, body))
        return self.takes


def an_alert(ended_ms: int = 0, subject: str = "f") -> Alert:
    return Alert(
        watchdog=Watchdog.FOLLOWER,
        subject=subject,
        account="f",
        cause="it is gone",
        advice="look",
        by="worker:w",
        since_ms=EPOCH_MS,
        raised_ms=EPOCH_MS,
        ended_ms=ended_ms,
    )


def test_an_alert_is_sent_once_then_seldom_and_its_end_to_those_who_were_told() -> None:
    async def main() -> None:
        service = Service()
        notifier = Notifier(NotifySettings(repeat_s=600), LoopClock(EPOCH_MS), service.send)
        notifier.tell(an_alert())
        for _ in range(590):
            notifier.remind([an_alert()])
            await notifier.send_waiting()
            await asyncio.sleep(1)
        assert [title for title, _ in service.sent] == ["mt-copier: follower f"]
        assert "What to do: look" in service.sent[0][1]
        notifier.tell(an_alert(EPOCH_MS + 590_000))
        for _ in range(5):  # It comes and goes, and nobody hears of that.
            notifier.tell(an_alert())
            notifier.tell(an_alert(EPOCH_MS + 591_000))
        await notifier.send_waiting()
        assert [title for title, _ in service.sent][1:] == ["Over: mt-copier: follower f"]
        await asyncio.sleep(20)
        notifier.tell(an_alert())
        await notifier.send_waiting()
        assert len(service.sent) == 3

    run_virtual(main())


def test_what_no_target_takes_is_sent_later_and_nothing_is_said_without_targets() -> None:
    async def main() -> None:
        service = Service()
        service.takes = False
        notifier = Notifier(NotifySettings(), LoopClock(EPOCH_MS), service.send)
        notifier.tell(an_alert())
        notifier.tell(an_alert(subject="g"))
        for _ in range(60):
            await notifier.send_waiting()
            await asyncio.sleep(1)
        service.takes = True
        for _ in range(60):
            await notifier.send_waiting()
            await asyncio.sleep(1)
        assert [title for title, _ in service.sent] == ["mt-copier: follower f", "mt-copier: follower g"]
        silent = Notifier(NotifySettings(), LoopClock(EPOCH_MS))
        silent.tell(an_alert())
        await silent.send_waiting()

    run_virtual(main())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Of what Apprise itself imports.
def test_an_address_nobody_can_send_to_is_refused_at_the_start_and_not_shown() -> None:
    targets = parse('notify: {targets: [{url: "nonsense://planted-secret"}]}').notify
    with pytest.raises(SettingsError) as caught:
        Notifier(targets, LoopClock())
    assert "notify.targets[0].url: expected an address that Apprise knows" in str(caught.value)
    assert "planted" not in str(caught.value) + repr(targets)


TWO = """
ledger: "sqlite://"
accounts:
  m: {kind: paper, login: 1, server: A}
  f: {kind: paper, login: 2, server: B}
masters: {m: {account: m}}
followers: {f: {account: f, copies: [{master: m}]}}
"""


def test_the_application_looks_keeps_and_sends() -> None:
    service = Service()

    async def main() -> None:
        async with App(parse(TWO), LoopClock(EPOCH_MS), send=service.send) as app:
            task = asyncio.create_task(app.run())
            await asyncio.sleep(30)
            assert await app.history.alerts(newest=10) == []
            gateway: Any = app.gateways["f"]
            gateway.faults.offline = True
            await asyncio.sleep(90)
            (standing,) = await app.history.alerts()
            assert (standing.watchdog, standing.by) == (Watchdog.FOLLOWER, "worker:main")
            gateway.faults.offline = False
            await asyncio.sleep(30)
            assert await app.history.alerts() == []
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run_virtual(main())
    assert [title for title, _ in service.sent] == ["mt-copier: follower f", "Over: mt-copier: follower f"]
