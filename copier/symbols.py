"""A master's symbol -> the follower's: by map, by prefix and suffix, by what the instrument is; never by likeness.

A wrong instrument is worse than none. A name counts only where nothing known about the two instruments speaks against it:
GOLD is a metal at one broker and a mining share at another.
"""

from collections.abc import Mapping
from decimal import Decimal

from copier.model import ZERO, CalcMode, Refused, SymbolSpec, TradeMode
from copier.policy import SymbolPolicy, matches
from copier.steps import plain

_FAMILIES = {CalcMode.CFD: "cfd", CalcMode.CFD_INDEX: "cfd", CalcMode.CFD_LEVERAGE: "cfd"}
_MATCHED = {CalcMode.FOREX, CalcMode.CFD, CalcMode.CFD_INDEX, CalcMode.CFD_LEVERAGE}
"""Modes in which the base currency names the instrument; a future has expiries besides, a share no currency at all."""
_CLOSED = {TradeMode.DISABLED, TradeMode.CLOSE_ONLY}

Catalogue = Mapping[str, SymbolSpec]


def follower_symbol(symbol: str, policy: SymbolPolicy, master: SymbolSpec | None, catalogue: Catalogue | None) -> str | Refused:
    """Return what the master's `symbol` is called at the follower, or why it is not copied.

    `master` is the symbol's specification at the master; `catalogue` the follower's symbols, None where its gateway
    cannot list them: then a name is taken as it is, and `different_instrument` should be asked once it has been quoted.
    """
    found = _find(symbol, policy, master, catalogue)
    if isinstance(found, Refused):
        return _denied(symbol, "", policy) or found
    return _denied(symbol, found, policy) or found


def different_instrument(master: SymbolSpec, follower: SymbolSpec) -> str:
    """Return what tells two instruments of one name apart, empty if nothing known does."""
    for what, theirs, ours in (
        ("base currency", master.currency_base, follower.currency_base),
        ("profit currency", master.currency_profit, follower.currency_profit),
    ):
        if theirs and ours and theirs != ours:
            return f"its {what} is {ours}, the master's is {theirs}"
    # A metal is computed like a currency at one broker and as a CFD at the next; its two currencies say that it is the same.
    pair = (master.currency_base, master.currency_profit)
    named = all(pair) and pair[0] != pair[1] and pair == (follower.currency_base, follower.currency_profit)
    if named and {master.calc_mode, follower.calc_mode} <= _MATCHED:
        return ""
    # MT4 knows one kind of CFD where MT5 knows three, so within that family a name is believed.
    if _FAMILIES.get(master.calc_mode, master.calc_mode) != _FAMILIES.get(follower.calc_mode, follower.calc_mode):
        return f"it is computed as {follower.calc_mode.value}, the master's as {master.calc_mode.value}"
    return ""


def contract_warning(master: SymbolSpec, follower: SymbolSpec) -> str | None:
    """Return a sentence if one lot is not the same amount at both brokers."""
    if master.contract_size == follower.contract_size or ZERO in (master.contract_size, follower.contract_size):
        return None
    times = plain(follower.contract_size / master.contract_size)
    return (
        f"1 lot of {follower.symbol} is {plain(follower.contract_size)} units, 1 lot of the master's {master.symbol} is "
        f"{plain(master.contract_size)}: equal lots would be {times} times the trade"
    )


def commission_per_lot(symbol: str, policy: SymbolPolicy) -> Decimal:
    """Return the money per lot, opening and closing together, that trading the follower's `symbol` costs."""
    for pattern, money in policy.commission.items():
        if matches(symbol, pattern):
            return money
    return ZERO


def _find(symbol: str, policy: SymbolPolicy, master: SymbolSpec | None, catalogue: Catalogue | None) -> str | Refused:
    mapped = policy.map.get(symbol)
    if mapped is not None:
        if catalogue is None or mapped in catalogue:
            return mapped
        return _unmapped(symbol, "symbols.map", f"{symbol} is mapped to {mapped}, which the broker does not offer")
    named = policy.prefix + _stripped(symbol, policy) + policy.suffix
    if catalogue is None:
        return named
    doubt = _doubt(named, master, catalogue)
    if not doubt:
        return named
    if not policy.automatic:
        return _unmapped(symbol, "symbols.automatic", f"{symbol}: {doubt}, and automatic matching is off")
    return _match(symbol, master, catalogue, doubt)


def _stripped(symbol: str, policy: SymbolPolicy) -> str:
    plain_name = symbol.removeprefix(policy.master_prefix).removesuffix(policy.master_suffix)
    return plain_name or symbol


def _doubt(named: str, master: SymbolSpec | None, catalogue: Catalogue) -> str:
    spec = catalogue.get(named)
    if spec is None:
        return f"the broker offers no {named}"
    if spec.trade_mode in _CLOSED:
        return f"{named} cannot be opened at the broker ({spec.trade_mode.value})"
    other = different_instrument(master, spec) if master else ""
    return f"the broker's {named} is another instrument: {other}" if other else ""


def _match(symbol: str, master: SymbolSpec | None, catalogue: Catalogue, doubt: str) -> str | Refused:
    rule = "symbols.automatic"
    if master is None:
        return _unmapped(symbol, rule, f"{symbol}: {doubt}, and nothing is known about the master's symbol to match it by")
    base, profit = master.currency_base, master.currency_profit
    if master.calc_mode not in _MATCHED or not base or not profit or base == profit:
        return _unmapped(symbol, rule, f"{symbol}: {doubt}, and its currencies do not tell which instrument it is; map it")
    same = sorted(
        name
        for name, spec in catalogue.items()
        if spec.currency_base == base
        and spec.currency_profit == profit
        and spec.calc_mode is master.calc_mode
        and spec.trade_mode not in _CLOSED
    )
    if not same:
        kind = master.calc_mode.value
        return _unmapped(symbol, rule, f"{symbol}: {doubt}, nor any tradable {kind} symbol of {base} in {profit}")
    if len(same) > 1:
        return Refused(
            code="symbol_ambiguous",
            rule=rule,
            message=f"{symbol} could be {' or '.join(same)} at the broker; map it to one of them",
            numbers={"symbol": symbol, "candidates": ", ".join(same)},
        )
    return same[0]


def _denied(symbol: str, found: str, policy: SymbolPolicy) -> Refused | None:
    for pattern in policy.deny:
        if matches(symbol, pattern) or matches(found, pattern):
            return _refused("symbol_denied", "symbols.deny", f"{symbol} is on the deny list ({pattern})", symbol)
    if policy.allow and not any(matches(symbol, p) or (found and matches(found, p)) for p in policy.allow):
        return _refused(
            "symbol_denied", "symbols.allow", f"{symbol} is not on the allow list ({', '.join(policy.allow)})", symbol
        )
    return None


def _unmapped(symbol: str, rule: str, message: str) -> Refused:
    return _refused("symbol_unmapped", rule, message, symbol)


def _refused(code: str, rule: str, message: str, symbol: str) -> Refused:
    return Refused(code=code, rule=rule, message=message, numbers={"symbol": symbol})
