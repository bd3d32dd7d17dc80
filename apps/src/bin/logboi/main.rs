//! `logboi`: a logging service with one interface (paper §4.4).
//!
//! A synchronous message is a call: the thread of the client goes into the service's context, appends the record, and comes back. An
//! asynchronous one is left in a stream that client and service share, from where a thread of the service takes it. Either way nobody but the
//! service reaches the log. See docs/shell.md.
#![no_std]
#![no_main]

extern crate alloc;

mod attack;
mod bench;
mod clock;
mod control;
mod service;

use alloc::format;
use alloc::string::{String, ToString};
use apps::options::Options;
use twz_rt::abi::ErrorCode;
use twz_rt::resume::Resumed;
use twz_rt::{Args, println};

twz_rt::entry!(main);
twz_rt::resume_entry!(go_on);

const USAGE: &str = "usage:
  logboi [--shared]                     print the log, oldest record first
  logboi [--shared] [--async] TEXT...   log a line, by a call or through a stream
  logboi [--shared] --start             only start the service
  logboi [--shared] --bench COUNT       measure COUNT records of each kind
  logboi --attack                       try to read, alter and forge; to be run in a context of its own (run --own logboi --attack)
--shared: the service's context, if it is not in use yet, in the shared root, where a call takes no exit; else in a root of its own.";
/// Level of what people log: info.
const LEVEL: u32 = 3;

fn main(args: Args) -> Result<u8, String> {
    let mut options = Options::new(args);
    if options.flag("--serve") {
        return service::serve(false).map_err(text);
    }
    if options.flag("--attack") {
        return Ok(attack::attack());
    }
    let (shared, is_async, start) =
        (options.flag("--shared"), options.flag("--async"), options.flag("--start"));
    let (count, client) =
        (options.value("--bench").map_err(|_| USAGE.to_string())?, options.flag("--client"));
    let mut line = String::new();
    while let Some(word) = options.word() {
        line += if line.is_empty() { "" } else { " " };
        line += word;
    }
    if options.rest().is_some() {
        return Err(USAGE.into());
    }
    let logger = control::connect(shared, args).map_err(text)?;
    match count {
        Some(count) if client => {
            bench::bench(&logger, count.parse().map_err(|_| USAGE.to_string())?).map_err(text)?;
        }
        Some(count) => return bench::start_client(shared, count, args).map_err(text),
        None if start => println!("logboi: ready"),
        None if line.is_empty() => control::print(&logger).map_err(text)?,
        None if is_async => {
            let sent = logger.send(LEVEL, &line);
            sent.map_err(|error| format!("the service takes nothing of what is sent: {error}"))?;
            // This program ends now, and with it, perhaps, the machine.
            logger.flush().map_err(text)?;
        }
        None => logger.log(LEVEL, &line).map_err(text)?,
    }
    Ok(0)
}

/// The service's thread at the machine's next start.
fn go_on(_: Args, _: Resumed) -> Result<u8, String> {
    service::serve(true).map_err(text)
}

fn text(error: ErrorCode) -> String {
    error.to_string()
}
