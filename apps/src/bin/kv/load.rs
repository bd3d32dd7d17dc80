//! Many pairs at once, with one fence for a batch, and what shows how far it is.

use super::{Outcome, text};
use kv::{Region, Store};
use libtwz::prelude::*;

/// Pairs between two looks at the bar.
const STEP: u32 = 1024;
/// Bytes of lines that are held before they are put.
const BATCH_BYTES: usize = 1 << 20;
/// Characters of the whole bar.
const BAR: u64 = 40;

/// Puts `count` pairs `key-N value-N`.
pub(super) fn generated(store: &Store, count: u32) -> Outcome {
    let begun = libtwz::time::Instant::now();
    let mut bar = Bar { shown: u64::MAX };
    for first in (0..count).step_by(STEP as usize) {
        let numbers = first..count.min(first.saturating_add(STEP));
        let pairs: Vec<_> = numbers.map(|n| (format!("key-{n}"), format!("value-{n}"))).collect();
        put_all(store, &pairs)?;
        bar.show(u64::from(first) + pairs.len() as u64, count.into());
    }
    let micros = begun.elapsed().as_micros();
    eprintln!();
    println!("{count} pairs in {} ms", micros / 1000);
    Ok(0)
}

/// Puts the pairs in the input's lines: the key ends at the first blank. How many there will be is not known, so instead of a bar the
/// number of those that are durable is shown.
pub(super) fn lines(store: &Store) -> Outcome {
    let mut lines = libtwz::console::stdin().lines().map(|line| {
        let (key, value) = line.split_once(' ').unwrap_or((&line, ""));
        (key.to_string(), value.to_string())
    });
    let mut count = 0;
    loop {
        let (mut pairs, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES && pairs.len() < STEP as usize {
            let Some((key, value)) = lines.next() else { break };
            bytes += key.len() + value.len();
            pairs.push((key, value));
        }
        if pairs.is_empty() {
            break;
        }
        put_all(store, &pairs)?;
        count += pairs.len();
        eprint!("\r{count} pairs so far");
    }
    eprintln!();
    println!("{count} pairs");
    Ok(0)
}

fn put_all(store: &Store, pairs: &[(String, String)]) -> core::result::Result<(), String> {
    let pairs = pairs.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes()));
    store.load(Region(0), pairs).map(drop).map_err(text)
}

/// A bar on standard error, redrawn when it grows.
struct Bar {
    shown: u64,
}

impl Bar {
    fn show(&mut self, done: u64, all: u64) {
        let full = done * BAR / all.max(1);
        if full != self.shown {
            self.shown = full;
            let filled: String = (0..BAR).map(|i| if i < full { '#' } else { '.' }).collect();
            eprint!("\r[{filled}] {:3}%", done * 100 / all.max(1));
        }
    }
}
