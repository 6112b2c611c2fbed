"""Every error of the product, divided by what the caller may do next.

CopierError
├── SettingsError        mend the settings; the message names path, value and what was expected
├── ProtocolError        a frame nobody can understand: drop it, close the connection
├── Fenced               another owner has taken over: leave, do nothing more
├── StoreError           stream, ledger or another store is out of reach: do not trade, try again
└── GatewayError         one account's trouble; carries the account
    ├── Unavailable      nothing was done: safe to try again later (a failed read is one of these)
    ├── InvalidRequest   nothing was done: mend the request, each mistake has a path
    ├── Rejected         surely not executed: the reason says whether trying again makes sense
    └── OutcomeUnknown   may or may not have been executed: ask the broker before anything else
"""

from enum import StrEnum

import msgspec


class CopierError(Exception):
    """The root of the tree above."""


class SettingsError(CopierError):
    """The settings cannot be used; `problems` lists every mistake at once."""

    def __init__(self, problems: list[str], source: str = "settings") -> None:
        self.problems = problems
        self.source = source
        count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        super().__init__(f"{source}: {count}\n" + "\n".join(f"  {problem}" for problem in problems))


class ProtocolError(CopierError):
    """Bytes that are not a frame of ours."""


class Fenced(CopierError):
    """Someone with a higher token or epoch holds this role now."""


class StoreError(CopierError):
    """A store did not answer, or did not keep what it was given."""


class GatewayError(CopierError):
    """Trouble with one account; `account` is its name in the settings or its login@server."""

    def __init__(self, message: str, *, account: str = "") -> None:
        self.message = message
        self.account = account
        super().__init__(f"{account}: {message}" if account else message)


class Unavailable(GatewayError):
    """Nothing was done and nothing was learnt; the account cannot be reached just now."""


class Detail(msgspec.Struct, frozen=True):
    """One mistake in a request: where it is, and what was expected there."""

    path: tuple[str, ...]
    message: str


class InvalidRequest(GatewayError):
    """The request breaks a rule that holds at every broker; nothing was sent."""

    def __init__(self, message: str, *, account: str = "", details: tuple[Detail, ...] = ()) -> None:
        self.details = details
        super().__init__(message, account=account)


class Reason(StrEnum):
    """Why a broker refused, in terms that hold for MT4, MT5 and the Manager alike."""

    REQUOTE = "requote"
    PRICE_CHANGED = "price_changed"
    PRICE_OFF = "price_off"
    INVALID_PRICE = "invalid_price"
    INVALID_STOPS = "invalid_stops"
    INVALID_VOLUME = "invalid_volume"
    INVALID_FILLING = "invalid_filling"
    INVALID_TICKET = "invalid_ticket"
    NO_MONEY = "no_money"
    MARKET_CLOSED = "market_closed"
    TRADE_DISABLED = "trade_disabled"
    AUTOTRADING_OFF = "autotrading_off"
    LONG_ONLY = "long_only"
    SHORT_ONLY = "short_only"
    CLOSE_ONLY = "close_only"
    FROZEN = "frozen"
    LIMIT = "limit"
    FIFO = "fifo"
    HEDGE_PROHIBITED = "hedge_prohibited"
    TOO_MANY_REQUESTS = "too_many_requests"
    BUSY = "busy"
    STALE_TOKEN = "stale_token"
    TOO_LATE = "too_late"
    REFUSED = "refused"


_FRESH_PRICE = {Reason.REQUOTE, Reason.PRICE_CHANGED, Reason.PRICE_OFF, Reason.INVALID_PRICE}
_LATER = {Reason.TOO_MANY_REQUESTS, Reason.BUSY, Reason.FROZEN, Reason.TOO_LATE}


class Rejected(GatewayError):
    """The broker or the far end said no; the order was surely not executed.

    `reason` classifies, `code` is the broker's own number (TRADE_RETCODE_* or MT4 error), 0 where it has none.
    """

    def __init__(self, message: str, *, reason: Reason = Reason.REFUSED, code: int = 0, account: str = "") -> None:
        self.reason = reason
        self.code = code
        super().__init__(message, account=account)

    @property
    def wants_fresh_price(self) -> bool:
        """True where the same order may succeed at once with a new quote."""
        return self.reason in _FRESH_PRICE

    @property
    def wants_pause(self) -> bool:
        """True where the same order may succeed after a pause."""
        return self.reason in _LATER


class OutcomeUnknown(GatewayError):
    """The order left and no certain answer came back; it may still be executed until its not-after has passed."""
