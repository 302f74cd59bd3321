/* The network, and sockets of the host. */
#include "attack.h"
#include <arpa/inet.h>
#include <net/ethernet.h>
#include <netpacket/packet.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct sockaddr_in loopback(const char *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number(port))};

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return a;
}

static void say_to(int fd, const struct sockaddr *to, socklen_t n, const char *text)
{
	if (fd < 0 || connect(fd, to, n) < 0 || write(fd, text, strlen(text)) < 0)
		tried("connect");
}

static void tcp(char **args)
{
	struct sockaddr_in a = loopback(args[0]);

	say_to(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&a, sizeof a, args[1]);
}

static void udp(char **args)
{
	struct sockaddr_in a = loopback(args[0]);

	say_to(socket(AF_INET, SOCK_DGRAM, 0), (struct sockaddr *)&a, sizeof a, args[1]);
}

static void serve(char **args)
{
	struct sockaddr_in a = loopback(args[0]);
	int fd = socket(AF_INET, SOCK_STREAM, 0), one;

	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, 1) < 0)
		return tried("bind");
	got("ready\n", 6);
	one = accept(fd, 0, 0);
	if (one < 0 || write(one, args[1], strlen(args[1])) < 0)
		tried("accept");
}

/* A name that starts with '@' is an abstract one. */
static void unix_(char **args)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	size_t n = strlen(args[0]);

	memcpy(a.sun_path, args[0], n + 1);
	if (a.sun_path[0] == '@')
		a.sun_path[0] = 0;
	say_to(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n), args[1]);
}

/* A datagram needs no connection: sendto(2) and sendmsg(2) are other doors. */
static void unix_datagram(char **args)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	size_t n = strlen(args[0]);
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	struct iovec iov = {args[1], strlen(args[1])};
	struct msghdr m = {.msg_name = &a, .msg_iov = &iov, .msg_iovlen = 1};

	memcpy(a.sun_path, args[0], n + 1);
	m.msg_namelen = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
	if (sendto(fd, args[1], strlen(args[1]), 0, (struct sockaddr *)&a, m.msg_namelen) < 0)
		tried("sendto");
	if (sendmsg(fd, &m, 0) < 0)
		tried("sendmsg");
}

/* Everything that passes. */
static void sniff(char **args)
{
	int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
	char buf[4096];
	ssize_t n;

	(void)args;
	if (fd < 0)
		return tried("socket");
	got("ready\n", 6);
	while ((n = recv(fd, buf, sizeof buf, 0)) > 0)
		got(buf, (size_t)n);
}

/* Families that most programs never ask for, and whose code is seldom read. */
static void family(char **args)
{
	for (; *args != 0; args++)
		for (int type = SOCK_STREAM; type <= SOCK_SEQPACKET; type++)
			if (socket((int)number(*args), type, 0) < 0)
				tried("socket");
}

/* A socket that was handed over, away from what it was for: connect(2) with
 * AF_UNSPEC ends what it is, and then it is one like any other. */
static void away(char **args)
{
	struct sockaddr_in a = loopback(args[1]);
	struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
	int fd = (int)number(args[0]);

	if (connect(fd, &nowhere, sizeof nowhere) < 0)
		shutdown(fd, SHUT_RDWR); /* a socket that listens, on older kernels */
	say_to(fd, (struct sockaddr *)&a, sizeof a, args[2]);
}

const struct attack network[] = {
	{"tcp", tcp, 2},
	{"udp", udp, 2},
	{"serve", serve, 2},
	{"unix", unix_, 2},
	{"unix-datagram", unix_datagram, 2},
	{"away", away, 3},
	{"sniff", sniff, 0},
	{"family", family, 1},
	{0},
};
