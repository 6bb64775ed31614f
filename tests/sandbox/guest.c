/* What tests/sandbox.rs calls: functions with every type, and functions that do what no function should. */
#include "hostel.h"

HOSTEL_IMPORT(i64, add, i64, i64);
HOSTEL_IMPORT(bool, same, i32, u32, i64, u64, bool);
HOSTEL_IMPORT(text, upper, text);
HOSTEL_IMPORT(bytes, twice, bytes);
HOSTEL_IMPORT(u64, back, u64);
HOSTEL_IMPORT(void, fail, void);
HOSTEL_IMPORT(u64, careless, u64);

HOSTEL_EXPORT(u64, sum, u64, u64);
u64 sum(u64 a, u64 b) { return a + b; }

HOSTEL_EXPORT(i64, six, i32, u32, i64, u64, bool, i64);
i64 six(i32 a, u32 b, i64 c, u64 d, bool e, i64 f) { return a + (i64)b * 2 + c * 3 + (i64)d * 4 + e * 5 + f * 6; }

HOSTEL_EXPORT(bool, numbers, i32, u32, i64, u64, bool);
bool numbers(i32 a, u32 b, i64 c, u64 d, bool e) { return same(a, b, c, d, e); }

HOSTEL_EXPORT(i32, negate, i32);
i32 negate(i32 value) { return -value; }

HOSTEL_EXPORT(text, shout, text);
text shout(text what) { return upper(what); }

HOSTEL_EXPORT(bytes, four_times, bytes);
bytes four_times(bytes what) { return twice(twice(what)); }

HOSTEL_EXPORT(u64, add_up, u64);
u64 add_up(u64 to) {
    i64 total = 0;
    for (u64 number = 1; number <= to; number++) {
        total = add(total, number);
    }
    return total;
}

/* Calls the host, which calls this again, to that depth. */
HOSTEL_EXPORT(u64, down, u64);
u64 down(u64 depth) { return depth == 0 ? 0 : 1 + back(depth - 1); }

HOSTEL_EXPORT(void, failing, void);
void failing(void) { fail(); }

HOSTEL_EXPORT(u64, cared_for, u64);
u64 cared_for(u64 address) { return careless(address); }

/* What a reset undoes. */
static volatile u64 counter = 41;
static volatile unsigned char zeroes[64 * 4096];

HOSTEL_EXPORT(u64, count, void);
u64 count(void) { return ++counter; }

/* The sum of the first bytes of that many pages of .bss, which are one more afterwards. */
HOSTEL_EXPORT(u64, touch, u64);
u64 touch(u64 pages) {
    u64 total = 0;
    for (u64 page = 0; page < pages && page < 64; page++) {
        total += zeroes[page * 4096]++;
    }
    return total;
}

/* The same, deep in the stack. */
HOSTEL_EXPORT(u64, touch_stack, void);
u64 touch_stack(void) {
    u64 rsp;
    __asm__ volatile("movq %%rsp, %0" : "=r"(rsp));
    volatile u64 *deep = (volatile u64 *)(rsp - 100000);
    return (*deep)++;
}

/* The first byte of the free memory, and its last one. */
HOSTEL_EXPORT(u64, touch_free, void);
u64 touch_free(void) {
    volatile unsigned char *start = HOSTEL_MEMORY.start;
    return start[0]++ + start[HOSTEL_MEMORY.size - 1]++;
}

HOSTEL_EXPORT(u64, float_bits, void);
u64 float_bits(void) {
    u64 before, after = 0x1234567812345678;
    __asm__ volatile("movq %%xmm7, %0\nmovq %1, %%xmm7" : "=&r"(before) : "r"(after) : "xmm7");
    return before;
}

/* Model for random calls. */
static volatile u64 cells[1024];

HOSTEL_EXPORT(u64, put, u64, u64);
u64 put(u64 index, u64 value) {
    u64 before = cells[index % 1024];
    cells[index % 1024] = value;
    return before;
}

/* Hostile: what is to be ended. */
HOSTEL_EXPORT(void, loop, void);
void loop(void) {
    for (;;) {
        __asm__ volatile("");
    }
}

HOSTEL_EXPORT(void, loop_calling, void);
void loop_calling(void) {
    for (;;) {
        add(1, 2);
    }
}

HOSTEL_EXPORT(u64, overflow, u64);
u64 overflow(u64 depth) {
    volatile char room[4096];
    room[0] = depth;
    return overflow(depth + 1) + room[0];
}

HOSTEL_EXPORT(u64, load, u64);
u64 load(u64 address) { return *(volatile u64 *)address; }

HOSTEL_EXPORT(void, store, u64);
void store(u64 address) { *(volatile u64 *)address = 1; }

HOSTEL_EXPORT(void, jump, u64);
void jump(u64 address) { ((void (*)(void))address)(); }

HOSTEL_EXPORT(u64, divide, u64, u64);
u64 divide(u64 a, u64 b) {
    __asm__ volatile("xorl %%edx, %%edx\ndivq %1" : "+a"(a) : "r"(b) : "rdx");
    return a;
}

HOSTEL_EXPORT(text, lie, u64, u64);
text lie(u64 address, u64 size) { return (text){(const char *)address, size}; }

HOSTEL_EXPORT(void, lie_to_host, u64, u64);
void lie_to_host(u64 address, u64 size) { upper((text){(const char *)address, size}); }

HOSTEL_EXPORT(void, wrong_number, u64);
void wrong_number(u64 number) { __asm__ volatile("outb %%al, $0xf0" : "+a"(number) : : "memory", "rdx"); }

/* Instructions that are none of a function's business. */
HOSTEL_EXPORT(void, instruction, u32);
void instruction(u32 which) {
    switch (which) {
    case 0: __asm__ volatile("ud2"); break;
    case 1: __asm__ volatile("hlt"); break;
    case 2: __asm__ volatile("inb $0x60, %%al" : : : "rax"); break;
    case 3: __asm__ volatile("outb %%al, $0xf2" : : : "memory"); break;
    case 4: __asm__ volatile("outb %%al, $0x80" : : : "memory"); break;
    case 5: __asm__ volatile("cli"); break;
    case 6: __asm__ volatile("syscall" : : : "rcx", "r11"); break;
    case 7: __asm__ volatile("int $0x80"); break;
    case 8: __asm__ volatile("int $14"); break;
    case 9: __asm__ volatile("movq %%rax, %%cr3" : : "a"(0ull)); break;
    case 10: __asm__ volatile("xorl %%edx, %%edx\nmovw $0xf0, %%dx\nmovl $3, %%ecx\nmovq %0, %%rsi\nrep outsb" : : "r"((u64)zeroes) : "rcx", "rdx", "rsi"); break;
    case 11: __asm__ volatile("inb $0xf0, %%al" : : : "rax"); break;
    case 12: __asm__ volatile("outl %%eax, $0xf0" : : "a"(0) : "memory"); break;
    default: __asm__ volatile("movq $0x7fffffffffffffff, %rsp\npushq %rax"); break;
    }
}

/* Leaves every register that it can with something in it, and returns. */
HOSTEL_EXPORT(u64, wreck, void);
__asm__(".globl wreck\nwreck:\n"
        "movq $-1, %rbx\nmovq $-1, %rbp\nmovq $-1, %r12\nmovq $-1, %r13\nmovq $-1, %r14\nmovq $-1, %r15\n"
        "xorl %eax, %eax\nmovw %ax, %ds\nmovw %ax, %es\nmovw %ax, %fs\nmovw %ax, %gs\n"
        "pushq $0x240cd7\npopfq\nstd\nmovl $7, %eax\nret\n");
