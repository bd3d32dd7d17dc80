/* A persistent linked list by hand: push, print, remove. The same as libtwz/examples/list.rs. */
#include <inttypes.h>
#include <libpmemobj.h>
#include <stdio.h>

POBJ_LAYOUT_BEGIN(list);
POBJ_LAYOUT_ROOT(list, struct list);
POBJ_LAYOUT_TOID(list, struct node);
POBJ_LAYOUT_END(list);

struct node {
	TOID(struct node) next;
	uint64_t value;
};

struct list {
	TOID(struct node) head;
};

static int push(PMEMobjpool *pool, TOID(struct list) list, uint64_t value)
{
	int failed = 0;
	TX_BEGIN(pool) {
		TOID(struct node) node = TX_NEW(struct node);
		D_RW(node)->value = value;
		D_RW(node)->next = D_RO(list)->head;
		TX_ADD_FIELD(list, head);
		D_RW(list)->head = node;
	} TX_ONABORT {
		failed = 1;
	} TX_END
	return failed;
}

static int pop(PMEMobjpool *pool, TOID(struct list) list, uint64_t *value)
{
	volatile int found = 0;
	TX_BEGIN(pool) {
		TOID(struct node) node = D_RO(list)->head;
		if (!TOID_IS_NULL(node)) {
			*value = D_RO(node)->value;
			TX_ADD_FIELD(list, head);
			D_RW(list)->head = D_RO(node)->next;
			TX_FREE(node);
			found = 1;
		}
	} TX_ONABORT {
		found = -1;
	} TX_END
	return found;
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	PMEMobjpool *pool = pmemobj_create(argv[1], POBJ_LAYOUT_NAME(list), PMEMOBJ_MIN_POOL, 0600);
	if (!pool) {
		fprintf(stderr, "%s\n", pmemobj_errormsg());
		return 1;
	}
	TOID(struct list) list = POBJ_ROOT(pool, struct list);
	for (uint64_t value = 1; value <= 3; value++)
		if (push(pool, list, value))
			return 1;
	for (TOID(struct node) at = D_RO(list)->head; !TOID_IS_NULL(at); at = D_RO(at)->next)
		printf("%" PRIu64 "\n", D_RO(at)->value);
	uint64_t value = 0;
	if (pop(pool, list, &value) == 1)
		printf("popped Some(%" PRIu64 ")\n", value);
	pmemobj_close(pool);
	return 0;
}
