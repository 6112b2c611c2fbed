"""What MetaTrader saves is read whole, whatever its carrier, or refused with a reason."""

import io
import os
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copier.exports import Export, ExportError, merge_exports, parse_export, read_export
from copier.model import DealEntry, MarginMode, Side

DATA = Path(__file__).parents[2] / "shared" / "data" / "mt5-export"

POSITIONS_HEADER = "Time,Position,Symbol,Type,Volume,Price,S / L,T / P,Time,Price,Commission,Swap,Profit"
POSITION = "2025.01.02 10:00:00,1001,XAUUSD,buy,0.5,2650.10,2640.00,2660.00,2025.01.02 11:30:05,2655.10,-3.5,-0.2,250"
DEALS_HEADER = "Time,Deal,Symbol,Type,Direction,Volume,Price,Order,Commission,Fee,Swap,Profit,Balance"


def csv(*lines: str) -> bytes:
    return "\n".join(lines).encode()


def real(*names: str) -> Export:
    if not DATA.exists():
        if os.environ.get("CI") == "true":
            pytest.fail("the real export is absent, and here it must not be")
        pytest.skip("the real export (../shared/data/mt5-export) is absent")
    return read_export(*(DATA / f"{name}.csv" for name in names))


def html_statement() -> str:
    """A statement as the terminal lays it out: one table, sections under bold titles, hidden cells in data rows only."""

    def title(text: str) -> str:
        inner = f'<div style="font: 10pt Tahoma"><b>{text}</b></div>'
        return f'<tr align="center"><th colspan="14" style="height: 25px">{inner}</th></tr>'

    def header(*names: str) -> str:
        cells = "".join(
            f"<td nowrap{'' if ':' not in n else ' colspan=' + n.split(':')[1]}><b>{n.split(':')[0]}</b></td>" for n in names
        )
        return f'<tr align="center" bgcolor="#E5F0FC">{cells}</tr>'

    gap = '<tr><td nowrap style="height: 10px"></td></tr>'
    return f"""<!DOCTYPE html PUBLIC "-//W3C//DTD HTML 4.01 Transitional//EN" "http://www.w3.org/TR/html4/loose.dtd">
<html><head><title>12345678: A Trader - Trade History Report</title>
<meta name="generator" content="client terminal"><style type="text/css"><!-- .hidden {{ display: none; }} //--></style></head>
<body><div align="center"><table cellspacing="1" cellpadding="3" border="0">
<tr align="center"><td colspan="14"><div style="font: 14pt Tahoma"><b>Trade History Report</b><br></div></td></tr>
<tr align="left"><th colspan="4" nowrap align="right">Name:</th><th colspan="10" nowrap align="left"><b>A Trader</b></th></tr>
<tr align="left"><th colspan="4" nowrap align="right">Account:</th>
<th colspan="10" nowrap align="left"><b>12345678&nbsp;(USD,&nbsp;Some-Server,&nbsp;real,&nbsp;Hedge)</b></th></tr>
{gap}
{title("Positions")}
{header("Time", "Position", "Symbol", "Type", "Volume", "Price", "S / L", "T / P", "Time", "Price", "Commission", "Swap", "Profit:2")}
<tr bgcolor="#FFFFFF" align="right"><td>2025.01.02 10:00:00</td><td>1001</td><td>XAUUSD</td><td>buy</td>
<td class="hidden" colspan="8">my comment</td><td class="">0.5</td><td class="">2 650.10</td><td class="">2 640.00</td>
<td class=""></td><td class="">2025.01.02 11:30:05</td><td class="">2\u00a0655.10</td><td class="">- 3.50</td><td class="">-0.20</td>
<td colspan="2">250.00</td></tr>
<tr bgcolor="#F7F7F7" align="right"><td>2025.01.03 10:00:00</td><td>1002</td><td>A&amp;B</td><td>sell</td>
<td class="hidden" colspan="8"></td><td class="">1</td><td class="">20.5</td><td class=""></td>
<td class=""></td><td class="">2025.01.03 11:30:05</td><td class="">21.5</td><td class="">0.00</td><td class="">0.00</td>
<td colspan="2">-1 000.00</td></tr>
<tr align="right"><td nowrap colspan="10" style="height: 30px"></td><td><b>-3.50</b></td><td><b>-0.20</b></td>
<td colspan="2"><b>-750.00</b></td></tr>
{gap}
{title("Orders")}
{header("Open Time", "Order", "Symbol", "Type", "Volume", "Price", "S / L", "T / P", "Time", "State:2", "Comment:3")}
<tr bgcolor="#FFFFFF" align="right"><td>2025.01.02 09:00:00</td><td>1001</td><td>XAUUSD</td><td>buy limit</td>
<td>0.5 / 0.5</td><td>2 650.10</td><td></td><td></td><td>2025.01.02 10:00:00</td><td colspan="2">filled</td>
<td colspan="3">my comment</td></tr>
{gap}
{title("Deals")}
{header("Time", "Deal", "Symbol", "Type", "Direction", "Volume", "Price", "Order").replace("</tr>", "")}
<td nowrap class="hidden"><b>Cost</b></td><td><b>Commission</b></td><td><b>Fee</b></td><td><b>Swap</b></td><td><b>Profit</b></td>
<td><b>Balance</b></td><td><b>Comment</b></td></tr>
<tr align="right"><td>2025.01.01 00:00:00</td><td>1</td><td></td><td>balance</td><td></td><td></td><td></td><td></td>
<td class="hidden"></td><td>0.00</td><td>0.00</td><td>0.00</td><td>10 000.00</td><td>10 000.00</td><td>Deposit</td></tr>
<tr align="right"><td>2025.01.02 10:00:00</td><td>2</td><td>XAUUSD</td><td>buy</td><td>in</td><td>0.5</td><td>2 650.10</td><td>1001</td>
<td class="hidden"></td><td>-1.75</td><td>0.00</td><td>0.00</td><td>0.00</td><td>9 998.25</td><td></td></tr>
<tr align="right"><td>2025.01.02 11:30:05</td><td>3</td><td>XAUUSD</td><td>sell</td><td>out</td><td>0.5</td><td>2 655.10</td><td>1003</td>
<td class="hidden"></td><td>-1.75</td><td>0.00</td><td>-0.20</td><td>250.00</td><td>10 246.30</td><td>[tp 2655.10]</td></tr>
<tr align="right"><td nowrap colspan="8"></td><td><b>-3.50</b></td><td><b>0.00</b></td><td><b>-0.20</b></td><td><b>10 250.00</b></td>
<td><b>10 246.30</b></td><td></td></tr>
{gap}
{title("Open Positions")}
{header("Time", "Position", "Symbol", "Type", "Volume", "Price", "S / L", "T / P", "Market Price", "Swap", "Profit", "Comment:3")}
<tr align="right"><td>2025.01.05 10:00:00</td><td>1009</td><td>XAUUSD</td><td>buy</td><td>0.1</td><td>2 600.00</td><td></td><td></td>
<td>2 601.00</td><td>0.00</td><td>10.00</td><td colspan="3"></td></tr>
{gap}
<tr align="right"><td colspan="3">Balance:</td><td colspan="2"><b>10 246.30</b></td><td></td><td colspan="3">Free Margin:</td></tr>
<tr><td colspan="13" align="center"><div style="font: 10pt Tahoma"><b>Results</b></div></td></tr>
<tr align="right"><td nowrap colspan="3">Total Net Profit:</td><td nowrap><b>246.30</b></td></tr>
</table></div></body></html>"""  # noqa: E501


def xlsx_statement() -> bytes:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in [
        ["Trade History Report"],
        ["Name:", None, None, "A Trader"],
        ["Account:", None, None, "12345678 (USD, Some-Server, demo, Hedge)"],
        [],
        ["Positions"],
        [
            "Time",
            "Position",
            "Symbol",
            "Type",
            "Volume",
            "Price",
            "S / L",
            "T / P",
            "Time",
            "Price",
            "Commission",
            "Swap",
            "Profit",
            None,
        ],
        [
            "2025.01.02 10:00:00",
            "1001",
            "XAUUSD",
            "buy",
            "0.5",
            2650.1,
            2640,
            None,
            "2025.01.02 11:30:05",
            2655.1,
            -3.5,
            -0.2,
            250,
        ],
        [
            datetime(2025, 1, 3, 10),  # noqa: DTZ001 - as openpyxl writes it
            20298211332,
            "X",
            "sell",
            1,
            1e-05,
            None,
            None,
            "2025.01.03 11:30:05",
            0.00002,
            0,
            0,
            -1000,
        ],
        [None] * 10 + [-3.5, -0.2, -750],
        ["Orders"],
        ["Open Time", "Order", "Symbol", "Type", "Volume", "Price", "S / L", "T / P", "Time", "State", None, "Comment"],
        [
            "2025.01.02 10:00:00",
            "1001",
            "XAUUSD",
            "buy",
            "0.5 / 0.5",
            "market",
            None,
            None,
            "2025.01.02 10:00:00",
            "filled",
            None,
            "hi",
        ],
        ["Deals"],
        [*DEALS_HEADER.split(","), "Comment"],
        ["2025.01.01 00:00:00", "1", None, "balance", None, None, None, None, 0, 0, 0, 10000, 10000, "Deposit"],
        ["2025.01.02 10:00:00", "2", "XAUUSD", "buy", "in", "0.5", 2650.1, "1001", -1.75, 0, 0, 0, 9998.25, None],
        [None] * 8 + [-1.75, 0, 0, 10000, 9998.25],
        [],
        ["Balance:", None, None, 9998.25],
        ["Results"],
        ["Total Net Profit:", None, None, -1.75],
    ]:
        sheet.append(row)
    sheet.merge_cells("A5:N5")
    sheet.merge_cells("M6:N6")
    sheet.column_dimensions["G"].hidden = True
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def test_the_two_times_and_prices_of_a_position_are_open_then_close() -> None:
    (position,) = parse_export(csv(POSITIONS_HEADER, POSITION)).positions
    assert (position.open_time, position.close_time) == (
        datetime(2025, 1, 2, 10, tzinfo=UTC),
        datetime(2025, 1, 2, 11, 30, 5, tzinfo=UTC),
    )
    assert (position.open_price, position.close_price) == (Decimal("2650.10"), Decimal("2655.10"))
    assert (position.stop_loss, position.take_profit) == (Decimal("2640.00"), Decimal("2660.00"))
    assert (position.position, position.symbol, position.side, position.lots) == (1001, "XAUUSD", Side.BUY, Decimal("0.5"))
    assert (position.commission, position.swap, position.profit) == (Decimal("-3.5"), Decimal("-0.2"), Decimal(250))
    assert position.row == 2


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_and_the_names_of_files_do_not_matter(delimiter: str) -> None:
    data = csv(POSITIONS_HEADER, POSITION).replace(b",", delimiter.encode())
    assert parse_export(data, "anything.xyz").positions == parse_export(csv(POSITIONS_HEADER, POSITION)).positions


def test_a_decimal_comma_is_read_where_the_comma_does_not_separate() -> None:
    data = csv(POSITIONS_HEADER, POSITION).replace(b",", b";").replace(b"2650.10", b"2650,10")
    assert parse_export(data).positions[0].open_price == Decimal("2650.10")
    quoted = csv(POSITIONS_HEADER, POSITION.replace("2650.10", '"2,650"'))
    assert "found '2,650'" in parse_export(quoted).problems[0].reason


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
def test_every_encoding_a_terminal_or_a_table_program_writes_is_read(encoding: str) -> None:
    text = csv(POSITIONS_HEADER, POSITION.replace("XAUUSD", "GÖLD")).decode()
    assert parse_export(text.encode(encoding)).positions[0].symbol == "GÖLD"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("12 345.67", "12345.67"),
        ("12\u00a0345.67", "12345.67"),
        ("- 2.50", "-2.50"),
        ("\u22121 000", "-1000"),
        ("1\u202f000\u202f000", "1000000"),
    ],
)
def test_numbers_may_be_grouped_by_spaces_of_any_width(written: str, meant: str) -> None:
    line = POSITION.rsplit(",", 1)[0] + "," + written
    assert parse_export(csv(POSITIONS_HEADER, line)).positions[0].profit == Decimal(meant)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("buy", "balance", "expected buy or sell, found 'balance'"),
        ("2025.01.02 10:00:00", "2025.13.02 10:00:00", "expected a time such as"),
        ("2025.01.02 10:00:00", "02.01.2025 10:00:00", "expected a time such as"),
        ("2025.01.02 10:00:00", "2026.01.02 10:00:00", "expected a close after the open"),
        ("0.5", "0", "expected a volume above 0"),
        ("0.5", "-1", "expected a volume above 0"),
        ("1001", "x1", "expected a ticket"),
        ("1001", "99999999999999999999", "expected a ticket"),
        ("2655.10", "", "expected a number for price, found nothing"),
        ("2655.10", "NaN", "expected a number for price"),
        ("2655.10", "1e5", "expected a number for price"),
        ("2655.10", "26 5.1", "expected a number for price"),
        ("XAUUSD", "", "expected a symbol"),
        (",-0.2,250", "", "expected 13 cells, found 11"),
        (",250", ",250,9", "does not fit its header"),
    ],
)
def test_a_bad_row_is_a_problem_with_file_line_and_reason_and_the_rest_is_read(old: str, new: str, reason: str) -> None:
    export = parse_export(csv(POSITIONS_HEADER, POSITION.replace(old, new, 1), POSITION.replace("1001", "1002")), "mine.csv")
    assert [position.position for position in export.positions] == [1002]
    (problem,) = export.problems
    assert (problem.file, problem.line) == ("mine.csv", 2)
    assert reason in problem.reason
    assert "XAUUSD" in problem.raw or not new
    assert str(problem).startswith("mine.csv, line 2: ")


def test_lines_are_counted_as_an_editor_counts_them() -> None:
    export = parse_export(csv("", POSITIONS_HEADER, '"two\nlines",,,,,,,,,,,,', "", POSITION))
    assert [problem.line for problem in export.problems] == [3]
    assert export.positions[0].row == 6


def test_deals_are_told_from_money_and_their_directions_are_known() -> None:
    export = parse_export(
        csv(
            DEALS_HEADER,
            "2025.01.01 00:00:00,1,,balance,,,,,0,0,0,100,100",
            "2025.01.02 00:00:00,2,X,buy,in,1,10,5,-1,0,0,0,99",
            "2025.01.02 00:00:01,3,X,sell,in/out,2,11,6,-1,0,0,1,99",
            "2025.01.02 00:00:02,4,X,buy,out by,1,12,7,0,0,0,-1,98",
            "2025.01.02 00:00:03,5,,so compensation,in,0,0,,0,0,0,0.56,0",
            "2025.01.02 00:00:04,6,X,buy canceled,in,1,12,7,0,0,0,-1,98",
            "2025.01.02 00:00:05,7,X,buy,sideways,1,12,7,0,0,0,-1,98",
        )
    )
    assert [deal.entry for deal in export.deals] == [DealEntry.IN, DealEntry.INOUT, DealEntry.OUT_BY]
    assert [(money.kind, money.amount, money.balance) for money in export.balances] == [
        ("balance", Decimal(100), Decimal(100)),
        ("so compensation", Decimal("0.56"), Decimal(0)),
    ]
    assert [problem.line for problem in export.problems] == [7, 8]


def test_an_order_that_was_never_filled_has_no_filled_volume() -> None:
    export = parse_export(
        csv(
            "Open Time,Order,Symbol,Type,Volume,Volume ,Price ,Price,S / L,T / P,Time,State",
            "2024.11.21 06:58:08,1,Jump,buy limit,0.05 / 0,0.05,87468.39,87468.39,,,2024.12.03 10:42:22,canceled",
            "2024.12.02 08:16:08,2,Boom,buy,0.2 / 0.2,0.2,,market,,,2024.12.02 08:16:09,filled",
        )
    )
    limit, market = export.orders
    assert (limit.lots, limit.filled_lots, limit.price, limit.state) == (Decimal("0.05"), 0, Decimal("87468.39"), "canceled")
    assert (market.filled_lots, market.price, market.state) == (Decimal("0.2"), 0, "filled")
    assert not export.problems


def test_an_html_statement_is_read_past_its_hidden_cells_sums_and_summary() -> None:
    export = parse_export(html_statement().encode("utf-16"), "ReportHistory-12345678.html")
    first, second = export.positions
    assert (first.symbol, first.lots, first.open_price, first.close_price) == (
        "XAUUSD",
        Decimal("0.5"),
        Decimal("2650.10"),
        Decimal("2655.10"),
    )
    assert (first.stop_loss, first.take_profit) == (Decimal(2640), 0)
    assert (first.commission, first.swap, first.profit) == (Decimal("-3.50"), Decimal("-0.20"), Decimal(250))
    assert (second.symbol, second.side, second.profit) == ("A&B", Side.SELL, Decimal(-1000))
    assert [(order.type, order.state, order.comment) for order in export.orders] == [("buy limit", "filled", "my comment")]
    assert [(deal.entry, deal.commission, deal.balance) for deal in export.deals] == [
        (DealEntry.IN, Decimal("-1.75"), Decimal("9998.25")),
        (DealEntry.OUT, Decimal("-1.75"), Decimal("10246.30")),
    ]
    assert export.deals[1].comment == "[tp 2655.10]"
    assert [(money.amount, money.comment) for money in export.balances] == [(Decimal(10000), "Deposit")]
    assert export.account is not None
    assert (export.account.login, export.account.currency, export.account.server) == ("12345678", "USD", "Some-Server")
    assert export.account.margin_mode is MarginMode.HEDGING
    (open_still,) = export.problems
    assert "still open" in open_still.reason
    assert html_statement().splitlines()[first.row - 1].startswith('<tr bgcolor="#FFFFFF" align="right"><td>2025.01.02 10:00:00')


def test_an_xlsx_statement_gives_what_the_html_statement_gives() -> None:
    export = parse_export(xlsx_statement(), "report")
    first, second = export.positions
    like = parse_export(html_statement().encode("utf-16")).positions[0]
    assert (first.open_time, first.close_time, first.open_price, first.profit) == (
        like.open_time,
        like.close_time,
        like.open_price,
        like.profit,
    )
    assert (second.position, second.open_time.hour, second.open_price) == (20298211332, 10, Decimal("0.00001"))
    assert (len(export.orders), len(export.deals), len(export.balances), export.problems) == (1, 1, 1, ())
    assert export.account is not None
    assert export.account.currency == "USD"


def test_without_openpyxl_an_xlsx_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ExportError, match=r"pip install 'mt-copier\[reports\]'"):
        parse_export(XLSX)


def test_a_row_after_the_last_section_that_looks_like_data_is_a_problem() -> None:
    export = parse_export(csv(POSITIONS_HEADER, POSITION, "Results,,", POSITION.replace("1001", "1002")))
    assert [problem.reason for problem in export.problems] == ["a row outside every table"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty file"),
        (
            b"Zeit,Position,Symbol,Typ,Volumen,Kurs\n2025.01.01 10:00:00,1,X,buy,1,1\n",
            "found line 1: Zeit, Position, Symbol, Typ",
        ),
        (
            "<html><table><tr><td>Время</td><td>Позиция</td><td>Символ</td><td>Тип</td></tr></table>".encode("utf-16"),
            "Время, Позиция",
        ),
        (b"hello", "found line 1: hello"),
        (b"PK\x03\x04broken", "expected an XLSX workbook, found a broken one"),
        (b"\xd0\xcf\x11\xe0old", "save it as XLSX"),
        (csv("Time,Position,Symbol,Type,Volume,Price"), "lacking commission, price, profit, swap, time"),
        (csv(DEALS_HEADER.replace("Direction", "Way")), "lacking direction"),
        (csv("Time,Symbol,Type,Volume", "1,2,3,4"), "expected the English headers of a MetaTrader 5 export"),
    ],
)
def test_a_file_that_is_no_export_is_refused_saying_what_was_expected_and_found(data: bytes, expected: str) -> None:
    with pytest.raises(ExportError) as refusal:
        parse_export(data, "file.csv")
    assert str(refusal.value).startswith("file.csv: ")
    assert expected in str(refusal.value)


def test_a_file_that_is_not_there_is_an_export_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be read"):
        read_export(tmp_path / "nothing.csv")


def test_what_two_files_both_hold_is_kept_once_and_reported() -> None:
    one = parse_export(csv(POSITIONS_HEADER, POSITION), "a.csv")
    two = parse_export(csv(POSITIONS_HEADER, POSITION, POSITION.replace("1001", "1002")), "b.csv")
    both = merge_exports([one, two])
    assert [position.position for position in both.positions] == [1001, 1002]
    assert [(problem.file, problem.line, problem.reason) for problem in both.problems] == [("b.csv", 2, "already read at line 2")]
    other = parse_export(csv(POSITIONS_HEADER, POSITION.replace(",250", ",251")), "c.csv")
    assert "with other values" in merge_exports([one, other]).problems[0].reason


def test_one_position_closed_in_two_parts_is_not_a_repetition() -> None:
    later = POSITION.replace("11:30:05", "11:40:00")
    assert len(parse_export(csv(POSITIONS_HEADER, POSITION, later)).positions) == 2


def test_the_real_export_is_read_without_a_problem() -> None:
    export = real("positions", "deals", "orders")
    assert export.problems == ()
    assert (len(export.positions), len(export.deals), len(export.orders), len(export.balances)) == (2648, 5296, 6364, 141)


def test_the_real_balances_add_up_deal_by_deal() -> None:
    export = real("deals")
    steps = sorted(
        [(deal.row, deal.profit + deal.swap + deal.commission + deal.fee, deal.balance) for deal in export.deals]
        + [(money.row, money.amount, money.balance) for money in export.balances]
    )
    balance = Decimal(0)
    for row, change, after in steps:
        balance += change
        assert after == balance, f"line {row}"


@given(st.binary(max_size=300))
def test_any_bytes_are_an_export_or_one_clear_error(data: bytes) -> None:
    check(data)


@given(
    st.text(max_size=300),
    st.sampled_from(["utf-8", "utf-16"]),
    st.sampled_from(["", "<html><table><tr><td>", POSITIONS_HEADER + "\n"]),
)
def test_any_text_is_an_export_or_one_clear_error(text: str, encoding: str, start: str) -> None:
    check((start + text).encode(encoding, errors="replace"))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["csv", "html", "xlsx"]), st.integers(0, 10**6), st.binary(max_size=12), st.integers(0, 40))
def test_a_damaged_file_is_an_export_or_one_clear_error(kind: str, place: int, new: bytes, cut: int) -> None:
    whole = {"csv": csv(POSITIONS_HEADER, POSITION), "html": html_statement().encode("utf-16"), "xlsx": XLSX}[kind]
    place %= len(whole)
    check(whole[:place] + new + whole[place + cut :])


XLSX = xlsx_statement()


@given(
    st.lists(
        st.lists(st.sampled_from(["2025.01.02 10:00:00", "1", "X", "buy", "", "junk", "a:", "-1", "1 000"]), max_size=14),
        max_size=6,
    )
)
def test_no_row_below_a_header_is_dropped_in_silence(rows: list[list[str]]) -> None:
    lines = [",".join(row) for row in rows]
    export = parse_export(csv(POSITIONS_HEADER, *lines, POSITION))
    filled = sum(1 for row in rows if any(row))
    assert len(export.positions) + len(export.problems) == filled + 1


def check(data: bytes) -> None:
    try:
        export = parse_export(data, "fuzz")
    except ExportError as error:
        assert str(error).startswith("fuzz: ")
    else:
        assert all(problem.file == "fuzz" and problem.line >= 1 and problem.reason for problem in export.problems)
