"""A Redis that fails on request: down, answers lost or repeated, wiped, cut off at either end, restored from an old dump."""

import asyncio
from typing import Any

import fakeredis
from redis.exceptions import ConnectionError as RedisConnectionError

from copier.stream import KEY, Stream

SECRET = b"planted-secret-that-must-not-show"


class _InOrder(dict[Any, None]):
    """A set that is gone through in the order of adding, so that who wakes first does not depend on addresses."""

    def add(self, callback: Any) -> None:
        self[callback] = None

    def remove(self, callback: Any) -> None:
        del self[callback]


class FailingRedis:
    """The server, and what is wrong with it just now."""

    def __init__(self) -> None:
        self._server = fakeredis.FakeServer(server_type="redis")
        self._server.dbs[0]._change_callbacks = _InOrder()  # type: ignore[assignment]
        self._admin: Any = fakeredis.FakeAsyncRedis(server=self._server, socket_timeout=None)
        self._dump: dict[bytes, Any] = {}
        self.down = False
        self.replies_lost = 0
        self.appended: dict[tuple[str, bytes], set[str]] = {}
        """Under which ids each event was ever appended, by stream and content."""
        self.redelivered = 0
        """So many answers to readers begin with the entries of the answer before."""
        self.held: set[str] = set()
        """Masters whose entries wait while those of the others are given out."""

    def stream(self) -> Stream:
        """Return a new process's way to it."""
        client: Any = _Client(self, fakeredis.FakeAsyncRedis(server=self._server, socket_timeout=None))
        return Stream(client, secret=SECRET)

    def calm(self) -> None:
        """Let nothing go wrong any more."""
        self.down, self.replies_lost, self.redelivered = False, 0, 0
        self.held.clear()

    async def flush(self) -> None:
        """Lose everything."""
        await self._admin.flushall()

    async def trim(self, master: str, length: int) -> None:
        """Keep only the newest entries."""
        await self._admin.xtrim(KEY.format(master), maxlen=length, approximate=False)

    async def lose_tail(self, master: str, length: int) -> None:
        """Lose the newest entries and that they ever were, as a failover does."""
        key = KEY.format(master)
        entries = await self._admin.xrange(key)
        await self._admin.delete(key)
        for entry, fields in entries[: max(0, len(entries) - length)]:
            await self._admin.xadd(key, fields, id=entry)

    async def dump(self) -> None:
        """Keep a copy."""
        self._dump = {key: await self._admin.xrange(key) for key in sorted(await self._admin.keys())}

    async def restore(self) -> None:
        """Go back to the copy."""
        await self.flush()
        for key, entries in self._dump.items():
            for entry, fields in entries:
                await self._admin.xadd(key, fields, id=entry)


class _Client:
    def __init__(self, redis: FailingRedis, client: Any) -> None:
        self._redis = redis
        self._client = client
        self._before: list[Any] = []

    async def aclose(self) -> None:
        await self._client.aclose()

    async def xread(self, streams: dict[str, str], *, count: int, block: int) -> Any:
        self._look()
        held = {KEY.format(master) for master in self._redis.held}
        asked = {key: after for key, after in streams.items() if key not in held}
        if not asked:
            await asyncio.sleep(block / 1000)
            return []
        answer = self._given(await self._client.xread(asked, count=count, block=block))
        before, self._before = self._before, answer
        if answer and before and self._redis.redelivered:
            self._redis.redelivered -= 1
            return [*before, *answer]
        return answer

    def _look(self) -> None:
        if self._redis.down:
            raise RedisConnectionError("Connection refused")

    def _given(self, answer: Any) -> Any:
        if self._redis.down:
            raise RedisConnectionError("Connection closed by server")
        if self._redis.replies_lost:
            self._redis.replies_lost -= 1
            raise RedisConnectionError("Connection closed before the reply")
        return answer

    def __getattr__(self, command: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            self._look()
            answer = await getattr(self._client, command)(*args, **kwargs)
            if command == "xadd":
                self._redis.appended.setdefault((args[0], args[1][b"e"]), set()).add(kwargs["id"])
            return self._given(answer)

        return call
