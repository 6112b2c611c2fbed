#include "resp.h"

namespace {

const size_t REPLY_BYTES_MAX = 1 << 20;
const int64_t ITEMS_MAX = 10000;
const int DEPTH_MAX = 4;

[[noreturn]] void refuse(const char *why) { throw Failure{COPIER_NOT_UNDERSTOOD, std::string("Redis: ") + why}; }

// Takes a line; false where it is not whole yet.
bool line_at(const std::string &bytes, size_t &at, std::string &line) {
    const size_t end = bytes.find("\r\n", at);
    if (end == std::string::npos) return false;
    line = bytes.substr(at, end - at);
    at = end + 2;
    return true;
}

int64_t whole_of(const std::string &text) {
    const bool negative = !text.empty() && text[0] == '-';
    const size_t start = negative ? 1 : 0;
    if (text.size() == start || text.size() - start > 18) refuse("not a number");
    int64_t value = 0;
    for (size_t i = start; i < text.size(); i++) {
        if (text[i] < '0' || text[i] > '9') refuse("not a number");
        value = value * 10 + (text[i] - '0');
    }
    return negative ? -value : value;
}

bool reply_at(const std::string &bytes, size_t &at, RedisReply &reply, int depth) {
    std::string line;
    if (at < bytes.size() && std::string("+-:$*").find(bytes[at]) == std::string::npos) refuse("not a reply");
    if (!line_at(bytes, at, line)) return false;
    if (line.empty()) refuse("an empty line");
    reply = RedisReply();
    reply.kind = line[0];
    reply.text = line.substr(1);
    if (reply.kind == '+' || reply.kind == '-') return true;
    reply.number = whole_of(reply.text);
    if (reply.kind == ':') return true;
    reply.text.clear();
    if (reply.number < -1) refuse("a length below zero");
    if (reply.number == -1) return true;
    if (reply.kind == '$') {
        const size_t count = static_cast<size_t>(reply.number);
        if (count > REPLY_BYTES_MAX) refuse("a text too long");
        if (bytes.size() < at + count + 2) return false;
        if (bytes.compare(at + count, 2, "\r\n") != 0) refuse("a text without its end");
        reply.text = bytes.substr(at, count);
        at += count + 2;
        return true;
    }
    if (reply.number > ITEMS_MAX || depth >= DEPTH_MAX) refuse("a list too long or too deep");
    for (int64_t i = 0; i < reply.number; i++) {
        RedisReply item;
        if (!reply_at(bytes, at, item, depth + 1)) return false;
        reply.list.push_back(item);
    }
    return true;
}

} // namespace

std::string redis_command(const std::vector<std::string> &words) {
    std::string out = "*" + std::to_string(words.size()) + "\r\n";
    for (const std::string &word : words) out += "$" + std::to_string(word.size()) + "\r\n" + word + "\r\n";
    return out;
}

void RedisReader::add(const unsigned char *bytes, size_t count) {
    bytes_.append(reinterpret_cast<const char *>(bytes), count);
}

bool RedisReader::next(RedisReply &reply) {
    size_t at = 0;
    if (!reply_at(bytes_, at, reply, 0)) {
        if (bytes_.size() > 2 * REPLY_BYTES_MAX) refuse("a reply without an end");
        return false;
    }
    bytes_.erase(0, at);
    return true;
}
