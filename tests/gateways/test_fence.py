"""One owner's token per terminal, whoever is attached to it."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from copier.errors import Reason, Rejected, Unavailable
from copier.gateways.fence import FileFence


def enter(path: Path, token: int) -> None:
    with FileFence(path, wait_s=0.1).admit(token):
        pass


def test_a_lower_token_is_kept_out_and_the_same_or_a_higher_one_let_in(tmp_path: Path) -> None:
    path = tmp_path / "owner.token"
    for token in (3, 3, 12, 12):
        enter(path, token)
    with pytest.raises(Rejected) as caught:
        enter(path, 11)
    assert caught.value.reason is Reason.STALE_TOKEN
    enter(path, 10**18)
    with pytest.raises(Rejected):
        enter(path, 10**18 - 1)


def test_nobody_enters_while_another_is_trading(tmp_path: Path) -> None:
    path = tmp_path / "owner.token"
    with FileFence(path).admit(1), pytest.raises(Unavailable, match="another process has been trading"):
        enter(path, 2)
    enter(path, 2)


def test_an_order_that_fails_inside_lets_the_next_one_in(tmp_path: Path) -> None:
    path = tmp_path / "owner.token"
    with pytest.raises(ZeroDivisionError), FileFence(path).admit(4):
        raise ZeroDivisionError
    enter(path, 4)
    with pytest.raises(Rejected):
        enter(path, 3)


def _die_inside(path: Path, token: int, inside: Any) -> None:
    with FileFence(path).admit(token):
        inside.set()
        multiprocessing.Event().wait()


def test_a_process_that_dies_inside_lets_the_next_one_in_and_its_token_stays(tmp_path: Path) -> None:
    path = tmp_path / "owner.token"
    context = multiprocessing.get_context("spawn")
    inside = context.Event()
    process = context.Process(target=_die_inside, args=(path, 7, inside), daemon=True)
    process.start()
    assert inside.wait(20)
    with pytest.raises(Unavailable):
        enter(path, 8)
    process.kill()
    process.join()
    with pytest.raises(Rejected):
        enter(path, 6)
    enter(path, 7)


def test_a_file_that_holds_something_else_stops_trading_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "owner.token"
    path.write_text(" nonsense")
    with pytest.raises(Unavailable, match="holds no owner's token but b'nonsense'"):
        enter(path, 1)


def test_a_folder_that_is_not_there_stops_trading_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be read"):
        enter(tmp_path / "nowhere" / "owner.token", 1)
