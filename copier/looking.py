"""What the stores say, for people and machines: read beside a running engine, or after it."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from copier.app import SHADOW, audit_key, ledger_file, split_shadow
from copier.audit import CONTROL, Audit, AuditEntry, person
from copier.clock import SystemClock
from copier.database import MEMORY, Database
from copier.errors import CopierError, SettingsError
from copier.history import EquitySample, History
from copier.leases import Sight
from copier.ledger import Ledger
from copier.link import Link
from copier.model import Receipt, Verdict
from copier.policy import LossLimit
from copier.settings import FollowerSettings, Settings
from copier.steps import plain
from copier.tables import alerts_table, clock, links_table, moment, money, receipts_table
from copier.words import copied_stamps, hops, mean_slippage

RECEIPTS_MAX = 5_000
"""Of so many newest receipts summaries are made."""
STRICTER = ("live", "close_only", "flatten", "frozen")
"""What people may set: of several, the one that counts stands last."""
UNMAPPED = {"symbol_unmapped", "symbol_ambiguous", "symbol_spec_unusable"}


class Answer(msgspec.Struct, frozen=True):
    """What a command found: its data, and how it is shown."""

    data: Any
    shown: tuple[RenderableType, ...]

    def pictures(self) -> tuple[RenderableType, ...]:
        """Return what to print."""
        return self.shown


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """Which receipts are asked for."""

    follower: str | None = None
    symbol: str | None = None
    code: str | None = None
    last: int = 20

    def has(self, receipt: Receipt) -> bool:
        """Say whether a receipt is one of them."""
        return self.symbol in (None, receipt.symbol) and self.code in (None, receipt.code)


@contextlib.asynccontextmanager
async def stores(settings: Settings) -> AsyncIterator[tuple[Ledger, History]]:
    """Open what the engine remembers; raise `CopierError` where nothing has been remembered yet."""
    if settings.ledger.get_secret_value() == MEMORY:
        raise CopierError("the ledger is in the memory of the engine's process; expected sqlite:///file or postgresql://")
    _expect_ledger(ledger_file(settings))
    database = Database(settings.ledger.get_secret_value())
    try:
        await database.open()
        yield Ledger(database, SystemClock(), "face", audit_key=audit_key(settings)), History(database)
    finally:
        await database.close()


def _expect_ledger(file: Path | None) -> None:
    if file is not None and not file.exists():
        raise CopierError(f"{file}: no ledger there yet; expected one that `mt-copier run` has begun")


async def status(settings: Settings) -> Answer:
    """Return every follower's owner, links, controls, newest trouble and money."""
    async with stores(settings) as (ledger, history):
        links, controls = await ledger.links(), await ledger.controls()
        newest = await ledger.receipts(newest=RECEIPTS_MAX)
        samples = await history.latest()
        alerts = await history.alerts()
        sight = await ledger.leases.look()
    owners = {name: _owner(sight, name) for name in twins(settings)}
    rows = [{**_follower_row(settings, name, links, controls, newest, samples), **owners[name]} for name in twins(settings)]
    table = Table(title="Followers", title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for heading in ("follower", "worker", "set to"):
        table.add_column(heading, no_wrap=True)
    for heading in ("open", "pending", "refused", "failed", "equity"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["follower"],
            row["worker"] if row["lease_age_s"] is None else f"{row['worker']}, {row['lease_age_s']:.0f} s",
            row["control"],
            str(row["open"]),
            str(row["pending"]),
            str(row["refused"]),
            str(row["failed"]),
            row["equity"] or "-",
        )
    shown: list[RenderableType] = [table]
    shown += [Text(f"Last alert of {row['follower']}: {row['alert']}", style="red") for row in rows if row["alert"]]
    times = hops(copied_stamps(newest))
    held = {scope: control for scope, control in sorted(controls.items()) if control != "live"}
    if held:
        shown.append(Text("Set by hand: " + ", ".join(f"{scope} {control}" for scope, control in held.items()), style="yellow"))
    if "read to answered" in times:
        whole = times["read to answered"]
        shown.append(Text(f"Copies took {whole.p50_ms} ms (median), {whole.p99_ms} ms (99 of 100)", style="dim"))
    if alerts:
        shown.append(alerts_table(alerts))
    return Answer({"followers": rows, "controls": controls, "latency": times, "alerts": alerts}, tuple(shown))


async def alerts(settings: Settings, last: int) -> Answer:
    """Return the newest alerts, those that are over too."""
    async with stores(settings) as (_, history):
        found = await history.alerts(newest=last)
    return Answer(found, (alerts_table(found),) if found else (Text("There was no alert yet."),))


def _owner(sight: Sight, name: str) -> dict[str, Any]:
    """Return who follows with a follower, and the age of its lease by the clocks of its machine and this one."""
    seat, holder = sight.holder(name), sight.holders.get(name)
    if seat is None:
        return {"worker": holder.owner if holder is not None and holder.owner else "-", "lease_age_s": None}
    return {"worker": seat.name, "lease_age_s": max(0, SystemClock().now_ms() - seat.at_ms) / 1000}


def _follower_row(
    settings: Settings,
    name: str,
    links: Iterable[Link],
    controls: dict[str, str],
    newest: Iterable[Receipt],
    samples: dict[str, EquitySample],
) -> dict[str, Any]:
    own = [link for link in links if link.follower == name]
    receipts = [receipt for receipt in newest if receipt.follower == name]
    verdicts = Counter(receipt.verdict for receipt in receipts)
    sample = samples.get(settings.followers[name.removesuffix(SHADOW)].account)
    alerts = [receipt for receipt in receipts if receipt.verdict is Verdict.ALERT]
    whole = settings.followers[name.removesuffix(SHADOW)]
    base = name.removesuffix(SHADOW)
    scopes = ["*", name, base, *(f"group:{group}" for group in whole.groups), *(f"{base}/{copy.master}" for copy in whole.copies)]
    control = max((controls.get(scope, "live") for scope in scopes), key=STRICTER.index)
    return {
        "follower": name,
        "control": control,
        "open": sum(link.lots > 0 for link in own),
        "pending": sum(link.wanted_open and not link.lots and not link.reason for link in own),
        "refused": verdicts[Verdict.REFUSED],
        "failed": verdicts[Verdict.FAILED] + verdicts[Verdict.UNKNOWN],
        "equity": money(sample.equity, sample.currency) if sample else "",
        "alert": f"{clock(alerts[-1].at_ms)} {alerts[-1].message or alerts[-1].code}" if alerts else "",
    }


async def audit(settings: Settings, last: int, expected: str) -> Answer:
    """Return the newest entries of the audit, its head, and every sign that it was tampered with."""
    async with stores(settings) as (_, history):
        chain = Audit(history.database, audit_key(settings))
        breaks, entries, unkeyed = await chain.breaks(expected), await chain.entries(), await chain.unkeyed()
    head = f"{entries[-1].seq}:{entries[-1].hash}" if entries else ""
    table = Table(title="Audit", title_justify="left", expand=True)
    for heading in ("entry", "when (UTC)", "who"):
        table.add_column(heading, no_wrap=True)
    table.add_column("what", ratio=1)
    for entry in entries[-last:]:
        table.add_row(str(entry.seq), moment(entry.at_ms), entry.who, _audited(entry))
    verdict = (
        Text("\n".join(breaks), style="red") if breaks else Text(f"The chain holds. Head: {head or 'none yet'}", style="green")
    )
    shown: list[RenderableType] = [table, verdict]
    if unkeyed:
        words = f"{unkeyed} entries are from before the key was set, or pretend to be: what they tell can have been rewritten."
        shown.append(Text(words, style="yellow"))
    data = {"good": not breaks, "breaks": breaks, "unkeyed": unkeyed, "head": head, "entries": entries[-last:]}
    return Answer(data, tuple(shown))


def _audited(entry: AuditEntry) -> str:
    if entry.what == CONTROL:
        return f"{entry.detail.get('scope')}: {entry.detail.get('control')}"
    same = "new or changed, kept here" if "settings" in entry.detail else "as before"
    return f"settings loaded for {entry.detail.get('role')}, {same} ({str(entry.detail.get('digest'))[:12]})"


async def accounts(settings: Settings) -> Answer:
    """Return every account's newest sample of money."""
    async with stores(settings) as (_, history):
        samples = await history.latest()
    table = Table(title="Accounts", title_justify="left", expand=True)
    for heading in ("account", "login", "kind"):
        table.add_column(heading)
    for heading in ("balance", "equity", "margin"):
        table.add_column(heading, justify="right")
    table.add_column("as of (UTC)")
    for name, account in settings.accounts.items():
        sample = samples.get(name)
        where = f"{account.login}@{account.server}"
        if sample is None:
            table.add_row(name, where, account.kind, "-", "-", "-", "never")
        else:
            amounts = (money(sample.balance, sample.currency), money(sample.equity), money(sample.margin))
            table.add_row(name, where, account.kind, *amounts, clock(sample.at_ms))
    return Answer(samples, (table,))


async def positions(settings: Settings) -> Answer:
    """Return the links that live."""
    async with stores(settings) as (ledger, _):
        links = await ledger.links()
    return Answer(links, (links_table(links, rows_max=1_000),))


async def receipts(settings: Settings, chosen: Chosen) -> Answer:
    """Return the newest receipts that were asked for. Raise `SettingsError` for a follower that nobody knows."""
    async with stores(settings) as (ledger, _):
        filtered = chosen.symbol is not None or chosen.code is not None
        newest = await ledger.receipts(follower=chosen.follower, newest=RECEIPTS_MAX if filtered else chosen.last)
    known = twins(settings)
    if not newest and chosen.follower is not None and chosen.follower not in known:  # One of the past may have left some.
        raise SettingsError([f"follower {chosen.follower}: expected one of {', '.join(known)}"], source="command")
    found = [receipt for receipt in newest if chosen.has(receipt)][-chosen.last :]
    return Answer(found, (receipts_table(found),))


async def missing_symbols(settings: Settings) -> Answer:
    """Return which symbols could not be translated, by follower, with what was said of the newest case."""
    async with stores(settings) as (ledger, _):
        newest = await ledger.receipts(newest=RECEIPTS_MAX)
    seen: dict[tuple[str, str, str], list[Receipt]] = {}
    for receipt in newest:
        if receipt.code in UNMAPPED:
            seen.setdefault((receipt.follower, receipt.master, receipt.symbol), []).append(receipt)
    rows = [
        {"follower": f, "master": m, "symbol": s, "times": len(each), "code": each[-1].code, "message": each[-1].message}
        for (f, m, s), each in sorted(seen.items())
    ]
    table = Table(expand=True)
    for heading in ("follower", "master", "symbol", "times"):
        table.add_column(heading, no_wrap=True)
    table.add_column("why", ratio=1)
    for row in rows:
        table.add_row(*(str(row[name]) for name in ("follower", "master", "symbol", "times", "message")))
    hint = Text("Set followers.<name>.copies[].symbols.map, such as {US30: DJ30.ecn}.", style="dim")
    return Answer(rows, (table, hint) if rows else (Text("Every symbol that was traded has its place."),))


async def shadow(settings: Settings) -> Answer:
    """Return, for every follower with relations in mode `shadow`, what they and the live followers did."""
    async with stores(settings) as (ledger, _):
        links = await ledger.links(living=False)
        newest = await ledger.receipts(newest=RECEIPTS_MAX)
    rows = [_shadow_row(name, links, newest) for name in twins(settings)]
    if not any(row["follower"].endswith(SHADOW) for row in rows):
        return Answer(rows, (Text("No relation is in mode shadow."),))
    table = Table(title="Shadow beside live", title_justify="left", expand=True)
    table.add_column("follower", no_wrap=True)
    for heading in ("copied", "refused", "open lots", "filled lots", "points worse"):
        table.add_column(heading, justify="right")
    table.add_column("refused most for", ratio=1)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    return Answer(rows, (table, Text("Shadow fills are simulated at the account's own prices.", style="dim")))


def _shadow_row(name: str, links: Iterable[Link], newest: Iterable[Receipt]) -> dict[str, Any]:
    own = [link for link in links if link.follower == name]
    receipts = [receipt for receipt in newest if receipt.follower == name]
    copied = [receipt for receipt in receipts if receipt.verdict is Verdict.COPIED]
    refused = Counter(receipt.code for receipt in receipts if receipt.verdict is Verdict.REFUSED)
    slippage = mean_slippage(copied)
    return {
        "follower": name,
        "copied": len(copied),
        "refused": sum(refused.values()),
        "open_lots": plain(sum((link.lots for link in own), Decimal(0))),
        "filled_lots": plain(sum((link.filled for link in own), Decimal(0))),
        "slippage_points": "-" if slippage is None else str(slippage),
        "refused_most_for": ", ".join(code for code, _ in refused.most_common(3)),
    }


async def set_control(settings: Settings, scope: str, control: str) -> None:
    """Set what a person wants; raise `SettingsError` for a scope that means nothing here."""
    check_scope(settings, scope)
    async with stores(settings) as (ledger, _):
        await ledger.set_control(scope, control, f"{person()} at the command line")


async def left_open(settings: Settings, scope: str) -> list[str]:
    """Return what is open inside a scope, one line each."""
    async with stores(settings) as (ledger, _):
        links = await ledger.links()
    within = [link for link in links if link.lots and in_scope(settings, scope, link)]
    return [
        f"{link.follower}: {link.side} {plain(link.lots)} {link.symbol} (copy of {link.master} {link.key})" for link in within
    ]


def twins(settings: Settings) -> list[str]:
    """Return the followers, and their simulated twins, in the order of the settings."""
    return [twin for name, follower in settings.followers.items() for twin in split_shadow(name, follower.copies)]


def check_scope(settings: Settings, scope: str) -> None:
    """Raise `SettingsError` where a scope names nobody."""
    groups = {group for each in settings.followers.values() for group in each.groups}
    known = {"*", *(f"master:{name}" for name in settings.masters), *(f"group:{name}" for name in groups)}
    for name, follower in settings.followers.items():
        known |= {f"{name}:{limit.name}" for limit in limits_of(follower)}
        for twin, copies in split_shadow(name, follower.copies).items():
            known |= {name, twin, *(f"{twin}/{copy.master}" for copy in copies)}
    if scope not in known:
        expected = f"expected *, one of {', '.join(settings.followers)}, follower/master, or group:name"
        raise SettingsError([f"scope {scope!r}: {expected}"], source="command")


def limits_of(follower: FollowerSettings) -> list[LossLimit]:
    """Return every loss limit of a follower, its relations' included."""
    return [limit for policy in (follower.risk, *(copy.risk for copy in follower.copies)) for limit in policy.losses]


def in_scope(settings: Settings, scope: str, link: Link) -> bool:
    """Say whether a link falls under a scope."""
    groups = settings.followers[name].groups if (name := link.follower.removesuffix(SHADOW)) in settings.followers else ()
    return scope in ("*", link.follower, f"{link.follower}/{link.master}", *(f"group:{group}" for group in groups))
