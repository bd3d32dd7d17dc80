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

/// Rows of both placements.
pub(crate) fn rows(guest: &Guest, rounds: usize, percent: u32) -> Result<Vec<Row>> {
    let native = ring0_is_native();
    let count = (percent * 10).clamp(20, 1000).to_string();
    let names = [("shared", "log_sync"), ("shared", "log_async"), ("own", "log_sync")];
    let mut times: [Vec<f64>; 3] = Default::default();
    let mut switches: [Vec<f64>; 3] = Default::default();
    let mut peer = Vec::new();
    // Each run takes the median of seven rounds of its own.
    for _ in 0..rounds {
        for (placement, words) in [
            ("shared", &["logboi", "--shared", "--bench", &count][..]),
            ("own", &["logboi", "--bench", &count][..]),
        ] {
            let (output, _) = guest.run(2, words)?;
            let lines: Vec<Line> = output.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
            for (index, (of, name)) in names.iter().enumerate().filter(|(_, (of, _))| *of == placement) {
                let line = lines.iter().find(|line| line.name == *name);
                let line = line.with_context(|| format!("no {name} in {of} placement"))?;
                times[index].push(line.ns);
                switches[index].push(line.root_switches_per_1000 / 1000.0);
            }
        }
        peer.push(unix_socket_rpc(2_000).context("the logger behind a UNIX socket")?);
    }
    let mut rows = Vec::new();
    for ((placement, name), (times, switches)) in names.iter().zip(times.iter().zip(&switches)) {
        let how = if *name == "log_sync" { "synchronous" } else { "asynchronous" };
        let ring0 = if native { "" } else { "; ring 0 is interpreted on this host" };
        let row = Row::new(
            "logboi",
            &format!("{how} record, {placement} placement{ring0}"),
            Where::Guest,
            "ns",
            times,
        );
        let row = row.beside("RPC over a UNIX socket", &peer);
        rows.push(if native && *placement == "shared" { row.ratio_at_most(AIM) } else { row });
        let name = format!("{how} record, {placement} placement: switches of the root");
        let count = switches.iter().sum::<f64>() / f64::from(u32::try_from(switches.len()).unwrap_or(1));
        let count = Row::count("logboi", &name, Where::Guest, "switches", count);
        rows.push(if *placement == "shared" { count.at_most(0.1) } else { count.at_most(2.1) });
    }
    Ok(rows)
}

/// Whether KVM runs ring 0 on the CPU: it has one of the two extensions for it.
fn ring0_is_native() -> bool {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = info.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|flags| flags.split(' ').any(|flag| flag == "vmx" || flag == "svm"))
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
    #[test]
    fn the_peer_acknowledges_every_record() {
        assert!(super::unix_socket_rpc(100).expect("works on any Linux") > 0.0);
    }
}
