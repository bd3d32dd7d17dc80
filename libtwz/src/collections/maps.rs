//! What all three maps do alike.

use core::ops::Bound;

/// Whether `key` lies in a range that begins with `start`.
pub(super) fn is_from<K: Ord>(start: &Bound<K>, key: &K) -> bool {
    match start {
        Bound::Included(start) => key >= start,
        Bound::Excluded(start) => key > start,
        Bound::Unbounded => true,
    }
}

/// Whether `key` lies in a range that ends with `end`.
pub(super) fn is_before<K: Ord>(end: &Bound<K>, key: &K) -> bool {
    match end {
        Bound::Included(end) => key <= end,
        Bound::Excluded(end) => key < end,
        Bound::Unbounded => true,
    }
}

/// Methods of a map with `get`, `iter`, `put_entry_in` and `do_remove`. Between two steps the puts are applied, so that the next one sees them.
macro_rules! map_methods {
    ($iterator:ident) => {
        /// The keys, in the order of the entries; ends after the first error.
        pub fn keys(&self) -> impl $iterator<Item = $crate::Result<K>> {
            self.iter().map(|entry| Ok(entry?.0))
        }

        /// The values, in the order of the entries; ends after the first error.
        pub fn values(&self) -> impl $iterator<Item = $crate::Result<V>> {
            self.iter().map(|entry| Ok(entry?.1))
        }

        /// The value of `key`, there or not, to be changed durably: `entry(key).and_modify(|n| *n += 1).or_insert(1)`.
        pub fn entry(&self, key: K) -> $crate::collections::Entry<'_, Self> {
            $crate::collections::Entry::new(self, None, key)
        }

        /// [`Self::entry`] as a part of `tx`.
        pub fn entry_in<'a>(&'a self, tx: &'a $crate::Tx, key: K) -> $crate::collections::Entry<'a, Self> {
            $crate::collections::Entry::new(self, Some(tx), key)
        }

        changes! {
            /// Gives `key` the value that `change` makes of the one it has, or takes it out for `None`; returns what it has now.
            update / update_in => do_update(key: K, change: impl FnOnce(Option<V>) -> Option<V>) -> Option<V>;
            /// The value of `key`, which gets the one that `value` makes if it has none.
            get_or_insert_with / get_or_insert_with_in => do_get_or_insert(key: K, value: impl FnOnce() -> V) -> V;
            /// Takes `key` out; returns it with its value.
            remove_entry / remove_entry_in => do_remove_entry(key: &K) -> Option<(K, V)>;
            /// Inserts all that `entries` gives.
            extend / extend_in => do_extend(entries: impl IntoIterator<Item = (K, V)>) -> ();
            /// Keeps the entries for which `keep` is true, with the values that it leaves them. What `values_mut` is for, too.
            retain / retain_in => do_retain(keep: impl FnMut(&K, &mut V) -> bool) -> ();
            /// Moves all entries of `other` here; nothing if that is the same.
            append / append_in => do_append(other: &Self) -> ();
        }

        fn do_update(
            &self,
            tx: &$crate::Tx,
            key: K,
            change: impl FnOnce(Option<V>) -> Option<V>,
        ) -> $crate::Result<Option<V>> {
            let before = self.get(&key)?;
            let after = change(before);
            match after {
                Some(value) => self.put_entry_in(tx, key, value)?,
                None => self.do_remove(tx, &key)?,
            };
            Ok(after)
        }

        fn do_get_or_insert(
            &self,
            tx: &$crate::Tx,
            key: K,
            value: impl FnOnce() -> V,
        ) -> $crate::Result<V> {
            if let Some(value) = self.get(&key)? {
                return Ok(value);
            }
            let value = value();
            self.put_entry_in(tx, key, value)?;
            Ok(value)
        }

        fn do_remove_entry(&self, tx: &$crate::Tx, key: &K) -> $crate::Result<Option<(K, V)>> {
            Ok(self.do_remove(tx, key)?.map(|value| (*key, value)))
        }

        fn do_extend(
            &self,
            tx: &$crate::Tx,
            entries: impl IntoIterator<Item = (K, V)>,
        ) -> $crate::Result<()> {
            for (key, value) in entries {
                self.put_entry_in(tx, key, value)?;
                tx.apply()?;
            }
            Ok(())
        }

        fn do_retain(
            &self,
            tx: &$crate::Tx,
            mut keep: impl FnMut(&K, &mut V) -> bool,
        ) -> $crate::Result<()> {
            for (key, before) in $crate::collections::collect(self.iter())? {
                let mut value = before;
                if !keep(&key, &mut value) {
                    self.do_remove(tx, &key)?;
                } else if !$crate::collections::same(&before, &value) {
                    self.put_entry_in(tx, key, value)?;
                } else {
                    continue;
                }
                tx.apply()?;
            }
            Ok(())
        }

        fn do_append(&self, tx: &$crate::Tx, other: &Self) -> $crate::Result<()> {
            if core::ptr::eq(self, other) {
                return Ok(());
            }
            self.do_extend(tx, $crate::collections::collect(other.iter())?)?;
            other.do_clear(tx)
        }
    };
}

/// Methods of a map in order of keys.
macro_rules! ordered_map_methods {
    () => {
        /// The entry with the smallest key.
        ///
        /// # Errors
        /// As `get`.
        pub fn first_key_value(&self) -> $crate::Result<Option<(K, V)>> {
            self.iter().next().transpose()
        }

        /// The entry with the largest key.
        ///
        /// # Errors
        /// As `get`.
        pub fn last_key_value(&self) -> $crate::Result<Option<(K, V)>> {
            self.iter().next_back().transpose()
        }

        changes! {
            /// Takes the entry with the smallest key out.
            pop_first / pop_first_in => do_pop_first() -> Option<(K, V)>;
            /// Takes the entry with the largest key out.
            pop_last / pop_last_in => do_pop_last() -> Option<(K, V)>;
            /// Moves the entries from `key` on to `into`.
            split_off / split_off_in => do_split_off(key: &K, into: &Self) -> ();
        }

        fn do_pop_first(&self, tx: &$crate::Tx) -> $crate::Result<Option<(K, V)>> {
            let entry = self.first_key_value()?;
            if let Some((key, _)) = &entry {
                self.do_remove(tx, key)?;
            }
            Ok(entry)
        }

        fn do_pop_last(&self, tx: &$crate::Tx) -> $crate::Result<Option<(K, V)>> {
            let entry = self.last_key_value()?;
            if let Some((key, _)) = &entry {
                self.do_remove(tx, key)?;
            }
            Ok(entry)
        }

        fn do_split_off(&self, tx: &$crate::Tx, key: &K, into: &Self) -> $crate::Result<()> {
            if core::ptr::eq(self, into) {
                return Ok(());
            }
            for (key, value) in $crate::collections::collect(self.range(*key..))? {
                self.do_remove(tx, &key)?;
                into.put_entry_in(tx, key, value)?;
                tx.apply()?;
            }
            Ok(())
        }
    };
}
