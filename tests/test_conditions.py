"""What is wrong with a follower is found whether or not all of it is looked at again."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from copier.clock import SystemClock
from copier.conditions import Condition, Inspection, drifted, naked, too_much, unanswered, unprotected
from copier.database import Database
from copier.follower import Follower
from copier.ledger import Ledger, Remembered
from copier.link import Cut, Leg, LegState, Link
from copier.model import Account, MarginMode, MasterPosition, Position, Quote, Side, SymbolSpec
from copier.reconcile import Book, target_lots
from copier.settings import FollowerSettings
from copier.sizing import lots_to_close

D = Decimal
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
SYMBOLS = ("EURUSD", "XAUUSD")
STEPS = (D("0.01"), D("0.02"), D("0.03"))
STOPS = (D(0), D("1.05"), D("1.06"))
replace = msgspec.structs.replace


@dataclass
class Broker:
    """One that is never asked: what it would say is told to the follower by the test."""

    tells: None = None


def followed(mode: MarginMode) -> Follower:
    """Return a follower of one master, with an account and nothing open."""
    clock = SystemClock()
    broker: Any = Broker()
    settings = FollowerSettings.model_validate({"account": "f", "copies": [{"master": "m"}]})
    ledger = Ledger(Database("sqlite://"), clock, "w")

    async def nothing(*_: object) -> bool:
        return False

    follower = Follower("f", settings, broker, ledger, clock, token=1, remembered=Remembered(), send_first=nothing)
    follower.standing.account = Account(
        account="f", login="f", name="f", server="f", company="f", currency="USD", leverage=100, margin_mode=mode,
        balance=D(0), equity=D(0), margin=D(0), free_margin=D(0), margin_level=D(0), profit=D(0),
    )  # fmt: skip
    return follower


def rules(symbol: str, step: Decimal) -> SymbolSpec:
    return SymbolSpec(
        symbol=symbol, digits=5, point=D("0.00001"), tick_size=D("0.00001"), tick_value=D(1), tick_value_loss=D(1),
        contract_size=D(100_000), volume_min=step, volume_step=step, volume_max=D(100),
    )  # fmt: skip


def tell(follower: Follower, symbol: str, step: Decimal) -> None:
    """Let the follower know a symbol's rules."""
    quote = Quote(account="f", symbol=symbol, bid=D("1.1"), ask=D("1.1"), timestamp=NOON, spec=rules(symbol, step))
    follower.standing._remember(symbol, quote)


def show(follower: Follower, symbol: str, lots: Decimal, stop: Decimal) -> None:
    """Let a netting follower read that its broker holds so many lots of a symbol, with this stop."""
    there = Position(
        ticket=1, identifier=1, symbol=symbol, type=Side.BUY, lots=lots, open_price=D("1.1"), current_price=D("1.1"),
        stop_loss=stop, open_time=NOON,
    )  # fmt: skip
    others = tuple(each for each in follower.leveller.book.positions if each.symbol != symbol)
    book = Book(mode=follower.standing.mode, positions=(*others, *([there] if lots else [])), began_ms=1, settle_ms=0)
    follower.leveller.book = book


def hundredths(most: int) -> st.SearchStrategy[Decimal]:
    return st.integers(0, most).map(lambda number: D(number) / 100)


@st.composite
def legs(draw: st.DrawFn) -> Leg:
    state = draw(st.sampled_from([LegState.OPEN] * 3 + list(LegState)))
    lots = draw(st.sampled_from([D("0.10"), D("0.10"), D("0.05"), D(0)]))
    tag = draw(st.sampled_from("abc"))
    ticket, sent_ms = draw(st.integers(1, 5)), draw(st.integers(0, 2))
    return Leg(
        tag=tag, side=Side.BUY, asked=D("0.10"), filled=D("0.10"), lots=lots, state=state, ticket=ticket,
        sent_ms=sent_ms, stop_loss=draw(st.sampled_from(STOPS)),
    )  # fmt: skip


@st.composite
def links(draw: st.DrawFn) -> Link:
    held = draw(st.sampled_from([D(1), D(1), D("0.50"), D("0.33"), D("1.50")]))
    position = MasterPosition(
        identifier=draw(st.integers(1, 4)), ticket=1, symbol="EURUSD", side=Side.BUY, lots=held, lots_opened=max(held, D(1)),
        open_price=D("1.1"), stop_loss=draw(st.sampled_from(STOPS)), open_time=NOON,
    )  # fmt: skip
    cut = Cut(tag="a", ticket=1, lots_before=D("0.10"), lots_after=D(0), sent_ms=1, not_after_ms=2, answered=draw(st.booleans()))
    return Link(
        follower="f", master="m", key=position.key, position=position, wanted_open=draw(st.sampled_from([True, True, False])),
        symbol=draw(st.sampled_from(SYMBOLS)), legs=tuple(draw(st.lists(legs(), max_size=2))), anchor=D(1),
        stop_loss=draw(st.sampled_from(STOPS)), cut=draw(st.sampled_from([None, None, None, cut])),
        laid_for=draw(st.sampled_from([None, (position.stop_loss, D(0), D("1.1"))])),
    )  # fmt: skip


@st.composite
def changes(draw: st.DrawFn) -> Callable[[Follower], None]:
    """Return something that may happen to a follower between two looks."""
    link, symbol = draw(links()), draw(st.sampled_from(SYMBOLS))
    lots, stop, step = draw(hundredths(20)), draw(st.sampled_from(STOPS)), draw(st.sampled_from(STEPS))

    def read(follower: Follower) -> None:
        show(follower, symbol, lots, stop)

    def understand(follower: Follower) -> None:
        follower.leveller.foreign = {symbol: lots} if lots else {}

    def freeze(follower: Follower) -> None:
        follower.standing.set_controls({"f/m": "frozen"} if lots > D("0.15") else {})

    def turn(follower: Follower) -> None:
        mode = MarginMode.NETTING if lots > D("0.10") else MarginMode.HEDGING
        follower.standing.account = replace(follower.standing.account, margin_mode=mode)

    return draw(st.sampled_from([lambda f: f.memory.want(link), lambda f: tell(f, symbol, step), read, understand, freeze, turn]))


def wrong(follower: Follower, links: list[Link]) -> list[Condition]:
    """Return all that is wrong with these copies."""
    bare = [naked(each) for each in unprotected(follower, links)]
    return [*bare, *drifted(follower, links), *unanswered(follower, links)]


@given(st.sampled_from(MarginMode), st.lists(links(), max_size=6), st.lists(st.lists(changes(), max_size=3), max_size=8))
def test_what_was_in_order_is_looked_at_again_once_it_may_not_be(
    mode: MarginMode, first: list[Link], rounds: list[list[Callable[[Follower], None]]]
) -> None:
    follower = followed(mode)
    for link in first:
        follower.memory.want(link)
    inspection = Inspection(follower)
    for several in [[], *rounds]:
        for change in several:
            change(follower)
        doubtful = inspection.doubtful()
        assert wrong(follower, doubtful) == wrong(follower, list(follower.memory.living.values()))
        if not several:
            assert inspection.doubtful() == doubtful


def copied(number: int, held: str = "1", lots: str = "0.10") -> Link:
    """Return a copy in order, of a master's position of which so much is left."""
    position = MasterPosition(
        identifier=number, ticket=number, symbol="EURUSD", side=Side.BUY, lots=D(held), lots_opened=D(1), open_price=D("1.1"),
        stop_loss=D("1.05"), open_time=NOON,
    )  # fmt: skip
    leg = Leg(
        tag=f"t{number}", side=Side.BUY, asked=D("0.10"), filled=D("0.10"), lots=D(lots), state=LegState.OPEN, ticket=number,
        stop_loss=D("1.05"),
    )  # fmt: skip
    return Link(
        follower="f", master="m", key=position.key, position=position, symbol="EURUSD", legs=(leg,), anchor=D(1),
        stop_loss=D("1.05"),
    )  # fmt: skip


def gone(follower: Follower) -> None:
    """Let a copy be gone of which the broker still holds its part."""
    link = next(iter(follower.memory.living.values()))
    follower.memory.want(replace(link, wanted_open=False, legs=(replace(link.legs[0], state=LegState.CLOSED, lots=D(0)),)))


@pytest.mark.parametrize(
    "change",
    [
        lambda f: show(f, "EURUSD", D("0.16"), D("1.05")),
        lambda f: show(f, "EURUSD", D("0.15"), D(0)),
        lambda f: f.leveller.foreign.update(EURUSD=D("0.02")),
        lambda f: tell(f, "EURUSD", D("0.01")),
        gone,
    ],
    ids=["the broker holds more", "the stop is gone", "another hand holds more", "finer steps", "a copy is gone"],
)
def test_what_one_symbol_holds_is_asked_again_after_anything_it_depends_on(change: Callable[[Follower], object]) -> None:
    follower = followed(MarginMode.NETTING)
    tell(follower, "EURUSD", D("0.05"))
    follower.memory.want(copied(1))
    follower.memory.want(copied(2, "0.33", "0.05"))
    show(follower, "EURUSD", D("0.15"), D("1.05"))
    inspection = Inspection(follower)
    assert inspection.doubtful() == []
    change(follower)
    found = wrong(follower, inspection.doubtful())
    assert found == wrong(follower, list(follower.memory.living.values()))
    assert found


@example(copied(1, lots="0.11"), D("0.01"))
@given(links(), st.sampled_from(STEPS))
def test_what_the_master_holds_whole_needs_no_rounding_to_be_judged(link: Link, step: Decimal) -> None:
    spec = rules("EURUSD", step)
    target = target_lots(link, spec)
    assert too_much(link, spec) == (target, lots_to_close(link.lots, target, spec))
