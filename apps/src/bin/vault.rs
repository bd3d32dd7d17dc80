//! The load of power-cut and kill tests on `libtwz`: transactions, two collections and pointers to other objects.
//!
//!     vault SEED
//!
//! The operations are those of `churn`, each of them one transaction that counts itself. A thing is an entry of a tree and of a hash
//! map, and a pointer through the FOT to one of the notes, objects of their own. It is resumable; when it begins, and when it begins again, it checks that
//! the three agree and prints what it finds.
#![no_std]
#![no_main]

#[path = "churn/plan.rs"]
mod plan;

use libtwz::collections::{BTreeMap, HashMap};
use libtwz::prelude::*;
use libtwz::resume::{self, Resumed};
use plan::{ACCOUNTS, BALANCE, Operation, THINGS};

/// Notes that things may point to.
const NOTES: u64 = 32;
/// Exit status when something that was stored is not what it was.
const TORN: u8 = 99;

/// An object that a thing points to.
#[derive(Invariant)]
#[repr(C)]
struct Note {
    number: PCell<u64>,
}

#[derive(Invariant)]
#[repr(C)]
struct Vault {
    seed: PCell<u64>,
    done: PCell<u64>,
    accounts: [PCell<u64>; place(ACCOUNTS)],
    tree: BTreeMap<u64, u64>,
    hash: HashMap<u64, u64>,
    things: [InvPtr<Note>; place(THINGS)],
    notes: [InvPtr<Note>; place(NOTES)],
}

#[libtwz::main]
fn main() -> Result<u8> {
    let seed = libtwz::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1);
    let vault = Object::<Vault>::named("vault", || Vault {
        seed: PCell::new(seed),
        done: PCell::new(0),
        accounts: [const { PCell::new(BALANCE) }; place(ACCOUNTS)],
        tree: BTreeMap::new(),
        hash: HashMap::new(),
        things: [const { InvPtr::null() }; place(THINGS)],
        notes: [const { InvPtr::null() }; place(NOTES)],
    })?;
    resume::set(vault.id(), 0)?;
    work(&vault, true)
}

#[libtwz::resume]
fn go_on(resumed: Resumed) -> Result<u8> {
    work(&Object::<Vault>::open(resumed.state)?, false)
}

fn work(vault: &Object<Vault>, is_first: bool) -> Result<u8> {
    println!("vault: found {}", vault.done.get());
    for (account, amount) in vault.accounts.iter().enumerate() {
        println!("vault: account {account} {}", amount.get());
    }
    for thing in 0..THINGS {
        match look(vault, thing)? {
            Ok(Some(version)) => println!("vault: thing {thing} {version}"),
            Ok(None) => {}
            Err(what) => {
                println!("vault: TORN thing {thing}: {what}");
                return Ok(TORN);
            }
        }
    }
    println!("vault: that is all");
    if !is_first {
        resume::confirm()?;
    }
    loop {
        let done = vault.done.get();
        let operation = plan::operation(vault.seed.get(), done);
        // An object cannot be made within a transaction: one that no transaction points to is made again.
        if let Operation::Make { .. } = operation {
            provide(vault, done % NOTES)?;
        }
        vault.tx(|tx| {
            change(vault, tx, operation, done)?;
            tx.set(&vault.done, done + 1)
        })?;
        println!("vault: done {}", done + 1);
    }
}

/// The version of a thing, if the three places agree on it.
fn look(vault: &Object<Vault>, thing: u64) -> Result<core::result::Result<Option<u64>, &'static str>> {
    let version = vault.tree.get(&thing)?;
    if vault.hash.get(&thing)? != version {
        return Ok(Err("tree and hash map differ"));
    }
    let note = vault.things[place(thing)].get()?;
    Ok(match (version, note) {
        (None, None) => Ok(None),
        (Some(version), Some(note)) if note.number.get() == version % NOTES => Ok(Some(version)),
        _ => Err("its pointer is another's"),
    })
}

/// Makes a note, if there is none yet.
fn provide(vault: &Object<Vault>, number: u64) -> Result<()> {
    let place = &vault.notes[place(number)];
    if !place.is_null() {
        return Ok(());
    }
    let note = ObjectBuilder::new().data_bytes(4096).build(Note { number: PCell::new(number) })?;
    vault.tx(|tx| tx.point(place, Some(note.base())))
}

fn change(vault: &Object<Vault>, tx: &Tx, operation: Operation, done: u64) -> Result<()> {
    let (thing, version) = match operation {
        Operation::Transfer { from, to, amount } => {
            let (from, to) = (&vault.accounts[place(from)], &vault.accounts[place(to)]);
            tx.set(from, from.get() - amount)?;
            return tx.set(to, to.get() + amount);
        }
        Operation::Make { thing } => (thing, Some(done)),
        Operation::Copy { thing, source } => (thing, vault.tree.get(&source)?),
        Operation::Remove { thing } => (thing, None),
    };
    let pointer = &vault.things[place(thing)];
    let Some(version) = version else {
        vault.tree.remove_in(tx, &thing)?;
        vault.hash.remove_in(tx, &thing)?;
        return tx.point(pointer, None);
    };
    vault.tree.insert_in(tx, thing, version)?;
    vault.hash.insert_in(tx, thing, version)?;
    tx.point(pointer, Some(vault.notes[place(version % NOTES)].resolve()?))
}

#[allow(clippy::cast_possible_truncation, reason = "small numbers")]
const fn place(number: u64) -> usize {
    number as usize
}
