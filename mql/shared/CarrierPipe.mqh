//+------------------------------------------------------------------+
//| CarrierPipe.mqh - frames over a named pipe, opened as a file      |
//+------------------------------------------------------------------+
#ifndef COPIER_CARRIER_PIPE_MQH
#define COPIER_CARRIER_PIPE_MQH

#include "Carrier.mqh"

#define PIPE_CHUNK 65536
#define PIPE_WINDOW 32768
#define PIPE_PIECE 16384
#define PIPE_ASK_AFTER 8192
#define BYTE_HAVE_YOU_READ 5
#define BYTE_I_HAVE_READ 6

// MQL programs can open a pipe without a DLL, as a client only. Nothing is read that has not arrived: a read of more than
// waits without end. Confirmed for MetaTrader 5 by MetaQuotes' article on pipes; for MetaTrader 4 by nobody yet.
//
// A write to a pipe that is full waits until the other end reads, for ever where that hangs, and nothing in MQL bounds it. So
// no more is written than fits while the other end has not said that it read on: it is asked by one byte and says so by
// another, neither of which is ever part of JSON.
class PipeCarrier : public FrameCarrier
  {
private:
   string            m_path;
   int               m_file;
   bool              m_asked;
   int               m_before;
   int               m_since;
   uchar             m_come[];
   int               m_come_count;

   bool              Lost(const string what)
     {
      int error = GetLastError();
      Close();
      return(Broken(what + ", error " + IntegerToString(error), ""));
     }

   // Takes what has arrived: the other end's word that it has read what came before it was asked, and the rest for later.
   // The size of a pipe is what waits in it; asking a broken one for it is an error.
   void              Take(void)
     {
      uchar bytes[];
      while(m_file != INVALID_HANDLE)
        {
         ResetLastError();
         int waiting = (int)FileSize(m_file);
         if(GetLastError() != 0 || waiting < 0)
           {
            Lost("the engine closed the pipe");
            return;
           }
         if(waiting == 0)
            return;
         int count = (int)FileReadArray(m_file, bytes, 0, (int)MathMin(waiting, PIPE_CHUNK));
         if(count <= 0)
           {
            Lost("the pipe broke");
            return;
           }
         Keep(bytes, count);
        }
     }

   void              Keep(const uchar &bytes[], const int count)
     {
      if(ArraySize(m_come) < m_come_count + count)
         ArrayResize(m_come, m_come_count + count + PIPE_CHUNK);
      for(int i = 0; i < count; i++)
        {
         if(bytes[i] != BYTE_I_HAVE_READ)
           {
            m_come[m_come_count] = bytes[i];
            m_come_count++;
            continue;
           }
         m_asked = false;
         m_before = 0;
        }
     }

   // Writes some bytes, `asking` with the question behind them.
   // MetaQuotes documents that a write must be flushed, and the position set back, before the next read.
   bool              Write(const uchar &bytes[], const int start, const int length, const bool asking)
     {
      uchar piece[];
      int count = length;
      ArrayResize(piece, length + 1);
      for(int i = 0; i < length; i++)
         piece[i] = bytes[start + i];
      if(asking)
        {
         piece[count] = BYTE_HAVE_YOU_READ;
         count++;
        }
      ResetLastError();
      uint written = FileWriteArray(m_file, piece, 0, count);
      FileFlush(m_file);
      FileSeek(m_file, 0, SEEK_SET);
      if(written != (uint)count)
         return(Lost("the pipe broke"));
      m_since += length;
      if(asking)
        {
         m_asked = true;
         m_before = m_since;
         m_since = 0;
        }
      return(true);
     }

   bool              HasRoom(const int length) const { return(m_before + m_since + length <= PIPE_WINDOW); }

   // Waits until the other end has read enough for so much more; false where it has not in time.
   bool              WaitForRoom(const int length, const long give_up)
     {
      uchar none[];
      while(m_file != INVALID_HANDLE)
        {
         Take();
         if(HasRoom(length))
            return(m_file != INVALID_HANDLE);
         if(!m_asked && !Write(none, 0, 0, true))
            return(false);
         if(RunMs() > give_up || IsStopped())
           {
            Close();
            return(Broken("the engine does not read", ""));
           }
         Sleep(1);
        }
      return(false);
     }

public:
                     PipeCarrier(void) { m_file = INVALID_HANDLE; m_path = ""; m_asked = false; m_before = 0; m_since = 0; m_come_count = 0; }

   // Sets the name behind \\.\pipe\ that the engine's settings have too.
   void              Dial(const string name)
     {
      m_path = "\\\\.\\pipe\\" + name;
     }

   virtual string    Name(void) const { return("pipe " + m_path); }

   virtual bool      Open(const string account, const string life)
     {
      Close();
      m_asked = false;
      m_before = 0;
      m_since = 0;
      m_come_count = 0;
      ResetLastError();
      m_file = FileOpen(m_path, FILE_READ | FILE_WRITE | FILE_BIN);
      if(m_file != INVALID_HANDLE)
         return(true);
      return(Lost("no pipe " + m_path));
     }

   virtual void      Close(void)
     {
      if(m_file != INVALID_HANDLE)
         FileClose(m_file);
      m_file = INVALID_HANDLE;
     }

   virtual bool      Send(const string frame)
     {
      uchar bytes[];
      int count = BytesOf(frame + "\n", bytes);
      long give_up = RunMs() + CARRIER_WAIT_MS;
      if(m_file == INVALID_HANDLE)
         return(Broken("the pipe is closed", ""));
      for(int start = 0; start < count; start += PIPE_PIECE)
        {
         int length = (int)MathMin(count - start, PIPE_PIECE);
         if(!HasRoom(length) && !WaitForRoom(length, give_up))
            return(false);
         if(!Write(bytes, start, length, !m_asked && m_since + length >= PIPE_ASK_AFTER))
            return(false);
        }
      return(true);
     }

   virtual void      Receive(LineBuffer &lines)
     {
      Take();
      if(m_come_count > 0)
         lines.Add(m_come, m_come_count);
      m_come_count = 0;
     }

   virtual bool      IsOpen(void) const { return(m_file != INVALID_HANDLE); }
  };

#endif
