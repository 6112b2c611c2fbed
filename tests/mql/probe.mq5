// Runs the shared pieces on what stands in a file, and writes what they make of it.
#property strict

input string Task = "";
input int Step = 7;

#include "..\..\mql\shared\Digest.mqh"
#include "..\..\mql\shared\Frames.mqh"
#include "..\..\mql\shared\Json.mqh"
#include "..\..\mql\shared\Memory.mqh"

void Say(string &out, const string line)
  {
   out = out + line + "\n";
  }

void Lines(const string given, string &out)
  {
   LineBuffer buffer;
   uchar bytes[];
   uchar part[];
   int count = BytesOf(given, bytes);
   ArrayResize(part, Step);
   string line = "";
   for(int start = 0; start < count; start += Step)
     {
      int size = MathMin(Step, count - start);
      for(int i = 0; i < size; i++)
         part[i] = bytes[start + i];
      buffer.Add(part, size);
      while(buffer.Next(line))
         Say(out, Quoted(line));
     }
  }

void Values(const string given, string &out)
  {
   JsonReader reader;
   if(!reader.Read(given))
     {
      Say(out, "unreadable");
      return;
     }
   Say(out, Quoted(reader.Text("text")));
   Say(out, WholeText(reader.Whole("whole")));
   Say(out, NumberText(reader.Number("number")));
   Say(out, TruthText(reader.Truth("truth")));
   Say(out, TruthText(reader.Has("absent")));
   Say(out, WholeText(reader.Whole("below.list.1")));
  }

int OnInit(void)
  {
   string given = "";
   string out = "";
   if(!ReadShared("given", given))
      return(INIT_FAILED);
   if(Task == "lines")
      Lines(given, out);
   else if(Task == "values")
      Values(given, out);
   else if(Task == "proof")
      Say(out, ProofOf("key", given));
   else if(Task == "tag")
      Say(out, TagIn(given));
   else if(Task == "moment")
      Say(out, MomentText(SecondsOf(given) * 1000));
   else if(Task == "name")
      Say(out, FileNameOf(given));
   else if(Task == "ticket")
      Say(out, WholeText(TicketAfter(given, "from #")));
   if(!WriteShared("made", out))
      return(INIT_FAILED);
   return(INIT_SUCCEEDED);
  }

void OnDeinit(const int reason)
  {
  }

void OnTimer(void)
  {
  }
