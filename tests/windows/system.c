/* Asks KERNEL32 and the C runtime for much that a program may need, and checks the answers. Status 0: all are right. */
#include <windows.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static __thread int of_thread = 7;
static int failures;

static void check(int right, const char *what)
{
    if (!right) {
        printf("wrong: %s\n", what);
        failures++;
    }
}

static int by_number(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static void memory(void)
{
    MEMORY_BASIC_INFORMATION information;
    DWORD before;
    char *pages = VirtualAlloc(NULL, 10000, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
    char *block = HeapAlloc(GetProcessHeap(), HEAP_ZERO_MEMORY, 100);

    check(pages && pages[9999] == 0, "VirtualAlloc");
    check(VirtualProtect(pages, 4096, PAGE_READONLY, &before) && before == PAGE_READWRITE, "VirtualProtect");
    check(VirtualQuery(pages, &information, sizeof information) && information.Protect == PAGE_READONLY
        && information.RegionSize == 4096 && information.BaseAddress == pages, "VirtualQuery");
    check(VirtualFree(pages, 0, MEM_RELEASE), "VirtualFree");
    check(block && block[99] == 0, "HeapAlloc");
    block[0] = 'x';
    block = HeapReAlloc(GetProcessHeap(), 0, block, 1000000);
    check(block && block[0] == 'x' && HeapSize(GetProcessHeap(), 0, block) == 1000000, "HeapReAlloc");
    check(HeapFree(GetProcessHeap(), 0, block), "HeapFree");
}

static void texts(void)
{
    char text[64] = "one two,three", wide_back[8];
    wchar_t wide[8];
    int numbers[] = {5, 3, 9, 1}, key = 9;

    check(strtol("-0x1f", NULL, 16) == -31 && atoi(" 42x") == 42, "strtol, atoi");
    check(!strcmp(strtok(text, " ,"), "one") && !strcmp(strtok(NULL, " ,"), "two"), "strtok");
    check(strstr("a needle", "need") && strrchr("a/b/c", '/')[1] == 'c' && strcspn("ab1", "0123456789") == 2, "strstr");
    check(toupper('a') == 'A' && isdigit('7') && !isalpha('7') && isspace('\t'), "ctype");
    check(MultiByteToWideChar(CP_UTF8, 0, "\xc3\xa4\xe2\x82\xac", -1, wide, 8) == 3 && wide[1] == 0x20ac, "MultiByteToWideChar");
    check(WideCharToMultiByte(CP_UTF8, 0, wide, -1, wide_back, 8, NULL, NULL) == 6, "WideCharToMultiByte");
    qsort(numbers, 4, sizeof *numbers, by_number);
    check(numbers[0] == 1 && numbers[3] == 9, "qsort");
    check(bsearch(&key, numbers, 4, sizeof *numbers, by_number) == &numbers[3], "bsearch");
    check(sprintf(text, "%s %g %x", "a", 0.5, 255) == 8 && !strcmp(text, "a 0.5 ff"), "sprintf");
}

static void process(void)
{
    char path[MAX_PATH];
    LARGE_INTEGER first, second;
    DWORD slot = TlsAlloc();
    DWORD(WINAPI * ticks)(void);

    check(of_thread == 7, "thread-storage data");
    of_thread = 8;
    check(TlsSetValue(slot, &slot) && TlsGetValue(slot) == &slot && TlsFree(slot), "TlsAlloc");
    check(GetModuleFileNameA(NULL, path, sizeof path) > 4 && strstr(path, "system.exe"), "GetModuleFileNameA");
    check(strstr(GetCommandLineA(), "system.exe") != NULL, "GetCommandLineA");
    check(*(short *)GetModuleHandleA(NULL) == 0x5a4d, "GetModuleHandleA");
    ticks = (void *)GetProcAddress(GetModuleHandleA("kernel32.dll"), "GetTickCount");
    check(ticks && ticks() < 600000, "GetProcAddress");
    check(!GetProcAddress(GetModuleHandleA("kernel32.dll"), "NoSuchFunction") && GetLastError() == 127, "a function that is not there");
    QueryPerformanceCounter(&first);
    Sleep(2);
    QueryPerformanceCounter(&second);
    check(second.QuadPart - first.QuadPart >= 2000000, "Sleep");
    check(time(NULL) > 1700000000, "time");
    check(GetFileType(GetStdHandle(STD_OUTPUT_HANDLE)) == FILE_TYPE_PIPE, "GetFileType");
}

int main(void)
{
    memory();
    texts();
    process();
    printf("%d wrong\n", failures);
    return failures;
}
