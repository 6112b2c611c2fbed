//+------------------------------------------------------------------+
//| TradeJournalDll.mq5 - closed trades to SQLite, Redis and the web  |
//| Compiled by MetaEditor: no, not yet.                              |
//+------------------------------------------------------------------+
#property strict
#property copyright "mt-copier"
#property version "1.0"

input string Database = ""; // Database: an SQLite file with its folder
input string RedisHost = ""; // RedisHost: tells every new trade there; empty tells none
input int RedisPort = 6379; // RedisPort
input string RedisPassword = ""; // RedisPassword
input string Channel = "mt-copier-trades"; // Channel: the one to publish on
input string Hook = ""; // Hook: a web address every new trade is sent to; empty sends none
input int DaysBack = 7; // DaysBack: how far back to look when it begins
input int TimerMs = 500; // TimerMs: how often to look

#include "Trade5.mqh"
#include "..\shared\CopierLink.mqh"

#define JOB_MS 10000
#define PAUSE_MS 5000
#define WORDS_MAX 500

// One trade at a time: first its row, and only when the row is new is it told to anybody. So a trade is told at most once,
// and is not told at all where the terminal or the program ends between the two.
ulong deal_now = 0;
ulong deal_last = 0;
long wait_until = 0;
long first_s = 0;
int saving = 0;
int publishing = 0;
int calling = 0;

// True once a job is over, or there is none; then `value` is what came of it, below zero where it failed.
bool Over(int &job, int &value, const string what)
  {
   value = 0;
   if(job == 0)
      return(true);
   if(job > 0 && CopierJobState(job) == 0)
      return(false);
   value = job;
   if(job > 0)
      value = CopierJobValue(job);
   if(value < 0)
     {
      uchar words[];
      ArrayResize(words, WORDS_MAX);
      int count = CopierErrorText(value, words, WORDS_MAX);
      Print("TradeJournal: ", what, ": ", TextOf(words, 0, count));
     }
   if(job > 0)
      CopierJobForget(job);
   job = 0;
   return(true);
  }

// The oldest closing deal after the last one; 0 where there is none.
ulong NextDeal(void)
  {
   if(!HistorySelect((datetime)first_s, (datetime)((long)TimeCurrent() + 86400)))
      return(0);
   int total = HistoryDealsTotal();
   for(int i = 0; i < total; i++)
     {
      ulong deal = HistoryDealGetTicket(i);
      if(deal <= deal_last || HistoryDealGetInteger(deal, DEAL_ENTRY) == 0 || HistoryDealGetInteger(deal, DEAL_TYPE) > 1)
         continue;
      return(deal);
     }
   return(0);
  }

string MoneyOf(const ulong deal, const ENUM_DEAL_PROPERTY_DOUBLE property)
  {
   return(DoubleToString(HistoryDealGetDouble(deal, property), 2));
  }

// Begins to write a trade's row: what opened it is its position's first deal.
int Save(const ulong deal)
  {
   long closed_ms = HistoryDealGetInteger(deal, DEAL_TIME_MSC);
   string symbol = HistoryDealGetString(deal, DEAL_SYMBOL);
   int digits = (int)SymbolInfoInteger(symbol, SYMBOL_DIGITS);
   string side = "buy";
   if(HistoryDealGetInteger(deal, DEAL_TYPE) == 0)
      side = "sell";
   string lots = NumberText(HistoryDealGetDouble(deal, DEAL_VOLUME));
   string price = DoubleToString(HistoryDealGetDouble(deal, DEAL_PRICE), digits);
   string profit = MoneyOf(deal, DEAL_PROFIT);
   string swap = MoneyOf(deal, DEAL_SWAP);
   string commission = MoneyOf(deal, DEAL_COMMISSION);
   long magic = HistoryDealGetInteger(deal, DEAL_MAGIC);
   string comment = HistoryDealGetString(deal, DEAL_COMMENT);
   long opened_ms = 0;
   string opened_price = "";
   if(HistorySelectByPosition(HistoryDealGetInteger(deal, DEAL_POSITION_ID)) && HistoryDealsTotal() > 0)
     {
      ulong first = HistoryDealGetTicket(0);
      opened_ms = HistoryDealGetInteger(first, DEAL_TIME_MSC);
      opened_price = DoubleToString(HistoryDealGetDouble(first, DEAL_PRICE), digits);
     }
   return(CopierSaveTrade(Database, AccountLabel(), (long)deal, symbol, side, lots, opened_ms, closed_ms, opened_price, price, profit, swap, commission, magic, comment));
  }

void Tell(const ulong deal)
  {
   if(!HistorySelect((datetime)first_s, (datetime)((long)TimeCurrent() + 86400)))
      return;
   uchar bytes[];
   string message = "";
   PutText(message, "account", AccountLabel());
   Put(message, "deal", DealJson(deal));
   int count = BytesOf(Closed(message), bytes);
   if(StringLen(RedisHost) > 0)
      publishing = CopierPublish(RedisHost, RedisPort, 0, RedisPassword, Channel, bytes, count, JOB_MS);
   if(StringLen(Hook) > 0)
      calling = CopierHttp("POST", Hook, "Content-Type: application/json", bytes, count, JOB_MS);
  }

int OnInit(void)
  {
   if(CopierVersion() != COPIER_LINK_VERSION || StringLen(Database) == 0)
     {
      Print("TradeJournal: the input Database must name a file, and CopierLink.dll be the one that came with this program");
      return(INIT_PARAMETERS_INCORRECT);
     }
   if(!EventSetMillisecondTimer(TimerMs))
      return(INIT_FAILED);
   return(INIT_SUCCEEDED);
  }

void OnDeinit(const int reason)
  {
   EventKillTimer();
   if(saving > 0)
      CopierJobForget(saving);
   if(publishing > 0)
      CopierJobForget(publishing);
   if(calling > 0)
      CopierJobForget(calling);
  }

void OnTimer(void)
  {
   int value = 0;
   if(AccountInfoInteger(ACCOUNT_LOGIN) == 0 || !TerminalConnected() || RunMs() < wait_until)
      return;
   if(first_s == 0)
      first_s = (long)TimeCurrent() - (long)DaysBack * 86400;
   if(!Over(publishing, value, "Redis") || !Over(calling, value, "the web address") || !Over(saving, value, "the database"))
      return;
   if(deal_now != 0 && value < 0)
      wait_until = RunMs() + PAUSE_MS;
   else if(deal_now != 0)
     {
      if(value == 1)
         Tell(deal_now);
      deal_last = deal_now;
     }
   deal_now = 0;
   if(RunMs() < wait_until || publishing != 0 || calling != 0)
      return;
   deal_now = NextDeal();
   if(deal_now != 0)
      saving = Save(deal_now);
  }
