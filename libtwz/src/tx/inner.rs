//! What a running transaction has: its objects, and how it ends in all of them.

use super::link::Link;
use super::part::Part;
use super::{Inner, Made, READ_WRITE};
use crate::error::{Error, Result, damaged_at};
use crate::persist;
use crate::view;
use crate::window::{SLOT_MASK, Window};
use twz_abi::{ObjectId, Rights};

impl Inner {
    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> {
        core::iter::once(&self.home).chain(&self.others)
    }

    pub(super) fn parts_mut(&mut self) -> impl Iterator<Item = &mut Part> {
        core::iter::once(&mut self.home).chain(&mut self.others)
    }

    #[inline]
    pub(super) fn part_mut(&mut self, index: usize) -> &mut Part {
        if index == 0 { &mut self.home } else { &mut self.others[index - 1] }
    }

    /// The transaction can only end from here on.
    #[cold]
    pub(super) fn fail(&mut self) {
        self.failed = true;
        self.home.forget_plain();
    }

    #[inline]
    pub(super) fn settle(&mut self) -> Result<()> {
        let mut wrote = self.home.settle()?;
        for part in &mut self.others {
            wrote |= part.settle()?;
        }
        if wrote {
            persist::fence();
        }
        Ok(())
    }

    #[inline]
    pub(super) fn record(&mut self, address: usize, bytes: usize) -> Result<()> {
        let index = self.join_at(address)?;
        self.part_mut(index).record(address, bytes)
    }

    /// The part of the object at `window`, taking its lock and telling both logs of each other when it is new (**X2**).
    #[inline]
    fn join(&mut self, window: Window) -> Result<usize> {
        if window == self.home.window() { Ok(0) } else { self.join_other(window) }
    }

    /// [`Inner::join`] by an address in the object.
    #[inline(always)]
    pub(super) fn join_at(&mut self, address: usize) -> Result<usize> {
        if address & !SLOT_MASK == self.home.window().base() {
            return Ok(0);
        }
        self.join_other(Window::around(address)?)
    }

    #[cold]
    fn join_other(&mut self, window: Window) -> Result<usize> {
        if let Some(i) = self.others.iter().position(|part| part.window() == window) {
            return Ok(i + 1);
        }
        let (id, rights) = view::what_is_at(window)?;
        // The same object through another slot has one lock and one log: use the part that has them.
        if let Some(i) = self.parts().position(|part| part.id() == id) {
            return Ok(i);
        }
        if !rights.contains(Rights::WRITE) {
            return Err(Error::NotPermitted(id));
        }
        let part = Part::try_lock(window)?;
        part.set_coordinator(self.home.id());
        self.home.record_participant(id);
        self.others.push(part);
        Ok(self.others.len())
    }

    #[inline]
    pub(super) fn alloc(
        &mut self,
        window: Window,
        bytes: usize,
        align: usize,
        take: impl Fn(&mut Part) -> Result<usize>,
    ) -> Result<usize> {
        let mut window = window;
        let mut made = self.made.len();
        crate::arena::class_for(bytes, align)?; // what fits no object must not make one
        loop {
            let index = self.join(window)?;
            match take(self.part_mut(index)) {
                // Not even in an empty one, since it would not be aligned there.
                Err(full @ Error::OutOfSpace(_)) if self.part_mut(index).was_pool_full() => return Err(full),
                Err(Error::OutOfSpace(_)) if self.made.len() > made => {
                    return Err(Error::TooLarge { bytes: bytes as u64 });
                }
                Err(Error::OutOfSpace(id)) => {
                    made = self.made.len();
                    window = self.next_object(index, id, bytes)?;
                }
                other => return other,
            }
        }
    }

    /// The object that takes what does not fit into part `index`: made on first need.
    #[cold]
    fn next_object(&mut self, index: usize, full: ObjectId, bytes: usize) -> Result<Window> {
        let (next_at, next, capacity) = self.part_mut(index).overflow()?;
        if bytes > capacity {
            return Err(Error::TooLarge { bytes: bytes as u64 });
        }
        if !next.is_null() {
            match view::map(next, READ_WRITE) {
                // The power failed after it was linked, and before it was tied: nothing of a transaction was in it (X3).
                Err(Error::NoSuchObject(_)) => {}
                found => {
                    let at = found?;
                    let full_at = self.part_mut(index).window();
                    let is_its = crate::object::continues(full, next, at);
                    return is_its
                        .then_some(at)
                        .ok_or_else(|| damaged_at(full_at, next_at, "an object that goes on from this one"));
                }
            }
        }
        let made = crate::object::create_overflow(full, capacity).map_err(|error| match error {
            Error::OutOfSpace(_) => Error::OutOfSpace(full),
            other => other,
        })?;
        let link = Link { from: self.part_mut(index).window(), at: next_at, to: made };
        self.made.push(Made { link, tied: false });
        link.store();
        view::map(made, READ_WRITE)
    }

    /// Ties the objects that were made, in the order of their chain, so that they stay; those in which nothing is after all go. Before
    /// the commit.
    #[cold]
    fn keep_made(&mut self) -> Result<()> {
        let Self { made, others, .. } = self;
        for made in made.iter().rev() {
            let is_used = others.iter_mut().find(|part| part.id() == made.link.to).is_some_and(|part| {
                part.did_anything() || part.overflow().is_ok_and(|(_, next, _)| !next.is_null())
            });
            if !is_used {
                made.link.cut();
            }
        }
        for made in made.iter_mut().filter(|made| made.link.is_there()) {
            made.link.tie()?;
            made.tied = true;
        }
        Ok(())
    }

    #[inline]
    pub(super) fn commit(&mut self) -> Result<()> {
        self.home.put_allocations()?;
        if self.others.is_empty() && self.home.only_puts() {
            self.home.commit_puts()?;
            self.ended = true;
            return Ok(());
        }
        self.commit_all()
    }

    /// [`Inner::commit`] of changes in place, of new blocks, or of several objects.
    fn commit_all(&mut self) -> Result<()> {
        if !self.others.is_empty() {
            self.prepare_others()?;
        }
        // 1. New blocks are durable before anything leads to them; so are records that nobody waited for.
        let flushed = self.home.flush_fresh();
        if self.home.settle()? || flushed || !self.others.is_empty() {
            persist::fence();
        }
        // 2. Commit point (X1).
        self.home.write_commit()?;
        persist::fence();
        // 3. What was put off.
        self.home.apply_puts();
        self.ended = true;
        for part in &mut self.others {
            part.checkpoint();
        }
        // After the others': until their logs have ended, ours says that they are committed.
        if self.home.reused_blocks() || self.home.is_log_long() {
            self.home.checkpoint();
        }
        Ok(())
    }

    /// Makes the participants' changes in place, and flushes them (**X2**); durable with the next fence.
    #[cold]
    fn prepare_others(&mut self) -> Result<()> {
        for part in &mut self.others {
            part.put_allocations()?;
            part.record_puts();
        }
        if !self.made.is_empty() {
            self.keep_made()?;
        }
        self.settle()?;
        for part in &mut self.others {
            part.store_recorded_puts();
            part.flush_changed();
        }
        Ok(())
    }

    /// Puts everything back: the participants first (**X2**).
    pub(super) fn undo(&mut self) {
        self.ended = true;
        if self.others.is_empty() && !self.home.did_anything() {
            return;
        }
        for part in &mut self.others {
            part.undo_to(None);
            part.checkpoint();
        }
        self.home.undo_to(None);
        self.home.write_abort();
        persist::fence(); // X1: before another thread appends
        if self.home.is_log_long() {
            self.home.checkpoint();
        }
    }
}
