"""Terminals with our Expert Advisor, played in one process: they dial in over TLS, prove themselves, and trade on paper brokers.

Argument: JSON with the certificate authority's file and, by account name, login@server, secret, and the ports to dial in turn.
Commands come as lines on standard input (`trade SEED SECONDS`, `report`, `stop`), answers go as JSON lines to standard output.
"""

import asyncio
import contextlib
import itertools
import json
import random
import secrets
import ssl
import sys
from decimal import Decimal
from typing import Any

from copier.clock import SystemClock
from copier.errors import Rejected
from copier.gateways.bridge_greeting import proof_of
from copier.gateways.paper import PaperGateway
from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_server import PaperServer
from copier.gateways.serving import FarEnd
from copier.model import DealEntry
from copier.wire import FRAME_BYTES_MAX, PROTOCOL_VERSION, encode_push
from tests.processes.broker import PRICES, say

D = Decimal
CLOCK = SystemClock()


class Terminal:
    """One account's terminal; it remembers what it was told to do, and does nothing twice."""

    def __init__(self, name: str, place: dict[str, Any], tls: ssl.SSLContext) -> None:
        self.name = name
        self.account: str = place["account"]
        login, _, label = self.account.partition("@")
        self.login = int(login)
        self.server = PaperServer(label, clock=CLOCK)
        for offered in self.server.symbols.values():
            fields = {field: getattr(offered, field) for field in offered.__struct_fields__ if field != "sessions"}
            self.server.symbols[offered.spec.symbol] = type(offered)(**fields)
        self.server.add_account(PaperAccount(self.login, balance=D(1_000_000), leverage=500))
        self.dials = 0
        self._secret: str = place["secret"]
        self._ports: list[int] = place["ports"]
        self._tls = tls
        self._done: dict[bytes, bytes] = {}

    async def run(self) -> None:
        for port in itertools.cycle(self._ports):
            with contextlib.suppress(OSError, ValueError, KeyError, TimeoutError, asyncio.IncompleteReadError):
                await self._dial(port)
            await asyncio.sleep(0.2)

    async def _dial(self, port: int) -> None:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, limit=FRAME_BYTES_MAX, ssl=self._tls, server_hostname="localhost"
        )
        try:
            async with asyncio.timeout(10):
                await self._greet(reader, writer)
            self.dials += 1
            await self._serve(reader, writer)
        finally:
            writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonce = secrets.token_hex(16)
        hello = {"hello": "bridge", "protocol": PROTOCOL_VERSION, "account": self.account, "platform": "mt5", "build": 5200}
        tell(writer, {**hello, "program": "terminals.py", "utcMs": CLOCK.now_ms(), "nonce": nonce})
        challenge = json.loads(await reader.readline())
        both = f"{self.account}|{nonce}|{challenge['challenge']}"
        if challenge["proof"] != proof_of(self._secret, f"engine|{both}"):
            raise ValueError("the engine does not know the secret")
        tell(writer, {"proof": proof_of(self._secret, f"terminal|{both}")})
        if not json.loads(await reader.readline()).get("welcome"):
            raise ValueError("refused")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gateway = PaperGateway(self.server, self.login, clock=CLOCK)
        await gateway.open()
        far_end = FarEnd(gateway, self.account, clock=CLOCK, program="terminals.py")
        gateway.on_change(lambda: writer.write(encode_push("changed") + b"\n"))
        living = asyncio.create_task(self._live(writer))
        try:
            while line := (await reader.readline()).strip():
                if not line.startswith(b'{"ping"'):
                    writer.write(await self._answer(far_end, line) + b"\n")
                    await writer.drain()
        finally:
            living.cancel()
            await gateway.close()

    async def _answer(self, far_end: FarEnd, line: bytes) -> bytes:
        """Answer a frame; one with a command's name is executed once, whoever says it how often."""
        if not line.startswith(b'{"command"'):
            return await far_end.answer_async(line)
        command, rest = line.split(b",", 1)
        if command not in self._done:
            self._done[command] = await far_end.answer_async(b"{" + rest)
        return self._done[command]

    async def _live(self, writer: asyncio.StreamWriter) -> None:
        while True:
            await asyncio.sleep(1)
            writer.write(encode_push("alive") + b"\n")

    def quote(self) -> None:
        for symbol, (bid, spread) in PRICES.items():
            self.server.set_quote(symbol, bid, bid + spread)

    def report(self) -> dict[str, object]:
        """Say what is open, and how often something was opened under each tag."""
        deals = self.server.accounts[self.login].deals
        return {
            "positions": sorted([p.symbol, p.type.value, str(p.lots)] for p in self.server.positions(self.login)),
            "openings": [deal.tag for deal in deals if deal.entry is DealEntry.IN and deal.symbol],
            "dials": self.dials,
        }


def tell(writer: asyncio.StreamWriter, frame: dict[str, object]) -> None:
    writer.write(json.dumps(frame).encode() + b"\n")


async def trade(master: Terminal, seed: int, seconds: float) -> None:
    """Open and close at random."""
    rng = random.Random(seed)
    ends = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < ends:
        positions = master.server.positions(master.login)
        with contextlib.suppress(Rejected):
            if len(positions) < 4 or (len(positions) < 10 and rng.random() < 0.5):
                side = rng.choice([master.server.buy, master.server.sell])
                side(master.login, rng.choice(sorted(PRICES)), D(rng.randrange(2, 30)) / 100)
            else:
                master.server.close(master.login, rng.choice(positions).ticket)
        await asyncio.sleep(rng.uniform(0.05, 0.2))


async def main() -> None:
    settings = json.loads(sys.argv[1])
    tls = ssl.create_default_context(cafile=settings["ca"])
    terminals = {name: Terminal(name, place, tls) for name, place in settings["terminals"].items()}

    async def quotes() -> None:
        while True:
            for terminal in terminals.values():
                terminal.quote()
            await asyncio.sleep(0.3)

    tasks = [asyncio.create_task(quotes()), *(asyncio.create_task(terminal.run()) for terminal in terminals.values())]
    while True:
        line = await asyncio.to_thread(sys.stdin.readline)
        match line.split():
            case ["trade", seed, seconds]:
                await trade(next(iter(terminals.values())), int(seed), float(seconds))
                say({"traded": True})
            case ["report"]:
                say({name: terminal.report() for name, terminal in terminals.items()})
            case _:
                for task in tasks:
                    task.cancel()
                return


if __name__ == "__main__":
    asyncio.run(main())
