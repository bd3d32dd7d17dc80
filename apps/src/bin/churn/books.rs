//! What the loads on `libtwz` have in common: accounts, and the count of what is done, changed in transactions.

use super::plan::{ACCOUNTS, BALANCE, THINGS};
use libtwz::prelude::*;

/// Exit status when something that was stored is not what it was.
pub(crate) const TORN: u8 = 99;

/// The version of a thing, if there is one; or what is wrong with it.
pub(crate) type Seen = core::result::Result<Option<u64>, &'static str>;

/// Part of a load's root.
#[derive(Invariant)]
#[repr(C)]
pub(crate) struct Books {
    pub(crate) seed: PCell<u64>,
    pub(crate) done: PCell<u64>,
    accounts: [PCell<u64>; place(ACCOUNTS)],
}

impl Books {
    /// Before the first operation of the seed that the program was given.
    pub(crate) fn new() -> Self {
        let seed = libtwz::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1);
        let accounts = [const { PCell::new(BALANCE) }; place(ACCOUNTS)];
        Self { seed: PCell::new(seed), done: PCell::new(0), accounts }
    }

    /// Moves an amount.
    pub(crate) fn transfer(&self, tx: &Tx, from: u64, to: u64, amount: u64) -> Result<()> {
        let (from, to) = (&self.accounts[place(from)], &self.accounts[place(to)]);
        tx.set(from, from.get() - amount)?;
        tx.set(to, to.get() + amount)
    }

    /// Counts an operation; to be announced when that is committed.
    pub(crate) fn count(&self, tx: &Tx) -> Result<()> {
        tx.set(&self.done, self.done.get() + 1)
    }

    /// Prints all that there is, where `look` says what a thing is, or what is wrong with it.
    pub(crate) fn tell<E>(
        &self,
        name: &str,
        mut look: impl FnMut(u64) -> core::result::Result<Seen, E>,
    ) -> core::result::Result<bool, E> {
        println!("{name}: found {}", self.done.get());
        for (account, amount) in self.accounts.iter().enumerate() {
            println!("{name}: account {account} {}", amount.get());
        }
        for thing in 0..THINGS {
            match look(thing)? {
                Ok(Some(version)) => println!("{name}: thing {thing} {version}"),
                Ok(None) => {}
                Err(what) => {
                    println!("{name}: TORN thing {thing}: {what}");
                    return Ok(false);
                }
            }
        }
        println!("{name}: that is all");
        Ok(true)
    }
}

/// A small number as an index.
#[allow(clippy::cast_possible_truncation, reason = "small numbers")]
pub(crate) const fn place(number: u64) -> usize {
    number as usize
}
