"""The library by its exported functions alone, against servers that behave and servers that do not."""

import ctypes
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_client

from tests.conftest import RedisServer
from tests.dll.build import library
from tests.dll.servers import Servers, cut, deaf, says, web

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]
DONE, WAITING = 1, 0
CLOSED, BAD_ARGUMENT, TOO_MANY, NOT_CONNECTED, TIMED_OUT, NOT_UNDERSTOOD, DATABASE, ABANDONED, REFUSED = (
    -1,
    -3,
    -5,
    -7,
    -8,
    -11,
    -13,
    -14,
    -15,
)


def wide(text: str) -> ctypes.Array[ctypes.c_char]:
    """Return a text as MQL passes one."""
    return ctypes.create_string_buffer(text.encode("utf-16-le", "surrogatepass") + b"\0\0")


class Library:
    def __init__(self, path: Path) -> None:
        self.so = ctypes.CDLL(str(path))

    def http(self, url: str, body: bytes = b"", method: str = "POST", headers: str = "", timeout_ms: int = 10_000) -> int:
        return int(self.so.CopierHttp(wide(method), wide(url), wide(headers), body, len(body), timeout_ms))

    def publish(self, port: int, message: bytes, password: str = "", timeout_ms: int = 10_000) -> int:
        where = wide("127.0.0.1"), port, 0, wide(password), wide("trades")
        return int(self.so.CopierPublish(*where, message, len(message), timeout_ms))

    def save(self, path: Path, ticket: int, comment: str = "", account: str = "5001@Broker-Demo") -> int:
        long = ctypes.c_int64
        texts = [wide(each) for each in ("1.10000", "1.10500", "150.00", "-0.10", "-2.10")]
        what = wide("EURUSD"), wide("buy"), wide("0.30"), long(1_704_715_200_000), long(1_704_715_260_000)
        return int(self.so.CopierSaveTrade(wide(str(path)), wide(account), long(ticket), *what, *texts, long(7), wide(comment)))

    def outcome(self, job: int) -> tuple[int, int]:
        """Wait for a job; return its state and its value."""
        assert job > 0
        for _ in range(20_000):
            state = self.so.CopierJobState(job)
            if state != WAITING:
                return state, self.so.CopierJobValue(job)
            time.sleep(0.001)
        raise AssertionError("the job does not end")

    def body(self, job: int) -> bytes:
        room = ctypes.create_string_buffer(100)
        got = b""
        while count := self.so.CopierJobBody(job, len(got), room, 100):
            got += room.raw[:count]
        return got

    def why(self, handle: int) -> str:
        room = ctypes.create_string_buffer(500)
        count = self.so.CopierWhy(handle, room, 500)
        return room.raw[: max(count, 0)].decode()


@pytest.fixture
def linked() -> Iterator[Library]:
    made = Library(library())
    yield made
    assert made.so.CopierShutdown() == 0


@pytest.fixture
def servers() -> Iterator[Servers]:
    with Servers() as running:
        yield running


# the web


def test_a_web_call_brings_the_status_and_the_whole_body(linked: Library, servers: Servers) -> None:
    body = bytes(range(256)) * 10
    job = linked.http(f"http://127.0.0.1:{servers.serve(web)}/hook", body, headers="X-One: 1\r\nX-Two: 2")
    assert linked.outcome(job) == (DONE, 201)
    assert linked.body(job) == body


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", 200, b"to the end"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", 204, b""),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
            200,
            b"four0123456789",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 404 No\r\ncontent-length:  2\r\n\r\nno", 404, b"no"),
    ],
)
def test_every_way_to_end_a_body_is_read(linked: Library, servers: Servers, answer: bytes, status: int, body: bytes) -> None:
    job = linked.http(f"http://127.0.0.1:{servers.serve(says(answer))}")
    assert linked.outcome(job) == (DONE, status)
    assert linked.body(job) == body


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\xff\r\n\r\n", b"HTTP/1.1 xyz\r\n\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabcd",
        b"x" * 70_000,
    ],
)  # fmt: skip
def test_what_is_no_answer_of_the_web_is_one_clear_error(linked: Library, servers: Servers, answer: bytes) -> None:
    job = linked.http(f"http://127.0.0.1:{servers.serve(says(answer))}/")
    assert linked.outcome(job) == (NOT_UNDERSTOOD, NOT_UNDERSTOOD)
    assert linked.why(job).startswith("HTTP: ")


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfour"])
def test_an_answer_that_is_cut_off_is_never_taken_for_a_whole_one(linked: Library, servers: Servers, answer: bytes) -> None:
    job = linked.http(f"http://127.0.0.1:{servers.serve(says(answer))}/")
    assert linked.outcome(job)[0] == CLOSED
    assert linked.body(job) == b""


def test_a_call_that_nobody_answers_ends_in_time(linked: Library, servers: Servers) -> None:
    assert linked.outcome(linked.http(f"http://127.0.0.1:{servers.serve(deaf)}/", timeout_ms=200))[0] == TIMED_OUT
    assert linked.outcome(linked.http("http://127.0.0.1:1/"))[0] == NOT_CONNECTED


@pytest.mark.parametrize(
    "url", ["", "ftp://x", "http://", "http://u@x/", "http://x:99999/", "http://x:/", "http://x /", "http://\u20ac/"]
)
def test_no_address_is_refused_at_once(linked: Library, url: str) -> None:
    assert linked.http(url) == BAD_ARGUMENT


# Redis


def test_a_message_is_heard_on_a_real_redis(linked: Library, needs_redis: RedisServer) -> None:
    with redis_client.Redis(port=needs_redis.port) as client, client.pubsub() as heard:
        heard.subscribe("trades")
        assert heard.get_message(timeout=5)
        for number in range(3):
            message = b'{"lots":0.3}\r\n$%d' % number
            assert linked.outcome(linked.publish(needs_redis.port, message)) == (DONE, 1)
            got = heard.get_message(timeout=5)
            assert got is not None
            assert got["data"] == message
        assert client.info("stats")["total_connections_received"] == 3, "the library keeps one connection"
        assert linked.outcome(linked.publish(needs_redis.port, b"x", "no such password"))[0] == REFUSED


def test_a_redis_that_was_restarted_is_dialled_again(linked: Library, needs_redis: RedisServer) -> None:
    assert linked.outcome(linked.publish(needs_redis.port, b"x")) == (DONE, 0)
    needs_redis.kill()
    assert linked.outcome(linked.publish(needs_redis.port, b"x"))[0] == NOT_CONNECTED
    needs_redis.start()
    assert linked.outcome(linked.publish(needs_redis.port, b"x")) == (DONE, 0)


@pytest.mark.parametrize(
    "answer",
    [
        b"hello\r\n",
        b"+OK\r\n",
        b":x\r\n",
        b":\r\n",
        b"$-2\r\n",
        b"$99999999\r\n",
        b"$1\r\nxyz",
        b"*99999\r\n",
        b"*1\r\n" * 9,
        b"\r\n",
    ],
)
def test_what_is_no_answer_of_redis_is_one_clear_error(linked: Library, servers: Servers, answer: bytes) -> None:
    job = linked.publish(servers.serve(says(answer)), b"x")
    assert linked.outcome(job) == (NOT_UNDERSTOOD, NOT_UNDERSTOOD)
    assert linked.why(job).startswith("Redis: ")


def test_a_redis_that_ends_in_the_middle_is_one_clear_error(linked: Library, servers: Servers) -> None:
    assert linked.outcome(linked.publish(servers.serve(says(b":1")), b"x"))[0] == CLOSED
    assert linked.outcome(linked.publish(servers.serve(cut), b"x"))[0] == NOT_UNDERSTOOD


# rows


def test_a_closed_trade_becomes_one_row_however_often_it_is_written(linked: Library, tmp_path: Path) -> None:
    path = tmp_path / "trades.db"
    large = 2**62 + 1
    assert linked.outcome(linked.save(path, large, 'Gr\u00f6\u00dfe "\u20ac" \U0001f600')) == (DONE, 1)
    assert linked.outcome(linked.save(path, large, "again")) == (DONE, 0)
    assert linked.outcome(linked.save(path, large, account="5002@Broker-Demo")) == (DONE, 1)
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT * FROM closed_trades ORDER BY account").fetchall()
    database.close()
    assert rows[0] == (
        "5001@Broker-Demo", large, "EURUSD", "buy", "0.30", 1_704_715_200_000, 1_704_715_260_000,
        "1.10000", "1.10500", "150.00", "-0.10", "-2.10", 7, 'Gr\u00f6\u00dfe "\u20ac" \U0001f600',
    )  # fmt: skip
    assert len(rows) == 2


def test_half_a_character_is_replaced_and_not_passed_on(linked: Library, tmp_path: Path) -> None:
    assert linked.outcome(linked.save(tmp_path / "trades.db", 1, "a\ud83db\ude00")) == (DONE, 1)
    with sqlite3.connect(tmp_path / "trades.db") as database:
        assert database.execute("SELECT comment FROM closed_trades").fetchone() == ("a\ufffdb\ufffd",)
    database.close()


def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(linked: Library, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to be looked at " * 100, encoding="ascii")
    before = path.read_bytes()
    assert linked.outcome(linked.save(path, 1))[0] == DATABASE
    assert linked.outcome(linked.save(tmp_path, 1))[0] == DATABASE
    assert path.read_bytes() == before


# links


def test_a_link_nobody_asks_about_ends_by_itself(servers: Servers) -> None:
    ended = threading.Event()

    def act(connection: socket.socket) -> None:
        connection.sendall(b"x")
        connection.recv(1)
        ended.set()

    so = ctypes.CDLL(str(library("-O2 -DCOPIER_ABANDONED_MS=300")))
    link = so.CopierTcpOpen(wide("127.0.0.1"), servers.serve(act), 0, 10_000)
    room = ctypes.create_string_buffer(10)
    while so.CopierLinkReceive(link, room, 10) == WAITING:
        time.sleep(0.001)
    assert ended.wait(20)
    while so.CopierLinkState(link) == DONE:
        time.sleep(0.001)
    assert so.CopierLinkState(link) == ABANDONED
    assert so.CopierShutdown() == 0


# all together


def test_jobs_are_bounded_and_a_forgotten_one_makes_room(linked: Library, servers: Servers) -> None:
    port = servers.serve(deaf)
    waiting = [linked.publish(port, b"x", timeout_ms=100_000) for _ in range(256)]
    assert linked.publish(port, b"x") == TOO_MANY
    assert linked.so.CopierJobForget(waiting[100]) == DONE
    assert linked.publish(port, b"x") > 0


def test_finished_jobs_nobody_forgets_make_room_by_themselves(linked: Library, tmp_path: Path) -> None:
    first = linked.http("http://127.0.0.1:1/")
    assert linked.outcome(first)[0] == NOT_CONNECTED
    for _ in range(300):
        assert linked.outcome(linked.http("http://127.0.0.1:1/"))[0] == NOT_CONNECTED
    assert linked.so.CopierJobState(first) == -2


def test_many_threads_may_use_it_at_once(linked: Library, servers: Servers) -> None:
    port = servers.serve(web)
    wrong: list[object] = []

    def call(number: int) -> None:
        body = b"%d" % number * 100
        job = linked.http(f"http://127.0.0.1:{port}/{number}", body)
        if linked.outcome(job) != (DONE, 201) or linked.body(job) != body:
            wrong.append((number, linked.why(job)))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
