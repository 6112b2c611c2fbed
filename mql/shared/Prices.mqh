//+------------------------------------------------------------------+
//| Prices.mqh - whose prices the engine wants, and which have moved  |
//+------------------------------------------------------------------+
#ifndef COPIER_PRICES_MQH
#define COPIER_PRICES_MQH

#include "Text.mqh"

#define PRICES_MAX 8
#define PRICE_WANTED_MS 60000

struct WantedPrice
  {
   string            symbol;
   long              asked;
   long              looked;
   double            bid;
   double            ask;
  };

// Whoever asked for a price is told of it for a minute whenever it moves. Of more symbols than there is room for, those asked
// for last are kept.
class WantedPrices
  {
private:
   WantedPrice       m_prices[PRICES_MAX];
   int               m_count;

   int               PlaceOf(const string symbol) const
     {
      int oldest = 0;
      for(int i = 0; i < m_count; i++)
        {
         if(m_prices[i].symbol == symbol)
            return(i);
         if(m_prices[i].asked < m_prices[oldest].asked)
            oldest = i;
        }
      if(m_count < PRICES_MAX)
         return(m_count);
      return(oldest);
     }

   // True where bid or ask is not what it was at the last look.
   bool              HasMoved(const int place)
     {
      MqlTick tick;
      ZeroMemory(tick);
      if(!SymbolInfoTick(m_prices[place].symbol, tick) || tick.bid <= 0.0 || tick.ask <= 0.0)
         return(false);
      bool moved = tick.bid != m_prices[place].bid || tick.ask != m_prices[place].ask;
      m_prices[place].bid = tick.bid;
      m_prices[place].ask = tick.ask;
      return(moved);
     }

public:
                     WantedPrices(void) { m_count = 0; }

   void              Clear(void) { m_count = 0; }

   // Notes that a price was asked for and is known.
   void              Want(const string symbol)
     {
      int place = PlaceOf(symbol);
      if(place == m_count)
         m_count++;
      m_prices[place].symbol = symbol;
      m_prices[place].asked = RunMs();
      m_prices[place].looked = RunMs();
      HasMoved(place);
     }

   // Names a price that has moved, each at most once in `every_ms`; false where none has.
   bool              Next(const int every_ms, string &symbol)
     {
      long now = RunMs();
      for(int i = 0; i < m_count; i++)
        {
         if(now - m_prices[i].asked > PRICE_WANTED_MS || now - m_prices[i].looked < every_ms)
            continue;
         m_prices[i].looked = now;
         if(!HasMoved(i))
            continue;
         symbol = m_prices[i].symbol;
         return(true);
        }
      return(false);
     }
  };

#endif
