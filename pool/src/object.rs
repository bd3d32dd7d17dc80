//! Objects in use: finding, making and reading their pages.

use crate::Medium;
use crate::core::{Core, Pool, State};
use crate::error::{Error, Result};
use crate::format::records::ObjectRecord;
use crate::format::{OBJECT_PAGES, PAGE, SEGMENT, SEGMENT_PAGES, index};
use crate::map::{Editor, Map, Run};
use crate::space::Pages;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use twz_abi::ObjectId;
use twz_abi::object::{DATA_END, MAX_SIZE};

/// What an access wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Load or fetch.
    Read,
    /// Store.
    Write,
}

/// A piece of an object in one piece of the pool, inside one 2 MiB chunk of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte in the object.
    pub object_offset: u64,
    /// First byte in the pool.
    pub pool_offset: u64,
    /// Bytes.
    pub len: u64,
    /// Other objects have the same pages: map it read-only, and [`ObjectRef::touch`] it before a write.
    pub shared: bool,
}

impl Extent {
    /// Whether this is a whole chunk in an aligned run, so that one huge entry can map it.
    #[must_use]
    pub const fn is_huge(&self) -> bool {
        self.len == SEGMENT && self.pool_offset.is_multiple_of(SEGMENT)
    }
}

/// Told before the pages under mappings change their meaning. Called with the object locked: an implementation must not
/// call the pool about that object, nor wait for a thread that may be in such a call.
pub trait ShareHook: Send + Sync + Debug {
    /// `len` bytes at `offset` are about to be shared with another object. When this returns, no store of anybody may
    /// reach them any more until [`ObjectRef::touch`] was called again for writing: write-protect every mapping.
    ///
    /// # Errors
    /// A text that says why not; the copy fails with it.
    fn before_share(&self, id: ObjectId, offset: u64, len: u64) -> Result<(), Box<str>>;

    /// `len` bytes at `offset` are about to be replaced by others, or by their copies when [`ObjectRef::touch`] makes shared
    /// pages writable. When this returns, no access of anybody may reach them any more until looked up again: unmap them
    /// everywhere.
    ///
    /// # Errors
    /// A text that says why not; the operation fails with it.
    fn before_replace(&self, id: ObjectId, offset: u64, len: u64) -> Result<(), Box<str>>;
}

/// What all references to one object share.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) id: ObjectId,
    /// Place of the record.
    pub(crate) at: u64,
    pub(crate) content: Mutex<Content>,
}

/// Guarded by the object's lock.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) record: ObjectRecord,
    /// Pages that were replaced while somebody may still map them, one reference each.
    pub(crate) replaced: Vec<Pages>,
    /// Pages made by growth so far; the next piece is as large.
    grown: u64,
}

impl Opened {
    pub(crate) fn new(id: ObjectId, at: u64, record: ObjectRecord) -> Self {
        let grown = match Map::parse(&record.map, at) {
            Ok(Map::Inline(runs)) => runs.iter().map(|run| run.pages).sum(),
            _ => SEGMENT_PAGES,
        };
        Self { id, at, content: Mutex::new(Content { record, replaced: Vec::new(), grown }) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A counted use of an object: while one lives, the object and its pages stay, even deleted ones.
#[derive(Debug)]
pub struct ObjectRef<M: Medium = crate::Mapped> {
    pub(crate) core: Arc<Core<M>>,
    pub(crate) opened: Arc<Opened>,
}

impl<M: Medium> Clone for ObjectRef<M> {
    fn clone(&self) -> Self {
        let mut state = self.core.state();
        if let Some((_, references)) = state.opened.get_mut(&self.opened.at) {
            *references += 1;
        }
        Self { core: Arc::clone(&self.core), opened: Arc::clone(&self.opened) }
    }
}

impl<M: Medium> Drop for ObjectRef<M> {
    fn drop(&mut self) {
        let mut content = self.opened.lock();
        let mut state = self.core.state();
        let Some((_, references)) = state.opened.get_mut(&self.opened.at) else { return };
        *references -= 1;
        if *references > 0 {
            return;
        }
        state.opened.remove(&self.opened.at);
        for pages in content.replaced.drain(..) {
            state.space.release(pages);
        }
        let id = content.record.birth.id;
        // Others keep what is tied to them whether they are in use or not.
        if state.doomed.contains(&id) {
            let candidates = self.core.hanging_on(&state, id);
            // Damage met here has been reported where it was first met; nobody waits for an answer of `drop`.
            let _ = self.core.sweep(&mut state, &candidates);
        }
    }
}

impl<M: Medium> ObjectRef<M> {
    /// Its ID.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.opened.id
    }

    /// The pool it is in.
    #[must_use]
    pub fn pool(&self) -> Pool<M> {
        Pool(Arc::clone(&self.core))
    }

    /// The piece around `offset`, if there is one: as much as is in one piece, equally shared, in the same chunk.
    ///
    /// # Errors
    /// [`Error::BadRange`], [`Error::Damaged`].
    pub fn lookup(&self, offset: u64) -> Result<Option<Extent>> {
        let page = page_of(offset)?;
        let content = self.opened.lock();
        let map = Map::parse(&content.record.map, self.opened.at)?;
        let run = self.core.reader().find(&map, page)?;
        if run.pool_page.is_none() {
            return Ok(None);
        }
        self.core.extent(&self.core.state(), &map, &run, page).map(Some)
    }

    /// Makes the page at `offset` ready for `access` and returns the piece around it. Absent pages become zeros, at least
    /// `len_hint` bytes from there if there is room; shared pages that are to be written become copies, and mappings of
    /// what was there must be made anew (see [`Self::release_replaced`]).
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::BadRange`], [`Error::Damaged`].
    pub fn touch(&self, offset: u64, len_hint: u64, access: Access) -> Result<Extent> {
        let page = page_of(offset)?;
        let mut content = self.opened.lock();
        loop {
            let map = Map::parse(&content.record.map, self.opened.at)?;
            let run = self.core.reader().find(&map, page)?;
            if run.pool_page.is_none() {
                self.core.populate(&self.opened, &mut content, &map, &run, page, len_hint.div_ceil(PAGE))?;
                continue;
            }
            let extent = self.core.extent(&self.core.state(), &map, &run, page)?;
            if access == Access::Read || !extent.shared {
                return Ok(extent);
            }
            self.core.unshare(&self.opened, &mut content, &extent, page)?;
        }
    }

    /// Says that every mapping of this object that was made before the last [`Self::touch`] is gone or made anew: pages
    /// that copy-on-write replaced may be used again. Without it they wait for the last reference to the object.
    pub fn release_replaced(&self) {
        let mut content = self.opened.lock();
        let mut state = self.core.state();
        for pages in content.replaced.drain(..) {
            state.space.release(pages);
        }
    }

    /// All pieces that are present, ascending, not cut at chunks when in one piece.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn extents(&self) -> Result<Vec<Extent>> {
        let content = self.opened.lock();
        let map = Map::parse(&content.record.map, self.opened.at)?;
        let state = self.core.state();
        let mut found: Vec<Extent> = Vec::new();
        self.core.reader().for_each(&map, 0, OBJECT_PAGES, |run| {
            let mut page = run.object_page;
            while page < run.end() {
                let (shared, pages) =
                    self.core.reader().is_shared(&map, &run, page, &state.space, &state.meta)?;
                let part = run.part(page, page + pages);
                let next = to_extent(&part, shared);
                match found.last_mut() {
                    Some(last) if continues(last, &next) => last.len += next.len,
                    _ => found.push(next),
                }
                page += pages;
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Copies bytes out of the object; absent pages read as zeros. Not atomic against writers.
    ///
    /// # Errors
    /// [`Error::BadRange`], [`Error::Damaged`].
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let content = self.opened.lock();
        self.core.read(&Map::parse(&content.record.map, self.opened.at)?, offset, into)
    }

    /// Stores bytes into the object, durably, making pages as needed. Not atomic: for tools, not for programs.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::BadRange`], [`Error::Damaged`]; then a part may be written.
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        check_range(offset, from.len() as u64)?;
        let mut done = 0;
        while done < from.len() {
            let at = offset + done as u64;
            let extent = self.touch(at, (from.len() - done) as u64, Access::Write)?;
            let skip = at - extent.object_offset;
            let left = index(extent.len - skip).min(from.len() - done);
            self.core.pmem.write(extent.pool_offset + skip, &from[done..done + left]);
            self.core.pmem.flush(extent.pool_offset + skip, left as u64);
            done += left;
        }
        self.core.pmem.fence();
        self.core.pmem.check()
    }

    /// Makes everything that was stored to the object durable, whoever stored it and through which mapping.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::NotDurable`].
    pub fn persist(&self) -> Result<()> {
        for extent in self.extents()? {
            self.core.pmem.flush(extent.pool_offset, extent.len);
        }
        self.core.pmem.fence();
        self.core.pmem.check()
    }
}

/// The page of an offset in an object.
fn page_of(offset: u64) -> Result<u64> {
    if offset < MAX_SIZE { Ok(offset / PAGE) } else { Err(Error::BadRange { offset, len: 1, align: 1 }) }
}

pub(crate) fn check_range(offset: u64, len: u64) -> Result<()> {
    let inside = len <= MAX_SIZE && offset <= MAX_SIZE - len;
    if inside { Ok(()) } else { Err(Error::BadRange { offset, len, align: 1 }) }
}

fn to_extent(run: &Run, shared: bool) -> Extent {
    Extent {
        object_offset: run.object_page * PAGE,
        pool_offset: run.pool_page.unwrap_or_default() * PAGE,
        len: run.pages * PAGE,
        shared,
    }
}

fn continues(last: &Extent, next: &Extent) -> bool {
    last.object_offset + last.len == next.object_offset
        && last.pool_offset + last.len == next.pool_offset
        && last.shared == next.shared
}

impl<M: Medium> Core<M> {
    /// Copies bytes out of the object that `map` describes.
    pub(crate) fn read(&self, map: &Map, offset: u64, into: &mut [u8]) -> Result<()> {
        check_range(offset, into.len() as u64)?;
        let mut done = 0;
        while done < into.len() {
            let at = offset + done as u64;
            let run = self.reader().find(map, at / PAGE)?;
            let left = index(run.end() * PAGE - at).min(into.len() - done);
            let part = &mut into[done..done + left];
            match run.pool_page {
                Some(start) => {
                    let from = start * PAGE + (at - run.object_page * PAGE);
                    self.check_data(from, left as u64)?;
                    self.pmem.read(from, part);
                }
                None => part.fill(0),
            }
            done += left;
        }
        Ok(())
    }

    /// A map that was checked when the pool was opened may have been damaged since: never touch metadata through it.
    fn check_data(&self, at: u64, len: u64) -> Result<()> {
        let inside = len <= self.pmem.len() && at <= self.pmem.len() - len;
        if inside { Ok(()) } else { Err(Error::damaged(at, "map: pages outside the pool")) }
    }

    /// The equally shared part of `run` around `page`, inside the page's chunk.
    fn extent(&self, state: &State, map: &Map, run: &Run, page: u64) -> Result<Extent> {
        let first = page - page % SEGMENT_PAGES;
        let run = run.part(run.object_page.max(first), run.end().min(first + SEGMENT_PAGES));
        let mut start = run.object_page;
        loop {
            let (shared, pages) = self.reader().is_shared(map, &run, start, &state.space, &state.meta)?;
            if start + pages > page {
                let extent = to_extent(&run.part(start, start + pages), shared);
                self.check_data(extent.pool_offset, extent.len)?;
                return Ok(extent);
            }
            start += pages;
        }
    }

    /// Makes zeros in the hole `hole` around `page`.
    fn populate(
        &self,
        opened: &Opened,
        content: &mut Content,
        map: &Map,
        hole: &Run,
        page: u64,
        wanted: u64,
    ) -> Result<()> {
        let window = self.window(content, map, hole, page, wanted)?;
        let (mut start, mut pages) = (window.object_page, window.pages);
        // A chunk of its own gets an aligned run; else try to go on where the neighbour ends.
        let near = if pages == SEGMENT_PAGES { None } else { self.neighbour(map, start)? };
        let taken = loop {
            let result = self.state().take(pages, near);
            match result {
                Ok(taken) => break taken,
                Err(error) if pages <= self.unit() => return Err(error),
                Err(_) => {
                    // Less, but with the page that is needed in it.
                    pages = (pages / 2).next_multiple_of(self.unit());
                    let granule = page - page % self.unit();
                    start = start.max((granule + self.unit()).saturating_sub(pages)).min(granule);
                    pages = pages.min(window.end() - start);
                }
            }
        };
        let run = Run { object_page: start, pages, pool_page: Some(taken.start) };
        let made = self.pmem.reserve(taken.start * PAGE, pages * PAGE).and_then(|()| {
            self.pmem.zero_nt(taken.start * PAGE, pages * PAGE);
            self.change(opened, content, &[run], false)
        });
        match made {
            Ok(_) => {
                content.grown += pages;
                self.pmem.check()
            }
            Err(error) => {
                self.state().space.release(taken);
                Err(error)
            }
        }
    }

    /// How much to make in a hole, and where. Objects grow up from their start and, from [`DATA_END`] on, down from their
    /// end. Growing at the edge of what is there doubles the object, up to whole chunks; a page far from anything comes
    /// alone (with what the caller expects to need).
    fn window(&self, content: &Content, map: &Map, hole: &Run, page: u64, wanted: u64) -> Result<Run> {
        let unit = self.unit();
        let chunk = page - page % SEGMENT_PAGES;
        let (low, high) = (hole.object_page.max(chunk), hole.end().min(chunk + SEGMENT_PAGES));
        let downwards = page * PAGE >= DATA_END;
        let edge = if downwards { high == page + 1 && high < OBJECT_PAGES } else { low == page && page > 0 };
        let beside = if downwards { page + 1 } else { page.saturating_sub(1) };
        let sequential = edge && self.reader().find(map, beside)?.pool_page.is_some();
        let growth = if sequential { content.grown.min(SEGMENT_PAGES) } else { 1 };
        let mut pages = growth.max(wanted.min(SEGMENT_PAGES)).max(unit).next_multiple_of(unit);
        let whole_chunk = low == chunk && high == chunk + SEGMENT_PAGES;
        if whole_chunk && pages > SEGMENT_PAGES / 2 {
            return Ok(Run { object_page: chunk, pages: SEGMENT_PAGES, pool_page: None });
        }
        let first = page - page % unit;
        let start = if downwards { (first + unit).saturating_sub(pages).max(low) } else { first };
        pages = pages.min(high - start);
        Ok(Run { object_page: start, pages, pool_page: None })
    }

    /// The pool page after the one of the object page before `start`: taking it keeps the object in one piece.
    pub(crate) fn neighbour(&self, map: &Map, start: u64) -> Result<Option<u64>> {
        if start == 0 {
            return Ok(None);
        }
        let before = self.reader().find(map, start - 1)?;
        Ok(before.pool_page.map(|first| first + (start - before.object_page)))
    }

    /// Gives the object its own copy of the shared pages around `page`: a granule, or 64 KiB of a long piece.
    fn unshare(&self, opened: &Opened, content: &mut Content, extent: &Extent, page: u64) -> Result<()> {
        const PIECE_PAGES: u64 = 16;
        let piece = self.unit().max(PIECE_PAGES.min(extent.len / PAGE / PIECE_PAGES)).next_power_of_two();
        let first = page - page % piece;
        let start = first.max(extent.object_offset / PAGE);
        let pages = (first + piece).min((extent.object_offset + extent.len) / PAGE) - start;
        let taken = self.state().take(pages, None)?;
        let from = extent.pool_offset + (start * PAGE - extent.object_offset);
        let run = Run { object_page: start, pages, pool_page: Some(taken.start) };
        // Other mappings of the object still show the shared pages, and would go on doing so.
        let told = self.before_replace(opened, start * PAGE, pages * PAGE);
        let made = told.and_then(|()| self.pmem.reserve(taken.start * PAGE, pages * PAGE)).and_then(|()| {
            self.pmem.copy_nt(from, taken.start * PAGE, pages * PAGE);
            self.change(opened, content, &[run], false)
        });
        match made {
            Ok(replaced) => {
                content.replaced.extend(replaced);
                self.pmem.check()
            }
            Err(error) => {
                self.state().space.release(taken);
                Err(error)
            }
        }
    }

    /// [`Editor::edit`] for an object that is locked.
    pub(crate) fn change(
        &self,
        opened: &Opened,
        content: &mut Content,
        runs: &[Run],
        atomic: bool,
    ) -> Result<Vec<Pages>> {
        let mut state = self.state();
        let State { space, meta, .. } = &mut *state;
        Editor { reader: self.reader(), space, meta }.edit(&mut content.record, opened.at, runs, atomic)
    }
}
