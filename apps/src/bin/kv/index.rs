//! `kv index`: secondary indexes, which are objects with rights of their own (paper §4.1).

use super::{Named, Outcome, for_reading, for_writing, id_of, owner, rights_of, tell_hidden, text};
use kv::{By, Secondary};
use libtwz::prelude::*;

/// `None` for words that are no command.
pub(super) fn run(named: &Named<'_>, words: &[&str]) -> Option<Outcome> {
    match *words {
        ["make", by] => make(named, by, "r", None),
        ["make", by, rights] => make(named, by, rights, None),
        ["make", by, rights, key] => make(named, by, rights, Some(key)),
        ["range", id, from, to] => Some(range(id, from, to)),
        ["ls"] => Some(list(named)),
        _ => None,
    }
}

fn make(named: &Named<'_>, by: &str, rights: &str, key: Option<&str>) -> Option<Outcome> {
    let by = match by {
        "number" => By::Number,
        "text" => By::Text,
        _ => return None,
    };
    Some((|| {
        let (rights, key) = (rights_of(rights)?, key.map_or_else(|| Ok(owner()), id_of)?);
        let store = for_writing(named)?;
        let made = store.add_secondary_of(by, rights, key).map_err(text)?;
        store.close().map_err(text)?;
        println!("{}", made.id());
        Ok(0)
    })())
}

/// Needs the index's ID and no store: its readers need no right on that.
fn range(id: &str, from: &str, to: &str) -> Outcome {
    let index = Secondary::open(id_of(id)?).map_err(text)?;
    let range = index.by().range_of(from.as_bytes(), to.as_bytes());
    let [from, to] = range.ok_or_else(|| format!("not numbers: {from:?} and {to:?}"))?;
    let scanned = index.range(from, to, |_, value| {
        let (key, value) = (value.key()?, value.to_vec()?);
        println!("{} {}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
        Ok(())
    });
    tell_hidden(scanned.map_err(text)?.hidden);
    Ok(0)
}

fn list(named: &Named<'_>) -> Outcome {
    for id in for_reading(named)?.secondary_ids().map_err(text)? {
        // Who may not read one may know that it is there.
        let by = match Secondary::open(id).map(|index| index.by()) {
            Ok(By::Number) => "number".to_string(),
            Ok(By::Text) => "text".to_string(),
            Ok(By::Word(at)) => format!("word at {at}"),
            Err(error) => error.to_string(),
        };
        println!("{id} {by}");
    }
    Ok(0)
}
