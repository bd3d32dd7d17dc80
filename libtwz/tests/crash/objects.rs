//! FOT, names, channels.

use crate::scenario::{How, expect, scenario, text};
use crate::world::begin;
use libtwz::fot;
use libtwz::names::{Entry, Namespace, Resolver, clear_by_name, point_by_name};
use libtwz::prelude::*;
use libtwz::sync::{Channel, Once};
use libtwz::sys::{Platform, Seam};
use std::rc::Rc;
use std::sync::atomic::Ordering;

#[allow(clippy::cast_possible_truncation, reason = "below 1 GiB")]
const FOT_LEN_AT: usize =
    twz_abi::object::META_OFFSET as usize + std::mem::offset_of!(twz_abi::object::ObjectMeta, fot_len);
const RW: Rights = Rights::READ.union(Rights::WRITE);

#[derive(Invariant)]
#[repr(C)]
struct Pointers {
    places: [InvPtr<PCell<u64>>; 16],
}

pub(crate) fn fot_entries_are_whole(how: &mut How<'_>) {
    let (_one, world) = begin();
    let holder = ObjectBuilder::new().build(Pointers { places: [const { InvPtr::null() }; 16] }).unwrap();
    let targets: Vec<_> =
        (0..6).map(|i| ObjectBuilder::new().uncoloured().build(PCell::new(i + 100)).unwrap()).collect();
    let (id, target_ids) = (holder.id(), targets.iter().map(Object::id).collect::<Vec<_>>());
    let mut windows = vec![holder.window()];
    windows.extend(targets.iter().map(Object::window));
    // Steps 0–4 insert; later ones change the entry of place 0.
    scenario(
        "FOT",
        &windows,
        &world,
        &mut |step| {
            let i = usize::try_from(step).unwrap();
            if step < 5 {
                // Two places in each, or a pointer that came too early could not be told from one that came.
                holder
                    .tx(|tx| {
                        if step % 2 == 0 {
                            tx.point(&holder.places[i], Some(targets[i].base()))?;
                            return tx.point(&holder.places[i + 8], Some(targets[i].base()));
                        }
                        tx.put_ptr(&holder.places[i], Some(targets[i].base()))?;
                        tx.put_ptr(&holder.places[i + 8], Some(targets[i].base()))
                    })
                    .unwrap();
            } else {
                let target = fot::Target::Id(target_ids[i % 6]);
                fot::change(holder.window(), holder.places[0].raw().index(), target, RW).unwrap();
            }
            if step == 6 {
                libtwz::tx::checkpoint(holder.window()).unwrap();
            }
            step < 8
        },
        &|k| {
            let holder = text(Object::<Pointers>::open(id))?;
            let fot_len = holder.window().half(FOT_LEN_AT).load(Ordering::Relaxed);
            for number in 0..10_usize {
                let place = &holder.places[if number < 5 { number } else { number + 3 }];
                let i = number as u64 % 5;
                let expected = if i >= k {
                    None
                } else if i == 0 && k > 5 {
                    Some((k - 1) % 6 + 100)
                } else {
                    Some(i + 100)
                };
                expect("pointer", text(place.get())?.map(PCell::get), expected)?;
                // The pool finds what an object leads to by this length.
                if place.raw().index() >= fot_len {
                    return Err(format!("{place:?} is past the table's {fot_len} entries"));
                }
            }
            // The table takes more, and uses unfinished entries again.
            let more = text(fot::insert(holder.window(), target_ids[5], Rights::READ))?;
            if more > 8 {
                return Err(format!("entry {more} for the sixth target: unfinished ones are lost"));
            }
            let entry = text(fot::read(holder.window(), more))?;
            expect("new entry", entry.target, target_ids[5])
        },
        how,
    );
}

/// Entries with names, which are made, undone, removed and used again.
pub(crate) fn entries_of_names_are_whole(how: &mut How<'_>) {
    let (_one, world) = begin();
    let names = Namespace::create(Rights::READ).unwrap();
    let targets = [0, 1].map(|i| ObjectBuilder::new().build(PCell::new(i + 100_u64)).unwrap());
    names.bind("/a", targets[0].id()).unwrap();
    names.bind("/b", targets[1].id()).unwrap();
    let resolver = Resolver::paths(names).unwrap();
    let holder = ObjectBuilder::new().build(Pointers { places: [const { InvPtr::null() }; 16] }).unwrap();
    let id = holder.id();
    let point = |tx: &Tx, holder: &Object<Pointers>, place: usize, name: &str| {
        point_by_name(tx, &holder.places[place], name, Some(&resolver), Rights::READ)
    };
    let model = |k: u64| match k {
        0 => [None; 3],
        1 => [Some(100), None, None],
        2 => [Some(100), Some(101), None],
        3 => [None, Some(101), None],
        4 => [Some(101), Some(101), None],
        5 => [Some(101), None, None],
        _ => [Some(101), Some(100), Some(100)],
    };
    scenario(
        "names in FOT entries",
        &[holder.window()],
        &world,
        &mut |step| {
            let undone = holder.tx(|tx| point(tx, &holder, 9, "/a").and(Err::<(), _>(Error::Aborted)));
            assert_eq!(undone, Err(Error::Aborted));
            match step {
                0 => holder.tx(|tx| point(tx, &holder, 0, "/a")),
                1 => holder.tx(|tx| point(tx, &holder, 1, "/b")),
                2 => clear_by_name(&holder.places[0]),
                3 => holder.tx(|tx| point(tx, &holder, 0, "/b")),
                4 => clear_by_name(&holder.places[1]),
                _ => holder.tx(|tx| point(tx, &holder, 1, "/a").and(point(tx, &holder, 2, "/a"))),
            }
            .unwrap();
            if step == 2 {
                libtwz::tx::checkpoint(holder.window()).unwrap();
            }
            step < 5
        },
        &|k| {
            let holder = text(Object::<Pointers>::open(id))?;
            let value = |i: usize| text(holder.places[i].get()).map(|target| target.map(PCell::get));
            expect("pointers by name", [value(0)?, value(1)?, value(2)?], model(k))?;
            let len = holder.window().half(FOT_LEN_AT).load(Ordering::Relaxed);
            // A length word and two bytes for each name: the smallest block holds them.
            let census = text(holder.census())?;
            let used = 16 * model(k).iter().flatten().count();
            expect("bytes of names", census.bytes - census.free_bytes, used)?;
            if len > 6 {
                Err(format!("{len} entries for a resolver and at most three names"))
            } else {
                Ok(())
            }
        },
        how,
    );
}

pub(crate) fn names_are_whole(how: &mut How<'_>) {
    let (_one, world) = begin();
    let names = Namespace::create(Rights::READ).unwrap();
    let root = Object::<libtwz::names::Directory>::open(names.id()).unwrap();
    let targets = [ObjectId::from_u128(1001), ObjectId::from_u128(1002)];
    scenario(
        "names",
        &[root.window()],
        &world,
        &mut |step| {
            match step % 4 {
                0 => names.bind("/a", targets[0]),
                1 => names.rebind("/a", targets[1]).map(drop),
                2 => names.link("/l", "/a"),
                _ => names.unbind("/a").and_then(|_| names.unbind("/l")).map(drop),
            }
            .unwrap();
            step < 6
        },
        &|k| {
            let names = Namespace::at(root.id());
            let a = names.lookup("/a");
            let l = names.lookup("/l");
            let (expected_a, expected_l) = match k % 4 {
                0 => (Err(Error::NoSuchName), Err(Error::NoSuchName)),
                1 => (Ok(targets[0]), Err(Error::NoSuchName)),
                2 => (Ok(targets[1]), Err(Error::NoSuchName)),
                _ => (Ok(targets[1]), Ok(targets[1])),
            };
            // Step 3 is two operations: between them the link leads to nothing.
            if k % 4 == 3
                && a == Err(Error::NoSuchName)
                && l == Err(Error::NoSuchName)
                && names.entry("/l").is_ok()
            {
                return Ok(());
            }
            expect("/a", a, expected_a)?;
            expect("/l", l, expected_l)?;
            text(names.list("/")).map(drop)
        },
        how,
    );
}

/// Objects and directories appear with their names, or not at all, and nothing else is left behind.
pub(crate) fn what_is_named_is_there(how: &mut How<'_>) {
    let (_one, world) = begin();
    let names = Namespace::create(Rights::READ).unwrap();
    let root = Object::<libtwz::names::Directory>::open(names.id()).unwrap();
    let make = |path: &str, value: u64| {
        names.open_or_build(path, ObjectBuilder::new().log_bytes(256), || PCell::new(value)).map(|o| o.get())
    };
    scenario(
        "what is named",
        &[root.window()],
        &world,
        &mut |step| {
            match step {
                0 => make("/a", 1).map(drop),
                1 => names.make_dir("/d", Rights::READ).map(drop),
                2 => make("/d/b", 2).map(drop),
                _ => {
                    let gone = names.lookup("/a").unwrap();
                    // SAFETY: nothing of it is used after this.
                    unsafe { Object::<PCell<u64>>::open(gone).unwrap().delete() }.unwrap();
                    make("/a", 3).map(drop) // the name is free again
                }
            }
            .unwrap();
            step < 3
        },
        &|k| {
            let mut seen = Vec::new();
            let mut found = Vec::new();
            for (path, in_it) in [("/", "/"), ("/d", "/d/")] {
                let entries = match names.list(path) {
                    Err(Error::NoSuchName) if path == "/d" => continue,
                    entries => text(entries)?,
                };
                for (name, entry) in entries {
                    let path = format!("{in_it}{name}");
                    let id = text(names.lookup(&path))?;
                    let value = match entry {
                        // The scenario deletes one that has a name, which stays.
                        Entry::Object(_) => match Object::<PCell<u64>>::open(id) {
                            Err(Error::NoSuchObject(_)) => continue,
                            object => text(object)?.get(),
                        },
                        _ => text(Object::<libtwz::names::Directory>::open(id)).map(|_| 0)?,
                    };
                    seen.push((path, value));
                    found.push(id);
                }
            }
            let mut made = world.made();
            made.sort_unstable();
            found.sort_unstable();
            expect("what was made, by names", found, made)?;
            let all = [("/a", 1), ("/d", 0), ("/d/b", 2)].map(|(path, value)| (path.to_owned(), value));
            let expected = match k {
                0..=3 => all[..usize::try_from(k).unwrap_or(3)].to_vec(),
                _ => vec![("/a".to_owned(), 3), all[1].clone(), all[2].clone()],
            };
            // The last step is two operations.
            let is_between = k == 3 && seen == all[1..];
            if !is_between {
                expect("names", &seen, &expected)?;
            }
            // What the failure left of a naming is in nobody's way, also of who takes the directory out.
            let value = text(make("/a", 7))?;
            let before = seen.iter().find(|(path, _)| path == "/a").map_or(7, |(_, value)| *value);
            expect("/a, made if it was not there", value, before)?;
            text(names.make_dir("/d", Rights::READ).map(drop).or_else(|error| match error {
                Error::NameExists => Ok(()),
                other => Err(other),
            }))?;
            if text(names.list("/d"))?.is_empty() {
                text(names.unbind("/d")).map(drop)?;
            }
            Ok(())
        },
        how,
    );
}

/// Who finds a name while it is given makes what it leads to stay: whatever he does then, it is there after a power failure.
pub(crate) fn what_was_found_stays(how: &mut How<'_>) {
    let (_one, world) = begin();
    let names = Namespace::create(Rights::READ).unwrap();
    let root = Object::<libtwz::names::Directory>::open(names.id()).unwrap();
    let paths = ["/a", "/d", "/e"];
    scenario(
        "what was found",
        &[root.window()],
        &world,
        &mut |step| {
            let path = paths[usize::try_from(step).unwrap()];
            let (reader, told) = (Namespace::at(names.id()), Rc::clone(&world));
            world.before_keep(move || {
                // Another program, by a look-up or a list.
                let found = if step < 2 {
                    reader.lookup(path).is_ok()
                } else {
                    reader.list("/").unwrap().iter().any(|(name, _)| name == "e")
                };
                assert!(found);
                told.mark(step + 1);
            });
            match step {
                0 => names
                    .open_or_build(path, ObjectBuilder::new().log_bytes(256), || PCell::new(1_u64))
                    .map(drop),
                _ => names.make_dir(path, Rights::READ).map(drop),
            }
            .unwrap();
            step < 2
        },
        &|k| {
            let mut found = 0;
            for path in paths {
                match names.lookup(path) {
                    Err(Error::NoSuchName) => continue,
                    Ok(id) if path == "/a" => expect("/a", text(Object::<PCell<u64>>::open(id))?.get(), 1)?,
                    Ok(id) => text(Object::<libtwz::names::Directory>::open(id)).map(drop)?,
                    Err(error) => return Err(error.to_string()),
                }
                found += 1;
            }
            expect("names that are there", found, k.min(3))?;
            expect("what was made", world.made().len() as u64, found)
        },
        how,
    );
}

/// A directory that is removed is there with its name, or not at all as soon as the one above is changed; one of which the name was taken out
/// only is there.
pub(crate) fn what_is_removed_is_gone(how: &mut How<'_>) {
    let (_one, world) = begin();
    let names = Namespace::create(Rights::READ).unwrap();
    let root = Object::<libtwz::names::Directory>::open(names.id()).unwrap();
    scenario(
        "what is removed",
        &[root.window()],
        &world,
        &mut |step| {
            match step {
                0 => names.make_dir("/d", Rights::READ).map(drop),
                1 => names.make_dir("/d/e", Rights::READ).map(drop),
                // SAFETY: this thread is the only one.
                2 => unsafe { names.remove_dir("/d/e") },
                // SAFETY: as above.
                _ => unsafe { names.remove_dir("/d") },
            }
            .unwrap();
            step < 3
        },
        &|k| {
            let list = |path: &str| match names.list(path) {
                Err(Error::NoSuchName) => Ok(Vec::new()),
                entries => text(entries),
            };
            // A change of each directory; the failure may have been here before.
            for path in ["/probe", "/d/probe"] {
                match names.bind(path, ObjectId::from_u128(7)) {
                    Ok(()) => text(names.unbind(path)).map(drop)?,
                    Err(Error::NameExists | Error::NoSuchName) => {}
                    Err(error) => return Err(error.to_string()),
                }
            }
            let mut seen = Vec::new();
            let mut found = Vec::new();
            for (path, in_it) in [("/", "/"), ("/d", "/d/")] {
                for (name, _) in list(path)?.into_iter().filter(|(name, _)| name != "probe") {
                    let path = format!("{in_it}{name}");
                    let id = text(names.lookup(&path))?;
                    text(Object::<libtwz::names::Directory>::open(id))?;
                    seen.push(path);
                    found.push(id);
                }
            }
            let mut made = world.made();
            made.sort_unstable();
            found.sort_unstable();
            expect("what was made, by names", found, made)?;
            let all: [&[&str]; 5] = [&[], &["/d"], &["/d", "/d/e"], &["/d"], &[]];
            let expected: Vec<String> =
                all[usize::try_from(k).unwrap().min(4)].iter().map(|path| (*path).to_owned()).collect();
            expect("names", seen, expected)
        },
        how,
    );
}

/// The root of all names, and the object, are there or not.
pub(crate) fn the_root_is_there(how: &mut How<'_>) {
    let (_one, world) = begin();
    scenario(
        "the root",
        &[],
        &world,
        &mut |step| {
            let names = Namespace::root().unwrap();
            if step > 0 {
                names.bind(&format!("/{step}"), ObjectId::from_u128(5)).unwrap();
            }
            step < 2
        },
        &|k| {
            let root = Platform::root();
            expect("what was made", world.made(), root.into_iter().collect())?;
            if root.is_none() && k == 0 {
                return text(Namespace::root().and_then(|names| names.list("/"))).map(drop);
            }
            let root = root.ok_or("no root")?;
            let names = text(Namespace::at(root).list("/"))?;
            expect("names", names.len() as u64, k.saturating_sub(1))
        },
        how,
    );
}

pub(crate) fn what_was_sent_is_received(how: &mut How<'_>) {
    let (_one, world) = begin();
    let o = ObjectBuilder::new().build(Channel::<[u64; 3], 4>::new([0; 3])).unwrap();
    let id = o.id();
    scenario(
        "channel",
        &[o.window()],
        &world,
        &mut |step| {
            o.send([step, step * 2, step * 3]).unwrap();
            if step >= 2 {
                assert_eq!(o.receive().unwrap()[0], step - 2);
            }
            step < 12
        },
        &|k| {
            let o = text(Object::<Channel<[u64; 3], 4>>::open(id))?;
            let messages = text(o.waiting())?;
            for message in &messages {
                expect("message", *message, [message[0], message[0] * 2, message[0] * 3])?;
            }
            let waiting: Vec<u64> = messages.iter().map(|message| message[0]).collect();
            // Sending and receiving are two operations: between them three wait.
            let before: Vec<u64> = (k.saturating_sub(2)..k).collect();
            let between: Vec<u64> = (k.saturating_sub(3)..k).collect();
            if waiting == between { Ok(()) } else { expect("messages", waiting, before) }
        },
        how,
    );
}

#[derive(Invariant)]
#[repr(C)]
struct Done {
    once: Once,
    rest: [PCell<u64>; 7],
}

impl Done {
    const fn new() -> Self {
        Self { once: Once::new(), rest: [const { PCell::new(0) }; 7] }
    }
}

/// Whoever is told that something was done changes another object.
pub(crate) fn what_was_done_once_stays_done(how: &mut How<'_>) {
    let (_one, world) = begin();
    // A line for each: a flush of one must not be one of the next.
    let o = ObjectBuilder::new().build([const { Done::new() }; 6]).unwrap();
    let other = ObjectBuilder::new().build([const { PCell::new(0_u64) }; 6]).unwrap();
    let (id, other_id) = (o.id(), other.id());
    scenario(
        "once",
        &[o.window(), other.window()],
        &world,
        &mut |step| {
            let i = usize::try_from(step).unwrap();
            o[i].once.call_once(|| Ok(())).unwrap();
            o[i].once.call_once(|| Err(Error::Aborted)).unwrap();
            other.tx(|tx| tx.put(&other[i], 1)).unwrap();
            step < 5
        },
        &|k| {
            let o = text(Object::<[Done; 6]>::open(id))?;
            let other = text(Object::<[PCell<u64>; 6]>::open(other_id))?;
            for i in 0..6 {
                let is_told = other[i].get() == 1;
                expect("whether it was told", is_told, (i as u64) < k)?;
                let done = o[i].once.is_done();
                if is_told && !done {
                    return Err(format!("{i} is not done, but others were told that it is"));
                }
            }
            Ok(())
        },
        how,
    );
}

/// Objects that nobody opens after the failure, but follows pointers to, or reads.
pub(crate) fn what_is_not_opened_is_recovered(how: &mut How<'_>) {
    let (_one, world) = begin();
    let holder = ObjectBuilder::new().build(Pointers { places: [const { InvPtr::null() }; 16] }).unwrap();
    let targets: [_; 3] = [0, 1, 2].map(|_| ObjectBuilder::new().build(PCell::new(0_u64)).unwrap());
    let global = targets[1].global();
    holder.tx(|tx| tx.point(&holder.places[0], Some(targets[0].base()))).unwrap();
    let (id, read_id) = (holder.id(), targets[2].id());
    let windows = [holder.window(), targets[0].window(), targets[1].window(), targets[2].window()];
    scenario(
        "objects that are not opened",
        &windows,
        &world,
        &mut |step| {
            let target = &targets[usize::try_from(step % 3).unwrap()];
            if step % 2 == 0 {
                target.tx(|tx| tx.put(target, step + 1)).unwrap();
            } else {
                target.tx(|tx| tx.set(target, step + 1)).unwrap();
            }
            step < 11
        },
        &|k| {
            let holder = text(Object::<Pointers>::open(id))?;
            let found = [
                text(holder.places[0].resolve())?.get(),
                text(global.resolve(Rights::READ))?.get(),
                text(Object::<PCell<u64>>::open_with(read_id, Rights::READ))?.get(),
            ];
            // The last step at each before k, from 1.
            let last = |i: u64| (0..k).rev().find(|step| step % 3 == i).map_or(0, |step| step + 1);
            expect("cells", found, [0, 1, 2].map(last))
        },
        how,
    );
}
