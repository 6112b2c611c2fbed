"""What a client is shown of a period: one self-contained page, and the plain files behind it.

The same input gives the same bytes. The page asks nothing of the network; charts are drawn by matplotlib, the page by Jinja,
both from the `reports` extra and imported only when a page is made.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from csv import writer
from datetime import datetime
from decimal import Decimal
from importlib import resources
from io import StringIO
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import msgspec

from copier.errors import CopierError
from copier.model import ZERO, Receipt, Record, Side, Verdict

_TEMPLATE = "report_page.html"
_HUNDRED = Decimal(100)
_REASONS_SHOWN = 8
_OTHER = "all_other_reasons"
_OPENS = ("open", "scale_in", "reverse")
"""The events that ask for a trade."""


class ReportError(CopierError):
    """The page cannot be made; says what is missing."""


class EquityPoint(Record, frozen=True, kw_only=True):
    """An account's money at one moment."""

    time: datetime
    balance: Decimal
    equity: Decimal
    paid: Decimal = ZERO
    """Paid in less paid out since the point before: part of the equity, not of the result."""


class EquitySeries(Record, frozen=True, kw_only=True):
    """An account's money over a period, oldest first."""

    account: str
    currency: str
    points: tuple[EquityPoint, ...]


class PositionRow(Record, frozen=True, kw_only=True):
    """One copied position, beside the master's it was copied from."""

    master_ticket: int
    ticket: int
    symbol: str
    side: Side
    lots: Decimal
    open_time: datetime
    open_price: Decimal
    close_time: datetime | None = None
    close_price: Decimal | None = None
    commission: Decimal = ZERO
    swap: Decimal = ZERO
    profit: Decimal = ZERO


class Slippage(Record, frozen=True, kw_only=True):
    """How much worse than the master followers were filled, in points; below 0 is better."""

    trades: int
    mean: Decimal
    worst: Decimal


class Reason(Record, frozen=True, kw_only=True):
    """Why trades were not copied, and how many."""

    code: str
    count: int
    example: str = ""
    """One of them in words, with its numbers."""


class Tally(Record, frozen=True, kw_only=True):
    """What became of the master's trades at one follower."""

    copied: int = 0
    resized: int = 0
    """Of the copied, how many with another volume than the master's."""
    skipped: int = 0
    failed: int = 0
    reasons: tuple[Reason, ...] = ()
    """Of the skipped and the failed, the most frequent first."""
    slippage: Slippage | None = None


class Drawdown(Record, frozen=True, kw_only=True):
    """The deepest fall of the result from a peak; money paid in or out is no part of it."""

    money: Decimal = ZERO
    percent: Decimal = ZERO
    """Of the peak it fell from; the deepest in percent, which may be another fall than the deepest in money."""
    time: datetime | None = None
    """When the fall in percent was deepest."""


class AccountReport(Record, frozen=True, kw_only=True):
    """All that is told of one account."""

    series: EquitySeries
    tally: Tally = Tally()
    quality_percent: Decimal | None = None
    """The copy quality, where the caller measured one; `Report.quality_meaning` says what it is."""

    @property
    def paid(self) -> Decimal:
        """Paid in less paid out after the first point."""
        return sum((point.paid for point in self.series.points[1:]), ZERO)

    @property
    def profit(self) -> Decimal:
        """What the account gained from its first point to its last, payments left out."""
        points = self.series.points
        return points[-1].equity - points[0].equity - self.paid if points else ZERO

    @property
    def profit_percent(self) -> Decimal | None:
        """The gain of money that stayed in all the time; None where there was none at the start."""
        points = self.series.points
        return (growth(points)[-1] - 1) * _HUNDRED if points and points[0].equity > 0 else None


class LimitFired(Record, frozen=True, kw_only=True):
    """A limit that stopped something."""

    time: datetime
    account: str
    limit: str
    """As the settings call it, such as `daily_loss_max`."""
    happened: str
    """What it did, in words."""
    value: str = ""
    threshold: str = ""


class Report(Record, frozen=True, kw_only=True):
    """What the page shows."""

    title: str
    subtitle: str = ""
    master: AccountReport
    followers: tuple[AccountReport, ...]
    limits: tuple[LimitFired, ...] = ()
    quality_meaning: str = "the share of the master's result, at the size agreed, that arrived"
    clock: str = "the trade servers"
    """Whose clock the times are of, as the end of a sentence."""
    caveats: tuple[str, ...] = ()
    """What the reader must know to judge the numbers, in plain words."""


def growth(points: Sequence[EquityPoint]) -> list[Decimal]:
    """Return for every point what 1 at the first has become: time-weighted, so that payments neither help nor hurt.

    From 0 there is no way back: an account that lost everything and was paid in again has still lost everything.
    """
    index = Decimal(1)
    grown = [index] if points else []
    for before, point in pairwise(points):
        if before.equity > 0:
            index *= max(ZERO, (point.equity - point.paid) / before.equity)
        grown.append(index)
    return grown


def worst_drawdown(points: Sequence[EquityPoint]) -> Drawdown:
    """Return the deepest fall from any earlier peak: in money of the profit so far, in percent of the growth."""
    money = percent = paid = ZERO
    time = None
    peak = points[0].equity if points else ZERO
    high = Decimal(1)
    for point, index in zip(points, growth(points), strict=True):
        paid += point.paid if point is not points[0] else ZERO
        peak = max(peak, point.equity - paid)
        money = max(money, peak - point.equity + paid)
        high = max(high, index)
        if (1 - index / high) * _HUNDRED > percent:
            percent, time = (1 - index / high) * _HUNDRED, point.time
    return Drawdown(money=money, percent=percent, time=time)


def tally(receipts: Iterable[Receipt]) -> Tally:
    """Count what became of opens in one follower's receipts; changes and closes are not trades of their own."""
    copied = resized = skipped = failed = 0
    reasons: Counter[str] = Counter()
    examples: dict[str, str] = {}
    slips: list[Decimal] = []
    for receipt in receipts:
        if receipt.event not in _OPENS:
            continue
        match receipt.verdict:
            case Verdict.COPIED:
                copied += 1
                resized += receipt.lots != receipt.master_lots
                slips += [] if receipt.slippage_points is None else [receipt.slippage_points]
                continue
            case Verdict.REFUSED | Verdict.SKIPPED:
                skipped += 1
            case Verdict.FAILED | Verdict.UNKNOWN:
                failed += 1
            case _:
                continue
        reasons[receipt.code] += 1
        examples.setdefault(receipt.code, receipt.message)
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return Tally(
        copied=copied,
        resized=resized,
        skipped=skipped,
        failed=failed,
        reasons=tuple(Reason(code=code, count=count, example=examples[code]) for code, count in ranked),
        slippage=Slippage(trades=len(slips), mean=sum(slips, ZERO) / len(slips), worst=max(slips)) if slips else None,
    )


def write_report(path: Path, report: Report) -> None:
    """Write the page; raise `ReportError` where the `reports` extra is not installed."""
    path.write_bytes(render_report(report).encode())


def render_report(report: Report) -> str:
    """Return the page as HTML; raise `ReportError` where the `reports` extra is not installed."""
    try:
        import jinja2
        from markupsafe import Markup

        from copier import report_charts
    except ImportError as error:
        raise ReportError(f"a report needs {error.name}: pip install 'mt-copier[reports]'") from None
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "money": _money,
        "signed": _signed,
        "percent": _percent,
        "when": _when,
        "words": _words,
        "tone": _tone,
    }
    page = environment.from_string(resources.files("copier").joinpath(_TEMPLATE).read_text(encoding="utf-8"))
    accounts = (report.master, *report.followers)
    reasons = _all_reasons(report.followers)
    counts = _reason_columns(report.followers, reasons)
    charts = {
        "equity": report_charts.results([_growth_line(account.series.points) for account in accounts]),
        "drawdown": report_charts.drawdowns([_fall_line(account.series.points) for account in accounts]),
        "reasons": report_charts.reasons([_words(reason.code) for reason in reasons], counts),
    }
    text: str = page.render(
        report=report,
        headline=_headline(report),
        leads=1 + bool(report.followers),
        reasons=reasons,
        charts={name: Markup(svg) for name, svg in charts.items()},
        cards=[
            {
                "account": account,
                "role": "Follower" if place else "Master",
                "spark": Markup(report_charts.spark(account.series.account, *_money_lines(account.series.points), place)),
                "drawdown": worst_drawdown(account.series.points),
            }
            for place, account in enumerate(accounts)
        ],
    )
    return text


Line = list[tuple[datetime, float]]


def _money_lines(points: Sequence[EquityPoint]) -> tuple[Line, Line]:
    return [(point.time, float(point.equity)) for point in points], [(point.time, float(point.balance)) for point in points]


def _growth_line(points: Sequence[EquityPoint]) -> Line:
    if not points or points[0].equity <= 0:
        return []
    return [(point.time, float(index * 100 - 100)) for point, index in zip(points, growth(points), strict=True)]


def _fall_line(points: Sequence[EquityPoint]) -> Line:
    grown = growth(points)
    falls = ((index / high - 1) * _HUNDRED for index, high in zip(grown, accumulate(grown, max), strict=True))
    return [(point.time, float(fall)) for point, fall in zip(points, falls, strict=True)]


class _Fact(Record, frozen=True, kw_only=True):
    """One headline number."""

    label: str
    value: str
    note: str = ""
    tone: str = ""


def _headline(report: Report) -> list[_Fact]:
    falls = [(worst_drawdown(follower.series.points), follower.series.account) for follower in report.followers]
    deepest, whose = max(falls, key=lambda fall: fall[0].percent, default=(Drawdown(), ""))
    copied = sum(follower.tally.copied for follower in report.followers)
    resized = sum(follower.tally.resized for follower in report.followers)
    asked = copied + sum(follower.tally.skipped + follower.tally.failed for follower in report.followers)
    share = f"{_percent(_HUNDRED * copied / asked)} of {asked:,}" if asked else "no trade was asked for"
    facts = [_result("Master", [report.master])]
    if report.followers:
        facts.append(_result("Followers together" if len(report.followers) > 1 else "Follower", report.followers))
    facts += [
        _Fact(label="Worst drawdown", value=_percent(deepest.percent), note=whose, tone="bad" if deepest.percent > 0 else ""),
        _Fact(label="Trades copied", value=f"{copied:,}", note=share + (f", {resized:,} at another size" if resized else "")),
    ]
    if measured := [follower.quality_percent for follower in report.followers if follower.quality_percent is not None]:
        mean = sum(measured, ZERO) / len(measured)
        note = f"lowest {_percent(min(measured))}" if len(measured) > 1 else "of the master's result arrived"
        facts.append(_Fact(label="Copy quality", value=_percent(mean), note=note))
    if slips := [follower.tally.slippage for follower in report.followers if follower.tally.slippage]:
        trades = sum(slip.trades for slip in slips)
        mean = sum((slip.mean * slip.trades for slip in slips), ZERO) / trades
        worst = f"points a fill, worst {_plain(max(slip.worst for slip in slips))}"
        facts.append(_Fact(label="Mean slippage", value=_plain(mean), note=worst))
    facts.append(
        _Fact(label="Limits fired", value=f"{len(report.limits):,}", note="listed below" if report.limits else "none was needed")
    )
    return facts


def _result(label: str, accounts: Sequence[AccountReport]) -> _Fact:
    """Return what accounts gained together; where their currencies differ, how many gained."""
    currencies = {account.series.currency for account in accounts}
    if len(currencies) != 1:
        won = sum(account.profit > 0 for account in accounts)
        return _Fact(label=f"{label}: in profit", value=f"{won} of {len(accounts)}", note="in different currencies")
    profit = sum((account.profit for account in accounts), ZERO)
    start = sum((account.series.points[0].equity for account in accounts if account.series.points), ZERO)
    paid = sum((account.paid for account in accounts), ZERO)
    if any(point.paid for account in accounts for point in account.series.points[1:]):
        note = f"from {_money(start)}, and {_signed(paid)} paid in less paid out meanwhile"
    else:
        note = f"{_signed_percent(profit / start * _HUNDRED)} of {_money(start)} at the start" if start > 0 else "from nothing"
    return _Fact(label=label, value=f"{_signed(profit)} {currencies.pop()}".strip(), note=note, tone=_tone(profit))


def _all_reasons(followers: Sequence[AccountReport]) -> list[Reason]:
    """Return the reasons of all followers, the most frequent first, the rare ones as one."""
    total: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for reason in (reason for follower in followers for reason in follower.tally.reasons):
        total[reason.code] += reason.count
        examples[reason.code] = examples.get(reason.code) or reason.example
    ranked = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    shown = [Reason(code=code, count=count, example=examples[code]) for code, count in ranked[:_REASONS_SHOWN]]
    if rest := ranked[_REASONS_SHOWN:]:
        words = ", ".join(_words(code) for code, _ in rest)
        shown.append(Reason(code=_OTHER, count=sum(count for _, count in rest), example=words))
    return shown


def _reason_columns(followers: Sequence[AccountReport], shown: Sequence[Reason]) -> list[list[int]]:
    """Return by follower how often each of the reasons shown occurred."""
    codes = [reason.code for reason in shown if reason.code != _OTHER]
    columns = []
    for follower in followers:
        counts = {reason.code: reason.count for reason in follower.tally.reasons}
        column = [counts.pop(code, 0) for code in codes]
        columns.append(column + [sum(counts.values())] * (len(shown) - len(codes)))
    return columns


def write_positions_csv(path: Path, rows: Iterable[PositionRow]) -> None:
    """Write one line a copied position; a position still open has no close."""
    header = ["masterTicket", "ticket", "symbol", "side", "lots", "openTime", "openPrice", "closeTime", "closePrice"]
    header += ["commission", "swap", "profit"]
    lines = []
    for row in rows:
        opened = [row.master_ticket, row.ticket, row.symbol, row.side.value, row.lots, row.open_time, row.open_price]
        lines.append([*opened, row.close_time, row.close_price, row.commission, row.swap, row.profit])
    _write_csv(path, header, lines)


def write_equity_csv(path: Path, series: Iterable[EquitySeries]) -> None:
    """Write one line a point, account after account."""
    lines = [
        [one.account, one.currency, point.time, point.balance, point.equity, point.paid] for one in series for point in one.points
    ]
    _write_csv(path, ["account", "currency", "time", "balance", "equity", "paid"], lines)


def write_receipts_jsonl(path: Path, receipts: Iterable[Receipt]) -> None:
    """Write one receipt a line, as on the wire."""
    encoder = msgspec.json.Encoder(order="deterministic")
    path.write_bytes(b"".join(encoder.encode(receipt) + b"\n" for receipt in receipts))


def _write_csv(path: Path, header: list[str], lines: Iterable[Sequence[object]]) -> None:
    text = StringIO(newline="")
    out = writer(text, lineterminator="\n")
    out.writerow(header)
    out.writerows([_cell(value) for value in line] for line in lines)
    path.write_bytes(text.getvalue().encode())


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case Decimal():
            return f"{value:f}"
        case datetime():
            return value.replace(tzinfo=None).isoformat(sep=" ", timespec="milliseconds" if value.microsecond else "seconds")
        case _:
            return str(value)


def _money(amount: Decimal) -> str:
    return f"{amount:,.2f}".replace("-", "\u2212")


def _signed(amount: Decimal) -> str:
    return f"{amount:+,.2f}".replace("-", "\u2212") if round(amount, 2) else "0.00"


def _percent(share: Decimal) -> str:
    return f"{share:,.1f}\u202f%".replace("-", "\u2212")


def _signed_percent(share: Decimal) -> str:
    return f"{share:+,.1f}\u202f%".replace("-", "\u2212")


def _plain(number: Decimal) -> str:
    return f"{number:,.1f}".replace("-", "\u2212")


def _when(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"


def _words(code: str) -> str:
    return code.replace("_", " ")


def _tone(amount: Decimal) -> str:
    return "good" if round(amount, 2) > 0 else "bad" if round(amount, 2) < 0 else ""
