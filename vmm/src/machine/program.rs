//! Programs: import from the image into the pool, and the objects that the first thread starts with.
//!
//! A program object's ID comes from the digest of its contents, so an image is imported once and a changed program is a new object.
//! It gets its name last: an import that was cut short is found unnamed and done again.

use super::monitor::{Life, Monitor};
use images::{Contents, ImageError, Program};
use pool::{Error as PoolError, ObjectRef, ObjectSpec, Pool, object_id};
use std::sync::{Arc, Mutex, PoisonError};
use twz_abi::boot::ThreadStart;
use twz_abi::object::DATA_OFFSET;
use twz_abi::program::{
    ARGS_SLOT, ArgsHeader, DATA_SLOT, HEAP_SLOT, PROGRAM_MAGIC, SHARED_SLOT, STACK_SLOT, STACK_TOP,
    TEXT_SLOT, VIEW_SLOT,
};
use twz_abi::view::{
    HEADER_OFFSET, SLOT_SIZE, VIEW_MAGIC, VIEW_VERSION, ViewEntry, ViewHeader, entry_flags, entry_offset,
};
use twz_abi::{ObjectId, Rights};
use zerocopy::{FromZeros, IntoBytes};

/// Names of imported programs: this, the program's name, and its digest.
pub(crate) const PROGRAM_PREFIX: &str = "program/";
/// Most bytes of arguments.
const ARGS_MAX: usize = 1 << 20;

/// The first program cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The pool failed.
    #[error("cannot put the program into the pool")]
    Pool(#[from] PoolError),
    /// It is not what was packed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Too long a command line.
    #[error("the arguments and the environment take {0} bytes; at most {ARGS_MAX} are possible")]
    Arguments(usize),
}

/// The program that a machine starts.
pub(super) struct First<'a> {
    pub(super) program: &'a Program<'a>,
    pub(super) contents: Contents<'a>,
    /// Its name first.
    pub(super) arguments: Vec<String>,
}

/// Makes sure that `program` is in the pool; returns its object.
///
/// # Errors
/// [`ProgramError::Pool`], [`ProgramError::Image`].
pub(super) fn import(pool: &Pool, program: &Program<'_>) -> Result<ObjectId, ProgramError> {
    let mut nonce = [0; 16];
    nonce.copy_from_slice(&program.digest[..16]);
    let rights = Rights::READ | Rights::EXEC;
    let id = object_id(&nonce, ObjectId::NULL, rights);
    let name = format!("{PROGRAM_PREFIX}{}", program.name);
    if pool.name_get(&name) == Some(id) {
        return Ok(id);
    }
    let contents = program.contents()?.bytes;
    if pool.contains(id) {
        pool.delete_object(id)?;
    }
    let size = DATA_OFFSET + contents.len() as u64;
    let spec = ObjectSpec { nonce: Some(nonce), rights, size, ..ObjectSpec::default() };
    pool.create_object(&spec)?;
    pool.open_object(id)?.write(DATA_OFFSET, contents)?;
    if let Some(old) = pool.name_get(&name)
        && is_program(pool, old)?
    {
        // Whoever still has it mapped keeps it until the last use ends.
        pool.delete_object(old)?;
    }
    pool.name_set(&name, id)?;
    tracing::debug!(program = program.name, %id, "imported");
    Ok(id)
}

/// Whether an object is as [`import`] makes them. Names are everybody's to give: what is called a program may be somebody's data.
fn is_program(pool: &Pool, id: ObjectId) -> Result<bool, ProgramError> {
    let stat = pool.stat_object(id)?;
    let mut magic = [0; 8];
    pool.open_object(id)?.read(DATA_OFFSET, &mut magic)?;
    let rights = Rights::READ | Rights::EXEC;
    Ok(stat.key.is_null() && stat.rights == rights && u64::from_le_bytes(magic) == PROGRAM_MAGIC)
}

/// The programs of the image, for programs that start others: each comes into the pool when its name is first looked up.
pub(super) struct Programs {
    pool: Arc<Pool>,
    programs: Vec<Program<'static>>,
    /// Only one import at a time.
    importing: Mutex<()>,
}

impl Programs {
    /// Those of an image, for the machine of `pool`.
    pub(super) fn new(pool: Arc<Pool>, programs: &[Program<'static>]) -> Self {
        Self { pool, programs: programs.to_vec(), importing: Mutex::new(()) }
    }

    /// If `name` is a program's of the image, makes sure that it means this program.
    ///
    /// # Errors
    /// As [`import`].
    pub(super) fn bring(&self, name: &str) -> Result<(), ProgramError> {
        let Some(wanted) = name.strip_prefix(PROGRAM_PREFIX) else { return Ok(()) };
        let Some(program) = self.programs.iter().find(|program| program.name == wanted) else {
            return Ok(());
        };
        let _turn = self.importing.lock().unwrap_or_else(PoisonError::into_inner);
        import(&self.pool, program).map(drop)
    }

    /// The first name behind `name` in byte order: the one `in_pool`, or that of a program that can come there.
    pub(super) fn name_after(&self, name: &str, in_pool: Option<String>) -> Option<String> {
        let programs = self.programs.iter().map(|program| format!("{PROGRAM_PREFIX}{}", program.name));
        programs.chain(in_pool).filter(|next| next.as_str() > name).min()
    }
}

/// Makes view, data, stack, heap and arguments of the first thread.
///
/// # Errors
/// [`ProgramError`].
pub(super) fn prepare(
    pool: &Pool,
    monitor: &Monitor,
    first: &First<'_>,
    context: ObjectId,
    environment: &[String],
) -> Result<ThreadStart, ProgramError> {
    let First { program, contents, arguments } = first;
    let text = import(pool, program)?;
    let life = monitor.life()?;
    let read_write = Rights::READ | Rights::WRITE;
    // The creator's alone: nobody has default rights to them.
    let make = || monitor.make_volatile(context, Rights::empty());

    let data = make()?;
    let template = usize::try_from(contents.header.data_offset - DATA_OFFSET).unwrap_or(usize::MAX);
    let template = contents.bytes.get(template..).unwrap_or_default();
    pool.open_object(data)?.write(DATA_OFFSET, template)?;

    let args = make()?;
    pool.open_object(args)?.write(DATA_OFFSET, &arguments_bytes(life, arguments, environment)?)?;

    let view = make()?;
    let slots = [
        (TEXT_SLOT, text, Rights::READ | Rights::EXEC),
        (DATA_SLOT, data, read_write),
        (STACK_SLOT, make()?, read_write),
        (ARGS_SLOT, args, Rights::READ),
        (HEAP_SLOT, make()?, read_write),
        (SHARED_SLOT, life.shared, Rights::READ),
        (VIEW_SLOT, view, read_write),
    ];
    let opened = pool.open_object(view)?;
    let mut header = ViewHeader::new_zeroed();
    (header.magic, header.version) = (VIEW_MAGIC, VIEW_VERSION);
    opened.write(HEADER_OFFSET, header.as_bytes())?;
    for (slot, target, rights) in slots {
        ViewEdit(&opened).set(slot, target, rights)?;
    }
    Ok(ThreadStart {
        view,
        context,
        entry: contents.header.entry,
        stack: STACK_SLOT * SLOT_SIZE + STACK_TOP,
        argument: ARGS_SLOT * SLOT_SIZE,
        tls: 0,
    })
}

/// A view that no thread runs in, to be read and filled.
pub(super) struct ViewEdit<'a>(pub(super) &'a ObjectRef);

impl ViewEdit<'_> {
    /// The entry of a slot below [`SLOT_COUNT`].
    ///
    /// # Errors
    /// The pool's.
    pub(super) fn get(&self, slot: u64) -> Result<ViewEntry, PoolError> {
        let mut entry = ViewEntry::new_zeroed();
        self.0.read(at(slot), entry.as_mut_bytes())?;
        Ok(entry)
    }

    /// Maps `target` there; nothing if it is null.
    ///
    /// # Errors
    /// The pool's.
    pub(super) fn set(&self, slot: u64, target: ObjectId, rights: Rights) -> Result<(), PoolError> {
        let flags = if target.is_null() { 0 } else { entry_flags::VALID };
        let entry = ViewEntry { target, flags, rights: rights.bits(), user: 0 };
        self.0.write(at(slot), entry.as_bytes())
    }
}

fn at(slot: u64) -> u64 {
    entry_offset(slot).expect("a slot below SLOT_COUNT")
}

/// The contents of an arguments object, from offset 0x1000 on.
fn arguments_bytes(
    life: Life,
    arguments: &[String],
    environment: &[String],
) -> Result<Vec<u8>, ProgramError> {
    let header = ArgsHeader {
        count: arguments.len() as u64,
        durability: life.durability,
        environment_count: environment.len() as u64,
        boot: life.boot,
    };
    let mut bytes = header.as_bytes().to_vec();
    let texts = || arguments.iter().chain(environment);
    let mut at = DATA_OFFSET + (bytes.len() + texts().count() * 16) as u64;
    for text in texts() {
        bytes.extend_from_slice([at, text.len() as u64].as_bytes());
        at += text.len() as u64;
    }
    texts().for_each(|text| bytes.extend_from_slice(text.as_bytes()));
    if bytes.len() > ARGS_MAX { Err(ProgramError::Arguments(bytes.len())) } else { Ok(bytes) }
}
