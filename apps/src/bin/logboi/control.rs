//! Starting the service, and printing the log.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use apps::context_object::ContextObject;
use apps::keys;
use apps::launch::{self, Home};
use apps::logger::{Logger, SERVICE, gates};
use apps::mapped::BOTH;
use sec::Grant;
use twz_rt::abi::{ErrorCode, ObjectId};
use twz_rt::{Args, println, syscall};

/// How long the service may take to come up, in nanoseconds.
const PATIENCE: u64 = 20_000_000_000;

/// Connects to the service; starts it if it does not run.
///
/// # Errors
/// [`ErrorCode::TimedOut`] if it does not come up; what launching and connecting say.
pub(crate) fn connect(shared: bool, ours: Args) -> Result<Logger, ErrorCode> {
    if keys::pair("owner").is_err() {
        // Not ours to start.
        return Logger::connect();
    }
    let home = Home::named(SERVICE, shared)?;
    let Home::Own { owner, context } = &home else { return Err(ErrorCode::NotPermitted) };
    if runs(context) {
        return connect_soon();
    }
    context.close_gates()?;
    context.place(shared)?;
    // To set its gates and to put clients' capabilities into its table.
    let itself = owner.grant(&Grant::new(context.id, context.id, BOTH));
    context.add(&itself)?;
    launch::start("logboi", &["logboi", "--serve"], ours, &home)?.let_go();
    let began = syscall::clock()?.0;
    while context.read()?.gate_count() < gates::COUNT {
        if syscall::clock()?.0 - began > PATIENCE {
            return Err(ErrorCode::TimedOut);
        }
        syscall::thread_yield();
    }
    for (name, _) in keys::names("context/run/") {
        // One that is no context or is not ours may not log; it is not our business why.
        let _ = Home::named(&name, false).and_then(|home| home.may_log());
    }
    Logger::connect()
}

/// Connects to a service that is there, or is beginning again: then it is not ready, or its gates lead to the stacks of its former life until it
/// has set them all.
fn connect_soon() -> Result<Logger, ErrorCode> {
    let began = syscall::clock()?.0;
    loop {
        match Logger::connect() {
            Err(ErrorCode::Busy | ErrorCode::BadContext) if syscall::clock()?.0 - began < PATIENCE => {
                syscall::thread_yield();
            }
            connected => return connected,
        }
    }
}

/// Whether the gates lead somewhere. Those of an earlier machine do not, unless the service is resumed: their view went with it. They must not even be called, which would
/// enter the context where it was, and keep it there.
fn runs(context: &ContextObject) -> bool {
    let gate =
        context.read().and_then(|read| read.gate(&context.bytes, 0).map_err(|_| ErrorCode::BadContext));
    gate.is_ok_and(|gate| gate.view.is_some_and(|view| syscall::object_stat(view).is_ok()))
}

/// Prints every record.
///
/// # Errors
/// As [`Logger::read`].
pub(crate) fn print(logger: &Logger) -> Result<(), ErrorCode> {
    let names: Vec<(String, ObjectId)> = keys::names("context/").collect();
    let mut position = 0;
    while let Some((record, next)) = logger.read(position)? {
        position = next;
        let sender = names.iter().find(|(_, id)| *id == record.sender);
        let sender = sender.map_or_else(|| record.sender.to_string(), |(name, _)| name.clone());
        let (seconds, rest) = (record.time / 1_000_000_000, record.time % 1_000_000_000);
        println!("{seconds}.{:06} {} {sender}: {}", rest / 1000, record.level, record.text.escape_debug());
    }
    Ok(())
}
