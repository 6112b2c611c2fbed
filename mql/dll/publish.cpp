#include "publish.h"

#include "resp.h"
#include "stream.h"

namespace {

struct Connection {
    std::string key;
    StreamPtr stream;
    RedisReader reader;
};

std::unique_ptr<Connection> &kept() {
    static auto *connection = new std::unique_ptr<Connection>();
    return *connection;
}

RedisReply ask(Connection &connection, const std::vector<std::string> &words, const Patience &patience) {
    write_all(*connection.stream, redis_command(words), patience, "Redis");
    RedisReply reply;
    unsigned char buffer[4096];
    while (!connection.reader.next(reply))
        connection.reader.add(buffer, read_some(*connection.stream, buffer, sizeof buffer, patience, "Redis"));
    if (reply.kind == '-') throw Failure{COPIER_REFUSED, "Redis: " + reply.text};
    return reply;
}

// True where nothing came unasked and the other end has not gone.
bool still_there(Stream &stream) {
    unsigned char byte;
    try {
        return stream.read(&byte, 1) == 0;
    } catch (const Failure &) {
        return false;
    }
}

} // namespace

JobResult publish(const RedisPlace &place, const std::string &channel, const std::string &message, const Patience &patience) {
    const std::string key = place.host + "\n" + std::to_string(place.port) + (place.secure ? "\ntls\n" : "\n\n") + place.password;
    std::unique_ptr<Connection> connection = std::move(kept());
    if (!connection || connection->key != key || !still_there(*connection->stream)) {
        connection = std::make_unique<Connection>();
        connection->key = key;
        connection->stream = (place.secure ? tls_stream : tcp_stream)(place.host, place.port, patience.wake);
        connection->stream->open(patience);
        if (!place.password.empty()) ask(*connection, {"AUTH", place.password}, patience);
    }
    const RedisReply reply = ask(*connection, {"PUBLISH", channel, message}, patience);
    if (reply.kind != ':') throw Failure{COPIER_NOT_UNDERSTOOD, "Redis: no number came back from PUBLISH"};
    kept() = std::move(connection);
    return {static_cast<int>(reply.number), ""};
}

void forget_redis() { kept().reset(); }
