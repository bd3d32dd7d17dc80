//! Who is attacked: a context with a root of its own, and an object that it alone has rights to.

use apps::compartment::{Compartment, World};
use apps::mapped::{Mapped, volatile_object};
use libtwz::gate::{Caller, gate};
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::program::FREE_SLOT;
use twz_rt::abi::syscall::{CreateSpec, create_flags};
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::{syscall, view};

/// What the victim's object holds.
pub(crate) const SECRET: u64 = 0x5ec2_e75e_c2e7_5ec2;

/// The victim.
pub(crate) struct Victim {
    /// Its context.
    pub(crate) compartment: Compartment,
    /// Its object: no key, no default rights, created by it.
    pub(crate) object: ObjectId,
    /// A context that the victim has created: nobody else may enter it.
    pub(crate) private: ObjectId,
    /// An object of the attacker's.
    pub(crate) mine: ObjectId,
    /// Where the attacker's view maps the victim's object, in vain.
    address: u64,
}

impl Victim {
    /// Makes one whose object holds [`SECRET`].
    pub(crate) fn new(world: &World) -> Result<Self, ErrorCode> {
        let compartment = world.compartment(false, &[make::ENTRY, put::ENTRY, get::ENTRY])?;
        let object = make::call(compartment.id, ObjectId::NULL)?;
        let private = make::call(compartment.id, ObjectId::NULL)?;
        compartment.map(FREE_SLOT, object);
        put::call(compartment.id, SECRET)?;
        let mine = volatile_object(world.owner.id())?;
        let address = view::map_anywhere(object, Rights::all()).ok_or(ErrorCode::NoMemory)? as u64;
        Ok(Self { compartment, object, private, mine, address })
    }

    /// Where the attacker's view names the victim's object.
    pub(crate) fn map_here(&self) -> u64 {
        self.address
    }

    /// The secret, as the victim sees it.
    pub(crate) fn secret(&self) -> Result<u64, ErrorCode> {
        get::call(self.compartment.id)
    }
}

/// In another context: an object that this context alone has created.
#[gate(number = 0)]
pub(crate) fn make(key: ObjectId) -> ObjectId {
    let spec = CreateSpec { key, flags: create_flags::VOLATILE, ..CreateSpec::default() };
    syscall::object_create(&spec).unwrap_or(ObjectId::NULL)
}

/// In another context: stores into the object in the first free slot.
#[gate(number = 1)]
pub(crate) fn put(word: u64) {
    Mapped((FREE_SLOT * SLOT_SIZE) as *mut u8).set_word(DATA_OFFSET, word);
}

/// In another context: loads from it.
#[gate(number = 2)]
pub(crate) fn get() -> u64 {
    Mapped((FREE_SLOT * SLOT_SIZE) as *mut u8).word(DATA_OFFSET)
}

/// In another context: something to call.
#[gate(number = 0)]
pub(crate) fn who(caller: Caller) -> ObjectId {
    caller.context()
}
