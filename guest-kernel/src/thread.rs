//! Threads: saved registers, vector state, and their life.
//!
//! ```text
//! spawn -> Ready <-> Running -> ended
//!            ^          |
//!            `- Waits <-´
//! ```

use crate::arch::cpu;
use crate::arch::entry::TrapFrame;
use crate::arch::fpu::FpuPage;
use crate::arch::tables::{USER_CODE, USER_DATA};
use crate::context::Attached;
use crate::kernel::Kernel;
use crate::mailbox::Mailbox;
use core::fmt;
use twz_abi::boot::ThreadStart;
use twz_abi::fault::{FaultCause, FaultInfo};
use twz_abi::hypercall::Happening;
use twz_abi::thread::{
    PRIORITY_DEFAULT, PRIORITY_MAX, THREAD_INDEX_BITS, THREAD_NAME_MAX, ThreadPhase, ThreadProperty,
    ThreadSpec, ThreadState,
};
use twz_abi::{ErrorCode, ObjectId};
use zerocopy::IntoBytes;

/// What a thread is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// In the run queue.
    Ready,
    /// On a hart.
    Running,
    /// Its console call is repeated when something was typed, or there is room again.
    WaitsForConsole,
    /// Sleeps on words; see `sync`.
    Sleeps,
}

/// How a thread ended.
#[derive(Clone, Copy)]
pub(crate) enum End {
    /// By itself, with this status.
    Exit(u32),
    /// By a fault.
    Fault(FaultInfo),
}

impl End {
    /// The exit status.
    pub(crate) fn status(&self) -> u32 {
        match self {
            Self::Exit(status) => *status,
            Self::Fault(info) => crate::fault::FAULT_STATUS + info.cause,
        }
    }
}

/// A thread. The entries in `arch::entry` push into `frame` and read `kernel_stack`, so both stand first.
#[repr(C)]
pub(crate) struct Thread {
    pub(crate) frame: TrapFrame,
    /// Top of the stack of the hart that runs it.
    pub(crate) kernel_stack: u64,
    /// The hart that runs it, or ran it last.
    pub(crate) hart: u32,
    /// Its place in the kernel's thread table.
    pub(crate) index: u32,
    /// Its number for programs.
    pub(crate) number: u64,
    pub(crate) state: State,
    pub(crate) priority: u32,
    /// Harts that may run it, a bit each.
    pub(crate) affinity: u64,
    /// The (view, context) that it runs in.
    pub(crate) space: u32,
    /// The contexts that it holds.
    pub(crate) attached: Attached,
    /// Gates that it has entered and not left, the last one first.
    pub(crate) calls: Option<u32>,
    /// Next thread in the queue that it is in.
    pub(crate) next: Option<u32>,
    /// The one before it among those that sleep with a deadline.
    pub(crate) previous: Option<u32>,
    /// Words that it sleeps on, as a list of waits.
    pub(crate) waits: Option<u32>,
    /// When it wakes at the latest, in nanoseconds since the start.
    pub(crate) deadline: Option<u64>,
    /// FS and GS base.
    pub(crate) segments: (u64, u64),
    /// The machine ends with the last of these threads.
    pub(crate) is_first: bool,
    /// Its number in the monitor's list of resumable threads; 0 for none.
    pub(crate) resume: u64,
    /// A fault handler runs and has not returned.
    pub(crate) handles_fault: bool,
    pub(crate) fault_stack: u64,
    /// Address of its `ThreadState`; 0 for none.
    state_address: u64,
    pub(crate) name: [u8; THREAD_NAME_MAX],
    /// The last instruction that the second stage refused, how often in a row, and `Kernel::page_changes` then.
    pub(crate) refused: (u64, u32, u64),
    /// The machine's page faults until then.
    pub(crate) refused_at: u64,
    pub(crate) fpu: FpuPage,
}

impl Thread {
    fn new(spec: &ThreadSpec, space: u32, attached: Attached, affinity: u64, fpu: FpuPage) -> Self {
        let frame = TrapFrame {
            rip: spec.entry,
            cs: u64::from(USER_CODE),
            rflags: cpu::sanitise_flags(0),
            rsp: spec.stack,
            ss: u64::from(USER_DATA),
            rdi: spec.argument,
            ..TrapFrame::default()
        };
        Self {
            frame,
            kernel_stack: 0,
            hart: 0,
            index: 0,
            number: 0,
            state: State::Ready,
            priority: spec.priority,
            affinity,
            space,
            attached,
            calls: None,
            next: None,
            previous: None,
            waits: None,
            deadline: None,
            segments: (spec.tls, 0),
            is_first: false,
            resume: 0,
            handles_fault: false,
            fault_stack: spec.fault_stack,
            state_address: spec.state,
            name: spec.name,
            refused: (0, 0, 0),
            refused_at: 0,
            fpu,
        }
    }

    /// Name and number, for messages.
    pub(crate) fn label(&self) -> impl fmt::Display + use<> {
        Label { number: self.number, name: self.name }
    }
}

struct Label {
    number: u64,
    name: [u8; THREAD_NAME_MAX],
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {}", self.number >> THREAD_INDEX_BITS)?;
        let length = self.name.iter().position(|&byte| byte == 0).unwrap_or(THREAD_NAME_MAX);
        match core::str::from_utf8(&self.name[..length]) {
            Ok(name) if !name.is_empty() => write!(f, " ({})", name.escape_debug()),
            _ => Ok(()),
        }
    }
}

impl Kernel {
    /// Makes the machine's first thread; one use of the context becomes its own.
    pub(crate) fn spawn_first(
        &mut self,
        mailbox: Mailbox,
        start: &ThreadStart,
        context: u32,
    ) -> crate::Result {
        let mut name = [0; THREAD_NAME_MAX];
        name[..4].copy_from_slice(b"main");
        let spec = ThreadSpec {
            entry: start.entry,
            stack: start.stack,
            argument: start.argument,
            tls: start.tls,
            priority: PRIORITY_DEFAULT,
            name,
            ..ThreadSpec::default()
        };
        let thread = self.spawn(mailbox, &spec, start.view, context)?;
        self.is_first(thread);
        Ok(())
    }

    /// Whether `thread` may give threads this priority. Above the usual one, only the first threads may, so that no other program keeps all harts.
    pub(crate) fn permit_priority(&self, thread: u32, priority: u32) -> crate::Result {
        let asking = &self.threads[thread];
        let is_permitted = asking.is_first || priority <= asking.priority.max(PRIORITY_DEFAULT);
        if is_permitted { Ok(()) } else { Err(ErrorCode::NotPermitted) }
    }

    /// Makes `thread` one of those that the machine ends with.
    pub(crate) fn is_first(&mut self, thread: u32) {
        self.threads[thread].is_first = true;
        self.first_left += 1;
    }

    /// One of those has ended. The machine's status is that of the first that is not 0.
    fn first_ended(&mut self, mailbox: Mailbox, status: u32) {
        if self.first_status == 0 {
            self.first_status = status;
        }
        self.first_left -= 1;
        if self.first_left == 0 {
            mailbox.shutdown(u64::from(self.first_status));
        }
    }

    /// Makes a thread in a view and a context, and queues it. One use of the context becomes the thread's, or ends.
    pub(crate) fn spawn(
        &mut self,
        mailbox: Mailbox,
        spec: &ThreadSpec,
        view: ObjectId,
        context: u32,
    ) -> crate::Result<u32> {
        let made = self.make_thread(mailbox, spec, view, context);
        if made.is_err() {
            self.release_context(mailbox, context);
        }
        made
    }

    fn make_thread(
        &mut self,
        mailbox: Mailbox,
        spec: &ThreadSpec,
        view: ObjectId,
        context: u32,
    ) -> crate::Result<u32> {
        let all = self.all_harts();
        let affinity = if spec.affinity == 0 { all } else { spec.affinity & all };
        let is_good = cpu::is_user_address(spec.entry)
            && cpu::is_user_address(spec.tls)
            && cpu::is_user_address(spec.fault_stack)
            && spec.state.is_multiple_of(8)
            && spec.priority <= PRIORITY_MAX
            && spec.reserved == 0
            && affinity != 0;
        if !is_good {
            return Err(ErrorCode::BadArgument);
        }
        let space = self.enter_space(mailbox, view, context)?;
        let Some(fpu) = self.fpu_pages.allocate(&mut self.frames) else {
            self.leave_space(mailbox, space);
            return Err(ErrorCode::NoMemory);
        };
        let attached = Attached::one(context, self.contexts[context].id);
        match self.threads.insert(&mut self.frames, Thread::new(spec, space, attached, affinity, fpu)) {
            Ok(thread) => {
                self.next_serial += 1;
                let number = self.next_serial << THREAD_INDEX_BITS | u64::from(thread);
                let made = &mut self.threads[thread];
                (made.index, made.number) = (thread, number);
                if let Err(error) = self.announce(mailbox, thread) {
                    if let Some(unmade) = self.threads.remove(&mut self.frames, thread) {
                        self.fpu_pages.free(&mut self.frames, unmade.fpu);
                    }
                    self.leave_space(mailbox, space);
                    return Err(error);
                }
                self.counters().threads_started += 1;
                let record = [spec.entry, 0];
                mailbox.record(Happening::ThreadStarted, spec.priority, number, record);
                self.enqueue(mailbox, thread);
                Ok(thread)
            }
            Err(unmade) => {
                self.fpu_pages.free(&mut self.frames, unmade.fpu);
                self.leave_space(mailbox, space);
                Err(ErrorCode::NoMemory)
            }
        }
    }

    /// Writes the state of a thread that is about to exist, in its own view. Fails if the state cannot be written.
    fn announce(&mut self, mailbox: Mailbox, thread: u32) -> crate::Result {
        let new = &self.threads[thread];
        let (address, space, number) = (new.state_address, new.space, new.number);
        if address == 0 {
            return Ok(());
        }
        let state =
            ThreadState { phase: ThreadPhase::Started as u32, thread: number, ..ThreadState::default() };
        // Loads the new thread's space; the creator's is loaded again when it goes on.
        self.copy_out(mailbox, space, address, state.as_bytes())
    }

    /// The thread with a number that a program gave.
    pub(crate) fn find_thread(&self, number: u64) -> crate::Result<u32> {
        let index =
            u32::try_from(number & ((1 << THREAD_INDEX_BITS) - 1)).map_err(|_| ErrorCode::NoThread)?;
        let is_it = self.threads.get(index).is_some_and(|thread| thread.number == number);
        is_it.then_some(index).ok_or(ErrorCode::NoThread)
    }

    /// Changes a property of `target` for `thread`, which is running.
    pub(crate) fn set_property(
        &mut self,
        mailbox: Mailbox,
        thread: u32,
        number: u64,
        property: ThreadProperty,
        value: u64,
    ) -> crate::Result {
        let target = if number == 0 { thread } else { self.find_thread(number)? };
        if self.spaces[self.threads[target].space].context != self.spaces[self.threads[thread].space].context
        {
            return Err(ErrorCode::NotPermitted);
        }
        let is_self = target == thread;
        match property {
            // Inside of a gate it is its caller's.
            ThreadProperty::Priority | ThreadProperty::Affinity if self.threads[target].calls.is_some() => {
                return Err(ErrorCode::NotPermitted);
            }
            ThreadProperty::Priority => {
                let priority = u32::try_from(value).ok().filter(|&priority| priority <= PRIORITY_MAX);
                let priority = priority.ok_or(ErrorCode::BadArgument)?;
                self.permit_priority(thread, priority)?;
                self.requeued(mailbox, target, |thread| thread.priority = priority);
            }
            ThreadProperty::Affinity => {
                let affinity = value & self.all_harts();
                if affinity == 0 {
                    return Err(ErrorCode::BadArgument);
                }
                self.requeued(mailbox, target, |thread| thread.affinity = affinity);
            }
            ThreadProperty::Tls if is_self && cpu::is_user_address(value) => {
                let (_, gs) = cpu::segment_bases();
                cpu::set_segment_bases(value, gs);
            }
            ThreadProperty::FaultStack if is_self && cpu::is_user_address(value) => {
                self.threads[thread].fault_stack = value;
            }
            ThreadProperty::Tls | ThreadProperty::FaultStack => return Err(ErrorCode::BadArgument),
        }
        Ok(())
    }

    /// Changes what the queue depends on. A thread that runs elsewhere is told to look around, and finds the change when it does.
    fn requeued(&mut self, mailbox: Mailbox, thread: u32, change: impl FnOnce(&mut Thread)) {
        match self.threads[thread].state {
            State::Ready => {
                self.dequeue(thread);
                change(&mut self.threads[thread]);
                self.enqueue(mailbox, thread);
            }
            State::Running => {
                change(&mut self.threads[thread]);
                let hart = self.threads[thread].hart;
                if hart != mailbox.hart() {
                    mailbox.kick(1 << hart);
                }
            }
            State::WaitsForConsole | State::Sleeps => change(&mut self.threads[thread]),
        }
    }

    /// Ends `thread`, which is on this hart with its space loaded.
    pub(crate) fn end_thread(&mut self, mailbox: Mailbox, thread: u32, end: End) {
        while self.threads[thread].calls.is_some() {
            self.drop_call(mailbox, thread);
        }
        self.note_end(mailbox, thread, &end);
        self.report_state(mailbox, thread, &end);
        let Some(ended) = self.threads.remove(&mut self.frames, thread) else { return };
        self.counters().threads_ended += 1;
        mailbox.record(Happening::ThreadEnded, end.status(), ended.number, [0, 0]);
        let hart = self.hart(mailbox.hart());
        if hart.vector_owner == Some(thread) {
            hart.vector_owner = None;
        }
        self.fpu_pages.free(&mut self.frames, ended.fpu);
        self.load_boot_table(mailbox.hart());
        self.leave_space(mailbox, ended.space);
        self.release_attached(mailbox, ended.attached);
        if ended.is_first {
            self.first_ended(mailbox, end.status());
        }
    }

    /// Ends a thread whose space cannot be loaded: its context's table cannot be made.
    pub(crate) fn lose_thread(&mut self, mailbox: Mailbox, thread: u32) {
        let cause = FaultCause::OutOfSpace as u32;
        mailbox.log(format_args!("{} ended: its context cannot be entered", self.threads[thread].label()));
        self.end_thread(mailbox, thread, End::Fault(FaultInfo { cause, ..FaultInfo::default() }));
    }

    /// Writes the thread's `ThreadState` and wakes who sleeps on it. A state that cannot be written is the program's own doing.
    fn report_state(&mut self, mailbox: Mailbox, thread: u32, end: &End) {
        let (address, space, number) = {
            let ended = &self.threads[thread];
            (ended.state_address, ended.space, ended.number)
        };
        if address == 0 {
            return;
        }
        let (phase, fault) = match end {
            End::Exit(_) => (ThreadPhase::Exited, FaultInfo::default()),
            End::Fault(info) => (ThreadPhase::Faulted, *info),
        };
        let state =
            ThreadState { phase: ThreadPhase::New as u32, status: end.status(), thread: number, fault };
        let written = self.copy_out(mailbox, space, address, state.as_bytes()).and_then(|()| {
            // The phase last: who sees it sees the rest.
            self.copy_out(mailbox, space, address, (phase as u32).as_bytes())
        });
        if written.is_ok()
            && let Some(place) = self.place_of(space, address)
        {
            self.wake(mailbox, place, u64::MAX);
        }
    }
}
