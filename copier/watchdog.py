"""Watches what nobody asks for and nobody may miss: stops that are not set, masters gone silent, orders without an answer.

Each look turns what stands into conditions; one that holds for as long as its settings allow becomes an alert, once, and ends
it once. An answer of the settings asks the follower for what it does anyway: set the stop, open nothing, close.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping

import msgspec

from copier.alert import Alert, Watchdog
from copier.clock import Clock
from copier.conditions import (
    Condition,
    Inspection,
    ahead_ms,
    drifted,
    listed,
    naked,
    stands_still,
    unanswered,
    unfollowed,
    unprotected,
)
from copier.database import Database
from copier.errors import CopierError, GatewayError, StoreError
from copier.follower import Follower
from copier.history import History
from copier.link import Link
from copier.settings_watchdogs import NakedAnswer, SilenceAnswer, WatchdogSettings
from copier.stream import Stream
from copier.watcher import Watcher
from copier.worker import Worker

log = logging.getLogger(__name__)

ASLEEP_MS = 10_000
"""Two looks further apart than this were parted by a machine that slept or a clock that was set: silence counts from then."""
FRESH_TICK_MS = 2_000
"""Only a price that has just moved tells what its broker's clock shows."""
AT_ONCE = 20
"""After so many followers whatever else is ready has its turn."""


class Heard(msgspec.Struct):
    """When a follower of this process last heard of a master, how late that was, and who listens."""

    last_ms: int = 0
    lag_ms: int = 0
    listeners: list[Follower] = []


class Watchdogs:
    """All watchdogs of one process, over its watchers and its worker."""

    def __init__(
        self,
        settings: WatchdogSettings,
        clock: Clock,
        history: History,
        *,
        watchers: Mapping[str, Watcher],
        watched: Mapping[str, str],
        worker: Worker | None,
        tell: Callable[[Alert], None] = lambda alert: None,
    ) -> None:
        """`watched` is each master's account by name; `tell` hears of every alert when it is raised and when it ends."""
        self.standing: dict[tuple[Watchdog, str], Alert] = {}
        """The alerts that stand, by watchdog and subject."""
        self._settings = settings
        self._clock = clock
        self._history = history
        self._watchers = watchers
        self._watched = watched
        self._worker = worker
        self._tell = tell
        self._inspections: dict[str, Inspection] = {}
        self._since: dict[tuple[Watchdog, str], int] = {}
        self._adopted: set[tuple[Watchdog, str]] = set()
        self._unkept: dict[tuple[Watchdog, str, int], Alert] = {}
        self._answered_ms: dict[str, int] = {}
        self._skews: dict[str, tuple[str, int]] = {}
        """By whose clock: the account or store, and how far that clock is ahead of ours in milliseconds."""
        self._begun = False
        self._looked_ms = 0
        self._awake_ms = 0

    # Looking -----------------------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Look at everything once, raise and end alerts, and answer as the settings say. Raise `StoreError`."""
        now = self._clock.now_ms()
        if not self._begun or not 0 <= now - self._looked_ms <= max(ASLEEP_MS, 5 * self._settings.look_ms):
            self._awake_ms = now
        self._looked_ms = now
        if not self._begun:
            await self._begin()
        of_followers = await self._look_at_followers()
        heard = self._heard()
        found = {condition.name: condition for condition in (*of_followers, *self._conditions(heard))}
        self._since = {name: each.since_ms or self._since.get(name, now) for name, each in found.items()}
        due = {name for name in found if now - self._since[name] >= self._after_ms(name[0])}
        for name in sorted(due - self.standing.keys()):
            self._raise(found[name], now)
        for name in sorted(self.standing.keys() - due):
            if name in self._adopted and now - self._awake_ms < self._after_ms(name[0]):
                continue  # Raised before this process began: it is too early to say that it is over.
            self._end(name, now)
        self._answer_naked(found, now)
        self._answer_silence(heard, now)
        await self._keep()

    async def _begin(self) -> None:
        """Take over the alerts that a process before this one raised in the same roles, and left standing."""
        roles = {_role_of(master) for master in self._watchers} | {self._role}
        for alert in await self._history.alerts():
            if alert.by in roles:
                self.standing[alert.name] = alert
                self._since[alert.name] = alert.since_ms
                self._adopted.add(alert.name)
        self._begun = True

    @property
    def _role(self) -> str:
        """Whose alerts are all those that are not a watcher's own."""
        return f"worker:{self._worker.name}" if self._worker is not None else _role_of(next(iter(self._watchers), ""))

    def _after_ms(self, watchdog: Watchdog) -> int:
        settings = self._settings
        match watchdog:
            case Watchdog.NAKED:
                return settings.naked.after_ms
            case Watchdog.MASTER:
                return round(settings.master.after_s * 1000)
            case Watchdog.FOLLOWER:
                return round(settings.follower.after_s * 1000)
            case Watchdog.DRIFT:
                return round(settings.drift.after_s * 1000)
            case Watchdog.LAG:
                return round(settings.lag.after_s * 1000)
            case Watchdog.CLOCK:
                return round(settings.clock.every_s * 1000)
            case Watchdog.UNKNOWN:
                return round(settings.unknown.after_s * 1000)

    # Alerts ------------------------------------------------------------------------------------------------------------

    def _raise(self, condition: Condition, now: int) -> None:
        by = _role_of(condition.subject) if condition.subject in self._watchers else self._role
        alert = Alert(
            watchdog=condition.watchdog,
            subject=condition.subject,
            account=condition.account,
            cause=condition.cause,
            advice=condition.advice,
            by=by,
            since_ms=self._since[condition.name],
            raised_ms=now,
        )
        log.warning("alert: %s %s: %s", alert.watchdog, alert.subject, alert.cause)
        self._take(alert)

    def _end(self, name: tuple[Watchdog, str], now: int) -> None:
        alert = msgspec.structs.replace(self.standing.pop(name), ended_ms=now)
        self._adopted.discard(name)
        log.info("alert over: %s %s", alert.watchdog, alert.subject)
        self._unkept[*name, alert.raised_ms] = alert
        self._tell(alert)

    def _take(self, alert: Alert) -> None:
        self.standing[alert.name] = alert
        self._unkept[*alert.name, alert.raised_ms] = alert
        self._tell(alert)

    def _did(self, name: tuple[Watchdog, str], done: str) -> None:
        """Write into an alert what was done about it."""
        alert = self.standing.get(name)
        if alert is not None and alert.done != done:
            log.warning("alert: %s %s: %s", alert.watchdog, alert.subject, done)
            self.standing[name] = self._unkept[*name, alert.raised_ms] = msgspec.structs.replace(alert, done=done)

    async def _keep(self) -> None:
        """Keep in the ledger's database what it has not got yet; what it does not take is offered again at the next look."""
        if self._unkept:
            offered = dict(self._unkept)
            await self._history.keep_alerts(offered.values())
            self._unkept = {key: alert for key, alert in self._unkept.items() if offered.get(key) is not alert}

    # Conditions --------------------------------------------------------------------------------------------------------

    def _conditions(self, heard: dict[str, Heard]) -> Iterator[Condition]:
        """Find what is wrong beside the followers."""
        settings = self._settings
        if settings.master.enabled:
            yield from self._silent_masters(heard)
        if settings.clock.enabled:
            yield from self._skewed()
        if settings.lag.enabled:
            yield from self._late(heard)

    async def _look_at_followers(self) -> list[Condition]:
        """Find what is wrong with the followers, some at a time: orders and prices do not wait for all of them."""
        found: list[Condition] = []
        for count, follower in enumerate(self._followers(), 1):
            found += self._wrong_with(follower)
            if count % AT_ONCE == 0:
                await asyncio.sleep(0)
        followed = self._worker.followers if self._worker is not None else {}
        self._inspections = {name: each for name, each in self._inspections.items() if followed.get(name) is each.follower}
        return found

    def _wrong_with(self, follower: Follower) -> Iterator[Condition]:
        settings = self._settings
        if settings.follower.enabled:
            yield from unfollowed(follower)
        doubtful = self._doubtful(follower)
        if not doubtful:
            return
        if settings.naked.enabled:
            yield from (naked(each) for each in unprotected(follower, doubtful))
        if settings.drift.enabled:
            yield from drifted(follower, doubtful)
        if settings.unknown.enabled:
            yield from unanswered(follower, doubtful)

    def _doubtful(self, follower: Follower) -> list[Link]:
        """Return the copies that something may be wrong with, where anything may be done about them at all."""
        if follower.standing.frozen or not hasattr(follower.standing, "account"):
            return []
        inspection = self._inspections.get(follower.name)
        if inspection is None or inspection.follower is not follower:
            inspection = self._inspections[follower.name] = Inspection(follower)
        return inspection.doubtful()

    def _followers(self) -> list[Follower]:
        return list(self._worker.followers.values()) if self._worker is not None else []

    def _heard(self) -> dict[str, Heard]:
        """Return by master what was last heard of it here."""
        found: dict[str, Heard] = {}
        for follower in self._followers():
            for master, relation in follower.relations.items():
                heard = found.get(master) or found.setdefault(master, Heard())
                heard.listeners.append(follower)
                if relation.heard_ms >= heard.last_ms:
                    heard.last_ms, heard.lag_ms = relation.heard_ms, relation.lag_ms
        return found

    def _silent_masters(self, heard: dict[str, Heard]) -> Iterator[Condition]:
        for master, watcher in self._watchers.items():
            yield Condition(
                watchdog=Watchdog.MASTER,
                subject=master,
                account=self._watched[master],
                cause=f"{master} cannot be read: {watcher.error or 'its terminal gives no new answer'}",
                advice="look at its terminal, `mt-copier doctor` says more; what it does now is copied once it can be read",
                since_ms=max(watcher.read_ms, self._awake_ms),
            )
        for master, each in sorted(heard.items()):
            if master in self._watchers and self._said(master):
                continue  # Its watcher is in this process, and has said why.
            why = f": {self._worker.error}" if self._worker is not None and self._worker.error else ""
            yield Condition(
                watchdog=Watchdog.MASTER,
                subject=f"{master} at {self._role}",
                account=master,
                cause=f"nothing is heard of {master} at {listed(each.listeners)}{why}",
                advice=f"is `mt-copier watch` of {master} alive, does it read its terminal, and do both reach the same Redis?",
                since_ms=max(each.last_ms, self._awake_ms),
            )

    def _said(self, master: str) -> bool:
        """Return whether a master's own watcher has been without a read for as long as its followers are without news."""
        silent_ms = self._clock.now_ms() - max(self._watchers[master].read_ms, self._awake_ms)
        return silent_ms >= self._after_ms(Watchdog.MASTER)

    def _late(self, heard: dict[str, Heard]) -> Iterator[Condition]:
        now = self._clock.now_ms()
        for master, each in sorted(heard.items()):
            heard_of = now - max(each.last_ms, self._awake_ms) < self._after_ms(Watchdog.MASTER)
            if each.last_ms and heard_of and each.lag_ms > self._settings.lag.above_ms:
                yield Condition(
                    watchdog=Watchdog.LAG,
                    subject=f"{master} at {self._role}",
                    account=master,
                    cause=f"what is heard of {master} at {listed(each.listeners)} was read {each.lag_ms} ms before",
                    advice="look at the load of both machines, the network to Redis, and whether their clocks agree",
                )

    def _skewed(self) -> Iterator[Condition]:
        for whose, (account, skew_ms) in sorted(self._skews.items()):
            if abs(skew_ms) > self._settings.clock.above_ms:
                yield Condition(
                    watchdog=Watchdog.CLOCK,
                    subject=f"{whose} at {self._role}",
                    account=account,
                    cause=f"the clock of {whose} is {abs(skew_ms)} ms {'ahead of' if skew_ms > 0 else 'behind'} this machine's",
                    advice="let both machines set their clocks by NTP: late orders and ages are told by them",
                )

    # Answers -----------------------------------------------------------------------------------------------------------

    def _answer_naked(self, found: Mapping[tuple[Watchdog, str], Condition], now: int) -> None:
        """Set again, or close, what has been without its stop for too long."""
        settings = self._settings.naked
        answered: dict[str, int] = {}
        if not settings.enabled or settings.answer is NakedAnswer.ALERT:
            return
        accounts = {condition.account for condition in found.values() if condition.watchdog is Watchdog.NAKED}
        for follower in self._followers() if accounts else ():
            if follower.settings.account not in accounts:
                continue
            for each in unprotected(follower, self._doubtful(follower)):  # Asked anew: it may have changed meanwhile.
                name = (Watchdog.NAKED, each.subject)
                last_ms = self._answered_ms.get(each.subject)
                if name not in self.standing or (last_ms is not None and now - last_ms < settings.after_ms):
                    if last_ms is not None:
                        answered[each.subject] = last_ms
                    continue
                answered[each.subject] = now
                if settings.answer is NakedAnswer.CLOSE and not each.found:
                    follower.give_up(each.link, "unprotected")
                    self._did(name, "its copy is being closed")
                else:
                    follower.protect(each.link)
                    self._did(name, "the stop was asked for again")
        self._answered_ms = answered

    def _answer_silence(self, heard: dict[str, Heard], now: int) -> None:
        """Open nothing for a master that has gone silent, and close its copies in the end, where the settings say so."""
        settings = self._settings.master
        if not settings.enabled or settings.answer is SilenceAnswer.HOLD:
            return
        for master, each in heard.items():
            silent_ms = now - max(each.last_ms, self._awake_ms)
            if silent_ms < self._after_ms(Watchdog.MASTER):
                for follower in each.listeners:
                    follower.standing.silent.pop(master, None)
                continue
            name = (Watchdog.MASTER, master if (Watchdog.MASTER, master) in self.standing else f"{master} at {self._role}")
            self._did(name, "nothing is opened for it until it is heard again")
            flatten = settings.answer is SilenceAnswer.FLATTEN and silent_ms >= settings.flatten_after_s * 1000
            for follower in each.listeners:
                follower.standing.silent[master] = f"nothing has been heard of {master} for {silent_ms // 1000} s"
                if flatten and not follower.standing.frozen and not stands_still(follower, master):
                    self._give_up_all(follower, master)
            if flatten:
                self._did(name, "its copies are being closed")

    def _give_up_all(self, follower: Follower, master: str) -> None:
        for link in list(follower.memory.living.values()):
            if link.master == master and link.wanted_open and any(leg.living for leg in link.legs):
                follower.give_up(link, "master_silent")

    # Clocks ------------------------------------------------------------------------------------------------------------

    async def compare_clocks(self, database: Database, stream: Stream) -> None:
        """Ask the ledger's server, Redis and the brokers for their time; who does not answer is left out."""
        skews: dict[str, tuple[str, int]] = {}
        for whose, ask in (("the ledger's server", database.time_ms), ("Redis", stream.time_ms)):
            before = self._clock.now_ms()
            try:
                theirs = await ask()
            except StoreError:
                continue
            if theirs is not None:
                skews[whose] = (whose, theirs - (before + self._clock.now_ms()) // 2)
        answers = await asyncio.gather(*(self._ask_broker(follower) for follower in self._followers()))
        self._skews = skews | {f"{name}'s broker": (account, skew) for name, account, skew in filter(None, answers)}

    async def _ask_broker(self, follower: Follower) -> tuple[str, str, int] | None:
        """Return follower, account and how far its broker's clock is ahead; None where no price has just moved."""
        symbol = min((link.symbol for link in follower.memory.living.values() if link.lots), default="")
        if not symbol or not follower.connected or follower.error or follower.standing.account.server_offset_s is None:
            return None
        try:
            quote = await follower.standing.quote(symbol)
        except (GatewayError, CopierError):
            return None
        if quote.age_ms > FRESH_TICK_MS:
            return None
        return follower.name, follower.settings.account, ahead_ms(quote, follower, self._clock.now_ms())


def _role_of(master: str) -> str:
    return f"watcher:{master}"
