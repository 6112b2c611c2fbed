"""Every door that takes what others wrote, as a function from bytes: it ends in an answer, or in that door's own error."""

# ruff: noqa: E501 - tables of what is handed in

import asyncio
import io
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from copier import wire
from copier.clock import LoopClock, run_virtual
from copier.diff import View, apply, diff
from copier.errors import GatewayError, InvalidRequest, ProtocolError, SettingsError
from copier.export_pairs import rebuild_positions
from copier.export_specs import infer_specs
from copier.export_tables import ExportError
from copier.exports import parse_export
from copier.gateways.bridge_greeting import read_hello
from copier.gateways.bridge_port import PortListener
from copier.gateways.carriers import LinkLost, StreamLink
from copier.intake import Intake
from copier.ledger import Remembered
from copier.link import Leg, LegState, Link, LinkState
from copier.looking import check_scope
from copier.memory import Memory
from copier.model import Change, MarginMode, Position, Quote, Refused, Side, SymbolSpec
from copier.plan import plan_open
from copier.policy import FollowerRisk, RelationPolicy
from copier.reconcile import Book, fold, fold_net, repairs
from copier.settings import FollowerSettings, load, parse
from copier.signal_files import Dropped, read_signal
from copier.standing import Standing
from copier.steps import is_on
from copier.stream import Stream, open_stream
from copier.wire import Op
from tests.test_diff import START
from tests.test_plan import NOW, facts, policy, wish

D = Decimal
SCRATCH = Path(os.environ.get("TMPDIR", "/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()))


class Door(NamedTuple):
    """Where input comes in: what it may be refused with, and examples of what is taken."""

    name: str
    what: str
    feed: Callable[[bytes], object]
    refuses: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()
    """What the input is made of, for who builds inputs."""


# Settings --------------------------------------------------------------------------------------------------------------

YAML = b"""redis: memory://
ledger: "sqlite://"
accounts:
  alice: &a {kind: paper, login: 1001}
  bob: {<<: *a, login: 1002, server: "x", balance: 1e4}
masters: {gold: {account: alice, poll_ms: 100, breaker: {share_max: 50}}}
followers:
  bob:
    account: bob
    risk: {losses: [{name: day, percent: 5, reference: higher, period: day, reset_at: "00:00", zone: Europe/Prague}]}
    copies:
      - master: gold
        size: {mode: multiplier, multiplier: 0.5}
        symbols: {map: {US30: DJ30}, allow: ["EUR*"]}
        copy: {stops: distance, reverse: false}
        filters: {hours: {zone: UTC, windows: [{days: [mon, fri], start: "22:00", end: "23:00"}]}}
stream: {secret: {env: X}}
"""


def settings(data: bytes) -> object:
    """Load a settings file with these bytes, by the path that every command takes."""
    path = SCRATCH / f"badinput-{os.getpid()}.yaml"
    path.write_bytes(data)
    path.chmod(0o600)
    try:
        return load(path, {"X": "a secret of some length"})
    finally:
        path.unlink()


# Exports ---------------------------------------------------------------------------------------------------------------

CSV = b"""Time,Position,Symbol,Type,Volume,Price,S / L,T / P,Time,Price,Commission,Swap,Profit
2025.01.02 03:04:05,12,EURUSD,buy,0.10,1.1,0,0,2025.01.03 03:04:05,1.2,-0.1,0,10.00
2025.01.02 03:04:06,13,XAUUSD,sell,0.20,2650.1,0,0,2025.01.03 03:04:05,2640.1,,,200.00
"""
DEALS = b"""Time\tDeal\tSymbol\tType\tDirection\tVolume\tPrice\tOrder\tCommission\tFee\tSwap\tProfit\tBalance
2025.01.02 03:04:05\t1\t\tbalance\t\t\t\t\t0\t0\t0\t1000\t1000
2025.01.02 03:04:05\t2\tEURUSD\tbuy\tin\t0,1\t1,1\t2\t0\t0\t0\t0\t1000
2025.01.02 03:05:05\t3\tEURUSD\tsell\tout\t0,1\t1,2\t3\t0\t0\t0\t10\t1010
"""
HTML = b"<html><table><tr><th>" + b"</th><th>".join(CSV.splitlines()[0].split(b",")) + b"</th></tr><tr><td>" + b"</td><td>".join(
    CSV.splitlines()[1].split(b",")
) + b"</td><td class=hidden colspan=3>x</td></tr></table></html>"  # fmt: skip
SHEET = "xl/worksheets/sheet1.xml"


def workbook() -> bytes:
    """Return a small workbook of positions."""
    import openpyxl  # type: ignore[import-untyped]

    book = openpyxl.Workbook()
    for line in CSV.decode().splitlines():
        book.active.append(line.split(","))
    into = io.BytesIO()
    book.save(into)
    return into.getvalue()


def with_part(book: bytes, name: str, content: bytes) -> bytes:
    """Return a workbook with one of its parts replaced."""
    into = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(book)) as old, zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            new.writestr(entry, content if entry == name else old.read(entry))
    return into.getvalue()


BOOK = workbook()


def export(data: bytes) -> object:
    """Read an export, and all that a replay learns from it."""
    found = parse_export(data)
    rebuild_positions(found.deals)
    return infer_specs(found)


def xlsx_sheet(data: bytes) -> object:
    """Read a workbook whose sheet holds these bytes: mutated archives alone seldom get past their checksums."""
    return export(with_part(BOOK, SHEET, data))


# Frames ----------------------------------------------------------------------------------------------------------------


def spec_of(**more: Any) -> SymbolSpec:
    from tests.test_risk import spec

    return spec(**more)


def position(**more: Any) -> Position:
    fields: dict[str, Any] = {
        "ticket": 9, "identifier": 9, "symbol": "EURUSD", "type": Side.BUY, "lots": D("0.3"), "open_price": D("1.1"),
        "current_price": D("1.2"), "open_time": START, "tag": "mc000100001",
    }  # fmt: skip
    return Position(**(fields | more))


def answers() -> tuple[bytes, ...]:
    from copier.model import CloseResult, ModifyResult, Positions, TradeResult
    from tests.test_risk import account

    quote = Quote(account="2@b", symbol="EURUSD", bid=D("1.1"), ask=D("1.2"), timestamp=START, spec=spec_of())
    results = (
        account(), Positions(account="2@b", positions=(position(), position(ticket=10))), quote,
        TradeResult(account="2@b", ticket=1, symbol="X", action=Side.BUY, lots=D(1)), CloseResult(account="2@b", ticket=1),
        ModifyResult(account="2@b", ticket=1),
    )  # fmt: skip
    failures = (
        b'{"id":1,"success":false,"error":"no","outcome":"rejected","reason":"requote","code":10004}',
        b'{"push":"changed"}',
    )
    return (*(wire.encode_result(1, result) for result in results), *failures)


def answer(data: bytes) -> object:
    """Read what a far end said, as the answer to each operation; what is taken must have been understood."""
    found = wire.decode_incoming(data)
    if isinstance(found, wire.Push):
        return None
    taken = []
    for op in Op:
        try:
            taken.append(wire.result_of(found, op, "2@b"))
        except GatewayError:
            continue
    for result in taken:
        assert wire.encode_result(1, result)
        assert all(number.is_finite() for number in decimals(result)), "a number that is none was let in"
        match result:
            case Quote(spec=spec):
                _use_spec(spec, result)
            case _ if hasattr(result, "positions"):
                _use_positions(result.positions)
    return taken


def decimals(value: object) -> Iterable[Decimal]:
    """Yield every decimal of a record."""
    match value:
        case Decimal():
            yield value
        case msgspec.Struct():
            for name in value.__struct_fields__:
                yield from decimals(getattr(value, name))
        case tuple() | list():
            for each in value:
                yield from decimals(each)
        case dict():
            yield from decimals(list(value.values()))


def request(data: bytes) -> object:
    """Read a call as a far end does, under each operation's rules."""
    found = wire.decode_request(data)
    for op in Op:
        try:
            wire.decode_params(op, bytes(found.params))
        except (InvalidRequest, ProtocolError):
            continue
    return found


def greeting(data: bytes) -> object:
    """Read what an Expert Advisor says first."""
    return read_hello(data)


class _Pipe:
    """A stream's far side that swallows everything."""

    def __init__(self) -> None:
        self.said = b""
        self.transport = self

    def write(self, data: bytes) -> None:
        self.said += data

    async def drain(self) -> None:
        pass

    def close(self) -> None:
        pass

    abort = close

    def is_closing(self) -> bool:
        return False

    async def wait_closed(self) -> None:
        pass

    def get_extra_info(self, name: str) -> str:
        return name

    def write_eof(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False


def link(data: bytes) -> object:
    """Receive frames from a link until it ends, in pieces."""

    async def main() -> list[bytes]:
        reader = asyncio.StreamReader()
        for start in range(0, len(data), 7):
            reader.feed_data(data[start : start + 7])
        reader.feed_eof()
        stream, frames = StreamLink(reader, _Pipe()), []  # type: ignore[arg-type]
        stream.frame_bytes_max = 200
        while len(frames) <= len(data):
            frame = await stream.receive()
            assert b"\n" not in frame
            frames.append(frame)
        raise AssertionError("more frames than bytes")

    return run_virtual(main())


def port(data: bytes) -> object:
    """Say this to the port where Expert Advisors dial in: lines, HTTP or a WebSocket."""

    async def main() -> bytes:
        reader, writer = asyncio.StreamReader(), _Pipe()
        reader.feed_data(data)
        reader.feed_eof()

        async def attend(found: Any, who: str) -> None:
            try:
                while True:
                    read_hello(await found.receive())
            except (ProtocolError, LinkLost):
                await found.close()

        listener = PortListener()
        async with asyncio.timeout(3600):
            await listener._attended(reader, writer, attend)  # type: ignore[arg-type]
        await listener._sessions.close()
        return writer.said

    return run_virtual(main())


# The stream ------------------------------------------------------------------------------------------------------------


def events() -> tuple[bytes, ...]:
    from copier.model import Closed, MasterFacts, Modified, Opened, Reduced, Reversed, ScaledIn, Snapshot
    from tests.test_plan import master_position

    at: dict[str, Any] = {"master": "m", "read": 1, "read_ms": NOW, "published_ms": NOW}
    one = master_position()
    money = MasterFacts(currency="USD", balance=D(1), equity=D(1), free_margin=D(1), leverage=100, server_offset_s=0)
    found = (
        Opened(**at, position=one, spec=spec_of(), facts=money, absent_ms=NOW), Closed(**at, position=one),
        ScaledIn(**at, position=one, added=D("0.1"), spec=spec_of()), Reduced(**at, position=one), Modified(**at, position=one),
        Reversed(**at, closed=one, position=one), Snapshot(**at, positions=(one,), specs={"EURUSD": spec_of()}, facts=money),
    )  # fmt: skip
    return tuple(wire.encode_event(event) for event in found)


def _memory() -> Memory:
    who = FollowerSettings.model_validate({"account": "f", "copies": [{"master": "m"}]})
    remembered = Remembered(links={}, readings={}, facts={})
    memory = Memory("f", who, None, _Stopped(), remembered)  # type: ignore[arg-type]
    memory.relations["m"].started = True
    return memory


class _Stopped:
    """A clock that stands."""

    def now_ms(self) -> int:
        return NOW


_STREAM: list[Stream] = []


def entry(data: bytes) -> object:
    """Take in an entry of a master's stream: its id, its fields, and what a follower makes of it."""
    if not _STREAM:
        _STREAM.append(run_virtual(_open()))
    head, _, body = data.partition(b"\n")
    number = head if head[:1].isdigit() and b"-" in head else b"1-1"
    memory = _memory()
    intake = Intake(memory)
    for extra in (body or data, body or data):
        intake.accept(_STREAM[0]._entry("m", number, {b"e": extra}))
        for each in list(memory.links.values()):
            repairs(each, spec_of(), MarginMode.HEDGING)
            if each.wanted_open:
                plan_open(policy(), FollowerRisk(), each, each.position.lots, facts())
    return memory.links


async def _open() -> Stream:
    return open_stream("memory://")


# Controls --------------------------------------------------------------------------------------------------------------

RELATIONS = parse(YAML.replace(b"stream: {secret: {env: X}}\n", b"").decode())


def control(data: bytes) -> object:
    """Give a control command with this scope, and let a follower find it in the ledger whoever wrote it there."""
    text = data.decode(errors="replace")
    scope, _, word = text.partition("\n")
    who = RELATIONS.followers["bob"]
    standing = Standing("bob", who, None, LoopClock(), Remembered(links={}, readings={}, facts={}))  # type: ignore[arg-type]
    for each in ({scope: word}, {"*": word}, {"bob/gold": text}):
        standing.set_controls(each)
        assert standing.mode_of("gold")
        assert standing.flatten_asked("gold") in (True, False)
    check_scope(RELATIONS, scope)
    return scope


def signal(data: bytes) -> object:
    """Read a signal file, by each of its two endings."""
    taken, refusal = [], None
    for ending in ("json", "csv"):
        try:
            taken.append(read_signal(Dropped(path=Path(f"x.{ending}"), body=data, at_ms=1)))
        except InvalidRequest as error:
            refusal = error
    if not taken and refusal is not None:
        raise refusal
    assert all(number.is_finite() for number in decimals(taken))
    return taken


# Symbols and positions -------------------------------------------------------------------------------------------------

SIZES: tuple[dict[str, Any], ...] = (
    {},
    {"size": {"mode": "risk_percent", "percent": 1}, "copy": {"stops": {"mode": "fixed", "points": 100}}},
    {"size": {"mode": "notional"}},
    {"size": {"mode": "equity", "rounding": "carry", "below_min": "minimum"}, "copy": {"reverse": True}},
    {"size": {"mode": "fixed", "lots": 3, "above_max": "split"}},
)


def _policies() -> list[RelationPolicy]:
    found = []
    for each in SIZES:
        try:
            found.append(policy(**each))
        except ValueError:
            continue
    assert len(found) >= 2
    return found


POLICIES = _policies()


def symbol(data: bytes) -> object:
    """Plan with a symbol's rules as a broker may state them."""
    rules = wire.decode(data, SymbolSpec)
    quote = Quote(account="2@broker", symbol=rules.symbol, bid=D("1.0999"), ask=D("1.1"), timestamp=START, spec=rules)
    _use_spec(rules, quote)
    return rules


def _use_spec(rules: SymbolSpec, quote: Quote) -> None:
    """Ask every rule that looks at a symbol's rules; what they plan must be sane."""
    stops = wish(position={"stop_loss": D("1.05"), "take_profit": D("1.2")})
    for each in POLICIES:
        for link in (wish(), stops):
            found = plan_open(each, FollowerRisk(), link, D(1), facts(quote=quote, master_spec=rules))
            if not isinstance(found, Refused):
                assert all(lots > 0 and lots.is_finite() and is_on(lots, rules.volume_step) for lots in found.lots)
    leg = Leg(tag="mc000100001", side=Side.BUY, asked=D(1), state=LegState.OPEN, filled=D(1), lots=D(1), ticket=9)
    cut = msgspec.structs.replace(stops.position, lots=D("0.4"))
    held = msgspec.structs.replace(stops, position=cut, legs=(leg,), anchor=D(1), state=LinkState.COPIED, symbol=rules.symbol)
    for mode in MarginMode:
        repairs(held, rules, mode)


def positions(data: bytes) -> object:
    """Compare an account's positions as a terminal may state them."""
    found = wire.decode(data, tuple[Position, ...])
    _use_positions(found)
    return found


def _use_positions(found: tuple[Position, ...]) -> None:
    change = Change(master="m", read=1, read_ms=NOW)
    leg = Leg(tag="mc000100001", side=Side.BUY, asked=D("0.3"), state=LegState.OPEN, filled=D("0.3"), lots=D("0.3"), ticket=9,
              price=D("1.1"), net_before=D(0))  # fmt: skip
    held: Link = msgspec.structs.replace(wish(), legs=(leg,), anchor=D(1), state=LinkState.COPIED, symbol="EURUSD")
    for mode in MarginMode:
        view = View()
        for event in diff(view, found, mode, change):
            view = apply(view, event)
        for event in diff(view, (), mode, change, gone={p.identifier for p in found}):
            view = apply(view, event)
        book = Book(mode=mode, positions=found, began_ms=NOW + 60_000, settle_ms=1_000)
        (fold_net(held, book) if mode is MarginMode.NETTING else fold(held, book, {}))


JSON_WORDS = (
    b"NaN", b"sNaN", b"Infinity", b"-Infinity", b"1e999999999", b"1E-999999999", b"-0", b"0", b"-1", b"1e5000", b"null", b"true",
    b'""', b"[]", b"{}", b"9" * 400, b"0." + b"0" * 400 + b"1", b"1e-28", b"99999999999999999999", b"\\ud800", b"\\u0000", b"lots",
    b"volumeStep", b"tickSize", b"point", b"contractSize", b"digits", b"positions", b"spec", b"stopLoss", b"openPrice", b"kind",
)  # fmt: skip
YAML_WORDS = (
    b"&a", b"*a", b"<<: *a", b"!!python/object/apply:os.system", b"!!binary", b"? ", b"- ", b"|\n", b">-\n", b"%YAML 1.1\n", b"---\n",
    b"...\n", b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b"1e999999999", b".inf", b".nan", b"0x10", b"0o17", b"1_000", b"9" * 400, b"{env: X}",
    b"{file: /dev/zero}", b"{file: .}", b"{keyring: a/b}", b"followers:", b"copies:", b"master:", b"size:", b"[" * 40, b"{a: " * 40,
)  # fmt: skip
TABLE_WORDS = (
    b"NaN", b"1e999", b"1,5", b"-", b"--1", b"9" * 400, b"\xa0", b"\xe2\x88\x92" b"1", b"2025.13.45 99:99:99", b"0000.00.00 00:00:00",
    b"Open Positions", b"<td colspan=999999>", b"<![CDATA[", b"<!DOCTYPE x [", b"&#x110000;", b"\xff\xfe", b"\x00", b'"', b"so compensation",
    b"inout", b"out by", b"buy stop limit", b"0.1 / 0.1", b"Position", b"Deal", b"\r", b"\x1c",
)  # fmt: skip
HTTP = (
    b"POST /bridge HTTP/1.1\r\nHost: x\r\nX-Copier-Number: 1\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /bridge HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n\x81\x82\x00\x00\x00\x00{}",
)
HELLO = b'{"hello":"bridge","protocol":1,"account":"7@C","platform":"mt5","build":1,"program":"x","utcMs":1,"nonce":"0123456789abcdef"}'
SPEC = wire.encode(spec_of())
REQUESTS = (
    b'{"id":1,"op":"execute_trade","params":{"symbol":"X","action":"buy","lots":0.1,"stopLoss":1},"permit":{"token":1,"notAfterMs":1}}',
    b'{"id":2,"op":"get_deals","params":{"since":"2026-01-01T00:00:00Z"}}',
)
SHEET_XML = zipfile.ZipFile(io.BytesIO(BOOK)).read(SHEET)
DOORS = {
    door.name: door
    for door in (
        Door("settings", "a settings file", settings, (SettingsError,), (YAML, b"", b"a: 1"), YAML_WORDS),
        Door("export", "an export: CSV, HTML or XLSX", export, (ExportError,), (CSV, DEALS, HTML, BOOK), TABLE_WORDS),
        Door("sheet", "the sheet inside an XLSX", xlsx_sheet, (ExportError,), (SHEET_XML,), (b'r="', b"<row", b"<c", b't="n"', b"<v>1e9")),
        Door("signal", "a signal file: JSON or CSV", signal, (InvalidRequest,), (b'{"direction":"buy","symbol":"X","lots":0.1}',), JSON_WORDS),
        Door("answer", "a far end's answer", answer, (ProtocolError,), answers(), JSON_WORDS),
        Door("request", "a call to a far end", request, (ProtocolError,), REQUESTS, JSON_WORDS),
        Door("greeting", "an Expert Advisor's first line", greeting, (ProtocolError,), (HELLO,), JSON_WORDS),
        Door("link", "a connection's bytes", link, (LinkLost,), (HELLO + b"\n" + SPEC + b"\n", b"\n\n\r\n x \n"), (b"\n", b"\r\n")),
        Door("port", "the port for Expert Advisors: lines, HTTP, WebSocket", port, (), (HELLO + b"\n", *HTTP), (b"\r\n", b"\x88\x80")),
        Door("entry", "an entry of a master's stream", entry, (ProtocolError,), tuple(b"5-7\n" + e for e in events()), JSON_WORDS),
        Door("control", "a control command, or a control in the ledger", control, (SettingsError,), (b"bob/gold\nflatten", b"*"), ()),
        Door("symbol", "a symbol's rules", symbol, (ProtocolError,), (SPEC,), JSON_WORDS),
        Door("positions", "a list of positions", positions, (ProtocolError,), (wire.encode((position(), position(ticket=8))),), JSON_WORDS),
    )
}  # fmt: skip


class Fallen(AssertionError):
    """A door let through what it should have refused, or broke."""


def knock(door: Door, data: bytes) -> bool:
    """Hand in an input; return whether it was taken, raise `Fallen` where it ended in anything but the door's own errors."""
    try:
        door.feed(data)
    except door.refuses as refusal:
        said = str(refusal)
        assert 0 < len(said) < 100_000, "an error must say something, and not everything"
        return False
    except Exception as error:
        raise Fallen(f"{door.name}: {type(error).__name__}: {str(error)[:300]}\n  for {data[:2000]!r}") from error
    return True


__all__ = ["BOOK", "DOORS", "SHEET", "Door", "Fallen", "knock", "with_part"]
