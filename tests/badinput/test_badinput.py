"""Bad input at every door: whatever comes in ends in an answer or in that door's one clear error, in bounded time and memory."""

# ruff: noqa: E501 - tables of what is handed in

import json
import random
import tracemalloc
import zipfile
from collections.abc import Callable
from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from copier import wire
from copier.errors import ProtocolError, SettingsError
from copier.export_tables import ExportError
from copier.exports import parse_export
from copier.model import SymbolSpec
from copier.settings import parse
from tests.badinput import __main__ as campaign
from tests.badinput.__main__ import Counter, mutated
from tests.badinput.doors import BOOK, CSV, DOORS, SHEET, SHEET_XML, SPEC, Door, Fallen, knock, with_part

each_door = pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)


def hard(examples: int) -> Callable[[Any], Any]:
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


# Every door ------------------------------------------------------------------------------------------------------------


@each_door
def test_a_good_input_is_taken(door: Door) -> None:
    assert any(knock(door, seed) for seed in door.seeds) or door.name == "link", "a link ends by itself"


def one_of(door: Door) -> st.SearchStrategy[bytes]:
    spoilt = st.integers(0, 2**32).map(lambda seed: mutated(random.Random(seed), door.seeds, door.words))
    return st.binary(max_size=300) | spoilt


@each_door
def test_whatever_comes_in_is_taken_or_refused(door: Door) -> None:
    @hard(12)
    @given(one_of(door))
    def knocked(data: bytes) -> None:
        knock(door, data)

    knocked()


@pytest.mark.slow
@pytest.mark.timeout(600)
@each_door
def test_whatever_else_comes_in_is_taken_or_refused_too(door: Door) -> None:
    @hard(400)
    @given(one_of(door))
    def knocked(data: bytes) -> None:
        knock(door, data)

    knocked()


def test_a_door_that_breaks_is_found() -> None:
    def breaks(data: bytes) -> object:
        return 1 / (len(data) - 3)

    door = Door("x", "", breaks, (ProtocolError,), (b"",))
    assert knock(door, b"")
    with pytest.raises(Fallen, match="ZeroDivisionError"):
        knock(door, b"abc")


def test_inputs_are_counted_past_the_end_of_who_counts(tmp_path: Any) -> None:
    counter = Counter(tmp_path / "count")
    for number in range(5):
        counter.count(taken=number % 2 == 0)
    again = Counter(tmp_path / "count")
    assert (again.tried, again.taken) == (5, 3)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_campaign_knocks_at_a_door_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = campaign._run("greeting", "x", 2)
    assert tried.trouble == ""
    assert tried.inputs > 100


# Numbers that are none -------------------------------------------------------------------------------------------------

NO_NUMBERS = [
    '"NaN"',
    '"sNaN"',
    '"Infinity"',
    '"-inf"',
    "1e999999999",
    "1e16",
    "9" * 70,
    '"1e-999999"',
    '"\\u0661e\\u0669\\u0669\\u0669"',
]


@pytest.mark.parametrize("number", NO_NUMBERS)
@pytest.mark.parametrize("field", ["volumeStep", "tickSize", "tickValue", "volumeMax", "marginPerLot"])
def test_a_number_that_no_account_has_is_no_frame(number: str, field: str) -> None:
    told = json.loads(SPEC, parse_float=str)
    frame = json.dumps(told | {field: "HERE"}).replace('"HERE"', number).encode()
    with pytest.raises(ProtocolError):
        wire.decode(frame, SymbolSpec)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=Decimal(-(10**14)), max_value=Decimal(10**14), places=9))
@hard(60)
def test_a_number_that_an_account_may_have_is_taken_as_it_is(number: Decimal) -> None:
    frame = SPEC.replace(b'"tickValue":1,', f'"tickValue":{number},'.encode())
    assert wire.decode(frame, SymbolSpec).tick_value == number


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b'"stopsLevel":0', b'"stopsLevel":' + b"9" * 40),
        (b'"digits":5', b'"digits":' + b"9" * 20),
        (b'"digits":5', b'"digits":5.5'),
    ],
)
def test_a_whole_number_that_no_machine_holds_is_no_frame(field: bytes, value: bytes) -> None:
    with pytest.raises(ProtocolError):
        wire.decode(SPEC.replace(field, value), SymbolSpec)


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-01-05T08:00:00", "1969-12-31T23:59:59Z"])
def test_a_time_that_no_server_tells_is_no_frame(time: str) -> None:
    (event, *_) = DOORS["entry"].seeds
    frame = event.partition(b"\n")[2].replace(b"2026-01-05T08:00:00Z", time.encode())
    with pytest.raises(ProtocolError):
        wire.decode_event(frame)


# Symbols ---------------------------------------------------------------------------------------------------------------

ODD = st.sampled_from(
    [
        "0",
        "-1",
        "-0.01",
        "1e-30",
        "1e-12",
        "1e-10",
        "1e10",
        "1e12",
        "1e14",
        "0.00000001",
        "0.01",
        "1",
        "3",
        "0.07",
        "100000",
        "50",
    ]
)
FIELDS = ["point", "tickSize", "tickValue", "tickValueLoss", "contractSize", "volumeMin", "volumeStep", "volumeMax", "volumeLimit",
          "marginPerLot"]  # fmt: skip
NAMES = st.text(max_size=40) | st.sampled_from(["", "\0", "../x", "\N{SNOWMAN}", "a" * 300, "EURUSD'; DROP TABLE links;--"])


def symbols() -> st.SearchStrategy[bytes]:
    base = json.loads(SPEC, parse_float=str)

    def made(fields: dict[str, str], name: str, whole: int) -> bytes:
        text = json.dumps(base | {key: f"<{value}>" for key, value in fields.items()} | {"symbol": name, "stopsLevel": whole})
        return text.replace('"<', "").replace('>"', "").encode()

    wholes = st.sampled_from([0, -1, 10, 10**9, 10**12, 2**62])
    return st.builds(made, st.dictionaries(st.sampled_from(FIELDS), ODD, max_size=6), NAMES, wholes)


@given(symbols())
@hard(60)
def test_any_rules_of_a_symbol_lead_to_sane_lots_or_a_refusal(data: bytes) -> None:
    knock(DOORS["symbol"], data)


@pytest.mark.slow
@pytest.mark.timeout(600)
@given(symbols())
@hard(1_500)
def test_more_rules_of_symbols_lead_to_sane_lots_or_a_refusal(data: bytes) -> None:
    knock(DOORS["symbol"], data)


# Workbooks -------------------------------------------------------------------------------------------------------------


def sheet(rows: str, head: str = "") -> bytes:
    body = f'{head}<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{rows}</sheetData></worksheet>'
    return with_part(BOOK, SHEET, body.encode())


LAUGHS = (
    "<!DOCTYPE l [<!ENTITY a 'ha'>"
    + "".join(f"<!ENTITY {b} '{f'&{a};' * 20}'>" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + "]>"
)
HOSTILE = {
    "a row a billion rows down": sheet('<row r="1"><c r="A1" t="n"><v>1</v></c></row><row r="999999999"><c r="A999999999"><v>1</v></c></row>'),
    "a cell far to the right": sheet("".join(f'<row r="{n}"><c r="XFD{n}"><v>1</v></c></row>' for n in range(1, 3000))),
    "entities that laugh": sheet('<row r="1"><c r="A1" t="inlineStr"><is><t>&i;</t></is></c></row>', LAUGHS),
    "a file of this machine": sheet(
        '<row r="1"><c r="A1" t="inlineStr"><is><t>&x;</t></is></c></row>', '<!DOCTYPE l [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    ),
    "nothing but numbers": sheet("".join(f"<row><c><v>{n}e{n}</v></c></row>" for n in range(2000))),
    "half a workbook": BOOK[: len(BOOK) // 2],
    "no sheet": with_part(BOOK, "xl/workbook.xml", b"<workbook/>"),
    "a sheet that is none": with_part(BOOK, SHEET, b"\xff\xfe\x00"),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [name if "laugh" not in name else pytest.param(name, marks=pytest.mark.slow) for name in HOSTILE]
)
@pytest.mark.timeout(60)
def test_a_hostile_workbook_is_refused_in_bounded_memory(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ExportError) as caught:
            parse_export(HOSTILE[name])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "root:" not in str(caught.value)
    assert peak < 400 * 2**20


def test_a_workbook_that_unpacks_to_more_than_any_statement_is_refused_unread() -> None:
    into = BytesIO()
    big = zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with big, big.open(SHEET, "w", force_zip64=True) as part:
        for _ in range(160):
            part.write(bytes(2**20))
    with pytest.raises(ExportError, match="unpacked"):
        parse_export(into.getvalue())


def test_a_workbook_with_as_many_rows_as_years_of_trading_leave_is_read() -> None:
    lines = "".join(
        f'<row r="{n}">' + "".join(f'<c t="inlineStr"><is><t>{cell}</t></is></c>' for cell in line.split(",")) + "</row>"
        for n, line in enumerate(CSV.decode().splitlines()[:1] + CSV.decode().splitlines()[1:2] * 300, start=1)
    )
    assert len(parse_export(sheet(lines)).positions) >= 1
    assert SHEET_XML


# Settings --------------------------------------------------------------------------------------------------------------

LAUGHING = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)
)
YAMLS: dict[str, tuple[bytes, str]] = {
    "laughs": (LAUGHING.encode(), "values once the aliases are written out"),
    "an anchor inside itself": (b"accounts: &a {x: *a}", "alias inside its own anchor"),
    "merged into itself": (b"accounts: &a {<<: *a}", "inside its own anchor"),
    "a Python object": (b"redis: !!python/object/apply:os.system [x]", "a tag (!name) is not allowed"),
    "a tag of its own": (b"redis: !x y", "a tag (!name) is not allowed"),
    "a key twice": (b"redis: memory://\nredis: memory://", "stands twice, on lines 1 and 2"),
    "a key twice, once quoted": (b'redis: memory://\n"redis": memory://', "stands twice"),
    "a huge number": (b"schedule: {keep_days: " + b"9" * 5_000 + b"}", "more digits than any account needs"),
    "a huge exponent": (b"schedule: {reconcile_s: 1e999999}", "more digits than any account needs"),
    "deep lists": (b"accounts: " + b"[" * 100_000, "nested deeper than"),
    "deep mappings": (b"{a: " * 50_000, "nested deeper than"),
    "UTF-16": ("redis: memory://".encode("utf-16"), ""),
    "Latin 1": ("redis: \xfc".encode("latin-1"), "not a text in UTF-8"),
    "zeros": (b"redis: \0\0", "not"),
    "two documents": (b"redis: memory://\n---\nredis: memory://", "expected one document"),
    "a list": (b"- redis", "found a list or a single value"),
    "a key that is a list": (b"? [a, b]\n: c", "found a list or a mapping"),
    "a surrogate": (b'redis: "\\ud800"', ""),
    "five megabytes": (b"#" * 5 * 2**20, "larger than 4 MiB"),
    "a directive from nowhere": (b"%TAG ! tag:x,2000:\n--- !a b", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", YAMLS)
@pytest.mark.timeout(30)
def test_hostile_yaml_is_one_clear_mistake(name: str) -> None:
    data, expected = YAMLS[name]
    door = DOORS["settings"]
    try:
        assert expected == ""
        knock(door, data)
    except AssertionError:
        with pytest.raises(SettingsError) as caught:
            door.feed(data)
        assert expected in str(caught.value)
        assert len(str(caught.value)) < 3_000
        assert len(caught.value.problems) <= 2, caught.value.problems


def test_a_parser_that_knows_only_text_is_as_careful() -> None:
    for data, _ in YAMLS.values():
        try:
            parse(data.decode("utf-8", "surrogateescape"))
        except SettingsError:
            continue
