//! Whether what stands in an object may be read: recovery for those who open it, follow a pointer to it, or may only read it.
//!
//! # Contract
//! - **K1** what is read at a mapping after [`recover_to_read`] is what was committed: the object was recovered in this boot, or it need not be.
//! - It need not be when its log is empty, or says nothing but what stands there already, as after an orderly end. So those who may only read are
//!   kept out only where a change was really cut off.
//! - Nothing is written through a mapping without the right to write.

use super::log::{Batch, Entry, Kind, Log};
use super::part::lock_of;
use super::recover::recover_if_first;
use crate::error::{Error, Result};
use crate::object;
use crate::sys::{Platform, Seam};
use crate::view;
use crate::window::{PAGE, Window};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use twz_abi::{ObjectId, Rights};

const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);
/// Looks at a lock whose holder recovers the object, before it is taken for one that never ends.
const PATIENCE: u32 = 100_000;

/// Sees to it that `id`, mapped at `window` with `rights`, is recovered (**K1**). Objects that are not `libtwz`'s are as they are.
///
/// # Errors
/// What recovery says; [`Error::Unrecovered`] where this program may not do it.
pub(crate) fn recover_to_read(id: ObjectId, window: Window, rights: Rights) -> Result<()> {
    if !object::has_log(window) {
        return Ok(());
    }
    let (log, _) = object::log_of(window)?;
    let lock = lock_of(&log);
    if lock.is_recovered() {
        return Ok(());
    }
    let may_write = Platform::stat(id)?.granted.contains(READ_WRITE);
    if rights.contains(READ_WRITE) && may_write {
        return recover_if_first(window);
    }
    // Whoever appends to it has recovered the object before.
    if matches!(log.read(&mut log.start()), Ok(None)) {
        return Ok(());
    }
    if may_write {
        return recover_if_first(view::map(id, READ_WRITE)?);
    }
    for _ in 0..PATIENCE {
        if !lock.is_held_by_one_that_lives() {
            break;
        }
        if lock.is_recovered() {
            return Ok(());
        }
        Platform::yield_now();
    }
    // Looked at last: somebody may have recovered the object, and changed it since, while we compared.
    if stands_already(&log) || lock.is_recovered() { Ok(()) } else { Err(Error::Unrecovered(id)) }
}

/// Whether recovery would change nothing: no transaction trails, and memory is what the log says.
fn stands_already(log: &Log) -> bool {
    let mut pages = Pages { window: log.window, changed: BTreeMap::new() };
    let mut at = log.start();
    let mut pending: Vec<Batch> = Vec::new();
    loop {
        let batch = match log.read(&mut at) {
            Ok(Some(batch)) => batch,
            Ok(None) => break,
            Err(_) => return false, // a piece that this program may not use
        };
        pending.push(batch);
        match batch.kind {
            Kind::Undo | Kind::Redo => {}
            Kind::Commit => {
                let redo = pending.drain(..).filter(|batch| batch.kind != Kind::Undo);
                redo.for_each(|batch| log.entries(batch).for_each(|entry| pages.put(entry)));
            }
            Kind::Abort => {
                let undo = pending.drain(..).filter(|batch| batch.kind == Kind::Undo);
                let entries: Vec<Entry> = undo.flat_map(|batch| log.entries(batch)).collect();
                entries.into_iter().rev().for_each(|entry| pages.put(entry));
            }
        }
    }
    pending.iter().all(|batch| batch.kind != Kind::Undo) && pages.are_as_in_memory()
}

/// Pages of an object as they would be.
struct Pages {
    window: Window,
    changed: BTreeMap<usize, Box<[u8; PAGE]>>,
}

impl Pages {
    fn page(window: Window, start: usize) -> Box<[u8; PAGE]> {
        let mut page = Box::new([0; PAGE]);
        window.read(start, &mut page[..]);
        page
    }

    /// Puts a range as an entry says; what no transaction may change is left alone, as recovery does.
    fn put(&mut self, entry: Entry) {
        let Entry::Range { offset, bytes, window, payload } = entry else { return };
        if !Log::may_restore(offset, bytes) {
            return;
        }
        let mut done = 0;
        while done < bytes {
            let (start, at) = ((offset + done) & !(PAGE - 1), (offset + done) % PAGE);
            let count = (bytes - done).min(PAGE - at);
            let page = self.changed.entry(start).or_insert_with(|| Self::page(self.window, start));
            window.read(payload + done, &mut page[at..at + count]);
            done += count;
        }
    }

    fn are_as_in_memory(&self) -> bool {
        self.changed.iter().all(|(start, page)| *page == Self::page(self.window, *start))
    }
}
