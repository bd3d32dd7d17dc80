//! Objects as programs hold them: [`ObjectBuilder`] makes one, [`Object`] is a mapped one with a typed root.
//!
//! ```text
//! page 0      never mapped
//! colour      up to 516 KiB left out, by ID: the first bytes of all objects would share cache sets and TLB sets
//! root        T
//! log         LogHeader and the first chunk (tx/log/mod.rs)
//! arena       ArenaHeader, then blocks up (arena.rs) – and log chunks down from DATA_END
//! FOT, metadata page (twz-abi)
//! ```
//! # Contract
//! - **O1** an object is complete before anything leads to it: the magic number is stored last, after the rest is
//!   durable. An object without it was cut off while being built and cannot be opened.
//! - Opening checks magic, version, offsets and the type's fingerprint, and recovers what a power failure cut off. So does following a pointer to an
//!   object that this program has not used yet.
//! - A handle stays usable for the program's life; handles are copies of an address, and dropping one costs nothing.

use crate::arena::{self, Arena, Census};
use crate::cell::PCell;
use crate::error::{Error, Result};
use crate::invariant::{Invariant, fingerprint};
use crate::persist::{self, LINE};
use crate::ptr::GlobalPtr;
use crate::simulate;
use crate::sys::{CreateSpec, Platform, Seam, Stat};
use crate::tx::{self, LOG_HEADER_BYTES, Log, Tx};
use crate::view;
use crate::window::{SLOT_MASK, Window};
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;
use core::mem::offset_of;
use core::ops::Deref;
use core::sync::atomic::Ordering;
use twz_abi::object::{DATA_END, DATA_OFFSET, META_MAGIC, META_OFFSET, META_VERSION, ObjectMeta};
use twz_abi::{ObjectId, Rights};

/// Read and write.
const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);
/// Bytes of the log's first chunk, unless the builder says otherwise.
const LOG_BYTES: usize = 8 << 10;
/// Pages by which contents are moved, by object: as many as a second-level TLB has sets.
const COLOUR_PAGES: usize = 128;
/// Where the metadata begins.
#[allow(clippy::cast_possible_truncation, reason = "below 1 GiB")]
pub(crate) const META: usize = META_OFFSET as usize;
#[allow(clippy::cast_possible_truncation, reason = "below 1 GiB")]
const FIRST: usize = DATA_OFFSET as usize;
/// Where data ends.
#[allow(clippy::cast_possible_truncation, reason = "below 1 GiB")]
pub(crate) const END: usize = DATA_END as usize;

/// What a new object is to be; start with [`ObjectBuilder::new`].
#[derive(Clone, Copy, Debug)]
pub struct ObjectBuilder<T> {
    spec: CreateSpec,
    data_bytes: usize,
    log_bytes: usize,
    log_most: usize,
    coloured: bool,
    /// Where blocks begin is a multiple of this.
    block_align: usize,
    root: PhantomData<fn() -> T>,
}

impl<T: Invariant> Default for ObjectBuilder<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Invariant> ObjectBuilder<T> {
    /// An object of up to 1 GiB that only its creator's context reaches.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            spec: CreateSpec {
                default_rights: Rights::empty(),
                key: ObjectId::NULL,
                volatile: false,
                bytes: 0,
            },
            data_bytes: END,
            log_bytes: LOG_BYTES,
            log_most: 0,
            coloured: true,
            block_align: LINE,
            root: PhantomData,
        }
    }

    /// Rights of everybody, without a capability.
    #[must_use]
    pub const fn default_rights(mut self, rights: Rights) -> Self {
        self.spec.default_rights = rights;
        self
    }

    /// The object with the key that signs capabilities for this one.
    #[must_use]
    pub const fn key(mut self, key: ObjectId) -> Self {
        self.spec.key = key;
        self
    }

    /// The object is gone after the machine's next start, or the pool's next opening.
    #[must_use]
    pub const fn volatile(mut self) -> Self {
        self.spec.volatile = true;
        self
    }

    pub(crate) const fn is_volatile(&self) -> bool {
        self.spec.volatile
    }

    /// Room in the pool for the object's first `bytes` at once: it is there, or [`ObjectBuilder::build`] fails, and no store to them meets a full
    /// pool. For at most 1 GiB.
    #[must_use]
    pub const fn reserve(mut self, bytes: u64) -> Self {
        self.spec.bytes = bytes;
        self
    }

    /// At most so many bytes for blocks in this object; more go to a chained one.
    #[must_use]
    pub const fn data_bytes(mut self, bytes: usize) -> Self {
        self.data_bytes = bytes;
        self
    }

    /// Bytes of the log that stand with the data (at least 64; 8 KiB if not said). It grows elsewhere when a transaction needs more.
    #[must_use]
    pub const fn log_bytes(mut self, bytes: usize) -> Self {
        self.log_bytes = bytes;
        self
    }

    /// Bytes that the rest of the log may take of this object, and of each other that it goes on in then; what there is room for if not said.
    #[must_use]
    pub const fn log_most(mut self, bytes: usize) -> Self {
        self.log_most = bytes;
        self
    }

    /// Contents start where all others' do: for measuring what colouring is worth.
    #[must_use]
    pub const fn uncoloured(mut self) -> Self {
        self.coloured = false;
        self
    }

    /// Creates the object with `root` in it.
    ///
    /// # Errors
    /// [`Error::OutOfSpace`], [`Error::OutOfSlots`], [`Error::TooLarge`].
    pub fn build(self, root: T) -> Result<Object<T>> {
        Platform::start()?;
        let id = Platform::create(&self.spec)?;
        self.fill(id, root).inspect_err(|_| {
            // Nobody knows the object yet; that it cannot be deleted either is the lesser error.
            let _ = Platform::delete(id);
        })
    }

    fn fill(self, id: ObjectId, root: T) -> Result<Object<T>> {
        let window = view::map(id, READ_WRITE)?;
        let log_bytes = self.log_bytes.clamp(LINE, END / 4).next_multiple_of(LINE) + LOG_HEADER_BYTES;
        let colour = if self.coloured { colour(id) } else { 0 };
        let place = Layout::of::<T>(colour, log_bytes, self.block_align)?;
        tx::room::of_new(id, place.root, place.blocks)?;
        let address = window.base() + place.root;
        // SAFETY: a new object, so nobody else's memory; the layout keeps root and its alignment inside the data.
        unsafe { (address as *mut T).write(root) };
        simulate::stored(address, size_of::<T>());
        window.flush(place.root, size_of::<T>());
        Log::format(window, place.log, log_bytes, self.log_most, tx::room::new_mark(place.blocks));
        let limit = place.blocks.saturating_add(self.data_bytes).min(END);
        Arena::format(window, place.arena, place.blocks, limit);
        let meta = |offset: usize, value: u64| window.store(META + offset, value);
        meta(offset_of!(ObjectMeta, type_fingerprint), fingerprint::<T>());
        meta(offset_of!(ObjectMeta, log_offset), place.log as u64);
        meta(offset_of!(ObjectMeta, arena_offset), place.arena as u64);
        meta(offset_of!(ObjectMeta, root_offset), place.root as u64);
        meta(offset_of!(ObjectMeta, version), u64::from(META_VERSION) | 1 << 32); // version, fot_len
        window.flush(META, size_of::<ObjectMeta>());
        persist::fence();
        window.store_release(META, META_MAGIC); // commit point (O1)
        window.flush(META, 8);
        persist::fence();
        Ok(Object { window, address, id, rights: READ_WRITE, root: PhantomData })
    }
}

/// Where things go in a new object.
struct Layout {
    root: usize,
    log: usize,
    arena: usize,
    blocks: usize,
}

impl Layout {
    fn of<T>(colour: usize, log_bytes: usize, block_align: usize) -> Result<Self> {
        let too_large = Error::TooLarge { bytes: size_of::<T>() as u64 };
        if align_of::<T>() > arena::MAX_ALIGN || size_of::<T>() > END / 2 {
            return Err(too_large);
        }
        let root = (FIRST + colour).next_multiple_of(align_of::<T>());
        let log = (root + size_of::<T>()).next_multiple_of(LINE);
        let arena = log + log_bytes;
        let blocks = (arena + arena::HEADER_BYTES).next_multiple_of(block_align);
        Ok(Self { root, log, arena, blocks })
    }
}

/// How far an object's contents are moved, in bytes: by pages for the TLB and by lines for the cache.
fn colour(id: ObjectId) -> usize {
    #[allow(clippy::cast_possible_truncation, reason = "any bits do")]
    let bits = (id.lo ^ id.hi) as usize;
    (bits % COLOUR_PAGES) * 4096 + (bits / COLOUR_PAGES % LINE) * LINE
}

/// The root of an object that takes what does not fit into another.
#[derive(Invariant)]
#[repr(C)]
struct Overflow {
    /// That other one: what claims to be chained to an object is deleted with it only if it says so itself.
    of: PCell<ObjectId>,
}

/// An object for what does not fit into `full`, for those who may use that. It is volatile until somebody ties it.
pub(crate) fn create_overflow(full: ObjectId, data_bytes: usize) -> Result<ObjectId> {
    let Stat { default_rights, key, .. } = Platform::stat(full)?;
    let builder = ObjectBuilder::new().default_rights(default_rights).key(key).data_bytes(data_bytes);
    // Whatever needs alignment fits from the first byte on: no other object would have more room for it.
    let builder = ObjectBuilder { block_align: arena::MAX_ALIGN, ..builder };
    builder.volatile().build(Overflow { of: PCell::new(full) }).map(|object| object.id())
}

/// Whether the object `next` at `window` says that it is for what does not fit into `full`.
pub(crate) fn continues(full: ObjectId, next: ObjectId, window: Window) -> bool {
    root_at::<Overflow>(next, window).is_ok_and(|root| root.of.get() == full)
}

/// The objects chained to the one at `window`, nearest first; those before the first that is not what it should be.
fn chained(id: ObjectId, window: Window) -> Vec<ObjectId> {
    let mut found = pieces_of(window);
    let (mut full, mut at) = (id, window);
    while let Ok(next) = overflow_of(at) {
        // As it stands: what is half changed in it goes with it.
        let Ok(window) = view::map(next, Rights::READ) else { break };
        if !continues(full, next, window) || found.contains(&next) {
            break;
        }
        found.push(next);
        found.extend(pieces_of(window));
        (full, at) = (next, window);
    }
    found
}

/// The objects that the log of the one at `window` has gone on in.
fn pieces_of(window: Window) -> Vec<ObjectId> {
    log_of(window).map_or_else(|_| Vec::new(), |(log, _)| log.pieces().collect())
}

fn overflow_of(window: Window) -> Result<ObjectId> {
    Ok(Arena::open(window, log_of(window)?.1)?.next())
}

/// Deletes an object by its ID, whatever its type, and forgets what this program knew of it. Unlike [`Object::delete`] it recovers nothing before:
/// what was under way in others and is recorded in this object stays undecided. For whoever made all objects concerned and deletes them all.
///
/// # Safety
/// No reference into it may be used any more.
///
/// # Errors
/// [`Error::NoSuchObject`], [`Error::Platform`].
pub unsafe fn discard(id: ObjectId) -> Result<()> {
    let result = Platform::delete(id);
    if matches!(result, Ok(()) | Err(Error::NoSuchObject(_))) {
        // SAFETY: the caller's promise.
        unsafe { view::unmap(id) };
        crate::fot::forget_table(id);
    }
    result
}

/// The log of the object at `window`, and where its arena is.
#[inline(always)]
pub(crate) fn log_of(window: Window) -> Result<(Log, u64)> {
    if window.word(META).load(Ordering::Acquire) != META_MAGIC {
        return Err(not_ours(window));
    }
    let log = Log::open(window, window.load(META + offset_of!(ObjectMeta, log_offset)))?;
    Ok((log, window.load(META + offset_of!(ObjectMeta, arena_offset))))
}

/// Whether the object at `window` is one of `libtwz`'s that transactions change.
#[inline]
pub(crate) fn has_log(window: Window) -> bool {
    let is_ours = window.word(META).load(Ordering::Acquire) == META_MAGIC;
    is_ours && window.load(META + offset_of!(ObjectMeta, log_offset)) != 0
}

/// Where the root of the object at `window` stands.
///
/// # Errors
/// [`Error::Damaged`].
pub(crate) fn root_offset(window: Window) -> Result<u32> {
    if window.word(META).load(Ordering::Acquire) != META_MAGIC {
        return Err(not_ours(window));
    }
    match u32::try_from(window.load(META + offset_of!(ObjectMeta, root_offset))) {
        Ok(0) => Ok(u32::try_from(FIRST).unwrap_or(u32::MAX)),
        Ok(root) if (root as usize) < END => Ok(root),
        _ => Err(not_ours(window)),
    }
}

#[cold]
fn not_ours(window: Window) -> Error {
    #[allow(clippy::cast_possible_truncation, reason = "below 1 GiB")]
    Error::Damaged {
        object: view::id_at(window.base()),
        offset: META as u32,
        expected: "the magic number of an object",
    }
}

/// Where the root of an object stands that holds a `T`, after checking what its metadata says.
fn checked_root<T: Invariant>(id: ObjectId, window: Window) -> Result<usize> {
    let damaged = |offset: usize, expected| {
        #[allow(clippy::cast_possible_truncation, reason = "below 1 GiB")]
        Error::Damaged { object: id, offset: (META + offset) as u32, expected }
    };
    if window.word(META).load(Ordering::Acquire) != META_MAGIC {
        return Err(damaged(0, "the magic number of an object"));
    }
    let field = |offset: usize| window.load(META + offset);
    #[allow(clippy::cast_possible_truncation, reason = "the low half is the version")]
    if field(offset_of!(ObjectMeta, version)) as u32 != META_VERSION {
        return Err(damaged(offset_of!(ObjectMeta, version), "a known version"));
    }
    let (expected, found) = (fingerprint::<T>(), field(offset_of!(ObjectMeta, type_fingerprint)));
    if expected != found {
        return Err(Error::WrongType { object: id, expected, found });
    }
    let root = match usize::try_from(field(offset_of!(ObjectMeta, root_offset))).unwrap_or(usize::MAX) {
        0 => FIRST,
        root => root,
    };
    let fits = (FIRST..=END).contains(&root) && END - root >= size_of::<T>() && root % align_of::<T>() == 0;
    if !fits {
        return Err(damaged(offset_of!(ObjectMeta, root_offset), "a root inside the data"));
    }
    Ok(root)
}

/// The root of an object that holds a `T`, which is not recovered.
///
/// # Errors
/// [`Error::WrongType`], [`Error::Damaged`].
pub(crate) fn root_at<T: Invariant>(id: ObjectId, window: Window) -> Result<&'static T> {
    let root = checked_root::<T>(id, window)?;
    crate::ptr::at_address(window.base() + root)
}

/// A mapped object whose root is a `T`; dereferences to it.
pub struct Object<T> {
    window: Window,
    /// Of the root.
    address: usize,
    id: ObjectId,
    rights: Rights,
    root: PhantomData<fn() -> T>,
}

impl<T> Clone for Object<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Object<T> {}

impl<T> fmt::Debug for Object<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({}, {:?}, at {:#x})", self.id, self.rights, self.window.base())
    }
}

impl<T: Invariant> Deref for Object<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: `open` and `build` checked that the root lies inside the data and is aligned; any bits are a T, which
        // changes by interior mutability only; the slot stays mapped (`view::unmap` is unsafe).
        unsafe { &*(self.address as *const T) }
    }
}

impl<T: Invariant> Object<T> {
    /// Opens an object for reading and writing.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::WrongType`], [`Error::Damaged`], what recovery says.
    pub fn open(id: ObjectId) -> Result<Self> {
        Self::open_with(id, READ_WRITE)
    }

    /// Opens an object with `rights`, reading among them: whoever opens an object reads what it says of itself. If a power failure cut off
    /// a change, this program's context must have the right to write it, whatever is asked for here.
    ///
    /// # Errors
    /// As [`Object::open`]; [`Error::NotPermitted`] when `rights` are more than it has, or do not include reading; [`Error::Unrecovered`].
    pub fn open_with(id: ObjectId, rights: Rights) -> Result<Self> {
        if !rights.contains(Rights::READ) {
            return Err(Error::NotPermitted(id));
        }
        let window = view::map(id, rights)?;
        view::bind(window, rights & READ_WRITE)?;
        let root = checked_root::<T>(id, window)?;
        tx::recover_to_read(id, window, rights)?;
        Ok(Self { window, address: window.base() + root, id, rights, root: PhantomData })
    }

    /// The root; the same as dereferencing, for `let root = object.base();` with the handle's lifetime.
    #[inline]
    #[must_use]
    pub fn base(&self) -> &T {
        self
    }

    /// A pointer to the root by ID.
    #[must_use]
    pub fn global(&self) -> GlobalPtr<T> {
        #[allow(clippy::cast_possible_truncation, reason = "masked to 30 bits")]
        GlobalPtr::new(self.id, (self.address & SLOT_MASK) as u32)
    }

    /// Runs `body` in a transaction whose home is this object; commits when it returns `Ok`.
    ///
    /// # Errors
    /// What `body` or the transaction says; nothing has changed then.
    #[inline]
    pub fn tx<R>(&self, body: impl FnOnce(&Tx) -> Result<R>) -> Result<R> {
        Tx::run(self.window, body)
    }

    /// Begins a transaction by hand.
    ///
    /// # Errors
    /// As [`Tx::start`].
    pub fn begin(&self) -> Result<TxObject<T>> {
        Ok(TxObject { object: *self, tx: Tx::start(self.window)? })
    }

    /// A copy with an ID of its own; contents are shared until written where the platform can. It is taken between two transactions: by a
    /// handle that may write, under the object's lock.
    ///
    /// # Errors
    /// [`Error::OutOfSpace`]; [`Error::Chained`]; [`Error::Busy`] from inside a transaction of the object, and, by a handle that may only
    /// read, while one runs.
    pub fn copy(&self, default_rights: Rights) -> Result<Self> {
        let spec = CreateSpec { default_rights, key: ObjectId::NULL, volatile: false, bytes: 0 };
        let take = || {
            if !self.overflow()?.is_null() {
                return Err(Error::Chained(self.id)); // both would use the same one
            }
            Platform::copy(self.id, &spec)
        };
        let id = if self.rights.contains(Rights::WRITE) {
            tx::while_quiet(self.window, take)?
        } else {
            let (log, _) = log_of(self.window)?;
            let before = tx::settled_state(&log);
            let id = take()?;
            if before.is_none() || tx::settled_state(&log) != before {
                Platform::delete(id)?;
                return Err(Error::Busy(self.id));
            }
            id
        };
        // The copied lock says what the original's said; a free one of no boot has the copy recovered when it is opened.
        let opened = view::map(id, READ_WRITE).and_then(|window| {
            let (log, _) = log_of(window)?;
            window.store(log.lock_at(), 0);
            log.forget_pieces();
            Self::open(id)
        });
        opened.inspect_err(|_| {
            // Nobody knows the copy; that it cannot be deleted either is the lesser error.
            let _ = Platform::delete(id);
        })
    }
}

impl<T> Object<T> {
    /// The object's ID.
    #[must_use]
    pub const fn id(&self) -> ObjectId {
        self.id
    }

    /// Where it is mapped.
    #[inline]
    #[must_use]
    pub const fn window(&self) -> Window {
        self.window
    }

    /// The rights that it was opened with.
    #[must_use]
    pub const fn rights(&self) -> Rights {
        self.rights
    }

    /// Makes this object live at least as long as `keeper`, which this context may write; so a volatile one stays while that does. It cannot be
    /// undone.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::NotPermitted`], [`Error::OutOfSpace`].
    pub fn tie(&self, keeper: ObjectId) -> Result<()> {
        Platform::tie(self.id, keeper)
    }

    /// Makes a volatile object stay, durably.
    ///
    /// # Errors
    /// As [`Object::tie`].
    pub fn keep(&self) -> Result<()> {
        Platform::keep(self.id)
    }

    /// What the platform knows about it.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`].
    pub fn stat(&self) -> Result<Stat> {
        Platform::stat(self.id)
    }

    /// How the bytes of its arena are used.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn census(&self) -> Result<Census> {
        Arena::open(self.window, log_of(self.window)?.1)?.census()
    }

    /// The object that takes what does not fit here; NULL for none.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn overflow(&self) -> Result<ObjectId> {
        let next = overflow_of(self.window)?;
        let is_gone = !next.is_null() && matches!(Platform::stat(next), Err(Error::NoSuchObject(_)));
        Ok(if is_gone { ObjectId::NULL } else { next })
    }

    /// Deletes the object, and those chained to it. Addresses in them fault from now on, in every program. Chained ones live as long as it, so
    /// a power failure leaves all or none.
    ///
    /// # Safety
    /// No reference into them may be used any more.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::Platform`]: the first; all that can be deleted are. What recovery says, if that was still to do.
    pub unsafe fn delete(self) -> Result<()> {
        tx::recover_before_delete(self.id)?;
        Platform::stat(self.id)?; // it is there to be read
        let chained = chained(self.id, self.window);
        // SAFETY: the caller's promise.
        unsafe { discard(self.id) }?;
        let mut result = Ok(());
        for id in chained {
            // SAFETY: as above.
            let gone = unsafe { discard(id) };
            // Nothing but the first kept it.
            result = result.and(if gone == Err(Error::NoSuchObject(id)) { Ok(()) } else { gone });
        }
        result
    }
}

/// An object inside a transaction that was begun by hand; undone when dropped without [`TxObject::commit`].
#[derive(Debug)]
pub struct TxObject<T> {
    object: Object<T>,
    tx: Tx,
}

impl<T> Deref for TxObject<T> {
    type Target = Tx;
    fn deref(&self) -> &Tx {
        &self.tx
    }
}

impl<T: Invariant> TxObject<T> {
    /// The object's root.
    #[must_use]
    pub fn base(&self) -> &T {
        &self.object
    }

    /// Makes everything durable and final.
    ///
    /// # Errors
    /// As [`Tx::end`].
    pub fn commit(self) -> Result<Object<T>> {
        self.tx.end()?;
        Ok(self.object)
    }

    /// Puts everything back.
    pub fn abort(self) -> Object<T> {
        self.tx.abort();
        self.object
    }
}
