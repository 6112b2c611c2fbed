"""The picture that moves, and a trader's words: what is told is what happened, and it fits the screen."""

import io
import json
import threading
from decimal import Decimal

import pytest
from rich.console import Console

from copier.aside import Aside, writing
from copier.clock import LoopClock, run_virtual
from copier.demo import Demo
from copier.live import JsonView, LiveView, PlainView
from copier.model import Receipt, Side, Stamps, Verdict
from copier.words import copied_stamps, hops, latency, mean_slippage, sentence, was_resized

MONDAY_MS = 1_767_600_000_000
D = Decimal


def console(width: int, height: int) -> Console:
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None, legacy_windows=False)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 32), (110, 40), (160, 60)])
def test_the_picture_never_outgrows_the_screen_and_ends_with_what_happened_last(width: int, height: int) -> None:
    screen = console(width, height)
    heights = []

    async def main() -> str:
        demo = Demo(LoopClock(MONDAY_MS), lambda line: view.tell(line))
        view = LiveView(demo.app, "demo")
        demo.app.listeners.append(view.show)
        demo.app.listeners.append(lambda _: heights.append(len(screen.render_lines(view.picture(), pad=False))))
        async with demo.live(), view.on(screen):
            await demo.play()
        return "\n".join("".join(part.text for part in line) for line in screen.render_lines(view.picture(), pad=False))

    last = run_virtual(main())
    assert max(heights) <= height
    assert "The master closes everything." in last
    assert "netting   closed 0.5 US30: the master closed it" in last
    assert all(name in last for name in ("master", "cross", "netting", "small"))


def receipt(verdict: Verdict = Verdict.COPIED, **more: object) -> Receipt:
    values: dict[str, object] = {
        "at_ms": MONDAY_MS,
        "follower": "f",
        "master": "m",
        "key": "1.1",
        "event": "open",
        "verdict": verdict,
        "code": "copied",
        "symbol": "EURUSD",
        "side": Side.BUY,
        "lots": D("0.25"),
        "price": D("1.10000"),
    }
    return Receipt(**{**values, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (receipt(), "bought 0.25 EURUSD at 1.10000"),
        (receipt(side=Side.SELL, slippage_points=D("0.04")), "sold 0.25 EURUSD at 1.10000, the master's price"),
        (receipt(slippage_points=D(1)), "bought 0.25 EURUSD at 1.10000, 1 point worse than the master"),
        (receipt(slippage_points=D("-2.5")), "bought 0.25 EURUSD at 1.10000, 2.5 points better than the master"),
        (receipt(numbers={"masterLots": "0.50"}), "bought 0.25 EURUSD at 1.10000, for the master's 0.5"),
        (receipt(Verdict.CLOSED, code="closed_by_stop_loss"), "closed 0.25 EURUSD: its stop was hit"),
        (receipt(Verdict.REFUSED, message="the spread is too wide"), "did not copy EURUSD: the spread is too wide"),
        (receipt(Verdict.ALERT, event="limit", message="limit daily has fired"), "limit daily has fired"),
        (receipt(Verdict.ALERT, code="order_lost", message="no sign"), "order lost 0.25 EURUSD: no sign"),
    ],
)
def test_a_receipt_is_told_in_a_traders_words(told: Receipt, words: str) -> None:
    assert sentence(told) == words


@pytest.mark.parametrize("verdict", list(Verdict))
def test_no_verdict_is_without_words(verdict: Verdict) -> None:
    assert "EURUSD" in sentence(receipt(verdict))


def test_the_same_lots_written_otherwise_are_not_resized() -> None:
    assert not was_resized(receipt(numbers={"masterLots": "0.250"}))
    assert was_resized(receipt(numbers={"masterLots": "0.26"}))
    assert not was_resized(receipt(Verdict.CLOSED, numbers={"masterLots": "0.26"}))


def test_latency_is_told_per_hop_and_for_the_whole_way() -> None:
    one = Stamps(read_ms=1000, published_ms=1001, received_ms=1003, decided_ms=1010, sent_ms=1010, answered_ms=1050)
    lost = Stamps(read_ms=1000, published_ms=1001)
    told = hops([one, lost])
    assert {name: each.p50_ms for name, each in told.items()} == {
        "read to published": 1,
        "published to received": 2,
        "received to decided": 7,
        "decided to sent": 0,
        "sent to answered": 40,
        "read to answered": 50,
    }
    assert copied_stamps([receipt(stamps=one), receipt(Verdict.CLOSED, stamps=one)]) == [one]


def test_the_99th_percentile_hides_no_outlier_among_few() -> None:
    assert (latency([5]).p50_ms, latency([5]).p99_ms) == (5, 5)
    assert latency([1, 2, 3, 900]).p99_ms == 900
    assert latency([*range(1, 1001)]).p99_ms == 991


def test_slippage_is_the_mean_of_what_is_known() -> None:
    assert mean_slippage([receipt(slippage_points=D(1)), receipt(slippage_points=D(2)), receipt()]) == D("1.5")
    assert mean_slippage([receipt()]) is None


def test_a_screen_that_stands_still_holds_up_nobody_and_what_it_missed_is_counted() -> None:
    goes_on, written = threading.Event(), list[int]()

    def stand_still() -> None:
        goes_on.wait(60)

    aside = Aside(waiting_max=3)
    aside.put(stand_still)
    for number in range(10):
        aside.put(lambda number=number: written.append(number))  # type: ignore[misc]
    assert aside.left_out >= 6
    assert written == []
    goes_on.set()
    aside.close()
    assert written == list(range(10 - aside.left_out))


def test_a_pipe_that_breaks_stops_no_more_than_what_was_written_to_it() -> None:
    written = []

    def fails() -> None:
        raise BrokenPipeError

    with writing() as aside:
        aside.put(fails)
        aside.put(lambda: written.append("on"))
    assert (written, aside.left_out) == (["on"], 1)


def test_without_a_terminal_every_happening_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    screen = console(40, 10)
    with writing() as aside:
        view = PlainView(screen, aside)
        view.tell("The master buys.")
        view.show(receipt(message="a long reason that does not fit forty columns at all"))
    assert isinstance(screen.file, io.StringIO)
    assert len(screen.file.getvalue().splitlines()) == 2
    with writing() as aside:
        JsonView(aside).show(receipt())
        JsonView(aside).tell("The master buys.")
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[0]["words"] == "bought 0.25 EURUSD at 1.10000"
    assert told[0]["receipt"]["follower"] == "f"
    assert told[1] == {"story": "The master buys."}
