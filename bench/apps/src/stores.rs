//! Figure 6 of the paper (kv and unixkv, 1 M pairs of 32 bits, in one data object and in several), and kv beside other stores.
//!
//! unixkv has kv's table, records, locks, prefetches and fences, and keeps the same promises as far as files can (`apps/unixkv` says what differs), and both
//! are measured in pages that are present, as well as in new ones. So Figure 6 compares ways to reach data: persistent pointers through an object's FOT, and (file, offset) through a table of
//! the process; and, of inserts, ways to make it durable: libtwz's choice, and lines that are flushed.

use crate::both::{Both, FIGURE_6, OBJECTS, PRESENT};
use crate::chained::Chained;
use crate::ours::{Failed, PAIR_BYTES, Pages, Pair, key, kv_lookup, kv_round, kv_store, order};
use crate::peers;
use crate::timed::{Each, timed};
use anyhow::{Context, Result};
use bench::peer::Peer;
use bench::row::{Row, Where};
use bench::steady::{Outcome, Pairs, Steady, most};
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

/// Rows of [`figure_6`], and of [`beside_others`], that are measured in rounds of their own.
pub(crate) const FIGURE_6_SHARES: usize = 2 * OBJECTS.len();
pub(crate) const OTHERS_SHARES: usize = OTHERS.len() + 4;

/// Figure 6; `guest` does the same inside.
pub(crate) fn figure_6(
    guest: &mut Peer,
    steady: &mut Steady,
    data: &Path,
    count: u64,
    rounds: usize,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (objects, what) in OBJECTS {
        let mut both = |pages: Pages, word: &str| {
            let measured = steady.rounds(rounds, |round| {
                let inside = guest.measure_all(format_args!("kv {objects} {word}"), count)?;
                round.between();
                let kv = kv_round(count, objects, pages)?;
                round.between();
                anyhow::Ok([(kv, inside), (unixkv_round(data, count, objects, pages)?, [None; 2])])
            })?;
            anyhow::Ok(Both::of(measured))
        };
        let ([kv, unixkv], [present, unix_present]) =
            (both(Pages::New, "new")?, both(Pages::Present, "present")?);
        let row = |operation: &str, side, samples: &[f64]| {
            Row::new(FIGURE_6, &format!("{operation}, {what}: {side}"), Where::Hosted, "ns", samples)
        };
        rows.push(
            row(PRESENT, "kv", &present.cpu[0])
                .beside("unixkv", &unix_present.cpu[0])
                .ratio_at_most(1.0)
                .steadied(present.outcome),
        );
        for (number, operation) in ["insert", "lookup"].into_iter().enumerate() {
            let (ours, theirs) = (&kv.cpu[number], &unixkv.cpu[number]);
            let row = |side, samples: &[f64]| row(operation, side, samples).steadied(kv.outcome);
            rows.push(row("kv", ours).beside("unixkv", theirs).ratio_at_most(1.0));
            rows.push(row("unixkv", theirs));
        }
        rows.extend(kv.inside(guest, &present, FIGURE_6, &format!("{what}: kv")));
    }
    Ok(rows)
}

/// What kv's look-ups are put beside.
const OTHERS: [&str; 5] =
    ["raw chained hash", "std HashMap, in memory", "std BTreeMap, in memory", "LMDB", HASHMAP];
const HASHMAP: &str = "PMDK hashmap_tx";

/// Two passes of a look-up loop: the first finds in the caches what the other stores left there, the second what a loop that runs finds.
#[derive(Default)]
struct Passes {
    first: Vec<f64>,
    second: Vec<f64>,
}

impl Passes {
    fn put(&mut self, [first, second]: [Option<f64>; 2]) {
        self.first.extend(first);
        self.second.extend(second);
    }
}

/// kv's look-ups and another store's, in the same rounds.
#[derive(Default)]
struct Lookups {
    kv: Passes,
    other: Passes,
    outcome: Outcome,
}

/// One pass of a store's look-ups; None if the store is missing.
type Pass<'a> = &'a mut dyn FnMut() -> Result<Option<f64>>;

/// In each of the rounds, kv beside one store after the other.
fn lookups(
    steady: &mut Steady,
    rounds: usize,
    kv: Pass<'_>,
    mut others: [Pass<'_>; OTHERS.len()],
) -> Result<[Lookups; OTHERS.len()]> {
    let mut all: [Lookups; OTHERS.len()] = Default::default();
    let mut shares = OTHERS.map(|_| steady.share(rounds));
    for _ in 0..rounds {
        for ((other, share), lookups) in others.iter_mut().zip(&mut shares).zip(&mut all) {
            let (ours, theirs) = steady.round(share, |round| {
                let ours = [kv()?, kv()?];
                round.between();
                anyhow::Ok((ours, [other()?, other()?]))
            })?;
            lookups.kv.put(ours);
            lookups.other.put(theirs);
        }
    }
    for (lookups, share) in all.iter_mut().zip(shares) {
        lookups.outcome = steady.end(share);
    }
    Ok(all)
}

/// kv beside stores that a user would pick instead.
pub(crate) fn beside_others(
    steady: &mut Steady,
    folder: &Path,
    data: &Path,
    count: u64,
    rounds: usize,
) -> Result<Vec<Row>> {
    let (mut pmdk, mut lmdb) = (peers::pmdk(folder, data), peers::lmdb(folder, data));
    let (store, _) = kv_store(1)?;
    let few = (count / 20).max(1);
    // PMDK's pool is present, too (`prefault.at_create`): what is compared are inserts, not who takes whose first touch of a page. Beside each of two.
    let pairs = count + few * 2 * u64::try_from(most(rounds))?;
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
    let [beside_raw, beside_hash, beside_tree, beside_lmdb, beside_pmdk] = lookups(
        steady,
        rounds,
        &mut || Ok(Some(kv_lookup(&store, count)?.cpu)),
        [
            &mut || Ok(Some(plain_lookup(count, |key| raw.get(key))?.cpu)),
            &mut || Ok(Some(plain_lookup(count, |key| std_hash.get(&key).copied())?.cpu)),
            &mut || Ok(Some(plain_lookup(count, |key| std_tree.get(&key).copied())?.cpu)),
            &mut || Ok(lmdb.measure_all::<1>("get", count)?[0]),
            &mut || Ok(pmdk.measure_all::<1>("hash_get", count)?[0]),
        ],
    )?;
    let in_turn = Pairs::of(steady.rounds(rounds, |round| {
        let ours = kv_lookup_in_turn(&store, count)?.cpu;
        round.between();
        anyhow::Ok((ours, Some(in_turn(count, |key| Ok(raw.get(key).map(u64::from)))?.cpu)))
    })?);
    let many = Pairs::of(steady.rounds(rounds, |round| {
        let ours = kv_lookup_many(&store, count)?.cpu;
        round.between();
        anyhow::Ok((ours, Some(chained_lookup_many(&raw, count)?.cpu)))
    })?);
    // Last, since the stores grow by them.
    let mut next = count;
    let mut inserts = |peer: &mut Peer, what: &str| {
        let measured = steady.rounds(rounds, |round| {
            let ours = timed(few, || -> kv::Result<()> {
                for number in next..next + few {
                    let key = key(number);
                    store.put(&key.to_le_bytes(), &key.wrapping_add(1).to_le_bytes())?;
                }
                Ok(())
            })?;
            next += few;
            round.between();
            anyhow::Ok((ours.cpu, peer.measure_all::<1>(what, few)?[0]))
        })?;
        anyhow::Ok(Pairs::of(measured))
    };
    let (insert_pmdk, insert_lmdb) = (inserts(&mut pmdk, "hash_insert")?, inserts(&mut lmdb, "insert")?);
    let row = |name: &str, ours: &[f64]| Row::new("kv", name, Where::Hosted, "ns", ours);
    let second = |name: &str, of: &Lookups| row(name, &of.kv.second).steadied(of.outcome);
    let first = |what: &str, of: &Lookups| {
        let name = format!("lookup, the first pass after other stores ran, against {what}");
        row(&name, &of.kv.first).steadied(of.outcome)
    };
    let pair = |name: &str, of: &Pairs| row(name, &of.ours).steadied(of.outcome);
    let [chained, std_hash, std_tree, ..] = OTHERS;
    Ok(vec![
        second("lookup, against a raw chained hash", &beside_raw)
            .beside(chained, &beside_raw.other.second)
            .ratio_at_most(1.3),
        lmdb.put_beside(second("lookup, against LMDB", &beside_lmdb), "LMDB", &beside_lmdb.other.second)
            .ratio_at_most(0.2),
        pmdk.put_beside(second("lookup, against PMDK", &beside_pmdk), HASHMAP, &beside_pmdk.other.second)
            .ratio_at_most(0.3),
        second("lookup, against std's hash map", &beside_hash).beside(std_hash, &beside_hash.other.second),
        second("lookup, against std's ordered map", &beside_tree).beside(std_tree, &beside_tree.other.second),
        first("a raw chained hash", &beside_raw).beside(chained, &beside_raw.other.first),
        pmdk.put_beside(first("PMDK", &beside_pmdk), HASHMAP, &beside_pmdk.other.first),
        pair("lookup, each waiting for the one before, against a raw chained hash", &in_turn)
            .beside(chained, &in_turn.theirs),
        // Without aims: those are for one look-up after the other, and the other peers have nothing that looks many up.
        pair("lookup, many keys at once, against a raw chained hash that fetches likewise", &many)
            .beside("raw chained hash, 16 keys at once", &many.theirs),
        pair("lookup, many keys at once, against one look-up after the other", &many)
            .beside(chained, &beside_raw.other.second),
        pmdk.put_beside(pair("durable insert, against PMDK", &insert_pmdk), HASHMAP, &insert_pmdk.theirs)
            .ratio_at_most(0.1),
        lmdb.put_beside(pair("durable insert, against LMDB", &insert_lmdb), "LMDB", &insert_lmdb.theirs),
    ])
}
