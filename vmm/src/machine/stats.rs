//! What a machine counts, and its trace ring.
//!
//! # Contract
//! - Each hart's counters and ring are written by its own thread alone, with relaxed stores; others read them at any time.
//! - A trace event is read whole or not at all: **I1** its sequence word is zero while the rest is being written and holds the event's number,
//!   never used again, before and after. A reader that sees the same nonzero number twice has read one event.
//! - Nothing here takes a lock, so counting costs a hart a few stores an exit.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Instant;
use twz_abi::counters::ExitCounters;
use twz_abi::hypercall::{KernelEvent, Op};

/// Events that a hart's ring holds; the oldest are overwritten.
const RING_EVENTS: usize = 4096;
/// One more than the highest hypercall number that has a counter of its own.
const OPS: usize = 64;

/// Why a hart left `KVM_RUN`; numbered as in [`ExitCounters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// A hypercall.
    Hypercall,
    /// Nothing to run.
    Halt,
    /// A signal: timer, kick or stop.
    Interrupted,
    /// The guest can take the interrupt that waits.
    InterruptWindow,
    /// The second stage refused an access, seen as emulated MMIO.
    RefusedMmio,
    /// The second stage refused an access, seen as `EFAULT`.
    RefusedFault,
    /// A watched instruction of the kernel was reached for the first time (`--coverage`).
    Watched,
    /// What ends the machine.
    Other,
}

impl Exit {
    /// All, in the order of their counters.
    pub(super) const ALL: [Self; 8] = [
        Self::Hypercall,
        Self::Halt,
        Self::Interrupted,
        Self::InterruptWindow,
        Self::RefusedMmio,
        Self::RefusedFault,
        Self::Watched,
        Self::Other,
    ];

    /// Its name in `twzvmm stats`, and among what programs get.
    #[must_use]
    pub(super) const fn name(self) -> &'static str {
        ExitCounters::NAMES[self as usize]
    }
}

/// Names of the vectors that `twzvmm` injects, from 0x20 on.
pub(super) const VECTOR_NAMES: [&str; 3] = ["timer", "kick", "refused"];
/// First of them.
const FIRST_VECTOR: u8 = 0x20;

/// What happened, as a ring stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happening {
    /// A hypercall was served.
    Hypercall {
        /// Number of the [`Op`]; unknown ones too.
        op: u32,
        /// 0 or an error code.
        status: u32,
        /// Nanoseconds that it took.
        nanoseconds: u64,
    },
    /// Another exit.
    Exit(Exit),
    /// A vector was injected.
    Inject(u8),
    /// The kernel recorded something, some time since the exit before.
    Kernel(KernelEvent),
}

/// An event of one hart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Its number in the hart's trace, from 1.
    pub number: u64,
    /// Nanoseconds since the machine started.
    pub nanoseconds: u64,
    /// What.
    pub what: Happening,
}

const KIND_HYPERCALL: u64 = 1;
const KIND_EXIT: u64 = 2;
const KIND_INJECT: u64 = 3;
const KIND_KERNEL: u64 = 4;

#[derive(Debug, Default)]
struct Place {
    number: AtomicU64,
    time: AtomicU64,
    /// Kind in bits 0–7, code in 8–39.
    code: AtomicU64,
    status: AtomicU64,
    /// What else belongs to it.
    words: [AtomicU64; 3],
}

/// Counters and trace of one hart.
#[derive(Debug)]
pub(super) struct HartStats {
    started: Instant,
    exits: [AtomicU64; Exit::ALL.len()],
    injected: [AtomicU64; VECTOR_NAMES.len()],
    hypercalls: [AtomicU64; OPS],
    failed: AtomicU64,
    register_ioctls: AtomicU64,
    unknown: AtomicU64,
    /// Number of the last event.
    last: AtomicU64,
    ring: Box<[Place]>,
}

/// Adds one to a counter that only this thread writes.
fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl HartStats {
    /// All zero; times count from `started`.
    pub(super) fn new(started: Instant) -> Self {
        Self {
            started,
            exits: Default::default(),
            injected: Default::default(),
            hypercalls: [const { AtomicU64::new(0) }; OPS],
            failed: AtomicU64::new(0),
            register_ioctls: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            last: AtomicU64::new(0),
            ring: (0..RING_EVENTS).map(|_| Place::default()).collect(),
        }
    }

    /// An exit that is no hypercall.
    pub(super) fn exit(&self, exit: Exit) {
        count(&self.exits[exit as usize]);
        self.record(Instant::now(), KIND_EXIT, exit as u64, 0, [0; 3]);
    }

    /// The registers of a vCPU were read or written by ioctl: never on the way from one context to another.
    pub(super) fn register_ioctl(&self) {
        count(&self.register_ioctls);
    }

    /// How often.
    pub(super) fn register_ioctls(&self) -> u64 {
        self.register_ioctls.load(Ordering::Relaxed)
    }

    /// A vector was injected.
    pub(super) fn inject(&self, vector: u8) {
        if let Some(counter) = self.injected.get(usize::from(vector.wrapping_sub(FIRST_VECTOR))) {
            count(counter);
        }
        self.record(Instant::now(), KIND_INJECT, u64::from(vector), 0, [0; 3]);
    }

    /// The kernel recorded an event before the exit that is being handled.
    pub(super) fn kernel(&self, event: &KernelEvent) {
        let words = [event.thread, event.first, event.second];
        self.record(Instant::now(), KIND_KERNEL, u64::from(event.what), u64::from(event.detail), words);
    }

    /// A hypercall that began at `began` was answered with `status`.
    pub(super) fn hypercall(&self, began: Instant, op: u32, status: u32) {
        count(&self.exits[Exit::Hypercall as usize]);
        let known = usize::try_from(op).ok().filter(|_| Op::try_from(op).is_ok());
        count(known.and_then(|op| self.hypercalls.get(op)).unwrap_or(&self.unknown));
        if status != 0 {
            count(&self.failed);
        }
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.record(began, KIND_HYPERCALL, u64::from(op), u64::from(status), [took, 0, 0]);
    }

    fn record(&self, at: Instant, kind: u64, code: u64, status: u64, words: [u64; 3]) {
        let number = self.last.load(Ordering::Relaxed) + 1;
        let Some(place) = self.place(number) else { return };
        place.number.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        let time = at.saturating_duration_since(self.started).as_nanos();
        place.time.store(u64::try_from(time).unwrap_or(u64::MAX), Ordering::Relaxed);
        place.code.store(kind | code << 8, Ordering::Relaxed);
        place.status.store(status, Ordering::Relaxed);
        for (place, word) in place.words.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        place.number.store(number, Ordering::Release);
        self.last.store(number, Ordering::Release);
    }

    fn place(&self, number: u64) -> Option<&Place> {
        self.ring.get(usize::try_from(number).ok()? % RING_EVENTS)
    }

    /// The events after number `after` that are still in the ring, oldest first.
    pub(super) fn events(&self, after: u64) -> Vec<Event> {
        let last = self.last.load(Ordering::Acquire);
        let oldest = last.saturating_sub(RING_EVENTS as u64);
        (after.max(oldest)..last).filter_map(|before| self.event(before + 1)).collect()
    }

    fn event(&self, number: u64) -> Option<Event> {
        let place = self.place(number)?;
        if place.number.load(Ordering::Acquire) != number {
            return None;
        }
        let nanoseconds = place.time.load(Ordering::Relaxed);
        let code = place.code.load(Ordering::Relaxed);
        let status = place.status.load(Ordering::Relaxed);
        let words = place.words.each_ref().map(|word| word.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        if place.number.load(Ordering::Relaxed) != number {
            return None; // overwritten meanwhile (I1)
        }
        let value = u32::try_from(code >> 8).ok()?;
        let what = match code & 0xff {
            KIND_HYPERCALL => {
                Happening::Hypercall { op: value, status: u32::try_from(status).ok()?, nanoseconds: words[0] }
            }
            KIND_KERNEL => {
                let (detail, [thread, first, second]) = (u32::try_from(status).ok()?, words);
                Happening::Kernel(KernelEvent { what: value, detail, thread, first, second })
            }
            KIND_EXIT => Happening::Exit(*Exit::ALL.get(usize::try_from(value).ok()?)?),
            KIND_INJECT => Happening::Inject(u8::try_from(value).ok()?),
            _ => return None,
        };
        Some(Event { number, nanoseconds, what })
    }

    /// Exits by reason.
    pub(super) fn exits(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Exit::ALL.iter().zip(&self.exits).map(|(exit, count)| (exit.name(), count.load(Ordering::Relaxed)))
    }

    /// Injected vectors.
    pub(super) fn injected(&self) -> impl Iterator<Item = (&'static str, u64)> {
        VECTOR_NAMES.iter().zip(&self.injected).map(|(name, count)| (*name, count.load(Ordering::Relaxed)))
    }

    /// Hypercalls by kind; those that do not exist as "Unknown".
    pub(super) fn hypercalls(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let known = Op::ALL.iter().filter_map(|&op| {
            let counter = self.hypercalls.get(usize::try_from(op as u32).ok()?)?;
            Some((op.name(), counter.load(Ordering::Relaxed)))
        });
        known.chain([("Unknown", self.unknown.load(Ordering::Relaxed))])
    }

    /// Hypercalls that were answered with an error.
    pub(super) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hypercall_has_a_counter() {
        let stats = HartStats::new(Instant::now());
        for &op in Op::ALL {
            stats.hypercall(Instant::now(), op as u32, 0);
        }
        stats.hypercall(Instant::now(), 9999, 1);
        assert!(
            stats.hypercalls().all(|(_, count)| count == 1),
            "{:?}",
            stats.hypercalls().collect::<Vec<_>>()
        );
        assert_eq!(stats.failed(), 1);
        assert_eq!(stats.exits().next(), Some(("hypercall", Op::ALL.len() as u64 + 1)));
    }

    #[test]
    fn the_ring_keeps_the_newest_and_numbers_do_not_repeat() {
        let stats = HartStats::new(Instant::now());
        assert_eq!(stats.events(0), []);
        for _ in 0..RING_EVENTS {
            stats.exit(Exit::Halt);
        }
        stats.inject(0x21);
        let events = stats.events(0);
        assert_eq!(events.len(), RING_EVENTS);
        assert_eq!(events[0].number, 2);
        assert_eq!(events.last().map(|event| event.what), Some(Happening::Inject(0x21)));
        let last = RING_EVENTS as u64 + 1;
        assert_eq!(stats.events(last - 1).len(), 1);
        assert_eq!(stats.events(last), []);
        assert_eq!(stats.events(u64::MAX), []);
    }

    #[test]
    fn a_reader_never_sees_half_an_event() {
        let stats = HartStats::new(Instant::now());
        let began = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..200_000_u32 {
                    stats.hypercall(began, number, number);
                }
            });
            let mut seen = 0;
            while stats.last.load(Ordering::Relaxed) < 200_000 {
                for event in stats.events(seen) {
                    let Happening::Hypercall { op, status, .. } = event.what else {
                        panic!("{event:?}");
                    };
                    assert_eq!((u64::from(op) + 1, op), (event.number, status));
                    seen = event.number;
                }
            }
        });
    }
}
