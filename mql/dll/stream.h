// A connection as its one thread sees it: bytes go in and out without waiting, and all waiting is in one place.
#pragma once
#include <cstddef>
#include <memory>
#include <string>

#include "system.h"

class Stream {
public:
    Stream() = default;
    virtual ~Stream() = default;
    Stream(const Stream &) = delete;
    Stream &operator=(const Stream &) = delete;

    // Connects; throws where that fails or takes too long.
    virtual void open(const Patience &patience) = 0;
    // Moves what can be moved now, maybe nothing; throws once the connection is gone.
    virtual size_t read(unsigned char *to, size_t most) = 0;
    virtual size_t write(const unsigned char *from, size_t count) = 0;
    // Tries to move what `write` has taken and not yet moved; true once there is nothing of it.
    virtual bool flush() { return true; }
    // Waits until something may be moved, the wake is raised or the time is over.
    virtual void wait(bool to_read, bool to_write, int ms) = 0;
};

using StreamPtr = std::unique_ptr<Stream>;

StreamPtr tcp_stream(const std::string &host, int port, Wake &wake);
// The other end proves by a certificate the system trusts that it is `host`.
StreamPtr tls_stream(const std::string &host, int port, Wake &wake);
StreamPtr pipe_client(const std::string &name, Wake &wake);
StreamPtr pipe_server(const std::string &name, Wake &wake);

// Writes all of it, waiting as long as needed.
void write_all(Stream &stream, const std::string &bytes, const Patience &patience, const char *doing);
// Reads at least one byte, waiting as long as needed.
size_t read_some(Stream &stream, unsigned char *to, size_t most, const Patience &patience, const char *doing);
