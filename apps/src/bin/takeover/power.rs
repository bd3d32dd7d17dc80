//! The powers of a kernel that was taken over; see `twz_abi::syscall::hostile`.

use twz_rt::abi::hypercall::Op;
use twz_rt::abi::syscall::hostile;
use twz_rt::abi::{ErrorCode, ObjectId};
use twz_rt::syscall;

/// A call of the hostile kernel's own.
fn call(number: u64, [first, second, third]: [u64; 3]) -> Result<(u64, u64), ErrorCode> {
    // SAFETY: what it does to memory of others is what this program is for, its own it spares.
    unsafe { syscall::by_number(number, [first, second, third, 0, 0, 0]) }
}

/// Loads a word at a guest-physical address.
pub(crate) fn peek(address: u64) -> Result<u64, ErrorCode> {
    call(hostile::PEEK, [address, 0, 0]).map(|(word, _)| word)
}

/// Stores one.
pub(crate) fn poke(address: u64, word: u64) -> Result<(), ErrorCode> {
    call(hostile::POKE, [address, word, 0]).map(drop)
}

/// Makes this program's own tables allow everything at an address.
pub(crate) fn make_writable(address: u64) -> Result<(), ErrorCode> {
    call(hostile::WRITABLE, [address, 0, 0]).map(drop)
}

/// Makes a hypercall.
pub(crate) fn hypercall(op: u32, arguments: &[u64], data: &[u8]) -> Result<(u64, u64), ErrorCode> {
    let mut words = [0; 9];
    words[0] = u64::from(op);
    words[1..=arguments.len()].copy_from_slice(arguments);
    call(hostile::CALL, [words.as_ptr() as u64, data.as_ptr() as u64, data.len() as u64])
}

/// Makes a hypercall in the name of a context, about an object.
pub(crate) fn about(
    op: Op,
    context: ObjectId,
    object: ObjectId,
    more: [u64; 3],
    data: &[u8],
) -> Result<(u64, u64), ErrorCode> {
    let [first, second, third] = more;
    hypercall(op as u32, &[context.lo, context.hi, object.lo, object.hi, first, second, third], data)
}
