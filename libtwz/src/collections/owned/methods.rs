//! The methods that both maps have.
//!
//! Each map says how it finds, adds, takes out and walks its entries: `find(bytes)`, `add(tx, bytes, value)` for a key that is not there,
//! `unlink(tx, bytes)`, `entries()`, `clear_index(tx)`.

/// A map's methods. Between two steps the puts are applied, so that the next one sees them.
macro_rules! owned_map_methods {
    ($iterator:ident) => {
        /// Number of entries.
        #[must_use]
        pub fn len(&self) -> u64 {
            self.count.get()
        }

        /// Whether there are none.
        #[must_use]
        pub fn is_empty(&self) -> bool {
            self.len() == 0
        }

        /// Whether `key` has a value.
        ///
        /// # Errors
        /// [`crate::Error::BadPointer`], [`crate::Error::Damaged`].
        pub fn contains_key(&self, key: &K::Borrowed) -> $crate::Result<bool> {
            Ok(self.find(K::bytes(key).as_ref())?.is_some())
        }

        /// The value of `key` in place. For types that may change under a reference ([`Invariant::CELLS`]); others do not compile.
        ///
        /// # Errors
        /// As `contains_key`.
        pub fn get_ref(&self, key: &K::Borrowed) -> $crate::Result<Option<&V>> {
            Ok(self.find(K::bytes(key).as_ref())?.map(|entry| entry.value.as_ref()))
        }

        /// The entries with their values in place, as `get_ref`; ends after the first error.
        pub fn iter_ref(&self) -> impl $iterator<Item = $crate::Result<(K::Owned, &V)>> {
            self.entries().map($crate::collections::owned::in_place::<K, V>)
        }

        /// The keys, in the order of the entries; ends after the first error.
        pub fn keys(&self) -> impl $iterator<Item = $crate::Result<K::Owned>> {
            self.entries().map(|entry| key_of::<K, V>(&entry?))
        }
    };
}

/// Those that change what a map owns.
macro_rules! owned_map_changes {
    () => {
        changes! {
            /// Takes `key` out, and gives back what its value owns; whether it was there.
            remove_key / remove_key_in => do_remove_key(key: &K::Borrowed) -> bool;
            /// Keeps the entries for which `keep` is true, which sees the values in place, as `get_ref`.
            retain_ref / retain_ref_in => do_retain_ref(keep: impl FnMut(&K::Owned, &V) -> bool) -> ();
            /// Takes everything out and gives all memory back, also what the values own.
            clear / clear_in => do_clear() -> ();
        }

        fn do_remove_key(&self, tx: &$crate::Tx, key: &K::Borrowed) -> $crate::Result<bool> {
            self.take_out(tx, K::bytes(key).as_ref())
        }

        fn take_out(&self, tx: &$crate::Tx, key: &[u8]) -> $crate::Result<bool> {
            let Some(entry) = self.unlink(tx, key)? else { return Ok(false) };
            tx.put(&self.count, self.len().saturating_sub(1))?;
            V::release_at(entry.value, tx)?;
            // SAFETY: the map forgot it just now, in this transaction; there was one way to it.
            unsafe { entry.free(tx) }?;
            Ok(true)
        }

        fn do_retain_ref(
            &self,
            tx: &$crate::Tx,
            mut keep: impl FnMut(&K::Owned, &V) -> bool,
        ) -> $crate::Result<()> {
            for entry in $crate::collections::collect(self.entries())? {
                if !keep(&key_of::<K, V>(&entry)?, entry.value.as_ref()) {
                    self.take_out(tx, &entry.key()?)?;
                    tx.apply()?;
                }
            }
            Ok(())
        }

        fn do_clear(&self, tx: &$crate::Tx) -> $crate::Result<()> {
            let entries = $crate::collections::collect(self.entries())?;
            let mut seen = alloc::collections::BTreeSet::new();
            for entry in &entries {
                if !seen.insert(core::ptr::from_ref(entry.head).addr()) {
                    return Err(entry.bad("an entry to which there is one way"));
                }
                V::release_at(entry.value, tx)?;
            }
            self.clear_index(tx)?;
            tx.put(&self.count, 0)?;
            // SAFETY: the map forgot them just now, in this transaction, and none of them comes twice.
            entries.iter().try_for_each(|entry| unsafe { entry.free(tx) })
        }
    };
}

/// Those for values that begin as their default.
macro_rules! owned_map_defaults {
    () => {
        changes! {
            /// The value of `key` in place, as `get_ref`; a default one if it has none.
            insert_default / insert_default_in => do_insert_default(key: &K::Borrowed) -> &V;
        }

        fn do_insert_default(&self, tx: &$crate::Tx, key: &K::Borrowed) -> $crate::Result<&V> {
            let bytes = K::bytes(key);
            let entry = match self.find(bytes.as_ref())? {
                Some(entry) => entry,
                None => {
                    let entry = self.add(tx, bytes.as_ref(), |_| Ok(V::default()))?;
                    tx.apply()?;
                    entry
                }
            };
            Ok(entry.value.as_ref())
        }
    };
}

/// Those for values that are copied in and out.
macro_rules! owned_map_copies {
    ($iter:ty, $iterator:ident) => {
        /// A copy of the value of `key`.
        ///
        /// # Errors
        /// As `contains_key`.
        pub fn get(&self, key: &K::Borrowed) -> $crate::Result<Option<V::Taken>> {
            self.find(K::bytes(key).as_ref())?.map(|entry| V::read(entry.value)).transpose()
        }

        /// All entries, as copies; ends after the first error.
        pub fn iter(&self) -> $iter {
            <$iter>::over(self.entries())
        }

        /// Copies of the values, in the order of the entries; ends after the first error.
        pub fn values(&self) -> impl $iterator<Item = $crate::Result<V::Taken>> {
            self.entries().map(|entry| V::read(entry?.value))
        }

        /// The value of `key`, there or not, to be changed durably: `entry(key).and_modify(|n| *n += 1).or_insert(1)`.
        pub fn entry<'a>(&'a self, key: &'a K::Borrowed) -> $crate::collections::Entry<'a, Self> {
            $crate::collections::Entry::new(self, None, key)
        }

        /// [`Self::entry`] as a part of `tx`.
        pub fn entry_in<'a>(&'a self, tx: &'a $crate::Tx, key: &'a K::Borrowed) -> $crate::collections::Entry<'a, Self> {
            $crate::collections::Entry::new(self, Some(tx), key)
        }

        changes! {
            /// Gives `key` a value; returns the one before.
            insert / insert_in => do_insert(key: &K::Borrowed, value: V::Given<'_>) -> Option<V::Taken>;
            /// Takes `key` out; returns its value.
            remove / remove_in => do_remove(key: &K::Borrowed) -> Option<V::Taken>;
            /// Takes `key` out; returns it with its value.
            remove_entry / remove_entry_in => do_remove_entry(key: &K::Borrowed) -> Option<(K::Owned, V::Taken)>;
            /// Gives `key` the value that `change` makes of the one it has, or takes it out for `None`; returns what it has now.
            update / update_in => do_update(key: &K::Borrowed, change: impl FnOnce(Option<V::Taken>) -> Option<V::Taken>) -> Option<V::Taken>;
            /// The value of `key`, which gets the one that `value` makes if it has none.
            get_or_insert_with / get_or_insert_with_in => do_get_or_insert(key: &K::Borrowed, value: impl FnOnce() -> V::Taken) -> V::Taken;
            /// Keeps the entries for which `keep` is true, with the values that it leaves them. What `values_mut` is for, too.
            retain / retain_in => do_retain(keep: impl FnMut(&K::Owned, &mut V::Taken) -> bool) -> ();
            /// Takes everything out, as `clear`, and returns it.
            drain / drain_in => do_drain() -> alloc::vec::Vec<(K::Owned, V::Taken)>;
            /// Moves all entries of `other` here; nothing if that is the same.
            append / append_in => do_append(other: &Self) -> ();
        }

        /// Inserts all that `entries` gives, durably, all or nothing.
        ///
        /// # Errors
        /// As `insert`.
        pub fn extend<'v, B: core::borrow::Borrow<K::Borrowed>>(
            &self,
            entries: impl IntoIterator<Item = (B, V::Given<'v>)>,
        ) -> $crate::Result<()> {
            $crate::collections::alone(self, |tx| self.do_extend(tx, entries))
        }

        /// `extend` as a part of `tx`.
        ///
        /// # Errors
        /// As `insert`.
        pub fn extend_in<'v, B: core::borrow::Borrow<K::Borrowed>>(
            &self,
            tx: &$crate::Tx,
            entries: impl IntoIterator<Item = (B, V::Given<'v>)>,
        ) -> $crate::Result<()> {
            $crate::collections::inside(tx, |tx| self.do_extend(tx, entries))
        }

        fn do_extend<'v, B: core::borrow::Borrow<K::Borrowed>>(
            &self,
            tx: &$crate::Tx,
            entries: impl IntoIterator<Item = (B, V::Given<'v>)>,
        ) -> $crate::Result<()> {
            entries.into_iter().try_for_each(|(key, value)| {
                self.store(tx, K::bytes(key.borrow()).as_ref(), value)?;
                tx.apply()
            })
        }

        /// Gives the key with these bytes a value.
        fn store(&self, tx: &$crate::Tx, key: &[u8], value: V::Given<'_>) -> $crate::Result<()> {
            match self.find(key)? {
                Some(entry) => V::replace(entry.value, tx, value),
                None => {
                    let entry = self.add(tx, key, |home| V::make(tx, home, value))?;
                    V::fill(entry.value, tx, value)
                }
            }
        }

        fn do_insert(
            &self,
            tx: &$crate::Tx,
            key: &K::Borrowed,
            value: V::Given<'_>,
        ) -> $crate::Result<Option<V::Taken>> {
            let before = self.get(key)?;
            self.store(tx, K::bytes(key).as_ref(), value)?;
            Ok(before)
        }

        fn do_remove(&self, tx: &$crate::Tx, key: &K::Borrowed) -> $crate::Result<Option<V::Taken>> {
            let before = self.get(key)?;
            self.do_remove_key(tx, key)?;
            Ok(before)
        }

        fn do_remove_entry(
            &self,
            tx: &$crate::Tx,
            key: &K::Borrowed,
        ) -> $crate::Result<Option<(K::Owned, V::Taken)>> {
            let Some(entry) = self.find(K::bytes(key).as_ref())? else { return Ok(None) };
            let taken = (key_of::<K, V>(&entry)?, V::read(entry.value)?);
            self.do_remove_key(tx, key)?;
            Ok(Some(taken))
        }

        fn do_update(
            &self,
            tx: &$crate::Tx,
            key: &K::Borrowed,
            change: impl FnOnce(Option<V::Taken>) -> Option<V::Taken>,
        ) -> $crate::Result<Option<V::Taken>> {
            let after = change(self.get(key)?);
            match &after {
                Some(value) => self.store(tx, K::bytes(key).as_ref(), V::lend(value))?,
                None => self.do_remove_key(tx, key).map(drop)?,
            }
            Ok(after)
        }

        fn do_get_or_insert(
            &self,
            tx: &$crate::Tx,
            key: &K::Borrowed,
            value: impl FnOnce() -> V::Taken,
        ) -> $crate::Result<V::Taken> {
            if let Some(value) = self.get(key)? {
                return Ok(value);
            }
            let value = value();
            self.store(tx, K::bytes(key).as_ref(), V::lend(&value))?;
            Ok(value)
        }

        fn do_retain(
            &self,
            tx: &$crate::Tx,
            mut keep: impl FnMut(&K::Owned, &mut V::Taken) -> bool,
        ) -> $crate::Result<()> {
            for entry in $crate::collections::collect(self.entries())? {
                let mut value = V::read(entry.value)?;
                if !keep(&key_of::<K, V>(&entry)?, &mut value) {
                    self.take_out(tx, &entry.key()?)?;
                } else if !V::is(entry.value, &value)? {
                    V::replace(entry.value, tx, V::lend(&value))?;
                } else {
                    continue;
                }
                tx.apply()?;
            }
            Ok(())
        }

        fn do_drain(&self, tx: &$crate::Tx) -> $crate::Result<alloc::vec::Vec<(K::Owned, V::Taken)>> {
            let entries = $crate::collections::collect(self.iter())?;
            self.do_clear(tx)?;
            Ok(entries)
        }

        fn do_append(&self, tx: &$crate::Tx, other: &Self) -> $crate::Result<()> {
            if core::ptr::eq(self, other) {
                return Ok(());
            }
            for entry in $crate::collections::collect(other.entries())? {
                self.store(tx, &entry.key()?, V::lend(&V::read(entry.value)?))?;
                tx.apply()?;
            }
            other.do_clear(tx)
        }
    };
}
