//! Resuming threads: what a start of the machine keeps of the last one, and how each thread begins again.
//!
//! # Contract
//! - Volatile objects that the view of a thread on the [`ResumeList`] maps, and the program that it runs, live on: [`begin_session`] ties them to
//!   the new session before the old one ends (**commit point**: the root [`SESSION_RECORD`]).
//! - A try is counted durably before anything of the thread is touched, so whatever goes wrong afterwards has been counted.
//! - The monitor writes into a view only for a context that may write it itself: the view is whatever the program said.
//!
//! The steps of one thread: count the try, check rights, make data, stack and heap anew (unless kept), map the state object, enter the context.

use super::entry::entered;
use super::facts::Bytes;
use super::{Entered, Monitor, code, lock};
use crate::machine::program::ViewEdit;
use crate::resume::{Kind, Record, ResumeList, TRIES_MAX};
use pool::{Error as PoolError, ObjectRef, ObjectSpec, Pool};
use sec::Authority;
use std::sync::{MutexGuard, PoisonError};
use twz_abi::object::DATA_OFFSET;
use twz_abi::program::SESSION_RECORD;
use twz_abi::program::{
    ARGS_SLOT, ArgsHeader, DATA_SLOT, FORMER_DATA_SLOT, FORMER_HEAP_SLOT, FORMER_STACK_SLOT, HEAP_SLOT,
    PROGRAM_MAGIC, ProgramHeader, SHARED_SLOT, STACK_SLOT, STACK_TOP, STATE_SLOT, TEXT_SLOT,
};
use twz_abi::resume::{ResumeNote, ResumeSpec, ResumeStart, resume_flags};
use twz_abi::syscall::create_flags;
use twz_abi::view::{
    ENTRIES_OFFSET, ENTRY_SIZE, HEADER_OFFSET, SLOT_COUNT, SLOT_SIZE, VIEW_MAGIC, ViewEntry, ViewHeader,
    entry_flags,
};
use twz_abi::{ErrorCode, ObjectId, Rights};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Nonces of the two session objects that take turns, so that a failure between two steps leaves none that nobody finds.
const SESSION_NONCES: [[u8; 16]; 2] = [*b"twz session odd\0", *b"twz session evn\0"];
/// Most bytes of a program's initialised data that are copied.
const TEMPLATE_MAX: u64 = 256 << 20;
const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);

/// Ends the last boot's session, and with it every volatile object that no resumable thread needs; begins a new one.
///
/// # Errors
/// The pool's.
pub(in crate::machine) fn begin_session(pool: &Pool, list: &ResumeList) -> Result<ObjectId, PoolError> {
    let old = pool.root_get(SESSION_RECORD).map(ObjectId::from_u128).filter(|&old| pool.contains(old));
    let nothing = ObjectSpec::default();
    let [odd, even] = SESSION_NONCES.map(|nonce| pool::object_id(&nonce, nothing.key, nothing.rights));
    let (new, nonce) = if old == Some(odd) { (even, SESSION_NONCES[1]) } else { (odd, SESSION_NONCES[0]) };

    // 1. A start that was cut short left the new one behind.
    if pool.contains(new) {
        pool.delete_object(new)?;
    }
    pool.create_object(&ObjectSpec { nonce: Some(nonce), ..nothing })?;
    // 2. What goes on.
    let is_volatile = |id| pool.stat_object(id).is_ok_and(|stat| stat.kind & create_flags::VOLATILE != 0);
    let keep = |id| if is_volatile(id) { pool.tie(id, new) } else { Ok(()) };
    for (_, record) in list.in_order() {
        // The program too: an image with another of that name would delete it.
        if pool.contains(record.text) {
            pool.tie(record.text, new)?;
        }
        let Ok(view) = pool.open_object(record.view) else { continue };
        keep(record.view)?;
        for_each_entry(&view, |_, entry| keep(entry.target))?;
    }
    // 3. Commit point.
    pool.root_set(SESSION_RECORD, new.as_u128())?;
    // 4. The rest goes: it is deleted from the start, but for what was kept since.
    if let Some(old) = old {
        pool.delete_object(old)?;
    }
    Ok(new)
}

/// Calls `visit` with each slot of a view and its valid entry.
fn for_each_entry(
    view: &ObjectRef,
    mut visit: impl FnMut(u64, ViewEntry) -> Result<(), PoolError>,
) -> Result<(), PoolError> {
    const PIECE: u64 = 64 << 10;
    let end_of_entries = ENTRIES_OFFSET + SLOT_COUNT * ENTRY_SIZE;
    for extent in view.extents()? {
        let mut at = extent.object_offset.max(ENTRIES_OFFSET);
        let end = (extent.object_offset + extent.len).min(end_of_entries);
        while at < end {
            let mut bytes = vec![0; usize::try_from((end - at).min(PIECE)).unwrap_or(0)];
            view.read(at, &mut bytes)?;
            let entries = <[ViewEntry]>::ref_from_bytes(&bytes);
            // Pieces are whole pages, which hold whole entries; a heap buffer is aligned for words.
            for (slot, entry) in ((at - ENTRIES_OFFSET) / ENTRY_SIZE..).zip(entries.unwrap_or_default()) {
                if entry.flags & entry_flags::VALID != 0 && !entry.target.is_null() {
                    visit(slot, *entry)?;
                }
            }
            at += bytes.len() as u64;
        }
    }
    Ok(())
}

impl Monitor {
    /// Makes a thread resumable; returns its number.
    ///
    /// # Errors
    /// [`ErrorCode::NotPermitted`] without read and write rights to the view, and any to the state object; [`ErrorCode::BadArgument`] for a view
    /// that runs no program, unless its memory is kept; [`ErrorCode::Busy`] if another thread of the view is resumable, unless all of them keep their
    /// memory; [`ErrorCode::PoolFull`], [`ErrorCode::Medium`].
    pub(in crate::machine) fn resume_set(
        &self,
        context: ObjectId,
        view: ObjectId,
        number: u64,
        spec: &ResumeSpec,
    ) -> Result<u64, ErrorCode> {
        let keeps_memory = spec.flags & resume_flags::KEEP_MEMORY != 0;
        let keeps_registers = spec.flags & resume_flags::KEEP_REGISTERS != 0;
        if spec.flags & !resume_flags::ALL != 0 || (keeps_registers && !keeps_memory) {
            return Err(ErrorCode::BadArgument);
        }
        let state = (spec.state, Rights::empty());
        let needed = [(view, READ_WRITE), state];
        let count = if spec.state.is_null() { 1 } else { 2 };
        let _held = self.permit(context, &needed[..count])?;
        let opened = self.pool.open_object(view).map_err(|error| code(&error))?;
        let edit = ViewEdit(&opened);
        let text = edit.get(TEXT_SLOT).map_err(|error| code(&error))?.target;
        if !keeps_memory && self.program_header(text).is_none() {
            return Err(ErrorCode::BadArgument);
        }
        let mut list = self.resume_list();
        let shares =
            |record: &Record| record.view == view && record.spec.flags & resume_flags::KEEP_MEMORY == 0;
        let others = list.in_order().into_iter().filter(|(other, _)| *other != number);
        if others.clone().any(|(_, record)| shares(&record))
            || (!keeps_memory && others.clone().any(|(_, record)| record.view == view))
        {
            return Err(ErrorCode::Busy);
        }
        // What is mapped now is mapped then.
        opened.persist().map_err(|error| code(&error))?;
        if keeps_memory {
            for slot in [DATA_SLOT, STACK_SLOT, HEAP_SLOT] {
                let target = edit.get(slot).map_err(|error| code(&error))?.target;
                if let Ok(object) = self.pool.open_object(target) {
                    object.persist().map_err(|error| code(&error))?;
                }
            }
        }
        let ids = [view, context, text];
        list.set(&self.pool, number, ids, *spec).map_err(|error| code(&error))
    }

    /// Notes what became of a resumable thread.
    ///
    /// # Errors
    /// [`ErrorCode::NoThread`] for a number that is not on the list; [`ErrorCode::Medium`].
    pub(in crate::machine) fn resume_note(&self, number: u64, note: ResumeNote) -> Result<(), ErrorCode> {
        let mut list = self.resume_list();
        let record = list.get(number).ok_or(ErrorCode::NoThread)?;
        match note {
            ResumeNote::Over => list.remove(&self.pool, number),
            ResumeNote::Confirmed if record.word.confirmed => Ok(()),
            ResumeNote::Confirmed => list.change(&self.pool, number, |word| word.confirmed = true),
            ResumeNote::Faulted => {
                let noted = list.change(&self.pool, number, |word| word.faulted = true);
                self.give_up_if_failed(&mut list, number, &record);
                noted
            }
            ResumeNote::NotStarted => {
                self.not_resumed(&mut list, number, &record, "the kernel cannot start it");
                Ok(())
            }
        }
        .map_err(|error| code(&error))
    }

    /// The next thread to be resumed, with its context entered.
    pub(in crate::machine) fn resume_next(&self) -> Option<(Entered, ResumeStart)> {
        loop {
            let number = self.resume_order.lock().unwrap_or_else(PoisonError::into_inner).pop_front()?;
            let Some(record) = self.count_try(number) else { continue };
            match self.begin_again(&record) {
                Ok((entered, spec)) => {
                    self.dormant.lock().unwrap_or_else(PoisonError::into_inner).remove(&record.view);
                    let Record { view, context, .. } = record;
                    let times = u64::from(record.word.times);
                    tracing::info!(thread = record.describe(&self.pool), times, "resuming");
                    return Some((entered, ResumeStart { number, times, view, context, spec }));
                }
                Err(reason) => self.not_resumed(&mut self.resume_list(), number, &record, &reason),
            }
        }
    }

    /// Whether a thread of an earlier life has this view and has not begun in this one.
    pub(super) fn is_dormant(&self, view: ObjectId) -> bool {
        self.dormant.lock().unwrap_or_else(PoisonError::into_inner).contains(&view)
    }

    /// The machine ends in good order: a thread that did not come to confirm its try before has not failed.
    ///
    /// # Errors
    /// The pool's.
    pub(in crate::machine) fn resume_interrupted(&self) -> Result<(), PoolError> {
        let mut list = self.resume_list();
        for (number, record) in list.in_order() {
            let word = record.word;
            let is_under_way =
                word.kind == Kind::Resumable && word.tries > 0 && !word.confirmed && !word.faulted;
            if is_under_way && !self.is_dormant(record.view) {
                list.change(&self.pool, number, |word| word.tries -= 1)?;
            }
        }
        Ok(())
    }

    /// Counts a try of a thread and returns its record; `None` if it is not to be started.
    fn count_try(&self, number: u64) -> Option<Record> {
        let mut list = self.resume_list();
        let record = list.get(number).filter(|record| record.word.kind == Kind::Resumable)?;
        let succeeded = record.word.confirmed && !record.word.faulted;
        let failed = if succeeded { 0 } else { record.word.tries };
        if failed >= TRIES_MAX {
            self.set_aside(&mut list, number, &record);
            return None;
        }
        let counted = list.change(&self.pool, number, |word| {
            (word.tries, word.confirmed, word.faulted) = (failed + 1, false, false);
            word.times = word.times.saturating_add(1);
        });
        match counted {
            Ok(()) => Some(record),
            Err(error) => {
                let thread = record.describe(&self.pool);
                tracing::warn!("{thread} is not resumed: the try cannot be counted: {error}");
                None
            }
        }
    }

    /// Checks and prepares what the thread needs; says in words why it cannot begin.
    fn begin_again(&self, record: &Record) -> Result<(Entered, ResumeSpec), String> {
        let Record { view, context, mut spec, .. } = *record;
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let header = sec::Context::read(&Bytes(&self.pool, context))
            .map_err(|_| format!("its security context {context} is gone"))?;
        // R1
        let mut held = self
            .permit(context, &[(view, READ_WRITE)])
            .map_err(|error| format!("its context may not use its view {view} any more: {error}"))?;
        let opened = self.pool.open_object(view).map_err(|error| text(&error))?;
        let mut view_header = ViewHeader::new_zeroed();
        opened.read(HEADER_OFFSET, view_header.as_mut_bytes()).map_err(|error| text(&error))?;
        if view_header.magic != VIEW_MAGIC {
            return Err(format!("object {view} is no view any more"));
        }
        if spec.entry == 0 {
            spec.entry = view_header.resume_entry;
        }
        if spec.entry == 0 {
            return Err("neither the thread nor its view names an entry".into());
        }
        if spec.stack == 0 {
            spec.stack = STACK_SLOT * SLOT_SIZE + STACK_TOP;
        }
        let edit = ViewEdit(&opened);
        if spec.flags & resume_flags::KEEP_MEMORY == 0 {
            // What handled faults stood in the former memory.
            let nobody = [0_u64; 2];
            let at = HEADER_OFFSET + std::mem::offset_of!(ViewHeader, fault_handler) as u64;
            opened.write(at, nobody.as_bytes()).map_err(|error| text(&error))?;
            self.make_memory(context, record.text, &edit)?;
        }
        self.tell_life(&mut held, context, &edit).map_err(|error| text(&error))?;
        if !spec.state.is_null() {
            edit.set(STATE_SLOT, spec.state, READ_WRITE).map_err(|error| text(&error))?;
        }
        let mut contexts = lock(&self.contexts);
        let number = contexts.enter(context, &header).map_err(|error| text(&error))?;
        let live = contexts.get(number).ok_or("its context cannot be entered")?;
        Ok((entered(number, live), spec))
    }

    /// Fresh data, stack and heap; the former ones move beside them.
    fn make_memory(&self, context: ObjectId, text: ObjectId, edit: &ViewEdit<'_>) -> Result<(), String> {
        let failed = |error: PoolError| error.to_string();
        let header = self.program_header(text).ok_or("its program is gone")?;
        let bytes = header.data_bytes.min(TEMPLATE_MAX);
        let mut template = vec![0; usize::try_from(bytes).unwrap_or(0)];
        let program = self.pool.open_object(text).map_err(failed)?;
        program.read(header.data_offset, &mut template).map_err(failed)?;
        let make = || self.make_volatile(context, Rights::empty());
        let pairs =
            [(DATA_SLOT, FORMER_DATA_SLOT), (STACK_SLOT, FORMER_STACK_SLOT), (HEAP_SLOT, FORMER_HEAP_SLOT)];
        for (slot, former) in pairs {
            let was = edit.get(slot).map_err(failed)?;
            let fresh = make().map_err(failed)?;
            if slot == DATA_SLOT {
                self.pool
                    .open_object(fresh)
                    .and_then(|data| data.write(DATA_OFFSET, &template))
                    .map_err(failed)?;
            }
            edit.set(former, was.target, READ_WRITE).map_err(failed)?;
            edit.set(slot, fresh, READ_WRITE).map_err(failed)?;
        }
        edit.set(TEXT_SLOT, text, Rights::READ | Rights::EXEC).map_err(failed)
    }

    /// The boot is another than last time, and the medium may be.
    fn tell_life(
        &self,
        authority: &mut Authority,
        context: ObjectId,
        edit: &ViewEdit<'_>,
    ) -> Result<(), PoolError> {
        let life = self.life()?;
        edit.set(SHARED_SLOT, life.shared, Rights::READ)?;
        let arguments = edit.get(ARGS_SLOT)?.target;
        let granted = self.rights(authority, context, arguments);
        if granted.is_ok_and(|rights| rights.contains(Rights::WRITE)) {
            let words = [
                (std::mem::offset_of!(ArgsHeader, durability), life.durability),
                (std::mem::offset_of!(ArgsHeader, boot), life.boot),
            ];
            let opened = self.pool.open_object(arguments)?;
            for (at, word) in words {
                opened.write(DATA_OFFSET + at as u64, word.as_bytes())?;
            }
        }
        Ok(())
    }

    fn program_header(&self, text: ObjectId) -> Option<ProgramHeader> {
        let mut header = ProgramHeader::new_zeroed();
        self.pool.open_object(text).ok()?.read(DATA_OFFSET, header.as_mut_bytes()).ok()?;
        (header.magic == PROGRAM_MAGIC).then_some(header)
    }

    fn not_resumed(&self, list: &mut ResumeList, number: u64, record: &Record, reason: &str) {
        let tries = list.get(number).map_or(0, |record| record.word.tries);
        let thread = record.describe(&self.pool);
        tracing::warn!("{thread} was not resumed (try {tries} of {TRIES_MAX}): {reason}");
        self.give_up_if_failed(list, number, record);
    }

    /// Sets a thread aside whose last try has failed.
    fn give_up_if_failed(&self, list: &mut ResumeList, number: u64, record: &Record) {
        if list.get(number).is_some_and(|record| record.word.tries >= TRIES_MAX) {
            self.set_aside(list, number, record);
        }
    }

    fn set_aside(&self, list: &mut ResumeList, number: u64, record: &Record) {
        let thread = record.describe(&self.pool);
        tracing::warn!(
            "{thread} was set aside: it failed to resume {TRIES_MAX} times; `twzvmm resume ls` lists it, \
             `twzvmm resume retry {number}` gives it another chance"
        );
        if let Err(error) = list.change(&self.pool, number, |word| word.kind = Kind::SetAside) {
            tracing::error!(%error, "that could not be recorded");
        }
    }

    fn resume_list(&self) -> MutexGuard<'_, ResumeList> {
        self.resume.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
