//! What a resumed thread finds: one way to be resumed for each word of the command line.
//!
//!     resumes keep          goes on at a checkpoint with its registers, stack and heap, three times
//!     resumes former        finds its former heap beside a fresh one
//!     resumes fault         faults in every life: to be set aside
//!     resumes silent        ends no life by itself and confirms none: to be set aside, too
//!     resumes order NUMBER  threads that say their number, in the order in which they became resumable
//!     resumes mapped COUNT  maps objects; in its next lives it says when it began, and when it has read a word of each, in ns since power-on
//!     resumes exit          was resumable and ends by itself: nothing is resumed
//!
//! All but `exit` wait to be killed after they have said "ready".
#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use core::hint::black_box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use pmem::{Native, Pmem};
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::program::{FORMER_DATA_SLOT, HEAP_SLOT};
use twz_rt::abi::resume::{ResumeSpec, resume_flags};
use twz_rt::abi::syscall::CreateSpec;
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::abi::{ErrorCode, ObjectId, PAGE_BYTES, Rights};
use twz_rt::resume::{self, Resumed};
use twz_rt::{Args, println, slots, syscall, thread, view};

twz_rt::entry!(main);
twz_rt::resume_entry!(go_on);

const FORMER: u64 = 1;
const FAULT: u64 = 2;
const SILENT: u64 = 3;
/// Plus the thread's number.
const ORDER: u64 = 100;
/// Plus the number of objects.
const MAPPED: u64 = 1 << 32;

/// Initialised, so that a fresh copy can be told from the one that was counted up.
static LIVES: AtomicU64 = AtomicU64::new(40);

fn main(args: Args) -> Result<u8, ErrorCode> {
    let set = |argument| resume::set(_resume, ObjectId::NULL, argument);
    match args.get(1) {
        Some("keep") => return keep(),
        Some("former") => {
            LIVES.store(41, Ordering::SeqCst);
            let kept = Box::leak(Box::new(0x1234_5678_u64));
            black_box(&kept);
            set(FORMER)?;
            println!("address {:x}", core::ptr::from_ref(kept) as u64 % SLOT_SIZE);
        }
        Some("fault") => set(FAULT)?,
        Some("silent") => set(SILENT)?,
        Some("order") => {
            let count: u64 = args.get(2).and_then(|text| text.parse().ok()).unwrap_or(3);
            (0..count).try_for_each(in_turn)?;
        }
        Some("mapped") => {
            let count: u64 = args.get(2).and_then(|text| text.parse().ok()).unwrap_or(1);
            (0..count).try_for_each(map_one)?;
            set(MAPPED + count)?;
        }
        Some("exit") => {
            set(FORMER)?;
            println!("ends by itself");
            return Ok(0);
        }
        _ => return Err(ErrorCode::BadArgument),
    }
    println!("ready");
    wait()
}

fn go_on(_: Args, resumed: Resumed) -> Result<u8, ErrorCode> {
    match resumed.argument {
        FORMER => {
            // SAFETY: the monitor maps the former data object there before the thread begins; only a word of it is read.
            let former = unsafe { &*former_data(&LIVES) };
            let fresh = Box::leak(Box::new(1_u64));
            println!(
                "data {} before {} heap in {} before {:x}",
                LIVES.load(Ordering::SeqCst),
                former.load(Ordering::SeqCst),
                core::ptr::from_ref(fresh) as u64 / SLOT_SIZE == HEAP_SLOT,
                first_word_of_former_heap(),
            );
            resume::confirm()?;
            resume::clear()?;
            Ok(0)
        }
        FAULT => {
            println!("life {}", resumed.times + 1);
            resume::confirm()?;
            // SAFETY: faults, as it should.
            unsafe { core::arch::asm!("ud2", options(noreturn)) }
        }
        SILENT => {
            println!("life {}", resumed.times + 1);
            wait()
        }
        count if count >= MAPPED => {
            let (begun, _) = syscall::clock()?;
            resume::confirm()?;
            // Whoever has read it may let the power fail: this try does not count as failed.
            println!("begun {begun} ns");
            for number in 0..count - MAPPED {
                let address = (slots::FIRST + number) * SLOT_SIZE + DATA_OFFSET;
                // SAFETY: the view maps an object in each of these slots, since the first life, which alone stored to them.
                let word = unsafe { (address as *const u64).read_volatile() };
                if word != number + 1 {
                    return Err(ErrorCode::BadAddress);
                }
            }
            println!("touched {} ns", syscall::clock()?.0);
            println!("ready");
            wait()
        }
        number => {
            // The kernel numbers threads as they are made.
            let serial = syscall::thread_self()?.thread;
            println!("thread {} started {serial:016x}", number - ORDER);
            resume::confirm()?;
            resume::clear()?;
            Ok(0)
        }
    }
}

/// Starts a thread that becomes resumable, with the memory that it shares with the others kept and a stack of its own, and waits until it has.
fn in_turn(number: u64) -> Result<(), ErrorCode> {
    const STACK_BYTES: usize = 64 << 10;
    const WAITS: u32 = 0;
    const MADE: u32 = 1;
    const FAILED: u32 = 2;
    let made: &'static AtomicU32 = Box::leak(Box::new(AtomicU32::new(WAITS)));
    let stack = alloc::vec![0_u8; STACK_BYTES].leak().as_ptr_range().end as u64;
    let run = move || {
        let entry = _resume as *const () as u64;
        let argument = ORDER + number;
        let flags = resume_flags::KEEP_MEMORY;
        let spec = ResumeSpec { entry, argument, stack, flags, ..ResumeSpec::default() };
        let set = syscall::resume_set(&spec);
        made.store(if set.is_ok() { MADE } else { FAILED }, Ordering::SeqCst);
        wait()
    };
    let _goes_on_by_itself = thread::Builder::new().spawn(run)?;
    while made.load(Ordering::SeqCst) == WAITS {
        syscall::thread_yield();
    }
    if made.load(Ordering::SeqCst) == MADE { Ok(()) } else { Err(ErrorCode::Busy) }
}

/// Makes an object with a word in it, in the next free slot.
fn map_one(number: u64) -> Result<(), ErrorCode> {
    let object = syscall::object_create(&CreateSpec::default())?;
    let base = view::map_anywhere(object, Rights::READ | Rights::WRITE).ok_or(ErrorCode::NoMemory)?;
    // SAFETY: the object is mapped there, and nobody else knows it.
    let memory = unsafe { Native::new(base.wrapping_add(PAGE_BYTES), 8) };
    memory.store(0, number + 1);
    memory.persist(0, 8);
    Ok(())
}

/// Counts its lives in a register or on the stack, and on the heap.
#[inline(never)]
fn keep() -> Result<u8, ErrorCode> {
    let mut heap = Box::new(7_u64);
    let local = black_box(11_u64);
    let resumed = resume::checkpoint(ObjectId::NULL)?;
    if !resumed {
        println!("ready");
        wait();
    }
    *heap += 1;
    LIVES.fetch_add(1, Ordering::SeqCst);
    println!("life {} heap {heap} stack {local}", LIVES.load(Ordering::SeqCst));
    resume::confirm()?;
    if *heap == 10 {
        return Ok(3);
    }
    println!("ready");
    wait()
}

/// The word in the former data object that was at the place of `word`.
fn former_data(word: &AtomicU64) -> *const AtomicU64 {
    let offset = core::ptr::from_ref(word) as u64 % SLOT_SIZE;
    (FORMER_DATA_SLOT * SLOT_SIZE + offset) as *const AtomicU64
}

/// The first word on the former heap that holds what `former` put there; 0 if there is none in the first pages.
fn first_word_of_former_heap() -> u64 {
    let start = resume::FORMER_HEAP.wrapping_add(usize::try_from(DATA_OFFSET).unwrap_or(0)).cast::<u64>();
    for index in 0..2048 {
        // SAFETY: the monitor maps the former heap; pages of an object that were never touched read as zeros.
        let word = unsafe { start.wrapping_add(index).read_volatile() };
        if word == 0x1234_5678 {
            return word;
        }
    }
    0
}

fn wait() -> ! {
    let word = AtomicU32::new(0);
    loop {
        // Whatever it says: there is nothing else to do.
        let _ = twz_rt::sync::wait(&word, 0, twz_rt::sync::FOREVER);
    }
}
