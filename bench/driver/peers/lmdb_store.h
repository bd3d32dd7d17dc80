/* A store of LMDB's that leaves no file behind. */
#ifndef LMDB_STORE_H
#define LMDB_STORE_H
#include "peer.h"
#include <lmdb.h>

static inline void must(int error, const char *what)
{
	if (error) {
		fprintf(stderr, "%s: %s\n", what, mdb_strerror(error));
		exit(1);
	}
}

static inline MDB_env *open_store(const char *directory, size_t bytes, unsigned flags, MDB_dbi *database)
{
	char path[512];
	MDB_env *environment;
	MDB_txn *txn;
	snprintf(path, sizeof path, "%s/lmdb-%d", directory, getpid());
	must(mdb_env_create(&environment), "create");
	must(mdb_env_set_mapsize(environment, bytes), "size");
	must(mdb_env_open(environment, path, MDB_NOSUBDIR, 0600), "open");
	unlink(path);
	strcat(path, "-lock");
	unlink(path);
	must(mdb_txn_begin(environment, NULL, 0, &txn), "begin");
	must(mdb_dbi_open(txn, NULL, flags, database), "open");
	must(mdb_txn_commit(txn), "commit");
	return environment;
}
#endif
