// The library's edge: arguments are checked, and no exception leaves.
#include "copier_link.h"

#include <exception>

#include "http.h"
#include "jobs.h"
#include "links.h"
#include "publish.h"
#include "trades.h"

namespace {

const int TIMEOUT_MS_MAX = 120000;
const int64_t SERVE_MS = 120000; // then it is made anew by whoever still wants it
const size_t NAME_MAX_BYTES = 100;

template <class Act> int guarded(Act act) noexcept {
    try {
        return act();
    } catch (const Failure &failure) {
        return failure.code;
    } catch (...) {
        return COPIER_INTERNAL;
    }
}

void need(bool kept, const char *rule) {
    if (!kept) throw Failure{COPIER_BAD_ARGUMENT, rule};
}

void need_bytes(const unsigned char *bytes, int count) { need(count >= 0 && (bytes || count == 0), "an array and its length"); }

void need_place(const std::string &host, int port, int tls, int timeout_ms) {
    need(!host.empty() && host.find_first_of(std::string(" \t\r\n")) == std::string::npos, "a host");
    need(port > 0 && port < 65536, "a port");
    need(tls == 0 || tls == 1, "tls is 0 or 1");
    need(timeout_ms > 0 && timeout_ms <= TIMEOUT_MS_MAX, "a time");
}

// A name alone never leads to another machine.
std::string pipe_name(const copier_char *name) {
    const std::string text = utf8_of(name);
    need(!text.empty() && text.size() <= NAME_MAX_BYTES, "a name");
    for (char each : text) {
        const bool plain = (each >= 'a' && each <= 'z') || (each >= 'A' && each <= 'Z') || (each >= '0' && each <= '9');
        need(plain || each == '-' || each == '_' || each == '.' || each == '@', "a name of letters, digits and -_.@");
    }
    return text;
}

StreamPtr client(const std::string &name, int, Wake &wake) { return pipe_client(name, wake); }
StreamPtr server(const std::string &name, int, Wake &wake) { return pipe_server(name, wake); }

std::string bytes_of(const unsigned char *bytes, int count) {
    need_bytes(bytes, count);
    need(static_cast<size_t>(count) <= JOB_BYTES_MAX, "not so much at once");
    return count ? std::string(reinterpret_cast<const char *>(bytes), static_cast<size_t>(count)) : std::string();
}

} // namespace

int COPIER_CALL CopierVersion() { return COPIER_LINK_VERSION; }

int COPIER_CALL CopierErrorText(int code, unsigned char *text, int capacity) {
    return guarded([&] { return copied_text(meaning_of(code), text, capacity); });
}

int COPIER_CALL CopierTcpOpen(const copier_char *host, int port, int tls, int timeout_ms) {
    return guarded([&] {
        const std::string name = utf8_of(host);
        need_place(name, port, tls, timeout_ms);
        return add_link(tls ? tls_stream : tcp_stream, name, port, timeout_ms);
    });
}

int COPIER_CALL CopierPipeOpen(const copier_char *name, int timeout_ms) {
    return guarded([&] {
        need(timeout_ms > 0 && timeout_ms <= TIMEOUT_MS_MAX, "a time");
        return add_link(client, pipe_name(name), 0, timeout_ms);
    });
}

int COPIER_CALL CopierPipeServe(const copier_char *name) {
    return guarded([&] { return add_link(server, pipe_name(name), 0, SERVE_MS); });
}

int COPIER_CALL CopierLinkState(int link) {
    return guarded([&] { return link_state(link); });
}

int COPIER_CALL CopierLinkSend(int link, const unsigned char *bytes, int count) {
    return guarded([&] {
        need_bytes(bytes, count);
        return link_send(link, bytes, count);
    });
}

int COPIER_CALL CopierLinkReceive(int link, unsigned char *bytes, int capacity) {
    return guarded([&] {
        need_bytes(bytes, capacity);
        return link_receive(link, bytes, capacity);
    });
}

int COPIER_CALL CopierLinkClose(int link) {
    return guarded([&] { return close_link(link); });
}

int COPIER_CALL CopierHttp(const copier_char *method, const copier_char *url, const copier_char *headers,
                           const unsigned char *body, int count, int timeout_ms) {
    return guarded([&] {
        need(timeout_ms > 0 && timeout_ms <= TIMEOUT_MS_MAX, "a time");
        const HttpRequest request{utf8_of(method), utf8_of(url), utf8_of(headers), bytes_of(body, count)};
        check_request(request);
        http_place(request.url);
        return add_job(timeout_ms, [request](const Patience &patience) {
            const HttpAnswer answer = http_call(request, patience);
            return JobResult{answer.status, answer.body};
        });
    });
}

int COPIER_CALL CopierPublish(const copier_char *host, int port, int tls, const copier_char *password,
                              const copier_char *channel, const unsigned char *message, int count, int timeout_ms) {
    return guarded([&] {
        const RedisPlace place{utf8_of(host), port, tls == 1, utf8_of(password)};
        need_place(place.host, port, tls, timeout_ms);
        const std::string where = utf8_of(channel), what = bytes_of(message, count);
        need(!where.empty(), "a channel");
        return add_job(timeout_ms, [=](const Patience &patience) { return publish(place, where, what, patience); });
    });
}

int COPIER_CALL CopierSaveTrade(const copier_char *path, const copier_char *account, int64_t ticket, const copier_char *symbol,
                                const copier_char *side, const copier_char *lots, int64_t open_ms, int64_t close_ms,
                                const copier_char *open_price, const copier_char *close_price, const copier_char *profit,
                                const copier_char *swap, const copier_char *commission, int64_t magic,
                                const copier_char *comment) {
    return guarded([&] {
        ClosedTrade trade;
        trade.account = utf8_of(account);
        trade.ticket = ticket;
        trade.symbol = utf8_of(symbol);
        trade.side = utf8_of(side);
        trade.lots = utf8_of(lots);
        trade.open_ms = open_ms;
        trade.close_ms = close_ms;
        trade.open_price = utf8_of(open_price);
        trade.close_price = utf8_of(close_price);
        trade.profit = utf8_of(profit);
        trade.swap = utf8_of(swap);
        trade.commission = utf8_of(commission);
        trade.magic = magic;
        trade.comment = utf8_of(comment);
        const std::string file = utf8_of(path);
        need(!file.empty() && !trade.account.empty() && ticket > 0, "a file, an account and a ticket");
        return add_job(TIMEOUT_MS_MAX, [=](const Patience &) { return save_trade(file, trade); });
    });
}

int COPIER_CALL CopierJobState(int job) {
    return guarded([&] { return job_state(job); });
}

int COPIER_CALL CopierJobValue(int job) {
    return guarded([&] { return job_value(job); });
}

int COPIER_CALL CopierJobBody(int job, int start, unsigned char *bytes, int capacity) {
    return guarded([&] {
        need_bytes(bytes, capacity);
        need(start >= 0, "a place");
        return job_body(job, start, bytes, capacity);
    });
}

int COPIER_CALL CopierJobForget(int job) {
    return guarded([&] { return forget_job(job); });
}

int COPIER_CALL CopierWhy(int handle, unsigned char *text, int capacity) {
    return guarded([&] {
        std::string why;
        if (!link_why(handle, why) && !job_why(handle, why)) throw Failure{COPIER_BAD_HANDLE, ""};
        return copied_text(why, text, capacity);
    });
}

int COPIER_CALL CopierShutdown() {
    return guarded([&] {
        close_all_links();
        stop_jobs();
        for (int i = 0; i < 200 && threads_running(); i++) pause_ms(10);
        return threads_running();
    });
}
