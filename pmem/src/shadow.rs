//! Power failures of a running system: programs work on a *shadow* of the medium, and the medium gets what is durable.
//!
//! ```text
//! programs, pool --stores--> shadow (memory) --fence--> medium
//!                                   `--now and then, by itself: a line that a cache wrote back--^
//! ```
//! # Contract
//! - The medium holds what [`crate`]'s rules promise, and a random choice of what they allow: a flushed line is written at the flusher's next
//!   fence, as it was when it was flushed; other lines at random moments, as they are then.
//! - A *cut* writes a random part of what differs and calls the end, which must not return to the program. It happens at an event (a
//!   flush or a fence) that is counted down to, or at the first one of a site, before the event has an effect.
//! - **Nothing after the cut**: whoever makes an effect outside of the memory (a line on the console) holds [`Shadow::alive`] meanwhile. The cut
//!   waits for it, and it never gets the guard after the cut.
//! - Sites whose name contains one of [`Plan::deaf_to`] have no effect: a program with a forgotten flush, to see that tests find it.

use crate::{LINE, Native, Pmem, WORD};
use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const PAGE: u64 = 4096;
const PAGE_BYTES: usize = 4096;
const LINE_BYTES: usize = 64;
/// One event in so many is followed by a page some lines of which are written back.
const WRITE_BACK_ONE_IN: u64 = 4;

/// What is to happen.
pub struct Plan {
    /// Seed of all random choices.
    pub seed: u64,
    /// Flushes and fences until the power fails; `None` for never.
    pub events: Option<u64>,
    /// The power fails at the first event of a site whose name contains this.
    pub at: Option<String>,
    /// Sites whose flushes and fences are dropped.
    pub deaf_to: Vec<String>,
    /// Ends the program.
    pub end: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, events, at, .. } = self;
        let mut plan = f.debug_struct("Plan");
        plan.field("seed", seed).field("events", events).field("at", at).finish_non_exhaustive()
    }
}

/// A line as it was when it was flushed, and when that was.
#[derive(Clone, Copy, Debug)]
struct Flushed {
    line: u64,
    words: [u64; 8],
    time: u64,
}

#[derive(Debug)]
struct State {
    random: u64,
    left: Option<u64>,
    /// By flusher.
    flushed: HashMap<u64, Vec<Flushed>>,
    /// Pages that were ever flushed.
    pages: Vec<u64>,
    /// Site -> events.
    sites: HashMap<String, u64>,
    /// Counts what is flushed or written back.
    time: u64,
    /// Line -> when what the medium holds of it was taken from the shadow: nothing older goes there.
    written: HashMap<u64, u64>,
}

/// A shadow and its medium, of the same length.
#[derive(Debug)]
pub struct Shadow {
    shadow: Native,
    medium: Native,
    plan: Plan,
    state: Mutex<State>,
}

/// Nothing fails while this lives.
#[derive(Debug)]
pub struct Alive<'a>(#[allow(dead_code, reason = "held, not used")] MutexGuard<'a, State>);

impl Shadow {
    /// Copies the medium into its shadow, which holds zeros, and begins.
    ///
    /// # Panics
    /// If their lengths differ.
    #[must_use]
    pub fn new(shadow: Native, medium: Native, plan: Plan) -> Self {
        assert_eq!(shadow.len(), medium.len(), "a shadow is as long as its medium");
        let mut page = [0; PAGE_BYTES];
        for at in (0..medium.len()).step_by(PAGE_BYTES) {
            let part = (medium.len() - at).min(PAGE);
            #[allow(clippy::cast_possible_truncation, reason = "a page at most")]
            let part = &mut page[..part as usize];
            medium.read(at, part);
            if part.iter().any(|&byte| byte != 0) {
                shadow.write(at, part);
            }
        }
        let state = State {
            random: plan.seed,
            left: plan.events,
            flushed: HashMap::new(),
            pages: Vec::new(),
            sites: HashMap::new(),
            time: 0,
            written: HashMap::new(),
        };
        Self { shadow, medium, plan, state: Mutex::new(state) }
    }

    /// The memory that programs see.
    #[must_use]
    pub const fn region(&self) -> &Native {
        &self.shadow
    }

    /// Keeps the power on as long as the guard lives.
    #[must_use]
    pub fn alive(&self) -> Alive<'_> {
        Alive(self.state())
    }

    /// The lines that `bytes` at `at` touch are flushed by `who`.
    pub fn flushed(&self, who: u64, at: u64, bytes: u64, site: &str) {
        let mut state = self.state();
        if bytes == 0 || !self.event(&mut state, site) {
            return;
        }
        state.time += 1;
        let (first, time) = (at - at % LINE, state.time);
        let flushed = |line| Flushed { line, words: self.line(line), time };
        let lines = state.flushed.entry(who).or_default();
        lines.extend((first..at + bytes).step_by(LINE_BYTES).map(flushed));
        for page in (at / PAGE)..=((at + bytes - 1) / PAGE) {
            if !state.pages.contains(&page) {
                state.pages.push(page);
            }
        }
        self.write_back(&mut state);
    }

    /// What `who` flushed is durable.
    pub fn fenced(&self, who: u64, site: &str) {
        let mut state = self.state();
        if !self.event(&mut state, site) {
            return;
        }
        for flushed in state.flushed.remove(&who).unwrap_or_default() {
            self.put(&mut state, &flushed);
        }
        self.write_back(&mut state);
    }

    /// Everything is durable, as after a clean shutdown.
    pub fn settle(&self) {
        let mut state = self.state();
        state.flushed.clear();
        self.write_differing(&mut state, 0..self.medium.len(), 256);
    }

    /// Events so far, by site.
    #[must_use]
    pub fn sites(&self) -> Vec<(String, u64)> {
        let mut sites: Vec<_> =
            self.state().sites.iter().map(|(site, count)| (site.clone(), *count)).collect();
        sites.sort_unstable();
        sites
    }

    /// Counts an event; says whether it has an effect. Does not return from the cut if the plan's end does not.
    fn event(&self, state: &mut State, site: &str) -> bool {
        match state.sites.get_mut(site) {
            Some(count) => *count += 1,
            None => drop(state.sites.insert(site.to_owned(), 1)),
        }
        let is_last =
            state.left == Some(0) || self.plan.at.as_ref().is_some_and(|at| site.contains(at.as_str()));
        if is_last {
            self.cut(state);
            return false;
        }
        state.left = state.left.map(|left| left - 1);
        !self.plan.deaf_to.iter().any(|deaf| site.contains(deaf.as_str()))
    }

    /// The power fails.
    fn cut(&self, state: &mut State) {
        // Of the flushed lines that wait for their fence, some as they were at the flush. In the order of flushers, so that a seed repeats.
        let mut waiting: Vec<_> = state.flushed.drain().collect();
        waiting.sort_unstable_by_key(|(who, _)| *who);
        for flushed in waiting.into_iter().flat_map(|(_, lines)| lines) {
            if next(&mut state.random).is_multiple_of(2) {
                self.put(state, &flushed);
            }
        }
        // Of all others, few, half, most, all or none, as they are.
        let share = match next(&mut state.random) % 5 {
            0 => 0,
            1 => 16,
            2 => 128,
            3 => 240,
            _ => 256,
        };
        self.write_differing(state, 0..self.medium.len(), share);
        (self.plan.end)();
    }

    /// Now and then a cache writes lines back by itself.
    fn write_back(&self, state: &mut State) {
        if state.pages.is_empty() || !next(&mut state.random).is_multiple_of(WRITE_BACK_ONE_IN) {
            return;
        }
        #[allow(clippy::cast_possible_truncation, reason = "an index")]
        let chosen = (next(&mut state.random) % state.pages.len() as u64) as usize;
        let start = state.pages[chosen] * PAGE;
        self.write_differing(state, start..(start + PAGE).min(self.medium.len()), 128);
    }

    /// Writes `share` of 256 of the lines of the range that differ, as they are in the shadow.
    fn write_differing(&self, state: &mut State, range: std::ops::Range<u64>, share: u64) {
        let (mut new, mut old) = ([0; PAGE_BYTES], [0; PAGE_BYTES]);
        state.time += 1;
        let time = state.time;
        for page in range.step_by(PAGE_BYTES) {
            let length = usize::try_from(self.medium.len() - page).unwrap_or(PAGE_BYTES).min(PAGE_BYTES);
            self.shadow.read(page, &mut new[..length]);
            self.medium.read(page, &mut old[..length]);
            if new[..length] == old[..length] {
                continue;
            }
            let lines = new[..length].chunks(LINE_BYTES).zip(old[..length].chunks(LINE_BYTES));
            for (line, (new, old)) in (page..).step_by(LINE_BYTES).zip(lines) {
                if new != old && next(&mut state.random) % 256 < share {
                    self.put(state, &Flushed { line, words: self.line(line), time });
                }
            }
        }
    }

    /// The line at `line` as it is in the shadow.
    fn line(&self, line: u64) -> [u64; 8] {
        std::array::from_fn(|word| self.shadow.load(line + word as u64 * WORD))
    }

    fn put(&self, state: &mut State, flushed: &Flushed) {
        let newest = state.written.entry(flushed.line).or_insert(0);
        if *newest > flushed.time {
            return;
        }
        *newest = flushed.time;
        for (at, &word) in (flushed.line..).step_by(8).zip(&flushed.words) {
            self.medium.store(at, word);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A number for each thread of this process; guests' threads have smaller ones.
fn who() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 63);
    thread_local!(static ME: Cell<u64> = const { Cell::new(0) });
    ME.with(|me| {
        if me.get() == 0 {
            me.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        me.get()
    })
}

/// A step of splitmix64.
fn next(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *random;
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

impl Pmem for Shadow {
    crate::loads_and_stores_of!(shadow);
    crate::flushed_stores_of!(shadow);

    fn flush(&self, at: u64, len: u64) {
        assert!(len <= self.len() && at <= self.len() - len, "pmem flush outside its region");
        self.flushed(who(), at, len, &Location::caller().to_string());
    }
    fn fence(&self) {
        self.fenced(who(), &Location::caller().to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    /// Runs `work` on a shadow until the power fails, and returns the medium.
    fn run(seed: u64, events: Option<u64>, deaf_to: &[&str], work: impl Fn(&Shadow)) -> Vec<u64> {
        run_until(seed, events, None, deaf_to, work)
    }

    /// The same, until the first event of a site at the latest.
    fn run_until(
        seed: u64,
        events: Option<u64>,
        at: Option<&str>,
        deaf_to: &[&str],
        work: impl Fn(&Shadow),
    ) -> Vec<u64> {
        let (mut shadow, mut medium) = (vec![0_u64; 1024], vec![0_u64; 1024]);
        // SAFETY: the vectors outlive the regions and are read only when these are gone.
        let native = |words: &mut Vec<u64>| unsafe { Native::new(words.as_mut_ptr().cast(), 8192) };
        let over = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&over);
        let plan = Plan {
            seed,
            events,
            at: at.map(str::to_owned),
            deaf_to: deaf_to.iter().map(|&site| site.to_owned()).collect(),
            end: Box::new(move || {
                if !end.swap(true, Ordering::SeqCst) {
                    std::panic::resume_unwind(Box::new(()));
                }
            }),
        };
        let running = Shadow::new(native(&mut shadow), native(&mut medium), plan);
        // A cut unwinds out of the program, as the end of the process would.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&running)));
        assert_eq!(ended.is_err(), over.load(Ordering::SeqCst));
        drop(running);
        medium
    }

    /// Stores a value and its number, the number last.
    fn good(pmem: &Shadow) {
        for number in 1..20 {
            pmem.store(0, number * 1000);
            pmem.persist(0, 8);
            pmem.store(4096, number);
            pmem.persist(4096, 8);
        }
    }

    #[test]
    fn what_was_fenced_is_there_and_order_holds() {
        let mut states = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let memory = run(seed, Some(seed % 76), &[], good);
            let (value, number) = (memory[0] / 1000, memory[512]);
            assert!(value == number || value == number + 1, "{value} {number}");
            // Four events each.
            let fenced = seed % 76 / 4;
            assert!(number == fenced || number == fenced + 1, "{number} {fenced}");
            states.insert((value, number));
        }
        assert!(states.len() > 20, "only {} states", states.len());
    }

    #[test]
    fn the_power_fails_at_the_site_that_was_named() {
        for seed in 0..20 {
            let memory = run_until(seed, None, Some("cut.rs"), &[], |pmem| {
                pmem.store(64, 1);
                pmem.flushed(1, 64, 8, "before.rs:1");
                pmem.fenced(1, "before.rs:1");
                pmem.fenced(1, "cut.rs:7");
                pmem.store(64, 2);
                pmem.flushed(1, 64, 8, "before.rs:1");
                pmem.fenced(1, "before.rs:1");
            });
            assert_eq!(memory[8], 1, "what was fenced before is there, what comes after never was");
        }
    }

    #[test]
    fn a_forgotten_fence_or_flush_shows() {
        let site = format!("{}:", file!());
        let wrong = (0..200).filter(|&seed| {
            let memory = run(seed, Some(40), &[&site], good);
            memory[512] < 10 || memory[0] / 1000 < memory[512]
        });
        assert!(wrong.count() > 100);
    }

    #[test]
    fn a_flushed_line_is_as_it_was_at_the_flush() {
        let memory = run(1, None, &[], |pmem| {
            pmem.store(64, 1);
            pmem.flush(64, 8);
            pmem.store(64, 2);
            pmem.fence();
        });
        // Either: a cache may have written the later one back.
        assert!(memory[8] == 1 || memory[8] == 2);
        let lost = (0..50).filter(|&seed| {
            run(seed, Some(2), &[], |pmem| {
                pmem.store(64, 1);
                pmem.flush(64, 8);
                pmem.fence();
                pmem.store(128, 7);
                pmem.flush(128, 8);
            })[16]
                == 0
        });
        assert!((5..45).contains(&lost.count()), "an unflushed line is always lost, or never");
    }

    /// Another thread's fence completes an older flush of a line that has gone on since.
    #[test]
    fn what_is_durable_stays() {
        for seed in 0..20 {
            let memory = run(seed, None, &[], |pmem| {
                pmem.store(64, 1);
                pmem.flushed(1, 64, 8, "first");
                pmem.store(64, 2);
                pmem.flushed(2, 64, 8, "second");
                pmem.fenced(2, "second");
                pmem.fenced(1, "first");
            });
            assert_eq!(memory[8], 2);
        }
    }

    #[test]
    fn settling_makes_all_durable() {
        let memory = run(3, None, &[], |pmem| {
            pmem.store(8, 5);
            pmem.settle();
            assert_eq!(pmem.sites().len(), 0);
        });
        assert_eq!(memory[1], 5);
    }
}
