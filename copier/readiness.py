"""What of a process is not ready, and why: masters read and published, stream, ledger, followers connected."""

import asyncio
from collections.abc import Awaitable, Iterator

from copier.app import App
from copier.errors import CopierError
from copier.model import Record
from copier.watcher import Watcher
from copier.worker import Worker

CALL_TIMEOUT_S = 2.0
"""A store that takes longer to answer is not ready."""
GRACE_MS = 2_000
"""A read or a snapshot may be late by so much, and three times over."""


class NotReady(Record, frozen=True, kw_only=True):
    """One thing that is not ready."""

    what: str
    """`watcher gold`, `follower bob`, `ledger` or `stream`."""
    why: str


class Readiness(Record, frozen=True, kw_only=True):
    """Whether a process does all that it is there for."""

    ready: bool
    roles: tuple[str, ...]
    """`watcher gold`, `worker one`."""
    followers: int
    """How many this process follows with."""
    not_ready: tuple[NotReady, ...]


async def readiness(app: App) -> Readiness:
    """Ask the stores, look at every role, and say what is not ready."""
    found: list[NotReady] = []
    for what, asked in (("ledger", app.database.ping()), ("stream", app.stream.ping())):
        why = await _trouble(asked)
        if why:
            found.append(NotReady(what=what, why=why))
    now = app.clock.now_ms()
    for watcher in app.watchers.values():
        why = _watching(watcher, now)
        if why:
            found.append(NotReady(what=f"watcher {watcher.name}", why=why))
    roles = [f"watcher {name}" for name in app.watchers]
    worker = app.worker
    if worker is not None:
        roles.append(f"worker {worker.name}")
        begun = any(f"worker:{worker.name}" in ledger.leases.held for ledger in app.ledgers)
        found += _following(worker, begun=begun)
    if app.sharing is not None and app.sharing.error:
        found.append(NotReady(what=f"lease of worker {app.sharing.name}", why=app.sharing.error))
    followers = len(worker.followers) if worker is not None else 0
    return Readiness(ready=not found, roles=tuple(roles), followers=followers, not_ready=tuple(found))


async def _trouble(asked: Awaitable[None]) -> str:
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            await asked
    except TimeoutError:
        return f"no answer within {CALL_TIMEOUT_S:g} s"
    except CopierError as error:
        return str(error)
    return ""


def _watching(watcher: Watcher, now_ms: int) -> str:
    if watcher.error:
        return watcher.error
    if not watcher.read_ms:
        return "its account was not read yet"
    if not watcher.published_ms:
        return "nothing was published yet"
    every_ms = max(watcher.settings.poll_ms, int(watcher.settings.snapshot_s * 1000))
    late_ms = 3 * every_ms + GRACE_MS
    for did, at_ms in (("read", watcher.read_ms), ("published", watcher.published_ms)):
        if now_ms - at_ms > late_ms:
            return f"last {did} {(now_ms - at_ms) / 1000:.1f} s ago, expected every {every_ms / 1000:g} s"
    return ""


def _following(worker: Worker, *, begun: bool) -> Iterator[NotReady]:
    if worker.error:
        yield NotReady(what="stream", why=worker.error)
    elif not begun:
        yield NotReady(what=f"worker {worker.name}", why="it has not taken its role yet")
    elif worker.followers and not worker.reading:
        yield NotReady(what=f"worker {worker.name}", why="it has not begun to read its masters' streams")
    for name, follower in worker.followers.items():
        if follower.error:
            yield NotReady(what=f"follower {name}", why=follower.error)
        elif not follower.connected:
            yield NotReady(what=f"follower {name}", why="its account was not reached and compared yet")
