//! The commands.

use crate::input::names;
use crate::paths::{self, find};
use crate::{run, top};
use alloc::format;
use alloc::string::{String, ToString};
use apps::mapped::Mapped;
use sec::ObjectBytes;
use twz_rt::abi::object::{FotEntry, META_MAGIC, META_OFFSET, ObjectMeta, fot_entry_offset, fot_flags};
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::{Args, println, syscall};
use zerocopy::{FromZeros, IntoBytes};

/// What a command returns: nothing to say, or why it failed.
type Said = Result<(), String>;

/// A command of the shell's own.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    usage: &'static str,
    what: &'static str,
}

const fn command(name: &'static str, usage: &'static str, what: &'static str) -> Command {
    Command { name, usage, what }
}

/// All of them, in the order of `help`.
pub(crate) const COMMANDS: &[Command] = &[
    command("ls", "[PREFIX | /PATH]", "list names that begin with PREFIX, or a directory of libtwz's names"),
    command("stat", "OBJECT", "say what the monitor knows of an object"),
    command("fot", "OBJECT", "list the objects that an object refers to, from its FOT"),
    command(
        "name",
        "NAME [OBJECT]",
        "say what NAME means, or make it mean OBJECT; `name -d NAME` takes it away",
    ),
    command(
        "run",
        "[--own] PROGRAM [ARGUMENT]...",
        "run a program in a view of its own; --own: in a context of its own, too",
    ),
    command("ctx", "ls|show|make|grant|...", "look at security contexts and change them (the program ctx)"),
    command("kv", "put|get|delete|scan|...", "use the key-value store (the program kv)"),
    command("log", "[--async] [TEXT]", "send TEXT to the log, or print the log (the program logboi)"),
    command("top", "[SECONDS]", "say what the kernel does, each second"),
    command("help", "[COMMAND]", "list the commands, or explain one"),
    command("exit", "[STATUS]", "end the shell, and the machine if it started with it"),
];

/// What lasts from command to command.
pub(crate) struct Session {
    /// The exit status so far: that of the first command that failed.
    pub(crate) status: u8,
    args: Args,
}

impl Session {
    pub(crate) const fn new(args: Args) -> Self {
        Self { status: 0, args }
    }

    /// Notes that a command ended with `status`.
    pub(crate) fn failed(&mut self, status: u8) {
        if self.status == 0 {
            self.status = status;
        }
    }

    /// Executes a command; false if it ends the shell.
    pub(crate) fn execute(&mut self, name: &str, words: &[&str]) -> bool {
        let done = match (name, words) {
            ("exit", []) => return false,
            ("exit", [status]) => match status.parse() {
                Ok(status) => {
                    self.status = status;
                    return false;
                }
                Err(_) => Err(usage("exit")),
            },
            ("run", ["--own", words @ ..]) => return self.program(words, true),
            ("run", words) => return self.program(words, false),
            ("ctx" | "kv", words) => return self.program(&[&[name], words].concat(), false),
            ("log", words) => return self.program(&[&["logboi"], words].concat(), false),
            ("ls", []) => list(""),
            ("ls", [prefix]) => list(prefix),
            ("stat", [object]) => stat(object),
            ("fot", [object]) => fot(object),
            ("name", [name]) => find(name).map(|id| println!("{id}")),
            ("name", ["-d", name]) => paths::unbind(name),
            ("name", [name, object]) => find(object).and_then(|id| paths::bind(name, id)),
            ("top", []) => top::top(1).map_err(about("top")),
            ("top", [rounds]) => match rounds.parse() {
                Ok(rounds) => top::top(rounds).map_err(about("top")),
                Err(_) => Err(usage("top")),
            },
            ("help", []) => {
                COMMANDS.iter().for_each(|command| {
                    println!("  {:<6} {:<32} {}", command.name, command.usage, command.what)
                });
                Ok(())
            }
            ("help", [name]) => help(name),
            _ if COMMANDS.iter().any(|command| command.name == name) => Err(usage(name)),
            _ => Err(format!("no command {name}; `help` lists them, `run {name}` runs a program")),
        };
        if let Err(text) = done {
            println!("{name}: {text}");
            self.failed(1);
        }
        true
    }

    fn program(&mut self, words: &[&str], own: bool) -> bool {
        let status = run::run(words, own, self.args);
        if status != 0 {
            self.failed(status);
        }
        true
    }
}

fn usage(name: &str) -> String {
    let of = COMMANDS.iter().find(|command| command.name == name);
    of.map_or_else(String::new, |command| format!("usage: {} {}", command.name, command.usage))
}

fn help(name: &str) -> Said {
    let command = COMMANDS.iter().find(|command| command.name == name);
    let command = command.ok_or_else(|| format!("no command {name}"))?;
    println!("{}: {}", usage(name), command.what);
    Ok(())
}

/// Says what an error is about.
fn about(what: &str) -> impl FnOnce(ErrorCode) -> String {
    move |error| format!("{what}: {error}")
}

fn list(prefix: &str) -> Said {
    if paths::is_path(prefix) {
        paths::list(prefix)?.into_iter().for_each(|(name, id)| list_one(&name, id));
        return Ok(());
    }
    for name in names(prefix) {
        // A program of the image gets its object when it is looked up: not for a list.
        let id = if name.starts_with("program/") { None } else { syscall::name_get(&name).ok() };
        list_one(&name, id);
    }
    Ok(())
}

fn list_one(name: &str, id: Option<ObjectId>) {
    match id.map(|id| (id, syscall::object_stat(id))) {
        Some((id, Ok(stat))) => {
            println!("{id}  {}  {:>10}  {name}", letters(stat.granted()), stat.allocated_bytes);
        }
        Some((id, Err(_))) => println!("{id}  {:>17}  {name}", "-"),
        None => println!("{:>33}  {:>17}  {name}", "", ""),
    }
}

fn letters(rights: Rights) -> String {
    let all = [
        (Rights::READ, 'r'),
        (Rights::WRITE, 'w'),
        (Rights::EXEC, 'x'),
        (Rights::USE, 'u'),
        (Rights::DELETE, 'd'),
    ];
    all.into_iter().map(|(right, letter)| if rights.contains(right) { letter } else { '-' }).collect()
}

fn stat(word: &str) -> Said {
    let id = find(word)?;
    let stat = syscall::object_stat(id).map_err(about(word))?;
    let key = if stat.key.is_null() { "none".to_string() } else { stat.key.to_string() };
    let volatile = if stat.flags & twz_rt::abi::syscall::create_flags::VOLATILE == 0 { "no" } else { "yes" };
    println!("id          {id}");
    println!("key         {key}");
    println!(
        "rights      {} for everybody, {} here",
        letters(default_rights(&stat)),
        letters(stat.granted())
    );
    println!("volatile    {volatile}");
    println!("allocated   {} bytes", stat.allocated_bytes);
    println!("uses        {}", stat.references);
    println!("epoch       {}", stat.epoch);
    Ok(())
}

fn default_rights(stat: &twz_rt::abi::syscall::ObjectStat) -> Rights {
    Rights::from_bits_truncate(stat.default_rights)
}

fn fot(word: &str) -> Said {
    let id = find(word)?;
    let stat = syscall::object_stat(id).map_err(about(word))?;
    if !stat.granted().contains(Rights::READ) {
        return Err(about(word)(ErrorCode::NotPermitted));
    }
    let mapped = Mapped::of(id).map_err(about(word))?;
    let mut meta = ObjectMeta::new_zeroed();
    mapped.read(META_OFFSET, meta.as_mut_bytes());
    if meta.magic != META_MAGIC {
        println!("{word}: raw bytes, no FOT");
        return Ok(());
    }
    // The length is the object's own claim; offsets end where the table must.
    let entries = (1..meta.fot_len).map_while(|index| fot_entry_offset(index).map(|at| (index, at)));
    for (index, at) in entries {
        let mut entry = FotEntry::default();
        mapped.read(at, entry.as_mut_bytes());
        if entry.flags & fot_flags::VALID == 0 {
            continue;
        }
        let rights = letters(entry.requested());
        if entry.flags & fot_flags::NAME == 0 {
            println!("{index:>6}  {rights}  {}", entry.target);
        } else {
            println!("{index:>6}  {rights}  by name: {}", name_in(mapped, entry.target.lo));
        }
    }
    Ok(())
}

/// The name at `offset` of an object: a length word, then bytes. What does not look like one is shown as such.
fn name_in(mapped: Mapped, offset: u64) -> String {
    const LONGEST: usize = 255;
    let mut bytes = [0; LONGEST];
    let data = twz_rt::abi::object::DATA_OFFSET..META_OFFSET - 8 - LONGEST as u64;
    if !data.contains(&offset) || !offset.is_multiple_of(8) {
        return format!("at a bad offset {offset:#x}");
    }
    let length = usize::try_from(mapped.word(offset)).unwrap_or(LONGEST).min(LONGEST);
    mapped.read(offset + 8, &mut bytes[..length]);
    String::from_utf8_lossy(&bytes[..length]).escape_debug().to_string()
}
