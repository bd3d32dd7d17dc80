/* What peers in C have in common: a stopwatch and random numbers. A peer reads lines of words that end in a count, and answers each with
 * nanoseconds an operation (src/peer.rs). */
#ifndef PEER_H
#define PEER_H
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Time of this process on a CPU: other programs on a busy machine do not count. */
static inline double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static inline uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static inline void answer(double ns, uint64_t count)
{
	printf("%.4f\n", ns / count);
	fflush(stdout);
}
#endif
