//! Objects, pointers and the FOT, as a program uses them.

#![allow(clippy::unwrap_used, reason = "tests")]

use libtwz::PersistentPtr;
use libtwz::persist::Outgoing;
use libtwz::prelude::*;
use libtwz::sys::Durability;
use libtwz::{Window, fot, persist, translate, view};

#[derive(Invariant)]
#[repr(C)]
struct Node {
    value: PCell<u64>,
    next: InvPtr<Node>,
}

fn node(value: u64) -> Node {
    Node { value: PCell::new(value), next: InvPtr::null() }
}

const RW: Rights = Rights::READ.union(Rights::WRITE);

#[test]
fn a_root_is_found_again_by_id() {
    let object = ObjectBuilder::new().build(node(7)).unwrap();
    let again = Object::<Node>::open(object.id()).unwrap();
    assert_eq!(again.value.get(), 7);
    assert_eq!(again.window(), object.window(), "mapped once");
    assert_eq!(object.global().resolve(RW).unwrap().value.get(), 7);
}

#[test]
fn opening_as_another_type_is_refused() {
    let object = ObjectBuilder::new().build(node(7)).unwrap();
    assert!(matches!(Object::<PCell<u64>>::open(object.id()), Err(Error::WrongType { .. })));
    let nobody = ObjectId::from_u128(12);
    assert_eq!(Object::<Node>::open(nobody).unwrap_err(), Error::NoSuchObject(nobody));
}

#[test]
fn pointers_lead_inside_and_across() {
    let a = ObjectBuilder::new().build(node(1)).unwrap();
    let b = ObjectBuilder::new().build(node(3)).unwrap();
    a.tx(|tx| {
        let second = tx.alloc(node(2))?;
        tx.point(&a.next, Some(second))?;
        tx.point(&second.next, Some(b.base()))
    })
    .unwrap();
    let mut values = Vec::new();
    let mut at = Some(a.base());
    while let Some(node) = at {
        values.push(node.value.get());
        at = node.next.get().unwrap();
    }
    assert_eq!(values, [1, 2, 3]);
    assert_eq!(a.next.raw().index(), 0, "inside");
}

#[test]
fn fot_entries_are_reused() {
    let a = ObjectBuilder::new().build(node(0)).unwrap();
    let b = ObjectBuilder::new().build(node(0)).unwrap();
    let first = fot::insert(a.window(), b.id(), RW).unwrap();
    assert_eq!(fot::insert(a.window(), b.id(), RW).unwrap(), first);
    assert_ne!(fot::insert(a.window(), b.id(), Rights::READ).unwrap(), first, "other rights, other entry");
}

#[test]
fn racing_threads_share_one_entry() {
    let a = ObjectBuilder::new().build(node(0)).unwrap();
    let targets: Vec<_> = (0..50).map(|i| ObjectBuilder::new().build(node(i)).unwrap()).collect();
    let found: Vec<Vec<u32>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let targets = &targets;
                scope.spawn(move || {
                    targets.iter().map(|t| fot::insert(a.window(), t.id(), RW).unwrap()).collect()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for other in &found[1..] {
        assert_eq!(*other, found[0]);
    }
    let mut distinct = found[0].clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 50);
}

#[test]
fn a_changed_entry_moves_every_pointer() {
    let a = ObjectBuilder::new().build(node(0)).unwrap();
    let old = ObjectBuilder::new().uncoloured().build(node(10)).unwrap();
    let new = ObjectBuilder::new().uncoloured().build(node(20)).unwrap();
    a.tx(|tx| tx.point(&a.next, Some(old.base()))).unwrap();
    assert_eq!(a.next.resolve().unwrap().value.get(), 10);
    // Through a second mapping of the holder, too.
    let readable = Object::<Node>::open_with(a.id(), Rights::READ).unwrap();
    assert_ne!(readable.window(), a.window());
    assert_eq!(readable.next.resolve().unwrap().value.get(), 10);
    fot::change(a.window(), a.next.raw().index(), fot::Target::Id(new.id()), RW).unwrap();
    assert_eq!(a.next.resolve().unwrap().value.get(), 20);
    assert_eq!(readable.next.resolve().unwrap().value.get(), 20);
}

#[test]
fn a_pointer_that_is_stored_does_not_use_an_entry_that_was_changed() {
    let a = ObjectBuilder::new().build(node(0)).unwrap();
    let targets: Vec<_> = (0..3).map(|i| ObjectBuilder::new().build(node(i)).unwrap()).collect();
    let store = |i: usize| {
        let address = core::ptr::from_ref(targets[i].base()).addr();
        let pointer = translate::persistent(a.window(), address).unwrap();
        assert_eq!(translate::lea(a.window(), pointer).unwrap(), address, "target {i}");
        pointer.index()
    };
    let first = store(0);
    assert_eq!((store(0), store(1) != first), (first, true), "an entry for each, used again");
    // The entry that was for target 0 leads to target 2, which needs none of its own then.
    fot::change(a.window(), first, fot::Target::Id(targets[2].id()), RW).unwrap();
    assert_eq!(store(2), first);
    let second = store(0);
    assert_ne!(second, first);
    assert_eq!((store(0), fot::read(a.window(), second).unwrap().target), (second, targets[0].id()));
    // A name that leads to the same object is another entry: it may lead elsewhere tomorrow.
    let name = a.tx(|tx| tx.alloc([4_u64, u64::from_le_bytes(*b"/tgt\0\0\0\0")])).unwrap();
    let (_, at) = translate::split(core::ptr::from_ref(name).addr()).unwrap();
    fot::change(a.window(), second, fot::Target::Name(at, 0), RW).unwrap();
    assert_ne!(store(0), second);
    // Gone from the view, and its slot given to another object: still the right one.
    // SAFETY: no reference into the object is used afterwards.
    unsafe { view::unmap(targets[1].id()) };
    let other = ObjectBuilder::new().build(node(9)).unwrap();
    let address = core::ptr::from_ref(other.base()).addr();
    let pointer = translate::persistent(a.window(), address).unwrap();
    assert_eq!(translate::lea(a.window(), pointer).unwrap(), address);
    assert_eq!(fot::read(a.window(), pointer.index()).unwrap().target, other.id());
}

#[test]
fn no_thread_sees_a_stale_translation() {
    let a = ObjectBuilder::new().build(node(0)).unwrap();
    let targets: Vec<_> = (0..2).map(|i| ObjectBuilder::new().uncoloured().build(node(i)).unwrap()).collect();
    a.tx(|tx| tx.point(&a.next, Some(targets[0].base()))).unwrap();
    let index = a.next.raw().index();
    let turn = std::sync::atomic::AtomicU64::new(0);
    let turn = &turn;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(move || {
                loop {
                    let before = turn.load(std::sync::atomic::Ordering::SeqCst);
                    let seen = a.next.resolve().unwrap().value.get();
                    let after = turn.load(std::sync::atomic::Ordering::SeqCst);
                    if before == after && before.is_multiple_of(2) {
                        assert_eq!(seen, before / 2 % 2, "turn {before}");
                    }
                    if after == u64::MAX {
                        return;
                    }
                }
            });
        }
        for i in 1..400_u64 {
            turn.store(i * 2 - 1, std::sync::atomic::Ordering::SeqCst);
            let target = fot::Target::Id(targets[usize::try_from(i % 2).unwrap()].id());
            fot::change(a.window(), index, target, RW).unwrap();
            turn.store(i * 2, std::sync::atomic::Ordering::SeqCst);
        }
        turn.store(u64::MAX, std::sync::atomic::Ordering::SeqCst);
    });
}

#[test]
fn damaged_pointers_are_errors() {
    let a = ObjectBuilder::new().build(node(0)).unwrap();
    for (index, offset) in
        [(0, 1), (0, 0xfff), (0, 0x1001), (0, 0x3fff_fff8), (0, 0x4000_0000), (0, u32::MAX)]
    {
        let bad = PersistentPtr::new(index, offset);
        let result = libtwz::at::<Node>(a.window(), bad);
        assert!(matches!(result, Err(Error::BadPointer { .. })), "{bad:?}");
    }
    for index in [1, 255, 256, 1 << 20, u32::MAX] {
        let bad = PersistentPtr::new(index, 0x1000);
        assert!(matches!(libtwz::at::<Node>(a.window(), bad), Err(Error::BadPointer { .. })), "{bad:?}");
    }
    let moved = InvPtr::<Node>::from_raw(PersistentPtr::new(0, 0x1000));
    assert!(matches!(moved.resolve(), Err(Error::NotInObject { .. })));
}

#[test]
fn garbage_in_the_metadata_page_is_an_error() {
    let meta = usize::try_from(twz_abi::object::META_OFFSET).unwrap();
    for field in [0, 8, 24, 32, 40] {
        for value in [2_u64, 0xfff, 0x4000_0001, u64::MAX] {
            let object = ObjectBuilder::new().build(node(1)).unwrap();
            object.window().store(meta + field, value);
            let opened = Object::<Node>::open(object.id());
            let used = opened.and_then(|o| o.tx(|tx| tx.alloc(node(1)).map(drop)));
            assert!(used.is_err(), "field {field} = {value:#x}");
        }
    }
}

#[test]
fn more_entries_than_the_cache_holds() {
    let a = ObjectBuilder::new().build(node(0)).unwrap();
    let b = ObjectBuilder::new().uncoloured().build(node(5)).unwrap();
    let real = fot::insert(a.window(), b.id(), RW).unwrap();
    for i in 0..300 {
        fot::insert(a.window(), ObjectId::from_u128(i + 1), RW).unwrap();
    }
    let c = ObjectBuilder::new().uncoloured().build(node(6)).unwrap();
    let late = fot::insert(a.window(), c.id(), RW).unwrap();
    assert!(late as usize >= translate::ROW_ENTRIES);
    let root = u32::try_from(core::ptr::from_ref(c.base()).addr() & 0x3fff_ffff).unwrap();
    for (index, value) in [(real, 5), (late, 6)] {
        for _ in 0..2 {
            let node = libtwz::at::<Node>(a.window(), PersistentPtr::new(index, root)).unwrap();
            assert_eq!(node.value.get(), value);
        }
    }
}

/// The short way that such entries take leads nowhere but where the long one would.
#[test]
fn entries_behind_the_cache_are_looked_at_each_time() {
    let holder = ObjectBuilder::new().build(node(0)).unwrap();
    for i in 0..300 {
        fot::insert(holder.window(), ObjectId::from_u128(i + 1), RW).unwrap();
    }
    let target = ObjectBuilder::new().uncoloured().build(node(6)).unwrap();
    let root = u32::try_from(core::ptr::from_ref(target.base()).addr() & 0x3fff_ffff).unwrap();
    let index = fot::insert(holder.window(), target.id(), RW).unwrap();
    let at = usize::try_from(twz_abi::object::fot_entry_offset(index).unwrap()).unwrap();
    let (flags, generation) = (at + 16, at + 24);
    let value = |index, offset| {
        libtwz::at::<Node>(holder.window(), PersistentPtr::new(index, offset)).map(|node| node.value.get())
    };
    assert_eq!(value(index, root), Ok(6));
    assert_eq!(value(index, root), Ok(6), "the short way");
    assert!(value(index, root | 1 << 30).is_err() && value(1 << 20, root).is_err());

    // Each word that is not that of a settled entry for reading, and the entry again.
    let (word, count) = (holder.window().load(flags), holder.window().load(generation));
    let unread = Object::<Node>::open_with(target.id(), Rights::WRITE);
    assert_eq!(unread.map(drop), Err(Error::NotPermitted(target.id())));
    view::map(target.id(), Rights::WRITE).unwrap(); // but not to be followed so
    for wrong in [0, word & !1, word | 2, word & u64::from(u32::MAX), 1 | 2 << 32, 1 << 32, u64::MAX] {
        holder.window().store(flags, wrong);
        assert!(value(index, root).is_err(), "flags and rights {wrong:#x}");
    }
    holder.window().store(flags, word);
    holder.window().store(generation, count + 1);
    assert!(value(index, root).is_err(), "a change that never ends");
    holder.window().store(generation, count);
    assert_eq!(value(index, root), Ok(6));
    for (part, zero) in [(at, 0), (at + 8, 0), (flags, 0)] {
        holder.window().store(part, zero);
        assert!(value(index, root).is_err(), "zero at {part:#x}, as in places of the index that are free");
    }
    for (part, old) in [(at, target.id().lo), (at + 8, target.id().hi), (flags, word)] {
        holder.window().store(part, old);
    }

    // The same object with other rights stands elsewhere, and each entry leads to its own.
    let reading = fot::insert(holder.window(), target.id(), Rights::READ).unwrap();
    let base = |index| {
        translate::lea(holder.window(), PersistentPtr::new(index, 0))
            .map(|address| view::what_is_at(Window::around(address).unwrap()).unwrap())
    };
    for _ in 0..2 {
        assert_eq!(base(index), Ok((target.id(), RW)));
        assert_eq!(base(reading), Ok((target.id(), Rights::READ)));
    }
    // SAFETY: no reference into it is used after this.
    unsafe { view::unmap(target.id()) };
    assert_eq!(value(index, root), Ok(6), "mapped again");
    let id = target.id();
    // SAFETY: as above.
    unsafe { Object::<Node>::open(id).unwrap().delete() }.unwrap();
    assert_eq!(value(index, root), Err(Error::NoSuchObject(id)));
    assert_eq!(value(reading, root), Err(Error::NoSuchObject(id)));
}

#[test]
fn unmapped_objects_are_found_no_more() {
    let a = ObjectBuilder::new().build(node(4)).unwrap();
    let holder = ObjectBuilder::new().build(node(0)).unwrap();
    holder.tx(|tx| tx.point(&holder.next, Some(a.base()))).unwrap();
    assert_eq!(holder.next.resolve().unwrap().value.get(), 4);
    // SAFETY: no reference into it is used after this.
    unsafe { view::unmap(a.id()) };
    assert!(view::find(a.id(), RW).is_none());
    assert_eq!(holder.next.resolve().unwrap().value.get(), 4, "mapped again on demand");
    let id = a.id();
    let a = Object::<Node>::open(id).unwrap();
    // SAFETY: as above.
    unsafe { a.delete() }.unwrap();
    assert_eq!(holder.next.resolve().map(drop).unwrap_err(), Error::NoSuchObject(id));
}

#[test]
fn copies_are_independent() {
    let a = ObjectBuilder::new().build(node(1)).unwrap();
    let b = a.copy(Rights::empty()).unwrap();
    b.tx(|tx| tx.set(&b.value, 2)).unwrap();
    assert_eq!((a.value.get(), b.value.get()), (1, 2));
}

#[test]
fn a_copy_is_taken_between_transactions() {
    let a = ObjectBuilder::new().build(node(1)).unwrap();
    let running = a.begin().unwrap();
    running.set(&a.value, 7).unwrap();
    assert_eq!(a.copy(Rights::empty()).unwrap_err(), Error::Busy(a.id()), "by the thread that runs one");
    let readable = Object::<Node>::open_with(a.id(), Rights::READ).unwrap();
    assert_eq!(readable.copy(Rights::empty()).unwrap_err(), Error::Busy(a.id()), "by a reader");
    let copier = std::thread::spawn(move || a.copy(Rights::empty()).unwrap());
    running.abort();
    let b = copier.join().unwrap();
    assert_eq!(b.value.get(), 1, "nothing half done");
    // Its lock is free, whoever had the original's, and so is the original's.
    for copy in [b, readable.copy(Rights::empty()).unwrap()] {
        copy.tx(|tx| tx.set(&copy.value, 2)).unwrap();
        assert_eq!((a.value.get(), copy.value.get()), (1, 2));
    }
    a.tx(|tx| tx.set(&a.value, 3)).unwrap();
    assert_eq!(b.value.get(), 2);
}

#[test]
fn an_object_that_goes_on_in_another_is_not_copied() {
    let a = ObjectBuilder::new().data_bytes(4096).build(node(1)).unwrap();
    while a.overflow().unwrap().is_null() {
        a.tx(|tx| tx.alloc([0_u64; 64]).map(drop)).unwrap();
    }
    assert_eq!(a.copy(Rights::empty()).unwrap_err(), Error::Chained(a.id()));
}

#[test]
fn other_parameters_make_another_type() {
    use libtwz::collections::{BTreeMap, HashMap, List, RbTree, Ring, Vec as PVec};
    use libtwz::invariant::fingerprint;
    let words = ObjectBuilder::new().build(PVec::<u64>::new()).unwrap();
    assert!(matches!(Object::<PVec<u8>>::open(words.id()), Err(Error::WrongType { .. })));
    assert!(Object::<PVec<u64>>::open(words.id()).is_ok());
    assert_ne!(fingerprint::<BTreeMap<u64, u64>>(), fingerprint::<BTreeMap<u64, u32>>());
    assert_ne!(fingerprint::<BTreeMap<u64, u32>>(), fingerprint::<BTreeMap<u32, u64>>());
    assert_ne!(fingerprint::<HashMap<u64, u64>>(), fingerprint::<HashMap<u64, [u64; 2]>>());
    assert_ne!(fingerprint::<List<u64>>(), fingerprint::<List<i64>>());
    assert_ne!(fingerprint::<RbTree<u64, u64>>(), fingerprint::<RbTree<u64, i64>>());
    assert_ne!(fingerprint::<Ring<u64, 4>>(), fingerprint::<Ring<u32, 8>>());
}

#[test]
fn addresses_outside_objects_are_refused() {
    let local = 5_u64;
    let address = core::ptr::from_ref(&local).addr();
    assert!(matches!(Window::around(address), Err(Error::NotInObject { .. })));
    let a = ObjectBuilder::new().build(node(1)).unwrap();
    assert!(matches!(a.tx(|tx| tx.record(&local)), Err(Error::NotInObject { .. })));
    persist::persist(address, 8);
}

/// Ranges of many sizes behind each other, in pages that nobody had touched, by either way of the stores: each word is there, and none beside it.
#[test]
fn what_goes_out_is_there_and_nothing_else() {
    let before = persist::durability();
    for durability in [Durability::Program, Durability::Power] {
        persist::set_durability(durability);
        let object = ObjectBuilder::new().build(()).unwrap();
        let window = object.window();
        let block = object.tx(|tx| tx.alloc_sparse(window, 64 << 10, 4096)).unwrap() - window.base();
        let mut stored = Vec::new();
        let mut at = block;
        for words in [5, 1, 3, 507, 512, 60, 1300, 1] {
            let range = Outgoing::range(window, at, words * 8);
            (at..).step_by(8).take(words).for_each(|word| range.store(word, word as u64));
            range.end();
            stored.extend((at..).step_by(8).take(words));
            at += words * 8 + 8;
        }
        persist::fence();
        for word in (block..block + (64 << 10)).step_by(8) {
            let expected = if stored.contains(&word) { word as u64 } else { 0 };
            assert_eq!(window.load(word), expected, "{durability:?} {word:#x}");
        }
    }
    persist::set_durability(before);
}
