/* Sorts the lines of standard input, or of a file. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void farewell(void)
{
    fprintf(stderr, "sorted\n");
}

int main(int count, char **arguments)
{
    FILE *file = count > 1 ? fopen(arguments[1], "r") : stdin;
    char line[4096], **lines = NULL;
    size_t used = 0, room = 0;

    if (!file) {
        perror(arguments[1]);
        return errno;
    }
    atexit(farewell);
    while (fgets(line, sizeof line, file)) {
        if (used == room) {
            room = room ? room * 2 : 16;
            lines = realloc(lines, room * sizeof *lines);
        }
        lines[used++] = _strdup(line);
    }
    fclose(file);
    qsort(lines, used, sizeof *lines, by_text);
    for (size_t i = 0; i < used; i++) {
        fputs(lines[i], stdout);
        free(lines[i]);
    }
    free(lines);
    return 0;
}
