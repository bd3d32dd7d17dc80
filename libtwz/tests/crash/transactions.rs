//! Transactions: one object, several, and a log that grows.

use crate::scenario::{How, expect, scenario, text};
use crate::world::begin;
use libtwz::collections::List;
use libtwz::prelude::*;
use libtwz::simulate;
use libtwz::tx::checkpoint;
use std::cell::RefCell;

#[derive(Invariant)]
#[repr(C)]
struct Cells {
    cells: [PCell<u64>; 1600],
}

fn cells() -> Object<Cells> {
    ObjectBuilder::new().build(Cells { cells: [const { PCell::new(0) }; 1600] }).unwrap()
}

pub(crate) fn transactions_are_whole_or_not_at_all(how: &mut How<'_>) {
    let (_one, world) = begin();
    let o = cells();
    let id = o.id();
    // Cell 0 counts; cells 8, 16, 24 follow it in different ways.
    let all = |k: u64| [0, 8, 16, 24, 33].map(|i| (i, k * (i as u64 + 1)));
    scenario(
        "transactions",
        &[o.window()],
        &world,
        &mut |step| {
            let k = step + 1;
            o.tx(|tx| match step % 5 {
                0 => all(k).iter().try_for_each(|(i, v)| tx.set(&o.cells[*i], *v)),
                1 => all(k).iter().try_for_each(|(i, v)| tx.put(&o.cells[*i], *v)),
                2 => {
                    all(k).iter().try_for_each(|(i, _)| tx.record(&o.cells[*i]))?;
                    all(k).iter().try_for_each(|(i, v)| tx.set_recorded(&o.cells[*i], *v))
                }
                3 => {
                    let _ = tx.nested(|tx| {
                        tx.set(&o.cells[0], 999)?;
                        tx.set(&o.cells[40], 999)?;
                        Err::<(), _>(Error::Aborted)
                    });
                    all(k).iter().try_for_each(|(i, v)| tx.set(&o.cells[*i], *v))
                }
                _ => {
                    tx.set(&o.cells[0], all(k)[0].1)?;
                    all(k)[1..].iter().try_for_each(|(i, v)| tx.put(&o.cells[*i], *v))
                }
            })
            .unwrap();
            // An aborted one between; it changes nothing.
            let _ = o.tx(|tx| {
                tx.set(&o.cells[0], 7)
                    .and_then(|()| tx.set(&o.cells[48], 7))
                    .and(Err::<(), _>(Error::Aborted))
            });
            if step % 3 == 2 {
                checkpoint(o.window()).unwrap(); // what the aborted one left in place is all there is now
            }
            step < 6
        },
        &|k| {
            let o = text(Object::<Cells>::open(id))?;
            for (i, value) in all(k) {
                expect(&format!("cell {i}"), o.cells[i].get(), value)?;
            }
            expect("cell 40", o.cells[40].get(), 0)?;
            expect("cell 48", o.cells[48].get(), 0)
        },
        how,
    );
}

pub(crate) fn the_log_crosses_its_chunks(how: &mut How<'_>) {
    let (_one, world) = begin();
    // The first chunk has room for four lines, so that most transactions end in another than they began in.
    let o =
        ObjectBuilder::new().log_bytes(256).build(Cells { cells: [const { PCell::new(0) }; 1600] }).unwrap();
    let id = o.id();
    scenario(
        "log growth",
        &[o.window()],
        &world,
        &mut |step| {
            o.tx(|tx| {
                for cell in &o.cells[..12] {
                    tx.record(cell)?;
                }
                for cell in &o.cells[..12] {
                    tx.set_recorded(cell, step + 1)?;
                }
                Ok(())
            })
            .unwrap();
            step < 3
        },
        &|k| {
            let o = text(Object::<Cells>::open(id))?;
            for (i, cell) in o.cells[..12].iter().enumerate() {
                expect(&format!("cell {i}"), cell.get(), k)?;
            }
            Ok(())
        },
        how,
    );
}

pub(crate) fn several_objects_change_together(how: &mut How<'_>) {
    let (_one, world) = begin();
    let objects = [cells(), cells(), cells()];
    let ids = objects.map(|o| o.id());
    // Home and who takes part with it, or who changes alone. The last object takes part twice in a row with another coordinator, then with
    // a log of its own in use; each of the others becomes part of the other's later.
    const STEPS: [(usize, Option<usize>); 9] = [
        (0, Some(2)),
        (1, Some(2)),
        (2, None),
        (0, Some(2)),
        (0, None),
        (2, Some(0)),
        (1, None),
        (0, Some(1)),
        (1, Some(0)),
    ];
    let model = |k: u64| {
        let mut values = [[0; 2]; 3];
        for step in 0..k {
            match STEPS[usize::try_from(step).unwrap()] {
                (alone, None) => values[alone][1] = step + 1,
                (home, Some(other)) => {
                    values[home][0] = step + 1;
                    values[other][0] = step + 1;
                }
            }
        }
        values
    };
    let windows = objects.map(|o| o.window());
    scenario(
        "several objects",
        &windows,
        &world,
        &mut |step| {
            match STEPS[usize::try_from(step).unwrap()] {
                (alone, None) => {
                    let o = &objects[alone];
                    o.tx(|tx| [200, 300].iter().try_for_each(|i| tx.put(&o.cells[*i], step + 1))).unwrap();
                }
                (home, Some(other)) => {
                    let (home, other) = (&objects[home], &objects[other]);
                    home.tx(|tx| {
                        tx.set(&home.cells[3], step + 1)?;
                        tx.set(&other.cells[3], step + 1)?;
                        tx.put(&other.cells[99], step + 1)?;
                        tx.put(&home.cells[99], step + 1)
                    })
                    .unwrap();
                }
            }
            step + 1 < STEPS.len() as u64
        },
        &|k| {
            // Whichever is opened first.
            for order in [[0, 1, 2], [2, 1, 0]] {
                for i in order {
                    let o = text(Object::<Cells>::open(ids[i]))?;
                    expect(&format!("cell 3 of {i}"), o.cells[3].get(), model(k)[i][0])?;
                    expect(&format!("cell 99 of {i}"), o.cells[99].get(), model(k)[i][0])?;
                    expect(&format!("cell 200 of {i}"), o.cells[200].get(), model(k)[i][1])?;
                    expect(&format!("cell 300 of {i}"), o.cells[300].get(), model(k)[i][1])?;
                }
            }
            Ok(())
        },
        how,
    );
}

/// Recovery as a part of the run: its stores, flushes and fences are explored and mutated, too.
pub(crate) fn recovery_survives(how: &mut How<'_>) {
    let (_one, world) = begin();
    let (o, other) = (cells(), cells());
    let ids = [o.id(), other.id()];
    scenario(
        "recovery",
        &[o.window(), other.window()],
        &world,
        &mut |step| {
            if step % 2 == 1 {
                // Its batch goes where the first one of the transaction that was cut off stands, before the second.
                let value = step.div_ceil(2);
                if step % 4 == 1 {
                    other.tx(|tx| tx.put(&other.cells[8], value)).unwrap();
                } else {
                    o.tx(|tx| tx.set(&other.cells[8], value).and(tx.put(&o.cells[32], value))).unwrap();
                }
                return step < 11;
            }
            o.tx(|tx| [0, 8, 16].iter().try_for_each(|i| tx.put(&o.cells[*i], step / 2 + 1))).unwrap();
            // The next one is cut off, after it changed things in place in two objects; then the machine starts again.
            let cut_off = o.begin().unwrap();
            cut_off.set(&o.cells[0], 900).unwrap();
            cut_off.set(&other.cells[0], 900).unwrap();
            cut_off.set(&other.cells[8], 900).unwrap();
            cut_off.set(&o.cells[16], 900).unwrap();
            std::mem::forget(cut_off);
            libtwz::simulate::reboot();
            let order = if step % 4 == 0 { [0, 1] } else { [1, 0] };
            for i in order {
                Object::<Cells>::open(ids[i]).unwrap();
            }
            if step == 4 {
                checkpoint(o.window()).unwrap(); // in others, what comes next must find an empty log
            }
            true
        },
        &|k| {
            let o = text(Object::<Cells>::open(ids[0]))?;
            for i in [0, 8, 16] {
                expect(&format!("cell {i}"), o.cells[i].get(), k.div_ceil(2))?;
            }
            expect("cell 32", o.cells[32].get(), k / 4 * 2)?;
            let other = text(Object::<Cells>::open(ids[1]))?;
            expect("the other's cell 8", other.cells[8].get(), k / 2)?;
            expect("the other's cell 0", other.cells[0].get(), 0)
        },
        how,
    );
}

/// A log that many small transactions use up grows by itself, and starts anew when it is large.
pub(crate) fn the_log_grows_and_starts_anew(how: &mut How<'_>) {
    let (_one, world) = begin();
    let small =
        || ObjectBuilder::new().log_bytes(256).build(Cells { cells: [const { PCell::new(0) }; 1600] });
    let grows = small().unwrap();
    let id = grows.id();
    scenario(
        "log reuse",
        &[grows.window()],
        &world,
        &mut |step| {
            grows.tx(|tx| [0, 700].iter().try_for_each(|i| tx.put(&grows.cells[*i], step + 1))).unwrap();
            if step == 7 {
                checkpoint(grows.window()).unwrap();
            }
            step < 10
        },
        &|k| {
            let o = text(Object::<Cells>::open(id))?;
            expect("cell 0", o.cells[0].get(), k)?;
            expect("cell 700", o.cells[700].get(), k)
        },
        how,
    );
}

/// Lines so far apart that they have one place in the set of dirty ones: the first is flushed when the second takes it, and a checkpoint must find
/// that done; also when one transaction puts into both, which are stored after that.
pub(crate) fn lines_take_each_others_place(how: &mut How<'_>) {
    #[derive(Invariant)]
    #[repr(C)]
    struct Wide {
        near: PCell<u64>,
        between: [PCell<u64>; 64 * 1024 / 8 - 1],
        far: PCell<u64>,
    }

    let (_one, world) = begin();
    let zero = || PCell::new(0);
    let wide = Wide { near: zero(), between: [const { PCell::new(0) }; 64 * 1024 / 8 - 1], far: zero() };
    let o = ObjectBuilder::new().build(wide).unwrap();
    let id = o.id();
    scenario(
        "one place for two lines",
        &[o.window()],
        &world,
        &mut |step| {
            let (near, far) = (step % 3 != 1, step % 3 != 0);
            o.tx(|tx| {
                if near {
                    tx.put(&o.near, step + 1)?;
                }
                if far { tx.put(&o.far, step + 1) } else { Ok(()) }
            })
            .unwrap();
            if far {
                checkpoint(o.window()).unwrap();
            }
            step < 30
        },
        &|k| {
            let o = text(Object::<Wide>::open(id))?;
            expect("the near cell", o.near.get(), if k % 3 == 2 { k - 1 } else { k })?;
            expect("the far cell", o.far.get(), if k % 3 == 1 { k - 1 } else { k })
        },
        how,
    );
}

/// Cells on lines of which each two have one place.
#[derive(Invariant)]
#[repr(C)]
struct Pairs {
    cells: [PCell<u64>; PAIRS * 16],
}

/// Lines between two that have one place, and pairs of these.
const PAIRS: usize = 64 * 1024 / 64;

/// So many of them that they are flushed while a transaction runs, before the next checkpoint: `each` are the cells that a step puts to. No
/// line is stored to again, which would have it flushed once more.
fn lose_places<I: Iterator<Item = usize>>(
    name: &str,
    steps: u64,
    each: impl Fn(u64) -> I,
    is_followed: impl Fn(u64) -> bool,
    how: &mut How<'_>,
) {
    let (_one, world) = begin();
    let o = ObjectBuilder::new().build(Pairs { cells: [const { PCell::new(0) }; PAIRS * 16] }).unwrap();
    let id = o.id();
    scenario(
        name,
        &[o.window()],
        &world,
        &mut |step| {
            o.tx(|tx| each(step).try_for_each(|line| tx.put(&o.cells[line * 8], step + 1))).unwrap();
            if is_followed(step) {
                checkpoint(o.window()).unwrap();
            }
            step + 1 < steps
        },
        &|k| {
            let o = text(Object::<Pairs>::open(id))?;
            (0..steps).flat_map(|step| each(step).map(move |line| (step, line))).try_for_each(
                |(step, line)| {
                    expect(
                        &format!("line {line}"),
                        o.cells[line * 8].get(),
                        if step < k { step + 1 } else { 0 },
                    )
                },
            )
        },
        how,
    );
}

/// By turns sixteen new lines, and those that take their places.
pub(crate) fn many_lines_lose_their_places(how: &mut How<'_>) {
    let each = |step: u64| {
        let first = usize::try_from(step / 2).unwrap() * 16 + usize::from(step % 2 == 1) * PAIRS;
        first..first + 16
    };
    lose_places("many lines that lose their places", 5, each, |step| step % 4 == 3, how);
}

/// They are flushed before the transaction stores to them that marked them.
pub(crate) fn a_transaction_takes_many_of_its_own_places(how: &mut How<'_>) {
    let each = |step: u64| {
        let first = usize::try_from(step).unwrap() * 32;
        (first..first + 32).chain(first + PAIRS..first + PAIRS + 32)
    };
    lose_places("a transaction that takes its own lines' places", 1, each, |_| true, how);
}

/// What a nested transaction put into a block that it gave back by failing is in the log, and another block comes to stand there.
pub(crate) fn a_block_comes_where_a_failed_one_was(how: &mut How<'_>) {
    #[derive(Invariant)]
    #[repr(C)]
    struct Holder {
        list: List<[u64; 4]>,
        block: InvPtr<[u64; 8]>,
        done: PCell<u64>,
    }

    let (_one, world) = begin();
    let o = ObjectBuilder::new()
        .build(Holder { list: List::new(), block: InvPtr::null(), done: PCell::new(0) })
        .unwrap();
    let id = o.id();
    scenario(
        "a block where a failed one was",
        &[o.window()],
        &world,
        &mut |step| {
            let changed = o.tx(|tx| {
                if step % 2 == 0 {
                    let failing = |tx: &Tx| o.list.push_back_in(tx, [7; 4]).and(Err::<(), _>(Error::Aborted));
                    assert_eq!(tx.nested(failing), Err(Error::Aborted));
                } else {
                    tx.point(&o.block, Some(tx.alloc([step; 8])?))?;
                }
                tx.put(&o.done, step + 1)
            });
            changed.unwrap();
            step < 4
        },
        &|k| {
            let o = text(Object::<Holder>::open(id))?;
            expect("transactions done", o.done.get(), k)?;
            let block = text(o.block.get())?.copied();
            let last = if k % 2 == 0 { k.checked_sub(1) } else { k.checked_sub(2) };
            expect("the block", block, last.map(|step| [step; 8]))
        },
        how,
    );
}

/// A log that has no room for more in its object goes on in others, which are there before anything of it stands in them, and stay.
pub(crate) fn the_log_goes_on_in_other_objects(how: &mut How<'_>) {
    let (_one, world) = begin();
    // A piece has room for one batch of the largest entry, and four lines stand in the object.
    let build = || {
        ObjectBuilder::new()
            .log_bytes(256)
            .log_most(1)
            .build(Cells { cells: [const { PCell::new(0) }; 1600] })
    };
    let o = build().unwrap();
    let id = o.id();
    let meta = usize::try_from(twz_abi::object::META_OFFSET).unwrap();
    let log = usize::try_from(o.window().load(meta + 24)).unwrap();
    let change = |o: &Object<Cells>, tx: &Tx, count: usize, value: u64| {
        // Backwards: records side by side would be one, and the log half as long.
        o.cells[..count].iter().rev().try_for_each(|cell| tx.record(cell))?;
        o.cells[..count].iter().try_for_each(|cell| tx.set_recorded(cell, value))
    };
    // All that is new happens in the first ones, and what is there is what mutants are told by.
    let is_mutant = matches!(how, How::Mutate(_));
    let last = if is_mutant { 1 } else { 4 };
    // What a check does is undone, as is every third of the run.
    let undone =
        |o: &Object<Cells>, count| o.tx(|tx| change(o, tx, count, 7777).and(Err::<(), _>(Error::Aborted)));
    scenario(
        "log in several objects",
        &[o.window()],
        &world,
        &mut |step| {
            match step {
                0 | 3 => o.tx(|tx| tx.put(&o.cells[0], step + 1)).unwrap(),
                1 => {
                    o.tx(|tx| change(&o, tx, 100, 2)).unwrap();
                    assert_eq!(undone(&o, 90), Err(Error::Aborted));
                }
                _ => o.tx(|tx| change(&o, tx, 140, step + 1)).unwrap(),
            }
            assert!(step == 0 || o.window().load(log + 48) != 0, "the log has outgrown its object");
            step < last
        },
        &|k| {
            let o = text(Object::<Cells>::open(id))?;
            let model = |i: u64| match k {
                0 => 0,
                1 => u64::from(i == 0),
                2 => {
                    if i < 100 {
                        2
                    } else {
                        0
                    }
                }
                4 if i == 0 => 4,
                3 | 4 => {
                    if i < 140 {
                        3
                    } else {
                        0
                    }
                }
                _ => {
                    if i < 140 {
                        5
                    } else {
                        0
                    }
                }
            };
            let check = || {
                expect(
                    "cells",
                    o.cells[..150].iter().map(PCell::get).collect(),
                    (0..150).map(model).collect::<Vec<_>>(),
                )?;
                expect("objects that nothing leads to", world.stray(), vec![])
            };
            check()?;
            if o.window().load(log + 48) == 0 || is_mutant {
                return Ok(());
            }
            // Also where a link leads to a piece that went with the power: another takes its place.
            expect("what goes on", undone(&o, 50), Err(Error::Aborted))?;
            check()
        },
        how,
    );
}

/// Threads end after more and more events of a transaction of two objects, and one of these is needed next, before the power fails.
pub(crate) fn what_a_thread_left_is_put_in_order(how: &mut How<'_>) {
    let (_one, world) = begin();
    let objects = [cells(), cells()];
    let ids = objects.map(|o| o.id());
    // Mutants of what comes then are told by where it matters most: around the commit.
    let is_mutant = matches!(how, How::Mutate(_));
    let steps = if is_mutant { 20 } else { 64 };
    // What the transactions have made of both objects, after each step.
    let values = RefCell::new(vec![0]);
    scenario(
        "threads that end",
        &objects.map(|o| o.window()),
        &world,
        &mut |step| {
            let [home, other] = if step % 2 == 0 { objects } else { [objects[1], objects[0]] };
            let next = if step % 4 < 2 { other } else { home };
            let events = u32::try_from(if is_mutant { 20 + step / 4 * 3 } else { step + 1 }).unwrap();
            let change = |tx: &Tx| {
                tx.set(&home.cells[8], step + 1)?;
                tx.put(&home.cells[16], step + 1)?;
                tx.set(&other.cells[8], step + 1)?;
                tx.put(&other.cells[16], step + 1)
            };
            simulate::as_one_that_ends(events, || home.tx(change).unwrap());
            next.tx(|tx| tx.put(&objects[0].cells[0], step + 1)).unwrap();
            Object::<Cells>::open(home.id()).unwrap();
            values.borrow_mut().push(home.cells[8].get());
            step + 1 < steps
        },
        &|k| {
            let all = [text(Object::<Cells>::open(ids[0]))?, text(Object::<Cells>::open(ids[1]))?];
            expect("cell 0", all[0].cells[0].get(), k)?;
            let found: Vec<u64> = all.iter().flat_map(|o| [8, 16].map(|cell| o.cells[cell].get())).collect();
            let k = usize::try_from(k).unwrap();
            let values = values.borrow();
            let allowed = &values[k..values.len().min(k + 2)];
            let is_one = allowed.iter().any(|value| found == [*value; 4]);
            if is_one { Ok(()) } else { Err(format!("{found:?}, and not one of {allowed:?}, after {k}")) }
        },
        how,
    );
    if matches!(how, How::Explore) {
        let values = values.into_inner();
        let kept = values.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(kept > 3 && kept < values.len() - 3, "some were committed, and some undone: {values:?}");
    }
}
