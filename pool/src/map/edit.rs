//! Changing maps.
//!
//! 1. Plan: each chunk that changes, with its pages before and after. 2. Take every node that is needed, or fail whole.
//! 3. Store, in place or beside the old tree. 4. Move the references.

use super::overlay::{draw, overlay, stretches};
use super::{CHUNK_PAGES, Chunk, Entry, Map, NOWHERE, Reader, Run};
use crate::Medium;
use crate::error::{Error, Result};
use crate::format::records::ObjectRecord;
use crate::format::{Kind, PAGE, SEGMENT_PAGES, index};
use crate::meta::{Level, Meta};
use crate::space::{Pages, Space};
use arrayvec::ArrayVec;

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
