//! A doubly linked list.
//!
//! An element's node never moves: a [`ListPlace`] names it, may be stored in objects, and is good until that element is taken out. Places of
//! elements that were taken out, or of another list, are told from good ones as far as the nodes around them show. `split_off` and cursors that
//! stay in the list are not there: lists have no ranges, and places do what cursors do.

mod iter;

pub use self::iter::ListIter;

use super::{collect, has, home_of, put_both};
use crate::cell::PCell;
use crate::error::Result;
use crate::invariant::Invariant;
use crate::ptr::{self, GlobalPtr, InvPtr};
use crate::tx::Tx;
use twz_abi::Rights;

/// A list of `T`, with both ends at hand.
#[derive(Invariant)]
#[repr(C)]
#[invariant(version = 1)]
pub struct List<T: Invariant> {
    front: InvPtr<Node<T>>,
    back: InvPtr<Node<T>>,
    len: PCell<u64>,
}

/// Behind a value of few bytes are some that nobody reads or writes.
#[derive(Invariant)]
#[repr(C)]
struct Node<T: Invariant> {
    next: InvPtr<Node<T>>,
    previous: InvPtr<Node<T>>,
    value: PCell<T>,
}

/// Where an element of a [`List`] is. May be copied, and stored in objects.
#[derive(Invariant)]
#[repr(transparent)]
pub struct ListPlace<T: Invariant>(GlobalPtr<Node<T>>);

impl<T: Invariant> Clone for ListPlace<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Invariant> Copy for ListPlace<T> {}

impl<T: Invariant> PartialEq for ListPlace<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<T: Invariant> Eq for ListPlace<T> {}

impl<T: Invariant> core::fmt::Debug for ListPlace<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Front,
    Back,
}

impl<T: Invariant> Default for List<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Invariant> List<T> {
    /// An empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self { front: InvPtr::null(), back: InvPtr::null(), len: PCell::new(0) }
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len.get()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    changes! {
        /// Takes everything out and gives the nodes back; what the elements own is not.
        clear / clear_in => do_clear() -> ();
        /// Moves all elements of `other` to the end of this one, in a few steps however many there are; nothing if that is the same.
        append / append_in => do_append(other: &Self) -> ();
    }

    /// The elements in place, from front to back; ends after the first error. For types that may change under a reference
    /// ([`Invariant::CELLS`]); others do not compile.
    pub fn iter_ref(&self) -> impl Iterator<Item = Result<&T>> {
        self.cells().map(|cell| cell.map(PCell::as_ref))
    }

    /// The cells of the elements, from front to back; ends after the first error.
    pub(super) fn cells(&self) -> impl Iterator<Item = Result<&PCell<T>>> {
        self.nodes(End::Front).map(|node| node.map(|node| &node.value))
    }

    /// The element at `place` in place, as [`List::iter_ref`]; `None` when there is none.
    ///
    /// # Errors
    /// [`crate::Error::BadPointer`], [`crate::Error::Damaged`].
    pub fn get_ref_at(&self, place: ListPlace<T>) -> Result<Option<&T>> {
        Ok(self.node_at(place)?.map(|node| node.value.as_ref()))
    }

    /// The places of the elements from front to back; ends after the first error.
    pub fn places(&self) -> impl Iterator<Item = Result<ListPlace<T>>> {
        self.nodes(End::Front).map(|node| place_of(node?))
    }

    /// The place of the first element.
    ///
    /// # Errors
    /// As [`List::get_ref_at`].
    pub fn front_place(&self) -> Result<Option<ListPlace<T>>> {
        self.front.get()?.map(place_of).transpose()
    }

    /// The place of the last element.
    ///
    /// # Errors
    /// As [`List::get_ref_at`].
    pub fn back_place(&self) -> Result<Option<ListPlace<T>>> {
        self.back.get()?.map(place_of).transpose()
    }

    /// The node at `place`, if those beside it know it.
    fn node_at(&self, place: ListPlace<T>) -> Result<Option<&Node<T>>> {
        let node = place.0.resolve(Rights::READ | Rights::WRITE)?;
        for end in [End::Front, End::Back] {
            let known = match outward(node, end).get() {
                Ok(Some(beside)) => inward(beside, end).get(),
                Ok(None) => self.ends(end).0.get(),
                Err(error) => Err(error),
            };
            // A node that was given back holds anything: pointers that lead nowhere say that, too.
            if !known.is_ok_and(|known| known.is_some_and(|known| core::ptr::eq(known, node))) {
                return Ok(None);
            }
        }
        Ok(Some(node))
    }

    /// The ends as (this one, the other), and of a node the links (away from this end, towards it).
    fn ends(&self, end: End) -> (&InvPtr<Node<T>>, &InvPtr<Node<T>>) {
        match end {
            End::Front => (&self.front, &self.back),
            End::Back => (&self.back, &self.front),
        }
    }

    /// Hangs a new node between `before` and `after`, which are beside each other; `None`: that end.
    fn link(&self, tx: &Tx, before: Option<&Node<T>>, after: Option<&Node<T>>, value: T) -> Result<&Node<T>> {
        const { assert!(core::mem::offset_of!(Node<T>, value) == 16, "an alignment of at most 16") };
        let node = tx.alloc_unfilled(home_of(self)?, size_of::<Node<T>>(), align_of::<Node<T>>())?;
        put_both(tx, node, &[0_u64; 2], &value)?; // two pointers that lead nowhere, and the value
        let node: &Node<T> = ptr::at_address(node)?;
        if before.is_some() {
            tx.put_ptr(&node.previous, before)?;
        }
        if after.is_some() {
            tx.put_ptr(&node.next, after)?;
        }
        tx.put_ptr(before.map_or(&self.front, |before| &before.next), Some(node))?;
        tx.put_ptr(after.map_or(&self.back, |after| &after.previous), Some(node))?;
        tx.put(&self.len, self.len().wrapping_add(1))?;
        Ok(node)
    }

    fn link_at(&self, tx: &Tx, end: End, value: T) -> Result<&Node<T>> {
        match end {
            End::Front => self.link(tx, None, self.front.get()?, value),
            End::Back => self.link(tx, self.back.get()?, None, value),
        }
    }

    /// Takes a node out and gives it back.
    fn unlink(&self, tx: &Tx, node: &Node<T>) -> Result<()> {
        let (before, after) = (node.previous.get()?, node.next.get()?);
        tx.put_ptr(before.map_or(&self.front, |before| &before.next), after)?;
        tx.put_ptr(after.map_or(&self.back, |after| &after.previous), before)?;
        tx.put(&self.len, self.len().saturating_sub(1))?;
        // SAFETY: allocated by `link`; the links to it go in the same transaction.
        unsafe { tx.free(node) }
    }

    fn do_append(&self, tx: &Tx, other: &Self) -> Result<()> {
        let (Some(first), Some(last)) = (other.front.get()?, other.back.get()?) else { return Ok(()) };
        if core::ptr::eq(self, other) {
            return Ok(());
        }
        let before = self.back.get()?;
        tx.put_ptr(before.map_or(&self.front, |before| &before.next), Some(first))?;
        tx.put_ptr(&first.previous, before)?;
        tx.put_ptr(&self.back, Some(last))?;
        tx.put(&self.len, self.len().wrapping_add(other.len()))?;
        tx.put_ptr(&other.front, None)?;
        tx.put_ptr(&other.back, None)?;
        tx.put(&other.len, 0)
    }

    fn do_clear(&self, tx: &Tx) -> Result<()> {
        for node in self.nodes(End::Front) {
            // SAFETY: allocated by `link`; no node comes twice, and the links to them go in the same transaction.
            unsafe { tx.free(node?) }?;
        }
        tx.put_ptr(&self.front, None)?;
        tx.put_ptr(&self.back, None)?;
        tx.put(&self.len, 0)
    }
}

impl<T: Invariant + Default> List<T> {
    changes! {
        /// Appends a default element; returns it in place, as [`List::iter_ref`].
        push_back_default / push_back_default_in => do_push_default() -> &T;
    }

    fn do_push_default(&self, tx: &Tx) -> Result<&T> {
        let node = self.link_at(tx, End::Back, T::default())?;
        tx.apply()?;
        Ok(node.value.as_ref())
    }
}

impl<T: Invariant + Copy> List<T> {
    changes! {
        /// Prepends an element.
        push_front / push_front_in => do_push_front(value: T) -> ();
        /// Appends an element.
        push_back / push_back_in => do_push_back(value: T) -> ();
        /// Takes the first element.
        pop_front / pop_front_in => do_pop_front() -> Option<T>;
        /// Takes the last element.
        pop_back / pop_back_in => do_pop_back() -> Option<T>;
        /// Appends all that `values` gives.
        extend / extend_in => do_extend(values: impl IntoIterator<Item = T>) -> ();
        /// Keeps the elements for which `keep` is true, in order.
        retain / retain_in => do_retain(keep: impl FnMut(&T) -> bool) -> ();
        /// Changes the element at `place`; returns what it was, `None` when there is none.
        set_at / set_at_in => do_set_at(place: ListPlace<T>, value: T) -> Option<T>;
        /// Takes the element at `place` out; `None` when there is none.
        remove_at / remove_at_in => do_remove_at(place: ListPlace<T>) -> Option<T>;
        /// Puts an element before the one at `place`; returns its place, `None` when there is none at `place`.
        insert_before / insert_before_in => do_insert_before(place: ListPlace<T>, value: T) -> Option<ListPlace<T>>;
        /// Puts an element behind the one at `place`; returns its place, `None` when there is none at `place`.
        insert_after / insert_after_in => do_insert_after(place: ListPlace<T>, value: T) -> Option<ListPlace<T>>;
    }

    /// The first element.
    ///
    /// # Errors
    /// [`crate::Error::BadPointer`], [`crate::Error::Damaged`].
    pub fn front(&self) -> Result<Option<T>> {
        Ok(self.front.get()?.map(|node| node.value.get()))
    }

    /// The last element.
    ///
    /// # Errors
    /// As [`List::front`].
    pub fn back(&self) -> Result<Option<T>> {
        Ok(self.back.get()?.map(|node| node.value.get()))
    }

    /// The element at `place`; `None` when there is none.
    ///
    /// # Errors
    /// As [`List::front`].
    pub fn get_at(&self, place: ListPlace<T>) -> Result<Option<T>> {
        Ok(self.node_at(place)?.map(|node| node.value.get()))
    }

    /// Whether an element equals `value`.
    ///
    /// # Errors
    /// As [`List::front`].
    pub fn contains(&self, value: &T) -> Result<bool>
    where
        T: PartialEq,
    {
        has(self, value)
    }

    fn do_push_front(&self, tx: &Tx, value: T) -> Result<()> {
        self.link_at(tx, End::Front, value)?;
        Ok(())
    }

    fn do_push_back(&self, tx: &Tx, value: T) -> Result<()> {
        self.link_at(tx, End::Back, value)?;
        Ok(())
    }

    fn do_pop_front(&self, tx: &Tx) -> Result<Option<T>> {
        self.take(tx, self.front.get()?)
    }

    fn do_pop_back(&self, tx: &Tx) -> Result<Option<T>> {
        self.take(tx, self.back.get()?)
    }

    fn take(&self, tx: &Tx, node: Option<&Node<T>>) -> Result<Option<T>> {
        let Some(node) = node else { return Ok(None) };
        let value = node.value.get();
        self.unlink(tx, node)?;
        Ok(Some(value))
    }

    fn do_extend(&self, tx: &Tx, values: impl IntoIterator<Item = T>) -> Result<()> {
        for value in values {
            self.link_at(tx, End::Back, value)?;
            tx.apply()?; // the next one hangs on it
        }
        Ok(())
    }

    fn do_retain(&self, tx: &Tx, mut keep: impl FnMut(&T) -> bool) -> Result<()> {
        for node in collect(self.nodes(End::Front))? {
            if !keep(&node.value.get()) {
                self.unlink(tx, node)?;
                tx.apply()?; // the next one may stand beside it
            }
        }
        Ok(())
    }

    fn do_set_at(&self, tx: &Tx, place: ListPlace<T>, value: T) -> Result<Option<T>> {
        let Some(node) = self.node_at(place)? else { return Ok(None) };
        let before = node.value.get();
        tx.put(&node.value, value)?;
        Ok(Some(before))
    }

    fn do_remove_at(&self, tx: &Tx, place: ListPlace<T>) -> Result<Option<T>> {
        self.take(tx, self.node_at(place)?)
    }

    fn do_insert_before(&self, tx: &Tx, place: ListPlace<T>, value: T) -> Result<Option<ListPlace<T>>> {
        let Some(node) = self.node_at(place)? else { return Ok(None) };
        place_of(self.link(tx, node.previous.get()?, Some(node), value)?).map(Some)
    }

    fn do_insert_after(&self, tx: &Tx, place: ListPlace<T>, value: T) -> Result<Option<ListPlace<T>>> {
        let Some(node) = self.node_at(place)? else { return Ok(None) };
        place_of(self.link(tx, Some(node), node.next.get()?, value)?).map(Some)
    }
}

fn place_of<T: Invariant>(node: &Node<T>) -> Result<ListPlace<T>> {
    GlobalPtr::to(node).map(ListPlace)
}

/// The link of a node that leads away from `end`.
fn inward<T: Invariant>(node: &Node<T>, end: End) -> &InvPtr<Node<T>> {
    if end == End::Front { &node.next } else { &node.previous }
}

/// The link of a node that leads towards `end`.
fn outward<T: Invariant>(node: &Node<T>, end: End) -> &InvPtr<Node<T>> {
    if end == End::Front { &node.previous } else { &node.next }
}
