//+------------------------------------------------------------------+
//| Carrier.mqh - the one interface behind which frames travel        |
//+------------------------------------------------------------------+
#ifndef COPIER_CARRIER_MQH
#define COPIER_CARRIER_MQH

#include "Frames.mqh"

#define CARRIER_WAIT_MS 1000

// Errors of an address the terminal does not let programs dial: 4014 and 5272 on MetaTrader 5, 4060 on MetaTrader 4.
string AddressRemedy(const int error, const string address)
  {
   if(error != 4014 && error != 4060 && error != 5272)
      return("");
   return("allow " + address + " in Tools, Options, Expert Advisors, Allow WebRequest for listed URL");
  }

// A way to the engine: makes one connection at a time and carries whole lines, and knows nothing of what they say.
// A session calls it from the timer, one call after the other: Open, then Send and Receive in any order, then Close.
// Nothing here may wait for the other end longer than CARRIER_WAIT_MS: the Expert Advisor trades in the same thread.
// How a connection is named, found and encrypted is each carrier's own affair, set once before the first Open.
class FrameCarrier
  {
protected:
   string            m_trouble;
   string            m_remedy;

   // Notes why a call failed and what a person can mend in the terminal; always false.
   bool              Broken(const string trouble, const string remedy)
     {
      m_trouble = trouble;
      m_remedy = remedy;
      return(false);
     }

public:
                     FrameCarrier(void) { m_trouble = ""; m_remedy = ""; }

   // The way in a few words, for the log and the chart, such as "tcp 127.0.0.1:17500".
   virtual string    Name(void) const { return(""); }

   // Begins a new connection, ending an old one; false where there is none to be had now. `life` is the nonce of the greeting
   // that follows, 32 characters of [0-9a-f], never used before. A carrier that connects in the background says true and keeps
   // what is sent meanwhile.
   virtual bool      Open(const string account, const string life) { return(false); }

   // Sends one frame, given without its line end, or keeps it to be sent: all of it or, with false, the connection is lost.
   virtual bool      Send(const string frame) { return(false); }

   // Adds the bytes that have arrived, each frame ended by a line feed; adds nothing where nothing has.
   virtual void      Receive(LineBuffer &lines) { }

   // False once no more can arrive or leave. What was received before is still read.
   virtual bool      IsOpen(void) const { return(false); }

   // How often each price may be told at most: as often as it moves would be too much where a frame costs much.
   virtual int       PriceMs(void) const { return(50); }

   // Ends the connection, if there is one, and never waits. May be called at any time, and twice.
   virtual void      Close(void) { }

   // Why the last Open, Send or Receive failed, in words; empty where it did not.
   string            Trouble(void) const { return(m_trouble); }

   // The switch of the terminal that would mend it, such as an address to allow; empty where none would.
   string            Remedy(void) const { return(m_remedy); }
  };

#endif
