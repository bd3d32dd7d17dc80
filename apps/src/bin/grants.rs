//! The load of power-cut and kill tests on rights: what is granted to a context stays so, and what was taken from it stays taken.
//!
//!     grants SEED
//!
//! The operations are those of `churn`. A thing is there if a context of its own may read the thing's object, and its version is what it reads there:
//! making it grants a capability, removing it revokes what was granted. What the context may is found out by a thread that tries, in that
//! context, when the program begins and when it begins again. It is resumable.
#![no_std]
#![no_main]

extern crate alloc;

#[path = "churn/beside.rs"]
mod beside;
#[path = "churn/books.rs"]
mod books;
#[path = "churn/plan.rs"]
mod plan;

use alloc::format;
use apps::compartment::{Compartment, World};
use apps::context_object::{ContextObject, NewContext};
use apps::mapped::{BOTH, Mapped};
use apps::probe;
use beside::{Outcome, text};
use books::{Books, TORN, place};
use libtwz::gate::gate;
use libtwz::prelude::*;
use libtwz::resume::{self, Resumed};
use plan::{Operation, THINGS};
use sec::Grant;
use twz_rt::abi::ErrorCode;
use twz_rt::abi::fault::{FaultCause, FaultFrame};
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::program::FREE_SLOT;
use twz_rt::abi::syscall::CreateSpec;
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::view::View;
use twz_rt::{context, fault, syscall};

/// Slots of the context's table.
const TABLE_SLOTS: u32 = 256;
/// What [`look`] returns for an object that may not be read, and for one that may but could not be shown.
const REFUSED: u64 = u64::MAX;
const NOT_SHOWN: u64 = u64::MAX - 1;

#[derive(Invariant)]
#[repr(C)]
struct Root {
    books: Books,
    context: PCell<ObjectId>,
    things: [PCell<ObjectId>; place(THINGS)],
}

fn about(what: &'static str) -> impl Fn(ErrorCode) -> String {
    move |error| format!("{what}: {error}")
}

#[libtwz::main]
fn main() -> Outcome<u8> {
    let nothing = const { PCell::new(ObjectId::NULL) };
    let make =
        || Root { books: Books::new(), context: nothing, things: [const { PCell::new(ObjectId::NULL) }; _] };
    let root = Object::<Root>::named("grants", make).map_err(text)?;
    let world = World::new().map_err(about("the owner's key"))?;
    let key = world.owner.id();
    let provide = |cell: &PCell<ObjectId>, create: &dyn Fn() -> core::result::Result<ObjectId, ErrorCode>| {
        if cell.get().is_null() {
            let made = create().map_err(about("making an object"))?;
            root.tx(|tx| tx.put(cell, made)).map_err(text)?;
        }
        Ok::<_, String>(())
    };
    let shared = root.books.seed.get() % 2 == 1;
    let new = NewContext { key, flags: 0, undetachable: false, shared, slots: TABLE_SLOTS };
    provide(&root.context, &|| ContextObject::create(&new).map(|made| made.id))?;
    for thing in &root.things {
        provide(thing, &|| syscall::object_create(&CreateSpec { key, ..CreateSpec::default() }))?;
    }
    resume::set(root.id(), 0).map_err(text)?;
    work(&root, true)
}

#[libtwz::resume]
fn go_on(resumed: Resumed) -> Outcome<u8> {
    work(&Object::<Root>::open(resumed.state).map_err(text)?, false)
}

fn handle(frame: &mut FaultFrame) {
    if !probe::recover(frame) {
        // Again, without a handler: the thread ends by its fault, and is resumed at the next start.
        // SAFETY: 0 is no code at all.
        unsafe { View::current().set_fault_handler(0) };
    }
}

/// In the context: the first word of the object in a slot.
#[gate(number = 0)]
fn look(slot: u64) -> u64 {
    let refused = FaultCause::Rights as u32;
    probe::load(slot * SLOT_SIZE + DATA_OFFSET)
        .unwrap_or_else(|fault| if fault.cause == refused { REFUSED } else { NOT_SHOWN })
}

/// Things and who may read them.
struct Things {
    world: World,
    reader: Compartment,
    objects: Vec<(ObjectId, Mapped)>,
    /// The thing that was last set, and to what.
    last: Option<(u64, Option<u64>)>,
}

impl Things {
    fn open(root: &Root) -> core::result::Result<Self, ErrorCode> {
        // SAFETY: the handler takes no lock.
        unsafe { fault::set_handler(handle) };
        let world = World::new()?;
        let context = ContextObject::open(root.context.get(), BOTH)?;
        // Of the view, the stacks and the data that it had in its last life.
        context.remove_dead()?;
        let reader = world.furnish(context)?;
        reader.handle_faults();
        reader.set_gate(0, look::ENTRY)?;
        let mut objects = Vec::new();
        for (slot, thing) in (FREE_SLOT..).zip(&root.things) {
            reader.map(slot, thing.get());
            objects.push((thing.get(), Mapped::of(thing.get())?));
        }
        Ok(Self { world, reader, objects, last: None })
    }

    /// The version of a thing that the context may read.
    fn version(&self, thing: u64) -> core::result::Result<Option<u64>, ErrorCode> {
        match look::call(self.reader.id, FREE_SLOT + thing)? {
            REFUSED => Ok(None),
            NOT_SHOWN => Err(ErrorCode::NoMemory),
            version => Ok(Some(version)),
        }
    }

    /// Lets the context read this version, or nothing.
    fn set(&mut self, thing: u64, version: Option<u64>) -> core::result::Result<(), ErrorCode> {
        let (id, mapped) = self.objects[place(thing)];
        self.last = Some((thing, version));
        let may_read = self.version(thing)?.is_some();
        let epoch = syscall::object_stat(id)?.epoch;
        let Some(version) = version else {
            return match may_read {
                true => context::revoke(&self.world.owner.revoke_object(id, epoch + 1), None),
                false => Ok(()),
            };
        };
        mapped.write_durably(DATA_OFFSET, &version.to_le_bytes());
        if may_read {
            return Ok(());
        }
        // Those of earlier epochs are worth nothing, and take the place of the new one.
        self.reader.object.remove_all(id)?;
        let grant = Grant { epoch, ..Grant::new(id, self.reader.id, Rights::READ) };
        self.reader.hand_over(&self.world.owner.grant(&grant))
    }
}

fn work(root: &Object<Root>, is_first: bool) -> Outcome<u8> {
    let books = &root.books;
    let mut things = Things::open(root).map_err(about("making the context's view"))?;
    let look = |thing| things.version(thing).map(Ok).map_err(about("looking"));
    if !books.tell("grants", look)? {
        return Ok(TORN);
    }
    if !is_first {
        resume::confirm().map_err(text)?;
    }
    loop {
        let done = books.done.get();
        let operation = plan::operation(books.seed.get(), done);
        let made = match operation {
            Operation::Transfer { .. } => Ok(()),
            Operation::Make { thing } => things.set(thing, Some(done)),
            Operation::Copy { thing, source } => {
                let version = things.version(source);
                version.and_then(|version| things.set(thing, version))
            }
            Operation::Remove { thing } => things.set(thing, None),
        };
        made.map_err(about("changing rights"))?;
        if let Some((thing, expected)) = things.last.take()
            && things.version(thing).map_err(about("looking"))? != expected
        {
            println!("grants: TORN right to thing {thing} at once");
            return Ok(TORN);
        }
        beside::count("grants", root, books, operation)?;
    }
}
