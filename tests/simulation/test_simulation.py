"""Whole histories by seed: deaths, freezes, faults of brokers, Redis and disk, judged by the brokers' own logs."""

import re
from pathlib import Path

import pytest

from tests.simulation.__main__ import main, play, tell
from tests.simulation.history import History
from tests.simulation.judge import judge
from tests.simulation.lives import LIVES, deaths, die
from tests.simulation.plan import make_plan
from tests.simulation.shrink import shrink

SHORT = range(20)
LONG = range(20, 1_020)
DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("seed", SHORT)
def test_a_history_ends_with_nothing_doubled_and_nothing_lost(seed: int) -> None:
    assert not play(seed).wrong, tell(seed)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", LONG)
def test_a_thousand_histories_end_with_nothing_doubled_and_nothing_lost(seed: int) -> None:
    assert not play(seed).wrong, tell(seed)


@pytest.mark.parametrize("seed", [2, 3, 10])
def test_a_seed_gives_the_same_history_to_the_byte(seed: int) -> None:
    first, second = History(make_plan(seed)), History(make_plan(seed))
    first.run(judge)
    second.run(judge)
    assert "\n".join(first.trace).encode() == "\n".join(second.trace).encode()
    assert first.trace


def test_any_number_of_processes_gives_the_same_numbers(tmp_path: Path) -> None:
    pages = []
    for jobs in ("1", "2"):
        page = tmp_path / jobs
        assert main(["--histories", "3", "--seed", "1", "--jobs", jobs, "--write", str(page)]) == 0
        pages.append(page.read_text().replace(str(page), "").replace(f"--jobs {jobs}", ""))
    assert pages[0] == pages[1]


@pytest.mark.parametrize("name", LIVES)
def test_a_death_at_some_awaits_of_a_life_doubles_and_loses_nothing(name: str) -> None:
    assert not [words for death in deaths(name, every=211) for words in die(death).wrong]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", list(LIVES)[:9:2])
def test_a_death_at_every_await_of_a_life_doubles_and_loses_nothing(name: str) -> None:
    assert not [words for death in deaths(name) for words in die(death).wrong]


def test_a_failing_history_is_shrunk_to_what_it_takes() -> None:
    plan = make_plan(6)
    culprit = next(step for step in plan.steps if step.what == "close all")
    shorter = shrink(plan, lambda candidate: culprit in candidate.steps)
    assert shorter.steps == (culprit,)
    assert len(shorter.followers) == 1


def test_the_numbers_that_are_shown_come_from_a_run_without_a_violation() -> None:
    text = (DOCS / "reliability-numbers.md").read_text()
    numbers = {name: value.replace(",", "") for name, value in re.findall(r"^\| (.+?) \| (.+?) \|$", text, re.MULTILINE)}
    asked = re.search(r"python -m tests\.simulation .*--histories (\d+) --seed (\d+)", text)
    assert asked is not None
    histories, seed = int(asked[1]), int(asked[2])
    assert (numbers["histories"], numbers["violations"]) == (str(histories), "0")
    assert numbers["seeds"] == f"{seed} to {seed + histories - 1}"
    assert "reliability-numbers.md" in (DOCS / "reliability.md").read_text()
