"""What monitoring is told: numbers that are true, readiness with its reasons, and nothing for strangers."""

import asyncio
import json
import re
import shutil
import ssl
import subprocess
import sys
import tomllib
from collections.abc import Awaitable, Callable
from decimal import Decimal
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from copier.app import App
from copier.clock import LoopClock, SystemClock, run_virtual
from copier.endpoint import answering, face
from copier.errors import SettingsError, StoreError
from copier.gateways.paper import PaperGateway
from copier.gateways.paper_faults import Operation, never_answered
from copier.metrics import COUNTERS, GAUGES, HISTOGRAMS, Metrics, names, written
from copier.readiness import Readiness, readiness
from copier.settings import MetricsSettings, Settings, parse
from tests.conftest import absent, free_port

D = Decimal
ROOT = Path(__file__).resolve().parent.parent
EPOCH_MS = 1_767_600_000_000
TOKEN = "a-token-of-some-length"
WORLD = """
ledger: "sqlite://"
accounts:
  m: {kind: paper, login: 1, server: A, balance: 50000}
  f: {kind: paper, login: 2, server: B, balance: 50000}
masters:
  m: {account: m}
followers:
  f: {account: f, copies: [{master: m, symbols: {deny: [XAUUSD]}}]}
"""
ON = f"\nmetrics: {{port: 9464, token: {TOKEN}}}\n"


def world(more: str = "") -> Settings:
    return parse(WORLD + more)


def live(tell: Callable[[App, Metrics], Awaitable[Any]]) -> None:
    async def main() -> None:
        async with App(world(), LoopClock(EPOCH_MS)) as app:
            metrics = Metrics(app)
            app.listeners.append(metrics.hear)
            task = asyncio.create_task(app.run())
            await asyncio.sleep(3)
            await tell(app, metrics)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run_virtual(main())


def values(metrics: Metrics) -> dict[str, float]:
    """Return every sample by its name with labels."""
    lines = written(metrics.seen()).decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


# Numbers ---------------------------------------------------------------------------------------------------------------


def test_a_copy_and_a_refusal_are_counted_with_their_hops() -> None:
    async def tell(app: App, metrics: Metrics) -> None:
        app.paper.servers["A"].buy(1, "EURUSD", "0.30")
        app.paper.servers["A"].buy(1, "XAUUSD", "0.10")
        await asyncio.sleep(2)
        await metrics.fold()
        found = values(metrics)
        assert found['copier_outcomes_total{event="open",verdict="copied"}'] == 1
        assert found['copier_refusals_total{code="symbol_denied"}'] == 1
        assert found['copier_hop_seconds_count{hop="read to answered"}'] == 1
        assert found['copier_hop_seconds_bucket{hop="sent to answered",le="+Inf"}'] == 1
        assert found['copier_master_open_positions{master="m"}'] == 2
        assert found['copier_follower_open_links{follower="f"}'] == 1
        assert found['copier_follower_connected{follower="f"}'] == 1
        assert found["copier_ledger_commit_seconds_count"] > 0
        assert found['copier_account_balance{account="f",currency="USD"}'] == 50000

    live(tell)


def test_a_role_is_shown_with_its_owner_and_token() -> None:
    async def tell(app: App, metrics: Metrics) -> None:
        roles = {name for name in values(metrics) if name.startswith("copier_role_token")}
        assert {re.search('role="([^"]+)"', name)[1] for name in roles} == {"watcher:m", "worker:main", "follower:f"}  # type: ignore[index]

    live(tell)


def test_a_position_that_is_paused_by_hand_shows_as_held() -> None:
    async def tell(app: App, metrics: Metrics) -> None:
        assert values(metrics)['copier_follower_held{follower="f"}'] == 0
        await app.ledgers[-1].set_control("f", "close_only", "test")
        await asyncio.sleep(2)
        assert values(metrics)['copier_follower_held{follower="f"}'] == 1

    live(tell)


def test_an_order_without_an_answer_shows_as_unknown() -> None:
    async def tell(app: App, metrics: Metrics) -> None:
        gateway = app.gateways["f"]
        assert isinstance(gateway, PaperGateway)
        gateway.faults.next(Operation.EXECUTE, never_answered(executed=False))
        app.paper.servers["A"].buy(1, "EURUSD", "0.30")
        unknown = []
        for _ in range(60):
            await asyncio.sleep(0.5)
            unknown.append(values(metrics)['copier_follower_unknown_orders{follower="f"}'])
        assert max(unknown) == 1
        assert unknown[-1] == 0
        await metrics.fold()
        assert values(metrics)['copier_alerts_total{code="order_lost"}'] == 1

    live(tell)


def test_what_waits_for_a_follower_shows_as_drift_and_its_lag_grows() -> None:
    async def tell(app: App, metrics: Metrics) -> None:
        assert values(metrics)['copier_follower_lag_seconds{follower="f"}'] == 0
        ticket = app.paper.servers["A"].buy(1, "EURUSD", "0.30").position
        await asyncio.sleep(1)
        gateway = app.gateways["f"]
        assert isinstance(gateway, PaperGateway)
        gateway.faults.offline = True
        app.paper.servers["A"].close(1, ticket)
        await asyncio.sleep(10)
        found = values(metrics)
        assert found['copier_follower_drift_links{follower="f"}'] == 1
        assert 8 < found['copier_follower_lag_seconds{follower="f"}'] <= 10
        gateway.faults.offline = False
        await asyncio.sleep(10)
        found = values(metrics)
        assert found['copier_follower_drift_links{follower="f"}'] == 0
        assert found['copier_follower_lag_seconds{follower="f"}'] == 0

    live(tell)


def test_every_name_of_ours_stands_in_the_list_of_names() -> None:
    async def tell(app: App, metrics: Metrics) -> None:
        app.paper.servers["A"].buy(1, "EURUSD", "0.30")
        await asyncio.sleep(2)
        await metrics.fold()
        shown = {re.split(r"[{ ]", name)[0] for name in values(metrics)}
        assert {name for name in shown if not name.endswith("_created")} <= names()

    live(tell)


def named_by_alerts_and_dashboard() -> set[str]:
    expressions = [rule["expr"] for rule in alert_rules()] + dashboard_expressions()
    return {name for expression in expressions for name in re.findall(r"copier_\w+", expression)}


def test_an_engine_that_has_copied_refused_and_lost_an_order_shows_all_that_alerts_and_dashboard_ask_for() -> None:
    async def tell(app: App, metrics: Metrics) -> None:
        gateway = app.gateways["f"]
        assert isinstance(gateway, PaperGateway)
        gateway.faults.next(Operation.EXECUTE, never_answered(executed=False))
        app.paper.servers["A"].buy(1, "EURUSD", "0.30")
        app.paper.servers["A"].buy(1, "XAUUSD", "0.10")
        await asyncio.sleep(30)
        await metrics.fold()
        shown = {re.split(r"[{ ]", name)[0] for name in values(metrics)}
        assert named_by_alerts_and_dashboard() - shown == set()

    live(tell)


def test_a_watchdogs_alert_shows_while_it_stands_and_no_longer() -> None:
    async def tell(app: App, metrics: Metrics) -> None:
        barking = 'copier_watchdog_alerts{watchdog="follower"}'
        assert values(metrics)[barking] == 0
        gateway = app.gateways["f"]
        assert isinstance(gateway, PaperGateway)
        gateway.faults.offline = True
        await asyncio.sleep(90)
        assert values(metrics)[barking] == 1
        gateway.faults.offline = False
        await asyncio.sleep(60)
        assert values(metrics)[barking] == 0

    live(tell)


# Readiness -------------------------------------------------------------------------------------------------------------


def not_ready(found: Readiness) -> dict[str, str]:
    assert found.ready is not bool(found.not_ready)
    return {each.what: each.why for each in found.not_ready}


def test_an_engine_that_watches_and_follows_is_ready() -> None:
    async def tell(app: App, metrics: Metrics) -> None:
        found = await readiness(app)
        assert not_ready(found) == {}
        assert found.roles == ("watcher m", "worker main")
        assert found.followers == 1

    live(tell)


def test_an_engine_that_has_not_begun_says_what_it_waits_for() -> None:
    async def main() -> None:
        async with App(world(), LoopClock(EPOCH_MS)) as app:
            assert not_ready(await readiness(app)) == {
                "watcher m": "its account was not read yet",
                "worker main": "it has not taken its role yet",
            }

    run_virtual(main())


def test_a_master_and_a_follower_that_cannot_be_reached_are_named_with_the_reason() -> None:
    async def tell(app: App, metrics: Metrics) -> None:
        for server in app.paper.servers.values():
            server.online = False
        await asyncio.sleep(40)
        found = not_ready(await readiness(app))
        assert set(found) == {"watcher m", "follower f"}
        assert all(found.values())
        assert values(metrics)['copier_master_reading{master="m"}'] == 0
        assert values(metrics)['copier_follower_connected{follower="f"}'] == 0

    live(tell)


def test_stores_that_do_not_answer_are_named() -> None:
    async def tell(app: App, metrics: Metrics) -> None:
        async def broken() -> None:
            raise StoreError("the disk is full")

        async def silent() -> None:
            await asyncio.sleep(60)

        app.database.ping = broken  # type: ignore[method-assign]
        app.stream.ping = silent  # type: ignore[method-assign]
        found = not_ready(await readiness(app))
        assert found["ledger"] == "the disk is full"
        assert found["stream"] == "no answer within 2 s"

    live(tell)


def test_a_worker_that_cannot_renew_its_lease_is_not_ready() -> None:
    async def tell(app: App, metrics: Metrics) -> None:
        assert app.sharing is not None
        app.sharing.error = "the lease cannot be renewed"
        assert not_ready(await readiness(app)) == {"lease of worker main": "the lease cannot be renewed"}

    live(tell)


# The endpoint ----------------------------------------------------------------------------------------------------------


async def asked(settings: MetricsSettings, path: str, token: str = "") -> httpx.Response:
    app = App(world(), SystemClock())
    transport = httpx.ASGITransport(app=face(app, Metrics(app), settings))
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with app, httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        return await client.get(path, headers=headers)


@pytest.mark.parametrize("path", ["/metrics", "/ready"])
@pytest.mark.parametrize("said", ["", "another-token-of-length"])
async def test_a_stranger_is_told_nothing(path: str, said: str) -> None:
    settings = world(ON).metrics
    assert settings is not None
    answer = await asked(settings, path, said)
    assert answer.status_code == 401
    assert "copier_" not in answer.text
    assert TOKEN not in answer.text


async def test_that_it_lives_is_no_secret_and_says_nothing_else() -> None:
    settings = world(ON).metrics
    assert settings is not None
    answer = await asked(settings, "/health")
    assert answer.status_code == 200
    assert set(answer.json()) == {"alive", "version"}


async def test_what_is_not_ready_answers_503_with_the_reasons() -> None:
    settings = world(ON).metrics
    assert settings is not None
    answer = await asked(settings, "/ready", TOKEN)
    assert answer.status_code == 503
    assert {each["what"] for each in answer.json()["notReady"]} == {"watcher m", "worker main"}


async def test_it_answers_on_its_port_while_the_engine_runs_and_no_longer() -> None:
    port = free_port()
    settings = world(ON.replace("9464", str(port)))
    assert settings.metrics is not None
    url = f"http://127.0.0.1:{port}/metrics"
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with App(settings, SystemClock()) as app, httpx.AsyncClient() as client:
        async with answering(app, settings.metrics):
            answer = await client.get(url, headers=headers)
            assert answer.status_code == 200
            assert "copier_build_info" in answer.text
            assert "process_cpu_seconds_total" in answer.text or sys.platform != "linux"
            with pytest.raises(SettingsError, match="cannot be listened on"):
                async with answering(app, settings.metrics):
                    pass
        with pytest.raises(httpx.ConnectError):
            await client.get(url)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Return a folder with a certificate of this machine's own and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        absent("openssl is not installed")
    make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=x -keyout key -out crt"
    name = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([openssl, *make.split(), *name], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


async def test_a_certificate_that_is_not_there_is_told_at_the_start(tmp_path: Path) -> None:
    section = f"port: {free_port()}, token: {TOKEN}, certificate: {tmp_path / 'no.crt'}, key: {tmp_path / 'no.key'}"
    settings = world(f"\nmetrics: {{{section}}}\n")
    assert settings.metrics is not None
    async with App(settings, SystemClock()) as app:
        with pytest.raises(SettingsError, match=r"no\.crt and its key cannot be read"):
            async with answering(app, settings.metrics):
                pass


async def test_with_a_certificate_it_speaks_tls_and_nothing_else(certificate: Path) -> None:
    port = free_port()
    section = f"port: {port}, token: {TOKEN}, certificate: {certificate / 'crt'}, key: {certificate / 'key'}"
    settings = world(f"\nmetrics: {{{section}}}\n")
    assert settings.metrics is not None
    known = ssl.create_default_context(cafile=certificate / "crt")
    async with (
        App(settings, SystemClock()) as app,
        answering(app, settings.metrics),
        httpx.AsyncClient(verify=known) as client,
    ):
        assert (await client.get(f"https://127.0.0.1:{port}/health")).status_code == 200
        with pytest.raises(httpx.TransportError):
            await client.get(f"http://127.0.0.1:{port}/health")


# Settings --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("{}", "expected a token"),
        ("{host: 0.0.0.0, anyone_on_this_machine: true}", "others can reach this address"),
        ("{token: short}", "at least 16 characters"),
        ("{anyone_on_this_machine: true, certificate: a.pem}", "certificate and key together"),
    ],
)
def test_a_socket_that_would_be_open_to_others_is_refused(section: str, expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        world(f"\nmetrics: {section}\n")


def test_by_default_nothing_listens() -> None:
    assert world().metrics is None


COPIED = """
import json, sys
import copier.cli, copier.running
from copier.clock import LoopClock, run_virtual
from copier.demo import Demo
from copier.looking import status

async def main():
    demo = Demo(LoopClock(1_767_600_000_000), lambda line: None)
    async with demo.live():
        assert (await demo.play()).good

run_virtual(main())
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_an_engine_that_copies_has_loaded_no_optional_package_and_nothing_of_webs_plots_other_databases_or_agents() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {line for extra, lines in project["optional-dependencies"].items() if extra != "fast" for line in lines}
    packages = {re.match(r"[\w-]+", line)[0].lower() for line in wanted}  # type: ignore[index]
    modules = metadata.packages_distributions()
    optional = {name for name, owners in modules.items() if packages & {owner.lower().replace("_", "-") for owner in owners}}
    assert {"prometheus_client", "starlette", "uvicorn", "psycopg", "openpyxl", "matplotlib"} <= optional
    web = {"fastapi", "flask", "django", "aiohttp", "requests", "httpx", "jinja2"}
    drivers = {"asyncpg", "aiosqlite", "pymysql", "MySQLdb", "mysql", "oracledb", "pyodbc", "psycopg2", "pymongo"}
    numbers = {"pandas", "scipy", "polars", "plotly", "seaborn"}
    agents = {"mcp", "fastmcp", "openai", "anthropic", "langchain", "litellm"}
    done = subprocess.run([sys.executable, "-c", COPIED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) & (optional | web | drivers | numbers | agents) == set()


def test_a_process_over_a_real_redis_has_loaded_neither_the_one_in_memory_nor_numpy() -> None:
    """The one in memory takes numpy where it is installed, 15 MB that a worker does not need."""
    script = "import sys; import copier.running; from copier.stream import open_stream; open_stream('redis://here'); "
    script += "print(sorted({'fakeredis', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# What looks at the numbers -----------------------------------------------------------------------------------------------

ALERTS = ROOT / "config" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "config" / "grafana" / "dashboard.json"


def alert_rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def dashboard_expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_every_metric_that_an_alert_or_the_dashboard_names_is_there() -> None:
    asked = named_by_alerts_and_dashboard()
    assert asked
    assert asked - names() == set()


LABELS = {name: set(labels) for name, (_, labels) in GAUGES.items()}
LABELS |= {f"{name}_total": set(labels) for name, (_, labels) in COUNTERS.items()}
LABELS |= {f"{name}_bucket": {*labels, "le"} for name, (_, labels) in HISTOGRAMS.items()}


def test_every_label_that_an_alert_names_is_one_of_its_metrics() -> None:
    for rule in alert_rules():
        there = {"instance", "job"}.union(*(LABELS[name] for name in re.findall(r"copier_\w+", rule["expr"])))
        groups = re.findall(r"(?:by|on) \(([^)]*)\)", rule["expr"])
        asked = {word for group in groups for word in re.findall(r"\w+", group)} | set(re.findall(r"(\w+)=~?\"", rule["expr"]))
        asked |= set(re.findall(r"\$labels\.(\w+)", json.dumps(rule)))
        assert asked - there == set(), rule["alert"]


def test_the_first_of_a_labelled_counter_counts_as_an_increase() -> None:
    labelled = [f"{name}_total" for name, (_, labels) in COUNTERS.items() if labels]
    for rule in alert_rules():
        for name in re.findall(r"increase\((\w+)", rule["expr"]):
            assert name not in labelled or f"{name} unless {name} offset" in rule["expr"], rule["alert"]


def test_every_alert_says_what_it_means_and_how_urgent_it_is() -> None:
    for rule in alert_rules():
        assert set(rule["annotations"]) == {"summary", "what"}, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "warn"), rule["alert"]


def test_every_gauge_of_trouble_is_watched_by_an_alert() -> None:
    asked = " ".join(rule["expr"] for rule in alert_rules())
    trouble = {name for name in names() if re.search(r"errors|unknown|held_pos|lag|reading$|connected|alerts|role_token", name)}
    assert {name for name in trouble if name not in asked} == {"copier_worker_reading"}  # /ready and the streams' age say it.


def test_promtool_takes_the_alerts() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run([promtool, "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
