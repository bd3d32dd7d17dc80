//! Starting another program: in a view and memory of its own, in a context of its own or in ours.
//!
//! There are no processes (paper §3): a program that runs is a thread in a view that maps the program's object, an object with its data, a
//! stack, a heap and its arguments. Whoever may create objects can put that together; this does.
//!
//! # Contract
//! - A program in a context of its own ([`Home::own`]) reaches what that context created, what has default rights, and what was granted to
//!   it; nothing of ours, memory included. `context/run/NAME` is that context, the same each time, so that what it stored stays its own.
//! - A program that faults or panics ends alone. Threads that it started run on when its first one has ended.
//! - What stands in a program object, and what a program leaves in its memory, are claims: checked, or harmful to it alone.

use crate::context_object::{ContextObject, NewContext};
use crate::keys;
use crate::logger;
use crate::mapped::{BOTH, Mapped};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use sec::{GateSet, Grant, KeyPair, ObjectBytes};
use twz_rt::abi::object::{DATA_END, DATA_OFFSET};
use twz_rt::abi::program::{
    ARGS_SLOT, ArgsHeader, DATA_SLOT, HEAP_SLOT, PROGRAM_MAGIC, ProgramHeader, SHARED_SLOT, STACK_SLOT,
    STACK_TOP, TEXT_SLOT, VIEW_SLOT,
};
use twz_rt::abi::syscall::{CreateSpec, create_flags};
use twz_rt::abi::thread::{PRIORITY_DEFAULT, THREAD_NAME_MAX, ThreadPhase, ThreadSpec, ThreadState};
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::abi::{ABI_VERSION, ErrorCode, ObjectId, PAGE_SIZE, Rights};
use twz_rt::view::{self, View};
use twz_rt::{Args, sync, syscall};
use zerocopy::{FromZeros, IntoBytes};

/// Slots of the table of a program's context.
const TABLE_SLOTS: u32 = 256;
/// Where the state of a program's first thread stands in its stack object; the stack begins below.
const STATE_OFFSET: u64 = STACK_TOP - PAGE_SIZE;

/// The context that a program is started in.
pub enum Home {
    /// The caller's, with all that it may do.
    Here,
    /// One of the program's own.
    Own {
        /// Signs what the context may do.
        owner: Box<KeyPair>,
        /// The context.
        context: ContextObject,
    },
}

impl Home {
    /// The program's own context; makes it when the program is started for the first time.
    ///
    /// # Errors
    /// [`ErrorCode::NotPermitted`] if we may not read the owner's secret or use the context; what creating objects says.
    pub fn own(program: &str) -> Result<Self, ErrorCode> {
        let home = Self::named(&format!("context/run/{program}"), false)?;
        home.may_log()?;
        Ok(home)
    }

    /// The context of that name; makes it, with that placement, if there is none.
    ///
    /// # Errors
    /// As [`Home::own`].
    pub fn named(name: &str, shared: bool) -> Result<Self, ErrorCode> {
        let owner = Box::new(keys::pair("owner")?);
        let context = match syscall::name_get(name) {
            Ok(id) => ContextObject::open(id, BOTH | Rights::USE)?,
            Err(ErrorCode::NoName) => {
                let key = owner.id();
                let new = NewContext { key, flags: 0, undetachable: false, shared, slots: TABLE_SLOTS };
                let context = ContextObject::create(&new)?;
                syscall::name_set(context.id, name)?;
                context
            }
            Err(error) => return Err(error),
        };
        Ok(Self::Own { owner, context })
    }

    /// Lets the context call the gates of the logging service that are for everybody, if there is one.
    ///
    /// # Errors
    /// What [`ContextObject::add`] says.
    pub fn may_log(&self) -> Result<(), ErrorCode> {
        let (Self::Own { owner, context }, Ok(service)) = (self, syscall::name_get(logger::SERVICE)) else {
            return Ok(());
        };
        let gates = GateSet::range(0, logger::gates::READ, 1).ok_or(ErrorCode::BadArgument)?;
        let grant = Grant { gates, ..Grant::new(service, context.id, Rights::empty()) };
        context.add(&owner.grant(&grant))
    }

    /// A new volatile object that the program may use so.
    fn object(&self, rights: Rights) -> Result<ObjectId, ErrorCode> {
        let key = match self {
            Self::Here => ObjectId::NULL,
            Self::Own { owner, .. } => owner.id(),
        };
        let spec = CreateSpec { key, flags: create_flags::VOLATILE, ..CreateSpec::default() };
        let id = syscall::object_create(&spec)?;
        if let Self::Own { owner, context } = self {
            let capability = owner.grant(&Grant::new(id, context.id, rights));
            context.add(&capability).or_else(|error| match error {
                ErrorCode::PoolFull => {
                    context.remove_dead()?;
                    context.add(&capability)
                }
                error => Err(error),
            })?;
        }
        Ok(id)
    }

    const fn context(&self) -> ObjectId {
        match self {
            Self::Here => ObjectId::NULL,
            Self::Own { context, .. } => context.id,
        }
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Its exit status; 128 + the cause for a fault.
    pub status: u32,
    /// What it left in its thread's state; the fault counts if `status` says that there was one.
    pub state: ThreadState,
}

/// A program that was started.
#[derive(Debug)]
pub struct Child {
    stack: Mapped,
    /// Objects made for it, and where we have them mapped.
    made: Vec<(ObjectId, Mapped)>,
}

/// Starts the program called `name` with these words, its name first, and the environment that came with `ours`.
///
/// # Errors
/// [`ErrorCode::NoName`] if there is no such program, [`ErrorCode::BadArgument`] if its object holds none; what creating objects and
/// threads says.
pub fn start(name: &str, words: &[&str], ours: Args, home: &Home) -> Result<Child, ErrorCode> {
    let text = syscall::name_get(&format!("program/{name}"))?;
    let program = Scratch::map(text)?;
    let header = program_header(program.0)?;
    let mut child = Child { stack: Mapped(core::ptr::null_mut()), made: Vec::new() };
    // 1. Its data, from the template.
    let (data_id, data) = child.make(home, BOTH)?;
    let mut buffer = [0; 4096];
    for done in (0..header.data_bytes).step_by(buffer.len()) {
        let length = usize::try_from(header.data_bytes - done).unwrap_or(usize::MAX).min(buffer.len());
        program.0.read(header.data_offset + done, &mut buffer[..length]);
        data.write(DATA_OFFSET + done, &buffer[..length]);
    }
    // 2. Its arguments, stack, heap and view.
    let (args_id, args) = child.make(home, Rights::READ)?;
    write_arguments(args, words, ours);
    let (stack_id, stack) = child.make(home, BOTH)?;
    child.stack = stack;
    let (heap_id, _) = child.make(home, BOTH)?;
    let (view_id, view) = child.make(home, BOTH)?;
    // SAFETY: the slot maps a new object, which becomes a view, and stays mapped while it is written.
    let view = unsafe { View::at(view.0) };
    view.initialise();
    for (slot, object, rights) in [
        (TEXT_SLOT, text, Rights::READ | Rights::EXEC),
        (DATA_SLOT, data_id, BOTH),
        (STACK_SLOT, stack_id, BOTH),
        (ARGS_SLOT, args_id, Rights::READ),
        (HEAP_SLOT, heap_id, BOTH),
        (SHARED_SLOT, View::current().get(SHARED_SLOT).map_or(ObjectId::NULL, |(id, _)| id), BOTH),
        (VIEW_SLOT, view_id, BOTH),
    ] {
        // These slots exist.
        let _ = view.map(slot, object, rights);
    }
    // 3. Its first thread.
    let mut label = [0; THREAD_NAME_MAX];
    let length = name.floor_char_boundary(THREAD_NAME_MAX);
    label[..length].copy_from_slice(&name.as_bytes()[..length]);
    let spec = ThreadSpec {
        view: view_id,
        context: home.context(),
        entry: header.entry,
        stack: STACK_SLOT * SLOT_SIZE + STATE_OFFSET,
        argument: ARGS_SLOT * SLOT_SIZE,
        state: STACK_SLOT * SLOT_SIZE + STATE_OFFSET,
        priority: PRIORITY_DEFAULT,
        name: label,
        ..ThreadSpec::default()
    };
    // SAFETY: the thread runs in a view of its own, in which nothing of ours is mapped but what it may do nothing with that we rely on.
    unsafe { syscall::thread_spawn(&spec) }?;
    Ok(child)
}

impl Child {
    fn make(&mut self, home: &Home, rights: Rights) -> Result<(ObjectId, Mapped), ErrorCode> {
        let id = home.object(rights)?;
        let mapped = Mapped::of(id)?;
        self.made.push((id, mapped));
        Ok((id, mapped))
    }

    /// Lets it run for as long as the machine does.
    pub fn let_go(mut self) {
        self.made.clear();
    }

    /// Waits until its first thread has ended.
    #[must_use]
    pub fn wait(self) -> Ended {
        let address = self.stack.0.wrapping_add(usize::try_from(STATE_OFFSET).unwrap_or_default());
        // SAFETY: our mapping of the stack lives as long as `self`; the kernel and the program write the word, hence an atomic.
        let phase = unsafe { &*address.cast::<AtomicU32>() };
        loop {
            let seen = phase.load(Ordering::Acquire);
            if seen == ThreadPhase::Exited as u32 || seen == ThreadPhase::Faulted as u32 {
                break;
            }
            if sync::wait(phase, seen, sync::FOREVER).is_err_and(|error| error != ErrorCode::WouldBlock) {
                syscall::thread_yield();
            }
        }
        let mut state = ThreadState::new_zeroed();
        self.stack.read(STATE_OFFSET, state.as_mut_bytes());
        Ended { status: state.status, state }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        for (id, mapped) in self.made.drain(..) {
            drop(Scratch(mapped));
            // What cannot be deleted goes when the machine ends, as it is volatile; what is in use, when its use ends.
            let _ = syscall::object_delete(id);
        }
    }
}

/// A mapping that ends with this value.
struct Scratch(Mapped);

impl Scratch {
    fn map(object: ObjectId) -> Result<Self, ErrorCode> {
        Mapped::of(object).map(Self)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: no reference into the slot exists but for the phase word in `Child::wait`, which has returned.
        let unmapped = unsafe { view::unmap(self.0.0 as u64 / SLOT_SIZE) };
        debug_assert!(unmapped.is_ok(), "the slot exists");
    }
}

/// The header of a program object, checked.
fn program_header(program: Mapped) -> Result<ProgramHeader, ErrorCode> {
    let mut header = ProgramHeader::new_zeroed();
    program.read(DATA_OFFSET, header.as_mut_bytes());
    let ours = header.magic == PROGRAM_MAGIC && header.abi_version == ABI_VERSION;
    let template = header.data_offset.checked_add(header.data_bytes).is_some_and(|end| end <= DATA_END);
    let fits = header.data_bytes <= DATA_END - DATA_OFFSET && header.data_offset >= DATA_OFFSET;
    if ours && template && fits { Ok(header) } else { Err(ErrorCode::BadArgument) }
}

/// Writes an [`ArgsHeader`] and what follows it.
fn write_arguments(args: Mapped, words: &[&str], ours: Args) {
    let environment =
        (0..).map_while(|index| ours.variable(index)).map(|(name, value)| format!("{name}={value}"));
    let environment: Vec<String> = environment.collect();
    let header = ArgsHeader {
        count: words.len() as u64,
        durability: ours.durability(),
        environment_count: environment.len() as u64,
        boot: ours.boot(),
    };
    args.write(DATA_OFFSET, header.as_bytes());
    let texts = || words.iter().copied().chain(environment.iter().map(String::as_str));
    let pairs = DATA_OFFSET + size_of::<ArgsHeader>() as u64;
    let mut at = pairs + texts().count() as u64 * 16;
    for (pair, text) in (pairs..).step_by(16).zip(texts()) {
        args.set_word(pair, at);
        args.set_word(pair + 8, text.len() as u64);
        args.write(at, text.as_bytes());
        at += text.len() as u64;
    }
}
