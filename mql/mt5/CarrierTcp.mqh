//+------------------------------------------------------------------+
//| CarrierTcp.mqh - frames over a TCP socket, which MQL5 can only dial |
//+------------------------------------------------------------------+
#ifndef COPIER_CARRIER_TCP_MQH
#define COPIER_CARRIER_TCP_MQH

#include "..\shared\Carrier.mqh"

#define CONNECT_MS 1000
#define SEND_TRIES 1000

class TcpCarrier : public FrameCarrier
  {
private:
   string            m_host;
   int               m_port;
   int               m_socket;

public:
                     TcpCarrier(void) { m_socket = INVALID_HANDLE; m_host = ""; m_port = 0; }

   void              Dial(const string host, const int port)
     {
      m_host = host;
      m_port = port;
     }

   virtual string    Name(void) const { return("tcp " + m_host + ":" + IntegerToString(m_port)); }

   virtual bool      Open(const string account, const string life)
     {
      Close();
      ResetLastError();
      m_socket = SocketCreate();
      if(m_socket != INVALID_HANDLE && SocketConnect(m_socket, m_host, (uint)m_port, CONNECT_MS))
         return(true);
      int error = GetLastError();
      Close();
      return(Broken("no connection to " + m_host + ", error " + IntegerToString(error), AddressRemedy(error, m_host)));
     }

   virtual void      Close(void)
     {
      if(m_socket != INVALID_HANDLE)
         SocketClose(m_socket);
      m_socket = INVALID_HANDLE;
     }

   // Sends one line whole: MetaQuotes' SocketSend may take only a part of it.
   virtual bool      Send(const string frame)
     {
      uchar bytes[];
      int count = BytesOf(frame + "\n", bytes);
      for(int tries = 0; count > 0 && tries < SEND_TRIES; tries++)
        {
         int sent = SocketSend(m_socket, bytes, (uint)count);
         if(sent < 0)
            return(Broken("the socket broke, error " + IntegerToString(GetLastError()), ""));
         count -= sent;
         for(int i = 0; i < count; i++)
            bytes[i] = bytes[sent + i];
         if(sent == 0)
            Sleep(1);
        }
      if(count > 0)
         return(Broken("the engine does not read", ""));
      return(true);
     }

   virtual void      Receive(LineBuffer &lines)
     {
      uchar bytes[];
      uint waiting = SocketIsReadable(m_socket);
      while(waiting > 0)
        {
         int count = SocketRead(m_socket, bytes, waiting, 100);
         if(count <= 0)
           {
            Close();
            return;
           }
         lines.Add(bytes, count);
         waiting = SocketIsReadable(m_socket);
        }
     }

   virtual bool      IsOpen(void) const { return(m_socket != INVALID_HANDLE && SocketIsConnected(m_socket)); }
  };

#endif
