//! Opening, closing, and what comes between when the power fails.
//!
//! The index is the affair of whoever first opens the store in a boot: if it was not left in order ([`crate::life`]), it is built anew from the
//! data objects (about 0.1 s for a million small records). Of two records of one key the newer counts; the other one's place is made free,
//! durably, before anything else can happen to the key. That needs rights to read all data objects, to write those with such places, and to
//! write secondary indexes that were not left in order; without them the store stays as it is, for somebody who has them.
//!
//! In a data object that was not left in order the ends of chunks are found by whoever first appends there, and not before.

use super::{READ_WRITE, Store};
use crate::error::{Error, Result};
use crate::layout::Slot;
use core::sync::atomic::Ordering;
use libtwz::prelude::*;
use libtwz::{PersistentPtr, persist, view};

impl Store {
    /// Opens the store for one more writer.
    pub(super) fn begin(&self) -> Result<()> {
        self.bind_secondaries()?;
        let begun = self.root.life.hold()?.begin(|in_order| {
            for entry in self.root.data.iter() {
                let entry = entry?;
                let current = self.root.current.get(usize::try_from(entry.region).unwrap_or(usize::MAX));
                current.ok_or(Error::Damaged)?.set_without_log(entry.pointer);
            }
            self.root.newest.store(self.root.sequence.get(), Ordering::Release);
            if in_order { self.rebuild_secondaries(false) } else { self.recover() }
        });
        begun.inspect_err(|_| {
            // What hinders this as well is found by the next writer, who looks at the same words.
            let _ = self.end_in_secondaries();
        })
    }

    fn recover(&self) -> Result<()> {
        self.rebuild().and_then(|()| self.rebuild_secondaries(true)).map_err(|error| match error {
            Error::Object(libtwz::Error::NotPermitted(id)) => Error::CannotRecover(id),
            other => other,
        })?;
        self.root.recoveries.set_without_log(self.root.recoveries.get() + 1);
        persist::persist(self.root.recoveries.as_ptr().addr(), 8);
        Ok(())
    }

    /// Builds the index from the data objects.
    fn rebuild(&self) -> Result<()> {
        for entry in self.root.data.iter() {
            self.data_at(PersistentPtr(entry?.pointer), Rights::READ)?; // before anything is changed
        }
        self.index.clear()?;
        let seed = self.index.seed();
        let mut newest = self.root.sequence.get();
        for entry in self.root.data.iter() {
            let pointer = PersistentPtr(entry?.pointer);
            let data = self.data_at(pointer, Rights::READ)?;
            let mut done = Ok(());
            data.walk(|block| {
                let Some((record, key, hash)) = data.record(block, seed).filter(|_| done.is_ok()) else {
                    return;
                };
                let sequence = record.sequence();
                newest = newest.max(sequence);
                let slot = Slot::new(hash, pointer.index(), block.offset);
                let lost = |lost| self.mark_free(lost);
                done = self.index.publish(hash, &key, slot, sequence, |_| Ok(()), lost).map(drop);
            });
            done?;
        }
        persist::fence();
        self.root.newest.store(newest, Ordering::Release);
        Ok(())
    }

    /// Marks the record free that a newer one of its key was found for; its place is found by walking.
    fn mark_free(&self, slot: Slot) -> Result<()> {
        if let Some(record) = self.index.record(slot)? {
            view::bind(record.window, READ_WRITE)?;
            let second = record.window.load(record.offset + 8);
            record.window.store(record.offset + 8, second & 0xffff_ffff);
            record.window.flush(record.offset + 8, 8);
            persist::fence();
        }
        Ok(())
    }

    /// Closes the store for this writer; the last one makes everything durable.
    pub(super) fn end(&mut self) -> Result<()> {
        if !core::mem::replace(&mut self.open, false) {
            return Ok(());
        }
        self.end_in_data()?;
        self.end_in_secondaries()?;
        self.root.life.end(|| {
            libtwz::tx::checkpoint(self.window())?; // the lists, for a reader, who recovers nothing
            self.index.flush()?;
            self.root.sequence.set_without_log(self.root.newest.load(Ordering::Acquire));
            persist::flush(self.root.sequence.as_ptr().addr(), 8);
            Ok(())
        })
    }
}
