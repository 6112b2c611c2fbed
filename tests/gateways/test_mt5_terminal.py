"""Reading a MetaTrader 5 terminal: nothing that fails, lags or belongs to another account passes for what is there."""

import asyncio
import contextlib
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copier.errors import Reason, Rejected, Unavailable
from copier.gateways.mt5_clock import ServerClock, Tick
from copier.gateways.mt5_values import TEXT_UNITS_MAX, average_price, comment_to_send, fillings_of, number, pieces, units
from copier.model import Execution, Filling, MarginMode, PendingType, Timeframe
from tests.fakes.mt5_stage import Mt5Scene, play

D = Decimal
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)

# an empty list


def test_a_call_that_returns_nothing_is_never_an_empty_list() -> None:
    async def act(scene: Mt5Scene) -> None:
        await scene.open()
        for code in (-1, -2, -4):
            scene.terminal.fails = {"positions_get": code}
            with pytest.raises(Unavailable, match="positions_get failed"):
                await scene.positions()
        scene.terminal.fails = {"positions_total": -1}
        await scene.close((await scene.positions())[0].ticket)
        with pytest.raises(Unavailable, match="positions_total failed"):
            await scene.positions()

    play(act)


def test_an_empty_list_without_a_trade_server_is_no_read() -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.connected = False
        with pytest.raises(Unavailable, match="no connection to its trade server"):
            await scene.positions()

    play(act)


def test_a_list_without_a_trade_server_says_so() -> None:
    async def act(scene: Mt5Scene) -> None:
        await scene.open()
        scene.terminal.connected = False
        assert not (await scene.gateway.get_positions()).connected

    play(act)


def test_positions_that_vanish_are_read_again_before_it_is_believed() -> None:
    async def act(scene: Mt5Scene) -> None:
        await scene.open()
        assert len(await scene.positions()) == 1
        # A glitch shorter than the second look, as terminals show while they reconnect.
        scene.terminal.synchronise_s = 0.05
        scene.terminal.attached()
        assert len(await scene.positions()) == 1

    play(act)


@pytest.mark.parametrize("life_s", [0.1, 0.9])
def test_a_terminal_that_comes_back_empty_and_then_full_never_yields_an_empty_read(life_s: float) -> None:
    async def act(scene: Mt5Scene) -> None:
        await scene.open()
        await asyncio.sleep(life_s)
        scene.terminal.synchronise_s = 2.5
        scene.terminal.crash()
        seen = []
        for _ in range(200):
            with contextlib.suppress(Unavailable):
                seen.append(len(await scene.positions()))
            await asyncio.sleep(0.05)
        assert set(seen) == {1}

    play(act, opening={"sync_s": 3.0})


def test_an_account_that_is_flat_is_believed_after_the_terminal_had_time_to_fill_its_lists() -> None:
    async def act(scene: Mt5Scene) -> None:
        began_ms = scene.clock.now_ms()
        assert await scene.positions() == ()
        assert scene.clock.now_ms() - began_ms >= 2900
        began_ms = scene.clock.now_ms()
        assert await scene.positions() == ()
        assert scene.clock.now_ms() - began_ms < 50

    play(act, opening={"sync_s": 3.0})


def test_a_trade_server_that_was_lost_and_found_makes_an_empty_list_doubtful_again() -> None:
    async def act(scene: Mt5Scene) -> None:
        await scene.open()
        await scene.positions()
        scene.terminal.connected = False
        await scene.positions()
        scene.terminal.connected = True
        scene.terminal.synchronise_s = 2.0
        scene.terminal.attached()
        assert len(await scene.positions()) == 1

    play(act, opening={"sync_s": 3.0})


def test_an_empty_list_beside_a_floating_result_that_stands_still_is_at_last_believed() -> None:
    async def act(scene: Mt5Scene) -> None:
        await scene.open()
        scene.terminal.synchronise_s = 600.0
        scene.terminal.attached()
        for _ in range(11):
            with pytest.raises(Unavailable, match="floating result"):
                await scene.positions()
            await asyncio.sleep(10)
        await asyncio.sleep(11)
        assert await scene.positions() == ()

    play(act)


def test_an_empty_list_beside_a_floating_result_that_moves_is_never_believed() -> None:
    async def act(scene: Mt5Scene) -> None:
        await scene.open()
        scene.terminal.synchronise_s = 600.0
        scene.terminal.attached()
        for step in range(40):
            scene.server.set_quote("EURUSD", f"1.1{step:02}00", f"1.1{step:02}10")
            with pytest.raises(Unavailable, match="floating result"):
                await scene.positions()
            await asyncio.sleep(10)

    play(act)


def test_an_empty_list_beside_used_margin_is_doubted_where_no_result_floats() -> None:
    async def act(scene: Mt5Scene) -> None:
        opened = await scene.open()
        assert opened.price == Decimal("1.10010")
        scene.server.set_quote("EURUSD", "1.10010", "1.10020")
        scene.terminal.synchronise_s = 60.0
        scene.terminal.attached()
        with pytest.raises(Unavailable, match=r"a floating result of 0\.00 and a margin of"):
            await scene.positions()

    play(act)


def test_a_flat_account_whose_pending_orders_need_margin_is_flat() -> None:
    async def act(scene: Mt5Scene) -> None:
        assert await scene.positions() == ()
        scene.terminal.orders_margin = 100.0
        with pytest.raises(Unavailable, match=r"margin of 100\.00"):
            await scene.positions()
        scene.server.place(5001, "EURUSD", PendingType.BUY_LIMIT, "0.10", "1.05000")
        assert await scene.positions() == ()

    play(act)


# the right account


def test_another_account_in_the_terminal_fails_every_read_and_names_both() -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.switch(5002)
        reads: list[Any] = [
            scene.gateway.get_account(),
            scene.gateway.get_positions(),
            scene.gateway.get_quote("EURUSD"),
            scene.gateway.get_deals(LONG_AGO),
            scene.gateway.get_symbols(),
            scene.gateway.get_pending_orders(),
            scene.gateway.get_bars("EURUSD", Timeframe.H1, 3),
        ]
        for read in reads:
            with pytest.raises(Unavailable, match=r"logged in to 5002@Broker-Demo, expected 5001@Broker-Demo"):
                await read

    play(act)


def test_a_switch_in_the_middle_of_a_read_is_noticed() -> None:
    async def act(scene: Mt5Scene) -> None:
        terminal = scene.terminal
        listed = terminal.positions

        def positions_of_another() -> tuple[Any, ...]:
            terminal.switch(5002)
            return listed()

        terminal.positions = positions_of_another  # type: ignore[method-assign]
        with pytest.raises(Unavailable, match="5002"):
            await scene.positions()

    play(act)


def test_the_same_login_on_another_server_is_another_account() -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.server.name = "Broker-Live"
        with pytest.raises(Unavailable, match="5001@Broker-Live, expected 5001@Broker-Demo"):
            await scene.positions()

    play(act)


# health


@pytest.mark.parametrize(
    ("switch", "words"),
    [
        ({"algo_trading": False}, "Algo Trading button"),
        ({"api_disabled": True}, "Disable automatic trading via external Python API"),
        ({"connected": False}, "no connection to its trade server"),
    ],
)
def test_a_switch_of_the_terminal_that_stops_trading_is_named(switch: dict[str, bool], words: str) -> None:
    async def act(scene: Mt5Scene) -> None:
        for name, value in switch.items():
            setattr(scene.terminal, name, value)
        account = await scene.gateway.get_account()
        assert not account.trade_allowed
        assert words in account.trade_blocker

    play(act)


@pytest.mark.parametrize(
    ("account", "words"),
    [({"investor": True}, "investor login"), ({"expert_allowed": False}, "the broker forbids automated trading")],
)
def test_a_permission_the_account_lacks_is_named(account: dict[str, bool], words: str) -> None:
    async def act(scene: Mt5Scene) -> None:
        read = await scene.gateway.get_account()
        assert not read.trade_allowed
        assert words in read.trade_blocker

    play(act, **account)


def test_all_that_stops_trading_is_named_at_once() -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.algo_trading = False
        scene.terminal.api_disabled = True
        blocker = (await scene.gateway.get_account()).trade_blocker
        assert "button" in blocker
        assert "option" in blocker

    play(act)


# quotes and symbols


@pytest.mark.parametrize("unselected", ["zero", "none"])
def test_a_symbol_outside_market_watch_is_put_there_before_it_is_quoted(unselected: str) -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.unselected_tick = unselected
        assert "XAUUSD" not in scene.terminal.selected
        assert (await scene.gateway.get_quote("XAUUSD")).bid == D("2650.5")

    play(act)


def test_a_symbol_that_cannot_be_shown_is_unavailable() -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.fails = {"symbol_select": -1}
        with pytest.raises(Unavailable, match="Market Watch"):
            await scene.gateway.get_quote("XAUUSD")

    play(act)


def test_an_unknown_symbol_is_rejected_and_a_failed_look_is_not() -> None:
    async def act(scene: Mt5Scene) -> None:
        with pytest.raises(Rejected) as caught:
            await scene.gateway.get_quote("NOSUCH")
        assert caught.value.reason is Reason.REFUSED
        scene.terminal.fails = {"symbol_info": -1}
        with pytest.raises(Unavailable):
            await scene.gateway.get_quote("EURUSD")

    play(act)


def test_a_first_tick_may_take_a_moment() -> None:
    async def act(scene: Mt5Scene) -> None:
        began_ms = scene.clock.now_ms()

        def arrive() -> None:
            if scene.clock.now_ms() - began_ms > 300 and "GBPUSD" not in scene.server.quotes:
                scene.server.set_quote("GBPUSD", "1.25000", "1.25010")

        scene.terminal.pass_time = arrive  # type: ignore[method-assign]
        assert (await scene.gateway.get_quote("GBPUSD")).bid == D("1.25")

    play(act)


def test_a_quote_tells_the_margin_of_one_lot_in_the_accounts_money() -> None:
    async def act(scene: Mt5Scene) -> None:
        assert (await scene.gateway.get_quote("EURUSD")).spec.margin_per_lot == D("1100.1")

    play(act)


def test_pending_orders_are_listed_apart_from_positions() -> None:
    async def act(scene: Mt5Scene) -> None:
        assert await scene.gateway.get_pending_orders() == ()
        ticket = scene.server.place(5001, "EURUSD", PendingType.BUY_LIMIT, "0.20", "1.09000", stop_loss=D("1.08"))
        (order,) = await scene.gateway.get_pending_orders("EURUSD")
        assert (order.ticket, order.type, order.lots, order.price) == (ticket, PendingType.BUY_LIMIT, D("0.2"), D("1.09"))
        assert order.stop_loss == D("1.08")
        assert await scene.gateway.get_pending_orders("XAUUSD") == ()
        assert await scene.positions() == ()

    play(act)


def test_bars_come_oldest_first_with_the_forming_one_last() -> None:
    async def act(scene: Mt5Scene) -> None:
        bars = await scene.gateway.get_bars("XAUUSD", Timeframe.H1, 3)
        assert [bar.time.hour for bar in bars] == [12, 13, 14]
        assert bars[-1].close == D("2650.5")

    play(act)


def test_a_history_without_a_trade_server_is_no_history() -> None:
    async def act(scene: Mt5Scene) -> None:
        scene.terminal.connected = False
        with pytest.raises(Unavailable, match="incomplete"):
            await scene.gateway.get_deals(LONG_AGO)

    play(act)


def test_what_the_far_end_offers_is_known_after_opening() -> None:
    async def act(scene: Mt5Scene) -> None:
        gateway = scene.gateway
        assert None not in (gateway.deals, gateway.symbols, gateway.pending_orders, gateway.bars)
        assert gateway.wakes is None

    play(act)


# the server's clock


NOON_MS = 1_704_715_200_000
HOUR_MS = 3_600_000


def test_the_servers_offset_is_learnt_from_a_tick_that_moved() -> None:
    clock = ServerClock()
    clock.look("EURUSD", Tick(NOON_MS + 2 * HOUR_MS - 40_000, 1.1, 1.2), NOON_MS)
    assert clock.offset_s is None
    clock.look("EURUSD", Tick(NOON_MS + 2 * HOUR_MS + 4_800, 1.1, 1.3), NOON_MS + 5_000)
    assert clock.offset_s == 7200


def test_a_tick_that_stands_still_teaches_nothing() -> None:
    clock = ServerClock()
    saturday = Tick(NOON_MS - 30 * HOUR_MS, 1.1, 1.2)
    for look in range(10):
        clock.look("EURUSD", saturday, NOON_MS + look * 1000)
    assert clock.offset_s is None


def test_a_tick_after_a_long_absence_teaches_nothing() -> None:
    clock = ServerClock()
    clock.look("EURUSD", Tick(NOON_MS, 1.1, 1.2), NOON_MS)
    clock.look("EURUSD", Tick(NOON_MS + HOUR_MS, 1.1, 1.3), NOON_MS + 2 * HOUR_MS)
    assert clock.offset_s is None


def test_a_tick_that_fits_no_time_zone_teaches_nothing() -> None:
    clock = ServerClock()
    clock.look("EURUSD", Tick(NOON_MS + 400_000, 1.1, 1.2), NOON_MS)
    clock.look("EURUSD", Tick(NOON_MS + 401_000, 1.1, 1.3), NOON_MS + 1000)
    assert clock.offset_s is None


def test_summer_time_is_noticed() -> None:
    clock = ServerClock()
    for hours in (2, 3):
        clock.look("EURUSD", Tick(NOON_MS + hours * HOUR_MS, 1.1, 1.2), NOON_MS)
        clock.look("EURUSD", Tick(NOON_MS + hours * HOUR_MS + 900, 1.1, 1.3 + hours), NOON_MS + 1000)
        assert clock.offset_s == hours * 3600


@given(
    quarters=st.integers(-48, 56),
    skew_ms=st.integers(-2000, 2000),
    delay_ms=st.integers(0, 1500),
    gap_ms=st.integers(1600, 60_000),
)
def test_any_offset_of_whole_quarters_is_found_however_late_the_look(
    quarters: int, skew_ms: int, delay_ms: int, gap_ms: int
) -> None:
    clock = ServerClock()
    offset_ms = quarters * 900_000
    clock.look("EURUSD", Tick(NOON_MS + offset_ms + skew_ms - 10, 1.1, 1.2), NOON_MS)
    now_ms = NOON_MS + gap_ms
    clock.look("EURUSD", Tick(now_ms + offset_ms + skew_ms - delay_ms, 1.1, 1.3), now_ms)
    assert clock.offset_s == quarters * 900


def test_a_price_ages_until_it_moves() -> None:
    clock = ServerClock()
    assert clock.look("EURUSD", Tick(NOON_MS, 1.1, 1.2), NOON_MS) == 0
    moved = Tick(NOON_MS + 1000, 1.1, 1.3)
    assert clock.look("EURUSD", moved, NOON_MS + 1000) == 0
    assert clock.look("EURUSD", moved, NOON_MS + 31_000) == 30_000


def test_a_price_of_last_week_is_old_at_the_first_look_even_where_the_offset_is_unknown() -> None:
    assert ServerClock().look("EURUSD", Tick(NOON_MS - 48 * HOUR_MS, 1.1, 1.2), NOON_MS) >= 30 * HOUR_MS


# numbers


@given(st.decimals(min_value=0, max_value=1_000_000, places=8))
def test_a_decimal_survives_the_way_through_a_terminals_float(value: Decimal) -> None:
    assert number(float(value)) == Decimal(f"{float(value):.15g}")
    if len(value.as_tuple().digits) <= 15:
        assert number(float(value)) == value


def test_noise_of_binary_numbers_is_taken_off_and_what_is_no_number_refused() -> None:
    assert number(0.1 + 0.2) == D("0.3")
    assert number(1.0850000000000002) == D("1.085")
    for value in (float("nan"), float("inf")):
        with pytest.raises(Unavailable):
            number(value)


@given(lots=st.integers(1, 5000), most=st.integers(4, 500), least=st.integers(1, 2))
def test_the_pieces_of_a_close_add_up_and_none_breaks_a_limit(lots: int, most: int, least: int) -> None:
    volume, maximum, minimum = lots * D("0.01"), most * D("0.01"), least * D("0.01")
    parts = pieces(volume, maximum, minimum)
    assert sum(parts) == volume
    assert all(part <= maximum for part in parts)
    assert all(part >= minimum for part in parts) or volume < minimum
    assert all(part % D("0.01") == 0 for part in parts)


@given(tag=st.from_regex(r"mc[0-9a-z]{6,14}", fullmatch=True), comment=st.text(max_size=31))
def test_a_comment_never_has_more_units_than_the_package_takes_and_begins_with_the_tag(tag: str, comment: str) -> None:
    sent = comment_to_send(tag, comment)
    assert units(sent) <= TEXT_UNITS_MAX
    assert sent.startswith(tag)


@pytest.mark.parametrize(
    ("execution", "mask", "fillings"),
    [
        (Execution.REQUEST, 0, (Filling.FOK, Filling.IOC, Filling.RETURN)),
        (Execution.INSTANT, 1, (Filling.FOK, Filling.IOC, Filling.RETURN)),
        (Execution.MARKET, 1, (Filling.FOK,)),
        (Execution.MARKET, 2, (Filling.IOC,)),
        (Execution.MARKET, 3, (Filling.FOK, Filling.IOC)),
        (Execution.MARKET, 0, ()),
        (Execution.EXCHANGE, 0, (Filling.RETURN,)),
        (Execution.EXCHANGE, 2, (Filling.IOC, Filling.RETURN)),
    ],
)
def test_filling_modes_follow_from_execution_and_mask(execution: Execution, mask: int, fillings: tuple[Filling, ...]) -> None:
    assert fillings_of(execution, mask) == fillings


def test_an_average_price_is_weighted_and_0_where_one_is_missing() -> None:
    assert average_price([(D(1), D(2)), (D(3), D(6))]) == 5
    assert average_price([(D(1), D(2)), (D(3), D(0))]) == 0
    assert average_price([]) == 0


def test_an_exchange_account_is_a_netting_account() -> None:
    async def act(scene: Mt5Scene) -> None:
        assert (await scene.gateway.get_account()).margin_mode is MarginMode.NETTING

    play(act, margin_mode=MarginMode.NETTING)
