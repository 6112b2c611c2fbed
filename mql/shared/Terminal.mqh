//+------------------------------------------------------------------+
//| Terminal.mqh - what both platforms tell in the same words         |
//+------------------------------------------------------------------+
#ifndef COPIER_TERMINAL_MQH
#define COPIER_TERMINAL_MQH

#include "Json.mqh"

#define LOTS_NOISE 0.00000001
#define TRADE_FAILED "Trade execution failed"
#define LOTS_EXCEED "Requested lots exceeds position size"

// An order to open at market.
struct OpenOrder
  {
   string            symbol;
   bool              buy;
   double            lots;
   double            stop;
   double            target;
   int               slippage;
   long              magic;
   string            comment;
   string            tag;
  };

// Levels to set; what is not given is left alone.
struct LevelChange
  {
   long              ticket;
   bool              has_stop;
   double            stop;
   bool              has_target;
   double            target;
  };

string AccountLabel(void)
  {
   return(WholeText(AccountInfoInteger(ACCOUNT_LOGIN)) + "@" + AccountInfoString(ACCOUNT_SERVER));
  }

bool TerminalConnected(void)
  {
   return(TerminalInfoInteger(TERMINAL_CONNECTED) != 0);
  }

// Which switch or permission stops trading, in a trader's words; empty where none does.
string TradeBlocker(void)
  {
   string blocker = "";
   if(TerminalInfoInteger(TERMINAL_TRADE_ALLOWED) == 0)
      blocker = "the terminal's AutoTrading button is off; ";
   if(MQLInfoInteger(MQL_TRADE_ALLOWED) == 0)
      blocker = blocker + "the Expert Advisor may not trade: allow it in its properties; ";
   if(AccountInfoInteger(ACCOUNT_TRADE_ALLOWED) == 0)
      blocker = blocker + "the account may not trade: investor password, or disabled by the broker; ";
   if(AccountInfoInteger(ACCOUNT_TRADE_EXPERT) == 0)
      blocker = blocker + "the broker forbids automated trading on this account; ";
   int length = StringLen(blocker);
   if(length > 0)
      blocker = StringSubstr(blocker, 0, length - 2);
   return(blocker);
  }

bool CheckToTrade(Failure &failure)
  {
   string blocker = TradeBlocker();
   if(StringLen(blocker) == 0)
      return(true);
   string reason = "autotrading_off";
   if(AccountInfoInteger(ACCOUNT_TRADE_ALLOWED) == 0)
      reason = "trade_disabled";
   return(Fail(failure, "rejected", TRADE_FAILED + ": " + blocker, reason, 0));
  }

bool CheckInTime(const long not_after_ms, Failure &failure)
  {
   long late_ms = utc_clock.NowMs() - not_after_ms;
   if(late_ms <= 0)
      return(true);
   string message = "The request came " + WholeText(late_ms) + " ms after its not-after";
   return(Fail(failure, "rejected", message, "too_late", 0));
  }

bool FailNotFound(const long ticket, const int code, Failure &failure)
  {
   return(Fail(failure, "rejected", "Position with ticket " + WholeText(ticket) + " not found", "invalid_ticket", code));
  }

bool CheckSides(const bool buy, const double stop, const double target, Failure &failure)
  {
   if(stop <= 0.0 || target <= 0.0)
      return(true);
   if(buy && stop >= target)
      return(FailInvalid(failure, "For BUY positions, stop loss must be below take profit"));
   if(!buy && stop <= target)
      return(FailInvalid(failure, "For SELL positions, stop loss must be above take profit"));
   return(true);
  }

string SideText(const bool buy)
  {
   if(buy)
      return("buy");
   return("sell");
  }

// What every answer begins with.
string SourceJson(const string account, const bool connected)
  {
   string data = "";
   PutText(data, "account", account);
   PutTruth(data, "connected", connected);
   return(data);
  }

// The trade server's clock against UTC. A price that changes is the only proof that the server's time is not an old one.
class ServerClock
  {
private:
   double            m_bid;
   double            m_ask;
   bool              m_seen;
   bool              m_known;
   long              m_offset_s;

public:
                     ServerClock(void) { m_bid = 0.0; m_ask = 0.0; m_seen = false; m_known = false; m_offset_s = 0; }

   // Looks at the chart's symbol.
   void              Look(void)
     {
      MqlTick tick;
      ZeroMemory(tick);
      if(!SymbolInfoTick(Symbol(), tick))
         return;
      bool changed = m_seen && (tick.bid != m_bid || tick.ask != m_ask);
      m_seen = true;
      m_bid = tick.bid;
      m_ask = tick.ask;
      if(!changed)
         return;
      double quarters = (double)((long)tick.time - (long)TimeGMT()) / 900.0;
      m_offset_s = (long)MathRound(quarters) * 900;
      m_known = true;
     }

   bool              Known(void) const { return(m_known); }
   long              OffsetS(void) const { return(m_offset_s); }

   // How old a tick is by the server's clock, where that is known.
   long              AgeMs(const long tick_s) const
     {
      if(!m_known)
         return(0);
      long age_s = (long)TimeGMT() + m_offset_s - tick_s;
      if(age_s < 0)
         age_s = 0;
      return(age_s * 1000);
     }
  };

ServerClock server_clock;

string AccountJson(const string account, const bool connected, const string margin_mode)
  {
   string data = SourceJson(account, connected);
   PutText(data, "login", WholeText(AccountInfoInteger(ACCOUNT_LOGIN)));
   PutNumber(data, "balance", AccountInfoDouble(ACCOUNT_BALANCE));
   PutNumber(data, "equity", AccountInfoDouble(ACCOUNT_EQUITY));
   PutNumber(data, "margin", AccountInfoDouble(ACCOUNT_MARGIN));
   PutNumber(data, "freeMargin", AccountInfoDouble(ACCOUNT_MARGIN_FREE));
   PutNumber(data, "marginLevel", AccountInfoDouble(ACCOUNT_MARGIN_LEVEL));
   PutNumber(data, "profit", AccountInfoDouble(ACCOUNT_PROFIT));
   PutText(data, "currency", AccountInfoString(ACCOUNT_CURRENCY));
   PutWhole(data, "leverage", AccountInfoInteger(ACCOUNT_LEVERAGE));
   PutText(data, "name", AccountInfoString(ACCOUNT_NAME));
   PutText(data, "server", AccountInfoString(ACCOUNT_SERVER));
   PutText(data, "company", AccountInfoString(ACCOUNT_COMPANY));
   PutNumber(data, "credit", AccountInfoDouble(ACCOUNT_CREDIT));
   PutText(data, "marginMode", margin_mode);
   string blocker = TradeBlocker();
   PutTruth(data, "tradeAllowed", StringLen(blocker) == 0);
   PutText(data, "tradeBlocker", blocker);
   PutTruth(data, "demo", AccountInfoInteger(ACCOUNT_TRADE_MODE) != (long)ACCOUNT_TRADE_MODE_REAL);
   if(server_clock.Known())
      PutWhole(data, "serverOffsetS", server_clock.OffsetS());
   return(Closed(data));
  }

string TradeModeText(const long mode)
  {
   if(mode == (long)SYMBOL_TRADE_MODE_DISABLED)
      return("disabled");
   if(mode == (long)SYMBOL_TRADE_MODE_LONGONLY)
      return("long_only");
   if(mode == (long)SYMBOL_TRADE_MODE_SHORTONLY)
      return("short_only");
   if(mode == (long)SYMBOL_TRADE_MODE_CLOSEONLY)
      return("close_only");
   return("full");
  }

string ExecutionText(const long execution)
  {
   if(execution == (long)SYMBOL_TRADE_EXECUTION_REQUEST)
      return("request");
   if(execution == (long)SYMBOL_TRADE_EXECUTION_INSTANT)
      return("instant");
   if(execution == (long)SYMBOL_TRADE_EXECUTION_EXCHANGE)
      return("exchange");
   return("market");
  }

string QuoteJson(const string account, const bool connected, const string symbol, const MqlTick &tick, const long tick_ms, const string spec)
  {
   string data = SourceJson(account, connected);
   PutText(data, "symbol", symbol);
   PutNumber(data, "bid", tick.bid);
   PutNumber(data, "ask", tick.ask);
   PutNumber(data, "spread", NormalizeDouble(tick.ask - tick.bid, 10));
   PutText(data, "timestamp", MomentText(tick_ms));
   PutWhole(data, "ageMs", server_clock.AgeMs((long)tick.time));
   Put(data, "spec", spec);
   return(Closed(data));
  }

// Puts a symbol into Market Watch, without which its prices stand still.
bool SelectSymbol(const string symbol, Failure &failure)
  {
   if(SymbolInfoInteger(symbol, SYMBOL_SELECT) != 0)
      return(true);
   ResetLastError();
   if(SymbolSelect(symbol, true))
      return(true);
   if(!TerminalConnected())
      return(FailUnavailable(failure, "No quote data available for " + symbol + ": no connection to the trade server"));
   return(Fail(failure, "rejected", "No quote data available for " + symbol, "refused", 0));
  }

// Reads a live price, waiting a moment for the first one of a symbol that was just selected.
bool ReadTick(const string symbol, MqlTick &tick, Failure &failure)
  {
   bool fresh = SymbolInfoInteger(symbol, SYMBOL_SELECT) == 0;
   if(!SelectSymbol(symbol, failure))
      return(false);
   long give_up = RunMs();
   if(fresh)
      give_up += 500;
   while(true)
     {
      ZeroMemory(tick);
      if(SymbolInfoTick(symbol, tick) && tick.bid > 0.0 && tick.ask > 0.0)
         return(true);
      if(RunMs() >= give_up || IsStopped())
         break;
      Sleep(10);
     }
   return(FailUnavailable(failure, "No quote data available for " + symbol));
  }

// A name of a stretch of time in MQL's; 0 where there is none of that name.
ENUM_TIMEFRAMES TimeframeOf(const string name)
  {
   if(name == "M1")
      return(PERIOD_M1);
   if(name == "M5")
      return(PERIOD_M5);
   if(name == "M15")
      return(PERIOD_M15);
   if(name == "M30")
      return(PERIOD_M30);
   if(name == "H1")
      return(PERIOD_H1);
   if(name == "H4")
      return(PERIOD_H4);
   if(name == "D1")
      return(PERIOD_D1);
   if(name == "W1")
      return(PERIOD_W1);
   if(name == "MN1")
      return(PERIOD_MN1);
   return(PERIOD_CURRENT);
  }

string BarJson(const MqlRates &bar)
  {
   string data = "";
   PutText(data, "time", MomentText((long)bar.time * 1000));
   PutNumber(data, "open", bar.open);
   PutNumber(data, "high", bar.high);
   PutNumber(data, "low", bar.low);
   PutNumber(data, "close", bar.close);
   PutWhole(data, "ticks", bar.tick_volume);
   PutWhole(data, "spread", bar.spread);
   return(Closed(data));
  }

// The last `count` bars of a symbol, the one still forming last. A terminal loads what it lacks in the background.
bool BarsJson(const string symbol, const string timeframe, const long count, const long most, string &data, Failure &failure)
  {
   ENUM_TIMEFRAMES period = TimeframeOf(timeframe);
   if(period == PERIOD_CURRENT || count < 1 || count > most)
      return(FailInvalid(failure, "Bars need a timeframe such as H1, and a count of 1 to " + WholeText(most)));
   if(!SelectSymbol(symbol, failure))
      return(false);
   MqlRates bars[];
   int copied = CopyRates(symbol, period, 0, (int)count, bars);
   if(copied <= 0)
      return(FailUnavailable(failure, "the terminal has no bars of " + symbol + " yet, error " + IntegerToString(GetLastError())));
   data = "[";
   for(int i = 0; i < copied; i++)
     {
      if(i > 0)
         data += ",";
      data += BarJson(bars[i]);
     }
   data += "]";
   return(true);
  }

string TradeJson(const string account, const long ticket, const OpenOrder &order, const double lots, const double price, const bool stops_set)
  {
   string data = SourceJson(account, true);
   PutWhole(data, "ticket", ticket);
   PutText(data, "symbol", order.symbol);
   PutText(data, "action", SideText(order.buy));
   PutNumber(data, "lots", lots);
   PutNumber(data, "price", price);
   PutTruth(data, "stopsSet", stops_set);
   PutTruth(data, "success", true);
   return(Closed(data));
  }

string CloseJson(const string account, const long ticket, const double lots, const double price, const long rest, const string message)
  {
   string data = SourceJson(account, true);
   PutWhole(data, "ticket", ticket);
   PutNumber(data, "lots", lots);
   PutNumber(data, "price", price);
   if(rest != 0)
      PutWhole(data, "restTicket", rest);
   PutText(data, "message", message);
   PutTruth(data, "success", true);
   return(Closed(data));
  }

string ModifyJson(const string account, const long ticket)
  {
   string data = SourceJson(account, true);
   PutWhole(data, "ticket", ticket);
   PutTruth(data, "success", true);
   return(Closed(data));
  }

// The next part of what is to be closed: none above the symbol's maximum, none that leaves less than its minimum.
double NextPiece(const double lots, const double lots_max, const double lots_min)
  {
   if(lots_max <= 0.0 || lots <= lots_max + LOTS_NOISE)
      return(lots);
   if(lots - lots_max >= lots_min - LOTS_NOISE)
      return(lots_max);
   return(NormalizeDouble(lots - lots_min, 8));
  }

// True where a level (0 is none) keeps the symbol's published rules at this closing price.
bool LevelAllowed(const string symbol, const bool buy, const double closing, const double level, const bool is_stop)
  {
   if(level <= 0.0)
      return(true);
   double distance = level - closing;
   if(is_stop)
      distance = closing - level;
   if(!buy)
      distance = -distance;
   double point = SymbolInfoDouble(symbol, SYMBOL_POINT);
   double gap = (double)SymbolInfoInteger(symbol, SYMBOL_TRADE_STOPS_LEVEL) * point;
   return(distance > point * 0.001 && distance >= gap - point * 0.001);
  }

#endif
