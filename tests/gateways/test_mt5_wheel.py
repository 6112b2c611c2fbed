"""What our child and our stand-in believe of the MetaTrader5 package, compared with the public wheel: read, never run.

The wheel installs nowhere but Windows, yet lies open anywhere: constants stand in its `__init__.py`, functions with their calling
conventions and the fields of every result in tables of its binary.
"""

import ast
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from copier.gateways import mt5_codes, mt5_values
from copier.gateways.mt5_codes import PACKAGE_ERRORS, RETCODES
from copier.model import Filling, MarginMode, Side
from tests.conftest import absent
from tests.fakes.fake_metatrader5 import FakeMetaTrader5
from tests.fakes.mt5_structs import CONSTANTS, FIELDS

pytestmark = [pytest.mark.server, pytest.mark.timeout(180)]

NOT_IN_THE_WHEEL = {"SKIPPED", "HEDGE_PROHIBITED"}
"""Return codes of the server that the package has no constant for."""
NO_ARGUMENTS, POSITIONS, KEYWORDS = 4, 1, 3
"""METH_NOARGS, METH_VARARGS, METH_VARARGS | METH_KEYWORDS."""
COPIED = Path(__file__).resolve().parents[2] / "copier" / "gateways"


class Wheel(NamedTuple):
    """What could be read."""

    version: str
    constants: dict[str, Any]
    functions: dict[str, int]
    """By name, the flags of how it is called."""
    fields: dict[str, list[str]]
    """By result, its fields in order."""
    binary: bytes


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--platform", "win_amd64"]
    command += ["--python-version", "3.11", "--dest", str(folder), "--disable-pip-version-check", "MetaTrader5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        absent(f"the MetaTrader5 wheel cannot be downloaded: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    with zipfile.ZipFile(wheels[0]) as archive:
        source = archive.read("MetaTrader5/__init__.py").decode()
        binary = next(archive.read(name) for name in archive.namelist() if name.endswith(".pyd"))
    constants = dict(_constants(source))
    image = Image(binary)
    return Wheel(constants["__version__"], constants, dict(image.functions()), dict(image.results()), binary)


def _constants(source: str) -> Iterator[tuple[str, Any]]:
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = ast.unparse(node.value)
            if re.fullmatch(r"[-0-9xA-Fa-f| ()]+|'[^']*'", value):
                yield node.targets[0].id, _value(node.value)


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _value(node.left) | _value(node.right)
    return ast.literal_eval(node)


class Image:
    """A Windows binary's data: strings that pointers lead to, and tables of such pointers."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        header = struct.unpack_from("<I", data, 0x3C)[0]
        count, size = struct.unpack_from("<H", data, header + 6)[0], struct.unpack_from("<H", data, header + 20)[0]
        self._base = struct.unpack_from("<Q", data, header + 48)[0]
        rows = [struct.unpack_from("<8sIIII", data, header + 24 + size + 40 * index) for index in range(count)]
        self._sections = {name.rstrip(b"\0").decode(): (start, offset, length) for name, _, start, length, offset in rows}

    def functions(self) -> Iterator[tuple[str, int]]:
        """Yield the entries of the module's table of functions: name, code, flags, documentation."""
        code_start, _, code_size = self._sections[".text"]
        for place in self._words():
            name, code, flags = struct.unpack_from("<QQI", self._data, place)
            called = self._text(name)
            is_code = 0 <= code - self._base - code_start < code_size
            if called and re.fullmatch(r"[a-z_]+", called) and flags in (NO_ARGUMENTS, POSITIONS, KEYWORDS) and is_code:
                yield called, flags

    def results(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the described result objects: name, documentation, fields, how many of them."""
        for place in self._words(room=32):
            name, _, fields, count = struct.unpack_from("<QQQI", self._data, place)
            called, start = self._text(name), self._offset(fields)
            if called and start and 3 < count < 200 and re.fullmatch(r"(MetaTrader5\.)?[A-Z]\w+", called):
                pointers = [struct.unpack_from("<Q", self._data, start + 16 * index)[0] for index in range(count)]
                names = [self._text(pointer) for pointer in pointers]
                if all(names):
                    yield called.rpartition(".")[2], [str(each) for each in names]

    def _words(self, room: int = 24) -> Iterator[int]:
        _, offset, size = self._sections[".data"]
        yield from range(offset, offset + size - room, 8)

    def _offset(self, address: int) -> int | None:
        for start, offset, size in self._sections.values():
            if start <= address - self._base < start + size:
                return offset + address - self._base - start
        return None

    def _text(self, address: int) -> str | None:
        start = self._offset(address)
        if start is None:
            return None
        text = self._data[start : self._data.index(b"\0", start)]
        return text.decode("ascii") if text and all(32 <= byte < 127 for byte in text) else None


def called_by_the_child() -> set[str]:
    """Find every function of the package that our code calls."""
    found = set()
    for path in COPIED.glob("mt5_*.py"):
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"\bapi\.([a-z_]+)\(", text)) | set(re.findall(r'\.ask\(\s*"([a-z_]+)"', text))
    return found


def test_every_function_the_child_calls_is_there_and_is_called_as_it_wants(
    wheel: Wheel, capsys: pytest.CaptureFixture[str]
) -> None:
    called = called_by_the_child()
    assert {"initialize", "positions_get", "order_send", "history_deals_get", "symbol_info_tick"} <= called
    assert called - set(wheel.functions) == set()
    with_keywords = {"initialize", "positions_get", "orders_get", "history_deals_get", "history_orders_get", "order_send"}
    without = {"symbol_info", "symbol_info_tick", "symbol_select", "order_calc_margin", "copy_rates_from_pos"}
    nothing = {"account_info", "terminal_info", "positions_total", "orders_total", "shutdown"}
    assert {name: wheel.functions[name] for name in sorted(with_keywords | without | nothing)} == {
        name: KEYWORDS if name in with_keywords else POSITIONS if name in without else NO_ARGUMENTS
        for name in sorted(with_keywords | without | nothing)
    }
    with capsys.disabled():
        sys.stdout.write(
            f"\nMetaTrader5 {wheel.version}: compared {len(called)} functions the child calls: {', '.join(sorted(called))}\n"
        )


def test_every_keyword_the_child_uses_is_known_to_the_package_which_would_ignore_a_misspelt_one(wheel: Wheel) -> None:
    used = {"login", "password", "server", "timeout", "portable", "symbol", "ticket", "position"}
    called = "".join(path.read_text(encoding="utf-8") for path in COPIED.glob("mt5_*.py"))
    assert used >= set(re.findall(r"_get\(([a-z]+)=", called)) | set(re.findall(r'"[a-z_]+_get", ([a-z]+)=', called))
    assert [name for name in sorted(used) if b"\0" + name.encode() + b"\0" not in wheel.binary] == []


def test_every_function_of_the_fake_is_one_of_the_package(wheel: Wheel, capsys: pytest.CaptureFixture[str]) -> None:
    played = {name for name in vars(FakeMetaTrader5) if not name.startswith("_") and callable(getattr(FakeMetaTrader5, name))}
    assert played - set(wheel.functions) == set()
    with capsys.disabled():
        sys.stdout.write(
            f"compared {len(played)} functions of the fake; not played: {', '.join(sorted(set(wheel.functions) - played))}\n"
        )


@pytest.mark.parametrize("kind", sorted(FIELDS))
def test_a_result_has_these_fields_in_this_order(wheel: Wheel, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert FIELDS[kind].split() == wheel.fields[kind]
    with capsys.disabled():
        sys.stdout.write(f"compared {len(wheel.fields[kind])} fields of {kind}\n")


def test_every_constant_of_the_fake_has_its_value(wheel: Wheel, capsys: pytest.CaptureFixture[str]) -> None:
    assert {name: wheel.constants.get(name) for name in CONSTANTS} == CONSTANTS
    with capsys.disabled():
        sys.stdout.write(f"compared {len(CONSTANTS)} of {len(wheel.constants)} constants\n")


def test_every_return_code_of_the_package_is_in_the_table_under_its_name(
    wheel: Wheel, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = {name.removeprefix("TRADE_RETCODE_"): value for name, value in wheel.constants.items() if "RETCODE" in name}
    ours = {each.name: code for code, each in RETCODES.items()}
    assert {name: code for name, code in ours.items() if name not in NOT_IN_THE_WHEEL} == theirs
    with capsys.disabled():
        sys.stdout.write(f"compared {len(theirs)} return codes; the table adds {', '.join(sorted(set(ours) - set(theirs)))}\n")


def test_every_error_of_the_package_is_in_the_table_under_its_name(wheel: Wheel, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = {name: value for name, value in wheel.constants.items() if name.startswith("RES_")}
    assert {each.name: code for code, each in PACKAGE_ERRORS.items()} == theirs
    with capsys.disabled():
        sys.stdout.write(f"compared {len(theirs)} error codes\n")


def test_the_numbers_the_child_translates_by_are_the_packages(wheel: Wheel) -> None:
    constants = wheel.constants
    assert constants["TRADE_ACTION_DEAL"] == mt5_values.ACTION_DEAL
    assert constants["TRADE_ACTION_SLTP"] == mt5_values.ACTION_SLTP
    assert {side: constants[f"ORDER_TYPE_{side.name}"] for side in Side} == mt5_values.ORDER_TYPES
    assert {mode: constants[f"ORDER_FILLING_{mode.name}"] for mode in Filling} == mt5_values.FILLING_NUMBERS
    assert {frame: constants[f"TIMEFRAME_{frame.name}"] for frame in mt5_values.TIMEFRAMES} == mt5_values.TIMEFRAMES
    margin = {"RETAIL_NETTING": MarginMode.NETTING, "EXCHANGE": MarginMode.NETTING, "RETAIL_HEDGING": MarginMode.HEDGING}
    assert {constants[f"ACCOUNT_MARGIN_MODE_{name}"]: mode for name, mode in margin.items()} == mt5_values.MARGIN_MODES
    assert constants["TRADE_RETCODE_NO_CHANGES"] == mt5_codes.NO_CHANGES
    for prefix, table in TRANSLATED.items():
        named = {value for name, value in constants.items() if name.startswith(prefix)}
        assert set(table) <= named, prefix


TRANSLATED: dict[str, dict[int, Any]] = {
    "SYMBOL_TRADE_MODE_": mt5_values._TRADE_MODES,
    "SYMBOL_TRADE_EXECUTION_": mt5_values._EXECUTIONS,
    "SYMBOL_CALC_MODE_": mt5_values._CALC_MODES,
    "ORDER_TYPE_": mt5_values._PENDING_TYPES,
    "DEAL_TYPE_": mt5_values._DEAL_TYPES,
    "DEAL_ENTRY_": mt5_values._DEAL_ENTRIES,
    "DEAL_REASON_": mt5_values._DEAL_REASONS,
    "POSITION_TYPE_": mt5_values._SIDES,
}
