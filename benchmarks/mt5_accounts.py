"""Twenty MetaTrader 5 accounts in one worker: what quotes and orders of nineteen take while the twentieth's terminal hangs.

The children are processes of their own, as in production; each has a stand-in for the MetaTrader5 package inside. So this
measures the engine's side, its pipes and processes, and no terminal, no network and no broker.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
import types
from collections.abc import Awaitable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from copier.clock import SystemClock
from copier.errors import GatewayError, OutcomeUnknown
from copier.gateways.mt5 import mt5_gateway
from copier.gateways.remote import RemoteGateway
from copier.model import CloseRequest, Permit, Side, TradeRequest
from copier.settings import Mt5Settings

ACCOUNTS = 20
FIRST_LOGIN = 6001
SERVER = "Broker-Demo"
DEADLY = "XAUUSD"
"""An order in this symbol never comes back."""
RESULTS = Path(__file__).with_name("results") / "mt5_accounts.json"
D = Decimal
T = TypeVar("T")
Samples = dict[str, list[float]]


def terminal_path(login: int) -> str:
    return f"C:\\Terminals\\{login}\\terminal64.exe"


# The child ---------------------------------------------------------------------------------------------------------------


def child(login: int, folder: str) -> int:
    """Serve one account over standard streams, with a terminal and a broker that live in this process."""
    from copier.gateways import mt5_child
    from copier.gateways.paper_account import PaperAccount
    from copier.gateways.paper_server import PaperServer
    from tests.fakes.fake_metatrader5 import FakeMetaTrader5, FakeTerminal

    server = PaperServer(SERVER, clock=SystemClock(), server_offset_s=7200)
    server.add_account(PaperAccount(login))
    server.set_quote("EURUSD", "1.10000", "1.10010")
    server.set_quote(DEADLY, "2650.50", "2650.80")
    api = FakeMetaTrader5(
        FakeTerminal(server=server, login=login, path=terminal_path(login), data_path=folder, selected={"EURUSD", DEADLY})
    )

    class Package(types.ModuleType):
        __version__ = "5.0.6231"

        def order_send(self, request: dict[str, Any]) -> Any:
            while request["symbol"] == DEADLY:
                time.sleep(3600)
            return api.order_send(request)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return getattr(api, name)

    sys.modules["MetaTrader5"] = Package("MetaTrader5")
    return mt5_child.main()


# The worker --------------------------------------------------------------------------------------------------------------


def gateway_to(login: int, folder: str, call_timeout_s: float) -> RemoteGateway:
    settings = Mt5Settings.model_validate(
        {
            "kind": "mt5",
            "login": login,
            "server": SERVER,
            "path": terminal_path(login),
            "sync_s": 0,
            "call_timeout_s": call_timeout_s,
        }
    )
    command = (sys.executable, "-m", "benchmarks.mt5_accounts", "--child", str(login), folder)
    return mt5_gateway(settings, SystemClock(), command)


def permit() -> Permit:
    return Permit(token=1, not_after_ms=SystemClock().now_ms() + 60_000)


async def timed(samples: list[float], call: Awaitable[T]) -> T:
    began = time.perf_counter()
    answer = await call
    samples.append((time.perf_counter() - began) * 1000)
    return answer


async def trade_for(gateway: RemoteGateway, seconds: float, pause_s: float, samples: Samples) -> None:
    """Quote, open and close, again and again."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        quote = await timed(samples["get_quote"], gateway.get_quote("EURUSD"))
        order = TradeRequest(symbol=quote.symbol, action=Side.BUY, lots=D("0.10"))
        opened = await timed(samples["execute_trade"], gateway.execute_trade(order, permit()))
        await timed(samples["close_position"], gateway.close_position(CloseRequest(ticket=opened.ticket), permit()))
        await asyncio.sleep(pause_s)


async def copy_at_once(gateways: Sequence[RemoteGateway], rounds: int, samples: Samples) -> None:
    """Send one order to every account at the same moment, and take the time until the last answer."""
    for _ in range(rounds):
        order = TradeRequest(symbol="EURUSD", action=Side.BUY, lots=D("0.10"))
        opened = await timed(
            samples["all at once"], asyncio.gather(*(gateway.execute_trade(order, permit()) for gateway in gateways))
        )
        closes = zip(gateways, opened, strict=True)
        await asyncio.gather(*(each.close_position(CloseRequest(ticket=result.ticket), permit()) for each, result in closes))


async def hang(gateway: RemoteGateway, unknown: list[float]) -> None:
    """Keep an order that never comes back under way, for ever; every deadline ends one and begins the next."""
    order = TradeRequest(symbol=DEADLY, action=Side.BUY, lots=D("0.10"))
    while True:
        began = time.perf_counter()
        try:
            await gateway.execute_trade(order, permit())
        except OutcomeUnknown:
            unknown.append(time.perf_counter() - began)
        except GatewayError:
            await asyncio.sleep(0.1)  # Its next child is being started.


async def phase(gateways: Sequence[RemoteGateway], options: argparse.Namespace) -> Samples:
    samples: Samples = {"get_quote": [], "execute_trade": [], "close_position": [], "all at once": []}
    await asyncio.gather(*(trade_for(each, options.seconds, options.pause_ms / 1000, samples) for each in gateways))
    await copy_at_once(gateways, 10, samples)
    return samples


def summary(samples: list[float]) -> dict[str, float]:
    ordered = sorted(samples)

    def share(part: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * part))], 2)

    return {"count": len(ordered), "p50_ms": share(0.5), "p95_ms": share(0.95), "p99_ms": share(0.99), "max_ms": share(1.0)}


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        gateways = [gateway_to(FIRST_LOGIN + each, folder, options.call_timeout_s) for each in range(options.accounts)]
        try:
            began = time.perf_counter()
            await asyncio.gather(*(gateway.open() for gateway in gateways))
            start_s = time.perf_counter() - began
            patient, others = gateways[0], gateways[1:]
            healthy = await phase(others, options)
            unknown: list[float] = []
            hanging = asyncio.create_task(hang(patient, unknown))
            await asyncio.sleep(0.2)
            one_hangs = await phase(others, options)
            still = not hanging.done()
            hanging.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await hanging
        finally:
            await asyncio.gather(*(gateway.close() for gateway in gateways))
    return {
        "accounts": options.accounts,
        "pause_ms": options.pause_ms,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
        "start_all_s": round(start_s, 2),
        "call_timeout_s": options.call_timeout_s,
        "hung_to_the_end": still,
        "hung_orders_ended_unknown_after_s": [round(each, 2) for each in unknown],
        "all_healthy": {name: summary(each) for name, each in healthy.items()},
        "one_hangs": {name: summary(each) for name, each in one_hangs.items()},
    }


def table(result: dict[str, Any]) -> str:
    others = result["accounts"] - 1
    lines = [
        f"## {result['accounts']} MetaTrader 5 accounts in one worker, one of them hanging",
        "",
        f"{result['cores']} cores, {result['system']}, Python {result['python']}. Opening all took {result['start_all_s']} s. "
        f"Milliseconds, of {others} accounts that trade at once, each pausing {result['pause_ms']} ms between trades.",
        "",
        "| operation | the other account | calls | median | 95 of 100 | 99 of 100 | longest |",
        "|---|---|---|---|---|---|---|",
    ]
    names = {"all at once": f"one order to each of {others}, until the last answer"}
    for name in result["all_healthy"]:
        for key, words in (("all_healthy", "idle"), ("one_hangs", "hangs")):
            row = result[key][name]
            cells = [row["count"], *(row[part] for part in ("p50_ms", "p95_ms", "p99_ms", "max_ms"))]
            lines.append(f"| {names.get(name, f'`{name}`')} | {words} | " + " | ".join(str(cell) for cell in cells) + " |")
    ended = result["hung_orders_ended_unknown_after_s"]
    lines += [
        "",
        f"Hung orders that ended as unknown: {len(ended)}, after {ended} s (call_timeout_s {result['call_timeout_s']}).",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accounts", type=int, default=ACCOUNTS)
    parser.add_argument("--seconds", type=float, default=6.0, help="of trading with all healthy, and again with one hung")
    parser.add_argument("--pause-ms", type=float, default=250.0, help="of each account between its trades")
    parser.add_argument("--call-timeout-s", type=float, default=3.0)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=2, metavar=("LOGIN", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(int(options.child[0]), options.child[1])
    result = asyncio.run(asyncio.wait_for(measure(options), timeout=55))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(table(result) + "\n")
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # In a child the thread that reads the input may still hold it.
    os._exit(code)
