// A TCP connection on Windows, which TLS is put upon.
#pragma once
#include "stream.h"

class Tcp : public Stream {
public:
    Tcp(const std::string &host, int port, Wake &wake);
    ~Tcp() override;
    void open(const Patience &patience) override;
    size_t read(unsigned char *to, size_t most) override;
    size_t write(const unsigned char *from, size_t count) override;
    void wait(bool to_read, bool to_write, int ms) override;

protected:
    std::string host_;
    int port_;

private:
    void leave();
    int connected(const Patience &patience);

    Wake &wake_;
    SOCKET socket_ = INVALID_SOCKET;
    WSAEVENT event_;
    bool connect_ended_ = false;
    int connect_error_ = 0;
};

std::string windows_error(unsigned long number);
