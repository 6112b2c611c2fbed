"""Redis on several servers: behind Sentinel and in a cluster, with failovers that lose what was acknowledged."""

import asyncio
import contextlib
import gc
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis

from copier.app import App, Follow, Watch
from copier.clock import SystemClock
from copier.errors import SettingsError, StoreError
from copier.gateways.opening import PaperWorld
from copier.model import Closed, MasterPosition, Side
from copier.settings import parse
from copier.stream import ClusterStream, Entry, EntryId, Stream, open_stream
from tests.conftest import RedisServer, absent, free_port
from tests.test_app import LONG_AGO

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""The cluster's client leaves connections to the garbage collector when it learns the servers anew."""
D = Decimal
WAIT_S = 60
WORLD = """
redis: REDIS
ledger: sqlite:///LEDGER
accounts:
  m: {kind: paper, login: 1, server: A, balance: 50000}
  f: {kind: paper, login: 2, server: B, balance: 50000}
masters:
  m: {account: m, snapshot_s: 1}
followers:
  f: {account: f, copies: [{master: m}]}
"""


def program() -> str:
    found = shutil.which("redis-server")
    if found is None:
        absent("redis-server is not installed")
    return found


@contextlib.contextmanager
def servers(folder: Path, count: int, *options: str) -> Iterator[list[RedisServer]]:
    started: list[RedisServer] = []
    try:
        for number in range(count):
            own = folder / f"redis{number}"
            own.mkdir()
            server = RedisServer(program(), own)
            server.start(*options)
            started.append(server)
        yield started
    finally:
        for server in started:
            server.kill()


def until(what: Callable[[], bool], why: str) -> None:
    ends = time.monotonic() + WAIT_S
    while time.monotonic() < ends:
        with contextlib.suppress(redis.RedisError):
            if what():
                return
        time.sleep(0.1)
    pytest.fail(f"{why}: not after {WAIT_S} s")


async def eventually(what: Callable[[], bool], why: str) -> None:
    ends = asyncio.get_running_loop().time() + WAIT_S
    while not what():
        if asyncio.get_running_loop().time() > ends:
            pytest.fail(f"{why}: not after {WAIT_S} s")
        await asyncio.sleep(0.05)


def closed(master: str, identifier: int) -> Closed:
    position = MasterPosition(
        identifier=identifier, ticket=identifier, symbol="EURUSD", side=Side.BUY, lots=D("0.1"), lots_opened=D("0.1"),
        open_price=D("1.1"), open_time=LONG_AGO,
    )  # fmt: skip
    return Closed(master=master, read=1, read_ms=1, position=position)


# URLs ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://host:26379",
        "redis+sentinel://host:26379/mymaster/x",
        "redis+cluster://host:6379/1",
        "redis+unknown://host:6379",
        "redis+cluster://host:port",
    ],
)
def test_a_place_that_cannot_be_meant_is_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        open_stream(url)


def test_a_url_of_several_hosts_is_a_setting_and_shown_without_its_password() -> None:
    url = "rediss+sentinel://copier:geheim@one:26379,two:26379/mymaster?ssl_ca_certs=ca.crt"
    settings = parse(WORLD.replace("REDIS", '"{env: X}"').replace('"{env: X}"', "{env: X}"), {"X": url})
    assert settings.redis.get_secret_value() == url
    assert "geheim" not in repr(settings)


async def test_no_client_repeats_a_call_by_itself() -> None:
    for url in (
        "redis://h:1/0",
        "redis+sentinel://h:1/s",
        "redis+cluster://h:1",
        "rediss+sentinel://u:p@h:1,g:2/s/3?sentinel_password=x",
    ):
        stream = open_stream(url)
        client: Any = stream._client
        kwargs = getattr(getattr(client, "connection_pool", None), "connection_kwargs", {})
        assert (kwargs.get("retry") or client.retry).get_retries() == 0
        await stream.close()


async def test_sentinels_have_their_own_password_and_the_master_has_the_urls(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").touch()
    asked = f"sentinel_password=two&ssl_ca_certs={tmp_path / 'ca.crt'}"
    stream = open_stream(f"rediss+sentinel://copier:one@h:1,g/mymaster/3?{asked}")
    pool: Any = stream._client.connection_pool
    assert pool.connection_kwargs["username"] == "copier"
    assert pool.connection_kwargs["password"] == "one"
    assert pool.connection_kwargs["db"] == 3
    assert pool.connection_kwargs["ssl_ca_certs"] == str(tmp_path / "ca.crt")
    sentinels = [each.connection_pool for each in pool.sentinel_manager.sentinels]
    assert [(each.connection_kwargs["host"], each.connection_kwargs["port"]) for each in sentinels] == [("h", 1), ("g", 26379)]
    assert {each.connection_kwargs["password"] for each in sentinels} == {"two"}
    assert {each.connection_class.__name__ for each in sentinels} == {"SSLConnection"}
    await stream.close()


# Sentinel --------------------------------------------------------------------------------------------------------------


class Sentinel:
    """A master, its replica and a sentinel that alone decides."""

    def __init__(self, master: RedisServer, replica: RedisServer, port: int) -> None:
        self.master = master
        self.replica = replica
        self.url = f"redis+sentinel://127.0.0.1:{port}/mymaster"
        self.port = port

    def lose_what_was_acknowledged(self) -> None:
        """Stop the master for ever; the replica has not seen what came since it was cut off."""
        self.master.kill()
        places: Any = redis.Sentinel([("127.0.0.1", self.port)])  # type: ignore[no-untyped-call]
        until(lambda: places.discover_master("mymaster")[1] == self.replica.port, "the replica is master")

    def cut_off(self) -> None:
        """Let the replica see nothing of the master any more: the master answers it as a stranger."""
        with redis.Redis(port=self.replica.port) as client:
            client.config_set("masterauth", "wrong")
        with redis.Redis(port=self.master.port) as client:
            client.config_set("requirepass", "")
            client.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Sentinel]:
    with servers(tmp_path, 2) as (master, replica):
        with redis.Redis(port=replica.port) as client:
            client.execute_command("REPLICAOF", "127.0.0.1", master.port)
            until(lambda: client.info("replication")["master_link_status"] == "up", "the replica follows")
        port = free_port()
        conf = tmp_path / "sentinel.conf"
        conf.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 3000\n"
        )
        process = subprocess.Popen([program(), str(conf), "--sentinel"], stdout=subprocess.DEVNULL)
        try:
            with redis.Redis(port=port) as client:
                until(lambda: bool(client.execute_command("SENTINEL", "replicas", "mymaster")), "the sentinel knows the replica")
            yield Sentinel(master, replica, port)
        finally:
            process.kill()
            process.wait()


# A cluster -------------------------------------------------------------------------------------------------------------


class Cluster:
    """Three masters with a replica each."""

    def __init__(self, nodes: list[RedisServer]) -> None:
        self.nodes = {node.port: node for node in nodes}
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes[:2])

    def owner_of(self, key: str) -> RedisServer:
        """Return the server that a key belongs to, by a server that lives."""
        for node in self.nodes.values():
            with contextlib.suppress(redis.RedisError), redis.Redis(port=node.port) as client:
                slot = client.cluster("keyslot", key)
                slots: Any = client.execute_command("CLUSTER", "SLOTS")
                return self.nodes[next(row[2][1] for row in slots if row[0] <= slot <= row[1])]
        raise AssertionError("no node of the cluster answers")


def whole(client: Any) -> bool:
    """Say whether a server knows of everything it must, and has all the data if it is a replica: else it is not elected."""
    return (
        bool(client.cluster("info")["cluster_state"] == "ok")
        and client.info("replication").get("master_link_status", "up") == "up"
    )


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    options = [
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        "1000",
        "--cluster-config-file",
        "nodes.conf",
        "--repl-diskless-sync-delay",
        "0",
    ]
    started: list[RedisServer] = []
    try:
        for number in range(6):
            own = tmp_path / f"node{number}"
            own.mkdir()
            server = RedisServer(program(), own)
            server.port = free_port()
            server.start(*options, "--cluster-port", str(free_port()))
            started.append(server)
        places = [f"127.0.0.1:{server.port}" for server in started]
        make = ["redis-cli", "--cluster", "create", *places, "--cluster-replicas", "1", "--cluster-yes"]
        subprocess.run(make, check=True, capture_output=True, timeout=WAIT_S)
        for server in started:
            with redis.Redis(port=server.port) as client:
                until(lambda: whole(client), "the cluster is whole")
        yield Cluster(started)
        gc.collect()
    finally:
        for server in started:
            server.kill()


# Streams ---------------------------------------------------------------------------------------------------------------


async def read_all(stream: Stream, after: dict[str, EntryId], count: int) -> list[Entry]:
    found: list[Entry] = []
    async with asyncio.timeout(WAIT_S):
        while len(found) < count:
            try:
                entries = await stream.read(after, block_ms=500)
            except StoreError:
                await asyncio.sleep(0.2)
                continue
            for entry in entries:
                after[entry.master] = entry.id
            found += entries
    return found


async def say(stream: Stream, master: str, entry: EntryId) -> None:
    """Publish as a watcher does: the same id again until it is there."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await stream.publish(master, entry, closed(master, entry.sequence))
                return
            except StoreError:
                await asyncio.sleep(0.2)


@pytest.mark.server
async def test_what_is_published_in_a_cluster_is_read_in_order_whatever_servers_it_lies_on(cluster: Cluster) -> None:
    masters = [f"m{number}" for number in range(12)]
    owners = {cluster.owner_of(f"copier:events:{master}").port for master in masters}
    assert len(owners) == 3
    async with streams(cluster.url) as (writer, reader):
        assert isinstance(reader, ClusterStream)
        after = dict.fromkeys(masters, EntryId())
        reading = asyncio.create_task(read_all(reader, after, 12 * 5))
        for sequence in range(1, 6):
            for master in masters:
                await say(writer, master, EntryId(1, sequence))
        found = await reading
        for master in masters:
            assert [entry.id for entry in found if entry.master == master] == [EntryId(1, n) for n in range(1, 6)]
        assert await reader.last_id("m3") == EntryId(1, 5)
        assert (await reader.last_snapshot("m3")) is None
        await reader.ping()
        at_ms = await reader.time_ms()
        assert at_ms is not None
        assert abs(at_ms - SystemClock().now_ms()) < 60_000


@pytest.mark.server
async def test_a_read_that_begins_anew_further_back_leaves_nothing_out(cluster: Cluster) -> None:
    async with streams(cluster.url) as (writer, reader):
        for sequence in (1, 2, 3):
            await say(writer, "m", EntryId(1, sequence))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await reader.read({"m": EntryId(1, 3)}, block_ms=5_000)
        found = await reader.read({"m": EntryId(1, 1)}, block_ms=500)
        assert [entry.id for entry in found] == [EntryId(1, 2), EntryId(1, 3)]


@pytest.mark.server
@pytest.mark.timeout(120)
async def test_one_server_of_a_cluster_that_dies_delays_no_other_and_comes_back_as_its_replica(cluster: Cluster) -> None:
    masters = [f"m{number}" for number in range(12)]
    async with streams(cluster.url) as (writer, reader):
        after = dict.fromkeys(masters, EntryId())
        for master in masters:
            await say(writer, master, EntryId(1, 1))
        assert len(await read_all(reader, after, 12)) == 12
        # The worst of them: the one that the client asks whatever it does not know itself.
        dead = cluster.nodes[reader._client.get_default_node().port]
        others = [master for master in masters if cluster.owner_of(f"copier:events:{master}") is not dead]
        assert 0 < len(others) < len(masters)
        dead.kill()
        reading = asyncio.create_task(read_all(reader, after, len(masters)))
        for master in [*others, *(each for each in masters if each not in others)]:
            await say(writer, master, EntryId(1, 2))
        assert {entry.master for entry in await reading} == set(masters)


@contextlib.asynccontextmanager
async def streams(url: str) -> AsyncIterator[tuple[Stream, Stream]]:
    writer, reader = open_stream(url), open_stream(url)
    try:
        yield writer, reader
    finally:
        await writer.close()
        await reader.close()


# The engine ------------------------------------------------------------------------------------------------------------


def began(app: App) -> bool:
    """Say whether what a master opens from now on is copied."""
    followers = [] if app.worker is None else list(app.worker.followers.values())
    published = all(watcher.published_ms for watcher in app.watchers.values())
    started = all(f.connected and f.relations["m"].started for f in followers)
    return published and started and len(followers) == len(app.following)


class Engine:
    """Watcher and worker as two applications over one world of brokers."""

    def __init__(self, url: str, ledger: Path) -> None:
        text = WORLD.replace("REDIS", url).replace("LEDGER", str(ledger))
        self.settings = parse(text)
        self.clock = SystemClock()
        self.paper = PaperWorld(self.clock)
        for account in self.settings.accounts.values():
            self.paper.gateway(account)  # type: ignore[arg-type]
        for server in self.paper.servers.values():
            server.set_quote("EURUSD", "1.10000", "1.10008")

    @contextlib.asynccontextmanager
    async def runs(self, role: Watch | Follow) -> AsyncIterator[App]:
        async with App(self.settings, self.clock, role=role, paper=self.paper) as app:
            task = asyncio.create_task(app.run())
            try:
                await eventually(lambda: began(app), "the role has begun")
                yield app
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def quote(self) -> None:
        for server in self.paper.servers.values():
            server.set_quote("EURUSD", "1.10000", "1.10008")

    @contextlib.asynccontextmanager
    async def quotes(self) -> AsyncIterator[None]:
        async def fresh() -> None:
            while True:
                self.quote()
                await asyncio.sleep(0.3)

        task = asyncio.create_task(fresh())
        try:
            yield
        finally:
            task.cancel()

    def open_at(self, server: str, login: int) -> list[Decimal]:
        return sorted(position.lots for position in self.paper.servers[server].positions(login))


@pytest.mark.server
@pytest.mark.timeout(150)
async def test_copying_goes_on_after_a_failover_and_what_it_lost_is_healed_by_the_next_snapshot(
    sentinel: Sentinel, tmp_path: Path
) -> None:
    engine = Engine(sentinel.url, tmp_path / "ledger.db")
    master = engine.paper.servers["A"]
    async with engine.quotes(), engine.runs(Watch(("m",))):
        async with engine.runs(Follow("w")):
            first = master.buy(1, "EURUSD", "0.10").position
            await eventually(lambda: engine.open_at("B", 2) == [D("0.10")], "the first is copied")
        sentinel.cut_off()
        master.buy(1, "EURUSD", "0.20")
        master.close(1, first)
        with redis.Redis(port=sentinel.master.port) as client:
            before = client.xinfo_stream("copier:events:m")["last-generated-id"]
            await eventually(lambda: client.xinfo_stream("copier:events:m")["last-generated-id"] != before, "it is published")
            acknowledged = client.xrange("copier:events:m", "(" + before.decode())
        await asyncio.to_thread(sentinel.lose_what_was_acknowledged)
        with redis.Redis(port=sentinel.replica.port) as client:
            lost = [entry for entry, _ in acknowledged if not client.xrange("copier:events:m", entry, entry)]
            assert lost
        async with engine.runs(Follow("w")):
            await eventually(lambda: engine.open_at("B", 2) == [D("0.20")], "what was lost is copied, and closed")
            third = master.buy(1, "EURUSD", "0.30").position
            await eventually(lambda: engine.open_at("B", 2) == [D("0.20"), D("0.30")], "copying goes on")
            master.close(1, third)
            await eventually(lambda: engine.open_at("B", 2) == [D("0.20")], "closing goes on")
    openings = [deal for deal in engine.paper.servers["B"].accounts[2].deals if deal.symbol and deal.entry.value == "in"]
    assert len(openings) == 3


@pytest.mark.server
@pytest.mark.timeout(150)
async def test_a_cluster_carries_the_engine_through_the_death_of_its_masters_server(cluster: Cluster, tmp_path: Path) -> None:
    engine = Engine(cluster.url, tmp_path / "ledger.db")
    master = engine.paper.servers["A"]
    async with engine.quotes(), engine.runs(Watch(("m",))), engine.runs(Follow("w")):
        first = master.buy(1, "EURUSD", "0.10").position
        await eventually(lambda: engine.open_at("B", 2) == [D("0.10")], "the first is copied")
        cluster.owner_of("copier:events:m").kill()
        master.buy(1, "EURUSD", "0.20")
        master.close(1, first)
        await eventually(lambda: engine.open_at("B", 2) == [D("0.20")], "copying goes on")
