"""The twenty-four traps that copiers fall into, each held by a test that fails once its guard is taken out."""

import logging
import re
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.traps import test_traps_of_news, test_traps_of_orders
from tests.traps.springs import Removal, removals_of

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs" / "reliability.md"
TRAPS: dict[str, Callable[[], None]] = {
    name: test
    for module in (test_traps_of_news, test_traps_of_orders)
    for name, test in vars(module).items()
    if name.startswith("test_trap_")
}
RUNS = [
    pytest.param(trap, removal, id=f"{name[5:12]}{f'-{index}' if index else ''}")
    for name, trap in sorted(TRAPS.items())
    for index, removal in enumerate(removals_of(trap))
]


def test_there_is_exactly_one_test_for_each_of_the_24_traps() -> None:
    assert [name[10:12] for name in sorted(TRAPS)] == [f"{number:02}" for number in range(1, 25)]


def test_every_trap_says_how_its_guard_is_taken_out() -> None:
    assert [name for name, trap in TRAPS.items() if not removals_of(trap)] == []


def test_the_document_lists_the_traps_by_the_names_of_their_tests() -> None:
    listed = re.findall(r"`(test_trap_\w+)`", DOCS.read_text(encoding="utf-8"))
    assert listed == sorted(TRAPS)


@pytest.mark.slow
@pytest.mark.parametrize(("trap", "removal"), RUNS)
def test_every_trap_is_sprung_without_its_guard(
    trap: Callable[[], None], removal: Removal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    removal(monkeypatch)
    with pytest.raises(AssertionError) as sprung:
        trap()
    failed_in = Path(traceback.extract_tb(sprung.value.__traceback__)[-1].filename)
    assert failed_in.parent == HERE, "the trap's own sentence must have become false"
    crashes = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert crashes == [], "the engine must run into the trap, not break on its way"
