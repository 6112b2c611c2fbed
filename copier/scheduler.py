"""Says when: intervals and calendar times by APScheduler's triggers, on our own loop and clock; never what."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from copier.clock import Clock
from copier.errors import CopierError, Fenced

log = logging.getLogger(__name__)

Work = Callable[[], Awaitable[object]]
LOOK_AT_CLOCK_S = 30.0
"""A job that waits for a calendar time looks at the clock this often, since clocks are set and machines sleep."""
_1970 = datetime(1970, 1, 1, tzinfo=UTC)


class Scheduler:
    """Runs jobs for ever; one that fails is logged and runs again next time, and none overlaps itself."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._jobs: list[tuple[str, Callable[[], Awaitable[None]], Work]] = []
        self._failing: dict[str, str] = {}

    def every(self, name: str, seconds: float, work: Work, *, first_s: float = 0.0) -> None:
        """Run `work` after `first_s` and then every so many seconds of the loop's time; what is missed is left out."""
        trigger: IntervalTrigger | None = None

        async def wait() -> None:
            nonlocal trigger
            now = _1970 + timedelta(seconds=asyncio.get_running_loop().time())
            if trigger is None:
                trigger = IntervalTrigger(seconds=seconds, start_date=now + timedelta(seconds=first_s), timezone=UTC)
                await asyncio.sleep(first_s)
                return
            due = trigger.get_next_fire_time(None, now + timedelta(milliseconds=1))
            await asyncio.sleep((due - now).total_seconds())

        self._jobs.append((name, wait, work))

    def at(self, name: str, crontab: str, work: Work, *, zone: str = "UTC") -> None:
        """Run `work` when a crontab line says so, in a time zone."""
        trigger = CronTrigger.from_crontab(crontab, timezone=ZoneInfo(zone))
        after = _1970

        async def wait() -> None:
            nonlocal after
            due = trigger.get_next_fire_time(None, max(self._now(), after))
            while (delay_s := (due - self._now()).total_seconds()) > 0:  # noqa: ASYNC110 - the wall clock has no event
                await asyncio.sleep(min(delay_s, LOOK_AT_CLOCK_S))
            after = due + timedelta(milliseconds=1)

        self._jobs.append((name, wait, work))

    async def run(self) -> None:
        """Run every job until cancelled; end by `Fenced` when a job finds that another owner has begun."""
        async with asyncio.TaskGroup() as tasks:
            for name, wait, work in self._jobs:
                tasks.create_task(self._repeat(name, wait, work), name=f"job {name}")

    async def _repeat(self, name: str, wait: Callable[[], Awaitable[None]], work: Work) -> None:
        while True:
            await wait()
            try:
                await work()
            except Fenced:
                raise
            except Exception as error:
                self._complain(name, error)
            else:
                self._failing.pop(name, None)

    def _complain(self, name: str, error: Exception) -> None:
        """Say a job's trouble once, not with every run."""
        words = str(error)
        if self._failing.get(name) == words:
            return
        self._failing[name] = words
        if isinstance(error, CopierError):
            log.warning("%s: %s", name, words)
        else:
            log.exception("%s failed, it runs again next time", name)

    def _now(self) -> datetime:
        return _1970 + timedelta(milliseconds=self._clock.now_ms())
