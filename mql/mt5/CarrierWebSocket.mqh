//+------------------------------------------------------------------+
//| CarrierWebSocket.mqh - one frame, one message of RFC 6455          |
//+------------------------------------------------------------------+
#ifndef COPIER_CARRIER_WEBSOCKET_MQH
#define COPIER_CARRIER_WEBSOCKET_MQH

#include "..\shared\WebSocket.mqh"
#include "Stream5.mqh"

class WebSocketCarrier : public FrameCarrier
  {
private:
   SocketStream      m_stream;
   WebSocketReader   m_reader;
   string            m_path;

   bool              SendBytes(uchar &bytes[])
     {
      if(m_stream.SendAll(bytes, ArraySize(bytes)))
         return(true);
      return(Broken(m_stream.Trouble(), ""));
     }

   // The answer to the request for a WebSocket, waited for: nothing may be sent before.
   bool              HearUpgrade(const string accept)
     {
      long give_up = RunMs() + CARRIER_WAIT_MS;
      uchar bytes[];
      while(RunMs() < give_up && m_stream.IsOpen() && !IsStopped())
        {
         int count = m_stream.Take(bytes);
         if(count == 0)
           {
            Sleep(1);
            continue;
           }
         m_reader.Add(bytes, count);
         if(!m_reader.HeadIsWhole())
            continue;
         string answer = m_reader.TakeHead();
         if(IsUpgrade(answer, accept))
            return(true);
         return(Broken("this is no WebSocket: " + StringSubstr(answer, 0, 60), ""));
        }
      return(Broken("no answer to the request for a WebSocket", ""));
     }

public:
                     WebSocketCarrier(void) { m_path = ""; }

   void              Dial(const string host, const int port, const bool tls, const string thumbprint, const string path)
     {
      m_stream.Dial(host, port, tls, thumbprint);
      m_path = path;
     }

   virtual string    Name(void) const { return("websocket " + m_stream.Place() + m_path); }

   virtual bool      Open(const string account, const string life)
     {
      if(!m_stream.Open())
         return(Broken(m_stream.Trouble(), m_stream.Remedy()));
      m_reader.Clear();
      string key = KeyOf(life);
      uchar bytes[];
      BytesOf(UpgradeText(m_stream.Place(), m_path, key), bytes);
      if(StringLen(key) > 0 && SendBytes(bytes) && HearUpgrade(AcceptOf(key)))
         return(true);
      m_stream.Close();
      return(false);
     }

   virtual void      Close(void)
     {
      uchar bytes[];
      uchar none[];
      if(m_stream.IsOpen())
        {
         WrapMessage(WEBSOCKET_CLOSE, none, bytes);
         m_stream.SendAll(bytes, ArraySize(bytes));
        }
      m_stream.Close();
     }

   virtual bool      Send(const string frame)
     {
      uchar text[];
      uchar bytes[];
      BytesOf(frame, text);
      WrapMessage(WEBSOCKET_TEXT, text, bytes);
      return(SendBytes(bytes));
     }

   virtual void      Receive(LineBuffer &lines)
     {
      uchar bytes[];
      uchar reply[];
      int count = 0;
      do
        {
         // What came together with the answer to the upgrade waits here already.
         while(m_reader.Next(lines, reply))
            if(ArraySize(reply) > 0 && !SendBytes(reply))
               break;
         count = m_stream.Take(bytes);
         if(count > 0)
            m_reader.Add(bytes, count);
        }
      while(count > 0);
      if(m_reader.Ended())
         m_stream.Close();
      if(!m_stream.IsOpen())
         Broken(m_reader.Trouble() + m_stream.Trouble(), "");
     }

   virtual bool      IsOpen(void) const { return(m_stream.IsOpen()); }
  };

#endif
