//! How the index grows: segments are split, the directory doubles, further objects take more segments.

use super::{DEPTH_MAX, Index, MoreRoot};
use crate::error::{Error, Result};
use crate::segment::{SEGMENT, Segment};
use core::sync::atomic::{Ordering, fence};
use libtwz::prelude::*;
use libtwz::{PersistentPtr, at, translate};

impl Index {
    /// Splits a segment that is locked: keys with the next bit of the hash set go to a new one.
    #[cold]
    pub(super) fn split(&self, old: &'static Segment, hash: u64) -> Result<()> {
        self.root.lock.lock()?;
        let result = self.split_locked(old, hash);
        self.root.lock.unlock();
        result
    }

    fn split_locked(&self, old: &'static Segment, hash: u64) -> Result<()> {
        let (depth, directory) = (old.depth.get(), self.depth()?);
        if depth > directory {
            return Err(Error::Damaged);
        }
        if depth == DEPTH_MAX.into() {
            return Err(Error::Full);
        }
        // 1. The new segment, which nobody sees yet.
        let number = self.checked_segments()?;
        let pointer = self.room_for(number)?;
        let new: &'static Segment = at(self.window, pointer)?;
        if depth == directory {
            for number in 0..1 << depth {
                self.window
                    .store(self.word_at(number + (1 << depth)), self.window.load(self.word_at(number)));
            }
            fence(Ordering::Release);
            self.root.mask.set_without_log((2 << depth) - 1);
        }
        new.depth.set_without_log(depth + 1);
        old.copy_half(new, depth);
        fence(Ordering::Release);
        // 2. The directory leads to it.
        let first = hash & ((1 << depth) - 1) | 1 << depth;
        for number in (first..1 << directory.max(depth + 1)).step_by(2 << depth) {
            self.window.store(self.word_at(number), pointer.0);
        }
        fence(Ordering::Release);
        // 3. Nobody finds the old places any more (I2).
        old.depth.set_without_log(depth + 1);
        old.clear_half(depth, |tag| self.moved(tag));
        self.root.segments.set_without_log(number + 1);
        Ok(())
    }

    /// Where segment `number` is: in this object or in one of the others.
    ///
    /// # Errors
    /// [`Error::Damaged`] when that is in none of them.
    pub(super) fn pointer_to(&self, number: u64) -> Result<PersistentPtr> {
        let per_object = self.root.per_object.get().max(1);
        let (object, place) = (number / per_object, number % per_object);
        let first = match object.checked_sub(1) {
            None => self.root.heap.get(),
            Some(more) => self.root.more.get(more)?.ok_or(Error::Damaged)?,
        };
        let place = place.checked_mul(SEGMENT as u64).and_then(|bytes| first.checked_add(bytes));
        Ok(PersistentPtr(place.ok_or(Error::Damaged)?))
    }

    /// Where segment `number` is to be: in one more object if it is the first that the others have no place for.
    fn room_for(&self, number: u64) -> Result<PersistentPtr> {
        let per_object = self.root.per_object.get().max(1);
        let places = self.root.more.len().checked_add(1).and_then(|objects| objects.checked_mul(per_object));
        if places == Some(number) {
            self.add_object(per_object)?;
        }
        self.pointer_to(number)
    }

    /// Another object for segments, with the rights of the first.
    #[cold]
    fn add_object(&self, segments: u64) -> Result<()> {
        let (id, _) = libtwz::view::what_is_at(self.window)?;
        let (rights, key) = crate::store::reached_by(id)?;
        let builder = ObjectBuilder::new().default_rights(rights).key(key).volatile();
        let made = builder.build(MoreRoot { heap: PCell::new(0) })?;
        made.tie(id)?;
        let bytes = usize::try_from(segments).unwrap_or(usize::MAX).saturating_mul(SEGMENT);
        let heap = made.tx(|tx| {
            let heap = tx.alloc_sparse(made.window(), bytes, 64)?;
            tx.put(&made.heap, (heap - made.window().base()) as u64)?;
            Ok(heap)
        })?;
        let pointer = translate::persistent(self.window, heap)?;
        Ok(self.root.more.push(pointer.0)?)
    }
}
