"""Plays an account's past through the real engine: watcher, stream, worker and followers at paper brokers, in virtual time.

Nothing is simulated but the brokers and the clock: the same code that copies live trades decides here, at the prices the
master was filled at. The same export and settings give the same bytes.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from copier.clock import LoopClock, run_virtual
from copier.database import MEMORY, Database
from copier.errors import SettingsError
from copier.exports import read_export
from copier.ledger import Ledger
from copier.limits import period_of
from copier.link import Link
from copier.model import ZERO, DealType, Receipt, Record
from copier.policy import FilterPolicy, LossLimit, MultiplierSize, Sides
from copier.replay_history import Action, Closing, History, Opening, Payment, history_of
from copier.replay_market import Desk, Market, master_desk
from copier.replay_result import FollowerResult, ReplaySummary, follower_result, summary_table, write_result
from copier.report import EquityPoint, EquitySeries
from copier.settings import FollowerSettings, PaperMargin, PaperSettings, Settings, load, parse
from copier.stream import open_stream
from copier.watcher import Watcher
from copier.worker import Worker

LEAD_MS = 3_600_000
"""The engine stands for so long before the first recorded trade."""
SLOT_MS = 2
"""From one action to the next within a recorded second: the first half for what limits do at the new price."""
QUIET_S = 6 * 3600
"""How often what only guards against loss happens (snapshots, comparisons, polls): here nothing is ever lost."""
PROJECT_EVERY = 500

ONE_TO_ONE = """
accounts:
  master: {kind: paper, login: 1, server: Replay-Master, margin: "off", balance: 100000}
  follower: {kind: paper, login: 2, server: Replay-Follower, margin: "off", balance: 100000}
masters:
  master: {account: master}
followers:
  follower:
    account: follower
    copies:
      - master: master
        size: {mode: multiplier, multiplier: 1, align_contracts: false}
        copy: {existing: copy_all}
        protection: {orders_per_s: 100000}
        risk: {worst_case: {enabled: false}}
"""

Advance = Callable[[int], None]
"""Called with how many actions have been played since the last call."""


class Rules(Record, frozen=True, kw_only=True):
    """What a replay needs of the settings."""

    master: str
    master_account: PaperSettings
    followers: dict[str, FollowerSettings]
    accounts: dict[str, PaperSettings]
    """By follower."""
    settings: Settings


def command(exports: list[Path], config: Path | None, out: Path, *, progress: bool) -> ReplaySummary:
    """Replay exports of one account by a settings file (None repeats it lot by lot), write the files, show a table.

    Raise `ExportError`, `SettingsError` or `ReportError`, each saying what to mend.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console()
    settings = load(config) if config is not None else parse(ONE_TO_ONE, name="the one-to-one rules")
    history = read_history(exports)
    rules = rules_of(settings, history)
    with _quiet(), Progress(console=console, disable=not progress) as bar:
        task = bar.add_task(f"Replaying {len(history.positions):,} positions", total=len(history.actions))
        summary = replay(history, rules, out, lambda count: bar.advance(task, count))
    console.print(summary_table(summary))
    return summary


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the engine's own log off the terminal: what it says of a past day stands in the receipts."""
    log = logging.getLogger("copier")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def read_history(exports: Iterable[Path]) -> History:
    """Read one or several files of one account's past; raise `ExportError`, or `SettingsError` where nothing was traded."""
    try:
        return history_of(read_export(*exports))
    except ValueError as error:
        raise SettingsError([str(error)], "export") from error


def rules_of(settings: Settings, history: History) -> Rules:
    """Return the settings of a replay; raise `SettingsError` where they do not fit one recorded account."""
    problems = []
    if len(settings.masters) != 1:
        problems.append(f"masters: a replay plays one master, found {len(settings.masters)}")
    if not settings.followers:
        problems.append("followers: expected at least one")
    wanted = {f"masters.{name}": each.account for name, each in settings.masters.items()}
    wanted |= {f"followers.{name}": each.account for name, each in settings.followers.items()}
    paper: dict[str, PaperSettings] = {}
    for path, name in wanted.items():
        account = settings.accounts[name]
        if isinstance(account, PaperSettings):
            paper[path] = account
        else:
            problems.append(f"accounts.{name}.kind: a replay trades on paper accounts only, found {account.kind}")
    if problems:
        raise SettingsError(problems, "replay")
    (master,) = settings.masters
    currency = history.currency or paper[f"masters.{master}"].currency
    if len(settings.followers) == 1 and history.currency and settings == parse(ONE_TO_ONE):
        paper = {path: account.model_copy(update={"currency": currency}) for path, account in paper.items()}
    for path, name in wanted.items():
        if path.startswith("followers.") and paper[path].currency != currency:
            found = f"found {paper[path].currency}: an export holds no rates to convert by"
            problems.append(f"accounts.{name}.currency: expected {currency} as of the export, {found}")
    if problems:
        raise SettingsError(problems, "replay")
    return Rules(
        master=master,
        master_account=paper[f"masters.{master}"],
        followers=dict(settings.followers),
        accounts={name: paper[f"followers.{name}"] for name in settings.followers},
        settings=settings,
    )


def replay(history: History, rules: Rules, out: Path, advance: Advance = lambda count: None) -> ReplaySummary:
    """Play a history and write `out`: files of every follower and the report."""
    player = run_virtual(_play(history, rules, advance))
    return write_result(out, player.title, player.history, player.master_series, player.results, player.troubles)


async def _play(history: History, rules: Rules, advance: Advance) -> "Player":
    player = Player(history, rules)
    await player.start()
    try:
        await player.play(advance)
        await player.collect()
    finally:
        await player.stop()
    return player


class Player:
    """One replay on the running virtual loop."""

    def __init__(self, history: History, rules: Rules) -> None:
        self.history = history
        self.rules = rules
        first = next((action.time for action in history.actions if not isinstance(action, Payment)), history.actions[0].time)
        self._before, self._actions = _split(history.actions, first)
        self._epoch_ms = _ms(first) - LEAD_MS
        self.title = f"Replay of {len(history.positions):,} positions"
        self.results: list[FollowerResult] = []
        self.troubles: list[str] = []
        clock = self._clock = LoopClock(self._epoch_ms)
        master = master_desk(rules.master, rules.master_account, history, clock)
        self._repeaters = {name for name in rules.followers if repeats(rules.followers[name], rules.accounts[name])}
        desks = {}
        for name, account in rules.accounts.items():
            own = name in self._repeaters and history.balance is not None
            desks[name] = Desk(name, account, history, clock, (history.balance or ZERO) if own else account.balance)
        self._market = Market(history, master, desks)
        self._paid = {desk.name: ZERO for desk in self._market.desks}
        self._points: dict[str, list[EquityPoint]] = {name: [] for name in desks}
        self._master_points: list[EquityPoint] = []
        self._database = Database(MEMORY)
        self._stream = open_stream("memory://")
        self._ledger = Ledger(self._database, clock, "replay")
        self._tasks: list[asyncio.Task[None]] = []
        self._limited = [name for name, each in rules.followers.items() if _limits(each)]
        self._reset_ms = 0

    @property
    def master_series(self) -> EquitySeries:
        """The master's money over the whole replay."""
        account = self._market.master.settings
        return EquitySeries(account=self.rules.master, currency=account.currency, points=tuple(self._master_points))

    async def start(self) -> None:
        """Build the engine around the paper brokers, and let it find an account without positions."""
        for payment in self._before:
            self._pay(payment)
        self._paid = dict.fromkeys(self._paid, ZERO)
        await self._database.open()
        settings = self.rules.settings.masters[self.rules.master]
        # Beyond what settings allow: all that happens by the clock alone would only take real time here.
        sparse = settings.model_copy(update={"snapshot_s": Decimal(QUIET_S), "poll_ms": QUIET_S * 1000})
        watching = Ledger(self._database, self._clock, "watcher")
        gateway = self._market.master.gateway
        await gateway.open()
        watcher = Watcher(self.rules.master, gateway, self._stream, watching, self._clock, sparse)
        self._tasks.append(asyncio.create_task(watcher.run(), name="watcher"))
        self._worker = Worker(
            "replay",
            self.rules.followers,
            {name: desk.gateway for name, desk in self._market.followers.items()},
            self._stream,
            self._ledger,
            self._clock,
            reconcile_s=float(QUIET_S),
            block_ms=QUIET_S * 1000,
        )
        await asyncio.sleep(1)
        self._tasks.append(asyncio.create_task(self._worker.run(), name="worker"))
        await asyncio.sleep(1)
        await self._sample()

    async def play(self, advance: Advance) -> None:
        """Do everything that was recorded, each at its second, and note the money after every second."""
        self._note_money()
        slot, unprojected = 0, 0
        for index, action in enumerate(self._actions):
            slot = max(_ms(action.time), slot + SLOT_MS)
            await self._until(slot)
            await self._do(action)
            await self._until(slot + SLOT_MS // 2 + 1)
            self._check_alive()
            if index + 1 == len(self._actions) or self._actions[index + 1].time != action.time:
                await self._sample()
                self._note_money()
                advance(index + 1 - unprojected)
                unprojected = index + 1
            if index % PROJECT_EVERY == 0:
                await self._ledger.project()
        await asyncio.sleep(60)
        self._check_alive()

    async def collect(self) -> None:
        """Take what every follower has become out of its broker and the ledger."""
        links: dict[str, list[Link]] = {name: [] for name in self._market.followers}
        for link in await self._ledger.links(living=False):
            links[link.follower].append(link)
        for name, desk in self._market.followers.items():
            receipts: list[Receipt] = await self._ledger.receipts(follower=name)
            series = EquitySeries(account=name, currency=desk.settings.currency, points=tuple(self._points[name]))
            recorded = self.history.positions if name in self._repeaters else None
            self.results.append(follower_result(name, desk.account, links[name], receipts, series, recorded))
            if error := self._worker.followers[name].error:
                self.troubles.append(f"{name}: {error}")

    async def stop(self) -> None:
        """End the engine."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stream.close()
        await self._database.close()

    async def _until(self, at_ms: int) -> None:
        """Let time pass, and judge loss limits where one of their periods begins on the way."""
        while self._limited and self._reset_ms <= at_ms:
            await self._sleep_to(self._reset_ms)
            await self._sample()
        await self._sleep_to(at_ms)

    async def _sleep_to(self, at_ms: int) -> None:
        pause = (at_ms - self._epoch_ms) / 1000 - asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, pause))

    async def _do(self, action: Action) -> None:
        match action:
            case Payment():
                self._pay(action)
            case Opening():
                self._market.price(action.symbol, action.price)
                await self._at_new_price()
                self._market.master.open(action)
            case Closing():
                self._market.price(action.symbol, action.price)
                if not self._market.settle(action):
                    self.troubles.append(f"position {action.ticket}: a profit of {action.profit} does not fit its prices")
                await self._at_new_price()
                self._carry(action)
                self._market.master.server.close(self._market.master.login, action.ticket, action.lots)

    async def _at_new_price(self) -> None:
        if await self._sample():
            await asyncio.sleep(SLOT_MS / 2000)  # A limit has fired: what it closes, it closes at this price.

    async def _sample(self) -> bool:
        """Judge the loss limits by the money as it is; return whether anything about them is news."""
        news = False
        for name in self._limited:
            follower = self._worker.followers[name]
            before = follower.standing.limit_facts()
            await follower.sample()
            news = news or follower.standing.limit_facts() != before
        if self._limited:
            now = self._clock.now_ms()
            ends = [period_of(limit, now)[1] for name in self._limited for limit in _limits(self.rules.followers[name])]
            self._reset_ms = min(ends)
        return news

    def _carry(self, closing: Closing) -> None:
        """Let the recorded costs be booked: the master's own, and every copy's by its share of the volume."""
        master = self._market.master
        master.carry(closing.symbol, closing.ticket, closing, closing.lots, Decimal(1))
        opened = master.account.positions[closing.ticket].lots
        for name, desk in self._market.followers.items():
            link = self._worker.followers[name].links.get((self.rules.master, f"{closing.ticket}.1"))
            for leg in link.legs if link is not None else ():
                if leg.living and leg.ticket:
                    part = leg.lots * closing.lots / opened
                    desk.carry(closing.symbol, leg.ticket, closing, part, part / closing.lots)

    def _pay(self, payment: Payment) -> None:
        for desk in self._market.desks:
            if desk is self._market.master or desk.name in self._repeaters:
                desk.pay(payment)
                if payment.type in (DealType.BALANCE, DealType.CREDIT):
                    self._paid[desk.name] += payment.amount

    def _note_money(self) -> None:
        now = datetime.fromtimestamp(self._clock.now_ms() // 1000, UTC)
        for desk in self._market.desks:
            money = desk.money()
            points = self._master_points if desk is self._market.master else self._points[desk.name]
            paid, self._paid[desk.name] = self._paid[desk.name], ZERO
            points.append(EquityPoint(time=now, balance=money.balance, equity=money.equity, paid=paid))

    def _check_alive(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()
                raise RuntimeError(f"{task.get_name()} ended before the replay did")


def repeats(follower: FollowerSettings, account: PaperSettings) -> bool:
    """Say whether a follower is to repeat the master lot by lot: then the master's payments reach its account too."""
    (policy, *others) = follower.copies
    size = policy.size
    return (
        not others
        and account.margin is PaperMargin.OFF
        and isinstance(size, MultiplierSize)
        and size.multiplier == 1
        and not policy.copying.reverse
        and policy.copying.sides is Sides.BOTH
        and policy.filters == FilterPolicy()
        and not (policy.symbols.allow or policy.symbols.deny)
    )


def _limits(follower: FollowerSettings) -> list[LossLimit]:
    return [*follower.risk.losses, *(limit for copy in follower.copies for limit in copy.risk.losses)]


def _split(actions: tuple[Action, ...], first: datetime) -> tuple[list[Payment], list[Action]]:
    """Take the payments before the first trade apart: they are what the account begins with."""
    before: list[Payment] = []
    for index, action in enumerate(actions):
        if not isinstance(action, Payment) or action.time > first:
            return before, list(actions[index:])
        before.append(action)
    return before, []


def _ms(time: datetime) -> int:
    return round(time.timestamp() * 1000)
