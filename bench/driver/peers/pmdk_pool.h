/* A pool of libpmemobj's that leaves no file behind. */
#ifndef PMDK_POOL_H
#define PMDK_POOL_H
#include "peer.h"
#include <libpmemobj.h>

static inline PMEMobjpool *make_pool(const char *directory, const char *name, int number, size_t bytes)
{
	char path[512];
	snprintf(path, sizeof path, "%s/%s-%d-%d", directory, name, getpid(), number);
	PMEMobjpool *made = pmemobj_create(path, "bench", bytes, 0600);
	if (!made) {
		fprintf(stderr, "pmemobj_create %s: %s\n", path, pmemobj_errormsg());
		exit(1);
	}
	unlink(path); /* the mapping keeps it */
	return made;
}

static inline PMEMoid as_value(uint64_t number)
{
	return (PMEMoid){ .pool_uuid_lo = number, .off = number };
}
#endif
