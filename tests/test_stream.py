"""The stream: one entry per event, in order, signed; whatever is missing, damaged or another's is seen."""

import asyncio
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copier.clock import run_virtual
from copier.errors import Fenced, ProtocolError, SettingsError, StoreError
from copier.model import Closed, Event, MasterPosition, Side, Snapshot
from copier.stream import Entry, EntryId, Stream, open_stream
from tests.test_diff import START, D

KEY = "copier:events:m"


def closed(read: int, master: str = "m") -> Closed:
    position = MasterPosition(
        identifier=read,
        ticket=read,
        symbol="EURUSD",
        side=Side.BUY,
        lots=D(1),
        lots_opened=D(1),
        open_price=D("1.1"),
        open_time=START,
    )
    return Closed(master=master, read=read, read_ms=1, position=position)


def snapshot(read: int) -> Snapshot:
    return Snapshot(master="m", read=read, read_ms=1, positions=(), specs={})


def on(secret: bytes = b"", **more: Any) -> tuple[Stream, fakeredis.FakeAsyncRedis]:
    client = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer(server_type="redis"), socket_timeout=None)
    return Stream(client, secret=secret, **more), client


async def everything(stream: Stream, after: EntryId = EntryId()) -> list[Entry]:  # noqa: B008 - an id never changes
    return await stream.read({"m": after}, block_ms=1)


# Ids ---------------------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**63), st.integers(0, 2**63))
@settings(max_examples=50)
def test_an_id_is_read_as_it_was_written(epoch: int, sequence: int) -> None:
    entry = EntryId(epoch, sequence)
    assert EntryId.parse(str(entry)) == EntryId.parse(str(entry).encode()) == entry
    assert entry < entry.next < EntryId(epoch + 1, 0)


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "a-1", "1-2-3", "*", "1-x", "1.0-2"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        EntryId.parse(text)


# Publishing ----------------------------------------------------------------------------------------------------------------


async def test_saying_it_twice_leaves_one_entry() -> None:
    stream, client = on()
    for _ in range(3):
        await stream.publish("m", EntryId(1, 1), closed(1))
    assert await client.xlen(KEY) == 1
    assert await everything(stream) == [Entry("m", EntryId(1, 1), closed(1))]
    await stream.close()


async def test_an_id_that_another_has_written_fences() -> None:
    stream, _ = on()
    await stream.publish("m", EntryId(1, 1), closed(1))
    with pytest.raises(Fenced, match="another watcher"):
        await stream.publish("m", EntryId(1, 1), closed(2))
    await stream.close()


async def test_an_earlier_epoch_is_fenced_once_a_later_one_has_written() -> None:
    stream, client = on()
    await stream.publish("m", EntryId(1, 7), closed(1))
    await stream.publish("m", EntryId(2, 1), snapshot(2))
    for late in (EntryId(1, 8), EntryId(1, 999)):
        with pytest.raises(Fenced):
            await stream.publish("m", late, closed(3))
    await stream.publish("m", EntryId(1, 7), closed(1))
    assert await client.xlen(KEY) == 2
    await stream.close()


async def test_a_wiped_stream_is_written_on_from_where_it_was() -> None:
    stream, client = on()
    await stream.publish("m", EntryId(3, 41), closed(1))
    await client.flushall()
    await stream.publish("m", EntryId(3, 42), closed(2))
    assert [entry.id for entry in await everything(stream, EntryId(3, 41))] == [EntryId(3, 42)]
    await stream.close()


async def test_masters_do_not_mix() -> None:
    stream, _ = on()
    await stream.publish("m", EntryId(1, 1), closed(1))
    await stream.publish("n", EntryId(1, 1), closed(2, "n"))
    found = await stream.read({"m": EntryId(), "n": EntryId()}, block_ms=1)
    assert sorted((entry.master, entry.event.read) for entry in found if entry.event) == [("m", 1), ("n", 2)]
    await stream.close()


async def test_the_stream_is_kept_short() -> None:
    stream, client = on(entries_max=50)
    for sequence in range(1, 400):
        await stream.publish("m", EntryId(1, sequence), closed(sequence))
    assert await client.xlen(KEY) < 300
    assert await stream.last_id("m") == EntryId(1, 399)
    await stream.close()


# Reading -------------------------------------------------------------------------------------------------------------------


async def test_only_what_follows_is_read_and_in_order() -> None:
    stream, _ = on()
    for sequence in range(1, 6):
        await stream.publish("m", EntryId(1, sequence), closed(sequence))
    assert [entry.id.sequence for entry in await everything(stream, EntryId(1, 2))] == [3, 4, 5]
    assert await everything(stream, EntryId(1, 5)) == []
    assert [entry.id.sequence for entry in await stream.read({"m": EntryId()}, block_ms=1, count=2)] == [1, 2]
    await stream.close()


def test_a_blocked_read_returns_with_the_first_entry_and_otherwise_in_time() -> None:
    async def tell() -> None:
        stream, _ = on()
        loop = asyncio.get_running_loop()
        assert await stream.read({"m": EntryId()}, block_ms=700) == []
        assert loop.time() == pytest.approx(0.7, abs=0.2)
        reading = asyncio.create_task(stream.read({"m": EntryId()}, block_ms=60_000))
        await asyncio.sleep(1)
        await stream.publish("m", EntryId(1, 1), closed(1))
        assert [entry.id for entry in await reading] == [EntryId(1, 1)]
        assert loop.time() < 5
        await stream.close()

    run_virtual(tell())


async def test_the_newest_id_and_the_newest_snapshot_are_found_however_far_back() -> None:
    stream, _ = on()
    assert await stream.last_id("m") == EntryId()
    assert await stream.last_snapshot("m") is None
    await stream.publish("m", EntryId(1, 1), snapshot(1))
    await stream.publish("m", EntryId(1, 2), snapshot(2))
    for sequence in range(3, 260):
        await stream.publish("m", EntryId(1, sequence), closed(sequence))
    found = await stream.last_snapshot("m")
    assert found == Entry("m", EntryId(1, 2), snapshot(2))
    assert await stream.last_id("m") == EntryId(1, 259)
    await stream.close()


async def test_a_stream_without_any_snapshot_says_so() -> None:
    stream, _ = on()
    for sequence in range(1, 205):
        await stream.publish("m", EntryId(1, sequence), closed(sequence))
    assert await stream.last_snapshot("m") is None
    await stream.close()


# Damage and forgery ----------------------------------------------------------------------------------------------------------


def bodies(entries: list[Entry]) -> list[Event | None]:
    return [entry.event for entry in entries]


async def test_a_damaged_entry_is_read_as_one_without_an_event() -> None:
    stream, client = on()
    await stream.publish("m", EntryId(1, 1), closed(1))
    await client.xadd(KEY, {b"e": b"\x00garbage"}, id="1-2")
    await client.xadd(KEY, {b"other": b"field"}, id="1-3")
    await stream.publish("m", EntryId(1, 4), closed(4))
    assert bodies(await everything(stream)) == [closed(1), None, None, closed(4)]
    await stream.close()


async def test_only_what_is_signed_for_this_master_and_this_id_has_an_event() -> None:
    stream, client = on(b"secret")
    await stream.publish("m", EntryId(1, 1), closed(1))
    ((_, fields),) = await client.xrange(KEY)
    await client.xadd(KEY, fields, id="1-2")
    await client.xadd(KEY, {b"e": fields[b"e"]}, id="1-3")
    await client.xadd(KEY, {**fields, b"e": fields[b"e"].replace(b"EURUSD", b"XAUUSD")}, id="1-4")
    await client.xadd("copier:events:n", fields, id="1-1")
    assert bodies(await everything(stream)) == [closed(1), None, None, None]
    assert bodies(await stream.read({"n": EntryId()}, block_ms=1)) == [None]
    await stream.close()


async def test_another_secret_reads_no_event() -> None:
    stream, client = on(b"secret")
    await stream.publish("m", EntryId(1, 1), closed(1))
    other = Stream(client, secret=b"another")
    assert bodies(await everything(other)) == [None]
    await stream.close()


async def test_a_snapshot_that_is_not_signed_is_none() -> None:
    stream, client = on(b"secret")
    await stream.publish("m", EntryId(1, 1), snapshot(1))
    forger = Stream(client, secret=b"")
    await forger.publish("m", EntryId(1, 2), snapshot(2))
    found = await stream.last_snapshot("m")
    assert found is not None
    assert found.id == EntryId(1, 1)
    await stream.close()


# Failure -------------------------------------------------------------------------------------------------------------------


async def test_a_redis_that_is_down_is_a_store_error_for_every_call() -> None:
    server = fakeredis.FakeServer(server_type="redis")
    stream = Stream(fakeredis.FakeAsyncRedis(server=server, socket_timeout=None))
    server.connected = False
    calls = (
        lambda: stream.publish("m", EntryId(1, 1), closed(1)),
        lambda: stream.read({"m": EntryId()}, block_ms=1),
        lambda: stream.last_id("m"),
        lambda: stream.last_snapshot("m"),
        lambda: stream.ping(),
    )
    for call in calls:
        with pytest.raises(StoreError):
            await call()
    server.connected = True
    await stream.ping()
    await stream.close()


async def test_a_key_of_another_kind_is_a_store_error() -> None:
    stream, client = on()
    await client.set(KEY, "not a stream")
    with pytest.raises(StoreError, match="stream of m"):
        await stream.publish("m", EntryId(1, 1), closed(1))
    await stream.close()


@pytest.mark.parametrize("url", ["http://here", "here"])
def test_a_url_that_is_no_redis_is_a_settings_error(url: str) -> None:
    with pytest.raises(SettingsError):
        open_stream(url)


@pytest.mark.parametrize("scheme", ["rediss", "rediss+sentinel", "rediss+cluster"])
def test_what_an_address_asks_for_is_looked_at_before_anybody_is_dialled(scheme: str, tmp_path: Path) -> None:
    place = f"{scheme}://here:1{'/mymaster' if scheme.endswith('sentinel') else ''}"
    with pytest.raises(SettingsError, match="sslca, there is no such option"):
        open_stream(f"{place}?sslca=1")
    with pytest.raises(SettingsError, match=r"nobody\.crt cannot be read: No such file"):
        open_stream(f"{place}?ssl_ca_certs={tmp_path / 'nobody.crt'}")
    (tmp_path / "ca.crt").touch()
    open_stream(f"{place}?ssl_ca_certs={tmp_path / 'ca.crt'}")


async def test_every_stream_in_memory_is_its_own() -> None:
    one, other = open_stream("memory://"), open_stream("memory://")
    await one.publish("m", EntryId(1, 1), closed(1))
    assert await other.last_id("m") == EntryId()
    await one.close()
    await other.close()
