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

// A terminal that was just started is not logged in at once. One that changes its account starts this program anew, and
// until then every call is refused.
void StepProgram(FrameCarrier &carrier)
  {
   if(!started)
     {
      if(AccountInfoInteger(ACCOUNT_LOGIN) == 0 || StringLen(AccountInfoString(ACCOUNT_SERVER)) == 0)
         return;
      session.Start(AccountLabel(), Secret, LotsMax, Symbols, RetryMs, WatchMs);
      started = true;
     }
   session.Step(carrier, woken);
   woken = false;
  }

void StopProgram(FrameCarrier &carrier)
  {
   EventKillTimer();
   if(started)
      session.Stop(carrier);
  }

void DoProgram(const int task, FrameCarrier &carrier)
  {
   if(task == TASK_STEP)
      StepProgram(carrier);
   else
      StopProgram(carrier);
  }

#endif
