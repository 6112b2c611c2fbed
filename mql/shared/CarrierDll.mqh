//+------------------------------------------------------------------+
//| CarrierDll.mqh - frames over TCP, TLS or a pipe by CopierLink.dll |
//+------------------------------------------------------------------+
#ifndef COPIER_CARRIER_DLL_MQH
#define COPIER_CARRIER_DLL_MQH

#include "Carrier.mqh"
#include "CopierLink.mqh"

#define DLL_CHUNK 65536
#define DLL_WORDS 500
#define DLL_OPEN_MS 5000

// The library connects, sends and receives on a thread of its own, so nothing here ever waits. An empty pipe is TCP.
class DllCarrier : public FrameCarrier
  {
private:
   string            m_host;
   int               m_port;
   bool              m_tls;
   string            m_pipe;
   int               m_link;

   // Ends the link and says why it did not last, in the library's words.
   bool              Lost(const int code)
     {
      uchar words[];
      ArrayResize(words, DLL_WORDS);
      int count = CopierErrorText(code, words, DLL_WORDS);
      string trouble = TextOf(words, 0, count);
      if(m_link > 0)
         count = CopierWhy(m_link, words, DLL_WORDS);
      if(m_link > 0 && count > 0)
         trouble = trouble + ": " + TextOf(words, 0, count);
      Close();
      return(Broken(trouble, ""));
     }

public:
                     DllCarrier(void) { m_host = ""; m_port = 0; m_tls = false; m_pipe = ""; m_link = 0; }

   // Dials a TCP port; with `tls` the other end must have a certificate for `host` that Windows trusts.
   void              Dial(const string host, const int port, const bool tls)
     {
      m_host = host;
      m_port = port;
      m_tls = tls;
      m_pipe = "";
     }

   // Opens a pipe of this machine, by the name behind \\.\pipe\.
   void              DialPipe(const string name)
     {
      m_pipe = name;
     }

   virtual string    Name(void) const
     {
      if(StringLen(m_pipe) > 0)
         return("dll pipe " + m_pipe);
      if(m_tls)
         return("dll tls " + m_host + ":" + IntegerToString(m_port));
      return("dll tcp " + m_host + ":" + IntegerToString(m_port));
     }

   virtual bool      Open(const string account, const string life)
     {
      Close();
      if(CopierVersion() != COPIER_LINK_VERSION)
         return(Broken("CopierLink.dll is of another version", "copy the CopierLink.dll that came with this program to Libraries"));
      int link = 0;
      if(StringLen(m_pipe) > 0)
         link = CopierPipeOpen(m_pipe, DLL_OPEN_MS);
      else if(m_tls)
         link = CopierTcpOpen(m_host, m_port, 1, DLL_OPEN_MS);
      else
         link = CopierTcpOpen(m_host, m_port, 0, DLL_OPEN_MS);
      if(link <= 0)
         return(Lost(link));
      m_link = link;
      return(true);
     }

   virtual bool      Send(const string frame)
     {
      uchar bytes[];
      int count = BytesOf(frame + "\n", bytes);
      if(m_link <= 0)
         return(Broken("the link is closed", ""));
      int sent = CopierLinkSend(m_link, bytes, count);
      if(sent == count)
         return(true);
      return(Lost(sent));
     }

   virtual void      Receive(LineBuffer &lines)
     {
      uchar bytes[];
      ArrayResize(bytes, DLL_CHUNK);
      while(m_link > 0)
        {
         int count = CopierLinkReceive(m_link, bytes, DLL_CHUNK);
         if(count == 0)
            return;
         if(count < 0)
           {
            Lost(count);
            return;
           }
         lines.Add(bytes, count);
        }
     }

   virtual bool      IsOpen(void) const { return(m_link > 0); }

   virtual void      Close(void)
     {
      if(m_link > 0)
         CopierLinkClose(m_link);
      m_link = 0;
     }
  };

#endif
