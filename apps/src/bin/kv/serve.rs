//! `kv serve`: a store behind the console, which goes on after a power failure.
//!
//! One command a line, one answer a line, `kv: ` before it; what `scan` prints stands before its own. Changes of this life are numbered, and answered
//! when they are durable. The thread is resumable: at the next start of the machine it opens
//! its store again and goes on with what is typed then. `quit` ends it; when the input ends, it waits for the machine's end.

use super::{Named, Outcome, for_writing, pairs, text};
use kv::Store;
use libtwz::prelude::*;
use libtwz::resume;

const HELP: &str = "put KEY VALUE, get KEY, delete KEY, scan or quit";

/// Makes the thread resumable and serves the store of this name.
pub(super) fn begin(name: &Named<'_>) -> Outcome {
    let store = for_writing(name)?;
    let is_resumable = resume::set(store.id(), 0).map_err(text)?;
    serve(store, is_resumable)
}

/// Serves the store that was served before.
pub(super) fn go_on(store: ObjectId) -> Outcome {
    let store = Store::open(store).map_err(text)?;
    resume::confirm().map_err(text)?;
    serve(store, true)
}

fn serve(store: Store, is_resumable: bool) -> Outcome {
    println!("kv: serving {} pairs", store.stats().map_err(text)?.keys);
    let mut changes = 0;
    for line in libtwz::console::stdin().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words == ["quit"] {
            store.close().map_err(text)?;
            return Ok(0);
        }
        let answer = answer(&store, &words, &mut changes).unwrap_or_else(|error| error.to_string());
        println!("kv: {answer}");
    }
    if is_resumable {
        loop {
            libtwz::thread::park();
        }
    }
    store.close().map_err(text)?;
    Ok(0)
}

fn answer(store: &Store, words: &[&str], changes: &mut u64) -> kv::Result<String> {
    let mut changed = |what: &str, key: &str| {
        *changes += 1;
        format!("{changes} {what} {key}")
    };
    Ok(match *words {
        ["put", key, value] => match store.put(key.as_bytes(), value.as_bytes())? {
            true => changed("replaced", key),
            false => changed("put", key),
        },
        ["delete", key] => match store.delete(key.as_bytes())? {
            true => changed("deleted", key),
            false => changed("never had", key),
        },
        ["get", key] => match store.read(key.as_bytes())? {
            Some(value) => format!("{key} is {}", String::from_utf8_lossy(&value)),
            None => format!("{key} has no value"),
        },
        ["scan"] => format!("scanned {} pairs", pairs(store, u64::MAX)?),
        _ => format!("commands are {HELP}"),
    })
}
