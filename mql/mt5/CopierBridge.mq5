//+------------------------------------------------------------------+
//| CopierBridge.mq5 - one MetaTrader 5 account behind the frames     |
//| Compiled by MetaEditor: no, not yet.                              |
//+------------------------------------------------------------------+
#property strict
#property copyright "mt-copier"
#property version "1.0"

enum CarrierKind
  {
   CARRIER_TCP = 0, // tcp
   CARRIER_FILES = 1, // files
   CARRIER_PIPE = 2, // pipe
   CARRIER_HTTP = 3, // http
   CARRIER_WEBSOCKET = 4 // websocket
  };

input CarrierKind Carrier = CARRIER_TCP; // Carrier: the way to the engine, the same as in its settings
input string Host = "127.0.0.1"; // Host: where the engine listens (tcp, http, websocket)
input int Port = 17500; // Port: where the engine listens (tcp, http, websocket)
input bool Tls = false; // Tls: encrypt, where the engine has a certificate (tcp, http, websocket)
input string Thumbprint = ""; // Thumbprint: the only certificate to take, empty is any trusted one (tcp, websocket)
input string Pipe = "mt-copier"; // Pipe: its name (pipe)
input int HttpWaitMs = 100; // HttpWaitMs: how long a request may wait for a frame and hold up this program (http)

#include "Trade5.mqh"
#include "CarrierTcp.mqh"
#include "CarrierWebSocket.mqh"
#include "..\shared\CarrierFiles.mqh"
#include "..\shared\CarrierHttp.mqh"
#include "..\shared\CarrierPipe.mqh"
#include "..\shared\Program.mqh"

TcpCarrier tcp_carrier;
FilesCarrier files_carrier;
PipeCarrier pipe_carrier;
HttpCarrier http_carrier;
WebSocketCarrier websocket_carrier;

// Does one of the program's tasks over the carrier that was chosen.
void Do(const int task)
  {
   switch(Carrier)
     {
      case CARRIER_FILES: DoProgram(task, files_carrier); break;
      case CARRIER_PIPE: DoProgram(task, pipe_carrier); break;
      case CARRIER_HTTP: DoProgram(task, http_carrier); break;
      case CARRIER_WEBSOCKET: DoProgram(task, websocket_carrier); break;
      default: DoProgram(task, tcp_carrier); break;
     }
  }

int OnInit(void)
  {
   tcp_carrier.Dial(Host, Port, Tls, Thumbprint);
   websocket_carrier.Dial(Host, Port, Tls, Thumbprint, HTTP_PATH);
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

void OnTrade(void)
  {
   woken = true;
  }
