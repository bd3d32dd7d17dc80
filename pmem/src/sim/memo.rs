//! Remembers which memories were checked, by what the check read of them.
//!
//! A check is deterministic: which line it reads first is always the same, and which it reads next follows from what it
//! found. So its runs form a tree: a node is the line that is read next, an edge is what was found there, a leaf is a run
//! that ended. A memory that leads from the root to a leaf would repeat that run, and need not be run.
//!
//! Only *wanted* lines count; all others must hold the same in every memory that one memo sees.

use super::{LINE, Sim, WORD};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// The tree of the runs so far.
#[derive(Debug, Default)]
pub(super) struct Memo {
    /// The line that node n reads; `None` where the run ends.
    nodes: Vec<Option<u64>>,
    /// (node, hash of what it found) -> next node.
    edges: HashMap<u64, u32, BuildHasherDefault<Plain>>,
}

/// The keys are hashes already.
#[derive(Default)]
pub(super) struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// Scatters `value` at place `at` (the finalizer of splitmix64).
#[inline]
pub(super) fn mix(at: u64, value: u64) -> u64 {
    let mut x = value ^ at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

impl Memo {
    pub(super) fn clear(&mut self) {
        self.nodes.clear();
        self.edges.clear();
    }

    /// The lines that a run on `sim`'s memory would read, in order, if its like was run.
    pub(super) fn find(&self, sim: &Sim) -> Option<Vec<u64>> {
        let mut reads = Vec::new();
        let mut node = 0;
        loop {
            let Some(line) = *self.nodes.get(node as usize)? else { return Some(reads) };
            reads.push(line);
            node = *self.edges.get(&edge(node, content(sim, line)))?;
        }
    }

    /// Adds the run that read `lines` of `sim`'s memory (which is again what it was before the run).
    pub(super) fn add(&mut self, sim: &Sim, lines: &[u64]) {
        let mut node = 0;
        for &line in lines {
            self.place(node, Some(line));
            let next = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
            let key = edge(node, content(sim, line));
            node = *self.edges.entry(key).or_insert(next);
            if node == next {
                self.nodes.push(None);
            }
        }
        self.place(node, None);
    }

    fn place(&mut self, node: u32, line: Option<u64>) {
        match self.nodes.get_mut(node as usize) {
            Some(known) => *known = known.or(line),
            None => self.nodes.push(line),
        }
    }
}

fn edge(node: u32, found: u64) -> u64 {
    mix(u64::from(node) + 1, found)
}

/// Hash of a line.
#[inline]
fn content(sim: &Sim, line: u64) -> u64 {
    let words = (0..LINE / WORD).map(|word| line + word * WORD);
    words.fold(0, |hash: u64, at| {
        (hash ^ sim.arena.load(at)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    })
}
