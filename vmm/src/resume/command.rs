//! `twzvmm resume`: looks at the resume list of a pool that no machine uses, and changes it.

use super::{Kind, Record, ResumeList};
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use pool::{OpenOptions, Pool};
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the threads that the next start resumes, in that order, and those set aside.
    Ls {
        /// The pool: a file or a DAX device.
        #[arg(long, value_name = "FILE")]
        pmem: PathBuf,
        /// Print them as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Give a thread that was set aside another chance.
    Retry {
        /// The pool: a file or a DAX device.
        #[arg(long, value_name = "FILE")]
        pmem: PathBuf,
        /// Its number, from `ls`.
        number: u64,
    },
    /// Forget a thread. Its volatile objects are gone at the next start.
    Clear {
        /// The pool: a file or a DAX device.
        #[arg(long, value_name = "FILE")]
        pmem: PathBuf,
        /// Its number, from `ls`.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        number: Option<u64>,
        /// All threads.
        #[arg(long)]
        all: bool,
    },
}

#[derive(Serialize)]
struct Line {
    number: u64,
    name: String,
    status: Kind,
    failed_tries: u8,
    resumed: u32,
    view: String,
    context: String,
    state: String,
}

/// Carries a command out; returns what to print.
///
/// # Errors
/// The pool cannot be used, or has no such thread.
pub fn run(command: &Command) -> Result<String> {
    match command {
        Command::Ls { pmem, json } => {
            let (pool, list) = open(pmem)?;
            let lines: Vec<Line> =
                list.in_order().iter().map(|(number, record)| line(&pool, *number, record)).collect();
            if *json {
                return Ok(serde_json::to_string_pretty(&lines)? + "\n");
            }
            let mut text = format!(
                "{:>6}  {:<20}  {:<9}  tries  resumed  view\n",
                "number", "program (thread)", "status"
            );
            for Line { number, name, status, failed_tries, resumed, view, .. } in lines {
                let status = if status == Kind::Resumable { "resumable" } else { "set aside" };
                writeln!(text, "{number:>6}  {name:<20}  {status}  {failed_tries:>5}  {resumed:>7}  {view}")?;
            }
            Ok(text)
        }
        Command::Retry { pmem, number } => {
            let (pool, mut list) = open(pmem)?;
            known(&list, *number)?;
            list.change(&pool, *number, |word| (word.kind, word.tries) = (Kind::Resumable, 0))?;
            Ok(String::new())
        }
        Command::Clear { pmem, number, all } => {
            let (pool, mut list) = open(pmem)?;
            let numbers: Vec<u64> = match number {
                Some(number) => vec![known(&list, *number)?],
                None if *all => list.in_order().iter().map(|(number, _)| *number).collect(),
                None => bail!("say which thread, or --all"),
            };
            numbers.iter().try_for_each(|&number| list.remove(&pool, number))?;
            Ok(String::new())
        }
    }
}

fn open(path: &Path) -> Result<(Pool, ResumeList)> {
    let named = || format!("pool {}", path.display());
    let pool = Pool::open(path, &OpenOptions::default()).with_context(named)?;
    let list = ResumeList::load(&pool).with_context(named)?;
    Ok((pool, list))
}

fn known(list: &ResumeList, number: u64) -> Result<u64> {
    match list.get(number) {
        Some(_) => Ok(number),
        None => bail!("no thread {number} is on the resume list; `twzvmm resume ls` shows it"),
    }
}

fn line(pool: &Pool, number: u64, record: &Record) -> Line {
    let word = record.word;
    Line {
        number,
        name: record.describe(pool),
        status: word.kind,
        failed_tries: if word.confirmed && !word.faulted { 0 } else { word.tries },
        resumed: word.times,
        view: record.view.to_string(),
        context: record.context.to_string(),
        state: record.spec.state.to_string(),
    }
}
