// The part of MQL's run time that our Expert Advisors use, over POSIX: what g++ needs to compile rewritten sources.
// Trading calls travel as JSON lines to whoever plays the terminal; files and sockets are real.
#pragma once
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <initializer_list>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef long datetime;
typedef uint color;

[[noreturn]] inline void mql_critical(const std::string &what) {
    fprintf(stderr, "critical: %s\n", what.c_str());
    fflush(stderr);
#ifdef MQL_FUZZ
    abort();
#endif
    _exit(70);
}

// Strings --------------------------------------------------------------------------------------------------------------

inline std::u16string mql_utf16(const std::string &bytes) {
    std::u16string out;
    for (size_t i = 0; i < bytes.size();) {
        unsigned char c = bytes[i];
        int more = c < 0x80 ? 0 : c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : c >= 0xC0 ? 1 : -1;
        if (more < 0 || i + more >= bytes.size()) { out += u'\xFFFD'; i++; continue; }
        uint32_t p = more == 0 ? c : c & (0x3F >> more);
        for (int k = 1; k <= more; k++) p = (p << 6) | (bytes[i + k] & 0x3F);
        i += more + 1;
        if (p >= 0x10000) { p -= 0x10000; out += char16_t(0xD800 + (p >> 10)); out += char16_t(0xDC00 + (p & 0x3FF)); }
        else out += char16_t(p);
    }
    return out;
}
inline std::string mql_utf8(const std::u16string &text) {
    std::string out;
    for (size_t i = 0; i < text.size(); i++) {
        uint32_t p = text[i];
        if (p >= 0xD800 && p < 0xDC00 && i + 1 < text.size()) p = 0x10000 + ((p - 0xD800) << 10) + (text[++i] - 0xDC00);
        if (p < 0x80) out += char(p);
        else if (p < 0x800) { out += char(0xC0 | p >> 6); out += char(0x80 | (p & 0x3F)); }
        else if (p < 0x10000) { out += char(0xE0 | p >> 12); out += char(0x80 | (p >> 6 & 0x3F)); out += char(0x80 | (p & 0x3F)); }
        else { out += char(0xF0 | p >> 18); out += char(0x80 | (p >> 12 & 0x3F)); out += char(0x80 | (p >> 6 & 0x3F)); out += char(0x80 | (p & 0x3F)); }
    }
    return out;
}

struct MqlString {
    std::u16string s;
    MqlString() {}
    MqlString(const char16_t *text) : s(text) {}
    MqlString(const std::u16string &text) : s(text) {}
    bool operator==(const MqlString &o) const { return s == o.s; }
    bool operator!=(const MqlString &o) const { return s != o.s; }
    bool operator<(const MqlString &o) const { return s < o.s; }
    bool operator>(const MqlString &o) const { return s > o.s; }
    MqlString &operator+=(const MqlString &o) { s += o.s; return *this; }
    std::string utf8() const { return mql_utf8(s); }
};
inline MqlString operator+(const MqlString &a, const MqlString &b) { return MqlString(a.s + b.s); }
typedef MqlString string;
inline string mql_text(const std::string &utf8) { return MqlString(mql_utf16(utf8)); }

inline int StringLen(const string &t) { return int(t.s.size()); }
inline string StringSubstr(const string &t, int start, int count = -1) {
    if (start < 0 || start > StringLen(t)) return string();
    return MqlString(t.s.substr(start, count < 0 ? std::u16string::npos : size_t(count)));
}
inline ushort StringGetCharacter(const string &t, int i) { return i < 0 || i >= StringLen(t) ? 0 : ushort(t.s[i]); }
inline int StringFind(const string &t, const string &what, int start = 0) {
    auto at = t.s.find(what.s, start);
    return at == std::u16string::npos ? -1 : int(at);
}
inline bool StringToLower(string &t) { for (auto &c : t.s) if (c >= u'A' && c <= u'Z') c = char16_t(c + 32); return true; }
inline long StringToInteger(const string &t) { return strtoll(t.utf8().c_str(), nullptr, 10); }
inline double StringToDouble(const string &t) { return strtod(t.utf8().c_str(), nullptr); }
inline string IntegerToString(long v) { return mql_text(std::to_string(v)); }
inline string DoubleToString(double v, int digits = 8) { char b[64]; snprintf(b, 64, "%.*f", digits, v); return mql_text(b); }
inline string ShortToString(ushort c) { return MqlString(std::u16string(1, char16_t(c))); }
inline int StringCompare(const string &a, const string &b, bool = true) { return a.s < b.s ? -1 : a.s > b.s ? 1 : 0; }

struct MqlValue {
    char kind; long i; double d; std::string t;
    template <class T, std::enable_if_t<std::is_integral_v<T> || std::is_enum_v<T>, int> = 0> MqlValue(T v) : kind('i'), i(long(v)), d(double(long(v))) {}
    MqlValue(double v) : kind('d'), i(long(v)), d(v) {}
    MqlValue(const string &v) : kind('s'), i(0), d(0), t(v.utf8()) {}
    std::string shown() const { return kind == 's' ? t : kind == 'd' ? std::to_string(d) : std::to_string(i); }
};
template <class... A> string StringFormat(const string &format, const A &...args) {
    std::vector<MqlValue> values{MqlValue(args)...};
    std::string f = format.utf8(), out;
    size_t next = 0;
    for (size_t i = 0; i < f.size(); i++) {
        if (f[i] != '%') { out += f[i]; continue; }
        if (f[i + 1] == '%') { out += '%'; i++; continue; }
        std::string spec = "%";
        for (i++; i < f.size() && strchr("-+ #0123456789.", f[i]); i++) spec += f[i];
        while (f.compare(i, 3, "I64") == 0) i += 3;
        while (f[i] == 'l' || f[i] == 'h') i++;
        if (next >= values.size()) mql_critical("StringFormat: too few values for " + f);
        const MqlValue &v = values[next++];
        char b[512], c = f[i];
        if (strchr("diuxX", c)) { if (v.kind != 'i') mql_critical("StringFormat: a whole number expected for " + f); spec += 'l'; spec += c; snprintf(b, sizeof b, spec.c_str(), v.i); }
        else if (strchr("fgGeE", c)) { if (v.kind != 'd') mql_critical("StringFormat: a double expected for " + f); spec += c; snprintf(b, sizeof b, spec.c_str(), v.d); }
        else if (c == 's') { if (v.kind != 's') mql_critical("StringFormat: a string expected for " + f); out += v.t; continue; }
        else mql_critical("StringFormat: cannot read " + f);
        out += b;
    }
    return mql_text(out);
}
template <class... A> void Print(const A &...args) {
#ifdef MQL_FUZZ
    return;
#endif
    std::string line;
    for (const MqlValue &v : {MqlValue(args)...}) line += v.shown();
    fprintf(stderr, "%s\n", line.c_str());
    fflush(stderr);
}

template <class... A> void Alert(const A &...args) { Print(string(u"alert: "), args...); }
inline std::string mql_comment;
template <class... A> void Comment(const A &...args) {
    mql_comment.clear();
    for (const MqlValue &v : {MqlValue(args)...}) mql_comment += v.shown();
    std::string line = mql_comment;
    std::replace(line.begin(), line.end(), '\n', '|');
    fprintf(stderr, "chart: %s\n", line.c_str());
    fflush(stderr);
}

// Arrays ---------------------------------------------------------------------------------------------------------------

template <class T> struct MqlArray {
    std::vector<T> v;
    bool fixed = false;
    MqlArray() {}
    MqlArray(std::initializer_list<T> l) : v(l) {}
    T &operator[](long i) { if (i < 0 || size_t(i) >= v.size()) mql_critical("array out of range"); return v[i]; }
    const T &operator[](long i) const { if (i < 0 || size_t(i) >= v.size()) mql_critical("array out of range"); return v[i]; }
};
template <class T, int N> struct MqlFixed : MqlArray<T> { MqlFixed() { this->v.resize(N); this->fixed = true; } };
template <class T> int ArraySize(const MqlArray<T> &a) { return int(a.v.size()); }
template <class T> int ArrayResize(MqlArray<T> &a, int size, int = 0) { if (a.fixed || size < 0) return -1; a.v.resize(size); return size; }
template <class T> void ZeroMemory(T &x) { x = T(); }

inline int StringToCharArray(const string &t, MqlArray<uchar> &a, int start = 0, int count = -1, uint page = 0) {
    if (page != 65001) mql_critical("StringToCharArray without UTF-8");
    std::string b = t.utf8();
    b += '\0';
    if (count >= 0 && size_t(count) < b.size()) b.resize(count);
    if (ArraySize(a) < start + int(b.size())) ArrayResize(a, start + int(b.size()));
    for (size_t i = 0; i < b.size(); i++) a[start + long(i)] = uchar(b[i]);
    return int(b.size());
}
inline string CharArrayToString(const MqlArray<uchar> &a, int start = 0, int count = -1, uint page = 0) {
    if (page != 65001) mql_critical("CharArrayToString without UTF-8");
    std::string b;
    int end = count < 0 ? ArraySize(a) : std::min(ArraySize(a), start + count);
    for (int i = start; i < end && a[i] != 0; i++) b += char(a[i]);
    return mql_text(b);
}

// Numbers, time, chance ------------------------------------------------------------------------------------------------

inline double MathAbs(double x) { return std::fabs(x); }
inline double MathFloor(double x) { return std::floor(x); }
inline double MathRound(double x) { return std::round(x); }
template <class T> T MathMax(T a, T b) { return a > b ? a : b; }
template <class T> T MathMin(T a, T b) { return a < b ? a : b; }
inline bool MathIsValidNumber(double x) { return std::isfinite(x); }
inline double NormalizeDouble(double x, int digits) { double p = std::pow(10.0, digits); return std::round(x * p) / p; }
inline void MathSrand(int seed) { srand(uint(seed)); }
inline int MathRand() { return rand() & 0x7FFF; }

inline long mql_env(const char *name, long absent) { const char *v = getenv(name); return v ? strtol(v, nullptr, 10) : absent; }
inline long mql_now_ms() {
    static const long shift = mql_env("MQL_CLOCK_SHIFT_MS", 0);
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count() + shift;
}
inline datetime TimeGMT() { return mql_now_ms() / 1000; }
inline datetime TimeLocal() { return TimeGMT(); }
inline ulong GetMicrosecondCount() {
    return ulong(std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now().time_since_epoch()).count());
}
struct MqlDateTime { int year, mon, day, hour, min, sec, day_of_week, day_of_year; };
inline bool TimeToStruct(datetime t, MqlDateTime &p) {
    time_t c = t; tm m{}; gmtime_r(&c, &m);
    p = {m.tm_year + 1900, m.tm_mon + 1, m.tm_mday, m.tm_hour, m.tm_min, m.tm_sec, m.tm_wday, m.tm_yday};
    return true;
}
inline datetime StructToTime(const MqlDateTime &p) { tm m{}; m.tm_year = p.year - 1900; m.tm_mon = p.mon - 1; m.tm_mday = p.day; m.tm_hour = p.hour; m.tm_min = p.min; m.tm_sec = p.sec; return timegm(&m); }
inline void Sleep(int ms) { usleep(useconds_t(ms) * 1000); }

inline int mql_last_error = 0;
inline int GetLastError() { int e = mql_last_error;
#ifdef __MQL4__
    mql_last_error = 0;
#endif
    return e; }
inline void ResetLastError() { mql_last_error = 0; }

inline volatile sig_atomic_t mql_stopped = 0;
inline bool IsStopped() { return mql_stopped != 0; }
inline void ExpertRemove() { mql_stopped = 1; }
inline int mql_timer_ms = 0;
inline bool EventSetMillisecondTimer(int ms) { mql_timer_ms = ms; return true; }
inline void EventKillTimer() { mql_timer_ms = 0; }
#define INIT_SUCCEEDED 0
#define INIT_FAILED 1
#define INIT_PARAMETERS_INCORRECT 32767

template <class T> T mql_input(const char *name, const T &given) {
    const char *v = getenv((std::string("MQL_INPUT_") + name).c_str());
    if (!v) return given;
    if constexpr (std::is_same_v<T, string>) return mql_text(v);
    else if constexpr (std::is_floating_point_v<T>) return T(strtod(v, nullptr));
    else return T(strtoll(v, nullptr, 10));
}
#define MQL_INPUT(type, name, given) static const type name = mql_input<type>(#name, type(given));

// SHA-256 --------------------------------------------------------------------------------------------------------------

enum ENUM_CRYPT_METHOD { CRYPT_BASE64, CRYPT_HASH_SHA1, CRYPT_HASH_SHA256 };
inline int mql_base64(const std::vector<uchar> &d, MqlArray<uchar> &result) {
    static const char *letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    result.v.clear();
    for (size_t i = 0; i < d.size(); i += 3) {
        uint n = uint(d[i]) << 16 | (i + 1 < d.size() ? uint(d[i + 1]) << 8 : 0) | (i + 2 < d.size() ? d[i + 2] : 0);
        for (size_t k = 0; k < 4; k++) result.v.push_back(i + k > d.size() ? uchar('=') : uchar(letters[n >> (18 - 6 * k) & 63]));
    }
    return int(result.v.size());
}
inline std::vector<uchar> mql_padded(std::vector<uchar> m) {
    ulong bits = m.size() * 8;
    m.push_back(0x80);
    while (m.size() % 64 != 56) m.push_back(0);
    for (int i = 7; i >= 0; i--) m.push_back(uchar(bits >> (8 * i)));
    return m;
}
inline int mql_sha1(const std::vector<uchar> &data, MqlArray<uchar> &result) {
    uint h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    std::vector<uchar> m = mql_padded(data);
    auto rot = [](uint x, int n) { return x << n | x >> (32 - n); };
    for (size_t o = 0; o < m.size(); o += 64) {
        uint w[80], s[5];
        for (int i = 0; i < 16; i++) w[i] = uint(m[o + 4 * i]) << 24 | uint(m[o + 4 * i + 1]) << 16 | uint(m[o + 4 * i + 2]) << 8 | m[o + 4 * i + 3];
        for (int i = 16; i < 80; i++) w[i] = rot(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        std::copy(h, h + 5, s);
        for (int i = 0; i < 80; i++) {
            uint f = i < 20 ? (s[1] & s[2]) | (~s[1] & s[3]) : i < 40 ? s[1] ^ s[2] ^ s[3] : i < 60 ? (s[1] & s[2]) | (s[1] & s[3]) | (s[2] & s[3]) : s[1] ^ s[2] ^ s[3];
            uint k = i < 20 ? 0x5A827999 : i < 40 ? 0x6ED9EBA1 : i < 60 ? 0x8F1BBCDC : 0xCA62C1D6;
            uint t = rot(s[0], 5) + f + s[4] + k + w[i];
            s[4] = s[3]; s[3] = s[2]; s[2] = rot(s[1], 30); s[1] = s[0]; s[0] = t;
        }
        for (int i = 0; i < 5; i++) h[i] += s[i];
    }
    result.v.resize(20);
    for (int i = 0; i < 20; i++) result.v[size_t(i)] = uchar(h[i / 4] >> (24 - 8 * (i % 4)));
    return 20;
}
inline int CryptEncode(ENUM_CRYPT_METHOD method, const MqlArray<uchar> &data, const MqlArray<uchar> &, MqlArray<uchar> &result) {
    if (method == CRYPT_BASE64) return mql_base64(data.v, result);
    if (method == CRYPT_HASH_SHA1) return mql_sha1(data.v, result);
    static const uint K[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
        0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
        0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
        0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
        0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
        0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    uint h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    std::vector<uchar> m = mql_padded(data.v);
    auto rot = [](uint x, int n) { return x >> n | x << (32 - n); };
    for (size_t o = 0; o < m.size(); o += 64) {
        uint w[64], s[8];
        for (int i = 0; i < 16; i++) w[i] = uint(m[o + 4 * i]) << 24 | uint(m[o + 4 * i + 1]) << 16 | uint(m[o + 4 * i + 2]) << 8 | m[o + 4 * i + 3];
        for (int i = 16; i < 64; i++)
            w[i] = w[i - 16] + (rot(w[i - 15], 7) ^ rot(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] + (rot(w[i - 2], 17) ^ rot(w[i - 2], 19) ^ w[i - 2] >> 10);
        std::copy(h, h + 8, s);
        for (int i = 0; i < 64; i++) {
            uint t1 = s[7] + (rot(s[4], 6) ^ rot(s[4], 11) ^ rot(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) + K[i] + w[i];
            uint t2 = (rot(s[0], 2) ^ rot(s[0], 13) ^ rot(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
            for (int k = 7; k > 0; k--) s[k] = s[k - 1];
            s[4] += t1; s[0] = t1 + t2;
        }
        for (int i = 0; i < 8; i++) h[i] += s[i];
    }
    ArrayResize(result, 32);
    for (int i = 0; i < 32; i++) result[i] = uchar(h[i / 4] >> (24 - 8 * (i % 4)));
    return 32;
}

inline void mql_forget();

#include "mqlnet.h"

// Files ----------------------------------------------------------------------------------------------------------------

#define FILE_READ 1
#define FILE_WRITE 2
#define FILE_BIN 4
#define FILE_SHARE_READ 128
#define FILE_SHARE_WRITE 256
#define FILE_REWRITE 512
#define FILE_COMMON 4096
enum ENUM_FILE_POSITION { SEEK_SET_MQL, SEEK_CUR_MQL, SEEK_END_MQL };
#undef SEEK_SET
#undef SEEK_CUR
#undef SEEK_END
#define SEEK_SET SEEK_SET_MQL
#define SEEK_CUR SEEK_CUR_MQL
#define SEEK_END SEEK_END_MQL

inline std::string mql_path(const string &name, int flags) {
    const char *root = getenv(flags & FILE_COMMON ? "MQL_COMMON" : "MQL_FILES");
    if (!root) mql_critical("no folder for files");
    std::string p = name.utf8();
    std::replace(p.begin(), p.end(), '\\', '/');
    if (p.find("..") != std::string::npos) mql_critical("a path may not leave the sandbox: " + p);
    return std::string(root) + "/" + p;
}
inline void mql_parents(const std::string &path) {
    for (size_t i = 1; i < path.size(); i++)
        if (path[i] == '/') mkdir(path.substr(0, i).c_str(), 0700);
}
inline std::map<int, FILE *> mql_files;
inline int FileOpen(const string &name, int flags) {
    static const string pipes(u"\\\\.\\pipe\\");
    if (!(flags & FILE_BIN)) mql_critical("only binary files keep UTF-8");
    if (StringFind(name, pipes) == 0) return mql_pipe_open(StringSubstr(name, StringLen(pipes)).utf8(), flags);
    std::string p = mql_path(name, flags);
    if (flags & FILE_WRITE) mql_parents(p);
    FILE *f = nullptr;
    if ((flags & FILE_READ) && (flags & FILE_WRITE)) { f = fopen(p.c_str(), "r+b"); if (!f) f = fopen(p.c_str(), "w+b"); }
    else f = fopen(p.c_str(), flags & FILE_WRITE ? "wb" : "rb");
    if (!f) { mql_last_error = 5004; return INVALID_HANDLE; }
    static int next = 0;
    mql_files[++next] = f;
    return next;
}
inline FILE *mql_file(int h) { auto at = mql_files.find(h); if (at == mql_files.end()) mql_critical("a file that is not open"); return at->second; }
inline void FileClose(int h) { if (mql_pipe(h)) { mql_pipe_close(h); return; } fclose(mql_file(h)); mql_files.erase(h); }
inline void FileFlush(int h) { if (mql_pipe(h)) { mql_pipe(h)->unflushed = false; return; } fflush(mql_file(h)); }
inline ulong FileSize(int h) { if (mql_pipe(h)) return mql_pipe_waiting(h); fflush(mql_file(h)); struct stat s; fstat(fileno(mql_file(h)), &s); return ulong(s.st_size); }
inline bool FileSeek(int h, long offset, ENUM_FILE_POSITION from) { if (mql_pipe(h)) return true; return fseek(mql_file(h), offset, int(from)) == 0; }
inline uint FileWriteArray(int h, const MqlArray<uchar> &a, int start = 0, int count = -1) {
    if (count < 0) count = ArraySize(a) - start;
    if (mql_pipe(h)) return mql_pipe_write(h, a, start, count);
    return uint(fwrite(a.v.data() + start, 1, size_t(count), mql_file(h)));
}
inline uint FileReadArray(int h, MqlArray<uchar> &a, int start = 0, int count = -1) {
    mql_forget();
    if (mql_pipe(h)) return mql_pipe_read(h, a, start, count);
    if (count < 0) { long at = ftell(mql_file(h)); count = int(long(FileSize(h)) - at); }
    if (ArraySize(a) < start + count) ArrayResize(a, start + count);
    return uint(fread(a.v.data() + start, 1, size_t(count), mql_file(h)));
}
inline bool FileIsExist(const string &name, int flags = 0) { struct stat s; return stat(mql_path(name, flags).c_str(), &s) == 0 && S_ISREG(s.st_mode); }
inline bool FileDelete(const string &name, int flags = 0) { return unlink(mql_path(name, flags).c_str()) == 0; }
inline bool FileMove(const string &from, int common, const string &to, int flags) {
    if (FileIsExist(to, flags) && !(flags & FILE_REWRITE)) { mql_last_error = 5020; return false; }
    mql_parents(mql_path(to, flags));
    return rename(mql_path(from, common).c_str(), mql_path(to, flags).c_str()) == 0;
}
struct MqlSearch { std::vector<std::string> names; size_t at; };
inline std::map<long, MqlSearch> mql_searches;
inline long FileFindFirst(const string &filter, string &found, int flags = 0) {
    std::string p = mql_path(filter, flags), folder = p.substr(0, p.rfind('/')), mask = p.substr(p.rfind('/') + 1);
    std::string suffix = mask.substr(1);
    if (mask.empty() || mask[0] != '*') mql_critical("only masks that begin with * are known here");
    MqlSearch search{{}, 0};
    if (DIR *d = opendir(folder.c_str())) {
        while (dirent *e = readdir(d)) {
            std::string n = e->d_name;
            if (n[0] != '.' && n.size() >= suffix.size() && n.compare(n.size() - suffix.size(), suffix.size(), suffix) == 0) search.names.push_back(n);
        }
        closedir(d);
    }
    if (search.names.empty()) return INVALID_HANDLE;
    static long next = 0;
    found = mql_text(search.names[0]);
    search.at = 1;
    mql_searches[++next] = search;
    return next;
}
inline bool FileFindNext(long h, string &found) {
    MqlSearch &s = mql_searches[h];
    if (s.at >= s.names.size()) return false;
    found = mql_text(s.names[s.at++]);
    return true;
}
inline void FileFindClose(long h) { mql_searches.erase(h); }

// The terminal: rows of texts from whoever plays it ---------------------------------------------------------------------

typedef std::vector<std::string> MqlRow;
typedef std::vector<MqlRow> MqlRows;

inline std::string mql_json(const std::string &t) {
    std::string out = "\"";
    for (unsigned char c : t) { char b[8]; if (c == '"' || c == '\\') { out += '\\'; out += char(c); } else if (c < 32) { snprintf(b, 8, "\\u%04x", c); out += b; } else out += char(c); }
    return out + "\"";
}
inline MqlRows mql_rows(const std::string &t) {
    MqlRows rows;
    int depth = 0;
    for (size_t i = 0; i < t.size(); i++) {
        if (t[i] == '[' && ++depth == 2) rows.emplace_back();
        else if (t[i] == ']') depth--;
        else if (t[i] == '"') {
            std::string s;
            for (i++; t[i] != '"'; i++) {
                if (t[i] != '\\') { s += t[i]; continue; }
                if (t[++i] == 'u') { s += mql_utf8(std::u16string(1, char16_t(strtol(t.substr(i + 1, 4).c_str(), nullptr, 16)))); i += 4; }
                else s += t[i] == 'n' ? '\n' : t[i] == 't' ? '\t' : t[i];
            }
            rows.back().push_back(s);
        }
    }
    return rows;
}
#ifdef MQL_FUZZ
MqlRows mql_fuzz_answer(const MqlRow &call);
inline MqlRows mql_ask(const MqlRow &call) { return mql_fuzz_answer(call); }
#else
inline MqlRows mql_ask(const MqlRow &call) {
    static int s = -1;
    static std::string rest;
    if (s < 0) s = mql_dial("127.0.0.1", int(mql_env("MQL_TERMINAL_PORT", 0)));
    if (s < 0) mql_critical("nobody plays the terminal");
    std::string line = "[";
    for (size_t i = 0; i < call.size(); i++) line += (i ? "," : "") + mql_json(call[i]);
    line += "]\n";
    for (size_t at = 0; at < line.size();) { ssize_t n = send(s, line.data() + at, line.size() - at, MSG_NOSIGNAL); if (n <= 0) _exit(0); at += size_t(n); }
    size_t end;
    while ((end = rest.find('\n')) == std::string::npos) { char b[65536]; ssize_t n = recv(s, b, sizeof b, 0); if (n <= 0) _exit(0); rest.append(b, size_t(n)); }
    std::string answer = rest.substr(0, end);
    rest.erase(0, end + 1);
    return mql_rows(answer);
}
#endif
inline std::string mql_str(double v) { char b[40]; snprintf(b, 40, "%.17g", v); return b; }
// What a terminal tells property by property comes in one row here, kept for two milliseconds, or until something arrives or is traded.
struct MqlKept { MqlRow row; ulong at; };
inline std::map<std::string, MqlKept> mql_kept;
inline void mql_forget() { mql_kept.clear(); }
inline const MqlRow &mql_row(const std::string &what, const std::string &of = "") {
    MqlKept &k = mql_kept[what + of];
    if (k.at == 0 || GetMicrosecondCount() - k.at > 2000) { MqlRows r = mql_ask({what, of}); k.row = r.empty() ? MqlRow() : r[0]; k.at = GetMicrosecondCount(); }
    return k.row;
}
inline std::string mql_cell(const MqlRow &row, int i) { return size_t(i) < row.size() ? row[size_t(i)] : ""; }
inline long mql_long(const MqlRow &row, int i) { return long(strtoll(mql_cell(row, i).c_str(), nullptr, 10)); }
inline double mql_double(const MqlRow &row, int i) { return strtod(mql_cell(row, i).c_str(), nullptr); }

enum ENUM_ACCOUNT_INFO_INTEGER { ACCOUNT_LOGIN, ACCOUNT_TRADE_MODE, ACCOUNT_LEVERAGE, ACCOUNT_MARGIN_MODE, ACCOUNT_TRADE_ALLOWED, ACCOUNT_TRADE_EXPERT };
enum ENUM_ACCOUNT_INFO_DOUBLE { ACCOUNT_BALANCE = 6, ACCOUNT_CREDIT, ACCOUNT_PROFIT, ACCOUNT_EQUITY, ACCOUNT_MARGIN, ACCOUNT_MARGIN_FREE, ACCOUNT_MARGIN_LEVEL };
enum ENUM_ACCOUNT_INFO_STRING { ACCOUNT_NAME = 13, ACCOUNT_SERVER, ACCOUNT_CURRENCY, ACCOUNT_COMPANY };
enum ENUM_ACCOUNT_TRADE_MODE { ACCOUNT_TRADE_MODE_DEMO, ACCOUNT_TRADE_MODE_CONTEST, ACCOUNT_TRADE_MODE_REAL };
enum ENUM_ACCOUNT_MARGIN_MODE { ACCOUNT_MARGIN_MODE_RETAIL_NETTING, ACCOUNT_MARGIN_MODE_EXCHANGE, ACCOUNT_MARGIN_MODE_RETAIL_HEDGING };
inline long AccountInfoInteger(ENUM_ACCOUNT_INFO_INTEGER p) { return mql_long(mql_row("account"), p); }
inline double AccountInfoDouble(ENUM_ACCOUNT_INFO_DOUBLE p) { return mql_double(mql_row("account"), p); }
inline string AccountInfoString(ENUM_ACCOUNT_INFO_STRING p) { return mql_text(mql_cell(mql_row("account"), p)); }

enum ENUM_TERMINAL_INFO_INTEGER { TERMINAL_CONNECTED, TERMINAL_TRADE_ALLOWED, TERMINAL_BUILD };
enum ENUM_MQL_INFO_INTEGER { MQL_TRADE_ALLOWED = 3 };
inline int TerminalInfoInteger(ENUM_TERMINAL_INFO_INTEGER p) { return int(mql_long(mql_row("terminal"), p)); }
inline int MQLInfoInteger(ENUM_MQL_INFO_INTEGER p) { return int(mql_long(mql_row("terminal"), p)); }
inline datetime TimeCurrent() { return mql_long(mql_row("time"), 0); }
inline datetime TimeTradeServer() { return mql_long(mql_row("time"), 1); }
inline string Symbol() { return mql_text(mql_cell(mql_row("time"), 2)); }

enum ENUM_SYMBOL_TRADE_MODE { SYMBOL_TRADE_MODE_DISABLED, SYMBOL_TRADE_MODE_LONGONLY, SYMBOL_TRADE_MODE_SHORTONLY, SYMBOL_TRADE_MODE_CLOSEONLY, SYMBOL_TRADE_MODE_FULL };
enum ENUM_SYMBOL_TRADE_EXECUTION { SYMBOL_TRADE_EXECUTION_REQUEST, SYMBOL_TRADE_EXECUTION_INSTANT, SYMBOL_TRADE_EXECUTION_MARKET, SYMBOL_TRADE_EXECUTION_EXCHANGE };
enum ENUM_SYMBOL_INFO_INTEGER { SYMBOL_SELECT, SYMBOL_DIGITS, SYMBOL_TRADE_STOPS_LEVEL, SYMBOL_TRADE_FREEZE_LEVEL, SYMBOL_TRADE_MODE, SYMBOL_TRADE_EXEMODE, SYMBOL_FILLING_MODE, SYMBOL_TRADE_CALC_MODE };
enum ENUM_SYMBOL_INFO_DOUBLE { SYMBOL_BID = 8, SYMBOL_ASK, SYMBOL_POINT, SYMBOL_TRADE_TICK_SIZE, SYMBOL_TRADE_TICK_VALUE, SYMBOL_TRADE_TICK_VALUE_LOSS, SYMBOL_TRADE_CONTRACT_SIZE, SYMBOL_VOLUME_MIN, SYMBOL_VOLUME_STEP, SYMBOL_VOLUME_MAX, SYMBOL_VOLUME_LIMIT, SYMBOL_TRADE_TICK_VALUE_PROFIT };
enum ENUM_SYMBOL_INFO_STRING { SYMBOL_CURRENCY_BASE = 20, SYMBOL_CURRENCY_PROFIT, SYMBOL_CURRENCY_MARGIN };
inline long SymbolInfoInteger(const string &s, ENUM_SYMBOL_INFO_INTEGER p) { return mql_long(mql_row("symbol", s.utf8()), p); }
inline double SymbolInfoDouble(const string &s, ENUM_SYMBOL_INFO_DOUBLE p) { return mql_double(mql_row("symbol", s.utf8()), p); }
inline string SymbolInfoString(const string &s, ENUM_SYMBOL_INFO_STRING p) { return mql_text(mql_cell(mql_row("symbol", s.utf8()), p)); }
inline bool mql_done(const MqlRows &r) { return !r.empty() && !r[0].empty() && r[0][0] == "1"; }
inline bool SymbolSelect(const string &s, bool) { mql_kept.clear(); return mql_done(mql_ask({"select", s.utf8()})); }
inline MqlRow mql_symbols;
inline int SymbolsTotal(bool) { MqlRows r = mql_ask({"symbols"}); mql_symbols = r.empty() ? MqlRow() : r[0]; return int(mql_symbols.size()); }
inline string SymbolName(int i, bool) { return mql_text(mql_cell(mql_symbols, i)); }
struct MqlTick { datetime time; double bid, ask, last; ulong volume; long time_msc; uint flags; };
inline bool SymbolInfoTick(const string &s, MqlTick &t) {
    MqlRows r = mql_ask({"tick", s.utf8()});
    if (r.empty()) return false;
    t = MqlTick{mql_long(r[0], 0) / 1000, mql_double(r[0], 1), mql_double(r[0], 2), 0, 0, mql_long(r[0], 0), 0};
    return true;
}

enum ENUM_TIMEFRAMES { PERIOD_CURRENT = 0, PERIOD_M1 = 1, PERIOD_M5 = 5, PERIOD_M15 = 15, PERIOD_M30 = 30, PERIOD_H1 = 16385, PERIOD_H4 = 16388, PERIOD_D1 = 16408, PERIOD_W1 = 32769, PERIOD_MN1 = 49153 };
struct MqlRates { datetime time; double open, high, low, close; long tick_volume; int spread; long real_volume; };
inline int CopyRates(const string &symbol, ENUM_TIMEFRAMES period, int start, int count, MqlArray<MqlRates> &rates) {
    MqlRows r = mql_ask({"rates", symbol.utf8(), std::to_string(period), std::to_string(start), std::to_string(count)});
    rates.v.clear();
    for (const MqlRow &x : r) rates.v.push_back({mql_long(x, 0), mql_double(x, 1), mql_double(x, 2), mql_double(x, 3), mql_double(x, 4), mql_long(x, 5), int(mql_long(x, 6)), 0});
    if (r.empty()) mql_last_error = 4401;
    return r.empty() ? -1 : int(r.size());
}

#ifdef __MQL5__
#include "mql5.h"
#else
#include "mql4.h"
#endif
