"""What the ledger remembers of one copied position: a link of the master's position to our orders at one follower."""

from decimal import Decimal
from enum import StrEnum

from copier.model import ZERO, MasterPosition, Record, Side, Stamps

LinkName = tuple[str, str]
"""Master and key."""
TAG_PREFIX = "mc"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def make_tag(token: int, number: int) -> str:
    """Return the tag of an order: unique on its account, since every owner of the account has a higher token.

    At most 16 characters of [0-9a-z], beginning with `mc`: brokers cut comments.
    """
    return f"{TAG_PREFIX}{_base36(token):0>4}{_base36(number):0>5}"


def is_ours(tag: str, token: int) -> bool:
    """Return whether an owner up to `token` can have made this tag; others' comments may begin with the same letters."""
    owner, number = tag[len(TAG_PREFIX) : -5], tag[-5:]
    known = tag.startswith(TAG_PREFIX) and len(owner) >= 4 and set(owner + number) <= set(_DIGITS)
    return known and 0 < int(owner, 36) <= token


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits


class LegState(StrEnum):
    """Where one of our orders is."""

    SENDING = "sending"
    """Intended and journaled; it may leave, or have left."""
    UNKNOWN = "unknown"
    """It left and no certain answer came."""
    OPEN = "open"
    CLOSED = "closed"
    """It was open and is no more."""
    FAILED = "failed"
    """Surely never executed, or taken as such after the settle time and never sent again."""


LIVING = frozenset({LegState.SENDING, LegState.UNKNOWN, LegState.OPEN})


class Leg(Record, frozen=True, kw_only=True):
    """One opening order of ours. On a netting account it is a virtual part of the symbol's one position."""

    tag: str
    side: Side
    asked: Decimal
    state: LegState = LegState.SENDING
    filled: Decimal = ZERO
    """What was filled at the open."""
    lots: Decimal = ZERO
    """What of it is open now, by the last view that could be trusted."""
    ticket: int = 0
    identifier: int = 0
    price: Decimal = ZERO
    """Our fill."""
    attempts: int = 0
    sent_ms: int = 0
    not_after_ms: int = 0
    net_before: Decimal | None = None
    """Netting: the symbol's signed volume in the view the order was sent on."""
    stop_loss: Decimal = ZERO
    take_profit: Decimal = ZERO
    """As last seen, or set, at the broker."""

    @property
    def living(self) -> bool:
        """True while it may be, or is, open at the broker."""
        return self.state in LIVING


class LinkState(StrEnum):
    """What was decided about a master's position."""

    PENDING = "pending"
    """Wanted, and not yet decided or sent."""
    COPIED = "copied"
    """At least one order was intended."""
    REFUSED = "refused"
    """A rule or the broker said no; it is not opened later."""
    SKIPPED = "skipped"
    """It was there before the start, or is too old."""


class Cut(Record, frozen=True, kw_only=True):
    """A close or reduction on its way: by what the volume should be afterwards, so that saying it twice changes nothing."""

    tag: str
    """Of the leg it cuts."""
    ticket: int
    lots_before: Decimal
    lots_after: Decimal
    net_before: Decimal | None = None
    """Netting: the symbol's signed volume before; None elsewhere."""
    sent_ms: int
    not_after_ms: int
    answered: bool = False
    """The broker said done; until then, and after an unknown outcome, it may land as late as its not-after allows."""
    answered_ms: int = 0
    """When it said so: a slow broker may have executed only then, long after the order was sent."""
    unfound: bool = False
    """The broker knew no such ticket: it is gone, or on MT4 what another hand has left of it has another."""

    @property
    def whole(self) -> bool:
        """Whether it leaves nothing of the position it names."""
        held = self.lots_before if self.net_before is None else abs(self.net_before)
        return self.lots_before - self.lots_after == held

    @property
    def landed_ms(self) -> int:
        """By when it has landed if it ever does."""
        return max(self.sent_ms, self.answered_ms) if self.answered else self.not_after_ms


class Link(Record, frozen=True, kw_only=True):
    """One master position at one follower. Absolute: the newest record of a link replaces all before it."""

    follower: str
    master: str
    key: str
    """The master position's `identifier.generation`."""
    position: MasterPosition
    """As last wanted."""
    wanted_open: bool = True
    """False once the master has closed it; it never becomes true again."""
    state: LinkState = LinkState.PENDING
    symbol: str = ""
    side: Side = Side.BUY
    legs: tuple[Leg, ...] = ()
    anchor: Decimal = ZERO
    """The master's opened volume that was decided on: a scale-in beyond it asks for another leg."""
    before: Decimal = ZERO
    """What the master had opened and closed again before a leg of ours could answer for it: not ours to follow."""
    least: Decimal = ZERO
    """The least the master has held since it grew beyond the anchor: what it holds above that is growth to answer for."""
    stop_loss: Decimal = ZERO
    take_profit: Decimal = ZERO
    """Our levels as wanted at the broker; what they were computed from is the position and the fills."""
    laid_for: tuple[Decimal, Decimal, Decimal] | None = None
    """The master's stop, target and price that our levels were computed from; None asks for them to be computed again."""
    cut: Cut | None = None
    reason: str = ""
    """Why it was refused, skipped or closed."""
    existing: bool = False
    """The master had it before this relation began."""
    absent_ms: int = 0
    """When the master's watcher last saw that it was not there: bounds its age; 0 is unknown."""
    master_price: Decimal = ZERO
    """What the master paid for its newest part: what slippage is measured from."""
    stamps: Stamps = Stamps()

    @property
    def name(self) -> LinkName:
        """Master and key: unique within a follower."""
        return (self.master, self.key)

    @property
    def master_opened(self) -> Decimal:
        """The master's opened volume that our fills stand for."""
        return self.anchor - self.before

    @property
    def growth(self) -> Decimal:
        """What the master has opened beyond what was decided on, whether or not it still holds it."""
        return self.position.lots_opened - self.anchor

    @property
    def answered_for(self) -> Decimal:
        """What the master still holds of what our fills stand for: what it reduced came off its newest part first."""
        lots = self.position.lots
        return lots if self.growth <= 0 else min(lots, max(self.least, lots - self.growth))

    @property
    def filled(self) -> Decimal:
        """All that was ever filled for it."""
        filled = ZERO
        for leg in self.legs:
            filled += leg.filled
        return filled

    @property
    def lots(self) -> Decimal:
        """What of it is open now."""
        lots = ZERO
        for leg in self.legs:
            if leg.living:
                lots += leg.lots
        return lots

    @property
    def living(self) -> bool:
        """True while the master has it, or any order of it may be open."""
        return self.wanted_open or any(leg.living for leg in self.legs)
