"""Redis Streams: one small stream per master, entries with explicit ids `epoch-sequence`, read without groups.

`redis://...` is a real server, or several behind Sentinel or in a cluster; `memory://` the same code over fakeredis in this
process. Redis only carries: whatever it loses, the next snapshot brings back, so every failure here ends in `StoreError` and a
later try, never in a guess.
"""

import asyncio
import hashlib
import hmac
import re
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
import redis.asyncio as aioredis
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisClusterException, RedisError, ResponseError

from copier import wire
from copier.errors import Fenced, ProtocolError, SettingsError, StoreError
from copier.model import Event, Snapshot

if TYPE_CHECKING:
    import fakeredis

T = TypeVar("T")

KEY = "copier:events:{}"
ENTRIES_MAX = 10_000
"""Entries kept per master unless the settings say otherwise; a reader further behind than that levels by a snapshot."""
BLOCK_MS = 1_000
SOCKET_TIMEOUT_S = 5.0
_ID = re.compile(rb"([0-9]{1,20})-([0-9]{1,20})")
_FAILURES = (RedisError, RedisClusterException, OSError, TimeoutError, AttributeError)
"""What a call may end with. The cluster's client uses a connection that another call has just closed as if it were there."""
_Found = list[tuple[bytes, dict[bytes, bytes]]]


class EntryId(NamedTuple):
    """The id of one entry: the watcher's epoch, then a gapless sequence from 1."""

    epoch: int = 0
    sequence: int = 0

    def __str__(self) -> str:
        return f"{self.epoch}-{self.sequence}"

    @property
    def next(self) -> "EntryId":
        """The id that must follow in the same epoch."""
        return EntryId(self.epoch, self.sequence + 1)

    @classmethod
    def parse(cls, text: str | bytes) -> "EntryId":
        """Read `epoch-sequence`; raise `ProtocolError`."""
        found = _ID.fullmatch(text if isinstance(text, bytes) else text.encode(errors="replace"))
        if found is None:
            raise ProtocolError(f"not a stream id: {text[:60]!r}")
        return cls(int(found[1]), int(found[2]))


class Entry(msgspec.Struct, frozen=True):
    """One entry as read: whose, which, and what. A damaged or forged one has no event and counts as a gap."""

    master: str
    id: EntryId
    event: Event | None


class Stream:
    """The events of all masters, to publish and to read."""

    _anywhere: Mapping[str, str] = {}
    """What to say with a command that has no key, so that one server answers it."""

    def __init__(
        self, client: "aioredis.Redis | fakeredis.FakeAsyncRedis", *, entries_max: int = ENTRIES_MAX, secret: bytes = b""
    ) -> None:
        self._client: Any = client
        self._entries_max = entries_max
        self._secret = secret
        self.failures = 0
        """How many calls Redis did not answer, or refused."""

    async def close(self) -> None:
        """Let the connections go, those to sentinels too."""
        await self._client.aclose()
        places = getattr(getattr(self._client, "connection_pool", None), "sentinel_manager", None)
        for sentinel in getattr(places, "sentinels", ()):
            await sentinel.aclose()

    async def publish(self, master: str, entry: EntryId, event: Event) -> None:
        """Append an event under its own id; saying it twice leaves one entry.

        Raise `Fenced` where a later epoch has written, `StoreError` where Redis did not answer: say it again then.
        """
        body = wire.encode_event(event)
        fields: dict[Any, Any] = {b"e": body}
        if self._secret:
            fields[b"s"] = self._sign(master, entry, body)
        call = self._client.xadd(KEY.format(master), fields, id=str(entry), maxlen=self._entries_max, approximate=True)
        try:
            await self._answer(f"stream of {master}", call)
        except StoreError as error:
            if not (isinstance(error.__cause__, ResponseError) and "equal or smaller" in str(error)):
                raise
            await self._expect_mine(master, entry, body)

    async def _expect_mine(self, master: str, entry: EntryId, body: bytes) -> None:
        found = await self._range(master, str(entry), str(entry), 1)
        if not found or found[0][1].get(b"e") != body:
            raise Fenced(f"stream of {master}: {entry} was already written by another watcher")

    async def read(self, after: Mapping[str, EntryId], *, block_ms: int = BLOCK_MS, count: int = 500) -> list[Entry]:
        """Return what follows the given ids, in order per master; wait at most `block_ms` for the first. Raise `StoreError`."""
        keys: dict[Any, Any] = {KEY.format(master): str(entry) for master, entry in after.items()}
        masters = {KEY.format(master).encode(): master for master in after}
        answer = await self._answer("reading events", self._xread(keys, count, block_ms))
        return [self._entry(masters[bytes(key)], raw_id, fields) for key, entries in (answer or []) for raw_id, fields in entries]

    async def _xread(self, keys: Mapping[Any, Any], count: int, block_ms: int) -> Any:
        return await self._client.xread(keys, count=count, block=block_ms)

    async def last_id(self, master: str) -> EntryId:
        """Return the newest id in a master's stream, 0-0 where it is empty. Raise `StoreError`."""
        found = await self._reversed(master, "+", 1)
        return EntryId.parse(found[0][0]) if found else EntryId()

    async def last_snapshot(self, master: str) -> Entry | None:
        """Return the newest snapshot still in the stream, if any. Raise `StoreError`."""
        upper = "+"
        while True:
            found = await self._reversed(master, upper, 100)
            for raw_id, fields in found:
                entry = self._entry(master, raw_id, fields)
                if isinstance(entry.event, Snapshot):
                    return entry
            if len(found) < 100:
                return None
            upper = "(" + found[-1][0].decode()

    async def ping(self) -> None:
        """Raise `StoreError` where Redis does not answer, or does not let this user in."""
        try:
            await self._answer("Redis does not answer", self._client.ping())
        except StoreError as error:
            if isinstance(error.__cause__, (AuthenticationError, ResponseError)):
                raise StoreError(f"Redis does not let this user in: {error.__cause__}") from error.__cause__
            raise

    async def _answer(self, what: str, call: Awaitable[T]) -> T:
        """Return what a call answers; raise `StoreError` where Redis does not answer or refuses."""
        try:
            return await _uncancelled(call)
        except _FAILURES as error:
            self.failures += 1
            raise StoreError(f"{what}: {error}") from error

    async def time_ms(self) -> int | None:
        """Return Redis's clock, None where it is this process's own. Raise `StoreError`."""
        seconds, micros = await self._answer("Redis's clock", self._client.time(**self._anywhere))
        return int(seconds) * 1000 + int(micros) // 1000

    def _entry(self, master: str, raw_id: bytes, fields: Mapping[bytes, bytes] | None) -> Entry:
        entry = EntryId.parse(raw_id)
        body = (fields or {}).get(b"e", b"")
        if self._secret and not hmac.compare_digest((fields or {}).get(b"s", b""), self._sign(master, entry, body)):
            return Entry(master, entry, None)
        try:
            event = wire.decode_event(body)
        except ProtocolError:
            return Entry(master, entry, None)
        return Entry(master, entry, event if event.master == master else None)

    def _sign(self, master: str, entry: EntryId, body: bytes) -> bytes:
        return hmac.new(self._secret, f"{master}\n{entry}\n".encode() + body, hashlib.sha256).hexdigest().encode()

    async def _range(self, master: str, lower: str, upper: str, count: int) -> _Found:
        call: Awaitable[_Found] = self._client.xrange(KEY.format(master), lower, upper, count)
        return await self._answer(f"stream of {master}", call)

    async def _reversed(self, master: str, upper: str, count: int) -> _Found:
        call: Awaitable[_Found] = self._client.xrevrange(KEY.format(master), upper, "-", count)
        return await self._answer(f"stream of {master}", call)


async def _uncancelled(call: Awaitable[T]) -> T:
    """Await a call of the client without losing a cancellation.

    Until Python 3.12 `asyncio.wait_for`, which the client uses inside, drops one that arrives together with its answer.
    """
    answer = await call
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
    return answer


class MemoryStream(Stream):
    """The streams of one process, in its own memory."""

    async def time_ms(self) -> int | None:
        """Return None: the clock is this process's own."""
        return None


class ClusterStream(Stream):
    """The streams of a cluster, which lie on several servers: one blocking read per master, on a connection of its own."""

    _anywhere = {"target_nodes": aioredis.RedisCluster.RANDOM}

    def __init__(self, client: Any, *, entries_max: int = ENTRIES_MAX, secret: bytes = b"") -> None:
        super().__init__(client, entries_max=entries_max, secret=secret)
        self._reads: dict[str, tuple[EntryId, asyncio.Task[list[Entry]]]] = {}
        """By master: from where on it is being read, and the read."""

    async def read(self, after: Mapping[str, EntryId], *, block_ms: int = BLOCK_MS, count: int = 500) -> list[Entry]:
        """Return what follows the given ids at whichever server has something first. Raise `StoreError` where none has.

        Reads that are still under way are taken up by the next call: a server that is down delays no other.
        """
        for master in [name for name, (start, _) in self._reads.items() if after.get(name) != start]:
            self._reads.pop(master)[1].cancel()
        for master in sorted(after.keys() - self._reads.keys()):
            one = super().read({master: after[master]}, block_ms=block_ms, count=count)
            self._reads[master] = after[master], asyncio.create_task(one, name=f"reading {master}")
        await asyncio.wait([task for _, task in self._reads.values()], return_when=asyncio.FIRST_COMPLETED)
        entries: list[Entry] = []
        trouble: BaseException | None = None
        for master in [name for name, (_, task) in self._reads.items() if task.done()]:
            _, task = self._reads.pop(master)
            trouble = task.exception() or trouble
            entries += [] if task.exception() else task.result()
        if trouble is not None and not entries:
            raise trouble
        return entries

    async def _xread(self, keys: Mapping[Any, Any], count: int, block_ms: int) -> Any:
        # Left to itself the client asks one fixed server, which may be the one that is down, where this command's key stands.
        await self._client.initialize()
        ((key, after),) = keys.items()
        words = ("XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", key, after)
        return await self._client.execute_command(*words, target_nodes=self._client.get_node_from_key(key))

    async def close(self) -> None:
        """End the reads and let the connections go."""
        tasks = [task for _, task in self._reads.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await super().close()


def open_stream(url: str, *, entries_max: int = ENTRIES_MAX, secret: bytes = b"") -> Stream:
    """Return the stream behind a URL, not yet connected; raise `SettingsError`.

    `memory://`, `redis://`, `unix://`; `redis+sentinel://host:port,host:port/service`, whose master is asked for anew with every
    connection; `redis+cluster://host:port,host:port`, one stream per master wherever its key belongs. With TLS: `rediss`.

    The client never retries on its own: a lost reply would become two entries or a skipped one.
    """
    scheme, _, place = url.partition("://")
    kind: type[Stream] = Stream
    try:
        match scheme.partition("+"):
            case ("memory", "", _):
                import fakeredis  # Only where it is used: it loads numpy, too, where that is installed.

                kind = MemoryStream
                server = fakeredis.FakeServer(server_type="redis")
                client: Any = fakeredis.FakeAsyncRedis(server=server, socket_timeout=None)
            case ("redis" | "rediss" as plain, "+", "sentinel"):
                client = _sentinel_master(plain, place)
            case ("redis" | "rediss" as plain, "+", "cluster"):
                kind, client = ClusterStream, _cluster(plain, place)
            case _:
                client = aioredis.from_url(url, **_options())
        _try_options(client)
    except OSError as error:
        raise SettingsError([f"redis: {error.filename} cannot be read: {error.strerror}"]) from None
    except TypeError as error:  # What an address asks for beyond what the client knows becomes an argument that it does not have.
        unknown = re.search(r"'(\w+)'$", str(error))
        raise SettingsError(
            [f"redis: the address asks for {unknown[1] if unknown else error}, there is no such option"]
        ) from None
    except ValueError as error:
        expected = "memory://, redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"
        raise SettingsError([f"redis: expected a URL of {expected}: {error}"]) from None
    return kind(client, entries_max=entries_max, secret=secret)


def _try_options(client: Any) -> None:
    """Make a connection, without connecting it. Raise `TypeError` for unknown options, `OSError` for a file that is not there."""
    pool = getattr(client, "connection_pool", None)
    if pool is not None:
        pool.make_connection()
    options = client.connection_kwargs if pool is None else pool.connection_kwargs
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        if options.get(name):
            with Path(options[name]).open("rb"):
                pass


def _options() -> dict[str, Any]:
    return {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": SOCKET_TIMEOUT_S,
        "health_check_interval": 0,
    }


def _taken_apart(scheme: str, place: str, port: int) -> tuple[list[tuple[str, int]], list[str], dict[str, Any]]:
    """Return the hosts of a URL, the parts of its path, and everything else as the client's options."""
    before, mark, query = place.partition("?")
    authority, _, path = before.partition("/")
    who, at, hosts = authority.rpartition("@")
    found = [aioredis.connection.parse_url(f"{scheme}://{host}") for host in hosts.split(",")]
    more = aioredis.connection.parse_url(f"{scheme}://{who}{at}host/{mark}{query}")
    options = {name: value for name, value in more.items() if name not in ("host", "port", "connection_class")}
    return [(each["host"], each.get("port", port)) for each in found], [part for part in path.split("/") if part], options


def _sentinel_master(scheme: str, place: str) -> Any:
    hosts, path, more = _taken_apart(scheme, place, 26_379)
    if not 1 <= len(path) <= 2 or (len(path) == 2 and not path[1].isdigit()):
        raise ValueError(f"{scheme}+sentinel://host:26379/service, with /database after it where that is not 0")
    tls = {name: value for name, value in more.items() if name.startswith("ssl_")} | {"ssl": scheme == "rediss"}
    names = {"sentinel_username": "username", "sentinel_password": "password"}
    own = {short: more.pop(long) for long, short in names.items() if long in more}
    sentinel: Any = Sentinel(hosts, sentinel_kwargs={**_options(), **tls, **own})  # type: ignore[no-untyped-call]
    return sentinel.master_for(path[0], db=int(path[1]) if path[1:] else 0, **{**_options(), **more, **tls})


def _cluster(scheme: str, place: str) -> Any:
    hosts, path, more = _taken_apart(scheme, place, 6_379)
    if path:
        raise ValueError(f"{scheme}+cluster://host:6379, with nothing after it: a cluster has one database")
    nodes = [ClusterNode(host, port) for host, port in hosts]
    return aioredis.RedisCluster(startup_nodes=nodes, ssl=scheme == "rediss", **{**_options(), **more})
