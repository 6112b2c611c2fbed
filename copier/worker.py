"""One worker process: a single reader of the streams, and the followers it hands every entry to.

Followers are independent: each trades in its own task, and a slow or dead one delays nobody. What they want journaled at the
same moment becomes one durable record.
"""

import asyncio
import logging
from collections.abc import Mapping

from copier.clock import Clock
from copier.errors import StoreError
from copier.follower import Follower
from copier.gateway import Gateway
from copier.ledger import Ledger
from copier.settings import FollowerSettings
from copier.stream import Entry, EntryId, Stream

log = logging.getLogger(__name__)

BACK_OFF_S = 0.5
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
    ) -> None:
        self.name = name
        self.followers: dict[str, Follower] = {}
        self.error = ""
        """Why the streams cannot be read just now; empty while all is well."""
        self._settings = followers
        self._gateways = gateways
        self._stream = stream
        self._ledger = ledger
        self._clock = clock
        self._reconcile_s = reconcile_s
        self._block_ms = block_ms
        self._after: dict[str, EntryId] = {}

    async def run(self) -> None:
        """Follow until cancelled; end by `Fenced` when another worker has taken a role of this one."""
        names = list(self._settings)
        tokens = await self._ledger.take([f"worker:{self.name}", *(f"follower:{name}" for name in names)])
        remembered = await self._ledger.load(names)
        for name, settings in self._settings.items():
            self.followers[name] = Follower(
                name,
                settings,
                self._gateways[name],
                self._ledger,
                self._clock,
                token=tokens[f"follower:{name}"],
                remembered=remembered,
                reconcile_s=self._reconcile_s,
            )
        await self.look_at_controls()
        async with asyncio.TaskGroup() as tasks:
            for name, follower in self.followers.items():
                tasks.create_task(follower.run(), name=f"follower {name}")
            tasks.create_task(self._read(), name=f"reader of {self.name}")

    async def look_at_controls(self) -> None:
        """Take over what people have set since the last look. Raise `StoreError`."""
        controls = await self._ledger.controls()
        for name, follower in self.followers.items():
            if follower.standing.set_controls(controls):
                follower.wake()
            asked = [scope for scope, control in controls.items() if control == REARM and scope.startswith(f"{name}:")]
            for scope in asked:
                follower.rearm(scope.removeprefix(f"{name}:"))
                await self._ledger.set_control(scope, "done", self.name)

    async def _read(self) -> None:
        """Read every master's stream from where the slowest of its followers stands, and hand out what comes."""
        await self._begin_reading()
        while True:
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
            for entry in entries:
                self._after[entry.master] = entry.id
                self._hand_out(entry)

    async def _begin_reading(self) -> None:
        masters = {master for follower in self.followers.values() for master in follower.relations}
        while True:
            try:
                for master in sorted(masters - self._after.keys()):
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
                for follower in self.followers.values():
                    if master in follower.relations and not follower.relations[master].started:
                        follower.accept(snapshot)
        self._after[master] = min(relation.seen for relation in relations)

    def _hand_out(self, entry: Entry) -> None:
        for follower in self.followers.values():
            if entry.master in follower.relations:
                follower.accept(entry)
