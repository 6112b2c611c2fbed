//+------------------------------------------------------------------+
//| CopierBridge.mq4 - one MetaTrader 4 account behind the frames     |
//| Compiled by MetaEditor: no, not yet.                              |
//+------------------------------------------------------------------+
#property strict
#property copyright "mt-copier"
#property version "1.0"

enum CarrierKind
  {
   CARRIER_FILES = 1, // files
   CARRIER_PIPE = 2, // pipe (tried on no terminal yet)
   CARRIER_HTTP = 3 // http
  };

input CarrierKind Carrier = CARRIER_FILES; // Carrier: the way to the engine, the same as in its settings
input string Host = "127.0.0.1"; // Host: where the engine listens (http)
input int Port = 17500; // Port: where the engine listens (http)
input bool Tls = false; // Tls: encrypt, where the engine has a certificate (http)
input string Pipe = "mt-copier"; // Pipe: its name (pipe)
input int HttpWaitMs = 100; // HttpWaitMs: how long a request may wait for a frame and hold up this program (http)

#include "Trade4.mqh"
#include "..\shared\CarrierFiles.mqh"
#include "..\shared\CarrierHttp.mqh"
#include "..\shared\CarrierPipe.mqh"
#include "..\shared\Program.mqh"

FilesCarrier files_carrier;
PipeCarrier pipe_carrier;
HttpCarrier http_carrier;

// Does one of the program's tasks over the carrier that was chosen.
void Do(const int task)
  {
   switch(Carrier)
     {
      case CARRIER_PIPE: DoProgram(task, pipe_carrier); break;
      case CARRIER_HTTP: DoProgram(task, http_carrier); break;
      default: DoProgram(task, files_carrier); break;
     }
  }

int OnInit(void)
  {
   http_carrier.Dial(BaseUrl(Host, Port, Tls), HttpWaitMs);
   pipe_carrier.Dial(Pipe);
   return(BeginProgram());
  }

void OnDeinit(const int reason)
  {
   Do(TASK_STOP);
  }

void OnTimer(void)
  {
   Do(TASK_STEP);
  }
