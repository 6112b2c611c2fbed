"""The engine as it is shipped, spread over processes that can be killed, frozen and started again, over real servers."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT

HERE = Path(__file__).parent
LEASE_S = 6


class Broker:
    """The process that holds every account."""

    def __init__(self, followers: int) -> None:
        self.followers = followers
        self._process = _python([str(HERE / "broker.py"), str(followers)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.port = 0

    async def start(self) -> None:
        self.port = (await self._hear())["port"]

    async def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def tell(self, line: str) -> None:
        """Say something that has no answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    async def ask(self, line: str) -> dict[str, Any]:
        self.tell(line)
        return await self._hear()

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


class Engine:
    """A watcher and workers, by name."""

    def __init__(self, folder: Path, broker: Broker, redis: str, ledger: str) -> None:
        self.folder = folder
        self.kills = 0
        self.lost: set[str] = set()
        """Who is not started again for now."""
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._config = folder / "copier.yaml"
        self._config.touch(0o600)
        self._config.write_text(yaml.safe_dump(_settings(folder, broker, redis, ledger)))

    def start(self, name: str) -> None:
        """Start the watcher, or the worker of this name."""
        role = ["watch", str(self._config), "m"] if name == "watch" else ["follow", str(self._config), "--name", name]
        with (self.folder / f"{name}.log").open("ab") as log:
            command = [str(HERE / "process.py"), str(self.folder / f"{name}.clock"), *role]
            self.processes[name] = _python(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder)

    def kill(self, name: str) -> None:
        process = self.processes[name]
        process.kill()
        process.wait()
        self.kills += 1

    def freeze(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGCONT)

    async def end(self, name: str) -> int:
        """Ask a process to end, and return its exit code."""
        self.processes[name].terminate()
        return await asyncio.to_thread(self.processes[name].wait, 60)

    def move_clock(self, name: str, by_ms: int) -> None:
        (self.folder / f"{name}.clock").write_text(str(by_ms))

    def supervise(self) -> None:
        """Start again who has ended, as a service manager does."""
        for name, process in self.processes.items():
            if process.poll() is not None and name not in self.lost:
                self.start(name)

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-600:]

    def stop(self) -> None:
        for process in self.processes.values():
            with contextlib.suppress(OSError):
                process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


def _python(arguments: list[str], **more: Any) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    more.setdefault("cwd", ROOT)
    return subprocess.Popen([sys.executable, *arguments], env=environment, **more)


def _settings(folder: Path, broker: Broker, redis: str, ledger: str) -> dict[str, Any]:
    def account(login: int, server: str) -> dict[str, Any]:
        return {
            "kind": "mt5-manager",
            "login": login,
            "server": server,
            "address": f"127.0.0.1:{broker.port}",
            "manager": 1,
            "password": "not a secret",
            "folder": str(folder / "manager"),
            "python": [sys.executable, "-S", "-E", str(HERE / "relay.py"), str(broker.port)],
            "settle_s": 1,
            "call_timeout_s": 5,
            "tags_survive": True,
        }

    servers = ("hedging", "netting", "mt4")
    logins = {f"f{101 + number}": (101 + number, servers[number % 3]) for number in range(broker.followers)}
    copy = {
        "master": "m",
        "copy": {"stops": "copy", "existing": "copy_all", "unknown": "resend"},
        "protection": {"open_age_max_s": 900, "orders_per_s": 50},
    }
    return {
        "redis": redis,
        "ledger": ledger,
        "accounts": {"m": account(1, "Master"), **{name: account(*where) for name, where in logins.items()}},
        "masters": {"m": {"account": "m", "poll_ms": 100, "snapshot_s": 1}},
        "followers": {name: {"account": name, "copies": [copy]} for name in logins},
        "schedule": {"reconcile_s": 10},
        "worker": {"lease_s": LEASE_S},
    }
