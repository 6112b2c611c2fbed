//+------------------------------------------------------------------+
//| Trade4.mqh - the six operations, deals and symbols on MetaTrader 4 |
//+------------------------------------------------------------------+
#ifndef COPIER_TRADE4_MQH
#define COPIER_TRADE4_MQH

#include "..\shared\Terminal.mqh"

#define PLATFORM "mt4"
#define COMMENT_MAX 27
#define CONTEXT_MS 1000
#define LISTED_MS 2000
#define CHAIN_MAX 1000

// An open order as others need it; MetaTrader 4 knows no positions.
struct Held
  {
   int               ticket;
   string            symbol;
   bool              buy;
   double            lots;
   double            price;
   double            stop;
   double            target;
   long              opened;
   int               magic;
   string            comment;
  };

string opened_bare[];

// Which ticket each ticket was split from, as far as comments told it.
int split_child[];
int split_parent[];

// What an error number of a trade call means: rejected, or unknown.
string ErrorOutcome(const int error, string &reason, string &words)
  {
   reason = "";
   words = "Trade call failed";
   switch(error)
     {
      case 2: reason = "refused"; words = "Common error"; break;
      case 3: reason = "invalid_filling"; words = "Invalid trade parameters"; break;
      case 4: reason = "busy"; words = "Trade server is busy"; break;
      case 5: reason = "refused"; words = "Old version of the terminal"; break;
      case 7: reason = "trade_disabled"; words = "Not enough rights"; break;
      case 8: reason = "too_many_requests"; words = "Too frequent requests"; break;
      case 64: reason = "trade_disabled"; words = "Account disabled"; break;
      case 65: reason = "trade_disabled"; words = "Invalid account"; break;
      case 129: reason = "invalid_price"; words = "Invalid price"; break;
      case 130: reason = "invalid_stops"; words = "Invalid stops"; break;
      case 131: reason = "invalid_volume"; words = "Invalid trade volume"; break;
      case 132: reason = "market_closed"; words = "Market is closed"; break;
      case 133: reason = "trade_disabled"; words = "Trade is disabled"; break;
      case 134: reason = "no_money"; words = "Not enough money"; break;
      case 135: reason = "price_changed"; words = "Price changed"; break;
      case 136: reason = "price_off"; words = "Off quotes"; break;
      case 137: reason = "busy"; words = "Broker is busy"; break;
      case 138: reason = "requote"; words = "Requote"; break;
      case 139: reason = "busy"; words = "Order is locked"; break;
      case 140: reason = "long_only"; words = "Only buying is allowed"; break;
      case 141: reason = "too_many_requests"; words = "Too many requests"; break;
      case 145: reason = "frozen"; words = "Too close to the market to be changed"; break;
      case 146: reason = "busy"; words = "Trade context is busy"; break;
      case 147: reason = "refused"; words = "Expirations are denied by the broker"; break;
      case 148: reason = "limit"; words = "Limit of orders reached"; break;
      case 149: reason = "hedge_prohibited"; words = "Opposite positions are prohibited"; break;
      case 150: reason = "fifo"; words = "Positions are closed in the order of their opening"; break;
      case 4051: reason = "refused"; words = "Invalid parameter of a function"; break;
      case 4106: reason = "refused"; words = "Unknown symbol"; break;
      case 4107: reason = "invalid_price"; words = "Invalid price"; break;
      case 4108: reason = "invalid_ticket"; words = "Invalid ticket"; break;
      case 4109: reason = "autotrading_off"; words = "Trade is not allowed to Expert Advisors"; break;
      case 4110: reason = "short_only"; words = "Longs are not allowed to this Expert Advisor"; break;
      case 4111: reason = "long_only"; words = "Shorts are not allowed to this Expert Advisor"; break;
      default: return("unknown");
     }
   return("rejected");
  }

bool FailError(const int error, Failure &failure)
  {
   string reason = "";
   string words = "";
   string outcome = ErrorOutcome(error, reason, words);
   string detail = words + " (" + IntegerToString(error) + ")";
   if(outcome == "rejected")
      return(Fail(failure, outcome, TRADE_FAILED + ": " + detail, reason, error));
   return(Fail(failure, "unknown", detail, "", error));
  }

bool CheckAccount(const string account, Failure &failure)
  {
   string here = AccountLabel();
   if(here == account)
      return(true);
   return(FailUnavailable(failure, "the terminal is logged in to " + here + ", not to " + account));
  }

// Ticket chains ----------------------------------------------------------------------------------------------------------

int ParentOf(const int ticket)
  {
   for(int i = ArraySize(split_child) - 1; i >= 0; i--)
      if(split_child[i] == ticket)
         return(split_parent[i]);
   return(0);
  }

void KeepSplit(const int child, const int parent)
  {
   if(child <= 0 || parent <= 0 || child == parent || ParentOf(child) != 0)
      return;
   int count = ArraySize(split_child);
   ArrayResize(split_child, count + 1);
   ArrayResize(split_parent, count + 1);
   split_child[count] = child;
   split_parent[count] = parent;
  }

// Learns from the comment of the selected order: a rest names where it came from, a closed part where the rest went.
void LearnSplit(void)
  {
   KeepSplit(OrderTicket(), (int)TicketAfter(OrderComment(), "from #"));
   KeepSplit((int)TicketAfter(OrderComment(), "to #"), OrderTicket());
  }

void LearnSplits(void)
  {
   for(int i = OrdersHistoryTotal() - 1; i >= 0; i--)
      if(OrderSelect(i, SELECT_BY_POS, MODE_HISTORY))
         LearnSplit();
  }

// The first ticket of a chain of partial closes.
int RootOf(const int ticket)
  {
   int root = ticket;
   for(int i = 0; i < CHAIN_MAX; i++)
     {
      int parent = ParentOf(root);
      if(parent == 0)
         break;
      root = parent;
     }
   return(root);
  }

// Reading ----------------------------------------------------------------------------------------------------------------

bool ReadAccount(const string account, string &data, Failure &failure)
  {
   data = AccountJson(account, TerminalConnected(), "mt4");
   return(CheckAccount(account, failure));
  }

void TakeHeld(Held &held)
  {
   held.ticket = OrderTicket();
   held.symbol = OrderSymbol();
   held.buy = OrderType() == OP_BUY;
   held.lots = OrderLots();
   held.price = OrderOpenPrice();
   held.stop = OrderStopLoss();
   held.target = OrderTakeProfit();
   held.opened = (long)OrderOpenTime();
   held.magic = OrderMagicNumber();
   held.comment = OrderComment();
  }

string PositionJson(void)
  {
   Held held;
   TakeHeld(held);
   string data = "";
   PutWhole(data, "ticket", held.ticket);
   PutWhole(data, "identifier", RootOf(held.ticket));
   PutText(data, "symbol", held.symbol);
   PutText(data, "type", SideText(held.buy));
   PutNumber(data, "lots", held.lots);
   PutNumber(data, "openPrice", held.price);
   PutNumber(data, "currentPrice", OrderClosePrice());
   PutNumber(data, "stopLoss", held.stop);
   PutNumber(data, "takeProfit", held.target);
   PutNumber(data, "profit", OrderProfit());
   PutNumber(data, "swap", OrderSwap());
   PutNumber(data, "commission", OrderCommission());
   PutText(data, "openTime", MomentText(held.opened * 1000));
   PutWhole(data, "magic", held.magic);
   PutText(data, "comment", held.comment);
   PutText(data, "tag", TagIn(held.comment));
   int parent = ParentOf(held.ticket);
   if(parent != 0)
      PutWhole(data, "parent", parent);
   return(Closed(data));
  }

bool IsMarketOrder(void)
  {
   return(OrderType() == OP_BUY || OrderType() == OP_SELL);
  }

// A list is believed only where every entry could be read, and an empty one only beside a connection and no floating result.
bool ReadPositions(const string account, const string symbol, string &data, Failure &failure)
  {
   bool connected = TerminalConnected();
   LearnSplits();
   int total = OrdersTotal();
   string list = "";
   double profit = 0.0;
   int count = 0;
   for(int i = total - 1; i >= 0; i--)
     {
      if(!OrderSelect(i, SELECT_BY_POS, MODE_TRADES))
         return(FailUnavailable(failure, "the terminal counts " + IntegerToString(total) + " orders and does not show all of them"));
      LearnSplit();
      if(!IsMarketOrder() || (StringLen(symbol) > 0 && OrderSymbol() != symbol))
         continue;
      if(count > 0)
         list += ",";
      list += PositionJson();
      profit += OrderProfit();
      count++;
     }
   connected = connected && TerminalConnected();
   if(total == 0 && !connected)
      return(FailUnavailable(failure, "the terminal lists nothing and has no connection to its trade server"));
   if(total == 0 && MathAbs(AccountInfoDouble(ACCOUNT_PROFIT)) > 0.005 && OrdersTotal() == 0)
      return(FailUnavailable(failure, "no order is listed, yet the account shows a floating result"));
   data = SourceJson(account, connected);
   Put(data, "positions", "[" + list + "]");
   PutNumber(data, "totalProfit", profit);
   PutWhole(data, "count", count);
   data = Closed(data);
   return(CheckAccount(account, failure));
  }

string CalcModeText(const int mode)
  {
   if(mode == 0)
      return("forex");
   if(mode == 1)
      return("cfd");
   if(mode == 2)
      return("futures");
   return("other");
  }

// A symbol's rules. MarketInfo tells one value of a tick; it counts for gain and loss.
string SpecJson(const string symbol, const double ask)
  {
   double point = MarketInfo(symbol, MODE_POINT);
   double tick_size = MarketInfo(symbol, MODE_TICKSIZE);
   if(tick_size <= 0.0)
      tick_size = point;
   string data = "";
   PutText(data, "symbol", symbol);
   PutWhole(data, "digits", (long)MarketInfo(symbol, MODE_DIGITS));
   PutNumber(data, "point", point);
   PutNumber(data, "tickSize", tick_size);
   PutNumber(data, "tickValue", MarketInfo(symbol, MODE_TICKVALUE));
   PutNumber(data, "tickValueLoss", MarketInfo(symbol, MODE_TICKVALUE));
   PutNumber(data, "contractSize", MarketInfo(symbol, MODE_LOTSIZE));
   PutNumber(data, "volumeMin", MarketInfo(symbol, MODE_MINLOT));
   PutNumber(data, "volumeStep", MarketInfo(symbol, MODE_LOTSTEP));
   PutNumber(data, "volumeMax", MarketInfo(symbol, MODE_MAXLOT));
   PutWhole(data, "stopsLevel", (long)MarketInfo(symbol, MODE_STOPLEVEL));
   PutWhole(data, "freezeLevel", (long)MarketInfo(symbol, MODE_FREEZELEVEL));
   PutText(data, "tradeMode", TradeModeText(SymbolInfoInteger(symbol, SYMBOL_TRADE_MODE)));
   PutText(data, "execution", ExecutionText(SymbolInfoInteger(symbol, SYMBOL_TRADE_EXEMODE)));
   Put(data, "fillings", "[\"fok\"]");
   PutText(data, "calcMode", CalcModeText((int)MarketInfo(symbol, MODE_PROFITCALCMODE)));
   PutText(data, "currencyBase", SymbolInfoString(symbol, SYMBOL_CURRENCY_BASE));
   PutText(data, "currencyProfit", SymbolInfoString(symbol, SYMBOL_CURRENCY_PROFIT));
   PutText(data, "currencyMargin", SymbolInfoString(symbol, SYMBOL_CURRENCY_MARGIN));
   if(ask > 0.0)
      PutNumber(data, "marginPerLot", MarketInfo(symbol, MODE_MARGINREQUIRED));
   return(Closed(data));
  }

bool ReadQuote(const string account, const string symbol, string &data, Failure &failure)
  {
   MqlTick tick;
   if(!ReadTick(symbol, tick, failure))
      return(false);
   data = QuoteJson(account, TerminalConnected(), symbol, tick, (long)tick.time * 1000, SpecJson(symbol, tick.ask));
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

string DealReasonText(const string comment)
  {
   if(StringFind(comment, "[sl]") >= 0)
      return("sl");
   if(StringFind(comment, "[tp]") >= 0)
      return("tp");
   if(comment == "so" || StringFind(comment, "so:") >= 0)
      return("so");
   if(OrderMagicNumber() != 0)
      return("expert");
   return("client");
  }

// The opening or the closing of the selected order, as the deal it would be elsewhere.
string DealJson(const bool closing)
  {
   bool buy = OrderType() == OP_BUY;
   long moment = (long)OrderOpenTime();
   double price = OrderOpenPrice();
   string entry = "in";
   string reason = "client";
   if(OrderMagicNumber() != 0)
      reason = "expert";
   string data = "";
   if(closing)
     {
      buy = !buy;
      moment = (long)OrderCloseTime();
      price = OrderClosePrice();
      entry = "out";
      reason = DealReasonText(OrderComment());
      PutNumber(data, "commission", OrderCommission());
      PutNumber(data, "swap", OrderSwap());
      PutNumber(data, "profit", OrderProfit());
     }
   PutWhole(data, "ticket", OrderTicket());
   PutWhole(data, "order", OrderTicket());
   PutWhole(data, "positionId", RootOf(OrderTicket()));
   PutText(data, "symbol", OrderSymbol());
   PutText(data, "type", SideText(buy));
   PutText(data, "entry", entry);
   PutNumber(data, "lots", OrderLots());
   PutNumber(data, "price", price);
   PutText(data, "time", MomentText(moment * 1000));
   PutWhole(data, "magic", OrderMagicNumber());
   PutText(data, "comment", OrderComment());
   PutText(data, "tag", TagIn(OrderComment()));
   PutText(data, "reason", reason);
   return(Closed(data));
  }

string MoneyJson(void)
  {
   string data = "";
   PutWhole(data, "ticket", OrderTicket());
   if(OrderType() == 6)
      PutText(data, "type", "balance");
   else
      PutText(data, "type", "credit");
   PutNumber(data, "profit", OrderProfit());
   PutText(data, "time", MomentText((long)OrderOpenTime() * 1000));
   PutText(data, "comment", OrderComment());
   return(Closed(data));
  }

void AddDeal(string &moments[], string &deals[], const long moment, const string deal)
  {
   int count = ArraySize(deals);
   ArrayResize(deals, count + 1);
   ArrayResize(moments, count + 1);
   string key = StringFormat("%020I64d", moment);
   int at = count;
   while(at > 0 && StringCompare(moments[at - 1], key) > 0)
     {
      moments[at] = moments[at - 1];
      deals[at] = deals[at - 1];
      at--;
     }
   moments[at] = key;
   deals[at] = deal;
  }

// Adds what the selected order stands for: its opening, its closing where it is closed, or money that moved.
void AddDealsOf(string &moments[], string &deals[], const long since_s, const long position_id)
  {
   long opened = (long)OrderOpenTime();
   long closed = (long)OrderCloseTime();
   if(OrderType() == 6 || OrderType() == 7)
     {
      if(position_id == 0 && opened >= since_s)
         AddDeal(moments, deals, opened, MoneyJson());
      return;
     }
   if(!IsMarketOrder() || (position_id != 0 && RootOf(OrderTicket()) != (int)position_id))
      return;
   if(position_id != 0 || opened >= since_s)
      AddDeal(moments, deals, opened, DealJson(false));
   if(closed != 0 && (position_id != 0 || closed >= since_s))
      AddDeal(moments, deals, closed, DealJson(true));
  }

// MetaTrader 4 shows only the history its Account History tab is set to; the whole of it must be shown there.
bool ReadDeals(const string account, const long since_s, const long position_id, const int start, const int most, string &data, Failure &failure)
  {
   bool connected = TerminalConnected();
   string moments[];
   string deals[];
   LearnSplits();
   int past = OrdersHistoryTotal();
   for(int i = 0; i < past; i++)
     {
      if(!OrderSelect(i, SELECT_BY_POS, MODE_HISTORY))
         return(FailUnavailable(failure, "the terminal does not show all of its history"));
      AddDealsOf(moments, deals, since_s, position_id);
     }
   int total = OrdersTotal();
   for(int i = 0; i < total; i++)
     {
      if(!OrderSelect(i, SELECT_BY_POS, MODE_TRADES))
         return(FailUnavailable(failure, "the terminal does not show all of its orders"));
      LearnSplit();
      AddDealsOf(moments, deals, since_s, position_id);
     }
   if(!connected || !TerminalConnected())
      return(FailUnavailable(failure, "the history of a terminal without its server may be incomplete"));
   string list = "";
   int end = (int)MathMin(ArraySize(deals), start + most);
   for(int i = start; i < end; i++)
     {
      if(i > start)
         list += ",";
      list += deals[i];
     }
   data = "[" + list + "]";
   return(CheckAccount(account, failure));
  }

string PendingTypeText(const int type)
  {
   if(type == OP_BUYLIMIT)
      return("buy_limit");
   if(type == OP_SELLLIMIT)
      return("sell_limit");
   if(type == OP_BUYSTOP)
      return("buy_stop");
   if(type == OP_SELLSTOP)
      return("sell_stop");
   return("");
  }

// The selected order that waits for its price.
string PendingJson(const string type)
  {
   string data = "";
   PutWhole(data, "ticket", OrderTicket());
   PutText(data, "symbol", OrderSymbol());
   PutText(data, "type", type);
   PutNumber(data, "lots", OrderLots());
   PutNumber(data, "price", OrderOpenPrice());
   PutNumber(data, "stopLoss", OrderStopLoss());
   PutNumber(data, "takeProfit", OrderTakeProfit());
   PutText(data, "openTime", MomentText((long)OrderOpenTime() * 1000));
   if(OrderExpiration() != 0)
      PutText(data, "expiration", MomentText((long)OrderExpiration() * 1000));
   PutWhole(data, "magic", OrderMagicNumber());
   PutText(data, "comment", OrderComment());
   PutText(data, "tag", TagIn(OrderComment()));
   return(Closed(data));
  }

bool ReadPendingOrders(const string account, const string symbol, string &data, Failure &failure)
  {
   bool connected = TerminalConnected();
   string list = "";
   int total = OrdersTotal();
   for(int i = 0; i < total; i++)
     {
      if(!OrderSelect(i, SELECT_BY_POS, MODE_TRADES))
         return(FailUnavailable(failure, "the terminal does not show all of its orders"));
      string type = PendingTypeText(OrderType());
      if(StringLen(type) == 0 || (StringLen(symbol) > 0 && OrderSymbol() != symbol))
         continue;
      if(StringLen(list) > 0)
         list += ",";
      list += PendingJson(type);
     }
   if(!connected || !TerminalConnected())
      return(FailUnavailable(failure, "the orders of a terminal without its server may be old"));
   data = "[" + list + "]";
   return(CheckAccount(account, failure));
  }

string Fingerprint(void)
  {
   string mark = AccountLabel();
   for(int i = OrdersTotal() - 1; i >= 0; i--)
     {
      if(!OrderSelect(i, SELECT_BY_POS, MODE_TRADES))
         return("");
      mark += "|" + IntegerToString(OrderTicket()) + "," + IntegerToString(OrderType()) + "," + NumberText(OrderLots());
      mark += "," + NumberText(OrderStopLoss()) + "," + NumberText(OrderTakeProfit()) + "," + OrderComment();
     }
   return(mark);
  }

// The three trading operations -------------------------------------------------------------------------------------------

// Only one program of a MetaTrader 4 terminal may trade at a time: waits a moment for the others.
bool CheckContext(Failure &failure)
  {
   long give_up = RunMs() + CONTEXT_MS;
   while(IsTradeContextBusy())
     {
      if(RunMs() >= give_up || IsStopped())
         return(FailError(146, failure));
      Sleep(10);
     }
   return(true);
  }

// MQL4 keeps magic numbers in 32 bits: another one would come back as something else.
bool CheckMagic(const long magic, Failure &failure)
  {
   if((long)((int)magic) == magic)
      return(true);
   return(FailInvalid(failure, "MetaTrader 4 keeps magic numbers in 32 bits, and " + WholeText(magic) + " does not fit"));
  }

bool HasOpenedBare(const string symbol)
  {
   for(int i = 0; i < ArraySize(opened_bare); i++)
      if(opened_bare[i] == symbol)
         return(true);
   return(false);
  }

// Sends one opening order; its ticket, or 0 with the failure.
int SendOpening(const string account, const OpenOrder &order, const double price, const double stop, const double target, const long not_after_ms, Failure &failure)
  {
   if(!CheckMagic(order.magic, failure) || !CheckAccount(account, failure) || !CheckContext(failure) || !CheckInTime(not_after_ms, failure))
      return(0);
   int command = OP_SELL;
   if(order.buy)
      command = OP_BUY;
   int digits = (int)MarketInfo(order.symbol, MODE_DIGITS);
   string comment = CommentToSend(order.tag, order.comment, COMMENT_MAX);
   ResetLastError();
   int ticket = OrderSend(order.symbol, command, order.lots, NormalizeDouble(price, digits), order.slippage, stop, target, comment, (int)order.magic);
   if(ticket > 0)
      return(ticket);
   FailError(GetLastError(), failure);
   return(0);
  }

// Waits until an order can be selected by its ticket.
bool WaitListed(const int ticket)
  {
   long give_up = RunMs() + LISTED_MS;
   while(!OrderSelect(ticket, SELECT_BY_TICKET))
     {
      if(RunMs() >= give_up || IsStopped())
         return(false);
      Sleep(10);
     }
   return(true);
  }

bool SendLevels(const string account, const Held &held, const double stop, const double target, const long not_after_ms, Failure &failure)
  {
   if(!CheckAccount(account, failure) || !CheckContext(failure) || !CheckInTime(not_after_ms, failure))
      return(false);
   int digits = (int)MarketInfo(held.symbol, MODE_DIGITS);
   ResetLastError();
   if(OrderModify(held.ticket, held.price, NormalizeDouble(stop, digits), NormalizeDouble(target, digits), 0))
      return(true);
   int error = GetLastError();
   // Error 1: nothing to change, it is as asked.
   if(error == 1)
      return(true);
   if(error == 4108)
      return(FailNotFound(held.ticket, error, failure));
   return(FailError(error, failure));
  }

bool OpenAtMarket(const string account, const OpenOrder &order, const long not_after_ms, string &data, Failure &failure)
  {
   MqlTick tick;
   if(!CheckAccount(account, failure) || !CheckToTrade(failure) || !ReadTick(order.symbol, tick, failure))
      return(false);
   double price = tick.bid;
   double closing = tick.ask;
   if(order.buy)
     {
      price = tick.ask;
      closing = tick.bid;
     }
   bool leveled = order.stop > 0.0 || order.target > 0.0;
   bool bare = leveled && HasOpenedBare(order.symbol);
   int ticket = 0;
   if(!bare)
      ticket = SendOpening(account, order, price, order.stop, order.target, not_after_ms, failure);
   if(ticket == 0 && !bare)
     {
      bool allowed = LevelAllowed(order.symbol, order.buy, closing, order.stop, true);
      allowed = allowed && LevelAllowed(order.symbol, order.buy, closing, order.target, false);
      if(!leveled || failure.code != 130 || failure.outcome != "rejected" || !allowed)
         return(false);
     }
   if(ticket == 0)
     {
      ticket = SendOpening(account, order, price, 0.0, 0.0, not_after_ms, failure);
      if(ticket == 0)
         return(false);
      if(!bare)
        {
         int count = ArraySize(opened_bare);
         ArrayResize(opened_bare, count + 1);
         opened_bare[count] = order.symbol;
        }
     }
   // From here on the order is executed: whatever cannot be read now must not make it pass for unsent.
   double lots = order.lots;
   double filled = 0.0;
   bool stand = !leveled;
   if(WaitListed(ticket))
     {
      Held held;
      TakeHeld(held);
      lots = held.lots;
      filled = held.price;
      double noise = MarketInfo(order.symbol, MODE_POINT) * 0.01;
      stand = MathAbs(held.stop - order.stop) < noise && MathAbs(held.target - order.target) < noise;
      Failure ignored;
      if(!stand)
         stand = SendLevels(account, held, order.stop, order.target, not_after_ms, ignored);
     }
   data = TradeJson(account, ticket, order, lots, filled, stand);
   return(true);
  }

bool SelectHeld(const long ticket, Held &held, Failure &failure)
  {
   bool listed = ticket > 0 && OrderSelect((int)ticket, SELECT_BY_TICKET);
   if(!listed && !TerminalConnected())
      return(FailUnavailable(failure, "the terminal has no connection to its trade server and shows no such order"));
   if(!listed || OrderCloseTime() != 0 || !IsMarketOrder())
      return(FailNotFound(ticket, 4108, failure));
   TakeHeld(held);
   return(true);
  }

// Finds what is left of an order that was closed in part: by its comment, or by all that stays the same.
int FindRest(const Held &held)
  {
   int likely = 0;
   for(int i = OrdersTotal() - 1; i >= 0; i--)
     {
      if(!OrderSelect(i, SELECT_BY_POS, MODE_TRADES))
         continue;
      if((int)TicketAfter(OrderComment(), "from #") == held.ticket)
         return(OrderTicket());
      bool same = OrderTicket() > held.ticket && OrderSymbol() == held.symbol && OrderMagicNumber() == held.magic;
      same = same && (OrderType() == OP_BUY) == held.buy && (long)OrderOpenTime() == held.opened;
      if(same && OrderOpenPrice() == held.price && OrderLots() < held.lots - LOTS_NOISE)
         likely = OrderTicket();
     }
   return(likely);
  }

// Closes a part of an order; tells what was closed at which price, and the ticket of the rest.
bool ClosePiece(const string account, const Held &held, const double piece, const int slippage, const long not_after_ms, double &closed, double &price, int &rest, Failure &failure)
  {
   MqlTick tick;
   if(!CheckContext(failure) || !ReadTick(held.symbol, tick, failure) || !CheckAccount(account, failure) || !CheckInTime(not_after_ms, failure))
      return(false);
   double asked = tick.ask;
   if(held.buy)
      asked = tick.bid;
   ResetLastError();
   if(!OrderClose(held.ticket, piece, NormalizeDouble(asked, (int)MarketInfo(held.symbol, MODE_DIGITS)), slippage))
     {
      int error = GetLastError();
      if(error == 4108)
         return(FailNotFound(held.ticket, error, failure));
      return(FailError(error, failure));
     }
   closed = piece;
   price = 0.0;
   rest = 0;
   long give_up = RunMs() + LISTED_MS;
   while(!IsStopped())
     {
      if(OrderSelect(held.ticket, SELECT_BY_TICKET) && OrderCloseTime() != 0)
        {
         closed = OrderLots();
         price = OrderClosePrice();
         break;
        }
      if(RunMs() >= give_up)
         break;
      Sleep(10);
     }
   if(closed < held.lots - LOTS_NOISE)
      rest = FindRest(held);
   KeepSplit(rest, held.ticket);
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
   double done = 0.0;
   double worth = 0.0;
   bool priced = true;
   int rest = 0;
   string message = "Position closed";
   while(lots > LOTS_NOISE)
     {
      double piece = NextPiece(lots, MarketInfo(held.symbol, MODE_MAXLOT), MarketInfo(held.symbol, MODE_MINLOT));
      double closed = 0.0;
      double price = 0.0;
      if(!ClosePiece(account, held, piece, slippage, not_after_ms, closed, price, rest, failure))
        {
         if(done <= 0.0 || failure.outcome == "unknown")
            return(false);
         message = "Position closed in part: " + failure.message;
         break;
        }
      done += closed;
      worth += closed * price;
      priced = priced && price > 0.0;
      lots = NormalizeDouble(lots - piece, 8);
      if(closed < piece - LOTS_NOISE || lots <= LOTS_NOISE)
         break;
      // The rest goes on under another ticket.
      if(rest == 0 || !SelectHeld(rest, held, failure))
        {
         message = "Position closed in part: the ticket of the rest was not found";
         break;
        }
     }
   double average = 0.0;
   if(priced && done > 0.0)
      average = NormalizeDouble(worth / done, 10);
   data = CloseJson(account, ticket, NormalizeDouble(done, 8), average, rest, message);
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
   if(!SendLevels(account, held, stop, target, not_after_ms, failure))
      return(false);
   data = ModifyJson(account, change.ticket);
   return(true);
  }

#endif
