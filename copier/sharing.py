"""One worker's share of the followers: taken, kept by a lease, and given up again as other workers come and go.

Every worker computes the same shares from who is alive, so nobody has to lead. What another holds is taken when it gives it up,
or when its beat has stood still for its whole lease.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from copier.clock import Clock
from copier.errors import StoreError
from copier.leases import FOLLOWER, LeaseLost, Leases, Seat, Sight, Term

log = logging.getLogger(__name__)

MARGIN = 0.1
"""So much of its lease before the end a worker stops by itself: clocks of two machines do not run at quite the same speed."""
LOOK_S = 0.25
"""How often to look while another is giving up what is ours."""
LEAVE_S = 10.0
STRANGER_S = 120.0
"""Who holds a follower without being a worker (the doctor, a flatten by hand) is left alone for so long."""
_SEAT = "seat "


class Host(Protocol):
    """What follows with the followers a share consists of."""

    @property
    def followers(self) -> Mapping[str, object]:
        """Those that are followed with now."""
        ...

    async def add(self, tokens: Mapping[str, int]) -> None:
        """Begin with followers taken under these tokens. Raise `StoreError`."""
        ...

    async def drop(self, names: Collection[str]) -> None:
        """Stop with followers, between two orders of each."""
        ...


def shares(followers: Iterable[str], workers: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Return each follower's worker, by its name; `workers` are those alive, and whom they are pinned to (none is any).

    Who is pinned goes to who is pinned to it. The others are spread evenly, each to the worker it likes best as long as that
    has room, so that a worker that comes or goes moves little, and one that comes back gets its own again.
    """
    alike: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for follower in sorted(followers):
        pinned = tuple(sorted(name for name, only in workers.items() if follower in only))
        alike[pinned or tuple(sorted(name for name, only in workers.items() if not only))].append(follower)
    found: dict[str, str] = {}
    for able, group in alike.items():
        if able:
            found |= _spread(group, able)
    return found


def _spread(followers: list[str], workers: Collection[str]) -> dict[str, str]:
    room = -(-len(followers) // len(workers))
    taken: Counter[str] = Counter()
    found: dict[str, str] = {}
    for _, follower, worker in sorted((_liking(f, w), f, w) for f in followers for w in workers):
        if follower not in found and taken[worker] < room:
            found[follower] = worker
            taken[worker] += 1
    return found


def _liking(follower: str, worker: str) -> bytes:
    return hashlib.blake2b(f"{worker}\n{follower}".encode(), digest_size=8).digest()


class Sharing:
    """Keeps one worker's lease, and brings what it follows with to its share."""

    def __init__(
        self,
        name: str,
        host: Host,
        leases: Leases,
        clock: Clock,
        followers: Mapping[str, str],
        term: Term,
        *,
        lease_s: float = 10.0,
        only: Collection[str] = (),
    ) -> None:
        """`followers` says of each with whom it must stay together; `only` are those this worker is pinned to, none is any."""
        self.name = name
        self.error = ""
        """Why nothing can be taken or kept just now; empty while all is well."""
        self._host = host
        self._leases = leases
        self._clock = clock
        self._followers = followers
        self._term = term
        self._lease_s = lease_s
        self._only = tuple(sorted(only))
        self._unchanged: dict[str, tuple[object, float]] = {}
        """What was last seen of a worker or a follower's holder, and since when it is so."""
        self._last_shares: tuple[object, dict[str, str]] = (None, {})

    async def run(self) -> None:
        """Share until cancelled, then give everything up; end by `Fenced` when another worker has taken this one's name."""
        try:
            while True:
                await self._join()
                try:
                    await self._keep()
                except LeaseLost as lost:
                    log.warning("%s; it drops them and begins anew", lost)
                await self._host.drop(list(self._host.followers))
        finally:
            with contextlib.suppress(StoreError, TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await self._host.drop(list(self._host.followers))
                    await self._leases.leave()

    async def _keep(self) -> None:
        """Renew and balance until one of them fails. Raise `LeaseLost` or `Fenced`."""
        # No group of tasks: until Python 3.13 one that fails swallows a cancellation that comes at the same moment.
        tasks = [asyncio.create_task(self._renew()), asyncio.create_task(self._balance())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _join(self) -> None:
        while True:
            began = asyncio.get_running_loop().time()
            try:
                lease_ms = round(self._lease_s * 1000)
                await self._leases.join(self.name, lease_ms=lease_ms, only=self._only, at_ms=self._clock.now_ms())
                self._lasts_from(began)
                return
            except StoreError as error:
                self._complain(error)
                await asyncio.sleep(self._lease_s / 10)

    def _lasts_from(self, began: float) -> None:
        self._term.end_at(began + self._lease_s * (1 - MARGIN))

    async def _renew(self) -> None:
        """Let the beat grow three times per lease, more often while it does not succeed."""
        pause = self._lease_s / 3
        while True:
            await asyncio.sleep(pause)
            began = asyncio.get_running_loop().time()
            try:
                await self._leases.renew(self.name, self._clock.now_ms())
                self._lasts_from(began)
                pause = self._lease_s / 3
            except StoreError as error:
                self._complain(error)
                pause = self._lease_s / 10

    async def _balance(self) -> None:
        while True:
            pause = self._lease_s / 10
            try:
                if await self._move():
                    pause = LOOK_S
                if self.error:
                    log.info("%s: sharing again", self.name)
                self.error = ""
            except StoreError as error:
                self._complain(error)
            await asyncio.sleep(pause)

    def _complain(self, error: StoreError) -> None:
        if str(error) != self.error:
            log.warning("%s: cannot share followers: %s", self.name, error)
        self.error = str(error)

    async def _move(self) -> bool:
        """Take what is free of our share, give up what is another's; return whether somebody is still giving up what is ours."""
        sight = await self._leases.look()
        if self._leases.owner not in sight.seats:
            raise LeaseLost(f"worker {self.name}: it was silent for its whole lease, and others have taken its followers")
        silent = self._silent(sight)
        living = {seat.name: seat.only for seat in sight.seats.values() if seat not in silent}
        share = self._shares(living)
        ours = {name for name, base in self._followers.items() if share.get(base) == self.name}
        held = {name for name, holder in sight.holders.items() if holder.owner == self._leases.owner}
        lost = sorted(self._host.followers.keys() - held)
        if lost:
            await self._host.drop(lost)
        free = [name for name in sorted(ours - self._host.followers.keys()) if self._is_free(name, sight, silent)]
        if free:
            log.info("%s: takes %s", self.name, _some(free))
            tokens = await self._leases.claim({name: sight.holders.get(name) for name in free}, silent)
            await self._host.add(tokens)
        stranded = sorted(name for name in held - ours - self._host.followers.keys() if name in self._followers)
        if stranded:  # An earlier try to give them up failed half way.
            await self._leases.release([f"{FOLLOWER}{name}" for name in stranded])
        surplus = sorted(self._host.followers.keys() - ours)
        if surplus:
            log.info("%s: gives up %s", self.name, _some(surplus))
        for name in surplus:
            await self._host.drop([name])
            await self._leases.release([f"{FOLLOWER}{name}"])
        return bool(ours - self._host.followers.keys())

    def _shares(self, living: Mapping[str, Collection[str]]) -> dict[str, str]:
        if self._last_shares[0] != living:
            self._last_shares = (living, shares(set(self._followers.values()), living))
        return self._last_shares[1]

    def _silent(self, sight: Sight) -> list[Seat]:
        """Return the other workers whose beat has stood still for their whole lease, as we have seen it."""
        ages = {seat.owner: self._age_s(f"{_SEAT}{seat.owner}", seat.beat) for seat in sight.seats.values()}
        gone = [key for key in self._unchanged if key.startswith(_SEAT) and key.removeprefix(_SEAT) not in ages]
        for key in gone:
            del self._unchanged[key]
        others = (seat for owner, seat in sight.seats.items() if owner != self._leases.owner)
        return [seat for seat in others if ages[seat.owner] >= seat.lease_ms / 1000]

    def _is_free(self, name: str, sight: Sight, silent: Collection[Seat]) -> bool:
        holder = sight.holders.get(name)
        if holder is None or holder.owner in ("", self._leases.owner):
            return True
        seat = sight.seats.get(holder.owner)
        return seat in silent if seat is not None else self._age_s(name, holder) >= STRANGER_S

    def _age_s(self, what: str, value: object) -> float:
        """Return for how long, by our own clock, something was seen to be as it is."""
        now = asyncio.get_running_loop().time()
        if self._unchanged.get(what, (None, 0.0))[0] != value:
            self._unchanged[what] = (value, now)
        return now - self._unchanged[what][1]


def _some(names: list[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
