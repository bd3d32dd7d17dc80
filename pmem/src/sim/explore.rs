//! Enumerates the memories that a power failure can leave.
//!
//! # Contract
//! - **E1 points**: the possible memories are enumerated after every store and at every mark. Between two marks nothing
//!   else needs looking at: a fence only takes possibilities away, and a flush changes none until the fence.
//! - **E2 no double work**: after a store, only memories that contain it are enumerated; those without it were at an
//!   earlier point. A memory that equals, in all that the check read (by hash), one that was checked under the same mark
//!   is counted but not checked again.
//! - **E3 what recovery reads**: with [`Config::track_reads`] each run of the check stands for all memories that differ
//!   only in lines that it did not read. Lines are branched on when a run reads them, so the enumeration stays complete.
//!   The check must be deterministic, and read through [`crate::Pmem`] only.
//! - **E4 limit**: a point that needs more than [`Config::exhaustive`] runs is finished by samples: each undurable line
//!   missing alone, each surviving alone, and random choices.
//! - **E5 depth**: what the check itself stores is a trace too; crashes in it are explored likewise, down to
//!   [`Config::depth`].

use super::memo::{Memo, mix};
use super::{Event, LINE, Sim};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Runs at one point after which the rest is sampled.
    pub exhaustive: u64,
    /// Random memories at such a point.
    pub samples: u64,
    /// 1: crashes of the program; 2: also crashes of the recovery from those; and so on.
    pub depth: u32,
    /// Branch only on lines that the check reads (E3). Off when it reads by plain loads.
    pub track_reads: bool,
    /// Makes the random choices.
    pub seed: u64,
    /// Events at the start that are replayed without looking: what comes before is known to be right.
    pub from: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { exhaustive: 4096, samples: 256, depth: 2, track_reads: true, seed: 1, from: 0 }
    }
}

/// Where the power failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crash {
    /// The last [`Event::Mark`] of the program before; 0 when there was none.
    pub mark: u64,
    /// Whether `mark` is the last event: what the program did before it is complete.
    pub at_mark: bool,
    /// 1: in the program; 2: in the recovery after that; and so on.
    pub depth: u32,
}

/// What was explored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Crash points: stores and marks, at all depths.
    pub points: u64,
    /// Memories that were enumerated, at all depths.
    pub states: u64,
    /// Those of them that were recovered and checked; the others equal one of these in all that the check reads.
    pub checked: u64,
    /// How many were left by a crash of the recovery.
    pub nested_states: u64,
    /// Points that were sampled, not exhausted.
    pub sampled_points: u64,
}

impl Report {
    /// Adds the numbers of another exploration.
    pub fn add(&mut self, other: &Self) {
        self.points += other.points;
        self.states += other.states;
        self.checked += other.checked;
        self.nested_states += other.nested_states;
        self.sampled_points += other.sampled_points;
    }
}

/// A memory that the check did not accept.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Where the power failed.
    pub crash: Crash,
    /// Index of the last event before, in the trace of that depth.
    pub event: usize,
    /// (line, undurable stores of it, how many survived) for each line that lost some.
    pub lost: Vec<(u64, usize, usize)>,
    /// What the check said.
    pub why: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Crash { mark, depth, .. } = self.crash;
        write!(f, "power failure after event {} (mark {mark}, depth {depth})", self.event)?;
        for (line, stores, survived) in &self.lost {
            write!(f, ", line {line:#x} keeps {survived} of {stores} stores")?;
        }
        write!(f, ": {}", self.why)
    }
}

impl std::error::Error for Failure {}

/// Runs `check` on every memory that a power failure during `trace` can leave. `sim` holds what it held when the trace
/// began (see [`Sim::rewind`]), and does so again afterwards, also after a failure.
///
/// `check` runs the recovery and says what is wrong with the result, if anything. It may store; that is undone.
///
/// # Errors
/// The first memory that `check` did not accept.
pub fn explore(
    sim: &Sim,
    trace: &[Event],
    config: &Config,
    check: &mut dyn FnMut(&Sim, Crash) -> Result<(), String>,
) -> Result<Report, Box<Failure>> {
    let mut explorer = Explorer {
        sim,
        config,
        check,
        report: Report::default(),
        random: config.seed | 1,
        run: sim.run_base(),
        memo: Memo::default(),
        seen: HashSet::new(),
    };
    let result = explorer.trace(trace, 1, None);
    sim.run.store(0, Ordering::Relaxed);
    result.map(|()| explorer.report)
}

impl Sim {
    /// A run number that no stamp has yet. Stamps of 1 mean "wanted, not read".
    fn run_base(&self) -> u64 {
        let mut state = self.state();
        state.runs += 1 << 40;
        state.runs
    }
}

/// A line with stores that are not durable for certain.
#[derive(Debug)]
struct Pending {
    line: u64,
    /// (offset, value before, value after), in order.
    stores: Vec<(u64, u64, u64)>,
    /// How many of them were flushed, or written around the cache.
    flushed: usize,
}

/// How many stores of some pending lines survive; the others keep all.
type Choice = Vec<(usize, usize)>;

struct Explorer<'a> {
    sim: &'a Sim,
    config: &'a Config,
    check: &'a mut dyn FnMut(&Sim, Crash) -> Result<(), String>,
    report: Report,
    random: u64,
    run: u64,
    /// What was checked under this mark, by what the check read.
    memo: Memo,
    /// Without read tracking: by the hash of all memory.
    seen: HashSet<u64>,
}

/// Where the enumeration stands in a trace.
struct Position {
    crash: Crash,
    event: usize,
    /// Hash of the program's view of memory, relative to the start.
    hash: u64,
}

impl Explorer<'_> {
    /// Steps through a trace. Memory is at its start, also afterwards. `outer` is the crash before it, if it is a recovery.
    fn trace(
        &mut self,
        trace: &[Event],
        depth: u32,
        outer: Option<(Crash, u64)>,
    ) -> Result<(), Box<Failure>> {
        let result = self.steps(trace, depth, outer);
        // After a failure, memory is at the event that it names.
        let done =
            result.as_ref().map_err(|(event, _)| event + 1).err().unwrap_or(trace.len()).min(trace.len());
        self.sim.rewind(&trace[..done]);
        result.map_err(|(_, failure)| failure)
    }

    /// See [`Self::trace`]; memory ends where the steps do. An error comes with the number of the event.
    fn steps(
        &mut self,
        trace: &[Event],
        depth: u32,
        outer: Option<(Crash, u64)>,
    ) -> Result<(), (usize, Box<Failure>)> {
        let start = Crash { mark: 0, at_mark: false, depth };
        let (crash, hash) = outer.map_or((start, 0), |(crash, hash)| (Crash { depth, ..crash }, hash));
        let mut position = Position { crash, event: 0, hash };
        let mut pending: Vec<Pending> = Vec::new();
        let mut places: HashMap<u64, usize> = HashMap::new();
        // Lines outside this piece of the trace hold the same in all its memories: they need not be wanted.
        let piece = |from: usize| {
            let end = trace[from..].iter().position(|event| matches!(event, Event::Mark(_)) && depth == 1);
            &trace[from..end.map_or(trace.len(), |end| from + end)]
        };
        let mut wanted = self.want_lines(piece(0), &pending);
        if depth == 1 {
            self.point(&pending, None, &position).map_err(|failure| (0, failure))?;
        }
        for (number, event) in trace.iter().enumerate() {
            position.event = number;
            match *event {
                Event::Store { at, old, new, around } => {
                    self.sim.poke(at, new);
                    position.hash ^= mix(at, old) ^ mix(at, new);
                    let line = at - at % LINE;
                    let place = *places.entry(line).or_insert_with(|| {
                        pending.push(Pending { line, stores: Vec::new(), flushed: 0 });
                        pending.len() - 1
                    });
                    let lines = &mut pending[place];
                    lines.stores.push((at, old, new));
                    if around {
                        lines.flushed = lines.stores.len();
                    }
                    // An unchanged word is no new memory, and in a recovery the mark is the program's.
                    if old != new {
                        if depth == 1 {
                            position.crash.at_mark = false;
                        }
                        self.point(&pending, Some(place), &position).map_err(|failure| (number, failure))?;
                    }
                }
                Event::Flush(line) => {
                    if let Some(&place) = places.get(&line) {
                        pending[place].flushed = pending[place].stores.len();
                    }
                }
                Event::Fence => {
                    for line in &mut pending {
                        line.stores.drain(..line.flushed);
                        line.flushed = 0;
                    }
                    pending.retain(|line| !line.stores.is_empty());
                    places.clear();
                    places.extend(pending.iter().enumerate().map(|(place, line)| (line.line, place)));
                }
                Event::Mark(mark) if depth == 1 => {
                    position.crash = Crash { mark, at_mark: true, depth };
                    self.memo.clear();
                    self.seen.clear();
                    self.forget_lines(&wanted);
                    wanted = self.want_lines(piece(number + 1), &pending);
                    self.point(&pending, None, &position).map_err(|failure| (number, failure))?;
                }
                Event::Mark(_) => {}
            }
        }
        self.forget_lines(&wanted);
        Ok(())
    }

    /// Asks for the reads of every line that a piece of trace stores to or that is pending; returns those that nobody
    /// wanted before.
    fn want_lines(&self, piece: &[Event], pending: &[Pending]) -> Vec<u64> {
        let mut wanted = Vec::new();
        if !self.config.track_reads {
            return wanted;
        }
        let stored = piece.iter().filter_map(|event| match *event {
            Event::Store { at, .. } => Some(at - at % LINE),
            _ => None,
        });
        for line in stored.chain(pending.iter().map(|pending| pending.line)) {
            if self.sim.stamps.load(line / LINE * 8) == 0 {
                self.sim.stamps.store(line / LINE * 8, 1);
                wanted.push(line);
            }
        }
        wanted
    }

    fn forget_lines(&self, wanted: &[u64]) {
        wanted.iter().for_each(|line| self.sim.stamps.store(line / LINE * 8, 0));
    }

    /// Enumerates the memories at one point; with `fixed`, only those in which that line kept all its stores.
    fn point(
        &mut self,
        pending: &[Pending],
        fixed: Option<usize>,
        position: &Position,
    ) -> Result<(), Box<Failure>> {
        if position.crash.depth == 1 && position.event < self.config.from {
            return Ok(());
        }
        self.report.points += 1;
        let mut waiting: Vec<Choice> =
            vec![fixed.map(|place| (place, pending[place].stores.len())).into_iter().collect()];
        let mut runs = 0;
        while let Some(choice) = waiting.pop() {
            if runs >= self.config.exhaustive {
                return self.sample(pending, fixed, position);
            }
            runs += 1;
            let reads = self.run(pending, &choice, position)?;
            let mut decided = choice;
            let undecided = |decided: &Choice, place| decided.iter().all(|&(other, _)| other != place);
            for place in self.places(pending, &reads) {
                if !undecided(&decided, place) {
                    continue;
                }
                for survived in 0..pending[place].stores.len() {
                    let mut other = decided.clone();
                    other.push((place, survived));
                    waiting.push(other);
                }
                decided.push((place, pending[place].stores.len()));
            }
        }
        Ok(())
    }

    /// The pending lines to branch on after a run, in the order of its reads.
    fn places(&self, pending: &[Pending], reads: &[u64]) -> Vec<usize> {
        if !self.config.track_reads {
            return (0..pending.len()).collect();
        }
        reads.iter().filter_map(|&line| pending.iter().position(|other| other.line == line)).collect()
    }

    /// E4.
    fn sample(
        &mut self,
        pending: &[Pending],
        fixed: Option<usize>,
        position: &Position,
    ) -> Result<(), Box<Failure>> {
        self.report.sampled_points += 1;
        let free: Vec<usize> = (0..pending.len()).filter(|&place| Some(place) != fixed).collect();
        for &place in free.iter().rev() {
            self.run(pending, &vec![(place, 0)], position)?;
            let alone = free.iter().filter(|&&other| other != place).map(|&other| (other, 0)).collect();
            self.run(pending, &alone, position)?;
        }
        for _ in 0..self.config.samples {
            let choice =
                free.iter().map(|&place| (place, self.draw(pending[place].stores.len() + 1))).collect();
            self.run(pending, &choice, position)?;
        }
        Ok(())
    }

    fn draw(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        #[allow(clippy::cast_possible_truncation, reason = "below a usize")]
        let drawn = (self.random % below as u64) as usize;
        drawn
    }

    /// Builds one memory, checks it unless its like was checked, and puts memory back. Returns the wanted lines that the
    /// check reads.
    fn run(
        &mut self,
        pending: &[Pending],
        choice: &Choice,
        position: &Position,
    ) -> Result<Vec<u64>, Box<Failure>> {
        self.report.states += 1;
        self.report.nested_states += u64::from(position.crash.depth > 1);
        let lost =
            || choice.iter().flat_map(|&(place, survived)| pending[place].stores[survived..].iter().rev());
        let hash = lost().fold(position.hash, |hash, &(at, old, new)| hash ^ mix(at, old) ^ mix(at, new));
        lost().for_each(|&(at, old, _)| self.sim.poke(at, old));
        let known = if self.config.track_reads {
            self.memo.find(self.sim)
        } else {
            (!self.seen.insert(hash)).then(Vec::new)
        };
        let reads = match known {
            Some(reads) => Ok(reads),
            None => self.check(pending, choice, position, hash),
        };
        let kept = choice.iter().flat_map(|&(place, survived)| &pending[place].stores[survived..]);
        kept.for_each(|&(at, _, new)| self.sim.poke(at, new));
        reads
    }

    /// Recovers and checks the memory that is built, then explores crashes of the recovery.
    fn check(
        &mut self,
        pending: &[Pending],
        choice: &Choice,
        position: &Position,
        hash: u64,
    ) -> Result<Vec<u64>, Box<Failure>> {
        self.report.checked += 1;
        self.run += 1;
        self.sim.start_recording();
        self.sim.run.store(if self.config.track_reads { self.run } else { 0 }, Ordering::Relaxed);
        let verdict = (self.check)(self.sim, position.crash);
        self.sim.run.store(0, Ordering::Relaxed);
        let recovery = self.sim.take_trace();
        let reads = core::mem::take(&mut *self.sim.reads.lock().unwrap_or_else(PoisonError::into_inner));
        self.sim.rewind(&recovery);
        if let Err(why) = verdict {
            let lines = choice.iter().filter(|&&(place, survived)| survived < pending[place].stores.len());
            let lost =
                lines.map(|&(place, survived)| (pending[place].line, pending[place].stores.len(), survived));
            let lost = lost.collect();
            return Err(Box::new(Failure { crash: position.crash, event: position.event, lost, why }));
        }
        if self.config.track_reads {
            self.memo.add(self.sim, &reads);
        }
        if position.crash.depth < self.config.depth && !recovery.is_empty() {
            // The recovery stores to lines that this memo takes for constant: it gets one of its own.
            let memo = core::mem::take(&mut self.memo);
            self.trace(&recovery, position.crash.depth + 1, Some((position.crash, hash)))?;
            self.memo = memo;
        }
        Ok(reads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pmem;
    use std::collections::BTreeSet;

    /// All memories (as the words at 0, 8, 64) that the exploration shows to a check that reads all of them.
    fn memories(program: impl Fn(&Sim), track_reads: bool) -> BTreeSet<[u64; 3]> {
        let sim = Sim::new(4096);
        sim.start_recording();
        program(&sim);
        let trace = sim.take_trace();
        sim.rewind(&trace);
        let mut found = BTreeSet::new();
        let config = Config { track_reads, ..Config::default() };
        explore(&sim, &trace, &config, &mut |sim, _| {
            found.insert([sim.load(0), sim.load(8), sim.load(64)]);
            Ok(())
        })
        .unwrap();
        assert_eq!([sim.load(0), sim.load(8), sim.load(64)], [0; 3], "memory is put back");
        found
    }

    /// The model, spelled out: prefixes within a line, any combination of lines, fences.
    #[test]
    fn enumerates_exactly_the_model() {
        for track_reads in [false, true] {
            let two_in_a_line = |sim: &Sim| {
                sim.store(0, 1);
                sim.store(8, 2);
            };
            assert_eq!(memories(two_in_a_line, track_reads), [[0, 0, 0], [1, 0, 0], [1, 2, 0]].into());

            let two_lines = |sim: &Sim| {
                sim.store(0, 1);
                sim.store(64, 2);
            };
            let expected = [[0, 0, 0], [1, 0, 0], [0, 0, 2], [1, 0, 2]].into();
            assert_eq!(memories(two_lines, track_reads), expected);

            let flush_without_fence = |sim: &Sim| {
                sim.store(0, 1);
                sim.flush(0, 8);
                sim.store(64, 2);
            };
            assert_eq!(memories(flush_without_fence, track_reads), expected);

            let ordered = |sim: &Sim| {
                sim.store(0, 1);
                sim.persist(0, 8);
                sim.store(64, 2);
            };
            assert_eq!(memories(ordered, track_reads), [[0, 0, 0], [1, 0, 0], [1, 0, 2]].into());

            let flushed_too_early = |sim: &Sim| {
                sim.flush(0, 8);
                sim.store(0, 1);
                sim.fence();
                sim.store(64, 2);
            };
            assert_eq!(memories(flushed_too_early, track_reads), expected);

            let around = |sim: &Sim| {
                sim.write_nt(0, &1u64.to_le_bytes());
                sim.fence();
                sim.store(64, 2);
            };
            assert_eq!(memories(around, track_reads), [[0, 0, 0], [1, 0, 0], [1, 0, 2]].into());
        }
    }

    /// A recovery that needs two steps in order is caught at depth 2 only.
    #[test]
    fn crashes_of_the_recovery_are_explored() {
        let run = |depth, ordered: bool| {
            let sim = Sim::new(4096);
            sim.start_recording();
            sim.store(0, 1);
            sim.store(8, 1);
            sim.persist(0, 16);
            let trace = sim.take_trace();
            sim.rewind(&trace);
            // The recovery moves the word at 0 to 64. Once word 8 is set, it must be in one of these places.
            explore(&sim, &trace, &Config { depth, ..Config::default() }, &mut |sim, _| {
                if sim.load(8) == 1 && sim.load(0) == 0 && sim.load(64) == 0 {
                    return Err("lost".to_owned());
                }
                if sim.load(0) == 1 {
                    sim.store(64, 1);
                    if ordered {
                        sim.persist(64, 8);
                    }
                    sim.store(0, 0);
                    sim.persist(0, 128);
                }
                Ok(())
            })
        };
        assert!(run(1, false).is_ok());
        assert!(run(2, true).is_ok());
        assert_eq!(run(2, false).unwrap_err().why, "lost");
    }

    /// Lines that the check does not read cost nothing; too many that it does are sampled.
    #[test]
    fn unread_lines_are_not_branched_on_and_many_read_ones_are_sampled() {
        let sim = Sim::new(65536);
        sim.start_recording();
        (0..100).for_each(|line| sim.store(line * 64, 1));
        let trace = sim.take_trace();
        sim.rewind(&trace);
        let report = explore(&sim, &trace, &Config::default(), &mut |sim, _| {
            sim.load(0);
            Ok(())
        });
        assert_eq!(report.unwrap().states, 2 + 99 * 2);
        let config = Config { exhaustive: 64, samples: 8, ..Config::default() };
        let report = explore(&sim, &trace, &config, &mut |sim, _| {
            (0..100).for_each(|line| {
                sim.load(line * 64);
            });
            Ok(())
        });
        assert!(report.unwrap().sampled_points > 90);
    }

    #[test]
    fn marks_tell_what_is_complete() {
        let sim = Sim::new(4096);
        sim.start_recording();
        sim.store(0, 1);
        sim.persist(0, 8);
        sim.mark(1);
        sim.store(0, 2);
        sim.mark(2);
        let trace = sim.take_trace();
        sim.rewind(&trace);
        let check = &mut |sim: &Sim, crash: Crash| match (crash.at_mark, crash.mark) {
            (true, mark) if sim.load(0) != mark => Err(format!("{} at {mark}", sim.load(0))),
            _ => Ok(()),
        };
        let failure = explore(&sim, &trace, &Config::default(), check).unwrap_err();
        assert_eq!((failure.crash.mark, failure.why.as_str()), (2, "1 at 2"));
        assert!(failure.to_string().contains("keeps 0 of 1 stores"));
        assert_eq!(sim.load(0), 0, "memory is put back after a failure too");
    }
}
