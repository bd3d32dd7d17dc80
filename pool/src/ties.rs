//! Ties: object B lives as long as object A.
//!
//! # Contract
//! - A tie is in force while both objects exist. A deleted object stays (doomed) while it is in use or while an object that
//!   it is tied to exists; ties between doomed objects alone keep nothing.
//! - **Commit points**: making and cutting a tie are each one commit of its record. When an object goes, its ties are cut
//!   after it; what a crash leaves of them is cut at the next open.

use crate::Medium;
use crate::core::{Core, Pool, State};
use crate::error::{Error, Result};
use crate::format::records::{self, Class, TieRecord};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use twz_abi::ObjectId;

/// The ties in force; volatile.
#[derive(Debug, Default)]
pub(crate) struct Ties {
    /// (tied, holder) -> place of the record.
    by_tied: BTreeMap<(ObjectId, ObjectId), u64>,
    /// (holder, tied).
    by_holder: BTreeSet<(ObjectId, ObjectId)>,
    by_place: HashMap<u64, TieRecord>,
}

const FIRST: ObjectId = ObjectId::NULL;

impl Ties {
    pub(crate) fn len(&self) -> u64 {
        self.by_tied.len() as u64
    }

    pub(crate) fn add(&mut self, at: u64, record: TieRecord) -> Result<()> {
        if record.tied == record.holder {
            return Err(Error::damaged(at, "tie record: an object tied to itself"));
        }
        if self.by_tied.insert((record.tied, record.holder), at).is_some() {
            return Err(Error::damaged(at, "tie record: a second one of this tie"));
        }
        self.by_holder.insert((record.holder, record.tied));
        self.by_place.insert(at, record);
        Ok(())
    }

    fn remove(&mut self, at: u64) {
        if let Some(record) = self.by_place.remove(&at) {
            self.by_tied.remove(&(record.tied, record.holder));
            self.by_holder.remove(&(record.holder, record.tied));
        }
    }

    /// What `tied` is tied to.
    pub(crate) fn holders(&self, tied: ObjectId) -> impl Iterator<Item = ObjectId> {
        self.by_tied
            .range((tied, FIRST)..)
            .take_while(move |((of, _), _)| *of == tied)
            .map(|((_, holder), _)| *holder)
    }

    /// What is tied to `holder`.
    pub(crate) fn tied_to(&self, holder: ObjectId) -> impl Iterator<Item = ObjectId> {
        self.by_holder
            .range((holder, FIRST)..)
            .take_while(move |(of, _)| *of == holder)
            .map(|(_, tied)| *tied)
    }

    /// Places of the ties in which `id` has a part.
    fn places_of(&self, id: ObjectId) -> Vec<u64> {
        let own = self.holders(id).map(|holder| (id, holder));
        let others = self.tied_to(id).map(|tied| (tied, id));
        own.chain(others).filter_map(|pair| self.by_tied.get(&pair).copied()).collect()
    }

    /// Places of the ties of which an object does not exist.
    pub(crate) fn dangling(&self, exists: impl Fn(ObjectId) -> bool) -> Vec<u64> {
        self.by_tied
            .iter()
            .filter(|((tied, holder), _)| !exists(*tied) || !exists(*holder))
            .map(|(_, &at)| at)
            .collect()
    }
}

impl<M: Medium> Pool<M> {
    /// Makes `tied` live as long as `holder`, even when deleted. Nothing to do if it is so.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::Full`].
    pub fn tie(&self, tied: ObjectId, holder: ObjectId) -> Result<()> {
        let mut state = self.0.state();
        for id in [tied, holder] {
            if !state.objects.contains_key(&id) {
                return Err(Error::NoSuchObject(id));
            }
        }
        if tied == holder || state.ties.by_tied.contains_key(&(tied, holder)) {
            return Ok(());
        }
        self.0.create_tie(&mut state, tied, holder)?;
        self.0.pmem.fence();
        self.0.pmem.check()
    }

    /// Cuts a tie, and says whether there was one. A deleted object that only this tie kept is gone then.
    ///
    /// # Errors
    /// [`Error::Damaged`] when an object that goes has a bad map; it is gone then, its pages are not used again.
    pub fn untie(&self, tied: ObjectId, holder: ObjectId) -> Result<bool> {
        let mut state = self.0.state();
        let Some(&at) = state.ties.by_tied.get(&(tied, holder)) else { return Ok(false) };
        self.0.free_tie(&mut state, at);
        let candidates = self.0.hanging_on(&state, tied);
        self.0.sweep(&mut state, &candidates)?;
        self.0.pmem.check()?;
        Ok(true)
    }

    /// The objects that `id` is tied to, and those tied to it.
    #[must_use]
    pub fn ties(&self, id: ObjectId) -> (Vec<ObjectId>, Vec<ObjectId>) {
        let state = self.0.state();
        (state.ties.holders(id).collect(), state.ties.tied_to(id).collect())
    }
}

impl<M: Medium> Core<M> {
    /// Writes a tie that does not exist yet; durable after the next fence.
    pub(crate) fn create_tie(&self, state: &mut State, tied: ObjectId, holder: ObjectId) -> Result<u64> {
        let at = state.meta.take_slot(&self.pmem, self.seal, &mut state.space, Class::Ties)?;
        let record = TieRecord { tied, holder };
        record.create(&self.pmem, self.seal, at);
        state.ties.add(at, record)?;
        Ok(at)
    }

    /// Cuts the tie whose record stands at `at`.
    pub(crate) fn free_tie(&self, state: &mut State, at: u64) {
        records::free(&self.pmem, self.seal, at);
        state.ties.remove(at);
        state.meta.give_slot(Class::Ties, at);
    }

    /// Cuts all ties of an object that is gone.
    pub(crate) fn free_ties_of(&self, state: &mut State, id: ObjectId) {
        for at in state.ties.places_of(id) {
            self.free_tie(state, at);
        }
    }

    /// Whether a tie to an object that exists keeps `id`, directly or through other doomed objects.
    pub(crate) fn is_held(&self, state: &State, id: ObjectId) -> bool {
        let mut seen = HashSet::new();
        let mut waiting = vec![id];
        while let Some(id) = waiting.pop() {
            for holder in state.ties.holders(id) {
                let exists = state.objects.get(&holder);
                let Some(at) = exists else { continue };
                if !state.doomed.contains(&holder) || state.opened.contains_key(at) {
                    return true;
                }
                if seen.insert(holder) {
                    waiting.push(holder);
                }
            }
        }
        false
    }

    /// The doomed objects that may go when `id` is deleted, or not in use any more: itself, and what is tied to it directly or through doomed ones.
    pub(crate) fn hanging_on(&self, state: &State, id: ObjectId) -> Vec<ObjectId> {
        let mut seen = HashSet::from([id]);
        let mut found = vec![id];
        let mut next = 0;
        while let Some(&holder) = found.get(next) {
            next += 1;
            let doomed = state.ties.tied_to(holder).filter(|tied| state.doomed.contains(tied));
            found.extend(doomed.filter(|&tied| seen.insert(tied)));
        }
        found
    }

    /// Removes those of `candidates` that are doomed and that neither a use nor a tie keeps.
    pub(crate) fn sweep(&self, state: &mut State, candidates: &[ObjectId]) -> Result<()> {
        let in_use = |id: &ObjectId| state.objects.get(id).is_some_and(|at| state.opened.contains_key(at));
        let is_gone = |id: &ObjectId| state.doomed.contains(id) && !in_use(id) && !self.is_held(state, *id);
        let gone: Vec<ObjectId> = candidates.iter().copied().filter(is_gone).collect();
        gone.into_iter().try_for_each(|id| self.remove_object(state, id))
    }
}
