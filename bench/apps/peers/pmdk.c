/* PMDK's example maps beside kv and rbt: "<what> <count>" lines in, nanoseconds per operation out. Keys are those of src/keys.rs. */
#include "pmdk_pool.h"

#include "hashmap_tx.h"
#include "rbtree_map.h"

struct root {
	TOID(struct hashmap_tx) hash;
	TOID(struct rbtree_map) tree;
};

static PMEMobjpool *pool;
static struct root *root;
static uint64_t hash_count, tree_count;

static uint64_t key(uint64_t number)
{
	return (uint32_t)(number * 2654435761u);
}

/* Inserts `n` keys more. */
static double insert(int tree, uint64_t n)
{
	uint64_t *count = tree ? &tree_count : &hash_count;
	double start = now();
	for (uint64_t i = 0; i < n; i++, (*count)++) {
		uint64_t k = key(*count);
		if (tree ? rbtree_map_insert(pool, root->tree, k, as_value(k + 1))
			: hm_tx_insert(pool, root->hash, k, as_value(k + 1)) < 0) {
			fprintf(stderr, "insert: %s\n", pmemobj_errormsg());
			exit(1);
		}
	}
	return now() - start;
}

/* Looks up `n` keys in an order of its own. */
static double get(int tree, uint64_t n)
{
	uint64_t count = tree ? tree_count : hash_count, sum = 0, at = 0;
	double start = now();
	for (uint64_t i = 0; i < n; i++) {
		at = (at + 7368787) % count;
		PMEMoid found = tree ? rbtree_map_get(pool, root->tree, key(at)) : hm_tx_get(pool, root->hash, key(at));
		if (!found.off)
			exit(3);
		sum += found.off;
	}
	double end = now();
	if (sum == 1)
		fprintf(stderr, "!");
	return end - start;
}

int main(int argc, char **argv)
{
	pool = make_pool(argc > 1 ? argv[1] : "/dev/shm", "pmdk-apps", 0, 1024UL << 20);
	root = pmemobj_direct(pmemobj_root(pool, sizeof *root));
	struct hashmap_args arguments = { .seed = 1 };
	if (hm_tx_create(pool, &root->hash, &arguments) || rbtree_map_create(pool, &root->tree, NULL))
		return 1;
	char what[32];
	uint64_t n;
	while (scanf("%31s %" SCNu64, what, &n) == 2) {
		double ns = !strcmp(what, "hash_insert") ? insert(0, n)
			: !strcmp(what, "hash_get") ? get(0, n)
			: !strcmp(what, "tree_insert") ? insert(1, n)
			: !strcmp(what, "tree_get") ? get(1, n) : -1.0;
		if (ns < 0)
			return 2;
		answer(ns, n);
	}
	return 0;
}
