//+------------------------------------------------------------------+
//| Memory.mqh - what outlives the Expert Advisor: owners and orders  |
//+------------------------------------------------------------------+
#ifndef COPIER_MEMORY_MQH
#define COPIER_MEMORY_MQH

#include "Json.mqh"

#define MEMORY_FOLDER "MtCopier"
#define COMMANDS_KEPT 500

// Reads a whole file of the folder all terminals share; false where there is none, or it cannot be read.
bool ReadShared(const string name, string &text)
  {
   text = "";
   int file = FileOpen(name, FILE_READ | FILE_BIN | FILE_COMMON | FILE_SHARE_READ | FILE_SHARE_WRITE);
   if(file == INVALID_HANDLE)
      return(false);
   int size = (int)FileSize(file);
   uchar bytes[];
   int count = 0;
   if(size > 0)
      count = (int)FileReadArray(file, bytes, 0, size);
   FileClose(file);
   if(count != size)
      return(false);
   text = TextOf(bytes, 0, count);
   return(true);
  }

// Writes a file whole: to a name of its own first, so that nobody ever reads half of it.
bool WriteShared(const string name, const string text)
  {
   string working = name + ".tmp";
   uchar bytes[];
   int count = BytesOf(text, bytes);
   int file = FileOpen(working, FILE_WRITE | FILE_BIN | FILE_COMMON);
   if(file == INVALID_HANDLE)
      return(false);
   int written = 0;
   if(count > 0)
      written = (int)FileWriteArray(file, bytes, 0, count);
   FileFlush(file);
   FileClose(file);
   if(written != count)
     {
      FileDelete(working, FILE_COMMON);
      return(false);
     }
   return(FileMove(working, FILE_COMMON, name, FILE_COMMON | FILE_REWRITE));
  }

// How large a file of the folder all terminals share is; 0 where there is none.
long SharedSize(const string name)
  {
   int file = FileOpen(name, FILE_READ | FILE_BIN | FILE_COMMON | FILE_SHARE_READ | FILE_SHARE_WRITE);
   if(file == INVALID_HANDLE)
      return(0);
   long size = (long)FileSize(file);
   FileClose(file);
   return(size);
  }

bool AppendShared(const string name, const string text)
  {
   uchar bytes[];
   int count = BytesOf(text, bytes);
   int file = FileOpen(name, FILE_READ | FILE_WRITE | FILE_BIN | FILE_COMMON | FILE_SHARE_READ);
   if(file == INVALID_HANDLE)
      return(false);
   FileSeek(file, 0, SEEK_END);
   int written = (int)FileWriteArray(file, bytes, 0, count);
   FileFlush(file);
   FileClose(file);
   return(written == count);
  }

// The highest token of an owner this account has seen, and the trading commands it was given, with their answers.
// Both stand in files: a restarted Expert Advisor, or one in another terminal, knows them too.
class Memory
  {
private:
   string            m_folder;
   string            m_commands[];
   string            m_answers[];
   int               m_lines;

   int               Find(const string command) const
     {
      for(int i = ArraySize(m_commands) - 1; i >= 0; i--)
         if(m_commands[i] == command)
            return(i);
      return(-1);
     }

   void              Keep(const string command, const string answer)
     {
      int at = Find(command);
      if(at >= 0)
        {
         m_answers[at] = answer;
         return;
        }
      int count = ArraySize(m_commands);
      if(count >= COMMANDS_KEPT)
        {
         for(int i = 1; i < count; i++)
           {
            m_commands[i - 1] = m_commands[i];
            m_answers[i - 1] = m_answers[i];
           }
         count--;
        }
      ArrayResize(m_commands, count + 1);
      ArrayResize(m_answers, count + 1);
      m_commands[count] = command;
      m_answers[count] = answer;
     }

   string            Line(const string command, const string answer) const
     {
      string line = "";
      PutText(line, "command", command);
      PutText(line, "answer", answer);
      return(Closed(line) + "\n");
     }

   bool              Rewrite(void)
     {
      string text = "";
      for(int i = 0; i < ArraySize(m_commands); i++)
         text += Line(m_commands[i], m_answers[i]);
      m_lines = ArraySize(m_commands);
      return(WriteShared(m_folder + "\\commands.log", text));
     }

public:
                     Memory(void) { m_folder = ""; m_lines = 0; }

   string            Folder(void) const { return(m_folder); }

   // Recalls what is known of an account; a line that was cut off by a power failure is left out.
   void              Recall(const string account)
     {
      m_folder = MEMORY_FOLDER + "\\" + FileNameOf(account);
      ArrayResize(m_commands, 0);
      ArrayResize(m_answers, 0);
      string text = "";
      if(!ReadShared(m_folder + "\\commands.log", text))
        {
         m_lines = 0;
         return;
        }
      int start = 0;
      JsonReader reader;
      while(start < StringLen(text))
        {
         int end = StringFind(text, "\n", start);
         if(end < 0)
            end = StringLen(text);
         if(reader.Read(StringSubstr(text, start, end - start)))
            Keep(reader.Text("command"), reader.Text("answer"));
         start = end + 1;
        }
      Rewrite();
     }

   // True where a command was seen before; its answer is empty where nobody knows how it ended.
   bool              Knows(const string command, string &answer) const
     {
      answer = "";
      int at = Find(command);
      if(at < 0)
         return(false);
      answer = m_answers[at];
      return(true);
     }

   // Remembers a command, before it is executed with an empty answer; false where that cannot be written down.
   bool              Remember(const string command, const string answer)
     {
      Keep(command, answer);
      m_lines++;
      if(m_lines > COMMANDS_KEPT * 4)
         return(Rewrite());
      return(AppendShared(m_folder + "\\commands.log", Line(command, answer)));
     }

   // Lets an owner pass and remembers its token; false where a higher one was seen.
   bool              Admit(const long token, Failure &failure)
     {
      string text = "";
      long seen = 0;
      string name = m_folder + "\\token";
      if(ReadShared(name, text))
         seen = StringToInteger(text);
      else if(FileIsExist(name, FILE_COMMON))
         return(FailUnavailable(failure, "the owners' token cannot be read; nothing was sent"));
      if(token < seen)
        {
         string message = "Token " + WholeText(token) + " is older than " + WholeText(seen) + ": another owner has taken over";
         return(Fail(failure, "rejected", message, "stale_token", 0));
        }
      if(token > seen && !WriteShared(name, WholeText(token)))
         return(FailUnavailable(failure, "the owners' token cannot be written down; nothing was sent"));
      return(true);
     }
  };

#endif
