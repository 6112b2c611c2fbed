#include "stream.h"

void write_all(Stream &stream, const std::string &bytes, const Patience &patience, const char *doing) {
    for (size_t at = 0; at < bytes.size();) {
        const size_t moved = stream.write(reinterpret_cast<const unsigned char *>(bytes.data()) + at, bytes.size() - at);
        at += moved;
        if (!moved) stream.wait(false, true, patience.left_ms(doing));
    }
    while (!stream.flush()) stream.wait(false, true, patience.left_ms(doing));
}

size_t read_some(Stream &stream, unsigned char *to, size_t most, const Patience &patience, const char *doing) {
    for (;;) {
        if (const size_t moved = stream.read(to, most)) return moved;
        stream.wait(true, false, patience.left_ms(doing));
    }
}
