//! Where commands come from: a person at a terminal, or standard input.

use crate::commands::COMMANDS;
use crate::history::History;
use alloc::string::String;
use alloc::vec::Vec;
use apps::line::{Action, Editor};
use twz_rt::abi::syscall::{ConsoleMode, NAME_MAX};
use twz_rt::{print, println, syscall};

const PROMPT: &str = "twsh> ";
const PROGRAMS: &str = "program/";

/// What comes next.
pub(crate) enum Next {
    /// A command line.
    Line(String),
    /// Nothing more.
    End,
}

/// A person's input.
struct Terminal {
    editor: Editor,
    history: Option<History>,
    /// Keys that were read and not used yet.
    keys: Vec<u8>,
}

/// The shell's input.
pub(crate) struct Input(Option<Terminal>);

impl Input {
    /// A terminal if there is one.
    pub(crate) fn new() -> Self {
        let is_terminal = matches!(syscall::console_mode(ConsoleMode::Lines), Ok(Some(_)));
        Self(is_terminal.then(|| {
            let history = History::open();
            if history.is_none() {
                println!("twsh: no history: its object cannot be used here");
            }
            let lines = history.as_ref().map(History::lines).unwrap_or_default();
            Terminal { editor: Editor::new(lines), history, keys: Vec::new() }
        }))
    }

    pub(crate) const fn is_terminal(&self) -> bool {
        self.0.is_some()
    }

    /// Waits for the next line.
    pub(crate) fn line(&mut self) -> Next {
        match &mut self.0 {
            Some(terminal) => terminal.line(),
            None => piped_line(),
        }
    }
}

/// Byte by byte, so that a program which the line starts finds the rest of the input.
fn piped_line() -> Next {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        match syscall::console_read(&mut byte) {
            Ok(1) if byte[0] == b'\n' => break,
            Ok(1) => line.push(byte[0]),
            _ if line.is_empty() => return Next::End,
            _ => break,
        }
    }
    Next::Line(String::from_utf8_lossy(&line).into_owned())
}

impl Terminal {
    /// The terminal gives keys while a line is edited, and lines, with Ctrl-C as usual, while a command runs.
    fn line(&mut self) -> Next {
        let columns = syscall::console_mode(ConsoleMode::Keys).ok().flatten().unwrap_or(0);
        let columns = usize::try_from(columns).unwrap_or(0);
        let next = self.edit(columns);
        // It is a terminal, so this succeeds.
        let _ = syscall::console_mode(ConsoleMode::Lines);
        next
    }

    fn edit(&mut self, columns: usize) -> Next {
        print!("{}", self.editor.shown(PROMPT, columns));
        loop {
            if self.keys.is_empty() {
                let mut buffer = [0; 256];
                match syscall::console_read(&mut buffer) {
                    Ok(count) if count > 0 => self.keys.extend_from_slice(&buffer[..count]),
                    _ => return Next::End,
                }
            }
            let mut show = false;
            for (used, &key) in (1..).zip(&self.keys) {
                match self.editor.key(key) {
                    Action::Nothing => {}
                    Action::Show => show = true,
                    Action::Clear => {
                        print!("\x1b[H\x1b[2J");
                        show = true;
                    }
                    Action::Line(line) => {
                        self.keys.drain(..used);
                        println!("\r{PROMPT}{line}\x1b[K");
                        self.remember(&line);
                        return Next::Line(line);
                    }
                    Action::Dropped => {
                        println!("^C");
                        show = true;
                    }
                    Action::End => {
                        println!();
                        return Next::End;
                    }
                    Action::Complete => {
                        let candidates = candidates(&self.editor);
                        if self.editor.complete(&candidates) {
                            println!();
                            candidates.iter().for_each(|candidate| print!("{candidate}  "));
                            println!();
                        }
                        show = true;
                    }
                }
            }
            self.keys.clear();
            if show {
                print!("{}", self.editor.shown(PROMPT, columns));
            }
        }
    }

    fn remember(&mut self, line: &str) {
        if self.editor.remember(line)
            && let Some(history) = &self.history
        {
            history.add(line);
        }
    }
}

/// What the word before the cursor may become: a command, a program after `run`, else a name.
fn candidates(editor: &Editor) -> Vec<String> {
    let (before, word) = editor.words();
    match before.as_slice() {
        [] | ["help"] => COMMANDS
            .iter()
            .map(|command| command.name)
            .filter(|name| name.starts_with(word))
            .map(String::from)
            .collect(),
        ["run"] | ["run", "--own"] => {
            let programs = names(&alloc::format!("{PROGRAMS}{word}"));
            programs.into_iter().map(|name| name[PROGRAMS.len()..].into()).collect()
        }
        _ => names(word),
    }
}

/// All names that begin with `prefix`. Not what they mean, which would bring every program of the image into the pool.
pub(crate) fn names(prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    if syscall::name_get(prefix).is_ok() {
        found.push(String::from(prefix));
    }
    let mut last = String::from(prefix);
    let mut buffer = [0; NAME_MAX];
    while let Ok(length) = syscall::name_next(&last, &mut buffer) {
        last = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if !last.starts_with(prefix) {
            break;
        }
        found.push(last.clone());
    }
    found
}
