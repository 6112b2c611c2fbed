"""What can be wrong with a follower, as conditions in words: read from what it believes, changing nothing."""

from collections.abc import Iterator
from decimal import Decimal

import msgspec

from copier.alert import Watchdog
from copier.follower import Follower
from copier.link import Leg, LegState, Link
from copier.model import MarginMode, Quote
from copier.opens import levels_of
from copier.policy import LevelMode, Mode
from copier.reconcile import target_lots
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


def unprotected(follower: Follower) -> Iterator[Unprotected]:
    """Find the copies whose stop at the broker, by what is believed of it, is not the one wanted."""
    symbols: set[str] = set()
    for link in list(follower.memory.living.values()):
        legs = [leg for leg in link.legs if leg.state is LegState.OPEN and leg.lots]
        if not legs or not link.wanted_open or stands_still(follower, link.master):
            continue
        if follower.standing.mode is MarginMode.NETTING:
            if link.symbol not in symbols:
                symbols.add(link.symbol)
                yield from _net_unprotected(follower, link)
            continue
        for leg in legs:
            wanted = _wanted_stop(follower, link)
            if (wanted != leg.stop_loss) if wanted else (wanted is None and not leg.stop_loss):
                yield Unprotected(follower=follower, link=link, ticket=leg.ticket, wanted=wanted, found=leg.stop_loss)


def _wanted_stop(follower: Follower, link: Link) -> Decimal | None:
    """Return the stop wanted of a copy, 0 for none; None where the master's stop waits for a price to be translated by."""
    policy = follower.relations[link.master].policy.copying
    waits = link.laid_for != levels_of(link.position) and not link.stop_loss
    master_has = link.position.take_profit if policy.reverse else link.position.stop_loss
    return None if waits and master_has and policy.stops.mode is not LevelMode.NONE else link.stop_loss


def _net_unprotected(follower: Follower, link: Link) -> Iterator[Unprotected]:
    told = follower.leveller.net_stop(link.symbol)
    if told is None:
        return
    position, wanted = told
    if wanted and position.stop_loss != wanted:
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


def drifted(follower: Follower) -> Iterator[Condition]:
    """Find copies that are larger than they should be, and netting symbols that do not add up."""
    for link in list(follower.memory.living.values()):
        if not link.lots or stands_still(follower, link.master):
            continue
        known = follower.standing.spec(link.symbol)
        spec = known if known is not None and known.divides_lots else None
        target = target_lots(link, spec) if spec is not None else Decimal(0) if not link.wanted_open else link.lots
        excess = lots_to_close(link.lots, target, spec) if spec is not None else link.lots - target
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
        for symbol in sorted({link.symbol for link in follower.memory.living.values() if link.lots}):
            if not follower.leveller.understood(symbol):
                yield Condition(
                    watchdog=Watchdog.DRIFT,
                    subject=f"{follower.name} {symbol}",
                    account=follower.settings.account,
                    cause=f"{follower.name}: {symbol} holds {plain(follower.leveller.book.net(symbol))} lots, "
                    "which our copies and what else is known of it do not add up to",
                    advice="compare the account with `mt-copier positions`",
                )


def unanswered(follower: Follower) -> Iterator[Condition]:
    """Find the orders whose outcome nobody knows."""
    for link in list(follower.memory.living.values()):
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
    names = [follower.name for follower in followers]
    rest = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
