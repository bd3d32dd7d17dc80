/* The LMDB side of bench/libtwz: one transaction per insert. Speaks as peers/pmdk.c does. */
#include "lmdb_store.h"

static MDB_env *environment;
static MDB_dbi database;
static uint64_t state = 0x2545F4914F6CDD1DULL;

static double insert(uint64_t n)
{
	double start = now();
	for (uint64_t i = 0; i < n; i++) {
		uint64_t key = next_random(&state) | 1, value[2] = { key, key };
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
	environment = open_store(argc > 1 ? argv[1] : "/dev/shm", 512UL << 20, MDB_INTEGERKEY, &database);
	char what[32];
	int parameter;
	uint64_t n;
	while (scanf("%31s %d %" SCNu64, what, &parameter, &n) == 3) {
		if (strcmp(what, "insert"))
			return 2;
		answer(insert(n), n);
	}
	return 0;
}
