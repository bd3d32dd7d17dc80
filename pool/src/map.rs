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

use crate::Medium;
use crate::error::{Error, Result};
use crate::format::records::{INLINE_EXTENTS, ObjectRecord, RawExtent, RawMap};
use crate::format::{Kind, MAX_SIZE, OBJECT_PAGES, PAGE, SEGMENT_PAGES, Seal, index};
use crate::meta::{Level, Meta};
use crate::space::{Pages, Space};
use arrayvec::ArrayVec;
use pmem::Pmem;

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

/// Reads maps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a, M> {
    pub(crate) pmem: &'a M,
    pub(crate) seal: Seal,
}

impl<M: Pmem> Reader<'_, M> {
    fn entry(&self, node: u64, level: Level, number: u64) -> Result<Entry> {
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
    fn chunk(&self, entry: Entry) -> Result<Chunk> {
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

/// One chunk of a tree about to change.
struct ChunkPlan {
    chunk: u64,
    was: Entry,
    /// Nobody else refers to what `was` says: its references become ours to move.
    owned: bool,
    old: Chunk,
    new: Chunk,
    /// Pages that the edit lays down, even where they are the same as before.
    covered: Box<[bool; CHUNK_PAGES]>,
    /// New leaf node, if one is needed.
    leaf: Option<u64>,
}

impl ChunkPlan {
    /// The form that the new pages take; a leaf still without its node.
    fn form(&self) -> Entry {
        let start = self.new[0];
        if self.new.iter().all(|&page| page == NOWHERE) {
            Entry::Absent
        } else if start != NOWHERE && self.new.iter().zip(start..).all(|(&page, expected)| page == expected) {
            Entry::Run(start)
        } else {
            Entry::Leaf(0)
        }
    }
}

/// Changes the map of one object.
pub(crate) struct Editor<'a, M> {
    pub(crate) reader: Reader<'a, M>,
    pub(crate) space: &'a mut Space,
    pub(crate) meta: &'a mut Meta,
}

impl<M: Medium> Editor<'_, M> {
    /// Maps `runs` (ascending, not overlapping) in the object whose record stands at `at`, instead of what is there.
    ///
    /// The caller holds one reference to each new page and gives it to the map; the pages that were replaced come
    /// back with one reference each. New pages must be flushed (not fenced) before.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Damaged`]; then nothing changed and the new pages' references stay the caller's.
    pub(crate) fn edit(
        &mut self,
        record: &mut ObjectRecord,
        at: u64,
        runs: &[Run],
        atomic: bool,
    ) -> Result<Vec<Pages>> {
        let map = Map::parse(&record.map, at)?;
        if let Map::Inline(old) = &map {
            let (merged, replaced) = overlay(old, runs);
            if let Ok(merged) = ArrayVec::try_from(merged.as_slice()) {
                record.replace_map(Map::Inline(merged).to_raw(), self.reader.pmem, self.reader.seal, at);
                return Ok(replaced);
            }
        }
        let mut plans = self.plan(&map, runs)?;
        let root_alone = matches!(map, Map::Tree(root) if self.meta.node_references(root) == 1);
        let in_place = root_alone && !atomic;
        let (root, nodes) = self.take_nodes(&mut plans, in_place)?;
        let result = match (root, &map) {
            (None, Map::Tree(root)) => {
                self.store_in_place(*root, &plans);
                Ok(())
            }
            (Some(root), _) => self.store_new_root(root, &map, &plans).map(|()| {
                let raw = Map::Tree(root).to_raw();
                record.replace_map(raw, self.reader.pmem, self.reader.seal, at);
            }),
            (None, Map::Inline(_)) => Err(Error::damaged(at, "object record: changed while edited")),
        };
        if let Err(error) = result {
            self.give_back(&nodes);
            return Err(error);
        }
        Ok(self.settle(&map, &plans, root.is_some()))
    }

    /// Makes the map of `runs` for an object that has no record yet. Their references go to the map; new nodes are
    /// written, not fenced.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub(crate) fn build(&mut self, runs: &[Run]) -> Result<Map> {
        let (merged, _) = overlay(&[], runs);
        if let Ok(merged) = ArrayVec::try_from(merged.as_slice()) {
            return Ok(Map::Inline(merged));
        }
        let none = Map::Inline(ArrayVec::new());
        let mut plans = self.plan(&none, runs)?;
        let (root, nodes) = self.take_nodes(&mut plans, false)?;
        let root = root.ok_or(Error::Full { bytes: PAGE })?;
        if let Err(error) = self.store_new_root(root, &none, &plans) {
            self.give_back(&nodes);
            return Err(error);
        }
        Ok(Map::Tree(root))
    }

    /// The chunks that change, each with its pages before and after.
    fn plan(&self, map: &Map, runs: &[Run]) -> Result<Vec<ChunkPlan>> {
        let mut chunks: Vec<u64> = Vec::new();
        let mut touch = |run: &Run| {
            let first = run.object_page / SEGMENT_PAGES;
            for chunk in first..=(run.end() - 1) / SEGMENT_PAGES {
                if chunks.last() != Some(&chunk) {
                    chunks.push(chunk);
                }
            }
        };
        runs.iter().for_each(&mut touch);
        if let Map::Inline(old) = map {
            old.iter().for_each(&mut touch);
        }
        chunks.sort_unstable();
        chunks.dedup();
        chunks.into_iter().map(|chunk| self.plan_chunk(map, chunk, runs)).collect()
    }

    fn plan_chunk(&self, map: &Map, chunk: u64, runs: &[Run]) -> Result<ChunkPlan> {
        let (was, owned, old) = match map {
            Map::Tree(root) => {
                let was = self.reader.entry(*root, Level::Root, chunk)?;
                let leaf_alone = !matches!(was, Entry::Leaf(leaf) if self.meta.node_references(leaf) > 1);
                let owned = leaf_alone && self.meta.node_references(*root) == 1;
                (was, owned, self.reader.chunk(was)?)
            }
            Map::Inline(old) => {
                let mut pages: Chunk = Box::new([NOWHERE; CHUNK_PAGES]);
                old.iter().for_each(|run| draw(&mut pages, chunk, run));
                (Entry::Absent, true, pages)
            }
        };
        let mut new = old.clone();
        let mut covered = Box::new([false; CHUNK_PAGES]);
        for run in runs {
            draw(&mut new, chunk, run);
            let first = chunk * SEGMENT_PAGES;
            let (start, end) = (run.object_page.max(first), run.end().min(first + SEGMENT_PAGES));
            if start < end {
                covered[index(start - first)..index(end - first)].fill(true);
            }
        }
        Ok(ChunkPlan { chunk, was, owned, old, new, covered, leaf: None })
    }

    /// Takes every node that the plans need, or none.
    fn take_nodes(&mut self, plans: &mut [ChunkPlan], in_place: bool) -> Result<(Option<u64>, Vec<u64>)> {
        let mut nodes = Vec::new();
        let mut take = |level, editor: &mut Self| {
            let Reader { pmem, seal } = editor.reader;
            let result = editor.meta.take_node(pmem, seal, editor.space, level);
            match result {
                Ok(node) => {
                    nodes.push(node);
                    Ok(node)
                }
                Err(error) => {
                    editor.give_back(&nodes);
                    Err(error)
                }
            }
        };
        let root = if in_place { None } else { Some(take(Level::Root, self)?) };
        for plan in plans {
            let keeps_leaf = in_place && plan.owned && matches!(plan.was, Entry::Leaf(_));
            if matches!(plan.form(), Entry::Leaf(_)) && !keeps_leaf {
                plan.leaf = Some(take(Level::Leaf, self)?);
            }
        }
        Ok((root, nodes))
    }

    fn give_back(&mut self, nodes: &[u64]) {
        for &node in nodes {
            self.meta.release_node(node);
        }
    }

    /// What the root is to say of a chunk; `None` when its leaf stays and changes inside.
    fn root_entry(plan: &ChunkPlan) -> Option<Entry> {
        match (plan.form(), plan.leaf) {
            (Entry::Leaf(_), Some(node)) => Some(Entry::Leaf(node)),
            (Entry::Leaf(_), None) => None,
            (form, _) => Some(form),
        }
    }

    fn word(&self, node: u64, number: u64, entry: Entry) -> (u64, u64) {
        let at = node * PAGE + number * 8;
        let (kind, value) = match entry {
            Entry::Absent => (Kind::Absent, 0),
            Entry::Page(page) => (Kind::Page, page),
            Entry::Run(page) => (Kind::Run, page),
            Entry::Leaf(page) => (Kind::Leaf, page),
        };
        (at, self.reader.seal.word(at, kind, value))
    }

    fn write_leaf(&self, node: u64, pages: &Chunk) {
        let mut bytes = Vec::with_capacity(index(PAGE));
        for (number, &page) in (0..).zip(pages.iter()) {
            let entry = if page == NOWHERE { Entry::Absent } else { Entry::Page(page) };
            bytes.extend_from_slice(&self.word(node, number, entry).1.to_le_bytes());
        }
        self.reader.pmem.write_nt(node * PAGE, &bytes);
    }

    fn write_leaves(&self, plans: &[ChunkPlan]) {
        for plan in plans {
            if let Some(node) = plan.leaf {
                self.write_leaf(node, &plan.new);
            }
        }
    }

    /// 1. New leaves, fence. 2. Each changed word, any of which may become durable first: see T2.
    fn store_in_place(&self, root: u64, plans: &[ChunkPlan]) {
        let pmem = self.reader.pmem;
        self.write_leaves(plans);
        pmem.fence();
        let store = |(at, word)| {
            pmem.store(at, word);
            pmem.flush(at, 8);
        };
        for plan in plans {
            match (Self::root_entry(plan), plan.was) {
                (Some(entry), _) => store(self.word(root, plan.chunk, entry)),
                (None, Entry::Leaf(leaf)) => {
                    let pages = plan.old.iter().zip(plan.new.iter());
                    let changed = (0..).zip(pages).filter(|(_, (old, new))| old != new);
                    for (number, (_, &page)) in changed {
                        let entry = if page == NOWHERE { Entry::Absent } else { Entry::Page(page) };
                        store(self.word(leaf, number, entry));
                    }
                }
                (None, _) => {}
            }
        }
        pmem.fence();
    }

    /// Writes a new root and the new leaves beside the old ones. The record's commit fences them.
    fn store_new_root(&self, root: u64, map: &Map, plans: &[ChunkPlan]) -> Result<()> {
        self.write_leaves(plans);
        let mut planned = plans.iter().peekable();
        let mut bytes = Vec::with_capacity(index(PAGE));
        for chunk in 0..SEGMENT_PAGES {
            let entry = match (planned.next_if(|plan| plan.chunk == chunk), map) {
                // A new root always has new leaves, so the entry is known.
                (Some(plan), _) => Self::root_entry(plan).unwrap_or(plan.was),
                (None, Map::Tree(old)) => self.reader.entry(*old, Level::Root, chunk)?,
                (None, Map::Inline(_)) => Entry::Absent,
            };
            bytes.extend_from_slice(&self.word(root, chunk, entry).1.to_le_bytes());
        }
        self.reader.pmem.write_nt(root * PAGE, &bytes);
        Ok(())
    }

    /// Moves the references after the commit, and returns the pages that were replaced.
    fn settle(&mut self, map: &Map, plans: &[ChunkPlan], new_root: bool) -> Vec<Pages> {
        let mut replaced = Vec::new();
        let mut root_shared = false;
        if let (Map::Tree(root), true) = (map, new_root) {
            root_shared = self.meta.node_references(*root) > 1;
            if root_shared {
                self.share_children(*root, plans);
            }
            self.meta.release_node(*root);
        }
        for plan in plans {
            for run in stretches(&plan.old, &plan.covered) {
                let pages = Pages::new(run.from, run.count);
                if !plan.owned {
                    self.space.share(pages);
                }
                if run.covered {
                    replaced.push(pages);
                }
            }
            let gone = plan.leaf.is_some() || !matches!(plan.form(), Entry::Leaf(_));
            if let (Entry::Leaf(leaf), true, false) = (plan.was, gone, root_shared) {
                self.meta.release_node(leaf);
            }
        }
        replaced
    }

    /// The new root names the same children as `root`, except where planned.
    fn share_children(&mut self, root: u64, plans: &[ChunkPlan]) {
        let mut planned = plans.iter().peekable();
        for chunk in 0..SEGMENT_PAGES {
            if planned.next_if(|plan| plan.chunk == chunk).is_some() {
                continue;
            }
            // Read when the new root was made, a moment ago.
            match self.reader.entry(root, Level::Root, chunk) {
                Ok(Entry::Run(start)) => self.space.share(Pages::new(start, SEGMENT_PAGES)),
                Ok(Entry::Leaf(leaf)) => self.meta.share_node(leaf),
                _ => {}
            }
        }
    }
}

/// Writes the part of `run` that lies in `chunk` into its pages.
fn draw(pages: &mut Chunk, chunk: u64, run: &Run) {
    let first = chunk * SEGMENT_PAGES;
    let (start, end) = (run.object_page.max(first), run.end().min(first + SEGMENT_PAGES));
    for page in start..end {
        let pool_page = run.pool_page.map_or(NOWHERE, |pool_page| pool_page + (page - run.object_page));
        pages[index(page - first)] = pool_page;
    }
}

struct Stretch {
    from: u64,
    count: u64,
    covered: bool,
}

/// The present pages of `old` in runs, each wholly covered or wholly kept.
fn stretches(old: &Chunk, covered: &[bool; CHUNK_PAGES]) -> Vec<Stretch> {
    let mut found: Vec<Stretch> = Vec::new();
    for (&from, &covered) in old.iter().zip(covered).filter(|(from, _)| **from != NOWHERE) {
        match found.last_mut() {
            Some(last) if last.from + last.count == from && last.covered == covered => last.count += 1,
            _ => found.push(Stretch { from, count: 1, covered }),
        }
    }
    found
}

/// `runs` laid over `old`: the merged extents, and the pages of `old` that are covered.
fn overlay(old: &[Run], runs: &[Run]) -> (Vec<Run>, Vec<Pages>) {
    let mut kept: Vec<Run> = Vec::new();
    let mut replaced = Vec::new();
    for run in old {
        let mut from = run.object_page;
        for over in runs.iter().filter(|over| over.object_page < run.end() && over.end() > run.object_page) {
            let (start, end) = (over.object_page.max(from), over.end().min(run.end()));
            if start > from {
                kept.push(run.part(from, start));
            }
            let covered = run.part(start, end);
            replaced.push(Pages::new(covered.pool_page.unwrap_or_default(), covered.pages));
            from = end;
        }
        if from < run.end() {
            kept.push(run.part(from, run.end()));
        }
    }
    kept.extend(runs.iter().filter(|run| run.pool_page.is_some()));
    kept.sort_unstable_by_key(|run| run.object_page);
    let mut merged: Vec<Run> = Vec::new();
    for run in kept {
        match merged.last_mut() {
            Some(last) if last.end() == run.object_page && next_page(last) == run.pool_page => {
                last.pages += run.pages;
            }
            _ => merged.push(run),
        }
    }
    (merged, replaced)
}

fn next_page(run: &Run) -> Option<u64> {
    run.pool_page.map(|page| page + run.pages)
}
