"""One follower's opens: planned on fresh facts, journaled, sent, and what becomes of those that are refused."""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import NamedTuple, Protocol

import msgspec

from copier.errors import GatewayError, Rejected, StoreError, Unavailable
from copier.holdings import Holdings
from copier.leveller import Leveller
from copier.link import Leg, LegState, Link, LinkName, LinkState, make_tag
from copier.memory import Memory, Relation
from copier.model import ZERO, MarginMode, MasterPosition, Permit, Quote, Record, Refused, SymbolSpec, TradeRequest, Verdict
from copier.orders import NotDone, Orders
from copier.plan import NOT_KNOWN_YET, OpenFacts, Planned, check_before_quote, plan_open, symbol_of
from copier.policy import FollowerRisk, Mode, Rounding, SharedSymbol
from copier.standing import ACCOUNT_AGE_MS, Standing
from copier.stops import LevelFacts, levels_to_set
from copier.symbols import Catalogue

log = logging.getLogger(__name__)
replace = msgspec.structs.replace

REQUOTE_PAUSE_S = 0.05
PAUSE_MIN_S = 0.2
SNAPSHOT_PAUSE_S = 1.0
AGES = frozenset({"open_too_old", "existing_too_old"})
PACED_MAX = 1_000
"""An account that takes more orders a second than this is not kept waiting at all."""
LOOK_SOON_S = 0.5
"""After an open its position is looked at: only its identifier is sure to stay, and an answer does not tell it."""


class JustRead(NamedTuple):
    """What was looked at for orders that are prepared right now."""

    prices: Mapping[str, tuple[Quote, int]]
    """By symbol, and when each was answered."""
    rates: Mapping[str, Decimal | None]
    """By master."""
    account: bool


NOTHING_READ = JustRead({}, {}, account=False)


class Agenda(Protocol):
    """When the follower looks at things again."""

    def level_within(self, seconds: float) -> None:
        """Compare with a fresh read after so many seconds at the latest."""
        ...

    def put_off(self, name: LinkName, pause_s: float) -> None:
        """Ask again what a link wants after a pause, not before."""
        ...

    def wait_for_symbol(self, link: Link) -> bool:
        """Put a link off until the order before it in its netting symbol is certain; return False."""
        ...


class Outgoing(Record, frozen=True, kw_only=True):
    """One opening order, planned and not yet sent."""

    before: Link
    """What was believed of the link before."""
    link: Link
    """What must be durable before the order leaves."""
    leg: Leg
    request: TradeRequest
    permit: Permit = Permit(token=0, not_after_ms=0)
    planned: Planned
    master_lots: Decimal


class Opens:
    """Plans and sends the opening orders of one follower."""

    def __init__(
        self,
        memory: Memory,
        standing: Standing,
        leveller: Leveller,
        holdings: Holdings,
        orders: Orders,
        agenda: Agenda,
        *,
        token: int,
        risk: FollowerRisk,
    ) -> None:
        self._memory = memory
        self._standing = standing
        self._leveller = leveller
        self._holdings = holdings
        self._orders = orders
        self._agenda = agenda
        self._token = token
        self._risk = risk
        self._number = 0
        self._first_try_ms: dict[LinkName, int] = {}
        self._names: dict[tuple[str, str], tuple[SymbolSpec | None, Catalogue | None, str | Refused]] = {}
        """By master and its symbol: both sides' rules, and what came of them."""
        bursts = [_burst(float(relation.policy.protection.orders_per_s)) for relation in memory.relations.values()]
        self._sent_s: deque[float] = deque(maxlen=max((burst for burst in bursts if burst <= PACED_MAX), default=0))
        """When the last opens were sent, on the loop's clock."""

    async def open(self, link: Link, master_lots: Decimal) -> bool:
        """Copy so much of the master's volume; return whether all of it was filled. Raise `NotDone` to be asked again."""
        planned = await self._plan(link, master_lots)
        if isinstance(planned, Refused):
            if planned.code in NOT_KNOWN_YET or (planned.code in AGES and self._undated(link)):
                self._agenda.put_off(link.name, SNAPSHOT_PAUSE_S)
            else:
                self._refuse(link, planned)
            return False
        level, symbol = self._leveller, planned.symbol
        if level.waits_for(symbol, link.name) or level.closes_first(symbol) or level.is_odd(symbol):
            return self._agenda.wait_for_symbol(link)
        link = _decided(link, planned, master_lots)
        for lots in planned.lots:
            if not await self._send(link, planned, lots, master_lots):
                return False
            link = self._memory.links[link.name]
        return True

    def _undated(self, link: Link) -> bool:
        """Return whether nobody can tell how old an open is yet, while it may still be young enough.

        A worker that has just begun learns the master's clock from the next snapshot, a terminal that has just started learns
        its server's from the next price.
        """
        relation = self._memory.relations[link.master]
        if link.absent_ms or (relation.facts is not None and relation.facts.server_offset_s is not None):
            return False
        waited_ms = self._memory.clock.now_ms() - link.stamps.received_ms
        return relation.facts is None or waited_ms <= relation.policy.protection.open_age_max_s * 1000

    async def freshen(self, links: Iterable[Link]) -> JustRead:
        """Read again what these opens are to be prepared on, where that is too old; what cannot be read stays old."""
        ages_ms: dict[str, int] = {}
        masters: dict[str, int] = {}
        for link in links:
            age_max_ms = self._memory.relations[link.master].policy.protection.read_ahead_max_ms
            found = self._symbol(link) if age_max_ms else None
            if isinstance(found, tuple):
                ages_ms[found[0]] = masters[link.master] = age_max_ms
        if not ages_ms:
            return NOTHING_READ
        prices: dict[str, tuple[Quote, int]] = {}
        rates: dict[str, Decimal | None] = {}
        standing, clock = self._standing, self._memory.clock
        try:
            await standing.refresh_account(min(*ages_ms.values(), ACCOUNT_AGE_MS))
            for master, age_max_ms in masters.items():
                facts = self._memory.relations[master].facts
                rates[master] = standing.rate_read(facts, age_max_ms) or await standing.rate(facts)
            for symbol, age_max_ms in ages_ms.items():
                prices[symbol] = standing.quote_read(symbol, age_max_ms) or (await standing.quote(symbol), clock.now_ms())
        except GatewayError:
            return NOTHING_READ
        return JustRead(prices, rates, account=True)

    def prepare(self, link: Link, just_read: JustRead = NOTHING_READ) -> "Outgoing | None":
        """Plan a new position on what was read beforehand and return its one order, ready to be journaled and delivered.

        What was just read is taken however long the answer took, as it would be by `open`: a price's age counts from its answer.
        Return None where anything asks for a closer look: what was read is too old, a rule says no, more than one order is due.
        """
        relation = self._memory.relations[link.master]
        policy = relation.policy
        age_max_ms = policy.protection.read_ahead_max_ms
        if not age_max_ms or policy.size.rounding is Rounding.CARRY or link.name in self._first_try_ms:
            return None
        if not self._has_room(float(policy.protection.orders_per_s)):
            return None
        found = self._symbol(link)
        if isinstance(found, Refused):
            return None
        symbol, mode = found
        read = just_read.prices.get(symbol)
        if read is None or self._memory.clock.now_ms() - read[1] > age_max_ms:
            read = self._standing.quote_read(symbol, age_max_ms)
        rate = just_read.rates.get(link.master) or self._standing.rate_read(relation.facts, age_max_ms)
        account = just_read.account or self._standing.account_read(age_max_ms)
        if read is None or (rate is None and relation.facts is not None) or not account:
            return None
        quote, quote_ms = read
        master_lots = link.position.lots
        planned = self._decide(link, master_lots, mode, quote, quote_ms, rate)
        if isinstance(planned, Refused) or len(planned.lots) != 1:
            return None
        self._sent_s.append(asyncio.get_running_loop().time())
        return self._compose(_decided(link, planned, master_lots), planned, planned.lots[0], master_lots, None)

    def _symbol(self, link: Link) -> tuple[str, Mode] | Refused:
        """Return what to trade and in which mode, or what already speaks against it before any price is asked for."""
        relation = self._memory.relations[link.master]
        policy = relation.policy
        mode, why = self._standing.mode_of(link.master)
        refused = check_before_quote(policy, link.position, mode, why, self._memory.clock.now_ms())
        if refused:
            return refused
        symbol = self._named(relation, link.position.symbol)
        return symbol if isinstance(symbol, Refused) else (symbol, mode)

    def _named(self, relation: Relation, name: str) -> str | Refused:
        """Return the follower's symbol for a master's; it is looked for again where the rules of either side have changed."""
        spec, catalogue = relation.specs.get(name), self._standing.catalogue
        known = self._names.get((relation.policy.master, name))
        if known is None or known[0] is not spec or known[1] is not catalogue:
            known = spec, catalogue, symbol_of(relation.policy, name, spec, catalogue)
            self._names[relation.policy.master, name] = known
        return known[2]

    async def _plan(self, link: Link, master_lots: Decimal) -> Planned | Refused:
        found = self._symbol(link)
        if isinstance(found, Refused):
            return found
        symbol, mode = found
        policy = self._memory.relations[link.master].policy
        try:
            quote = await self._standing.quote(symbol)
        except Rejected as error:
            return Refused(code="symbol_unmapped", rule="symbols", message=str(error))
        except Unavailable as error:
            raise NotDone(error) from error
        if self._standing.mode is MarginMode.NETTING:
            book = await self._leveller.level()
            shared = self._leveller.shared(link, symbol, book)
            if shared and policy.copying.shared_symbols is SharedSymbol.REFUSE:
                return Refused(code="symbol_shared", rule="copy.shared_symbols", message=shared)
        await self._standing.refresh_account()
        quote_ms = self._memory.clock.now_ms()
        rate = await self._standing.rate(self._memory.relations[link.master].facts)
        return self._decide(link, master_lots, mode, quote, quote_ms, rate)

    def _decide(
        self, link: Link, master_lots: Decimal, mode: Mode, quote: Quote, quote_ms: int, rate: Decimal | None
    ) -> Planned | Refused:
        relation, symbol = self._memory.relations[link.master], quote.symbol
        facts = OpenFacts(
            now_ms=self._memory.clock.now_ms(),
            mode=mode,
            account=self._standing.account,
            account_ms=self._standing.account_ms,
            quote=quote,
            quote_ms=quote_ms,
            master=relation.facts,
            master_spec=relation.specs.get(link.position.symbol),
            rate=rate,
            residue=self._standing.residue(link.master, symbol),
            exposures=self._holdings.look(self._leveller.foreign_positions),
            relation_losses=self._standing.losses(link.master),
            follower_losses=self._standing.losses(""),
        )
        return plan_open(relation.policy, self._risk, link, master_lots, facts)

    async def _send(self, link: Link, planned: Planned, lots: Decimal, master_lots: Decimal) -> bool:
        """Journal one order and send it; return whether it was filled."""
        net = None
        if self._standing.mode is MarginMode.NETTING:
            await self._leveller.level()
            net = self._leveller.net_now(planned.symbol)
        order = self._compose(link, planned, lots, master_lots, net)
        await self._pace(float(self._memory.relations[link.master].policy.protection.orders_per_s))
        order = self.begin(order)
        try:
            await self._memory.save(order.link)
        except StoreError:
            self.withdraw(order)
            raise
        return await self.deliver(order)

    def _compose(self, link: Link, planned: Planned, lots: Decimal, master_lots: Decimal, net: Decimal | None) -> "Outgoing":
        """Return one order of a plan, as it is to leave."""
        policy = self._memory.relations[link.master].policy.copying
        stamps = replace(link.stamps, decided_ms=self._memory.clock.now_ms(), sent_ms=0, answered_ms=0)
        self._number += 1
        leg = Leg(tag=make_tag(self._token, self._number), side=planned.side, asked=lots, net_before=net)
        before = self._memory.links[link.name]
        link = replace(link, legs=(*link.legs, leg), stamps=stamps)  # Lost ones stay: they may land yet, and be told apart.
        stop, target = planned.stop_loss, planned.take_profit
        if net is not None:
            stop, target = self._leveller.net_levels_with(link)
        request = TradeRequest(
            symbol=planned.symbol,
            action=planned.side,
            lots=lots,
            stop_loss=stop,
            take_profit=target,
            slippage=policy.slippage_points,
            magic=policy.magic,
            comment=policy.comment,
            tag=leg.tag,
        )
        return Outgoing(before=before, link=link, leg=leg, request=request, planned=planned, master_lots=master_lots)

    def begin(self, order: "Outgoing") -> "Outgoing":
        """Return an order with its deadline running: what of it must be durable before it may leave is its link."""
        link, leg, permit = self._orders.begin_open(order.link, order.leg)
        return replace(order, link=link, leg=leg, permit=permit)

    def withdraw(self, order: "Outgoing") -> None:
        """Want it again: it could not be made durable, so nothing was sent."""
        self._memory.dirty[order.before.name] = None
        self._memory.take_back(order.before)

    async def deliver(self, order: "Outgoing") -> bool:
        """Send an order that is durable, and take note of what became of it; return whether it was filled."""
        planned, leg, master_lots = order.planned, order.leg, order.master_lots
        lots, sent_ms = leg.asked, self._memory.clock.now_ms()
        try:
            link, result = await self._orders.finish_open(order.link, leg, order.request, order.permit)
        except NotDone as refusal:
            self._not_opened(order.before, refusal, planned, order.link)
            return False
        except StoreError:
            self.withdraw(order)
            raise
        finally:
            self._leveller.traded(planned.symbol)
        await asyncio.sleep(0)  # Orders that are ready to leave go before what is noted of this one.
        self._standing.filled(order.link.name, leg.tag)
        stamps = replace(order.link.stamps, sent_ms=sent_ms, answered_ms=self._memory.clock.now_ms())
        link = replace(link, stamps=stamps)
        if result is not None and (result.price != planned.price or len(link.legs) > 1):
            link = replace(link, laid_for=None)  # The levels were laid on another fill than we got.
        self._first_try_ms.pop(link.name, None)
        link = self._memory.believe(link)
        if result is None:
            self._memory.note(link, "open", Verdict.UNKNOWN, "outcome_unknown", lots=lots, tag=leg.tag)
            self._memory.dirty[link.name] = None
            self._agenda.level_within(PAUSE_MIN_S)
            return False
        self._agenda.level_within(LOOK_SOON_S)
        self._agenda.level_within(self._leveller.book.settle_ms / 1000)  # To learn what the answer does not say.
        residue = self._standing.keep_residue(link.master, planned.symbol, planned.residue)
        if residue is not None:
            self._memory.keep(residue)
        self._memory.note_copied(
            link, planned, result.lots, result.price, result.ticket, leg.tag, master_lots, self._standing.spec(link.symbol)
        )
        return True

    async def _pace(self, orders_per_s: float) -> None:
        """Wait until the account has room for another open in this second; closes and reductions never wait."""
        loop = asyncio.get_running_loop()
        burst = _burst(orders_per_s)
        if len(self._sent_s) >= burst:
            await asyncio.sleep(max(0.0, self._sent_s[-burst] + burst / orders_per_s - loop.time()))
        self._sent_s.append(loop.time())

    def _has_room(self, orders_per_s: float) -> bool:
        burst = _burst(orders_per_s)
        if len(self._sent_s) < burst:
            return True
        return self._sent_s[-burst] + burst / orders_per_s <= asyncio.get_running_loop().time()

    def _not_opened(self, before: Link, refusal: NotDone, planned: Planned, tried: Link) -> None:
        """Try again within the budget what was surely not executed; else it is refused for good."""
        name = before.name
        now = self._memory.clock.now_ms()
        first = self._first_try_ms.setdefault(name, now)
        budget = self._memory.relations[name[0]].policy.protection.retry_budget_s
        if refusal.again and before.anchor < before.position.lots_opened and now - first < budget * 1000:
            self._memory.dirty[name] = None
            self._memory.take_back(before)
            fresh_price = isinstance(refusal.cause, Rejected) and refusal.cause.wants_fresh_price
            pause = REQUOTE_PAUSE_S if fresh_price else PAUSE_MIN_S
            self._agenda.put_off(name, pause)
            return
        self._first_try_ms.pop(name, None)
        filled = [leg for leg in tried.legs if leg.state is not LegState.SENDING]
        kept = replace(tried, legs=tuple(filled)) if filled else before
        self._refuse(kept, Refused(code=refusal.code, rule="broker", message=str(refusal.cause)), Verdict.FAILED)

    def _refuse(self, link: Link, refused: Refused, verdict: Verdict = Verdict.REFUSED) -> None:
        state = LinkState.SKIPPED if link.existing else LinkState.REFUSED
        if refused.code.startswith("existing_"):
            verdict = Verdict.SKIPPED
        if link.legs:
            state = link.state
        link = replace(link, state=state, anchor=link.position.lots_opened, reason=refused.code)
        self._memory.believe(link)
        log.info("%s: %s %s not copied: %s", self._memory.name, link.master, link.key, refused.message)
        self._memory.note(
            link, "open", verdict, refused.code, rule=refused.rule, message=refused.message, numbers=refused.numbers
        )

    async def aim(self, link: Link) -> None:
        """Compute the levels wanted at the broker again, after a fill or when the master moved its own."""
        if link.laid_for == levels_of(link.position):
            return
        open_legs = [leg for leg in link.legs if leg.state is LegState.OPEN]
        if not open_legs or not link.wanted_open:
            return
        quote = await self._standing.quote(link.symbol)
        if not quote.spec.usable:
            return  # What can be closed must not wait for rules that level no price.
        filled = sum((leg.filled for leg in open_legs), ZERO)
        fill = sum((leg.price * leg.filled for leg in open_legs), ZERO) / filled
        levels = levels_to_set(
            self._memory.relations[link.master].policy.copying,
            LevelFacts(
                side=link.side,
                fill=fill,
                master_fill=link.position.open_price,
                master_stop=link.position.stop_loss,
                master_target=link.position.take_profit,
                quote=quote,
            ),
        )
        laid_for = levels_of(link.position)
        self._memory.believe(replace(link, stop_loss=levels.stop, take_profit=levels.target, laid_for=laid_for))


def _burst(orders_per_s: float) -> int:
    return max(1, int(orders_per_s))


def _decided(link: Link, planned: Planned, master_lots: Decimal) -> Link:
    return replace(
        link,
        symbol=planned.symbol,
        side=planned.side,
        state=LinkState.COPIED,
        anchor=link.position.lots_opened,
        before=link.before + link.growth - master_lots,
        stop_loss=planned.stop_loss,
        take_profit=planned.take_profit,
        laid_for=levels_of(link.position),
        reason="",
    )


def levels_of(position: MasterPosition) -> tuple[Decimal, Decimal, Decimal]:
    """Return what of a master's position our levels are computed from."""
    return position.stop_loss, position.take_profit, position.open_price
