//! A program in a context of its own on objects of another one's: a right that it has not is an error where the object is mapped or opened, and not
//! the program's end.

use alloc::format;
use apps::launch::{self, Home};
use libtwz::prelude::*;

const RW: Rights = Rights::READ.union(Rights::WRITE);
/// What the second program ends with when all was as it should be.
const GOOD: u8 = 7;

#[derive(Invariant)]
#[repr(C)]
struct Holder {
    to_read_only: InvPtr<PCell<u64>>,
    to_closed: InvPtr<PCell<u64>>,
}

/// The first program's part: the objects, and the other program.
pub(crate) fn first() -> Result<()> {
    let build = |rights| ObjectBuilder::new().default_rights(rights).build(PCell::new(5_u64));
    let (closed, read_only, open) = (build(Rights::empty())?, build(Rights::READ)?, build(RW)?);
    // The log says what stands there: who may only read needs nobody to recover it.
    read_only.tx(|tx| tx.put(&read_only, 6))?;
    let holder = ObjectBuilder::new()
        .default_rights(Rights::READ)
        .build(Holder { to_read_only: InvPtr::null(), to_closed: InvPtr::null() })?;
    holder.tx(|tx| {
        tx.point(&holder.to_read_only, Some(read_only.base()))?;
        tx.point(&holder.to_closed, Some(closed.base()))
    })?;
    let ids = [closed.id(), read_only.id(), open.id(), holder.id()].map(|id| format!("{:x}", id.as_u128()));
    let words: Vec<&str> =
        ["libtest", "no-rights"].into_iter().chain(ids.iter().map(String::as_str)).collect();
    let failed = |error| Error::Platform { operation: "start the second program", code: error as i32 };
    let home = Home::own("libtest").map_err(failed)?;
    // SAFETY: this program was loaded.
    let ours = unsafe { twz_rt::Args::current() };
    let ended = launch::start("libtest", &words, ours, &home).map_err(failed)?.wait();
    assert!(ended.fault.is_none() && ended.status == u32::from(GOOD), "{ended:?}");
    assert_eq!(open.base().get(), 8, "what it may change it has changed");
    println!("libtest: rights that a program has not are errors");
    Ok(())
}

/// The second program's part.
pub(crate) fn second(ids: &[String]) -> Result<u8> {
    let id = |i: usize| ids.get(i).and_then(|id| u128::from_str_radix(id, 16).ok()).map(ObjectId::from_u128);
    let [Some(closed), Some(read_only), Some(open), Some(holder)] = [0, 1, 2, 3].map(id) else {
        return Err(Error::BadName);
    };
    type Cell = Object<PCell<u64>>;
    for rights in [Rights::READ, RW] {
        assert_eq!(Cell::open_with(closed, rights).map(drop), Err(Error::NotPermitted(closed)));
    }
    assert_eq!(Cell::open(read_only).map(drop), Err(Error::NotPermitted(read_only)));
    assert_eq!(Cell::open_with(read_only, Rights::READ)?.get(), 6);
    let object = Cell::open(open)?;
    object.tx(|tx| tx.put(&object, 8))?;
    // What a pointer asks for is no more than a wish: reading works, and no right at all is an error.
    let holder = Object::<Holder>::open_with(holder, Rights::READ)?;
    assert_eq!(holder.to_read_only.resolve()?.get(), 6);
    assert_eq!(holder.to_closed.resolve().map(drop), Err(Error::NotPermitted(closed)));
    let global = libtwz::GlobalPtr::<PCell<u64>>::new(closed, 0x1000);
    assert_eq!(global.resolve(Rights::READ).map(drop), Err(Error::NotPermitted(closed)));
    Ok(GOOD)
}
