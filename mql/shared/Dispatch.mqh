//+------------------------------------------------------------------+
//| Dispatch.mqh - a frame -> one operation -> its answer             |
//+------------------------------------------------------------------+
#ifndef COPIER_DISPATCH_MQH
#define COPIER_DISPATCH_MQH

#include "Memory.mqh"
#include "Prices.mqh"
#include "TradeLog.mqh"

#define PROTOCOL_VERSION 1
#define SYMBOLS_PER_FRAME 2000
#define DEALS_PER_FRAME 2000
#define BARS_MAX 10000
#define PUSHED_LETTERS_MAX 100000
#define PROGRAM "CopierBridge 1.0"

// What the trader allows this Expert Advisor, whatever the frames say; 0 lots and no symbols are no limit.
struct Limits
  {
   double            lots_max;
   string            symbols;
  };

string SuccessFrame(const long id, const string data)
  {
   string frame = "";
   PutTruth(frame, "success", true);
   PutWhole(frame, "id", id);
   Put(frame, "data", data);
   return(Closed(frame));
  }

string FailureFrame(const long id, const string account, const Failure &failure)
  {
   string frame = "";
   PutTruth(frame, "success", false);
   PutWhole(frame, "id", id);
   PutText(frame, "error", failure.message);
   PutText(frame, "outcome", failure.outcome);
   if(StringLen(failure.reason) > 0)
      PutText(frame, "reason", failure.reason);
   if(failure.code != 0)
      PutWhole(frame, "code", failure.code);
   PutText(frame, "account", account);
   return(Closed(frame));
  }

bool IsTrading(const string op)
  {
   return(op == "execute_trade" || op == "close_position" || op == "modify_position");
  }

bool SymbolIsAllowed(const string symbols, const string symbol)
  {
   if(StringLen(symbols) == 0)
      return(true);
   return(StringFind("," + symbols + ",", "," + symbol + ",") >= 0);
  }

bool CheckLimits(const Limits &limits, const OpenOrder &order, Failure &failure)
  {
   if(limits.lots_max > 0.0 && order.lots > limits.lots_max + LOTS_NOISE)
     {
      string message = TRADE_FAILED + ": the Expert Advisor's input LotsMax allows " + NumberText(limits.lots_max) + " lots, not " + NumberText(order.lots);
      return(Fail(failure, "rejected", message, "limit", 0));
     }
   if(!SymbolIsAllowed(limits.symbols, order.symbol))
      return(Fail(failure, "rejected", TRADE_FAILED + ": the Expert Advisor's input Symbols does not list " + order.symbol, "trade_disabled", 0));
   return(true);
  }

// Answers the frames of one account.
class Dispatcher
  {
private:
   string            m_account;
   Limits            m_limits;
   Memory            m_memory;
   TradeLog          m_log;
   WantedPrices      m_prices;
   string            m_last;
   string            m_error;

   string            HelloJson(void) const
     {
      string data = "";
      PutText(data, "account", m_account);
      string offers = "\"get_account\",\"get_positions\",\"get_quote\",\"execute_trade\",\"close_position\",\"modify_position\"";
      offers = offers + ",\"get_deals\",\"get_symbols\",\"get_pending_orders\",\"get_bars\"";
      Put(data, "offers", "[" + offers + ",\"changed\"]");
      PutWhole(data, "protocol", PROTOCOL_VERSION);
      PutText(data, "program", PROGRAM + " on " + PLATFORM + " build " + IntegerToString(TerminalInfoInteger(TERMINAL_BUILD)));
      return(Closed(data));
     }

   bool              Greet(const JsonReader &frame, string &data, Failure &failure)
     {
      if(frame.Whole("params.protocol") != PROTOCOL_VERSION)
         return(FailUnavailable(failure, "this Expert Advisor speaks protocol " + IntegerToString(PROTOCOL_VERSION) + ": update the older end"));
      if(frame.Text("params.account") != m_account)
         return(FailUnavailable(failure, "expected " + frame.Text("params.account") + ", here is " + m_account));
      long token = frame.Whole("params.token");
      if(token > 0 && !m_memory.Admit(token, failure))
         return(false);
      data = HelloJson();
      return(CheckAccount(m_account, failure));
     }

   bool              Level(const JsonReader &frame, const string path, double &level, Failure &failure) const
     {
      level = frame.Number(path);
      if(!frame.Has(path))
         return(true);
      if(!frame.IsKind(path, JSON_NUMBER) || !MathIsValidNumber(level) || level < 0.0)
         return(FailInvalid(failure, "A price level must be 0 (none) or positive"));
      return(true);
     }

   bool              Execute(const JsonReader &frame, const long not_after_ms, string &data, Failure &failure)
     {
      OpenOrder order;
      order.symbol = frame.Text("params.symbol");
      string action = frame.Text("params.action");
      order.buy = action == "buy";
      order.lots = frame.Number("params.lots");
      order.slippage = 3;
      if(frame.Has("params.slippage"))
         order.slippage = (int)frame.Whole("params.slippage");
      order.magic = 12345;
      if(frame.Has("params.magic"))
         order.magic = frame.Whole("params.magic");
      order.comment = frame.Text("params.comment");
      order.tag = frame.Text("params.tag");
      order.stop = 0.0;
      order.target = 0.0;
      if(StringLen(order.symbol) == 0 || (action != "buy" && action != "sell"))
         return(FailInvalid(failure, "An order needs a symbol, and buy or sell"));
      if(!MathIsValidNumber(order.lots) || order.lots <= 0.0 || order.slippage < 0)
         return(FailInvalid(failure, "Lots must be positive, slippage 0 points or more"));
      if(!Level(frame, "params.stopLoss", order.stop, failure) || !Level(frame, "params.takeProfit", order.target, failure))
         return(false);
      if(!CheckLimits(m_limits, order, failure))
         return(false);
      return(OpenAtMarket(m_account, order, not_after_ms, data, failure));
     }

   bool              Close(const JsonReader &frame, const long not_after_ms, string &data, Failure &failure)
     {
      double lots = 0.0;
      if(frame.Has("params.lots"))
        {
         lots = frame.Number("params.lots");
         if(!MathIsValidNumber(lots) || lots <= 0.0)
            return(FailInvalid(failure, "Lots must be positive"));
        }
      int slippage = 3;
      if(frame.Has("params.slippage"))
         slippage = (int)frame.Whole("params.slippage");
      return(CloseAtMarket(m_account, frame.Whole("params.ticket"), lots, slippage, not_after_ms, data, failure));
     }

   bool              Modify(const JsonReader &frame, const long not_after_ms, string &data, Failure &failure)
     {
      LevelChange change;
      change.ticket = frame.Whole("params.ticket");
      change.has_stop = frame.Has("params.stopLoss");
      change.has_target = frame.Has("params.takeProfit");
      change.stop = 0.0;
      change.target = 0.0;
      if(!change.has_stop && !change.has_target)
         return(FailInvalid(failure, "At least one of stopLoss or takeProfit must be provided"));
      if(!Level(frame, "params.stopLoss", change.stop, failure) || !Level(frame, "params.takeProfit", change.target, failure))
         return(false);
      return(SetLevels(m_account, change, not_after_ms, data, failure));
     }

   // Lets in only the present owner, in time, and at most once.
   bool              Trade(const string op, const JsonReader &frame, string &data, Failure &failure)
     {
      if(!frame.IsKind("permit.token", JSON_NUMBER) || !frame.IsKind("permit.notAfterMs", JSON_NUMBER))
         return(FailInvalid(failure, op + " needs a permit"));
      long not_after_ms = frame.Whole("permit.notAfterMs");
      if(!m_memory.Admit(frame.Whole("permit.token"), failure) || !CheckInTime(not_after_ms, failure))
         return(false);
      if(op == "execute_trade")
         return(Execute(frame, not_after_ms, data, failure));
      if(op == "close_position")
         return(Close(frame, not_after_ms, data, failure));
      return(Modify(frame, not_after_ms, data, failure));
     }

   bool              Read(const string op, const JsonReader &frame, string &data, Failure &failure)
     {
      if(!CheckAccount(m_account, failure))
         return(false);
      if(op == "get_account")
         return(ReadAccount(m_account, data, failure));
      if(op == "get_positions")
         return(ReadPositions(m_account, frame.Text("params.symbol"), data, failure));
      if(op == "get_quote")
        {
         if(!ReadQuote(m_account, frame.Text("params.symbol"), data, failure))
            return(false);
         m_prices.Want(frame.Text("params.symbol"));
         return(true);
        }
      if(op == "get_deals")
        {
         int start = (int)MathMax((int)frame.Whole("params.start"), 0);
         return(ReadDeals(m_account, SecondsOf(frame.Text("params.since")), frame.Whole("params.positionId"), start, DEALS_PER_FRAME, data, failure));
        }
      if(op == "get_symbols")
         return(ReadSymbols(m_account, (int)frame.Whole("params.start"), SYMBOLS_PER_FRAME, data, failure));
      if(op == "get_pending_orders")
         return(ReadPendingOrders(m_account, frame.Text("params.symbol"), data, failure));
      if(op == "get_bars")
         return(BarsJson(frame.Text("params.symbol"), frame.Text("params.timeframe"), frame.Whole("params.count"), BARS_MAX, data, failure) && CheckAccount(m_account, failure));
      return(FailInvalid(failure, "There is no operation '" + op + "'"));
     }

   string            Done(const long id, const bool done, const string data, const Failure &failure) const
     {
      if(done)
         return(SuccessFrame(id, data));
      return(FailureFrame(id, m_account, failure));
     }

   // Keeps what the chart shows, and a line of the trade log.
   void              Note(const string op, const JsonReader &frame, const bool traded, const Failure &failure)
     {
      string object = frame.Text("params.symbol");
      if(StringLen(object) == 0)
         object = "#" + WholeText(frame.Whole("params.ticket"));
      string ended = "done";
      if(!traded)
         ended = failure.outcome + ": " + failure.message;
      m_last = op + " " + object + " " + frame.Text("params.action") + " " + NumberText(frame.Number("params.lots")) + ": " + ended;
      if(!traded)
         m_error = m_last;
      TradeLine line;
      line.op = op;
      line.symbol = frame.Text("params.symbol");
      line.action = frame.Text("params.action");
      line.ticket = frame.Whole("params.ticket");
      line.lots = frame.Number("params.lots");
      line.command = frame.Text("command");
      line.outcome = "done";
      line.message = "";
      if(!traded)
        {
         line.outcome = failure.outcome;
         line.message = failure.message;
        }
      if(!m_log.Write(line))
         m_error = "the trade log cannot be written";
     }

public:
   void              Begin(const string account, const double lots_max, const string symbols, const int log_format)
     {
      m_account = account;
      m_last = "";
      m_error = "";
      m_log.Begin(MEMORY_FOLDER + "\\" + FileNameOf(account), log_format);
      m_limits.lots_max = lots_max;
      m_limits.symbols = symbols;
      m_memory.Recall(account);
     }

   string            Account(void) const { return(m_account); }

   // Forgets what the other end of an earlier link wanted to be told.
   void              Meet(void) { m_prices.Clear(); }

   // Says that positions changed, and what they are now where that can be read whole and is not too long.
   string            ChangedFrame(void) const
     {
      string data = "";
      string frame = "";
      Failure failure;
      PutText(frame, "push", "changed");
      PutWhole(frame, "utcMs", utc_clock.NowMs());
      if(CheckAccount(m_account, failure) && ReadPositions(m_account, "", data, failure) && StringLen(data) <= PUSHED_LETTERS_MAX)
         Put(frame, "data", data);
      return(Closed(frame));
     }

   // Tells a price that was asked for lately and has moved, each at most once in `every_ms`; false where none has.
   bool              NextPrice(const int every_ms, string &frame)
     {
      string symbol = "";
      string data = "";
      Failure failure;
      while(m_prices.Next(every_ms, symbol))
        {
         frame = "";
         PutText(frame, "push", "quote");
         PutWhole(frame, "utcMs", utc_clock.NowMs());
         PutText(frame, "symbol", symbol);
         if(!CheckAccount(m_account, failure) || !ReadQuote(m_account, symbol, data, failure))
            continue;
         Put(frame, "data", data);
         frame = Closed(frame);
         return(true);
        }
      return(false);
     }

   // The last trading command and how it ended, and the last one that failed; empty where there was none.
   string            LastCommand(void) const { return(m_last); }
   string            LastError(void) const { return(m_error); }

   // Answers one frame; empty where it is none that wants an answer.
   string            Answer(const string text)
     {
      JsonReader frame;
      Failure failure;
      Fail(failure, "unavailable", "", "", 0);
      string data = "";
      if(!frame.Read(text))
        {
         FailInvalid(failure, "not a frame: expected one JSON object in a line");
         return(FailureFrame(0, m_account, failure));
        }
      if(frame.Has("ping"))
         return("");
      long id = frame.Whole("id");
      string op = frame.Text("op");
      if(op == "open")
        {
         bool greeted = Greet(frame, data, failure);
         return(Done(id, greeted, data, failure));
        }
      if(!IsTrading(op))
        {
         bool read = Read(op, frame, data, failure);
         return(Done(id, read, data, failure));
        }
      string command = frame.Text("command");
      string answer = "";
      if(StringLen(command) == 0)
        {
         FailInvalid(failure, op + " needs a command id");
         return(FailureFrame(id, m_account, failure));
        }
      if(m_memory.Knows(command, answer))
        {
         if(StringLen(answer) > 0)
            return(answer);
         Fail(failure, "unknown", "the Expert Advisor ended while it executed this command", "", 0);
         return(FailureFrame(id, m_account, failure));
        }
      if(!m_memory.Remember(command, ""))
        {
         FailUnavailable(failure, "the command cannot be written down; nothing was sent");
         return(FailureFrame(id, m_account, failure));
        }
      bool traded = Trade(op, frame, data, failure);
      answer = Done(id, traded, data, failure);
      m_memory.Remember(command, answer);
      Note(op, frame, traded, failure);
      return(answer);
     }
  };

#endif
