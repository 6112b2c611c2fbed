//+------------------------------------------------------------------+
//| Session.mqh - one life of a link: greeting, frames, heartbeat     |
//+------------------------------------------------------------------+
#ifndef COPIER_SESSION_MQH
#define COPIER_SESSION_MQH

#include "Digest.mqh"
#include "Dispatch.mqh"
#include "Frames.mqh"

#define GREETING_MS 5000
#define SILENCE_MS 15000
#define ALIVE_MS 2000
#define PAUSE_MAX_MS 5000

#define SESSION_CLOSED 0
#define SESSION_GREETED 1
#define SESSION_PROVED 2
#define SESSION_LIVE 3

// Speaks over whatever LinkOpen, LinkIsOpen, LinkSend, LinkPoll and LinkClose stand for; a shell defines them.
class Session
  {
private:
   Dispatcher        m_dispatcher;
   LineBuffer        m_lines;
   string            m_secret;
   string            m_nonce;
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

   bool              Say(const string frame)
     {
      m_said = RunMs();
      return(LinkSend(frame));
     }

   void              End(const string why)
     {
      if(m_state != SESSION_CLOSED)
         Print("CopierBridge: link ended: ", why);
      LinkClose();
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

   void              Begin(void)
     {
      if(RunMs() < m_next_attempt)
         return;
      m_nonce = NewNonce(m_secret);
      m_lines.Clear();
      if(StringLen(m_nonce) == 0 || !LinkOpen(m_dispatcher.Account(), m_nonce))
        {
         End("nobody there");
         return;
        }
      m_state = SESSION_GREETED;
      m_since = RunMs();
      m_heard = m_since;
      if(!Say(HelloText()))
         End("the greeting could not be sent");
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
      string both = account + "|" + m_nonce + "|" + frame.Text("challenge");
      if(frame.Text("nonce") != m_nonce)
         return;
      if(StringLen(frame.Text("challenge")) < 16 || !SameProof(frame.Text("proof"), ProofOf(m_secret, "engine|" + both)))
        {
         End("the other end does not know this account's secret");
         return;
        }
      string proof = "";
      PutText(proof, "proof", ProofOf(m_secret, "terminal|" + both));
      m_state = SESSION_PROVED;
      if(!Say(Closed(proof)))
         End("the proof could not be sent");
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
      m_mark = Fingerprint();
      m_watched = RunMs();
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
         if(StringLen(answer) > 0 && !Say(answer))
            End("an answer could not be sent");
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
      if(!Say("{\"push\":\"changed\"}"))
         End("a push could not be sent");
     }

public:
   void              Start(const string account, const string secret, const double lots_max, const string symbols, const int retry_ms, const int watch_ms)
     {
      m_dispatcher.Begin(account, lots_max, symbols);
      m_secret = secret;
      m_state = SESSION_CLOSED;
      m_retry_ms = (int)MathMax(retry_ms, 10);
      m_pause_ms = m_retry_ms;
      m_watch_ms = watch_ms;
      m_next_attempt = 0;
      m_watched = 0;
      m_said = 0;
      m_mark = "";
     }

   string            Account(void) const { return(m_dispatcher.Account()); }

   // Does all there is to do now; `woken` says that a trade event came.
   void              Step(const bool woken)
     {
      server_clock.Look();
      if(m_state == SESSION_CLOSED)
         Begin();
      if(m_state == SESSION_CLOSED)
         return;
      bool open = LinkPoll(m_lines);
      string line = "";
      while(m_state != SESSION_CLOSED && m_lines.Next(line))
         Hear(line);
      if(m_state == SESSION_CLOSED)
         return;
      long now = RunMs();
      if(!open)
         End("the connection broke");
      else if(m_lines.Overrun())
         End("a frame was too long");
      else if(m_state != SESSION_LIVE && now - m_since > GREETING_MS)
         End("the greeting took too long");
      else if(m_state == SESSION_LIVE && now - m_heard > SILENCE_MS)
         End("nothing was heard for too long");
      if(m_state != SESSION_LIVE)
         return;
      Watch(woken);
      if(m_state == SESSION_LIVE && RunMs() - m_said > ALIVE_MS && !Say("{\"push\":\"alive\"}"))
         End("a heartbeat could not be sent");
     }

   void              Stop(void)
     {
      End("the Expert Advisor was removed");
     }
  };

#endif
