//! Objects that begin with ranges of others and with pages of their own, and pages that an object gets before it is touched.
//!
//! # Contract
//! - **One commit**: the parts are collected, with a reference to each page, before the record of a new object is written; until then there
//!   is no object, and an open after a power failure finds every page of it free. A failure gives the references back.
//! - A reservation makes absent pages zeros, all of them or, on failure, none. Pages that are shared with another object stay so.

use crate::Medium;
use crate::core::{Core, Pool};
use crate::error::{Error, Result};
use crate::format::records::Birth;
use crate::format::{OBJECT_PAGES, PAGE, SEGMENT_PAGES};
use crate::map::{Map, Run};
use crate::object::{ObjectRef, check_range};
use crate::objects::{ObjectSpec, release_runs};
use twz_abi::ObjectId;

/// A range of an object that a new one begins with, shared until either is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyRange {
    /// Copied from.
    pub source: ObjectId,
    /// First byte there, a multiple of the granule.
    pub source_offset: u64,
    /// First byte in the new object, likewise.
    pub target_offset: u64,
    /// Bytes, likewise.
    pub len: u64,
}

impl<M: Medium> Pool<M> {
    /// [`Pool::create_object`] with ranges or a size.
    pub(crate) fn create_composed(
        &self,
        spec: &ObjectSpec<'_>,
        birth: Birth,
        ranges: &[CopyRange],
    ) -> Result<()> {
        let mut opened = Vec::new();
        for range in ranges {
            self.0.check_granules(range.source_offset, range.len)?;
            self.0.check_granules(range.target_offset, range.len)?;
            opened.push((self.open_object(range.source)?, *range));
        }
        if let Some((offset, len)) = overlap(ranges) {
            return Err(Error::BadRange { offset, len, align: self.0.granule });
        }
        self.0.create_composed(spec, birth, &opened)
    }

    /// Gives `object` zeroed pages wherever it has none in `len` bytes from `offset`, so that touching them cannot fail for want of room:
    /// all of them, or none. Offset and length are multiples of the granule. Shared pages stay shared; a write to one takes a page.
    ///
    /// # Errors
    /// [`Error::BadRange`], [`Error::Full`], [`Error::Damaged`], [`Error::NotDurable`].
    pub fn reserve_range(&self, object: &ObjectRef<M>, offset: u64, len: u64) -> Result<()> {
        self.0.check_granules(offset, len)?;
        let mut content = object.opened.lock();
        let map = Map::parse(&content.record.map, object.opened.at)?;
        let (first, end) = (offset / PAGE, (offset + len) / PAGE);
        let mut present = Vec::new();
        self.0.reader().for_each(&map, first, end, |run| {
            present.push(run);
            Ok(())
        })?;
        let holes = holes(&present, first, end);
        let near = holes.first().map_or(Ok(None), |hole| self.0.neighbour(&map, hole.object_page))?;
        let zeros = self.0.zeros(&holes, near)?;
        if zeros.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.0.change(&object.opened, &mut content, &zeros, false) {
            release_runs(&mut self.0.state(), &zeros);
            return Err(error);
        }
        self.0.pmem.check()
    }
}

impl<M: Medium> Core<M> {
    pub(crate) fn check_granules(&self, offset: u64, len: u64) -> Result<()> {
        check_range(offset, len)?;
        let align = self.granule;
        let is_whole = offset.is_multiple_of(align) && len.is_multiple_of(align);
        if is_whole { Ok(()) } else { Err(Error::BadRange { offset, len, align }) }
    }

    /// Creates an object from its ranges, and from zeros where these leave pages of its size absent. That takes time without the state's
    /// lock, so the ID waits as pending.
    fn create_composed(
        &self,
        spec: &ObjectSpec<'_>,
        birth: Birth,
        ranges: &[(ObjectRef<M>, CopyRange)],
    ) -> Result<()> {
        {
            let mut state = self.state();
            state.check_new(birth.id, spec)?;
            state.pending.insert(birth.id);
        }
        let mut runs = Vec::new();
        let collected = self.collect(spec.size, ranges, &mut runs);
        let mut state = self.state();
        state.pending.remove(&birth.id);
        let made = collected.and_then(|()| self.fill_record(&mut state, birth, &runs, spec));
        if made.is_err() {
            release_runs(&mut state, &runs);
        }
        made
    }

    /// Puts what the object is to have into `runs`, ascending, with a reference to each page.
    fn collect(&self, size: u64, ranges: &[(ObjectRef<M>, CopyRange)], runs: &mut Vec<Run>) -> Result<()> {
        for (source, range) in ranges {
            self.share_range(source, range, runs)?;
        }
        runs.sort_unstable_by_key(|run| run.object_page);
        let end = size.div_ceil(PAGE).next_multiple_of(self.unit()).min(OBJECT_PAGES);
        let zeros = self.zeros(&holes(runs, 0, end), None)?;
        runs.extend(zeros);
        runs.sort_unstable_by_key(|run| run.object_page);
        Ok(())
    }

    /// Adds a reference to the pages of a range, and where they are to be.
    fn share_range(&self, source: &ObjectRef<M>, range: &CopyRange, runs: &mut Vec<Run>) -> Result<()> {
        let content = source.opened.lock();
        self.before_share(&source.opened, range.source_offset, range.len)?;
        let map = Map::parse(&content.record.map, source.opened.at)?;
        let (from, to) = (range.source_offset / PAGE, range.target_offset / PAGE);
        let mut found = Vec::new();
        self.reader().for_each(&map, from, from + range.len / PAGE, |run| {
            found.push(Run { object_page: run.object_page - from + to, ..run });
            Ok(())
        })?;
        let mut state = self.state();
        found.iter().for_each(|run| state.space.share(run.pool_pages()));
        runs.extend(found);
        Ok(())
    }

    /// Takes zeroed pages for all of `holes`, or for none; from pool page `near` on if those are free.
    fn zeros(&self, holes: &[Run], mut near: Option<u64>) -> Result<Vec<Run>> {
        let mut taken: Vec<Run> = Vec::new();
        {
            let mut state = self.state();
            for hole in holes {
                let mut from = hole.object_page;
                let mut largest = SEGMENT_PAGES;
                while from < hole.end() {
                    // Whole chunks where possible, since one entry can map such a one.
                    let pages = (hole.end() - from).min(SEGMENT_PAGES - from % SEGMENT_PAGES).min(largest);
                    match state.take(pages, near) {
                        Ok(place) => {
                            taken.push(Run { object_page: from, pages, pool_page: Some(place.start) });
                            near = Some(place.end());
                            from += pages;
                        }
                        Err(_) if pages > self.unit() => {
                            largest = (pages / 2).next_multiple_of(self.unit());
                        }
                        Err(_) => {
                            release_runs(&mut state, &taken);
                            let pages: u64 = holes.iter().map(|hole| hole.pages).sum();
                            return Err(Error::Full { bytes: pages * PAGE });
                        }
                    }
                }
            }
        }
        let zeroed = taken.iter().try_for_each(|run| {
            let (at, len) = (run.pool_pages().start * PAGE, run.pages * PAGE);
            self.pmem.reserve(at, len)?;
            self.pmem.zero_nt(at, len);
            Ok(())
        });
        match zeroed {
            Ok(()) => Ok(taken),
            Err(error) => {
                release_runs(&mut self.state(), &taken);
                Err(error)
            }
        }
    }
}

/// What `runs`, which ascend, leave absent from object page `from` to `end`.
fn holes(runs: &[Run], mut from: u64, end: u64) -> Vec<Run> {
    let mut found = Vec::new();
    let mut hole = |from: u64, to: u64| {
        if from < to {
            found.push(Run { object_page: from, pages: to - from, pool_page: None });
        }
    };
    for run in runs {
        hole(from, run.object_page.min(end));
        from = from.max(run.end());
    }
    hole(from, end);
    found
}

/// A place (offset, bytes) of the new object that two of `ranges` are to go to.
fn overlap(ranges: &[CopyRange]) -> Option<(u64, u64)> {
    let mut places: Vec<_> = ranges.iter().map(|range| (range.target_offset, range.len)).collect();
    places.retain(|&(_, len)| len > 0);
    places.sort_unstable();
    places.windows(2).find(|pair| pair[0].0 + pair[0].1 > pair[1].0).map(|pair| pair[1])
}
