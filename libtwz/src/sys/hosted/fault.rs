//! Mapping an object's pages when they are first touched.
//!
//! A fault inside a filled slot whose page is not mapped yet maps the store's piece around it and returns, so the
//! instruction runs again. Any other fault is the program's: it is reported with object and offset, and then goes to
//! whoever handled SIGSEGV before (by default, the process ends).

use super::{Hosted, Mapping, Piece, SLOT_COUNT, Seam, Shows, Slot, State, last_error, state, unmap_meeting};
use crate::error::Result;
use crate::window::{SLOT_MASK, SLOT_SHIFT};
use std::io::Write;
use std::mem::{MaybeUninit, zeroed};
use std::ptr;
use std::sync::{Arc, OnceLock};
use twz_abi::object::DATA_OFFSET;
use twz_abi::{PAGE_SIZE, Rights};

static BEFORE: OnceLock<[libc::sigaction; 2]> = OnceLock::new();

/// Bit 1 of x86's page-fault error code: the access was a write (Intel SDM vol. 3, "Page-Fault Exceptions").
const ERROR_WRITE: i64 = 2;

pub(super) fn install() -> Result<()> {
    // SAFETY: all-zero is a valid sigaction.
    let mut action: libc::sigaction = unsafe { zeroed() };
    action.sa_sigaction = handler as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) as usize;
    // On the thread's own stack: std's alternate one is too small to run the store on.
    // Without SA_NODEFER a fault inside the handler (a bug) ends the process instead of looping.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    let segv = replace(libc::SIGSEGV, &action)?;
    let bus = replace(libc::SIGBUS, &action)?;
    let _ = BEFORE.set([segv, bus]);
    Ok(())
}

fn replace(signal: i32, action: &libc::sigaction) -> Result<libc::sigaction> {
    let mut before = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: both point to sigactions; the handler is async-signal-safe in the sense of the module `hosted`.
    if unsafe { libc::sigaction(signal, action, before.as_mut_ptr()) } != 0 {
        return Err(last_error("install the fault handler"));
    }
    // SAFETY: sigaction succeeded, so it filled `before`.
    Ok(unsafe { before.assume_init() })
}

extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo.
    let info = unsafe { &*info };
    // SAFETY: for these signals si_addr is set.
    let address = unsafe { info.si_addr() }.addr();
    // SAFETY: the kernel passes a valid ucontext.
    let error_code =
        unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_ERR as usize] };
    if signal == libc::SIGSEGV && map_page(address, error_code & ERROR_WRITE != 0) {
        return;
    }
    report(address);
    hand_on(signal);
}

/// Maps what belongs at `address`; false when nothing does.
fn map_page(address: usize, is_write: bool) -> bool {
    let number = (address >> SLOT_SHIFT).wrapping_sub(Hosted::FIRST_SLOT);
    let offset = (address & SLOT_MASK) as u64;
    if number >= SLOT_COUNT || offset < DATA_OFFSET {
        return false;
    }
    let needed = if is_write { Rights::WRITE } else { Rights::READ };
    let base = address & !SLOT_MASK;
    loop {
        // 1. What should be there?
        let (store, id, epoch) = {
            let state = state();
            let Some(state) = state.as_ref() else { return false };
            let Some(Some(slot)) = state.slots.get(number) else { return false };
            if !slot.rights.contains(needed) {
                return false;
            }
            let there = slot.mapped.iter().find(|mapping| mapping.meets(offset, 1));
            if there.is_some_and(|mapping| !is_write || mapping.shows == Shows::All) {
                return true; // another thread was faster
            }
            (Arc::clone(&state.store), slot.id, state.epoch)
        };
        // 2. Where is it? Without the lock: the store may call back.
        let piece = if is_write {
            store.piece(id, offset).map(|piece| Some((piece, true)))
        } else {
            store.piece_to_read(id, offset)
        };
        let Ok(piece) = piece else { return false };
        // 3. Map it, unless the store took that back meanwhile.
        let mut state = state();
        let Some(state) = state.as_mut() else { return false };
        let Some(Some(slot)) = state.slots.get(number) else { return false };
        if state.epoch != epoch || slot.id != id {
            continue;
        }
        if is_write && let Some((piece, _)) = piece {
            make_way(state, number, &piece);
        }
        let Some(Some(slot)) = state.slots.get_mut(number) else { return false };
        return match piece {
            Some((piece, is_own)) => map_piece(slot, base, piece, is_own),
            None => map_zeroes(slot, base, offset & !(PAGE_SIZE - 1)),
        };
    }
}

/// Before a piece is mapped to be written: whatever shows zeroes in its place, in any slot, would go on doing so; and who has just been told
/// that nothing is there asks again.
fn make_way(state: &mut State, number: usize, piece: &Piece) {
    state.epoch += 1;
    let Some(Some(id)) = state.slots.get(number).map(|slot| slot.as_ref().map(|slot| slot.id)) else {
        return;
    };
    for (other, slot) in state.slots.iter_mut().enumerate() {
        let Some(slot) = slot.as_mut().filter(|slot| slot.id == id) else { continue };
        unmap_meeting(other, slot, piece.object_offset, piece.bytes, |shows| {
            shows == Shows::Zeroes || other == number && shows == Shows::ToRead
        });
    }
}

/// `is_own`: the piece may be written as it is.
fn map_piece(slot: &mut Slot, base: usize, piece: Piece, is_own: bool) -> bool {
    let mut protection = libc::PROT_READ;
    if is_own && slot.rights.contains(Rights::WRITE) {
        protection |= libc::PROT_WRITE;
    }
    if slot.rights.contains(Rights::EXEC) {
        protection |= libc::PROT_EXEC;
    }
    // Page 0 stays unmapped, whatever the store has there.
    let cut = DATA_OFFSET.saturating_sub(piece.object_offset);
    if cut >= piece.bytes {
        return false;
    }
    let (start, bytes) = (piece.object_offset + cut, piece.bytes - cut);
    let file_offset = (piece.file_offset + cut).cast_signed();
    let shows = if is_own { Shows::All } else { Shows::ToRead };
    let place = Mapping { start, bytes, shows };
    map(slot, base, place, protection, libc::MAP_SHARED, piece.file, file_offset)
}

/// One page of a hole; a hole that is read from end to end becomes one range.
fn map_zeroes(slot: &mut Slot, base: usize, start: u64) -> bool {
    let place = Mapping { start, bytes: PAGE_SIZE, shows: Shows::Zeroes };
    let before = slot.mapped.last().copied();
    if !map(slot, base, place, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) {
        return false;
    }
    if let Some(before) = before
        && before.shows == Shows::Zeroes
        && before.start + before.bytes == start
    {
        slot.mapped.pop();
        if let Some(last) = slot.mapped.last_mut() {
            last.bytes += PAGE_SIZE;
        }
    }
    true
}

fn map(
    slot: &mut Slot,
    base: usize,
    place: Mapping,
    protection: i32,
    flags: i32,
    file: i32,
    file_offset: i64,
) -> bool {
    let (Ok(at), Ok(bytes)) = (usize::try_from(place.start), usize::try_from(place.bytes)) else {
        return false;
    };
    if at + bytes > SLOT_MASK + 1 {
        return false;
    }
    let target = base + at;
    let flags = flags | libc::MAP_FIXED;
    // SAFETY: the range lies in a slot of our reservation (checked). It was PROT_NONE, or shows what it will show: no reference relies on more.
    let got = unsafe { libc::mmap(target as *mut libc::c_void, bytes, protection, flags, file, file_offset) };
    if got.addr() != target {
        return false;
    }
    slot.mapped.push(place);
    true
}

fn report(address: usize) {
    let number = (address >> SLOT_SHIFT).wrapping_sub(Hosted::FIRST_SLOT);
    if number >= SLOT_COUNT {
        return;
    }
    let state = state();
    let slot = state.as_ref().and_then(|s| s.slots.get(number)).and_then(Option::as_ref);
    let offset = address & SLOT_MASK;
    let mut error = std::io::stderr();
    // Nothing can be done when stderr is gone.
    let _ = match slot {
        Some(slot) => {
            writeln!(error, "fault at offset {offset:#x} of object {} (mapped {:?})", slot.id, slot.rights)
        }
        None => writeln!(error, "fault at {address:#x}, a slot with no object"),
    };
}

/// Puts the earlier handler back; the instruction faults again and goes there.
fn hand_on(signal: i32) {
    let Some(before) = BEFORE.get() else { return };
    let action = &before[usize::from(signal == libc::SIGBUS)];
    // SAFETY: `action` is what the kernel gave us for this signal.
    unsafe { libc::sigaction(signal, action, ptr::null_mut()) };
}
