/* Copies a file by KERNEL32 alone, and tells the number of the error where a call fails. */
#include <windows.h>
#include <stdio.h>

static int failed(const char *what, const char *path)
{
    printf("cannot %s %s: error %lu\n", what, path, GetLastError());
    return 1;
}

int main(int count, char **arguments)
{
    char buffer[1000];
    DWORD read, written;
    HANDLE from, to;
    LARGE_INTEGER size;

    if (count != 3)
        return 2;
    from = CreateFileA(arguments[1], GENERIC_READ, FILE_SHARE_READ, NULL, OPEN_EXISTING, 0, NULL);
    if (from == INVALID_HANDLE_VALUE)
        return failed("open", arguments[1]);
    to = CreateFileA(arguments[2], GENERIC_WRITE, 0, NULL, CREATE_NEW, FILE_ATTRIBUTE_NORMAL, NULL);
    if (to == INVALID_HANDLE_VALUE)
        return failed("make", arguments[2]);
    while (ReadFile(from, buffer, sizeof buffer, &read, NULL) && read > 0)
        if (!WriteFile(to, buffer, read, &written, NULL) || written != read)
            return failed("write", arguments[2]);
    GetFileSizeEx(to, &size);
    printf("%lld bytes\n", size.QuadPart);
    CloseHandle(from);
    CloseHandle(to);
    return 0;
}
