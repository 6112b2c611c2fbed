// A message on a Redis channel, over a connection that is kept while messages come.
#pragma once
#include "jobs.h"

struct RedisPlace {
    std::string host;
    int port = 0;
    bool secure = false;
    std::string password;
};

// Called by the jobs' thread alone.
JobResult publish(const RedisPlace &place, const std::string &channel, const std::string &message, const Patience &patience);
void forget_redis();
