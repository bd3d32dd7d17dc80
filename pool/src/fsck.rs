//! Checking a pool word by word, and repairing what can be.
//!
//! # Contract
//! - Never a panic, a hang or an allocation beyond what the medium's size justifies, whatever the bytes are.
//! - Without `repair` nothing is stored. With it, damage is cut out: what is lost is named, everything else stays as it was, and
//!   afterwards the pool opens. A page or record is kept only if its check says that it is what was written, so no object gets
//!   another's data.
//! - Each repair is one 8-byte store; a crash in between leaves a pool on which `fsck` can be run again.
//! - Only when both copies of the superblock are gone is there nothing to repair.
//!
//! A pass goes through everything in the order of [`crate::Pool::load`] and goes on after each problem. What a repair uncovers,
//! the next pass finds, until a pass finds nothing.

use crate::Medium;
use crate::core::Pool;
use crate::error::{Error, Result};
use crate::format::records::{Class, NameRecord, ObjectRecord, TieRecord, free, revive};
use crate::format::superblock::Superblock;
use crate::format::{Kind, PAGE, SEGMENT_PAGES, Seal, TABLE_IDENTITY, TABLE_LINK};
use crate::map::{Map, Reader};
use crate::medium::{Mapped, OpenOptions};
use crate::meta::{Meta, is_reserved, table_word};
use crate::space::{Pages, Space};
use std::collections::HashSet;
use std::path::Path;
use twz_abi::ObjectId;

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Byte offset in the pool.
    pub at: u64,
    /// What is wrong.
    pub what: String,
    /// What the repair is, and what it loses.
    pub repair: &'static str,
    /// The object that loses something, if known.
    pub object: Option<ObjectId>,
}

/// What `fsck` found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// Each problem, in the order of finding. With repair, those of all passes.
    pub problems: Vec<Problem>,
    /// Objects that are (now) fine.
    pub objects: u64,
    /// Names that are fine.
    pub names: u64,
    /// Ties that are fine.
    pub ties: u64,
    /// Bytes in use.
    pub used: u64,
    /// All problems were repaired and the pool opens; also set when there were none.
    pub clean: bool,
}

/// Passes of a repair. Each cuts out everything it sees; a cut can uncover little.
const MAX_PASSES: usize = 16;
/// Problems that are listed; a pool of garbage has millions.
const MAX_PROBLEMS: usize = 10_000;

/// Checks the pool in `pmem`; with `repair`, repairs it.
///
/// # Errors
/// When there is no superblock to go by: [`Error::NotAPool`], [`Error::Version`], [`Error::Truncated`], [`Error::Damaged`].
pub fn fsck<M: Medium>(pmem: &M, repair: bool, progress: &mut dyn FnMut(u64, u64)) -> Result<FsckReport> {
    let (superblock, stale) = Superblock::find(pmem)?;
    let mut report = FsckReport::default();
    if let Some(number) = stale {
        report.problems.push(Problem {
            at: Superblock::offset(number),
            what: "superblock: this copy is damaged or old".to_owned(),
            repair: "write it anew from the other copy",
            object: None,
        });
        if repair {
            superblock.store(pmem, number);
        }
    }
    for _ in 0..MAX_PASSES {
        let mut pass = Pass::new(pmem, &superblock, repair);
        pass.run(progress);
        let Pass { problems, space, objects, names, ties, .. } = pass;
        let found = !problems.is_empty();
        let room = MAX_PROBLEMS.saturating_sub(report.problems.len());
        report.problems.extend(problems.into_iter().take(room));
        report.objects = objects.len() as u64;
        (report.names, report.ties, report.used) =
            (names.len() as u64, ties.len() as u64, space.used_pages() * PAGE);
        if !repair {
            report.clean = report.problems.is_empty();
            return Ok(report);
        }
        if !found {
            report.clean = Pool::load(pmem).is_ok();
            return Ok(report);
        }
    }
    Ok(report)
}

/// [`fsck`] of the pool at `path`, which nobody may have open.
///
/// # Errors
/// As [`fsck`], and as [`Pool::open`] for what concerns the file.
pub fn fsck_path(path: &Path, repair: bool, progress: &mut dyn FnMut(u64, u64)) -> Result<FsckReport> {
    let mapped = Mapped::open(path, &OpenOptions::default())?;
    let report = fsck(&mapped, repair, progress)?;
    if repair {
        mapped.sync()?;
    }
    Ok(report)
}

struct Pass<'a, M> {
    pmem: &'a M,
    seal: Seal,
    repair: bool,
    space: Space,
    meta: Meta,
    problems: Vec<Problem>,
    objects: HashSet<ObjectId>,
    names: HashSet<(bool, Box<str>)>,
    ties: HashSet<(ObjectId, ObjectId)>,
}

impl<'a, M: Medium> Pass<'a, M> {
    fn new(pmem: &'a M, superblock: &Superblock, repair: bool) -> Self {
        Self {
            pmem,
            seal: superblock.seal(),
            repair,
            space: Space::new(superblock.size),
            meta: Meta::default(),
            problems: Vec::new(),
            objects: HashSet::new(),
            names: HashSet::new(),
            ties: HashSet::new(),
        }
    }

    fn run(&mut self, progress: &mut dyn FnMut(u64, u64)) {
        let blocks = self.segments();
        let total = blocks.len() as u64;
        for (number, &(page, class)) in blocks.iter().enumerate() {
            progress(number as u64, total);
            for slot in 0..class.slots() {
                let at = page * PAGE + slot * class.slot_size();
                match class {
                    Class::Objects => self.object(at),
                    Class::Names => self.name(at),
                    Class::Ties => self.tie(at),
                }
            }
        }
        progress(total, total);
    }

    fn problem(&mut self, at: u64, what: impl Into<String>, repair: &'static str, object: Option<ObjectId>) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem { at, what: what.into(), repair, object });
        }
    }

    /// Stores a word, if this is a repair.
    fn fix(&self, at: u64, word: u64) {
        if self.repair {
            self.pmem.store(at, word);
            self.pmem.persist(at, 8);
        }
    }

    fn fix_word(&self, at: u64, kind: Kind, value: u64) {
        self.fix(at, self.seal.word(at, kind, value));
    }

    /// Along the chain. A broken link is mended with the segments that say of themselves that they are of metadata.
    fn segments(&mut self) -> Vec<(u64, Class)> {
        let mut blocks = Vec::new();
        let mut next = Some(0);
        let mut lost: Option<Vec<u64>> = None;
        while let Some(segment) = next {
            // Checked before it became `next`.
            let _ = self.space.claim(Pages::new(segment * SEGMENT_PAGES, SEGMENT_PAGES));
            let records = self.table(segment);
            self.meta.add_segment(segment, &records);
            blocks.extend(records);
            let at = table_word(segment, TABLE_LINK);
            next = match self.seal.open(at, self.pmem.load(at)) {
                Some((Kind::End, 0)) => None,
                Some((Kind::Next, segment)) if self.can_follow(segment) => Some(segment),
                _ => {
                    self.problem(
                        at,
                        "metadata chain: broken link",
                        "link to the segments that were behind it",
                        None,
                    );
                    let candidates = lost.get_or_insert_with(|| self.claimed_segments());
                    candidates.retain(|&segment| !self.meta.has_segment(segment));
                    let found = candidates.pop();
                    match found {
                        Some(segment) => self.fix_word(at, Kind::Next, segment),
                        None => self.fix_word(at, Kind::End, 0),
                    }
                    found
                }
            };
        }
        blocks
    }

    fn can_follow(&self, segment: u64) -> bool {
        segment < self.space.pages() / SEGMENT_PAGES && !self.meta.has_segment(segment)
    }

    /// All segments with a valid identity, last first.
    fn claimed_segments(&self) -> Vec<u64> {
        let is_one = |&segment: &u64| {
            let at = table_word(segment, TABLE_IDENTITY);
            self.seal.open(at, self.pmem.load(at)) == Some((Kind::Identity, segment))
        };
        (1..self.space.pages() / SEGMENT_PAGES).rev().filter(is_one).collect()
    }

    /// The blocks of records of a segment.
    fn table(&mut self, segment: u64) -> Vec<(u64, Class)> {
        let at = table_word(segment, TABLE_IDENTITY);
        if self.seal.open(at, self.pmem.load(at)) != Some((Kind::Identity, segment)) {
            self.problem(at, "block table: not this segment's", "write its identity anew", None);
            self.fix_word(at, Kind::Identity, segment);
        }
        let mut records = Vec::new();
        for block in (0..SEGMENT_PAGES).filter(|&block| !is_reserved(block)) {
            let at = table_word(segment, block);
            let page = segment * SEGMENT_PAGES + block;
            let class = match self.seal.open(at, self.pmem.load(at)) {
                Some((Kind::Loose, _)) => None,
                Some((Kind::Objects, _)) => Some(Class::Objects),
                Some((Kind::Names, _)) => Some(Class::Names),
                Some((Kind::Ties, _)) => Some(Class::Ties),
                _ => {
                    let class = self.guess_class(page);
                    self.problem(
                        at,
                        "block table: wrong check",
                        "say what the block's records look like",
                        None,
                    );
                    self.fix_word(at, class.map_or(Kind::Loose, Class::kind), 0);
                    class
                }
            };
            records.extend(class.map(|class| (page, class)));
        }
        records
    }

    /// The class of which most slots have valid records or are validly free.
    fn guess_class(&self, page: u64) -> Option<Class> {
        let valid = |class: Class| {
            let slots = (0..class.slots()).map(|slot| page * PAGE + slot * class.slot_size());
            slots.filter(|&at| self.is_valid(class, at)).count() as u64
        };
        let classes = [Class::Objects, Class::Names, Class::Ties];
        classes
            .into_iter()
            .filter(|&class| valid(class) * 2 > class.slots())
            .max_by_key(|&class| valid(class))
    }

    fn is_valid(&self, class: Class, at: u64) -> bool {
        match class {
            Class::Objects => ObjectRecord::load(self.pmem, self.seal, at).is_ok(),
            Class::Names => NameRecord::load(self.pmem, self.seal, at).is_ok(),
            Class::Ties => TieRecord::load(self.pmem, self.seal, at).is_ok(),
        }
    }

    /// Mends a record whose commit word was damaged in its state bits only, or frees its slot.
    fn mend_or_free(&mut self, class: Class, at: u64, error: &Error, object: Option<ObjectId>) {
        let what = match error {
            Error::Damaged { what, .. } => (*what).to_owned(),
            other => other.to_string(),
        };
        let is_valid = |word: u64| {
            let probe = revive::Probe { pmem: self.pmem, at, word };
            match class {
                Class::Objects => {
                    ObjectRecord::load(&probe, self.seal, at).is_ok_and(|record| record.is_some())
                }
                Class::Names => NameRecord::load(&probe, self.seal, at).is_ok_and(|record| record.is_some()),
                Class::Ties => TieRecord::load(&probe, self.seal, at).is_ok_and(|record| record.is_some()),
            }
        };
        let mended = revive::candidates(self.pmem.load(at)).find(|&word| is_valid(word));
        match mended {
            Some(word) => {
                self.problem(at, what, "restore the state: the contents' check is right", object);
                self.fix(at, word);
            }
            None => {
                self.problem(at, what, "free the record: what it said is lost", object);
                self.free(at);
            }
        }
    }

    fn free(&self, at: u64) {
        if self.repair {
            free(self.pmem, self.seal, at);
        }
    }

    fn object(&mut self, at: u64) {
        let record = match ObjectRecord::load(self.pmem, self.seal, at) {
            Ok(Some(record)) => record,
            Ok(None) => return,
            Err(error) => return self.mend_or_free(Class::Objects, at, &error, self.id_at(at)),
        };
        let birth = &record.birth;
        let id = birth.id;
        if !birth.is_consistent() {
            self.problem(
                at,
                "object record: not what its ID says",
                "free the record and its pages",
                Some(id),
            );
            return self.free(at);
        }
        if self.objects.contains(&id) {
            self.problem(at, "object record: a second one of this ID", "free the second record", Some(id));
            return self.free(at);
        }
        let claimed = Map::parse(&record.map, at).and_then(|map| {
            self.scrub(&map, id);
            self.reader().claim(&map, at, &mut self.space, &mut self.meta)
        });
        match claimed {
            Ok(()) => {
                self.objects.insert(id);
            }
            // Scrubbed words count again in the next pass, if they are repaired.
            Err(_) if !self.repair && !self.problems.is_empty() => {
                self.objects.insert(id);
            }
            Err(error) => {
                self.problem(at, error.to_string(), "free the record and its pages", Some(id));
                self.free(at);
            }
        }
    }

    /// The ID in a damaged record, if nonce, key and rights vouch for it.
    fn id_at(&self, at: u64) -> Option<ObjectId> {
        let birth = ObjectRecord::birth_at(self.pmem, at);
        birth.is_consistent().then_some(birth.id)
    }

    fn reader(&self) -> Reader<'a, M> {
        Reader { pmem: self.pmem, seal: self.seal }
    }

    /// Makes absent what a damaged word of a tree hid: a page, or a chunk of 512.
    fn scrub(&mut self, map: &Map, id: ObjectId) {
        for at in self.reader().damaged_words(map, &self.space, &self.meta) {
            self.problem(
                at,
                "map node: wrong check, or out of the data",
                "make the page or chunk absent: zeros",
                Some(id),
            );
            self.fix_word(at, Kind::Absent, 0);
        }
    }

    fn name(&mut self, at: u64) {
        match NameRecord::load(self.pmem, self.seal, at) {
            Ok(Some(record)) => {
                if !self.names.insert((record.is_root(), record.name)) {
                    self.problem(
                        at,
                        "name record: a second one of this name",
                        "free the second record",
                        None,
                    );
                    self.free(at);
                }
            }
            Ok(None) => {}
            Err(error) => self.mend_or_free(Class::Names, at, &error, None),
        }
    }

    fn tie(&mut self, at: u64) {
        match TieRecord::load(self.pmem, self.seal, at) {
            Ok(Some(record)) => {
                if record.tied == record.holder || !self.ties.insert((record.tied, record.holder)) {
                    self.problem(at, "tie record: twice, or to itself", "free the record", Some(record.tied));
                    self.free(at);
                }
            }
            Ok(None) => {}
            Err(error) => self.mend_or_free(Class::Ties, at, &error, None),
        }
    }
}
