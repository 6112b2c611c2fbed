"""A short share of the runs on real processes: the long ones are `make chaos`."""

import shutil
from pathlib import Path

import pytest

from tests.chaos.judge import judge, wrong_for_ever
from tests.chaos.runs import play, postgres_programs
from tests.conftest import absent


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", [0, 1], ids=["sqlite", "postgresql"])
async def test_real_processes_under_faults_lose_nothing_and_double_nothing(number: int, tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        absent("redis-server is not installed")
    if number and not postgres_programs():
        absent("PostgreSQL is not installed")
    outcome = await play(1, number, tmp_path, faults=1)
    assert outcome.troubles == []
    assert outcome.kills >= 5


ROW = ["EURUSD", "buy", "0.10", "0", "0", "0"]
FOREIGN = [["GBPUSD", "buy", "0.77", "0", "0", "1"]]


def follower(mode: str = "hedging", **more: object) -> dict[str, object]:
    about = {"login": 101, "mode": mode, "ours": [ROW], "foreign": FOREIGN, "expected_foreign": FOREIGN, "openings": {"a": 1}}
    return {**about, **more}


@pytest.mark.parametrize("mode", ["hedging", "netting", "mt4"])
def test_the_judge_finds_nothing_where_a_follower_holds_what_its_master_holds(mode: str) -> None:
    assert judge({"opened": 1, "master": [ROW], "followers": [follower(mode)]}) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"ours": []}, "lacks 1"),
        ({"ours": [ROW, ROW]}, "too much"),
        ({"ours": [], "mode": "netting"}, "expected"),
        ({"foreign": []}, "another hand"),
        ({"openings": {"a": 2}}, "executed a 2 times"),
        ({"openings": {"a": 1, "b": 1}}, "opened 2, the master 1"),
    ],
)
def test_the_judge_tells_what_is_lost_doubled_or_touched(wrong: dict[str, object], words: str) -> None:
    report = {"opened": 1, "master": [ROW], "followers": [follower(**wrong)]}  # type: ignore[arg-type]
    assert any(words in trouble for trouble in judge(report))
    assert bool(wrong_for_ever(report)) is (not wrong.keys() & {"ours"})
