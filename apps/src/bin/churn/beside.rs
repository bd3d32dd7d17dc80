//! What loads have in common whose things are in no transaction: an operation's thing is changed durably first, then the operation is counted
//! in the books.

use super::books::Books;
use super::plan::Operation;
use alloc::string::ToString;
use libtwz::prelude::*;

/// A result whose error is a line for people.
pub(crate) type Outcome<T> = core::result::Result<T, String>;

/// Any error as such a line.
pub(crate) fn text(error: impl core::fmt::Display) -> String {
    error.to_string()
}

/// Counts `operation` in the books in `root`, with its transfer if it is one, and announces that.
pub(crate) fn count<T>(name: &str, root: &Object<T>, books: &Books, operation: Operation) -> Outcome<()>
where
    T: Invariant,
{
    let number = books.done.get() + 1;
    root.tx(|tx| {
        if let Operation::Transfer { from, to, amount } = operation {
            books.transfer(tx, from, to, amount)?;
        }
        books.count(tx)
    })
    .map_err(text)?;
    println!("{name}: done {number}");
    Ok(())
}
