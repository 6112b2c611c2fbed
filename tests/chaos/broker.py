"""A process that holds the paper brokers of a whole run: one master, many followers, and positions of another hand beside them.

Arguments: how many followers. Commands come as lines on standard input (`trade SEED SECONDS PER_SECOND`, `wait`, `flat`,
`report`), answers go as JSON lines to standard output. Links carry lines `login frame`, as a manager connection's child does.
"""

import asyncio
import json
import random
import sys
from collections import Counter
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
MASTER = 1
PRICES = {"EURUSD": (D("1.10000"), D("0.00010")), "XAUUSD": (D("2650.00"), D("0.30")), "GBPUSD": (D("1.27000"), D("0.00012"))}
MODES = (MarginMode.HEDGING, MarginMode.NETTING, MarginMode.MT4)
OPEN_MAX = 12


class Brokers:
    """A server for the master and one for each way of keeping positions."""

    def __init__(self, followers: int) -> None:
        self.clock = SystemClock()
        self.master = self._server("Master")
        self.servers = {mode: self._server(mode.value) for mode in MODES}
        self.at: dict[int, PaperServer] = {MASTER: self.master}
        self.modes: dict[int, MarginMode] = {}
        self.master.add_account(PaperAccount(MASTER, margin_mode=MarginMode.HEDGING, balance=D(1_000_000), leverage=500))
        for number in range(followers):
            login, mode = 101 + number, MODES[number % len(MODES)]
            self.servers[mode].add_account(PaperAccount(login, margin_mode=mode, balance=D(1_000_000), leverage=500))
            self.at[login], self.modes[login] = self.servers[mode], mode
        self.opened = 0
        self.quote()
        self.theirs: dict[int, set[int]] = {}
        """By follower: the tickets of another hand."""
        self.foreign = {login: self._another_hand(login) for login in self.modes}

    def _server(self, name: str) -> PaperServer:
        server = PaperServer(name, clock=self.clock)
        for offered in server.symbols.values():
            fields = {field: getattr(offered, field) for field in offered.__struct_fields__ if field != "sessions"}
            server.symbols[offered.spec.symbol] = type(offered)(**fields)
        return server

    def _another_hand(self, login: int) -> list[list[str]]:
        """Open what nobody here may touch, and return it as it must still stand at the end."""
        server = self.at[login]
        server.buy(login, "GBPUSD", D("0.77"))
        if self.modes[login] is not MarginMode.NETTING:
            server.sell(login, "EURUSD", D("0.10"))
        self.theirs[login] = {position.ticket for position in server.positions(login)}
        return sorted(self._rows(login, foreign=True))

    def _rows(self, login: int, *, foreign: bool) -> list[list[str]]:
        return [
            [p.symbol, p.type.value, str(p.lots), str(p.stop_loss), str(p.take_profit), str(p.ticket if foreign else 0)]
            for p in self.at[login].positions(login)
            if login == MASTER or (p.ticket in self.theirs[login]) is foreign
        ]

    def quote(self) -> None:
        for symbol, (bid, spread) in PRICES.items():
            for server in (self.master, *self.servers.values()):
                server.set_quote(symbol, bid, bid + spread)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the frames of one child process: every login's one by one, all logins side by side."""
        desks: dict[bytes, tuple[PaperGateway, FarEnd, asyncio.Queue[bytes]]] = {}
        tasks = []

        def say(login: bytes, frame: bytes) -> None:
            if not writer.is_closing():
                writer.write(login + b" " + frame + b"\n")

        async def answer(login: bytes, far_end: FarEnd, frames: "asyncio.Queue[bytes]") -> None:
            while True:
                say(login, await far_end.answer_async(await frames.get()))

        try:
            while line := await reader.readline():
                login, _, frame = line.strip().partition(b" ")
                if login not in desks:
                    gateway = PaperGateway(self.at[int(login)], int(login), clock=self.clock)
                    await gateway.open()
                    gateway.on_change(lambda login=login: say(login, encode_push("changed")))  # type: ignore[misc]
                    far_end = FarEnd(gateway, gateway.label, clock=self.clock, program="paper")
                    desks[login] = (gateway, far_end, asyncio.Queue())
                    tasks.append(asyncio.create_task(answer(login, far_end, desks[login][2])))
                desks[login][2].put_nowait(frame)
        except OSError:
            pass
        finally:
            for task in tasks:
                task.cancel()
            for gateway, *_ in desks.values():
                await gateway.close()
            writer.close()

    async def trade(self, seed: int, seconds: float, per_s: float) -> None:
        """Trade the master at random: opens, partial closes, closes, moved stops."""
        rng, master = random.Random(seed), self.master
        ends = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < ends:
            positions = master.positions(MASTER)
            choice = rng.random()
            try:
                if not positions or (choice < 0.4 and len(positions) < OPEN_MAX):
                    trade = rng.choice([master.buy, master.sell])
                    trade(MASTER, rng.choice(["EURUSD", "XAUUSD"]), D(rng.randrange(2, 30)) / 100)
                    self.opened += 1
                else:
                    position = rng.choice(positions)
                    if choice < 0.65:
                        master.close(MASTER, position.ticket)
                    elif choice < 0.85 and position.lots > D("0.02"):
                        master.close(MASTER, position.ticket, (position.lots / 2).quantize(D("0.01")))
                    else:
                        stop = (position.open_price * (1 - position.type.sign * D("0.1"))).quantize(D("0.01"))
                        master.set_levels(MASTER, position.ticket, stop, D(0))
            except Rejected:
                continue
            await asyncio.sleep(rng.uniform(0.5, 1.5) / per_s)

    def flat(self) -> None:
        for position in self.master.positions(MASTER):
            self.master.close(MASTER, position.ticket)

    def report(self) -> dict[str, object]:
        """Say what is open and what was ever opened, by the deal logs."""
        followers = []
        for login, mode in self.modes.items():
            deals = self.at[login].accounts[login].deals
            followers.append(
                {
                    "login": login,
                    "mode": mode.value,
                    "ours": self._rows(login, foreign=False),
                    "foreign": sorted(self._rows(login, foreign=True)),
                    "expected_foreign": self.foreign[login],
                    "openings": Counter(d.tag for d in deals if d.entry is DealEntry.IN and d.symbol and d.tag),
                }
            )
        return {"opened": self.opened, "master": self._rows(MASTER, foreign=True), "followers": followers}


async def main(followers: int) -> None:
    brokers = Brokers(followers)
    server = await asyncio.start_server(brokers.serve, "127.0.0.1", 0, limit=FRAME_BYTES_MAX * 2)
    say({"port": server.sockets[0].getsockname()[1]})

    async def quote() -> None:
        while True:
            await asyncio.sleep(0.5)
            brokers.quote()

    tasks = [asyncio.create_task(quote())]
    while line := await asyncio.to_thread(sys.stdin.readline):
        match line.split():
            case ["trade", seed, seconds, per_s]:
                tasks[1:] = [asyncio.create_task(brokers.trade(int(seed), float(seconds), float(per_s)))]
            case ["wait"]:
                await asyncio.gather(*tasks[1:])
                say({"opened": brokers.opened})
            case ["flat"]:
                brokers.flat()
                say({})
            case ["report"]:
                say(brokers.report())
    for task in tasks:
        task.cancel()


def say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
