//! A record to the logging service beside one to a logger behind a UNIX socket, interleaved: what a user would pick instead.
//!
//! Both append the same line to a log in memory and acknowledge it. Counts are of switches from one root (second-stage table) to another,
//! each of which is an exit to `twzvmm`: they do not depend on the machine.

use crate::guest::Guest;
use anyhow::{Context, Result};
use bench::row::{Row, Where};
use serde::Deserialize;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// The line that `logboi --bench` logs.
const LINE: &[u8] = b"GET /index.html 200 5123 bytes in 0.41 ms from 192.0.2.17";
/// Bytes of the peer's log, as `logboi`'s.
const LOG_BYTES: usize = 1 << 20;
/// What the aim is for: ring 0 on the CPU. Where KVM interprets it, a gate's kernel path takes most of the time.
const AIM: f64 = 0.25;

/// A line of `logboi --bench`.
#[derive(Deserialize)]
struct Line {
    name: String,
    ns: f64,
    root_switches_per_1000: f64,
}

/// What is measured: placement, and the name of the operation in `logboi`'s output.
const MEASURED: [(&str, &str); 3] = [("shared", "log_sync"), ("shared", "log_async"), ("own", "log_sync")];

/// Samples of these, and of the peer.
#[derive(Default)]
struct Samples {
    times: [Vec<f64>; 3],
    switches: [Vec<f64>; 3],
    peer: Vec<f64>,
}

/// Rows of both placements.
pub(crate) fn rows(guest: &Guest, rounds: usize, percent: u32) -> Result<Vec<Row>> {
    let reason = guest.why_no_figures_of_ring0()?;
    let count = (percent * 10).clamp(20, 1000).to_string();
    let mut samples = Samples::default();
    // Each run takes the median of seven rounds of its own.
    for _ in 0..rounds {
        for (placement, words) in [
            ("shared", &["logboi", "--shared", "--bench", &count][..]),
            ("own", &["logboi", "--bench", &count][..]),
        ] {
            let (output, _) = guest.run(2, words)?;
            let lines: Vec<Line> = output.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
            for (index, (of, name)) in MEASURED.iter().enumerate().filter(|(_, (of, _))| *of == placement) {
                let line = lines.iter().find(|line| line.name == *name);
                let line = line.with_context(|| format!("no {name} in {of} placement"))?;
                samples.times[index].push(line.ns);
                samples.switches[index].push(line.root_switches_per_1000 / 1000.0);
            }
        }
        samples.peer.push(unix_socket_rpc(2_000).context("the logger behind a UNIX socket")?);
    }
    Ok(make(&samples, reason.as_deref()))
}

/// The rows; `reason`: why the aim, which is for hardware, cannot be held against these times.
fn make(samples: &Samples, reason: Option<&str>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (((placement, name), times), switches) in MEASURED.iter().zip(&samples.times).zip(&samples.switches) {
        let how = if *name == "log_sync" { "synchronous" } else { "asynchronous" };
        let name = format!("{how} record, {placement} placement");
        let row = Row::new("logboi", &name, Where::Guest, "ns", times);
        let row = row.beside("RPC over a UNIX socket", &samples.peer);
        let row = if *placement == "shared" { row.ratio_at_most(AIM) } else { row };
        rows.push(match reason.filter(|_| row.aim.is_some()) {
            Some(reason) => row.skip(reason),
            None => row,
        });
        let name = format!("{name}: switches of the root");
        let count = Row::new("logboi", &name, Where::Guest, "switches", switches);
        rows.push(if *placement == "shared" { count.at_most(0.1) } else { count.at_most(2.1) });
    }
    rows
}

/// The rows that have aims, without figures.
pub(crate) fn not_measured() -> Vec<Row> {
    make(&Samples::default(), None).into_iter().filter(|row| row.aim.is_some()).collect()
}

/// Nanoseconds a record of a logger in another process, which acknowledges each.
fn unix_socket_rpc(count: u32) -> io::Result<f64> {
    let (client, server) = UnixStream::pair()?;
    // Before the fork: the child allocates nothing.
    let mut log = vec![0; LOG_BYTES];
    // SAFETY: the child uses the socket and memory that exists, and ends without the parent's exit handlers.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    if child == 0 {
        drop(client);
        serve(server, &mut log);
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    drop(server);
    let done = call(client, count);
    // SAFETY: our own child, which ends when its socket is closed.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    done
}

/// Appends what comes, and answers each message with a byte.
fn serve(mut socket: UnixStream, log: &mut [u8]) {
    let mut message = [0; 256];
    let mut at = 0;
    while let Ok(count @ 1..) = socket.read(&mut message) {
        if at + count > log.len() {
            at = 0;
        }
        log[at..at + count].copy_from_slice(&message[..count]);
        at += count;
        if socket.write_all(&[0]).is_err() {
            return;
        }
    }
}

fn call(mut socket: UnixStream, count: u32) -> io::Result<f64> {
    let mut answer = [1];
    let begun = Instant::now();
    for _ in 0..count {
        socket.write_all(LINE)?;
        socket.read_exact(&mut answer)?;
    }
    Ok(begun.elapsed().as_secs_f64() * 1e9 / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aims_are_kept_where_ring_0_is_interpreted() {
        let samples = Samples {
            times: [const { Vec::new() }; 3].map(|_: Vec<f64>| vec![9.0]),
            peer: vec![10.0],
            ..Samples::default()
        };
        let holds = |reason| make(&samples, reason)[0].holds;
        assert_eq!((holds(None), holds(Some("interpreted"))), (Some(false), None));
        let skipped = &make(&samples, Some("interpreted"))[0];
        assert_eq!(
            (skipped.aim.as_deref(), skipped.skipped.as_deref()),
            (Some("≤ 0.25×"), Some("interpreted"))
        );
        assert_eq!(not_measured().len(), 5);
    }

    #[test]
    fn the_peer_acknowledges_every_record() {
        assert!(unix_socket_rpc(100).expect("works on any Linux") > 0.0);
    }
}
