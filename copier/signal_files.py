"""The files strategies drop: JSON or CSV in, a signal or every mistake out, and where a file goes afterwards."""

import contextlib
import csv
import hashlib
import io
import json
import os
import re
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from copier.errors import Detail, InvalidRequest
from copier.model import ZERO, Record

SIZE_MAX = 64 * 1024
"""The largest signal file; one signal needs a few hundred bytes."""
SUFFIXES = frozenset({".json", ".csv"})
ARCHIVE, REJECTED = "archive", "rejected"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,79}")


class Direction(StrEnum):
    """What a signal wants."""

    BUY = "buy"
    SELL = "sell"
    CLOSE = "close"
    MODIFY = "modify"


class Signal(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One wish of a strategy, as it stands in its file."""

    direction: Direction
    id: str = ""
    """The strategy's own name for this signal: a second file with it is never executed. Without one, the file is the name."""
    symbol: str = ""
    lots: Decimal | None = None
    """What to open; for a close the part to close, everything where absent."""
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    slippage: int = 3
    """Points the price may move against the order."""
    comment: str = ""
    of: str = ""
    """Close and modify: the id of the signal that opened the position."""
    ticket: int = 0
    """Close and modify: the position's ticket, instead of `of`."""


class Dropped(msgspec.Struct, frozen=True, kw_only=True):
    """A file as it was read."""

    path: Path
    body: bytes
    at_ms: int
    """When it was written."""

    @property
    def digest(self) -> str:
        """What tells one content from another."""
        return hashlib.sha256(self.body).hexdigest()


def look(folder: Path) -> list[Path]:
    """Return the signal files that lie in a folder, oldest first; raise `OSError` where it cannot be read."""
    with os.scandir(folder) as entries:
        files = [
            (entry.stat(follow_symlinks=False).st_mtime_ns, entry.name)
            for entry in entries
            if not entry.name.startswith((".", "~"))
            and Path(entry.name).suffix.lower() in SUFFIXES
            and entry.is_file(follow_symlinks=False)
        ]
    return [folder / name for _, name in sorted(files)]


def take_up(path: Path) -> Dropped | None:
    """Read a file; None where it has gone or somebody still holds it."""
    try:
        with path.open("rb") as file:
            body = file.read(SIZE_MAX + 1)
            return Dropped(path=path, body=body, at_ms=os.fstat(file.fileno()).st_mtime_ns // 1_000_000)
    except OSError:
        return None


def read_signal(dropped: Dropped) -> Signal:
    """Return the signal of a file; raise `InvalidRequest` with every mistake."""
    if len(dropped.body) > SIZE_MAX:
        raise InvalidRequest(f"expected at most {SIZE_MAX} bytes, found more")
    try:
        text = dropped.body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"expected UTF-8 text: {error}") from None
    fields = _csv(text) if dropped.path.suffix.lower() == ".csv" else _json(text)
    direction = fields.get("direction")
    if isinstance(direction, str):
        fields["direction"] = direction.strip().lower()
    try:
        signal = msgspec.convert(fields, Signal, strict=False)
    except (msgspec.ValidationError, ArithmeticError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"expected the fields of a signal: {error}") from None
    name = signal.id or f"{re.sub(r'[^A-Za-z0-9_.-]', '_', dropped.path.stem)[:60] or '_'}@{dropped.at_ms}".lstrip("_.-@")
    signal = msgspec.structs.replace(signal, id=name)
    _check(signal)
    return signal


def _json(text: str) -> dict[str, Any]:
    try:
        # Numbers as they are written: 0.29 lots are 0.29 lots.
        found = json.loads(text, parse_float=Decimal, parse_constant=_no_number, object_pairs_hook=_once)
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise InvalidRequest(f"expected one JSON object of texts and numbers: {error}") from None
    if not isinstance(found, dict):
        raise InvalidRequest("expected one JSON object of texts and numbers: this is no object")
    return {name: value for name, value in found.items() if value is not None}


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not a number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _csv(text: str) -> dict[str, Any]:
    if not text.endswith("\n"):
        raise InvalidRequest("expected a newline at the end of the last line, which tells that nothing is missing")
    header = text.partition("\n")[0]
    delimiter = ";" if header.count(";") > header.count(",") else ","
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter, strict=True) if any(row)]
    except csv.Error as error:
        raise InvalidRequest(f"expected CSV: {error}") from None
    if len(rows) != 2:
        raise InvalidRequest(f"expected a line of names and one line of values, found {len(rows)} lines: one signal per file")
    names, values = [name.strip() for name in rows[0]], [value.strip() for value in rows[1]]
    if len(names) != len(values) or len(set(names)) != len(names):
        raise InvalidRequest(f"expected a value under each of {len(set(names))} different names, found {len(values)} values")
    return {name: value for name, value in zip(names, values, strict=True) if value}


def _check(signal: Signal) -> None:
    details = []
    if not _ID.fullmatch(signal.id):
        details.append(Detail(("id",), f"expected at most 80 letters, digits, _ . @ and -, not {signal.id[:90]!r}"))
    if signal.direction in (Direction.BUY, Direction.SELL):
        if not signal.symbol:
            details.append(Detail(("symbol",), "missing: what to trade"))
        if signal.lots is None:
            details.append(Detail(("lots",), "missing: how much to trade"))
        if signal.of or signal.ticket:
            details.append(Detail(("of",), "only a close or a modify names a position"))
    elif bool(signal.of) == bool(signal.ticket):
        details.append(Detail(("of",), "expected the opening signal's id in `of`, or the position's `ticket`, and not both"))
    if signal.direction is Direction.MODIFY and signal.stop_loss is None and signal.take_profit is None:
        details.append(Detail(("stopLoss",), "expected stopLoss or takeProfit, or both; 0 removes a level"))
    for name, number in (("lots", signal.lots), ("stopLoss", signal.stop_loss), ("takeProfit", signal.take_profit)):
        if number is not None and (not number.is_finite() or number < ZERO):
            details.append(Detail((name,), f"expected a positive number, not {number}"))
    if details:
        text = "; ".join(f"{'.'.join(detail.path)}: {detail.message}" for detail in details)
        raise InvalidRequest(text, details=tuple(details))


def archive(dropped: Dropped, outcome: bytes) -> None:
    """Put a file away with its outcome beside it; raise `OSError`."""
    _put_away(dropped, ARCHIVE, ".outcome.json", outcome)


def reject(dropped: Dropped, reason: str) -> None:
    """Put a file away that is no signal, with the reason beside it; raise `OSError`."""
    _put_away(dropped, REJECTED, ".reason.txt", (reason + "\n").encode())


def _put_away(dropped: Dropped, place: str, ending: str, text: bytes) -> None:
    folder = dropped.path.parent / place
    folder.mkdir(exist_ok=True)
    stem, suffix = dropped.path.stem, dropped.path.suffix
    number = 1
    while (folder / (stem + suffix)).exists():
        number += 1
        stem = f"{dropped.path.stem}-{number}"
    # The outcome first: a file that has gone from the folder always has one.
    beside = folder / (stem + ending)
    fresh = beside.with_name(f".{beside.name}.tmp")
    fresh.write_bytes(text)
    fresh.replace(beside)
    with contextlib.suppress(FileNotFoundError):
        dropped.path.replace(folder / (stem + suffix))
