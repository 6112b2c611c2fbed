"""Where a follower stands: its account, its prices, its loss limits, and what it may do just now."""

import contextlib
import logging
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec

from copier import wire
from copier.clock import Clock
from copier.errors import GatewayError, Unavailable
from copier.facts import LossRoom
from copier.gateway import Gateway, Tells
from copier.ledger import FactKept, Remembered
from copier.limits import LimitState, Money, Observation, active, observe, rearm, room
from copier.link import LinkName
from copier.model import (
    ZERO,
    Account,
    CalcMode,
    DealType,
    MarginMode,
    MasterFacts,
    Quote,
    Record,
    Side,
    SymbolSpec,
)
from copier.policy import LossAction, LossLimit, Mode, RiskPolicy
from copier.settings import FollowerSettings

log = logging.getLogger(__name__)

ACCOUNT_AGE_MS = 1_000
"""An account read no longer ago than this need not be read again before an order."""
WARM_SYMBOLS = 4
"""Prices of so many symbols, those asked for last, are read ahead."""
_ONE = Decimal(1)
TWIN = "~shadow"
"""What is added to a follower's name for the twin that only simulates: what people set for the one holds for both."""
_STRICTER = {Mode.LIVE: 0, Mode.SHADOW: 0, Mode.CLOSE_ONLY: 1, Mode.FROZEN: 2}


class Deposits(Record, frozen=True, kw_only=True):
    """Money paid in less money paid out since the first look, and how far the account's deals were read for it."""

    total: Decimal = ZERO
    last_ticket: int = 0
    since: datetime


class Standing:
    """What plans and limits look at, read again when it is old."""

    def __init__(self, name: str, settings: FollowerSettings, gateway: Gateway, clock: Clock, remembered: Remembered) -> None:
        self.account: Account
        self.account_ms = 0
        self.catalogue: dict[str, SymbolSpec] | None = None
        self._name = name
        self._settings = settings
        self._gateway = gateway
        self._clock = clock
        self._modes = {copy.master: copy.mode for copy in settings.copies}
        self._scopes: dict[str, RiskPolicy] = {"": settings.risk, **{copy.master: copy.risk for copy in settings.copies}}
        self.has_limits = any(policy.losses for policy in self._scopes.values())
        """Whether any loss limit is set at all."""
        self._quotes: dict[str, Quote] = {}
        self._quoted_ms: dict[str, int] = {}
        self._rate_ms = 0
        self._rate: tuple[str, Decimal | None] = ("", None)
        self.unaccounted: dict[str, LinkName] = {}
        """Tags of orders filled since the account was read, and whose: its figures may not hold them yet."""
        self.settled: dict[LinkName, None] = {}
        """Whose orders the account's figures have come to hold; whoever weighs what is open takes them."""
        self.revalued: set[str] = set()
        """Symbols whose prices or rules have changed; whoever weighs what is open takes them."""
        self.silent: dict[str, str] = {}
        """Masters that nothing is heard of and for which nothing is opened meanwhile, and in words since when."""
        self._controls: Mapping[str, str] = {}
        self._money: Money | None = None
        own = {key: body for (who, key), body in remembered.facts.items() if who == name}
        self._residues = {key: wire.decode(body, Decimal) for key, body in own.items() if key.startswith("residue:")}
        self._limits = {key: wire.decode(body, LimitState) for key, body in own.items() if key.startswith("limit:")}
        self.known = wire.decode(own["account"], str) if "account" in own else ""
        """Whose account it has been so far, as login@server; empty until the first time it was followed."""
        self._deposits = wire.decode(own["deposits"], Deposits) if "deposits" in own else None

    async def begin(self) -> None:
        """Read the account and the broker's symbols; refuse an account that cannot trade. Raise `Unavailable`."""
        account = await self._gateway.get_account()
        if not account.connected:
            raise Unavailable("the terminal is not connected to its trade server", account=account.account)
        if not account.trade_allowed:
            raise Unavailable(f"this account cannot trade: {account.trade_blocker}", account=account.account)
        if self.known and account.account != self.known:
            words = f"expected {self.known}, which {self._name} was when last followed; another account needs another name"
            raise Unavailable(words, account=account.account)
        self.account, self.account_ms = account, self._clock.now_ms()
        if self._gateway.symbols is not None and self.catalogue is None:
            self.catalogue = {spec.symbol: spec for spec in await self._gateway.symbols.get_symbols()}

    @property
    def mode(self) -> MarginMode:
        """How the account keeps positions."""
        return self.account.margin_mode

    async def refresh_account(self, age_max_ms: int = ACCOUNT_AGE_MS) -> Account:
        """Return the account, read again if it is older than this. Raise `Unavailable`, also for another account's answer."""
        if self._clock.now_ms() - self.account_ms > age_max_ms:
            filled = list(self.unaccounted)
            account = await self._gateway.get_account()
            if account.account != self.account.account:
                raise Unavailable(f"expected {self.account.account}, the terminal shows another account", account=account.account)
            self.account, self.account_ms = account, self._clock.now_ms()
            for tag in filled:
                name = self.unaccounted.pop(tag, None)
                if name is not None:
                    self.settled[name] = None
        return self.account

    def filled(self, name: LinkName, tag: str) -> None:
        """Note an order that the account's figures may not hold before they are read again."""
        self.unaccounted[tag] = name

    def account_read(self, age_max_ms: int) -> bool:
        """Return whether the account was read no longer ago than this."""
        return self._clock.now_ms() - self.account_ms <= min(age_max_ms, ACCOUNT_AGE_MS)

    def quote_read(self, symbol: str, age_max_ms: int) -> tuple[Quote, int] | None:
        """Return a price that was read no longer ago than this, and when."""
        self._hear(symbol)
        at_ms = self._quoted_ms.get(symbol, 0)
        return (self._quotes[symbol], at_ms) if at_ms and self._clock.now_ms() - at_ms <= age_max_ms else None

    def _hear(self, symbol: str) -> None:
        """Take up what the source has told by itself of a price that was asked for before."""
        tells: Tells | None = getattr(self._gateway, "tells", None)
        told = tells.quote_told(symbol) if tells is not None else None
        if told is not None and told[1] > self._quoted_ms.get(symbol, told[1]) and told[0].account == self.account.account:
            self._remember(symbol, told[0])
            self._quoted_ms[symbol] = told[1]

    def rate_read(self, master: MasterFacts | None, age_max_ms: int) -> Decimal | None:
        """Return the rate to a master's currency where it needs no reading, or was read no longer ago than this."""
        if master is None:
            return None
        if master.currency == self.account.currency:
            return _ONE
        currency, rate = self._rate
        fresh = currency == master.currency and self._clock.now_ms() - self._rate_ms <= age_max_ms
        return rate if fresh else None

    async def read_ahead(self, master: MasterFacts | None, age_min_ms: int) -> None:
        """Read again what the next open is likely to be decided on, where it is older than this. Raise `GatewayError`."""
        now = self._clock.now_ms()
        await self.refresh_account(age_min_ms)
        for symbol in list(self._quoted_ms)[-WARM_SYMBOLS:]:
            self._hear(symbol)
            if age_min_ms < now - self._quoted_ms[symbol]:
                with contextlib.suppress(GatewayError):
                    await self.quote(symbol)
        if master is not None and master.currency != self.account.currency:
            await self.rate(master)

    async def quote(self, symbol: str) -> Quote:
        """Return the price now, and remember the symbol's rules."""
        asked_ms = self._clock.now_ms()
        quote = await self._gateway.get_quote(symbol)
        if quote.account != self.account.account:
            raise Unavailable(f"expected {self.account.account}, the terminal shows another account", account=quote.account)
        self._remember(symbol, quote)
        self._quoted_ms.pop(symbol, None)  # The last asked for stand last.
        self._quoted_ms[symbol] = asked_ms
        return quote

    def _remember(self, symbol: str, quote: Quote) -> None:
        before = self._quotes.get(symbol)
        if before is None or (before.bid, before.ask, before.spec) != (quote.bid, quote.ask, quote.spec):
            self.revalued.add(symbol)
        self._quotes[symbol] = quote

    def spec(self, symbol: str) -> SymbolSpec | None:
        """Return a symbol's rules as last read, None if never."""
        quote = self._quotes.get(symbol)
        return quote.spec if quote is not None else (self.catalogue or {}).get(symbol)

    def price_to_close(self, symbol: str, side: Side) -> Decimal | None:
        """Return what closing a position would get by the last price read, None where there was none."""
        quote = self._quotes.get(symbol)
        return None if quote is None else quote.price_to_close(side)

    async def rate(self, master: MasterFacts | None) -> Decimal | None:
        """Return what one unit of the follower's currency is worth in the master's, None where no price tells."""
        if master is None:
            return None
        ours, theirs = self.account.currency, master.currency
        if ours == theirs:
            return Decimal(1)
        for symbol, inverse in self._pairs(ours, theirs):
            try:
                quote = await self.quote(symbol)
            except GatewayError:
                continue
            middle = (quote.bid + quote.ask) / 2
            rate = 1 / middle if inverse else middle
            self._rate, self._rate_ms = (theirs, rate), self._clock.now_ms()
            return rate
        return None

    def _pairs(self, ours: str, theirs: str) -> list[tuple[str, bool]]:
        if self.catalogue is None:
            return [(ours + theirs, False), (theirs + ours, True)]
        forex = [spec for spec in self.catalogue.values() if spec.calc_mode is CalcMode.FOREX]
        straight = [(s.symbol, False) for s in forex if (s.currency_base, s.currency_profit) == (ours, theirs)]
        return straight + [(s.symbol, True) for s in forex if (s.currency_base, s.currency_profit) == (theirs, ours)]

    # Rounding residues -------------------------------------------------------------------------------------------------

    def residue(self, master: str, symbol: str) -> Decimal:
        """Return what rounding has cut off earlier opens of a relation and symbol."""
        return self._residues.get(f"residue:{master}:{symbol}", ZERO)

    def keep_residue(self, master: str, symbol: str, residue: Decimal) -> FactKept | None:
        """Remember a residue; return the entry to journal, None where it has not changed."""
        name = f"residue:{master}:{symbol}"
        if self._residues.get(name, ZERO) == residue:
            return None
        self._residues[name] = residue
        return FactKept(follower=self._name, name=name, body=msgspec.Raw(wire.encode(residue)))

    # Limits ------------------------------------------------------------------------------------------------------------

    def losses(self, scope: str) -> tuple[LossRoom, ...]:
        """Return what each loss limit of a relation ("" is the whole follower) leaves as of the last look."""
        policy = self._scopes[scope]
        if not policy.losses:
            return ()
        states = [(limit, self._limits.get(_limit_key(scope, limit))) for limit in policy.losses]
        return tuple(room(limit, state) for limit, state in states if state is not None)

    async def observe_limits(self) -> list[tuple[str, LossLimit, Observation]]:
        """Read the account and judge every loss limit; return those whose state has news. Raise `Unavailable`."""
        account = await self.refresh_account(0)
        money = Money(
            balance=account.balance,
            equity=account.equity,
            credit=account.credit,
            deposits=await self._paid_in(),
            now_ms=self._clock.now_ms(),
        )
        self._money = money
        news = []
        for scope, policy in self._scopes.items():
            for limit in policy.losses:
                key = _limit_key(scope, limit)
                seen = observe(limit, self._limits.get(key), money)
                self._limits[key] = seen.state
                if seen.code:
                    news.append((scope, limit, seen))
        return news

    def rearm(self, names: Collection[str]) -> list[str]:
        """Arm fired limits again by a person's word, their loss measured anew from here; return the names of those armed."""
        armed = []
        for scope, policy in self._scopes.items():
            for limit in policy.losses:
                key = _limit_key(scope, limit)
                state = self._limits.get(key)
                if limit.name in names and state is not None and state.fired_ms is not None and self._money is not None:
                    self._limits[key] = rearm(limit, state, self._money)
                    armed.append(limit.name)
        return armed

    def limit_facts(self) -> list[FactKept]:
        """Return every limit's state, and the deposits they rest on, as entries to journal."""
        kept = {key: wire.encode(state) for key, state in self._limits.items()}
        if self._deposits is not None:
            kept["deposits"] = wire.encode(self._deposits)
        return [FactKept(follower=self._name, name=key, body=msgspec.Raw(body)) for key, body in sorted(kept.items())]

    async def _paid_in(self) -> Decimal:
        if self._gateway.deals is None:
            return ZERO
        if self._deposits is None:
            offset = timedelta(seconds=self.account.server_offset_s or 0)
            start = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC) + offset
            before = await self._gateway.deals.get_deals(start - timedelta(days=1))
            self._deposits = Deposits(since=start - timedelta(days=1), last_ticket=max((d.ticket for d in before), default=0))
        deals = await self._gateway.deals.get_deals(self._deposits.since)
        fresh = [deal for deal in deals if deal.ticket > self._deposits.last_ticket]
        if fresh:
            paid = sum((d.profit for d in fresh if d.type in (DealType.BALANCE, DealType.CREDIT)), ZERO)
            self._deposits = Deposits(
                total=self._deposits.total + paid,
                last_ticket=max(deal.ticket for deal in fresh),
                since=max(self._deposits.since, fresh[-1].time - timedelta(days=1)),
            )
        return self._deposits.total

    # What is allowed -----------------------------------------------------------------------------------------------------

    def set_controls(self, controls: Mapping[str, str]) -> bool:
        """Take what people have set (by scope: `*`, follower, follower/master); return whether it is news to this follower."""
        name = self._name.removesuffix(TWIN)
        if name != self._name:
            of_both = {scope: control for scope, control in controls.items() if scope.startswith(f"{name}/")}
            controls = {**{scope.replace(name, self._name, 1): control for scope, control in of_both.items()}, **controls}
        scopes = {"*", name, self._name, *(f"{self._name}/{copy.master}" for copy in self._settings.copies)}
        scopes |= {f"group:{group}" for group in self._settings.groups}
        mine = {scope: control for scope, control in controls.items() if scope in scopes}
        changed = mine != self._controls
        self._controls = mine
        return changed

    @property
    def steered(self) -> bool:
        """Whether a person has taken anything away from this account."""
        return any(control in ("close_only", "flatten", "frozen") for control in self._controls.values())

    @property
    def frozen(self) -> bool:
        """Whether nothing at all may be done on this account."""
        return any(control == "frozen" and "/" not in scope for scope, control in self._controls.items())

    def relation_frozen(self, master: str) -> bool:
        """Whether nothing may be done for one master."""
        return self._controls.get(f"{self._name}/{master}") == "frozen"

    def flatten_asked(self, master: str) -> bool:
        """Whether a person or a limit wants everything of this master closed."""
        asked = any(
            control == "flatten" and ("/" not in scope or scope == f"{self._name}/{master}")
            for scope, control in self._controls.items()
        )
        return asked or any(action is LossAction.CLOSE_ALL for _, action in self._fired(master))

    def mode_of(self, master: str) -> tuple[Mode, str]:
        """Return what a relation may do, and who or what took the rest away."""
        mode = self._modes[master]
        if not self._controls and not self.silent and not self.has_limits:
            return mode, ""
        allowed = [(mode, "")]
        for scope, control in self._controls.items():
            if "/" in scope and scope != f"{self._name}/{master}":
                continue
            if control in ("close_only", "flatten"):
                allowed.append((Mode.CLOSE_ONLY, f"set to {control} for {scope}"))
            elif control == "frozen":
                allowed.append((Mode.FROZEN, f"set to frozen for {scope}"))
        allowed += [(Mode.CLOSE_ONLY, f"loss limit {limit.name} has fired") for limit, _ in self._fired(master)]
        allowed += [(Mode.CLOSE_ONLY, words) for silent, words in self.silent.items() if silent == master]
        return max(allowed, key=lambda each: _STRICTER[each[0]])

    def _fired(self, master: str) -> list[tuple[LossLimit, LossAction]]:
        """Return the limits that have fired and bear on this relation: a close-only one holds for the whole follower."""
        fired = []
        for scope, policy in self._scopes.items():
            for limit in policy.losses:
                action = active(limit, self._limits.get(_limit_key(scope, limit)))
                if action is None:
                    continue
                if scope in ("", master) or action is not LossAction.STOP_OPENS:
                    fired.append((limit, action))
        return fired


def _limit_key(scope: str, limit: LossLimit) -> str:
    return f"limit:{scope}:{limit.name}"
