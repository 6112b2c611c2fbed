"""What a trader sets for a terminal with our Expert Advisor, and the gateway it becomes."""

from pathlib import Path

import pytest

from copier.clock import SystemClock
from copier.errors import SettingsError
from copier.gateways.bridge import Bridges
from copier.gateways.opening import PaperWorld, open_gateway
from copier.gateways.remote import RemoteGateway
from copier.settings import BridgeSettings, parse, redacted

SECRET = "a secret of the tests"


def settings(**more: object) -> BridgeSettings:
    fields = {"kind": "bridge", "login": 5001, "server": "Broker-Demo", "secret": SECRET, **more}
    return BridgeSettings.model_validate(fields)


def test_a_short_secret_is_a_mistake_and_is_not_shown() -> None:
    text = "accounts: {a: {kind: bridge, login: 1, server: S, secret: {env: BRIDGE_SECRET}}}"
    with pytest.raises(SettingsError, match="at least 16 characters") as caught:
        parse(text, {"BRIDGE_SECRET": "too short"})
    assert "too short" not in str(caught.value)


def test_a_secret_is_never_shown() -> None:
    text = "accounts: {a: {kind: bridge, login: 1, server: S, secret: {env: BRIDGE_SECRET}}}"
    assert SECRET not in str(redacted(parse(text, {"BRIDGE_SECRET": SECRET})))


@pytest.mark.parametrize("carrier", ["tcp", "files"])
def test_a_bridge_becomes_a_gateway_of_its_own_kind(carrier: str, tmp_path: Path) -> None:
    clock = SystemClock()
    gateway = open_gateway(settings(carrier=carrier, folder=tmp_path, settle_s=7), clock, PaperWorld(clock))
    assert isinstance(gateway, RemoteGateway)
    assert (gateway.facts.kind, gateway.facts.settle_s, gateway.facts.tags_survive) == ("bridge", 7.0, False)
    assert gateway.account == "5001@Broker-Demo"


def test_files_without_a_folder_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APPDATA", raising=False)
    with pytest.raises(SettingsError, match="`folder` is missing"):
        Bridges().gateway(settings(carrier="files"), SystemClock())


def test_files_without_a_folder_take_the_one_all_terminals_of_the_user_share(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("APPDATA", str(tmp_path))
    Bridges().gateway(settings(carrier="files"), SystemClock())
