//! Names of objects, and the monitor's named roots.
//!
//! # Contract
//! - A name means an object that exists: it is refused otherwise, and goes with the object. A root is a name of the monitor's
//!   own with any 128 bits behind it; it stays until removed.
//! - A new name of an object that is deleted and kept by a tie counts when the object's record says that it stays.
//! - **Commit points**: making, changing and removing are each one commit of the record.

use crate::Medium;
use crate::core::{Core, Pool, State};
use crate::error::{Error, Result};
use crate::format::records::{self, Class, MAX_NAME, NameRecord, state};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use twz_abi::ObjectId;

/// (is a root, name).
type Key = (bool, Box<str>);

/// All names; volatile.
#[derive(Debug, Default)]
pub(crate) struct Names {
    by_name: BTreeMap<Key, (u64, NameRecord)>,
    /// Names of each object, roots excluded.
    by_target: BTreeSet<(u128, Box<str>)>,
}

impl Names {
    pub(crate) fn len(&self, roots: bool) -> u64 {
        if roots { (self.by_name.len() - self.by_target.len()) as u64 } else { self.by_target.len() as u64 }
    }

    pub(crate) fn add(&mut self, at: u64, record: NameRecord) -> Result<()> {
        let is_root = record.state & state::ROOT != 0;
        let (name, target) = (record.name.clone(), record.target);
        if self.by_name.insert((is_root, name.clone()), (at, record)).is_some() {
            return Err(Error::damaged(at, "name record: a second one of this name"));
        }
        if !is_root {
            self.by_target.insert((target, name));
        }
        Ok(())
    }

    /// Names of an object.
    pub(crate) fn of(&self, target: ObjectId) -> impl Iterator<Item = &str> {
        let target = target.as_u128();
        self.by_target
            .range((target, "".into())..)
            .take_while(move |(of, _)| *of == target)
            .map(|(_, name)| &**name)
    }

    /// Names whose object does not exist.
    pub(crate) fn dangling(&self, exists: impl Fn(ObjectId) -> bool) -> Vec<Key> {
        self.by_target
            .iter()
            .filter(|(target, _)| !exists(ObjectId::from_u128(*target)))
            .map(|(_, name)| (false, name.clone()))
            .collect()
    }
}

impl<M: Medium> Pool<M> {
    /// Makes `name` (1 to 255 bytes) mean `id`, whatever it meant before.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::NoSuchObject`], [`Error::Full`].
    pub fn name_set(&self, name: &str, id: ObjectId) -> Result<()> {
        let mut state = self.0.state();
        if !state.objects.contains_key(&id) || state.doomed.contains(&id) {
            return Err(Error::NoSuchObject(id));
        }
        self.0.set_name(&mut state, (false, name.into()), id.as_u128())
    }

    /// Makes `name`, which must be free, mean `id`, which stays from then on if it was deleted and only a tie kept it: both, or neither.
    ///
    /// # Errors
    /// [`Error::NameTaken`], and as [`Pool::name_set`].
    pub fn name_new(&self, name: &str, id: ObjectId) -> Result<()> {
        let key: Key = (false, name.into());
        self.0.keep(id, |state| {
            if state.names.by_name.contains_key(&key) {
                return Err(Error::NameTaken(key.1));
            }
            // A name of a deleted object goes when the pool is next opened, so this is nothing yet.
            self.0.set_name(state, key, id.as_u128())
        })?;
        self.0.pmem.check()
    }

    /// What `name` means.
    #[must_use]
    pub fn name_get(&self, name: &str) -> Option<ObjectId> {
        let state = self.0.state();
        state.names.by_name.get(&(false, name.into())).map(|(_, record)| ObjectId::from_u128(record.target))
    }

    /// Removes a name; the object stays.
    ///
    /// # Errors
    /// [`Error::NoSuchName`].
    pub fn name_remove(&self, name: &str) -> Result<()> {
        let mut state = self.0.state();
        let key = (false, name.into());
        if !self.0.free_name(&mut state, &key) {
            return Err(Error::NoSuchName(key.1));
        }
        self.0.pmem.check()
    }

    /// All names in order of bytes.
    #[must_use]
    pub fn names(&self) -> Vec<(String, ObjectId)> {
        let state = self.0.state();
        let of_users = state.names.by_name.iter().filter(|((is_root, _), _)| !is_root);
        of_users
            .map(|((_, name), (_, record))| (name.to_string(), ObjectId::from_u128(record.target)))
            .collect()
    }

    /// The first name behind `name` in the order of bytes; behind the empty one: the first of all.
    #[must_use]
    pub fn name_after(&self, name: &str) -> Option<String> {
        let state = self.0.state();
        let after = (Bound::Excluded((false, name.into())), Bound::Excluded((true, "".into())));
        state.names.by_name.range::<Key, _>(after).next().map(|((_, name), _)| name.to_string())
    }

    /// Names of one object.
    #[must_use]
    pub fn names_of(&self, id: ObjectId) -> Vec<String> {
        self.0.state().names.of(id).map(str::to_owned).collect()
    }

    /// Makes the root `key` (1 to 255 bytes) hold `value`: the monitor's own persistent variables.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::Full`].
    pub fn root_set(&self, key: &str, value: u128) -> Result<()> {
        self.0.set_name(&mut self.0.state(), (true, key.into()), value)
    }

    /// What the root `key` holds.
    #[must_use]
    pub fn root_get(&self, key: &str) -> Option<u128> {
        self.0.state().names.by_name.get(&(true, key.into())).map(|(_, record)| record.target)
    }

    /// Removes a root.
    ///
    /// # Errors
    /// [`Error::NoSuchName`].
    pub fn root_remove(&self, key: &str) -> Result<()> {
        let mut state = self.0.state();
        let key = (true, key.into());
        if !self.0.free_name(&mut state, &key) {
            return Err(Error::NoSuchName(key.1));
        }
        self.0.pmem.check()
    }

    /// All roots in order of bytes.
    #[must_use]
    pub fn roots(&self) -> Vec<(String, u128)> {
        let state = self.0.state();
        let roots = state.names.by_name.iter().filter(|((is_root, _), _)| *is_root);
        roots.map(|((_, name), (_, record))| (name.to_string(), record.target)).collect()
    }
}

impl<M: Medium> Core<M> {
    fn set_name(&self, found: &mut State, key: Key, target: u128) -> Result<()> {
        let (is_root, name) = key;
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(Error::BadName(name.len()));
        }
        if let Some((at, record)) = found.names.by_name.get_mut(&(is_root, name.clone())) {
            let before = record.target;
            if before == target {
                return Ok(());
            }
            record.replace_target(target, &self.pmem, self.seal, *at);
            if !is_root {
                found.names.by_target.remove(&(before, name.clone()));
                found.names.by_target.insert((target, name));
            }
            return self.pmem.check();
        }
        let at = found.meta.take_slot(&self.pmem, self.seal, &mut found.space, Class::Names)?;
        let root = if is_root { state::ROOT } else { 0 };
        let record = NameRecord { state: state::EXISTS | root, name, target };
        record.create(&self.pmem, self.seal, at);
        found.names.add(at, record)?;
        self.pmem.check()
    }

    /// Removes a name or root; says whether it was there.
    pub(crate) fn free_name(&self, found: &mut State, key: &Key) -> bool {
        let Some((at, record)) = found.names.by_name.remove(key) else { return false };
        records::free(&self.pmem, self.seal, at);
        found.names.by_target.remove(&(record.target, key.1.clone()));
        found.meta.give_slot(Class::Names, at);
        true
    }

    /// Removes the names of an object that is gone.
    pub(crate) fn free_names_of(&self, found: &mut State, id: ObjectId) {
        let names: Vec<Key> = found.names.of(id).map(|name| (false, name.into())).collect();
        for key in names {
            self.free_name(found, &key);
        }
    }
}
