//! Collections as text: what is in them, as std's show it; in place of what cannot be read stands the error.

use crate::cell::PCell;
use crate::error::{Error, Result};
use crate::invariant::Invariant;
use core::fmt::{self, Debug, Formatter};

/// A value in a cell.
pub(super) struct InCell<'a, T>(pub(super) &'a PCell<T>);

impl<T: Invariant + Debug> Debug for InCell<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.look(|value| value.fmt(f))
    }
}

struct Unread(Error);

impl Debug for Unread {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.0)
    }
}

/// Has each element shown, or its error.
fn each<T: Debug>(elements: impl IntoIterator<Item = Result<T>>, mut show: impl FnMut(&dyn Debug)) {
    for element in elements {
        match element {
            Ok(element) => show(&element),
            Err(error) => show(&Unread(error)),
        }
    }
}

/// `[1, 2]`.
pub(super) fn list<T: Debug>(
    f: &mut Formatter<'_>,
    elements: impl IntoIterator<Item = Result<T>>,
) -> fmt::Result {
    let mut list = f.debug_list();
    each(elements, |element| {
        list.entry(element);
    });
    list.finish()
}

/// `{1, 2}`.
pub(super) fn set<T: Debug>(
    f: &mut Formatter<'_>,
    elements: impl IntoIterator<Item = Result<T>>,
) -> fmt::Result {
    let mut set = f.debug_set();
    each(elements, |element| {
        set.entry(element);
    });
    set.finish()
}

/// `{1: 2}`.
pub(super) fn map<K: Debug, V: Debug>(
    f: &mut Formatter<'_>,
    entries: impl IntoIterator<Item = Result<(K, V)>>,
) -> fmt::Result {
    let mut map = f.debug_map();
    for entry in entries {
        match entry {
            Ok((key, value)) => map.entry(&key, &value),
            Err(error) => map.entry(&Unread(error), &format_args!("…")),
        };
    }
    map.finish()
}
