//+------------------------------------------------------------------+
//| CopierBridge.mq5 - one MetaTrader 5 account behind the frames     |
//| Compiled by MetaEditor: no, not yet.                              |
//+------------------------------------------------------------------+
#property strict
#property copyright "mt-copier"
#property version "1.0"

#define CARRIER_TCP 0
#define CARRIER_FILES 1

input int Carrier = 0;
input string Host = "127.0.0.1";
input int Port = 17500;
input string Secret = "";
input double LotsMax = 0.0;
input string Symbols = "";
input int TimerMs = 20;
input int WatchMs = 50;
input int RetryMs = 500;

#include "Trade5.mqh"
#include "CarrierTcp.mqh"
#include "..\shared\CarrierFiles.mqh"

TcpCarrier tcp_carrier;
FilesCarrier files_carrier;

bool LinkOpen(const string account, const string life)
  {
   if(Carrier == CARRIER_FILES)
      return(files_carrier.Open(account, life));
   return(tcp_carrier.Open(Host, Port));
  }

void LinkClose(void)
  {
   files_carrier.Close();
   tcp_carrier.Close();
  }

bool LinkSend(const string frame)
  {
   if(Carrier == CARRIER_FILES)
      return(files_carrier.Send(frame));
   return(tcp_carrier.Send(frame));
  }

bool LinkPoll(LineBuffer &lines)
  {
   if(Carrier == CARRIER_FILES)
      return(files_carrier.Poll(lines));
   return(tcp_carrier.Poll(lines));
  }

#include "..\shared\Session.mqh"

Session session;
bool started = false;
bool woken = false;

int OnInit(void)
  {
   if(StringLen(Secret) < 16)
     {
      Print("CopierBridge: the input Secret must have at least 16 characters, the same as in the engine's settings");
      return(INIT_PARAMETERS_INCORRECT);
     }
   if(!EventSetMillisecondTimer(TimerMs))
      return(INIT_FAILED);
   return(INIT_SUCCEEDED);
  }

void OnDeinit(const int reason)
  {
   EventKillTimer();
   if(started)
      session.Stop();
  }

// A terminal that was just started is not logged in at once. One that changes its account starts this program anew, and
// until then every call is refused.
void OnTimer(void)
  {
   if(!started)
     {
      if(AccountInfoInteger(ACCOUNT_LOGIN) == 0 || StringLen(AccountInfoString(ACCOUNT_SERVER)) == 0)
         return;
      session.Start(AccountLabel(), Secret, LotsMax, Symbols, RetryMs, WatchMs);
      started = true;
     }
   session.Step(woken);
   woken = false;
  }

void OnTrade(void)
  {
   woken = true;
  }
