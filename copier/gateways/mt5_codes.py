"""What MetaTrader 5's return codes and the package's error codes mean for an order: done, surely not executed, or unknown."""

from enum import StrEnum
from typing import NamedTuple

from copier.errors import GatewayError, InvalidRequest, OutcomeUnknown, Reason, Rejected, Unavailable
from copier.gateway import TRADE_FAILED


class Outcome(StrEnum):
    """What a return code says about the order."""

    DONE = "done"
    PLACED = "placed"
    """Accepted, not yet filled: to be followed until it is decided."""
    REJECTED = "not executed"
    UNKNOWN = "unknown"


class Retry(StrEnum):
    """When the same order may succeed after a refusal."""

    FRESH_PRICE = "at once, with a fresh price"
    PAUSE = "after a pause"
    OTHER_FILLING = "at once, with another filling mode"
    READ_AGAIN = "after reading the position again"
    NEVER = "not unchanged"


class Retcode(NamedTuple):
    """One return code of the trade server."""

    name: str
    outcome: Outcome
    words: str
    reason: Reason | None = None
    retry: Retry | None = None


def _no(name: str, reason: Reason, words: str, retry: Retry = Retry.NEVER) -> Retcode:
    return Retcode(name, Outcome.REJECTED, words, reason, retry)


RETCODES: dict[int, Retcode] = {
    10004: _no("REQUOTE", Reason.REQUOTE, "Requote", Retry.FRESH_PRICE),
    10006: _no("REJECT", Reason.REFUSED, "Request rejected by the dealer"),
    10007: _no("CANCEL", Reason.REFUSED, "Request cancelled by the trader"),
    10008: Retcode("PLACED", Outcome.PLACED, "Order placed"),
    10009: Retcode("DONE", Outcome.DONE, "Done"),
    10010: Retcode("DONE_PARTIAL", Outcome.DONE, "Done in part: the filled volume counts"),
    10011: Retcode("ERROR", Outcome.UNKNOWN, "Error while the request was processed"),
    10012: Retcode("TIMEOUT", Outcome.UNKNOWN, "Request timed out"),
    10013: _no("INVALID", Reason.REFUSED, "Invalid request"),
    10014: _no("INVALID_VOLUME", Reason.INVALID_VOLUME, "Invalid volume"),
    10015: _no("INVALID_PRICE", Reason.INVALID_PRICE, "Invalid price", Retry.FRESH_PRICE),
    10016: _no("INVALID_STOPS", Reason.INVALID_STOPS, "Invalid stops"),
    10017: _no("TRADE_DISABLED", Reason.TRADE_DISABLED, "Trade is disabled"),
    10018: _no("MARKET_CLOSED", Reason.MARKET_CLOSED, "Market is closed"),
    10019: _no("NO_MONEY", Reason.NO_MONEY, "Insufficient margin"),
    10020: _no("PRICE_CHANGED", Reason.PRICE_CHANGED, "Prices changed", Retry.FRESH_PRICE),
    10021: _no("PRICE_OFF", Reason.PRICE_OFF, "No prices", Retry.FRESH_PRICE),
    10022: _no("INVALID_EXPIRATION", Reason.REFUSED, "Invalid expiration"),
    10023: _no("ORDER_CHANGED", Reason.BUSY, "Order state changed meanwhile", Retry.READ_AGAIN),
    10024: _no("TOO_MANY_REQUESTS", Reason.TOO_MANY_REQUESTS, "Too many requests", Retry.PAUSE),
    10025: Retcode("NO_CHANGES", Outcome.DONE, "Nothing to change: it is as asked"),
    10026: _no("SERVER_DISABLES_AT", Reason.AUTOTRADING_OFF, "The broker forbids automated trading on this account"),
    10027: _no("CLIENT_DISABLES_AT", Reason.AUTOTRADING_OFF, "The Algo Trading button of the terminal is off"),
    10028: _no("LOCKED", Reason.BUSY, "Request is being processed", Retry.PAUSE),
    10029: _no("FROZEN", Reason.FROZEN, "Order or position is frozen", Retry.PAUSE),
    10030: _no("INVALID_FILL", Reason.INVALID_FILLING, "Unsupported filling mode", Retry.OTHER_FILLING),
    10031: Retcode("CONNECTION", Outcome.UNKNOWN, "No connection with the trade server"),
    10032: _no("ONLY_REAL", Reason.TRADE_DISABLED, "Only real accounts may do this"),
    10033: _no("LIMIT_ORDERS", Reason.LIMIT, "Limit of orders reached"),
    10034: _no("LIMIT_VOLUME", Reason.LIMIT, "Limit of volume reached for this symbol"),
    10035: _no("INVALID_ORDER", Reason.REFUSED, "Wrong or prohibited type of order"),
    10036: _no("POSITION_CLOSED", Reason.INVALID_TICKET, "Position is closed already", Retry.READ_AGAIN),
    10037: Retcode("SKIPPED", Outcome.UNKNOWN, "Skipped by the server"),
    10038: _no("INVALID_CLOSE_VOLUME", Reason.INVALID_VOLUME, "Less is open than should be closed", Retry.READ_AGAIN),
    10039: _no("CLOSE_ORDER_EXIST", Reason.BUSY, "Another order to close this position is under way", Retry.PAUSE),
    10040: _no("LIMIT_POSITIONS", Reason.LIMIT, "Limit of open positions reached"),
    10041: _no("REJECT_CANCEL", Reason.REFUSED, "Activation rejected, order cancelled"),
    10042: _no("LONG_ONLY", Reason.LONG_ONLY, "Only long positions are allowed"),
    10043: _no("SHORT_ONLY", Reason.SHORT_ONLY, "Only short positions are allowed"),
    10044: _no("CLOSE_ONLY", Reason.CLOSE_ONLY, "Only closing is allowed"),
    10045: _no("FIFO_CLOSE", Reason.FIFO, "Positions are closed in the order of their opening (FIFO)"),
    10046: _no("HEDGE_PROHIBITED", Reason.HEDGE_PROHIBITED, "Opposite positions on one symbol are prohibited"),
}
"""By the server's number. What is not here is unknown."""

INVALID_FILL = 10030
INVALID_STOPS = 10016
NO_CHANGES = 10025


class PackageError(NamedTuple):
    """One code of the package's `last_error`, where a call returned nothing."""

    name: str
    outcome: Outcome
    """Of an order: whether it may have left. Anything but surely not is unknown."""
    words: str


OK = 1
INVALID_PARAMS = -2
NOT_FOUND = -4
AUTH_FAILED = -6
AUTO_TRADING_DISABLED = -8
NO_CONNECTION = -10004

PACKAGE_ERRORS: dict[int, PackageError] = {
    1: PackageError("RES_S_OK", Outcome.UNKNOWN, "Success, yet no result"),
    -1: PackageError("RES_E_FAIL", Outcome.UNKNOWN, "The call failed"),
    -2: PackageError("RES_E_INVALID_PARAMS", Outcome.REJECTED, "Invalid arguments"),
    -3: PackageError("RES_E_NO_MEMORY", Outcome.UNKNOWN, "Out of memory"),
    -4: PackageError("RES_E_NOT_FOUND", Outcome.UNKNOWN, "Not found"),
    -5: PackageError("RES_E_INVALID_VERSION", Outcome.UNKNOWN, "The terminal's version does not fit the package: update both"),
    -6: PackageError("RES_E_AUTH_FAILED", Outcome.UNKNOWN, "Login refused: mend login, password or server"),
    -7: PackageError("RES_E_UNSUPPORTED", Outcome.UNKNOWN, "Not supported, or a one-time password is needed"),
    -8: PackageError(
        "RES_E_AUTO_TRADING_DISABLED",
        Outcome.REJECTED,
        'The terminal\'s option "Disable automatic trading via external Python API" is on',
    ),
    -10000: PackageError("RES_E_INTERNAL_FAIL", Outcome.UNKNOWN, "The connection to the terminal failed"),
    -10001: PackageError("RES_E_INTERNAL_FAIL_SEND", Outcome.UNKNOWN, "The connection to the terminal broke while sending"),
    -10002: PackageError("RES_E_INTERNAL_FAIL_RECEIVE", Outcome.UNKNOWN, "The connection to the terminal broke while receiving"),
    -10003: PackageError("RES_E_INTERNAL_FAIL_INIT", Outcome.UNKNOWN, "The terminal could not be started or reached"),
    -10004: PackageError("RES_E_INTERNAL_FAIL_CONNECT", Outcome.REJECTED, "There is no connection to the terminal"),
    -10005: PackageError("RES_E_INTERNAL_FAIL_TIMEOUT", Outcome.UNKNOWN, "The terminal did not answer in time"),
}
"""By the package's number. What is not here is unknown."""


def breaks_connection(code: int) -> bool:
    """Say whether the connection to the terminal is gone for good after this code of `last_error`."""
    return code <= -10000


def order_error(code: int, text: str, account: str) -> GatewayError:
    """Return what it means that `order_send` returned nothing and `last_error` says this."""
    known = PACKAGE_ERRORS.get(code)
    message = f"{known.words if known else 'Unknown error'} ({code}: {text})"
    match code:
        case -2:
            return InvalidRequest(message, account=account)
        case -8:
            return Rejected(f"{TRADE_FAILED}: {message}", reason=Reason.AUTOTRADING_OFF, code=code, account=account)
        case -10004:
            return Unavailable(message, account=account)
        case _:
            return OutcomeUnknown(message, account=account)


def retcode_error(retcode: int, comment: str, account: str) -> GatewayError:
    """Return the error of a return code that is neither done nor placed; one nobody knows is unknown."""
    known = RETCODES.get(retcode)
    words = known.words if known else "Unknown return code"
    detail = f" ({retcode}: {comment})" if comment else f" ({retcode})"
    if known is None or known.reason is None:
        return OutcomeUnknown(f"{words}{detail}", account=account)
    return Rejected(f"{TRADE_FAILED}: {words}{detail}", reason=known.reason, code=retcode, account=account)


def markdown() -> str:
    """Return both tables as they stand in the documentation."""
    lines = ["| code | name | outcome | reason | again? | in words |", "|---|---|---|---|---|---|"]
    for code, each in sorted(RETCODES.items()):
        reason, retry = each.reason or "", each.retry or ""
        lines.append(f"| {code} | {each.name} | {each.outcome} | {reason} | {retry} | {each.words} |")
    lines += ["", "| `last_error` | name | of an order | in words |", "|---|---|---|---|"]
    for code, error in sorted(PACKAGE_ERRORS.items(), reverse=True):
        lines.append(f"| {code} | {error.name} | {error.outcome} | {error.words} |")
    return "\n".join(lines)
