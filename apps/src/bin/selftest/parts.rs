//! Objects that begin with parts of others, and pages that are there before they are touched.

use crate::{Mapped, Outcome, READ_WRITE, Test, check, failed, object, same};
use alloc::string::String;
use alloc::vec::Vec;
use twz_rt::abi::object::{DATA_OFFSET, MAX_SIZE};
use twz_rt::abi::syscall::{CREATE_RANGES_MAX, CopyRange, CreateSpec, Syscall, create_flags};
use twz_rt::abi::{ErrorCode, ObjectId, PAGE_SIZE, Rights};
use twz_rt::syscall;

pub(crate) const TESTS: &[Test] = &[
    ("object-create-ranges", ranges),
    ("object-create-bytes", bytes),
    ("object-reserve", reserve),
    ("object-parts-bad-arguments", bad_arguments),
];

const PAGE_WORDS: u64 = PAGE_SIZE / 8;
const SPEC: CreateSpec = CreateSpec {
    source: ObjectId::NULL,
    key: ObjectId::NULL,
    default_rights: READ_WRITE.union(Rights::DELETE).bits(),
    flags: create_flags::VOLATILE,
    bytes: 0,
};

/// `pages` data pages of `source` from page `from` on, to data page `to`.
const fn range(source: ObjectId, from: u64, to: u64, pages: u64) -> CopyRange {
    CopyRange {
        source,
        source_offset: DATA_OFFSET + from * PAGE_SIZE,
        target_offset: DATA_OFFSET + to * PAGE_SIZE,
        bytes: pages * PAGE_SIZE,
    }
}

fn allocated(object: ObjectId) -> Result<u64, String> {
    Ok(syscall::object_stat(object).map_err(failed("stat"))?.allocated_bytes)
}

fn ranges() -> Outcome {
    let (first, second) = (Mapped::new()?, Mapped::new()?);
    for page in 0..8 {
        first.set(page * PAGE_WORDS, 100 + page);
        second.set(page * PAGE_WORDS, 200 + page);
    }
    let parts = [range(second.id, 5, 40, 2), range(first.id, 0, 3, 1), range(first.id, 6, 0, 2)];
    let made = syscall::object_create_from(&SPEC, &parts).map_err(failed("creating"))?;
    let made = Mapped::of(made, READ_WRITE)?;
    let wanted = |page: u64| match page {
        0 | 1 => 106 + page,
        3 => 100,
        40 | 41 => 165 + page,
        _ => 0,
    };
    for page in 0..64 {
        same!(made.get(page * PAGE_WORDS), wanted(page), "page {page}");
    }
    made.set(3 * PAGE_WORDS, 1);
    first.set(6 * PAGE_WORDS, 2);
    same!((first.get(0), made.get(0)), (100, 106), "the other side of a write");
    // As many as there may be, page by page.
    let many: Vec<CopyRange> =
        (0..CREATE_RANGES_MAX as u64).map(|n| range(first.id, n % 8, 2 * n, 1)).collect();
    let many = syscall::object_create_from(&SPEC, &many).map_err(failed("creating of many ranges"))?;
    let many = Mapped::of(many, Rights::READ)?;
    first.set(0, 3);
    for n in 0..CREATE_RANGES_MAX as u64 {
        let wanted = if n % 8 == 6 { 2 } else { 100 + n % 8 };
        same!(many.get(2 * n * PAGE_WORDS), wanted, "range {n} of many");
        same!(many.get((2 * n + 1) * PAGE_WORDS), 0, "behind range {n}");
    }
    Ok(())
}

fn bytes() -> Outcome {
    const BYTES: u64 = 3 << 20;
    let source = Mapped::new()?;
    (0..4).for_each(|page| source.set(page * PAGE_WORDS, 7 + page));
    let spec = CreateSpec { bytes: BYTES, ..SPEC };
    let parts = [range(source.id, 1, 2, 2)];
    let made = syscall::object_create_from(&spec, &parts).map_err(failed("creating"))?;
    let before = allocated(made)?;
    check!((BYTES..BYTES + (2 << 20)).contains(&before), "{before} bytes for {BYTES}");
    let made = Mapped::of(made, READ_WRITE)?;
    for page in 0..(BYTES - DATA_OFFSET) / PAGE_SIZE {
        let wanted = if page == 2 || page == 3 { 6 + page } else { 0 };
        same!(made.get(page * PAGE_WORDS), wanted, "page {page}");
        made.set(page * PAGE_WORDS, page);
    }
    // All pages were there; those of the source became others.
    same!(allocated(made.id)?, before, "bytes after all pages were written");
    same!(source.get(PAGE_WORDS), 8, "the source");
    // What is more than the pool has leaves nothing behind.
    let huge = CreateSpec { bytes: MAX_SIZE, ..SPEC };
    for _ in 0..3 {
        same!(syscall::object_create_from(&huge, &parts), Err(ErrorCode::PoolFull), "1 GiB at once");
    }
    let again = syscall::object_create(&spec).map_err(failed("creating after a failure"))?;
    syscall::object_delete(again).map_err(failed("deleting"))
}

fn reserve() -> Outcome {
    const AT: u64 = 64 << 20;
    const BYTES: u64 = 256 * PAGE_SIZE;
    let mapped = Mapped::new()?;
    mapped.set((AT + 3 * PAGE_SIZE - DATA_OFFSET) / 8, 5);
    let little = allocated(mapped.id)?;
    syscall::object_reserve(mapped.id, AT, BYTES).map_err(failed("reserving"))?;
    let reserved = allocated(mapped.id)?;
    // The page that was there stayed.
    check!(
        (little + BYTES - 32 * PAGE_SIZE..=little + BYTES).contains(&reserved),
        "{little}, then {reserved}"
    );
    for page in 0..256 {
        let word = (AT + page * PAGE_SIZE - DATA_OFFSET) / 8;
        same!(mapped.get(word), if page == 3 { 5 } else { 0 }, "page {page}");
        mapped.set(word, page);
    }
    same!(allocated(mapped.id)?, reserved, "bytes after all pages were written");
    same!(syscall::object_reserve(mapped.id, 0, MAX_SIZE), Err(ErrorCode::PoolFull), "1 GiB at once");
    same!(allocated(mapped.id)?, reserved, "bytes after a refusal");
    // SAFETY: the object is this test's, used through volatile words.
    unsafe { syscall::object_trim(mapped.id, AT, BYTES) }.map_err(failed("giving back"))?;
    check!(allocated(mapped.id)? <= reserved - BYTES, "bytes after they were given back");
    Ok(())
}

fn bad_arguments() -> Outcome {
    let good = object(READ_WRITE)?;
    let nobody = ObjectId { lo: 0x1234, hi: 0x5678 };
    let whole = CreateSpec { source: good, ..SPEC };
    let too_large = CreateSpec { bytes: MAX_SIZE + 1, ..SPEC };
    let part = range(good, 0, 0, 1);
    let many = [part; CREATE_RANGES_MAX + 1];
    for (spec, parts, error) in [
        (&SPEC, &many[..], ErrorCode::BadArgument),
        (&whole, &[part][..], ErrorCode::BadArgument),
        (&too_large, &[], ErrorCode::BadArgument),
        (&SPEC, &[part, range(nobody, 0, 1, 1)], ErrorCode::NoObject),
        (&SPEC, &[part, range(good, 1, 0, 1)], ErrorCode::BadOffset),
        (&SPEC, &[CopyRange { source_offset: 0x1234, ..part }], ErrorCode::BadOffset),
        (&SPEC, &[CopyRange { target_offset: 0x1234, ..part }], ErrorCode::BadOffset),
        (&SPEC, &[CopyRange { bytes: 17, ..part }], ErrorCode::BadOffset),
        (&SPEC, &[CopyRange { bytes: MAX_SIZE, ..part }], ErrorCode::BadOffset),
        (&SPEC, &[CopyRange { source_offset: !0xfff, ..part }], ErrorCode::BadOffset),
    ] {
        same!(syscall::object_create_from(spec, parts), Err(error), "{spec:?} {parts:?}");
    }
    for (first, bytes) in [(1, PAGE_SIZE), (PAGE_SIZE, 1), (MAX_SIZE, PAGE_SIZE), (!0xfff, PAGE_SIZE)] {
        same!(syscall::object_reserve(good, first, bytes), Err(ErrorCode::BadOffset), "{first:#x} {bytes}");
    }
    same!(syscall::object_reserve(nobody, 0, PAGE_SIZE), Err(ErrorCode::NoObject), "reserving nothing");
    // Ranges where no program has memory.
    for address in [0, 1 << 47, !0xfff] {
        let arguments = [core::ptr::from_ref(&SPEC) as u64, address, 1, 0, 0, 0];
        // SAFETY: the kernel checks the pointers, which is what is tested.
        let made = unsafe { syscall::raw(Syscall::ObjectCreate, arguments) };
        same!(made, Err(ErrorCode::BadAddress), "ranges at {address:#x}");
    }
    // SAFETY: a number that means nothing.
    let odd = unsafe { syscall::raw(Syscall::ObjectResize, [good.lo, good.hi, 0, PAGE_SIZE, 2, 0]) };
    same!(odd, Err(ErrorCode::BadArgument), "another kind of resizing");
    syscall::object_delete(good).map_err(failed("deleting"))
}
