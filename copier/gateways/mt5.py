"""Accounts of kind `mt5`: a child process per terminal, killed when a call hangs and started again when it ends."""

import logging
import sys
from collections.abc import Callable, Sequence

import msgspec

from copier.clock import Clock
from copier.gateway import GatewayFacts
from copier.gateways.carriers import ChildCarrier
from copier.gateways.mt5_session import Mt5Opening
from copier.gateways.remote import RemoteGateway
from copier.settings import Mt5Settings

log = logging.getLogger(__name__)

CHILD = ("-m", "copier.gateways.mt5_child")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def mt5_gateway(settings: Mt5Settings, clock: Clock, command: Sequence[str] | None = None) -> RemoteGateway:
    """Return a gateway, not yet open, to the terminal the settings name; `command` starts its child where it is not the usual."""
    opening = Mt5Opening(
        account=f"{settings.login}@{settings.server}",
        path=settings.path,
        password=settings.password.get_secret_value() if settings.password else "",
        portable=settings.portable,
        login_timeout_s=float(settings.login_timeout_s),
        call_timeout_s=float(settings.call_timeout_s),
        sync_s=float(settings.sync_s),
        poll_ms=settings.poll_ms,
    )
    facts = GatewayFacts(
        kind="mt5",
        settle_s=float(settings.settle_s),
        call_timeout_s=float(settings.call_timeout_s),
        tags_survive=settings.tags_survive,
    )
    if command is None:
        command = (*(settings.python or (sys.executable,)), *CHILD)
    return RemoteGateway(
        ChildCarrier(command, report=_report(opening.account)),
        facts,
        opening,
        clock=clock,
        # The child does one call at a time; what waits here instead of in its input is surely not sent if it dies.
        in_flight_max=1,
        # A terminal that has to be started may take 100 s before the login begins (read from the 5.0.6231 wheel).
        open_timeout_s=float(settings.login_timeout_s) + 110.0,
    )


class _Line(msgspec.Struct):
    message: str
    level: str = "warning"


def _report(account: str) -> Callable[[str], None]:
    """Return what puts a child's words into our own log."""

    def report(line: str) -> None:
        try:
            said = msgspec.json.decode(line, type=_Line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            said = _Line(message=line)
        log.log(_LEVELS.get(said.level, logging.WARNING), "%s: child: %s", account, said.message)

    return report
