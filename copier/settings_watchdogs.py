"""What a trader sets of the watchdogs: when each barks, what it does then, and whether it looks at all."""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from copier.policy import Count, Policy, Positive


class NakedAnswer(StrEnum):
    """What to do about a position without its stop."""

    ALERT = "alert"
    SET = "set"
    CLOSE = "close"


class SilenceAnswer(StrEnum):
    """What to do at the followers of a master of which nothing is heard."""

    HOLD = "hold"
    STOP_OPENS = "stop_opens"
    FLATTEN = "flatten"


class _Watchdog(Policy):
    """What every watchdog has."""

    enabled: bool = True
    """Look at all."""


class NakedWatchdog(_Watchdog):
    """A stop is wanted, and the broker has none, or another one."""

    after_ms: Annotated[Count, Field(le=600_000)] = 5_000
    """For so long before it is an alert, and again so long between two answers."""
    answer: NakedAnswer = NakedAnswer.SET
    """`alert` only says so, `set` also asks for the stop again at once, `close` closes a copy that has no stop at all."""


class MasterWatchdog(_Watchdog):
    """Nothing is read, or heard, of a master."""

    after_s: Annotated[Positive, Field(ge=1, le=86_400)] = Decimal(30)
    """For so long before it is an alert; more than a few `snapshot_s`."""
    answer: SilenceAnswer = SilenceAnswer.HOLD
    """`hold` keeps all that is open, `stop_opens` also opens nothing until it is back, `flatten` closes its copies in the end."""
    flatten_after_s: Annotated[Positive, Field(ge=1, le=604_800)] = Decimal(900)
    """With `flatten`: after so long its copies are closed; they are not opened again when it comes back."""


class FollowerWatchdog(_Watchdog):
    """An account cannot be followed, or one step at it does not end."""

    after_s: Annotated[Positive, Field(ge=1, le=86_400)] = Decimal(60)
    """For so long before it is an alert."""


class DriftWatchdog(_Watchdog):
    """More is open than the master's position stands for, or a netting symbol holds what nobody can explain."""

    after_s: Annotated[Positive, Field(ge=1, le=86_400)] = Decimal(60)
    """For so long before it is an alert."""


class LagWatchdog(_Watchdog):
    """What is heard of a master was read long ago."""

    above_ms: Annotated[Count, Field(le=3_600_000)] = 5_000
    """So old at the follower; clocks that disagree make it wrong by as much."""
    after_s: Annotated[Positive, Field(ge=1, le=86_400)] = Decimal(15)
    """For so long before it is an alert."""


class ClockWatchdog(_Watchdog):
    """This machine's clock and that of the ledger's server, of Redis or of a broker disagree."""

    above_ms: Annotated[Count, Field(le=3_600_000)] = 3_000
    """By so much. Orders carry a not-after 5 s ahead, which a far end with another clock judges."""
    every_s: Annotated[Positive, Field(ge=1, le=3600)] = Decimal(30)
    """How often the clocks are compared; two comparisons in a row make an alert."""


class UnknownWatchdog(_Watchdog):
    """An order's outcome stays unknown."""

    after_s: Annotated[Positive, Field(ge=1, le=86_400)] = Decimal(90)
    """For so long, from when it was sent, before it is an alert."""


class WatchdogSettings(Policy):
    """What is watched for beside the copying; each raises its alert once and ends it once."""

    look_ms: Annotated[Count, Field(ge=100, le=60_000)] = 1_000
    """How often they look."""
    naked: NakedWatchdog = NakedWatchdog()
    """A stop is wanted, and the broker has none, or another one."""
    master: MasterWatchdog = MasterWatchdog()
    """Nothing is read, or heard, of a master."""
    follower: FollowerWatchdog = FollowerWatchdog()
    """An account cannot be followed."""
    drift: DriftWatchdog = DriftWatchdog()
    """More is open than the master's position stands for."""
    lag: LagWatchdog = LagWatchdog()
    """What is heard of a master was read long ago."""
    clock: ClockWatchdog = ClockWatchdog()
    """Clocks disagree."""
    unknown: UnknownWatchdog = UnknownWatchdog()
    """An order's outcome stays unknown."""
