#include "attack.h"

_Noreturn void ready(void)
{
	if (write(1, "ready\n", 6) < 0)
		_exit(1);
	for (;;)
		pause();
}

void got(const char *data, size_t n)
{
	if (write(1, data, n) < 0)
		_exit(1);
}

void copy_out(int fd)
{
	char buf[4096];
	ssize_t n;

	while ((n = read(fd, buf, sizeof buf)) > 0)
		got(buf, (size_t)n);
}

void tried(const char *what)
{
	char line[256];
	int n = snprintf(line, sizeof line, "%s: %s\n", what, strerror(errno));

	if (n > 0)
		got(line, (size_t)n);
}

long number(const char *text)
{
	return strtol(text, 0, 0);
}

static const struct attack *find(const struct attack *list, const char *name)
{
	for (; list->name != 0; list++)
		if (strcmp(list->name, name) == 0)
			return list;
	return 0;
}

int main(int argc, char **argv)
{
	const struct attack *all[] = {files, privileges, kernel, network, resources, supervision, peers};

	for (size_t i = 0; argc > 1 && i < sizeof all / sizeof all[0]; i++) {
		const struct attack *a = find(all[i], argv[1]);

		if (a == 0)
			continue;
		if (argc - 2 < a->needs)
			break;
		a->run(argv + 2);
		ready();
	}
	fprintf(stderr, "usage: attack NAME ARGUMENTS\n");
	return 2;
}
