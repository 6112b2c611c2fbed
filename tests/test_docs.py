"""What the documents say: modules, settings, receipts and commands are those of the source."""

import ast
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import typer

from copier import cli, settings
from copier.errors import Reason
from copier.model import DealReason

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md"])


def tracked() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return list((ROOT / "copier").rglob("*.py"))
    listed = subprocess.run([git, "ls-files", "-z", "copier"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name]


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


# Architecture ----------------------------------------------------------------------------------------------------------


def test_every_module_is_described_in_the_architecture() -> None:
    named = set(re.findall(r"`(\w+\.py)`", text_of("architecture.md")))
    there = {path.name for path in (ROOT / "copier").rglob("*.py") if path.name != "__init__.py"}
    kept = {path.name for path in tracked() if path.suffix == ".py" and "copier" in path.parts} & there
    assert sorted(kept - named) == [], "say in docs/architecture.md what they do"
    assert sorted(named - there) == [], "docs/architecture.md names modules that are not there"


# Examples --------------------------------------------------------------------------------------------------------------

WORLD = """
accounts:
  alice: {{kind: paper, login: 1001}}
  bob: {{kind: paper, login: 1002}}
masters:
  gold: {{account: alice}}
followers:
  bob:
    account: bob
{follower}
    copies:
      - master: gold
{relation}
"""


def indented(text: str, by: int) -> str:
    return "\n".join(" " * by + line for line in text.splitlines())


def complete(kind: str, text: str) -> str:
    """Put an example into whole settings: it is all of them, a section, what a follower says, or what a relation says."""
    match kind:
        case "settings":
            return text
        case "engine":
            return WORLD.format(follower="", relation="") + text
        case "follower":
            return WORLD.format(follower=indented(text, 4), relation="")
        case _:
            return WORLD.format(follower="", relation=indented(text, 8))


def examples() -> Iterator[tuple[str, str, str]]:
    for page in PAGES:
        for kind, text in re.findall(
            r"^ *```yaml ?(\w*)\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            yield names(page), kind, dedent(text)


@pytest.mark.parametrize(("page", "kind", "text"), list(examples()))
def test_an_example_in_the_documents_is_settings_without_a_mistake(page: str, kind: str, text: str) -> None:
    whole = complete("settings" if "gateways" in page else kind, text)
    secrets = {name: "a secret of some length" for name in re.findall(r"\{env: (\w+)\}", whole)}
    assert settings.parse(whole, secrets).accounts


# Commands --------------------------------------------------------------------------------------------------------------


def fenced(text: str) -> Iterator[str]:
    """Find every line of a page's blocks."""
    for block in re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
        yield from block.splitlines()


def commands_of(page: Path) -> Iterator[str]:
    """Find what a page tells to type after `mt-copier`; a command's bare name is only mentioned."""
    text = page.read_text(encoding="utf-8")
    for line in fenced(text):
        if match := re.match(r" *(?:docker compose .* exec \S+ )?mt-copier (.+)", line):
            yield match[1].partition(" #")[0]
    for words in re.findall(r"`mt-copier ([^`\n]+)`", text):
        if not re.fullmatch(r"[a-z-]+|--help", words) and "..." not in words:
            yield words


def misused(words: list[str]) -> str:
    """Say what the command line would complain about."""
    command: Any = typer.main.get_command(cli.app)
    while isinstance(getattr(command, "commands", None), dict):
        if not words or words[0] not in command.commands:
            return f"there is no {' '.join(words[:1])}"
        command, words = command.commands[words[0]], words[1:]
    try:
        command.make_context("mt-copier", list(words))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_every_command_of_a_page_is_one_that_the_command_line_takes(page: Path) -> None:
    assert [(words, trouble) for words in commands_of(page) if (trouble := misused(shlex.split(words)))] == []


def test_commands_are_found_and_wrong_ones_are_told() -> None:
    found = list(commands_of(DOCS / "deployment.md"))
    assert "run copier.yaml" in found
    assert "status copier.yaml" in found
    assert misused(shlex.split("flatten '*' --direct"))
    assert misused(["folow", "copier.yaml"])
    assert misused(["status", "copier.yaml", "--nothing"])


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_every_module_and_target_that_a_page_has_run_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    modules = set(re.findall(r"python -m ((?:benchmarks|tests|copier)[\w.]*)", text))
    places = {name: ROOT / name.replace(".", "/") for name in modules}
    assert [name for name, at in places.items() if not (at.with_suffix(".py").exists() or (at / "__main__.py").exists())] == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) - targets == set()
    assert [name for name in re.findall(r"pytest[^`\n]* (tests/[\w/]+\.py)", text) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_a_command_for_the_containers_names_their_profile(page: Path) -> None:
    """Without it Compose sees no service at all, as each has one."""
    said = re.findall(r"docker compose [^`\n]*", page.read_text(encoding="utf-8"))
    assert [line for line in said if "--profile" not in line] == []


# Receipts --------------------------------------------------------------------------------------------------------------


def literals(node: ast.AST | None) -> set[str]:
    """Find every text that an expression may be."""
    if node is None:
        return set()
    return {child.value for child in ast.walk(node) if isinstance(child, ast.Constant) and isinstance(child.value, str)}


CODE_AT = {"_no": 0, "_room": 1, "_refused": 0, "note": 3, "_note": 3, "_unwant": 2, "give_up": 1}
"""Which argument is the code, by the function's name."""


def codes_in(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            at = CODE_AT.get(function, 99)
            if len(node.args) > at:
                found |= literals(node.args[at])
            for keyword in node.keywords:
                found |= literals(keyword.value) if keyword.arg == "code" else set()
        elif isinstance(node, ast.Assign):
            targets = {child.id for target in node.targets for child in ast.walk(target) if isinstance(child, ast.Name)}
            found |= literals(node.value) if targets & {"code", "reason"} else set()
    return {code for code in found if re.fullmatch(r"[a-z]+(_[a-z]+)*", code)}


def codes() -> set[str]:
    modules = [path for path in (ROOT / "copier").glob("*.py") if not path.name.startswith(("settings", "policy", "export"))]
    found = set().union(*(codes_in(path) for path in modules))
    found |= {"limit_started", "unavailable", "invalid_request", "stop_passed", "target_passed"}  # Made or returned elsewhere.
    return found | {reason.value for reason in Reason} | {f"closed_by_{reason.name.lower()}" for reason in DealReason}


def test_every_code_of_a_receipt_is_explained() -> None:
    table = set(re.findall(r"^\| `([a-z_]+)`", text_of("rules.md").split("## Receipts")[1], re.MULTILINE))
    assert sorted(codes() - table) == [], "say in docs/rules.md what they mean"
    assert sorted(table - codes()) == [], "docs/rules.md explains what no receipt says"


# Links -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = {link for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")) if "://" not in link}
    assert [link for link in sorted(links) if not (page.parent / link).exists()] == []
