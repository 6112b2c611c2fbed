//+------------------------------------------------------------------+
//| CarrierTcp.mqh - frames over a TCP socket, which MQL5 can only dial |
//+------------------------------------------------------------------+
#ifndef COPIER_CARRIER_TCP_MQH
#define COPIER_CARRIER_TCP_MQH

#include "..\shared\Frames.mqh"

#define CONNECT_MS 1000
#define SEND_TRIES 1000

class TcpCarrier
  {
private:
   int               m_socket;

public:
                     TcpCarrier(void) { m_socket = INVALID_HANDLE; }

   bool              Open(const string host, const int port)
     {
      Close();
      m_socket = SocketCreate();
      if(m_socket == INVALID_HANDLE)
         return(false);
      if(SocketConnect(m_socket, host, (uint)port, CONNECT_MS))
         return(true);
      Close();
      return(false);
     }

   void              Close(void)
     {
      if(m_socket != INVALID_HANDLE)
         SocketClose(m_socket);
      m_socket = INVALID_HANDLE;
     }

   // Sends one line whole: MetaQuotes' SocketSend may take only a part of it.
   bool              Send(const string frame)
     {
      uchar bytes[];
      int count = BytesOf(frame + "\n", bytes);
      for(int tries = 0; count > 0 && tries < SEND_TRIES; tries++)
        {
         int sent = SocketSend(m_socket, bytes, (uint)count);
         if(sent < 0)
            return(false);
         count -= sent;
         for(int i = 0; i < count; i++)
            bytes[i] = bytes[sent + i];
         if(sent == 0)
            Sleep(1);
        }
      return(count == 0);
     }

   // Takes what has arrived, never waiting; false once the connection is gone.
   bool              Poll(LineBuffer &lines)
     {
      uchar bytes[];
      uint waiting = SocketIsReadable(m_socket);
      while(waiting > 0)
        {
         int count = SocketRead(m_socket, bytes, waiting, 100);
         if(count <= 0)
            return(false);
         lines.Add(bytes, count);
         waiting = SocketIsReadable(m_socket);
        }
      return(SocketIsConnected(m_socket));
     }
  };

#endif
