//! `kv`: a key-value store from the command line (paper §4.1); the library is `apps/kv`.
//!
//! `twzvmm --pmem pool.img -- kv put colour blue`, then `… kv get colour`, also after the machine was off.
//!
//! Scripts go by the status: 0 done, 1 not there, not possible or not permitted, 2 not understood, 128 + the cause after a fault.
//! Messages and the bar go to standard error, which inside Twizzler is the console like standard output.
#![no_std]
#![no_main]

mod index;
mod load;
mod serve;

use kv::{Options, Region, Scanned, Stats, Store};
use libtwz::names::Namespace;
use libtwz::prelude::*;
use libtwz::resume::Resumed;

const USAGE: &str = "usage: kv [--store NAME] [--public|--private] COMMAND
  put KEY VALUE [REGION]   give KEY a value, in an object of region 0 or REGION
  get KEY                  print its value; status 1 if it has none
  delete KEY               take it out; status 1 if it was not there
  scan [LIMIT]             print pairs, in no order
  load COUNT               put COUNT generated pairs, and show how far it is
  read                     put the pairs that stand in the input's lines, as KEY VALUE, and show how many it has put
  serve                    do what is typed: put, get, delete, scan, quit; go on with that at the machine's next start
  stats                    count keys, objects and bytes
  region [r|rw|none] [KEY] add a region whose objects everybody may read, write, or neither; print its number and objects.
                           KEY: the ID of the key that can grant more, the owner's if not said
  index make number|text [r|rw|none] [KEY]
                           add a secondary index: values in the order of the number that each begins with, or of its
                           first eight bytes; print its ID. Rights and KEY as above, r if not said
  index range ID FROM TO   print the pairs of a secondary index whose values are from FROM to TO, in order
  index ls                 list the secondary indexes
A store that is made is its maker's to write and everybody's to read, and the pool's owner can grant more (key/owner).
With --public everybody may write it, with --private nobody else may read it.";

/// What a command ends with: a status, or what to say before status 1.
type Outcome = core::result::Result<u8, String>;

#[libtwz::main]
fn main() -> u8 {
    let mut words: Vec<String> = libtwz::env::args().skip(1).collect();
    let (mut name, mut rights) = ("kv".to_string(), Rights::READ);
    loop {
        match words.first().map(String::as_str) {
            Some("--store") if words.len() >= 2 => name = words.remove(1),
            Some("--public") => rights = Rights::READ | Rights::WRITE,
            Some("--private") => rights = Rights::empty(),
            _ => break,
        }
        words.remove(0);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    status(run(&Named { name: &name, rights }, &words))
}

/// Which store is meant, and what everybody may do with it if it is made now.
struct Named<'a> {
    name: &'a str,
    rights: Rights,
}

#[libtwz::resume]
fn go_on(resumed: Resumed) -> u8 {
    status(serve::go_on(resumed.state))
}

fn status(outcome: Outcome) -> u8 {
    outcome.unwrap_or_else(|message| {
        eprintln!("kv: {message}");
        1
    })
}

fn run(name: &Named<'_>, words: &[&str]) -> Outcome {
    match *words {
        ["put", key, value] => put(name, Region(0), key, value),
        ["put", key, value, region] => put(name, Region(number(region)?), key, value),
        ["get", key] => get(name, key),
        ["delete", key] => {
            let store = for_writing(name)?;
            let was = store.delete(key.as_bytes()).map_err(text)?;
            store.close().map_err(text)?;
            Ok(u8::from(!was))
        }
        ["scan"] => scan(name, u64::MAX),
        ["scan", limit] => scan(name, number(limit)?.into()),
        ["load", count] => load::generated(&for_writing(name)?, number(count)?),
        ["read"] => load::lines(&for_writing(name)?),
        ["serve"] => serve::begin(name),
        ["stats"] => stats(name),
        ["index", ref words @ ..] => index::run(name, words).unwrap_or_else(usage),
        ["region"] => region(name, "rw", owner()),
        ["region", rights] => region(name, rights, owner()),
        ["region", rights, key] => region(name, rights, id_of(key)?),
        _ => usage(),
    }
}

fn usage() -> Outcome {
    eprintln!("{USAGE}");
    Ok(2)
}

/// The store of this name; makes one if there is none.
fn for_writing(named: &Named<'_>) -> core::result::Result<Store, String> {
    let names = Namespace::root().map_err(text)?;
    let (rights, key) = (named.rights, owner());
    let options = Options { index_rights: rights, data_rights: rights, key, ..Options::default() };
    Store::open_or_create(&names, named.name, &options).map_err(text)
}

/// The key of the pool's owner, who can grant more than default rights; none outside of a machine.
fn owner() -> ObjectId {
    #[cfg(feature = "guest")]
    return twz_rt::syscall::name_get("key/owner").unwrap_or(ObjectId::NULL);
    #[cfg(not(feature = "guest"))]
    ObjectId::NULL
}

fn for_reading(named: &Named<'_>) -> core::result::Result<Store, String> {
    let name = named.name;
    let id = Namespace::root().and_then(|names| names.lookup(name));
    let id = id.map_err(|error| format!("there is no store {name:?}: {error}"))?;
    match Store::open_to_read(id) {
        // Whoever finds it recovers it.
        Err(kv::Error::NeedsRecovery) => Store::open(id).map_err(text),
        opened => opened.map_err(text),
    }
}

fn put(name: &Named<'_>, region: Region, key: &str, value: &str) -> Outcome {
    let store = for_writing(name)?;
    store.put_in(region, key.as_bytes(), value.as_bytes()).map_err(text)?;
    store.close().map_err(text)?;
    Ok(0)
}

fn get(name: &Named<'_>, key: &str) -> Outcome {
    let Some(value) = for_reading(name)?.read(key.as_bytes()).map_err(text)? else {
        eprintln!("kv: {key:?} has no value");
        return Ok(1);
    };
    println!("{}", String::from_utf8_lossy(&value));
    Ok(0)
}

fn scan(name: &Named<'_>, limit: u64) -> Outcome {
    pairs(&for_reading(name)?, limit).map_err(text)?;
    Ok(0)
}

/// Prints pairs, at most so many; returns how many.
fn pairs(store: &Store, limit: u64) -> kv::Result<u64> {
    let mut printed = 0;
    let Scanned { hidden, .. } = store.scan(|value| {
        if printed < limit {
            printed += 1;
            let (key, value) = (value.key()?, value.to_vec()?);
            println!("{} {}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
        }
        Ok(())
    })?;
    tell_hidden(hidden);
    Ok(printed)
}

/// Says how many pairs were not seen.
fn tell_hidden(hidden: u64) {
    if hidden > 0 {
        eprintln!("kv: {hidden} more are in objects that this security context may not read");
    }
}

fn stats(name: &Named<'_>) -> Outcome {
    let stats: Stats = for_reading(name)?.stats().map_err(text)?;
    println!("keys: {}", stats.keys);
    println!("slots: {}, {} percent in use", stats.slots, stats.keys * 100 / stats.slots.max(1));
    println!(
        "data: {} of {} bytes in {} objects, {} known to be free",
        stats.data_used,
        stats.data_capacity,
        stats.data_objects - stats.hidden_objects,
        stats.data_spare
    );
    if stats.hidden_objects > 0 {
        println!("objects that may not be read: {}", stats.hidden_objects);
    }
    println!("recoveries: {}", stats.recoveries);
    Ok(0)
}

fn region(name: &Named<'_>, rights: &str, key: ObjectId) -> Outcome {
    let rights = rights_of(rights)?;
    let store = for_writing(name)?;
    let region = store.add_region_of(rights, key).map_err(text)?;
    println!("region {}", region.0);
    for id in store.objects(region).map_err(text)? {
        println!("{id}");
    }
    store.close().map_err(text)?;
    Ok(0)
}

fn rights_of(word: &str) -> core::result::Result<Rights, String> {
    match word {
        "rw" => Ok(Rights::READ | Rights::WRITE),
        "r" => Ok(Rights::READ),
        "none" => Ok(Rights::empty()),
        _ => Err(format!("rights are r, rw or none, not {word:?}")),
    }
}

fn id_of(word: &str) -> core::result::Result<ObjectId, String> {
    word.parse().map_err(|_| format!("not an ID: {word:?}"))
}

fn number(word: &str) -> core::result::Result<u32, String> {
    word.parse().map_err(|_| format!("not a number below 2^32: {word:?}"))
}

fn text(error: impl core::fmt::Display) -> String {
    error.to_string()
}
