//+------------------------------------------------------------------+
//| Digest.mqh - proofs that both ends know the account's secret      |
//+------------------------------------------------------------------+
#ifndef COPIER_DIGEST_MQH
#define COPIER_DIGEST_MQH

#include "Text.mqh"

#define HASH_BLOCK 64

bool Sha256(const uchar &data[], uchar &digest[])
  {
   uchar key[];
   ArrayResize(key, 0);
   return(CryptEncode(CRYPT_HASH_SHA256, data, key, digest) == 32);
  }

void AppendBytes(uchar &target[], const uchar &more[])
  {
   int count = ArraySize(target);
   int added = ArraySize(more);
   ArrayResize(target, count + added);
   for(int i = 0; i < added; i++)
      target[count + i] = more[i];
  }

// HMAC-SHA256 of a text, in hexadecimal; empty where the terminal cannot compute it.
string ProofOf(const string secret, const string text)
  {
   uchar key[];
   uchar message[];
   uchar digest[];
   BytesOf(secret, key);
   BytesOf(text, message);
   if(ArraySize(key) > HASH_BLOCK)
     {
      if(!Sha256(key, digest))
         return("");
      ArrayResize(key, 0);
      AppendBytes(key, digest);
     }
   uchar inner[];
   uchar outer[];
   ArrayResize(inner, HASH_BLOCK);
   ArrayResize(outer, HASH_BLOCK);
   for(int i = 0; i < HASH_BLOCK; i++)
     {
      uchar letter = 0;
      if(i < ArraySize(key))
         letter = key[i];
      inner[i] = (uchar)(letter ^ 0x36);
      outer[i] = (uchar)(letter ^ 0x5c);
     }
   AppendBytes(inner, message);
   if(!Sha256(inner, digest))
      return("");
   AppendBytes(outer, digest);
   if(!Sha256(outer, digest))
      return("");
   return(HexOf(digest));
  }

// Compares without telling by its time how much of it was right.
bool SameProof(const string first, const string second)
  {
   if(StringLen(first) != 64 || StringLen(second) != 64)
      return(false);
   int different = 0;
   for(int i = 0; i < 64; i++)
      different |= (int)StringGetCharacter(first, i) ^ (int)StringGetCharacter(second, i);
   return(different == 0);
  }

// A number used once. MQL has no good source of chance; together with the other end's nonce this only has to be new.
string NewNonce(const string seed)
  {
   string mixed = seed + "|" + WholeText((long)GetMicrosecondCount()) + "|" + WholeText((long)TimeLocal());
   for(int i = 0; i < 8; i++)
      mixed = mixed + "|" + IntegerToString(MathRand());
   return(StringSubstr(ProofOf(seed, mixed), 0, 32));
  }

#endif
