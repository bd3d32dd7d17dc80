//! Persistent pointers in Rust's clothes: [`InvPtr`] inside objects, [`GlobalPtr`] anywhere.

use crate::error::{Error, Result};
use crate::invariant::{Invariant, SEED, mix, mix_text};
use crate::simulate;
use crate::translate;
use crate::view;
use crate::window::{SLOT_MASK, Window};
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering};
use twz_abi::object::DATA_OFFSET;
use twz_abi::{ObjectId, PersistentPtr, Rights};

/// A 64-bit pointer that stands in an object and leads to a `T` in the same or another one.
///
/// It means something only where it stands: its FOT index counts in the object that holds it. So it cannot be copied;
/// [`InvPtr::get`] and [`crate::Tx::point`] translate, and a pointer that was moved out of its object gives an error.
///
/// Reading one is a plain load. To traverse: `while let Some(node) = next.get()? { next = &node.next; }`.
#[repr(transparent)]
pub struct InvPtr<T> {
    raw: AtomicU64,
    to: PhantomData<fn() -> T>,
}

// SAFETY: eight bytes, each pattern is a value, no address; where it leads is checked at each use.
unsafe impl<T: Invariant> Invariant for InvPtr<T> {
    const FINGERPRINT: u64 = mix(mix_text(SEED, "InvPtr"), T::SHALLOW); // not its whole: types may point to themselves
    const SHALLOW: u64 = mix_text(SEED, "InvPtr");
    const CELLS: bool = true;
}

impl<T> Default for InvPtr<T> {
    fn default() -> Self {
        Self::null()
    }
}

impl<T> fmt::Debug for InvPtr<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let raw = self.raw();
        write!(f, "InvPtr({}:{:#x})", raw.index(), raw.offset())
    }
}

impl<T> InvPtr<T> {
    /// The pointer to nothing.
    #[must_use]
    pub const fn null() -> Self {
        Self { raw: AtomicU64::new(0), to: PhantomData }
    }

    /// A pointer in its stored form, to be put into the object whose FOT it counts in.
    #[must_use]
    pub const fn from_raw(pointer: PersistentPtr) -> Self {
        Self { raw: AtomicU64::new(pointer.0), to: PhantomData }
    }

    /// The stored form.
    #[inline]
    #[must_use]
    pub fn raw(&self) -> PersistentPtr {
        PersistentPtr(self.raw.load(Ordering::Relaxed))
    }

    /// Whether it leads to nothing.
    #[inline]
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.raw().is_null()
    }

    /// Changes the stored form, after everything before; neither logged nor flushed.
    #[inline]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    pub fn set_raw(&self, pointer: PersistentPtr) {
        self.raw.store(pointer.0, Ordering::Release);
        simulate::stored(self.raw.as_ptr().addr(), 8);
    }
}

impl<T: Invariant> InvPtr<T> {
    /// What the pointer leads to; `None` for null.
    ///
    /// # Errors
    /// [`Error::BadPointer`] when it leads nowhere a `T` can be; [`Error::NotInObject`] when it was moved out of its
    /// object; what resolving the FOT entry says.
    #[inline(always)]
    pub fn get(&self) -> Result<Option<&T>> {
        if self.is_null() { Ok(None) } else { self.get_some() }
    }

    #[inline]
    fn get_some(&self) -> Result<Option<&T>> {
        let holder = Window::around(core::ptr::from_ref(self).addr())?;
        self.get_in(holder)
    }

    /// As [`InvPtr::get`], where null is an error too.
    ///
    /// # Errors
    /// As [`InvPtr::get`], and [`Error::BadPointer`] for null.
    #[inline]
    pub fn resolve(&self) -> Result<&T> {
        let holder = Window::around(core::ptr::from_ref(self).addr())?;
        let (pointer, base) = translate::base_at(holder, &self.raw);
        target::<T>(holder, pointer, base?).map(reference)
    }

    /// What the pointer leads to when it is known to stand in the object at `holder`: keeps the base in a register
    /// through a traversal.
    ///
    /// # Errors
    /// As [`InvPtr::get`].
    #[inline]
    pub fn get_in(&self, holder: Window) -> Result<Option<&T>> {
        place_of(holder, self).map(|place| place.map(reference))
    }

    /// The same target as a pointer that may be copied and kept anywhere.
    ///
    /// # Errors
    /// As [`InvPtr::resolve`].
    pub fn global(&self) -> Result<GlobalPtr<T>> {
        GlobalPtr::to(self.resolve()?)
    }
}

/// The `T` at `pointer` as stored in `holder`, with bounds and alignment checked. Offset 0 of another object is its root.
///
/// # Errors
/// [`Error::BadPointer`], and what [`translate::lea`] says.
#[inline]
pub fn at<'a, T: Invariant>(holder: Window, pointer: PersistentPtr) -> Result<&'a T> {
    let address = translate::lea(holder, pointer)?;
    target::<T>(holder, pointer, address & !SLOT_MASK).map(reference)
}

/// What the persistent pointer that stands in a word of the object at `holder` leads to: [`at`] for programs with links of their own.
///
/// # Errors
/// As [`at`].
#[inline(always)]
pub fn follow<'a, T: Invariant>(holder: Window, place: &AtomicU64) -> Result<Option<&'a T>> {
    let (pointer, base) = translate::base_at(holder, place);
    if pointer.is_null() { Ok(None) } else { target::<T>(holder, pointer, base?).map(reference).map(Some) }
}

/// The `T` at an address in an object, with bounds and alignment checked.
///
/// # Errors
/// [`Error::NotInObject`], [`Error::BadPointer`].
pub(crate) fn at_address<'a, T: Invariant>(address: usize) -> Result<&'a T> {
    let (window, offset) = translate::split(address)?;
    at(window, PersistentPtr::new(0, offset))
}

/// Where the pointer that stands in the object at `holder` leads: window and offset of a `T`, `None` for null.
#[inline(always)]
pub(crate) fn place_of<T: Invariant>(holder: Window, place: &InvPtr<T>) -> Result<Option<(Window, usize)>> {
    let (pointer, base) = translate::base_at(holder, &place.raw);
    if pointer.is_null() { Ok(None) } else { target::<T>(holder, pointer, base?).map(Some) }
}

/// Window and offset of the `T` that `pointer` leads to in the slot at `base`, after checking bounds and alignment.
#[inline(always)]
fn target<T: Invariant>(holder: Window, pointer: PersistentPtr, base: usize) -> Result<(Window, usize)> {
    #[allow(clippy::cast_possible_truncation, reason = "2^12")]
    const FIRST: usize = DATA_OFFSET as usize;
    let offset = pointer.offset() as usize;
    // One unsigned compare: page 0 wraps around to a large number.
    let in_bounds = offset.wrapping_sub(FIRST) <= SLOT_MASK + 1 - FIRST - size_of::<T>();
    if !in_bounds || offset & (align_of::<T>() - 1) != 0 {
        return at_root::<T>(holder, pointer);
    }
    Ok((Window::at_base(base), offset))
}

/// What [`target`] found, as a reference.
#[inline(always)]
fn reference<'a, T: Invariant>((window, offset): (Window, usize)) -> &'a T {
    // SAFETY: T2: the window is a slot of ours; `target` checked bounds and alignment; any bits are a T (Invariant),
    // which programs change through interior mutability only. Slots stay mapped (`view::unmap` is unsafe).
    unsafe { &*((window.base() + offset) as *const T) }
}

/// A pointer with an FOT index and offset 0 leads to the target's root, wherever that stands: for targets that are not known
/// when the pointer is made (names).
#[cold]
#[inline(never)]
fn at_root<T: Invariant>(holder: Window, pointer: PersistentPtr) -> Result<(Window, usize)> {
    if pointer.offset() != 0 || pointer.index() == 0 {
        return Err(leads_nowhere(holder, pointer));
    }
    let object = Window::around(translate::lea_foreign(holder, pointer)?)?;
    target::<T>(object, PersistentPtr::new(0, crate::object::root_offset(object)?), object.base())
}

#[cold]
#[inline(never)]
fn leads_nowhere(holder: Window, pointer: PersistentPtr) -> Error {
    Error::BadPointer {
        object: view::id_at(holder.base()),
        pointer,
        expected: "an aligned offset between the first page and the end of the object",
    }
}

/// A pointer by object ID: means the same everywhere, may be copied, is three times as large.
#[repr(C)]
pub struct GlobalPtr<T> {
    id: ObjectId,
    offset: u64,
    to: PhantomData<fn() -> T>,
}

// SAFETY: an ID and a number, no padding (asserted below); where it leads is checked at each use.
unsafe impl<T: Invariant> Invariant for GlobalPtr<T> {
    const FINGERPRINT: u64 = mix(mix_text(SEED, "GlobalPtr"), T::SHALLOW);
    const SHALLOW: u64 = mix_text(SEED, "GlobalPtr");
}
const _: () = assert!(size_of::<GlobalPtr<u64>>() == 24);

impl<T> Clone for GlobalPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for GlobalPtr<T> {}

impl<T> fmt::Debug for GlobalPtr<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GlobalPtr({}+{:#x})", self.id, self.offset)
    }
}

impl<T> PartialEq for GlobalPtr<T> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.offset == other.offset
    }
}
impl<T> Eq for GlobalPtr<T> {}

impl<T> GlobalPtr<T> {
    /// A pointer to `offset` bytes into `id`.
    #[must_use]
    pub const fn new(id: ObjectId, offset: u32) -> Self {
        Self { id, offset: offset as u64, to: PhantomData }
    }

    /// The object.
    #[must_use]
    pub const fn id(&self) -> ObjectId {
        self.id
    }

    /// Bytes from its start.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The pointer to a value in a mapped object.
    ///
    /// # Errors
    /// [`Error::NotInObject`].
    pub fn to(value: &T) -> Result<Self> {
        let (window, offset) = translate::split(core::ptr::from_ref(value).addr())?;
        Ok(Self::new(view::what_is_at(window)?.0, offset))
    }
}

impl<T: Invariant> GlobalPtr<T> {
    /// Maps the object with `rights` if need be, recovers it if a power failure cut off a change, and returns what is there.
    ///
    /// # Errors
    /// [`Error::BadPointer`], what mapping and recovery say, [`Error::Unrecovered`].
    pub fn resolve<'a>(&self, rights: Rights) -> Result<&'a T> {
        let window = view::map_recovered(self.id, rights)?;
        let offset = u32::try_from(self.offset).unwrap_or(u32::MAX);
        at(window, PersistentPtr::new(0, offset))
    }
}
