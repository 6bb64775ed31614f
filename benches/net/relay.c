/*
 * The least that a switch of two ports can be: whatever comes from one connection goes to the other.
 *
 * Usage: relay SOCKET. Two clients connect; it ends when one of them leaves. It waits in poll(2) for both, as a switch does, and
 * knows neither frames nor addresses. Left out: everything else. Sources: poll(2), unix(7).
 */
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static char bytes[1 << 16];
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct pollfd ports[2];
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);

	if (argc != 2 || strlen(argv[1]) >= sizeof(address.sun_path))
		return 1;
	strcpy(address.sun_path, argv[1]);
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 2))
		return 1;
	for (int i = 0; i < 2; i++)
		ports[i] = (struct pollfd){ .fd = accept(listener, NULL, NULL), .events = POLLIN };
	for (;;) {
		if (poll(ports, 2, -1) < 0)
			return 1;
		for (int i = 0; i < 2; i++) {
			if (!ports[i].revents)
				continue;
			ssize_t count = recv(ports[i].fd, bytes, sizeof(bytes), MSG_DONTWAIT);
			if (count <= 0)
				return 0;
			if (send(ports[1 - i].fd, bytes, count, MSG_NOSIGNAL) != count)
				return 1;
		}
	}
}
