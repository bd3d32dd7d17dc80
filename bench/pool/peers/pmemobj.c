/* libpmemobj beside the pool: "<what> <count>" lines in, nanoseconds an operation out. */
#include "peer.h"
#include <libpmemobj.h>

#define POOL_BYTES (64UL << 20)
#define MOST_OBJECTS 20000

static char path[512];
static PMEMobjpool *pool;
static PMEMoid ids[MOST_OBJECTS];

static void must(int good, const char *what)
{
	if (!good) {
		fprintf(stderr, "%s: %s\n", what, pmemobj_errormsg());
		exit(1);
	}
}

/* Closing is not timed. */
static double create_pool(uint64_t n)
{
	double sum = 0;
	for (uint64_t i = 0; i < n; i++) {
		unlink(path);
		double start = now();
		PMEMobjpool *made = pmemobj_create(path, "bench", POOL_BYTES, 0600);
		sum += now() - start;
		must(made != NULL, "pmemobj_create");
		pmemobj_close(made);
	}
	return sum;
}

/* The one that was created last. */
static double open_pool(uint64_t n)
{
	double sum = 0;
	for (uint64_t i = 0; i < n; i++) {
		double start = now();
		PMEMobjpool *opened = pmemobj_open(path, "bench");
		sum += now() - start;
		must(opened != NULL, "pmemobj_open");
		pmemobj_close(opened);
	}
	return sum;
}

static double allocate(uint64_t n)
{
	double start = now();
	for (uint64_t i = 0; i < n; i++)
		must(pmemobj_zalloc(pool, &ids[i], 256, 1) == 0, "pmemobj_zalloc");
	return now() - start;
}

/* What was allocated last. */
static double release(uint64_t n)
{
	double start = now();
	for (uint64_t i = 0; i < n; i++)
		pmemobj_free(&ids[i]);
	return now() - start;
}

int main(int argc, char **argv)
{
	const char *directory = argc > 1 ? argv[1] : "/dev/shm";
	snprintf(path, sizeof path, "%s/pmemobj-objects-%d", directory, getpid());
	pool = pmemobj_create(path, "bench", POOL_BYTES, 0600);
	must(pool != NULL, "pmemobj_create");
	unlink(path); /* the mapping keeps it */
	snprintf(path, sizeof path, "%s/pmemobj-small-%d", directory, getpid());
	char what[32];
	uint64_t n;
	while (scanf("%31s %" SCNu64, what, &n) == 2) {
		double ns = n > MOST_OBJECTS ? -1.0
			: !strcmp(what, "create") ? create_pool(n)
			: !strcmp(what, "open") ? open_pool(n)
			: !strcmp(what, "alloc") ? allocate(n)
			: !strcmp(what, "free") ? release(n) : -1.0;
		if (ns < 0)
			return 2;
		if (!strcmp(what, "open"))
			unlink(path); /* nothing stays behind when this process is ended */
		answer(ns, n);
	}
	return 0;
}
