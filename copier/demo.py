"""The demonstration: a master with a story, three followers at other simulated brokers, and an honest account of it."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from importlib import resources

import msgspec

from copier.app import App, raise_known
from copier.clock import Clock
from copier.errors import CopierError
from copier.gateways.opening import FIRST_PRICES, PaperWorld, name_at, spread_of
from copier.gateways.paper import PaperGateway
from copier.link import Link, LinkName
from copier.model import ZERO, Deal, DealEntry, Receipt, Record, Verdict
from copier.settings import PaperSettings, Settings, parse
from copier.words import Latency, copied_stamps, hops, mean_slippage, sentence, was_resized

ABOUT = {
    "cross": "half the master's size, at a broker with other names (EURUSD.r) and 10 oz of gold in a lot instead of 100",
    "netting": "the same size, on a netting account with one position per symbol; its terminal will die for a while",
    "small": "1,000 dollars, fixed small lots, does the opposite of the master, stops at 3% loss a day",
}
TICK_S = 0.1
LATENCY_S = 0.03
"""How far away the simulated brokers are, there and back."""
SETTLE_S = 20.0
"""How long the end may take until every follower is where its master is."""
D = Decimal


class FollowerEnd(Record, frozen=True, kw_only=True):
    """What became of one follower."""

    follower: str
    about: str
    currency: str
    balance_before: Decimal
    balance: Decimal
    opened: int
    """Positions it opened, by its broker's own deals."""
    closed: int
    still_open: int
    copied: int
    """Orders that copied an open or an addition."""
    resized: int
    refused: tuple[str, ...]
    """Why, one sentence each."""
    latency: Latency | None
    slippage_points: Decimal | None

    @property
    def result(self) -> Decimal:
        """Profit or loss, in its currency."""
        return self.balance - self.balance_before


class DemoEnd(Record, frozen=True, kw_only=True):
    """How the demonstration ended."""

    followers: tuple[FollowerEnd, ...]
    hops: dict[str, Latency]
    doubled: tuple[str, ...]
    """Orders that reached a broker twice, or that nobody knows of."""
    lost: tuple[str, ...]
    """Positions that are open without the master's, or were neither copied nor refused."""

    @property
    def verdict(self) -> str:
        """The one line that counts."""
        opened, closed = sum(f.opened for f in self.followers), sum(f.closed for f in self.followers)
        refused = sum(len(f.refused) for f in self.followers)
        wrong = [f"{len(self.doubled)} doubled" if self.doubled else "", f"{len(self.lost)} lost" if self.lost else ""]
        head = ", ".join(filter(None, wrong)) or "nothing doubled, nothing lost"
        return f"{head}: {opened} positions opened, {closed} closed, {refused} refused with reasons"

    @property
    def good(self) -> bool:
        """Whether everything is as it must be."""
        return not self.doubled and not self.lost


def demo_settings() -> Settings:
    """Return the settings of the demonstration."""
    return parse(resources.files("copier").joinpath("demo.yaml").read_text(encoding="utf-8"), name="demo.yaml")


class Market:
    """Moves the prices of every simulated broker together, each with its own spread and a small difference."""

    def __init__(self, paper: PaperWorld, accounts: dict[str, PaperSettings], *, seed: int = 7) -> None:
        self.bids = dict(FIRST_PRICES)
        self._paper = paper
        self._brokers = list({settings.server: settings for settings in accounts.values()}.values())
        self._random = random.Random(seed)
        self._moves: dict[str, tuple[Decimal, int]] = {}
        self._wider: dict[tuple[str, str], int] = {}

    def move(self, plain: str, by: str, seconds: float) -> None:
        """Let a price travel so far within so many seconds."""
        steps = max(1, round(seconds / TICK_S))
        self._moves[plain] = (D(by) / steps, steps)

    def widen(self, server: str, plain: str, points: int) -> None:
        """Widen one broker's spread by so many points, as before the news."""
        self._wider[server, plain] = points

    def tick(self) -> None:
        """Set every broker's next price of every symbol."""
        for plain in self.bids:
            step, left = self._moves.get(plain, (ZERO, 0))
            self._moves[plain] = (step, left - 1) if left > 1 else (ZERO, 0)
            point = self._point(plain)
            self.bids[plain] += step + self._random.randint(-2, 2) * point
            for number, broker in enumerate(self._brokers):
                self._set(number, broker, plain)

    async def run(self) -> None:
        """Tick for ever."""
        while True:
            self.tick()
            await asyncio.sleep(TICK_S)

    def _point(self, plain: str) -> Decimal:
        first = self._brokers[0]
        return self._paper.servers[first.server].symbols[name_at(first, plain)].spec.point

    def _set(self, number: int, broker: PaperSettings, plain: str) -> None:
        server, symbol = self._paper.servers[broker.server], name_at(broker, plain)
        spec = server.symbols[symbol].spec
        bid = round((self.bids[plain] + (number % 3) * spec.point) / spec.tick_size) * spec.tick_size
        spread = spread_of(broker, plain) + self._wider.get((broker.server, plain), 0)
        ask = bid + max(spec.tick_size, round(spread * spec.point / spec.tick_size) * spec.tick_size)
        server.set_quote(symbol, bid, ask)


class Demo:
    """One run of the story. `live` opens it, `play` tells it."""

    def __init__(self, clock: Clock, tell: Callable[[str], None]) -> None:
        self.settings = demo_settings()
        self.paper = PaperWorld(clock, latency_s=LATENCY_S)
        self.app = App(self.settings, clock, paper=self.paper)
        self.receipts: list[Receipt] = []
        self.app.listeners.append(self.receipts.append)
        accounts = {name: s for name, s in self.settings.accounts.items() if isinstance(s, PaperSettings)}
        self.market = Market(self.paper, accounts)
        self._tell = tell
        self._master = self.paper.servers["Signal-Broker"]
        self._keys: set[str] = set()
        self._links: dict[str, dict[LinkName, Link]] = {}
        """What every follower remembered at the end."""

    @contextlib.asynccontextmanager
    async def live(self) -> AsyncIterator[None]:
        """Run engine and market around the story; raise what ends the engine early."""
        self.market.tick()
        try:
            async with self.app, asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(self.market.run()), tasks.create_task(self.app.run())]
                yield
                for task in running:
                    task.cancel()
        except BaseExceptionGroup as group:
            raise_known(group)

    async def play(self) -> DemoEnd:
        """Tell the story and return how it ended."""
        await self._until(lambda: self._followers_ready, "the followers did not connect")
        await self._trade()
        await self._until(lambda: self._settled, "")
        assert self.app.worker is not None
        self._links = {name: follower.links for name, follower in self.app.worker.followers.items()}
        return self._end()

    # The story ------------------------------------------------------------------------------------------------------------

    async def _trade(self) -> None:
        tell, buy, market = self._tell, self._buy, self.market
        for name in self.settings.followers:
            tell(f"{name}: {ABOUT[name]}.")
        tell("These three follow the master from brokers of their own. The master is flat.")
        await asyncio.sleep(3)
        tell("The master buys 0.50 EURUSD at market, with a stop and a target.")
        euro = buy("EURUSD", "0.50", stop="-0.00300", target="0.00600")
        await asyncio.sleep(3)
        tell("The master buys 0.20 gold. One lot is 100 oz here and 10 oz at the cross broker: same ounces, other lots.")
        gold = buy("XAUUSD", "0.20", stop="-20", target="40")
        await asyncio.sleep(3)
        tell("The netting follower's terminal dies. Nobody can reach that account now.")
        netting = self.app.gateways["netting"]
        assert isinstance(netting, PaperGateway)
        netting.faults.offline = True
        await asyncio.sleep(1)
        tell("Meanwhile the master adds 0.25 EURUSD to its position. The dead terminal misses it.")
        buy("EURUSD", "0.25")
        await asyncio.sleep(2)
        tell("The terminal is back. The follower compares with its broker, then catches up, once.")
        netting.faults.offline = False
        await asyncio.sleep(4.5)
        tell("The euro has risen. The master moves its stop up to 10 points under its entry.")
        market.move("EURUSD", "0.00120", 1.5)
        await asyncio.sleep(2)
        position = self._master.position(1001, euro)
        assert position is not None
        stop = round(position.open_price - D("0.00010"), 5)
        self._master.set_levels(1001, euro, stop, position.take_profit)
        await asyncio.sleep(3)
        tell("Half of the gold is closed. Followers close half of what they were filled.")
        self._master.close(1001, gold, "0.10")
        await asyncio.sleep(3)
        tell("Gold rallies. Good for the master; the small account that does the opposite reaches its daily limit.")
        market.move("XAUUSD", "34", 2.5)
        await asyncio.sleep(5)
        tell("Before the news the cross broker's Dow spread is wide. The master buys 0.50 US30 all the same.")
        market.widen("Cross-Broker", "US30", 700)
        await asyncio.sleep(0.5)
        dow = buy("US30", "0.50", stop="-300", target="600")
        await asyncio.sleep(3.5)
        tell("The master closes everything.")
        for ticket in (euro, gold, dow):
            self._master.close(1001, ticket)
            await asyncio.sleep(0.4)
        await asyncio.sleep(1.5)

    def _buy(self, symbol: str, lots: str, *, stop: str = "", target: str = "") -> int:
        ask = self._master.quotes[symbol].ask
        held = next((p for p in self._master.positions(1001) if p.symbol == symbol), None)
        stop_loss = ask + D(stop) if stop else held.stop_loss if held else ZERO
        take_profit = ask + D(target) if target else held.take_profit if held else ZERO
        return self._master.buy(1001, symbol, lots, stop_loss=stop_loss, take_profit=take_profit).position

    # Waiting --------------------------------------------------------------------------------------------------------------

    async def _until(self, done: Callable[[], bool], otherwise: str) -> None:
        """Wait for something that must come soon; without it, go on, or raise what it means."""
        loop = asyncio.get_running_loop()
        end = loop.time() + SETTLE_S
        while not done():
            if loop.time() > end:
                if otherwise:
                    raise CopierError(otherwise)
                return
            await asyncio.sleep(0.05)

    @property
    def _followers_ready(self) -> bool:
        worker = self.app.worker
        if worker is None or len(worker.followers) < len(self.settings.followers):
            return False
        followers = worker.followers.values()
        return all(hasattr(f.standing, "account") and all(r.started for r in f.relations.values()) for f in followers)

    @property
    def _settled(self) -> bool:
        worker = self.app.worker
        return worker is not None and not any(link.living for f in worker.followers.values() for link in f.links.values())

    # The end --------------------------------------------------------------------------------------------------------------

    def _end(self) -> DemoEnd:
        followers = tuple(self._end_of(name) for name in self.settings.followers)
        doubled = [each for name in self.settings.followers for each in self._doubled(name)]
        lost = [each for name in self.settings.followers for each in self._lost(name)]
        times = hops(copied_stamps(self.receipts))
        return DemoEnd(followers=followers, hops=times, doubled=tuple(doubled), lost=tuple(lost))

    def _deals(self, name: str) -> list[Deal]:
        settings = self.settings.accounts[name]
        assert isinstance(settings, PaperSettings)
        return self.paper.servers[settings.server].accounts[int(settings.login)].deals

    def _end_of(self, name: str) -> FollowerEnd:
        settings = self.settings.accounts[name]
        assert isinstance(settings, PaperSettings)
        account = self.paper.servers[settings.server].accounts[int(settings.login)]
        own = [receipt for receipt in self.receipts if receipt.follower == name]
        copied = [receipt for receipt in own if receipt.verdict is Verdict.COPIED]
        opened = {deal.position_id for deal in account.deals if deal.position_id and deal.entry is DealEntry.IN}
        still_open = {position.identifier for position in account.positions.values()}
        times = hops(copied_stamps(own))
        return FollowerEnd(
            follower=name,
            about=ABOUT[name],
            currency=account.currency,
            balance_before=settings.balance,
            balance=account.balance,
            opened=len(opened),
            closed=len(opened - still_open),
            still_open=len(still_open),
            copied=len(copied),
            resized=sum(was_resized(receipt) for receipt in copied),
            refused=tuple(sentence(r) for r in own if r.verdict in (Verdict.REFUSED, Verdict.FAILED) and r.event != "limit"),
            latency=times.get("read to answered"),
            slippage_points=mean_slippage(copied),
        )

    def _doubled(self, name: str) -> list[str]:
        """Compare the broker's deals with the orders that were meant: each at most once, and none besides."""
        meant = {leg.tag for link in self._links[name].values() for leg in link.legs}
        seen = Counter(deal.tag for deal in self._deals(name) if deal.position_id and deal.entry is DealEntry.IN)
        return [f"{name}: order {tag or 'without a tag'}" for tag, count in seen.items() if count > 1 or tag not in meant]

    def _lost(self, name: str) -> list[str]:
        """Find what is open although the master is flat, and master positions about which nothing was decided."""
        settings = self.settings.accounts[name]
        assert isinstance(settings, PaperSettings)
        still_open = self.paper.servers[settings.server].positions(int(settings.login))
        found = [f"{name}: {position.symbol} {position.lots} is still open" for position in still_open]
        keys = {link.name for links in self._links.values() for link in links.values()}
        own = self._links[name]
        undecided = [key for key in sorted(keys) if key not in own or not (own[key].filled or own[key].reason)]
        return found + [f"{name}: nothing was decided about {key}" for _, key in undecided]


def as_json(end: DemoEnd) -> bytes:
    """Return the end for machines."""
    return msgspec.json.encode({"verdict": end.verdict, "good": end.good, "end": end})
