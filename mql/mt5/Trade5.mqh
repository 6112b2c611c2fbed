//+------------------------------------------------------------------+
//| Trade5.mqh - the six operations, deals and symbols on MetaTrader 5 |
//+------------------------------------------------------------------+
#ifndef COPIER_TRADE5_MQH
#define COPIER_TRADE5_MQH

#include "..\shared\Terminal.mqh"

#define PLATFORM "mt5"
#define COMMENT_MAX 27
#define LISTED_MS 2000
#define PLACED_MS 5000

// What became of one order that was executed.
struct Filled
  {
   ulong             order;
   double            lots;
   double            price;
   long              position_id;
   int               entry;
  };

// An open position as an order needs it.
struct Held
  {
   long              ticket;
   long              identifier;
   string            symbol;
   bool              buy;
   double            lots;
   double            price;
   double            stop;
   double            target;
   long              magic;
   string            comment;
  };

string opened_bare[];

// What a return code means: done, placed, rejected or unknown.
string RetcodeOutcome(const uint code, string &reason, string &words)
  {
   reason = "";
   words = "Unknown return code";
   switch((int)code)
     {
      case 10008: words = "Order placed"; return("placed");
      case 10009: words = "Done"; return("done");
      case 10010: words = "Done in part"; return("done");
      case 10025: words = "Nothing to change"; return("done");
      case 10004: reason = "requote"; words = "Requote"; break;
      case 10006: reason = "refused"; words = "Request rejected by the dealer"; break;
      case 10007: reason = "refused"; words = "Request cancelled by the trader"; break;
      case 10013: reason = "refused"; words = "Invalid request"; break;
      case 10014: reason = "invalid_volume"; words = "Invalid volume"; break;
      case 10015: reason = "invalid_price"; words = "Invalid price"; break;
      case 10016: reason = "invalid_stops"; words = "Invalid stops"; break;
      case 10017: reason = "trade_disabled"; words = "Trade is disabled"; break;
      case 10018: reason = "market_closed"; words = "Market is closed"; break;
      case 10019: reason = "no_money"; words = "Insufficient margin"; break;
      case 10020: reason = "price_changed"; words = "Prices changed"; break;
      case 10021: reason = "price_off"; words = "No prices"; break;
      case 10022: reason = "refused"; words = "Invalid expiration"; break;
      case 10023: reason = "busy"; words = "Order state changed meanwhile"; break;
      case 10024: reason = "too_many_requests"; words = "Too many requests"; break;
      case 10026: reason = "autotrading_off"; words = "The broker forbids automated trading"; break;
      case 10027: reason = "autotrading_off"; words = "The AutoTrading button is off"; break;
      case 10028: reason = "busy"; words = "Request is being processed"; break;
      case 10029: reason = "frozen"; words = "Order or position is frozen"; break;
      case 10030: reason = "invalid_filling"; words = "Unsupported filling mode"; break;
      case 10032: reason = "trade_disabled"; words = "Only real accounts may do this"; break;
      case 10033: reason = "limit"; words = "Limit of orders reached"; break;
      case 10034: reason = "limit"; words = "Limit of volume reached for this symbol"; break;
      case 10035: reason = "refused"; words = "Wrong or prohibited type of order"; break;
      case 10036: reason = "invalid_ticket"; words = "Position is closed already"; break;
      case 10038: reason = "invalid_volume"; words = "Less is open than should be closed"; break;
      case 10039: reason = "busy"; words = "Another order to close it is under way"; break;
      case 10040: reason = "limit"; words = "Limit of open positions reached"; break;
      case 10041: reason = "refused"; words = "Activation rejected, order cancelled"; break;
      case 10042: reason = "long_only"; words = "Only long positions are allowed"; break;
      case 10043: reason = "short_only"; words = "Only short positions are allowed"; break;
      case 10044: reason = "close_only"; words = "Only closing is allowed"; break;
      case 10045: reason = "fifo"; words = "Positions are closed in the order of their opening"; break;
      case 10046: reason = "hedge_prohibited"; words = "Opposite positions are prohibited"; break;
      default: return("unknown");
     }
   return("rejected");
  }

bool FailRetcode(const MqlTradeResult &result, Failure &failure)
  {
   string reason = "";
   string words = "";
   string outcome = RetcodeOutcome(result.retcode, reason, words);
   string detail = words + " (" + WholeText((long)result.retcode) + ": " + result.comment + ")";
   if(outcome == "rejected")
      return(Fail(failure, outcome, TRADE_FAILED + ": " + detail, reason, (int)result.retcode));
   return(Fail(failure, "unknown", detail, "", (int)result.retcode));
  }

bool IsNetting(void)
  {
   long mode = AccountInfoInteger(ACCOUNT_MARGIN_MODE);
   return(mode != (long)ACCOUNT_MARGIN_MODE_RETAIL_HEDGING);
  }

// Says that the terminal is still logged in to the account the frames are for.
bool CheckAccount(const string account, Failure &failure)
  {
   string here = AccountLabel();
   if(here == account)
      return(true);
   return(FailUnavailable(failure, "the terminal is logged in to " + here + ", not to " + account));
  }

// Reading ----------------------------------------------------------------------------------------------------------------

bool ReadAccount(const string account, string &data, Failure &failure)
  {
   bool connected = TerminalConnected();
   string margin_mode = "hedging";
   if(IsNetting())
      margin_mode = "netting";
   data = AccountJson(account, connected, margin_mode);
   return(CheckAccount(account, failure));
  }

void TakeHeld(Held &held)
  {
   held.ticket = PositionGetInteger(POSITION_TICKET);
   held.identifier = PositionGetInteger(POSITION_IDENTIFIER);
   held.symbol = PositionGetString(POSITION_SYMBOL);
   held.buy = PositionGetInteger(POSITION_TYPE) == (long)POSITION_TYPE_BUY;
   held.lots = PositionGetDouble(POSITION_VOLUME);
   held.price = PositionGetDouble(POSITION_PRICE_OPEN);
   held.stop = PositionGetDouble(POSITION_SL);
   held.target = PositionGetDouble(POSITION_TP);
   held.magic = PositionGetInteger(POSITION_MAGIC);
   held.comment = PositionGetString(POSITION_COMMENT);
  }

string PositionJson(void)
  {
   Held held;
   TakeHeld(held);
   string data = "";
   PutWhole(data, "ticket", held.ticket);
   PutWhole(data, "identifier", held.identifier);
   PutText(data, "symbol", held.symbol);
   PutText(data, "type", SideText(held.buy));
   PutNumber(data, "lots", held.lots);
   PutNumber(data, "openPrice", held.price);
   PutNumber(data, "currentPrice", PositionGetDouble(POSITION_PRICE_CURRENT));
   PutNumber(data, "stopLoss", held.stop);
   PutNumber(data, "takeProfit", held.target);
   PutNumber(data, "profit", PositionGetDouble(POSITION_PROFIT));
   PutNumber(data, "swap", PositionGetDouble(POSITION_SWAP));
   PutText(data, "openTime", MomentText(PositionGetInteger(POSITION_TIME_MSC)));
   PutWhole(data, "magic", held.magic);
   PutText(data, "comment", held.comment);
   PutText(data, "tag", TagIn(held.comment));
   return(Closed(data));
  }

// A list is believed only where every entry could be read, and an empty one only beside a connection and no floating result.
bool ReadPositions(const string account, const string symbol, string &data, Failure &failure)
  {
   bool connected = TerminalConnected();
   int total = PositionsTotal();
   string list = "";
   double profit = 0.0;
   int count = 0;
   for(int i = total - 1; i >= 0; i--)
     {
      if(PositionGetTicket(i) == 0)
         return(FailUnavailable(failure, "the terminal counts " + WholeText(total) + " positions and does not show all of them"));
      if(StringLen(symbol) > 0 && PositionGetString(POSITION_SYMBOL) != symbol)
         continue;
      if(count > 0)
         list += ",";
      list += PositionJson();
      profit += PositionGetDouble(POSITION_PROFIT);
      count++;
     }
   connected = connected && TerminalConnected();
   if(total == 0 && !connected)
      return(FailUnavailable(failure, "the terminal lists nothing and has no connection to its trade server"));
   if(total == 0 && MathAbs(AccountInfoDouble(ACCOUNT_PROFIT)) > 0.005 && PositionsTotal() == 0)
      return(FailUnavailable(failure, "no position is listed, yet the account shows a floating result"));
   data = SourceJson(account, connected);
   Put(data, "positions", "[" + list + "]");
   PutNumber(data, "totalProfit", profit);
   PutWhole(data, "count", count);
   data = Closed(data);
   return(CheckAccount(account, failure));
  }

string FillingsJson(const long execution, const long mask)
  {
   if(execution == (long)SYMBOL_TRADE_EXECUTION_REQUEST || execution == (long)SYMBOL_TRADE_EXECUTION_INSTANT)
      return("[\"fok\",\"ioc\",\"return\"]");
   string list = "";
   if((mask & SYMBOL_FILLING_FOK) != 0)
      list = "\"fok\",";
   if((mask & SYMBOL_FILLING_IOC) != 0)
      list += "\"ioc\",";
   if(execution == (long)SYMBOL_TRADE_EXECUTION_EXCHANGE)
      list += "\"return\",";
   int length = StringLen(list);
   if(length > 0)
      list = StringSubstr(list, 0, length - 1);
   return("[" + list + "]");
  }

string CalcModeText(const long mode)
  {
   if(mode == 0 || mode == 5)
      return("forex");
   if(mode == 1 || mode == 33)
      return("futures");
   if(mode == 2)
      return("cfd");
   if(mode == 3)
      return("cfd_index");
   if(mode == 4)
      return("cfd_leverage");
   if(mode == 32 || mode == 38)
      return("stocks");
   return("other");
  }

// A symbol's rules; `ask` above 0 has the margin of one lot told too.
string SpecJson(const string symbol, const double ask)
  {
   double point = SymbolInfoDouble(symbol, SYMBOL_POINT);
   double tick_size = SymbolInfoDouble(symbol, SYMBOL_TRADE_TICK_SIZE);
   if(tick_size <= 0.0)
      tick_size = point;
   double gain = SymbolInfoDouble(symbol, SYMBOL_TRADE_TICK_VALUE_PROFIT);
   double loss = SymbolInfoDouble(symbol, SYMBOL_TRADE_TICK_VALUE_LOSS);
   if(gain <= 0.0)
      gain = SymbolInfoDouble(symbol, SYMBOL_TRADE_TICK_VALUE);
   if(loss <= 0.0)
      loss = SymbolInfoDouble(symbol, SYMBOL_TRADE_TICK_VALUE);
   long execution = SymbolInfoInteger(symbol, SYMBOL_TRADE_EXEMODE);
   string data = "";
   PutText(data, "symbol", symbol);
   PutWhole(data, "digits", SymbolInfoInteger(symbol, SYMBOL_DIGITS));
   PutNumber(data, "point", point);
   PutNumber(data, "tickSize", tick_size);
   PutNumber(data, "tickValue", gain);
   PutNumber(data, "tickValueLoss", loss);
   PutNumber(data, "contractSize", SymbolInfoDouble(symbol, SYMBOL_TRADE_CONTRACT_SIZE));
   PutNumber(data, "volumeMin", SymbolInfoDouble(symbol, SYMBOL_VOLUME_MIN));
   PutNumber(data, "volumeStep", SymbolInfoDouble(symbol, SYMBOL_VOLUME_STEP));
   PutNumber(data, "volumeMax", SymbolInfoDouble(symbol, SYMBOL_VOLUME_MAX));
   PutNumber(data, "volumeLimit", SymbolInfoDouble(symbol, SYMBOL_VOLUME_LIMIT));
   PutWhole(data, "stopsLevel", SymbolInfoInteger(symbol, SYMBOL_TRADE_STOPS_LEVEL));
   PutWhole(data, "freezeLevel", SymbolInfoInteger(symbol, SYMBOL_TRADE_FREEZE_LEVEL));
   PutText(data, "tradeMode", TradeModeText(SymbolInfoInteger(symbol, SYMBOL_TRADE_MODE)));
   PutText(data, "execution", ExecutionText(execution));
   Put(data, "fillings", FillingsJson(execution, SymbolInfoInteger(symbol, SYMBOL_FILLING_MODE)));
   PutText(data, "calcMode", CalcModeText(SymbolInfoInteger(symbol, SYMBOL_TRADE_CALC_MODE)));
   PutText(data, "currencyBase", SymbolInfoString(symbol, SYMBOL_CURRENCY_BASE));
   PutText(data, "currencyProfit", SymbolInfoString(symbol, SYMBOL_CURRENCY_PROFIT));
   PutText(data, "currencyMargin", SymbolInfoString(symbol, SYMBOL_CURRENCY_MARGIN));
   double margin = 0.0;
   if(ask > 0.0 && OrderCalcMargin(ORDER_TYPE_BUY, symbol, 1.0, ask, margin))
      PutNumber(data, "marginPerLot", margin);
   return(Closed(data));
  }

bool ReadQuote(const string account, const string symbol, string &data, Failure &failure)
  {
   MqlTick tick;
   if(!ReadTick(symbol, tick, failure))
      return(false);
   data = QuoteJson(account, TerminalConnected(), symbol, tick, tick.time_msc, SpecJson(symbol, tick.ask));
   return(CheckAccount(account, failure));
  }

bool ReadSymbols(const string account, const int start, const int most, string &data, Failure &failure)
  {
   int total = SymbolsTotal(false);
   string list = "";
   for(int i = start; i < total && i < start + most; i++)
     {
      if(i > start)
         list += ",";
      list += SpecJson(SymbolName(i, false), 0.0);
     }
   data = "[" + list + "]";
   return(CheckAccount(account, failure));
  }

string DealTypeText(const long type)
  {
   if(type == 0)
      return("buy");
   if(type == 1)
      return("sell");
   if(type == 2)
      return("balance");
   if(type == 3)
      return("credit");
   return("other");
  }

string EntryText(const long entry)
  {
   if(entry == 1)
      return("out");
   if(entry == 2)
      return("inout");
   if(entry == 3)
      return("out_by");
   return("in");
  }

string DealReasonText(const long reason)
  {
   if(reason >= 0 && reason <= 2)
      return("client");
   if(reason == 3)
      return("expert");
   if(reason == 4)
      return("sl");
   if(reason == 5)
      return("tp");
   if(reason == 6)
      return("so");
   return("other");
  }

string DealJson(const ulong deal)
  {
   string comment = HistoryDealGetString(deal, DEAL_COMMENT);
   string data = "";
   PutWhole(data, "ticket", (long)deal);
   PutWhole(data, "order", HistoryDealGetInteger(deal, DEAL_ORDER));
   PutWhole(data, "positionId", HistoryDealGetInteger(deal, DEAL_POSITION_ID));
   PutText(data, "symbol", HistoryDealGetString(deal, DEAL_SYMBOL));
   PutText(data, "type", DealTypeText(HistoryDealGetInteger(deal, DEAL_TYPE)));
   PutText(data, "entry", EntryText(HistoryDealGetInteger(deal, DEAL_ENTRY)));
   PutNumber(data, "lots", HistoryDealGetDouble(deal, DEAL_VOLUME));
   PutNumber(data, "price", HistoryDealGetDouble(deal, DEAL_PRICE));
   PutNumber(data, "commission", HistoryDealGetDouble(deal, DEAL_COMMISSION));
   PutNumber(data, "fee", HistoryDealGetDouble(deal, DEAL_FEE));
   PutNumber(data, "swap", HistoryDealGetDouble(deal, DEAL_SWAP));
   PutNumber(data, "profit", HistoryDealGetDouble(deal, DEAL_PROFIT));
   PutText(data, "time", MomentText(HistoryDealGetInteger(deal, DEAL_TIME_MSC)));
   PutWhole(data, "magic", HistoryDealGetInteger(deal, DEAL_MAGIC));
   PutText(data, "comment", comment);
   PutText(data, "tag", TagIn(comment));
   PutText(data, "reason", DealReasonText(HistoryDealGetInteger(deal, DEAL_REASON)));
   return(Closed(data));
  }

bool ReadDeals(const string account, const long since_s, const long position_id, const int start, const int most, string &data, Failure &failure)
  {
   bool connected = TerminalConnected();
   bool read;
   if(position_id != 0)
      read = HistorySelectByPosition(position_id);
   else
      read = HistorySelect((datetime)since_s, (datetime)((long)TimeCurrent() + 86400 * 7));
   if(!read)
      return(FailUnavailable(failure, "the terminal does not show its history"));
   string list = "";
   int end = (int)MathMin(HistoryDealsTotal(), start + most);
   for(int i = start; i < end; i++)
     {
      ulong deal = HistoryDealGetTicket(i);
      if(deal == 0)
         return(FailUnavailable(failure, "the terminal does not show all of its history"));
      if(i > start)
         list += ",";
      list += DealJson(deal);
     }
   if(!connected || !TerminalConnected())
      return(FailUnavailable(failure, "the history of a terminal without its server may be incomplete"));
   data = "[" + list + "]";
   return(CheckAccount(account, failure));
  }

string PendingTypeText(const long type)
  {
   if(type == (long)ORDER_TYPE_BUY_LIMIT)
      return("buy_limit");
   if(type == (long)ORDER_TYPE_SELL_LIMIT)
      return("sell_limit");
   if(type == (long)ORDER_TYPE_BUY_STOP)
      return("buy_stop");
   if(type == (long)ORDER_TYPE_SELL_STOP)
      return("sell_stop");
   if(type == (long)ORDER_TYPE_BUY_STOP_LIMIT)
      return("buy_stop_limit");
   if(type == (long)ORDER_TYPE_SELL_STOP_LIMIT)
      return("sell_stop_limit");
   return("");
  }

// The order that was selected by OrderGetTicket.
string PendingJson(const ulong ticket, const string type)
  {
   string data = "";
   PutWhole(data, "ticket", (long)ticket);
   PutText(data, "symbol", OrderGetString(ORDER_SYMBOL));
   PutText(data, "type", type);
   PutNumber(data, "lots", OrderGetDouble(ORDER_VOLUME_CURRENT));
   PutNumber(data, "price", OrderGetDouble(ORDER_PRICE_OPEN));
   PutNumber(data, "limitPrice", OrderGetDouble(ORDER_PRICE_STOPLIMIT));
   PutNumber(data, "stopLoss", OrderGetDouble(ORDER_SL));
   PutNumber(data, "takeProfit", OrderGetDouble(ORDER_TP));
   PutText(data, "openTime", MomentText(OrderGetInteger(ORDER_TIME_SETUP) * 1000));
   if(OrderGetInteger(ORDER_TIME_EXPIRATION) != 0)
      PutText(data, "expiration", MomentText(OrderGetInteger(ORDER_TIME_EXPIRATION) * 1000));
   PutWhole(data, "magic", OrderGetInteger(ORDER_MAGIC));
   PutText(data, "comment", OrderGetString(ORDER_COMMENT));
   PutText(data, "tag", TagIn(OrderGetString(ORDER_COMMENT)));
   return(Closed(data));
  }

// Orders at market that are on their way stand in the same list and are left out.
bool ReadPendingOrders(const string account, const string symbol, string &data, Failure &failure)
  {
   bool connected = TerminalConnected();
   string list = "";
   int total = OrdersTotal();
   for(int i = 0; i < total; i++)
     {
      ulong ticket = OrderGetTicket(i);
      if(ticket == 0)
         return(FailUnavailable(failure, "the terminal does not show all of its orders"));
      string type = PendingTypeText(OrderGetInteger(ORDER_TYPE));
      if(StringLen(type) == 0 || (StringLen(symbol) > 0 && OrderGetString(ORDER_SYMBOL) != symbol))
         continue;
      if(StringLen(list) > 0)
         list += ",";
      list += PendingJson(ticket, type);
     }
   if(!connected || !TerminalConnected())
      return(FailUnavailable(failure, "the orders of a terminal without its server may be old"));
   data = "[" + list + "]";
   return(CheckAccount(account, failure));
  }

// What changes whenever positions do, and not with the price; empty where it cannot be read.
string Fingerprint(void)
  {
   string mark = AccountLabel();
   int total = PositionsTotal();
   for(int i = total - 1; i >= 0; i--)
     {
      if(PositionGetTicket(i) == 0)
         return("");
      Held held;
      TakeHeld(held);
      mark += "|" + WholeText(held.ticket) + "," + SideText(held.buy) + "," + NumberText(held.lots);
      mark += "," + NumberText(held.stop) + "," + NumberText(held.target) + "," + held.comment;
     }
   return(mark + "|" + IntegerToString(OrdersTotal()));
  }

// Sending ----------------------------------------------------------------------------------------------------------------

// The filling mode to try first, or second after the server refused the first; -1 where there is none.
int FillingToTry(const string symbol, const int attempt)
  {
   long execution = SymbolInfoInteger(symbol, SYMBOL_TRADE_EXEMODE);
   long mask = SymbolInfoInteger(symbol, SYMBOL_FILLING_MODE);
   bool all = execution == (long)SYMBOL_TRADE_EXECUTION_REQUEST || execution == (long)SYMBOL_TRADE_EXECUTION_INSTANT;
   bool fok = all || (mask & SYMBOL_FILLING_FOK) != 0;
   bool ioc = all || (mask & SYMBOL_FILLING_IOC) != 0;
   bool rest = all || execution == (long)SYMBOL_TRADE_EXECUTION_EXCHANGE;
   int order[3];
   int count = 0;
   if(fok)
      order[count++] = (int)ORDER_FILLING_FOK;
   if(ioc)
      order[count++] = (int)ORDER_FILLING_IOC;
   if(rest)
      order[count++] = (int)ORDER_FILLING_RETURN;
   if(!fok)
      order[count++] = (int)ORDER_FILLING_FOK;
   if(!ioc)
      order[count++] = (int)ORDER_FILLING_IOC;
   if(!rest)
      order[count++] = (int)ORDER_FILLING_RETURN;
   if(attempt > 1)
      return(-1);
   return(order[attempt]);
  }

// Sends one request after a last look at account and clock; false where it surely did not leave.
bool SendOnce(const string account, MqlTradeRequest &request, MqlTradeResult &result, const long not_after_ms, Failure &failure)
  {
   if(!CheckAccount(account, failure) || !CheckInTime(not_after_ms, failure))
      return(false);
   ZeroMemory(result);
   ResetLastError();
   bool accepted = OrderSend(request, result);
   if(accepted || result.retcode != 0)
      return(true);
   int error = GetLastError();
   if(error == 4752)
      return(Fail(failure, "rejected", TRADE_FAILED + ": trading by Expert Advisors is prohibited", "autotrading_off", error));
   return(Fail(failure, "unknown", "OrderSend gave no return code, error " + IntegerToString(error), "", error));
  }

// Adds up the deals of one order; false while they are not listed.
bool DealsOf(const ulong order, Filled &filled)
  {
   datetime now = TimeCurrent();
   if(!HistorySelect((datetime)((long)now - 86400), (datetime)((long)now + 86400)))
      return(false);
   double lots = 0.0;
   double worth = 0.0;
   for(int i = HistoryDealsTotal() - 1; i >= 0; i--)
     {
      ulong deal = HistoryDealGetTicket(i);
      if(deal == 0 || (ulong)HistoryDealGetInteger(deal, DEAL_ORDER) != order)
         continue;
      double part = HistoryDealGetDouble(deal, DEAL_VOLUME);
      lots += part;
      worth += part * HistoryDealGetDouble(deal, DEAL_PRICE);
      filled.position_id = HistoryDealGetInteger(deal, DEAL_POSITION_ID);
      filled.entry = (int)HistoryDealGetInteger(deal, DEAL_ENTRY);
     }
   if(lots <= LOTS_NOISE)
      return(false);
   filled.lots = NormalizeDouble(lots, 8);
   filled.price = NormalizeDouble(worth / lots, 10);
   return(true);
  }

// The fill of an order that is done; its deal, where it shows up in time, knows the position and the price.
void FollowDone(const MqlTradeRequest &request, const MqlTradeResult &result, Filled &filled)
  {
   ZeroMemory(filled);
   filled.order = result.order;
   filled.lots = result.volume;
   filled.price = result.price;
   if(filled.lots <= 0.0)
      filled.lots = request.volume;
   if(request.position != 0 && result.volume > 0.0 && result.price > 0.0)
      return;
   Filled told;
   long give_up = RunMs() + LISTED_MS;
   while(result.order != 0 && !IsStopped())
     {
      ZeroMemory(told);
      if(DealsOf(result.order, told) && told.lots >= filled.lots - LOTS_NOISE)
        {
         told.order = result.order;
         filled = told;
         return;
        }
      if(RunMs() >= give_up)
         return;
      Sleep(10);
     }
  }

// Follows an order that was accepted until it is filled or dead; where time runs out its outcome is unknown.
bool FollowPlaced(const MqlTradeRequest &request, const MqlTradeResult &result, Filled &filled, Failure &failure)
  {
   long give_up = RunMs() + PLACED_MS;
   while(result.order != 0 && RunMs() < give_up && !IsStopped())
     {
      ZeroMemory(filled);
      filled.order = result.order;
      bool any = DealsOf(result.order, filled);
      if(any && filled.lots >= request.volume - LOTS_NOISE)
         return(true);
      if(HistoryOrderSelect(result.order))
        {
         long state = HistoryOrderGetInteger(result.order, ORDER_STATE);
         double done = HistoryOrderGetDouble(result.order, ORDER_VOLUME_INITIAL) - HistoryOrderGetDouble(result.order, ORDER_VOLUME_CURRENT);
         bool dead = state == (long)ORDER_STATE_CANCELED || state == (long)ORDER_STATE_REJECTED || state == (long)ORDER_STATE_EXPIRED;
         if(dead && done <= LOTS_NOISE && !any)
            return(Fail(failure, "rejected", TRADE_FAILED + ": the order was accepted and then dropped", "refused", (int)result.retcode));
         if(dead && any && filled.lots >= done - LOTS_NOISE)
            return(true);
        }
      Sleep(10);
     }
   return(Fail(failure, "unknown", "order " + WholeText((long)result.order) + " was accepted and not filled in time", "", (int)result.retcode));
  }

// Sends a market order with the filling mode its symbol takes, once with another if that was wrong.
bool SendDeal(const string account, MqlTradeRequest &request, Filled &filled, const long not_after_ms, Failure &failure)
  {
   MqlTradeResult result;
   for(int attempt = 0; attempt < 2; attempt++)
     {
      request.type_filling = (ENUM_ORDER_TYPE_FILLING)FillingToTry(request.symbol, attempt);
      if(!SendOnce(account, request, result, not_after_ms, failure))
         return(false);
      if(result.retcode != 10030)
         break;
     }
   string reason = "";
   string words = "";
   string outcome = RetcodeOutcome(result.retcode, reason, words);
   if(outcome == "done")
     {
      FollowDone(request, result, filled);
      return(true);
     }
   if(outcome == "placed")
      return(FollowPlaced(request, result, filled, failure));
   if(reason == "invalid_ticket" && request.position != 0)
      return(FailNotFound((long)request.position, (int)result.retcode, failure));
   return(FailRetcode(result, failure));
  }

bool SendLevels(const string account, const long ticket, const string symbol, const double stop, const double target, const long not_after_ms, Failure &failure)
  {
   MqlTradeRequest request;
   MqlTradeResult result;
   ZeroMemory(request);
   request.action = TRADE_ACTION_SLTP;
   request.position = (ulong)ticket;
   request.symbol = symbol;
   request.sl = stop;
   request.tp = target;
   if(!SendOnce(account, request, result, not_after_ms, failure))
      return(false);
   string reason = "";
   string words = "";
   if(RetcodeOutcome(result.retcode, reason, words) == "done")
      return(true);
   if(reason == "invalid_ticket")
      return(FailNotFound(ticket, (int)result.retcode, failure));
   return(FailRetcode(result, failure));
  }

// The three trading operations -------------------------------------------------------------------------------------------

bool HasOpenedBare(const string symbol)
  {
   for(int i = 0; i < ArraySize(opened_bare); i++)
      if(opened_bare[i] == symbol)
         return(true);
   return(false);
  }

// Sends an opening order; where the server refuses levels that keep its own rules, once more without them.
bool SendOpening(const string account, MqlTradeRequest &request, const OpenOrder &order, const double closing, Filled &filled, const long not_after_ms, Failure &failure)
  {
   bool leveled = request.sl > 0.0 || request.tp > 0.0;
   if(leveled && HasOpenedBare(order.symbol))
     {
      request.sl = 0.0;
      request.tp = 0.0;
     }
   if(SendDeal(account, request, filled, not_after_ms, failure))
      return(true);
   if(!leveled || failure.outcome != "rejected" || failure.code != 10016 || (request.sl <= 0.0 && request.tp <= 0.0))
      return(false);
   bool allowed = LevelAllowed(order.symbol, order.buy, closing, request.sl, true);
   if(!allowed || !LevelAllowed(order.symbol, order.buy, closing, request.tp, false))
      return(false);
   request.sl = 0.0;
   request.tp = 0.0;
   if(!SendDeal(account, request, filled, not_after_ms, failure))
      return(false);
   int count = ArraySize(opened_bare);
   ArrayResize(opened_bare, count + 1);
   opened_bare[count] = order.symbol;
   return(true);
  }

// Finds the position of a filled order by its deal or its ticket; a netting position only once the list shows the fill.
bool FindOpened(const Filled &filled, const Held &before, const bool had, Held &found)
  {
   long wanted = filled.position_id;
   if(wanted == 0)
      wanted = (long)filled.order;
   for(int i = PositionsTotal() - 1; i >= 0; i--)
     {
      if(PositionGetTicket(i) == 0)
         continue;
      TakeHeld(found);
      if(found.identifier != wanted && found.ticket != wanted)
         continue;
      bool same = had && found.identifier == before.identifier && found.ticket == before.ticket;
      same = same && found.buy == before.buy && MathAbs(found.lots - before.lots) < LOTS_NOISE && found.price == before.price;
      return(!same);
     }
   return(false);
  }

// True where stop and target stand as asked, after setting them where the opening did not.
bool StopsStand(const string account, const OpenOrder &order, const Held &found, const bool is_found, const double stop, const double target, const long not_after_ms)
  {
   if(stop <= 0.0 && target <= 0.0)
      return(true);
   double noise = SymbolInfoDouble(order.symbol, SYMBOL_POINT) * 0.01;
   if(is_found && MathAbs(found.stop - stop) < noise && MathAbs(found.target - target) < noise)
      return(true);
   if(!is_found)
      return(!HasOpenedBare(order.symbol));
   if(found.buy != order.buy)
      return(false);
   Failure failure;
   return(SendLevels(account, found.ticket, order.symbol, stop, target, not_after_ms, failure));
  }

bool OpenAtMarket(const string account, const OpenOrder &order, const long not_after_ms, string &data, Failure &failure)
  {
   MqlTick tick;
   if(!CheckAccount(account, failure) || !CheckToTrade(failure) || !ReadTick(order.symbol, tick, failure))
      return(false);
   double stop = order.stop;
   double target = order.target;
   Held before;
   ZeroMemory(before);
   bool had = false;
   for(int i = PositionsTotal() - 1; i >= 0 && IsNetting(); i--)
     {
      if(PositionGetTicket(i) == 0)
         return(FailUnavailable(failure, "the terminal does not show all positions; nothing was sent"));
      if(PositionGetString(POSITION_SYMBOL) != order.symbol)
         continue;
      TakeHeld(before);
      had = true;
      // An order that adds and names no level would remove the position's levels.
      if(before.buy == order.buy && stop <= 0.0)
         stop = before.stop;
      if(before.buy == order.buy && target <= 0.0)
         target = before.target;
     }
   MqlTradeRequest request;
   ZeroMemory(request);
   request.action = TRADE_ACTION_DEAL;
   request.symbol = order.symbol;
   request.volume = order.lots;
   request.sl = stop;
   request.tp = target;
   request.deviation = (ulong)order.slippage;
   request.magic = (ulong)order.magic;
   request.comment = CommentToSend(order.tag, order.comment, COMMENT_MAX);
   request.type_time = ORDER_TIME_GTC;
   request.type = ORDER_TYPE_SELL;
   request.price = tick.bid;
   double closing = tick.ask;
   if(order.buy)
     {
      request.type = ORDER_TYPE_BUY;
      request.price = tick.ask;
      closing = tick.bid;
     }
   Filled filled;
   if(!SendOpening(account, request, order, closing, filled, not_after_ms, failure))
      return(false);
   // From here on the order is executed: whatever cannot be read now must not make it pass for unsent.
   Held found;
   ZeroMemory(found);
   bool is_found = false;
   long give_up = RunMs() + LISTED_MS;
   while(!IsStopped())
     {
      is_found = FindOpened(filled, before, had, found);
      if(is_found || filled.entry == 1 || RunMs() >= give_up)
         break;
      Sleep(10);
     }
   long ticket = filled.position_id;
   if(is_found)
      ticket = found.ticket;
   else if(had && before.identifier == filled.position_id)
      ticket = before.ticket;
   if(ticket == 0)
      ticket = (long)filled.order;
   bool stand = StopsStand(account, order, found, is_found, stop, target, not_after_ms);
   data = TradeJson(account, ticket, order, filled.lots, filled.price, stand);
   return(true);
  }

bool SelectHeld(const long ticket, Held &held, Failure &failure)
  {
   if(ticket <= 0 || !PositionSelectByTicket((ulong)ticket))
     {
      if(!TerminalConnected())
         return(FailUnavailable(failure, "the terminal has no connection to its trade server and shows no such position"));
      return(FailNotFound(ticket, 10036, failure));
     }
   TakeHeld(held);
   return(true);
  }

bool CloseAtMarket(const string account, const long ticket, const double asked, const int slippage, const long not_after_ms, string &data, Failure &failure)
  {
   Held held;
   if(!CheckAccount(account, failure) || !CheckToTrade(failure) || !SelectHeld(ticket, held, failure))
      return(false);
   double lots = asked;
   if(lots <= 0.0)
      lots = held.lots;
   if(lots > held.lots + LOTS_NOISE)
      return(FailInvalid(failure, LOTS_EXCEED));
   MqlTick tick;
   if(!ReadTick(held.symbol, tick, failure))
      return(false);
   double closed = 0.0;
   double worth = 0.0;
   bool priced = true;
   string message = "Position closed";
   while(lots > LOTS_NOISE)
     {
      double piece = NextPiece(lots, SymbolInfoDouble(held.symbol, SYMBOL_VOLUME_MAX), SymbolInfoDouble(held.symbol, SYMBOL_VOLUME_MIN));
      MqlTradeRequest request;
      ZeroMemory(request);
      request.action = TRADE_ACTION_DEAL;
      request.position = (ulong)ticket;
      request.symbol = held.symbol;
      request.volume = piece;
      request.deviation = (ulong)slippage;
      request.magic = (ulong)held.magic;
      request.type_time = ORDER_TIME_GTC;
      request.type = ORDER_TYPE_BUY;
      request.price = tick.ask;
      if(held.buy)
        {
         request.type = ORDER_TYPE_SELL;
         request.price = tick.bid;
        }
      // A netting position takes over magic and comment of the last deal.
      if(IsNetting())
         request.comment = CommentToSend("", held.comment, COMMENT_MAX);
      Filled filled;
      if(!SendDeal(account, request, filled, not_after_ms, failure))
        {
         if(closed <= 0.0 || failure.outcome == "unknown")
            return(false);
         message = "Position closed in part: " + failure.message;
         break;
        }
      closed += filled.lots;
      worth += filled.lots * filled.price;
      priced = priced && filled.price > 0.0;
      lots = NormalizeDouble(lots - piece, 8);
      if(filled.lots < piece - LOTS_NOISE)
         break;
     }
   double price = 0.0;
   if(priced && closed > 0.0)
      price = NormalizeDouble(worth / closed, 10);
   data = CloseJson(account, ticket, NormalizeDouble(closed, 8), price, 0, message);
   return(true);
  }

bool SetLevels(const string account, const LevelChange &change, const long not_after_ms, string &data, Failure &failure)
  {
   Held held;
   if(!CheckAccount(account, failure) || !CheckToTrade(failure) || !SelectHeld(change.ticket, held, failure))
      return(false);
   double stop = held.stop;
   double target = held.target;
   if(change.has_stop)
      stop = change.stop;
   if(change.has_target)
      target = change.target;
   if(!CheckSides(held.buy, stop, target, failure))
      return(false);
   if(!SendLevels(account, held.ticket, held.symbol, stop, target, not_after_ms, failure))
      return(false);
   data = ModifyJson(account, change.ticket);
   return(true);
  }

#endif
