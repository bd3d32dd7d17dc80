//! The pool's side of each measurement: one round each, in nanoseconds an operation.

use crate::timed;
use anyhow::{Result, ensure};
use bench::clock::cpu_time;
use pool::{Access, CreateOptions, ObjectSpec, OpenOptions, Pool};
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;
use twz_abi::ObjectId;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// An odd step that visits each of a power of ten of objects once, in an order that caches cannot guess.
const STEP: u64 = 0x9e37_79b1;

/// Pools that stay from round to round.
pub(crate) struct Ours {
    objects: Pool,
    copies: Pool,
    /// Objects that are copied: of one extent, and of many.
    sources: [ObjectId; 2],
}

impl Ours {
    /// Makes the pools, and what is copied.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let objects = Pool::create(&folder.join("objects.pool"), GIB, &CreateOptions::default())?;
        let copies = Pool::create(&folder.join("copies.pool"), 4 * GIB, &CreateOptions::default())?;
        let whole = || copies.create_object(&ObjectSpec { size: GIB, ..ObjectSpec::default() });
        let sources = [whole()?, whole()?];
        // Scattered writes to the second one and to a copy that stays, until the map is a tree with many leaves.
        copies.copy_object(sources[1])?;
        let object = copies.open_object(sources[1])?;
        for page in (0..GIB / 4096).step_by(511) {
            object.write(page * 4096, &[1])?;
        }
        drop(object);
        Ok(Self { objects, copies, sources })
    }

    /// To create an object, to delete it, and to touch a first page of another.
    pub(crate) fn objects(&self, count: u64) -> Result<[f64; 3]> {
        let pool = &self.objects;
        let mut ids = Vec::new();
        let create = timed(count, || make(pool, count, &mut ids))?;
        let delete = timed(count, || ids.iter().try_for_each(|&id| pool.delete_object(id)))?;
        // Objects of their own, so that those above are deleted without a page.
        ids.clear();
        make(pool, count, &mut ids)?;
        let touch = timed(count, || {
            ids.iter().try_for_each(|&id| {
                black_box(pool.open_object(id)?.touch(0x1000, 0, Access::Write)?);
                pool::Result::<()>::Ok(())
            })
        })?;
        ids.iter().try_for_each(|&id| pool.delete_object(id))?;
        Ok([create, delete, touch])
    }

    /// To copy the object of one extent, and the one of many.
    pub(crate) fn copies(&self, count: u64) -> Result<[f64; 2]> {
        let mut figures = [0.0; 2];
        for (source, figure) in self.sources.iter().zip(&mut figures) {
            let mut made = Vec::new();
            *figure = timed(count, || {
                (0..count).try_for_each(|_| self.copies.copy_object(*source).map(|id| made.push(id)))
            })?;
            made.into_iter().try_for_each(|id| self.copies.delete_object(id))?;
        }
        Ok(figures)
    }
}

fn make(pool: &Pool, count: u64, ids: &mut Vec<ObjectId>) -> pool::Result<()> {
    (0..count).try_for_each(|_| pool.create_object(&ObjectSpec::default()).map(|id| ids.push(id)))
}

/// To create an empty pool of 64 MiB, and to open it; closing is not timed.
pub(crate) fn pools(folder: &Path, count: u64) -> Result<[f64; 2]> {
    let path = folder.join("small.pool");
    let mut sums = [Duration::ZERO; 2];
    for _ in 0..count {
        let begun = cpu_time();
        let pool = Pool::create(&path, 64 * MIB, &CreateOptions::default())?;
        sums[0] += cpu_time() - begun;
        drop(pool);
        let begun = cpu_time();
        let pool = Pool::open(&path, &OpenOptions::default())?;
        sums[1] += cpu_time() - begun;
        drop(pool);
        std::fs::remove_file(&path)?;
    }
    #[allow(clippy::cast_precision_loss, reason = "a handful")]
    Ok(sums.map(|sum| sum.as_secs_f64() * 1e9 / count as f64))
}

/// In a new 1 TiB (sparse) pool: to create each of `count` objects, to look one up, to open and close one; and to open the pool with all of
/// them.
pub(crate) fn many(folder: &Path, count: u64) -> Result<[f64; 4]> {
    let path = folder.join("many.pool");
    let pool = Pool::create(&path, 1024 * GIB, &CreateOptions::default())?;
    let mut ids = Vec::new();
    let create = timed(count, || make(&pool, count, &mut ids))?;
    let of = |number: u64| {
        #[allow(clippy::cast_possible_truncation, reason = "below the number of objects")]
        let at = (number.wrapping_mul(STEP) % count) as usize;
        ids[at]
    };
    let lookup = timed(count, || -> Result<()> {
        (0..count).try_for_each(|number| {
            ensure!(pool.contains(of(number)), "an object is not there");
            Ok(())
        })
    })?;
    let open = timed(count, || {
        (0..count).try_for_each(|number| pool.open_object(of(number)).map(|object| drop(black_box(object))))
    })?;
    drop(pool);
    let mut reopened = None;
    let open_pool = timed(1, || -> pool::Result<()> {
        reopened = Some(Pool::open(&path, &OpenOptions::default())?);
        Ok(())
    })?;
    drop(reopened);
    std::fs::remove_file(&path)?;
    Ok([create, lookup, open, open_pool])
}
