//! The commands of `twzvmm pool`.
//!
//! # Contract
//! - Offline: each command has the pool to itself; one that is in use is refused.
//! - Every command prints text for people or, with `--json`, one JSON value. Object contents go out as they are.
//! - What takes long shows a progress bar on a terminal's standard error.
//! - Objects are given by ID or by name.
#![forbid(unsafe_code)]

mod bytes;
mod manage;
mod output;
mod show;
mod size;
mod transfer;

pub use output::Output;
pub use size::parse_size;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use pool::{OpenOptions, Pool};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use twz_abi::ObjectId;

/// A pool, and how to print.
#[derive(Args, Debug)]
pub struct Target {
    /// The pool: a file or a DAX device.
    #[arg(value_name = "POOL")]
    pub pool: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `twzvmm pool ...`
#[derive(Subcommand, Debug)]
#[allow(missing_docs, reason = "clap would take a text at a flattened field for help")]
pub enum Command {
    /// Make a pool in a new file or a DAX device.
    Create {
        #[command(flatten)]
        target: Target,
        /// Its size, such as 64M or 1T; may be left out for a device: all of it.
        #[arg(value_parser = parse_size)]
        size: Option<u64>,
        /// Destroy a pool that is there.
        #[arg(long)]
        force: bool,
        /// Smallest piece that can be mapped, for a file that will be copied to a device.
        #[arg(long, value_parser = parse_size)]
        granule: Option<u64>,
    },
    /// Say how large and how full a pool is, with a map of its space.
    Info {
        #[command(flatten)]
        target: Target,
    },
    /// List the objects.
    Ls {
        #[command(flatten)]
        target: Target,
    },
    /// Say all that the directory knows of an object.
    Stat {
        #[command(flatten)]
        target: Target,
        /// ID or name.
        object: String,
    },
    /// List an object's foreign object table, and where its entries lead.
    Fot {
        #[command(flatten)]
        target: Target,
        /// ID or name.
        object: String,
    },
    /// Print an object's bytes as they are.
    Cat {
        #[command(flatten)]
        target: Target,
        /// ID or name.
        object: String,
        #[command(flatten)]
        range: bytes::Range,
    },
    /// Print an object's bytes in hexadecimal.
    Hexdump {
        #[command(flatten)]
        target: Target,
        /// ID or name.
        object: String,
        #[command(flatten)]
        range: bytes::Range,
    },
    /// Write objects to one portable file.
    Export {
        #[command(flatten)]
        target: Target,
        /// The file to make.
        file: PathBuf,
        /// IDs or names.
        #[arg(required = true)]
        objects: Vec<String>,
        /// Also every object that these refer to, and so on.
        #[arg(long)]
        deep: bool,
    },
    /// Create the objects of an export file, all or none.
    Import {
        #[command(flatten)]
        target: Target,
        /// The file.
        file: PathBuf,
        /// Leave objects that are here already as they are, instead of failing.
        #[arg(long)]
        skip_existing: bool,
    },
    /// Make every reference of an object to one object a reference to another, in one atomic step.
    Retarget {
        #[command(flatten)]
        target: Target,
        /// The object whose references change: ID or name.
        object: String,
        /// From this object: ID or name.
        from: String,
        /// To this object: ID or name.
        to: String,
    },
    /// Delete objects.
    Rm {
        #[command(flatten)]
        target: Target,
        /// IDs or names.
        #[arg(required = true)]
        objects: Vec<String>,
    },
    /// Check a pool. The exit status is 1 when it is damaged.
    Fsck {
        #[command(flatten)]
        target: Target,
        /// Cut the damage out. What is lost is listed.
        #[arg(long)]
        repair: bool,
    },
    /// Make a pool larger.
    Grow {
        #[command(flatten)]
        target: Target,
        /// The new size; may be left out for a device: all of it.
        #[arg(value_parser = parse_size)]
        size: Option<u64>,
    },
    /// Give an object a name.
    Name {
        #[command(flatten)]
        target: Target,
        /// The name.
        name: String,
        /// ID or another name.
        object: String,
    },
    /// Take a name away; the object stays.
    Unname {
        #[command(flatten)]
        target: Target,
        /// The name.
        name: String,
    },
    /// Draw the graph of references, as DOT or, with `--svg`, as a picture.
    Graph {
        #[command(flatten)]
        target: Target,
        /// Draw an SVG picture.
        #[arg(long, conflicts_with = "json")]
        svg: bool,
        /// Write to this file, not to standard output.
        #[arg(short, long)]
        output: Option<PathBuf>,
    },
}

/// Runs a command and prints what it has to say.
///
/// # Errors
/// What went wrong, with its causes.
pub fn run(command: &Command) -> Result<ExitCode> {
    let (output, json) = execute(command)?;
    output.print(json)
}

/// Runs a command, prints nothing; says whether JSON is wanted.
///
/// # Errors
/// As [`run`].
pub fn execute(command: &Command) -> Result<(Output, bool)> {
    let (target, output) = match command {
        Command::Create { target, size, force, granule } => {
            (target, manage::create(&target.pool, size.unwrap_or(0), *force, *granule)?)
        }
        Command::Info { target } => (target, show::info(&open(target)?)),
        Command::Ls { target } => (target, show::ls(&open(target)?)?),
        Command::Stat { target, object } => (target, show::stat(&open(target)?, object)?),
        Command::Fot { target, object } => (target, show::fot(&open(target)?, object)?),
        Command::Cat { target, object, range } => (target, bytes::cat(&open(target)?, object, range)?),
        Command::Hexdump { target, object, range } => {
            (target, bytes::hexdump(&open(target)?, object, range)?)
        }
        Command::Export { target, file, objects, deep } => {
            (target, transfer::export(&open(target)?, file, objects, *deep)?)
        }
        Command::Import { target, file, skip_existing } => {
            (target, transfer::import(&open(target)?, file, *skip_existing)?)
        }
        Command::Retarget { target, object, from, to } => {
            (target, manage::retarget(&open(target)?, object, from, to)?)
        }
        Command::Rm { target, objects } => (target, manage::rm(&open(target)?, objects)?),
        Command::Fsck { target, repair } => (target, manage::fsck(&target.pool, *repair)?),
        Command::Grow { target, size } => (target, manage::grow(&target.pool, size.unwrap_or(0))?),
        Command::Name { target, name, object } => (target, manage::name(&open(target)?, name, object)?),
        Command::Unname { target, name } => (target, manage::unname(&open(target)?, name)?),
        Command::Graph { target, svg, output } => {
            (target, show::graph(&open(target)?, *svg, output.as_deref())?)
        }
    };
    Ok((output, target.json))
}

fn open(target: &Target) -> Result<Pool> {
    open_path(&target.pool)
}

fn open_path(path: &Path) -> Result<Pool> {
    // Not relaxed: what a command promises to be one step is one on every disk.
    let pool = Pool::open(path, &OpenOptions::default());
    pool.with_context(|| format!("cannot open the pool {}", path.display()))
}

/// The object that a text means: an ID, else a name.
fn find(pool: &Pool, text: &str) -> Result<ObjectId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    pool.name_get(text).with_context(|| format!("{text:?} is neither an object ID nor a name in this pool"))
}
