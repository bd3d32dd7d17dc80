//! What the control socket may know of a running machine.

use super::Shared;
use super::kvm_stats::KvmStats;
use super::stats::{Event, Happening, HartStats};
use crate::control::{HartCounters, Source, Stats, Trace, TraceEvent, TraceWhat};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use twz_abi::counters::Counters;
use twz_abi::hypercall::Op;
use vm_memory::{Bytes, GuestAddress};

/// Looks into a machine from outside; see [`Source`].
pub struct Inspector(pub(super) Arc<Shared>);

impl Source for Inspector {
    fn stats(&self) -> Stats {
        let harts: Vec<HartCounters> = self.0.harts.iter().map(|hart| counters_of(&hart.stats)).collect();
        let mut vmm = HartCounters::default();
        harts.iter().for_each(|hart| vmm.add(hart));
        let uptime_ns = u64::try_from(self.0.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut kvm = BTreeMap::new();
        for (name, count) in self.0.kvm_stats.iter().flat_map(KvmStats::read) {
            *kvm.entry(name).or_default() += count;
        }
        Stats { uptime_ns, kernel: self.0.kernel_counters(), vmm, harts, kvm }
    }

    fn trace(&self, after: &[u64]) -> Trace {
        let after = after.iter().copied().chain(std::iter::repeat(0));
        let events = |(hart, after): (&super::hart::HartShared, u64)| {
            hart.stats.events(after).iter().map(trace_event).collect()
        };
        Trace { harts: self.0.harts.iter().zip(after).map(events).collect() }
    }
}

fn counters_of(stats: &HartStats) -> HartCounters {
    fn named<'a>(counters: impl Iterator<Item = (&'a str, u64)>) -> BTreeMap<String, u64> {
        counters.map(|(name, count)| (name.to_owned(), count)).collect()
    }
    HartCounters {
        exits: named(stats.exits()),
        hypercalls: named(stats.hypercalls()),
        failed_hypercalls: stats.failed(),
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
