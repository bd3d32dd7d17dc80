//! Starting programs: another view, with a program object and parts of its own, and a first thread in it (paper §3.2: there are no
//! processes; this is what comes next to one).
//!
//! ```text
//! TEXT_SLOT the program object   DATA_SLOT its template copied   STACK_SLOT new, with the ThreadState above the stack
//! ARGS_SLOT new, read-only       HEAP_SLOT new                   SHARED_SLOT, durability, boot: the starter's
//! ```
//! # Contract
//! - The objects are volatile, and what a [`Home`] makes them. [`Child::wait`] deletes them; so does dropping the [`Child`], which
//!   ends the program in a fault; [`Child::let_go`] leaves them until the machine ends.
//! - The child has ended when its first thread has. Threads that it leaves run on as long as they touch nothing of what was deleted.
//! - What stands in a program object is a claim: checked, or harmful to the program alone.

use crate::args::Args;
use crate::thread::{self, Ended};
use crate::view::View;
use crate::{slots, syscall, view};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use twz_abi::object::{DATA_END, DATA_OFFSET};
use twz_abi::program::{
    ARGS_SLOT, ArgsHeader, DATA_SLOT, HEAP_SLOT, PROGRAM_MAGIC, ProgramHeader, SHARED_SLOT, STACK_SLOT,
    STACK_TOP, TEXT_SLOT, VIEW_SLOT,
};
use twz_abi::syscall::{CreateSpec, create_flags};
use twz_abi::thread::{PRIORITY_DEFAULT, ThreadSpec, ThreadState};
use twz_abi::view::SLOT_SIZE;
use twz_abi::{ABI_VERSION, ErrorCode, ObjectId, Rights};
use zerocopy::IntoBytes;

const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);
/// Bytes before the first of an object's.
#[allow(clippy::cast_possible_truncation, reason = "2^12")]
const FIRST: usize = DATA_OFFSET as usize;
/// Where in its stack object the child's state stands: above the stack.
const STATE_OFFSET: u64 = STACK_TOP;

/// What a program lives in: its context, and objects that the context reaches.
pub trait Home {
    /// The context; null for the starter's.
    fn context(&self) -> ObjectId;

    /// Creates a volatile object that the context may use with `rights` and the starter may write.
    ///
    /// # Errors
    /// [`ErrorCode::PoolFull`], [`ErrorCode::NoMemory`], [`ErrorCode::NotPermitted`].
    fn object(&self, rights: Rights) -> Result<ObjectId, ErrorCode>;
}

/// The starter's own context, with all that it may do.
#[derive(Clone, Copy, Debug)]
pub struct Here;

impl Home for Here {
    fn context(&self) -> ObjectId {
        ObjectId::NULL
    }

    fn object(&self, _rights: Rights) -> Result<ObjectId, ErrorCode> {
        syscall::object_create(&CreateSpec { flags: create_flags::VOLATILE, ..CreateSpec::default() })
    }
}

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

    /// A new object, which goes with this value.
    fn new(home: &dyn Home, rights: Rights) -> Result<Self, ErrorCode> {
        let mut mapped = Self::existing(home.object(rights)?, READ_WRITE)?;
        mapped.is_ours = true;
        Ok(mapped)
    }

    /// The address of `offset`.
    fn at(&self, offset: u64) -> *mut u8 {
        (self.slot * SLOT_SIZE + offset) as *mut u8
    }

    /// Copies bytes to the beginning of a new object.
    fn fill(&self, bytes: impl Iterator<Item = u8>) {
        let base = self.at(DATA_OFFSET);
        for (index, byte) in bytes.enumerate() {
            // SAFETY: the object is new, writable, mapped here; the callers' bytes are less than an object's. The program that may write it
            // does not run yet, and a store makes no reference.
            unsafe { base.wrapping_add(index).write_volatile(byte) };
        }
    }

    /// The header of a program object, checked.
    fn program_header(&self) -> Result<ProgramHeader, ErrorCode> {
        // SAFETY: an object is as large as a slot; whatever stands in it is a header.
        let header = unsafe { self.at(DATA_OFFSET).cast::<ProgramHeader>().read_volatile() };
        let is_ours = header.magic == PROGRAM_MAGIC && header.abi_version == ABI_VERSION;
        let end = header.data_offset.checked_add(header.data_bytes);
        let is_inside = header.data_offset >= DATA_OFFSET && end.is_some_and(|end| end <= DATA_END);
        if is_ours && is_inside { Ok(header) } else { Err(ErrorCode::BadArgument) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: no reference into it outlives the call that made it.
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
    name: &'a str,
    args: Vec<&'a str>,
    environment: Vec<(&'a str, &'a str)>,
}

impl<'a> Command<'a> {
    /// Starts `program`, a program object, under the name `name`, which is its first argument and its thread's name.
    #[must_use]
    pub fn new(program: ObjectId, name: &'a str) -> Self {
        Self { program, name, args: alloc::vec![name], environment: Vec::new() }
    }

    /// More arguments.
    #[must_use]
    pub fn args(mut self, arguments: &[&'a str]) -> Self {
        self.args.extend_from_slice(arguments);
        self
    }

    /// A variable of the environment, besides the starter's.
    #[must_use]
    pub fn env(mut self, name: &'a str, value: &'a str) -> Self {
        self.environment.push((name, value));
        self
    }

    /// Starts it in `home`, with the environment and the knowledge of the machine that came with the starter's own arguments, `ours`.
    ///
    /// # Errors
    /// [`ErrorCode::NoObject`], [`ErrorCode::NotPermitted`] for the program or the context; [`ErrorCode::BadArgument`] for an object that is no
    /// program; [`ErrorCode::PoolFull`], [`ErrorCode::NoMemory`].
    pub fn spawn(&self, ours: &Args, home: &dyn Home) -> Result<Child, ErrorCode> {
        // 1. The program and its data.
        syscall::object_stat(self.program)?;
        let text = Mapped::existing(self.program, Rights::READ)?;
        let header = text.program_header()?;
        let data = Mapped::new(home, READ_WRITE)?;
        let template = header.data_offset..header.data_offset + header.data_bytes;
        // SAFETY: inside the program object (checked), which is mapped.
        data.fill(template.map(|offset| unsafe { text.at(offset).read_volatile() }));

        // 2. Arguments, stack and heap.
        // Should the program be resumed, the monitor stores in its name what is another then; see `docs/resume.md`.
        let args = Mapped::new(home, READ_WRITE)?;
        args.fill(self.arguments(ours)?.into_iter());
        let (stack, heap) = (Mapped::new(home, READ_WRITE)?, Mapped::new(home, READ_WRITE)?);

        // 3. The view.
        let shared = View::current().get(SHARED_SLOT).ok_or(ErrorCode::BadArgument)?.0;
        let view = Mapped::new(home, READ_WRITE)?;
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
            context: home.context(),
            entry: header.entry,
            stack: STACK_SLOT * SLOT_SIZE + STACK_TOP,
            argument: ARGS_SLOT * SLOT_SIZE,
            state: STACK_SLOT * SLOT_SIZE + STATE_OFFSET,
            priority: PRIORITY_DEFAULT,
            name: thread::label(self.name),
            ..ThreadSpec::default()
        };
        // SAFETY: the view, the stack and the state are the new thread's alone.
        let thread = unsafe { syscall::thread_spawn(&spec) }?;
        Ok(Child { thread, stack, _parts: [data, args, heap, view] })
    }

    /// The contents of an arguments object.
    fn arguments(&self, ours: &Args) -> Result<Vec<u8>, ErrorCode> {
        let inherited = (0..).map_while(|index| ours.variable(index));
        let variables: Vec<String> = inherited
            .chain(self.environment.iter().copied())
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let header = ArgsHeader {
            count: self.args.len() as u64,
            environment_count: variables.len() as u64,
            ..ours.header()
        };
        let texts = || self.args.iter().copied().chain(variables.iter().map(String::as_str));
        let mut bytes = header.as_bytes().to_vec();
        let mut at = FIRST + bytes.len() + texts().count() * size_of::<[u64; 2]>();
        for text in texts() {
            bytes.extend_from_slice([at as u64, text.len() as u64].as_bytes());
            at += text.len();
        }
        texts().for_each(|text| bytes.extend_from_slice(text.as_bytes()));
        if at as u64 <= DATA_END { Ok(bytes) } else { Err(ErrorCode::BadArgument) }
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

    /// Lets it run for as long as the machine does.
    pub fn let_go(self) {
        core::mem::forget(self);
    }

    /// Waits until its first thread has ended, and says how; gives back what was made for it.
    #[must_use]
    pub fn wait(self) -> Ended {
        let state = self.stack.at(STATE_OFFSET).cast::<ThreadState>();
        // SAFETY: the kernel keeps the state there; the stack object stays mapped as long as `self`.
        unsafe { thread::wait_for_end(state) }
    }
}
