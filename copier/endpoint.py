"""Where monitoring asks a process how it is, over HTTP: `/health`, `/ready` and `/metrics`."""

import asyncio
import contextlib
import hmac
import logging
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from copier import __version__, wire
from copier.app import App
from copier.errors import SettingsError
from copier.metrics import CONTENT_TYPE, Metrics
from copier.readiness import readiness
from copier.settings import MetricsSettings

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 32
STOP_S = 2


class _Server(uvicorn.Server):
    """A server inside our process: signals are the engine's to hear."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def answering(app: App, settings: MetricsSettings) -> AsyncIterator[None]:
    """Answer while the block lasts. Raise `SettingsError` where address or certificate cannot be used."""
    metrics = Metrics(app)
    server = _Server(_config(face(app, metrics, settings), settings))
    place = _listen(settings)
    app.listeners.append(metrics.hear)
    tasks = [asyncio.create_task(metrics.run(), name="metrics"), asyncio.create_task(server.serve([place]), name="endpoint")]
    scheme = "https" if settings.certificate else "http"
    log.info("monitoring may ask at %s://%s:%d", scheme, settings.host, place.getsockname()[1])
    try:
        yield
    finally:
        server.should_exit = True
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        place.close()
        app.listeners.remove(metrics.hear)


def _listen(settings: MetricsSettings) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        raise SettingsError([f"metrics: {settings.host}:{settings.port} cannot be listened on: {error}"]) from None


def _config(face: Starlette, settings: MetricsSettings) -> uvicorn.Config:
    config = uvicorn.Config(
        face,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        loop="none",
        ws="none",
        http="h11",
        limit_concurrency=CONNECTIONS_MAX,
        timeout_graceful_shutdown=STOP_S,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
    )
    try:
        config.load()  # Left to the server, a certificate that cannot be read would end its task, and nothing would answer.
    except OSError as error:
        raise SettingsError([f"metrics: certificate {settings.certificate} and its key cannot be read: {error}"]) from None
    return config


def face(app: App, metrics: Metrics, settings: MetricsSettings) -> Starlette:
    """Return the three answers as an ASGI application."""
    token = None if settings.token is None else f"Bearer {settings.token.get_secret_value()}".encode()

    def stranger(request: Request) -> bool:
        said = request.headers.get("authorization", "").encode()
        return token is not None and not hmac.compare_digest(said, token)

    async def health(_: Request) -> Response:
        return JSONResponse({"alive": True, "version": __version__})

    async def ready(request: Request) -> Response:
        if stranger(request):
            return _unknown()
        found = await readiness(app)
        return Response(wire.encode(found), 200 if found.ready else 503, media_type="application/json")

    async def metric(request: Request) -> Response:
        if stranger(request):
            return _unknown()
        return Response(await metrics.text(), headers={"content-type": CONTENT_TYPE})

    return Starlette(routes=[Route("/health", health), Route("/ready", ready), Route("/metrics", metric)])


def _unknown() -> Response:
    expected = "expected the token of the settings: Authorization: Bearer ..."
    return JSONResponse({"error": expected}, 401, {"www-authenticate": "Bearer"})
