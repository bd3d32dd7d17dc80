//! Starting another program in a context of its own or in ours: [`twz_rt::process`], with contexts and keys as the owner's programs keep them.
//!
//! # Contract
//! - A program in a context of its own ([`Home::own`]) reaches what that context created, what has default rights, and what was granted to
//!   it; nothing of ours, memory included. `context/run/NAME` is that context, the same each time, so that what it stored stays its own.
//! - A program that faults or panics ends alone. Threads that it started run on when its first one has ended.

use crate::context_object::{ContextObject, NewContext};
use crate::keys;
use crate::logger;
use crate::mapped::{BOTH, volatile_object};
use alloc::boxed::Box;
use alloc::format;
use sec::{GateSet, Grant, KeyPair};
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::process::{self, Child, Command};
use twz_rt::{Args, syscall};

/// Slots of the table of a program's context.
const TABLE_SLOTS: u32 = 256;

/// The context that a program is started in.
pub enum Home {
    /// The caller's, with all that it may do.
    Here,
    /// One of the program's own.
    Own {
        /// Signs what the context may do.
        owner: Box<KeyPair>,
        /// The context.
        context: ContextObject,
    },
}

impl Home {
    /// The program's own context; makes it when the program is started for the first time.
    ///
    /// # Errors
    /// [`ErrorCode::NotPermitted`] if we may not read the owner's secret or use the context; what creating objects says.
    pub fn own(program: &str) -> Result<Self, ErrorCode> {
        let home = Self::named(&format!("context/run/{program}"), false)?;
        home.may_log()?;
        Ok(home)
    }

    /// The context of that name; makes it, with that placement, if there is none.
    ///
    /// # Errors
    /// As [`Home::own`].
    pub fn named(name: &str, shared: bool) -> Result<Self, ErrorCode> {
        let owner = Box::new(keys::pair("owner")?);
        let context = match syscall::name_get(name) {
            Ok(id) => ContextObject::open(id, BOTH | Rights::USE)?,
            Err(ErrorCode::NoName) => {
                let key = owner.id();
                let new = NewContext { key, flags: 0, undetachable: false, shared, slots: TABLE_SLOTS };
                let context = ContextObject::create(&new)?;
                syscall::name_set(context.id, name)?;
                context
            }
            Err(error) => return Err(error),
        };
        Ok(Self::Own { owner, context })
    }

    /// Lets the context call the gates of the logging service that are for everybody, if there is one.
    ///
    /// # Errors
    /// What [`ContextObject::add`] says.
    pub fn may_log(&self) -> Result<(), ErrorCode> {
        let (Self::Own { owner, context }, Ok(service)) = (self, syscall::name_get(logger::SERVICE)) else {
            return Ok(());
        };
        let gates = GateSet::range(0, logger::gates::READ, 1).ok_or(ErrorCode::BadArgument)?;
        let grant = Grant { gates, ..Grant::new(service, context.id, Rights::empty()) };
        context.add(&owner.grant(&grant))
    }
}

impl process::Home for Home {
    fn context(&self) -> ObjectId {
        match self {
            Self::Here => process::Here.context(),
            Self::Own { context, .. } => context.id,
        }
    }

    fn object(&self, rights: Rights) -> Result<ObjectId, ErrorCode> {
        let Self::Own { owner, context } = self else { return process::Here.object(rights) };
        let id = volatile_object(owner.id())?;
        let capability = owner.grant(&Grant::new(id, context.id, rights));
        context.add_replacing_dead(&capability)?;
        Ok(id)
    }
}

/// Starts the program called `name` in `home` with these words, its name first, and the environment that came with `ours`.
///
/// # Errors
/// [`ErrorCode::NoName`] if there is no such program, [`ErrorCode::BadArgument`] if its object holds none; what creating objects and
/// threads says.
pub fn start(name: &str, words: &[&str], ours: Args, home: &Home) -> Result<Child, ErrorCode> {
    let program = syscall::name_get(&format!("program/{name}"))?;
    Command::new(program, name).args(words.get(1..).unwrap_or_default()).spawn(&ours, home)
}
