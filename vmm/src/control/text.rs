//! Stats and trace for people.

use super::{Stats, Trace, TraceEvent, TraceWhat};
use std::collections::BTreeMap;
use std::fmt;

impl fmt::Display for Stats {
    /// A counter a line under headings; zeros are left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[allow(clippy::cast_precision_loss, reason = "seconds for people")]
        let seconds = self.uptime_ns as f64 / 1e9;
        writeln!(f, "uptime {seconds:.3} s, {} harts", self.harts.len())?;
        match &self.kernel {
            Some(kernel) => section(f, "kernel", kernel)?,
            None => writeln!(f, "kernel: no counters yet")?,
        }
        section(f, "exits", &self.vmm.exits)?;
        section(f, "hypercalls", &self.vmm.hypercalls)?;
        writeln!(f, "  {:<20} {:>14}", "(failed)", self.vmm.failed_hypercalls)?;
        writeln!(f, "register ioctls        {:>14}", self.vmm.register_ioctls)?;
        section(f, "injected", &self.vmm.injected)?;
        section(f, "KVM", &self.kvm)
    }
}

fn section(f: &mut fmt::Formatter<'_>, title: &str, counters: &BTreeMap<String, u64>) -> fmt::Result {
    writeln!(f, "{title}")?;
    counters
        .iter()
        .filter(|(_, count)| **count != 0)
        .try_for_each(|(name, count)| writeln!(f, "  {name:<20} {count:>14}"))
}

impl Trace {
    /// Calls `print` with a line for each event, all harts merged by time.
    ///
    /// # Errors
    /// What `print` says.
    pub fn lines<E>(&self, mut print: impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
        let mut events: Vec<(usize, &TraceEvent)> = self
            .harts
            .iter()
            .enumerate()
            .flat_map(|(hart, events)| events.iter().map(move |e| (hart, e)))
            .collect();
        events.sort_by_key(|(_, event)| event.time_ns);
        events.iter().try_for_each(|(hart, event)| print(&line(*hart, event)))
    }
}

fn line(hart: usize, event: &TraceEvent) -> String {
    #[allow(clippy::cast_precision_loss, reason = "microseconds for people")]
    let microseconds = event.time_ns as f64 / 1e3;
    let what = match &event.what {
        TraceWhat::Hypercall { op, status: 0, took_ns } => format!("hypercall {op} took {took_ns} ns"),
        TraceWhat::Hypercall { op, status, took_ns } => {
            format!("hypercall {op} failed with {status}, took {took_ns} ns")
        }
        TraceWhat::Exit { reason } => format!("exit {reason}"),
        TraceWhat::Inject { vector } => format!("inject {vector:#x}"),
        TraceWhat::Kernel { what, detail, thread, first, second } => {
            format!("kernel {what} thread {thread:#x} {detail} {first:#x} {second:#x}")
        }
    };
    format!("{microseconds:>16.3} us  hart {hart:<2} {:>8}  {what}", event.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_the_order_of_time() {
        let event =
            |number, time_ns| TraceEvent { number, time_ns, what: TraceWhat::Inject { vector: 0x20 } };
        let trace = Trace { harts: vec![vec![event(1, 10), event(2, 30)], vec![event(1, 20)]] };
        let mut lines = Vec::new();
        let printed: Result<(), ()> = trace.lines(|line| {
            lines.push(line.to_owned());
            Ok(())
        });
        assert_eq!(printed, Ok(()));
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1], "           0.020 us  hart 1         1  inject 0x20");
    }
}
