"""What our child and our stand-in believe of the MT5Manager package, compared with the public wheel: read, never run.

The wheel installs nowhere but Windows, yet its stubs lie open anywhere: classes, their fields, methods and parameters. Values of
constants do not stand there, so only their names are compared.
"""

import ast
import inspect
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from copier.gateways.manager_connection import Events, Reply
from copier.gateways.manager_values import PUMPS
from tests.conftest import absent
from tests.fakes.fake_mt5manager import EnMTAPIRetcode, EnPumpModes, FakeManagerAPI, FakeMT5Manager
from tests.fakes.mt5manager_records import FIELDS

pytestmark = [pytest.mark.server, pytest.mark.timeout(180)]

COPIED = Path(__file__).resolve().parents[2] / "copier" / "gateways"
WHOLE = ("MTRequest", "MTPosition", "MTDeal", "MTOrder", "MTAccount")
DELIVERED = re.compile(r"On[A-Z]\w+")


class Wheel(NamedTuple):
    """What could be read."""

    version: str
    classes: dict[str, ast.ClassDef]
    functions: set[str]
    binary: bytes

    def methods(self, name: str) -> dict[str, list[list[str]]]:
        """Return a class's methods with the parameters of each way to call them."""
        found: dict[str, list[list[str]]] = {}
        for node in self.classes[name].body:
            if isinstance(node, ast.FunctionDef):
                found.setdefault(node.name, []).append([each.arg for each in node.args.args[1:]])
        return found

    def fields(self, name: str) -> set[str]:
        """Return a record's fields."""
        body = self.classes[name].body
        return {node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}

    def names(self, enum: str, inside: str = "") -> set[str]:
        """Return the names of an enumeration."""
        body = self.classes[inside].body if inside else list(self.classes.values())
        (found,) = [node for node in body if isinstance(node, ast.ClassDef) and node.name == enum]
        return {node.target.id for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--platform", "win_amd64"]
    command += ["--python-version", "3.11", "--dest", str(folder), "--disable-pip-version-check", "MT5Manager"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        absent(f"the MT5Manager wheel cannot be downloaded: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    with zipfile.ZipFile(wheels[0]) as archive:
        stubs = ast.parse(archive.read("MT5Manager/_core.pyi").decode())
        binary = next(archive.read(name) for name in archive.namelist() if name.endswith(".pyd"))
    classes = {node.name: node for node in stubs.body if isinstance(node, ast.ClassDef)}
    functions = {node.name for node in stubs.body if isinstance(node, ast.FunctionDef)}
    return Wheel(wheels[0].name.split("-")[1], classes, functions, binary)


def called_by_the_child() -> dict[str, set[int]]:
    """Find every method of the manager that our code calls, with how many arguments where that can be seen."""
    found: dict[str, set[int]] = {}
    for path in (*COPIED.glob("manager_*.py"), COPIED / "mt5_manager_child.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            arguments = [each for each in node.args if not isinstance(each, ast.Starred)]
            first = {"ask": 1, "try_to": 0, "_ask": 0}.get(node.func.attr)
            if first is not None and len(arguments) > first and isinstance(arguments[first], ast.Constant):
                found.setdefault(str(arguments[first].value), set()).add(len(arguments) - first - 1)
            elif ast.unparse(node.func.value) in ("manager", "self._manager"):
                found.setdefault(node.func.attr, set()).add(len(arguments))
    return found


def test_every_method_the_child_calls_is_there_and_takes_as_many_arguments(
    wheel: Wheel, capsys: pytest.CaptureFixture[str]
) -> None:
    called = called_by_the_child()
    assert {"Connect", "DealerSend", "PositionRequest", "DealRequest", "TickLast", "TradeProfit", "SymbolGet"} <= set(called)
    methods = wheel.methods("ManagerAPI")
    assert set(called) - set(methods) == set()
    for name, counts in called.items():
        assert counts <= {len(parameters) for parameters in methods[name]}, name
    with capsys.disabled():
        names = ", ".join(sorted(called))
        sys.stdout.write(f"\nMT5Manager {wheel.version}: compared {len(called)} methods the child calls: {names}\n")


def test_every_subscription_of_the_child_takes_one_sink(wheel: Wheel) -> None:
    methods = wheel.methods("ManagerAPI")
    for name in ("Subscribe", "PositionSubscribe", "DealSubscribe", "TickSubscribe"):
        assert [len(parameters) for parameters in methods[name]] == [1]


def test_every_method_of_the_fake_is_one_of_the_package_with_its_arguments(
    wheel: Wheel, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = wheel.methods("ManagerAPI")
    played = {name for name in vars(FakeManagerAPI) if name[0].isupper() and callable(getattr(FakeManagerAPI, name))} - {
        "EnPumpModes"
    }
    assert played - set(methods) == set()
    for name in sorted(played):
        signature = inspect.signature(getattr(FakeManagerAPI, name))
        if any(each.kind is each.VAR_POSITIONAL for each in signature.parameters.values()):
            continue
        assert list(signature.parameters)[1:] in methods[name] or len(methods[name][0]) == len(signature.parameters) - 1, name
    with capsys.disabled():
        sys.stdout.write(f"compared {len(played)} methods of the fake\n")


@pytest.mark.parametrize("record", sorted(FIELDS))
def test_every_field_of_the_fakes_records_is_there(wheel: Wheel, record: str, capsys: pytest.CaptureFixture[str]) -> None:
    ours = set(FIELDS[record].split())
    theirs = wheel.fields(record)
    assert ours - theirs == set()
    if record in WHOLE:
        assert theirs - ours == set()
    with capsys.disabled():
        sys.stdout.write(f"compared {len(ours)} of {len(theirs)} fields of {record}\n")


def test_a_request_still_has_no_field_for_a_magic_number(wheel: Wheel) -> None:
    assert not {name for name in wheel.fields("MTRequest") if "Expert" in name or "Magic" in name}


def test_the_identifier_and_the_position_of_a_deal_have_their_fields(wheel: Wheel) -> None:
    assert {"Position", "ExpertPositionID"} <= wheel.fields("MTPosition")
    assert "PositionID" in wheel.fields("MTDeal")
    assert "PositionID" not in wheel.fields("MTRequest")


def test_every_constant_of_ours_is_one_of_the_packages(wheel: Wheel, capsys: pytest.CaptureFixture[str]) -> None:
    pumps = wheel.names("EnPumpModes", "ManagerAPI")
    assert {f"PUMP_MODE_{name}" for name in PUMPS} | {each.name for each in EnPumpModes} <= pumps
    assert {"TA_FLAG_CLOSE", "TA_FLAG_CHANGED_SL", "TA_FLAG_CHANGED_TP"} <= wheel.names("EnTradeActionFlags", "MTRequest")
    assert {"TA_DEALER_POS_EXECUTE", "TA_DEALER_POS_MODIFY"} <= wheel.names("EnTradeActions", "MTRequest")
    assert {"DEAL_REASON_SL", "DEAL_REASON_TP", "DEAL_REASON_SO"} <= wheel.names("EnDealReason", "MTDeal")
    assert {"USER_RIGHT_ENABLED", "USER_RIGHT_READONLY"} <= wheel.names("EnUsersRights", "MTUser")
    retcodes = wheel.names("EnMTAPIRetcode")
    assert {each.name for each in EnMTAPIRetcode} - {"MT_RET_REQUEST_TOO_MANY"} <= retcodes
    with capsys.disabled():
        sys.stdout.write(f"compared the names of {len(PUMPS)} pumps, 3 flags, 2 actions and {len(EnMTAPIRetcode)} return codes\n")


def test_the_package_still_looks_up_the_sinks_methods_that_we_have(wheel: Wheel) -> None:
    ours = {name for kind in (Events, Reply) for name in vars(kind) if DELIVERED.fullmatch(name)}
    assert {"OnConnect", "OnDealerAnswer", "OnDealAdd", "OnPositionUpdate"} <= ours
    assert {name for name in ours if name.encode() not in wheel.binary} == set()


def test_the_module_has_what_the_fake_has(wheel: Wheel) -> None:
    assert "LastError" in wheel.functions
    assert hasattr(FakeMT5Manager, "LastError")
