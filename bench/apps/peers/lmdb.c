/* LMDB beside kv: one transaction for an insert, one for all look-ups of a round. Speaks as peers/pmdk.c does. */
#include "lmdb_store.h"

static MDB_env *environment;
static MDB_dbi database;
static uint64_t count;

static uint32_t key(uint64_t number)
{
	return (uint32_t)(number * 2654435761u);
}

/* `each`: keys in a transaction. */
static double insert(uint64_t n, uint64_t each)
{
	MDB_txn *txn = NULL;
	double start = now();
	for (uint64_t i = 0; i < n; i++, count++) {
		uint32_t k = key(count), v = k + 1;
		MDB_val mk = { sizeof k, &k }, mv = { sizeof v, &v };
		if (i % each == 0)
			must(mdb_txn_begin(environment, NULL, 0, &txn), "begin");
		must(mdb_put(txn, database, &mk, &mv, 0), "put");
		if (i % each == each - 1 || i == n - 1)
			must(mdb_txn_commit(txn), "commit");
	}
	return now() - start;
}

static double get(uint64_t n)
{
	MDB_txn *txn;
	uint64_t at = 0, sum = 0;
	double start = now();
	must(mdb_txn_begin(environment, NULL, MDB_RDONLY, &txn), "begin");
	for (uint64_t i = 0; i < n; i++) {
		at = (at + 7368787) % count;
		uint32_t k = key(at);
		MDB_val mk = { sizeof k, &k }, mv;
		must(mdb_get(txn, database, &mk, &mv), "get");
		sum += *(uint32_t *)mv.mv_data;
	}
	mdb_txn_abort(txn);
	double end = now();
	if (sum == 1)
		fprintf(stderr, "!");
	return end - start;
}

int main(int argc, char **argv)
{
	environment = open_store(argc > 1 ? argv[1] : "/dev/shm", 1024UL << 20, 0, &database);
	char what[32];
	uint64_t n;
	while (scanf("%31s %" SCNu64, what, &n) == 2) {
		double ns = !strcmp(what, "insert") ? insert(n, 1)
			: !strcmp(what, "fill") ? insert(n, n)
			: !strcmp(what, "get") ? get(n) : -1.0;
		if (ns < 0)
			return 2;
		answer(ns, n);
	}
	return 0;
}
