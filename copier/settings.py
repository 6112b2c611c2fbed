"""What a trader sets: accounts, masters, followers and what each copies; YAML and environment in, frozen settings out.

`load` finds every mistake at once, each with its path, what was there and what was expected. The sentence under a field is
its line in the configuration reference.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from copier.errors import SettingsError
from copier.model import MarginMode
from copier.policy import Count, FollowerRisk, NotNegative, Percent, Policy, Positive, RelationPolicy, Whole
from copier.settings_check import Schema, check_references, explain, in_order
from copier.settings_source import Source, WrittenSettings, almost_settings, read_file, read_text, resolve_secret
from copier.settings_watchdogs import WatchdogSettings


def _mistake(message: str) -> PydanticCustomError:
    return PydanticCustomError("settings", "{message}", {"message": message})


_read: ContextVar[Source | None] = ContextVar("_read", default=None)
"""What `Settings` is made from at this moment; pydantic hands no context of ours to the making of settings."""


@contextmanager
def _reading(source: Source) -> Iterator[None]:
    token = _read.set(source)
    try:
        yield
    finally:
        _read.reset(token)


# Values ----------------------------------------------------------------------------------------------------------------


def _secret(value: object) -> object:
    source = _read.get()
    if source is None or isinstance(value, pydantic.Secret | SecretStr):
        return value
    try:
        return resolve_secret(value, source)
    except ValueError as error:
        raise _mistake(str(error)) from None


class Url(pydantic.Secret[str]):
    """A URL that may hold a password: shown without it, `get_secret_value()` has it."""

    def _display(self) -> str:
        return _without_password(self.get_secret_value())


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    place = rest.partition("?")[0]
    who, at, where = place.rpartition("@")
    if not at:
        return f"{scheme}{separator}{'***' if '@' in rest else place}"
    return f"{scheme}{separator}{who.partition(':')[0]}{':***' if ':' in who else ''}@{where}"


def _holds_password(url: str) -> bool:
    rest = url.partition("://")[2]
    return ":" in rest.rpartition("@")[0] or "password" in rest.partition("?")[2].lower()


def _url(*schemes: str) -> BeforeValidator:
    beginnings = tuple(f"{scheme}://" for scheme in schemes)

    def check(value: object) -> object:
        plain = isinstance(value, str) and not _holds_password(value)
        url = value if plain else _secret(value)
        text = url.get_secret_value() if isinstance(url, Url) else url
        if not isinstance(text, str) or not text.startswith(beginnings):
            raise _mistake(f"expected a URL that begins with {' or '.join(beginnings)}")
        try:
            for host in urlsplit(text).netloc.rpartition("@")[2].split(","):
                _ = urlsplit(f"//{host}").port
        except ValueError:
            such = f"{beginnings[1]}user:password@host:1234/0"
            raise _mistake(f"expected a URL such as {such}, this one cannot be taken apart") from None
        return url

    return BeforeValidator(check)


_SECRET_SCHEMA = {
    "writeOnly": True,
    "anyOf": [
        {"type": "string"},
        *(
            {"type": "object", "properties": {name: {"type": "string"}}, "required": [name], "additionalProperties": False}
            for name in ("env", "file", "keyring")
        ),
    ],
}

Secret = Annotated[SecretStr, Field(min_length=1), BeforeValidator(_secret), WithJsonSchema(_SECRET_SCHEMA)]
"""A secret: `{env: NAME}`, `{file: path}`, `{keyring: service/name}`, or text where nobody else can read it."""
_REDIS = ("memory", "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
RedisUrl = Annotated[Url, _url(*_REDIS), WithJsonSchema(_SECRET_SCHEMA)]
LedgerUrl = Annotated[Url, _url("sqlite", "postgresql", "postgresql+psycopg"), WithJsonSchema(_SECRET_SCHEMA)]


def _like(pattern: str, expected: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise _mistake(f"expected {expected}, found {text!r}")
        return text

    return check


def _digits(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Name = Annotated[
    str, AfterValidator(_like(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}", "a name of letters, digits, _ . and -, at most 40 characters"))
]
"""What accounts, masters, followers and groups are called."""
Login = Annotated[
    str, BeforeValidator(_digits, json_schema_input_type=int | str), AfterValidator(_like(r"[0-9]{1,20}", "the account's number"))
]
Currency = Annotated[str, AfterValidator(_like(r"[A-Z]{3}", "a currency's three capital letters, such as USD"))]
Server = Annotated[str, Field(min_length=1, max_length=63)]


# Accounts --------------------------------------------------------------------------------------------------------------


class _Account(Policy):
    """What every kind of account has."""

    login: Login
    """The account's number."""
    server: Server
    """The trade server's name, such as `Broker-Demo`."""


class PaperSymbolSettings(Policy):
    """Where one symbol of a paper broker differs from its ready-made example."""

    contract_size: Positive | None = None
    """Units of one lot."""
    digits: Annotated[Whole, Field(le=8)] | None = None
    """Digits after the point in prices."""
    volume_min: Positive | None = None
    """Least lots of one order."""
    volume_step: Positive | None = None
    """Lots are multiples of this."""
    volume_max: Positive | None = None
    """Most lots of one order."""
    stops_level: Whole | None = None
    """Least distance of stop and target from the price, in points."""
    spread_points: Whole | None = None
    """The spread, in points."""
    commission_per_lot: NotNegative | None = None
    """Money per lot and side, in the account's currency."""


class PaperSymbols(Policy):
    """How a paper broker names its symbols, and what it trades differently."""

    prefix: str = ""
    """Written before every plain name."""
    suffix: str = ""
    """Written after every plain name, such as `.r`."""
    overrides: dict[str, PaperSymbolSettings] = {}
    """By plain name: where this broker's specification differs."""


class WalkQuotes(Policy):
    """Prices that wander, the same way for the same seed."""

    kind: Literal["walk"]
    """Prices that wander."""
    seed: Whole = 1
    """The same seed gives the same prices."""


class TickQuotes(Policy):
    """Prices from a file."""

    kind: Literal["ticks"]
    """Prices from a folder of tick files, one per symbol."""
    folder: Path
    """The folder of the files."""


Quotes = Annotated[WalkQuotes | TickQuotes, Field(discriminator="kind")]


class PaperMargin(StrEnum):
    """How opposite positions of one symbol share margin, or that nothing is asked for."""

    LARGER_LEG = "larger_leg"
    BOTH_LEGS = "both_legs"
    OFF = "off"


class PaperSettings(_Account):
    """A simulated broker in memory: to try settings, to replay, and for a strategy to trade on as a source of signals."""

    kind: Literal["paper"]
    """A simulated broker in memory."""
    server: Server = "Paper-Demo"
    """The trade server's name."""
    currency: Currency = "USD"
    """The account's currency, three capital letters."""
    balance: Positive = Decimal(10_000)
    """What the account begins with, in its currency."""
    leverage: Annotated[Count, Field(le=10_000)] = 100
    """The 100 of 1:100."""
    margin_mode: MarginMode = MarginMode.HEDGING
    """`hedging` (many positions per symbol), `netting` (one) or `mt4`."""
    margin: PaperMargin = PaperMargin.LARGER_LEG
    """Margin of opposite positions: of the `larger_leg`, of `both_legs`, or `off` where money must not stop a trade."""
    symbols: PaperSymbols = PaperSymbols()
    """How this broker names its symbols, and what it trades differently."""
    quotes: Quotes = WalkQuotes(kind="walk")
    """Where its prices come from."""


class Mt5Settings(_Account):
    """A MetaTrader 5 terminal on this machine, by the official MetaTrader5 package: Windows, or Python for Windows in Wine."""

    kind: Literal["mt5"]
    """A MetaTrader 5 terminal on this machine."""
    path: str = ""
    """The terminal64.exe of this account alone; every account needs a folder of its own. Empty takes whichever terminal runs."""
    password: Secret | None = None
    """Logs the terminal in; without it that is done by hand. For a master the investor password is enough, and better."""
    portable: bool = False
    """Start the terminal with its data in its own folder."""
    python: tuple[str, ...] = ()
    """The command of the Python that has the MetaTrader5 package, such as `[wine, python.exe]`; empty is this very Python."""
    call_timeout_s: Annotated[Positive, Field(ge=1, le=120)] = Decimal(10)
    """A call that takes longer is given up and its process killed; an order then counts as unknown."""
    login_timeout_s: Annotated[Positive, Field(ge=1, le=600)] = Decimal(60)
    """How long the terminal may take to log in."""
    settle_s: Annotated[Positive, Field(le=120)] = Decimal(5)
    """After an accepted order, at most this long until the terminal's lists show it."""
    sync_s: Annotated[NotNegative, Field(le=60)] = Decimal(3)
    """An empty list is not believed for so long after the terminal has connected."""
    poll_ms: Annotated[Whole, Field(le=60_000)] = 0
    """The child looks for changes by itself so often and calls when it sees one; 0 does not."""
    tags_survive: bool = False
    """The broker is proven to give comments back unchanged; only then may an unknown order be sent again."""


class Mt5ManagerSettings(_Account):
    """A login at a MetaTrader 5 server, by the broker's own MT5Manager package: one connection, many logins; on Windows."""

    kind: Literal["mt5-manager"]
    """A login behind a manager account."""
    address: Annotated[str, AfterValidator(_like(r"\S+:[0-9]{1,5}", "host:port of the access server"))]
    """host:port of the access server, such as `mt5.broker.example:443`."""
    manager: Login
    """The manager account's number."""
    password: Secret
    """The manager account's password."""
    folder: Path = Path("mt5-manager")
    """Where the package keeps its files; every manager connection needs a folder of its own."""
    python: tuple[str, ...] = ()
    """The command of the Python that has the MT5Manager package; empty is this very Python."""
    call_timeout_s: Annotated[Positive, Field(ge=1, le=120)] = Decimal(10)
    """A call that takes longer is given up; an order then counts as unknown."""
    connect_timeout_s: Annotated[Positive, Field(ge=1, le=600)] = Decimal(60)
    """How long the connection may take until symbols, groups and positions are known."""
    settle_s: Annotated[Positive, Field(le=120)] = Decimal(5)
    """After an accepted order, at most this long until the server's lists show it."""
    dealing: bool = False
    """Go into dealing mode. Traders' own requests may then be routed to this manager: only where orders need it."""
    tags_survive: bool = False
    """The broker is proven to give comments back unchanged; only then may an unknown order be sent again."""


class BridgeCarrier(StrEnum):
    """How frames travel to an Expert Advisor."""

    TCP = "tcp"
    WEBSOCKET = "websocket"
    HTTP = "http"
    PIPE = "pipe"
    FILES = "files"


SECRET_MIN = 16


def _long_secret(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value()) < SECRET_MIN:
        raise _mistake(f"expected at least {SECRET_MIN} characters: whoever dials in sees a digest made with it")
    return secret


class BridgeSettings(_Account):
    """A MetaTrader 4 or 5 terminal with our Expert Advisor on one of its charts, on this machine or another."""

    kind: Literal["bridge"]
    """A terminal with our Expert Advisor."""
    carrier: BridgeCarrier = BridgeCarrier.TCP
    """How it reaches us: `tcp` and `websocket` (MetaTrader 5), `http`, `pipe` and `files` (4 and 5); see gateways/bridge.md."""
    secret: Annotated[Secret, AfterValidator(_long_secret)]
    """The same as in the Expert Advisor's input `Secret`, at least 16 characters; every account has its own."""
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """`tcp`, `http`, `websocket`: the address to listen on. Beyond this machine only with TLS, a tunnel or a VPN."""
    port: Annotated[Count, Field(le=65_535)] = 17_500
    """`tcp`, `http`, `websocket`: the port to listen on; accounts may share one, whichever of the three they use."""
    tls_certificate: Path | None = None
    """`tcp`, `http`, `websocket`: a PEM file with the certificate and what signed it; without one nothing is encrypted."""
    tls_key: Path | None = None
    """The certificate's key as a PEM file, if it is not in the same one."""
    pipe: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "mt-copier"
    """`pipe`: its name; accounts may share one, two users of one machine may not."""
    folder: Path | None = None
    """`files`: the folder all terminals of a Windows user share, MetaQuotes/Terminal/Common/Files; by default this user's."""
    call_timeout_s: Annotated[Positive, Field(ge=1, le=120)] = Decimal(10)
    """A call that takes longer is given up; an order then counts as unknown."""
    connect_timeout_s: Annotated[Positive, Field(ge=1, le=600)] = Decimal(30)
    """How long to wait for the Expert Advisor."""
    settle_s: Annotated[Positive, Field(le=120)] = Decimal(5)
    """After an accepted order, at most this long until the terminal's lists show it."""
    tags_survive: bool = False
    """The broker is proven to give comments back unchanged; only then may an unknown order be sent again."""


AccountSettings = Annotated[PaperSettings | Mt5Settings | Mt5ManagerSettings | BridgeSettings, Field(discriminator="kind")]
"""Every kind of account, told apart by `kind`: one class each."""


# Masters and followers -------------------------------------------------------------------------------------------------


class BreakerSettings(Policy):
    """When so much is gone at once that a broken read is likelier than a trader's decision."""

    share_max: Percent = Decimal(50)
    """Percent of the open positions that may vanish in one read and be believed like any other close."""
    count_min: Count = 3
    """Fewer vanished positions than this are always believed like any other close."""


class MasterSettings(Policy):
    """One account whose positions are copied."""

    account: Name
    """Which account; the read-only investor login is enough, and better."""
    poll_ms: Annotated[Count, Field(le=60_000)] = 100
    """Pause between two reads of its positions, where the account cannot call by itself."""
    snapshot_s: Annotated[Positive, Field(le=60)] = Decimal(2)
    """How often everything open is published, between the changes."""
    confirm_reads: Annotated[Count, Field(ge=2, le=20)] = 2
    """A position is gone when this many fresh reads, or a closing deal, say so."""
    breaker: BreakerSettings = BreakerSettings()
    """When so much is gone at once that only closing deals or a person make it believed."""


class CopySettings(RelationPolicy):
    """One master that a follower copies, and how."""

    master: Name
    """Which master."""


class FollowerSettings(Policy):
    """One account that copies masters."""

    account: Name
    """Which account; nobody else's orders on it are touched."""
    copies: Annotated[tuple[CopySettings, ...], Field(min_length=1)]
    """The masters it copies, and how each."""
    risk: FollowerRisk = FollowerRisk()
    """Limits of the whole follower, whatever the number of its masters."""
    groups: tuple[Name, ...] = ()
    """Groups it belongs to, for `flatten` and for limits of a group."""


class SignalSettings(Policy):
    """A folder where a strategy drops signal files, executed once each on one account."""

    account: Name
    """On which account; not a follower's, which the engine alone trades. Make it a master, and followers copy it."""
    folder: Path
    """Where the files are dropped; `archive` and `rejected` are made in it."""
    poll_ms: Annotated[Count, Field(le=60_000)] = 200
    """Pause between two looks into the folder."""
    age_s_max: Annotated[Positive, Field(le=86_400)] = Decimal(30)
    """An older file opens nothing: what lay there while nobody looked is not traded late."""
    lots_max: Positive = Decimal(1)
    """The most lots of one open."""
    symbols: tuple[str, ...] = ()
    """The symbols that may be opened; empty is every one."""
    orders_per_minute: Annotated[Count, Field(le=6_000)] = 60
    """The most opens within a minute; the rest is rejected."""
    magic: Annotated[Whole, Field(le=2_147_483_647)] = 12_345
    """The magic of its orders."""


# The engine ------------------------------------------------------------------------------------------------------------


class ScheduleSettings(Policy):
    """How often what is not a copy happens."""

    reconcile_s: Annotated[Positive, Field(le=3600)] = Decimal(30)
    """How often master, ledger and follower are compared, besides after every gap and restart."""
    ahead_s: Annotated[NotNegative, Field(le=60)] = Decimal("0.5")
    """How often account and prices of a resting follower are read ahead, so that the next open need not wait; 0 never."""
    equity_s: Annotated[Positive, Field(le=3600)] = Decimal(60)
    """How often balance and equity are recorded and loss limits judged by them."""
    trim_s: Annotated[Positive, Field(le=86_400)] = Decimal(3600)
    """How often old records are dropped."""
    keep_days: Count = 400
    """How long receipts and equity are kept, in days."""


class WorkerSettings(Policy):
    """How several workers share the followers."""

    lease_s: Annotated[Positive, Field(ge=5, le=300)] = Decimal(10)
    """A worker that is silent for so long loses its followers to the others, in seconds. No order outlives the lease either."""


class StreamSettings(Policy):
    """How changes travel over Redis."""

    entries_max: Annotated[Count, Field(ge=100)] = 10_000
    """Entries kept per master; a reader further behind is levelled by a snapshot."""
    secret: Secret | None = None
    """Signs every entry, so that nobody who can write to Redis can make a follower trade."""


class NotifyTarget(Policy):
    """Where alerts are sent to."""

    url: Secret
    """An Apprise address, such as `tgram://token/chat` or `mailto://user:password@host`: it holds the password."""


class NotifySettings(Policy):
    """Who is told of alerts; nobody unless set. Needs `pip install 'mt-copier[notify]'`."""

    targets: tuple[NotifyTarget, ...] = ()
    """Where to."""
    repeat_s: Annotated[Whole, Field(le=604_800)] = 3_600
    """An alert that stands, or comes and goes, is sent again after so long and no sooner; 0 sends each only once."""


class AuditSettings(Policy):
    """How the list of loaded settings and given controls is kept."""

    key: Annotated[Secret, AfterValidator(_long_secret)] | None = None
    """Signs every entry, at least 16 characters: who can write to the ledger but has not this cannot rewrite the list unseen."""


class LogLevel(StrEnum):
    """How much is said."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """For whom it is said."""

    TEXT = "text"
    JSON = "json"


class LogSettings(Policy):
    """What is logged, and where to."""

    level: LogLevel = LogLevel.INFO
    """`debug`, `info`, `warning` or `error`; `debug` tells of each order as it leaves and is answered, as its receipt does."""
    format: LogFormat = LogFormat.TEXT
    """`text` for people, `json` for machines."""
    file: Path | None = None
    """A file instead of the terminal."""


class MetricsSettings(Policy):
    """Where a process tells monitoring how it is: `/metrics`, `/ready` and `/health` over HTTP."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """The address to listen on; anything but this machine's own loopback needs a token."""
    port: Annotated[Count, Field(le=65_535)] = 9464
    """The port to listen on; every process of a machine has its own, by `MT_COPIER__METRICS__PORT`."""
    token: Secret | None = None
    """Whoever asks for `/metrics` or `/ready` must say it: `Authorization: Bearer ...`."""
    anyone_on_this_machine: bool = False
    """Answer without a token, on the loopback only."""
    certificate: Path | None = None
    """Speak TLS with this certificate chain (PEM)."""
    key: Path | None = None
    """The certificate's private key (PEM)."""

    @pydantic.model_validator(mode="after")
    def _closed(self) -> "MetricsSettings":
        loopback = self.host in ("localhost", "::1") or self.host.startswith("127.")
        if self.token is None and not (self.anyone_on_this_machine and loopback):
            where = "or anyone_on_this_machine: true" if loopback else "since others can reach this address"
            raise _mistake(f"expected a token, such as {{file: metrics.token}}, {where}")
        if self.token is not None and len(self.token.get_secret_value()) < METRICS_TOKEN_MIN:
            raise _mistake(f"expected a token of at least {METRICS_TOKEN_MIN} characters")
        if (self.certificate is None) != (self.key is None):
            raise _mistake("expected certificate and key together, or neither")
        return self


METRICS_TOKEN_MIN = 16


class Settings(Policy, BaseSettings):
    """Everything that is set."""

    model_config = SettingsConfigDict(validate_default=False)

    redis: RedisUrl = Url("memory://")
    """What carries the changes: `memory://` inside one process, else `redis://`, `rediss://` or `unix://`; for several servers
    `redis+sentinel://` or `redis+cluster://`."""
    ledger: LedgerUrl = Url("sqlite:///copier.db")
    """What remembers: `sqlite:///file`, or `postgresql://` when followers are spread over machines."""
    accounts: dict[Name, AccountSettings] = {}
    """Every account by a name of your own."""
    masters: dict[Name, MasterSettings] = {}
    """Whose positions are copied, by a name of your own."""
    followers: dict[Name, FollowerSettings] = {}
    """Who copies, by a name of your own."""
    signals: dict[Name, SignalSettings] = {}
    """Folders where strategies drop signal files, by a name of your own."""
    schedule: ScheduleSettings = ScheduleSettings()
    """How often what is not a copy happens."""
    worker: WorkerSettings = WorkerSettings()
    """How several workers share the followers."""
    stream: StreamSettings = StreamSettings()
    """How changes travel over Redis."""
    watchdogs: WatchdogSettings = WatchdogSettings()
    """What is watched for beside the copying."""
    notify: NotifySettings = NotifySettings()
    """Who is told of alerts."""
    audit: AuditSettings = AuditSettings()
    """How the list of loaded settings and given controls is kept."""
    log: LogSettings = LogSettings()
    """What is logged, and where to."""
    metrics: MetricsSettings | None = None
    """Where monitoring may ask; without this section nothing listens."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what `load` or `parse` read, instead of sources that let misspelt variables and doubled keys pass."""
        source = _read.get()
        return (init_settings,) if source is None else (init_settings, WrittenSettings(settings_cls, source))


# Reading and showing ---------------------------------------------------------------------------------------------------


def load(path: Path, env: Mapping[str, str] | None = None) -> Settings:
    """Read a YAML file and the environment over it; raise `SettingsError` with every mistake."""
    return _settings(read_file(path, os.environ if env is None else env, SECRET_NAMES))


def parse(text: str, env: Mapping[str, str] | None = None, *, name: str = "settings") -> Settings:
    """Read settings from a text, by the same rules and over no environment but the one given."""
    return _settings(read_text(text, env or {}, SECRET_NAMES, name=name))


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the settings, for editors that complete and check YAML."""
    schema: dict[str, Any] = _bounded(Settings.model_json_schema())
    return schema


_BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}


def _bounded(node: Any) -> Any:
    """Return a schema with the bounds of decimals under the names that JSON Schema has for them."""
    if isinstance(node, list):
        return [_bounded(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {_BOUNDS.get(key, key): _bounded(value) for key, value in node.items()}


def redacted(settings: Settings) -> dict[str, Any]:
    """Return the settings to show: plain values, every secret replaced by asterisks."""
    return settings.model_dump(mode="json", by_alias=True)


_SCHEMA = Schema(json_schema())
SECRET_NAMES = _SCHEMA.secret_names
"""The settings that are secrets, by their last name."""


def _settings(source: Source) -> Settings:
    settings = None
    problems = list(source.problems)
    if source.tree or not problems:
        try:
            with _reading(source):
                settings = Settings()
            problems += almost_settings(source, Settings.model_fields)
        except ValidationError as error:
            problems += explain(error.errors(include_url=False), source, _SCHEMA)
        problems += check_references(source.tree)
    if settings is None or problems:
        raise SettingsError(in_order(problems, source), source=source.name)
    return settings
