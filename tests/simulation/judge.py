"""An independent judge: what the brokers executed and hold at the end, against what the masters did; never the engine's belief.

Of the engine it takes only the meaning of its tags (from the journal, where each must stand before its order was executed),
the receipts that explain what is missing, and whether it has come to rest.
"""

from collections.abc import Iterator
from decimal import Decimal

import msgspec
import sqlalchemy as sa

from copier import database as db
from copier import wire
from copier.gateways.comments import tag_in
from copier.ledger import JournalEntry, LinkKept
from copier.link import TAG_PREFIX
from copier.model import DealReason, MarginMode, Receipt, Side, Verdict
from tests.simulation.brokers import Broker, Executed
from tests.simulation.history import History
from tests.simulation.judge_engine import judge_engine

ZERO = Decimal(0)
STEP = Decimal("0.01")
LATE_MS = 5_500
"""An order that is executed later than this after it was journaled is the broker's breach: no limit can count with it."""


def explains(receipt: Receipt) -> bool:
    """Return whether a receipt says why less was opened than the master has."""
    if receipt.code in ("copied_resized", "found"):
        return True
    told = receipt.verdict in (Verdict.REFUSED, Verdict.SKIPPED, Verdict.FAILED, Verdict.ALERT)
    return told and receipt.code != "nothing_to_do" and receipt.event not in ("close", "reduce", "modify")


class Meaning(msgspec.Struct, frozen=True):
    """What the journal says a tag is for."""

    master: str
    identifier: int
    side: Side
    journaled_ms: int


class Wanted(msgspec.Struct):
    """What a master has of one position (on netting: since its symbol was last flat or turned)."""

    symbol: str
    side: Side
    since_ms: int
    identifier: int = 0
    """In this life of it: on netting a symbol's next position has another."""
    opened: Decimal = ZERO
    """In this life of it."""
    now: Decimal = ZERO
    low: Decimal = ZERO
    """The least it has held in this life."""
    ever: Decimal = ZERO
    """In all its lives, both sides."""
    stop_loss: Decimal = ZERO
    take_profit: Decimal = ZERO
    growth: list[tuple[int, Decimal]] = msgspec.field(default_factory=list)
    """When it grew, and all that was ever opened by then."""


Group = tuple[str, object]
"""A master, and a position's identifier, or on netting its symbol: there identifiers come and go unseen."""


def judge(history: History) -> list[str]:
    """Return everything that is wrong with the end of a history, in words; empty if nothing is."""
    wrong: list[str] = []
    masters = {master.name: _masters_truth(history.brokers[master.name]) for master in history.plan.masters}
    meanings = _meanings(history)
    for follower in history.plan.followers:
        name, broker = follower.name, history.brokers[follower.name]
        of_tag = {tag: meaning for (who, tag), meaning in meanings.items() if who == name}
        wrong += [f"{name}: {words}" for words in _Account(history, broker, masters, of_tag).judge()]
    wrong += _published_twice(history)
    wrong += _former_owners(history, meanings)
    wrong += judge_engine(history)
    return wrong


def _meanings(history: History) -> dict[tuple[str, str], Meaning]:
    found: dict[tuple[str, str], Meaning] = {}
    rows = history.database.read(sa.select(db.journal.c.at_ms, db.journal.c.body).order_by(db.journal.c.seq))
    for at_ms, body in rows:
        for kept in wire.decode(body, list[JournalEntry]):
            if isinstance(kept, LinkKept):
                link = kept.link
                for leg in link.legs:
                    meaning = Meaning(link.master, link.position.identifier, leg.side, at_ms)
                    found.setdefault((link.follower, leg.tag), meaning)
    return found


def _masters_truth(broker: Broker) -> dict[object, Wanted]:
    """Return every position the master ever had, by identifier, or by symbol on netting."""
    netting = broker.plan.mode is MarginMode.NETTING
    truth: dict[object, Wanted] = {}
    for done in broker.executed:
        order, lots = done.order, done.lots
        key: object = order.symbol if netting else done.identifier
        each = truth.setdefault(key, Wanted(order.symbol, order.side, done.at_ms, done.identifier))
        if not netting:
            opens = order.position == 0
            each.now += lots if opens else -lots
            each.opened += lots if opens else ZERO
            each.ever += lots if opens else ZERO
            each.growth.append((done.at_ms, each.ever))
            each.low = each.now if opens else min(each.low, each.now or each.low)
            continue
        signed = each.now * each.side.sign + lots * order.side.sign
        if each.now == 0 or signed * each.side.sign < 0:
            fresh = abs(signed)
            each.side, each.since_ms, each.opened, each.low = order.side, done.at_ms, ZERO, abs(signed)
            each.identifier = done.identifier
        else:
            fresh = max(ZERO, abs(signed) - each.now)
        each.opened += fresh
        each.ever += fresh
        each.growth.append((done.at_ms, each.ever))
        each.now = abs(signed)
        each.low = min(each.low, each.now or each.low)
    for position in broker.account.positions.values():
        key = position.symbol if netting else position.identifier
        each = truth[key]
        assert each.now == position.lots, f"the judge counts {each.now} lots of {key}, the broker {position.lots}"
        each.stop_loss, each.take_profit = position.stop_loss, position.take_profit
    return truth


class _Account:
    """One follower's account before the judge."""

    def __init__(
        self, history: History, broker: Broker, masters: dict[str, dict[object, Wanted]], of_tag: dict[str, Meaning]
    ) -> None:
        self.history = history
        self.broker = broker
        self.plan = broker.plan
        self.masters = masters
        self.of_tag = of_tag
        self.modes = {master.name: master.mode for master in history.plan.masters}
        self.openings: dict[Group, list[Executed]] = {}
        self.owner: dict[int, Group] = {}
        self.touched: set[object] = set()
        """Groups, on netting symbols, of which another hand, a stop or a target has closed something."""

    def judge(self) -> Iterator[str]:
        yield from self._sort_openings()
        self._sort_closings()
        yield from self._doubled()
        yield from self._too_much_at_once()
        yield from self._untold()
        if self.plan.mode is MarginMode.NETTING:
            yield from self._netting_end()
        else:
            yield from self._tickets_end()
        yield from self._other_hands()

    def _group(self, meaning: Meaning) -> Group:
        if self.modes[meaning.master] is MarginMode.NETTING:
            symbols = {done.identifier: done.order.symbol for done in self.history.brokers[meaning.master].executed}
            return meaning.master, symbols.get(meaning.identifier, meaning.identifier)
        roots = {}
        for done in self.history.brokers[meaning.master].executed:
            roots[done.position] = roots[done.identifier] = done.identifier
            if done.rest:
                roots[done.rest] = done.identifier
        return meaning.master, roots.get(meaning.identifier, meaning.identifier)

    def _sort_openings(self) -> Iterator[str]:
        for done in self.broker.executed:
            if done.order.reason is not DealReason.EXPERT or done.order.position:
                continue
            tag = tag_in(done.order.comment)
            meaning = self.of_tag.get(tag)
            if meaning is None or meaning.journaled_ms > done.at_ms:
                yield f"order {tag!r} at {done.at_ms} was executed and no journal knew it"
                continue
            if done.order.side is meaning.side:
                group = self._group(meaning)
                self.openings.setdefault(group, []).append(done)
                self.owner[done.identifier] = group

    def _sort_closings(self) -> None:
        for done in self.broker.executed:
            if done.order.position and done.order.reason is not DealReason.EXPERT:
                if self.plan.mode is MarginMode.NETTING:
                    self.touched.add(done.order.symbol)
                elif done.identifier in self.owner:
                    self.touched.add(self.owner[done.identifier])

    def _doubled(self) -> Iterator[str]:
        tags: dict[str, int] = {}
        for dones in self.openings.values():
            for done in dones:
                tags[tag_in(done.order.comment)] = tags.get(tag_in(done.order.comment), 0) + 1
        yield from (f"order {tag} was executed {count} times" for tag, count in sorted(tags.items()) if count > 1)
        for (master, key), dones in self.openings.items():
            wanted = self.masters[master].get(key)
            opened = ZERO
            for done in dones:
                opened += done.lots
                if wanted is None:
                    yield f"{opened} lots were opened for {master} {key}, which never was"
                    break
                ever = max((ever for at_ms, ever in wanted.growth if at_ms <= done.at_ms), default=ZERO)
                if opened > ever * self.plan.ratio:
                    yield f"{opened} lots were opened for {master} {key} by {done.at_ms}, it was only {ever} x {self.plan.ratio}"
                    break

    def _too_much_at_once(self) -> Iterator[str]:
        most = self.plan.lots_max
        held: dict[object, Decimal] = {}
        late = ZERO
        for done in self.broker.executed:
            order, netting = done.order, self.plan.mode is MarginMode.NETTING
            if done.position in self.broker.by_hand:
                continue
            meaning = None if order.position else self.of_tag.get(tag_in(order.comment))
            if meaning is not None and done.at_ms > meaning.journaled_ms + LATE_MS:
                late += done.lots
            key: object = order.symbol if netting else done.identifier
            closes = order.position and not netting
            held[key] = held.get(key, ZERO) + (-done.lots if closes else done.lots * (order.side.sign if netting else 1))
            total = sum((abs(lots) for lots in held.values()), ZERO)
            if most is not None and total > most + late and meaning is not None and order.side is meaning.side:
                yield f"{total} lots were open at {done.at_ms}, {most} is the limit"

    def _untold(self) -> Iterator[str]:
        """Yield what happened without a receipt."""
        told = {receipt.tag for receipt in self.history.receipts if receipt.follower == self.plan.name}
        tags = {tag_in(done.order.comment) for dones in self.openings.values() for done in dones}
        yield from (f"order {tag} was executed and has no receipt" for tag in sorted(tags - told))
        for group, wanted in self._wanted():
            if wanted.now and group[0] in self.plan.masters and not self._receipts(group):
                yield f"{group} has no receipt"

    def _bounds(self, group: Group, wanted: Wanted) -> tuple[Decimal, Decimal]:
        """Return the least and the most that may be open for a master's position; receipts widen downwards."""
        dones = [d for d in self.openings.get(group, []) if self._is_for(d, group, wanted)]
        opened = sum((done.lots for done in dones), ZERO)
        full, steps = wanted.now * self.plan.ratio, STEP * len(dones)
        if group[0] not in self.plan.masters:
            return ZERO, ZERO
        if group in self.touched or wanted.symbol in self.touched:
            return ZERO, full + steps  # Never topped up; how much is left of it only the hand knows.
        if opened == wanted.opened * self.plan.ratio:
            return full, max(full, full + steps - STEP)
        if not any(explains(receipt) for receipt in self._receipts(group)):
            return full, full + steps
        # Of what was not opened in full nobody outside can say how much must be left, but at least its share.
        share = min(full, opened * wanted.low / wanted.opened)
        return max(ZERO, share - steps), full + max(STEP, steps)

    def _is_for(self, done: Executed, group: Group, wanted: Wanted) -> bool:
        """Return whether an opening was for the life that a master's position has now: a late one may be for the one before."""
        if done.at_ms < wanted.since_ms or done.order.side is not wanted.side:
            return False
        return self.modes[group[0]] is not MarginMode.NETTING or self._meant(done) == wanted.identifier

    def _meant(self, done: Executed) -> int:
        return self.of_tag[tag_in(done.order.comment)].identifier

    def _receipts(self, group: Group) -> list[Receipt]:
        def is_of(receipt: Receipt) -> bool:
            identifier = receipt.key.partition(".")[0]
            if receipt.follower != self.plan.name or receipt.master != group[0] or not identifier.isdigit():
                return False
            return self._group(Meaning(receipt.master, int(identifier), Side.BUY, 0)) == group

        return [receipt for receipt in self.history.receipts if is_of(receipt)]

    def _wanted(self) -> Iterator[tuple[Group, Wanted]]:
        for master in self.plan.masters:
            for key, wanted in self.masters[master].items():
                yield (master, key), wanted

    def _tickets_end(self) -> Iterator[str]:
        held: dict[Group, Decimal] = {}
        for position in self.broker.account.positions.values():
            group = self.owner.get(position.identifier)
            if group is None:
                continue
            held[group] = held.get(group, ZERO) + position.lots
            wanted = self.masters[group[0]].get(group[1])
            if wanted is None or not wanted.now:
                yield f"ticket {position.ticket} ({position.lots} lots) is open for {group}, which the master closed"
            elif (position.side, position.symbol) != (wanted.side, wanted.symbol):
                yield f"ticket {position.ticket} is {position.side} {position.symbol}, {group} is {wanted.side} {wanted.symbol}"
            elif self.plan.levels and (position.stop_loss, position.take_profit) != (wanted.stop_loss, wanted.take_profit):
                levels = f"{position.stop_loss}/{position.take_profit}"
                yield f"ticket {position.ticket} has levels {levels}, {group} has {wanted.stop_loss}/{wanted.take_profit}"
        for group, wanted in self._wanted():
            least, most = self._bounds(group, wanted) if wanted.now else (ZERO, ZERO)
            if wanted.now and not least <= held.get(group, ZERO) <= most:
                codes = [receipt.code for receipt in self._receipts(group)]
                yield f"{held.get(group, ZERO)} lots are open for {group}, expected {least} to {most}; receipts: {codes}"

    def _netting_end(self) -> Iterator[str]:
        net = {
            p.symbol: p.lots * p.side.sign for p in self.broker.account.positions.values() if p.ticket not in self.broker.by_hand
        }
        bounds: dict[str, list[Decimal]] = {}
        for group, wanted in self._wanted():
            if wanted.now:
                least, most = self._bounds(group, wanted)
                low, high = (least, most) if wanted.side is Side.BUY else (-most, -least)
                sums = bounds.setdefault(wanted.symbol, [ZERO, ZERO])
                sums[0] += low
                sums[1] += high
        for symbol in sorted(net.keys() | bounds.keys()):
            low, high = bounds.get(symbol, [ZERO, ZERO])
            if not low <= net.get(symbol, ZERO) <= high:
                yield f"{symbol} holds {net.get(symbol, ZERO)} lots, expected {low} to {high}"
        for position in self.broker.account.positions.values():
            mine = [(g, w) for g, w in self._wanted() if w.now and w.symbol == position.symbol and g[0] in self.plan.masters]
            if len(mine) != 1 or not self.plan.levels or position.ticket in self.broker.by_hand:
                continue
            wanted = mine[0][1]
            if (position.stop_loss, position.take_profit) != (wanted.stop_loss, wanted.take_profit):
                levels = f"{position.stop_loss}/{position.take_profit}"
                yield f"{position.symbol} has levels {levels}, {mine[0][0]} has {wanted.stop_loss}/{wanted.take_profit}"

    def _other_hands(self) -> Iterator[str]:
        for ticket in self.broker.by_hand:
            position = self.broker.account.positions.get(ticket)
            if position is None or position.lots != Decimal("0.33") or position.stop_loss or position.take_profit:
                yield f"another hand's ticket {ticket} was touched"


def _published_twice(history: History) -> Iterator[str]:
    for (key, _), ids in history.redis.appended.items():
        if len(ids) > 1:
            yield f"one event was published in {key} as {' and '.join(sorted(ids))}"


def _former_owners(history: History, meanings: dict[tuple[str, str], Meaning]) -> Iterator[str]:
    """Tell of orders whose owner's token was lower than one that had been journaled, or let through, before."""
    highest: dict[str, int] = {}
    for follower, tag in meanings:
        token = int(tag[len(TAG_PREFIX) : -5], 36)
        if token < highest.get(follower, 0):
            yield f"{follower}: order {tag} of a former owner was journaled"
        highest[follower] = max(token, highest.get(follower, 0))
    for plan in history.plan.followers:
        admitted = history.brokers[plan.name].admitted
        if admitted != sorted(admitted):
            yield f"{plan.name}: a request of a former owner was let through: tokens {admitted}"
