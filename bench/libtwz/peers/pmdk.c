/*
 * The PMDK side of bench/libtwz: reads "<what> <parameter> <count>" lines, answers each with nanoseconds per operation.
 * Maps come from the example sources that Debian ships with libpmemobj-dev. Keep the loops the same as in src/ours.rs.
 */
#include <fcntl.h>
#include "pmdk_pool.h"

#include "btree_map.h"
#include "hashmap_tx.h"
#include "rbtree_map.h"

#define POOL_BYTES (512UL << 20)
#define CHASE_POOL_BYTES (16UL << 20)
#define MOST_POOLS 64
#define CHASE_NODES 512

struct node {
	PMEMoid next;
	uint64_t value;
};

struct root {
	uint64_t words[64 * 1024];
	PMEMoid owner;
	TOID(struct hashmap_tx) hash;
	TOID(struct btree_map) btree;
	TOID(struct rbtree_map) rbtree;
};

static const char *directory;
static PMEMobjpool *pool;
static struct root *root;
static PMEMobjpool *pools[MOST_POOLS];
static struct node *first[MOST_POOLS + 1];

/* A ring of nodes that goes through `count` pools in random order; count 1: inside one pool. */
static struct node *chase_ring(int count)
{
	if (first[count])
		return first[count];
	for (int i = 0; i < count; i++)
		if (!pools[i])
			pools[i] = make_pool(directory, "chase", i, CHASE_POOL_BYTES);
	PMEMoid *ids = calloc(CHASE_NODES, sizeof *ids);
	uint64_t state = 88172645463325252ULL;
	for (int i = 0; i < CHASE_NODES; i++) {
		if (pmemobj_alloc(pools[i % count], &ids[i], sizeof(struct node), 1, NULL, NULL))
			exit(1);
	}
	for (int i = CHASE_NODES - 1; i > 0; i--) {
		int j = next_random(&state) % (i + 1);
		PMEMoid t = ids[i];
		ids[i] = ids[j];
		ids[j] = t;
	}
	for (int i = 0; i < CHASE_NODES; i++) {
		struct node *n = pmemobj_direct(ids[i]);
		n->next = ids[(i + 1) % CHASE_NODES];
		n->value = i;
	}
	first[count] = pmemobj_direct(ids[0]);
	free(ids);
	return first[count];
}

static double chase(int count, uint64_t n)
{
	struct node *at = chase_ring(count);
	uint64_t sum = 0;
	double start = now();
	for (uint64_t i = 0; i < n; i++) {
		at = pmemobj_direct(at->next);
		sum += at->value;
	}
	double end = now();
	first[count] = at;
	if (sum == 1)
		fprintf(stderr, "!");
	return end - start;
}

/* Fills `order` with the numbers below CHASE_NODES, shuffled. */
static void shuffle(int *order)
{
	uint64_t state = 88172645463325252ULL;
	for (int i = 0; i < CHASE_NODES; i++)
		order[i] = i;
	for (int i = CHASE_NODES - 1; i > 0; i--) {
		int j = next_random(&state) % (i + 1), t = order[i];
		order[i] = order[j];
		order[j] = t;
	}
}

static double raw_chase(uint64_t n)
{
	static struct raw { struct raw *next; uint64_t value; uint64_t pad; } *ring, *at;
	if (!ring) {
		ring = calloc(CHASE_NODES, sizeof *ring);
		int order[CHASE_NODES];
		shuffle(order);
		for (int i = 0; i < CHASE_NODES; i++)
			ring[order[i]].next = &ring[order[(i + 1) % CHASE_NODES]];
		at = ring;
	}
	uint64_t sum = 0;
	double start = now();
	for (uint64_t i = 0; i < n; i++) {
		at = at->next;
		sum += at->value;
	}
	double end = now();
	if (sum == 1)
		fprintf(stderr, "!");
	return end - start;
}

/*
 * The least that a chase over several objects with one cached load can do: the pointer's two halves, and from one table for all
 * the base of the object; nothing is checked, and no object has a table of its own.
 */
static double table_chase(int count, uint64_t n)
{
	struct hop { uint32_t offset, index; uint64_t value; uint64_t pad; };
	static char *bases[MOST_POOLS];
	static struct hop *hop;
	if (!hop) {
		int order[CHASE_NODES];
		shuffle(order);
		for (int i = 0; i < count; i++)
			bases[i] = calloc(CHASE_NODES, sizeof *hop);
		for (int i = 0; i < CHASE_NODES; i++) {
			int from = order[i], to = order[(i + 1) % CHASE_NODES];
			struct hop *from_hop = (struct hop *)bases[from % count] + from / count;
			from_hop->index = to % count;
			from_hop->offset = to / count * sizeof *hop;
		}
		hop = (struct hop *)bases[0];
	}
	struct hop *at = hop;
	uint64_t sum = 0;
	double start = now();
	for (uint64_t i = 0; i < n; i++) {
		at = (struct hop *)(bases[at->index] + at->offset);
		sum += at->value;
	}
	double end = now();
	hop = at;
	if (sum == 1)
		fprintf(stderr, "!");
	return end - start;
}

/* Translating pointers that are not chased, four a turn: what is measured is a translation, not a loop. */
static double translate(uint64_t n)
{
	static PMEMoid ids[1024];
	if (!ids[0].off)
		for (int i = 0; i < 1024; i++)
			ids[i] = pmemobj_oid(&root->words[i * 8]);
	uint64_t sum = 0;
	double start = now();
	for (uint64_t i = 0; i < n; i += 4) {
		const PMEMoid *at = &ids[i & 1020];
		sum += (uint64_t)(uintptr_t)pmemobj_direct(at[0]);
		sum += (uint64_t)(uintptr_t)pmemobj_direct(at[1]);
		sum += (uint64_t)(uintptr_t)pmemobj_direct(at[2]);
		sum += (uint64_t)(uintptr_t)pmemobj_direct(at[3]);
	}
	double end = now();
	if (sum == 1)
		fprintf(stderr, "!");
	return end - start;
}

/* What a UNIX program does to reach data by name. */
/* As many files as libtwz resolves objects, by turns, with names as a program needs that knows them by 128-bit IDs. */
static double open_close(uint64_t n)
{
	enum { FILES = 64 };
	static char paths[FILES][512];
	for (uint64_t i = 0; i < FILES; i++) {
		uint64_t id = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
		snprintf(paths[i], sizeof paths[i], "%s/%016" PRIx64 "%016" PRIx64, directory, id, (uint64_t)getpid());
		int made = open(paths[i], O_CREAT | O_RDWR, 0600);
		if (made < 0)
			exit(1);
		close(made);
	}
	double start = now();
	for (uint64_t i = 0; i < n; i++) {
		int fd = open(paths[i % FILES], O_RDWR);
		if (fd < 0)
			exit(1);
		close(fd);
	}
	double end = now();
	for (int i = 0; i < FILES; i++)
		unlink(paths[i]);
	return end - start;
}

/* `words` words, `stride` words apart, each added to the transaction just before it is written. */
static double tx_words(int words, int stride, uint64_t n)
{
	double start = now();
	for (uint64_t i = 0; i < n; i++) {
		TX_BEGIN(pool) {
			for (int w = 0; w < words; w++) {
				uint64_t *word = &root->words[w * stride];
				pmemobj_tx_add_range_direct(word, sizeof *word);
				*word = i + w;
			}
		} TX_ONABORT {
			exit(1);
		} TX_END
	}
	return now() - start;
}

static double tx_words_first(int words, int stride, uint64_t n)
{
	double start = now();
	for (uint64_t i = 0; i < n; i++) {
		TX_BEGIN(pool) {
			for (int w = 0; w < words; w++)
				pmemobj_tx_add_range_direct(&root->words[w * stride], 8);
			for (int w = 0; w < words; w++)
				root->words[w * stride] = i + w;
		} TX_ONABORT {
			exit(1);
		} TX_END
	}
	return now() - start;
}

static double tx_alloc(uint64_t n)
{
	double start = now();
	for (uint64_t i = 0; i < n; i++) {
		TX_BEGIN(pool) {
			pmemobj_tx_add_range_direct(&root->owner, sizeof root->owner);
			root->owner = pmemobj_tx_alloc(48, 2);
		} TX_ONABORT {
			exit(1);
		} TX_END
	}
	return now() - start;
}

enum kind { HASH, BTREE, RBTREE };

static double insert(enum kind kind, uint64_t n)
{
	static uint64_t state = 0x2545F4914F6CDD1DULL;
	double start = now();
	for (uint64_t i = 0; i < n; i++) {
		uint64_t key = next_random(&state) | 1;
		int failed = kind == HASH ? hm_tx_insert(pool, root->hash, key, as_value(key)) < 0
			: kind == BTREE ? btree_map_insert(pool, root->btree, key, as_value(key))
			: rbtree_map_insert(pool, root->rbtree, key, as_value(key));
		if (failed) {
			fprintf(stderr, "insert: %s\n", pmemobj_errormsg());
			exit(1);
		}
	}
	return now() - start;
}

int main(int argc, char **argv)
{
	directory = argc > 1 ? argv[1] : "/dev/shm";
	pool = make_pool(directory, "pmdk", 0, POOL_BYTES);
	root = pmemobj_direct(pmemobj_root(pool, sizeof *root));
	struct hashmap_args arguments = { .seed = 1 };
	if (hm_tx_create(pool, &root->hash, &arguments) || btree_map_create(pool, &root->btree, NULL)
		|| rbtree_map_create(pool, &root->rbtree, NULL))
		return 1;
	char what[32];
	int parameter;
	uint64_t n;
	while (scanf("%31s %d %" SCNu64, what, &parameter, &n) == 3) {
		double ns = !strcmp(what, "translate") ? translate(n)
			: !strcmp(what, "chase") ? chase(parameter, n)
			: !strcmp(what, "raw_chase") ? raw_chase(n)
			: !strcmp(what, "table_chase") ? table_chase(parameter, n)
			: !strcmp(what, "open_close") ? open_close(n / 20 + 1) * 20
			: !strcmp(what, "tx_each") ? tx_words(parameter, 8, n)
			: !strcmp(what, "tx_first") ? tx_words_first(parameter, 8, n)
			: !strcmp(what, "tx_adjacent") ? tx_words_first(parameter, 1, n)
			: !strcmp(what, "tx_alloc") ? tx_alloc(n)
			: !strcmp(what, "hash_insert") ? insert(HASH, n)
			: !strcmp(what, "btree_insert") ? insert(BTREE, n)
			: !strcmp(what, "rbtree_insert") ? insert(RBTREE, n) : -1.0;
		if (ns < 0)
			return 2;
		answer(ns, n);
	}
	return 0;
}
