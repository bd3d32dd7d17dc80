//! The pace of the CPU: how long a fixed loop of pure arithmetic takes, which says what a program can never see otherwise, that something else
//! uses the core.
//!
//! # Contract
//! - The loop touches no memory and keeps every integer unit busy, by chains that do not wait for each other. So a busy sibling (the other
//!   hyperthread, most often of another machine on the host) slows it down, and nothing that this process has done before does. A single chain
//!   would leave most units free, and notice little.
//! - Its time is the wall's: what the hypervisor takes away shows there, and other programs' turns do.
//! - The loop knows of the CPU that it runs on, so what is measured beside it has to be on the same one: [`Pinned`].

use crate::plot::short;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::arch::asm;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fmt, fs, io};

/// Turns of a loop: about 10 microseconds.
const TURNS: u64 = 4000;
/// Loops of a look, whose median counts: an interrupt in one of them is no disturbance.
const LOOPS: usize = 5;

/// What tells the pace; tests have one of their own.
pub trait Source {
    /// Nanoseconds that the control loop takes now.
    fn look(&mut self) -> f64;
    /// Time on the wall.
    fn now(&self) -> Duration;
}

/// The CPU that this thread is on.
#[derive(Debug)]
pub struct Cpu {
    begun: Instant,
}

impl Default for Cpu {
    fn default() -> Self {
        Self { begun: Instant::now() }
    }
}

impl Source for Cpu {
    fn look(&mut self) -> f64 {
        let mut loops = [0.0; LOOPS];
        for time in &mut loops {
            let begun = Instant::now();
            control_loop();
            *time = begun.elapsed().as_secs_f64() * 1e9;
        }
        loops.sort_by(f64::total_cmp);
        loops[LOOPS / 2]
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// Eight chains of additions, of registers: more than any core has units for, and no compiler makes fewer of them.
fn control_loop() {
    // SAFETY: adds numbers in registers that the compiler lends, and touches neither memory nor the stack.
    unsafe {
        asm!(
            "2:",
            ".rept 4",
            "add {a}, {k}", "add {b}, {k}", "add {c}, {k}", "add {d}, {k}",
            "add {e}, {k}", "add {f}, {k}", "add {g}, {k}", "add {h}, {k}",
            ".endr",
            "sub {turns}, 1",
            "jnz 2b",
            turns = inout(reg) TURNS => _,
            k = in(reg) 0x9e37_79b9_7f4a_7c15_u64,
            a = inout(reg) 1_u64 => _, b = inout(reg) 2_u64 => _, c = inout(reg) 3_u64 => _, d = inout(reg) 4_u64 => _,
            e = inout(reg) 5_u64 => _, f = inout(reg) 6_u64 => _, g = inout(reg) 7_u64 => _, h = inout(reg) 8_u64 => _,
            options(nomem, nostack),
        );
    }
}

/// What the pace was while a program measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Nanoseconds of the control loop: the best that was seen.
    pub best_ns: f64,
    /// The median of what was seen around rounds and between their sides.
    pub median_ns: f64,
    /// Rounds that were measured, those that do not count as well.
    pub rounds: usize,
    /// Those of them that were disturbed.
    pub disturbed: usize,
    /// Those of the disturbed that were measured again; the others count as they are.
    pub again: usize,
    /// Seconds that were spent waiting for the end of a disturbance.
    pub waited_s: f64,
}

impl Summary {
    /// Writes it beside the rows that were measured: `libtwz.pace.json` beside `libtwz.json`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, rows: &Path) -> Result<()> {
        let path = beside(rows);
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// What a program wrote beside its rows; None if it did not.
    ///
    /// # Errors
    /// When the file holds something else.
    pub fn beside(rows: &Path) -> Result<Option<Self>> {
        let path = beside(rows);
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        serde_json::from_str(&text).map(Some).with_context(|| path.display().to_string())
    }
}

fn beside(rows: &Path) -> PathBuf {
    rows.with_extension("pace.json")
}

/// A line for people.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { best_ns, median_ns, rounds, disturbed, again, waited_s } = self;
        write!(
            f,
            "control loop {} ns at best, median {} of that; {disturbed} of {rounds} rounds disturbed, {again} of them measured again; \
             {waited_s:.0} s waited",
            short(*best_ns),
            short(median_ns / best_ns)
        )
    }
}

/// Keeps this thread, and the programs that it starts, on one CPU: peers would run now on this one and now on that, whose siblings differ.
#[derive(Debug)]
pub struct Pinned {
    all: libc::cpu_set_t,
    one: libc::cpu_set_t,
}

impl Pinned {
    /// On the CPU that the thread is on now.
    ///
    /// # Errors
    /// The host's.
    pub fn here() -> io::Result<Self> {
        // SAFETY: plain data, for which zero means no CPU.
        let (mut all, mut one): (libc::cpu_set_t, libc::cpu_set_t) = unsafe { std::mem::zeroed() };
        // SAFETY: fills in a set of that size.
        check(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut all) })?;
        // SAFETY: takes no arguments.
        let cpu = usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0);
        // SAFETY: the set is ours, and the number is one of the host's CPUs.
        unsafe { libc::CPU_SET(cpu, &mut one) };
        run_on(&one)?;
        Ok(Self { all, one })
    }

    /// Does `work` on all CPUs, as do the programs that it starts.
    ///
    /// # Errors
    /// The host's.
    pub fn lifted<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        run_on(&self.all)?;
        let done = work();
        run_on(&self.one)?;
        Ok(done)
    }
}

fn run_on(cpus: &libc::cpu_set_t) -> io::Result<()> {
    // SAFETY: reads the set.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), cpus) })
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_takes_time() {
        let mut cpu = Cpu::default();
        assert!(cpu.look() > 100.0, "thousands of additions in less than 100 ns");
        assert!(cpu.now() > Duration::ZERO);
    }

    #[test]
    fn a_pinned_thread_stays_where_it_is() {
        let cpus = || std::thread::available_parallelism().map_or(0, usize::from);
        let before = cpus();
        let pinned = Pinned::here().unwrap();
        assert_eq!((cpus(), pinned.lifted(cpus).unwrap(), cpus()), (1, before, 1));
    }
}
