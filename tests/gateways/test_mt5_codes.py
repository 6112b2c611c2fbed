"""What MetaTrader 5's codes mean: one table for code, tests and documentation."""

from pathlib import Path

import pytest

from copier.errors import InvalidRequest, OutcomeUnknown, Reason, Rejected, Unavailable
from copier.gateways.mt5_codes import (
    PACKAGE_ERRORS,
    RETCODES,
    Outcome,
    Retry,
    breaks_connection,
    markdown,
    order_error,
    retcode_error,
)
from copier.gateways.paper_codes import REFUSALS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gateways" / "mt5.md"
AMBIGUOUS = {10011, 10012, 10031, 10037}
DONE = {10009, 10010, 10025}


def test_the_documentation_has_the_tables_the_code_has() -> None:
    text = PAGE.read_text(encoding="utf-8")
    written = text.partition("<!-- codes -->\n")[2].partition("<!-- /codes -->")[0]
    assert written == markdown() + "\n", "write what copier.gateways.mt5_codes.markdown() returns between the two marks"


def test_only_these_codes_are_a_success_and_only_these_leave_it_open() -> None:
    assert {code for code, each in RETCODES.items() if each.outcome is Outcome.DONE} == DONE
    assert {code for code, each in RETCODES.items() if each.outcome is Outcome.UNKNOWN} == AMBIGUOUS
    assert {code for code, each in RETCODES.items() if each.outcome is Outcome.PLACED} == {10008}


@pytest.mark.parametrize("code", sorted(RETCODES))
def test_a_refusal_has_a_reason_and_says_when_to_try_again_and_nothing_else_does(code: int) -> None:
    known = RETCODES[code]
    assert (known.reason is not None) == (known.retry is not None) == (known.outcome is Outcome.REJECTED)
    if known.reason is None:
        return
    error = retcode_error(code, "", "1@a")
    assert isinstance(error, Rejected)
    assert error.wants_fresh_price == (known.retry is Retry.FRESH_PRICE)
    assert error.wants_pause or known.retry is not Retry.PAUSE


@pytest.mark.parametrize("code", [*sorted(AMBIGUOUS), 0, 1, 10001, 10047, -1])
def test_what_is_not_surely_refused_is_unknown(code: int) -> None:
    assert isinstance(retcode_error(code, "", "1@a"), OutcomeUnknown)


@pytest.mark.parametrize("reason", sorted(set(REFUSALS) - {Reason.STALE_TOKEN, Reason.TOO_LATE}))
def test_the_simulated_broker_and_the_table_mean_the_same_by_a_code(reason: Reason) -> None:
    assert RETCODES[REFUSALS[reason].mt5].reason is reason


def test_no_answer_means_unsent_only_before_the_sending() -> None:
    kinds = {code: type(order_error(code, "", "1@a")) for code in [*PACKAGE_ERRORS, -9, -99]}
    unsent = {-2: InvalidRequest, -8: Rejected, -10004: Unavailable}
    assert kinds == dict.fromkeys(kinds, OutcomeUnknown) | unsent
    assert {code for code, each in PACKAGE_ERRORS.items() if each.outcome is Outcome.REJECTED} == set(unsent)


def test_an_error_of_the_connection_ends_the_child_and_others_do_not() -> None:
    assert {code for code in PACKAGE_ERRORS if breaks_connection(code)} == {-10000, -10001, -10002, -10003, -10004, -10005}
