"""A port for Expert Advisors, on the loopback unless the settings say otherwise, with TLS if they name a certificate."""

import asyncio
import ipaddress
import logging
import ssl
from pathlib import Path

from copier.errors import SettingsError
from copier.gateways.bridge_http import HttpSessions, read_head
from copier.gateways.bridge_hub import GREETING_S, Attend
from copier.gateways.bridge_websocket import WebSocketLink
from copier.gateways.carriers import StreamLink, close_stream

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 256


class PortListener:
    """Frames as lines over TCP, as HTTP requests or as the messages of a WebSocket: the first byte tells which it is."""

    def __init__(self, host: str = "127.0.0.1", port: int = 17500, *, tls: ssl.SSLContext | None = None) -> None:
        """With port 0 the system chooses one; `port` tells it once this listens."""
        self.host = host
        self.port = port
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._sessions = HttpSessions()
        self._busy: set[asyncio.Task[None]] = set()

    @property
    def place(self) -> str:
        """The place in words."""
        return f"{self.host}:{self.port}"

    async def open(self, attend: Attend) -> None:
        """Listen, and say so where more than this machine can reach it in the clear; raise `OSError`."""
        if self._tls is None and not is_loopback(self.host):
            log.warning(
                "listening on %s beyond this machine: every Expert Advisor must prove that it knows its account's secret, but "
                "nothing is encrypted: name a certificate in `tls_certificate`, or let only a VPN or a tunnel reach it",
                self.place,
            )

        async def attended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._attended(reader, writer, attend)

        within_s = GREETING_S if self._tls else None
        self._server = await asyncio.start_server(
            attended, self.host, self.port, ssl=self._tls, ssl_handshake_timeout=within_s, ssl_shutdown_timeout=within_s
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Listen no more."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await self._sessions.close()
            for task in self._busy:
                task.cancel()
            await asyncio.gather(*self._busy, return_exceptions=True)

    async def _attended(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, attend: Attend) -> None:
        task = asyncio.current_task()
        assert task is not None
        who = str(writer.get_extra_info("peername"))
        if self._server is None:  # it was accepted in the moment of the close
            writer.transport.abort()
            return
        if len(self._busy) >= CONNECTIONS_MAX:
            log.warning("%s was not let in: %d connections are open", who, CONNECTIONS_MAX)
            writer.transport.abort()
            return
        self._busy.add(task)
        handed_over = False
        try:
            async with asyncio.timeout(GREETING_S):
                first = await reader.readexactly(1)
            if first not in b"GPOHD":
                handed_over = True
                await attend(StreamLink(reader, writer, come=first), who)
            else:
                head = first + await read_head(reader)
                if first == b"G":
                    link = WebSocketLink(reader, writer)
                    if await link.upgrade(head):
                        handed_over = True
                        await attend(link, who)
                elif len(head) > 1:
                    await self._sessions.converse(head, reader, writer, attend, who)
        except TimeoutError:
            log.warning("%s was not let in: it said nothing", who)
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass
        finally:
            self._busy.discard(task)
            if not handed_over:
                await close_stream(writer)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a listener at this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def tls_of(certificate: Path | None, key: Path | None, account: str) -> ssl.SSLContext | None:
    """Return what TLS needs, None without a certificate; raise `SettingsError` for files that are none."""
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        message = f"{account}: `tls_certificate` {certificate} and its key cannot be read: {error}"
        raise SettingsError([message]) from error
    return context
