//! System calls of programs: arguments checked, work done elsewhere, results returned.

use crate::arch::usercopy;
use crate::kernel::Kernel;
use crate::mailbox::Mailbox;
use crate::sync::Synced;
use crate::thread::End;
use twz_abi::hypercall::DATA_SIZE;
use twz_abi::resume::ResumeNote;
use twz_abi::sec::{PublicKeyObject, RawCap, RawRevocation};
use twz_abi::syscall::{CopySpec, CreateSpec, FIRST, NAME_MAX, ObjectStat, Syscall};
use twz_abi::thread::{PRIORITY_MAX, ThreadSpec};
use twz_abi::view::{self, RANGES_MAX, SlotRange};
use twz_abi::{ErrorCode, ObjectId, PAGE_BYTES, PAGE_SIZE, Rights};
use zerocopy::{FromZeros, IntoBytes};

/// Most random bytes in one call.
const RANDOM_MAX: usize = 256;
/// How often a copy is tried again after its fault was settled: another hart may take the memory away in between.
const COPY_ATTEMPTS: u32 = 8;

/// What a finished call returns in RDX and R8.
type Values = (u64, u64);

/// How a call went.
enum Outcome {
    /// Return this and let the thread go on.
    Done(crate::Result<Values>),
    /// Let others run first.
    Yield,
    /// The registers are what they are to be; let the thread go on.
    Continue,
    /// The thread is parked or gone.
    Gone,
}

impl From<crate::Result> for Outcome {
    fn from(result: crate::Result) -> Self {
        Self::Done(result.map(|()| (0, 0)))
    }
}

impl From<crate::Result<ObjectId>> for Outcome {
    fn from(result: crate::Result<ObjectId>) -> Self {
        Self::Done(result.map(|id| (id.lo, id.hi)))
    }
}

impl From<crate::Result<u64>> for Outcome {
    fn from(result: crate::Result<u64>) -> Self {
        Self::Done(result.map(|value| (value, 0)))
    }
}

impl From<crate::Result<Values>> for Outcome {
    fn from(result: crate::Result<Values>) -> Self {
        Self::Done(result)
    }
}

/// Who calls.
#[derive(Clone, Copy)]
struct Caller {
    mailbox: Mailbox,
    thread: u32,
    space: u32,
    view: ObjectId,
    context: ObjectId,
}

impl Kernel {
    /// Executes the call that `thread` made.
    pub(crate) fn syscall(&mut self, mailbox: Mailbox, thread: u32) {
        self.counters().syscalls += 1;
        let calling = &self.threads[thread];
        let (frame, space) = (&calling.frame, calling.space);
        let (number, arguments) =
            (frame.rax, [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, frame.r9]);
        if number < FIRST {
            return self.low_syscall(mailbox, thread);
        }
        let within = &self.spaces[space];
        let (view, context) = (within.view, within.context);
        let caller = Caller { mailbox, thread, space, view, context };
        #[cfg(feature = "hostile")]
        {
            let [a, b, c, d, ..] = arguments;
            if let Some(result) = self.hostile(mailbox, thread, number, [a, b, c, d]) {
                return self.finish(thread, Outcome::Done(result), mailbox);
            }
        }
        let outcome = match Syscall::try_from(number) {
            Ok(call) => self.execute(caller, call, arguments),
            Err(_) => Outcome::Done(Err(ErrorCode::NoSuchCall)),
        };
        self.finish(thread, outcome, mailbox);
    }

    /// Gives the caller its results, if it goes on.
    fn finish(&mut self, thread: u32, outcome: Outcome, mailbox: Mailbox) {
        match outcome {
            Outcome::Done(result) => {
                let frame = &mut self.threads[thread].frame;
                match result {
                    Ok((first, second)) => (frame.rax, frame.rdx, frame.r8) = (0, first, second),
                    Err(error) => frame.rax = error as u64,
                }
                self.go_on(thread);
            }
            Outcome::Continue => self.go_on(thread),
            Outcome::Yield => {
                self.threads[thread].frame.rax = 0;
                self.enqueue(mailbox, thread);
            }
            Outcome::Gone => {}
        }
    }

    fn execute(&mut self, caller: Caller, call: Syscall, a: [u64; 6]) -> Outcome {
        let Caller { mailbox, thread, context, .. } = caller;
        let object = |at: usize| ObjectId { lo: a[at], hi: a[at + 1] };
        if matches!(call, Syscall::ObjectCreate | Syscall::ObjectCopy | Syscall::ObjectTrim) {
            self.page_changes += 1;
        }
        match call {
            Syscall::ThreadExit if self.threads[thread].calls.is_some() => {
                // A callee cannot end the thread of its caller, only its own call.
                self.drop_call(mailbox, thread);
                self.threads[thread].frame.rax = ErrorCode::CalleeFailed as u64;
                Outcome::Continue
            }
            Syscall::ThreadExit => {
                self.end_thread(mailbox, thread, End::Exit(status(a[0])));
                Outcome::Gone
            }
            Syscall::ThreadYield => Outcome::Yield,
            Syscall::ThreadSpawn => self.thread_spawn(caller, a[0]).into(),
            Syscall::ThreadSelf => {
                let harts = u64::from(mailbox.hart()) | u64::from(self.hart_count()) << 32;
                Ok((self.threads[thread].number, harts)).into()
            }
            Syscall::ThreadSet => self.set_property(mailbox, thread, a[0], a[1], a[2]).into(),
            Syscall::ThreadSync => match self.thread_sync(mailbox, thread, a[0], a[1], a[2]) {
                Ok(Synced::Now(woken, had_changed)) => Ok((woken, u64::from(had_changed))).into(),
                Ok(Synced::Asleep) => Outcome::Gone,
                Err(error) => Outcome::Done(Err(error)),
            },
            Syscall::FaultReturn => match self.fault_return(mailbox, thread, a[0]) {
                Ok(()) => Outcome::Continue,
                Err(error) => Outcome::Done(Err(error)),
            },
            Syscall::ConsoleWrite => {
                let written = self.console_write(caller, a[0], a[1]);
                self.console_outcome(thread, written)
            }
            Syscall::ConsoleRead => {
                let read = self.console_read(caller, a[0], a[1]);
                self.console_outcome(thread, read)
            }
            Syscall::Clock => mailbox.clock().into(),
            Syscall::Random => self.random(caller, a[0], a[1]).into(),
            Syscall::Shutdown => {
                mailbox.shutdown(u64::from(status(a[0])));
                Ok((0, 0)).into()
            }
            Syscall::Counters => self.copy_counters(caller, a[0], a[1]).into(),
            Syscall::ConsoleMode => mailbox.console_mode(a[0]).into(),
            Syscall::ObjectCreate => self
                .copy_to_data(caller, a[0], size_of::<CreateSpec>())
                .and_then(|()| mailbox.create(context))
                .into(),
            Syscall::ObjectDelete => mailbox.delete(context, object(0)).into(),
            Syscall::ObjectStat => mailbox
                .stat(context, object(0))
                .and_then(|()| self.copy_from_data(caller, a[2], size_of::<ObjectStat>()))
                .into(),
            Syscall::ObjectCopy => self
                .copy_to_data(caller, a[0], size_of::<CopySpec>())
                .and_then(|()| mailbox.copy(context))
                .into(),
            Syscall::ObjectTie => mailbox.tie(context, object(0), object(2)).into(),
            Syscall::ObjectTrim => mailbox.trim(context, object(0), a[2], a[3]).into(),
            Syscall::ViewSet => self.view_set(caller, object(0), [a[2], a[3], a[4]]),
            Syscall::ViewInvalidate => self.view_invalidate(caller, a[0], a[1]).into(),
            Syscall::ContextAttach => self.attach(mailbox, thread, object(0)).into(),
            Syscall::ContextDetach => self.detach(mailbox, thread, object(0)).into(),
            Syscall::ContextActivate => self.activate(mailbox, thread, object(0)).into(),
            Syscall::ContextSelf => Ok((context.lo, context.hi)).into(),
            Syscall::GateCall => match self.gate_call(mailbox, thread, object(0), a[2], [a[3], a[4], a[5]]) {
                Ok(()) => Outcome::Continue,
                Err(error) => Outcome::Done(Err(error)),
            },
            Syscall::GateReturn => match self.gate_return(mailbox, thread, (a[0], a[1])) {
                Ok(()) => Outcome::Continue,
                Err(error) => Outcome::Done(Err(error)),
            },
            Syscall::Revoke => self.revoke(caller, a[0], a[1]).into(),
            Syscall::KeyCreate => self
                .copy_to_data(caller, a[0], size_of::<PublicKeyObject>())
                .and_then(|()| mailbox.key_create(context))
                .into(),
            Syscall::ResumeSet => self.resume_set(mailbox, thread, a[0]).into(),
            Syscall::ResumeClear => self.resume_note(mailbox, thread, ResumeNote::Over).into(),
            Syscall::ResumeConfirm => self.resume_note(mailbox, thread, ResumeNote::Confirmed).into(),
            Syscall::PmemTrace => self.pmem_trace(caller, a).into(),
            Syscall::NameGet => {
                self.name(caller, a[0], a[1]).and_then(|length| mailbox.name_get(context, length)).into()
            }
            Syscall::NameSet => self
                .name(caller, a[2], a[3])
                .and_then(|length| mailbox.name_set(context, object(0), length))
                .into(),
            Syscall::TranslationsChanged => mailbox.translations_changed(context).map(|()| (0, 0)).into(),
            Syscall::NameNext => self.name_next(caller, [a[0], a[1], a[2]]).into(),
            Syscall::CallerRights => self.caller_rights(mailbox, thread, object(0)).into(),
            Syscall::NameRemove => {
                self.name(caller, a[0], a[1]).and_then(|length| mailbox.name_remove(context, length)).into()
            }
        }
    }

    fn thread_spawn(&mut self, caller: Caller, spec: u64) -> crate::Result<Values> {
        let mut bytes = ThreadSpec::new_zeroed();
        self.copy_in(caller.mailbox, caller.space, spec, bytes.as_mut_bytes())?;
        let view = if bytes.view.is_null() { caller.view } else { bytes.view };
        self.permit_priority(caller.thread, bytes.priority.min(PRIORITY_MAX))?;
        let context = if bytes.context.is_null() || bytes.context == caller.context {
            let record = self.spaces[caller.space].record;
            self.hold_context(record);
            record
        } else {
            self.use_context(caller.mailbox, caller.context, bytes.context)?
        };
        let thread = self.spawn(caller.mailbox, &bytes, view, context)?;
        Ok((self.threads[thread].number, 0))
    }

    /// Goes on in another view: the old space is left only after the new one was entered, so a failure changes nothing.
    fn view_set(&mut self, caller: Caller, view: ObjectId, [entry, stack, argument]: [u64; 3]) -> Outcome {
        let entered = self.enter_space(caller.mailbox, view, self.spaces[caller.space].record);
        let space = match entered {
            Ok(space) => space,
            Err(error) => return Outcome::Done(Err(error)),
        };
        let moved = &mut self.threads[caller.thread];
        moved.space = space;
        moved.handles_fault = false;
        (moved.frame.rip, moved.frame.rsp, moved.frame.rdi) = (entry, stack, argument);
        moved.frame.vector = 0;
        // Loaded at the latest when the thread goes on.
        let _ = self.load_space(caller.mailbox.hart(), space);
        self.leave_space(caller.mailbox, caller.space);
        Outcome::Continue
    }

    fn view_invalidate(&mut self, caller: Caller, ranges: u64, count: u64) -> crate::Result {
        let mut all = [SlotRange::new_zeroed(); RANGES_MAX];
        let count = usize::try_from(count).ok().filter(|&count| count > 0);
        let all = count.and_then(|count| all.get_mut(..count)).ok_or(ErrorCode::BadArgument)?;
        self.copy_in(caller.mailbox, caller.space, ranges, all.as_mut_bytes())?;
        let is_good = |range: &SlotRange| {
            range.first.checked_add(range.count).is_some_and(|end| end <= view::SLOT_COUNT)
        };
        if !all.iter().all(is_good) {
            return Err(ErrorCode::BadArgument);
        }
        self.invalidate(caller.mailbox, caller.view, all);
        Ok(())
    }

    fn revoke(&mut self, caller: Caller, revocation: u64, capability: u64) -> crate::Result {
        const REVOCATION: usize = size_of::<RawRevocation>();
        // Both from the program's memory first: settling a fault must not come between.
        let mut bytes = [0; REVOCATION + size_of::<RawCap>()];
        self.copy_in(caller.mailbox, caller.space, revocation, &mut bytes[..REVOCATION])?;
        if capability != 0 {
            self.copy_in(caller.mailbox, caller.space, capability, &mut bytes[REVOCATION..])?;
        }
        let mut to = caller.mailbox;
        to.data(bytes.len()).copy_from_slice(&bytes);
        caller.mailbox.revoke(caller.context, capability != 0)
    }

    fn copy_counters(&mut self, caller: Caller, to: u64, room: u64) -> crate::Result<Values> {
        let copy = *self.counters();
        let length = usize::try_from(room).unwrap_or(usize::MAX).min(size_of_val(&copy));
        self.copy_out(caller.mailbox, caller.space, to, &copy.as_bytes()[..length])?;
        Ok((length as u64, 0))
    }

    /// What comes of a console call that moved so many bytes, or has to wait.
    fn console_outcome(&mut self, thread: u32, moved: crate::Result<Option<u64>>) -> Outcome {
        match moved {
            Ok(Some(count)) => Ok((count, 0)).into(),
            Ok(None) => {
                self.wait_for_console(thread);
                Outcome::Gone
            }
            Err(error) => Outcome::Done(Err(error)),
        }
    }

    fn console_write(&mut self, caller: Caller, from: u64, length: u64) -> crate::Result<Option<u64>> {
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(DATA_SIZE);
        self.copy_to_data(caller, from, length)?;
        match caller.mailbox.console_write(length) {
            Ok(()) => Ok(Some(length as u64)),
            // The reader of the output is slow.
            Err(ErrorCode::WouldBlock) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn console_read(&mut self, caller: Caller, to: u64, room: u64) -> crate::Result<Option<u64>> {
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(DATA_SIZE);
        // Before anything is taken from the input, so that a bad pointer loses nothing.
        is_program_range(to, room as u64)?;
        self.settle(caller.mailbox, caller.space, to, room as u64, Rights::WRITE)?;
        let Some(count) = caller.mailbox.console_read(room)? else { return Ok(None) };
        self.copy_from_data(caller, to, count)?;
        Ok(Some(count as u64))
    }

    fn random(&mut self, caller: Caller, to: u64, length: u64) -> crate::Result {
        let length = usize::try_from(length).ok().filter(|&length| length <= RANDOM_MAX);
        let length = length.ok_or(ErrorCode::BadArgument)?;
        caller.mailbox.random(length)?;
        self.copy_from_data(caller, to, length)
    }

    /// Passes a flush or a fence on, as (object, offset). Memory that was never touched has nothing to flush.
    fn pmem_trace(&mut self, caller: Caller, a: [u64; 6]) -> crate::Result {
        const WORD: usize = size_of::<u64>();
        let [kind, address, bytes, file, length, line] = a;
        let length = usize::try_from(length).ok().filter(|length| (1..=NAME_MAX).contains(length));
        let length = length.ok_or(ErrorCode::BadArgument)?;
        let mut name = [0; NAME_MAX];
        self.copy_in(caller.mailbox, caller.space, file, &mut name[..length])?;
        let (object, offset) = match kind {
            0 if bytes > 0 => match self.place_of(caller.space, address) {
                Some(place) => place,
                None => return Ok(()),
            },
            0 => return Ok(()),
            1 => (ObjectId::NULL, 0),
            _ => return Err(ErrorCode::BadArgument),
        };
        let mut to = caller.mailbox;
        let data = to.data(WORD + length);
        data[..WORD].copy_from_slice(&(length as u64).to_le_bytes());
        data[WORD..].copy_from_slice(&name[..length]);
        let bytes = if kind == 1 { 0 } else { bytes };
        let number = self.threads[caller.thread].number;
        caller.mailbox.pmem_trace(caller.context, object, [offset, bytes, number, line])
    }

    /// Brings a name into the data area and returns its length.
    fn name(&mut self, caller: Caller, from: u64, length: u64) -> crate::Result<usize> {
        let length = usize::try_from(length).ok().filter(|length| (1..=NAME_MAX).contains(length));
        let length = length.ok_or(ErrorCode::BadArgument)?;
        self.copy_to_data(caller, from, length)?;
        Ok(length)
    }

    fn name_next(&mut self, caller: Caller, [from, length, to]: [u64; 3]) -> crate::Result<u64> {
        let after = if length == 0 { 0 } else { self.name(caller, from, length)? };
        let found = caller.mailbox.name_next(caller.context, after)?;
        self.copy_from_data(caller, to, found)?;
        Ok(found as u64)
    }

    /// Copies from the caller's memory into the mailbox's data area.
    fn copy_to_data(&mut self, caller: Caller, from: u64, length: usize) -> crate::Result {
        // Settling a fault makes hypercalls, but none that uses the data area.
        let mut to = caller.mailbox;
        self.copy_in(caller.mailbox, caller.space, from, to.data(length))
    }

    /// Copies from the mailbox's data area to the caller's memory.
    fn copy_from_data(&mut self, caller: Caller, to: u64, length: usize) -> crate::Result {
        let mut from = caller.mailbox;
        self.copy_out(caller.mailbox, caller.space, to, from.data(length))
    }

    /// Copies from program memory of the loaded space.
    pub(crate) fn copy_in(
        &mut self,
        mailbox: Mailbox,
        space: u32,
        from: u64,
        to: &mut [u8],
    ) -> crate::Result {
        is_program_range(from, to.len() as u64)?;
        for attempt in 0..COPY_ATTEMPTS {
            self.forget_refused(mailbox, space, attempt);
            self.load_space(mailbox.hart(), space)?;
            if usercopy::read(from, to).is_ok() {
                return Ok(());
            }
            self.settle(mailbox, space, from, to.len() as u64, Rights::READ)?;
        }
        Err(ErrorCode::BadAddress)
    }

    /// Copies to program memory of the loaded space.
    pub(crate) fn copy_out(&mut self, mailbox: Mailbox, space: u32, to: u64, from: &[u8]) -> crate::Result {
        is_program_range(to, from.len() as u64)?;
        for attempt in 0..COPY_ATTEMPTS {
            self.forget_refused(mailbox, space, attempt);
            self.load_space(mailbox.hart(), space)?;
            if usercopy::write(to, from).is_ok() {
                return Ok(());
            }
            self.settle(mailbox, space, to, from.len() as u64, Rights::WRITE)?;
        }
        Err(ErrorCode::BadAddress)
    }

    /// Makes every page of a range usable, as touching it would.
    fn settle(
        &mut self,
        mailbox: Mailbox,
        space: u32,
        start: u64,
        length: u64,
        access: Rights,
    ) -> crate::Result {
        let first = start & !(PAGE_SIZE - 1);
        for page in (first..start + length).step_by(PAGE_BYTES) {
            self.resolve(mailbox, space, page.max(start), access).map_err(|_| ErrorCode::BadAddress)?;
        }
        Ok(())
    }
}

/// Whether a range lies in the program's half as a whole.
fn is_program_range(start: u64, length: u64) -> crate::Result {
    let end = start.checked_add(length).ok_or(ErrorCode::BadAddress)?;
    if end <= view::SLOT_COUNT * view::SLOT_SIZE { Ok(()) } else { Err(ErrorCode::BadAddress) }
}

/// Exit statuses have 8 bits.
#[allow(clippy::cast_possible_truncation, reason = "masked")]
const fn status(word: u64) -> u32 {
    (word & 0xff) as u32
}
