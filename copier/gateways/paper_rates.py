"""What prices are worth on a paper server: quotes, currency conversion, money of a move, margin."""

from collections.abc import Mapping
from decimal import Decimal

from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_symbols import PaperSymbol, TickMoney
from copier.model import ZERO, CalcMode, Side

_ONE = Decimal(1)
_LIKE_FOREX = {CalcMode.FOREX}


class PaperQuote:
    """The last prices of a symbol; `time_ms` is UTC."""

    __slots__ = ("ask", "bid", "time_ms")

    def __init__(self, bid: Decimal, ask: Decimal, time_ms: int) -> None:
        self.bid = bid
        self.ask = ask
        self.time_ms = time_ms

    def to_open(self, side: Side) -> Decimal:
        """Return what opening `side` pays."""
        return self.ask if side is Side.BUY else self.bid

    def to_close(self, side: Side) -> Decimal:
        """Return what closing `side` gets."""
        return self.bid if side is Side.BUY else self.ask


class NoRate(Exception):
    """The server has no quote to convert one currency into another."""


class Rates:
    """Converts by the server's own quotes: gains at the bid of the conversion, losses at its ask."""

    def __init__(self, symbols: Mapping[str, PaperSymbol], quotes: Mapping[str, PaperQuote]) -> None:
        self._symbols = symbols
        self._quotes = quotes
        self._fixed: dict[tuple[str, str], Decimal] = {}
        self._paths: dict[tuple[str, str], tuple[tuple[str, bool], ...]] = {}

    def fix(self, source: str, target: str, rate: Decimal) -> None:
        """Set a rate that no quote moves; its inverse follows."""
        self._fixed[source, target] = rate
        self._fixed[target, source] = _ONE / rate

    def forget_paths(self) -> None:
        """Look for conversion symbols anew, as the offered symbols have changed."""
        self._paths.clear()

    def pair(self, source: str, target: str) -> tuple[Decimal, Decimal]:
        """Return what one unit of gain and one of loss in `source` are in `target`; raise `NoRate`."""
        if source == target:
            return _ONE, _ONE
        fixed = self._fixed.get((source, target))
        if fixed is not None:
            return fixed, fixed
        path = self._paths.get((source, target))
        if path is None:
            path = self._paths[source, target] = self._find(source, target)
        gain = loss = _ONE
        for symbol, inverted in path:
            quote = self._quotes[symbol]
            gain *= _ONE / quote.ask if inverted else quote.bid
            loss *= _ONE / quote.bid if inverted else quote.ask
        return gain, loss

    def units(self, account: PaperAccount, offered: PaperSymbol) -> tuple[Decimal, Decimal]:
        """Return the account's money per lot for a price move of 1, in favour and against; raise `NoRate`."""
        spec = offered.spec
        if offered.tick_money is TickMoney.SPEC:
            return spec.tick_value / spec.tick_size, spec.tick_value_loss / spec.tick_size
        unit = spec.tick_value / spec.tick_size if spec.calc_mode is CalcMode.FUTURES else spec.contract_size
        if spec.currency_profit == account.currency:
            return unit, unit
        gain, loss = self.pair(spec.currency_profit, account.currency)
        return unit * gain, unit * loss

    def margin_per_lot(self, account: PaperAccount, offered: PaperSymbol, side: Side, price: Decimal) -> Decimal:
        """Return the margin of one lot opened at `price`, in the account's money; raise `NoRate`."""
        spec = offered.spec
        if offered.tick_money is TickMoney.SPEC or spec.calc_mode is CalcMode.FUTURES:
            if spec.margin_per_lot is not None:
                return spec.margin_per_lot * offered.margin_rate
            currency, amount = account.currency, spec.contract_size * price / account.leverage
        elif spec.calc_mode is CalcMode.FOREX:
            currency, amount = spec.currency_margin or spec.currency_base, spec.contract_size / account.leverage
        elif spec.calc_mode in (CalcMode.CFD, CalcMode.STOCKS):
            currency, amount = spec.currency_profit, spec.contract_size * price
        else:
            currency, amount = spec.currency_profit, spec.contract_size * price / account.leverage
        if currency != account.currency:
            gain, loss = self.pair(currency, account.currency)
            amount *= loss if side is Side.BUY else gain
        return amount * offered.margin_rate

    def _find(self, source: str, target: str) -> tuple[tuple[str, bool], ...]:
        edges: dict[tuple[str, str], tuple[str, bool]] = {}
        for name in sorted(self._symbols, key=lambda name: (len(name), name)):
            spec = self._symbols[name].spec
            if spec.calc_mode in _LIKE_FOREX and name in self._quotes:
                edges.setdefault((spec.currency_base, spec.currency_profit), (name, False))
                edges.setdefault((spec.currency_profit, spec.currency_base), (name, True))
        if (source, target) in edges:
            return (edges[source, target],)
        for middle in sorted({currency for currency, _ in edges}, key=lambda currency: (currency != "USD", currency)):
            if (source, middle) in edges and (middle, target) in edges:
                return edges[source, middle], edges[middle, target]
        raise NoRate(f"no quote converts {source} to {target}")


def money_of(move: Decimal, lots: Decimal, units: tuple[Decimal, Decimal]) -> Decimal:
    """Return the money of a move in favour (or against, negative), not yet rounded."""
    return move * lots * units[move < ZERO]
