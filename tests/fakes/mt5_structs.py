"""The result objects and constants of the MetaTrader5 package, as read from its 5.0.6231 wheel; nothing but Python is needed."""

from collections.abc import Iterable
from typing import Any

FIELDS: dict[str, str] = {
    "AccountInfo": """login trade_mode leverage limit_orders margin_so_mode trade_allowed trade_expert margin_mode currency_digits
        fifo_close balance credit profit equity margin margin_free margin_level margin_so_call margin_so_so margin_initial
        margin_maintenance assets liabilities commission_blocked name server currency company""",
    "TerminalInfo": """community_account community_connection connected dlls_allowed trade_allowed tradeapi_disabled email_enabled
        ftp_enabled notifications_enabled mqid build maxbars codepage ping_last community_balance retransmission company name
        language path data_path commondata_path""",
    "Tick": "time bid ask last volume time_msc flags volume_real",
    "TradePosition": """ticket time time_msc time_update time_update_msc type magic identifier reason volume price_open sl tp
        price_current swap profit symbol comment external_id""",
    "TradeOrder": """ticket time_setup time_setup_msc time_done time_done_msc time_expiration type type_time type_filling state
        magic position_id position_by_id reason volume_initial volume_current price_open sl tp price_current price_stoplimit
        symbol comment external_id""",
    "TradeDeal": """ticket order time time_msc type entry magic position_id reason volume price commission swap profit fee symbol
        comment external_id""",
    "TradeRequest": """action magic order symbol volume price stoplimit sl tp deviation type type_filling type_time expiration
        comment position position_by""",
    "OrderSendResult": "retcode deal order volume price bid ask comment request_id retcode_external request",
    "BookInfo": "type price volume volume_dbl",
    "OrderCheckResult": "retcode balance equity profit margin margin_free margin_level comment request",
    "SymbolInfo": """custom chart_mode select visible session_deals session_buy_orders session_sell_orders volume volumehigh
        volumelow time digits spread spread_float ticks_bookdepth trade_calc_mode trade_mode start_time expiration_time
        trade_stops_level trade_freeze_level trade_exemode swap_mode swap_rollover3days margin_hedged_use_leg expiration_mode
        filling_mode order_mode order_gtc_mode option_mode option_right bid bidhigh bidlow ask askhigh asklow last lasthigh
        lastlow volume_real volumehigh_real volumelow_real option_strike point trade_tick_value trade_tick_value_profit
        trade_tick_value_loss trade_tick_size trade_contract_size trade_accrued_interest trade_face_value trade_liquidity_rate
        volume_min volume_max volume_step volume_limit swap_long swap_short margin_initial margin_maintenance session_volume
        session_turnover session_interest session_buy_orders_volume session_sell_orders_volume session_open session_close
        session_aw session_price_settlement session_price_limit_min session_price_limit_max margin_hedged price_change
        price_volatility price_theoretical price_greeks_delta price_greeks_theta price_greeks_gamma price_greeks_vega
        price_greeks_rho price_greeks_omega price_sensitivity basis category currency_base currency_profit currency_margin bank
        description exchange formula isin name page path""",
}
"""Every result's fields in their order."""

_TEXT = """name server currency company language path data_path commondata_path symbol comment external_id basis category
    currency_base currency_profit currency_margin bank description exchange formula isin page"""
_WHOLE_OF_SYMBOL = set(FIELDS["SymbolInfo"].split("bid")[0].split())


class StructSequence(tuple[Any, ...]):
    """A C struct sequence such as `time.struct_time`: index, attribute, length, iteration and `_asdict`.

    It is no namedtuple: `_fields` and `_replace` are missing.
    """

    __slots__ = ()
    fields_of_kind: tuple[str, ...] = ()

    def __new__(cls, values: Iterable[Any]) -> "StructSequence":
        made = super().__new__(cls, values)
        if len(made) != len(cls.fields_of_kind):
            raise TypeError(f"{cls.__name__}() takes a {len(cls.fields_of_kind)}-sequence ({len(made)}-sequence given)")
        return made

    def __getattr__(self, name: str) -> Any:
        try:
            return self[type(self).fields_of_kind.index(name)]
        except ValueError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None

    def _asdict(self) -> dict[str, Any]:
        return dict(zip(type(self).fields_of_kind, self, strict=True))

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
        return f"{type(self).__name__}({inside})"


STRUCTS: dict[str, type[StructSequence]] = {
    name: type(name, (StructSequence,), {"__slots__": (), "fields_of_kind": tuple(fields.split())})
    for name, fields in FIELDS.items()
}


def struct(kind: str, **values: Any) -> Any:
    """Return a result object; what is not given is 0, 0.0 or empty, as its field wants it."""
    made = STRUCTS[kind]
    unknown = set(values) - set(made.fields_of_kind)
    assert not unknown, f"{kind} has no {unknown}"
    return made([values.get(name, _nothing(kind, name)) for name in made.fields_of_kind])


def _nothing(kind: str, field: str) -> Any:
    if field in _TEXT.split():
        return ""
    if kind == "SymbolInfo":
        return 0 if field in _WHOLE_OF_SYMBOL else 0.0
    whole = (
        "time",
        "type",
        "login",
        "ticket",
        "magic",
        "position",
        "order",
        "deal",
        "reason",
        "state",
        "mode",
        "retcode",
        "request",
    )
    return 0 if field.startswith(whole) or field in {"identifier", "leverage", "flags", "build", "ping_last"} else 0.0


def to_plain(value: Any) -> Any:
    """Return a result as what JSON can carry."""
    if isinstance(value, StructSequence):
        return {"struct": type(value).__name__, "values": [to_plain(each) for each in value]}
    if isinstance(value, tuple):
        return {"tuple": [to_plain(each) for each in value]}
    return value


def from_plain(value: Any) -> Any:
    """Return what `to_plain` was given."""
    if isinstance(value, dict) and "struct" in value:
        return STRUCTS[value["struct"]]([from_plain(each) for each in value["values"]])
    if isinstance(value, dict) and "tuple" in value:
        return tuple(from_plain(each) for each in value["tuple"])
    return value


CONSTANTS: dict[str, int] = {
    "TRADE_ACTION_DEAL": 1,
    "TRADE_ACTION_PENDING": 5,
    "TRADE_ACTION_SLTP": 6,
    "TRADE_ACTION_MODIFY": 7,
    "TRADE_ACTION_REMOVE": 8,
    "TRADE_ACTION_CLOSE_BY": 10,
    "ORDER_TYPE_BUY": 0,
    "ORDER_TYPE_SELL": 1,
    "ORDER_TYPE_BUY_LIMIT": 2,
    "ORDER_TYPE_SELL_LIMIT": 3,
    "ORDER_TYPE_BUY_STOP": 4,
    "ORDER_TYPE_SELL_STOP": 5,
    "ORDER_TYPE_BUY_STOP_LIMIT": 6,
    "ORDER_TYPE_SELL_STOP_LIMIT": 7,
    "ORDER_TYPE_CLOSE_BY": 8,
    "ORDER_STATE_STARTED": 0,
    "ORDER_STATE_PLACED": 1,
    "ORDER_STATE_CANCELED": 2,
    "ORDER_STATE_PARTIAL": 3,
    "ORDER_STATE_FILLED": 4,
    "ORDER_STATE_REJECTED": 5,
    "ORDER_STATE_EXPIRED": 6,
    "ORDER_FILLING_FOK": 0,
    "ORDER_FILLING_IOC": 1,
    "ORDER_FILLING_RETURN": 2,
    "ORDER_FILLING_BOC": 3,
    "ORDER_TIME_GTC": 0,
    "POSITION_TYPE_BUY": 0,
    "POSITION_TYPE_SELL": 1,
    "DEAL_TYPE_BUY": 0,
    "DEAL_TYPE_SELL": 1,
    "DEAL_TYPE_BALANCE": 2,
    "DEAL_TYPE_CREDIT": 3,
    "DEAL_TYPE_CHARGE": 4,
    "DEAL_ENTRY_IN": 0,
    "DEAL_ENTRY_OUT": 1,
    "DEAL_ENTRY_INOUT": 2,
    "DEAL_ENTRY_OUT_BY": 3,
    "DEAL_REASON_CLIENT": 0,
    "DEAL_REASON_MOBILE": 1,
    "DEAL_REASON_WEB": 2,
    "DEAL_REASON_EXPERT": 3,
    "DEAL_REASON_SL": 4,
    "DEAL_REASON_TP": 5,
    "DEAL_REASON_SO": 6,
    "DEAL_REASON_ROLLOVER": 7,
    "SYMBOL_TRADE_MODE_DISABLED": 0,
    "SYMBOL_TRADE_MODE_LONGONLY": 1,
    "SYMBOL_TRADE_MODE_SHORTONLY": 2,
    "SYMBOL_TRADE_MODE_CLOSEONLY": 3,
    "SYMBOL_TRADE_MODE_FULL": 4,
    "SYMBOL_TRADE_EXECUTION_REQUEST": 0,
    "SYMBOL_TRADE_EXECUTION_INSTANT": 1,
    "SYMBOL_TRADE_EXECUTION_MARKET": 2,
    "SYMBOL_TRADE_EXECUTION_EXCHANGE": 3,
    "SYMBOL_CALC_MODE_FOREX": 0,
    "SYMBOL_CALC_MODE_FUTURES": 1,
    "SYMBOL_CALC_MODE_CFD": 2,
    "SYMBOL_CALC_MODE_CFDINDEX": 3,
    "SYMBOL_CALC_MODE_CFDLEVERAGE": 4,
    "SYMBOL_CALC_MODE_FOREX_NO_LEVERAGE": 5,
    "SYMBOL_CALC_MODE_EXCH_STOCKS": 32,
    "SYMBOL_CALC_MODE_EXCH_FUTURES": 33,
    "SYMBOL_CALC_MODE_EXCH_STOCKS_MOEX": 38,
    "SYMBOL_CALC_MODE_EXCH_BONDS_MOEX": 39,
    "ACCOUNT_TRADE_MODE_DEMO": 0,
    "ACCOUNT_TRADE_MODE_CONTEST": 1,
    "ACCOUNT_TRADE_MODE_REAL": 2,
    "ACCOUNT_MARGIN_MODE_RETAIL_NETTING": 0,
    "ACCOUNT_MARGIN_MODE_EXCHANGE": 1,
    "ACCOUNT_MARGIN_MODE_RETAIL_HEDGING": 2,
    "TIMEFRAME_M1": 1,
    "TIMEFRAME_M5": 5,
    "TIMEFRAME_M15": 15,
    "TIMEFRAME_M30": 30,
    "TIMEFRAME_H1": 1 | 0x4000,
    "TIMEFRAME_H4": 4 | 0x4000,
    "TIMEFRAME_D1": 24 | 0x4000,
    "TIMEFRAME_W1": 1 | 0x8000,
    "TIMEFRAME_MN1": 1 | 0xC000,
}
