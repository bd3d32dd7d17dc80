//! What is measured: the same rows in a Linux process and, by `apps/src/bin/libbench`, inside Twizzler.

/// What is measured: ours against a peer's operation, and what the ratio should be.
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) ours: (&'static str, u32),
    pub(crate) peer: Option<(&'static str, &'static str, u32)>,
    pub(crate) count: u64,
    pub(crate) aim: Aim,
}

/// What must hold.
#[derive(Clone, Copy)]
pub(crate) enum Aim {
    Ratio(f64),
    Nanoseconds(f64),
    None,
}

pub(crate) const PMDK: &str = "PMDK";
pub(crate) const LMDB: &str = "LMDB";
/// The peer that is measured by this process itself (`std_maps.rs`).
pub(crate) const STD: &str = "std, in memory";

const fn plan(
    name: &'static str,
    ours: (&'static str, u32),
    peer: Option<(&'static str, &'static str, u32)>,
    count: u64,
    aim: Aim,
) -> Plan {
    Plan { name, ours, peer, count, aim }
}

/// All rows.
pub(crate) const PLANS: &[Plan] = &[
    plan(
        "intra-object translation",
        ("translate", 0),
        Some((PMDK, "translate", 0)),
        20_000_000,
        Aim::Nanoseconds(0.6),
    ),
    plan("pointer chase, 1 object", ("chase", 1), Some((PMDK, "chase", 1)), 5_000_000, Aim::Ratio(0.4)),
    plan(
        "pointer chase, 1 object, against raw",
        ("chase", 1),
        Some(("raw pointers (C)", "raw_chase", 0)),
        5_000_000,
        Aim::Ratio(1.5),
    ),
    plan("cross-object chase, 4 objects", ("chase", 4), Some((PMDK, "chase", 4)), 5_000_000, Aim::Ratio(0.3)),
    plan(
        "cross-object chase, 4 objects, against two loads",
        ("chase", 4),
        Some(("a table of bases (C)", "table_chase", 4)),
        5_000_000,
        Aim::None,
    ),
    plan(
        "cross-object chase, 16 objects",
        ("chase", 16),
        Some((PMDK, "chase", 16)),
        5_000_000,
        Aim::Ratio(0.4),
    ),
    plan(
        "cross-object chase, 64 objects",
        ("chase", 64),
        Some((PMDK, "chase", 64)),
        5_000_000,
        Aim::Ratio(0.6),
    ),
    plan(
        "the same, contents not coloured",
        ("chase_uncoloured", 64),
        Some((PMDK, "chase", 64)),
        5_000_000,
        Aim::None,
    ),
    plan(
        "first resolution of a mapped ID",
        ("first_resolution", 0),
        Some(("open+close", "open_close", 0)),
        2_000_000,
        Aim::Nanoseconds(10.0),
    ),
    plan(
        "first resolution of a mapped ID, against opening a file",
        ("first_resolution", 0),
        Some(("open+close", "open_close", 0)),
        2_000_000,
        Aim::Ratio(1.0 / 200.0),
    ),
    plan("TX of 1 x 8 B, durable", ("tx_put", 1), Some((PMDK, "tx_each", 1)), 100_000, Aim::Ratio(0.5)),
    plan(
        "TX of 1 x 8 B, without flush",
        ("tx_no_flush", 1),
        Some((PMDK, "tx_each", 1)),
        100_000,
        Aim::Ratio(0.1),
    ),
    plan(
        "TX of 1 x 8 B, durable, visible at once",
        ("tx_each", 1),
        Some((PMDK, "tx_each", 1)),
        100_000,
        Aim::None,
    ),
    plan("TX of 16 x 8 B", ("tx_put", 16), Some((PMDK, "tx_each", 16)), 10_000, Aim::Ratio(0.35)),
    plan(
        "TX of 16 x 8 B, each recorded before it is written",
        ("tx_each", 16),
        Some((PMDK, "tx_each", 16)),
        10_000,
        Aim::None,
    ),
    plan(
        "TX of 16 x 8 B, record-first",
        ("tx_first", 16),
        Some((PMDK, "tx_first", 16)),
        10_000,
        Aim::Ratio(0.10),
    ),
    plan(
        "TX of 256 x 8 B, record-first",
        ("tx_first", 256),
        Some((PMDK, "tx_first", 256)),
        1_000,
        Aim::Ratio(0.04),
    ),
    plan(
        "TX of 256 x 8 B, record-first, adjacent",
        ("tx_adjacent", 256),
        Some((PMDK, "tx_adjacent", 256)),
        1_000,
        Aim::Ratio(0.04),
    ),
    plan("TX of 16 x 8 B, by puts", ("tx_put", 16), Some((PMDK, "tx_first", 16)), 10_000, Aim::Ratio(0.10)),
    plan("TX of 256 x 8 B, by puts", ("tx_put", 256), Some((PMDK, "tx_first", 256)), 1_000, Aim::Ratio(0.04)),
    plan(
        "hash map, durable insert",
        ("hash_insert", 0),
        Some(("PMDK hashmap_tx", "hash_insert", 0)),
        20_000,
        Aim::Ratio(0.10),
    ),
    plan(
        "ordered map, durable insert",
        ("tree_insert", 0),
        Some(("PMDK btree_map", "btree_insert", 0)),
        20_000,
        Aim::Ratio(0.25),
    ),
    plan(
        "ordered map, durable insert, against rbtree_map",
        ("tree_insert", 0),
        Some(("PMDK rbtree_map", "rbtree_insert", 0)),
        20_000,
        Aim::Ratio(0.25),
    ),
    plan(
        "ordered map, durable insert, against LMDB",
        ("tree_insert", 0),
        Some((LMDB, "insert", 0)),
        10_000,
        Aim::None,
    ),
    plan(
        "hash map, durable insert, against std",
        ("hash_insert", 0),
        Some((STD, "hash_insert", 0)),
        20_000,
        Aim::None,
    ),
    plan(
        "ordered map, durable insert, against std",
        ("tree_insert", 0),
        Some((STD, "tree_insert", 0)),
        20_000,
        Aim::None,
    ),
    plan("hash map, look-up", ("hash_get", 0), Some((STD, "hash_get", 0)), 500_000, Aim::None),
    plan("ordered map, look-up", ("tree_get", 0), Some((STD, "tree_get", 0)), 500_000, Aim::None),
    plan(
        "red-black tree, durable insert",
        ("rb_insert", 0),
        Some(("PMDK rbtree_map", "rbtree_insert", 0)),
        10_000,
        Aim::None,
    ),
    plan("transactional alloc, 48 B", ("tx_alloc", 0), Some((PMDK, "tx_alloc", 0)), 50_000, Aim::Ratio(0.6)),
];
