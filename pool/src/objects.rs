//! The life of objects: creating, finding, copying, deleting.

use crate::Medium;
use crate::compose::CopyRange;
use crate::core::{Core, Pool, State};
use crate::error::{Error, Result};
use crate::format::PAGE;
use crate::format::records::{self, Birth, Class, ObjectRecord, RawMap, state};
use crate::map::{self, Editor, Map, Run};
use crate::object::{ObjectRef, Opened, check_range};
use object_id::object_id;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use twz_abi::object::MAX_SIZE;
use twz_abi::{ObjectId, Rights};

/// What an object is to be.
#[derive(Clone, Debug, Default)]
pub struct ObjectSpec<'a> {
    /// Makes the ID differ from others of the same key and rights; `None`: a random one.
    pub nonce: Option<[u8; 16]>,
    /// The object whose key signs capabilities to this one; null for none.
    pub key: ObjectId,
    /// What anybody may do with it.
    pub rights: Rights,
    /// The creator's word for what it is; the pool only keeps it.
    pub kind: u32,
    /// Bytes from offset 0 on that get pages at once, in one piece where possible, so that no touch of them meets a full pool (but for a
    /// write to a page that is shared); 0: all pages come when touched.
    pub size: u64,
    /// Objects that it lives at least as long as.
    pub ties: &'a [ObjectId],
    /// The object whose contents it starts with, shared until written.
    pub copy_of: Option<ObjectId>,
    /// Ranges of objects that it starts with; they may not overlap, nor stand beside `copy_of`.
    pub ranges: &'a [CopyRange],
    /// Deleted from the start: only its ties keep it.
    pub doomed: bool,
}

/// What the directory says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectStat {
    /// Its ID.
    pub id: ObjectId,
    /// What the ID is the hash of, besides key and rights.
    pub nonce: [u8; 16],
    /// Its key object.
    pub key: ObjectId,
    /// What anybody may do with it.
    pub rights: Rights,
    /// The creator's word for what it is.
    pub kind: u32,
    /// Deleted, and only kept while tied or in use.
    pub doomed: bool,
    /// [`ObjectRef`]s to it.
    pub uses: usize,
    /// Names that mean it.
    pub links: usize,
}

impl<M: Medium> Pool<M> {
    /// Creates an object and returns its ID.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NoSuchObject`] (a tie or the source), [`Error::Full`], [`Error::BadRange`],
    /// [`Error::NotShared`], [`Error::NotDurable`].
    pub fn create_object(&self, spec: &ObjectSpec<'_>) -> Result<ObjectId> {
        check_range(0, spec.size)?;
        let nonce = spec.nonce.unwrap_or_else(|| self.0.fresh_nonce());
        let rights = spec.rights.bits();
        let id = object_id(&nonce, spec.key, spec.rights);
        let birth = Birth { id, nonce, key: spec.key, rights, kind: spec.kind };
        let whole = spec.copy_of.map(|source| CopyRange {
            source,
            source_offset: 0,
            target_offset: 0,
            len: MAX_SIZE,
        });
        let is_composed = spec.size > 0 || !spec.ranges.is_empty();
        match whole {
            _ if is_composed => {
                let ranges: Vec<CopyRange> = whole.into_iter().chain(spec.ranges.iter().copied()).collect();
                self.create_composed(spec, birth, &ranges)?;
            }
            Some(whole) => self.0.create_copy(spec, birth, &self.open_object(whole.source)?)?,
            None => {
                let mut state = self.0.state();
                state.check_new(id, spec)?;
                self.0.create_record(&mut state, birth, RawMap::default(), spec)?;
            }
        }
        self.0.pmem.check()?;
        Ok(id)
    }

    /// Creates a copy of `source` with a fresh ID: pages are shared until either is written. Constant time, whatever the size.
    ///
    /// # Errors
    /// As [`Self::create_object`].
    pub fn copy_object(&self, source: ObjectId) -> Result<ObjectId> {
        let stat = self.stat_object(source)?;
        self.create_object(&ObjectSpec {
            key: stat.key,
            rights: stat.rights,
            kind: stat.kind,
            copy_of: Some(source),
            ..ObjectSpec::default()
        })
    }

    /// Whether an object of this ID can be opened.
    #[must_use]
    pub fn contains(&self, id: ObjectId) -> bool {
        let state = self.0.state();
        state.objects.contains_key(&id) && (state.doomed.is_empty() || self.0.can_open(&state, id))
    }

    /// Uses an object. The directory entry is checked against the ID on the first use.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], also for one that was deleted and is not tied; [`Error::WrongId`]; [`Error::Damaged`].
    pub fn open_object(&self, id: ObjectId) -> Result<ObjectRef<M>> {
        let mut state = self.0.state();
        let at = *state.objects.get(&id).ok_or(Error::NoSuchObject(id))?;
        if !self.0.can_open(&state, id) {
            return Err(Error::NoSuchObject(id));
        }
        let opened = match state.opened.get_mut(&at) {
            Some((opened, references)) => {
                *references += 1;
                Arc::clone(opened)
            }
            None => {
                let record = self.0.load_record(at)?;
                let birth = &record.birth;
                if birth.id != id || !birth.is_consistent() {
                    return Err(Error::WrongId(id));
                }
                let opened = Arc::new(Opened::new(id, at, record));
                state.opened.insert(at, (Arc::clone(&opened), 1));
                opened
            }
        };
        drop(state);
        Ok(ObjectRef { core: Arc::clone(&self.0), opened })
    }

    /// What the directory says of an object, doomed ones included.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::Damaged`].
    pub fn stat_object(&self, id: ObjectId) -> Result<ObjectStat> {
        let state = self.0.state();
        let at = *state.objects.get(&id).ok_or(Error::NoSuchObject(id))?;
        let birth = self.0.load_record(at)?.birth;
        Ok(ObjectStat {
            id,
            nonce: birth.nonce,
            key: birth.key,
            rights: Rights::from_bits_truncate(birth.rights),
            kind: birth.kind,
            doomed: state.doomed.contains(&id),
            uses: state.opened.get(&at).map_or(0, |(_, references)| *references),
            links: state.names.of(id).count(),
        })
    }

    /// The IDs of all objects, doomed ones included, in no order.
    #[must_use]
    pub fn object_ids(&self) -> Vec<ObjectId> {
        self.0.state().objects.keys().copied().collect()
    }

    /// Takes back that an object was deleted that is still there by a tie: it stays from now on. Nothing to do for one that was not deleted.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::Damaged`].
    pub fn keep_object(&self, id: ObjectId) -> Result<()> {
        self.0.keep(id, |_| Ok(()))?;
        self.0.pmem.check()
    }

    /// Deletes an object and its names. It stays, unnamed, while it is in use or tied to an object that exists.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::Damaged`].
    pub fn delete_object(&self, id: ObjectId) -> Result<()> {
        loop {
            let mut state = self.0.state();
            let at = *state.objects.get(&id).ok_or(Error::NoSuchObject(id))?;
            if state.doomed.contains(&id) {
                return Err(Error::NoSuchObject(id));
            }
            let Some((opened, _)) = state.opened.get(&at) else {
                // Found before its ties are gone. Also after dooming: it may have been the last that kept a ring of doomed ones.
                let candidates = self.0.hanging_on(&state, id);
                if self.0.is_held(&state, id) {
                    let mut record = self.0.load_record(at)?;
                    self.0.doom(&mut state, &mut record, at);
                } else {
                    self.0.remove_object(&mut state, id)?;
                }
                self.0.sweep(&mut state, &candidates)?;
                break;
            };
            // In use: its lock comes before the state's.
            let opened = Arc::clone(opened);
            drop(state);
            let mut content = opened.lock();
            let mut state = self.0.state();
            let still = state.opened.get(&at).is_some_and(|(now, _)| Arc::ptr_eq(now, &opened));
            if still && !state.doomed.contains(&id) {
                self.0.doom(&mut state, &mut content.record, at);
                break;
            }
        }
        self.0.pmem.check()
    }

    /// Makes `len` bytes of `target` at `target_offset` those of `source` at `source_offset`, in one atomic step: pages are
    /// shared until either is written. Offsets and length are multiples of the granule; the ranges must not overlap.
    ///
    /// # Errors
    /// [`Error::BadRange`], [`Error::Full`], [`Error::NotShared`], [`Error::Damaged`].
    pub fn copy_range(
        &self,
        source: &ObjectRef<M>,
        source_offset: u64,
        target: &ObjectRef<M>,
        target_offset: u64,
        len: u64,
    ) -> Result<()> {
        let align = self.0.granule;
        self.0.check_granules(source_offset, len)?;
        self.0.check_granules(target_offset, len)?;
        let same = Arc::ptr_eq(&source.opened, &target.opened);
        if same && source_offset.abs_diff(target_offset) < len {
            return Err(Error::BadRange { offset: target_offset, len, align });
        }
        if len == 0 {
            return Ok(());
        }
        let from = (source_offset / PAGE, target_offset / PAGE, len / PAGE);
        if same {
            let mut content = target.opened.lock();
            let map = content.record.map;
            self.0.copy_pages(&source.opened, &map, target, &mut content, from)
        } else if source.opened.at < target.opened.at {
            let content = source.opened.lock();
            self.0.copy_pages(&source.opened, &content.record.map, target, &mut target.opened.lock(), from)
        } else {
            let mut target_content = target.opened.lock();
            let content = source.opened.lock();
            self.0.copy_pages(&source.opened, &content.record.map, target, &mut target_content, from)
        }
    }
}

impl State {
    /// Whether an object of this ID and spec may be created.
    pub(crate) fn check_new(&self, id: ObjectId, spec: &ObjectSpec<'_>) -> Result<()> {
        if self.objects.contains_key(&id) || self.pending.contains(&id) {
            return Err(Error::Exists(id));
        }
        match spec.ties.iter().find(|holder| !self.objects.contains_key(holder)) {
            Some(&missing) => Err(Error::NoSuchObject(missing)),
            None => Ok(()),
        }
    }
}

impl<M: Medium> Core<M> {
    /// Random base plus a counter: different from all others, which is all that a nonce is for.
    fn fresh_nonce(&self) -> [u8; 16] {
        let number = self.nonces.fetch_add(1, Ordering::Relaxed);
        self.nonce_base.wrapping_add(number.into()).to_le_bytes()
    }

    pub(crate) fn load_record(&self, at: u64) -> Result<ObjectRecord> {
        let record = ObjectRecord::load(&self.pmem, self.seal, at)?;
        record.ok_or_else(|| Error::damaged(at, "object record: gone"))
    }

    fn can_open(&self, state: &State, id: ObjectId) -> bool {
        !state.doomed.contains(&id) || self.is_held(state, id)
    }

    /// Writes ties and record of a new object. The map's references are the record's from here on, unless this fails.
    fn create_record(
        &self,
        state: &mut State,
        birth: Birth,
        map: RawMap,
        spec: &ObjectSpec<'_>,
    ) -> Result<()> {
        let ties = spec.ties;
        let at = state.meta.take_slot(&self.pmem, self.seal, &mut state.space, Class::Objects)?;
        let mut made = Vec::new();
        for (number, &holder) in ties.iter().enumerate() {
            if ties[..number].contains(&holder) {
                continue;
            }
            match self.create_tie(state, birth.id, holder) {
                Ok(tie) => made.push(tie),
                Err(error) => {
                    made.into_iter().for_each(|tie| self.free_tie(state, tie));
                    state.meta.give_slot(Class::Objects, at);
                    return Err(error);
                }
            }
        }
        let doomed = if spec.doomed { state::DOOMED } else { 0 };
        ObjectRecord { state: state::EXISTS | doomed, birth, map }.create(&self.pmem, self.seal, at);
        state.objects.insert(birth.id, at);
        if spec.doomed {
            state.doomed.insert(birth.id);
        }
        Ok(())
    }

    /// Makes the map of `runs` in a record that does not exist yet, then the record.
    pub(crate) fn fill_record(
        &self,
        state: &mut State,
        birth: Birth,
        runs: &[Run],
        spec: &ObjectSpec<'_>,
    ) -> Result<()> {
        let State { space, meta, .. } = &mut *state;
        let map = Editor { reader: self.reader(), space, meta }.build(runs)?;
        let made = self.create_record(state, birth, map.to_raw(), spec);
        if let (Err(_), Map::Tree(_)) = (&made, &map) {
            // Pages stay the caller's.
            let State { space, meta, .. } = &mut *state;
            runs.iter().for_each(|run| space.share(run.pool_pages()));
            self.reader().release(&map, space, meta)?;
        }
        made
    }

    /// Creates an object that shares all pages of `source`.
    fn create_copy(&self, spec: &ObjectSpec<'_>, birth: Birth, source: &ObjectRef<M>) -> Result<()> {
        let content = source.opened.lock();
        self.before_share(&source.opened, 0, MAX_SIZE)?;
        let map = Map::parse(&content.record.map, source.opened.at)?;
        let mut state = self.state();
        state.check_new(birth.id, spec)?;
        let State { space, meta, .. } = &mut *state;
        map::share(&map, space, meta);
        let made = self.create_record(&mut state, birth, map.to_raw(), spec);
        if made.is_err() {
            let State { space, meta, .. } = &mut *state;
            self.reader().release(&map, space, meta)?;
        }
        made
    }

    /// The locked part of [`Pool::copy_range`]: (source page, target page, pages).
    fn copy_pages(
        &self,
        source: &Opened,
        source_map: &RawMap,
        target: &ObjectRef<M>,
        content: &mut crate::object::Content,
        (from, to, count): (u64, u64, u64),
    ) -> Result<()> {
        self.before_share(source, from * PAGE, count * PAGE)?;
        self.before_replace(&target.opened, to * PAGE, count * PAGE)?;
        let map = Map::parse(source_map, source.at)?;
        // Holes are copied as well: the whole target range is laid down.
        let mut runs: Vec<Run> = Vec::new();
        let mut page = from;
        while page < from + count {
            let run = self.reader().find(&map, page)?;
            let end = run.end().min(from + count);
            let part = run.part(page, end);
            runs.push(Run { object_page: to + (page - from), ..part });
            page = end;
        }
        {
            let mut state = self.state();
            runs.iter()
                .filter(|run| run.pool_page.is_some())
                .for_each(|run| state.space.share(run.pool_pages()));
        }
        match self.change(&target.opened, content, &runs, true) {
            Ok(replaced) => {
                content.replaced.extend(replaced);
                self.pmem.check()
            }
            Err(error) => {
                release_runs(&mut self.state(), &runs);
                Err(error)
            }
        }
    }

    pub(crate) fn before_share(&self, opened: &Opened, offset: u64, len: u64) -> Result<()> {
        let hook = self.hook.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(hook) = hook else { return Ok(()) };
        hook.before_share(opened.id, offset, len).map_err(|why| Error::NotShared(opened.id, why))
    }

    pub(crate) fn before_replace(&self, opened: &Opened, offset: u64, len: u64) -> Result<()> {
        let hook = self.hook.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(hook) = hook else { return Ok(()) };
        hook.before_replace(opened.id, offset, len).map_err(|why| Error::NotShared(opened.id, why))
    }

    /// Does `before`, and in one step with it for all others takes back that `id` was deleted (**commit point**: the record).
    pub(crate) fn keep(&self, id: ObjectId, before: impl FnOnce(&mut State) -> Result<()>) -> Result<()> {
        loop {
            let mut state = self.state();
            let at = *state.objects.get(&id).ok_or(Error::NoSuchObject(id))?;
            if !self.can_open(&state, id) {
                return Err(Error::NoSuchObject(id));
            }
            if !state.doomed.contains(&id) {
                return before(&mut state);
            }
            let Some((opened, _)) = state.opened.get(&at) else {
                let mut record = self.load_record(at)?;
                before(&mut state)?;
                self.revive(&mut state, &mut record, at);
                return Ok(());
            };
            // In use: its lock comes before the state's.
            let opened = Arc::clone(opened);
            drop(state);
            let mut content = opened.lock();
            let mut state = self.state();
            let still = state.opened.get(&at).is_some_and(|(now, _)| Arc::ptr_eq(now, &opened));
            if still && state.doomed.contains(&id) && self.is_held(&state, id) {
                before(&mut state)?;
                self.revive(&mut state, &mut content.record, at);
                return Ok(());
            }
        }
    }

    /// Marks an object as one that was not deleted.
    fn revive(&self, state: &mut State, record: &mut ObjectRecord, at: u64) {
        record.replace_state(record.state & !state::DOOMED, &self.pmem, self.seal, at);
        state.doomed.remove(&record.birth.id);
    }

    /// Marks an object deleted that has to stay for a while, and takes its names away.
    fn doom(&self, state: &mut State, record: &mut ObjectRecord, at: u64) {
        record.replace_state(record.state | state::DOOMED, &self.pmem, self.seal, at);
        state.doomed.insert(record.birth.id);
        self.free_names_of(state, record.birth.id);
    }

    /// Ends an object that nothing keeps: its record first (**commit point**), then what hung on it.
    pub(crate) fn remove_object(&self, state: &mut State, id: ObjectId) -> Result<()> {
        let at = *state.objects.get(&id).ok_or(Error::NoSuchObject(id))?;
        let record = self.load_record(at)?;
        let map = Map::parse(&record.map, at)?;
        records::free(&self.pmem, self.seal, at);
        state.objects.remove(&id);
        state.doomed.remove(&id);
        let State { space, meta, .. } = &mut *state;
        let released = self.reader().release(&map, space, meta);
        state.meta.give_slot(Class::Objects, at);
        self.free_ties_of(state, id);
        self.free_names_of(state, id);
        released
    }
}

pub(crate) fn release_runs(state: &mut State, runs: &[Run]) {
    for run in runs.iter().filter(|run| run.pool_page.is_some()) {
        state.space.release(run.pool_pages());
    }
}
