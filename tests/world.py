"""A small world in virtual time: a master and followers at paper brokers, and the engine between them."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from decimal import Decimal
from typing import Any

from copier.clock import Clock, LoopClock, run_virtual
from copier.database import MEMORY, Database
from copier.follower import Follower
from copier.gateways.paper import PaperGateway
from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_server import PaperServer
from copier.ledger import Ledger
from copier.link import Link
from copier.model import MarginMode, Position, Receipt, Side
from copier.settings import FollowerSettings, MasterSettings
from copier.stream import Stream, open_stream
from copier.watcher import Watcher
from copier.worker import Worker

D = Decimal
EPOCH_MS = 1_767_600_000_000
"""Monday, 5 January 2026, 08:00 UTC: markets are open."""


Reach = Callable[["Account"], AbstractAsyncContextManager[Any]]
"""Makes another gateway to an account than the paper broker's own, and clears away its far end afterwards."""


class Account:
    """One paper account, its own server, and the gateway the engine uses."""

    def __init__(
        self,
        name: str,
        mode: MarginMode,
        clock: Clock,
        *,
        balance: str = "100000",
        reach: Reach | None = None,
        **more: Any,
    ) -> None:
        self.clock = clock
        self.server = PaperServer(f"{name}-Server", clock=clock, **more)
        self.account = self.server.add_account(PaperAccount(1, margin_mode=mode, balance=D(balance)))
        self.gateway = PaperGateway(self.server, 1, clock=clock)
        self.faults = self.gateway.faults
        self.reach = reach

    def quote(self, symbol: str, bid: str, ask: str) -> None:
        self.server.set_quote(symbol, bid, ask)

    @property
    def positions(self) -> tuple[Position, ...]:
        return self.server.positions(1)

    def net(self, symbol: str) -> Decimal:
        return sum((p.lots * p.type.sign for p in self.positions if p.symbol == symbol), D(0))


class World:
    """The whole engine in one process on the running (virtual) loop."""

    def __init__(
        self,
        master: MarginMode,
        followers: Mapping[str, tuple[MarginMode, dict[str, Any]]],
        *,
        follower_risk: dict[str, Any] | None = None,
        watch: Mapping[str, Any] | None = None,
        reach: Mapping[str, Reach] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`reach` says how accounts are reached, the master as `master`; those it does not name by the paper gateway."""
        self.clock = clock or LoopClock(EPOCH_MS)
        ways = reach or {}
        self.master = Account("master", master, self.clock, reach=ways.get("master"))
        self.accounts = {name: Account(name, mode, self.clock, reach=ways.get(name)) for name, (mode, _) in followers.items()}
        self.settings = {
            name: FollowerSettings.model_validate(
                {"account": name, "copies": [{"master": "m", **policy}], "risk": follower_risk or {}}
            )
            for name, (_, policy) in followers.items()
        }
        self.watch = MasterSettings.model_validate({"account": "m", **(watch or {})})
        self.database = Database(MEMORY)
        self.stream: Stream = open_stream("memory://")
        self._far_ends = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._quotes: dict[str, tuple[str, str]] = {}
        self.quote("EURUSD", "1.10000", "1.10010")
        self.quote("XAUUSD", "2650.00", "2650.30")

    def quote(self, symbol: str, bid: str, ask: str) -> None:
        self._quotes[symbol] = (bid, ask)
        for account in (self.master, *self.accounts.values()):
            account.quote(symbol, bid, ask)

    async def start(self) -> None:
        for account in (self.master, *self.accounts.values()):
            if account.reach is not None:
                account.gateway = await self._far_ends.enter_async_context(account.reach(account))
        await self.database.open()
        self.start_watcher()
        self.start_worker()
        await self.settle()

    def start_watcher(self) -> None:
        ledger = Ledger(self.database, self.clock, "watcher")
        self.watcher = Watcher("m", self.master.gateway, self.stream, ledger, self.clock, self.watch)
        self.watcher_task = asyncio.create_task(self._watch())
        self._tasks.append(self.watcher_task)

    async def _watch(self) -> None:
        await self.master.gateway.open()
        await self.watcher.run()

    def start_worker(self) -> None:
        self.ledger = Ledger(self.database, self.clock, "worker")
        gateways = {name: account.gateway for name, account in self.accounts.items()}
        self.worker = Worker("w", self.settings, gateways, self.stream, self.ledger, self.clock)
        self.worker_task = asyncio.create_task(self.worker.run())
        self._tasks.append(self.worker_task)

    async def settle(self, seconds: float = 3.0) -> None:
        """Let so much virtual time pass with prices standing still, and no task fail in it."""
        for _ in range(round(seconds * 2)):
            await asyncio.sleep(0.5)
            for symbol, (bid, ask) in self._quotes.items():
                self.quote(symbol, bid, ask)
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._far_ends.aclose()
        await self.stream.close()
        await self.database.close()

    def follower(self, name: str = "f") -> Follower:
        return self.worker.followers[name]

    def link(self, name: str = "f") -> Link:
        (link,) = [each for each in self.follower(name).links.values() if each.living]
        return link

    async def receipts(self, name: str = "f") -> list[Receipt]:
        return await self.ledger.receipts(follower=name)

    def buy(self, symbol: str, lots: str, **more: Any) -> int:
        return self.master.server.buy(1, symbol, lots, **more).position

    def sell(self, symbol: str, lots: str, **more: Any) -> int:
        return self.master.server.sell(1, symbol, lots, **more).position

    def close(self, ticket: int, lots: str | None = None) -> None:
        self.master.server.close(1, ticket, lots)

    def net_is(self, symbol: str, lots: str, name: str = "f") -> bool:
        return self.accounts[name].net(symbol) == D(lots)


def one(follower: MarginMode, policy: dict[str, Any] | None = None) -> dict[str, tuple[MarginMode, dict[str, Any]]]:
    """One follower named f with this policy."""
    return {"f": (follower, policy or {})}


def story(
    world: Callable[[], World],
    tell: Callable[[World], Coroutine[Any, Any, None]],
    play: Callable[[Coroutine[Any, Any, None]], None] = run_virtual,
) -> None:
    """Run a story from start to stop, in virtual time unless it is played otherwise."""

    async def run() -> None:
        w = world()
        await w.start()
        try:
            await tell(w)
        finally:
            await w.stop()

    play(run())


__all__ = ["EPOCH_MS", "Account", "D", "Reach", "Side", "World", "one", "story"]
