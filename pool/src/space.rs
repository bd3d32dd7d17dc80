//! Which pages of the pool are in use: volatile, derived from the directory when the pool is opened.
//!
//! # Contract
//! - **P1**: a page is free, or its count of references is at least 1. References are held by map extents, by map
//!   nodes (one for each page they name), by leases on replaced extents, and by metadata segments. A page returns to
//!   the free ones when the last reference is released, never before.
//! - Nothing here is persistent. A reference that a crash interrupts on its way from the allocator to the directory
//!   is forgotten with the process, so no crash leaks a page.
//! - Memory is reserved for the whole pool (one bit a page, two bytes a segment) but touched only where pages are used.
//!
//! - **Tables find room.** They need whole segments, and data may lie anywhere. So data gets no (piece of an) empty segment if the blocks that
//!   tables would have left, in theirs and in the other empty segments, were fewer than one for each [`PAGES_A_BLOCK`] free pages in segments
//!   that are in use, or than [`BLOCKS_MIN`]: the last empty segment may be the tables'. A page that lies alone in its chunk of an object needs a
//!   block of its own, but to keep one for each would keep whole segments from large objects in a pool where much was deleted. So many such
//!   pages can outnumber the blocks; only then a pool is full for its tables and has room for data.
//!
//! Whole segments are handed out for big objects, from the first free one; smaller runs share segments, first fit
//! among the segments that are already broken.

use crate::error::{Error, Result};
use crate::format::{PAGE, SEGMENT, SEGMENT_PAGES, index};
use std::collections::BTreeMap;

/// A run of pool pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pages {
    pub(crate) start: u64,
    pub(crate) count: u64,
}

impl Pages {
    pub(crate) const fn new(start: u64, count: u64) -> Self {
        Self { start, count }
    }

    pub(crate) const fn end(self) -> u64 {
        self.start + self.count
    }
}

/// Words of the bitmap in a segment.
const SEGMENT_WORDS: usize = index(SEGMENT_PAGES) / 64;
/// Broken segments that are tried for a small run before a new segment is broken.
const TRIES: usize = 16;
/// Blocks of a segment that tables can use (`meta.rs`): all but its own table and the places of superblocks.
const SEGMENT_BLOCKS: u64 = SEGMENT_PAGES - 3;
/// Blocks that are left to tables in a full pool: for eight thousand records, or the nodes of what is made anew in place of what was deleted.
const BLOCKS_MIN: u64 = 256;
/// Pages of data for which a block is kept.
const PAGES_A_BLOCK: u64 = 8;

/// The allocator.
#[derive(Debug)]
pub(crate) struct Space {
    segments: u64,
    /// One bit a page; set: in use.
    used: Vec<u64>,
    /// Used pages in each segment.
    fill: Vec<u16>,
    used_pages: u64,
    /// Segments without a used page.
    empty: u64,
    /// Runs with two references or more: start -> (count, references). Disjoint.
    shared: BTreeMap<u64, (u64, u32)>,
    /// Every segment before is not empty.
    first_empty: u64,
    /// Every segment before is full or empty.
    first_broken: u64,
}

impl Space {
    /// All free.
    pub(crate) fn new(size: u64) -> Self {
        let segments = size / SEGMENT;
        Self {
            segments,
            used: vec![0; index(segments) * SEGMENT_WORDS],
            fill: vec![0; index(segments)],
            used_pages: 0,
            empty: segments,
            shared: BTreeMap::new(),
            first_empty: 0,
            first_broken: 0,
        }
    }

    /// Pages in the pool.
    pub(crate) const fn pages(&self) -> u64 {
        self.segments * SEGMENT_PAGES
    }

    /// Pages in use.
    pub(crate) const fn used_pages(&self) -> u64 {
        self.used_pages
    }

    /// Used pages of each segment.
    pub(crate) fn fill(&self) -> &[u16] {
        &self.fill
    }

    /// A number that two allocators share exactly if the same pages are in use with the same references.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn fingerprint(&self) -> (u64, Vec<u64>, Vec<(u64, u64, u32)>) {
        let mut runs: Vec<(u64, u64, u32)> = Vec::new();
        for (&start, &(count, references)) in &self.shared {
            match runs.last_mut() {
                Some(last) if last.0 + last.1 == start && last.2 == references => last.1 += count,
                _ => runs.push((start, count, references)),
            }
        }
        (self.used_pages, self.used.clone(), runs)
    }

    /// Takes `count` pages for data, 1 to 512, each run inside one segment; at `near` if those are free. One reference. Tables have `blocks` free
    /// blocks.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub(crate) fn take(&mut self, count: u64, near: Option<u64>, blocks: u64) -> Result<Pages> {
        debug_assert!((1..=SEGMENT_PAGES).contains(&count), "a run has 1 to 512 pages");
        let may_break = self.may_break(blocks);
        let is_near = |&start: &u64| {
            self.is_free(start, count) && (may_break || self.fill[index(start / SEGMENT_PAGES)] > 0)
        };
        let found = match near.filter(is_near) {
            Some(start) => Some(start),
            None if count == SEGMENT_PAGES => may_break.then(|| self.find_empty()).flatten(),
            None => self.find_small(count, may_break),
        };
        let pages = Pages::new(found.ok_or(Error::Full { bytes: count * PAGE })?, count);
        self.mark(pages, true);
        Ok(pages)
    }

    /// Takes an empty segment for tables.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub(crate) fn take_segment(&mut self) -> Result<Pages> {
        let found = self.find_empty().ok_or(Error::Full { bytes: SEGMENT })?;
        let pages = Pages::new(found, SEGMENT_PAGES);
        self.mark(pages, true);
        Ok(pages)
    }

    /// Whether enough is left for tables, which have `blocks`, if data is given pages of an empty segment.
    fn may_break(&self, blocks: u64) -> bool {
        let scattered = self.pages() - self.used_pages - self.empty * SEGMENT_PAGES;
        let left = self.empty.saturating_sub(1);
        blocks + left * SEGMENT_BLOCKS >= (scattered / PAGES_A_BLOCK).max(BLOCKS_MIN)
    }

    /// Whether `count` pages from `start` on are free and in one segment.
    fn is_free(&self, start: u64, count: u64) -> bool {
        let segment = start / SEGMENT_PAGES;
        segment < self.segments
            && (start + count - 1) / SEGMENT_PAGES == segment
            && Spans::new(Pages::new(start, count)).all(|(word, mask)| self.used[word] & mask == 0)
    }

    fn find_empty(&mut self) -> Option<u64> {
        let from = index(self.first_empty);
        let found = self.fill[from..].iter().position(|&fill| fill == 0).map(|at| (from + at) as u64);
        self.first_empty = found.unwrap_or(self.segments);
        found.map(|segment| segment * SEGMENT_PAGES)
    }

    fn find_small(&mut self, count: u64, may_break: bool) -> Option<u64> {
        let full_or_empty = |fill: u16| fill == 0 || u64::from(fill) == SEGMENT_PAGES;
        let from = index(self.first_broken);
        let broken = self.fill[from..].iter().position(|&fill| !full_or_empty(fill));
        self.first_broken = broken.map_or(self.segments, |at| (from + at) as u64);
        // Bounded, since fragmented segments may each have room but no run. The last resort looks at all.
        let mut start = self.run_among(count, 0, TRIES);
        if start.is_none() && may_break {
            start = self.find_empty();
        }
        start.or_else(|| self.run_among(count, TRIES, usize::MAX))
    }

    /// Looks for a run in the broken segments with room, `tries` of them after the first `skip`.
    fn run_among(&self, count: u64, skip: usize, tries: usize) -> Option<u64> {
        let has_room = |&segment: &usize| {
            let fill = u64::from(self.fill[segment]);
            fill > 0 && SEGMENT_PAGES - fill >= count
        };
        let candidates = (index(self.first_broken)..self.fill.len()).filter(has_room);
        candidates.skip(skip).take(tries).find_map(|segment| self.run_in(segment, count))
    }

    /// The first run of `count` free pages in a segment.
    fn run_in(&self, segment: usize, count: u64) -> Option<u64> {
        let words = &self.used[segment * SEGMENT_WORDS..][..SEGMENT_WORDS];
        let mut run = 0;
        let mut page = 0;
        while page < SEGMENT_PAGES {
            let word = words[index(page / 64)] >> (page % 64);
            let left = 64 - page % 64;
            // Step over a stretch of equal bits at once.
            let free = u64::from(word.trailing_zeros()).min(left);
            if free > 0 {
                run += free;
                page += free;
                if run >= count {
                    return Some(segment as u64 * SEGMENT_PAGES + page - run);
                }
            } else {
                run = 0;
                page += u64::from(word.trailing_ones()).min(left);
            }
        }
        None
    }

    fn mark(&mut self, pages: Pages, used: bool) {
        for (word, mask) in Spans::new(pages) {
            if used {
                self.used[word] |= mask;
            } else {
                self.used[word] &= !mask;
            }
            #[allow(clippy::cast_possible_truncation, reason = "at most 64")]
            let count = mask.count_ones() as u16;
            let segment = word / SEGMENT_WORDS;
            let was_empty = self.fill[segment] == 0;
            if used {
                self.fill[segment] += count;
                self.used_pages += u64::from(count);
            } else {
                self.fill[segment] -= count;
                self.used_pages -= u64::from(count);
                if self.fill[segment] == 0 {
                    self.first_empty = self.first_empty.min(segment as u64);
                }
            }
            match (was_empty, self.fill[segment] == 0) {
                (true, false) => self.empty -= 1,
                (false, true) => self.empty += 1,
                _ => {}
            }
            self.first_broken = self.first_broken.min(segment as u64);
        }
    }

    /// Adds a reference to each of `pages`, which may be free (when the directory is read at open) or not.
    ///
    /// # Errors
    /// The first page outside the pool.
    pub(crate) fn claim(&mut self, pages: Pages) -> Result<(), u64> {
        if pages.end() > self.pages() {
            return Err(pages.start.max(self.pages()));
        }
        if Spans::new(pages).all(|(word, mask)| self.used[word] & mask == 0) {
            self.mark(pages, true);
            return Ok(());
        }
        if Spans::new(pages).all(|(word, mask)| self.used[word] & mask == mask) {
            self.share(pages);
            return Ok(());
        }
        for page in pages.start..pages.end() {
            self.claim(Pages::new(page, 1))?;
        }
        Ok(())
    }

    /// Adds a reference to pages in use.
    pub(crate) fn share(&mut self, pages: Pages) {
        self.split_at(pages.start);
        self.split_at(pages.end());
        let mut at = pages.start;
        let mut gaps = Vec::new();
        for (&start, (count, references)) in self.shared.range_mut(pages.start..pages.end()) {
            if at < start {
                gaps.push(Pages::new(at, start - at));
            }
            *references = references.saturating_add(1);
            at = start + *count;
        }
        if at < pages.end() {
            gaps.push(Pages::new(at, pages.end() - at));
        }
        for gap in gaps {
            self.shared.insert(gap.start, (gap.count, 2));
        }
    }

    /// Gives up a reference to each of `pages`; those without any left become free.
    pub(crate) fn release(&mut self, pages: Pages) {
        if self.shared.is_empty() {
            self.mark(pages, false);
            return;
        }
        self.split_at(pages.start);
        self.split_at(pages.end());
        let mut at = pages.start;
        let mut alone = Vec::new();
        let mut single = Vec::new();
        for (&start, (count, references)) in self.shared.range_mut(pages.start..pages.end()) {
            if at < start {
                alone.push(Pages::new(at, start - at));
            }
            *references -= 1;
            if *references < 2 {
                single.push(start);
            }
            at = start + *count;
        }
        if at < pages.end() {
            alone.push(Pages::new(at, pages.end() - at));
        }
        for start in single {
            self.shared.remove(&start);
        }
        for pages in alone {
            self.mark(pages, false);
        }
    }

    /// Whether `page` has more than one reference, and how many pages from it on (at most `limit`) are the same.
    pub(crate) fn is_shared(&self, page: u64, limit: u64) -> (bool, u64) {
        if self.shared.is_empty() {
            return (false, limit);
        }
        let before =
            self.shared.range(..=page).next_back().filter(|&(&start, &(count, _))| start + count > page);
        if let Some((&start, &(count, _))) = before {
            let mut end = start + count;
            while end < page + limit {
                let Some(&(count, _)) = self.shared.get(&end) else { break };
                end += count;
            }
            return (true, (end - page).min(limit));
        }
        let next = self.shared.range(page..).next().map_or(u64::MAX, |(&start, _)| start);
        (false, (next - page).min(limit))
    }

    /// Makes `page` the start of a shared run, if it is inside one.
    fn split_at(&mut self, page: u64) {
        let Some((&start, &(count, references))) = self.shared.range(..page).next_back() else { return };
        if start + count > page {
            self.shared.insert(start, (page - start, references));
            self.shared.insert(page, (start + count - page, references));
        }
    }
}

/// The bitmap words that a run touches, with the bits of each.
struct Spans {
    at: u64,
    end: u64,
}

impl Spans {
    fn new(pages: Pages) -> Self {
        Self { at: pages.start, end: pages.end() }
    }
}

impl Iterator for Spans {
    type Item = (usize, u64);

    #[inline]
    fn next(&mut self) -> Option<(usize, u64)> {
        if self.at >= self.end {
            return None;
        }
        let (word, bit) = (self.at / 64, self.at % 64);
        let count = (64 - bit).min(self.end - self.at);
        self.at += count;
        let mask = if count == 64 { u64::MAX } else { ((1 << count) - 1) << bit };
        Some((index(word), mask))
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Random takes, shares and releases agree with a plain map from page to count.
    #[test]
    fn agrees_with_a_count_per_page() {
        let mut space = Space::new(4 * SEGMENT);
        let mut counts: HashMap<u64, u32> = HashMap::new();
        let mut held: Vec<Pages> = Vec::new();
        let mut random = 1u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for _ in 0..20_000 {
            match draw(4) {
                0 | 1 => {
                    let count = if draw(10) == 0 { 512 } else { 1 + draw(40) };
                    let near = held.last().map(|pages| pages.end());
                    if let Ok(pages) = space.take(count, near, u64::MAX / 2) {
                        for page in pages.start..pages.end() {
                            assert_eq!(counts.insert(page, 1), None, "page {page} handed out twice");
                        }
                        assert_eq!(pages.start / SEGMENT_PAGES, (pages.end() - 1) / SEGMENT_PAGES);
                        held.push(pages);
                    }
                }
                2 if !held.is_empty() => {
                    let pages = held[draw(held.len() as u64) as usize];
                    let skip = draw(pages.count);
                    let part = Pages::new(pages.start + skip, 1 + draw(pages.count - skip));
                    space.share(part);
                    (part.start..part.end()).for_each(|page| *counts.get_mut(&page).unwrap() += 1);
                    held.push(part);
                }
                _ if !held.is_empty() => {
                    let pages = held.swap_remove(draw(held.len() as u64) as usize);
                    space.release(pages);
                    for page in pages.start..pages.end() {
                        let count = counts.get_mut(&page).unwrap();
                        *count -= 1;
                        if *count == 0 {
                            counts.remove(&page);
                        }
                    }
                }
                _ => {}
            }
            assert_eq!(space.used_pages(), counts.len() as u64);
            assert_eq!(space.empty, space.fill().iter().filter(|fill| **fill == 0).count() as u64);
            let page = draw(space.pages());
            let (shared, run) = space.is_shared(page, 20);
            for page in page..page + run {
                assert_eq!(counts.get(&page).is_some_and(|&count| count > 1), shared, "page {page}");
            }
        }
        let mut again = Space::new(4 * SEGMENT);
        held.iter().for_each(|&pages| again.claim(pages).unwrap());
        assert_eq!(again.fingerprint(), space.fingerprint());
        held.drain(..).for_each(|pages| space.release(pages));
        assert_eq!(space.fingerprint(), Space::new(4 * SEGMENT).fingerprint());
    }
}
