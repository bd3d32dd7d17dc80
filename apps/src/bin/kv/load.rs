//! Many pairs at once, with one fence for a batch and a bar that shows how far it is.

use super::{Outcome, text};
use kv::{Region, Store};
use libtwz::prelude::*;

/// Pairs between two looks at the bar.
const STEP: u32 = 1024;
/// Characters of the whole bar.
const BAR: u64 = 40;

/// Puts `count` pairs `key-N value-N`.
pub(super) fn generated(store: &Store, count: u32) -> Outcome {
    let begun = libtwz::time::Instant::now();
    let mut bar = Bar { shown: u64::MAX };
    for first in (0..count).step_by(STEP as usize) {
        let numbers = first..count.min(first.saturating_add(STEP));
        let pairs: Vec<_> = numbers.map(|n| (format!("key-{n}"), format!("value-{n}"))).collect();
        store.load(Region(0), pairs.iter().map(|(k, v)| (k.as_bytes(), v.as_bytes()))).map_err(text)?;
        bar.show(u64::from(first) + pairs.len() as u64, count.into());
    }
    let micros = begun.elapsed().as_micros();
    eprintln!();
    println!("{count} pairs in {} ms", micros / 1000);
    Ok(0)
}

/// Puts the pairs in the input's lines: the key ends at the first blank.
pub(super) fn lines(store: &Store) -> Outcome {
    let mut count = 0_u64;
    for line in libtwz::console::stdin().lines() {
        let (key, value) = line.split_once(' ').unwrap_or((&line, ""));
        store.put(key.as_bytes(), value.as_bytes()).map_err(text)?;
        count += 1;
    }
    println!("{count} pairs");
    Ok(0)
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
