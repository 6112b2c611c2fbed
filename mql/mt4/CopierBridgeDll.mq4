//+------------------------------------------------------------------+
//| CopierBridgeDll.mq4 - the frames of CopierBridge by CopierLink.dll |
//| Compiled by MetaEditor: no, not yet.                              |
//+------------------------------------------------------------------+
#property strict
#property copyright "mt-copier"
#property version "1.0"

enum CarrierKind
  {
   CARRIER_TCP = 0, // tcp
   CARRIER_PIPE = 2 // pipe
  };

input CarrierKind Carrier = CARRIER_TCP; // Carrier: the way to the engine, the same as in its settings
input string Host = "127.0.0.1"; // Host: where the engine listens (tcp)
input int Port = 17500; // Port: where the engine listens (tcp)
input bool Tls = false; // Tls: encrypt, where the engine has a certificate that Windows trusts (tcp)
input string Pipe = "mt-copier"; // Pipe: its name (pipe)

#include "Trade4.mqh"
#include "..\shared\CarrierDll.mqh"
#include "..\shared\Program.mqh"

DllCarrier dll_carrier;

int OnInit(void)
  {
   dll_carrier.Dial(Host, Port, Tls);
   if(Carrier == CARRIER_PIPE)
      dll_carrier.DialPipe(Pipe);
   return(BeginProgram());
  }

void OnDeinit(const int reason)
  {
   DoProgram(TASK_STOP, dll_carrier);
  }

void OnTimer(void)
  {
   DoProgram(TASK_STEP, dll_carrier);
  }
