//+------------------------------------------------------------------+
//| CopierLink.mqh - what CopierLink.dll offers, as MQL sees it       |
//+------------------------------------------------------------------+
#ifndef COPIER_LINK_MQH
#define COPIER_LINK_MQH

// The terminal looks for it in Libraries, and does not start a program that names it without it, or where DLL imports are
// not allowed. What each function does stands in dll/copier_link.h.
#import "CopierLink.dll"
int CopierVersion(void);
int CopierErrorText(int code, uchar &text[], int capacity);
int CopierTcpOpen(string host, int port, int tls, int timeout_ms);
int CopierPipeOpen(string name, int timeout_ms);
int CopierPipeServe(string name);
int CopierLinkState(int link);
int CopierLinkSend(int link, const uchar &bytes[], int count);
int CopierLinkReceive(int link, uchar &bytes[], int capacity);
int CopierLinkClose(int link);
int CopierHttp(string method, string url, string headers, const uchar &body[], int count, int timeout_ms);
int CopierPublish(string host, int port, int tls, string password, string channel, const uchar &message[], int count, int timeout_ms);
int CopierSaveTrade(string path, string account, long ticket, string symbol, string side, string lots, long open_ms, long close_ms, string open_price, string close_price, string profit, string swap, string commission, long magic, string comment);
int CopierJobState(int job);
int CopierJobValue(int job);
int CopierJobBody(int job, int start, uchar &bytes[], int capacity);
int CopierJobForget(int job);
int CopierWhy(int handle, uchar &text[], int capacity);
int CopierShutdown(void);
#import

#define COPIER_LINK_VERSION 1

#endif
