"""Builds everything from the settings, starts it, and stops it in order."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NoReturn, assert_never

import msgspec

from copier.audit import Audit
from copier.clock import Clock
from copier.database import Database
from copier.errors import CopierError, GatewayError, SettingsError
from copier.follower import Follower
from copier.gateway import Gateway
from copier.gateways.opening import PaperWorld, open_gateway
from copier.gateways.shadow import ShadowGateway
from copier.history import History
from copier.leases import Term
from copier.ledger import JournalEntry, Ledger, ReceiptKept
from copier.link import Link
from copier.locks import RoleLock
from copier.model import Account, Receipt
from copier.notify import Notifier, Send
from copier.policy import Mode
from copier.scheduler import Scheduler
from copier.settings import CopySettings, FollowerSettings, Settings, redacted
from copier.sharing import Sharing
from copier.signals import SignalFolder
from copier.standing import TWIN
from copier.stream import Stream, open_stream
from copier.watchdog import Watchdogs
from copier.watcher import Watcher
from copier.worker import Worker

log = logging.getLogger(__name__)

SHADOW = TWIN
"""What the name of a follower's simulated twin ends with; no follower may be called so."""
CONTROLS_S = 1.0
PROJECT_S = 0.5
PROJECT_REST = 4.0
"""Bringing the tables up to date takes at most a fifth of the database's time while few are behind."""
LIMITS_S = 1.0
NOTIFY_S = 1.0
FIRST_SAMPLE_S = 2.0
"""Accounts are being opened before."""
OPEN_PAUSE_MIN_S = 1.0
OPEN_PAUSE_MAX_S = 30.0
DAY_MS = 86_400_000


class Everything(msgspec.Struct, frozen=True):
    """Watch every master and follow with every follower, in this one process."""

    worker: str = "main"


class Watch(msgspec.Struct, frozen=True):
    """Only watch these masters."""

    masters: tuple[str, ...]


class Follow(msgspec.Struct, frozen=True):
    """Only follow: share all followers with the other workers, or be pinned to those named here."""

    worker: str
    followers: tuple[str, ...] = ()


Role = Everything | Watch | Follow


class ToldLedger(Ledger):
    """A ledger that tells who listens of every receipt, once it is durable."""

    def __init__(
        self, database: Database, clock: Clock, owner: str, tell: Callable[[Receipt], None], *, audit_key: bytes = b""
    ) -> None:
        super().__init__(database, clock, owner, audit_key=audit_key)
        self._tell = tell

    async def append(self, entries: "list[JournalEntry] | tuple[JournalEntry, ...]") -> None:  # type: ignore[override]
        """Append, then tell."""
        await super().append(entries)
        for entry in entries:
            if isinstance(entry, ReceiptKept):
                self._tell(entry.receipt)


class App:
    """The engine in one process. `async with` opens and closes its stores, `run` works until cancelled."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        *,
        role: Role | None = None,
        paper: PaperWorld | None = None,
        send: Send | None = None,
    ) -> None:
        """`paper` are simulated brokers whose prices the caller moves, without them their settings do; `send` sends alerts."""
        self.settings = settings
        self.clock = clock
        self.role: Role = role or Everything()
        masters, only, worker = _parts(settings, self.role)
        self._paper_runs = paper is None
        self.paper = paper or PaperWorld(clock)
        self.database = Database(settings.ledger.get_secret_value())
        self.history = History(self.database)
        self.stream: Stream = _open_stream(settings)
        self.gateways: dict[str, Gateway] = {}
        """By account."""
        self.watchers: dict[str, Watcher] = {}
        self.worker: Worker | None = None
        self.sharing: Sharing | None = None
        self.signals: dict[str, SignalFolder] = {}
        self.accounts: dict[str, Account] = {}
        """Every account as last read for its equity, by the account's name."""
        self.listeners: list[Callable[[Receipt], None]] = []
        """Called with every receipt once it is durable."""
        self.following: tuple[str, ...] = ()
        """The followers this process may follow with, simulated twins included."""
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._scheduler = Scheduler(clock)
        self._ways: dict[str, Gateway] = {}
        """By follower: how its account is reached, through a simulation for a twin."""
        self.ledgers: list[Ledger] = []
        """One per role of this process."""
        self._watched_accounts: dict[str, str] = {}
        for name in masters:
            self._build_watcher(name)
        if worker:
            self._build_worker(worker, only)
        for name in self._signal_folders():
            self._build_signals(name)
        if not self.ledgers:
            raise SettingsError(["nothing to do: expected masters to watch or followers to follow with"])
        self.notifier = Notifier(settings.notify, clock, send)
        self.watchdogs = Watchdogs(
            settings.watchdogs,
            clock,
            self.history,
            watchers=self.watchers,
            watched=self._watched_accounts,
            worker=self.worker,
            tell=self.notifier.tell,
        )
        self.locks = _locks(settings, [f"watcher:{name}" for name in masters] + ([f"worker:{worker}"] if worker else []))
        self._plan_jobs()

    # Building -------------------------------------------------------------------------------------------------------------

    def _gateway(self, account: str) -> Gateway:
        if account not in self.gateways:
            self.gateways[account] = open_gateway(self.settings.accounts[account], self.clock, self.paper)
        return self.gateways[account]

    def _ledger(self, role: str) -> Ledger:
        key = audit_key(self.settings)
        ledger = ToldLedger(self.database, self.clock, f"{role}@{self._owner}", self._tell, audit_key=key)
        self.ledgers.append(ledger)
        return ledger

    def _tell(self, receipt: Receipt) -> None:
        for listener in self.listeners:
            listener(receipt)

    def _build_watcher(self, name: str) -> None:
        settings = self.settings.masters[name]
        gateway = self._gateway(settings.account)
        self._watched_accounts[name] = settings.account
        self.watchers[name] = Watcher(name, gateway, self.stream, self._ledger(f"watcher:{name}"), self.clock, settings)

    def _build_worker(self, name: str, only: Iterable[str]) -> None:
        settings: dict[str, FollowerSettings] = {}
        together: dict[str, str] = {}
        for follower, whole in self.settings.followers.items():
            for twin, copies in split_shadow(follower, whole.copies).items():
                settings[twin] = whole.model_copy(update={"copies": copies})
                together[twin] = follower
        only = frozenset(only)
        self.following = tuple(twin for twin, follower in together.items() if not only or follower in only)
        for twin in self.following:
            self._ways[twin] = self._gateway(settings[twin].account)
        term = Term()
        reconcile_s, ahead_s = float(self.settings.schedule.reconcile_s), float(self.settings.schedule.ahead_s)
        ledger = self._ledger(f"worker:{name}")
        self.worker = Worker(
            name, settings, self._ways, self.stream, ledger, self.clock, reconcile_s=reconcile_s, term=term, ahead_s=ahead_s
        )
        lease_s = float(self.settings.worker.lease_s)
        host = _Hosted(self, self.worker, ledger)
        self.sharing = Sharing(name, host, ledger.leases, self.clock, together, term, lease_s=lease_s, only=only)

    def _signal_folders(self) -> list[str]:
        """Return the folders served here: all of them in the one process, else those on the accounts of its masters."""
        everything = isinstance(self.role, Everything)
        watched = set(self._watched_accounts.values())
        return [name for name, each in self.settings.signals.items() if everything or each.account in watched]

    def _build_signals(self, name: str) -> None:
        settings = self.settings.signals[name]
        gateway, ledger = self._gateway(settings.account), self._ledger(f"signals:{name}")
        self.signals[name] = SignalFolder(name, settings, gateway, ledger, self.clock)

    def _plan_jobs(self) -> None:
        schedule = self.settings.schedule
        equity_s = float(schedule.equity_s)
        self._scheduler.every("bringing the tables up to date", PROJECT_S, partial(self._project, PROJECT_REST))
        self._scheduler.every("recording equity", equity_s, self.sample_equity, first_s=FIRST_SAMPLE_S)
        self._scheduler.every("dropping old records", float(schedule.trim_s), self.trim)
        self._plan_watchdogs()
        if self.worker is not None:
            self._scheduler.every("looking at controls", CONTROLS_S, self.worker.look_at_controls)
            self._scheduler.every("judging loss limits", min(equity_s, LIMITS_S), self.judge_limits)

    def _plan_watchdogs(self) -> None:
        settings = self.settings.watchdogs
        self._scheduler.every("looking after everything", settings.look_ms / 1000, self._look_after)
        self._scheduler.every("sending alerts", NOTIFY_S, self.notifier.send_waiting)
        if settings.clock.enabled:
            every_s = float(settings.clock.every_s)
            self._scheduler.every("comparing clocks", every_s, self._compare_clocks, first_s=FIRST_SAMPLE_S)

    async def _look_after(self) -> None:
        await self.watchdogs.look()
        self.notifier.remind(self.watchdogs.standing.values())

    async def _compare_clocks(self) -> None:
        await self.watchdogs.compare_clocks(self.database, self.stream)

    # Life -----------------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> "App":
        try:
            for lock in self.locks:
                lock.take()
            await self.database.open()
            audit = Audit(self.database, audit_key(self.settings))
            await audit.loaded(redacted(self.settings), role=type(self.role).__name__.lower(), at_ms=self.clock.now_ms())
            await self.stream.ping()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    async def run(self) -> None:
        """Work until cancelled; raise the first `CopierError` that ends it, such as `Fenced`."""
        try:
            async with asyncio.TaskGroup() as tasks:
                if self._paper_runs and self.paper.servers:
                    tasks.create_task(self.paper.run(), name="paper prices")
                for name in self.watchers:
                    tasks.create_task(self._watch(name), name=f"watcher {name}")
                if self.worker is not None:
                    tasks.create_task(self._work(self.worker), name=f"worker {self.worker.name}")
                for name, folder in self.signals.items():
                    tasks.create_task(folder.run(), name=f"signals {name}")
                tasks.create_task(self._scheduler.run(), name="scheduler")
        except BaseExceptionGroup as group:
            raise_known(group)

    async def _work(self, worker: Worker) -> None:
        """Follow with this worker's share of the followers."""
        assert self.sharing is not None
        async with worker.working():
            await self.sharing.run()

    def reach(self, follower: str, links: Iterable[Link]) -> None:
        """Make the way to a follower's account; a twin's simulation begins with these links' open legs."""
        account = self.settings.followers[follower.removesuffix(SHADOW)].account
        gateway = self._gateway(account)
        if follower.endswith(SHADOW):
            gateway = shadow = ShadowGateway(gateway, self.clock)
            shadow.restore(links)
        self._ways[follower] = gateway

    async def let_go(self, follower: str) -> None:
        """Close the way to a follower's account, unless something else here still uses it."""
        account = self.settings.followers[follower.removesuffix(SHADOW)].account
        ways = [self._ways[follower]] if follower.endswith(SHADOW) else []
        if account not in self._used():
            ways.append(self.gateways[account])
        for gateway in ways:
            with contextlib.suppress(CopierError):
                await gateway.close()

    def _used(self) -> set[str]:
        """Return the accounts that something here watches, follows with or trades signals on."""
        followers = self.worker.followers.values() if self.worker is not None else ()
        signals = (self.settings.signals[name].account for name in self.signals)
        return {*self._watched_accounts.values(), *signals, *(follower.settings.account for follower in followers)}

    async def _watch(self, name: str) -> None:
        """Reach the master's account, however long it takes, and watch it."""
        watcher, gateway = self.watchers[name], self.gateways[self._watched_accounts[name]]
        pause_s = OPEN_PAUSE_MIN_S
        while True:
            try:
                await gateway.open()
                break
            except GatewayError as error:
                if str(error) != watcher.error:
                    log.warning("%s: cannot be reached: %s", name, error)
                watcher.error = str(error)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, OPEN_PAUSE_MAX_S)
        await watcher.run()

    async def _close(self) -> None:
        """Let go of everything: accounts first, then what carries, then what remembers."""
        for gateway in [*self._ways.values(), *self.gateways.values()]:
            with contextlib.suppress(CopierError):
                await gateway.close()
        with contextlib.suppress(CopierError):
            await self.stream.close()
        with contextlib.suppress(CopierError):
            await self._project()
        await self.database.close()
        for lock in self.locks:
            lock.release()

    # Jobs -----------------------------------------------------------------------------------------------------------------

    async def _project(self, rest: float = 0.0) -> None:
        for ledger in self.ledgers:
            await ledger.project(rest)

    async def judge_limits(self) -> None:
        """Judge every follower's loss limits by a fresh read; one that cannot be read delays no other."""
        if self.worker is None:
            return
        failed = await asyncio.gather(*(f.sample() for f in self.worker.followers.values()), return_exceptions=True)
        _raise_unexpected(failed)

    async def sample_equity(self) -> None:
        """Record what every account is worth; one that cannot be read is left out. Raise `StoreError`."""
        await self.history.keep(await self.read_accounts(), self.clock.now_ms())

    async def read_accounts(self) -> dict[str, Account]:
        """Read every account into `accounts`, and return those that could be read."""
        names = sorted(self._used())
        answers = await asyncio.gather(*(self.gateways[name].get_account() for name in names), return_exceptions=True)
        _raise_unexpected(answers)
        fresh = {name: account for name, account in zip(names, answers, strict=True) if isinstance(account, Account)}
        self.accounts |= fresh
        return fresh

    def standings(self) -> list[tuple[str, str, Account | None, int, str]]:
        """Return every account's name, role, last read, open positions and trouble, masters first, for people."""
        found = []
        for name, watcher in self.watchers.items():
            account = self._watched_accounts[name]
            found.append((account, "master", self.accounts.get(account), len(watcher.view.open), watcher.error))
        followers = self.worker.followers if self.worker is not None else {}
        for name, follower in followers.items():
            account = follower.settings.account
            role = "shadow" if name.endswith(SHADOW) else "follower"
            tickets = {leg.ticket for link in follower.memory.living.values() for leg in link.legs if leg.living and leg.lots}
            found.append((account, role, self.accounts.get(account), len(tickets), follower.error))
        return found

    async def trim(self) -> None:
        """Drop what is older than the settings keep."""
        before_ms = self.clock.now_ms() - self.settings.schedule.keep_days * DAY_MS
        await self.ledgers[-1].trim(before_ms)
        await self.history.trim(before_ms)


class _Hosted:
    """The worker of this process with the accounts its followers trade, which are reached and let go as they come and leave."""

    def __init__(self, app: App, worker: Worker, ledger: Ledger) -> None:
        self._app = app
        self._worker = worker
        self._ledger = ledger

    @property
    def followers(self) -> Mapping[str, Follower]:
        return self._worker.followers

    async def add(self, tokens: Mapping[str, int]) -> None:
        twins = any(name.endswith(SHADOW) for name in tokens)
        links = await self._ledger.links() if twins else []
        for name in tokens:
            self._app.reach(name, [link for link in links if link.follower == name])
        await self._worker.add(tokens)

    async def drop(self, names: Collection[str]) -> None:
        await self._worker.drop(names)
        for name in names:
            await self._app.let_go(name)


def split_shadow(name: str, copies: Iterable[CopySettings]) -> dict[str, tuple[CopySettings, ...]]:
    """Return a follower's relations by who follows them: itself, and a simulated twin for those in mode `shadow`."""
    copies = tuple(copies)
    shadow = tuple(copy for copy in copies if copy.mode is Mode.SHADOW)
    live = tuple(copy for copy in copies if copy.mode is not Mode.SHADOW)
    return {twin: part for twin, part in ((name, live), (name + SHADOW, shadow)) if part}


def _parts(settings: Settings, role: Role) -> tuple[list[str], list[str], str]:
    """Return the masters of a role, the followers it is pinned to, and its worker's name."""
    match role:
        case Everything(worker=worker):
            return list(settings.masters), [], worker if settings.followers else ""
        case Watch(masters=masters):
            _refuse_memory(settings, "watch")
            return _known("master", masters, settings.masters), [], ""
        case Follow(worker=worker, followers=followers):
            _refuse_memory(settings, "follow")
            return [], _known("follower", followers, settings.followers), worker
        case _ as never:
            assert_never(never)


def _known(noun: str, names: tuple[str, ...], settings: Mapping[str, object]) -> list[str]:
    strangers = [f"{noun} {name}: expected one of {', '.join(sorted(settings))}" for name in names if name not in settings]
    if strangers:
        raise SettingsError(strangers, source="command")
    return list(names)


def _refuse_memory(settings: Settings, command: str) -> None:
    if settings.redis.get_secret_value().startswith("memory://"):
        raise SettingsError(
            [
                f"redis: memory:// lives inside one process, so nobody else would see what `{command}` does here; "
                "expected redis://, rediss:// or unix://, or `mt-copier run` for everything in one process"
            ]
        )


def _open_stream(settings: Settings) -> Stream:
    secret = settings.stream.secret.get_secret_value().encode() if settings.stream.secret else b""
    return open_stream(settings.redis.get_secret_value(), entries_max=settings.stream.entries_max, secret=secret)


def _locks(settings: Settings, roles: Iterable[str]) -> list[RoleLock]:
    """Return a lock per role where the ledger is a file; on a server its tokens alone decide."""
    file = ledger_file(settings)
    return [] if file is None else [RoleLock(file, role) for role in roles]


def audit_key(settings: Settings) -> bytes:
    """Return what the audit's entries are signed with, nothing where no key is set."""
    return settings.audit.key.get_secret_value().encode() if settings.audit.key else b""


def ledger_file(settings: Settings) -> Path | None:
    """Return the file of a SQLite ledger; None for a server's, or one in memory."""
    scheme, _, path = settings.ledger.get_secret_value().partition(":///")
    path = path.partition("?")[0]
    return Path(path) if scheme.startswith("sqlite") and path else None


def _raise_unexpected(answers: Iterable[object]) -> None:
    """Raise what is no trouble of one account."""
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, GatewayError):
            raise answer


def raise_known(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """Raise the first `CopierError` of a group alone, or the whole group where anything else is in it."""
    known, other = group.split(CopierError)
    if known is None or other is not None:
        raise group
    found: BaseException = known
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    raise found from None
