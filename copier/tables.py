"""Tables for a terminal: accounts, links, receipts, and how the demonstration ended."""

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal

from rich import box
from rich.table import Table
from rich.text import Text

from copier.alert import Alert
from copier.demo import DemoEnd
from copier.link import Link
from copier.model import Account, Receipt, Verdict
from copier.steps import plain
from copier.words import Latency, sentence

WIDE = 95
"""Columns of a terminal that has room for everything."""
COLOURS = {
    Verdict.COPIED: "green",
    Verdict.CHANGED: "cyan",
    Verdict.CLOSED: "blue",
    Verdict.ADOPTED: "green",
    Verdict.REFUSED: "yellow",
    Verdict.SKIPPED: "dim",
    Verdict.FAILED: "red",
    Verdict.UNKNOWN: "magenta",
    Verdict.ALERT: "bold red",
}


def money(amount: Decimal, currency: str = "") -> str:
    """Return an amount with two digits and its currency."""
    return f"{amount:,.2f} {currency}".rstrip()


def result(amount: Decimal, currency: str = "") -> Text:
    """Return a profit in green, a loss in red."""
    return Text(f"{amount:+,.2f} {currency}".rstrip(), style="green" if amount > 0 else "red" if amount < 0 else "dim")


def clock(at_ms: int) -> str:
    """Return the time of day in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%H:%M:%S")


def receipt_line(receipt: Receipt) -> Text:
    """Return one receipt as one line."""
    line = Text.assemble((clock(receipt.at_ms), "dim"), "  ", (f"{receipt.follower:<9}", "bold"), " ")
    return line.append(sentence(receipt), style=COLOURS[receipt.verdict])


def receipt_words(receipt: Receipt) -> str:
    """Return one receipt as one line without colours."""
    return f"{clock(receipt.at_ms)}  {receipt.follower:<9} {sentence(receipt)}"


def accounts_table(rows: Iterable[tuple[str, str, Account | None, int, str]]) -> Table:
    """Return accounts by name, role, last read, number of positions, and trouble if there is any."""
    table = Table(title="Accounts", title_justify="left", expand=True, box=box.SIMPLE_HEAD)
    for heading in ("account", "role"):
        table.add_column(heading, no_wrap=True)
    for heading in ("balance", "equity", "floating", "open"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", ratio=1, no_wrap=True, overflow="ellipsis")
    for name, role, account, positions, trouble in rows:
        state = Text(trouble, style="bold red") if trouble else Text("ok", style="green")
        if account is None:
            table.add_row(name, role, "-", "-", "-", str(positions), state)
            continue
        table.add_row(
            name,
            role,
            money(account.balance, account.currency),
            money(account.equity),
            result(account.profit),
            str(positions),
            state,
        )
    return table


def links_table(links: Iterable[Link], *, rows_max: int = 12, width: int = WIDE) -> Table:
    """Return which position of a master stands behind which of a follower; levels only where there is room for them."""
    table = Table(title="Copies", title_justify="left", expand=True, box=box.SIMPLE_HEAD)
    for heading in ("master", "its position", "follower", "our position"):
        table.add_column(heading, no_wrap=True)
    for heading in ("fill", "stop", "target")[: 3 if width >= WIDE else 1]:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", min_width=6, no_wrap=True)
    links = list(links)
    for link in links[:rows_max]:
        position = link.position
        fills = [leg.price for leg in link.legs if leg.filled and leg.price]
        numbers = (f"{fills[-1]:f}" if fills else "", level(link.stop_loss), level(link.take_profit))
        table.add_row(
            link.master,
            f"{position.side} {plain(position.lots)} {position.symbol}",
            link.follower,
            f"{link.side} {plain(link.lots)} {link.symbol}" if link.lots else "-",
            *numbers[: 3 if width >= WIDE else 1],
            state_of(link),
        )
    if len(links) > rows_max:
        table.add_row("...", f"and {len(links) - rows_max} more")
    return table


def state_of(link: Link) -> Text:
    """Say where a link stands."""
    if link.lots and link.wanted_open:
        return Text("copied", style="green")
    if link.lots:
        return Text("closing", style="blue")
    return Text(link.reason or link.state.value, style="yellow")


def level(price: Decimal) -> str:
    """Return a stop or target, or nothing where there is none."""
    return f"{price:f}" if price else ""


def receipts_table(receipts: Iterable[Receipt]) -> Table:
    """Return receipts, oldest first."""
    table = Table(expand=True)
    for heading in ("time (UTC)", "follower", "master", "code"):
        table.add_column(heading, no_wrap=True)
    table.add_column("what happened", ratio=1)
    for receipt in receipts:
        when = datetime.fromtimestamp(receipt.at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        words = Text(sentence(receipt), style=COLOURS[receipt.verdict])
        table.add_row(when, receipt.follower, receipt.master, receipt.code, words)
    return table


def hops_line(hops: dict[str, Latency]) -> Text:
    """Return the latency of every hop in one line."""
    line = Text("latency p50/p99 ms  ", style="dim")
    for name, each in hops.items():
        line.append(f"{name} ").append(f"{each.p50_ms}/{each.p99_ms}", style="bold").append("   ")
    return line


def end_table(end: DemoEnd) -> Table:
    """Return what became of every follower of the demonstration."""
    table = Table(title="How it ended", title_justify="left", expand=True, box=box.SIMPLE_HEAD)
    table.add_column("follower", no_wrap=True)
    for heading in ("result", "opened", "closed", "resized", "refused", "p50/p99 ms", "points worse"):
        table.add_column(heading, justify="right")
    for each in end.followers:
        time = each.latency
        table.add_row(
            each.follower,
            result(each.result, each.currency),
            str(each.opened),
            str(each.closed),
            str(each.resized),
            str(len(each.refused)),
            "-" if time is None else f"{time.p50_ms}/{time.p99_ms}",
            "-" if each.slippage_points is None else str(each.slippage_points),
        )
    return table


def alerts_table(alerts: Iterable[Alert]) -> Table:
    """Return alerts as a table, those that stand in red."""
    table = Table(title="Alerts", title_justify="left", expand=True)
    for heading in ("since (UTC)", "until", "watchdog", "account"):
        table.add_column(heading, no_wrap=True)
    table.add_column("what is wrong, and what to do", ratio=1)
    for alert in alerts:
        words = Text(alert.cause, style="dim" if alert.ended_ms else "red").append(f"\n{alert.advice}", style="dim")
        if alert.done:
            words.append(f"\nDone about it: {alert.done}", style="yellow")
        until = moment(alert.ended_ms) if alert.ended_ms else "now"
        table.add_row(moment(alert.since_ms), until, alert.watchdog, alert.account, words)
    return table


def moment(at_ms: int) -> str:
    """Return day and time of day in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%m-%d %H:%M:%S")
