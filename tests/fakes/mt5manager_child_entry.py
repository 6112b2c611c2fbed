"""Runs the manager's child with a fake MT5Manager package, and a broker beside it, in the child's own process.

The first word of the command line is what the broker does: `slow-5002` answers that login's requests after three seconds,
`hang-5002` never, `die` ends the process as soon as an order arrives.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main(plan: str) -> int:
    from copier.clock import SystemClock
    from copier.gateways import mt5_manager_child
    from copier.gateways.paper_account import PaperAccount
    from copier.gateways.paper_server import PaperServer
    from tests.fakes.fake_mt5manager import FakeManagerServer, FakeMT5Manager

    def later(seconds: float, act: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, act)
        timer.daemon = True
        timer.start()

    server = PaperServer("Broker-Demo", clock=SystemClock(), server_offset_s=7200)
    for login in (5001, 5002):
        server.add_account(PaperAccount(login))
    server.set_quote("EURUSD", "1.10000", "1.10010")
    fake = FakeManagerServer(server=server, latency_s=0.01, later=later, sleep=time.sleep)
    what, _, login_text = plan.partition("-")
    if what == "slow":
        fake.slow[int(login_text)] = 3.0
    if what == "hang":
        fake.slow[int(login_text)] = 3600.0
    if what == "die":
        fake.soon = lambda seconds, act: os._exit(9)  # type: ignore[method-assign]

    def load(opening: object) -> FakeMT5Manager:
        return FakeMT5Manager(fake)

    return mt5_manager_child.main(load)


if __name__ == "__main__":
    os._exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
