/*
 * LMDB under the mixes of src/ycsb.rs: "fill 1 <keys>", "draw 1 <operations>", then "mix<updates in percent> <threads> <operations>" in,
 * nanoseconds an operation on the clock on the wall out. Draws are those of src/ycsb.rs.
 */
#include "lmdb_store.h"
#include <math.h>
#include <pthread.h>

#define SKEW 0.99
#define VALUE_BYTES 100
#define MOST_THREADS 16

struct draw { uint64_t number, random; };
struct part { const struct draw *first, *end; uint64_t updates; };

static MDB_env *environment;
static MDB_dbi database;
static uint64_t keys;
static struct draw *draws;
static uint64_t draw_count;

static uint32_t key(uint64_t number)
{
	return (uint32_t)(number * 2654435761u);
}

static void put(uint64_t number, int byte)
{
	uint8_t value[VALUE_BYTES];
	uint32_t k = key(number);
	MDB_val mk = { sizeof k, &k }, mv = { sizeof value, value };
	MDB_txn *txn;
	memset(value, byte, sizeof value);
	must(mdb_txn_begin(environment, NULL, 0, &txn), "begin");
	must(mdb_put(txn, database, &mk, &mv, 0), "put");
	must(mdb_txn_commit(txn), "commit");
}

static double wall(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

/* Zipfian numbers, as src/ycsb.rs draws them. */
static void draw(uint64_t count)
{
	double *sums = malloc(keys * sizeof *sums), sum = 0;
	uint64_t state = 88172645463325252ULL;
	for (uint64_t rank = 0; rank < keys; rank++)
		sums[rank] = sum += 1 / pow(rank + 1, SKEW);
	free(draws);
	draws = malloc(count * sizeof *draws);
	draw_count = count;
	for (uint64_t i = 0; i < count; i++) {
		double at = (next_random(&state) >> 11) / 9007199254740992.0 * sum;
		uint64_t low = 0, high = keys - 1;
		while (low < high) {
			uint64_t middle = (low + high) / 2;
			if (sums[middle] < at)
				low = middle + 1;
			else
				high = middle;
		}
		draws[i].number = low;
		draws[i].random = next_random(&state);
	}
	free(sums);
}

static void *work(void *argument)
{
	const struct part *part = argument;
	MDB_txn *reader;
	must(mdb_txn_begin(environment, NULL, MDB_RDONLY, &reader), "begin");
	mdb_txn_reset(reader);
	for (const struct draw *d = part->first; d < part->end; d++) {
		if (d->random % 100 < part->updates) {
			put(d->number, d->random >> 8 & 0xff);
			continue;
		}
		/* A snapshot of its own for each, as kv's reads see what was put before. */
		uint8_t value[VALUE_BYTES];
		uint32_t k = key(d->number);
		MDB_val mk = { sizeof k, &k }, mv;
		must(mdb_txn_renew(reader), "renew");
		must(mdb_get(reader, database, &mk, &mv), "get");
		memcpy(value, mv.mv_data, sizeof value);
		mdb_txn_reset(reader);
		if (value[0] != value[VALUE_BYTES - 1])
			exit(3);
	}
	mdb_txn_abort(reader);
	return NULL;
}

static double mix(uint64_t updates, uint64_t threads, uint64_t count)
{
	pthread_t running[MOST_THREADS];
	struct part parts[MOST_THREADS];
	uint64_t each = (count + threads - 1) / threads;
	double start = wall();
	for (uint64_t i = 0; i < threads; i++) {
		uint64_t first = i * each < count ? i * each : count, end = first + each < count ? first + each : count;
		parts[i] = (struct part){ draws + first, draws + end, updates };
		if (pthread_create(&running[i], NULL, work, &parts[i]))
			exit(1);
	}
	for (uint64_t i = 0; i < threads; i++)
		pthread_join(running[i], NULL);
	return wall() - start;
}

int main(int argc, char **argv)
{
	environment = open_store(argc > 1 ? argv[1] : "/dev/shm", 512UL << 20, 0, &database);
	char what[32];
	uint64_t threads, n;
	while (scanf("%31s %" SCNu64 " %" SCNu64, what, &threads, &n) == 3) {
		double start = wall();
		if (!strcmp(what, "fill")) {
			for (keys = 0; keys < n; keys++)
				put(keys, 1);
			answer(wall() - start, n);
		} else if (!strcmp(what, "draw") && keys) {
			draw(n);
			answer(wall() - start, n);
		} else if (!strcmp(what, "mix0") || !strcmp(what, "mix5") || !strcmp(what, "mix50")) {
			if (!threads || threads > MOST_THREADS || n > draw_count)
				return 2;
			answer(mix(strtoull(what + 3, NULL, 10), threads, n), n);
		} else {
			return 2;
		}
	}
	return 0;
}
