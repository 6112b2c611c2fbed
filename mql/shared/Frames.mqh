//+------------------------------------------------------------------+
//| Frames.mqh - bytes as they arrive -> whole lines                  |
//+------------------------------------------------------------------+
#ifndef COPIER_FRAMES_MQH
#define COPIER_FRAMES_MQH

#include "Text.mqh"

#define FRAME_BYTES_MAX 4000000

// Collects bytes until a line is whole; a UTF-8 character is never cut, as lines are found before they become text.
class LineBuffer
  {
private:
   uchar             m_bytes[];
   int               m_start;
   int               m_count;
   int               m_looked;
   bool              m_overrun;

public:
                     LineBuffer(void) { Clear(); }

   void              Clear(void)
     {
      ArrayResize(m_bytes, 0);
      m_start = 0;
      m_count = 0;
      m_looked = 0;
      m_overrun = false;
     }

   void              Add(const uchar &bytes[], const int count)
     {
      if(m_start > 0)
        {
         for(int i = m_start; i < m_count; i++)
            m_bytes[i - m_start] = m_bytes[i];
         m_count -= m_start;
         m_looked -= m_start;
         m_start = 0;
        }
      if(ArraySize(m_bytes) < m_count + count)
         ArrayResize(m_bytes, m_count + count + 4096);
      for(int i = 0; i < count; i++)
         m_bytes[m_count + i] = bytes[i];
      m_count += count;
     }

   // Takes the next whole line, without its end; false where none is whole yet.
   bool              Next(string &line)
     {
      for(int i = m_looked; i < m_count; i++)
        {
         if(m_bytes[i] != 10)
            continue;
         int length = i - m_start;
         if(length > FRAME_BYTES_MAX)
           {
            m_overrun = true;
            return(false);
           }
         if(length > 0 && m_bytes[i - 1] == 13)
            length--;
         line = TextOf(m_bytes, m_start, length);
         m_start = i + 1;
         m_looked = m_start;
         return(true);
        }
      m_looked = m_count;
      if(m_count - m_start > FRAME_BYTES_MAX)
         m_overrun = true;
      return(false);
     }

   // True once a line grew beyond what anyone may send.
   bool              Overrun(void) const { return(m_overrun); }
  };

#endif
