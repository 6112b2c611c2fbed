"""What the pure steps of a copy cost the processor, one by one: reading, comparing, encoding, decoding, planning."""

import argparse
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from benchmarks.brokers import SPEC, Master
from benchmarks.field import POLICY
from benchmarks.measures import Bar, Step, Summary, counts, keep, say, summary, table, three
from copier import wire
from copier.clock import SystemClock
from copier.diff import View, apply, diff
from copier.facts import Exposure, Held
from copier.link import Link
from copier.model import Account, Change, MarginMode, MasterFacts, Opened, Quote, Refused, Side
from copier.plan import OpenFacts, plan_open
from copier.policy import FollowerRisk, Mode
from copier.settings import CopySettings

D = Decimal
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
HELD = 10


def measure(step: Step, *, tiny: bool = False) -> dict[str, Any]:
    """Measure each step alone."""
    step("hops: the pure steps")
    times = 20 if tiny else 2000
    master = Master(SystemClock(), held=200, holds=200)
    positions = master.server.positions(1)
    view = View()
    for event in diff(view, positions, MarginMode.HEDGING, Change(master="m", read=1, read_ms=0)):
        view = apply(view, event)
    master.trade()
    after = master.server.positions(1)
    change = Change(master="m", read=2, read_ms=1)
    (opened,) = diff(view, after, MarginMode.HEDGING, change)
    assert isinstance(opened, Opened)
    facts = MasterFacts(currency="USD", balance=D(10**7), equity=D(10**7), free_margin=D(10**7), leverage=100, server_offset_s=0)
    opened = msgspec.structs.replace(opened, spec=SPEC, facts=facts)
    body = wire.encode_event(opened)
    plan = _planning(opened, facts)
    if isinstance(plan(), Refused):
        raise RuntimeError(f"expected a plan, not {plan()}")
    return {
        "hops": {
            "diff of 200 positions, 1 of them new": _timed(lambda: diff(view, after, MarginMode.HEDGING, change), times // 10),
            "diff of 200 positions, nothing new": _timed(lambda: diff(view, positions, MarginMode.HEDGING, change), times // 10),
            "encode an event": _timed(lambda: wire.encode_event(opened), times),
            "decode an event": _timed(lambda: wire.decode_event(body), times),
            f"plan: size and every rule, {HELD} positions open": _timed(plan, times),
        }
    }


def _planning(opened: Opened, master: MasterFacts) -> Callable[[], object]:
    policy = CopySettings.model_validate(POLICY)
    now = SystemClock().now_ms()
    account = Account(
        account="1@Bench", login="1", balance=D(100_000),
        equity=D(100_000), margin=D(0), free_margin=D(100_000), margin_level=D(0),
        profit=D(0), currency="USD", leverage=100, name="1", server="Bench", company="Bench", server_offset_s=0,
    )  # fmt: skip
    quote = Quote(account="1@Bench", symbol="EURUSD", bid=D("1.10000"), ask=D("1.10010"), timestamp=NOON, spec=SPEC)
    held = Exposure(
        symbol="EURUSD", side=Side.BUY, lots=D("0.1"), price=D("1.1"), current=D("1.1"), stop=D("1.09"), spec=SPEC, relation="m"
    )
    link = Link(follower="f", master="m", key="1.1", position=opened.position, absent_ms=now, master_price=D("1.1001"))
    facts = OpenFacts(
        now_ms=now, mode=Mode.LIVE, account=account, account_ms=now, quote=quote, quote_ms=now, master=master, master_spec=SPEC,
        rate=D(1), exposures=Held((held,) * HELD),
    )  # fmt: skip
    risk = FollowerRisk()
    return lambda: plan_open(policy, risk, link, opened.position.lots, facts)


def _timed(work: Callable[[], object], times: int) -> Summary | None:
    samples = []
    for _ in range(times + times // 10):
        began = time.perf_counter_ns()
        work()
        samples.append((time.perf_counter_ns() - began) / 1e6)
    return summary(samples[times // 10 :])


def tables(result: dict[str, Any]) -> str:
    """Return the result in Markdown."""
    return table(["step", "median / 99 of 100 / longest, ms"], [[n, three(s)] for n, s in result["hops"].items()]) + "\n"


def main() -> None:
    """Measure alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    counts(parser)
    options = parser.parse_args()
    with Bar("hops", 1) as step:
        result = measure(step, tiny=options.tiny)
    keep("hops", result)
    say(tables(result))


if __name__ == "__main__":
    main()
