//! Two programs on the same objects: what one changes, the other must not see stale.
//!
//! The other program is this one, started again in a view of its own, with tables of its own. Both map the board; the first changes an FOT
//! entry and a name there, the second follows them. A third one ends in the middle of a transaction.

use libtwz::names::{Namespace, point_by_name};
use libtwz::prelude::*;
use libtwz::sync::{Channel, Mutex};
use libtwz::{fot, thread};
use twz_rt::process::{Command, Here};

/// Changes of each kind.
const ROUNDS: u64 = 40;
/// What a program stores that ends before it commits.
const ENDS: u64 = 99;
const RW: Rights = Rights::READ.union(Rights::WRITE);

#[derive(Invariant)]
#[repr(C)]
struct Board {
    by_id: InvPtr<PCell<u64>>,
    by_name: InvPtr<PCell<u64>>,
    lock: Mutex<PCell<u64>>,
    /// What the second program is to see; what it saw.
    asked: Channel<u64, 4>,
    seen: Channel<[u64; 2], 4>,
}

/// The first program's part.
pub(crate) fn first(program: ObjectId) -> Result<()> {
    let names = Namespace::root()?;
    let build = |value: u64| ObjectBuilder::new().uncoloured().build(PCell::new(value));
    let targets = [build(0)?, build(1)?];
    // A new board each time: the channels of an old one are closed.
    match names.unbind("/libtest-board") {
        Ok(_) | Err(Error::NoSuchName) => {}
        Err(error) => return Err(error),
    }
    let board = Object::<Board>::named("/libtest-board", || Board {
        by_id: InvPtr::null(),
        by_name: InvPtr::null(),
        lock: Mutex::new(PCell::new(0)),
        asked: Channel::new(0),
        seen: Channel::new([0; 2]),
    })?;
    names.rebind("/libtest-target", targets[0].id())?;
    board.tx(|tx| tx.point(&board.by_id, Some(targets[0].base())))?;
    board.tx(|tx| point_by_name(tx, &board.by_name, "/libtest-target", None, RW))?;

    // SAFETY: this program was loaded.
    let ours = unsafe { twz_rt::Args::current() };
    let start = |word: &'static str| {
        let started = Command::new(program, "libtest").args(&[word]).spawn(&ours, &Here);
        started.map_err(|error| Error::Platform { operation: "start another program", code: error as i32 })
    };
    let child = start("second")?;
    for round in 0..ROUNDS {
        let target = &targets[usize::try_from(round % 2).unwrap_or(0)];
        fot::change(board.window(), board.by_id.raw().index(), fot::Target::Id(target.id()), RW)?;
        names.rebind("/libtest-target", target.id())?;
        let value = board.lock.lock()?;
        value.set_without_log(value.get() + 1);
        drop(value);
        board.asked.send(round)?;
        assert_eq!(board.seen.receive()?, [round % 2; 2], "round {round}");
    }
    board.asked.close()?;
    let ended = child.wait();
    assert_eq!(ended.status, 7, "{ended:?}");
    assert_eq!(board.lock.lock()?.get(), ROUNDS * 2, "both took the lock");

    let [first, last] = targets;
    names.rebind("/libtest-ends", first.id())?;
    let ended = start("ends")?.wait();
    assert_eq!(ended.status, 3, "{ended:?}");
    assert_eq!([first.get(), last.get()], [ENDS; 2], "what it left");
    last.tx(|tx| tx.set(&last, last.get() + 1))?;
    assert_eq!([first.get(), last.get()], [0, 2], "what it left was put back before");
    names.unbind("/libtest-ends")?;
    println!("libtest: {ROUNDS} changes seen by another program");
    Ok(())
}

/// The third program's part: it ends in the middle.
pub(crate) fn ends() -> Result<u8> {
    let [first, last] = ["/libtest-ends", "/libtest-target"].map(|name| {
        Namespace::root().and_then(|names| names.lookup(name)).and_then(Object::<PCell<u64>>::open)
    });
    let (first, last) = (first?, last?);
    first.tx(|tx| {
        tx.set(&first, ENDS)?;
        tx.set(&last, ENDS)?;
        libtwz::exit(3)
    })
}

/// The second program's part: status 7 when all went well.
pub(crate) fn second() -> Result<u8> {
    let board = Object::<Board>::open(Namespace::root()?.lookup("/libtest-board")?)?;
    while board.asked.receive().is_ok() {
        let seen = [board.by_id.resolve()?.get(), board.by_name.resolve()?.get()];
        let value = board.lock.lock()?;
        value.set_without_log(value.get() + 1);
        drop(value);
        board.seen.send(seen)?;
        thread::yield_now();
    }
    Ok(7)
}
