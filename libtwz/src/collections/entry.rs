//! Changing the value of a key that may be there or not, as std's entries do.

use super::owned::{self, Key, Value};
use super::{BTreeMap, HashMap, RbTree};
use crate::error::{Error, Result};
use crate::invariant::Invariant;
use crate::tx::Tx;
use core::fmt;

/// Maps with entries to change.
#[doc(hidden)]
pub trait Change {
    /// What a key is named by.
    type Key<'k>;
    /// A value in this program's memory.
    type Value;

    /// The map's `update`.
    ///
    /// # Errors
    /// What that says.
    fn change(
        &self,
        tx: Option<&Tx>,
        key: Self::Key<'_>,
        change: impl FnOnce(Option<Self::Value>) -> Option<Self::Value>,
    ) -> Result<Option<Self::Value>>;

    /// The map's `get_or_insert_with`.
    ///
    /// # Errors
    /// What that says.
    fn make(
        &self,
        tx: Option<&Tx>,
        key: Self::Key<'_>,
        value: impl FnOnce() -> Self::Value,
    ) -> Result<Self::Value>;
}

/// What [`Entry::and_modify`] was not given yet.
type Nothing<M> = fn(&mut <M as Change>::Value);

/// The value of a key in a map, there or not. It is copied out, changed and copied in, all of it in one transaction, by the call that ends with
/// `or_…`; nothing happens before that. What is not to be inserted, or is to be taken out, is for the map's `update`.
///
/// ```
/// use libtwz::collections::{BTreeMap, String, owned};
/// use libtwz::prelude::ObjectBuilder;
///
/// let counts = ObjectBuilder::new().build(BTreeMap::<u64, u64>::new())?;
/// for word in [7, 5, 7] {
///     counts.entry(word).and_modify(|n| *n += 1).or_insert(1)?;
/// }
/// assert_eq!(counts.get(&7)?, Some(2));
///
/// let texts = ObjectBuilder::new().build(owned::HashMap::<String, String>::new())?;
/// texts.entry("a").or_default()?;
/// assert_eq!(texts.entry("a").and_modify(|text| text.push('!')).or_insert("new".into())?, "!");
/// # Ok::<(), libtwz::Error>(())
/// ```
#[must_use = "nothing happens before `or_insert`, `or_insert_with` or `or_default`"]
pub struct Entry<'a, M: Change, F = Nothing<M>> {
    map: &'a M,
    tx: Option<&'a Tx>,
    key: M::Key<'a>,
    modify: Option<F>,
}

impl<M: Change, F> fmt::Debug for Entry<'_, M, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").finish_non_exhaustive()
    }
}

impl<'a, M: Change> Entry<'a, M> {
    pub(super) fn new(map: &'a M, tx: Option<&'a Tx>, key: M::Key<'a>) -> Self {
        Self { map, tx, key, modify: None }
    }
}

impl<'a, M: Change, F: FnOnce(&mut M::Value)> Entry<'a, M, F> {
    /// Has the value changed by `change` if it is there.
    pub fn and_modify<G: FnOnce(&mut M::Value)>(self, change: G) -> Entry<'a, M, impl FnOnce(&mut M::Value)> {
        let Self { map, tx, key, modify } = self;
        let both = move |value: &mut M::Value| {
            if let Some(first) = modify {
                first(value);
            }
            change(value);
        };
        Entry { map, tx, key, modify: Some(both) }
    }

    /// Inserts what `value` makes if there is no value; returns a copy of what is there now.
    ///
    /// # Errors
    /// As the map's `insert`.
    pub fn or_insert_with(self, value: impl FnOnce() -> M::Value) -> Result<M::Value> {
        let Self { map, tx, key, modify } = self;
        let Some(modify) = modify else { return map.make(tx, key, value) };
        let now = map.change(tx, key, |before| {
            Some(before.map_or_else(value, |mut value| {
                modify(&mut value);
                value
            }))
        })?;
        now.ok_or(Error::Aborted) // not none: what was made was something
    }

    /// Inserts `value` if there is none; returns a copy of what is there now.
    ///
    /// # Errors
    /// As the map's `insert`.
    pub fn or_insert(self, value: M::Value) -> Result<M::Value> {
        self.or_insert_with(|| value)
    }

    /// Inserts a default value if there is none; returns a copy of what is there now.
    ///
    /// # Errors
    /// As the map's `insert`.
    pub fn or_default(self) -> Result<M::Value>
    where
        M::Value: Default,
    {
        self.or_insert_with(M::Value::default)
    }
}

/// Says it of a map with keys of a type and values of a type.
macro_rules! change {
    ([$($bounds:tt)*] $map:ty: $key:ty, $value:ty) => {
        impl<$($bounds)*> Change for $map {
            type Key<'k> = $key;
            type Value = $value;

            fn change(
                &self,
                tx: Option<&Tx>,
                key: Self::Key<'_>,
                change: impl FnOnce(Option<$value>) -> Option<$value>,
            ) -> Result<Option<$value>> {
                match tx {
                    Some(tx) => self.update_in(tx, key, change),
                    None => self.update(key, change),
                }
            }

            fn make(
                &self,
                tx: Option<&Tx>,
                key: Self::Key<'_>,
                value: impl FnOnce() -> $value,
            ) -> Result<$value> {
                match tx {
                    Some(tx) => self.get_or_insert_with_in(tx, key, value),
                    None => self.get_or_insert_with(key, value),
                }
            }
        }
    };
}

change!([K: Invariant + Copy, V: Invariant + Copy] HashMap<K, V>: K, V);
change!([K: Invariant + Copy + Ord, V: Invariant + Copy] BTreeMap<K, V>: K, V);
change!([K: Invariant + Copy + Ord, V: Invariant + Copy] RbTree<K, V>: K, V);
change!([K: Key, V: Value] owned::HashMap<K, V>: &'k K::Borrowed, V::Taken);
change!([K: Key, V: Value] owned::BTreeMap<K, V>: &'k K::Borrowed, V::Taken);
