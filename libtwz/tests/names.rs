//! The namespace, and pointers by name.

#![allow(clippy::unwrap_used, reason = "tests")]

use libtwz::names::{Entry, Namespace, Resolver, clear_by_name, content_name, point_by_name};
use libtwz::prelude::*;

#[derive(Invariant)]
#[repr(C)]
struct Number {
    value: PCell<u64>,
    other: InvPtr<Number>,
}

fn number(value: u64) -> Object<Number> {
    ObjectBuilder::new().build(Number { value: PCell::new(value), other: InvPtr::null() }).unwrap()
}

#[test]
fn paths_lead_where_they_should() {
    let names = Namespace::create(Rights::READ).unwrap();
    let (a, b) = (number(1), number(2));
    names.make_dir("/lib", Rights::READ).unwrap();
    names.make_dir("/lib/deep", Rights::READ).unwrap();
    names.bind("/lib/a", a.id()).unwrap();
    names.bind("/lib/deep/b", b.id()).unwrap();
    names.link("/short", "lib/deep").unwrap();
    names.link("/lib/deep/up", "../a").unwrap();
    names.link("/loop", "/loop").unwrap();
    assert_eq!(names.lookup("/lib/a"), Ok(a.id()));
    assert_eq!(Namespace::read_only(names.id()).lookup("/lib/a"), Ok(a.id()));
    assert_eq!(names.lookup("/short/b"), Ok(b.id()));
    assert_eq!(names.lookup("lib//deep/./../deep/up"), Ok(a.id()));
    assert_eq!(names.lookup("/../../lib/a"), Ok(a.id()), "nothing above the root");
    assert_eq!(names.lookup("/loop"), Err(Error::BadName));
    assert_eq!(names.lookup("/lib/missing"), Err(Error::NoSuchName));
    assert_eq!(names.lookup("/lib/a/x"), Err(Error::NoSuchName));
    assert_eq!(names.entry("/short"), Ok(Entry::Link("lib/deep".into())));
    assert_eq!(names.bind("/lib/a", b.id()), Err(Error::NameExists));
    assert_eq!(names.unbind("/lib"), Err(Error::NameExists), "not empty");
    let listed: Vec<String> = names.list("/lib").unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(listed, ["a", "deep"]);
    assert_eq!(names.rebind("/lib/a", b.id()), Ok(Some(Entry::Object(a.id()))));
    assert_eq!(names.unbind("/lib/a"), Ok(Entry::Object(b.id())));
    assert_eq!(names.lookup("/lib/a"), Err(Error::NoSuchName));
    for bad in ["", "/x\0y", &"n".repeat(256)] {
        assert_eq!(names.bind(bad, a.id()), Err(Error::BadName), "{bad:?}");
    }
}

#[test]
fn links_that_name_two_others_end_soon() {
    let names = Namespace::create(Rights::READ).unwrap();
    let lib = names.make_dir("/lib", Rights::READ).unwrap();
    names.link("/l0", "lib").unwrap();
    names.link("/m0", "lib").unwrap();
    for i in 1..=40 {
        names.link(&format!("/l{i}"), &format!("l{}/../l{}", i - 1, i - 1)).unwrap();
        names.link(&format!("/m{i}"), &format!("m{}", i - 1)).unwrap();
    }
    assert_eq!(names.lookup("/l3"), Ok(lib), "fifteen links");
    assert_eq!(names.lookup("/m39"), Ok(lib), "forty links, one after the other");
    assert_eq!(names.lookup("/m40"), Err(Error::BadName));
    // Two to the twelfth; if these came to an end, those of /l40 would not.
    for path in ["/l12", "/l12/x"] {
        assert_eq!(names.lookup(path), Err(Error::BadName), "{path}");
    }
    assert_eq!(names.lookup("/l40"), Err(Error::BadName));
}

#[test]
fn many_names_in_one_directory() {
    let names = Namespace::create(Rights::READ).unwrap();
    let a = number(1);
    let free = libtwz::Object::<libtwz::names::Directory>::open(names.id()).unwrap();
    for round in 0..2 {
        for i in 0..300 {
            names.bind(&format!("name number {i}"), a.id()).unwrap();
        }
        assert_eq!(names.list("/").unwrap().len(), 300);
        for i in 0..300 {
            assert_eq!(names.unbind(&format!("/name number {i}")), Ok(Entry::Object(a.id())));
        }
        assert!(names.list("/").unwrap().is_empty(), "round {round}");
    }
    let census = free.census().unwrap();
    assert!(census.free_bytes > census.bytes / 2, "records are given back: {census:?}");
}

#[test]
fn readers_see_names_while_writers_work() {
    let names = Namespace::create(Rights::READ).unwrap();
    let (a, b) = (number(1), number(2));
    names.bind("/fixed", a.id()).unwrap();
    names.bind("/moving", a.id()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..150 {
                names.bind(&format!("/n{i}"), b.id()).unwrap();
                names.rebind("/moving", if i % 2 == 0 { b.id() } else { a.id() }).unwrap();
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..300 {
                    assert_eq!(names.lookup("/fixed"), Ok(a.id()));
                    let moving = names.lookup("/moving").unwrap();
                    assert!([a.id(), b.id()].contains(&moving), "{moving}");
                }
            });
        }
    });
    assert_eq!(names.list("/").unwrap().len(), 152);
}

#[test]
fn a_name_is_taken_over_in_place() {
    let names = Namespace::create(Rights::READ).unwrap();
    let (a, b) = (number(1), number(2));
    assert_eq!(names.rebind("/it", a.id()), Ok(None));
    names.link("/link", "/it").unwrap();
    let directory = libtwz::Object::<libtwz::names::Directory>::open(names.id()).unwrap();
    let used = || directory.census().map(|census| census.bytes - census.free_bytes).unwrap();
    let before = used();
    for _ in 0..100 {
        assert_eq!(names.rebind("/it", b.id()), Ok(Some(Entry::Object(a.id()))));
        assert_eq!(names.rebind("/it", a.id()), Ok(Some(Entry::Object(b.id()))));
    }
    assert_eq!(names.rebind("/link", b.id()), Ok(Some(Entry::Link("/it".into()))));
    assert_eq!((names.lookup("/link"), names.lookup("/it")), (Ok(b.id()), Ok(a.id())));
    let dir = names.make_dir("/dir", Rights::READ).unwrap();
    assert_eq!(names.rebind("/dir", a.id()), Err(Error::NameExists));
    assert_eq!(names.lookup("/dir"), Ok(dir));
    names.unbind("/dir").unwrap();
    assert!(used() < before, "the link's text is given back");
}

#[test]
fn no_name_goes_into_a_directory_that_is_taken_out() {
    let names = Namespace::create(Rights::READ).unwrap();
    let a = number(1);
    let (mut bound, mut gone) = (0, 0);
    for round in 0..60 {
        names.make_dir("/dir", Rights::READ).unwrap();
        let (bind, unbind) = std::thread::scope(|scope| {
            let binder = scope.spawn(|| {
                // Now one is first, now the other.
                (0..round % 3).for_each(|_| std::thread::yield_now());
                names.bind("/dir/name", a.id())
            });
            let unbind = names.unbind("/dir");
            (binder.join().unwrap(), unbind)
        });
        match (bind, unbind) {
            (Ok(()), Err(Error::NameExists)) => {
                bound += 1;
                assert_eq!(names.lookup("/dir/name"), Ok(a.id()), "what was bound is found");
                names.unbind("/dir/name").unwrap();
                names.unbind("/dir").unwrap();
            }
            (Err(Error::NoSuchName), Ok(Entry::Directory(_))) => gone += 1,
            other => panic!("round {round}: {other:?}"),
        }
    }
    assert_eq!(bound + gone, 60);
    // The same, one after the other: by who has found the directory before it was taken out.
    let dir = Namespace::at(names.make_dir("/dir", Rights::READ).unwrap());
    names.unbind("/dir").unwrap();
    assert_eq!(dir.bind("/name", a.id()), Err(Error::NoSuchName));
    assert_eq!(dir.make_dir("/name", Rights::READ), Err(Error::NoSuchName));
    // Deleted.
    let dir = names.make_dir("/dir", Rights::READ).unwrap();
    names.bind("/name", a.id()).unwrap();
    // SAFETY: nobody else uses it.
    let remove = |path| unsafe { names.remove_dir(path) };
    assert_eq!((remove("/name"), remove("/dir")), (Err(Error::NoSuchName), Ok(())));
    assert_eq!(names.lookup("/dir"), Err(Error::NoSuchName));
    assert_eq!(
        libtwz::Object::<libtwz::names::Directory>::open(dir).map(drop),
        Err(Error::NoSuchObject(dir))
    );
}

#[test]
fn a_name_whose_object_is_gone_is_free() {
    let names = Namespace::create(Rights::READ).unwrap();
    let open = |value: u64| {
        let root = || Number { value: PCell::new(value), other: InvPtr::null() };
        names.open_or_build("/it", ObjectBuilder::new(), root).map(|o| (o.id(), o.value.get()))
    };
    let (first, value) = open(1).unwrap();
    assert_eq!((value, open(2)), (1, Ok((first, 1))));
    let object = libtwz::Object::<Number>::open(first).unwrap();
    // SAFETY: no reference into it is used after this.
    unsafe { object.delete() }.unwrap();
    let (second, value) = open(3).unwrap();
    assert!(value == 3 && second != first);
    assert_eq!((open(4), names.lookup("/it")), (Ok((second, 3)), Ok(second)));
    assert_eq!(names.list("/").unwrap().len(), 1);
}

#[test]
fn a_pointer_by_name_follows_the_name() {
    let names = Namespace::create(Rights::READ).unwrap();
    let resolver = Resolver::paths(names).unwrap();
    let (old, new, holder) = (number(10), number(20), number(0));
    holder
        .tx(|tx| point_by_name(tx, &holder.other, "/bin/it", Some(&resolver), Rights::READ | Rights::WRITE))
        .unwrap();
    assert_eq!(holder.other.resolve().map(drop), Err(Error::NoSuchName), "resolved late");
    names.make_dir("/bin", Rights::READ).unwrap();
    names.bind("/bin/it", old.id()).unwrap();
    for _ in 0..2 {
        assert_eq!(holder.other.resolve().unwrap().value.get(), 10);
    }
    names.rebind("/bin/it", new.id()).unwrap();
    assert_eq!(holder.other.resolve().unwrap().value.get(), 20);
    names.unbind("/bin/it").unwrap();
    assert!(holder.other.resolve().is_err());
}

#[test]
fn the_default_resolver_uses_the_machines_root() {
    let names = Namespace::root().unwrap();
    let (target, holder) = (number(30), number(0));
    names.bind("/default-target", target.id()).unwrap();
    holder.tx(|tx| point_by_name(tx, &holder.other, "/default-target", None, Rights::READ)).unwrap();
    assert_eq!(holder.other.resolve().unwrap().value.get(), 30);
}

#[test]
fn tables_and_contents_resolve_too() {
    let table = Namespace::create(Rights::READ).unwrap();
    let (by_table, by_content) = (Resolver::table(table).unwrap(), Resolver::contents(table).unwrap());
    let (target, holder) = (number(40), number(0));
    let name = content_name(target.id(), size_of::<Number>()).unwrap();
    table.bind(&name, target.id()).unwrap();
    for resolver in [&by_table, &by_content] {
        holder.tx(|tx| point_by_name(tx, &holder.other, &name, Some(resolver), Rights::READ)).unwrap();
        assert_eq!(holder.other.resolve().unwrap().value.get(), 40);
    }
    target.tx(|tx| tx.set(&target.value, 41)).unwrap();
    let again = number(0);
    again.tx(|tx| point_by_name(tx, &again.other, &name, Some(&by_content), Rights::READ)).unwrap();
    assert_eq!(again.other.resolve().map(drop), Err(Error::NoSuchName), "other contents now");
}

#[test]
fn entries_of_names_are_used_again() {
    let names = Namespace::create(Rights::READ).unwrap();
    let [a, b] = [1, 2].map(|i| ObjectBuilder::new().build(PCell::new(i)).unwrap());
    names.bind("/a", a.id()).unwrap();
    names.bind("/b", b.id()).unwrap();
    let resolver = Resolver::paths(names).unwrap();
    let holder = ObjectBuilder::new().build([const { InvPtr::<PCell<i32>>::null() }; 3]).unwrap();
    let point =
        |tx: &Tx, i: usize, name: &str| point_by_name(tx, &holder[i], name, Some(&resolver), Rights::READ);
    let value = |i: usize| holder[i].get().map(|target| target.map(PCell::get));
    holder.tx(|tx| point(tx, 0, "/a")).unwrap();
    let (mut most, mut used) = (0, 0);
    for round in 0..300 {
        // One that is undone, and one that is taken away again; two at once are two.
        let undone =
            holder.tx(|tx| point(tx, 1, "/b").and(point(tx, 2, "/a")).and(Err::<(), _>(Error::Aborted)));
        assert_eq!((undone, value(1), value(2)), (Err(Error::Aborted), Ok(None), Ok(None)));
        let [first, second] = if round % 2 == 0 { ["/b", "/a"] } else { ["/a", "/b"] };
        holder.tx(|tx| point(tx, 1, first).and(point(tx, 2, second))).unwrap();
        let expected = if round % 2 == 0 { [2, 1] } else { [1, 2] };
        assert_eq!(
            [value(0), value(1), value(2)],
            [Ok(Some(1)), Ok(Some(expected[0])), Ok(Some(expected[1]))]
        );
        most = most.max(holder[1].raw().index()).max(holder[2].raw().index());
        clear_by_name(&holder[1]).unwrap();
        clear_by_name(&holder[2]).unwrap();
        assert_eq!((value(1), value(2)), (Ok(None), Ok(None)));
        let census = holder.census().unwrap();
        let in_use = census.bytes - census.free_bytes;
        assert!(round == 0 || in_use == used, "the names' blocks are used again");
        used = in_use;
    }
    assert!(most <= 5, "{most} entries for three names and a resolver");
    // What leads by no name is left alone.
    assert!(matches!(clear_by_name(&holder[1]), Err(Error::Damaged { .. })));
    holder.tx(|tx| tx.point(&holder[1], Some(a.base()))).unwrap();
    assert!(matches!(clear_by_name(&holder[1]), Err(Error::Damaged { .. })));
    assert_eq!(value(1), Ok(Some(1)));
}
