//! Figure 6 of the paper (kv and unixkv, 1 M pairs of 32 bits, in one data object and in several), and kv beside other stores.

use crate::chained::Chained;
use crate::keys::{key, order, timed};
use crate::peer::Peer;
use anyhow::{Context, Result};
use bench::row::{Row, Where};
use kv::{Options, Region, Store};
use libtwz::Rights;
use std::path::Path;
use unixkv::UnixKv;

/// Data objects or files of the "several" rows.
const SEVERAL: u64 = 8;

/// Inserts and looks up, in nanoseconds an operation.
type Pair = (f64, f64);

fn kv_round(count: u64, objects: u64) -> Result<Pair> {
    let store = Store::create(&Options { data_bytes: 256 << 20, ..Options::default() })?;
    let regions = (1..objects).map(|_| store.add_region(Rights::empty())).collect::<kv::Result<Vec<_>>>()?;
    let regions: Vec<Region> = std::iter::once(Region(0)).chain(regions).collect();
    let insert = timed(count, || -> kv::Result<()> {
        for (number, region) in (0..count).zip(regions.iter().copied().cycle()) {
            let key = key(number);
            store.put_in(region, &key.to_le_bytes(), &key.wrapping_add(1).to_le_bytes())?;
        }
        Ok(())
    })?;
    Ok((insert, kv_lookup(&store, count)?))
}

fn kv_lookup(store: &Store, count: u64) -> Result<f64> {
    timed(count, || -> Result<()> {
        for number in order(count).take(usize::try_from(count)?) {
            let key = key(number);
            let value = store.get(&key.to_le_bytes())?.context("a key that was put")?;
            anyhow::ensure!(value.word(0) == u64::from(key.wrapping_add(1)), "a wrong value");
        }
        Ok(())
    })
}

fn unixkv_round(folder: &Path, count: u64, files: u64) -> Result<Pair> {
    let folder = tempfile::tempdir_in(folder)?;
    let mut store = UnixKv::open(folder.path(), 256 << 20, true)?;
    let several = usize::try_from(files)?;
    store.add_file(several - 1)?;
    let insert = timed(count, || -> Result<()> {
        for (number, file) in (0..count).zip((0..several).cycle()) {
            let key = key(number);
            store.put_in(file, &key.to_le_bytes(), &key.wrapping_add(1).to_le_bytes())?;
        }
        Ok(())
    })?;
    let lookup = timed(count, || -> Result<()> {
        for number in order(count).take(usize::try_from(count)?) {
            let key = key(number);
            let value = store.get(&key.to_le_bytes()).context("a key that was put")?;
            anyhow::ensure!(value == key.wrapping_add(1).to_le_bytes(), "a wrong value");
        }
        Ok(())
    })?;
    Ok((insert, lookup))
}

/// Figure 6.
pub(crate) fn figure_6(data: &Path, count: u64, rounds: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (objects, what) in [(1, "1 data object"), (SEVERAL, "8 data objects")] {
        let mut ours: [Vec<f64>; 2] = Default::default();
        let mut theirs: [Vec<f64>; 2] = Default::default();
        for round in 0..=rounds {
            let (a, b) = (kv_round(count, objects)?, unixkv_round(data, count, objects)?);
            if round > 0 {
                // The first round warms both sides.
                ours[0].push(a.0);
                ours[1].push(a.1);
                theirs[0].push(b.0);
                theirs[1].push(b.1);
            }
        }
        for (number, operation) in ["insert", "lookup"].into_iter().enumerate() {
            let name = |side: &str| format!("{operation}, {what}: {side}");
            let row = |side, samples| Row::new("figure 6", &name(side), Where::Hosted, "ns", samples);
            rows.push(row("kv", &ours[number]).beside("unixkv", &theirs[number]).ratio_at_most(1.0));
            rows.push(row("unixkv", &theirs[number]));
        }
    }
    Ok(rows)
}

/// kv beside stores that a user would pick instead.
pub(crate) fn beside_others(folder: &Path, data: &Path, count: u64, rounds: usize) -> Result<Vec<Row>> {
    let mut pmdk = Peer::pmdk(folder, data).context("libpmemobj-dev is needed")?;
    let mut lmdb = Peer::lmdb(folder, data).context("liblmdb-dev is needed")?;
    let store = Store::create(&Options { data_bytes: 256 << 20, ..Options::default() })?;
    let mut raw = Chained::new(count);
    for number in 0..count {
        let key = key(number);
        store.put(&key.to_le_bytes(), &key.wrapping_add(1).to_le_bytes())?;
        raw.insert(key, key.wrapping_add(1));
    }
    pmdk.measure("hash_insert", count)?;
    lmdb.measure("fill", count)?;
    let mut lookups: [Vec<f64>; 4] = Default::default();
    let mut inserts: [Vec<f64>; 3] = Default::default();
    let few = (count / 20).max(1);
    let mut next = count;
    for _ in 0..rounds {
        lookups[0].push(kv_lookup(&store, count)?);
        lookups[1].push(timed(count, || -> Result<()> {
            for number in order(count).take(usize::try_from(count)?) {
                let key = key(number);
                anyhow::ensure!(raw.get(key) == Some(key.wrapping_add(1)), "a wrong value");
            }
            Ok(())
        })?);
        lookups[2].push(lmdb.measure("get", count)?);
        lookups[3].push(pmdk.measure("hash_get", count)?);
        inserts[0].push(timed(few, || -> kv::Result<()> {
            for number in next..next + few {
                let key = key(number);
                store.put(&key.to_le_bytes(), &key.wrapping_add(1).to_le_bytes())?;
            }
            Ok(())
        })?);
        next += few;
        inserts[1].push(pmdk.measure("hash_insert", few)?);
        inserts[2].push(lmdb.measure("insert", few)?);
    }
    let row = |name: &str, ours: &[f64], peer: &str, theirs: &[f64]| {
        Row::new("kv", name, Where::Hosted, "ns", ours).beside(peer, theirs)
    };
    Ok(vec![
        row("lookup, against a raw chained hash", &lookups[0], "raw chained hash", &lookups[1])
            .ratio_at_most(1.3),
        row("lookup, against LMDB", &lookups[0], "LMDB", &lookups[2]).ratio_at_most(0.2),
        row("lookup, against PMDK", &lookups[0], "PMDK hashmap_tx", &lookups[3]).ratio_at_most(0.3),
        row("durable insert, against PMDK", &inserts[0], "PMDK hashmap_tx", &inserts[1]).ratio_at_most(0.1),
        row("durable insert, against LMDB", &inserts[0], "LMDB", &inserts[2]),
    ])
}
