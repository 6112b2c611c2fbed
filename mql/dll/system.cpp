#include "system.h"

#include <cstring>

#ifndef _WIN32
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#endif

namespace {
std::atomic<int> running{0};

// Longer texts are cut: MQL has none of this length for us, and a missing zero must not lead through the whole memory.
const size_t TEXT_UNITS_MAX = 32768;

struct Start {
    void (*run)(void *);
    void *with;
#ifdef _WIN32
    HMODULE self;
#endif
};

void run_quietly(const Start &start) {
    try {
        start.run(start.with);
    } catch (...) {
    }
    running--;
}

#ifdef _WIN32
DWORD WINAPI begin(void *given) {
    Start start = *static_cast<Start *>(given);
    delete static_cast<Start *>(given);
    run_quietly(start);
    FreeLibraryAndExitThread(start.self, 0);
}
#else
void *begin(void *given) {
    Start start = *static_cast<Start *>(given);
    delete static_cast<Start *>(given);
    run_quietly(start);
    return nullptr;
}
#endif
} // namespace

const char *meaning_of(int code) {
    switch (code) {
    case COPIER_DONE: return "done";
    case COPIER_WAITING: return "not yet";
    case COPIER_CLOSED: return "the connection was closed";
    case COPIER_BAD_HANDLE: return "no link or job has this handle";
    case COPIER_BAD_ARGUMENT: return "an argument is not allowed";
    case COPIER_QUEUE_FULL: return "too much waits to be sent";
    case COPIER_TOO_MANY: return "too many links or jobs at once";
    case COPIER_NOT_FOUND: return "the host has no address";
    case COPIER_NOT_CONNECTED: return "the connection was refused or there is nobody";
    case COPIER_TIMED_OUT: return "it took too long";
    case COPIER_NOT_TRUSTED: return "no secure connection could be made";
    case COPIER_BROKEN: return "the connection broke";
    case COPIER_NOT_UNDERSTOOD: return "the answer could not be read";
    case COPIER_NO_LIBRARY: return "a library of the system is missing";
    case COPIER_DATABASE: return "the database refused";
    case COPIER_ABANDONED: return "nobody asked for too long";
    case COPIER_REFUSED: return "the server refused";
    case COPIER_INTERNAL: return "an error inside the library";
    default: return "unknown code";
    }
}

int Patience::left_ms(const char *doing) const {
    if (stop) throw Failure{COPIER_CLOSED, std::string(doing) + " was given up"};
    int64_t left = until_ms - now_ms();
    if (left <= 0) throw Failure{COPIER_TIMED_OUT, std::string(doing) + " took too long"};
    return left > 1000 ? 1000 : static_cast<int>(left);
}

bool start_thread(void (*run)(void *), void *with) {
    Start *start = new Start();
    start->run = run;
    start->with = with;
    running++;
#ifdef _WIN32
    const DWORD flags = GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS;
    if (GetModuleHandleExW(flags, reinterpret_cast<LPCWSTR>(reinterpret_cast<void *>(&begin)), &start->self)) {
        HANDLE thread = CreateThread(nullptr, 0, begin, start, 0, nullptr);
        if (thread) {
            CloseHandle(thread);
            return true;
        }
        FreeLibrary(start->self);
    }
#else
    // Signals are the host's business: none of its handlers runs on a thread of ours.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    int failed = pthread_create(&thread, nullptr, begin, start);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (!failed) {
        pthread_detach(thread);
        return true;
    }
#endif
    delete start;
    running--;
    return false;
}

int threads_running() { return running; }

#ifdef _WIN32
Wake::Wake() : event_(CreateEventW(nullptr, FALSE, FALSE, nullptr)) {
    if (!event_) throw Failure{COPIER_INTERNAL, "no event could be made"};
}
Wake::~Wake() { CloseHandle(event_); }
void Wake::raise() { SetEvent(event_); }
void Wake::clear() {}
void Wake::wait(int ms) { WaitForSingleObject(event_, static_cast<DWORD>(ms)); }

int64_t now_ms() { return static_cast<int64_t>(GetTickCount64()); }
void pause_ms(int ms) { Sleep(static_cast<DWORD>(ms)); }

void *loaded_library(const char *name) { return LoadLibraryExA(name, nullptr, LOAD_LIBRARY_SEARCH_SYSTEM32); }
void *loaded_function(void *library, const char *name) {
    return reinterpret_cast<void *>(GetProcAddress(static_cast<HMODULE>(library), name));
}
#else
Wake::Wake() {
    if (pipe(ends_) != 0) throw Failure{COPIER_INTERNAL, "no pipe could be made"};
    for (int end : ends_) {
        fcntl(end, F_SETFL, O_NONBLOCK);
        fcntl(end, F_SETFD, FD_CLOEXEC);
    }
}
Wake::~Wake() {
    close(ends_[0]);
    close(ends_[1]);
}
void Wake::raise() {
    // A full pipe has been raised already.
    [[maybe_unused]] ssize_t written = write(ends_[1], "x", 1);
}
void Wake::clear() {
    char bytes[64];
    while (read(ends_[0], bytes, sizeof bytes) > 0) {
    }
}
void Wake::wait(int ms) {
    pollfd one{ends_[0], POLLIN, 0};
    poll(&one, 1, ms);
    clear();
}

int64_t now_ms() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<int64_t>(now.tv_sec) * 1000 + now.tv_nsec / 1000000;
}
void pause_ms(int ms) { usleep(static_cast<useconds_t>(ms) * 1000); }

void *loaded_library(const char *name) { return dlopen(name, RTLD_NOW | RTLD_LOCAL); }
void *loaded_function(void *library, const char *name) { return dlsym(library, name); }
#endif

std::string utf8_of(const copier_char *text) {
    std::string out;
    if (!text) return out;
    auto add = [&out](uint32_t point) { out += static_cast<char>(point); };
    for (size_t i = 0; i < TEXT_UNITS_MAX && text[i]; i++) {
        uint32_t point = static_cast<uint16_t>(text[i]);
        const bool high = point >= 0xD800 && point < 0xDC00;
        const uint32_t next = high ? static_cast<uint16_t>(text[i + 1]) : 0;
        if (high && next >= 0xDC00 && next < 0xE000) {
            point = 0x10000 + ((point - 0xD800) << 10) + (next - 0xDC00);
            i++;
        } else if (point >= 0xD800 && point < 0xE000) {
            point = 0xFFFD;
        }
        if (point < 0x80) {
            add(point);
        } else if (point < 0x800) {
            add(0xC0 | point >> 6);
            add(0x80 | (point & 0x3F));
        } else if (point < 0x10000) {
            add(0xE0 | point >> 12);
            add(0x80 | (point >> 6 & 0x3F));
            add(0x80 | (point & 0x3F));
        } else {
            add(0xF0 | point >> 18);
            add(0x80 | (point >> 12 & 0x3F));
            add(0x80 | (point >> 6 & 0x3F));
            add(0x80 | (point & 0x3F));
        }
    }
    return out;
}

int copied_text(const std::string &text, unsigned char *to, int capacity) {
    if (!to || capacity <= 0) return 0;
    size_t count = text.size();
    if (count > static_cast<size_t>(capacity)) {
        count = static_cast<size_t>(capacity);
        while (count > 0 && (static_cast<unsigned char>(text[count]) & 0xC0) == 0x80) count--;
    }
    memcpy(to, text.data(), count);
    return static_cast<int>(count);
}
