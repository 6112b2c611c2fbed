"""One history: the shipping watchers and worker between paper brokers, driven and hurt as a plan says."""

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from copier.clock import LoopClock
from copier.database import MEMORY, Database
from copier.errors import Rejected, StoreError
from copier.gateways.paper import PaperGateway
from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_faults import NO_FAULT, Fault, Faults, Operation
from copier.gateways.paper_orders import Fill, MarketOrder
from copier.gateways.paper_server import PaperServer
from copier.ledger import Ledger
from copier.model import MarginMode, Permit, Side
from copier.settings import FollowerSettings, MasterSettings
from copier.watcher import Watcher
from copier.worker import Worker
from tests.simulation.loop import Process, run_shuffled
from tests.simulation.plan import HANDS_SYMBOL, SYMBOLS, AccountPlan, Plan, Step
from tests.simulation.redis import FailingRedis

T = TypeVar("T")
D = Decimal
EPOCH_MS = 1_767_600_000_000
PRICES = {
    "EURUSD": ("1.10000", "0.00001"),
    "GBPUSD": ("1.30000", "0.00001"),
    "XAUUSD": ("2650.00", "0.01"),
    "USDJPY": ("150.000", "0.001"),
}
QUIET_S = 110.0

AHEAD_S = 0.5
"""Two of three histories read prices ahead, so that most of their opens go the short way; the others ask for each."""


class Executed(msgspec.Struct, frozen=True):
    """One order a broker executed, as its own log has it."""

    at_ms: int
    order: MarketOrder
    fill: Fill
    identifier: int
    """The position's for life, as the server keeps it."""
    open_lots: Decimal
    """All that was open in the account right after it, whoever's."""


class FailingDatabase(Database):
    """A disk that sometimes refuses, or says too late that it has written; each call can be killed before and after."""

    def __init__(self) -> None:
        super().__init__(MEMORY)
        self.refusals = self.lates = 0

    async def run(self, work: Callable[[sa.Connection], T]) -> T:
        await asyncio.sleep(0)
        if self.refusals:
            self.refusals -= 1
            raise StoreError("disk I/O error")
        answer = self._transact(work)
        await asyncio.sleep(0)
        if self.lates:
            self.lates -= 1
            raise StoreError("no answer in time")
        return answer


class _Watched(PaperGateway):
    """A gateway whose far end keeps a list of whom it let trade."""

    admitted: list[int]

    def _admit(self, permit: Permit) -> None:
        super()._admit(permit)
        self.admitted.append(permit.token)


class Broker:
    """One account on a server of its own, and the log of what was really executed."""

    def __init__(self, plan: AccountPlan, clock: LoopClock, trace: Callable[[str], None]) -> None:
        self.plan = plan
        self.server = PaperServer(f"{plan.name}-Server", clock=clock, server_offset_s=plan.offset_s)
        self.account = self.server.add_account(PaperAccount(1, margin_mode=plan.mode, balance=D(1_000_000)))
        self.server.add_account(PaperAccount(2, margin_mode=plan.mode, balance=D(1_000_000)))
        self.faults = Faults()
        self.clock = clock
        self.executed: list[Executed] = []
        self.by_hand: list[int] = []
        self.admitted: list[int] = []
        """The tokens of all trading requests that the far end let through, in that order."""
        self._trace = trace
        self._deal = self.server.deal
        self.server.deal = self._logged  # type: ignore[method-assign]

    def gateway(self) -> PaperGateway:
        """Return a new process's way to it."""
        without = frozenset() if self.plan.deals else frozenset({"deals"})
        made = _Watched(self.server, 1, clock=self.clock, faults=self.faults, latency_s=self.plan.latency_s, without=without)
        made.admitted = self.admitted
        return made

    def habits(self) -> None:
        """Lay what this broker always does."""
        self.faults.visibility_lag_ms = self.plan.lag_ms
        if self.plan.comment is not None:
            self.faults.always(Operation.EXECUTE, self.plan.comment)

    def _logged(self, login: int, order: MarketOrder, fault: Fault = NO_FAULT) -> Fill:
        before = {ticket: position.identifier for ticket, position in self.account.positions.items()}
        words = f"{self.plan.name} {order.reason} {order.side} {order.symbol} {order.lots} #{order.position} {order.comment!r}"
        try:
            fill = self._deal(login, order, fault)
        except Rejected as error:
            self._trace(f"{words}: refused, {error.reason}")
            raise
        if login == 1:
            identifier = before.get(order.position) or before.get(fill.position) or fill.identifier
            open_lots = sum((position.lots for position in self.account.positions.values()), D(0))
            self.executed.append(Executed(self.clock.now_ms(), order, fill, identifier, open_lots))
        self._trace(f"{words}: {fill.lots} lots, position {fill.position}")
        return fill


class History:
    """A run of one plan; `kill` names a role and the step before which it dies."""

    def __init__(self, plan: Plan, *, kill: tuple[str, int] | None = None, keep_log: bool = False) -> None:
        self.plan = plan
        self.trace: list[str] = []
        self.kills = self.freezes = self.faults = 0
        self._kill = kill
        self._keep_log = keep_log
        self._busy: set[asyncio.Task[None]] = set()

    def run(self) -> None:
        """Run it; everything is left in its attributes for the judge."""
        run_shuffled(self.plan.seed, self._run())

    def say(self, words: str) -> None:
        self.trace.append(f"{asyncio.get_running_loop().time():9.3f}  {words}")

    # the world

    async def _run(self) -> None:
        self.clock = LoopClock(EPOCH_MS)
        self.brokers = {p.name: Broker(p, self.clock, self.say) for p in (*self.plan.masters, *self.plan.followers)}
        self.redis = FailingRedis()
        self.database = FailingDatabase()
        self.processes: dict[str, Process] = {}
        self._gateways: dict[str, list[PaperGateway]] = {}
        self.watchers: dict[str, Watcher] = {}
        self.steps_of: dict[str, int] = {}
        self._ticks = 0
        await self.database.open()
        self._move_quotes()
        for broker in self.brokers.values():
            broker.habits()
        with self._logging():
            for role in self.roles:
                self._start(role)
            await asyncio.sleep(2.0)
            if self._kill is not None:
                self._kill_at(*self._kill, pause_s=1.0)
            await self._live()
            self.steps_of = {role: process.steps for role, process in self.processes.items()}
            await self._calm_down()
        self.receipts = await Ledger(self.database, self.clock, "judge").receipts()
        self.links = {name: dict(follower.links) for name, follower in sorted(self.worker.followers.items())}
        for receipt in self.receipts:
            self.trace.append(
                f"receipt {receipt.at_ms - EPOCH_MS} {receipt.follower} {receipt.master} {receipt.key} {receipt.event} "
                f"{receipt.verdict} {receipt.code} {receipt.lots} #{receipt.ticket} {receipt.tag} {receipt.message}"
            )
        for name, broker in self.brokers.items():
            for position in broker.server.positions(1):
                self.trace.append(
                    f"at the end {name}: #{position.ticket} {position.type} {position.symbol} {position.lots} "
                    f"sl {position.stop_loss} tp {position.take_profit} {position.comment!r}"
                )
        self.fates = {role: list(fates) for role, fates in self._fates.items()}
        for process in self._dead:
            process.resume()

    @property
    def roles(self) -> tuple[str, ...]:
        return ("worker", *(f"watcher {master.name}" for master in self.plan.masters))

    _dead: list[Process]
    _fates: dict[str, list[str]]

    @contextlib.contextmanager
    def _logging(self) -> Any:
        self._dead, self._fates = [], {}
        if not self._keep_log:
            logging.disable(logging.CRITICAL)
            try:
                yield
            finally:
                logging.disable(logging.NOTSET)
            return
        keep = _Kept(self.say)
        logger = logging.getLogger("copier")
        level = logger.level
        logger.addHandler(keep)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(keep)
            logger.setLevel(level)

    def _move_quotes(self) -> None:
        self._ticks += 1
        for symbol, (price, point) in PRICES.items():
            bid = D(price) + D(point) * ((self._ticks * 7) % 5)
            for broker in self.brokers.values():
                broker.server.set_quote(symbol, bid, bid + D(point) * 10)

    async def _pass_time(self, until_s: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < until_s:
            await asyncio.sleep(min(0.5, until_s - loop.time()))
            self._move_quotes()

    # processes

    def _start(self, role: str) -> None:
        process = self.processes[role] = Process(role)
        make = self._worker if role == "worker" else self._watcher
        process.run(lambda: self._supervise(role, process, make))

    def _supervise(self, role: str, process: Process, make: Callable[[str], Coroutine[Any, Any, None]]) -> None:
        self._gateways[role] = []
        task = asyncio.create_task(make(role), name=role)
        self._busy.add(task)  # Kept: what is forgotten would be closed, and so run its finally.

        def ended(_task: asyncio.Task[None]) -> None:
            if task.cancelled():
                return  # The loop closes, and cancels in no certain order.
            error = task.exception()
            self.say(f"{role} ended: {error!r}")
            self._fates.setdefault(role, []).append(repr(error))
            if self.processes.get(role) is process:  # As a service manager would: start it again.
                self._revive_later(role, 1.0)

        task.add_done_callback(ended)

    def _revive_later(self, role: str, pause_s: float) -> None:
        dead = self.processes[role]

        def revive() -> None:
            if self.processes[role] is dead:
                self.say(f"{role} starts again")
                self._start(role)

        asyncio.get_running_loop().call_later(pause_s, revive, context=contextvars.Context())

    async def _worker(self, role: str) -> None:
        plan = self.plan
        gateways = {f.name: self.brokers[f.name].gateway() for f in plan.followers}
        self._gateways[role] = list(gateways.values())
        settings = {f.name: _settings(f) for f in plan.followers}
        ledger = Ledger(self.database, self.clock, "worker")
        self.worker = Worker(
            "w",
            settings,
            gateways,
            self.redis.stream(),
            ledger,
            self.clock,
            reconcile_s=plan.reconcile_s,
            ahead_s=AHEAD_S if plan.seed % 3 else 0.0,
        )
        await self.worker.run()

    async def _watcher(self, role: str) -> None:
        name = role.removeprefix("watcher ")
        gateway = self.brokers[name].gateway()
        self._gateways[role] = [gateway]
        while True:
            try:
                await gateway.open()
                break
            except Exception as error:
                self.say(f"{role} waits: {error}")
                await asyncio.sleep(0.5)
        ledger = Ledger(self.database, self.clock, role)
        settings = MasterSettings.model_validate({"account": name})
        watcher = self.watchers[name] = Watcher(name, gateway, self.redis.stream(), ledger, self.clock, settings)
        await watcher.run()

    def _kill_at(self, role: str, steps_from_now: int, pause_s: float) -> None:
        process, gateways = self.processes[role], self._gateways[role]
        if not process.alive:
            return

        def died() -> None:
            self.kills += 1
            self.say(f"{role} is killed")
            self._dead.append(process)
            for gateway in gateways:
                with contextlib.suppress(StopIteration):
                    gateway.close().send(None)
            if self.processes[role] is process:
                self._revive_later(role, pause_s)

        process.on_death = died
        process.kill_at = process.steps + max(1, steps_from_now)

    def _freeze(self, role: str, seconds: float) -> None:
        process = self.processes[role]
        if not process.alive:
            return
        self.freezes += 1
        process.stop()
        self.say(f"{role} freezes, and another starts")
        self._start(role)

        def thaw() -> None:
            self.say(f"the frozen {role} thaws")
            process.resume()

        asyncio.get_running_loop().call_later(seconds, thaw)

    # what happens

    async def _live(self) -> None:
        begun_s = asyncio.get_running_loop().time()
        for step in self.plan.steps:
            await self._pass_time(begun_s + step.at_s)
            self.say(str(step))
            await self._do(step)
        await self._pass_time(begun_s + self.plan.end_s)

    async def _calm_down(self) -> None:
        self.say("from here on nothing goes wrong any more")
        for process in self.processes.values():
            process.kill_at = 0
        self.redis.down, self.redis.replies_lost = False, 0
        self.database.refusals = self.database.lates = 0
        for broker in self.brokers.values():
            broker.faults.clear()
            broker.faults.offline, broker.server.online = False, True
            if broker.plan.comment is not None:
                broker.faults.always(Operation.EXECUTE, broker.plan.comment)
        await self._pass_time(asyncio.get_running_loop().time() + QUIET_S)

    async def _do(self, step: Step) -> None:
        loop = asyncio.get_running_loop()
        if step.what in ("fault", "offline", "server down") or step.what.startswith(("redis", "ledger")):
            self.faults += 1
        match step.what:
            case "fault" if step.operation is not None and step.fault is not None:
                self.brokers[step.who].faults.next(step.operation, step.fault, times=int(step.amount))
            case "offline":
                faults = self.brokers[step.who].faults
                faults.offline = True
                loop.call_later(step.amount, lambda: setattr(faults, "offline", False))
            case "server down":
                server = self.brokers[step.who].server
                server.online = False
                loop.call_later(step.amount, lambda: setattr(server, "online", True))
            case "redis down":
                self.redis.down = True
                loop.call_later(step.amount, lambda: setattr(self.redis, "down", False))
            case "redis reply lost":
                self.redis.replies_lost += int(step.amount)
            case "redis flushed":
                await self.redis.flush()
            case "redis trimmed":
                await self.redis.trim(step.who, 1)
            case "redis dumped":
                await self.redis.dump()
            case "redis restored":
                await self.redis.restore()
            case "ledger refuses":
                self.database.refusals += int(step.amount)
            case "ledger is late":
                self.database.lates += int(step.amount)
            case "kill":
                self._kill_at(step.who, int(step.pick * 60), step.amount)
            case "freeze":
                self._freeze(step.who, step.amount)
            case "hand":
                self._trade_by_hand(step)
            case _:
                with contextlib.suppress(Rejected):
                    self._trade(step)

    def _trade_by_hand(self, step: Step) -> None:
        broker = self.brokers[step.who]
        netting = broker.plan.mode is MarginMode.NETTING
        if netting and broker.by_hand:
            return
        symbol = HANDS_SYMBOL if netting else (*SYMBOLS, HANDS_SYMBOL)[int(step.pick * 4)]
        fill = broker.server.buy(1, symbol, "0.33", magic=777, comment="by hand")
        broker.by_hand.append(fill.position)

    def _trade(self, step: Step) -> None:
        broker = self.brokers[step.who]
        server = broker.server
        held = sorted(broker.account.positions.values(), key=lambda position: position.ticket)
        chosen = held[int(step.pick * len(held))] if held else None
        symbol, lots = SYMBOLS[int(step.pick * 3)], D(str(step.amount))
        trade = server.buy if int(step.pick * 100) % 2 else server.sell
        netting = broker.plan.mode is MarginMode.NETTING
        if step.what == "open" and netting:
            same = next((p for p in held if p.symbol == symbol), None)
            trade = trade if same is None else server.buy if same.side is Side.BUY else server.sell
        match step.what:
            case "open":
                trade(1, symbol, lots)
            case "burst":
                for each in SYMBOLS:
                    with contextlib.suppress(Rejected):
                        server.buy(1, each, lots)
            case "close" if chosen is not None:
                server.close(1, chosen.ticket)
            case "close all":
                for each in held:
                    server.close(1, each.ticket)
            case "partly" if chosen is not None:
                part = (chosen.lots / 2).quantize(D("0.1"))
                if 0 < part < chosen.lots:
                    server.close(1, chosen.ticket, part)
            case "scale in" if chosen is not None and netting:
                (server.buy if chosen.side is Side.BUY else server.sell)(1, chosen.symbol, lots)
            case "reverse" if chosen is not None and netting:
                (server.sell if chosen.side is Side.BUY else server.buy)(1, chosen.symbol, chosen.lots + lots)
            case "levels" if chosen is not None:
                stop, target = _levels(chosen.symbol, chosen.side, 1 + int(step.pick * 1000) % 3)
                server.set_levels(1, chosen.ticket, stop, target)
            case _:
                pass


def _levels(symbol: str, side: Side, wide: int) -> tuple[Decimal, Decimal]:
    price, point = (D(each) for each in PRICES[symbol])
    away = point * 1000 * wide * side.sign
    return price - away, price + away


def _settings(follower: AccountPlan) -> FollowerSettings:
    levels = {"stops": "copy", "targets": "copy"} if follower.levels else {"stops": "none", "targets": "none"}
    size = {"mode": "multiplier", "multiplier": str(follower.ratio)}
    copies = [{"master": master, "size": size, "copy": levels} for master in follower.masters]
    risk = {"open": {"lots_max": str(follower.lots_max)}} if follower.lots_max else {}
    return FollowerSettings.model_validate({"account": follower.name, "copies": copies, "risk": risk})


class _Kept(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(f"    {record.levelname.lower()} {record.name} {record.getMessage()}")
