//! Where an object's pages are: up to five extents in its record, or a tree of two levels.
//!
//! ```text
//! record --extents--> pages                                  (most objects)
//! record --root--> root node: 512 chunks of 2 MiB, each: absent | run of 512 pages | leaf node
//!                                                 leaf node: 512 pages, each: absent | page
//! ```
//! # Contract
//! - **T1 sharing**: a root or leaf with two references or more is never stored to; what it names is shared too.
//!   A page is written by its object only when every node on the way and the page itself has one reference.
//! - **T2**: [`Editor::edit`] either changes the whole map by one commit of the record (`atomic`), or page by page in
//!   place, which is for changes that no reader can see: fresh zeros for absence, an equal copy for a shared page.
//! - A failed edit changed nothing.

mod edit;
mod overlay;
mod read;

pub(crate) use edit::Editor;
pub(crate) use read::Reader;

use crate::error::{Error, Result};
use crate::format::records::{INLINE_EXTENTS, RawExtent, RawMap};
use crate::format::{MAX_SIZE, OBJECT_PAGES, PAGE, SEGMENT_PAGES, index};
use crate::meta::Meta;
use crate::space::{Pages, Space};
use arrayvec::ArrayVec;

/// Pages of an object that are in one piece in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) object_page: u64,
    pub(crate) pages: u64,
    /// `None`: nothing is there.
    pub(crate) pool_page: Option<u64>,
}

impl Run {
    pub(crate) const fn end(&self) -> u64 {
        self.object_page + self.pages
    }

    /// The pool pages of a run that is present.
    pub(crate) fn pool_pages(&self) -> Pages {
        Pages::new(self.pool_page.unwrap_or_default(), self.pages)
    }

    /// The part from object page `start` to `end`, both inside.
    pub(crate) fn part(&self, start: u64, end: u64) -> Self {
        let skip = start - self.object_page;
        Self { object_page: start, pages: end - start, pool_page: self.pool_page.map(|page| page + skip) }
    }
}

/// A checked map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Map {
    Inline(ArrayVec<Run, INLINE_EXTENTS>),
    Tree(u64),
}

/// What a node's word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Absent,
    Page(u64),
    Run(u64),
    Leaf(u64),
}

const CHUNK_PAGES: usize = index(SEGMENT_PAGES);
/// The 512 pages of a chunk; [`NOWHERE`] for those that are absent.
type Chunk = Box<[u64; CHUNK_PAGES]>;
const NOWHERE: u64 = u64::MAX;
/// Pages in the largest pool.
const MAX_PAGES: u64 = MAX_SIZE / PAGE;

impl Map {
    /// Checks a map read from the record at `at`.
    pub(crate) fn parse(raw: &RawMap, at: u64) -> Result<Self> {
        if raw.root >= MAX_PAGES {
            return Err(Error::damaged(at, "object record: impossible root"));
        }
        if raw.root != 0 {
            return Ok(Self::Tree(raw.root));
        }
        let wrong = Error::damaged(at, "object record: impossible extents");
        let mut runs: ArrayVec<Run, INLINE_EXTENTS> = ArrayVec::new();
        let Some(extents) = usize::try_from(raw.count).ok().and_then(|count| raw.extents.get(..count)) else {
            return Err(wrong);
        };
        let mut from = 0;
        for extent in extents {
            let run = Run {
                object_page: extent.object_page.into(),
                pages: extent.pages.into(),
                pool_page: Some(extent.pool_page),
            };
            let fits = run.pages > 0 && run.object_page >= from && run.end() <= OBJECT_PAGES;
            if !fits || extent.pool_page >= MAX_PAGES - run.pages {
                return Err(wrong);
            }
            from = run.end();
            runs.push(run);
        }
        Ok(Self::Inline(runs))
    }

    pub(crate) fn to_raw(&self) -> RawMap {
        match self {
            Self::Tree(root) => RawMap { root: *root, ..RawMap::default() },
            Self::Inline(runs) => {
                let mut raw = RawMap::default();
                for (run, extent) in runs.iter().zip(&mut raw.extents) {
                    #[allow(clippy::cast_possible_truncation, reason = "pages of an object have 18 bits")]
                    let (object_page, pages) = (run.object_page as u32, run.pages as u32);
                    *extent = RawExtent { object_page, pages, pool_page: run.pool_page.unwrap_or_default() };
                    raw.count += 1;
                }
                raw
            }
        }
    }
}
/// Adds the references of a second record with the same map: constant time.
pub(crate) fn share(map: &Map, space: &mut Space, meta: &mut Meta) {
    match map {
        Map::Tree(root) => meta.share_node(*root),
        Map::Inline(runs) => {
            for run in runs {
                if let Some(start) = run.pool_page {
                    space.share(Pages::new(start, run.pages));
                }
            }
        }
    }
}
