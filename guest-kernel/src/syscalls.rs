//! System calls of programs: arguments checked, work done elsewhere, results returned.

use crate::arch::usercopy;
use crate::kernel::Kernel;
use crate::mailbox::Mailbox;
use crate::sync::Synced;
use crate::thread::End;
use twz_abi::call::{In, InSlice, Out, OutSlice, Returned};
use twz_abi::counters::AllCounters;
use twz_abi::hypercall::DATA_SIZE;
use twz_abi::resume::ResumeNote;
use twz_abi::sec::{RawCap, RawRevocation};
use twz_abi::syscall::{
    CREATE_RANGES_MAX, CopyRange, CreateSpec, FIRST, NAME_MAX, RANDOM_MAX, Request, TracedKind,
};
use twz_abi::thread::{PRIORITY_MAX, ThreadSpec};
use twz_abi::view::{self, RANGES_MAX, SlotRange};
use twz_abi::{ErrorCode, ObjectId, PAGE_BYTES, PAGE_SIZE, Rights};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// How often a copy is tried again after its fault was settled: another hart may take the memory away in between.
const COPY_ATTEMPTS: u32 = 8;

/// How a call went.
enum Outcome {
    /// Return this, in RDX and R8, and let the thread go on.
    Done(crate::Result<(u64, u64)>),
    /// Let others run first.
    Yield,
    /// The registers are what they are to be; let the thread go on.
    Continue,
    /// The thread is parked or gone.
    Gone,
}

impl<R: Returned> From<crate::Result<R>> for Outcome {
    fn from(result: crate::Result<R>) -> Self {
        Self::Done(result.map(R::into_words))
    }
}

impl Outcome {
    /// Of a call that has set the registers itself.
    fn of_jump(result: crate::Result) -> Self {
        result.map_or_else(|error| Self::Done(Err(error)), |()| Self::Continue)
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
        let outcome = match Request::decode(number, arguments) {
            Ok(request) => self.execute(caller, request),
            Err(error) => Outcome::Done(Err(error)),
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

    #[inline(always)]
    fn execute(&mut self, caller: Caller, request: Request) -> Outcome {
        let Caller { mailbox, thread, context, .. } = caller;
        match request {
            Request::ThreadExit { .. } if self.threads[thread].calls.is_some() => {
                // A callee cannot end the thread of its caller, only its own call.
                self.drop_call(mailbox, thread);
                self.threads[thread].frame.rax = ErrorCode::CalleeFailed as u64;
                Outcome::Continue
            }
            Request::ThreadExit { status } => {
                self.end_thread(mailbox, thread, End::Exit(status.into()));
                Outcome::Gone
            }
            Request::ThreadYield {} => Outcome::Yield,
            Request::ThreadSpawn { spec } => self.thread_spawn(caller, spec).into(),
            Request::ThreadSelf {} => {
                let harts = u64::from(mailbox.hart()) | u64::from(self.hart_count()) << 32;
                Ok((self.threads[thread].number, harts)).into()
            }
            Request::ThreadSet { thread: number, property, value } => {
                self.set_property(mailbox, thread, number, property, value).into()
            }
            Request::ThreadFind { index } => {
                let found = u32::try_from(index).ok().and_then(|index| self.threads.get(index));
                found.map(|thread| thread.number).ok_or(ErrorCode::NoThread).into()
            }
            Request::ThreadSync { operations, nanoseconds } => {
                match self.thread_sync(mailbox, thread, operations, nanoseconds) {
                    Ok(Synced::Now(woken, had_changed)) => Ok((woken, u64::from(had_changed))).into(),
                    Ok(Synced::Asleep) => Outcome::Gone,
                    Err(error) => Outcome::Done(Err(error)),
                }
            }
            Request::FaultReturn { frame } => Outcome::of_jump(self.fault_return(mailbox, thread, frame)),
            Request::ConsoleWrite { bytes } => {
                let written = self.console_write(caller, bytes);
                self.console_outcome(thread, written)
            }
            Request::ConsoleRead { buffer } => {
                let read = self.console_read(caller, buffer);
                self.console_outcome(thread, read)
            }
            Request::Clock {} => mailbox.clock().into(),
            Request::Random { buffer } => self.random(caller, buffer).into(),
            Request::Shutdown { status } => {
                mailbox.shutdown(status.into());
                Ok(()).into()
            }
            Request::Counters { buffer } => self.copy_counters(caller, buffer).into(),
            Request::ConsoleMode { mode } => mailbox.console_mode(mode).into(),
            Request::ObjectCreate { spec, ranges } => self.object_create(caller, spec, ranges).into(),
            Request::ObjectDelete { object } => mailbox.delete(context, object).into(),
            Request::ObjectStat { object, stat: to } => {
                let stat = mailbox.stat(context, object);
                stat.and_then(|stat| self.copy_out(caller.mailbox, caller.space, to.address, stat.as_bytes()))
                    .into()
            }
            Request::ObjectCopy { spec } => {
                self.page_changes += 1;
                self.pass_on(caller, spec).and_then(|()| mailbox.copy(context)).into()
            }
            Request::ObjectTie { object, keeper } => mailbox.tie(context, object, keeper).into(),
            Request::ObjectResize { object, first, bytes, resize } => {
                self.page_changes += 1;
                mailbox.resize(context, object, [first, bytes, resize as u64]).into()
            }
            Request::ViewSet { view, entry, stack, argument } => {
                Outcome::of_jump(self.view_set(caller, view, [entry, stack, argument]))
            }
            Request::ViewInvalidate { ranges } => self.view_invalidate(caller, ranges).into(),
            Request::ContextAttach { context } => self.attach(mailbox, thread, context).into(),
            Request::ContextDetach { context } => self.detach(mailbox, thread, context).into(),
            Request::ContextActivate { context } => self.activate(mailbox, thread, context).into(),
            Request::ContextSelf {} => Ok(context).into(),
            Request::GateCall { callee, gate, first, second, third } => {
                Outcome::of_jump(self.gate_call(mailbox, thread, callee, gate, [first, second, third]))
            }
            Request::GateReturn { first, second } => {
                Outcome::of_jump(self.gate_return(mailbox, thread, (first, second)))
            }
            Request::Revoke { revocation, capability } => self.revoke(caller, revocation, capability).into(),
            Request::KeyCreate { public } => {
                self.pass_on(caller, public).and_then(|()| mailbox.key_create(context)).into()
            }
            Request::CallerRights { object } => self.caller_rights(mailbox, thread, object).into(),
            Request::ResumeSet { spec } => self.resume_set(mailbox, thread, spec).into(),
            Request::ResumeClear {} => self.resume_note(mailbox, thread, ResumeNote::Over).into(),
            Request::ResumeConfirm {} => self.resume_note(mailbox, thread, ResumeNote::Confirmed).into(),
            Request::PmemTrace { kind, address, bytes, file, line } => {
                self.pmem_trace(caller, kind, (address, bytes), file, line).into()
            }
            Request::NameGet { name } => {
                self.name(caller, name).and_then(|length| mailbox.name_get(context, length)).into()
            }
            Request::NameSet { object, name } => {
                self.name(caller, name).and_then(|length| mailbox.name_set(context, object, length)).into()
            }
            Request::NameRemove { name } => {
                self.name(caller, name).and_then(|length| mailbox.name_remove(context, length)).into()
            }
            Request::NameNext { after, name } => self.name_next(caller, after, name).into(),
            Request::TranslationsChanged {} => mailbox.translations_changed(context).into(),
        }
    }

    fn thread_spawn(&mut self, caller: Caller, spec: In<ThreadSpec>) -> crate::Result<u64> {
        let spec = self.fetch(caller.mailbox, caller.space, spec)?;
        let view = if spec.view.is_null() { caller.view } else { spec.view };
        self.permit_priority(caller.thread, spec.priority.min(PRIORITY_MAX))?;
        let context = if spec.context.is_null() || spec.context == caller.context {
            let record = self.spaces[caller.space].record;
            self.hold_context(record);
            record
        } else {
            self.use_context(caller.mailbox, caller.context, spec.context)?
        };
        let thread = self.spawn(caller.mailbox, &spec, view, context)?;
        Ok(self.threads[thread].number)
    }

    /// Goes on in another view: the old space is left only after the new one was entered, so a failure changes nothing.
    fn view_set(
        &mut self,
        caller: Caller,
        view: ObjectId,
        [entry, stack, argument]: [u64; 3],
    ) -> crate::Result {
        let space = self.enter_space(caller.mailbox, view, self.spaces[caller.space].record)?;
        let moved = &mut self.threads[caller.thread];
        moved.space = space;
        moved.handles_fault = false;
        (moved.frame.rip, moved.frame.rsp, moved.frame.rdi) = (entry, stack, argument);
        moved.frame.vector = 0;
        // Loaded at the latest when the thread goes on.
        let _ = self.load_space(caller.mailbox.hart(), space);
        self.leave_space(caller.mailbox, caller.space);
        Ok(())
    }

    fn view_invalidate(&mut self, caller: Caller, ranges: InSlice<SlotRange>) -> crate::Result {
        let mut all = [SlotRange::new_zeroed(); RANGES_MAX];
        let all = &mut all[..ranges.count_in(1..=RANGES_MAX)?];
        self.copy_in(caller.mailbox, caller.space, ranges.address, all.as_mut_bytes())?;
        let is_good = |range: &SlotRange| {
            range.first.checked_add(range.count).is_some_and(|end| end <= view::SLOT_COUNT)
        };
        if !all.iter().all(is_good) {
            return Err(ErrorCode::BadArgument);
        }
        self.invalidate(caller.mailbox, caller.view, all);
        Ok(())
    }

    fn revoke(
        &mut self,
        caller: Caller,
        revocation: In<RawRevocation>,
        capability: Option<In<RawCap>>,
    ) -> crate::Result {
        let ends = capability.map_or((0, 0), |capability| (capability.address, size_of::<RawCap>()));
        self.pass_both(caller, revocation, ends)?;
        caller.mailbox.revoke(caller.context, capability.is_some())
    }

    fn object_create(
        &mut self,
        caller: Caller,
        spec: In<CreateSpec>,
        ranges: InSlice<CopyRange>,
    ) -> crate::Result<ObjectId> {
        self.page_changes += 1;
        let count = ranges.count_in(0..=CREATE_RANGES_MAX)?;
        self.pass_both(caller, spec, (ranges.address, count * size_of::<CopyRange>()))?;
        caller.mailbox.create(caller.context, count as u64)
    }

    fn copy_counters(&mut self, caller: Caller, buffer: OutSlice<u8>) -> crate::Result<u64> {
        let copy = *self.counters();
        let (own, length) = (size_of_val(&copy), buffer.count_up_to(size_of::<AllCounters>()));
        self.copy_out(caller.mailbox, caller.space, buffer.address, &copy.as_bytes()[..length.min(own)])?;
        if length > own {
            caller.mailbox.exits()?;
            self.copy_from_data(caller, buffer.address + own as u64, length - own)?;
        }
        Ok(length as u64)
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

    fn console_write(&mut self, caller: Caller, bytes: InSlice<u8>) -> crate::Result<Option<u64>> {
        let length = bytes.count_up_to(DATA_SIZE);
        self.copy_to_data(caller, bytes.address, length)?;
        match caller.mailbox.console_write(length) {
            Ok(()) => Ok(Some(length as u64)),
            // The reader of the output is slow.
            Err(ErrorCode::WouldBlock) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn console_read(&mut self, caller: Caller, buffer: OutSlice<u8>) -> crate::Result<Option<u64>> {
        let (to, room) = (buffer.address, buffer.count_up_to(DATA_SIZE));
        // Before anything is taken from the input, so that a bad pointer loses nothing.
        is_program_range(to, room as u64)?;
        self.settle(caller.mailbox, caller.space, to, room as u64, Rights::WRITE)?;
        let Some(count) = caller.mailbox.console_read(room)? else { return Ok(None) };
        self.copy_from_data(caller, to, count)?;
        Ok(Some(count as u64))
    }

    fn random(&mut self, caller: Caller, buffer: OutSlice<u8>) -> crate::Result {
        let length = buffer.count_in(0..=RANDOM_MAX)?;
        caller.mailbox.random(length)?;
        self.copy_from_data(caller, buffer.address, length)
    }

    /// Passes a flush or a fence on, as (object, offset). Memory that was never touched has nothing to flush.
    fn pmem_trace(
        &mut self,
        caller: Caller,
        kind: TracedKind,
        (address, bytes): (u64, u64),
        file: InSlice<u8>,
        line: u64,
    ) -> crate::Result {
        const WORD: usize = size_of::<u64>();
        let length = file.count_in(1..=NAME_MAX)?;
        let mut to = caller.mailbox;
        let data = to.data(WORD + length);
        data[..WORD].copy_from_slice(&(length as u64).to_le_bytes());
        self.copy_in(caller.mailbox, caller.space, file.address, &mut data[WORD..])?;
        let ((object, offset), bytes) = match kind {
            TracedKind::Fence => ((ObjectId::NULL, 0), 0),
            TracedKind::Flush => match self.place_of(caller.space, address).filter(|_| bytes > 0) {
                Some(place) => (place, bytes),
                None => return Ok(()),
            },
        };
        let number = self.threads[caller.thread].number;
        caller.mailbox.pmem_trace(caller.context, object, [offset, bytes, number, line])
    }

    /// Brings a name into the data area and returns its length.
    fn name(&mut self, caller: Caller, name: InSlice<u8>) -> crate::Result<usize> {
        let length = name.count_in(1..=NAME_MAX)?;
        self.copy_to_data(caller, name.address, length)?;
        Ok(length)
    }

    fn name_next(
        &mut self,
        caller: Caller,
        after: InSlice<u8>,
        name: Out<[u8; NAME_MAX]>,
    ) -> crate::Result<u64> {
        let after = if after.count == 0 { 0 } else { self.name(caller, after)? };
        let found = caller.mailbox.name_next(caller.context, after)?;
        self.copy_from_data(caller, name.address, found)?;
        Ok(found as u64)
    }

    /// A structure from program memory of the loaded space, copied once.
    pub(crate) fn fetch<T: FromBytes + IntoBytes>(
        &mut self,
        mailbox: Mailbox,
        space: u32,
        from: In<T>,
    ) -> crate::Result<T> {
        let mut found = T::new_zeroed();
        self.copy_in(mailbox, space, from.address, found.as_mut_bytes())?;
        Ok(found)
    }

    /// Copies a structure from the caller's memory into the mailbox's data area.
    fn pass_on<T>(&mut self, caller: Caller, from: In<T>) -> crate::Result {
        self.copy_to_data(caller, from.address, size_of::<T>())
    }

    /// Copies a structure and the bytes (address, length) that belong to it into the mailbox's data area, one behind the other.
    fn pass_both<T>(&mut self, caller: Caller, from: In<T>, (behind, length): (u64, usize)) -> crate::Result {
        self.pass_on(caller, from)?;
        let mut to = caller.mailbox;
        let data = &mut to.data(size_of::<T>() + length)[size_of::<T>()..];
        self.copy_in(caller.mailbox, caller.space, behind, data)
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
