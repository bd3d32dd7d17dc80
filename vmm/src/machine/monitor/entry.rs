//! Who may be where: entering contexts, calling gates, changing roots.
//!
//! # Contract
//! - A kernel gets a context only for threads that may enter it ([`Authority::may_enter`](sec::Authority::may_enter),
//!   [`may_call`](sec::Authority::may_call)), and speaks for it only from its root.

use super::contexts::{self, PlaceError};
use super::facts::{self, PoolObjects};
use super::{Entered, Monitor, RootCell, lock, now, refusal, small};
use crate::control::ContextList;
use sec::Authority;
use std::sync::Arc;
use twz_abi::sec::{GateEntry, context_flags, gate_flags};
use twz_abi::{ErrorCode, ObjectId};

impl Monitor {
    /// Makes the first program's context usable.
    ///
    /// # Errors
    /// [`PlaceError`]; the result is `None` if the object is no context.
    pub(in crate::machine) fn enter_first(&self, context: ObjectId) -> Result<Option<u32>, PlaceError> {
        let header = sec::Context::read(&facts::Bytes(&self.pool, context)).ok();
        header.map(|header| lock(&self.contexts).enter(context, &header)).transpose()
    }

    /// Makes the context `into` usable, if threads in `context` may enter it.
    pub(in crate::machine) fn enter(&self, context: ObjectId, into: ObjectId) -> Result<Entered, ErrorCode> {
        let mut authority = self.authority();
        let objects = PoolObjects(&self.pool);
        if context == into {
            // The kernel has it already: a thread of it starts another.
            return lock(&self.contexts)
                .find(into)
                .filter(|(_, live)| live.entered)
                .map(|(number, live)| entered(number, live))
                .ok_or(ErrorCode::NotPermitted);
        }
        self.watch_right(&mut authority, context, into);
        let header = authority.may_enter(&objects, context, into, now()).map_err(refusal)?;
        self.enter_as(into, &header)
    }

    /// The kernel remembers that a context may be entered or its gate called until the revision rises: so it must when the right ends.
    fn watch_right(&self, authority: &mut Authority, context: ObjectId, into: ObjectId) {
        if let Ok(decision) = authority.decide(&PoolObjects(&self.pool), context, into, now()) {
            self.watch_clock(&decision);
        }
    }

    pub(super) fn enter_as(&self, into: ObjectId, header: &sec::Context) -> Result<Entered, ErrorCode> {
        let mut contexts = lock(&self.contexts);
        let number = contexts.enter(into, header).map_err(|error| {
            tracing::info!(%error, context = %into, "a context's table cannot be made");
            ErrorCode::WindowFull
        })?;
        contexts.get(number).map(|live| entered(number, live)).ok_or(ErrorCode::BadContext)
    }

    /// Where gate `number` of the context `into` leads, if threads in `context` may call it; enters that context.
    ///
    /// # Errors
    /// [`ErrorCode::Busy`] if the gate's view is that of a thread that was cut off and has not begun again; what `may_call` refuses.
    pub(in crate::machine) fn gate(
        &self,
        context: ObjectId,
        into: ObjectId,
        number: u64,
    ) -> Result<(Entered, GateEntry), ErrorCode> {
        let number = u32::try_from(number).map_err(|_| ErrorCode::BadArgument)?;
        let mut authority = self.authority();
        let objects = PoolObjects(&self.pool);
        self.watch_right(&mut authority, context, into);
        let gate = authority.may_call(&objects, context, into, number, now()).map_err(refusal)?;
        if gate.view.is_some_and(|view| self.is_dormant(view)) {
            return Err(ErrorCode::Busy);
        }
        let header =
            sec::Context::read(&facts::Bytes(&self.pool, into)).map_err(|_| ErrorCode::BadContext)?;
        let entered = self.enter_as(into, &header)?;
        let entry = GateEntry {
            flags: gate_flags::VALID,
            entry: gate.entry,
            code: gate.code,
            view: gate.view.unwrap_or(ObjectId::NULL),
            stacks: gate.stacks,
            stack_bytes: gate.stack_bytes,
            stack_count: gate.stack_count,
        };
        Ok((entered, entry))
    }

    /// No thread holds a context any more.
    pub(in crate::machine) fn leave(&self, number: u64) -> Result<(), ErrorCode> {
        lock(&self.contexts).leave(small(number)?)
    }

    /// The root in which `hart` goes on.
    pub(in crate::machine) fn switch(&self, hart: u32, number: u64) -> Result<Arc<RootCell>, ErrorCode> {
        lock(&self.contexts).switch(hart, small(number)?)
    }

    /// Takes a table away, for its descriptors; `false` if a hart is in every one.
    pub(in crate::machine) fn spare_descriptors(&self) -> bool {
        lock(&self.contexts).spare_descriptors(None)
    }

    /// Empties a context's window for the kernel, which has forgotten what it showed.
    pub(in crate::machine) fn hide(&self, root: u64, number: u64) -> Result<(), ErrorCode> {
        let mut contexts = lock(&self.contexts);
        let number = small(number)?;
        match contexts.get(number) {
            Some(live) if live.root_number() == root => contexts.hide(number),
            _ => Err(ErrorCode::NotPermitted),
        }
    }

    /// What is in use, for people.
    pub(in crate::machine) fn list(&self) -> ContextList {
        let mut contexts = lock(&self.contexts);
        let counted = contexts.counters();
        let contexts = contexts.all().map(|(_, live)| live.describe()).collect();
        ContextList {
            contexts,
            entered: counted.entered,
            evicted_idle: counted.evicted_idle,
            evicted_in_use: counted.evicted_in_use,
            windows_emptied: counted.hidden,
            moved_out: counted.moved_out,
            evicted_for_descriptors: counted.evicted_for_descriptors,
            tables: counted.tables,
            roots_made: counted.roots,
        }
    }

    /// Whether a hart in `root` may speak for `context`.
    ///
    /// # Errors
    /// [`ErrorCode::NotPermitted`] if not: the context's table is not in that root, or no thread was let into it.
    pub(in crate::machine) fn check_caller(&self, root: u64, context: ObjectId) -> Result<(), ErrorCode> {
        if lock(&self.contexts).is_in(root, context) { Ok(()) } else { Err(ErrorCode::NotPermitted) }
    }
}

pub(super) fn entered(number: u32, live: &contexts::Live) -> Entered {
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    let flags =
        flag(live.shared, context_flags::SHARED) | flag(live.undetachable, context_flags::UNDETACHABLE);
    Entered { number, root: live.root_number(), flags }
}
