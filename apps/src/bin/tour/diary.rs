//! Step 1, objects: data lives in them and stays where it is.

use crate::{Said, step, text};
use libtwz::prelude::*;
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::syscall;

/// What the tour keeps. A plain struct, in the form in which programs use it: there is no other.
#[derive(Debug, Invariant)]
#[repr(C)]
pub(crate) struct Diary {
    /// Tours begun.
    pub(crate) tours: PCell<u64>,
    /// When the last one began, in nanoseconds since 1970.
    pub(crate) began: PCell<u64>,
    /// Two accounts: what one loses the other gets.
    pub(crate) left: PCell<u64>,
    /// The other one.
    pub(crate) right: PCell<u64>,
    /// 1 while the tour cuts the power in the middle of a transfer.
    pub(crate) cut: PCell<u64>,
    /// A note in another object.
    pub(crate) note: InvPtr<Note>,
}

/// What stands in the other object.
#[derive(Debug, Invariant)]
#[repr(C)]
pub(crate) struct Note {
    /// The tour that wrote it.
    pub(crate) tour: PCell<u64>,
}

/// In both accounts together, always.
pub(crate) const TOTAL: u64 = 1000;

/// Opens the diary, or makes it.
pub(crate) fn open() -> Said<Object<Diary>> {
    step(1, "Objects: data lives in memory that stays");
    let new = || Diary {
        tours: PCell::new(0),
        began: PCell::new(0),
        left: PCell::new(TOTAL),
        right: PCell::new(0),
        cut: PCell::new(0),
        note: InvPtr::null(),
    };
    let diary = Object::<Diary>::named("tour", new).map_err(text)?;
    let (before, last, now) = (diary.tours.get(), diary.began.get(), syscall::clock().map_err(text)?.1);
    diary
        .tx(|tx| {
            tx.put(&diary.tours, before + 1)?;
            tx.put(&diary.began, now)
        })
        .map_err(text)?;
    println!("   The diary is object {}", diary.id());
    println!("   mapped at {:#x}, a slot of 1 GiB in this program's view.", diary.window().base());
    println!("   No file was opened, nothing was parsed: a load says {} tours before this one.", before);
    match before {
        0 => println!("   It is the first one on this pool. Run it again to see what stays."),
        _ => println!(
            "   The last one began {} s ago, in a machine that is gone; its stores are still here.",
            now.saturating_sub(last) / 1_000_000_000
        ),
    }
    debug_assert!((diary.window().base() as u64).is_multiple_of(SLOT_SIZE), "a slot's start");
    Ok(diary)
}
