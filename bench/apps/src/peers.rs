//! The peers in C: PMDK's example maps, and LMDB.

use bench::peer::Peer;
use std::path::Path;

/// PMDK's hash map and red-black tree.
pub(crate) fn pmdk(folder: &Path, data: &Path) -> Peer {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/pmdk.c");
    Peer::pmdk(source, &["hashmap/hashmap_tx.c", "tree_map/rbtree_map.c"], folder, data)
}

/// LMDB.
pub(crate) fn lmdb(folder: &Path, data: &Path) -> Peer {
    Peer::lmdb(concat!(env!("CARGO_MANIFEST_DIR"), "/peers/lmdb.c"), folder, data)
}

/// LMDB with several threads.
pub(crate) fn lmdb_threads(folder: &Path, data: &Path) -> Peer {
    Peer::lmdb(concat!(env!("CARGO_MANIFEST_DIR"), "/peers/ycsb.c"), folder, data)
}
