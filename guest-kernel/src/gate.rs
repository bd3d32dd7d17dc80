//! Gates: a thread enters another context at a place that the context chose, and comes back to where it was.
//!
//! ```text
//! caller --gate_call--> callee's entry, callee's stack, callee's view and context --gate_return--> caller, all registers as they were
//!                                  `--fault without a handler, ThreadExit--> caller, CalleeFailed
//! ```
//! # Contract
//! - Who calls, and where the callee begins, is the kernel's word: the caller gives a context, a gate's number and three words.
//! - The callee sees no register of the caller but these three, and the caller none of the callee's but two: vector and
//!   floating-point state included.
//! - A call holds one of the gate's stacks until it ends; when all are in use, a further call is refused, not mixed in.
//! - What the monitor said about a gate is used again only while its revision is the same (`Mailbox::revision`), so in a shared root a call
//!   takes no exit, and none succeeds after a revocation has returned.
//! - A callee that does not return keeps the thread, in its turns, as any endless program does: the time is its caller's.

use crate::arch::cpu;
use crate::arch::entry::TrapFrame;
use crate::arch::fpu::FpuPage;
use crate::kernel::Kernel;
use crate::mailbox::Mailbox;
use crate::memory::chains::chained;
use twz_abi::hypercall::Happening;
use twz_abi::object::DATA_OFFSET;
use twz_abi::sec::GateEntry;
use twz_abi::view::{SLOT_SIZE, entry_flags};
use twz_abi::{ErrorCode, ObjectId, Rights};

/// Calls in progress that a thread may have.
const DEPTH_MAX: u32 = 16;
/// Lists of gates that are remembered, and gates in each; more are asked for again.
pub(crate) const GATE_CHAINS: usize = 16;
const GATES_PER_CHAIN: u32 = 4;
/// Callers that are remembered for each.
const CALLERS_MAX: usize = 8;
/// A gate's code and stacks are looked for in this many slots of its view, from 0 on.
const SLOTS_SEARCHED: u64 = 64;

/// A gate that was called.
pub(crate) struct Gate {
    /// The callee's context; the gate is one of its uses.
    context: u32,
    number: u64,
    entry: GateEntry,
    /// The callee's (view, context); the gate counts as a thread in it.
    space: u32,
    /// First instruction.
    start: u64,
    /// Where its stacks begin.
    stacks: u64,
    /// Stacks in use, a bit each.
    busy: u64,
    /// Who may call, as the monitor said at a revision.
    callers: [(ObjectId, u64); CALLERS_MAX],
    next_caller: usize,
    next: Option<u32>,
}
chained!(Gate);

/// A call in progress: where the thread goes back to.
pub(crate) struct Call {
    frame: TrapFrame,
    segments: (u64, u64),
    space: u32,
    handles_fault: bool,
    fault_stack: u64,
    gate: u32,
    stack: u32,
    depth: u32,
    outer: Option<u32>,
    fpu: FpuPage,
}

impl Kernel {
    /// `GateCall`: the running `thread` goes on in the callee.
    pub(crate) fn gate_call(
        &mut self,
        mailbox: Mailbox,
        thread: u32,
        callee: ObjectId,
        number: u64,
        [first, second, third]: [u64; 3],
    ) -> crate::Result {
        let (outer, space) = (self.threads[thread].calls, self.threads[thread].space);
        let depth = outer.map_or(0, |call| self.calls[call].depth) + 1;
        if depth > DEPTH_MAX {
            return Err(ErrorCode::Busy);
        }
        let caller = self.spaces[space].context;
        let gate = self.permitted_gate(mailbox, caller, callee, number)?;
        let stack = self.gates[gate].busy.trailing_ones();
        if stack >= self.gates[gate].entry.stack_count.min(u64::BITS) {
            return Err(ErrorCode::Busy);
        }
        // 1. What the thread comes back to.
        self.release_cpu_state(mailbox);
        let fresh = self.fpu_pages.allocate(&mut self.frames).ok_or(ErrorCode::NoMemory)?;
        let calling = &mut self.threads[thread];
        let call = Call {
            frame: calling.frame,
            segments: calling.segments,
            space,
            handles_fault: calling.handles_fault,
            fault_stack: calling.fault_stack,
            gate,
            stack,
            depth,
            outer,
            fpu: core::mem::replace(&mut calling.fpu, fresh),
        };
        let call = match self.calls.insert(&mut self.frames, call) {
            Ok(call) => call,
            Err(call) => {
                let fresh = core::mem::replace(&mut self.threads[thread].fpu, call.fpu);
                self.fpu_pages.free(&mut self.frames, fresh);
                return Err(ErrorCode::NoMemory);
            }
        };
        // 2. The callee: nothing of the caller but what it passes.
        let entered = &mut self.gates[gate];
        entered.busy |= 1 << stack;
        let stack_bytes = u64::from(entered.entry.stack_bytes);
        let (start, into) = (entered.start, entered.space);
        let top = entered.stacks + (u64::from(stack) + 1) * stack_bytes;
        self.spaces[into].hold();
        self.counters().gate_calls += 1;
        mailbox.record(Happening::GateCalled, depth, self.threads[thread].number, [start, 0]);
        let calling = &mut self.threads[thread];
        (calling.calls, calling.space) = (Some(call), into);
        (calling.segments, calling.handles_fault, calling.fault_stack) = ((0, 0), false, 0);
        calling.frame = TrapFrame {
            rip: start,
            // As behind a CALL: the entry is an ordinary function of the C ABI.
            rsp: top - 8,
            rflags: cpu::sanitise_flags(0),
            rdi: first,
            rsi: second,
            rdx: third,
            rcx: caller.lo,
            r8: caller.hi,
            r9: number,
            cs: calling.frame.cs,
            ss: calling.frame.ss,
            ..TrapFrame::default()
        };
        Ok(())
    }

    /// `GateReturn`: `thread` goes back to its caller with two words.
    pub(crate) fn gate_return(
        &mut self,
        mailbox: Mailbox,
        thread: u32,
        (first, second): (u64, u64),
    ) -> crate::Result {
        if self.threads[thread].calls.is_none() {
            return Err(ErrorCode::BadArgument);
        }
        self.end_call(mailbox, thread, 0);
        let frame = &mut self.threads[thread].frame;
        (frame.rax, frame.rdx, frame.r8) = (0, first, second);
        Ok(())
    }

    /// `CallerRights`: what the context that called the gate in which `thread` is may do with an object.
    pub(crate) fn caller_rights(
        &mut self,
        mailbox: Mailbox,
        thread: u32,
        object: ObjectId,
    ) -> crate::Result<Rights> {
        let call = self.threads[thread].calls.ok_or(ErrorCode::BadArgument)?;
        let caller = self.calls[call].space;
        let (record, context) = (self.spaces[caller].record, self.spaces[caller].context);
        // The monitor answers for a context in its own root only; this thread's space is loaded again when it goes on.
        self.visit(mailbox, record)?;
        match mailbox.stat(context, object) {
            Err(ErrorCode::NotPermitted | ErrorCode::NoObject) => Ok(Rights::empty()),
            answer => answer.map(|stat| stat.granted()),
        }
    }

    /// Ends the last call of `thread` without a return.
    pub(crate) fn drop_call(&mut self, mailbox: Mailbox, thread: u32) {
        self.counters().gate_failures += 1;
        self.end_call(mailbox, thread, 1);
    }

    /// Gives `thread` the state back that it had before its last call.
    fn end_call(&mut self, mailbox: Mailbox, thread: u32, failed: u32) {
        let Some(index) = self.threads[thread].calls else { return };
        let Some(call) = self.calls.remove(&mut self.frames, index) else { return };
        mailbox.record(Happening::GateLeft, failed, self.threads[thread].number, [0, 0]);
        let left = self.threads[thread].space;
        let hart = mailbox.hart();
        if self.hart(hart).vector_owner == Some(thread) {
            // What the CPU holds is the callee's, and ends here.
            self.hart(hart).vector_owner = None;
        }
        let calling = &mut self.threads[thread];
        (calling.frame, calling.segments) = (call.frame, call.segments);
        let callees = core::mem::replace(&mut calling.fpu, call.fpu);
        (calling.space, calling.calls) = (call.space, call.outer);
        (calling.handles_fault, calling.fault_stack) = (call.handles_fault, call.fault_stack);
        self.fpu_pages.free(&mut self.frames, callees);
        self.gates[call.gate].busy &= !(1 << call.stack);
        // The gate itself still counts as a thread in it, so its tables stay.
        self.leave_space(mailbox, left);
    }

    /// The gate, if threads in `caller` may call it now.
    fn permitted_gate(
        &mut self,
        mailbox: Mailbox,
        caller: ObjectId,
        callee: ObjectId,
        number: u64,
    ) -> crate::Result<u32> {
        let revision = mailbox.revision();
        let known = self.find_gate(callee, number);
        if let Some(gate) = known
            && self.gates[gate].callers.contains(&(caller, revision))
        {
            return Ok(gate);
        }
        let mut asked = mailbox.gate(caller, callee, number);
        if matches!(asked, Err(ErrorCode::WindowFull)) {
            self.forget_idle_gates(mailbox, caller)?;
            asked = mailbox.gate(caller, callee, number);
        }
        let known = self.find_gate(callee, number);
        let (entered, entry) = match asked {
            Ok(answer) => answer,
            Err(error) => {
                self.drop_idle_gate(mailbox, known);
                return Err(error);
            }
        };
        let context = self.note_context(mailbox, callee, entered)?;
        let gate = match known {
            Some(gate) if self.gates[gate].entry == entry => {
                self.release_context(mailbox, context);
                gate
            }
            Some(gate) if self.gates[gate].busy != 0 => {
                // It was changed while calls are in progress: they end on their stacks first.
                self.release_context(mailbox, context);
                return Err(ErrorCode::Busy);
            }
            known => {
                self.drop_idle_gate(mailbox, known);
                self.make_room_for_gate(mailbox, hash_of(callee, number));
                self.make_gate(mailbox, context, number, entry)?
            }
        };
        let made = &mut self.gates[gate];
        made.callers[made.next_caller] = (caller, revision);
        made.next_caller = (made.next_caller + 1) % CALLERS_MAX;
        Ok(gate)
    }

    /// Gives the monitor back the contexts of gates that are only kept for their next call, when it has no table left for another one.
    /// Ends in the root of `asking`, where the monitor is asked again.
    pub(crate) fn forget_idle_gates(&mut self, mailbox: Mailbox, asking: ObjectId) -> crate::Result {
        for index in 0..self.gates.index_end() {
            let gate = self.gates.get(index).map(|_| index);
            self.drop_idle_gate(mailbox, gate);
        }
        let asking = self.find_context(asking).ok_or(ErrorCode::BadContext)?;
        self.visit(mailbox, asking)
    }

    fn find_gate(&self, callee: ObjectId, number: u64) -> Option<u32> {
        let is_it = |gate: &Gate| gate.number == number && self.contexts[gate.context].id == callee;
        self.gate_chains.find(&self.gates, hash_of(callee, number), is_it)
    }

    /// Remembers a gate; takes over one use of `context`, or ends it.
    fn make_gate(
        &mut self,
        mailbox: Mailbox,
        context: u32,
        number: u64,
        entry: GateEntry,
    ) -> crate::Result<u32> {
        let made = self.place_gate(mailbox, context, number, entry);
        if made.is_err() {
            self.release_context(mailbox, context);
        }
        made
    }

    fn place_gate(
        &mut self,
        mailbox: Mailbox,
        context: u32,
        number: u64,
        entry: GateEntry,
    ) -> crate::Result<u32> {
        // In a view of the caller's choosing the callee's own pointers would lead where the caller likes.
        if entry.view.is_null() {
            return Err(ErrorCode::BadContext);
        }
        let space = self.enter_space(mailbox, entry.view, context)?;
        let [Some(code), Some(stacks)] = self.slots_of(mailbox, space, [entry.code, entry.stacks]) else {
            self.leave_space(mailbox, space);
            return Err(ErrorCode::BadContext);
        };
        let gate = Gate {
            context,
            number,
            entry,
            space,
            start: code * SLOT_SIZE + u64::from(entry.entry),
            stacks: stacks * SLOT_SIZE + DATA_OFFSET,
            busy: 0,
            callers: [(ObjectId::NULL, 0); CALLERS_MAX],
            next_caller: 0,
            next: None,
        };
        match self.gates.insert(&mut self.frames, gate) {
            Ok(index) => {
                let hash = hash_of(self.contexts[context].id, number);
                self.gate_chains.link(&mut self.gates, hash, index);
                Ok(index)
            }
            Err(_) => {
                self.leave_space(mailbox, space);
                Err(ErrorCode::NoMemory)
            }
        }
    }

    /// The first slots of a space's view that map these objects.
    fn slots_of(&mut self, mailbox: Mailbox, space: u32, objects: [ObjectId; 2]) -> [Option<u64>; 2] {
        let mut found = [None; 2];
        for slot in 0..SLOTS_SEARCHED {
            let entry = self.view_entry(mailbox, space, slot);
            let Some(entry) = entry.ok().filter(|entry| entry.flags & entry_flags::VALID != 0) else {
                continue;
            };
            for (place, object) in found.iter_mut().zip(objects) {
                if place.is_none() && entry.target == object {
                    *place = Some(slot);
                }
            }
            if found.iter().all(Option::is_some) {
                break;
            }
        }
        found
    }

    /// Forgets a gate that no call is in.
    fn drop_idle_gate(&mut self, mailbox: Mailbox, gate: Option<u32>) {
        let Some(index) = gate.filter(|&gate| self.gates[gate].busy == 0) else { return };
        let hash = hash_of(self.contexts[self.gates[index].context].id, self.gates[index].number);
        self.gate_chains.unlink(&mut self.gates, hash, index);
        if let Some(gate) = self.gates.remove(&mut self.frames, index) {
            self.leave_space(mailbox, gate.space);
            self.release_context(mailbox, gate.context);
        }
    }

    /// Forgets an idle gate if there are too many with this hash, the one that was made first.
    fn make_room_for_gate(&mut self, mailbox: Mailbox, hash: u64) {
        let (mut count, mut oldest, mut next) = (0, None, self.gate_chains.first(hash));
        while let Some(index) = next {
            count += 1;
            if self.gates[index].busy == 0 {
                oldest = Some(index);
            }
            next = self.gates[index].next;
        }
        if count >= GATES_PER_CHAIN {
            self.drop_idle_gate(mailbox, oldest);
        }
    }
}

const fn hash_of(callee: ObjectId, number: u64) -> u64 {
    callee.lo.wrapping_add(number)
}
