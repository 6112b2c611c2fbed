// MQL4's orders and market information.
#pragma once

#define OP_BUY 0
#define OP_SELL 1
#define OP_BUYLIMIT 2
#define OP_SELLLIMIT 3
#define OP_BUYSTOP 4
#define OP_SELLSTOP 5
inline bool IsTradeContextBusy() { return mql_done(mql_ask({"context_busy"})); }
#define SELECT_BY_POS 0
#define SELECT_BY_TICKET 1
#define MODE_TRADES 0
#define MODE_HISTORY 1
enum { MODE_POINT = 11, MODE_DIGITS = 12, MODE_STOPLEVEL = 14, MODE_LOTSIZE = 15, MODE_TICKVALUE = 16, MODE_TICKSIZE = 17, MODE_MINLOT = 23, MODE_LOTSTEP = 24, MODE_MAXLOT = 25, MODE_PROFITCALCMODE = 27, MODE_MARGINREQUIRED = 32, MODE_FREEZELEVEL = 33 };
inline double MarketInfo(const string &symbol, int mode) {
    MqlRows r = mql_ask({"market", symbol.utf8(), std::to_string(mode)});
    if (r.empty()) { mql_last_error = 4106; return 0; }
    return mql_double(r[0], 0);
}

inline MqlRows mql_trades, mql_past;
inline MqlRow mql_order;
inline int OrdersTotal() { mql_trades = mql_ask({"trades"}); return int(mql_trades.size()); }
inline int OrdersHistoryTotal() { mql_past = mql_ask({"past"}); return int(mql_past.size()); }
inline bool OrderSelect(int index, int select, int pool = MODE_TRADES) {
    if (select == SELECT_BY_TICKET) {
        MqlRows r = mql_ask({"ticket", std::to_string(index)});
        if (r.empty()) { mql_last_error = 4108; return false; }
        mql_order = r[0];
        return true;
    }
    const MqlRows &rows = pool == MODE_HISTORY ? mql_past : mql_trades;
    if (index < 0 || size_t(index) >= rows.size() || rows[size_t(index)].empty()) { mql_last_error = 4105; return false; }
    mql_order = rows[size_t(index)];
    return true;
}
inline int OrderTicket() { return int(mql_long(mql_order, 0)); }
inline int OrderType() { return int(mql_long(mql_order, 1)); }
inline string OrderSymbol() { return mql_text(mql_cell(mql_order, 2)); }
inline double OrderLots() { return mql_double(mql_order, 3); }
inline double OrderOpenPrice() { return mql_double(mql_order, 4); }
inline double OrderClosePrice() { return mql_double(mql_order, 5); }
inline double OrderStopLoss() { return mql_double(mql_order, 6); }
inline double OrderTakeProfit() { return mql_double(mql_order, 7); }
inline double OrderProfit() { return mql_double(mql_order, 8); }
inline double OrderSwap() { return mql_double(mql_order, 9); }
inline double OrderCommission() { return mql_double(mql_order, 10); }
inline string OrderComment() { return mql_text(mql_cell(mql_order, 11)); }
inline int OrderMagicNumber() { return int(mql_long(mql_order, 12)); }
inline datetime OrderOpenTime() { return mql_long(mql_order, 13); }
inline datetime OrderCloseTime() { return mql_long(mql_order, 14); }
inline datetime OrderExpiration() { return mql_long(mql_order, 15); }

// An answer is an error number and a ticket.
inline int mql_trade(const MqlRow &call) {
    MqlRows r = mql_ask(call);
    mql_kept.clear();
    mql_last_error = r.empty() ? 128 : int(mql_long(r[0], 0));
    return mql_last_error ? -1 : int(mql_long(r[0], 1));
}
inline int OrderSend(const string &symbol, int command, double lots, double price, int slippage, double stop, double target, const string &comment = string(), int magic = 0, datetime = 0, color = 0) {
    return mql_trade({"send", symbol.utf8(), std::to_string(command), mql_str(lots), mql_str(price), std::to_string(slippage), mql_str(stop), mql_str(target), comment.utf8(), std::to_string(magic)});
}
inline bool OrderClose(int ticket, double lots, double price, int slippage, color = 0) {
    return mql_trade({"close", std::to_string(ticket), mql_str(lots), mql_str(price), std::to_string(slippage)}) >= 0;
}
inline bool OrderModify(int ticket, double price, double stop, double target, datetime, color = 0) {
    return mql_trade({"modify", std::to_string(ticket), mql_str(price), mql_str(stop), mql_str(target)}) >= 0;
}
