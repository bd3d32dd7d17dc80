//! Records: objects, names and ties.
//!
//! A record starts with its commit word: state in the low half, check of place, pool, state and contents in the high
//! half. What is mutable stands twice; the commit word says which half counts, so a change is: write the other half,
//! flush, fence, store the commit word, flush, fence.

use super::{Kind, PAGE, Seal};
use crate::error::{Error, Result};
use object_id::object_id;
use pmem::Pmem;
use twz_abi::{ObjectId, Rights};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bits of a commit word's low half.
pub(crate) mod state {
    /// The record exists. Without it the slot is free and all other bits are zero.
    pub(crate) const EXISTS: u32 = 1 << 0;
    /// The second half counts, not the first.
    pub(crate) const SECOND: u32 = 1 << 1;
    /// Object: deleted, but kept while it is tied or in use.
    pub(crate) const DOOMED: u32 = 1 << 2;
    /// Name: a named root of the monitor, not a user's name.
    pub(crate) const ROOT: u32 = 1 << 3;
    /// All bits that may be set.
    pub(crate) const ALL: u32 = EXISTS | SECOND | DOOMED | ROOT;
}

/// Which records a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Objects,
    Names,
    Ties,
}

impl Class {
    /// Bytes in a slot.
    pub(crate) const fn slot_size(self) -> u64 {
        match self {
            Self::Objects => 256,
            Self::Names => 320,
            Self::Ties => 64,
        }
    }

    /// Slots in a block.
    pub(crate) const fn slots(self) -> u64 {
        PAGE / self.slot_size()
    }

    /// What the block table says of a block of this class.
    pub(crate) const fn kind(self) -> Kind {
        match self {
            Self::Objects => Kind::Objects,
            Self::Names => Kind::Names,
            Self::Ties => Kind::Ties,
        }
    }
}

/// What never changes in an object record; bytes 8–63 of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Birth {
    /// Hash of the next three.
    pub(crate) id: ObjectId,
    /// Chosen or random.
    pub(crate) nonce: [u8; 16],
    /// The key object.
    pub(crate) key: ObjectId,
    /// Default rights, as stored by the creator.
    pub(crate) rights: u32,
    /// The creator's word for what the object is.
    pub(crate) kind: u32,
}
twz_abi::assert_layout!(Birth, size = 56, id = 0, nonce = 16, key = 32, rights = 48, kind = 52);

impl Birth {
    /// Whether the ID is that of nonce, key and rights.
    pub(crate) fn is_consistent(&self) -> bool {
        object_id(&self.nonce, self.key, Rights::from_bits_retain(self.rights)) == self.id
    }
}

/// A piece of an object in one piece of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct RawExtent {
    /// First page in the object.
    pub(crate) object_page: u32,
    /// Length in pages.
    pub(crate) pages: u32,
    /// First page in the pool.
    pub(crate) pool_page: u64,
}
twz_abi::assert_layout!(RawExtent, size = 16, object_page = 0, pages = 4, pool_page = 8);

/// Extents that fit into a record; more need a tree.
pub(crate) const INLINE_EXTENTS: usize = 5;

/// Where an object's pages are; the half of an object record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct RawMap {
    /// Pool page of the root node; 0 (the superblock's page) when the extents below are the map.
    pub(crate) root: u64,
    /// Extents in use.
    pub(crate) count: u32,
    /// Reserved, zero.
    pub(crate) reserved: u32,
    /// Ascending by object page, not overlapping; zero after `count`.
    pub(crate) extents: [RawExtent; INLINE_EXTENTS],
}
twz_abi::assert_layout!(RawMap, size = 96, root = 0, count = 8, reserved = 12, extents = 16);

/// An object record as read and checked, or to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ObjectRecord {
    pub(crate) state: u32,
    pub(crate) birth: Birth,
    pub(crate) map: RawMap,
}

const BIRTH_AT: u64 = 8;
const HALVES_AT: [u64; 2] = [64, 160];

/// Which half counts.
const fn half(state: u32) -> usize {
    (state & state::SECOND != 0) as usize
}

/// The commit word of the record at `at`.
fn commit_word(seal: Seal, at: u64, state: u32, contents: &[&[u8]]) -> u64 {
    // Free slots are checked by place alone.
    #[allow(clippy::cast_possible_truncation, reason = "half of a well mixed word")]
    let start = seal.mix(at, u64::from(state)) as u32;
    let check = contents.iter().fold(start, |crc, bytes| crc32c::crc32c_append(crc, bytes));
    u64::from(check) << 32 | u64::from(state)
}

/// The state in the commit word `word` found at `at`, if it can be one; the contents are still to be checked.
fn parse_state(word: u64, at: u64) -> Result<u32> {
    #[allow(clippy::cast_possible_truncation, reason = "the low half")]
    let state = word as u32;
    let possible = state & !state::ALL == 0 && (state == 0 || state & state::EXISTS != 0);
    if possible { Ok(state) } else { Err(Error::damaged(at, "record: impossible state")) }
}

/// The commit word of a free slot.
pub(crate) fn free_word(seal: Seal, at: u64) -> u64 {
    commit_word(seal, at, 0, &[])
}

/// Frees the slot at `at`. **Commit point** of every deletion of a record.
pub(crate) fn free(pmem: &impl Pmem, seal: Seal, at: u64) {
    pmem.store(at, free_word(seal, at));
    pmem.persist(at, 8);
}

/// Reads a commit word: `None` when the slot is free.
#[inline]
fn load_state(pmem: &impl Pmem, seal: Seal, at: u64) -> Result<Option<(u64, u32)>> {
    let word = pmem.load(at);
    let state = parse_state(word, at)?;
    if state != 0 {
        return Ok(Some((word, state)));
    }
    if word == free_word(seal, at) { Ok(None) } else { Err(Error::damaged(at, "free slot: wrong check")) }
}

impl ObjectRecord {
    fn commit_word(&self, seal: Seal, at: u64) -> u64 {
        commit_word(seal, at, self.state, &[self.birth.as_bytes(), self.map.as_bytes()])
    }

    /// Reads the record at `at`; `None` when the slot is free.
    pub(crate) fn load(pmem: &impl Pmem, seal: Seal, at: u64) -> Result<Option<Self>> {
        let Some((word, state)) = load_state(pmem, seal, at)? else { return Ok(None) };
        let birth = Self::birth_at(pmem, at);
        let mut map = [0; 96];
        pmem.read(at + HALVES_AT[half(state)], &mut map);
        let record = Self { state, birth, map: zerocopy::transmute!(map) };
        if record.commit_word(seal, at) != word || state & state::ROOT != 0 {
            return Err(Error::damaged(at, "object record: wrong check"));
        }
        Ok(Some(record))
    }

    /// The birth at `at`, unchecked.
    pub(crate) fn birth_at(pmem: &impl Pmem, at: u64) -> Birth {
        let mut birth = [0; 56];
        pmem.read(at + BIRTH_AT, &mut birth);
        zerocopy::transmute!(birth)
    }

    /// Writes a new record into the free slot at `at`. Whatever its map names must be durable or flushed before.
    pub(crate) fn create(&self, pmem: &impl Pmem, seal: Seal, at: u64) {
        let map_at = at + HALVES_AT[half(self.state)];
        pmem.write(at + BIRTH_AT, self.birth.as_bytes());
        pmem.write(map_at, self.map.as_bytes());
        pmem.flush(map_at, 96);
        // The birth is in the line of the commit word and is stored before it: no flush of its own.
        pmem.fence();
        self.commit(pmem, seal, at);
    }

    /// Replaces the map. Whatever the new map names must be durable or flushed before.
    pub(crate) fn replace_map(&mut self, map: RawMap, pmem: &impl Pmem, seal: Seal, at: u64) {
        self.state ^= state::SECOND;
        self.map = map;
        let map_at = at + HALVES_AT[half(self.state)];
        pmem.write(map_at, map.as_bytes());
        pmem.flush(map_at, 96);
        pmem.fence();
        self.commit(pmem, seal, at);
    }

    /// Changes the state bits.
    pub(crate) fn replace_state(&mut self, state: u32, pmem: &impl Pmem, seal: Seal, at: u64) {
        self.state = state;
        self.commit(pmem, seal, at);
    }

    /// **Commit point** of creation and change of objects.
    fn commit(&self, pmem: &impl Pmem, seal: Seal, at: u64) {
        pmem.store(at, self.commit_word(seal, at));
        pmem.persist(at, 8);
    }
}

/// B lives as long as A.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct TieRecord {
    /// B.
    pub(crate) tied: ObjectId,
    /// A.
    pub(crate) holder: ObjectId,
}
twz_abi::assert_layout!(TieRecord, size = 32, tied = 0, holder = 16);

impl TieRecord {
    fn commit_word(&self, seal: Seal, at: u64) -> u64 {
        commit_word(seal, at, state::EXISTS, &[self.as_bytes()])
    }

    /// Reads the record at `at`; `None` when the slot is free.
    pub(crate) fn load(pmem: &impl Pmem, seal: Seal, at: u64) -> Result<Option<Self>> {
        let Some((word, _)) = load_state(pmem, seal, at)? else { return Ok(None) };
        let mut bytes = [0; 32];
        pmem.read(at + 8, &mut bytes);
        let record: Self = zerocopy::transmute!(bytes);
        if record.commit_word(seal, at) != word {
            return Err(Error::damaged(at, "tie record: wrong check"));
        }
        Ok(Some(record))
    }

    /// Writes a new record into the free slot at `at`: one line, its commit word stored last (**commit point**). Durable
    /// after the next fence.
    pub(crate) fn create(&self, pmem: &impl Pmem, seal: Seal, at: u64) {
        pmem.write(at + 8, self.as_bytes());
        pmem.store(at, self.commit_word(seal, at));
        pmem.flush(at, 8);
    }
}

/// Restoring a commit word of which the state bits were damaged.
pub(crate) mod revive {
    use super::state;
    use pmem::Pmem;

    /// Every commit word with the check of `word` and a state that a record can have.
    pub(crate) fn candidates(word: u64) -> impl Iterator<Item = u64> {
        let check = word & !u64::from(u32::MAX);
        (1..=state::ALL).filter(|bits| bits & state::EXISTS != 0).map(move |bits| check | u64::from(bits))
    }

    /// A medium on which one word is another: for looking at a record as if it were repaired. Reads only.
    pub(crate) struct Probe<'a, M> {
        pub(crate) pmem: &'a M,
        pub(crate) at: u64,
        pub(crate) word: u64,
    }

    impl<M: Pmem> Pmem for Probe<'_, M> {
        fn len(&self) -> u64 {
            self.pmem.len()
        }
        fn load(&self, at: u64) -> u64 {
            if at == self.at { self.word } else { self.pmem.load(at) }
        }
        fn read(&self, at: u64, into: &mut [u8]) {
            self.pmem.read(at, into);
        }
        fn store(&self, _: u64, _: u64) {}
        fn compare_exchange(&self, at: u64, _: u64, _: u64) -> Result<u64, u64> {
            Err(self.load(at))
        }
        fn write(&self, _: u64, _: &[u8]) {}
        fn write_nt(&self, _: u64, _: &[u8]) {}
        fn zero_nt(&self, _: u64, _: u64) {}
        fn copy_nt(&self, _: u64, _: u64, _: u64) {}
        fn flush(&self, _: u64, _: u64) {}
        fn fence(&self) {}
    }
}

/// Longest name in bytes.
pub const MAX_NAME: usize = 255;
const NAME_BYTES: usize = 272;

/// A name and what it means; bytes 8–319 of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct RawName {
    /// What it means, twice; the commit word says which counts.
    targets: [[u64; 2]; 2],
    /// Bytes in the name: 1 to 255.
    len: u64,
    /// UTF-8, then zeros.
    name: [u8; NAME_BYTES],
}
twz_abi::assert_layout!(RawName, size = 312, targets = 0, len = 32, name = 40);

/// A name record as read and checked, or to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NameRecord {
    pub(crate) state: u32,
    pub(crate) name: Box<str>,
    pub(crate) target: u128,
}

const fn words(value: u128) -> [u64; 2] {
    let id = ObjectId::from_u128(value);
    [id.lo, id.hi]
}

impl NameRecord {
    /// Whether this is one of the monitor's roots.
    pub(crate) const fn is_root(&self) -> bool {
        self.state & state::ROOT != 0
    }

    fn commit_word(&self, seal: Seal, at: u64) -> u64 {
        commit_word(seal, at, self.state, &[&self.target.to_le_bytes(), self.name.as_bytes()])
    }

    /// Reads the record at `at`; `None` when the slot is free.
    pub(crate) fn load(pmem: &impl Pmem, seal: Seal, at: u64) -> Result<Option<Self>> {
        let Some((word, state)) = load_state(pmem, seal, at)? else { return Ok(None) };
        let mut bytes = [0; 312];
        pmem.read(at + 8, &mut bytes);
        let raw: RawName = zerocopy::transmute!(bytes);
        let [lo, hi] = raw.targets[half(state)];
        let length = usize::try_from(raw.len).unwrap_or(usize::MAX);
        let name = raw.name[..MAX_NAME].get(..length).and_then(|name| core::str::from_utf8(name).ok());
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Err(Error::damaged(at, "name record: not a name"));
        };
        let record = Self { state, name: name.into(), target: ObjectId { lo, hi }.as_u128() };
        if record.commit_word(seal, at) != word || state & state::DOOMED != 0 {
            return Err(Error::damaged(at, "name record: wrong check"));
        }
        Ok(Some(record))
    }

    /// Writes a new record into the free slot at `at`. The name is 1 to 255 bytes long.
    pub(crate) fn create(&self, pmem: &impl Pmem, seal: Seal, at: u64) {
        let mut raw = RawName { targets: [[0; 2]; 2], len: self.name.len() as u64, name: [0; NAME_BYTES] };
        raw.targets[half(self.state)] = words(self.target);
        raw.name[..self.name.len()].copy_from_slice(self.name.as_bytes());
        let used = 40 + self.name.len().next_multiple_of(8);
        pmem.write(at + 8, &raw.as_bytes()[..used]);
        let end = 8 + used as u64;
        if end > pmem::LINE {
            // The first line goes with the commit word.
            pmem.flush(at + pmem::LINE, end - pmem::LINE);
            pmem.fence();
        }
        pmem.store(at, self.commit_word(seal, at));
        pmem.persist(at, 8);
    }

    /// Makes the name mean `target`: both are in the line of the commit word, stored last (**commit point**).
    pub(crate) fn replace_target(&mut self, target: u128, pmem: &impl Pmem, seal: Seal, at: u64) {
        self.state ^= state::SECOND;
        self.target = target;
        let target_at = at + 8 + 16 * half(self.state) as u64;
        pmem.write(target_at, words(target).as_bytes());
        pmem.store(at, self.commit_word(seal, at));
        pmem.persist(at, 8);
    }
}
