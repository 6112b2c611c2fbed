"""Everything one relation (one follower copying one master) may set, and what a whole follower may risk.

Read from YAML at the edge, frozen ever after. The sentence under a field is its line in the configuration reference.
Lots, points, percents and money are decimals; money is in the follower account's currency unless a field says otherwise.
"""

import re
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from copier.model import Side

MINUTES_PER_DAY = 24 * 60


def _mistake(message: str) -> PydanticCustomError:
    return PydanticCustomError("policy", "{message}", {"message": message})


def _number(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        raise _mistake(f"expected a number, not {value!r}")
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        raise _mistake(f"expected a number, not {value!r}") from None
    if not number.is_finite():
        raise _mistake(f"expected a finite number, not {value!r}")
    return number


def _whole(value: object) -> object:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise _mistake(f"expected a whole number, not {value!r}")
    return value


def _minutes(value: object) -> int:
    found = re.fullmatch(r"(\d{1,2}):(\d{2})", value) if isinstance(value, str) else None
    minutes = int(found[1]) * 60 + int(found[2]) if found and int(found[2]) < 60 else MINUTES_PER_DAY + 1
    if minutes > MINUTES_PER_DAY:
        hint = "; write it in quotes, YAML takes 22:00 for the number 1320" if isinstance(value, int) else ""
        raise _mistake(f'expected a time of day such as "22:00", not {value!r}{hint}')
    return minutes


def _hours_minutes(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _before_midnight(minutes: int) -> int:
    if minutes == MINUTES_PER_DAY:
        raise _mistake('expected a time of day from "00:00" to "23:59"; the end of a day is the "00:00" of the next')
    return minutes


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise _mistake(f"expected a time zone's name such as Europe/Prague or UTC, not {name!r}") from None
    return name


def _ascii(text: str) -> str:
    if not text.isascii() or not (text == "" or text.isprintable()):
        raise _mistake(f"expected plain ASCII, brokers spoil anything else, not {text!r}")
    return text


def _short(field: str, policy: type[BaseModel], words: type[StrEnum]) -> BeforeValidator:
    """Let a lone word stand for a mapping with one key: `stops: none` is `stops: {mode: none}`."""

    def expand(value: Any) -> Any:
        return {field: value} if isinstance(value, str) else value

    return BeforeValidator(expand, json_schema_input_type=policy | words)


Number = Annotated[Decimal, BeforeValidator(_number)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Percent = Annotated[Number, Field(gt=0, le=100)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
Whole = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
Zone = Annotated[str, AfterValidator(_zone)]
TimeOfDay = Annotated[
    int,
    BeforeValidator(_minutes),
    PlainSerializer(_hours_minutes, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^\d{1,2}:\d{2}$"}),
]
"""Minutes after midnight, written "HH:MM"; "24:00" is the end of the day."""
ResetTime = Annotated[TimeOfDay, AfterValidator(_before_midnight)]
Pattern = Annotated[str, Field(min_length=1)]
"""A name with the wildcards * and ?; upper and lower case differ, as they do in symbols."""


def matches(name: str, pattern: str) -> bool:
    """Return whether a name fits a pattern with * and ?; brackets are letters, as brokers use them in names."""
    return fnmatchcase(name, pattern.replace("[", "[[]"))


class Policy(BaseModel):
    """What every policy is: frozen, without unknown keys, each field described by the sentence under it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_by_name=True, serialize_by_alias=True
    )


class Mode(StrEnum):
    """What a relation does at all."""

    LIVE = "live"
    """Copies."""
    SHADOW = "shadow"
    """Decides everything on live quotes and simulates the fills; sends nothing."""
    CLOSE_ONLY = "close_only"
    """Opens nothing; closes, reductions and levels go on."""
    FROZEN = "frozen"
    """Does nothing at all, not even closes."""


# Size ------------------------------------------------------------------------------------------------------------------


class Rounding(StrEnum):
    """How the exact volume becomes a volume on the broker's step."""

    DOWN = "down"
    NEAREST = "nearest"
    CARRY = "carry"


class BelowMin(StrEnum):
    """What happens to a volume under the broker's minimum."""

    SKIP = "skip"
    MINIMUM = "minimum"


class AboveMax(StrEnum):
    """What happens to a volume over the broker's maximum."""

    CLAMP = "clamp"
    SPLIT = "split"


class _Size(Policy):
    """What all size modes share: the way from the exact volume to orders."""

    lots_max: Positive | None = None
    """Most lots of one copy; more is cut to this."""
    lots_min: Positive | None = None
    """Least lots of one copy; less is raised to this, as far as `inflation_max` allows."""
    rounding: Rounding = Rounding.DOWN
    """`down`, `nearest`, or `carry`: down, and what was cut off is added to the next open of the symbol."""
    below_min: BelowMin = BelowMin.SKIP
    """Under the broker's minimum: `skip` the trade, or take the `minimum` as far as `inflation_max` allows."""
    inflation_max: Annotated[Number, Field(ge=1)] = Decimal("1.5")
    """By which factor the volume, and so the risk, may grow when it is raised to a minimum."""
    above_max: AboveMax = AboveMax.CLAMP
    """Over the broker's maximum for one order: `clamp` to it, or `split` into several orders."""
    split_orders_max: Annotated[Count, Field(le=100)] = 10
    """Into how many orders a volume may be split at most."""

    @model_validator(mode="after")
    def _floor_below_cap(self) -> Self:
        if self.lots_min and self.lots_max and self.lots_min > self.lots_max:
            raise _mistake(f"lots_min {self.lots_min} is above lots_max {self.lots_max}")
        return self


class AlignedSize(_Size):
    """Modes that scale the master's lots, whose contracts may be of another size."""

    align_contracts: bool = True
    """Multiply by the master's contract size over the follower's, so that 1 lot of 10 ounces is not 1 lot of 100."""


class _Relative(AlignedSize):
    """Modes that compare the two accounts."""

    multiplier: Positive = Decimal(1)
    """Times the ratio of the two accounts."""
    account_age_max_s: Positive = Decimal(30)
    """Refuse when the follower's account was read longer ago than this."""


class FixedSize(_Size):
    """The same lots for every copy."""

    mode: Literal["fixed"]
    """Always the same lots."""
    lots: Positive
    """Lots of every copy."""
    per_symbol: dict[str, Positive] = {}
    """Lots by the follower's symbol, where they differ."""


class MultiplierSize(AlignedSize):
    """The master's lots times a factor."""

    mode: Literal["multiplier"]
    """The master's lots times `multiplier`."""
    multiplier: Positive = Decimal(1)
    """Times the master's lots."""


class PriceRatio(StrEnum):
    """Whether the two brokers' prices of the instrument matter to its notional value."""

    IGNORE = "ignore"
    APPLY = "apply"


class NotionalSize(_Size):
    """The master's notional value times a factor."""

    mode: Literal["notional"]
    """The same notional value as the master's, times `multiplier`: lots times contract size."""
    multiplier: Positive = Decimal(1)
    """Times the master's notional value."""
    price_ratio: PriceRatio = PriceRatio.IGNORE
    """`apply` where the instruments are quoted differently, such as an index at 5,000 and at 500."""


class BalanceSize(_Relative):
    """By the two balances."""

    mode: Literal["balance"]
    """The master's lots times the follower's balance over the master's."""


class EquitySize(_Relative):
    """By the two equities."""

    mode: Literal["equity"]
    """The master's lots times the follower's equity over the master's."""


class FreeMarginSize(_Relative):
    """By the two free margins."""

    mode: Literal["free_margin"]
    """The master's lots times the follower's free margin over the master's."""


class VirtualCapitalSize(_Relative):
    """By the balances, one or both of them replaced by a constant."""

    mode: Literal["virtual_capital"]
    """As `balance`, with a stated capital in place of one balance or both."""
    master_capital: Positive | None = None
    """In place of the master's balance, in the master account's currency."""
    follower_capital: Positive | None = None
    """In place of the follower's balance, in the follower account's currency."""

    @model_validator(mode="after")
    def _at_least_one(self) -> Self:
        if self.master_capital is None and self.follower_capital is None:
            raise _mistake("expected master_capital, follower_capital or both; without either this is mode balance")
        return self


class _ByRisk(_Size):
    """Modes that size by what is lost at the stop."""

    no_stop_points: Positive | None = None
    """Stop distance to reckon with when the master has no stop; unset, and `no_stop_lots` too, the trade is refused."""
    no_stop_lots: Positive | None = None
    """Lots to take when the master has no stop."""

    @model_validator(mode="after")
    def _one_fallback(self) -> Self:
        if self.no_stop_points is not None and self.no_stop_lots is not None:
            raise _mistake("expected no_stop_points or no_stop_lots, not both")
        return self


class Capital(StrEnum):
    """What a percentage is of."""

    BALANCE = "balance"
    EQUITY = "equity"


class RiskPercentSize(_ByRisk):
    """A share of the follower's money is lost at the stop."""

    mode: Literal["risk_percent"]
    """As many lots as lose `percent` of the follower's money at the stop, commission included."""
    percent: Percent
    """Percent of the follower's money lost at the stop."""
    of: Capital = Capital.BALANCE
    """`balance` or `equity`."""
    account_age_max_s: Positive = Decimal(30)
    """Refuse when the follower's account was read longer ago than this."""


class RiskCashSize(_ByRisk):
    """An amount is lost at the stop."""

    mode: Literal["risk_cash"]
    """As many lots as lose `cash` at the stop, commission included."""
    cash: Positive
    """Money lost at the stop, in the follower account's currency."""


class SignalsSize(AlignedSize):
    """As the MQL5 Signals service does it."""

    mode: Literal["signals"]
    """The MQL5 Signals rule: balances, leverages and deposit load give a percentage of the master's lots, in coarse steps."""
    deposit_percent: Percent = Decimal(95)
    """Percent of the follower's balance that is used."""
    account_age_max_s: Positive = Decimal(30)
    """Refuse when the follower's account was read longer ago than this."""


SizePolicy = Annotated[
    FixedSize
    | MultiplierSize
    | NotionalSize
    | BalanceSize
    | EquitySize
    | FreeMarginSize
    | VirtualCapitalSize
    | RiskPercentSize
    | RiskCashSize
    | SignalsSize,
    Field(discriminator="mode"),
]


# Symbols ---------------------------------------------------------------------------------------------------------------


class SymbolPolicy(Policy):
    """How a master's symbol is called at the follower, and which symbols are copied."""

    map: dict[str, str] = {}
    """The follower's symbol by the master's; goes before everything else."""
    prefix: str = ""
    """What the follower's broker writes before the plain name."""
    suffix: str = ""
    """What the follower's broker writes after the plain name, such as `.r`."""
    master_prefix: str = ""
    """What the master's broker writes before the plain name."""
    master_suffix: str = ""
    """What the master's broker writes after the plain name."""
    automatic: bool = True
    """Where the name does not fit: take the only tradable symbol of the same base, profit currency and calculation mode."""
    allow: tuple[Pattern, ...] = ()
    """Copy only these symbols, by the master's or the follower's name, with * and ?; empty is all."""
    deny: tuple[Pattern, ...] = ()
    """Never copy these symbols, by the master's or the follower's name, with * and ?; goes before `allow`."""
    commission: dict[Pattern, NotNegative] = {}
    """Money per lot for opening and closing together, by the follower's symbol with * and ?; the first that fits counts."""


# Copying ---------------------------------------------------------------------------------------------------------------


class LevelMode(StrEnum):
    """Where a follower's stop or target comes from."""

    DISTANCE = "distance"
    COPY = "copy"
    FIXED = "fixed"
    NONE = "none"


class LevelPolicy(Policy):
    """How one level of the follower, its stop or its target, is made."""

    mode: LevelMode = LevelMode.DISTANCE
    """`distance`: as far from the own fill as the master's from its; `copy`: the same price; `fixed`: `points`; `none`."""
    points: Positive | None = None
    """Distance from the own fill in the follower's points, with mode `fixed`."""
    offset_points: Number = Decimal(0)
    """Moves the level away from the price (positive) or towards it (negative), in the follower's points."""

    @model_validator(mode="after")
    def _points_when_fixed(self) -> Self:
        if (self.points is not None) != (self.mode is LevelMode.FIXED):
            raise _mistake("expected points with mode fixed, and with no other mode")
        return self


Level = Annotated[LevelPolicy, _short("mode", LevelPolicy, LevelMode)]


class Sides(StrEnum):
    """Which of the master's sides are copied."""

    BOTH = "both"
    BUY = "buy"
    SELL = "sell"

    def has(self, side: Side) -> bool:
        """Return whether trades of `side` are copied."""
        return self is Sides.BOTH or self.value == side.value


class ExistingMode(StrEnum):
    """What happens to positions that the master had before the relation started."""

    SKIP = "skip"
    COPY = "copy"
    COPY_ALL = "copy_all"


class ExistingPolicy(Policy):
    """What happens to positions that the master had before the relation started."""

    mode: ExistingMode = ExistingMode.SKIP
    """`skip`; `copy` those still near their price and young; `copy_all`."""
    price_points: Positive | None = None
    """With `copy`: at most this far from the master's price, either way, in the follower's points."""
    age_s: Positive | None = None
    """With `copy`: at most this old."""

    @model_validator(mode="after")
    def _bounds_when_copied(self) -> Self:
        given = self.price_points is not None and self.age_s is not None
        if self.mode is ExistingMode.COPY and not given:
            raise _mistake("expected price_points and age_s with mode copy; to copy without bounds say copy_all")
        if self.mode is not ExistingMode.COPY and (self.price_points is not None or self.age_s is not None):
            raise _mistake(f"price_points and age_s have no meaning with mode {self.mode.value}")
        return self


class ManualClose(StrEnum):
    """What follows when the follower's position was closed by hand."""

    LEAVE = "leave"
    REOPEN = "reopen"
    ALERT = "alert"


class UnknownOrder(StrEnum):
    """What follows when nobody can say whether an order was executed, and no sign of it is found."""

    STRICT = "strict"
    RESEND = "resend"


class SharedSymbol(StrEnum):
    """Whether a netting follower may trade a symbol that holds volume of another master or of another hand."""

    REFUSE = "refuse"
    ALLOW = "allow"


class CopyPolicy(Policy):
    """What is copied, and how."""

    stops: Level = LevelPolicy()
    """The follower's stop; a lone word is its mode."""
    targets: Level = LevelPolicy()
    """The follower's target; a lone word is its mode."""
    reverse: bool = False
    """Trade the other side; stop and target change places."""
    sides: Sides = Sides.BOTH
    """Which of the master's sides are copied: `both`, `buy` or `sell`."""
    existing: Annotated[ExistingPolicy, _short("mode", ExistingPolicy, ExistingMode)] = ExistingPolicy()
    """Positions that the master had before the relation started; a lone word is its mode."""
    manual_close: ManualClose = ManualClose.LEAVE
    """When the follower's position is closed by hand: `leave` it closed, `reopen` it, or leave it and `alert`."""
    unknown: UnknownOrder = UnknownOrder.STRICT
    """`strict`: an order of unknown outcome is never sent again; `resend`: it is, once deal history proves it absent."""
    shared_symbols: SharedSymbol = SharedSymbol.REFUSE
    """On a netting follower, a symbol with volume of another master or another hand: `refuse`, or `allow` without levels."""
    magic: Annotated[int, BeforeValidator(_whole), Field(ge=0, le=2**31 - 1)] = 12345
    """The magic number of the follower's orders; give each relation its own."""
    slippage_points: Whole = 10
    """How far the broker may move the price of an order, where its execution honours that."""
    comment: Annotated[str, Field(max_length=27), AfterValidator(_ascii)] = ""
    """The comment of the follower's orders; 27 characters are what MT4 keeps."""

    @model_validator(mode="after")
    def _no_levels_on_shared(self) -> Self:
        modes = {self.stops.mode, self.targets.mode}
        if self.shared_symbols is SharedSymbol.ALLOW and modes != {LevelMode.NONE}:
            raise _mistake("shared_symbols: allow needs stops: none and targets: none; a netting position has one stop for all")
        return self


# Filters ---------------------------------------------------------------------------------------------------------------


class MagicRange(Policy):
    """One magic number, or all from `first` to `last`; written `7` or `"100-199"`."""

    first: int
    """The lowest number."""
    last: int
    """The highest number, itself included."""

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return {"first": value, "last": value}
        if isinstance(value, str):
            found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", value)
            if not found:
                raise _mistake(f'expected a magic number or a range such as "100-199", not {value!r}')
            return {"first": int(found[1]), "last": int(found[2] or found[1])}
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.first > self.last:
            raise _mistake(f"expected a range from low to high, not {self.first}-{self.last}")
        return self

    @model_serializer
    def _write(self) -> int | str:
        return self.first if self.first == self.last else f"{self.first}-{self.last}"


class Weekday(StrEnum):
    """A day of the week."""

    MON = "mon"
    TUE = "tue"
    WED = "wed"
    THU = "thu"
    FRI = "fri"
    SAT = "sat"
    SUN = "sun"


WEEKDAYS = tuple(Weekday)
"""Monday first, as `datetime.weekday` counts."""
_WORKDAYS = WEEKDAYS[:5]


class TradingWindow(Policy):
    """Hours on some days of the week; an end at or before the start is on the next day."""

    days: Annotated[tuple[Weekday, ...], Field(min_length=1)] = _WORKDAYS
    """The days on which the window starts: mon, tue, wed, thu, fri, sat, sun."""
    start: ResetTime
    """From this time on, "HH:MM"."""
    end: TimeOfDay
    """Up to this time, itself not included; "24:00" is midnight; at or before `start` it is on the next day."""


class WindowEnd(StrEnum):
    """What happens to open copies when no window is open any more."""

    LEAVE = "leave"
    CLOSE = "close"


class TradingHours(Policy):
    """When a relation may open."""

    zone: Zone = "UTC"
    """The time zone of the windows, such as Europe/Prague; daylight saving is its own."""
    windows: Annotated[tuple[TradingWindow, ...], Field(min_length=1)]
    """Opens are copied inside any of these."""
    at_end: WindowEnd = WindowEnd.LEAVE
    """When the last open window ends: `leave` the open copies, or `close` them."""


class FilterPolicy(Policy):
    """Which of the master's opens are copied. Closes and reductions are never filtered."""

    magics: tuple[MagicRange, ...] = ()
    """Only these magic numbers of the master, single or as "from-to"; 0 is trading by hand; empty is all."""
    comment: Pattern | None = None
    """Only comments of the master that look like this, with * and ?."""
    master_lots_min: Positive | None = None
    """Only master positions of at least these lots."""
    master_lots_max: Positive | None = None
    """Only master positions of at most these lots."""
    must_have_stop: bool = False
    """Only master positions that have a stop when they are seen."""
    hours: TradingHours | None = None
    """Only at these hours."""

    @model_validator(mode="after")
    def _min_below_max(self) -> Self:
        if self.master_lots_min and self.master_lots_max and self.master_lots_min > self.master_lots_max:
            raise _mistake(f"master_lots_min {self.master_lots_min} is above master_lots_max {self.master_lots_max}")
        return self


# Protection ------------------------------------------------------------------------------------------------------------


class ProtectionPolicy(Policy):
    """What must hold at the moment an open is sent."""

    slippage_points_max: NotNegative | None = None
    """Refuse when the price is worse than the master's by more than this, in the follower's points."""
    spread_points_max: Positive | None = None
    """Refuse when the spread is wider than this, in the follower's points."""
    quote_age_max_ms: Count = 10_000
    """Refuse when the price was last confirmed longer ago than this."""
    open_age_max_s: Positive = Decimal(60)
    """Refuse an open older than this; one whose age nobody can tell counts as old."""
    margin_level_min: Positive | None = None
    """Refuse when the margin level after the trade would be under this, in percent."""
    read_ahead_max_ms: Whole = 1_000
    """A price and account read beforehand, and no longer ago than this, are decided on without asking again; 0 always asks."""
    retry_budget_s: NotNegative = Decimal(5)
    """How long an order that was surely not executed may be tried again."""
    orders_per_s: Positive = Decimal(10)
    """How many orders a second are sent to the account."""


# Risk ------------------------------------------------------------------------------------------------------------------


class AboveLimit(StrEnum):
    """What happens to a trade that would exceed a limit."""

    REFUSE = "refuse"
    SHRINK = "shrink"


class TradeRisk(Policy):
    """Limits of one trade."""

    lots_max: Positive | None = None
    """Most lots of one trade."""
    money_max: Positive | None = None
    """Most money that one trade may lose at its stop, commission included."""
    percent_max: Percent | None = None
    """Most percent of the equity that one trade may lose at its stop, commission included."""
    stop_points_min: Positive | None = None
    """Least distance of the stop from the expected fill, in points; a trade without a stop is refused."""
    stop_points_max: Positive | None = None
    """Largest distance of the stop from the expected fill, in points; a trade without a stop is refused."""
    leverage_max: Positive | None = None
    """Most notional value, of all that is open and this trade, as a multiple of the equity."""


class OpenRisk(Policy):
    """Limits of all that is open, this trade and the orders on their way included, foreign positions too."""

    positions_max: Count | None = None
    """Most positions."""
    lots_max: Positive | None = None
    """Most lots, both sides added."""
    symbol_lots_max: Positive | None = None
    """Most lots in one symbol, both sides added."""
    symbol_lots: dict[Pattern, Positive] = {}
    """Most lots by the follower's symbol with * and ?, before `symbol_lots_max`; the first that fits counts."""
    currency_money_max: Positive | None = None
    """Most net exposure to one currency, as money in the account's currency."""
    margin_level_min: Positive | None = None
    """Least margin level after the trade, in percent."""


class WorstCasePolicy(Policy):
    """Every open stop hit, plus this trade to its stop, plus commission and swap: it must stay inside every limit."""

    enabled: bool = True
    """Reckon the worst case against the loss limits before an open."""
    money_max: Positive | None = None
    """Most money lost in the worst case."""
    percent_max: Percent | None = None
    """Most percent of the equity lost in the worst case."""
    assumed_stop_points: Positive | None = None
    """How far away a position without a stop is taken to have one; unset, such a position makes the trade refused."""
    assumed_stop_percent: Percent | None = None
    """The same in percent of the price, which fits every symbol."""

    @model_validator(mode="after")
    def _one_assumption(self) -> Self:
        if self.assumed_stop_points is not None and self.assumed_stop_percent is not None:
            raise _mistake("expected assumed_stop_points or assumed_stop_percent, not both")
        return self


class Metric(StrEnum):
    """What a loss is measured on."""

    BALANCE = "balance"
    EQUITY = "equity"
    BALANCE_MINUS_EQUITY = "balance_minus_equity"


class Reference(StrEnum):
    """What a loss is measured from."""

    BALANCE = "balance"
    EQUITY = "equity"
    HIGHER = "higher"


class LimitType(StrEnum):
    """Whether the reference stays for the whole period."""

    STATIC = "static"


class Period(StrEnum):
    """How long a reference holds."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    LIFETIME = "lifetime"


class LossAction(StrEnum):
    """What a loss limit does, the mildest first."""

    STOP_OPENS = "stop_opens"
    """Opens are refused until the limit is armed again."""
    CLOSE_ONLY = "close_only"
    """The whole follower goes into close-only until the limit is armed again."""
    CLOSE_ALL = "close_all"
    """Close-only, and every copy is closed."""


class Rearm(StrEnum):
    """When a limit that has fired is armed again."""

    NEXT_PERIOD = "next_period"
    BY_HAND = "by_hand"


class LossLimit(Policy):
    """One limit on the loss of a period. Two stages are two limits."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,40}$")]
    """What the limit is called in receipts, alerts and its stored state; keep it when you change the amount."""
    metric: Metric = Metric.EQUITY
    """`balance` and `equity` are measured down from the reference; `balance_minus_equity` is the floating loss."""
    reference: Reference = Reference.BALANCE
    """At the period's start: the `balance`, the `equity`, or the `higher` of both."""
    type: LimitType = LimitType.STATIC
    """`static`: the reference stays for the whole period."""
    period: Period = Period.DAY
    """`day`, `week` (from Monday), `month` or `lifetime`."""
    reset_at: ResetTime = 0
    """When a period starts, "HH:MM" in `zone`; skipped by daylight saving: the first moment after; doubled: the first."""
    zone: Zone = "UTC"
    """The time zone of `reset_at`, such as Europe/Prague; daylight saving is its own."""
    money: Positive | None = None
    """The loss that fires the limit, as money; this or `percent`."""
    percent: Percent | None = None
    """The loss that fires the limit, in percent of the reference; this or `money`."""
    persist_s: NotNegative = Decimal(0)
    """How long the loss must last before the limit fires."""
    action: LossAction = LossAction.STOP_OPENS
    """`stop_opens`, `close_only`, or `close_all`."""
    rearm: Rearm = Rearm.NEXT_PERIOD
    """Armed again at the `next_period`, or only `by_hand`."""

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        if (self.money is None) == (self.percent is None):
            raise _mistake(f"limit {self.name}: expected money or percent, and not both")
        if self.period is Period.LIFETIME and self.rearm is Rearm.NEXT_PERIOD:
            raise _mistake(f"limit {self.name}: a lifetime has no next period; say rearm: by_hand")
        return self


class Limit(StrEnum):
    """What one rule of `risk` limits, in the order in which an open is asked about it."""

    LOSSES = "losses"
    STOP_DISTANCE = "stop_distance"
    POSITIONS = "positions"
    TRADE_LOTS = "trade_lots"
    TRADE_MONEY = "trade_money"
    OPEN_LOTS = "open_lots"
    SYMBOL_LOTS = "symbol_lots"
    BROKERS_VOLUME = "brokers_volume"
    LEVERAGE = "leverage"
    CURRENCY = "currency"
    MARGIN_LEVEL = "margin_level"
    WORST_CASE = "worst_case"


class RiskPolicy(Policy):
    """How much may be at risk: by one trade, by all that is open, and in a day."""

    above: AboveLimit = AboveLimit.REFUSE
    """A trade over a limit: `refuse` it, or `shrink` it to what fits, down to the broker's minimum."""
    trade: TradeRisk = TradeRisk()
    """Limits of one trade."""
    open: OpenRisk = OpenRisk()
    """Limits of all that is open."""
    worst_case: WorstCasePolicy = WorstCasePolicy()
    """What may be lost if every stop is hit."""
    losses: tuple[LossLimit, ...] = ()
    """Loss limits by period."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [limit.name for limit in self.losses]
        if len(names) != len(set(names)):
            raise _mistake(f"each loss limit needs its own name, not {', '.join(names)}")
        return self

    @cached_property
    def limits(self) -> tuple[Limit, ...]:
        """The limits that are set, and the broker's own: an open is not asked about any other."""
        trade, held, worst = self.trade, self.open, self.worst_case
        settings: dict[Limit, tuple[object, ...]] = {
            Limit.LOSSES: (self.losses,),
            Limit.STOP_DISTANCE: (trade.stop_points_min, trade.stop_points_max),
            Limit.POSITIONS: (held.positions_max,),
            Limit.TRADE_LOTS: (trade.lots_max,),
            Limit.TRADE_MONEY: (trade.money_max, trade.percent_max),
            Limit.OPEN_LOTS: (held.lots_max,),
            Limit.SYMBOL_LOTS: (held.symbol_lots_max, held.symbol_lots),
            Limit.BROKERS_VOLUME: (True,),
            Limit.LEVERAGE: (trade.leverage_max,),
            Limit.CURRENCY: (held.currency_money_max,),
            Limit.MARGIN_LEVEL: (held.margin_level_min,),
            Limit.WORST_CASE: (worst.enabled and (self.losses or worst.money_max or worst.percent_max),),
        }
        return tuple(limit for limit in Limit if any(settings[limit]))

    def __copy__(self) -> Self:
        copied = super().__copy__()
        copied.__dict__.pop("limits", None)  # It may be about to get other limits.
        return copied


class FollowerRisk(RiskPolicy):
    """The same limits for a whole follower, whatever the number of its masters."""


# Relation --------------------------------------------------------------------------------------------------------------


class RelationPolicy(Policy):
    """Everything one follower sets for copying one master."""

    mode: Mode = Mode.LIVE
    """`live`, `shadow` (decide, send nothing), `close_only` (no opens) or `frozen` (nothing at all)."""
    size: SizePolicy = MultiplierSize(mode="multiplier")
    """How many lots."""
    symbols: SymbolPolicy = SymbolPolicy()
    """Which symbols, and what they are called."""
    copying: CopyPolicy = Field(default=CopyPolicy(), alias="copy")
    """What is copied, and how."""
    filters: FilterPolicy = FilterPolicy()
    """Which opens are copied."""
    protection: ProtectionPolicy = ProtectionPolicy()
    """What must hold when an open is sent."""
    risk: RiskPolicy = RiskPolicy()
    """How much may be at risk through this relation."""
