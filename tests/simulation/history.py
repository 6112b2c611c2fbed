"""One history: the shipping watchers and worker between paper brokers, driven and hurt as a plan says."""

import asyncio
import contextlib
import contextvars
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from decimal import Decimal
from typing import Any

from copier.clock import Clock, LoopClock
from copier.errors import Rejected
from copier.ledger import Ledger
from copier.link import Link
from copier.model import MarginMode, Receipt, Side
from copier.settings import FollowerSettings, MasterSettings
from copier.watcher import Watcher
from copier.worker import Worker
from tests.simulation.brokers import Broker, Terminal
from tests.simulation.disk import FailingDatabase
from tests.simulation.loop import Process, run_shuffled
from tests.simulation.plan import HANDS_SYMBOL, SYMBOLS, AccountPlan, Plan, Step
from tests.simulation.redis import FailingRedis

D = Decimal
EPOCH_MS = 1_767_600_000_000
PRICES = {
    "EURUSD": ("1.10000", "0.00001"),
    "GBPUSD": ("1.30000", "0.00001"),
    "XAUUSD": ("2650.00", "0.01"),
    "USDJPY": ("150.000", "0.001"),
}
QUIET_MAX_S = 110.0
LOOK_S = 6.0
LONG_EVERY = 8
"""Every so many seeds the quiet goes on for a while after all is right: nothing may move any more."""
STILL_S = 45.0
"""Longer than any pause of the engine."""

Verdict = Callable[["History"], list[str]]

AHEAD_S = 0.5
"""Two of three histories read prices ahead, so that most of their opens go the short way; the others ask for each."""


class HostClock:
    """The clock of one machine of ours, which someone may set."""

    def __init__(self, true: Clock) -> None:
        self._true = true
        self.wrong_ms = 0

    def now_ms(self) -> int:
        return self._true.now_ms() + self.wrong_ms


class History:
    """A run of one plan; `kill` names a role and the step before which it dies."""

    def __init__(self, plan: Plan, *, kill: tuple[str, int] | None = None, keep_log: bool = False) -> None:
        self.plan = plan
        self.trace: list[str] = []
        self.kills = self.freezes = 0
        self.hurts: Counter[str] = Counter()
        """What went wrong, by kind."""
        self.points = 0
        """Steps that watchers and workers took: each is a place to die."""
        self._kill = kill
        self._keep_log = keep_log
        self._busy: set[asyncio.Task[None]] = set()

    @property
    def faults(self) -> int:
        """How many things went wrong, besides deaths and freezes."""
        return sum(self.hurts.values())

    def run(self, verdict: Verdict | None = None) -> list[str]:
        """Run it and return what the verdict says; everything is left in its attributes for the judge.

        With a verdict the quiet at the end lasts only until nothing is wrong.
        """
        return run_shuffled(self.plan.seed, self._run(verdict))

    def say(self, words: str) -> None:
        self.trace.append(f"{asyncio.get_running_loop().time():9.3f}  {words}")

    # the world

    async def _run(self, verdict: Verdict | None) -> list[str]:
        self.clock = LoopClock(EPOCH_MS)
        self.brokers = {p.name: Broker(p, self.clock, self.say) for p in (*self.plan.masters, *self.plan.followers)}
        self.redis = FailingRedis()
        self.database = FailingDatabase()
        self.processes: dict[str, Process] = {}
        self.hosts = {role: HostClock(self.clock) for role in self.roles}
        self._gateways: dict[str, list[Terminal]] = {}
        self.watchers: dict[str, Watcher] = {}
        self._ticks = 0
        await self.database.open()
        self._move_quotes()
        for broker in self.brokers.values():
            broker.habits()
        with self._logging():
            for role in self.roles:
                self._start(role)
            await asyncio.sleep(2.0)
            begun = {role: process.steps for role, process in self.processes.items()}
            if self._kill is not None:
                self._kill_at(*self._kill, pause_s=1.0)
            await self._live()
            self.steps_of = {role: process.steps - begun[role] for role, process in self.processes.items()}
            wrong = await self._calm_down(verdict)
        self._tell_end()
        for process in self._all:
            process.resume()
        return wrong

    def _tell_end(self) -> None:
        self.points = sum(process.steps for process in self._all)
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

    async def _calm_down(self, verdict: Verdict | None) -> list[str]:
        self.say("from here on nothing goes wrong any more")
        loop = asyncio.get_running_loop()
        for process in self.processes.values():
            process.kill_at = 0
        self.redis.calm()
        self.database.calm()
        for broker in self.brokers.values():
            broker.calm()
        self.calm_ms = self.clock.now_ms()
        least_s = loop.time() + self.plan.quiet_s
        most_s = loop.time() + QUIET_MAX_S
        while True:
            await self._pass_time(least_s)
            least_s = max(least_s, *(broker.faults.lands_s + LOOK_S for broker in self.brokers.values()))
            if loop.time() < least_s:
                continue
            await self._look()
            wrong = verdict(self) if verdict is not None else []
            if loop.time() >= most_s or (verdict is not None and not wrong):
                break
            least_s = min(most_s, loop.time() + LOOK_S)
        if verdict is None or wrong or self.plan.seed % LONG_EVERY:
            return wrong
        still = self._moves()
        await self._pass_time(loop.time() + STILL_S)
        await self._look()
        moved = [f"{name} was still traded on after all was right" for name, n in self._moves().items() if n != still[name]]
        return [*moved, *verdict(self)]

    def _moves(self) -> dict[str, tuple[int, int]]:
        return {
            follower.name: (len(b.executed), b.modified_ms)
            for follower in self.plan.followers
            for b in [self.brokers[follower.name]]
        }

    async def _look(self) -> None:
        self.receipts: list[Receipt] = await Ledger(self.database, self.clock, "judge").receipts()
        self.links: dict[str, dict[tuple[str, str], Link]] = {
            name: dict(follower.links) for name, follower in sorted(self.worker.followers.items())
        }

    @property
    def roles(self) -> tuple[str, ...]:
        """The processes there are."""
        return ("worker", *(f"watcher {master.name}" for master in self.plan.masters))

    @contextlib.contextmanager
    def _logging(self) -> Iterator[None]:
        self._all: list[Process] = []
        self.fates: dict[str, list[str]] = {}
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
        logger.setLevel(logging.DEBUG)
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
        self._all.append(process)
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
            self.fates.setdefault(role, []).append(repr(error))
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
        clock = self.hosts[role]
        gateways = {f.name: self.brokers[f.name].gateway(clock) for f in plan.followers}
        self._gateways[role] = list(gateways.values())
        settings = {f.name: _settings(f) for f in plan.followers}
        ledger = Ledger(self.database, self.clock, "worker")
        self.worker = Worker(
            "w",
            settings,
            gateways,
            self.redis.stream(),
            ledger,
            clock,
            reconcile_s=plan.reconcile_s,
            ahead_s=AHEAD_S if plan.seed % 3 else 0.0,
        )
        await self.worker.run()

    async def _watcher(self, role: str) -> None:
        name = role.removeprefix("watcher ")
        clock = self.hosts[role]
        gateway = self.brokers[name].gateway(clock)
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
        watcher = self.watchers[name] = Watcher(name, gateway, self.redis.stream(), ledger, clock, settings)
        await watcher.run()

    def _kill_at(self, role: str, steps_from_now: int, pause_s: float) -> None:
        process, gateways = self.processes[role], self._gateways[role]
        if not process.alive:
            return

        def died() -> None:
            self.kills += 1
            self.say(f"{role} is killed")
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

    async def _do(self, step: Step) -> None:
        if step.name:
            self.hurts[f"{step.operation}: {step.name}" if step.operation else step.name] += 1
        kind = step.what.partition(" ")[0]
        if step.what == "fault" and step.operation is not None and step.fault is not None:
            self.brokers[step.who].faults.next(step.operation, step.fault, times=int(step.amount))
        elif kind == "redis":
            await self._hurt_redis(step)
        elif kind.startswith("ledger"):
            self._hurt_ledger(step)
        elif step.who in self.hosts:
            self._hurt_role(step)
        elif step.what in ("offline", "server down", "stale lists", "list lags"):
            self._hurt_broker(step)
        elif step.what == "hand":
            self._trade_by_hand(step)
        elif step.what == "stop hit":
            self._hit_stop(step)
        else:
            with contextlib.suppress(Rejected):
                self._trade(step)

    def _for_a_while(self, thing: object, name: str, value: bool, seconds: float) -> None:  # noqa: FBT001
        """Switch an attribute over, and back later."""
        setattr(thing, name, value)
        asyncio.get_running_loop().call_later(seconds, setattr, thing, name, not value)

    def _hurt_broker(self, step: Step) -> None:
        broker = self.brokers[step.who]
        match step.what:
            case "offline":
                self._for_a_while(broker.faults, "offline", True, step.amount)
            case "server down":
                self._for_a_while(broker.server, "online", False, step.amount)
            case "stale lists":
                broker.faults.stale_reads += int(step.amount)
            case _:
                broker.faults.visibility_lag_ms = 450
                loop = asyncio.get_running_loop()
                loop.call_later(step.amount, setattr, broker.faults, "visibility_lag_ms", broker.plan.lag_ms)

    async def _hurt_redis(self, step: Step) -> None:
        match step.what:
            case "redis down":
                self._for_a_while(self.redis, "down", True, step.amount)
            case "redis reply lost":
                self.redis.replies_lost += int(step.amount)
            case "redis flushed":
                await self.redis.flush()
            case "redis tail lost":
                await self.redis.lose_tail(step.who, int(step.amount))
            case "redis trimmed":
                await self.redis.trim(step.who, 1)
            case "redis redelivers":
                self.redis.redelivered += int(step.amount)
            case "redis holds a stream back":
                self.redis.held.add(step.who)
                asyncio.get_running_loop().call_later(step.amount, self.redis.held.discard, step.who)
            case "redis dumped":
                await self.redis.dump()
            case _:
                await self.redis.restore()

    def _hurt_ledger(self, step: Step) -> None:
        match step.what:
            case "ledger refuses":
                self.database.refusals += int(step.amount)
            case "ledger's fsync fails":
                self.database.lates += int(step.amount)
            case "ledger locked":
                self._for_a_while(self.database, "locked", True, step.amount)
            case _:
                self._for_a_while(self.database, "full", True, step.amount)

    def _hurt_role(self, step: Step) -> None:
        match step.what:
            case "kill":
                self._kill_at(step.who, int(step.pick * 60), step.amount)
            case "freeze":
                self._freeze(step.who, step.amount)
            case "freeze twice":
                self._freeze(step.who, step.amount)
                again = contextvars.Context()
                asyncio.get_running_loop().call_later(step.amount / 2, self._freeze, step.who, step.amount, context=again)
            case "twin":
                self.hurts["a second of a role"] += 1
                self._start(step.who)
            case _:
                self.hosts[step.who].wrong_ms += int(step.amount * 1000)

    def _trade_by_hand(self, step: Step) -> None:
        broker = self.brokers[step.who]
        netting = broker.plan.mode is MarginMode.NETTING
        if netting and broker.by_hand:
            return
        symbol = HANDS_SYMBOL if netting else (*SYMBOLS, HANDS_SYMBOL)[int(step.pick * 4)]
        fill = broker.server.buy(1, symbol, "0.33", magic=777, comment="by hand")
        broker.by_hand.append(fill.position)

    def _hit_stop(self, step: Step) -> None:
        """Let the price of one account's broker touch a stop or target, and come back."""
        broker = self.brokers[step.who]
        held = [p for p in sorted(broker.account.positions.values(), key=lambda p: p.ticket) if p.stop_loss or p.take_profit]
        if not held:
            return
        chosen = held[int(step.pick * len(held))]
        level = chosen.stop_loss or chosen.take_profit
        point = D(PRICES[chosen.symbol][1])
        bid, ask = (level, level + 10 * point) if chosen.side is Side.BUY else (level - 10 * point, level)
        broker.server.set_quote(chosen.symbol, bid, ask)
        self._move_quotes()

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
                for name in SYMBOLS:
                    with contextlib.suppress(Rejected):
                        server.buy(1, name, lots)
            case "close" if chosen is not None:
                server.close(1, chosen.ticket)
            case "hand closes ours" if ours := [p for p in held if p.ticket not in broker.by_hand]:
                taken = ours[int(step.pick * len(ours))]
                part = (taken.lots * D(str(step.amount))).quantize(D("0.01"))
                server.close(1, taken.ticket, min(part, taken.lots))
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
    risk = {"open": {"lots_max": str(follower.lots_max)}} if follower.lots_max is not None else {}
    return FollowerSettings.model_validate({"account": follower.name, "copies": copies, "risk": risk})


class _Kept(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(f"    {record.levelname.lower()} {record.name} {record.getMessage()}")
