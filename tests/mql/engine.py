"""An engine's end of a bridge in a process of its own, which a test can freeze: says its port, then what it logs."""

import asyncio
import logging
import sys
from pathlib import Path

from copier.gateways.bridge import bridge_gateway
from copier.gateways.bridge_files import FilesCarrier
from copier.gateways.bridge_hub import BridgeHub
from copier.gateways.bridge_pipe import PipeListener
from copier.gateways.bridge_port import PortListener
from copier.gateways.carriers import Carrier
from tests.mql.stage import FACTS, SECRET, ShiftedClock


async def serve(way: str, folder: Path, account: str, shift_ms: int) -> None:
    """Let an Expert Advisor in, for ever."""
    clock = ShiftedClock(0)
    clock.shift_ms = shift_ms
    port = 0
    if way == "files":
        carrier: Carrier = FilesCarrier(folder, account, SECRET, clock=clock, poll_s=0.002)
    else:
        listener = PipeListener("test", folder) if way.endswith("pipe") else PortListener(port=0)
        waiting = BridgeHub(listener, clock=clock).carrier(account, SECRET)
        await waiting.open()
        port = listener.port if isinstance(listener, PortListener) else 0
        carrier = waiting
    gateway = bridge_gateway(carrier, FACTS, account, clock=clock, open_timeout_s=60.0)
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await gateway.open()
    await asyncio.Event().wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
