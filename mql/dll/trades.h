// A closed trade as a row of an SQLite file, by the system's own SQLite.
#pragma once
#include "jobs.h"

struct ClosedTrade {
    std::string account, symbol, side, lots, open_price, close_price, profit, swap, commission, comment;
    int64_t ticket = 0, open_ms = 0, close_ms = 0, magic = 0;
};

// Lots, prices and money stay the decimal texts they came as.
JobResult save_trade(const std::string &path, const ClosedTrade &trade);
