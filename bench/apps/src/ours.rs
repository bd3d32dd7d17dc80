//! Our side of Figure 6 and of §5.4, the same source in a Linux process (`bench-apps`) and inside Twizzler (`apps/src/bin/libbench`). Both have
//! a [`timed`] of their own.

use crate::timed::{Each, timed};
use alloc::vec::Vec;
use core::fmt;
use kv::{Options, Region, Store};
use libtwz::{ObjectId, Rights};
use rbt::{Pointers, Tree, Twz};

/// Most bytes that a pair takes in the index, and in the data objects.
pub(crate) const PAIR_BYTES: u64 = 48;

/// What went wrong.
#[derive(Debug)]
pub(crate) enum Failed {
    Kv(kv::Error),
    Libtwz(libtwz::Error),
    Tree(rbt::Error),
    /// A key has no value, or another than was put.
    WrongValue(u32),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kv(error) => write!(f, "kv: {error}"),
            Self::Libtwz(error) => write!(f, "libtwz: {error}"),
            Self::Tree(error) => write!(f, "the tree: {error}"),
            Self::WrongValue(key) => write!(f, "key {key} has not the value that was put"),
        }
    }
}

impl core::error::Error for Failed {}

impl From<kv::Error> for Failed {
    fn from(error: kv::Error) -> Self {
        Self::Kv(error)
    }
}

impl From<libtwz::Error> for Failed {
    fn from(error: libtwz::Error) -> Self {
        Self::Libtwz(error)
    }
}

impl From<rbt::Error> for Failed {
    fn from(error: rbt::Error) -> Self {
        Self::Tree(error)
    }
}

pub(crate) type Result<T> = core::result::Result<T, Failed>;

/// Nanoseconds an insert and a look-up.
pub(crate) type Pair = (Each, Each);

/// Key `number`: all different, in no order.
pub(crate) fn key(number: u64) -> u32 {
    #[allow(clippy::cast_possible_truncation, reason = "a permutation of the 32-bit numbers")]
    let key = (number.wrapping_mul(2_654_435_761)) as u32;
    key
}

/// `count` numbers in another order than they were inserted in: a step that has no divisor in common with the counts used.
pub(crate) fn order(count: u64) -> impl Iterator<Item = u64> {
    let mut at = 0;
    (0..count).map(move |_| {
        at = (at + 7_368_787) % count;
        at
    })
}

/// A store with a region for each of `objects` data objects.
pub(crate) fn kv_store(objects: u64) -> Result<(Store, Vec<Region>)> {
    let store = Store::create(&Options { data_bytes: 256 << 20, ..Options::default() })?;
    let more = (1..objects).map(|_| store.add_region(Rights::empty())).collect::<kv::Result<Vec<_>>>()?;
    Ok((store, core::iter::once(Region(0)).chain(more).collect()))
}

/// What the pages are in which something is inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// Absent: each takes its first touch while the time runs.
    New,
    /// Present: what the CPU alone takes is timed, which is the same inside a machine and in a process.
    Present,
}

/// Fills a store with pairs of 32 bits and looks them up.
pub(crate) fn kv_round(count: u64, objects: u64, pages: Pages) -> Result<Pair> {
    let (store, regions) = kv_store(objects)?;
    if pages == Pages::Present {
        store.populate(count * PAIR_BYTES, count / objects * PAIR_BYTES)?;
    }
    let insert = timed(count, || -> Result<()> {
        for (number, region) in (0..count).zip(regions.iter().copied().cycle()) {
            let key = key(number);
            store.put_in(region, &key.to_le_bytes(), &key.wrapping_add(1).to_le_bytes())?;
        }
        Ok(())
    })?;
    let lookup = kv_lookup(&store, count)?;
    let mut objects = Vec::from([store.id()]);
    for region in regions {
        objects.extend(store.objects(region)?);
    }
    drop(store);
    give_back(&objects)?;
    Ok((insert, lookup))
}

/// Deletes what a round has made, so that rounds do not add up to more than the pool holds. For objects whose handles are dropped.
fn give_back(objects: &[ObjectId]) -> Result<()> {
    objects.iter().try_for_each(|id| {
        // SAFETY: the round made them for itself; the store or tree that led into them is dropped, and no value found in them was kept.
        unsafe { libtwz::discard(*id) }
    })?;
    Ok(())
}

/// Looks all pairs up.
pub(crate) fn kv_lookup(store: &Store, count: u64) -> Result<Each> {
    timed(count, || {
        order(count).try_for_each(|number| {
            let key = key(number);
            let value = store.get(&key.to_le_bytes())?;
            let right = value.is_some_and(|value| value.word(0) == u64::from(key.wrapping_add(1)));
            if right { Ok(()) } else { Err(Failed::WrongValue(key)) }
        })
    })
}

/// Fills a tree in `objects` objects and looks everything up.
pub(crate) fn twz_round(count: u64, objects: usize, pages: Pages) -> Result<Pair> {
    let nodes = usize::try_from(count).unwrap_or(usize::MAX) / objects + 1;
    let nodes = Twz::create(objects, nodes)?;
    let ids = nodes.ids();
    if pages == Pages::Present {
        nodes.populate();
    }
    let pair = tree_round(nodes, count)?;
    give_back(&ids)?;
    Ok(pair)
}

/// Fills a tree of `pointers` and looks everything up.
pub(crate) fn tree_round<P: Pointers>(pointers: P, count: u64) -> Result<Pair> {
    let tree = Tree::new(pointers);
    let insert = timed(count, || -> Result<()> {
        (0..count).try_for_each(|number| Ok(tree.insert(key(number).into(), number).map(drop)?))
    })?;
    Ok((insert, tree_lookup(&tree, count)?))
}

/// Looks everything up.
pub(crate) fn tree_lookup<P: Pointers>(tree: &Tree<P>, count: u64) -> Result<Each> {
    timed(count, || {
        order(count).try_for_each(|number| {
            let right = tree.get(key(number).into())? == Some(number);
            if right { Ok(()) } else { Err(Failed::WrongValue(key(number))) }
        })
    })
}
