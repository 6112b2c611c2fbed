//+------------------------------------------------------------------+
//| Text.mqh - text, numbers and times as frames have them            |
//+------------------------------------------------------------------+
#ifndef COPIER_TEXT_MQH
#define COPIER_TEXT_MQH

#define UTF8_PAGE 65001

// What went wrong, in the terms of a frame: invalid, rejected, unavailable or unknown.
struct Failure
  {
   string            outcome;
   string            message;
   string            reason;
   int               code;
  };

bool Fail(Failure &failure, const string outcome, const string message, const string reason, const int code)
  {
   failure.outcome = outcome;
   failure.message = message;
   failure.reason = reason;
   failure.code = code;
   return(false);
  }

bool FailUnavailable(Failure &failure, const string message)
  {
   return(Fail(failure, "unavailable", message, "", 0));
  }

bool FailInvalid(Failure &failure, const string message)
  {
   return(Fail(failure, "invalid", message, "", 0));
  }

// The bytes of a text in UTF-8, without the terminating zero that StringToCharArray counts in.
int BytesOf(const string text, uchar &bytes[])
  {
   ArrayResize(bytes, 0);
   if(StringLen(text) == 0)
      return(0);
   int count = StringToCharArray(text, bytes, 0, -1, UTF8_PAGE) - 1;
   if(count < 0)
      count = 0;
   ArrayResize(bytes, count);
   return(count);
  }

string TextOf(const uchar &bytes[], const int start, const int count)
  {
   if(count <= 0)
      return("");
   return(CharArrayToString(bytes, start, count, UTF8_PAGE));
  }

string HexOf(const uchar &bytes[])
  {
   string hex = "";
   for(int i = 0; i < ArraySize(bytes); i++)
      hex = hex + StringFormat("%02x", (int)bytes[i]);
   return(hex);
  }

// Fifteen digits are all that a double keeps; what is behind them is noise of the binary form.
string NumberText(const double value)
  {
   return(StringFormat("%.15g", value));
  }

string WholeText(const long value)
  {
   return(IntegerToString(value));
  }

string TruthText(const bool value)
  {
   if(value)
      return("true");
   return("false");
  }

// A moment of the server's clock in milliseconds, written as if it were UTC.
string MomentText(const long milliseconds)
  {
   MqlDateTime parts;
   TimeToStruct((datetime)(milliseconds / 1000), parts);
   string day = StringFormat("%04d-%02d-%02d", parts.year, parts.mon, parts.day);
   string hour = StringFormat("T%02d:%02d:%02d", parts.hour, parts.min, parts.sec);
   return(day + hour + StringFormat(".%03dZ", (int)(milliseconds % 1000)));
  }

// The digits at a place of an ISO moment.
int DigitsAt(const string text, const int start, const int count)
  {
   return((int)StringToInteger(StringSubstr(text, start, count)));
  }

// Seconds of an ISO moment such as 2024-01-08T12:00:00Z, its fraction dropped; 0 where it is none.
long SecondsOf(const string moment)
  {
   if(StringLen(moment) < 19)
      return(0);
   MqlDateTime parts;
   ZeroMemory(parts);
   parts.year = DigitsAt(moment, 0, 4);
   parts.mon = DigitsAt(moment, 5, 2);
   parts.day = DigitsAt(moment, 8, 2);
   parts.hour = DigitsAt(moment, 11, 2);
   parts.min = DigitsAt(moment, 14, 2);
   parts.sec = DigitsAt(moment, 17, 2);
   if(parts.year < 1970)
      return(0);
   return((long)StructToTime(parts));
  }

bool IsDigitOrLower(const ushort letter)
  {
   return((letter >= 48 && letter <= 57) || (letter >= 97 && letter <= 122));
  }

// The client tag a comment still starts with, or nothing: mc and 6 to 14 of [0-9a-z], then a space, a bracket or the end.
string TagIn(const string comment)
  {
   if(StringFind(comment, "mc") != 0)
      return("");
   int length = 2;
   while(length < StringLen(comment) && IsDigitOrLower(StringGetCharacter(comment, length)))
      length++;
   if(length < 8 || length > 16)
      return("");
   if(length < StringLen(comment))
     {
      ushort next = StringGetCharacter(comment, length);
      if(next != 32 && next != 91)
         return("");
     }
   return(StringSubstr(comment, 0, length));
  }

// The tag first, then as much of the comment as brokers usually keep.
string CommentToSend(const string tag, const string comment, const int length_max)
  {
   string text = comment;
   if(StringLen(tag) > 0)
     {
      text = tag;
      if(StringLen(comment) > 0)
         text = tag + " " + comment;
     }
   if(StringLen(text) > length_max)
      text = StringSubstr(text, 0, length_max);
   return(text);
  }

// The ticket after a mark such as "from #", where the text ends with it; 0 where it does not.
long TicketAfter(const string comment, const string mark)
  {
   int at = StringFind(comment, mark);
   if(at < 0)
      return(0);
   string digits = StringSubstr(comment, at + StringLen(mark));
   if(StringLen(digits) == 0)
      return(0);
   for(int i = 0; i < StringLen(digits); i++)
     {
      ushort letter = StringGetCharacter(digits, i);
      if(letter < 48 || letter > 57)
         return(0);
     }
   return(StringToInteger(digits));
  }

// Without the spaces around it: StringTrimLeft and StringTrimRight differ between MQL4 and MQL5.
string Trimmed(const string text)
  {
   int start = 0;
   int end = StringLen(text);
   while(start < end && StringGetCharacter(text, start) == 32)
      start++;
   while(end > start && StringGetCharacter(text, end - 1) == 32)
      end--;
   return(StringSubstr(text, start, end - start));
  }

// A name for files: whatever might not be allowed in one becomes an underscore.
string FileNameOf(const string text)
  {
   string name = "";
   for(int i = 0; i < StringLen(text); i++)
     {
      ushort letter = StringGetCharacter(text, i);
      bool plain = IsDigitOrLower(letter) || (letter >= 65 && letter <= 90) || letter == 45 || letter == 46 || letter == 64;
      if(plain)
         name = name + StringSubstr(text, i, 1);
      else
         name = name + "_";
     }
   return(name);
  }

// The machine's UTC in milliseconds: MQL tells whole seconds only, so their edges are watched.
class UtcClock
  {
private:
   long              m_second;
   ulong             m_edge;

public:
                     UtcClock(void) { m_second = 0; m_edge = 0; }

   long              NowMs(void)
     {
      long second = (long)TimeGMT();
      ulong ticks = GetMicrosecondCount() / 1000;
      if(second != m_second)
        {
         m_second = second;
         m_edge = ticks;
        }
      long since = (long)(ticks - m_edge);
      if(since > 999)
         since = 999;
      return(second * 1000 + since);
     }
  };

UtcClock utc_clock;

// Milliseconds that only grow; their zero is of no account.
long RunMs(void)
  {
   return((long)(GetMicrosecondCount() / 1000));
  }

#endif
