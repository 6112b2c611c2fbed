"""What can be wrong with a follower, as conditions in words: read from what it believes, changing nothing."""

from collections.abc import Iterator
from decimal import Decimal

import msgspec

from copier.alert import Watchdog
from copier.follower import Follower
from copier.link import Leg, LegState, Link
from copier.model import ZERO, MarginMode, Position, Quote, SymbolSpec
from copier.opens import levels_of
from copier.policy import LevelMode, Mode
from copier.reconcile import Book, target_lots
from copier.sizing import lots_to_close
from copier.steps import plain

NAMES_SHOWN = 5


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong at one look."""

    watchdog: Watchdog
    subject: str
    account: str
    cause: str
    advice: str
    since_ms: int = 0
    """When it began; 0 is when it was first seen."""

    @property
    def name(self) -> tuple[Watchdog, str]:
        """What it is known by from look to look."""
        return (self.watchdog, self.subject)


class Unprotected(msgspec.Struct, frozen=True, kw_only=True):
    """A copy whose stop at the broker is not the one wanted."""

    follower: Follower
    link: Link
    ticket: int
    wanted: Decimal | None
    """None where no price tells what it should be."""
    found: Decimal

    @property
    def subject(self) -> str:
        """Which position of whom."""
        return f"{self.follower.name} {self.link.master} {self.link.key} #{self.ticket}"


class Inspection:
    """One follower's copies, each looked at once: what is in order is not asked about again before it changes.

    A copy is in order by itself alone, by its relation's policy, which stays, and by its symbol's rules; on a netting account
    by what its symbol holds besides. Whether a person wants a relation to stand still is asked of the others only.
    """

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self._mode = MarginMode.HEDGING
        self._in_order: dict[int, Link] = {}
        """By identity: a link never changes, what changes is another one."""
        self._specs: dict[str, SymbolSpec | None] = {}
        """By which rules of their symbols those are in order."""
        self._nets: tuple[Book, dict[str, Decimal], int] | None = None
        """The read, the foreign volume and the number of copies by which the symbols of a netting account are in order."""

    def doubtful(self) -> list[Link]:
        """Return the living links that something may be wrong with, in their order."""
        standing, living = self.follower.standing, self.follower.memory.living
        if self._mode is not standing.mode or any(self._rules_changed(symbol) for symbol in self._specs):
            self._mode = standing.mode
            self._in_order, self._specs, self._nets = {}, {}, None
        in_order = self._in_order
        doubtful = fresh = [link for link in living.values() if id(link) not in in_order]
        if fresh:
            doubtful = [link for link in fresh if not self._judge(link)]
            if len(in_order) > 2 * len(living):
                self._in_order = {id(link): link for link in living.values() if id(link) in in_order}
        if self._mode is not MarginMode.NETTING:
            return doubtful
        odd = self._odd_symbols(changed=bool(fresh))
        return [link for link in living.values() if link.symbol in odd or id(link) not in in_order] if odd else doubtful

    def _rules_changed(self, symbol: str) -> bool:
        known, now = self._specs[symbol], self.follower.standing.spec(symbol)
        return now is not known and now != known

    def _judge(self, link: Link) -> bool:
        """Return whether a link is in order, and remember it."""
        if link.cut is not None:
            return False
        held, netting = False, self._mode is MarginMode.NETTING
        for leg in link.legs:
            if leg.living:
                if leg.state is not LegState.OPEN or not (netting or _has_its_stop(self.follower, link, leg)):
                    return False
                held = True
        if held:
            spec = self._specs[link.symbol] = self.follower.standing.spec(link.symbol)
            if too_much(link, spec)[1] > ZERO:
                return False
        self._in_order[id(link)] = link
        return True

    def _odd_symbols(self, *, changed: bool) -> set[str]:
        """Return the symbols of a netting account that do not add up, or whose stop is not the one wanted."""
        leveller, living = self.follower.leveller, self.follower.memory.living
        nets = self._nets
        if not changed and nets is not None and nets[0] is leveller.book and nets[1:] == (leveller.foreign, len(living)):
            return set()
        symbols = {link.symbol for link in living.values() if link.lots}
        odd = {symbol for symbol in symbols if not leveller.understood(symbol) or _net_lacks_stop(leveller.net_stop(symbol))}
        self._nets = None if odd else (leveller.book, dict(leveller.foreign), len(living))
        return odd


def unprotected(follower: Follower, links: list[Link]) -> Iterator[Unprotected]:
    """Find the copies whose stop at the broker, by what is believed of it, is not the one wanted."""
    symbols: set[str] = set()
    for link in links:
        if not any(_needs_stop(link, leg) for leg in link.legs) or stands_still(follower, link.master):
            continue
        if follower.standing.mode is MarginMode.NETTING:
            if link.symbol not in symbols:
                symbols.add(link.symbol)
                yield from _net_unprotected(follower, link)
            continue
        for leg in link.legs:
            if not _has_its_stop(follower, link, leg):
                wanted = _wanted_stop(follower, link)
                yield Unprotected(follower=follower, link=link, ticket=leg.ticket, wanted=wanted, found=leg.stop_loss)


def _needs_stop(link: Link, leg: Leg) -> bool:
    return leg.state is LegState.OPEN and bool(leg.lots) and link.wanted_open


def _has_its_stop(follower: Follower, link: Link, leg: Leg) -> bool:
    """Return whether a leg's stop at the broker is the one wanted, where any is."""
    if leg.stop_loss and leg.stop_loss == link.stop_loss:
        return True
    if not _needs_stop(link, leg):
        return True
    wanted = _wanted_stop(follower, link)
    return wanted == leg.stop_loss if wanted else wanted is not None or bool(leg.stop_loss)


def _wanted_stop(follower: Follower, link: Link) -> Decimal | None:
    """Return the stop wanted of a copy, 0 for none; None where the master's stop waits for a price to be translated by."""
    if link.stop_loss:
        return link.stop_loss
    policy = follower.relations[link.master].policy.copying
    master_has = link.position.take_profit if policy.reverse else link.position.stop_loss
    if not master_has or policy.stops.mode is LevelMode.NONE or link.laid_for == levels_of(link.position):
        return link.stop_loss
    return None


def _net_lacks_stop(told: tuple[Position, Decimal] | None) -> bool:
    return told is not None and bool(told[1]) and told[0].stop_loss != told[1]


def _net_unprotected(follower: Follower, link: Link) -> Iterator[Unprotected]:
    told = follower.leveller.net_stop(link.symbol)
    if told is None or not _net_lacks_stop(told):
        return
    position, wanted = told
    if follower.leveller.may_be_late(link.symbol):
        follower.compare_now()
    yield Unprotected(follower=follower, link=link, ticket=position.ticket, wanted=wanted, found=position.stop_loss)


def naked(each: Unprotected) -> Condition:
    """Return what is wrong with a copy that lacks its stop."""
    link = each.link
    has = f"has its stop at {each.found:f} at the broker" if each.found else "has no stop at the broker"
    wants = "the price to compute it by cannot be had" if each.wanted is None else f"{each.wanted:f} is wanted"
    return Condition(
        watchdog=Watchdog.NAKED,
        subject=each.subject,
        account=each.follower.settings.account,
        cause=f"{each.follower.name}: {link.side} {plain(link.lots)} {link.symbol} #{each.ticket} {has}, {wants}",
        advice="set the stop in the terminal, or close the position there; `mt-copier receipts` says why the broker refuses",
    )


def unfollowed(follower: Follower) -> Iterator[Condition]:
    """Find why an account cannot be followed just now."""
    if follower.error:
        cause, since_ms = f"{follower.name} cannot be followed: {follower.error}", 0
    elif follower.step_ms:
        cause, since_ms = f"{follower.name}: one step does not end; its terminal does not answer", follower.step_ms
    else:
        return
    yield Condition(
        watchdog=Watchdog.FOLLOWER,
        subject=follower.name,
        account=follower.settings.account,
        cause=cause,
        advice="look at its terminal, `mt-copier doctor` says more; close by hand there what must not wait",
        since_ms=since_ms,
    )


def drifted(follower: Follower, links: list[Link]) -> Iterator[Condition]:
    """Find copies that are larger than they should be, and netting symbols that do not add up."""
    for link in links:
        if not link.lots or stands_still(follower, link.master):
            continue
        target, excess = too_much(link, follower.standing.spec(link.symbol))
        if excess > 0:
            yield Condition(
                watchdog=Watchdog.DRIFT,
                subject=f"{follower.name} {link.master} {link.key}",
                account=follower.settings.account,
                cause=(
                    f"{follower.name}: {link.side} {plain(link.lots)} {link.symbol} of {link.master} is open, "
                    f"{plain(target)} should be"
                ),
                advice="closing it is tried on and on; `mt-copier receipts` says why the broker refuses, or close it by hand",
            )
    if follower.standing.mode is MarginMode.NETTING:
        for symbol in sorted({link.symbol for link in links if link.lots}):
            if not follower.leveller.understood(symbol):
                yield Condition(
                    watchdog=Watchdog.DRIFT,
                    subject=f"{follower.name} {symbol}",
                    account=follower.settings.account,
                    cause=f"{follower.name}: {symbol} holds {plain(follower.leveller.book.net(symbol))} lots, "
                    "which our copies and what else is known of it do not add up to",
                    advice="compare the account with `mt-copier positions`",
                )


def too_much(link: Link, spec: SymbolSpec | None) -> tuple[Decimal, Decimal]:
    """Return the lots a copy should have, and how many it has beyond them."""
    lots, position = link.lots, link.position
    if link.wanted_open and position.lots == position.lots_opened == link.anchor > ZERO == link.before and lots <= link.filled:
        return link.filled, ZERO  # The master still holds all that was copied: its symbol's rules do not matter.
    if spec is not None and spec.divides_lots:
        target = target_lots(link, spec)
        return target, lots_to_close(lots, target, spec)
    target = lots if link.wanted_open else ZERO
    return target, lots - target


def unanswered(follower: Follower, links: list[Link]) -> Iterator[Condition]:
    """Find the orders whose outcome nobody knows."""
    for link in links:
        for leg in link.legs:
            if leg.state in (LegState.UNKNOWN, LegState.SENDING) and leg.sent_ms:
                yield _unanswered_order(follower, link, leg.tag, _open_words(link, leg), leg.sent_ms)
        if link.cut is not None and not stands_still(follower, link.master):
            words = f"bringing #{link.cut.ticket} {link.symbol} down to {plain(link.cut.lots_after)} lots"
            yield _unanswered_order(follower, link, f"#{link.cut.ticket}", words, link.cut.sent_ms)


def _open_words(link: Link, leg: Leg) -> str:
    return f"{leg.side} {plain(leg.asked)} {link.symbol} with tag {leg.tag}"


def _unanswered_order(follower: Follower, link: Link, which: str, words: str, sent_ms: int) -> Condition:
    return Condition(
        watchdog=Watchdog.UNKNOWN,
        subject=f"{follower.name} {link.master} {link.key} {which}",
        account=follower.settings.account,
        cause=f"{follower.name}: nobody can say yet whether the broker did this: {words}",
        advice="look at the account; it is not sent again while this stands, and what shows up is found by its tag or ticket",
        since_ms=sent_ms,
    )


def stands_still(follower: Follower, master: str) -> bool:
    """Return whether nothing is done for a relation, because a person or the settings want it so."""
    return follower.relations[master].policy.mode is Mode.FROZEN or follower.standing.relation_frozen(master)


def ahead_ms(quote: Quote, follower: Follower, now_ms: int) -> int:
    """Return how far the clock behind a price that has just moved is ahead of ours, in milliseconds."""
    offset_s = follower.standing.account.server_offset_s or 0
    return round(quote.timestamp.timestamp() * 1000) - offset_s * 1000 - (now_ms - quote.age_ms)


def listed(followers: list[Follower]) -> str:
    """Return followers' names, as many as a sentence can hold."""
    rest = len(followers) - NAMES_SHOWN
    return ", ".join(follower.name for follower in followers[:NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
