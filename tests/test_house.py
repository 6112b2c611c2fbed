"""The house around the code: imports point downwards, what is documented is true, and nothing of this machine is in it."""

import ast
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import copier
from copier import settings
from copier.settings_reference import reference

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "copier").rglob("*.py"))
CONFIGS = sorted((ROOT / "config").glob("*.yaml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def tracked() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return [path for folder in ("copier", "tests", "config", "docs") for path in (ROOT / folder).rglob("*") if path.is_file()]
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


# Imports ---------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(60)
def test_imports_point_downwards_only() -> None:
    # In a process of its own: the linter switches off every logger that exists before it.
    linter = [sys.executable, "-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"]
    done = subprocess.run(linter, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


IMPURE = {
    "asyncio", "concurrent", "logging", "random", "secrets", "select", "socket", "subprocess", "threading", "time", "uuid",
    "redis", "fakeredis", "sqlalchemy", "yaml", "copier.clock", "copier.settings", "copier.settings_source",
}  # fmt: skip


def rules() -> list[Path]:
    """Find the modules from plan and its neighbours down to the nouns, settings and clock apart."""
    layers = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    first = next(index for index, layer in enumerate(layers) if "plan" in layer)
    listed = {name for layer in layers[first:] for name in re.findall(r"\w+", layer)}
    listed -= {"settings", "settings_check", "settings_source", "clock"}
    return sorted(path for name in listed if (path := ROOT / "copier" / f"{name}.py").exists())


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found | {name.split(".")[0] for name in found}


@pytest.mark.parametrize("path", rules(), ids=names)
def test_a_rule_knows_no_loop_log_chance_store_or_clock(path: Path) -> None:
    assert imported(path) & IMPURE == set()


# Code ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_a_module_says_in_one_sentence_what_lives_there(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    sentence = " ".join(text.split("\n\n")[0].split())
    assert sentence, "no docstring"
    assert sentence.endswith((".", "`.")), sentence
    assert not re.search(r"[a-z)`]\. [A-Z]", sentence), f"more than one sentence before the first empty line: {sentence}"


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_nothing_is_printed_past_the_faces(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert [f"line {call.lineno}" for call in calls if call.func.id in {"print", "eval", "exec"}] == []  # type: ignore[attr-defined]


FORBIDDEN = [
    "py" + "pi.org", "python" + "hosted.org", "registry.np" + "mjs", "proxy.gol" + "ang.org", "--index" + "-url",
    "/work/" + "main", "/work/" + "shared", "/tmp/" + "brief", "/ro" + "ot/", "pick" + "le.load", "yaml." + "load(",
]  # fmt: skip


def test_no_registry_and_no_place_of_one_machine_is_named_in_any_file() -> None:
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {word}" for word in FORBIDDEN if word in text]
    assert found == []


ENDLESS = """
import asyncio
import pytest
from copier.clock import run_virtual

async def endless():
    while True:
        await asyncio.sleep(1)

@pytest.mark.timeout(0.5)
def test_virtual():
    run_virtual(endless())

@pytest.mark.timeout(0.5)
async def test_real():
    while True:
        await asyncio.sleep(0)

def test_quick():
    pass
"""


@pytest.mark.timeout(120)
@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="deadlines inside an event loop need POSIX signals")
def test_a_test_without_end_fails_at_its_deadline_and_the_next_one_runs(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_endless.py").write_text(ENDLESS, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110)
    assert "2 failed, 1 passed" in done.stdout, done.stdout[-2000:]
    assert "test_virtual took longer than 0.5 s" in done.stdout


# Settings --------------------------------------------------------------------------------------------------------------


def test_there_are_examples() -> None:
    expected = {"copier", "replay-one-to-one", "provider-many-followers", "cross-broker", "risk-rules"}
    assert expected <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=names)
def test_an_example_is_settings_without_a_mistake(path: Path) -> None:
    loaded = settings.load(path, {})
    assert loaded.masters
    assert loaded.followers


def test_the_configuration_reference_is_up_to_date() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == reference(), "run: make reference"


# Door ------------------------------------------------------------------------------------------------------------------


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def commands(text: str) -> Iterator[str]:
    for block in re.findall(r"```\w*\n(.*?)```|`([^`\n]+)`", text, re.DOTALL):
        yield from (block[0] or block[1]).splitlines()


def test_every_make_command_of_the_readme_is_in_the_makefile() -> None:
    used = {match[1] for line in commands(README) if (match := re.match(r"make ([a-z-]+)", line.strip()))}
    assert {"demo", "test"} <= used <= targets()


def test_every_file_that_the_readme_names_is_there() -> None:
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link}
    files = {word for line in commands(README) for word in re.findall(r"\b(?:requirements|config|docs)[\\/][\w./\\-]+", line)}
    assert [name for name in sorted(links | files) if not (ROOT / name.replace("\\", "/")).exists()] == []


def test_the_checks_from_a_clean_checkout_run_the_readmes_own_test_command() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert {"make test", "make check"} <= set(lines)


def test_what_has_changed_is_told_for_this_version() -> None:
    assert f"## {copier.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["run.txt", "dev.txt"])
def test_every_dependency_is_pinned_by_hash_and_no_index_is_named(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    pinned = text.replace("\\\n", " ").splitlines()
    assert all(re.match(r"[a-z0-9-]+(\[[a-z0-9,-]+\])?==\S+ .*--hash=sha256:[0-9a-f]{64}", line) for line in pinned)
    assert "://" not in text
    extras = [line for group in PROJECT["project"]["optional-dependencies"].values() for line in group]
    groups = PROJECT["dependency-groups"]
    tools = groups["build"] + ([line for line in groups["dev"] if isinstance(line, str)] if name == "dev.txt" else [])
    asked = PROJECT["project"]["dependencies"] + extras + tools
    wanted = {re.match(r"[\w-]+", line)[0].lower().replace("_", "-") for line in asked}  # type: ignore[index]
    assert wanted - {line.split("==")[0].split("[")[0] for line in pinned} == set(), "run: make lock"
