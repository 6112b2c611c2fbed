"""Every break of the Expert Advisors still fits the sources, and of a few it is tried that a test notices."""

import shutil
from pathlib import Path

import pytest

from tests.mql.mutants import MQL, MUTANTS, SHORT, Mutant, Verdict, hunt
from tests.mql.stage import need_gxx


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_breaks_one_place_of_the_sources(mutant: Mutant, tmp_path: Path) -> None:
    source, copy = MQL / mutant.file, tmp_path / mutant.file
    copy.parent.mkdir(parents=True)
    shutil.copy(source, copy)
    mutant.apply(tmp_path)
    assert copy.read_bytes() != source.read_bytes()


@pytest.mark.server
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mutant", [each for each in MUTANTS if each.name in SHORT], ids=lambda mutant: mutant.name)
def test_a_test_notices_what_is_broken(mutant: Mutant) -> None:
    need_gxx()
    verdict: Verdict = hunt(mutant)
    assert verdict.killed, verdict.by
