//! The control socket: what a running machine tells about itself.
//!
//! `twzvmm --control PATH …` listens on a UNIX socket that only its user can open; `twzvmm stats`, `twzvmm trace` and `twzvmm ctx`
//! ask there.
//!
//! # Protocol
//! One request a connection: a line of JSON ([`Request`]), answered with a line of JSON ([`Stats`], [`Trace`], or `{"error": "…"}`);
//! then the connection is closed.
//!
//! | request | answer |
//! |---|---|
//! | `{"get":"stats"}` | [`Stats`] |
//! | `{"get":"trace","after":[0,0]}` | [`Trace`]: events of each hart after the numbers given, missing ones count as 0 |
//! | `{"get":"contexts"}` | [`ContextList`] |
//! | `{"get":"revoke","what":{"kind":"object","id":"…"}}` | [`Revoked`], when the revocation is complete |

mod client;
mod ctx;
mod server;
mod text;

pub use client::{ClientError, ask_stats, ask_trace};
pub use ctx::{BoundInfo, ContextInfo, ContextList, Revoke, Revoked, ask_contexts, ask_revoke};
pub use server::{ControlError, Server};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "get", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// All counters.
    Stats,
    /// Events of the trace ring.
    Trace {
        /// For each hart, the number of the last event that the asker knows.
        #[serde(default)]
        after: Vec<u64>,
    },
    /// Security contexts in use.
    Contexts,
    /// Take rights back.
    Revoke {
        /// Which.
        what: Revoke,
    },
}

/// Counters since the machine started; they only grow. The set is no snapshot: each is read by itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Stats {
    /// Nanoseconds since the machine started.
    pub uptime_ns: u64,
    /// The guest kernel's counters by name ([`twz_abi::counters::Counters`]); absent before the kernel has said where they are.
    pub kernel: Option<BTreeMap<String, u64>>,
    /// The VMM's own, all harts together.
    pub vmm: HartCounters,
    /// The VMM's own by hart.
    pub harts: Vec<HartCounters>,
    /// KVM's own, all vCPUs together, as it names them; empty where it has none.
    #[serde(default)]
    pub kvm: BTreeMap<String, u64>,
}

/// What the VMM counts of a hart.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct HartCounters {
    /// Exits from `KVM_RUN` by reason.
    pub exits: BTreeMap<String, u64>,
    /// Hypercalls by operation.
    pub hypercalls: BTreeMap<String, u64>,
    /// Hypercalls that were answered with an error.
    pub failed_hypercalls: u64,
    /// Times that a vCPU's registers were read or written by ioctl: when a hart first enters a root, and after refused accesses.
    #[serde(default)]
    pub register_ioctls: u64,
    /// Vectors injected.
    pub injected: BTreeMap<String, u64>,
}

impl HartCounters {
    /// Adds another hart's.
    pub(crate) fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.exits, &other.exits),
            (&mut self.hypercalls, &other.hypercalls),
            (&mut self.injected, &other.injected),
        ];
        for (sum, part) in pairs {
            for (name, count) in part {
                *sum.entry(name.clone()).or_default() += count;
            }
        }
        self.failed_hypercalls += other.failed_hypercalls;
        self.register_ioctls += other.register_ioctls;
    }
}

/// Events, a list for each hart, oldest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Trace {
    /// By hart.
    pub harts: Vec<Vec<TraceEvent>>,
}

/// One event.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct TraceEvent {
    /// Its number in the hart's trace; a gap means that events were overwritten before they were read.
    pub number: u64,
    /// Nanoseconds since the machine started.
    pub time_ns: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: TraceWhat,
}

/// What happened.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum TraceWhat {
    /// A hypercall was served.
    Hypercall {
        /// The operation's name, or its number if it is unknown.
        op: String,
        /// 0, or the error's number.
        status: u32,
        /// Nanoseconds that it took in the VMM.
        took_ns: u64,
    },
    /// Another exit from `KVM_RUN`.
    Exit {
        /// Why.
        reason: String,
    },
    /// A vector was injected.
    Inject {
        /// Its number.
        vector: u8,
    },
    /// The kernel recorded something; the time is that of the hart's next exit. What the numbers mean is said at
    /// [`twz_abi::hypercall::Happening`].
    Kernel {
        /// Its name, or its number if it is unknown.
        what: String,
        /// A small number.
        detail: u32,
        /// The thread's number.
        thread: u64,
        /// A word.
        first: u64,
        /// Another.
        second: u64,
    },
}

/// What a server asks the machine. Called from the server's thread.
pub trait Source: Send + Sync {
    /// The counters.
    fn stats(&self) -> Stats;
    /// Events of each hart after the given numbers.
    fn trace(&self, after: &[u64]) -> Trace;
    /// Security contexts in use.
    fn contexts(&self) -> ContextList;
    /// Takes rights back; complete when it returns.
    ///
    /// # Errors
    /// Why not, in words.
    fn revoke(&self, what: &Revoke) -> Result<Revoked, String>;
}
