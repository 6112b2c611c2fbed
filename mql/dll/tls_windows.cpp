// TLS 1.2 by SChannel: certificates are held against those Windows trusts, and against the host's name.
#define SECURITY_WIN32
#include <algorithm>
#include <vector>

#include "stream_windows.h"

#include <wincrypt.h>
#include <security.h>
#include <schannel.h>

namespace {

Failure untrusted(const std::string &host, const char *what, unsigned long number) {
    return {COPIER_NOT_TRUSTED, host + ": " + what + ": " + windows_error(number)};
}

class Tls : public Tcp {
public:
    using Tcp::Tcp;
    ~Tls() override {
        if (has_context_) DeleteSecurityContext(&context_);
        if (has_credentials_) FreeCredentialsHandle(&credentials_);
    }

    void open(const Patience &patience) override {
        Tcp::open(patience);
        wide_host_.assign(host_.begin(), host_.end());
        acquire();
        shake_hands(patience);
        verify();
        if (QueryContextAttributesW(&context_, SECPKG_ATTR_STREAM_SIZES, &sizes_) != SEC_E_OK)
            throw untrusted(host_, "the sizes of messages", 0);
    }

    size_t read(unsigned char *to, size_t most) override {
        for (;;) {
            if (plain_at_ < plain_.size()) {
                const size_t count = std::min(most, plain_.size() - plain_at_);
                std::copy_n(plain_.begin() + static_cast<std::ptrdiff_t>(plain_at_), count, to);
                plain_at_ += count;
                return count;
            }
            if (decrypt()) continue;
            if (!receive()) return 0;
        }
    }

    size_t write(const unsigned char *from, size_t count) override {
        if (!flush()) return 0;
        const size_t taken = std::min(count, static_cast<size_t>(sizes_.cbMaximumMessage));
        encrypt(from, taken);
        flush();
        return taken;
    }

    bool flush() override {
        while (!outgoing_.empty()) {
            const size_t moved = Tcp::write(outgoing_.data(), outgoing_.size());
            if (!moved) return false;
            outgoing_.erase(outgoing_.begin(), outgoing_.begin() + static_cast<std::ptrdiff_t>(moved));
        }
        return true;
    }

private:
    void acquire() {
        SCHANNEL_CRED wanted{};
        wanted.dwVersion = SCHANNEL_CRED_VERSION;
        wanted.grbitEnabledProtocols = SP_PROT_TLS1_2_CLIENT;
        wanted.dwFlags = SCH_CRED_MANUAL_CRED_VALIDATION | SCH_CRED_NO_DEFAULT_CREDS | SCH_USE_STRONG_CRYPTO;
        wchar_t package[] = UNISP_NAME_W;
        const SECURITY_STATUS status = AcquireCredentialsHandleW(nullptr, package, SECPKG_CRED_OUTBOUND, nullptr, &wanted,
                                                                 nullptr, nullptr, &credentials_, nullptr);
        if (status != SEC_E_OK) throw untrusted(host_, "TLS", static_cast<unsigned long>(status));
        has_credentials_ = true;
    }

    // Takes one step; returns what SChannel says.
    SECURITY_STATUS step() {
        const DWORD flags = ISC_REQ_SEQUENCE_DETECT | ISC_REQ_REPLAY_DETECT | ISC_REQ_CONFIDENTIALITY |
                            ISC_REQ_ALLOCATE_MEMORY | ISC_REQ_STREAM | ISC_REQ_MANUAL_CRED_VALIDATION;
        SecBuffer given[2] = {{static_cast<unsigned long>(incoming_.size()), SECBUFFER_TOKEN, incoming_.data()},
                              {0, SECBUFFER_EMPTY, nullptr}};
        SecBuffer made[1] = {{0, SECBUFFER_TOKEN, nullptr}};
        SecBufferDesc in{SECBUFFER_VERSION, 2, given}, out{SECBUFFER_VERSION, 1, made};
        DWORD said = 0;
        wchar_t *host = const_cast<wchar_t *>(wide_host_.c_str());
        const SECURITY_STATUS status =
            InitializeSecurityContextW(&credentials_, has_context_ ? &context_ : nullptr, host, flags, 0, 0,
                                       has_context_ ? &in : nullptr, 0, &context_, &out, &said, nullptr);
        if (made[0].pvBuffer) {
            const unsigned char *bytes = static_cast<const unsigned char *>(made[0].pvBuffer);
            outgoing_.insert(outgoing_.end(), bytes, bytes + made[0].cbBuffer);
            FreeContextBuffer(made[0].pvBuffer);
        }
        if (status == SEC_E_INCOMPLETE_MESSAGE) return status;
        keep_extra(has_context_ && given[1].BufferType == SECBUFFER_EXTRA ? given[1].cbBuffer : 0);
        if (status == SEC_E_OK || status == SEC_I_CONTINUE_NEEDED) has_context_ = true;
        return status;
    }

    void shake_hands(const Patience &patience) {
        SECURITY_STATUS status = step();
        while (status != SEC_E_OK || !outgoing_.empty()) {
            if (status != SEC_E_OK && status != SEC_I_CONTINUE_NEEDED && status != SEC_E_INCOMPLETE_MESSAGE)
                throw untrusted(host_, "the TLS handshake failed", static_cast<unsigned long>(status));
            if (!flush()) {
                wait(false, true, patience.left_ms("the TLS handshake"));
                continue;
            }
            if (status == SEC_E_OK) return;
            if (incoming_.empty() || status == SEC_E_INCOMPLETE_MESSAGE)
                while (!receive()) wait(true, false, patience.left_ms("the TLS handshake"));
            status = step();
        }
    }

    void verify() {
        const CERT_CONTEXT *certificate = nullptr;
        SECURITY_STATUS status = QueryContextAttributesW(&context_, SECPKG_ATTR_REMOTE_CERT_CONTEXT, &certificate);
        if (status != SEC_E_OK || !certificate) throw untrusted(host_, "no certificate", static_cast<unsigned long>(status));
        char usage[] = szOID_PKIX_KP_SERVER_AUTH;
        char *usages[] = {usage};
        CERT_CHAIN_PARA wanted{};
        wanted.cbSize = sizeof wanted;
        wanted.RequestedUsage.dwType = USAGE_MATCH_TYPE_OR;
        wanted.RequestedUsage.Usage.cUsageIdentifier = 1;
        wanted.RequestedUsage.Usage.rgpszUsageIdentifier = usages;
        const CERT_CHAIN_CONTEXT *chain = nullptr;
        const BOOL built = CertGetCertificateChain(nullptr, certificate, nullptr, certificate->hCertStore, &wanted, 0, nullptr, &chain);
        CertFreeCertificateContext(certificate);
        if (!built) throw untrusted(host_, "the certificate's chain", GetLastError());
        SSL_EXTRA_CERT_CHAIN_POLICY_PARA extra{};
        extra.cbSize = sizeof extra;
        extra.dwAuthType = AUTHTYPE_SERVER;
        extra.pwszServerName = const_cast<wchar_t *>(wide_host_.c_str());
        CERT_CHAIN_POLICY_PARA policy{};
        policy.cbSize = sizeof policy;
        policy.pvExtraPolicyPara = &extra;
        CERT_CHAIN_POLICY_STATUS verdict{};
        verdict.cbSize = sizeof verdict;
        // Asked for besides the policy's verdict, which need not mind a chain that ends nowhere.
        const DWORD doubts = chain->TrustStatus.dwErrorStatus;
        const BOOL judged = CertVerifyCertificateChainPolicy(CERT_CHAIN_POLICY_SSL, chain, &policy, &verdict);
        CertFreeCertificateChain(chain);
        if (!judged || verdict.dwError || doubts)
            throw untrusted(host_, "the certificate is not trusted", verdict.dwError ? verdict.dwError : doubts);
    }

    // Reads from the socket what there is; false where nothing is.
    bool receive() {
        unsigned char bytes[16384];
        const size_t count = Tcp::read(bytes, sizeof bytes);
        incoming_.insert(incoming_.end(), bytes, bytes + count);
        return count > 0;
    }

    void keep_extra(size_t count) { incoming_.erase(incoming_.begin(), incoming_.end() - static_cast<std::ptrdiff_t>(count)); }

    // Makes one message plain; false where none is whole.
    bool decrypt() {
        if (incoming_.empty()) return false;
        SecBuffer parts[4] = {{static_cast<unsigned long>(incoming_.size()), SECBUFFER_DATA, incoming_.data()},
                              {0, SECBUFFER_EMPTY, nullptr},
                              {0, SECBUFFER_EMPTY, nullptr},
                              {0, SECBUFFER_EMPTY, nullptr}};
        SecBufferDesc all{SECBUFFER_VERSION, 4, parts};
        const SECURITY_STATUS status = DecryptMessage(&context_, &all, 0, nullptr);
        if (status == SEC_E_INCOMPLETE_MESSAGE) return false;
        if (status == SEC_I_CONTEXT_EXPIRED) throw Failure{COPIER_CLOSED, "the other end closed the secure connection"};
        if (status != SEC_E_OK) throw Failure{COPIER_BROKEN, "a secure message: " + windows_error(static_cast<unsigned long>(status))};
        size_t extra = 0;
        plain_.clear();
        plain_at_ = 0;
        for (const SecBuffer &part : parts) {
            const unsigned char *bytes = static_cast<const unsigned char *>(part.pvBuffer);
            if (part.BufferType == SECBUFFER_DATA) plain_.assign(bytes, bytes + part.cbBuffer);
            if (part.BufferType == SECBUFFER_EXTRA) extra = part.cbBuffer;
        }
        keep_extra(extra);
        return true;
    }

    void encrypt(const unsigned char *from, size_t count) {
        std::vector<unsigned char> message(sizes_.cbHeader + count + sizes_.cbTrailer);
        std::copy_n(from, count, message.data() + sizes_.cbHeader);
        SecBuffer parts[4] = {{sizes_.cbHeader, SECBUFFER_STREAM_HEADER, message.data()},
                              {static_cast<unsigned long>(count), SECBUFFER_DATA, message.data() + sizes_.cbHeader},
                              {sizes_.cbTrailer, SECBUFFER_STREAM_TRAILER, message.data() + sizes_.cbHeader + count},
                              {0, SECBUFFER_EMPTY, nullptr}};
        SecBufferDesc all{SECBUFFER_VERSION, 4, parts};
        const SECURITY_STATUS status = EncryptMessage(&context_, 0, &all, 0);
        if (status != SEC_E_OK) throw Failure{COPIER_BROKEN, "a secure message: " + windows_error(static_cast<unsigned long>(status))};
        message.resize(parts[0].cbBuffer + parts[1].cbBuffer + parts[2].cbBuffer);
        outgoing_.insert(outgoing_.end(), message.begin(), message.end());
    }

    std::wstring wide_host_;
    CredHandle credentials_{};
    CtxtHandle context_{};
    SecPkgContext_StreamSizes sizes_{};
    bool has_credentials_ = false;
    bool has_context_ = false;
    std::vector<unsigned char> incoming_, outgoing_, plain_;
    size_t plain_at_ = 0;
};

} // namespace

StreamPtr tls_stream(const std::string &host, int port, Wake &wake) { return std::make_unique<Tls>(host, port, wake); }
