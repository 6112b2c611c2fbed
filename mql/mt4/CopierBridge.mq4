//+------------------------------------------------------------------+
//| CopierBridge.mq4 - one MetaTrader 4 account behind the frames     |
//| Compiled by MetaEditor: no, not yet.                              |
//+------------------------------------------------------------------+
#property strict
#property copyright "mt-copier"
#property version "1.0"

input string Secret = "";
input double LotsMax = 0.0;
input string Symbols = "";
input int TimerMs = 20;
input int WatchMs = 50;
input int RetryMs = 500;

#include "Trade4.mqh"
#include "..\shared\CarrierFiles.mqh"

FilesCarrier files_carrier;

bool LinkOpen(const string account, const string life)
  {
   return(files_carrier.Open(account, life));
  }

void LinkClose(void)
  {
   files_carrier.Close();
  }

bool LinkSend(const string frame)
  {
   return(files_carrier.Send(frame));
  }

bool LinkPoll(LineBuffer &lines)
  {
   return(files_carrier.Poll(lines));
  }

#include "..\shared\Session.mqh"

Session session;
bool started = false;

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
   session.Step(false);
  }
