"""Loss limits as a state machine: a reference per period, how long it has been breached, whether it has fired.

`observe` is called with every good read of the account. The state is a record the engine stores, so that the day's
reference, a breach under way and a limit that has fired survive a restart. Money paid in or out moves the reference; a
broker's credit is not the trader's money and counts nowhere.

A period starts at `reset_at` on the wall clock of its zone. Where daylight saving skips that time, the period starts at the
first moment after the gap; where the time comes twice, at the first of the two and not again at the second.
"""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec

from copier.facts import LossRoom
from copier.model import ZERO, Record
from copier.policy import LossAction, LossLimit, Metric, Period, Rearm, Reference
from copier.steps import plain

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE = timedelta(minutes=1)
NEVER_MS = 253_402_300_799_000
"""The end of the year 9999: a lifetime has no next period."""
LATE_MS = 60_000
"""A reference read later than this after the reset is not the reset's: the higher of the reads around it counts."""


class Money(Record, frozen=True, kw_only=True):
    """What one good read of the account says."""

    balance: Decimal
    equity: Decimal
    credit: Decimal = ZERO
    deposits: Decimal = ZERO
    """All that was ever paid in less all that was paid out, from any fixed start; profit is no deposit.

    Read it no earlier than the balance: a withdrawal that is missing here looks like a loss.
    """
    now_ms: int

    @property
    def own_equity(self) -> Decimal:
        """Equity without the broker's credit."""
        return self.equity - self.credit


class LimitState(Record, frozen=True, kw_only=True):
    """Where one loss limit stands; to be stored whenever an observation has a code, and now and then between."""

    terms: str
    """The settings that shape the period; when they change, it starts anew."""
    start_ms: int
    end_ms: int
    reference: Decimal
    """What the loss is measured from, deposits included."""
    deposits: Decimal
    """The deposits the reference includes."""
    balance: Decimal
    """At the last read, as is the next."""
    own_equity: Decimal
    breach_since_ms: int | None = None
    fired_ms: int | None = None
    """When the limit fired; None while it is armed."""


class Observation(Record, frozen=True, kw_only=True):
    """What one read of the account means to one limit."""

    state: LimitState
    action: LossAction | None = None
    """What to do now: set once, when the limit fires. `LimitState.fired_ms` tells it ever after."""
    room: LossRoom
    code: str = ""
    """What has changed: `limit_started`, `limit_breached`, `limit_recovered`, `limit_fired`; empty if nothing."""
    message: str = ""
    numbers: dict[str, str] = {}


def observe(limit: LossLimit, state: LimitState | None, money: Money) -> Observation:
    """Return where the limit stands after a good read of the account."""
    before = state
    if state is None or state.terms != _terms(limit) or money.now_ms >= state.end_ms:
        state, code, message = _started(limit, state, money)
    else:
        state, code, message = _moved(state, money), "", ""
    loss, amount = _loss(limit, state), _amount(limit, state)
    breached, fired = loss >= amount and loss > 0, state.fired_ms is not None
    since = state.breach_since_ms
    if not breached:
        if since is not None and not fired:
            code, message = "limit_recovered", f"limit {limit.name}: the loss is back inside, {_sums(loss, amount)}"
        since = None
    elif since is None or since > money.now_ms:
        since = money.now_ms
        if not fired:
            code, message = "limit_breached", f"limit {limit.name} is reached, {_sums(loss, amount)}"
    action = None
    if breached and not fired and since is not None and Decimal(money.now_ms - since) >= limit.persist_s * 1000:
        action, code = limit.action, "limit_fired"
        message = f"limit {limit.name} has fired, {_sums(loss, amount)}: {limit.action.value}"
    after = msgspec.structs.replace(state, breach_since_ms=since, fired_ms=money.now_ms if action else state.fired_ms)
    return Observation(
        state=before if before == after and before is not None else after,
        action=action,
        room=LossRoom(name=limit.name, metric=limit.metric, left=amount - loss, fired=after.fired_ms is not None),
        code=code,
        message=message,
        numbers={"loss": plain(loss), "amount": plain(amount), "reference": plain(state.reference)} if code else {},
    )


def active(limit: LossLimit, state: LimitState | None) -> LossAction | None:
    """Return what a limit that has fired asks for until it is armed again."""
    return limit.action if state is not None and state.fired_ms is not None else None


def rearm(limit: LossLimit, state: LimitState, money: Money) -> LimitState:
    """Return the limit armed again by hand: a person takes the loss as it is, so the reference is taken anew from here."""
    return LimitState(
        terms=_terms(limit),
        start_ms=state.start_ms,
        end_ms=state.end_ms,
        reference=_reference(limit, money.balance, money.own_equity),
        deposits=money.deposits,
        balance=money.balance,
        own_equity=money.own_equity,
    )


def room(limit: LossLimit, state: LimitState) -> LossRoom:
    """Return what the limit leaves as of the last read."""
    left = _amount(limit, state) - _loss(limit, state)
    return LossRoom(name=limit.name, metric=limit.metric, left=left, fired=state.fired_ms is not None)


# Periods ---------------------------------------------------------------------------------------------------------------


def period_of(limit: LossLimit, now_ms: int) -> tuple[int, int]:
    """Return the start and the end of the period that `now_ms` lies in, UTC milliseconds, the end not included."""
    if limit.period is Period.LIFETIME:
        return now_ms, NEVER_MS
    local = (_EPOCH + timedelta(milliseconds=now_ms)).astimezone(ZoneInfo(limit.zone)).date()
    starts = sorted({_reset_ms(day, limit.reset_at, limit.zone) for day in _first_days(limit.period, local)})
    return max(ms for ms in starts if ms <= now_ms), min(ms for ms in starts if ms > now_ms)


def _first_days(period: Period, day: date) -> list[date]:
    """Return the first days of the periods around `day`."""
    if period is Period.DAY:
        return [day + timedelta(days=n) for n in (-2, -1, 0, 1, 2)]
    if period is Period.WEEK:
        monday = day - timedelta(days=day.weekday())
        return [monday + timedelta(weeks=n) for n in (-1, 0, 1)]
    first = day.replace(day=1)
    next_first = (first + timedelta(days=32)).replace(day=1)
    return [(first - timedelta(days=1)).replace(day=1), first, next_first]


@lru_cache(maxsize=1024)
def _reset_ms(day: date, minutes: int, zone: str) -> int:
    """Return the moment a zone's wall clock first shows, or first has passed, this time of this day."""
    wall = datetime(day.year, day.month, day.day, minutes // 60, minutes % 60, tzinfo=ZoneInfo(zone))
    first = wall.astimezone(UTC)
    if first.astimezone(ZoneInfo(zone)).replace(tzinfo=None) != wall.replace(tzinfo=None):
        first = _after_gap(wall, zone)
    return (first - _EPOCH) // timedelta(milliseconds=1)


def _after_gap(wall: datetime, zone: str) -> datetime:
    """Return the moment the clocks were put forward over `wall`, a time that does not exist."""
    # Read with the offset from after the change it lies before the change, and the other way round.
    low, high = wall.replace(fold=1).astimezone(UTC), wall.replace(fold=0).astimezone(UTC)
    new = high.astimezone(ZoneInfo(zone)).utcoffset()
    while high - low > _MINUTE:
        middle = low + ((high - low) / 2 // _MINUTE) * _MINUTE
        if middle.astimezone(ZoneInfo(zone)).utcoffset() == new:
            high = middle
        else:
            low = middle
    return high


# References and losses -------------------------------------------------------------------------------------------------


def _terms(limit: LossLimit) -> str:
    return f"{limit.period.value} {limit.reset_at} {limit.zone} {limit.reference.value}"


def _started(limit: LossLimit, old: LimitState | None, money: Money) -> tuple[LimitState, str, str]:
    start, end = period_of(limit, money.now_ms)
    reference = _reference(limit, money.balance, money.own_equity)
    late = money.now_ms - start
    why = ""
    fired = old.fired_ms if old else None
    if old and old.terms == _terms(limit):
        if late > LATE_MS:
            paid = money.deposits - old.deposits
            reference = max(reference, _reference(limit, old.balance + paid, old.own_equity + paid))
            why = f", the higher of the reads around the reset, as the account was read {late // 1000} s after it"
        if limit.rearm is Rearm.NEXT_PERIOD:
            fired = None
    state = LimitState(
        terms=_terms(limit),
        start_ms=start,
        end_ms=end,
        reference=reference,
        deposits=money.deposits,
        balance=money.balance,
        own_equity=money.own_equity,
        fired_ms=fired,
    )
    return state, "limit_started", f"limit {limit.name}: a new {limit.period.value} from {plain(reference)}{why}"


def _moved(state: LimitState, money: Money) -> LimitState:
    """Return the state at a new read, the reference moved by what was paid in or out since."""
    return msgspec.structs.replace(
        state,
        reference=state.reference + money.deposits - state.deposits,
        deposits=money.deposits,
        balance=money.balance,
        own_equity=money.own_equity,
    )


def _reference(limit: LossLimit, balance: Decimal, own_equity: Decimal) -> Decimal:
    match limit.reference:
        case Reference.BALANCE:
            return balance
        case Reference.EQUITY:
            return own_equity
        case Reference.HIGHER:
            return max(balance, own_equity)


def _loss(limit: LossLimit, state: LimitState) -> Decimal:
    match limit.metric:
        case Metric.BALANCE:
            return state.reference - state.balance
        case Metric.EQUITY:
            return state.reference - state.own_equity
        case Metric.BALANCE_MINUS_EQUITY:
            return state.balance - state.own_equity


def _amount(limit: LossLimit, state: LimitState) -> Decimal:
    if limit.money is not None:
        return limit.money
    return max(state.reference, ZERO) * (limit.percent or ZERO) / 100


def _sums(loss: Decimal, amount: Decimal) -> str:
    return f"{plain(round(loss, 2))} lost of {plain(round(amount, 2))} allowed"
