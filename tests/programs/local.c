/* Sockets of one machine, events and waiting for them: prints what each call gave, and nothing that differs from run to run. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void show(const char *what, long result) {
    printf("%-34s %ld%s%s\n", what, result, result < 0 ? " " : "", result < 0 ? strerrorname_np(errno) : "");
}
#define SHOW(call) show(#call, call)

static void pairs(void) {
    int pair[2];
    char buffer[64] = "";
    SHOW(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
    SHOW(fcntl(pair[0], F_GETFD));
    SHOW(send(pair[0], "abcdef", 6, 0));
    SHOW(recv(pair[1], buffer, 3, MSG_PEEK));
    SHOW(recv(pair[1], buffer, 4, MSG_WAITALL));
    SHOW(recv(pair[1], buffer, sizeof buffer, MSG_DONTWAIT));
    SHOW(recv(pair[1], buffer, sizeof buffer, MSG_DONTWAIT));
    struct iovec pieces[] = {{"one", 3}, {"", 0}, {"two", 3}}, rooms[] = {{buffer, 4}, {buffer + 10, 20}};
    struct msghdr out = {.msg_iov = pieces, .msg_iovlen = 3}, in = {.msg_iov = rooms, .msg_iovlen = 2};
    SHOW(sendmsg(pair[1], &out, 0));
    SHOW(recvmsg(pair[0], &in, 0));
    printf("%.4s %.2s %d\n", buffer, buffer + 10, in.msg_flags);
    int waiting = -1;
    write(pair[0], "xyz", 3);
    SHOW(ioctl(pair[1], FIONREAD, &waiting));
    SHOW(waiting);
    SHOW(shutdown(pair[0], SHUT_WR));
    SHOW(read(pair[1], buffer, 64));
    SHOW(read(pair[1], buffer, 64));
    SHOW(send(pair[0], "x", 1, MSG_NOSIGNAL));
    SHOW(lseek(pair[0], 0, SEEK_SET));
    close(pair[1]);
    signal(SIGPIPE, SIG_IGN);
    SHOW(write(pair[0], "x", 1));
    close(pair[0]);

    SHOW(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    SHOW(send(pair[0], "long message", 12, 0));
    SHOW(send(pair[0], "", 0, 0));
    SHOW(recv(pair[1], buffer, 4, MSG_TRUNC));
    SHOW(recv(pair[1], buffer, 4, 0));
    struct mmsghdr several[3] = {{.msg_hdr = out}, {.msg_hdr = out}, {.msg_hdr = out}};
    SHOW(sendmmsg(pair[0], several, 3, 0));
    SHOW(several[2].msg_len);
    in.msg_flags = 0;
    several[0].msg_hdr = several[1].msg_hdr = in;
    SHOW(recvmmsg(pair[1], several, 2, 0, 0));
    SHOW(several[1].msg_len);
    SHOW(recv(pair[1], buffer, 64, MSG_DONTWAIT));
    SHOW(recv(pair[1], buffer, 64, MSG_DONTWAIT));
    close(pair[0]);
    SHOW(send(pair[1], "x", 1, 0));
    close(pair[1]);

    SHOW(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
    pid_t child = fork();
    close(pair[child == 0 ? 0 : 1]);
    if (child == 0) {
        for (int round = 0; round < 100; round++) {
            long count = recv(pair[1], buffer, 64, 0);
            if (send(pair[1], buffer, count, 0) != count) _exit(1);
        }
        _exit(recv(pair[1], buffer, 64, 0) == 0 ? 42 : 2);
    }
    long sum = 0;
    for (int round = 0; round < 100; round++) {
        send(pair[0], buffer, round % 60 + 1, 0);
        sum += recv(pair[0], buffer, 64, 0);
    }
    close(pair[0]);
    int status;
    waitpid(child, &status, 0);
    printf("%ld bytes came back, status %d\n", sum, WEXITSTATUS(status));

    SHOW(socketpair(AF_INET, SOCK_STREAM, 0, pair));
    SHOW(socketpair(AF_UNIX, 77, 0, pair));
    SHOW(socketpair(AF_UNIX, SOCK_STREAM, 7, pair));
    SHOW(socketpair(AF_UNIX, SOCK_STREAM | 0x10000, 0, pair));
    SHOW(socket(99, SOCK_STREAM, 0));
    SHOW(accept(0, 0, 0));
    SHOW(listen(99, 1));
}

static void options(void) {
    int value = 1, socket_ = socket(AF_UNIX, SOCK_STREAM, 0);
    socklen_t size = sizeof value;
    struct timeval limit = {.tv_usec = 20000};
    char buffer[8];
    SHOW(setsockopt(socket_, SOL_SOCKET, SO_REUSEADDR, &value, sizeof value));
    SHOW(getsockopt(socket_, SOL_SOCKET, SO_TYPE, &value, &size));
    printf("%d %u\n", value, size);
    size = 1;
    SHOW(getsockopt(socket_, SOL_SOCKET, SO_REUSEADDR, &value, &size));
    printf("%d %u\n", value & 255, size);
    SHOW(setsockopt(socket_, SOL_SOCKET, SO_TYPE, &value, sizeof value));
    SHOW(setsockopt(socket_, SOL_SOCKET, SO_KEEPALIVE, &value, 3));
    SHOW(setsockopt(socket_, SOL_SOCKET, 9999, &value, sizeof value));
    SHOW(setsockopt(0, SOL_SOCKET, SO_KEEPALIVE, &value, sizeof value));
    SHOW(setsockopt(socket_, SOL_SOCKET, SO_KEEPALIVE, (void *)8, sizeof value));
    SHOW(shutdown(socket_, 9));
    SHOW(recv(socket_, buffer, 8, 0));
    close(socket_);
    int pair[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    SHOW(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    SHOW(recv(pair[0], buffer, 8, 0));
    close(pair[0]);
    close(pair[1]);
}

static int semaphore, done;
static void *worker(void *argument) {
    uint64_t one;
    for (int round = 0; round < 50; round++)
        if (read(semaphore, &one, 8) != 8 || one != 1) return (void *)-1;
    write(done, &(uint64_t){(long)argument}, 8);
    return 0;
}

static void events(void) {
    uint64_t value = 3;
    int counter = eventfd(5, EFD_NONBLOCK | EFD_CLOEXEC);
    SHOW(write(counter, &value, 8));
    SHOW(read(counter, &value, 7));
    SHOW(read(counter, &value, 8));
    SHOW(value);
    SHOW(read(counter, &value, 8));
    value = -1;
    SHOW(write(counter, &value, 8));
    value = -2;
    SHOW(write(counter, &value, 8));
    SHOW(write(counter, &(uint64_t){1}, 8));
    SHOW(eventfd(0, 0x40));
    close(counter);

    semaphore = eventfd(0, EFD_SEMAPHORE);
    done = eventfd(0, 0);
    pthread_t threads[4];
    for (long index = 0; index < 4; index++) pthread_create(&threads[index], 0, worker, (void *)(1L << index));
    for (int round = 0; round < 100; round++) write(semaphore, &(uint64_t){2}, 8);
    long failed = 0;
    for (int index = 0; index < 4; index++) {
        void *result;
        pthread_join(threads[index], &result);
        failed += result != 0;
    }
    read(done, &value, 8);
    printf("semaphore: %ld failed, %lu\n", failed, value);
    close(semaphore);
    close(done);

    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct itimerspec setting = {.it_value = {0, 3000000}}, before;
    SHOW(read(timer, &value, 8));
    SHOW(timerfd_settime(timer, 0, &setting, &before));
    SHOW(poll(&(struct pollfd){timer, POLLIN}, 1, 5000));
    SHOW(read(timer, &value, 8));
    SHOW(value);
    SHOW(timerfd_gettime(timer, &before));
    SHOW(before.it_value.tv_nsec);
    setting.it_value.tv_nsec = 1000000000;
    SHOW(timerfd_settime(timer, 0, &setting, 0));
    SHOW(timerfd_create(99, 0));
    SHOW(timerfd_settime(0, 0, &before, 0));
    close(timer);
}

static int epoll;
static void told(const char *what, int timeout) {
    struct epoll_event ready[8];
    int count = epoll_wait(epoll, ready, 8, timeout);
    printf("%s: %d", what, count);
    uint64_t sum = 0;
    for (int index = 0; index < count; index++) sum += ready[index].data.u64 * 100 + ready[index].events;
    printf(" %lu\n", sum);
}
static long watch(int operation, int fd, int events, uint64_t data) {
    return epoll_ctl(epoll, operation, fd, &(struct epoll_event){events, {.u64 = data}});
}
static void *later(void *argument) {
    usleep(20000);
    write((long)argument, "x", 1);
    return 0;
}

static void polls(void) {
    int pair[2], pipes[2], counter = eventfd(0, 0);
    char buffer[64];
    struct epoll_event ready[8];
    epoll = epoll_create1(EPOLL_CLOEXEC);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    pipe(pipes);
    SHOW(watch(EPOLL_CTL_ADD, pair[0], EPOLLIN, 1));
    SHOW(watch(EPOLL_CTL_ADD, pair[0], EPOLLIN, 2));
    SHOW(watch(EPOLL_CTL_MOD, pair[1], EPOLLIN, 2));
    SHOW(watch(EPOLL_CTL_DEL, pair[1], 0, 0));
    SHOW(watch(EPOLL_CTL_ADD, epoll, EPOLLIN, 0));
    SHOW(watch(EPOLL_CTL_ADD, 99, EPOLLIN, 0));
    SHOW(watch(77, pair[1], EPOLLIN, 0));
    SHOW(epoll_ctl(epoll, EPOLL_CTL_ADD, pair[1], (void *)8));
    SHOW(epoll_ctl(counter, EPOLL_CTL_ADD, pair[1], ready));
    int plain = open("/etc/passwd", O_RDONLY);
    SHOW(watch(EPOLL_CTL_ADD, plain, EPOLLIN, 0));
    SHOW(epoll_wait(epoll, ready, 0, 0));
    SHOW(epoll_wait(plain, ready, 8, 0));
    close(plain);
    told("nothing", 0);
    write(pair[1], "ab", 2);
    told("level", -1);
    told("level again", 0);
    SHOW(watch(EPOLL_CTL_MOD, pair[0], EPOLLIN | EPOLLET, 3));
    told("edge", 0);
    told("edge again", 0);
    write(pair[1], "c", 1);
    told("another edge", 0);
    SHOW(watch(EPOLL_CTL_MOD, pair[0], EPOLLIN | EPOLLONESHOT, 4));
    told("once", 0);
    told("once again", 0);
    SHOW(watch(EPOLL_CTL_MOD, pair[0], EPOLLIN | EPOLLONESHOT, 5));
    told("armed again", 0);
    SHOW(watch(EPOLL_CTL_ADD, pipes[1], EPOLLOUT, 6));
    SHOW(watch(EPOLL_CTL_ADD, counter, EPOLLIN | EPOLLOUT, 7));
    told("pipe and counter", 0);
    SHOW(watch(EPOLL_CTL_DEL, pipes[1], 0, 0));
    SHOW(epoll_ctl(epoll, EPOLL_CTL_DEL, counter, 0));

    /* One file by two numbers, closed one after the other. */
    int copy = dup(pair[0]);
    SHOW(watch(EPOLL_CTL_MOD, pair[0], EPOLLIN, 8));
    SHOW(watch(EPOLL_CTL_ADD, copy, EPOLLIN, 9));
    told("both numbers", 0);
    close(pair[0]);
    told("a closed number is watched", 0);
    SHOW(watch(EPOLL_CTL_DEL, pair[0], 0, 0));
    int other = dup2(pipes[0], pair[0]);
    SHOW(watch(EPOLL_CTL_ADD, other, EPOLLIN, 10));
    SHOW(watch(EPOLL_CTL_DEL, other, 0, 0));
    close(copy);
    told("both closed", 0);
    close(pair[1]);
    close(other);

    /* An epoll file watches another; poll and select take them too. */
    int outer = epoll_create(1), inner = epoll;
    SHOW(epoll_ctl(outer, EPOLL_CTL_ADD, inner, &(struct epoll_event){EPOLLIN, {.u64 = 20}}));
    SHOW(watch(EPOLL_CTL_ADD, outer, EPOLLIN, 0));
    SHOW(watch(EPOLL_CTL_ADD, pipes[0], EPOLLIN, 21));
    SHOW(epoll_wait(outer, ready, 8, 0));
    pthread_t thread;
    pthread_create(&thread, 0, later, (void *)(long)pipes[1]);
    SHOW(epoll_wait(outer, ready, 8, 5000));
    SHOW(ready[0].data.u64);
    pthread_join(thread, 0);
    told("inner", 0);
    struct pollfd list[] = {{outer, POLLIN}, {counter, POLLIN | POLLOUT}, {pipes[0], POLLIN}, {-1, POLLIN}, {98, POLLIN}};
    SHOW(poll(list, 5, -1));
    printf("%x %x %x %x %x\n", list[0].revents, list[1].revents, list[2].revents, list[3].revents, list[4].revents);
    fd_set reads, writes;
    FD_ZERO(&reads);
    FD_ZERO(&writes);
    FD_SET(inner, &reads);
    FD_SET(counter, &reads);
    FD_SET(counter, &writes);
    SHOW(select(64, &reads, &writes, 0, &(struct timeval){1}));
    printf("%d %d %d\n", FD_ISSET(inner, &reads), FD_ISSET(counter, &reads), FD_ISSET(counter, &writes));
    SHOW(epoll_pwait(inner, ready, 8, 1, 0));
    read(pipes[0], buffer, 1);
    SHOW(epoll_pwait2(inner, ready, 8, &(struct timespec){0, 2000000}, 0));
    close(pipes[1]);
    told("the writer is gone", 0);
    close(outer);
    close(inner);
    close(pipes[0]);
    close(counter);
}

static void *answer(void *argument) {
    int server = (long)argument;
    struct sockaddr_un peer;
    for (int index = 0; index < 3; index++) {
        socklen_t size = sizeof peer;
        char buffer[16];
        int client = accept4(server, (void *)&peer, &size, SOCK_CLOEXEC);
        long count = read(client, buffer, sizeof buffer);
        write(client, buffer, count);
        printf("accepted one of %u bytes, family %d\n", size, peer.sun_family);
        close(client);
    }
    return 0;
}

static void names(void) {
    struct sockaddr_un name = {AF_UNIX}, other;
    snprintf(name.sun_path + 1, 100, "hostel-test-%s", "name");
    socklen_t size = 2 + 1 + strlen(name.sun_path + 1), room = sizeof other;
    int server = socket(AF_UNIX, SOCK_STREAM, 0);
    SHOW(bind(server, (void *)&name, 1));
    SHOW(bind(server, (void *)&name, 200));
    SHOW(bind(server, (void *)8, size));
    SHOW(bind(server, (void *)&name, size));
    SHOW(bind(server, (void *)&name, size));
    SHOW(listen(server, 5));
    SHOW(getsockname(server, (void *)&other, &room));
    printf("%u %d\n", room, memcmp(&name, &other, room));
    room = 4;
    SHOW(getsockname(server, (void *)&other, &room));
    SHOW(room);
    SHOW(getpeername(server, (void *)&other, &room));
    pthread_t thread;
    pthread_create(&thread, 0, answer, (void *)(long)server);
    for (int index = 0; index < 3; index++) {
        char buffer[16];
        int client = socket(AF_UNIX, SOCK_STREAM, 0);
        connect(client, (void *)&name, size);
        write(client, "hello", index + 1);
        long first = read(client, buffer, 16), second = read(client, buffer, 16);
        printf("%ld and %ld\n", first, second);
        close(client);
        fflush(stdout);
    }
    pthread_join(thread, 0);
    close(server);
    int client = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    SHOW(connect(client, (void *)&name, size));
    SHOW(connect(client, (void *)&name, 2));
    strcpy(name.sun_path, "/does/not/exist");
    SHOW(connect(client, (void *)&name, sizeof name));
    SHOW(connect(client, (void *)&(struct sockaddr){77}, 16));
    close(client);
    struct stat stat_;
    int one = socket(AF_UNIX, SOCK_DGRAM, 0), two = socket(AF_UNIX, SOCK_DGRAM, 0);
    SHOW(fstat(one, &stat_));
    SHOW(S_ISSOCK(stat_.st_mode));
    SHOW(bind(one, (void *)&name, 2));
    room = sizeof other;
    SHOW(getsockname(one, (void *)&other, &room));
    SHOW(room);
    SHOW(sendto(two, "to one", 6, 0, (void *)&other, room));
    char buffer[16];
    room = sizeof other;
    SHOW(recvfrom(one, buffer, 16, 0, (void *)&other, &room));
    SHOW(room);
    SHOW(sendto(two, "x", 1, 0, 0, 0));
    close(one);
    close(two);
}

static void paths(const char *directory) {
    struct sockaddr_un name = {AF_UNIX}, other;
    socklen_t room = sizeof other;
    struct stat stat_;
    chdir(directory);
    umask(027);
    strcpy(name.sun_path, "a-socket");
    int server = socket(AF_UNIX, SOCK_SEQPACKET, 0), client = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    SHOW(bind(server, (void *)&name, sizeof name));
    SHOW(bind(client, (void *)&name, sizeof name));
    SHOW(stat(name.sun_path, &stat_));
    printf("%o\n", stat_.st_mode);
    SHOW(connect(client, (void *)&name, sizeof name));
    SHOW(listen(server, 1));
    SHOW(connect(client, (void *)&name, sizeof name));
    int accepted = accept(server, 0, 0);
    SHOW(getpeername(client, (void *)&other, &room));
    printf("%s %u\n", other.sun_path, room);
    close(server);
    close(accepted);
    close(client);
    client = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    SHOW(connect(client, (void *)&name, sizeof name));
    SHOW(open(name.sun_path, O_RDWR));
    SHOW(unlink(name.sun_path));
    SHOW(connect(client, (void *)&name, sizeof name));
    strcpy(name.sun_path, "missing/x");
    SHOW(bind(client, (void *)&name, sizeof name));
}

static volatile int caught;
static void catch_(int signal_) { caught = 1; }
/* Again and again, so that one comes while the call waits, however late that is. */
static void alarms(int flags, int ms) {
    struct sigaction action = {.sa_handler = catch_, .sa_flags = flags};
    sigaction(SIGALRM, &action, 0);
    setitimer(ITIMER_REAL, &(struct itimerval){{0, ms * 1000}, {0, ms * 1000}}, 0);
}
#define INTERRUPT(flags, call) do { \
    alarms(flags, 10); \
    long result = call; \
    int error = errno; \
    alarms(flags, 0); \
    errno = error; \
    show(#call, result); \
} while (0)
static void *much_later(void *argument) {
    usleep(80000);
    write((long)argument, "x", 1);
    return 0;
}

/* Signals take a thread out of a call that waits, unless it is begun again. */
static void interrupted(void) {
    int pair[2], server = socket(AF_UNIX, SOCK_STREAM, 0), counter = eventfd(0, 0);
    char buffer[8];
    struct epoll_event ready;
    struct sockaddr_un name = {AF_UNIX};
    uint64_t value;
    epoll = epoll_create1(0);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    watch(EPOLL_CTL_ADD, pair[0], EPOLLIN, 1);
    bind(server, (void *)&name, 2);
    listen(server, 1);
    INTERRUPT(0, recv(pair[0], buffer, 8, 0));
    INTERRUPT(0, accept(server, 0, 0));
    INTERRUPT(0, read(counter, &value, 8));
    INTERRUPT(SA_RESTART, epoll_wait(epoll, &ready, 1, -1));
    sigset_t blocked, none;
    sigemptyset(&none);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGALRM);
    sigprocmask(SIG_BLOCK, &blocked, 0);
    caught = 0;
    alarms(0, 10);
    SHOW(epoll_wait(epoll, &ready, 1, 40));
    SHOW(caught);
    SHOW(epoll_pwait(epoll, &ready, 1, -1, &none));
    SHOW(caught);
    alarms(0, 0);
    pthread_t thread;
    pthread_create(&thread, 0, much_later, (void *)(long)pair[1]);
    sigprocmask(SIG_UNBLOCK, &blocked, 0);
    INTERRUPT(SA_RESTART, recv(pair[0], buffer, 8, 0));
    pthread_join(thread, 0);
    close(pair[0]);
    close(pair[1]);
    close(server);
    close(counter);
    close(epoll);
}

int main(int argc, char **argv) {
    pairs();
    options();
    events();
    polls();
    names();
    interrupted();
    if (argc > 1) paths(argv[1]);
    return 5;
}
