"""Every kind of account behind the one contract: one `match`, and the simulated brokers of this process."""

import asyncio
import zlib
from decimal import Decimal
from typing import assert_never

from copier.clock import Clock
from copier.errors import SettingsError
from copier.gateway import Gateway
from copier.gateways.bridge import Bridges
from copier.gateways.mt5 import mt5_gateway
from copier.gateways.mt5_manager import Managers
from copier.gateways.paper import PaperGateway
from copier.gateways.paper_account import MarginRule, PaperAccount
from copier.gateways.paper_quotes import RandomWalk, play_ticks, read_ticks
from copier.gateways.paper_server import PaperServer
from copier.gateways.paper_symbols import PaperSymbol, default_symbols, variant
from copier.settings import (
    AccountSettings,
    BridgeSettings,
    Mt5ManagerSettings,
    Mt5Settings,
    PaperSettings,
    TickQuotes,
    WalkQuotes,
)

MANAGERS = Managers()
"""The manager connections of this process."""
BRIDGES = Bridges()
"""The listeners for Expert Advisors of this process."""
FIRST_PRICES = {
    "EURUSD": Decimal("1.10000"),
    "GBPUSD": Decimal("1.27000"),
    "USDJPY": Decimal("150.000"),
    "XAUUSD": Decimal("2650.00"),
    "US30": Decimal("42000.00"),
    "BTCUSD": Decimal("95000.00"),
}
"""Where a walk begins, by plain name; the same at every broker."""
SPREAD_POINTS = {"EURUSD": 8, "GBPUSD": 12, "USDJPY": 10, "XAUUSD": 25, "US30": 200, "BTCUSD": 1500}


def open_gateway(settings: AccountSettings, clock: Clock, paper: "PaperWorld", managers: Managers = MANAGERS) -> Gateway:
    """Return the gateway to one account, not yet open; simulated accounts live in `paper`, manager connections in `managers`."""
    match settings:
        case PaperSettings():
            return paper.gateway(settings)
        case Mt5Settings():
            return mt5_gateway(settings, clock)
        case Mt5ManagerSettings():
            return managers.gateway(settings, clock)
        case BridgeSettings():
            return BRIDGES.gateway(settings, clock)
        case _ as never:
            assert_never(never)


class PaperWorld:
    """The simulated brokers of this process: accounts that name the same server share it, its symbols and its prices."""

    def __init__(self, clock: Clock, *, latency_s: float = 0.0) -> None:
        """`latency_s` is the time of every call there and back."""
        self.servers: dict[str, PaperServer] = {}
        self._clock = clock
        self._latency_s = latency_s
        self._offers: dict[str, PaperSettings] = {}

    def gateway(self, settings: PaperSettings) -> PaperGateway:
        """Return a gateway to an account, which is made with its server if it is not there; raise `SettingsError`."""
        server = self.servers.get(settings.server)
        if server is None:
            offered = [_offer(plain, symbol, settings) for plain, symbol in default_symbols().items()]
            server = self.servers[settings.server] = PaperServer(
                settings.server, clock=self._clock, symbols=offered, first_ticket=self._first_ticket()
            )
            self._offers[settings.server] = settings
        first = self._offers[settings.server]
        if (first.symbols, first.quotes) != (settings.symbols, settings.quotes):
            expected = f"expected the symbols and quotes of account {first.login}, which is on the same server"
            raise SettingsError([f"accounts: {settings.login} on {settings.server}: {expected}"])
        login = int(settings.login)
        if login not in server.accounts:
            server.add_account(
                PaperAccount(
                    login,
                    currency=settings.currency,
                    leverage=settings.leverage,
                    margin_mode=settings.margin_mode,
                    balance=settings.balance,
                    margin_rule=MarginRule(settings.margin.value),
                )
            )
        return PaperGateway(server, login, clock=self._clock, latency_s=self._latency_s)

    def _first_ticket(self) -> int:
        """Return a ticket that no earlier run has given: a ledger outlives these brokers, and no broker reuses tickets."""
        return max(1_000_001, self._clock.now_ms() // 1000 - 1_600_000_000)

    async def run(self) -> None:
        """Move every server's prices as its settings say, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for name, server in self.servers.items():
                settings = self._offers[name]
                match settings.quotes:
                    case WalkQuotes(seed=seed):
                        for plain in FIRST_PRICES:
                            tasks.create_task(self._walk(server, plain, settings, seed).run(), name=f"{plain} at {name}")
                    case TickQuotes() as ticks:
                        for plain in FIRST_PRICES:
                            tasks.create_task(_play(server, plain, settings, ticks), name=f"{plain} at {name}")
                    case _ as never:
                        assert_never(never)

    def _walk(self, server: PaperServer, plain: str, settings: PaperSettings, seed: int) -> RandomWalk:
        symbol = name_at(settings, plain)
        spec = server.symbols[symbol].spec
        spread = max(1, int(spread_of(settings, plain) * spec.point / spec.tick_size))
        # Seeded by the plain name: the same instrument walks the same way at every broker.
        own_seed = zlib.crc32(f"{seed} {plain}".encode())
        return RandomWalk(server, symbol, FIRST_PRICES[plain], seed=own_seed, spread_ticks=spread)


def name_at(settings: PaperSettings, plain: str) -> str:
    """Return what a paper broker calls a symbol."""
    return f"{settings.symbols.prefix}{plain}{settings.symbols.suffix}"


def spread_of(settings: PaperSettings, plain: str) -> int:
    """Return a paper broker's spread of a symbol, in points of its ready-made example."""
    override = settings.symbols.overrides.get(plain)
    return SPREAD_POINTS[plain] if override is None or override.spread_points is None else override.spread_points


def _offer(plain: str, symbol: PaperSymbol, settings: PaperSettings) -> PaperSymbol:
    override = settings.symbols.overrides.get(plain)
    rules = {} if override is None else override.model_dump(exclude_none=True, exclude={"spread_points"})
    return variant(symbol, prefix=settings.symbols.prefix, suffix=settings.symbols.suffix, **rules)


async def _play(server: PaperServer, plain: str, settings: PaperSettings, ticks: TickQuotes) -> None:
    path = ticks.folder / f"{plain}.csv"
    if not path.exists():
        return
    try:
        await play_ticks(server, name_at(settings, plain), read_ticks(path))
    except (ValueError, OSError) as error:
        raise SettingsError([f"accounts: quotes of {settings.server}: {error}"]) from error
