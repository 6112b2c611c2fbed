//+------------------------------------------------------------------+
//| Session.mqh - one life of a link: greeting, frames, heartbeat     |
//+------------------------------------------------------------------+
#ifndef COPIER_SESSION_MQH
#define COPIER_SESSION_MQH

#include "Carrier.mqh"
#include "Digest.mqh"
#include "Dispatch.mqh"

#define GREETING_MS 5000
#define SILENCE_MS 15000
#define ALIVE_MS 2000
#define PAUSE_MAX_MS 5000

#define SESSION_CLOSED 0
#define SESSION_GREETED 1
#define SESSION_PROVED 2
#define SESSION_LIVE 3

// Speaks over whatever carrier it is stepped with: what is said is kept and sent at once, what ends it is kept until the
// step is over.
class Session
  {
private:
   Dispatcher        m_dispatcher;
   LineBuffer        m_lines;
   string            m_out[];
   string            m_secret;
   string            m_nonce;
   string            m_end;
   string            m_trouble;
   int               m_state;
   long              m_since;
   long              m_heard;
   long              m_said;
   long              m_next_attempt;
   int               m_pause_ms;
   int               m_retry_ms;
   int               m_watch_ms;
   long              m_watched;
   string            m_mark;

   void              Say(const string frame)
     {
      int count = ArraySize(m_out);
      ArrayResize(m_out, count + 1);
      m_out[count] = frame;
     }

   void              End(const string why)
     {
      if(StringLen(m_end) == 0)
         m_end = why;
     }

   bool              Ended(void) const { return(StringLen(m_end) > 0); }

   void              Flush(FrameCarrier &carrier)
     {
      for(int i = 0; i < ArraySize(m_out); i++)
        {
         m_said = RunMs();
         if(carrier.Send(m_out[i]))
            continue;
         End(WithTrouble("a frame could not be sent", carrier));
         break;
        }
      ArrayResize(m_out, 0);
     }

   string            WithTrouble(const string what, const FrameCarrier &carrier) const
     {
      if(StringLen(carrier.Trouble()) == 0)
         return(what);
      return(what + ": " + carrier.Trouble());
     }

   // Says a trouble once, not at every attempt; what a person must switch is shown to that person.
   void              Report(const FrameCarrier &carrier)
     {
      if(m_end == m_trouble)
         return;
      m_trouble = m_end;
      Print("CopierBridge: ", carrier.Name(), ": link ended: ", m_end);
      if(StringLen(carrier.Remedy()) > 0)
         Alert("CopierBridge: ", carrier.Remedy());
     }

   void              Leave(FrameCarrier &carrier)
     {
      Report(carrier);
      carrier.Close();
      ArrayResize(m_out, 0);
      m_state = SESSION_CLOSED;
      m_next_attempt = RunMs() + m_pause_ms;
      m_pause_ms = (int)MathMin(m_pause_ms * 2, PAUSE_MAX_MS);
     }

   string            HelloText(void) const
     {
      string hello = "";
      PutText(hello, "hello", "bridge");
      PutWhole(hello, "protocol", PROTOCOL_VERSION);
      PutText(hello, "account", m_dispatcher.Account());
      PutText(hello, "platform", PLATFORM);
      PutWhole(hello, "build", (long)TerminalInfoInteger(TERMINAL_BUILD));
      PutText(hello, "program", PROGRAM);
      PutWhole(hello, "utcMs", utc_clock.NowMs());
      PutText(hello, "nonce", m_nonce);
      return(Closed(hello));
     }

   void              Begin(FrameCarrier &carrier)
     {
      m_end = "";
      m_lines.Clear();
      m_nonce = NewNonce(m_secret);
      m_since = RunMs();
      m_heard = m_since;
      if(StringLen(m_nonce) == 0)
         End("this terminal cannot compute SHA-256");
      else if(!carrier.Open(m_dispatcher.Account(), m_nonce))
         End(WithTrouble("nobody there", carrier));
      if(Ended())
         return;
      m_state = SESSION_GREETED;
      Say(HelloText());
     }

   // The other end proves that it knows the secret before it learns anything more, then this one does.
   void              HearChallenge(const JsonReader &frame)
     {
      if(frame.Has("refused"))
        {
         End("refused: " + frame.Text("refused"));
         return;
        }
      string account = m_dispatcher.Account();
      string proof = "";
      string both = account + "|" + m_nonce + "|" + frame.Text("challenge");
      if(frame.Text("nonce") != m_nonce)
         return;
      if(StringLen(frame.Text("challenge")) < 16 || !SameProof(frame.Text("proof"), ProofOf(m_secret, "engine|" + both)))
        {
         End("the other end does not know this account's secret");
         PutText(proof, "proof", "");
         PutText(proof, "refused", m_end);
         Say(Closed(proof));
         return;
        }
      PutText(proof, "proof", ProofOf(m_secret, "terminal|" + both));
      m_state = SESSION_PROVED;
      Say(Closed(proof));
     }

   void              HearWelcome(const JsonReader &frame)
     {
      if(!frame.Truth("welcome"))
        {
         End("refused: " + frame.Text("refused"));
         return;
        }
      m_state = SESSION_LIVE;
      m_pause_ms = m_retry_ms;
      m_trouble = "";
      m_mark = Fingerprint();
      m_watched = RunMs();
      m_dispatcher.Meet();
      Print("CopierBridge: connected for ", m_dispatcher.Account());
     }

   void              Hear(const string line)
     {
      m_heard = RunMs();
      if(StringLen(line) == 0)
         return;
      if(line == "{\"bye\":1}")
        {
         End("the other end said goodbye");
         return;
        }
      if(m_state == SESSION_LIVE)
        {
         string answer = m_dispatcher.Answer(line);
         if(StringLen(answer) > 0)
            Say(answer);
         return;
        }
      JsonReader frame;
      if(!frame.Read(line))
         End("the greeting cannot be read");
      else if(m_state == SESSION_GREETED)
         HearChallenge(frame);
      else
         HearWelcome(frame);
     }

   void              Check(const FrameCarrier &carrier)
     {
      long now = RunMs();
      if(!carrier.IsOpen())
         End(WithTrouble("the connection broke", carrier));
      else if(m_lines.Overrun())
         End("a frame was too long");
      else if(m_state != SESSION_LIVE && now - m_since > GREETING_MS)
         End("the greeting took too long");
      else if(m_state == SESSION_LIVE && now - m_heard > SILENCE_MS)
         End("nothing was heard for too long");
     }

   void              Watch(const bool woken)
     {
      long now = RunMs();
      if(!woken && now - m_watched < m_watch_ms)
         return;
      m_watched = now;
      string mark = Fingerprint();
      if(StringLen(mark) == 0 || mark == m_mark)
         return;
      m_mark = mark;
      Say(m_dispatcher.ChangedFrame());
     }

   void              WatchPrices(const FrameCarrier &carrier)
     {
      string frame = "";
      while(m_dispatcher.NextPrice(carrier.PriceMs(), frame))
         Say(frame);
     }

public:
   void              Start(const string account, const string secret, const double lots_max, const string symbols, const int log_format, const int retry_ms, const int watch_ms)
     {
      m_dispatcher.Begin(account, lots_max, symbols, log_format);
      m_secret = secret;
      m_state = SESSION_CLOSED;
      m_retry_ms = (int)MathMax(retry_ms, 10);
      m_pause_ms = m_retry_ms;
      m_watch_ms = watch_ms;
      m_next_attempt = 0;
      m_watched = 0;
      m_said = 0;
      m_mark = "";
      m_end = "";
      m_trouble = "";
     }

   string            Account(void) const { return(m_dispatcher.Account()); }

   // What a trader wants to see on the chart: whether there is a link, whose, and what went last.
   string            Face(const FrameCarrier &carrier) const
     {
      string state = "NOT connected";
      if(m_state == SESSION_LIVE)
         state = "connected";
      string face = "CopierBridge: " + state + " over " + carrier.Name() + "\naccount: " + m_dispatcher.Account();
      string blocker = TradeBlocker();
      if(StringLen(blocker) > 0)
         face = face + "\nTRADING IS OFF: " + blocker;
      if(m_state != SESSION_LIVE && StringLen(m_trouble) > 0)
         face = face + "\nwhy: " + m_trouble;
      if(m_state != SESSION_LIVE && StringLen(carrier.Remedy()) > 0)
         face = face + "\nto mend: " + carrier.Remedy();
      if(StringLen(m_dispatcher.LastCommand()) > 0)
         face = face + "\nlast command: " + m_dispatcher.LastCommand();
      if(StringLen(m_dispatcher.LastError()) > 0)
         face = face + "\nlast error: " + m_dispatcher.LastError();
      return(face);
     }

   // Does all there is to do now; `woken` says that a trade event came.
   void              Step(FrameCarrier &carrier, const bool woken)
     {
      server_clock.Look();
      if(m_state == SESSION_CLOSED && RunMs() < m_next_attempt)
         return;
      if(m_state == SESSION_CLOSED)
         Begin(carrier);
      Flush(carrier);
      if(!Ended())
         carrier.Receive(m_lines);
      string line = "";
      while(!Ended() && m_lines.Next(line))
        {
         Hear(line);
         Flush(carrier);
        }
      if(!Ended())
         Check(carrier);
      if(!Ended() && m_state == SESSION_LIVE)
        {
         Watch(woken);
         WatchPrices(carrier);
         if(ArraySize(m_out) == 0 && RunMs() - m_said > ALIVE_MS)
            Say("{\"push\":\"alive\"}");
         Flush(carrier);
        }
      if(Ended())
         Leave(carrier);
     }

   void              Stop(FrameCarrier &carrier)
     {
      End("the Expert Advisor was removed");
      Leave(carrier);
     }
  };

#endif
