//! System calls, one typed function each; see [`twz_abi::syscall::Syscall`] for what they do.
//!
//! Arguments and results are encoded by [`twz_abi::syscall::calls`], which follows from the table there; this module executes SYSCALL, and says
//! what is safe and what can go wrong.

use core::arch::asm;
use pmem::trace::Traced;
use twz_abi::call::{Call, Returned};
use twz_abi::counters::{AllCounters, Counters};
use twz_abi::fault::FaultFrame;
use twz_abi::resume::ResumeSpec;
use twz_abi::sync::SyncOp;
use twz_abi::syscall::{
    ConsoleMode, CopyRange, CopySpec, CreateSpec, NAME_MAX, ObjectStat, Resize, Syscall, TracedKind, calls,
};
use twz_abi::thread::{ThreadProperty, ThreadSpec};
use twz_abi::view::SlotRange;
use twz_abi::{ErrorCode, ObjectId};
use zerocopy::{FromZeros, IntoBytes};

/// Makes a call.
///
/// # Errors
/// What the kernel says.
///
/// # Safety
/// Pointers among the arguments must be good for what the call does with them; the kernel checks that the program may use the
/// memory, but not whether the program still believes something else about it.
pub unsafe fn raw(call: Syscall, arguments: [u64; 6]) -> Result<(u64, u64), ErrorCode> {
    // SAFETY: the caller's promise.
    unsafe { by_number(call as u64, arguments) }
}

/// Makes a call by its number, whatever kernel knows it.
///
/// # Errors
/// As [`raw`].
///
/// # Safety
/// As [`raw`].
pub unsafe fn by_number(call: u64, arguments: [u64; 6]) -> Result<(u64, u64), ErrorCode> {
    let (status, first, second): (u64, u64, u64);
    // SAFETY: SYSCALL changes RCX, R11 and the results only; memory changes as the caller allows.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") call => status,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            inlateout("rdx") arguments[2] => first,
            in("r10") arguments[3],
            inlateout("r8") arguments[4] => second,
            in("r9") arguments[5],
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    outcome(status).map(|()| (first, second))
}

/// What RAX says behind a call.
pub(crate) fn outcome(status: u64) -> Result<(), ErrorCode> {
    match u32::try_from(status) {
        Ok(0) => Ok(()),
        Ok(code) => Err(ErrorCode::try_from(code).unwrap_or(ErrorCode::NoSuchCall)),
        Err(_) => Err(ErrorCode::NoSuchCall),
    }
}

/// Makes a call that was encoded.
#[inline]
pub(crate) fn make<R: Returned>(call: Call<'_, R>) -> Result<R, ErrorCode> {
    // SAFETY: the pointers in it lead to what it borrows, with its length. Of the calls that reach other memory, those below are unsafe functions.
    unsafe { raw(call.number(), call.words()) }.map(|values| call.returned(values))
}

/// Ends this thread with `status`.
pub fn thread_exit(status: u8) -> ! {
    loop {
        // It does not return; should a kernel ever refuse, there is nothing else to do than to insist.
        let _ = make(calls::thread_exit(status));
    }
}

/// Lets another thread run.
pub fn thread_yield() {
    // Cannot fail.
    let _ = make(calls::thread_yield());
}

/// Starts a thread; returns its number.
///
/// # Errors
/// [`ErrorCode::BadArgument`] for what `spec` says, [`ErrorCode::NoObject`] and [`ErrorCode::NotPermitted`] for its view and context,
/// [`ErrorCode::BadAddress`] for its state, [`ErrorCode::NoMemory`].
///
/// # Safety
/// The new thread must be one that may run: its entry, stack and state are used by nobody else.
pub unsafe fn thread_spawn(spec: &ThreadSpec) -> Result<u64, ErrorCode> {
    make(calls::thread_spawn(spec))
}

/// Which thread calls, and where it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its number.
    pub thread: u64,
    /// The hart that it runs on; another one, perhaps, when the caller looks.
    pub hart: u64,
    /// Number of harts of the machine.
    pub harts: u64,
}

/// The calling thread.
///
/// # Errors
/// None today.
pub fn thread_self() -> Result<Running, ErrorCode> {
    let (thread, harts) = make(calls::thread_self())?;
    Ok(Running { thread, hart: harts & 0xffff_ffff, harts: harts >> 32 })
}

/// Changes a property of a thread, 0 for this one.
///
/// # Errors
/// [`ErrorCode::NoThread`], [`ErrorCode::NotPermitted`] for a thread of another context, [`ErrorCode::BadArgument`].
pub fn thread_set(thread: u64, property: ThreadProperty, value: u64) -> Result<(), ErrorCode> {
    make(calls::thread_set(thread, property, value))
}

/// The number of the thread that lives and whose number ends in the bits of `index`, [`THREAD_INDEX_BITS`](twz_abi::thread::THREAD_INDEX_BITS).
///
/// # Errors
/// [`ErrorCode::NoThread`].
pub fn thread_find(index: u64) -> Result<u64, ErrorCode> {
    make(calls::thread_find(index))
}

/// Does the wakes among `ops`, then sleeps on the others for at most `nanoseconds`; returns the number of threads woken.
///
/// # Errors
/// [`ErrorCode::TimedOut`]; [`ErrorCode::WouldBlock`] if a word had another value; [`ErrorCode::BadArgument`] for more than
/// [`twz_abi::sync::SYNC_OPS_MAX`] or an unknown kind; [`ErrorCode::BadAddress`]; [`ErrorCode::NoMemory`].
pub fn thread_sync(ops: &[SyncOp], nanoseconds: u64) -> Result<u64, ErrorCode> {
    make(calls::thread_sync(ops, nanoseconds)).map(|(woken, _)| woken)
}

/// Loads the registers in `frame`; returns only if it cannot.
///
/// # Safety
/// The registers must be those of code that may go on.
pub unsafe fn fault_return(frame: &FaultFrame) -> ErrorCode {
    match make(calls::fault_return(frame)) {
        Err(error) => error,
        // It does not return in success.
        Ok(_) => ErrorCode::BadArgument,
    }
}

/// Goes on in another view: at `entry`, with `stack` and `argument` in RDI; returns only if it cannot.
///
/// # Safety
/// Code and stack must be there in the other view.
pub unsafe fn view_set(view: ObjectId, entry: u64, stack: u64, argument: u64) -> ErrorCode {
    match make(calls::view_set(view, entry, stack, argument)) {
        Err(error) => error,
        // As above.
        Ok(_) => ErrorCode::BadArgument,
    }
}

/// Drops, on every hart, what changed or deleted entries of this view mapped.
///
/// # Errors
/// [`ErrorCode::BadArgument`] for more than [`twz_abi::view::RANGES_MAX`] ranges, or one that ends past the last slot.
pub fn view_invalidate(ranges: &[SlotRange]) -> Result<(), ErrorCode> {
    make(calls::view_invalidate(ranges))
}

/// The kernel's counters.
///
/// # Errors
/// None today.
pub fn counters() -> Result<Counters, ErrorCode> {
    let mut counters = Counters::new_zeroed();
    make(calls::counters(counters.as_mut_bytes()))?;
    Ok(counters)
}

/// The kernel's counters, and how often harts left the guest.
///
/// # Errors
/// None today.
pub fn all_counters() -> Result<AllCounters, ErrorCode> {
    let mut counters = AllCounters::new_zeroed();
    make(calls::counters(counters.as_mut_bytes()))?;
    Ok(counters)
}

/// Prints; returns how many bytes were taken.
///
/// # Errors
/// [`ErrorCode::BadAddress`].
pub fn console_write(bytes: &[u8]) -> Result<usize, ErrorCode> {
    let count = make(calls::console_write(bytes))?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX).min(bytes.len()))
}

/// Waits for typed input; 0 bytes mean that it has ended.
///
/// # Errors
/// [`ErrorCode::BadAddress`].
pub fn console_read(buffer: &mut [u8]) -> Result<usize, ErrorCode> {
    let count = make(calls::console_read(buffer))?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX).min(buffer.len()))
}

/// Nanoseconds (since the machine started, since 1970).
///
/// # Errors
/// None today.
pub fn clock() -> Result<(u64, u64), ErrorCode> {
    make(calls::clock())
}

/// Fills `buffer` (at most 256 bytes) with random bytes.
///
/// # Errors
/// [`ErrorCode::BadArgument`] for a longer buffer.
pub fn random(buffer: &mut [u8]) -> Result<(), ErrorCode> {
    make(calls::random(buffer))
}

/// Ends the machine.
///
/// # Errors
/// None today.
pub fn shutdown(status: u8) -> Result<(), ErrorCode> {
    make(calls::shutdown(status))
}

/// Says how typed input is to come; returns the terminal's columns (0: unknown), or `None` if nobody types at a terminal.
///
/// # Errors
/// None today.
pub fn console_mode(mode: ConsoleMode) -> Result<Option<u64>, ErrorCode> {
    let (is_terminal, columns) = make(calls::console_mode(mode))?;
    Ok((is_terminal == 1).then_some(columns))
}

/// Creates an object.
///
/// # Errors
/// [`ErrorCode::PoolFull`], [`ErrorCode::NoObject`] for the source, [`ErrorCode::NotPermitted`], [`ErrorCode::BadArgument`].
pub fn object_create(spec: &CreateSpec) -> Result<ObjectId, ErrorCode> {
    object_create_from(spec, &[])
}

/// Creates an object that begins with ranges of others.
///
/// # Errors
/// As [`object_create`], and [`ErrorCode::BadOffset`] for ranges that are no whole granules, lie outside of an object or overlap in the new one.
pub fn object_create_from(spec: &CreateSpec, ranges: &[CopyRange]) -> Result<ObjectId, ErrorCode> {
    make(calls::object_create(spec, ranges))
}

/// Deletes an object, once its last use has ended.
///
/// # Errors
/// [`ErrorCode::NoObject`], [`ErrorCode::NotPermitted`].
pub fn object_delete(id: ObjectId) -> Result<(), ErrorCode> {
    make(calls::object_delete(id))
}

/// What the monitor knows of an object.
///
/// # Errors
/// [`ErrorCode::NoObject`], [`ErrorCode::NotPermitted`].
pub fn object_stat(id: ObjectId) -> Result<ObjectStat, ErrorCode> {
    let mut stat = ObjectStat::new_zeroed();
    make(calls::object_stat(id, &mut stat))?;
    Ok(stat)
}

/// Makes a range of an object a copy-on-write copy of a range of another.
///
/// # Errors
/// [`ErrorCode::NoObject`], [`ErrorCode::NotPermitted`], [`ErrorCode::BadOffset`] for offsets or lengths that are not multiples of the
/// pool's granule, outside of an object, or overlapping; [`ErrorCode::PoolFull`].
///
/// # Safety
/// The target's memory changes under everybody who has it mapped.
pub unsafe fn object_copy(spec: &CopySpec) -> Result<(), ErrorCode> {
    make(calls::object_copy(spec))
}

/// Makes `object` live at least as long as `keeper`; tied to itself, a volatile object stays.
///
/// # Errors
/// [`ErrorCode::NoObject`], [`ErrorCode::NotPermitted`], [`ErrorCode::PoolFull`].
pub fn object_tie(object: ObjectId, keeper: ObjectId) -> Result<(), ErrorCode> {
    make(calls::object_tie(object, keeper))
}

/// Gives the pages of a range back to the pool; it reads as zeros then.
///
/// # Errors
/// [`ErrorCode::NoObject`], [`ErrorCode::NotPermitted`], [`ErrorCode::BadOffset`] for what is not a multiple of the pool's granule or
/// outside of an object.
///
/// # Safety
/// The object's memory changes under everybody who has it mapped.
pub unsafe fn object_trim(object: ObjectId, first: u64, bytes: u64) -> Result<(), ErrorCode> {
    make(calls::object_resize(object, first, bytes, Resize::Trim))
}

/// Has pages for all of a range at once, so that touching it meets no full pool.
///
/// # Errors
/// As [`object_trim`], and [`ErrorCode::PoolFull`], after which nothing has changed.
pub fn object_reserve(object: ObjectId, first: u64, bytes: u64) -> Result<(), ErrorCode> {
    make(calls::object_resize(object, first, bytes, Resize::Reserve))
}

/// Looks a name up.
///
/// # Errors
/// [`ErrorCode::NoName`], [`ErrorCode::BadArgument`] for an empty or too long name.
pub fn name_get(name: &str) -> Result<ObjectId, ErrorCode> {
    make(calls::name_get(name.as_bytes()))
}

/// Names an object. A volatile one takes only a free name, and stays from then on.
///
/// # Errors
/// [`ErrorCode::NoObject`], [`ErrorCode::NotPermitted`], [`ErrorCode::PoolFull`], [`ErrorCode::BadArgument`]; [`ErrorCode::Exists`] for a volatile
/// object and a name that is taken.
pub fn name_set(id: ObjectId, name: &str) -> Result<(), ErrorCode> {
    make(calls::name_set(id, name.as_bytes()))
}

/// The first name behind `after` in the order of bytes, written to `name`; returns its length. Behind the empty one: the first of all.
///
/// # Errors
/// [`ErrorCode::NoName`] behind the last.
pub fn name_next(after: &str, name: &mut [u8; NAME_MAX]) -> Result<usize, ErrorCode> {
    let length = make(calls::name_next(after.as_bytes(), name))?;
    Ok(usize::try_from(length).unwrap_or(NAME_MAX).min(NAME_MAX))
}

/// Tells all programs that translations of theirs may be stale; returns when the next load of the shared word by anybody sees it.
///
/// # Errors
/// [`ErrorCode::Medium`].
pub fn translations_changed() -> Result<(), ErrorCode> {
    make(calls::translations_changed())
}

/// Takes a name away.
///
/// # Errors
/// [`ErrorCode::NoName`], [`ErrorCode::NotPermitted`].
pub fn name_remove(name: &str) -> Result<(), ErrorCode> {
    make(calls::name_remove(name.as_bytes()))
}

/// Makes this thread resumable. Returns 0; 1 when it goes on here after a failure, with `KEEP_REGISTERS`.
///
/// # Errors
/// [`ErrorCode::NotPermitted`] in a gate, without read and write rights to the view, or without any to the state object;
/// [`ErrorCode::NoObject`]; [`ErrorCode::BadArgument`]; [`ErrorCode::PoolFull`]; [`ErrorCode::Medium`].
pub fn resume_set(spec: &ResumeSpec) -> Result<u64, ErrorCode> {
    make(calls::resume_set(spec))
}

/// Makes this thread not resumable any more.
///
/// # Errors
/// [`ErrorCode::NoThread`] if it was not; [`ErrorCode::Medium`].
pub fn resume_clear() -> Result<(), ErrorCode> {
    make(calls::resume_clear())
}

/// Says that this thread, which was resumed, has recovered.
///
/// # Errors
/// [`ErrorCode::NoThread`] if it is not resumable; [`ErrorCode::Medium`].
pub fn resume_confirm() -> Result<(), ErrorCode> {
    make(calls::resume_confirm())
}

/// Tells a machine for crash tests of a flush or a fence at a line of a source file.
///
/// # Errors
/// [`ErrorCode::NoSuchCall`] on other machines; [`ErrorCode::BadArgument`]; [`ErrorCode::BadAddress`].
pub fn pmem_trace(event: Traced, file: &str, line: u32) -> Result<(), ErrorCode> {
    let (kind, address, bytes) = match event {
        Traced::Flush { address, bytes } => (TracedKind::Flush, address, bytes),
        Traced::Fence => (TracedKind::Fence, 0, 0),
    };
    make(calls::pmem_trace(kind, address, bytes, file.as_bytes(), line.into()))
}
