"""Prices for the paper broker: the seeded walk and recorded ticks."""

import asyncio
import os
from decimal import Decimal
from pathlib import Path

import pytest

from copier.clock import LoopClock, run_virtual
from copier.gateways.paper_quotes import RandomWalk, Tick, play_ticks, read_ticks
from copier.gateways.paper_server import PaperServer

D = Decimal
RECORDED = Path(__file__).resolve().parents[2] / "../shared/data/ticks"


def walked(seed, steps=200, symbol="EURUSD", bid="1.10000"):
    class Feed(PaperServer):
        def set_quote(self, symbol, bid, ask):
            super().set_quote(symbol, bid, ask)
            seen.append((bid, ask))

    seen = []
    server = Feed(clock=LoopClock())

    async def main():
        walk = RandomWalk(server, symbol, bid, seed=seed)
        for _ in range(steps):
            walk.step()

    run_virtual(main())
    return seen


def test_the_same_seed_walks_the_same_way_and_another_another():
    assert walked(1) == walked(1)
    assert walked(1) != walked(2)


def test_a_walk_stays_on_the_tick_and_keeps_its_spread():
    for bid, ask in walked(3, symbol="US30", bid="38000"):
        assert bid % D("0.5") == 0
        assert ask - bid == 5


def test_a_walk_from_almost_nothing_never_reaches_zero():
    assert all(bid > 0 for bid, _ in walked(4, steps=500, bid="0.00003"))


def test_a_running_walk_takes_the_loops_time():
    server = PaperServer(clock=LoopClock())

    async def main():
        task = asyncio.create_task(RandomWalk(server, "EURUSD", "1.1", seed=1, pause_s=0.5).run())
        await asyncio.sleep(100)
        task.cancel()
        return server.ticks

    assert 120 < run_virtual(main()) < 300


def test_recorded_ticks_come_with_their_recorded_distances():
    server = PaperServer(clock=LoopClock(1_000_000))
    times = []

    async def main():
        ticks = [Tick(5_000, D("1.1"), D("1.2")), Tick(5_250, D("1.2"), D("1.3")), Tick(8_000, D("1.3"), D("1.4"))]

        def watched():
            for tick in ticks:
                yield tick
                times.append((server.quotes["EURUSD"].time_ms, server.quotes["EURUSD"].bid))

        return await play_ticks(server, "EURUSD", watched(), speed=0.5)

    assert run_virtual(main()) == 3
    assert times == [(1_000_000, D("1.1")), (1_000_500, D("1.2")), (1_006_000, D("1.3"))]


def test_a_tick_file_is_read_as_it_stands(tmp_path):
    file = tmp_path / "ticks.csv"
    file.write_text("time_utc,bid,ask\n2019-01-01T23:00:00.078Z,1.14605,1.14643\n", encoding="utf-8")
    assert list(read_ticks(file)) == [Tick(1_546_383_600_078, D("1.14605"), D("1.14643"))]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("time,bid,ask\n", "expected the header time_utc,bid,ask, not time,bid,ask"),
        ("", "expected the header"),
        ("time_utc,bid,ask\n2019-01-01T23:00:00Z,1.1\n", "line 2"),
        ("time_utc,bid,ask\n2019-01-01T23:00:00Z,1.1,1.2\nyesterday,1.1,1.2\n", "line 3"),
        ("time_utc,bid,ask\n2019-01-01T23:00:00Z,1.1,much\n", "line 2.*much"),
    ],
)
def test_a_bad_tick_file_is_told_by_line(tmp_path, text, complaint):
    file = tmp_path / "ticks.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=complaint):
        list(read_ticks(file))


@pytest.mark.parametrize("symbol", ["EURUSD", "USDJPY"])
def test_real_recordings_play_to_the_end(symbol):
    file = RECORDED / f"{symbol}-2019-01-01.csv"
    if not file.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"with CI=true nothing is skipped: {file} is absent")
        pytest.skip(f"{file} is absent")
    server = PaperServer(clock=LoopClock())
    ticks = list(read_ticks(file))
    assert run_virtual(play_ticks(server, symbol, ticks)) == len(ticks) == 10_000
    assert (server.quotes[symbol].bid, server.quotes[symbol].ask) == (ticks[-1].bid, ticks[-1].ask)
