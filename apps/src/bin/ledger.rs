//! The load of power-cut and kill tests on `libtwz`: transactions, two collections and pointers to other objects.
//!
//!     ledger SEED
//!
//! The operations are those of `churn`, each of them one transaction that counts itself. A thing is an entry of a tree and of a hash
//! map, and a pointer through the FOT to one of the notes, objects of their own; now and then an entry of the FOT is changed to a note's new
//! object. It is resumable; when it begins, and when it begins again, it checks that the three agree and prints what it finds.
#![no_std]
#![no_main]

#[path = "churn/books.rs"]
mod books;
#[path = "churn/plan.rs"]
mod plan;

use books::{Books, Seen, TORN, place};
use libtwz::collections::{BTreeMap, HashMap};
use libtwz::prelude::*;
use libtwz::resume::{self, Resumed};
use libtwz::{Window, fot, view};
use plan::{Operation, THINGS};

/// Notes that things may point to.
const NOTES: u64 = 32;

/// Every so many operations a note gets another object.
const MOVES: u64 = 8;

/// An object that a thing points to.
#[derive(Invariant)]
#[repr(C)]
struct Note {
    number: PCell<u64>,
}

#[derive(Invariant)]
#[repr(C)]
struct Ledger {
    books: Books,
    tree: BTreeMap<u64, u64>,
    hash: HashMap<u64, u64>,
    things: [InvPtr<Note>; place(THINGS)],
    notes: [InvPtr<Note>; place(NOTES)],
}

#[libtwz::main]
fn main() -> Result<u8> {
    let ledger = Object::<Ledger>::named("ledger", || Ledger {
        books: Books::new(),
        tree: BTreeMap::new(),
        hash: HashMap::new(),
        things: [const { InvPtr::null() }; place(THINGS)],
        notes: [const { InvPtr::null() }; place(NOTES)],
    })?;
    resume::set(ledger.id(), 0)?;
    work(&ledger, true)
}

#[libtwz::resume]
fn go_on(resumed: Resumed) -> Result<u8> {
    work(&Object::<Ledger>::open(resumed.state)?, false)
}

fn work(ledger: &Object<Ledger>, is_first: bool) -> Result<u8> {
    if !ledger.books.tell("ledger", |thing| look(ledger, thing))? {
        return Ok(TORN);
    }
    if !is_first {
        resume::confirm()?;
    }
    loop {
        let done = ledger.books.done.get();
        let operation = plan::operation(ledger.books.seed.get(), done);
        // An object cannot be made within a transaction: one that no transaction points to is made again.
        if let Operation::Make { .. } = operation {
            provide(ledger, done % NOTES)?;
        }
        if done.is_multiple_of(MOVES) {
            replace(ledger, done / MOVES % NOTES)?;
        }
        ledger.tx(|tx| {
            change(ledger, tx, operation, done)?;
            ledger.books.count(tx)
        })?;
        println!("ledger: done {}", done + 1);
    }
}

/// The version of a thing, if the three places agree on it.
fn look(ledger: &Object<Ledger>, thing: u64) -> Result<Seen> {
    let version = ledger.tree.get(&thing)?;
    if ledger.hash.get(&thing)? != version {
        return Ok(Err("tree and hash map differ"));
    }
    let note = ledger.things[place(thing)].get()?;
    Ok(match (version, note) {
        (None, None) => Ok(None),
        (Some(version), Some(note)) if note.number.get() == version % NOTES => Ok(Some(version)),
        _ => Err("its pointer is another's"),
    })
}

/// A note's object: all have their root at one place, so that a pointer to one can be led to another.
fn make(number: u64) -> Result<Object<Note>> {
    ObjectBuilder::new().uncoloured().data_bytes(4096).build(Note { number: PCell::new(number) })
}

/// Makes a note, if there is none yet.
fn provide(ledger: &Object<Ledger>, number: u64) -> Result<()> {
    let place = &ledger.notes[place(number)];
    if !place.is_null() {
        return Ok(());
    }
    let note = make(number)?;
    ledger.tx(|tx| tx.point(place, Some(note.base())))
}

/// Gives a note another object: the FOT entry is changed, and all pointers through it lead there. What they led to is deleted; power that fails
/// in between leaves one object that nothing leads to.
fn replace(ledger: &Object<Ledger>, number: u64) -> Result<()> {
    let pointer = &ledger.notes[place(number)];
    if pointer.is_null() {
        return Ok(());
    }
    let before = core::ptr::from_ref(pointer.resolve()?).addr();
    let (before, rights) = view::what_is_at(Window::around(before)?)?;
    let note = make(number)?;
    fot::change(ledger.window(), pointer.raw().index(), fot::Target::Id(note.id()), rights)?;
    // SAFETY: nothing holds a reference to a note beyond an operation.
    unsafe { Object::<Note>::open(before)?.delete() }
}

fn change(ledger: &Object<Ledger>, tx: &Tx, operation: Operation, done: u64) -> Result<()> {
    let (thing, version) = match operation {
        Operation::Transfer { from, to, amount } => return ledger.books.transfer(tx, from, to, amount),
        Operation::Make { thing } => (thing, Some(done)),
        Operation::Copy { thing, source } => (thing, ledger.tree.get(&source)?),
        Operation::Remove { thing } => (thing, None),
    };
    let pointer = &ledger.things[place(thing)];
    let Some(version) = version else {
        ledger.tree.remove_in(tx, &thing)?;
        ledger.hash.remove_in(tx, &thing)?;
        return tx.point(pointer, None);
    };
    ledger.tree.insert_in(tx, thing, version)?;
    ledger.hash.insert_in(tx, thing, version)?;
    tx.point(pointer, Some(ledger.notes[place(version % NOTES)].resolve()?))
}
