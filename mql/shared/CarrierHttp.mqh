//+------------------------------------------------------------------+
//| CarrierHttp.mqh - frames as the lines of short HTTP requests      |
//+------------------------------------------------------------------+
#ifndef COPIER_CARRIER_HTTP_MQH
#define COPIER_CARRIER_HTTP_MQH

#include "Carrier.mqh"

#define HTTP_PATH "/bridge"
#define HTTP_GOODBYE_MS 300

string BaseUrl(const string host, const int port, const bool tls)
  {
   string scheme = "http";
   if(tls)
      scheme = "https";
   return(scheme + "://" + host + ":" + IntegerToString(port));
  }

// WebRequest blocks the Expert Advisor until the answer is there, so that a request which waits for a frame is answered
// after `wait` milliseconds at the latest, and any request is given up after a second more.
class HttpCarrier : public FrameCarrier
  {
private:
   string            m_base;
   string            m_url;
   int               m_wait_ms;
   string            m_session;
   long              m_number;
   bool              m_open;
   string            m_waiting[];

   // The value of a header of an answer; empty without one.
   string            HeaderOf(const string headers, const string name) const
     {
      string lower = "\r\n" + headers + "\r\n";
      StringToLower(lower);
      int at = StringFind(lower, "\r\n" + name + ":");
      if(at < 0)
         return("");
      int start = at + StringLen(name) + 3;
      return(Trimmed(StringSubstr(lower, start, StringFind(lower, "\r\n", start) - start)));
     }

   bool              Lost(const string trouble, const string remedy)
     {
      m_open = false;
      return(Broken(trouble, remedy));
     }

   // One request there, with what is to be said; what comes back is kept for the next Receive.
   bool              Exchange(const string text, const int wait_ms, const int timeout_ms)
     {
      uchar bytes[];
      char said[];
      char heard[];
      string headers = "Content-Type: text/plain; charset=utf-8\r\nBridge-Wait-Ms: " + IntegerToString(wait_ms) + "\r\n";
      if(StringLen(m_session) > 0)
         headers = headers + "Bridge-Session: " + m_session + "\r\n";
      m_number++;
      headers = headers + "Bridge-Number: " + IntegerToString(m_number) + "\r\n";
      int count = BytesOf(text, bytes);
      ArrayResize(said, count);
      for(int i = 0; i < count; i++)
         said[i] = (char)bytes[i];
      string answered = "";
      ResetLastError();
      int status = WebRequest("POST", m_url, headers, timeout_ms, said, heard, answered);
      if(status == -1)
        {
         int error = GetLastError();
         return(Lost("no answer from " + m_url + ", error " + IntegerToString(error), AddressRemedy(error, m_base)));
        }
      if(status != 200)
         return(Lost(m_url + " answers " + IntegerToString(status), ""));
      if(StringLen(m_session) == 0)
         m_session = HeaderOf(answered, "bridge-session");
      if(StringLen(m_session) == 0 || ArraySize(heard) > FRAME_BYTES_MAX * 2)
         return(Lost(m_url + " is not the engine", ""));
      Keep(heard);
      return(true);
     }

   void              Keep(const char &heard[])
     {
      uchar bytes[];
      int count = ArraySize(heard);
      if(count == 0)
         return;
      ArrayResize(bytes, count);
      for(int i = 0; i < count; i++)
         bytes[i] = (uchar)heard[i];
      int held = ArraySize(m_waiting);
      ArrayResize(m_waiting, held + 1);
      m_waiting[held] = TextOf(bytes, 0, count);
     }

public:
                     HttpCarrier(void) { m_base = ""; m_url = ""; m_wait_ms = 0; m_session = ""; m_number = 0; m_open = false; }

   // `base` is as in http://127.0.0.1:17501; a request may wait for the engine's next frame up to `wait_ms`.
   void              Dial(const string base, const int wait_ms)
     {
      m_base = base;
      m_url = base + HTTP_PATH;
      m_wait_ms = (int)MathMax(0, MathMin(wait_ms, CARRIER_WAIT_MS));
     }

   virtual string    Name(void) const { return(m_url); }

   virtual bool      Open(const string account, const string life)
     {
      m_session = "";
      m_number = 0;
      m_open = true;
      ArrayResize(m_waiting, 0);
      return(true);
     }

   virtual void      Close(void)
     {
      if(m_open && StringLen(m_session) > 0)
         Exchange("{\"bye\":1}\n", 0, HTTP_GOODBYE_MS);
      m_open = false;
      m_session = "";
     }

   virtual bool      Send(const string frame)
     {
      return(m_open && Exchange(frame + "\n", 0, CARRIER_WAIT_MS));
     }

   virtual void      Receive(LineBuffer &lines)
     {
      if(m_open && ArraySize(m_waiting) == 0)
         Exchange("", m_wait_ms, m_wait_ms + CARRIER_WAIT_MS);
      uchar bytes[];
      for(int i = 0; i < ArraySize(m_waiting); i++)
        {
         int count = BytesOf(m_waiting[i], bytes);
         lines.Add(bytes, count);
        }
      ArrayResize(m_waiting, 0);
     }

   virtual bool      IsOpen(void) const { return(m_open); }

   // A frame is a request, and a request holds up this program.
   virtual int       PriceMs(void) const { return(500); }
  };

#endif
