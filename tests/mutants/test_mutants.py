"""Every rule of the protocol that is taken out is missed by the simulated histories, and the table tells of all of them."""

import pytest

from tests.mutants.__main__ import DOCS
from tests.mutants.hunt import hunt
from tests.mutants.mutants import INVARIANTS, MUTANTS, Mutant

each_mutant = pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])


@each_mutant
def test_a_mutant_finds_in_the_shipped_code_what_it_replaces(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.apply(monkeypatch)
    for condition in mutant.flavour.conditions:
        condition(monkeypatch)
    assert mutant.flavour.plan(0).steps
    assert set(mutant.breaks) <= INVARIANTS.keys()


def test_the_table_lists_exactly_the_mutants_there_are_and_none_that_got_away() -> None:
    rows = [line.split(" | ") for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    assert [row[0].removeprefix("| ") for row in rows] == [mutant.name for mutant in MUTANTS]
    assert [row[1] for row in rows] == [mutant.without for mutant in MUTANTS]
    assert [row[0] for row in rows if row[3] == "nothing"] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@each_mutant
def test_a_mutant_is_caught_within_its_bound(mutant: Mutant) -> None:
    caught = hunt(mutant, 0)
    assert caught.invariant in mutant.breaks, f"{mutant.without}: not noticed in {caught.histories} histories"
