//! From a persistent pointer to an address (`ptr_lea`, paper §3.3) – the hottest code of the crate.
//!
//! # Contract
//! - A pointer below 1 GiB is intra-object: one AND, one OR, no memory access. The same compare tells both that the FOT
//!   index is 0 and that the offset is inside the object.
//! - Other pointers load one word of the holder's *row*, a volatile table of this program's translations:
//!   `row[i]` = base address of FOT entry i's target, 0 when it is not known. Nothing else stands in the word, so that it is
//!   added to the offset as it comes: a hop is two loads and an add. Entries from [`ROW_ENTRIES`] on are looked up in
//!   the FOT and the view's index each time.
//! - **T1** no stale translation: a changer first changes the FOT entry, then, under [`CHANGES`], empties the row entry and counts;
//!   a filler reads the count *before* the FOT entry and fills, under the same lock, only if it still is that.
//!   So a filler that read the old FOT entry either fails or is emptied. Other programs compare the shared epoch on each
//!   translation and drop everything when it was raised.
//! - The way back, from an object to the holder's FOT entry for it, is remembered too ([`HINTS`]), under the same rule: whoever changes
//!   an entry empties the hints after it, and a hint is filled only if nothing was forgotten since before its entry was looked for.
//! - **T2** what is returned lies in a slot of `libtwz`'s, whatever the pointer was.
//!
//! Rows are [`ROW_BYTES`] apart, an odd number of cache lines: rows of all objects aligned alike would fall into the
//! same cache sets, as object bases do (measured 2–3 times slower).

use crate::error::{Error, Result};
use crate::fot;
use crate::lock::Lock;
use crate::sys::{Platform, Seam};
use crate::view;
use crate::window::{SLOT_MASK, SLOT_SHIFT, Window};
use alloc::vec::Vec;
use core::hint::cold_path;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use twz_abi::PersistentPtr;
use twz_abi::object::FOT_MAX_ENTRIES;

#[allow(clippy::cast_possible_truncation, reason = "2^12")]
const FIRST: usize = twz_abi::object::DATA_OFFSET as usize;

/// FOT entries whose translation is cached, per object.
pub const ROW_ENTRIES: usize = 256;
/// Bytes from one row to the next: 33 lines.
pub(crate) const ROW_BYTES: usize = ROW_ENTRIES * 8 + 64;

/// Address of the row of slot 0, were it `libtwz`'s: saves a subtraction on the hot path.
const ROWS_BIAS: usize = view::ROWS_AT - Platform::FIRST_SLOT * ROW_BYTES;

/// How often a translation was forgotten; whoever holds it may change rows (**T1**). Held for a few stores only.
static CHANGES: Lock<u64> = Lock::new(0);

/// The shared epoch that this program's rows belong to.
static EPOCH: AtomicU64 = AtomicU64::new(0);

/// Which FOT entry of a holder leads to a target, by both slots: so that storing a pointer need not look for it. A word is 0 or
/// [`HINT`], the slots' numbers and the entry's.
static HINTS: [AtomicU64; HINT_COUNT] = [const { AtomicU64::new(0) }; HINT_COUNT];
const HINT_COUNT: usize = 1024;
const HINT: u64 = 1 << 63;
/// Bits of an entry's number in a hint: those of an [`fot`] index that are used for any but the largest tables.
const HINT_INDEX_BITS: u32 = 16;
/// Bits of a slot's number.
const HINT_SLOT_BITS: u32 = 20;
const _: () =
    assert!(Platform::SLOT_COUNT <= 1 << HINT_SLOT_BITS && HINT_INDEX_BITS + 2 * HINT_SLOT_BITS < 63);

/// The place of a hint, and the hint but for the entry's number.
#[inline]
fn hint_for(holder: Window, target: Window) -> (&'static AtomicU64, u64) {
    let number = |window: Window| (window.slot() - Platform::FIRST_SLOT) as u64;
    let hint =
        HINT | number(holder) << (HINT_INDEX_BITS + HINT_SLOT_BITS) | number(target) << HINT_INDEX_BITS;
    (&HINTS[(holder.slot() << 5 ^ target.slot()) % HINT_COUNT], hint)
}

/// Empties all hints, after FOT entries were changed in another way than by [`fot::change`].
pub(crate) fn forget_hints() {
    let mut changes = CHANGES.lock();
    *changes += 1;
    clear_hints();
}

/// The caller holds [`CHANGES`] and counted.
fn clear_hints() {
    for hint in &HINTS {
        hint.store(0, Ordering::Release);
    }
}

#[inline(always)]
fn row_entry(window: Window, index: usize) -> &'static AtomicU64 {
    debug_assert!(index < ROW_ENTRIES);
    // No mask on the critical path of a hop: the minimum is a compare, and goes away where the caller compared.
    let address = ROWS_BIAS + window.slot() * ROW_BYTES + index.min(ROW_ENTRIES - 1) * 8;
    // SAFETY: W1 says that the slot is ours, so its row is in the volatile area, which is mapped and zeroed; the index is in the row.
    unsafe { &*(address as *const AtomicU64) }
}

/// Address that `pointer`, stored in the object at `holder`, leads to (the paper's `ptr_lea`).
///
/// The null pointer gives the object's page 0, which faults. Bounds of what is pointed to are the caller's to check.
///
/// # Errors
/// [`Error::BadPointer`] for an FOT index or an offset that is out of range, and what resolving says.
#[inline(always)]
pub fn lea(holder: Window, pointer: PersistentPtr) -> Result<usize> {
    if pointer.0 <= SLOT_MASK as u64 {
        return Ok(holder.base() | pointer.offset() as usize);
    }
    lea_foreign(holder, pointer)
}

/// The pointer that stands at `place` in the object at `holder`, and the base of the object that it leads to; its offset is
/// below 1 GiB.
///
/// # Errors
/// As [`lea`].
#[inline(always)]
pub(crate) fn base_at(holder: Window, place: &AtomicU64) -> (PersistentPtr, Result<usize>) {
    let pointer = PersistentPtr(place.load(Ordering::Relaxed));
    if pointer.0 <= SLOT_MASK as u64 {
        return (pointer, Ok(holder.base()));
    }
    // The index once more, from its own half: saves the shift between two loads that wait for each other.
    // SAFETY: the second half of a live word that is aligned to 8, accessed atomically by everybody. A store between the two
    // loads shows in the compare below.
    let index = unsafe { &*place.as_ptr().cast::<AtomicU32>().wrapping_add(1) }.load(Ordering::Relaxed);
    if index == pointer.index()
        && let Some(base) = cached_base(holder, index as usize, pointer.offset() as usize)
    {
        return (pointer, Ok(base));
    }
    (pointer, lea_uncached(holder, pointer).map(|address| address & !SLOT_MASK))
}

/// What the row of `holder` knows about entry `index`, for a pointer with a valid offset.
#[inline(always)]
fn cached_base(holder: Window, index: usize, offset: usize) -> Option<usize> {
    if index >= ROW_ENTRIES || offset > SLOT_MASK || is_stale() {
        // Said to the compiler, which else keeps registers free in loops for the calls that follow here.
        cold_path();
        return None;
    }
    let base = row_entry(holder, index).load(Ordering::Acquire);
    if base == 0 {
        cold_path();
        return None;
    }
    #[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits wide here")]
    Some(base as usize)
}

/// [`lea`] for a pointer that is known to be to another object.
///
/// # Errors
/// As [`lea`].
#[inline(always)]
pub fn lea_foreign(holder: Window, pointer: PersistentPtr) -> Result<usize> {
    let offset = pointer.offset() as usize;
    if let Some(base) = cached_base(holder, pointer.index() as usize, offset) {
        return Ok(base + offset); // the base is a slot's, so its low bits are 0
    }
    lea_uncached(holder, pointer)
}

/// [`lea_foreign`] for what no row says.
#[inline(always)]
fn lea_uncached(holder: Window, pointer: PersistentPtr) -> Result<usize> {
    if pointer.index() as usize >= ROW_ENTRIES {
        let address = lea_behind(holder, pointer);
        if address != 0 {
            return Ok(address);
        }
    }
    lea_slowly(holder, pointer)
}

/// What is known of the targets of an object's FOT entries: for loops that leave everything else to [`lea`].
#[derive(Clone, Copy, Debug)]
pub struct Row {
    entries: &'static [AtomicU64; ROW_ENTRIES],
}

impl Row {
    /// The row of the object at `holder`; for as long as it is mapped there.
    #[must_use]
    pub fn of(holder: Window) -> Self {
        let first = core::ptr::from_ref(row_entry(holder, 0)).cast();
        // SAFETY: as in `row_entry`, for all indexes of a row.
        Self { entries: unsafe { &*first } }
    }

    /// The window of FOT entry `index`'s target if it is known already.
    #[inline(always)]
    #[must_use]
    pub fn cached(self, index: u32) -> Option<Window> {
        let entry = self.entries.get(opaque(index as usize))?;
        if is_stale() {
            return None;
        }
        #[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits wide here")]
        let base = entry.load(Ordering::Acquire) as usize;
        (base != 0).then(|| Window::at_base(base)) // rows hold nothing but bases of windows
    }
}

/// The same number, of which the compiler knows nothing more: so it compares it, where it would look anew at the bits that it came from.
#[inline(always)]
fn opaque(number: usize) -> usize {
    let mut number = number;
    if !cfg!(miri) {
        // SAFETY: no instruction at all.
        unsafe {
            core::arch::asm!("/* {0} */", inout(reg) number, options(pure, nomem, nostack, preserves_flags))
        };
    }
    number
}

/// [`lea`] to `bytes` bytes that lie inside the target's data.
///
/// # Errors
/// As [`lea`], and [`Error::BadPointer`] when they do not.
#[inline]
pub fn lea_range(holder: Window, pointer: PersistentPtr, bytes: usize) -> Result<usize> {
    let address = lea(holder, pointer)?;
    let offset = address & SLOT_MASK;
    if offset >= FIRST && bytes <= SLOT_MASK + 1 - offset {
        return Ok(address);
    }
    let object = view::id_at(holder.base());
    Err(Error::BadPointer {
        object,
        pointer,
        expected: "a range between the first page and the end of the object",
    })
}

#[inline(always)]
fn is_stale() -> bool {
    Platform::SHARED_TRANSLATIONS && Platform::translation_epoch() != EPOCH.load(Ordering::Relaxed)
}

/// [`lea_foreign`] for an entry behind the row, which comes here each time, while there is nothing to map: without an error's room. 0 for
/// whatever else.
#[inline(never)]
fn lea_behind(holder: Window, pointer: PersistentPtr) -> usize {
    const VALID: u64 = (FOT_MAX_ENTRIES as u64 - 1) << 32 | SLOT_MASK as u64;
    debug_assert!(pointer.index() as usize >= ROW_ENTRIES, "the caller asked the row");
    if pointer.0 & !VALID != 0 {
        return 0;
    }
    let target = fot::mapped_target(holder, pointer.index());
    target.map_or(0, |target| target.base() | pointer.offset() as usize)
}

#[cold]
#[inline(never)]
fn lea_slowly(holder: Window, pointer: PersistentPtr) -> Result<usize> {
    if is_stale() {
        catch_up();
    }
    let bad = |expected| Error::BadPointer { object: view::id_at(holder.base()), pointer, expected };
    if pointer.offset() as usize > SLOT_MASK {
        return Err(bad("an offset below 1 GiB"));
    }
    let base = resolve(holder, pointer.index()).map_err(|error| match error {
        // Of the target, or of what a name's way leads through, it says itself what is damaged.
        Error::Damaged { object, expected, .. } if object == view::id_at(holder.base()) => bad(expected),
        other => other,
    })?;
    Ok(base.base() | pointer.offset() as usize)
}

/// The window of FOT entry `index`'s target: maps it when it is not, and caches the answer.
///
/// # Errors
/// [`Error::Damaged`] for an entry that is not valid; [`Error::NoSuchName`]; what mapping says.
pub fn resolve(holder: Window, index: u32) -> Result<Window> {
    if index == 0 {
        return Ok(holder);
    }
    if index as usize >= ROW_ENTRIES {
        return fot::target(holder, index);
    }
    let row = row_entry(holder, index as usize);
    loop {
        if fot::is_named(holder, index) {
            note_name(holder, index); // before the name is looked up, so that `names_changed` cannot miss it
        }
        view::note_row(holder.slot()); // before the count is read, so that `forget_all` cannot miss the row
        let before = *CHANGES.lock(); // T1: before the FOT entry
        let target = fot::target(holder, index)?;
        let changes = CHANGES.lock();
        if *changes == before {
            row.store(target.base() as u64, Ordering::Release);
            return Ok(target);
        }
    }
}

/// Cached translations that came from names.
static NAMED: Lock<Vec<(usize, u32)>> = Lock::new(Vec::new());

fn note_name(holder: Window, index: u32) {
    let mut named = NAMED.lock();
    let key = (holder.slot(), index);
    if !named.contains(&key) {
        named.push(key);
    }
}

/// Drops every cached translation that came from a name, in every program; after any name was changed.
pub(crate) fn names_changed() {
    let named = core::mem::take(&mut *NAMED.lock());
    for (slot, index) in named {
        if let Some(window) = Window::of_slot(slot) {
            forget(window, index);
        }
    }
    changed_for_all();
}

/// Empties the cached translation of FOT entry `index` of the object at `holder`, after the entry was changed.
pub(crate) fn forget(holder: Window, index: u32) {
    let mut changes = CHANGES.lock();
    *changes += 1;
    clear_hints();
    if index as usize >= ROW_ENTRIES {
        return;
    }
    row_entry(holder, index as usize).store(0, Ordering::Release);
}

/// Empties every cached translation of this program; `used` is the number of slots ever used.
pub(crate) fn forget_all(used: usize) {
    let mut changes = CHANGES.lock();
    *changes += 1;
    clear_hints();
    for slot in Platform::FIRST_SLOT..Platform::FIRST_SLOT + used {
        if view::row_is_used(slot)
            && let Some(window) = Window::of_slot(slot)
        {
            for index in 0..ROW_ENTRIES {
                row_entry(window, index).store(0, Ordering::Release);
            }
        }
    }
}

/// Drops what was cached before the shared epoch was raised.
#[cold]
fn catch_up() {
    let epoch = Platform::translation_epoch();
    forget_all(view::used_slots());
    EPOCH.store(epoch, Ordering::Release);
}

/// Empties every cached translation of every program.
pub(crate) fn forget_for_all() {
    forget_all(view::used_slots());
    changed_for_all();
}

/// What must follow a change that other programs may have cached: names, FOT entries.
pub(crate) fn changed_for_all() {
    if Platform::SHARED_TRANSLATIONS {
        Platform::raise_translation_epoch();
    }
}

/// Offset and window of an address in an object.
///
/// # Errors
/// [`Error::NotInObject`].
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "masked to 30 bits")]
pub fn split(address: usize) -> Result<(Window, u32)> {
    Ok((Window::around(address)?, (address & SLOT_MASK) as u32))
}

/// The persistent form of `target` as a pointer stored in the object at `holder` (the paper's `ptr_store`): reuses or
/// makes an FOT entry with the rights of the mapping that `target` is in.
///
/// # Errors
/// [`Error::NotInObject`]; [`Error::OutOfFotEntries`].
#[inline]
pub fn persistent(holder: Window, target: usize) -> Result<PersistentPtr> {
    let (window, offset) = split(target)?;
    if window == holder {
        return Ok(PersistentPtr::new(0, offset));
    }
    let (place, wanted) = hint_for(holder, window);
    let hint = place.load(Ordering::Acquire);
    if hint >> HINT_INDEX_BITS == wanted >> HINT_INDEX_BITS && !is_stale() {
        #[allow(clippy::cast_possible_truncation, reason = "16 bits")]
        return Ok(PersistentPtr::new((hint & ((1 << HINT_INDEX_BITS) - 1)) as u32, offset));
    }
    Ok(PersistentPtr::new(entry_for(holder, window)?, offset))
}

/// The number of the FOT entry of the object at `holder` for the one at `target`; makes it if need be, and notes it.
#[inline(never)]
fn entry_for(holder: Window, target: Window) -> Result<u32> {
    if is_stale() {
        catch_up();
    }
    let before = *CHANGES.lock(); // T1: before the FOT entry
    let (id, rights) = view::what_is_at(target)?;
    if id == view::what_is_at(holder)?.0 {
        return Ok(0); // the same object, mapped twice
    }
    let index = fot::insert(holder, id, rights)?;
    let changes = CHANGES.lock();
    if *changes == before && index < 1 << HINT_INDEX_BITS {
        let (place, hint) = hint_for(holder, target);
        place.store(hint | u64::from(index), Ordering::Release);
    }
    Ok(index)
}

const _: () = assert!(SLOT_SHIFT == 30 && (ROW_BYTES / 64) % 2 == 1);
