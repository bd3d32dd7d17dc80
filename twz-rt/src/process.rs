//! Starting programs: another view, with a program object and parts of its own, and a first thread in it (paper §3.2: there are no
//! processes; this is what comes next to one).
//!
//! ```text
//! TEXT_SLOT the program object   DATA_SLOT its template copied   STACK_SLOT new, with the ThreadState above the stack
//! ARGS_SLOT new, read-only       HEAP_SLOT new                   SHARED_SLOT, durability, boot: the starter's
//! ```
//! # Contract
//! - The objects belong to the starter's context and are volatile. [`Child::wait`] deletes them; a child that is not waited for keeps its
//!   own until the machine ends.
//! - The child has ended when its first thread has. Threads that it leaves run on as long as they touch nothing of what was deleted.

use crate::args::Args;
use crate::sync::{self, FOREVER};
use crate::thread::Ended;
use crate::view::View;
use crate::{slots, syscall, view};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering, fence};
use twz_abi::object::DATA_OFFSET;
use twz_abi::program::{
    ARGS_SLOT, ArgsHeader, DATA_SLOT, HEAP_SLOT, PROGRAM_MAGIC, ProgramHeader, SHARED_SLOT, STACK_SLOT,
    STACK_TOP, TEXT_SLOT, VIEW_SLOT,
};
use twz_abi::syscall::{CreateSpec, create_flags};
use twz_abi::thread::{PRIORITY_DEFAULT, ThreadPhase, ThreadSpec, ThreadState};
use twz_abi::view::SLOT_SIZE;
use twz_abi::{ABI_VERSION, ErrorCode, ObjectId, Rights};
use zerocopy::IntoBytes;

const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);
/// Bytes before the first of an object's.
#[allow(clippy::cast_possible_truncation, reason = "2^12")]
const FIRST: usize = DATA_OFFSET as usize;
/// Where in its stack object the child's state stands: above the stack.
const STATE_OFFSET: u64 = STACK_TOP;

/// An object that is mapped here while it lives.
#[derive(Debug)]
struct Mapped {
    slot: u64,
    object: ObjectId,
    is_ours: bool,
}

impl Mapped {
    fn existing(object: ObjectId, rights: Rights) -> Result<Self, ErrorCode> {
        let slot = slots::allocate().ok_or(ErrorCode::NoMemory)?;
        // The allocator's slots exist.
        let _ = view::map(slot, object, rights);
        Ok(Self { slot, object, is_ours: false })
    }

    fn new() -> Result<Self, ErrorCode> {
        let spec = CreateSpec { flags: create_flags::VOLATILE, ..CreateSpec::default() };
        let object = syscall::object_create(&spec)?;
        let mut mapped = Self::existing(object, READ_WRITE)?;
        mapped.is_ours = true;
        Ok(mapped)
    }

    /// The address of `offset`.
    fn at(&self, offset: u64) -> *mut u8 {
        (self.slot * SLOT_SIZE + offset) as *mut u8
    }

    /// Copies bytes to the beginning of a new object.
    fn fill(&self, bytes: &[u8]) {
        // SAFETY: the object is new, writable, mapped here, and nobody else knows it; the callers' bytes are less than an object's.
        unsafe { self.at(DATA_OFFSET).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: addresses in it do not leave this module but as `Child::phase`, which goes with it.
        let unmapped = unsafe { view::unmap(self.slot) };
        if self.is_ours {
            // What cannot be given back is lost until the machine ends, as it is volatile.
            let _ = unmapped.and_then(|()| syscall::object_delete(self.object));
        }
    }
}

/// The program that this one is.
#[must_use]
pub fn current_program() -> Option<ObjectId> {
    View::current().get(TEXT_SLOT).map(|(program, _)| program)
}

/// What a program is to be started with.
#[derive(Clone, Debug)]
pub struct Command<'a> {
    program: ObjectId,
    context: ObjectId,
    args: Vec<&'a str>,
    environment: Vec<&'a str>,
}

impl<'a> Command<'a> {
    /// Starts `program`, a program object, under the name `name`, without an environment.
    #[must_use]
    pub fn new(program: ObjectId, name: &'a str) -> Self {
        Self { program, context: ObjectId::NULL, args: alloc::vec![name], environment: Vec::new() }
    }

    /// One argument more.
    #[must_use]
    pub fn arg(mut self, argument: &'a str) -> Self {
        self.args.push(argument);
        self
    }

    /// A variable of the environment, as `NAME=VALUE`; the starter's are not passed on.
    #[must_use]
    pub fn env(mut self, variable: &'a str) -> Self {
        self.environment.push(variable);
        self
    }

    /// The context that it runs in; the starter's, if not said. It needs rights to the objects that are made for it: those of the starter's
    /// context alone.
    #[must_use]
    pub const fn context(mut self, context: ObjectId) -> Self {
        self.context = context;
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// [`ErrorCode::NoObject`], [`ErrorCode::NotPermitted`] for the program or the context; [`ErrorCode::BadArgument`] for an object that is no
    /// program; [`ErrorCode::PoolFull`], [`ErrorCode::NoMemory`].
    ///
    /// # Safety
    /// This must itself be a program that was loaded ([`Args::current`]).
    pub unsafe fn spawn(&self) -> Result<Child, ErrorCode> {
        // 1. The program and its data.
        syscall::object_stat(self.program)?;
        let text = Mapped::existing(self.program, Rights::READ)?;
        // SAFETY: an object is as large as a slot; whatever stands in it is a header.
        let header = unsafe { text.at(DATA_OFFSET).cast::<ProgramHeader>().read_volatile() };
        let end = header.data_offset.checked_add(header.data_bytes);
        let fits = end.is_some_and(|end| end <= SLOT_SIZE) && header.data_bytes <= SLOT_SIZE / 2;
        if header.magic != PROGRAM_MAGIC || header.abi_version != ABI_VERSION || !fits {
            return Err(ErrorCode::BadArgument);
        }
        let data = Mapped::new()?;
        let bytes = usize::try_from(header.data_bytes).map_err(|_| ErrorCode::BadArgument)?;
        // SAFETY: inside the program object (checked), which is mapped and does not change: its ID is that of its contents.
        data.fill(unsafe { core::slice::from_raw_parts(text.at(header.data_offset), bytes) });

        // 2. Arguments, stack and heap.
        // SAFETY: the caller's promise.
        let own = unsafe { Args::current() };
        let args = Mapped::new()?;
        args.fill(&self.arguments(&own)?);
        let (stack, heap) = (Mapped::new()?, Mapped::new()?);

        // 3. The view.
        let shared = View::current().get(SHARED_SLOT).ok_or(ErrorCode::BadArgument)?.0;
        let view = Mapped::new()?;
        // SAFETY: it is mapped, writable, as long as `view` lives.
        let entries = unsafe { View::at(view.at(0)) };
        entries.initialise();
        for (slot, object, rights) in [
            (TEXT_SLOT, self.program, Rights::READ | Rights::EXEC),
            (DATA_SLOT, data.object, READ_WRITE),
            (STACK_SLOT, stack.object, READ_WRITE),
            (ARGS_SLOT, args.object, Rights::READ),
            (HEAP_SLOT, heap.object, READ_WRITE),
            (SHARED_SLOT, shared, Rights::READ),
            (VIEW_SLOT, view.object, READ_WRITE),
        ] {
            // These slots exist.
            let _ = entries.map(slot, object, rights);
        }

        // 4. The thread.
        let spec = ThreadSpec {
            view: view.object,
            context: self.context,
            entry: header.entry,
            stack: STACK_SLOT * SLOT_SIZE + STACK_TOP,
            argument: ARGS_SLOT * SLOT_SIZE,
            state: STACK_SLOT * SLOT_SIZE + STATE_OFFSET,
            priority: PRIORITY_DEFAULT,
            ..ThreadSpec::default()
        };
        // SAFETY: the view, the stack and the state are the new thread's alone.
        let thread = unsafe { syscall::thread_spawn(&spec) }?;
        Ok(Child { thread, stack, _parts: [data, args, heap, view] })
    }

    fn arguments(&self, own: &Args) -> Result<Vec<u8>, ErrorCode> {
        let header = ArgsHeader {
            count: self.args.len() as u64,
            durability: own.durability(),
            environment_count: self.environment.len() as u64,
            boot: own.boot(),
        };
        let texts = || self.args.iter().chain(&self.environment);
        let mut bytes = header.as_bytes().to_vec();
        let mut at = FIRST + bytes.len() + texts().count() * size_of::<[u64; 2]>();
        for text in texts() {
            bytes.extend_from_slice([at as u64, text.len() as u64].as_bytes());
            at += text.len();
        }
        texts().for_each(|text| bytes.extend_from_slice(text.as_bytes()));
        if at as u64 <= SLOT_SIZE / 2 { Ok(bytes) } else { Err(ErrorCode::BadArgument) }
    }
}

/// A program that was started.
#[derive(Debug)]
pub struct Child {
    thread: u64,
    stack: Mapped,
    _parts: [Mapped; 4],
}

impl Child {
    /// The number of its first thread.
    #[must_use]
    pub const fn thread(&self) -> u64 {
        self.thread
    }

    fn phase(&self) -> &AtomicU32 {
        // SAFETY: the kernel keeps the state there; the stack object stays mapped as long as `self`.
        unsafe { &*self.stack.at(STATE_OFFSET).cast::<AtomicU32>() }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.phase().load(Ordering::Acquire) >= ThreadPhase::Exited as u32
    }

    /// Waits until its first thread has ended, and says how; gives back what was made for it.
    #[must_use]
    pub fn wait(self) -> Ended {
        let phase = self.phase();
        loop {
            let seen = phase.load(Ordering::Acquire);
            if seen >= ThreadPhase::Exited as u32 {
                break;
            }
            if sync::wait(phase, seen, FOREVER).is_err_and(|error| error != ErrorCode::WouldBlock) {
                syscall::thread_yield();
            }
        }
        fence(Ordering::Acquire);
        // SAFETY: the kernel wrote the state before the phase that was seen, and writes no more.
        let state = unsafe { self.stack.at(STATE_OFFSET).cast::<ThreadState>().read_volatile() };
        let fault = (state.phase == ThreadPhase::Faulted as u32).then_some(state.fault);
        Ended { status: state.status, fault }
    }
}
