"""One connection to one MetaTrader 5 terminal: opened, and checked before and after everything that is read or sent."""

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from copier.clock import SystemClock
from copier.errors import Reason, Rejected, Unavailable
from copier.gateway import NOT_CONNECTED, TRADE_FAILED
from copier.gateways.mt5_codes import AUTH_FAILED, PACKAGE_ERRORS, breaks_connection
from copier.wire import Opening

log = logging.getLogger(__name__)

MT5Api = Any
"""The MetaTrader5 package, or what stands in for it."""

ALGO_TRADING_OFF = "the Algo Trading button of the terminal is off"
API_DISABLED = (
    'the terminal\'s option "Disable automatic trading via external Python API" is on (Tools, Options, Expert Advisors)'
)
INVESTOR = "investor login: the read-only password cannot trade, or the broker has disabled trading on this account"
EXPERTS_FORBIDDEN = "the broker forbids automated trading on this account"
NO_SERVER = "the terminal has no connection to its trade server"


class Mt5Opening(Opening, frozen=True, kw_only=True):
    """What a child must know of its terminal; it travels over the child's standard input and is shown nowhere."""

    path: str = ""
    """The terminal64.exe; empty takes whichever terminal runs."""
    password: str = ""
    """Empty takes the account the terminal is logged in to."""
    portable: bool = False
    login_timeout_s: float = 60.0
    call_timeout_s: float = 10.0
    sync_s: float = 3.0
    poll_ms: int = 0

    def __repr__(self) -> str:
        return f"Mt5Opening(account={self.account!r}, path={self.path!r})"


class Pace(Protocol):
    """Wall time, time that only grows, and pauses."""

    def now_ms(self) -> int:
        """Return UTC as milliseconds since 1970."""
        ...

    def seconds(self) -> float:
        """Return seconds that only grow."""
        ...

    def pause(self, seconds: float) -> None:
        """Do nothing for so long."""
        ...


class SystemPace(SystemClock):
    """The machine's own."""

    def seconds(self) -> float:
        """Return seconds that only grow."""
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        """Do nothing for so long."""
        time.sleep(seconds)


class Seen(NamedTuple):
    """Account and terminal at one look, the account being the right one."""

    account: Any
    terminal: Any

    @property
    def connected(self) -> bool:
        """Whether the terminal is connected to its trade server."""
        return bool(self.terminal.connected)

    @property
    def blockers(self) -> tuple[str, ...]:
        """What stops trading, in a trader's words."""
        account, terminal = self.account, self.terminal
        return (
            *(() if terminal.connected else (NO_SERVER,)),
            *(() if terminal.trade_allowed else (ALGO_TRADING_OFF,)),
            *((API_DISABLED,) if terminal.tradeapi_disabled else ()),
            *(() if account.trade_allowed else (INVESTOR,)),
            *(() if account.trade_expert else (EXPERTS_FORBIDDEN,)),
        )


class Session:
    """The package's one connection of this process.

    A connection that broke is not mended here: `broken` says so, and the process is to end, as its successor starts clean.
    """

    def __init__(self, api: MT5Api, opening: Mt5Opening, pace: Pace) -> None:
        self.api = api
        self.opening = opening
        self.pace = pace
        self.account = opening.account
        self.broken = False
        self._login, _, self._server = opening.account.partition("@")
        self._connected = False
        self._settled_at = 0.0

    def start(self) -> Seen:
        """Connect to the terminal and log in; raise `Unavailable` with what to mend."""
        opening = self.opening
        options: dict[str, Any] = {"timeout": int(opening.login_timeout_s * 1000), "portable": opening.portable}
        if opening.password:
            options |= {"login": int(self._login), "password": opening.password, "server": self._server}
        place = (opening.path,) if opening.path else ()
        if not self.api.initialize(*place, **options):
            self.broken = True
            raise Unavailable(self._refusal_to_start(), account=self.account)
        seen = self.check()
        log.info("connected to terminal build %s, ping %s us", seen.terminal.build, seen.terminal.ping_last)
        return seen

    def _refusal_to_start(self) -> str:
        code, text = self.api.last_error()
        known = PACKAGE_ERRORS.get(code)
        words = known.words if known else "Unknown error"
        where = self.opening.path or "any running terminal"
        hint = f"; expected login {self._login} on {self._server}" if code == AUTH_FAILED else ""
        return f"the terminal {where} could not be used: {words} ({code}: {text}){hint}"

    def check(self) -> Seen:
        """Look at account and terminal; raise `Unavailable` where the terminal is logged in to another account."""
        account = self.ask("account_info")
        terminal = self.ask("terminal_info")
        found = f"{account.login}@{account.server}"
        if found != self.account:
            self._connected = False
            message = f"the terminal is logged in to {found}, expected {self.account}: log it in again; nothing was read or sent"
            raise Unavailable(message, account=self.account)
        if terminal.connected and not self._connected:
            self._settled_at = self.pace.seconds() + self.opening.sync_s
        self._connected = bool(terminal.connected)
        return Seen(account, terminal)

    def check_to_trade(self) -> Seen:
        """Look before an order; raise `Unavailable` without a server, `Rejected` where a switch is off: nothing is sent then."""
        seen = self.check()
        if not seen.connected:
            raise Unavailable(f"{NOT_CONNECTED}: {NO_SERVER}", account=self.account)
        if seen.blockers:
            reason = Reason.TRADE_DISABLED if not seen.account.trade_allowed else Reason.AUTOTRADING_OFF
            code = 10017 if reason is Reason.TRADE_DISABLED else 10027 if seen.account.trade_expert else 10026
            message = f"{TRADE_FAILED}: {'; '.join(seen.blockers)}"
            raise Rejected(message, reason=reason, code=code, account=self.account)
        return seen

    @property
    def unsettled_s(self) -> float:
        """For how long yet the lists of a terminal that has just connected may be incomplete."""
        return max(0.0, self._settled_at - self.pace.seconds())

    def ask(self, name: str, *args: Any, **keywords: Any) -> Any:
        """Call a function of the package; raise `Unavailable` where it returns None, which is never an empty list."""
        answer = getattr(self.api, name)(*args, **keywords)
        if answer is None:
            code, text = self.trouble()
            raise Unavailable(f"{name} failed: {text} ({code})", account=self.account)
        return answer

    def trouble(self) -> tuple[int, str]:
        """Return the package's last error, and note a broken connection."""
        code, text = self.api.last_error()
        if breaks_connection(code):
            self.broken = True
        return code, text

    def until(self, found: Callable[[], Any], within_s: float, pause_s: float = 0.02) -> Any:
        """Ask again and again until something is found or the time is up; return what was found, or None."""
        end = self.pace.seconds() + within_s
        while True:
            answer = found()
            if answer is not None or self.pace.seconds() >= end:
                return answer
            self.pace.pause(pause_s)
            pause_s = min(pause_s * 1.5, 0.25)
