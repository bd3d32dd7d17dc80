/* The LMDB side of bench/libtwz: one transaction per insert. Speaks as peers/pmdk.c does. */
#include <inttypes.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static MDB_env *environment;
static MDB_dbi database;
static uint64_t state = 0x2545F4914F6CDD1DULL;

static void must(int error, const char *what)
{
	if (error) {
		fprintf(stderr, "%s: %s\n", what, mdb_strerror(error));
		exit(1);
	}
}

/* Time of this thread on a CPU: other programs on a busy machine do not count. */
static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static uint64_t next_random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static double insert(uint64_t n)
{
	double start = now();
	for (uint64_t i = 0; i < n; i++) {
		uint64_t key = next_random() | 1, value[2] = { key, key };
		MDB_val k = { sizeof key, &key }, v = { sizeof value, value };
		MDB_txn *txn;
		must(mdb_txn_begin(environment, NULL, 0, &txn), "begin");
		must(mdb_put(txn, database, &k, &v, 0), "put");
		must(mdb_txn_commit(txn), "commit");
	}
	return now() - start;
}

int main(int argc, char **argv)
{
	char path[512];
	snprintf(path, sizeof path, "%s/lmdb-%d", argc > 1 ? argv[1] : "/dev/shm", getpid());
	must(mdb_env_create(&environment), "create");
	must(mdb_env_set_mapsize(environment, 512UL << 20), "size");
	must(mdb_env_open(environment, path, MDB_NOSUBDIR, 0600), "open");
	unlink(path);
	strcat(path, "-lock");
	unlink(path);
	MDB_txn *txn;
	must(mdb_txn_begin(environment, NULL, 0, &txn), "begin");
	must(mdb_dbi_open(txn, NULL, MDB_INTEGERKEY, &database), "open");
	must(mdb_txn_commit(txn), "commit");
	char what[32];
	int parameter;
	uint64_t n;
	while (scanf("%31s %d %" SCNu64, what, &parameter, &n) == 3) {
		if (strcmp(what, "insert"))
			return 2;
		printf("%.4f\n", insert(n) / n);
		fflush(stdout);
	}
	return 0;
}
