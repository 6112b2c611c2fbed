#include "http.h"

#include <algorithm>

namespace {

[[noreturn]] void refuse(const std::string &why) { throw Failure{COPIER_NOT_UNDERSTOOD, "HTTP: " + why}; }

std::string lower(std::string text) {
    for (char &each : text)
        if (each >= 'A' && each <= 'Z') each = static_cast<char>(each + 32);
    return text;
}

std::string trimmed(const std::string &text) {
    const size_t start = text.find_first_not_of(" \t");
    if (start == std::string::npos) return "";
    return text.substr(start, text.find_last_not_of(" \t") - start + 1);
}

size_t number_of(const std::string &text, unsigned base) {
    size_t value = 0;
    if (text.empty() || text.size() > 8) refuse("a length that is none");
    for (char each : lower(text)) {
        const unsigned digit = each >= '0' && each <= '9' ? static_cast<unsigned>(each - '0')
                               : each >= 'a' && each <= 'f' ? static_cast<unsigned>(each - 'a' + 10)
                                                            : base;
        if (digit >= base) refuse("a length that is none");
        value = value * base + digit;
    }
    if (value > HTTP_BODY_MAX) refuse("a body too long");
    return value;
}

} // namespace

HttpPlace http_place(const std::string &url) {
    HttpPlace place;
    size_t at = 0;
    if (url.compare(0, 7, "http://") == 0) {
        at = 7;
    } else if (url.compare(0, 8, "https://") == 0) {
        at = 8;
        place.secure = true;
    } else {
        throw Failure{COPIER_BAD_ARGUMENT, "an address begins with http:// or https://"};
    }
    const size_t end = std::min(url.find_first_of("/?#", at), url.size());
    std::string host = url.substr(at, end - at);
    place.port = place.secure ? 443 : 80;
    const size_t colon = host.find(':');
    if (colon != std::string::npos) {
        const std::string port = host.substr(colon + 1);
        if (port.empty() || port.size() > 5 || port.find_first_not_of("0123456789") != std::string::npos)
            throw Failure{COPIER_BAD_ARGUMENT, "not a port: " + port};
        place.port = std::stoi(port);
        host.resize(colon);
    }
    if (host.empty() || host.find('@') != std::string::npos || place.port < 1 || place.port > 65535)
        throw Failure{COPIER_BAD_ARGUMENT, "not an address: " + url};
    place.host = host;
    place.path = url.substr(end, url.find('#', end) - end);
    if (place.path.empty() || place.path[0] != '/') place.path = "/" + place.path;
    return place;
}

void check_request(const HttpRequest &request) {
    const std::string letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    if (request.method.empty() || request.method.find_first_not_of(letters) != std::string::npos)
        throw Failure{COPIER_BAD_ARGUMENT, "not a method: " + request.method};
    for (char each : request.url)
        if (each <= ' ' || each > '~') throw Failure{COPIER_BAD_ARGUMENT, "an address has only letters of ASCII and no spaces"};
    if (request.headers.find("\n\n") != std::string::npos || request.headers.find("\n\r") != std::string::npos)
        throw Failure{COPIER_BAD_ARGUMENT, "an empty line among the headers"};
}

bool HttpReader::add(const unsigned char *bytes, size_t count) {
    bytes_.append(reinterpret_cast<const char *>(bytes), count);
    if (part_ == Part::HEAD && !read_head()) return false;
    if (part_ == Part::CHUNKS) return read_chunks();
    if (part_ == Part::COUNTED) {
        const size_t taken = std::min(left_, bytes_.size());
        answer_.body.append(bytes_, 0, taken);
        left_ -= taken;
        bytes_.erase(0, taken);
        if (left_ == 0) part_ = Part::WHOLE;
    } else if (part_ == Part::TO_THE_END) {
        answer_.body += bytes_;
        bytes_.clear();
        if (answer_.body.size() > HTTP_BODY_MAX) refuse("a body too long");
    }
    return part_ == Part::WHOLE;
}

bool HttpReader::ended() { return part_ == Part::WHOLE || part_ == Part::TO_THE_END; }

bool HttpReader::read_head() {
    const size_t end = bytes_.find("\r\n\r\n");
    if (end == std::string::npos) {
        if (bytes_.size() > HTTP_HEAD_MAX) refuse("headers too long");
        return false;
    }
    const std::string head = bytes_.substr(0, end + 2);
    bytes_.erase(0, end + 4);
    if (head.compare(0, 7, "HTTP/1.") != 0 || head.size() < 12) refuse("not an answer");
    const std::string status = head.substr(9, 3);
    if (status.find_first_not_of("0123456789") != std::string::npos) refuse("not a status");
    answer_.status = std::stoi(status);
    part_ = Part::TO_THE_END;
    for (size_t at = head.find("\r\n") + 2; at < head.size();) {
        const size_t next = head.find("\r\n", at);
        const std::string line = head.substr(at, next - at);
        at = next + 2;
        const size_t colon = line.find(':');
        if (colon == std::string::npos) refuse("a header without a colon");
        const std::string name = lower(line.substr(0, colon)), value = lower(trimmed(line.substr(colon + 1)));
        if (name == "transfer-encoding") {
            if (value != "chunked") refuse("an encoding other than chunked");
            part_ = Part::CHUNKS;
        } else if (name == "content-length" && part_ != Part::CHUNKS) {
            left_ = number_of(value, 10);
            part_ = Part::COUNTED;
        }
    }
    if (answer_.status == 204 || answer_.status == 304) {
        part_ = Part::COUNTED;
        left_ = 0;
    }
    if (answer_.status < 200) {
        // 100 Continue: the answer is still to come.
        part_ = Part::HEAD;
        return read_head();
    }
    return true;
}

bool HttpReader::read_chunks() {
    for (;;) {
        const size_t end = bytes_.find("\r\n");
        if (end == std::string::npos) {
            if (bytes_.size() > HTTP_HEAD_MAX) refuse("a chunk without a length");
            return false;
        }
        const size_t count = number_of(trimmed(bytes_.substr(0, std::min(bytes_.find(';'), end))), 16);
        if (bytes_.size() < end + 2 + count + 2) return false;
        if (bytes_.compare(end + 2 + count, 2, "\r\n") != 0) refuse("a chunk without its end");
        answer_.body.append(bytes_, end + 2, count);
        if (answer_.body.size() > HTTP_BODY_MAX) refuse("a body too long");
        bytes_.erase(0, end + 2 + count + 2);
        if (count == 0) {
            part_ = Part::WHOLE;
            return true;
        }
    }
}
