"""How engine and Expert Advisor make sure of each other before the first frame: who is there, and that both know the secret."""

import hashlib
import hmac
import secrets

from copier.clock import Clock
from copier.errors import ProtocolError
from copier.gateways.carriers import Link, LinkLost
from copier.model import Record
from copier.wire import PROTOCOL_VERSION, decode, encode

SECRET_MIN = 16
"""Whoever dials in gets to see a digest made with the secret: a short one could be guessed from it."""
NONCE_MIN = 16
HELLO_BYTES_MAX = 4096
SKEW_MAX_MS = 5_000
"""A not-after means nothing between clocks that differ by more."""


class Hello(Record, frozen=True, kw_only=True):
    """The Expert Advisor's first line."""

    hello: str
    protocol: int
    account: str
    """login@server"""
    platform: str
    """mt4 or mt5"""
    build: int
    program: str
    utc_ms: int
    nonce: str


class Challenge(Record, frozen=True, kw_only=True):
    """The engine's answer: its own nonce, and the proof that it knows the secret."""

    challenge: str
    nonce: str
    proof: str


class Proof(Record, frozen=True, kw_only=True):
    """The Expert Advisor's proof, or why it gives none."""

    proof: str
    refused: str = ""


class Verdict(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The engine's last word of the greeting."""

    welcome: bool = False
    refused: str = ""


def read_hello(frame: bytes) -> Hello:
    """Return the first line of who dials in; raise `ProtocolError`."""
    if len(frame) > HELLO_BYTES_MAX:
        raise ProtocolError(f"a greeting of {len(frame)} bytes; at most {HELLO_BYTES_MAX} are read")
    hello = decode(frame, Hello)
    if hello.hello != "bridge" or len(hello.nonce) < NONCE_MIN:
        raise ProtocolError("not the greeting of a bridge")
    return hello


async def greet(link: Link, hello: Hello, account: str, secret: str, clock: Clock) -> str:
    """Prove to each other that both know the secret; return this link's name, raise `LinkLost` with what to mend."""
    if hello.account != account:
        raise await refuse(link, f"expected {account}, the terminal is logged in to {hello.account}")
    if hello.protocol != PROTOCOL_VERSION:
        older = f"{hello.program} speaks protocol {hello.protocol}, the engine {PROTOCOL_VERSION}: update the older one"
        raise await refuse(link, older)
    skew_ms = hello.utc_ms - clock.now_ms()
    if abs(skew_ms) > SKEW_MAX_MS:
        raise await refuse(
            link, f"the clocks differ by {skew_ms} ms, at most {SKEW_MAX_MS} ms are allowed: let both be set by NTP"
        )
    life = secrets.token_hex(16)
    both = f"{account}|{hello.nonce}|{life}"
    await link.send(encode(Challenge(challenge=life, nonce=hello.nonce, proof=proof_of(secret, f"engine|{both}"))))
    try:
        given = decode(await link.receive(), Proof)
    except ProtocolError as error:
        raise await refuse(link, f"no proof: {error}") from error
    if given.refused:
        raise LinkLost(f"the Expert Advisor refused: {given.refused}")
    if not hmac.compare_digest(given.proof.encode(), proof_of(secret, f"terminal|{both}").encode()):
        raise await refuse(link, "the secrets differ: enter the one of the engine's settings in the Expert Advisor's inputs")
    await link.send(encode(Verdict(welcome=True)))
    return life


async def refuse(link: Link, reason: str) -> LinkLost:
    """Tell the other end why not, and return the error to raise."""
    await link.send(encode(Verdict(refused=reason)))
    return LinkLost(reason)


def proof_of(secret: str, text: str) -> str:
    """Return the HMAC-SHA256 of a text, in hexadecimal."""
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()
