"""A report is one self-contained page and plain files, the same bytes for the same numbers."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copier import report_charts
from copier.model import Receipt, Side, Verdict
from copier.report import (
    AccountReport,
    EquityPoint,
    EquitySeries,
    LimitFired,
    PositionRow,
    Reason,
    Report,
    ReportError,
    Slippage,
    Tally,
    growth,
    render_report,
    tally,
    worst_drawdown,
    write_equity_csv,
    write_positions_csv,
    write_receipts_jsonl,
    write_report,
)

START = datetime(2025, 1, 2, tzinfo=UTC)


def points(*equities: str, paid: dict[int, str] | None = None) -> tuple[EquityPoint, ...]:
    return tuple(
        EquityPoint(
            time=START + timedelta(hours=index),
            balance=Decimal(equity),
            equity=Decimal(equity),
            paid=Decimal((paid or {}).get(index, "0")),
        )
        for index, equity in enumerate(equities)
    )


def account(name: str, *equities: str, currency: str = "USD", **more: object) -> AccountReport:
    series = EquitySeries(account=name, currency=currency, points=points(*equities))
    return msgspec.structs.replace(AccountReport(series=series), **more)


def sample(**changes: object) -> Report:
    follower = account(
        "Anna & <Co>",
        "1000",
        "1100",
        "990",
        "1050",
        quality_percent=Decimal("93.4"),
        tally=Tally(
            copied=40,
            resized=4,
            skipped=9,
            failed=1,
            reasons=(Reason(code="spread_above_max", count=9, example="spread 42 <points>"), Reason(code="no_money", count=1)),
            slippage=Slippage(trades=40, mean=Decimal("1.5"), worst=Decimal(14)),
        ),
    )
    limit = LimitFired(
        time=START, account="Anna & <Co>", limit="daily_loss_max", happened="Opens stopped", value="512.20", threshold="500"
    )
    report = Report(
        title="January <2025>",
        master=account("Strategy", "5000", "5500", "5250", "5400"),
        followers=(follower, account("Second", "200", "190", "210", "205")),
        limits=(limit,),
        caveats=("Replay fills are better than a live account's.",),
    )
    return msgspec.structs.replace(report, **changes)


def receipt(verdict: Verdict, code: str = "", *, lots: str = "1", slippage: str | None = None, message: str = "") -> Receipt:
    return Receipt(
        at_ms=1,
        follower="f",
        master="m",
        key="1.1",
        event="open",
        verdict=verdict,
        code=code,
        message=message,
        master_lots=Decimal(1),
        lots=Decimal(lots),
        slippage_points=None if slippage is None else Decimal(slippage),
    )


class Page(HTMLParser):
    """What a browser would see: texts, and every place a page could fetch something from."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.fetches: list[str] = []
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href", "srcset", "action", "data"} and not (value or "").startswith("#"):
                self.fetches.append(f"{tag} {name} {value}")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(sample())


def test_the_page_fetches_nothing_and_runs_nothing(html: str) -> None:
    page = Page(html)
    assert page.fetches == []
    assert not {"script", "link", "iframe", "img", "object"} & set(page.tags)
    assert "url(" not in re.sub(r"url\(#[a-z0-9]+\)", "", html)
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_headline_numbers_come_before_everything_else(html: str) -> None:
    text = " ".join(" ".join(Page(html).texts).split())
    order = [
        text.index(part)
        for part in ("+400.00 USD", "Worst drawdown", "Growth since the start", "Why trades were", "Limits that fired")
    ]
    assert order == sorted(order)
    assert "+55.00 USD" in text
    assert "40 80.0 % of 50, 4 at another size" in text
    assert "Worst drawdown 10.0 % Anna" in text


def test_what_names_say_stays_text(html: str) -> None:
    assert "Anna &amp; &lt;Co&gt;" in html
    assert "spread 42 &lt;points&gt;" in html
    assert "<Co>" not in html
    assert "January &lt;2025&gt;" in html


def test_caveats_limits_and_reasons_are_told_in_words(html: str) -> None:
    text = " ".join(" ".join(Page(html).texts).split())
    assert "Replay fills are better than a live account's." in text
    assert "spread above max" in text
    assert "2025-01-02 00:00 Anna & <Co> daily_loss_max 512.20 500 Opens stopped" in text


def test_charts_take_their_colours_from_the_page_and_share_no_ids(html: str) -> None:
    assert html.count("<svg") == 6
    assert "#0a0" not in html
    assert "var(--ink)" in html
    assert "prefers-color-scheme: dark" in html
    defined = re.findall(r'\bid="([^"]+)"', html)
    assert set(re.findall(r'href="#([^"]+)"', html)) | set(re.findall(r"url\(#([^)]+)\)", html)) <= set(defined)


def test_the_same_numbers_give_the_same_page_in_another_process(html: str, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", sample())
    assert (tmp_path / "report.html").read_bytes() == html.encode()
    (tmp_path / "report.json").write_bytes(msgspec.json.encode(sample()))
    code = (
        "import sys, msgspec, copier.report as r; "
        "sys.stdout.buffer.write(r.render_report(msgspec.json.decode(open(sys.argv[1], 'rb').read(), type=r.Report)).encode())"
    )
    again = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "report.json")],
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "MPLCONFIGDIR": str(tmp_path)},
    )
    assert again.stdout == html.encode()


def test_the_machines_own_matplotlib_settings_change_nothing(html: str) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert render_report(sample()) == html
        assert matplotlib.rcParams["font.size"] == 30


@pytest.mark.parametrize("module", ["jinja2", "matplotlib"])
def test_without_the_extra_the_error_says_what_to_install(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "copier.report_charts")
    monkeypatch.delattr("copier.report_charts")
    with pytest.raises(ReportError, match=rf"needs {module}.*pip install 'mt-copier\[reports\]'"):
        render_report(sample())


@pytest.mark.parametrize(
    "report",
    [
        sample(followers=(), limits=(), caveats=()),
        sample(master=account("Empty"), followers=(account("Also empty"),)),
        sample(master=account("One point", "100"), followers=(account("From nothing", "0", "50"),)),
        sample(followers=tuple(account(f"Follower {n}", "100", str(90 + n)) for n in range(12))),
        sample(followers=(account("Euro", "100", "110", currency="EUR"), account("Dollar", "100", "90"))),
        sample(master=account("Flat", "100", "100", "100")),
        sample(master=account("Ruined", "100", "-5", "20")),
    ],
    ids=["nobody", "no points", "one point", "many", "two currencies", "flat", "ruined"],
)
def test_any_report_makes_a_page(report: Report) -> None:
    page = Page(render_report(report))
    assert page.fetches == []
    assert "nan" not in " ".join(page.texts).lower()


def test_followers_of_different_currencies_are_not_added_up() -> None:
    text = " ".join(Page(render_report(sample(followers=(account("E", "1", "2", currency="EUR"), account("D", "1", "2"))))).texts)
    assert "2 of 2" in text
    assert "in different currencies" in text


def test_many_rare_reasons_are_shown_as_one() -> None:
    reasons = tuple(Reason(code=f"reason_{n:02}", count=20 - n) for n in range(12))
    text = " ".join(
        Page(render_report(sample(followers=(account("A", "1", "2", tally=Tally(skipped=1, reasons=reasons)),)))).texts
    )
    assert "all other reasons" in text
    assert "reason 08, reason 09, reason 10, reason 11" in text


def test_drawdown_is_measured_from_the_highest_point_before() -> None:
    fall = worst_drawdown(points("100", "200", "150", "300", "180", "400"))
    assert (fall.money, fall.percent, fall.time) == (120, 40, START + timedelta(hours=4))
    assert worst_drawdown(()).percent == 0


def test_money_paid_in_is_neither_profit_nor_growth_and_paid_out_no_drawdown() -> None:
    series = points("100", "210", "105", "5.25", paid={1: "100", 2: "-100", 3: "-100"})
    report = AccountReport(series=EquitySeries(account="A", currency="USD", points=series))
    assert report.paid == -100
    assert report.profit == Decimal("5.25")
    assert [index.quantize(Decimal("0.001")) for index in growth(series)] == [
        1,
        Decimal("1.1"),
        Decimal("1.074"),
        Decimal("1.076"),
    ]
    assert worst_drawdown(series).money == 5


def test_an_account_that_lost_everything_does_not_come_back_by_being_paid_in() -> None:
    series = points("100", "-1", "99", "198", paid={2: "100"})
    assert growth(series) == [1, 0, 0, 0]
    assert worst_drawdown(series).percent == 100


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=40))
def test_drawdown_is_the_worst_of_all_pairs(equities: list[int]) -> None:
    fall = worst_drawdown(points(*map(str, equities)))
    pairs = [(high, low) for index, high in enumerate(equities) for low in equities[index:]]
    assert fall.money == max(high - low for high, low in pairs)
    assert abs(fall.percent - max((Decimal(high - low) / high * 100 for high, low in pairs), default=Decimal(0))) < Decimal(
        "1e-20"
    )


def test_receipts_are_counted_by_what_became_of_the_trade() -> None:
    counted = tally(
        [
            receipt(Verdict.COPIED, slippage="3"),
            receipt(Verdict.COPIED, lots="0.5", slippage="-1"),
            receipt(Verdict.REFUSED, "spread_above_max", message="spread 42"),
            receipt(Verdict.REFUSED, "spread_above_max", message="spread 50"),
            receipt(Verdict.SKIPPED, "close_only"),
            receipt(Verdict.FAILED, "no_money"),
            receipt(Verdict.UNKNOWN, "timeout"),
            receipt(Verdict.CHANGED),
            receipt(Verdict.CLOSED),
        ]
    )
    assert (counted.copied, counted.resized, counted.skipped, counted.failed) == (2, 1, 3, 2)
    assert counted.reasons[0] == Reason(code="spread_above_max", count=2, example="spread 42")
    assert [reason.code for reason in counted.reasons] == ["spread_above_max", "close_only", "no_money", "timeout"]
    assert counted.slippage == Slippage(trades=2, mean=Decimal(1), worst=Decimal(3))


def test_a_long_line_is_thinned_without_losing_an_extreme() -> None:
    line = [(START + timedelta(minutes=n), float((n * 7919) % 1000)) for n in range(20_000)]
    line[12_345] = (line[12_345][0], -5000.0)
    line[777] = (line[777][0], 5000.0)
    thin = report_charts._thin(line)
    assert len(thin) <= 600
    assert (thin[0], thin[-1]) == (line[0], line[-1])
    assert {line[777], line[12_345]} <= set(thin)
    assert thin == sorted(thin, key=lambda point: point[0])


def test_positions_are_written_with_the_columns_promised(tmp_path: Path) -> None:
    row = PositionRow(
        master_ticket=7,
        ticket=9,
        symbol="EUR,USD",
        side=Side.SELL,
        lots=Decimal("0.10"),
        open_time=START,
        open_price=Decimal("1E+1"),
        profit=Decimal("-1.50"),
    )
    closed = msgspec.structs.replace(row, close_time=START + timedelta(milliseconds=5), close_price=Decimal("9.5"))
    write_positions_csv(tmp_path / "p.csv", [row, closed])
    assert (tmp_path / "p.csv").read_bytes().decode() == (
        "masterTicket,ticket,symbol,side,lots,openTime,openPrice,closeTime,closePrice,commission,swap,profit\n"
        '7,9,"EUR,USD",sell,0.10,2025-01-02 00:00:00,10,,,0,0,-1.50\n'
        '7,9,"EUR,USD",sell,0.10,2025-01-02 00:00:00,10,2025-01-02 00:00:00.005,9.5,0,0,-1.50\n'
    )


def test_equity_is_written_account_after_account(tmp_path: Path) -> None:
    write_equity_csv(tmp_path / "e.csv", [account("A", "1", "2.50").series, account("B", "3", currency="EUR").series])
    assert (tmp_path / "e.csv").read_bytes().decode().splitlines() == [
        "account,currency,time,balance,equity,paid",
        "A,USD,2025-01-02 00:00:00,1,1,0",
        "A,USD,2025-01-02 01:00:00,2.50,2.50,0",
        "B,EUR,2025-01-02 00:00:00,3,3,0",
    ]


def test_receipts_are_written_as_on_the_wire_and_read_back(tmp_path: Path) -> None:
    receipts = [receipt(Verdict.COPIED, slippage="3"), receipt(Verdict.REFUSED, "no_money", message="zwei\nZeilen")]
    write_receipts_jsonl(tmp_path / "r.jsonl", receipts)
    data = (tmp_path / "r.jsonl").read_bytes()
    lines = data.splitlines()
    assert data.endswith(b"\n")
    assert [msgspec.json.decode(line, type=Receipt) for line in lines] == receipts
    assert "masterLots" in json.loads(lines[0])
