"""The stand-in for the MetaTrader5 package is as stubborn as the original: what it refuses, hides and silently ignores."""

from decimal import Decimal
from typing import Any

import pytest

from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_server import PaperServer
from copier.model import Filling
from tests.fakes.fake_metatrader5 import FakeMetaTrader5, FakeTerminal, Hung
from tests.fakes.mt5_fake_terminal import OrderFault
from tests.fakes.mt5_structs import FIELDS, STRUCTS, from_plain, struct, to_plain

ORDER = {"action": 1, "symbol": "EURUSD", "volume": 0.1, "type": 0, "price": 1.1001, "type_filling": 0}


class Clock:
    def __init__(self) -> None:
        self.ms = 1_704_715_200_000

    def now_ms(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def terminal(clock: Clock) -> FakeTerminal:
    server = PaperServer("Broker-Demo", clock=clock, server_offset_s=7200)
    server.add_account(PaperAccount(5001))
    server.add_account(PaperAccount(5002))
    server.set_quote("EURUSD", "1.10000", "1.10010")
    return FakeTerminal(server=server, login=5001, selected={"EURUSD"}, passwords={5001: "right", 5002: "right"})


@pytest.fixture
def mt5(terminal: FakeTerminal) -> FakeMetaTrader5:
    api = FakeMetaTrader5(terminal)
    assert api.initialize(terminal.path)
    return api


# results


@pytest.mark.parametrize("kind", sorted(STRUCTS))
def test_a_result_answers_by_index_attribute_length_iteration_and_asdict_but_is_no_namedtuple(kind: str) -> None:
    result = struct(kind)
    names = FIELDS[kind].split()
    assert len(result) == len(names)
    assert [getattr(result, name) for name in names] == list(result)
    assert list(result._asdict()) == names
    assert not hasattr(result, "_fields")
    assert not hasattr(result, "_replace")


def test_a_result_survives_the_way_to_another_process() -> None:
    answer = (struct("Tick", bid=1.5, time=7), None, False)
    assert from_plain(to_plain(answer)) == answer
    assert repr(from_plain(to_plain(answer))) == repr(answer)


# failing


def test_without_initialize_every_call_fails_in_its_own_way_and_says_so(terminal: FakeTerminal) -> None:
    api = FakeMetaTrader5(terminal)
    assert api.account_info() is None
    assert api.last_error() == (-10004, "No IPC connection")
    assert api.symbol_select("EURUSD") is False
    assert api.positions_get() is None
    assert api.shutdown() is True


def test_the_last_error_is_reset_by_the_next_call_and_not_by_being_read(mt5: FakeMetaTrader5) -> None:
    assert mt5.symbol_info("NOSUCH") is None
    assert mt5.last_error() == mt5.last_error() == (-4, "Terminal: Not found")
    mt5.account_info()
    assert mt5.last_error() == (1, "Success")


def test_nothing_found_is_an_empty_tuple_and_no_failure(mt5: FakeMetaTrader5) -> None:
    assert mt5.positions_get(ticket=42) == ()
    assert mt5.last_error() == (1, "Success")


def test_positional_only_functions_refuse_keywords_and_the_lists_refuse_positions(mt5: FakeMetaTrader5) -> None:
    with pytest.raises(TypeError):
        mt5.symbol_info(symbol="EURUSD")
    with pytest.raises(TypeError):
        mt5.symbol_info_tick(symbol="EURUSD")
    assert mt5.positions_get("EURUSD") is None
    assert mt5.last_error() == (-2, "Unnamed arguments not allowed")


def test_a_misspelt_keyword_is_ignored_and_returns_everything(mt5: FakeMetaTrader5) -> None:
    mt5.order_send(ORDER)
    assert len(mt5.positions_get(tiket=42)) == 1


def test_a_ticket_goes_before_a_symbol_and_a_symbol_before_a_group(mt5: FakeMetaTrader5) -> None:
    mt5.order_send(ORDER)
    (position,) = mt5.positions_get()
    assert mt5.positions_get(ticket=position.ticket, symbol="NOSUCH") == (position,)
    assert mt5.positions_get(symbol="EURUSD", group="!*") == (position,)
    assert mt5.positions_get(group="EUR*,!*USD") == ()


def test_more_than_one_argument_of_symbols_get_is_false(mt5: FakeMetaTrader5) -> None:
    assert mt5.symbols_get("*", "*") is False


# orders


def refused(mt5: FakeMetaTrader5, **changes: Any) -> str:
    assert mt5.order_send({**ORDER, **changes}) is None
    code, text = mt5.last_error()
    assert code == -2
    return str(text)


@pytest.mark.parametrize("name", ["volume", "price", "sl", "tp"])
@pytest.mark.parametrize("value", [0, 1, Decimal("1.1"), "1.1", None])
def test_prices_and_volumes_must_be_floats(mt5: FakeMetaTrader5, name: str, value: Any) -> None:
    assert refused(mt5, **{name: value}) == f'Invalid "{name}" argument'


@pytest.mark.parametrize("name", ["action", "type", "deviation", "magic", "position", "type_filling"])
@pytest.mark.parametrize("value", [0.0, "0", None])
def test_numbers_of_things_must_be_ints(mt5: FakeMetaTrader5, name: str, value: Any) -> None:
    assert refused(mt5, **{name: value}) == f'Invalid "{name}" argument'


def test_a_negative_magic_is_refused(mt5: FakeMetaTrader5) -> None:
    assert refused(mt5, magic=-1) == 'Invalid "magic" argument'


def test_a_comment_of_29_units_is_taken_and_one_of_30_refuses_the_whole_order(
    mt5: FakeMetaTrader5, terminal: FakeTerminal
) -> None:
    assert mt5.order_send({**ORDER, "comment": "x" * 29}).retcode == 10009
    assert refused(mt5, comment="x" * 30) == 'Invalid "comment" argument'
    assert refused(mt5, comment="😀" * 15) == 'Invalid "comment" argument'
    assert len(terminal.account.positions) == 1


def test_a_misspelt_key_opens_a_second_position_instead_of_closing_the_first(mt5: FakeMetaTrader5) -> None:
    opened = mt5.order_send(ORDER)
    mt5.order_send({**ORDER, "type": 1, "positon": opened.order})
    assert len(mt5.positions_get()) == 2


def test_the_check_of_an_order_says_0_where_sending_says_10009(mt5: FakeMetaTrader5) -> None:
    assert mt5.order_check(ORDER).retcode == 0
    assert mt5.order_send(ORDER).retcode == 10009


def test_an_absent_filling_is_fill_or_kill_and_refused_where_the_symbol_takes_none(
    mt5: FakeMetaTrader5, terminal: FakeTerminal
) -> None:
    terminal.server.change_symbol("EURUSD", fillings=(Filling.IOC,))
    order = {name: value for name, value in ORDER.items() if name != "type_filling"}
    assert mt5.order_send(order).retcode == 10030
    assert mt5.order_send(type_filling=1, **order).retcode == 10009


def test_the_button_answers_10027_and_the_option_answers_nothing_at_all(mt5: FakeMetaTrader5, terminal: FakeTerminal) -> None:
    terminal.algo_trading = False
    assert mt5.order_send(ORDER).retcode == 10027
    terminal.api_disabled = True
    assert mt5.order_send(ORDER) is None
    assert mt5.last_error()[0] == -8


def test_an_order_without_its_position_hedges_and_both_levels_are_always_written(mt5: FakeMetaTrader5) -> None:
    opened = mt5.order_send({**ORDER, "sl": 1.09, "tp": 1.12})
    mt5.order_send({"action": 6, "symbol": "EURUSD", "position": opened.order, "tp": 1.13})
    (position,) = mt5.positions_get()
    assert (position.sl, position.tp) == (0.0, 1.13)
    assert mt5.order_send({"action": 6, "symbol": "EURUSD", "position": opened.order, "tp": 1.13}).retcode == 10025


# terminals


def test_a_symbol_outside_market_watch_has_no_price_and_takes_no_order(mt5: FakeMetaTrader5, terminal: FakeTerminal) -> None:
    terminal.selected.clear()
    assert mt5.symbol_info_tick("EURUSD").bid == 0.0
    assert mt5.order_send(ORDER).retcode == 10021
    terminal.unselected_tick = "none"
    assert mt5.symbol_info_tick("EURUSD") is None
    assert mt5.symbol_select("EURUSD")
    assert mt5.symbol_info_tick("EURUSD").bid == 1.1


def test_every_time_is_the_servers_wall_clock(mt5: FakeMetaTrader5, clock: Clock) -> None:
    mt5.order_send(ORDER)
    assert mt5.symbol_info_tick("EURUSD").time_msc == clock.ms + 7_200_000
    assert mt5.positions_get()[0].time == clock.ms // 1000 + 7200


def test_deals_are_found_by_the_orders_ticket_and_by_the_positions_identifier(mt5: FakeMetaTrader5) -> None:
    opened = mt5.order_send(ORDER)
    (deal,) = mt5.history_deals_get(ticket=opened.order)
    assert deal.ticket == opened.deal
    assert mt5.history_deals_get(position=deal.position_id) == (deal,)
    assert mt5.history_deals_get(ticket=opened.deal) == ()
    assert mt5.history_deals_get(0) is None
    assert len(mt5.history_deals_get(0, 2**31 - 1)) == 2


def test_lists_show_an_order_only_after_the_lag(mt5: FakeMetaTrader5, terminal: FakeTerminal, clock: Clock) -> None:
    terminal.start_lag(1.0)
    assert mt5.order_send(ORDER).retcode == 10009
    assert mt5.positions_get() == ()
    clock.ms += 1000
    assert len(mt5.positions_get()) == 1


def test_a_placed_order_is_filled_later_under_its_own_ticket(mt5: FakeMetaTrader5, terminal: FakeTerminal, clock: Clock) -> None:
    terminal.next_orders.append(OrderFault(placed_s=1.0))
    placed = mt5.order_send(ORDER)
    assert placed.retcode == 10008
    assert mt5.history_deals_get(ticket=placed.order) == ()
    assert len(mt5.orders_get(ticket=placed.order)) == 1
    clock.ms += 1000
    assert [deal.volume for deal in mt5.history_deals_get(ticket=placed.order)] == [0.1]


def test_a_terminal_that_ended_answers_nobody_until_it_is_initialized_again(mt5: FakeMetaTrader5, terminal: FakeTerminal) -> None:
    terminal.crash()
    for _ in range(2):
        assert mt5.positions_get() is None
        assert mt5.last_error()[0] == -10004
    terminal.synchronise_s = 1.0
    assert mt5.initialize(terminal.path)
    assert mt5.account_info().login == 5001


def test_lists_are_empty_while_a_terminal_synchronises(mt5: FakeMetaTrader5, terminal: FakeTerminal, clock: Clock) -> None:
    mt5.order_send(ORDER)
    terminal.synchronise_s = 1.0
    mt5.initialize(terminal.path)
    assert mt5.positions_get() == ()
    assert mt5.positions_total() == 0
    clock.ms += 1000
    assert len(mt5.positions_get()) == 1


def test_a_second_initialize_drops_the_first_terminal(terminal: FakeTerminal, clock: Clock) -> None:
    other = FakeTerminal(server=terminal.server, login=5002, path="C:\\Terminals\\two\\terminal64.exe")
    api = FakeMetaTrader5(terminal, other)
    api.initialize(terminal.path)
    api.initialize(other.path.upper())
    assert api.account_info().login == 5002
    assert not api.initialize("C:\\nowhere\\terminal64.exe")
    assert api.account_info() is None


def test_a_login_switches_the_terminal_for_everybody_attached(mt5: FakeMetaTrader5, terminal: FakeTerminal) -> None:
    other = FakeMetaTrader5(terminal)
    assert other.initialize(terminal.path, login=5002, password="right", server="Broker-Demo")
    assert mt5.account_info().login == 5002


@pytest.mark.parametrize("wrong", [{"password": "wrong"}, {"login": 7}, {"server": "Other"}])
def test_a_refused_login_fails_and_closes_the_connection(terminal: FakeTerminal, wrong: dict[str, Any]) -> None:
    api = FakeMetaTrader5(terminal)
    assert api.initialize(terminal.path, **{"login": 5001, "password": "right", "server": "Broker-Demo", **wrong}) is False
    assert api.last_error() == (-6, "Terminal: Authorization failed")
    assert api.account_info() is None


def test_a_call_of_a_frozen_terminal_never_returns(mt5: FakeMetaTrader5, terminal: FakeTerminal) -> None:
    terminal.hangs.add("positions_get")
    with pytest.raises(Hung):
        mt5.positions_get()
