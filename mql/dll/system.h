// What the rest needs of the operating system: a lock, a wake-up, a clock, threads that keep the library loaded.
#pragma once
#include <atomic>
#include <cstdint>
#include <string>

#include "failure.h"

#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <winsock2.h>
#include <ws2tcpip.h>
#include <windows.h>
#else
#include <mutex>
#endif

#ifdef _WIN32
class Mutex {
public:
    void lock() { AcquireSRWLockExclusive(&lock_); }
    void unlock() { ReleaseSRWLockExclusive(&lock_); }

private:
    SRWLOCK lock_ = SRWLOCK_INIT;
};
#else
using Mutex = std::mutex;
#endif

class Locked {
public:
    explicit Locked(Mutex &mutex) : mutex_(mutex) { mutex_.lock(); }
    ~Locked() { mutex_.unlock(); }
    Locked(const Locked &) = delete;
    Locked &operator=(const Locked &) = delete;

private:
    Mutex &mutex_;
};

// Ends another thread's waiting; raised once or often is the same.
class Wake {
public:
    Wake();
    ~Wake();
    Wake(const Wake &) = delete;
    Wake &operator=(const Wake &) = delete;
    void raise();
    void clear();
    // Waits until it is raised, at most so long.
    void wait(int ms);
#ifdef _WIN32
    HANDLE event() const { return event_; }

private:
    HANDLE event_;
#else
    int fd() const { return ends_[0]; }

private:
    int ends_[2];
#endif
};

int64_t now_ms();
void pause_ms(int ms);

// How long somebody is willing to wait, and whether they still are.
struct Patience {
    int64_t until_ms;
    const std::atomic<bool> &stop;
    Wake &wake;
    // The milliseconds left, at most one second, to look at `stop` in between; throws once there are none.
    int left_ms(const char *doing) const;
};

// Runs on a thread of its own that keeps the library loaded until it ends; false where there is none to be had.
bool start_thread(void (*run)(void *), void *with);
// How many of them have not ended.
int threads_running();

// A function of another library, loaded by its name from where the system keeps its own; null where there is none.
void *loaded_function(void *library, const char *name);
void *loaded_library(const char *name);

std::string utf8_of(const copier_char *text);
// Writes at most `capacity` bytes and never half a character; returns their number.
int copied_text(const std::string &text, unsigned char *to, int capacity);
