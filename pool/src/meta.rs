//! Metadata segments: where records and map nodes stand.
//!
//! # Contract
//! - A metadata segment is 512 blocks of a page. Its block table says which blocks hold records of which class; the
//!   others hold map nodes or nothing, which follows from the maps that name them.
//! - Segments form a chain from segment 0. A segment joins the chain (**commit point**: the link word) when its table
//!   is durable, and never leaves it; its blocks are used again.
//! - A block becomes one of records (**commit point**: its table word) when all its slots are durably free.

use crate::error::{Error, Result};
use crate::format::records::{Class, free_word};
use crate::format::{
    Kind, PAGE, SEGMENT_PAGES, SUPERBLOCK_PAGES, Seal, TABLE_IDENTITY, TABLE_LINK, TABLE_PAGE, index,
};
use crate::space::Space;
use pmem::Pmem;
use std::collections::HashMap;

/// Free slots and blocks, and the references to map nodes; volatile.
#[derive(Debug, Default)]
pub(crate) struct Meta {
    /// Chain, in order: segment numbers.
    segments: Vec<u64>,
    /// Segment number -> which of its blocks are in use.
    blocks: HashMap<u64, Blocks>,
    /// Free slots of each class, by byte offset.
    slots: [Vec<u64>; 3],
    /// Pool pages of blocks without use.
    loose: Vec<u64>,
    /// References to map nodes that have two or more.
    node_references: HashMap<u64, u32>,
    record_blocks: u64,
    nodes: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Blocks {
    /// Holds records, or is reserved.
    taken: [u64; 8],
    roots: [u64; 8],
    leaves: [u64; 8],
}

/// Level of a map node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Root,
    Leaf,
}

/// Whether the block holds a superblock copy or the table, or could. Words 0 and 1 of the table are link and identity: the
/// blocks of these numbers are reserved.
pub(crate) fn is_reserved(block: u64) -> bool {
    block == TABLE_PAGE || SUPERBLOCK_PAGES.contains(&block)
}

/// Byte offset of word `word` of the table of `segment`.
pub(crate) fn table_word(segment: u64, word: u64) -> u64 {
    (segment * SEGMENT_PAGES + TABLE_PAGE) * PAGE + word * 8
}

fn bit(block: u64) -> (usize, u64) {
    (index(block / 64), 1 << (block % 64))
}

/// Makes `segment` an empty metadata segment, unlinked. Durable after the next fence.
pub(crate) fn format_segment(pmem: &impl Pmem, seal: Seal, segment: u64) {
    let mut table = Vec::with_capacity(index(PAGE));
    for word in 0..SEGMENT_PAGES {
        let (kind, value) = match word {
            TABLE_LINK => (Kind::End, 0),
            TABLE_IDENTITY => (Kind::Identity, segment),
            block if is_reserved(block) => (Kind::Reserved, 0),
            _ => (Kind::Loose, 0),
        };
        table.extend_from_slice(&seal.word(table_word(segment, word), kind, value).to_le_bytes());
    }
    pmem.write_nt(table_word(segment, 0), &table);
}

/// What the table of a segment says, block by block, and the link.
pub(crate) struct Table {
    pub(crate) next: Option<u64>,
    /// Blocks that hold records.
    pub(crate) records: Vec<(u64, Class)>,
}

impl Table {
    /// Reads and checks the table of `segment`, which must be inside the pool.
    ///
    /// # Errors
    /// [`Error::Damaged`] at the first word that is not what it should be.
    pub(crate) fn load(pmem: &impl Pmem, seal: Seal, segment: u64) -> Result<Self> {
        let mut table = Self { next: None, records: Vec::new() };
        let open = |word| {
            let at = table_word(segment, word);
            seal.open(at, pmem.load(at)).ok_or_else(|| Error::damaged(at, "block table: wrong check"))
        };
        let wrong = |word, what| Error::damaged(table_word(segment, word), what);
        match open(TABLE_IDENTITY)? {
            (Kind::Identity, own) if own == segment => {}
            _ => return Err(wrong(TABLE_IDENTITY, "block table: another segment's")),
        }
        match open(TABLE_LINK)? {
            (Kind::End, _) => {}
            (Kind::Next, next) => table.next = Some(next),
            _ => return Err(wrong(TABLE_LINK, "block table: not a link")),
        }
        for block in (0..SEGMENT_PAGES).filter(|&block| !is_reserved(block)) {
            let class = match open(block)?.0 {
                Kind::Loose => continue,
                Kind::Objects => Class::Objects,
                Kind::Names => Class::Names,
                Kind::Ties => Class::Ties,
                _ => return Err(wrong(block, "block table: no such use")),
            };
            table.records.push((segment * SEGMENT_PAGES + block, class));
        }
        Ok(table)
    }
}

impl Meta {
    /// Adds a segment of the chain whose blocks `records` hold records.
    pub(crate) fn add_segment(&mut self, segment: u64, records: &[(u64, Class)]) {
        let mut blocks = Blocks::default();
        for block in (0..SEGMENT_PAGES).filter(|&block| is_reserved(block)) {
            let (word, mask) = bit(block);
            blocks.taken[word] |= mask;
        }
        for &(page, _) in records {
            let (word, mask) = bit(page % SEGMENT_PAGES);
            blocks.taken[word] |= mask;
        }
        self.record_blocks += records.len() as u64;
        self.segments.push(segment);
        self.blocks.insert(segment, blocks);
    }

    /// Whether `segment` is one of metadata.
    pub(crate) fn has_segment(&self, segment: u64) -> bool {
        self.blocks.contains_key(&segment)
    }

    /// The chain.
    pub(crate) fn segments(&self) -> &[u64] {
        &self.segments
    }

    /// (blocks of records, map nodes) in use.
    pub(crate) const fn usage(&self) -> (u64, u64) {
        (self.record_blocks, self.nodes)
    }

    /// Adds a reference to a map node when the directory is read; says whether it was the first.
    ///
    /// # Errors
    /// When `page` cannot be a node of this level.
    pub(crate) fn claim_node(&mut self, page: u64, level: Level) -> Result<bool> {
        let wrong = Err(Error::damaged(page * PAGE, "map node: not in a block for one"));
        let Some(blocks) = self.blocks.get_mut(&(page / SEGMENT_PAGES)) else { return wrong };
        let (word, mask) = bit(page % SEGMENT_PAGES);
        let (own, other) = match level {
            Level::Root => (&mut blocks.roots, &blocks.leaves),
            Level::Leaf => (&mut blocks.leaves, &blocks.roots),
        };
        if (blocks.taken[word] | other[word]) & mask != 0 {
            return wrong;
        }
        let first = own[word] & mask == 0;
        own[word] |= mask;
        if first {
            self.nodes += 1;
        } else {
            *self.node_references.entry(page).or_insert(1) += 1;
        }
        Ok(first)
    }

    /// Whether `page` can be a node of this level by what is known so far.
    pub(crate) fn can_be_node(&self, page: u64, level: Level) -> bool {
        let Some(blocks) = self.blocks.get(&(page / SEGMENT_PAGES)) else { return false };
        let (word, mask) = bit(page % SEGMENT_PAGES);
        let other = if level == Level::Root { &blocks.leaves } else { &blocks.roots };
        (blocks.taken[word] | other[word]) & mask == 0
    }

    /// Makes every block that nothing uses available. After the whole directory was read.
    pub(crate) fn find_loose(&mut self) {
        for &segment in self.segments.iter().rev() {
            let Some(blocks) = self.blocks.get(&segment) else { continue };
            for block in (0..SEGMENT_PAGES).rev() {
                let (word, mask) = bit(block);
                if (blocks.taken[word] | blocks.roots[word] | blocks.leaves[word]) & mask == 0 {
                    self.loose.push(segment * SEGMENT_PAGES + block);
                }
            }
        }
    }

    /// Blocks that have no use.
    pub(crate) fn loose_blocks(&self) -> u64 {
        self.loose.len() as u64
    }

    /// Makes a free slot available.
    pub(crate) fn give_slot(&mut self, class: Class, at: u64) {
        self.slots[class as usize].push(at);
    }

    /// Takes a free slot, making a block of them if none is left. It stays free on the medium until a record is
    /// written into it.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub(crate) fn take_slot(
        &mut self,
        pmem: &impl crate::Medium,
        seal: Seal,
        space: &mut Space,
        class: Class,
    ) -> Result<u64> {
        if let Some(at) = self.slots[class as usize].pop() {
            return Ok(at);
        }
        let page = self.take_block(pmem, seal, space)?;
        let (segment, block) = (page / SEGMENT_PAGES, page % SEGMENT_PAGES);
        let offsets = (0..class.slots()).map(|slot| page * PAGE + slot * class.slot_size());
        for at in offsets.clone() {
            pmem.store(at, free_word(seal, at));
            pmem.flush(at, 8);
        }
        pmem.fence();
        let word = table_word(segment, block);
        // Fenced by the record that is about to be written: if the block's use is lost, so is that record.
        pmem.store(word, seal.word(word, class.kind(), 0));
        pmem.flush(word, 8);
        if let Some(blocks) = self.blocks.get_mut(&segment) {
            let (word, mask) = bit(block);
            blocks.taken[word] |= mask;
        }
        self.record_blocks += 1;
        self.slots[class as usize].extend(offsets.rev());
        // Just filled.
        self.slots[class as usize].pop().ok_or(Error::Full { bytes: PAGE })
    }

    /// Takes a block for a map node, with one reference.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub(crate) fn take_node(
        &mut self,
        pmem: &impl crate::Medium,
        seal: Seal,
        space: &mut Space,
        level: Level,
    ) -> Result<u64> {
        let page = self.take_block(pmem, seal, space)?;
        self.claim_node(page, level)?;
        Ok(page)
    }

    /// References to a node.
    pub(crate) fn node_references(&self, page: u64) -> u32 {
        self.node_references.get(&page).copied().unwrap_or(1)
    }

    /// Adds a reference to a node in use.
    pub(crate) fn share_node(&mut self, page: u64) {
        *self.node_references.entry(page).or_insert(1) += 1;
    }

    /// Gives up a reference to a node; says whether it was the last, after which the block is used again.
    pub(crate) fn release_node(&mut self, page: u64) -> bool {
        if let Some(references) = self.node_references.get_mut(&page) {
            *references -= 1;
            if *references == 1 {
                self.node_references.remove(&page);
            }
            return false;
        }
        if let Some(blocks) = self.blocks.get_mut(&(page / SEGMENT_PAGES)) {
            let (word, mask) = bit(page % SEGMENT_PAGES);
            blocks.roots[word] &= !mask;
            blocks.leaves[word] &= !mask;
        }
        self.nodes -= 1;
        self.loose.push(page);
        true
    }

    fn take_block(&mut self, pmem: &impl crate::Medium, seal: Seal, space: &mut Space) -> Result<u64> {
        if let Some(page) = self.loose.pop() {
            return Ok(page);
        }
        let pages = space.take_segment()?;
        if let Err(error) = pmem.reserve(pages.start * PAGE, pages.count * PAGE) {
            space.release(pages);
            return Err(error);
        }
        let segment = pages.start / SEGMENT_PAGES;
        format_segment(pmem, seal, segment);
        pmem.fence();
        let last = self.segments.last().copied().unwrap_or(0);
        let link = table_word(last, TABLE_LINK);
        // Fenced with what is about to be written in the segment, before anything refers to that.
        pmem.store(link, seal.word(link, Kind::Next, segment));
        pmem.flush(link, 8);
        self.add_segment(segment, &[]);
        let blocks = (0..SEGMENT_PAGES).rev().filter(|&block| !is_reserved(block));
        self.loose.extend(blocks.map(|block| segment * SEGMENT_PAGES + block));
        self.loose.pop().ok_or(Error::Full { bytes: PAGE })
    }

    /// Node references, for comparing what a running pool believes with what an open finds.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn fingerprint(&self) -> (u64, u64, Vec<(u64, u32)>) {
        let mut shared: Vec<_> = self.node_references.iter().map(|(&page, &count)| (page, count)).collect();
        shared.sort_unstable();
        (self.record_blocks, self.nodes, shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::SEGMENT;
    use crate::format::records::TieRecord;
    use crate::space::Pages;
    use pmem::sim::{Config, Crash, Event, Sim, Site, explore, mutants};
    use std::collections::BTreeMap;
    use twz_abi::ObjectId;

    const SEAL: Seal = Seal(7);
    const RECORD: TieRecord = TieRecord { tied: ObjectId::from_u128(1), holder: ObjectId::from_u128(2) };

    /// What stands in the node of the test, and where the node's page number is stored.
    const NODE: u64 = 0x6e6f_6465;
    const POINTER: u64 = 3 * SEGMENT;

    /// The first node and record after all blocks were used up: a new segment, a new block in it, the record.
    fn first_record_of_a_segment() -> (Sim, Vec<Event>, Vec<Site>) {
        let sim = Sim::new(4 * SEGMENT);
        // Old bytes where the new segment will be.
        (SEGMENT..SEGMENT + 4 * PAGE).step_by(8).for_each(|at| sim.store(at, 0xdead_dead));
        format_segment(&sim, SEAL, 0);
        let mut space = Space::new(4 * SEGMENT);
        space.claim(Pages::new(0, SEGMENT_PAGES)).unwrap();
        let mut meta = Meta::default();
        meta.add_segment(0, &[]);
        sim.start_recording();
        // A node, and something that names it once it is durable.
        let node = meta.take_node(&sim, SEAL, &mut space, Level::Root).unwrap();
        sim.write_nt(node * PAGE, &NODE.to_le_bytes());
        sim.fence();
        sim.store(POINTER, node);
        sim.persist(POINTER, 8);
        sim.mark(1);
        let at = meta.take_slot(&sim, SEAL, &mut space, Class::Ties).unwrap();
        RECORD.create(&sim, SEAL, at);
        sim.fence();
        sim.mark(2);
        let (trace, sites) = (sim.take_trace(), sim.take_sites());
        sim.rewind(&trace);
        (sim, trace, sites)
    }

    /// The chain can be followed, every record in it read; once the operation has returned, its record is there.
    fn check(sim: &Sim, crash: Crash) -> Result<(), String> {
        let text = |error: Error| error.to_string();
        let mut found = Vec::new();
        let mut segments = Vec::new();
        let mut next = Some(0);
        while let Some(segment) = next {
            segments.push(segment);
            let table = Table::load(sim, SEAL, segment).map_err(text)?;
            for (page, class) in table.records {
                for slot in 0..class.slots() {
                    let at = page * PAGE + slot * class.slot_size();
                    found.extend(TieRecord::load(sim, SEAL, at).map_err(text)?);
                }
            }
            next = table.next;
        }
        let node = sim.load(POINTER);
        if node != 0 && (!segments.contains(&(node / SEGMENT_PAGES)) || sim.load(node * PAGE) != NODE) {
            return Err("a node that is named is not there".to_owned());
        }
        if node == 0 && crash.mark > 0 {
            return Err("the node's name is lost".to_owned());
        }
        let right = found == [RECORD] || (found.is_empty() && crash.mark < 2);
        if right { Ok(()) } else { Err(format!("{} records", found.len())) }
    }

    #[test]
    fn a_new_segment_survives_every_crash_and_kills_every_mutant() {
        let (sim, trace, sites) = first_record_of_a_segment();
        let report = explore(&sim, &trace, &Config::default(), &mut |sim, crash| check(sim, crash));
        assert!(report.unwrap().states > 500);
        let mut places: BTreeMap<(String, &str), (u64, u64)> = BTreeMap::new();
        for mutant in mutants(&trace, |_| true) {
            let config = Config { exhaustive: 64, samples: 16, ..Config::default() };
            let survived = explore(&sim, &mutant.trace, &config, &mut |sim, crash| check(sim, crash)).is_ok();
            let place = places.entry((sites[mutant.event].to_string(), mutant.kind)).or_default();
            place.0 += u64::from(!survived);
            place.1 += u64::from(survived && !mutant.equivalent);
        }
        let survivors: Vec<_> =
            places.iter().filter(|(_, (killed, survived))| *killed == 0 && *survived > 0).collect();
        assert!(survivors.is_empty(), "{survivors:#?}");
        assert!(places.len() >= 10, "{places:#?}");
    }
}
