//! Reading maps: finding pages, following trees, counting references.

use super::{CHUNK_PAGES, Chunk, Entry, Map, NOWHERE, Run};
use crate::error::{Error, Result};
use crate::format::{Kind, OBJECT_PAGES, PAGE, SEGMENT_PAGES, Seal, index};
use crate::meta::{Level, Meta};
use crate::space::{Pages, Space};
use pmem::Pmem;

/// Reads maps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a, M> {
    pub(crate) pmem: &'a M,
    pub(crate) seal: Seal,
}

impl<M: Pmem> Reader<'_, M> {
    pub(super) fn entry(&self, node: u64, level: Level, number: u64) -> Result<Entry> {
        let at = node * PAGE + number * 8;
        let inside = node < self.pmem.len() / PAGE;
        let word = if inside { self.seal.open(at, self.pmem.load(at)) } else { None };
        match (level, word) {
            (_, Some((Kind::Absent, 0))) => Ok(Entry::Absent),
            (Level::Leaf, Some((Kind::Page, page))) => Ok(Entry::Page(page)),
            (Level::Root, Some((Kind::Run, page))) => Ok(Entry::Run(page)),
            (Level::Root, Some((Kind::Leaf, page))) => Ok(Entry::Leaf(page)),
            _ => Err(Error::damaged(at, "map node: wrong check or kind")),
        }
    }

    /// The run around `page`, hole or not, as far as one look reaches: in a tree, to the ends of the chunk.
    pub(crate) fn find(&self, map: &Map, page: u64) -> Result<Run> {
        match map {
            Map::Inline(runs) => {
                let mut from = 0;
                for run in runs {
                    if page < run.object_page {
                        return Ok(Run { object_page: from, pages: run.object_page - from, pool_page: None });
                    }
                    if page < run.end() {
                        return Ok(*run);
                    }
                    from = run.end();
                }
                Ok(Run { object_page: from, pages: OBJECT_PAGES - from, pool_page: None })
            }
            Map::Tree(root) => {
                let first = page - page % SEGMENT_PAGES;
                let whole = |pool_page| Run { object_page: first, pages: SEGMENT_PAGES, pool_page };
                match self.entry(*root, Level::Root, page / SEGMENT_PAGES)? {
                    Entry::Run(start) => Ok(whole(Some(start))),
                    Entry::Leaf(leaf) => self.find_in_leaf(leaf, first, page % SEGMENT_PAGES),
                    _ => Ok(whole(None)),
                }
            }
        }
    }

    fn find_in_leaf(&self, leaf: u64, first: u64, number: u64) -> Result<Run> {
        let page_at = |number| {
            Ok(match self.entry(leaf, Level::Leaf, number)? {
                Entry::Page(page) => Some(page),
                _ => None,
            })
        };
        let here = page_at(number)?;
        let continues = |other: Option<u64>, number_there: u64| match (here, other) {
            (None, None) => true,
            (Some(here), Some(other)) => here + number_there == other + number,
            _ => false,
        };
        let (mut start, mut end) = (number, number + 1);
        while start > 0 && continues(page_at(start - 1)?, start - 1) {
            start -= 1;
        }
        while end < SEGMENT_PAGES && continues(page_at(end)?, end) {
            end += 1;
        }
        let pool_page = here.map(|page| page - (number - start));
        Ok(Run { object_page: first + start, pages: end - start, pool_page })
    }

    /// Calls `each` with the runs that are present in object pages `from..to`, ascending.
    pub(crate) fn for_each(
        &self,
        map: &Map,
        from: u64,
        to: u64,
        mut each: impl FnMut(Run) -> Result<()>,
    ) -> Result<()> {
        let mut page = from;
        while page < to {
            let run = self.find(map, page)?;
            let end = run.end().min(to);
            if run.pool_page.is_some() {
                each(run.part(page, end))?;
            }
            page = end;
        }
        Ok(())
    }

    /// Adds the references of a map read at open. A node is read when it is first met.
    ///
    /// # Errors
    /// [`Error::Damaged`]: a bad node, or pages outside the pool or in metadata. `at` is the record's place.
    pub(crate) fn claim(&self, map: &Map, at: u64, space: &mut Space, meta: &mut Meta) -> Result<()> {
        let mut claim_pages = |place: u64, pages: Pages, meta: &Meta| {
            let (first, last) = (pages.start / SEGMENT_PAGES, (pages.end() - 1) / SEGMENT_PAGES);
            if pages.end() > space.pages() || (first..=last).any(|segment| meta.has_segment(segment)) {
                return Err(Error::damaged(place, "map: pages outside the data of the pool"));
            }
            space.claim(pages).map_err(|_| Error::damaged(place, "map: pages outside the pool"))
        };
        let root = match map {
            Map::Inline(runs) => {
                for run in runs {
                    let Some(start) = run.pool_page else { continue };
                    claim_pages(at, Pages::new(start, run.pages), meta)?;
                }
                return Ok(());
            }
            Map::Tree(root) => *root,
        };
        if !meta.claim_node(root, Level::Root)? {
            return Ok(());
        }
        for chunk in 0..SEGMENT_PAGES {
            let place = root * PAGE + chunk * 8;
            match self.entry(root, Level::Root, chunk)? {
                Entry::Run(start) => claim_pages(place, Pages::new(start, SEGMENT_PAGES), meta)?,
                Entry::Leaf(leaf) if meta.claim_node(leaf, Level::Leaf)? => {
                    for number in 0..SEGMENT_PAGES {
                        if let Entry::Page(page) = self.entry(leaf, Level::Leaf, number)? {
                            claim_pages(leaf * PAGE + number * 8, Pages::new(page, 1), meta)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The words of a tree that cannot be followed: a wrong check, a node where none can be, pages that are not data.
    pub(crate) fn damaged_words(&self, map: &Map, space: &Space, meta: &Meta) -> Vec<u64> {
        let mut damaged = Vec::new();
        let Map::Tree(root) = *map else { return damaged };
        if !meta.can_be_node(root, Level::Root) {
            // Not a word of the tree but its record is wrong; claiming it says so.
            return damaged;
        }
        let is_data = |start: u64, count: u64| {
            let segments = start / SEGMENT_PAGES..=(start + count - 1) / SEGMENT_PAGES;
            start + count <= space.pages() && !segments.clone().any(|segment| meta.has_segment(segment))
        };
        for chunk in 0..SEGMENT_PAGES {
            let leaf = match self.entry(root, Level::Root, chunk) {
                Ok(Entry::Absent) => continue,
                Ok(Entry::Run(start)) if is_data(start, SEGMENT_PAGES) => continue,
                Ok(Entry::Leaf(leaf)) if meta.can_be_node(leaf, Level::Leaf) && leaf != root => leaf,
                _ => {
                    damaged.push(root * PAGE + chunk * 8);
                    continue;
                }
            };
            for number in 0..SEGMENT_PAGES {
                match self.entry(leaf, Level::Leaf, number) {
                    Ok(Entry::Absent) => {}
                    Ok(Entry::Page(page)) if is_data(page, 1) => {}
                    _ => damaged.push(leaf * PAGE + number * 8),
                }
            }
        }
        damaged
    }

    /// Gives up the references of a map whose record is gone.
    pub(crate) fn release(&self, map: &Map, space: &mut Space, meta: &mut Meta) -> Result<()> {
        let root = match map {
            Map::Inline(runs) => {
                for run in runs {
                    if let Some(start) = run.pool_page {
                        space.release(Pages::new(start, run.pages));
                    }
                }
                return Ok(());
            }
            Map::Tree(root) => *root,
        };
        if !meta.release_node(root) {
            return Ok(());
        }
        for chunk in 0..SEGMENT_PAGES {
            match self.entry(root, Level::Root, chunk)? {
                Entry::Run(start) => space.release(Pages::new(start, SEGMENT_PAGES)),
                Entry::Leaf(leaf) if meta.release_node(leaf) => {
                    for number in 0..SEGMENT_PAGES {
                        if let Entry::Page(page) = self.entry(leaf, Level::Leaf, number)? {
                            space.release(Pages::new(page, 1));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the page of `run` at object page `page` is shared, and how far from there (inside `run`) that holds.
    pub(crate) fn is_shared(
        &self,
        map: &Map,
        run: &Run,
        page: u64,
        space: &Space,
        meta: &Meta,
    ) -> Result<(bool, u64)> {
        let rest = run.end() - page;
        if let Map::Tree(root) = map {
            if meta.node_references(*root) > 1 {
                return Ok((true, rest));
            }
            let entry = self.entry(*root, Level::Root, page / SEGMENT_PAGES)?;
            if matches!(entry, Entry::Leaf(leaf) if meta.node_references(leaf) > 1) {
                return Ok((true, rest));
            }
        }
        let start = run.pool_page.unwrap_or_default() + (page - run.object_page);
        Ok(space.is_shared(start, rest))
    }

    /// The pages of chunk `chunk` behind `entry`.
    pub(super) fn chunk(&self, entry: Entry) -> Result<Chunk> {
        let mut pages: Chunk = Box::new([NOWHERE; CHUNK_PAGES]);
        match entry {
            Entry::Run(start) => pages.iter_mut().zip(start..).for_each(|(page, at)| *page = at),
            Entry::Leaf(leaf) => {
                for number in 0..SEGMENT_PAGES {
                    if let Entry::Page(page) = self.entry(leaf, Level::Leaf, number)? {
                        pages[index(number)] = page;
                    }
                }
            }
            _ => {}
        }
        Ok(pages)
    }
}
