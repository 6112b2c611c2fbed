//+------------------------------------------------------------------+
//| Program.mqh - what every shell does: begin, step, stop            |
//+------------------------------------------------------------------+
#ifndef COPIER_PROGRAM_MQH
#define COPIER_PROGRAM_MQH

#include "Inputs.mqh"
#include "Session.mqh"

#define TASK_STEP 0
#define TASK_STOP 1

Session session;
bool started = false;
bool woken = false;
long shown_at = 0;
string shown_face = "";
string alerted = "";

int BeginProgram(void)
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

// Shows the state on the chart, at most once a second, and alerts once when a switch stops trading.
void ShowProgram(const FrameCarrier &carrier)
  {
   if(RunMs() - shown_at < 1000)
      return;
   shown_at = RunMs();
   string blocker = TradeBlocker();
   if(blocker != alerted)
     {
      alerted = blocker;
      if(StringLen(blocker) > 0)
         Alert("CopierBridge: trading is off: ", blocker);
     }
   if(!ShowOnChart)
      return;
   string face = session.Face(carrier);
   if(face == shown_face)
      return;
   shown_face = face;
   Comment(face);
  }

// A terminal that was just started is not logged in at once. One that changes its account starts this program anew, and
// until then every call is refused.
void StepProgram(FrameCarrier &carrier)
  {
   if(!started)
     {
      if(AccountInfoInteger(ACCOUNT_LOGIN) == 0 || StringLen(AccountInfoString(ACCOUNT_SERVER)) == 0)
         return;
      session.Start(AccountLabel(), Secret, LotsMax, Symbols, (int)TradeLogFormat, RetryMs, WatchMs);
      started = true;
     }
   session.Step(carrier, woken);
   woken = false;
   ShowProgram(carrier);
  }

void StopProgram(FrameCarrier &carrier)
  {
   EventKillTimer();
   if(started)
      session.Stop(carrier);
   if(ShowOnChart)
      Comment("");
  }

void DoProgram(const int task, FrameCarrier &carrier)
  {
   if(task == TASK_STEP)
      StepProgram(carrier);
   else
      StopProgram(carrier);
  }

#endif
