"""The short way of simple, certain orders: what it may do, when it must not, and that nothing is lost where it fails."""

import asyncio
from typing import Any

import pytest

from copier.clock import run_virtual
from copier.errors import StoreError
from copier.gateways.paper_faults import Operation, answer_lost, delay, never_answered
from copier.lane import Lane
from copier.model import MarginMode
from tests.world import D, World, one

TICKET_MODES = (MarginMode.HEDGING, MarginMode.MT4)


class ReadAhead(World):
    """A world whose worker reads prices ahead."""

    def start_worker(self) -> None:
        super().start_worker()
        self.worker._ahead_s = 0.5


@pytest.fixture
def flown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note every order that goes the short way."""
    names: list[str] = []
    fly = Lane._fly

    async def noted(self: Lane, name: Any, order: Any) -> None:
        names.append(name[1])
        await fly(self, name, order)

    monkeypatch.setattr(Lane, "_fly", noted)
    return names


def play(mode: MarginMode, policy: dict[str, Any], tell: Any) -> None:
    async def run() -> None:
        w = ReadAhead(mode, one(mode, policy))
        await w.start()
        try:
            w.quote("EURUSD", "1.10000", "1.10010")
            first = w.buy("EURUSD", "1")  # Asked for slowly, and from then on read ahead.
            await w.settle()
            w.close(first)
            await w.settle(8)
            await tell(w)
        finally:
            await w.stop()

    run_virtual(run())


@pytest.mark.parametrize("mode", TICKET_MODES)
def test_an_open_and_a_close_on_a_resting_account_go_the_short_way(mode: MarginMode, flown: list[str]) -> None:
    async def tell(w: World) -> None:
        flown.clear()
        ticket = w.buy("EURUSD", "1")
        await w.settle()
        assert w.net_is("EURUSD", "1")
        assert len(flown) == 1
        w.close(ticket)
        await w.settle(8)
        assert w.net_is("EURUSD", "0")
        assert len(flown) == 2
        receipts = [(r.event, r.code) for r in await w.receipts()]
        assert receipts[-2:] == [("open", "copied"), ("close", "master_closed")]
        opened = next(r for r in reversed(await w.receipts()) if r.event == "open")
        assert opened.stamps is not None
        assert all((opened.stamps.received_ms, opened.stamps.decided_ms, opened.stamps.sent_ms, opened.stamps.answered_ms))

    play(mode, {}, tell)


def test_a_netting_account_never_goes_the_short_way(flown: list[str]) -> None:
    async def tell(w: World) -> None:
        w.buy("EURUSD", "1")
        await w.settle()
        assert w.net_is("EURUSD", "1")
        assert flown == []

    play(MarginMode.NETTING, {}, tell)


def test_a_relation_that_always_asks_for_prices_opens_nothing_the_short_way(flown: list[str]) -> None:
    async def tell(w: World) -> None:
        flown.clear()
        w.buy("EURUSD", "1")
        await w.settle()
        assert w.net_is("EURUSD", "1")
        assert flown == []

    play(MarginMode.HEDGING, {"protection": {"read_ahead_max_ms": 0}}, tell)


def test_a_refusal_on_what_was_read_ahead_is_asked_again_on_a_fresh_price(flown: list[str]) -> None:
    async def tell(w: World) -> None:
        flown.clear()
        follower = w.accounts["f"]
        follower.quote("EURUSD", "1.10000", "1.10500")
        await asyncio.sleep(1)
        assert w.follower().standing._quotes["EURUSD"].spread == D("0.005")
        follower.quote("EURUSD", "1.10000", "1.10010")  # Nobody has read it again when the master opens.
        w.buy("EURUSD", "1")
        await asyncio.sleep(0.3)
        assert w.net_is("EURUSD", "1")
        assert flown == []

    play(MarginMode.HEDGING, {"protection": {"spread_points_max": 50}}, tell)


def test_with_an_order_of_unknown_outcome_nothing_goes_the_short_way(flown: list[str]) -> None:
    async def tell(w: World) -> None:
        flown.clear()
        w.accounts["f"].faults.next(Operation.EXECUTE, answer_lost())
        w.buy("EURUSD", "1")
        await asyncio.sleep(0.1)
        assert len(flown) == 1
        w.buy("EURUSD", "2")
        await asyncio.sleep(0.1)
        assert len(flown) == 1
        await w.settle(12)
        assert w.net_is("EURUSD", "3")

    play(MarginMode.HEDGING, {}, tell)


def test_what_comes_while_the_turn_is_busy_leaves_together_once_it_is_not(flown: list[str]) -> None:
    async def tell(w: World) -> None:
        kept = w.buy("EURUSD", "2")
        await w.settle()
        flown.clear()
        w.accounts["f"].faults.next(Operation.POSITIONS, delay(answer_s=2))
        w.follower().compare_now()
        await asyncio.sleep(0.5)
        w.buy("EURUSD", "1")
        w.buy("EURUSD", "3")
        w.close(kept)
        await asyncio.sleep(0.5)
        assert w.net_is("EURUSD", "2")
        assert flown == []
        await w.settle()
        assert w.net_is("EURUSD", "4")
        assert len(flown) == 3

    play(MarginMode.HEDGING, {}, tell)


def test_opens_leave_together_though_each_answer_takes_longer_than_a_price_keeps(flown: list[str]) -> None:
    async def tell(w: World) -> None:
        flown.clear()
        w.accounts["f"].gateway._latency_s = 0.8
        await asyncio.sleep(5)
        flown.clear()
        for lots in ("1", "2", "3"):
            w.buy("EURUSD", lots)
        await w.settle(12)
        assert w.net_is("EURUSD", "6")
        assert len(flown) == 3

    play(MarginMode.HEDGING, {"protection": {"read_ahead_max_ms": 500}}, tell)


def test_a_price_that_grew_old_while_another_was_asked_for_is_asked_for_again(flown: list[str]) -> None:
    async def tell(w: World) -> None:
        w.accounts["f"].gateway._latency_s = 0.8
        await asyncio.sleep(5)
        flown.clear()
        first, second = w.buy("EURUSD", "1"), w.buy("XAUUSD", "1")
        await w.settle(12)
        assert w.net_is("EURUSD", "1")
        assert w.net_is("XAUUSD", "1")
        assert flown == [f"{second}.1", f"{first}.1"]

    play(MarginMode.HEDGING, {"protection": {"read_ahead_max_ms": 500}}, tell)


def test_a_position_that_takes_the_place_of_one_just_closed_fits_under_the_limit_for_one(flown: list[str]) -> None:
    async def tell(w: World) -> None:
        ticket = w.buy("EURUSD", "1")
        await w.settle()
        for lots in ("2", "3", "4"):
            w.close(ticket)
            ticket = w.buy("EURUSD", lots)
            await w.settle()
            assert w.net_is("EURUSD", lots)

    play(MarginMode.HEDGING, {"risk": {"open": {"positions_max": 1}}}, tell)


@pytest.mark.parametrize("what", ["open", "close"])
def test_what_cannot_be_made_durable_is_not_sent_and_is_wanted_again(
    what: str, flown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tell(w: World) -> None:
        ticket = w.buy("EURUSD", "1")
        await w.settle()
        flown.clear()
        append, fails = w.ledger.append, [True]

        async def refuse(entries: Any) -> None:
            if fails[0]:
                raise StoreError("the disk is full")
            await append(entries)

        monkeypatch.setattr(w.ledger, "append", refuse)
        orders = len(w.accounts["f"].server.accounts[1].deals)
        if what == "open":
            w.buy("EURUSD", "2")
        else:
            w.close(ticket)
        await w.settle()
        assert len(w.accounts["f"].server.accounts[1].deals) == orders
        assert flown == []
        fails[0] = False
        await w.settle(20)
        assert w.net_is("EURUSD", "3" if what == "open" else "0")

    play(MarginMode.HEDGING, {}, tell)


def test_while_one_order_hangs_others_of_the_account_leave(flown: list[str]) -> None:
    async def tell(w: World) -> None:
        flown.clear()
        w.accounts["f"].faults.next(Operation.EXECUTE, never_answered(executed=False))
        w.buy("EURUSD", "1")
        await asyncio.sleep(0.1)
        w.buy("EURUSD", "2")
        await asyncio.sleep(0.1)
        assert w.net_is("EURUSD", "2")
        assert len(flown) == 2

    play(MarginMode.HEDGING, {}, tell)


def test_quiet_snapshots_are_read_without_a_record_each() -> None:
    async def tell(w: World) -> None:
        count = 0
        append = w.ledger.append

        async def counted(entries: Any) -> None:
            nonlocal count
            count += 1
            await append(entries)

        w.ledger.append = counted  # type: ignore[method-assign]
        await w.settle(60)
        assert 2 <= count <= 10

    play(MarginMode.HEDGING, {}, tell)
