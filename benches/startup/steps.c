/* Runs a program for at most COUNT single steps and prints where its own code ran, for scripts/start-order: a line for each instruction,
   in the order of their first execution, the offset from the program's begin in hexadecimal.
   Source: ptrace(2); proc_pid_maps(5). */
#define _GNU_SOURCE
#include <err.h>
#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

/* Where the file `path` lies in the process: its lowest and its highest address. */
static void extent(pid_t process, const char *path, unsigned long *begin, unsigned long *end)
{
	char name[64], line[PATH_MAX + 128];
	unsigned long from, to;
	FILE *maps;

	snprintf(name, sizeof(name), "/proc/%d/maps", process);
	maps = fopen(name, "r");
	if (!maps)
		err(1, "%s", name);
	*begin = *end = 0;
	while (fgets(line, sizeof(line), maps)) {
		if (!strstr(line, path) || sscanf(line, "%lx-%lx", &from, &to) != 2)
			continue;
		if (!*begin)
			*begin = from;
		*end = to;
	}
	fclose(maps);
	if (!*begin)
		errx(1, "%s is not in %s", path, name);
}

int main(int argc, char **argv)
{
	unsigned long begin, end, rip, left;
	char *path, *seen;
	pid_t process, thread;
	int status, signal;

	if (argc < 3)
		errx(2, "usage: steps COUNT PROGRAM [ARGUMENT...]");
	left = strtoul(argv[1], NULL, 10);
	path = realpath(argv[2], NULL);
	if (!path)
		err(1, "%s", argv[2]);
	process = fork();
	if (process == 0) {
		dup2(STDERR_FILENO, STDOUT_FILENO); /* what it prints is not ours */
		if (personality(ADDR_NO_RANDOMIZE) < 0 || ptrace(PTRACE_TRACEME, 0, 0, 0) < 0)
			err(127, "ptrace");
		execv(path, argv + 2);
		err(127, "%s", path);
	}
	if (process < 0 || waitpid(process, &status, 0) < 0 || !WIFSTOPPED(status))
		err(1, "start %s", path);
	extent(process, path, &begin, &end);
	seen = calloc(1, end - begin);
	if (!seen || ptrace(PTRACE_SETOPTIONS, process, 0, PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL) < 0)
		err(1, "watch %s", path);
	ptrace(PTRACE_SINGLESTEP, process, 0, 0);
	while (left-- > 0 && (thread = waitpid(-1, &status, __WALL)) > 0) {
		if (!WIFSTOPPED(status)) {
			if (thread == process)
				break;
			continue;
		}
		rip = ptrace(PTRACE_PEEKUSER, thread, offsetof(struct user_regs_struct, rip), 0);
		if (rip >= begin && rip < end && !seen[rip - begin]) {
			seen[rip - begin] = 1;
			printf("%016lx\n", rip - begin);
		}
		signal = WSTOPSIG(status);
		ptrace(PTRACE_SINGLESTEP, thread, 0, signal == SIGTRAP || signal == SIGSTOP ? 0 : signal);
	}
	return 0;
}
