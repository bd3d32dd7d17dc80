//! The libtwz side of each measurement; the loops are those of `peers/pmdk.c`.

use crate::stopwatch::{Each, Stopwatch, Time};
use libtwz::collections::{BTreeMap, HashMap, RbTree};
use libtwz::prelude::*;
use libtwz::{Cursor, PersistentPtr, Window, fot, persist, sys, translate};
use std::collections::HashMap as StdMap;
use std::hint::black_box;

const CHASE_NODES: usize = 512;
const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);

/// First byte that an object has for itself.
const FIRST: usize = 0x1000;
/// Bytes of the objects that are present before anything is timed, so that no first touch of a page is: more than the rounds fill, also if each is
/// measured three times (`bench::steady`). PMDK's pools are likewise (`prefault.at_create`).
const PRESENT_WORDS: usize = 96 << 20;
const PRESENT_MAPS: usize = 160 << 20;

/// A node of the chased ring.
#[derive(Invariant)]
#[repr(C)]
struct Node {
    next: InvPtr<Node>,
    value: PCell<u64>,
}

/// What the transactions change.
#[derive(Invariant)]
#[repr(C)]
struct Words {
    words: [PCell<u64>; 64 * 1024],
    owner: InvPtr<[u64; 6]>,
}

/// The maps that are filled.
#[derive(Invariant)]
#[repr(C)]
struct Maps {
    hash: HashMap<u64, [u64; 2]>,
    tree: BTreeMap<u64, [u64; 2]>,
    rb: RbTree<u64, [u64; 2]>,
}

/// All objects of the measurements.
pub(crate) struct Ours {
    words: Object<Words>,
    maps: Object<Maps>,
    random: u64,
    /// Whether the maps hold what is looked up.
    filled: bool,
    rings: StdMap<(u32, bool), &'static Node>,
    pointers: Box<[PersistentPtr; 1024]>,
    resolved: Option<Resolved>,
}

/// Objects for measuring first resolutions.
struct Resolved {
    holder: Object<InvPtr<Node>>,
    /// One to each target.
    pointers: Vec<PersistentPtr>,
}

fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn shuffled(count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let mut state = 88_172_645_463_325_252;
    for i in (1..count).rev() {
        let j = usize::try_from(next_random(&mut state) % (i as u64 + 1)).unwrap_or(0);
        order.swap(i, j);
    }
    order
}

impl Ours {
    pub(crate) fn new() -> Result<Self> {
        let words = Words { words: [const { PCell::new(0) }; 64 * 1024], owner: InvPtr::null() };
        let words = ObjectBuilder::new().build(words)?;
        let maps = Maps { hash: HashMap::new(), tree: BTreeMap::new(), rb: RbTree::new() };
        let maps = ObjectBuilder::new().build(maps)?;
        words.window().populate(FIRST..FIRST + PRESENT_WORDS);
        maps.window().populate(FIRST..FIRST + PRESENT_MAPS);
        let offset = words.global().offset();
        let pointers = Box::new(std::array::from_fn(|i| PersistentPtr(offset + i as u64 * 64)));
        Ok(Self {
            words,
            maps,
            random: 0x2545_F491_4F6C_DD1D,
            filled: false,
            rings: StdMap::new(),
            pointers,
            resolved: None,
        })
    }

    /// Nanoseconds per operation, or what went wrong.
    pub(crate) fn measure(&mut self, what: &str, parameter: u32, count: u64) -> Result<Each> {
        let time = match what {
            "translate" => self.translate(count),
            "chase" => self.chase(parameter, true, count)?,
            "chase_uncoloured" => self.chase(parameter, false, count)?,
            "first_resolution" => self.first_resolution(count)?,
            "tx_each" => self.tx_each(parameter as usize, count)?,
            "tx_put" => self.tx_put(parameter as usize, count)?,
            "tx_first" => self.tx_first(parameter as usize, 8, count)?,
            "tx_adjacent" => self.tx_first(parameter as usize, 1, count)?,
            "tx_no_flush" => {
                persist::set_durability(sys::Durability::Program);
                let time = self.tx_put(parameter as usize, count);
                persist::set_durability(sys::Durability::Power);
                time?
            }
            "hash_insert" => self.insert(count, |maps, key| maps.hash.insert(key, [key; 2]).map(drop))?,
            "tree_insert" => self.insert(count, |maps, key| maps.tree.insert(key, [key; 2]).map(drop))?,
            "rb_insert" => self.insert(count, |maps, key| maps.rb.insert(key, [key; 2]).map(drop))?,
            "hash_get" => self.look_up(count, |o, key| o.maps.hash.get(&key).map(|v| v.is_some()))?,
            "tree_get" => self.look_up(count, |o, key| o.maps.tree.get(&key).map(|v| v.is_some()))?,
            "tx_alloc" => self.tx_alloc(count)?,
            _ => return Err(Error::NoSuchName),
        };
        Ok(time.each(count))
    }

    fn translate(&self, count: u64) -> Time {
        let holder = black_box(self.words.window());
        let mut sum = 0;
        let start = Stopwatch::start();
        // Four a turn, as in pmdk.c: what is measured is a translation, not a loop.
        for i in (0..count).step_by(4) {
            #[allow(clippy::cast_possible_truncation, reason = "masked")]
            let first = (i & 1020) as usize;
            for pointer in &self.pointers[first..first + 4] {
                sum += translate::lea(holder, *pointer).unwrap_or(0);
            }
        }
        let time = start.elapsed();
        black_box(sum);
        time
    }

    fn ring(&mut self, objects: u32, coloured: bool) -> Result<&'static Node> {
        if let Some(&at) = self.rings.get(&(objects, coloured)) {
            return Ok(at);
        }
        let builder = ObjectBuilder::<()>::new();
        let builder = if coloured { builder } else { builder.uncoloured() };
        let homes: Vec<_> = (0..objects).map(|_| builder.build(())).collect::<Result<_>>()?;
        let mut nodes: Vec<&'static Node> = Vec::new();
        for i in 0..CHASE_NODES {
            let node = Node { next: InvPtr::null(), value: PCell::new(i as u64) };
            nodes.push(homes[i % homes.len()].tx(|tx| tx.alloc(node))?);
        }
        let order = shuffled(CHASE_NODES);
        for i in 0..CHASE_NODES {
            let (from, to) = (nodes[order[i]], nodes[order[(i + 1) % CHASE_NODES]]);
            let home = Window::around(std::ptr::from_ref(from).addr())?;
            libtwz::Tx::run(home, |tx| tx.point(&from.next, Some(to)))?;
        }
        self.rings.insert((objects, coloured), nodes[0]);
        Ok(nodes[0])
    }

    fn chase(&mut self, objects: u32, coloured: bool, count: u64) -> Result<Time> {
        let mut at = Cursor::at(self.ring(objects, coloured)?)?;
        let mut sum = 0;
        let start = Stopwatch::start();
        for _ in 0..count {
            at = at.follow(|node| &node.next)?.ok_or(Error::NoSuchName)?;
            sum += at.value.get();
        }
        let time = start.elapsed();
        black_box(sum);
        self.rings.insert((objects, coloured), at.get());
        Ok(time)
    }

    /// Resolves FOT entries whose targets are mapped but not cached: entries past the cached ones never are.
    fn first_resolution(&mut self, count: u64) -> Result<Time> {
        let resolved = match self.resolved.take() {
            Some(resolved) => resolved,
            None => {
                let holder = ObjectBuilder::new().build(InvPtr::null())?;
                let targets: Vec<_> =
                    (0..64).map(|_| ObjectBuilder::new().build(())).collect::<Result<_>>()?;
                for i in 0..320_u128 {
                    // Entries that lead nowhere fill the cached part.
                    let id = ObjectId::from_u128(i + 1);
                    fot::insert(holder.window(), id, READ_WRITE)?;
                }
                let pointers = targets
                    .iter()
                    .map(|target| {
                        let index = fot::insert(holder.window(), target.id(), READ_WRITE)?;
                        Ok(PersistentPtr::new(index, 0x1000))
                    })
                    .collect::<Result<Vec<_>>>()?;
                Resolved { holder, pointers }
            }
        };
        let holder = resolved.holder.window();
        let mut sum = 0;
        let start = Stopwatch::start();
        // Four a turn, as in `translate`.
        for i in (0..count).step_by(4) {
            #[allow(clippy::cast_possible_truncation, reason = "masked")]
            let first = (i & 60) as usize;
            for pointer in &resolved.pointers[first..first + 4] {
                sum += translate::lea(holder, *pointer)?;
            }
        }
        let time = start.elapsed();
        black_box(sum);
        self.resolved = Some(resolved);
        Ok(time)
    }

    fn tx_each(&self, words: usize, count: u64) -> Result<Time> {
        let start = Stopwatch::start();
        for i in 0..count {
            self.words.tx(|tx| {
                for w in 0..words {
                    tx.set(&self.words.words[w * 8], i + w as u64)?;
                }
                Ok(())
            })?;
        }
        Ok(start.elapsed())
    }

    fn tx_put(&self, words: usize, count: u64) -> Result<Time> {
        let start = Stopwatch::start();
        for i in 0..count {
            self.words.tx(|tx| {
                for w in 0..words {
                    tx.put(&self.words.words[w * 8], i + w as u64)?;
                }
                Ok(())
            })?;
        }
        Ok(start.elapsed())
    }

    fn tx_first(&self, words: usize, stride: usize, count: u64) -> Result<Time> {
        let start = Stopwatch::start();
        for i in 0..count {
            self.words.tx(|tx| {
                for w in 0..words {
                    tx.record(&self.words.words[w * stride])?;
                }
                tx.settle()?;
                for w in 0..words {
                    self.words.words[w * stride].set_without_log(i + w as u64);
                }
                Ok(())
            })?;
        }
        Ok(start.elapsed())
    }

    fn tx_alloc(&self, count: u64) -> Result<Time> {
        let start = Stopwatch::start();
        for i in 0..count {
            self.words.tx(|tx| {
                let block = tx.alloc([i; 6])?;
                tx.point(&self.words.owner, Some(block))
            })?;
        }
        Ok(start.elapsed())
    }

    /// Random keys, with values as large as a PMEMoid.
    fn insert(&mut self, count: u64, insert: impl Fn(&Maps, u64) -> Result<()>) -> Result<Time> {
        let start = Stopwatch::start();
        for _ in 0..count {
            let key = next_random(&mut self.random) | 1;
            insert(&self.maps, key)?;
        }
        Ok(start.elapsed())
    }

    /// Looks small keys up in random order, all of them there.
    fn look_up(&mut self, count: u64, look: impl Fn(&Self, u64) -> Result<bool>) -> Result<Time> {
        const KEYS: u64 = 50_000;
        if !self.filled {
            for key in (0..KEYS).map(|i| i * 2) {
                self.maps.hash.insert(key, [key; 2])?;
                self.maps.tree.insert(key, [key; 2])?;
            }
            self.filled = true;
        }
        let (mut state, mut found) = (88_172_645_463_325_252, 0);
        let start = Stopwatch::start();
        for _ in 0..count {
            found += u64::from(look(self, next_random(&mut state) % KEYS * 2)?);
        }
        let time = start.elapsed();
        assert_eq!(found, count, "every key is there");
        Ok(time)
    }
}
