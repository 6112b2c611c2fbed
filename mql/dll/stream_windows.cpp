// Connections on Windows: sockets, and pipes that nobody but this user on this machine can open.
#include "stream_windows.h"

#include <algorithm>
#include <sddl.h>
#include <vector>

namespace {

void need_sockets() {
    static const int failed = [] {
        WSADATA data;
        return WSAStartup(MAKEWORD(2, 2), &data);
    }();
    if (failed) throw Failure{COPIER_INTERNAL, "Windows has no sockets"};
}

Failure broken(const char *doing, unsigned long number) {
    const bool closed = number == WSAECONNRESET || number == WSAECONNABORTED || number == WSAESHUTDOWN ||
                        number == ERROR_BROKEN_PIPE || number == ERROR_NO_DATA || number == ERROR_PIPE_NOT_CONNECTED ||
                        number == ERROR_OPERATION_ABORTED;
    return {closed ? COPIER_CLOSED : COPIER_BROKEN, std::string(doing) + ": " + windows_error(number)};
}

} // namespace

std::string windows_error(unsigned long number) { return "Windows error " + std::to_string(number); }

Tcp::Tcp(const std::string &host, int port, Wake &wake) : host_(host), port_(port), wake_(wake) {
    need_sockets();
    event_ = WSACreateEvent();
    if (event_ == WSA_INVALID_EVENT) throw Failure{COPIER_INTERNAL, "no event could be made"};
}

Tcp::~Tcp() {
    leave();
    WSACloseEvent(event_);
}

void Tcp::leave() {
    if (socket_ != INVALID_SOCKET) closesocket(socket_);
    socket_ = INVALID_SOCKET;
}

void Tcp::open(const Patience &patience) {
    addrinfo wanted{}, *found = nullptr;
    wanted.ai_socktype = SOCK_STREAM;
    if (getaddrinfo(host_.c_str(), std::to_string(port_).c_str(), &wanted, &found) != 0)
        throw Failure{COPIER_NOT_FOUND, host_ + " has no address"};
    std::unique_ptr<addrinfo, void(WSAAPI *)(addrinfo *)> list(found, freeaddrinfo);
    int said = 0;
    for (const addrinfo *each = found; each; each = each->ai_next) {
        leave();
        socket_ = socket(each->ai_family, each->ai_socktype, each->ai_protocol);
        if (socket_ == INVALID_SOCKET) continue;
        connect_ended_ = false;
        WSAEventSelect(socket_, event_, FD_CONNECT | FD_READ | FD_WRITE | FD_CLOSE);
        said = connect(socket_, each->ai_addr, static_cast<int>(each->ai_addrlen)) == 0 ? 0 : WSAGetLastError();
        if (said == WSAEWOULDBLOCK) said = connected(patience);
        if (said == 0) {
            BOOL one = TRUE;
            setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, reinterpret_cast<const char *>(&one), sizeof one);
            return;
        }
    }
    const std::string why = windows_error(static_cast<unsigned long>(said));
    throw Failure{COPIER_NOT_CONNECTED, host_ + ":" + std::to_string(port_) + ": " + why};
}

int Tcp::connected(const Patience &patience) {
    while (!connect_ended_) wait(false, true, patience.left_ms("connecting"));
    return connect_error_;
}

size_t Tcp::read(unsigned char *to, size_t most) {
    const int count = recv(socket_, reinterpret_cast<char *>(to), static_cast<int>(most), 0);
    if (count > 0) return static_cast<size_t>(count);
    if (count == 0) throw Failure{COPIER_CLOSED, "the other end closed the connection"};
    const int error = WSAGetLastError();
    if (error == WSAEWOULDBLOCK) return 0;
    throw broken("reading", static_cast<unsigned long>(error));
}

size_t Tcp::write(const unsigned char *from, size_t count) {
    const int moved = send(socket_, reinterpret_cast<const char *>(from), static_cast<int>(count), 0);
    if (moved >= 0) return static_cast<size_t>(moved);
    const int error = WSAGetLastError();
    if (error == WSAEWOULDBLOCK) return 0;
    throw broken("writing", static_cast<unsigned long>(error));
}

void Tcp::wait(bool, bool, int ms) {
    HANDLE both[2] = {wake_.event(), event_};
    WaitForMultipleObjects(2, both, FALSE, static_cast<DWORD>(ms));
    WSANETWORKEVENTS happened{};
    if (WSAEnumNetworkEvents(socket_, event_, &happened) == 0 && (happened.lNetworkEvents & FD_CONNECT)) {
        connect_ended_ = true;
        connect_error_ = happened.iErrorCode[FD_CONNECT_BIT];
    }
}

namespace {

const DWORD PIPE_CHUNK = 65536;

// One reading or writing that the system is at.
class Operation {
public:
    Operation() : overlapped_(), buffer_(PIPE_CHUNK) {
        overlapped_.hEvent = CreateEventW(nullptr, TRUE, FALSE, nullptr);
        if (!overlapped_.hEvent) throw Failure{COPIER_INTERNAL, "no event could be made"};
    }
    ~Operation() { CloseHandle(overlapped_.hEvent); }
    Operation(const Operation &) = delete;
    Operation &operator=(const Operation &) = delete;

    OVERLAPPED *begin() {
        ResetEvent(overlapped_.hEvent);
        under_way_ = true;
        return &overlapped_;
    }

    // Looks whether it has ended; then `count` is what it moved. Throws where it failed.
    bool ended(HANDLE pipe, DWORD &count, const char *doing) {
        if (!GetOverlappedResult(pipe, &overlapped_, &count, FALSE)) {
            const DWORD error = GetLastError();
            if (error == ERROR_IO_INCOMPLETE) return false;
            under_way_ = false;
            throw broken(doing, error);
        }
        under_way_ = false;
        return true;
    }

    // What the system said when it began: nothing more is under way where that was an error.
    void began(BOOL done, const char *doing) {
        const DWORD error = done ? ERROR_SUCCESS : GetLastError();
        if (done || error == ERROR_IO_PENDING) return;
        under_way_ = false;
        throw broken(doing, error);
    }

    // The system may still write into the buffer until it says that it has ended.
    void cancel(HANDLE pipe) {
        DWORD count = 0;
        if (!under_way_) return;
        CancelIoEx(pipe, &overlapped_);
        GetOverlappedResult(pipe, &overlapped_, &count, TRUE);
        under_way_ = false;
    }

    void forget() { under_way_ = false; }
    bool under_way() const { return under_way_; }
    HANDLE event() const { return overlapped_.hEvent; }
    unsigned char *buffer() { return buffer_.data(); }

private:
    OVERLAPPED overlapped_;
    std::vector<unsigned char> buffer_;
    bool under_way_ = false;
};

class Pipe : public Stream {
public:
    Pipe(const std::string &name, Wake &wake) : path_(L"\\\\.\\pipe\\"), wake_(wake) {
        path_.append(name.begin(), name.end());
    }
    ~Pipe() override {
        if (pipe_ == INVALID_HANDLE_VALUE) return;
        reading_.cancel(pipe_);
        writing_.cancel(pipe_);
        CloseHandle(pipe_);
    }

    size_t read(unsigned char *to, size_t most) override {
        if (kept_ == kept_at_) {
            if (!reading_.under_way())
                reading_.began(ReadFile(pipe_, reading_.buffer(), PIPE_CHUNK, nullptr, reading_.begin()), "reading");
            DWORD count = 0;
            if (!reading_.ended(pipe_, count, "reading")) return 0;
            kept_ = count;
            kept_at_ = 0;
        }
        const size_t count = std::min(most, kept_ - kept_at_);
        std::copy_n(reading_.buffer() + kept_at_, count, to);
        kept_at_ += count;
        return count;
    }

    size_t write(const unsigned char *from, size_t count) override {
        if (!flush()) return 0;
        const size_t taken = std::min(count, static_cast<size_t>(PIPE_CHUNK));
        std::copy_n(from, taken, writing_.buffer());
        written_ = 0;
        to_write_ = taken;
        flush();
        return taken;
    }

    bool flush() override {
        for (;;) {
            if (writing_.under_way()) {
                DWORD count = 0;
                if (!writing_.ended(pipe_, count, "writing")) return false;
                written_ += count;
            }
            if (written_ == to_write_) return true;
            const DWORD left = static_cast<DWORD>(to_write_ - written_);
            writing_.began(WriteFile(pipe_, writing_.buffer() + written_, left, nullptr, writing_.begin()), "writing");
        }
    }

    void wait(bool, bool, int ms) override {
        HANDLE all[3] = {wake_.event()};
        DWORD count = 1;
        if (reading_.under_way()) all[count++] = reading_.event();
        if (writing_.under_way()) all[count++] = writing_.event();
        WaitForMultipleObjects(count, all, FALSE, static_cast<DWORD>(ms));
    }

protected:
    std::wstring path_;
    Wake &wake_;
    HANDLE pipe_ = INVALID_HANDLE_VALUE;
    Operation reading_, writing_;

private:
    size_t kept_ = 0, kept_at_ = 0;
    size_t to_write_ = 0, written_ = 0;
};

class PipeClient : public Pipe {
public:
    using Pipe::Pipe;

    void open(const Patience &patience) override {
        // Whoever serves the pipe may see who we are, not act as us.
        const DWORD flags = FILE_FLAG_OVERLAPPED | SECURITY_SQOS_PRESENT | SECURITY_IDENTIFICATION;
        for (;;) {
            pipe_ = CreateFileW(path_.c_str(), GENERIC_READ | GENERIC_WRITE, 0, nullptr, OPEN_EXISTING, flags, nullptr);
            if (pipe_ != INVALID_HANDLE_VALUE) return;
            const DWORD error = GetLastError();
            if (error != ERROR_PIPE_BUSY) throw Failure{COPIER_NOT_CONNECTED, "opening the pipe: " + windows_error(error)};
            wait(false, false, std::min(10, patience.left_ms("opening the pipe")));
        }
    }
};

// Nobody but this program's user may open what is made with it.
class OwnUserOnly {
public:
    OwnUserOnly() {
        HANDLE token = nullptr;
        if (!OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &token)) throw refusal();
        DWORD size = 0;
        GetTokenInformation(token, TokenUser, nullptr, 0, &size);
        std::vector<unsigned char> bytes(size + 1);
        const BOOL known = GetTokenInformation(token, TokenUser, bytes.data(), size, &size);
        CloseHandle(token);
        wchar_t *sid = nullptr;
        if (!known || !ConvertSidToStringSidW(reinterpret_cast<TOKEN_USER *>(bytes.data())->User.Sid, &sid)) throw refusal();
        const std::wstring rule = std::wstring(L"D:P(A;;GA;;;") + sid + L")";
        LocalFree(sid);
        if (!ConvertStringSecurityDescriptorToSecurityDescriptorW(rule.c_str(), SDDL_REVISION_1, &descriptor_, nullptr))
            throw refusal();
        attributes_.nLength = sizeof attributes_;
        attributes_.lpSecurityDescriptor = descriptor_;
    }
    ~OwnUserOnly() { LocalFree(descriptor_); }
    OwnUserOnly(const OwnUserOnly &) = delete;
    OwnUserOnly &operator=(const OwnUserOnly &) = delete;
    SECURITY_ATTRIBUTES *attributes() { return &attributes_; }

private:
    static Failure refusal() { return {COPIER_INTERNAL, "the pipe's rights: " + windows_error(GetLastError())}; }

    PSECURITY_DESCRIPTOR descriptor_ = nullptr;
    SECURITY_ATTRIBUTES attributes_{};
};

class PipeServer : public Pipe {
public:
    using Pipe::Pipe;

    void open(const Patience &patience) override {
        OwnUserOnly rights;
        // The first instance and the only one: a name that another program holds is refused, not shared.
        const DWORD access = PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED | FILE_FLAG_FIRST_PIPE_INSTANCE;
        const DWORD mode = PIPE_TYPE_BYTE | PIPE_READMODE_BYTE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS;
        pipe_ = CreateNamedPipeW(path_.c_str(), access, mode, 1, PIPE_CHUNK, PIPE_CHUNK, 0, rights.attributes());
        if (pipe_ == INVALID_HANDLE_VALUE)
            throw Failure{COPIER_NOT_CONNECTED, "making the pipe: " + windows_error(GetLastError())};
        if (ConnectNamedPipe(pipe_, reading_.begin())) return reading_.forget();
        const DWORD error = GetLastError();
        if (error == ERROR_PIPE_CONNECTED) return reading_.forget();
        SetLastError(error);
        reading_.began(FALSE, "waiting for a client");
        DWORD nothing = 0;
        while (!reading_.ended(pipe_, nothing, "waiting for a client")) wait(true, false, patience.left_ms("waiting for a client"));
    }

};

} // namespace

StreamPtr tcp_stream(const std::string &host, int port, Wake &wake) { return std::make_unique<Tcp>(host, port, wake); }
StreamPtr pipe_client(const std::string &name, Wake &wake) { return std::make_unique<PipeClient>(name, wake); }
StreamPtr pipe_server(const std::string &name, Wake &wake) { return std::make_unique<PipeServer>(name, wake); }
