#include "links.h"

#include <algorithm>
#include <map>
#include <vector>

namespace {

// The tests have less patience.
#ifndef COPIER_ABANDONED_MS
#define COPIER_ABANDONED_MS 120000
#endif
const int64_t ABANDONED_MS = COPIER_ABANDONED_MS;
const int64_t LAST_WORDS_MS = 500;

// Bytes that wait, taken from the front.
class Queue {
public:
    size_t size() const { return bytes_.size() - start_; }
    void put(const unsigned char *from, size_t count) { bytes_.insert(bytes_.end(), from, from + count); }
    size_t take(unsigned char *to, size_t most) {
        const size_t count = std::min(most, size());
        std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(start_), count, to);
        start_ += count;
        if (start_ * 2 > bytes_.size()) {
            bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<std::ptrdiff_t>(start_));
            start_ = 0;
        }
        return count;
    }

private:
    std::vector<unsigned char> bytes_;
    size_t start_ = 0;
};

class Link {
public:
    Link(StreamPtr (*make)(const std::string &, int, Wake &), const std::string &where, int port, int64_t patience_ms)
        : stream_(make(where, port, wake_)), patience_ms_(patience_ms), asked_ms_(now_ms()) {}

    void run() {
        try {
            stream_->open(Patience{now_ms() + patience_ms_, stop_, wake_});
            {
                Locked locked(mutex_);
                state_ = COPIER_DONE;
            }
            move();
            end({COPIER_CLOSED, "it was closed here"});
        } catch (const Failure &failure) {
            end(failure);
        } catch (const std::exception &error) {
            end({COPIER_INTERNAL, error.what()});
        }
        stream_.reset();
    }

    int state() {
        Locked locked(mutex_);
        asked_ms_ = now_ms();
        return state_;
    }

    int send(const unsigned char *bytes, size_t count) {
        {
            Locked locked(mutex_);
            asked_ms_ = now_ms();
            if (state_ < 0) return state_;
            if (outgoing_.size() + count > QUEUE_BYTES_MAX) return COPIER_QUEUE_FULL;
            outgoing_.put(bytes, count);
        }
        wake_.raise();
        return static_cast<int>(count);
    }

    int receive(unsigned char *bytes, size_t capacity) {
        bool room_again = false;
        size_t count = 0;
        {
            Locked locked(mutex_);
            asked_ms_ = now_ms();
            if (incoming_.size() == 0) return std::min(state_, static_cast<int>(COPIER_WAITING));
            const bool full = incoming_.size() >= QUEUE_BYTES_MAX;
            count = incoming_.take(bytes, capacity);
            room_again = full && incoming_.size() < QUEUE_BYTES_MAX;
        }
        if (room_again) wake_.raise();
        return static_cast<int>(count);
    }

    void close() {
        stop_ = true;
        wake_.raise();
    }

    std::string why() {
        Locked locked(mutex_);
        return why_;
    }

private:
    void end(const Failure &failure) {
        Locked locked(mutex_);
        state_ = failure.code;
        why_ = failure.why;
    }

    // Moves bytes until it is told to stop, the connection ends, or nobody asks for it any more.
    void move() {
        std::vector<unsigned char> buffer(65536), chunk(65536);
        size_t chunk_size = 0, chunk_at = 0;
        int64_t stop_ms = 0;
        for (;;) {
            size_t room = 0;
            bool abandoned = false;
            {
                Locked locked(mutex_);
                if (chunk_at == chunk_size) {
                    chunk_size = outgoing_.take(chunk.data(), chunk.size());
                    chunk_at = 0;
                }
                room = QUEUE_BYTES_MAX - std::min(QUEUE_BYTES_MAX, incoming_.size());
                abandoned = now_ms() - asked_ms_ > ABANDONED_MS;
            }
            if (abandoned) throw Failure{COPIER_ABANDONED, "nobody asked for this link for two minutes"};
            const bool flushed = stream_->flush();
            if (stop_) {
                if (!stop_ms) stop_ms = now_ms();
                if ((flushed && chunk_at == chunk_size) || now_ms() - stop_ms > LAST_WORDS_MS) return;
            }
            size_t written = 0;
            if (chunk_at < chunk_size) written = stream_->write(chunk.data() + chunk_at, chunk_size - chunk_at);
            chunk_at += written;
            size_t read = 0;
            if (room && !stop_) read = stream_->read(buffer.data(), std::min(room, buffer.size()));
            if (read) {
                Locked locked(mutex_);
                incoming_.put(buffer.data(), read);
            }
            if (!written && !read) stream_->wait(room && !stop_, !flushed || chunk_at < chunk_size, stop_ ? 20 : 1000);
        }
    }

    Wake wake_;
    StreamPtr stream_;
    std::atomic<bool> stop_{false};
    int64_t patience_ms_;
    Mutex mutex_;
    Queue incoming_, outgoing_;
    int state_ = COPIER_WAITING;
    std::string why_;
    int64_t asked_ms_;
};

using LinkPtr = std::shared_ptr<Link>;

struct Links {
    Mutex mutex;
    std::map<int, LinkPtr> open;
    int last = 0;
};

// Never destroyed: threads may still use it while the process ends.
Links &links() {
    static Links *all = new Links();
    return *all;
}

LinkPtr link_of(int handle) {
    Locked locked(links().mutex);
    auto at = links().open.find(handle);
    if (at == links().open.end()) throw Failure{COPIER_BAD_HANDLE, ""};
    return at->second;
}

void run_link(void *given) {
    std::unique_ptr<LinkPtr> link(static_cast<LinkPtr *>(given));
    (*link)->run();
}

} // namespace

int next_handle() {
    Locked locked(links().mutex);
    return ++links().last;
}

int add_link(StreamPtr (*make)(const std::string &, int, Wake &), const std::string &where, int port, int64_t patience_ms) {
    LinkPtr link = std::make_shared<Link>(make, where, port, patience_ms);
    const int handle = next_handle();
    {
        Locked locked(links().mutex);
        if (links().open.size() >= static_cast<size_t>(LINKS_MAX)) return COPIER_TOO_MANY;
        links().open[handle] = link;
    }
    LinkPtr *shared = new LinkPtr(link);
    if (start_thread(run_link, shared)) return handle;
    delete shared;
    close_link(handle);
    return COPIER_INTERNAL;
}

int link_state(int handle) { return link_of(handle)->state(); }

int link_send(int handle, const unsigned char *bytes, int count) {
    return link_of(handle)->send(bytes, static_cast<size_t>(count));
}

int link_receive(int handle, unsigned char *bytes, int capacity) {
    return link_of(handle)->receive(bytes, static_cast<size_t>(capacity));
}

int close_link(int handle) {
    LinkPtr link = link_of(handle);
    {
        Locked locked(links().mutex);
        links().open.erase(handle);
    }
    link->close();
    return COPIER_DONE;
}

bool link_why(int handle, std::string &why) {
    LinkPtr link;
    {
        Locked locked(links().mutex);
        auto at = links().open.find(handle);
        if (at == links().open.end()) return false;
        link = at->second;
    }
    why = link->why();
    return true;
}

void close_all_links() {
    std::map<int, LinkPtr> all;
    {
        Locked locked(links().mutex);
        all.swap(links().open);
    }
    for (auto &each : all) each.second->close();
}
