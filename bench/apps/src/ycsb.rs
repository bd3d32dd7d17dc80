//! YCSB-like mixes on kv with threads (Cooper et al., SoCC 2010): zipfian keys, values of 100 bytes.
//!
//! Without unixkv beside it: that takes one writer at a time, who excludes readers (`&mut self`).

use crate::ours::key;
use anyhow::{Context, Result};
use bench::row::{Row, Where};
use kv::{Options, Region, Store};
use std::thread;
use std::time::Instant;

/// Exponent of the distribution, as in YCSB.
const SKEW: f64 = 0.99;
/// Mixes: name and updates in percent.
const MIXES: [(&str, u64); 3] = [("A, 50% updates", 50), ("B, 5% updates", 5), ("C, reads only", 0)];

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
    let mut value = [0_u8; 100];
    for &(number, random) in draws {
        let key = key(number).to_le_bytes();
        if random % 100 < updates {
            value.fill(random.to_le_bytes()[1]);
            store.put(&key, &value)?;
        } else if store.read(&key)?.is_none_or(|value| value.len() != 100 || value[0] != value[99]) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// All mixes with 1, 2 and 4 threads, in millions of operations a second.
pub(crate) fn all(keys: u64, operations: u64, rounds: usize) -> Result<Vec<Row>> {
    let store = Store::create(&Options { data_bytes: 256 << 20, ..Options::default() })?;
    for number in 0..keys {
        store.put_in(Region(0), &key(number).to_le_bytes(), &[1; 100])?;
    }
    let zipf = Zipf::new(keys);
    let mut state = 88_172_645_463_325_252;
    let draws: Vec<(u64, u64)> =
        (0..operations).map(|_| (zipf.draw(next_random(&mut state)), next_random(&mut state))).collect();
    let mut rows = Vec::new();
    for (mix, updates) in MIXES {
        for threads in [1, 2, 4] {
            let mut samples = Vec::new();
            for _ in 0..rounds {
                let begun = Instant::now();
                let right = thread::scope(|scope| {
                    let parts = draws.chunks(draws.len().div_ceil(threads));
                    let workers: Vec<_> =
                        parts.map(|part| scope.spawn(|| work(&store, part, updates))).collect();
                    // Of all, so that each is waited for; then what the first of them said that failed.
                    let said: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
                    said.into_iter().try_fold(true, |right, said| {
                        anyhow::Ok(said.map_err(|_| anyhow::anyhow!("a thread panicked"))?? && right)
                    })
                });
                #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
                samples.push(draws.len() as f64 / begun.elapsed().as_secs_f64() / 1e6);
                let right = right.with_context(|| format!("{mix}, {threads} threads"))?;
                anyhow::ensure!(right, "{mix}: a value was missing or torn");
            }
            let plural = if threads == 1 { "thread" } else { "threads" };
            rows.push(Row::new(
                "ycsb",
                &format!("{mix}: {threads} {plural}"),
                Where::Hosted,
                "Mop/s",
                &samples,
            ));
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
        let rows = all(200, 2000, 1).unwrap();
        assert_eq!(rows.len(), 9);
        assert!(rows.iter().all(|row| row.ours > 0.0));
    }
}
