//! Security contexts from inside: look at them, make them, grant, pass on and take back.
//!
//! Contexts are called by ID or by name (`context/NAME`), keys likewise (`key/NAME`). What is written needs the right to write the context;
//! what is signed needs the right to read the key's secret. The monitor believes neither this program nor what it wrote: rights follow from
//! signatures alone.
#![no_std]
#![no_main]

extern crate alloc;

mod grant;
mod show;
mod watch;

use alloc::format;
use alloc::string::{String, ToString};
use apps::context_object::{ContextObject, NewContext};
use apps::keys;
use apps::options::Options;
use core::fmt::Display;
use sec::KeyPair;
use twz_rt::abi::{ErrorCode, ObjectId};
use twz_rt::{Args, context, println, syscall};

twz_rt::entry!(main);

const USAGE: &str = "usage:
  ctx ls                                contexts that have names
  ctx show [CONTEXT]                    its header, gates and capabilities; without a name, the one that this runs in
  ctx make NAME [--shared] [--undetachable] [--slots N] [--key KEY]
  ctx grant CONTEXT OBJECT RIGHTS [--gates FIRST[+LENGTH]] [--seconds N] [--delegate KEY] [--links N] [--key KEY]
  ctx pass FROM DIGEST CONTEXT RIGHTS [the options of grant]   passes on a part of a capability that stands in FROM
  ctx revoke object OBJECT | context CONTEXT | capability CONTEXT DIGEST [--key KEY]
  ctx watch CONTEXT OBJECT              reads OBJECT in a thread of CONTEXT until that is refused
RIGHTS are letters of rwxud (read, write, execute, use, delete); KEY is \"owner\" if it is not given.";

/// A result whose error is for people.
type Said<T> = Result<T, String>;

fn main(args: Args) -> Said<()> {
    let mut options = Options::new(args);
    match options.word() {
        Some("ls") => show::list(options),
        Some("show") => show::show(options),
        Some("make") => make(options),
        Some("grant") => grant::grant(options),
        Some("pass") => grant::pass(options),
        Some("revoke") => grant::revoke(options),
        Some("watch") => watch::watch(options),
        _ => Err(USAGE.into()),
    }
}

fn make(mut options: Options) -> Said<()> {
    let key = signer(&mut options)?;
    let (shared, undetachable) = (options.flag("--shared"), options.flag("--undetachable"));
    let slots = number(&mut options, "--slots", 64)?;
    let name = wanted(options.word())?;
    nothing_left(&options)?;
    let full = format!("context/{name}");
    if syscall::name_get(&full).is_ok() {
        return Err(format!("there is a context {name} already"));
    }
    let slots = u32::try_from(slots).map_err(|_| USAGE.to_string())?;
    let new = NewContext { key: key.id(), flags: 0, undetachable, shared, slots };
    let made = ContextObject::create(&new).map_err(about(name))?;
    syscall::name_set(made.id, &full).map_err(about(name))?;
    println!("{} {full}", made.id);
    Ok(())
}

/// Takes `--key`.
fn signer(options: &mut Options) -> Said<KeyPair> {
    let name = text(options, "--key")?.unwrap_or("owner");
    keys::pair(name).map_err(|error| format!("the secret of key {name}: {error}"))
}

fn text(options: &mut Options, name: &str) -> Said<Option<&'static str>> {
    options.value(name).map_err(|name| format!("{name} needs a value"))
}

fn number(options: &mut Options, name: &str, otherwise: u64) -> Said<u64> {
    let found = text(options, name)?.map(str::parse).transpose();
    found.map_err(|_| format!("{name} needs a number")).map(|found| found.unwrap_or(otherwise))
}

fn wanted(word: Option<&'static str>) -> Said<&'static str> {
    word.ok_or_else(|| USAGE.to_string())
}

fn nothing_left(options: &Options) -> Said<()> {
    options.rest().map_or(Ok(()), |word| Err(format!("{word} is not understood here\n{USAGE}")))
}

fn find_context(word: &str) -> Said<ObjectId> {
    keys::find("context", word).map_err(about(word))
}

fn this_context() -> Said<ObjectId> {
    context::current().map_err(about("this context"))
}

/// Says what an error is about.
fn about(what: impl Display) -> impl FnOnce(ErrorCode) -> String {
    move |error| format!("{what}: {error}")
}
