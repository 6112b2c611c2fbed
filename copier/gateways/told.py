"""What a far end said by itself: its positions and prices, each until something newer was answered."""

import logging
from typing import Any

import msgspec

from copier.clock import Clock
from copier.errors import ProtocolError
from copier.model import Positions, Quote
from copier.wire import CHANGED, QUOTE, TRADING, Op, Params, Push, QuoteParams, told_of

log = logging.getLogger(__name__)

AGE_MAX_MS = 1_000
"""Positions that were read longer ago are asked for instead: the link is slow, or the clocks differ."""


class _Heard:
    """One thing said unasked, read only when somebody wants it: most of it nobody will."""

    __slots__ = ("at_ms", "found", "push", "read")

    def __init__(self, push: Push, read: int, at_ms: int) -> None:
        self.push = push
        self.read = read
        self.at_ms = at_ms
        self.found: Any = None


class Told:
    """The last positions and the last prices a far end told."""

    def __init__(self, account: str, clock: Clock) -> None:
        """`account` (login@server) is whose they must be."""
        self._account = account
        self._clock = clock
        self._positions: _Heard | None = None
        self._quotes: dict[str, _Heard | None] = {}
        """By symbol, of those that were asked for."""

    def forget(self) -> None:
        """Let go of all that an earlier link brought."""
        self._positions = None
        self._quotes.clear()

    def hear(self, push: Push, read: int) -> None:
        """Take something said unasked, as the read of this number; when it was read must be said."""
        heard = _Heard(push, read, min(push.utc_ms, self._clock.now_ms())) if push.utc_ms and push.data else None
        if push.push == CHANGED:
            self._positions = heard
        elif push.push == QUOTE and push.symbol in self._quotes and heard is not None:
            self._quotes[push.symbol] = heard

    def answered(self, op: Op, params: Params) -> None:
        """Note that a call succeeded just now: what was told before it is older."""
        if op is Op.GET_POSITIONS or op in TRADING:
            self._positions = None
        elif op is Op.GET_QUOTE and isinstance(params, QuoteParams):
            self._quotes[params.symbol] = None

    def positions(self) -> tuple[Positions, int] | None:
        """Return all positions and when they were read (UTC, ms); None where they are too old, or make no whole list."""
        heard = self._positions
        if heard is None or self._clock.now_ms() - heard.at_ms > AGE_MAX_MS:
            return None
        if not self._is_read(heard, Op.GET_POSITIONS):
            self._positions = None
            return None
        return heard.found, heard.at_ms

    def quote(self, symbol: str) -> tuple[Quote, int] | None:
        """Return a price that was told since it was last asked for, and when it was read."""
        heard = self._quotes.get(symbol)
        if heard is None:
            return None
        if not self._is_read(heard, Op.GET_QUOTE) or heard.found.symbol != symbol:
            self._quotes[symbol] = None
            return None
        return heard.found, heard.at_ms

    def _is_read(self, heard: _Heard, op: Op) -> bool:
        if heard.found is None:
            try:
                heard.found = msgspec.structs.replace(told_of(heard.push, op), read=heard.read)
            except ProtocolError as error:
                log.warning("%s: what the far end told by itself is left alone: %s", self._account, error)
                return False
        return bool(heard.found.account == self._account)
