//! A log of records in persistent memory: a ring, in which each append is all or nothing.
//!
//! ```text
//! 0x00  magic          0x08  bytes of the ring
//! 0x10  start: where the oldest record begins, counted in bytes ever appended
//! 0x18  end: where the next one goes, likewise
//! 0x40  the ring: records one behind the other, each
//!       text length u32, level u32 | time u64 | sender u64, u64 | text, padded to 8
//! ```
//! # Contract
//! - **Commit point** of an append: the store of `end`, after the record is durable. When [`RecordLog::append`] returns, the record
//!   survives a power failure; one that was cut off is not there.
//! - When the ring is full the oldest records go: `start` is durable before their bytes change.
//! - One writer at a time; that is the caller's to see to.
//! - What stands in the memory is a claim: whatever it says, nothing outside the ring is read and nothing panics.

use alloc::string::String;
use core::fmt;
use pmem::Pmem;
use twz_rt::abi::ObjectId;

/// "TWZRLOG1" in memory order.
const MAGIC: u64 = u64::from_le_bytes(*b"TWZRLOG1");
const RING_BYTES: u64 = 8;
const START: u64 = 0x10;
const END: u64 = 0x18;
const RING: u64 = 0x40;
/// Bytes before a record's text.
const HEAD: usize = 32;
/// Longest text of a record, in bytes; longer ones are cut.
pub const TEXT_MAX: usize = 1024;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// As in the `log` crate: 1 error … 5 trace.
    pub level: u32,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Who said it.
    pub sender: ObjectId,
    /// What was said; bytes that were no UTF-8 are replaced.
    pub text: String,
}

/// The memory holds something else than a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the log's object holds no log")
    }
}

impl core::error::Error for Damaged {}

/// A log in `memory`.
#[derive(Debug)]
pub struct RecordLog<M> {
    memory: M,
    ring: u64,
}

impl<M: Pmem> RecordLog<M> {
    /// The log in `memory`; an empty one if it holds zeros.
    ///
    /// # Errors
    /// [`Damaged`].
    pub fn open(memory: M) -> Result<Self, Damaged> {
        let ring = memory.len().checked_sub(RING).map_or(0, |bytes| bytes & !7);
        if ring < 2 * (HEAD + TEXT_MAX) as u64 {
            return Err(Damaged);
        }
        match memory.load(0) {
            0 => {
                // Cut off anywhere here, it begins anew.
                memory.store(RING_BYTES, ring);
                memory.store(START, 0);
                memory.store(END, 0);
                memory.persist(0, RING);
                memory.store(0, MAGIC); // commit point
                memory.persist(0, 8);
            }
            MAGIC if memory.load(RING_BYTES) == ring => {}
            _ => return Err(Damaged),
        }
        let log = Self { memory, ring };
        log.ends().map(|_| log)
    }

    /// Start and end, checked.
    fn ends(&self) -> Result<(u64, u64), Damaged> {
        let (start, end) = (self.memory.load(START), self.memory.load(END));
        let fits = end.checked_sub(start).is_some_and(|bytes| bytes <= self.ring);
        if fits && (start | end).is_multiple_of(8) { Ok((start, end)) } else { Err(Damaged) }
    }

    /// Appends a record, durably.
    ///
    /// # Errors
    /// [`Damaged`].
    pub fn append(&self, level: u32, time: u64, sender: ObjectId, text: &[u8]) -> Result<(), Damaged> {
        let text = &text[..text.len().min(TEXT_MAX)];
        let mut record = [0; HEAD + TEXT_MAX];
        record[0..4].copy_from_slice(&u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
        record[4..8].copy_from_slice(&level.to_le_bytes());
        record[8..16].copy_from_slice(&time.to_le_bytes());
        record[16..24].copy_from_slice(&sender.lo.to_le_bytes());
        record[24..32].copy_from_slice(&sender.hi.to_le_bytes());
        record[HEAD..HEAD + text.len()].copy_from_slice(text);
        let record = &record[..(HEAD + text.len()).next_multiple_of(8)];
        let (mut start, end) = self.ends()?;
        // 1. The oldest make room, durably, before their bytes change.
        let needed = end.checked_add(record.len() as u64).ok_or(Damaged)?;
        if needed - start > self.ring {
            while needed - start > self.ring {
                start = self.behind(start, end)?;
            }
            self.memory.store(START, start);
            self.memory.persist(START, 8);
        }
        // 2. The record.
        self.pieces(end, record.len(), |memory, at, range| {
            memory.write(at, &record[range.clone()]);
            memory.flush(at, range.len() as u64);
        });
        self.memory.fence();
        self.memory.store(END, needed); // commit point
        self.memory.persist(END, 8);
        Ok(())
    }

    /// The record at `position` and where the next one is; `None` at the end. A position before the oldest record means the oldest;
    /// one that no record begins at gives nonsense or [`Damaged`], nothing worse.
    ///
    /// # Errors
    /// [`Damaged`].
    pub fn read(&self, position: u64) -> Result<Option<(Record, u64)>, Damaged> {
        let (start, end) = self.ends()?;
        let position = position.max(start);
        if position >= end {
            return Ok(None);
        }
        let next = self.behind(position, end)?;
        let mut head = [0; HEAD];
        self.copy_out(position, &mut head);
        let word =
            |at: usize| head[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let mut text = [0; TEXT_MAX];
        let length = text_length(word(0)).ok_or(Damaged)?;
        self.copy_out(position + HEAD as u64, &mut text[..length]);
        let record = Record {
            level: u32::try_from(word(0) >> 32).unwrap_or(0),
            time: word(8),
            sender: ObjectId { lo: word(16), hi: word(24) },
            text: String::from_utf8_lossy(&text[..length]).into_owned(),
        };
        Ok(Some((record, next)))
    }

    /// All records, oldest first; those that were damaged end it.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let mut position = 0;
        core::iter::from_fn(move || {
            let (record, next) = self.read(position).ok().flatten()?;
            position = next;
            Some(record)
        })
    }

    /// Where the record at `position` ends.
    fn behind(&self, position: u64, end: u64) -> Result<u64, Damaged> {
        let mut word = [0; 8];
        self.copy_out(position, &mut word);
        let length = text_length(u64::from_le_bytes(word)).ok_or(Damaged)?;
        let next = position.checked_add((HEAD + length).next_multiple_of(8) as u64).ok_or(Damaged)?;
        if position.is_multiple_of(8) && next <= end { Ok(next) } else { Err(Damaged) }
    }

    fn copy_out(&self, position: u64, into: &mut [u8]) {
        let length = into.len();
        self.pieces(position, length, |memory, at, range| memory.read(at, &mut into[range]));
    }

    /// Calls `with` for the one or two pieces of the ring that `bytes` at `position` are: offset in the memory, range of the bytes.
    fn pieces(&self, position: u64, bytes: usize, mut with: impl FnMut(&M, u64, core::ops::Range<usize>)) {
        let at = position % self.ring;
        let first = usize::try_from(self.ring - at).unwrap_or(usize::MAX).min(bytes);
        with(&self.memory, RING + at, 0..first);
        if first < bytes {
            with(&self.memory, RING, first..bytes);
        }
    }
}

/// Bytes of text, from a record's first word.
fn text_length(word: u64) -> Option<usize> {
    usize::try_from(word & u64::from(u32::MAX)).ok().filter(|&length| length <= TEXT_MAX)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use alloc::vec::Vec;
    use pmem::sim::{Config, Event, Sim, explore, mutants};
    use std::format;
    use std::string::ToString;

    const BYTES: u64 = RING + 2 * (HEAD + TEXT_MAX) as u64;
    const WHO: ObjectId = ObjectId { lo: 3, hi: 4 };

    fn text(number: u64) -> String {
        format!("record {number} {}", "x".repeat(300))
    }

    /// Records `0..count` appended, the ring wrapping round; marks say how many were acknowledged.
    fn appended(count: u64) -> (Sim, Vec<Event>) {
        let sim = Sim::new(BYTES.next_multiple_of(64));
        sim.start_recording();
        let log = RecordLog::open(&sim).expect("zeros");
        for number in 0..count {
            log.append(1, number, WHO, text(number).as_bytes()).expect("a log");
            sim.mark(number + 1);
        }
        let trace = sim.take_trace();
        sim.rewind(&trace);
        (sim, trace)
    }

    /// The log opens; it holds an unbroken run of records that ends with the last acknowledged one, or the one after it.
    fn check(sim: &Sim, acknowledged: u64) -> Result<(), String> {
        let log = RecordLog::open(sim).map_err(|error| error.to_string())?;
        let found: Vec<Record> = log.records().collect();
        let Some(last) = found.last() else {
            return if acknowledged == 0 { Ok(()) } else { Err(format!("{acknowledged} are lost")) };
        };
        let next = last.time + 1;
        if next != acknowledged && next != acknowledged + 1 {
            return Err(format!("the last one is {}, acknowledged {acknowledged}", last.time));
        }
        let first = found[0].time;
        let run: Vec<Record> =
            (first..next).map(|time| Record { level: 1, time, sender: WHO, text: text(time) }).collect();
        if acknowledged > 4 && found.len() < 4 {
            return Err(format!("only {} are left", found.len()));
        }
        if found == run { Ok(()) } else { Err("torn".to_string()) }
    }

    #[test]
    fn every_crash_leaves_whole_records_and_loses_none_that_was_acknowledged() {
        let (sim, trace) = appended(9);
        let report = explore(&sim, &trace, &Config::default(), &mut |sim, crash| check(sim, crash.mark));
        assert!(report.expect("all crashes are survived").states > 100);
    }

    #[test]
    fn a_missing_flush_or_fence_is_noticed() {
        let (sim, trace) = appended(9);
        // Opening acknowledges nothing: what it writes is in the line of the first append's commit point, and durable with that. So until
        // the first record's bytes are stored no order matters.
        let first = trace.iter().position(|event| matches!(event, Event::Store { at, .. } if *at >= RING));
        let all = mutants(&trace, |_| true);
        let matters = all.iter().filter(|mutant| !mutant.equivalent && Some(mutant.event) > first);
        let mut count = 0;
        for mutant in matters {
            let config = Config { exhaustive: 64, samples: 16, ..Config::default() };
            let explored = explore(&sim, &mutant.trace, &config, &mut |sim, crash| check(sim, crash.mark));
            assert!(explored.is_err(), "{} (event {}) is not noticed", mutant.what, mutant.event);
            count += 1;
        }
        assert!(count > 150, "{count} mutants");
    }

    #[test]
    fn nonsense_is_refused_and_never_panics() {
        let sim = Sim::new(BYTES.next_multiple_of(64));
        assert!(matches!(RecordLog::open(sim.region(0, 64)), Err(Damaged)), "too small");
        let log = RecordLog::open(&sim).expect("zeros");
        log.append(2, 1, WHO, &[b'y'; 2 * TEXT_MAX]).expect("a log");
        assert_eq!(log.records().next().map(|record| record.text.len()), Some(TEXT_MAX), "cut");
        // A position inside of a record: whatever comes of it, it comes.
        (8..64).for_each(|position| drop(log.read(position)));
        for (at, value) in [(END, u64::MAX), (END, 7), (START, 1 << 40), (0, 1), (RING_BYTES, 1)] {
            let before = sim.load(at);
            sim.store(at, value);
            assert!(RecordLog::open(&sim).is_err(), "{at:#x} {value:#x}");
            sim.store(at, before);
        }
        // Ends that no log comes to: the next record's would be past the last number.
        let ends = [START, END].map(|at| (at, sim.load(at)));
        sim.store(START, u64::MAX - 7);
        sim.store(END, u64::MAX - 7);
        assert_eq!(log.append(1, 1, WHO, b"z"), Err(Damaged));
        for (at, before) in ends {
            sim.store(at, before);
        }
        sim.store(RING, u64::MAX);
        assert_eq!(log.records().count(), 0);
        assert!(log.read(0).is_err());
        for number in 0..64 {
            // Whether it finds room past the nonsense or gives up, it ends.
            let _ = log.append(1, number, WHO, b"z");
        }
    }
}
