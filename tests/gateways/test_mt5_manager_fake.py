"""The fake MT5Manager is as stubborn as the package it stands for."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from copier.clock import SystemClock
from copier.gateways.manager_values import DEAL_REASONS, lots_of
from copier.gateways.mt5_values import _DEAL_REASONS as TERMINALS_REASONS
from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_server import PaperServer
from copier.model import DealReason
from tests.fakes.fake_mt5manager import FakeManagerServer, FakeMT5Manager

LOGIN = 5001


class Heard:
    """A sink that keeps what it is told, and by whom."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.threads: set[str] = set()
        self.told = threading.Event()

    def OnDealerAnswer(self, request: Any) -> None:
        self.answers.append(request)
        self.threads.add(threading.current_thread().name)
        self.told.set()


def connected(**server_does: Any) -> tuple[FakeMT5Manager, Any]:
    server = PaperServer("Broker-Demo", clock=SystemClock())
    server.add_account(PaperAccount(LOGIN))
    server.set_quote("EURUSD", "1.10000", "1.10010")
    package = FakeMT5Manager(FakeManagerServer(server=server, **server_does))
    manager = package.ManagerAPI()
    assert manager.Connect(package.fake.address, 1000, "secret", 1, 1000) is True
    return package, manager


def buy(package: FakeMT5Manager, manager: Any, **more: Any) -> Any:
    request = package.MTRequest(manager)  # type: ignore[attr-defined]
    fields = {"Action": 200, "Login": LOGIN, "Symbol": "EURUSD", "Type": 0, "Volume": 3000, "PriceOrder": 1.1001, **more}
    for name, value in fields.items():
        setattr(request, name, value)
    return request


def test_a_failure_is_false_with_a_triple_behind_it() -> None:
    package, manager = connected()
    assert manager.UserRequest(42) is False
    assert package.LastError()[1:] == (13, "Not found")


def test_a_wrong_password_does_not_connect() -> None:
    package, _ = connected()
    assert package.ManagerAPI().Connect(package.fake.address, 1000, "wrong", 1, 1000) is False
    assert package.LastError()[1] == 1001


def test_an_empty_list_is_no_failure() -> None:
    _, manager = connected()
    assert manager.PositionRequest(LOGIN) == []


def test_volumes_are_ten_thousandths_of_a_lot() -> None:
    package, manager = connected()
    package.fake.server.buy(LOGIN, "EURUSD", "0.30")
    (position,) = manager.PositionRequest(LOGIN)
    assert (position.Volume, position.VolumeExt) == (3000, 30_000_000)
    assert lots_of(position.Volume) == lots_of(position.Volume, position.VolumeExt)


def test_a_cache_lags_behind_the_server() -> None:
    waiting: list[Callable[[], None]] = []
    package, manager = connected(later=lambda seconds, act: waiting.append(act))
    package.fake.start_lag(1)
    package.fake.server.buy(LOGIN, "EURUSD", "0.30")
    assert len(manager.PositionRequest(LOGIN)) == 1
    assert manager.PositionGet(LOGIN) == []
    for act in waiting:
        act()
    assert len(manager.PositionGet(LOGIN)) == 1


def test_an_order_is_only_sent_and_its_answer_comes_on_another_thread() -> None:
    package, manager = connected(later=lambda seconds, act: threading.Timer(seconds, act).start(), latency_s=0.02)
    sink = Heard()
    first, second = (manager.DealerSend(buy(package, manager), sink) for _ in range(2))
    assert 0 < first < second
    assert sink.answers == []
    assert sink.told.wait(5)
    assert threading.current_thread().name not in sink.threads
    assert sink.answers[0].ResultRetcode == 10009
    assert not hasattr(sink.answers[0], "PositionID")


def test_a_sink_without_a_method_is_no_mistake() -> None:
    package, manager = connected()
    assert manager.PositionSubscribe(object()) is True
    manager.DealerSend(buy(package, manager), object())
    assert len(manager.PositionRequest(LOGIN)) == 1


def test_the_same_sink_twice_is_a_duplicate() -> None:
    package, manager = connected()
    sink = Heard()
    assert manager.PositionSubscribe(sink) is True
    assert manager.DealSubscribe(sink) is True
    assert manager.PositionSubscribe(sink) is False
    assert package.LastError()[1] == 17


def test_there_is_no_price_before_the_symbol_is_selected() -> None:
    _, manager = connected()
    assert manager.TickLast("EURUSD") is False
    assert manager.SelectedAdd("EURUSD") is True
    assert manager.TickLast("EURUSD").bid == 1.1


def test_a_reconnect_forgets_dealing_mode_and_a_callback_cannot_start_it() -> None:
    package, manager = connected()
    assert manager.DealerStart() is True
    package.fake.lose_connection()
    package.fake.reconnect()
    assert not manager.dealing

    class Eager:
        def OnConnect(self) -> None:
            manager.DealerStart()

    manager.Subscribe(Eager())
    package.fake.lose_connection()
    with pytest.raises(AssertionError, match="never returns"):
        package.fake.reconnect()


def test_a_request_has_no_field_for_a_magic_number() -> None:
    package, manager = connected()
    with pytest.raises(AttributeError):
        buy(package, manager, ExpertID=7)


def test_a_traders_own_action_is_refused() -> None:
    package, manager = connected()
    assert manager.DealerSend(buy(package, manager, Action=1), Heard()) is False
    assert package.LastError()[1] == 3


def test_lots_off_the_step_are_an_order_that_never_fills_and_blocks_every_close() -> None:
    package, manager = connected()
    fill = package.fake.server.buy(LOGIN, "EURUSD", "0.30")
    sink = Heard()
    closing = {"Flags": 1, "Position": fill.position, "Type": 1, "PriceOrder": 1.1}
    manager.DealerSend(buy(package, manager, **closing, Volume=150), sink)
    manager.DealerSend(buy(package, manager, **closing), sink)
    assert [answer.ResultRetcode for answer in sink.answers] == [10008, 10039]


def test_a_request_to_the_server_takes_longer_than_a_look_into_the_cache() -> None:
    waited: list[float] = []
    _, manager = connected(request_s=0.2, sleep=waited.append)
    manager.PositionGet(LOGIN)
    assert waited == []
    manager.PositionRequest(LOGIN)
    assert waited == [0.2]


def test_the_reasons_are_not_the_terminals() -> None:
    assert (DEAL_REASONS[3], TERMINALS_REASONS[3]) == (DealReason.STOP_LOSS, DealReason.EXPERT)
