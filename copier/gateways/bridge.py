"""Accounts of kind `bridge`: our Expert Advisor in an MT4 or MT5 terminal, which dials in over TCP or leaves files."""

from copier.clock import Clock
from copier.gateway import GatewayFacts
from copier.gateways.carriers import Carrier
from copier.gateways.remote import RemoteGateway
from copier.wire import Opening


def bridge_gateway(carrier: Carrier, facts: GatewayFacts, account: str, *, clock: Clock, open_timeout_s: float) -> RemoteGateway:
    """Return a gateway, not yet open, to the Expert Advisor of an account (login@server) behind a carrier."""
    # A terminal does one call at a time; what waits here instead of in its input is surely not sent if the link breaks.
    return RemoteGateway(carrier, facts, Opening(account=account), clock=clock, in_flight_max=1, open_timeout_s=open_timeout_s)
