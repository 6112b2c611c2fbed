"""One worker process: a single reader of the streams, and the followers it hands every entry to.

Followers are independent: each trades in its own task, comes and goes while the others go on, and a slow or dead one delays
nobody. What they want journaled at the same moment becomes one durable record.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection, Mapping

from copier.clock import Clock
from copier.errors import Fenced, StoreError
from copier.express import Ahead, Express
from copier.follower import Follower
from copier.gateway import Gateway
from copier.leases import Term
from copier.ledger import Ledger
from copier.settings import FollowerSettings
from copier.stream import EntryId, Stream

log = logging.getLogger(__name__)

BACK_OFF_S = 0.5
END_S = 15.0
"""A follower that is given up may finish its order for so long; after that the order counts as unknown to whoever is next."""
REARM = "rearm"
"""The control by which a person arms a fired loss limit again, under the scope `follower:limit`."""


class Worker:
    """Owns followers: takes their roles, reads their masters' streams, and keeps them running."""

    def __init__(
        self,
        name: str,
        followers: Mapping[str, FollowerSettings],
        gateways: Mapping[str, Gateway],
        stream: Stream,
        ledger: Ledger,
        clock: Clock,
        *,
        reconcile_s: float = 30.0,
        block_ms: int = 1_000,
        term: Term | None = None,
        ahead_s: float = 0.0,
    ) -> None:
        """`gateways` are looked up when a follower comes; `term` is how long this process may trade at all.

        `ahead_s` is how often prices and accounts are read ahead for the next open; 0 is never.
        """
        self.name = name
        self.followers: dict[str, Follower] = {}
        self.error = ""
        """Why the streams cannot be read just now; empty while all is well."""
        self.reading = False
        """It knows from where on to read its followers' masters."""
        self.heard_ms: dict[str, int] = {}
        """When each master's newest entry was taken in."""
        self._settings = followers
        self._gateways = gateways
        self._stream = stream
        self._ledger = ledger
        self._clock = clock
        self._reconcile_s = reconcile_s
        self._block_ms = block_ms
        self._term = term or Term()
        self._ahead_s = ahead_s
        self._express = Express(ledger)
        self._after: dict[str, EntryId] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._reader: asyncio.Task[None] | None = None
        self._following: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Take every follower and follow until cancelled; end by `Fenced` when another owner has taken the last of them."""
        roles = [f"worker:{self.name}", *(f"follower:{name}" for name in self._settings)]
        tokens = await self._ledger.take(roles)
        async with self.working():
            await self.add({name: tokens[f"follower:{name}"] for name in self._settings})
            await asyncio.gather(*self._following.values())
            raise Fenced(f"{self.name}: another owner has taken over")

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Read the streams for whoever is added while the block lasts; at its end every follower stops where it is."""
        async with asyncio.TaskGroup() as self._tasks:
            ahead = self._tasks.create_task(Ahead(self.followers, self._ahead_s).run()) if self._ahead_s else None
            try:
                yield
            finally:
                self._express.stop()
                for task in (self._reader, ahead, *self._following.values()):
                    if task is not None:
                        task.cancel()

    async def add(self, tokens: Mapping[str, int]) -> None:
        """Begin to follow with these followers, whose roles have just been taken under these tokens. Raise `StoreError`."""
        assert self._tasks is not None
        remembered = await self._ledger.load(tokens)
        controls = await self._ledger.controls()
        for name, token in tokens.items():
            follower = Follower(
                name,
                self._settings[name],
                self._gateways[name],
                self._ledger,
                self._clock,
                token=token,
                remembered=remembered,
                reconcile_s=self._reconcile_s,
                term=self._term,
                send_first=self._express.send_first,
            )
            follower.standing.set_controls(controls)
            self.followers[name] = follower
            self._following[name] = self._tasks.create_task(self._follow(follower), name=f"follower {name}")
        self._read_anew()

    async def _follow(self, follower: Follower) -> None:
        try:
            await follower.run()
        except Fenced as error:
            log.warning("%s: %s no longer follows: %s", follower.name, self.name, error)
            if self.followers.get(follower.name) is follower:
                del self.followers[follower.name]
        except StoreError as error:
            # Only its end can raise it: what it learnt last is read back from the broker by whoever is next, as after a crash.
            log.warning("%s: %s gave it up without a last record: %s", follower.name, self.name, error)

    async def drop(self, names: Collection[str]) -> None:
        """Stop following with these followers between two orders of each, with all that they know durable.

        Their roles are still held. One whose order takes too long is cut short: to its next owner that order is unknown.
        """
        tasks = [self._following.pop(name) for name in names if name in self._following]
        for name in names:
            if name in self.followers:
                self.followers.pop(name).end()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=END_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._masters() != self._after.keys():
            self._read_anew()

    async def look_at_controls(self) -> None:
        """Take over what people have set since the last look. Raise `StoreError`."""
        controls = await self._ledger.controls()
        for name, follower in list(self.followers.items()):
            if follower.standing.set_controls(controls):
                follower.wake()
            asked = [scope for scope, control in controls.items() if control == REARM and scope.startswith(f"{name}:")]
            for scope in asked:
                follower.rearm(scope.removeprefix(f"{name}:"))
                await self._ledger.set_control(scope, "done", self.name)

    def _masters(self) -> set[str]:
        return {master for follower in self.followers.values() for master in follower.relations}

    def _read_anew(self) -> None:
        """Read on from where the slowest follower stands by now; what the others have is dropped by them."""
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
        assert self._tasks is not None
        if not self.followers:
            self._after, self.heard_ms, self.reading = {}, {}, False
        else:
            self._reader = self._tasks.create_task(self._read(), name=f"reader of {self.name}")

    async def _read(self) -> None:
        """Read every master's stream from where the slowest of its followers stands, and hand out what comes."""
        await self._begin_reading()
        self.reading = True
        began = self._clock.now_ms()
        self.heard_ms = {master: self.heard_ms.get(master, began) for master in self._after}
        while self._after:
            try:
                entries = await self._stream.read(self._after, block_ms=self._block_ms)
                if self.error:
                    log.info("%s: reading again", self.name)
                self.error = ""
            except StoreError as error:
                if str(error) != self.error:
                    log.warning("%s: %s", self.name, error)
                self.error = str(error)
                await asyncio.sleep(BACK_OFF_S)
                continue
            if entries:
                now = self._clock.now_ms()
                self.heard_ms |= dict.fromkeys([entry.master for entry in entries], now)
            touched: dict[str, Follower] = {}
            for entry in entries:
                self._after[entry.master] = entry.id
                for name, follower in self.followers.items():
                    if entry.master in follower.relations:
                        follower.take_in(entry)
                        touched[name] = follower
            self._express.send(touched.values())

    async def _begin_reading(self) -> None:
        self._after = {}
        while True:
            try:
                for master in sorted(self._masters() - self._after.keys()):
                    await self._begin_master(master)
                return
            except StoreError as error:
                if str(error) != self.error:
                    log.warning("%s: %s", self.name, error)
                self.error = str(error)
                await asyncio.sleep(BACK_OFF_S)

    async def _begin_master(self, master: str) -> None:
        """Start a relation that never read at the newest snapshot, and the others where they stopped."""
        relations = [f.relations[master] for f in self.followers.values() if master in f.relations]
        if not all(relation.started for relation in relations):
            snapshot = await self._stream.last_snapshot(master)
            if snapshot is not None:
                for follower in list(self.followers.values()):
                    if master in follower.relations and not follower.relations[master].started:
                        follower.accept(snapshot)
        self._after[master] = min(relation.seen for relation in relations)
