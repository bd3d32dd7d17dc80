//! Processes at a terminal that a test types at.

use crate::process::exit_number;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A process whose standard streams are a terminal, in the foreground of a session of its own; killed when dropped.
#[derive(Debug)]
pub struct AtTerminal {
    /// The side that the test types at.
    keyboard: File,
    /// The process's side, kept open so that its attributes can be looked at after the end.
    line: File,
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
}

/// How the terminal treats keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyModes {
    /// Lines are edited by the terminal.
    pub lines: bool,
    /// Typed keys are shown by the terminal.
    pub echo: bool,
    /// Ctrl-C makes a signal.
    pub signals: bool,
}

impl KeyModes {
    /// How a terminal is until somebody changes it.
    pub const USUAL: Self = Self { lines: true, echo: true, signals: true };
}

/// Starts a command at a terminal of this many columns.
///
/// # Panics
/// If there is no terminal to be had, or the command cannot be started.
pub fn start_at_terminal(command: &Command, columns: u16) -> AtTerminal {
    let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo terminal");
    grantpt(&keyboard).expect("its rights");
    unlockpt(&keyboard).expect("its lock");
    let path = ptsname(&keyboard, Vec::new()).expect("its name");
    let line = rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
    let (keyboard, line) = (File::from(keyboard), File::from(line.expect("its other side")));
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&line, size).expect("a size");
    // `setsid --ctty` makes the terminal the session's own, which takes a system call between fork and exec.
    let mut session = Command::new("setsid");
    session.arg("--ctty").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        session.env(name, value.unwrap_or_default());
    }
    if let Some(directory) = command.get_current_dir() {
        session.current_dir(directory);
    }
    let side = || line.try_clone().expect("a descriptor");
    session.stdin(side()).stdout(side()).stderr(side());
    let child = session.spawn().unwrap_or_else(|error| panic!("cannot start {session:?}: {error}"));
    let shown = Arc::new(Mutex::new(Vec::new()));
    let (mut screen, seen) = (keyboard.try_clone().expect("a descriptor"), Arc::clone(&shown));
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = screen.read(&mut buffer) {
            seen.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
        }
    });
    AtTerminal { keyboard, line, child, shown }
}

impl AtTerminal {
    /// Types these keys.
    ///
    /// # Panics
    /// If the terminal is gone.
    pub fn keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal is there");
    }

    /// Everything shown so far, control sequences included.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Waits until `text` is shown behind the first `from` bytes; returns how many bytes are shown up to its end.
    ///
    /// # Panics
    /// If it is not within 60 s.
    #[track_caller]
    pub fn wait_for(&self, from: usize, text: &str) -> usize {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let shown = self.shown();
            if let Some(at) = shown.get(from..).and_then(|new| new.find(text)) {
                return from + at + text.len();
            }
            assert!(Instant::now() < until, "no {text:?} behind {from} within 60 s in {shown:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// How the terminal treats keys now.
    ///
    /// # Panics
    /// If the terminal does not say.
    pub fn modes(&self) -> KeyModes {
        let local = tcgetattr(&self.line).expect("a terminal").local_modes;
        KeyModes {
            lines: local.contains(LocalModes::ICANON),
            echo: local.contains(LocalModes::ECHO),
            signals: local.contains(LocalModes::ISIG),
        }
    }

    /// Sends a signal to the process alone.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(id.expect("process numbers are positive"), signal).expect("the process is there");
    }

    /// Waits for the end: the exit status, 128 + number for a signal, -1 if it had to be killed.
    pub fn wait(&mut self, limit: Duration) -> i32 {
        let until = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return exit_number(status),
                Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
                _ => return -1,
            }
        }
    }
}

impl Drop for AtTerminal {
    fn drop(&mut self) {
        // It may have ended; there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
