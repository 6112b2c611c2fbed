"""The arithmetic of scale: it adds up, more cores never make a burst slower, and the page is the one it writes."""

import random

import pytest

from benchmarks import scale
from benchmarks.scale import Costs, World, needs, page, popularity, quantiles, readers, simulate, spread

COSTS = Costs(
    event_bytes=900, snapshot_bytes=1800, journal_bytes=2600, publish_us=300, read_us=30, copy_us=500, commit_ms=5,
    follower_kib=100, process_mib=80, machine={"cores": 2, "processor": "x", "python": "3", "load": 0},
)  # fmt: skip
SMALL = World(masters=200, followers=20_000)


def test_every_follower_has_a_master() -> None:
    assert abs(sum(popularity(SMALL)) - SMALL.followers) < SMALL.masters
    assert popularity(SMALL) == sorted(popularity(SMALL), reverse=True)


def test_no_more_workers_read_a_master_than_there_are_or_than_it_has_followers() -> None:
    for followers in (1, 10, 1000):
        for workers in (1, 5, 100):
            assert readers(followers, workers) <= min(workers, followers) + 1e-9


def test_twice_the_followers_need_twice_the_workers_and_cores() -> None:
    once, twice = needs(COSTS, SMALL), needs(COSTS, World(masters=200, followers=40_000))
    assert twice.workers == 2 * once.workers
    assert twice.burst_cores == pytest.approx(2 * once.burst_cores, rel=0.02)


def test_masters_need_their_processes_too_whoever_follows() -> None:
    few, many = needs(COSTS, SMALL), needs(COSTS, World(masters=400, followers=20_000))
    assert few.watching_gib == 200 * 80 / 1024
    assert many.watching_gib == 2 * few.watching_gib


def test_more_cores_never_make_a_burst_slower() -> None:
    last = [simulate(COSTS, SMALL, cores).last_s for cores in (1, 2, 4, 8, 16)]
    assert last == sorted(last, reverse=True)


@pytest.mark.parametrize("followers", [1, 7, 64, 1001])
def test_each_core_has_its_share_of_a_masters_followers(followers: int) -> None:
    shares = list(spread(followers, 8, random.Random(1)))
    assert sum(copies for _, copies in shares) == followers or followers < 8
    assert len({core for core, _ in shares}) == len(shares)


def test_quantiles_go_by_copies_and_not_by_rows() -> None:
    assert quantiles([(1.0, 1), (2.0, 98), (3.0, 1)]) == {"p50_s": 2.0, "p99_s": 2.0, "last_s": 3.0}


@pytest.mark.slow
def test_the_page_is_the_one_that_the_kept_costs_give() -> None:
    assert scale.DOC.read_text(encoding="utf-8") == page(scale.kept(), World()), "run: python -m benchmarks.scale --again --write"
