/*
 * The attacks of the escape corpus: one static program, one function each. An
 * attack tries, says "ready" when it is done trying, and stays; what came of it
 * the test sees from outside. It never says itself that it got anywhere.
 */
#ifndef ATTACK_H
#define ATTACK_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

struct attack {
	const char *name;
	void (*run)(char **args); /* ends with a null pointer, has at least `needs` */
	int needs;
};

extern const struct attack files[], privileges[], kernel[], network[], resources[], supervision[], peers[];

/* Done trying: says so, and waits to be looked at and ended. */
_Noreturn void ready(void);

/* Writes what was got hold of where the test can compare it. */
void got(const char *data, size_t n);

/* Copies a descriptor to standard output. */
void copy_out(int fd);

/* A failed try, for whoever reads the log; the attack goes on. */
void tried(const char *what);

long number(const char *text);

#endif
