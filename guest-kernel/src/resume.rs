//! Threads that begin again after a power failure: what the kernel adds to the monitor's list of them.
//!
//! # Contract
//! - The monitor keeps the list, decides what may be on it and prepares the memory; the kernel names the thread's own context and view,
//!   keeps the thread's number in that list, and tells what became of the thread.
//! - Resumed threads are queued in the order in which they became resumable, before the first thread, and all before the first
//!   instruction of ring 3.
//! - A thread that ends by itself is off the list when its end can be seen.

use crate::kernel::Kernel;
use crate::mailbox::{Entered, Mailbox};
use crate::thread::End;
use twz_abi::ErrorCode;
use twz_abi::call::In;
use twz_abi::resume::{ResumeNote, ResumeSpec, ResumeStart, resume_flags};
use twz_abi::thread::{PRIORITY_MAX, ThreadSpec};
use zerocopy::IntoBytes;

impl Kernel {
    /// `ResumeSet`: makes `thread` resumable as its [`ResumeSpec`] says.
    pub(crate) fn resume_set(
        &mut self,
        mailbox: Mailbox,
        thread: u32,
        spec: In<ResumeSpec>,
    ) -> crate::Result<u64> {
        let space = self.threads[thread].space;
        let mut spec = self.fetch(mailbox, space, spec)?;
        if spec.flags & !resume_flags::ALL != 0 || spec.reserved != 0 {
            return Err(ErrorCode::BadArgument);
        }
        let asking = &self.threads[thread];
        // Inside of a gate the view is the callee's, and the thread its caller's.
        if asking.calls.is_some() {
            return Err(ErrorCode::NotPermitted);
        }
        (spec.priority, spec.name) = (asking.priority, asking.name);
        if spec.flags & resume_flags::KEEP_REGISTERS != 0 {
            let frame = &asking.frame;
            (spec.entry, spec.stack, spec.argument) = (frame.rip, frame.rsp, 0);
            spec.registers = [frame.rbx, frame.rbp, frame.r12, frame.r13, frame.r14, frame.r15];
        }
        let within = &self.spaces[space];
        let (context, view, number) = (within.context, within.view, asking.resume);
        let mut to = mailbox;
        to.data(size_of::<ResumeSpec>()).copy_from_slice(spec.as_bytes());
        self.threads[thread].resume = mailbox.resume_set(context, view, number)?;
        Ok(0)
    }

    /// Tells the monitor something of `thread`.
    ///
    /// # Errors
    /// [`ErrorCode::NoThread`] if it is not on the list.
    pub(crate) fn resume_note(&mut self, mailbox: Mailbox, thread: u32, note: ResumeNote) -> crate::Result {
        let number = self.threads[thread].resume;
        if number == 0 {
            return Err(ErrorCode::NoThread);
        }
        if self.threads[thread].calls.is_some() {
            return Err(ErrorCode::NotPermitted);
        }
        if note == ResumeNote::Over {
            self.threads[thread].resume = 0;
        }
        mailbox.resume_note(number, note)
    }

    /// `thread` ends: it is not resumed if it did so by itself.
    pub(crate) fn note_end(&mut self, mailbox: Mailbox, thread: u32, end: &End) {
        let note = match end {
            End::Exit(_) => ResumeNote::Over,
            End::Fault(_) => ResumeNote::Faulted,
        };
        match self.resume_note(mailbox, thread, note) {
            Ok(()) | Err(ErrorCode::NoThread) => {}
            Err(error) => {
                let label = self.threads[thread].label();
                mailbox.log(format_args!("the end of {label} was not recorded, it may be resumed: {error}"));
            }
        }
    }

    /// Starts every thread that is to be resumed. With `alone` the machine ends with the last of them.
    pub(crate) fn resume_all(&mut self, mailbox: Mailbox, alone: bool) {
        loop {
            match mailbox.resume_next() {
                Ok(None) => return,
                Ok(Some((entered, start))) => match self.resume(mailbox, entered, &start) {
                    Ok(thread) if alone => self.is_first(thread),
                    Ok(_) => {}
                    Err(_) => {
                        // The monitor says it, with the thread's name.
                        let _ = mailbox.resume_note(start.number, ResumeNote::NotStarted);
                    }
                },
                Err(error) => return mailbox.log(format_args!("threads are not resumed: {error}")),
            }
        }
    }

    fn resume(&mut self, mailbox: Mailbox, entered: Entered, start: &ResumeStart) -> crate::Result<u32> {
        let context = self.note_context(mailbox, start.context, entered)?;
        let ResumeSpec { entry, stack, argument, tls, priority, name, registers, flags, .. } = start.spec;
        let priority = priority.min(PRIORITY_MAX);
        let spec = ThreadSpec { entry, stack, argument, tls, priority, name, ..ThreadSpec::default() };
        let thread = self.spawn(mailbox, &spec, start.view, context)?;
        let resumed = &mut self.threads[thread];
        resumed.resume = start.number;
        let frame = &mut resumed.frame;
        if flags & resume_flags::KEEP_REGISTERS != 0 {
            [frame.rbx, frame.rbp, frame.r12, frame.r13, frame.r14, frame.r15] = registers;
            // What the call returns the second time.
            (frame.rax, frame.rdx) = (0, 1);
        } else {
            (frame.rsi, frame.rdx) = (start.state_address(), start.times);
        }
        Ok(thread)
    }
}
