"""The application: built from settings, run in virtual time on simulated brokers whose prices walk."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copier.app import SHADOW, App, Everything, Follow, Role, Watch, ledger_file, split_shadow
from copier.clock import LoopClock, SystemClock, run_virtual
from copier.database import MEMORY
from copier.errors import Fenced, SettingsError, StoreError
from copier.gateways.opening import PaperWorld, open_gateway
from copier.gateways.paper import PaperGateway
from copier.gateways.remote import RemoteGateway
from copier.gateways.shadow import ShadowGateway
from copier.ledger import Ledger
from copier.link import Leg, LegState, Link, LinkState
from copier.model import (
    CloseRequest,
    MarginMode,
    MasterPosition,
    ModifyRequest,
    Permit,
    Position,
    Receipt,
    Side,
    TradeRequest,
    Verdict,
)
from copier.settings import Mt5Settings, PaperSettings, Settings, load, parse

D = Decimal
EPOCH_MS = 1_767_600_000_000
CONFIG = Path(__file__).resolve().parent.parent / "config"
LONG_AGO = datetime(2025, 12, 1, tzinfo=UTC)
PERMIT = Permit(token=1, not_after_ms=EPOCH_MS * 2)

TWO = """
ledger: "sqlite://"
accounts:
  m: {kind: paper, login: 1, server: A, balance: 50000}
  f: {kind: paper, login: 2, server: B, balance: 50000, margin_mode: MODE}
masters:
  m: {account: m}
followers:
  f: {account: f, copies: [{master: m, mode: RELATION}]}
"""


def two(relation: str = "live", mode: str = "hedging") -> Settings:
    return parse(TWO.replace("RELATION", relation).replace("MODE", mode))


def live(settings: Settings, tell: Callable[[App], Awaitable[Any]], role: Role | None = None) -> list[Receipt]:
    """Run the app around a story and return the receipts."""
    receipts: list[Receipt] = []

    async def main() -> None:
        async with App(settings, LoopClock(EPOCH_MS), role=role) as app:
            app.listeners.append(receipts.append)
            task = asyncio.create_task(app.run())
            await asyncio.sleep(3)
            await tell(app)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run_virtual(main())
    return receipts


def positions(app: App, server: str, login: int) -> tuple[Position, ...]:
    return app.paper.servers[server].positions(login)


# Running ---------------------------------------------------------------------------------------------------------------


def test_what_a_master_opens_and_closes_its_follower_opens_and_closes() -> None:
    async def tell(app: App) -> None:
        ticket = app.paper.servers["A"].buy(1, "EURUSD", "0.30").position
        await asyncio.sleep(2)
        assert [(p.symbol, p.lots) for p in positions(app, "B", 2)] == [("EURUSD", D("0.30"))]
        app.paper.servers["A"].close(1, ticket)
        await asyncio.sleep(2)
        assert positions(app, "B", 2) == ()

    receipts = live(two(), tell)
    assert [r.verdict for r in receipts if r.verdict is not Verdict.CHANGED] == [Verdict.COPIED, Verdict.CLOSED]


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_runs(path: Path) -> None:
    settings = load(path, {}).model_copy(update={"ledger": two().ledger})

    async def tell(app: App) -> None:
        assert app.worker is not None
        assert [watcher.error for watcher in app.watchers.values()] == [""]
        assert [follower.error for follower in app.worker.followers.values()] == [""] * len(app.following)
        await asyncio.sleep(60)
        assert set(app.accounts) == {account for account, *_ in app.standings()}

    live(settings, tell)


def test_the_same_instrument_costs_the_same_at_every_broker_and_wanders() -> None:
    async def tell(app: App) -> None:
        first = app.paper.servers["A"].quotes["XAUUSD"].bid
        for _ in range(100):
            await asyncio.sleep(0.5)
            ours, theirs = app.paper.servers["A"].quotes["XAUUSD"], app.paper.servers["B"].quotes["XAUUSD"]
            assert (ours.bid, ours.ask) == (theirs.bid, theirs.ask)
        assert ours.bid != first

    live(two(), tell)


def test_what_accounts_are_worth_is_recorded_and_old_records_are_dropped() -> None:
    settings = two().model_copy(update={"schedule": two().schedule.model_copy(update={"equity_s": D(10), "keep_days": 1})})

    async def tell(app: App) -> None:
        await asyncio.sleep(60)
        samples = await app.history.samples("f")
        assert [sample.at_ms - EPOCH_MS for sample in samples] == [2_000 + 10_000 * number for number in range(len(samples))]
        assert len(samples) == 7
        assert (await app.history.latest())["f"] == samples[-1]
        await app.history.keep({"f": app.accounts["f"]}, EPOCH_MS - 2 * 86_400_000)
        await app.trim()
        assert await app.history.samples("f") == samples

    live(settings, tell)


def test_a_control_that_is_set_is_seen_within_two_seconds() -> None:
    async def tell(app: App) -> None:
        await Ledger(app.database, app.clock, "hand").set_control("f", "close_only", "test")
        await asyncio.sleep(2)
        app.paper.servers["A"].buy(1, "EURUSD", "0.30")
        await asyncio.sleep(2)
        assert positions(app, "B", 2) == ()

    receipts = live(two(), tell)
    assert [receipt.code for receipt in receipts] == ["close_only"]


def test_a_master_that_cannot_be_reached_is_tried_until_it_can() -> None:
    async def main() -> None:
        async with App(two(), LoopClock(EPOCH_MS)) as app:
            server = app.paper.servers["A"]
            server.online = False
            task = asyncio.create_task(app.run())
            await asyncio.sleep(5)
            assert "not connected" in app.watchers["m"].error
            server.online = True
            await asyncio.sleep(10)
            server.buy(1, "EURUSD", "0.30")
            await asyncio.sleep(3)
            assert len(positions(app, "B", 2)) == 1
            assert app.watchers["m"].error == ""
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run_virtual(main())


def test_a_follower_that_another_owner_takes_is_left_alone_and_followed_again_when_it_is_given_up() -> None:
    async def tell(app: App) -> None:
        other = Ledger(app.database, app.clock, "other")
        await other.take(["follower:f"])
        app.paper.servers["A"].buy(1, "EURUSD", "0.30")
        await asyncio.sleep(5)
        assert positions(app, "B", 2) == ()
        await other.leases.release(["follower:f"])
        app.paper.servers["A"].buy(1, "EURUSD", "0.20")
        await asyncio.sleep(5)
        assert [p.lots for p in positions(app, "B", 2)] == [D("0.30"), D("0.20")]

    live(two(), tell)


def test_it_ends_when_another_takes_its_name() -> None:
    async def main() -> None:
        async with App(two(), LoopClock(EPOCH_MS)) as app:
            task = asyncio.create_task(app.run())
            await asyncio.sleep(3)
            await Ledger(app.database, app.clock, "other").take(["worker:main"])
            with pytest.raises(Fenced, match="every worker needs one of its own"):
                await task

    run_virtual(main())


# Roles -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [Watch(("m",)), Follow("w")])
def test_a_part_of_the_engine_refuses_a_stream_that_nobody_else_can_see(role: Role) -> None:
    with pytest.raises(SettingsError, match="lives inside one process"):
        App(two(), SystemClock(), role=role)


@pytest.mark.parametrize("role", [Watch(("nobody",)), Follow("w", ("nobody",))])
def test_a_name_that_is_not_set_is_refused_with_those_that_are(role: Role) -> None:
    settings = two().model_copy(update={"redis": parse("redis: redis://127.0.0.1:1/0").redis})
    with pytest.raises(SettingsError, match="nobody: expected one of"):
        App(settings, SystemClock(), role=role)


def test_settings_with_nobody_to_watch_or_to_follow_with_are_refused() -> None:
    with pytest.raises(SettingsError, match="nothing to do"):
        App(parse("accounts: {a: {kind: paper, login: 1}}"), SystemClock())


def test_each_role_builds_its_part_alone() -> None:
    settings = two().model_copy(update={"redis": parse("redis: redis://127.0.0.1:1/0").redis})
    watching, following = App(settings, SystemClock(), role=Watch(("m",))), App(settings, SystemClock(), role=Follow("w"))
    assert (list(watching.watchers), watching.worker, list(watching.gateways)) == (["m"], None, ["m"])
    assert (list(following.watchers), following.following, list(following.gateways)) == ([], ("f",), ["f"])


async def test_without_redis_it_does_not_begin() -> None:
    settings = two().model_copy(update={"redis": parse("redis: redis://127.0.0.1:1/0").redis})
    app = App(settings, SystemClock())
    with pytest.raises(StoreError):
        await app.__aenter__()


async def test_a_second_process_of_the_same_role_ends_at_once_and_the_first_one_works_on(tmp_path: Path) -> None:
    settings = two().model_copy(update={"ledger": parse(f"ledger: sqlite:///{tmp_path.as_posix()}/l.db").ledger})
    async with App(settings, SystemClock()):
        with pytest.raises(Fenced, match=r"watcher:m: another process on this machine already does this"):
            await App(settings, SystemClock()).__aenter__()
        with pytest.raises(Fenced, match="watcher:m"):  # The failed try has let go of nothing of ours.
            await App(settings, SystemClock(), role=Everything("other")).__aenter__()
    async with App(settings, SystemClock()):
        pass


async def test_watcher_and_worker_apart_copy_over_redis(tmp_path: Path, needs_redis: Any) -> None:
    await copy_apart(needs_redis.url, f"sqlite:///{tmp_path.as_posix()}/l.db")


async def test_watcher_and_worker_apart_share_a_ledger_on_a_server(needs_redis: Any, needs_postgres: str) -> None:
    await copy_apart(needs_redis.url, needs_postgres)


async def copy_apart(redis: str, ledger: str) -> None:
    settings = parse(TWO.replace("RELATION", "live").replace("MODE", "hedging").replace('"sqlite://"', f'"{ledger}"'))
    settings = settings.model_copy(update={"redis": parse(f"redis: {redis}").redis})
    paper = PaperWorld(SystemClock())
    watching = App(settings, SystemClock(), role=Watch(("m",)), paper=paper)
    following = App(settings, SystemClock(), role=Follow("w"), paper=paper)
    for server in paper.servers.values():
        server.set_quote("EURUSD", "1.10000", "1.10010")

    async def until(done: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not done():  # noqa: ASYNC110 - a real server and real time
                await asyncio.sleep(0.01)

    def started() -> bool:
        followers = following.worker.followers.values() if following.worker is not None else ()
        return any(relation.started for follower in followers for relation in follower.relations.values())

    async with watching, following:
        tasks = [asyncio.create_task(watching.run()), asyncio.create_task(following.run())]
        await until(started)
        ticket = paper.servers["A"].buy(1, "EURUSD", "0.30").position
        await until(lambda: len(positions(following, "B", 2)) == 1)
        paper.servers["A"].close(1, ticket)
        await until(lambda: positions(following, "B", 2) == ())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_a_ledger_in_memory_or_on_a_server_has_no_file() -> None:
    assert ledger_file(two()) is None
    assert ledger_file(parse("ledger: postgresql://user@host/name")) is None
    assert ledger_file(parse("ledger: sqlite:///some/l.db?timeout=5")) == Path("some/l.db")


# Accounts --------------------------------------------------------------------------------------------------------------


def paper(**more: Any) -> PaperSettings:
    return PaperSettings.model_validate({"kind": "paper", "login": 1, **more})


def test_accounts_that_name_one_server_share_it() -> None:
    world = PaperWorld(SystemClock())
    first, second = world.gateway(paper(login=1)), world.gateway(paper(login=2, currency="EUR"))
    assert first.server is second.server
    assert sorted(first.server.accounts) == [1, 2]


def test_one_server_cannot_have_two_lists_of_symbols() -> None:
    world = PaperWorld(SystemClock())
    world.gateway(paper())
    with pytest.raises(SettingsError, match="expected the symbols and quotes of account 1"):
        world.gateway(paper(login=2, symbols={"suffix": ".r"}))


def test_a_brokers_own_names_and_contracts_are_those_of_its_settings() -> None:
    names = {"prefix": "x", "suffix": ".r", "overrides": {"XAUUSD": {"contract_size": 10, "volume_min": "0.1"}}}
    gold = PaperWorld(SystemClock()).gateway(paper(symbols=names)).server.symbols["xXAUUSD.r"].spec
    assert (gold.contract_size, gold.volume_min, gold.tick_value) == (10, D("0.1"), D("0.1"))


def test_every_kind_of_account_has_its_gateway() -> None:
    world = PaperWorld(SystemClock())
    assert isinstance(open_gateway(paper(), SystemClock(), world), PaperGateway)
    mt5 = Mt5Settings.model_validate({"kind": "mt5", "login": 1, "server": "S"})
    assert isinstance(open_gateway(mt5, SystemClock(), world), RemoteGateway)


def test_simulated_tickets_are_not_those_of_an_earlier_run() -> None:
    async def ticket() -> int:
        server = PaperWorld(clock).gateway(paper()).server
        server.set_quote("EURUSD", "1.1", "1.1001")
        return server.buy(1, "EURUSD", "0.1").position

    clock = LoopClock(EPOCH_MS)
    first = run_virtual(ticket())
    clock = LoopClock(EPOCH_MS + 60_000)
    assert run_virtual(ticket()) > first > 1_000_001


def test_recorded_ticks_are_played(tmp_path: Path) -> None:
    lines = ["time_utc,bid,ask", "2026-01-05T08:00:00+00:00,1.20000,1.20010", "2026-01-05T08:00:05+00:00,1.21000,1.21010"]
    (tmp_path / "EURUSD.csv").write_text("\n".join(lines), encoding="utf-8")

    async def main() -> None:
        world = PaperWorld(LoopClock(EPOCH_MS))
        gateway = world.gateway(paper(quotes={"kind": "ticks", "folder": str(tmp_path)}, symbols={"suffix": "+"}))
        task = asyncio.create_task(world.run())
        await asyncio.sleep(1)
        assert gateway.server.quotes["EURUSD+"].bid == D("1.2")
        await asyncio.sleep(5)
        assert gateway.server.quotes["EURUSD+"].bid == D("1.21")
        await task

    run_virtual(main())


# Shadow ----------------------------------------------------------------------------------------------------------------


def test_relations_in_shadow_have_a_follower_of_their_own() -> None:
    copies = [{"master": "a"}, {"master": "b", "mode": "shadow"}]
    settings = parse(TWO.replace("RELATION", "live").replace("MODE", "hedging")).followers["f"]
    parsed = type(settings).model_validate({"account": "f", "copies": copies})
    assert {twin: [c.master for c in part] for twin, part in split_shadow("f", parsed.copies).items()} == {
        "f": ["a"],
        f"f{SHADOW}": ["b"],
    }


@pytest.mark.parametrize("mode", list(MarginMode))
def test_a_shadow_decides_everything_and_sends_nothing(mode: MarginMode) -> None:
    async def tell(app: App) -> None:
        real = app.paper.servers["B"]
        before = list(real.accounts[2].deals)
        ticket = app.paper.servers["A"].buy(1, "EURUSD", "0.30").position
        await asyncio.sleep(2)
        app.paper.servers["A"].close(1, ticket, "0.10")
        await asyncio.sleep(2)
        assert app.worker is not None
        (link,) = app.worker.followers[f"f{SHADOW}"].links.values()
        assert link.lots == D("0.20")
        app.paper.servers["A"].close(1, ticket)
        await asyncio.sleep(2)
        (link,) = app.worker.followers[f"f{SHADOW}"].links.values()
        assert not link.living
        assert real.accounts[2].deals == before

    receipts = live(two("shadow", mode.value), tell)
    assert {receipt.follower for receipt in receipts} == {f"f{SHADOW}"}
    assert [r.code for r in receipts if r.verdict is not Verdict.ADOPTED][:2] == ["copied", "reduced"]


def link_of(*legs: Leg) -> Link:
    position = MasterPosition(
        identifier=1,
        ticket=1,
        symbol="EURUSD",
        side=Side.BUY,
        lots=D("0.5"),
        lots_opened=D("0.5"),
        open_price=D("1.1"),
        open_time=LONG_AGO,
    )
    return Link(follower="f~shadow", master="m", key="1.1", position=position, state=LinkState.COPIED, symbol="EURUSD", legs=legs)


def leg(number: int, lots: str, side: Side = Side.BUY) -> Leg:
    return Leg(
        tag=f"mc0001{number:05}",
        side=side,
        asked=D(lots),
        state=LegState.OPEN,
        filled=D(lots),
        lots=D(lots),
        ticket=9_000_000_000 + number,
        identifier=9_000_000_000 + number,
        price=D("1.1"),
    )


def shadow_of(mode: MarginMode, links: list[Link], tell: Callable[[ShadowGateway, PaperGateway], Awaitable[None]]) -> None:
    async def main() -> None:
        clock = LoopClock(EPOCH_MS)
        real = PaperWorld(clock).gateway(paper(margin_mode=mode.value))
        real.server.set_quote("EURUSD", "1.10000", "1.10010")
        gateway = ShadowGateway(real, clock)
        gateway.restore(links)
        await gateway.open()
        try:
            await tell(gateway, real)
            assert real.server.positions(1) == ()
        finally:
            await gateway.close()

    run_virtual(main())


@pytest.mark.parametrize("mode", [MarginMode.HEDGING, MarginMode.MT4])
def test_a_shadow_begins_with_what_the_ledger_has_of_it(mode: MarginMode) -> None:
    async def tell(shadow: ShadowGateway, _: PaperGateway) -> None:
        held = (await shadow.get_positions()).positions
        assert [(p.ticket, p.lots, p.tag) for p in held] == [
            (9_000_000_001, D("0.3"), "mc000100001"),
            (9_000_000_002, D("0.2"), "mc000100002"),
        ]
        await shadow.close_position(CloseRequest(ticket=9_000_000_001), PERMIT)
        assert [p.ticket for p in (await shadow.get_positions()).positions] == [9_000_000_002]

    shadow_of(mode, [link_of(leg(1, "0.3"), leg(2, "0.2"))], tell)


def test_a_shadow_on_a_netting_account_begins_with_the_sum() -> None:
    async def tell(shadow: ShadowGateway, _: PaperGateway) -> None:
        (held,) = (await shadow.get_positions()).positions
        assert (held.type, held.lots) == (Side.SELL, D("0.1"))

    shadow_of(MarginMode.NETTING, [link_of(leg(1, "0.3"), leg(2, "0.2")), link_of(leg(3, "0.6", Side.SELL))], tell)


def test_a_shadow_whose_legs_cancel_out_begins_flat() -> None:
    async def tell(shadow: ShadowGateway, _: PaperGateway) -> None:
        assert (await shadow.get_positions()).positions == ()

    shadow_of(MarginMode.NETTING, [link_of(leg(1, "0.3")), link_of(leg(3, "0.3", Side.SELL))], tell)


def test_a_simulated_stop_is_reached_by_the_real_price() -> None:
    async def tell(shadow: ShadowGateway, real: PaperGateway) -> None:
        request = TradeRequest(symbol="EURUSD", action=Side.BUY, lots=D("0.1"), tag="mc000100001")
        done = await shadow.execute_trade(request, PERMIT)
        await shadow.modify_position(ModifyRequest(ticket=done.ticket, stop_loss=D("1.09")), PERMIT)
        real.server.set_quote("EURUSD", "1.08990", "1.09000")
        await asyncio.sleep(2)
        assert (await shadow.get_positions()).positions == ()
        assert [deal.reason for deal in await shadow.get_deals(LONG_AGO)][-1] == "sl"

    shadow_of(MarginMode.HEDGING, [], tell)


def test_a_shadow_is_content_with_an_investor_login() -> None:
    async def tell(shadow: ShadowGateway, real: PaperGateway) -> None:
        real.server.accounts[1].investor = True
        assert (await shadow.get_account()).trade_allowed

    shadow_of(MarginMode.HEDGING, [], tell)


def test_the_ledger_of_these_tests_is_in_memory() -> None:
    assert two().ledger.get_secret_value() == MEMORY
