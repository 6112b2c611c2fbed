// What a Redis server says, in RESP 2, and what it is told.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "failure.h"

struct RedisReply {
    char kind = 0; // + - : $ * as in the protocol
    std::string text;
    int64_t number = 0;
    std::vector<RedisReply> list;
};

std::string redis_command(const std::vector<std::string> &words);

// Collects bytes until a reply is whole; throws where they can be none.
class RedisReader {
public:
    void add(const unsigned char *bytes, size_t count);
    bool next(RedisReply &reply);

private:
    std::string bytes_;
};
