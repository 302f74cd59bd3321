/* A hostile peer: of the plugin's own connection, descriptor 3, and of the control socket. */
#include "attack.h"
#include <arpa/inet.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

enum { SOCKET = 3 };

static int send_all(int fd, const char *data, size_t n)
{
	while (n > 0) {
		ssize_t sent = send(fd, data, n, MSG_NOSIGNAL);

		if (sent < 0)
			return -1;
		data += sent;
		n -= (size_t)sent;
	}
	return 0;
}

static int frame(int fd, const char *text, size_t n)
{
	uint32_t head = htonl((uint32_t)n);

	return send_all(fd, (char *)&head, 4) < 0 ? -1 : send_all(fd, text, n);
}

/* One message of so many bytes. */
static void big(char **args)
{
	size_t n = (size_t)number(args[0]);
	static const char head[] = "{\"jsonrpc\":\"2.0\",\"method\":\"x\",\"params\":[\"";
	char *text = malloc(n);

	memset(text, 'a', n);
	memcpy(text, head, sizeof head - 1);
	memcpy(text + n - 3, "\"]}", 3);
	if (frame(SOCKET, text, n) < 0)
		tried("send");
}

static void flood(char **args)
{
	static const char text[] = "{\"jsonrpc\":\"2.0\",\"method\":\"x\"}";

	got("ready\n", 6); /* whoever reads slowly makes it wait */
	for (long n = number(args[0]); n > 0; n--)
		if (frame(SOCKET, text, sizeof text - 1) < 0)
			return tried("send");
}

static void deep(char **args)
{
	long n = number(args[0]);
	char *text = malloc((size_t)n * 2 + 64), *at = text;

	at += sprintf(at, "{\"jsonrpc\":\"2.0\",\"method\":\"x\",\"params\":");
	memset(at, '[', (size_t)n);
	memset(at + n, ']', (size_t)n);
	at[2 * n] = '}';
	if (frame(SOCKET, text, (size_t)(at + 2 * n + 1 - text)) < 0)
		tried("send");
}

/* Requests that all wait at the host at once. */
static void in_flight(char **args)
{
	char text[96];

	for (long n = number(args[0]); n > 0; n--) {
		int len = snprintf(text, sizeof text, "{\"jsonrpc\":\"2.0\",\"id\":%ld,\"method\":\"x\"}", n);

		if (frame(SOCKET, text, (size_t)len) < 0)
			return tried("send");
	}
}

/* Descriptors that nobody asked for fill the host's table. */
static void descriptors(char **args)
{
	union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } c;
	uint32_t head = htonl(1 << 20);
	struct iovec iov = {&head, 4};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c};
	int fd = open(args[0], O_RDWR | O_CREAT, 0600);

	c.head.cmsg_level = SOL_SOCKET;
	c.head.cmsg_type = SCM_RIGHTS;
	c.head.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&c.head), &fd, sizeof fd);
	if (sendmsg(SOCKET, &m, MSG_NOSIGNAL) < 0)
		tried("sendmsg");
}

/* Two names of one thing: what checks sees one, what acts the other. */
static void twice(char **args)
{
	char text[256];
	int n = snprintf(text, sizeof text, "{\"jsonrpc\":\"2.0\",\"method\":\"harmless\",\"method\":\"%s\"}", args[0]);

	if (frame(SOCKET, text, (size_t)n) < 0)
		tried("send");
}

static int dial(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strncpy(a.sun_path, path, sizeof a.sun_path - 1);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) < 0) {
		tried("connect");
		return -1;
	}
	return fd;
}

/* Asks the daemon to do something, as whoever this is. */
static void ask(char **args)
{
	char text[512], reply[4096];
	int fd = dial(args[0]);
	int n = snprintf(text, sizeof text, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"%s\",\"params\":%s}", args[1], args[2]);
	ssize_t got_bytes;

	if (fd < 0 || frame(fd, text, (size_t)n) < 0)
		return;
	got_bytes = recv(fd, reply, sizeof reply, 0);
	if (got_bytes > 0)
		got(reply, (size_t)got_bytes);
}

/* Every place that there is. */
static void crowd(char **args)
{
	for (long n = number(args[1]); n > 0; n--)
		if (dial(args[0]) < 0)
			return;
}

const struct attack peers[] = {
	{"big", big, 1},
	{"flood", flood, 1},
	{"deep", deep, 1},
	{"in-flight", in_flight, 1},
	{"send-descriptors", descriptors, 1},
	{"twice", twice, 1},
	{"ask", ask, 3},
	{"crowd", crowd, 2},
	{0},
};
