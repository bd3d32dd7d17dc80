//! What a guest kernel that was taken over can reach (docs/security.md, threat model): it runs on such a kernel, tries to get at an
//! object that no capability grants to a context in the root that it runs in, and says what came of each attempt. The exit status is 1 if one
//! succeeded, 2 on an honest kernel.
//!
//! The *victim* is a context with a root of its own, which has created an object with a secret. The attacks run in the first context's
//! root, and in a context of the shared root. Every attack has a counterpart that must work.
#![no_std]
#![no_main]

extern crate alloc;

mod power;
mod victim;

use apps::compartment::{Compartment, World};
use apps::mapped::{BOTH, Mapped, volatile_object};
use apps::probe;
use core::sync::atomic::{AtomicU32, Ordering};
use libtwz::gate::gate;
use power::{about, hypercall, make_writable, peek, poke};
use sec::{Grant, KeyPair};
use twz_rt::abi::boot::{BOOT_INFO_GPA, BOOT_MAGIC, BootInfo, KERNEL_GPA, MAILBOX_GPA};
use twz_rt::abi::fault::FaultFrame;
use twz_rt::abi::hypercall::Op;
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::program::FREE_SLOT;
use twz_rt::abi::syscall::{CopyRange, CopySpec, CreateSpec, hostile};
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::{Args, fault, println, syscall};
use victim::{SECRET, Victim};
use zerocopy::IntoBytes;

twz_rt::entry!(main);

/// In an object that the attacker's context may read but not write.
const READABLE: u64 = 0x0b5e_47ab_1e00_0001;
/// What attackers store.
const OVERWRITTEN: u64 = 0xdead_dead_dead_dead;
/// Bytes of a chunk of object space.
const CHUNK: u64 = 2 << 20;
/// How far and how densely object space is searched: this many steps of 1 GiB, in each of them so many chunks.
const STEPS: u64 = 64;
const CHUNKS: u64 = 512;
/// Chunks in a row that show nothing, after which a step is given up: a window's chunks are used from its start on.
const IN_VAIN_MAX: u64 = 12;

static TRIED: AtomicU32 = AtomicU32::new(0);
static BROKEN: AtomicU32 = AtomicU32::new(0);

fn expect(what: &str, held: bool) {
    TRIED.fetch_add(1, Ordering::Relaxed);
    BROKEN.fetch_add(u32::from(!held), Ordering::Relaxed);
    println!("{}: {what}", if held { "held" } else { "BROKEN" });
}

fn handle(frame: &mut FaultFrame) {
    if !probe::recover(frame) {
        syscall::thread_exit(3);
    }
}

fn main(_: Args) -> Result<u8, ErrorCode> {
    if peek(BOOT_INFO_GPA) == Err(ErrorCode::NoSuchCall) {
        println!("this kernel is honest: start the image with the one that was taken over");
        return Ok(2);
    }
    // SAFETY: the handler takes no lock.
    unsafe { fault::set_handler(handle) };
    let world = World::new()?;
    let victim = Victim::new(&world)?;
    println!("-- in the root of the first context");
    let readable = Readable::new(&world, world.me)?;
    search(&world, &victim, &readable)?;
    tables(&victim, &readable);
    hypercalls(&world, &victim);
    println!("-- in the shared root");
    shared(&world)?;
    expect("the victim's secret is what it was", victim.secret()? == SECRET);
    let (tried, broken) = (TRIED.load(Ordering::Relaxed), BROKEN.load(Ordering::Relaxed));
    println!("takeover: {tried} attempts, {} held, {broken} broken", tried - broken);
    Ok(u8::from(broken != 0))
}

/// An object that a context may read only.
struct Readable {
    /// Where the attacker has it.
    here: Mapped,
}

impl Readable {
    /// Made by the victim's key, so that the attacker is not its creator.
    fn new(world: &World, reader: ObjectId) -> Result<Self, ErrorCode> {
        let maker = world.compartment(false, &[victim::make::ENTRY, victim::put::ENTRY])?;
        let id = victim::make::call(maker.id, world.owner.id())?;
        maker.map(FREE_SLOT, id);
        victim::put::call(maker.id, READABLE)?;
        let me = apps::context_object::ContextObject::open(reader, BOTH)?;
        me.add(&world.owner.grant(&Grant::new(id, reader, Rights::READ)))?;
        Ok(Self { here: Mapped::of(id)? })
    }
}

/// Looks through guest-physical memory for a word; returns the first address, how many held it, and how many could be read at all.
fn find(word: u64) -> (u64, u64, u64) {
    let base_at = BOOT_INFO_GPA + core::mem::offset_of!(BootInfo, window_base) as u64;
    let Ok(base) = peek(base_at) else { return (0, 0, 0) };
    let (mut first, mut hits, mut read) = (0, 0, 0);
    for step in 0..STEPS {
        let mut in_vain = 0;
        for chunk in 0..CHUNKS {
            let address = base + step * (1 << 30) + chunk * CHUNK + DATA_OFFSET;
            let Ok(found) = peek(address) else {
                in_vain += 1;
                if in_vain == IN_VAIN_MAX {
                    break;
                }
                continue;
            };
            (in_vain, read) = (0, read + 1);
            if found == word {
                first = if hits == 0 { address } else { first };
                hits += 1;
            }
        }
    }
    (first, hits, read)
}

fn search(world: &World, victim: &Victim, readable: &Readable) -> Result<(), ErrorCode> {
    expect("RAM can be read (the attack works)", peek(BOOT_INFO_GPA) == Ok(BOOT_MAGIC));
    expect("the readable object can be read", readable.here.word(DATA_OFFSET) == READABLE);
    let (address, hits, read) = find(READABLE);
    println!("   {read} pages of object space can be read");
    expect("what is granted is found in object space (the search works)", hits == 1);
    expect("the secret is not in object space", find(SECRET).1 == 0);
    let stored = poke(address, OVERWRITTEN);
    expect("storing to what may be read, by its physical address", stored.is_err());
    expect("which changed nothing", peek(address) == Ok(READABLE));

    // An object of ours: there the same store works.
    let own = volatile_object(world.owner.id())?;
    let mapped = Mapped::of(own)?;
    mapped.set_word(DATA_OFFSET, 0x0123_4567_89ab_cdef);
    let (address, ..) = find(0x0123_4567_89ab_cdef);
    expect("storing to what may be written works", poke(address, OVERWRITTEN).is_ok());
    expect("and is seen", mapped.word(DATA_OFFSET) == OVERWRITTEN);

    let text = peek(KERNEL_GPA);
    expect("the kernel's own text cannot be changed", poke(KERNEL_GPA, OVERWRITTEN).is_err());
    expect("and was not", peek(KERNEL_GPA) == text);
    for (what, address) in [
        ("just below object space", u64::from(u32::MAX) - 0xfff),
        ("where devices are", 0xfee0_0000),
        ("at the end of what an address can be", (1 << 46) - 4096),
    ] {
        println!("   {what}");
        expect("nothing outside of RAM and object space", peek(address).is_err());
    }
    let slot = victim.map_here();
    expect("the secret through a view entry", probe::load(slot + DATA_OFFSET).is_err());
    Ok(())
}

/// First-stage entries that promise more than the monitor granted.
fn tables(victim: &Victim, readable: &Readable) {
    let address = readable.here.0 as u64 + DATA_OFFSET;
    let made = make_writable(address);
    // SAFETY: nothing depends on the object's contents.
    let stored = unsafe { probe::store(address, OVERWRITTEN) };
    expect("a table entry that allows stores was written", made.is_ok());
    expect("a store through it", stored.is_err());
    expect("which changed nothing", probe::load(address) == Ok(READABLE));
    let entry = make_writable(victim.map_here() + DATA_OFFSET);
    expect("no table leads to the secret", entry.is_err());
}

/// Hypercalls in any name, about the victim's object and context.
fn hypercalls(world: &World, victim: &Victim) {
    let (me, them, secret) = (world.me, victim.compartment.id, victim.object);
    let nobody = ObjectId { lo: 1, hi: 1 };
    let create = CreateSpec { source: secret, ..CreateSpec::default() };
    let copy = |source, target| CopySpec {
        source,
        target,
        source_offset: DATA_OFFSET,
        target_offset: DATA_OFFSET,
        bytes: 4096,
    };
    for (who, context) in [("its own", me), ("the victim's", them), ("nobody's", nobody)] {
        println!("   in {who} name");
        let refused = |op, more, data: &[u8]| about(op, context, secret, more, data).is_err();
        expect("bind the secret", refused(Op::Bind, [0; 3], &[]));
        expect("delete it", refused(Op::Delete, [0; 3], &[]));
        expect("ask about it", refused(Op::Stat, [0; 3], &[]));
        expect("trim it", refused(Op::Resize, [DATA_OFFSET, 4096, 0], &[]));
        expect("name it", refused(Op::NameSet, [3, 0, 0], b"sec"));
        expect("tie something to it", refused(Op::Tie, [secret.lo, secret.hi, 0], &[]));
        // Where the others have the object, this call has the number of ranges.
        let created = |ranges, data: &[u8]| {
            about(Op::Create, context, ObjectId { lo: ranges, hi: 0 }, [0; 3], data).is_err()
        };
        expect("create a copy of it", created(0, create.as_bytes()));
        let range = CopyRange { source: secret, bytes: 4096, ..CopyRange::default() };
        let parts = [CreateSpec::default().as_bytes(), range.as_bytes()].concat();
        expect("create an object with a range of it", created(1, &parts));
        expect("have pages for it", refused(Op::Resize, [DATA_OFFSET, 4096, 1], &[]));
        let out = copy(secret, victim.mine);
        expect("copy from it", refused(Op::Copy, [0; 3], out.as_bytes()));
        let into = copy(victim.mine, secret);
        expect("copy over it", refused(Op::Copy, [0; 3], into.as_bytes()));
    }
    let forged = KeyPair::new(&[0x66; 32]).revoke_object(secret, 1);
    expect("a forged revocation", about(Op::Revoke, me, nobody, [0; 3], forged.as_bytes()).is_err());
    let private = victim.private;
    expect("enter a context without the right", about(Op::Enter, me, private, [0; 3], &[]).is_err());
    expect("enter it in the victim's name", about(Op::Enter, them, private, [0; 3], &[]).is_err());
    expect("ask for its gate", about(Op::Gate, me, private, [0; 3], &[]).is_err());

    // Numbers instead of names: bindings and contexts of others, tables where none may be.
    let access = u64::from(Rights::READ.bits());
    let touch =
        |binding: u64, table: u64| hypercall(Op::Touch as u32, &[binding, DATA_OFFSET, access, table], &[]);
    let mut answered = 0;
    for number in (0..16).flat_map(|context| (0..24).map(move |binding| context << 32 | binding)) {
        answered += u32::from(touch(number, hostile::SCRATCH).is_ok());
    }
    println!("   {answered} bindings by number are in this root");
    expect("touching by number works for what is bound here", answered > 0);
    expect("and shows nothing else", find(SECRET).1 == 0);
    let free = peek(BOOT_INFO_GPA + core::mem::offset_of!(BootInfo, free_start) as u64).unwrap_or_default();
    for (what, table) in [
        ("the kernel's text", KERNEL_GPA),
        ("a mailbox", MAILBOX_GPA),
        ("outside of RAM", 1 << 45),
        ("not a page", free + 8),
        ("the last page there is", u64::MAX - 0xfff),
    ] {
        println!("   a table in {what}");
        let refused = (0..64).all(|binding| touch(binding, table).is_err());
        expect("a table where none may be", refused);
    }
    let others = (0..64).filter(|&number| hypercall(Op::Hide as u32, &[number], &[]).is_ok()).count();
    expect("hiding by number works in this root only", others <= 1);
    let switched = (16..256).all(|number| hypercall(Op::Switch as u32, &[number], &[]).is_err());
    expect("switching to a context that nobody was let into", switched);
    let known = |op: u32| Op::ALL.iter().any(|known| *known as u32 == op);
    let refused =
        (0..256).filter(|op| !known(*op)).all(|op| hypercall(op, &[0; 8], &[]) == Err(ErrorCode::NoSuchCall));
    expect("operations that there are not", refused);
}

/// The same search from a context in the shared root, beside a second one there.
fn shared(world: &World) -> Result<(), ErrorCode> {
    let attacker = world.compartment(true, &[search_here::ENTRY])?;
    let neighbour: Compartment = world.compartment(true, &[victim::who::ENTRY])?;
    victim::who::call(neighbour.id)?;
    let board = volatile_object(world.owner.id())?;
    Mapped::of(board)?.set_word(DATA_OFFSET, READABLE);
    attacker.hand_over(&world.owner.grant(&Grant::new(board, attacker.id, Rights::READ)))?;
    let address = attacker.map(FREE_SLOT, board);
    let allowed = search_here::call(attacker.id, READABLE, address)?;
    expect("what is granted is found there (the search works)", allowed == 1);
    let secret = search_here::call(attacker.id, SECRET, address)?;
    expect("the secret is not in the shared root", secret == 0);
    Ok(())
}

/// In a shared context: how many pages of the root hold the word, after the one at `address` was made present.
#[gate(number = 0)]
fn search_here(word: u64, address: u64) -> u64 {
    let _ = Mapped(address as *mut u8).word(DATA_OFFSET);
    find(word).1
}
