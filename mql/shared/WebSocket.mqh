//+------------------------------------------------------------------+
//| WebSocket.mqh - RFC 6455 as a client: upgrade, frames, masks       |
//+------------------------------------------------------------------+
#ifndef COPIER_WEBSOCKET_MQH
#define COPIER_WEBSOCKET_MQH

#include "Digest.mqh"
#include "Frames.mqh"

#define WEBSOCKET_GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#define WEBSOCKET_CONTINUED 0
#define WEBSOCKET_TEXT 1
#define WEBSOCKET_CLOSE 8
#define WEBSOCKET_PING 9
#define WEBSOCKET_PONG 10
#define HEAD_BYTES_MAX 8192
#define CONTROL_BYTES_MAX 125

string Base64Of(const uchar &bytes[])
  {
   uchar key[];
   uchar text[];
   ArrayResize(key, 0);
   int count = CryptEncode(CRYPT_BASE64, bytes, key, text);
   return(TextOf(text, 0, count));
  }

// The value of a hexadecimal digit.
int HexDigit(const ushort letter)
  {
   if(letter >= 97)
      return((int)letter - 87);
   return((int)letter - 48);
  }

// The 16 bytes of a life of 32 hexadecimal digits, as a WebSocket's key: new with every connection.
string KeyOf(const string life)
  {
   uchar bytes[];
   if(StringLen(life) != 32)
      return("");
   ArrayResize(bytes, 16);
   for(int i = 0; i < 16; i++)
      bytes[i] = (uchar)(HexDigit(StringGetCharacter(life, 2 * i)) * 16 + HexDigit(StringGetCharacter(life, 2 * i + 1)));
   return(Base64Of(bytes));
  }

// What a server that understands WebSockets answers to a key.
string AcceptOf(const string key)
  {
   uchar none[];
   uchar bytes[];
   uchar digest[];
   ArrayResize(none, 0);
   BytesOf(key + WEBSOCKET_GUID, bytes);
   if(CryptEncode(CRYPT_HASH_SHA1, bytes, none, digest) != 20)
      return("");
   return(Base64Of(digest));
  }

string UpgradeText(const string place, const string path, const string key)
  {
   string text = "GET " + path + " HTTP/1.1\r\nHost: " + place + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
   return(text + "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + "\r\n\r\n");
  }

bool IsUpgrade(const string head, const string accept)
  {
   if(StringFind(head, "HTTP/1.1 101") != 0 || StringLen(accept) == 0)
      return(false);
   string lower = head;
   StringToLower(lower);
   int at = StringFind(lower, "\r\nsec-websocket-accept:");
   if(at < 0)
      return(false);
   int end = StringFind(head, "\r\n", at + 2);
   return(Trimmed(StringSubstr(head, at + 23, end - at - 23)) == accept);
  }

// One frame from the client: always whole, always masked.
void WrapMessage(const int kind, const uchar &payload[], uchar &bytes[])
  {
   int count = ArraySize(payload);
   int head = 2;
   if(count > 65535)
      head = 10;
   else if(count > CONTROL_BYTES_MAX)
      head = 4;
   ArrayResize(bytes, head + 4 + count);
   bytes[0] = (uchar)(128 + kind);
   bytes[1] = (uchar)(128 + count);
   if(head == 4)
      bytes[1] = 254;
   if(head == 10)
      bytes[1] = 255;
   for(int i = 2; i < head; i++)
     {
      int places = 8 * (head - 1 - i);
      bytes[i] = (uchar)(((long)count >> places) & 255);
     }
   for(int i = 0; i < 4; i++)
      bytes[head + i] = (uchar)(MathRand() & 255);
   for(int i = 0; i < count; i++)
      bytes[head + 4 + i] = (uchar)(payload[i] ^ bytes[head + (i & 3)]);
  }

// Takes a server's bytes apart: messages become lines, pings become pongs to send, what breaks a rule or a bound ends it.
class WebSocketReader
  {
private:
   uchar             m_bytes[];
   int               m_start;
   int               m_count;
   uchar             m_message[];
   bool              m_begun;
   bool              m_ended;
   string            m_trouble;

   int               At(const int place) const { return((int)m_bytes[m_start + place]); }

   bool              Stop(const string trouble)
     {
      m_ended = true;
      m_trouble = trouble;
      return(false);
     }

   // The length of what follows a frame's head, and of the head; false where the head is not whole or not allowed.
   bool              ReadHead(int &head, int &length)
     {
      int waiting = m_count - m_start;
      if(waiting < 2)
         return(false);
      if((At(0) & 112) != 0 || At(1) >= 128)
         return(Stop("a WebSocket frame of the engine breaks RFC 6455"));
      head = 2;
      length = At(1);
      if(length == 126)
         head = 4;
      if(length == 127)
         head = 10;
      if(waiting < head)
         return(false);
      if(head > 2)
        {
         long size = 0;
         for(int i = 2; i < head; i++)
           {
            size = size * 256 + At(i);
            if(size > FRAME_BYTES_MAX)
               return(Stop("a WebSocket frame was too long"));
           }
         length = (int)size;
        }
      return(waiting >= head + length);
     }

   void              Append(const int head, const int length)
     {
      int held = ArraySize(m_message);
      ArrayResize(m_message, held + length);
      for(int i = 0; i < length; i++)
         m_message[held + i] = m_bytes[m_start + head + i];
     }

   bool              HearControl(const int kind, const int head, const int length, uchar &reply[])
     {
      if(At(0) < 128 || length > CONTROL_BYTES_MAX)
         return(Stop("a WebSocket control frame of the engine breaks RFC 6455"));
      uchar payload[];
      ArrayResize(payload, length);
      for(int i = 0; i < length; i++)
         payload[i] = m_bytes[m_start + head + i];
      if(kind == WEBSOCKET_PING)
         WrapMessage(WEBSOCKET_PONG, payload, reply);
      else if(kind == WEBSOCKET_CLOSE)
        {
         WrapMessage(WEBSOCKET_CLOSE, payload, reply);
         m_ended = true;
         m_trouble = "the engine closed the WebSocket";
        }
      else if(kind != WEBSOCKET_PONG)
         return(Stop("a WebSocket frame of an unknown kind"));
      return(true);
     }

   bool              HearData(const int kind, const int head, const int length, LineBuffer &lines)
     {
      if(kind > 2 || (kind == WEBSOCKET_CONTINUED) != m_begun)
         return(Stop("a WebSocket message of the engine breaks RFC 6455"));
      if(!m_begun)
         ArrayResize(m_message, 0);
      if(ArraySize(m_message) + length > FRAME_BYTES_MAX)
         return(Stop("a WebSocket message was too long"));
      Append(head, length);
      m_begun = At(0) < 128;
      if(m_begun)
         return(true);
      int count = ArraySize(m_message);
      ArrayResize(m_message, count + 1);
      m_message[count] = 10;
      lines.Add(m_message, count + 1);
      return(true);
     }

public:
                     WebSocketReader(void) { Clear(); }

   void              Clear(void)
     {
      ArrayResize(m_bytes, 0);
      ArrayResize(m_message, 0);
      m_start = 0;
      m_count = 0;
      m_begun = false;
      m_ended = false;
      m_trouble = "";
     }

   bool              Ended(void) const { return(m_ended); }
   string            Trouble(void) const { return(m_trouble); }

   void              Add(const uchar &bytes[], const int count)
     {
      if(m_start > 0)
        {
         for(int i = m_start; i < m_count; i++)
            m_bytes[i - m_start] = m_bytes[i];
         m_count -= m_start;
         m_start = 0;
        }
      if(ArraySize(m_bytes) < m_count + count)
         ArrayResize(m_bytes, m_count + count + 4096);
      for(int i = 0; i < count; i++)
         m_bytes[m_count + i] = bytes[i];
      m_count += count;
     }

   // True once the answer to the upgrade is whole, or longer than anyone may send.
   bool              HeadIsWhole(void) const
     {
      if(m_count > HEAD_BYTES_MAX)
         return(true);
      for(int i = 3; i < m_count; i++)
         if(m_bytes[i] == 10 && m_bytes[i - 1] == 13 && m_bytes[i - 2] == 10 && m_bytes[i - 3] == 13)
            return(true);
      return(false);
     }

   string            TakeHead(void)
     {
      int end = (int)MathMin(m_count, HEAD_BYTES_MAX);
      for(int i = 3; i < end; i++)
         if(m_bytes[i] == 10 && m_bytes[i - 1] == 13 && m_bytes[i - 2] == 10 && m_bytes[i - 3] == 13)
            end = i + 1;
      m_start = end;
      return(TextOf(m_bytes, 0, end));
     }

   // Takes the next frame: a whole message goes to the lines, an answer that is owed to `reply`; false where none is whole.
   bool              Next(LineBuffer &lines, uchar &reply[])
     {
      ArrayResize(reply, 0);
      int head = 0;
      int length = 0;
      if(m_ended || !ReadHead(head, length))
         return(false);
      int kind = At(0) & 15;
      bool heard = false;
      if(kind >= WEBSOCKET_CLOSE)
         heard = HearControl(kind, head, length, reply);
      else
         heard = HearData(kind, head, length, lines);
      m_start += head + length;
      return(heard);
     }
  };

#endif
