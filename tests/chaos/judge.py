"""The independent checker: what the brokers' own logs say went wrong, and nothing that the engine says of itself."""

from collections import Counter
from decimal import Decimal
from typing import Any


def judge(report: dict[str, Any]) -> list[str]:
    """Return what is not as it must be once all is quiet: lost, doubled, touched."""
    found = []
    wanted = _counted(report["master"])
    for follower in report["followers"]:
        who = f"{follower['mode']} {follower['login']}"
        if follower["mode"] == "netting":
            if _net(follower["ours"]) != _net(report["master"]):
                found.append(f"{who} holds {_net(follower['ours'])}, expected {_net(report['master'])}")
        else:
            held = _counted(follower["ours"])
            found += [f"{who} lacks {n} x {what}" for what, n in sorted((wanted - held).items())]
            found += [f"{who} holds {n} x {what} too much" for what, n in sorted((held - wanted).items())]
    return found + wrong_for_ever(report)


def wrong_for_ever(report: dict[str, Any]) -> list[str]:
    """Return what no later moment can mend: an order executed twice, more opened than the master did, another hand's touched."""
    found = []
    for follower in report["followers"]:
        who = f"{follower['mode']} {follower['login']}"
        nets = follower["mode"] == "netting"  # There deals carry the name their position has: only the volume tells.
        found += [f"{who} executed {tag} {n} times" for tag, n in follower["openings"].items() if n > 1 and not nets]
        if not nets and sum(follower["openings"].values()) > report["opened"]:
            found.append(f"{who} opened {sum(follower['openings'].values())}, the master {report['opened']}")
        if follower["foreign"] != follower["expected_foreign"]:
            found.append(f"{who}: another hand's {follower['expected_foreign']} became {follower['foreign']}")
    return found


def _counted(rows: list[list[str]]) -> "Counter[tuple[str, str, Decimal, Decimal]]":
    return Counter((symbol, side, Decimal(lots), Decimal(stop)) for symbol, side, lots, stop, *_ in rows)


def _net(rows: list[list[str]]) -> dict[str, Decimal]:
    sums: dict[str, Decimal] = {}
    for symbol, side, lots, *_ in rows:
        sums[symbol] = sums.get(symbol, Decimal(0)) + Decimal(lots) * (1 if side == "buy" else -1)
    return {symbol: lots for symbol, lots in sums.items() if lots}
