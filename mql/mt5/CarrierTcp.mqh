//+------------------------------------------------------------------+
//| CarrierTcp.mqh - frames as lines over a TCP socket                |
//+------------------------------------------------------------------+
#ifndef COPIER_CARRIER_TCP_MQH
#define COPIER_CARRIER_TCP_MQH

#include "Stream5.mqh"

class TcpCarrier : public FrameCarrier
  {
private:
   SocketStream      m_stream;

public:
   void              Dial(const string host, const int port, const bool tls, const string thumbprint)
     {
      m_stream.Dial(host, port, tls, thumbprint);
     }

   virtual string    Name(void) const { return("tcp " + m_stream.Place()); }

   virtual bool      Open(const string account, const string life)
     {
      if(m_stream.Open())
         return(true);
      return(Broken(m_stream.Trouble(), m_stream.Remedy()));
     }

   virtual void      Close(void) { m_stream.Close(); }

   virtual bool      Send(const string frame)
     {
      uchar bytes[];
      int count = BytesOf(frame + "\n", bytes);
      if(m_stream.SendAll(bytes, count))
         return(true);
      return(Broken(m_stream.Trouble(), ""));
     }

   virtual void      Receive(LineBuffer &lines)
     {
      uchar bytes[];
      for(int count = m_stream.Take(bytes); count > 0; count = m_stream.Take(bytes))
         lines.Add(bytes, count);
      if(!m_stream.IsOpen())
         Broken(m_stream.Trouble(), "");
     }

   virtual bool      IsOpen(void) const { return(m_stream.IsOpen()); }
  };

#endif
