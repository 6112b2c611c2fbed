// MQL5's positions, deals and orders.
#pragma once

enum ENUM_ORDER_TYPE { ORDER_TYPE_BUY, ORDER_TYPE_SELL, ORDER_TYPE_BUY_LIMIT, ORDER_TYPE_SELL_LIMIT, ORDER_TYPE_BUY_STOP, ORDER_TYPE_SELL_STOP, ORDER_TYPE_BUY_STOP_LIMIT, ORDER_TYPE_SELL_STOP_LIMIT };
enum ENUM_POSITION_TYPE { POSITION_TYPE_BUY, POSITION_TYPE_SELL };
enum ENUM_TRADE_REQUEST_ACTIONS { TRADE_ACTION_DEAL = 1, TRADE_ACTION_SLTP = 6 };
enum ENUM_ORDER_TYPE_FILLING { ORDER_FILLING_FOK, ORDER_FILLING_IOC, ORDER_FILLING_RETURN };
enum ENUM_ORDER_TYPE_TIME { ORDER_TIME_GTC };
#define SYMBOL_FILLING_FOK 1
#define SYMBOL_FILLING_IOC 2

enum ENUM_POSITION_PROPERTY_INTEGER { POSITION_TICKET, POSITION_IDENTIFIER, POSITION_TYPE, POSITION_TIME_MSC, POSITION_MAGIC };
enum ENUM_POSITION_PROPERTY_DOUBLE { POSITION_VOLUME = 5, POSITION_PRICE_OPEN, POSITION_PRICE_CURRENT, POSITION_SL, POSITION_TP, POSITION_PROFIT, POSITION_SWAP };
enum ENUM_POSITION_PROPERTY_STRING { POSITION_SYMBOL = 12, POSITION_COMMENT };
inline MqlRows mql_positions;
inline MqlRow mql_position;
// A failed read is a count whose entries cannot be had: the one row without cells.
inline int PositionsTotal() { mql_positions = mql_ask({"positions"}); return int(mql_positions.size()); }
inline ulong PositionGetTicket(int i) {
    if (i < 0 || size_t(i) >= mql_positions.size() || mql_positions[size_t(i)].empty()) { mql_last_error = 4753; return 0; }
    mql_position = mql_positions[size_t(i)];
    return ulong(mql_long(mql_position, 0));
}
inline bool PositionSelectByTicket(ulong ticket) {
    int n = PositionsTotal();
    for (int i = 0; i < n; i++)
        if (PositionGetTicket(i) == ticket && ticket) return true;
    mql_last_error = 4753;
    return false;
}
inline long PositionGetInteger(ENUM_POSITION_PROPERTY_INTEGER p) { return mql_long(mql_position, p); }
inline double PositionGetDouble(ENUM_POSITION_PROPERTY_DOUBLE p) { return mql_double(mql_position, p); }
inline string PositionGetString(ENUM_POSITION_PROPERTY_STRING p) { return mql_text(mql_cell(mql_position, p)); }

enum ENUM_DEAL_PROPERTY_INTEGER { DEAL_TICKET, DEAL_ORDER, DEAL_POSITION_ID, DEAL_TYPE, DEAL_ENTRY, DEAL_TIME_MSC, DEAL_MAGIC, DEAL_REASON };
enum ENUM_DEAL_PROPERTY_DOUBLE { DEAL_VOLUME = 8, DEAL_PRICE, DEAL_COMMISSION, DEAL_FEE, DEAL_SWAP, DEAL_PROFIT };
enum ENUM_DEAL_PROPERTY_STRING { DEAL_SYMBOL = 14, DEAL_COMMENT };
inline MqlRows mql_deals;
inline bool mql_history(const MqlRow &call) {
    MqlRows r = mql_ask(call);
    if (r.empty() || mql_cell(r[0], 0) != "1") return false;
    mql_deals.assign(r.begin() + 1, r.end());
    return true;
}
inline bool HistorySelect(datetime from, datetime to) { return mql_history({"history", std::to_string(from), std::to_string(to)}); }
inline bool HistorySelectByPosition(long id) { return mql_history({"history_of", std::to_string(id)}); }
inline int HistoryDealsTotal() { return int(mql_deals.size()); }
inline ulong HistoryDealGetTicket(int i) { return i < 0 || size_t(i) >= mql_deals.size() ? 0 : ulong(mql_long(mql_deals[size_t(i)], 0)); }
inline const MqlRow &mql_deal(ulong ticket) {
    static const MqlRow none;
    static size_t last = 0;
    if (last < mql_deals.size() && ulong(mql_long(mql_deals[last], 0)) == ticket) return mql_deals[last];
    for (size_t i = 0; i < mql_deals.size(); i++) if (ulong(mql_long(mql_deals[i], 0)) == ticket) { last = i; return mql_deals[i]; }
    return none;
}
inline long HistoryDealGetInteger(ulong t, ENUM_DEAL_PROPERTY_INTEGER p) { return mql_long(mql_deal(t), p); }
inline double HistoryDealGetDouble(ulong t, ENUM_DEAL_PROPERTY_DOUBLE p) { return mql_double(mql_deal(t), p); }
inline string HistoryDealGetString(ulong t, ENUM_DEAL_PROPERTY_STRING p) { return mql_text(mql_cell(mql_deal(t), p)); }

enum ENUM_ORDER_PROPERTY_INTEGER { ORDER_STATE, ORDER_TYPE = 3, ORDER_TIME_SETUP, ORDER_TIME_EXPIRATION, ORDER_MAGIC };
enum ENUM_ORDER_PROPERTY_DOUBLE { ORDER_VOLUME_INITIAL = 1, ORDER_VOLUME_CURRENT, ORDER_PRICE_OPEN = 7, ORDER_PRICE_STOPLIMIT, ORDER_SL, ORDER_TP };
enum ENUM_ORDER_PROPERTY_STRING { ORDER_SYMBOL = 11, ORDER_COMMENT };
enum ENUM_ORDER_STATE { ORDER_STATE_STARTED, ORDER_STATE_PLACED, ORDER_STATE_CANCELED, ORDER_STATE_PARTIAL, ORDER_STATE_FILLED, ORDER_STATE_REJECTED, ORDER_STATE_EXPIRED };
inline MqlRow mql_order;
inline bool HistoryOrderSelect(ulong ticket) { MqlRows r = mql_ask({"past_order", std::to_string(ticket)}); if (r.empty()) return false; mql_order = r[0]; return true; }
inline long HistoryOrderGetInteger(ulong, ENUM_ORDER_PROPERTY_INTEGER p) { return mql_long(mql_order, p); }
inline double HistoryOrderGetDouble(ulong, ENUM_ORDER_PROPERTY_DOUBLE p) { return mql_double(mql_order, p); }
inline int OrdersTotal() { return int(mql_long(mql_row("orders_total"), 0)); }
inline MqlRow mql_waiting;
// The list is read anew with its first entry. A row begins with its state and ends with its ticket.
inline ulong OrderGetTicket(int i) {
    static MqlRows rows;
    if (i == 0) rows = mql_ask({"orders"});
    if (i < 0 || size_t(i) >= rows.size() || rows[size_t(i)].empty()) { mql_last_error = 4754; return 0; }
    mql_waiting = rows[size_t(i)];
    return ulong(mql_long(mql_waiting, 13));
}
inline long OrderGetInteger(ENUM_ORDER_PROPERTY_INTEGER p) { return mql_long(mql_waiting, p); }
inline double OrderGetDouble(ENUM_ORDER_PROPERTY_DOUBLE p) { return mql_double(mql_waiting, p); }
inline string OrderGetString(ENUM_ORDER_PROPERTY_STRING p) { return mql_text(mql_cell(mql_waiting, p)); }

struct MqlTradeRequest {
    ENUM_TRADE_REQUEST_ACTIONS action{}; ulong magic = 0, order = 0; string symbol; double volume = 0, price = 0, stoplimit = 0, sl = 0, tp = 0;
    ulong deviation = 0; ENUM_ORDER_TYPE type{}; ENUM_ORDER_TYPE_FILLING type_filling{}; ENUM_ORDER_TYPE_TIME type_time{}; datetime expiration = 0;
    string comment; ulong position = 0, position_by = 0;
};
struct MqlTradeResult { uint retcode = 0; ulong deal = 0, order = 0; double volume = 0, price = 0, bid = 0, ask = 0; string comment; uint request_id = 0, retcode_external = 0; };
inline bool OrderSend(const MqlTradeRequest &q, MqlTradeResult &a) {
    MqlRows r = mql_ask({"order_send", "action", std::to_string(q.action), "magic", std::to_string(q.magic), "symbol", q.symbol.utf8(), "volume", mql_str(q.volume),
        "price", mql_str(q.price), "sl", mql_str(q.sl), "tp", mql_str(q.tp), "deviation", std::to_string(q.deviation), "type", std::to_string(q.type),
        "type_filling", std::to_string(q.type_filling), "comment", q.comment.utf8(), "position", std::to_string(q.position)});
    mql_kept.clear();
    a = MqlTradeResult();
    if (r.empty()) { mql_last_error = 4756; return false; }
    const MqlRow &x = r[0];
    a.retcode = uint(mql_long(x, 0)); a.deal = ulong(mql_long(x, 1)); a.order = ulong(mql_long(x, 2)); a.volume = mql_double(x, 3);
    a.price = mql_double(x, 4); a.bid = mql_double(x, 5); a.ask = mql_double(x, 6); a.comment = mql_text(mql_cell(x, 7)); a.request_id = uint(mql_long(x, 8));
    bool done = a.retcode == 10008 || a.retcode == 10009 || a.retcode == 10010;
    if (!done) mql_last_error = 4756;
    return done;
}
inline bool OrderCalcMargin(ENUM_ORDER_TYPE type, const string &symbol, double lots, double price, double &margin) {
    MqlRows r = mql_ask({"margin", std::to_string(type), symbol.utf8(), mql_str(lots), mql_str(price)});
    if (r.empty()) return false;
    margin = mql_double(r[0], 0);
    return true;
}
