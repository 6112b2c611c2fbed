"""What a way into an account adds to a call: the MetaTrader 5 child process, with a stand-in for the package inside."""

import argparse
import asyncio
from typing import Any

from benchmarks import mt5_accounts
from benchmarks.measures import Bar, Step, counts, keep, say, table

ACCOUNTS, SECONDS = 4, 2.0


def measure(step: Step, *, tiny: bool = False) -> dict[str, Any]:
    """Measure each kind of gateway that can be played on this machine."""
    step("gateways: mt5 child processes")
    options = argparse.Namespace(
        accounts=2 if tiny else ACCOUNTS, seconds=0.2 if tiny else SECONDS, pause_ms=50.0, call_timeout_s=3.0
    )
    return {"mt5": asyncio.run(mt5_accounts.measure(options))}


def tables(result: dict[str, Any]) -> str:
    """Return the result in Markdown."""
    found = result["mt5"]
    names = {"get_quote": "`get_quote`", "execute_trade": "`execute_trade`", "close_position": "`close_position`"}
    rows = []
    for name, words in names.items():
        for key, other in (("all_healthy", "idle"), ("one_hangs", "hangs")):
            row = found[key][name]
            rows.append(["mt5 child process", words, other, f"{row['p50_ms']} / {row['p99_ms']} / {row['max_ms']}"])
    head = ["gateway", "operation", "another account's terminal", "median / 99 of 100 / longest, ms"]
    return table(head, rows) + "\n"


def main() -> None:
    """Measure alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    counts(parser)
    options = parser.parse_args()
    with Bar("gateways", 1) as step:
        result = measure(step, tiny=options.tiny)
    keep("gateways", result)
    say(tables(result))


if __name__ == "__main__":
    main()
