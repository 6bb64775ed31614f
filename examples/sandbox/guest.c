/* A program for a sandbox: three functions that the host calls, and one of the host's. See examples/sandbox.rs. */
#include "hostel.h"

HOSTEL_IMPORT(void, say, text);

HOSTEL_EXPORT(u64, sum, u64, u64);
HOSTEL_EXPORT(u64, count, void);
HOSTEL_EXPORT(u64, letters, text);

u64 sum(u64 a, u64 b) {
    return a + b;
}

static u64 calls;

/* How often it was called: 1 after each reset. */
u64 count(void) {
    return ++calls;
}

/* Counts the letters of a text, and says so when there are none. */
u64 letters(text where) {
    u64 found = 0;
    for (u64 at = 0; at < where.size; at++) {
        char lower = where.data[at] | 0x20;
        found += lower >= 'a' && lower <= 'z';
    }
    if (found == 0) {
        say(HOSTEL_TEXT("not a single letter"));
    }
    return found;
}
