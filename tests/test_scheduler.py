"""The scheduler: it says when, by a virtual clock."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from copier.clock import LoopClock, run_virtual
from copier.errors import Fenced, StoreError
from copier.scheduler import Scheduler

MONDAY_MS = 1_767_600_000_000
"""Monday, 5 January 2026, 08:00 UTC."""


def run_for(seconds: float, plan: Callable[[Scheduler], None]) -> None:
    async def main() -> None:
        scheduler = Scheduler(LoopClock(MONDAY_MS))
        plan(scheduler)
        try:
            async with asyncio.timeout(seconds):
                await scheduler.run()
        except TimeoutError:
            pass

    run_virtual(main())


def noting(times: list[float], lasts_s: float = 0.0, fails: Exception | None = None) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        times.append(round(asyncio.get_running_loop().time(), 3))
        await asyncio.sleep(lasts_s)
        if fails is not None:
            raise fails

    return work


def test_an_interval_begins_at_once_and_keeps_its_pace() -> None:
    times: list[float] = []
    run_for(3.2, lambda s: s.every("job", 1, noting(times)))
    assert times == [0, 1, 2, 3]


def test_a_first_run_can_wait() -> None:
    times: list[float] = []
    run_for(9, lambda s: s.every("job", 3, noting(times), first_s=2))
    assert times == [2, 5, 8]


def test_a_job_that_takes_long_never_overlaps_itself_and_leaves_out_what_it_missed() -> None:
    times: list[float] = []
    run_for(9, lambda s: s.every("job", 1, noting(times, lasts_s=2.5)))
    assert times == [0, 3, 6]


@pytest.mark.parametrize("error", [StoreError("gone"), ValueError("a mistake of ours")])
def test_a_job_that_fails_runs_again_next_time_and_is_told_once(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    times: list[float] = []
    run_for(2.5, lambda s: s.every("job", 1, noting(times, fails=error)))
    assert times == [0, 1, 2]
    assert len(caplog.records) == 1


def test_a_failing_job_stops_no_other() -> None:
    times: list[float] = []

    def plan(scheduler: Scheduler) -> None:
        scheduler.every("bad", 1, noting([], fails=ValueError("bad")))
        scheduler.every("good", 1, noting(times))

    run_for(2.5, plan)
    assert times == [0, 1, 2]


def test_a_job_that_learns_of_another_owner_ends_everything() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        run_for(5, lambda s: s.every("job", 1, noting([], fails=Fenced("another owner"))))
    assert caught.group_contains(Fenced)


def test_a_calendar_job_runs_at_its_hour_in_its_zone() -> None:
    times: list[float] = []
    run_for(2 * 86_400, lambda s: s.at("job", "30 10 * * *", noting(times), zone="Europe/Prague"))
    assert times == [1.5 * 3600, 25.5 * 3600]


def test_a_calendar_job_that_takes_long_is_not_run_for_what_it_missed() -> None:
    times: list[float] = []
    run_for(3 * 3600, lambda s: s.at("job", "0 * * * *", noting(times, lasts_s=5000)))
    assert times == [0, 7200]
