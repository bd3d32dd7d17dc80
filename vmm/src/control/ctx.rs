//! Security contexts on the control socket: which are in use, what is bound in them and why, and taking rights back.

use super::Request;
use super::client::{ClientError, ask};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// Contexts in use, and what was counted about all of them since the machine started.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct ContextList {
    /// Contexts in use or kept in case that they are entered again.
    pub contexts: Vec<ContextInfo>,
    /// Times that a context was brought into use.
    pub entered: u64,
    /// Tables taken away from idle contexts.
    pub evicted_idle: u64,
    /// Tables taken away from contexts in use, to be made again when needed.
    pub evicted_in_use: u64,
    /// Of both, those that went because the process had no file descriptor left.
    #[serde(default)]
    pub evicted_for_descriptors: u64,
    /// Windows emptied because they were full.
    pub windows_emptied: u64,
    /// Contexts with placement `shared` that got a root to themselves, because the shared one was full.
    pub moved_out: u64,
    /// Second-stage tables that exist now.
    pub tables: u64,
    /// Roots (KVM virtual machines) made.
    pub roots_made: u64,
}

/// A context in use.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct ContextInfo {
    /// Its object's ID.
    pub id: String,
    /// `own` or `shared`.
    pub placement: String,
    /// Whether a thread holds it.
    pub entered: bool,
    /// Number of the root that its table is in; 0: it has no table now.
    pub root: u64,
    /// Guest-physical start of its window.
    pub window: Option<u64>,
    /// Objects bound in it.
    pub bound: Vec<BoundInfo>,
}

/// An object bound in a context.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct BoundInfo {
    /// The object's ID.
    pub object: String,
    /// Rights granted: `rwxud` with a dash for each that is missing.
    pub rights: String,
    /// Digests of the capabilities that they follow from; none: from default rights or creation alone.
    pub capabilities: Vec<String>,
    /// Chunks of 2 MiB that it takes in the window.
    pub chunks: u64,
}

/// What the host takes back.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Revoke {
    /// All capabilities to an object so far.
    Object {
        /// Its ID.
        id: String,
    },
    /// Everything that a context holds, for good.
    Context {
        /// Its ID.
        id: String,
    },
    /// One capability, and all parts of it.
    Capability {
        /// The object that it gives rights to.
        target: String,
        /// The capability's digest, 64 hexadecimal digits.
        digest: String,
    },
}

/// The machine's answer to a revocation.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Revoked {
    /// Nanoseconds that it took; no access that needed what was revoked succeeds after that.
    pub took_ns: u64,
}

/// Asks a machine which contexts are in use.
///
/// # Errors
/// [`ClientError`].
pub fn ask_contexts(path: &Path) -> Result<ContextList, ClientError> {
    ask(path, &Request::Contexts)
}

/// Has a machine take rights back.
///
/// # Errors
/// [`ClientError`]; the machine's refusal among them.
pub fn ask_revoke(path: &Path, what: &Revoke) -> Result<Revoked, ClientError> {
    ask(path, &Request::Revoke { what: what.clone() })
}

impl fmt::Display for ContextList {
    /// A line for each context, then the counts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for context in &self.contexts {
            let state = if context.entered { "entered" } else { "idle" };
            let (root, bound) = (context.root, context.bound.len());
            writeln!(f, "{} {:<6} {state:<7} root {root}, {bound} bound", context.id, context.placement)?;
        }
        writeln!(
            f,
            "{} tables; {} roots made; evicted: {} idle, {} in use, {} of these for descriptors; windows emptied: {}; moved out of the shared root: {}",
            self.tables,
            self.roots_made,
            self.evicted_idle,
            self.evicted_in_use,
            self.evicted_for_descriptors,
            self.windows_emptied,
            self.moved_out
        )
    }
}

impl fmt::Display for ContextInfo {
    /// What is bound, a line each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let window = self.window.map_or_else(|| "no window".into(), |base| format!("window {base:#x}"));
        writeln!(f, "context {} ({}, root {}, {window})", self.id, self.placement, self.root)?;
        for bound in &self.bound {
            let why = match bound.capabilities.as_slice() {
                [] => "by default or creation".to_owned(),
                digests => format!("by {}", digests.join(", ")),
            };
            writeln!(f, "  {} {} {:>4} chunks, {why}", bound.object, bound.rights, bound.chunks)?;
        }
        Ok(())
    }
}
