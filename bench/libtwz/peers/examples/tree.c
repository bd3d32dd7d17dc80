/* A persistent binary search tree by hand: insert and walk. The same as libtwz/examples/tree.rs. */
#include <inttypes.h>
#include <libpmemobj.h>
#include <stdio.h>

POBJ_LAYOUT_BEGIN(tree);
POBJ_LAYOUT_ROOT(tree, struct tree);
POBJ_LAYOUT_TOID(tree, struct node);
POBJ_LAYOUT_END(tree);

struct node {
	uint64_t key;
	uint64_t value;
	TOID(struct node) children[2];
};

struct tree {
	TOID(struct node) root;
};

static int insert(PMEMobjpool *pool, TOID(struct tree) tree, uint64_t key, uint64_t value)
{
	int failed = 0;
	TX_BEGIN(pool) {
		TOID(struct node) *place = &D_RW(tree)->root;
		while (!TOID_IS_NULL(*place) && D_RO(*place)->key != key)
			place = &D_RW(*place)->children[key > D_RO(*place)->key];
		if (TOID_IS_NULL(*place)) {
			TOID(struct node) node = TX_ZNEW(struct node);
			D_RW(node)->key = key;
			D_RW(node)->value = value;
			pmemobj_tx_add_range_direct(place, sizeof(*place));
			*place = node;
		} else {
			TX_ADD_FIELD(*place, value);
			D_RW(*place)->value = value;
		}
	} TX_ONABORT {
		failed = 1;
	} TX_END
	return failed;
}

static void walk(TOID(struct node) node)
{
	if (TOID_IS_NULL(node))
		return;
	walk(D_RO(node)->children[0]);
	printf("%" PRIu64 " -> %" PRIu64 "\n", D_RO(node)->key, D_RO(node)->value);
	walk(D_RO(node)->children[1]);
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	PMEMobjpool *pool = pmemobj_create(argv[1], POBJ_LAYOUT_NAME(tree), PMEMOBJ_MIN_POOL, 0600);
	if (!pool) {
		fprintf(stderr, "%s\n", pmemobj_errormsg());
		return 1;
	}
	TOID(struct tree) tree = POBJ_ROOT(pool, struct tree);
	const uint64_t keys[] = { 5, 2, 8, 1, 9, 2 };
	for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
		if (insert(pool, tree, keys[i], keys[i] * keys[i]))
			return 1;
	walk(D_RO(tree)->root);
	pmemobj_close(pool);
	return 0;
}
