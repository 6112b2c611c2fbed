"""A TCP proxy that stands between the engine and Redis, and spoils what passes."""

import asyncio
from enum import StrEnum


class Weather(StrEnum):
    """What happens to the bytes."""

    FAIR = "fair"
    CUT = "cut"
    """Connections break, and no new one is made."""
    HALF_OPEN = "half-open"
    """Connections stand, and nothing comes through."""
    SLOW = "slow"
    """Every piece comes a fifth of a second late."""
    SLICED = "sliced"
    """Every piece comes in crumbs."""


class Proxy:
    """Listens on a port of its own and forwards to another."""

    def __init__(self, to_port: int) -> None:
        self.port = 0
        self.weather = Weather.FAIR
        self._to_port = to_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def set(self, weather: Weather) -> None:
        self.weather = weather
        if weather is Weather.CUT:
            for writer in self._writers:
                writer.transport.abort()

    async def stop(self) -> None:
        self.set(Weather.CUT)
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.weather is Weather.CUT:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        try:
            await asyncio.wait(
                [asyncio.create_task(self._pump(reader, back)), asyncio.create_task(self._pump(there, writer))],
                return_when=asyncio.FIRST_COMPLETED,
            )
        except asyncio.CancelledError:
            pass  # The loop is ending.
        finally:
            self._writers -= {writer, back}
            writer.transport.abort()
            back.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while chunk := await source.read(65_536):
                while self.weather is Weather.HALF_OPEN:  # noqa: ASYNC110 - real time
                    await asyncio.sleep(0.05)
                match self.weather:
                    case Weather.SLOW:
                        await asyncio.sleep(0.2)
                    case Weather.SLICED:
                        for start in range(0, min(len(chunk), 200), 3):
                            sink.write(chunk[start : start + 3])
                            await sink.drain()
                            await asyncio.sleep(0)
                        chunk = chunk[200 + (-200 % 3) :] if len(chunk) > 200 else b""
                sink.write(chunk)
                await sink.drain()
        except OSError:
            pass
