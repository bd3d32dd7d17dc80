//! `kv`: a key-value store from the command line (paper §4.1); the library is `apps/kv`.
//!
//! `twzvmm --pmem pool.img -- kv put colour blue`, then `… kv get colour`, also after the machine was off.
//!
//! Scripts go by the status: 0 done, 1 not there, not possible or not permitted, 2 not understood, 128 + the cause after a fault.
//! Messages and the bar go to standard error, which inside Twizzler is the console like standard output.
#![no_std]
#![no_main]

mod load;
mod serve;

use kv::{Options, Region, Stats, Store};
use libtwz::names::Namespace;
use libtwz::prelude::*;
use libtwz::resume::Resumed;

const USAGE: &str = "usage: kv [--store NAME] COMMAND
  put KEY VALUE [REGION]   give KEY a value, in an object of region 0 or REGION
  get KEY                  print its value; status 1 if it has none
  delete KEY               take it out; status 1 if it was not there
  scan [LIMIT]             print pairs, in no order
  load COUNT               put COUNT generated pairs, and show how far it is
  read                     put the pairs that stand in the input's lines, as KEY VALUE, and show how many it has put
  serve                    do what is typed: put, get, delete, scan, quit; go on with that at the machine's next start
  stats                    count keys, objects and bytes
  region [r|rw|none] [KEY] add a region whose objects everybody may read, write, or neither; print its number and objects.
                           KEY: the ID of the key that can grant more";

/// What a command ends with: a status, or what to say before status 1.
type Outcome = core::result::Result<u8, String>;

#[libtwz::main]
fn main() -> u8 {
    let mut words: Vec<String> = libtwz::env::args().skip(1).collect();
    let mut name = "kv".to_string();
    if words.first().is_some_and(|word| word == "--store") && words.len() >= 2 {
        name = words.remove(1);
        words.remove(0);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    status(run(&name, &words))
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

fn run(name: &str, words: &[&str]) -> Outcome {
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
        ["region"] => region(name, "rw", ObjectId::NULL),
        ["region", rights] => region(name, rights, ObjectId::NULL),
        ["region", rights, key] => {
            region(name, rights, key.parse().map_err(|_| format!("not an ID: {key:?}"))?)
        }
        _ => {
            eprintln!("{USAGE}");
            Ok(2)
        }
    }
}

/// The store of this name; makes one if there is none.
fn for_writing(name: &str) -> core::result::Result<Store, String> {
    let names = Namespace::root().map_err(text)?;
    match names.lookup(name) {
        Ok(id) => Store::open(id).map_err(text),
        Err(Error::NoSuchName) => {
            let all = Rights::READ | Rights::WRITE;
            let options = Options { index_rights: all, data_rights: all, ..Options::default() };
            let store = Store::create(&options).map_err(text)?;
            names.bind(name, store.id()).map_err(text)?;
            Ok(store)
        }
        Err(error) => Err(text(error)),
    }
}

fn for_reading(name: &str) -> core::result::Result<Store, String> {
    let id = Namespace::root().and_then(|names| names.lookup(name));
    let id = id.map_err(|error| format!("there is no store {name:?}: {error}"))?;
    match Store::open_to_read(id) {
        // Whoever finds it recovers it.
        Err(kv::Error::NeedsRecovery) => Store::open(id).map_err(text),
        opened => opened.map_err(text),
    }
}

fn put(name: &str, region: Region, key: &str, value: &str) -> Outcome {
    let store = for_writing(name)?;
    store.put_in(region, key.as_bytes(), value.as_bytes()).map_err(text)?;
    store.close().map_err(text)?;
    Ok(0)
}

fn get(name: &str, key: &str) -> Outcome {
    let Some(value) = for_reading(name)?.read(key.as_bytes()).map_err(text)? else {
        eprintln!("kv: {key:?} has no value");
        return Ok(1);
    };
    println!("{}", String::from_utf8_lossy(&value));
    Ok(0)
}

fn scan(name: &str, limit: u64) -> Outcome {
    pairs(&for_reading(name)?, limit).map_err(text)?;
    Ok(0)
}

/// Prints pairs, at most so many; returns how many.
fn pairs(store: &Store, limit: u64) -> kv::Result<u64> {
    let mut printed = 0;
    store.scan(|value| {
        if printed < limit {
            printed += 1;
            let (key, value) = (value.key()?, value.to_vec()?);
            println!("{} {}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
        }
        Ok(())
    })?;
    Ok(printed)
}

fn stats(name: &str) -> Outcome {
    let Stats { keys, slots, data_objects, data_capacity, data_used, data_spare, recoveries, .. } =
        for_reading(name)?.stats().map_err(text)?;
    println!("keys: {keys}");
    println!("slots: {slots}, {} percent in use", keys * 100 / slots.max(1));
    println!(
        "data: {data_used} of {data_capacity} bytes in {data_objects} objects, {data_spare} known to be free"
    );
    println!("recoveries: {recoveries}");
    Ok(0)
}

fn region(name: &str, rights: &str, key: ObjectId) -> Outcome {
    let rights = match rights {
        "rw" => Rights::READ | Rights::WRITE,
        "r" => Rights::READ,
        "none" => Rights::empty(),
        _ => return Err(format!("rights are r, rw or none, not {rights:?}")),
    };
    let store = for_writing(name)?;
    let region = store.add_region_of(rights, key).map_err(text)?;
    println!("region {}", region.0);
    for id in store.objects(region).map_err(text)? {
        println!("{id}");
    }
    store.close().map_err(text)?;
    Ok(0)
}

fn number(word: &str) -> core::result::Result<u32, String> {
    word.parse().map_err(|_| format!("not a number below 2^32: {word:?}"))
}

fn text(error: impl core::fmt::Display) -> String {
    error.to_string()
}
