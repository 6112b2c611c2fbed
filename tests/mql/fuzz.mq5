// The Expert Advisor for a fuzzer: a session over a carrier that brings the fuzzer's bytes.
#property strict

#define FUZZ_SECRET "a secret of the tests"

input double FuzzLots = 0.0;

#include "..\..\mql\mt5\Trade5.mqh"
#include "..\..\mql\shared\Carrier.mqh"
#include "..\..\mql\shared\Session.mqh"

class FuzzCarrier : public FrameCarrier
  {
private:
   bool              m_open;

public:
   uchar             m_bytes[];
   int               m_at;
   int               m_step;
   string            m_said;

                     FuzzCarrier(void) { m_open = false; m_at = 0; m_step = 1; m_said = ""; }
   virtual string    Name(void) const { return("fuzz"); }
   virtual bool      Open(const string account, const string life) { m_open = true; return(true); }
   virtual bool      Send(const string frame) { m_said = m_said + frame + "\n"; return(true); }
   virtual bool      IsOpen(void) const { return(m_open); }
   virtual void      Close(void) { m_open = false; }

   virtual void      Receive(LineBuffer &lines)
     {
      uchar part[];
      int count = MathMin(m_step, ArraySize(m_bytes) - m_at);
      ArrayResize(part, m_step);
      for(int i = 0; i < count; i++)
         part[i] = m_bytes[m_at + i];
      if(count > 0)
         lines.Add(part, count);
      m_at += count;
     }
  };

int OnInit(void)
  {
   return(INIT_SUCCEEDED);
  }

void OnDeinit(const int reason)
  {
  }

void OnTimer(void)
  {
  }
