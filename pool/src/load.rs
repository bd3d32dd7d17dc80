//! Opening: reading the directory, and finishing what a crash interrupted.
//!
//! 1. the superblock, and rewriting its stale copy;
//! 2. the chain of metadata segments and their block tables;
//! 3. records: objects with their maps, names, ties;
//! 4. what a crash can leave undone: deleted objects that nothing keeps, ties and names of objects that are gone.
//!
//! Step 4 is the only one that writes records, and each of its writes is one commit, so a crash in it is harmless.

use crate::Medium;
use crate::core::{Core, Pool, State};
use crate::error::{Error, Result};
use crate::format::records::{Class, NameRecord, ObjectRecord, TieRecord, state};
use crate::format::superblock::Superblock;
use crate::format::{PAGE, SEGMENT, SEGMENT_PAGES, Seal};
use crate::map::{Map, Reader};
use crate::meta::{Meta, Table};
use crate::names::Names;
use crate::space::{Pages, Space};
use crate::ties::Ties;
use arrayvec::ArrayVec;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock};

impl<M: Medium> Pool<M> {
    /// Opens the pool in `pmem`.
    ///
    /// # Errors
    /// [`Error::NotAPool`], [`Error::Version`], [`Error::Truncated`], [`Error::Damaged`].
    pub fn load(pmem: M) -> Result<Self> {
        let (superblock, stale) = Superblock::find(&pmem)?;
        if let Some(number) = stale {
            superblock.store(&pmem, number);
        }
        let seal = superblock.seal();
        let mut found = State {
            space: Space::new(superblock.size),
            meta: Meta::default(),
            objects: HashMap::default(),
            pending: HashSet::new(),
            doomed: BTreeSet::new(),
            names: Names::default(),
            ties: Ties::default(),
            opened: HashMap::new(),
        };
        let blocks = load_segments(&pmem, seal, &mut found)?;
        let object_blocks = blocks.iter().filter(|(_, class)| *class == Class::Objects).count();
        found.objects.reserve(object_blocks * 16);
        for &(page, class) in &blocks {
            load_block(&pmem, seal, &mut found, page, class)?;
        }
        found.meta.find_loose();
        let mut nonce = [0; 16];
        crate::core::fill_random(&mut nonce)?;
        let core = Core {
            pmem,
            seal,
            granule: superblock.granule(),
            superblock: Mutex::new(superblock),
            state: Mutex::new(found),
            hook: RwLock::new(None),
            nonce_base: u128::from_le_bytes(nonce),
            nonces: AtomicU64::new(0),
        };
        core.finish_interrupted()?;
        Ok(Self(Arc::new(core)))
    }
}

/// Steps along the chain; returns the blocks of records. Bounded: each step claims a segment that was free.
fn load_segments(pmem: &impl Medium, seal: Seal, found: &mut State) -> Result<Vec<(u64, Class)>> {
    let mut blocks = Vec::new();
    let mut next = Some((0, 0));
    while let Some((segment, linked_from)) = next {
        let place = linked_from * SEGMENT;
        if segment * SEGMENT_PAGES >= found.space.pages() {
            return Err(Error::damaged(place, "metadata chain: link out of the pool"));
        }
        if found.meta.has_segment(segment) {
            return Err(Error::damaged(place, "metadata chain: a loop"));
        }
        // The first may be all that there is, and nearly empty; the chain goes on where blocks filled up.
        if segment != 0 {
            pmem.expect_reads(segment * SEGMENT, SEGMENT);
        }
        let table = Table::load(pmem, seal, segment)?;
        found
            .space
            .claim(Pages::new(segment * SEGMENT_PAGES, SEGMENT_PAGES))
            .map_err(|_| Error::damaged(place, "metadata chain: link out of the pool"))?;
        found.meta.add_segment(segment, &table.records);
        blocks.extend(table.records);
        next = table.next.map(|next| (next, segment));
    }
    Ok(blocks)
}

/// Reads the records of one block.
fn load_block(pmem: &impl Medium, seal: Seal, found: &mut State, page: u64, class: Class) -> Result<()> {
    let mut free: ArrayVec<u64, 64> = ArrayVec::new();
    for slot in 0..class.slots() {
        let at = page * PAGE + slot * class.slot_size();
        let used = match class {
            Class::Objects => load_object(pmem, seal, found, at)?,
            Class::Names => match NameRecord::load(pmem, seal, at)? {
                Some(record) => {
                    found.names.add(at, record)?;
                    true
                }
                None => false,
            },
            Class::Ties => match TieRecord::load(pmem, seal, at)? {
                Some(record) => {
                    found.ties.add(at, record)?;
                    true
                }
                None => false,
            },
        };
        if !used {
            free.push(at);
        }
    }
    // Backwards, so that they are handed out forwards.
    free.iter().rev().for_each(|&at| found.meta.give_slot(class, at));
    Ok(())
}

fn load_object(pmem: &impl Medium, seal: Seal, found: &mut State, at: u64) -> Result<bool> {
    let Some(record) = ObjectRecord::load(pmem, seal, at)? else { return Ok(false) };
    if found.objects.insert(record.birth.id, at).is_some() {
        return Err(Error::damaged(at, "object record: a second one of this ID"));
    }
    if record.state & state::DOOMED != 0 {
        found.doomed.insert(record.birth.id);
    }
    let map = Map::parse(&record.map, at)?;
    Reader { pmem, seal }.claim(&map, at, &mut found.space, &mut found.meta)?;
    Ok(true)
}

impl<M: Medium> Core<M> {
    /// Step 4.
    fn finish_interrupted(&self) -> Result<()> {
        let mut state = self.state();
        let state = &mut *state;
        let doomed: Vec<_> = state.doomed.iter().copied().collect();
        self.sweep(state, &doomed)?;
        let dangling = state.ties.dangling(|id| state.objects.contains_key(&id));
        for at in dangling {
            self.free_tie(state, at);
        }
        let named = |id| state.objects.contains_key(&id) && !state.doomed.contains(&id);
        let dangling = state.names.dangling(named);
        for key in dangling {
            self.free_name(state, &key);
        }
        Ok(())
    }
}
