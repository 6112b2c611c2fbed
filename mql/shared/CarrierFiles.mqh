//+------------------------------------------------------------------+
//| CarrierFiles.mqh - frames as files in the folder of all terminals |
//+------------------------------------------------------------------+
#ifndef COPIER_CARRIER_FILES_MQH
#define COPIER_CARRIER_FILES_MQH

#include "Carrier.mqh"
#include "Memory.mqh"

#define NAMES_MAX 1000
#define UNREAD_MAX 256

// One frame is one file: written under another name, then moved, and deleted by whoever has read it. Names begin with the
// life of the link and count up, so that what an earlier life left behind is never taken for this one's.
class FilesCarrier : public FrameCarrier
  {
private:
   string            m_folder;
   string            m_life;
   long              m_sent;
   long              m_taken;
   bool              m_open;

   string            NameOf(const string way, const long number) const
     {
      return(m_folder + "\\" + way + "\\" + m_life + "-" + StringFormat("%012I64d", number) + ".json");
     }

   void              Clear(const string way)
     {
      string names[];
      int count = 0;
      string name = "";
      long search = FileFindFirst(m_folder + "\\" + way + "\\*.json", name, FILE_COMMON);
      if(search == INVALID_HANDLE)
         return;
      ArrayResize(names, NAMES_MAX);
      bool more = true;
      while(more && count < NAMES_MAX)
        {
         names[count] = name;
         count++;
         more = FileFindNext(search, name);
        }
      FileFindClose(search);
      for(int i = 0; i < count; i++)
         FileDelete(m_folder + "\\" + way + "\\" + names[i], FILE_COMMON);
     }

public:
                     FilesCarrier(void) { m_open = false; m_sent = 0; m_taken = 0; }

   virtual string    Name(void) const { return("files in " + m_folder); }

   virtual bool      Open(const string account, const string life)
     {
      m_folder = MEMORY_FOLDER + "\\" + FileNameOf(account);
      m_life = life;
      m_sent = 0;
      m_taken = 0;
      Clear("to-terminal");
      Clear("to-engine");
      m_open = true;
      return(true);
     }

   virtual void      Close(void)
     {
      m_open = false;
     }

   virtual bool      Send(const string frame)
     {
      if(m_sent >= UNREAD_MAX && FileIsExist(NameOf("to-engine", m_sent - UNREAD_MAX + 1), FILE_COMMON))
         return(Broken("the engine has left " + IntegerToString(UNREAD_MAX) + " files unread", ""));
      m_sent++;
      if(m_open && WriteShared(NameOf("to-engine", m_sent), frame))
         return(true);
      return(Broken("no file can be written to " + m_folder + ", error " + IntegerToString(GetLastError()), ""));
     }

   // Takes the files that have arrived, in their order; one that cannot be read yet is tried again.
   virtual void      Receive(LineBuffer &lines)
     {
      uchar bytes[];
      string text = "";
      for(int i = 0; m_open && i < NAMES_MAX; i++)
        {
         string name = NameOf("to-terminal", m_taken + 1);
         if(!FileIsExist(name, FILE_COMMON) || !ReadShared(name, text))
            break;
         m_taken++;
         FileDelete(name, FILE_COMMON);
         int count = BytesOf(text + "\n", bytes);
         lines.Add(bytes, count);
        }
     }

   virtual bool      IsOpen(void) const { return(m_open); }

   // A frame is a file.
   virtual int       PriceMs(void) const { return(250); }
  };

#endif
