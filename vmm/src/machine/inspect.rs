//! What the control socket may know of a running machine.

use super::Shared;
use super::monitor::HostRevocation;
use super::stats::{Event, Exit, Happening, HartStats};
use crate::control::{
    ContextList, HartCounters, Revoke, Revoked, Source, Stats, Trace, TraceEvent, TraceWhat,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use twz_abi::ObjectId;
use twz_abi::counters::{Counters, ExitCounters};
use twz_abi::hypercall::{self, Op};
use vm_memory::{Bytes, GuestAddress};

/// Looks into a machine from outside; see [`Source`].
pub struct Inspector(pub(super) Arc<Shared>);

impl Source for Inspector {
    fn stats(&self) -> Stats {
        let harts: Vec<HartCounters> = self.0.harts.iter().map(|hart| counters_of(&hart.stats)).collect();
        let mut vmm = HartCounters::default();
        harts.iter().for_each(|hart| vmm.add(hart));
        let uptime_ns = u64::try_from(self.0.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let kvm = self.0.kvm_stats.read();
        Stats { uptime_ns, kernel: self.0.kernel_counters(), vmm, harts, kvm }
    }

    fn trace(&self, after: &[u64]) -> Trace {
        let after = after.iter().copied().chain(std::iter::repeat(0));
        let events = |(hart, after): (&super::hart::HartShared, u64)| {
            hart.stats.events(after).iter().map(trace_event).collect()
        };
        Trace { harts: self.0.harts.iter().zip(after).map(events).collect() }
    }

    fn contexts(&self) -> ContextList {
        self.0.monitor().list()
    }

    fn revoke(&self, what: &Revoke) -> Result<Revoked, String> {
        let id = |text: &str| text.parse::<ObjectId>().map_err(|error| format!("{text:?} is {error}"));
        let what = match what {
            Revoke::Object { id: text } => HostRevocation::Object(id(text)?),
            Revoke::Context { id: text } => HostRevocation::Context(id(text)?),
            Revoke::Capability { target, digest } => HostRevocation::Capability(id(target)?, bytes(digest)?),
        };
        let began = Instant::now();
        self.0.monitor().revoke_by_host(what).map_err(|error| error.to_string())?;
        Ok(Revoked { took_ns: super::report::nanoseconds(began.elapsed()) })
    }
}

/// 32 bytes from 64 hexadecimal digits.
fn bytes(digits: &str) -> Result<[u8; 32], String> {
    let wrong = || format!("{digits:?} is not a digest: 64 hexadecimal digits expected");
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).map_err(|_| wrong())?;
    }
    Ok(bytes)
}

fn counters_of(stats: &HartStats) -> HartCounters {
    fn named<'a>(counters: impl Iterator<Item = (&'a str, u64)>) -> BTreeMap<String, u64> {
        counters.map(|(name, count)| (name.to_owned(), count)).collect()
    }
    HartCounters {
        exits: named(stats.exits()),
        hypercalls: named(stats.hypercalls()),
        failed_hypercalls: stats.failed(),
        register_ioctls: stats.register_ioctls(),
        injected: named(stats.injected()),
    }
}

fn trace_event(event: &Event) -> TraceEvent {
    let what = match event.what {
        Happening::Hypercall { op, status, nanoseconds } => TraceWhat::Hypercall {
            op: Op::try_from(op).map_or_else(|number| number.to_string(), |op| op.name().to_owned()),
            status,
            took_ns: nanoseconds,
        },
        Happening::Exit(exit) => TraceWhat::Exit { reason: exit.name().to_owned() },
        Happening::Inject(vector) => TraceWhat::Inject { vector },
        Happening::Kernel(event) => TraceWhat::Kernel {
            what: hypercall::Happening::try_from(event.what)
                .map_or_else(|number| number.to_string(), |what| what.name().to_owned()),
            detail: event.detail,
            thread: event.thread,
            first: event.first,
            second: event.second,
        },
    };
    TraceEvent { number: event.number, time_ns: event.nanoseconds, what }
}

impl Shared {
    /// Where the kernel keeps its counters is a claim: it must be in RAM, and aligned.
    pub(super) fn check_counters(&self, address: u64) -> Option<u64> {
        let bytes = size_of::<Counters>() as u64;
        let in_ram = address != 0 && address.checked_add(bytes).is_some_and(|end| end <= self.ram_bytes);
        (in_ram && address.is_multiple_of(8)).then_some(address)
    }

    /// Exits of all harts, by reason.
    pub(super) fn exit_counters(&self) -> ExitCounters {
        let mut counts = [0; Exit::ALL.len()];
        for hart in &self.harts {
            hart.stats.exits().zip(&mut counts).for_each(|((_, count), sum)| *sum += count);
        }
        zerocopy::transmute!(counts)
    }

    /// The guest kernel's counters; each is one volatile load, since the guest goes on counting.
    fn kernel_counters(&self) -> Option<BTreeMap<String, u64>> {
        let base = (*self.counters.get()?)?;
        let named = |(name, at): (&&str, u64)| {
            let count = self.memory.load::<u64>(GuestAddress(base + at * 8), Ordering::Relaxed).ok()?;
            Some(((*name).to_owned(), count))
        };
        Counters::NAMES.iter().zip(0..).map(named).collect()
    }
}
