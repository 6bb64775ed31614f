/* What benches/process measures: `work WHAT COUNT`, a static program that does one thing so often and says nothing. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* A working set of 128 KiB: within every L2, and more than an L1. */
#define WORDS 8192

static double reals[WORDS];
static uint64_t integers[WORDS];
/* Keeps what is computed. */
static volatile uint64_t result;

/* A pass over both arrays; each element depends on the one before it. */
static void compute(long passes)
{
	uint64_t state = 88172645463325252ULL;
	double sum = 0;
	for (long pass = 0; pass < passes; pass++)
		for (int i = 0; i < WORDS; i++) {
			state ^= state << 13;
			state ^= state >> 7;
			state ^= state << 17;
			integers[i] += state;
			reals[i] = reals[i] * 0.5 + (double)(state >> 40);
			sum += reals[i] / (double)(i + 1);
		}
	result = integers[state % WORDS] + (uint64_t)sum;
}

static void ask(long calls)
{
	for (long i = 0; i < calls; i++)
		result = (uint64_t)getppid();
}

static int begin(long children)
{
	for (long i = 0; i < children; i++) {
		int status;
		pid_t child = fork();
		if (child == 0)
			_exit(7);
		if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 7)
			return 1;
	}
	return 0;
}

static int touch(long pages)
{
	if (pages == 0)
		return 0;
	char *memory = mmap(NULL, (size_t)pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return 1;
	/* In single pages, as Hostel gives them. */
	madvise(memory, (size_t)pages * 4096, MADV_NOHUGEPAGE);
	for (long i = 0; i < pages; i++)
		memory[i * 4096] = 1;
	return 0;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	long count = atol(argv[2]);
	if (strcmp(argv[1], "compute") == 0)
		compute(count);
	else if (strcmp(argv[1], "getppid") == 0)
		ask(count);
	else if (strcmp(argv[1], "fork") == 0)
		return begin(count);
	else if (strcmp(argv[1], "touch") == 0)
		return touch(count);
	else
		return 2;
	return 0;
}
