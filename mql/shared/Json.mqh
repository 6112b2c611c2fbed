//+------------------------------------------------------------------+
//| Json.mqh - one frame read into paths, and the pieces to write one |
//+------------------------------------------------------------------+
#ifndef COPIER_JSON_MQH
#define COPIER_JSON_MQH

#include "Text.mqh"

#define JSON_DEPTH_MAX 8

// A value's kind.
#define JSON_NULL 0
#define JSON_TRUTH 1
#define JSON_NUMBER 2
#define JSON_TEXT 3
#define JSON_BRANCH 4

// A text as JSON writes it.
string Quoted(const string text)
  {
   string quoted = "\"";
   int start = 0;
   int length = StringLen(text);
   for(int i = 0; i < length; i++)
     {
      ushort letter = StringGetCharacter(text, i);
      if(letter >= 32 && letter != 34 && letter != 92)
         continue;
      if(i > start)
         quoted = quoted + StringSubstr(text, start, i - start);
      if(letter == 34 || letter == 92)
         quoted = quoted + "\\" + StringSubstr(text, i, 1);
      else
         quoted = quoted + StringFormat("\\u%04x", (int)letter);
      start = i + 1;
     }
   if(start < length)
      quoted = quoted + StringSubstr(text, start);
   return(quoted + "\"");
  }

// Adds one member, its value already in JSON, to an object that is still open.
void Put(string &object, const string name, const string value)
  {
   if(StringLen(object) == 0)
      object = "{";
   else
      object = object + ",";
   object = object + "\"" + name + "\":" + value;
  }

void PutText(string &object, const string name, const string value)
  {
   Put(object, name, Quoted(value));
  }

void PutNumber(string &object, const string name, const double value)
  {
   Put(object, name, NumberText(value));
  }

void PutWhole(string &object, const string name, const long value)
  {
   Put(object, name, WholeText(value));
  }

void PutTruth(string &object, const string name, const bool value)
  {
   Put(object, name, TruthText(value));
  }

string Closed(const string object)
  {
   if(StringLen(object) == 0)
      return("{}");
   return(object + "}");
  }

// One JSON value, taken apart: every leaf and branch under its path, such as params.symbol.
class JsonReader
  {
private:
   string            m_text;
   int               m_at;
   int               m_length;
   string            m_paths[];
   string            m_values[];
   int               m_kinds[];

   void              Keep(const string path, const string value, const int kind)
     {
      int count = ArraySize(m_paths);
      ArrayResize(m_paths, count + 1);
      ArrayResize(m_values, count + 1);
      ArrayResize(m_kinds, count + 1);
      m_paths[count] = path;
      m_values[count] = value;
      m_kinds[count] = kind;
     }

   ushort            Here(void)
     {
      if(m_at >= m_length)
         return(0);
      return(StringGetCharacter(m_text, m_at));
     }

   void              SkipSpace(void)
     {
      while(m_at < m_length)
        {
         ushort letter = StringGetCharacter(m_text, m_at);
         if(letter != 32 && letter != 9 && letter != 10 && letter != 13)
            return;
         m_at++;
        }
     }

   int               HexDigit(const ushort letter)
     {
      if(letter >= 48 && letter <= 57)
         return((int)letter - 48);
      if(letter >= 97 && letter <= 102)
         return((int)letter - 87);
      if(letter >= 65 && letter <= 70)
         return((int)letter - 55);
      return(-1);
     }

   bool              ReadEscape(string &value)
     {
      ushort letter = Here();
      m_at++;
      if(letter == 34 || letter == 92 || letter == 47)
         value = value + ShortToString(letter);
      else if(letter == 110)
         value = value + ShortToString(10);
      else if(letter == 116)
         value = value + ShortToString(9);
      else if(letter == 114)
         value = value + ShortToString(13);
      else if(letter == 98)
         value = value + ShortToString(8);
      else if(letter == 102)
         value = value + ShortToString(12);
      else if(letter == 117)
        {
         int code = 0;
         for(int i = 0; i < 4; i++)
           {
            int digit = HexDigit(Here());
            if(digit < 0)
               return(false);
            code = code * 16 + digit;
            m_at++;
           }
         value = value + ShortToString((ushort)code);
        }
      else
         return(false);
      return(true);
     }

   bool              ReadText(string &value)
     {
      value = "";
      m_at++;
      int start = m_at;
      while(m_at < m_length)
        {
         ushort letter = StringGetCharacter(m_text, m_at);
         if(letter == 34)
           {
            if(m_at > start)
               value = value + StringSubstr(m_text, start, m_at - start);
            m_at++;
            return(true);
           }
         if(letter < 32)
            return(false);
         if(letter == 92)
           {
            if(m_at > start)
               value = value + StringSubstr(m_text, start, m_at - start);
            m_at++;
            if(!ReadEscape(value))
               return(false);
            start = m_at;
           }
         else
            m_at++;
        }
      return(false);
     }

   bool              ReadWord(const string word, const string path, const int kind)
     {
      if(StringSubstr(m_text, m_at, StringLen(word)) != word)
         return(false);
      m_at += StringLen(word);
      Keep(path, word, kind);
      return(true);
     }

   bool              ReadNumber(const string path)
     {
      int start = m_at;
      int digits = 0;
      while(m_at < m_length)
        {
         ushort letter = StringGetCharacter(m_text, m_at);
         bool digit = letter >= 48 && letter <= 57;
         if(!digit && letter != 43 && letter != 45 && letter != 46 && letter != 69 && letter != 101)
            break;
         if(digit)
            digits++;
         m_at++;
        }
      if(digits == 0)
         return(false);
      Keep(path, StringSubstr(m_text, start, m_at - start), JSON_NUMBER);
      return(true);
     }

   bool              ReadMembers(const string path, const int depth, const ushort last)
     {
      int count = 0;
      m_at++;
      SkipSpace();
      if(Here() == last)
        {
         m_at++;
         return(true);
        }
      while(true)
        {
         string name = IntegerToString(count);
         SkipSpace();
         if(last == 125)
           {
            if(Here() != 34 || !ReadText(name))
               return(false);
            SkipSpace();
            if(Here() != 58)
               return(false);
            m_at++;
           }
         string below = name;
         if(StringLen(path) > 0)
            below = path + "." + name;
         if(!ReadValue(below, depth + 1))
            return(false);
         count++;
         SkipSpace();
         ushort letter = Here();
         m_at++;
         if(letter == last)
            return(true);
         if(letter != 44)
            return(false);
        }
      return(false);
     }

   bool              ReadValue(const string path, const int depth)
     {
      if(depth > JSON_DEPTH_MAX)
         return(false);
      SkipSpace();
      ushort letter = Here();
      if(letter == 123 || letter == 91)
        {
         Keep(path, "", JSON_BRANCH);
         return(ReadMembers(path, depth, (ushort)(letter + 2)));
        }
      if(letter == 34)
        {
         string value = "";
         if(!ReadText(value))
            return(false);
         Keep(path, value, JSON_TEXT);
         return(true);
        }
      if(letter == 116)
         return(ReadWord("true", path, JSON_TRUTH));
      if(letter == 102)
         return(ReadWord("false", path, JSON_TRUTH));
      if(letter == 110)
         return(ReadWord("null", path, JSON_NULL));
      return(ReadNumber(path));
     }

   int               Find(const string path) const
     {
      for(int i = ArraySize(m_paths) - 1; i >= 0; i--)
         if(m_paths[i] == path)
            return(i);
      return(-1);
     }

public:
   // Takes a text apart; false where it is no JSON object.
   bool              Read(const string text)
     {
      m_text = text;
      m_at = 0;
      m_length = StringLen(text);
      ArrayResize(m_paths, 0);
      ArrayResize(m_values, 0);
      ArrayResize(m_kinds, 0);
      SkipSpace();
      if(Here() != 123 || !ReadValue("", 0))
         return(false);
      SkipSpace();
      return(m_at >= m_length);
     }

   // True where a value other than null stands under the path.
   bool              Has(const string path) const
     {
      int i = Find(path);
      return(i >= 0 && m_kinds[i] != JSON_NULL);
     }

   bool              IsKind(const string path, const int kind) const
     {
      int i = Find(path);
      return(i >= 0 && m_kinds[i] == kind);
     }

   string            Text(const string path) const
     {
      int i = Find(path);
      if(i < 0 || m_kinds[i] != JSON_TEXT)
         return("");
      return(m_values[i]);
     }

   long              Whole(const string path) const
     {
      int i = Find(path);
      if(i < 0 || m_kinds[i] != JSON_NUMBER)
         return(0);
      return(StringToInteger(m_values[i]));
     }

   double            Number(const string path) const
     {
      int i = Find(path);
      if(i < 0 || m_kinds[i] != JSON_NUMBER)
         return(0.0);
      return(StringToDouble(m_values[i]));
     }

   bool              Truth(const string path) const
     {
      int i = Find(path);
      return(i >= 0 && m_kinds[i] == JSON_TRUTH && m_values[i] == "true");
     }
  };

#endif
