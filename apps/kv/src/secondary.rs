//! Secondary indexes: a store's values in the order of a number that is made of each, in an object with rights of its own.
//!
//! # Contract
//! - What the number is made of stands in the object ([`By`]), and the object stands in the store's list: every writer keeps every secondary
//!   index, or is refused because it may not write it. No put goes past one.
//! - A reader needs rights on this object and on the values, none on the primary index. Values that it may not read are counted.
//! - **S1** an entry is durable before the record that it leads to can be found, and goes before the record's place is used again. What a power
//!   failure leaves in between goes when the store is recovered.
//! - **S2** an entry tells the record's sequence. A place that was used again has another, and that is stored before anything else of the new record
//!   ([`crate::data`]): so what is read through an entry is the value that it was made for, or [`Error::Changed`].
//! - **S3** entries are read in pieces of which each is as it was at one moment: what nobody changes is found, and found once, whatever others do.

use crate::error::{Error, Result};
use crate::layout::{Record, zero};
use crate::life::Life;
use crate::store::{Refused, Scanned};
use crate::value::Value;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use libtwz::prelude::*;
use libtwz::sync::{RawMutex, Version};
use libtwz::{PersistentPtr, Window, at, collections, persist, translate};

/// Entries that are read at one moment.
const PIECE: usize = 32;
/// Bytes that [`By::Number`] looks at: a number of 64 bits has 20 digits at most.
const DIGITS: usize = 20;

/// What a secondary index orders values by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The decimal number that the value begins with. Values that begin with none below 2^64 are left out.
    Number,
    /// The value's first eight bytes, as text is ordered.
    Text,
    /// The eight bytes at this offset of the value, little-endian. Values that end before are left out.
    Word(u32),
}

impl By {
    /// The number that a value is ordered by; `None` leaves it out.
    #[must_use]
    pub fn number_of(self, value: &[u8]) -> Option<u64> {
        match self {
            Self::Number => {
                let digits = value.iter().take(DIGITS + 1).take_while(|byte| byte.is_ascii_digit()).count();
                core::str::from_utf8(&value[..digits]).ok()?.parse().ok()
            }
            Self::Text => Some(u64::from_be_bytes(first_bytes(value, 0))),
            Self::Word(at) => {
                let bytes = value.get(usize::try_from(at).ok()?..)?.first_chunk()?;
                Some(u64::from_le_bytes(*bytes))
            }
        }
    }

    /// The least and the greatest number of values that lie between two, both included: for [`By::Text`] also those that go on after `to`.
    #[must_use]
    pub fn range_of(self, from: &[u8], to: &[u8]) -> Option<[u64; 2]> {
        match self {
            Self::Text => Some([first_bytes(from, 0), first_bytes(to, 0xff)].map(u64::from_be_bytes)),
            _ => Some([self.number_of(from)?, self.number_of(to)?]),
        }
    }

    /// As it stands in the object.
    const fn to_word(self) -> u64 {
        match self {
            Self::Number => 1,
            Self::Text => 2,
            Self::Word(at) => 3 | (at as u64) << 32,
        }
    }

    fn from_word(word: u64) -> Result<Self> {
        #[allow(clippy::cast_possible_truncation, reason = "the halves are meant")]
        match (word as u32, (word >> 32) as u32) {
            (1, 0) => Ok(Self::Number),
            (2, 0) => Ok(Self::Text),
            (3, at) => Ok(Self::Word(at)),
            _ => Err(Error::Damaged),
        }
    }
}

/// The key after this one.
fn after([number, sequence]: [u64; 2]) -> Option<[u64; 2]> {
    match sequence.checked_add(1) {
        Some(sequence) => Some([number, sequence]),
        None => number.checked_add(1).map(|number| [number, 0]),
    }
}

fn first_bytes(value: &[u8], rest: u8) -> [u8; 8] {
    core::array::from_fn(|i| value.get(i).copied().unwrap_or(rest))
}

/// The root of the object.
#[derive(Debug, Invariant)]
#[repr(C, align(64))]
pub(crate) struct SecondaryRoot {
    /// [`By`].
    by: PCell<u64>,
    /// 1 once all is in it that was in the store when it was made.
    complete: PCell<u64>,
    reserved: [u64; 6],
    life: Life,
    /// (number, sequence) to the pointer to the record, in this object's FOT.
    entries: collections::BTreeMap<[u64; 2], u64>,
    reserved2: [u64; 4],
    /// From here on never flushed. Guards the entries, and `changes`, which tells readers.
    lock: RawMutex,
    changes: Version,
    reserved3: [u64; 6],
}

// docs/formats/kv.md
const _: () = assert!(
    offset_of!(SecondaryRoot, life) == 64
        && offset_of!(SecondaryRoot, entries) == 192
        && offset_of!(SecondaryRoot, lock) == 256
);

impl SecondaryRoot {
    pub(crate) const fn new(by: By) -> Self {
        Self {
            by: PCell::new(by.to_word()),
            complete: zero(),
            reserved: [0; 6],
            life: Life::new(false),
            entries: collections::BTreeMap::new(),
            reserved2: [0; 4],
            lock: RawMutex::new(),
            changes: Version::new(),
            reserved3: [0; 6],
        }
    }
}

/// A secondary index, for reading.
#[derive(Clone, Copy, Debug)]
pub struct Secondary {
    id: ObjectId,
    entries: Entries,
}

impl Secondary {
    /// Opens one.
    ///
    /// # Errors
    /// [`Error::NeedsRecovery`] before the store was recovered, and while the index is being made; what opening an object says.
    pub fn open(id: ObjectId) -> Result<Self> {
        let object = Object::<SecondaryRoot>::open_with(id, Rights::READ)?;
        #[allow(clippy::cast_possible_truncation, reason = "below 2^30")]
        let pointer = PersistentPtr::new(0, object.global().offset() as u32);
        let entries = Entries::at(object.window(), pointer)?;
        let is_there = entries.root.complete.get() != 0 && entries.root.life.is_readable();
        if is_there { Ok(Self { id, entries }) } else { Err(Error::NeedsRecovery) }
    }

    /// The object's ID.
    #[must_use]
    pub const fn id(&self) -> ObjectId {
        self.id
    }

    /// What it orders values by.
    #[must_use]
    pub const fn by(&self) -> By {
        self.entries.by
    }

    /// Calls `each` with the number and place of every value whose number is in `from..=to`, in order; of equal ones the older first. Returns
    /// how many there were, and how many the security context does not permit. A value that is put or deleted meanwhile may or may not be among
    /// them: one for which `each` says [`Error::Changed`] is not.
    ///
    /// # Errors
    /// Damage, and what `each` says; `TimedOut` when writers leave the index alone at no time.
    pub fn range(
        &self,
        from: u64,
        to: u64,
        mut each: impl FnMut(u64, Value) -> Result<()>,
    ) -> Result<Scanned> {
        let mut scanned = Scanned::default();
        let mut refused = Refused::default();
        let mut next = Some([from, 0]);
        while let Some(first) = next {
            let piece = self.entries.piece(first, to)?;
            next = piece.last().filter(|_| piece.len() == PIECE).and_then(|(last, _)| after(*last));
            for ([number, sequence], pointer) in piece {
                let pointer = PersistentPtr(pointer);
                let found = refused.unless(pointer.index(), || self.entries.value(pointer, sequence))?;
                match found {
                    None => scanned.hidden += 1,
                    Some(None) => {}
                    Some(Some(value)) => match each(number, value) {
                        Err(Error::Changed) => {}
                        done => {
                            scanned.pairs += 1;
                            done?;
                        }
                    },
                }
            }
        }
        Ok(scanned)
    }
}

/// The entries of a secondary index, and how they are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entries {
    root: &'static SecondaryRoot,
    window: Window,
    by: By,
}

impl Entries {
    /// Those of the index whose root a pointer leads to.
    pub(crate) fn at(holder: Window, pointer: PersistentPtr) -> Result<Self> {
        let root: &'static SecondaryRoot = at(holder, pointer)?;
        let window = Window::around(core::ptr::from_ref(root).addr())?;
        Ok(Self { root, window, by: By::from_word(root.by.get())? })
    }

    pub(crate) const fn life(&self) -> &'static Life {
        &self.root.life
    }

    /// Ends to write here; the last writer makes durable in place what the log has: a reader recovers nothing.
    pub(crate) fn end(&self) -> Result<()> {
        self.root.life.end(|| Ok(libtwz::tx::checkpoint(self.window)?))
    }

    /// Whether it is being made.
    pub(crate) fn is_new(&self) -> bool {
        self.root.complete.get() == 0
    }

    pub(crate) fn set_complete(&self) {
        self.root.complete.set_without_log(1);
        persist::persist(self.root.complete.as_ptr().addr(), 8);
    }

    /// The first entries from `first` on, as they are at one moment (**S3**); fewer than [`PIECE`] are the last ones.
    fn piece(&self, first: [u64; 2], to: u64) -> Result<Vec<([u64; 2], u64)>> {
        let entries = &self.root.entries;
        Ok(self.root.changes.read(|| entries.range(first..=[to, u64::MAX]).take(PIECE).collect())?)
    }

    /// Changes entries.
    fn change<R>(&self, change: impl FnOnce() -> libtwz::Result<R>) -> Result<R> {
        self.root.lock.lock()?;
        let result = self.root.changes.write(change);
        self.root.lock.unlock();
        Ok(result?)
    }

    /// Notes a value that stands in the record at `address`.
    pub(crate) fn add(&self, value: &[u8], sequence: u64, address: usize) -> Result<()> {
        if let Some(number) = self.by.number_of(value) {
            let pointer = translate::persistent(self.window, address)?;
            self.change(|| self.root.entries.insert([number, sequence], pointer.0))?;
        }
        Ok(())
    }

    /// Notes a record that nobody changes meanwhile.
    pub(crate) fn add_record(&self, record: &Record) -> Result<()> {
        self.add(&value_of(record)?, record.sequence(), record.window.base() + record.offset)
    }

    /// Forgets a record, before its place is used again.
    pub(crate) fn take_out(&self, window: Window, offset: usize) -> Result<()> {
        let Some(record) = Record::at(window, offset) else { return Ok(()) };
        if let Some(number) = self.by.number_of(&value_of(&record)?) {
            self.change(|| self.root.entries.remove(&[number, record.sequence()]))?;
        }
        Ok(())
    }

    pub(crate) fn clear(&self) -> Result<()> {
        self.change(|| self.root.entries.clear())
    }

    /// The value that an entry leads to; `None` if it left (**S2**).
    fn value(&self, pointer: PersistentPtr, sequence: u64) -> Result<Option<Value>> {
        let address = translate::lea(self.window, pointer)?;
        let window = Window::around(address)?;
        let offset = address - window.base();
        let Some(record) = Record::at(window, offset) else { return Ok(None) };
        let value = Value { record, version: window.word(offset + Record::SEQUENCE_AT), seen: sequence };
        Ok(value.is_current().then_some(value))
    }
}

/// A copy of the value in a record that nobody changes meanwhile.
fn value_of(record: &Record) -> Result<Vec<u8>> {
    let version = record.window.word(record.offset + Record::SEQUENCE_AT);
    Value { record: *record, version, seen: version.load(Ordering::Acquire) }.to_vec()
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use core::sync::atomic::AtomicBool;

    #[test]
    fn numbers_are_made_of_values() {
        let number = |value: &[u8]| By::Number.number_of(value);
        assert_eq!((number(b"17 apples"), number(b"0"), number(b"007")), (Some(17), Some(0), Some(7)));
        assert_eq!((number(b""), number(b"apples"), number(b"-1")), (None, None, None));
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!((number(b"18446744073709551616"), number(&[b'9'; 40])), (None, None));
        let text = |value: &[u8]| By::Text.number_of(value).unwrap();
        assert!(text(b"") < text(b"a") && text(b"a") < text(b"aa") && text(b"aa") < text(b"b"));
        assert_eq!(text(b"abcdefgh"), text(b"abcdefghi"));
        assert_eq!(By::Word(3).number_of(b"abc\x01\0\0\0\0\0\0\0"), Some(1));
        assert_eq!(
            (By::Word(4).number_of(b"abc\x01\0\0\0\0\0\0\0"), By::Word(u32::MAX).number_of(b"")),
            (None, None)
        );
        let [from, to] = By::Text.range_of(b"b", b"b").unwrap();
        assert!((from..=to).contains(&text(b"bzz")) && !(from..=to).contains(&text(b"c")));
        assert_eq!(
            (By::Number.range_of(b"3", b"20"), By::Number.range_of(b"3", b"x")),
            (Some([3, 20]), None)
        );
    }

    /// A reader that comes while an entry is moved finds it.
    #[test]
    fn entries_are_read_between_changes() {
        let object = ObjectBuilder::new().build(SecondaryRoot::new(By::Number)).unwrap();
        let root = u32::try_from(object.global().offset()).unwrap();
        let entries = Entries::at(object.window(), PersistentPtr::new(0, root)).unwrap();
        entries.change(|| entries.root.entries.insert([7, 1], 5)).unwrap();
        let (begun, done) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !begun.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                // A writer that does not get to run may outlast one attempt.
                let found = core::iter::repeat_with(|| entries.piece([0, 0], 9)).find_map(Result::ok);
                done.store(true, Ordering::Release);
                found.unwrap()
            });
            entries
                .change(|| {
                    entries.root.entries.remove(&[7, 1])?;
                    begun.store(true, Ordering::Release);
                    (0..2000)
                        .take_while(|_| !done.load(Ordering::Acquire))
                        .for_each(|_| std::thread::yield_now());
                    entries.root.entries.insert([7, 1], 5)
                })
                .unwrap();
            assert_eq!(reader.join().unwrap(), [([7, 1], 5)]);
        });
    }

    #[test]
    fn what_orders_comes_back_from_its_word() {
        for by in [By::Number, By::Text, By::Word(0), By::Word(u32::MAX)] {
            assert_eq!(By::from_word(by.to_word()), Ok(by));
        }
        for damaged in [0, 4, 1 | 1 << 32, u64::MAX] {
            assert_eq!(By::from_word(damaged), Err(Error::Damaged));
        }
    }
}
