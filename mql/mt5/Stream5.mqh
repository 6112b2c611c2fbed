//+------------------------------------------------------------------+
//| Stream5.mqh - bytes over a socket of MQL5, with TLS if wanted      |
//+------------------------------------------------------------------+
#ifndef COPIER_STREAM5_MQH
#define COPIER_STREAM5_MQH

#include "..\shared\Carrier.mqh"

#define STREAM_CHUNK 65536
#define HTTPS_PORT 443

// Letters and digits alone, in lower case: fingerprints are written with colons, spaces or neither.
string BareHex(const string text)
  {
   string bare = "";
   for(int i = 0; i < StringLen(text); i++)
     {
      ushort letter = StringGetCharacter(text, i);
      if(letter >= 65 && letter <= 70)
         letter = (ushort)(letter + 32);
      if((letter >= 48 && letter <= 57) || (letter >= 97 && letter <= 102))
         bare = bare + ShortToString(letter);
     }
   return(bare);
  }

// One connection to where the engine listens. MQL5's sockets can only dial.
class SocketStream
  {
private:
   string            m_host;
   int               m_port;
   bool              m_tls;
   string            m_thumbprint;
   int               m_socket;
   string            m_trouble;
   string            m_remedy;

   bool              Failed(const string trouble, const int error, const string remedy)
     {
      m_trouble = trouble + ", error " + IntegerToString(error);
      m_remedy = remedy;
      Close();
      return(false);
     }

   // MetaQuotes documents that port 443 is encrypted from the start, and any other only after a handshake.
   bool              Encrypt(void)
     {
      if(m_port != HTTPS_PORT && !SocketTlsHandshake(m_socket, m_host))
         return(Failed("no TLS with " + m_host, GetLastError(), "let Windows trust the engine's certificate"));
      if(StringLen(m_thumbprint) == 0)
         return(true);
      string subject = "";
      string issuer = "";
      string serial = "";
      string thumbprint = "";
      datetime expires = 0;
      if(!SocketTlsCertificate(m_socket, subject, issuer, serial, thumbprint, expires))
         return(Failed("no certificate of " + m_host, GetLastError(), ""));
      if(BareHex(thumbprint) == BareHex(m_thumbprint))
         return(true);
      return(Failed("the certificate of " + m_host + " has the fingerprint " + thumbprint, 0, "compare the input Thumbprint with the engine's certificate"));
     }

public:
                     SocketStream(void) { m_socket = INVALID_HANDLE; m_host = ""; m_port = 0; m_tls = false; m_thumbprint = ""; m_trouble = ""; m_remedy = ""; }

   // With an empty `thumbprint` every certificate is taken that the terminal takes.
   void              Dial(const string host, const int port, const bool tls, const string thumbprint)
     {
      m_host = host;
      m_port = port;
      m_tls = tls;
      m_thumbprint = thumbprint;
     }

   string            Place(void) const { return(m_host + ":" + IntegerToString(m_port)); }
   string            Trouble(void) const { return(m_trouble); }
   string            Remedy(void) const { return(m_remedy); }

   bool              Open(void)
     {
      Close();
      m_trouble = "";
      m_remedy = "";
      ResetLastError();
      m_socket = SocketCreate();
      if(m_socket == INVALID_HANDLE)
         return(Failed("no socket", GetLastError(), ""));
      if(!SocketConnect(m_socket, m_host, (uint)m_port, CARRIER_WAIT_MS))
        {
         int error = GetLastError();
         return(Failed("no connection to " + Place(), error, AddressRemedy(error, m_host)));
        }
      SocketTimeouts(m_socket, CARRIER_WAIT_MS, CARRIER_WAIT_MS);
      if(m_tls)
         return(Encrypt());
      return(true);
     }

   void              Close(void)
     {
      if(m_socket != INVALID_HANDLE)
         SocketClose(m_socket);
      m_socket = INVALID_HANDLE;
     }

   bool              IsOpen(void) const { return(m_socket != INVALID_HANDLE && SocketIsConnected(m_socket)); }

   // Sends all of it: MetaQuotes' SocketSend may take only a part. Whoever reads too slowly is given up as well.
   bool              SendAll(uchar &bytes[], const int length)
     {
      int count = length;
      long give_up = RunMs() + CARRIER_WAIT_MS;
      while(count > 0 && RunMs() <= give_up)
        {
         int sent = 0;
         if(m_tls)
            sent = SocketTlsSend(m_socket, bytes, (uint)count);
         else
            sent = SocketSend(m_socket, bytes, (uint)count);
         if(sent < 0)
            return(Failed("the engine does not read, or is gone", GetLastError(), ""));
         count -= sent;
         for(int i = 0; i < count; i++)
            bytes[i] = bytes[sent + i];
         if(sent == 0)
            Sleep(1);
        }
      if(count > 0)
         return(Failed("the engine does not read", 0, ""));
      return(true);
     }

   // Takes some of what has arrived, never waiting: how many bytes, 0 where nothing has.
   int               Take(uchar &bytes[])
     {
      if(!IsOpen())
         return(0);
      int count = 0;
      if(m_tls)
         count = SocketTlsReadAvailable(m_socket, bytes, STREAM_CHUNK);
      else
        {
         uint waiting = SocketIsReadable(m_socket);
         if(waiting == 0)
            return(0);
         count = SocketRead(m_socket, bytes, (uint)MathMin((int)waiting, STREAM_CHUNK), CARRIER_WAIT_MS);
        }
      if(count >= 0)
         return(count);
      Failed("the connection broke", GetLastError(), "");
      return(0);
     }
  };

#endif
