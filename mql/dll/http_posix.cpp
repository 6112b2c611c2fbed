// A web call over a plain stream: for Linux, where the library is tried out.
#include "http.h"
#include "stream.h"

HttpAnswer http_call(const HttpRequest &request, const Patience &patience) {
    check_request(request);
    const HttpPlace place = http_place(request.url);
    const StreamPtr stream = (place.secure ? tls_stream : tcp_stream)(place.host, place.port, patience.wake);
    stream->open(patience);
    std::string bytes = request.method + " " + place.path + " HTTP/1.1\r\nHost: " + place.host + ":" + std::to_string(place.port);
    bytes += "\r\nConnection: close\r\nContent-Length: " + std::to_string(request.body.size()) + "\r\n";
    for (size_t at = 0; at < request.headers.size();) {
        const size_t end = std::min(request.headers.find_first_of("\r\n", at), request.headers.size());
        if (end > at) bytes += request.headers.substr(at, end - at) + "\r\n";
        at = end + 1;
    }
    write_all(*stream, bytes + "\r\n" + request.body, patience, "the web call");
    HttpReader reader;
    unsigned char buffer[16384];
    for (;;) {
        try {
            if (reader.add(buffer, read_some(*stream, buffer, sizeof buffer, patience, "the web call"))) return reader.answer();
        } catch (const Failure &failure) {
            if (failure.code == COPIER_CLOSED && reader.ended()) return reader.answer();
            throw;
        }
    }
}
