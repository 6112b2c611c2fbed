"""That every measurement runs: with the smallest counts, and nothing said about how fast anything is."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import absent

ROOT = Path(__file__).resolve().parent.parent
ALONE = ("floors", "cost", "hops", "stores", "latency", "sustained", "start", "gateways", "two_workers", "scale")


@pytest.fixture
def servers() -> None:
    if shutil.which("redis-server") is None:
        absent("redis-server is not installed")


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("name", ALONE)
def test_each_measurement_runs_alone_and_shows_a_table(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from benchmarks.measures import Bar

    monkeypatch.chdir(ROOT)
    module = importlib.import_module(f"benchmarks.{name}")
    with Bar(name, 40) as step:
        result = module.measure(step, tiny=True)
    assert "|---|" in module.tables(result)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.usefixtures("servers")
def test_a_short_soak_leaves_memory_and_files_where_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.soak import soak

    monkeypatch.chdir(ROOT)
    found = soak(0.3, followers=5, per_s=10.0)
    assert found is not None
    assert found.orders
    assert found.creeping == []


def test_a_budget_that_is_not_met_says_by_how_much() -> None:
    from benchmarks.budgets import budgets

    found = budgets({"latency": {"rows": [], "floors": {}}, "sustained": {"rows": []}, "start": {"help_s": 0.75}})
    assert found == [("`mt-copier --help`", "0.5 s", "0.750 s", "not met: 1.5 times")]


def test_the_numbers_in_the_page_have_their_mark_to_be_written_anew() -> None:
    from benchmarks.__main__ import BEGIN, DOC, END

    text = DOC.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)


def test_a_command_line_names_what_it_measures() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.latency", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "follower" in done.stdout
