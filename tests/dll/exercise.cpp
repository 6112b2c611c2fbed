// Loads the library as a terminal does and uses it roughly; says what it saw, line by line. Runs on Windows and on Linux.
//   exercise LIBRARY ECHO_PORT CUT_PORT DEAF_PORT HTTP_PORT REDIS_PORT [TLS_PORT STRANGER_PORT AUTHORITY]
// ECHO sends back what it hears; CUT sends a thousand bytes and ends; DEAF accepts and never reads; HTTP answers 201 with what
// it was sent; REDIS answers like one; TLS is an ECHO whose certificate for localhost is the AUTHORITY's, a file in DER; the STRANGER's
// is another authority's.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#ifdef _WIN32
#include <windows.h>
#define CALL __stdcall
typedef wchar_t unit;
#define T(text) L##text
#else
#include <dlfcn.h>
#include <unistd.h>
#define CALL
typedef char16_t unit;
#define T(text) u##text
#endif
typedef unsigned char uchar;

namespace {
#ifdef _WIN32
HMODULE library;
void load(const char *path) { library = LoadLibraryA(path); }
void *find(const char *name) { return reinterpret_cast<void *>(GetProcAddress(library, name)); }
void unload() { FreeLibrary(library); }
void rest(int ms) { Sleep(DWORD(ms)); }
bool loaded(const char *path) { return GetModuleHandleA(path) != nullptr; }
#else
void *library;
void load(const char *path) {
    library = dlopen(path, RTLD_NOW);
    if (!library) printf("%s\n", dlerror());
}
void *find(const char *name) { return dlsym(library, name); }
void unload() { dlclose(library); }
void rest(int ms) { usleep(useconds_t(ms) * 1000); }
#endif

template <class F> void bind(F &function, const char *name) {
    void *address = find(name);
    if (!address) { printf("FAILED: no export %s\n", name); exit(1); }
    memcpy(&function, &address, sizeof address);
}

int(CALL *version)();
int(CALL *error_text)(int, uchar *, int);
int(CALL *tcp_open)(const unit *, int, int, int);
int(CALL *pipe_open)(const unit *, int);
int(CALL *pipe_serve)(const unit *);
int(CALL *link_state)(int);
int(CALL *link_send)(int, const uchar *, int);
int(CALL *link_receive)(int, uchar *, int);
int(CALL *link_close)(int);
int(CALL *http)(const unit *, const unit *, const unit *, const uchar *, int, int);
int(CALL *publish)(const unit *, int, int, const unit *, const unit *, const uchar *, int, int);
int(CALL *save_trade)(const unit *, const unit *, int64_t, const unit *, const unit *, const unit *, int64_t, int64_t, const unit *,
                      const unit *, const unit *, const unit *, const unit *, int64_t, const unit *);
int(CALL *job_state)(int);
int(CALL *job_value)(int);
int(CALL *job_body)(int, int, uchar *, int);
int(CALL *job_forget)(int);
int(CALL *why)(int, uchar *, int);
int(CALL *shut_down)();

void bind_all() {
    bind(version, "CopierVersion");
    bind(error_text, "CopierErrorText");
    bind(tcp_open, "CopierTcpOpen");
    bind(pipe_open, "CopierPipeOpen");
    bind(pipe_serve, "CopierPipeServe");
    bind(link_state, "CopierLinkState");
    bind(link_send, "CopierLinkSend");
    bind(link_receive, "CopierLinkReceive");
    bind(link_close, "CopierLinkClose");
    bind(http, "CopierHttp");
    bind(publish, "CopierPublish");
    bind(save_trade, "CopierSaveTrade");
    bind(job_state, "CopierJobState");
    bind(job_value, "CopierJobValue");
    bind(job_body, "CopierJobBody");
    bind(job_forget, "CopierJobForget");
    bind(why, "CopierWhy");
    bind(shut_down, "CopierShutdown");
}

void expect(bool kept, const char *what) {
    if (kept) return;
    printf("FAILED: %s\n", what);
    fflush(stdout);
    exit(1);
}

std::string reason(int handle) {
    uchar text[200];
    const int count = why(handle, text, 200);
    return count > 0 ? std::string(reinterpret_cast<char *>(text), size_t(count)) : "?";
}

void connected(int link, const char *what) {
    for (int i = 0; i < 2000 && link_state(link) == 0; i++) rest(5);
    if (link_state(link) != 1) printf("%s: state %d, %s\n", what, link_state(link), reason(link).c_str());
    expect(link_state(link) == 1, what);
}

int ended(int link) {
    uchar bytes[4096];
    for (int i = 0; i < 2000; i++) {
        const int got = link_receive(link, bytes, 4096);
        if (got < 0) return got;
        if (got == 0) rest(5);
    }
    return 0;
}

// Takes exactly so many bytes, asking as an Expert Advisor's timer does.
std::string taken(int link, size_t count) {
    std::string out;
    uchar bytes[65536];
    for (int idle = 0; out.size() < count && idle < 200000;) {
        const int got = link_receive(link, bytes, int(std::min(count - out.size(), sizeof bytes)));
        if (got < 0) printf("receive said %d: %s\n", got, reason(link).c_str());
        expect(got >= 0, "a link ended while its bytes were awaited");
        if (got == 0) { if (++idle > 1000) rest(1); continue; }
        idle = 0;
        out.append(reinterpret_cast<char *>(bytes), size_t(got));
    }
    expect(out.size() == count, "not all bytes came");
    return out;
}

void say(int link, const std::string &text) {
    const int sent = link_send(link, reinterpret_cast<const uchar *>(text.data()), int(text.size()));
    expect(sent == int(text.size()), "a link did not take a frame");
}

double median_ms(std::vector<double> &all) {
    std::sort(all.begin(), all.end());
    return all[all.size() / 2];
}

void round_trips(int here, int there, int count, const char *what) {
    std::vector<double> times;
    for (int i = 0; i < count; i++) {
        const std::string frame = "{\"id\":" + std::to_string(i) + ",\"op\":\"get_positions\"}\n";
        const auto start = std::chrono::steady_clock::now();
        say(here, frame);
        if (there) {
            expect(taken(there, frame.size()) == frame, "a frame arrived changed");
            say(there, frame);
        }
        expect(taken(here, frame.size()) == frame, "a frame came back changed");
        times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    }
    printf("%s: %d round trips, median %.3f ms\n", what, count, median_ms(times));
}

void arguments() {
    uchar text[200];
    expect(version() == 1, "the version");
    for (int code = -15; code <= 1; code++) expect(error_text(code, text, 200) > 3, "the text of a code");
    expect(error_text(-7, nullptr, 200) == 0 && error_text(-7, text, 0) == 0 && error_text(-7, text, -5) == 0, "no room for a text");
    expect(tcp_open(nullptr, 1, 0, 1000) == -3 && tcp_open(T(""), 1, 0, 1000) == -3, "no host");
    expect(tcp_open(T("127.0.0.1"), 0, 0, 1000) == -3 && tcp_open(T("127.0.0.1"), 70000, 0, 1000) == -3, "no port");
    expect(tcp_open(T("127.0.0.1"), 1, 2, 1000) == -3 && tcp_open(T("127.0.0.1"), 1, 0, 0) == -3, "no such way");
    expect(pipe_open(T("..\\pipe\\x"), 1000) == -3 && pipe_serve(T("a/b")) == -3 && pipe_serve(nullptr) == -3, "no name of a pipe");
    for (int handle : {0, -1, 123456, 2147483647}) {
        expect(link_state(handle) == -2 && link_send(handle, text, 1) == -2 && link_receive(handle, text, 1) == -2, "no link");
        expect(link_close(handle) == -2 && job_state(handle) == -2 && job_value(handle) == -2 && job_forget(handle) == -2, "no job");
        expect(job_body(handle, 0, text, 1) == -2 && why(handle, text, 1) == -2, "no words");
    }
    expect(http(T("GET"), T("ftp://x/"), T(""), nullptr, 0, 1000) == -3, "no web address");
    expect(http(T("GET"), T("http://x/ y"), T(""), nullptr, 0, 1000) == -3, "a space in an address");
    expect(http(T("GET\r\n"), T("http://x/"), T(""), nullptr, 0, 1000) == -3, "a line in a method");
    expect(http(T("GET"), T("http://x/"), T("A: b\r\n\r\nGET /"), nullptr, 0, 1000) == -3, "a request in a header");
    expect(publish(T("127.0.0.1"), 1, 0, nullptr, T(""), nullptr, 0, 1000) == -3, "no channel");
    expect(save_trade(nullptr, T("a"), 1, T("s"), T("buy"), T("1"), 0, 0, T("1"), T("1"), T("1"), T("1"), T("1"), 0, nullptr) == -3, "no file");
    printf("arguments: refused\n");
}

void pipes() {
    const int server = pipe_serve(T("copier-exercise"));
    int client = 0;
    for (int i = 0; i < 2000; i++) {
        client = pipe_open(T("copier-exercise"), 5000);
        while (link_state(client) == 0) rest(1);
        if (link_state(client) == 1) break;
        link_close(client);
        rest(5);
    }
    connected(client, "the pipe's client");
    connected(server, "the pipe's server");
    const int second = pipe_open(T("copier-exercise"), 300);
    for (int i = 0; i < 2000 && link_state(second) == 0; i++) rest(5);
    expect(link_state(second) < 0, "a second client of a pipe was let in");
    link_close(second);
    round_trips(client, server, 10000, "pipe");
    const std::string large(3000000, 'x');
    say(client, large);
    expect(taken(server, large.size()) == large, "three megabytes through a pipe");
    say(server, "last words");
    link_close(server);
    expect(taken(client, 10) == "last words", "the last words of a pipe");
    expect(ended(client) == -1, "a pipe whose other end closed");
    link_close(client);
    printf("pipe: closed\n");
}

#ifdef _WIN32
// The access list of a pipe as its client sees it: one entry, for the user who runs this.
void rights() {
    const int server = pipe_serve(T("copier-exercise-3"));
    HANDLE pipe = INVALID_HANDLE_VALUE;
    for (int i = 0; i < 2000 && pipe == INVALID_HANDLE_VALUE; i++) {
        pipe = CreateFileW(L"\\\\.\\pipe\\copier-exercise-3", GENERIC_READ | GENERIC_WRITE, 0, nullptr, OPEN_EXISTING, 0, nullptr);
        if (pipe == INVALID_HANDLE_VALUE) rest(5);
    }
    expect(pipe != INVALID_HANDLE_VALUE, "a pipe to look at");
    std::vector<uchar> bytes(4096), user(4096);
    DWORD size = 0;
    expect(GetKernelObjectSecurity(pipe, DACL_SECURITY_INFORMATION, bytes.data(), 4096, &size), "the rights of a pipe");
    BOOL there = FALSE, usual = TRUE;
    ACL *list = nullptr;
    GetSecurityDescriptorDacl(bytes.data(), &there, &list, &usual);
    expect(there && list && list->AceCount == 1, "an access list of one entry");
    ACCESS_ALLOWED_ACE *entry = nullptr;
    HANDLE token = nullptr;
    expect(GetAce(list, 0, reinterpret_cast<void **>(&entry)) && entry->Header.AceType == ACCESS_ALLOWED_ACE_TYPE, "an entry that allows");
    OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &token);
    expect(GetTokenInformation(token, TokenUser, user.data(), 4096, &size), "who runs this");
    expect(EqualSid(&entry->SidStart, reinterpret_cast<TOKEN_USER *>(user.data())->User.Sid), "an entry for another user");
    CloseHandle(token);
    CloseHandle(pipe);
    link_close(server);
}
#else
void rights() {}
#endif

void sockets(int echo, int cut, int deaf) {
    int link = tcp_open(T("127.0.0.1"), echo, 0, 5000);
    connected(link, "TCP");
    round_trips(link, 0, 10000, "tcp");
    const std::string large(3000000, 'y');
    say(link, large);
    expect(taken(link, large.size()) == large, "three megabytes through a socket");
    link_close(link);
    for (int i = 0; i < 100; i++) {
        link = tcp_open(T("127.0.0.1"), cut, 0, 5000);
        connected(link, "TCP to be cut");
        say(link, "something");
        expect(taken(link, 1000) == std::string(1000, 'z'), "what came before the cut");
        const int code = ended(link);
        expect(code == -1, "a connection that was cut");
        link_close(link);
    }
    printf("tcp: 100 connections cut\n");
    link = tcp_open(T("127.0.0.1"), deaf, 0, 5000);
    connected(link, "TCP to the deaf");
    const std::string part(1000000, 'q');
    int sent = 0, said = 0;
    while (sent < 100 && (said = link_send(link, reinterpret_cast<const uchar *>(part.data()), int(part.size()))) > 0) { sent++; rest(20); }
    expect(said == -4 && sent >= 8 && sent < 100, "a queue without an end");
    link_close(link);
    printf("tcp: the queue is bounded\n");
    link = tcp_open(T("127.0.0.1"), 1, 0, 5000);
    const int refused = ended(link);
    expect(refused == -7, "nobody listens");
    expect(reason(link).find("127.0.0.1:1") == 0, "the words for nobody");
    link_close(link);
    int links[40];
    int made = 0;
    for (; made < 40; made++)
        if ((links[made] = tcp_open(T("127.0.0.1"), echo, 0, 5000)) < 0) break;
    expect(made == 32 && links[made] == -5, "more links than there may be");
    while (made) link_close(links[--made]);
    printf("tcp: the links are bounded\n");
}

int done(int job) {
    for (int i = 0; i < 2000 && job_state(job) == 0; i++) rest(5);
    if (job_state(job) != 1) printf("a job says %d: %s\n", job_state(job), reason(job).c_str());
    return job_state(job);
}

void jobs(int web, int redis) {
    const std::string text = "{\"lots\":0.3}", url = "http://127.0.0.1:" + std::to_string(web) + "/trades?x=1";
    const std::vector<unit> wide(url.c_str(), url.c_str() + url.size() + 1);
    const uchar *bytes = reinterpret_cast<const uchar *>(text.data());
    for (int i = 0; i < 20; i++) {
        const int job = http(T("POST"), wide.data(), T("Content-Type: application/json\r\nX-Own: 1"), bytes, int(text.size()), 10000);
        expect(done(job) == 1 && job_value(job) == 201, "a web call");
        uchar body[100];
        expect(job_body(job, 0, body, 100) == int(text.size()) && memcmp(body, text.data(), text.size()) == 0, "the body of a web call");
        expect(job_body(job, 100, body, 100) == 0, "what is behind a body");
        job_forget(job);
    }
    printf("http: 20 calls\n");
    for (int i = 0; i < 20; i++) {
        const int job = publish(T("127.0.0.1"), redis, 0, T("secret"), T("trades"), bytes, int(text.size()), 10000);
        expect(done(job) == 1 && job_value(job) == 7, "a message to Redis");
        job_forget(job);
    }
    printf("redis: 20 messages\n");
    const int missing = save_trade(T("/nowhere/at/all.db"), T("5001@Broker"), 7, T("EURUSD"), T("buy"), T("0.30"), 1, 2, T("1.1"),
                                   T("1.2"), T("30.00"), T("0"), T("0"), 0, T(""));
    const int said = done(missing);
    expect(said == -12 || said == -13, "a database that cannot be");
    job_forget(missing);
    printf("database: %s\n", said == -12 ? "no SQLite here" : "refused");
}

#ifdef _WIN32
void trust(const char *path) {
    std::vector<uchar> bytes(20000);
    FILE *file = fopen(path, "rb");
    expect(file != nullptr, "the authority's certificate");
    bytes.resize(fread(bytes.data(), 1, bytes.size(), file));
    fclose(file);
    HCERTSTORE roots = CertOpenSystemStoreA(0, "Root");
    expect(CertAddEncodedCertificateToStore(roots, X509_ASN_ENCODING, bytes.data(), DWORD(bytes.size()), CERT_STORE_ADD_ALWAYS, nullptr), "trusting");
    CertCloseStore(roots, 0);
}
#else
void trust(const char *) {}
#endif

void secure(int port, int stranger, const char *authority) {
    trust(authority);
    int link = tcp_open(T("localhost"), port, 1, 10000);
    connected(link, "TLS");
    round_trips(link, 0, 1000, "tls");
    const std::string large(3000000, 's');
    say(link, large);
    expect(taken(link, large.size()) == large, "three megabytes through TLS");
    link_close(link);
    link = tcp_open(T("127.0.0.1"), port, 1, 10000);
    expect(ended(link) == -9, "a certificate for another name");
    link_close(link);
    printf("tls: another name is refused\n");
    link = tcp_open(T("localhost"), stranger, 1, 10000);
    expect(ended(link) == -9, "a certificate nobody trusts");
    link_close(link);
    printf("tls: a stranger is refused\n");
}

void unload_while_busy(const char *path, int echo, int deaf) {
    const std::string part(1000000, 'q');
    const int flooded = tcp_open(T("127.0.0.1"), deaf, 0, 5000);
    connected(flooded, "TCP to the deaf");
    for (int i = 0; i < 8; i++) link_send(flooded, reinterpret_cast<const uchar *>(part.data()), int(part.size()));
    const int serving = pipe_serve(T("copier-exercise-2"));
    const int dialling = tcp_open(T("127.0.0.1"), echo, 0, 5000);
    const int call = publish(T("127.0.0.1"), deaf, 0, T(""), T("channel"), nullptr, 0, 30000);
    expect(serving > 0 && dialling > 0 && call > 0, "busy");
    rest(100);
    for (int link : {flooded, serving, dialling}) expect(link_close(link) == 1, "closing");
    expect(job_forget(call) == 1, "forgetting");
    unload();
#ifdef _WIN32
    int waited = 0;
    for (; waited < 1000 && loaded(path); waited++) rest(10);
    expect(!loaded(path), "the library is still there");
    printf("unload while busy: gone\n");
#else
    printf("unload while busy: survived\n");
#endif
    load(path);
    expect(library != nullptr, "loading it again");
    bind_all();
    const int link = tcp_open(T("127.0.0.1"), echo, 0, 5000);
    connected(link, "TCP after loading again");
    say(link, "hello");
    expect(taken(link, 5) == "hello", "after loading again");
    printf("loaded again: works\n");
    // Nobody closes anything: the process ends, or the library goes first.
    const int left = tcp_open(T("127.0.0.1"), deaf, 0, 5000);
    connected(left, "TCP left open");
    const int remaining = shut_down();
    if (remaining) printf("%d threads remain\n", remaining);
    expect(remaining == 0, "threads after the end");
    expect(link_state(left) == -2, "a link after the end");
    unload();
}
} // namespace

int main(int count, char **words) {
    setvbuf(stdout, nullptr, _IONBF, 0);
    if (count < 7) return 2;
    const int echo = atoi(words[2]), cut = atoi(words[3]), deaf = atoi(words[4]);
    load(words[1]);
    expect(library != nullptr, "the library does not load");
    bind_all();
    printf("loaded: %d bits\n", int(sizeof(void *)) * 8);
    arguments();
    pipes();
    rights();
    printf("pipe: for its user alone\n");
    sockets(echo, cut, deaf);
    jobs(atoi(words[5]), atoi(words[6]));
    if (count > 9) secure(atoi(words[7]), atoi(words[8]), words[9]);
    unload_while_busy(words[1], echo, deaf);
    printf("all done\n");
    return 0;
}
