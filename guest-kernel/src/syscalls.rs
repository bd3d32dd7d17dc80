//! System calls of programs.

use crate::arch::usercopy;
use crate::fault;
use crate::kernel::Kernel;
use crate::mailbox::Mailbox;
use twz_abi::hypercall::DATA_SIZE;
use twz_abi::syscall::{CreateSpec, FIRST, NAME_MAX, ObjectStat, Syscall};
use twz_abi::{ErrorCode, ObjectId, Rights, view};

/// Most random bytes in one call.
const RANDOM_MAX: usize = 256;

/// What a finished call returns in RDX and R8.
type Values = (u64, u64);

/// How often a copy is tried again after its fault was settled: another hart may take the memory away in between.
const COPY_ATTEMPTS: u32 = 4;

/// How a call went.
enum Outcome {
    /// Return this and let the thread go on.
    Done(Result<Values, ErrorCode>),
    /// Let others run first.
    Yield,
    /// The thread is parked or gone.
    Gone,
}

impl Kernel {
    /// Executes the call that `thread` made.
    pub(crate) fn syscall(&mut self, mailbox: Mailbox, thread: u32) {
        let frame = &self.threads[thread].frame;
        let number = frame.rax;
        let Ok(call) = Syscall::try_from(number) else {
            if number < FIRST {
                let info = fault::bad_syscall(frame);
                self.fault(mailbox, thread, info);
            } else {
                self.finish(thread, Err(ErrorCode::NoSuchCall));
            }
            return;
        };
        let arguments = [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, frame.r9];
        match self.execute(mailbox, thread, call, arguments) {
            Outcome::Done(result) => self.finish(thread, result),
            Outcome::Yield => {
                self.threads[thread].frame.rax = 0;
                self.enqueue(mailbox, thread);
            }
            Outcome::Gone => {}
        }
    }

    fn finish(&mut self, thread: u32, result: Result<Values, ErrorCode>) {
        let frame = &mut self.threads[thread].frame;
        match result {
            Ok((first, second)) => (frame.rax, frame.rdx, frame.r8) = (0, first, second),
            Err(error) => frame.rax = error as u64,
        }
        self.enqueue_front(thread);
    }

    fn execute(&mut self, mailbox: Mailbox, thread: u32, call: Syscall, a: [u64; 6]) -> Outcome {
        let space = self.threads[thread].space;
        let context = self.spaces[space].context;
        let object = |at: usize| ObjectId { lo: a[at], hi: a[at + 1] };
        let id = |id: ObjectId| (id.lo, id.hi);
        Outcome::Done(match call {
            Syscall::ThreadExit => {
                self.end_thread(mailbox, thread, a[0] & 0xff);
                return Outcome::Gone;
            }
            Syscall::ThreadYield => return Outcome::Yield,
            Syscall::ConsoleWrite => self.console_write(mailbox, space, a[0], a[1]),
            Syscall::ConsoleRead => match self.console_read(mailbox, space, a[0], a[1]) {
                Ok(Some(count)) => Ok((count, 0)),
                Ok(None) => {
                    self.wait_for_console(thread);
                    return Outcome::Gone;
                }
                Err(error) => Err(error),
            },
            Syscall::Clock => mailbox.clock(),
            Syscall::Random => self.random(mailbox, space, a[0], a[1]),
            Syscall::Shutdown => {
                mailbox.shutdown(a[0] & 0xff);
                Ok((0, 0))
            }
            Syscall::ObjectCreate => self
                .copy_in(mailbox, space, a[0], size_of::<CreateSpec>())
                .and_then(|()| mailbox.create(context))
                .map(id),
            Syscall::ObjectDelete => mailbox.delete(context, object(0)).map(|()| (0, 0)),
            Syscall::ObjectStat => mailbox
                .stat(context, object(0))
                .and_then(|()| self.copy_out(mailbox, space, a[2], size_of::<ObjectStat>()))
                .map(|()| (0, 0)),
            Syscall::NameGet => self
                .name(mailbox, space, a[0], a[1])
                .and_then(|length| mailbox.name_get(context, length))
                .map(id),
            Syscall::NameSet => self
                .name(mailbox, space, a[2], a[3])
                .and_then(|length| mailbox.name_set(context, object(0), length))
                .map(|()| (0, 0)),
            Syscall::NameRemove => self
                .name(mailbox, space, a[0], a[1])
                .and_then(|length| mailbox.name_remove(context, length))
                .map(|()| (0, 0)),
        })
    }

    fn console_write(
        &mut self,
        mailbox: Mailbox,
        space: u32,
        from: u64,
        length: u64,
    ) -> Result<Values, ErrorCode> {
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(DATA_SIZE);
        self.copy_in(mailbox, space, from, length)?;
        mailbox.console_write(length)?;
        Ok((length as u64, 0))
    }

    fn console_read(
        &mut self,
        mailbox: Mailbox,
        space: u32,
        to: u64,
        room: u64,
    ) -> Result<Option<u64>, ErrorCode> {
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(DATA_SIZE);
        // Before anything is taken from the input, so that a bad pointer loses nothing.
        is_program_range(to, room as u64)?;
        self.settle(mailbox, space, to, room as u64, Rights::WRITE)?;
        let Some(count) = mailbox.console_read(room)? else { return Ok(None) };
        self.copy_out(mailbox, space, to, count)?;
        Ok(Some(count as u64))
    }

    fn random(&mut self, mailbox: Mailbox, space: u32, to: u64, length: u64) -> Result<Values, ErrorCode> {
        let length = usize::try_from(length).ok().filter(|&length| length <= RANDOM_MAX);
        let length = length.ok_or(ErrorCode::BadArgument)?;
        mailbox.random(length)?;
        self.copy_out(mailbox, space, to, length)?;
        Ok((0, 0))
    }

    /// Brings a name into the data area and returns its length.
    fn name(&mut self, mailbox: Mailbox, space: u32, from: u64, length: u64) -> Result<usize, ErrorCode> {
        let length = usize::try_from(length).ok().filter(|length| (1..=NAME_MAX).contains(length));
        let length = length.ok_or(ErrorCode::BadArgument)?;
        self.copy_in(mailbox, space, from, length)?;
        Ok(length)
    }

    /// Copies from program memory of the loaded space into the mailbox's data area.
    fn copy_in(
        &mut self,
        mut mailbox: Mailbox,
        space: u32,
        from: u64,
        length: usize,
    ) -> Result<(), ErrorCode> {
        is_program_range(from, length as u64)?;
        for _ in 0..COPY_ATTEMPTS {
            if usercopy::read(from, mailbox.data(length)).is_ok() {
                return Ok(());
            }
            self.settle(mailbox, space, from, length as u64, Rights::READ)?;
        }
        Err(ErrorCode::BadAddress)
    }

    /// Copies from the mailbox's data area to program memory of the loaded space.
    fn copy_out(
        &mut self,
        mut mailbox: Mailbox,
        space: u32,
        to: u64,
        length: usize,
    ) -> Result<(), ErrorCode> {
        is_program_range(to, length as u64)?;
        for _ in 0..COPY_ATTEMPTS {
            if usercopy::write(to, mailbox.data(length)).is_ok() {
                return Ok(());
            }
            self.settle(mailbox, space, to, length as u64, Rights::WRITE)?;
        }
        Err(ErrorCode::BadAddress)
    }

    /// Resolves every page of a range, as touching it would.
    fn settle(
        &mut self,
        mailbox: Mailbox,
        space: u32,
        start: u64,
        length: u64,
        access: Rights,
    ) -> Result<(), ErrorCode> {
        let first = start & !(twz_abi::PAGE_SIZE - 1);
        for page in (first..start + length).step_by(twz_abi::PAGE_BYTES) {
            self.resolve(mailbox, space, page.max(start), access).map_err(|_| ErrorCode::BadAddress)?;
        }
        Ok(())
    }
}

/// Whether a range lies in the program's half as a whole.
fn is_program_range(start: u64, length: u64) -> Result<(), ErrorCode> {
    let end = start.checked_add(length).ok_or(ErrorCode::BadAddress)?;
    if end <= view::SLOT_COUNT * view::SLOT_SIZE { Ok(()) } else { Err(ErrorCode::BadAddress) }
}
