"""What the paper broker says when it refuses: MT5's return code, MT4's error number, and words."""

from typing import NamedTuple

from copier.errors import Reason, Rejected
from copier.gateway import TRADE_FAILED
from copier.model import MarginMode

DONE = 10009
DONE_PARTIAL = 10010
NO_CHANGES = 10025
MT4_DONE = 0
MT4_NO_CHANGES = 1


class Refusal(NamedTuple):
    """One reason in the numbers of both platforms and in a trader's words."""

    mt5: int
    mt4: int
    words: str


REFUSALS: dict[Reason, Refusal] = {
    Reason.REQUOTE: Refusal(10004, 138, "Requote"),
    Reason.PRICE_CHANGED: Refusal(10020, 135, "Prices changed"),
    Reason.PRICE_OFF: Refusal(10021, 136, "No prices"),
    Reason.INVALID_PRICE: Refusal(10015, 129, "Invalid price"),
    Reason.INVALID_STOPS: Refusal(10016, 130, "Invalid stops"),
    Reason.INVALID_VOLUME: Refusal(10014, 131, "Invalid volume"),
    Reason.INVALID_FILLING: Refusal(10030, 3, "Unsupported filling mode"),
    Reason.INVALID_TICKET: Refusal(10036, 4108, "Position does not exist"),
    Reason.NO_MONEY: Refusal(10019, 134, "Insufficient margin"),
    Reason.MARKET_CLOSED: Refusal(10018, 132, "Market is closed"),
    Reason.TRADE_DISABLED: Refusal(10017, 133, "Trade is disabled"),
    Reason.AUTOTRADING_OFF: Refusal(10027, 4109, "AutoTrading is switched off in the terminal"),
    Reason.LONG_ONLY: Refusal(10042, 140, "Only long positions are allowed"),
    Reason.SHORT_ONLY: Refusal(10043, 4110, "Only short positions are allowed"),
    Reason.CLOSE_ONLY: Refusal(10044, 133, "Only closing is allowed"),
    Reason.FROZEN: Refusal(10029, 145, "Order or position is frozen"),
    Reason.LIMIT: Refusal(10040, 148, "Limit of open positions reached"),
    Reason.FIFO: Refusal(10045, 150, "Positions are closed in the order of their opening (FIFO)"),
    Reason.HEDGE_PROHIBITED: Refusal(10046, 149, "Opposite positions on one symbol are prohibited"),
    Reason.TOO_MANY_REQUESTS: Refusal(10024, 141, "Too many requests"),
    Reason.BUSY: Refusal(10028, 137, "Broker is busy"),
    Reason.STALE_TOKEN: Refusal(0, 0, "Another owner of the account has taken over"),
    Reason.TOO_LATE: Refusal(0, 0, "The request came later than its not-after"),
    Reason.REFUSED: Refusal(10006, 2, "Request rejected"),
}


def refused(
    reason: Reason,
    mode: MarginMode,
    account: str,
    *,
    words: str = "",
    mt5: int | None = None,
    mt4: int | None = None,
) -> Rejected:
    """Return the `Rejected` of a reason, with the number the account's platform would answer."""
    refusal = REFUSALS[reason]
    number, override = (refusal.mt4, mt4) if mode is MarginMode.MT4 else (refusal.mt5, mt5)
    code = number if override is None else override
    return Rejected(f"{TRADE_FAILED}: {words or refusal.words}", reason=reason, code=code, account=account)
