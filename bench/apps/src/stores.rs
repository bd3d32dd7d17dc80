//! Figure 6 of the paper (kv and unixkv, 1 M pairs of 32 bits, in one data object and in several), and kv beside other stores.
//!
//! unixkv has kv's table, records, locks, prefetches and fences, and keeps the same promises as far as files can (`apps/unixkv` says what differs), and both
//! are measured in pages that are present, as well as in new ones. So Figure 6 compares ways to reach data: persistent pointers through an object's FOT, and (file, offset) through a table of
//! the process.

use crate::both::{Both, FIGURE_6, OBJECTS, PRESENT};
use crate::chained::Chained;
use crate::ours::{Failed, PAIR_BYTES, Pages, Pair, key, kv_lookup, kv_round, kv_store, order};
use crate::peers;
use crate::timed::{Each, timed};
use anyhow::{Context, Result};
use bench::peer::Peer;
use bench::row::{Row, Where};
use kv::Store;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use unixkv::UnixKv;

/// Looks all pairs up, many at once.
fn kv_lookup_many(store: &Store, count: u64) -> Result<Each> {
    timed(count, || -> Result<()> {
        let mut wrong = 0;
        store.get_many(order(count).map(|number| key(number).to_le_bytes()), |key, value| {
            let right = u64::from(u32::from_le_bytes(key).wrapping_add(1));
            wrong += u64::from(value.is_none_or(|value| value.word(0) != right));
            Ok(())
        })?;
        anyhow::ensure!(wrong == 0, "{wrong} keys have not the value that was put");
        Ok(())
    })
}

/// One look-up after the other, in a map of this process's memory.
fn plain_lookup(count: u64, get: impl Fn(u32) -> Option<u32>) -> Result<Each> {
    timed(count, || {
        order(count).try_for_each(|number| {
            let key = key(number);
            anyhow::ensure!(get(key) == Some(key.wrapping_add(1)), "a wrong value");
            Ok(())
        })
    })
}

/// As [`kv_lookup_many`], in the raw chained hash.
fn chained_lookup_many(raw: &Chained, count: u64) -> Result<Each> {
    timed(count, || {
        let mut wrong = 0;
        raw.get_many(order(count).map(key), |key, value| {
            wrong += u64::from(value != Some(key.wrapping_add(1)));
        });
        anyhow::ensure!(wrong == 0, "{wrong} keys have not the value that was put");
        Ok(())
    })
}

/// Looks all pairs up, each key known only when the value before is: what one look-up takes, where [`kv_lookup`] says how many there are in a second.
fn kv_lookup_in_turn(store: &Store, count: u64) -> Result<Each> {
    in_turn(count, |key| Ok(store.get(&key.to_le_bytes())?.map(|value| value.word(0))))
}

/// Nanoseconds of `get`, for all keys, each made of what the one before found.
fn in_turn(count: u64, mut get: impl FnMut(u32) -> Result<Option<u64>>) -> Result<Each> {
    timed(count, || -> Result<()> {
        let mut at = 0;
        for _ in 0..count {
            let key = key(at);
            let value = get(key)?.context("a key that was put")?;
            // The step of `order`, if the value is right, which no compiler knows.
            at = (at + 7_368_786 + u64::from(value.wrapping_sub(u64::from(key)) == 1)) % count;
        }
        Ok(())
    })
}

fn unixkv_round(folder: &Path, count: u64, files: u64, pages: Pages) -> Result<Pair> {
    let folder = tempfile::tempdir_in(folder)?;
    let store = UnixKv::open(folder.path(), 256 << 20, true)?;
    let several = usize::try_from(files)?;
    store.add_file(several - 1)?;
    if pages == Pages::Present {
        let bytes = |pairs: u64| usize::try_from(pairs * PAIR_BYTES);
        store.populate(bytes(count)?, bytes(count / files)?);
    }
    let insert = timed(count, || -> Result<()> {
        for (number, file) in (0..count).zip((0..several).cycle()) {
            let key = key(number);
            store.put_in(file, &key.to_le_bytes(), &key.wrapping_add(1).to_le_bytes())?;
        }
        Ok(())
    })?;
    // As `kv_lookup`.
    let lookup = timed(count, || {
        order(count).try_for_each(|number| -> Result<()> {
            let key = key(number);
            let value = store.get(&key.to_le_bytes())?;
            let right = value.is_some_and(|value| value.word(0) == u64::from(key.wrapping_add(1)));
            if right { Ok(()) } else { Err(Failed::WrongValue(key).into()) }
        })
    })?;
    Ok((insert, lookup))
}

/// Figure 6; `guest` does the same inside.
pub(crate) fn figure_6(guest: &mut Peer, data: &Path, count: u64, rounds: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (objects, what) in OBJECTS {
        let [mut kv, mut unixkv, mut present, mut unix_present]: [Both; 4] = Default::default();
        for round in 0..=rounds {
            // The first round warms all sides.
            let put = |both: &mut Both, pair: Pair, inside: [Option<f64>; 2]| {
                if round > 0 {
                    both.put(pair, inside);
                }
            };
            let inside = guest.measure_all(format_args!("kv {objects} new"), count)?;
            put(&mut kv, kv_round(count, objects, Pages::New)?, inside);
            put(&mut unixkv, unixkv_round(data, count, objects, Pages::New)?, [None; 2]);
            let inside = guest.measure_all(format_args!("kv {objects} present"), count)?;
            put(&mut present, kv_round(count, objects, Pages::Present)?, inside);
            put(&mut unix_present, unixkv_round(data, count, objects, Pages::Present)?, [None; 2]);
        }
        let row = |operation: &str, side, samples: &[f64]| {
            Row::new(FIGURE_6, &format!("{operation}, {what}: {side}"), Where::Hosted, "ns", samples)
        };
        rows.push(
            row(PRESENT, "kv", &present.cpu[0]).beside("unixkv", &unix_present.cpu[0]).ratio_at_most(1.0),
        );
        for (number, operation) in ["insert", "lookup"].into_iter().enumerate() {
            let (ours, theirs) = (&kv.cpu[number], &unixkv.cpu[number]);
            rows.push(row(operation, "kv", ours).beside("unixkv", theirs).ratio_at_most(1.0));
            rows.push(row(operation, "unixkv", theirs));
        }
        rows.extend(kv.inside(guest, &present, FIGURE_6, &format!("{what}: kv")));
    }
    Ok(rows)
}

/// Two passes of a look-up loop: the first finds in the caches what the other stores left there, the second what a loop that runs finds.
#[derive(Default)]
struct Passes {
    first: Vec<f64>,
    second: Vec<f64>,
}

impl Passes {
    fn measure(&mut self, mut pass: impl FnMut() -> Result<f64>) -> Result<()> {
        self.first.push(pass()?);
        self.second.push(pass()?);
        Ok(())
    }

    fn measure_peer(&mut self, peer: &mut Peer, what: &str, count: u64) -> Result<()> {
        peer.measure(what, count, &mut self.first)?;
        peer.measure(what, count, &mut self.second)
    }
}

/// kv beside stores that a user would pick instead.
pub(crate) fn beside_others(folder: &Path, data: &Path, count: u64, rounds: usize) -> Result<Vec<Row>> {
    let (mut pmdk, mut lmdb) = (peers::pmdk(folder, data), peers::lmdb(folder, data));
    let (store, _) = kv_store(1)?;
    let few = (count / 20).max(1);
    // PMDK's pool is present, too (`prefault.at_create`): what is compared are inserts, not who takes whose first touch of a page.
    let pairs = count + few * rounds as u64;
    store.populate(pairs * PAIR_BYTES, pairs * PAIR_BYTES)?;
    let mut raw = Chained::new(count);
    let (mut std_hash, mut std_tree) = (HashMap::new(), BTreeMap::new());
    for number in 0..count {
        let key = key(number);
        store.put(&key.to_le_bytes(), &key.wrapping_add(1).to_le_bytes())?;
        raw.insert(key, key.wrapping_add(1));
        std_hash.insert(key, key.wrapping_add(1));
        std_tree.insert(key, key.wrapping_add(1));
    }
    let mut ignored = Vec::new();
    pmdk.measure("hash_insert", count, &mut ignored)?;
    lmdb.measure("fill", count, &mut ignored)?;
    let [mut kv_in_turn, mut kv_many] = [const { Vec::new() }; 2];
    let [mut chained_in_turn, mut chained_many] = [const { Vec::new() }; 2];
    let [mut kv, mut chained, mut lmdb_get, mut pmdk_get]: [Passes; 4] = Default::default();
    let mut std_get: [Passes; 2] = Default::default();
    let mut inserts: [Vec<f64>; 3] = Default::default();
    let mut next = count;
    for _ in 0..rounds {
        kv.measure(|| Ok(kv_lookup(&store, count)?.cpu))?;
        chained.measure(|| Ok(plain_lookup(count, |key| raw.get(key))?.cpu))?;
        std_get[0].measure(|| Ok(plain_lookup(count, |key| std_hash.get(&key).copied())?.cpu))?;
        std_get[1].measure(|| Ok(plain_lookup(count, |key| std_tree.get(&key).copied())?.cpu))?;
        lmdb_get.measure_peer(&mut lmdb, "get", count)?;
        pmdk_get.measure_peer(&mut pmdk, "hash_get", count)?;
        kv_in_turn.push(kv_lookup_in_turn(&store, count)?.cpu);
        chained_in_turn.push(in_turn(count, |key| Ok(raw.get(key).map(u64::from)))?.cpu);
        kv_many.push(kv_lookup_many(&store, count)?.cpu);
        chained_many.push(chained_lookup_many(&raw, count)?.cpu);
        let insert = timed(few, || -> kv::Result<()> {
            for number in next..next + few {
                let key = key(number);
                store.put(&key.to_le_bytes(), &key.wrapping_add(1).to_le_bytes())?;
            }
            Ok(())
        })?;
        inserts[0].push(insert.cpu);
        next += few;
        pmdk.measure("hash_insert", few, &mut inserts[1])?;
        lmdb.measure("insert", few, &mut inserts[2])?;
    }
    let row = |name: &str, ours: &[f64]| Row::new("kv", name, Where::Hosted, "ns", ours);
    let hashmap = "PMDK hashmap_tx";
    Ok(vec![
        row("lookup, against a raw chained hash", &kv.second)
            .beside("raw chained hash", &chained.second)
            .ratio_at_most(1.3),
        lmdb.put_beside(row("lookup, against LMDB", &kv.second), "LMDB", &lmdb_get.second).ratio_at_most(0.2),
        pmdk.put_beside(row("lookup, against PMDK", &kv.second), hashmap, &pmdk_get.second)
            .ratio_at_most(0.3),
        row("lookup, against std's hash map", &kv.second)
            .beside("std HashMap, in memory", &std_get[0].second),
        row("lookup, against std's ordered map", &kv.second)
            .beside("std BTreeMap, in memory", &std_get[1].second),
        row("lookup, the first pass after other stores ran, against a raw chained hash", &kv.first)
            .beside("raw chained hash", &chained.first),
        pmdk.put_beside(
            row("lookup, the first pass after other stores ran, against PMDK", &kv.first),
            hashmap,
            &pmdk_get.first,
        ),
        row("lookup, each waiting for the one before, against a raw chained hash", &kv_in_turn)
            .beside("raw chained hash", &chained_in_turn),
        // Without aims: those are for one look-up after the other, and the other peers have nothing that looks many up.
        row("lookup, many keys at once, against a raw chained hash that fetches likewise", &kv_many)
            .beside("raw chained hash, 16 keys at once", &chained_many),
        row("lookup, many keys at once, against one look-up after the other", &kv_many)
            .beside("raw chained hash", &chained.second),
        pmdk.put_beside(row("durable insert, against PMDK", &inserts[0]), hashmap, &inserts[1])
            .ratio_at_most(0.1),
        lmdb.put_beside(row("durable insert, against LMDB", &inserts[0]), "LMDB", &inserts[2]),
    ])
}
