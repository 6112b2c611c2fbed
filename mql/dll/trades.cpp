#include "trades.h"

#include <cstring>

#ifdef _WIN32
#define SQLITE_CALL __stdcall
#else
#define SQLITE_CALL
#endif

namespace {

const char *TABLE = "CREATE TABLE IF NOT EXISTS closed_trades (account TEXT NOT NULL, ticket INTEGER NOT NULL, symbol TEXT NOT NULL, "
                    "side TEXT NOT NULL, lots TEXT NOT NULL, open_ms INTEGER NOT NULL, close_ms INTEGER NOT NULL, "
                    "open_price TEXT NOT NULL, close_price TEXT NOT NULL, profit TEXT NOT NULL, swap TEXT NOT NULL, "
                    "commission TEXT NOT NULL, magic INTEGER NOT NULL, comment TEXT NOT NULL, PRIMARY KEY (account, ticket))";
const char *INSERT = "INSERT OR IGNORE INTO closed_trades VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)";

// Windows' own SQLite calls by __stdcall, which matters where a program has 32 bits.
struct Sqlite {
    int(SQLITE_CALL *open)(const char *, void **, int, const char *);
    int(SQLITE_CALL *busy_timeout)(void *, int);
    int(SQLITE_CALL *exec)(void *, const char *, void *, void *, char **);
    int(SQLITE_CALL *prepare)(void *, const char *, int, void **, const char **);
    int(SQLITE_CALL *bind_text)(void *, int, const char *, int, void *);
    int(SQLITE_CALL *bind_int64)(void *, int, int64_t);
    int(SQLITE_CALL *step)(void *);
    int(SQLITE_CALL *finalize)(void *);
    int(SQLITE_CALL *changes)(void *);
    int(SQLITE_CALL *close)(void *);
    const char *(SQLITE_CALL *message)(void *);
};

#ifdef _WIN32
const char *LIBRARY = "winsqlite3.dll";
#else
const char *LIBRARY = "libsqlite3.so.0";
#endif

const Sqlite &sqlite() {
    static const Sqlite *found = [] {
        void *library = loaded_library(LIBRARY);
        Sqlite *made = new Sqlite();
        auto find = [library](auto &function, const char *name) {
            void *address = library ? loaded_function(library, name) : nullptr;
            if (!address) throw Failure{COPIER_NO_LIBRARY, std::string(LIBRARY) + " is not there"};
            memcpy(&function, &address, sizeof address);
        };
        find(made->open, "sqlite3_open_v2");
        find(made->busy_timeout, "sqlite3_busy_timeout");
        find(made->exec, "sqlite3_exec");
        find(made->prepare, "sqlite3_prepare_v2");
        find(made->bind_text, "sqlite3_bind_text");
        find(made->bind_int64, "sqlite3_bind_int64");
        find(made->step, "sqlite3_step");
        find(made->finalize, "sqlite3_finalize");
        find(made->changes, "sqlite3_changes");
        find(made->close, "sqlite3_close_v2");
        find(made->message, "sqlite3_errmsg");
        return made;
    }();
    return *found;
}

class Database {
public:
    explicit Database(const std::string &path) {
        const int READ_WRITE_CREATE = 2 | 4, BUSY_MS = 2000;
        if (sqlite().open(path.c_str(), &handle_, READ_WRITE_CREATE, nullptr) != 0) {
            const Failure failure = refusal();
            sqlite().close(handle_);
            throw failure;
        }
        sqlite().busy_timeout(handle_, BUSY_MS);
        if (sqlite().exec(handle_, TABLE, nullptr, nullptr, nullptr) != 0) {
            const Failure failure = refusal();
            sqlite().close(handle_);
            throw failure;
        }
    }
    ~Database() { sqlite().close(handle_); }
    Database(const Database &) = delete;
    Database &operator=(const Database &) = delete;

    int insert(const ClosedTrade &trade) {
        const int STEP_DONE = 101;
        void *statement = nullptr;
        if (sqlite().prepare(handle_, INSERT, -1, &statement, nullptr) != 0) throw refusal();
        int at = 0;
        auto text = [&at, statement](const std::string &value) {
            sqlite().bind_text(statement, ++at, value.c_str(), static_cast<int>(value.size()), nullptr);
        };
        auto whole = [&at, statement](int64_t value) { sqlite().bind_int64(statement, ++at, value); };
        text(trade.account);
        whole(trade.ticket);
        text(trade.symbol);
        text(trade.side);
        text(trade.lots);
        whole(trade.open_ms);
        whole(trade.close_ms);
        text(trade.open_price);
        text(trade.close_price);
        text(trade.profit);
        text(trade.swap);
        text(trade.commission);
        whole(trade.magic);
        text(trade.comment);
        const int done = sqlite().step(statement);
        const Failure failure = refusal();
        sqlite().finalize(statement);
        if (done != STEP_DONE) throw failure;
        return sqlite().changes(handle_);
    }

private:
    Failure refusal() const { return {COPIER_DATABASE, std::string("SQLite: ") + sqlite().message(handle_)}; }

    void *handle_ = nullptr;
};

} // namespace

JobResult save_trade(const std::string &path, const ClosedTrade &trade) {
    Database database(path);
    return {database.insert(trade), ""};
}
