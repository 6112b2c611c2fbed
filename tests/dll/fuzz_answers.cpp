// Whatever a server sends, the library's readers make of it one answer, one clear error, or wait for more; and it does not matter
// in which pieces it came.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "../../mql/dll/http.h"
#include "../../mql/dll/resp.h"

namespace {

void expect(bool kept, const char *what) {
    if (kept) return;
    fprintf(stderr, "broken promise: %s\n", what);
    abort();
}

std::string shown(const RedisReply &reply) {
    std::string out = std::string(1, reply.kind) + reply.text + "|" + std::to_string(reply.number) + "[";
    for (const RedisReply &each : reply.list) out += shown(each) + ",";
    return out + "]";
}

std::string of_redis(const uint8_t *data, size_t size, size_t step) {
    RedisReader reader;
    std::string out;
    try {
        for (size_t at = 0; at < size; at += step) {
            reader.add(data + at, std::min(step, size - at));
            RedisReply reply;
            while (reader.next(reply)) out += shown(reply) + ";";
        }
    } catch (const Failure &failure) {
        expect(failure.code == COPIER_NOT_UNDERSTOOD && failure.why.compare(0, 7, "Redis: ") == 0, "an error of another kind");
        return "error";
    }
    return out;
}

std::string of_web(const uint8_t *data, size_t size, size_t step) {
    HttpReader reader;
    try {
        for (size_t at = 0; at < size; at += step)
            if (reader.add(data + at, std::min(step, size - at))) break;
    } catch (const Failure &failure) {
        expect(failure.code == COPIER_NOT_UNDERSTOOD && failure.why.compare(0, 6, "HTTP: ") == 0, "an error of another kind");
        return "error";
    }
    if (!reader.ended()) return "not whole";
    expect(reader.answer().body.size() <= HTTP_BODY_MAX, "a body without a bound");
    return std::to_string(reader.answer().status) + reader.answer().body;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    const size_t step = size_t(1) + data[0] % 17;
    auto read = data[1] & 1 ? of_web : of_redis;
    data += 2;
    size -= 2;
    const std::string pieces = read(data, size, step), whole = read(data, size, size ? size : 1);
    // An error that is only seen once all has come may find replies read before it.
    expect(pieces == whole || whole == "error" || pieces == "error", "pieces are read otherwise than the whole");
    return 0;
}
