//! System calls, one typed function each; see [`twz_abi::syscall::Syscall`] for what they do.

use core::arch::asm;
use twz_abi::syscall::{CreateSpec, ObjectStat, Syscall};
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
    let (status, first, second): (u64, u64, u64);
    // SAFETY: SYSCALL changes RCX, R11 and the results only; memory changes as the caller allows.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") call as u64 => status,
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
    match u32::try_from(status) {
        Ok(0) => Ok((first, second)),
        Ok(code) => Err(ErrorCode::try_from(code).unwrap_or(ErrorCode::NoSuchCall)),
        Err(_) => Err(ErrorCode::NoSuchCall),
    }
}

/// A call without pointers.
fn plain(call: Syscall, arguments: [u64; 6]) -> Result<(u64, u64), ErrorCode> {
    // SAFETY: used below only with calls whose arguments are numbers, or pointers to borrowed buffers of the given length.
    unsafe { raw(call, arguments) }
}

/// Ends this thread with `status`.
pub fn thread_exit(status: u8) -> ! {
    loop {
        // It does not return; should a kernel ever refuse, there is nothing else to do than to insist.
        let _ = plain(Syscall::ThreadExit, [u64::from(status), 0, 0, 0, 0, 0]);
    }
}

/// Lets another thread run.
pub fn thread_yield() {
    // Cannot fail.
    let _ = plain(Syscall::ThreadYield, [0; 6]);
}

/// Prints; returns how many bytes were taken.
///
/// # Errors
/// [`ErrorCode::BadAddress`].
pub fn console_write(bytes: &[u8]) -> Result<usize, ErrorCode> {
    let (count, _) = plain(Syscall::ConsoleWrite, [bytes.as_ptr() as u64, bytes.len() as u64, 0, 0, 0, 0])?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX).min(bytes.len()))
}

/// Waits for typed input; 0 bytes mean that it has ended.
///
/// # Errors
/// [`ErrorCode::BadAddress`].
pub fn console_read(buffer: &mut [u8]) -> Result<usize, ErrorCode> {
    let (count, _) =
        plain(Syscall::ConsoleRead, [buffer.as_mut_ptr() as u64, buffer.len() as u64, 0, 0, 0, 0])?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX).min(buffer.len()))
}

/// Nanoseconds (since the machine started, since 1970).
///
/// # Errors
/// None today.
pub fn clock() -> Result<(u64, u64), ErrorCode> {
    plain(Syscall::Clock, [0; 6])
}

/// Fills `buffer` (at most 256 bytes) with random bytes.
///
/// # Errors
/// [`ErrorCode::BadArgument`] for a longer buffer.
pub fn random(buffer: &mut [u8]) -> Result<(), ErrorCode> {
    plain(Syscall::Random, [buffer.as_mut_ptr() as u64, buffer.len() as u64, 0, 0, 0, 0]).map(drop)
}

/// Ends the machine.
///
/// # Errors
/// None today.
pub fn shutdown(status: u8) -> Result<(), ErrorCode> {
    plain(Syscall::Shutdown, [u64::from(status), 0, 0, 0, 0, 0]).map(drop)
}

/// Creates an object.
///
/// # Errors
/// [`ErrorCode::PoolFull`], [`ErrorCode::NoObject`] for the source, [`ErrorCode::NotPermitted`], [`ErrorCode::BadArgument`].
pub fn object_create(spec: &CreateSpec) -> Result<ObjectId, ErrorCode> {
    let (lo, hi) = plain(Syscall::ObjectCreate, [core::ptr::from_ref(spec) as u64, 0, 0, 0, 0, 0])?;
    Ok(ObjectId { lo, hi })
}

/// Deletes an object, once its last use has ended.
///
/// # Errors
/// [`ErrorCode::NoObject`], [`ErrorCode::NotPermitted`].
pub fn object_delete(id: ObjectId) -> Result<(), ErrorCode> {
    plain(Syscall::ObjectDelete, [id.lo, id.hi, 0, 0, 0, 0]).map(drop)
}

/// What the monitor knows of an object.
///
/// # Errors
/// [`ErrorCode::NoObject`], [`ErrorCode::NotPermitted`].
pub fn object_stat(id: ObjectId) -> Result<ObjectStat, ErrorCode> {
    let mut stat = ObjectStat::new_zeroed();
    plain(Syscall::ObjectStat, [id.lo, id.hi, stat.as_mut_bytes().as_mut_ptr() as u64, 0, 0, 0])?;
    Ok(stat)
}

/// Looks a name up.
///
/// # Errors
/// [`ErrorCode::NoName`], [`ErrorCode::BadArgument`] for an empty or too long name.
pub fn name_get(name: &str) -> Result<ObjectId, ErrorCode> {
    let (lo, hi) = plain(Syscall::NameGet, [name.as_ptr() as u64, name.len() as u64, 0, 0, 0, 0])?;
    Ok(ObjectId { lo, hi })
}

/// Names an object.
///
/// # Errors
/// [`ErrorCode::NoObject`], [`ErrorCode::NotPermitted`], [`ErrorCode::PoolFull`], [`ErrorCode::BadArgument`].
pub fn name_set(id: ObjectId, name: &str) -> Result<(), ErrorCode> {
    plain(Syscall::NameSet, [id.lo, id.hi, name.as_ptr() as u64, name.len() as u64, 0, 0]).map(drop)
}

/// Takes a name away.
///
/// # Errors
/// [`ErrorCode::NoName`], [`ErrorCode::NotPermitted`].
pub fn name_remove(name: &str) -> Result<(), ErrorCode> {
    plain(Syscall::NameRemove, [name.as_ptr() as u64, name.len() as u64, 0, 0, 0, 0]).map(drop)
}
