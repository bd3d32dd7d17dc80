//! YCSB-like mixes on kv with threads (Cooper et al., SoCC 2010): zipfian keys, values of 100 bytes.
//!
//! Beside it what takes several threads, too: LMDB (one writer at a time, readers beside it), and std's hash map under a lock, in memory. Time
//! is the wall's: threads wait for each other.

use crate::ours::key;
use anyhow::{Context, Result, ensure};
use bench::peer::Peer;
use bench::row::{Row, Where};
use kv::{Options, Region, Store};
use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{PoisonError, RwLock};
use std::thread;
use std::time::Instant;

/// Exponent of the distribution, as in YCSB.
const SKEW: f64 = 0.99;
/// Mixes: name and updates in percent.
const MIXES: [(&str, u64); 3] = [("A, 50% updates", 50), ("B, 5% updates", 5), ("C, reads only", 0)];
/// Threads that share a round's operations.
const THREADS: [usize; 3] = [1, 2, 4];
/// Bytes of a value.
const VALUE: usize = 100;
/// The peer that is gone with the process.
const PLAIN: &str = "std HashMap under an RwLock";

/// Numbers of keys, the popular ones often.
struct Zipf {
    /// Share of all draws that goes to the first keys.
    sums: Vec<f64>,
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
impl Zipf {
    fn new(count: u64) -> Self {
        let mut sum = 0.0;
        let mut sums: Vec<f64> = (1..=count)
            .map(|rank| {
                sum += 1.0 / (rank as f64).powf(SKEW);
                sum
            })
            .collect();
        sums.iter_mut().for_each(|share| *share /= sum);
        Self { sums }
    }

    fn draw(&self, random: u64) -> u64 {
        let at = (random >> 11) as f64 / (1_u64 << 53) as f64;
        self.sums.partition_point(|share| *share < at) as u64
    }
}

fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// One thread's operations; false if a value was missing or torn.
fn work(store: &Store, draws: &[(u64, u64)], updates: u64) -> kv::Result<bool> {
    let mut value = [0_u8; VALUE];
    for &(number, random) in draws {
        let key = key(number).to_le_bytes();
        if random % 100 < updates {
            value.fill(random.to_le_bytes()[1]);
            store.put(&key, &value)?;
        } else if store.read(&key)?.is_none_or(|value| value.len() != VALUE || value[0] != value[VALUE - 1]) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The same, of a plain map that threads share.
type Plain = RwLock<HashMap<u32, [u8; VALUE]>>;

fn work_plain(map: &Plain, draws: &[(u64, u64)], updates: u64) -> bool {
    draws.iter().all(|&(number, random)| {
        let key = key(number);
        if random % 100 < updates {
            let mut map = map.write().unwrap_or_else(PoisonError::into_inner);
            map.insert(key, [random.to_le_bytes()[1]; VALUE]);
            return true;
        }
        let value = map.read().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        value.is_some_and(|value| black_box(&value)[0] == value[VALUE - 1])
    })
}

/// Nanoseconds an operation, on the wall, of `draws` that `threads` threads share.
fn timed(
    threads: usize,
    draws: &[(u64, u64)],
    work: impl Fn(&[(u64, u64)]) -> Result<bool> + Sync,
) -> Result<f64> {
    let begun = Instant::now();
    let right = thread::scope(|scope| {
        let parts = draws.chunks(draws.len().div_ceil(threads));
        let workers: Vec<_> = parts.map(|part| scope.spawn(|| work(part))).collect();
        // Of all, so that each is waited for; then what the first of them said that failed.
        let said: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        said.into_iter().try_fold(true, |right, said| {
            anyhow::Ok(said.map_err(|_| anyhow::anyhow!("a thread panicked"))?? && right)
        })
    })?;
    let took = begun.elapsed();
    ensure!(right, "a value was missing or torn");
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
    Ok(took.as_secs_f64() * 1e9 / draws.len() as f64)
}

/// Nanoseconds an operation of a mix with a number of threads.
#[derive(Clone, Default)]
struct Samples {
    kv: Vec<f64>,
    plain: Vec<f64>,
    lmdb: Vec<f64>,
}

/// All mixes with 1, 2 and 4 threads, on kv, LMDB and a plain map.
pub(crate) fn all(mut lmdb: Peer, keys: u64, operations: u64, rounds: usize) -> Result<Vec<Row>> {
    let store = Store::create(&Options { data_bytes: 256 << 20, ..Options::default() })?;
    let plain = Plain::default();
    for number in 0..keys {
        store.put_in(Region(0), &key(number).to_le_bytes(), &[1; VALUE])?;
        plain.write().unwrap_or_else(PoisonError::into_inner).insert(key(number), [1; VALUE]);
    }
    let zipf = Zipf::new(keys);
    let mut state = 88_172_645_463_325_252;
    let draws: Vec<(u64, u64)> =
        (0..operations).map(|_| (zipf.draw(next_random(&mut state)), next_random(&mut state))).collect();
    lmdb.measure("fill 1", keys, &mut Vec::new())?;
    lmdb.measure("draw 1", operations, &mut Vec::new())?;
    let mut samples = vec![Samples::default(); MIXES.len() * THREADS.len()];
    let cases = || MIXES.iter().flat_map(|mix| THREADS.iter().map(move |threads| (*mix, *threads)));
    for round in 0..=rounds {
        for (((mix, updates), threads), samples) in cases().zip(&mut samples) {
            let failed = || format!("{mix}, {threads} threads");
            if round == 1 {
                *samples = Samples::default(); // the first round warmed all sides
            }
            let ours = timed(threads, &draws, |part| Ok(work(&store, part, updates)?));
            samples.kv.push(ours.with_context(failed)?);
            lmdb.measure(format_args!("mix{updates} {threads}"), operations, &mut samples.lmdb)?;
            let theirs = timed(threads, &draws, |part| Ok(work_plain(&plain, part, updates)));
            samples.plain.push(theirs.with_context(failed)?);
        }
    }
    let mut rows = Vec::new();
    for (number, (((mix, _), threads), of)) in cases().zip(&samples).enumerate() {
        let many = if threads == 1 { "1 thread".into() } else { format!("{threads} threads") };
        // For the plot, more is better; in what is compared, less.
        let rate = |who: &str, ns: &[f64]| {
            let rates: Vec<f64> = ns.iter().map(|ns| 1e3 / ns).collect();
            Row::new("ycsb", &format!("{who}, {mix}: {many}"), Where::Hosted, "Mop/s", &rates)
        };
        rows.push(rate("kv", &of.kv));
        rows.push(rate(PLAIN, &of.plain));
        if lmdb.missing().is_none() {
            rows.push(rate("LMDB", &of.lmdb));
        }
        let row = |name: String| Row::new("ycsb, compared", &name, Where::Hosted, "ns", &of.kv);
        rows.push(lmdb.put_beside(row(format!("{mix}, {many}, against LMDB")), "LMDB", &of.lmdb));
        rows.push(row(format!("{mix}, {many}, against a plain map")).beside(PLAIN, &of.plain));
        if threads > 1 {
            let alone = &samples[number - number % THREADS.len()].kv;
            rows.push(row(format!("scaling, {mix}, {many} by 1")).beside("1 thread", alone));
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn popular_keys_are_drawn_often() {
        let zipf = Zipf::new(1000);
        let mut state = 1;
        let draws: Vec<u64> = (0..20_000).map(|_| zipf.draw(next_random(&mut state))).collect();
        let share = |below: u64| draws.iter().filter(|number| **number < below).count();
        assert!(share(1) > 1500 && share(10) > 6000 && share(1000) == 20_000, "{}", share(10));
    }

    #[test]
    fn mixes_run_on_threads() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap(); // as the default: LMDB syncs each update
        let lmdb = crate::peers::lmdb_threads(folder.path(), folder.path());
        let is_there = lmdb.missing().is_none();
        let rows = all(lmdb, 200, 2000, 3).unwrap();
        assert_eq!(rows.len(), 9 * (if is_there { 5 } else { 4 }) + 6);
        assert!(rows.iter().all(|row| row.ours > 0.0 && row.ours_spread.is_some()));
        let compared = rows.iter().filter(|row| row.group == "ycsb, compared");
        assert!(compared.clone().all(|row| row.ratio.is_some() || row.skipped.is_some()));
        assert_eq!(compared.filter(|row| row.name.starts_with("scaling, ")).count(), 6);
    }

    #[test]
    fn a_torn_value_is_seen() {
        let map = Plain::default();
        map.write().unwrap().insert(key(0), [1; VALUE]);
        assert!(work_plain(&map, &[(0, 99)], 0));
        map.write().unwrap().get_mut(&key(0)).unwrap()[VALUE - 1] = 2;
        assert!(!work_plain(&map, &[(0, 99)], 0), "torn");
        assert!(!work_plain(&map, &[(1, 99)], 0), "missing");
        assert!(timed(2, &[(0, 99); 4], |part| Ok(work_plain(&map, part, 0))).is_err());
    }
}
