"""One connection of the MT5Manager package, shared by every login behind it: what it hears, what it asks, what it sends."""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

from copier.errors import Reason, Rejected, Unavailable
from copier.gateway import NOT_CONNECTED, TRADE_FAILED
from copier.gateways.manager_values import ERRORS, PUMPS, lots_of, send_error
from copier.gateways.mt5_session import Pace, SystemPace
from copier.wire import Opening

log = logging.getLogger(__name__)

T = TypeVar("T")

OUTSTANDING_MAX = 128
"""The server answers 10024 to one request more (MetaQuotes' reference)."""
FORGOTTEN_S = 120.0
"""After so long a request without an answer is no longer counted as outstanding."""
DEALS_KEPT = 2_000
QUARTER_S = 900

Package = Any
"""The MT5Manager package, or what stands in for it."""


class ManagerOpening(Opening, frozen=True, kw_only=True):
    """What the child must know of a manager connection and of one login; it travels over standard input and is shown nowhere."""

    address: str
    """host:port of the access server."""
    manager: int
    password: str
    folder: str
    """Where the package keeps its files, and the owners' tokens lie."""
    connect_timeout_s: float = 60.0
    call_timeout_s: float = 10.0
    dealing: bool = False
    """Go into dealing mode, in which the server may hand traders' requests to this manager."""

    def __repr__(self) -> str:
        return f"ManagerOpening(account={self.account!r}, address={self.address!r}, manager={self.manager!r})"


class Waits(Pace, Protocol):
    """Time, and waiting for what another thread puts into a queue."""

    def take(self, source: "queue.SimpleQueue[T]", within_s: float) -> T | None:
        """Return the next item, or None once the time is up."""
        ...


class SystemWaits(SystemPace):
    """The machine's own."""

    def take(self, source: "queue.SimpleQueue[T]", within_s: float) -> T | None:
        """Return the next item, or None once the time is up."""
        try:
            return source.get(timeout=max(0.0, within_s))
        except queue.Empty:
            return None


class Answer(NamedTuple):
    """What the server said about one request, copied while the record was valid."""

    retcode: int
    order: int
    deal: int
    lots: Any
    price: float
    comment: str


class DealSeen(NamedTuple):
    """A deal the server told unasked."""

    deal: int
    order: int
    position_id: int
    entry: int
    lots: Any
    price: float


class Reply:
    """The sink of one request: the package calls it from a thread of its own."""

    def __init__(self, sent_s: float, late: Callable[["Answer"], None]) -> None:
        self.answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self.sent_s = sent_s
        self.answered = False
        self.abandoned = False
        self._late = late

    def OnDealerAnswer(self, request: Any) -> None:
        """Keep the server's answer."""
        answer = Answer(
            int(request.ResultRetcode),
            request.ResultOrder,
            request.ResultDeal,
            lots_of(request.ResultVolume, request.ResultVolumeExt),
            request.ResultPrice,
            request.ResultComment,
        )
        self.answered = True
        self.answers.put(answer)
        if self.abandoned:
            self._late(answer)


class Events:
    """The sink of everything the server tells unasked; every method only notes and returns, as a slow one stalls the package."""

    def __init__(self, heard: Callable[[str], None], now_ms: Callable[[], int]) -> None:
        """`heard` is told a login, or "" for a new connection; it must not call the package."""
        self.connected = False
        self.ticked: dict[str, int] = {}
        self.deals: deque[DealSeen] = deque(maxlen=DEALS_KEPT)
        self._heard = heard
        self._now_ms = now_ms

    def OnConnect(self) -> None:
        """The connection stands, again perhaps: what must be done now is done elsewhere, here it would dead-lock."""
        self.connected = True
        self._heard("")

    def OnDisconnect(self) -> None:
        """The connection is lost; the package makes it anew by itself."""
        self.connected = False

    def OnPositionAdd(self, position: Any) -> None:
        """Somebody's positions changed."""
        self._heard(str(position.Login))

    def OnPositionUpdate(self, position: Any) -> None:
        """Somebody's positions changed."""
        self._heard(str(position.Login))

    def OnPositionDelete(self, position: Any) -> None:
        """Somebody's positions changed."""
        self._heard(str(position.Login))

    def OnPositionClean(self, login: int) -> None:
        """All positions of a login were deleted."""
        self._heard(str(login))

    def OnDealAdd(self, deal: Any) -> None:
        """A deal was made."""
        lots = lots_of(deal.Volume, deal.VolumeExt)
        self.deals.append(DealSeen(deal.Deal, deal.Order, deal.PositionID, int(deal.Entry), lots, deal.Price))
        self._heard(str(deal.Login))

    def OnTick(self, symbol: str, tick: Any) -> None:
        """A price was quoted."""
        self.ticked[symbol] = self._now_ms()


class Connection:
    """A manager's connection to one trade server. Its methods may be called by any thread but the package's own."""

    def __init__(self, package: Package, opening: ManagerOpening, pace: Waits, heard: Callable[[str], None]) -> None:
        """`heard` is told the login whose positions may have changed, "" for all; from the package's threads."""
        self.opening = opening
        self.pace = pace
        self.events = Events(heard, pace.now_ms)
        self._package = package
        self._manager = package.ManagerAPI()
        self._sending = threading.Lock()
        self._outstanding: list[Reply] = []
        # The package calls sinks of abandoned requests too, and does not keep them alive by itself.
        self._kept: deque[Reply] = deque(maxlen=2_000)
        self._selected: set[str] = set()

    def start(self) -> None:
        """Subscribe, connect and wait for the caches; raise `Unavailable` with what to mend."""
        opening, manager = self.opening, self._manager
        subscriptions = ("Subscribe", "PositionSubscribe", "DealSubscribe", "TickSubscribe")
        for name in subscriptions:
            if getattr(manager, name)(self.events) is False:
                raise Unavailable(f"{name} failed: {self._trouble()[1]}", account=opening.account)
        modes = self._package.ManagerAPI.EnPumpModes
        pumps = 0
        for name in PUMPS:
            pumps |= getattr(modes, f"PUMP_MODE_{name}")
        timeout_ms = round(opening.connect_timeout_s * 1000)
        if manager.Connect(opening.address, opening.manager, opening.password, pumps, timeout_ms) is False:
            words = self._trouble()[1]
            message = f"the manager {opening.manager} cannot connect to {opening.address}: {words}"
            raise Unavailable(message, account=opening.account)
        self.events.connected = True
        self.restore()
        log.info("manager %d connected to %s", opening.manager, opening.address)

    def restore(self) -> None:
        """Go into dealing mode where that is wanted, as a new connection has lost it; never from the package's threads."""
        if self.opening.dealing and self._manager.DealerStart() is False:
            log.error("dealing mode cannot be started: %s", self._trouble()[1])

    def stop(self) -> None:
        """Disconnect."""
        self.events.connected = False
        self._manager.Disconnect()

    def check(self, account: str) -> None:
        """Raise `Unavailable` while there is no connection to the server: the caches stand still then."""
        if not self.events.connected:
            raise Unavailable(f"{NOT_CONNECTED}: the manager has no connection to its server", account=account)

    def ask(self, account: str, name: str, *args: Any) -> Any:
        """Call a reading method; raise `Unavailable` where it returns False, which is never an empty list."""
        answer, _, words = self.try_to(name, *args)
        if answer is None:
            raise Unavailable(f"{name} failed: {words}", account=account)
        return answer

    def try_to(self, name: str, *args: Any) -> tuple[Any, int, str]:
        """Call a method; return its answer, or None with the error's number and words."""
        answer = getattr(self._manager, name)(*args)
        if answer is False or answer is None:
            return None, *self._trouble()
        return answer, 0, ""

    def select(self, account: str, symbol: str) -> None:
        """Ask for a symbol's prices, without which none are told."""
        if symbol not in self._selected:
            self.ask(account, "SelectedAdd", symbol)
            self._selected.add(symbol)

    def offset_s(self) -> int | None:
        """Return the server's wall clock minus UTC in whole quarters of an hour, None where it is not told."""
        seconds = self._manager.TimeServer()
        if seconds is False or not seconds:
            return None
        return round((int(seconds) - self.pace.now_ms() / 1000) / QUARTER_S) * QUARTER_S

    def send(self, account: str, fields: dict[str, Any], check: Callable[[], None]) -> Reply:
        """Send one dealer's request and return where its answers come; `check` has the last word before. Raise when not sent."""
        request = self._package.MTRequest(self._manager)
        for name, value in fields.items():
            setattr(request, name, value)
        with self._sending:
            self._count()
            if len(self._outstanding) >= OUTSTANDING_MAX:
                message = f"{TRADE_FAILED}: {OUTSTANDING_MAX} requests of this manager wait for an answer"
                raise Rejected(message, reason=Reason.TOO_MANY_REQUESTS, code=10024, account=account)
            check()
            self.check(account)
            reply = Reply(self.pace.seconds(), lambda answer: self._came_late(account, fields, answer))
            self._kept.append(reply)
            if self._manager.DealerSend(request, reply) is False:
                code, text = self._last_error()
                raise send_error(code, text, account)
            self._outstanding.append(reply)
        return reply

    def until(self, found: Callable[[], Any], end_s: float, pause_s: float = 0.02) -> Any:
        """Ask again and again until something is found or the moment has come; return what was found, or None."""
        while True:
            answer = found()
            if answer is not None or self.pace.seconds() >= end_s:
                return answer
            self.pace.pause(pause_s)
            pause_s = min(pause_s * 1.5, 0.25)

    def _count(self) -> None:
        """Forget requests that were answered, or never will be."""
        horizon = self.pace.seconds() - FORGOTTEN_S
        self._outstanding = [each for each in self._outstanding if not each.answered and each.sent_s > horizon]

    def _came_late(self, account: str, fields: dict[str, Any], answer: Answer) -> None:
        words = "%s: an answer to action %s came after its deadline: %d %s, order %d"
        log.warning(words, account, fields.get("Action"), answer.retcode, answer.comment, answer.order)

    def _trouble(self) -> tuple[int, str]:
        code, text = self._last_error()
        return code, f"{ERRORS.get(code, 'error')} ({code}: {text})"

    def _last_error(self) -> tuple[int, str]:
        _, code, text = self._package.LastError()
        return int(code), str(text)
