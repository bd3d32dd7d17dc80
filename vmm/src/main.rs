//! The `twzvmm` command.

use anyhow::{Context, Result, bail};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};
use images::Image;
use pool::{CreateOptions, OpenOptions, Pool};
use pool_cli::parse_size;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use twz_abi::ObjectId;
use vmm::control;
use vmm::machine::{Config, Ending, Machine, check_limits};
use vmm::power_cut::PowerCut;

/// Exit status of our own errors.
const OWN_ERROR: u8 = 2;
const DEFAULT_MEMORY: &str = "256M";
/// How often `twzvmm trace --follow` asks.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// Run programs on persistent memory, isolated by virtualization hardware.
///
/// Objects live in a pool: a file, or a DAX device such as /dev/dax0.0. Threads that were resumable when the last machine on the pool ended
/// go on. The exit status is the program's own; 128 + the fault's number if a fault ended it; 2 for errors of twzvmm itself. SIGTERM,
/// SIGINT and SIGHUP stop everything, write the pool out and end twzvmm within a second, by that signal (128 + its number in a shell).
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Command {
    /// Find out what this host's KVM can do, and what to do about it.
    Doctor {
        /// Print the findings as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the counters of a running machine: its kernel's and its VMM's.
    Stats {
        /// The machine's control socket.
        #[arg(long, value_name = "PATH")]
        control: PathBuf,
        /// Print them as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Look at the security contexts of a running machine, and take rights back.
    #[command(subcommand)]
    Ctx(Ctx),
    /// Print what a running machine did last: exits, hypercalls, injected interrupts.
    Trace {
        /// The machine's control socket.
        #[arg(long, value_name = "PATH")]
        control: PathBuf,
        /// Go on printing until the machine ends.
        #[arg(short, long)]
        follow: bool,
        /// Print them as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Look at the threads that the next start of a pool resumes, and change which.
    #[command(subcommand)]
    Resume(vmm::resume::command::Command),
    /// Look into a pool that no machine uses, change it, check and mend it.
    #[command(subcommand)]
    Pool(pool_cli::Command),
}

#[derive(Subcommand)]
enum Ctx {
    /// List the contexts in use, with placement and counters.
    Ls {
        /// The machine's control socket.
        #[arg(long, value_name = "PATH")]
        control: PathBuf,
        /// Print them as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print what is bound in a context: with which rights, by which capability.
    Show {
        /// The machine's control socket.
        #[arg(long, value_name = "PATH")]
        control: PathBuf,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
        /// The context's ID.
        #[arg(value_name = "CONTEXT")]
        id: ObjectId,
    },
    /// Take rights back. No access that needed them succeeds after this has returned.
    Revoke {
        /// The machine's control socket.
        #[arg(long, value_name = "PATH")]
        control: PathBuf,
        /// All capabilities to this object so far.
        #[arg(long, value_name = "ID", conflicts_with_all = ["context", "capability"])]
        object: Option<ObjectId>,
        /// Everything that this context holds, for good.
        #[arg(long, value_name = "ID", conflicts_with = "capability")]
        context: Option<ObjectId>,
        /// The capability to this object with the given digest, and all parts of it.
        #[arg(long, value_names = ["TARGET", "DIGEST"], num_args = 2)]
        capability: Option<Vec<String>>,
    },
}

#[derive(clap::Args)]
struct Run {
    /// The pool: a file or a DAX device (/dev/daxX.Y).
    #[arg(long, value_name = "FILE")]
    pmem: Option<PathBuf>,
    /// Make the pool if there is none: its size, for instance 1G. 0 takes all of a device.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    create: Option<u64>,
    /// Guest CPUs [default: 1].
    #[arg(long, value_name = "N")]
    harts: Option<u32>,
    /// Memory for the guest kernel; objects are not in it [default: 256M].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    mem: Option<u64>,
    /// Kernel and programs to use instead of the built-in image.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// A program of your own, an ELF file; known by the file's name, and run if no other is named. May be repeated.
    #[arg(long = "program", value_name = "FILE")]
    own: Vec<PathBuf>,
    /// Read defaults for these options from a TOML file: pmem, create, harts, mem, image, program.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write what the run cost (start-up time, memory) to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// For the kernel's developers: watch the kernel's instructions at the addresses in this file (hexadecimal, one a line), and write it
    /// again without those that were reached.
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    coverage: Option<PathBuf>,
    /// Answer `twzvmm stats` and `twzvmm trace` on a UNIX socket made there.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// A variable of the program's environment; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<String>,
    #[command(flatten)]
    power_cut: PowerCut,
    /// Say what happens; twice for more.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// The program to run and its arguments. Without it, only the threads that are to be resumed run; if there are none, the image's init.
    #[arg(last = true, value_name = "PROGRAM ARGS")]
    program: Vec<String>,
}

/// The same options in a file; the command line wins.
#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    pmem: Option<PathBuf>,
    create: Option<String>,
    harts: Option<u32>,
    mem: Option<String>,
    image: Option<PathBuf>,
    program: Option<Vec<String>>,
}

fn main() -> ExitCode {
    let started = Instant::now();
    let cli = Cli::try_parse().unwrap_or_else(|error| with_tip(error).exit());
    let level = match cli.run.verbose {
        0 => "warn,first_boot=info",
        1 => "vmm=debug,pool=debug,info",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("TWZ_LOG").unwrap_or_else(|_| level.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .init();
    if let Err(error) = vmm::bus_error::install_handlers() {
        eprintln!("twzvmm: cannot install a signal handler: {error}");
        return ExitCode::from(OWN_ERROR);
    }
    let done = match cli.command {
        Some(Command::Doctor { json }) => doctor(json),
        Some(Command::Stats { control, json }) => stats(&control, json),
        Some(Command::Trace { control, follow, json }) => trace(&control, follow, json),
        Some(Command::Resume(command)) => vmm::resume::command::run(&command).and_then(|text| print(&text)),
        Some(Command::Pool(command)) => pool_cli::run(&command),
        Some(Command::Ctx(command)) => ctx(command),
        None => run(cli.run, started),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            // One line: causes behind colons, control characters escaped.
            let line = format!("{error:#}").replace(['\n', '\r'], " ");
            eprintln!("twzvmm: {line}");
            ExitCode::from(OWN_ERROR)
        }
    }
}

/// What clap says of a command line, and how a program is named, where a bare word can only have been meant as one.
fn with_tip(mut error: clap::Error) -> clap::Error {
    let word = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) if !word.starts_with('-') => word.clone(),
        _ => return error,
    };
    if error.kind() == ErrorKind::UnknownArgument {
        let tip = format!("programs and their arguments come after '--': twzvmm [OPTIONS] -- {word}");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

fn doctor(json: bool) -> Result<ExitCode> {
    let report = vmm_probe::probe(&vmm_probe::Host::default());
    let text = if json { serde_json::to_string_pretty(&report)? + "\n" } else { report.to_string() };
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")?;
    Ok(match report.usable() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(OWN_ERROR),
    })
}

fn stats(path: &Path, json: bool) -> Result<ExitCode> {
    let stats = control::ask_stats(path)?;
    let text = if json { serde_json::to_string_pretty(&stats)? + "\n" } else { stats.to_string() };
    print(&text)
}

fn ctx(command: Ctx) -> Result<ExitCode> {
    match command {
        Ctx::Ls { control, json } => {
            let list = control::ask_contexts(&control)?;
            print(&if json { serde_json::to_string_pretty(&list)? + "\n" } else { list.to_string() })
        }
        Ctx::Show { control, json, id } => {
            let list = control::ask_contexts(&control)?;
            let wanted = id.to_string();
            let Some(context) = list.contexts.iter().find(|context| context.id == wanted) else {
                bail!("context {id} is not in use");
            };
            print(&if json { serde_json::to_string_pretty(context)? + "\n" } else { context.to_string() })
        }
        Ctx::Revoke { control, object, context, capability } => {
            let what = match (object, context, capability.as_deref()) {
                (Some(id), ..) => control::Revoke::Object { id: id.to_string() },
                (_, Some(id), _) => control::Revoke::Context { id: id.to_string() },
                (_, _, Some([target, digest])) => {
                    control::Revoke::Capability { target: target.clone(), digest: digest.clone() }
                }
                _ => bail!("say what to revoke: --object, --context or --capability"),
            };
            let done = control::ask_revoke(&control, &what)?;
            print(&format!("revoked in {} ns\n", done.took_ns))
        }
    }
}

fn trace(path: &Path, follow: bool, json: bool) -> Result<ExitCode> {
    let mut after: Vec<u64> = Vec::new();
    let mut has_printed = false;
    loop {
        let trace = match control::ask_trace(path, &after) {
            Ok(trace) => trace,
            // The machine that was followed has ended.
            Err(_) if follow && has_printed => return Ok(ExitCode::SUCCESS),
            Err(error) => return Err(error.into()),
        };
        let known = after.iter().copied().chain(std::iter::repeat(0));
        after = trace
            .harts
            .iter()
            .zip(known)
            .map(|(events, known)| events.last().map_or(known, |event| event.number))
            .collect();
        if json {
            print(&(serde_json::to_string(&trace)? + "\n"))?;
        } else {
            let mut text = String::new();
            trace.lines(|line| {
                text.push_str(line);
                text.push('\n');
                Ok::<(), anyhow::Error>(())
            })?;
            print(&text)?;
        }
        if !follow {
            return Ok(ExitCode::SUCCESS);
        }
        has_printed = true;
        std::thread::sleep(FOLLOW_INTERVAL);
    }
}

fn print(text: &str) -> Result<ExitCode> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

fn run(mut options: Run, started: Instant) -> Result<ExitCode> {
    if let Some(path) = options.config.take() {
        merge(&mut options, &path)?;
    }
    let Some(path) = options.pmem else {
        bail!("no pool given: use --pmem FILE, and --create SIZE to make one")
    };
    let memory = match options.mem {
        Some(memory) => memory,
        None => parse_size(DEFAULT_MEMORY).map_err(anyhow::Error::msg)?,
    };
    let memory = memory.next_multiple_of(2 << 20);
    let harts = options.harts.unwrap_or(1);
    check_limits(memory, harts).map_err(anyhow::Error::msg)?;

    let bytes: &'static [u8] = match &options.image {
        // Programs are taken from it as long as the machine runs, which is as long as this process lives.
        Some(path) => Vec::leak(
            std::fs::read(path).with_context(|| format!("cannot read the image {}", path.display()))?,
        ),
        None => images::DEFAULT,
    };
    let mut image = Image::parse(bytes).with_context(|| {
        options.image.as_deref().map_or("built-in image".into(), |path| path.display().to_string())
    })?;
    let own = options.own.iter().map(|path| own_program(path)).collect::<Result<Vec<_>>>()?;
    // As long as the image.
    for (name, contents) in Vec::leak(own) {
        image.add(name, contents).with_context(|| format!("program {name}"))?;
        image.init = name;
    }

    let mut pool = open_pool(&path, options.create)?;
    if let Some(plan) = options.power_cut.plan() {
        // One at a time has the pool.
        drop(pool);
        pool = Pool::open_shadowed(&path, plan).with_context(|| format!("pool {}", path.display()))?;
    }
    tracing::info!("{}: {}", path.display(), pool.durability());
    let config = Config {
        memory,
        harts,
        image: &image,
        arguments: options.program,
        environment: options.env,
        coverage: options.coverage,
    };
    let machine = Machine::build(&config, pool.clone(), started)?;
    let control = options.control.as_deref();
    let control =
        control.map(|path| control::Server::start(path, Arc::new(machine.inspector()))).transpose()?;
    let (ending, report) = machine.run(&path)?;
    drop(control);
    if let Some(shadow) = pool.shadow() {
        options.power_cut.write_sites(shadow).context("cannot write the sites")?;
    }
    tracing::info!(?ending, ?report, "the machine has ended");
    if let Some(path) = &options.report {
        let json = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(path, json).with_context(|| format!("cannot write the report {}", path.display()))?;
    }
    match ending {
        Ending::Exit(status) => Ok(ExitCode::from(status)),
        Ending::Signal(signal) => die_of(signal),
        Ending::Truncated { expected, found } => bail!(
            "{} was truncated while the machine ran: {expected} bytes expected, {found} found; restore the file's length",
            path.display()
        ),
        Ending::Broken(reason) => bail!("the machine broke down: {reason}"),
    }
}

/// Reads a program of the user's: its name and the contents of its object.
fn own_program(path: &Path) -> Result<(String, Vec<u8>)> {
    let named = || format!("program {}", path.display());
    let name = path.file_stem().and_then(|name| name.to_str()).with_context(named)?;
    let file = std::fs::read(path).with_context(named)?;
    Ok((name.into(), images::program_object(&file).with_context(named)?))
}

/// Checks a variable of the environment.
fn variable(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.into()),
        _ => Err("a variable looks like NAME=VALUE".into()),
    }
}

/// Opens the pool; makes it first if asked to and there is none. A file that holds something else is left alone; a device
/// always holds something.
fn open_pool(path: &Path, create: Option<u64>) -> Result<Pool> {
    let opened = match (Pool::open(path, &OpenOptions::default()), create) {
        (Err(pool::Error::NotAPool), Some(size)) if !path.is_file() => {
            Pool::create(path, size, &CreateOptions::default())
        }
        (Err(pool::Error::Io { source, .. }), create) if source.kind() == std::io::ErrorKind::NotFound => {
            match create {
                Some(size) => match Pool::create(path, size, &CreateOptions::default()) {
                    // Made meanwhile, by another process.
                    Err(pool::Error::AlreadyAPool { .. }) => Pool::open(path, &OpenOptions::default()),
                    created => created,
                },
                None => bail!("there is no pool {}: --create SIZE makes one", path.display()),
            }
        }
        (opened, _) => opened,
    };
    opened.with_context(|| format!("pool {}", path.display()))
}

fn merge(options: &mut Run, path: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file: ConfigFile = toml::from_str(&text).with_context(|| path.display().to_string())?;
    let size = |text: Option<String>| text.as_deref().map(parse_size).transpose().map_err(anyhow::Error::msg);
    options.create = options.create.or(size(file.create)?);
    options.mem = options.mem.or(size(file.mem)?);
    options.pmem = options.pmem.take().or(file.pmem);
    options.harts = options.harts.or(file.harts);
    options.image = options.image.take().or(file.image);
    if options.program.is_empty() {
        options.program = file.program.unwrap_or_default();
    }
    Ok(())
}

/// Ends this process by the signal that ended the machine, so that a shell sees the usual thing.
fn die_of(signal: i32) -> Result<ExitCode> {
    // SAFETY: resets the disposition of a signal whose default is to end the process.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: an all-zero set is valid to pass; `sigemptyset` and `sigaddset` fill it in.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is ours.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    // SAFETY: as above; the signal was blocked for the event loop.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) };
    // SAFETY: sends ourselves a signal.
    unsafe { libc::raise(signal) };
    bail!("signal {signal} did not end the process")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_dashes_before_it_is_explained() {
        let said = |arguments: &[&str]| {
            let error = Cli::try_parse_from(arguments).map(drop).map_err(with_tip);
            error.map_err(|error| error.to_string())
        };
        for arguments in [&["twzvmm", "hello"] as &[_], &["twzvmm", "--pmem", "pool", "hello", "there"]] {
            let error = said(arguments);
            assert!(
                error.as_ref().is_err_and(|error| error.contains("twzvmm [OPTIONS] -- hello")),
                "{error:?}"
            );
        }
        assert!(said(&["twzvmm", "--hello"]).is_err_and(|error| !error.contains("programs")));
        assert_eq!(said(&["twzvmm", "--", "hello"]), Ok(()));
    }
}
