//+------------------------------------------------------------------+
//| TradeLog.mqh - what was traded, a line each, for people and sheets |
//+------------------------------------------------------------------+
#ifndef COPIER_TRADE_LOG_MQH
#define COPIER_TRADE_LOG_MQH

#include "Memory.mqh"

#define LOG_NONE 0
#define LOG_CSV 1
#define LOG_JSON 2
#define LOG_BYTES_MAX 10000000

// One trading command and how it ended.
struct TradeLine
  {
   string            op;
   string            symbol;
   string            action;
   long              ticket;
   double            lots;
   string            command;
   string            outcome;
   string            message;
  };

// A text as a field of CSV: quoted, its quotes doubled. What a sheet would take for a formula begins with an apostrophe.
string CsvField(const string text)
  {
   string field = "";
   ushort first = StringGetCharacter(text, 0);
   if(StringLen(text) > 0 && (first == 43 || first == 45 || first == 61 || first == 64))
      field = "'";
   for(int i = 0; i < StringLen(text); i++)
     {
      ushort letter = StringGetCharacter(text, i);
      if(letter == 34)
         field = field + "\"";
      if(letter != 10 && letter != 13)
         field = field + ShortToString(letter);
     }
   return("\"" + field + "\"");
  }

// Writes to trades.csv or trades.jsonl in the account's folder of all terminals; an old file is kept once beside a new one.
class TradeLog
  {
private:
   string            m_name;
   int               m_format;

   string            Csv(const TradeLine &line, const string moment) const
     {
      string text = moment + "," + line.op + "," + CsvField(line.symbol) + "," + line.action + "," + WholeText(line.ticket);
      text += "," + NumberText(line.lots) + "," + line.command + "," + line.outcome + "," + CsvField(line.message);
      return(text + "\r\n");
     }

   string            Json(const TradeLine &line, const string moment) const
     {
      string data = "";
      PutText(data, "utc", moment);
      PutText(data, "op", line.op);
      PutText(data, "symbol", line.symbol);
      PutText(data, "action", line.action);
      PutWhole(data, "ticket", line.ticket);
      PutNumber(data, "lots", line.lots);
      PutText(data, "command", line.command);
      PutText(data, "outcome", line.outcome);
      PutText(data, "message", line.message);
      return(Closed(data) + "\n");
     }

public:
                     TradeLog(void) { m_name = ""; m_format = LOG_NONE; }

   void              Begin(const string folder, const int format)
     {
      m_format = format;
      m_name = folder + "\\trades.jsonl";
      if(format == LOG_CSV)
         m_name = folder + "\\trades.csv";
     }

   bool              Write(const TradeLine &line)
     {
      if(m_format == LOG_NONE)
         return(true);
      if(SharedSize(m_name) > LOG_BYTES_MAX)
         FileMove(m_name, FILE_COMMON, m_name + ".old", FILE_COMMON | FILE_REWRITE);
      string moment = MomentText(utc_clock.NowMs());
      if(m_format == LOG_JSON)
         return(AppendShared(m_name, Json(line, moment)));
      string text = Csv(line, moment);
      if(SharedSize(m_name) == 0)
         text = "utc,op,symbol,action,ticket,lots,command,outcome,message\r\n" + text;
      return(AppendShared(m_name, text));
     }
  };

#endif
