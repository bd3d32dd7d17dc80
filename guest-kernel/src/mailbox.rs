//! Hypercalls: fill the hart's mailbox, write the port, read the answer.

use crate::arch::entry;
use core::arch::asm;
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};
use twz_abi::boot::{DIRECT_MAP, MAILBOX_GPA};
use twz_abi::hypercall::{DATA_SIZE, EVENTS, Happening, KernelEvent, LogLevel, Mailbox as Page, Op, PORT};
use twz_abi::resume::{ResumeNote, ResumeStart};
use twz_abi::sec::GateEntry;
use twz_abi::syscall::{ConsoleMode, NAME_MAX, ObjectStat};
use twz_abi::{ErrorCode, ObjectId, PAGE_SIZE, Rights};
use zerocopy::{FromZeros, IntoBytes};

/// The mailbox of one hart. Only that hart may use it: a value is made from the hart's own number (`Mailbox::of`) and never
/// handed to another hart.
#[derive(Clone, Copy)]
pub(crate) struct Mailbox {
    page: *mut Page,
    hart: u32,
}

// SAFETY: the value is an address; what it may be used for is the hart's affair, see the type's documentation.
unsafe impl Send for Mailbox {}

/// What an object is bound as.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    /// The monitor's number for (context, object).
    pub(crate) binding: u64,
    /// What the context may do with it.
    pub(crate) granted: Rights,
}

/// A context that the monitor has made usable.
#[derive(Clone, Copy)]
pub(crate) struct Entered {
    /// The monitor's number for it.
    pub(crate) number: u64,
    /// Its root's number.
    pub(crate) root: u64,
    /// `context_flags`.
    pub(crate) flags: u64,
}

impl Entered {
    const fn of(rets: [u64; 4]) -> Self {
        Self { number: rets[0], root: rets[1], flags: rets[2] }
    }
}

/// Lines of level info are wanted.
static IS_VERBOSE: AtomicBool = AtomicBool::new(false);

/// From now on lines of level info are printed.
pub(crate) fn be_verbose() {
    IS_VERBOSE.store(true, Ordering::Relaxed);
}

impl Mailbox {
    /// The mailbox of hart `hart`.
    pub(crate) const fn of(hart: u32) -> Self {
        Self { page: (DIRECT_MAP + MAILBOX_GPA + hart as u64 * PAGE_SIZE) as *mut Page, hart }
    }

    /// The hart that it belongs to.
    pub(crate) const fn hart(self) -> u32 {
        self.hart
    }

    /// The first `length` bytes of the data area: what calls with "data" take and give.
    pub(crate) fn data(&mut self, length: usize) -> &mut [u8] {
        &mut self.page().data[..length]
    }

    fn page(&mut self) -> &mut Page {
        // SAFETY: `twzvmm` mapped the page for this hart alone, and touches it only while the hart is in `call`.
        unsafe { &mut *self.page }
    }

    /// Exits to `twzvmm` with `op` and returns its results.
    fn call(&mut self, op: Op, arguments: &[u64]) -> crate::Result<[u64; 4]> {
        self.exit(op as u32, arguments)
    }

    fn exit(&mut self, op: u32, arguments: &[u64]) -> crate::Result<[u64; 4]> {
        let page = self.page();
        page.op = op;
        page.args[..arguments.len()].copy_from_slice(arguments);
        // SAFETY: the port is `twzvmm`'s; it reads and writes the mailbox, which is why memory counts as changed.
        unsafe {
            asm!("out {port}, al", port = const PORT, in("al") 0_u8, options(nostack, preserves_flags))
        };
        let page = self.page();
        match page.status {
            0 => Ok(page.rets),
            status => Err(ErrorCode::try_from(status).unwrap_or(ErrorCode::BadArgument)),
        }
    }

    /// A call of a kernel that was taken over.
    #[cfg(feature = "hostile")]
    pub(crate) fn raw(mut self, op: u32, arguments: &[u64]) -> crate::Result<[u64; 4]> {
        self.exit(op, arguments)
    }

    /// For calls that cannot fail.
    fn tell(&mut self, op: Op, arguments: &[u64]) {
        // `twzvmm` answers these with success by contract; there is nothing to do otherwise.
        let _ = self.call(op, arguments);
    }

    /// Records an event for `twzvmm trace`. Costs no exit: it is read when the hart exits for another reason.
    pub(crate) fn record(mut self, what: Happening, detail: u32, thread: u64, [first, second]: [u64; 2]) {
        let page = self.page();
        #[allow(clippy::cast_possible_truncation, reason = "reduced to a place in the ring")]
        let place = (page.event_count % EVENTS as u64) as usize;
        page.events[place] = KernelEvent { what: what as u32, detail, thread, first, second };
        page.event_count += 1;
    }

    /// Exchanges the vector state of this hart between frames; see [`Op::Vectors`].
    pub(crate) fn exchange_vectors(mut self, to: u64, from: u64) {
        let exchanged = self.call(Op::Vectors, &[to, from]);
        // It holds what `twzvmm` itself saved, or the kernel's initial state.
        assert!(exchanged.is_ok(), "vector state is refused");
    }

    pub(crate) fn ready(mut self, vcpu_entry: u64, fixup: [u64; 3], counters: u64) {
        self.tell(Op::Ready, &[vcpu_entry, fixup[0], fixup[1], fixup[2], counters]);
    }

    pub(crate) fn first_user(mut self) {
        self.tell(Op::FirstUser, &[]);
    }

    pub(crate) fn shutdown(mut self, status: u64) {
        self.tell(Op::Shutdown, &[status]);
    }

    pub(crate) fn relax(mut self) {
        self.tell(Op::Relax, &[]);
    }

    pub(crate) fn kick(mut self, harts: u64) {
        self.tell(Op::Kick, &[harts]);
    }

    /// Interrupts this hart after `nanoseconds`.
    pub(crate) fn set_timer(mut self, nanoseconds: u64) {
        self.tell(Op::SetTimer, &[nanoseconds]);
    }

    /// Interrupts hart 0 when this time (nanoseconds since the start) has come, in place of an earlier alarm.
    pub(crate) fn set_alarm(mut self, time: u64) {
        self.tell(Op::SetAlarm, &[time]);
    }

    /// (since the start, since 1970) in nanoseconds.
    pub(crate) fn clock(mut self) -> crate::Result<(u64, u64)> {
        self.call(Op::Clock, &[]).map(|rets| (rets[0], rets[1]))
    }

    /// Puts the `ExitCounters` into the data area.
    pub(crate) fn exits(mut self) -> crate::Result {
        self.call(Op::Exits, &[]).map(drop)
    }

    /// Puts `length` random bytes into the data area.
    pub(crate) fn random(mut self, length: usize) -> crate::Result {
        self.call(Op::Random, &[length as u64]).map(drop)
    }

    /// Prints what a program wrote: the first `length` bytes of the data area. `WouldBlock`: there is no room; harts are kicked when there is.
    pub(crate) fn console_write(mut self, length: usize) -> crate::Result {
        self.call(Op::ConsoleWrite, &[length as u64, 0]).map(drop)
    }

    /// Prints a line about something that was lost.
    pub(crate) fn log(self, line: fmt::Arguments<'_>) {
        self.log_at(LogLevel::Error, line);
    }

    /// Prints a line about what the kernel found and chose, if somebody wants it. Formatting is dear where ring 0 is interpreted.
    pub(crate) fn log_info(self, line: fmt::Arguments<'_>) {
        if IS_VERBOSE.load(Ordering::Relaxed) {
            self.log_at(LogLevel::Info, line);
        }
    }

    fn log_at(mut self, level: LogLevel, line: fmt::Arguments<'_>) {
        let length = self.format(line);
        self.tell(Op::ConsoleWrite, &[length, level as u64]);
    }

    /// Takes up to `room` typed bytes into the data area; `None` if there are none yet, 0 at the end of the input.
    pub(crate) fn console_read(mut self, room: usize) -> crate::Result<Option<usize>> {
        let [count, ended, ..] = self.call(Op::ConsoleRead, &[room as u64])?;
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(room);
        Ok((count > 0 || ended != 0).then_some(count))
    }

    /// Says how typed input is to come; (1 if people type, columns of their terminal).
    pub(crate) fn console_mode(mut self, mode: ConsoleMode) -> crate::Result<(u64, u64)> {
        self.call(Op::ConsoleMode, &[mode as u64]).map(|rets| (rets[0], rets[1]))
    }

    /// Makes the context `into` usable for threads in `context`.
    pub(crate) fn enter(mut self, context: ObjectId, into: ObjectId) -> crate::Result<Entered> {
        self.call(Op::Enter, &[context.lo, context.hi, into.lo, into.hi]).map(Entered::of)
    }

    /// No thread holds a context any more.
    pub(crate) fn leave(mut self, number: u64) {
        self.tell(Op::Leave, &[number]);
    }

    /// Goes to the root of a context. The caller keeps to C1 in `context`.
    pub(crate) fn switch(mut self, number: u64) -> crate::Result {
        let page = self.page();
        page.op = Op::Switch as u32;
        page.args[0] = number;
        entry::change_root(self.hart);
        match self.page().status {
            0 => Ok(()),
            status => Err(ErrorCode::try_from(status).unwrap_or(ErrorCode::BadArgument)),
        }
    }

    /// Empties a context's window.
    pub(crate) fn hide(mut self, number: u64) -> crate::Result {
        self.call(Op::Hide, &[number]).map(drop)
    }

    /// Asks for a gate; the callee's context is entered.
    pub(crate) fn gate(
        mut self,
        context: ObjectId,
        callee: ObjectId,
        number: u64,
    ) -> crate::Result<(Entered, GateEntry)> {
        let rets = self.call(Op::Gate, &[context.lo, context.hi, callee.lo, callee.hi, number])?;
        let mut gate = GateEntry::new_zeroed();
        gate.as_mut_bytes().copy_from_slice(self.data(size_of::<GateEntry>()));
        Ok((Entered::of(rets), gate))
    }

    /// Raised by the monitor when a gate that was asked for may have closed.
    pub(crate) fn revision(self) -> u64 {
        // SAFETY: the page is mapped for as long as the kernel runs; only an address is taken.
        let word = unsafe { &raw const (*self.page).revision };
        // SAFETY: as above; volatile, because `twzvmm` stores to it at any time.
        unsafe { word.read_volatile() }
    }

    /// Carries the revocation in the data area out.
    pub(crate) fn revoke(mut self, context: ObjectId, with_capability: bool) -> crate::Result {
        self.call(Op::Revoke, &[context.lo, context.hi, u64::from(with_capability)]).map(drop)
    }

    /// Makes the object of the key in the data area.
    pub(crate) fn key_create(mut self, context: ObjectId) -> crate::Result<ObjectId> {
        self.call(Op::KeyCreate, &[context.lo, context.hi]).map(|rets| ObjectId { lo: rets[0], hi: rets[1] })
    }

    pub(crate) fn bind(mut self, context: ObjectId, object: ObjectId) -> crate::Result<Bound> {
        let rets = self.call(Op::Bind, &[context.lo, context.hi, object.lo, object.hi])?;
        Ok(Bound { binding: rets[0], granted: Rights::from_bits_truncate(rights_word(rets[1])) })
    }

    /// Backs the page at `offset`; returns the address of a large page that covers it, or `None` after `table` was filled in,
    /// and the rights that the binding has now.
    pub(crate) fn touch(
        mut self,
        binding: u64,
        offset: u64,
        access: Rights,
        table: u64,
    ) -> crate::Result<(Option<u64>, Rights)> {
        let rets = self.call(Op::Touch, &[binding, offset, u64::from(access.bits()), table])?;
        Ok(((rets[0] != 0).then_some(rets[0]), Rights::from_bits_truncate(rights_word(rets[1]))))
    }

    pub(crate) fn unbind(mut self, binding: u64) {
        self.tell(Op::Unbind, &[binding]);
    }

    /// Creates the object that the `CreateSpec` in the data area describes, with the `CopyRange`s behind it.
    pub(crate) fn create(mut self, context: ObjectId, ranges: u64) -> crate::Result<ObjectId> {
        self.call(Op::Create, &[context.lo, context.hi, ranges])
            .map(|rets| ObjectId { lo: rets[0], hi: rets[1] })
    }

    pub(crate) fn delete(mut self, context: ObjectId, object: ObjectId) -> crate::Result {
        self.call(Op::Delete, &[context.lo, context.hi, object.lo, object.hi]).map(drop)
    }

    /// Copies the range that the `CopySpec` in the data area describes.
    pub(crate) fn copy(mut self, context: ObjectId) -> crate::Result {
        self.call(Op::Copy, &[context.lo, context.hi]).map(drop)
    }

    pub(crate) fn tie(mut self, context: ObjectId, object: ObjectId, keeper: ObjectId) -> crate::Result {
        let arguments = [context.lo, context.hi, object.lo, object.hi, keeper.lo, keeper.hi];
        self.call(Op::Tie, &arguments).map(drop)
    }

    pub(crate) fn resize(
        mut self,
        context: ObjectId,
        object: ObjectId,
        [offset, bytes, how]: [u64; 3],
    ) -> crate::Result {
        self.call(Op::Resize, &[context.lo, context.hi, object.lo, object.hi, offset, bytes, how]).map(drop)
    }

    /// What the monitor knows of an object, and what a context may do with it.
    pub(crate) fn stat(mut self, context: ObjectId, object: ObjectId) -> crate::Result<ObjectStat> {
        self.call(Op::Stat, &[context.lo, context.hi, object.lo, object.hi])?;
        let mut stat = ObjectStat::new_zeroed();
        stat.as_mut_bytes().copy_from_slice(self.data(size_of::<ObjectStat>()));
        Ok(stat)
    }

    /// Looks up the name in the first `length` bytes of the data area; likewise the two below.
    pub(crate) fn name_get(mut self, context: ObjectId, length: usize) -> crate::Result<ObjectId> {
        let rets = self.call(Op::NameGet, &[context.lo, context.hi, length as u64])?;
        Ok(ObjectId { lo: rets[0], hi: rets[1] })
    }

    pub(crate) fn name_set(mut self, context: ObjectId, object: ObjectId, length: usize) -> crate::Result {
        self.call(Op::NameSet, &[context.lo, context.hi, object.lo, object.hi, length as u64]).map(drop)
    }

    pub(crate) fn name_remove(mut self, context: ObjectId, length: usize) -> crate::Result {
        self.call(Op::NameRemove, &[context.lo, context.hi, length as u64]).map(drop)
    }

    /// Raises the word that all programs compare their translations with.
    pub(crate) fn translations_changed(mut self, context: ObjectId) -> crate::Result {
        self.call(Op::TranslationsChanged, &[context.lo, context.hi]).map(drop)
    }

    /// Puts the first name behind that in the first `length` bytes of the data area in its place; returns its bytes.
    pub(crate) fn name_next(mut self, context: ObjectId, length: usize) -> crate::Result<usize> {
        let rets = self.call(Op::NameNext, &[context.lo, context.hi, length as u64])?;
        Ok(usize::try_from(rets[0]).unwrap_or(usize::MAX).min(NAME_MAX))
    }

    /// A flush or a fence (offset, bytes, thread, line), by the source file that the data area names.
    pub(crate) fn pmem_trace(
        mut self,
        context: ObjectId,
        object: ObjectId,
        [offset, bytes, thread, line]: [u64; 4],
    ) -> crate::Result {
        let arguments = [context.lo, context.hi, object.lo, object.hi, offset, bytes, thread, line];
        self.call(Op::PmemTrace, &arguments).map(drop)
    }

    /// Makes a thread resumable as the `ResumeSpec` in the data area says; returns its number in the monitor's list.
    pub(crate) fn resume_set(mut self, context: ObjectId, view: ObjectId, number: u64) -> crate::Result<u64> {
        let arguments = [context.lo, context.hi, view.lo, view.hi, number];
        self.call(Op::ResumeSet, &arguments).map(|rets| rets[0])
    }

    /// Tells the monitor what became of a resumable thread.
    pub(crate) fn resume_note(mut self, number: u64, note: ResumeNote) -> crate::Result {
        self.call(Op::ResumeNote, &[number, note as u64]).map(drop)
    }

    /// The next thread to be resumed and its context, which is entered; `None` if there are no more.
    pub(crate) fn resume_next(mut self) -> crate::Result<Option<(Entered, ResumeStart)>> {
        let rets = self.call(Op::ResumeNext, &[])?;
        if rets[0] == 0 {
            return Ok(None);
        }
        let mut start = ResumeStart::new_zeroed();
        start.as_mut_bytes().copy_from_slice(self.data(size_of::<ResumeStart>()));
        Ok(Some((Entered::of([rets[1], rets[2], rets[3], 0]), start)))
    }

    /// Writes text into the mailbox, cut at its end; returns its length.
    fn format(&mut self, text: fmt::Arguments<'_>) -> u64 {
        let mut writer = DataWriter { data: &mut self.page().data, length: 0 };
        // The writer itself never fails, it cuts.
        let _ = writer.write_fmt(text);
        writer.length as u64
    }
}

#[allow(clippy::cast_possible_truncation, reason = "rights are 32 bits; higher ones have no meaning")]
fn rights_word(value: u64) -> u32 {
    value as u32
}

struct DataWriter<'a> {
    data: &'a mut [u8; DATA_SIZE],
    length: usize,
}

impl Write for DataWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.data[self.length..];
        let count = text.len().min(room.len());
        room[..count].copy_from_slice(&text.as_bytes()[..count]);
        self.length += count;
        Ok(())
    }
}

/// Says why the kernel cannot go on; `twzvmm` ends the machine. Any hart may get here, so the mailbox is found from the stack
/// pointer, which lies in the hart's own stack area.
pub(crate) fn panic(info: &PanicInfo<'_>) -> ! {
    let mut mailbox = Mailbox::of(entry::current_hart());
    let length = mailbox.format(format_args!("{info}"));
    loop {
        mailbox.tell(Op::Panic, &[length]);
    }
}
