//! Which thread a hart runs next.
//!
//! One queue for each priority, shared by all harts; a thread of a higher priority always goes first, equals take turns. A thread in a
//! queue has its whole state in memory, so any hart that its affinity allows may take it.

use crate::arch::entry::{self, TrapFrame};
use crate::arch::{cpu, fpu};
use crate::kernel::Kernel;
use crate::mailbox::Mailbox;
use crate::memory::frames::Frame;
use crate::thread::State;
use twz_abi::ErrorCode;
use twz_abi::hypercall::Happening;
use twz_abi::thread::PRIORITY_MAX;

/// How long a thread runs while others of its priority wait.
const TIME_SLICE_NANOSECONDS: u64 = 10_000_000;
const PRIORITIES: usize = PRIORITY_MAX as usize + 1;

/// Threads that could run.
pub(crate) struct RunQueue {
    head: [Option<u32>; PRIORITIES],
    tail: [Option<u32>; PRIORITIES],
    /// Priorities whose queue is not empty, a bit each.
    waiting: u32,
}

impl RunQueue {
    /// Nobody waits.
    pub(crate) const EMPTY: Self = Self { head: [None; PRIORITIES], tail: [None; PRIORITIES], waiting: 0 };
}

impl Kernel {
    /// Puts a thread at the end of its queue and sees to it that a hart looks.
    pub(crate) fn enqueue(&mut self, mailbox: Mailbox, thread: u32) {
        let level = self.threads[thread].priority as usize;
        self.threads[thread].state = State::Ready;
        self.threads[thread].next = None;
        match self.queue.tail[level] {
            Some(tail) => self.threads[tail].next = Some(thread),
            None => self.queue.head[level] = Some(thread),
        }
        self.queue.tail[level] = Some(thread);
        self.queue.waiting |= 1 << level;

        self.call_hart(mailbox, thread);
    }

    /// Makes a hart look at the queue because of `thread`. An idle hart is best; else the one that runs the least important thread, if that is
    /// less important than this one; else one that the thread is confined to, so that it takes turns there.
    fn call_hart(&mut self, mailbox: Mailbox, thread: u32) {
        let (priority, affinity) = (self.threads[thread].priority, self.threads[thread].affinity);
        let here = mailbox.hart();
        let allowed = |hart: &u32| affinity >> *hart & 1 == 1;
        let harts = || (0..self.hart_count()).filter(allowed);
        let chosen = harts().find(|&hart| self.hart_ref(hart).is_idle).or_else(|| {
            let busy =
                harts().filter(|&hart| hart != here).min_by_key(|&hart| self.hart_ref(hart).priority)?;
            let outranks = self.hart_ref(busy).priority < priority;
            (outranks || !allowed(&here)).then_some(busy)
        });
        if let Some(hart) = chosen {
            self.hart(hart).is_idle = false;
            mailbox.kick(1 << hart);
        }
    }

    /// The running `thread` has no reason to stop: it goes on when the entry ends, unless somebody more important waits.
    pub(crate) fn go_on(&mut self, thread: u32) {
        self.continuing = Some(thread);
    }

    /// Whether `thread`, which this hart has been running, can go on with everything loaded as it is; after almost every entry it can.
    pub(crate) fn stays(&mut self, hart: u32, thread: u32) -> bool {
        let state = self.hart_ref(hart);
        // Those of its own priority get their turn when the slice is over, so one must be running.
        let rivals = self.queue.waiting >> state.priority;
        if rivals > 1 || (rivals == 1 && !state.timer_armed) {
            return false;
        }
        let running = &self.threads[thread];
        let is_loaded = state.space == Some(running.space) && state.vector_owner == Some(thread);
        is_loaded
            && cpu::is_user_address(running.frame.rip)
            && running.affinity >> hart & 1 == 1
            && running.priority == self.hart_ref(hart).priority
    }

    /// Puts the thread that this hart was running first in its queue, so that it goes on at once unless somebody more important waits or it
    /// may no longer run here; then an idle hart is told.
    pub(crate) fn put_back(&mut self, mailbox: Mailbox, thread: u32) {
        let level = self.threads[thread].priority as usize;
        let affinity = self.threads[thread].affinity;
        self.threads[thread].state = State::Ready;
        self.threads[thread].next = self.queue.head[level];
        self.queue.head[level] = Some(thread);
        self.queue.tail[level] = self.queue.tail[level].or(Some(thread));
        self.queue.waiting |= 1 << level;
        let may_stay = affinity >> mailbox.hart() & 1 == 1 && self.queue.waiting >> (level + 1) == 0;
        if !may_stay {
            self.call_hart(mailbox, thread);
        }
    }

    /// Takes the most important thread that may run on `hart`.
    pub(crate) fn next_thread(&mut self, hart: u32) -> Option<u32> {
        let mut levels = self.queue.waiting;
        while levels != 0 {
            let level = (u32::BITS - 1 - levels.leading_zeros()) as usize;
            levels &= !(1 << level);
            let (mut before, mut next) = (None, self.queue.head[level]);
            while let Some(thread) = next {
                let after = self.threads[thread].next;
                if self.threads[thread].affinity >> hart & 1 == 1 {
                    self.unlink(level, before, thread, after);
                    return Some(thread);
                }
                (before, next) = (Some(thread), after);
            }
        }
        None
    }

    fn unlink(&mut self, level: usize, before: Option<u32>, thread: u32, after: Option<u32>) {
        match before {
            Some(before) => self.threads[before].next = after,
            None => self.queue.head[level] = after,
        }
        if self.queue.tail[level] == Some(thread) {
            self.queue.tail[level] = before;
        }
        if self.queue.head[level].is_none() {
            self.queue.waiting &= !(1 << level);
        }
        self.threads[thread].next = None;
    }

    /// Takes a ready thread out of the queue, to put it back with other properties.
    pub(crate) fn dequeue(&mut self, thread: u32) {
        let level = self.threads[thread].priority as usize;
        let (mut before, mut next) = (None, self.queue.head[level]);
        while let Some(candidate) = next {
            let after = self.threads[candidate].next;
            if candidate == thread {
                return self.unlink(level, before, thread, after);
            }
            (before, next) = (Some(candidate), after);
        }
    }

    /// Makes `hart` the one that runs `thread`: its root and tables, its vector state, its frame. `None` if that cannot
    /// be done, which is the thread's end.
    pub(crate) fn prepare(&mut self, hart: u32, mailbox: Mailbox, thread: u32) -> Option<*const TrapFrame> {
        while self.load_space(hart, self.threads[thread].space).is_err() {
            // Its context cannot be reached any more.
            if self.threads[thread].calls.is_none() {
                self.lose_thread(mailbox, thread);
                return None;
            }
            self.drop_call(mailbox, thread);
            self.threads[thread].frame.rax = ErrorCode::CalleeFailed as u64;
        }
        if self.hart(hart).vector_owner != Some(thread) {
            self.take_cpu(mailbox, thread);
            self.counters().thread_switches += 1;
            mailbox.record(Happening::Switched, 0, self.threads[thread].number, [0, 0]);
        }
        let running = &mut self.threads[thread];
        running.hart = hart;
        running.kernel_stack = entry::hart_stack_top(hart);
        running.state = State::Running;
        let priority = running.priority;
        let frame = &raw const running.frame;
        let equals_wait = self.queue.waiting >> priority != 0;
        let state = self.hart(hart);
        state.priority = priority;
        state.tables.set_frame_end(frame as u64 + size_of::<TrapFrame>() as u64);
        if equals_wait && !state.timer_armed {
            state.timer_armed = true;
            mailbox.set_timer(TIME_SLICE_NANOSECONDS);
        }
        Some(frame)
    }

    /// Gives the CPU the vector state and the bases of `thread`, and saves those of the thread that ran here.
    fn take_cpu(&mut self, mailbox: Mailbox, thread: u32) {
        let from = self.fpu_pages.source(&self.threads[thread].fpu);
        let to = self.released(mailbox.hart());
        fpu::exchange(mailbox, to, from);
        let (fs, gs) = self.threads[thread].segments;
        cpu::set_segment_bases(fs, gs);
        self.hart(mailbox.hart()).vector_owner = Some(thread);
    }

    /// Saves what the CPU holds of the thread that ran here. Done before the lock is released, so a thread in the queue is whole and any
    /// hart may take it.
    pub(crate) fn release_cpu_state(&mut self, mailbox: Mailbox) {
        let to = self.released(mailbox.hart());
        fpu::exchange(mailbox, to, None);
    }

    /// Saves the bases of the thread whose state the CPU holds, and says where its vector state belongs; the CPU holds nobody's then.
    fn released(&mut self, hart: u32) -> Option<Frame> {
        let owner = self.hart(hart).vector_owner.take()?;
        let owner = self.threads.get_mut(owner)?;
        owner.segments = cpu::segment_bases();
        Some(owner.fpu.target())
    }
}
