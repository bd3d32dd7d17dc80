//! What may be a value, and how what it owns is given back.

use crate::cell::PCell;
use crate::collections::{
    BTreeMap, BTreeSet, HashMap, HashSet, List, RbTree, Ring, String, Vec, put_all, same,
};
use crate::error::Result;
use crate::invariant::Invariant;
use crate::ptr::InvPtr;
use crate::tx::Tx;
use crate::window::Window;

/// Values that can give back what they own in their object. For a struct of cells and collections, say it of each:
///
/// ```
/// use libtwz::collections::{String, Vec, owned::Release};
/// use libtwz::prelude::{Invariant, PCell, Result, Tx};
///
/// #[derive(Default, Invariant)]
/// #[repr(C)]
/// struct Person { age: PCell<u64>, name: String, tags: Vec<u64> }
///
/// impl Release for Person {
///     fn release(&self, tx: &Tx) -> Result<()> {
///         self.name.release(tx)?;
///         self.tags.release(tx)
///     }
/// }
/// ```
pub trait Release: Invariant {
    /// Whether there is anything to give back.
    #[doc(hidden)]
    const OWNS: bool = true;

    /// Gives back what it owns, as a part of `tx`; what is left is empty.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`], [`crate::Error::BadPointer`], [`crate::Error::OutOfSpace`], [`crate::Error::Busy`].
    fn release(&self, tx: &Tx) -> Result<()>;

    /// [`Release::release`] of one in a cell.
    #[doc(hidden)]
    fn release_at(place: &PCell<Self>, tx: &Tx) -> Result<()>
    where
        Self: Sized,
    {
        place.as_ref().release(tx)
    }
}

impl<T: Invariant + Copy> Release for T {
    const OWNS: bool = false;

    fn release(&self, _: &Tx) -> Result<()> {
        Ok(())
    }

    fn release_at(_: &PCell<Self>, _: &Tx) -> Result<()> {
        Ok(())
    }
}

impl<T: Invariant + Copy> Release for PCell<T> {
    const OWNS: bool = false;

    fn release(&self, _: &Tx) -> Result<()> {
        Ok(())
    }
}

/// What a pointer leads to is not its own.
impl<T: Invariant> Release for InvPtr<T> {
    const OWNS: bool = false;

    fn release(&self, _: &Tx) -> Result<()> {
        Ok(())
    }
}

impl Release for String {
    fn release(&self, tx: &Tx) -> Result<()> {
        Self::release(self, tx)
    }
}

impl<T: Release> Release for Vec<T> {
    fn release(&self, tx: &Tx) -> Result<()> {
        if T::OWNS {
            self.cells().try_for_each(|element| T::release_at(element?, tx))?;
        }
        self.clear_in(tx)
    }
}

impl<T: Release> Release for List<T> {
    fn release(&self, tx: &Tx) -> Result<()> {
        if T::OWNS {
            self.cells().try_for_each(|element| T::release_at(element?, tx))?;
        }
        self.clear_in(tx)
    }
}

impl<K: Invariant + Copy + Ord, V: Release> Release for RbTree<K, V> {
    fn release(&self, tx: &Tx) -> Result<()> {
        if V::OWNS {
            self.cells().try_for_each(|value| V::release_at(value?, tx))?;
        }
        self.clear_in(tx)
    }
}

impl<K: Invariant + Copy, V: Invariant + Copy> Release for HashMap<K, V> {
    fn release(&self, tx: &Tx) -> Result<()> {
        self.clear_in(tx)
    }
}

impl<K: Invariant + Copy + Ord, V: Invariant + Copy> Release for BTreeMap<K, V> {
    fn release(&self, tx: &Tx) -> Result<()> {
        self.clear_in(tx)
    }
}

impl<T: Invariant + Copy> Release for HashSet<T> {
    fn release(&self, tx: &Tx) -> Result<()> {
        self.clear_in(tx)
    }
}

impl<T: Invariant + Copy + Ord> Release for BTreeSet<T> {
    fn release(&self, tx: &Tx) -> Result<()> {
        self.clear_in(tx)
    }
}

impl<T: Invariant + Copy, const N: usize> Release for Ring<T, N> {
    fn release(&self, tx: &Tx) -> Result<()> {
        self.clear_in(tx)
    }
}

/// Values that are copied in and out whole: what is `Copy`, texts, and vectors of what is `Copy`. Others are used in place
/// (`insert_default`, `get_ref`).
pub trait Value: Release {
    /// What is put into a map.
    type Given<'a>: Copy;
    /// A value in this program's memory.
    type Taken;

    /// A value in this program's memory as one that is put in.
    fn lend(taken: &Self::Taken) -> Self::Given<'_>;

    /// What a block of the object at `home` is to hold, or an empty one, which [`Value::fill`] fills.
    #[doc(hidden)]
    fn make(tx: &Tx, home: Window, given: Self::Given<'_>) -> Result<Self>
    where
        Self: Sized;

    /// Ends what [`Value::make`] began, after the block was put.
    #[doc(hidden)]
    fn fill(_: &PCell<Self>, _: &Tx, _: Self::Given<'_>) -> Result<()>
    where
        Self: Sized,
    {
        Ok(())
    }

    /// Another value in its place.
    #[doc(hidden)]
    fn replace(place: &PCell<Self>, tx: &Tx, given: Self::Given<'_>) -> Result<()>
    where
        Self: Sized;

    /// Whether it is this one.
    #[doc(hidden)]
    fn is(place: &PCell<Self>, taken: &Self::Taken) -> Result<bool>
    where
        Self: Sized;

    /// A copy.
    #[doc(hidden)]
    fn read(place: &PCell<Self>) -> Result<Self::Taken>
    where
        Self: Sized;
}

impl<T: Invariant + Copy> Value for T {
    type Given<'a> = T;
    type Taken = T;

    fn lend(taken: &T) -> T {
        *taken
    }

    fn make(_: &Tx, _: Window, given: T) -> Result<T> {
        Ok(given)
    }

    fn replace(place: &PCell<T>, tx: &Tx, given: T) -> Result<()> {
        put_all(tx, place.as_ptr().addr(), &[given])
    }

    fn is(place: &PCell<T>, taken: &T) -> Result<bool> {
        Ok(same(&place.get(), taken))
    }

    fn read(place: &PCell<T>) -> Result<T> {
        Ok(place.get())
    }
}

impl Value for String {
    type Given<'a> = &'a str;
    type Taken = alloc::string::String;

    fn lend(taken: &alloc::string::String) -> &str {
        taken
    }

    fn make(tx: &Tx, home: Window, given: &str) -> Result<Self> {
        Self::make_in(tx, home, given)
    }

    fn replace(place: &PCell<Self>, tx: &Tx, given: &str) -> Result<()> {
        place.as_ref().do_set(tx, given)
    }

    fn is(place: &PCell<Self>, taken: &alloc::string::String) -> Result<bool> {
        Ok(place.as_ref().get()? == *taken)
    }

    fn read(place: &PCell<Self>) -> Result<alloc::string::String> {
        place.as_ref().get()
    }
}

impl<T: Invariant + Copy> Value for Vec<T> {
    type Given<'a> = &'a [T];
    type Taken = alloc::vec::Vec<T>;

    fn lend(taken: &alloc::vec::Vec<T>) -> &[T] {
        taken
    }

    fn make(_: &Tx, _: Window, _: &[T]) -> Result<Self> {
        Ok(Self::new())
    }

    fn fill(place: &PCell<Self>, tx: &Tx, given: &[T]) -> Result<()> {
        place.as_ref().extend_in(tx, given.iter().copied()) // which sees the empty one
    }

    fn replace(place: &PCell<Self>, tx: &Tx, given: &[T]) -> Result<()> {
        place.as_ref().clear_in(tx)?;
        place.as_ref().extend_in(tx, given.iter().copied())
    }

    fn is(place: &PCell<Self>, taken: &alloc::vec::Vec<T>) -> Result<bool> {
        let now = Self::read(place)?;
        Ok(now.len() == taken.len() && now.iter().zip(taken).all(|(a, b)| same(a, b)))
    }

    fn read(place: &PCell<Self>) -> Result<alloc::vec::Vec<T>> {
        crate::collections::collect(place.as_ref().iter())
    }
}
