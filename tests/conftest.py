"""What tests of many modules need: real servers of their own, and real data."""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
SERVERS = {"needs_redis"}
"""Fixtures that start a server: whatever asks for one is a server test, and no part of the default run."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SERVERS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.server)


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
            self.port = self.port or _free_port()
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


def _free_port() -> int:
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


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real exports and ticks beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        absent(f"no real data at {folder}")
    return folder
