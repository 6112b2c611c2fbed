"""One follower: takes in its masters' changes, plans, trades, records, and levels itself against what its broker shows.

The only writer of its account. Events are folded into what is wanted of each link the moment they arrive; one task then drives
every link to it, an order at a time, and compares with a fresh read whenever something is not certain.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable
from decimal import Decimal

import msgspec

from copier import wire
from copier.clock import Clock
from copier.errors import CopierError, Fenced, GatewayError, Rejected, StoreError, Unavailable
from copier.filters import closes_at_end, hours_over
from copier.gateway import Gateway
from copier.holdings import Holdings
from copier.intake import Intake
from copier.lane import Lane
from copier.leases import Term
from copier.ledger import Ledger, ReceiptKept, Remembered
from copier.leveller import Leveller
from copier.link import Leg, LegState, Link, LinkName, LinkState
from copier.memory import Memory, Relation
from copier.model import ZERO, MarginMode, MasterPosition, Position, Receipt, Verdict
from copier.opens import JustRead, Opens
from copier.orders import ORDER_LIFE_MS, NotDone, Orders
from copier.policy import Mode
from copier.reconcile import CloseLeg, LetGo, OpenMore, ReduceLeg, Repair, SetLevels, repairs, with_leg
from copier.settings import FollowerSettings
from copier.standing import Standing
from copier.stream import Entry

log = logging.getLogger(__name__)
replace = msgspec.structs.replace

PAUSE_MIN_S = 0.2
PAUSE_MAX_S = 30.0
CONFIRM_S = 0.1
"""How long after an answered close a fresh read confirms it: one read for those of a moment."""
RECONNECT_PAUSE_MAX_S = 5.0
"""An account that cannot be reached is asked again so often at least: what waits for it is late already."""
SENT_FIRST_MAX = 10
"""What comes meanwhile goes the short way too, so often; then the rest has its turn."""
STEPS_MAX = 50
"""A link that still wants something after so many steps of one turn waits for the next."""


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
        term: Term | None = None,
        send_first: "Callable[[Follower, JustRead], Awaitable[bool]]",
    ) -> None:
        """`send_first` lets go, the short way, what of a turn is simple, and says whether that was anything."""
        self.name = name
        self.settings = settings
        self.error = ""
        """Why the account cannot be followed just now; empty while all is well."""
        self.connected = False
        """The account was reached and compared once."""
        self.gateway = gateway
        self.clock = clock
        self.token = token
        """What makes this owner of the account higher than all before it."""
        self.memory = Memory(name, settings, ledger, clock, remembered)
        self.standing = Standing(name, settings, gateway, clock, remembered)
        self.orders = Orders(name, gateway, clock, token, self.memory.save, term)
        self.leveller = Leveller(self)
        self._holdings = Holdings(self.memory, self.standing, settings)
        known = (self.memory, self.standing, self.leveller, self._holdings)
        self._opens = Opens(*known, self.orders, self, token=token, risk=settings.risk)
        self.lane = Lane(self, self._opens)
        self._intake = Intake(self.memory)
        self._resting = False
        """Its turn waits for something to do."""
        self._recording = False
        """Its turn has done all there was to do, and makes it durable."""
        self._alarm: asyncio.TimerHandle | None = None
        self._closes_by_hours = any(closes_at_end(copy.filters) for copy in settings.copies)
        self._reconcile_s = reconcile_s
        self._send_first = send_first
        self._wake = asyncio.Event()
        self._again: dict[LinkName, tuple[float, float]] = {}
        """When a link that was refused something may ask again, and the pause it has by then."""
        self._complained: dict[LinkName, str] = {}
        self._closed_s: dict[str, float] = {}
        """When a leg's close was last sent, by tag: a list that lags is no reason to close it again at once."""
        self.step_ms = 0
        """When the step began that is under way, 0 while none is."""
        self._level_at = 0.0
        self._ending = asyncio.Event()

    @property
    def links(self) -> dict[LinkName, Link]:
        """Every link, by master and key."""
        return self.memory.links

    @property
    def relations(self) -> dict[str, Relation]:
        """What is known of each master."""
        return self.memory.relations

    def accept(self, entry: Entry) -> None:
        """Fold one entry of a master into what is wanted. Never blocks, never trades."""
        self._intake.accept(entry)
        self._wake.set()

    def take_in(self, entry: Entry) -> None:
        """Fold one entry like `accept`, and leave the follower at rest: whoever calls says what is next."""
        self._intake.accept(entry)

    def look(self) -> None:
        """Take the next turn now."""
        self._wake.set()

    def look_if_pressing(self) -> None:
        """Take the next turn now where something is to be done or to be made durable."""
        if self._closes_by_hours or self.memory.pressing:
            self._wake.set()

    def give_up(self, link: Link, reason: str) -> None:
        """Want a link closed for a reason of our own (flatten, a limit, the end of a window); it is never opened again."""
        if link.wanted_open:
            self.memory.want(replace(link, wanted_open=False, reason=reason))
            self._wake.set()

    def protect(self, link: Link) -> None:
        """Ask for a link's levels again now, without waiting out the pause that a refusal has earned it."""
        self._again.pop(link.name, None)
        self.memory.dirty[link.name] = None
        self.compare_now()

    def compare_now(self) -> None:
        """Compare with a fresh read as soon as what is under way is done."""
        self.level_within(0.0)
        self._wake.set()

    # The short way ----------------------------------------------------------------------------------------------------------

    @property
    def resting(self) -> bool:
        """Whether nothing is under way and nothing due: the account is known, and the turn waits for something to do."""
        if not (self._resting or self._recording) or self.error or self._ending.is_set() or self._wake.is_set():
            return False
        return self._level_at > asyncio.get_running_loop().time()

    def put_off_until(self, name: LinkName) -> float:
        """Return when a link that was refused something may ask again, 0 where it was not."""
        return self._again.get(name, (0.0, 0.0))[0]

    def just_closed(self, leg: Leg) -> bool:
        """Whether a close of this leg was sent so recently that the list may be late."""
        at_s = self._closed_s.get(leg.tag, -math.inf)
        return asyncio.get_running_loop().time() - at_s < self._late_list_s

    @property
    def _late_list_s(self) -> float:
        return max(PAUSE_MIN_S, self.gateway.facts.settle_s)

    def _close_sent(self, leg: Leg) -> None:
        now = asyncio.get_running_loop().time()
        while self._closed_s and now - next(iter(self._closed_s.values())) >= self._late_list_s:
            del self._closed_s[next(iter(self._closed_s))]
        self._closed_s.pop(leg.tag, None)  # The last sent stands last.
        self._closed_s[leg.tag] = now

    def closed(self, link: Link, leg: Leg) -> None:
        """Take note that a leg's whole close was answered, or may be on its way; a fresh read must confirm it."""
        self.memory.believe(link)
        self._close_sent(leg)
        self.level_within(CONFIRM_S if link.cut is None or link.cut.answered else PAUSE_MIN_S)

    def refused(self, name: LinkName, refusal: NotDone) -> None:
        """Ask again later for what was refused."""
        self._put_off(name, refusal)

    def granted(self, name: LinkName) -> None:
        """What a link wanted was done: the next refusal is news again."""
        self._again.pop(name, None)
        self._complained.pop(name, None)

    def touch_down(self) -> None:
        """Everything sent the short way has its answer: go on with what else is wanted."""
        if self._resting:
            self.step_ms = 0
        if self.memory.dirty:
            self._wake.set()

    async def read_ahead(self, age_min_ms: int) -> None:
        """Read account and prices that are older than this, where the follower rests."""
        if self.resting:
            facts = next((relation.facts for relation in self.memory.relations.values() if relation.facts is not None), None)
            try:
                await self.standing.read_ahead(facts, age_min_ms)
                self._holdings.look(self.leveller.foreign_positions)
            except GatewayError:
                self.level_within(PAUSE_MIN_S)  # A read of the positions tells whether the account is gone, and says so.

    # Driving --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, level against the broker, then follow until ended; end by `Fenced` when another owner has begun."""
        self.doubt()
        try:
            await self._run()
        finally:
            self.lane.abandon()

    async def _run(self) -> None:
        pause = 0.0
        while not self._ending.is_set():
            try:
                self.step_ms = self.clock.now_ms()
                if not self.connected:
                    await self._connect()
                    self.connected = True
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
                with contextlib.suppress(StoreError):
                    await self.memory.commit()  # How far was read must survive, whatever the account does.
                pause = min(max(pause * 2, PAUSE_MIN_S), RECONNECT_PAUSE_MAX_S)
                self._level_at = 0.0
            except Exception as error:
                # A mistake of ours or of a gateway's: what was on its way is as doubtful as after a crash.
                log.exception("%s: stopped in the middle; levelling anew", self.name)
                self.error = f"{type(error).__name__}: {error}"
                self.doubt()
                pause = RECONNECT_PAUSE_MAX_S
            self.step_ms = 0
            await self._wait(pause)
        await self.lane.landed()
        await self.memory.commit()

    def end(self) -> None:
        """Finish the order under way, send no other, and let `run` return once all that is known is durable."""
        self._ending.set()
        self._wake.set()

    def doubt(self) -> None:
        """Take nothing that was on its way for certain, and look at every link again."""
        for link in list(self.memory.links.values()):
            self.memory.want(_taken_over(link, self.clock.now_ms()))
        self._level_at = 0.0
        self._wake.set()

    async def _connect(self) -> None:
        """Reach the account and level against it before anything is traded."""
        await self.gateway.open()
        await self.standing.begin()
        await self.sample()
        for symbol in sorted({link.symbol for link in self.memory.living.values() if link.symbol}):
            with contextlib.suppress(Rejected, Unavailable):
                await self.standing.quote(symbol)
        self._level_at = asyncio.get_running_loop().time() + self._reconcile_s
        await self.leveller.level()
        if not self.standing.known:  # Only now: account and positions have agreed on whose they are.
            self.standing.known = self.standing.account.account
            self.memory.keep_fact("account", wire.encode(self.standing.known))

    async def _wait(self, pause: float) -> None:
        loop = asyncio.get_running_loop()
        if pause:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._ending.wait()
            return
        if not self.standing.frozen and any(self._again.get(name, (0.0, 0.0))[0] <= loop.time() for name in self.memory.dirty):
            await asyncio.sleep(0)
            return
        due = min([self._level_at, *(at for at, _ in self._again.values())])
        self._alarm = loop.call_at(due, self._wake.set)
        self._resting = True
        try:
            await self._wake.wait()
        finally:
            self._resting = False
            self._alarm.cancel()
        self._wake.clear()

    def wake(self) -> None:
        """Look again now, without further pauses: something outside changed, such as a control or a limit."""
        self._again.clear()
        self.level_within(0.0)
        self._wake.set()

    async def _turn(self) -> None:
        """Drive every link that may want something, then compare with the broker if anything is uncertain or due."""
        await self.lane.landed()
        if self.standing.frozen:
            await self.memory.commit()
            self.memory.dirty = dict.fromkeys(self.memory.living)
            self._level_at = asyncio.get_running_loop().time() + self._reconcile_s
            return
        self._enforce()
        for _ in range(SENT_FIRST_MAX):
            if not self.memory.dirty or self.error or self._ending.is_set():
                break
            if not await self._send_first(self, await self.lane.freshen()):
                break
            if not self.memory.dirty and self._level_at > asyncio.get_running_loop().time():
                return  # What is in the air is recorded when it lands.
            await self.lane.landed()
        now = asyncio.get_running_loop().time()
        self._again = {name: value for name, value in self._again.items() if value[0] > now or name in self.memory.dirty}
        if len(self._complained) > len(self.links):
            self._complained = {name: code for name, code in self._complained.items() if name in self.links}
        for name in [name for name in self.memory.dirty if self._again.get(name, (0.0, 0.0))[0] <= now]:
            if self._ending.is_set():
                return
            self.memory.dirty.pop(name, None)
            await self._follow_on(name)
        if now >= self._level_at or asyncio.get_running_loop().time() >= self._level_at:
            self._level_at = asyncio.get_running_loop().time() + self._reconcile_s
            await self.leveller.level()
        self._recording = True
        try:
            await self.memory.commit()
        finally:
            self._recording = False

    async def _follow_on(self, name: LinkName) -> None:
        """Do what one link wants; what fails is wanted again, and holds up the others only where the account is gone."""
        self.step_ms = self.clock.now_ms()
        try:
            await self._follow(name)
        except (Rejected, Unavailable) as error:
            self.memory.dirty[name] = None
            await self.leveller.level()
            self._put_off(name, NotDone(error))
        except CopierError:
            self.memory.dirty[name] = None
            raise
        except ArithmeticError as error:
            # One symbol's rules, or a price, that no arithmetic survives: it must not hold up what else is to be closed.
            log.exception("%s: %s %s cannot be reckoned with", self.name, *name)
            self._put_off(name, NotDone(Unavailable(f"what is said of it cannot be reckoned with: {type(error).__name__}")))

    def _enforce(self) -> None:
        """Want closed what a person, a limit or the end of a trading window wants closed."""
        for master, relation in self.memory.relations.items():
            if self.standing.flatten_asked(master):
                reason = "flattened"
            elif hours_over(relation.policy.filters, self.clock.now_ms()):
                reason = "window_ended"
            else:
                continue
            for link in list(self.memory.living.values()):
                if link.master == master and link.wanted_open and any(leg.living for leg in link.legs):
                    self.give_up(link, reason)

    async def sample(self) -> None:
        """Judge the loss limits by a fresh read of the account, and act on those that fire. Raise `Unavailable`."""
        if not self.standing.has_limits or not hasattr(self.standing, "account"):
            return
        news = await self.standing.observe_limits()
        for scope, limit, seen in news:
            log.log(logging.WARNING if seen.action is not None else logging.INFO, "%s: %s", self.name, seen.message)
            verdict = Verdict.ALERT if seen.action is not None else Verdict.CHANGED
            self.memory.keep(
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
            for fact in self.standing.limit_facts():
                self.memory.keep(fact)
            self._wake.set()

    def rearm(self, limit: str) -> None:
        """Arm a loss limit that has fired again, by a person's word."""
        for name in self.standing.rearm({limit}):
            log.warning("%s: loss limit %s was armed again by hand", self.name, name)
            for fact in self.standing.limit_facts():
                self.memory.keep(fact)
        self._wake.set()

    def level_within(self, seconds: float) -> None:
        """Compare with a fresh read after so many seconds at the latest."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if due >= self._level_at:
            return
        self._level_at = due
        if self._resting and self._alarm is not None and self._alarm.when() > due:
            self._alarm.cancel()
            self._alarm = loop.call_at(due, self._wake.set)

    async def _follow(self, name: LinkName) -> None:
        """Do what one link wants, step by step, by what is believed of it."""
        if self.memory.relations[name[0]].policy.mode is Mode.FROZEN or self.standing.relation_frozen(name[0]):
            self.memory.dirty[name] = None
            self._again[name] = (asyncio.get_running_loop().time() + self._reconcile_s, 0.0)
            return
        done = False
        for _ in range(STEPS_MAX):
            if self._ending.is_set():
                self.memory.dirty[name] = None
                return
            link = self.memory.links[name]
            await self._opens.aim(link)
            link = self.memory.links[name]
            spec = self.standing.spec(link.symbol)
            if spec is None and link.symbol:
                spec = (await self.standing.quote(link.symbol)).spec
            steps = repairs(link, spec, self.standing.mode)
            if not steps:
                break
            done = True
            try:
                if not await self._do(link, steps[0]):
                    break
            except NotDone as refusal:
                self._put_off(name, refusal)
                break
            self.granted(name)
        if self.standing.mode is MarginMode.NETTING and self.memory.links[name].symbol:
            done |= await self.leveller.set_net_levels(self.memory.links[name].symbol)
        self._answer(name, done=done)

    def _answer(self, name: LinkName, *, done: bool) -> None:
        """Leave a receipt for a change of the master that asked for nothing here."""
        link = self.memory.links[name]
        if not done and (link.cut is not None or any(leg.living and leg.state is not LegState.OPEN for leg in link.legs)):
            return  # It may still ask for something once what is on its way is certain.
        event = self.memory.asked.pop(name, None)
        if event is not None and not done:
            self.memory.note(link, event, Verdict.SKIPPED, "nothing_to_do", message="nothing of the copy changes by it")

    async def _do(self, link: Link, step: Repair) -> bool:
        """Do one step; return whether the next may follow at once, without a fresh read."""
        match step:
            case OpenMore():
                return await self._opens.open(link, step.master_lots)
            case LetGo():
                self.memory.believe(replace(link, anchor=link.position.lots_opened, before=link.before + link.growth))
                self.memory.note(link, "scale_in", Verdict.SKIPPED, "nothing_to_do", message="closed again before it was copied")
                return True
            case CloseLeg():
                return await self._cut(link, step.leg, ZERO)
            case ReduceLeg():
                return await self._cut(link, step.leg, step.lots_after)
            case SetLevels():
                certain = await self.orders.set_levels(step.leg.ticket, step.stop_loss, step.take_profit)
                if certain:
                    leg = replace(step.leg, stop_loss=step.stop_loss, take_profit=step.take_profit)
                    self.memory.believe(with_leg(self.memory.links[link.name], leg))
                    self.memory.note(link, "modify", Verdict.CHANGED, "levels_set", lots=leg.lots, ticket=leg.ticket)
                else:
                    self.level_within(0.0)
                    self.put_off(link.name, PAUSE_MIN_S)  # A fresh read says whether they are set.
                return certain

    def _put_off(self, name: LinkName, refusal: NotDone) -> None:
        """Ask again later, with growing pauses: what closes or protects never expires."""
        if isinstance(refusal.cause, Unavailable):
            self.level_within(PAUSE_MIN_S)  # A read tells whether the account is gone, and says so.
        _, pause = self._again.get(name, (0.0, PAUSE_MIN_S / 2))
        pause = min(pause * 2, PAUSE_MAX_S)
        self._again[name] = (asyncio.get_running_loop().time() + pause, pause)
        self.memory.dirty[name] = None
        link = self.memory.links[name]
        if link.cut is not None and not link.cut.answered:
            self.memory.believe(replace(link, cut=None))
        if self._complained.get(name) != refusal.code:
            self._complained[name] = refusal.code
            event = "close" if not link.wanted_open else "modify" if link.legs else "open"
            self.memory.note(link, event, Verdict.FAILED, refusal.code, lots=link.lots, message=f"{refusal}; it is tried again")

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

    def put_off(self, name: LinkName, pause_s: float) -> None:
        """Ask again what a link wants after a pause, not before."""
        self._again[name] = (asyncio.get_running_loop().time() + pause_s, pause_s)
        self.memory.dirty[name] = None

    def wait_for_symbol(self, link: Link) -> bool:
        """Put a link off until the order before it in its netting symbol is certain; return False."""
        self.put_off(link.name, PAUSE_MIN_S)
        self.level_within(PAUSE_MIN_S)
        return False

    async def _cut(self, link: Link, leg: Leg, lots_after: Decimal) -> bool:
        if self.leveller.waits_for(link.symbol, link.name):
            return self.wait_for_symbol(link)
        if self.just_closed(leg):
            return self.wait_for_symbol(link)
        net = position = None
        if self.standing.mode is MarginMode.NETTING or lots_after:
            book = await self.leveller.level()
            link = self.memory.links[link.name]
            fresh = next(each for each in link.legs if each.tag == leg.tag)
            if link.cut is not None:
                return self.wait_for_symbol(link)
            if fresh != leg:
                self.memory.dirty[link.name] = None
                return True  # The read changed what is believed: ask again what is missing.
            if self.standing.mode is MarginMode.NETTING:
                if self.leveller.lags(link.symbol):
                    return self.wait_for_symbol(link)
                net, position = book.net(link.symbol), book.position_of(link.symbol)
                if (position is None or position.type is not leg.side) and not self.leveller.understood(link.symbol):
                    return self.wait_for_symbol(link)  # Another hand, a stop or a late list: nothing to take back blindly.
        try:
            link = await self.orders.cut_leg(link, leg, lots_after, net, position)
        except StoreError:
            self.memory.believe(link)  # The intent is not durable, so nothing was sent.
            raise
        finally:
            self.leveller.traded(link.symbol)
        self.memory.believe(link)
        if net is None and not lots_after:
            self._close_sent(leg)
        answered = link.cut is None or link.cut.answered
        self.level_within(PAUSE_MIN_S if not answered else CONFIRM_S if not lots_after else 0.0)
        if net is not None and link.cut is None:
            left = next(each for each in link.legs if each.tag == leg.tag)
            self.memory.note_cut(link, leg, left.lots)
            return True
        return lots_after == 0

    def want_reopened(self, link: Link) -> None:
        """Open again what a person closed by hand, as a new open under all rules."""
        now = self.memory.links[link.name]
        wish = replace(now, legs=(), anchor=ZERO, before=ZERO, state=LinkState.PENDING, existing=False)
        self.memory.want(replace(wish, absent_ms=self.clock.now_ms()))

    def put(self, link: Link) -> None:
        """Believe this of a link, and drive it again."""
        self.memory.believe(link)
        self.memory.dirty[link.name] = None

    def note_cut(self, link: Link, leg: Leg, lots_left: Decimal) -> None:
        """Record that a leg was closed or reduced as the master wanted."""
        self.memory.note_cut(link, leg, lots_left)

    def note(self, link: Link, event: str, verdict: Verdict, code: str, **more: object) -> None:
        """Leave a receipt about a link."""
        self.memory.note(link, event, verdict, code, **more)


def _taken_over(link: Link, now_ms: int) -> Link:
    """Return a link as a new owner must see it: whatever was on its way may have landed, or may still.

    The deadline of an order is by its sender's clock, which may differ from ours: it left before now, and lives no longer than
    any order.
    """
    legs = tuple(_on_its_way(leg, now_ms + ORDER_LIFE_MS) if leg.state is LegState.SENDING else leg for leg in link.legs)
    cut = link.cut and replace(link.cut, answered=False, not_after_ms=max(link.cut.not_after_ms, now_ms))
    return replace(link, legs=legs, cut=cut) if legs != link.legs or cut != link.cut else link


def _on_its_way(leg: Leg, until_ms: int) -> Leg:
    return replace(leg, state=LegState.UNKNOWN, not_after_ms=max(leg.not_after_ms, until_ms))
