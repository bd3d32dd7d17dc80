//! Using each resource up: until the kernel refuses, and again after it was given back.
//!
//! # Contract
//! - A round takes until it is refused and gives all of it back; what it got is counted. Two rounds of each resource: the first may leave
//!   behind what the kernel keeps for good (its own tables), so **the attack fails** if the second gets less than the first by more than
//!   [`SLACK`] parts in a thousand, if nothing was refused, or if it was refused for another reason than that the resource is used up.
//! - Nothing here may need what is used up: lists are made before, and nothing is printed before everything was given back.
//! - It is to run in a small machine and a small pool (`--mem 16M`, `--create 16M`): with more it takes longer.

use crate::volatile;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use apps::mapped::BOTH;
use apps::probe;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use twz_rt::abi::fault::FaultCause;
use twz_rt::abi::sync::SyncOp;
use twz_rt::abi::syscall::Syscall;
use twz_rt::abi::thread::ThreadSpec;
use twz_rt::abi::view::{SLOT_SIZE, SlotRange};
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::view::{self, View};
use twz_rt::{println, slots, sync, syscall};

/// A resource: its name, and a round.
pub(crate) struct Resource {
    pub(crate) name: &'static str,
    round: fn(&mut Room) -> Result<Refused, String>,
}

pub(crate) static RESOURCES: &[Resource] = &[
    Resource { name: "objects", round: objects },
    Resource { name: "pool", round: pool },
    Resource { name: "slots", round: view_slots },
    Resource { name: "threads", round: threads },
];

/// How much less a later round may get, in parts of a thousand.
const SLACK: u64 = 20;
const ROUNDS: usize = 2;
/// Most objects, or threads, that a round takes note of.
const LIST: usize = 1 << 16;
/// Lower than the priority of who takes threads: they do not run before it waits, where there is one hart.
const PRIORITY: u32 = 4;

/// How a round ended: what it got, and why no more.
#[derive(Clone, Copy)]
struct Refused {
    count: u64,
    why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// A call's error.
    Call(ErrorCode),
    /// A fault's cause.
    Fault(u32),
    /// The view has no further slot.
    NoSlot,
}

/// What is made before anything is used up.
pub(crate) struct Room {
    objects: Vec<ObjectId>,
}

impl Room {
    fn new() -> Self {
        // Not zeros, so that every page of it is there.
        Self { objects: alloc::vec![ObjectId { lo: 1, hi: 1 }; LIST] }
    }
}

/// Uses up the resources of these names, or all.
///
/// # Errors
/// Which one was not refused, for another reason, or did not come back.
pub(crate) fn run(wanted: &[&str]) -> Result<(), String> {
    let mut room = Room::new();
    for resource in RESOURCES.iter().filter(|r| wanted.is_empty() || wanted.contains(&r.name)) {
        let mut counts = [0; ROUNDS];
        let mut why = None;
        for count in &mut counts {
            let refused =
                (resource.round)(&mut room).map_err(|error| format!("{}: {error}", resource.name))?;
            *count = refused.count;
            if why.is_some_and(|why| why != refused.why) {
                return Err(format!("{}: refused for {:?}, before for {why:?}", resource.name, refused.why));
            }
            why = Some(refused.why);
        }
        println!(
            "hostile: used up {:<8} {} {} times, then: {}",
            resource.name,
            counts[0],
            counts[1],
            refusal(why)
        );
        let [first, second] = counts;
        if first < 8 || second + first * SLACK / 1000 < first {
            return Err(format!("{} does not come back", resource.name));
        }
    }
    Ok(())
}

fn refusal(why: Option<Why>) -> String {
    match why {
        Some(Why::Call(error)) => format!("{error}"),
        Some(Why::Fault(cause)) => match FaultCause::try_from(cause) {
            Ok(cause) => format!("fault: {}", cause.name()),
            Err(_) => format!("fault {cause}"),
        },
        Some(Why::NoSlot) => "no slot".into(),
        None => "nothing".into(),
    }
}

/// Pages of the pool that [`objects`] leaves for objects: hundreds of objects fit, and that is soon done.
const PAGES_FOR_OBJECTS: u64 = 4;

/// Objects until the pool has no room for another. All but a few pages of it are used up before, so that not all of them need be objects.
fn objects(room: &mut Room) -> Result<Refused, String> {
    let (spare, spare_slot) = mapped()?;
    for page in 0..PAGES_FOR_OBJECTS {
        // SAFETY: a new object.
        unsafe { probe::store(spare_slot * SLOT_SIZE + 0x1000 + page * 0x1000, 1) }
            .map_err(|fault| format!("fault {}", fault.cause))?;
    }
    let (filler, slot) = mapped()?;
    fill(slot)?;
    drop_mapped(spare, spare_slot)?;
    let mut made = 0;
    let why = loop {
        let Some(place) = room.objects.get_mut(made) else { return Err("never refused".into()) };
        match volatile(BOTH | Rights::DELETE) {
            Ok(object) => *place = object,
            Err(error) => break error,
        }
        made += 1;
    };
    for object in &room.objects[..made] {
        syscall::object_delete(*object).map_err(|error| format!("deleting: {error}"))?;
    }
    drop_mapped(filler, slot)?;
    only(ErrorCode::PoolFull, why)?;
    Ok(Refused { count: made as u64, why: Why::Call(why) })
}

/// Stores to each page of the new object in `slot` until that fails: how many, and the fault's cause.
fn fill(slot: u64) -> Result<(u64, u32), String> {
    for count in 0..SLOT_SIZE / 0x1000 - 2 {
        // SAFETY: a new object.
        if let Err(fault) = unsafe { probe::store(slot * SLOT_SIZE + 0x1000 + count * 0x1000, 1) } {
            return Ok((count, fault.cause));
        }
    }
    Err("never refused".into())
}

/// Pages of an object until the pool is full.
fn pool(_: &mut Room) -> Result<Refused, String> {
    let (object, slot) = mapped()?;
    let (count, why) = fill(slot)?;
    drop_mapped(object, slot)?;
    if why != FaultCause::OutOfSpace as u32 {
        return Err(format!("ended by fault {why}"));
    }
    Ok(Refused { count, why: Why::Fault(why) })
}

/// One of so many slots is used: each top table of the view is, and a fault of each slot would take minutes where ring 0 is interpreted.
const USED_OF: u64 = 128;

/// Slots of the view until there is none left.
fn view_slots(_: &mut Room) -> Result<Refused, String> {
    let (object, first) = mapped()?;
    // SAFETY: a new object.
    unsafe { probe::store(first * SLOT_SIZE + 0x1000, 7) }
        .map_err(|fault| format!("fault {}", fault.cause))?;
    let (mut count, mut wrong) = (0, 0);
    while let Some(slot) = slots::allocate() {
        let _ = view::map(slot, object, Rights::READ);
        if count % USED_OF == 0 {
            wrong += u64::from(probe::load(slot * SLOT_SIZE + 0x1000) != Ok(7));
        }
        count += 1;
    }
    // All that map the object are ours; in one call for all harts.
    let current = View::current();
    let ours = || (slots::FIRST..slots::END).filter(|&slot| slot != first && maps(current, slot, object));
    ours().for_each(slots::free);
    ours().for_each(|slot| current.clear(slot));
    view::invalidate(&[SlotRange { first: slots::FIRST, count: slots::END - slots::FIRST }])
        .map_err(|error| format!("invalidating: {error}"))?;
    drop_mapped(object, first)?;
    if wrong > 0 {
        return Err(format!("{wrong} slots did not show their object"));
    }
    Ok(Refused { count, why: Why::NoSlot })
}

/// What the threads of [`crowd`] share.
#[repr(C)]
struct Gathering {
    /// Sleep as long as `go_on` is 0.
    sleep: SyncOp,
    /// Threads that have come to their end.
    ran: AtomicU64,
    go_on: AtomicU32,
}

/// First code of a thread of [`crowd`]: sleeps until the [`Gathering`] at its argument says that all are there. It needs no stack. A sleep that
/// the kernel has no memory for is a yield.
#[unsafe(naked)]
extern "C" fn member(_: u64) -> ! {
    core::arch::naked_asm!(
        "mov rbx, rdi",
        "2: cmp dword ptr [rbx + {go_on}], 0",
        "jne 3f",
        "mov rdi, rbx",
        "mov esi, 1",
        "mov rdx, -1",
        "mov eax, {sleeps}",
        "syscall",
        "cmp dword ptr [rbx + {go_on}], 0",
        "jne 3f",
        "mov eax, {yields}",
        "syscall",
        "jmp 2b",
        "3: lock inc qword ptr [rbx + {ran}]",
        "xor edi, edi",
        "mov eax, {exit}",
        "syscall",
        "ud2",
        go_on = const core::mem::offset_of!(Gathering, go_on),
        ran = const core::mem::offset_of!(Gathering, ran),
        sleeps = const Syscall::ThreadSync as u64,
        yields = const Syscall::ThreadYield as u64,
        exit = const Syscall::ThreadExit as u64,
    )
}

/// Threads, all alive, until the kernel has no memory for another: its frames are used up, to the last one that a thread could have.
fn threads(_: &mut Room) -> Result<Refused, String> {
    let (count, why) = crowd(u64::MAX)?;
    match why {
        Some(why) => {
            only(ErrorCode::NoMemory, why)?;
            Ok(Refused { count, why: Why::Call(why) })
        }
        None => Err("never refused".into()),
    }
}

/// Starts up to `most` threads that live until all were started, and sees that each of them ran to its end; returns how many, and why no
/// more.
///
/// # Errors
/// Threads that did not run, or not to their end.
pub(crate) fn crowd(most: u64) -> Result<(u64, Option<ErrorCode>), String> {
    let living = || {
        let counted = syscall::counters().map_err(|error| format!("counters: {error}"))?;
        Ok::<_, String>(counted.threads_started - counted.threads_ended)
    };
    let before = living()?;
    let go_on = AtomicU32::new(0);
    let mut all = Gathering { sleep: SyncOp::default(), ran: AtomicU64::new(0), go_on };
    all.sleep = sync::sleep_op(&all.go_on, 0);
    let all = &all;
    let spec = ThreadSpec {
        entry: member as *const () as u64,
        argument: core::ptr::from_ref(all) as u64,
        priority: PRIORITY,
        ..ThreadSpec::default()
    };
    let (mut count, mut why) = (0, None);
    while count < most {
        // SAFETY: its code needs no stack, and what it shares with us lives until all of them have ended.
        match unsafe { syscall::thread_spawn(&spec) } {
            Ok(_) => count += 1,
            Err(error) => {
                why = Some(error);
                break;
            }
        }
    }
    let alive = living()? - before;
    all.go_on.store(1, Ordering::Release);
    // Those that found no memory to sleep look again by themselves.
    let _ = sync::wake(&all.go_on, u64::MAX);
    // No limit: this must not return before they have ended.
    while living()? > before {
        let _ = sync::wait(&AtomicU32::new(0), 0, crate::PAUSE);
    }
    let ran = all.ran.load(Ordering::Acquire);
    if ran != count || alive != count {
        return Err(format!("of {count} threads {alive} were alive at once, and {ran} ran"));
    }
    Ok((count, why))
}

fn maps(view: View, slot: u64, object: ObjectId) -> bool {
    view.get(slot).is_some_and(|(id, _)| id == object)
}

/// A new object in a slot of its own.
fn mapped() -> Result<(ObjectId, u64), String> {
    let object = volatile(BOTH | Rights::DELETE).map_err(|error| format!("creating: {error}"))?;
    let slot = slots::allocate().ok_or("no slot")?;
    let _ = view::map(slot, object, BOTH);
    Ok((object, slot))
}

/// Gives it back.
fn drop_mapped(object: ObjectId, slot: u64) -> Result<(), String> {
    // SAFETY: nobody uses the slot any more.
    unsafe { view::unmap(slot) }.map_err(|error| format!("unmapping: {error}"))?;
    syscall::object_delete(object).map_err(|error| format!("deleting: {error}"))
}

fn only(wanted: ErrorCode, why: ErrorCode) -> Result<(), String> {
    if why == wanted { Ok(()) } else { Err(format!("refused: {why}")) }
}
