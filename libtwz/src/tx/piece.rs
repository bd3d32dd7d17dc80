//! Pieces of a log in objects of their own, for transactions that need more than their object has room for.
//!
//! ```text
//! Piece (root of its object)
//!   +0   of      ID of the object whose log it is a piece of
//!   +16  next    ID of the object with the next piece (link.rs); low half 0: none
//!   +32  number  1 for the piece that the log's header leads to, and so on
//!   +40  bytes   of batches, which begin at 2 MiB
//! ```
//! # Contract
//! - A piece is linked, then tied, then used (**X3**): a batch stands in it only when it lasts as long as the log does.
//! - Nothing is taken for a piece that does not say itself whose it is, and which: so a copy of an object has no part in the original's log,
//!   and links that lead in a circle end.
//! - Pieces stay for later; what a transaction used of them is given back when it has ended ([`trim`]).

use super::link::Link;
use crate::cell::PCell;
use crate::error::{Error, Result};
use crate::invariant::Invariant;
use crate::object::{self, ObjectBuilder};
use crate::sys::{Platform, Seam, Stat};
use crate::view;
use crate::window::Window;
use core::mem::offset_of;
use twz_abi::object::DATA_END;
use twz_abi::{ObjectId, Rights};

const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);
/// What is trimmed begins and ends at multiples of this, whatever the pool's granule is.
const UNIT: usize = 2 << 20;
/// Where batches begin: behind whatever else stands in an object.
pub(super) const START: usize = UNIT;
/// Most bytes of batches.
#[allow(clippy::cast_possible_truncation, reason = "below 1 GiB")]
pub(super) const MOST: usize = (DATA_END as usize - START) / UNIT * UNIT;

/// The root of a piece's object.
#[derive(Invariant)]
#[repr(C)]
pub(crate) struct Piece {
    of: PCell<ObjectId>,
    next: PCell<ObjectId>,
    number: PCell<u64>,
    bytes: PCell<u64>,
}

/// A link to a piece: where it stands, and what must be there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) from: Window,
    pub(super) at: usize,
    /// The object whose log it is.
    pub(super) of: ObjectId,
    pub(super) number: u32,
}

impl Place {
    /// Window and bytes of the piece, if there is one.
    ///
    /// # Errors
    /// Whatever keeps this program from an object that is there.
    pub(super) fn find(&self) -> Result<Option<(Window, usize)>> {
        let id = Link::read(self.from, self.at);
        if id.is_null() {
            return Ok(None);
        }
        match Platform::stat(id) {
            Ok(stat) if stat.granted.contains(READ_WRITE) => {}
            Ok(_) => return Err(Error::NotPermitted(id)),
            Err(Error::NoSuchObject(_)) => return Ok(None), // the power failed before it was tied
            Err(error) => return Err(error),
        }
        let window = view::map(id, READ_WRITE)?;
        let Ok(root) = object::root_at::<Piece>(id, window) else { return Ok(None) };
        let bytes = usize::try_from(root.bytes.get()).unwrap_or(usize::MAX);
        let is_it = root.of.get() == self.of && root.number.get() == u64::from(self.number) && bytes <= MOST;
        Ok(is_it.then_some((window, bytes)))
    }

    /// The piece, made if there is none.
    ///
    /// # Errors
    /// [`Error::OutOfSpace`]; as [`Place::find`].
    pub(super) fn find_or_make(&self, bytes: usize) -> Result<(Window, usize)> {
        if let Some(found) = self.find()? {
            return Ok(found);
        }
        let Stat { default_rights, key, .. } = Platform::stat(self.of)?;
        let builder = ObjectBuilder::new().volatile().default_rights(default_rights).key(key);
        let piece = Piece {
            of: PCell::new(self.of),
            next: PCell::new(ObjectId::NULL),
            number: PCell::new(u64::from(self.number)),
            bytes: PCell::new(bytes as u64),
        };
        let made = builder.data_bytes(0).log_bytes(0).build(piece)?;
        let link = Link { from: self.from, at: self.at, to: made.id() };
        link.store();
        link.tie().inspect_err(|_| {
            link.cut();
            // SAFETY: nothing leads to it, and nothing was in it; that it cannot be deleted is the lesser error.
            let _ = unsafe { object::discard(made.id()) };
        })?;
        Ok((made.window(), bytes))
    }

    /// Where the link to the piece after the one in `window` stands.
    pub(super) fn after(&self, window: Window) -> Option<Self> {
        let root = object::root_offset(window).ok()? as usize;
        let at = root + offset_of!(Piece, next);
        Some(Self { from: window, at, number: self.number.checked_add(1)?, ..*self })
    }

    /// The objects of this piece and those after it.
    pub(super) fn all(self) -> impl Iterator<Item = (ObjectId, Window, usize)> {
        let mut place = Some(self);
        core::iter::from_fn(move || {
            let here = place?;
            let (window, bytes) = here.find().ok()??;
            place = here.after(window);
            Some((view::id_at(window.base()), window, bytes))
        })
    }
}

/// Where the batches of the piece in `window` end.
///
/// # Errors
/// [`Error::WrongType`], [`Error::Damaged`].
pub(super) fn end(window: Window) -> Result<usize> {
    let root = object::root_at::<Piece>(view::id_at(window.base()), window)?;
    Ok(START + usize::try_from(root.bytes.get()).unwrap_or(MOST).min(MOST))
}

/// Gives back the storage of a range of an object in which only batches stood that are void.
pub(super) fn trim(id: ObjectId, start: usize, end: usize) {
    let (start, end) = (start.next_multiple_of(UNIT), end / UNIT * UNIT);
    if start < end {
        // SAFETY: void batches are read by nobody. What cannot be given back is used again by the next large transaction.
        let _ = unsafe { Platform::trim(id, start as u64..end as u64) };
    }
}
