//! The load of power-cut and kill tests on `kv`: pairs in a store, transactions beside it.
//!
//!     pairs SEED
//!
//! The operations are those of `churn`. A transfer is a transaction that counts itself. A thing is a pair whose value, of some length, belongs to a
//! version; it is put or deleted durably, then counted. Every 16th operation puts a batch of pairs first, every 64th closes the store
//! and opens it again. It is resumable; when it begins, and when it begins again, it checks that every value is whole and prints what it finds.
#![no_std]
#![no_main]

extern crate alloc;

#[path = "churn/beside.rs"]
mod beside;
#[path = "churn/books.rs"]
mod books;
#[path = "churn/plan.rs"]
mod plan;

use alloc::format;
use beside::{Outcome, text};
use books::{Books, Seen, TORN};
use kv::{Options, Region, Store};
use libtwz::prelude::*;
use libtwz::resume::{self, Resumed};
use plan::{Operation, scatter};

/// Operations from batch to batch, pairs in one, and batches with keys of their own.
const BATCH_EVERY: u64 = 16;
const BATCH: u64 = 8;
const GROUPS: u64 = 32;
/// Operations from one orderly closing to the next.
const CLOSE_EVERY: u64 = 64;

#[derive(Invariant)]
#[repr(C)]
struct Root {
    books: Books,
    store: PCell<ObjectId>,
}

#[libtwz::main]
fn main() -> Outcome<u8> {
    let make = || Root { books: Books::new(), store: PCell::new(ObjectId::NULL) };
    let root = Object::<Root>::named("pairs", make).map_err(text)?;
    if root.store.get().is_null() {
        let options = Options { data_bytes: 256 << 10, index_segments: 4, ..Options::default() };
        let store = Store::create(&options).map_err(text)?;
        root.tx(|tx| tx.put(&root.store, store.id())).map_err(text)?;
    }
    resume::set(root.id(), 0).map_err(text)?;
    work(&root, true)
}

#[libtwz::resume]
fn go_on(resumed: Resumed) -> Outcome<u8> {
    work(&Object::<Root>::open(resumed.state).map_err(text)?, false)
}

fn work(root: &Object<Root>, is_first: bool) -> Outcome<u8> {
    let (books, id) = (&root.books, root.store.get());
    let mut store = Store::open(id).map_err(text)?;
    if !books.tell("pairs", |thing| look(&store, &thing_key(thing)))? {
        return Ok(TORN);
    }
    if let Some(key) = wrong_batch(&store, books.done.get())? {
        println!("pairs: TORN pair {key}");
        return Ok(TORN);
    }
    if !is_first {
        resume::confirm().map_err(text)?;
    }
    loop {
        let done = books.done.get();
        if done.is_multiple_of(BATCH_EVERY) {
            put_batch(&store, done / BATCH_EVERY)?;
        }
        let operation = plan::operation(books.seed.get(), done);
        change(&store, operation, done)?;
        beside::count("pairs", root, books, operation)?;
        if done.is_multiple_of(CLOSE_EVERY) {
            store.close().map_err(text)?;
            store = Store::open(id).map_err(text)?;
        }
    }
}

/// Makes the pair of an operation what it is to be.
fn change(store: &Store, operation: Operation, done: u64) -> Outcome<()> {
    let (thing, version) = match operation {
        Operation::Transfer { .. } => return Ok(()),
        Operation::Make { thing } => (thing, Some(done)),
        Operation::Copy { thing, source } => (thing, look(store, &thing_key(source))?.unwrap_or(None)),
        Operation::Remove { thing } => (thing, None),
    };
    let key = thing_key(thing);
    match version {
        Some(version) => store.put(key.as_bytes(), &value(version)).map(drop),
        None => store.delete(key.as_bytes()).map(drop),
    }
    .map_err(text)
}

fn thing_key(thing: u64) -> String {
    format!("thing-{thing}")
}

/// The value of a version: the version, then words that belong to it.
fn value(version: u64) -> Vec<u8> {
    let words = 1 + scatter(version) % 150;
    (0..words).flat_map(|index| word(version, index).to_le_bytes()).collect()
}

const fn word(version: u64, index: u64) -> u64 {
    if index == 0 { version } else { scatter(version ^ scatter(index)) }
}

/// The version of a key's value, if all of it belongs to one.
fn look(store: &Store, key: &str) -> Outcome<Seen> {
    let Some(found) = store.read(key.as_bytes()).map_err(text)? else { return Ok(Ok(None)) };
    let version = found.first_chunk().copied().map(u64::from_le_bytes);
    Ok(match version.filter(|version| value(*version) == found) {
        Some(version) => Ok(Some(version)),
        None => Err("parts of its value belong to another"),
    })
}

fn batch_key(group: u64, number: u64) -> String {
    format!("batch-{group}-{number}")
}

fn put_batch(store: &Store, batch: u64) -> Outcome<()> {
    let value = value(batch);
    let keys: Vec<String> = (0..BATCH).map(|number| batch_key(batch % GROUPS, number)).collect();
    store.load(Region(0), keys.iter().map(|key| (key.as_bytes(), &value[..]))).map(drop).map_err(text)
}

/// A pair of a batch that is not what it must be after so many operations.
fn wrong_batch(store: &Store, done: u64) -> Outcome<Option<String>> {
    // Those behind which an operation was counted; the next one may be there in parts.
    let whole = done.div_ceil(BATCH_EVERY);
    let next = done.is_multiple_of(BATCH_EVERY).then_some(whole);
    for group in 0..GROUPS {
        let last = (0..whole).rev().take(usize::try_from(GROUPS).unwrap_or(0)).find(|b| b % GROUPS == group);
        for number in 0..BATCH {
            let key = batch_key(group, number);
            let found = look(store, &key)?;
            let is_next = found == Ok(next) && next.is_some_and(|next| next % GROUPS == group);
            if found != Ok(last) && !is_next {
                return Ok(Some(key));
            }
        }
    }
    Ok(None)
}
