/*
 * A persistent map from numbers to prices, with a title. The same as libtwz/examples/map.rs; libpmemobj has no maps or
 * strings of its own, so they are here.
 */
#include <inttypes.h>
#include <libpmemobj.h>
#include <stdio.h>
#include <string.h>

#define BUCKETS 64

POBJ_LAYOUT_BEGIN(shop);
POBJ_LAYOUT_ROOT(shop, struct shop);
POBJ_LAYOUT_TOID(shop, struct entry);
POBJ_LAYOUT_TOID(shop, char);
POBJ_LAYOUT_END(shop);

struct entry {
	TOID(struct entry) next;
	uint64_t key;
	uint64_t value;
};

struct shop {
	TOID(struct entry) buckets[BUCKETS];
	TOID(char) title;
};

/* To be called in a transaction. */
static void set_title(TOID(struct shop) shop, const char *text)
{
	size_t bytes = strlen(text) + 1;
	TOID(char) new = TX_ALLOC(char, bytes);
	memcpy(D_RW(new), text, bytes);
	TX_ADD_FIELD(shop, title);
	if (!TOID_IS_NULL(D_RO(shop)->title))
		TX_FREE(D_RO(shop)->title);
	D_RW(shop)->title = new;
}

/* To be called in a transaction. */
static void set_price(TOID(struct shop) shop, uint64_t key, uint64_t value)
{
	TOID(struct entry) *bucket = &D_RW(shop)->buckets[key * 0x9e3779b97f4a7c15ULL >> 58];
	for (TOID(struct entry) at = *bucket; !TOID_IS_NULL(at); at = D_RO(at)->next) {
		if (D_RO(at)->key == key) {
			TX_ADD_FIELD(at, value);
			D_RW(at)->value = value;
			return;
		}
	}
	TOID(struct entry) new = TX_NEW(struct entry);
	D_RW(new)->key = key;
	D_RW(new)->value = value;
	D_RW(new)->next = *bucket;
	pmemobj_tx_add_range_direct(bucket, sizeof(*bucket));
	*bucket = new;
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	PMEMobjpool *pool = pmemobj_create(argv[1], POBJ_LAYOUT_NAME(shop), PMEMOBJ_MIN_POOL, 0600);
	if (!pool) {
		fprintf(stderr, "%s\n", pmemobj_errormsg());
		return 1;
	}
	TOID(struct shop) shop = POBJ_ROOT(pool, struct shop);
	int failed = 0;
	TX_BEGIN(pool) {
		set_title(shop, "corner shop");
		set_price(shop, 17, 250);
		set_price(shop, 18, 399);
	} TX_ONABORT {
		failed = 1;
	} TX_END
	TX_BEGIN(pool) {
		set_price(shop, 17, 275);
	} TX_ONABORT {
		failed = 1;
	} TX_END
	for (int i = 0; i < BUCKETS; i++) {
		for (TOID(struct entry) at = D_RO(shop)->buckets[i]; !TOID_IS_NULL(at); at = D_RO(at)->next)
			printf("%s: article %" PRIu64 " costs %" PRIu64 " cents\n", D_RO(D_RO(shop)->title),
				D_RO(at)->key, D_RO(at)->value);
	}
	pmemobj_close(pool);
	return failed;
}
