"""A process that holds paper brokers and lives on while watcher, worker and Redis are killed around it.

Commands come as lines on standard input (`trade SEED SECONDS`, `report`, `stop`), answers go as JSON lines to standard output.
"""

import asyncio
import json
import random
import sys
from decimal import Decimal

from copier.clock import SystemClock
from copier.errors import Rejected
from copier.gateways.paper import PaperGateway
from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_server import PaperServer
from copier.gateways.serving import FarEnd
from copier.model import DealEntry, MarginMode
from copier.wire import FRAME_BYTES_MAX, encode_push

D = Decimal
PRICES = {"EURUSD": (D("1.10000"), D("0.00010")), "XAUUSD": (D("2650.00"), D("0.30"))}
ACCOUNTS = {
    "master": MarginMode.HEDGING,
    "hedging": MarginMode.HEDGING,
    "netting": MarginMode.NETTING,
    "mt4": MarginMode.MT4,
}


class Brokers:
    """One server with one account for each name."""

    def __init__(self) -> None:
        clock = SystemClock()
        self.clock = clock
        self.servers: dict[str, PaperServer] = {}
        for name, mode in ACCOUNTS.items():
            server = PaperServer(name, clock=clock)
            for offered in server.symbols.values():
                server.symbols[offered.spec.symbol] = type(offered)(
                    **{field: getattr(offered, field) for field in offered.__struct_fields__ if field != "sessions"}
                )
            server.add_account(PaperAccount(1, margin_mode=mode, balance=D(1_000_000), leverage=500))
            self.servers[name] = server
        self.opened = 0
        self.quote()

    def quote(self) -> None:
        for symbol, (bid, spread) in PRICES.items():
            for server in self.servers.values():
                server.set_quote(symbol, bid, bid + spread)

    async def listen(self, name: str) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            gateway = PaperGateway(self.servers[name], 1, clock=self.clock)
            await gateway.open()
            far_end = FarEnd(gateway, gateway.label, clock=self.clock, program="paper")
            gateway.on_change(lambda: writer.write(encode_push("changed") + b"\n"))
            try:
                while line := await reader.readline():
                    writer.write(await far_end.answer_async(line.strip()) + b"\n")
                    await writer.drain()
            except OSError:
                pass
            finally:
                await gateway.close()
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=FRAME_BYTES_MAX)
        return int(server.sockets[0].getsockname()[1])

    async def trade(self, seed: int, seconds: float) -> None:
        """Trade the master at random: opens, partial closes, closes, moved stops."""
        rng = random.Random(seed)
        master = self.servers["master"]
        ends = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < ends:
            positions = master.positions(1)
            choice = rng.random()
            try:
                if not positions or (choice < 0.4 and len(positions) < 12):
                    symbol = rng.choice(sorted(PRICES))
                    trade = rng.choice([master.buy, master.sell])
                    trade(1, symbol, D(rng.randrange(2, 30)) / 100)
                    self.opened += 1
                else:
                    position = rng.choice(positions)
                    if choice < 0.65:
                        master.close(1, position.ticket)
                    elif choice < 0.85 and position.lots > D("0.02"):
                        master.close(1, position.ticket, (position.lots / 2).quantize(D("0.01")))
                    else:
                        stop = (position.open_price * (1 - position.type.sign * D("0.1"))).quantize(D("0.01"))
                        master.set_levels(1, position.ticket, stop, D(0))
            except Rejected:
                continue
            await asyncio.sleep(rng.uniform(0.01, 0.08))

    def report(self) -> dict[str, object]:
        """Say what is open, and which openings there ever were."""
        report: dict[str, object] = {"opened": self.opened}
        for name, server in self.servers.items():
            report[name] = {
                "positions": [
                    [p.symbol, p.type.value, str(p.lots), str(p.stop_loss), str(p.take_profit)] for p in server.positions(1)
                ],
                "openings": [d.tag for d in server.accounts[1].deals if d.entry is DealEntry.IN and d.symbol],
            }
        return report


async def main() -> None:
    brokers = Brokers()
    ports = {name: await brokers.listen(name) for name in ACCOUNTS}
    say({"ports": ports})

    async def quote() -> None:
        while True:
            await asyncio.sleep(0.5)
            brokers.quote()

    quoting = asyncio.create_task(quote())
    while True:
        line = await asyncio.to_thread(sys.stdin.readline)
        match line.split():
            case ["trade", seed, seconds]:
                await brokers.trade(int(seed), float(seconds))
                say({"traded": brokers.opened})
            case ["report"]:
                say(brokers.report())
            case _:
                quoting.cancel()
                return


def say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
