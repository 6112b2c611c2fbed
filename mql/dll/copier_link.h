// What CopierLink.dll offers to an Expert Advisor: links that never block it, and jobs that it starts and asks about later.
//
// Types, as MQL has them: string is UTF-16 with a terminating zero; int is 32 bits; long is 64 bits; an array of uchar is a
// pointer without a length, so its length follows. Text that comes back is UTF-8 in an array of uchar. There is no bool.
//
// Every function returns at once. What is below zero is an error, one of the codes below. Handles are never used again.
#pragma once
#include <cstdint>

#ifdef _WIN32
typedef wchar_t copier_char;
#define COPIER_CALL __stdcall
#define COPIER_API extern "C" __declspec(dllexport)
#else
typedef char16_t copier_char;
#define COPIER_CALL
#define COPIER_API extern "C" __attribute__((visibility("default")))
#endif

enum CopierCode : int {
    COPIER_DONE = 1,
    COPIER_WAITING = 0,
    COPIER_CLOSED = -1,
    COPIER_BAD_HANDLE = -2,
    COPIER_BAD_ARGUMENT = -3,
    COPIER_QUEUE_FULL = -4,
    COPIER_TOO_MANY = -5,
    COPIER_NOT_FOUND = -6,
    COPIER_NOT_CONNECTED = -7,
    COPIER_TIMED_OUT = -8,
    COPIER_NOT_TRUSTED = -9,
    COPIER_BROKEN = -10,
    COPIER_NOT_UNDERSTOOD = -11,
    COPIER_NO_LIBRARY = -12,
    COPIER_DATABASE = -13,
    COPIER_ABANDONED = -14,
    COPIER_REFUSED = -15,
    COPIER_INTERNAL = -99,
};

// The version of these functions: an Expert Advisor asks for it first.
#define COPIER_LINK_VERSION 1
COPIER_API int COPIER_CALL CopierVersion();
// Writes what a code means, in UTF-8; returns the number of bytes.
COPIER_API int COPIER_CALL CopierErrorText(int code, unsigned char *text, int capacity);

// Links ------------------------------------------------------------------------------------------------------------------

// Begins to dial; returns a handle. With `tls` of 1 the other end must show a certificate for `host` that the system trusts.
COPIER_API int COPIER_CALL CopierTcpOpen(const copier_char *host, int port, int tls, int timeout_ms);
// Begins to open a pipe of this machine by its name alone, without \\.\pipe\ before it; returns a handle.
COPIER_API int COPIER_CALL CopierPipeOpen(const copier_char *name, int timeout_ms);
// Makes a pipe for one client, a program of the same user on this machine, and waits for it; returns a handle.
COPIER_API int COPIER_CALL CopierPipeServe(const copier_char *name);
// 0 while it is connecting, 1 once it is connected, below zero once it is over.
COPIER_API int COPIER_CALL CopierLinkState(int link);
// Takes all the bytes or none of them; returns their number.
COPIER_API int COPIER_CALL CopierLinkSend(int link, const unsigned char *bytes, int count);
// Gives what has arrived, at most `capacity` bytes; 0 where nothing has. An error comes after the last byte.
COPIER_API int COPIER_CALL CopierLinkReceive(int link, unsigned char *bytes, int capacity);
// Ends a link; what was sent still leaves if it can within half a second.
COPIER_API int COPIER_CALL CopierLinkClose(int link);

// Jobs -------------------------------------------------------------------------------------------------------------------

// Calls a web address; `headers` are lines. The value of the job is the status, its body what the server sent.
COPIER_API int COPIER_CALL CopierHttp(const copier_char *method, const copier_char *url, const copier_char *headers,
                                      const unsigned char *body, int count, int timeout_ms);
// Publishes a message on a Redis channel. The value of the job is how many heard it. Without password it is empty.
COPIER_API int COPIER_CALL CopierPublish(const copier_char *host, int port, int tls, const copier_char *password,
                                         const copier_char *channel, const unsigned char *message, int count, int timeout_ms);
// Writes a closed trade into an SQLite file. The value of the job is 1, or 0 where the account's ticket was there already.
COPIER_API int COPIER_CALL CopierSaveTrade(const copier_char *path, const copier_char *account, int64_t ticket,
                                           const copier_char *symbol, const copier_char *side, const copier_char *lots,
                                           int64_t open_ms, int64_t close_ms, const copier_char *open_price,
                                           const copier_char *close_price, const copier_char *profit, const copier_char *swap,
                                           const copier_char *commission, int64_t magic, const copier_char *comment);
// 0 while it waits or runs, 1 once it is done, below zero once it has failed.
COPIER_API int COPIER_CALL CopierJobState(int job);
COPIER_API int COPIER_CALL CopierJobValue(int job);
// Copies the body from `start` on; returns the number of bytes, 0 behind its end.
COPIER_API int COPIER_CALL CopierJobBody(int job, int start, unsigned char *bytes, int capacity);
// Forgets a job, also one that has not begun; one that runs is ended as soon as possible.
COPIER_API int COPIER_CALL CopierJobForget(int job);

// Both -------------------------------------------------------------------------------------------------------------------

// Writes what went wrong with a link or a job, in words and UTF-8; returns the number of bytes.
COPIER_API int COPIER_CALL CopierWhy(int handle, unsigned char *text, int capacity);
// Ends everything of the whole process within two seconds and returns how many threads are still at it. All Expert Advisors of
// a terminal share one library: they close their own links instead.
COPIER_API int COPIER_CALL CopierShutdown();
