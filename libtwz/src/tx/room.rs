//! Room in the pool for what transactions store, had before anything is stored: a full pool is an error, never a fault.
//!
//! ```text
//! page 0   colour   root, log, arena, blocks …    mark        floor   log chunks   FOT, metadata
//!                   └──────── there ──────────────┘           └──────── there ─────────────────┘
//! ```
//! # Contract
//! - **S1** every page between the root's and the mark is there. The mark is a word of the log's header that counts in this boot only; at 0
//!   nobody has looked yet. It moves under the object's lock: up when the pages are had, down before pages are given back.
//! - So are the pages of log chunks from the floor on, of a piece's batches up to where its [`Position`](super::log::Position) ends, and of the
//!   table and the metadata.
//! - A block is below the mark before it is handed out, and what is recorded or put beyond it gets its pages first. The commit stores to nothing
//!   else, so it meets no full pool.
//! - Room is taken ahead, as much again as there is, from 32 KiB to 2 MiB; where the pool has not so much, what is needed.
//! - A *sparse* block is for a program that fills it in its own way, over time: below the mark, but only the pages that it shares with others are
//!   there. The arena's header says where the last one ends; what has holes from elsewhere is only filled behind it.
//! - Pages that are shared with a copy of the object are taken one by one when they are first stored to: there a full pool is a fault.

use super::log::Log;
use crate::error::Result;
use crate::object::{self, END, META};
use crate::sys::{Platform, Seam};
use crate::view;
use crate::window::{PAGE, SLOT, Window};
use core::ops::Range;
use twz_abi::ObjectId;

/// Least that is taken ahead.
const STEP_LEAST: usize = 32 << 10;
/// Most that is taken ahead, and a multiple of where it ends then: one entry of a page table can map so much.
const STEP_MOST: usize = 2 << 20;

/// Has the pages of a range in an object.
///
/// # Errors
/// [`crate::Error::OutOfSpace`] and what else [`Seam::reserve`] says.
pub(crate) fn have(id: ObjectId, range: Range<usize>) -> Result<()> {
    let (start, end) = (range.start / PAGE * PAGE, range.end.next_multiple_of(PAGE).min(SLOT));
    if start >= end { Ok(()) } else { Platform::reserve(id, start as u64..end as u64) }
}

/// Has the pages of a new object: those from `root` to `blocks`, and its metadata's.
///
/// # Errors
/// As [`have`].
pub(crate) fn of_new(id: ObjectId, root: usize, blocks: usize) -> Result<()> {
    have(id, root..blocks)?;
    have(id, META..SLOT)
}

/// Where the room ends that [`of_new`] made.
pub(crate) const fn new_mark(blocks: usize) -> usize {
    blocks.next_multiple_of(PAGE)
}

/// Has all pages that are in use, from the end of sparse blocks up to `top`, of an object that nobody has looked at in this boot: its contents
/// may have come with holes. Returns the mark.
///
/// # Errors
/// As [`have`].
#[cold]
pub(super) fn look(log: &Log, sparse: usize, top: usize) -> Result<usize> {
    let id = view::id_at(log.window.base());
    let mark = top.next_multiple_of(PAGE).min(SLOT);
    have(id, start(log).max(sparse)..mark)?;
    have(id, log.floor()..END)?;
    log.set_room(mark);
    Ok(mark)
}

/// Has the pages up to `end` and some ahead, no more than up to `limit` if that is enough. Returns the new mark.
///
/// # Errors
/// As [`have`].
#[cold]
pub(super) fn grow(log: &Log, end: usize, limit: usize) -> Result<usize> {
    let (id, mark) = (view::id_at(log.window.base()), log.room());
    let least = end.next_multiple_of(PAGE);
    let wanted = ahead(mark, mark.saturating_sub(start(log)), least).min(limit / PAGE * PAGE).max(least);
    let got = match have(id, mark..wanted) {
        Ok(()) => wanted,
        Err(_) if wanted > least => have(id, mark..least).map(|()| least)?,
        Err(error) => return Err(error),
    };
    log.set_room(got);
    Ok(got)
}

/// Has the pages up to `block` and the last one before its `end`, and none between. Returns the new mark.
///
/// # Errors
/// As [`have`].
#[cold]
pub(super) fn skip(log: &Log, block: usize, end: usize) -> Result<usize> {
    let (id, mark) = (view::id_at(log.window.base()), end.next_multiple_of(PAGE));
    have(id, log.room()..block)?;
    have(id, end / PAGE * PAGE..end)?;
    log.set_room(mark);
    Ok(mark)
}

/// Where room should end that ended at `mark`, with `used` bytes before, and is to end at `least` at least.
fn ahead(mark: usize, used: usize, least: usize) -> usize {
    match used.clamp(STEP_LEAST, STEP_MOST) {
        STEP_MOST => least.next_multiple_of(STEP_MOST),
        step => least.max(mark + step).next_multiple_of(PAGE),
    }
}

/// Has the pages of a piece from `end` to `least` at least, and some ahead, up to `last`. Returns where they end.
///
/// # Errors
/// As [`have`].
#[cold]
pub(super) fn of_piece(piece: Window, end: usize, least: usize, last: usize) -> Result<usize> {
    let id = view::id_at(piece.base());
    let wanted = least.next_multiple_of(STEP_MOST).min(last);
    match have(id, end..wanted) {
        Err(_) if least.next_multiple_of(PAGE) < wanted => {
            let least = least.next_multiple_of(PAGE);
            have(id, end..least).map(|()| least)
        }
        done => done.map(|()| wanted),
    }
}

/// Where the first page begins that is in use.
fn start(log: &Log) -> usize {
    let root = object::root_offset(log.window).map_or(usize::MAX, |root| root as usize);
    root.min(log.lock_at()) / PAGE * PAGE
}
