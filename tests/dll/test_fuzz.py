"""A short share of the fuzzing: `python -m tests.dll.fuzz --seconds 3600` is the long one."""

from pathlib import Path

import pytest

from tests.dll.fuzz import fuzz, runs_of

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


@pytest.mark.parametrize("target", ["answers", "frames"])
def test_no_bytes_break_a_promise(target: str, tmp_path: Path) -> None:
    kept, said = fuzz(target, 10, tmp_path)
    assert kept, said[-4000:]
    assert runs_of(said) > 50, said[-2000:]
    if target == "frames":
        assert int(said.split("orders executed: ")[1].split()[0]) > 0
