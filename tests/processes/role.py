"""A watcher or a worker as a process of its own, over accounts that live in another process.

Arguments: `watch` or `follow`, the Redis URL, the ledger URL, and the ports as JSON.
"""

import asyncio
import json
import logging
import sys

from copier.clock import SystemClock
from copier.database import Database
from copier.gateway import GatewayFacts
from copier.gateways.carriers import Link, LinkLost, StreamLink
from copier.gateways.remote import RemoteGateway
from copier.ledger import Ledger
from copier.settings import FollowerSettings, MasterSettings
from copier.stream import open_stream
from copier.watcher import Watcher
from copier.wire import FRAME_BYTES_MAX, Opening
from copier.worker import Worker


class LoopbackCarrier:
    """Dials a port of the loopback."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def connect(self) -> Link:
        try:
            return StreamLink(*await asyncio.open_connection("127.0.0.1", self._port, limit=FRAME_BYTES_MAX))
        except OSError as error:
            raise LinkLost(str(error)) from error

    async def close(self) -> None:
        return None


def gateway(name: str, port: int) -> RemoteGateway:
    facts = GatewayFacts(kind="paper", settle_s=0.5, call_timeout_s=5.0)
    return RemoteGateway(LoopbackCarrier(port), facts, Opening(account=f"1@{name}"), clock=SystemClock())


async def main(role: str, redis: str, ledger_url: str, ports: dict[str, int]) -> None:
    clock = SystemClock()
    database = Database(ledger_url)
    await database.open()
    stream = open_stream(redis)
    ledger = Ledger(database, clock, role)
    if role == "watch":
        master = gateway("master", ports["master"])
        await master.open()
        settings = MasterSettings.model_validate({"account": "m", "poll_ms": 50, "snapshot_s": 1})
        await Watcher("m", master, stream, ledger, clock, settings).run()
        return
    followers = {
        name: FollowerSettings.model_validate({"account": name, "copies": [{"master": "m", "copy": {"stops": "copy"}}]})
        for name in ports
        if name != "master"
    }
    gateways = {name: gateway(name, ports[name]) for name in followers}
    worker = Worker("w", followers, gateways, stream, ledger, clock, reconcile_s=2.0)
    projecting = asyncio.create_task(project(ledger))
    await worker.run()
    projecting.cancel()


async def project(ledger: Ledger) -> None:
    while True:
        await asyncio.sleep(0.3)
        await ledger.project()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])))
