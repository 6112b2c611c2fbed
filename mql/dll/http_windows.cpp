// A web call by WinHTTP, which knows the machine's proxies and trusts what Windows trusts.
#include <memory>
#include <type_traits>

#include "http.h"

#include <winhttp.h>

namespace {

struct Closer {
    void operator()(void *handle) const { WinHttpCloseHandle(handle); }
};
using Handle = std::unique_ptr<void, Closer>;

Handle made(HINTERNET handle, const char *what) {
    if (handle) return Handle(handle);
    throw Failure{COPIER_INTERNAL, std::string(what) + ": Windows error " + std::to_string(GetLastError())};
}

Failure failed(const char *doing) {
    const DWORD error = GetLastError();
    const std::string why = std::string(doing) + ": Windows error " + std::to_string(error);
    switch (error) {
    case ERROR_WINHTTP_TIMEOUT: return {COPIER_TIMED_OUT, why};
    case ERROR_WINHTTP_NAME_NOT_RESOLVED: return {COPIER_NOT_FOUND, why};
    case ERROR_WINHTTP_CANNOT_CONNECT: return {COPIER_NOT_CONNECTED, why};
    case ERROR_WINHTTP_SECURE_FAILURE: return {COPIER_NOT_TRUSTED, why};
    case ERROR_WINHTTP_INVALID_SERVER_RESPONSE: return {COPIER_NOT_UNDERSTOOD, why};
    default: return {COPIER_BROKEN, why};
    }
}

std::wstring wide(const std::string &text) {
    std::wstring out(text.size() + 1, L'\0');
    const int count = MultiByteToWideChar(CP_UTF8, 0, text.data(), static_cast<int>(text.size()), &out[0], static_cast<int>(out.size()));
    out.resize(static_cast<size_t>(count));
    return out;
}

} // namespace

HttpAnswer http_call(const HttpRequest &request, const Patience &patience) {
    check_request(request);
    const HttpPlace place = http_place(request.url);
    const int left = static_cast<int>(patience.until_ms - now_ms());
    if (left <= 0 || patience.stop) throw Failure{COPIER_TIMED_OUT, "the web call came too late"};
    const Handle session = made(WinHttpOpen(L"mt-copier", WINHTTP_ACCESS_TYPE_DEFAULT_PROXY, nullptr, nullptr, 0), "WinHTTP");
    WinHttpSetTimeouts(session.get(), left, left, left, left);
    const Handle connection =
        made(WinHttpConnect(session.get(), wide(place.host).c_str(), static_cast<INTERNET_PORT>(place.port), 0), "WinHTTP");
    const Handle call = made(WinHttpOpenRequest(connection.get(), wide(request.method).c_str(), wide(place.path).c_str(), nullptr,
                                                nullptr, nullptr, place.secure ? WINHTTP_FLAG_SECURE : 0),
                             "WinHTTP");
    const std::wstring headers = wide(request.headers);
    if (!headers.empty() && !WinHttpAddRequestHeaders(call.get(), headers.c_str(), static_cast<DWORD>(-1), WINHTTP_ADDREQ_FLAG_ADD))
        throw failed("the headers");
    const DWORD size = static_cast<DWORD>(request.body.size());
    void *body = size ? const_cast<char *>(request.body.data()) : nullptr;
    if (!WinHttpSendRequest(call.get(), nullptr, 0, body, size, size, 0)) throw failed("sending");
    if (!WinHttpReceiveResponse(call.get(), nullptr)) throw failed("waiting for the answer");
    DWORD status = 0, status_size = sizeof status;
    const DWORD wanted = WINHTTP_QUERY_STATUS_CODE | WINHTTP_QUERY_FLAG_NUMBER;
    if (!WinHttpQueryHeaders(call.get(), wanted, nullptr, &status, &status_size, nullptr)) throw failed("the status");
    HttpAnswer answer;
    answer.status = static_cast<int>(status);
    char bytes[16384];
    for (DWORD count = 1; count;) {
        patience.left_ms("the web call");
        if (!WinHttpReadData(call.get(), bytes, sizeof bytes, &count)) throw failed("reading the answer");
        answer.body.append(bytes, count);
        if (answer.body.size() > HTTP_BODY_MAX) throw Failure{COPIER_NOT_UNDERSTOOD, "HTTP: a body too long"};
    }
    return answer;
}
