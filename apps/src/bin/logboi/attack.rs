//! Tries to get at the log from a context that nobody gave any right to it, and to speak in somebody else's name. Every attempt says whether the
//! system held; each has a counterpart that must work.

use crate::service::LOG_NAME;
use apps::context_object::ContextObject;
use apps::keys;
use apps::logger::{Logger, SERVICE, SLOTS, gates};
use apps::mapped::volatile_object;
use apps::probe;
use twz_rt::abi::fault::{FaultCause, FaultFrame, FaultInfo};
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::context::{self, gate_call};
use twz_rt::{fault, println, syscall, view};

/// Clients that connect and vanish: more than the service has entries.
const CRASHES: u32 = 70;

/// How long a stream that nobody takes anything of is waited for, in nanoseconds.
const SHORT: u64 = 50_000_000;

/// Attempts, and those that did not end as they must.
#[derive(Default)]
struct Tally {
    tried: u32,
    broken: u32,
}

impl Tally {
    fn expect(&mut self, what: &str, held: bool) {
        self.tried += 1;
        self.broken += u32::from(!held);
        println!("{}: {what}", if held { "held" } else { "BROKEN" });
    }
}

/// Tries everything; 1 if something succeeded.
pub(crate) fn attack() -> u8 {
    // SAFETY: the handler takes no lock, and changes frames of probes only.
    unsafe { fault::set_handler(on_fault) };
    let mut tally = Tally::default();
    if let Err(error) = attempts(&mut tally) {
        println!("logboi: an attempt could not be made: {error}");
        tally.broken += 1;
    }
    println!("logboi: {} attempts, {} broken", tally.tried, tally.broken);
    u8::from(tally.broken != 0)
}

fn on_fault(frame: &mut FaultFrame) {
    if !probe::recover(frame) {
        syscall::thread_exit(u8::try_from(128 + frame.info.cause).unwrap_or(u8::MAX));
    }
}

fn is_refused<T>(result: &Result<T, FaultInfo>) -> bool {
    result.as_ref().is_err_and(|fault| fault.cause == FaultCause::Rights as u32)
}

fn attempts(tally: &mut Tally) -> Result<(), ErrorCode> {
    let (service, log) = (syscall::name_get(SERVICE)?, syscall::name_get(LOG_NAME)?);
    let me = context::current()?;

    // The log itself, and the service's context with its table.
    let base = view::map_anywhere(log, Rights::all()).ok_or(ErrorCode::NoMemory)? as u64;
    tally.expect("the log read directly", is_refused(&probe::load(base + DATA_OFFSET)));
    tally.expect("a record read directly", is_refused(&probe::load(base + DATA_OFFSET + 0x1040)));
    // SAFETY: if the store worked the system would be broken, which is what is asked.
    let stored = unsafe { probe::store(base + DATA_OFFSET + 0x1018, 0) };
    tally.expect("the log altered directly", is_refused(&stored));
    let hidden = matches!(syscall::object_stat(log), Err(ErrorCode::NotPermitted | ErrorCode::NoObject));
    tally.expect("the log asked about", hidden);
    tally.expect("the log deleted", syscall::object_delete(log).is_err());
    let gone_in = context::attach(service).is_err() && context::activate(service).is_err();
    let opened = ContextObject::open(service, Rights::WRITE);
    let owns = keys::pair("owner").is_ok();
    tally.expect("the service's context entered", owns || gone_in);
    tally.expect("the service's context opened for writing", owns || opened.is_err());

    // Calls.
    let first = Logger::connect()?;
    let second = Logger::connect()?;
    tally.expect("a client may log", first.log(3, "from an attacker, in its own name").is_ok());
    let sent = second.send(3, "by stream, in its own name").is_ok();
    tally.expect("a client may send", sent && second.flush().is_ok());
    // As if the service had died: nobody takes what this one sends.
    let third = Logger::connect()?;
    gate_call(service, gates::DISCONNECT, [third.number, 0, 0])?;
    let has_room = (0..SLOTS).all(|_| third.send(3, "to nobody").is_ok());
    let refused = third.send_within(3, "one more", SHORT) == Err(ErrorCode::TimedOut);
    tally.expect("a sender is told when nobody takes what it sends", has_room && refused);
    tally.expect("a client may not read the log by a gate", owns || first.read(0).is_err());
    let log_as = |number: u64| gate_call(service, gates::LOG, [number, 8, 1]);
    let nobody = (ErrorCode::NotPermitted as u64, 0);
    let others = (0..64).filter(|number| *number != first.number && *number != second.number);
    let foreign = others.chain([u64::MAX, 1 << 32]).all(|number| log_as(number) == Ok(nobody));
    tally.expect("a message in another client's name", foreign);
    let long = gate_call(service, gates::LOG, [first.number, 1 << 40, 1]);
    tally.expect("a message longer than the object", long == Ok((ErrorCode::BadArgument as u64, 0)));
    let share = |id: ObjectId| gate_call(service, gates::CONNECT, [id.lo, id.hi, 0]);
    tally.expect("connecting with the log itself", share(log).is_ok_and(|(status, _)| status != 0));
    let foreign_key = volatile_object(ObjectId::NULL)?;
    tally.expect("connecting with an object of no key", share(foreign_key) == Ok(nobody));
    let nothing = share(ObjectId { lo: 1, hi: 2 });
    tally.expect("connecting with nothing", nothing.is_ok_and(|(status, _)| status != 0));
    // Words in place of the caller's identity, which the kernel fills in.
    let forged = gate_call(service, gates::LOG, [first.number, 0, 1]);
    tally.expect("an empty message is one", forged == Ok((0, 0)));

    // A client that takes its memory away under the service's hands.
    // SAFETY: nothing of ours depends on what stands in the object.
    unsafe { syscall::object_trim(first.shared, DATA_OFFSET, 0x2_0000) }?;
    tally.expect("the service outlives a client's trimmed memory", second.log(3, "still here").is_ok());
    syscall::object_delete(second.shared)?;
    tally.expect("and deleted memory", first.log(3, "and here").is_ok());
    for _ in 0..CRASHES {
        let client = Logger::connect()?;
        syscall::object_delete(client.shared)?;
        // As if this program had ended here.
        core::mem::forget(client);
    }
    tally.expect("and clients that vanish, more than there is room for", Logger::connect().is_ok());
    println!("   all of it was said by {me}");
    Ok(())
}
