"""Accounts of kind `bridge`: our Expert Advisor in an MT4 or MT5 terminal, which dials in or leaves files."""

import os
from pathlib import Path
from typing import assert_never

from copier.clock import Clock
from copier.errors import SettingsError
from copier.gateway import GatewayFacts
from copier.gateways.bridge_files import FilesCarrier
from copier.gateways.bridge_hub import BridgeHub, Listener
from copier.gateways.bridge_pipe import PipeListener
from copier.gateways.bridge_port import PortListener, tls_of
from copier.gateways.carriers import Carrier
from copier.gateways.remote import RemoteGateway
from copier.settings import BridgeCarrier, BridgeSettings
from copier.wire import Opening

SILENCE_MIN_S = 20.0
"""An Expert Advisor that trades says nothing meanwhile, so a link is not given up before a call could have ended twice."""


class Bridges:
    """The listeners of this process: accounts that name the same port, or the same pipe, share one."""

    def __init__(self) -> None:
        self._hubs: dict[object, BridgeHub] = {}

    def gateway(self, settings: BridgeSettings, clock: Clock) -> RemoteGateway:
        """Return a gateway, not yet open, to an account's Expert Advisor; raise `SettingsError` without a folder for files."""
        account = f"{settings.login}@{settings.server}"
        secret = settings.secret.get_secret_value()
        silence_s = max(SILENCE_MIN_S, 2 * float(settings.call_timeout_s))
        carrier: Carrier
        match settings.carrier:
            case BridgeCarrier.TCP | BridgeCarrier.HTTP | BridgeCarrier.WEBSOCKET:
                tls = tls_of(settings.tls_certificate, settings.tls_key, account)
                place = settings.host, settings.port, settings.tls_certificate
                hub = self._hub(place, PortListener(settings.host, settings.port, tls=tls), clock)
                carrier = hub.carrier(account, secret, silence_s=silence_s)
            case BridgeCarrier.PIPE:
                hub = self._hub(settings.pipe, PipeListener(settings.pipe), clock)
                carrier = hub.carrier(account, secret, silence_s=silence_s)
            case BridgeCarrier.FILES:
                root = settings.folder or shared_folder(account)
                carrier = FilesCarrier(root, account, secret, clock=clock, silence_s=silence_s)
            case _ as never:
                assert_never(never)
        facts = GatewayFacts(
            kind="bridge",
            settle_s=float(settings.settle_s),
            call_timeout_s=float(settings.call_timeout_s),
            tags_survive=settings.tags_survive,
        )
        return bridge_gateway(carrier, facts, account, clock=clock, open_timeout_s=float(settings.connect_timeout_s))

    def _hub(self, place: object, listener: Listener, clock: Clock) -> BridgeHub:
        return self._hubs.setdefault(place, BridgeHub(listener, clock=clock))


def bridge_gateway(carrier: Carrier, facts: GatewayFacts, account: str, *, clock: Clock, open_timeout_s: float) -> RemoteGateway:
    """Return a gateway, not yet open, to the Expert Advisor of an account (login@server) behind a carrier."""
    return RemoteGateway(
        carrier,
        facts,
        Opening(account=account),
        clock=clock,
        # A terminal does one call at a time; what waits here instead of in its input is surely not sent if the link breaks.
        in_flight_max=1,
        open_timeout_s=open_timeout_s,
        # The Expert Advisor dials, so that an attempt only waits for it: no reason to keep it waiting in turn.
        pause_max_s=1.0,
    )


def shared_folder(account: str) -> Path:
    """Return the folder all terminals of this Windows user share; raise `SettingsError` on a machine that has none."""
    applications = os.environ.get("APPDATA")
    if not applications:
        raise SettingsError([f"{account}: `folder` is missing: expected the terminals' shared folder, Terminal/Common/Files"])
    return Path(applications) / "MetaQuotes" / "Terminal" / "Common" / "Files"
