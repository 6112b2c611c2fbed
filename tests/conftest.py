"""What tests of many modules need: real servers of their own, and real data."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
SERVERS = {"needs_redis", "needs_postgres"}
"""Fixtures that start a server: whatever asks for one is a server test, and no part of the default run."""


SAMPLED = {
    "test_a_stop_the_broker_refuses_is_an_alert_until_it_is_set": 3,
    "test_the_answer_set_asks_for_the_stop_again_without_waiting_out_the_pauses": 3,
    "test_the_answer_close_closes_a_copy_without_any_stop_and_leaves_the_others": 3,
    "test_flatten_closes_the_copies_of_a_master_that_stays_silent_and_never_opens_them_again": 3,
    "test_a_close_that_is_refused_for_long_is_drift": 3,
    "test_an_order_without_an_answer_is_an_alert_until_it_is_settled": 3,
    "test_any_report_makes_a_page": 4,
    "test_a_role_killed_anywhere_leaves_everything_on_target": 3,
    "test_the_picture_never_outgrows_the_screen_and_ends_with_what_happened_last": 4,
    "test_a_terminal_that_dies_and_comes_back_empty_and_then_full_closes_nothing": 5,
    "test_an_open_that_is_executed_late_is_never_doubled_and_closes_with_the_master": 5,
    "test_a_copy_closed_by_hand_is_handled_as_the_policy_says": 4,
    "test_a_close_whose_answer_does_not_come_is_done_once": 5,
    "test_a_partial_close_whose_answer_does_not_come_is_done_once": 4,
    "test_failed_reads_at_the_follower_delay_and_lose_nothing": 5,
    "test_a_cut_on_its_way_when_the_worker_dies_is_done_once": 5,
    "test_a_frozen_worker_that_wakes_after_its_successor_began_does_nothing_and_leaves": 4,
}
"""Tests of many cases, of which the default run takes every so-many-eth: the others are slow."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seen: Counter[str] = Counter()
    for item in items:
        name = getattr(item, "originalname", item.name)
        if name in SAMPLED:
            if seen[name] % SAMPLED[name]:
                item.add_marker(pytest.mark.slow)
            seen[name] += 1
        if SERVERS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.server)


# Deadlines -------------------------------------------------------------------------------------------------------------


class Overdue(SystemExit):
    """A test took too long. An event loop swallows everything its callbacks raise but this and an interrupt."""


_running: list[str] = []
"""The test whose own code runs just now: pytest's code around it is not to be interrupted."""


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    if not hasattr(signal, "SIGALRM") or settings.method == "thread":
        return None

    def end(number: int, frame: object) -> None:
        if _running:
            raise Overdue(f"{item.nodeid} took longer than {settings.timeout:g} s")

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout, 5)
    return True


def _interruptible(item: pytest.Item) -> Generator[None, object, object]:
    _running.append(item.nodeid)
    try:
        return (yield)
    finally:
        _running.clear()


pytest_runtest_setup = pytest_runtest_call = pytest.hookimpl(wrapper=True, trylast=True)(_interruptible)


TEARDOWN_S = 5.0
"""A test that has failed has no timer any more, and an event loop interrupted in its own code may wait for ever for its tasks."""


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    alarmed = hasattr(signal, "SIGALRM") and callable(signal.getsignal(signal.SIGALRM))
    if alarmed and signal.getitimer(signal.ITIMER_REAL)[0] == 0:
        signal.setitimer(signal.ITIMER_REAL, TEARDOWN_S, TEARDOWN_S)
    try:
        return (yield from _interruptible(item))
    finally:
        pytest_timeout_cancel_timer(item)


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> None:
    if hasattr(signal, "SIGALRM"):
        signal.setitimer(signal.ITIMER_REAL, 0)


# What is outside the project -------------------------------------------------------------------------------------------


def absent(reason: str) -> NoReturn:
    """Skip the test for want of something outside the project; where everything must be there, fail instead."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"with CI=true nothing is skipped: {reason}")
    pytest.skip(reason)


class RedisServer:
    """A private redis-server on a free port of the loopback; it may be killed and started again, its data kept or not."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self._drain: threading.Thread | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *options: str) -> None:
        """Start it and wait until it takes connections, on the port it had before; options such as `--appendonly yes`."""
        for _ in range(5):
            self.port = self.port or free_port()
            command = [self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""]
            self._process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            assert self._process.stdout is not None
            said = []
            for line in self._process.stdout:
                said.append(line)
                if "Ready to accept connections" in line:
                    self._drain = threading.Thread(target=self._process.stdout.read, daemon=True)
                    self._drain.start()
                    return
            self.kill()
            if not any("in use" in line for line in said):
                pytest.fail("redis-server did not start: " + "".join(said[-5:]))
            self.port = 0
        pytest.fail("redis-server found no free port")

    def kill(self) -> None:
        """End it at once, as kill -9 does."""
        if self._process is None:
            return
        self._process.kill()
        if self._drain is not None:
            self._drain.join()
        self._process.communicate()
        self._process = self._drain = None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def needs_redis(tmp_path: Path) -> Iterator[RedisServer]:
    program = shutil.which("redis-server")
    if program is None:
        absent("redis-server is not installed")
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(program, folder)
    server.start()
    yield server
    server.kill()


class PostgresServer:
    """A private PostgreSQL on a free port of the loopback; every test gets a database of its own in it."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="mt-copier-postgres-"))
        self._process: subprocess.Popen[str] | None = None
        self._drain: threading.Thread | None = None
        self._databases = 0
        self.port = 0

    def start(self) -> None:
        """Make the cluster where there is none yet, start it and wait until it takes connections."""
        data = self._folder / "data"
        if not data.exists():
            if _server_user():
                shutil.chown(self._folder, _server_user())
            command = [self._programs / "initdb", "-D", data, "-U", "copier", "--auth=trust", "--no-sync", "-E", "UTF8"]
            subprocess.run(command, check=True, capture_output=True, user=_server_user(), cwd=self._folder)
        self.port = self.port or free_port()
        options = ("listen_addresses=127.0.0.1", f"port={self.port}", "unix_socket_directories=", "logging_collector=off")
        command = [self._programs / "postgres", "-D", data, *(word for option in options for word in ("-c", option))]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, user=_server_user(), cwd=self._folder
        )
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            said.append(line)
            if "ready to accept connections" in line:
                self._drain = threading.Thread(target=self._process.stdout.read, daemon=True)
                self._drain.start()
                return
        self.kill()
        pytest.fail("postgres did not start: " + "".join(said[-5:]))

    def new_database(self) -> str:
        """Return the URL of a database that nothing has touched yet."""
        self._databases += 1
        name = f"test_{self._databases}"
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "copier"]
        subprocess.run([self._programs / "createdb", *where, name], check=True, capture_output=True)
        return f"postgresql+psycopg://copier@127.0.0.1:{self.port}/{name}"

    def kill(self) -> None:
        """End it at once and without a checkpoint, as a power cut does."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGQUIT)
        if self._drain is not None:
            self._drain.join()
        self._process.communicate()
        self._process = self._drain = None

    def remove(self) -> None:
        """End it and delete all that it wrote."""
        self.kill()
        shutil.rmtree(self._folder)


def _server_user() -> str | None:
    """Name whom PostgreSQL runs as: it refuses to be root."""
    return "postgres" if hasattr(os, "geteuid") and os.geteuid() == 0 else None


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not places or os.name != "posix":
        absent("PostgreSQL is not installed")
    server = PostgresServer(places[-1])
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def needs_postgres(postgres_server: PostgresServer) -> str:
    """Return the URL of an empty database on a private PostgreSQL."""
    return postgres_server.new_database()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real exports and ticks beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        absent(f"no real data at {folder}")
    return folder
