// The peer: libpmemobj. Times creating and opening its pools, and allocating and freeing objects in one.
// Prints one line: create_ns open_ns alloc_ns free_ns
#include <libpmemobj.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: %s path bytes rounds\n", argv[0]);
        return 2;
    }
    const char *path = argv[1];
    size_t size = strtoull(argv[2], NULL, 0);
    uint64_t rounds = strtoull(argv[3], NULL, 0), create = 0, open = 0;
    for (uint64_t round = 0; round < rounds; round++) {
        unlink(path);
        uint64_t start = now();
        PMEMobjpool *pool = pmemobj_create(path, "bench", size, 0600);
        create += now() - start;
        if (!pool) {
            fprintf(stderr, "pmemobj_create: %s\n", pmemobj_errormsg());
            return 1;
        }
        pmemobj_close(pool);
        start = now();
        pool = pmemobj_open(path, "bench");
        open += now() - start;
        if (!pool) {
            fprintf(stderr, "pmemobj_open: %s\n", pmemobj_errormsg());
            return 1;
        }
        pmemobj_close(pool);
    }
    PMEMobjpool *pool = pmemobj_open(path, "bench");
    if (!pool) return 1;
    enum { OBJECTS = 20000 };
    static PMEMoid ids[OBJECTS];
    uint64_t start = now();
    for (int i = 0; i < OBJECTS; i++)
        if (pmemobj_zalloc(pool, &ids[i], 256, 1)) return 1;
    uint64_t alloc = now() - start;
    start = now();
    for (int i = 0; i < OBJECTS; i++) pmemobj_free(&ids[i]);
    uint64_t release = now() - start;
    pmemobj_close(pool);
    unlink(path);
    printf("%f %f %f %f\n", (double)create / rounds, (double)open / rounds, (double)alloc / OBJECTS,
           (double)release / OBJECTS);
    return 0;
}
