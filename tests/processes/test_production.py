"""The production shape of docker-compose.yml, run as plain processes with its own configuration: TLS, users, two workers."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import yaml

from copier import settings
from copier.app import ledger_file
from tests.conftest import ROOT, absent, free_port
from tests.test_docs import misused

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
PRODUCTION = ROOT / "config" / "production"
PLAIN = yaml.safe_load((PRODUCTION / "copier.yaml").read_text(encoding="utf-8"))
INSIDE = "/etc/mt-copier/"
ENGINE = ("watcher", "worker-one", "worker-two")
USERS = {"watcher": "watcher-gold", "worker-one": "worker-one", "worker-two": "worker-two"}
FOLLOWERS = ("anna", "bert", "cora", "dirk")
ACCOUNTS = {"gold": "5001@Broker-Live"} | {name: f"600{n}@Client-Live" for n, name in enumerate(FOLLOWERS, 1)}
WAIT_S = 60


def make_secrets(folder: Path, **places: str) -> None:
    if shutil.which("openssl") is None:
        absent("openssl is not installed")
    command = ["sh", str(PRODUCTION / "make-secrets.sh"), str(folder), *ACCOUNTS]
    subprocess.run(
        command,
        check=True,
        env={**os.environ, "OWNERS": "me", "MT_COPIER": f"{sys.executable} -m copier.cli", "PYTHONPATH": str(ROOT), **places},
        capture_output=True,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with every secret, made as an operator makes it."""
    folder = tmp_path_factory.mktemp("made") / "secrets"
    make_secrets(folder)
    return folder


def secrets_of(service: str) -> dict[str, str]:
    """Return where a service's secrets lie: by its path inside the container, the path in the secrets' folder."""
    given = {each["source"]: each["target"] for each in COMPOSE["services"][service]["secrets"]}
    return {target: COMPOSE["secrets"][source]["file"].removeprefix("./secrets/") for source, target in given.items()}


def lay_out(service: str, folder: Path, made: Path) -> Path:
    """Make what a container of the engine sees under its working directory."""
    home = folder / service
    home.mkdir()
    shutil.copy(PRODUCTION / "copier.yaml", home)
    (home / "secrets").mkdir()
    shutil.copytree(made / "accounts", home / "secrets" / "accounts")
    for target, source in secrets_of(service).items():
        shutil.copy(made / source, home / target.removeprefix(INSIDE))
    return home


# What is written ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ENGINE)
def test_every_role_reads_its_settings_with_nothing_but_what_its_container_has(service: str, tmp_path: Path, made: Path) -> None:
    home = lay_out(service, tmp_path, made)
    loaded = settings.load(home / "copier.yaml", {})
    assert urlsplit(loaded.redis.get_secret_value()).username == USERS[service]
    assert set(loaded.followers) == set(FOLLOWERS)
    assert loaded.metrics is not None
    assert loaded.stream.secret is not None


@pytest.mark.parametrize("service", ENGINE)
def test_no_role_writes_beside_its_settings_where_its_container_cannot_be_written_to(
    service: str, tmp_path: Path, made: Path
) -> None:
    loaded = settings.load(lay_out(service, tmp_path, made) / "copier.yaml", {})
    assert ledger_file(loaded) is None
    assert loaded.log.file is None
    assert not loaded.signals


@pytest.mark.parametrize("service", ENGINE)
def test_every_file_that_the_settings_name_is_in_the_container(service: str, tmp_path: Path, made: Path) -> None:
    home = lay_out(service, tmp_path, made)
    named = set(re.findall(r": (secrets/[\w./]+)", (home / "copier.yaml").read_text(encoding="utf-8")))
    assert named
    named |= set(re.findall(r"ssl_ca_certs=([\w./]+)", (home / "secrets" / "redis_url").read_text()))
    assert sorted(name for name in named if not (home / name).is_file()) == []


@pytest.mark.parametrize("service", ENGINE)
def test_the_command_of_a_role_is_one_that_the_command_line_takes(service: str) -> None:
    assert misused(COMPOSE["services"][service]["command"]) == ""
    if service == "watcher":
        assert COMPOSE["services"][service]["command"][2] in PLAIN["masters"]


def test_each_secret_belongs_to_the_user_that_reads_it() -> None:
    script = (PRODUCTION / "make-secrets.sh").read_text(encoding="utf-8")
    owners = {path: user for user, paths in re.findall(r"chown -R (\d+:\d+) (.+)", script) for path in paths.split()}
    for name in (*ENGINE, "redis", "postgres"):
        user = COMPOSE["services"][name]["user"]
        read = [path for path in secrets_of(name).values() if path != "ca.crt"]  # Nobody's secret: everybody may read it.
        assert [path for path in read if owners.get(path, owners.get(path.split("/")[0])) != user] == [], name


def test_the_gate_leads_to_where_the_roles_listen() -> None:
    gate = (PRODUCTION / "haproxy.cfg").read_text(encoding="utf-8")
    led = set(re.findall(r"^  server \w+ ([\w-]+):(\d+)", gate, re.MULTILINE))
    ports = {account["port"] for account in PLAIN["accounts"].values()}
    assert led == {(service, str(port)) for service in ENGINE for port in ports}
    opened = {f"{port}:{port}" for port in re.findall(r"^  bind :(\d+)", gate, re.MULTILINE)}
    assert {port.partition("}:")[2] for port in COMPOSE["services"]["gate"]["ports"]} == opened


def test_the_check_of_a_role_asks_where_it_answers() -> None:
    check = COMPOSE["services"]["watcher"]["healthcheck"]["test"][-1]
    assert f"http://127.0.0.1:{PLAIN['metrics']['port']}/health" in check
    compile(check, "healthcheck", "exec")


def test_the_database_counts_as_ready_when_it_answers_where_the_roles_ask() -> None:
    """While it is being made for the first time, a server that ends again answers on the socket."""
    assert "-h" in COMPOSE["services"]["postgres"]["healthcheck"]["test"]


def test_the_certificate_names_what_terminals_dial_and_each_worker_gets_a_user(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    make_secrets(folder, ENGINE_HOST="10.1.2.3", REDIS_HOST="redis.lan", WORKERS="one two three")
    for path, expected in (("engine.crt", "IP Address:10.1.2.3,"), ("redis/redis.crt", "DNS:redis.lan,")):
        show = ["openssl", "x509", "-in", str(folder / path), "-noout", "-ext", "subjectAltName"]
        assert expected in subprocess.run(show, capture_output=True, text=True, check=True).stdout
    workers = {path.stem for path in (folder / "redis-users").glob("worker-*.url")}
    assert workers == {"worker-one", "worker-two", "worker-three"}


def test_no_secret_stands_in_what_is_shown_of_the_settings(tmp_path: Path, made: Path) -> None:
    home = lay_out("watcher", tmp_path, made)
    shown = repr(settings.load(home / "copier.yaml", {})) + json.dumps(settings.redacted(settings.load(home / "copier.yaml", {})))
    files = [path for path in made.rglob("*") if path.is_file() and not path.suffix and path.name != "ledger_url"]
    values = [path.read_text() for path in files] + [str(urlsplit((made / "ledger_url").read_text()).password)]
    assert len(values) > 5
    assert [secret for secret in values if secret in shown] == []


@pytest.mark.parametrize("name", sorted(COMPOSE["services"]))
def test_every_container_is_closed(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    if "production" in service["profiles"]:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
        assert service.get("user", "").split(":")[0] != "0"


def test_only_the_gate_is_to_be_reached_from_outside_and_only_here_unless_told_otherwise() -> None:
    published = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert set(published) == {"gate"}
    assert all(port.startswith("${COMPOSE_ADDRESS:-127.0.0.1}:".replace("COMPOSE", "COPIER")) for port in published["gate"])
    assert COMPOSE["networks"]["stores"]["internal"] is True
    for store in ("redis", "postgres"):
        assert COMPOSE["services"][store]["networks"] == ["stores"]


def test_each_role_has_its_own_user_and_no_secret_of_another() -> None:
    users = [each["source"] for name in ENGINE for each in COMPOSE["services"][name]["secrets"] if "redis" in each["source"]]
    assert users == ["redis_watcher", "redis_one", "redis_two"]
    names = {each["source"] for service in COMPOSE["services"].values() for each in service.get("secrets", ())}
    assert names == set(COMPOSE["secrets"])


def test_the_image_is_built_in_stages_from_pinned_requirements_and_runs_as_nobody() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("FROM ") for line in lines) == 2
    assert any("--require-hashes" in line for line in lines)
    last = lines[max(n for n, line in enumerate(lines) if line.startswith("FROM ")) :]
    assert "USER 10001" in last


def test_compose_takes_the_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    command = [docker, "compose", "--profile", "production", "--profile", "demo", "config", "--quiet"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# What runs -------------------------------------------------------------------------------------------------------------


class Production:
    """Redis, watcher, workers and terminals, each a process, with the files and commands of docker-compose.yml."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder = folder
        self.made = folder / "made"
        self.redis_port = free_port()
        self.ports = {service: free_port() for service in ENGINE}
        self.metrics = {service: free_port() for service in ENGINE}
        self.processes: dict[str, subprocess.Popen[Any]] = {}
        where = urlsplit(database)
        make_secrets(
            self.made,
            REDIS_HOST="localhost",
            REDIS_PORT=str(self.redis_port),
            POSTGRES_HOST=str(where.hostname),
            POSTGRES_PORT=str(where.port),
            POSTGRES_DB=where.path.removeprefix("/"),
        )
        self.token = (self.made / "metrics_token").read_text()

    def start_redis(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            absent("redis-server is not installed")
        data = self.folder / "redis-data"
        data.mkdir(exist_ok=True)
        given = {target.removeprefix("/run/secrets/"): str(self.made / path) for target, path in secrets_of("redis").items()}
        places = {
            "tls-port": str(self.redis_port), "bind": "127.0.0.1", "dir": str(data), "aclfile": given["users.acl"],
            "tls-cert-file": given["redis.crt"], "tls-key-file": given["redis.key"], "tls-ca-cert-file": given["ca.crt"],
        }  # fmt: skip
        options = [word for name, value in places.items() for word in (f"--{name}", value)]
        self._start("redis", [program, str(PRODUCTION / "redis.conf"), *options], {})
        eventually(lambda: self.redis("reader").ping(), "Redis answers")

    def redis(self, user: str) -> "redis.Redis":
        folder = "redis" if user == "reader" else "redis-users"
        password = urlsplit((self.made / folder / f"{user}.url").read_text()).password
        authority = str(self.made / "ca.crt")
        return redis.Redis(
            host="localhost", port=self.redis_port, username=user, password=password, ssl=True, ssl_ca_certs=authority
        )

    def start(self, service: str) -> None:
        home = self.folder / service
        if not home.exists():
            lay_out(service, self.folder, self.made)
        places = {"MT_COPIER__METRICS__HOST": "127.0.0.1", "MT_COPIER__METRICS__PORT": str(self.metrics[service])}
        for name in ACCOUNTS:
            places[f"MT_COPIER__ACCOUNTS__{name.upper()}__HOST"] = "127.0.0.1"
            places[f"MT_COPIER__ACCOUNTS__{name.upper()}__PORT"] = str(self.ports[service])
        self._start(service, [sys.executable, "-m", "copier.cli", *COMPOSE["services"][service]["command"]], places, home)

    def start_terminals(self) -> None:
        workers = [self.ports["worker-one"], self.ports["worker-two"]]
        places = {
            name: {
                "account": account,
                "secret": (self.made / "accounts" / name).read_text(),
                "ports": [self.ports["watcher"]] if name == "gold" else workers,
            }
            for name, account in ACCOUNTS.items()
        }
        told = json.dumps({"ca": str(self.made / "ca.crt"), "terminals": places})
        self._start("terminals", [sys.executable, "-m", "tests.processes.terminals", told], {}, piped=True)

    def _start(self, name: str, command: list[str], env: dict[str, str], home: Path = ROOT, *, piped: bool = False) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else log,
                stderr=log,
                cwd=home,
                env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            )

    def ask(self, line: str) -> dict[str, Any]:
        terminals = self.processes["terminals"]
        assert terminals.stdin is not None
        assert terminals.stdout is not None
        terminals.stdin.write(line.encode() + b"\n")
        terminals.stdin.flush()
        answer: dict[str, Any] = json.loads(terminals.stdout.readline())
        return answer

    def get(self, service: str, path: str, token: str | None = None) -> tuple[int, str]:
        token = self.token if token is None else token
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.metrics[service]}{path}", headers={"Authorization": f"Bearer {token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def followed_by(self, service: str) -> set[str]:
        """Return whom a worker follows with just now, by its own metrics."""
        lines = self.get(service, "/metrics")[1].splitlines()
        connected = [line for line in lines if line.startswith("copier_follower_connected{") and line.endswith(" 1.0")]
        return {line.split('"')[1] for line in connected}

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes.pop(name).communicate()

    def stop(self) -> None:
        for name in list(self.processes):
            self.kill(name)

    def log(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-1500:]}" for path in sorted(self.folder.glob("*.log")))


def eventually(what: Callable[[], object], why: str, tell: Callable[[], str] = str) -> None:
    ends = time.monotonic() + WAIT_S
    while time.monotonic() < ends:
        with contextlib.suppress(redis.RedisError):
            if what():
                return
        time.sleep(0.2)
    pytest.fail(f"{why}: not after {WAIT_S} s\n{tell()}")


@pytest.fixture
def production(tmp_path: Path, needs_postgres: str) -> Iterator[Production]:
    running = Production(tmp_path, needs_postgres)
    try:
        running.start_redis()
        running.start_terminals()
        for service in ENGINE:
            running.start(service)
        yield running
    finally:
        running.stop()


def level(report: dict[str, Any]) -> bool:
    """Say whether every follower holds what the master holds; sizes go by equity and differ a little."""
    held = {name: [position[:2] for position in each["positions"]] for name, each in report.items()}
    return all(held[name] == held["gold"] for name in FOLLOWERS)


def shared(production: Production) -> bool:
    one, two = production.followed_by("worker-one"), production.followed_by("worker-two")
    return len(one) == len(two) == 2 and one | two == set(FOLLOWERS)


@pytest.mark.timeout(240)
def test_the_production_shape_copies_and_a_killed_workers_followers_move_to_the_other(production: Production) -> None:
    for service in ENGINE:
        eventually(lambda: production.get(service, "/ready")[0] == 200, f"{service} is ready", production.log)  # noqa: B023
    eventually(lambda: shared(production), "the workers share the followers", production.log)

    production.ask("trade 1 4")
    eventually(lambda: level(production.ask("report")), "all followers hold what the master holds", production.log)
    assert production.get("watcher", "/metrics", token="")[0] == 401
    assert production.get("watcher", "/health", token="")[0] == 200

    production.kill("worker-one")
    production.ask("trade 2 4")
    eventually(lambda: production.followed_by("worker-two") == set(FOLLOWERS), "worker two has them all", production.log)
    eventually(lambda: level(production.ask("report")), "all followers are level again", production.log)
    report = production.ask("report")
    for name in FOLLOWERS:
        tags = report[name]["openings"]
        assert len(set(tags)) == len(tags), name
    assert all("Traceback" not in path.read_text() for path in production.folder.glob("w*.log")), production.log()

    production.start("worker-one")
    eventually(lambda: production.followed_by("worker-one"), "worker one has followers again", production.log)
    eventually(lambda: level(production.ask("report")), "and nothing has changed by it", production.log)


@pytest.mark.timeout(120)
def test_redis_keeps_each_role_to_what_it_does_and_everything_on_disk(production: Production) -> None:
    eventually(lambda: production.get("watcher", "/ready")[0] == 200, "the watcher is ready", production.log)
    users = [production.redis(name) for name in ("worker-one", "watcher-gold", "reader")]
    with users[0] as worker, users[1] as watcher, users[2] as reader:
        assert reader.xrevrange("copier:events:gold", count=1)
        for forbidden in (
            lambda: worker.xadd("copier:events:gold", {"e": "forged"}),
            lambda: worker.delete("copier:events:gold"),
            lambda: watcher.xadd("other", {"a": "b"}),
            lambda: watcher.flushall(),
            lambda: reader.xadd("copier:events:gold", {"e": "forged"}),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                forbidden()
    stranger = redis.Redis(host="localhost", port=production.redis_port, ssl=True, ssl_ca_certs=str(production.made / "ca.crt"))
    with stranger, pytest.raises(redis.exceptions.AuthenticationError):
        stranger.ping()
    with redis.Redis(host="localhost", port=production.redis_port) as plain, pytest.raises(redis.exceptions.ConnectionError):
        plain.ping()
    production.kill("redis")
    production.start_redis()
    with production.redis("worker-two") as worker:
        assert worker.xrevrange("copier:events:gold", count=1)
