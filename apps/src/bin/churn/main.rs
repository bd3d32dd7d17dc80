//! A program that never ends and must never lose anything: the load of power-cut and kill tests.
//!
//!     churn SEED
//!     churn fill      takes every page that is left of the pool, until a fault ends it
//!
//! Each operation is finished durably, then counted durably, then announced (`churn: done N`: so many are done). It is resumable. When it begins, and when it begins
//! again, it recovers, checks what it can check by itself, and prints what it finds; a model of the operations must agree.
//!
//! ```text
//! the ledger (object "churn/ledger"), in words from its first byte:
//! 0  magic     1  seed      2  operations done
//! 3  object to be deleted unless it is named (2 words)     5  the same, of an object in the making
//! 8  accounts
//! 64 undo log: entries in force, then pairs (word, value before)
//! ```
#![no_std]
#![no_main]

mod plan;

use plan::{ACCOUNTS, BALANCE, Operation, THINGS, scatter};
use pmem::{Native, Pmem};
use twz_rt::abi::syscall::CreateSpec;
use twz_rt::abi::{ErrorCode, ObjectId, PAGE_BYTES, Rights};
use twz_rt::resume::{self, Resumed};
use twz_rt::{Args, println, syscall, view};

twz_rt::entry!(main);
twz_rt::resume_entry!(go_on);

const LEDGER: &str = "churn/ledger";
const MAGIC_VALUE: u64 = 0x6e72_7568_6377_7a74;
const MAGIC: u64 = 0;
const SEED: u64 = 8;
const DONE: u64 = 16;
const OLD: u64 = 24;
const NEW: u64 = 40;
const FIRST_ACCOUNT: u64 = 64;
const LOG: u64 = 512;
const LEDGER_BYTES: u64 = 1024;
/// Words in a thing.
const WORDS: u64 = 1024;
const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);
/// Exit status when something that was stored is not what it was.
const TORN: u8 = 99;
/// Exit status when the pool is full.
const FULL: u8 = 3;

/// Why it ends.
enum Stop {
    Call(ErrorCode),
    Torn(&'static str, u64),
}

impl From<ErrorCode> for Stop {
    fn from(error: ErrorCode) -> Self {
        Self::Call(error)
    }
}

fn main(args: Args) -> u8 {
    if args.get(1) == Some("fill") {
        return status(fill());
    }
    let seed = args.get(1).and_then(|text| text.parse().ok()).unwrap_or(1);
    status(begin(seed))
}

fn go_on(_: Args, resumed: Resumed) -> u8 {
    status(Ledger::at(resumed.state).go_on(false))
}

fn status(stop: Result<(), Stop>) -> u8 {
    match stop {
        Ok(()) => 0,
        Err(Stop::Torn(what, which)) => {
            println!("churn: TORN {what} {which}");
            TORN
        }
        Err(Stop::Call(ErrorCode::PoolFull)) => {
            println!("churn: the pool is full");
            FULL
        }
        Err(Stop::Call(error)) => {
            println!("churn: failed: {error}");
            1
        }
    }
}

fn begin(seed: u64) -> Result<(), Stop> {
    let ledger = match syscall::name_get(LEDGER) {
        Ok(ledger) => ledger,
        Err(ErrorCode::NoName) => make_ledger(seed)?,
        Err(error) => return Err(error.into()),
    };
    let base = view::map_anywhere(ledger, READ_WRITE).ok_or(ErrorCode::NoMemory)?;
    resume::set(_resume, ledger, 0)?;
    Ledger::at(base).go_on(true)
}

/// Stores to page after page of an object called "churn/fill".
fn fill() -> Result<(), Stop> {
    let object = syscall::object_create(&CreateSpec::default())?;
    syscall::name_set(object, "churn/fill")?;
    let base = view::map_anywhere(object, READ_WRITE).ok_or(ErrorCode::NoMemory)?;
    println!("filling");
    for page in 1.. {
        // SAFETY: the object is mapped there; beyond its end, or that of the pool, is a fault, which ends this thread as it should.
        unsafe { base.wrapping_add(page * PAGE_BYTES).write_volatile(1) };
    }
    Ok(())
}

/// Named only when it is whole.
fn make_ledger(seed: u64) -> Result<ObjectId, ErrorCode> {
    let object = syscall::object_create(&CreateSpec::default())?;
    let base = view::map_anywhere(object, READ_WRITE).ok_or(ErrorCode::NoMemory)?;
    let memory = Ledger::at(base).0;
    memory.store(SEED, seed);
    for account in 0..ACCOUNTS {
        memory.store(FIRST_ACCOUNT + account * 8, BALANCE);
    }
    memory.store(MAGIC, MAGIC_VALUE);
    memory.persist(0, LEDGER_BYTES);
    syscall::name_set(object, LEDGER)?;
    Ok(object)
}

struct Ledger(Native);

impl Ledger {
    /// The ledger whose object is mapped at `base`.
    fn at(base: *mut u8) -> Self {
        // SAFETY: the ledger is mapped there for good, its data begins on the second page, and nobody makes references to it.
        Self(unsafe { Native::new(base.wrapping_add(PAGE_BYTES), LEDGER_BYTES) })
    }

    fn set(&self, at: u64, value: u64) {
        self.0.store(at, value);
        self.0.persist(at, 8);
    }

    fn go_on(&self, is_first: bool) -> Result<(), Stop> {
        if self.0.load(MAGIC) != MAGIC_VALUE {
            return Err(Stop::Torn("ledger", 0));
        }
        let seed = self.0.load(SEED);
        self.roll_back();
        self.clean_up()?;
        let mut done = self.0.load(DONE);
        self.tell(done)?;
        if !is_first {
            resume::confirm()?;
        }
        loop {
            match plan::operation(seed, done) {
                Operation::Transfer { from, to, amount } => self.transfer(from, to, amount, done + 1),
                other => {
                    self.change(other, done)?;
                    self.set(DONE, done + 1);
                }
            }
            done += 1;
            println!("churn: done {done}");
        }
    }

    /// Prints everything.
    fn tell(&self, done: u64) -> Result<(), Stop> {
        println!("churn: found {done}");
        for account in 0..ACCOUNTS {
            println!("churn: account {account} {}", self.0.load(FIRST_ACCOUNT + account * 8));
        }
        for thing in 0..THINGS {
            if let Some(object) = find(thing)? {
                println!("churn: thing {thing} {}", check(object, thing)?);
            }
        }
        println!("churn: that is all");
        Ok(())
    }

    /// Moves an amount and counts it, in one step.
    fn transfer(&self, from: u64, to: u64, amount: u64, done: u64) {
        let places = [FIRST_ACCOUNT + from * 8, FIRST_ACCOUNT + to * 8, DONE];
        // 1. What it was.
        for (entry, place) in (0..).zip(places) {
            self.0.store(LOG + 8 + entry * 16, place);
            self.0.store(LOG + 16 + entry * 16, self.0.load(place));
        }
        self.0.persist(LOG, 64);
        // 2. From here on a failure undoes.
        self.set(LOG, places.len() as u64);
        // 3. The change.
        self.0.store(places[0], self.0.load(places[0]).wrapping_sub(amount));
        self.0.store(places[1], self.0.load(places[1]).wrapping_add(amount));
        self.0.store(DONE, done);
        self.0.persist(0, LOG);
        // 4. Commit point.
        self.set(LOG, 0);
    }

    /// Undoes a transfer that was cut off.
    fn roll_back(&self) {
        let entries = self.0.load(LOG).min(3);
        // The last one first: both accounts may be the same.
        for entry in (0..entries).rev() {
            let place = self.0.load(LOG + 8 + entry * 16);
            if place < LOG {
                self.0.store(place, self.0.load(LOG + 16 + entry * 16));
            }
        }
        self.0.persist(0, LOG);
        self.set(LOG, 0);
    }

    /// Makes the thing of an operation what it is to be, whatever it is.
    fn change(&self, operation: Operation, number: u64) -> Result<(), Stop> {
        let (thing, new) = match operation {
            Operation::Make { thing } => (thing, Some(self.make(number)?)),
            Operation::Copy { thing, source } => match find(source)? {
                Some(source) => (thing, Some(self.create(source)?)),
                None => (thing, None),
            },
            Operation::Remove { thing } => (thing, None),
            Operation::Transfer { .. } => return Ok(()),
        };
        let old = find(thing)?;
        self.note(OLD, old);
        if let Some(new) = new {
            with_name(thing, |name| syscall::name_set(new, name))?;
        }
        if let Some(old) = old {
            syscall::object_delete(old)?;
        }
        self.note(OLD, None);
        self.note(NEW, None);
        Ok(())
    }

    /// A new object of this version.
    fn make(&self, version: u64) -> Result<ObjectId, Stop> {
        let object = self.create(ObjectId::NULL)?;
        with_words(object, |memory| {
            for index in 0..WORDS {
                memory.store(index * 8, word(version, index));
            }
            memory.persist(0, WORDS * 8);
            Ok(())
        })?;
        Ok(object)
    }

    fn create(&self, source: ObjectId) -> Result<ObjectId, Stop> {
        let object = syscall::object_create(&CreateSpec { source, ..CreateSpec::default() })?;
        self.note(NEW, Some(object));
        Ok(object)
    }

    /// Remembers an object that is to be deleted if the power fails. Its first word last: half an ID means none.
    fn note(&self, at: u64, object: Option<ObjectId>) {
        self.set(at, 0);
        if let Some(object) = object {
            self.set(at + 8, object.hi);
            self.set(at, object.lo);
        }
    }

    /// Deletes what an operation that was cut off left over.
    fn clean_up(&self) -> Result<(), Stop> {
        for at in [OLD, NEW] {
            let left = ObjectId { lo: self.0.load(at), hi: self.0.load(at + 8) };
            let mut is_named = false;
            for thing in 0..THINGS {
                is_named |= find(thing)? == Some(left);
            }
            if left.lo != 0 && !is_named {
                match syscall::object_delete(left) {
                    Ok(()) | Err(ErrorCode::NoObject) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.note(at, None);
        }
        Ok(())
    }
}

/// Word `index` of a thing of that version.
const fn word(version: u64, index: u64) -> u64 {
    if index == 0 { version } else { scatter(version ^ scatter(index)) }
}

/// Calls `work` with the name of a thing.
fn with_name<T>(thing: u64, work: impl FnOnce(&str) -> T) -> T {
    let mut name = *b"churn/thing-a";
    let letter = u8::try_from(thing).unwrap_or(0);
    name[12] = b'a' + letter;
    work(core::str::from_utf8(&name).unwrap_or(LEDGER))
}

fn find(thing: u64) -> Result<Option<ObjectId>, ErrorCode> {
    match with_name(thing, syscall::name_get) {
        Ok(object) => Ok(Some(object)),
        Err(ErrorCode::NoName) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The version of a thing, all of whose words must belong to it.
fn check(object: ObjectId, thing: u64) -> Result<u64, Stop> {
    with_words(object, |memory| {
        let version = memory.load(0);
        let whole = (0..WORDS).all(|index| memory.load(index * 8) == word(version, index));
        if whole { Ok(version) } else { Err(Stop::Torn("thing", thing)) }
    })
}

/// Calls `work` with the words of an object.
fn with_words<T>(object: ObjectId, work: impl FnOnce(&Native) -> Result<T, Stop>) -> Result<T, Stop> {
    let base = view::map_anywhere(object, READ_WRITE).ok_or(ErrorCode::NoMemory)?;
    // SAFETY: mapped until `unmap` below; no references are made to it.
    let memory = unsafe { Native::new(base.wrapping_add(PAGE_BYTES), WORDS * 8) };
    let result = work(&memory);
    let slot = base as u64 / twz_rt::abi::view::SLOT_SIZE;
    // SAFETY: `memory` is not used any more.
    unsafe { view::unmap(slot) }?;
    result
}
