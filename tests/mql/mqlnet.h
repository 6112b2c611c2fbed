// Sockets, TLS, HTTP requests and named pipes of MQL, over POSIX; TLS by OpenSSL where it is installed.
#pragma once
#ifdef MQL_TLS
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#endif
#include <sys/ioctl.h>
#include <sys/un.h>

#define INVALID_HANDLE (-1)
#ifdef __MQL5__
enum { MQL_NOT_ALLOWED = 4014 };
#else
enum { MQL_NOT_ALLOWED = 4060 };
#endif

// The terminal's list of addresses that programs may dial: all of them, unless a test names some.
inline bool mql_allowed(const std::string &address) {
    const char *list = getenv("MQL_ALLOWED");
    if (!list) return true;
    std::string all = std::string(list) + ",";
    for (size_t at = 0, end; (end = all.find(',', at)) != std::string::npos; at = end + 1)
        if (end > at && address.compare(0, end - at, all, at, end - at) == 0) return true;
    mql_last_error = MQL_NOT_ALLOWED;
    return false;
}
inline bool mql_ready(int s, short what, int ms) { pollfd p{s, what, 0}; return poll(&p, 1, ms) > 0; }
inline int mql_dial(const std::string &host, int port) {
    int s = socket(AF_INET, SOCK_STREAM, 0), one = 1, waiting = 65536;
    // As much as Windows keeps of what is not yet sent: Linux would take megabytes before anybody has to wait.
    setsockopt(s, SOL_SOCKET, SO_SNDBUF, &waiting, sizeof waiting);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(uint16_t(port));
    std::string number = host == "localhost" ? "127.0.0.1" : host;
    if (inet_pton(AF_INET, number.c_str(), &to.sin_addr) != 1 || connect(s, reinterpret_cast<sockaddr *>(&to), sizeof to) != 0) { close(s); return -1; }
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return s;
}

// One connection, encrypted or not.
struct MqlSocket {
    int s = -1;
    uint send_ms = 5000;
#ifdef MQL_TLS
    SSL *tls = nullptr;
    bool handshake(const std::string &host) {
        static SSL_CTX *context = nullptr;
        if (!context) {
            context = SSL_CTX_new(TLS_client_method());
            SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
            const char *trusted = getenv("MQL_TRUST");
            if (trusted) SSL_CTX_load_verify_locations(context, trusted, nullptr);
        }
        tls = SSL_new(context);
        X509_VERIFY_PARAM *rules = SSL_get0_param(tls);
        if (!X509_VERIFY_PARAM_set1_ip_asc(rules, host.c_str())) X509_VERIFY_PARAM_set1_host(rules, host.c_str(), 0);
        SSL_set_fd(tls, s);
        timeval limit{5, 0};
        setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        return SSL_connect(tls) == 1;
    }
    bool encrypted() const { return tls != nullptr; }
    void end() { if (tls) { SSL_shutdown(tls); SSL_free(tls); tls = nullptr; } if (s >= 0) close(s); s = -1; }
    // Bytes taken without waiting, or within so long: 0 is nothing yet, -1 a broken connection.
    ssize_t take(void *to, size_t most, int ms) {
        if (!tls) { if (!mql_ready(s, POLLIN, ms)) return 0; ssize_t n = recv(s, to, most, 0); return n > 0 ? n : -1; }
        if (!SSL_pending(tls) && !mql_ready(s, POLLIN, ms)) return 0;
        int n = SSL_read(tls, to, int(most));
        if (n > 0) return n;
        int why = SSL_get_error(tls, n);
        return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? 0 : -1;
    }
    ssize_t give(const void *from, size_t count, int ms) {
        if (!mql_ready(s, POLLOUT, ms)) return -1;
        return tls ? SSL_write(tls, from, int(count)) : send(s, from, count, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
#else
    bool handshake(const std::string &) { return false; }
    bool encrypted() const { return false; }
    void end() { if (s >= 0) close(s); s = -1; }
    ssize_t take(void *to, size_t most, int ms) { if (!mql_ready(s, POLLIN, ms)) return 0; ssize_t n = recv(s, to, most, 0); return n > 0 ? n : -1; }
    ssize_t give(const void *from, size_t count, int ms) { return mql_ready(s, POLLOUT, ms) ? send(s, from, count, MSG_NOSIGNAL | MSG_DONTWAIT) : -1; }
#endif
};

// Sockets (MQL5 only)

#ifdef __MQL5__
inline std::map<int, MqlSocket> mql_sockets;
inline size_t mql_chunk(size_t most) { static const size_t chunk = size_t(mql_env("MQL_SOCKET_CHUNK", 1 << 20)); return std::min(most, chunk); }
inline int SocketCreate(uint = 0) { static int next = 0; mql_sockets[++next] = MqlSocket(); return next; }
inline bool SocketConnect(int h, const string &host, uint port, uint) {
    if (!mql_allowed(host.utf8())) return false;
    int s = mql_dial(host.utf8(), int(port));
    if (s < 0) { mql_last_error = 5272; return false; }
    mql_sockets[h].s = s;
    return true;
}
inline bool SocketIsConnected(int h) { auto at = mql_sockets.find(h); return at != mql_sockets.end() && at->second.s >= 0; }
inline bool SocketClose(int h) { auto at = mql_sockets.find(h); if (at == mql_sockets.end()) return false; at->second.end(); mql_sockets.erase(at); return true; }
inline void mql_broken(int h) { mql_sockets[h].end(); mql_last_error = 5273; }
inline bool SocketTimeouts(int h, uint send_ms, uint) { mql_sockets[h].send_ms = send_ms; return true; }
inline uint SocketIsReadable(int h) {
    if (!SocketIsConnected(h)) return 0;
    static char b[65536];
    ssize_t n = recv(mql_sockets[h].s, b, mql_chunk(sizeof b), MSG_PEEK | MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) { mql_broken(h); return 0; }
    return n < 0 ? 0 : uint(n);
}
inline int mql_taken(int h, MqlArray<uchar> &a, uint most, int ms) {
    mql_forget();
    if (!SocketIsConnected(h)) return -1;
    size_t wanted = mql_chunk(most);
    if (ArraySize(a) < int(wanted)) ArrayResize(a, int(wanted));
    ssize_t n = mql_sockets[h].take(a.v.data(), wanted, ms);
    if (n < 0) { mql_broken(h); return -1; }
    return int(n);
}
inline int SocketRead(int h, MqlArray<uchar> &a, uint most, uint ms) {
    if (SocketIsConnected(h) && mql_sockets[h].encrypted()) mql_critical("SocketRead of an encrypted connection");
    int n = mql_taken(h, a, most, int(ms));
    return n == 0 ? -1 : n;
}
inline int SocketTlsReadAvailable(int h, MqlArray<uchar> &a, uint most) {
    if (SocketIsConnected(h) && !mql_sockets[h].encrypted()) mql_critical("SocketTlsReadAvailable of a connection in the clear");
    return mql_taken(h, a, most, 0);
}
inline int mql_given(int h, const MqlArray<uchar> &a, uint count) {
    if (!SocketIsConnected(h)) return -1;
    if (size_t(count) > a.v.size()) mql_critical("more to send than there is");
    ssize_t n = mql_sockets[h].give(a.v.data(), mql_chunk(count), int(mql_sockets[h].send_ms));
    if (n < 0) { mql_broken(h); return -1; }
    return int(n);
}
inline int SocketSend(int h, const MqlArray<uchar> &a, uint count) {
    if (SocketIsConnected(h) && mql_sockets[h].encrypted()) mql_critical("SocketSend on an encrypted connection");
    return mql_given(h, a, count);
}
inline int SocketTlsSend(int h, const MqlArray<uchar> &a, uint count) {
    if (SocketIsConnected(h) && !mql_sockets[h].encrypted()) mql_critical("SocketTlsSend on a connection in the clear");
    return mql_given(h, a, count);
}
inline bool SocketTlsHandshake(int h, const string &host) {
    if (SocketIsConnected(h) && mql_sockets[h].handshake(host.utf8())) return true;
    mql_broken(h);
    mql_last_error = 5274;
    return false;
}
inline bool SocketTlsCertificate(int h, string &, string &, string &, string &thumbprint, datetime &) {
#ifdef MQL_TLS
    X509 *shown = SocketIsConnected(h) && mql_sockets[h].tls ? SSL_get_peer_certificate(mql_sockets[h].tls) : nullptr;
    if (shown) {
        unsigned char digest[64];
        unsigned int count = 0;
        X509_digest(shown, EVP_sha1(), digest, &count);
        X509_free(shown);
        thumbprint = string();
        for (unsigned int i = 0; i < count; i++) { char b[4]; snprintf(b, 4, "%02X", digest[i]); thumbprint += mql_text(b); }
        return true;
    }
#endif
    (void)h; (void)thumbprint;
    mql_last_error = 5275;
    return false;
}
#endif

// HTTP, as WebRequest speaks it: one connection is kept for the next request.

inline int WebRequest(const string &method, const string &url, const string &headers, int timeout, const MqlArray<char> &data, MqlArray<char> &result, string &answered) {
    static MqlSocket line;
    static std::string place;
    mql_forget();
    std::string address = url.utf8();
    if (!mql_allowed(address)) return -1;
    size_t start = address.find("://"), slash = address.find('/', start + 3);
    if (start == std::string::npos || slash == std::string::npos || address.size() > 1024) { mql_last_error = 5200; return -1; }
    bool secret = address.compare(0, start, "https") == 0;
    std::string host = address.substr(start + 3, slash - start - 3), name = host.substr(0, host.find(':'));
    int port = host.find(':') == std::string::npos ? (secret ? 443 : 80) : atoi(host.substr(host.find(':') + 1).c_str());
    ulong give_up = GetMicrosecondCount() / 1000 + ulong(timeout);
    auto left = [&] { long ms = long(give_up) - long(GetMicrosecondCount() / 1000); return int(ms > 0 ? ms : 0); };
    char b[65536];
    if (line.s >= 0 && (place != host || (mql_ready(line.s, POLLIN, 0) && line.take(b, sizeof b, 0) < 0))) line.end();
    if (line.s < 0) {
        line.s = mql_dial(name, port);
        place = host;
        if (line.s < 0 || (secret && !line.handshake(name))) { line.end(); mql_last_error = 5201; return -1; }
    }
    std::string all = method.utf8() + " " + address.substr(slash) + " HTTP/1.1\r\nHost: " + host + "\r\n" + headers.utf8() + "Content-Length: " + std::to_string(data.v.size()) + "\r\n\r\n";
    all.append(data.v.data(), data.v.size());
    for (size_t at = 0; at < all.size();) {
        ssize_t n = line.give(all.data() + at, all.size() - at, left());
        if (n <= 0) { line.end(); mql_last_error = 5203; return -1; }
        at += size_t(n);
    }
    std::string got;
    size_t head = std::string::npos, length = 0;
    while (head == std::string::npos || got.size() < head + 4 + length) {
        ssize_t n = line.take(b, sizeof b, left());
        if (n == 0 && left() > 0) continue;
        if (n <= 0) { line.end(); mql_last_error = n ? 5203 : 5202; return -1; }
        got.append(b, size_t(n));
        if (head != std::string::npos || (head = got.find("\r\n\r\n")) == std::string::npos) continue;
        for (size_t i = 0; i < head; i++) got[i] = char(tolower(got[i]));
        size_t at = got.find("\r\ncontent-length:");
        length = at < head ? size_t(atol(got.c_str() + at + 17)) : 0;
    }
    size_t first = got.find("\r\n");
    answered = mql_text(got.substr(first + 2, head - first));
    result.v.assign(got.begin() + long(head) + 4, got.begin() + long(head + 4 + length));
    if (got.find("\r\nconnection: close") < head) line.end();
    return atoi(got.c_str() + 9);
}

// Named pipes: Unix sockets in the folder of pipes. A write must be flushed before the next read, as MetaQuotes documents.

struct MqlPipe { int s; bool unflushed; };
inline std::map<int, MqlPipe> mql_pipes;
inline MqlPipe *mql_pipe(int h) { auto at = mql_pipes.find(h); return at == mql_pipes.end() ? nullptr : &at->second; }
inline int mql_pipe_open(const std::string &name, int flags) {
    const char *folder = getenv("MQL_PIPES");
    if ((flags & 3) != 3) mql_critical("a pipe is opened to read and to write");
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    snprintf(to.sun_path, sizeof to.sun_path, "%s/%s.pipe", folder ? folder : "", name.c_str());
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(s, reinterpret_cast<sockaddr *>(&to), sizeof to) != 0) { close(s); mql_last_error = 5004; return INVALID_HANDLE; }
    static int next = 1 << 20;
    mql_pipes[++next] = MqlPipe{s, false};
    return next;
}
inline void mql_pipe_close(int h) { close(mql_pipes[h].s); mql_pipes.erase(h); }
inline ulong mql_pipe_waiting(int h) {
    int waiting = 0;
    char b;
    if (ioctl(mql_pipes[h].s, FIONREAD, &waiting) != 0 || (waiting == 0 && recv(mql_pipes[h].s, &b, 1, MSG_PEEK | MSG_DONTWAIT) == 0)) mql_last_error = 5025;
    return ulong(waiting);
}
inline uint mql_pipe_write(int h, const MqlArray<uchar> &a, int start, int count) {
    int given = 0;
    while (given < count) {
        ssize_t n = send(mql_pipes[h].s, a.v.data() + start + given, size_t(count - given), MSG_NOSIGNAL);
        if (n <= 0) { mql_last_error = 5026; break; }
        given += int(n);
    }
    mql_pipes[h].unflushed = true;
    return uint(given);
}
inline uint mql_pipe_read(int h, MqlArray<uchar> &a, int start, int count) {
    if (mql_pipes[h].unflushed) mql_critical("a pipe is read before what was written is flushed");
    if (count < 0) mql_critical("a pipe is read without a count");
    if (ArraySize(a) < start + count) ArrayResize(a, start + count);
    int taken = 0;
    while (taken < count) {
        ssize_t n = recv(mql_pipes[h].s, a.v.data() + start + taken, size_t(count - taken), 0);
        if (n <= 0) { mql_last_error = 5025; break; }
        taken += int(n);
    }
    return uint(taken);
}
