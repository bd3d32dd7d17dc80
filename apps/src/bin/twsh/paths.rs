//! What users call objects: an ID, a name of the monitor's (`counter`), or a path in the namespace of `libtwz` (`/hello`).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use apps::keys;
use libtwz::names::{Entry, Namespace};
use twz_rt::abi::ObjectId;
use twz_rt::syscall;

/// A word that is a path.
pub(crate) fn is_path(word: &str) -> bool {
    word.starts_with('/')
}

/// The object that a word means.
pub(crate) fn find(word: &str) -> Result<ObjectId, String> {
    if is_path(word) {
        return Namespace::root().and_then(|root| root.lookup(word)).map_err(about(word));
    }
    keys::find("", word).map_err(|error| format!("{word}: {error}"))
}

/// Gives an object a name, or a path that is free.
pub(crate) fn bind(word: &str, object: ObjectId) -> Result<(), String> {
    if is_path(word) {
        return Namespace::root().and_then(|root| root.bind(word, object)).map_err(about(word));
    }
    syscall::name_set(object, word).map_err(|error| format!("{word}: {error}"))
}

/// Takes a name or a path away.
pub(crate) fn unbind(word: &str) -> Result<(), String> {
    if is_path(word) {
        return Namespace::root().and_then(|root| root.unbind(word)).map(drop).map_err(about(word));
    }
    syscall::name_remove(word).map_err(|error| format!("{word}: {error}"))
}

/// What is in a directory: the name, what else there is to say, and the object.
pub(crate) fn list(path: &str) -> Result<Vec<(String, Option<ObjectId>)>, String> {
    let entries = Namespace::root().and_then(|root| root.list(path)).map_err(about(path))?;
    let described = entries.into_iter().map(|(name, entry)| match entry {
        Entry::Object(id) => (name, Some(id)),
        Entry::Directory(id) => (format!("{name}/"), Some(id)),
        Entry::Link(target) => (format!("{name} -> {}", target.as_str()), None),
    });
    Ok(described.collect())
}

fn about(word: &str) -> impl FnOnce(libtwz::Error) -> String {
    let word = word.to_string();
    move |error| format!("{word}: {error}")
}
