//! Figure 6 and §5.4 inside: kv, and the trees with raw and with persistent pointers.

#[path = "../../../../bench/apps/src/ours.rs"]
mod ours;

use libtwz::prelude::*;
use ours::{Pages, Pair};
use rbt::Ram;

/// Nanoseconds an insert and a look-up.
pub(crate) fn measure(
    kind: &str,
    objects: u64,
    pages: &str,
    count: u64,
) -> core::result::Result<Pair, String> {
    let pages = match pages {
        "new" => Pages::New,
        "present" => Pages::Present,
        _ => return Err(format!("pages are new or present, not {pages}")),
    };
    let trees = usize::try_from(objects).unwrap_or(1);
    let pair = match kind {
        "kv" => ours::kv_round(count, objects, pages),
        "twzrbt" => ours::twz_round(count, trees, pages),
        "ramrbt" => ours::tree_round(Ram::default(), count),
        _ => return Err(format!("{kind} is not known")),
    };
    pair.map_err(|error| format!("{error}"))
}
