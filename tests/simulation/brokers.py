"""The brokers of a history: an account on a server of its own each, what its terminal shows, and the log of what was executed."""

import asyncio
from collections.abc import Callable
from decimal import Decimal

import msgspec

from copier.clock import Clock
from copier.errors import Rejected
from copier.gateways.paper import PaperGateway
from copier.gateways.paper_account import PaperAccount, PaperPosition
from copier.gateways.paper_faults import NO_FAULT, Fault, Faults, Operation
from copier.gateways.paper_orders import Fill, MarketOrder
from copier.gateways.paper_rates import PaperQuote
from copier.gateways.paper_server import PaperServer
from copier.gateways.paper_symbols import PaperSymbol
from copier.model import DealReason, Permit, Positions
from tests.simulation.plan import AccountPlan

D = Decimal
TRADES = (Operation.EXECUTE, Operation.CLOSE, Operation.MODIFY)


class Executed(msgspec.Struct, frozen=True):
    """One order a broker executed, as its own log has it."""

    at_ms: int
    order: MarketOrder
    lots: Decimal
    position: int
    """The position's ticket after it."""
    rest: int
    """MT4: the new ticket of what is left, else 0."""
    identifier: int
    """The position's for life, as the server keeps it."""


class WatchedFaults(Faults):
    """Faults that remember until when a request they delayed may still land."""

    def __init__(self) -> None:
        super().__init__()
        self.lands_s = 0.0
        self.stale_reads = 0

    def take(self, operation: Operation) -> Fault:
        fault = super().take(operation)
        if operation in TRADES:
            now = asyncio.get_running_loop().time()
            self.lands_s = max(self.lands_s, now + fault.send_delay_s + fault.execute_delay_s)
        return fault


class Terminal(PaperGateway):
    """A process's way to an account, that may answer with the list it showed before."""

    _shown: Positions | None = None
    faults: WatchedFaults
    admitted: list[int]

    def _admit(self, permit: Permit) -> None:
        super()._admit(permit)
        self.admitted.append(permit.token)

    async def get_positions(self, symbol: str | None = None) -> Positions:
        if self.faults.stale_reads and self._shown is not None and symbol is None:
            self.faults.stale_reads -= 1
            await self._read(Operation.POSITIONS)
            return self._shown
        shown = await super().get_positions(symbol)
        if symbol is None:
            self._shown = shown
        return shown


class Broker:
    """One account on a server of its own, and the log of what was really executed."""

    def __init__(self, plan: AccountPlan, clock: Clock, trace: Callable[[str], None]) -> None:
        self.plan = plan
        self.server = PaperServer(f"{plan.name}-Server", clock=clock, server_offset_s=plan.offset_s)
        self.account = self.server.add_account(PaperAccount(1, margin_mode=plan.mode, balance=D(1_000_000)))
        self.server.add_account(PaperAccount(2, margin_mode=plan.mode, balance=D(1_000_000)))
        self.faults = WatchedFaults()
        self.clock = clock
        self.executed: list[Executed] = []
        self.modified_ms = 0
        """When a program last changed levels."""
        self.by_hand: list[int] = []
        self.admitted: list[int] = []
        """The tokens of all trading requests that the far end let through, in that order."""
        self._trace = trace
        self._deal, self._set_levels = self.server.deal, self.server.set_levels
        self._close_out = self.server._triggers.close_out
        self.server.deal = self._logged_deal  # type: ignore[method-assign]
        self.server.set_levels = self._logged_levels  # type: ignore[method-assign]
        self.server._triggers.close_out = self._logged_close_out  # type: ignore[method-assign]

    def gateway(self, clock: Clock) -> Terminal:
        """Return a new process's way to it, the terminal on a machine with this clock."""
        without = frozenset() if self.plan.deals else frozenset({"deals"})
        made = Terminal(self.server, 1, clock=clock, faults=self.faults, latency_s=self.plan.latency_s, without=without)
        made.admitted = self.admitted
        return made

    def habits(self) -> None:
        """Lay what this broker always does."""
        self.faults.visibility_lag_ms = self.plan.lag_ms
        self.faults.empty_after_open_s = self.plan.empty_s
        if self.plan.comment is not None:
            self.faults.always(Operation.EXECUTE, self.plan.comment)

    def calm(self) -> None:
        """Let nothing go wrong any more but what it always does."""
        self.faults.clear()
        self.faults.stale_reads = 0
        self.faults.offline, self.server.online = False, True
        self.faults.visibility_lag_ms = self.plan.lag_ms
        if self.plan.comment is not None:
            self.faults.always(Operation.EXECUTE, self.plan.comment)

    def _logged_deal(self, login: int, order: MarketOrder, fault: Fault = NO_FAULT) -> Fill:
        before = {ticket: position.identifier for ticket, position in self.account.positions.items()}
        words = f"{self.plan.name} {order.reason} {order.side} {order.symbol} {order.lots} #{order.position} {order.comment!r}"
        try:
            fill = self._deal(login, order, fault)
        except Rejected as error:
            self._trace(f"{words}: refused, {error.reason}")
            raise
        if login == 1:
            identifier = before.get(order.position) or before.get(fill.position) or fill.identifier
            self._log(order, fill.lots, fill.position, fill.rest or 0, identifier)
        self._trace(f"{words}: {fill.lots} lots, position {fill.position}")
        return fill

    def _logged_close_out(
        self,
        account: PaperAccount,
        position: PaperPosition,
        offered: PaperSymbol,
        quote: PaperQuote,
        now_ms: int,
        reason: DealReason,
        comment: str,
    ) -> None:
        lots, ticket, identifier = position.lots, position.ticket, position.identifier
        order = MarketOrder(symbol=position.symbol, side=position.side.opposite, lots=lots, position=ticket, reason=reason)
        self._close_out(account, position, offered, quote, now_ms, reason, comment)
        if account.login == 1:
            self._log(order, lots, ticket, 0, identifier)
        self._trace(f"{self.plan.name} {reason} {order.side} {order.symbol} {lots} #{ticket}")

    def _log(self, order: MarketOrder, lots: Decimal, position: int, rest: int, identifier: int) -> None:
        self.executed.append(Executed(self.clock.now_ms(), order, lots, position, rest, identifier))

    def _logged_levels(
        self,
        login: int,
        ticket: int,
        stop_loss: Decimal,
        take_profit: Decimal,
        *,
        reason: DealReason = DealReason.CLIENT,
        fault: Fault = NO_FAULT,
    ) -> int:
        code = self._set_levels(login, ticket, stop_loss, take_profit, reason=reason, fault=fault)
        if reason is DealReason.EXPERT:
            self.modified_ms = self.clock.now_ms()
        self._trace(f"{self.plan.name} {reason} levels of #{ticket}: {stop_loss}/{take_profit}")
        return code
