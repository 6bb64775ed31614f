/* Handlers of signals in all ways that a program can have them; prints what it finds, which is the same wherever it runs. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fenv.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static volatile sig_atomic_t count, last, code;
static volatile long address, value, on_alternate;
static int ends[2];
static sigjmp_buf escape;
static stack_t alternate;

static void note(int signal, siginfo_t *info, void *context) {
    char here;
    count++;
    last = signal;
    code = info->si_code;
    address = (long)info->si_addr;
    value = info->si_value.sival_int;
    on_alternate = &here >= (char *)alternate.ss_sp && &here < (char *)alternate.ss_sp + alternate.ss_size;
}
static void leave(int signal, siginfo_t *info, void *context) {
    note(signal, info, context);
    siglongjmp(escape, 1);
}
static void feed(int signal) {
    count++;
    write(ends[1], "x", 1);
}
static void on(int signal, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = flags | SA_SIGINFO};
    sigaction(signal, &action, 0);
    count = last = code = 0;
}
static void timer(int first_ms, int interval_ms) {
    struct itimerval times = {{interval_ms / 1000, interval_ms % 1000 * 1000}, {first_ms / 1000, first_ms % 1000 * 1000}};
    setitimer(ITIMER_REAL, &times, 0);
}
/* Errno behind a call, which is set before it is read. */
static int failed(long answer) { return answer < 0 ? errno : 0; }
static long status_of(pid_t child) {
    int status;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) ;
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static void basics(void) {
    on(SIGUSR1, note, 0);
    kill(getpid(), SIGUSR1);
    printf("kill: %d %d %d\n", count, last, code);
    raise(SIGUSR1);
    printf("raise: %d %d %d\n", count, last, code);
    on(SIGUSR2, note, SA_RESETHAND);
    raise(SIGUSR2);
    struct sigaction now;
    sigaction(SIGUSR2, 0, &now);
    printf("once: %d %d\n", count, now.sa_handler == SIG_DFL);
    sigset_t set, old, pending;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, &old);
    on(SIGUSR1, note, 0);
    raise(SIGUSR1);
    raise(SIGUSR1);
    sigpending(&pending);
    printf("blocked: %d %d\n", count, sigismember(&pending, SIGUSR1));
    printf("suspend: %d", failed(sigsuspend(&old)));
    sigprocmask(SIG_BLOCK, 0, &set);
    printf(" %d %d\n", count, sigismember(&set, SIGUSR1));
    sigprocmask(SIG_SETMASK, &old, 0);
    union sigval told;
    on(SIGRTMIN + 1, note, 0);
    sigaddset(&set, SIGRTMIN + 1);
    sigprocmask(SIG_BLOCK, &set, &old);
    for (int index = 0; index < 3; index++) {
        told.sival_int = 100 + index;
        sigqueue(getpid(), SIGRTMIN + 1, told);
    }
    struct timespec none = {0, 1000000};
    siginfo_t info;
    while (sigtimedwait(&set, &info, &none) > 0) printf("queued: %d %d\n", info.si_code, info.si_value.sival_int);
    printf("wait: %d %d\n", errno, count);
    sigprocmask(SIG_SETMASK, &old, 0);
    printf("nobody: %d\n", failed(kill(1 << 30, SIGTERM)));
    printf("none: %d\n", failed(kill(getpid(), 65)));
}

static void faults(void) {
    on(SIGSEGV, leave, 0);
    volatile int zero = 0;
    if (!sigsetjmp(escape, 1)) *(volatile int *)8 = 1;
    printf("unmapped: %d %d %#lx\n", last, code, address);
    char *page = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!sigsetjmp(escape, 1)) page[5] = 1;
    printf("read only: %d %d %d\n", last, code, address == (long)page + 5);
    if (!sigsetjmp(escape, 1)) *(volatile int *)0x8000000000000000;
    printf("non-canonical: %d %d %#lx\n", last, code, address);
    if (!sigsetjmp(escape, 1)) ((void (*)(void))0x123450)();
    printf("jump: %d %d %#lx\n", last, code, address);
    on(SIGFPE, leave, 0);
    if (!sigsetjmp(escape, 1)) zero = 100 / zero;
    printf("division: %d %d %d\n", last, code, address != 0);
    feenableexcept(FE_DIVBYZERO);
    volatile double nothing = 0;
    if (!sigsetjmp(escape, 1)) nothing = 1 / nothing;
    printf("floating point: %d %d %d\n", last, code, address != 0);
    fedisableexcept(FE_DIVBYZERO);
    on(SIGILL, leave, 0);
    if (!sigsetjmp(escape, 1)) __asm__ volatile("ud2");
    printf("instruction: %d %d %d\n", last, code, address != 0);
    on(SIGTRAP, note, 0);
    __asm__ volatile("int3");
    printf("breakpoint: %d %d\n", last, code);
    int file = open("/proc/self/exe", O_RDONLY);
    on(SIGBUS, leave, 0);
    char *mapped = mmap(0, 4096, PROT_READ, MAP_PRIVATE, file, 1 << 30);
    if (!sigsetjmp(escape, 1)) *(volatile char *)(mapped + 9);
    printf("no file: %d %d %d\n", last, code, address == (long)mapped + 9);
    if (fork() == 0) {
        sigset_t all;
        sigfillset(&all);
        sigprocmask(SIG_SETMASK, &all, 0);
        *(volatile int *)8 = 1;
    }
    printf("blocked fault: %ld\n", status_of(-1));
}

__attribute__((noinline)) static int deep(int left) {
    volatile char room[4096];
    room[left & 4095] = 1;
    return left ? deep(left - 1) + room[9] : 0;
}
static void stacks(void) {
    stack_t now;
    alternate.ss_size = 65536;
    alternate.ss_sp = malloc(alternate.ss_size);
    sigaltstack(&alternate, 0);
    on(SIGSEGV, leave, SA_ONSTACK);
    if (!sigsetjmp(escape, 1)) deep(40000000);
    sigaltstack(0, &now);
    printf("overflow: %d %ld %d\n", last, on_alternate, now.ss_flags);
    on(SIGUSR1, note, SA_ONSTACK);
    raise(SIGUSR1);
    printf("alternate: %ld\n", on_alternate);
    on(SIGUSR1, note, 0);
    raise(SIGUSR1);
    printf("own: %ld\n", on_alternate);
    alternate.ss_size = 100;
    printf("small: %d\n", failed(sigaltstack(&alternate, 0)));
    alternate.ss_flags = SS_DISABLE;
    sigaltstack(&alternate, 0);
    if (fork() == 0) { on(SIGSEGV, leave, SA_ONSTACK); deep(40000000); }
    printf("no room: %ld\n", status_of(-1));
}

static void waits(void) {
    char byte;
    struct timespec time = {5, 0}, left = {0, 0};
    pipe(ends);
    on(SIGALRM, note, 0);
    timer(20, 0);
    while (!count) ;
    printf("loop: %d %d\n", count, code);
    timer(20, 0);
    printf("read: %d\n", failed(read(ends[0], &byte, 1)));
    timer(20, 0);
    printf("sleep: %d", failed(nanosleep(&time, &left)));
    printf(" %d\n", left.tv_sec == 4);
    struct pollfd polled = {ends[0], POLLIN};
    on(SIGALRM, note, SA_RESTART);
    timer(20, 0);
    printf("poll: %d\n", failed(poll(&polled, 1, 5000)));
    timer(20, 0);
    printf("pause: %d\n", failed(pause()));
    signal(SIGALRM, feed);
    timer(20, 0);
    printf("restarted: %zd\n", read(ends[0], &byte, 1));
    sigset_t set, all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &set);
    timer(5, 0);
    usleep(20000);
    time = (struct timespec){1, 0};
    printf("unblocked: %d\n", failed(ppoll(&polled, 1, &time, &set)));
    sigprocmask(SIG_SETMASK, &set, 0);
    read(ends[0], &byte, 1);
    count = 0;
    timer(1, 1);
    while (count < 20) read(ends[0], &byte, 1);
    timer(0, 0);
    printf("often: %d\n", count >= 20);
    signal(SIGPIPE, SIG_IGN);
    close(ends[0]);
    printf("pipe ignored: %d\n", failed(write(ends[1], "x", 1)));
    on(SIGPIPE, note, 0);
    printf("pipe: %d", failed(write(ends[1], "x", 1)));
    printf(" %d\n", last);
    close(ends[1]);
    signal(SIGALRM, SIG_DFL);
    alarm(100);
    printf("alarm: %u\n", alarm(0));
}

static void notice(union sigval value) {
    last = value.sival_int;
    count++;
}
static void timers(void) {
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 77};
    struct itimerspec once = {{0, 0}, {0, 10000000}}, now;
    timer_t timer;
    on(SIGUSR1, note, 0);
    printf("timer: %d", failed(timer_create(CLOCK_MONOTONIC, &event, &timer)));
    timer_settime(timer, 0, &once, 0);
    while (!count) pause();
    timer_gettime(timer, &now);
    printf(" %d %ld %d %ld\n", code, value, timer_getoverrun(timer), now.it_value.tv_nsec);
    printf("deleted: %d", failed(timer_delete(timer)));
    printf(" %d\n", failed(timer_delete(timer)));
    event = (struct sigevent){.sigev_notify = SIGEV_THREAD, .sigev_notify_function = notice, .sigev_value.sival_int = 78};
    count = 0;
    timer_create(CLOCK_REALTIME, &event, &timer);
    clock_gettime(CLOCK_REALTIME, &once.it_value);
    timer_settime(timer, TIMER_ABSTIME, &once, 0);
    while (!count) usleep(1000);
    printf("in a thread: %d\n", last);
}

static void children(void) {
    on(SIGCHLD, note, SA_RESTART);
    pid_t child = fork();
    if (child == 0) _exit(3);
    printf("child: %ld", status_of(child));
    printf(" %d %d %d\n", last, code, count);
    on(SIGCHLD, note, 0);
    child = fork();
    if (child == 0) { pause(); _exit(9); }
    kill(child, SIGTERM);
    printf("killed: %ld", status_of(child));
    printf(" %d\n", code);
    signal(SIGCHLD, SIG_IGN);
    if (fork() == 0) _exit(0);
    printf("ignored: %d\n", failed(wait(0)));
    signal(SIGCHLD, SIG_DFL);
    if (fork() == 0) { for (;;) ; }
    child = fork();
    if (child == 0) { setpgid(0, 0); if (fork() == 0) pause(); pause(); }
    while (getpgid(child) != child) ;
    kill(-child, SIGKILL);
    printf("group: %ld\n", status_of(child));
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM);
    printf("all: %ld\n", status_of(-1));
    signal(SIGTERM, SIG_DFL);
}

static void *compute(void *argument) {
    while (!count) ;
    return argument;
}
static void *wait_for_it(void *argument) {
    sigset_t set;
    int signal;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigwait(&set, &signal);
    return (void *)(long)signal;
}
static pthread_t noted;
static void note_thread(int signal, siginfo_t *info, void *context) {
    noted = pthread_self();
    note(signal, info, context);
}
static void threads(void) {
    pthread_t thread;
    void *answer;
    on(SIGUSR1, note_thread, 0);
    pthread_create(&thread, 0, compute, (void *)5);
    pthread_kill(thread, SIGUSR1);
    pthread_join(thread, &answer);
    printf("thread: %ld %d %d\n", (long)answer, count, pthread_equal(noted, thread));
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    on(SIGUSR1, note_thread, 0);
    pthread_create(&thread, 0, compute, (void *)6);
    sigprocmask(SIG_BLOCK, &set, &old);
    kill(getpid(), SIGUSR1);
    pthread_join(thread, &answer);
    printf("other thread: %ld %d\n", (long)answer, pthread_equal(noted, thread));
    pthread_create(&thread, 0, wait_for_it, 0);
    kill(getpid(), SIGUSR2);
    pthread_join(thread, &answer);
    printf("waited for: %ld\n", (long)answer);
    sigprocmask(SIG_SETMASK, &old, 0);
}

static void scribble(int signal) {
    __asm__ volatile("pcmpeqd %%xmm0, %%xmm0; movdqa %%xmm0, %%xmm1; movdqa %%xmm0, %%xmm7; movdqa %%xmm0, %%xmm15; fninit"
                     ::: "xmm0", "xmm1", "xmm7", "xmm15");
    count++;
}
static void registers(void) {
    signal(SIGALRM, scribble);
    count = 0;
    timer(1, 1);
    double sum = 0;
    long double long_sum = 0;
    long number = 0;
    while (count < 30) {
        sum = long_sum = 0;
        for (int index = 1; index < 1000; index++) sum += 1.0 / index, long_sum += 1.0L / index, number += index;
        if (sum < 7.48 || sum > 7.49 || long_sum < 7.48L || long_sum > 7.49L) break;
    }
    timer(0, 0);
    printf("registers: %.12f %.15Lf %d\n", sum, long_sum, number % 499500 == 0);
}

static int what;
static void forge(int signal, siginfo_t *info, void *opaque) {
    ucontext_t *context = opaque;
    greg_t *registers = context->uc_mcontext.gregs;
    uint8_t *state = (uint8_t *)context->uc_mcontext.fpregs;
    switch (what) {
    case 0: registers[REG_RIP] = 1L << 63; break;
    case 1: registers[REG_CSGSFS] = 0x10; break;
    case 2: registers[REG_CSGSFS] = 0; break;
    case 3: registers[REG_CSGSFS] = registers[REG_CSGSFS] & 0xffffffffffffL | 0x18L << 48; break;
    case 4: context->uc_mcontext.fpregs = (void *)16; break;
    case 5: state[512 + 40] = 1; break;
    case 6: state[27] = 0xff; break;
    case 7: registers[REG_RIP] = 0xffff800000000000; break;
    case 8: registers[REG_EFL] |= 3 << 12 | 1 << 17 | 1 << 14; break;
    case 9: registers[REG_RSP] = 1L << 63; break;
    case 10: context->uc_mcontext.fpregs = 0; break;
    case 11: memset(context, 0xff, sizeof *context); break;
    case 12: registers[REG_EFL] |= 1 << 8; break;
    }
}
static void frames(void) {
    signal(SIGSEGV, SIG_DFL);
    signal(SIGTRAP, SIG_DFL);
    for (what = 0; what <= 12; what++) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            on(SIGUSR1, forge, 0);
            raise(SIGUSR1);
            unsigned long flags;
            __asm__ volatile("pushfq; pop %0" : "=r"(flags));
            if (flags & (3 << 12 | 1 << 17)) _exit(1);
            _exit(0);
        }
        printf("frame %d: %ld\n", what, status_of(child));
    }
    fflush(stdout);
    if (fork() == 0) { __asm__ volatile("mov $15, %%eax; xor %%esp, %%esp; syscall" ::: "memory"); }
    printf("no frame: %ld\n", status_of(-1));
    on(SIGSEGV, leave, SA_NODEFER);
    what = 0;
    on(SIGUSR1, forge, 0);
    if (!sigsetjmp(escape, 1)) raise(SIGUSR1);
    printf("forged and caught: %d %d\n", last, code);
}

int main(int argc, char **argv) {
    setvbuf(stdout, 0, _IONBF, 0);
    /* What is sent to its group is not for whoever started it. */
    setpgid(0, 0);
    void (*const parts[])(void) = {basics, faults, stacks, waits, timers, children, threads, registers, frames};
    for (int part = 0; part < 9; part++)
        if (argc < 2 || argv[1][0] == '0' + part) parts[part]();
    return 0;
}
