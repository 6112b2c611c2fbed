"""The demonstration, in virtual time: what it claims at its end is so at the brokers."""

import asyncio
import json
from decimal import Decimal

import pytest

from copier import demo as demonstration
from copier.clock import LoopClock, run_virtual
from copier.demo import Demo, DemoEnd, as_json
from copier.errors import CopierError
from copier.model import Receipt, Verdict

MONDAY_MS = 1_767_600_000_000


class Told:
    def __init__(self) -> None:
        self.story: list[str] = []
        self.receipts: list[Receipt] = []
        self.seconds = 0.0


def play() -> tuple[Demo, DemoEnd, Told]:
    told = Told()

    async def main() -> tuple[Demo, DemoEnd]:
        demo = Demo(LoopClock(MONDAY_MS), told.story.append)
        demo.app.listeners.append(told.receipts.append)
        async with demo.live():
            end = await demo.play()
        told.seconds = asyncio.get_running_loop().time()
        return demo, end

    return *run_virtual(main()), told


@pytest.fixture(scope="module")
def played() -> tuple[Demo, DemoEnd, Told]:
    return play()


def test_it_ends_within_forty_seconds_with_nothing_doubled_and_nothing_lost(played: tuple[Demo, DemoEnd, Told]) -> None:
    _, end, told = played
    assert told.seconds < 40
    assert end.good
    assert end.verdict == "nothing doubled, nothing lost: 9 positions opened, 9 closed, 2 refused with reasons"


def test_every_broker_is_flat_at_the_end(played: tuple[Demo, DemoEnd, Told]) -> None:
    demo, _, _ = played
    assert [server.positions(login) for server in demo.paper.servers.values() for login in server.accounts] == [()] * 4


def test_gold_is_copied_in_ounces_and_not_in_lots(played: tuple[Demo, DemoEnd, Told]) -> None:
    _, _, told = played
    (gold,) = [r for r in told.receipts if r.follower == "cross" and r.symbol == "XAUUSD.r" and r.verdict is Verdict.COPIED]
    assert (gold.master_lots, gold.lots) == (Decimal("0.20"), Decimal("1.00"))


def test_the_dead_terminal_catches_up_exactly_once(played: tuple[Demo, DemoEnd, Told]) -> None:
    _, _, told = played
    own = [r for r in told.receipts if r.follower == "netting" and r.symbol == "EURUSD" and r.verdict is Verdict.COPIED]
    assert [receipt.lots for receipt in own] == [Decimal("0.50"), Decimal("0.25")]


def test_the_small_account_trades_the_other_side_until_its_limit_closes_everything(played: tuple[Demo, DemoEnd, Told]) -> None:
    _, end, told = played
    own = [receipt for receipt in told.receipts if receipt.follower == "small"]
    assert {r.side for r in own if r.verdict is Verdict.COPIED} == {"sell"}
    fired = [r.code for r in own].index("limit_fired")
    assert {r.code for r in own[fired:] if r.verdict is Verdict.CLOSED} == {"flattened"}
    assert [r.symbol for r in own[fired:] if r.verdict is Verdict.REFUSED] == ["US30"]
    small = next(each for each in end.followers if each.follower == "small")
    assert small.balance < 970


def test_it_goes_the_same_way_every_time(played: tuple[Demo, DemoEnd, Told]) -> None:
    _, end, told = played
    _, again, told_again = play()
    assert (again, told_again.story) == (end, told.story)


def test_its_end_is_json_for_machines(played: tuple[Demo, DemoEnd, Told]) -> None:
    answer = json.loads(as_json(played[1]))
    assert answer["good"] is True
    assert [follower["follower"] for follower in answer["end"]["followers"]] == ["cross", "netting", "small"]


def test_a_position_that_is_left_open_or_opened_twice_is_told(played: tuple[Demo, DemoEnd, Told]) -> None:
    demo, _, _ = played

    async def spoil() -> DemoEnd:
        demo.paper.servers["Cross-Broker"].buy(2001, "EURUSD.r", "0.10", comment="mc0001stray")
        return demo._end()

    end = run_virtual(spoil())
    assert not end.good
    assert end.verdict.startswith("1 doubled, 1 lost: ")


def test_without_connected_followers_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demonstration, "SETTLE_S", 1.0)

    async def main() -> None:
        demo = Demo(LoopClock(MONDAY_MS), lambda _: None)
        demo.paper.servers["Small-Broker"].online = False
        async with demo.live():
            await demo.play()

    with pytest.raises(CopierError, match="the followers did not connect"):
        run_virtual(main())
