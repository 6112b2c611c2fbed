"""Receipts in a trader's words, and what copies took and cost."""

from collections.abc import Iterable
from decimal import Decimal

from copier.model import ZERO, Receipt, Record, Stamps, Verdict
from copier.steps import plain

HOPS = (
    ("read to published", "read_ms", "published_ms"),
    ("published to received", "published_ms", "received_ms"),
    ("received to decided", "received_ms", "decided_ms"),
    ("decided to sent", "decided_ms", "sent_ms"),
    ("sent to answered", "sent_ms", "answered_ms"),
)
_WHY = {
    "master_closed": "the master closed it",
    "master_closed_unseen": "the master closed it while nobody looked",
    "master_reversed": "the master reversed it",
    "flattened": "a person or a loss limit wants everything closed",
    "window_ended": "the trading hours ended",
    "master_silent": "nothing was heard of the master for too long",
    "unprotected": "its stop could not be set",
    "orphan": "nobody wants it any more",
    "closed_by_stop_loss": "its stop was hit",
    "closed_by_take_profit": "its target was hit",
    "closed_by_stop_out": "the broker stopped it out",
    "closed_by_client": "someone closed it by hand",
    "closed_by_unknown": "it is gone, and no deal says why",
}


class Latency(Record, frozen=True, kw_only=True):
    """How long something took, in milliseconds."""

    count: int
    p50_ms: int
    p99_ms: int


def sentence(receipt: Receipt) -> str:
    """Say what one receipt means, without the follower's name."""
    what = " ".join(filter(None, [plain(receipt.lots) if receipt.lots else "", receipt.symbol]))
    if receipt.event == "limit":
        return receipt.message
    match receipt.verdict:
        case Verdict.COPIED:
            did = {"buy": "bought", "sell": "sold", "": "opened"}[receipt.side or ""]
            return f"{did} {what} at {receipt.price:f}{_slipped(receipt)}{_resized(receipt)}{_because(receipt.message)}"
        case Verdict.CHANGED if receipt.code == "levels_set":
            return f"moved stop and target of {what} to the master's"
        case Verdict.CHANGED if receipt.code == "reduced":
            return f"closed {what}, a part, as the master did"
        case Verdict.CLOSED:
            return f"closed {what}{_because(_WHY.get(receipt.code, ''))}"
        case Verdict.REFUSED:
            return f"did not copy {receipt.symbol}: {receipt.message or receipt.code}"
        case Verdict.FAILED:
            return f"could not {receipt.event} {what}: {receipt.message or receipt.code}"
        case Verdict.UNKNOWN:
            return f"does not know yet whether {what} was executed, and asks the broker before anything else"
        case Verdict.ADOPTED:
            return f"found its order executed at the broker: {what}"
        case Verdict.SKIPPED:
            return f"left {receipt.symbol} alone{_because(receipt.message or receipt.code)}"
        case _:
            return f"{receipt.code.replace('_', ' ')} {what}".strip() + _because(receipt.message)


def hops(stamps: Iterable[Stamps]) -> dict[str, Latency]:
    """Return the latency of every hop that was passed, and of all of them as `read to answered`."""
    known = [each for each in stamps if each.answered_ms and each.read_ms]
    found = {}
    for name, start, end in (*HOPS, ("read to answered", "read_ms", "answered_ms")):
        times = [getattr(each, end) - getattr(each, start) for each in known if getattr(each, start) and getattr(each, end)]
        if times:
            found[name] = latency(times)
    return found


def latency(times_ms: Iterable[int]) -> Latency:
    """Return the median and the 99th percentile of at least one time."""
    ordered = sorted(times_ms)
    last = len(ordered) - 1
    return Latency(count=len(ordered), p50_ms=ordered[last // 2], p99_ms=ordered[-(-last * 99 // 100)])


def copied_stamps(receipts: Iterable[Receipt]) -> list[Stamps]:
    """Return when each copied open passed each hop."""
    return [receipt.stamps for receipt in receipts if receipt.verdict is Verdict.COPIED and receipt.stamps is not None]


def mean_slippage(receipts: Iterable[Receipt]) -> Decimal | None:
    """Return by how many points copies were worse than the master's fills on average, None without any."""
    points = [receipt.slippage_points for receipt in receipts if receipt.slippage_points is not None]
    return round(sum(points, ZERO) / len(points), 1) if points else None


def was_resized(receipt: Receipt) -> bool:
    """Say whether a copy's size is another than the master's."""
    return receipt.verdict is Verdict.COPIED and receipt.lots != Decimal(receipt.numbers.get("masterLots", receipt.lots))


def _slipped(receipt: Receipt) -> str:
    if receipt.slippage_points is None:
        return ""
    points = round(receipt.slippage_points, 1)
    if not points:
        return ", the master's price"
    return f", {plain(abs(points))} point{'' if abs(points) == 1 else 's'} {'worse' if points > 0 else 'better'} than the master"


def _resized(receipt: Receipt) -> str:
    return f", for the master's {_short(receipt.numbers['masterLots'])}" if was_resized(receipt) else ""


def _short(number: str) -> str:
    return plain(Decimal(number))


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
