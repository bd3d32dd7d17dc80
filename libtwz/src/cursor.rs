//! [`Cursor`]: walking along persistent pointers with the object's base in a register.
//!
//! A reference is one address, so each hop adds base and offset, and takes the base out of the address again. A cursor
//! keeps the two apart: the next pointer is loaded from their sum, which the processor forms on the way, and the base is at hand
//! for finding where that leads. Measured in `bench/libtwz`: one cycle in eleven of a hop to another object.

use crate::error::Result;
use crate::invariant::Invariant;
use crate::ptr::{self, InvPtr};
use crate::translate;
use crate::window::Window;
use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;

/// A `T` in an object, as the object's window and an offset in it; dereferences to the `T`.
///
/// ```
/// use libtwz::prelude::*;
/// use libtwz::Cursor;
///
/// #[derive(Invariant)]
/// #[repr(C)]
/// struct Node { next: InvPtr<Node>, value: PCell<u64> }
///
/// fn sum(first: &Node) -> Result<u64> {
///     let (mut at, mut sum) = (Cursor::at(first)?, first.value.get());
///     while let Some(next) = at.follow(|node| &node.next)? {
///         sum += next.value.get();
///         at = next;
///     }
///     Ok(sum)
/// }
///
/// let first = ObjectBuilder::new().build(Node { next: InvPtr::null(), value: PCell::new(1) })?;
/// first.tx(|tx| {
///     let node = tx.alloc(Node { next: InvPtr::null(), value: PCell::new(2) })?;
///     tx.point(&first.next, Some(node))
/// })?;
/// assert_eq!(sum(&first)?, 3);
/// # Ok::<(), libtwz::Error>(())
/// ```
pub struct Cursor<'a, T> {
    window: Window,
    /// In bounds and aligned for a `T`.
    offset: usize,
    at: PhantomData<&'a T>,
}

impl<T> Clone for Cursor<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Cursor<'_, T> {}

impl<T> fmt::Debug for Cursor<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cursor({:#x}+{:#x})", self.window.base(), self.offset)
    }
}

impl<T> Deref for Cursor<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: made from a reference by `at`, or checked by `place_of` as a reference's target is; slots stay mapped.
        unsafe { &*((self.window.base() + self.offset) as *const T) }
    }
}

impl<'a, T: Invariant> Cursor<'a, T> {
    /// A cursor at a value in a mapped object.
    ///
    /// # Errors
    /// [`crate::Error::NotInObject`].
    #[inline]
    pub fn at(value: &'a T) -> Result<Self> {
        let (window, offset) = translate::split(core::ptr::from_ref(value).addr())?;
        Ok(Self { window, offset: offset as usize, at: PhantomData })
    }

    /// Where the pointer that `field` picks leads; `None` for null. The field must be in the `T` itself.
    ///
    /// # Errors
    /// As [`InvPtr::get`].
    #[inline(always)]
    pub fn follow<U: Invariant>(
        &self,
        field: impl for<'b> FnOnce(&'b T) -> &'b InvPtr<U>,
    ) -> Result<Option<Cursor<'a, U>>> {
        let place = ptr::place_of(self.window, field(self))?;
        Ok(place.map(|(window, offset)| Cursor { window, offset, at: PhantomData }))
    }

    /// The `T` with the life of what the cursor started from.
    #[inline]
    #[must_use]
    pub fn get(self) -> &'a T {
        // SAFETY: as in `deref`.
        unsafe { &*((self.window.base() + self.offset) as *const T) }
    }
}
