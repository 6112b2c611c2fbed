"""Traps on the way from a master's trade to what a follower wants: seen wrongly, lost, overtaken, or believed twice.

Each test names the guard that holds, and `test_traps.py` takes that guard out and demands that the trap springs.
"""

import asyncio
from typing import Any

import msgspec
import sqlalchemy as sa

from copier import database as db
from copier.diff import View, diff
from copier.errors import GatewayError, Reason
from copier.follower import Follower
from copier.gateways.paper_faults import Operation, delay, failed_read, not_sent, refuse
from copier.intake import Intake
from copier.ledger import JournalEntry, Ledger, LinkKept, Remembered
from copier.link import LegState, Link, LinkName
from copier.model import Closed, Event, MarginMode, MasterPosition, Modified, Positions, Reversed, Snapshot
from copier.settings import FollowerSettings
from copier.stream import Entry, EntryId, MemoryStream
from copier.watcher import Watcher
from tests.traps.springs import (
    both,
    codes,
    edges_only,
    instead,
    opened,
    replaced,
    restart_worker,
    sprung_by,
    stop_watcher,
    stop_worker,
)
from tests.world import Account, D, World, one, story

replace = msgspec.structs.replace
HEDGING, NETTING = MarginMode.HEDGING, MarginMode.NETTING


def hedging() -> World:
    return World(HEDGING, one(HEDGING))


# 1 -------------------------------------------------------------------------------------------------------------------------


async def _empty_instead(read: Any, watcher: Watcher) -> Positions:
    """A failed read is an empty list, as `positions_get() or []` makes it."""
    try:
        answer: Positions = await read(watcher)
    except GatewayError as error:
        return Positions(account=error.account, read=watcher._read + 1, positions=())
    return answer


@sprung_by(instead(Watcher, "_positions", _empty_instead))
def test_trap_01_a_failed_read_of_the_master_closes_nothing() -> None:
    async def tell(world: World) -> None:
        world.buy("EURUSD", "1.00")
        world.sell("XAUUSD", "0.50")
        await world.settle()
        world.master.faults.always(Operation.POSITIONS, failed_read())
        await world.settle(60)
        assert len(world.accounts["f"].positions) == 2
        world.master.faults.clear()
        await world.settle(10)
        assert len(world.accounts["f"].positions) == 2
        assert opened(world) == D("1.50")

    story(hedging, tell)


# 2 -------------------------------------------------------------------------------------------------------------------------


def _nothing(*_: Any) -> list[Event]:
    """Known tickets are no news."""
    return []


@sprung_by(replaced("copier.diff._changes", _nothing))
def test_trap_02_a_netting_masters_add_and_reversal_on_one_ticket_are_copied() -> None:
    async def tell(world: World) -> None:
        world.buy("EURUSD", "1.00")
        await world.settle()
        world.buy("EURUSD", "0.50")
        await world.settle()
        assert world.net_is("EURUSD", "1.50")
        world.sell("EURUSD", "2.50")
        assert len(world.master.positions) == 1
        await world.settle()
        assert world.net_is("EURUSD", "-1.00")

    story(lambda: World(NETTING, one(HEDGING)), tell)


# 5 -------------------------------------------------------------------------------------------------------------------------


def _last_id() -> Any:
    done: dict[int, int] = {}

    async def follow_on(drive: Any, follower: Follower, name: LinkName) -> None:
        """A command below the last one executed counts as executed."""
        command = follower.links[name].position.identifier
        if command < done.get(id(follower), 0):
            return
        await drive(follower, name)
        done[id(follower)] = command

    return follow_on


@sprung_by(instead(Follower, "_follow_on", _last_id()))
def test_trap_05_an_older_order_that_must_be_retried_is_executed_after_a_newer_one_was() -> None:
    async def tell(world: World) -> None:
        world.accounts["f"].faults.next(Operation.EXECUTE, not_sent())
        world.buy("EURUSD", "1.00")
        world.sell("XAUUSD", "0.50")
        await world.settle()
        assert world.net_is("XAUUSD", "-0.50")
        assert world.net_is("EURUSD", "1.00")

    # One after another, each on a fresh price: there an older one can be forgotten behind a newer one.
    story(lambda: World(HEDGING, one(HEDGING, {"protection": {"read_ahead_max_ms": 0}})), tell)


# 6 -------------------------------------------------------------------------------------------------------------------------


def _one_acknowledgement() -> Any:
    acknowledged: set[tuple[LinkName, bool]] = set()
    tried: set[tuple[str, LinkName, bool]] = set()

    async def follow_on(drive: Any, follower: Follower, name: LinkName) -> None:
        """What one follower has done is not tried again for another."""
        event = name, follower.links[name].wanted_open
        if event in acknowledged and (follower.name, *event) in tried:
            return
        tried.add((follower.name, *event))
        await drive(follower, name)
        if name not in follower.memory.dirty:
            acknowledged.add(event)

    return follow_on


@sprung_by(instead(Follower, "_follow_on", _one_acknowledgement()))
def test_trap_06_a_close_done_at_one_follower_is_still_retried_at_the_other() -> None:
    async def tell(world: World) -> None:
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        world.accounts["g"].faults.next(Operation.CLOSE, refuse(Reason.MARKET_CLOSED), times=3)
        world.close(ticket)
        await world.settle(10)
        assert world.accounts["f"].positions == ()
        assert world.accounts["g"].positions == ()

    story(lambda: World(HEDGING, {"f": (HEDGING, {}), "g": (HEDGING, {})}), tell)


# 7 -------------------------------------------------------------------------------------------------------------------------


class TwoMasters(World):
    """Two masters at brokers of their own, whose tickets are the same numbers, copied to one follower."""

    def __init__(self) -> None:
        super().__init__(HEDGING, one(HEDGING))
        self.first, self.second = self.master, Account("other", HEDGING, self.clock)
        copies = [{"master": "m"}, {"master": "n"}]
        self.settings = {"f": FollowerSettings.model_validate({"account": "f", "copies": copies})}

    def start_watcher(self) -> None:
        super().start_watcher()
        ledger = Ledger(self.database, self.clock, "watcher of n")
        other = Watcher("n", self.second.gateway, self.stream, ledger, self.clock, self.watch)

        async def watch() -> None:
            await self.second.gateway.open()
            await other.run()

        self._tasks.append(asyncio.create_task(watch()))

    def quote(self, symbol: str, bid: str, ask: str) -> None:
        super().quote(symbol, bid, ask)
        if hasattr(self, "second"):
            self.second.quote(symbol, bid, ask)


def _one_position_for_all(accept: Any, intake: Intake, entry: Entry) -> None:
    """An entry counts as read when any master's entry of that number was."""
    if entry.id > max(relation.seen for relation in intake._memory.relations.values()):
        accept(intake, entry)


@sprung_by(instead(Intake, "accept", _one_position_for_all))
def test_trap_07_what_was_read_of_one_master_hides_nothing_of_another() -> None:
    async def tell(world: World) -> None:
        assert isinstance(world, TwoMasters)
        mine = world.buy("EURUSD", "1.00")
        world.buy("EURUSD", "0.20")
        await world.settle()
        theirs = world.second.server.buy(1, "EURUSD", "0.30").position
        assert theirs == mine
        await world.settle()
        assert sorted(p.lots for p in world.accounts["f"].positions) == [D("0.20"), D("0.30"), D("1.00")]
        world.second.server.close(1, theirs)
        await world.settle()
        assert sorted(p.lots for p in world.accounts["f"].positions) == [D("0.20"), D("1.00")]

    story(TwoMasters, tell)


# 10 ------------------------------------------------------------------------------------------------------------------------


class PubSub(MemoryStream):
    """Events as Redis PUBLISH carries them: whoever is not listening at that moment never hears them."""

    _listener: object = None

    async def read(self, after: Any, **how: Any) -> list[Entry]:
        if after is not self._listener:
            self._listener = after
            after |= {master: await self.last_id(master) for master in after}
        return await super().read(after, **how)


@sprung_by(both(replaced("copier.stream.MemoryStream", PubSub), edges_only))
def test_trap_10_a_close_published_while_the_follower_restarts_is_copied() -> None:
    async def tell(world: World) -> None:
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        await stop_worker(world)
        world.close(ticket)
        await world.settle(5)
        world.start_worker()
        await world.settle(5)
        assert world.accounts["f"].positions == ()

    story(hedging, tell)


# 11 ------------------------------------------------------------------------------------------------------------------------


async def _counts_from_one(take: Any, ledger: Ledger, names: list[str]) -> dict[str, int]:
    """A watcher that starts again counts its events from one again."""
    tokens: dict[str, int] = await take(ledger, names)
    of_watchers = db.roles.c.role.startswith("watcher:")
    await ledger._database.run(lambda connection: connection.execute(sa.update(db.roles).where(of_watchers).values(token=1)))
    return {name: 1 if name.startswith("watcher:") else token for name, token in tokens.items()}


async def _remembers_nothing(load: Any, ledger: Ledger, followers: list[str]) -> Remembered:
    """A follower that starts again reads what the relay still has, from its beginning."""
    remembered: Remembered = await load(ledger, followers)
    begin = {reading: str(EntryId()) for reading in remembered.readings}
    return Remembered(links={name: {} for name in followers}, readings=begin, facts={})


@sprung_by(instead(Ledger, "take", _counts_from_one), instead(Ledger, "load", _remembers_nothing))
def test_trap_11_a_restarted_relay_is_heard_and_a_restarted_follower_reopens_no_dead_trade() -> None:
    async def tell(world: World) -> None:
        redis = world.stream._client
        ticket = world.buy("EURUSD", "1.00")
        await world.settle(1)
        dump = await redis.xrange("copier:events:m")
        world.close(ticket)
        await world.settle(1)
        assert world.accounts["f"].positions == ()
        await stop_worker(world)
        await stop_watcher(world)
        await redis.flushall()
        for entry, fields in dump:
            await redis.xadd("copier:events:m", fields, id=entry)
        world.start_worker()
        await world.settle(5)
        assert opened(world) == D("1.00"), "the dead trade was opened again"
        await redis.flushall()
        world.start_watcher()
        await world.settle(3)
        world.sell("XAUUSD", "0.50")
        await world.settle(2)
        assert world.net_is("XAUUSD", "-0.50"), "the follower is deaf"

    story(hedging, tell)


# 12 ------------------------------------------------------------------------------------------------------------------------


def _last_change_only(want: Any, intake: Intake, master: str, position: MasterPosition, event: Any, **more: Any) -> None:
    """While the open is pending one change waits for it, and a later one takes its place."""
    link = intake._memory.links.get((master, position.key))
    if link is not None and isinstance(event, Modified) and any(leg.state is LegState.SENDING for leg in link.legs):
        position = replace(position, lots=position.lots_opened)
    want(intake, master, position, event, **more)


@sprung_by(both(instead(Intake, "_want", _last_change_only), edges_only))
def test_trap_12_a_partial_close_and_a_modify_while_the_open_is_pending_both_count() -> None:
    async def tell(world: World) -> None:
        world.accounts["f"].faults.next(Operation.EXECUTE, delay(answer_s=4))
        ticket = world.buy("EURUSD", "1.00")
        await world.settle(1)
        world.close(ticket, "0.40")
        await world.settle(1)
        world.master.server.set_levels(1, ticket, D("1.09"), D("1.12"))
        await world.settle(8)
        copies = [(p.lots, p.stop_loss, p.take_profit) for p in world.accounts["f"].positions]
        assert copies == [(D("0.60"), D("1.09"), D("1.12"))]

    story(lambda: World(HEDGING, one(HEDGING, {"copy": {"stops": "copy", "targets": "copy"}})), tell)


# 13 ------------------------------------------------------------------------------------------------------------------------


def _nothing_to_close(
    unwant: Any, intake: Intake, master: str, position: MasterPosition, reason: str, event: Closed | Reversed | Snapshot
) -> None:
    """A close that finds no open copy has nothing to do."""
    link = intake._memory.links.get((master, position.key))
    if link is not None and any(leg.state is LegState.OPEN for leg in link.legs):
        unwant(intake, master, position, reason, event)


@sprung_by(both(instead(Intake, "_unwant", _nothing_to_close), edges_only))
def test_trap_13_a_close_that_comes_before_its_open_is_done_is_not_dropped() -> None:
    async def tell(world: World) -> None:
        world.accounts["f"].faults.next(Operation.EXECUTE, delay(execute_s=3, answer_s=1))
        ticket = world.buy("EURUSD", "1.00")
        await world.settle(1)
        world.close(ticket)
        await world.settle(1)
        assert opened(world) == 0
        await world.settle(8)
        assert opened(world) == D("1.00")
        assert world.accounts["f"].positions == ()

    story(hedging, tell)


# 17 ------------------------------------------------------------------------------------------------------------------------


async def _seen_before_done(append: Any, ledger: Ledger, entries: list[JournalEntry]) -> None:
    """That a change was read is kept at once, what it asks for only once it is done."""

    def undone(link: Link) -> bool:
        return not link.legs or (not link.wanted_open and any(leg.living for leg in link.legs))

    await append(ledger, [each for each in entries if not (isinstance(each, LinkKept) and undone(each.link))])


@sprung_by(both(instead(Ledger, "append", _seen_before_done), edges_only))
def test_trap_17_what_was_read_and_not_yet_done_when_the_worker_died_is_done_by_the_next() -> None:
    async def tell(world: World) -> None:
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        world.accounts["f"].faults.offline = True
        world.close(ticket)
        world.sell("XAUUSD", "0.50")
        await world.settle(2)
        await restart_worker(world)
        await world.settle(2)
        world.accounts["f"].faults.offline = False
        await world.settle(10)
        assert world.net_is("EURUSD", "0"), "the close was forgotten"
        assert world.net_is("XAUUSD", "-0.50"), "the open was forgotten"

    story(hedging, tell)


# 18 ------------------------------------------------------------------------------------------------------------------------


def _by_count(view: View, positions: Any, *args: Any, **more: Any) -> list[Event]:
    """As many as before are the same as before."""
    return [] if len(positions) == len(view.open) else diff(view, positions, *args, **more)


@sprung_by(replaced("copier.watcher.diff", _by_count))
def test_trap_18_a_close_and_an_open_between_two_reads_are_two_changes() -> None:
    async def tell(world: World) -> None:
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        world.close(ticket)
        world.buy("XAUUSD", "0.50")
        await world.settle()
        assert (world.net_is("EURUSD", "0"), world.net_is("XAUUSD", "0.50")) == (True, True)

    story(hedging, tell)


# 20 ------------------------------------------------------------------------------------------------------------------------


def _never_late(*_: Any) -> None:
    """An open is an open, however old."""


@sprung_by(replaced("copier.plan.check_late", _never_late))
def test_trap_20_an_open_found_in_the_backlog_is_too_old_to_be_copied() -> None:
    async def tell(world: World) -> None:
        await stop_worker(world)
        world.buy("EURUSD", "1.00")
        await world.settle(100)
        world.start_worker()
        await world.settle(5)
        assert world.accounts["f"].positions == ()
        assert await codes(world) == ["open_too_old"]

    story(hedging, tell)
