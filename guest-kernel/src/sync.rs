//! `ThreadSync`: sleeping on words and waking.
//!
//! A word is (object, offset). The kernel's lock makes "look at the word, then sleep" one step: a waker stores first and calls the kernel
//! afterwards, so either the sleeper sees the new value, or the waker finds the sleeper.

use crate::arch::usercopy;
use crate::kernel::Kernel;
use crate::mailbox::Mailbox;
use crate::thread::State;
use twz_abi::call::InSlice;
use twz_abi::sync::{SYNC_OPS_MAX, SyncKind, SyncOp};
use twz_abi::{ErrorCode, ObjectId, Rights};
use zerocopy::FromBytes;

/// Buckets of the table that finds sleepers.
pub(crate) const WAIT_BUCKETS: usize = 1024;
/// How often a word is read again after its page was made usable.
const READ_ATTEMPTS: u32 = 4;

/// A word in an object.
type Place = (ObjectId, u64);

/// A thread that sleeps on a word.
pub(crate) struct Wait {
    thread: u32,
    place: Place,
    next_in_bucket: Option<u32>,
    previous_in_bucket: Option<u32>,
    next_of_thread: Option<u32>,
}

/// The waits whose places fall together, longest sleep first.
#[derive(Clone, Copy)]
pub(crate) struct WaitBucket {
    head: Option<u32>,
    tail: Option<u32>,
}

impl WaitBucket {
    /// Nobody sleeps.
    pub(crate) const EMPTY: Self = Self { head: None, tail: None };
}

/// What a call of `ThreadSync` comes to.
pub(crate) enum Synced {
    /// It returns at once: how many were woken, and whether a word had another value already.
    Now(u64, bool),
    /// The thread sleeps.
    Asleep,
}

impl Kernel {
    /// Executes the operations of one call of the running `thread`: all wakes, then all sleeps.
    pub(crate) fn thread_sync(
        &mut self,
        mailbox: Mailbox,
        thread: u32,
        operations: InSlice<SyncOp>,
        timeout: u64,
    ) -> crate::Result<Synced> {
        let length = operations.count_in(1..=SYNC_OPS_MAX)? * size_of::<SyncOp>();
        let space = self.threads[thread].space;
        // Read once: what stands in the program's memory may be another operation by the time of the sleeps. No hypercall that is made
        // here uses the data area.
        let mut data = mailbox;
        let data = data.data(length);
        self.copy_in(mailbox, space, operations.address, data)?;
        let mut woken = 0;
        let mut sleeps = false;
        for bytes in data.chunks_exact(size_of::<SyncOp>()) {
            let (operation, kind) = parse(bytes)?;
            if kind == SyncKind::Wake {
                let place = self.word_place(mailbox, space, operation.address)?;
                woken += self.wake(mailbox, place, operation.value);
            } else {
                sleeps = true;
            }
        }
        if !sleeps {
            return Ok(Synced::Now(woken, false));
        }
        // The time is read before anything is queued, so that nothing has to be taken back.
        let deadline = match timeout {
            u64::MAX => None,
            _ => Some(mailbox.clock()?.0.saturating_add(timeout)),
        };
        for bytes in data.chunks_exact(size_of::<SyncOp>()) {
            let (operation, kind) = parse(bytes)?;
            let queued = match kind {
                SyncKind::Wake => continue,
                SyncKind::Sleep32 => self.sleep_on(mailbox, thread, &operation, 4),
                SyncKind::Sleep64 => self.sleep_on(mailbox, thread, &operation, 8),
            };
            match queued {
                Ok(true) => {}
                Ok(false) => {
                    self.forget_waits(thread);
                    return Ok(Synced::Now(woken, true));
                }
                Err(error) => {
                    self.forget_waits(thread);
                    return Err(error);
                }
            }
        }
        if timeout == 0 {
            self.forget_waits(thread);
            return Err(ErrorCode::TimedOut);
        }
        let sleeper = &mut self.threads[thread];
        sleeper.state = State::Sleeps;
        sleeper.deadline = deadline;
        // What it returns when it is woken.
        (sleeper.frame.rax, sleeper.frame.rdx, sleeper.frame.r8) = (0, woken, 0);
        self.counters().sleeps += 1;
        if let Some(deadline) = deadline {
            sleeper_deadline(self, mailbox, thread, deadline);
        }
        Ok(Synced::Asleep)
    }

    /// Wakes at most `limit` threads that sleep on a word; returns how many.
    pub(crate) fn wake(&mut self, mailbox: Mailbox, place: Place, limit: u64) -> u64 {
        let mut woken = 0;
        // Sleepers are put at the end of the bucket, so who has slept longest comes first.
        let mut next = self.wait_buckets[bucket(place)].head;
        while let Some(index) = next
            && woken < limit
        {
            let wait = &self.waits[index];
            next = wait.next_in_bucket;
            if wait.place != place {
                continue;
            }
            let thread = wait.thread;
            // Waking removes all waits of the thread. Those before this one were passed already, so the way goes on, and ends.
            while let Some(other) = next.filter(|&next| self.waits[next].thread == thread) {
                next = self.waits[other].next_in_bucket;
            }
            self.wake_thread(mailbox, thread);
            woken += 1;
        }
        self.counters().wakes += woken;
        woken
    }

    fn wake_thread(&mut self, mailbox: Mailbox, thread: u32) {
        self.forget_waits(thread);
        if self.threads[thread].deadline.take().is_some() {
            self.unlink_sleeper(thread);
        }
        self.enqueue(mailbox, thread);
    }

    /// Wakes everybody whose time is up, and sets the alarm for the next one. Called when a hart took an interrupt or woke.
    pub(crate) fn expire(&mut self, mailbox: Mailbox) {
        if self.timed_sleepers.is_none() {
            // What was set may ring, or has rung, for somebody who was woken before: the next sleeper must not rely on it.
            self.alarm = u64::MAX;
            return;
        }
        let Ok((now, _)) = mailbox.clock() else { return };
        if now < self.alarm {
            // Nobody's time is up; this may have been the alarm nevertheless.
            return mailbox.set_alarm(self.alarm);
        }
        let mut earliest = u64::MAX;
        let mut next = self.timed_sleepers;
        while let Some(thread) = next {
            next = self.threads[thread].next;
            let deadline = self.threads[thread].deadline.unwrap_or(0);
            if deadline <= now {
                self.threads[thread].frame.rax = ErrorCode::TimedOut as u64;
                self.wake_thread(mailbox, thread);
            } else {
                earliest = earliest.min(deadline);
            }
        }
        self.alarm = earliest;
        if earliest != u64::MAX {
            mailbox.set_alarm(earliest);
        }
    }

    fn unlink_sleeper(&mut self, thread: u32) {
        let unlinked = &mut self.threads[thread];
        let (before, after) = (unlinked.previous.take(), unlinked.next.take());
        match before {
            Some(before) => self.threads[before].next = after,
            None => self.timed_sleepers = after,
        }
        if let Some(after) = after {
            self.threads[after].previous = before;
        }
    }

    /// The place of a word that the program can read.
    fn word_place(&mut self, mailbox: Mailbox, space: u32, address: u64) -> crate::Result<Place> {
        if !address.is_multiple_of(4) {
            return Err(ErrorCode::BadArgument);
        }
        self.resolve(mailbox, space, address, Rights::READ).map_err(|_| ErrorCode::BadAddress)?;
        self.place_of(space, address).ok_or(ErrorCode::BadAddress)
    }

    /// Queues the thread on a word of `size` bytes if it has the expected value; `false` if not.
    fn sleep_on(
        &mut self,
        mailbox: Mailbox,
        thread: u32,
        operation: &SyncOp,
        size: usize,
    ) -> crate::Result<bool> {
        if !operation.address.is_multiple_of(size as u64) {
            return Err(ErrorCode::BadArgument);
        }
        let space = self.threads[thread].space;
        let mut found = None;
        let mut place = (ObjectId::NULL, 0);
        for attempt in 0..READ_ATTEMPTS {
            self.forget_refused(mailbox, space, attempt);
            place = self.word_place(mailbox, space, operation.address)?;
            let mut word = [0; 8];
            if usercopy::read_word(operation.address, &mut word[..size]).is_ok() {
                found = Some(u64::from_le_bytes(word));
                break;
            }
        }
        if found.ok_or(ErrorCode::BadAddress)? != operation.value {
            return Ok(false);
        }
        let bucket = bucket(place);
        let last = self.wait_buckets[bucket].tail;
        let wait = Wait {
            thread,
            place,
            next_in_bucket: None,
            previous_in_bucket: last,
            next_of_thread: self.threads[thread].waits,
        };
        let wait = self.waits.insert(&mut self.frames, wait).map_err(|_| ErrorCode::NoMemory)?;
        match last {
            Some(last) => self.waits[last].next_in_bucket = Some(wait),
            None => self.wait_buckets[bucket].head = Some(wait),
        }
        self.wait_buckets[bucket].tail = Some(wait);
        self.threads[thread].waits = Some(wait);
        Ok(true)
    }

    /// Takes a thread off every word that it sleeps on.
    fn forget_waits(&mut self, thread: u32) {
        let mut next = self.threads[thread].waits.take();
        while let Some(index) = next {
            let Some(wait) = self.waits.remove(&mut self.frames, index) else { return };
            let bucket = bucket(wait.place);
            match wait.previous_in_bucket {
                Some(before) => self.waits[before].next_in_bucket = wait.next_in_bucket,
                None => self.wait_buckets[bucket].head = wait.next_in_bucket,
            }
            match wait.next_in_bucket {
                Some(after) => self.waits[after].previous_in_bucket = wait.previous_in_bucket,
                None => self.wait_buckets[bucket].tail = wait.previous_in_bucket,
            }
            next = wait.next_of_thread;
        }
    }
}

/// An operation, checked.
fn parse(bytes: &[u8]) -> crate::Result<(SyncOp, SyncKind)> {
    let operation = SyncOp::read_from_bytes(bytes).map_err(|_| ErrorCode::BadArgument)?;
    let kind = SyncKind::try_from(operation.kind).map_err(|_| ErrorCode::BadArgument)?;
    if operation.reserved == 0 { Ok((operation, kind)) } else { Err(ErrorCode::BadArgument) }
}

/// Puts a sleeper on the list of those with a deadline, and sets the alarm if it is the first to wake.
fn sleeper_deadline(kernel: &mut Kernel, mailbox: Mailbox, thread: u32, deadline: u64) {
    let after = kernel.timed_sleepers.replace(thread);
    kernel.threads[thread].next = after;
    if let Some(after) = after {
        kernel.threads[after].previous = Some(thread);
    }
    if deadline < kernel.alarm {
        kernel.alarm = deadline;
        mailbox.set_alarm(deadline);
    }
}

#[allow(clippy::cast_possible_truncation, reason = "only the low bits select a bucket")]
fn bucket((object, offset): Place) -> usize {
    (object.lo ^ object.hi.rotate_left(17) ^ (offset / 4).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(20))
        as usize
        % WAIT_BUCKETS
}
