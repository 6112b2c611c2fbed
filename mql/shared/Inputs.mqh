//+------------------------------------------------------------------+
//| Inputs.mqh - what a trader enters, whatever the carrier           |
//+------------------------------------------------------------------+
#ifndef COPIER_INPUTS_MQH
#define COPIER_INPUTS_MQH

enum TradeLogKind
  {
   TRADES_NOT_LOGGED = 0, // none
   TRADES_AS_CSV = 1, // trades.csv
   TRADES_AS_JSON = 2 // trades.jsonl
  };

// The remark behind an input is what the terminal shows as its name.
input string Secret = ""; // Secret: the engine's `secret` for this account, 16 characters or more
input double LotsMax = 0.0; // LotsMax: the most lots of one opening order, 0 is no limit
input string Symbols = ""; // Symbols: the only ones to open, as EURUSD,XAUUSD; empty is all
input TradeLogKind TradeLogFormat = TRADES_NOT_LOGGED; // TradeLogFormat: a file of every trade beside the account's memory
input bool ShowOnChart = true; // ShowOnChart: state, last command and last error in the chart's corner
input int TimerMs = 20; // TimerMs: how often to look for frames
input int WatchMs = 50; // WatchMs: how often to compare the positions
input int RetryMs = 500; // RetryMs: first pause after a lost link, doubling up to 5 s

#endif
