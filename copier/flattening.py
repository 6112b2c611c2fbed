"""Closes every copy right here, when nothing else is alive: opens the accounts itself and asks neither Redis nor a worker.

What is ours is told by our tag in the position's comment, and by the tickets the ledger knows, where it can still be read.
"""

import asyncio
from collections.abc import Callable, Iterable
from decimal import Decimal

import msgspec

from copier.clock import Clock, SystemClock
from copier.errors import CopierError, GatewayError, OutcomeUnknown, Reason, Rejected, Unavailable
from copier.gateway import Gateway
from copier.gateways.opening import PaperWorld, open_gateway
from copier.looking import check_scope, in_scope, stores
from copier.model import ZERO, CloseRequest, MarginMode, Permit, Position, Record
from copier.policy import Mode
from copier.settings import FollowerSettings, Settings
from copier.steps import plain

TRIES = 5
PAUSE_S = 1.0
NOT_AFTER_MS = 30_000
TOKENS_MAX = 100_000
SLIPPAGE_POINTS = 100


class Flattened(Record, frozen=True, kw_only=True):
    """What was closed and what was not, a line each."""

    closed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


class Known(msgspec.Struct):
    """What the ledger says is ours at one follower."""

    told: bool = False
    """The ledger could be read, and knows this follower."""
    everything: bool = True
    """Everything of the account that is ours is meant, not one master's alone."""
    token: int = 0
    """Ours as the account's owner, higher than any engine's; 0 where the ledger could not give one."""
    tickets: set[int] = msgspec.field(default_factory=set)
    tags: set[str] = msgspec.field(default_factory=set)
    lots: dict[str, Decimal] = msgspec.field(default_factory=dict)
    """Our signed volume by symbol: what counts on a netting account."""


async def flatten(
    settings: Settings, scope: str, tell: Callable[[str], None], *, clock: Clock | None = None, paper: PaperWorld | None = None
) -> Flattened:
    """Close every copy of a scope's followers, and say what could not be closed; raise `SettingsError` for an unknown scope."""
    check_scope(settings, scope)
    clock = clock or SystemClock()
    paper = paper or PaperWorld(clock)
    followers = {name: each for name, each in settings.followers.items() if _within(scope, name, each)}
    known = await _remember(settings, scope, followers, tell)
    answers = await asyncio.gather(
        *(
            _Flattening(name, open_gateway(settings.accounts[each.account], clock, paper), known[name], clock, tell).run()
            for name, each in followers.items()
        )
    )
    return Flattened(
        closed=tuple(line for answer in answers for line in answer.closed),
        failed=tuple(line for answer in answers for line in answer.failed),
    )


def _within(scope: str, name: str, settings: FollowerSettings) -> bool:
    live = any(copy.mode is not Mode.SHADOW for copy in settings.copies)
    return live and (
        scope in ("*", name) or scope.startswith(f"{name}/") or scope in {f"group:{each}" for each in settings.groups}
    )


async def _remember(settings: Settings, scope: str, followers: Iterable[str], tell: Callable[[str], None]) -> dict[str, Known]:
    """Return what the ledger knows, and become the owner of the accounts, which ends an engine that still lives."""
    known = {name: Known(everything="/" not in scope) for name in followers}
    try:
        async with stores(settings) as (ledger, _):
            await ledger.set_control(scope, "flatten", "flatten --direct")
            tokens = await ledger.take([f"follower:{name}" for name in known])
            for link in await ledger.links(living=False):
                if link.follower in known and in_scope(settings, scope, link):
                    mine = known[link.follower]
                    mine.told = True
                    for leg in link.legs:
                        if leg.living:
                            mine.tickets |= {leg.ticket} - {0}
                            mine.tags.add(leg.tag)
                            mine.lots[link.symbol] = mine.lots.get(link.symbol, ZERO) + leg.lots * leg.side.sign
            for name, mine in known.items():
                mine.token = tokens[f"follower:{name}"]
    except CopierError as error:
        tell(f"the ledger cannot be read, so only what carries our tag is closed: {error}")
    return known


class _Flattening:
    """One account's way to flat."""

    def __init__(self, name: str, gateway: Gateway, known: Known, clock: Clock, tell: Callable[[str], None]) -> None:
        self._name = name
        self._gateway = gateway
        self._known = known
        self._token = known.token
        self._clock = clock
        self._tell = tell
        self._closed: list[str] = []
        self._failed: list[str] = []

    async def run(self) -> Flattened:
        """Close what is ours and say what happened."""
        try:
            await self._gateway.open()
            mode = (await self._gateway.get_account()).margin_mode
            for position in (await self._gateway.get_positions()).positions:
                if lots := self._ours(position, mode):
                    await self._close(position, lots)
        except GatewayError as error:
            self._fail(f"{self._name}: the account cannot be reached: {error.message}")
        finally:
            await self._gateway.close()
        if not self._closed and not self._failed:
            self._tell(f"{self._name}: nothing of ours is open")
        return Flattened(closed=tuple(self._closed), failed=tuple(self._failed))

    def _ours(self, position: Position, mode: MarginMode) -> Decimal:
        """Return how many lots of a position are ours; on a netting account another hand's volume is left alone."""
        known = self._known
        if known.told and mode is MarginMode.NETTING:
            return min(max(known.lots.get(position.symbol, ZERO) * position.type.sign, ZERO), position.lots)
        ours = position.ticket in known.tickets or position.tag in known.tags or (known.everything and bool(position.tag))
        return position.lots if ours else ZERO

    async def _close(self, position: Position, lots: Decimal) -> None:
        what = f"{self._name}: {position.type} {plain(lots)} {position.symbol} (ticket {position.ticket})"
        request = CloseRequest(ticket=position.ticket, lots=None if lots == position.lots else lots, slippage=SLIPPAGE_POINTS)
        for attempt in range(1, TRIES + 1):
            try:
                await self._send(request)
            except OutcomeUnknown as error:
                return self._fail(f"{what}: it may or may not be closed, look at the terminal: {error.message}")
            except (Rejected, Unavailable) as error:
                again = isinstance(error, Unavailable) or error.wants_pause or error.wants_fresh_price
                if not again or attempt == TRIES:
                    return self._fail(f"{what}: {error.message}")
                await asyncio.sleep(PAUSE_S)
            except GatewayError as error:
                return self._fail(f"{what}: {error.message}")
            else:
                self._closed.append(what)
                return self._tell(f"closed      {what}")

    async def _send(self, request: CloseRequest) -> None:
        """Close under the ledger's token or, without a ledger, under the lowest one that the far end takes.

        A higher one than needed would lock out the engine when it comes back.
        """
        while True:
            try:
                permit = Permit(token=self._token, not_after_ms=self._clock.now_ms() + NOT_AFTER_MS)
                await self._gateway.close_position(request, permit)
                return
            except Rejected as error:
                if error.reason is not Reason.STALE_TOKEN or self._known.token or self._token > TOKENS_MAX:
                    raise
                self._token += 1

    def _fail(self, line: str) -> None:
        self._failed.append(line)
        self._tell(f"NOT closed  {line}")
