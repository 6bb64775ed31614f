/* Sockets of the host's networks, on its loopback: an epoll server and its clients, which are threads; UDP; errors. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <fcntl.h>
#include <unistd.h>

#define CLIENTS 6
#define BYTES 200000

static void show(const char *what, long result) {
    printf("%-34s %ld%s%s\n", what, result, result < 0 ? " " : "", result < 0 ? strerrorname_np(errno) : "");
}
#define SHOW(call) show(#call, call)

static struct sockaddr_in address;

/* Each sends its bytes and counts what comes back; half of them wait in recv while a thread sends. */
static void *sender(void *argument) {
    static char chunk[5000];
    memset(chunk, 'e', sizeof chunk);
    for (long sent = 0; sent < BYTES;) sent += send((long)argument, chunk, sizeof chunk, 0);
    shutdown((long)argument, SHUT_WR);
    return 0;
}
static void *client(void *argument) {
    char buffer[4096];
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (void *)&address, sizeof address)) return (void *)-1;
    pthread_t thread;
    pthread_create(&thread, 0, sender, (void *)(long)fd);
    long back = 0, count;
    while ((count = recv(fd, buffer, sizeof buffer, 0)) > 0) back += count;
    pthread_join(thread, 0);
    close(fd);
    return (void *)back;
}

struct connection { int fd; long held; char buffer[8192]; };

/* Serves until all clients are gone: reads and writes without waiting, and asks for what it waits for. */
static void serve(int server) {
    int epoll = epoll_create1(0), gone = 0;
    long echoed = 0;
    epoll_ctl(epoll, EPOLL_CTL_ADD, server, &(struct epoll_event){EPOLLIN, {.ptr = 0}});
    while (gone < CLIENTS) {
        struct epoll_event ready[4];
        int count = epoll_wait(epoll, ready, 4, 10000);
        if (count <= 0) { printf("no event: %d\n", count); return; }
        for (int index = 0; index < count; index++) {
            struct connection *own = ready[index].data.ptr;
            if (!own) {
                int fd = accept4(server, 0, 0, SOCK_NONBLOCK);
                if (fd < 0) continue;
                own = calloc(1, sizeof *own);
                own->fd = fd;
                epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &(struct epoll_event){EPOLLIN, {.ptr = own}});
                continue;
            }
            if (own->held == 0) {
                own->held = recv(own->fd, own->buffer, sizeof own->buffer, 0);
                if (own->held == 0) { close(own->fd); free(own); gone++; continue; }
            }
            if (own->held > 0) {
                long sent = send(own->fd, own->buffer, own->held, MSG_NOSIGNAL);
                if (sent > 0) {
                    memmove(own->buffer, own->buffer + sent, own->held - sent);
                    own->held -= sent;
                    echoed += sent;
                }
            } else own->held = 0;
            int wanted = own->held > 0 ? EPOLLOUT : EPOLLIN;
            epoll_ctl(epoll, EPOLL_CTL_MOD, own->fd, &(struct epoll_event){wanted, {.ptr = own}});
        }
    }
    close(epoll);
    printf("echoed %ld\n", echoed);
}

static void tcp(void) {
    int server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    socklen_t size = sizeof address;
    SHOW(setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes));
    address = (struct sockaddr_in){AF_INET, 0, {htonl(INADDR_LOOPBACK)}};
    SHOW(bind(server, (void *)&address, 15));
    SHOW(bind(server, (void *)&address, sizeof address));
    SHOW(listen(server, 16));
    SHOW(getsockname(server, (void *)&address, &size));
    printf("%u %d %s\n", size, address.sin_port != 0, inet_ntoa(address.sin_addr));
    SHOW(accept(server, 0, 0));
    pthread_t threads[CLIENTS];
    for (int index = 0; index < CLIENTS; index++) pthread_create(&threads[index], 0, client, 0);
    serve(server);
    for (int index = 0; index < CLIENTS; index++) {
        void *back;
        pthread_join(threads[index], &back);
        printf("%ld came back\n", (long)back);
    }

    /* One connection by hand. */
    int one = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), error = -1;
    struct sockaddr_in peer;
    size = sizeof error;
    SHOW(connect(one, (void *)&address, sizeof address));
    SHOW(poll(&(struct pollfd){one, POLLOUT}, 1, 5000));
    SHOW(getsockopt(one, SOL_SOCKET, SO_ERROR, &error, &size));
    SHOW(error);
    SHOW(setsockopt(one, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes));
    poll(&(struct pollfd){server, POLLIN}, 1, 5000);
    size = sizeof peer;
    int other = accept(server, (void *)&peer, &size);
    SHOW(size);
    struct sockaddr_in own;
    SHOW(getsockname(one, (void *)&own, &size));
    printf("%d\n", memcmp(&own, &peer, sizeof own));
    int file = open("/etc/passwd", O_RDONLY);
    long length = lseek(file, 0, SEEK_END);
    lseek(file, 0, SEEK_SET);
    printf("%d\n", sendfile(other, file, 0, length) == length);
    close(other);
    char buffer[100];
    long read_ = 0, count;
    fcntl(one, F_SETFL, 0);
    while ((count = read(one, buffer, sizeof buffer)) > 0) read_ += count;
    printf("%d\n", read_ == length);
    close(one);
    close(server);
    one = socket(AF_INET, SOCK_STREAM, 0);
    SHOW(connect(one, (void *)&address, sizeof address));
    close(one);
}

static void udp(int family) {
    struct sockaddr_in6 at = {family}, from;
    socklen_t size = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof at, room = sizeof from;
    if (family == AF_INET) ((struct sockaddr_in *)&at)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else at.sin6_addr = in6addr_loopback;
    static char buffer[70000];
    int server = socket(family, SOCK_DGRAM, 0), client = socket(family, SOCK_DGRAM, 0);
    SHOW(bind(server, (void *)&at, size));
    if (getsockname(server, (void *)&at, &size)) return;
    SHOW(sendto(client, buffer, 1500, 0, (void *)&at, size));
    SHOW(recvfrom(server, buffer, 2000, 0, (void *)&from, &room));
    SHOW(room);
    SHOW(connect(server, (void *)&from, room));
    SHOW(send(server, "back", 4, 0));
    SHOW(recv(client, buffer, 2, MSG_TRUNC));
    SHOW(recv(client, buffer, 2, MSG_DONTWAIT));
    SHOW(sendto(client, buffer, 70000, 0, (void *)&at, size));
    struct sockaddr none = {AF_UNSPEC};
    SHOW(connect(server, &none, sizeof none));
    SHOW(getpeername(server, (void *)&from, &room));
    close(server);
    /* Nobody is there any more, which the host tells a connected socket. */
    SHOW(connect(client, (void *)&at, size));
    SHOW(send(client, "x", 1, 0));
    SHOW(poll(&(struct pollfd){client, POLLIN}, 1, 5000));
    SHOW(recv(client, buffer, 2, 0));
    close(client);
}

int main(void) {
    tcp();
    udp(AF_INET);
    udp(AF_INET6);
    SHOW(socket(AF_INET, SOCK_DGRAM, IPPROTO_TCP));
    return 6;
}
