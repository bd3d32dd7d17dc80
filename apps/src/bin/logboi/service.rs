//! The service: gates that other contexts' threads run through, and a thread that takes what was sent.
//!
//! # Contract
//! - The log's object was created by this context, has no default rights and no key: nobody else can ever be granted any right to it.
//! - Clients' words are claims. A client is known by the context that the kernel says it called from, and its number only finds the entry.
//! - Clients' memory may vanish or change at any time: it is read by [`probe`], copied once, before the log is locked. So no client's
//!   crash or malice keeps the lock, or ends the service's thread.
//! - Its thread is resumable: once started, the service is there at every start of the machine. Everything but the log's object is of one
//!   life: each start begins with no client, and refuses calls until the service is ready.

use crate::clock::Clock;
use apps::context_object::ContextObject;
use apps::logger::{self, ENTRIES, ENTRY_HEAD, MESSAGE, RECORD_HEAD, SLOT_BYTES, SLOTS, gates};
use apps::mapped::{BOTH, Mapped, volatile_object};
use apps::probe;
use apps::record_log::{RecordLog, TEXT_MAX};
use core::sync::atomic::{AtomicU32, Ordering, fence};
use pmem::Native;
use sec::{Grant, KeyPair, ObjectBytes};
use twz_rt::abi::fault::FaultFrame;
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::program::{FREE_SLOT, TEXT_SLOT, VIEW_SLOT};
use twz_rt::abi::sec::{GateEntry, gate_flags};
use twz_rt::abi::sync::SyncOp;
use twz_rt::abi::syscall::CreateSpec;
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::context::{self, GateFn, entry_offset, gate_return};
use twz_rt::sync::{self, Lock};
use twz_rt::view::{self, View};
use twz_rt::{fault, resume, slots, syscall};
use zerocopy::IntoBytes;

/// Name of the log's object, for people: the service finds it by [`ROOT`].
pub(crate) const LOG_NAME: &str = "log/logboi";
/// Bytes of the log.
const LOG_BYTES: u64 = 1 << 20;
/// In the log's object: the secret of the service's key, then the log.
const SECRET: u64 = DATA_OFFSET;
const RECORDS: u64 = DATA_OFFSET + 0x1000;
/// In the context's object, behind everything that is the monitor's: "here is the log", and its ID.
const ROOT: u64 = 1 << 29;
const ROOT_MAGIC: u64 = u64::from_le_bytes(*b"TWZLOGB1");
/// Slot of the gates' stacks.
const STACKS_SLOT: u64 = FREE_SLOT - 1;
const STACKS: u32 = 16;
const STACK_BYTES: u32 = 0x1_0000;
/// Clients at a time: a sleep can wait for one word each.
const CLIENTS: usize = 60;
/// Slots in which objects of a former life may be mapped: the lowest free one is taken, and fewer than these are ever in use.
const FORMER_SLOTS: u64 = 256;
/// How long the thread sleeps when it cannot sleep on its clients' words.
const PAUSE_NANOSECONDS: u64 = 10_000_000;

/// A client: its context, and where its object is mapped here.
#[derive(Clone, Copy)]
struct Client {
    context: ObjectId,
    shared: ObjectId,
    base: u64,
    /// Records of its stream that were taken.
    taken: u32,
}

struct State {
    log: RecordLog<Native>,
    clients: [Option<Client>; CLIENTS],
    key: KeyPair,
    me: ContextObject,
    clock: Clock,
}

impl State {
    /// Frees the entry of a client whose object was deleted: it ended without a word.
    fn forget_one_that_is_gone(&mut self) -> Option<usize> {
        let is_gone = |client: &Client| syscall::object_stat(client.shared).is_err();
        let gone = self.clients.iter().position(|client| client.as_ref().is_some_and(is_gone))?;
        let client = self.clients[gone].take()?;
        // SAFETY: accesses to the slot are probes, which may fail.
        unsafe { view::unmap(client.base / SLOT_SIZE) }.ok()?;
        Some(gone)
    }
}

static STATE: Lock<Option<State>> = Lock::new(None);
/// Raised when a client comes or goes, for the thread to look again.
static CHANGES: AtomicU32 = AtomicU32::new(0);

/// Gates in the order of their numbers.
const GATES: [GateFn; gates::COUNT as usize] = [key, connect, log, flush, disconnect, read];

/// Sets the service up in this context and view, for this life or for all that follow, and serves streams for ever.
///
/// # Errors
/// What making or opening its objects says.
pub(crate) fn serve(is_resumed: bool) -> Result<u8, ErrorCode> {
    // SAFETY: the handler takes no lock, and changes frames of probes only.
    unsafe { fault::set_handler(on_fault) };
    if is_resumed {
        // What former clients shared; they are gone.
        (slots::FIRST..slots::FIRST + FORMER_SLOTS).for_each(|slot| View::current().clear(slot));
    }
    let me = ContextObject::open(context::current()?, BOTH)?;
    let object = log_object(&me)?;
    let bytes = Mapped::of(object)?;
    let key = service_key(bytes)?;
    context::key_create(&key.public_object())?;
    let at = |offset: u64| bytes.0.wrapping_add(usize::try_from(offset).unwrap_or_default());
    // SAFETY: the slot maps the log's object, which has room for it, for good; nothing refers to its memory.
    let memory = unsafe { Native::new(at(RECORDS), LOG_BYTES) };
    let log = RecordLog::open(memory).map_err(|_| ErrorCode::BadArgument)?;
    *STATE.lock() = Some(State { log, clients: [None; CLIENTS], key, me, clock: Clock::calibrate()? });
    // From here on calls are served.
    let stacks = volatile_object(ObjectId::NULL)?;
    let _ = View::current().map(STACKS_SLOT, stacks, BOTH);
    let slot = |slot| View::current().get(slot).map(|(id, _)| id).ok_or(ErrorCode::NoObject);
    let (code, view) = (slot(TEXT_SLOT)?, slot(VIEW_SLOT)?);
    for (number, gate) in (0..).zip(GATES) {
        let entry = entry_offset(gate).ok_or(ErrorCode::BadOffset)?;
        let entry = GateEntry {
            flags: gate_flags::VALID,
            entry,
            code,
            view,
            stacks,
            stack_bytes: STACK_BYTES,
            stack_count: STACKS,
        };
        me.set_gate(number, &entry)?;
    }
    if is_resumed {
        resume::confirm()?;
    } else {
        resume::set(crate::_resume, object, 0)?;
    }
    loop {
        take_streams();
    }
}

fn on_fault(frame: &mut FaultFrame) {
    if !probe::recover(frame) {
        // In a gate this ends the call, not the caller.
        syscall::thread_exit(u8::try_from(128 + frame.info.cause).unwrap_or(u8::MAX));
    }
}

/// The log's object; made when the service runs for the first time.
fn log_object(me: &ContextObject) -> Result<ObjectId, ErrorCode> {
    if me.bytes.word(ROOT) == ROOT_MAGIC {
        return Ok(ObjectId { lo: me.bytes.word(ROOT + 8), hi: me.bytes.word(ROOT + 16) });
    }
    let object = syscall::object_create(&CreateSpec::default())?;
    let mut seed = [0; 32];
    syscall::random(&mut seed)?;
    Mapped::of(object)?.write_durably(SECRET, &seed);
    me.bytes.write_durably(ROOT, [ROOT_MAGIC, object.lo, object.hi].as_bytes()); // commit point
    syscall::name_set(object, LOG_NAME)?;
    Ok(object)
}

fn service_key(log: Mapped) -> Result<KeyPair, ErrorCode> {
    let mut seed = [0; 32];
    log.read(SECRET, &mut seed);
    if seed == [0; 32] { Err(ErrorCode::BadArgument) } else { Ok(KeyPair::new(&seed)) }
}

/// Takes what was sent, then sleeps until more is.
fn take_streams() {
    let changes = CHANGES.load(Ordering::Acquire);
    let mut words = [SyncOp::default(); CLIENTS + 1];
    words[0] = sync::sleep_op(&CHANGES, changes);
    let mut count = 1;
    for number in 0..CLIENTS {
        let found = |state: &State| state.clients[number];
        let Some(client) = STATE.lock().as_ref().and_then(found) else { continue };
        let say_sleeps = |sleeps| {
            // SAFETY: the client's object is the client's and ours, and nothing else stands in the word's line.
            let _ = unsafe { probe::store(client.base + logger::SLEEPS, sleeps) };
            fence(Ordering::SeqCst);
        };
        // While we look, no client needs to wake us. Then "sleeps" is said before the last look: who sends after it wakes us.
        say_sleeps(0);
        let _ = take_stream(number as u64, client.context);
        say_sleeps(1);
        if let Ok(taken) = take_stream(number as u64, client.context) {
            let (address, value) = (client.base + logger::SENT, u64::from(taken));
            let like = sync::sleep_op(&CHANGES, 0);
            words[count] = SyncOp { address, value, ..like };
            count += 1;
        }
    }
    match syscall::thread_sync(&words[..count], sync::FOREVER) {
        Ok(_) | Err(ErrorCode::WouldBlock) => {}
        // A client's memory is gone, and with it a word: those that are there are looked at again after a while.
        Err(_) => drop(sync::wait(&CHANGES, changes, PAUSE_NANOSECONDS)),
    }
}

/// Takes everything that a client sent so far; returns how many it has sent in all.
fn take_stream(number: u64, caller: ObjectId) -> Result<u32, ErrorCode> {
    loop {
        let base = client(number, caller)?.base;
        let sent = low(probe_word(base + logger::SENT)?);
        // 1. One record, out of the client's memory.
        let taken = client(number, caller)?.taken;
        if sent == taken {
            return Ok(sent);
        }
        let entry = base + ENTRIES + u64::from(taken % SLOTS) * SLOT_BYTES;
        let head = probe_word(entry)?;
        let mut text = [0; TEXT_MAX];
        let text = copy(entry + ENTRY_HEAD, head & 0xffff_ffff, &mut text)?;
        // 2. Into the log, unless another thread took it meanwhile.
        let mut state = STATE.lock();
        let state = state.as_mut().ok_or(ErrorCode::Busy)?;
        let time = state.clock.now();
        let Some(client) = state.clients.get_mut(index(number)).and_then(Option::as_mut) else {
            return Err(ErrorCode::NotPermitted);
        };
        if client.context != caller || client.base != base {
            return Err(ErrorCode::NotPermitted);
        }
        if client.taken == taken {
            // A client that claims to have sent more than fits has lost the difference.
            let waiting = sent.wrapping_sub(taken);
            client.taken = if waiting > SLOTS { sent } else { taken.wrapping_add(1) };
            let now = u64::from(client.taken);
            state.log.append(low(head >> 32), time, caller, text).map_err(|_| ErrorCode::Medium)?;
            // SAFETY: as in `take_streams`.
            let _ = unsafe { probe::store(base + logger::TAKEN, now) };
            // A client that waits for room. The kernel checks the address.
            let wake = SyncOp { address: base + logger::TAKEN, ..sync::wake_op(&CHANGES, 1) };
            let _ = syscall::thread_sync(&[wake], 0);
        }
    }
}

/// Copies `length` bytes of a client's text.
fn copy(from: u64, length: u64, into: &mut [u8; TEXT_MAX]) -> Result<&[u8], ErrorCode> {
    let length = usize::try_from(length).ok().filter(|&length| length <= TEXT_MAX);
    let text = &mut into[..length.ok_or(ErrorCode::BadArgument)?];
    for (at, piece) in (from..).step_by(8).zip(text.chunks_mut(8)) {
        let word = probe_word(at)?.to_le_bytes();
        piece.copy_from_slice(&word[..piece.len()]);
    }
    Ok(text)
}

fn probe_word(address: u64) -> Result<u64, ErrorCode> {
    probe::load(address).map_err(|_| ErrorCode::BadAddress)
}

#[allow(clippy::cast_possible_truncation, reason = "the low half is meant")]
const fn low(word: u64) -> u32 {
    word as u32
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The client of this number, if it is the caller's.
fn client(number: u64, caller: ObjectId) -> Result<Client, ErrorCode> {
    let state = STATE.lock();
    let clients = &state.as_ref().ok_or(ErrorCode::Busy)?.clients;
    let found = clients.get(index(number)).copied().flatten();
    found.filter(|client| client.context == caller).ok_or(ErrorCode::NotPermitted)
}

fn answer(result: Result<u64, ErrorCode>) -> ! {
    match result {
        Ok(value) => gate_return(0, value),
        Err(error) => gate_return(error as u64, 0),
    }
}

extern "C" fn key(_: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> ! {
    let id = STATE.lock().as_ref().map(|state| state.key.id());
    // A statement of its own: what does not return releases no lock.
    let id = id.unwrap_or(ObjectId::NULL);
    gate_return(id.lo, id.hi)
}

extern "C" fn connect(lo: u64, hi: u64, _: u64, caller_lo: u64, caller_hi: u64, _: u64) -> ! {
    answer(connected(ObjectId { lo, hi }, ObjectId { lo: caller_lo, hi: caller_hi }))
}

fn connected(shared: ObjectId, caller: ObjectId) -> Result<u64, ErrorCode> {
    // Not somebody else's: a client may share only what it may itself read and write.
    if !context::caller_rights(shared)?.contains(BOTH) {
        return Err(ErrorCode::NotPermitted);
    }
    let mut locked = STATE.lock();
    let state = locked.as_mut().ok_or(ErrorCode::Busy)?;
    let free = state.clients.iter().position(Option::is_none).or_else(|| state.forget_one_that_is_gone());
    let free = free.ok_or(ErrorCode::Busy)?;
    let capability = state.key.grant(&Grant::new(shared, state.me.id, BOTH));
    state.me.add_replacing_dead(&capability)?;
    // An object of another key gives us nothing by our signature.
    if !syscall::object_stat(shared)?.granted().contains(BOTH) {
        return Err(ErrorCode::NotPermitted);
    }
    let base = view::map_anywhere(shared, Rights::READ | Rights::WRITE).ok_or(ErrorCode::NoMemory)? as u64;
    state.clients[free] = Some(Client { context: caller, shared, base, taken: 0 });
    drop(locked);
    changed();
    Ok(free as u64)
}

/// Has the thread look at the clients again.
fn changed() {
    CHANGES.fetch_add(1, Ordering::Release);
    // The word is in our own data.
    let _ = sync::wake(&CHANGES, 1);
}

extern "C" fn log(number: u64, length: u64, level: u64, lo: u64, hi: u64, _: u64) -> ! {
    answer(logged(number, length, low(level), ObjectId { lo, hi }))
}

fn logged(number: u64, length: u64, level: u32, caller: ObjectId) -> Result<u64, ErrorCode> {
    let base = client(number, caller)?.base;
    let mut text = [0; TEXT_MAX];
    let text = copy(base + MESSAGE, length, &mut text)?;
    let mut state = STATE.lock();
    let state = state.as_mut().ok_or(ErrorCode::Busy)?;
    let time = state.clock.now();
    state.log.append(level, time, caller, text).map_err(|_| ErrorCode::Medium).map(|()| 0)
}

extern "C" fn flush(number: u64, _: u64, _: u64, lo: u64, hi: u64, _: u64) -> ! {
    answer(take_stream(number, ObjectId { lo, hi }).map(|_| 0))
}

extern "C" fn disconnect(number: u64, _: u64, _: u64, lo: u64, hi: u64, _: u64) -> ! {
    answer(disconnected(number, ObjectId { lo, hi }))
}

fn disconnected(number: u64, caller: ObjectId) -> Result<u64, ErrorCode> {
    // What was sent is not lost; whether it could be taken does not matter to who leaves.
    let _ = take_stream(number, caller);
    let gone = client(number, caller)?;
    if let Some(state) = STATE.lock().as_mut() {
        state.clients[index(number)] = None;
    }
    // SAFETY: accesses to the slot are probes, which may fail.
    unsafe { view::unmap(gone.base / SLOT_SIZE) }?;
    changed();
    Ok(0)
}

extern "C" fn read(number: u64, position: u64, _: u64, lo: u64, hi: u64, _: u64) -> ! {
    answer(read_one(number, position, ObjectId { lo, hi }))
}

fn read_one(number: u64, position: u64, caller: ObjectId) -> Result<u64, ErrorCode> {
    let base = client(number, caller)?.base;
    let found = {
        let state = STATE.lock();
        state.as_ref().ok_or(ErrorCode::Busy)?.log.read(position).map_err(|_| ErrorCode::Medium)?
    };
    let Some((record, next)) = found else { return Ok(0) };
    let text = record.text.as_bytes();
    let text = &text[..text.len().min(TEXT_MAX)];
    let head =
        [text.len() as u64 | u64::from(record.level) << 32, record.time, record.sender.lo, record.sender.hi];
    let words = text.chunks(8).map(|piece| {
        let mut word = [0; 8];
        word[..piece.len()].copy_from_slice(piece);
        u64::from_le_bytes(word)
    });
    for (at, word) in (base + MESSAGE..).step_by(8).zip(head.into_iter().chain(words)) {
        // SAFETY: as in `take_streams`.
        unsafe { probe::store(at, word) }.map_err(|_| ErrorCode::BadAddress)?;
    }
    Ok(next)
}

const _: () = assert!(RECORD_HEAD == 32 && SLOT_BYTES >= ENTRY_HEAD + TEXT_MAX as u64);
