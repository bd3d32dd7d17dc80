//! Threads: a closure on a stack of its own, joined through its state object.
//!
//! ```text
//! stack object, volatile, one slot
//! 0x0000_1000 … STACK_TOP - 4096    the stack, grows down; page 0 below it is the guard (a null-page fault)
//! STACK_TOP - 4096                  ThreadState, written by the kernel; then the ThreadBlock
//! ```
//! # Contract
//! - **I1**: a stack object is in the free list only when its last thread has ended (its phase says so) and nobody borrows from it any more
//!   ([`lend_stack`]), so nobody uses it twice.
//! - The kernel writes [`ThreadState::phase`] last and wakes those that sleep on it; [`JoinHandle::join`] is that sleep.
//! - A handle that is dropped lets the thread run; its stack is used again after a later spawn finds it ended.

use crate::sync::{self, FOREVER, Lock};
use crate::tls::{self, ThreadBlock};
use crate::{slots, syscall, view};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use twz_abi::fault::FaultInfo;
use twz_abi::program::STACK_TOP;
use twz_abi::syscall::{CreateSpec, create_flags};
use twz_abi::thread::{
    PRIORITY_DEFAULT, THREAD_INDEX_BITS, THREAD_NAME_MAX, ThreadPhase, ThreadSpec, ThreadState,
};
use twz_abi::view::SLOT_SIZE;
use twz_abi::{ErrorCode, ObjectId, PAGE_BYTES, PAGE_SIZE, Rights};
use zerocopy::FromZeros;

/// Nanoseconds after which it is looked again whether a stack is still lent.
const LOOK_AGAIN: u64 = 10_000_000;

/// A stack object that is mapped.
#[derive(Clone, Copy, Debug)]
struct Stack {
    slot: u64,
    object: ObjectId,
}

/// Stacks whose threads may have ended, and stacks that are free.
struct Stacks {
    abandoned: Vec<Stack>,
    free: Vec<Stack>,
    loans: Vec<Loan>,
}

/// A thread that may borrow from the stack of another.
struct Loan {
    /// The stack's.
    slot: u64,
    /// The [`Lent`] that it is of, by address.
    by: Arc<()>,
    /// The borrowing thread's number.
    thread: u64,
    /// Set when what it borrows for is done.
    is_over: Arc<AtomicBool>,
}

impl Loan {
    /// Whether its thread may still borrow: one that panicked or faulted does not say that it is over.
    fn lasts(&self) -> bool {
        let index = self.thread & ((1 << THREAD_INDEX_BITS) - 1);
        !self.is_over.load(Ordering::Acquire) && syscall::thread_find(index) == Ok(self.thread)
    }
}

impl Stacks {
    fn is_lent(&self, stack: Stack) -> bool {
        self.loans.iter().any(|loan| loan.slot == stack.slot && loan.lasts())
    }

    /// Whether the thread of an abandoned stack has ended, and nobody borrows from it.
    fn is_free(&self, stack: Stack) -> bool {
        stack.has_ended() && !self.is_lent(stack)
    }

    /// Forgets what was lent of a stack that is free.
    fn take_back(&mut self, stack: Stack) {
        self.loans.retain(|loan| loan.slot != stack.slot);
    }
}

static STACKS: Lock<Stacks> =
    Lock::new(Stacks { abandoned: Vec::new(), free: Vec::new(), loans: Vec::new() });

/// The stack of the thread that called [`lend_stack`], which others may borrow from, even if that one panics or faults: the stack is used again, and a
/// join of the thread returns, when they do not any more. Dropped when nobody borrows.
#[derive(Debug)]
pub struct Lent {
    /// The stack's.
    slot: u64,
    /// Has an address that no other one has.
    this: Arc<()>,
}

/// Begins to lend the calling thread's stack.
#[must_use]
pub fn lend_stack() -> Lent {
    let here = 0_u8;
    Lent { slot: (&raw const here).addr() as u64 / SLOT_SIZE, this: Arc::new(()) }
}

impl Lent {
    /// Lends to a thread, until it has ended or sets `is_over`. Called by a thread that borrows itself, or by the one whose stack it is.
    pub fn to(&self, thread: u64, is_over: Arc<AtomicBool>) {
        let loan = Loan { slot: self.slot, by: Arc::clone(&self.this), thread, is_over };
        let loans = &mut STACKS.lock().loans;
        if loans.len() == loans.capacity() {
            loans.retain(|loan| !loan.is_over.load(Ordering::Acquire));
        }
        loans.push(loan);
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        STACKS.lock().loans.retain(|loan| !Arc::ptr_eq(&loan.by, &self.this));
    }
}

impl Stack {
    fn take() -> Result<Self, ErrorCode> {
        let mut stacks = STACKS.lock();
        if let Some(stack) = stacks.free.pop() {
            return Ok(stack);
        }
        if let Some(index) = stacks.abandoned.iter().position(|stack| stacks.is_free(*stack)) {
            let stack = stacks.abandoned.swap_remove(index);
            stacks.take_back(stack);
            return Ok(stack);
        }
        drop(stacks);
        Self::create()
    }

    fn create() -> Result<Self, ErrorCode> {
        let slot = slots::allocate().ok_or(ErrorCode::NoMemory)?;
        let rights = Rights::READ | Rights::WRITE;
        // The creating context's alone.
        let spec = CreateSpec { flags: create_flags::VOLATILE, ..CreateSpec::default() };
        let object = syscall::object_create(&spec).inspect_err(|_| slots::free(slot))?;
        // The allocator's slots exist.
        let _ = view::map(slot, object, rights);
        Ok(Self { slot, object })
    }

    const fn state_address(self) -> u64 {
        self.slot * SLOT_SIZE + STACK_TOP - PAGE_SIZE
    }

    /// Where the thread's [`ThreadBlock`] is.
    const fn block_address(self) -> u64 {
        self.state_address() + size_of::<ThreadState>() as u64
    }

    fn phase(&self) -> &'static AtomicU32 {
        // SAFETY: the stack's slot stays mapped as long as the stack is known; the kernel writes the word, hence an atomic.
        unsafe { &*(self.state_address() as *const AtomicU32) }
    }

    fn has_ended(&self) -> bool {
        self.phase().load(Ordering::Acquire) >= ThreadPhase::Exited as u32
    }

    /// Unmaps and deletes it.
    fn destroy(self) {
        // SAFETY: its thread has ended and it left the lists, so nobody uses the slot (I1).
        let unmapped = unsafe { view::unmap(self.slot) };
        // What cannot be given back is lost until the machine ends, as it is volatile.
        let _ = unmapped.and_then(|()| syscall::object_delete(self.object));
    }
}

/// Unmaps and deletes the stacks that ended threads left; returns how many.
pub fn release_stacks() -> usize {
    let mut stacks = STACKS.lock();
    let mut gone = core::mem::take(&mut stacks.free);
    let abandoned = core::mem::take(&mut stacks.abandoned);
    let (ended, running): (Vec<_>, Vec<_>) = abandoned.into_iter().partition(|stack| stacks.is_free(*stack));
    stacks.abandoned = running;
    ended.iter().for_each(|stack| stacks.take_back(*stack));
    drop(stacks);
    gone.extend(ended);
    gone.iter().for_each(|stack| stack.destroy());
    gone.len()
}

/// A thread ended without returning from its closure.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Its exit status: 101 for a panic, 128 + the cause for a fault.
    pub status: u32,
    /// The fault that ended it, if it was one.
    pub fault: Option<FaultInfo>,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fault {
            Some(fault) => write!(f, "the thread was ended by fault {} at {:#x}", fault.cause, fault.address),
            None => write!(f, "the thread ended with status {}", self.status),
        }
    }
}

impl core::error::Error for Ended {}

/// A name as the kernel keeps it: cut to [`THREAD_NAME_MAX`] bytes.
pub(crate) fn label(name: &str) -> [u8; THREAD_NAME_MAX] {
    let length = name.floor_char_boundary(THREAD_NAME_MAX);
    let mut label = [0; THREAD_NAME_MAX];
    label[..length].copy_from_slice(&name.as_bytes()[..length]);
    label
}

/// Waits until the thread that has its state there has ended, and says how.
///
/// # Safety
/// `state` must stay mapped, and the kernel's or that of a thread that has ended, until this returns.
pub(crate) unsafe fn wait_for_end(state: *const ThreadState) -> Ended {
    // SAFETY: the phase is the state's first word (asserted in `twz_abi`); the kernel writes it, hence an atomic.
    let phase = unsafe { &*state.cast::<AtomicU32>() };
    loop {
        let seen = phase.load(Ordering::Acquire);
        if seen >= ThreadPhase::Exited as u32 {
            break;
        }
        if sync::wait(phase, seen, FOREVER).is_err_and(|error| error != ErrorCode::WouldBlock) {
            syscall::thread_yield();
        }
    }
    // SAFETY: the kernel wrote the state before the phase that was seen, and writes no more.
    let state = unsafe { state.read_volatile() };
    let fault = (state.phase == ThreadPhase::Faulted as u32).then_some(state.fault);
    Ended { status: state.status, fault }
}

/// Where a closure's result is left.
struct Packet<T>(UnsafeCell<Option<T>>);

// SAFETY: the thread writes before it ends, the joiner reads after; never both.
unsafe impl<T: Send> Sync for Packet<T> {}

/// The closure with its result's place, in the form that the new thread takes over.
struct Start {
    run: Box<dyn FnOnce() + Send>,
    block: *const ThreadBlock,
}

/// What a new thread is to be; the defaults are those of the system.
#[derive(Clone, Debug)]
pub struct Builder {
    spec: ThreadSpec,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// All defaults: this view and context, [`PRIORITY_DEFAULT`], any hart, no name.
    #[must_use]
    pub fn new() -> Self {
        let mut spec = ThreadSpec::new_zeroed();
        spec.priority = PRIORITY_DEFAULT;
        Self { spec }
    }

    /// A name for messages, cut to [`THREAD_NAME_MAX`] bytes.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.spec.name = label(name);
        self
    }

    /// 0 (least) to [`twz_abi::thread::PRIORITY_MAX`].
    #[must_use]
    pub const fn priority(mut self, priority: u32) -> Self {
        self.spec.priority = priority;
        self
    }

    /// Harts that may run it, a bit each; 0 for all.
    #[must_use]
    pub const fn affinity(mut self, harts: u64) -> Self {
        self.spec.affinity = harts;
        self
    }

    /// Top of the stack on which its faults are handled; it must stay mapped as long as the thread runs.
    #[must_use]
    pub const fn fault_stack(mut self, top: u64) -> Self {
        self.spec.fault_stack = top;
        self
    }

    /// Starts a thread that runs `body`.
    ///
    /// # Errors
    /// [`ErrorCode::NoMemory`], [`ErrorCode::PoolFull`] for its stack; [`ErrorCode::BadArgument`] for what was set here.
    pub fn spawn<T, F>(self, body: F) -> Result<JoinHandle<T>, ErrorCode>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        // SAFETY: nothing is borrowed.
        unsafe { self.spawn_unchecked(body) }
    }

    /// As [`Builder::spawn`], for a closure that borrows.
    ///
    /// # Errors
    /// As [`Builder::spawn`].
    ///
    /// # Safety
    /// What `body` and its result borrow must live until the thread has ended, and the handle is gone.
    pub unsafe fn spawn_unchecked<'a, T, F>(self, body: F) -> Result<JoinHandle<T>, ErrorCode>
    where
        T: Send + 'a,
        F: FnOnce() -> T + Send + 'a,
    {
        let packet = Arc::new(Packet(UnsafeCell::new(None)));
        let place = Arc::clone(&packet);
        let run = move || {
            let value = body();
            // SAFETY: the joiner looks only after this thread has ended.
            unsafe { *place.0.get() = Some(value) };
        };
        let run: Box<dyn FnOnce() + Send + 'a> = Box::new(run);
        // SAFETY: only the lifetime changes, which the caller vouches for.
        let run = unsafe {
            core::mem::transmute::<Box<dyn FnOnce() + Send + 'a>, Box<dyn FnOnce() + Send + 'static>>(run)
        };
        let start = Box::into_raw(Box::new(Start { run, block: core::ptr::null() }));
        let stack = match Stack::take() {
            Ok(stack) => stack,
            Err(error) => {
                // SAFETY: made by `into_raw` above, and nobody took it.
                drop(unsafe { Box::from_raw(start) });
                return Err(error);
            }
        };
        stack.phase().store(ThreadPhase::New as u32, Ordering::Relaxed);
        // SAFETY: the place is in the stack object's last page, past the state; its last thread has ended (I1).
        let tls = unsafe { ThreadBlock::put(stack.block_address() as *mut ThreadBlock) };
        // SAFETY: made by `into_raw` above; the thread that takes it over is not there yet.
        unsafe { (*start).block = tls as *const ThreadBlock };
        let spec = ThreadSpec {
            tls,
            entry: thread_entry as *const () as u64,
            stack: stack.state_address(),
            argument: start as u64,
            state: stack.state_address(),
            ..self.spec
        };
        // SAFETY: the entry runs the closure on a stack that is the thread's alone (I1).
        match unsafe { syscall::thread_spawn(&spec) } {
            Ok(thread) => Ok(JoinHandle { thread, stack, packet, joined: false }),
            Err(error) => {
                // SAFETY: as above: there is no thread to take it.
                drop(unsafe { Box::from_raw(start) });
                STACKS.lock().free.push(stack);
                Err(error)
            }
        }
    }
}

/// Starts a thread with all defaults; see [`Builder::spawn`].
///
/// # Errors
/// As [`Builder::spawn`].
pub fn spawn<T, F>(body: F) -> Result<JoinHandle<T>, ErrorCode>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    Builder::new().spawn(body)
}

/// First instruction of a spawned thread: RDI holds the [`Start`].
#[unsafe(naked)]
unsafe extern "C" fn thread_entry() -> ! {
    core::arch::naked_asm!("xor ebp, ebp", "and rsp, -16", "call {}", "ud2", sym thread_main)
}

extern "C" fn thread_main(start: *mut Start) -> ! {
    // SAFETY: `spawn` passed a box that it gave up.
    let start = unsafe { Box::from_raw(start) };
    let Start { run, block } = *start;
    run();
    // SAFETY: the block stands there until the thread has ended (`spawn_unchecked`).
    tls::end(unsafe { &*block });
    syscall::thread_exit(0)
}

/// A thread that was started; dropping the handle lets it run on.
#[derive(Debug)]
pub struct JoinHandle<T> {
    thread: u64,
    stack: Stack,
    packet: Arc<Packet<T>>,
    joined: bool,
}

impl<T> fmt::Debug for Packet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packet")
    }
}

impl<T> JoinHandle<T> {
    /// The thread's number.
    #[must_use]
    pub const fn thread(&self) -> u64 {
        self.thread
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.stack.has_ended()
    }

    /// Address of the thread's [`ThreadState`].
    #[must_use]
    pub const fn state_address(&self) -> u64 {
        self.stack.state_address()
    }

    /// Waits until the thread has ended, and those that borrow from it ([`lend_stack`]); returns what its closure returned.
    ///
    /// # Errors
    /// [`Ended`] if it ended otherwise.
    pub fn join(mut self) -> Result<T, Ended> {
        // SAFETY: the stack stays mapped and known until it is on the list of free ones.
        let ended = unsafe { wait_for_end(self.stack.state_address() as *const ThreadState) };
        // Threads that borrow from one that ended badly, as those of a scope, end first.
        loop {
            let mut stacks = STACKS.lock();
            if !stacks.is_lent(self.stack) {
                stacks.take_back(self.stack);
                stacks.free.push(self.stack);
                break;
            }
            drop(stacks);
            // Nobody wakes us: who panics or faults could not.
            let _ = sync::wait(&AtomicU32::new(0), 0, LOOK_AGAIN);
        }
        self.joined = true;
        // SAFETY: the thread has ended, so the place is ours.
        let value = unsafe { (*self.packet.0.get()).take() };
        value.ok_or(ended)
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if !self.joined {
            STACKS.lock().abandoned.push(self.stack);
        }
    }
}

const _: () = assert!(size_of::<ThreadState>() + size_of::<ThreadBlock>() <= PAGE_BYTES);
