//! Maps whose keys and values may own memory in the object: texts, vectors, other collections, structs of these.
//!
//! # Contract
//! - A key is looked up by what it is borrowed as: `map.get("name")` of a `HashMap<String, V>`, `&[u8]` for `Vec<u8>`, `&7` for numbers ([`Key`]).
//! - Each entry has a block of its own, key and value side by side, which stays where it is: so values may be used in place
//!   (`get_ref`, `insert_default`), as those of an [`super::RbTree`], until their key is taken out.
//! - Values that are `Copy`, texts and vectors are copied in and out whole ([`Value`]): `insert("name", "text")`, `get`, `remove`, `iter`. Others
//!   are used in place.
//! - What is taken out is given back with all that it owns ([`Release`]), when the transaction commits: `remove` returns a copy, and inside
//!   the transaction a value can be read before `remove_key_in`. Nothing leaks, whenever the power fails.
//! - Otherwise as [`super`] says: each change is whole or not at all, damage is an error.
//!
//! For keys and values that are all `Copy`, [`super::HashMap`] and [`super::BTreeMap`] are faster: an insert here takes a block more.

#[macro_use]
mod methods;

mod btree_map;
mod entry;
mod hash_map;
mod key;
mod sets;
mod value;

pub use btree_map::{BTreeMap, BTreeMapRange};
pub use hash_map::{HashMap, HashMapIter};
pub use key::Key;
pub use sets::{BTreeSet, BTreeSetRange, HashSet, HashSetIter};
pub use value::{Release, Value};

use self::entry::Entry;
use super::debug::InCell;
use crate::error::Result;
use crate::invariant::{Invariant, SEED, mix, mix_text};
use core::fmt;
use core::marker::PhantomData;

/// No bytes; the types of a map's keys and values, for its fingerprint.
struct Types<K, V>(PhantomData<fn() -> (K, V)>);

// SAFETY: no bytes at all.
unsafe impl<K: Invariant, V: Invariant> Invariant for Types<K, V> {
    const FINGERPRINT: u64 = mix(mix(mix_text(SEED, "types"), K::SHALLOW), V::SHALLOW); // not their wholes: as pointers
    const SHALLOW: u64 = mix_text(SEED, "types");
    const CELLS: bool = true;
}

impl<K, V> fmt::Debug for Types<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("_")
    }
}

/// An entry as a copy of its key, and its value in place.
fn in_place<K: Key, V: Invariant>(entry: Result<Entry<'_, V>>) -> Result<(K::Owned, &V)> {
    let entry = entry?;
    Ok((key_of::<K, V>(&entry)?, entry.value.as_ref()))
}

/// An entry to be shown.
fn shown<K: Key, V: Invariant>(entry: Result<Entry<'_, V>>) -> Result<(K::Owned, InCell<'_, V>)> {
    let entry = entry?;
    Ok((key_of::<K, V>(&entry)?, InCell(entry.value)))
}

/// An entry's key in this program's memory.
fn key_of<K: Key, V: Invariant>(entry: &Entry<'_, V>) -> Result<K::Owned> {
    K::from_bytes(entry.key()?).ok_or_else(|| entry.bad("the bytes of a key"))
}
