"""What can go wrong between an engine and a broker, each a knob for the next calls or until it is switched off."""

from collections import deque
from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum

import msgspec

from copier.errors import Reason
from copier.model import Record


class Operation(StrEnum):
    """The calls a fault can be laid on."""

    ACCOUNT = "account"
    POSITIONS = "positions"
    QUOTE = "quote"
    EXECUTE = "execute"
    CLOSE = "close"
    MODIFY = "modify"
    DEALS = "deals"
    SYMBOLS = "symbols"


class Answer(StrEnum):
    """What becomes of the answer to a request that left."""

    GIVEN = "given"
    LOST = "lost"
    """The connection breaks after the server has acted: unknown at once."""
    NEVER = "never"
    """Silence until the call's own deadline."""


class Stops(StrEnum):
    """What a server does with stop and target of an opening order."""

    TAKEN = "taken"
    IGNORED = "ignored"
    REFUSED = "refused"


class Fault(Record, frozen=True, kw_only=True):
    """Everything that may go wrong in one call; `a | b` is both. Without any field set, nothing does."""

    reason: Reason | None = None
    """The broker refuses."""
    code: int | None = None
    fraction: Decimal | None = None
    """The broker fills this part, rounded down to the step, at least one step."""
    slip_points: int = 0
    """The fill is worse than the quote by this much."""
    stops: Stops = Stops.TAKEN
    comment: str | None = None
    """The broker writes this instead of the comment."""
    comment_max: int | None = None
    comment_suffix: str = ""
    new_ticket: bool = False
    """Right after the call the server replaces the position's ticket."""
    not_sent: bool = False
    send_delay_s: float = 0.0
    """On the way to the far end, before it checks the permit."""
    execute_delay_s: float = 0.0
    """Between the far end's check and the broker's execution."""
    answer_delay_s: float = 0.0
    answer: Answer = Answer.GIVEN
    executed: bool = True
    """False: the request vanishes on its way."""
    twice: bool = False
    """The request is delivered to the broker a second time; only the first answer is seen."""
    fails: bool = False
    """A read that fails."""
    connected: bool = True
    """False: the terminal answers from memory, without its server."""
    empty: bool = False
    """A list that is empty although something is open."""
    login: int | None = None
    """The terminal is logged in to this other account of the server."""

    def __or__(self, other: "Fault") -> "Fault":
        changes = {
            name: getattr(other, name) for name in self.__struct_fields__ if getattr(other, name) != getattr(NO_FAULT, name)
        }
        return msgspec.structs.replace(self, **changes)


NO_FAULT = Fault()


def refuse(reason: Reason, code: int | None = None) -> Fault:
    """Return the broker's refusal."""
    return Fault(reason=reason, code=code)


def requote() -> Fault:
    """Return a refusal because the price moved."""
    return Fault(reason=Reason.REQUOTE)


def partial_fill(fraction: Decimal | str) -> Fault:
    """Return a fill of only a part."""
    return Fault(fraction=Decimal(fraction))


def slipped(points: int) -> Fault:
    """Return a fill that is worse by so many points."""
    return Fault(slip_points=points)


def delay(*, send_s: float = 0.0, execute_s: float = 0.0, answer_s: float = 0.0) -> Fault:
    """Return slowness before the far end, at the broker, or on the way back."""
    return Fault(send_delay_s=send_s, execute_delay_s=execute_s, answer_delay_s=answer_s)


def answer_lost(*, execute_s: float = 0.0) -> Fault:
    """Return an execution (after `execute_s` at the broker) of which the caller learns nothing but that it is unknown."""
    return Fault(answer=Answer.LOST, execute_delay_s=execute_s)


def never_answered(*, executed: bool, execute_s: float = 0.0) -> Fault:
    """Return silence until the call's deadline; the order is executed after `execute_s`, even later than that, or never."""
    return Fault(answer=Answer.NEVER, executed=executed, execute_delay_s=execute_s)


def not_sent() -> Fault:
    """Return a timeout before anything left."""
    return Fault(not_sent=True)


def delivered_twice() -> Fault:
    """Return a request that the broker gets, and executes, twice."""
    return Fault(twice=True)


def failed_read() -> Fault:
    """Return a read that fails."""
    return Fault(fails=True)


def disconnected() -> Fault:
    """Return an answer from memory while the terminal has no server."""
    return Fault(connected=False)


def empty_list() -> Fault:
    """Return a list that is wrongly empty, as terminals show it while they synchronise."""
    return Fault(empty=True)


def wrong_account(login: int) -> Fault:
    """Return the answers of another account of the server, to which someone switched the terminal."""
    return Fault(login=login)


def comment_stripped() -> Fault:
    """Return a broker that drops comments, and the tag with them."""
    return Fault(comment="")


def comment_cut(length: int) -> Fault:
    """Return a broker that keeps only the first characters of a comment."""
    return Fault(comment_max=length)


def comment_replaced(text: str) -> Fault:
    """Return a broker that writes its own comment."""
    return Fault(comment=text)


def comment_extended(suffix: str) -> Fault:
    """Return a broker that appends to comments."""
    return Fault(comment_suffix=suffix)


def rate_limited() -> Fault:
    """Return the answer to too many requests."""
    return Fault(reason=Reason.TOO_MANY_REQUESTS)


def ticket_changed() -> Fault:
    """Return a server that replaces the position's ticket right after the call."""
    return Fault(new_ticket=True)


def stops_ignored() -> Fault:
    """Return an open that is executed without its stop and target."""
    return Fault(stops=Stops.IGNORED)


def stops_refused() -> Fault:
    """Return a server that refuses opens with stop or target."""
    return Fault(stops=Stops.REFUSED)


class Faults:
    """The knobs of one gateway."""

    def __init__(self) -> None:
        self._next: dict[Operation, deque[Fault]] = {}
        self._always: dict[Operation, Fault] = {}
        self._any = False
        self.offline = False
        """No operation reaches the terminal's server."""
        self.lag_listeners: list[Callable[[], None]] = []
        self._visibility_lag_ms = 0
        self.empty_after_open_s = 0.0
        """Lists are empty for so long after `open`."""
        self.requests_per_s = 0
        """Trading requests beyond this many in a second are refused; 0 is no limit."""

    @property
    def visibility_lag_ms(self) -> int:
        """Lists show a change this much later than the answer."""
        return self._visibility_lag_ms

    @visibility_lag_ms.setter
    def visibility_lag_ms(self, lag_ms: int) -> None:
        self._visibility_lag_ms = lag_ms
        for listener in tuple(self.lag_listeners):
            listener()

    def next(self, operation: Operation, *faults: Fault, times: int = 1) -> None:
        """Lay faults on the next calls of an operation, each on `times` calls, after those already laid."""
        queue = self._next.setdefault(operation, deque())
        for fault in faults:
            queue.extend([fault] * times)
        self._any = True

    def always(self, operation: Operation, fault: Fault) -> None:
        """Lay a fault on every call of an operation, besides what `next` laid, until `clear`."""
        self._always[operation] = self._always.get(operation, NO_FAULT) | fault
        self._any = True

    def clear(self, operation: Operation | None = None) -> None:
        """Take off what was laid on an operation, or on all."""
        if operation is None:
            self._next.clear()
            self._always.clear()
        else:
            self._next.pop(operation, None)
            self._always.pop(operation, None)
        self._any = bool(self._next or self._always)

    def take(self, operation: Operation) -> Fault:
        """Return what goes wrong in this call."""
        if not self._any:
            return NO_FAULT
        fault = self._always.get(operation, NO_FAULT)
        queue = self._next.get(operation)
        return fault | queue.popleft() if queue else fault
