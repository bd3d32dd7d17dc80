//! The foreign object table: whom this object's pointers lead to (paper §3.3).
//!
//! ```text
//! entry i at META_OFFSET - 32 * i
//!   +0  target.lo     ID, or the offset of a name
//!   +8  target.hi     ID, or a pointer to the name's resolver
//!   +16 flags         VALID | NAME | CLAIMED with the boot's number in bits 8–31
//!   +20 rights        requested
//!   +24 generation    even; odd while a changer is at work
//! ```
//! # Contract
//! - [`insert`] returns the existing entry for (target, rights), or makes one. It does not walk the table: an index
//!   beside it, in this program's memory, takes in each entry once.
//! - **F1** crash-atomic: the word with VALID is stored last, in the line that holds the rest. An entry that was claimed
//!   but not finished at a crash is recognised by the boot's number and used again.
//! - **F2** racing threads and programs claim entries by compare-and-swap; two programs that insert the same target at the
//!   same moment may make two entries, which is harmless.
//! - **F4** entries for names are made and removed by transactions. One that is removed, or whose making is undone, is left claimed: for this
//!   boot only a transaction of this program uses it again, so that a redone log never meets an entry that was made without one.
//! - The pages of the table are had before an entry is claimed: a full pool is an error.
//! - **F3** a reader that meets a change in progress (odd generation, or one that moved) reads again.

use crate::error::{Error, Result, damaged_at};
use crate::lock::Lock;
use crate::object::META;
use crate::persist;
use crate::simulate;
use crate::sys::{Platform, Seam};
use crate::translate;
use crate::tx::{Tx, room};
use crate::view;
use crate::window::{PAGE, Window};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::{Ordering, fence as order};
use twz_abi::object::{
    FOT_ENTRY_SIZE, FOT_MAX_ENTRIES, META_OFFSET, ObjectMeta, fot_entry_offset, fot_flags,
};
use twz_abi::{ObjectId, Rights};

/// Bit of the flags word: taken, not yet complete; bits 8–31 say in which boot.
const CLAIMED: u32 = 1 << 2;
/// Tries before a change in progress is taken for one that never ends.
const PATIENCE: u32 = 10_000;

#[allow(clippy::cast_possible_truncation, reason = "2^5")]
const ENTRY_BYTES: usize = FOT_ENTRY_SIZE as usize;
const LO: usize = 0;
const HI: usize = 8;
const FLAGS: usize = 16;
const RIGHTS: usize = 20;
const GENERATION: usize = 24;
const FOT_LEN_AT: usize = META + offset_of!(ObjectMeta, fot_len);

/// One entry as it was at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// ID, or name and resolver.
    pub target: ObjectId,
    /// [`fot_flags`].
    pub flags: u32,
    /// Requested rights.
    pub rights: Rights,
    /// Even number of the last change.
    pub generation: u64,
}

#[allow(clippy::cast_possible_truncation, reason = "below 1 GiB")]
pub(crate) fn place(index: u32) -> Option<usize> {
    fot_entry_offset(index).map(|offset| offset as usize)
}

/// Reads entry `index` (**F3**).
///
/// # Errors
/// [`Error::Damaged`] when the index is out of range, the entry is not valid, or a change of it never ends.
#[inline]
pub fn read(holder: Window, index: u32) -> Result<Entry> {
    let Some(at) = place(index) else { return Err(damaged_at(holder, 0, "an FOT index in range")) };
    for _ in 0..PATIENCE {
        let generation = holder.word(at + GENERATION).load(Ordering::Acquire);
        let word = holder.word(at + FLAGS).load(Ordering::Acquire);
        let target = ObjectId { lo: holder.load(at + LO), hi: holder.load(at + HI) };
        order(Ordering::Acquire);
        if generation & 1 == 0 && holder.load(at + GENERATION) == generation {
            #[allow(clippy::cast_possible_truncation, reason = "the two halves are what is wanted")]
            let (flags, rights) = (word as u32, (word >> 32) as u32);
            if flags & fot_flags::VALID == 0 {
                return Err(damaged_at(holder, at, "a valid FOT entry"));
            }
            return Ok(Entry { target, flags, rights: Rights::from_bits_truncate(rights), generation });
        }
        core::hint::spin_loop();
    }
    Err(damaged_at(holder, at, "an FOT entry whose change ends"))
}

/// What [`target`] says where that needs neither a name nor a mapping, and nobody changes the entry: the common case, in a few instructions.
/// The index is valid.
#[inline(always)]
pub(crate) fn mapped_target(holder: Window, index: u32) -> Option<Window> {
    debug_assert!(place(index).is_some());
    let at = META - index as usize * ENTRY_BYTES;
    let generation = holder.word(at + GENERATION).load(Ordering::Acquire);
    let word = holder.word(at + FLAGS).load(Ordering::Acquire);
    let target = ObjectId { lo: holder.load(at + LO), hi: holder.load(at + HI) };
    order(Ordering::Acquire);
    let is_settled = generation & 1 == 0 && holder.load(at + GENERATION) == generation; // F3
    if is_settled { view::followed(target, word) } else { None }
}

/// Whether entry `index` names its target.
#[inline]
pub(crate) fn is_named(holder: Window, index: u32) -> bool {
    place(index).is_some_and(|at| holder.load(at + FLAGS) & u64::from(fot_flags::NAME) != 0)
}

/// Maps the target of entry `index`, resolving a name now; it is recovered.
///
/// # Errors
/// As [`read`], and [`Error::Damaged`] for an entry that does not ask for reading: whoever follows it reads; [`Error::NoSuchName`]; what mapping says.
#[inline]
pub fn target(holder: Window, index: u32) -> Result<Window> {
    let entry = read(holder, index)?;
    if !entry.rights.contains(Rights::READ) {
        return Err(damaged_at(
            holder,
            place(index).unwrap_or_default() + RIGHTS,
            "an FOT entry that asks for reading",
        ));
    }
    let id = if entry.flags & fot_flags::NAME == 0 {
        entry.target
    } else {
        crate::names::resolve_entry(holder, entry.target)?
    };
    view::map_recovered(id, entry.rights)
}

/// What this program knows of the tables it inserted into.
#[derive(Debug)]
struct Index {
    entries: BTreeMap<(ObjectId, ObjectId, u32), u32>,
    tables: BTreeMap<ObjectId, Seen>,
}

#[derive(Debug)]
struct Seen {
    /// Entries below this were taken in.
    len: u32,
    /// Entries below it that are free.
    holes: Vec<u32>,
    /// The pages from this offset on are there ([`room`]).
    there: usize,
    /// Entries that this program made for names or removed: those that are claimed now are free for other names (**F4**).
    named: Vec<u32>,
}

/// What is known of a table.
fn seen(tables: &mut BTreeMap<ObjectId, Seen>, id: ObjectId) -> &mut Seen {
    tables.entry(id).or_insert_with(|| Seen { len: 1, holes: Vec::new(), there: META, named: Vec::new() })
}

static INDEX: Lock<Index> = Lock::new(Index { entries: BTreeMap::new(), tables: BTreeMap::new() });

/// The entry of `holder`'s table that asks for `rights` to `target`: found, or made durable. Without READ it cannot be followed.
///
/// # Errors
/// [`Error::OutOfFotEntries`], [`Error::OutOfSpace`].
pub fn insert(holder: Window, target: ObjectId, rights: Rights) -> Result<u32> {
    let (id, _) = view::what_is_at(holder)?;
    let rights = rights & Rights::ACCESS;
    let key = (id, target, rights.bits());
    let mut index = INDEX.lock();
    take_in_new_entries(&mut index, holder, id);
    if let Some(&found) = index.entries.get(&key) {
        let same = |entry: Entry| {
            entry.target == target && entry.flags & fot_flags::NAME == 0 && entry.rights == rights
        };
        if read(holder, found).is_ok_and(same) {
            return Ok(found);
        }
        index.entries.remove(&key); // changed since
    }
    let made = make(&mut index, holder, id, target, rights)?;
    index.entries.insert(key, made);
    Ok(made)
}

/// Makes an entry for a name as a part of `tx`: `name` is the offset of a length word and bytes in the holder, `resolver` a persistent
/// pointer (0: paths from the root).
///
/// Always one of its own, since it goes with the pointer that it is made for ([`remove_name`]). One whose transaction was undone, or that
/// was removed, is used for the next name (**F4**).
///
/// # Errors
/// [`Error::OutOfFotEntries`], what the transaction says.
pub(crate) fn insert_name(tx: &Tx, holder: Window, name: u32, resolver: u64, rights: Rights) -> Result<u32> {
    let (id, _) = view::what_is_at(holder)?;
    let (i, at) = {
        let mut index = INDEX.lock();
        take_in_new_entries(&mut index, holder, id);
        let seen = seen(&mut index.tables, id);
        let claimed = claim_word();
        let unused = seen.named.iter().copied().find_map(|i| {
            let at = place(i)?;
            (holder.load(at + FLAGS) == claimed).then_some((i, at))
        });
        match unused {
            Some(unused) => unused,
            None => {
                let taken = take_unused(seen, holder, id)?;
                seen.named.push(taken.0);
                taken
            }
        }
    };
    tx.record_range(holder.base() + at, 32)?; // undone, it is claimed and no more
    tx.settle()?;
    fill(holder, at, i, ObjectId { lo: u64::from(name), hi: resolver });
    let word =
        u64::from(fot_flags::NAME | fot_flags::VALID) | u64::from((rights & Rights::ACCESS).bits()) << 32;
    holder.store_release(at + FLAGS, word);
    Ok(i)
}

/// Frees entry `index`, which names its target, as a part of `tx`; [`forget_name`] must follow. Its name is what is returned.
///
/// # Errors
/// [`Error::Damaged`] for an entry that names nothing; what the transaction says.
pub(crate) fn remove_name(tx: &Tx, holder: Window, index: u32) -> Result<u64> {
    let entry = read(holder, index)?;
    let at = place(index).unwrap_or_default(); // `read` refused what has no place
    if entry.flags & fot_flags::NAME == 0 {
        return Err(damaged_at(holder, at, "an FOT entry with a name"));
    }
    tx.record_range(holder.base() + at, 32)?;
    tx.settle()?;
    holder.store_release(at + GENERATION, entry.generation.wrapping_add(1)); // F3
    holder.store_release(at + FLAGS, claim_word()); // F4
    holder.store_release(at + GENERATION, entry.generation.wrapping_add(2));
    Ok(entry.target.lo)
}

/// What must follow [`remove_name`], whether its transaction was committed or not.
pub(crate) fn forget_name(holder: Window, index: u32) {
    let id = view::id_at(holder.base());
    for window in view::windows_of(id) {
        translate::forget(window, index);
    }
    translate::changed_for_all();
    let mut known = INDEX.lock();
    let seen = seen(&mut known.tables, id);
    if !seen.named.contains(&index) {
        seen.named.push(index);
    }
}

/// What an FOT entry may be changed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// An object by ID.
    Id(ObjectId),
    /// A name: offset in the holder of a length word and bytes, and a pointer to the resolver (0: paths from the root).
    Name(u32, u64),
}

/// Changes entry `index`: every pointer that uses it leads to the new target from now on, in every program (**T1** in
/// `translate.rs`). Crash-atomic: a transaction of the holder.
///
/// # Errors
/// [`Error::Damaged`] for an entry that is not in use; what the transaction says.
pub fn change(holder: Window, index: u32, target: Target, rights: Rights) -> Result<()> {
    let (id, _) = view::what_is_at(holder)?;
    let (target, flags) = match target {
        Target::Id(target) => (target, fot_flags::VALID),
        Target::Name(at, resolver) => {
            (ObjectId { lo: u64::from(at), hi: resolver }, fot_flags::VALID | fot_flags::NAME)
        }
    };
    let before = read(holder, index)?;
    let tell = || {
        for window in view::windows_of(id) {
            translate::forget(window, index);
        }
        translate::changed_for_all();
    };
    let result = Tx::run(holder, |tx| {
        let entry = read(holder, index)?;
        let at = place(index).unwrap_or_default(); // `read` refused what has no place
        tx.record_range(holder.base() + at, 32)?;
        tx.settle()?;
        holder.store_release(at + GENERATION, entry.generation.wrapping_add(1)); // F3: readers wait from here …
        holder.store(at + LO, target.lo);
        holder.store(at + HI, target.hi);
        let word = u64::from(flags) | u64::from((rights & Rights::ACCESS).bits()) << 32;
        holder.store_release(at + FLAGS, word);
        holder.store_release(at + GENERATION, entry.generation.wrapping_add(2)); // … to here
        tell(); // before the commit, after which this thread might end without
        Ok(())
    });
    result.inspect_err(|_| tell())?; // somebody may have translated what was put back
    // Who points to the new target finds this entry, and nobody does for the old one.
    let mut known = INDEX.lock();
    let old = (id, before.target, before.rights.bits());
    if known.entries.get(&old) == Some(&index) {
        known.entries.remove(&old);
    }
    if flags & fot_flags::NAME == 0 {
        known.entries.entry((id, target, (rights & Rights::ACCESS).bits())).or_insert(index);
    }
    Ok(())
}

/// Forgets what was known about `id`'s table; for objects that are gone or were put back to an older state.
pub(crate) fn forget_table(id: ObjectId) {
    let mut index = INDEX.lock();
    index.tables.remove(&id);
    index.entries.retain(|key, _| key.0 != id);
    translate::forget_hints();
}

/// Forgets every table, as a power failure does.
#[cfg(feature = "crash-sim")]
pub(crate) fn forget_all_tables() {
    let mut index = INDEX.lock();
    index.tables.clear();
    index.entries.clear();
    translate::forget_hints();
}

fn claim_word() -> u64 {
    u64::from(CLAIMED | Platform::boot_generation() << 8)
}

fn take_in_new_entries(index: &mut Index, holder: Window, id: ObjectId) {
    let len = holder.half(FOT_LEN_AT).load(Ordering::Acquire).clamp(1, FOT_MAX_ENTRIES);
    let seen = seen(&mut index.tables, id);
    let claimed_now = claim_word();
    for i in seen.len..len {
        let Some(at) = place(i) else { break };
        match read(holder, i) {
            Ok(entry) if entry.flags & fot_flags::NAME == 0 => {
                index.entries.entry((id, entry.target, entry.rights.bits())).or_insert(i);
            }
            Ok(_) => {}
            Err(_) if holder.load(at + FLAGS) == claimed_now => {}
            Err(_) => seen.holes.push(i),
        }
    }
    seen.len = seen.len.max(len);
}

fn make(index: &mut Index, holder: Window, id: ObjectId, target: ObjectId, rights: Rights) -> Result<u32> {
    let (i, at) = take_unused(seen(&mut index.tables, id), holder, id)?;
    // 1. What the entry says, and the table's length; nobody uses an entry without VALID.
    fill(holder, at, i, target);
    // 2. Commit point (F1). Its line holds the rest of the entry, stored before it: that is durable when this is. Nothing points to the
    // entry before the fence, so it makes no difference whether the length is durable first.
    let word = u64::from(fot_flags::VALID) | u64::from(rights.bits()) << 32;
    holder.store_release(at + FLAGS, word);
    holder.flush(at, 32);
    persist::fence();
    Ok(i)
}

/// Claims an unused entry: its number and place.
fn take_unused(seen: &mut Seen, holder: Window, id: ObjectId) -> Result<(u32, usize)> {
    loop {
        let i = match seen.holes.pop() {
            Some(hole) => hole,
            None => {
                let next = seen.len;
                seen.len = next.saturating_add(1);
                next
            }
        };
        let Some(at) = place(i) else { return Err(Error::OutOfFotEntries(id)) };
        if at < seen.there {
            let start = at / PAGE * PAGE;
            room::have(id, start..seen.there).inspect_err(|_| seen.holes.push(i))?;
            seen.there = start;
        }
        if claim(holder, at) {
            return Ok((i, at));
        }
    }
}

/// Stores what a claimed entry leads to, and the table's length; that is flushed.
fn fill(holder: Window, at: usize, i: u32, target: ObjectId) {
    holder.store(at + LO, target.lo);
    holder.store(at + HI, target.hi);
    let generation = holder.load(at + GENERATION).wrapping_add(2) & !1;
    holder.store_release(at + GENERATION, generation);
    holder.half(FOT_LEN_AT).fetch_max(i + 1, Ordering::AcqRel);
    simulate::stored(holder.base() + FOT_LEN_AT, 4);
    holder.flush(FOT_LEN_AT, 4);
}

/// Takes an unused entry (**F2**); false when somebody else has it.
fn claim(holder: Window, at: usize) -> bool {
    let now = holder.word(at + FLAGS).load(Ordering::Acquire);
    let claimed_now = claim_word();
    let free = now & u64::from(fot_flags::VALID) == 0 && now != claimed_now;
    free && holder.replace(at + FLAGS, now, claimed_now)
}

// F1: an entry stands in one line.
const _: () = assert!(FOT_ENTRY_SIZE == 32 && META_OFFSET.is_multiple_of(64));
