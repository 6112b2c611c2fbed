"""Traps at the follower's broker: orders doubled or forgotten, the wrong position, the wrong volume, the wrong account.

Each test names the guard that holds, and `test_traps.py` takes that guard out and demands that the trap springs.
"""

import asyncio
import difflib
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from copier.clock import SystemClock
from copier.errors import Reason, Rejected, Unavailable
from copier.gateway import Gateway
from copier.gateways.bridge_greeting import Verdict as Welcome
from copier.gateways.bridge_hub import BridgeHub, HubCarrier
from copier.gateways.bridge_port import PortListener
from copier.gateways.paper import PaperGateway
from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_faults import Operation, answer_lost, comment_cut, partial_fill, refuse
from copier.gateways.paper_symbols import PaperSymbol, symbol_spec
from copier.intake import Intake
from copier.ledger import Ledger, Remembered
from copier.link import Cut, Leg, Link
from copier.model import (
    ZERO,
    CalcMode,
    CloseRequest,
    CloseResult,
    MarginMode,
    Permit,
    Position,
    Refused,
    Side,
    Snapshot,
    SymbolSpec,
    TradeRequest,
)
from copier.orders import NotDone, Orders
from copier.sizing import Sized, size
from copier.wire import Op, encode, encode_request
from tests.fakes import mt5_stage
from tests.fakes.fake_metatrader5 import FakeMetaTrader5, FakeTerminal
from tests.traps.springs import codes, instead, opened, replaced, restart_worker, sprung_by, stop_worker
from tests.world import Account, D, World, one, story

replace = msgspec.structs.replace
HEDGING = MarginMode.HEDGING


def hedging() -> World:
    return World(HEDGING, one(HEDGING))


def sized(**policy: Any) -> World:
    return World(HEDGING, one(HEDGING, {"size": policy}))


# 3 -------------------------------------------------------------------------------------------------------------------------


async def _again_after_a_timeout(send: Any, orders: Orders, link: Link, leg: Leg, request: TradeRequest, permit: Permit) -> Any:
    """No answer is no order: it may be tried again."""
    link, result = await send(orders, link, leg, request, permit)
    if result is None:
        raise NotDone(Unavailable("timed out"))
    return link, result


@sprung_by(instead(Orders, "_open", _again_after_a_timeout))
def test_trap_03_an_order_that_timed_out_is_not_sent_again() -> None:
    async def tell(world: World) -> None:
        world.accounts["f"].faults.next(Operation.EXECUTE, answer_lost(), times=2)
        world.buy("EURUSD", "1.00")
        await world.settle(30)
        assert opened(world) == D("1.00")
        assert world.net_is("EURUSD", "1.00")

    story(hedging, tell)


# 4 -------------------------------------------------------------------------------------------------------------------------


async def _done_or_failed(send: Any, orders: Orders, link: Link, leg: Leg, request: TradeRequest, permit: Permit) -> Any:
    """What was not done in full has failed."""
    link, result = await send(orders, link, leg, request, permit)
    if result is not None and result.lots < request.lots:
        raise NotDone(Rejected("not done", reason=Reason.REFUSED))
    return link, result


@sprung_by(instead(Orders, "_open", _done_or_failed))
def test_trap_04_a_partly_filled_open_is_a_copy_and_follows_its_master() -> None:
    async def tell(world: World) -> None:
        world.accounts["f"].faults.next(Operation.EXECUTE, partial_fill("0.4"))
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        assert world.net_is("EURUSD", "0.40")
        world.close(ticket, "0.50")
        await world.settle()
        assert world.net_is("EURUSD", "0.20")
        world.close(ticket)
        await world.settle()
        assert world.accounts["f"].positions == ()
        assert opened(world) == D("0.40")

    story(hedging, tell)


# 8 -------------------------------------------------------------------------------------------------------------------------


async def _once(send: Any, orders: Orders, link: Link, leg: Leg, cut: Cut, permit: Permit, position: Position | None) -> Link:
    """A close is an event: it is sent once."""
    tried: set[str] = orders.__dict__.setdefault("tried", set())
    if leg.tag in tried:
        raise NotDone(Unavailable("it was sent before"))
    tried.add(leg.tag)
    after: Link = await send(orders, link, leg, cut, permit, position)
    return after


def _events_only(unwant: Any, intake: Intake, master: str, position: Any, reason: str, event: Any) -> None:
    """What is not in the master's list any more is no close; only a close is."""
    if not isinstance(event, Snapshot):
        unwant(intake, master, position, reason, event)


@sprung_by(instead(Orders, "finish_cut", _once), instead(Intake, "_unwant", _events_only))
def test_trap_08_a_close_that_was_refused_or_made_while_we_were_down_is_still_made() -> None:
    async def tell(world: World) -> None:
        refused = world.buy("EURUSD", "1.00")
        await world.settle()
        world.accounts["f"].faults.next(Operation.CLOSE, refuse(Reason.MARKET_CLOSED))
        world.close(refused)
        await world.settle(10)
        assert world.accounts["f"].positions == (), "the refused close was forgotten"
        unseen = world.buy("EURUSD", "0.50")
        await world.settle()
        await stop_worker(world)
        world.close(unseen)
        await world.settle(1)
        await world.stream._client.flushall()
        world.start_worker()
        await world.settle(10)
        assert world.accounts["f"].positions == (), "the close made while we were down was forgotten"

    story(hedging, tell)


# 9 -------------------------------------------------------------------------------------------------------------------------


async def _first_of_its_kind(close: Any, gateway: PaperGateway, request: CloseRequest, permit: Permit) -> CloseResult:
    """Close the first position with the symbol and the magic of ours."""
    positions = gateway.server.positions(gateway.login)
    meant = next(p for p in positions if p.ticket == request.ticket)
    found = next(p for p in positions if (p.symbol, p.magic) == (meant.symbol, meant.magic))
    result: CloseResult = await close(gateway, replace(request, ticket=found.ticket), permit)
    return result


@sprung_by(instead(PaperGateway, "close_position", _first_of_its_kind))
def test_trap_09_a_close_hits_its_own_copy_among_others_of_the_same_symbol_and_magic() -> None:
    async def tell(world: World) -> None:
        by_hand = world.accounts["f"].server.buy(1, "EURUSD", "0.33", magic=12345).position
        world.buy("EURUSD", "1.00")
        await world.settle()
        second = world.buy("EURUSD", "0.50")
        await world.settle()
        world.close(second)
        await world.settle()
        left = {p.ticket: p.lots for p in world.accounts["f"].positions}
        assert left.pop(by_hand, None) == D("0.33")
        assert list(left.values()) == [D("1.00")]

    story(hedging, tell)


# 14 ------------------------------------------------------------------------------------------------------------------------


def _binary_floor(value: Decimal, step: Decimal) -> Decimal:
    """Round as binary fractions do."""
    return math.floor(float(value) / float(step)) * step


@sprung_by(replaced("copier.sizing.floor_to", _binary_floor))
def test_trap_14_29_steps_of_a_hundredth_are_29_and_not_28() -> None:
    async def tell(world: World) -> None:
        world.buy("EURUSD", "1.00")
        await world.settle()
        assert world.net_is("EURUSD", "0.29")

    story(lambda: sized(mode="multiplier", multiplier="0.29"), tell)


# 15 ------------------------------------------------------------------------------------------------------------------------


def _at_least_the_minimum(policy: Any, facts: Any) -> Sized | Refused:
    """Too small is the broker's minimum, whatever was asked for."""
    found = size(policy, facts)
    least = facts.quote.spec.volume_min
    return Sized(lots=(least,), asked=least) if isinstance(found, Refused) else found


@sprung_by(replaced("copier.plan.size", _at_least_the_minimum))
def test_trap_15_a_volume_far_under_the_minimum_lot_is_refused_and_not_raised_to_ten_times_the_risk() -> None:
    async def tell(world: World) -> None:
        world.buy("EURUSD", "1.00")
        await world.settle()
        assert world.accounts["f"].positions == ()
        assert await codes(world) == ["inflation_above_max"]

    story(lambda: sized(mode="multiplier", multiplier="0.001", below_min="minimum"), tell)


# 16 ------------------------------------------------------------------------------------------------------------------------


def _as_many_lots(filled: Decimal, master_lots: Decimal, master_opened: Decimal, _: SymbolSpec) -> Decimal:
    """Close as many lots as the master closed."""
    return max(ZERO, filled - (master_opened - master_lots))


@sprung_by(replaced("copier.reconcile.reduce_target", _as_many_lots))
def test_trap_16_a_partial_close_leaves_a_fixed_lot_copy_its_share() -> None:
    async def tell(world: World) -> None:
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        assert world.net_is("EURUSD", "0.10")
        world.close(ticket, "0.40")
        await world.settle()
        assert world.net_is("EURUSD", "0.06")

    story(lambda: sized(mode="fixed", lots="0.10"), tell)


# 19 ------------------------------------------------------------------------------------------------------------------------


class NoGold(World):
    """A follower's broker that offers gold in euros, silver, and a mining share called GOLD, and no gold in dollars."""

    def __init__(self) -> None:
        super().__init__(HEDGING, one(HEDGING))
        server = self.accounts["f"].server
        del server.symbols["XAUUSD"]
        for name, kind, base, profit in (
            ("XAUEUR", CalcMode.CFD_LEVERAGE, "XAU", "EUR"),
            ("XAGUSD", CalcMode.CFD_LEVERAGE, "XAG", "USD"),
            ("GOLD", CalcMode.STOCKS, "USD", "USD"),
        ):
            spec = symbol_spec(name, digits=2, contract_size="100", calc_mode=kind, currency_base=base, currency_profit=profit)
            server.add_symbol(PaperSymbol(spec=spec))

    def quote(self, symbol: str, bid: str, ask: str) -> None:
        self._quotes[symbol] = (bid, ask)
        for account in (self.master, *self.accounts.values()):
            for each in account.server.symbols:
                if each == symbol or (symbol == "XAUUSD" and each in ("XAUEUR", "XAGUSD", "GOLD")):
                    account.quote(each, bid, ask)


def _most_alike(symbol: str, policy: Any, master: Any, catalogue: dict[str, SymbolSpec]) -> str | Refused:
    """Take the symbol whose name is most alike."""
    del policy, master
    return difflib.get_close_matches(symbol, sorted(catalogue), 1, 0)[0]


@sprung_by(replaced("copier.plan.follower_symbol", _most_alike))
def test_trap_19_gold_in_dollars_is_not_copied_to_whatever_is_spelt_alike() -> None:
    async def tell(world: World) -> None:
        world.buy("XAUUSD", "1.00")
        await world.settle()
        assert world.accounts["f"].positions == ()
        assert await codes(world) == ["symbol_unmapped"]

    story(NoGold, tell)


# 21 ------------------------------------------------------------------------------------------------------------------------


class Terminals:
    """Accounts behind terminals of MetaTrader 5 on one machine, each with the way of its own that the engine gives it."""

    @asynccontextmanager
    async def __call__(self, account: Account) -> AsyncIterator[Gateway]:
        account.server.add_account(PaperAccount(2))
        terminal = FakeTerminal(server=account.server, login=1, selected={"EURUSD"}, path=f"C:\\{account.server.name}.exe")
        async with mt5_stage.in_process(terminal, account.clock, account.faults) as gateway:
            yield gateway


def _one_connection(patch: pytest.MonkeyPatch) -> None:
    """One MetaTrader5 package for all terminals, as the threads of one process share it: who connects last has it."""
    shared = FakeMetaTrader5()

    class OneConnection(mt5_stage.InProcessCarrier):
        async def connect(self) -> Any:
            shared._installed = (*shared._installed, self._terminal)
            link: Any = await super().connect()
            link._api = shared
            return link

    patch.setattr(mt5_stage, "InProcessCarrier", OneConnection)


@sprung_by(_one_connection)
def test_trap_21_two_terminals_on_one_machine_never_see_each_others_accounts() -> None:
    async def tell(world: World) -> None:
        ticket = world.buy("EURUSD", "1.00")
        await world.settle(10)
        assert (world.net_is("EURUSD", "1.00", "f"), world.net_is("EURUSD", "2.00", "g")) == (True, True)
        world.close(ticket)
        await world.settle(10)
        assert (world.net_is("EURUSD", "0", "f"), world.net_is("EURUSD", "0", "g")) == (True, True)

    def make() -> World:
        twice = {"size": {"mode": "multiplier", "multiplier": "2"}}
        return World(HEDGING, {"f": (HEDGING, {}), "g": (HEDGING, twice)}, reach={"f": Terminals(), "g": Terminals()})

    story(make, tell)


# 22 ------------------------------------------------------------------------------------------------------------------------


async def _nothing_but_comments(load: Any, ledger: Ledger, followers: list[str]) -> Remembered:
    """Which copy belongs to which position stands in the copies' comments and nowhere else."""
    remembered: Remembered = await load(ledger, followers)
    return Remembered(links={name: {} for name in followers}, readings=remembered.readings, facts=remembered.facts)


@sprung_by(instead(Ledger, "load", _nothing_but_comments))
def test_trap_22_a_copy_whose_comment_the_broker_cut_is_known_after_a_restart_and_closes_with_its_master() -> None:
    async def tell(world: World) -> None:
        world.accounts["f"].faults.always(Operation.EXECUTE, comment_cut(4))
        ticket = world.buy("EURUSD", "1.00")
        await world.settle()
        await restart_worker(world)
        await world.settle(5)
        assert [p.lots for p in world.accounts["f"].positions] == [D("1.00")]
        world.close(ticket)
        await world.settle(5)
        assert world.accounts["f"].positions == ()

    story(hedging, tell)


# 23 ------------------------------------------------------------------------------------------------------------------------

SEAT = "5001@Broker-Demo"


async def _whoever_dials(link: Any, *_: Any) -> str:
    """Welcome everybody."""
    await link.receive()
    await link.send(encode(Welcome(welcome=True)))
    return "a life"


@sprung_by(replaced("copier.gateways.bridge_hub.greet", _whoever_dials))
def test_trap_23_a_stranger_who_dials_in_hears_no_trade() -> None:
    async def serve(carrier: HubCarrier) -> None:
        link = await carrier.connect()
        await link.send(encode_request(1, Op.CLOSE_POSITION, CloseRequest(ticket=1)))
        await link.close()

    async def dial(listener: PortListener) -> list[dict[str, Any]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        hello = {"hello": "bridge", "protocol": 1, "account": SEAT, "platform": "mt5", "build": 5200, "program": "Stranger"}
        for said in ({**hello, "utcMs": SystemClock().now_ms(), "nonce": "0" * 32}, {"proof": "0" * 64}):
            writer.write(json.dumps(said).encode() + b"\n")
        heard = [json.loads(line) async for line in reader]
        writer.close()
        return heard

    async def run() -> None:
        listener = PortListener(port=0)
        hub = BridgeHub(listener, clock=SystemClock())
        carrier = hub.carrier(SEAT, "a secret of the engine")
        await hub.take_seat(carrier.seat)
        serving = asyncio.create_task(serve(carrier))
        try:
            heard = await dial(listener)
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            await carrier.close()
        assert [frame for frame in heard if "op" in frame] == []
        assert "secrets differ" in heard[-1]["refused"]

    asyncio.run(run())


# 24 ------------------------------------------------------------------------------------------------------------------------


def _as_they_are(policy: Any, facts: Any) -> tuple[Decimal, Decimal]:
    """A stop is a stop, whichever way the copy goes."""
    del policy
    return facts.master_stop, facts.master_target


@sprung_by(replaced("copier.stops._wanted", _as_they_are))
def test_trap_24_a_reversed_copy_has_the_masters_target_as_stop_and_its_stop_as_target() -> None:
    async def tell(world: World) -> None:
        world.buy("EURUSD", "1.00", stop_loss=D("1.09000"), take_profit=D("1.12000"))
        await world.settle()
        spread = D("0.00010")
        copies = [(p.type, p.stop_loss, p.take_profit) for p in world.accounts["f"].positions]
        assert copies == [(Side.SELL, D("1.12000") + spread, D("1.09000") + spread)]

    story(lambda: World(HEDGING, one(HEDGING, {"copy": {"reverse": True, "stops": "copy", "targets": "copy"}})), tell)
