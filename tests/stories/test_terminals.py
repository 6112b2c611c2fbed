"""The whole engine over MetaTrader 5: masters and followers behind the terminal's package and behind the Manager's."""

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from copier.clock import LoopClock, SystemClock, run_virtual
from copier.demo import Demo, DemoEnd
from copier.gateway import Gateway, GatewayFacts
from copier.gateways.mt5 import mt5_gateway
from copier.gateways.opening import PaperWorld
from copier.gateways.paper_account import PaperAccount
from copier.gateways.remote import RemoteGateway
from copier.model import MarginMode, Verdict
from copier.settings import Mt5Settings
from tests.fakes import mt5_stage, mt5manager_stage
from tests.fakes.fake_metatrader5 import FakeTerminal
from tests.fakes.fake_mt5manager import FakeManagerServer, RequestFault
from tests.fakes.mt5_fake_terminal import OrderFault
from tests.stories.test_pairs import a_partly_filled_open, a_whole_life
from tests.world import EPOCH_MS, Account, D, Reach, World, one, story

MODES = [MarginMode.HEDGING, MarginMode.NETTING]
LEVELS = {"copy": {"stops": "copy", "targets": "copy"}}


class Terminals:
    """Ways to accounts through terminals, and the terminals, by the server's name."""

    def __init__(self, **opening: Any) -> None:
        self.by_server: dict[str, FakeTerminal] = {}
        self._opening = opening

    @asynccontextmanager
    async def __call__(self, account: Account) -> AsyncIterator[Gateway]:
        account.server.add_account(PaperAccount(2, margin_mode=account.account.margin_mode))
        terminal = FakeTerminal(server=account.server, login=1, selected={"EURUSD"})
        self.by_server[account.server.name] = terminal
        async with mt5_stage.in_process(terminal, account.clock, account.faults, **self._opening) as gateway:
            yield gateway

    @property
    def master(self) -> FakeTerminal:
        return self.by_server["master-Server"]

    @property
    def follower(self) -> FakeTerminal:
        return self.by_server["f-Server"]


def terminal() -> Reach:
    """Reach an account through a terminal that says when something changed."""
    return Terminals(poll_ms=100)


def polled_terminal() -> Reach:
    """Reach an account through a terminal that has to be asked."""
    return Terminals()


class Managers:
    """Ways to accounts through managers' connections, and their servers' other side, by the server's name."""

    def __init__(self) -> None:
        self.by_server: dict[str, FakeManagerServer] = {}

    @asynccontextmanager
    async def __call__(self, account: Account) -> AsyncIterator[Gateway]:
        fake = FakeManagerServer(server=account.server, latency_s=0.05, dealing_needed=True)
        self.by_server[account.server.name] = fake
        async with mt5manager_stage.in_process(fake, account.clock, 1, faults=account.faults, dealing=True) as (gateway,):
            yield gateway


def manager() -> Reach:
    """Reach an account through a manager's connection."""
    return Managers()


WAYS = {
    "mt5 to mt5-manager": (terminal, manager),
    "mt5-manager to mt5": (manager, terminal),
    "mt5 to mt5": (polled_terminal, terminal),
    "mt5-manager to mt5-manager": (manager, manager),
}
ways = pytest.mark.parametrize(("master_way", "follower_way"), list(WAYS.values()), ids=list(WAYS))
pairs = pytest.mark.parametrize(("master", "follower"), list(itertools.product(MODES, MODES)))
each_follower = pytest.mark.parametrize("mode", MODES)

Way = Callable[[], Reach]


@ways
@pairs
def test_the_follower_holds_what_the_master_holds_after_every_step(
    master: MarginMode, follower: MarginMode, master_way: Way, follower_way: Way
) -> None:
    story(lambda: World(master, one(follower, LEVELS), reach={"master": master_way(), "f": follower_way()}), a_whole_life)


@ways
@pairs
def test_a_partly_filled_open_is_reduced_in_proportion_and_never_topped_up(
    master: MarginMode, follower: MarginMode, master_way: Way, follower_way: Way
) -> None:
    story(lambda: World(master, one(follower), reach={"master": master_way(), "f": follower_way()}), a_partly_filled_open)


class Patient(World):
    """A world that is given the time its lists need."""

    async def settle(self, seconds: float = 3.0) -> None:
        await super().settle(max(seconds, 18.0))


class Lagging:
    """Ways to accounts whose lists show everything three seconds late."""

    def __init__(self, ways: Terminals | Managers) -> None:
        self._ways = ways

    @asynccontextmanager
    async def __call__(self, account: Account) -> AsyncIterator[Gateway]:
        async with self._ways(account) as gateway:
            self._ways.by_server[account.server.name].start_lag(3.0)
            yield gateway


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Terminals, Managers])
@pytest.mark.parametrize("tell", [a_whole_life, a_partly_filled_open])
@pairs
def test_lists_that_lag_by_three_seconds_change_nothing_in_the_end(
    master: MarginMode, follower: MarginMode, tell: Callable[[World], Coroutine[Any, Any, None]], kind: type[Terminals | Managers]
) -> None:
    policy = LEVELS if tell is a_whole_life else None
    way = Lagging(kind())
    story(lambda: Patient(master, one(follower, policy), reach={"master": way, "f": way}), tell)


# Through processes ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def child_process(account: Account) -> AsyncIterator[Gateway]:
    """Reach an account through a real child process, in real time; the terminal stays here."""
    terminal = FakeTerminal(server=account.server, login=1, selected={"EURUSD"})
    with tempfile.TemporaryDirectory() as folder:
        terminal.data_path = folder
        async with mt5_stage.TerminalHost(terminal) as host:
            fields = {"kind": "mt5", "login": 1, "server": account.server.name, "path": terminal.path, "password": "secret"}
            settings = Mt5Settings.model_validate(fields | {"sync_s": 0, "settle_s": 0.5, "poll_ms": 50})
            yield (gateway := mt5_gateway(settings, account.clock, host.command))
            await gateway.close()


@pytest.mark.slow
@pytest.mark.timeout(120)
@pairs
def test_the_whole_story_goes_through_real_child_processes(master: MarginMode, follower: MarginMode) -> None:
    def world() -> World:
        return World(master, one(follower, LEVELS), reach={"master": child_process, "f": child_process}, clock=SystemClock())

    story(world, a_whole_life, play=asyncio.run)


# What terminals do wrong ------------------------------------------------------------------------------------------------


class Stage:
    """A hedging master and a follower, both behind terminals."""

    def __init__(
        self, mode: MarginMode, policy: dict[str, Any] | None = None, *, at_start: Callable[[World], None] | None = None
    ):
        self.terminals = Terminals(sync_s=3.0)
        self._mode, self._policy, self._at_start = mode, policy, at_start

    def world(self) -> World:
        world = World(MarginMode.HEDGING, one(self._mode, self._policy), reach={"master": self.terminals, "f": self.terminals})
        if self._at_start is not None:
            self._at_start(world)
        return world


def orders(terminal: FakeTerminal) -> list[dict[str, Any]]:
    """Return the market orders that reached a terminal."""
    return [request for request in terminal.sent if request["action"] == 1]


async def verdicts(world: World) -> list[Verdict]:
    return [receipt.verdict for receipt in await world.receipts()]


async def flat(world: World, ticket: int) -> None:
    """Close the master's position; the follower ends flat, with nothing left to do."""
    world.close(ticket)
    await world.settle(10)
    assert world.accounts["f"].positions == ()
    assert not [link for link in world.follower().links.values() if link.living]


@each_follower
def test_an_order_call_that_hangs_during_an_open_ends_as_one_position(mode: MarginMode) -> None:
    stage = Stage(mode)

    async def tell(world: World) -> None:
        stage.terminals.follower.next_orders.append(OrderFault(hangs=True))
        ticket = world.buy("EURUSD", "1.00")
        await world.settle(60)
        (copy,) = world.accounts["f"].positions
        assert copy.lots == D("1.00")
        assert len(orders(stage.terminals.follower)) == 1
        assert await verdicts(world) == [Verdict.UNKNOWN, Verdict.ADOPTED]
        await flat(world, ticket)

    story(stage.world, tell)


@each_follower
def test_an_order_call_that_hangs_without_effect_is_not_sent_again_and_alerts(mode: MarginMode) -> None:
    stage = Stage(mode)

    async def tell(world: World) -> None:
        stage.terminals.follower.next_orders.append(OrderFault(hangs=True, executes=False))
        ticket = world.buy("EURUSD", "1.00")
        await world.settle(60)
        assert len(orders(stage.terminals.follower)) == 1
        last = (await world.receipts())[-1]
        assert (last.verdict, last.code) == (Verdict.ALERT, "order_lost")
        await flat(world, ticket)

    story(stage.world, tell)


@each_follower
@pytest.mark.parametrize(("hang", "sent"), [(OrderFault(hangs=True), 2), (OrderFault(hangs=True, executes=False), 3)])
def test_an_order_call_that_hangs_during_a_close_ends_flat_and_opens_nothing(
    mode: MarginMode, hang: OrderFault, sent: int
) -> None:
    stage = Stage(mode)

    async def tell(world: World) -> None:
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        stage.terminals.follower.next_orders.append(hang)
        world.close(ticket)
        await world.settle(60)
        assert world.accounts["f"].positions == ()
        assert len(orders(stage.terminals.follower)) == sent

    story(stage.world, tell)


@each_follower
@pytest.mark.parametrize("whose", ["master", "follower"])
@pytest.mark.parametrize(("positions", "empty_s"), [(1, 2), (1, 20), (6, 20)])
def test_a_terminal_that_dies_and_comes_back_empty_and_then_full_closes_nothing(
    mode: MarginMode, whose: str, positions: int, empty_s: int
) -> None:
    stage = Stage(mode)

    async def tell(world: World) -> None:
        tickets = [world.buy("EURUSD", "0.50") for _ in range(positions)]
        await world.settle()
        world.quote("EURUSD", "1.10100", "1.10110")  # A result floats, as it does with open positions.
        terminal: FakeTerminal = getattr(stage.terminals, whose)
        terminal.synchronise_s, terminal.startable = empty_s, False
        before = len(orders(stage.terminals.follower))
        terminal.crash()
        await world.settle(40)  # An idle follower looks at its account every 30 s.
        assert "terminal" in (world.watcher.error if whose == "master" else world.follower().error)
        terminal.startable = True
        await world.settle(60)
        assert world.net_is("EURUSD", str(D("0.50") * positions))
        assert len(orders(stage.terminals.follower)) == before
        assert world.watcher.error == world.follower().error == ""
        for ticket in tickets:
            world.close(ticket)
        await world.settle(20)
        assert world.accounts["f"].positions == ()

    story(stage.world, tell)


@each_follower
def test_a_close_while_the_followers_terminal_is_dead_is_done_when_it_is_back(mode: MarginMode) -> None:
    stage = Stage(mode)

    async def tell(world: World) -> None:
        ticket = world.buy("EURUSD", "0.50")
        await world.settle()
        stage.terminals.follower.startable = False
        stage.terminals.follower.crash()
        await world.settle(5)
        world.close(ticket)
        await world.settle(20)
        assert world.net_is("EURUSD", "0.50")
        stage.terminals.follower.startable = True
        await world.settle(90)
        assert world.accounts["f"].positions == ()

    story(stage.world, tell)


@each_follower
def test_a_followers_terminal_that_is_logged_in_elsewhere_gets_no_order_and_says_so(mode: MarginMode) -> None:
    stage = Stage(mode)

    async def tell(world: World) -> None:
        first = world.buy("EURUSD", "0.50")
        await world.settle()
        terminal = stage.terminals.follower
        before = len(orders(terminal))
        terminal.switch(2)
        terminal.server.buy(2, "EURUSD", "0.50")
        second = world.buy("EURUSD", "0.20")
        world.close(first)
        await world.settle(10)
        assert len(orders(terminal)) == before
        assert world.net_is("EURUSD", "0.50")
        assert [position.lots for position in terminal.server.positions(2)] == [D("0.50")]
        assert "logged in to 2@f-Server, expected 1@f-Server" in world.follower().error
        terminal.switch(1)
        await world.settle(60)
        assert world.net_is("EURUSD", "0.20") or world.net_is("EURUSD", "0")  # The late open is the policy's to refuse.
        await flat(world, second)
        assert [position.lots for position in terminal.server.positions(2)] == [D("0.50")]

    story(stage.world, tell)


@each_follower
def test_a_masters_terminal_that_is_logged_in_elsewhere_opens_and_closes_nothing(mode: MarginMode) -> None:
    stage = Stage(mode)

    async def tell(world: World) -> None:
        ticket = world.buy("EURUSD", "0.50")
        await world.settle()
        terminal = stage.terminals.master
        terminal.server.buy(2, "XAUUSD", "0.30")
        terminal.switch(2)
        await world.settle(30)
        assert "logged in to 2@master-Server, expected 1@master-Server" in world.watcher.error
        assert [position.symbol for position in world.accounts["f"].positions] == ["EURUSD"]
        assert len(orders(stage.terminals.follower)) == 1
        terminal.switch(1)
        await world.settle(10)
        assert len(orders(stage.terminals.follower)) == 1
        await flat(world, ticket)

    story(stage.world, tell)


@each_follower
def test_an_investor_login_is_refused_as_a_follower_at_the_start_and_the_reason_is_told(mode: MarginMode) -> None:
    def investor(world: World) -> None:
        world.accounts["f"].account.investor = True

    stage = Stage(mode, at_start=investor)

    async def tell(world: World) -> None:
        world.buy("EURUSD", "0.50")
        await world.settle(10)
        assert "this account cannot trade: investor login: the read-only password cannot trade" in world.follower().error
        assert stage.terminals.follower.sent == []
        world.accounts["f"].account.investor = False
        await world.settle(60)
        assert world.follower().error == ""
        ticket = world.buy("EURUSD", "0.20")
        await world.settle()
        assert D("0.20") in [position.lots for position in world.accounts["f"].positions] or mode is MarginMode.NETTING
        world.close(ticket)
        await world.settle()

    story(stage.world, tell)


def test_an_investor_login_is_enough_for_a_master() -> None:
    def investor(world: World) -> None:
        world.master.account.investor = True

    stage = Stage(MarginMode.HEDGING, at_start=investor)

    async def tell(world: World) -> None:
        await world.settle()
        world.master.account.investor = False  # The owner trades from elsewhere.
        ticket = world.buy("EURUSD", "0.50")
        world.master.account.investor = True
        await world.settle()
        assert world.net_is("EURUSD", "0.50")
        world.master.account.investor = False
        await flat(world, ticket)
        assert stage.terminals.master.sent == []

    story(stage.world, tell)


@each_follower
def test_a_close_waits_for_the_algo_trading_button_and_names_it(mode: MarginMode) -> None:
    stage = Stage(mode)

    async def tell(world: World) -> None:
        ticket = world.buy("EURUSD", "0.50")
        await world.settle()
        stage.terminals.follower.algo_trading = False
        world.close(ticket)
        await world.settle(20)
        assert world.net_is("EURUSD", "0.50")
        assert "Algo Trading button" in (await world.receipts())[-1].message
        stage.terminals.follower.algo_trading = True
        await world.settle(60)
        assert world.accounts["f"].positions == ()

    story(stage.world, tell)


# What a manager's connection does wrong ---------------------------------------------------------------------------------


@each_follower
@pytest.mark.parametrize("whose", ["master", "f"])
def test_a_managers_connection_that_is_lost_and_found_closes_nothing_and_then_copies_what_was_missed(
    mode: MarginMode, whose: str
) -> None:
    managers = Managers()

    async def tell(world: World) -> None:
        first, second = world.buy("EURUSD", "0.50"), world.buy("EURUSD", "0.20")
        await world.settle()
        fake = managers.by_server[f"{whose}-Server"]
        before = len(managers.by_server["f-Server"].sent)
        fake.lose_connection()
        await world.settle(40)
        assert (world.watcher if whose == "master" else world.follower()).error
        assert len(managers.by_server["f-Server"].sent) == before
        assert world.net_is("EURUSD", "0.70")
        world.close(second)
        fake.reconnect()
        await world.settle(60)
        assert world.net_is("EURUSD", "0.50")
        await flat(world, first)

    story(lambda: World(MarginMode.HEDGING, one(mode), reach={"master": managers, "f": managers}), tell)


@each_follower
def test_a_managers_order_that_is_never_answered_ends_as_one_position(mode: MarginMode) -> None:
    managers = Managers()

    async def tell(world: World) -> None:
        managers.by_server["f-Server"].next_requests.append(RequestFault(answered=False))
        ticket = world.buy("EURUSD", "1.00")
        await world.settle(60)
        (copy,) = world.accounts["f"].positions
        assert copy.lots == D("1.00")
        assert len(managers.by_server["f-Server"].sent) == 1
        await flat(world, ticket)

    story(lambda: World(MarginMode.HEDGING, one(mode), reach={"f": managers}), tell)


# The demonstration ------------------------------------------------------------------------------------------------------


def test_the_demonstration_ends_well_when_most_of_its_accounts_are_terminals(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    terminals: dict[str, FakeTerminal] = {}

    def open_as_terminals(settings: Any, clock: LoopClock, paper: PaperWorld) -> Gateway:
        plain = paper.gateway(settings)
        if settings.server == "Netting-Broker":
            return plain  # The story takes this one away through its own switch.
        terminal = FakeTerminal(
            server=paper.servers[settings.server], login=int(settings.login), path=settings.server, data_path=str(tmp_path)
        )
        terminals[settings.server] = terminal
        carrier = mt5_stage.InProcessCarrier(clock, terminal)
        facts = GatewayFacts(kind="mt5", settle_s=1.0)
        opening = mt5_stage.opening_of(terminal, poll_ms=50)
        return RemoteGateway(carrier, facts, opening, clock=clock, in_flight_max=1)

    monkeypatch.setattr("copier.app.open_gateway", open_as_terminals)

    async def main() -> DemoEnd:
        demo = Demo(LoopClock(EPOCH_MS), lambda line: None)
        async with demo.live():
            return await demo.play()

    end = run_virtual(main())
    assert end.good
    assert end.verdict == "nothing doubled, nothing lost: 9 positions opened, 9 closed, 2 refused with reasons"
    assert all(orders(terminals[server]) for server in ("Cross-Broker", "Small-Broker"))
