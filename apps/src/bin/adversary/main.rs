//! Tries to get what nobody granted. Each attempt says what it tried and whether the system held; the exit status is 1 if one succeeded.
//!
//! Every attack has a counterpart that must work, so that a system which refuses everything fails too.
#![no_std]
#![no_main]

extern crate alloc;

mod callee;
mod life;
mod order;
mod part;

use apps::compartment::{Compartment, World};
use apps::context_object::{ContextObject, NewContext};
use apps::mapped::{BOTH, Mapped, volatile_object as object};
use callee::{CALL, EXIT, LOAD, STORE};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use sec::{GateSet, Grant, KeyPair, Validity};
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::program::FREE_SLOT;
use twz_rt::abi::sec::RawCap;
use twz_rt::abi::syscall::create_flags;
use twz_rt::abi::thread::ThreadSpec;
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::context::{self, gate_call};
use twz_rt::{Args, println, syscall};

twz_rt::entry!(main);

const SECRET: u64 = 0x5ec2_e75e_c2e7;

/// Attempts so far, and those that succeeded though they must not (or failed though they must not).
static TRIED: AtomicU32 = AtomicU32::new(0);
static BROKEN: AtomicU32 = AtomicU32::new(0);

/// Notes the outcome of one attempt.
fn expect(what: &str, held: bool) {
    TRIED.fetch_add(1, Ordering::Relaxed);
    if !held {
        BROKEN.fetch_add(1, Ordering::Relaxed);
    }
    println!("{}: {what}", if held { "held" } else { "BROKEN" });
}

fn main(mut args: Args) -> Result<u8, ErrorCode> {
    let contexts = args.nth(1).and_then(|count| count.parse().ok()).unwrap_or(24);
    let world = World::new()?;
    for shared in [false, true] {
        println!("-- callees with placement {}", if shared { "shared" } else { "own" });
        capabilities(&world, shared)?;
        part::delegation(&world, shared)?;
        order::orders(&world, shared)?;
        gates(&world, shared)?;
        entering(&world, shared)?;
        revoking(&world, shared)?;
        life::life(&world, shared)?;
    }
    many(&world, contexts)?;
    let (tried, broken) = (TRIED.load(Ordering::Relaxed), BROKEN.load(Ordering::Relaxed));
    println!("adversary: {tried} attempts, {} held, {broken} broken", tried - broken);
    Ok(u8::from(broken != 0))
}

/// An object of the owner's that holds [`SECRET`].
fn secret(world: &World) -> Result<(ObjectId, Mapped), ErrorCode> {
    let id = object(world.owner.id())?;
    let mapped = Mapped::of(id)?;
    mapped.write(DATA_OFFSET, &SECRET.to_le_bytes());
    Ok((id, mapped))
}

/// What the callee gets when it loads from `object`, mapped in a slot of its own.
fn load(callee: &Compartment, slot: u64, object: ObjectId) -> Result<u64, ErrorCode> {
    let address = callee.map(slot, object) + DATA_OFFSET;
    gate_call(callee.id, 0, [LOAD, address, 0]).map(|(value, _)| value)
}

fn is_refused(result: Result<u64, ErrorCode>) -> bool {
    result == Err(ErrorCode::CalleeFailed)
}

fn capabilities(world: &World, shared: bool) -> Result<(), ErrorCode> {
    let callee = world.compartment(shared, &[callee::probe])?;
    let stranger = KeyPair::new(&[0x66; 32]);
    context::key_create(&stranger.public_object())?;
    let mut slot = FREE_SLOT;
    // Tries one capability, made by `make` for a fresh object, and says what loading gave.
    let mut attempt = |make: &dyn Fn(Grant) -> RawCap| -> Result<Result<u64, ErrorCode>, ErrorCode> {
        let (target, _) = secret(world)?;
        callee.hand_over(&make(Grant::new(target, callee.id, Rights::READ)))?;
        slot += 1;
        Ok(load(&callee, slot, target))
    };
    let owner = &world.owner;
    let until = |from, until| Validity { from, until };
    let now = syscall::clock()?.1;
    expect("a valid capability works", attempt(&|grant| owner.grant(&grant))? == Ok(SECRET));
    let valid = |grant: Grant| Grant { validity: until(now / 2, u64::MAX - 1), ..grant };
    expect("one valid for now works", attempt(&|grant| owner.grant(&valid(grant)))? == Ok(SECRET));
    let forged = |grant: Grant| RawCap { signature: [0x5a; 64], ..owner.grant(&grant) };
    expect("forged signature", is_refused(attempt(&forged)?));
    let altered = |grant: Grant| RawCap { serial: 1, ..owner.grant(&grant) };
    expect("altered after signing", is_refused(attempt(&altered)?));
    let wrong_key = |grant: Grant| stranger.grant(&grant);
    expect("signed by a wrong key", is_refused(attempt(&wrong_key)?));
    let named = |grant: Grant| RawCap { signer: owner.id(), ..stranger.grant(&grant) };
    expect("signed by a wrong key that names the right one", is_refused(attempt(&named)?));
    let expired = |grant: Grant| owner.grant(&Grant { validity: until(0, now), ..grant });
    expect("expired", is_refused(attempt(&expired)?));
    let early = |grant: Grant| owner.grant(&Grant { validity: until(u64::MAX - 2, u64::MAX - 1), ..grant });
    expect("not yet valid", is_refused(attempt(&early)?));
    let accessor = |grant: Grant| owner.grant(&Grant { accessor: world.me, ..grant });
    expect("for another context", is_refused(attempt(&accessor)?));
    let (other, _) = secret(world)?;
    let target =
        |grant: Grant| RawCap { target: grant.target, ..owner.grant(&Grant { target: other, ..grant }) };
    expect("for another object, relabelled", is_refused(attempt(&target)?));
    let future = |grant: Grant| owner.grant(&Grant { epoch: 1, ..grant });
    expect("of an epoch that has not come", is_refused(attempt(&future)?));
    let stolen = |grant: Grant| RawCap { parent: [7; 32], ..owner.grant(&grant) };
    expect("part of a capability that is not there", is_refused(attempt(&stolen)?));

    // A view entry that asks for more than is granted, each right in turn.
    let (target, _) = secret(world)?;
    callee.hand_over(&owner.grant(&Grant::new(target, callee.id, Rights::READ)))?;
    slot += 1;
    let address = callee.map(slot, target) + DATA_OFFSET;
    let touch = |what| gate_call(callee.id, 0, [what, address, 0xc3]).map(|(value, _)| value);
    expect("asking for all, reading what may be read works", touch(LOAD) == Ok(SECRET));
    expect("asking for all, writing what may be read", is_refused(touch(STORE)));
    expect("asking for all, executing what may be read", is_refused(touch(CALL)));
    expect("reading still works", touch(LOAD) == Ok(SECRET));
    // The same after a right was added: late binding the other way.
    callee.hand_over(&owner.grant(&Grant::new(target, callee.id, BOTH)))?;
    let touch = |what| gate_call(callee.id, 0, [what, address, 0xc3]).map(|(value, _)| value);
    expect("writing works once it is granted", touch(STORE) == Ok(0) && touch(LOAD) == Ok(0xc3));
    callee.hand_over(&owner.grant(&Grant::new(target, callee.id, Rights::READ | Rights::EXEC)))?;
    let touch = |what| gate_call(callee.id, 0, [what, address, 0xc3]).map(|(value, _)| value);
    expect("executing works once it is granted", touch(CALL) == Ok(0));

    // No capability at all, and bytes in the object itself that claim other rights.
    let (target, mapped) = secret(world)?;
    mapped.write((1 << 30) - 0x1000, &[0xff; 256]);
    slot += 1;
    expect("metadata edited after creation", is_refused(load(&callee, slot, target)));
    Ok(())
}

fn gates(world: &World, shared: bool) -> Result<(), ErrorCode> {
    let entries = [callee::probe, callee::who, callee::leftovers, callee::nest, callee::meddle];
    let callee = world.compartment(shared, &entries)?;
    let me = world.me;
    let liar = callee.id;
    let who = gate_call(callee.id, 1, [liar.lo, liar.hi, 0])?;
    expect("the callee learns who calls, whatever the caller says", who == (me.lo, me.hi));
    expect("a gate that is not there", gate_call(callee.id, 5, [0; 3]) == Err(ErrorCode::BadContext));
    let huge = gate_call(callee.id, u32::MAX, [0; 3]);
    expect("a gate number beyond all", huge == Err(ErrorCode::BadContext));
    let none = gate_call(ObjectId { lo: 1, hi: 2 }, 0, [0; 3]);
    expect("a gate of nothing", none == Err(ErrorCode::NoObject));
    let (plain, _) = secret(world)?;
    expect(
        "a gate of an object that is no context",
        gate_call(plain, 0, [0; 3]) == Err(ErrorCode::BadContext),
    );

    let refused = ErrorCode::NotPermitted as u64;
    let changed = gate_call(callee.id, 4, [0; 3])?;
    expect("the callee changes its caller's thread for good", changed == (refused, refused));

    let private = AtomicU64::new(SECRET);
    let stolen = gate_call(callee.id, 0, [LOAD, (&raw const private) as u64, 0]);
    let own = callee.stacks.word(DATA_OFFSET);
    expect("the callee reads a pointer with its own rights, not the caller's", stolen != Ok((SECRET, 0)));
    expect(
        "a callee that faults fails its call only",
        own == 0 && is_refused(load(&callee, FREE_SLOT, plain)),
    );
    expect(
        "a callee that ends its thread ends its call only",
        gate_call(callee.id, 0, [EXIT, 0, 0]) == Err(ErrorCode::CalleeFailed),
    );
    expect(
        "every stack is free again",
        (0..8).all(|_| gate_call(callee.id, 1, [0; 3]) == Ok((me.lo, me.hi))),
    );
    expect("no register of the caller's reaches the callee", scrubbed(callee.id));
    let from = world.compartment(shared, &[])?;
    from.hand_over(&world.owner.grant(&Grant::new(callee.id, from.id, Rights::USE)))?;
    let clean = intrude(world, &from, FREE_SLOT, callee.id, careful)?;
    expect("nor from a context of the same placement, the second time neither", clean == [1, 1, 0]);
    let nested = gate_call(callee.id, 3, [callee.id.lo, callee.id.hi, 64]);
    let busy = (ErrorCode::NotPermitted as u64, 1);
    expect("a callee without the right to its own gates cannot nest", nested == Ok(busy));
    let returned = context::gate_call(callee.id, 1, [0; 3]).is_ok();
    expect("the gate still works", returned);
    Ok(())
}

/// Fills vector registers, calls gate 2, and checks that it saw nothing and that ours are as before.
fn scrubbed(callee: ObjectId) -> bool {
    let (status, first, second, kept): (u64, u64, u64, u64);
    // SAFETY: a system call without pointers, between instructions on registers that are declared.
    unsafe {
        core::arch::asm!(
            "movq xmm15, {pattern}",
            "movq xmm0, {pattern}",
            "syscall",
            "movq {kept}, xmm15",
            pattern = in(reg) SECRET,
            kept = out(reg) kept,
            inlateout("rax") twz_rt::abi::syscall::Syscall::GateCall as u64 => status,
            in("rdi") callee.lo,
            in("rsi") callee.hi,
            inlateout("rdx") 2_u64 => first,
            in("r10") SECRET,
            inlateout("r8") SECRET => second,
            in("r9") SECRET,
            out("rcx") _,
            out("r11") _,
            out("xmm0") _,
            out("xmm15") _,
            options(nostack),
        );
    }
    status == 0 && first == 0 && second == 0 && kept == SECRET
}

/// Where threads in other contexts say how it went.
const SAID: u64 = DATA_OFFSET + 64;

/// First code of a thread in another context: [`scrubbed`], twice. With placement `shared` it stays in one root, and the second time the
/// kernel knows the gate: its shortest way.
extern "C" fn careful(argument: u64) -> ! {
    let board = Mapped(argument as *mut u8);
    let target = ObjectId { lo: board.word(DATA_OFFSET), hi: board.word(DATA_OFFSET + 8) };
    for (at, word) in [scrubbed(target).into(), scrubbed(target).into(), 0, 1].into_iter().enumerate() {
        board.set_word(SAID + at as u64 * 8, word);
    }
    syscall::thread_exit(0)
}

/// First code of a thread in another context: tries to get into `target`, whose ID stands at the start of the object at `argument`.
extern "C" fn intruder(argument: u64) -> ! {
    let words = (argument + DATA_OFFSET) as *const u64;
    // SAFETY: the creator mapped an object there and gave this context the right to it.
    let lo = unsafe { words.read_volatile() };
    // SAFETY: as above.
    let hi = unsafe { words.wrapping_add(1).read_volatile() };
    let target = ObjectId { lo, hi };
    let code = |result: Result<(), ErrorCode>| result.map_or_else(|error| error as u64, |()| 0);
    let attach = code(context::attach(target).map(drop));
    let activate = code(context::activate(target));
    let call = code(gate_call(target, 0, [EXIT, 0, 0]).map(drop));
    let said = (argument + SAID) as *mut u64;
    for (at, word) in [attach, activate, call, 1].into_iter().enumerate() {
        // SAFETY: as above.
        unsafe { said.wrapping_add(at).write_volatile(word) };
    }
    syscall::thread_exit(0)
}

/// Runs `entry` in `callee` against `target`; returns what it said, [`intruder`] for instance what attach, activate and call said.
fn intrude(
    world: &World,
    callee: &Compartment,
    slot: u64,
    target: ObjectId,
    entry: extern "C" fn(u64) -> !,
) -> Result<[u64; 3], ErrorCode> {
    let board = object(world.owner.id())?;
    let mapped = Mapped::of(board)?;
    mapped.write(DATA_OFFSET, &target.lo.to_le_bytes());
    mapped.write(DATA_OFFSET + 8, &target.hi.to_le_bytes());
    callee.hand_over(&world.owner.grant(&Grant::new(board, callee.id, BOTH)))?;
    let address = callee.map(slot, board);
    callee.start(entry, address)?;
    while mapped.word(SAID + 24) == 0 {
        syscall::thread_yield();
    }
    Ok([mapped.word(SAID), mapped.word(SAID + 8), mapped.word(SAID + 16)])
}

fn entering(world: &World, shared: bool) -> Result<(), ErrorCode> {
    let refused = ErrorCode::NotPermitted as u64;
    let from = world.compartment(shared, &[callee::probe])?;
    let into = world.compartment(shared, &[callee::probe])?;
    let said = intrude(world, &from, FREE_SLOT, into.id, intruder)?;
    expect("attaching without the right", said[0] == refused);
    expect("switching to a context that is not attached", said[1] == refused);
    expect("calling a gate without the right", said[2] == refused);

    let one = GateSet::one(1).ok_or(ErrorCode::BadArgument)?;
    let grant = Grant { gates: one, ..Grant::new(into.id, from.id, Rights::empty()) };
    from.hand_over(&world.owner.grant(&grant))?;
    let said = intrude(world, &from, FREE_SLOT + 1, into.id, intruder)?;
    expect("calling another gate than the capability opens", said[2] == refused);
    let zero = GateSet::one(0).ok_or(ErrorCode::BadArgument)?;
    let grant = Grant { gates: zero, ..Grant::new(into.id, from.id, Rights::empty()) };
    from.hand_over(&world.owner.grant(&grant))?;
    let said = intrude(world, &from, FREE_SLOT + 2, into.id, intruder)?;
    expect("the right to a gate is no right to attach", said[0] == refused && said[1] == refused);
    expect("calling the gate that it opens works", said[2] == ErrorCode::CalleeFailed as u64);
    // The kernel knows by now that it may.
    context::revoke(&world.owner.revoke_object(into.id, 1), None)?;
    let said = intrude(world, &from, FREE_SLOT + 3, into.id, intruder)?;
    expect("calling it once the capability was revoked", said[2] == refused);
    expect("switching to a context that is in use, but not attached", said[1] == refused);

    // Starting a thread in it is entering it.
    let from_spawner = |slot, into: &Compartment| intrude(world, &from, slot, into.id, spawner);
    let said = from_spawner(FREE_SLOT + 4, &into)?;
    expect("starting a thread in a context without the right", said[0] == refused);
    let open = world.compartment(shared, &[])?;
    from.hand_over(&world.owner.grant(&Grant::new(open.id, from.id, Rights::USE)))?;
    open.hand_over(&world.owner.grant(&Grant::new(from.view_id, open.id, Rights::READ)))?;
    let said = from_spawner(FREE_SLOT + 5, &open)?;
    expect("starting one with the right works", said[0] == 0);

    for (what, context) in
        [("that does not exist", ObjectId { lo: 3, hi: 4 }), ("that is no context", from.view_id)]
    {
        let spec = ThreadSpec { context, entry: 0x4000_2000, stack: 0x4000_2000, ..ThreadSpec::default() };
        // SAFETY: no thread comes to be; if one did, it would be ended by its first fault.
        let spawned = unsafe { syscall::thread_spawn(&spec) };
        println!("   a thread in a context {what}: {spawned:?}");
        expect("no thread without a context", spawned.is_err());
    }
    undetachable(world, shared)?;
    context::attach(into.id)?;
    expect("attaching with the right works, and detaching", context::detach(into.id).is_ok());
    expect(
        "a detached context cannot be switched to",
        context::activate(into.id) == Err(ErrorCode::NotPermitted),
    );
    Ok(())
}

/// A context that a thread keeps once it has attached it.
fn undetachable(world: &World, shared: bool) -> Result<(), ErrorCode> {
    let new = NewContext {
        key: world.owner.id(),
        flags: create_flags::VOLATILE,
        undetachable: true,
        shared,
        slots: 16,
    };
    let id = ContextObject::create(&new)?.id;
    context::attach(id)?;
    expect("detaching an undetachable context", context::detach(id) == Err(ErrorCode::NotPermitted));
    let other = ContextObject::create(&NewContext { undetachable: false, ..new })?.id;
    context::attach(other)?;
    expect("detaching another one works", context::detach(other).is_ok());
    Ok(())
}

/// First code of a thread in another context: starts a thread in `target`, which ends with its first instruction.
extern "C" fn spawner(argument: u64) -> ! {
    let board = Mapped(argument as *mut u8);
    let target = ObjectId { lo: board.word(DATA_OFFSET), hi: board.word(DATA_OFFSET + 8) };
    let spec = ThreadSpec { context: target, entry: 0x1000, stack: 0x1000, ..ThreadSpec::default() };
    // SAFETY: it faults with its first instruction.
    let spawned = unsafe { syscall::thread_spawn(&spec) };
    board.set_word(SAID, spawned.map_or_else(|error| error as u64, |_| 0));
    board.set_word(SAID + 24, 1);
    syscall::thread_exit(0)
}

/// A thread that reads a word for ever and says what it saw last.
extern "C" fn reader(argument: u64) -> ! {
    let said = (argument + SAID) as *mut u64;
    let word = (argument + SLOT_SIZE + DATA_OFFSET) as *const u64;
    loop {
        // SAFETY: both slots map objects of the creator's; the first was granted, the second until it is revoked.
        let seen = unsafe { word.read_volatile() };
        // SAFETY: as above.
        unsafe { said.write_volatile(seen) };
    }
}

fn revoking(world: &World, shared: bool) -> Result<(), ErrorCode> {
    let owner = &world.owner;
    let callee = world.compartment(shared, &[callee::probe])?;
    // 1. While a thread on another hart (or between our turns) reads.
    let (board, target) = (secret(world)?, secret(world)?);
    let old = owner.grant(&Grant::new(target.0, callee.id, BOTH));
    for capability in [owner.grant(&Grant::new(board.0, callee.id, BOTH)), old] {
        callee.hand_over(&capability)?;
    }
    let address = callee.map(FREE_SLOT, board.0);
    callee.map(FREE_SLOT + 1, target.0);
    callee.start(reader, address)?;
    while board.1.word(SAID) != SECRET {
        syscall::thread_yield();
    }
    context::revoke(&owner.revoke_object(target.0, 1), None)?;
    target.1.write(DATA_OFFSET, &1_u64.to_le_bytes());
    for _ in 0..300 {
        syscall::thread_yield();
    }
    expect("no access after a revocation has returned, on any hart", board.1.word(SAID) == SECRET);
    // 2. What was revoked stays so.
    expect("a call finds it gone", is_refused(load(&callee, FREE_SLOT + 2, target.0)));
    callee.hand_over(&old)?;
    expect("replayed after the revocation", is_refused(load(&callee, FREE_SLOT + 3, target.0)));
    let again = context::revoke(&owner.revoke_object(target.0, 1), None);
    expect("a revocation sent again", again == Err(ErrorCode::NotPermitted));
    let stranger = KeyPair::new(&[0x66; 32]);
    let foreign = context::revoke(&stranger.revoke_object(board.0, 1), None);
    expect("a revocation by a wrong key", foreign == Err(ErrorCode::NotPermitted));
    expect("which took nothing away", load(&callee, FREE_SLOT + 4, board.0).is_ok());
    callee.hand_over(&owner.grant(&Grant { epoch: 1, ..Grant::new(target.0, callee.id, BOTH) }))?;
    expect("a capability of the new epoch works", load(&callee, FREE_SLOT + 5, target.0) == Ok(1));
    // 3. One capability, and a whole context.
    let (third, _) = secret(world)?;
    let single = owner.grant(&Grant::new(third, callee.id, BOTH));
    callee.hand_over(&single)?;
    let before = load(&callee, FREE_SLOT + 6, third);
    context::revoke(&owner.revoke_capability(&single), None)?;
    expect(
        "one capability, revoked",
        before == Ok(SECRET) && is_refused(load(&callee, FREE_SLOT + 7, third)),
    );
    context::revoke(&owner.revoke_context(callee.id), None)?;
    let after = load(&callee, FREE_SLOT + 8, board.0);
    println!("   a gate of a revoked context: {after:?}");
    expect("a context, revoked", after.is_err());
    Ok(())
}

/// Contexts beyond what has tables at a time.
fn many(world: &World, count: u32) -> Result<(), ErrorCode> {
    let mut good = 0;
    for number in 0..count {
        let callee = world.compartment(number % 2 == 0, &[callee::who])?;
        good += u32::from(gate_call(callee.id, 0, [0; 3]) == Ok((world.me.lo, world.me.hi)));
    }
    println!("   {good} of {count} contexts were called");
    expect("many contexts", good == count);
    Ok(())
}
