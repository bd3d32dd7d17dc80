//! One red-black tree with three kinds of pointers (paper §4.2; §5.4 measures them).
//!
//! | | a stored pointer is | to follow it |
//! |---|---|---|
//! | [`Ram`] | an address | nothing to do; means nothing after a restart |
//! | [`Unix`] | a file's number and an offset | look up where this process mapped the file, add |
//! | [`Twz`] | a persistent pointer | in the same object: one AND, one OR; in another: one cached word |
//!
//! The tree is written once ([`Tree`]); each kind says how to follow and how to store a link, and where a node comes from. [`Counted`]
//! counts how often which conversion is made. Nothing is flushed, as in the paper's measurement: what a durable tree costs is in
//! `libtwz::collections::RbTree`.
//!
//! # Contract
//! - One writer at a time. What a file or an object holds is a claim: a link that leads nowhere is an [`Error`].
//! - `unsafe` stands in `ram` and `unix`: turning a number into a reference. `twz` needs none: libtwz checks.
#![cfg_attr(not(feature = "hosted"), no_std)]

extern crate alloc;

mod count;
mod ram;
mod tree;
mod twz;
#[cfg(feature = "hosted")]
mod unix;

pub use count::{Conversion, Conversions, Counted};
pub use ram::Ram;
pub use tree::{Error, Link, Node, Pointers, Tree};
pub use twz::Twz;
#[cfg(feature = "hosted")]
pub use unix::Unix;
