// What a fuzzer holds the Expert Advisor to, whatever bytes arrive: before the greeting never a trade; after it a trade only for
// a whole frame that has a command and a permit, and then once; one answer to each line, of one line; and never a crash.
static int mql_fuzz_trades = 0;
static long mql_fuzz_executed = 0;

MqlRows mql_fuzz_answer(const MqlRow &call) {
    const std::string &what = call[0];
    if (what == "account") return {{"5001", "0", "100", "2", "1", "1", "10000", "0", "0", "10000", "0", "10000", "0", "Name", "Broker-Demo", "USD", "Broker"}};
    if (what == "terminal") return {{"1", "1", "5200", "1"}};
    if (what == "time") return {{"1704722400", "1704722400", "EURUSD"}};
    if (what == "symbol" && call[1] == "EURUSD")
        return {{"1", "5", "0", "0", "4", "2", "3", "0", "1.1", "1.1001", "0.00001", "0.00001", "1", "1", "100000", "0.01", "0.01", "100", "0", "1", "EUR", "USD", "EUR"}};
    if (what == "select") return {{call[1] == "EURUSD" ? "1" : "0"}};
    if (what == "symbols") return {{"EURUSD", "XAUUSD"}};
    if (what == "tick" && call[1] == "EURUSD") return {{"1704722400000", "1.1", "1.1001"}};
    if (what == "margin") return {{"100"}};
    if (what == "orders_total") return {{"0"}};
    if (what.compare(0, 7, "history") == 0) return {{"1"}};
    if (what == "positions") return {{"7", "7", "0", "1704715200000", "0", "0.3", "1.1", "1.1", "0", "0", "0", "0", "EURUSD", "x"}};
    if (what == "order_send") { mql_fuzz_trades++; mql_fuzz_executed++; return {{"10009", "11", "12", "0.3", "1.1", "1.1", "1.1001", "done", "1"}}; }
    return {};
}

static void expect(bool kept, const char *what, const std::string &line) {
    if (kept) return;
    fprintf(stderr, "broken promise: %s: %s\n", what, line.c_str());
    abort();
}

// Steps a session until it has taken all the bytes.
static void before_the_greeting(const uint8_t *data, size_t size, int step) {
    Session session;
    FuzzCarrier carrier;
    session.Start(u"5001@Broker-Demo", FUZZ_SECRET, 0.0, u"", LOG_NONE, 10, 1000000);
    carrier.m_step = step;
    carrier.m_bytes.v.assign(data, data + size);
    session.Step(carrier, false);
    for (size_t i = 0; i < size + 2 && carrier.IsOpen(); i += size_t(step)) session.Step(carrier, false);
    expect(mql_fuzz_trades == 0, "a trade before the greeting", std::string(data, data + size));
    const std::string said = carrier.m_said.utf8();
    expect(said.find("\"success\"") == std::string::npos, "an answer before the greeting", said);
}

static void after_the_greeting(const uint8_t *data, size_t size, int step) {
    static Dispatcher *dispatcher = nullptr;
    static int runs = 0;
    // What it remembers outlives it, in files: begin anew now and then.
    if (runs++ % 200 == 0) {
        system("rm -rf \"$MQL_COMMON\"/MtCopier");
        delete dispatcher;
        dispatcher = new Dispatcher();
        dispatcher->Begin(u"5001@Broker-Demo", 1.0, u"", LOG_NONE);
    }
    LineBuffer lines;
    string line;
    for (size_t at = 0; at < size; at += size_t(step)) {
        MqlArray<uchar> part;
        part.v.assign(data + at, data + std::min(size, at + size_t(step)));
        lines.Add(part, ArraySize(part));
        while (lines.Next(line)) {
            mql_fuzz_trades = 0;
            const string answer = dispatcher->Answer(line);
            JsonReader frame, said;
            const bool whole = frame.Read(line);
            if (mql_fuzz_trades) expect(whole && frame.Has(u"command") && frame.Has(u"permit"), "a trade without a permit", line.utf8());
            expect(whole || answer.utf8().find("\"outcome\":\"invalid\"") != std::string::npos, "no clear error", line.utf8());
            if (!StringLen(answer)) continue;
            expect(answer.utf8().find('\n') == std::string::npos && said.Read(answer), "an answer that is no frame", answer.utf8());
            const int traded = mql_fuzz_trades;
            if (traded) {
                expect(dispatcher->Answer(line) == answer, "another answer to the same command", line.utf8());
                expect(mql_fuzz_trades == traded, "a command executed twice", line.utf8());
            }
        }
    }
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    // A fuzzer that never comes as far as an order proves nothing about orders.
    static const int told = atexit([] { fprintf(stderr, "orders executed: %ld\n", mql_fuzz_executed); });
    (void)told;
    mql_kept.clear();
    mql_fuzz_trades = 0;
    const int step = 1 + data[0] % 97;
    if (data[1] & 1) before_the_greeting(data + 2, size - 2, step);
    else after_the_greeting(data + 2, size - 2, step);
    return 0;
}
