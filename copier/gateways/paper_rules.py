"""When a paper server refuses: the rules of a trade server, each a check that raises `Rejected`."""

from decimal import Decimal

from copier.errors import Reason
from copier.gateways.paper_account import PaperAccount, PaperPosition
from copier.gateways.paper_rates import PaperQuote
from copier.gateways.paper_symbols import PaperSymbol, honours_slippage
from copier.model import ZERO, DealReason, Execution, Filling, Side, SymbolSpec, TradeMode

INVALID = 10013
INVALID_ORDER = 10035
INVALID_CLOSE_VOLUME = 10038
LIMIT_VOLUME = 10034
SERVER_DISABLES_AT = 10026
MT4_INVALID = 3
MT4_UNKNOWN_SYMBOL = 4106


def check_permission(account: PaperAccount, reason: DealReason) -> None:
    """Refuse an investor login, and robots where the broker forbids them."""
    if account.investor:
        raise account.refuse(Reason.TRADE_DISABLED, "Trade is disabled: investor login")
    if reason is DealReason.EXPERT and not account.expert_allowed:
        raise account.refuse(Reason.AUTOTRADING_OFF, "The broker forbids automated trading", mt5=SERVER_DISABLES_AT, mt4=133)


def check_opening_side(account: PaperAccount, spec: SymbolSpec, side: Side) -> None:
    """Refuse an open that the symbol's trade mode does not allow."""
    match spec.trade_mode:
        case TradeMode.FULL:
            return
        case TradeMode.LONG_ONLY if side is Side.SELL:
            raise account.refuse(Reason.LONG_ONLY)
        case TradeMode.SHORT_ONLY if side is Side.BUY:
            raise account.refuse(Reason.SHORT_ONLY)
        case TradeMode.CLOSE_ONLY:
            raise account.refuse(Reason.CLOSE_ONLY)


def check_volume(account: PaperAccount, spec: SymbolSpec, lots: Decimal) -> None:
    """Refuse lots off the symbol's minimum, maximum or step."""
    if lots < spec.volume_min or lots > spec.volume_max or lots % spec.volume_step:
        raise account.refuse(
            Reason.INVALID_VOLUME,
            f"Invalid volume: {lots} lots, expected {spec.volume_min} to {spec.volume_max} by {spec.volume_step}",
        )


def check_filling(account: PaperAccount, spec: SymbolSpec, filling: Filling | None) -> None:
    """Refuse a filling mode the symbol's execution does not know; MT4 has none."""
    if filling is None or account.mt4 or spec.execution in (Execution.REQUEST, Execution.INSTANT):
        return
    allowed = filling in spec.fillings
    if filling is Filling.RETURN:
        allowed = spec.execution is Execution.EXCHANGE
    if not allowed:
        raise account.refuse(Reason.INVALID_FILLING)


def price_of(
    account: PaperAccount, spec: SymbolSpec, quote: PaperQuote, side: Side, price: Decimal | None, deviation: int | None
) -> Decimal:
    """Return the fill of an order of `side`; where the server looks at the asked price, refuse one too far off."""
    fill = quote.to_open(side)
    if price is None or not honours_slippage(spec):
        return fill
    if price <= ZERO:
        raise account.refuse(Reason.INVALID_PRICE)
    if deviation is not None and abs(fill - price) > deviation * spec.point:
        raise account.refuse(Reason.REQUOTE)
    return fill


def check_levels(
    account: PaperAccount,
    offered: PaperSymbol,
    side: Side,
    quote: PaperQuote,
    stop: Decimal,
    target: Decimal,
    *,
    off_tick_refused: bool = True,
) -> None:
    """Refuse a stop or target (0 is none) on the wrong side of the closing price, or nearer to it than the stops level."""
    if not stop and not target:
        return
    spec = offered.spec
    price = quote.to_close(side)
    gap = max(spec.stops_level, offered.stops_level_hidden) * spec.point
    for level, distance in ((stop, price - stop), (target, target - price)):
        distance *= side.sign
        if level and (distance <= ZERO or distance < gap or (off_tick_refused and level % spec.tick_size)):
            raise account.refuse(
                Reason.INVALID_STOPS, f"Invalid stops: {level} for a {side} with the price at {price} on {spec.symbol}"
            )


def check_frozen(account: PaperAccount, spec: SymbolSpec, position: PaperPosition, quote: PaperQuote) -> None:
    """Refuse to touch a position whose stop or target is nearer than the freeze level."""
    if not spec.freeze_level:
        return
    price = quote.to_close(position.side)
    gap = spec.freeze_level * spec.point
    if any(level and abs(price - level) <= gap for level in (position.stop_loss, position.take_profit)):
        raise account.refuse(Reason.FROZEN)


def check_room(account: PaperAccount, spec: SymbolSpec, side: Side, lots: Decimal) -> None:
    """Refuse an open beyond the account's positions, the symbol's volume limit, or a ban on hedging."""
    if account.positions_max and len(account.positions) >= account.positions_max:
        raise account.refuse(Reason.LIMIT)
    if account.hedging_prohibited and any(each.side is not side for each in account.on(spec.symbol)):
        raise account.refuse(Reason.HEDGE_PROHIBITED)
    check_volume_limit(account, spec, side, lots)


def check_volume_limit(account: PaperAccount, spec: SymbolSpec, side: Side, lots: Decimal) -> None:
    """Refuse more lots in one direction, pending orders included, than the symbol allows."""
    if not spec.volume_limit:
        return
    held = sum((each.lots for each in account.on(spec.symbol) if each.side is side), ZERO)
    waiting = sum((each.lots_left for each in account.pending.values() if each.symbol == spec.symbol and each.side is side), ZERO)
    if held + waiting + lots > spec.volume_limit:
        raise account.refuse(Reason.LIMIT, f"Limit of {spec.volume_limit} lots in one direction reached", mt5=LIMIT_VOLUME)


def check_closing(
    account: PaperAccount, spec: SymbolSpec, position: PaperPosition, side: Side, lots: Decimal, *, small_rest_refused: bool
) -> None:
    """Refuse to close more than there is, off the step, out of turn, or with an order of the position's own side."""
    if side is position.side:
        raise account.refuse(Reason.REFUSED, "Invalid request: the side of the position itself", mt5=INVALID, mt4=MT4_INVALID)
    if lots <= ZERO or lots > position.lots:
        raise account.refuse(Reason.INVALID_VOLUME, f"Only {position.lots} lots are open, not {lots}", mt5=INVALID_CLOSE_VOLUME)
    if lots > spec.volume_max:
        raise account.refuse(Reason.INVALID_VOLUME, f"At most {spec.volume_max} lots in one order, not {lots}")
    if lots != position.lots:
        check_volume(account, spec, lots)
        if small_rest_refused and position.lots - lots < spec.volume_min:
            raise account.refuse(Reason.INVALID_VOLUME, f"A rest of {position.lots - lots} lots is below {spec.volume_min}")
    if account.fifo and next(account.on(spec.symbol)) is not position:
        raise account.refuse(Reason.FIFO)


def filled(spec: SymbolSpec, lots: Decimal, fraction: Decimal | None) -> Decimal:
    """Return what is filled of an order: all, or the fraction on the symbol's step, at least one step."""
    if fraction is None:
        return lots
    return max(spec.volume_step, lots * fraction // spec.volume_step * spec.volume_step)
