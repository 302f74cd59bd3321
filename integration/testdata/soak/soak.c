// A plugin that breaks the protocol in the way that its argument names, each
// time it is started: protocol = "cordon", over descriptor 3.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { HOST = 3, BIG = 4 << 20 };

static void all(int write_it, unsigned char *at, size_t n) {
	while (n > 0) {
		ssize_t some = write_it ? send(HOST, at, n, MSG_NOSIGNAL) : read(HOST, at, n);
		if (some <= 0) _exit(2);
		at += some;
		n -= some;
	}
}

static void say_length(size_t n) {
	unsigned char head[4] = {n >> 24, n >> 16, n >> 8, n};
	all(1, head, 4);
}

static void say(const char *text) {
	say_length(strlen(text));
	all(1, (unsigned char *)text, strlen(text));
}

static size_t hear(unsigned char *buf) {
	unsigned char head[4];
	all(0, head, 4);
	size_t n = (size_t)head[1] << 16 | head[2] << 8 | head[3];
	all(0, buf, n);
	return n;
}

static void raw(const char *bytes, size_t n) { all(1, (unsigned char *)bytes, n); }

static char big[BIG + 1];

// bracketed says a request whose params open n arrays.
static void bracketed(size_t n) {
	strcpy(big, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\",\"params\":");
	memset(big + strlen(big), '[', n);
	say(big);
}

// name is a number in digits as a member; printf would take most of a life.
static char *name(char *at, unsigned n) {
	char digits[10];
	int k = 0;
	do digits[k++] = '0' + n % 10; while (n /= 10);
	*at++ = '"';
	while (k) *at++ = digits[--k];
	memcpy(at, "\":1,", 4);
	return at + 4;
}

// named says one object of very many names, the last of them twice.
static void named(void) {
	char *at = big + sprintf(big, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\",\"params\":{");
	for (unsigned i = 0; at < big + BIG - 64; i++) at = name(at, i);
	sprintf(at, "\"0\":1}}");
	say(big);
}

static void descriptors(const char *text, int count) {
	int fds[253];
	int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	for (int i = 0; i < count; i++) fds[i] = file < 0 ? HOST : file;
	unsigned char frame[4096];
	size_t n = strlen(text);
	frame[0] = frame[1] = 0, frame[2] = n >> 8, frame[3] = n;
	memcpy(frame + 4, text, n);
	union { struct cmsghdr align; char room[CMSG_SPACE(sizeof fds)]; } control;
	struct iovec io = {frame, n + 4};
	struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = CMSG_SPACE(count * sizeof *fds)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(count * sizeof *fds);
	memcpy(CMSG_DATA(c), fds, count * sizeof *fds);
	sendmsg(HOST, &m, MSG_NOSIGNAL);
}

// flood asks without end, each time by another id, and reads no answer.
static void flood(void) {
	for (int id = 1;; id++) {
		sprintf(big, "{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"m\"}", id);
		say(big);
	}
}

int main(int argc, char **argv) {
	static unsigned char buf[1 << 16];
	const char *what = argc > 1 ? argv[1] : "";
	hear(buf);
	if (!strcmp(what, "phase")) say("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"early\"}");
	else if (!strcmp(what, "hello")) say("{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"api\":99}}");
	else say("{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"api\":1}}");

	if (!strcmp(what, "byte")) raw("X", 1);
	else if (!strcmp(what, "zero")) raw("\0\0\0\0", 4);
	else if (!strcmp(what, "negative")) raw("\xff\xff\xff\xff", 4);
	else if (!strcmp(what, "huge")) raw("\0\xff\xff\xff", 4);
	else if (!strcmp(what, "cut")) { raw("\0\x3f\xff\xff{\"", 6); return 0; }
	else if (!strcmp(what, "syntax")) say("{\"jsonrpc\":\"2.0\",");
	else if (!strcmp(what, "depth")) bracketed(BIG / 2);
	else if (!strcmp(what, "names")) named();
	else if (!strcmp(what, "duplicate")) say("{\"jsonrpc\":\"2.0\",\"jsonrpc\":\"2.0\"}");
	else if (!strcmp(what, "encoding")) say("{\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}");
	else if (!strcmp(what, "surrogate")) say("{\"jsonrpc\":\"2.0\",\"method\":\"\\ud800\"}");
	else if (!strcmp(what, "batch")) say("[{\"jsonrpc\":\"2.0\",\"method\":\"m\"}]");
	else if (!strcmp(what, "id")) say("{\"jsonrpc\":\"2.0\",\"id\":9007199254740993,\"method\":\"m\"}");
	else if (!strcmp(what, "unasked")) say("{\"jsonrpc\":\"2.0\",\"id\":77,\"result\":1}");
	else if (!strcmp(what, "twice")) { for (int i = 0; i < 2; i++) say("{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"api\":1}}"); }
	else if (!strcmp(what, "descriptors")) descriptors("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\"}", 253);
	else if (!strcmp(what, "kinds")) descriptors("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\",\"fds\":[\"socket\",\"memfd\"]}", 2);
	else if (!strcmp(what, "requests")) flood();
	else if (!strcmp(what, "crash")) abort();
	else if (!strcmp(what, "spin")) { hear(buf); for (volatile int i = 0;; i++) {} }
	for (;;) hear(buf);
}
