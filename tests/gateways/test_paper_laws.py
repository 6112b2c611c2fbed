"""What holds at the paper broker whatever is traded and however prices move."""

import asyncio
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copier.clock import LoopClock, run_virtual
from copier.errors import OutcomeUnknown, Reason, Rejected, Unavailable
from copier.gateways.comments import comment_with_tag, tag_in
from copier.gateways.paper import PaperGateway
from copier.gateways.paper_account import MarginRule, PaperAccount
from copier.gateways.paper_faults import Answer, Fault, Operation, Stops
from copier.gateways.paper_server import PaperServer
from copier.gateways.paper_symbols import default_symbols
from copier.model import ZERO, CloseRequest, DealEntry, DealReason, DealType, MarginMode, Permit, Side, TradeRequest

D = Decimal
START = {"EURUSD": 110_000, "USDJPY": 150_000, "XAUUSD": 265_000}
DIGITS = {"EURUSD": 5, "USDJPY": 3, "XAUUSD": 2}


class Still:
    def __init__(self):
        self.ms = 1_704_715_200_000

    def now_ms(self):
        return self.ms


symbols = st.sampled_from(sorted(START))
lots = st.integers(1, 300).map(lambda hundredths: D(hundredths) / 100)
trades = st.tuples(st.just("trade"), symbols, st.sampled_from(list(Side)), lots, st.integers(0, 3))
quotes = st.tuples(st.just("quote"), symbols, st.integers(-900, 900), st.integers(0, 40))
closes = st.tuples(st.just("close"), st.integers(0, 10), st.integers(1, 100))
nights = st.tuples(st.just("night"))
histories = st.lists(st.one_of(trades, quotes, closes, nights), min_size=1, max_size=40)
modes = st.sampled_from(list(MarginMode))


def market(mode, currency="USD", **account):
    offered = {name: symbol for name, symbol in default_symbols().items() if name in START}
    server = PaperServer(clock=Still(), symbols=offered)
    server.change_symbol("EURUSD", commission_per_lot="3.5")
    server.add_account(PaperAccount(1, margin_mode=mode, currency=currency, leverage=500, **account))
    prices = dict(START)
    for symbol in sorted(START):
        put(server, prices, symbol, 0, 10)
    return server, prices


def put(server, prices, symbol, move, spread):
    prices[symbol] = max(prices[symbol] + move, 1000)
    point = D(1).scaleb(-DIGITS[symbol])
    server.set_quote(symbol, prices[symbol] * point, (prices[symbol] + spread) * point)


def act(server, prices, step):
    """Do one step of a history; a refusal is part of life."""
    try:
        match step:
            case ("trade", symbol, side, volume, levels):
                quote = server.quotes[symbol]
                price, far = quote.to_close(side), D(500).scaleb(-DIGITS[symbol]) * side.sign
                more = {}
                if levels & 1:
                    more["stop_loss"] = price - far
                if levels & 2:
                    more["take_profit"] = price + far
                (server.buy if side is Side.BUY else server.sell)(1, symbol, volume, **more)
            case ("quote", symbol, move, spread):
                put(server, prices, symbol, move, spread)
            case ("close", index, percent):
                held = server.positions(1)
                if held:
                    position = held[index % len(held)]
                    part = (position.lots * percent / 100).quantize(D("0.01")) or position.lots
                    server.close(1, position.ticket, part)
            case ("night",):
                server.clock.ms += 86_400_000
    except Rejected:
        pass


def run(mode, history, **account):
    server, prices = market(mode, **account)
    for step in history:
        act(server, prices, step)
    return server


@settings(max_examples=150, deadline=None)
@given(modes, histories)
def test_the_balance_is_what_the_deals_add_up_to(mode, history):
    account = run(mode, history).accounts[1]
    assert account.balance == sum((deal.profit + deal.swap + deal.commission for deal in account.deals), ZERO)


@settings(max_examples=150, deadline=None)
@given(modes, histories)
def test_equity_is_always_the_balance_and_what_the_listed_positions_are_worth(mode, history):
    server, prices = market(mode, balance=D(10**6))
    for step in history:
        act(server, prices, step)
        worth = sum((each.profit + each.swap + each.commission for each in server.positions(1)), ZERO)
        assert server.equity(1) == server.accounts[1].balance + worth


@settings(max_examples=150, deadline=None)
@given(modes, histories)
def test_what_is_open_is_what_came_in_less_what_went_out(mode, history):
    account = run(mode, history).accounts[1]
    signed: dict[str, Decimal] = {}
    for deal in account.deals:
        if deal.position_id:
            sign = 1 if deal.type is DealType.BUY else -1
            signed[deal.symbol] = signed.get(deal.symbol, ZERO) + sign * deal.lots
    held: dict[str, Decimal] = dict.fromkeys(signed, ZERO)
    for position in account.positions.values():
        held[position.symbol] += position.side.sign * position.lots
    assert held == signed


@settings(max_examples=150, deadline=None)
@given(modes, histories)
def test_margin_in_use_is_what_the_open_positions_need(mode, history):
    account = run(mode, history).accounts[1]
    needed = ZERO
    for symbol in sorted({each.symbol for each in account.positions.values()}):
        legs = [sum((p.margin for p in account.on(symbol) if p.side is side), ZERO) for side in Side]
        needed += max(legs)
    assert account.margin() == needed


@settings(max_examples=200, deadline=None)
@given(modes, histories)
def test_after_every_price_no_position_stands_beyond_its_levels_or_below_the_stop_out(mode, history):
    server, prices = market(mode)
    account = server.accounts[1]
    for step in history:
        act(server, prices, step)
        if step[0] != "quote":
            continue
        symbol = step[1]
        quote = server.quotes[symbol]
        for each in account.on(symbol):
            price = quote.to_close(each.side)
            assert not each.stop_loss or (price - each.stop_loss) * each.side.sign > 0
            assert not each.take_profit or (each.take_profit - price) * each.side.sign > 0
        if any(account.on(symbol)) and account.margin():
            assert server.equity(1) * 100 > account.margin() * account.stop_out_level


@settings(max_examples=100, deadline=None)
@given(modes, histories, st.sampled_from(["USD", "EUR"]))
def test_looking_only_at_accounts_in_danger_finds_the_same_stop_outs_as_looking_at_all(mode, history, currency):
    def seen(server):
        return [(deal.symbol, deal.lots, deal.price, deal.reason, deal.profit) for deal in server.accounts[1].deals]

    quick = run(mode, history, balance=D(1500), currency=currency)
    careful, prices = market(mode, balance=D(1500), currency=currency)
    for step in history:
        act(careful, prices, step)
        for book in careful.accounts[1].books.values():
            book._safe_for = None
    assert seen(quick) == seen(careful)


@settings(max_examples=100, deadline=None)
@given(histories)
def test_netting_holds_one_position_a_symbol_and_earns_what_hedging_would(history):
    account = {"margin_rule": MarginRule.OFF, "balance": D(10**9), "stop_out_level": ZERO}
    steps = [(*step[:4], 0) if step[0] == "trade" else step for step in history if step[0] in ("trade", "quote")]
    netting, hedging = (run(mode, steps, **account) for mode in (MarginMode.NETTING, MarginMode.HEDGING))
    held = [each.symbol for each in netting.positions(1)]
    assert len(held) == len(set(held))
    for server in (netting, hedging):
        for symbol in START:
            server.set_quote(symbol, server.quotes[symbol].bid, server.quotes[symbol].bid)
    yen = any(step[1] == "USDJPY" for step in steps)
    cents = D("0.01") * (2 * len(steps) + 2)
    if not yen:
        assert abs(netting.equity(1) - hedging.equity(1)) <= cents


@settings(max_examples=100, deadline=None)
@given(modes, histories)
def test_every_stop_out_says_so_and_happened_at_or_below_the_level(mode, history):
    server = run(mode, history, balance=D(1500))
    for deal in server.accounts[1].deals:
        if deal.reason is DealReason.STOP_OUT:
            level = D(deal.comment.strip("[]").removeprefix("so").lstrip(": ").split("%")[0])
            assert level <= 50
            assert deal.entry is DealEntry.OUT


@settings(max_examples=60, deadline=None)
@given(modes, histories)
def test_the_same_history_gives_the_same_deals(mode, history):
    assert run(mode, history).accounts[1].deals == run(mode, history).accounts[1].deals


@settings(deadline=None)
@given(st.integers(1, 30), st.decimals(-50, 50, places=2), st.decimals(-50, 50, places=2), st.data())
def test_costs_set_by_hand_are_booked_to_the_cent_however_the_position_is_cut_up(hundredths, swap, commission, data):
    server, _ = market(MarginMode.HEDGING)
    server.change_symbol("EURUSD", commission_per_lot=ZERO)
    fill = server.buy(1, "EURUSD", D(hundredths) / 100)
    server.set_costs(1, fill.position, swap=swap, commission=commission)
    while fill.position in server.accounts[1].positions:
        left = server.accounts[1].positions[fill.position].lots
        server.close(1, fill.position, D(data.draw(st.integers(1, int(left * 100)))) / 100)
    out = [deal for deal in server.accounts[1].deals if deal.entry is DealEntry.OUT]
    assert sum((deal.swap for deal in out), ZERO) == swap
    assert sum((deal.commission for deal in out), ZERO) == commission


waits = st.sampled_from([0.0, 0.3, 4.0, 9.9, 10.1, 35.0])
faults = st.builds(
    Fault,
    reason=st.sampled_from([None, None, Reason.REQUOTE, Reason.NO_MONEY]),
    fraction=st.sampled_from([None, None, D("0.5")]),
    stops=st.sampled_from(list(Stops)),
    comment=st.sampled_from([None, None, ""]),
    new_ticket=st.booleans(),
    not_sent=st.sampled_from([False, False, True]),
    send_delay_s=waits,
    execute_delay_s=waits,
    answer_delay_s=waits,
    answer=st.sampled_from(list(Answer)),
    executed=st.sampled_from([True, True, False]),
)


@settings(max_examples=300, deadline=None)
@given(modes, faults, st.booleans())
def test_what_a_call_says_it_did_is_what_was_done_now_and_ever_after(mode, fault, closing):
    async def main():
        server = PaperServer(clock=LoopClock(1_704_715_200_000))
        account = server.add_account(PaperAccount(1, margin_mode=mode))
        server.set_quote("EURUSD", "1.10000", "1.10010")
        gateway = PaperGateway(server, 1)
        await gateway.open()
        ticket = server.buy(1, "EURUSD", "0.20").position if closing else 0
        before = len(account.deals)
        gateway.faults.next(Operation.CLOSE if closing else Operation.EXECUTE, fault)
        permit = Permit(token=1, not_after_ms=server.clock.now_ms() + 5000)
        if closing:
            call = gateway.close_position(CloseRequest(ticket=ticket), permit)
        else:
            request = TradeRequest(symbol="EURUSD", action=Side.BUY, lots=D("0.20"), stop_loss=D("1.09"))
            call = gateway.execute_trade(request, permit)
        loop = asyncio.get_running_loop()
        outcome = (await asyncio.gather(call, return_exceptions=True))[0]
        assert loop.time() <= gateway.facts.call_timeout_s
        known = account.deals[before:]
        await asyncio.sleep(200)
        done = account.deals[before:]
        match outcome:
            case OutcomeUnknown():
                assert len(done) <= 1
            case Rejected() | Unavailable():
                assert not done
            case _:
                assert known == done
                assert [deal.lots for deal in done] == [outcome.lots]

    run_virtual(main())


@given(st.from_regex(r"mc[0-9a-z]{6,14}", fullmatch=True), st.text(max_size=31), st.integers(16, 40))
def test_a_tag_comes_back_from_any_comment_it_was_sent_with(tag, comment, length):
    sent = comment_with_tag(tag, comment, length)
    assert len(sent) <= length
    assert tag_in(sent) == tag


@given(st.text(max_size=40).filter(lambda text: not text.startswith("mc")))
def test_no_tag_is_read_from_a_comment_that_has_none(comment):
    assert tag_in(comment) == ""


@pytest.mark.parametrize("comment", ["mc", "mc12345", "mcABCDEF12", "xmc0123456", "mc0123456789012345", "mc0123456!"])
def test_what_only_looks_like_a_tag_is_none(comment):
    assert tag_in(comment) == ""
