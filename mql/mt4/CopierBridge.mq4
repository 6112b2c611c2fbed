//+------------------------------------------------------------------+
//| CopierBridge.mq4 - one MetaTrader 4 account behind the frames     |
//| Compiled by MetaEditor: no, not yet.                              |
//+------------------------------------------------------------------+
#property strict
#property copyright "mt-copier"
#property version "1.0"

#include "Trade4.mqh"
#include "..\shared\CarrierFiles.mqh"
#include "..\shared\Program.mqh"

FilesCarrier files_carrier;

int OnInit(void)
  {
   return(BeginProgram());
  }

void OnDeinit(const int reason)
  {
   StopProgram(files_carrier);
  }

void OnTimer(void)
  {
   StepProgram(files_carrier);
  }
