//! The host's terminal, when people type at one: raw while a program wants single keys, and always as it was at the end.
//!
//! ```text
//! as it was --set(Keys)--> raw --set(Lines), Restored dropped, a signal that kills--> as it was
//! ```
//! # Contract
//! - Only a terminal whose foreground we are is changed: a background job must not be stopped for it.
//! - The machine's end restores it ([`Restored`]); so do the ways to die that pass no destructor: a panic, which aborts, and `SIGQUIT`.
//!   After `SIGKILL` nobody can; `stty sane` helps then.
//! - In raw mode output is still processed: a newline begins a new line.

use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use twz_abi::syscall::ConsoleMode;

const TERMINAL: i32 = libc::STDIN_FILENO;
/// Signals that end the process without a destructor, but let a handler run before.
const DEADLY: [i32; 2] = [libc::SIGABRT, libc::SIGQUIT];

/// How the terminal was before it was changed for the first time.
static BEFORE: OnceLock<libc::termios> = OnceLock::new();
static IS_RAW: AtomicBool = AtomicBool::new(false);

/// Whether keys come unprocessed.
pub(super) fn is_raw() -> bool {
    IS_RAW.load(Ordering::Acquire)
}

/// Changes the mode; returns the terminal's columns (0: unknown), or `None` if there is none that is ours to change.
pub(super) fn set(mode: ConsoleMode) -> Option<u16> {
    let now = attributes()?;
    // SAFETY: takes a descriptor and nothing else.
    let foreground = unsafe { libc::tcgetpgrp(TERMINAL) };
    // SAFETY: takes nothing.
    if foreground != unsafe { libc::getpgrp() } {
        return None;
    }
    let before = BEFORE.get_or_init(|| now);
    match mode {
        ConsoleMode::Lines => restore(),
        ConsoleMode::Keys => {
            install_handlers();
            let mut raw = *before;
            raw.c_iflag &= !(libc::BRKINT | libc::ICRNL | libc::INPCK | libc::ISTRIP | libc::IXON);
            raw.c_lflag &= !(libc::ECHO | libc::ICANON | libc::IEXTEN | libc::ISIG);
            (raw.c_cc[libc::VMIN], raw.c_cc[libc::VTIME]) = (1, 0);
            // Before the change, so that a signal in between restores once too often rather than never.
            IS_RAW.store(true, Ordering::Release);
            // SAFETY: `raw` is what the terminal had, with flags changed.
            unsafe { libc::tcsetattr(TERMINAL, libc::TCSADRAIN, &raw const raw) };
        }
    }
    Some(columns())
}

/// As it was. Async-signal-safe.
fn restore() {
    if let Some(before) = BEFORE.get()
        && IS_RAW.swap(false, Ordering::AcqRel)
    {
        // SAFETY: these are attributes that the terminal had. Not TCSADRAIN: a stopped reader must not keep us.
        unsafe { libc::tcsetattr(TERMINAL, libc::TCSANOW, std::ptr::from_ref(before)) };
    }
}

/// Restores the terminal when dropped.
pub(super) struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        restore();
    }
}

/// The attributes; `None` if standard input is no terminal.
fn attributes() -> Option<libc::termios> {
    let mut attributes = MaybeUninit::uninit();
    // SAFETY: fills in what it is given, if it succeeds.
    let got = unsafe { libc::tcgetattr(TERMINAL, attributes.as_mut_ptr()) };
    // SAFETY: filled in, as it said.
    (got == 0).then(|| unsafe { attributes.assume_init() })
}

fn columns() -> u16 {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: fills in a structure of ours; on failure it stays zero.
    unsafe { libc::ioctl(TERMINAL, libc::TIOCGWINSZ, &raw mut size) };
    size.ws_col
}

extern "C" fn on_deadly(signal: i32) {
    restore();
    // The handler was reset when it was called: the signal now does what it does by default.
    // SAFETY: async-signal-safe.
    unsafe { libc::raise(signal) };
}

fn install_handlers() {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    if INSTALLED.swap(true, Ordering::AcqRel) {
        return;
    }
    for signal in DEADLY {
        // SAFETY: all zeros is a valid `sigaction`.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = on_deadly as extern "C" fn(i32) as usize;
        action.sa_flags = libc::SA_RESETHAND | libc::SA_NODEFER;
        // SAFETY: the handler is async-signal-safe.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
}
