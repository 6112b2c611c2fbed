// What is done once and answered later: a web call, a message to Redis, a row of a database; one after the other.
#pragma once
#include <functional>
#include <string>

#include "system.h"

const size_t JOBS_MAX = 256;
const size_t JOB_BYTES_MAX = 4000000;

struct JobResult {
    int value = 0;
    std::string body;
};

int add_job(int64_t patience_ms, const std::function<JobResult(const Patience &)> &work);
int job_state(int handle);
int job_value(int handle);
int job_body(int handle, int start, unsigned char *bytes, int capacity);
int forget_job(int handle);
bool job_why(int handle, std::string &why);
void stop_jobs();
