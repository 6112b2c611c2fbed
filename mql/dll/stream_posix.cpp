// Connections on Linux, where the Expert Advisors are tried out: sockets, local sockets in place of pipes, and TLS by the
// system's OpenSSL, which is looked up when it is needed.
#include <arpa/inet.h>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "stream.h"

namespace {

Failure broken(const char *doing) {
    const bool closed = errno == ECONNRESET || errno == EPIPE;
    return {closed ? COPIER_CLOSED : COPIER_BROKEN, std::string(doing) + ": " + strerror(errno)};
}

bool later() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

void prepare(int fd) {
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
}

// What is read and written through one descriptor.
class Descriptor : public Stream {
public:
    explicit Descriptor(Wake &wake) : wake_(wake) {}
    ~Descriptor() override { leave(); }

    size_t read(unsigned char *to, size_t most) override {
        const ssize_t count = recv(fd_, to, most, 0);
        if (count > 0) return static_cast<size_t>(count);
        if (count == 0) throw Failure{COPIER_CLOSED, "the other end closed the connection"};
        if (later()) return 0;
        throw broken("reading");
    }

    size_t write(const unsigned char *from, size_t count) override {
        const ssize_t moved = send(fd_, from, count, MSG_NOSIGNAL);
        if (moved >= 0) return static_cast<size_t>(moved);
        if (later()) return 0;
        throw broken("writing");
    }

    void wait(bool to_read, bool to_write, int ms) override {
        const int events = (to_read ? POLLIN : 0) | (to_write ? POLLOUT : 0);
        pollfd both[2] = {{wake_.fd(), POLLIN, 0}, {events ? fd_ : -1, static_cast<short>(events), 0}};
        poll(both, 2, ms);
        wake_.clear();
    }

protected:
    void leave() {
        if (fd_ >= 0) close(fd_);
        fd_ = -1;
    }

    // Waits for a connection that was begun; returns what the system says about it.
    int connected(const Patience &patience, const char *doing) {
        int said = EINPROGRESS;
        while (said == EINPROGRESS) {
            wait(false, true, patience.left_ms(doing));
            pollfd one{fd_, POLLOUT, 0};
            if (poll(&one, 1, 0) <= 0) continue;
            socklen_t size = sizeof said;
            getsockopt(fd_, SOL_SOCKET, SO_ERROR, &said, &size);
        }
        return said;
    }

    Wake &wake_;
    int fd_ = -1;
};

class Tcp : public Descriptor {
public:
    Tcp(const std::string &host, int port, Wake &wake) : Descriptor(wake), host_(host), port_(port) {}

    void open(const Patience &patience) override {
        addrinfo wanted{}, *found = nullptr;
        wanted.ai_socktype = SOCK_STREAM;
        if (getaddrinfo(host_.c_str(), std::to_string(port_).c_str(), &wanted, &found) != 0)
            throw Failure{COPIER_NOT_FOUND, host_ + " has no address"};
        std::unique_ptr<addrinfo, void (*)(addrinfo *)> list(found, freeaddrinfo);
        int said = 0;
        for (const addrinfo *each = found; each; each = each->ai_next) {
            leave();
            fd_ = socket(each->ai_family, each->ai_socktype, each->ai_protocol);
            if (fd_ < 0) continue;
            prepare(fd_);
            said = connect(fd_, each->ai_addr, each->ai_addrlen) == 0 ? 0 : errno;
            if (said == EINPROGRESS) said = connected(patience, "connecting");
            if (said == 0) {
                int one = 1;
                setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                return;
            }
        }
        throw Failure{COPIER_NOT_CONNECTED, host_ + ":" + std::to_string(port_) + ": " + strerror(said)};
    }

protected:
    std::string host_;
    int port_;
};

// The handful of OpenSSL's functions that a client needs, by their documented prototypes.
struct OpenSsl {
    void *(*method)();
    void *(*context_new)(void *);
    void (*context_free)(void *);
    int (*default_paths)(void *);
    void *(*ssl_new)(void *);
    void (*ssl_free)(void *);
    int (*set_fd)(void *, int);
    int (*set_host)(void *, const char *);
    long (*ctrl)(void *, int, long, void *);
    void (*set_verify)(void *, int, void *);
    long (*verify_result)(const void *);
    int (*connect)(void *);
    int (*read)(void *, void *, int);
    int (*write)(void *, const void *, int);
    int (*error_of)(const void *, int);
    void (*forget_errors)();
};

const OpenSsl &open_ssl() {
    static const OpenSsl *found = [] {
        void *library = loaded_library("libssl.so.3");
        OpenSsl *made = new OpenSsl();
        auto find = [library](auto &function, const char *name) {
            void *address = library ? loaded_function(library, name) : nullptr;
            if (!address) throw Failure{COPIER_NO_LIBRARY, "libssl.so.3 is not installed"};
            memcpy(&function, &address, sizeof address);
        };
        find(made->method, "TLS_client_method");
        find(made->context_new, "SSL_CTX_new");
        find(made->context_free, "SSL_CTX_free");
        find(made->default_paths, "SSL_CTX_set_default_verify_paths");
        find(made->ssl_new, "SSL_new");
        find(made->ssl_free, "SSL_free");
        find(made->set_fd, "SSL_set_fd");
        find(made->set_host, "SSL_set1_host");
        find(made->ctrl, "SSL_ctrl");
        find(made->set_verify, "SSL_set_verify");
        find(made->verify_result, "SSL_get_verify_result");
        find(made->connect, "SSL_connect");
        find(made->read, "SSL_read");
        find(made->write, "SSL_write");
        find(made->error_of, "SSL_get_error");
        find(made->forget_errors, "ERR_clear_error");
        return made;
    }();
    return *found;
}

class Tls : public Tcp {
public:
    using Tcp::Tcp;
    ~Tls() override {
        if (ssl_) open_ssl().ssl_free(ssl_);
        if (context_) open_ssl().context_free(context_);
    }

    void open(const Patience &patience) override {
        const OpenSsl &openssl = open_ssl();
        const int WANT_READ = 2, WANT_WRITE = 3, VERIFY_PEER = 1, SET_HOSTNAME = 55, MIN_VERSION = 123, TLS_1_2 = 0x0303;
        Tcp::open(patience);
        openssl.forget_errors();
        context_ = openssl.context_new(openssl.method());
        if (!context_ || openssl.default_paths(context_) != 1) throw Failure{COPIER_NOT_TRUSTED, "no certificates are installed"};
        ssl_ = openssl.ssl_new(context_);
        if (!ssl_ || openssl.set_fd(ssl_, fd_) != 1 || openssl.set_host(ssl_, host_.c_str()) != 1)
            throw Failure{COPIER_INTERNAL, "OpenSSL cannot begin"};
        openssl.ctrl(ssl_, MIN_VERSION, TLS_1_2, nullptr);
        openssl.ctrl(ssl_, SET_HOSTNAME, 0, const_cast<char *>(host_.c_str()));
        openssl.set_verify(ssl_, VERIFY_PEER, nullptr);
        for (int done = openssl.connect(ssl_); done != 1; done = openssl.connect(ssl_)) {
            const int error = openssl.error_of(ssl_, done);
            if (error != WANT_READ && error != WANT_WRITE) {
                const std::string number = std::to_string(openssl.verify_result(ssl_));
                throw Failure{COPIER_NOT_TRUSTED, host_ + ": the TLS handshake failed, verification says " + number};
            }
            wait(error == WANT_READ, error == WANT_WRITE, patience.left_ms("the TLS handshake"));
        }
    }

    size_t read(unsigned char *to, size_t most) override {
        open_ssl().forget_errors();
        return moved(open_ssl().read(ssl_, to, static_cast<int>(most)), "reading");
    }

    size_t write(const unsigned char *from, size_t count) override {
        open_ssl().forget_errors();
        return moved(open_ssl().write(ssl_, from, static_cast<int>(count)), "writing");
    }

private:
    size_t moved(int count, const char *doing) {
        if (count > 0) return static_cast<size_t>(count);
        const int WANT_READ = 2, WANT_WRITE = 3, CLOSED = 6;
        const int error = open_ssl().error_of(ssl_, count);
        if (error == WANT_READ || error == WANT_WRITE) return 0;
        throw Failure{error == CLOSED ? COPIER_CLOSED : COPIER_BROKEN, std::string(doing) + ": the secure connection ended"};
    }

    void *context_ = nullptr;
    void *ssl_ = nullptr;
};

sockaddr_un place_of(const std::string &name) {
    const char *folder = getenv("COPIER_PIPES");
    const std::string path = (folder ? std::string(folder) : "/tmp") + "/" + name + ".pipe";
    sockaddr_un place{};
    place.sun_family = AF_UNIX;
    if (path.size() >= sizeof place.sun_path) throw Failure{COPIER_BAD_ARGUMENT, "the path of the pipe is too long: " + path};
    memcpy(place.sun_path, path.c_str(), path.size() + 1);
    return place;
}

class LocalClient : public Descriptor {
public:
    LocalClient(const std::string &name, Wake &wake) : Descriptor(wake), name_(name) {}

    void open(const Patience &patience) override {
        const sockaddr_un place = place_of(name_);
        for (;;) {
            leave();
            fd_ = socket(AF_UNIX, SOCK_STREAM, 0);
            if (fd_ < 0) throw broken("a local socket");
            prepare(fd_);
            if (connect(fd_, reinterpret_cast<const sockaddr *>(&place), sizeof place) == 0) return;
            if (errno != EAGAIN) throw Failure{COPIER_NOT_CONNECTED, name_ + ": " + strerror(errno)};
            wait(false, false, patience.left_ms("opening the pipe") > 10 ? 10 : 1);
        }
    }

private:
    std::string name_;
};

class LocalServer : public Descriptor {
public:
    LocalServer(const std::string &name, Wake &wake) : Descriptor(wake), name_(name) {}
    ~LocalServer() override { stop_listening(); }

    void open(const Patience &patience) override {
        const sockaddr_un place = place_of(name_);
        listener_ = socket(AF_UNIX, SOCK_STREAM, 0);
        if (listener_ < 0) throw broken("a local socket");
        prepare(listener_);
        if (bind(listener_, reinterpret_cast<const sockaddr *>(&place), sizeof place) != 0)
            throw Failure{COPIER_NOT_CONNECTED, name_ + ": " + strerror(errno)};
        path_ = place.sun_path;
        chmod(path_.c_str(), 0600);
        if (listen(listener_, 1) != 0) throw broken("listening");
        while (fd_ < 0) {
            pollfd both[2] = {{wake_.fd(), POLLIN, 0}, {listener_, POLLIN, 0}};
            poll(both, 2, patience.left_ms("waiting for a client"));
            wake_.clear();
            fd_ = accept(listener_, nullptr, nullptr);
            if (fd_ >= 0 && !same_user()) leave();
        }
        prepare(fd_);
        stop_listening();
    }

private:
    bool same_user() const {
        ucred peer{};
        socklen_t size = sizeof peer;
        return getsockopt(fd_, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
    }

    void stop_listening() {
        if (listener_ >= 0) close(listener_);
        listener_ = -1;
        if (!path_.empty()) unlink(path_.c_str());
        path_.clear();
    }

    std::string name_;
    std::string path_;
    int listener_ = -1;
};

} // namespace

StreamPtr tcp_stream(const std::string &host, int port, Wake &wake) { return std::make_unique<Tcp>(host, port, wake); }
StreamPtr tls_stream(const std::string &host, int port, Wake &wake) { return std::make_unique<Tls>(host, port, wake); }
StreamPtr pipe_client(const std::string &name, Wake &wake) { return std::make_unique<LocalClient>(name, wake); }
StreamPtr pipe_server(const std::string &name, Wake &wake) { return std::make_unique<LocalServer>(name, wake); }
