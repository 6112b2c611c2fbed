"""One follower: takes in its masters' changes, plans, trades, records, and levels itself against what its broker shows.

The only writer of its account. Events are folded into what is wanted of each link the moment they arrive; one task then drives
every link to it, an order at a time, and compares with a fresh read whenever something is not certain.
"""

import asyncio
import contextlib
import logging
from collections import deque
from decimal import Decimal

import msgspec

from copier.clock import Clock
from copier.errors import CopierError, Fenced, Rejected, StoreError, Unavailable
from copier.filters import hours_over
from copier.gateway import Gateway
from copier.ledger import FactKept, JournalEntry, Ledger, LinkKept, ReadingKept, ReceiptKept, Remembered
from copier.leveller import Leveller
from copier.link import Leg, LegState, Link, LinkState, make_tag
from copier.model import (
    ZERO,
    Closed,
    MarginMode,
    MasterFacts,
    MasterPosition,
    Modified,
    Opened,
    Position,
    Receipt,
    Reduced,
    Refused,
    Reversed,
    ScaledIn,
    Snapshot,
    Stamps,
    SymbolSpec,
    TradeRequest,
    Verdict,
)
from copier.orders import NotDone, Orders
from copier.plan import OpenFacts, Planned, check_before_quote, plan_open, side_of, symbol_of
from copier.policy import Mode, SharedSymbol
from copier.reconcile import CloseLeg, OpenMore, ReduceLeg, Repair, SetLevels, repairs, with_leg
from copier.settings import CopySettings, FollowerSettings
from copier.standing import Standing
from copier.stops import LevelFacts, levels_to_set
from copier.stream import Entry, EntryId

log = logging.getLogger(__name__)
replace = msgspec.structs.replace

LinkName = tuple[str, str]
REQUOTE_PAUSE_S = 0.05
PAUSE_MIN_S = 0.2
PAUSE_MAX_S = 30.0
STEPS_MAX = 50
"""A link that still wants something after so many steps of one turn waits for the next."""


class Relation:
    """What a follower knows of one master: the policy, how far it has read, and the master's newest facts."""

    def __init__(self, policy: CopySettings, seen: EntryId | None) -> None:
        self.policy = policy
        self.seen = seen or EntryId()
        self.started = seen is not None
        """False until the first snapshot: what stands in it was there before the relation."""
        self.gap = False
        """Something was not read: opens wait for the next snapshot, closes go on."""
        self.facts: MasterFacts | None = None
        self.specs: dict[str, SymbolSpec] = {}


class Follower:
    """Copies its masters to one account."""

    def __init__(
        self,
        name: str,
        settings: FollowerSettings,
        gateway: Gateway,
        ledger: Ledger,
        clock: Clock,
        *,
        token: int,
        remembered: Remembered,
        reconcile_s: float = 30.0,
    ) -> None:
        self.name = name
        self.settings = settings
        self.error = ""
        """Why the account cannot be followed just now; empty while all is well."""
        self.gateway = gateway
        self.clock = clock
        self.links: dict[LinkName, Link] = dict(remembered.links.get(name, {}))
        seen = {master: EntryId.parse(entry) for (who, master), entry in remembered.readings.items() if who == name}
        self.relations = {copy.master: Relation(copy, seen.get(copy.master)) for copy in settings.copies}
        self.standing = Standing(name, settings, gateway, clock, remembered)
        self.orders = Orders(name, gateway, clock, token, self._save)
        self._ledger = ledger
        self._token = token
        self._number = 0
        self._reconcile_s = reconcile_s
        self._wake = asyncio.Event()
        self._dirty: dict[LinkName, None] = {}
        self._touched: dict[LinkName, None] = {}
        self._notes: list[JournalEntry] = []
        self._read: dict[str, None] = {}
        self._relevel: set[LinkName] = set()
        self._again: dict[LinkName, tuple[float, float]] = {}
        """When a link that was refused something may ask again, and the pause it has by then."""
        self._first_try_ms: dict[LinkName, int] = {}
        self._complained: dict[LinkName, str] = {}
        self._level_at = 0.0
        self._sent_s: deque[float] = deque(maxlen=1_000)
        """When the last opens were sent, on the loop's clock."""
        self.leveller = Leveller(self)

    # Taking in ------------------------------------------------------------------------------------------------------

    def accept(self, entry: Entry) -> None:
        """Fold one entry of a master into what is wanted; ids already read are dropped. Never blocks, never trades."""
        relation = self.relations[entry.master]
        if entry.id <= relation.seen:
            return
        follows = entry.id == relation.seen.next or (entry.id.epoch > relation.seen.epoch and entry.id.sequence == 1)
        if not follows or entry.event is None:
            relation.gap = True
        relation.seen = entry.id
        self._read[entry.master] = None
        event = entry.event
        if event is None:
            log.warning(
                "%s: entry %s of %s cannot be read or is not signed; waiting for a snapshot", self.name, entry.id, entry.master
            )
            return
        relation.facts = event.facts or relation.facts
        match event:
            case Snapshot():
                self._accept_snapshot(relation, event)
            case Closed():
                self._unwant(event.master, event.position, "master_closed", event)
            case Reversed():
                self._unwant(event.master, event.closed, "master_reversed", event)
                self._accept_open(relation, event, event.position.open_price)
            case Opened():
                self._accept_open(relation, event, event.position.open_price)
            case ScaledIn():
                self._accept_open(relation, event, event.price)
            case Reduced() | Modified():
                self._want(event.master, event.position, event)
        self._wake.set()

    def _accept_open(self, relation: Relation, event: Opened | ScaledIn | Reversed, price: Decimal) -> None:
        if event.spec is not None:
            relation.specs[event.position.symbol] = event.spec
        if relation.gap or not relation.started:
            return  # What is missing may be its close: the next snapshot says what is really open.
        self._want(event.master, event.position, event, absent_ms=event.absent_ms, price=price)

    def _accept_snapshot(self, relation: Relation, event: Snapshot) -> None:
        relation.specs.update(event.specs)
        there = {position.key for position in event.positions}
        for position in event.positions:
            known = self.links.get((event.master, position.key))
            if known is None or known.position != position:
                self._want(event.master, position, event, existing=not relation.started)
        for (master, key), link in list(self.links.items()):
            if master == event.master and link.wanted_open and key not in there:
                self._unwant(master, link.position, "master_closed_unseen", event)
        relation.started, relation.gap = True, False

    def _want(
        self,
        master: str,
        position: MasterPosition,
        event: Opened | ScaledIn | Reversed | Reduced | Modified | Snapshot,
        *,
        existing: bool = False,
        absent_ms: int = 0,
        price: Decimal = ZERO,
    ) -> None:
        name = (master, position.key)
        link = self.links.get(name)
        if link is None:
            if isinstance(event, Reduced | Modified):
                return
            link = Link(follower=self.name, master=master, key=position.key, position=position, existing=existing)
        elif not link.wanted_open:
            return
        grew = position.lots_opened > link.position.lots_opened or name not in self.links
        if grew:
            stamps = Stamps(read_ms=event.read_ms, published_ms=event.published_ms, received_ms=self.clock.now_ms())
            link = replace(link, absent_ms=absent_ms, master_price=price or position.open_price, stamps=stamps)
        moved = (position.stop_loss, position.take_profit, position.open_price)
        if moved != (link.position.stop_loss, link.position.take_profit, link.position.open_price):
            self._relevel.add(name)
        if link.state in (LinkState.REFUSED, LinkState.SKIPPED) and not isinstance(event, Snapshot):
            self._note(link, event_name(event), Verdict.SKIPPED, "not_copied", message=f"its open was not copied: {link.reason}")
        self._set(replace(link, position=position), dirty=True)

    def _unwant(self, master: str, position: MasterPosition, reason: str, event: Closed | Reversed | Snapshot) -> None:
        link = self.links.get((master, position.key))
        if link is None or not link.wanted_open:
            return
        if not any(leg.living for leg in link.legs):
            self._note(
                link, event_name(event), Verdict.SKIPPED, "not_copied", message=f"nothing of it is open here: {link.reason}"
            )
        stamps = Stamps(read_ms=event.read_ms, published_ms=event.published_ms, received_ms=self.clock.now_ms())
        flat = replace(link.position, lots=ZERO)
        self._set(replace(link, wanted_open=False, position=flat, reason=reason, stamps=stamps), dirty=True)

    def give_up(self, link: Link, reason: str) -> None:
        """Want a link closed for a reason of our own (flatten, a limit, the end of a window); it is never opened again."""
        if link.wanted_open:
            self._set(replace(link, wanted_open=False, reason=reason), dirty=True)
            self._wake.set()

    # Driving --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, level against the broker, then follow until cancelled; end by `Fenced` when another owner has begun."""
        for link in self.links.values():
            self._set(_taken_over(link), dirty=True)
        pause, connected = 0.0, False
        while True:
            try:
                if not connected:
                    await self._connect()
                    connected = True
                await self._turn()
                if self.error:
                    log.info("%s: following again", self.name)
                self.error, pause = "", 0.0
            except Fenced:
                raise
            except CopierError as error:
                if str(error) != self.error:
                    log.warning("%s: cannot follow: %s", self.name, error)
                self.error = str(error)
                pause = min(max(pause * 2, PAUSE_MIN_S), PAUSE_MAX_S)
                self._level_at = 0.0
            await self._wait(pause)

    async def _connect(self) -> None:
        """Reach the account and level against it before anything is traded."""
        await self.gateway.open()
        await self.standing.begin()
        for symbol in sorted({link.symbol for link in self.links.values() if link.living and link.symbol}):
            with contextlib.suppress(Rejected, Unavailable):
                await self.standing.quote(symbol)
        await self.leveller.level()
        self._level_at = asyncio.get_running_loop().time() + self._reconcile_s

    async def _wait(self, pause: float) -> None:
        loop = asyncio.get_running_loop()
        if pause:
            await asyncio.sleep(pause)
            return
        if not self.standing.frozen and any(self._again.get(name, (0.0, 0.0))[0] <= loop.time() for name in self._dirty):
            await asyncio.sleep(0)
            return
        due = [self._level_at, *(at for at, _ in self._again.values())]
        try:
            async with asyncio.timeout(max(0.0, min(due) - loop.time())):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    def wake(self) -> None:
        """Look again now: something outside changed, such as a control or a limit."""
        self._wake.set()

    async def _turn(self) -> None:
        """Drive every link that may want something, then compare with the broker if anything is uncertain or due."""
        if self.standing.frozen:
            await self._commit()
            self._dirty = {name: None for name, link in self.links.items() if link.living}
            self._level_at = asyncio.get_running_loop().time() + self._reconcile_s
            return
        self._enforce()
        now = asyncio.get_running_loop().time()
        self._again = {name: value for name, value in self._again.items() if value[0] > now or name in self._dirty}
        for name in [name for name in self._dirty if self._again.get(name, (0.0, 0.0))[0] <= now]:
            self._dirty.pop(name, None)
            await self._follow_on(name)
        if now >= self._level_at or asyncio.get_running_loop().time() >= self._level_at:
            self._level_at = asyncio.get_running_loop().time() + self._reconcile_s
            await self.leveller.level()
        await self._commit()

    async def _follow_on(self, name: LinkName) -> None:
        """Do what one link wants; what fails on the way is wanted again, and holds up the others only where the account is gone."""
        try:
            await self._follow(name)
        except (Rejected, Unavailable) as error:
            self._dirty[name] = None
            await self.leveller.level()
            self._put_off(name, NotDone(error))
        except CopierError:
            self._dirty[name] = None
            raise

    def _enforce(self) -> None:
        """Want closed what a person, a limit or the end of a trading window wants closed."""
        for master, relation in self.relations.items():
            if self.standing.flatten_asked(master):
                reason = "flattened"
            elif hours_over(relation.policy.filters, self.clock.now_ms()):
                reason = "window_ended"
            else:
                continue
            for link in list(self.links.values()):
                if link.master == master and link.wanted_open and any(leg.living for leg in link.legs):
                    self.give_up(link, reason)

    async def sample(self) -> None:
        """Judge the loss limits by a fresh read of the account, and act on those that fire. Raise `Unavailable`."""
        if not self.standing.has_limits or not hasattr(self.standing, "account"):
            return
        news = await self.standing.observe_limits()
        for scope, limit, seen in news:
            log.warning("%s: %s", self.name, seen.message)
            verdict = Verdict.ALERT if seen.action is not None else Verdict.CHANGED
            self._notes.append(
                ReceiptKept(
                    receipt=Receipt(
                        at_ms=self.clock.now_ms(),
                        follower=self.name,
                        master=scope,
                        key="",
                        event="limit",
                        verdict=verdict,
                        code=seen.code,
                        rule=f"risk.losses.{limit.name}",
                        message=seen.message,
                        numbers=seen.numbers,
                    )
                )
            )
        if news:
            self._notes += self.standing.limit_facts()
            self._wake.set()

    def level_within(self, seconds: float) -> None:
        """Compare with a fresh read after so many seconds at the latest."""
        self._level_at = min(self._level_at, asyncio.get_running_loop().time() + seconds)

    async def _follow(self, name: LinkName) -> None:
        """Do what one link wants, step by step, by what is believed of it."""
        if self.relations[name[0]].policy.mode is Mode.FROZEN or self.standing.relation_frozen(name[0]):
            self._dirty[name] = None
            self._again[name] = (asyncio.get_running_loop().time() + self._reconcile_s, 0.0)
            return
        for _ in range(STEPS_MAX):
            link = self.links[name]
            await self._aim(link)
            link = self.links[name]
            spec = self.standing.spec(link.symbol)
            if spec is None and link.symbol:
                spec = (await self.standing.quote(link.symbol)).spec
            steps = repairs(link, spec, self.standing.mode)
            if not steps:
                break
            try:
                if not await self._do(link, steps[0]):
                    break
            except NotDone as refusal:
                self._put_off(name, refusal)
                break
            self._again.pop(name, None)
            self._complained.pop(name, None)
        if self.standing.mode is MarginMode.NETTING and self.links[name].symbol:
            await self.leveller.set_net_levels(self.links[name].symbol)

    async def _do(self, link: Link, step: Repair) -> bool:
        """Do one step; return whether the next may follow at once, without a fresh read."""
        match step:
            case OpenMore():
                return await self._open(link, step.master_lots)
            case CloseLeg():
                return await self._cut(link, step.leg, ZERO)
            case ReduceLeg():
                return await self._cut(link, step.leg, step.lots_after)
            case SetLevels():
                certain = await self.orders.set_levels(step.leg.ticket, step.stop_loss, step.take_profit)
                if certain:
                    leg = replace(step.leg, stop_loss=step.stop_loss, take_profit=step.take_profit)
                    self._set(with_leg(self.links[link.name], leg))
                    self._note(link, "modify", Verdict.CHANGED, "levels_set", lots=leg.lots, ticket=leg.ticket)
                else:
                    self.level_within(0.0)
                return certain

    def _put_off(self, name: LinkName, refusal: NotDone) -> None:
        """Ask again later, with growing pauses: what closes or protects never expires."""
        _, pause = self._again.get(name, (0.0, PAUSE_MIN_S / 2))
        pause = min(pause * 2, PAUSE_MAX_S)
        self._again[name] = (asyncio.get_running_loop().time() + pause, pause)
        self._dirty[name] = None
        link = self.links[name]
        if link.cut is not None and not link.cut.answered:
            self._set(replace(link, cut=None))
        if self._complained.get(name) != refusal.code:
            self._complained[name] = refusal.code
            event = "close" if not link.wanted_open else "modify" if link.legs else "open"
            self._note(link, event, Verdict.FAILED, refusal.code, lots=link.lots, message=f"{refusal}; it is tried again")

    def complain_levels(self, name: LinkName, refusal: NotDone) -> None:
        """Put off setting the levels of a netting position."""
        self._put_off(name, refusal)

    def orphan_link(self, master: str, position: Position, leg: Leg) -> Link:
        """Return an unwanted link that owns a position nobody else does."""
        seen = MasterPosition(
            identifier=position.identifier,
            ticket=position.ticket,
            symbol=position.symbol,
            side=position.type,
            lots=ZERO,
            lots_opened=position.lots,
            open_price=position.open_price,
            open_time=position.open_time,
        )
        return Link(
            follower=self.name,
            master=master,
            key=f"orphan-{position.ticket}",
            position=seen,
            wanted_open=False,
            state=LinkState.COPIED,
            symbol=position.symbol,
            side=position.type,
            legs=(leg,),
            anchor=position.lots,
            reason="orphan",
        )

    def _wait_for_symbol(self, link: Link) -> bool:
        self._dirty[link.name] = None
        self._again[link.name] = (asyncio.get_running_loop().time() + PAUSE_MIN_S, PAUSE_MIN_S)
        self.level_within(PAUSE_MIN_S)
        return False

    async def _cut(self, link: Link, leg: Leg, lots_after: Decimal) -> bool:
        if self.leveller.waits_for(link.symbol, link.name):
            return self._wait_for_symbol(link)
        net = position = None
        if self.standing.mode is MarginMode.NETTING or lots_after:
            book = await self.leveller.level()
            link = self.links[link.name]
            fresh = next(each for each in link.legs if each.tag == leg.tag)
            if fresh != leg or link.cut is not None:
                self._dirty[link.name] = None
                return link.cut is None  # The read changed what is believed: ask again what is missing.
            if self.standing.mode is MarginMode.NETTING:
                net, position = book.net(link.symbol), book.position_of(link.symbol)
        try:
            link = await self.orders.cut_leg(link, leg, lots_after, net, position)
        except StoreError:
            self._set(link)  # The intent is not durable, so nothing was sent.
            raise
        finally:
            self.leveller.traded(link.symbol)
        self._set(link)
        self.level_within(0.0 if link.cut is None or link.cut.answered else PAUSE_MIN_S)
        if net is not None and link.cut is None:
            left = next(each for each in link.legs if each.tag == leg.tag)
            self.note_cut(link, leg, left.lots)
            return True
        return lots_after == 0

    # Opening --------------------------------------------------------------------------------------------------------

    async def _open(self, link: Link, master_lots: Decimal) -> bool:
        planned = await self._plan(link, master_lots)
        if isinstance(planned, Refused):
            self._refuse(link, planned)
            return False
        if self.leveller.waits_for(planned.symbol, link.name):
            return self._wait_for_symbol(link)
        first = link.anchor == 0
        link = replace(
            link,
            symbol=planned.symbol,
            side=planned.side,
            state=LinkState.COPIED,
            anchor=link.position.lots_opened,
            before=link.position.lots_opened - link.position.lots if first else link.before,
            stop_loss=planned.stop_loss,
            take_profit=planned.take_profit,
            reason="",
        )
        for lots in planned.lots:
            if not await self._send(link, planned, lots, master_lots):
                return False
            link = self.links[link.name]
        return True

    async def _plan(self, link: Link, master_lots: Decimal) -> Planned | Refused:
        relation = self.relations[link.master]
        policy = relation.policy
        now = self.clock.now_ms()
        mode, why = self.standing.mode_of(link.master)
        refused = check_before_quote(policy, link.position, mode, why, now)
        if refused:
            return refused
        master_spec = relation.specs.get(link.position.symbol)
        symbol = symbol_of(policy, link.position.symbol, master_spec, self.standing.catalogue)
        if isinstance(symbol, Refused):
            return symbol
        try:
            quote = await self.standing.quote(symbol)
        except Rejected as error:
            return Refused(code="symbol_unmapped", rule="symbols", message=str(error))
        except Unavailable as error:
            raise NotDone(error) from error
        if self.standing.mode is MarginMode.NETTING:
            book = await self.leveller.level()
            shared = self.leveller.shared(link, symbol, book)
            if shared and policy.copying.shared_symbols is SharedSymbol.REFUSE:
                return Refused(code="symbol_shared", rule="copy.shared_symbols", message=shared)
        await self.standing.refresh_account()
        now = self.clock.now_ms()
        facts = OpenFacts(
            now_ms=now,
            mode=mode,
            account=self.standing.account,
            account_ms=self.standing.account_ms,
            quote=quote,
            quote_ms=now,
            master=relation.facts,
            master_spec=master_spec,
            rate=await self.standing.rate(relation.facts),
            residue=self.standing.residue(link.master, symbol),
            exposures=self.standing.exposures(self.links.values(), self.leveller.foreign_positions),
            relation_losses=self.standing.losses(link.master),
            follower_losses=self.standing.losses(""),
        )
        return plan_open(policy, self.settings.risk, link, master_lots, facts)

    async def _send(self, link: Link, planned: Planned, lots: Decimal, master_lots: Decimal) -> bool:
        """Journal one order and send it; return whether it was filled."""
        policy = self.relations[link.master].policy.copying
        stamps = replace(link.stamps, decided_ms=self.clock.now_ms(), sent_ms=0, answered_ms=0)
        net = (await self.leveller.level()).net(planned.symbol) if self.standing.mode is MarginMode.NETTING else None
        self._number += 1
        leg = Leg(tag=make_tag(self._token, self._number), side=planned.side, asked=lots, net_before=net)
        before = self.links[link.name]
        legs = (*(old for old in link.legs if old.state is not LegState.FAILED), leg)
        link = replace(link, legs=legs, stamps=stamps)
        stop, target = planned.stop_loss, planned.take_profit
        if net is not None:
            stop, target = self.leveller.net_levels_with(link)
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
        await self._pace(float(self.relations[link.master].policy.protection.orders_per_s))
        sent_ms = self.clock.now_ms()
        try:
            link, result = await self.orders.open_leg(link, leg, request)
        except NotDone as refusal:
            self._not_opened(before, refusal, planned, link)
            return False
        except StoreError:
            self._set(before, dirty=True)  # The intent is not durable, so nothing was sent.
            raise
        finally:
            self.leveller.traded(planned.symbol)
        link = replace(link, stamps=replace(stamps, sent_ms=sent_ms, answered_ms=self.clock.now_ms()))
        self._first_try_ms.pop(link.name, None)
        self._set(link)
        if result is None:
            self._note(link, "open", Verdict.UNKNOWN, "outcome_unknown", lots=lots, tag=leg.tag)
            self._dirty[link.name] = None
            self.level_within(PAUSE_MIN_S)
            return False
        self._relevel.add(link.name)
        residue = self.standing.keep_residue(link.master, planned.symbol, planned.residue)
        if residue is not None:
            self._notes.append(residue)
        self._note_copied(link, planned, result.lots, result.price, result.ticket, leg.tag, master_lots)
        return True

    async def _pace(self, orders_per_s: float) -> None:
        """Wait until the account has room for another open in this second; closes and reductions never wait."""
        loop = asyncio.get_running_loop()
        burst = max(1, int(orders_per_s))
        if len(self._sent_s) >= burst:
            await asyncio.sleep(max(0.0, self._sent_s[-burst] + burst / orders_per_s - loop.time()))
        self._sent_s.append(loop.time())

    def _not_opened(self, before: Link, refusal: NotDone, planned: Planned, tried: Link) -> None:
        """Try again within the budget what was surely not executed; else it is refused for good."""
        name = before.name
        now = self.clock.now_ms()
        first = self._first_try_ms.setdefault(name, now)
        budget = self.relations[name[0]].policy.protection.retry_budget_s
        if refusal.again and before.anchor < before.position.lots_opened and now - first < budget * 1000:
            self._set(before, dirty=True)
            fresh_price = isinstance(refusal.cause, Rejected) and refusal.cause.wants_fresh_price
            pause = REQUOTE_PAUSE_S if fresh_price else PAUSE_MIN_S
            self._again[name] = (asyncio.get_running_loop().time() + pause, pause)
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
        self._set(link)
        log.info("%s: %s %s not copied: %s", self.name, link.master, link.key, refused.message)
        self._note(link, "open", verdict, refused.code, rule=refused.rule, message=refused.message, numbers=refused.numbers)

    async def _aim(self, link: Link) -> None:
        """Compute the levels wanted at the broker again, after a fill or when the master moved its own."""
        if link.name not in self._relevel:
            return
        open_legs = [leg for leg in link.legs if leg.state is LegState.OPEN]
        if not open_legs or not link.wanted_open:
            return
        quote = await self.standing.quote(link.symbol)
        filled = sum((leg.filled for leg in open_legs), ZERO)
        fill = sum((leg.price * leg.filled for leg in open_legs), ZERO) / filled
        levels = levels_to_set(
            self.relations[link.master].policy.copying,
            LevelFacts(
                side=link.side,
                fill=fill,
                master_fill=link.position.open_price,
                master_stop=link.position.stop_loss,
                master_target=link.position.take_profit,
                quote=quote,
            ),
        )
        self._relevel.discard(link.name)
        self._set(replace(link, stop_loss=levels.stop, take_profit=levels.target))

    # Remembering ----------------------------------------------------------------------------------------------------

    def _set(self, link: Link, *, dirty: bool = False) -> None:
        if self.links.get(link.name) is not link:
            self.links[link.name] = link
            self._touched[link.name] = None
        if dirty:
            self._dirty[link.name] = None

    def put(self, link: Link) -> None:
        """Believe this of a link, and drive it again."""
        self._set(link, dirty=True)

    def want_reopened(self, link: Link) -> None:
        """Open again what a person closed by hand, as a new open under all rules."""
        self._set(replace(link, legs=(), anchor=ZERO, before=ZERO, state=LinkState.PENDING, existing=False), dirty=True)

    async def _save(self, link: Link) -> None:
        self._set(link)
        await self._commit()

    async def _commit(self) -> None:
        """Make everything that changed durable, in one record."""
        touched, self._touched = self._touched, {}
        notes, self._notes = self._notes, []
        read, self._read = self._read, {}
        entries: list[JournalEntry] = [LinkKept(link=self.links[name]) for name in touched]
        entries += notes
        entries += [ReadingKept(follower=self.name, master=m, entry=str(self.relations[m].seen)) for m in read]
        if not entries:
            return
        try:
            await self._ledger.append(entries)
        except CopierError:
            self._touched = {**touched, **self._touched}
            self._notes = notes + self._notes
            self._read = {**read, **self._read}
            raise

    def keep(self, entry: JournalEntry) -> None:
        """Journal an entry with the next commit."""
        self._notes.append(entry)

    def keep_fact(self, name: str, body: bytes) -> None:
        """Journal a small state with the next commit."""
        self._notes.append(FactKept(follower=self.name, name=name, body=msgspec.Raw(body)))

    def _note_copied(
        self, link: Link, planned: Planned, lots: Decimal, price: Decimal, ticket: int, tag: str, master_lots: Decimal
    ) -> None:
        spec = self.standing.spec(planned.symbol)
        points = None
        if spec is not None and price and link.master_price:
            points = (price - link.master_price) * link.side.sign / spec.point
        changed = bool(planned.notes) or lots != sum(planned.lots, ZERO)
        self._note(
            link,
            "open",
            Verdict.COPIED,
            "copied_resized" if changed else "copied",
            lots=lots,
            price=price,
            ticket=ticket,
            tag=tag,
            slippage_points=points,
            message="; ".join(planned.notes),
            numbers={**planned.numbers, "asked": str(planned.asked), "masterLots": str(master_lots)},
        )

    def note_cut(self, link: Link, leg: Leg, lots_left: Decimal) -> None:
        """Record that a leg was closed or reduced as the master wanted."""
        verdict, code = (Verdict.CHANGED, "reduced") if lots_left else (Verdict.CLOSED, link.reason or "closed")
        event = "reduce" if lots_left else "close"
        self._note(link, event, verdict, code, lots=leg.lots - lots_left, ticket=leg.ticket, tag=leg.tag)

    def _note(self, link: Link, event: str, verdict: Verdict, code: str, **more: object) -> None:
        receipt = Receipt(
            at_ms=self.clock.now_ms(),
            follower=self.name,
            master=link.master,
            key=link.key,
            event=event,
            verdict=verdict,
            code=code,
            symbol=link.symbol or link.position.symbol,
            side=link.side if link.legs else side_of(self.relations[link.master].policy, link.position),
            master_lots=link.position.lots,
            stamps=link.stamps,
            **more,  # type: ignore[arg-type]
        )
        self._notes.append(ReceiptKept(receipt=receipt))

    def note(self, link: Link, event: str, verdict: Verdict, code: str, **more: object) -> None:
        """Leave a receipt about a link."""
        self._note(link, event, verdict, code, **more)


def event_name(event: object) -> str:
    """Return an event's name as it stands in receipts."""
    match event:
        case Opened():
            return "open"
        case ScaledIn():
            return "scale_in"
        case Reversed():
            return "reverse"
        case Reduced():
            return "reduce"
        case Modified():
            return "modify"
        case Closed():
            return "close"
        case _:
            return "snapshot"


def _taken_over(link: Link) -> Link:
    """Return a link as a new owner must see it: whatever was on its way may have landed, or may still."""
    legs = tuple(replace(leg, state=LegState.UNKNOWN) if leg.state is LegState.SENDING else leg for leg in link.legs)
    cut = replace(link.cut, answered=False) if link.cut is not None else None
    return replace(link, legs=legs, cut=cut) if legs != link.legs or cut != link.cut else link
