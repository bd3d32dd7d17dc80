//! Objects: copies, trimming, ties, deletion, rights.

use crate::{Mapped, Outcome, READ_WRITE, Test, check, failed, object, same};
use alloc::string::String;
use apps::probe;
use twz_rt::abi::fault::FaultCause;
use twz_rt::abi::object::{DATA_OFFSET, MAX_SIZE, META_OFFSET};
use twz_rt::abi::program::{PROGRAM_MAGIC, TEXT_SLOT};
use twz_rt::abi::syscall::{CopySpec, CreateSpec, create_flags};
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::abi::{ErrorCode, ObjectId, PAGE_SIZE, Rights};
use twz_rt::view::View;
use twz_rt::{fault, syscall};

pub(crate) const TESTS: &[Test] = &[
    ("object-copy-on-write", copy_on_write),
    ("object-copy-range", copy_range),
    ("object-copy-often", copy_often),
    ("object-trim", trim),
    ("object-changed-under-calls", calls_after_changes),
    ("object-tie", tie),
    ("object-delete", delete),
    ("object-late-rights", late_rights),
    ("object-bad-arguments", bad_arguments),
    ("object-ends", ends),
];

/// Words in a page.
const PAGE_WORDS: u64 = PAGE_SIZE / 8;
const NOBODY: ObjectId = ObjectId { lo: 0x1234, hi: 0x5678 };

fn recovering(frame: &mut twz_rt::abi::fault::FaultFrame) {
    if !probe::recover(frame) {
        syscall::thread_exit(99);
    }
}

/// From here on probes report faults instead of ending the thread.
fn recover_faults() {
    // SAFETY: the handler takes no lock and changes only what a probe expects.
    unsafe { fault::set_handler(recovering) };
}

fn copy_on_write() -> Outcome {
    let source = Mapped::new()?;
    (0..8).for_each(|page| source.set(page * PAGE_WORDS, 100 + page));
    let spec = CreateSpec {
        source: source.id,
        default_rights: (READ_WRITE | Rights::DELETE).bits(),
        flags: create_flags::VOLATILE,
        ..CreateSpec::default()
    };
    let copy = syscall::object_create(&spec).map_err(failed("copying"))?;
    let copy = Mapped::of(copy, READ_WRITE)?;
    // Before anybody writes, and with one page written on either side.
    for page in 0..8 {
        same!(copy.get(page * PAGE_WORDS), 100 + page, "page {page} of the copy");
    }
    copy.set(0, 1);
    source.set(PAGE_WORDS, 2);
    copy.set(PAGE_WORDS * 3 + 5, 3);
    same!((source.get(0), copy.get(0)), (100, 1), "a page that the copy wrote");
    same!((source.get(PAGE_WORDS), copy.get(PAGE_WORDS)), (2, 101), "a page that the source wrote");
    same!(source.get(PAGE_WORDS * 3 + 5), 0, "a word that the copy wrote");
    same!(copy.get(PAGE_WORDS * 3), 103, "the rest of a copied page");
    for page in [2, 4, 5, 6, 7] {
        same!(
            (source.get(page * PAGE_WORDS), copy.get(page * PAGE_WORDS)),
            (100 + page, 100 + page),
            "page {page}"
        );
    }
    Ok(())
}

fn copy_range() -> Outcome {
    let (source, target) = (Mapped::new()?, Mapped::new()?);
    for page in 0..6 {
        source.set(page * PAGE_WORDS, 200 + page);
        target.set(page * PAGE_WORDS, 300 + page);
    }
    let spec = CopySpec {
        source: source.id,
        target: target.id,
        source_offset: DATA_OFFSET + PAGE_SIZE,
        target_offset: DATA_OFFSET + 3 * PAGE_SIZE,
        bytes: 2 * PAGE_SIZE,
    };
    // SAFETY: the target is this test's, used through volatile words.
    unsafe { syscall::object_copy(&spec) }.map_err(failed("copying a range"))?;
    let pages = [300, 301, 302, 201, 202, 305];
    for (page, wanted) in (0..).zip(pages) {
        same!(target.get(page * PAGE_WORDS), wanted, "page {page} of the target");
    }
    target.set(3 * PAGE_WORDS, 1);
    source.set(2 * PAGE_WORDS, 2);
    same!((source.get(PAGE_WORDS), target.get(4 * PAGE_WORDS)), (201, 202), "the other side of a write");
    Ok(())
}

fn copy_often() -> Outcome {
    // The same instruction meets a replaced page again and again.
    let (source, target) = (Mapped::new()?, Mapped::new()?);
    let spec = CopySpec {
        source: source.id,
        target: target.id,
        source_offset: DATA_OFFSET,
        target_offset: DATA_OFFSET,
        bytes: PAGE_SIZE,
    };
    for round in 0..40 {
        source.set(0, 1000 + round);
        target.set(0, 1);
        // SAFETY: as above.
        unsafe { syscall::object_copy(&spec) }.map_err(failed("copying a range"))?;
        same!(target.get(0), 1000 + round, "round {round}");
    }
    Ok(())
}

fn trim() -> Outcome {
    let mapped = Mapped::new()?;
    (0..32).for_each(|page| mapped.set(page * PAGE_WORDS, 7 + page));
    let before = syscall::object_stat(mapped.id).map_err(failed("stat"))?;
    check!(before.allocated_bytes >= 32 * PAGE_SIZE, "{} bytes for 32 pages", before.allocated_bytes);
    // SAFETY: the object is this test's, used through volatile words.
    unsafe { syscall::object_trim(mapped.id, DATA_OFFSET + 8 * PAGE_SIZE, 16 * PAGE_SIZE) }
        .map_err(failed("trimming"))?;
    let after = syscall::object_stat(mapped.id).map_err(failed("stat"))?;
    same!(before.allocated_bytes - after.allocated_bytes, 16 * PAGE_SIZE, "bytes given back");
    for page in 0..32 {
        let wanted = if (8..24).contains(&page) { 0 } else { 7 + page };
        same!(mapped.get(page * PAGE_WORDS), wanted, "page {page}");
    }
    mapped.set(9 * PAGE_WORDS, 5);
    same!(mapped.get(9 * PAGE_WORDS), 5, "a trimmed page written again");
    Ok(())
}

/// The kernel's own accesses meet pages that were taken out of the second stage and are still in its tables.
fn calls_after_changes() -> Outcome {
    let mapped = Mapped::new()?;
    let fill = |page: u64| {
        let at = mapped.address(page * PAGE_WORDS) as *mut u8;
        // SAFETY: a page of this test's object, to which nothing else refers meanwhile.
        let page = unsafe { core::slice::from_raw_parts_mut(at, 64) };
        syscall::random(page).map(|()| page.iter().any(|&byte| byte != 0))
    };
    let whole = CopySpec {
        source: mapped.id,
        target: object(READ_WRITE)?,
        source_offset: DATA_OFFSET,
        target_offset: DATA_OFFSET,
        bytes: 32 * PAGE_SIZE,
    };
    for round in 0..4 {
        (0..32).for_each(|page| mapped.set(page * PAGE_WORDS, 7));
        // SAFETY: both objects are this test's.
        unsafe { syscall::object_copy(&whole) }.map_err(failed("copying"))?;
        same!(fill(5), Ok(true), "round {round}: into a page that is shared since it was copied");
        // Its neighbours were hidden with it.
        same!(fill(6), Ok(true), "round {round}: into the next one");
        // SAFETY: as above.
        unsafe { syscall::object_trim(mapped.id, DATA_OFFSET + 8 * PAGE_SIZE, 16 * PAGE_SIZE) }
            .map_err(failed("trimming"))?;
        same!(fill(9), Ok(true), "round {round}: into a page that was trimmed");
        same!(fill(30), Ok(true), "round {round}: into one beside it");
    }
    Ok(())
}

fn tie() -> Outcome {
    let (tied, keeper) = (object(READ_WRITE)?, object(READ_WRITE)?);
    syscall::object_tie(tied, keeper).map_err(failed("tying"))?;
    syscall::object_delete(tied).map_err(failed("deleting"))?;
    syscall::object_stat(tied).map_err(failed("the tied object after its deletion"))?;
    syscall::object_delete(keeper).map_err(failed("deleting the keeper"))?;
    same!(syscall::object_stat(tied).err(), Some(ErrorCode::NoObject), "the tied object without its keeper");
    let closed = somebody_elses()?;
    let other = object(READ_WRITE)?;
    same!(syscall::object_tie(other, closed), Err(ErrorCode::NotPermitted), "a keeper without WRITE");
    same!(syscall::object_tie(other, NOBODY), Err(ErrorCode::NoObject), "a keeper that does not exist");
    // A volatile object, made to stay by itself and by a name that is free.
    let spec = CreateSpec {
        default_rights: (READ_WRITE | Rights::DELETE).bits(),
        flags: create_flags::VOLATILE,
        ..CreateSpec::default()
    };
    let flags = |id| syscall::object_stat(id).map(|stat| stat.flags);
    let make = || syscall::object_create(&spec).map_err(failed("creating a volatile object"));
    let (kept, named, late) = (make()?, make()?, make()?);
    syscall::object_tie(kept, kept).map_err(failed("tying to itself"))?;
    syscall::name_set(named, "selftest/tie").map_err(failed("naming a volatile object"))?;
    same!(syscall::name_set(late, "selftest/tie"), Err(ErrorCode::Exists), "a name that is taken");
    same!(syscall::name_get("selftest/tie"), Ok(named), "the name");
    same!(flags(kept), Ok(0), "what was kept");
    same!(flags(named), Ok(0), "what was named");
    same!(flags(late), Ok(create_flags::VOLATILE), "what was neither");
    for id in [kept, named, late] {
        syscall::object_delete(id).map_err(failed("deleting"))?;
        same!(syscall::object_stat(id).err(), Some(ErrorCode::NoObject), "deleted");
    }
    Ok(())
}

fn delete() -> Outcome {
    recover_faults();
    let spec = CreateSpec { default_rights: (READ_WRITE | Rights::DELETE).bits(), ..CreateSpec::default() };
    let id = syscall::object_create(&spec).map_err(failed("creating"))?;
    let mapped = Mapped::of(id, READ_WRITE)?;
    mapped.set(0, 5);
    syscall::object_delete(id).map_err(failed("deleting"))?;
    // It is in use: its memory stays as long as that lasts.
    same!(mapped.get(0), 5, "a deleted object in use");
    let again = Mapped::of(id, READ_WRITE)?;
    let seen = probe::load(again.address(0));
    check!(seen == Ok(5) || seen.is_err_and(|fault| fault.cause == FaultCause::NoObject as u32), "{seen:x?}");
    drop((mapped, again));
    same!(syscall::object_stat(id).err(), Some(ErrorCode::NoObject), "after the last use");
    same!(syscall::object_delete(id).err(), Some(ErrorCode::NoObject), "deleting it again");
    let gone = Mapped::of(id, READ_WRITE)?;
    let fault = probe::load(gone.address(0)).err().ok_or("a deleted object was read")?;
    same!((fault.cause, fault.object), (FaultCause::NoObject as u32, id), "the fault");
    // Without the right nobody deletes.
    same!(
        syscall::object_delete(somebody_elses()?),
        Err(ErrorCode::NotPermitted),
        "deleting without the right"
    );
    Ok(())
}

/// An object that this context did not create, and to which everybody has reading and executing: the program's own.
fn somebody_elses() -> Result<ObjectId, String> {
    match View::current().get(TEXT_SLOT) {
        Some((object, flags)) if flags != 0 => Ok(object),
        _ => Err("no program in its slot".into()),
    }
}

fn late_rights() -> Outcome {
    recover_faults();
    // The view asks for everything, the object gives reading and executing: reading works, only the write faults.
    let mapped = Mapped::of(somebody_elses()?, Rights::ACCESS)?;
    same!(probe::load(mapped.address(0)), Ok(PROGRAM_MAGIC), "reading");
    // SAFETY: a write to the program's own text, which must not happen.
    let fault =
        unsafe { probe::store(mapped.address(0), 1) }.err().ok_or("a read-only object was written")?;
    same!(
        (fault.cause, fault.access),
        (FaultCause::Rights as u32, Rights::WRITE.bits()),
        "the write's fault"
    );
    // The object gives everything, the view asks for reading.
    let narrow = Mapped::of(object(READ_WRITE | Rights::EXEC)?, Rights::READ)?;
    same!(probe::load(narrow.address(0)), Ok(0), "reading");
    check!(
        // SAFETY: as above.
        unsafe { probe::store(narrow.address(0), 1) }.is_err(),
        "written though the view asks for reading"
    );
    // SAFETY: as above.
    check!(unsafe { probe::call(narrow.address(0)) }.is_err(), "executed though the view asks for reading");
    // Code in an object that may be executed.
    let code = Mapped::of(object(READ_WRITE | Rights::EXEC)?, Rights::ACCESS)?;
    code.set(0, 0xc3);
    // SAFETY: the object holds a `ret`.
    same!(unsafe { probe::call(code.address(0)) }, Ok(()), "calling code");
    Ok(())
}

fn bad_arguments() -> Outcome {
    let flags = CreateSpec { flags: 0x8000, ..CreateSpec::default() };
    let rights = CreateSpec { default_rights: 0x4000, ..CreateSpec::default() };
    for spec in [flags, rights] {
        same!(syscall::object_create(&spec), Err(ErrorCode::BadArgument), "{spec:?}");
    }
    let source = CreateSpec { source: NOBODY, ..CreateSpec::default() };
    same!(syscall::object_create(&source), Err(ErrorCode::NoObject), "a copy of nothing");
    let good = object(READ_WRITE)?;
    let spec =
        CopySpec { source: good, target: good, source_offset: 0x1000, target_offset: 0x8000, bytes: 0x1000 };
    for bad in [
        CopySpec { source_offset: 0x1234, ..spec },
        CopySpec { bytes: 17, ..spec },
        CopySpec { bytes: !0xfff, ..spec },
        CopySpec { target_offset: MAX_SIZE, ..spec },
    ] {
        // SAFETY: refused, or the object is this test's.
        same!(unsafe { syscall::object_copy(&bad) }, Err(ErrorCode::BadOffset), "{bad:?}");
    }
    same!(
        // SAFETY: as above.
        unsafe { syscall::object_trim(good, MAX_SIZE, 4096) },
        Err(ErrorCode::BadOffset),
        "trimming behind the end"
    );
    // SAFETY: as above.
    same!(unsafe { syscall::object_trim(NOBODY, 4096, 4096) }, Err(ErrorCode::NoObject), "trimming nothing");
    same!(syscall::object_stat(ObjectId::NULL).err(), Some(ErrorCode::NoObject), "the null object");
    same!(syscall::name_get("selftest/no such name"), Err(ErrorCode::NoName), "a name that is not there");
    same!(syscall::name_get(""), Err(ErrorCode::BadArgument), "an empty name");
    syscall::object_delete(good).map_err(failed("deleting"))
}

fn ends() -> Outcome {
    recover_faults();
    let mapped = Mapped::new()?;
    let base = mapped.slot * SLOT_SIZE;
    let null = probe::load(base + 0xff8).err().ok_or("page 0 was read")?;
    same!((null.cause, null.offset), (FaultCause::NullPage as u32, 0xff8), "page 0");
    // SAFETY: an object of this test.
    unsafe { probe::store(base + META_OFFSET + 0xff8, 9) }
        .map_err(|fault| alloc::format!("the last word: {fault:x?}"))?;
    same!(probe::load(base + META_OFFSET + 0xff8), Ok(9), "the last word");
    // A word half in this slot, half in the next, which is empty.
    let across = probe::load(base + SLOT_SIZE - 4).err().ok_or("read across the end of a slot")?;
    check!(across.address >= base + SLOT_SIZE - 4, "{across:x?}");
    Ok(())
}
