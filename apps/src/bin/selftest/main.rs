//! The kernel's promises, tested by a program: `selftest` runs all tests, `selftest NAME…` those whose names begin so, `selftest --list`
//! names them.
//!
//! # Contract
//! - A line for each test: `ok NAME MILLISECONDS ms`, `FAILED NAME: why`, or `skipped NAME: why` where the CPU lacks what is tested; the
//!   last line counts. Exit status 0 only if none failed.
//! - A test depends on no other. What it needs several harts for, it does on one, too, as far as that makes sense.
//! - Each test compares with what only a working kernel gives; it fails when the feature is broken.
#![no_std]
#![no_main]

extern crate alloc;

mod faults;
mod objects;
mod parts;
mod small;
mod stress;
mod sync;
mod system;
mod threads;
mod vectors;
mod views;

use alloc::string::String;
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::syscall::{CreateSpec, create_flags};
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::abi::{ObjectId, Rights};
use twz_rt::sync::Lock;
use twz_rt::{Args, println, slots, syscall, view};

twz_rt::entry!(main);

/// Why a test failed.
type Outcome = Result<(), String>;

/// Why the test that runs has nothing to test.
static SKIPPED: Lock<Option<&'static str>> = Lock::new(None);

/// Ends a test that this CPU has nothing for.
fn skip(reason: &'static str) -> Outcome {
    *SKIPPED.lock() = Some(reason);
    Ok(())
}

/// A test: its name and what it does.
type Test = (&'static str, fn() -> Outcome);

/// Ends the test with a formatted reason unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr) => { $crate::check!($condition, "{}", stringify!($condition)) };
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err(alloc::format!($($text)*));
        }
    };
}

/// Ends the test unless two values are equal.
#[macro_export]
macro_rules! same {
    ($found:expr, $wanted:expr, $($text:tt)*) => {
        let (found, wanted) = (&$found, &$wanted);
        if found != wanted {
            return Err(alloc::format!("{}: {found:x?} instead of {wanted:x?}", format_args!($($text)*)));
        }
    };
}

/// Groups of tests, in the order in which they run.
const GROUPS: &[&[Test]] = &[
    system::TESTS,
    objects::TESTS,
    parts::TESTS,
    views::TESTS,
    faults::TESTS,
    threads::TESTS,
    sync::TESTS,
    vectors::TESTS,
    stress::TESTS,
];

fn main(args: Args) -> u8 {
    let tests = || GROUPS.iter().copied().flatten();
    let wanted = || args.skip(1);
    if wanted().any(|word| word == "--list") {
        tests().for_each(|(name, _)| println!("{name}"));
        return 0;
    }
    let chosen = |name: &str| wanted().next().is_none() || wanted().any(|prefix| name.starts_with(prefix));
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, run) in tests().filter(|(name, _)| chosen(name)) {
        let begun = now();
        let outcome = run();
        match (outcome, SKIPPED.lock().take()) {
            (Ok(()), None) => {
                passed += 1;
                println!("ok {name} {} ms", (now() - begun) / 1_000_000);
            }
            (Ok(()), Some(reason)) => {
                skipped += 1;
                println!("skipped {name}: {reason}");
            }
            (Err(reason), _) => {
                failed += 1;
                println!("FAILED {name}: {reason}");
            }
        }
        twz_rt::fault::clear_handler();
        twz_rt::thread::release_stacks();
    }
    println!("selftest: {passed} passed, {skipped} skipped, {failed} failed, {} harts", harts());
    u8::from(failed > 0 || passed == 0)
}

/// Harts of the machine.
fn harts() -> u64 {
    syscall::thread_self().map_or(1, |running| running.harts)
}

const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);

/// An error of a call as a reason.
fn failed(what: &'static str) -> impl Fn(twz_rt::abi::ErrorCode) -> String {
    move |error| alloc::format!("{what}: {error}")
}

/// A volatile object with these default rights.
fn object(rights: Rights) -> Result<ObjectId, String> {
    let spec = CreateSpec {
        default_rights: (rights | Rights::DELETE).bits(),
        flags: create_flags::VOLATILE,
        ..CreateSpec::default()
    };
    syscall::object_create(&spec).map_err(failed("creating an object"))
}

/// An object that is mapped in a slot of its own; unmapped and deleted when dropped.
struct Mapped {
    id: ObjectId,
    slot: u64,
}

impl Mapped {
    fn new() -> Result<Self, String> {
        Self::of(object(READ_WRITE)?, READ_WRITE)
    }

    fn of(id: ObjectId, rights: Rights) -> Result<Self, String> {
        let slot = slots::allocate().ok_or("no free slot")?;
        view::map(slot, id, rights).ok_or("no such slot")?;
        Ok(Self { id, slot })
    }

    /// Address of data word `index`.
    fn address(&self, index: u64) -> u64 {
        self.slot * SLOT_SIZE + DATA_OFFSET + index * 8
    }

    fn set(&self, index: u64, value: u64) {
        // SAFETY: the slot maps an object of this test, writable, and words in it are used by address only.
        unsafe { (self.address(index) as *mut u64).write_volatile(value) };
    }

    fn get(&self, index: u64) -> u64 {
        // SAFETY: as above, readable.
        unsafe { (self.address(index) as *const u64).read_volatile() }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the value is gone, and tests use no address longer.
        let unmapped = unsafe { view::unmap(self.slot) };
        // A test may have deleted it already.
        let _ = unmapped.and_then(|()| syscall::object_delete(self.id));
    }
}

/// Nanoseconds since the machine started.
fn now() -> u64 {
    syscall::clock().map_or(0, |(since_start, _)| since_start)
}

/// Sleeps so long.
fn sleep(nanoseconds: u64) {
    let word = core::sync::atomic::AtomicU32::new(0);
    // Times out, which is the purpose.
    let _ = twz_rt::sync::wait(&word, 0, nanoseconds);
}
