/* Prints its arguments, two variables of its environment, and what it reads; its status is the number of its arguments. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int count, char **arguments)
{
    char line[64];

    for (int i = 1; i < count; i++)
        printf("%d: [%s] %zu\n", i, arguments[i], strlen(arguments[i]));
    printf("%5.2f|%-6s|%06x|%lld\n", 3.14159, "left", 0xbeef, 1LL << 40);
    printf("HOSTEL_TEST=%s, HOSTEL_NONE=%s\n", getenv("HOSTEL_TEST"), getenv("HOSTEL_NONE") ? "there" : "not there");
    if (fgets(line, sizeof line, stdin))
        printf("read: %s", line);
    fprintf(stderr, "done\n");
    return count - 1;
}
