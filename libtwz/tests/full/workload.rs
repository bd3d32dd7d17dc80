//! A pool that becomes full inside transactions, again and again: each that does not fit fails with an error and changes nothing.
//!
//! Run by `cargo test` on a small pool file, and by `libtest full` inside the machine, where a store to a page that cannot be had ends the program.

use alloc::collections::VecDeque;
use alloc::string::String as Text;
use alloc::vec::Vec as List;
use libtwz::collections::{self, BTreeMap, HashMap, RbTree, Ring, String, Vec};
use libtwz::prelude::{Error, InvPtr, Invariant, Object, ObjectBuilder, ObjectId, PCell, Result, Rights, Tx};
use libtwz::sys::{CreateSpec, Platform, Seam};
use libtwz::{Window, view};

type Ordered<K, V> = alloc::collections::BTreeMap<K, V>;

const RING: usize = 4096;
const SMALL: u64 = 4096;
const CELLS: usize = 2000;

/// What the transactions change.
#[derive(Invariant)]
#[repr(C)]
struct Root {
    rounds: PCell<u64>,
    cells: [PCell<u64>; CELLS],
    vec: Vec<u64>,
    text: String,
    hash: HashMap<u64, u64>,
    tree: BTreeMap<u64, [u64; 4]>,
    rb: RbTree<u64, u64>,
    list: collections::List<u64>,
    ring: Ring<u64, RING>,
    blocks: InvPtr<Block>,
    away: [InvPtr<PCell<u64>>; 8],
}

/// A block of some size, whose words all hold the same.
#[derive(Invariant)]
#[repr(C)]
struct Block {
    next: InvPtr<Block>,
    words: PCell<u64>,
}

/// What should be in a [`Root`].
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    rounds: u64,
    cells: List<u64>,
    vec: List<u64>,
    text: Text,
    hash: Ordered<u64, u64>,
    tree: Ordered<u64, [u64; 4]>,
    rb: Ordered<u64, u64>,
    list: List<u64>,
    ring: VecDeque<u64>,
    blocks: List<u64>,
}

/// How often each kind of step was refused, and how often one was made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) refused: [u32; KINDS],
    pub(crate) built_refused: u32,
    /// Rounds that went on when there was room again.
    pub(crate) went_on: u32,
    pub(crate) done: u32,
}

pub(crate) const KINDS: usize = 10;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn empty() -> Root {
    Root {
        rounds: PCell::new(0),
        cells: [const { PCell::new(0) }; CELLS],
        vec: Vec::new(),
        text: String::new(),
        hash: HashMap::new(),
        tree: BTreeMap::new(),
        rb: RbTree::new(),
        list: collections::List::new(),
        ring: Ring::new(),
        blocks: InvPtr::null(),
        away: [const { InvPtr::null() }; 8],
    }
}

fn all<T>(items: impl Iterator<Item = Result<T>>) -> Result<List<T>> {
    items.collect()
}

/// What stands in the object.
fn seen(o: &Object<Root>) -> Result<Model> {
    let mut blocks = List::new();
    let mut at = o.blocks.get()?;
    while let Some(block) = at {
        let words = block.words.get();
        let address = core::ptr::from_ref(block).addr();
        let window = Window::around(address)?;
        for i in 2..words {
            let offset = address - window.base() + usize::try_from(i).expect("small") * 8;
            assert_eq!(window.load(offset), words, "word {i} of a block of {words}");
        }
        blocks.push(words);
        at = block.next.get()?;
    }
    Ok(Model {
        rounds: o.rounds.get(),
        cells: o.cells.iter().map(PCell::get).collect(),
        vec: all(o.vec.iter())?,
        text: o.text.get()?,
        hash: all(o.hash.iter())?.into_iter().collect(),
        tree: all(o.tree.iter())?.into_iter().collect(),
        rb: all(o.rb.iter())?.into_iter().collect(),
        list: all(o.list.iter())?,
        ring: all(o.ring.iter())?.into_iter().collect(),
        blocks,
    })
}

/// One step of kind `kind`, in the object and in the model.
fn step(tx: &Tx, o: &Object<Root>, m: &mut Model, kind: usize, random: &mut Random) -> Result<()> {
    let count = 1 + random.below(40);
    match kind {
        0 => (0..count).try_for_each(|i| {
            m.vec.push(i);
            o.vec.push_in(tx, i)
        }),
        1 => {
            let more: Text = core::iter::repeat_n('x', usize::try_from(count * 50).expect("small")).collect();
            m.text.push_str(&more);
            o.text.push_str_in(tx, &more)
        }
        2 => (0..count).try_for_each(|_| {
            let key = random.next();
            m.hash.insert(key, count);
            o.hash.insert_in(tx, key, count).map(drop)
        }),
        3 => (0..count).try_for_each(|_| {
            let key = random.next();
            m.tree.insert(key, [count; 4]);
            o.tree.insert_in(tx, key, [count; 4]).map(drop)
        }),
        4 => (0..count).try_for_each(|_| {
            let key = random.next();
            m.rb.insert(key, count);
            o.rb.insert_in(tx, key, count).map(drop)
        }),
        5 => (0..count).try_for_each(|i| {
            m.list.push(i);
            o.list.push_back_in(tx, i)
        }),
        6 => (0..count * 10).try_for_each(|i| {
            m.ring.push_back(i);
            if m.ring.len() > RING {
                m.ring.pop_front();
            }
            o.ring.push_back_in(tx, i).map(drop)
        }),
        7 => {
            // From a few words to many pages.
            let most = 3 + random.below(12);
            let words = 2 + random.below(1 << most);
            m.blocks.insert(0, words);
            add_block(tx, o, words)
        }
        8 => {
            // More than the log has room for: it grows by a chunk, or goes on elsewhere.
            let times = 1 + random.below(8);
            for _ in 0..times {
                o.cells.iter().rev().try_for_each(|cell| tx.record(cell))?; // one by one: side by side they would be one
            }
            m.cells.iter_mut().for_each(|cell| *cell += 1);
            o.cells.iter().try_for_each(|cell| tx.set_recorded(cell, cell.get() + 1))
        }
        _ => (0..count * 10).try_for_each(|i| {
            let cell = usize::try_from(random.below(CELLS as u64)).expect("small");
            m.cells[cell] = i;
            tx.put(&o.cells[cell], i)
        }),
    }
}

fn add_block(tx: &Tx, o: &Object<Root>, words: u64) -> Result<()> {
    let bytes = usize::try_from(words).expect("small") * 8;
    let address = tx.alloc_raw(o.window(), bytes, 16)?;
    tx.settle()?;
    let window = Window::around(address)?;
    let at = address - window.base();
    window.store(at, 0);
    (8..bytes).step_by(8).for_each(|i| window.store(at + i, words));
    // SAFETY: the block was just taken, is as long as a `Block` and aligned, and any bits are one.
    let block = unsafe { &*core::ptr::with_exposed_provenance::<Block>(address) };
    tx.point_recorded(&block.next, o.blocks.get()?)?;
    tx.point(&o.blocks, Some(block))
}

/// Objects that take what the pool has free.
#[derive(Default)]
pub(crate) struct Filler {
    made: List<(ObjectId, u64)>,
}

impl Filler {
    /// Takes all of the pool, at last page by page.
    pub(crate) fn fill(&mut self) {
        let mut bytes = 4 << 20;
        while bytes >= SMALL {
            let spec =
                CreateSpec { default_rights: Rights::empty(), key: ObjectId::NULL, volatile: true, bytes };
            match Platform::create(&spec) {
                Ok(id) => self.made.push((id, bytes)),
                Err(error) => {
                    assert!(matches!(error, Error::OutOfSpace(_)), "{error}");
                    bytes /= 2;
                }
            }
        }
    }

    /// Gives `bytes` back, or somewhat more.
    pub(crate) fn give(&mut self, bytes: u64) {
        let mut given = 0;
        while given < bytes {
            let Some((id, bytes)) = self.made.pop() else { return };
            Platform::delete(id).expect("it is there");
            given += bytes;
        }
    }
}

/// Runs `rounds` times, and on until each kind but the last was refused, five times as often at most: with some room left, transactions of all kinds until several did not fit. The pool is empty but for what it was before
/// when this returns.
pub(crate) fn run(seed: u64, rounds: u64) -> Result<Counts> {
    let mut random = Random(seed | 1);
    let mut counts = Counts::default();
    let mut filler = Filler::default();
    for round in 0..rounds * 5 {
        if round >= rounds && counts.refused[..KINDS - 1].iter().all(|&refused| refused > 0) {
            break;
        }
        // Every other one goes on in other objects early.
        let is_short = round % 2 == 1;
        let data = if is_short { 256 << 10 } else { 1 << 30 };
        let mut o = ObjectBuilder::new().data_bytes(data).log_bytes(1024).build(empty())?;
        let mut m = Model { cells: core::iter::repeat_n(0, CELLS).collect(), ..Model::default() };
        let targets =
            (0..8).map(|i| ObjectBuilder::new().build(PCell::new(i))).collect::<Result<List<_>>>()?;
        filler.fill();
        filler.give(random.below(40) * SMALL);
        let mut refusals = 0;
        while refusals < 12 {
            let before = m.clone();
            m.rounds += 1;
            let steps = 1 + random.below(3);
            let mut kind = 0;
            let result = o.tx(|tx| {
                tx.set(&o.rounds, m.rounds)?;
                for _ in 0..steps {
                    kind = usize::try_from(random.below(KINDS as u64)).expect("small");
                    step(tx, &o, &mut m, kind, &mut random)?;
                    tx.apply()?; // the next step sees it
                }
                Ok(())
            });
            match result {
                Ok(()) => counts.done += 1,
                Err(error) => {
                    // A sequence may need more in one piece than such a small object has.
                    let is_too_large = is_short && matches!(error, Error::TooLarge { .. });
                    assert!(is_too_large || matches!(error, Error::OutOfSpace(_)), "{error}");
                    m = before;
                    assert!(seen(&o)? == m, "round {round}: a transaction that was refused is seen");
                    refusals += 1;
                    counts.refused[kind] += 1;
                    // Between two, sometimes some room.
                    if random.below(3) == 0 {
                        filler.give(SMALL * random.below(8));
                    }
                }
            }
        }
        // A new object, and pointers that need entries in a table.
        match ObjectBuilder::new().build(empty()) {
            // SAFETY: nothing refers to it.
            Ok(made) => unsafe { made.delete() }?,
            Err(error) => {
                assert!(matches!(error, Error::OutOfSpace(_)), "{error}");
                counts.built_refused += 1;
            }
        }
        let point = || {
            o.tx(|tx| {
                let mut places = o.away.iter().zip(&targets);
                places.try_for_each(|(place, target)| tx.point(place, Some(target.base())))
            })
        };
        if let Err(error) = point() {
            assert!(matches!(error, Error::OutOfSpace(_)), "{error}");
            assert!(o.away.iter().all(InvPtr::is_null));
        }
        // With room again it goes on, and what is opened anew is the same.
        filler.give(u64::MAX);
        let mut all_done = point();
        for kind in 0..KINDS {
            if all_done.is_err() {
                break;
            }
            let before = m.clone();
            match o.tx(|tx| step(tx, &o, &mut m, kind, &mut random)) {
                Err(Error::TooLarge { .. }) if is_short => m = before,
                Err(error) => (m, all_done) = (before, Err(error)),
                Ok(()) => {}
            }
            o = Object::open(o.id())?;
        }
        assert!(seen(&o)? == m, "round {round}: what was done with room is there");
        match all_done {
            Ok(()) => {
                assert_eq!(o.away[7].get()?.map(PCell::get), Some(7));
                counts.went_on += 1;
            }
            // What this object has lies scattered, and the pool's own tables need 2 MiB in one piece.
            Err(Error::OutOfSpace(_)) => {}
            Err(error) => return Err(error),
        }
        o.census()?;
        for target in targets {
            // SAFETY: nothing follows the pointers to it any more.
            unsafe { target.delete() }?;
        }
        let id = o.id();
        // SAFETY: nothing of it is used after this.
        unsafe { o.delete() }?;
        assert!(view::map(id, Rights::READ).is_err(), "deleted");
    }
    Ok(counts)
}
