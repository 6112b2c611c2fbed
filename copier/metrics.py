"""What a process counts, for Prometheus: the engine's state when asked, and what receipts have told since the start."""

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Iterator

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from copier import __version__
from copier.alert import Watchdog
from copier.app import App
from copier.durations import Durations
from copier.follower import Follower
from copier.link import LegState, Link
from copier.model import Receipt, Verdict
from copier.policy import Mode
from copier.reconcile import repairs
from copier.watcher import Watcher
from copier.words import HOPS, copied_stamps

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
WHOLE = ("read to answered", "read_ms", "answered_ms")
FOLD_MAX = 100
"""So many receipts are counted before others may go on."""
FOLD_S = 1.0
QUEUE_MAX = 200_000
"""Receipts that nobody came to count; the oldest give way."""

GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "copier_build_info": ("Always 1; the engine's version.", ("version",)),
    "copier_role_token": ("The token with which this process owns a role; of two owners the higher counts.", ("role", "owner")),
    "copier_master_reading": ("1 while the master is read and published.", ("master",)),
    "copier_master_read_age_seconds": ("Since the newest read of the master that counts.", ("master",)),
    "copier_master_published_age_seconds": ("Since something of the master was last published.", ("master",)),
    "copier_master_open_positions": ("Positions of the master confirmed as open.", ("master",)),
    "copier_master_held_positions": (
        "Positions missing at the master, held as open until deals or a person agree.",
        ("master",),
    ),
    "copier_master_unpublished_events": ("Events that wait to be published.", ("master",)),
    "copier_worker_reading": ("1 while the worker reads its masters' streams.", ("worker",)),
    "copier_stream_heard_age_seconds": (
        "Since the worker took in the newest entry of a master, or began to wait for the first.",
        ("master",),
    ),
    "copier_follower_connected": ("1 while the account is reached and followed.", ("follower",)),
    "copier_follower_lag_seconds": ("How long the change that has waited longest for this follower has waited.", ("follower",)),
    "copier_follower_waiting_links": ("Positions for which something may have to be done.", ("follower",)),
    "copier_follower_drift_links": ("Of those, where what is believed open is not what is wanted.", ("follower",)),
    "copier_follower_open_links": ("Positions of masters that are copied and open.", ("follower",)),
    "copier_follower_unknown_orders": ("Orders of which nobody knows whether they were executed.", ("follower",)),
    "copier_follower_held": ("1 while a person or a limit keeps it from opening.", ("follower",)),
    "copier_watchdog_alerts": ("Alerts of a watchdog that stand: those that `mt-copier alerts` shows.", ("watchdog",)),
    "copier_ledger_unprojected_entries": ("Entries journaled and not in the tables yet.", ()),
    "copier_account_equity": ("Equity as last read, in the account's currency.", ("account", "currency")),
    "copier_account_balance": ("Balance as last read, in the account's currency.", ("account", "currency")),
}
COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "copier_outcomes": ("What became of the masters' changes and of repairs, by receipt.", ("event", "verdict")),
    "copier_refusals": ("Changes that were not copied, by the receipt's code.", ("code",)),
    "copier_alerts": ("Alerts, by the receipt's code.", ("code",)),
    "copier_stream_errors": ("Calls that Redis did not answer, or refused.", ()),
    "copier_ledger_errors": ("Records that the ledger did not take.", ()),
}
HISTOGRAMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "copier_hop_seconds": ("How long copied opens took for each hop.", ("hop",)),
    "copier_ledger_commit_seconds": ("Until a record of the journal was durable.", ()),
}

Row = tuple[str, tuple[str, ...], float]


def names() -> set[str]:
    """Return every name under which a value of ours is exposed."""
    counters = {f"{name}_total" for name in COUNTERS}
    histograms = {f"{name}{part}" for name in HISTOGRAMS for part in ("_bucket", "_sum", "_count")}
    return set(GAUGES) | counters | histograms


class Seen(msgspec.Struct):
    """The engine at one moment: plain numbers, so that they can be written out elsewhere than on its loop."""

    gauges: list[Row] = []
    counters: list[Row] = []
    histograms: list[tuple[str, tuple[str, ...], list[tuple[str, float]], float]] = []


class Metrics:
    """Counts what receipts tell, off the path of orders, and shows it with the engine's state."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._heard: deque[Receipt] = deque(maxlen=QUEUE_MAX)
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._refusals: Counter[tuple[str]] = Counter()
        self._alerts: Counter[tuple[str]] = Counter()
        self._hops = {name: Durations() for name, _, _ in (*HOPS, WHOLE)}
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)

    def hear(self, receipt: Receipt) -> None:
        """Take a receipt to be counted later: orders may be waiting just now."""
        self._heard.append(receipt)

    async def run(self) -> None:
        """Count what was heard, a little at a time, until cancelled."""
        while True:
            await self.fold()
            await asyncio.sleep(FOLD_S)

    async def fold(self) -> None:
        """Count what was heard up to now."""
        for number in range(len(self._heard)):
            if not self._heard:
                return
            self._count(self._heard.popleft())
            if number % FOLD_MAX == FOLD_MAX - 1:
                await asyncio.sleep(0)

    def _count(self, receipt: Receipt) -> None:
        self._outcomes[receipt.event, receipt.verdict.value] += 1
        if receipt.verdict in (Verdict.REFUSED, Verdict.SKIPPED, Verdict.FAILED):
            self._refusals[(receipt.code,)] += 1
        elif receipt.verdict is Verdict.ALERT:
            self._alerts[(receipt.code,)] += 1
        for stamps in copied_stamps([receipt]):
            for name, start, end in (*HOPS, WHOLE):
                began, ended = getattr(stamps, start), getattr(stamps, end)
                if began and ended:
                    self._hops[name].add((ended - began) / 1000)

    async def text(self) -> bytes:
        """Return everything in Prometheus' text format; the loop is held up for a look at the state only."""
        await self.fold()
        seen = self.seen()
        return await asyncio.to_thread(lambda: written(seen) + bytes(generate_latest(self._process)))

    def seen(self) -> Seen:
        """Look at the engine's state and at what was counted."""
        app = self._app
        now = app.clock.now_ms()
        gauges: list[Row] = [("copier_build_info", (__version__,), 1.0)]
        gauges += [
            ("copier_role_token", (role, ledger.owner), float(token))
            for ledger in app.ledgers
            for role, token in ledger.leases.held.items()
        ]
        for watcher in app.watchers.values():
            gauges += _of_watcher(watcher, now)
        if app.worker is not None:
            gauges.append(("copier_worker_reading", (app.worker.name,), float(app.worker.reading and not app.worker.error)))
            gauges += [("copier_stream_heard_age_seconds", (m,), (now - at) / 1000) for m, at in app.worker.heard_ms.items()]
            for follower in app.worker.followers.values():
                gauges += _of_follower(follower, now)
        barking = Counter(watchdog for watchdog, _ in app.watchdogs.standing)
        gauges += [("copier_watchdog_alerts", (each.value,), float(barking[each])) for each in Watchdog]
        gauges.append(("copier_ledger_unprojected_entries", (), float(sum(ledger.behind for ledger in app.ledgers))))
        for name, account in app.accounts.items():
            gauges.append(("copier_account_equity", (name, account.currency), float(account.equity)))
            gauges.append(("copier_account_balance", (name, account.currency), float(account.balance)))
        return Seen(gauges=gauges, counters=self._counters(), histograms=self._histograms())

    def _counters(self) -> list[Row]:
        rows: list[Row] = []
        for name, counts in (
            ("copier_outcomes", self._outcomes),
            ("copier_refusals", self._refusals),
            ("copier_alerts", self._alerts),
        ):
            rows += [(name, labels, float(count)) for labels, count in counts.items()]
        rows.append(("copier_stream_errors", (), float(self._app.stream.failures)))
        rows.append(("copier_ledger_errors", (), float(sum(ledger.failures for ledger in self._app.ledgers))))
        return rows

    def _histograms(self) -> list[tuple[str, tuple[str, ...], list[tuple[str, float]], float]]:
        rows = [("copier_hop_seconds", (hop,), times.cumulative(), times.total_s) for hop, times in self._hops.items()]
        commits = Durations()
        for ledger in self._app.ledgers:
            commits.counts = [ours + theirs for ours, theirs in zip(commits.counts, ledger.commits.counts, strict=True)]
            commits.total_s += ledger.commits.total_s
        return [*rows, ("copier_ledger_commit_seconds", (), commits.cumulative(), commits.total_s)]


def written(seen: Seen) -> bytes:
    """Return what was seen in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Families(seen))
    return bytes(generate_latest(registry))


class _Families:
    """What was seen, as the families that the client library writes out."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def collect(self) -> Iterable[Metric]:
        gauges = {name: GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in GAUGES.items()}
        for name, values, number in self._seen.gauges:
            gauges[name].add_metric(values, number)
        counters = {name: CounterMetricFamily(name, text, labels=labels) for name, (text, labels) in COUNTERS.items()}
        for name, values, number in self._seen.counters:
            counters[name].add_metric(values, number)
        histograms = {name: HistogramMetricFamily(name, text, labels=labels) for name, (text, labels) in HISTOGRAMS.items()}
        for name, values, buckets, total_s in self._seen.histograms:
            histograms[name].add_metric(values, buckets, total_s)
        return [*gauges.values(), *counters.values(), *histograms.values()]


def _of_watcher(watcher: Watcher, now_ms: int) -> Iterator[Row]:
    of = (watcher.name,)
    yield "copier_master_reading", of, float(not watcher.error and watcher.read_ms > 0)
    if watcher.read_ms:
        yield "copier_master_read_age_seconds", of, (now_ms - watcher.read_ms) / 1000
    if watcher.published_ms:
        yield "copier_master_published_age_seconds", of, (now_ms - watcher.published_ms) / 1000
    yield "copier_master_open_positions", of, float(len(watcher.view.open))
    yield "copier_master_held_positions", of, float(len(watcher.held_back))
    yield "copier_master_unpublished_events", of, float(watcher.unpublished)


def _of_follower(follower: Follower, now_ms: int) -> Iterator[Row]:
    of = (follower.name,)
    memory = follower.memory
    waiting = [memory.links[name] for name in memory.dirty if name in memory.links]
    drifting = []
    if follower.connected:
        mode = follower.standing.mode
        drifting = [link for link in waiting if repairs(link, follower.standing.spec(link.symbol), mode)]
    since = [link.stamps.received_ms for link in drifting if link.stamps.received_ms]
    yield "copier_follower_connected", of, float(follower.connected and not follower.error)
    yield "copier_follower_lag_seconds", of, max(0, now_ms - min(since, default=now_ms)) / 1000
    yield "copier_follower_waiting_links", of, float(len(waiting))
    yield "copier_follower_drift_links", of, float(len(drifting))
    yield "copier_follower_open_links", of, float(sum(1 for link in memory.living.values() if link.lots))
    yield "copier_follower_unknown_orders", of, float(sum(_unknown(link, now_ms) for link in memory.living.values()))
    held = any(follower.standing.mode_of(master)[0] not in (Mode.LIVE, Mode.SHADOW) for master in follower.relations)
    yield "copier_follower_held", of, float(held)


def _unknown(link: Link, now_ms: int) -> int:
    """Count the orders that said nothing for longer than they live, or came back as unknown."""
    late = [leg for leg in link.legs if leg.state is LegState.SENDING and leg.not_after_ms < now_ms]
    lost = [leg for leg in link.legs if leg.state is LegState.UNKNOWN]
    cut = link.cut is not None and not link.cut.answered and link.cut.not_after_ms < now_ms
    return len(late) + len(lost) + cut
