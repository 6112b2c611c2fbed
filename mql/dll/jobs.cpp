#include "jobs.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <memory>

#include "links.h"
#include "publish.h"

namespace {

const int64_t IDLE_MS = 3000;

struct Job {
    int64_t patience_ms = 0;
    std::function<JobResult(const Patience &)> work;
    std::atomic<bool> stop{false};
    int state = COPIER_WAITING;
    JobResult result;
    std::string why;
};

using JobPtr = std::shared_ptr<Job>;

struct Jobs {
    Mutex mutex;
    Wake wake;
    std::map<int, JobPtr> known;
    std::deque<JobPtr> waiting;
    bool running = false;
};

// Never destroyed: a thread may still use it while the process ends.
Jobs &jobs() {
    static Jobs *all = new Jobs();
    return *all;
}

void do_job(Job &job) {
    int state = COPIER_DONE;
    JobResult result;
    std::string why;
    try {
        result = job.work(Patience{now_ms() + job.patience_ms, job.stop, jobs().wake});
    } catch (const Failure &failure) {
        state = failure.code;
        why = failure.why;
    } catch (const std::exception &error) {
        state = COPIER_INTERNAL;
        why = error.what();
    }
    Locked locked(jobs().mutex);
    job.state = state;
    job.result = result;
    job.why = why;
    job.work = nullptr;
}

// Takes the next job; null where there is none and the thread has ended by that.
JobPtr next_job(int64_t idle_since_ms) {
    for (;;) {
        {
            Locked locked(jobs().mutex);
            if (!jobs().waiting.empty()) {
                JobPtr job = jobs().waiting.front();
                jobs().waiting.pop_front();
                return job;
            }
            if (now_ms() - idle_since_ms > IDLE_MS || jobs().known.empty()) {
                // Before another thread may begin.
                forget_redis();
                jobs().running = false;
                return nullptr;
            }
        }
        jobs().wake.wait(500);
    }
}

void run_jobs(void *) {
    while (JobPtr job = next_job(now_ms())) do_job(*job);
}

JobPtr job_of(int handle) {
    auto at = jobs().known.find(handle);
    if (at == jobs().known.end()) throw Failure{COPIER_BAD_HANDLE, ""};
    return at->second;
}

// Drops the oldest finished job nobody has forgotten, so that new ones find a place.
bool make_room() {
    for (auto at = jobs().known.begin(); at != jobs().known.end(); ++at) {
        if (at->second->state == COPIER_WAITING) continue;
        jobs().known.erase(at);
        return true;
    }
    return false;
}

} // namespace

int add_job(int64_t patience_ms, const std::function<JobResult(const Patience &)> &work) {
    JobPtr job = std::make_shared<Job>();
    job->patience_ms = patience_ms;
    job->work = work;
    const int handle = next_handle();
    bool start = false;
    {
        Locked locked(jobs().mutex);
        if (jobs().known.size() >= JOBS_MAX && !make_room()) return COPIER_TOO_MANY;
        jobs().known[handle] = job;
        jobs().waiting.push_back(job);
        start = !jobs().running;
        jobs().running = true;
    }
    jobs().wake.raise();
    if (!start || start_thread(run_jobs, nullptr)) return handle;
    Locked locked(jobs().mutex);
    jobs().running = false;
    jobs().known.erase(handle);
    jobs().waiting.erase(std::remove(jobs().waiting.begin(), jobs().waiting.end(), job), jobs().waiting.end());
    return COPIER_INTERNAL;
}

int job_state(int handle) {
    Locked locked(jobs().mutex);
    return job_of(handle)->state;
}

int job_value(int handle) {
    Locked locked(jobs().mutex);
    const JobPtr job = job_of(handle);
    return job->state == COPIER_DONE ? job->result.value : job->state;
}

int job_body(int handle, int start, unsigned char *bytes, int capacity) {
    Locked locked(jobs().mutex);
    const std::string &body = job_of(handle)->result.body;
    if (static_cast<size_t>(start) >= body.size()) return 0;
    const size_t count = std::min(body.size() - static_cast<size_t>(start), static_cast<size_t>(capacity));
    memcpy(bytes, body.data() + start, count);
    return static_cast<int>(count);
}

int forget_job(int handle) {
    Locked locked(jobs().mutex);
    JobPtr job = job_of(handle);
    job->stop = true;
    jobs().known.erase(handle);
    jobs().waiting.erase(std::remove(jobs().waiting.begin(), jobs().waiting.end(), job), jobs().waiting.end());
    jobs().wake.raise();
    return COPIER_DONE;
}

bool job_why(int handle, std::string &why) {
    Locked locked(jobs().mutex);
    auto at = jobs().known.find(handle);
    if (at == jobs().known.end()) return false;
    why = at->second->why;
    return true;
}

void stop_jobs() {
    Locked locked(jobs().mutex);
    for (auto &each : jobs().known) each.second->stop = true;
    jobs().known.clear();
    jobs().waiting.clear();
    jobs().wake.raise();
}
