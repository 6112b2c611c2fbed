"""Reads what MetaTrader 5 saves of an account's past: positions, deals, orders and money, from CSV, HTML and XLSX.

Times are the trade server's wall clock, which no export names the zone of; they are written as if they were UTC. Nothing is
dropped in silence: every line that cannot be read is in `Export.problems` with its file, line and reason.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

import msgspec

from copier.export_tables import FILE_BYTES_MAX, ExportError, Grid, Row, Table, read_grid, split_tables
from copier.model import ZERO, DealEntry, MarginMode, Record, Side

__all__ = [
    "BalanceOperation",
    "Export",
    "ExportAccount",
    "ExportDeal",
    "ExportError",
    "ExportOrder",
    "ExportPosition",
    "Problem",
    "merge_exports",
    "parse_export",
    "read_export",
]

_DIGITS_MAX = 30
_TIME = re.compile(r"(\d{4})[.\-/](\d\d?)[.\-/](\d\d?)[ T](\d\d?):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?", re.ASCII)
_NUMBER = re.compile(r"(-?) ?(\d+|\d{1,3}(?: \d{3})+)(\.\d+)?", re.ASCII)
_TICKET = re.compile(r"(\d{1,19})(?:\.0)?", re.ASCII)
_SPACES = re.compile(r"[\s\u00a0\u2007\u2009\u202f]+")
_ACCOUNT = re.compile(r"(\d+)\W+\(?([A-Z]{3,5})\W*,\s*([^,()]+)(?:,\s*([^()]*))?", re.ASCII)
_ENTRIES = {
    "in": DealEntry.IN,
    "out": DealEntry.OUT,
    "in/out": DealEntry.INOUT,
    "inout": DealEntry.INOUT,
    "outby": DealEntry.OUT_BY,
}


class Problem(Record, frozen=True, kw_only=True):
    """One line that was not read as it stands, and why."""

    file: str
    line: int
    reason: str
    raw: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}: {self.raw[:200]}"


class ExportPosition(Record, frozen=True, kw_only=True):
    """A closed position."""

    position: int
    symbol: str
    side: Side
    lots: Decimal
    open_time: datetime
    open_price: Decimal
    close_time: datetime
    close_price: Decimal
    stop_loss: Decimal = ZERO
    take_profit: Decimal = ZERO
    commission: Decimal = ZERO
    swap: Decimal = ZERO
    profit: Decimal
    """Without swap and commission."""
    row: int
    """Its line in the file it was read from; of a rebuilt position, that of its opening deal."""


class ExportDeal(Record, frozen=True, kw_only=True):
    """A deal that traded."""

    deal: int
    order: int
    symbol: str
    side: Side
    entry: DealEntry
    lots: Decimal
    price: Decimal
    commission: Decimal = ZERO
    fee: Decimal = ZERO
    swap: Decimal = ZERO
    profit: Decimal = ZERO
    balance: Decimal | None = None
    time: datetime
    comment: str = ""
    row: int


class ExportOrder(Record, frozen=True, kw_only=True):
    """An order of the past, filled or not."""

    order: int
    symbol: str
    type: str
    """Such as `buy`, `sell limit` or `buy stop limit`."""
    lots: Decimal
    filled_lots: Decimal
    price: Decimal
    """0 for a market order."""
    stop_loss: Decimal = ZERO
    take_profit: Decimal = ZERO
    time: datetime
    done_time: datetime
    state: str
    """`filled`, `canceled`, `rejected`, `expired` or `partial`."""
    comment: str = ""
    row: int


class BalanceOperation(Record, frozen=True, kw_only=True):
    """Money in or out that no trade made: deposits, withdrawals, credit, charges, stop-out compensation."""

    deal: int
    kind: str
    """As the terminal says it, such as `balance` or `so compensation`."""
    amount: Decimal
    balance: Decimal | None = None
    """The balance after it."""
    time: datetime
    comment: str = ""
    row: int


class ExportAccount(Record, frozen=True, kw_only=True):
    """Whose statement it is; CSV does not say."""

    login: str
    currency: str
    server: str
    margin_mode: MarginMode | None = None


class Export(Record, frozen=True, kw_only=True):
    """An account's past as MetaTrader saved it, each kind in the order of its file."""

    positions: tuple[ExportPosition, ...] = ()
    deals: tuple[ExportDeal, ...] = ()
    orders: tuple[ExportOrder, ...] = ()
    balances: tuple[BalanceOperation, ...] = ()
    problems: tuple[Problem, ...] = ()
    account: ExportAccount | None = None
    file: str = ""
    """Empty where several files were put together."""


def read_export(*paths: Path | str) -> Export:
    """Read one or several files of the same account into one export; raise `ExportError`."""
    exports = []
    for path in map(Path, paths):
        try:
            size = path.stat().st_size
            if size > FILE_BYTES_MAX:
                raise ExportError(path.name, f"expected a file of at most {FILE_BYTES_MAX} bytes, found {size}")
            data = path.read_bytes()
        except OSError as error:
            raise ExportError(str(path), f"cannot be read: {error.strerror or error}") from error
        exports.append(parse_export(data, path.name))
    return merge_exports(exports)


def parse_export(data: bytes, file: str = "export") -> Export:
    """Read the content of one file, whatever its name ends with; raise `ExportError`."""
    grid = read_grid(data, file)
    tables = split_tables(grid)
    reading = _Reading(grid)
    for row in tables.strays:
        reading.problem(row, "a row outside every table")
    for table in tables.tables:
        reading.read(table)
    return merge_exports([reading.export(_account(tables.preamble))])


def merge_exports(exports: Sequence[Export]) -> Export:
    """Put exports of one account together; a record that is there twice is kept once and reported."""
    problems = [problem for export in exports for problem in export.problems]
    return Export(
        positions=_once(
            [(e.file, e.positions) for e in exports], lambda p: (p.position, p.close_time, p.close_price, p.lots), problems
        ),
        deals=_once([(e.file, e.deals) for e in exports], lambda deal: deal.deal, problems),
        orders=_once([(e.file, e.orders) for e in exports], lambda order: order.order, problems),
        balances=_once([(e.file, e.balances) for e in exports], lambda money: money.deal, problems),
        problems=tuple(problems),
        account=next((export.account for export in exports if export.account), None),
        file=exports[0].file if len(exports) == 1 else "",
    )


R = TypeVar("R", ExportPosition, ExportDeal, ExportOrder, BalanceOperation)


def _once(parts: list[tuple[str, tuple[R, ...]]], key: Callable[[R], object], problems: list[Problem]) -> tuple[R, ...]:
    kept: dict[object, R] = {}
    for file, records in parts:
        for record in records:
            first = kept.setdefault(key(record), record)
            if first is not record:
                same = msgspec.structs.replace(record, row=first.row) == first
                reason = f"already read at line {first.row}" + ("" if same else ", there with other values, which are kept")
                problems.append(Problem(file=file, line=record.row, reason=reason, raw=f"{type(record).__name__} {key(record)}"))
    return tuple(kept.values())


class _Unreadable(ValueError):
    """One row's trouble, in words."""


class _Fields:
    """One row, read by the names of its columns."""

    def __init__(self, row: Row, columns: dict[str, tuple[int, ...]], *, decimal_comma: bool) -> None:
        self.row = row
        self._columns = columns
        self._decimal_comma = decimal_comma

    def text(self, name: str, nth: int = 0) -> str:
        places = self._columns.get(name, ())
        place = places[nth] if -len(places) <= nth < len(places) else -1
        return self.row.cells[place] if 0 <= place < len(self.row.cells) else ""

    def needed(self, name: str) -> str:
        if not (text := self.text(name)):
            raise _Unreadable(f"expected a {name}, found nothing")
        return text

    def number(self, name: str, nth: int = 0, *, absent: Decimal | None = None) -> Decimal:
        if not (text := self.text(name, nth)):
            if absent is None:
                raise _Unreadable(f"expected a number for {name}, found nothing")
            return absent
        return self.as_number(text, name)

    def as_number(self, text: str, name: str) -> Decimal:
        plain = _SPACES.sub(" ", text).strip().replace("\u2212", "-")
        if self._decimal_comma and plain.count(",") == 1 and "." not in plain:
            plain = plain.replace(",", ".")
        match = _NUMBER.fullmatch(plain)
        if match is None or len(plain) > _DIGITS_MAX:
            raise _Unreadable(f"expected a number for {name}, found {text[:40]!r}")
        return Decimal(match[1] + match[2].replace(" ", "") + (match[3] or ""))

    def positive(self, name: str) -> Decimal:
        if (number := self.number(name)) <= 0:
            raise _Unreadable(f"expected a {name} above 0, found {number}")
        return number

    def ticket(self, name: str, *, absent: int | None = None) -> int:
        text = self.text(name)
        if not text and absent is not None:
            return absent
        match = _TICKET.fullmatch(text)
        if match is None or int(match[1]) >= 2**63:
            raise _Unreadable(f"expected a ticket for {name}, found {text[:40]!r}")
        return int(match[1])

    def time(self, name: str, nth: int = 0) -> datetime:
        text = self.text(name, nth)
        match = _TIME.fullmatch(text)
        try:
            if match is None:
                raise ValueError
            year, month, day, hour, minute = (int(part) for part in match.groups()[:5])
            return datetime(year, month, day, hour, minute, int(match[6] or 0), int((match[7] or "0").ljust(6, "0")), tzinfo=UTC)
        except ValueError:
            raise _Unreadable(f"expected a time such as 2025.01.31 23:59:59, found {text[:40]!r}") from None

    def side(self) -> Side:
        text = self.text("type").lower()
        if text not in ("buy", "sell"):
            raise _Unreadable(f"expected buy or sell, found {text[:40]!r}")
        return Side(text)


class _Reading:
    """What one file has given so far."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._positions: list[ExportPosition] = []
        self._deals: list[ExportDeal] = []
        self._orders: list[ExportOrder] = []
        self._balances: list[BalanceOperation] = []
        self._problems: list[Problem] = []

    def problem(self, row: Row, reason: str) -> None:
        self._problems.append(Problem(file=self._grid.file, line=row.line, reason=reason, raw=row.raw))

    def export(self, account: ExportAccount | None) -> Export:
        return Export(
            positions=tuple(self._positions),
            deals=tuple(self._deals),
            orders=tuple(self._orders),
            balances=tuple(self._balances),
            problems=tuple(sorted(self._problems, key=lambda problem: problem.line)),
            account=account,
            file=self._grid.file,
        )

    def read(self, table: Table) -> None:
        width = max(place for places in table.columns.values() for place in places) + 1
        for index, row in enumerate(table.rows):
            if index == len(table.rows) - 1 and _is_total(row):
                break
            try:
                self._check_width(row, width)
                self._read_row(table.kind, _Fields(row, table.columns, decimal_comma=self._grid.decimal_comma))
            except _Unreadable as reason:
                self.problem(row, str(reason))

    def _check_width(self, row: Row, width: int) -> None:
        if self._grid.kind == "csv" and len(row.cells) < width - 1:  # a last empty comment is often not written
            raise _Unreadable(f"expected {width} cells, found {len(row.cells)}")
        if any(row.cells[width:]):
            raise _Unreadable(f"expected {width} cells, found {len(row.cells)}: the row does not fit its header")

    def _read_row(self, kind: str, fields: _Fields) -> None:
        match kind:
            case "positions":
                self._positions.append(_position(fields))
            case "orders":
                self._orders.append(_order(fields))
            case "open":
                raise _Unreadable("still open when the file was saved; only what is closed is read")
            case _ if fields.text("type").lower() in ("buy", "sell"):
                self._deals.append(_deal(fields))
            case _:
                self._balances.append(_balance(fields))


def _is_total(row: Row) -> bool:
    """Tell the sums below a section: it names neither time nor ticket nor symbol."""
    return not any(row.cells[:4])


def _position(fields: _Fields) -> ExportPosition:
    opened, closed = fields.time("time"), fields.time("time", 1)
    if closed < opened:
        raise _Unreadable(f"expected a close after the open at {opened:%Y.%m.%d %H:%M:%S}, found {closed:%Y.%m.%d %H:%M:%S}")
    return ExportPosition(
        position=fields.ticket("position"),
        symbol=fields.needed("symbol"),
        side=fields.side(),
        lots=fields.positive("volume"),
        open_time=opened,
        open_price=fields.number("price"),
        close_time=closed,
        close_price=fields.number("price", 1),
        stop_loss=fields.number("s/l", absent=ZERO),
        take_profit=fields.number("t/p", absent=ZERO),
        commission=fields.number("commission", absent=ZERO),
        swap=fields.number("swap", absent=ZERO),
        profit=fields.number("profit"),
        row=fields.row.line,
    )


def _deal(fields: _Fields) -> ExportDeal:
    direction = re.sub(r"\s", "", fields.text("direction").lower())
    if direction not in _ENTRIES:
        raise _Unreadable(f"expected the direction in, out, in/out or out by, found {direction[:40]!r}")
    return ExportDeal(
        deal=fields.ticket("deal"),
        order=fields.ticket("order", absent=0),
        symbol=fields.needed("symbol"),
        side=fields.side(),
        entry=_ENTRIES[direction],
        lots=fields.positive("volume"),
        price=fields.number("price"),
        commission=fields.number("commission", absent=ZERO),
        fee=fields.number("fee", absent=ZERO),
        swap=fields.number("swap", absent=ZERO),
        profit=fields.number("profit", absent=ZERO),
        balance=fields.number("balance") if fields.text("balance") else None,
        time=fields.time("time"),
        comment=fields.text("comment"),
        row=fields.row.line,
    )


def _balance(fields: _Fields) -> BalanceOperation:
    if fields.number("volume", absent=ZERO) != 0:
        raise _Unreadable(f"expected a deal of type buy or sell, or money without volume, found {fields.text('type')[:40]!r}")
    parts = (fields.number(name, absent=ZERO) for name in ("profit", "commission", "fee", "swap"))
    return BalanceOperation(
        deal=fields.ticket("deal"),
        kind=fields.needed("type").lower(),
        amount=sum(parts, ZERO),
        balance=fields.number("balance") if fields.text("balance") else None,
        time=fields.time("time"),
        comment=fields.text("comment"),
        row=fields.row.line,
    )


def _order(fields: _Fields) -> ExportOrder:
    asked, _, filled = fields.needed("volume").partition("/")
    price = fields.text("price", -1)
    return ExportOrder(
        order=fields.ticket("order"),
        symbol=fields.needed("symbol"),
        type=fields.needed("type").lower(),
        lots=fields.as_number(asked.strip(), "volume"),
        filled_lots=fields.as_number(filled.strip(), "volume") if filled.strip() else ZERO,
        price=ZERO if price.lower() in ("", "market") else fields.as_number(price, "price"),
        stop_loss=fields.number("s/l", absent=ZERO),
        take_profit=fields.number("t/p", absent=ZERO),
        time=fields.time("opentime"),
        done_time=fields.time("time"),
        state=fields.needed("state").lower(),
        comment=fields.text("comment"),
        row=fields.row.line,
    )


def _account(preamble: Sequence[Row]) -> ExportAccount | None:
    """Return whose statement it is, from a line such as `Account: 123456 (USD, Broker-Live, real, Hedge)`."""
    for row in preamble:
        cells = [cell for cell in row.cells if cell]
        if len(cells) >= 2 and cells[0].lower() == "account:" and (match := _ACCOUNT.match(cells[1])):
            last = (match[4] or "").lower()
            mode = MarginMode.HEDGING if "hedg" in last else MarginMode.NETTING if "nett" in last else None
            return ExportAccount(login=match[1], currency=match[2], server=match[3].strip(), margin_mode=mode)
    return None
