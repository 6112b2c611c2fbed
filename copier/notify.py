"""Tells people of alerts by Apprise, which knows mail, messengers and webhooks; switched off unless targets are set."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime

from copier.alert import Alert
from copier.clock import Clock
from copier.errors import SettingsError
from copier.settings import NotifySettings

log = logging.getLogger(__name__)

SEND_TIMEOUT_S = 30.0
PAUSE_MIN_S = 2.0
PAUSE_MAX_S = 300.0
WAITING_MAX = 100
"""Of more messages that could not be sent the oldest are dropped: the ledger has them all."""

Send = Callable[[str, str], Awaitable[bool]]
"""Sends a title and a text to every target; returns whether all took it."""


class Notifier:
    """Sends each alert once, reminds of it seldom, and says when it is over to whoever was told that it began."""

    def __init__(self, settings: NotifySettings, clock: Clock, send: Send | None = None) -> None:
        """Raise `SettingsError` for a target that nothing can be sent to. `send` stands in for Apprise."""
        self._repeat_ms = settings.repeat_s * 1000
        self._clock = clock
        self._send = send or (_apprise(settings) if settings.targets else None)
        self._told_ms: dict[tuple[str, str], int] = {}
        """When each alert was last sent, standing or not."""
        self._open: set[tuple[str, str]] = set()
        """Alerts whose beginning was sent, and not yet their end."""
        self._waiting: deque[tuple[str, str]] = deque(maxlen=WAITING_MAX)
        self._pause_s = 0.0
        self._not_before_s = 0.0

    def tell(self, alert: Alert) -> None:
        """Put an alert that has just been raised, or has ended, among what is to be sent."""
        if self._send is None:
            return
        if alert.ended_ms:
            if alert.name in self._open:
                self._open.discard(alert.name)
                self._waiting.append((f"Over: {title(alert)}", f"{alert.cause}\nIt lasted {_lasted(alert)}."))
        elif self._may(alert):
            self._told_ms[alert.name] = self._clock.now_ms()
            self._open.add(alert.name)
            self._waiting.append((title(alert), text(alert)))

    def remind(self, standing: Iterable[Alert]) -> None:
        """Send again what has stood for so long that it may have been overlooked."""
        for alert in standing:
            self.tell(alert)

    def _may(self, alert: Alert) -> bool:
        last_ms = self._told_ms.get(alert.name)
        return last_ms is None or (self._repeat_ms > 0 and self._clock.now_ms() - last_ms >= self._repeat_ms)

    async def send_waiting(self) -> None:
        """Send what waits, oldest first; what no target takes is tried again with growing pauses."""
        loop = asyncio.get_running_loop()
        while self._waiting and self._send is not None and loop.time() >= self._not_before_s:
            subject, body = self._waiting[0]
            if await self._send(subject, body):
                if self._waiting and self._waiting[0] == (subject, body):
                    self._waiting.popleft()
                self._pause_s = 0.0
                continue
            if not self._pause_s:
                log.warning("an alert could not be sent to every target of `notify`; it is tried again")
            self._pause_s = min(max(self._pause_s * 2, PAUSE_MIN_S), PAUSE_MAX_S)
            self._not_before_s = loop.time() + self._pause_s


def title(alert: Alert) -> str:
    """Return an alert as a line's beginning: which watchdog, and of what."""
    return f"mt-copier: {alert.watchdog} {alert.subject}"


def text(alert: Alert) -> str:
    """Return an alert in full, for people."""
    since = datetime.fromtimestamp(alert.since_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    done = f"\nDone about it: {alert.done}." if alert.done else ""
    return f"{alert.cause}\nAccount {alert.account}, since {since}.{done}\nWhat to do: {alert.advice}"


def _lasted(alert: Alert) -> str:
    seconds = max(0, alert.ended_ms - alert.since_ms) // 1000
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"


def _apprise(settings: NotifySettings) -> Send:
    try:
        import apprise
    except ImportError:
        raise SettingsError(["notify.targets: the apprise package is not installed: pip install 'mt-copier[notify]'"]) from None
    logging.getLogger("apprise").disabled = True  # It logs addresses, and these are secrets.
    targets = apprise.Apprise()
    problems = [
        f"notify.targets[{index}].url: expected an address that Apprise knows, such as tgram://token/chat"
        for index, target in enumerate(settings.targets)
        if not targets.add(target.url.get_secret_value())
    ]
    if problems:
        raise SettingsError(problems)

    async def send(subject: str, body: str) -> bool:
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                return bool(await asyncio.to_thread(targets.notify, title=subject, body=body))
        except Exception as error:  # What a service's code raises is no business of the engine, and may show its address.
            log.debug("sending an alert failed: %s", type(error).__name__)
            return False

    return send
