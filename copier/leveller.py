"""Compares a follower's links with a fresh read of its account, and believes what can be believed.

Gone positions are confirmed by deals or by a second read, lost orders are looked for by tag, by deals and by what else could be
them, and what carries our tag without being wanted is closed.
"""

import logging
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from copier.errors import Unavailable
from copier.link import Leg, LegState, Link, LinkState, is_ours
from copier.model import ZERO, Deal, DealEntry, DealReason, DealType, MarginMode, Position, Side, Verdict
from copier.orders import NotDone
from copier.policy import ManualClose, UnknownOrder
from copier.reconcile import (
    Absent,
    Book,
    Finding,
    Missing,
    Unseen,
    fold,
    fold_net,
    net_levels,
    ours,
    repairs,
    shown_as_believed,
    shrink_legs,
    with_leg,
)
from copier.whose import Lost, adopt, could_have_moved, late_beside, split_from, taken_by_deals, untagged_deals

if TYPE_CHECKING:
    from copier.follower import Follower

log = logging.getLogger(__name__)
replace = msgspec.structs.replace

LOOK_AGAIN_S = 0.25
DEALS_LOOK_BACK = timedelta(days=2)
UNTOLD_MS = 5_000
"""Where no history can say that a position was closed, the list must have been without it for so long: it may just connect."""
UNCONFIRMED_MS = 30_000
"""Where history could say that a position was closed and does not, the list must have been without it for so long."""


class Leveller:
    """One follower's comparison with its broker."""

    def __init__(self, follower: "Follower") -> None:
        self._follower = follower
        self.book = Book(mode=MarginMode.HEDGING, positions=(), began_ms=0, settle_ms=0)
        self.foreign_positions: tuple[Position, ...] = ()
        """Other hands' positions in the last read."""
        self._read = -1
        self._missing: dict[str, Unseen] = {}
        """Legs that are believed open and not listed, by tag."""
        self._orphans: dict[int, int] = {}
        self.foreign: dict[str, Decimal] = {}
        """Netting: signed volume of other hands by symbol, as last understood."""
        self._traded_ms: dict[str, int] = {}
        self._odd: dict[str, Unseen] = {}
        """Netting: symbols that hold what nobody can explain yet."""
        self._net_identifiers: dict[str, int] = {}
        self._bare: dict[str, Unseen] = {}
        """Netting: symbols without the position that must be there."""

    def traded(self, symbol: str) -> None:
        """Note that an order of ours has just moved, or may have moved, a symbol's volume."""
        self._traded_ms[symbol] = self._follower.clock.now_ms()

    async def level(self) -> Book:
        """Read the account once and bring every living link's belief in line with it. Raise `Unavailable`."""
        follower = self._follower
        began_ms = follower.clock.now_ms()
        read = await follower.gateway.get_positions()
        if read.account != follower.standing.account.account:
            raise Unavailable(
                f"expected {follower.standing.account.account}, the terminal shows another account", account=read.account
            )
        if not read.connected:
            raise Unavailable("the terminal is not connected to its trade server", account=read.account)
        if read.read <= self._read:
            return self.book
        self._read = read.read
        facts, mode = follower.gateway.facts, follower.standing.mode
        settle_ms, late_ms = round(facts.settle_s * 1000), round(facts.late_s * 1000)
        self.book = Book(mode=mode, positions=read.positions, began_ms=began_ms, settle_ms=settle_ms, late_ms=late_ms)
        if mode is MarginMode.NETTING:
            await self._level_net()
        else:
            await self._level_tickets()
        return self.book

    # Accounts where every position has its own ticket ------------------------------------------------------------------

    async def _level_tickets(self) -> None:
        follower = self._follower
        living = list(follower.memory.living.values())
        owned = {leg.ticket: leg.tag for link in living for leg in link.legs if leg.living and leg.ticket}
        findings: list[Finding] = []
        missed = set()
        for link in living:
            if link.wanted_open and link.cut is None and shown_as_believed(link, self.book):
                continue
            folded, found = fold(link, self.book, owned)
            self._settle(link, folded)
            findings += found
            missed |= {finding.leg.tag for finding in found if isinstance(finding, Missing)}
        self._missing = {tag: seen for tag, seen in self._missing.items() if tag in missed}
        for finding in findings:
            link = follower.links[finding.link.name]
            match finding:
                case Missing():
                    await self._missed(link, finding.leg)
                case Absent():
                    await self._absent(link, finding.leg, owned)
        await self._strays(owned)
        if any(leg.state is LegState.UNKNOWN or link.cut for link in living for leg in follower.links[link.name].legs):
            follower.level_within(LOOK_AGAIN_S)

    def _settle(self, before: Link, after: Link) -> None:
        """Take over what a read has shown of a link, and leave a receipt for what came to its end."""
        follower = self._follower
        if after is before:
            self._still_to_close(before)
            return
        for old, new in zip(before.legs, after.legs, strict=True):
            cut = before.cut
            if cut is not None and cut.tag == old.tag and after.cut is None and new.lots < cut.lots_before:
                follower.note_cut(after, replace(old, lots=cut.lots_before), new.lots)
            elif old.state is not LegState.OPEN and new.state is LegState.OPEN:
                follower.note(after, "open", Verdict.ADOPTED, "found", lots=new.lots, ticket=new.ticket, tag=new.tag)
                after = replace(after, laid_for=None)  # Nobody told us at what price it was filled.
            elif new.lots < old.lots and old.state is LegState.OPEN and cut is None:
                follower.note(
                    after, "reconcile", Verdict.CHANGED, "reduced_by_another_hand", lots=old.lots - new.lots, ticket=new.ticket
                )
        follower.put(after)

    def _still_to_close(self, link: Link) -> None:
        """Drive again what the master has closed and a read still shows open; what waits for an answer only waits for it."""
        if not link.wanted_open and repairs(link, None, self.book.mode):
            self._follower.put(link)

    async def _missed(self, link: Link, leg: Leg) -> None:
        """A leg's position is not there: gone if a deal says so, or if it stays away for longer than reads may lag."""
        follower = self._follower
        missed = self._missing[leg.tag] = self._once_more(self._missing.get(leg.tag))
        deals = await self._deals_of(leg.identifier or leg.ticket)
        closed = _closing(deals, leg.filled)
        if closed is None and not (missed.reads >= 2 and missed.watched_ms >= self._patience_ms):
            follower.level_within(max(LOOK_AGAIN_S, self.book.settle_ms / 1000 / 2))
            return
        self._missing.pop(leg.tag, None)
        reason = closed.reason if closed is not None else None
        gone = with_leg(link, replace(leg, state=LegState.CLOSED, lots=ZERO))
        if gone.cut is not None and gone.cut.tag == leg.tag:
            gone = replace(gone, cut=None)
        follower.put(gone)
        if not link.wanted_open:
            follower.note_cut(gone, leg, ZERO)
            return
        code = f"closed_by_{reason.name.lower()}" if reason is not None else "closed_by_unknown"
        price = closed.price if closed is not None else ZERO
        policy = follower.relations[link.master].policy.copying
        by_hand = reason is DealReason.CLIENT
        verdict = Verdict.ALERT if by_hand and policy.manual_close is ManualClose.ALERT else Verdict.CLOSED
        follower.note(gone, "reconcile", verdict, code, lots=leg.lots, ticket=leg.ticket, tag=leg.tag, price=price)
        if by_hand and policy.manual_close is ManualClose.REOPEN:
            follower.want_reopened(gone)

    async def _absent(self, link: Link, leg: Leg, owned: dict[int, str]) -> None:
        """An order of unknown outcome left no sign in time: adopt what can be only it, else never send it again."""
        follower = self._follower
        policy = follower.relations[link.master].policy.copying
        found = None if follower.standing.mode is MarginMode.NETTING else self._adopted(link, leg, owned)
        if found is not None:
            self._settle(link, found)
            return
        opened = await self._opening_deals(link, leg)
        if opened:
            filled = sum((deal.lots for deal in opened), ZERO)
            identifier, price = opened[0].position_id, opened[0].price
            found_as = replace(leg, ticket=identifier, identifier=identifier, price=price)
            known = replace(found_as, state=LegState.OPEN, filled=filled, lots=filled)
            follower.put(with_leg(link, known))  # Not in the list, so the next read finds it missing and asks its deals.
            follower.level_within(LOOK_AGAIN_S)
            return
        failed = with_leg(link, replace(leg, state=LegState.FAILED))
        resend = policy.unknown is UnknownOrder.RESEND and follower.gateway.deals is not None
        alone = all(each.state is LegState.FAILED for each in failed.legs)
        if resend and alone and follower.gateway.facts.tags_survive and link.wanted_open:
            again = replace(failed, legs=(), anchor=ZERO, before=ZERO, state=LinkState.PENDING)
            follower.note(again, "open", Verdict.CHANGED, "proven_absent", tag=leg.tag, lots=leg.asked)
            follower.put(again)
            return
        follower.put(failed)
        follower.note(
            failed,
            "open",
            Verdict.ALERT,
            "order_lost",
            rule="copy.unknown",
            tag=leg.tag,
            lots=leg.asked,
            message="nobody can say whether this order was executed and no sign of it was found; it is not sent again",
        )

    def _adopted(self, link: Link, leg: Leg, owned: dict[int, str]) -> Link | None:
        follower = self._follower
        magic = follower.relations[link.master].policy.copying.magic
        rivals = self._orders_of(magic, (LegState.UNKNOWN, LegState.FAILED))
        return adopt(Lost(link=link, leg=leg), rivals, self.book, owned, magic, follower.standing.account.server_offset_s)

    async def _strays(self, owned: dict[int, str]) -> None:
        """Positions that no living leg owns: believed again if they are a leg of ours, closed if they carry a tag of ours."""
        follower = self._follower
        free = [p for p in self.book.positions if p.ticket not in owned]
        owners = {key: link for link in follower.links.values() for leg in link.legs for key in _names(leg)} if free else {}
        magics = {relation.policy.copying.magic for relation in follower.relations.values()}
        orphans = {}
        for position in free:
            link = next((owners[key] for key in _signs(position) if key in owners), None)
            if link is not None:
                folded, _ = fold(follower.links[link.name], self.book, owned)
                self._settle(follower.links[link.name], folded)
            elif position.magic in magics and is_ours(position.tag, follower.token):
                orphans[position.ticket] = self._orphans.get(position.ticket, self.book.began_ms)
                if self.book.began_ms - orphans[position.ticket] >= self.book.settle_ms:
                    await self._close_orphan(position)
                else:
                    follower.level_within(self.book.settle_ms / 1000)
            elif self.book.mode is MarginMode.MT4:
                self._split_twice(position, owned)
        self._orphans = orphans
        if any(position.magic in magics and not position.tag and position.ticket not in owned for position in free):
            self._late_orders(owned)
        self.foreign_positions = tuple(p for p in self.book.positions if p.ticket not in owned)

    def _split_twice(self, position: Position, owned: dict[int, str]) -> None:
        """What another hand has left of a copy by closing parts of it more than once between two reads."""
        follower = self._follower
        filled = self._orders_of(position.magic, (LegState.OPEN, LegState.CLOSED))
        unlisted = [each for each in filled if self.book.ticket(each.leg.ticket) is None]
        found = split_from(position, unlisted, position.magic, follower.standing.account.server_offset_s)
        if found is not None:
            owned[position.ticket] = next(leg.tag for leg in found.legs if leg.ticket == position.ticket)
            self._settle(follower.links[found.name], found)

    def _late_orders(self, owned: dict[int, str]) -> None:
        """Orders that were given up and are there after all, without their tag."""
        for link in list(self._follower.links.values()):
            for leg in link.legs:
                if leg.state is LegState.FAILED:
                    now = self._follower.links[link.name]
                    found = self._adopted(now, leg, owned)
                    if found is not None:
                        self._settle(now, found)

    async def _close_orphan(self, position: Position) -> None:
        follower = self._follower
        leg = Leg(
            tag=position.tag, side=position.type, asked=position.lots, state=LegState.OPEN, filled=position.lots,
            lots=position.lots, ticket=position.ticket, identifier=position.identifier, price=position.open_price,
        )  # fmt: skip
        master = next(iter(follower.relations))
        link = follower.orphan_link(master, position, leg)
        log.warning(
            "%s: ticket %s carries our tag %s and nothing wants it: closing it", follower.name, position.ticket, position.tag
        )
        follower.put(link)
        follower.note(link, "reconcile", Verdict.ALERT, "orphan", lots=position.lots, ticket=position.ticket, tag=position.tag)

    def _once_more(self, before: Unseen | None) -> Unseen:
        return before.again(self.book.began_ms) if before is not None else Unseen(self.book.began_ms)

    @property
    def _patience_ms(self) -> int:
        return max(self.book.settle_ms, UNTOLD_MS if self._follower.gateway.deals is None else UNCONFIRMED_MS)

    # Deals ---------------------------------------------------------------------------------------------------------------

    async def _deals_of(self, position_id: int) -> tuple[Deal, ...]:
        history = self._follower.gateway.deals
        if history is None or not position_id:
            return ()
        return await history.get_deals(datetime(2000, 1, 1, tzinfo=UTC), position_id)

    async def _opening_deals(self, link: Link, leg: Leg) -> list[Deal]:
        """Return the deals of a leg's order, whatever they did to a netting position that stood on the other side.

        They are known by its tag, or where the broker strips tags by what it asked for.
        """
        history = self._follower.gateway.deals
        if history is None:
            return []
        offset_s = self._follower.standing.account.server_offset_s
        since = datetime.fromtimestamp(leg.sent_ms / 1000, UTC) + timedelta(seconds=offset_s or 0) - DEALS_LOOK_BACK
        opens = DealType.BUY if leg.side is Side.BUY else DealType.SELL
        every = await history.get_deals(since)
        tagged = [deal for deal in every if deal.tag == leg.tag and deal.type is opens]
        if tagged:
            return tagged
        magic = self._follower.relations[link.master].policy.copying.magic
        orders = self._orders_of(magic, frozenset(LegState))
        return untagged_deals(Lost(link=link, leg=leg), orders, every, magic, offset_s)

    async def _filled(self, link: Link, leg: Leg) -> Decimal:
        return sum((deal.lots for deal in await self._opening_deals(link, leg)), ZERO)

    def _orders_of(self, magic: int, states: Collection[LegState]) -> list[Lost]:
        """Return our opening orders with this magic, by what became of them."""
        follower = self._follower
        return [
            Lost(link=link, leg=leg)
            for link in follower.links.values()
            if follower.relations[link.master].policy.copying.magic == magic
            for leg in link.legs
            if leg.state in states
        ]

    # Netting accounts ------------------------------------------------------------------------------------------------------

    async def _level_net(self) -> None:
        follower = self._follower
        self._net_identifiers |= {position.symbol: position.identifier for position in self.book.positions}
        living = [link for link in follower.memory.living.values() if link.symbol]
        were_bare, self._bare = self._bare, {}
        for name in [link.name for link in living]:
            link = follower.links[name]
            if await self._is_bare(link, were_bare):
                follower.level_within(LOOK_AGAIN_S)
                continue
            link = await self._without_late(link)
            folded, findings = fold_net(link, self.book)
            if folded is not link:
                self._settle_net(link, folded)
            else:
                self._still_to_close(link)
            for finding in findings:
                if isinstance(finding, Absent):
                    await self._absent(follower.links[link.name], finding.leg, {})
        symbols = sorted({link.symbol for link in living} | {p.symbol for p in self.book.positions})
        for symbol in symbols:
            await self._compare_net(symbol)
            self._compare_net_levels(symbol)
        self.foreign_positions = tuple(self._foreign_position(p) for p in self.book.positions if self.foreign.get(p.symbol))
        if any(
            link.cut is not None or any(leg.state is LegState.UNKNOWN for leg in link.legs)
            for link in follower.memory.living.values()
            if link.living
        ):
            follower.level_within(LOOK_AGAIN_S)

    async def _is_bare(self, link: Link, were_bare: dict[str, Unseen]) -> bool:
        """Return whether the list lacks the position that an order on its way was measured against, and nothing says it is gone.

        A terminal that has just connected may list nothing yet: that must not pass for what our order has done.
        """
        symbol = link.symbol
        before = [leg.net_before for leg in link.legs if leg.state in (LegState.UNKNOWN, LegState.SENDING)]
        before += [link.cut.net_before] if link.cut is not None else []
        if not any(before) or self.book.position_of(symbol) is not None:
            return False
        if _closing(await self._deals_of(self._identifier_of(symbol, [link]))) is not None:
            return False
        bare = self._bare[symbol] = self._once_more(were_bare.get(symbol))
        return bare.reads < 2 or bare.watched_ms < self._patience_ms

    def _identifier_of(self, symbol: str, links: list[Link]) -> int:
        """Return what a symbol's position is known by in the deals: as last listed, or, after a start, as an answer told."""
        if symbol in self._net_identifiers:
            return self._net_identifiers[symbol]
        tickets = [link.cut.ticket for link in links if link.cut is not None]
        legs = [leg for link in self._follower.links.values() if link.symbol == symbol for leg in link.legs]
        return max(tickets or (leg.identifier or leg.ticket for leg in legs), default=0)

    def _settle_net(self, before: Link, after: Link) -> None:
        follower = self._follower
        for old, new in zip(before.legs, after.legs, strict=True):
            if old.state in (LegState.UNKNOWN, LegState.SENDING) and new.state is LegState.OPEN:
                follower.note(after, "open", Verdict.ADOPTED, "found", lots=new.lots, tag=new.tag)
            elif new.lots < old.lots:
                follower.note_cut(after, old, new.lots)
        follower.put(after)

    async def _compare_net(self, symbol: str) -> None:
        """What the symbol holds beyond our legs is another hand's; what it lacks of them another hand, or a stop, has closed."""
        follower = self._follower
        links = [link for link in follower.memory.living.values() if link.symbol == symbol]
        on_its_way = any(
            link.cut is not None or any(leg.state in (LegState.UNKNOWN, LegState.SENDING) for leg in link.legs) for link in links
        )
        if on_its_way:
            return
        net, mine = self.book.net(symbol), ours(links, symbol)
        foreign = net - mine
        if foreign == self.foreign.get(symbol, ZERO):
            self._odd.pop(symbol, None)
            return
        settled = self.book.settled(self._traded_ms.get(symbol, 0))
        moved = foreign - self.foreign.get(symbol, ZERO)
        if settled and await self._came_late(symbol, moved):
            follower.level_within(LOOK_AGAIN_S)
            return
        odd = self._odd[symbol] = self._once_more(self._odd.get(symbol))
        closed = _closing(await self._deals_of(self._identifier_of(symbol, links))) if mine and not net else None
        wait_ms = self._patience_ms if not net and closed is None else self.book.settle_ms
        if not settled or (mine and odd.watched_ms < wait_ms):
            follower.level_within(max(LOOK_AGAIN_S, self.book.settle_ms / 1000 / 2))
            return
        self._odd.pop(symbol, None)
        if mine and foreign * mine < 0:
            self._taken_away(symbol, links, foreign, closed)
            foreign = net - ours([follower.links[link.name] for link in links], symbol)
        elif theirs := await self._told_by_deals(links, moved):
            self._taken_away(symbol, links, moved, theirs)
            foreign = net - ours([follower.links[link.name] for link in links], symbol)
        if foreign:
            self.foreign[symbol] = foreign
            log.warning("%s: %s holds %s lots of another hand", follower.name, symbol, foreign)
        else:
            self.foreign.pop(symbol, None)

    async def _told_by_deals(self, links: list[Link], moved: Decimal) -> Deal | None:
        """Return the deal by which another hand closed so much of our legs, which the symbol's volume alone does not tell."""
        offset_s = self._follower.standing.account.server_offset_s
        for leg in [leg for link in links for leg in link.legs if leg.state is LegState.OPEN]:
            if leg.side.sign * moved < 0:
                found = taken_by_deals(leg, await self._deals_of(leg.identifier or leg.ticket), abs(moved), offset_s)
                if found is not None:
                    return found
        return None

    def understood(self, symbol: str) -> bool:
        """Return whether a netting symbol holds what our legs and the other hand's volume add up to."""
        return self.book.net(symbol) == ours(self._follower.memory.living.values(), symbol) + self.foreign.get(symbol, ZERO)

    def lags(self, symbol: str) -> bool:
        """Return whether the last read may not show our last order in a netting symbol yet: nothing can be measured by it."""
        return not self.book.settled(self._traded_ms.get(symbol, 0)) and not self.understood(symbol)

    def is_odd(self, symbol: str) -> bool:
        """Return whether nobody can say yet why a netting symbol holds what it does: nothing can be added to that."""
        netting = self._follower.standing.mode is MarginMode.NETTING
        return netting and self.book.settled(self._traded_ms.get(symbol, 0)) and not self.understood(symbol)

    def net_now(self, symbol: str) -> Decimal:
        """Return a netting symbol's signed volume as it must be by now, where no order in it is uncertain."""
        bare = self.book.position_of(symbol) is None and not self.understood(symbol)
        if not bare and not self.lags(symbol):
            return self.book.net(symbol)
        return ours(self._follower.memory.living.values(), symbol) + self.foreign.get(symbol, ZERO)

    async def _came_late(self, symbol: str, moved: Decimal) -> bool:
        """Return whether orders that were given up have moved the symbol after all, as their deals or the exact volume say."""
        lost = self._given_up(symbol)
        told = [(link, leg, await self._filled(link, leg)) for link, leg in lost]
        came = [each for each in told if each[2]] or [
            (link, leg, leg.asked) for link, leg in could_have_moved(lost, moved, self.book.began_ms)
        ]
        for link, leg, filled in came:
            self._found_late(link, leg, filled)
        return bool(came)

    async def _without_late(self, link: Link) -> Link:
        """Take what a given-up order has moved beside the one on its way for that order's; return the link to measure by."""
        came, rest = late_beside(link, self._given_up(link.symbol), self.book)
        if not came or any([await self._filled(link, leg) for leg in link.legs if leg.state is LegState.UNKNOWN]):
            return link
        self._follower.memory.believe(rest)
        for late, leg in came:
            self._found_late(late, leg, leg.asked)
        return self._follower.links[link.name]

    def _given_up(self, symbol: str) -> list[tuple[Link, Leg]]:
        links = [link for link in self._follower.links.values() if link.symbol == symbol]
        return [(link, leg) for link in links for leg in link.legs if leg.state is LegState.FAILED]

    def _found_late(self, link: Link, leg: Leg, filled: Decimal) -> None:
        follower = self._follower
        found = with_leg(follower.links[link.name], replace(leg, state=LegState.OPEN, filled=filled, lots=filled))
        follower.note(found, "open", Verdict.ADOPTED, "found", lots=filled, tag=leg.tag)
        follower.put(found)

    def _taken_away(self, symbol: str, links: list[Link], theirs: Decimal, closed: Deal | None) -> None:
        follower = self._follower
        code = f"closed_by_{closed.reason.name.lower()}" if closed is not None else "reduced_by_another_hand"
        by_hand = closed is not None and closed.reason is DealReason.CLIENT
        for changed in shrink_legs(links, symbol, theirs):
            lots = follower.links[changed.name].lots - changed.lots
            policy = follower.relations[changed.master].policy.copying.manual_close
            verdict = Verdict.CHANGED if changed.lots else Verdict.CLOSED
            follower.put(changed)
            alert = by_hand and policy is ManualClose.ALERT
            follower.note(changed, "reconcile", Verdict.ALERT if alert else verdict, code, lots=lots)
            if by_hand and policy is ManualClose.REOPEN:
                follower.want_reopened(changed)

    def _foreign_position(self, position: Position) -> Position:
        foreign = self.foreign[position.symbol]
        return replace(position, lots=abs(foreign), type=Side.BUY if foreign > 0 else Side.SELL, stop_loss=ZERO)

    def shared(self, link: Link, symbol: str, book: Book) -> str:
        """Return why a netting symbol is not ours alone, in words; empty if it is."""
        foreign = self.foreign.get(symbol, ZERO)
        if foreign:
            return f"{symbol} holds {abs(foreign)} lots of another hand, and a netting account has one position per symbol"
        for other in self._follower.memory.living.values():
            if other.symbol == symbol and other.master != link.master and other.lots:
                return f"{symbol} already holds a copy of {other.master}, and a netting account has one position per symbol"
        return ""

    def waits_for(self, symbol: str, name: tuple[str, str]) -> bool:
        """Return whether another link's order in a netting symbol is not certain yet.

        Its outcome is told by how the symbol's volume moves, so nothing else may move it meanwhile.
        """
        if self._follower.standing.mode is not MarginMode.NETTING:
            return False
        return any(
            link.symbol == symbol and link.name != name and (link.cut is not None or _uncertain(link))
            for link in self._follower.memory.living.values()
            if link.living
        )

    def closes_first(self, symbol: str) -> bool:
        """Return whether a copy in a netting symbol still has to be closed: nothing is added to what it is closed out of."""
        return self._follower.standing.mode is MarginMode.NETTING and any(
            link.symbol == symbol and not link.wanted_open and any(leg.living for leg in link.legs)
            for link in self._follower.memory.living.values()
        )

    def net_levels_with(self, link: Link) -> tuple[Decimal, Decimal]:
        """Return the levels the symbol's position should have once this link's order is filled."""
        sent = tuple(replace(leg, state=LegState.OPEN) if leg.state is LegState.SENDING else leg for leg in link.legs)
        links = [*(li for li in self._follower.memory.living.values() if li.name != link.name), replace(link, legs=sent)]
        return net_levels(links, link.symbol, link.side)

    def net_stop(self, symbol: str) -> tuple[Position, Decimal] | None:
        """Return a netting symbol's position as last read and its wanted stop; None where the stop is not ours to set."""
        links = [link for link in self._follower.memory.living.values() if link.symbol == symbol]
        position = self.book.position_of(symbol)
        if position is None or self.foreign.get(symbol) or not ours(links, symbol):
            return None
        return position, net_levels(links, symbol, position.type)[0]

    def may_be_late(self, symbol: str) -> bool:
        """Return whether an order of ours has moved a symbol since the last read was asked for."""
        return self._traded_ms.get(symbol, 0) >= self.book.began_ms

    def _compare_net_levels(self, symbol: str) -> None:
        """Look again at a link of a symbol whose position has other levels than are wanted."""
        position = self.book.position_of(symbol)
        links = [link for link in self._follower.memory.living.values() if link.symbol == symbol]
        if position is None or self.foreign.get(symbol) or not self.book.settled(self._traded_ms.get(symbol, 0)):
            return
        if ours(links, symbol) and net_levels(links, symbol, position.type) != (position.stop_loss, position.take_profit):
            self._follower.memory.dirty[links[0].name] = None

    async def set_net_levels(self, symbol: str) -> bool:
        """Bring the levels of a symbol's one position in line with those of our legs; return whether that took an order."""
        follower = self._follower
        links = [link for link in follower.memory.living.values() if link.symbol == symbol]
        if self.foreign.get(symbol) or not ours(links, symbol) or any(link.cut is not None for link in links):
            return False
        if self.may_be_late(symbol):
            await self.level()
        position = self.book.position_of(symbol)
        if position is None:
            return False
        wanted = net_levels([follower.links[link.name] for link in links], symbol, position.type)
        if wanted == (position.stop_loss, position.take_profit):
            return False
        try:
            certain = await follower.orders.set_levels(position.ticket, *wanted)
        except NotDone as refusal:
            follower.complain_levels(links[0].name, refusal)
            return True
        self.traded(symbol)
        if not certain:
            follower.put(links[0])  # To be compared with a fresh read, and set again if that shows them unset.
        else:
            asked = [link for link in links if follower.memory.asked.pop(link.name, None)] or links[:1]
            for link in asked:
                follower.note(link, "modify", Verdict.CHANGED, "levels_set", lots=position.lots, ticket=position.ticket)
        return True


def _uncertain(link: Link) -> bool:
    return any(leg.state in (LegState.UNKNOWN, LegState.SENDING) for leg in link.legs)


def _closing(deals: tuple[Deal, ...], lots: Decimal = ZERO) -> Deal | None:
    """Return the last closing deal of a position whose deals say that all of it, and at least so many lots, was closed.

    MT4's history knows closed tickets only: there the deals of a partial close alone look complete.
    """
    opened = sum((deal.lots for deal in deals if deal.entry in (DealEntry.IN, DealEntry.INOUT)), ZERO)
    closed = [deal for deal in deals if deal.entry in (DealEntry.OUT, DealEntry.OUT_BY)]
    return closed[-1] if closed and opened and sum((deal.lots for deal in closed), ZERO) >= max(opened, lots) else None


def _names(leg: Leg) -> set[str | int]:
    """Return what a position of this leg may be known by."""
    names: set[str | int] = {leg.tag, leg.ticket, leg.identifier}
    return names - {0}


def _signs(position: Position) -> tuple[str | int | None, ...]:
    """Return what a position says about whose it is, the surest first."""
    return (position.tag, position.ticket, position.identifier, position.parent)
