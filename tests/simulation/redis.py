"""A Redis that fails on request: down, answers lost, wiped, trimmed too far, or restored from an old dump."""

from typing import Any

import fakeredis
from redis.exceptions import ConnectionError as RedisConnectionError

from copier.stream import KEY, Stream


class FailingRedis:
    """The server, and what is wrong with it just now."""

    def __init__(self) -> None:
        self._server = fakeredis.FakeServer(server_type="redis")
        self._admin: Any = fakeredis.FakeAsyncRedis(server=self._server, socket_timeout=None)
        self._dump: dict[bytes, Any] = {}
        self.down = False
        self.replies_lost = 0
        self.appended: dict[tuple[str, bytes], set[str]] = {}
        """Under which ids each event was ever appended, by stream and content."""

    def stream(self) -> Stream:
        """Return a new process's way to it."""
        return Stream(_Client(self, fakeredis.FakeAsyncRedis(server=self._server, socket_timeout=None)))

    async def flush(self) -> None:
        await self._admin.flushall()

    async def trim(self, master: str, length: int) -> None:
        await self._admin.xtrim(KEY.format(master), maxlen=length, approximate=False)

    async def dump(self) -> None:
        self._dump = {key: await self._admin.xrange(key) for key in sorted(await self._admin.keys())}

    async def restore(self) -> None:
        await self.flush()
        for key, entries in self._dump.items():
            for entry, fields in entries:
                await self._admin.xadd(key, fields, id=entry)


class _Client:
    def __init__(self, redis: FailingRedis, client: Any) -> None:
        self._redis = redis
        self._client = client

    async def aclose(self) -> None:
        await self._client.aclose()

    def __getattr__(self, command: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            if self._redis.down:
                raise RedisConnectionError("Connection refused")
            answer = await getattr(self._client, command)(*args, **kwargs)
            if command == "xadd":
                self._redis.appended.setdefault((args[0], args[1][b"e"]), set()).add(kwargs["id"])
            if self._redis.down:
                raise RedisConnectionError("Connection closed by server")
            if self._redis.replies_lost:
                self._redis.replies_lost -= 1
                raise RedisConnectionError("Connection closed before the reply")
            return answer

        return call
