//! References between objects: reading foreign object tables, and changing them in one step.
//!
//! # Contract
//! - A table belongs to its object's program: every byte of it is a claim. Reading is bounded by [`FOT_MAX_ENTRIES`] and
//!   [`MAX_NAME`], and nonsense reads as "no table" or as an entry that leads nowhere.
//! - [`Pool::retarget`] changes all references of an object or none: new pages are written beside the old ones and mapped by one
//!   commit.

use crate::Medium;
use crate::core::Pool;
use crate::error::{Error, Result};
use crate::format::records::MAX_NAME;
use crate::format::{PAGE, index};
use crate::map::{Map, Run};
use crate::object::{Content, ObjectRef};
use crate::space::Pages;
use std::collections::BTreeSet;
use twz_abi::ObjectId;
use twz_abi::object::{
    FOT_ENTRY_SIZE, FOT_MAX_ENTRIES, FotEntry, META_MAGIC, META_OFFSET, META_VERSION, ObjectMeta,
    fot_entry_offset, fot_flags,
};
use zerocopy::IntoBytes;

/// An entry of a foreign object table that is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Index in the table: the upper half of persistent pointers through it.
    pub index: u32,
    /// Where it leads.
    pub target: Target,
    /// The entry as stored.
    pub entry: FotEntry,
}

/// Where a reference leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To an object.
    Id(ObjectId),
    /// To what a name means when it is followed; `None` when the name cannot be read.
    Name(Option<String>),
}

/// Entries that are read at once.
const BATCH: u32 = 128;

impl<M: Medium> ObjectRef<M> {
    /// What the object's program says of it; `None` when that is nothing that `libtwz` wrote.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn meta(&self) -> Result<Option<ObjectMeta>> {
        self.meta_in(&self.opened.lock())
    }

    /// The foreign object table: entries in use, ascending.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn references(&self) -> Result<Vec<Reference>> {
        self.references_in(&self.opened.lock())
    }

    fn read_in(&self, content: &Content, offset: u64, into: &mut [u8]) -> Result<()> {
        self.core.read(&Map::parse(&content.record.map, self.opened.at)?, offset, into)
    }

    fn meta_in(&self, content: &Content) -> Result<Option<ObjectMeta>> {
        let mut bytes = [0; 64];
        self.read_in(content, META_OFFSET, &mut bytes)?;
        let meta: ObjectMeta = zerocopy::transmute!(bytes);
        Ok((meta.magic == META_MAGIC && meta.version == META_VERSION).then_some(meta))
    }

    fn references_in(&self, content: &Content) -> Result<Vec<Reference>> {
        let mut found = Vec::new();
        let Some(meta) = self.meta_in(content)? else { return Ok(found) };
        let end = meta.fot_len.min(FOT_MAX_ENTRIES);
        let mut first = 1;
        while first < end {
            let count = BATCH.min(end - first);
            // The table grows down: the batch starts with its last entry.
            let Some(offset) = fot_entry_offset(first + count - 1) else { break };
            let mut bytes = [0; index(BATCH as u64 * FOT_ENTRY_SIZE)];
            let bytes = &mut bytes[..index(u64::from(count) * FOT_ENTRY_SIZE)];
            self.read_in(content, offset, bytes)?;
            for (number, entry) in bytes.chunks_exact(index(FOT_ENTRY_SIZE)).rev().enumerate() {
                let mut raw = [0; 32];
                raw.copy_from_slice(entry);
                let entry: FotEntry = zerocopy::transmute!(raw);
                if entry.flags & fot_flags::VALID == 0 {
                    continue;
                }
                #[allow(clippy::cast_possible_truncation, reason = "below BATCH")]
                let index = first + number as u32;
                let target = if entry.flags & fot_flags::NAME == 0 {
                    Target::Id(entry.target)
                } else {
                    Target::Name(self.name_at(content, entry.target.lo))
                };
                found.push(Reference { index, target, entry });
            }
            first += count;
        }
        Ok(found)
    }

    /// The name (a length word, then bytes) at an offset that the object's program stored.
    fn name_at(&self, content: &Content, offset: u64) -> Option<String> {
        let mut len = [0; 8];
        self.read_in(content, offset, &mut len).ok()?;
        let len = usize::try_from(u64::from_le_bytes(len)).ok().filter(|len| *len <= MAX_NAME)?;
        let mut name = vec![0; len];
        self.read_in(content, offset.checked_add(8)?, &mut name).ok()?;
        String::from_utf8(name).ok()
    }
}

impl<M: Medium> Pool<M> {
    /// Makes every reference of `object` to `from` one to `to`, in one atomic step, and says how many there were. Names in the
    /// table are left alone.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::Full`], [`Error::NotShared`], [`Error::Damaged`].
    pub fn retarget(&self, object: ObjectId, from: ObjectId, to: ObjectId) -> Result<u64> {
        let object = self.open_object(object)?;
        let mut content = object.opened.lock();
        // Nobody may change the table while it is read and copied.
        let table = META_OFFSET - u64::from(FOT_MAX_ENTRIES) * FOT_ENTRY_SIZE;
        self.0.before_replace(&object.opened, table, META_OFFSET - table)?;
        let mut references = object.references_in(&content)?;
        references.retain(|reference| reference.target == Target::Id(from));
        let unit = self.0.unit();
        let page_of = |reference: &Reference| {
            fot_entry_offset(reference.index).map(|offset| offset / PAGE / unit * unit)
        };
        let pages: BTreeSet<u64> = references.iter().filter_map(page_of).collect();
        if pages.is_empty() {
            return Ok(0);
        }
        let mut runs: Vec<Run> = Vec::new();
        let written = pages.iter().try_for_each(|&page| {
            let taken = self.0.state().take(unit, None)?;
            runs.push(Run { object_page: page, pages: unit, pool_page: Some(taken.start) });
            let here = references.iter().filter(|reference| page_of(reference) == Some(page));
            self.write_retargeted(&object, &content, page, taken, here, to)
        });
        let changed = written.and_then(|()| self.0.change(&object.opened, &mut content, &runs, true));
        match changed {
            Ok(replaced) => content.replaced.extend(replaced),
            Err(error) => {
                let mut state = self.0.state();
                runs.iter().for_each(|run| state.space.release(run.pool_pages()));
                return Err(error);
            }
        }
        self.0.pmem.check()?;
        Ok(references.len() as u64)
    }

    /// Writes a copy of the object's pages from `page` on to `taken`, with the references changed.
    fn write_retargeted<'a>(
        &self,
        object: &ObjectRef<M>,
        content: &Content,
        page: u64,
        taken: Pages,
        references: impl Iterator<Item = &'a Reference>,
        to: ObjectId,
    ) -> Result<()> {
        self.0.pmem.reserve(taken.start * PAGE, taken.count * PAGE)?;
        let mut bytes = vec![0; index(taken.count * PAGE)];
        object.read_in(content, page * PAGE, &mut bytes)?;
        for reference in references {
            let Some(offset) = fot_entry_offset(reference.index) else { continue };
            let mut entry = reference.entry;
            entry.target = to;
            entry.generation = entry.generation.wrapping_add(1);
            let at = index(offset - page * PAGE);
            let place = bytes.get_mut(at..at + index(FOT_ENTRY_SIZE));
            place
                .ok_or(Error::damaged(taken.start * PAGE, "table entry across granules"))?
                .copy_from_slice(entry.as_bytes());
        }
        self.0.pmem.write_nt(taken.start * PAGE, &bytes);
        Ok(())
    }
}
