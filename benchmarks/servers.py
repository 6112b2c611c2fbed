"""Servers a measurement needs, started on a free port of the loopback and ended with it."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

NO_REDIS = "redis-server is not installed"
NO_POSTGRES = "PostgreSQL is not installed"


@contextlib.contextmanager
def redis_server(*options: str) -> Iterator[str]:
    """Yield the URL of a redis-server that writes every command to disk as its defaults for AOF say, or an empty string."""
    program = shutil.which("redis-server")
    if program is None:
        yield ""
        return
    with tempfile.TemporaryDirectory(prefix="mt-copier-redis-") as folder:
        port = _free_port()
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            _wait_for("Ready to accept connections", process)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.communicate()


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """Yield the URL of an empty database on a PostgreSQL with its default durability, or an empty string."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not places or os.name != "posix":
        yield ""
        return
    programs, user = places[-1], "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="mt-copier-postgres-"))
    process: subprocess.Popen[str] | None = None
    try:
        if user:
            shutil.chown(folder, user)
        data, port = folder / "data", _free_port()
        init: list[str | Path] = [programs / "initdb", "-D", data, "-U", "copier", "--auth=trust", "-E", "UTF8"]
        subprocess.run(init, check=True, capture_output=True, user=user, cwd=folder)
        settings = ("listen_addresses=127.0.0.1", f"port={port}", "unix_socket_directories=", "logging_collector=off")
        command: list[str | Path] = [
            programs / "postgres",
            "-D",
            data,
            *(word for setting in settings for word in ("-c", setting)),
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, user=user, cwd=folder)
        _wait_for("ready to accept connections", process)
        where = ["-h", "127.0.0.1", "-p", str(port), "-U", "copier"]
        subprocess.run([programs / "createdb", *where, "copier"], check=True, capture_output=True)
        yield f"postgresql+psycopg://copier@127.0.0.1:{port}/copier"
    finally:
        if process is not None:
            process.terminate()
            process.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(words: str, process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if words in line:
            return
    raise RuntimeError("the server did not start: " + "".join(said[-5:]))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
