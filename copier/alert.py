"""An alert: what is wrong with which account, since when, and what to do about it."""

from enum import StrEnum

from copier.model import Record


class Watchdog(StrEnum):
    """What is watched for; the names stand in the settings, too."""

    NAKED = "naked"
    """A wanted stop is not at the broker."""
    MASTER = "master"
    """Nothing is read or heard of a master."""
    FOLLOWER = "follower"
    """An account cannot be followed."""
    DRIFT = "drift"
    """More is open than should be."""
    LAG = "lag"
    """What is heard of a master is old."""
    CLOCK = "clock"
    """This machine's clock and another one disagree."""
    UNKNOWN = "unknown"
    """Nobody can say what became of an order."""


class Alert(Record, frozen=True, kw_only=True):
    """One condition from when it was raised until it was over; watchdog and subject name it while it stands."""

    watchdog: Watchdog
    subject: str
    """Of what: a master, a follower, or one position of it."""
    account: str
    """The account's name in the settings, or what else is in trouble."""
    cause: str
    """What is wrong, in words, as it was when the alert was raised."""
    advice: str
    """What to do."""
    by: str
    """Whose watchdog: the role that looks after it, and that ends it."""
    since_ms: int
    """When the condition began, as far as anybody can tell."""
    raised_ms: int
    ended_ms: int = 0
    """When it was over; 0 while it stands."""
    done: str = ""
    """What was done about it, by the settings' answer."""

    @property
    def name(self) -> tuple[Watchdog, str]:
        """What it is known by while it stands."""
        return (self.watchdog, self.subject)
