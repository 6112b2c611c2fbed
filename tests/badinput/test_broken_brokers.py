"""A broker whose rules or prices for one symbol cannot be reckoned with, and an event that speaks of another master."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from copier import wire
from copier.clock import run_virtual
from copier.model import MarginMode, Quote, Verdict
from copier.stream import KEY, EntryId, open_stream
from tests.badinput.doors import DOORS
from tests.world import D, World, one, story

replace = msgspec.structs.replace
BROKEN: dict[str, dict[str, Any]] = {
    "no step": {"volume_step": D(0)},
    "a negative step": {"volume_step": D("-0.01")},
    "a tiny step": {"volume_step": D("1e-30"), "volume_min": D("1e-30")},
    "no tick": {"tick_size": D(0), "point": D(0)},
    "a huge tick": {"tick_size": D("1e20")},
    "a huge contract": {"contract_size": D("1e25")},
    "numbers that are none": {"volume_step": D("NaN"), "tick_size": D("Infinity"), "contract_size": D("NaN")},
}


def spoil(world: World, symbol: str, rules: dict[str, Any], **prices: Decimal) -> None:
    """Let the follower's broker state these rules and prices for a symbol, past every check of the wire."""
    gateway = world.accounts["f"].gateway
    honest = gateway.get_quote

    async def spoilt(asked: str) -> Quote:
        quote = await honest(asked)
        return replace(quote, spec=replace(quote.spec, **rules), **prices) if asked == symbol else quote

    gateway.get_quote = spoilt  # type: ignore[method-assign]


@pytest.mark.parametrize("name", BROKEN)
def test_a_symbol_whose_rules_are_broken_is_refused_and_holds_up_nothing_else(name: str) -> None:
    async def tell(world: World) -> None:
        spoil(world, "XAUUSD", BROKEN[name])
        world.buy("XAUUSD", "0.50", stop_loss=D(2600))
        other = world.buy("EURUSD", "1.00", stop_loss=D("1.09"))
        await world.settle(5)
        assert world.net_is("XAUUSD", "0")
        assert world.net_is("EURUSD", "1.00")
        (refused,) = [r for r in await world.receipts() if r.verdict is Verdict.REFUSED]
        assert (refused.code, refused.symbol) == ("symbol_spec_unusable", "XAUUSD")
        world.close(other, "0.40")
        await world.settle(5)
        assert world.net_is("EURUSD", "0.60")
        assert world.follower().error == ""

    story(lambda: World(MarginMode.HEDGING, one(MarginMode.HEDGING, {"symbols": {"map": {"XAUUSD": "XAUUSD"}}})), tell)


@pytest.mark.parametrize("name", BROKEN)
def test_a_copy_whose_rules_break_later_is_closed_with_the_master_and_holds_up_nothing_else(name: str) -> None:
    async def tell(world: World) -> None:
        gold = world.buy("XAUUSD", "0.50", stop_loss=D(2600))
        other = world.buy("EURUSD", "1.00", stop_loss=D("1.09"))
        await world.settle(5)
        assert world.net_is("XAUUSD", "0.50")
        spoil(world, "XAUUSD", BROKEN[name])
        world.master.server.set_levels(1, gold, D(2610), D(0))
        world.buy("XAUUSD", "0.10")
        world.close(gold, "0.20")
        world.close(other, "0.40")
        await world.settle(10)
        assert world.net_is("EURUSD", "0.60")
        world.close(gold)
        await world.settle(10)
        assert world.net_is("XAUUSD", "0")
        world.close(other)
        await world.settle(5)
        assert world.net_is("EURUSD", "0")

    story(lambda: World(MarginMode.HEDGING, one(MarginMode.HEDGING)), tell)


@pytest.mark.parametrize("seed", range(7))
def test_an_entry_that_speaks_of_another_master_is_not_believed(seed: int) -> None:
    event = wire.decode_event(DOORS["entry"].seeds[seed].partition(b"\n")[2])

    async def main() -> None:
        stream = open_stream("memory://")
        body = wire.encode_event(replace(event, master="silver"))
        await stream._client.xadd(KEY.format("gold"), {b"e": body}, id="1-1")
        await stream._client.xadd(KEY.format("gold"), {b"e": wire.encode_event(replace(event, master="gold"))}, id="1-2")
        first, second = await stream.read({"gold": EntryId()}, block_ms=1)
        assert first.event is None
        assert second.event == replace(event, master="gold")
        await stream.close()

    run_virtual(main())
