"""What the engine itself must show at the end of a history: rest, a true ledger, receipts in order, and no secret."""

from collections.abc import Iterator
from decimal import Decimal

import sqlalchemy as sa

from copier import database as db
from copier.link import LegState
from copier.model import MarginMode, Verdict
from tests.simulation.history import History
from tests.simulation.redis import SECRET

ZERO = Decimal(0)


def judge_engine(history: History) -> list[str]:
    """Return what is wrong with what the engine says of itself."""
    return [*_unrest(history), *_untrue(history), *_reopened(history), *_betrayed(history)]


def _unrest(history: History) -> Iterator[str]:
    worker = history.worker
    if worker.error:
        yield f"worker still says: {worker.error}"
    for name, watcher in history.watchers.items():
        if watcher.error:
            yield f"watcher of {name} still says: {watcher.error}"
    for name, follower in worker.followers.items():
        if follower.error:
            yield f"{name} still says: {follower.error}"
        for link in follower.links.values():
            if link.cut is not None:
                yield f"{name}: a cut of {link.name} is still on its way"
            if any(leg.state in (LegState.SENDING, LegState.UNKNOWN) for leg in link.legs):
                yield f"{name}: an order of {link.name} is still unknown"


def _untrue(history: History) -> Iterator[str]:
    """Yield what is believed open and is not, or not so much."""
    for plan in history.plan.followers:
        account = history.brokers[plan.name].account
        legs = [
            (link, leg) for link in history.links.get(plan.name, {}).values() for leg in link.legs if leg.state is LegState.OPEN
        ]
        if plan.mode is not MarginMode.NETTING:
            for _, leg in legs:
                position = account.positions.get(leg.ticket)
                if position is None or position.lots != leg.lots:
                    held = position.lots if position is not None else "nothing"
                    yield f"{plan.name}: {leg.tag} is believed to be {leg.lots} lots, ticket {leg.ticket} holds {held}"
            continue
        by_hand = history.brokers[plan.name].by_hand
        net = {p.symbol: p.lots * p.side.sign for p in account.positions.values() if p.ticket not in by_hand}
        believed: dict[str, Decimal] = {}
        for link, leg in legs:
            believed[link.symbol] = believed.get(link.symbol, ZERO) + leg.lots * leg.side.sign
        for symbol in sorted(net.keys() | believed.keys()):
            if net.get(symbol, ZERO) != believed.get(symbol, ZERO):
                yield f"{plan.name}: {symbol} is believed to be {believed.get(symbol, ZERO)}, holds {net.get(symbol, ZERO)}"


def _reopened(history: History) -> Iterator[str]:
    """Yield copies that were opened after their master had closed them here."""
    closed = set()
    for receipt in history.receipts:
        name = (receipt.follower, receipt.master, receipt.key)
        if receipt.event == "close" and receipt.verdict is Verdict.CLOSED:
            closed.add((*name, receipt.code))
        elif receipt.verdict is Verdict.COPIED and (*name, "master_closed") in closed:
            yield f"{name} was opened after it had been closed"


def _betrayed(history: History) -> Iterator[str]:
    """Yield where the stream's secret shows."""
    bodies = history.database.read(sa.select(db.journal.c.body))
    if any(SECRET in bytes(body) for (body,) in bodies):
        yield "the journal holds the stream's secret"
    if any(SECRET.decode() in line for line in history.trace):
        yield "the log shows the stream's secret"
