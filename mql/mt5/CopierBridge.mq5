//+------------------------------------------------------------------+
//| CopierBridge.mq5 - one MetaTrader 5 account behind the frames     |
//| Compiled by MetaEditor: no, not yet.                              |
//+------------------------------------------------------------------+
#property strict
#property copyright "mt-copier"
#property version "1.0"

enum CarrierKind
  {
   CARRIER_TCP = 0, // TCP
   CARRIER_FILES = 1 // Files
  };

input CarrierKind Carrier = CARRIER_TCP; // Carrier: the way to the engine, as in its settings
input string Host = "127.0.0.1"; // Host: where the engine listens
input int Port = 17500; // Port: where the engine listens

#include "Trade5.mqh"
#include "CarrierTcp.mqh"
#include "..\shared\CarrierFiles.mqh"
#include "..\shared\Program.mqh"

TcpCarrier tcp_carrier;
FilesCarrier files_carrier;

int OnInit(void)
  {
   tcp_carrier.Dial(Host, Port);
   return(BeginProgram());
  }

void OnDeinit(const int reason)
  {
   if(Carrier == CARRIER_FILES)
      StopProgram(files_carrier);
   else
      StopProgram(tcp_carrier);
  }

void OnTimer(void)
  {
   if(Carrier == CARRIER_FILES)
      StepProgram(files_carrier);
   else
      StepProgram(tcp_carrier);
  }

void OnTrade(void)
  {
   woken = true;
  }
