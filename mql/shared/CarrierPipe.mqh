//+------------------------------------------------------------------+
//| CarrierPipe.mqh - frames over a named pipe, opened as a file      |
//+------------------------------------------------------------------+
#ifndef COPIER_CARRIER_PIPE_MQH
#define COPIER_CARRIER_PIPE_MQH

#include "Carrier.mqh"

#define PIPE_CHUNK 65536

// MQL programs can open a pipe without a DLL, as a client only. Nothing is read that has not arrived: a read of more than
// waits without end. Confirmed for MetaTrader 5 by MetaQuotes' article on pipes; for MetaTrader 4 by nobody yet.
class PipeCarrier : public FrameCarrier
  {
private:
   string            m_path;
   int               m_file;

   bool              Lost(const string what)
     {
      int error = GetLastError();
      Close();
      return(Broken(what + ", error " + IntegerToString(error), ""));
     }

public:
                     PipeCarrier(void) { m_file = INVALID_HANDLE; m_path = ""; }

   // Sets the name behind \\.\pipe\ that the engine's settings have too.
   void              Dial(const string name)
     {
      m_path = "\\\\.\\pipe\\" + name;
     }

   virtual string    Name(void) const { return("pipe " + m_path); }

   virtual bool      Open(const string account, const string life)
     {
      Close();
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
      if(m_file == INVALID_HANDLE)
         return(Broken("the pipe is closed", ""));
      uchar bytes[];
      int count = BytesOf(frame + "\n", bytes);
      ResetLastError();
      // MetaQuotes documents that a write must be flushed, and the position set back, before the next read.
      uint written = FileWriteArray(m_file, bytes, 0, count);
      FileFlush(m_file);
      FileSeek(m_file, 0, SEEK_SET);
      if(written == (uint)count)
         return(true);
      return(Lost("the pipe broke"));
     }

   // The size of a pipe is what waits in it; asking a broken one for it is an error.
   virtual void      Receive(LineBuffer &lines)
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
         lines.Add(bytes, count);
        }
     }

   virtual bool      IsOpen(void) const { return(m_file != INVALID_HANDLE); }
  };

#endif
