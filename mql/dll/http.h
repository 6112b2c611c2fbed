// One call of a web address, and what is read from the answer.
#pragma once
#include <string>

#include "system.h"

struct HttpRequest {
    std::string method;
    std::string url;
    std::string headers; // lines
    std::string body;
};

struct HttpAnswer {
    int status = 0;
    std::string body;
};

// By WinHTTP on Windows, over a plain stream elsewhere.
HttpAnswer http_call(const HttpRequest &request, const Patience &patience);

struct HttpPlace {
    bool secure = false;
    std::string host;
    int port = 0;
    std::string path;
};
HttpPlace http_place(const std::string &url);
// Throws where a method or header could smuggle in another request.
void check_request(const HttpRequest &request);

const size_t HTTP_HEAD_MAX = 65536;
const size_t HTTP_BODY_MAX = 8000000;

// Collects an answer's bytes; throws where they are none.
class HttpReader {
public:
    // True once the answer is whole.
    bool add(const unsigned char *bytes, size_t count);
    // The connection has ended: true where that ends the answer too.
    bool ended();
    const HttpAnswer &answer() const { return answer_; }

private:
    bool read_head();
    bool read_chunks();

    enum class Part { HEAD, COUNTED, CHUNKS, TO_THE_END, WHOLE };
    Part part_ = Part::HEAD;
    std::string bytes_;
    size_t left_ = 0;
    HttpAnswer answer_;
};
