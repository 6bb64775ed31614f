/* The guest's side of a sandbox of Hostel's, for C.
 *
 * A program says which of its functions the host calls and which of the host's it calls itself:
 *
 *     HOSTEL_EXPORT(u64, sum, u64, u64);      declares u64 sum(u64, u64), which the program defines
 *     HOSTEL_IMPORT(i64, add, i64, i64);      declares and defines i64 add(i64, i64), which calls the host
 *
 * once each, in one of its files. Types are void, bool, i32, u32, i64, u64, bytes and text; a function's parameters take six
 * registers at most, bytes and text two each. The host checks the types before the program runs. Both leave a line of text in the
 * section .hostel; a call of the host is its address in RAX and an OUT to port 0xf0.
 *
 * cc -O2 -ffreestanding -fno-stack-protector -fno-pic -nostdlib -static -no-pie -I guest/sandbox \
 *     -Wl,-T,guest/sandbox/sandbox.ld program.c -o program
 *
 * There is no C library, no thread-local storage and no AVX. What the host passes is the program's until its function returns; the
 * result of a host's function until it calls the next one.
 */
#ifndef HOSTEL_H
#define HOSTEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef int32_t i32;
typedef uint32_t u32;
typedef int64_t i64;
typedef uint64_t u64;

/* Bytes, anywhere in the program's memory. */
typedef struct {
    const void *data;
    u64 size;
} bytes;

/* UTF-8, without a zero byte behind it. */
typedef struct {
    const char *data;
    u64 size;
} text;

/* Text that stands in the program. */
#define HOSTEL_TEXT(literal) ((text){(literal), sizeof(literal) - 1})

/* Memory that nothing uses, zero at first: for an allocator of the program's own. */
struct hostel_memory {
    unsigned char *start;
    u64 size;
};
#define HOSTEL_MEMORY (*(const struct hostel_memory *)0x5100)

#define HOSTEL_EXPORT(result, name, ...)                                                                               \
    result name(__VA_ARGS__);                                                                                          \
    __asm__(".pushsection .hostel,\"a\",@progbits\n"                                                                   \
            ".asciz \"export " #name " " #result "(" #__VA_ARGS__ ")\"\n"                                              \
            ".popsection")

#define HOSTEL_IMPORT(result, name, ...)                                                                               \
    result name(__VA_ARGS__);                                                                                          \
    __asm__(".pushsection .hostel,\"a\",@progbits\n"                                                                   \
            ".Lhostel_" #name ": .asciz \"import " #name " " #result "(" #__VA_ARGS__ ")\"\n"                          \
            ".popsection\n"                                                                                            \
            ".pushsection .text,\"ax\",@progbits\n"                                                                    \
            ".globl " #name "\n.type " #name ", @function\n"                                                           \
            #name ": leaq .Lhostel_" #name "(%rip), %rax\n"                                                            \
            "outb %al, $0xf0\n"                                                                                        \
            "ret\n"                                                                                                    \
            ".popsection")

/* What a compiler calls even where there is no C library. */
__attribute__((weak)) void *memcpy(void *to, const void *from, size_t size) {
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
    return start;
}

__attribute__((weak)) void *memset(void *to, int value, size_t size) {
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
    return start;
}

#endif
