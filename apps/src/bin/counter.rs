//! A persistent counter: found by name, printed, raised by one.
//!
//! The whole point of Twizzler in one file: there is no file, no parsing, no saving. The number is a word in an object; the
//! object is mapped by a store into the view (paper §3.2), and raised by a store into persistent memory (paper §3.5).
#![no_std]
#![no_main]

use pmem::{Native, Pmem};
use twz_rt::abi::program::FREE_SLOT;
use twz_rt::abi::syscall::CreateSpec;
use twz_rt::abi::{ErrorCode, ObjectId, PAGE_BYTES, Rights};
use twz_rt::{Args, println, syscall, view};

twz_rt::entry!(main);

/// Where an object's data starts: page 0 is never mapped.
const FIRST_BYTE: usize = PAGE_BYTES;

fn main(mut args: Args) -> Result<(), ErrorCode> {
    let name = args.nth(1).unwrap_or("counter");
    let object = find_or_create(name)?;
    let base = view::map(FREE_SLOT, object, Rights::READ | Rights::WRITE).ok_or(ErrorCode::BadArgument)?;
    // SAFETY: the slot now maps the object, whose first data page is this; no reference to it exists.
    let memory = unsafe { Native::new(base.wrapping_add(FIRST_BYTE), 64) };
    let count = memory.load(0);
    println!("{name}: {count}");
    // One aligned word: a power failure leaves the old number or the new one.
    memory.store(0, count + 1);
    memory.persist(0, 8);
    Ok(())
}

fn find_or_create(name: &str) -> Result<ObjectId, ErrorCode> {
    match syscall::name_get(name) {
        Err(ErrorCode::NoName) => {
            let rights = Rights::READ | Rights::WRITE | Rights::DELETE;
            let object = syscall::object_create(&CreateSpec {
                default_rights: rights.bits(),
                ..CreateSpec::default()
            })?;
            syscall::name_set(object, name)?;
            Ok(object)
        }
        found => found,
    }
}
