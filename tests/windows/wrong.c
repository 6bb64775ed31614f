/* Goes wrong in the way that its argument names. */
#include <windows.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile int zero;

static int deeper(volatile char *above)
{
    volatile char room[4096];

    room[0] = above[0];
    return deeper(room) + room[0];
}

int main(int count, char **arguments)
{
    const char *how = count > 1 ? arguments[1] : "";

    printf("before\n");
    if (!strcmp(how, "write"))
        *(volatile int *)0 = 1;
    if (!strcmp(how, "call"))
        ((void (*)(void))0x123456789)();
    if (!strcmp(how, "pass"))
        fputs((const char *)8, stdout);
    if (!strcmp(how, "divide"))
        return count / zero;
    if (!strcmp(how, "stack"))
        return deeper((volatile char *)how);
    if (!strcmp(how, "invalid"))
        __asm__ volatile("ud2");
    if (!strcmp(how, "code"))
        *(volatile char *)main = 0;
    if (!strcmp(how, "buffer"))
        return ReadFile(GetStdHandle(STD_INPUT_HANDLE), (void *)8, 1, NULL, NULL) ? 0 : GetLastError() % 256;
    if (!strcmp(how, "abort"))
        abort();
    if (!strcmp(how, "free"))
        free((void *)&zero);
    if (!strcmp(how, "loop"))
        for (;;)
            ;
    if (!strcmp(how, "status"))
        ExitProcess(0x1234);
    return 0;
}
