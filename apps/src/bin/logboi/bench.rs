//! What a record costs, in rounds of `count`: a JSON object a line, in the form of the `measure` program.
//!
//! The client runs in a context of its own with the service's placement: in the shared root both are in the same one.

use apps::launch::{self, Home};
use apps::logger::Logger;
use twz_rt::abi::ErrorCode;
use twz_rt::{Args, println, syscall};

/// Rounds of which the median is taken.
const ROUNDS: usize = 7;
/// What is logged: a line of usual length.
const LINE: &str = "GET /index.html 200 5123 bytes in 0.41 ms from 192.0.2.17";

/// Starts a client in a context with that placement; returns its exit status.
///
/// # Errors
/// As [`launch::start`].
pub(crate) fn start_client(shared: bool, count: &str, ours: Args) -> Result<u8, ErrorCode> {
    let home = Home::named(if shared { "context/bench/shared" } else { "context/bench/own" }, shared)?;
    home.may_log()?;
    let words = ["logboi", "--client", "--bench", count];
    let ended = launch::start("logboi", &words, ours, &home)?.wait();
    if ended.status != 0 {
        println!("logboi: the client ended with status {}", ended.status);
    }
    Ok(u8::try_from(ended.status).unwrap_or(u8::MAX))
}

/// Measures synchronous and asynchronous records.
///
/// # Errors
/// As [`Logger::log`].
pub(crate) fn bench(logger: &Logger, count: u64) -> Result<(), ErrorCode> {
    let count = count.max(1);
    measure("log_sync", count, || logger.log(3, LINE), || Ok(()))?;
    measure("log_async", count, || logger.send(3, LINE), || logger.flush())
}

fn measure(
    name: &str,
    count: u64,
    mut once: impl FnMut() -> Result<(), ErrorCode>,
    mut end: impl FnMut() -> Result<(), ErrorCode>,
) -> Result<(), ErrorCode> {
    once()?;
    end()?;
    let mut rounds = [0; ROUNDS];
    let before = syscall::counters()?;
    for round in &mut rounds {
        let began = syscall::clock()?.0;
        for _ in 0..count {
            once()?;
        }
        end()?;
        *round = syscall::clock()?.0 - began;
    }
    let after = syscall::counters()?;
    rounds.sort_unstable();
    let all = count * ROUNDS as u64;
    let per_thousand = |after: u64, before: u64| (after - before) * 1000 / all;
    println!(
        "{{\"name\":\"{name}\",\"ns\":{},\"count\":{count},\"gate_calls_per_1000\":{},\"root_switches_per_1000\":{},\"syscalls_per_1000\":{}}}",
        rounds[ROUNDS / 2] / count,
        per_thousand(after.gate_calls, before.gate_calls),
        per_thousand(after.root_switches, before.root_switches),
        per_thousand(after.syscalls, before.syscalls),
    );
    Ok(())
}
