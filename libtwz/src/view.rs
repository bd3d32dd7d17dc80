//! The view as this program uses it: which object is in which slot, found in both directions.
//!
//! # Contract
//! - [`map`] finds an object that is mapped already without a lock and without a call (an open-addressed index over
//!   (ID, rights)); else it fills a free slot, which in the guest is a few plain stores.
//! - The same object mapped with other rights takes another slot, so that a read-only reference cannot be written
//!   through (paper §3.3).
//! - **V1** a slot's entry is complete before its state word says so, and does not change until it is unmapped.
//! - Lock order: `TABLES` before the platform's own locks.
//!
//! The volatile area holds, one after the other: slot entries, the index, cached translations (`translate.rs`).

use crate::error::{Error, Result};
use crate::lock::Lock;
use crate::sys::{Platform, Seam};
use crate::window::{SLOT_SHIFT, Window};
use core::sync::atomic::{AtomicU64, Ordering};
use twz_abi::{ObjectId, Rights};

/// What a slot holds. `state` is 0 for an empty slot, else [`FILLED`], the rights, and those of them that were found granted.
#[repr(C, align(32))]
struct SlotEntry {
    lo: AtomicU64,
    hi: AtomicU64,
    state: AtomicU64,
    /// Nonzero once the slot's translation row has been filled (`translate.rs`); never cleared.
    row_used: AtomicU64,
}

/// (ID, rights) to slot. `word` is 0 for never used, else [`FILLED`] or [`REMOVED`], a change count, perhaps
/// [`RECOVERED`], the rights, and the slot where it is in an address.
#[repr(C, align(32))]
struct IndexEntry {
    lo: AtomicU64,
    hi: AtomicU64,
    word: AtomicU64,
    /// Flags and rights of an FOT entry that may be followed to here as it stands; else 0. Emptied before the word, so that whoever
    /// reads it after the word reads it of the same mapping.
    followed: AtomicU64,
}

const FILLED: u64 = 1 << 63;
const REMOVED: u64 = 1 << 62;
/// Rights in an index word are its lowest bits.
const RIGHTS: u64 = 7;
/// The object was found recovered, or it was brought to that, since it is mapped.
const RECOVERED: u64 = 1 << 3;
const COUNT_SHIFT: u32 = 4;
const COUNT_MASK: u64 = (1 << (SLOT_SHIFT - COUNT_SHIFT)) - 1;
/// Bits of a slot's address.
const BASE: u64 = (1 << 47) - (1 << SLOT_SHIFT);
const _: () = assert!(Platform::FIRST_SLOT + Platform::SLOT_COUNT <= 1 << (47 - SLOT_SHIFT));
/// Where the second word of an FOT entry has its rights.
const FOT_RIGHTS_SHIFT: u32 = 32;
/// Where a slot's state has the rights that were found granted.
const GRANTED_SHIFT: u32 = 3;

const INDEX_LEN: usize = (Platform::SLOT_COUNT * 2).next_power_of_two();
const SLOTS_AT: usize = Platform::VOLATILE_AREA;
const INDEX_AT: usize = SLOTS_AT + Platform::SLOT_COUNT * size_of::<SlotEntry>();
/// Where the translation rows start.
pub(crate) const ROWS_AT: usize = (INDEX_AT + INDEX_LEN * size_of::<IndexEntry>()).next_multiple_of(4096);
/// Bytes that the platform must provide at [`Seam::VOLATILE_AREA`].
pub const AREA_BYTES: usize = ROWS_AT + Platform::SLOT_COUNT * crate::translate::ROW_BYTES - SLOTS_AT;

/// What only one thread at a time may change.
struct Tables {
    /// Slots below this (counted from `FIRST_SLOT`) were used at some time.
    used: usize,
    /// Used slots that are empty again.
    empty: alloc::vec::Vec<usize>,
    changes: u64,
}

static TABLES: Lock<Tables> = Lock::new(Tables { used: 0, empty: alloc::vec::Vec::new(), changes: 0 });

fn slot_entry(slot: usize) -> Option<&'static SlotEntry> {
    let number = slot.wrapping_sub(Platform::FIRST_SLOT);
    if number >= Platform::SLOT_COUNT {
        return None;
    }
    // SAFETY: the Seam promises AREA_BYTES of zeroed, private, mapped memory after `start`, which every way to get a
    // slot number ran; the index was checked; the type is all atomics.
    Some(unsafe { &*((SLOTS_AT + number * size_of::<SlotEntry>()) as *const SlotEntry) })
}

fn index_entry(number: usize) -> &'static IndexEntry {
    let entry = (INDEX_AT as *const IndexEntry).wrapping_add(number & (INDEX_LEN - 1));
    // SAFETY: as above; masked to the index's length.
    unsafe { &*entry }
}

/// Only these rights make a difference to a mapping.
const ACCESS: u64 = Rights::ACCESS.bits() as u64;

fn key_rights(rights: Rights) -> u64 {
    u64::from(rights.bits()) & ACCESS
}

/// IDs are hashes already: a part of one is as good as a hash of it. Mapped with other rights, an object stands beside.
#[allow(clippy::cast_possible_truncation, reason = "any bits do")]
#[inline]
fn first_probe(id: ObjectId, rights: u64) -> usize {
    id.lo.wrapping_add(rights) as usize
}

/// Where `id` is mapped with exactly these rights, if it is.
#[inline]
#[must_use]
pub fn find(id: ObjectId, rights: Rights) -> Option<Window> {
    find_marked(id, rights).map(|(window, _)| window)
}

/// [`find`], and whether the mapping is marked as [`RECOVERED`].
#[inline]
fn find_marked(id: ObjectId, rights: Rights) -> Option<(Window, bool)> {
    let rights = key_rights(rights);
    let first = first_probe(id, rights);
    for step in 0..INDEX_LEN {
        let entry = index_entry(first.wrapping_add(step));
        let word = entry.word.load(Ordering::Acquire);
        if word == 0 {
            return None;
        }
        let same = entry.lo.load(Ordering::Relaxed) == id.lo && entry.hi.load(Ordering::Relaxed) == id.hi;
        if same && word & FILLED != 0 && word & RIGHTS == rights {
            // The key may have been replaced between the two loads: the word's change count tells.
            core::sync::atomic::fence(Ordering::Acquire);
            if entry.word.load(Ordering::Relaxed) == word {
                return Some((window_of(word), word & RECOVERED != 0));
            }
            return None; // changing right now: the caller takes the lock and looks again
        }
    }
    None
}

/// Where an FOT entry with these flags and rights leads, if it may be followed as it stands: it is valid and names nobody, it asks for
/// reading, and `target` is mapped so, recovered, and found at the first place.
#[inline]
pub(crate) fn followed(target: ObjectId, flags_and_rights: u64) -> Option<Window> {
    let entry = index_entry(first_probe(target, flags_and_rights >> FOT_RIGHTS_SHIFT));
    let word = entry.word.load(Ordering::Acquire);
    // No valid entry's are 0, which is what others have here. Each compare before the next load: what is loaded early takes a register that
    // must be saved.
    if entry.followed.load(Ordering::Relaxed) != flags_and_rights || flags_and_rights == 0 {
        return None;
    }
    if entry.lo.load(Ordering::Relaxed) != target.lo {
        return None;
    }
    if entry.hi.load(Ordering::Relaxed) != target.hi {
        return None;
    }
    core::sync::atomic::fence(Ordering::Acquire);
    let is_same = entry.word.load(Ordering::Relaxed) == word; // as in `find_marked`
    is_same.then(|| window_of(word))
}

/// The window of an index word that is [`FILLED`].
#[inline]
fn window_of(word: u64) -> Window {
    #[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits wide here")]
    Window::at_base((word & BASE) as usize)
}

/// [`map`] for whoever reads what is in the object next: it is recovered, if it is one with a log. As fast as [`map`] from the second time on.
///
/// # Errors
/// As [`map`]; what recovery says; [`Error::Unrecovered`].
#[inline]
pub(crate) fn map_recovered(id: ObjectId, rights: Rights) -> Result<Window> {
    match find_marked(id, rights) {
        Some((window, true)) => Ok(window),
        _ => map_and_recover(id, rights),
    }
}

#[cold]
fn map_and_recover(id: ObjectId, rights: Rights) -> Result<Window> {
    let window = map(id, rights)?;
    crate::tx::recover_to_read(id, window, rights)?;
    mark(id, rights, RECOVERED);
    Ok(window)
}

/// Makes `mark` what is known of a mapping, if it is still there.
fn mark(id: ObjectId, rights: Rights, mark: u64) {
    let _one = TABLES.lock();
    if let Some(entry) = index_of(id, key_rights(rights)) {
        let word = entry.word.load(Ordering::Relaxed);
        let may_be_followed = mark == RECOVERED && rights.contains(Rights::READ);
        let followed = u64::from(twz_abi::object::fot_flags::VALID) | key_rights(rights) << FOT_RIGHTS_SHIFT;
        entry.followed.store(if may_be_followed { followed } else { 0 }, Ordering::Relaxed);
        entry.word.store(word & !RECOVERED | mark, Ordering::Release);
    }
}

/// Takes no object for recovered any more, as after a power failure.
#[cfg(feature = "crash-sim")]
pub(crate) fn forget_recovered() {
    for slot in Platform::FIRST_SLOT..Platform::FIRST_SLOT + used_slots() {
        if let Some(Ok((id, rights))) = Window::of_slot(slot).map(what_is_at) {
            mark(id, rights, 0);
        }
    }
}

/// Maps `id` with at most `rights`, or finds it mapped.
///
/// # Errors
/// [`Error::OutOfSlots`]; what [`Seam::map_slot`] says.
#[inline]
pub fn map(id: ObjectId, rights: Rights) -> Result<Window> {
    match find(id, rights) {
        Some(window) => Ok(window),
        None => map_slowly(id, rights),
    }
}

#[cold]
fn map_slowly(id: ObjectId, rights: Rights) -> Result<Window> {
    if id.is_null() {
        return Err(Error::NoSuchObject(id));
    }
    Platform::start()?;
    let mut tables = TABLES.lock();
    if let Some(window) = find(id, rights) {
        return Ok(window);
    }
    let slot = match tables.empty.pop() {
        Some(slot) => slot,
        None if tables.used < Platform::SLOT_COUNT => {
            tables.used += 1;
            Platform::FIRST_SLOT + tables.used - 1
        }
        None => return Err(Error::OutOfSlots),
    };
    let granted =
        Platform::map_slot(slot, id, rights & Rights::ACCESS).inspect_err(|_| tables.empty.push(slot))?;
    let (Some(entry), Some(window)) = (slot_entry(slot), Window::of_slot(slot)) else {
        return Err(Error::OutOfSlots);
    };
    entry.lo.store(id.lo, Ordering::Relaxed);
    entry.hi.store(id.hi, Ordering::Relaxed);
    let granted = key_rights(granted & rights) << GRANTED_SHIFT;
    entry.state.store(FILLED | granted | key_rights(rights), Ordering::Release);
    tables.changes += 1;
    index_insert(id, key_rights(rights), slot, tables.changes);
    Ok(window)
}

/// Puts a key into the first place that is empty or removed; twice as many places as slots, so there is one.
fn index_insert(id: ObjectId, rights: u64, slot: usize, changes: u64) {
    let first = first_probe(id, rights);
    for step in 0..INDEX_LEN {
        let entry = index_entry(first.wrapping_add(step));
        let word = entry.word.load(Ordering::Relaxed);
        if word & FILLED != 0 {
            continue;
        }
        // Readers that still hold an old word see it change: the count is new each time.
        entry.word.store(REMOVED | (changes & COUNT_MASK) << COUNT_SHIFT, Ordering::Release);
        core::sync::atomic::fence(Ordering::SeqCst);
        entry.lo.store(id.lo, Ordering::Relaxed);
        entry.hi.store(id.hi, Ordering::Relaxed);
        let place = (slot << SLOT_SHIFT) as u64 | rights;
        entry.word.store(FILLED | (changes & COUNT_MASK) << COUNT_SHIFT | place, Ordering::Release);
        return;
    }
}

/// Takes `id` out of the view, whatever its rights, and drops every cached translation to it.
///
/// # Safety
/// No reference into the object may be used any more: its addresses fault, and later show another object.
pub unsafe fn unmap(id: ObjectId) {
    let mut tables = TABLES.lock();
    for rights in 0..8 {
        let Some(rights) = Rights::from_bits(rights) else { continue };
        let Some(window) = find(id, rights) else { continue };
        tables.changes += 1;
        index_remove(id, key_rights(rights), tables.changes);
        if let Some(entry) = slot_entry(window.slot()) {
            entry.state.store(0, Ordering::Release);
        }
        Platform::unmap_slot(window.slot());
        crate::translate::forget_all(tables.used);
        tables.empty.push(window.slot());
    }
}

/// Empties the whole view and forgets all that was cached about its objects.
///
/// # Safety
/// No reference into any object may be used any more.
#[cfg(all(feature = "hosted", not(feature = "guest")))]
pub(crate) unsafe fn unmap_all() {
    let ids: alloc::vec::Vec<ObjectId> = {
        let tables = TABLES.lock();
        (Platform::FIRST_SLOT..Platform::FIRST_SLOT + tables.used)
            .filter_map(|slot| what_is_at(Window::of_slot(slot)?).ok())
            .map(|(id, _)| id)
            .collect()
    };
    for id in ids {
        // SAFETY: the caller's promise.
        unsafe { unmap(id) };
        crate::fot::forget_table(id);
    }
}

/// The entry of a mapping; the caller holds [`TABLES`].
fn index_of(id: ObjectId, rights: u64) -> Option<&'static IndexEntry> {
    let first = first_probe(id, rights);
    for step in 0..INDEX_LEN {
        let entry = index_entry(first.wrapping_add(step));
        let word = entry.word.load(Ordering::Relaxed);
        if word == 0 {
            return None;
        }
        let same = entry.lo.load(Ordering::Relaxed) == id.lo && entry.hi.load(Ordering::Relaxed) == id.hi;
        if same && word & FILLED != 0 && word & RIGHTS == rights {
            return Some(entry);
        }
    }
    None
}

fn index_remove(id: ObjectId, rights: u64, changes: u64) {
    if let Some(entry) = index_of(id, rights) {
        entry.followed.store(0, Ordering::Relaxed);
        entry.word.store(REMOVED | (changes & COUNT_MASK) << COUNT_SHIFT, Ordering::Release);
    }
}

/// Makes sure now that what is mapped at `window` may be accessed with `rights`: what the security context does not permit is an error here,
/// and a fault at the first access otherwise. Asks the platform once; from then on a slot remembers what was granted, so what is revoked
/// later is a fault all the same.
///
/// # Errors
/// [`Error::NotPermitted`], also for rights that it is not mapped with; [`Error::NotInObject`] for an empty slot; [`Error::NoSuchObject`].
#[inline]
pub fn bind(window: Window, rights: Rights) -> Result<()> {
    let wanted = key_rights(rights) << GRANTED_SHIFT;
    let known =
        slot_entry(window.slot()).is_some_and(|entry| entry.state.load(Ordering::Acquire) & wanted == wanted);
    if known { Ok(()) } else { bind_slowly(window, rights) }
}

#[cold]
fn bind_slowly(window: Window, rights: Rights) -> Result<()> {
    let (id, mapped) = what_is_at(window)?;
    let granted = Platform::stat(id)?.granted & mapped;
    if let Some(entry) = slot_entry(window.slot()) {
        let state = entry.state.load(Ordering::Acquire);
        let known = state | key_rights(granted) << GRANTED_SHIFT;
        if state & FILLED != 0 {
            // Fails only where another thread was faster, or emptied the slot.
            let _ = entry.state.compare_exchange(state, known, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
    if granted.contains(rights & Rights::ACCESS) { Ok(()) } else { Err(Error::NotPermitted(id)) }
}

/// Which object a window shows, and with what rights.
///
/// # Errors
/// [`Error::NotInObject`] for an empty slot.
#[inline]
pub fn what_is_at(window: Window) -> Result<(ObjectId, Rights)> {
    let (entry, rights) = entry_of(window)?;
    let id = ObjectId { lo: entry.lo.load(Ordering::Relaxed), hi: entry.hi.load(Ordering::Relaxed) };
    Ok((id, rights))
}

/// [`what_is_at`], the rights alone.
#[inline]
pub(crate) fn rights_at(window: Window) -> Result<Rights> {
    entry_of(window).map(|(_, rights)| rights)
}

#[inline]
fn entry_of(window: Window) -> Result<(&'static SlotEntry, Rights)> {
    let nothing = Error::NotInObject { address: window.base() };
    let entry = slot_entry(window.slot()).ok_or(nothing)?;
    let state = entry.state.load(Ordering::Acquire);
    if state & FILLED == 0 {
        return Err(nothing);
    }
    #[allow(clippy::cast_possible_truncation, reason = "three bits")]
    let rights = Rights::from_bits_truncate((state & 7) as u32);
    Ok((entry, rights))
}

/// The object that `address` is in; NULL when it is in none. For messages.
#[must_use]
pub fn id_at(address: usize) -> ObjectId {
    Window::around(address).and_then(what_is_at).map_or(ObjectId::NULL, |(id, _)| id)
}

/// All windows that show `id`, whatever the rights.
pub(crate) fn windows_of(id: ObjectId) -> impl Iterator<Item = Window> {
    (0..8).filter_map(move |bits| find(id, Rights::from_bits(bits)?))
}

/// How many slots have been used; rows of others are empty.
pub(crate) fn used_slots() -> usize {
    TABLES.lock().used
}

/// Notes, for good, that the translation row of `slot` has held something.
#[inline]
pub(crate) fn note_row(slot: usize) {
    if let Some(entry) = slot_entry(slot)
        && entry.row_used.load(Ordering::SeqCst) == 0
    {
        entry.row_used.store(1, Ordering::SeqCst);
    }
}

/// Whether the translation row of `slot` has ever held something.
pub(crate) fn row_is_used(slot: usize) -> bool {
    slot_entry(slot).is_some_and(|entry| entry.row_used.load(Ordering::SeqCst) != 0)
}
