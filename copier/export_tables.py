"""What MetaTrader saves, as rows of text with their line numbers: CSV, the HTML statement and the XLSX statement."""

import csv
import io
import re
import warnings
import zipfile
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

from copier.errors import CopierError
from copier.model import Record

FILE_BYTES_MAX = 512 * 1024 * 1024
"""No statement is larger."""
UNPACKED_MAX = 128 * 1024 * 1024
"""A workbook that unpacks to more is not a statement: hundreds of thousands of deals are less."""
GAP_MAX = 1_000
"""A workbook may skip rows by naming the next one's number, billions of them in a few bytes."""
CELLS_MAX = 500
"""So many columns has no statement; a workbook may name one cell far to the right in every row."""
_SPAN_MAX = 64
_HEADERS_SHOWN = 4

POSITIONS = "Time, Position, Symbol, Type, Volume, Price, S / L, T / P, Time, Price, Commission, Swap, Profit"
DEALS = "Time, Deal, Symbol, Type, Direction, Volume, Price, Order, Commission, Fee, Swap, Profit, Balance"
ORDERS = "Open Time, Order, Symbol, Type, Volume, Price, S / L, T / P, Time, State"

_REQUIRED: dict[str, tuple[str, tuple[str, ...]]] = {
    "positions": (
        POSITIONS,
        ("time", "time", "position", "symbol", "type", "volume", "price", "price", "commission", "swap", "profit"),
    ),
    "deals": (DEALS, ("time", "deal", "symbol", "type", "direction", "volume", "price", "commission", "swap", "profit")),
    "orders": (ORDERS, ("opentime", "order", "symbol", "type", "volume", "price", "time", "state")),
}
_OPEN_TITLES = {"openpositions", "workingorders"}
_TITLES = {"positions", "orders", "deals", "results", "tradehistoryreport", "balancegraph"} | _OPEN_TITLES
_SUMMARY = {"balance:", "creditfacility:", "floatingp/l:", "equity:", "totalnetprofit:"}
"""How the lines begin that follow the last section of a statement."""


class ExportError(CopierError):
    """The file cannot be read as what MetaTrader saves; says what was expected and what was there."""

    def __init__(self, file: str, message: str) -> None:
        self.file = file
        super().__init__(f"{file}: {message}")


class Row(Record, frozen=True, kw_only=True):
    """One line of a file (in an XLSX, a row of the sheet); the first is 1."""

    line: int
    cells: tuple[str, ...]

    @property
    def raw(self) -> str:
        """The cells as a person would quote them."""
        return " | ".join(self.cells).strip(" |")

    @property
    def blank(self) -> bool:
        """True where no cell holds anything."""
        return not any(self.cells)


class Grid(Record, frozen=True, kw_only=True):
    """A whole file as rows."""

    file: str
    kind: str
    """`csv`, `html` or `xlsx`."""
    rows: tuple[Row, ...]
    decimal_comma: bool = False
    """The file separates its cells with something else than a comma, so `1,5` may be one and a half."""


class Table(Record, frozen=True, kw_only=True):
    """One section: its kind (`positions`, `deals`, `orders`, or `open` for what is not history), columns and data rows."""

    kind: str
    columns: dict[str, tuple[int, ...]]
    """Where each header stands, lower case without spaces; a header may stand twice."""
    rows: tuple[Row, ...]


class Tables(Record, frozen=True, kw_only=True):
    """All sections of a file, and the lines that look like data but belong to none."""

    tables: tuple[Table, ...]
    strays: tuple[Row, ...]
    preamble: tuple[Row, ...]
    """What stands before the first section: whose statement it is."""


def read_grid(data: bytes, file: str) -> Grid:
    """Return the rows of a file; what it is shows in its content, not in its name. Raise `ExportError`."""
    if len(data) > FILE_BYTES_MAX:
        raise ExportError(file, f"expected a file of at most {FILE_BYTES_MAX} bytes, found {len(data)}")
    if data.startswith(b"PK\x03\x04"):
        return Grid(file=file, kind="xlsx", rows=tuple(_xlsx_rows(data, file)))
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        raise ExportError(file, "expected CSV, HTML or XLSX, found an old Excel workbook (.xls): save it as XLSX")
    text = _decode(data)
    if not text.strip():
        raise ExportError(file, "expected an export of MetaTrader 5, found an empty file")
    if re.search(r"<\s*(html|table|tr|!doctype)\b", text[:4096], re.IGNORECASE):
        return Grid(file=file, kind="html", rows=tuple(_html_rows(text, file)))
    delimiter = _delimiter(text)
    return Grid(file=file, kind="csv", rows=tuple(_csv_rows(text, delimiter, file)), decimal_comma=delimiter != ",")


def split_tables(grid: Grid) -> Tables:
    """Find the sections by their headers; raise `ExportError` where none, or one that lacks columns, is found."""
    tables: list[tuple[str, dict[str, tuple[int, ...]], list[Row]]] = []
    strays: list[Row] = []
    preamble: list[Row] = []
    inside, title = False, ""
    for row in grid.rows:
        names = [_name(cell) for cell in row.cells]
        filled = [name for name in names if name]
        if not filled:
            continue
        columns = _columns(names)
        if kind := _kind(grid, row, columns, title):
            tables.append((kind, columns, []))
            inside = True
        elif len(filled) == 1 and filled[0] in _TITLES:
            title, inside = filled[0], False
        elif inside and filled[0] not in _SUMMARY:
            tables[-1][2].append(row)
        elif not tables:
            preamble.append(row)
        else:
            inside = False
            if re.match(r"\d{4}[.\-/]\d", filled[0], re.ASCII):
                strays.append(row)
    if not tables:
        raise ExportError(grid.file, _no_header(grid))
    return Tables(
        tables=tuple(Table(kind=kind, columns=columns, rows=tuple(rows)) for kind, columns, rows in tables),
        strays=tuple(strays),
        preamble=tuple(preamble),
    )


def _name(cell: str) -> str:
    # Table software tells headers that stand twice apart as `Time.1`.
    return re.sub(r"\.\d+$", "", re.sub(r"\s+", "", cell).lower())


def _columns(names: list[str]) -> dict[str, tuple[int, ...]]:
    columns: dict[str, tuple[int, ...]] = {}
    for index, name in enumerate(names):
        if name:
            columns[name] = (*columns.get(name, ()), index)
    return columns


def _kind(grid: Grid, row: Row, columns: dict[str, tuple[int, ...]], title: str) -> str:
    """Return which section this header opens, or nothing where the row is no header."""
    if not {"symbol", "type", "volume"} <= columns.keys():
        return ""
    if title in _OPEN_TITLES or "marketprice" in columns:
        return "open"
    kind = next((kind for key, kind in (("position", "positions"), ("deal", "deals"), ("order", "orders")) if key in columns), "")
    if not kind:
        return ""
    expected, required = _REQUIRED[kind]
    lacking = sorted({name for name in required if len(columns.get(name, ())) < required.count(name)})
    if lacking:
        found = ", ".join(cell for cell in row.cells if cell)
        raise ExportError(
            grid.file,
            f"line {row.line}: a table of {kind} needs the columns {expected}; found {found}; lacking {', '.join(lacking)}",
        )
    return kind


def _no_header(grid: Grid) -> str:
    wide = [row for row in grid.rows if sum(1 for cell in row.cells if cell) >= 4]
    shown = wide[:_HEADERS_SHOWN] or [row for row in grid.rows if not row.blank][:1]
    found = (
        "; ".join(f"line {row.line}: {', '.join(cell for cell in row.cells if cell)[:200]}" for row in shown) or "no rows at all"
    )
    return (
        f"expected the English headers of a MetaTrader 5 export, one of [{POSITIONS}], [{DEALS}] or [{ORDERS}]; found {found}. "
        "Where the terminal speaks another language, switch it to English (View, Languages) and save again"
    )


def _decode(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    # UTF-16 without its mark: plain text has no zero bytes, half of this one's are.
    head = data[:2000]
    if len(head) > 3 and head[1::2].count(0) > len(head) // 4:
        return data.decode("utf-16-le", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _delimiter(text: str) -> str:
    """Return the delimiter that splits the first lines into most cells."""
    lines = text.splitlines()[:40]
    return max(",;\t", key=lambda delimiter: max((line.count(delimiter) for line in lines), default=0))


def _csv_rows(text: str, delimiter: str, file: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text.replace("\0", "\ufffd")), delimiter=delimiter)
    line = 1
    try:
        for cells in reader:
            yield Row(line=line, cells=tuple(cell.strip() for cell in cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ExportError(file, f"line {line}: expected CSV, found {error}") from error


class _Cells(HTMLParser):
    """Collects the visible cells of every table row: what is hidden stands in data rows only, and would shift them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[Row] = []
        self._line = 0
        self._cells: list[str] | None = None
        self._text: list[str] | None = None
        self._span = 1
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self._end_row()
            self._cells, self._line = [], self.getpos()[0]
        elif tag in ("td", "th") and self._cells is not None:
            self._end_cell()
            given = {name: value or "" for name, value in attrs}
            self._text = []
            self._hidden = "hidden" in given.get("class", "").split() or bool(
                re.search(r"display\s*:\s*none", given.get("style", ""))
            )
            span = given.get("colspan", "1").strip()
            self._span = min(int(span), _SPAN_MAX) if re.fullmatch(r"[0-9]{1,6}", span) else 1
        elif tag == "br" and self._text is not None:
            self._text.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._end_cell()
        elif tag in ("tr", "table"):
            self._end_row()

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def close(self) -> None:
        super().close()
        self._end_row()

    def _end_cell(self) -> None:
        if self._text is None or self._cells is None:
            return
        if not self._hidden and self._span:
            self._cells += ["".join(self._text).strip()] + [""] * (self._span - 1)
        self._text = None

    def _end_row(self) -> None:
        self._end_cell()
        if self._cells is not None:
            self.rows.append(Row(line=self._line, cells=tuple(self._cells)))
        self._cells = None


def _html_rows(text: str, file: str) -> list[Row]:
    cells = _Cells()
    try:
        cells.feed(text)
        cells.close()
    except AssertionError as error:  # what the standard parser raises on a malformed <![ section
        raise ExportError(file, f"line {cells.getpos()[0]}: expected an HTML statement, found {error}") from error
    return cells.rows


def _xlsx_rows(data: bytes, file: str) -> Iterator[Row]:
    try:
        import openpyxl  # type: ignore[import-untyped]
    except ImportError:
        raise ExportError(
            file, "reading XLSX needs openpyxl: pip install 'mt-copier[reports]', or save the statement as HTML"
        ) from None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > UNPACKED_MAX:
            raise ExportError(file, f"expected a workbook of at most {UNPACKED_MAX} bytes unpacked, found {size}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the terminal's workbooks have no default style, which does not matter here
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
            sheets = [list(_sheet_rows(sheet)) for sheet in book.worksheets]
    except ExportError:
        raise
    except Exception as error:  # openpyxl has no error of its own for a broken workbook: zip, XML, key and value errors all occur
        raise ExportError(file, f"expected an XLSX workbook, found a broken one: {type(error).__name__}: {error}") from error
    for rows in sheets:
        yield from rows


def _sheet_rows(sheet: Any) -> Iterator[Row]:
    sheet.reset_dimensions()  # written wrongly by some programs; rows beyond it would be lost
    gap = 0
    for line, cells in enumerate(sheet.iter_rows(values_only=True), start=1):
        gap = 0 if any(cell is not None for cell in cells) else gap + 1
        if gap > GAP_MAX or len(cells) > CELLS_MAX:
            raise ValueError(f"row {line}: more than {GAP_MAX} empty rows, or more than {CELLS_MAX} columns")
        yield Row(line=line, cells=tuple(_text(cell) for cell in cells))


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case datetime():
            return value.strftime("%Y.%m.%d %H:%M:%S.%f").rstrip("0").rstrip(".")
        case float():
            return f"{Decimal(repr(value)):f}"
        case _:
            return str(value).strip()
