/* Sends or receives bytes over one TCP connection, in 64 KiB pieces: the guest's half of netbench.
 * nettool send|recv ADDRESS PORT MEGABYTES */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[64 << 10];

int main(int argc, char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	if (argc != 5)
		return 2;
	long long left = atoll(argv[4]) << 20;
	int s = socket(AF_INET, SOCK_STREAM, 0);
	to.sin_port = htons(atoi(argv[3]));
	inet_pton(AF_INET, argv[2], &to.sin_addr);
	if (connect(s, (struct sockaddr *)&to, sizeof to) < 0) {
		perror("connect");
		return 1;
	}
	memset(buffer, 0x5a, sizeof buffer);
	int sends = !strcmp(argv[1], "send");
	while (left > 0) {
		long long most = left < (long long)sizeof buffer ? left : (long long)sizeof buffer;
		ssize_t n = sends ? write(s, buffer, most) : read(s, buffer, most);
		if (n <= 0)
			break;
		left -= n;
	}
	if (sends) {
		/* The peer has all of it when it closes. */
		shutdown(s, SHUT_WR);
		while (read(s, buffer, sizeof buffer) > 0)
			;
	}
	return left != 0;
}
