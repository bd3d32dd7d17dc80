//! The resume list: the threads that begin again at the next start of the machine, in the pool.
//!
//! # Contract
//! - The pool root [`LIST_KEY`] names an object that only the monitor uses: a header, then records of [`RECORD_BYTES`] (`docs/formats/resume.md`).
//! - **Commit point** of every change: the first word of one record, stored last and atomically. A record that replaces another names its
//!   sequence number, so that a failure between the two leaves one of them in force.
//! - A *try* is a start of the thread. It failed unless the thread confirmed it and was not ended by a fault after that. After
//!   [`TRIES_MAX`] failed tries in a row the thread is set aside: it stays on the list and is not started.
//!
//! ```text
//! Free --set--> Resumable --3 failed tries--> SetAside
//!   ^------over------'  ^--------retry----------'  |
//!   ^-------------------clear----------------------'
//! ```

pub mod command;

use crate::machine::PROGRAM_PREFIX;
use pool::{Error as PoolError, ObjectRef, ObjectSpec, Pool};
use serde::Serialize;
use std::collections::HashSet;
use twz_abi::ObjectId;
use twz_abi::object::DATA_OFFSET;
use twz_abi::resume::ResumeSpec;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Pool root that names the object with the list.
const LIST_KEY: &str = "resume";
/// Nonce of that object; programs' objects have hashed ones.
const LIST_NONCE: [u8; 16] = *b"twz resume list\0";
/// Start of the list: "TWZRESM1" in memory order.
const LIST_MAGIC: u64 = u64::from_le_bytes(*b"TWZRESM1");
/// Version of the list's layout.
const LIST_VERSION: u64 = 1;
/// Where records begin.
const RECORDS_OFFSET: u64 = DATA_OFFSET + 4096;
/// Bytes of a record.
const RECORD_BYTES: u64 = 256;
/// Most records.
const RECORDS_MAX: usize = 4096;
/// Failed tries in a row after which a thread is set aside.
pub const TRIES_MAX: u8 = 3;

/// A record as it stands in the list.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawRecord {
    /// [`Word`]; stored last.
    word: u64,
    /// Different in every record ever made.
    sequence: u64,
    /// Sequence number of the record that this one replaces; 0 for none.
    replaces: u64,
    /// Threads are resumed in ascending order of this.
    order: u64,
    view: ObjectId,
    context: ObjectId,
    /// The program object.
    text: ObjectId,
    spec: ResumeSpec,
    reserved: [u64; 6],
}
twz_abi::assert_layout!(
    RawRecord,
    size = 256,
    word = 0,
    sequence = 8,
    replaces = 16,
    order = 24,
    view = 32,
    context = 48,
    text = 64,
    spec = 80,
    reserved = 208
);

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Started at the next start of the machine.
    Resumable,
    /// Not started: it failed too often.
    SetAside,
}

/// The changing part of a record, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// What it is.
    pub kind: Kind,
    /// Failed tries in a row, the running one included.
    pub tries: u8,
    /// The last start was confirmed.
    pub confirmed: bool,
    /// A fault ended the thread since its last start.
    pub faulted: bool,
    /// Starts in all.
    pub times: u32,
}

impl Word {
    const RESUMABLE: u64 = 1;
    const SET_ASIDE: u64 = 2;
    const CONFIRMED: u64 = 1 << 16;
    const FAULTED: u64 = 1 << 17;

    fn pack(self) -> u64 {
        let kind = match self.kind {
            Kind::Resumable => Self::RESUMABLE,
            Kind::SetAside => Self::SET_ASIDE,
        };
        let flag = |set: bool, flag: u64| if set { flag } else { 0 };
        kind | u64::from(self.tries) << 8
            | flag(self.confirmed, Self::CONFIRMED)
            | flag(self.faulted, Self::FAULTED)
            | u64::from(self.times) << 32
    }

    /// `None` for a free record.
    fn unpack(word: u64) -> Option<Self> {
        let [kind, tries, flags, _, t0, t1, t2, t3] = word.to_le_bytes();
        let kind = match u64::from(kind) {
            Self::RESUMABLE => Kind::Resumable,
            Self::SET_ASIDE => Kind::SetAside,
            _ => return None,
        };
        let flags = u64::from(flags) << 16;
        Some(Self {
            kind,
            tries,
            confirmed: flags & Self::CONFIRMED != 0,
            faulted: flags & Self::FAULTED != 0,
            times: u32::from_le_bytes([t0, t1, t2, t3]),
        })
    }
}

/// A thread on the list.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// Its state.
    pub word: Word,
    /// The view that it runs in.
    pub view: ObjectId,
    /// Its security context.
    pub context: ObjectId,
    /// The program object that it runs.
    pub text: ObjectId,
    /// How it begins.
    pub spec: ResumeSpec,
    sequence: u64,
    order: u64,
}

impl Record {
    /// What people call it: its program's name and its own.
    #[must_use]
    pub fn describe(&self, pool: &Pool) -> String {
        let names = pool.names_of(self.text);
        let program = names.iter().find_map(|name| name.strip_prefix(PROGRAM_PREFIX));
        let name = &self.spec.name;
        let length = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        let own = String::from_utf8_lossy(&name[..length]);
        format!("{} ({})", program.unwrap_or("a program without a name"), own.escape_debug())
    }
}

/// The list, and its copy in memory.
#[derive(Debug)]
pub struct ResumeList {
    object: Option<ObjectId>,
    /// By number less one.
    records: Vec<Option<Record>>,
    next_sequence: u64,
}

impl ResumeList {
    /// The list of a pool; empty if it has none.
    ///
    /// # Errors
    /// The pool's; [`PoolError::NoSuchObject`] if the list is damaged.
    pub fn load(pool: &Pool) -> Result<Self, PoolError> {
        let empty = Self { object: None, records: Vec::new(), next_sequence: 1 };
        let Some(id) = pool.root_get(LIST_KEY).map(ObjectId::from_u128) else { return Ok(empty) };
        let object = pool.open_object(id)?;
        let mut header = [0_u64; 2];
        object.read(DATA_OFFSET, header.as_mut_bytes())?;
        if header != [LIST_MAGIC, LIST_VERSION] {
            return Err(PoolError::NoSuchObject(id));
        }
        let mut list = Self { object: Some(id), ..empty };
        let mut replaced = HashSet::new();
        for extent in object.extents()? {
            // Records never cross pages.
            let end = (extent.object_offset + extent.len).min(record_offset(RECORDS_MAX));
            let mut at = extent.object_offset.max(RECORDS_OFFSET);
            while at < end {
                let mut raw = RawRecord::new_zeroed();
                object.read(at, raw.as_mut_bytes())?;
                let index = usize::try_from((at - RECORDS_OFFSET) / RECORD_BYTES).unwrap_or(RECORDS_MAX);
                at += RECORD_BYTES;
                let Some(word) = Word::unpack(raw.word) else { continue };
                let next = raw.sequence.checked_add(1).ok_or(PoolError::NoSuchObject(id))?;
                list.next_sequence = list.next_sequence.max(next);
                replaced.insert(raw.replaces);
                let RawRecord { sequence, order, view, context, text, spec, .. } = raw;
                list.put(index, Some(Record { word, view, context, text, spec, sequence, order }));
            }
        }
        // 2 of `set` was reached and 3 was not.
        for index in 0..list.records.len() {
            if list.records[index].is_some_and(|record| replaced.contains(&record.sequence)) {
                list.free(&object, index)?;
            }
        }
        Ok(list)
    }

    /// The numbers and records in the order in which they are started.
    pub fn in_order(&self) -> Vec<(u64, Record)> {
        let numbered = self.records.iter().zip(1..);
        let mut all: Vec<_> = numbered.filter_map(|(record, number)| Some((number, (*record)?))).collect();
        all.sort_unstable_by_key(|(_, record)| record.order);
        all
    }

    /// The record with this number.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<Record> {
        *self.records.get(index_of(number)?)?
    }

    /// Puts a thread on the list, in place of the one with number `old` if there is one; returns its number.
    ///
    /// # Errors
    /// The pool's; [`PoolError::Full`] when the list is. Then nothing has changed.
    pub fn set(
        &mut self,
        pool: &Pool,
        old: u64,
        [view, context, text]: [ObjectId; 3],
        spec: ResumeSpec,
    ) -> Result<u64, PoolError> {
        let object = self.object(pool)?;
        let known = self.get(old);
        let index = self.records.iter().position(Option::is_none).unwrap_or(self.records.len());
        if index >= RECORDS_MAX {
            return Err(PoolError::Full { bytes: RECORD_BYTES });
        }
        let sequence = self.next_sequence;
        let next = sequence.checked_add(1).ok_or(PoolError::Full { bytes: RECORD_BYTES })?;
        let fresh = Word { kind: Kind::Resumable, tries: 0, confirmed: false, faulted: false, times: 0 };
        // A thread that was resumed and asks again is still in the same try.
        let word = known.map_or(fresh, |known| known.word);
        let (replaces, order) = known.map_or((0, sequence), |known| (known.sequence, known.order));
        let raw =
            RawRecord { word: 0, sequence, replaces, order, view, context, text, spec, reserved: [0; 6] };

        // 1. The body; the word is free.
        object.write(record_offset(index), raw.as_bytes())?;
        // 2. Commit point.
        object.write(record_offset(index), word.pack().as_bytes())?;
        self.next_sequence = next;
        self.put(index, Some(Record { word, view, context, text, spec, sequence, order }));
        // 3. What it replaces.
        if let Some(old) = index_of(old).filter(|_| known.is_some()) {
            self.free(&object, old)?;
        }
        Ok(index as u64 + 1)
    }

    /// Changes the state of a thread.
    ///
    /// # Errors
    /// The pool's; [`PoolError::NoSuchObject`] if there is no such thread on the list.
    pub fn change(
        &mut self,
        pool: &Pool,
        number: u64,
        change: impl FnOnce(&mut Word),
    ) -> Result<(), PoolError> {
        let object = self.object(pool)?;
        let known = index_of(number).and_then(|index| Some((index, self.records.get_mut(index)?.as_mut()?)));
        let (index, record) = known.ok_or(PoolError::NoSuchObject(object.id()))?;
        let mut word = record.word;
        change(&mut word);
        object.write(record_offset(index), word.pack().as_bytes())?;
        record.word = word;
        Ok(())
    }

    /// Takes a thread off the list; nothing to do if it is not on it.
    ///
    /// # Errors
    /// The pool's.
    pub fn remove(&mut self, pool: &Pool, number: u64) -> Result<(), PoolError> {
        if self.get(number).is_none() {
            return Ok(());
        }
        let object = self.object(pool)?;
        index_of(number).map_or(Ok(()), |index| self.free(&object, index))
    }

    /// The object, made on the first use.
    fn object(&mut self, pool: &Pool) -> Result<ObjectRef, PoolError> {
        if let Some(id) = self.object {
            return pool.open_object(id);
        }
        // Always the same ID, so that a failure before the root is set leaves nothing that nobody finds.
        let spec = ObjectSpec { nonce: Some(LIST_NONCE), ..ObjectSpec::default() };
        let id = pool::object_id(&LIST_NONCE, spec.key, spec.rights);
        if pool.contains(id) {
            pool.delete_object(id)?;
        }
        pool.create_object(&spec)?;
        let object = pool.open_object(id)?;
        object.write(DATA_OFFSET, [LIST_MAGIC, LIST_VERSION].as_bytes())?;
        pool.root_set(LIST_KEY, id.as_u128())?;
        self.object = Some(id);
        Ok(object)
    }

    fn free(&mut self, object: &ObjectRef, index: usize) -> Result<(), PoolError> {
        object.write(record_offset(index), 0_u64.as_bytes())?;
        self.put(index, None);
        Ok(())
    }

    fn put(&mut self, index: usize, record: Option<Record>) {
        if index >= self.records.len() {
            self.records.resize(index + 1, None);
        }
        self.records[index] = record;
    }
}

const fn record_offset(index: usize) -> u64 {
    RECORDS_OFFSET + index as u64 * RECORD_BYTES
}

fn index_of(number: u64) -> Option<usize> {
    usize::try_from(number.checked_sub(1)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool::CreateOptions;

    fn pool(place: &tempfile::TempDir) -> Pool {
        Pool::create(&place.path().join("pool"), 16 << 20, &CreateOptions::default()).expect("pool")
    }

    fn ids(number: u64) -> [ObjectId; 3] {
        [0, 1, 2].map(|hi| ObjectId { lo: number, hi })
    }

    #[test]
    fn what_is_set_is_loaded_in_its_order() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let pool = pool(&place);
        assert!(ResumeList::load(&pool).expect("none yet").in_order().is_empty());
        let mut list = ResumeList::load(&pool).expect("list");
        let numbers: Vec<u64> = (1..=20)
            .map(|name| {
                let spec = ResumeSpec { argument: name, ..ResumeSpec::default() };
                list.set(&pool, 0, ids(name), spec).expect("set")
            })
            .collect();
        list.remove(&pool, numbers[3]).expect("remove");
        list.remove(&pool, 4000).expect("nothing there");
        // Replaced: a new number, the old place in the order.
        let spec = ResumeSpec { argument: 77, ..ResumeSpec::default() };
        list.change(&pool, numbers[5], |word| word.tries = 2).expect("change");
        let again = list.set(&pool, numbers[5], ids(6), spec).expect("set again");
        assert_ne!(again, numbers[5]);
        let loaded = ResumeList::load(&pool).expect("load");
        let arguments: Vec<u64> = loaded.in_order().iter().map(|(_, record)| record.spec.argument).collect();
        assert_eq!(arguments, [1, 2, 3, 5, 77, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]);
        assert_eq!(loaded.get(again).expect("there").word.tries, 2, "the same try");
        assert_eq!(loaded.in_order().len(), list.in_order().len());
        // Its place is free since it was replaced; that of the removed one was used for it.
        assert_eq!(again, numbers[3]);
        assert!(list.change(&pool, numbers[5], |_| {}).is_err());
    }

    #[test]
    fn of_two_records_for_one_thread_the_newer_counts() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let pool = pool(&place);
        let mut list = ResumeList::load(&pool).expect("list");
        let first = list.set(&pool, 0, ids(1), ResumeSpec::default()).expect("set");
        let spec = ResumeSpec { argument: 2, ..ResumeSpec::default() };
        list.set(&pool, first, ids(1), spec).expect("set again");
        // As a failure before step 3 leaves it.
        let object = list.object(&pool).expect("object");
        let word = Word { kind: Kind::Resumable, tries: 0, confirmed: false, faulted: false, times: 0 };
        object.write(record_offset(0), word.pack().as_bytes()).expect("write");
        for _ in 0..2 {
            let loaded = ResumeList::load(&pool).expect("load");
            let arguments: Vec<u64> =
                loaded.in_order().iter().map(|(_, record)| record.spec.argument).collect();
            assert_eq!(arguments, [2]);
        }
    }

    #[test]
    fn a_sequence_number_that_none_follows_is_refused() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let pool = pool(&place);
        let mut list = ResumeList::load(&pool).expect("list");
        list.set(&pool, 0, ids(1), ResumeSpec::default()).expect("set");
        let object = list.object(&pool).expect("object");
        let sequence_at = record_offset(0) + std::mem::offset_of!(RawRecord, sequence) as u64;
        // The last that is taken: what is on the list is resumed, but nothing can be added.
        object.write(sequence_at, (u64::MAX - 1).as_bytes()).expect("write");
        let mut list = ResumeList::load(&pool).expect("load");
        assert_eq!(list.in_order().len(), 1);
        let refused = list.set(&pool, 0, ids(2), ResumeSpec::default());
        assert!(matches!(refused, Err(PoolError::Full { .. })), "{refused:?}");
        object.write(sequence_at, u64::MAX.as_bytes()).expect("write");
        assert!(matches!(ResumeList::load(&pool), Err(PoolError::NoSuchObject(_))));
    }

    #[test]
    fn a_word_keeps_what_it_is_given() {
        let word =
            Word { kind: Kind::SetAside, tries: 255, confirmed: true, faulted: false, times: 0xfedc_ba98 };
        assert_eq!(Word::unpack(word.pack()), Some(word));
        assert_eq!(Word::unpack(0), None);
        assert_eq!(Word::unpack(u64::MAX), None);
    }
}
